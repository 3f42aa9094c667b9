"""`Executor`: a pool as a ``concurrent.futures.Executor``, whose futures are real ones.

A future differs from a handle in what it promises: when it is done its value is here. So results are fetched as they
come, on a few threads, and the data on the workers is given up. Whoever wants results to stay where they are made, and
to be arguments of other tasks there, uses a `Pool`.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future
from concurrent.futures import Executor as StandardExecutor
from typing import TYPE_CHECKING, Any

from distributed import arguments
from distributed.config import SETTINGS
from distributed.errors import CannotPickle, DistributedError, InitializerFailed, PoolClosed, TaskCancelled
from distributed.pool.callbacks import CallbackThread
from distributed.pool.events import CancelAsked
from distributed.pool.pool import Pool
from distributed.pool.remote import RemoteData, TaskFailed
from distributed.pool.tasks import DONE, SENT, Task

if TYPE_CHECKING:
    from distributed.cluster.local import Cluster

FETCHING_THREADS = 4
LOOK_INTERVAL_S = 1.0  # how often somebody who waits for everything looks whether the pool is still there


class RemoteFuture(Future):
    """The future of one call. `cancel` succeeds until the call is sent to a worker."""

    def __init__(self, work: _Work) -> None:
        super().__init__()
        self._work = work
        self._handle: RemoteData | None = None  # until it is done

    def cancel(self) -> bool:
        """Cancel the call unless it is under way at a worker, or done. (To stop a running one, set a time limit.)"""
        handle = self._handle
        if not self.done() and (handle is None or not self._work.withdraw(handle)):
            return False
        if not super().cancel():
            return False
        self._work.end(self)
        return True

    def _note_cancelled(self) -> None:
        """The task was cancelled by somebody else: one that it depends on was, or the whole pool ends."""
        super().cancel()

    def running(self) -> bool:
        """Whether the call was sent to a worker, where it runs or is about to."""
        handle = self._handle
        return not self.done() and handle is not None and handle._task.status == SENT


class Executor(StandardExecutor):
    """Run calls on a cluster, by the interface of ``concurrent.futures``.

    Parameters
    ----------
    address_or_workers : str, int, Cluster or None
        As for `Pool`: the center of a cluster, or the number of executors of a local one that ends with this.
    max_workers : int
        The number of executors by its usual name.
    initializer, initargs
        ``initializer(*initargs)`` runs once in each executor, before its first call. If it raises, this is broken.

    Examples
    --------
    >>> from concurrent.futures import as_completed
    >>> with Executor(2) as executor:
    ...     sorted(future.result() for future in as_completed([executor.submit(pow, 2, 3), executor.submit(pow, 2, 4)]))
    [8, 16]
    """

    @arguments.nearest_names()
    def __init__(
        self,
        address_or_workers: str | int | Cluster | None = None,
        *,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        if max_workers is not None:
            if address_or_workers is not None:
                raise TypeError("max_workers= starts a local cluster: it does not go with an address")
            if type(max_workers) is int and max_workers < 1:
                raise ValueError("max_workers must be greater than 0")  # in the words of the standard library
            address_or_workers = arguments.count("max_workers", max_workers, 1, SETTINGS.executors_max)
        pool = Pool(address_or_workers, initializer=initializer, initargs=initargs)
        self._work = work = _Work(pool)
        pool._at_exit = work.finish_at_exit
        self._finalizer = weakref.finalize(self, work.shut)
        self._finalizer.atexit = False  # the pool's own end at exit comes to `finish_at_exit`

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> RemoteFuture:
        """Run ``fn(*args, **kwargs)`` on a worker; returns its future at once."""
        return self._work.submit(lambda pool: [pool.submit(fn, *args, **kwargs)], 1)[0]

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """The values of ``fn(*items)``, in order; the items of several iterables side by side, up to the shortest.

        Parameters
        ----------
        timeout : float
            Seconds from now; a value that is not there by then is a TimeoutError.
        chunksize : int
            How many calls are sent together, as one task.
        buffersize : int
            How many tasks may be under way or wait to be taken; the iterables are consumed as values are taken.
        """
        timeout = arguments.timeout("timeout", timeout)
        fn = arguments.function(fn)
        arguments.count("chunksize", chunksize, 1)
        if buffersize is not None:
            arguments.count("buffersize", buffersize, 1)
        end = None if timeout is None else time.monotonic() + timeout
        rows: Iterator[tuple[Any, ...]] = zip(*iterables, strict=False)
        function = fn
        if chunksize > 1:
            function = _Chunked(fn)
            rows = iter(lambda calls=rows: tuple(itertools.islice(calls, chunksize)), ())  # type: ignore[misc]
        first = list(rows if buffersize is None else itertools.islice(rows, buffersize))
        pending = deque(self._work.map(function, first))
        values = _values(pending, end, iter(()) if buffersize is None else rows, self._work, function)
        return itertools.chain.from_iterable(values) if chunksize > 1 else values

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; those that were submitted end first, or, with `cancel_futures`, those under way.

        With ``wait=False`` that goes on behind the caller's back, also while the interpreter ends.
        """
        self._work.shut(arguments.truth("wait", wait), arguments.truth("cancel_futures", cancel_futures))

    @property
    def _broken(self) -> str:
        return self._work.why_broken

    def __repr__(self) -> str:
        return f"<Executor of {self._work.pool!r}>"


class _Chunked:
    """A function of several calls' arguments; what one of them raises is raised for all."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__qualname__ = getattr(function, "__qualname__", type(function).__qualname__)
        self.__module__ = getattr(function, "__module__", "")

    def __call__(self, *calls: tuple[Any, ...]) -> list[Any]:
        return [self._function(*args) for args in calls]


def _values(
    pending: deque[RemoteFuture],
    end: float | None,
    rows: Iterator[tuple[Any, ...]],
    work: _Work,
    function: Callable[..., Any],
) -> Iterator[Any]:
    """The values in order, none of which has a name here: who takes one is the only one who has it."""
    try:
        while pending:
            yield _value(pending.popleft(), end)
            pending.extend(work.map(function, list(itertools.islice(rows, 1))))
    finally:
        while pending:
            pending.pop().cancel()


def _value(future: RemoteFuture, end: float | None) -> Any:
    try:
        return future.result(None if end is None else end - time.monotonic())
    finally:
        future.cancel()  # if it is late


class _Work:
    """What an executor has under way. It refers to no `Executor`, whose end must be noticed while this goes on."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.why_broken = ""
        self._is_shut = self._is_ending = False
        self._is_ended = threading.Event()
        self._lock = threading.Condition()
        self._under_way: dict[str, RemoteFuture] = {}  # by key
        self._submitting = 0  # threads that make tasks of calls just now
        self._fetching = [CallbackThread() for _ in range(FETCHING_THREADS)]
        self._turn = itertools.cycle(self._fetching)

    # -------------------------------------------------------------------------------------------------------- begin

    def submit(self, send: Callable[[Pool], list[RemoteData]], count: int) -> list[RemoteFuture]:
        """The futures of what `send` submits. It runs the user's code, and may wait for room: without the lock."""
        with self._lock:
            if self.why_broken:
                raise BrokenExecutor(self.why_broken)
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._submitting += 1
        futures, handles = [RemoteFuture(self) for _ in range(count)], []
        try:
            handles = send(self.pool)
        except CannotPickle as error:
            for future in futures:
                future.set_exception(error)
            return futures
        except PoolClosed as error:
            self.why_broken = str(error)
            raise BrokenExecutor(self.why_broken) from error
        finally:
            self._submitted(futures, handles)
        try:
            self.pool._core.watch([handle._task for handle in handles], self._arrived)
        except PoolClosed:  # just now
            for handle in handles:
                self._arrived(handle._task)
        return futures

    def _submitted(self, futures: list[RemoteFuture], handles: list[RemoteData]) -> None:
        with self._lock:
            for future, handle in zip(futures, handles, strict=False):
                future._handle = handle
                self._under_way[handle.key] = future
            self._submitting -= 1
        self._end_if_idle()

    def map(self, function: Callable[..., Any], rows: list[tuple[Any, ...]]) -> list[RemoteFuture]:
        """The futures of one call for each row."""
        return self.submit(lambda pool: pool.starmap(function, rows), len(rows)) if rows else []

    # ---------------------------------------------------------------------------------------------------------- end

    def _arrived(self, task: Task) -> None:
        """There is an outcome; called on any thread, and quick."""
        future = self._under_way.get(task.key)
        if future is not None:
            is_here = task.status != DONE or task.outcome is not None
            thread = self._fetching[0] if is_here else next(self._turn)
            thread.put(self._finish, future, task)

    def _finish(self, future: RemoteFuture, task: Task) -> None:
        if not future.done():
            try:
                value = self.pool._core.value_of(task)
            except TaskFailed as failed:
                self._fail(future, failed.error)
            except BaseException as error:  # noqa: BLE001 - unpickling is foreign code
                self._fail(future, error)
            else:
                if future.set_running_or_notify_cancel():
                    future.set_result(value)
                del value
        self.end(future)

    def _fail(self, future: RemoteFuture, error: BaseException) -> None:
        if isinstance(error, (InitializerFailed, PoolClosed)):
            self._break(str(error))
            broken = BrokenExecutor(self.why_broken)
            broken.__cause__ = error
            error = broken
        elif isinstance(error, TaskCancelled):
            future._note_cancelled()
            return
        if future.set_running_or_notify_cancel():
            future.set_exception(error)

    def _break(self, reason: str) -> None:
        """Nothing can run any more."""
        with self._lock:
            self.why_broken = self.why_broken or reason
            others = list(self._under_way.values())
        for future in others:
            handle = future._handle
            if handle is not None and handle.status == "pending":
                self.pool._core.post(CancelAsked([handle._task], PoolClosed(reason)))

    def withdraw(self, handle: RemoteData) -> bool:
        """Cancel a task that was not sent to a worker yet; whether it was."""
        try:
            return self.pool._core.driver.cancel_unsent(handle._task)
        except DistributedError:  # the pool is closed, and everything has an outcome
            return False

    def end(self, future: RemoteFuture) -> None:
        """A future is done: it needs nothing more of the pool."""
        with self._lock:
            handle, future._handle = future._handle, None
            if handle is None:
                return
        if future.cancelled():
            future.set_running_or_notify_cancel()
        with self._lock:
            del self._under_way[handle.key]
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        with self._lock:
            if self._is_busy:
                return
            self._lock.notify_all()
        if self._is_shut:
            threading.Thread(target=self._end_pool, name="distributed-shutdown", daemon=True).start()

    @property
    def _is_busy(self) -> bool:
        return bool(self._under_way or self._submitting)

    def shut(self, wait: bool = False, cancel_futures: bool = False) -> None:
        """No more calls; close the pool when nothing is under way."""
        with self._lock:
            self._is_shut = True
            under_way = list(self._under_way.values())
        if cancel_futures:
            for future in under_way:
                future.cancel()
        del under_way
        if wait:
            self._wait_for_all()
        if wait or not self._is_busy:
            self._end_pool()
        if wait:
            self._is_ended.wait(SETTINGS.close_timeout_s)  # another thread may be at it

    def finish_at_exit(self) -> None:
        """The interpreter ends: what was submitted is finished first, as with the standard library's executors."""
        self.shut(wait=True)

    def _wait_for_all(self) -> None:
        with self._lock:
            while self._is_busy and not self.pool._core.driver.closed:
                self._lock.wait(LOOK_INTERVAL_S)

    def _end_pool(self) -> None:
        with self._lock:
            is_first, self._is_ending = not self._is_ending, True
        if is_first:
            self.pool.close()
            for thread in self._fetching:
                thread.close(0.0)
            self._is_ended.set()
