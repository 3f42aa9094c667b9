"""Which ready task goes to which worker next: queues, windows, and moving work to workers that have run dry.

Owns the queues of ready tasks and the views of connected workers. Where one task should run, and how much a worker may
have under way, is arithmetic in :mod:`distributed.pool.policy`; what a task is waiting for is not known here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator

from distributed.config import KIB, Settings
from distributed.pool import policy
from distributed.pool.demands import Demands, may_run
from distributed.pool.events import Instruction, Send, WakeAt
from distributed.pool.tasks import READY, Levels, Task
from distributed.pool.view import BY_FULLNESS, Standing, WorkerView
from distributed.wire.messages import Recall

SMALL_BYTES = 64 * KIB
UNKNOWN_S = 1e9  # nobody knows how long it takes


class Placement:
    """Ready tasks, and the workers that they are for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.workers: dict[str, WorkerView] = {}
        self.takers: dict[str, WorkerView] = {}  # those of them that do not leave
        self.standing = Standing()  # of the takers
        self._loaded: dict[str, None] = {}  # takers that tasks were assigned to; perhaps there are none any more
        self._refused_s = 0.0  # how long those tasks take, at most, for which some worker had no room
        self._numbers = itertools.count()
        self.unplaced = Levels()  # ready tasks that may run anywhere
        self.moved_at = 0.0  # when something was last taken from these, or put where there was nothing
        self.near: dict[str, set[str]] = {}  # tasks that failed elsewhere, for want of room or of inputs: try these
        self.stranded: dict[str, tuple[Task, float]] = {}  # ready tasks for which nobody here will do, till when
        self.demands = Demands(settings, self.takers, self.standing, self.near, lambda task: self.held(task, ()))

    def admit(self, view: WorkerView) -> None:
        """A worker is here, and takes tasks."""
        view.number = next(self._numbers)
        self.takers[view.member.address] = view
        view.count_in(self.standing)

    def dismiss(self, address: str) -> None:
        """A worker is gone, or takes no more tasks."""
        view = self.takers.pop(address, None)
        if view is not None:
            view.count_in(None)

    def place(self, task: Task, now: float) -> Instruction | None:
        """Queue a task whose inputs are all there where it should run."""
        assert task.kind is not None
        task.status = READY
        if not task.kind.options.is_picky and not self.near and _is_carried(task.inputs):
            if not self.unplaced:
                self.moved_at = now
            self.unplaced.extend(_level(task), (task,))
            return None
        allowed = self._allowed(task)
        if task.kind.options.is_picky and not allowed:
            deadline = now + self.settings.unmet_demand_grace_s
            self.stranded[task.key] = (task, deadline)
            return WakeAt(deadline)
        if task.kind.options.resources:
            self.demands.put(task, _level(task))
            return None
        if not self.unplaced:
            self.moved_at = now
        self._queue(task, self._home(task, allowed, now))
        return None

    def take_reachable(self) -> list[Task]:
        """The stranded tasks that may run on somebody who is here now."""
        reachable = [task for task, _ in self.stranded.values() if task.status == READY and self._allowed(task)]
        for task in reachable:
            del self.stranded[task.key]
        return reachable

    def withdraw(self, tasks: list[Task]) -> None:
        """Take ready tasks out of the queues, to place them anew."""
        for task in tasks:
            self.stranded.pop(task.key, None)
        loaded = [view for view in map(self.takers.get, self._loaded) if view is not None]
        self.demands.withdraw(set(tasks))
        for queue in (self.unplaced, *(view.assigned for view in loaded)):
            queue.remove(set(tasks))
        self._refused_s = float("inf")  # what is first in a queue now may be shorter than what was

    def place_anywhere(self, tasks: list[Task], now: float) -> None:
        """Queue tasks of one kind, without inputs and without wishes: costs next to nothing a task."""
        if not self.unplaced:
            self.moved_at = now
        self.unplaced.extend(_level(tasks[0]), tasks)

    def idle_worker(self, task: Task) -> WorkerView | None:
        """Where a single task without inputs can start at once, past the queues; None if it has to queue.

        Submit, wait, submit the next: most of such a round trip would be looking for others to share with.
        """
        if self.has_ready or task.kind.asynchronous or len(task.args or b"") > SMALL_BYTES:  # type: ignore[union-attr]
            return None
        view = min(self._some(self.standing.dry), key=BY_FULLNESS, default=None)
        if view is not None and len(view.under_way) >= view.member.ncores:  # coroutines, which may weigh much
            return view if view.bytes_under_way + len(task.args or b"") <= self.settings.window_bytes_max else None
        return view

    def _some(self, views: dict[str, WorkerView]) -> Iterable[WorkerView]:
        """As many of them as are worth comparing: the best of these is nearly as good as the best of thousands."""
        if len(views) <= self.settings.workers_compared_max:
            return views.values()
        return itertools.islice(views.values(), self.settings.workers_compared_max)

    def emptiest(self, preferred: str | None) -> str:
        """Who should hold one more value: the preferred worker if it stays, else who holds fewest."""
        if preferred in self.takers:
            return preferred  # type: ignore[return-value]
        return min(self.takers, key=lambda address: (len(self.takers[address].holds), address))

    def _queue(self, task: Task, home: str | None) -> None:
        queue = self.unplaced
        if home is not None:
            queue, self._loaded[home] = self.takers[home].assigned, None
            self.standing.roomy[home] = self.takers[home]  # it may have room for this, if not for what was first
        queue.extend(_level(task), (task,))

    def _home(self, task: Task, allowed: list[WorkerView], now: float) -> str | None:
        """Where a task should run; None if anywhere is as good."""
        held = self.held(task, allowed)
        if not allowed:
            if not any(held.values()):
                return None
            hosts = {policy.host_of(address) for address in held}
            _, _, calmest = min(
                (view.wait_s(self.settings, now), policy.host_of(view.member.address) not in hosts, view.member.address)
                for view in self._calm()
            )
            held.setdefault(calmest, 0)
        if task.key in self.near:
            candidates = held if allowed else self.takers
            held = {where: held.get(where, 0) for where in candidates if where in self.near[task.key]} or held
        waits = {address: self.takers[address].wait_s(self.settings, now) for address in held}
        return policy.place(held, waits, self.settings)

    def _calm(self) -> Iterable[WorkerView]:
        """Where a task would not wait for long."""
        if len(self.takers) <= self.settings.workers_compared_max:
            return self.takers.values()
        return self._some(self.standing.dry or self.standing.roomy or self.takers)

    def able(self, task: Task) -> list[WorkerView]:
        """The workers that may run it."""
        return self._allowed(task) if task.kind.options.workers else list(self.takers.values())  # type: ignore[union-attr]

    def _allowed(self, task: Task) -> list[WorkerView]:
        """Those that a task may run on; nobody, if all will do."""
        if not task.kind.options.is_picky:  # type: ignore[union-attr]
            return []
        return [view for view in self.takers.values() if may_run(view, task)]

    def held(self, task: Task, allowed: Iterable[WorkerView]) -> dict[str, int]:
        """Candidates and how many input bytes each holds; inputs that travel inside the message weigh nothing."""
        held = {view.member.address: 0 for view in allowed}
        for needed in task.inputs:
            if needed.outcome is None:
                for address in needed.holders or ():
                    if address in self.takers and (address in held or not allowed):
                        held[address] = held.get(address, 0) + needed.nbytes
        return held

    # ----------------------------------------------------------------------------------------------- from ready to sent

    def batches(self, now: float) -> Iterator[tuple[WorkerView, list[Task]]]:
        """Batches of one kind for workers that have room; the caller notes each as sent before it takes the next."""
        self._reconsider()
        count = len(self.unplaced)
        if 0 < count < len(self.standing.dry):  # there are more idle workers than tasks for them
            idle = itertools.islice(self.standing.dry.values(), max(count, self.settings.workers_compared_max))
            yield from self._rounds(list(dict.fromkeys((*idle, *self._hungry_for_their_own()))), now)
        if self.has_ready:
            hungry = self.standing.roomy.values() if self.unplaced else self._hungry_for_their_own()
            yield from self._rounds(list(hungry), now)

    def _rounds(self, hungry: list[WorkerView], now: float) -> Iterator[tuple[WorkerView, list[Task]]]:
        """In rounds, so that the last tasks are spread evenly."""
        if len(hungry) > 1:
            hungry.sort(key=BY_FULLNESS)
        while hungry and self.has_ready:
            still_hungry = []
            for view in hungry:
                if batch := self._next_batch(view, now):
                    yield view, batch
                    still_hungry.append(view)
            hungry = still_hungry

    def _hungry_for_their_own(self) -> list[WorkerView]:
        roomy = self.standing.roomy
        return [roomy[address] for address in self._loaded if address in roomy]

    def _reconsider(self) -> None:
        """Who had no room for longer tasks than come now may have room for these."""
        if self.unplaced and _need_s(self.unplaced.peek()) < 0.9 * self._refused_s:
            self._refused_s = 0.0
            self.standing.roomy.update(self.takers)

    def _refuse(self, view: WorkerView, task: Task) -> None:
        """It has no room, until something is different there."""
        self._refused_s = max(self._refused_s, float("inf") if task.kind.is_beside else _need_s(task))  # type: ignore[union-attr]
        self.standing.roomy.pop(view.member.address, None)

    @property
    def has_ready(self) -> bool:
        """Whether anything is queued here."""
        if self.unplaced:
            return True
        while self._loaded:
            address = next(iter(self._loaded))
            view = self.takers.get(address)
            if view is not None and view.assigned:
                return True
            del self._loaded[address]
        return False

    def _next_batch(self, view: WorkerView, now: float) -> list[Task]:
        while view.assigned or self.unplaced:
            queue = view.assigned
            if self.unplaced.first_level() < queue.first_level():
                queue = self.unplaced
            first = queue.peek()
            count, room_bytes = self._room(view, first), self._room_bytes(view, first)
            if queue is self.unplaced:
                mean_s = first.kind.duration.mean_s
                share = policy.share(len(queue), len(self.takers), view.member.ncores, mean_s, self.settings)
                count = min(count, share)
            if first.message_bytes > room_bytes and first.kind.depth and self._room_before_others(view, first) > 0:
                count, room_bytes = 1, first.message_bytes
            if count < 1:
                self._refuse(view, first)
                return []
            if first.message_bytes > room_bytes and len(view.under_way) >= view.member.ncores:
                return []  # while a core is idle one task is sent, however large: it has to run somewhere
            batch = [task for task in queue.take(count, room_bytes) if task.status == READY]
            if queue is self.unplaced:
                self.moved_at = now
            if batch:
                return batch
        return []

    def _room(self, view: WorkerView, task: Task) -> int:
        """How many tasks like this one the worker may be sent: bounded by time and number."""
        assert task.kind is not None
        if task.kind.is_beside:  # they wait beside one another, and take no core; for deeper ones those above may wait
            return self.settings.asynchronous_tasks_max - view.beside_from(task.kind.depth)
        mean_s = task.kind.duration.mean_s
        busy_s, settings = view.busy_s(self.settings), self.settings
        room = policy.room(view.member.ncores, view.on_cores, busy_s, mean_s, settings.window_s, settings)
        return max(room, self._room_before_others(view, task)) if task.kind.depth else room

    def _room_before_others(self, view: WorkerView, task: Task) -> int:
        """A task of a task does not wait for a window full of those that will run after it: one may wait for it."""
        return view.member.ncores + 1 - view.ahead_of(task.kind.depth)  # type: ignore[union-attr]

    def _room_bytes(self, view: WorkerView, task: Task) -> int:
        """How much tasks like this one may weigh together in the next message to the worker."""
        assert task.kind is not None
        code_bytes = 0 if task.kind.function in view.known else len(task.kind.code)
        return self.settings.window_bytes_max - view.bytes_under_way - code_bytes

    # ------------------------------------------------------------------------------------------------------ moving work

    def balance(self, now: float) -> list[Instruction]:
        """When a worker has run dry while another has much: move assigned tasks, or have queued ones given back."""
        dry = len(self.standing.dry)
        if not dry or dry == len(self.takers):
            return []
        busiest = max(
            self._givers(), key=lambda view: (view.wait_s(self.settings, now), view.member.address), default=None
        )
        if busiest is None:
            return []
        look_again = WakeAt(now + self.settings.move_wait_min_s)
        if busiest.assigned:
            self._relocate(busiest, now)
            return [look_again]
        surplus = busiest.on_cores - busiest.member.ncores
        if surplus <= 0 or busiest.recall_at_s == math.inf:
            return []
        if now < busiest.recall_at_s or busiest.wait_s(self.settings, now, more=0) <= self.settings.move_wait_min_s:
            return [look_again]
        busiest.recall_at_s = math.inf
        return [Send(busiest.member.address, Recall((surplus + 1) // 2))]

    def _givers(self) -> Collection[WorkerView]:
        """Those that have something to give, or as many of them as are worth comparing."""
        loaded = itertools.islice(self._loaded, self.settings.workers_compared_max)
        assigned = {address: view for address in loaded if (view := self.takers.get(address)) and view.assigned}
        return {**assigned, **{view.member.address: view for view in self._some(self.standing.crowded)}}.values()

    def check(self) -> None:
        """Assert what must hold between any two events."""
        standing, takers = self.standing, self.takers
        self.demands.check()
        assert standing.dry.keys() == {
            address for address, view in takers.items() if view.on_cores < view.member.ncores
        }
        assert standing.crowded.keys() == {it for it, view in takers.items() if view.on_cores > view.member.ncores}
        assert standing.roomy.keys() <= takers.keys()
        assert all(takers[address] is view for address, view in (*standing.dry.items(), *standing.roomy.items()))
        assert self._loaded.keys() >= {address for address, view in takers.items() if view.assigned}
        assert all(view.under_way for address, view in takers.items() if address not in standing.roomy)

    def _relocate(self, busiest: WorkerView, now: float) -> None:
        """Queue the last assigned task of a busy worker, which would wait longest, elsewhere if that is worth it."""
        task = busiest.assigned.take_last()  # or it would count itself among those that it waits for
        home = self._home(task, self._allowed(task), now)
        self._queue(task, home)


def _level(task: Task) -> tuple[float, int]:
    """At equal priority those that consume go before those that only produce, and what ran or was sent before first.

    Others have been waiting for it since; at the end of a long queue it would hold them up for as long as that takes.
    """
    assert task.kind is not None
    return task.kind.options.priority, -1 if task.attempt > 1 else 0 if task.inputs else 1


def _need_s(task: Task) -> float:
    """How long it takes, as far as somebody who is to have room for it is concerned."""
    assert task.kind is not None
    if task.kind.is_beside:
        return 0.0
    mean_s = task.kind.duration.mean_s
    return UNKNOWN_S if mean_s is None else mean_s


def _is_carried(inputs: tuple[Task, ...]) -> bool:
    """Whether all inputs travel inside the message: then anywhere is as good."""
    for needed in inputs:  # noqa: SIM110 - asked for every task with inputs: `all` takes twice as long
        if needed.outcome is None:
            return False
    return True
