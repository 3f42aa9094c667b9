"""Requests to the center that wait for an answer, across a restart of the center if need be."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from distributed import errors
from distributed.wire.messages import Message, Refusal, Reply

REPEATS_MAX = 5


class Asked:
    """A request and what became of it; `done` is set last."""

    __slots__ = ("done", "error", "is_given_up", "message", "repeats", "result", "then")

    def __init__(self, message: Message, then: Callable[[Asked], None] | None = None) -> None:
        self.message, self.then = message, then
        self.repeats = 0
        self.done = False
        self.is_given_up = False  # nobody waits any more
        self.result: Any = None
        self.error: Exception | None = None


class Requests:
    """The requests that are not answered yet, by number."""

    def __init__(self) -> None:
        self._waiting: dict[int, Asked] = {}
        self._numbers = itertools.count(1)

    def add(self, asked: Asked) -> int:
        """The number under which it is to be sent."""
        number = next(self._numbers)
        self._waiting[number] = asked
        return number

    def unanswered(self) -> Iterator[tuple[int, Asked]]:
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
            yield number, asked

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
