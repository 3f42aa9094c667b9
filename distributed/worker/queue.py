"""Queued tasks, in the order in which they should run: fair between clients, by priority within one.

Every client has a class of tasks for each (priority, producer or consumer, depth): consumers, which have inputs, go
first at equal priority, because they let inputs go; then deeper ones, because what runs may wait for them. Within a
class tasks stand in order of arrival. Whose turn it is between clients is decided by executor-seconds: the client that
has used least is served next. A charge is made when tasks are given, as predicted, and corrected when they are done.
Someone who was idle resumes near the present (`clock`), with a little credit, so that short gaps between its tasks cost
it nothing and long ones do not starve the others.
Tasks stand here in parts: columns of tasks that were sent together. A part is split where a batch ends, so that what is
done per batch is not done per task. One that is dropped stays in its deque until it would be served. Whom this calls a
client is a program: all its pools together are one, so that priorities mean the same in all of them.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar


class Queued(Protocol):
    """What a queue must know of a part."""

    queued: bool  # False: it was dropped meanwhile

    @property
    def function(self) -> object: ...

    @property
    def depth(self) -> int: ...  # how many tasks are above it, which may wait for it

    @property
    def together(self) -> bool: ...  # all of it starts at one time, or nothing

    def __len__(self) -> int: ...

    def split(self, count: int) -> Any: ...  # keeps the first ones, returns the others

    def join(self, behind: Any) -> bool: ...  # whether it took over those that stand behind it


PartT = TypeVar("PartT", bound=Queued)
CREDIT_OF_HORIZON = 0.1  # part of the horizon, for each executor: more, and a burst after a pause breaks the 0.7 share


class ClientQueue(Generic[PartT]):
    """The queued tasks of one client, and the executor-seconds it has used."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.used_s = 0.0
        self.charged_s = 0.0  # part of used_s that is a prediction, for tasks given and not done
        self.given = 0
        self.live = 0  # queued tasks that were not dropped
        self.leaving = False  # forgotten as soon as nothing of it is given
        self._classes: dict[tuple[float, bool, int], deque[PartT]] = {}
        self._order: list[tuple[float, bool, int]] = []

    def class_of(self, priority: float, producer: bool, depth: int) -> deque[PartT]:
        key = (priority, producer, -depth)
        parts = self._classes.get(key)
        if parts is None:
            parts = self._classes[key] = deque()
            heapq.heappush(self._order, key)
        return parts

    def first_class(self, depth_min: int = 0) -> deque[PartT] | None:
        """The deque whose first part is next, of those of this depth or deeper; None when nothing is queued."""
        if depth_min:
            deep = (self._classes[key] for key in sorted(self._order) if -key[2] >= depth_min)
            return next((parts for parts in deep if _has_queued(parts)), None)
        while self._order:
            parts = self._classes[self._order[0]]
            while parts:
                if parts[0].queued:
                    return parts
                parts.popleft()
            del self._classes[heapq.heappop(self._order)]
        return None

    def take(self, count: int, depth_min: int = 0) -> list[PartT]:
        """The next parts, of up to `count` tasks together, all of the same function as the first."""
        parts = self.first_class(depth_min)
        if parts is None:
            return []
        function = parts[0].function
        taken: list[PartT] = []
        missing = count
        while parts and missing > 0:
            part = parts[0]
            if not part.queued:
                parts.popleft()
                continue
            if part.function is not function:
                break
            size = len(part)
            if size > missing:
                parts[0] = part.split(missing)
                size = missing
            else:
                parts.popleft()
            missing -= size
            part.queued = False
            taken.append(part)
        self.live -= count - missing
        return taken

    def take_last(self, count: int, is_wanted: Callable[[PartT], bool] = lambda part: True) -> list[PartT]:
        """Parts of up to `count` tasks that would run last, of those that are wanted, the very last one first."""
        taken: list[PartT] = []
        for key in sorted(self._order, reverse=True):
            parts, others = self._classes[key], []
            while parts and count > 0:
                part = parts[-1]
                if not is_wanted(part) or (part.queued and part.together):
                    others.append(parts.pop())
                    continue
                if part.queued and len(part) > count:
                    part = part.split(len(part) - count)
                else:
                    parts.pop()
                if part.queued:
                    count -= len(part)
                    part.queued = False
                    taken.append(part)
            parts.extend(reversed(others))
        self.live -= sum(map(len, taken))
        return taken

    def __iter__(self) -> Iterator[PartT]:
        return (part for key in sorted(self._classes) for part in self._classes[key] if part.queued)


def _has_queued(parts: deque[PartT]) -> bool:
    while parts and not parts[0].queued:
        parts.popleft()
    return bool(parts)


class FairQueue(Generic[PartT]):
    """The queued tasks of all clients. Who takes tasks out of a part, or marks it as dropped, calls `dropped`."""

    def __init__(self, horizon_s: float, executors: int) -> None:
        self.credit_s = CREDIT_OF_HORIZON * horizon_s * executors
        self.clock_s = 0.0  # what the client that was served last had used when it was
        self.clients: dict[str, ClientQueue[PartT]] = {}
        self.live = 0

    def client(self, name: str) -> ClientQueue[PartT]:
        known = self.clients.get(name)
        if known is None:
            known = self.clients[name] = ClientQueue(name)
            known.used_s = self.clock_s
        return known

    def put(self, name: str, part: PartT, priority: float, producer: bool, first: bool = False) -> None:
        """Queue a part behind (`first`: before) its equals."""
        client = self.clients.get(name)
        if client is None:
            client = self.client(name)
        client.leaving = False
        if not client.live and not client.given and client.used_s < self.clock_s - self.credit_s:
            client.used_s = self.clock_s - self.credit_s
        count = len(part)
        parts = client.class_of(priority, producer, part.depth)
        if first:
            parts.appendleft(part)
        elif not (parts and parts[-1].join(part)):
            parts.append(part)
        part.queued = True
        client.live += count
        self.live += count

    def dropped(self, name: str, count: int) -> None:
        """So many queued tasks are no longer wanted."""
        self.clients[name].live -= count
        self.live -= count

    def turn(self, depth_min: int = 0) -> ClientQueue[PartT] | None:
        """The client to serve next: of those with queued tasks, of this depth or deeper, the one that used least."""
        if not self.live:
            return None
        if depth_min:
            some = [c for c in self.clients.values() if c.live and c.first_class(depth_min) is not None]
            return min(some, key=lambda c: (c.used_s, c.client), default=None)
        if len(self.clients) == 1:
            return next(iter(self.clients.values()))
        return min((c for c in self.clients.values() if c.live), key=lambda c: (c.used_s, c.client))

    def take(self, client: ClientQueue[PartT], count: int, predicted_s: float, depth_min: int = 0) -> list[PartT]:
        """Take the next tasks of one client, and charge it for what each is predicted to last."""
        before = client.live
        taken = client.take(count, depth_min)
        count = before - client.live
        self.live -= count
        self._charge(client, count, predicted_s)
        return taken

    def take_these(self, client: ClientQueue[PartT], parts: list[PartT], predicted_s: float) -> None:
        """Take these, wherever in the queue of one client they are, and charge it."""
        count = sum(map(len, parts))
        for part in parts:
            part.queued = False
        client.live -= count
        self.live -= count
        self._charge(client, count, predicted_s)

    def _charge(self, client: ClientQueue[PartT], count: int, predicted_s: float) -> None:
        if client.used_s > self.clock_s:
            self.clock_s = client.used_s
        client.given += count
        client.used_s += predicted_s * count
        client.charged_s += predicted_s * count

    def used_s(self, name: str) -> float:
        """How much a client has used."""
        client = self.clients.get(name)
        return self.clock_s if client is None else client.used_s

    def give_past(self, name: str) -> None:
        """A task that does not stand here is given: its client is charged for it when it is done."""
        self.client(name).given += 1

    def settle(self, name: str, count: int, used_s: float) -> None:
        """`count` given tasks are done (or come back): charge what they really used instead of what was predicted."""
        client = self.clients[name]
        share = client.charged_s * count / client.given
        client.charged_s -= share
        client.used_s += used_s - share
        client.given -= count
        if client.leaving:
            self.forget(name)

    def take_last(self, name: str, count: int, is_wanted: Callable[[PartT], bool] = lambda part: True) -> list[PartT]:
        """Take tasks from the end of one client's queue."""
        if name not in self.clients:
            return []
        taken = self.clients[name].take_last(count, is_wanted)
        self.live -= sum(map(len, taken))
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
            assert client.live == sum(map(len, client)), "queued tasks"
            assert client.given >= 0
            assert set(client._order) == set(client._classes)
        assert self.live == sum(client.live for client in self.clients.values())
