"""Where the items of `imap` come from: collections that are at hand, iterators that may block, asynchronous iterables.

A source gives away what it has and never waits. What is at hand is cut into slices where it is needed. Somebody else's
iterator may take as long as it likes for its next item, or even wait for the results of those before it; so a thread
asks it, only as far ahead as there is use for. An asynchronous iterable is asked by a task on the loop of its consumer.
Knows nothing of tasks and workers.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio

SLICED: Final = (list, tuple, range)
AT_HAND: Final[tuple[type, ...]] = (
    *SLICED, str, bytes, bytearray, dict, set, frozenset, deque, type({}.keys()), type({}.values()), type({}.items()),
    itertools.count, itertools.repeat, type(iter([])), type(iter(())), type(iter(range(0))),
)  # fmt: skip
"""Types that give their items without running any code of a user's. An iterator of such a type is at hand, too."""
AHEAD_MAX: Final = 100_000  # items that are asked for in advance
Columns = tuple[Sequence[Any], ...]


class Source:
    """The items that are left."""

    is_asynchronous = False
    is_ended = False  # there is nothing left, nor will there be
    notice_at = 1  # so many items are waited for
    error: BaseException | None = None  # what ended them, to be raised after the last value

    @property
    def is_slow(self) -> bool:
        """Whether the next item may be long in coming."""
        return False

    def __len__(self) -> int:
        """How many can be taken now, of a slow source."""
        return 0

    def want(self, count: int, notice_at: int) -> None:
        """There is use for so many; when there are `notice_at`, whoever waits for them wants to know."""

    def take(self, count: int) -> Columns | None:
        """Up to so many, column by column; None if there is not one."""
        raise NotImplementedError

    def close(self) -> None:
        """Nobody will take any more."""
        self.is_ended = True


class Slices(Source):
    """Lists, tuples and ranges: nobody looks at single items."""

    def __init__(self, columns: Sequence[Any]) -> None:
        self._columns, self._position = columns, 0

    def take(self, count: int) -> Columns | None:
        start = self._position
        end = self._position = max(start, min(start + count, *map(len, self._columns)))
        self.is_ended = end >= min(map(len, self._columns))
        return tuple([column[start:end] for column in self._columns]) if end > start else None


class AtHand(Source):
    """Other iterators that run nobody's code."""

    def __init__(self, rows: Iterator[Any], single: bool) -> None:
        self._rows, self._single = rows, single

    def take(self, count: int) -> Columns | None:
        rows: list[Any] = []
        try:
            rows.extend(itertools.islice(self._rows, count))
            self.is_ended = len(rows) < count
        except Exception as error:  # noqa: BLE001  a dictionary that changed meanwhile, or worse
            self.error, self.is_ended = error, True
        return _columns_of(rows, self._single)


class Buffer(Source):
    """Items that somebody puts in as they come."""

    def __init__(self, single: bool) -> None:
        self._single = single
        self._rows: deque[Any] = deque()
        self._wanted = 1
        self._is_over = False

    @property
    def is_slow(self) -> bool:
        return not self._is_over

    def __len__(self) -> int:
        return len(self._rows)

    def want(self, count: int, notice_at: int) -> None:
        self._wanted, self.notice_at = min(count, AHEAD_MAX), notice_at

    def take(self, count: int) -> Columns | None:
        is_over, rows = self._is_over, self._rows
        taken = [rows.popleft() for _ in range(min(count, len(rows)))]
        self.is_ended = is_over and not rows
        return _columns_of(taken, self._single)

    def end(self, error: BaseException | None = None) -> None:
        """No more will be put in."""
        self.error = error
        self._is_over = True
        self.is_ended = not self._rows


class Threaded(Buffer):
    """Somebody's iterator. `on_item` is called by the thread when there are as many items as are waited for, or all."""

    def __init__(self, rows: Iterator[Any], single: bool) -> None:
        super().__init__(single)
        self._input: Iterator[Any] | None = rows
        self._bell = threading.Condition()

    def start(self, on_item: Callable[[], None]) -> None:
        """Begin to ask."""
        rows, self._input = self._input, None  # the thread's alone: a generator ends where it was last run
        threading.Thread(target=self._run, args=([rows], on_item), name="imap-input", daemon=True).start()

    def want(self, count: int, notice_at: int) -> None:
        super().want(count, notice_at)
        if len(self._rows) < self._wanted:
            with self._bell:
                self._bell.notify()

    def close(self) -> None:
        super().close()
        with self._bell:
            self._is_over = True
            self._bell.notify()

    def _run(self, given: list[Any], on_item: Callable[[], None]) -> None:
        error = None
        try:
            self._ask(given.pop(), on_item)
        except BaseException as reason:  # noqa: BLE001  the iterator is the user's
            error = reason
        self.end(error)
        on_item()

    def _ask(self, rows: Iterator[Any], on_item: Callable[[], None]) -> None:
        append, buffer = self._rows.append, self._rows
        for row in rows:
            append(row)
            if len(buffer) >= self.notice_at:
                on_item()
            if len(buffer) >= self._wanted:
                with self._bell:
                    self._bell.wait_for(lambda: len(buffer) < self._wanted or self._is_over)
            if self._is_over:
                return


class Asynchronous(Buffer):
    """Asynchronous iterables, or some of them; asked on the loop where `fill` runs."""

    is_asynchronous = True

    def __init__(self, iterables: Sequence[Any]) -> None:
        super().__init__(len(iterables) == 1)
        self._iterators = [aiter(iterable) if is_asynchronous(iterable) else iter(iterable) for iterable in iterables]
        import asyncio  # here: only who awaits needs it

        self._bell = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, on_item: Callable[[], Awaitable[None]]) -> None:
        """Begin to ask, on the running loop; once."""
        if self._task is None:
            import asyncio

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
            while not self._is_over:
                self._rows.append(await self._next_row())
                if len(self._rows) >= self.notice_at:
                    await on_item()
                while len(self._rows) >= self._wanted and not self._is_over:
                    self._bell.clear()
                    await self._bell.wait()
        except (StopAsyncIteration, StopIteration):
            pass
        except BaseException as reason:  # noqa: BLE001  the iterator is the user's
            error = reason
        if self._is_over:  # it was closed, and nobody asks for errors
            error = None
        elif isinstance(error, asyncio.CancelledError):
            error = RuntimeError("the event loop on which the asynchronous input was read has ended")
        self.end(error)
        for iterator in self._iterators:
            if hasattr(iterator, "aclose"):
                await iterator.aclose()
        await on_item()

    async def _next_row(self) -> Any:
        row = []
        for iterator in self._iterators:
            row.append(await anext(iterator) if is_asynchronous(iterator) else next(iterator))
        return row[0] if self._single else tuple(row)


def source_of(iterables: Sequence[Iterable[Any] | AsyncIterable[Any]]) -> Source:
    """The source of the items, or rows of items, of these.

    >>> source_of([range(3), 'alice']).take(2)
    ([0, 1], ['a', 'l'])
    """
    single = len(iterables) == 1
    for iterable in iterables:
        if not isinstance(iterable, (Iterable, AsyncIterable)) and not hasattr(iterable, "__getitem__"):
            kind = type(iterable).__name__
            raise TypeError(f"a {kind} is not iterable: {iterable!r:.60}; qsize= and chunksize= go by name")
    if any(map(is_asynchronous, iterables)):
        return Asynchronous(iterables)
    if all(map(_is_sliced, iterables)):
        return Slices(iterables)  # type: ignore[arg-type]
    rows: Iterator[Any] = iter(iterables[0]) if single else zip(*iterables, strict=False)  # type: ignore[arg-type]
    if all(type(iterable) in AT_HAND for iterable in iterables):
        return AtHand(rows, single)
    return Threaded(rows, single)


def is_asynchronous(iterable: object) -> bool:
    """Whether only `async for` can take its items. (What `imap` itself returns takes both, most times.)"""
    if isinstance(iterable, Iterable):
        return bool(getattr(iterable, "is_asynchronous", False))
    return isinstance(iterable, AsyncIterable)


def _is_sliced(iterable: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return type(iterable) in SLICED or (type(iterable) is getattr(numpy, "ndarray", None) and iterable.ndim > 0)


def _columns_of(rows: list[Any], single: bool) -> Columns | None:
    if not rows:
        return None
    return (rows,) if single else tuple(map(list, zip(*rows, strict=True)))
