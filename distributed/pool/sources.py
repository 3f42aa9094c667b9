"""Where the items of `imap` come from: collections that are at hand, and iterators that may block.

A source gives away what it has and never waits. What is at hand is cut into slices where it is needed. Somebody else's
iterator may take as long as it likes for its next item, or even wait for the results of those before it; so a thread
asks it, only as far ahead as there is use for. Knows nothing of tasks and workers, nor of event loops.
"""

from __future__ import annotations

import inspect
import itertools
import threading
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from distributed import arguments

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
        if not self._is_over:  # or it was closed, and nobody asks for errors
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


def is_asynchronous(iterable: object) -> bool:
    """Whether only `async for` can take its items. (What `imap` itself returns takes both, most times.)"""
    if isinstance(iterable, Iterable):
        return bool(getattr(iterable, "is_asynchronous", False))
    return isinstance(iterable, AsyncIterable)


def require_called(iterable: object) -> None:
    """A generator function is no iterable, though it looks like one to whoever wrote it."""
    if inspect.isgeneratorfunction(iterable) or inspect.isasyncgenfunction(iterable):
        raise TypeError(f"{arguments.shown(iterable)} is a function that gives items when it is called: call it")


def _columns_of(rows: list[Any], single: bool) -> Columns | None:
    if not rows:
        return None
    return (rows,) if single else tuple(map(list, zip(*rows, strict=True)))
