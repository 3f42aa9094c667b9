"""From a call that a user makes to tasks: functions and arguments packed, large arguments stored once.

Runs in the user's thread, so that what cannot be pickled is an error on the line that passed it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from distributed import arguments
from distributed.config import SETTINGS
from distributed.errors import CannotPickle
from distributed.pool.collection import collection_paused
from distributed.pool.communicator import run_member
from distributed.pool.core import Core
from distributed.pool.events import Submitted
from distributed.pool.groups import Group
from distributed.pool.interrupts import deferred_signals
from distributed.pool.needs import Needs
from distributed.pool.remote import RemoteData, TaskFailed
from distributed.pool.tasks import FAILED, RELEASED, Duration, Kind, Options, Task
from distributed.quantities import size
from distributed.wire.functions import FunctionCache, PackedFunction, call_carried, needing, pack_function
from distributed.wire.serializers import Serializer, using
from distributed.wire.values import pack, pack_call, pack_marks, pack_plain_calls

BATCH_TASKS = 500  # the first tasks of a large map are on their way while the others are being packed
SUBMITS_MAX = 200  # somebody submits one by one, faster than the thread comes to take them up
KINDS_MAX = 4096
CALL_CARRIED = pack_function(call_carried).code  # for functions that are large, or have handles in them


class Draft(NamedTuple):
    """Tasks that were not submitted yet."""

    tasks: list[Task]
    stored: dict[int, tuple[Any, RemoteData]]  # handles in here must live until the tasks are known to need them


class Calls:
    """Makes tasks of calls."""

    def __init__(self, core: Core, needs: Needs, how: Serializer | None = None) -> None:
        self._core, self.needs, self.how = core, needs, how
        self._functions = FunctionCache()
        self._kinds: OrderedDict[tuple[bytes, str, Options, bytes], Kind] = OrderedDict()
        self._durations: OrderedDict[bytes, Duration] = OrderedDict()
        self._named: dict[str, Task] = {}
        self._named_prune_at = KINDS_MAX

    def packed(self, pack: Callable[..., Any], *args: Any) -> Any:
        """What a function of `wire` packs, by the serializer of the pool."""
        if self.how is None:
            return pack(*args)
        with using(self.how):
            return pack(*args)

    def one(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: Options
    ) -> RemoteData:
        """The task of one call."""
        self._core.require_open()
        if options.key:
            known = self._known(options.key)
            if known is not None:
                return known
        packed = self.packed(self._functions.pack, arguments.function(function))
        kind = self._kind(packed, options)
        carried = function if kind.carried else None
        stored: dict[int, tuple[Any, RemoteData]] = {}  # handles in here must live until the task is known to need them
        task = self._task(kind, carried, args, kwargs, stored)
        handle = self._core.new_handle(task)
        if options.key:
            with deferred_signals():  # a name that is remembered stands for a task that was submitted
                self._core.post(Submitted([task]))
                self._remember(options.key, task)
        else:
            self._core.post(Submitted([task]))
        if len(self._core.driver.inbox) >= SUBMITS_MAX:
            self._core.driver.pump()
        return handle

    def many(
        self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], options: Options, at_hand: bool = False
    ) -> list[RemoteData]:
        """One task for each tuple of arguments. `at_hand`: they come out of lists, and not out of a user's code."""
        self._core.require_open()
        if options.key:
            raise ValueError("key= names one result; it goes with submit and apply, not with a map")
        packed = self.packed(pack_function, arguments.function(function))
        kind = self._kind(packed, options)
        carried = function if kind.carried else None
        handles: list[RemoteData] = []
        stored: dict[int, tuple[Any, RemoteData]] = {}
        core = self._core
        calls = iter(calls)
        with collection_paused() if at_hand else contextlib.nullcontext():
            while batch := list(itertools.islice(calls, BATCH_TASKS)):
                tasks = self._plain_tasks(kind, batch) if carried is None else None
                if tasks is None:
                    tasks = [self._task(kind, carried, args, {}, stored) for args in batch]
                handles += core.new_handles(tasks)
                core.post(Submitted(tasks))
                core.driver.pump()
        return handles

    def one_each(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: Options,
        kinds: Callable[[Kind], Iterable[Kind]],
    ) -> list[RemoteData]:
        """A task of the same call for each of the kinds that are made of the usual one; packed once."""
        core = self._core
        packed = self.packed(pack_function, function)
        kind = self._kind(packed, options)
        stored: dict[int, tuple[Any, RemoteData]] = {}
        first = self._task(kind, function if kind.carried else None, args, kwargs, stored)
        tasks = [Task(core.new_key(), of_place, first.args, first.inputs) for of_place in kinds(kind)]
        handles = core.new_handles(tasks)
        core.post(Submitted(tasks))
        return handles

    def together(
        self, function: Callable[..., Any], size: int, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options
    ) -> list[RemoteData]:
        """The tasks of a group, by rank: the same call for all; who they are they are told when they begin."""
        self._core.require_open()
        function = arguments.function(function)
        packed = self.packed(self._functions.pack, function)
        if packed.asynchronous:
            raise TypeError(f"{packed.name} is a coroutine function: members of a group are plain ones, which may wait")
        group = Group()
        kind = dataclasses.replace(
            self._kind(pack_function(run_member), options),
            name=packed.name.encode(errors="replace").decode(),
            options=dataclasses.replace(options, attempts=1),
            duration=Duration(),
            carried=True,
            group=group,
            hurried={},
        )
        stored: dict[int, tuple[Any, RemoteData]] = {}
        first = self._task(kind, function, args, kwargs, stored)
        keys = [first.key, *self._core.new_keys(size - 1)]
        group.tasks = [Task(key, kind, first.args, first.inputs) for key in keys]
        handles = self._core.new_handles(group.tasks)
        self._core.post(Submitted(group.tasks[:]))
        return handles

    def draft(self, function: Callable[..., Any], rows: list[tuple[Any, ...]], options: Options) -> Draft:
        """The tasks of such calls, to be submitted in a moment: all that may fail, or take long, is done then."""
        self._core.require_open()
        packed = self.packed(self._functions.pack if len(rows) == 1 else pack_function, function)
        kind = self._kind(packed, options)
        carried = function if kind.carried else None
        tasks = self._plain_tasks(kind, rows) if carried is None and len(rows) > 1 else None
        stored: dict[int, tuple[Any, RemoteData]] = {}
        return Draft(tasks or [self._task(kind, carried, args, {}, stored) for args in rows], stored)

    def submit(self, draft: Draft) -> list[RemoteData]:
        """Submit drafted tasks. Waits for nothing, and runs nobody's code."""
        handles = self._core.new_handles(draft.tasks)
        self._core.post(Submitted(draft.tasks))
        return handles

    def press(self, count: int) -> None:
        """So many tasks were just submitted: have them carried out now, if they are many."""
        if count > 1 or len(self._core.driver.inbox) >= SUBMITS_MAX:
            self._core.driver.pump()

    def _plain_tasks(self, kind: Kind, calls: list[tuple[Any, ...]]) -> list[Task] | None:
        """The tasks of calls with numbers only, or handles only: by the column, a third of the time of one by one."""
        payloads = pack_plain_calls(calls)
        if payloads is not None:
            return list(map(Task, self._core.new_keys(len(calls)), itertools.repeat(kind), payloads))
        if set(map(type, itertools.chain.from_iterable(calls))) != {RemoteData}:
            return None
        inputs = [tuple([handle.living_task for handle in args]) for args in calls]
        if any(len(set(tasks)) < len(tasks) for tasks in inputs):
            return None
        marks = [pack_marks(len(tasks)) for tasks in inputs]
        return list(map(Task, self._core.new_keys(len(calls)), itertools.repeat(kind), marks, inputs))

    def values(self, tasks: list[Task], timeout: float | None) -> list[Any]:
        """The values of tasks; the first failure, in order, is raised as what the task raised."""
        try:
            return self._core.values_of(tasks, timeout)
        except TaskFailed as failed:
            error = failed.error
        raise error

    def _known(self, key: str) -> RemoteData | None:
        """The result that has this name already. A task that failed has none: its name is free, unless it was lent."""
        task = self._named.get(key)
        if task is None or _is_over(task) or (task.status == FAILED and task.key not in self._core.lent):
            return None
        return self._core.handle(task)

    def _remember(self, key: str, task: Task) -> None:
        self._named[key] = task
        if len(self._named) >= self._named_prune_at:
            self._named = {name: known for name, known in self._named.items() if not _is_over(known)}
            self._named_prune_at = 2 * len(self._named) + KINDS_MAX

    def _kind(self, packed: PackedFunction, options: Options) -> Kind:
        needs_name, needs = self.needs.current
        name = packed.id, packed.name, options, needs_name
        kind = self._kinds.get(name)
        if kind is None:
            duration = self._durations.setdefault(packed.id, Duration())
            is_carried = bool(packed.handles) or len(packed.code) > SETTINGS.spread_bytes_min
            kind = Kind(
                function=needing(packed.id, [needs_name]) if needs_name else packed.id,
                code=CALL_CARRIED if is_carried else packed.code,
                name=packed.name.encode(errors="replace").decode(),
                asynchronous=packed.asynchronous,
                options=options,
                duration=duration,
                carried=is_carried,
                needs=needs,
            )
            self._kinds[name] = kind
            if len(self._kinds) > KINDS_MAX:
                self._kinds.popitem(last=False)
            if len(self._durations) > KINDS_MAX:
                self._durations.popitem(last=False)
        return kind

    def _task(
        self,
        kind: Kind,
        carried: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        stored: dict[int, tuple[Any, RemoteData]],
    ) -> Task:
        """Pack one call. `stored` remembers what was put on workers for this call, by identity."""
        if any(map(_is_large, args)) or (kwargs and any(map(_is_large, kwargs.values()))):
            args = tuple(self._spread(value, stored) or value if _is_large(value) else value for value in args)
            kwargs = {
                name: self._spread(value, stored) or value if _is_large(value) else value
                for name, value in kwargs.items()
            }
        if self.how is not None:
            args = tuple(map(self.how.carry, args))
            kwargs = {name: self.how.carry(value) for name, value in kwargs.items()}
        if carried is not None:
            args, kwargs = (self._spread(carried, stored) or carried, args, kwargs), {}
        payload, handles = self.packed(pack_call, args, kwargs)
        if len(payload) > SETTINGS.hidden_bytes_max:
            args = tuple([self._spread(value, stored) or value for value in args])
            kwargs = {name: self._spread(value, stored) or value for name, value in kwargs.items()}
            payload, handles = self.packed(pack_call, args, kwargs)
            if len(payload) > SETTINGS.payload_bytes_max:
                raise CannotPickle(
                    "the arguments",
                    size(len(payload)),
                    "beside handles is too much: scatter the large ones first",
                )
        key = self._core.new_key(kind.options.key)
        return Task(key, kind, payload, tuple([handle.living_task for handle in handles]))

    def _spread(self, value: Any, stored: dict[int, tuple[Any, RemoteData]]) -> RemoteData | None:
        """Put a large argument on a worker, once in a call; None if it should travel with the arguments."""
        if type(value) is RemoteData:
            return None
        known = stored.get(id(value))
        if known is not None:
            return known[1]
        packed = self.packed(pack, value, "the arguments")
        if packed.contains or packed.nbytes <= SETTINGS.spread_bytes_min:
            return None
        handle = self._core.put([packed])[0]
        stored[id(value)] = value, handle  # the value too: or its id could be another one's
        return handle


def _is_large(value: Any) -> bool:
    """Whether an argument is worth a look at its packed size; must cost next to nothing."""
    kind = type(value)
    if kind is int or kind is float or kind is RemoteData:
        return False
    if kind in (bytes, bytearray, str):
        return len(value) > SETTINGS.spread_bytes_min
    if kind is list or kind is tuple:  # what has handles in it travels with the arguments
        return len(value) > SETTINGS.spread_bytes_min // 32 and type(value[0]) is not RemoteData
    if kind in (dict, set, frozenset):
        return len(value) > SETTINGS.spread_bytes_min // 32
    nbytes = getattr(kind, "nbytes", None)
    return nbytes is not None and isinstance(nbytes := value.nbytes, int) and nbytes > SETTINGS.spread_bytes_min


def _is_over(task: Task) -> bool:
    """Whether nobody has a handle of it and nothing of it is under way: its name is free again."""
    return not task.users and task.status in (FAILED, RELEASED)
