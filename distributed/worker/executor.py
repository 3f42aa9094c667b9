"""The child that runs user code: a blocking loop over one socket, and nothing beside it.

It owns no data and decides nothing. It runs what `Run` messages say, in their order, tells the progress cell what it
runs, and sends `Outcomes`. It ends when its agent does: at end of file. Everything that a task raises is an outcome,
`SystemExit` and `KeyboardInterrupt` included; only what ends the process itself is not.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import os
import pickle
import socket
import sys
from time import monotonic
from typing import Any

from distributed import running
from distributed.config import SETTINGS
from distributed.wire.exceptions import note_unpickling
from distributed.wire.messages import Message, NeedRoom, Outcomes, Room, Run
from distributed.wire.values import Packed, pack, unpack_call
from distributed.worker.calls import Functions, Inputs
from distributed.worker.inner import PlainDoor
from distributed.worker.link import Link
from distributed.worker.outcomes import Report, failure, write_into_room
from distributed.worker.progress import STACK_SIGNAL, Cell, write_into

ATOMS = frozenset({int, float, bool, type(None)})  # packed, they are their plain pickle


class Executor:
    """Runs tasks one after the other until the agent is gone."""

    def __init__(self, task_socket: socket.socket, cell: Cell) -> None:
        self.link, self.cell = Link(task_socket), cell
        self.functions, self.report = Functions(self.cell), Report(self._tell)
        self.door = PlainDoor(self.link, self.report, cell, self.functions)

    def _tell(self, outcomes: Message) -> None:
        """Send outcomes. Where that cannot be because a task closed our descriptors, it is as if it had ended us.

        Which of those that ended just now did so nobody knows: the last one is held responsible.
        """
        try:
            self.link.send(outcomes)
        except OSError as error:
            assert isinstance(outcomes, Outcomes)
            self.cell.write(outcomes.serials[-1], monotonic())
            with contextlib.suppress(OSError, ValueError):
                print(f"a task closed the connection of its executor ({error.strerror})", file=sys.stderr, flush=True)
            os._exit(1)

    def serve(self) -> None:
        while (message := self.link.receive()) is not None:
            if isinstance(message, Run):
                self.run(message)
                del message
                self.door.leave()
                self.cell.clear()
                self.report.rest()
        self.report.close()

    def run(self, batch: Run) -> None:
        """The hot loop, about two microseconds a task: one reading of the clock ends a task and begins the next."""
        self.door.batch = batch
        if batch.code or batch.needs:  # what is imported or run now is the first task's affair
            self.cell.write(batch.serial, monotonic())
        function = self.functions.prepared(batch.function, batch.code, batch.needs)
        if len(batch.args) > 1:
            self.report.watch()
        inputs, memory, name, append = batch.inputs, self.cell.memory, batch.name, self.report.finished.append
        interval, held_since = SETTINGS.flush_interval_s, monotonic()
        start = held_since
        self.door.rest = calls = enumerate(batch.args, batch.serial)  # a task that waits takes what is left
        for serial, payload in calls:
            write_into(memory, 0, serial + 1, start)
            try:
                data, special = self._run_one(function, payload, inputs.get(serial - batch.serial), name)
            except BaseException as error:  # noqa: BLE001  whatever a task raises is its outcome
                end = monotonic()
                append(failure(serial, error, int((end - start) * 1e6), own_frames=2))
            else:
                end = monotonic()
                append((serial, data, int((end - start) * 1e6), special))
            start = end
            if end - held_since > interval:
                self.cell.clear()
                self.report.flush()
                self.report.watch()
                start = held_since = monotonic()

    def _run_one(self, function: Any, payload: bytes, inputs: list[Any] | None, name: str) -> tuple[bytes, Any]:
        """One task, in a frame of its own: what it held is free when the frame is gone."""
        try:
            call = unpack_call(payload) if inputs is None else unpack_call(payload, Inputs(inputs))
        except BaseException as error:
            note_unpickling(error, f"the arguments of {name} were")
            raise
        value = function(*call[0], **call[1])
        if type(value) in ATOMS:
            return pickle.dumps(value, 5), None
        del call
        packed = pack(value, f"the result of {name}")
        if packed.nbytes <= SETTINGS.inline_bytes_max:
            return packed.tobytes(), ("", packed.nbytes, packed.contains, b"") if packed.contains else None
        return b"", (self._store(packed), packed.nbytes, packed.contains, b"")

    def _store(self, packed: Packed) -> str:
        """Write a large result into a file that the agent makes room for, and return where."""
        self.link.send(NeedRoom(packed.nbytes))
        return write_into_room(self.link.wait_for(Room), packed)


def run_executor(task_descriptor: int, cell_descriptor: int, asynchronous: bool) -> int:
    """Be an executor until the agent is gone; return the exit code. Called in a child of the fork server."""
    cell = Cell(cell_descriptor)
    faulthandler.enable(cell_descriptor)
    faulthandler.register(STACK_SIGNAL, cell_descriptor, all_threads=True)
    gc.freeze()
    task_socket = socket.socket(fileno=task_descriptor)
    try:
        if asynchronous:
            from distributed.worker.executor_async import serve_async

            serve_async(task_socket, cell)
        else:
            executor = Executor(task_socket, cell)
            running.door = executor.door
            executor.serve()
    except ConnectionError:
        pass  # the agent is gone: an end like any other
    atexit._run_exitfuncs()
    return 0
