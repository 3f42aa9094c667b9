"""Signals leave a pool as it was: they wait while the main thread is where it must not be interrupted."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` wraps in enums, at 35 µs a wait
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

DEFERRED = tuple(
    int(getattr(signal, name))
    for name in ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGVTALRM", "SIGPROF")
    if hasattr(signal, name)
)
"""The signals whose handlers programs write, and may raise in: Ctrl-C, time limits, requests to end."""


@contextlib.contextmanager
def deferred_signals(wake: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Within the block signals are only noted, and `wake` is called so that a wait can end; after it they act.

    Yields a function that tells whether one has come. Elsewhere than in the main thread there is nothing to defer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    noted: list[int] = []  # without frames: one would keep itself alive, and with it all handles in it

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        wake()

    handlers = {number: handler for number in DEFERRED if callable(handler := _signal.getsignal(number))}
    for number in handlers:
        _signal.signal(number, note)
    try:
        yield lambda: bool(noted)
    finally:
        for number, handler in handlers.items():
            _signal.signal(number, handler)
        for number in noted:
            handlers[number](number, None)
