"""`RemoteData`, the handle a user holds, and what waits for many of them.

A handle is a task and the pool that owns it. It refuses to know where values are or how they come: it asks the pool.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import queue
import threading
import time
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from distributed import arguments
from distributed.errors import GroupFailed, KeyLost
from distributed.pool.events import CancelAsked, Unexported
from distributed.pool.tasks import DONE, FAILED, Task
from distributed.quantities import size
from distributed.wire.exceptions import unpack_exception
from distributed.wire.pickles import reduce_handle

if TYPE_CHECKING:
    import asyncio

    from distributed.pool.core import Core

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "AsCompleted",
    "CancelledError",
    "Done",
    "Failure",
    "RemoteData",
    "as_completed",
    "wait",
]


@dataclasses.dataclass(frozen=True)
class Failure:
    """What ``get(reraise=False)`` gives for a task that failed: the exception, wrapped so that it can't be a result."""

    exception: BaseException


class RemoteData:
    """A value that is, or will be, on a worker. Pass it to tasks as if it were the value.

    Like any future it is true in itself, whatever its value: ``if handle.get():`` asks for that.

    >>> nine = pool.submit(pow, 3, 2)
    >>> pool.submit(sum, [nine, 1]).get()       # found wherever it hides in the arguments
    10
    """

    __slots__ = ("__weakref__", "_core", "_task")

    def __init__(self, core: Core, task: Task) -> None:
        self._core = core  # whoever makes a handle adds it to the core's holds
        self._task = task

    def __repr__(self) -> str:
        if isinstance(self._core, Released):
            return f"<RemoteData: {self.key}, released>"
        task = self._task
        nbytes = f", {size(task.nbytes)}" if task.status == DONE else ""
        name = f" {task.kind.name}" if task.kind is not None else ""
        return f"<RemoteData{name}: {task.key}, {self.status}{nbytes}>"

    # ------------------------------------------------------------------------------------------------ what it is

    @property
    def key(self) -> str:
        """The name under which workers and center know the value."""
        return self._task.key

    @property
    def living_task(self) -> Task:
        """What this handle stands for; `KeyLost` if it was given up."""
        self._core.client  # noqa: B018 - a handle that was given up raises here
        return self._task

    @property
    def nbytes(self) -> int:
        """The size of the packed value; 0 until it is there."""
        return self._task.nbytes

    @property
    def status(self) -> str:
        """'pending', 'done', 'failed' or 'cancelled'; once it is one of the latter three it stays so."""
        return self._task.published or "pending"

    def explain(self) -> str:
        """Why the task is where it is just now, or why it has no value, in a sentence."""
        if self.status in ("failed", "cancelled"):
            name = self._task.kind.name if self._task.kind is not None else self.key
            why = "".join(traceback.format_exception_only(error_of(self._task))).strip()
            return f"{name} {'was cancelled' if self.cancelled() else 'failed'}: {why}"
        return self._core.explain(self._task)

    # ------------------------------------------------------------------------------------------------ waiting for it

    def ready(self) -> bool:
        """Whether there is an outcome, good or bad. Never waits, never raises."""
        return bool(self._task.published)

    done = ready

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the outcome, at most `timeout` seconds; whether it is there. Does not raise what the task raised."""
        task = self._task
        if timeout is not None:
            timeout = arguments.timeout("timeout", timeout)
        return bool(task.published) or self._core.wait(lambda: bool(task.published), timeout)

    def successful(self) -> bool:
        """Whether the task ended without an error. ValueError while it has not ended, as in multiprocessing."""
        if not self._task.published:
            raise ValueError(f"{self!r} is not ready")
        return self._task.published == "done"

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.status == "cancelled"

    def get(self, timeout: float | None = None, reraise: bool = True) -> Any:
        """The value. What the task raised is raised here, with the remote traceback as its cause.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; then TimeoutError. The task goes on.
        reraise : bool
            False: return a `Failure` that holds the exception, instead of raising it.
        """
        if timeout is not None:
            timeout = arguments.timeout("timeout", timeout)
        if reraise is not True:
            arguments.truth("reraise", reraise)
        try:
            return self._core.value_of(self._task, timeout)
        except TaskFailed as failed:
            error = failed.error
        if not reraise:
            return Failure(error)
        try:
            raise error
        finally:
            del error  # the traceback would refer to this frame, and the frame to the error

    def result(self, timeout: float | None = None) -> Any:
        """The value; the name that concurrent.futures uses."""
        return self.get(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the task raised, or None. Waits."""
        if not self.wait(timeout):
            raise TimeoutError(f"{self!r} has no outcome after {timeout} s")
        return None if self._task.published == "done" else error_of(self._task)

    def __await__(self) -> Generator[Any, None, Any]:
        if not self._task.published:
            yield from self._arrival().__await__()
        if self._task.status == FAILED or self._task.outcome is not None:
            return self.get()
        import asyncio  # here and below: whoever awaits has it already, and the others start without

        return (yield from asyncio.to_thread(self.get).__await__())

    def _arrival(self) -> asyncio.Future[None]:
        import asyncio

        loop = asyncio.get_running_loop()
        arrival: asyncio.Future[None] = loop.create_future()

        def arrive() -> None:
            if not arrival.done():
                arrival.set_result(None)

        def tell(task: Task) -> None:
            try:
                loop.call_soon_threadsafe(arrive)
            except RuntimeError:  # the loop was closed: nobody waits any more
                pass

        self._core.watch([self._task], tell)
        return arrival

    def add_done_callback(self, callback: Callable[[RemoteData], object]) -> None:
        """Call `callback` with this handle when there is an outcome; on a thread that is there for callbacks."""
        if not callable(callback):
            raise TypeError(f"callback={arguments.shown(callback)} must be a function that takes a handle")
        core = self._core
        core.watch([self._task], lambda task: core.call_later(callback, self))

    # ------------------------------------------------------------------------------------------------ ending it

    def cancel(self) -> bool:
        """Stop the task, also a running one. Whether it was cancelled.

        False if it had an outcome already, or is another client's.
        """
        task = self._task
        if not task.published and not task.borrowed:
            self._core.post(CancelAsked([task]))
            self._core.wait(lambda: bool(task.published))
        return self.cancelled()

    def release(self) -> None:
        """Give the value up now, also one whose handle was pickled for others. The handle is of no use afterwards."""
        if not isinstance(self._core, Released):
            core, task = self._core, self._task
            self._core = Released(task.key)  # type: ignore[assignment]
            core.lent.pop(task.key, None)
            core.post(Unexported(task))
            core.holds.end(self)

    # ------------------------------------------------------------------------------------------------ travelling

    def reference(self) -> list[Any]:
        """What a packed value says of a handle in it."""
        return self._task.reference()

    def reduce_outside(self) -> Any:
        """Pickled by the user: pin it, and tell the reader where to ask."""
        return self._core.lend(self._task)

    def __reduce__(self) -> Any:
        return reduce_handle(self)

    def __copy__(self) -> RemoteData:
        return self

    def __deepcopy__(self, memo: object) -> RemoteData:
        return self

    def _no_value(self, *others: object) -> NoReturn:
        raise TypeError(
            f"{self!r} stands for a value and is none: get() waits for it, pool.gather() for several, "
            "and as an argument of a task it is its value"
        )


for _operation in (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "rfloordiv", "mod", "pow"),
    *("neg", "abs", "int", "float", "index", "round", "lt", "le", "gt", "ge"),
):
    setattr(RemoteData, f"__{_operation}__", RemoteData._no_value)


class Released:
    """What a handle has instead of a pool once it was given up: whatever is asked of it, the answer is the reason."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __getattr__(self, name: str) -> Any:
        raise KeyLost(self._key, "its handle was released")


class TaskFailed(Exception):
    """Inside this package: the task has an error, which is not raised yet."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


def error_of(task: Task) -> BaseException:
    """The error of a failed task; a new object each time, because raising writes into it."""
    if isinstance(task.outcome, bytes):
        return unpack_exception(task.outcome) if task.outcome else KeyLost(task.key, "its owner released it")
    error: BaseException = copy.copy(task.outcome)
    if isinstance(error, GroupFailed) and error.raised:
        error.__cause__ = unpack_exception(error.raised)
    return error


# ------------------------------------------------------------------------------------------------------------ of many


class Done(NamedTuple):
    """What `wait` returns."""

    done: set[RemoteData]
    not_done: set[RemoteData]


class Arrivals:
    """Where finished tasks arrive. The pool refers to this and not to the iterator, which may be dropped half-way.

    That it was dropped is noted by a weak reference, as with handles: a signal could arrive in a `__del__`.
    """

    def __init__(self, iterator: AsCompleted) -> None:
        self.queue: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self.alert: Callable[[], object] = lambda: None
        self.forsaken: list[Any] = []  # not empty: nobody will ask
        self._iterator = weakref.ref(iterator, self.forsaken.append)

    def __call__(self, task: Task) -> None:
        """Called by the pool, on any thread."""
        self.queue.put(task)
        self.alert()


class AsCompleted:
    """Handles in the order in which they finish; for ``for`` and ``async for``."""

    def __init__(self, handles: Iterable[RemoteData], timeout: float | None = None) -> None:
        timeout = arguments.timeout("timeout", timeout)
        self._by_task: dict[int, collections.deque[RemoteData]] = {}
        by_pool: dict[int, list[RemoteData]] = {}
        for handle in handles_in(handles):
            self._by_task.setdefault(id(handle._task), collections.deque()).append(handle)
            by_pool.setdefault(id(handle._core), []).append(handle)
        self._arrivals = Arrivals(self)
        self._arrived = self._arrivals.queue
        self._left = sum(map(len, self._by_task.values()))
        self._cores = [group[0]._core for group in by_pool.values()]
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._watched = [(group[0]._core, [handle._task for handle in group]) for group in by_pool.values()]
        for core, tasks in self._watched:
            core.watch(tasks, self._arrivals)
        self._turn = threading.RLock()
        self._loop: Any = None  # whose tasks share this lock
        self._turn_in_loop: Any = None

    def close(self) -> None:
        """Nobody will ask for the others any more."""
        watched, self._watched = self._watched, []
        for core, tasks in watched if self._left else ():
            core.unwatch(tasks, self._arrivals)

    def __iter__(self) -> Iterator[RemoteData]:
        return self

    def __next__(self) -> RemoteData:
        with self._turn:  # several threads may share the iterator: what one waits for is not taken by another
            if not self._left:
                raise StopIteration
            if self._arrived.empty():
                self._wait()
            return self._take()

    def _take(self) -> RemoteData:
        task = self._arrived.get_nowait()
        self._left -= 1
        return self._by_task[id(task)].popleft()

    def _wait(self) -> None:
        left_s = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        if len(self._cores) == 1:
            arrived = self._cores[0].wait(lambda: not self._arrived.empty(), left_s)
        else:
            arrived = self._wait_for_several(left_s)
        if not arrived:
            raise self._late()

    def _late(self) -> TimeoutError:
        return TimeoutError(f"{self._left} of the handles have no outcome in time")

    def _wait_for_several(self, left_s: float | None) -> bool:
        """Handles of several pools: each pool's own thread brings its outcomes."""
        try:
            task = self._arrived.get(timeout=left_s)
        except queue.Empty:
            return False
        self._arrived.put(task)
        return True

    def __aiter__(self) -> AsyncIterator[RemoteData]:
        return self

    async def __anext__(self) -> RemoteData:
        import asyncio

        loop, something = asyncio.get_running_loop(), asyncio.Event()
        if self._loop is not loop:
            self._loop, self._turn_in_loop = loop, asyncio.Lock()
        async with self._turn_in_loop:  # as above, for the tasks of a loop
            if not self._left:
                raise StopAsyncIteration
            self._arrivals.alert = lambda: None if loop.is_closed() else loop.call_soon_threadsafe(something.set)
            try:
                left_s = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
                if self._arrived.empty():
                    await asyncio.wait_for(something.wait(), left_s)
            except TimeoutError:
                raise self._late() from None
            finally:
                self._arrivals.alert = lambda: None
            return self._take()


def handle_of(item: Any) -> Any:
    """A `Deferred` counts as its handle, and is not waited for; anything else is itself."""
    return item._self_handle if getattr(type(item), "travels_as_handle", False) else item


def handles_in(handles: Iterable[Any]) -> list[RemoteData]:
    """A list of handles, or of what counts as one."""
    found = []
    for item in arguments.iterable("handles", handles, "a list of handles"):
        handle = handle_of(item)
        if not isinstance(handle, RemoteData):
            raise TypeError(f"each of handles must be a handle of a pool, not {arguments.shown(handle)}")
        found.append(handle)
    return found


def as_completed(handles: Iterable[RemoteData], timeout: float | None = None) -> AsCompleted:
    """Iterate over handles in the order in which they finish; ``for`` and ``async for``.

    >>> sorted(handle.get() for handle in as_completed(pool.map(abs, [-1, -2, 3])))
    [1, 2, 3]
    """
    return AsCompleted(handles, timeout)


def wait(handles: Collection[RemoteData], timeout: float | None = None, return_when: str = ALL_COMPLETED) -> Done:
    """Wait for handles, as `concurrent.futures.wait` does; returns which are done and which are not.

    Parameters
    ----------
    return_when : str
        ALL_COMPLETED, FIRST_COMPLETED or FIRST_EXCEPTION, as in concurrent.futures.
    """
    if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        shown = arguments.shown(return_when)
        raise ValueError(f"return_when={shown} is none of ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION")
    handles = handles_in(handles)
    first = None if return_when == ALL_COMPLETED else _is_failed if return_when == FIRST_EXCEPTION else RemoteData.ready
    completed = as_completed(handles, timeout)
    try:
        for handle in completed:
            if first is not None and first(handle):
                break
    except TimeoutError:
        pass
    finally:
        completed.close()
    done = {handle for handle in handles if handle.ready()}
    return Done(done, set(handles) - done)


def _is_failed(handle: RemoteData) -> bool:
    return handle.status == "failed"
