"""Requests to the center that wait for an answer, across a restart of the center if need be."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from distributed import errors
from distributed.wire.messages import Message, Refusal, Reply


class Asked:
    """A request and what became of it; `done` is set last."""

    __slots__ = ("done", "error", "is_given_up", "message", "result", "then")

    def __init__(self, message: Message, then: Callable[[Asked], None] | None = None) -> None:
        self.message, self.then = message, then
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
        """What a new connection has to be asked again; what nobody waits for is forgotten."""
        self._waiting = {number: asked for number, asked in self._waiting.items() if not asked.is_given_up}
        yield from self._waiting.items()

    def settle(self, number: int, answer: Reply | Refusal) -> None:
        """The center answered; an answer that nobody asked for goes nowhere."""
        asked = self._waiting.pop(number, None)
        if asked is None:
            return
        if isinstance(answer, Reply):
            asked.result = answer.result
        else:
            asked.error = errors.by_name(answer.kind, answer.reason)
        asked.done = True
        if asked.then is not None:
            asked.then(asked)
