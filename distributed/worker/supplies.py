"""Resources of a worker: who uses how much of them, and the tasks that wait for some before they may be queued.

A task that needs none passes by. Of those that need some, the next is that of the client that has used least, by
priority, then the first that came. One that does not fit keeps what it needs from those behind it, so that it gets its
turn; who needs something else goes on. What a task uses it has from when it is queued until its executor is done with
it, however that ends: also while it is queued again, and while one that was cancelled still runs.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Mapping

from distributed import resources
from distributed.key import account_of
from distributed.worker.tasks import Part


class Supplies:
    """What is in use, and who waits."""

    def __init__(self, all_of_it: Mapping[str, int], used_s: Callable[[str], float]) -> None:
        self.all_of_it = dict(all_of_it)
        self.used: dict[str, int] = dict.fromkeys(all_of_it, 0)
        self.is_due = False  # something changed: somebody may have a turn now
        self._used_s = used_s  # how much time of executors a program has used
        self._waiting: dict[str, list[tuple[float, int, Part]]] = {}  # by program, in order
        self._numbers = itertools.count()

    @property
    def live(self) -> int:
        """How many tasks wait."""
        return sum(len(part) for parts in self._waiting.values() for _, _, part in parts if part.queued)

    def put(self, part: Part) -> None:
        """Tasks wait for their turn."""
        part.queued, self.is_due = True, True
        parts = self._waiting.setdefault(part.order.account, [])
        bisect.insort(parts, (part.order.priority, next(self._numbers), part))

    def take(self) -> list[Part]:
        """Those whose turn it is: they have what they need from now on."""
        self.is_due = False
        kept_back: set[str] = set()
        taken: list[Part] = []
        for account in sorted(self._waiting, key=lambda account: (self._used_s(account), account)):
            left = []
            for item in self._waiting[account]:
                if not item[2].queued:  # it was dropped meanwhile
                    continue
                rest = self._admit(item[2], kept_back, taken)
                if rest is not None:
                    left.append((item[0], item[1], rest))
            self._waiting[account] = left
        self._waiting = {account: parts for account, parts in self._waiting.items() if parts}
        return taken

    def _admit(self, part: Part, kept_back: set[str], taken: list[Part]) -> Part | None:
        """As many of these tasks as may begin; returns the others, if there are any."""
        demand = part.order.resources
        names = {name for name, _ in demand}
        count = 0 if names & kept_back else min(len(part), resources.fit(demand, self.used, self.all_of_it))
        rest: Part | None = part
        if count:
            rest = part.split(count) if count < len(part) else None
            for name, amount in demand:
                self.used[name] += amount * count
            part.has_resources, part.queued = True, False
            taken.append(part)
        if rest is not None:
            kept_back |= names
        return rest

    def take_last(self, client: str, count: int) -> list[Part]:
        """Parts of up to `count` tasks of a client's that would have their turn last, the very last one first."""
        taken: list[Part] = []
        for _, _, part in reversed(self._waiting.get(account_of(client), [])):
            if count <= 0 or not part.queued or part.order.client != client:
                continue
            last = part.split(len(part) - count) if len(part) > count else part
            last.queued = False
            count -= len(last)
            taken.append(last)
        self.is_due = True  # others may have waited behind these
        return taken

    def dropped(self, part: Part, count: int) -> None:
        """So many tasks of a part are not wanted any more, and use nothing."""
        self.is_due = True
        if part.has_resources:
            for name, amount in part.order.resources:
                self.used[name] -= amount * count

    def release(self, part: Part) -> None:
        """These tasks are over."""
        if part.has_resources:
            self.dropped(part, len(part))
            part.has_resources = False

    def check(self, parts: Iterable[Part]) -> None:
        """What is in use is what these, all that there are, have."""
        used = dict.fromkeys(self.all_of_it, 0)
        for part in parts:
            for name, amount in part.order.resources if part.has_resources else ():
                used[name] += amount * len(part)
        assert used == self.used, "resources in use"
        assert all(0 <= amount <= self.all_of_it[name] for name, amount in used.items()), "more than there is"
