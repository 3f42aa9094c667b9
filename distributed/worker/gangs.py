"""Members of groups start together: which of them are here, and how executors are kept for those that stand first.

All members of a group that came in one message start at one time. When their turn has come and there are too few idle
executors, those that become idle are kept for them. Tasks that tasks submitted go on being given meanwhile, because
what runs may wait for them; anything else would only take longer, so those that are kept for come to their end. Which
worker has which members, and that groups of several pools do not wait for one another, is their owners' business: each
gathers its members worker by worker, in the order of addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distributed.wire.messages import Gathered
from distributed.worker.events import Send

if TYPE_CHECKING:
    from distributed.worker.dispatch import Dispatch
    from distributed.worker.tasks import Order, Part
    from distributed.worker.view import ExecutorView


class Gangs:
    """The orders of this worker whose tasks start together."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self.orders: dict[Order, None] = {}
        self.hold = False  # idle executors are kept: only tasks that something may wait for are given

    def stand_first(self, free: list[ExecutorView], now: float) -> bool:
        """Whether members of a group were next, and were given. If they are next and cannot be, `hold` is set."""
        queue = self._dispatch.queue
        client = queue.turn()
        parts = client.first_class() if client else None
        self.hold = bool(parts) and parts[0].together  # type: ignore[index]
        if not self.hold or client is None or not parts:
            return False
        order = parts[0].order
        count = sum(map(len, order.parts))
        idle = [executor for executor in free if not executor.given]
        if len(idle) < count or not all(part.queued for part in order.parts):
            return False
        self.hold = False
        queued = list(order.parts)
        queue.take_these(client, queued, order.function.mean_s or 0.0)
        self._give(order, queued, idle, now)
        return True

    def _give(self, order: Order, parts: list[Part], idle: list[ExecutorView], now: float) -> None:
        gathered = Gathered([], [])
        for part in parts:
            gathered.keys += part.keys
            gathered.attempts += part.attempts
        free = iter(idle)
        for part in parts:
            while len(part) > 1:
                rest = part.split(1)
                self._give_one(next(free), part, now)
                part = rest
            self._give_one(next(free), part, now)
        self._dispatch.out.append(Send(order.client, gathered))

    def _give_one(self, executor: ExecutorView, part: Part, now: float) -> None:
        executor.alone = True
        self._dispatch.give(executor, part.function, [part], now)

    def ended(self, order: Order) -> None:
        """A member is done, or not wanted any more."""
        if not order.parts:
            self.orders.pop(order, None)
            self.hold = False
