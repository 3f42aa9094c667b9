"""Ctrl-C leaves a pool as it was: SIGINT waits while the main thread is where it must not be interrupted."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def deferred_interrupt(wake: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Within the block SIGINT is only noted, and `wake` is called so that a wait can end; after it the signal acts.

    Yields a function that tells whether one has come. Elsewhere than in the main thread there is nothing to defer.
    """
    handler = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    if not callable(handler):
        yield lambda: False
        return
    noted: list[FrameType | None] = []

    def note(signum: int, frame: FrameType | None) -> None:
        noted.append(frame)
        wake()

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, handler)
        if noted:
            handler(signal.SIGINT, noted[0])
