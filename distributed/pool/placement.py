"""Which ready task goes to which worker next: queues, windows, and moving work to workers that have run dry.

Owns the queues of ready tasks and the views of connected workers. Where one task should run, and how much a worker may
have under way, is arithmetic in :mod:`distributed.pool.policy`; what a task is waiting for is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from distributed.config import KIB, Settings
from distributed.pool import policy
from distributed.pool.events import Instruction, Send, WakeAt
from distributed.pool.tasks import READY, Levels, Task
from distributed.pool.view import WorkerView
from distributed.wire.messages import Recall

SMALL_BYTES = 64 * KIB


class Placement:
    """Ready tasks, and the workers that they are for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.workers: dict[str, WorkerView] = {}
        self.takers: dict[str, WorkerView] = {}  # those of them that do not leave
        self.unplaced = Levels()  # ready tasks that may run anywhere
        self.moved_at = 0.0  # when something was last taken from these, or put where there was nothing
        self.near: dict[str, set[str]] = {}  # tasks that failed elsewhere, for want of room or of inputs: try these
        self.stranded: dict[str, tuple[Task, float]] = {}  # ready tasks whose `workers=` are not here, till when

    def place(self, task: Task, now: float) -> Instruction | None:
        """Queue a task whose inputs are all there where it should run."""
        assert task.kind is not None
        task.status = READY
        if not task.kind.options.workers and not self.near and _is_carried(task.inputs):
            if not self.unplaced:
                self.moved_at = now
            self.unplaced.extend(_level(task), (task,))
            return None
        allowed = self._allowed(task)
        if task.kind.options.workers and not allowed:
            deadline = now + self.settings.no_worker_grace_s
            self.stranded[task.key] = (task, deadline)
            return WakeAt(deadline)
        if not self.unplaced:
            self.moved_at = now
        self._queue_at(self._home(task, allowed, now)).extend(_level(task), (task,))
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
        for queue in (self.unplaced, *(view.assigned for view in self.takers.values())):
            queue.remove(set(tasks))

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
        idle = [view for view in self.takers.values() if view.on_cores < view.member.ncores]
        return min(idle, key=lambda view: view.on_cores / view.member.ncores) if idle else None

    def emptiest(self, preferred: str | None) -> str:
        """Who should hold one more value: the preferred worker if it stays, else who holds fewest."""
        if preferred in self.takers:
            return preferred  # type: ignore[return-value]
        return min(self.takers, key=lambda address: (len(self.takers[address].holds), address))

    def _queue_at(self, home: str | None) -> Levels:
        return self.unplaced if home is None else self.takers[home].assigned

    def _home(self, task: Task, allowed: list[WorkerView], now: float) -> str | None:
        """Where a task should run; None if anywhere is as good."""
        held = self._held(task, allowed)
        if not allowed:
            if not any(held.values()):
                return None
            hosts = {policy.host_of(address) for address in held}
            _, _, calmest = min(
                (view.wait_s(self.settings, now), policy.host_of(address) not in hosts, address)
                for address, view in self.takers.items()
            )
            held.setdefault(calmest, 0)
        if task.key in self.near:
            candidates = held if allowed else self.takers
            held = {where: held.get(where, 0) for where in candidates if where in self.near[task.key]} or held
        waits = {address: self.takers[address].wait_s(self.settings, now) for address in held}
        return policy.place(held, waits, self.settings)

    def _allowed(self, task: Task) -> list[WorkerView]:
        names = task.kind.options.workers  # type: ignore[union-attr]
        if not names:
            return []
        return [view for view in self.takers.values() if view.member.address in names or view.member.name in names]

    def _held(self, task: Task, allowed: Iterable[WorkerView]) -> dict[str, int]:
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
        hungry = list(self.takers.values())
        if len(hungry) > 1:
            hungry.sort(key=lambda view: view.on_cores / view.member.ncores)
        while hungry and self.has_ready:  # in rounds, so that the last tasks are spread evenly
            still_hungry = []
            for view in hungry:
                if batch := self._next_batch(view, now):
                    yield view, batch
                    still_hungry.append(view)
            hungry = still_hungry

    @property
    def has_ready(self) -> bool:
        """Whether anything is queued here."""
        if self.unplaced:
            return True
        for view in self.takers.values():  # noqa: SIM110 - asked several times a message: `any` takes twice as long
            if view.assigned:
                return True
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
            if count < 1 or (first.message_bytes > room_bytes and len(view.under_way) >= view.member.ncores):
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
        if task.kind.asynchronous:  # they wait beside one another, and take no core
            return self.settings.asynchronous_tasks_max - view.coroutines
        mean_s = task.kind.duration.mean_s
        busy_s, settings = view.busy_s(self.settings), self.settings
        return policy.room(view.member.ncores, view.on_cores, busy_s, mean_s, settings.window_s, settings)

    def _room_bytes(self, view: WorkerView, task: Task) -> int:
        """How much tasks like this one may weigh together in the next message to the worker."""
        assert task.kind is not None
        code_bytes = 0 if task.kind.function in view.known else len(task.kind.code)
        return self.settings.window_bytes_max - view.bytes_under_way - code_bytes

    # ------------------------------------------------------------------------------------------------------ moving work

    def balance(self, now: float) -> list[Instruction]:
        """When a worker has run dry while another has much: move assigned tasks, or have queued ones given back."""
        dry = sum(view.on_cores < view.member.ncores for view in self.takers.values())
        if not dry or dry == len(self.takers):
            return []
        busiest = max(self.takers.values(), key=lambda view: (view.wait_s(self.settings, now), view.member.address))
        look_again = WakeAt(now + self.settings.move_wait_min_s)
        if busiest.assigned:
            self._relocate(busiest, now)
            return [look_again]
        surplus = busiest.on_cores - busiest.member.ncores
        if surplus <= 0 or busiest.recalling:
            return []
        if busiest.wait_s(self.settings, now, more=0) <= self.settings.move_wait_min_s:
            return [look_again]
        busiest.recalling = True
        return [Send(busiest.member.address, Recall((surplus + 1) // 2))]

    def _relocate(self, busiest: WorkerView, now: float) -> None:
        """Queue the last assigned task of a busy worker, which would wait longest, elsewhere if that is worth it."""
        task = busiest.assigned.take_last()  # or it would count itself among those that it waits for
        home = self._home(task, self._allowed(task), now)
        self._queue_at(home).extend(_level(task), (task,))


def _level(task: Task) -> tuple[float, int]:
    """At equal priority those that consume go before those that only produce, and what ran or was sent before first.

    Others have been waiting for it since; at the end of a long queue it would hold them up for as long as that takes.
    """
    assert task.kind is not None
    return task.kind.options.priority, -1 if task.attempt > 1 else 0 if task.inputs else 1


def _is_carried(inputs: tuple[Task, ...]) -> bool:
    """Whether all inputs travel inside the message: then anywhere is as good."""
    for needed in inputs:  # noqa: SIM110 - asked for every task with inputs: `all` takes twice as long
        if needed.outcome is None:
            return False
    return True
