"""The executor of coroutine functions: one event loop, as many tasks at a time as the agent sends.

The same messages as in :mod:`distributed.worker.executor`, the same promises. The progress cell names the task whose
step is being made; while all of them wait, it says that nothing runs.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import socket
from collections import deque
from collections.abc import Coroutine, Generator
from time import monotonic
from typing import Any

from distributed import running
from distributed.config import SETTINGS
from distributed.loop import new_loop_for_tasks
from distributed.running import Running
from distributed.wire.exceptions import note_unpickling
from distributed.wire.messages import NO_ROOM, NOBODY, CancelRunning, Message, NeedRoom, Room, Run, ToTask
from distributed.wire.pickles import CONTEXT
from distributed.wire.values import Packed, pack, unpack_call
from distributed.worker.calls import Functions, Inputs
from distributed.worker.inner import CURRENT, LoopDoor
from distributed.worker.link import Link
from distributed.worker.outcomes import Report, failure, write_into_room
from distributed.worker.progress import Cell


class Watched(Coroutine[Any, Any, Any]):
    """A coroutine whose every step is announced in the progress cell."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], cell: Cell, serial: int) -> None:
        self._coroutine, self._cell, self._serial = coroutine, cell, serial

    def send(self, value: Any) -> Any:
        self._cell.write(self._serial, monotonic())
        try:
            return self._coroutine.send(value)
        finally:
            self._cell.clear()

    def throw(self, *error: Any) -> Any:
        self._cell.write(self._serial, monotonic())
        try:
            return self._coroutine.throw(*error)
        finally:
            self._cell.clear()

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError("a watched coroutine is run by its task and awaited by nobody")


class AsyncExecutor:
    """Runs coroutines side by side until the agent is gone."""

    def __init__(self, task_socket: socket.socket, cell: Cell) -> None:
        self.link, self.cell = Link(task_socket), cell
        self.functions, self.report = Functions(self.cell), Report(self.link.send)
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.running: dict[int, Running] = {}
        self.rooms: deque[asyncio.Future[Room]] = deque()
        self.door = LoopDoor(self.link)
        self._is_flush_due = False

    async def serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.end: asyncio.Future[None] = self.loop.create_future()
        self.loop.add_reader(self.link.socket, self._read)
        await self.end
        self.loop.remove_reader(self.link.socket)

    def _read(self) -> None:
        if not self.link.read_what_is_there() and not self.end.done():
            self.end.set_result(None)
        while self.link.inbox:
            self._handle(self.link.inbox.popleft())

    def _handle(self, message: Message) -> None:
        if isinstance(message, Run):
            self._run(message)
        elif isinstance(message, CancelRunning):
            for serial in message.serials:
                if serial in self.tasks:
                    self.tasks[serial].cancel()
        elif isinstance(message, ToTask):
            if message.serial in self.running:
                self.door.hear(self.running[message.serial], message)
        elif isinstance(message, Room):
            self.rooms.popleft().set_result(message)

    def _run(self, batch: Run) -> None:
        if batch.code or batch.needs:
            self.cell.write(batch.serial, monotonic())
        function = self.functions.prepared(batch.function, batch.code, batch.needs)
        how = self.functions.how
        self.cell.clear()
        for position, payload in enumerate(batch.args):
            serial = batch.serial + position
            self.running[serial] = Running(serial, batch.keys[position], batch.attempts.get(position, 1), how)
            steps = self._run_one(serial, function, payload, batch.inputs.get(position, []), batch.name)
            task = self.loop.create_task(Watched(steps, self.cell, serial), name=batch.keys[position])
            task.add_done_callback(functools.partial(self._done, serial))
            self.tasks[serial] = task

    async def _run_one(self, serial: int, function: Any, payload: bytes, inputs: list[Any], name: str) -> None:
        start = monotonic()
        CURRENT.set(self.running[serial])
        try:
            data, special = await self._result(function, payload, inputs, name, self.running[serial].how)
        except BaseException as error:  # noqa: BLE001  whatever a task raises is its outcome
            self.report.finished.append(failure(serial, error, int((monotonic() - start) * 1e6), own_frames=2))
        else:
            self.report.finished.append((serial, data, int((monotonic() - start) * 1e6), special))

    def _done(self, serial: int, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # before its first step, so that nothing in `_run_one` could tell
            self.report.finished.append(failure(serial, asyncio.CancelledError(), 0, own_frames=0))
        del self.tasks[serial], self.running[serial]
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._is_flush_due:
            self._is_flush_due = True
            self.loop.call_later(SETTINGS.flush_interval_s if self.tasks else 0, self._flush)

    async def _result(self, function: Any, payload: bytes, inputs: list[Any], name: str, how: Any) -> tuple[bytes, Any]:
        try:
            call = unpack_call(payload, Inputs(inputs))
        except BaseException as error:
            note_unpickling(error, f"the arguments of {name} were")
            raise
        value = function(*call[0], **call[1])
        if inspect.isawaitable(value):
            value = await value
        del call
        CONTEXT.how = how  # others ran meanwhile
        packed = pack(value, f"the result of {name}")
        if packed.nbytes <= SETTINGS.inline_bytes_max:
            return packed.tobytes(), ("", packed.nbytes, packed.contains, b"") if packed.contains else None
        return b"", (await self._store(packed), packed.nbytes, packed.contains, b"")

    async def _store(self, packed: Packed) -> str:
        room: asyncio.Future[Room] = self.loop.create_future()
        self.rooms.append(room)  # answers come in the order of the questions
        self.link.send(NeedRoom(packed.nbytes))
        try:
            answer = await asyncio.shield(room)  # not lost when this is cancelled: the order would be
        except asyncio.CancelledError:
            room.add_done_callback(self._give_back)
            raise
        return write_into_room(answer, packed)

    def _give_back(self, room: asyncio.Future[Room]) -> None:
        """The task that asked for it was cancelled meanwhile: the agent hears it as an outcome of nobody's."""
        if path := room.result().path:
            self.report.finished.append((NOBODY, b"", 0, (path, 0, [], NO_ROOM)))
            self._flush_soon()

    def _flush(self) -> None:
        self._is_flush_due = False
        self.report.flush()


def serve_async(task_socket: socket.socket, cell: Cell) -> None:
    """Run coroutines until the agent is gone; those under way are dropped with the process."""
    loop = new_loop_for_tasks()
    asyncio.set_event_loop(loop)
    executor = AsyncExecutor(task_socket, cell)
    running.door = executor.door
    loop.run_until_complete(executor.serve())
