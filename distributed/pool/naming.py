"""Keys that the user chose, and may use again: every attempt at a key has another number, whichever task it was.

A value is named (key, attempt) wherever it is. What is left of a former task of that key must never be taken for a
value of the next one.
"""

from __future__ import annotations

from distributed.pool.lineage import Lineage
from distributed.pool.tasks import FAILED, RELEASED, Task

NAMES_MAX = 4096  # of tasks that are over; then the names are forgotten


class Naming:
    """The last task of each key that the user chose.

    >>> naming = Naming(Lineage(bytes_max=1000))
    >>> x, y, z = Task('me/a', None, b''), Task('me/a', None, b''), Task('me/b', None, b'')
    >>> naming.take(x); x.attempt = 3; naming.take(y); naming.take(z); x.attempt, y.attempt, z.attempt
    (3, 4, 1)
    """

    def __init__(self, lineage: Lineage) -> None:
        self._lineage = lineage
        self._last: dict[str, Task] = {}
        self._forgotten = 0  # no forgotten name had an attempt beyond this one
        self._prune_at = NAMES_MAX

    def __len__(self) -> int:
        return len(self._last)

    def take(self, task: Task) -> None:
        """A new task has this key from now on."""
        former = self._last.get(task.key)
        task.attempt = (former.attempt if former is not None else self._forgotten) + 1
        if former is not None and former.status == RELEASED:
            self._lineage.rename(former, f"{former.key}/{former.attempt}")  # it may be computed again for its heirs
        self._last[task.key] = task
        if len(self._last) >= self._prune_at:
            self._prune()

    def _prune(self) -> None:
        over = [task for task in self._last.values() if _is_over(task)]
        for task in over:
            self._forgotten = max(self._forgotten, task.attempt)
            del self._last[task.key]
        self._prune_at = 2 * len(self._last) + NAMES_MAX


def _is_over(task: Task) -> bool:
    return not task.users and not task.heirs and task.status in (FAILED, RELEASED)
