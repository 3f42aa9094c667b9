"""The thread on which users' callbacks run, so that a slow or raising one never holds up the pool."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("distributed.pool")


class CallbackThread:
    """Runs what it is given, in order; started at the first callback."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function(*args)`` soon."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="distributed-callbacks", daemon=True)
            self._thread.start()
        self._queue.put((function, args))

    def close(self, timeout_s: float) -> None:
        """End when what is queued has run, or when the time is over."""
        if self._thread is not None:
            self._queue.put(None)
            if threading.current_thread() is not self._thread:
                self._thread.join(timeout_s)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            function, args = item
            try:
                function(*args)
            except Exception:  # the user's code
                logger.exception("a callback raised")
            del item, function, args  # or the last handle, and with it the value, would live until the next callback
