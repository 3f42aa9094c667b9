"""`Pool`: the face that users see. Each method says what it does in terms of tasks and values; the core does it."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from distributed import arguments
from distributed.cluster.local import Cluster
from distributed.cluster.meaning import meant_by
from distributed.config import SETTINGS
from distributed.errors import DistributedError, NameUnknown, PoolClosed
from distributed.pool.calls import Calls
from distributed.pool.core import CORES, Core
from distributed.pool.events import RestartAsked, Shown
from distributed.pool.hints import ELSEWHERE, NUMBER_FIRST, OF_IMAP, OPTIONS_FIRST, require_plain, watched
from distributed.pool.lending import keys_within
from distributed.pool.needs import Needs
from distributed.pool.remote import RemoteData, handle_of
from distributed.pool.tasks import Options, Task
from distributed.quantities import count
from distributed.resources import amounts
from distributed.uploads import gather
from distributed.wire.functions import is_asynchronous as gives_coroutine
from distributed.wire.messages import HasWhat, LookUp, Ncores, Output, Publish, Status, Unpublish, WhoHas
from distributed.wire.security import find_secret
from distributed.wire.serializers import serializer as chosen
from distributed.wire.values import pack

if TYPE_CHECKING:
    from distributed.pool.deferred import Deferred
    from distributed.pool.stream import Stream

ENDING_S = 1.5  # of the time to close is kept for the end itself, and of that
GOODBYE_S = 0.5  # so much for the center's answer
NAMES_COMPARED = 1000  # with one that does not exist
KEYS_ASKED = 10_000  # in one message: a million at once would be more than a message may have


class Pool:
    """A client of a cluster: submits tasks, places them, holds their results by handles.

    Parameters
    ----------
    address : str, int, Cluster or None
        ``'host:port'`` of a center joins its cluster. A number starts a local cluster with that many executors, which
        ends with the pool; nothing starts one executor per core. A `Cluster` is joined. Under
        ``python -m distributed.mpi`` nothing joins the cluster of the MPI job.
    hosts : list of str
        Other machines that compute for this pool, beside its local executors: ``ssh://user@host:port/8``, to which the
        system's ssh leads without a password. ``Pool(0, hosts)`` has no local executors.
    initializer, initargs
        ``initializer(*initargs)`` runs once in each executor, before its first task of this pool. If it raises,
        or crashes, the task is not run and has the error `InitializerFailed`, whose cause is what was raised.
    serializer
        How functions, arguments and results are pickled: ``'auto'``, plain pickle where that is right and cloudpickle
        where it is not; ``'pickle'``, ``'cloudpickle'`` or ``'dill'``, this one alone; or an object or module with
        ``dumps(value)`` and ``loads(data)``, for arguments and results.

    Examples
    --------
    >>> from distributed import Pool
    >>> with Pool(2) as pool:
    ...     squares = pool.map(lambda x: x ** 2, range(4))
    ...     pool.submit(sum, squares).get()
    14
    """

    @arguments.nearest_names(NUMBER_FIRST)
    def __init__(
        self,
        address: str | int | Cluster | None = None,
        hosts: Iterable[str] = (),
        *,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        serializer: Any = "auto",
    ) -> None:
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer={arguments.shown(initializer)} is not callable")
        if initializer is not None and gives_coroutine(initializer):
            shown = arguments.shown(initializer)
            raise TypeError(f"initializer={shown} is a coroutine function: it must be a plain one, which is called")
        initargs = tuple(arguments.iterable("initargs", initargs))
        if initargs and initializer is None:
            raise TypeError(f"initargs={arguments.shown(initargs)} are arguments of an initializer, and there is none")
        how = chosen(serializer)
        needs = Needs(initializer, initargs, how)
        self._owned = None
        try:
            center, self._owned = meant_by(address, hosts)
            self._core = Core(center, find_secret())
        except BaseException as error:
            if self._owned is not None:
                self._owned.close()
            if isinstance(error, DistributedError):  # its message says all, and the way to it nothing
                raise error.with_traceback(None) from None
            raise
        if self._owned is not None:
            self._core.driver.dialler.why_over = self._owned.why_over
        self._core.wait_for_members()
        self._at_exit: Callable[[], object] = self.terminate
        self._options = Options()
        self._calls = Calls(self._core, needs, how)
        self._core.driver.on_output = show
        _OPEN[id(self._core)] = self
        atexit.unregister(_end_open_pools)  # and again: it has to run before what ends the daemons started by now
        atexit.register(_end_open_pools)

    def __repr__(self) -> str:
        if self._core.driver.closed:
            return f"<Pool {self._core.center}: closed>"
        workers = self._core.state.workers.values()
        cores = sum(view.member.ncores for view in workers)
        tasks = self._core.state.unfinished
        told = f"{count(len(workers), 'worker')}, {count(cores, 'core')}, {count(tasks, 'task')}"
        return f"<Pool {self._core.center}: {told}>"

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            told = f": {ELSEWHERE[name]}" if name in ELSEWHERE else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{told}", name=name, obj=self)

    # ------------------------------------------------------------------------------------------------ running functions

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> RemoteData:
        """Run ``function(*args, **kwargs)`` on a worker; returns its handle at once.

        >>> pool.submit(divmod, 17, 5).get()
        (3, 2)
        """
        return self._calls.one(function, args, kwargs, self._options)

    @arguments.nearest_names(OPTIONS_FIRST | OF_IMAP)
    def map(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> list[RemoteData]:
        """Run the function on each item (on items of several iterables side by side, up to the shortest).

        >>> [handle.get() for handle in pool.map(pow, [2, 3], [5, 2])]
        [32, 9]
        """
        if not iterables:
            raise TypeError("map() needs at least one iterable")
        arguments.function(function)  # before the iterables: whoever exchanged the two is told of the first
        require_plain("map", iterables)
        at_hand = all(type(iterable) in (list, tuple, range) for iterable in iterables)
        calls = zip(*iterables, strict=False)
        return self._calls.many(function, calls if at_hand else watched(calls, iterables), self._options, at_hand)

    @arguments.nearest_names(OPTIONS_FIRST | OF_IMAP)
    def starmap(self, function: Callable[..., Any], iterable: Iterable[Iterable[Any]]) -> list[RemoteData]:
        """Like `map`, with the arguments of each call already in a tuple.

        >>> [handle.get() for handle in pool.starmap(pow, [(2, 5), (3, 2)])]
        [32, 9]
        """
        require_plain("starmap", (iterable,))
        return self._calls.many(function, watched(map(_arguments_of_call, iterable), [iterable]), self._options)

    @arguments.nearest_names(OPTIONS_FIRST)
    def imap(
        self,
        function: Callable[..., Any],
        *iterables: Iterable[Any] | AsyncIterable[Any],
        qsize: int | None = None,
        ordered: bool = True,
        chunksize: int | None = None,
    ) -> Stream:
        """Run the function on each item, and iterate over the values as they come: with ``for`` or ``async for``.

        The input is consumed as it is needed, so it may have no end. It may also be asynchronous; then, so must be the
        loop. What is under way or waits to be taken is limited in number and in bytes. Leaving the loop cancels it.

        Parameters
        ----------
        qsize : int
            How many items may be under way or waiting to be taken. Default: as many as keep the workers busy.
        ordered : bool
            False: values in the order in which they are done, as `imap_unordered`.
        chunksize : int
            Items in one task. Default: as many as take some milliseconds, by what was measured so far; one, if it
            takes long. A function that raises fails for one item alone. With one of the options ``timeout``,
            ``retries``, ``attempts`` and ``recompute``, and for coroutine functions, each item is a task of its own.

        Examples
        --------
        >>> import itertools
        >>> list(pool.imap(pow, [2, 3], [5, 2]))
        [32, 9]
        >>> for square in pool.imap(lambda x: x * x, itertools.count()):
        ...     if square > 100:
        ...         break
        >>> square
        121
        """
        from distributed.pool.inputs import source_of  # here: only who uses it pays for the event loop
        from distributed.pool.pipeline import Pipeline
        from distributed.pool.stream import Stream

        if not iterables:
            raise TypeError("imap() needs at least one iterable")
        if qsize is not None:
            arguments.count("qsize", qsize, 1)
        if chunksize is not None:
            arguments.count("chunksize", chunksize, 1)
        if self._options.key:
            raise ValueError("key= names one result; it goes with submit and apply, not with imap")
        arguments.truth("ordered", ordered)
        self._core.require_open()
        pipeline = Pipeline(
            self._core, self._calls, self._options, function, source_of(iterables),
            ordered=ordered, qsize=qsize, chunksize=chunksize,
        )  # fmt: skip
        return Stream(pipeline)

    @arguments.nearest_names(OPTIONS_FIRST)
    def imap_unordered(
        self,
        function: Callable[..., Any],
        *iterables: Iterable[Any] | AsyncIterable[Any],
        qsize: int | None = None,
        chunksize: int | None = None,
    ) -> Stream:
        """Like `imap`, with the values in the order in which they are done.

        >>> sorted(pool.imap_unordered(abs, [-3, 1, -2]))
        [1, 2, 3]
        """
        return self.imap(function, *iterables, qsize=qsize, ordered=False, chunksize=chunksize)

    def apply(
        self, function: Callable[..., Any], args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run ``function(*args, **kwargs)`` on a worker, wait, and return the value."""
        args = arguments.iterable("args", args, "a tuple or list of arguments")
        handle = self.submit(function, *args, **arguments.keywords("kwargs", kwargs))
        try:
            return handle.get()
        except BaseException:
            handle.cancel()  # if the wait was interrupted: nobody else has a handle to cancel it by
            raise

    def apply_async(
        self,
        function: Callable[..., Any],
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Any,
    ) -> RemoteData:
        """Like `submit`; `callback` gets the value, `error_callback` the exception, on a thread for callbacks.

        `options` are those of `Pool.options`.
        """
        view = self.options(**options) if options else self
        for name, called in (("callback", callback), ("error_callback", error_callback)):
            if called is not None and not callable(called):
                raise TypeError(f"{name}={arguments.shown(called)} must be a function, or None")
        args = arguments.iterable("args", args, "a tuple or list of arguments")
        handle = view.submit(function, *args, **arguments.keywords("kwargs", kwargs))
        if callback is not None or error_callback is not None:

            def call_back(handle: RemoteData) -> None:
                error = handle.exception()
                if error is None and callback is not None:
                    callback(handle.get())
                elif error is not None and error_callback is not None:
                    error_callback(error)

            handle.add_done_callback(call_back)
        return handle

    def defer(self, function: Callable[..., Any]) -> Callable[..., Deferred]:
        """A decorator: calls of the function return at once with a `Deferred`, which behaves as the value.

        Deferred values in arguments are dependencies, wherever they hide. Any use of one waits for it. Needs wrapt.

        >>> @pool.defer
        ... def add(x, y):
        ...     return x + y
        >>> total = add(add(1, 2), 3)     # nothing has waited
        >>> total * 2, f'{total}'
        (12, '6')
        """
        from distributed.pool.deferred import defer

        return defer(self, arguments.function(function))

    def run_on_all(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Run ``function(*args, **kwargs)`` once in every executor, and wait; the values by ``'host:port/number'``.

        For what is to be the same in each process: a setting, a cache to be filled, a connection to be closed. It runs
        as soon as an executor is free, before what is queued; what runs there is not disturbed. A coroutine function
        runs once in the asynchronous executor of each worker, ``'host:port/async'``. A process that is started later,
        with a worker that joins or in the place of one that is gone, has not run it: that is what `initializer` is for.

        The options of the pool hold: `timeout`, `retries`, `workers`. An executor that dies of it runs it again, in its
        replacement, up to `attempts` times, as with any task. All run it to the end; then the first failure is raised
        as what the function raised, with a note that names the executor. It waits as `get` does: on an event loop write
        ``await asyncio.to_thread(pool.run_on_all, function)``.

        >>> import os
        >>> len(set(pool.run_on_all(os.getpid).values()))
        2
        """
        from distributed.pool.everywhere import run_on_all

        return run_on_all(self._core, self._calls, self._options, arguments.function(function), args, kwargs)

    def group(self, function: Callable[..., Any], size: int, /, *args: Any, **kwargs: Any) -> list[RemoteData]:
        """Run ``function(comm, *args, **kwargs)`` in `size` executors at one time; returns their handles, by rank.

        `comm` is a `Communicator`: ``comm.rank`` says which of the ``comm.size`` members this is, and they exchange
        objects by ``send`` and ``recv``, ``barrier``, ``bcast``, ``scatter``, ``gather``, ``allgather`` and
        ``allreduce``. They start when there are idle executors for all of them, and end together: the values are there
        when the last member has returned; when one raises, or its executor or worker dies, the others are stopped, and
        every handle has the same `GroupFailed`, which names it. To cancel one cancels all.

        Of the options ``timeout`` is that of each member, from when all begin; ``retries`` is how often the whole group
        is run again when a member raised or died. Without it a group runs at most once, and a lost result is `KeyLost`.

        >>> def total(comm, numbers):
        ...     return comm.allreduce(sum(numbers[comm.rank::comm.size]))
        >>> pool.gather(pool.group(total, 2, range(10)))
        [45, 45]
        """
        arguments.count("size", size, 1, SETTINGS.members_max)
        if self._options.key:
            raise ValueError("key= names one result; it goes with submit and apply, not with a group")
        if self._options.resources:
            raise ValueError("resources= goes with tasks; a group takes executors, and workers= says of which workers")
        if self._options.attempts not in (1, Options().attempts):
            raise ValueError("attempts= goes with tasks; a group is run again as a whole, with retries=")
        return self._calls.together(function, size, args, kwargs, self._options)

    @arguments.nearest_names()
    def options(
        self,
        *,
        timeout: float | None = None,
        priority: float | None = None,
        retries: int | None = None,
        attempts: int | None = None,
        recompute: bool | None = None,
        workers: str | Iterable[str] | None = None,
        key: str | None = None,
        resources: Mapping[str, int] | None = None,
    ) -> Pool:
        """A view of this pool whose tasks run with these options.

        Parameters
        ----------
        timeout : float
            Seconds that a task may run; then it is killed, and raises `TaskTimeout`. A coroutine is cancelled, and
            killed only if it has not ended a second later; others in its process then run again free of charge.
        priority : float
            Lower runs sooner. Default 0.
        retries : int
            How often a task that raised is run again. Default 0.
        attempts : int
            How often in all a task is run whose executor or worker dies. Default 3; 1 is at most once.
        recompute : bool
            False: a lost result is `KeyLost`, instead of computed again.
        workers : str or list of str
            Only on these workers, by address or name.
        key : str
            The name of the result, within this pool's names. A name that is there already gives that result, or the
            task that is about to have it, whatever the function; as long as there is a handle of it. What failed or was
            cancelled is computed again.
        resources : dict
            What a task uses of its worker while it runs, ``{'gpu': 1}``, where workers have a number of that: those
            that were started with ``dworker --resources gpu=2``. Never is more in use there than there is.

        A task that asks for workers or resources that nobody in the cluster has waits `unmet_demand_grace_s` for
        somebody; then it has the error `NoWorker`. `RemoteData.explain` says at once what is missing.

        Examples
        --------
        >>> pool.options(timeout=60, retries=2).submit(abs, -1).get()
        1
        """
        changes: dict[str, Any] = {}
        if timeout is not None:
            changes["timeout_s"] = arguments.positive("timeout", timeout)
        if priority is not None:
            changes["priority"] = arguments.number("priority", priority)
        if retries is not None:
            changes["retries"] = arguments.count("retries", retries, 0)
        if attempts is not None:
            changes["attempts"] = arguments.count("attempts", attempts, 1)
        if recompute is not None:
            changes["recompute"] = arguments.truth("recompute", recompute)
        if workers is not None:
            changes["workers"] = arguments.worker_names("workers", workers)
        if key is not None:
            changes["key"] = arguments.text("key", key)
        if resources is not None:
            changes["resources"] = tuple(amounts("resources", resources).items())
        view = object.__new__(Pool)
        view.__dict__.update(self.__dict__)
        view._options = Options(**{**_fields(self._options), **changes})
        return view

    def upload(self, path: str | os.PathLike[str]) -> None:
        """Send code along: tasks that are submitted from now on import from it, wherever they run.

        A ``.py`` file becomes a module (SyntaxError at once if it cannot be one), a directory a package by its own
        name, and what a zip holds is importable.
        Uploaded again, only what has changed travels; tasks that were submitted before keep what they were submitted
        with. What is imported by a name of an earlier upload replaces that, with all that belonged to it.

        >>> import pathlib, tempfile
        >>> module = pathlib.Path(tempfile.mkdtemp(), 'uploaded_module.py')
        >>> _ = module.write_text('def double(x): return 2 * x')
        >>> pool.upload(module)
        >>> pool.submit('uploaded_module.double', 4).get()
        8
        """
        self._core.require_open()
        path = arguments.path("path", path)
        self._calls.needs.upload(os.path.realpath(path), gather(path))

    # ------------------------------------------------------------------------------------------------------------ data

    @arguments.nearest_names({"broadcast": "replicas=2 puts it on two workers; tasks fetch what is not where they run"})
    def scatter(self, data: Any, replicas: int = 1) -> Any:
        """Put data on workers: a list or tuple gives a list of handles, a dict a dict of handles, anything else one.

        >>> x = pool.scatter({'x': 1})['x']
        >>> pool.submit(lambda x: x + 1, x).get()
        2
        """
        arguments.count("replicas", replicas, 1)
        single = not isinstance(data, (list, tuple, Mapping))
        values = [data] if single else list(data.values() if isinstance(data, Mapping) else data)
        handles = self._core.put([self._calls.packed(pack, value, "the data") for value in values], replicas)
        if single:
            return handles[0]
        return dict(zip(data, handles, strict=True)) if isinstance(data, Mapping) else handles

    def gather(self, nested: Any, timeout: float | None = None) -> Any:
        """The values of handles, in any nesting of lists, tuples, sets and dicts; everything else stays as it is.

        >>> pool.gather({'squares': pool.map(lambda x: x * x, [1, 2]), 'n': 2})
        {'squares': [1, 4], 'n': 2}
        """
        timeout = arguments.timeout("timeout", timeout)
        if type(nested) is list and set(map(type, nested)) == {RemoteData}:  # the usual case, at a third of the price
            tasks = [handle.living_task for handle in nested]
            if len(set(tasks)) == len(tasks):
                return self._calls.values(tasks, timeout)
        found: dict[Task, None] = {}
        try:
            _map_handles(nested, lambda handle: found.setdefault(handle.living_task))
        except RecursionError:
            raise ValueError("nested contains itself, or is nested too deeply to be walked through") from None
        values = dict(zip(found, self._calls.values(list(found), timeout), strict=True))
        return _map_handles(nested, lambda handle: values[handle._task])

    def publish(self, name: str, data: RemoteData, timeout: float | None = None) -> None:
        """Give a result a name that every client can read, and that outlives this pool. Waits for the result."""
        arguments.text("name", name)
        data = handle_of(data)
        if not isinstance(data, RemoteData):
            raise TypeError(
                f"data={arguments.shown(data)} must be a handle: scatter it first, then publish what that gives"
            )
        timeout = arguments.timeout("timeout", timeout)
        if not data.wait(timeout):
            raise TimeoutError(f"{data!r} has no outcome after {timeout} s")
        if not data.successful():
            data.get()
        self._core.post(Shown(data._task))
        self._core.ask(Publish(name, data.key, keys_within(data._task)), timeout)

    def unpublish(self, name: str) -> None:
        """Forget a published name. The data goes when its owner does not need it either."""
        self._core.ask(Unpublish(name, self._key_of(name)))

    def __getitem__(self, name: str) -> RemoteData:
        """The handle of data that somebody published."""
        return self._core.borrow(self._key_of(name))

    def _key_of(self, name: str) -> str:
        try:
            return str(self._core.ask(LookUp(arguments.text("name", name))))
        except NameUnknown as error:
            meant = arguments.nearest(name, self.names[:NAMES_COMPARED])
            raise NameUnknown(f"{error}{meant}") from None

    def __contains__(self, name: object) -> bool:
        """Whether something is published under this name."""
        return name in self.names

    __iter__ = None  # or `for name in pool` would ask for pool[0], pool[1], ...; it is `pool.names`

    @property
    def names(self) -> list[str]:
        """The published names."""
        return list(self._core.ask(LookUp("")))

    # --------------------------------------------------------------------------------------------------- who is there

    def who_has(self, handles: RemoteData | Iterable[RemoteData | str] | None = None) -> dict[str, list[str]]:
        """Which workers hold each of these keys (default: all keys). A key that nobody holds has an empty list."""
        if handles is None:
            held: dict[str, list[str]] = {}
            for address, keys in self.has_what().items():
                for key in keys:
                    held.setdefault(key, []).append(address)
            return held
        right = "a handle, or a list of handles and keys"
        several = (handles,) if isinstance(handles, RemoteData) else arguments.iterable("handles", handles, right)
        listed = list(several)
        keys = [
            item.key if isinstance(item, RemoteData) else arguments.text("each of handles", item) for item in listed
        ]
        known: dict[str, Any] = {}
        for start in range(0, len(keys), KEYS_ASKED):
            known.update(self._core.ask(WhoHas(keys[start : start + KEYS_ASKED])))
        held = {key: sorted(known.get(key) or ()) for key in keys}
        for item in listed:
            if isinstance(item, RemoteData):
                held[item.key] = sorted({*held[item.key], *item._task.reference()[3]})
        return held

    def has_what(self) -> dict[str, list[str]]:
        """Which keys each worker holds."""
        known = {address: set(keys) for address, keys in self._core.ask(HasWhat()).items()}
        for address, view in list(self._core.state.workers.items()):
            known.setdefault(address, set()).update(list(view.holds))
        return {address: sorted(keys) for address, keys in known.items()}

    def ncores(self) -> dict[str, int]:
        """How many cores each worker has."""
        return dict(self._core.ask(Ncores()))

    def restart(self, timeout: float | None = None) -> None:
        """Replace every executor of every worker by a fresh process; returns when all are fresh.

        No task is stopped, of this pool's or of another's: an executor is replaced when what it runs now has ended.
        What is queued stays queued, stored values stay where they are. Modules, globals and memory of the old processes
        are gone afterwards, so that code which changed on disk is imported anew. `TimeoutError` after `timeout` seconds
        names the workers, and what still runs there; their executors are replaced nevertheless, as soon as it ends.
        """
        asked = RestartAsked()
        timeout = arguments.timeout("timeout", timeout)
        self._core.require_open()
        self._core.post(asked)
        if not self._core.wait(lambda: asked.done, timeout):
            asked.is_given_up = True
            raise TimeoutError(self._still_running(sorted(asked.pending), timeout))

    def _still_running(self, addresses: list[str], timeout_s: float | None) -> str:
        with contextlib.suppress(DistributedError, TimeoutError):
            members = self._core.ask(Status(), SETTINGS.close_timeout_s)["members"]
            running = {member["address"]: ", ".join(sorted(set(member["running_names"]))) for member in members}
            addresses = [f"{there} (runs {running[there]})" if running.get(there) else there for there in addresses]
        return f"after {timeout_s:g} s not all executors are fresh yet on {', '.join(addresses)}"

    @property
    def workers(self) -> list[str]:
        """The addresses of the workers that this pool is connected to."""
        return sorted(self._core.state.workers)

    @property
    def address(self) -> str:
        """The address of the center."""
        return self._core.center

    @property
    def counters(self) -> dict[str, int]:
        """Tasks submitted, input bytes that were in place or had to move, bytes over this client's own sockets."""
        core = self._core
        return {
            **core.state.counters,
            "bytes_sent": core.driver.bytes_sent + core.transfer.bytes_sent,
            "bytes_received": core.driver.bytes_received + core.transfer.bytes_received,
        }

    # -------------------------------------------------------------------------------------------------------- the end

    def close(self, timeout: float = SETTINGS.close_timeout_s) -> None:
        """Wait for running work, then end; what is unfinished by then is cancelled. Takes at most `timeout` seconds.

        One and a half, or half of a short time, are kept for the end itself: a center or a worker may not answer.
        """
        timeout = arguments.seconds("timeout", timeout)
        deadline = time.monotonic() + timeout
        if not self._core.driver.closed and not self._core.is_forked:
            try:
                self._core.drain(max(timeout / 2, timeout - ENDING_S))
            except PoolClosed:
                pass
        self._end(max(GOODBYE_S, deadline - time.monotonic()), is_waited_for=True)

    def terminate(self) -> None:
        """End now: running tasks are cancelled."""
        self._end(SETTINGS.close_timeout_s)

    def _end(self, timeout_s: float, is_waited_for: bool = False) -> None:
        deadline = time.monotonic() + timeout_s
        try:
            self._core.close(min(GOODBYE_S, timeout_s), is_waited_for)
        finally:
            if not self._core.is_forked:
                _OPEN.pop(id(self._core), None)
                if self._owned is not None:
                    self._owned.close(deadline - time.monotonic())

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a Pool stays in its process; open Pool({self._core.center!r}) where it is needed")

    async def __aenter__(self) -> Pool:
        return self

    async def __aexit__(self, *error: Any) -> None:
        import asyncio  # here: whoever awaits has it already, and the others start without

        await asyncio.to_thread(self.__exit__, *error)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        if kind is None:
            self.close()
        else:
            self.terminate()


_OPEN: dict[int, Pool] = {}


def _end_open_pools() -> None:
    """A program that forgot to close its pools leaves nothing behind all the same."""
    for core in list(CORES):
        pool = _OPEN.get(id(core))
        if pool is not None:
            pool._at_exit()


def show(output: Output) -> None:
    """Print what a task printed, with the worker's name before each line."""
    stream = sys.stderr if output.stream == "stderr" else sys.stdout
    if stream is None:  # a program without a console
        return
    label = f"[{output.worker} {output.pid}] "
    stream.write("".join(f"{label}{line}\n" for line in output.text.splitlines()))
    stream.flush()


def _map_handles(nested: Any, change: Callable[[RemoteData], Any]) -> Any:
    """The same nesting with each handle changed."""
    if isinstance(nested, RemoteData):
        return change(nested)
    kind = type(nested)
    if kind in (list, tuple, set, frozenset):
        return kind(_map_handles(item, change) for item in nested)
    if kind is dict:
        return {_map_handles(key, change): _map_handles(value, change) for key, value in nested.items()}
    if isinstance(nested, tuple) and hasattr(nested, "_make"):
        return nested._make(_map_handles(item, change) for item in nested)
    return nested


def _arguments_of_call(item: Any) -> tuple[Any, ...]:
    return tuple(arguments.iterable("each item", item, "a tuple or list with the arguments of one call"))


def _fields(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in Options.__slots__}
