"""Who the center says is here, and to which workers a connection is being made. Data and small decisions."""

from __future__ import annotations

from collections.abc import Iterable

from distributed.pool.events import Connect, Instruction
from distributed.pool.view import WorkerView
from distributed.wire.messages import Member


class Membership:
    """The members of the cluster as the center told them last; `workers` are those that a connection exists to."""

    def __init__(self, workers: dict[str, WorkerView], reconnect_interval_s: float) -> None:
        self.workers = workers
        self.reconnect_interval_s = reconnect_interval_s
        self.members: dict[str, Member] = {}
        self.connecting: set[str] = set()  # addresses with a `Connect` under way: one at a time

    def keep_only(self, listed: Iterable[str]) -> None:
        """A snapshot of the center's: nobody else is here."""
        for address in self.members.keys() - set(listed):
            del self.members[address]

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

    def left(self, address: str, incarnation: str) -> None:
        """The center says that a worker is gone. Its connection, if there is one, decides whether that is so."""
        member = self.members.get(address)
        if member is not None and member.incarnation == incarnation:
            del self.members[address]

    def connected(self, member: Member) -> None:
        """Somebody answers at this address, whoever was expected there."""
        self.connecting.discard(member.address)
        self.workers[member.address] = WorkerView(member)

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
