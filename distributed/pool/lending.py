"""What others may ask for: tasks whose handles were pickled or that have a name, and all that is in their values.

Borrowers learn from the center where a key is. A worker may hold an attempt that was given away long ago, and the
center may hear of a value before its owner does; so the center is told which attempt counts, as soon as there is one.
Owns the tables of such tasks and the words for the center; what becomes of their values others decide.
"""

from __future__ import annotations

from collections.abc import Iterable

from distributed.errors import KeyLost
from distributed.pool.events import TellCenter
from distributed.pool.tasks import DONE, FAILED, Task
from distributed.wire.exceptions import pack_exception
from distributed.wire.messages import Export, Withdraw


class Lending:
    """`exported`: handles of these were pickled, which is one user of each. `visible`: these, and what is in them."""

    def __init__(self) -> None:
        self.exported: dict[str, Task] = {}
        self.visible: dict[str, Task] = {}
        self._hidden: list[str] = []

    def show(self, tasks: Iterable[Task]) -> tuple[list[Task], list[Task]]:
        """Others may ask for these from now on, and for all that they contain: all of that, and what is new of it."""
        shown: dict[str, Task] = {}
        new: list[Task] = []
        todo = list(tasks)
        while todo:  # a loop, because values may contain one another a hundred thousand deep
            task = todo.pop()
            if not task.borrowed and task.key not in shown:
                if self.visible.get(task.key) is not task:
                    new.append(task)
                shown[task.key] = self.visible[task.key] = task
                todo += task.contains
        return list(shown.values()), new

    def hide(self, task: Task) -> None:
        """Its value is gone because nobody needs it: there is nothing to ask for."""
        if self.visible.get(task.key) is task:
            del self.visible[task.key]
            self._hidden.append(task.key)

    def take_back(self, task: Task) -> TellCenter:
        """The user wants others to have it no longer."""
        self.visible.pop(task.key, None)
        return TellCenter(Withdraw([task.key], [b""]))

    @property
    def has_news(self) -> bool:
        """Whether the center is to hear of what is hidden now."""
        return bool(self._hidden)

    def take_news(self) -> TellCenter:
        """What to tell the center."""
        hidden, self._hidden = self._hidden, []
        return TellCenter(Withdraw(hidden, [b""] * len(hidden)))


def keys_within(task: Task) -> list[str]:
    """The keys of a task and of everything that its value refers to."""
    keys: dict[str, None] = {}
    todo = [task]
    while todo:
        task = todo.pop()
        if task.key not in keys:
            keys[task.key] = None
            todo.extend(task.contains)
    return list(keys)


def announcement(tasks: Iterable[Task]) -> TellCenter:
    """Which attempts of these count."""
    tasks = list(tasks)
    attempts = [task.attempt if task.status == DONE else 0 for task in tasks]
    return TellCenter(Export([task.key for task in tasks], attempts))


def withdrawal(task: Task) -> TellCenter:
    """Whoever borrowed this task learns why it has no value, or that no worker has it any more."""
    error = task.outcome if task.status == FAILED else KeyLost(task.key, "the worker that held it is gone")
    packed = error if isinstance(error, bytes) else pack_exception(error)
    return TellCenter(Withdraw([task.key], [packed]))
