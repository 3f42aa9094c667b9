"""Queued tasks, in the order in which they should run: fair between clients, by priority within one.

Every client has a class of tasks for each (priority, producer or consumer): consumers, which have inputs, go first at
equal priority, because they let inputs go. Within a class tasks stand in order of arrival. Whose turn it is between
clients is decided by executor-seconds: the client that has used least is served next. A charge is made when tasks are
given, as predicted, and corrected when they are done. Someone who was idle resumes near the present (`clock`), with a
little credit, so that short gaps between its tasks cost it nothing and long ones do not starve the others.
A task that is dropped stays in its deque until it would be served: dropping costs nothing.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Queued(Protocol):
    """What a queue must know of a task."""

    queued: bool  # False: it was dropped meanwhile

    @property
    def function(self) -> object: ...


TaskT = TypeVar("TaskT", bound=Queued)
CREDIT_OF_HORIZON = 0.1  # part of the horizon, for each executor: more, and a burst after a pause breaks the 0.7 share


class ClientQueue(Generic[TaskT]):
    """The queued tasks of one client, and the executor-seconds it has used."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.used_s = 0.0
        self.charged_s = 0.0  # part of used_s that is a prediction, for tasks given and not done
        self.given = 0
        self.live = 0  # queued tasks that were not dropped
        self.leaving = False  # forgotten as soon as nothing of it is given
        self._classes: dict[tuple[float, bool], deque[TaskT]] = {}
        self._order: list[tuple[float, bool]] = []

    def class_of(self, priority: float, producer: bool) -> deque[TaskT]:
        key = (priority, producer)
        tasks = self._classes.get(key)
        if tasks is None:
            tasks = self._classes[key] = deque()
            heapq.heappush(self._order, key)
        return tasks

    def first_class(self) -> deque[TaskT] | None:
        """The deque whose first task is next; None when nothing is queued."""
        while self._order:
            tasks = self._classes[self._order[0]]
            while tasks:
                if tasks[0].queued:
                    return tasks
                tasks.popleft()
            del self._classes[heapq.heappop(self._order)]
        return None

    def take(self, count: int) -> list[TaskT]:
        """Up to `count` next tasks, all of the same function as the first."""
        tasks = self.first_class()
        if tasks is None:
            return []
        function = tasks[0].function
        taken: list[TaskT] = []
        while tasks and len(taken) < count:
            task = tasks[0]
            if task.queued:
                if task.function is not function:
                    break
                task.queued = False
                taken.append(task)
            tasks.popleft()
        self.live -= len(taken)
        return taken

    def take_last(self, count: int) -> list[TaskT]:
        """Up to `count` tasks that would run last, the very last one first."""
        taken: list[TaskT] = []
        for key in sorted(self._order, reverse=True):
            tasks = self._classes[key]
            while tasks and len(taken) < count:
                task = tasks.pop()
                if task.queued:
                    task.queued = False
                    taken.append(task)
        self.live -= len(taken)
        return taken

    def __iter__(self) -> Iterator[TaskT]:
        return (task for key in sorted(self._classes) for task in self._classes[key] if task.queued)


class FairQueue(Generic[TaskT]):
    """The queued tasks of all clients. Who marks a task as dropped calls `dropped`."""

    def __init__(self, horizon_s: float, executors: int) -> None:
        self.credit_s = CREDIT_OF_HORIZON * horizon_s * executors
        self.clock_s = 0.0  # what the client that was served last had used when it was
        self.clients: dict[str, ClientQueue[TaskT]] = {}
        self.live = 0

    def client(self, name: str) -> ClientQueue[TaskT]:
        known = self.clients.get(name)
        if known is None:
            known = self.clients[name] = ClientQueue(name)
            known.used_s = self.clock_s
        return known

    def put(self, name: str, tasks: list[TaskT], priority: float, producer: bool, first: bool = False) -> None:
        """Queue tasks behind (`first`: before) their equals."""
        client = self.client(name)
        client.leaving = False
        if not client.live and not client.given:
            client.used_s = max(client.used_s, self.clock_s - self.credit_s)
        for task in tasks:
            task.queued = True
        if first:
            client.class_of(priority, producer).extendleft(reversed(tasks))
        else:
            client.class_of(priority, producer).extend(tasks)
        client.live += len(tasks)
        self.live += len(tasks)

    def dropped(self, name: str, task: TaskT) -> None:
        """A queued task is no longer wanted."""
        task.queued = False
        self.clients[name].live -= 1
        self.live -= 1

    def turn(self) -> ClientQueue[TaskT] | None:
        """The client to serve next: of those with queued tasks the one that used least."""
        if not self.live:
            return None
        return min((c for c in self.clients.values() if c.live), key=lambda c: (c.used_s, c.client))

    def take(self, client: ClientQueue[TaskT], count: int, predicted_s: float) -> list[TaskT]:
        """Take the next tasks of one client, and charge it for what each is predicted to last."""
        taken = client.take(count)
        self.live -= len(taken)
        self.clock_s = max(self.clock_s, client.used_s)
        client.given += len(taken)
        client.used_s += predicted_s * len(taken)
        client.charged_s += predicted_s * len(taken)
        return taken

    def settle(self, name: str, count: int, used_s: float) -> None:
        """`count` given tasks are done (or come back): charge what they really used instead of what was predicted."""
        client = self.clients[name]
        share = client.charged_s * count / client.given
        client.charged_s -= share
        client.used_s += used_s - share
        client.given -= count
        if client.leaving:
            self.forget(name)

    def take_last(self, name: str, count: int) -> list[TaskT]:
        """Take tasks from the end of one client's queue."""
        if name not in self.clients:
            return []
        taken = self.clients[name].take_last(count)
        self.live -= len(taken)
        return taken

    def forget(self, name: str) -> None:
        """A client is gone. While something of it is given (or queued again) its account stays open."""
        client = self.clients.get(name)
        if client is not None:
            client.leaving = True
            if not client.live and not client.given:
                del self.clients[name]

    def check(self) -> None:
        """Counts equal content."""
        for client in self.clients.values():
            assert client.live == sum(1 for _ in client), "queued tasks"
            assert client.given >= 0
            assert set(client._order) == set(client._classes)
        assert self.live == sum(client.live for client in self.clients.values())
