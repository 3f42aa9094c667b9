"""Connections that lead through the center, because who asked for a worker cannot reach it. Pure.

The worker need not be reached by anybody: it keeps a connection to its center, and over that it is told to dial back::

    Splice from A                 DialBack to the worker, with a token that nobody can guess
    DialledBack over B, in time   both are answered; from here on the shell passes bytes on from A to B and back
    Parted                        one side ended, and so did the other

It is not known here what the two say to each other: who is meant was settled by the token, and the two make sure of
each other, as on a connection of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from distributed.config import Settings


@dataclasses.dataclass(slots=True)
class Asking:
    """Somebody waits for a worker to dial back."""

    connection: int
    request: int
    incarnation: str
    idle_s: float  # after which the splice is ended, if there is one; 0: never
    deadline: float


class Splices:
    """Who waits for whom, by token; and the connections that were joined, with the incarnation that each leads to."""

    def __init__(self, settings: Settings, new_token: Callable[[], str]) -> None:
        self.settings, self._new_token = settings, new_token
        self.asking: dict[str, Asking] = {}
        self.by_connection: dict[int, str] = {}  # the token of whoever asks
        self.joined: dict[int, str] = {}
        self._last = 0

    def is_full(self) -> bool:
        """Whether no more fit: each takes two descriptors, and memory for what is on its way."""
        return len(self.asking) + len(self.joined) >= self.settings.spliced_connections_max

    def ask(self, connection: int, request: int, incarnation: str, for_values: bool, now: float) -> str:
        """Somebody waits for this worker from now on; the token that it must say."""
        token, idle_s = self._new_token(), self.settings.spliced_idle_s if for_values else 0.0
        self.asking[token] = Asking(connection, request, incarnation, idle_s, now + self.settings.dial_back_s)
        self.by_connection[connection] = token
        return token

    def join(self, token: str) -> tuple[int, Asking] | None:
        """The worker dialled back: the number of the new splice, and who asked. None: nobody waits (any more)."""
        asking = self._forget(token)
        if asking is None:
            return None
        self._last += 1
        self.joined[self._last] = asking.incarnation
        return self._last, asking

    def part(self, number: int) -> None:
        """A splice has come to its end."""
        self.joined.pop(number, None)

    def forget_connection(self, connection: int) -> None:
        """Whoever asked is gone."""
        self._forget(self.by_connection.get(connection, ""))

    def _forget(self, token: str) -> Asking | None:
        asking = self.asking.pop(token, None)
        if asking is not None:
            del self.by_connection[asking.connection]
        return asking

    def despair(self, incarnation: str) -> list[Asking]:
        """This worker will not dial back any more: who waits for it in vain."""
        vain = {token: asking for token, asking in self.asking.items() if asking.incarnation == incarnation}
        for token in vain:
            self._forget(token)
        return list(vain.values())

    def leading_to(self, incarnation: str) -> list[int]:
        """The splices that lead to this worker."""
        return [number for number, there in self.joined.items() if there == incarnation]

    def give_up(self, token: str, now: float) -> Asking | None:
        """Who has waited for long enough, if they still do."""
        asking = self.asking.get(token)
        return self._forget(token) if asking is not None and asking.deadline <= now else None

    def check(self) -> None:
        """Assert what must hold between any two events."""
        assert len(self.asking) + len(self.joined) <= self.settings.spliced_connections_max
        assert self.by_connection == {asking.connection: token for token, asking in self.asking.items()}
