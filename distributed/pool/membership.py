"""Who the center says is here, and to which workers a connection is being made. Data and small decisions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from distributed.pool.events import Connect, Instruction
from distributed.pool.tasks import Task
from distributed.pool.view import WorkerView
from distributed.wire.messages import Member

PARTED_MAX = 10_000  # addresses remembered


class Membership:
    """The members of the cluster as the center told them last; `workers` are those that a connection exists to."""

    def __init__(self, workers: dict[str, WorkerView], reconnect_interval_s: float) -> None:
        self.workers = workers
        self.reconnect_interval_s = reconnect_interval_s
        self.members: dict[str, Member] = {}
        self.away: dict[str, WorkerView] = {}  # no connection, but not gone as far as the center knows: data is there
        self._parted: OrderedDict[str, None] = OrderedDict()  # addresses that a connection to was lost
        self.connecting: set[str] = set()  # addresses with a `Connect` under way: one at a time

    def keep_only(self, listed: Iterable[str]) -> list[WorkerView]:
        """A snapshot of the center's: nobody else is here. Returns those who were away, and are gone."""
        gone = sorted(self.members.keys() - set(listed))
        for address in gone:
            del self.members[address]
        return [self.away.pop(address) for address in gone if address in self.away]

    def part(self, address: str) -> WorkerView:
        """The connection to a worker is gone. As long as the center knows the worker it is away, with its data."""
        view = self.workers.pop(address)
        self._parted[address] = None
        if len(self._parted) > PARTED_MAX:
            self._parted.popitem(last=False)
        known = self.members.get(address)
        if known is not None and known.incarnation == view.member.incarnation:
            self.away[address] = WorkerView(view.member)
            self.away[address].holds, self.away[address].leaving = view.holds, view.leaving
        return view

    def succeeded(self, member: Member) -> WorkerView | None:
        """Whoever was away from this address, if somebody else is there now: gone, with the data."""
        away = self.away.get(member.address)
        if away is None or away.member.incarnation == member.incarnation:
            return None
        return self.away.pop(member.address)

    def find(self, address: str) -> WorkerView | None:
        """A worker that is connected or away."""
        return self.workers.get(address) or self.away.get(address)

    def holds(self, key: str) -> Task | None:
        """Our own task whose large value is on one of them."""
        for view in (*self.workers.values(), *self.away.values()):
            task = view.holds.get(key)
            if task is not None and not task.borrowed:
                return task
        return None

    def left_behind(self, key: str) -> Task | None:
        """Our own task whose large value is on a worker that leaves, or may have left: others may have it by now."""
        for view in (*self.workers.values(), *self.away.values()):
            task = view.holds.get(key)
            if task is not None and not task.borrowed and (view.leaving or view.member.address in self.away):
                return task
        return None

    def has_parted(self, address: str) -> bool:
        """Whether the worker here was away once, or took another's place: small results may not be there any more."""
        return address in self._parted

    def replaces(self, member: Member) -> bool:
        """Whether this is another worker on an address that a connection exists to."""
        view = self.workers.get(member.address)
        return view is not None and view.member.incarnation != member.incarnation

    def meet(self, member: Member) -> list[Instruction]:
        """The center says that this worker is here; one that is connected needs nothing more."""
        known = self.members.get(member.address)
        if known is not None and known.incarnation == member.incarnation:
            return []
        self.members[member.address] = member
        return [] if member.address in self.workers else self._connect(member, 0.0)

    def left(self, address: str, incarnation: str) -> WorkerView | None:
        """The center says that a worker is gone. Its connection, if there is one, decides whether that is so.

        Returns it if there is none.
        """
        member, away = self.members.get(address), self.away.get(address)
        if member is not None and member.incarnation == incarnation:
            del self.members[address]
        if away is not None and away.member.incarnation == incarnation:
            del self.away[address]
            return away
        return None

    def connected(self, member: Member) -> tuple[WorkerView, dict[str, Task]]:
        """Somebody answers at this address, whoever was expected there; with what it held when it was last here."""
        self.connecting.discard(member.address)
        view = self.workers[member.address] = WorkerView(member)
        away = self.away.pop(member.address, None)
        return view, away.holds if away is not None else {}

    def disconnected(self, address: str) -> list[Instruction]:
        """A connection broke or was never made: whoever the center says is there now is tried again."""
        self.connecting.discard(address)
        member = self.members.get(address)
        return [] if member is None else self._connect(member, self.reconnect_interval_s)

    def _connect(self, member: Member, after_s: float) -> list[Instruction]:
        """Two connections to one worker would undo each other: one attempt at a time."""
        if member.address in self.connecting:
            return []
        self.connecting.add(member.address)
        return [Connect(member, after_s)]

    def check(self) -> None:
        """Assert what must hold between any two events."""
        assert not self.away.keys() & self.workers.keys()
        for address, view in self.away.items():
            assert self.members[address].incarnation == view.member.incarnation, address
        for address, view in (*self.workers.items(), *self.away.items()):
            for task in view.holds.values():
                assert address in (task.holders or ()), task
