"""A process that serves this one from elsewhere or beside it, as the one that started it sees it: its life and its end.

It is in a session of its own (Ctrl-C in the terminal is the client's) and holds one end of a socket pair: over it comes
one line when it is ready, and its end of file means that the parent is gone, however that happened. Nothing polls a
port, and nothing has to be alive to clean up. Which program it is, is not known here.
"""

from __future__ import annotations

import abc
import os
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from typing import IO, Any

from distributed.config import SETTINGS
from distributed.errors import StartFailed

LAST_WORDS_BYTES_MAX = 4000
LINE_BYTES_MAX = 1 << 16  # of what may come before the line that is waited for, without an end
EXIT_S = 0.5  # from the end of a child's socket to that of its process
CHILDREN: weakref.WeakSet[Child] = weakref.WeakSet()


class Child(abc.ABC):
    """The abstract edge: what it is to start, and what its line means, is said by who inherits."""

    name = "a daemon"

    def __init__(self) -> None:
        self._parent_pid = os.getpid()
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`
        self._ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = self._launch(theirs)
        except BaseException:
            self._ours.close()
            self._output.close()
            raise
        CHILDREN.add(self)

    @abc.abstractmethod
    def _launch(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        """Start it with this end of the socket pair; what it prints goes to `_output`."""

    @abc.abstractmethod
    def _understand(self, line: bytes) -> dict[str, Any] | None:
        """What a line says of it when it is ready; None if that is something else."""

    @abc.abstractmethod
    def ask_to_leave(self) -> None:
        """A worker takes nothing new, hands over what only it holds, and ends."""

    def wait_ready(self, deadline: float | None = None) -> dict[str, Any]:
        """What it says of itself when it is ready; `StartFailed` with its last words if it never is."""
        deadline = time.monotonic() + SETTINGS.start_timeout_s if deadline is None else deadline
        line = b""
        try:
            while True:
                self._ours.settimeout(max(0.001, deadline - time.monotonic()))
                data = self._ours.recv(65536)
                if not data:
                    raise StartFailed(self._why_not_ready())
                *lines, line = (line[-LINE_BYTES_MAX:] + data).split(b"\n")
                for whole in lines:
                    ready = self._understand(whole)
                    if ready is not None:
                        return ready
        except TimeoutError:
            words, took_s = self._last_words(), SETTINGS.start_timeout_s
            said = f"; it said: {words!r}" if words else ", and said nothing"
            raise StartFailed(f"{self.name} was not ready after {took_s:g} s{said}") from None
        except ConnectionError as error:
            raise StartFailed(self._why_not_ready()) from error

    def _why_not_ready(self) -> str:
        """Its end came before it was ready."""
        return self._last_words() or f"{self.name} ended before it was ready, and said nothing"

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        """Readable when it ended."""
        return self._ours.fileno()

    def is_alive(self) -> bool:
        return self._process.returncode is None and self._process.poll() is None

    def why_ended(self) -> str:
        """How it ended, with its last words; empty while it lives."""
        if self.is_alive():
            return ""
        words = [line for line in self._last_words().splitlines() if " INFO " not in line]
        return "\n".join([self._how_it_ended(), *words])

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    @property
    def has_ended_well(self) -> bool:
        """Whether it ended by itself, with nothing to complain of."""
        return self._process.returncode == 0

    @property
    def was_killed(self) -> bool:
        """Whether it ended by a signal."""
        return (self._process.returncode or 0) < 0

    def ask_to_stop(self) -> None:
        """End of file: it ends as on SIGTERM. A forked child of ours must not end what is its parent's."""
        if os.getpid() == self._parent_pid and self._ours.fileno() >= 0:
            try:
                self._ours.shutdown(socket.SHUT_WR)
            except OSError:  # it ended already
                pass
            self._process.send_signal(signal.SIGCONT)  # should it be stopped

    def wait_until_gone(self, deadline: float) -> bool:
        """Whether it ends by itself before the deadline."""
        try:
            while True:  # its end closes when it ends, and nobody else has it
                self._ours.settimeout(max(0.001, deadline - time.monotonic()))
                if not self._ours.recv(65536):
                    break
        except TimeoutError:
            return False
        except OSError:
            pass
        try:
            self._process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            pass
        return True

    def stop(self, deadline: float) -> None:
        """Wait until it ended, and kill it at the deadline."""
        if os.getpid() != self._parent_pid or self._ours.fileno() < 0:
            return
        self.ask_to_stop()
        self.wait_until_gone(deadline)
        self._process.kill()  # nothing happens to one that has ended
        self._process.wait()
        self._ours.close()
        self._output.close()

    def _last_words(self) -> str:
        descriptor = self._output.fileno()
        size = os.fstat(descriptor).st_size
        start = max(0, size - LAST_WORDS_BYTES_MAX)
        return os.pread(descriptor, LAST_WORDS_BYTES_MAX, start).decode(errors="replace").strip()

    def forget(self) -> None:
        """In a forked child: let go of the socket, or it would outlive our parent."""
        self._ours.close()


def _forget_children() -> None:
    for child in list(CHILDREN):
        child.forget()


os.register_at_fork(after_in_child=_forget_children)


def stop(children: Sequence[Child], timeout_s: float, spill_directory: str | None = None) -> None:
    """End all of these at the same time. What was killed with all that would have cleaned up is cleaned up here."""
    deadline = time.monotonic() + timeout_s
    for child in children:
        child.ask_to_stop()
    for child in children:
        child.stop(deadline)
    if any(child.was_killed for child in children):
        from distributed import spilling, stores  # lazy: a quick start needs none of it

        for base in {stores.SHARED_MEMORY, tempfile.gettempdir(), *spilling.candidates(spill_directory)}:
            stores.sweep(base)
