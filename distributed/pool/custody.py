"""What others may ask for is somewhere, or they learn why not: also when the last worker that held it is gone.

A small value, which is here as well, is given to another worker; one whose recipe is complete is computed again; of any
other the center is told that it is lost. The tables are in :mod:`distributed.pool.lending`; how a value is computed
again others know.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable

from distributed.pool.events import Instruction, Send
from distributed.pool.lending import announcement, withdrawal
from distributed.pool.lifetimes import Lifetimes
from distributed.pool.placement import Placement
from distributed.pool.tasks import DONE, FAILED, Task
from distributed.wire.messages import DeleteData, Hold


class Custody:
    """What follows for the values that others may ask for. `compute_again` begins to make one anew."""

    def __init__(
        self,
        lifetimes: Lifetimes,
        placement: Placement,
        out: list[Instruction],
        compute_again: Callable[[Task, float], None],
    ) -> None:
        self._lifetimes, self._lending, self._membership = lifetimes, lifetimes.lending, lifetimes.membership
        self._placement, self._out, self._compute_again = placement, out, compute_again

    def export(self, task: Task, now: float) -> None:
        """A handle of this task was pickled for somebody else: it lives until that is taken back."""
        if task.key not in self._lending.exported and not task.borrowed:
            task.users += 1
            self._lending.exported[task.key] = task
            self.show([task], now)

    def take_back(self, task: Task) -> None:
        """The user wants others to have it no longer."""
        exported = self._lending.exported.pop(task.key, None)
        if exported is not None:
            self._out.append(self._lending.take_back(exported))
            self._lifetimes.let_go([exported])

    def show(self, tasks: Iterable[Task], now: float) -> None:
        """Others may ask for these from now on: they learn which attempts count, and get what is gone once more."""
        shown, new = self._lending.show(tasks)
        if shown:
            self._out.append(announcement(shown))
        for task in new:
            self._lifetimes.shared[task.key] = task
            if task.status == FAILED:
                self._out.append(withdrawal(task))
            elif task.status == DONE and self._is_gone(task):
                is_small = task.outcome is not None
                if task.worker in self._placement.workers and not is_small:  # if it is there after all it goes first
                    self._out.append(Send(task.worker, DeleteData([task.key], [task.attempt])))
                self._restore(task, now)

    def announce(self) -> None:
        """The center is there (again). Before anything is withdrawn: an export takes that back."""
        visible = self._lending.visible.values()
        if visible:
            self._out.append(announcement(visible))
            self._out += [withdrawal(task) for task in visible if task.status == FAILED]

    def failed(self, task: Task) -> None:
        """It will never have a value."""
        if task.key in self._lending.visible:
            self._out.append(withdrawal(task))

    def holds_only(self, address: str, there: Container[str], now: float) -> None:
        """Of what a worker held for us it has these keys (any more): what is nowhere else comes again."""
        for task in list(self._lending.visible.values()):
            is_gone = task.outcome is None or (task.worker == address and task.key not in there)
            if task.status == DONE and not task.holders and is_gone:
                self._restore(task, now)

    def evicted(self, task: Task, now: float) -> None:
        """A worker dropped its copy."""
        if not task.holders and task.key in self._lending.visible and task.status == DONE:
            self._restore(task, now)

    def _is_gone(self, task: Task) -> bool:
        """Whether no worker has a value (any more) that nobody but us could read so far; a small one is here, too."""
        if task.holders or not task.worker:
            return task.outcome is None and not task.holders
        there = self._membership.find(task.worker)
        return there is None or there.leaving or self._membership.has_parted(task.worker)

    def _restore(self, task: Task, now: float) -> None:
        """No worker has it any more, and others wait for it: what is here as well is given to another worker."""
        if task.outcome is not None and self._placement.takers:
            address, former = self._placement.emptiest(task.worker), task.worker
            if former and address != former:  # if it is there after all it goes
                self._lifetimes.delete_at(former, task.key, task.attempt)
            task.worker = address
            self._out.append(Send(address, Hold([task.key], [task.attempt], [task.outcome])))
        elif task.outcome is None or task.can_come_again:
            self._compute_again(task, now)
        else:
            self._out.append(withdrawal(task))
