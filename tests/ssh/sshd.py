"""A real sshd on this machine, for one user and one key, with everything that belongs to it in one directory.

What it starts carries a mark in its environment, by which it is found wherever it got to. `Sshd.marked` are those
processes: after a test there must be none.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distributed import offspring

ROOT = Path(__file__).parents[2]
MARK = "DISTRIBUTED_TEST_SSHD"
SERVER = """\
ListenAddress {host}
Port {port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
PidFile none
StrictModes no
UsePAM {pam}
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
SetEnv {environment}
{more}
"""
CLIENT = """\
Host maxi
  HostName {host}
  Port {port}
Host maxi {host} localhost
  IdentityFile {directory}/user_key
  IdentitiesOnly yes
  UserKnownHostsFile {directory}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  User {user}
"""


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port


@functools.cache
def another_memory() -> tuple[str, ...]:
    """What gives a program a shared memory that others do not see, as on another machine; nothing where it cannot be.

    A worker with another memory is reached through ssh alone: nobody connects to the port on which it listens.
    """
    prefix = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh")
    can = os.geteuid() == 0 and shutil.which("unshare")
    if can and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
        return prefix
    return ()


class Sshd:
    """Listens from its making on, at `host` and `port`; `command` is the ssh that has its keys."""

    def __init__(
        self,
        directory: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        prefix: tuple[str, ...] | None = None,
        more: str = "",
        **environment: str,
    ) -> None:
        self.directory, self.host, self.mark = directory, host, f"{MARK}={directory}"
        self.port = port or free_port()
        self.prefix = another_memory() if prefix is None else prefix
        directory.mkdir(parents=True, exist_ok=True)
        for key in ("host_key", "user_key"):
            self._run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key))
        shutil.copy(directory / "user_key.pub", directory / "authorized_keys")
        host_key = (directory / "host_key.pub").read_text()
        known = f"[{host}]:{self.port}" if self.port != 22 else host
        (directory / "known_hosts").write_text(f"{known} {host_key}")
        path = os.pathsep.join(
            filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
        )  # the tests' functions are there
        carried = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environment}
        words = " ".join([self.mark, *(f'"{name}={value}"' for name, value in carried.items())])
        pam = (
            "no" if os.geteuid() == 0 else "yes"
        )  # who cannot read /etc/shadow takes every account for locked without it
        config = SERVER.format(host=host, port=self.port, directory=directory, environment=words, more=more, pam=pam)
        (directory / "sshd_config").write_text(config)
        (directory / "ssh_config").write_text(
            CLIENT.format(directory=directory, user=getpass.getuser(), host=host, port=self.port)
        )
        if os.geteuid() == 0:  # where it changes into for what it does before it knows who is there
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert sshd is not None
        self.log = directory / "log"
        with self.log.open("wb") as log:
            command = [*self.prefix, sshd, "-D", "-e", "-f", str(directory / "sshd_config")]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        self._wait_until_it_listens()

    @staticmethod
    def _run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + 30
        while "Server listening" not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    @property
    def command(self) -> str:
        return f"ssh -F {self.directory}/ssh_config"

    def url(self, ncores: int | str = "", python: str = sys.executable) -> str:
        """Workers there, for `Pool`."""
        return f"ssh://{self.host}:{self.port}" + (f"/{ncores}" if ncores else "") + f"?python={python}"

    def marked(self) -> list[int]:
        """The processes there that it started, and those that they started, however they try to hide."""
        return offspring.carriers(self.mark.encode())

    def sessions(self) -> list[int]:
        """Its own processes, one or two for each connection."""
        return [pid for pid in offspring.descendants(self.process.pid) if name_of(pid) in ("sshd", "sshd-session")]

    def close(self) -> None:
        pids = [self.process.pid, *self.sessions()]
        for pid in pids:
            for number in (signal.SIGCONT, signal.SIGTERM):
                offspring.kill(pid, number)
        self.process.wait()


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def wait_for_end(pids: list[int], timeout_s: float = 30.0) -> list[int]:
    """Those of these processes that are still there when the time is over."""
    deadline, left = time.monotonic() + timeout_s, []
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                left.append(pid)
        finally:
            os.close(descriptor)
    return left


def why_not() -> str:
    """Why there can be no sshd here; empty if there can."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in ("ssh", "sshd", "ssh-keygen") if shutil.which(name, path=path) is None]
    return f"there is no {missing[0]} here (openssh-client, openssh-server)" if missing else ""


@contextlib.contextmanager
def sshd(directory: Path, **options: Any) -> Iterator[Sshd]:
    """One that ends with the test, and whose processes have ended by then."""
    if reason := why_not():
        pytest.skip(reason)
    server = Sshd(directory, **options)
    try:
        yield server
        left = wait_for_end(server.marked())
        assert not left, [f"{pid}: {name_of(pid)}" for pid in left]
    finally:
        server.close()
        for pid in server.marked():
            offspring.kill(pid)
