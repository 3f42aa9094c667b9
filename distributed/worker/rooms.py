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


class Ask:
    """One request for a file, until it is answered. Who asks for several is answered in the order of the questions."""

    __slots__ = ("answer", "nbytes", "requester")

    def __init__(self, requester: Requester, nbytes: int) -> None:
        self.requester, self.nbytes = requester, nbytes
        self.answer: tuple[str, str] | None = None  # a path, or else why there is none


class Rooms:
    """Reservations of room: wanted, then being allocated, then reserved, then filled or given up."""

    def __init__(self, store: Store, out: list[Any]) -> None:
        self.store, self.out = store, out
        self.wanted: deque[Ask] = deque()
        self.allocating: dict[int, Ask] = {}
        self.reserved: dict[str, tuple[Requester, int]] = {}
        self.blocked: dict[Requester, deque[Ask]] = {}  # who waits for answers, and for which
        self._tickets = 0

    def ask(self, requester: Requester, nbytes: int) -> None:
        """Somebody wants a file of this size."""
        asked = Ask(requester, nbytes)
        self.blocked.setdefault(requester, deque()).append(asked)
        self.wanted.append(asked)
        self.pump()

    def pump(self) -> None:
        """Allocate or refuse, in order, what can be decided now."""
        while self.wanted:
            asked = self.wanted[0]
            if asked.nbytes > self.store.memory_limit:
                self._answer(asked, "", full(self.store, asked.nbytes))
            elif self.store.make_room(asked.nbytes):
                self._tickets += 1
                self.store.reserved_bytes += asked.nbytes
                self.allocating[self._tickets] = asked
                self.out.append(Allocate(self._tickets, asked.nbytes))
            elif self.store.spilling_bytes:
                return
            else:
                self._answer(asked, "", full(self.store, asked.nbytes))
            self.wanted.popleft()

    def allocated(self, ticket: int, path: str) -> None:
        """The file is there; it is for nobody when the requester has gone meanwhile."""
        asked = self.allocating.pop(ticket)
        if asked.requester not in self.blocked:
            self.store.reserved_bytes -= asked.nbytes
            self.out.append(Remove(path))
            return
        self.reserved[path] = (asked.requester, asked.nbytes)
        self._answer(asked, path, "")

    def allocation_failed(self, ticket: int, reason: str) -> None:
        """The file system has less room than the accounts say."""
        asked = self.allocating.pop(ticket)
        self.store.reserved_bytes -= asked.nbytes
        if asked.requester in self.blocked:
            self._answer(asked, "", f"no room for {asked.nbytes} bytes: {reason}")

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
        self.wanted = deque(asked for asked in self.wanted if asked.requester != requester)
        for path in [path for path, (who, _) in self.reserved.items() if who == requester]:
            self.abandon(path)

    def _answer(self, asked: Ask, path: str, reason: str) -> None:
        """This request is decided; a small file is there sooner than a large one that was asked for before it."""
        asked.answer = path, reason
        waiting = self.blocked[asked.requester]
        while waiting and waiting[0].answer is not None:
            self._tell(waiting.popleft())
        if not waiting:
            del self.blocked[asked.requester]

    def _tell(self, asked: Ask) -> None:
        (kind, number), (path, reason) = asked.requester, asked.answer or ("", "")
        if kind == "executor":
            self.out.append(Give(number, Room(path, reason)))
        else:
            self.out.append(GrantRoom(number, path) if path else RefuseRoom(number, reason))

    def check(self, bytes_of_others: int) -> None:
        """The store's reserved bytes are those of the files here and of fetches under way."""
        here = sum(asked.nbytes for asked in self.allocating.values()) + sum(n for _, n in self.reserved.values())
        assert self.store.reserved_bytes == here + bytes_of_others, "reservations"


def full(store: Store, nbytes: int) -> str:
    """The sentence that explains a refusal, with the sizes."""
    spill = f"; cannot spill: {store.spill_refused}" if store.spill_refused else ""
    return (
        f"no room for {nbytes:,} bytes: {store.memory_bytes:,} bytes are stored and {store.reserved_bytes:,} reserved "
        f"of at most {store.memory_limit:,}{spill}"
    )
