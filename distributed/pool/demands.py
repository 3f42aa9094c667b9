"""Ready tasks that ask for resources: they wait here until a worker has what they need, beside the other queues.

Tasks that need none never wait behind them. Which worker: of those that have enough free, as far as this pool's own
tasks are concerned, the one that holds most of the input bytes, then the one with most idle cores. The first by
priority and arrival goes first; one that fits nowhere just now keeps what it needs, at the worker that lacks least,
from those behind it. Other pools' tasks are known to the worker alone, who sees to it that all of them together fit.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping

from distributed import resources
from distributed.config import Settings
from distributed.pool.tasks import READY, Task
from distributed.pool.view import Standing, WorkerView

Waiting = tuple[tuple[float, int], int, Task]


class Demands:
    """The tasks that wait for resources. `held` tells how many input bytes of a task a worker has."""

    def __init__(
        self,
        settings: Settings,
        takers: Mapping[str, WorkerView],
        standing: Standing,
        near: Mapping[str, set[str]],
        held: Callable[[Task], Mapping[str, int]],
    ) -> None:
        self._settings, self._takers, self._standing, self._near, self._held = settings, takers, standing, near, held
        self._is_due = False
        self._waiting: dict[tuple[resources.Demand, frozenset[str]], list[Waiting]] = {}  # heaps
        self._numbers = itertools.count()
        self._places: dict[Task, int] = {}  # of each that waits: the number under which it is wanted; others are void

    @property
    def is_due(self) -> bool:
        """Whether somebody who waits may have a turn that had none before."""
        return bool(self._waiting) and (self._is_due or self._standing.has_freed)

    def __iter__(self) -> Iterator[Task]:
        """The tasks that wait."""
        return (item[2] for heap in self._waiting.values() for item in sorted(heap) if self._is_wanted(item))

    def put(self, task: Task, level: tuple[float, int]) -> None:
        """A task waits for its turn."""
        options = task.kind.options  # type: ignore[union-attr]
        heap = self._waiting.setdefault((options.resources, options.workers), [])
        number = self._places[task] = next(self._numbers)
        heapq.heappush(heap, (level, number, task))
        self._is_due = True

    def withdraw(self, tasks: set[Task]) -> None:
        """Take these out, wherever they are: what is left of them there counts for nothing."""
        self._is_due = True
        for task in tasks:
            self._places.pop(task, None)

    def take_unmet(self) -> list[Task]:
        """Take out those that no worker that is here can ever run."""
        unmet = []
        for name, heap in list(self._waiting.items()):
            if not any(may_run(view, heap[0][2]) for view in self._takers.values()):
                unmet += [item[2] for item in sorted(heap) if self._is_wanted(item)]
                for item in heap:
                    self._leave(item)
                del self._waiting[name]
        return unmet

    def _is_wanted(self, item: Waiting) -> bool:
        return item[2].status == READY and self._places.get(item[2]) == item[1]

    def _leave(self, item: Waiting) -> None:
        if self._places.get(item[2]) == item[1]:
            del self._places[item[2]]

    def batches(self) -> Iterator[tuple[WorkerView, list[Task]]]:
        """Those whose turn it is, for workers that have what they need; the caller notes each as sent before the next.

        In the order of all of them, one demand after the other: as long as its first fits somewhere, it is the first.
        """
        self._is_due = self._standing.has_freed = False
        kept_back: dict[str, set[str]] = {}  # by worker, the names of what is kept for somebody who came before
        stuck: set[tuple[resources.Demand, frozenset[str]]] = set()
        while name := min(
            (name for name in list(self._waiting) if name not in stuck and self._prune(name)),
            key=lambda name: self._waiting[name][0][:2],
            default=None,
        ):
            task = self._waiting[name][0][2]
            view = self._choose(task, kept_back)
            if view is None:
                stuck.add(name)
                self._keep_back(task, kept_back)
                continue
            yield view, self._take(name, view)

    def _prune(self, name: tuple[resources.Demand, frozenset[str]]) -> bool:
        """Whether anybody waits there, when those that are not wanted any more are left out."""
        heap = self._waiting[name]
        while heap and not self._is_wanted(heap[0]):
            self._leave(heapq.heappop(heap))
        if not heap:
            del self._waiting[name]
        return bool(heap)

    def _choose(self, task: Task, kept_back: Mapping[str, set[str]]) -> WorkerView | None:
        demand = task.kind.options.resources  # type: ignore[union-attr]
        names = {name for name, _ in demand}
        free = [
            view
            for address, view in self._takers.items()
            if may_run(view, task)
            and names.isdisjoint(kept_back.get(address, ()))
            and resources.fit(demand, view.resources_used, view.member.resources)
            and self._has_room(view, task)
        ]
        near = self._near.get(task.key, set())
        held = self._held(task)
        return min(
            [view for view in free if view.member.address in near] or free,
            key=lambda view: (-held.get(view.member.address, 0), view.fullness, view.number),
            default=None,
        )

    def _has_room(self, view: WorkerView, task: Task) -> bool:
        """Whether its window of bytes has room; while a core is idle one task is sent, however large."""
        room_bytes = self._settings.window_bytes_max - view.bytes_under_way
        if task.message_bytes <= room_bytes or len(view.under_way) < view.member.ncores:
            return True
        self._is_due = True  # whatever ends there may make room
        return False

    def _take(self, name: tuple[resources.Demand, frozenset[str]], view: WorkerView) -> list[Task]:
        """The first task, and those of its kind behind it that fit as well and need no other worker's data."""
        heap = self._waiting[name]
        room = resources.fit(name[0], view.resources_used, view.member.resources)
        room_bytes = self._settings.window_bytes_max - view.bytes_under_way
        share = -(-len(heap) // len(self._takers))
        first = self._pop(heap)
        batch, room_bytes = [first], room_bytes - first.message_bytes
        while self._prune(name) and len(batch) < min(room, share):
            task = heap[0][2]
            room_bytes -= task.message_bytes
            if task.kind is not first.kind or task.inputs or room_bytes < 0:
                break
            batch.append(self._pop(heap))
        return batch

    def _pop(self, heap: list[Waiting]) -> Task:
        item = heapq.heappop(heap)
        self._leave(item)
        return item[2]

    def _keep_back(self, task: Task, kept_back: dict[str, set[str]]) -> None:
        """Who comes later and needs the same goes elsewhere: where this one lacks least, it will have its turn."""
        demand = task.kind.options.resources  # type: ignore[union-attr]
        nearest = min(
            (view for view in self._takers.values() if may_run(view, task)),
            key=lambda view: (_lack(demand, view), view.number),
            default=None,
        )
        if nearest is not None:
            kept_back.setdefault(nearest.member.address, set()).update(name for name, _ in demand)

    def check(self) -> None:
        """Each waits once; workers use no more than they have."""
        waiting = list(self)
        assert len(waiting) == len(set(waiting)), "a task waits twice"
        for view in self._takers.values():
            for name, amount in view.resources_used.items():
                assert 0 <= amount <= view.member.resources[name], f"{name} at {view.member.address}"


def may_run(view: WorkerView, task: Task) -> bool:
    """Whether a worker is one that a task may run on, and has what it needs when nothing of that is in use."""
    kind = task.kind
    assert kind is not None
    names, member = kind.options.workers, view.member
    if names and member.address not in names and member.name not in names:
        return False
    demand = kind.options.resources
    return kind.seat < member.ncores and (not demand or resources.fit(demand, {}, member.resources) > 0)


def _lack(demand: resources.Demand, view: WorkerView) -> int:
    used, there = view.resources_used, view.member.resources
    return sum(max(0, amount - there.get(name, 0) + used.get(name, 0)) for name, amount in demand)
