"""Where values are, as the workers report it: results, copies that were fetched for tasks, and what nobody wants.

Workers name an attempt with every value. One that does not count any more goes where it is, and so does a copy that no
task of ours accounts for. Also counts how many bytes of inputs had to move; what becomes of tasks others decide.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from distributed.pool.lifetimes import Lifetimes
from distributed.pool.tasks import DONE, Task
from distributed.pool.view import WorkerView
from distributed.wire.messages import Finished


class Whereabouts:
    """What is noted of the values in reports. `held` in these are copies that the worker fetched: key -> attempt."""

    def __init__(self, lifetimes: Lifetimes) -> None:
        self._lifetimes = lifetimes
        self.bytes_in_place = self.bytes_moved = 0  # of inputs

    def accept(self, view: WorkerView, message: Finished) -> list[tuple[Task, int, Any, int]]:
        """The finished tasks that count, each with size, value and position in the message."""
        address, tasks = view.member.address, map(view.under_way.get, message.keys)
        columns = zip(tasks, message.nbytes, message.values, itertools.count(), message.attempts, strict=False)
        accepted = [
            (task, nbytes, value, position)
            for task, nbytes, value, position, attempt in columns
            if task is not None and task.attempt == attempt
        ]
        if len(accepted) < len(message.keys):  # the others were given away: their data must go
            wanted = {position for _, _, _, position in accepted}
            for position, (key, attempt) in enumerate(zip(message.keys, message.attempts, strict=False)):
                if position not in wanted:
                    self._lifetimes.delete_at(address, key, attempt)
        return accepted

    def take(self, task: Task, view: WorkerView, references: Iterable[Any], held: dict[str, int]) -> None:
        """Note where a result is that is not simply here, what is in it, and which inputs were moved for it."""
        if task.outcome is None:
            task.holders = {view.member.address}
            view.holds[task.key] = task
        if task.contains or references:
            shared = self._lifetimes.shared
            self._lifetimes.keep_contained(task, tuple(shared[ref[0]] for ref in references if ref[0] in shared))
            shared[task.key] = task
        if task.inputs:
            self.count_inputs(task, view, held)

    def count_inputs(self, task: Task, view: WorkerView, held: dict[str, int]) -> None:
        """Note replicas (out of `held`), and how many input bytes were in place or had to move."""
        address = view.member.address
        for needed in task.inputs:
            if needed.holders is None or needed.status != DONE:
                continue
            if held.get(needed.key) == needed.attempt and not needed.borrowed:  # our own key, borrowed by its name
                del held[needed.key]
                needed.holders.add(address)
                view.holds[needed.key] = needed
                self.bytes_moved += needed.nbytes
            elif address in needed.holders:
                self.bytes_in_place += needed.nbytes

    def disown(self, view: WorkerView, held: dict[str, int]) -> None:
        """Have replicas deleted that no task accounts for: they were fetched for one that is not wanted any more."""
        for key, attempt in held.items():
            known = view.holds.get(key)
            if (known is None or known.borrowed) and key not in view.under_way:
                self._lifetimes.delete_at(view.member.address, key, attempt)
