"""Executors from the agent's side: started, talked to, killed, and examined after their death.

The supervisor carries out what the worker's state decides and reports what happened; it decides nothing. It owns the
fork server (see :mod:`distributed.worker.forkserver`), restarts it should it ever die, and never waits for a process
number that could belong to somebody else: the fork server is the parent, and it kills and reaps.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack

from distributed import offspring
from distributed.config import SETTINGS
from distributed.errors import StartFailed
from distributed.quantities import size
from distributed.running import CENTER
from distributed.wire.messages import Message
from distributed.worker.child import Child
from distributed.worker.forkserver import GIVE_UP_TIME_S, PACKET_BYTES_MAX
from distributed.worker.launch import MARK, launch

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """How an executor ended, and what is known about it.

    `signal` is 0 if it was not killed by one; `serial` is the task that was running, None if none was; `stack` is where
    it was, as far as it could still say so. `cause` is 'limit' (it had more memory of its own than a task may) or
    'machine' (the kernel killed for want of memory) where it was killed for that.
    """

    signal: int
    exit_code: int
    peak_bytes: int
    serial: int | None
    stderr_tail: str
    stack: str
    cause: str = ""

    def __str__(self) -> str:
        """The first sentence of an autopsy.

        >>> print(End(signal=11, exit_code=0, peak_bytes=50 << 20, serial=3, stderr_tail='', stack=''))
        killed by signal 11 (SIGSEGV), peak memory 50.0 MiB
        """
        if self.signal:
            names = {number.value: f" ({number.name})" for number in signal.Signals}
            how = f"killed by signal {self.signal}{names.get(self.signal, '')}"
        else:
            how = f"ended with exit code {self.exit_code}"
        return f"{how}, peak memory {size(self.peak_bytes)}"


class Supervisor:
    """All executors of one worker.

    Callbacks run in the event loop: ``on_started(executor_id, pid)``, ``on_message(executor_id, message)``,
    ``on_output(executor_id, stream, text)``, which says whether it was shown, and, last and once for every `spawn`,
    ``on_ended(executor_id, End)``.
    `environment` is added to that of the executors, who are told where the `center` is. `directories` are removed
    should this process die. An executor with more than `task_memory_limit` bytes of its own is killed (0: none is).
    """

    def __init__(
        self,
        on_started: Callable[[int, int], None],
        on_message: Callable[[int, Message], None],
        on_ended: Callable[[int, End], None],
        on_output: Callable[[int, str, str], bool],
        environment: Mapping[str, str] | None = None,
        *,
        center: str = "",
        directories: Sequence[str] = (),
        task_memory_limit: int = 0,
    ) -> None:
        self.on_started, self.on_message, self.on_ended, self.on_output = on_started, on_message, on_ended, on_output
        self.environment, self.directories = dict(environment or {}), list(directories)
        self.center, self.task_memory_limit = center, task_memory_limit
        self.children: dict[int, Child] = {}
        self.is_stopping = self._is_started = False
        self._prepared: set[str] = set()  # modules that the fork server has imported for them
        self._mark = ""
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()

    async def start(self) -> None:
        """Start the fork server; `StartFailed` if it does not come up. Its complaints are on our stderr."""
        if self.is_stopping:
            return
        self._start_fork_server()
        waits = [asyncio.ensure_future(event.wait()) for event in (self._ready, self._ended)]
        await asyncio.wait(waits, timeout=SETTINGS.start_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not self._ready.is_set():
            code = self.process.poll()
            await self.stop()
            how = f"did not answer in {SETTINGS.start_timeout_s:g} s" if code is None else f"ended with code {code}"
            raise StartFailed(f"the process that starts executors {how}")
        self._is_started = True

    def spawn(self, executor_id: int, asynchronous: bool = False) -> None:
        """Start an executor; messages may be sent to it at once.

        `OSError` when this process has no descriptors left, or can start nothing: then there is no `on_ended`.
        """
        if self._ended.is_set():  # it ended twice before it was ready: give it another chance
            self._start_fork_server()
        child = Child(
            functools.partial(self.on_message, executor_id),
            lambda stream, text: self.on_output(executor_id, stream, text),
            lambda: self.kill(executor_id),
        )
        try:
            self._control(["spawn", executor_id, asynchronous], child.descriptors())
        except OSError:
            child.close()
            raise
        finally:
            child.close_their_ends()
        self.children[executor_id] = child

    def prepare(self, module: str) -> None:
        """Executors that are started from now on will use this module."""
        if module not in self._prepared:
            self._prepared.add(module)
            self._control(["prepare", module])

    def send(self, executor_id: int, message: Message) -> None:
        """Send a message to an executor; to one that is dead it goes nowhere, and `on_ended` follows."""
        child = self.children.get(executor_id)
        if child is not None:
            child.send(message)

    def kill(self, executor_id: int) -> None:
        """Kill an executor and all that it started; `on_ended` follows."""
        if executor_id in self.children:
            self._control(["kill", executor_id])

    def running(self, executor_id: int) -> tuple[int, float] | None:
        """What this executor runs now: serial number and start (`time.monotonic`), also while it cannot answer."""
        child = self.children.get(executor_id)
        return child.cell.read() if child is not None else None

    async def stop(self) -> None:
        """End all executors and the fork server. No callback is called from now on."""
        if self.is_stopping:
            return
        self.is_stopping = True
        if not self._mark:  # it was never started
            return
        for child in self.children.values():
            child.close()
        self.children.clear()
        self._close_control()
        self.process.send_signal(signal.SIGCONT)  # should it be stopped
        try:
            await asyncio.wait_for(self._ended.wait(), GIVE_UP_TIME_S + 2.0)
        except TimeoutError:
            log.warning("the fork server did not end; killing it")
            self.process.kill()
            await self._ended.wait()

    # ------------------------------------------------------------------------------------------- the fork server

    def _start_fork_server(self) -> None:
        path = [entry or os.getcwd() for entry in sys.path]
        own_path = self.environment.get("PYTHONPATH", os.environ.get("PYTHONPATH"))
        self.control, self.process, self._exit, self._mark = launch(self.environment)
        self._unsent: list[tuple[bytes, list[int]]] = []
        self._prepared.clear()
        self._ready.clear()
        self._ended.clear()
        settings = {
            "path": path,
            "environment": {"PYTHONPATH": own_path, CENTER: self.center or None},
            "directories": self.directories,
            "limit_bytes": self.task_memory_limit,
        }
        loop = asyncio.get_running_loop()
        loop.add_reader(self.control, self._receive)
        loop.add_reader(self._exit, self._fork_server_ended)
        self._control(["configure", settings])

    def _control(self, message: list[Any], descriptors: Sequence[int] = ()) -> None:
        packet = msgpack.packb(message, unicode_errors="surrogateescape")  # paths may be any bytes
        try:
            if self._unsent:
                raise BlockingIOError
            socket.send_fds(self.control, [packet], descriptors)
            return
        except BlockingIOError:  # it is starting, or very busy
            pass
        except OSError:  # it died: `_fork_server_ended` follows
            return
        kept = _duplicates(descriptors)
        if not self._unsent:
            asyncio.get_running_loop().add_writer(self.control, self._send_rest)
        self._unsent.append((packet, kept))

    def _send_rest(self) -> None:
        while self._unsent:
            packet, descriptors = self._unsent[0]
            try:
                socket.send_fds(self.control, [packet], descriptors)
            except BlockingIOError:
                return
            except OSError:
                break
            self._drop_unsent(1)
        self._drop_unsent(len(self._unsent))
        asyncio.get_running_loop().remove_writer(self.control)

    def _drop_unsent(self, count: int) -> None:
        for _, descriptors in self._unsent[:count]:
            for descriptor in descriptors:
                os.close(descriptor)
        del self._unsent[:count]

    def _receive(self) -> None:
        while True:
            try:
                packet = self.control.recv(PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                asyncio.get_running_loop().remove_reader(self.control)
                return
            self._handle(*msgpack.unpackb(packet))

    def _handle(self, what: str, executor_id: int = 0, number: int = 0, peak_bytes: int = 0, cause: str = "") -> None:
        if what == "ready":
            self._ready.set()
        elif what == "started" and executor_id in self.children:
            self.children[executor_id].pid = number
            self.on_started(executor_id, number)
        elif what == "ended" and executor_id in self.children:
            self._examine(executor_id, os.waitstatus_to_exitcode(number), peak_bytes, cause)

    def _examine(self, executor_id: int, code: int, peak_bytes: int, cause: str = "") -> None:
        """Collect what a dead executor left, and report its end."""
        child = self.children[executor_id]
        running, stack = child.cell.read(), child.cell.stack()
        if not cause and child.cell.initializes:
            cause = "initializer"
        child.finish()
        del self.children[executor_id]
        serial, tail = running[0] if running else None, child.streams[1].last_lines()
        self.on_ended(executor_id, End(max(0, -code), max(0, code), peak_bytes, serial, tail, stack, cause))

    def _close_control(self) -> None:
        if self.control.fileno() < 0:  # closed already, and there is no new one
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.control)
        loop.remove_writer(self.control)
        self._drop_unsent(len(self._unsent))
        self.control.close()

    def _fork_server_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._exit)
        os.close(self._exit)
        code = self.process.wait()
        self._ended.set()
        if self.is_stopping or not self._is_started:
            return
        log.warning("the process that starts executors ended with code %d", code)
        self._receive()
        self._close_control()
        for pid in offspring.carriers(f"{MARK}={self._mark}".encode()):
            offspring.kill(pid)
        orphans = list(self.children)
        for executor_id in orphans:
            if executor_id in self.children:
                self._examine(executor_id, -signal.SIGKILL, 0)


def _duplicates(descriptors: Sequence[int]) -> list[int]:
    """Descriptors of the same files: all of them, or none and an `OSError`."""
    with contextlib.ExitStack() as opened:
        kept = []
        for descriptor in descriptors:
            kept.append(os.dup(descriptor))
            opened.callback(os.close, kept[-1])
        opened.pop_all()
    return kept
