"""Work that may block, done in threads: allocating, spilling, fetching. Each errand ends in one event on the loop.

What is to be done was decided by the worker's state; here it is only done, and an error becomes an event, too.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from distributed.config import MIB, SETTINGS
from distributed.errors import DistributedError
from distributed.worker import events
from distributed.worker.fetch import Fetcher
from distributed.worker.files import Files, ValueLost

log = logging.getLogger("distributed.worker")

ALLOCATE_HERE_BYTES_MAX = MIB  # so little is allocated sooner than a thread is woken


class Errands:
    """Carries out the slow instructions of a worker's state; `handle` takes the events they end in."""

    def __init__(self, files: Files, fetcher: Fetcher, handle: Callable[[Any], None]) -> None:
        self._files, self._fetcher, self._handle = files, fetcher, handle
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(SETTINGS.file_threads_max, thread_name_prefix="distributed-disk")
        self._ageing: asyncio.TimerHandle | None = None
        self._is_closed = False

    def allocate(self, what: events.Allocate) -> None:
        if what.nbytes <= ALLOCATE_HERE_BYTES_MAX:
            self._handle(self._allocate(what))
        else:
            failed = functools.partial(events.AllocationFailed, what.ticket)
            self._deliver(self._threads.submit(self._allocate, what), failed)

    def _allocate(self, what: events.Allocate) -> events.Allocated | events.AllocationFailed:
        try:
            return events.Allocated(what.ticket, self._files.reserve(what.nbytes, what.on_disk))
        except (DistributedError, OSError) as error:
            return events.AllocationFailed(what.ticket, str(error))

    def spill(self, what: events.Spill) -> None:
        self._deliver(self._threads.submit(self._spill, what), functools.partial(events.SpillFailed, what.ticket))

    def _spill(self, what: events.Spill) -> events.Spilled | events.SpillFailed:
        try:
            return events.Spilled(what.ticket, self._files.spill(what.path))
        except ValueLost as error:
            return events.SpillFailed(what.ticket, str(error), is_lost=True)
        except (DistributedError, OSError) as error:
            return events.SpillFailed(what.ticket, str(error))

    def load(self, what: events.Load) -> None:
        self._deliver(self._threads.submit(self._load, what), functools.partial(events.LoadFailed, what.ticket))

    def _load(self, what: events.Load) -> events.Loaded | events.LoadFailed:
        try:
            return events.Loaded(what.ticket, self._files.load(what.path))
        except (DistributedError, OSError) as error:
            return events.LoadFailed(what.ticket, str(error))

    def remove(self, what: events.Remove) -> None:
        try:
            if self._files.remove(what.path):
                self._threads.submit(self._files.tidy)
            self._age_later()
        except OSError as error:
            log.warning("cannot remove %s: %s", what.path, error.strerror)

    def _age(self) -> None:
        """Once in a while: memory that nobody needs is given back."""
        self._ageing = None
        self._threads.submit(self._files.age).add_done_callback(self._aged)

    def _aged(self, done: Future[bool]) -> None:
        if not done.cancelled() and not done.exception() and done.result():
            self._loop.call_soon_threadsafe(self._age_later)

    def _age_later(self) -> None:
        if self._ageing is None and not self._is_closed:
            self._ageing = self._loop.call_later(SETTINGS.spare_age_s, self._age)

    def fetch(self, what: events.Fetch) -> None:
        self._deliver(self._fetcher.submit(what), functools.partial(events.FetchFailed, what.fetch))

    def forget(self, peer: str) -> None:
        """A peer is gone."""
        self._fetcher.forget(peer)

    def let_go(self, peer: str) -> None:
        """A peer may be gone."""
        self._fetcher.let_go(peer)

    async def close(self) -> None:
        """End all threads; what they were doing is given up."""
        self._is_closed = True
        if self._ageing is not None:
            self._ageing.cancel()
        await in_thread(self._fetcher.close)
        await in_thread(lambda: self._threads.shutdown(cancel_futures=True))

    def _deliver(self, future: Future[Any], failed: Callable[[str], Any]) -> None:
        """Report how an errand ended; what nobody foresaw ends it, too."""

        def deliver(done: Future[Any]) -> None:
            if done.cancelled():  # the worker is closing
                return
            error = done.exception()
            if error is not None:
                log.error("an errand broke; this is a bug", exc_info=error)
            event = done.result() if error is None else failed(f"{type(error).__name__}: {error}")
            self._loop.call_soon_threadsafe(self._handle, event)

        future.add_done_callback(deliver)


async def in_thread(work: Callable[[], None]) -> None:
    """Do something that blocks, in a thread that ends with it: the loop's own would outlive the worker."""
    with ThreadPoolExecutor(1, thread_name_prefix="distributed-close") as thread:
        await asyncio.get_running_loop().run_in_executor(thread, work)
