"""What a pool and all its views share: the mind, the driver, the transfers, and which handles left the process.

The user's threads come here; everything that changes the state goes on to the driver as an event.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from distributed import running
from distributed.config import SETTINGS
from distributed.errors import ConnectionFailed, DistributedError, KeyLost, PoolClosed
from distributed.pool import explain
from distributed.pool.driver import Driver, Unwatch, Watch
from distributed.pool.events import Borrowed, Claimed, Exported, Stored, Storing, Wanted
from distributed.pool.interrupts import deferred_signals
from distributed.pool.remote import RemoteData, TaskFailed, error_of
from distributed.pool.state import PoolState
from distributed.pool.tasks import DONE, FAILED, RELEASED, Duration, Kind, Options, Task
from distributed.pool.transfer import Transfer
from distributed.quantities import count
from distributed.wire.exceptions import note
from distributed.wire.functions import pack_function
from distributed.wire.messages import Message
from distributed.wire.values import Packed, pack_call, unpack

logger = logging.getLogger("distributed.pool")

MEETING_TIME_S = 2.0  # how long a new pool waits for workers to answer; those that take longer come later
SETTLED = frozenset({DONE, FAILED, RELEASED})
CORES: weakref.WeakSet[Core] = weakref.WeakSet()
"""Every open pool of this process."""


class Core:
    """One client of a cluster."""

    def __init__(self, center: str, secret: Any) -> None:
        self.center = center
        self.client = _new_client()
        self.state = PoolState(now=time.monotonic())
        self.driver = Driver(self.state, center, self.client, secret)
        self.transfer = Transfer(self.client, self.driver.dialler.roads)
        self.lent: dict[str, Task] = {}  # tasks whose handle was pickled for others, until released
        self.is_forked = False
        self._numbers = itertools.count(1)
        self.post, self.watch = self.driver.post, self._watch
        self.holds = self.driver.holds
        self.call_later = self.driver.call_later
        self.driver.on_worker_lost = self.transfer.forget
        self.driver.start()
        CORES.add(self)

    # ------------------------------------------------------------------------------------------------------- basics

    def new_key(self, name: str = "") -> str:
        """A key of this client's: the next number, or the user's own name for it."""
        return f"{self.client}/{name or next(self._numbers)}"

    def new_keys(self, count: int) -> list[str]:
        """As many keys as that, in order."""
        client = self.client
        return [f"{client}/{number}" for number in itertools.islice(self._numbers, count)]

    def require_open(self) -> None:
        """Raise `PoolClosed` if nothing can be done any more."""
        if self.is_forked:
            raise PoolClosed("this pool belongs to the process that opened it, and this is a fork of that one")
        if self.driver.closed:
            raise PoolClosed(self.driver.why_closed)

    def wait(self, is_done: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until `is_done()`; False if the time was over first. Where an interrupt hit is nobody's affair."""
        if self.is_forked:
            self.require_open()
        try:
            if running.door is not None and not is_done():  # in a task, maybe of the same cluster: others need the slot
                return running.door.give_way(lambda: self.driver.wait(is_done, timeout))
            return self.driver.wait(is_done, timeout)
        except KeyboardInterrupt as interrupt:
            raise interrupt.with_traceback(None) from None

    def ask(self, message: Message, timeout: float | None = None) -> Any:
        """Ask the center."""
        self.require_open()
        return self.driver.ask(message, timeout)

    def _watch(self, tasks: list[Task], watcher: Callable[[Task], None]) -> None:
        """Have `watcher` called once for each task that has an outcome, now or later, quickly and on any thread."""
        self.require_open()
        self.driver.post(Watch(tasks, watcher))

    def unwatch(self, tasks: list[Task], watcher: Callable[[Task], None]) -> None:
        """The watcher need not be called any more."""
        if not self.driver.closed:
            self.driver.post(Unwatch(tasks, watcher))

    def explain(self, task: Task) -> str:
        """Why a task is where it is."""
        said: str = self.driver.inspect(lambda: explain.explain(self.state, task, time.monotonic()))
        return said if task.status in SETTLED else said + self.driver.about_the_center

    # ------------------------------------------------------------------------------------------------ values, inwards

    def value_of(self, task: Task, timeout: float | None = None) -> Any:
        """The value of a task, when it has one; `TaskFailed` if it has an error, TimeoutError when the time is over."""
        if task.status not in SETTLED:
            began = time.monotonic()
            self.wait(lambda: task.status in SETTLED, timeout)
            if timeout is not None:
                timeout = max(0.0, timeout - (time.monotonic() - began))
        outcome = task.outcome  # read once: another thread may release it
        if task.status == DONE and outcome is not None:
            return self._open([task], [outcome])[0]
        return self.values_of([task], timeout)[0]

    def values_of(self, tasks: Sequence[Task], timeout: float | None = None) -> list[Any]:
        """The values of tasks, those at one worker in one request; the first failure in order is raised."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self._wait_for_outcomes(tasks, deadline)
        outcomes = list(map(_value_here, tasks))  # read once: another thread may release them
        if None not in outcomes:
            return self._open(tasks, outcomes)
        packed: dict[Task, Any] = {}
        patience = Patience()
        while True:
            self._wait_for_outcomes(tasks, deadline)
            packed.update([(task, outcome) for task in tasks if (outcome := _value_here(task)) is not None])
            elsewhere = {task for task in tasks if task not in packed}
            if not elsewhere:
                break
            for address, group in self._by_holder(elsewhere).items():
                self._fetch(address, group, packed, deadline, patience)
        return self._open(tasks, [packed[task] for task in tasks])

    def _open(self, tasks: Sequence[Task], packed: list[Any]) -> list[Any]:
        """Unpack the values of tasks. What that raises is as it is, with a note that says where it comes from."""
        values: list[Any] = []
        try:
            values.extend(map(unpack, packed, itertools.repeat(self.make_handle)))
        except BaseException as error:
            if len(values) < len(tasks):  # else it is an interrupt, after the last one
                task = tasks[len(values)]
                name = f"{task.kind.name} ({task.key})" if task.kind is not None else task.key
                note(error, f"the value of {name} was unpickled in this process")
            raise
        return values

    def _wait_for_outcomes(self, tasks: Sequence[Task], deadline: float | None) -> None:
        position = 0

        def all_there() -> bool:
            nonlocal position
            while position < len(tasks) and tasks[position].status in SETTLED:
                if tasks[position].status != DONE:
                    return True
                position += 1
            return position == len(tasks)

        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not all_there() and not self.wait(all_there, left_s):
            raise TimeoutError(f"{tasks[position].key} has no value in time: {self.explain(tasks[position])}")
        if position < len(tasks):
            task = tasks[position]
            raise TaskFailed(error_of(task) if task.status == FAILED else KeyLost(task.key, "it was released"))

    def _by_holder(self, tasks: Iterable[Task]) -> dict[str, list[Task]]:
        """Group tasks by the worker to ask: one that we are connected to, if there is one."""
        groups: dict[str, list[Task]] = {}
        for task in tasks:
            holders = sorted(task.holders or ())
            connected = [address for address in holders if address in self.state.workers]
            groups.setdefault(min(connected or holders, default=""), []).append(task)
        return groups

    def _fetch(
        self, address: str, tasks: list[Task], packed: dict[Task, Any], deadline: float | None, patience: Patience
    ) -> None:
        """Get values from one worker. What it does not have, the state finds elsewhere, or has computed again.

        A worker that can't be reached is no proof that it lost them: it is tried again, until patience is over.
        """
        view = self.state.workers.get(address)
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        tasks = patience.portion(address, tasks)
        if view is not None:
            try:
                keys, attempts = [task.key for task in tasks], [task.attempt for task in tasks]
                with deferred_signals(self.transfer.abort):
                    values = self.transfer.fetch(view.member, keys, attempts, left_s)
            except ConnectionFailed:
                view = None
            else:
                packed.update([(task, value) for task, value in zip(tasks, values, strict=True) if value is not None])
                self._report_missing([task for task in tasks if task not in packed], [address], left_s)
                return
        if left_s == 0.0:
            raise TimeoutError(f"{tasks[0].key} is on {address}, which did not give it in time")
        if not address or patience.is_over(address):
            self._report_missing(tasks, [], left_s)
        else:
            pause_s = patience.pause_s(address)
            self.wait(lambda: False, pause_s if left_s is None else min(left_s, pause_s))

    def _report_missing(self, tasks: list[Task], refused: list[str], left_s: float | None) -> None:
        for task in tasks:
            wanted = Wanted(task, refused)
            self.post(wanted)
            self.wait(lambda wanted=wanted: wanted.handled, left_s)  # type: ignore[misc]

    # ----------------------------------------------------------------------------------------------- values, outwards

    def put(self, packed: Sequence[Packed], replicas: int = 1) -> list[RemoteData]:
        """Store values on workers, spread evenly, each on `replicas` of them; returns when they are stored."""
        self.require_open()
        self.wait_for_workers()
        contained = [[handle.living_task for handle in value.handles] for value in packed]
        takers = self.state.placement.takers
        views = sorted(takers.values(), key=lambda view: (len(view.holds), view.member.address))
        if replicas > len(views):
            raise ValueError(f"replicas={replicas}, but there are only {count(len(views), 'worker')}")
        members = [view.member for view in views]
        with deferred_signals(self.transfer.abort) as interrupted:  # an interrupt ends the transfer, then it acts
            tasks = [Task(self.new_key(), *_recipe_of(value)) for value in packed]
            handles = self.new_handles(tasks)  # first: what is put in part goes with them
            chosen = [
                [members[(position + copy) % len(members)] for copy in range(replicas)]
                for position in range(len(tasks))
            ]
            self.post(Storing(tasks))
            try:
                for member in members:
                    mine = [at for at, where in enumerate(chosen) if member in where]
                    if mine and not interrupted():
                        self.transfer.put(member, {tasks[at].key: packed[at] for at in mine})
            finally:
                for task, value, where, inner in zip(tasks, packed, chosen, contained, strict=True):
                    self.post(Stored(task, [member.address for member in where], value.nbytes, inner))
        return handles

    def wait_for_members(self) -> None:
        """Wait a moment until the workers that are there have been met, so that a new pool knows its cluster."""
        self.wait(lambda: self.driver.has_met_members and not self.state.membership.connecting, MEETING_TIME_S)

    def wait_for_workers(self) -> None:
        """Wait until there is a worker to talk to."""
        grace_s = SETTINGS.no_worker_grace_s
        if not self.wait(lambda: bool(self.state.placement.takers), grace_s):
            raise DistributedError(
                f"no worker joined {self.center} within {grace_s:g} s; start one with `dworker {self.center}`"
            )

    # ------------------------------------------------------------------------------------------------ handles that left

    def new_handle(self, task: Task) -> RemoteData:
        """The first handle of a task."""
        handle = RemoteData(self, task)
        self.holds.add(handle, task)
        return handle

    def new_handles(self, tasks: list[Task]) -> list[RemoteData]:
        """The first handles of many tasks."""
        handles = list(map(RemoteData, itertools.repeat(self), tasks))
        self.holds.add_many(handles, tasks)
        return handles

    def handle(self, task: Task) -> RemoteData:
        """One more handle of a task."""
        with deferred_signals(lambda: None):
            self.post(Claimed(task))
            return self.new_handle(task)

    def _task_of(self, reference: list[Any]) -> Task | None:
        return self.state.lifetimes.shared.get(reference[0]) or self.lent.get(reference[0])

    def make_handle(self, reference: list[Any]) -> RemoteData:
        """A handle for a reference found inside a value: ours, or one borrowed from its owner."""
        task = self._task_of(reference)
        return self.handle(task) if task is not None else self.borrow(reference[0])

    def borrow(self, key: str) -> RemoteData:
        """A handle for a key of another client's."""
        task = Task(key, None, None)
        task.borrowed = True
        handle = self.new_handle(task)
        self.post(Borrowed(task))
        return handle

    def lend(self, task: Task) -> Any:
        """What the pickle of a handle consists of, outside of this cluster's own messages."""
        self.require_open()
        if task.key not in self.lent and not task.borrowed:
            self.lent[task.key] = task
            self.post(Exported(task))
        return restore_handle, (self.driver.center_peer, task.reference())

    # ------------------------------------------------------------------------------------------------------------ end

    def drain(self, timeout_s: float) -> bool:
        """Wait until every submitted task has an outcome."""
        driver = self.driver
        return self.wait(lambda: not (driver.inbox or driver.is_taking or self.state.unfinished), timeout_s)

    def close(self, timeout_s: float, is_waited_for: bool = False) -> None:
        """Stop what still runs, say goodbye, close every connection. If it was waited for, that is worth a word."""
        if self.is_forked:
            return
        CORES.discard(self)
        try:
            if not self.driver.closed and self.state.unfinished:
                count = self.driver.cancel_everything("the pool was closed before this task had ended")
                if is_waited_for and count:
                    logger.warning("the pool was closed before %d of its tasks had ended: they are cancelled", count)
        except DistributedError:
            pass  # it broke, or somebody else closed it
        finally:
            self.driver.close(timeout_s)
            self.transfer.close()

    def become_inert(self) -> None:
        """In a forked child: this pool is the parent's."""
        self.is_forked = True
        self.driver.abandon()


_program = ""  # what the names of this process's clients begin with: workers take these for one
_clients = itertools.count(1)


def _new_client() -> str:
    global _program
    _program = _program or os.urandom(6).hex()
    return f"{_program}-{next(_clients)}"


def _recipe_of(value: Packed) -> tuple[Kind | None, bytes | None]:
    """How a scattered value comes back when the workers that held it are gone: a small one is kept here as well."""
    if value.handles or value.nbytes > SETTINGS.scattered_value_bytes_max:
        return None, None
    return _scattered(), pack_call((value.tobytes(),), {})[0]


@functools.cache
def _scattered() -> Kind:
    """A task that returns what it is given: the value, unpacked."""
    packed = pack_function(unpack)
    return Kind(packed.id, packed.code, "scatter", False, Options(), Duration())


def _value_here(task: Task) -> Any:
    """The packed value of a task that had one, if it is here. In this order: what fails has that status first."""
    outcome = task.outcome
    return outcome if task.status != FAILED else None


def restore_handle(center: str, reference: list[Any]) -> RemoteData:
    """Called by pickle: a handle that was pickled by a user, here or in another process."""
    cores = [core for core in CORES if not core.is_forked]
    owner = reference[0].partition("/")[0]
    mine = [core for core in cores if core.client == owner]
    neighbours = [core for core in cores if center in (core.driver.center_peer, core.center)]
    if not mine and not neighbours:
        raise DistributedError(f"a handle of a cluster that this process is not in; open Pool({center!r}) first")
    return (mine or neighbours)[0].make_handle(reference)


class Patience:
    """How long a reader goes on asking a worker that can't be reached: as long as it may come back with its data."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._tries: dict[str, int] = {}

    def is_over(self, address: str) -> bool:
        """Whether it has been asked for long enough."""
        return time.monotonic() > self._since.setdefault(address, time.monotonic()) + SETTINGS.closed_client_lease_s

    def portion(self, address: str, tasks: list[Task]) -> list[Task]:
        """How many to ask for at a time: half as many after each failure. It may have too few descriptors for all."""
        return tasks[: max(1, len(tasks) >> self._tries.get(address, 0))]

    def pause_s(self, address: str) -> float:
        """How long to wait before the next try."""
        self._tries[address] = tries = self._tries.get(address, 0) + 1
        return min(0.02 * 2.0**tries, 1.0)


def _make_inert() -> None:
    global _program
    _program = ""  # a forked child is a program of its own
    for core in list(CORES):
        core.become_inert()
    CORES.clear()


os.register_at_fork(after_in_child=_make_inert)
