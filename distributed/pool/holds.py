"""How a pool notices that a handle is gone, whatever moment that happens at.

Not by `__del__`: a KeyboardInterrupt could arrive in it, which would swallow both the interrupt and the release. A weak
reference does it whose callback is written in C: it appends itself to a deque, and can be interrupted by nothing.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from itertools import repeat
from typing import Any

from distributed.pool.tasks import Task

Hold = weakref.ref[Any]


class Holds:
    """All holds of a pool. They live here: a weak reference that dies in one cycle with its handle tells nobody."""

    def __init__(self) -> None:
        self.dropped: deque[Hold] = deque()  # of handles that are gone
        self._note = self.dropped.append
        self._alive: dict[Hold, Task] = {}

    def add(self, handle: object, task: Task) -> None:
        """From now on `task` has one handle more. Called from any thread."""
        self._alive[weakref.ref(handle, self._note)] = task

    def add_many(self, handles: Sequence[object], tasks: Sequence[Task]) -> None:
        """The same for many handles, each of the task beside it, at the speed of C: 0.2 µs each."""
        self._alive.update(zip(map(weakref.ref, handles, repeat(self._note)), tasks, strict=True))

    def end(self, handle: object) -> None:
        """The handle was given up although it is still there."""
        for hold in weakref.getweakrefs(handle):
            if hold.__callback__ is self._note:
                self.dropped.append(hold)

    def tasks(self) -> list[Task]:
        """Every task that somebody has a handle of."""
        return list(dict.fromkeys(self._alive.copy().values()))

    def take_dropped(self, count: int) -> list[Task]:
        """The tasks of the first handles that are gone, one entry a handle."""
        holds = [self.dropped.popleft() for _ in range(count)]
        tasks = map(self._alive.pop, holds, repeat(None))  # None: given up first, and gone then
        return [task for task in tasks if task is not None]
