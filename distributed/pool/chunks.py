"""What `imap` sends to executors: a function that travels as bytes made once, and many calls of it as one task.

The only module of the pool that executors import, so it knows nothing of the rest: no tasks, no handles, no workers.
A chunk answers `(values, errors, seconds)`: the values of the first calls it made, the packed exceptions of those that
raised, by position, and how long that took. It stops when its time is over; whoever sent it sees from the number of
values what is left to do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import islice
from time import monotonic
from typing import Any

from distributed.wire.functions import PackedFunction, behind_renewal, pack_function, unpack_function
from distributed.wire.values import pack_exception

STEP_S = 0.001  # the clock is read about so often; for tiny functions reading it each time took longer than the calls
Answer = tuple[list[Any], dict[int, bytes], float]


class Chunk:
    """The arguments of many calls, column by column. Not a list: it is no argument that might be stored apart."""

    __slots__ = ("columns", "limit_s")

    def __init__(self, columns: tuple[Sequence[Any], ...], limit_s: float) -> None:
        self.columns, self.limit_s = columns, limit_s

    def __reduce__(self) -> Any:
        return Chunk, (self.columns, self.limit_s)


def run_chunk(function: Callable[..., Any], chunk: Chunk) -> Answer:
    """Call the function with each row of the chunk, whatever it raises, until all is done or the time is over.

    >>> values, errors, _ = run_chunk(lambda x: 6 // x, Chunk(([1, 0, 3],), 10.0))
    >>> values, list(errors)
    ([6, None, 2], [1])
    """
    columns, count = chunk.columns, len(chunk.columns[0])
    results = map(function, *columns)
    values: list[Any] = []
    errors: dict[int, bytes] = {}
    began_s = now_s = monotonic()
    step = 1
    while len(values) < count:
        target = min(len(values) + step, count)
        try:
            values.extend(islice(results, target - len(values)))  # at C speed; what came before an error stays
            if len(values) < target:
                raise StopIteration  # the function did: for `map` and `islice` that is only an end
        except BaseException as error:  # noqa: BLE001  whatever a task raises is its outcome
            errors[len(values)] = _packed(error)
            values.append(None)
        then_s, now_s = now_s, monotonic()
        if now_s - began_s > chunk.limit_s:
            break
        step = step * 4 if now_s - then_s < STEP_S else max(1, step // 4)
    return values, errors, now_s - began_s


def each_of(function: Callable[..., Any]) -> Callable[[Chunk], Answer]:
    """The function that runs a chunk of this one, which is packed by itself: an object in it is new for each call."""
    packed = pack_function(function)
    return functools.partial(run_chunk, function if packed.handles else Carrier(packed, packed.name))


def _packed(error: BaseException) -> bytes:
    """An exception with its traceback, which begins behind our own frame."""
    trace = error.__traceback__
    try:
        return pack_exception(error.with_traceback(behind_renewal(trace and trace.tb_next)))
    except Exception as reason:  # noqa: BLE001  the exception's own methods may do anything
        kind = type(error).__name__
        return pack_exception(RuntimeError(f"a task raised {kind}, which cannot be sent: {type(reason).__name__}"))


class Carrier:
    """A function that was pickled once, for as many tasks as may come; elsewhere it is that function again."""

    def __init__(self, packed: PackedFunction, name: str) -> None:
        self._code = packed.code
        self.__module__, _, self.__qualname__ = name.partition(".")  # what errors and `explain` call the tasks

    def __reduce__(self) -> Any:
        return unpack_function, (self._code,)

    def __call__(self, *args: Any) -> Any:
        raise TypeError("this function is on its way to other processes")


class AsynchronousCarrier(Carrier):
    """The same for a coroutine function: whoever asks is told that it is one."""

    async def __call__(self, *args: Any) -> Any:
        raise TypeError("this function is on its way to other processes")
