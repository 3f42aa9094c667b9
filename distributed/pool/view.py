"""What a pool knows of one worker that it is connected to. Data and arithmetic; `pool.state` decides."""

from __future__ import annotations

import itertools
import operator
from typing import Any

from distributed.config import Settings
from distributed.pool.tasks import KIND, SENT, Duration, Kind, Levels, Task
from distributed.wire.messages import Compute, Member


class Standing:
    """Which of many workers have idle cores, which more tasks than cores, and which may have room for more tasks.

    The views keep it up to date: to look at all of thousands of workers on each event would cost more than the tasks.
    """

    __slots__ = ("crowded", "dry", "has_freed", "roomy")

    def __init__(self) -> None:
        self.has_freed = True  # a worker has resources that it did not have before, or is new
        self.dry: dict[str, WorkerView] = {}
        self.crowded: dict[str, WorkerView] = {}
        self.roomy: dict[str, WorkerView] = {}

    def forget(self, address: str) -> None:
        """This worker counts no longer."""
        for table in (self.dry, self.crowded, self.roomy):
            table.pop(address, None)


class WorkerView:
    """What a pool knows of one worker that it is connected to."""

    __slots__ = (
        "_standing",
        "_weights",
        "assigned",
        "beside",
        "beside_depths",
        "bytes_under_way",
        "depths",
        "fullness",
        "holds",
        "known",
        "leaving",
        "load",
        "member",
        "number",
        "recall_at_s",
        "resources_used",
        "since",
        "under_way",
        "waiting",
    )

    def __init__(self, member: Member) -> None:
        self.member = member
        self.under_way: dict[str, Task] = {}
        self.bytes_under_way = 0  # of arguments, and of inputs that travelled along
        self._weights: dict[str, int] = {}  # what each task with inputs adds to that: its inputs may change meanwhile
        self.load: dict[Duration, int] = {}  # tasks under way for the cores, by kind of function
        self.beside = 0  # tasks under way beside those: they share one executor, or wait for one of their own
        self.beside_depths: dict[int, int] = {}  # those that tasks submitted, by depth
        self.assigned = Levels()  # ready tasks that should run here, because their inputs are here
        self.holds: dict[str, Task] = {}  # tasks with a large value here
        self.known: set[bytes] = set()  # functions whose code this worker has been sent
        self.waiting: dict[str, Task] = {}  # of those under way for the cores: they wait for tasks, and use none
        self.depths: dict[int, int] = {}  # tasks under way for the cores that tasks submitted, by depth
        self.recall_at_s = 0.0  # when it may be asked to give tasks back; for ever later while it is being asked
        self.resources_used: dict[str, int] = {}  # by tasks under way here
        self.leaving = False  # it ends soon, and is given nothing any more
        self.since = 0.0  # when it last finished something, or got work after having none
        self.number = 0  # the how manyth of the pool's workers it is
        self.fullness = 0.0  # tasks for each core
        self._standing: Standing | None = None  # what it is counted in, if it is given work

    @property
    def on_cores(self) -> int:
        """How many tasks are under way that each need a core."""
        return len(self.under_way) - self.beside - len(self.waiting)

    @property
    def idle_cores(self) -> int:
        """How many cores have no task of ours."""
        return max(0, self.member.ncores - self.on_cores)

    def ahead_of(self, depth: int) -> int:
        """How many tasks under way, of this depth or deeper, use a core before one of this depth that is sent now."""
        count = sum(count for deep, count in self.depths.items() if deep >= depth)
        return count - sum(task.kind.depth >= depth for task in self.waiting.values() if task.kind is not None)

    def beside_from(self, depth: int) -> int:
        """How many tasks are under way beside those for the cores, of this depth or deeper."""
        if not depth:
            return self.beside
        return sum(count for deep, count in self.beside_depths.items() if deep >= depth)

    def wait(self, task: Task, is_waiting: bool) -> None:
        """A task under way begins to wait for others, or goes on."""
        if is_waiting and task.key in self.under_way:
            self.waiting[task.key] = task
        else:
            self.waiting.pop(task.key, None)
        self._stand()

    def reconsider(self) -> None:
        """It may have room for what comes now, if it had none for what came before."""
        self._stand()

    def count_in(self, standing: Standing | None) -> None:
        """Keep this up to date from now on; or nothing, as a worker that is given no more work."""
        if self._standing is not None:
            self._standing.forget(self.member.address)
        self._standing = standing
        if standing is not None:
            standing.has_freed = True
        self._stand()

    def _stand(self) -> None:
        on_cores = len(self.under_way) - self.beside - len(self.waiting)
        ncores = self.member.ncores
        self.fullness = on_cores / ncores
        if (standing := self._standing) is None:
            return
        address = self.member.address
        if on_cores < ncores:
            standing.dry[address] = self
        elif address in standing.dry:
            del standing.dry[address]
        if on_cores > ncores:
            standing.crowded[address] = self
        elif address in standing.crowded:
            del standing.crowded[address]
        standing.roomy[address] = self

    def busy_s(self, settings: Settings) -> float:
        """Predicted seconds of work under way, on one core."""
        floor = settings.task_overhead_s
        return sum(count * max(duration.mean_s or 0.0, floor) for duration, count in self.load.items())

    def wait_s(self, settings: Settings, now: float, more: int = 1) -> float:
        """How long a task that is sent here now would wait for a core; with ``more=0`` the last one that is here."""
        surplus = self.on_cores + len(self.assigned) - self.member.ncores + more
        if surplus <= 0:
            return 0.0
        silent_s = now - self.since if self.on_cores else 0.0
        each_s = max(self.busy_s(settings) / (self.on_cores or 1), silent_s)
        return surplus * each_s / self.member.ncores

    def send(self, batch: list[Task], now: float) -> Compute:
        """Note that tasks of one kind are under way here from now on; the message that tells the worker so."""
        kind = batch[0].kind
        assert kind is not None
        address = self.member.address
        inputs = {}
        keys: list[str] = []
        args: list[bytes] = []
        nbytes = 0
        for task in batch:
            task.status, task.worker = SENT, address
            if task.inputs:
                inputs[len(keys)] = [_as_input(needed) for needed in task.inputs]
                self._weights[task.key] = weight = task.message_bytes
                nbytes += weight
            else:
                nbytes += len(task.args)  # type: ignore[arg-type]  # a task under way has its arguments
            keys.append(task.key)
            args.append(task.args)  # type: ignore[arg-type]
        if not self.under_way:
            self.since = now
        self.under_way.update(zip(keys, batch, strict=True))
        if kind.is_beside:
            self.beside += len(batch)
        else:
            self.load[kind.duration] = self.load.get(kind.duration, 0) + len(batch)
        self._count_depth(kind, len(batch))
        self.bytes_under_way += nbytes
        self._use(kind, len(batch))
        self._stand()
        code = b"" if kind.function in self.known else kind.code
        self.known.add(kind.function)
        needs = {}
        if kind.needs:
            needs = {need.identity: b"" if need.identity in self.known else need.code for need in kind.needs}
            self.known.update(needs)
        return Compute(
            function=kind.function,
            code=code,
            name=kind.name,
            keys=keys,
            attempts=[task.attempt for task in batch],
            args=args,
            inputs=inputs,
            priority=kind.options.priority,
            timeout_s=kind.options.timeout_s,
            once=kind.options.attempts == 1,
            asynchronous=kind.asynchronous,
            needs=needs,
            seat=kind.seat,
            resources=dict(kind.options.resources),
            depth=kind.depth,
            together=kind.group is not None,
        )

    def _use(self, kind: Kind, count: int) -> None:
        """So many tasks more use resources here."""
        for name, amount in kind.options.resources:
            self.resources_used[name] = self.resources_used.get(name, 0) + amount * count
            if count < 0 and self._standing is not None:
                self._standing.has_freed = True

    def _count_depth(self, kind: Kind, count: int) -> None:
        """So many tasks more, that tasks submitted, are under way."""
        if not kind.depth:
            return
        depths = self.beside_depths if kind.is_beside else self.depths
        depths[kind.depth] = depths.get(kind.depth, 0) + count
        if not depths[kind.depth]:
            del depths[kind.depth]

    def weight(self, task: Task) -> int:
        """What a task that is under way here weighed in its message."""
        return self._weights[task.key] if task.inputs else len(task.args or b"")

    def remove(self, task: Task) -> None:
        """Note that a task is no longer under way here."""
        self.remove_many([task])

    def remove_many(self, tasks: list[Task]) -> None:
        """Note that tasks are no longer under way here."""
        under_way = self.under_way
        for task in tasks:
            del under_way[task.key]
            self.bytes_under_way -= self._weights.pop(task.key) if task.inputs else len(task.args)  # type: ignore[arg-type]
        for kind, group in itertools.groupby(tasks, key=KIND):
            count = sum(1 for _ in group)
            self._use(kind, -count)
            self._count_depth(kind, -count)
            if kind.is_beside:
                self.beside -= count
                continue
            left = self.load[kind.duration] - count
            if left:
                self.load[kind.duration] = left
            else:
                del self.load[kind.duration]
        if self.waiting:
            for task in tasks:
                self.waiting.pop(task.key, None)
        self._stand()


BY_FULLNESS = operator.attrgetter("fullness", "number")  # who should be given work first


def _as_input(needed: Task) -> list[Any]:
    if needed.holders:
        return [needed.key, needed.attempt, needed.nbytes, sorted(needed.holders), None]
    return [needed.key, needed.attempt, needed.nbytes, [], needed.inline]
