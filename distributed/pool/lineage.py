"""Recipes of released tasks: how a value that nobody needs now could be computed again for something built on it.

Bounded: beyond `lineage_bytes_max` the oldest recipes go, and what is lost then is lost (`KeyLost`).
"""

from __future__ import annotations

from collections import OrderedDict

from distributed.pool.tasks import RELEASED, Task


class Lineage:
    """Released tasks that still have a recipe, oldest first.

    >>> x = Task('x', None, b'recipe'); y = Task('y', None, b'recipe', (x,))
    >>> x.status, x.heirs = RELEASED, 1
    >>> lineage = Lineage(bytes_max=1000)
    >>> lineage.keep(x); lineage.nbytes > 0
    True
    >>> lineage.forget(y); lineage.nbytes, x.args
    (0, None)
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max, self.nbytes = bytes_max, 0
        self.tasks: OrderedDict[str, Task] = OrderedDict()

    def keep(self, task: Task) -> None:
        """Remember how `task` is computed; the oldest recipes make room."""
        self.tasks[task.key] = task
        self.nbytes += task.recipe_bytes
        while self.nbytes > self.bytes_max:
            self.forget(next(iter(self.tasks.values())))

    def remove(self, task: Task) -> None:
        """The task is no longer a released one."""
        if self.tasks.get(task.key) is task:  # else: a handle of our own key, that came back from somebody else
            del self.tasks[task.key]
            self.nbytes -= task.recipe_bytes
            if not self.tasks:
                self.tasks.clear()  # emptied one by one, it would keep the room of its best times

    def rename(self, task: Task, key: str) -> None:
        """Another task has its key now; if this one is computed again, it is under this new one."""
        if self.tasks.get(task.key) is task:
            self.tasks[key] = self.tasks.pop(task.key)
            task.key = key

    def forget(self, task: Task) -> None:
        """Drop arguments and inputs of a task; recipes that were kept only for this one follow."""
        forgotten = [task]
        while forgotten:  # a loop, because a chain may be a hundred thousand long
            task = forgotten.pop()
            self.remove(task)
            inputs, task.inputs, task.args = task.inputs, (), None
            for needed in inputs:
                needed.heirs -= 1
                if not needed.heirs and needed.status == RELEASED:
                    forgotten.append(needed)
