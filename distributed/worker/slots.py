"""Slots of executors whose tasks wait for other tasks: who else may begin meanwhile.

Others are started in the place of those that wait, so more tasks are begun than there are cores. What such a task waits
for is deeper, and on its way from its owner: its slot is kept for that for a moment, or each level of a recursion would
be begun as a whole. When very many wait, only what is deeper than all of them begins. Counts; starts and gives nothing.
"""

from __future__ import annotations

import math

from distributed.alarms import Alarms
from distributed.config import Settings
from distributed.worker.tasks import Part
from distributed.worker.view import ExecutorView


class Slots:
    """Those of these executors whose tasks wait."""

    def __init__(self, executors: dict[int, ExecutorView], ncores: int, settings: Settings, alarms: Alarms) -> None:
        self._executors, self._settings, self._alarms = executors, settings, alarms
        self._many = min(settings.blocked_executors_max / 2, 2 * ncores + settings.crowded_executors_min)
        self.waiting = 0  # how many there are
        self._moved_s = 0.0  # when one of these began or ended to wait, or something ended beside them

    @property
    def is_full(self) -> bool:
        """Whether no more may wait; those that are just being killed do not count."""
        limit = self._settings.blocked_executors_max
        return self.waiting >= limit and self._waiting_for_good() >= limit

    def _waiting_for_good(self) -> int:
        return sum(executor.waits_for_others and not executor.killing for executor in self._executors.values())

    def moved(self, now: float) -> None:
        """Something has ended, or has been said: what waits may go on because of it."""
        self._moved_s = now

    def wait(self, executor: ExecutorView, keeps_slot: bool, now: float) -> None:
        """A task begins to wait; it keeps its slot for what it has just submitted, if it has."""
        executor.waits_for_others, executor.keeps_slot, executor.waiting_since_s = True, keeps_slot, now
        if keeps_slot:
            self._alarms.set(now + self._settings.kept_slot_s)
        self.waiting += 1

    def go_on(self, executor: ExecutorView, now: float) -> None:
        """It has what it waited for."""
        executor.waited_s += now - executor.waiting_since_s
        executor.waits_for_others = executor.keeps_slot = False
        self.waiting -= 1

    def gone(self, executor: ExecutorView) -> None:
        """An executor has ended, whether its task waited or not."""
        self.waiting -= executor.waits_for_others

    def kept(self, first: Part, now: float) -> int:
        """How many slots are kept for tasks that are more urgent than these, which are next."""
        since_s, priority = now - self._settings.kept_slot_s, first.order.priority
        return sum(
            executor.keeps_slot and executor.waiting_since_s > since_s and priority >= executor.given[0].order.priority
            for executor in self._executors.values()
        )

    def use_kept(self, priority: float) -> None:
        """Something is given that one of the tasks that wait may wait for: the last one, most likely."""
        for executor in reversed(self._executors.values()):
            if executor.keeps_slot and priority < executor.given[0].order.priority:
                executor.keeps_slot = False
                return

    def is_crowded(self, first: Part, busy: int, now: float) -> bool:
        """Whether so many tasks wait that others, these first, shall not begin; but for what is deeper than all those.

        Where nothing runs, and nothing has happened for a moment, the next one begins all the same.
        """
        if self.waiting < self._many:
            return False
        waiting = [executor.given[0].order for executor in self._executors.values() if executor.waits_for_others]
        account = first.order.account
        deepest = min((order.priority for order in waiting if order.account == account), default=math.inf)
        if first.order.priority < deepest:
            return False
        if busy:
            return True
        quiet_at_s = self._moved_s + self._settings.kept_slot_s
        if now < quiet_at_s:
            self._alarms.set(quiet_at_s)
        return now < quiet_at_s

    def check(self) -> None:
        """Each that waits is counted, and there are not too many."""
        assert self.waiting == sum(executor.waits_for_others for executor in self._executors.values())
        assert all(executor.given for executor in self._executors.values() if executor.waits_for_others)
        assert self._waiting_for_good() <= self._settings.blocked_executors_max
