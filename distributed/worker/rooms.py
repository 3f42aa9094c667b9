"""Room for large values: who asked for how much, who waits for spilling, which files were reserved and not yet filled.

Memory is accounted for before a file is made, and a file is allocated before it is written, so that nobody ever writes
into a full tmpfs. A request waits only while something is being spilled for it; otherwise it is refused with the sizes.
Knows the store's accounts; knows no file system.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from distributed.wire.messages import Room
from distributed.worker.events import Allocate, Give, GrantRoom, RefuseRoom, Remove
from distributed.worker.store import Store

Requester = tuple[str, int]
"""('executor', its number) or ('writer', its number)."""


class Rooms:
    """Reservations of room: wanted, then being allocated, then reserved, then filled or given up."""

    def __init__(self, store: Store, out: list[Any]) -> None:
        self.store, self.out = store, out
        self.wanted: deque[tuple[Requester, int]] = deque()
        self.allocating: dict[int, tuple[Requester, int]] = {}
        self.reserved: dict[str, tuple[Requester, int]] = {}
        self.blocked: dict[Requester, int] = {}  # who waits for an answer, and for how many
        self._tickets = 0

    def ask(self, requester: Requester, nbytes: int) -> None:
        """Somebody wants a file of this size."""
        self.blocked[requester] = self.blocked.get(requester, 0) + 1
        self.wanted.append((requester, nbytes))
        self.pump()

    def pump(self) -> None:
        """Answer, in order, what can be answered now."""
        while self.wanted:
            requester, nbytes = self.wanted[0]
            if nbytes > self.store.memory_limit:
                self._refuse(requester, full(self.store, nbytes))
            elif self.store.make_room(nbytes):
                self._tickets += 1
                self.store.reserved_bytes += nbytes
                self.allocating[self._tickets] = (requester, nbytes)
                self.out.append(Allocate(self._tickets, nbytes))
            elif self.store.spilling_bytes:
                return
            else:
                self._refuse(requester, full(self.store, nbytes))
            self.wanted.popleft()

    def allocated(self, ticket: int, path: str) -> None:
        """The file is there; it is for nobody when the requester has gone meanwhile."""
        requester, nbytes = self.allocating.pop(ticket)
        if requester not in self.blocked:
            self.store.reserved_bytes -= nbytes
            self.out.append(Remove(path))
            return
        self.reserved[path] = (requester, nbytes)
        self._answered(requester)
        kind, number = requester
        self.out.append(Give(number, Room(path, "")) if kind == "executor" else GrantRoom(number, path))

    def allocation_failed(self, ticket: int, reason: str) -> None:
        """The file system has less room than the accounts say."""
        requester, nbytes = self.allocating.pop(ticket)
        self.store.reserved_bytes -= nbytes
        if requester in self.blocked:
            self._refuse(requester, f"no room for {nbytes} bytes: {reason}")

    def filled(self, path: str) -> bool:
        """A reserved file becomes a value: the store accounts for it from here. False for a file we never gave."""
        if path not in self.reserved:
            return False
        _, nbytes = self.reserved.pop(path)
        self.store.reserved_bytes -= nbytes
        return True

    def abandon(self, path: str) -> None:
        """A reserved file will not be filled."""
        if self.filled(path):
            self.out.append(Remove(path))

    def requester_gone(self, requester: Requester) -> None:
        """Everything that somebody asked for and did not fill is given back."""
        self.blocked.pop(requester, None)
        self.wanted = deque(item for item in self.wanted if item[0] != requester)
        for path in [path for path, (who, _) in self.reserved.items() if who == requester]:
            self.abandon(path)

    def _answered(self, requester: Requester) -> None:
        self.blocked[requester] -= 1
        if not self.blocked[requester]:
            del self.blocked[requester]

    def _refuse(self, requester: Requester, reason: str) -> None:
        self._answered(requester)
        kind, number = requester
        self.out.append(Give(number, Room("", reason)) if kind == "executor" else RefuseRoom(number, reason))

    def check(self, bytes_of_others: int) -> None:
        """The store's reserved bytes are those of the files here and of fetches under way."""
        here = sum(n for _, n in self.allocating.values()) + sum(n for _, n in self.reserved.values())
        assert self.store.reserved_bytes == here + bytes_of_others, "reservations"


def full(store: Store, nbytes: int) -> str:
    """The sentence that explains a refusal, with the sizes."""
    spill = f"; cannot spill: {store.spill_refused}" if store.spill_refused else ""
    return (
        f"no room for {nbytes:,} bytes: {store.memory_bytes:,} bytes are stored and {store.reserved_bytes:,} reserved "
        f"of at most {store.memory_limit:,}{spill}"
    )
