"""Which source the input of `imap` is; and the one that needs an event loop, so that only `imap` imports one.

An asynchronous iterable is asked by a task on the loop of its consumer. Knows nothing of tasks and workers.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from distributed import arguments
from distributed.pool.sources import (
    AT_HAND,
    SLICED,
    AtHand,
    Buffer,
    Slices,
    Source,
    Threaded,
    is_asynchronous,
    require_called,
)

END = object()  # instead of an item


class Asynchronous(Buffer):
    """Asynchronous iterables, or some of them; asked on the loop where `fill` runs."""

    is_asynchronous = True

    def __init__(self, iterables: Sequence[Any]) -> None:
        super().__init__(len(iterables) == 1)
        self._iterators = [aiter(iterable) if is_asynchronous(iterable) else iter(iterable) for iterable in iterables]
        self._bell = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, on_item: Callable[[], Awaitable[None]]) -> None:
        """Begin to ask, on the running loop; once."""
        if self._task is None:
            self._loop = asyncio.get_running_loop()
            self._task = self._loop.create_task(self._run(on_item))

    def want(self, count: int, notice_at: int) -> None:
        super().want(count, notice_at)
        if len(self._rows) < self._wanted:
            self._call(self._bell.set)

    def close(self) -> None:
        super().close()
        self._is_over = True
        if self._task is not None:
            self._call(self._task.cancel)

    def _call(self, function: Callable[[], object]) -> None:
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop was closed, and with it everybody who could give or take
            pass

    async def _run(self, on_item: Callable[[], Awaitable[None]]) -> None:
        error: BaseException | None = None
        try:
            while not self._is_over and (row := await self._next_row()) is not END:
                self._rows.append(row)
                if len(self._rows) >= self.notice_at:
                    await on_item()
                while len(self._rows) >= self._wanted and not self._is_over:
                    self._bell.clear()
                    await self._bell.wait()
        except BaseException as reason:  # noqa: BLE001  the iterator is the user's
            error = reason
        if isinstance(error, asyncio.CancelledError):
            error = RuntimeError("the event loop on which the asynchronous input was read has ended")
        self.end(error)
        for iterator in self._iterators:
            if hasattr(iterator, "aclose"):
                await iterator.aclose()
        await on_item()

    async def _next_row(self) -> Any:
        row = []
        for iterator in self._iterators:
            if is_asynchronous(iterator):
                item = await anext(iterator, END)
            elif type(iterator) in AT_HAND:
                item = next(iterator, END)
            else:
                item = await asyncio.to_thread(next, iterator, END)  # it may take its time, and the loop must go on
            if item is END:
                return END
            row.append(item)
        return row[0] if self._single else tuple(row)


def source_of(iterables: Sequence[Iterable[Any] | AsyncIterable[Any]]) -> Source:
    """The source of the items, or rows of items, of these.

    >>> source_of([range(3), 'alice']).take(2)
    ([0, 1], ['a', 'l'])
    """
    single = len(iterables) == 1
    for iterable in iterables:
        require_called(iterable)
        if not isinstance(iterable, (Iterable, AsyncIterable)) and not hasattr(iterable, "__getitem__"):
            raise TypeError(f"{arguments.shown(iterable)} is not iterable; qsize= and chunksize= go by name")
    if any(map(is_asynchronous, iterables)):
        return Asynchronous(iterables)
    if all(map(_is_sliced, iterables)):
        return Slices(iterables)  # type: ignore[arg-type]
    rows: Iterator[Any] = iter(iterables[0]) if single else zip(*iterables, strict=False)  # type: ignore[arg-type]
    if all(type(iterable) in AT_HAND for iterable in iterables):
        return AtHand(rows, single)
    return Threaded(rows, single)


def _is_sliced(iterable: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return type(iterable) in SLICED or (type(iterable) is getattr(numpy, "ndarray", None) and iterable.ndim > 0)
