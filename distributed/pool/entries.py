"""Items of an `imap` on their way: what becomes one task, how its function gets there, and what became of it.

Nothing is decided here, neither how many items go together nor when they go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed.config import SETTINGS
from distributed.errors import PoolClosed, TaskCancelled
from distributed.pool.calls import Calls, Draft
from distributed.pool.chunks import AsynchronousCarrier, Carrier
from distributed.pool.core import Core
from distributed.pool.interrupts import is_of_a_handler
from distributed.pool.remote import RemoteData, TaskFailed, error_of
from distributed.pool.sources import Columns
from distributed.pool.tasks import Options
from distributed.wire.functions import call_carried, pack_function
from distributed.wire.values import pack

CALL_CARRIED = pack_function(call_carried)


class Entry:
    """Items that are one task: one, or a chunk of them."""

    __slots__ = ("columns", "count", "error", "handle", "is_again", "is_done")

    def __init__(self, columns: Columns, is_again: bool = False) -> None:
        self.columns, self.count = columns, len(columns[0])
        self.is_again = is_again  # it was in a chunk that failed as a whole
        self.rest()

    def rest(self) -> None:
        """Nothing was done for it (any more)."""
        self.handle: RemoteData | None = None
        self.error: BaseException | None = None
        self.is_done = False

    @property
    def nbytes(self) -> int:
        """The size of its packed values."""
        return self.handle.nbytes if self.handle is not None else 0

    @property
    def is_here(self) -> bool:
        """Whether its values can be opened without asking anybody."""
        return self.handle is None or self.handle._task.outcome is not None

    def pieces(self, start: int, size: int, is_again: bool) -> list[Entry]:
        """The items from `start` on, as entries of this size."""
        return [
            Entry(tuple([column[at : at + size] for column in self.columns]), is_again)
            for at in range(start, self.count, size)
        ]


class Sender:
    """A function, pickled once, and the tasks of its calls."""

    def __init__(self, core: Core, function: Callable[..., Any], name: str) -> None:
        packed = pack_function(function)
        carrier = AsynchronousCarrier if packed.asynchronous else Carrier
        self._first: Any = None  # what goes before the arguments
        self.inputs = 0  # how many of a task's inputs are the function's
        if packed.handles:
            self._first, self.inputs = function, len(packed.handles)
        elif len(packed.code) > SETTINGS.spread_bytes_min:
            self._first, self.inputs = core.put([pack(carrier(packed, name), "the function")])[0], 1
        self._function = carrier(packed if self._first is None else CALL_CARRIED, name)

    def draft(self, calls: Calls, rows: list[tuple[Any, ...]], options: Options) -> Draft:
        """A task for each row of arguments."""
        if self._first is not None:
            rows = [(self._first, row, {}) for row in rows]
        return calls.draft(self._function, rows, options)


def outcomes_of(core: Core, entries: list[Entry]) -> list[Any]:
    """A value or an error of each. Waits for workers, if values are there and not here."""
    handles = [entry.handle for entry in entries]
    if None not in handles:
        try:
            return core.values_of([handle._task for handle in handles])  # type: ignore[union-attr]
        except PoolClosed:
            raise
        except Exception as error:
            if is_of_a_handler(error):
                raise
    return [_outcome(core, entry) for entry in entries]


def _outcome(core: Core, entry: Entry) -> Any:
    if entry.handle is None:
        return entry.error or TaskCancelled("it was called off")
    task = entry.handle._task
    try:
        return core.value_of(task) if task.published == "done" else error_of(task)
    except TaskFailed as failed:
        return failed.error
    except PoolClosed:
        raise
    except Exception as error:
        if is_of_a_handler(error):
            raise
        return error
