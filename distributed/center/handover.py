"""Values of workers that leave: who takes over which of them, until each is with somebody else, or nobody has room.

::

    asked for by the one that leaves ─▶ waiting ─▶ at a worker, which fetches it ─▶ adopted
                                           ▲  │                │
                                           │  └─ tried all: refused    (it may ask again)
                                           └─────── no room there ◀────┘

The worker with most free memory is asked first; one that has a copy already before all others, because nothing has to
travel. Says what to tell whom; knows the directory, and neither connections nor owners.
"""

from __future__ import annotations

import heapq

from distributed.center.directory import Directory, Registration
from distributed.config import Settings
from distributed.wire import messages as m


class Orphan:
    """One value of one worker that leaves."""

    __slots__ = ("attempt", "nbytes", "target", "tried")

    def __init__(self, attempt: int, nbytes: int) -> None:
        self.attempt, self.nbytes = attempt, nbytes
        self.target = ""
        self.tried: set[str] = set()


Told = list[tuple[Registration, m.Message]]


class Handover:
    """All that is to be handed over, by the address of who leaves."""

    def __init__(self, settings: Settings, directory: Directory) -> None:
        self.settings, self.directory = settings, directory
        self.orphans: dict[str, dict[str, Orphan]] = {}
        self._waiting: dict[str, dict[str, None]] = {}  # those that nobody was asked to adopt, or who was refused
        self._keys: dict[str, int] = {}  # target -> how many are under way there,
        self._bytes: dict[str, int] = {}  # and how much

    def want(self, leaver: str, keys: list[str], attempts: list[int], sizes: list[int]) -> Told:
        """A worker that leaves holds these, and nobody may be without them."""
        orphans, waiting = self.orphans.setdefault(leaver, {}), self._waiting.setdefault(leaver, {})
        for key, attempt, nbytes in zip(keys, attempts, sizes, strict=True):
            if key not in orphans:
                orphans[key] = Orphan(attempt, nbytes)
                waiting[key] = None
        return self.pump()

    def answered(self, target: str, message: m.Adopted) -> Told:
        """A worker has adopted some, and refused others."""
        told: Told = []
        for leaver, orphans in self.orphans.items():
            adopted = [key for key in message.keys if key in orphans and orphans[key].target == target]
            for key in adopted:
                self._unassign(orphans.pop(key))
            for key in message.refused:
                if key in orphans and orphans[key].target == target:
                    self._unassign(orphans[key])
                    orphans[key].tried.add(target)
                    self._waiting[leaver][key] = None
            if adopted:
                told.append((self.directory.members[leaver], m.HandedOver(adopted, [], len(self._targets()))))
        return told + self.pump(message.reason)

    def forget(self, address: str) -> None:
        """A worker is gone: nobody waits for what it had, and what was on its way there waits for others (`pump`)."""
        self._waiting.pop(address, None)
        for orphan in self.orphans.pop(address, {}).values():
            self._unassign(orphan)
        for leaver, orphans in self.orphans.items():
            for key, orphan in orphans.items():
                if orphan.target == address:
                    self._unassign(orphan)
                    self._waiting[leaver][key] = None

    def pump(self, reason: str = "") -> Told:
        """Find takers for what waits; what nobody takes is refused."""
        if not any(self._waiting.values()):
            return []
        targets = self._targets()
        free = [(-self._free_bytes(registration), address) for address, registration in targets.items()]
        heapq.heapify(free)
        told: Told = []
        for leaver, waiting in self._waiting.items():
            batches, refused = self._share_out(leaver, targets, free)
            told += [(targets[address], batch) for address, batch in batches.items()]
            for key in (*refused, *(key for batch in batches.values() for key in batch.keys)):
                del waiting[key]
            for key in refused:
                del self.orphans[leaver][key]
            if refused:
                told.append((self.directory.members[leaver], m.HandedOver([], refused, len(targets), reason)))
        return told

    def _share_out(
        self, leaver: str, targets: dict[str, Registration], free: list[tuple[int, str]]
    ) -> tuple[dict[str, m.Adopt], list[str]]:
        """What each worker is asked to adopt, as far as it may be asked for more now, and what nobody takes."""
        batches: dict[str, m.Adopt] = {}
        refused: list[str] = []
        for key in self._waiting[leaver]:
            orphan = self.orphans[leaver][key]
            if orphan.tried.issuperset(targets):
                refused.append(key)
                continue
            address = self._holder(key, orphan, targets) or self._freest(free, orphan)
            if address:
                self._assign(orphan, address)
                batch = batches.setdefault(address, m.Adopt([], [], [], leaver))
                batch.keys.append(key)
                batch.attempts.append(orphan.attempt)
                batch.nbytes.append(orphan.nbytes)
            elif not free:
                break  # all have enough to do for now
        return batches, refused

    def _targets(self) -> dict[str, Registration]:
        members = self.directory.members
        return {address: registration for address, registration in members.items() if not registration.leaving}

    def _holder(self, key: str, orphan: Orphan, targets: dict[str, Registration]) -> str:
        """Who has a copy of it: perhaps only as a cache, which is not to be relied on until it is told to keep it."""
        for address, (attempt, _) in self.directory.who_has(key).items():
            is_asked = address in targets and address not in orphan.tried
            if is_asked and attempt == orphan.attempt and self._has_turn(address):
                return address
        return ""

    def _freest(self, free: list[tuple[int, str]], orphan: Orphan) -> str:
        """The worker with most free memory of those that have not been asked; '' if all of these are busy."""
        aside, chosen = [], ""
        while free and not chosen:
            missing, address = heapq.heappop(free)
            if not self._has_turn(address):
                continue  # it has enough to do for now
            if address in orphan.tried:
                aside.append((missing, address))
            else:
                chosen = address
                aside.append((missing + orphan.nbytes, address))
        for item in aside:
            heapq.heappush(free, item)
        return chosen

    def _has_turn(self, address: str) -> bool:
        """Whether a worker may be given one more now."""
        is_few = self._keys.get(address, 0) < self.settings.adoptions_keys_max
        return is_few and self._bytes.get(address, 0) < self.settings.adoptions_bytes_max

    def _free_bytes(self, registration: Registration) -> int:
        """About how much fits into its memory; below 0 it may still spill."""
        member = registration.member
        return member.memory_limit - registration.nbytes - self._bytes.get(member.address, 0)

    def _assign(self, orphan: Orphan, address: str) -> None:
        orphan.target = address
        self._keys[address] = self._keys.get(address, 0) + 1
        self._bytes[address] = self._bytes.get(address, 0) + orphan.nbytes

    def _unassign(self, orphan: Orphan) -> None:
        address, orphan.target = orphan.target, ""
        if address:
            self._keys[address] -= 1
            self._bytes[address] -= orphan.nbytes
            if not self._keys[address]:
                del self._keys[address], self._bytes[address]

    def check(self) -> None:
        """Assert what must hold between any two events."""
        assert all(self.directory.members[leaver].leaving for leaver in self.orphans)
        assigned = [orphan for orphans in self.orphans.values() for orphan in orphans.values() if orphan.target]
        assert sum(self._keys.values()) == len(assigned)
        assert sum(self._bytes.values()) == sum(orphan.nbytes for orphan in assigned)
        assert all(orphan.target in self.directory.members for orphan in assigned)
        for leaver, orphans in self.orphans.items():
            assert self._waiting[leaver].keys() == {key for key, orphan in orphans.items() if not orphan.target}, leaver
