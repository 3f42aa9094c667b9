"""Signals leave a pool as it was: they wait while the main thread is where it must not be interrupted."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` wraps in enums, at 35 µs a wait
import functools
import signal
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

DEFERRED = tuple(
    int(getattr(signal, name))
    for name in ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGVTALRM", "SIGPROF")
    if hasattr(signal, name)
)
"""The signals whose handlers programs write, and may raise in: Ctrl-C, time limits, requests to end."""


class deferred_signals:  # noqa: N801 - used as a statement, and not a generator because that takes twice as long
    """Within the block signals are only noted, and `wake` is called so that a wait can end; after it they act.

    Gives a function that tells whether one has come. Elsewhere than in the main thread there is nothing to defer.
    """

    __slots__ = ("_handlers", "_noted", "_wake")

    def __init__(self, wake: Callable[[], object] = bool) -> None:
        self._wake = wake
        self._noted: list[int] = []  # without frames: one would keep itself alive, and with it all handles in it
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Callable[[], bool]:
        if threading.current_thread() is threading.main_thread():
            getsignal = _signal.getsignal
            self._handlers = {number: handler for number in DEFERRED if callable(handler := getsignal(number))}
            try:
                for number in self._handlers:
                    _signal.signal(number, self._note)
            except BaseException:  # one acted before all were deferred
                self._restore()
                raise
        return self._has_noted

    def __exit__(self, *error: object) -> None:
        if self._handlers:
            self._restore()
            self._act()

    def _act(self) -> None:
        """Every one acts, also behind one whose handler raises."""
        while self._noted:
            number = self._noted.pop(0)
            try:
                self._handlers[number](number, None)
            except BaseException:
                self._act()
                raise

    def _restore(self) -> None:
        try:
            for number, handler in self._handlers.items():
                _signal.signal(number, handler)
        except BaseException:  # one that has its handler again acts before the others have theirs
            self._restore()
            raise

    def _has_noted(self) -> bool:
        return bool(self._noted)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted.append(number)
        self._wake()


def is_of_a_handler(error: BaseException) -> bool:
    """Whether it was a signal's handler that raised this, in the middle of whatever was going on.

    >>> is_of_a_handler(ValueError('a time limit'))
    False
    """
    codes = {_code_of(handler) for number in DEFERRED if callable(handler := _signal.getsignal(number))}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False


def _code_of(handler: Any) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    handler = getattr(handler, "__func__", handler)  # a method's
    method = vars(type(handler)).get("__call__")
    code: CodeType | None = getattr(handler, "__code__", getattr(method, "__code__", None))
    return code
