"""Room for large values: who asked for how much, who waits, which files were reserved and not yet filled.

Memory is accounted for before a file is made, and a file is allocated before it is written, so that nobody ever writes
into a full file system. A request goes through::

    asked ──▶ (waits while something is spilled for it) ──▶ in memory
      │                  └─ nothing can be spilled, or it is larger than the whole memory ──▶ on disk
      └─ neither is possible: it waits for others to end ──▶ in memory, on disk, or refused with the sizes

An executor that waits runs nothing. So when all of them wait and something else could run, the one that asked last is
sent away: its task comes again later, when those that give memory back had their turn. Requests are served in their
order, but those that only others' ends can help hold up nobody. Knows the store's accounts; knows no file system.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Any

from distributed.config import Settings
from distributed.quantities import size
from distributed.wire.messages import Room
from distributed.worker.events import Allocate, Give, GrantRoom, RefuseRoom, Remove
from distributed.worker.store import Store

Requester = tuple[str, int]
"""('executor', its number) or ('writer', its number)."""


class Ask:
    """One request for a file, until it is answered. Who asks for several is answered in the order of the questions."""

    __slots__ = ("answer", "nbytes", "on_disk", "requester", "since_s", "trouble", "try_at_s")

    def __init__(self, requester: Requester, nbytes: int, since_s: float) -> None:
        self.requester, self.nbytes, self.since_s = requester, nbytes, since_s
        self.on_disk = False
        self.try_at_s = since_s
        self.trouble = ""  # what the file system said the last time
        self.answer: tuple[str, str] | None = None  # a path, or else why there is none


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """Why an executor got no room. `never`: and would not in an empty store."""

    reason: str
    waited_s: float
    never: bool


class Rooms:
    """Reservations of room: wanted, then being allocated, then reserved, then filled or given up."""

    def __init__(self, store: Store, out: list[Any], settings: Settings) -> None:
        self.store, self.out, self.settings = store, out, settings
        self.wanted: deque[Ask] = deque()
        self.allocating: dict[int, Ask] = {}
        self.reserved: dict[str, tuple[Requester, int]] = {}  # the bytes: of memory, none on disk
        self.blocked: dict[Requester, deque[Ask]] = {}  # who waits for answers, and for which
        self.refusals: dict[Requester, Refusal] = {}  # the last one of each executor
        self._tickets = 0

    def ask(self, requester: Requester, nbytes: int, now: float) -> None:
        """Somebody wants a file of this size; `pump` decides."""
        asked = Ask(requester, nbytes, now)
        self.blocked.setdefault(requester, deque()).append(asked)
        self.wanted.append(asked)

    def pump(self, now: float, must_yield: bool) -> None:
        """Allocate or refuse, in order, what can be decided now.

        `must_yield`: no executor runs anything, and something could run if one did not wait here.
        """
        stuck: deque[Ask] = deque()
        while self.wanted:
            asked = self.wanted[0]
            if not self._can_ever_fit(asked.nbytes):
                self._refuse(asked, now)
            elif not self._begin(asked, now):
                if self.store.moves.spilling_bytes and asked.try_at_s <= now:
                    break  # for this one: whoever comes later must not take it
                stuck.append(asked)
            self.wanted.popleft()
        self.wanted.extendleft(reversed(stuck))
        for asked in stuck:
            if now >= asked.since_s + self.settings.room_patience_s:
                self._give_up(asked, now)
        if must_yield and not self.store.moves.spilling_bytes and not self.allocating:
            waiting = [asked for asked in self.wanted if asked.requester[0] == "executor"]
            if waiting:
                self._give_up(waiting[-1], now)

    def _can_ever_fit(self, nbytes: int) -> bool:
        return nbytes <= self.store.memory_limit or bool(self.store.moves.spill_directory)

    def _begin(self, asked: Ask, now: float) -> bool:
        """Have the file made, where there is room for it; False if there is none now."""
        if asked.try_at_s > now:
            return False
        store = self.store
        is_too_large = asked.nbytes > store.memory_limit
        if is_too_large or asked.on_disk or not store.make_room(asked.nbytes):
            if not store.moves.can_spill or (store.moves.spilling_bytes and not (is_too_large or asked.on_disk)):
                return False
            asked.on_disk = True
        else:
            store.reserved_bytes += asked.nbytes
        self._tickets += 1
        self.allocating[self._tickets] = asked
        self.out.append(Allocate(self._tickets, asked.nbytes, asked.on_disk))
        return True

    def _give_up(self, asked: Ask, now: float) -> None:
        self.wanted.remove(asked)
        self._refuse(asked, now)

    def _refuse(self, asked: Ask, now: float) -> None:
        reason = full(self.store, asked.nbytes, asked.trouble)
        if asked.requester[0] == "executor":
            never = not self._can_ever_fit(asked.nbytes)
            self.refusals[asked.requester] = Refusal(reason, now - asked.since_s, never)
        self._answer(asked, "", reason)

    def allocated(self, ticket: int, path: str) -> None:
        """The file is there; it is for nobody when the requester has gone meanwhile."""
        asked = self.allocating.pop(ticket)
        held_bytes = 0 if asked.on_disk else asked.nbytes
        if asked.requester not in self.blocked:
            self.store.reserved_bytes -= held_bytes
            self.out.append(Remove(path))
            return
        self.reserved[path] = (asked.requester, held_bytes)
        self._answer(asked, path, "")

    def allocation_failed(self, ticket: int, reason: str, now: float) -> None:
        """The file system has less room than the accounts say: another may have more, or this one a little later."""
        asked = self.allocating.pop(ticket)
        asked.trouble = reason
        if asked.on_disk:
            self.store.moves.refused = reason
        else:
            self.store.reserved_bytes -= asked.nbytes
        if asked.requester not in self.blocked:
            return
        if not asked.on_disk and self.store.moves.can_spill:
            asked.on_disk = True
        else:
            asked.on_disk = False
            asked.try_at_s = now + self.settings.spill_retry_s
        self.wanted.appendleft(asked)

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
        self.refusals.pop(requester, None)
        self.wanted = deque(asked for asked in self.wanted if asked.requester != requester)
        for path in [path for path, (who, _) in self.reserved.items() if who == requester]:
            self.abandon(path)

    def why_refused(self, requester: Requester) -> Refusal:
        """Why its last request was refused; told once."""
        return self.refusals.pop(requester, Refusal("there was no room for its result", 0.0, False))

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
        """Reserved are the files here, and what the others reserved: fetches, and values that come back from disk."""
        allocating = sum(asked.nbytes for asked in self.allocating.values() if not asked.on_disk)
        here = allocating + sum(nbytes for _, nbytes in self.reserved.values())
        assert self.store.reserved_bytes == here + bytes_of_others, "reservations"


def full(store: Store, nbytes: int, trouble: str = "") -> str:
    """The sentence that explains a refusal, with the sizes."""
    moves = store.moves
    if not moves.spill_directory:
        more = "; nothing can be spilled: the worker has no --spill-directory"
    elif moves.refused or trouble:
        more = f"; cannot spill: {moves.refused or trouble}"
    else:
        more = ""
    if trouble and trouble != moves.refused:
        more = f"; {trouble}{more}"
    return (
        f"no room for {size(nbytes)}: {size(store.memory_bytes)} are stored and {size(store.reserved_bytes)} reserved "
        f"of at most {size(store.memory_limit)} in memory, {size(store.disk_bytes)} are on disk{more}"
    )
