"""The executor's side of tasks in tasks: what a task says to its owner, and how it waits.

Whoever waits gives the slot back: the agent is told, and gets back what stood behind the task. Several threads of one
task may wait; one of them reads the socket, the others are told of what it read. What the messages to and from the
owner mean is known to `distributed.pool.inside` alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from time import monotonic
from typing import Any

from distributed.errors import DistributedError, NestingTooDeep
from distributed.running import Running
from distributed.wire import codec
from distributed.wire.messages import (
    Blocked,
    FromTask,
    GroupBegins,
    Letter,
    LettersRead,
    MembersEnded,
    Run,
    SubmitInner,
    TooDeep,
    ToTask,
    Waits,
)
from distributed.worker.calls import Functions
from distributed.worker.link import Link
from distributed.worker.outcomes import Report
from distributed.worker.progress import Cell

NOTHING: Iterator[tuple[int, bytes]] = iter(())
FROM_GROUP = (GroupBegins, MembersEnded)


class PlainDoor:
    """For the executor that runs one task after the other. `batch` and `rest`: what it has begun, and what is left."""

    def __init__(self, link: Link, report: Report, cell: Cell, functions: Functions) -> None:
        self._link, self._report, self._cell, self._functions = link, report, cell, functions
        self.batch: Run | None = None
        self.rest: Iterator[tuple[int, bytes]] = NOTHING
        self._running: Running | None = None
        self._turn = threading.Condition(threading.RLock())
        self._is_reading = False

    def leave(self) -> None:
        """The batch is done. Threads that its last task left behind wait no longer: what comes now is for others."""
        last, self.batch, self._running = self._running, None, None
        self.rest = NOTHING
        if last is not None:  # the task came through this door
            with self._turn:
                if self._is_reading:
                    self._link.wake()
                while self._is_reading:
                    self._turn.wait()

    def running(self) -> Running | None:
        cell, batch, known = self._cell.read(), self.batch, self._running
        if cell is None or batch is None:
            return None
        position = cell[0] - batch.serial
        if known is None or known.serial != cell[0]:
            if not 0 <= position < len(batch.keys):
                return None
            attempt = batch.attempts.get(position, 1)
            known = self._running = Running(cell[0], batch.keys[position], attempt, self._functions.how)
        return known

    def say(self, running: Running, message: Any) -> None:
        if isinstance(message, SubmitInner):
            running.has_submitted = True
        self._link.send(FromTask(running.serial, codec.encode_header(message)))

    def wake(self) -> None:
        with self._turn:
            self._turn.notify_all()
        self._link.wake()

    def wait(self, running: Running, is_done: Callable[[], bool], timeout_s: float | None) -> bool:
        deadline = None if timeout_s is None else monotonic() + timeout_s
        with self._turn:
            self._sort()
            if is_done():
                return True
            self._require(running)
            self._begin_to_wait(running)
            try:
                return self._read_until(running, is_done, deadline)
            finally:
                self._end_waiting(running)

    def listen(self, running: Running, is_done: Callable[[], bool], timeout_s: float | None) -> bool:
        with self._turn:
            self._link.hang_bell()
            return self._read_until(running, is_done, None if timeout_s is None else monotonic() + timeout_s)

    def begin(self, running: Running) -> None:
        self._cell.write(running.serial, monotonic())

    def has_read(self, running: Running, numbers: list[int]) -> None:
        self._link.send(LettersRead(running.serial, numbers))

    def _read_until(self, running: Running, is_done: Callable[[], bool], deadline: float | None) -> bool:
        while True:
            seen = self._link.reads
            self._sort()
            if is_done():
                return True
            self._require(running)
            if running.refusal is not None:
                raise running.refusal
            left_s = None if deadline is None else deadline - monotonic()
            if left_s is not None and left_s <= 0:
                return False
            self._read(seen, left_s)

    def _require(self, running: Running) -> None:
        if self.running() is not running:
            raise DistributedError(f"the task {running.key} is over: a thread that it left behind cannot wait")

    def _read(self, seen: int, left_s: float | None) -> None:
        """Wait for something to arrive, or for another thread that does."""
        if self._is_reading:
            self._turn.wait(left_s)
            return
        self._is_reading = True
        self._turn.release()
        try:
            is_alive = self._link.read(seen, left_s)
        finally:
            self._turn.acquire()
            self._is_reading = False
            self._turn.notify_all()
        if not is_alive:
            raise ConnectionError("the worker is gone")

    def give_way(self, wait: Callable[[], bool]) -> bool:
        running = self.running()
        if running is None or running.waiters:
            return wait()
        over = threading.Event()
        thread = threading.Thread(target=self._keep_reading, args=(running, over), daemon=True)
        thread.start()
        try:
            return wait()
        finally:
            over.set()
            self.wake()
            thread.join()

    def _keep_reading(self, running: Running, over: threading.Event) -> None:
        """Wait beside a thread that waits elsewhere: what is given to this executor meanwhile is for others."""
        try:
            self.wait(running, over.is_set, None)
        except (DistributedError, ConnectionError):
            pass

    def _begin_to_wait(self, running: Running) -> None:
        running.waiters += 1
        if running.waiters == 1:
            self._link.hang_bell()
            self._report.flush()
            self._link.send(Blocked(running.serial, True, self._give_back(), running.has_submitted))
            running.has_submitted = False
            if running.core is not None:
                self.say(running, Waits(True))

    def _end_waiting(self, running: Running) -> None:
        running.waiters -= 1
        if not running.waiters:
            self._link.send(Blocked(running.serial, False, []))
            if running.core is not None:
                self.say(running, Waits(False))
            running.refusal = None

    def _give_back(self) -> list[int]:
        """What stands behind the task that waits: it is not run here."""
        return [serial for serial, _ in self.rest]

    def _sort(self) -> None:
        """Look through the inbox: answers go where they are waited for, and new tasks back, while one waits."""
        inbox = self._link.inbox
        returned: list[int] = []
        running = self.running()
        for _ in range(len(inbox)):
            message = inbox.popleft()
            if isinstance(message, ToTask):
                if running is not None and running.serial == message.serial:
                    hear(running, message)
            elif isinstance(message, Letter):
                if running is not None and running.serial == message.serial and running.mail is not None:
                    running.mail.deliver(message)
            elif isinstance(message, Run) and running is not None and running.waiters:
                self._functions.keep(message)
                returned += range(message.serial, message.serial + len(message.keys))
            else:
                inbox.append(message)
        if returned and running is not None:
            self._link.send(Blocked(running.serial, True, returned))


def hear(running: Running, message: ToTask) -> None:
    """An answer for a task arrived."""
    said, _ = codec.decode(message.said)
    if isinstance(said, TooDeep):
        running.refusal = NestingTooDeep(_why_too_deep(said), running.key)
    elif isinstance(said, FROM_GROUP):
        if running.mail is not None:
            running.mail.hear(said)
    elif running.core is not None:
        running.core.hear(said)


def _why_too_deep(said: TooDeep) -> str:
    if not said.reason:
        return (
            f"{said.limit} other tasks of this worker wait for tasks already (blocked_executors_max); "
            f"return handles instead of waiting for them, or raise that setting"
        )
    return (
        f"all {said.limit} tasks that run at this worker wait for tasks, and it can start no process for these "
        f"({said.reason}); return handles instead of waiting for them, or allow it more processes and descriptors"
    )


CURRENT: ContextVar[Running | None] = ContextVar("running", default=None)


class LoopDoor:
    """For the executor of coroutines: they await beside one another, and no slot is given back."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._thread = threading.get_ident()
        self._turn = threading.Condition()

    def running(self) -> Running | None:
        return CURRENT.get()

    def say(self, running: Running, message: Any) -> None:
        self._link.send(FromTask(running.serial, codec.encode_header(message)))

    def wake(self) -> None:
        with self._turn:
            self._turn.notify_all()

    def hear(self, running: Running, message: ToTask) -> None:
        """An answer for a task arrived. Called from the loop."""
        with self._turn:
            hear(running, message)
            self._turn.notify_all()

    def wait(self, running: Running, is_done: Callable[[], bool], timeout_s: float | None) -> bool:
        if threading.get_ident() == self._thread:
            if is_done():
                return True
            raise RuntimeError("to wait here would stop every coroutine of this worker: write `await handle`")
        with self._turn:
            return self._turn.wait_for(is_done, timeout_s)

    def listen(self, running: Running, is_done: Callable[[], bool], timeout_s: float | None) -> bool:
        raise RuntimeError("a coroutine is no member of a group")

    def begin(self, running: Running) -> None:
        """Nothing: coroutines have no members among them."""

    def has_read(self, running: Running, numbers: list[int]) -> None:
        """Nothing, for the same reason."""

    def give_way(self, wait: Callable[[], bool]) -> bool:
        return wait()
