"""Turns: what is sent while one read is handled leaves together, when all of it has been handled.

An event loop has its own end of a turn, but to wait for that costs another round through the selector: a fifth of what
an agent does for a small task. Whoever reads a socket of the loop opens a turn (`begin`) and ends it (`end`); whoever
has something to send asks for the open one. It belongs to the thread, and so to the loop that runs there.
"""

from __future__ import annotations

import threading
from typing import Protocol


class Flushable(Protocol):
    """Something that has collected what is to be sent."""

    def flush(self) -> None:
        """Send it, as far as that is possible now; whatever happens, raise nothing."""


class Turn(threading.local):
    """The open turn of this thread: who wants to be flushed at its end; None if no turn is open."""

    waiting: list[Flushable] | None = None

    def begin(self) -> list[Flushable] | None:
        """Open a turn; the result is for `end`."""
        if self.waiting is not None:  # a part of the one that is open
            return None
        self.waiting = []
        return self.waiting

    def end(self, waiting: list[Flushable] | None) -> None:
        """Flush everybody, if this is what `begin` returned when the turn was opened."""
        if waiting is not None:
            self.waiting = None
            for one in waiting:
                one.flush()


TURN = Turn()
