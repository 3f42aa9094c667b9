"""Times at which a mind wants to do something, whatever happens until then. Knows no clock: it is told the time."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable

Action = Callable[[float], object]


class Alarms:
    """What is to be done when. Nothing is taken back: what rings checks for itself whether it still matters.

    >>> alarms, rung = Alarms(), []
    >>> alarms.set(3.0, rung.append); alarms.set(1.0, rung.append); alarms.next_s
    1.0
    >>> alarms.ring(2.0); rung, alarms.next_s
    ([2.0], 3.0)
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Action]] = []
        self._numbers = itertools.count()
        self.next_s = math.inf

    def set(self, time_s: float, action: Action = lambda now: None) -> None:
        """Do this at that time; by itself, the tick that comes then may be enough."""
        heapq.heappush(self._heap, (time_s, next(self._numbers), action))
        self.next_s = self._heap[0][0]

    def ring(self, now: float) -> None:
        """Do what is due, the earliest first."""
        while self.next_s <= now:
            _, _, action = heapq.heappop(self._heap)
            self.next_s = self._heap[0][0] if self._heap else math.inf
            action(now)
