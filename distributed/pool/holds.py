"""How a pool notices that a handle is gone, whatever moment that happens at.

Not by `__del__`: a KeyboardInterrupt could arrive in it, which would swallow both the interrupt and the release. A weak
reference does it whose callback is written in C: it appends itself to a deque, and can be interrupted by nothing.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

from distributed.pool.tasks import Task


class Hold(weakref.ref[Any]):
    """One handle's hold on its task."""

    __slots__ = ("task",)
    task: Task


class Holds:
    """All holds of a pool. They live here: a weak reference that dies in one cycle with its handle tells nobody."""

    def __init__(self) -> None:
        self.dropped: deque[Hold] = deque()  # of handles that are gone
        self._alive: set[Hold] = set()

    def add(self, handle: object, task: Task) -> None:
        """From now on `task` has one handle more. Called from any thread."""
        hold = Hold(handle, self.dropped.append)
        hold.task = task
        self._alive.add(hold)

    def end(self, handle: object) -> None:
        """The handle was given up although it is still there."""
        for hold in weakref.getweakrefs(handle):
            if isinstance(hold, Hold):
                self.dropped.append(hold)

    def take_dropped(self, count: int) -> list[Task]:
        """The tasks of the first handles that are gone, one entry a handle."""
        tasks = []
        for _ in range(count):
            hold = self.dropped.popleft()
            if hold in self._alive:  # else: given up first, and gone then
                self._alive.remove(hold)
                tasks.append(hold.task)
        return tasks
