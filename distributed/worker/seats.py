"""Tasks that are for one executor each, as `Pool.run_on_all` sends them: they wait beside the queues until it is free.

Every plain executor has a seat of its own, and as many seats as there are cores are always taken, or about to be: who
is started gets the first that is vacant, and one beyond them, started because tasks wait for tasks, moves up when one
of them becomes vacant. So what is sent to each seat once runs in each executor once, in a replaced one as well.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING

from distributed.worker.tasks import Part

if TYPE_CHECKING:
    from distributed.worker.dispatch import Dispatch
    from distributed.worker.view import ExecutorView


class Seats:
    """What waits for the executor in each seat."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self.waiting: dict[int, deque[Part]] = {}

    def vacant(self) -> int:
        """The first seat that nobody has."""
        taken = {executor.seat for executor in self._dispatch.executors.values()}
        return next(seat for seat in itertools.count() if seat not in taken)

    def vacated(self, left: ExecutorView) -> None:
        """An executor is gone: if it had one of the seats that matter, the last of those beyond them moves up."""
        if 0 <= left.seat < self._dispatch.ncores:
            last = max(self._dispatch.executors.values(), key=lambda executor: executor.seat, default=left)
            if last.seat >= self._dispatch.ncores:
                last.seat = left.seat

    def put(self, part: Part) -> None:
        """A task waits for the executor of its seat, which is given nothing else meanwhile."""
        part.queued = True
        self.waiting.setdefault(part.order.seat, deque()).append(part)

    def fill(self, now: float) -> None:
        """Give what waits to those that are free."""
        for parts in self.waiting.values():
            while parts and not parts[0].queued:  # it was dropped meanwhile
                parts.popleft()
        for executor in self._dispatch.executors.values():
            mine = self.waiting.get(executor.seat)
            if mine and _is_free(executor):
                self._dispatch.give_alone(executor, mine.popleft(), now)
        self.waiting = {seat: parts for seat, parts in self.waiting.items() if parts}

    def check(self) -> None:
        """Everyone has a seat, and nobody sits in a corner that nothing is sent to while a better one is vacant."""
        plain = [executor for executor in self._dispatch.executors.values() if not executor.asynchronous]
        seats = {executor.seat for executor in plain}
        assert len(seats) == len(plain), "one executor in each seat"
        assert min(seats, default=0) >= 0
        if any(seat >= self._dispatch.ncores for seat in seats):
            assert seats >= set(range(self._dispatch.ncores)), "a vacant seat"


def _is_free(executor: ExecutorView) -> bool:
    is_there = executor.ready and not (executor.killing or executor.retiring)
    return is_there and not executor.given
