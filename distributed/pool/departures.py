"""Workers that leave, as a pool sees them: what is only there is kept, and known to be elsewhere as soon as it is.

The worker that leaves offers what it holds. What nobody needs, or what is here as well and nobody else may ask for, is
deleted there. The rest another worker adopts, and tells us; then it is deleted where it was, and is one move nearer to
the time when nothing is left there. Decides nothing about tasks: those that were queued there come back by themselves.
"""

from __future__ import annotations

from distributed.pool.events import Instruction, Send
from distributed.pool.lifetimes import Lifetimes
from distributed.pool.membership import Membership
from distributed.pool.tasks import Task
from distributed.pool.view import WorkerView
from distributed.wire.messages import Keep


class Departures:
    """What to answer to workers that leave, and to those that adopt."""

    def __init__(self, membership: Membership, lifetimes: Lifetimes) -> None:
        self.membership, self.lifetimes = membership, lifetimes
        self.postponed: dict[str, str] = {}  # key that is being put on a worker that leaves -> the worker

    def offered(self, view: WorkerView, keys: list[str], attempts: list[int]) -> list[Instruction]:
        """A worker that leaves holds these: what is to be done about each."""
        address, kept = view.member.address, []
        for key, attempt in zip(keys, attempts, strict=True):
            task = self._task_of(key)
            if key in self.lifetimes.storing:
                self.postponed[key] = address
            elif task is not None and self._is_needed(task, attempt, address):
                kept.append(key)
            else:
                self.lifetimes.delete_at(address, key, attempt)
        return [Send(address, Keep(kept))] if kept else []

    def handed(self, view: WorkerView, keys: list[str], attempts: list[int]) -> None:
        """Others hold these, too: they may go, as far as we know who does."""
        address = view.member.address
        for key, attempt in zip(keys, attempts, strict=True):
            task = self._task_of(key)
            if task is None or not self._is_needed(task, attempt, address):
                if key not in self.lifetimes.storing:
                    self.lifetimes.delete_at(address, key, attempt)
            else:
                views = map(self.membership.find, sorted(task.holders or ()))
                there = next((other for other in views if is_staying(other)), None)
                if there is not None:
                    self._move(task, there)

    def stored(self, task: Task) -> list[Instruction]:
        """A value that was being put is there now. A worker that is away asks again when it is back."""
        view = self.membership.workers.get(self.postponed.pop(task.key, ""))
        return self.offered(view, [task.key], [1]) if view is not None else []

    def adopted(self, view: WorkerView, keys: list[str], attempts: list[int]) -> None:
        """A worker holds these for good. Whoever leaves need not, from here on."""
        address = view.member.address
        for key, attempt in zip(keys, attempts, strict=True):
            task = self._task_of(key)
            if task is None or not task.is_made or task.attempt != attempt:
                if key not in self.lifetimes.storing:
                    self.lifetimes.delete_at(address, key, attempt)
            else:
                self._move(task, view)

    def _move(self, task: Task, view: WorkerView) -> None:
        former = task.holders if task.holders is not None else {task.worker} if task.worker else set()
        for address in sorted(former - {view.member.address}):
            there = self.membership.find(address)
            if there is not None and there.leaving:
                if task.holders is not None:
                    task.holders.discard(address)
                    there.holds.pop(task.key, None)
                self.lifetimes.delete_at(address, task.key, task.attempt)
        if task.holders is None:  # a small result: it is here, too, and one worker has it for others
            if is_staying(self.membership.find(task.worker or "")) and task.worker != view.member.address:
                self.lifetimes.delete_at(view.member.address, task.key, task.attempt)
            else:
                task.worker = view.member.address
        else:
            task.holders.add(view.member.address)
            view.holds[task.key] = task

    def _is_needed(self, task: Task, attempt: int, address: str) -> bool:
        if not task.is_made or task.attempt != attempt:
            return False
        if task.holders is None and self.lifetimes.shared.get(task.key) is not task:
            return False  # it is here, and nobody else may ask for it
        holders = {task.worker or ""} if task.holders is None else task.holders
        return address in holders or not any(is_staying(self.membership.find(there)) for there in holders)  # adopted

    def _task_of(self, key: str) -> Task | None:
        """Our own task of this name, whose value is somewhere."""
        task = self.lifetimes.shared.get(key)
        if task is not None and not task.borrowed:
            return task
        return self.membership.holds(key)


def is_staying(view: WorkerView | None) -> bool:
    """Whether a worker is there, and does not leave."""
    return view is not None and not view.leaving
