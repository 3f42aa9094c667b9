"""How long values live: who still needs them, where they are deleted, which recipes are kept.

A value lives while a handle, an unfinished dependent or a value that contains it counts as its user. Owns the counts,
the table of tasks whose names have left as data, the lineage, and the deletions that workers have not been told yet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import repeat
from typing import Any

from distributed.pool.events import Send
from distributed.pool.lending import Lending
from distributed.pool.lineage import Lineage
from distributed.pool.membership import Membership
from distributed.pool.tasks import DONE, FAILED, RELEASED, Task
from distributed.pool.view import WorkerView
from distributed.wire.messages import DeleteData


class Lifetimes:
    """The users of each task's value, and what follows when there are none."""

    def __init__(self, membership: Membership, lineage_bytes_max: int, scattered_bytes_max: int = 0) -> None:
        self.membership, self.workers = membership, membership.workers
        self.shared: dict[str, Task] = {}  # tasks whose reference is inside stored values or with other clients
        self.bereft: dict[str, Task] = {}  # tasks that lost their last holder, as far as we know
        self.lineage = Lineage(lineage_bytes_max)
        self.scattered = Lineage(scattered_bytes_max)  # values on workers whose recipe is the value itself
        self.storing: set[str] = set()  # keys of values that the user is just putting on workers
        self.lending = Lending()
        self._deletions: defaultdict[str, list[str]] = defaultdict(list)  # whatever is there: nobody needs the key
        self._leftovers: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)  # that attempt, and no newer one

    def let_go(self, tasks: Iterable[Task]) -> None:
        """One user less of each.

        What most end as, small results that nobody else has, ends right here: 0.4 µs a handle, 1.2 by way of `release`.
        """
        for task in tasks:
            task.users -= 1
            if task.users:
                continue
            is_plain = task.status == DONE and task.worker and not (task.holders or task.contains or task.borrowed)
            if not is_plain or task.key in self.shared:
                self.release(task)
                continue
            self._deletions[task.worker].append(task.key)  # type: ignore[index]
            task.status, task.outcome = RELEASED, None
            self._keep_recipe(task)

    def release(self, task: Task) -> None:
        """Nobody needs the value any more: delete it where it is; keep the recipe while something is built on it."""
        releasing = [task]
        while releasing:  # a loop, because values may contain one another a hundred thousand deep
            task = releasing.pop()
            if task.status == DONE:
                self.scattered.remove(task)
                self._delete(task)
                task.status, task.outcome, task.holders = RELEASED, None, None
                for inner in task.contains:
                    inner.users -= 1
                    if not inner.users:
                        releasing.append(inner)
                task.contains = ()
                self._keep_recipe(task)
            if task.status in (RELEASED, FAILED) and self.shared.get(task.key) is task:
                del self.shared[task.key]
                self.lending.hide(task)

    def _keep_recipe(self, task: Task) -> None:
        """As long as something is built on it."""
        if not task.heirs and not task.inputs:
            task.args = None
        elif task.heirs and task.args is not None:
            self.lineage.keep(task)
        else:
            self.lineage.forget(task)

    def _delete(self, task: Task) -> None:
        for address in sorted(task.holders or ([task.worker] if task.worker else ())):
            if not task.borrowed:
                self._deletions[address].append(task.key)
            if task.holders:
                self._forget_held(task, address)

    def keep_contained(self, task: Task, contained: tuple[Task, ...]) -> None:
        """What a value contains lives as long as it does; what its former attempt contained need not."""
        former, task.contains = task.contains, contained
        for inner in contained:
            inner.users += 1
        self.let_go(former)

    def distrust(self, task: Task, address: str) -> None:
        """A worker does not give a value that it should have: it is no holder, and shall not be one by surprise."""
        self.forget_holder(task, address)
        if not task.borrowed:
            self.delete_at(address, task.key, task.attempt)

    def forget_holder(self, task: Task, address: str) -> None:
        """A worker does not have a value (any more)."""
        if task.holders is not None:
            task.holders.discard(address)
        self._forget_held(task, address)

    def _forget_held(self, task: Task, address: str) -> None:
        view = self.membership.find(address)
        if view is not None and view.holds.get(task.key) is task:
            del view.holds[task.key]

    def delete_at(self, address: str, key: str, attempt: int) -> None:
        """A worker may hold this attempt, which does not count. A newer one that is there may well."""
        self._leftovers[address].append((key, attempt))

    def reconcile(self, view: WorkerView, believed: dict[str, Task], held: list[list[Any]]) -> None:
        """A worker came back: what it lists and nobody accounts for goes, what it does not list it does not hold."""
        address, there = view.member.address, dict(held)
        for key, task in believed.items():
            if task.borrowed or there.get(key) == task.attempt:  # other clients' keys are not listed
                view.holds[key] = task
            elif task.holders is not None:
                self._lose_holder(task, address)
        for key, attempt in there.items():
            if not self._accounts_for(view, key, attempt):
                self.delete_at(address, key, attempt)

    def _accounts_for(self, view: WorkerView, key: str, attempt: int) -> bool:
        if key in self.storing:
            return True
        known = view.holds.get(key)
        if known is not None and not known.borrowed:
            return True
        task = self.shared.get(key)
        if task is None or task.borrowed:
            task = self.membership.left_behind(key) or self.bereft.get(key)  # adopted, while we could not be told
        if task is None or not task.is_made or task.attempt != attempt or task.borrowed:
            return False
        if task.holders is None:  # a small result: we have it here too, but others may ask for it there
            there = self.membership.find(task.worker or "")
            if there is not None and there.leaving and not view.leaving:
                task.worker = view.member.address
            return task.worker == view.member.address
        task.holders.add(view.member.address)  # it was believed to be lost, or to be elsewhere
        view.holds[key] = task
        return True

    def lose(self, view: WorkerView) -> None:
        """A worker is gone, and its data with it; unless it left, and somebody has them who could not tell us yet."""
        if self.bereft:
            self.bereft = {key: task for key, task in self.bereft.items() if task.is_made and not task.holders}
        for task in view.holds.values():
            if task.holders is not None:
                self._lose_holder(task, view.member.address)

    def _lose_holder(self, task: Task, address: str) -> None:
        assert task.holders is not None
        task.holders.discard(address)
        if not task.holders and not task.borrowed:
            self.bereft[task.key] = task

    @property
    def has_deletions(self) -> bool:
        """Whether workers are to be told of something that shall go."""
        return bool(self._deletions or self._leftovers)

    def take_deletions(self) -> list[Send]:
        """What to tell workers, one message each.

        A key that nobody needs goes as a whole: a newer attempt can only come of a message that is sent after this one.
        """
        out = []
        for address in {**self._deletions, **self._leftovers}:
            if address in self.workers:
                keys, leftovers = self._deletions.get(address, []), self._leftovers.get(address, ())
                attempts = [*repeat(0, len(keys)), *(attempt for _, attempt in leftovers)] if leftovers else []
                out.append(Send(address, DeleteData([*keys, *(key for key, _ in leftovers)], attempts)))
        self._deletions.clear()
        self._leftovers.clear()
        return out

    def check(self) -> None:
        """Assert what must hold between any two events."""
        for task in self.lineage.tasks.values():
            assert task.status == RELEASED, task
            assert task.args is not None, task
        assert self.lineage.nbytes == sum(task.recipe_bytes for task in self.lineage.tasks.values())
