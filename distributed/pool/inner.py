"""What a running task says to its pool, carried out: it submits tasks, drops handles, waits, stores values.

The other half of `pool.nesting`, which keeps the books; this one changes the pool's state, as its other handlers do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distributed.errors import NestingTooDeep, ProtocolError
from distributed.pool import withheld
from distributed.pool.events import Borrowed, CancelAsked, Received, Stored, Submitted, Wanted
from distributed.pool.nesting import OVER, Parent, understand
from distributed.pool.tasks import FAILED, Task
from distributed.wire.messages import (
    AdoptInner,
    AskMember,
    CancelInner,
    ReleaseInner,
    StoredInner,
    SubmitInner,
    TaskSays,
    Waits,
    WantInner,
)

if TYPE_CHECKING:
    from distributed.pool.state import PoolState

WANT_AGAIN_S = 0.05  # how soon to look again for a value that a task wants and nobody gives


class Inner:
    """The handlers of what tasks say."""

    def __init__(self, state: PoolState) -> None:
        self._state, self._nesting = state, state.nesting
        self._handlers: dict[type, Callable[[Parent, Any, float], None]] = {
            SubmitInner: self._submit,
            AdoptInner: self._adopt,
            ReleaseInner: lambda parent, said, now: self._nesting.release(parent, said.keys),
            CancelInner: self._cancel,
            WantInner: self._want,
            StoredInner: self._stored,
            Waits: self._waits,
            AskMember: lambda parent, said, now: self._state.order(self._nesting.members(parent)),
        }

    def on_task_says(self, event: Received, now: float) -> None:
        """Whatever it is; of an attempt that is over it does not matter any more."""
        message: TaskSays = event.message  # type: ignore[assignment]
        said = understand(message)
        handler = self._handlers.get(type(said))
        if handler is None:
            raise ProtocolError(f"a task does not say {said.operation}")
        task = self._state.workers[event.address].under_way.get(message.key)
        if task is not None and task.attempt == message.attempt:
            handler(self._nesting.parent(task, message, event.address), said, now)

    def _submit(self, parent: Parent, said: SubmitInner, now: float) -> None:
        tasks = self._nesting.tasks_of(parent, said)
        depth_max = self._state.settings.coroutine_depth_max
        if tasks and said.asynchronous and self._nesting.is_deeper(parent, depth_max):
            self._state.refuse(tasks, _too_deep(said.name, depth_max))
        elif tasks:
            self._state.workers[parent.address].reconsider()
            self._state.absorb(Submitted(tasks), now)

    def _waits(self, parent: Parent, said: Waits, now: float) -> None:
        self._nesting.waits(parent, said.is_waiting)
        if said.is_waiting:
            withheld.watch(self._state, now)

    def _adopt(self, parent: Parent, said: AdoptInner, now: float) -> None:
        for key in said.keys:
            task = self._nesting.find(parent, key)
            if task is None:
                task = Task(key, None, None)
                task.borrowed = True
                self._nesting.hold(parent, task)
                self._state.absorb(Borrowed(task), now)
            elif key not in parent.held:
                task.users += 1
                self._nesting.hold(parent, task)
                if task.published:
                    self._answer(parent, task, now)

    def _cancel(self, parent: Parent, said: CancelInner, now: float) -> None:
        tasks = [parent.tasks[key] for key in said.keys if key in parent.own]
        self._state.absorb(CancelAsked(tasks), now)

    def _want(self, parent: Parent, said: WantInner, now: float) -> None:
        task = parent.tasks.get(said.key)
        if task is not None:
            wanted = Wanted(task, said.refused)
            self._state.absorb(wanted, now)
            self._answer(parent, task, now, wanted)

    def _answer(self, parent: Parent, task: Task, now: float, wanted: Wanted | None = None) -> None:
        """Tell of a value as soon as it can be had."""
        if self._nesting.parents.get(parent.task.key) is not parent or task.key not in parent.held:
            return
        if task.status == FAILED or (task.has_value and (wanted is None or wanted.handled)):
            self._state.order(parent.tell(self._nesting.outcomes([task])))
            return
        if task.status in OVER and (wanted is None or wanted.handled):
            again = Wanted(task, [])
            self._state.absorb(again, now)
            wanted = again
        self._state.later(now + WANT_AGAIN_S, lambda now: self._answer(parent, task, now, wanted))

    def _stored(self, parent: Parent, said: StoredInner, now: float) -> None:
        task = Task(said.key, None, None)
        contains = [self._nesting.find(parent, key) for key in said.contains]
        self._nesting.hold(parent, task)
        parent.own.add(task.key)
        inside = [needed for needed in contains if needed is not None]
        self._state.absorb(Stored(task, said.holders, said.nbytes, inside), now)


def _too_deep(name: str, depth_max: int) -> NestingTooDeep:
    return NestingTooDeep(
        f"{name} was submitted by a task of a task, and so on, {depth_max} times, and all of these are under way "
        f"(coroutine_depth_max); "
        f"return handles instead of waiting for them, or raise that setting"
    )
