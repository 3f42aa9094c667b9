"""The store as the threads of a bulk server see it: look-ups read, everything else goes through the worker's state.

Threads wait here for what the event loop decides. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from distributed.errors import ConnectionFailed, DistributedError, StoreFull
from distributed.key import owner_of
from distributed.wire.messages import Post
from distributed.worker.events import Posted, Put, RoomAbandoned, RoomWanted
from distributed.worker.store import Store

log = logging.getLogger("distributed.worker")


class Doorway:
    """A `StoreView` of :mod:`distributed.bulk`. `handle` gives an event to the worker's state, in the event loop."""

    def __init__(self, store: Store, handle: Callable[[Any], None]) -> None:
        self._store, self._handle = store, handle
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._is_closed = False

    def lookup(self, key: str) -> tuple[int, int, bytes | None, str] | None:
        """Where a value is, now; reading a dictionary is safe from any thread."""
        entry = self._store.entries.get(key)
        if entry is None:
            return None
        if isinstance(entry, bytes):
            return 1, len(entry), entry, ""
        path = entry.path
        return entry.attempt, entry.nbytes, None if path else entry.data, path

    def reserve(self, nbytes: int) -> str:
        """The path of a new file, allocated; waits while something is spilled for it, raises `StoreFull`."""
        number = next(self._numbers)
        path: str = self._wait_for(number, lambda: self._handle(RoomWanted(number, nbytes)))
        return path

    def put(self, owner: str, keys: list[str], nbytes: list[int], values: list[Any], contains: dict[int, list]) -> None:
        """Store values; returns when they are stored. What they contain is their owner's business."""
        for key in keys:
            if owner_of(key) != owner:
                raise DistributedError(f"{key!r} is not a key of {owner!r}" if owner else f"{key!r}: no '/' by hand")
        number = next(self._numbers)
        paths = [value if isinstance(value, str) else "" for value in values]
        inline = [None if isinstance(value, str) else value for value in values]

        def store() -> None:
            self._handle(Put(owner, keys, nbytes, inline, paths))
            self.answer(number, None)

        self._wait_for(number, store)

    def post(self, message: Post, value: bytes, path: str) -> str:
        """Hand a message to members of a group: 'taken', 'full' or 'over'. It is small, or in this reserved file."""
        number = next(self._numbers)
        keys, attempts, numbers, sender = message.keys, message.attempts, message.numbers, message.sender
        posted = Posted(number, keys, attempts, numbers, sender, message.tag, message.nbytes, value, path)
        outcome: str = self._wait_for(number, lambda: self._handle(posted))
        return outcome

    def abandon(self, path: str) -> None:
        """This reserved file will not be put."""
        if not self._is_closed:
            self._loop.call_soon_threadsafe(self._handle, RoomAbandoned(path))

    def _wait_for(self, number: int, ask: Callable[[], None]) -> Any:
        future: Future[Any] = Future()
        self._waiting[number] = future
        if self._is_closed:
            self.refuse(number, _closing())
        else:
            self._loop.call_soon_threadsafe(self._ask, number, ask)
        return future.result()

    # ---------------------------------------------------------------------------------------------- in the event loop

    def _ask(self, number: int, ask: Callable[[], None]) -> None:
        """What goes wrong here ends the waiting of the thread that asked, and nothing else."""
        try:
            ask()
        except Exception as error:
            log.exception("a request on a bulk connection could not be handled")
            self.refuse(number, error)

    def answer(self, number: int, result: Any) -> None:
        """What a thread waits for has come."""
        future = self._waiting.pop(number, None)
        if future is not None:
            future.set_result(result)

    def refuse(self, number: int, error: Exception) -> None:
        """What a thread waits for will not come."""
        future = self._waiting.pop(number, None)
        if future is not None:
            future.set_exception(error)

    def refuse_room(self, number: int, reason: str) -> None:
        self.refuse(number, StoreFull(reason))

    def close(self) -> None:
        """Nobody waits any more."""
        self._is_closed = True
        for number in list(self._waiting):
            self.refuse(number, _closing())


def _closing() -> DistributedError:
    return ConnectionFailed("", "this worker is closing")
