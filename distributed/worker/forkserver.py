"""The process that executors are forked from: single-threaded, clean, everything they need imported already.

It is a child of the agent, which tells it over one socket whom to start and whom to kill, and it is the one that waits
for executors: so a process number is never used after somebody else may have got it. It knows nothing of tasks.

Nothing survives it. Executors ask the kernel to kill them when it dies. Executors and it adopt orphans: what a task
left running, in whatever session, is a child of its executor, and becomes a child of this process when that executor
ends; a child here that is no executor is killed. When the agent is gone (end of file on the socket) it kills
everything, removes the agent's store and ends.

Messages, one msgpack array a packet. To the fork server, the first packet being a `configure`::

    ['configure', {'path': sys.path, 'environment': {name: value or None}, 'directories': [...], 'limit_bytes': n}]
    ['prepare', module]                       import this once, for all that are started from now on
    ['spawn', executor_id, asynchronous]      with four descriptors: task socket, stdout, stderr, cell
    ['kill', executor_id]

and back: ``['ready']``, ``['started', executor_id, pid]``, ``['ended', executor_id, wait_status, peak_bytes, cause]``,
where the cause is 'limit' (it was killed here, because it had more memory than a task may), 'machine' (the kernel
killed it, or somebody at the same time, for want of memory) or nothing.
"""

from __future__ import annotations

import gc
import importlib
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
import types
from typing import Any, NoReturn

import msgpack

from distributed import offspring
from distributed.config import SETTINGS
from distributed.stores import remove_store
from distributed.worker.progress import STACK_SIGNAL
from distributed.worker.scales import NEVER_S, Scales

PACKET_BYTES_MAX = 1 << 17
DESCRIPTORS = 4
STACK_TIME_S = 0.1  # how long it may take for that: a busy machine may not let it run sooner
LEAVE_TIME_S = 0.3  # when the agent is gone: how long an idle executor may take to end by itself
GIVE_UP_TIME_S = 3.0  # and how long we wait for what SIGKILL does not end at once
OPEN_FILES = 65536  # a task may map thousands of inputs


class ForkServer:
    """Starts, kills and reaps executors until the agent at the other end of `control` is gone."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.directories: list[str] = []
        self.executors: dict[int, int] = {}  # process id -> executor id
        self.pids: dict[int, int] = {}  # and back
        self.doomed: dict[int, float] = {}  # process id -> when to kill it
        self.gluttons: set[int] = set()  # of those the ones that had more memory than a task may
        self.scales = Scales()
        self.is_closing = False
        self.wake, wake_writer = socket.socketpair()
        for end in (self.wake, wake_writer):
            end.setblocking(False)
        self._wake_writer = wake_writer
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake_writer.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        """Work until the agent is gone, then until all that it started is gone."""
        self.send(["ready"])
        while not self.is_closing:
            readable, _, _ = select.select([self.control, self.wake], [], [], self.time_left())
            if self.control in readable:
                self.receive()
            self.attend()
        give_up = time.monotonic() + LEAVE_TIME_S + GIVE_UP_TIME_S
        while (self.executors or offspring.children()) and time.monotonic() < give_up:
            select.select([self.wake], [], [], min(self.time_left() or 0.1, 0.1))
            self.attend()
        for directory in self.directories:
            remove_store(directory)

    def attend(self) -> None:
        """What has to be done whenever something happened or became due."""
        try:
            while self.wake.recv(4096):
                pass
        except BlockingIOError:
            pass
        now = time.monotonic()
        if now >= self.scales.due_s:
            for pid in self.scales.weigh(self.executors.keys() - self.doomed.keys(), now):
                self.gluttons.add(pid)
                self.kill(self.executors[pid])
        for pid in [pid for pid, due in self.doomed.items() if due <= now]:
            del self.doomed[pid]
            offspring.kill_group(pid)
        self.reap()

    def time_left(self) -> float | None:
        due_s = min((self.scales.due_s if self.executors else NEVER_S, *self.doomed.values()))
        return max(0.0, due_s - time.monotonic()) if due_s < NEVER_S else None

    def send(self, message: list[Any]) -> None:
        try:
            self.control.send(msgpack.packb(message))
        except OSError:
            self.close()

    def receive(self) -> None:
        try:
            packet, descriptors, _, _ = socket.recv_fds(self.control, PACKET_BYTES_MAX, DESCRIPTORS)
        except OSError:
            packet, descriptors = b"", []
        if not packet:
            self.close()
            return
        operation, *arguments = msgpack.unpackb(packet, unicode_errors="surrogateescape")
        if operation == "spawn":
            self.spawn(arguments[0], arguments[1], descriptors)
        elif operation == "kill":
            self.kill(arguments[0])
        elif operation == "configure":
            self.configure(arguments[0])
        elif operation == "prepare":
            self.prepare(arguments[0])

    def prepare(self, module: str) -> None:
        """Import what executors that are started from now on will use: it takes longer than to start one."""
        try:
            importlib.import_module(module)
        except Exception:  # noqa: BLE001  they will see it themselves
            traceback.print_exc()
        gc.freeze()

    def configure(self, settings: dict[str, Any]) -> None:
        sys.path[:] = settings["path"]
        self.directories = settings["directories"]
        if self.directories:  # executors may keep in the first what should go when the worker goes
            os.environ["DISTRIBUTED_STORE"] = self.directories[0]
        self.scales = Scales(settings["limit_bytes"])
        for name, value in settings["environment"].items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def spawn(self, executor_id: int, asynchronous: bool, descriptors: list[int]) -> None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            os.write(descriptors[2], f"cannot start it: {error.strerror}".encode())  # its stderr, which its agent reads
            self.send(["ended", executor_id, 1 << 8, 0])
            return
        finally:
            if os.getpid() == parent:
                for descriptor in descriptors:
                    os.close(descriptor)
        if pid == 0:
            self.become_executor(parent, executor_id, asynchronous, descriptors)
        try:
            os.setpgid(pid, pid)  # both sides do it, so that it is done whoever comes first
        except OSError:
            pass
        self.executors[pid], self.pids[executor_id] = executor_id, pid
        self.send(["started", executor_id, pid])

    def become_executor(self, parent: int, executor_id: int, asynchronous: bool, descriptors: list[int]) -> NoReturn:
        """The child's side of the fork: never returns."""
        status = 1
        try:
            os.setpgid(0, 0)
            offspring.set_death_signal()
            if os.getppid() != parent:
                os._exit(1)
            offspring.adopt_orphans()
            offspring.prefer_to_kill(SETTINGS.executor_oom_score)
            offspring.set_name(f"executor-{executor_id}")
            signal.set_wakeup_fd(-1)
            for inherited in (self.control, self.wake, self._wake_writer):
                inherited.close()
            task, stdout, stderr, cell = descriptors
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            os.close(stdout)
            os.close(stderr)
            _restore_process()
            from distributed.worker.executor import run_executor

            status = run_executor(task, cell, asynchronous)
        except BaseException:  # noqa: BLE001  the frames below belong to another process
            traceback.print_exc()
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)

    def kill(self, executor_id: int) -> None:
        """Kill an executor with its group, after it had a moment to write down where it is."""
        pid = self.pids.get(executor_id)
        if pid is not None and pid not in self.doomed:
            offspring.kill(pid, STACK_SIGNAL)
            self.doomed[pid] = time.monotonic() + STACK_TIME_S

    def close(self) -> None:
        """The agent is gone: idle executors notice by themselves, the others are killed."""
        if not self.is_closing:
            self.is_closing = True
            due = time.monotonic() + LEAVE_TIME_S
            self.doomed = {pid: min(due, self.doomed.get(pid, due)) for pid in self.executors}

    def reap(self) -> None:
        """Wait for all that ended, and kill what they left."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                break
            pid = ended.si_pid
            if pid in self.executors:
                offspring.kill_group(pid)  # before it is waited for: until then nobody else can have its number
            _, status, usage = os.wait4(pid, 0)
            if pid in self.executors:
                self.bury(pid, status, usage.ru_maxrss * 1024)
        for pid in offspring.children():
            if pid not in self.executors:
                offspring.kill(pid)  # its own children come to us when it is dead: then it is their turn

    def bury(self, pid: int, status: int, peak_bytes: int) -> None:
        """An executor was waited for: tell how it ended."""
        executor_id = self.executors.pop(pid)
        del self.pids[executor_id]
        own_peak_bytes = self.scales.peak(pid)
        cause = ""
        if pid in self.gluttons:
            cause, peak_bytes = "limit", own_peak_bytes
        elif pid not in self.doomed and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            cause = "machine" if self.scales.machine_ran_out() else ""
        self.gluttons.discard(pid)
        self.doomed.pop(pid, None)
        self.send(["ended", executor_id, status, peak_bytes, cause])


def _restore_process() -> None:
    """Give an executor what a fresh Python process has: signals, streams, an empty ``__main__``."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sys.argv = ["executor"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def main(arguments: list[str] | None = None) -> None:
    """Serve the agent whose socket is the descriptor given as the only argument."""
    (descriptor,) = sys.argv[1:] if arguments is None else arguments
    control = socket.socket(fileno=int(descriptor))
    control.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's business
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(STACK_SIGNAL, signal.SIG_IGN)  # until an executor is ready for it
    offspring.set_death_signal(signal.SIGCONT)  # the agent's end is to be noticed also by one that is stopped
    offspring.adopt_orphans()
    offspring.set_name("dworker-fork")
    import distributed.worker.executor  # noqa: F401  once here instead of once in every executor

    gc.collect()
    gc.freeze()  # or a collection in an executor would copy every page that it inherited
    ForkServer(control).serve()


if __name__ == "__main__":
    main()
