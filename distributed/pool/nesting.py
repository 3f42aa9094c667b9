"""Tasks that tasks submit: whose they are, what is said to and by the tasks that run, and how all this ends.

Such a task is the owner's as any other: it is placed, retried, released as they are. Beyond that it belongs to one
attempt of the task that submitted it, its *parent*: that holds it until it says otherwise, is told of its outcome, and
when that attempt is over, whatever the reason, what nobody else needs by then is cancelled. A result that contains
handles needs their tasks. Says what is to be done; `pool.state` does it.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from distributed.errors import ProtocolError, TaskCancelled
from distributed.pool.events import Send
from distributed.pool.lifetimes import Lifetimes
from distributed.pool.membership import Membership
from distributed.pool.tasks import DONE, FAILED, RELEASED, Duration, Kind, Options, Task
from distributed.pool.view import WorkerView
from distributed.wire.codec import decode, encode_header
from distributed.wire.exceptions import pack_exception
from distributed.wire.functions import needing
from distributed.wire.messages import InnerOutcomes, Members, Message, SubmitInner, TaskSays, TellTask

DEPTH_STEP = 2.0**-30  # of priority: deeper tasks go first among equals, because others wait for them
KINDS_MAX = 4096
OVER = frozenset({DONE, FAILED, RELEASED})
OPTIONS = {
    "timeout_s": float,
    "priority": float,
    "retries": int,
    "attempts": int,
    "recompute": bool,
    "workers": list,
    "resources": dict,
}


class Parent:
    """An attempt of a task that has said something."""

    def __init__(self, task: Task, message: TaskSays, address: str) -> None:
        self.task, self.attempt, self.address = task, task.attempt, address
        self.executor, self.serial = message.executor, message.serial
        self.tasks: dict[str, Task] = {}  # that it submitted or found: what it has handles of, or is not over yet
        self.held: set[str] = set()  # what it has handles of
        self.own: set[str] = set()  # what it submitted

    def tell(self, message: Message) -> Send:
        """The instruction that tells it something."""
        said = encode_header(message)
        return Send(self.address, TellTask(self.task.key, self.attempt, self.executor, self.serial, said))


class Nesting:
    """The attempts under way that have submitted tasks, and these."""

    def __init__(self, lifetimes: Lifetimes, membership: Membership) -> None:
        self._lifetimes, self._membership = lifetimes, membership
        self.workers: Mapping[str, WorkerView] = membership.workers
        self.parents: dict[str, Parent] = {}  # by key of their task
        self.listeners: dict[str, list[Parent]] = {}  # by key of a task: who is to be told of its outcome
        self.ended: list[Parent] = []  # attempts that are over: what they submitted has to be ended
        self._kinds: OrderedDict[Any, Kind] = OrderedDict()
        self._durations: OrderedDict[bytes, Duration] = OrderedDict()

    def parent(self, task: Task, message: TaskSays, address: str) -> Parent:
        """The attempt that said this."""
        known = self.parents.get(task.key)
        if known is None:
            known = self.parents[task.key] = Parent(task, message, address)
        return known

    def over(self, task: Task) -> None:
        """The attempt of a task is over."""
        parent = self.parents.pop(task.key, None)
        if parent is not None:
            self.ended.append(parent)

    def waits(self, parent: Parent, is_waiting: bool) -> None:
        """It begins to wait for others, and uses no core meanwhile; or goes on."""
        view = self.workers.get(parent.address)
        if view is not None and parent.task.kind is not None and not parent.task.kind.is_beside:
            view.wait(parent.task, is_waiting)

    # ------------------------------------------------------------------------------------------------- what it submits

    def tasks_of(self, parent: Parent, said: SubmitInner) -> list[Task]:
        """The tasks that it submits, held by it."""
        kind = self._kind(parent, said)
        tasks = []
        for position, (key, args) in enumerate(zip(said.keys, said.args, strict=True)):
            if key in parent.tasks:
                continue
            inputs = [self.find(parent, needed) for needed in said.inputs.get(position, ())]
            task = Task(key, kind, args, tuple([needed for needed in inputs if needed is not None]))
            if None in inputs:
                continue  # a handle that it does not have any more: nobody can wait for this
            self.hold(parent, task)
            parent.own.add(key)
            self._lifetimes.shared[key] = task
            tasks.append(task)
        return tasks

    def is_deeper(self, parent: Parent, count: int) -> bool:
        """Whether it, who submitted it, and so on, are more than so many; those that are over do not count."""
        if parent.task.kind is None or parent.task.kind.depth < count:
            return False
        above: Parent | None = parent
        while above is not None and count >= 0:
            count -= 1
            key = above.task.key
            above = next((other for other in self.listeners.get(key, ()) if key in other.own), None)
        return count < 0

    def find(self, parent: Parent, key: str) -> Task | None:
        """The task of this key that it knows, or that is in some value."""
        return parent.tasks.get(key) or self._lifetimes.shared.get(key)

    def hold(self, parent: Parent, task: Task) -> None:
        """It has a handle of this, and is told of its outcome."""
        parent.tasks[task.key] = task
        parent.held.add(task.key)
        self.listeners.setdefault(task.key, []).append(parent)

    def _kind(self, parent: Parent, said: SubmitInner) -> Kind:
        outer = parent.task.kind
        assert outer is not None
        demand = tuple(sorted(said.options.get("resources", {}).items()))
        options = Options(
            **{**said.options, "workers": frozenset(said.options.get("workers", ())), "resources": demand}
        )
        priority = min(options.priority, outer.options.priority) - DEPTH_STEP
        options = dataclasses.replace(options, priority=priority)
        name = said.function, said.name, options, outer.needs, outer.depth
        kind = self._kinds.get(name)
        if kind is None:
            needs = [need.identity for need in outer.needs]
            kind = self._kinds[name] = Kind(
                function=needing(said.function, needs) if needs else said.function,
                code=said.code,
                name=said.name,
                asynchronous=said.asynchronous,
                options=options,
                duration=self._durations.setdefault(said.function, Duration()),
                needs=outer.needs,
                depth=outer.depth + 1,
            )
            if len(self._kinds) > KINDS_MAX:
                self._kinds.popitem(last=False)
            if len(self._durations) > KINDS_MAX:
                self._durations.popitem(last=False)
        return kind

    def release(self, parent: Parent, keys: Iterable[str]) -> None:
        """It has no handles of these any more. What is not over yet goes on, and ends with it at the latest."""
        let_go = []
        for key in keys:
            if key in parent.held:
                parent.held.discard(key)
                let_go.append(parent.tasks[key])
                if parent.tasks[key].status in OVER:
                    self._forget(parent, key)
        self._lifetimes.let_go(let_go)

    def _forget(self, parent: Parent, key: str) -> None:
        del parent.tasks[key]
        parent.own.discard(key)
        listeners = self.listeners.get(key, [])
        if parent in listeners:
            listeners.remove(parent)
            if not listeners:
                del self.listeners[key]

    # ------------------------------------------------------------------------------------------------- what it is told

    def tell(self, resolved: Iterable[Task]) -> list[Send]:
        """Tell those who wait for them of these outcomes."""
        told: dict[Parent, list[Task]] = {}
        for task in resolved:
            for parent in list(self.listeners.get(task.key, ())):
                if parent.tasks.get(task.key) is task:
                    told.setdefault(parent, []).append(task)
        out = [parent.tell(self.outcomes(tasks)) for parent, tasks in told.items()]
        for parent, tasks in told.items():
            for task in tasks:
                if task.key not in parent.held:
                    self._forget(parent, task.key)
        return out

    def outcomes(self, tasks: list[Task]) -> InnerOutcomes:
        """What is told of tasks that have an outcome."""
        said = InnerOutcomes([], [], [], [], [], {}, [])
        members: dict[str, Any] = {}
        for position, task in enumerate(tasks):
            value: Any = None if task.holders else task.outcome
            if task.status == FAILED:
                value = value if isinstance(value, bytes) else pack_exception(value)
            elif value is None:
                addresses = sorted(task.holders or ())
                said.holders[position] = addresses
                views = [self._membership.find(address) for address in addresses]
                members.update((view.member.address, view.member) for view in views if view is not None)
            said.keys.append(task.key)
            said.attempts.append(task.attempt)
            said.nbytes.append(task.nbytes)
            said.statuses.append(_status(task))
            said.values.append(value)
        said.members = list(members.values())
        return said

    def members(self, parent: Parent) -> Send:
        """Tell it which worker runs it."""
        view = self.workers.get(parent.address)
        return parent.tell(Members([view.member] if view is not None else []))

    # --------------------------------------------------------------------------------------------------------- its end

    def take_unwanted(self) -> Iterator[Task]:
        """What attempts that are over submitted, and nobody else needs: consumers before what they consume."""
        while self.ended:
            parent = self.ended.pop()
            tasks = list(parent.tasks.items())
            self._lifetimes.let_go([task for key, task in tasks if key in parent.held])
            own = [task for key, task in tasks if key in parent.own]
            parent.held.clear()
            for key, _ in tasks:
                self._forget(parent, key)
            for task in reversed(own):
                if task.status not in OVER and not task.users:
                    yield task


def understand(message: TaskSays) -> Message:
    """What a task said; `ProtocolError` if it is nothing that tasks say."""
    said, _ = decode(message.said)
    if isinstance(said, SubmitInner):
        if not len(said.keys) == len(said.args):
            raise ProtocolError("submit_inner: columns of different lengths")
        for name, value in said.options.items():
            kind = OPTIONS.get(name)
            if kind is None or not isinstance(value, (int, float) if kind is float else kind) or value != value:
                raise ProtocolError(f"submit_inner: no such option as {name}")
        if not all(isinstance(name, str) for name in said.options.get("workers", ())):
            raise ProtocolError("submit_inner: workers without names")
        for resource, amount in said.options.get("resources", {}).items():
            if not isinstance(resource, str) or type(amount) is not int or amount < 1:
                raise ProtocolError("submit_inner: resources that are none")
        if not all(isinstance(key, str) for keys in said.inputs.values() for key in keys):
            raise ProtocolError("submit_inner: inputs without names")
    return said


def _status(task: Task) -> str:
    if task.status == FAILED:
        return "cancelled" if isinstance(task.outcome, TaskCancelled) else "failed"
    return "done"
