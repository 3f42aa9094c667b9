"""The cluster that is broken: a center and workers as processes, what belongs to each of them, and how to hurt it.

Knows the kernel's ways (signals, process trees, sockets of other processes, a file system of its own) and nothing of
when or why. What this machine does not allow is found out at the start.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from distributed.cluster.local import Daemon
from distributed.errors import StartFailed

STORE_BYTES = 128 << 20
MEMORY_LIMIT = "24MiB"  # of each worker: large results are spilled now and then
EXECUTORS = 2
START_S = 60.0
PIDFD_GETFD = 438  # the same on every architecture
CLONE_NEWNS = 0x00020000
_LIBC = ctypes.CDLL(None, use_errno=True)


def children() -> dict[int, list[int]]:
    """The processes of this machine by parent."""
    found: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended
                continue
            found.setdefault(int(fields[1]), []).append(int(entry))
    return found


def descendants(pid: int) -> list[int]:
    """All processes below this one, the nearest first."""
    by_parent, found, look = children(), [], [pid]
    while look:
        below = by_parent.get(look.pop(0), [])
        found += below
        look += below
    return found


class Process:
    """A process by descriptor: a signal never hits another one that got its number."""

    def __init__(self, pid: int) -> None:
        self.pid, self._descriptor = pid, os.pidfd_open(pid)

    def send(self, number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self._descriptor, number)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        os.close(self._descriptor)


def send_all(pids: list[int], number: signal.Signals) -> None:
    """To those that are still there."""
    for pid in pids:
        try:
            process = Process(pid)
        except ProcessLookupError:
            continue
        process.send(number)
        process.close()


def connected_sockets(pid: int) -> Iterator[socket.socket]:
    """Duplicates of a process's connections to other members; its private socket pairs have no names."""
    process = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                    continue
            except OSError:
                continue
            descriptor = _LIBC.syscall(PIDFD_GETFD, process, int(name), 0)
            if descriptor < 0:
                if ctypes.get_errno() != 9:  # EBADF: it was closed meanwhile
                    raise PermissionError(ctypes.get_errno(), "taking another process's socket")
                continue
            taken = socket.socket(fileno=descriptor)
            try:
                if taken.getpeername() or taken.getsockname():
                    yield taken
            except OSError:  # it listens
                pass
            finally:
                taken.close()
    finally:
        os.close(process)


def private_file_system(directory: Path) -> str:
    """Mount a small tmpfs that only this process and its children see, and that ends with them; or why not."""
    if os.geteuid() != 0:
        return "filling a store needs root, for a small file system of its own"
    if _LIBC.unshare(CLONE_NEWNS) != 0:
        return f"no private mounts here: {os.strerror(ctypes.get_errno())}"
    for command in (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", f"size={STORE_BYTES}", "chaos", str(directory)],
    ):
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode != 0:
            return f"no tmpfs of its own here: {ran.stderr.strip()}"
    return ""


class Member:
    """A worker: its daemon, and whether it is ready. A thread waits for that."""

    def __init__(self, name: str, cluster: Daemons) -> None:
        self.name, self.cluster = name, cluster
        self.address = ""
        self.failure = ""
        self.daemon = self._start()
        self.starting = threading.Thread(target=self._wait, name=f"start of {name}")
        self.starting.start()

    def _start(self) -> Daemon:
        places = ["--directory", str(self.cluster.stores), "--spill-directory", str(self.cluster.spill)]
        limits = ["--ncores", str(EXECUTORS), "--memory-limit", MEMORY_LIMIT]
        return Daemon("worker", self.cluster.center_address, *places, *limits)

    def _wait(self) -> None:
        """A center that is killed or stopped meanwhile may end a start: it is tried again, as an operator would."""
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                self.address = str(self.daemon.wait_ready()["address"])
                return
            except StartFailed as failed:
                self.daemon.stop(time.monotonic())
                if time.monotonic() > deadline_s:
                    self.failure = str(failed)
                    return
                self.daemon = self._start()

    @property
    def pid(self) -> int:
        return self.daemon._process.pid

    def is_ready(self) -> bool:
        return bool(self.address) and self.daemon.is_alive()

    def executors(self) -> list[int]:
        """Children of the fork server, which is the agent's child."""
        by_parent = children()
        return [pid for server in by_parent.get(self.pid, []) for pid in by_parent.get(server, [])]


class Daemons:
    """A center and its workers, which come and go."""

    def __init__(self, home: Path, n_workers: int) -> None:
        self.stores, self.spill = home / "stores", home / "spill"
        self.spill.mkdir()
        self.members: list[Member] = []
        self.started = 0
        self.center = Daemon("center", "--port", "0")
        self.center_address = str(self.center.wait_ready()["address"])
        for _ in range(n_workers):
            self.add()
        for member in self.members:
            member.starting.join()

    def add(self) -> Member:
        self.started += 1
        self.members.append(Member(f"worker {self.started}", self))
        return self.members[-1]

    def bury(self, member: Member, pids: list[int]) -> None:
        """Kill these of its processes, and wait for the end of its agent."""
        self.members.remove(member)
        send_all(pids, signal.SIGKILL)
        member.daemon._process.wait()
        member.daemon.stop(time.monotonic())

    def restart_center(self) -> None:
        """Kill -9, and another one on the same address."""
        _, _, port = self.center_address.rpartition(":")
        self.center._process.kill()
        self.center._process.wait()
        self.center.stop(time.monotonic())
        self.center = Daemon("center", "--port", port)
        self.center.wait_ready()

    def died_alone(self) -> list[str]:
        """Daemons that ended though nobody killed them, with their last words."""
        found = [f"the center ended by itself: {self.center._last_words()}"] if not self.center.is_alive() else []
        for member in self.members:
            if member.failure:
                found.append(f"{member.name} did not start: {member.failure}")
            elif member.address and not member.daemon.is_alive():
                found.append(f"{member.name} ended by itself: {member.daemon._last_words()}")
        return found

    def words(self) -> list[str]:
        """What the living daemons have said last."""
        said = [("center", self.center)] + [(member.name, member.daemon) for member in self.members]
        return [f"--- {name}:\n{daemon._last_words()}" for name, daemon in said if daemon.is_alive()]

    def close(self, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        for member in self.members:
            member.starting.join(START_S)
            member.daemon.ask_to_stop()
        for member in self.members:
            member.daemon.stop(deadline_s)
        self.center.stop(time.monotonic() + timeout_s)


@contextlib.contextmanager
def ballast(directory: Path) -> Iterator[int]:
    """All the room that is left in this file system is taken meanwhile."""
    path = directory / "ballast"
    with path.open("wb") as file:
        try:
            space = os.statvfs(directory)
            taken = space.f_bavail * space.f_frsize
            while taken >= space.f_frsize:
                try:
                    os.posix_fallocate(file.fileno(), 0, taken)
                    break
                except OSError:  # somebody was faster
                    taken //= 2
            yield taken
        finally:
            path.unlink()


def pick_socket(pids: list[int], dice: random.Random) -> tuple[int, str] | None:
    """Shut down one connection, in both directions, of one of these processes; whose, and to whom."""
    pid = dice.choice(pids)
    count = sum(1 for _ in connected_sockets(pid))
    if not count:
        return None
    wanted = dice.randrange(count)
    for index, connection in enumerate(connected_sockets(pid)):
        if index == wanted:
            try:
                ends = f"{connection.getsockname() or '-'} to {connection.getpeername() or '-'}"
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                return None
            return pid, ends
    return None
