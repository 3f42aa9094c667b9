"""Requests to the center that wait for an answer, across a restart of the center if need be, and within a bound.

A center that is away has `center_away_s` to come back, one that is there as long to answer; and longer where it was
asked to wait itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from distributed import errors
from distributed.config import SETTINGS
from distributed.wire.messages import Message, Refusal, Reply

REPEATS_MAX = 5


class Asked:
    """A request and what became of it; `done` is set last."""

    __slots__ = ("done", "due", "error", "is_given_up", "message", "repeats", "result", "then")

    def __init__(self, message: Message, then: Callable[[Asked], None] | None = None) -> None:
        self.message, self.then = message, then
        self.repeats = 0
        self.due = 0.0  # it is given up then
        self.done = False
        self.is_given_up = False  # nobody waits any more
        self.result: Any = None
        self.error: Exception | None = None


class Requests:
    """The requests that are not answered yet, by number."""

    def __init__(self, center: str) -> None:
        self.center = center
        self.due = math.inf  # no request is given up before
        self._waiting: dict[int, Asked] = {}
        self._numbers = itertools.count(1)

    def add(self, asked: Asked, now: float, is_away: bool) -> int:
        """The number under which it is to be sent."""
        number = next(self._numbers)
        self._waiting[number] = asked
        self._set_due(asked, now, is_away)
        return number

    def postpone(self, now: float) -> None:
        """The center is away: from now on it has its time to come back."""
        for asked in self._waiting.values():
            self._set_due(asked, now, is_away=True)

    def unanswered(self, now: float) -> Iterator[tuple[int, Asked]]:
        """What a new connection has to be asked again, but for what nobody waits for, or broke every one so far."""
        waiting, self._waiting = self._waiting, {}
        for number, asked in waiting.items():
            asked.repeats += 1
            if asked.is_given_up:
                continue
            if asked.repeats > REPEATS_MAX:
                name = type(asked.message).__name__
                asked.error = errors.ConnectionFailed("", f"the center closed the connection each time at this {name}")
                self._end(asked)
                continue
            self._waiting[number] = asked
            self._set_due(asked, now, is_away=False)
            yield number, asked

    def give_up(self, now: float, is_away: bool) -> None:
        """End what has waited for long enough."""
        for number, asked in list(self._waiting.items()):
            if asked.due <= now:
                del self._waiting[number]
                bound_s, name = SETTINGS.center_away_s, type(asked.message).__name__
                reason = (
                    f"the center has been away for {bound_s:g} s; start it again at this address"
                    if is_away
                    else f"the center has not answered {name} within {bound_s:g} s; see whether it is stopped"
                )
                asked.error = errors.ConnectionFailed(self.center, reason)
                self._end(asked)
        self.due = min((asked.due for asked in self._waiting.values()), default=math.inf)

    def _set_due(self, asked: Asked, now: float, is_away: bool) -> None:
        asked.due = now + SETTINGS.center_away_s + (0.0 if is_away else getattr(asked.message, "wait_s", 0.0))
        self.due = min(self.due, asked.due)

    def settle(self, number: int, answer: Reply | Refusal) -> None:
        """The center answered; an answer that nobody asked for goes nowhere."""
        asked = self._waiting.pop(number, None)
        if asked is None:
            return
        if isinstance(answer, Reply):
            asked.result = answer.result
        else:
            asked.error = errors.by_name(answer.kind, answer.reason)
        self._end(asked)

    def _end(self, asked: Asked) -> None:
        asked.done = True
        if asked.then is not None:
            asked.then(asked)
