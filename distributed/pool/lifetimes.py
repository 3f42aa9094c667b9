"""How long values live: who still needs them, where they are deleted, which recipes are kept.

A value lives while a handle, an unfinished dependent or a value that contains it counts as its user. Owns the counts,
the table of tasks whose names have left as data, the lineage, and the deletions that workers have not been told yet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from distributed.pool.events import Send
from distributed.pool.lineage import Lineage
from distributed.pool.tasks import DONE, FAILED, RELEASED, Task
from distributed.pool.view import WorkerView
from distributed.wire.messages import DeleteData


class Lifetimes:
    """The users of each task's value, and what follows when there are none."""

    def __init__(self, workers: dict[str, WorkerView], lineage_bytes_max: int) -> None:
        self.workers = workers
        self.shared: dict[str, Task] = {}  # tasks whose reference is inside stored values or with other clients
        self.lineage = Lineage(lineage_bytes_max)
        self._deletions: defaultdict[str, list[str]] = defaultdict(list)

    def let_go(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            task.users -= 1
            if not task.users:
                self.release(task)

    def release(self, task: Task) -> None:
        """Nobody needs the value any more: delete it where it is; keep the recipe while something is built on it."""
        releasing = [task]
        while releasing:  # a loop, because values may contain one another a hundred thousand deep
            task = releasing.pop()
            if task.status == DONE:
                self._delete(task)
                task.status, task.outcome, task.holders = RELEASED, None, None
                for inner in task.contains:
                    inner.users -= 1
                    if not inner.users:
                        releasing.append(inner)
                task.contains = ()
                if task.heirs and task.args is not None:
                    self.lineage.keep(task)
                else:
                    self.lineage.forget(task)
            if task.status in (RELEASED, FAILED) and self.shared.get(task.key) is task:
                del self.shared[task.key]

    def _delete(self, task: Task) -> None:
        for address in sorted(task.holders or ([task.worker] if task.worker else ())):
            if not task.borrowed:
                self.delete_at(address, task.key)
            if task.holders and address in self.workers:
                self._forget_held(task, address)

    def keep_contained(self, task: Task, contained: tuple[Task, ...]) -> None:
        """What a value contains lives as long as it does; what its former attempt contained need not."""
        former, task.contains = task.contains, contained
        for inner in contained:
            inner.users += 1
        self.let_go(former)

    def distrust(self, task: Task, address: str) -> None:
        """A worker does not give a value that it should have: it is no holder, and shall not be one by surprise."""
        if task.holders is not None:
            task.holders.discard(address)
        if address in self.workers:
            self._forget_held(task, address)
            if not task.borrowed:
                self.delete_at(address, task.key)

    def _forget_held(self, task: Task, address: str) -> None:
        holds = self.workers[address].holds
        if holds.get(task.key) is task:
            del holds[task.key]

    def delete_at(self, address: str, key: str) -> None:
        """Whatever a worker holds under this key shall go."""
        self._deletions[address].append(key)

    def forget_worker(self, address: str) -> None:
        """It is gone, and its data with it."""
        self._deletions.pop(address, None)

    def take_deletions(self) -> list[Send]:
        """What to tell workers, one message each."""
        out = [Send(address, DeleteData(keys)) for address, keys in self._deletions.items() if address in self.workers]
        self._deletions.clear()
        return out

    def check(self) -> None:
        """Assert what must hold between any two events."""
        for task in self.lineage.tasks.values():
            assert task.status == RELEASED, task
            assert task.args is not None, task
        assert self.lineage.nbytes == sum(task.recipe_bytes for task in self.lineage.tasks.values())
