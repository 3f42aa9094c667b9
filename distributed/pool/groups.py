"""Groups: tasks that start together, and end together. Which workers they gather at, and what ends them.

A group goes through::

    inputs ──▶ queued ──▶ gathering ──▶ running ──▶ over: all have a value, or all the same error
       ▲                      │            │
       └──────────────────────┴────────────┘   a worker left or was lost; with `retries`, also what a member died of

It gathers worker by worker, in the order of their addresses, and goes on to the next one when all of its members at
this one have executors. Every pool does so: a group that waits for executors somewhere holds none at a worker that
comes later, so two groups never wait for each other. Groups begin in the order of priority and submission, more than
one at a time as long as there are idle cores for them. Values are published when the last member has returned.

Says what becomes of a group; `pool.state` does to its tasks what it does to others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from distributed.errors import GroupFailed, NoWorker
from distributed.pool import explain, policy
from distributed.pool.events import Received, Send
from distributed.pool.tasks import READY, SENT, WAITING, Task
from distributed.quantities import count
from distributed.wire.codec import encode_header
from distributed.wire.exceptions import words_of
from distributed.wire.messages import Cancel, Failed, GroupBegins, MembersEnded, Message, TellGroup

if TYPE_CHECKING:
    from distributed.pool.state import PoolState
    from distributed.pool.view import WorkerView

INPUTS: Final = "inputs"
QUEUED: Final = "queued"
GATHERING: Final = "gathering"
RUNNING: Final = "running"
OVER: Final = "over"


class Group:
    """One call of `pool.group`: its tasks, by rank, and how far it is."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.status = INPUTS
        self.number = 0  # in the order in which their inputs were there
        self.stages: list[tuple[str, list[Task]]] = []  # workers that it has still to gather at, with its tasks there
        self.known: list[Task] = []  # those that the pool has been asked for so far
        self.error: Any = None  # that all of them have, when it is over
        self.gathered: set[Task] = set()
        self.returned: set[Task] = set()
        self.runs: list[str] = []  # what ended it so far
        self.losses = 0  # how often an executor of a member died before it began
        self.unmet_since_s: float | None = None  # there are not as many executors as it has members

    def has(self, task: Task) -> bool:
        """Whether the value of this member is there, and waits for those of the others."""
        return task in self.returned

    @property
    def first(self) -> Task:
        """Its first task, for what is the same for all."""
        return self.tasks[0]

    @property
    def name(self) -> str:
        """What people call it."""
        kind = self.first.kind
        return f"the group {kind.name}" if kind is not None else "the group"

    @property
    def level(self) -> tuple[float, int]:
        """Lower ones gather first."""
        kind = self.first.kind
        return (kind.options.priority if kind is not None else 0.0), self.number


class Groups:
    """The groups of a pool that are not over."""

    def __init__(self, state: PoolState) -> None:
        self._state, self._settings = state, state.settings
        self.active: dict[Group, None] = {}
        self.queue: list[Group] = []  # those that can begin to gather, by level
        self._numbers = itertools.count(1)

    # ----------------------------------------------------------------------------------------------- until it begins

    def take(self, task: Task) -> Any:
        """A member was submitted. The error that it has at once, if one that was submitted with it cannot be run."""
        group: Group = task.kind.group  # type: ignore[union-attr]
        group.known.append(task)
        return group.error

    def ready(self, task: Task, now: float) -> None:
        """The inputs of a member are there."""
        group: Group = task.kind.group  # type: ignore[union-attr]
        task.status = READY
        self.active[group] = None
        if group.status == INPUTS and all(member.status == READY for member in group.tasks):
            group.status, group.number = QUEUED, group.number or next(self._numbers)
            self.queue.append(group)
            self.queue.sort(key=lambda group: group.level)

    def fill(self, now: float) -> None:
        """Let groups begin to gather: the first one always, others while there are idle cores for all their members."""
        for group in self.queue[:]:
            cores = self._cores(group)
            if sum(cores.values()) < len(group.tasks):
                self._wait_for_workers(group, now)
                continue
            group.unmet_since_s = None
            idle = self._idle(cores)
            is_alone = not any(other.status == GATHERING for other in self.active)
            if not is_alone and sum(idle.values()) < len(group.tasks):
                return
            self.queue.remove(group)
            self._plan(group, cores, idle)
            self._gather(group, now)

    def _cores(self, group: Group) -> dict[str, int]:
        """How many executors there are for it at each worker."""
        return {view.member.address: view.member.ncores for view in self._state.placement.able(group.first)}

    def _idle(self, addresses: Iterable[str]) -> dict[str, int]:
        """Cores of these workers that no task of ours is at, or will be, of a group that gathers."""
        idle = {address: self._state.workers[address].idle_cores for address in addresses}
        for address, tasks in (stage for group in self.active for stage in group.stages):
            if address in idle:
                idle[address] = max(0, idle[address] - sum(task.status == READY for task in tasks))
        return idle

    def _wait_for_workers(self, group: Group, now: float) -> None:
        if group.unmet_since_s is None:
            group.unmet_since_s = now
            self._state.later(now + self._settings.unmet_demand_grace_s, lambda now: self._give_up(group, now))

    def _give_up(self, group: Group, now: float) -> None:
        """There were too few executors for it all the time."""
        since_s = group.unmet_since_s
        if group.status == QUEUED and since_s is not None and now >= since_s + self._settings.unmet_demand_grace_s:
            why = explain.explain(self._state, group.first, now)
            self._state.settle_failed(group.first, NoWorker(why, group.first.key))

    def _plan(self, group: Group, cores: dict[str, int], idle: dict[str, int]) -> None:
        held = self._state.placement.held(group.first, self._state.placement.able(group.first))
        counts = policy.spread(len(group.tasks), cores, idle, held)
        members = iter(group.tasks)
        group.stages = [(address, list(itertools.islice(members, counts[address]))) for address in sorted(counts)]
        group.status, group.gathered, group.returned = GATHERING, set(), set()

    def _gather(self, group: Group, now: float) -> None:
        """Send the members that gather at the next worker; when there is no next one, all begin."""
        if not group.stages:
            self._begin(group)
            return
        address, tasks = group.stages[0]
        view = self._state.placement.takers.get(address)
        if view is None or not all(task.can_run for task in group.tasks):
            self._again(group, now)
            return
        self._state.order(Send(address, view.send(tasks, now)))

    def on_gathered(self, event: Received, now: float) -> None:
        """Members at a worker have executors."""
        message: Any = event.message
        view = self._state.workers[event.address]
        for key, attempt in zip(message.keys, message.attempts, strict=True):
            task = view.under_way.get(key)
            if task is None or task.attempt != attempt or task.kind is None or task.kind.group is None:
                continue
            group: Group = task.kind.group
            group.gathered.add(task)
            if group.status == GATHERING and group.stages and group.gathered.issuperset(group.stages[0][1]):
                del group.stages[0]
                self._gather(group, now)

    def _begin(self, group: Group) -> None:
        group.status = RUNNING
        tasks = group.tasks
        addresses = [task.worker or "" for task in tasks]
        members = [self._state.workers[address].member for address in dict.fromkeys(addresses)]
        said = GroupBegins([task.key for task in tasks], [task.attempt for task in tasks], addresses, members)
        self._tell(group, said, begins=True)

    def _tell(self, group: Group, said: Message, begins: bool = False) -> None:
        """Tell all members that run."""
        packed = encode_header(said)
        for address, tasks in _by_worker(task for task in group.tasks if task not in group.returned).items():
            keys, attempts = [task.key for task in tasks], [task.attempt for task in tasks]
            self._state.order(Send(address, TellGroup(keys, attempts, packed, begins)))

    # ------------------------------------------------------------------------------------------------- until it is over

    def returned(self, task: Task, now: float) -> None:
        """A member has returned; its value is noted, and published with those of the others."""
        group: Group = task.kind.group  # type: ignore[union-attr]
        group.returned.add(task)
        if len(group.returned) < len(group.tasks):
            self._tell(group, MembersEnded([group.tasks.index(task)]))
            return
        lost = next((member for member in group.tasks if member.outcome is None and not member.holders), None)
        if lost is not None:
            how = f"had returned, but its value was lost with worker {lost.worker}"
            self._end(group, lost, lost.worker or "", how, now)
            return
        group.status = OVER
        self._forget(group)
        for member in group.tasks:
            self._state.settle_done(member, now)

    def failed(self, task: Task, address: str, message: Failed, now: float) -> None:
        """A worker reported that a member has no result."""
        group: Group = task.kind.group  # type: ignore[union-attr]
        if message.kind == "raised":
            self._end(group, task, address, f"raised {words_of(message.error)} (on {address})", now, message.error)
            return
        if message.kind == "crashed":
            where = "in the pool's initializer " if message.detail.get("cause") == "initializer" else ""
            self._died(group, task, address, f"{where}{explain.obituary(address, message.detail)}", now)
            return
        verdict = self._state.failures.judge(task, address, message, now)
        if verdict.error is not None:
            self._state.settle_failed(task, verdict.error)
        else:
            self._again(group, now, verdict.pause_s)

    def lost(self, tasks: list[Task], address: str, reason: str, now: float) -> None:
        """The connection to a worker broke, at which these members were."""
        for group in dict.fromkeys(task.kind.group for task in tasks if task.kind is not None):
            first = next(task for task in tasks if task.kind is not None and task.kind.group is group)
            if group.status == RUNNING:
                self._end(group, first, address, f"died on {address}: {reason}", now)
            else:
                self._again(group, now)

    def leaves(self, address: str, now: float) -> None:
        """A worker leaves: groups that gather there do so elsewhere. What runs there has time to come to its end."""
        for group in list(self.active):
            if group.status == GATHERING and any(task.worker == address for task in group.tasks if task.status == SENT):
                self._again(group, now)

    def given_back(self, task: Task, now: float) -> None:
        """A worker that leaves does not run it."""
        self._again(task.kind.group, now)  # type: ignore[union-attr]

    def _died(self, group: Group, task: Task, address: str, line: str, now: float) -> None:
        """The executor of a member died. One that does so before it began is replaced, but not for ever."""
        if group.status == RUNNING:
            self._end(group, task, address, f"died {line}", now)
            return
        group.losses += 1
        if group.losses < self._settings.attempts_max:
            self._again(group, now)
        else:
            how = f"died before the group began, as members did {group.losses} times; at last {line}"
            self._end(group, task, address, how, now)

    def _end(self, group: Group, task: Task, address: str, how: str, now: float, raised: bytes = b"") -> None:
        """A member raised or died: the group runs again as a whole, if that was asked for, or has failed."""
        rank, size = group.tasks.index(task), len(group.tasks)
        group.runs.append(f"rank {rank} of {size} {how}")
        if task.kind is not None and group.status == RUNNING and len(group.runs) <= task.kind.options.retries:
            group.losses = 0
            self._again(group, now)
            return
        before = "".join(f"\n  before: {line}" for line in group.runs[:-1])
        error = GroupFailed(f"{group.name} ended: {group.runs[-1]}{before}", group.first.key, rank, address, raised)
        self._state.settle_failed(task, error)

    def ended(self, group: Group, error: Any) -> list[Task]:
        """A member has failed, whatever the reason, and so have the others: these. What runs is stopped."""
        if group.status == OVER:
            return []
        self._stop(group)
        group.status, group.error = OVER, error
        self._forget(group)
        return group.known

    def _again(self, group: Group, now: float, pause_s: float = 0.0) -> None:
        """Gather anew: former attempts of all members no longer count."""
        if group.status not in (GATHERING, RUNNING):
            return
        self._stop(group)
        group.status, group.stages = INPUTS, []
        for task in group.tasks:
            view = self._state.workers.get(task.worker or "")
            if task.status == SENT and view is not None and view.under_way.get(task.key) is task:
                view.remove(task)
            if task.status == SENT:
                self._state.nesting.over(task)
                task.attempt += 1
            task.status = WAITING
        for task in group.tasks:
            if group.status != OVER:  # an input may have failed meanwhile
                self._state.wait_again(task, now, pause_s)

    def _stop(self, group: Group) -> None:
        """Whatever members run or are about to is cancelled, and what others have returned is dropped."""
        for address, tasks in _by_worker(task for task in group.tasks if task.status == SENT).items():
            view = self._state.workers.get(address)
            going = [task for task in tasks if view is not None and view.under_way.get(task.key) is task]
            if going:
                message = Cancel([task.key for task in going], [task.attempt for task in going])
                self._state.order(Send(address, message))
        for task in group.tasks:
            if task in group.returned:
                self._drop_value(task)
        group.returned, group.gathered = set(), set()

    def _drop_value(self, task: Task) -> None:
        lifetimes = self._state.lifetimes
        for address in sorted(task.holders or {task.worker or ""}):
            lifetimes.forget_holder(task, address)
            lifetimes.delete_at(address, task.key, task.attempt)
        task.outcome = task.holders = None
        lifetimes.keep_contained(task, ())

    def _forget(self, group: Group) -> None:
        self.active.pop(group, None)
        if group in self.queue:
            self.queue.remove(group)

    # -------------------------------------------------------------------------------------------------- explanations

    def tasks(self) -> Iterator[Task]:
        """Members that no worker has."""
        for group in self.active:
            yield from (task for task in group.tasks if task.status == READY or task in group.returned)

    def explain(self, task: Task) -> str:
        """Why a member is where it is."""
        group: Group = task.kind.group  # type: ignore[union-attr]
        size = len(group.tasks)
        if group.status == QUEUED:
            return self._explain_queued(group, size)
        if group.status == GATHERING:
            address, tasks = group.stages[0]
            return (
                f"{group.name} gathers: {len(group.gathered)} of its {size} members have an executor; it waits until "
                f"{address} has {len(tasks)} idle at one time"
            )
        rank = group.tasks.index(task)
        if task in group.returned:
            left = size - len(group.returned)
            return f"rank {rank} of {group.name} has returned; its value is published when the other {left} have, too"
        return f"rank {rank} of {group.name} runs on {task.worker}"

    def _explain_queued(self, group: Group, size: int) -> str:
        cores = self._cores(group)
        have = sum(cores.values())
        if have < size:
            wanted = group.first.kind.options.workers if group.first.kind is not None else ()
            head = f"{group.name} has {size} members, which start together, and"
            if wanted and not have:
                return f"{head} {explain.unmet(self._state, group.first)}"
            where = ", ".join(sorted(wanted)) if wanted else count(len(cores), "worker")
            return (
                f"{head} only {count(have, 'executor')} on {where} can run them; make it smaller, or start more workers"
            )
        return f"{group.name} waits until other groups of this pool have begun: it needs {size} of {have} executors"

    def check(self) -> None:
        """Assert what must hold between any two events."""
        assert all(group.status == QUEUED for group in self.queue)
        for group in self.active:
            assert group.status != OVER
            sent = [task for task in group.tasks if task.status == SENT]
            assert not sent or group.status in (GATHERING, RUNNING), group.status
            assert group.status != RUNNING or len(sent) == len(group.tasks), "a group of which a part runs"
            for task in sent:
                view: WorkerView | None = self._state.workers.get(task.worker or "")
                assert task in group.returned or (view is not None and task.key in view.under_way), task


def _by_worker(tasks: Iterator[Task]) -> dict[str, list[Task]]:
    found: dict[str, list[Task]] = {}
    for task in tasks:
        found.setdefault(task.worker or "", []).append(task)
    return found
