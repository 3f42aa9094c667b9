"""What is written by mistake, or as other systems have it, and what to write instead. Words, and who says them."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from distributed import arguments
from distributed.pool.sources import is_asynchronous, require_called

NUMBER_FIRST = dict.fromkeys(
    ("processes", "n_workers", "max_workers", "n_jobs", "workers", "ncores"), "write Pool(4) for four executors"
)
OPTIONS_FIRST = {
    name: f"options come first, pool.options({name}=...), and then the call"
    for name in ("timeout", "priority", "retries", "attempts", "recompute", "workers", "key", "resources")
}
OF_IMAP = dict.fromkeys(("chunksize", "ordered", "qsize"), "each item is a task of its own here; imap() has that")
ELSEWHERE = {  # what users of other systems write
    "join": "close() waits for what is under way",
    "map_async": "map() returns at once, and its handles take callbacks",
    "starmap_async": "starmap() returns at once, and its handles take callbacks",
    "persist": "results stay with the workers as long as there are handles of them",
    "compute": "submit() and map() give handles; gather() takes their values",
    "shutdown": "close() ends the pool; the standard interface is `Executor`",
}
READ_MANY = 2_000_000  # items that `map` has taken out of something that does not know its length


def require_plain(method: str, iterables: Iterable[Any]) -> None:
    """Iterables that can be read here and now; others are told of what can read them."""
    for iterable in iterables:
        if is_asynchronous(iterable):
            kind = type(iterable).__name__
            raise TypeError(f"{method}() cannot wait for an {kind}: imap() takes asynchronous input, with `async for`")
        require_called(iterable)
        arguments.iterable("each of iterables", iterable)


def watched(calls: Iterator[Any], iterables: Iterable[Any]) -> Iterator[Any]:
    """The same calls; tells whoever has input without end why the memory becomes less."""
    if not any(hasattr(type(iterable), "__len__") for iterable in iterables):  # the shortest ends it
        yield from itertools.islice(calls, READ_MANY)
        for call in calls:
            told = f"map() has taken {READ_MANY:,} items and goes on; imap() is for input that is long or has no end"
            warnings.warn(told, stacklevel=5)
            yield call
            break
    yield from calls
