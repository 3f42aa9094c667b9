"""Workers on other machines, started by the system's ssh, whose connection is also their only way back to the center.

For each machine there is one ssh process here. It asks for nothing (``BatchMode``), takes the user's own configuration,
and has the sshd there listen at a Unix socket that leads to the center's port: so nothing listens for the network at
either end. What the far end needs, the secret included, goes over ssh's input; what it says comes over its output; the
end of either is the end of the worker (see :mod:`distributed.cluster.far_end`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import secrets
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from distributed import address as addresses
from distributed.cluster import keys
from distributed.cluster.child import Child, stop
from distributed.cluster.hosts import SshHost
from distributed.cluster.launcher import without_rank
from distributed.cluster.preamble import LEAVE, MARK
from distributed.config import SETTINGS
from distributed.errors import StartFailed
from distributed.pool.interrupts import deferred_signals
from distributed.version import __version__

log = logging.getLogger("distributed.ssh")

COMMAND_VARIABLE = "DISTRIBUTED_SSH_COMMAND"
PROBES = 3  # that the sshd there may leave without an answer
LAST_LINES = 5  # of what the far end printed, in an error
SSH_FAILED = 255  # ssh's exit code for what is not the remote command's
NO_PYTHON = 127
PYTHON = "{}.{}".format(*sys.version_info)
OPTIONS = {
    "BatchMode": "yes",  # nobody could type a password
    "ControlPath": "none",  # a connection that is shared would live longer than this process
    "ExitOnForwardFailure": "no",  # others may be in the user's configuration, and ours is looked at by the far end
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "LogLevel": "ERROR",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "ServerAliveCountMax": str(PROBES),
}
# Read by whatever shell the user has there, so it has neither a single quote nor a backslash nor an exclamation mark.
# $0 is the socket, the others are Pythons. The first that has the package is taken, or else the first that is there, to
# say what is wrong with it. It reads no byte beyond its two lines: what follows them is for the far end.
SCRIPT = (
    "export PYTHONSAFEPATH=1; "
    'run() { "$1" -c "import io; exec(eval(io.FileIO(0, closefd=False).readline()))"; end $?; }; '
    'end() { rm -f "$0"; exit $1; }; '
    'for p in "$@"; do "$p" -c "import distributed.version" </dev/null >/dev/null 2>&1 && run "$p"; done; '
    'for p in "$@"; do command -v "$p" >/dev/null 2>&1 && run "$p"; done; '
    f'echo "no Python there goes by the name of" "$@" >&2; end {NO_PYTHON}'
)
ADVICE = {
    "Permission denied": "nobody is asked for a password here: `ssh {place} true` must work without one, by a key of "
    "~/.ssh or ssh-agent",
    "Host key verification failed": "log in there once by hand, to confirm or correct its key: ssh {place}",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Wishes:
    """What is the same for all of the workers: where their center is, and options of ``dworker``."""

    center: str
    options: tuple[str, ...] = ()
    ncores: int = 0  # where the host says nothing


class SshWorker(Child):
    """A worker at the far end, as the ssh process that leads there."""

    def __init__(self, host: SshHost, wishes: Wishes, secret: str, credential: str) -> None:
        self.name, self._host = host.name, host
        self._socket = f"/tmp/distributed-{secrets.token_hex(16)}{addresses.TUNNEL_SUFFIX}"
        self._center = _reached_at(wishes.center)
        self._said: list[str] = []
        self._is_ready = False
        self._is_over = False  # as we wanted it: no reason to complain
        self.deadline = time.monotonic() + SETTINGS.start_timeout_s
        self._watcher = threading.Thread(target=self._watch, name=f"distributed {host.name}", daemon=True)
        super().__init__()
        with contextlib.suppress(OSError):  # it ended already, and will say why
            self._ours.sendall(self._program(wishes, secret, credential))

    def _launch(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        command = ssh_command()
        try:
            return subprocess.Popen(
                [*command, *self._arguments()],
                start_new_session=True,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._output,
                env=without_rank(os.environ),
            )
        except OSError as error:
            raise StartFailed(
                f"{self.name}: there is no program {command[0]!r} here ({error.strerror}): install OpenSSH's client, "
                f"or name it in {COMMAND_VARIABLE}"
            ) from error

    def _arguments(self) -> list[str]:
        host = self._host
        options = {
            **OPTIONS,
            "ConnectTimeout": str(max(1, round(SETTINGS.connect_timeout_s))),
            "ServerAliveInterval": str(max(1, round(SETTINGS.silent_worker_s / PROBES))),
        }
        arguments = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        arguments += ["-R", f"{self._socket}:{self._center}", *(["-p", str(host.port)] if host.port else [])]
        own = [sys.executable] if sys.executable else []
        pythons = [host.python] if host.python else list(dict.fromkeys([*own, f"python{PYTHON}", "python3"]))
        pythons = [f".{python[1:]}" if python.startswith("~/") else python for python in pythons]  # we begin at home
        words = ["exec", "/bin/sh", "-c", f"'{SCRIPT}'", self._socket, *map(shlex.quote, pythons)]
        destination = f"{host.user}@{host.host}" if host.user else host.host
        return [*arguments, "--", destination, " ".join(words)]

    def _program(self, wishes: Wishes, secret: str, credential: str) -> bytes:
        """Two lines: a program for the Python there, and its input, of which no traceback must show anything."""
        ncores, host = self._host.ncores or wishes.ncores, self._host.host
        options = ["--name", self.name]
        if not (":" in host or addresses.is_loopback(host)):  # else it goes by the name that it knows itself
            options += ["--announce", host]
        options += [*(["--ncores", str(ncores)] if ncores else []), *wishes.options]
        plan = {
            "version": __version__,
            "python": PYTHON,
            "socket": self._socket,
            "center": self._center,
            "secret": secret,
            "credential": credential,
            "environment": _settings(),
            "options": options,
        }
        preamble = files("distributed.cluster").joinpath("preamble.py").read_text("utf-8")
        program = f"{preamble}\nbegin(json.loads(io.FileIO(0, closefd=False).readline().decode()))\n"
        return f"{program!a}\n{json.dumps(plan)}\n".encode("ascii")

    def _understand(self, line: bytes) -> dict[str, Any] | None:
        text = line.decode(errors="replace").strip()
        ready = _told(text)
        if "error" in ready:
            raise StartFailed(f"{self.name}: {ready['error']}")
        if "address" in ready:
            self._is_ready = True
            self._watcher.start()
            return ready
        self._said = [*self._said, text][-LAST_LINES:]
        return None

    def _why_not_ready(self) -> str:
        self.wait_until_gone(time.monotonic())
        said = self._last_lines() or [f"ssh {self._how_it_ended()}" if not self.is_alive() else "it closed its output"]
        return f"{self.name}: " + "\n".join(said)

    def _last_lines(self) -> list[str]:
        """What ssh or the far end complained of last; with advice if that is known well."""
        lines = [line.strip() for line in self._last_words().splitlines() if line.strip()]
        for line in reversed(lines if self._process.returncode == SSH_FAILED else []):
            for complaint, advice in ADVICE.items():
                if complaint in line:
                    place = f"{self._host.user}@{self._host.host}" if self._host.user else self._host.host
                    place = f"-p {self._host.port} {place}" if self._host.port else place
                    return [f"{line.rstrip('.')}: {advice.format(place=place)}"]
        if self._process.returncode == SSH_FAILED:
            return lines[-1:]
        return (lines or self._said)[-LAST_LINES:]

    def ask_to_leave(self) -> None:
        """The worker takes nothing new, hands over what only it holds, and ends."""
        if os.getpid() == self._parent_pid:
            self._is_over = True
            with contextlib.suppress(OSError):
                self._ours.sendall(LEAVE)

    def ask_to_stop(self) -> None:
        self._is_over = True
        super().ask_to_stop()

    def stop(self, deadline: float) -> None:
        if os.getpid() == self._parent_pid and self._ours.fileno() >= 0:
            self.ask_to_stop()
            if self._is_ready:  # else it may be connecting, and not look at its input: its end will be noticed there
                self.wait_until_gone(deadline)
            self._process.kill()
            if self._watcher.is_alive():
                self._watcher.join()  # before what it reads from is closed
            super().stop(deadline)

    def _watch(self) -> None:
        """Tell when it ends although nobody asked for that: its tasks move, but a person wants to know why."""
        self._process.wait()
        if not self._is_over:
            why = "\n".join(self._last_lines()) or f"ssh {self._how_it_ended()}"
            log.warning("lost the worker of %s: %s", self.name, why)


def _told(text: str) -> dict[str, Any]:
    """What a line of the far end says; nothing if it comes from something else there.

    >>> _told('distributed: {"address": "maxi:40123"}'), _told('Welcome to maxi!'), _told('distributed: 2 updates')
    ({'address': 'maxi:40123'}, {}, {})
    """
    try:
        told = json.loads(text.removeprefix(MARK)) if text.startswith(MARK) else {}
    except ValueError:
        told = {}
    return told if isinstance(told, dict) else {}


def ssh_command() -> list[str]:
    """The program that connects, with options of the user's: ``ssh``, or what DISTRIBUTED_SSH_COMMAND says."""
    named = os.environ.get(COMMAND_VARIABLE, "ssh")
    try:
        command = shlex.split(named)
    except ValueError as error:
        raise StartFailed(f"{COMMAND_VARIABLE}={named!r} is no command: {error}") from None
    if not command:
        raise StartFailed(f"{COMMAND_VARIABLE} is empty: leave it out, or write a command, such as ssh -F my_config")
    return command


def _reached_at(center: str) -> str:
    """Where ssh connects to for the far end; also whom the far end means then.

    >>> _reached_at('0.0.0.0:8787'), _reached_at('127.0.0.1:8787')
    ('127.0.0.1:8787', '127.0.0.1:8787')
    """
    host, port = addresses.parse(center)
    return addresses.unparse(addresses.EVERYWHERE.get(host, host), port)


def _settings() -> dict[str, str]:
    """What the environment changes in our settings is changed in those of what we start."""
    names = {f"DISTRIBUTED_{field.name.upper()}" for field in dataclasses.fields(SETTINGS)}
    return {name: value for name, value in os.environ.items() if name in names}


def start_workers(hosts: Sequence[SshHost], wishes: Wishes) -> dict[str, SshWorker]:
    """Start a worker on each of these, many at a time; by address, when all are ready.

    If one does not start none of them stays, and `StartFailed` tells of each that did not.
    """
    workers: list[SshWorker] = []
    started: dict[str, SshWorker] = {}
    failures: list[str] = []
    waiting = list(hosts)
    try:
        secret, credential = keys.at_hand()
        for number in range(len(hosts)):
            while waiting and len(workers) < number + max(1, SETTINGS.ssh_starting_max):
                with deferred_signals():  # or one that begins could be forgotten
                    workers.append(SshWorker(waiting.pop(0), wishes, secret, credential))
            try:
                worker = workers[number]
                started[worker.wait_ready(worker.deadline)["address"]] = worker
            except StartFailed as error:
                failures.append(str(error))
        if failures:
            raise StartFailed("\n".join(failures))
    except BaseException:
        stop(workers, SETTINGS.close_timeout_s)
        raise
    return started
