"""Connections that are being made: tries that may take long, begun in order, by a bounded number of threads.

The threads are daemons, not an executor's: a process may end while one of them still tries.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from distributed.config import SETTINGS

log = logging.getLogger("distributed")


class Backlog:
    """Tries that wait for a thread. Each reports by itself what comes of it; one that raises is a bug, and is told."""

    def __init__(self, threads_max: int = SETTINGS.dialling_threads_max) -> None:
        self._threads_max = threads_max
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._threads = 0

    def add(self, attempt: Callable[[], None]) -> None:
        """Have it made as soon as there is a thread for it."""
        with self._lock:
            self._waiting.append(attempt)
            if self._threads == self._threads_max:
                return
            self._threads += 1
        threading.Thread(target=self._run, name="distributed-dial", daemon=True).start()

    def clear(self) -> None:
        """What has not begun will not; what is under way ends by itself."""
        self._waiting.clear()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                attempt = self._waiting.popleft()
            try:
                attempt()
            except Exception:  # the thread is needed for those behind it
                log.exception("a try to connect broke; this is a bug")
