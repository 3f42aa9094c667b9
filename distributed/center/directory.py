"""Members and their keys: who holds what, both ways round, with sizes. Pure; knows no clients and sends nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

from distributed.key import owner_of
from distributed.wire import messages as m

Entry = tuple[int, int]  # attempt, nbytes


@dataclasses.dataclass(slots=True)
class Registration:
    """A worker, and what it said over its one valid connection."""

    member: m.Member
    connection: int
    keys: dict[str, Entry] = dataclasses.field(default_factory=dict)
    nbytes: int = 0
    load: m.ReportLoad | None = None

    def status(self) -> dict[str, Any]:
        """This worker for the status page."""
        member, load = self.member, self.load or m.ReportLoad(0, 0, 0, 0, [])
        return {
            "address": member.address,
            "incarnation": member.incarnation,
            "name": member.name,
            "pid": member.pid,
            "ncores": member.ncores,
            "memory_limit": member.memory_limit,
            "versions": member.versions,
            "keys": len(self.keys),
            "nbytes": self.nbytes,
            "running": load.running,
            "queued": load.queued,
            "stored_bytes": load.stored_bytes,
            "spilled_bytes": load.spilled_bytes,
            "running_names": load.running_names,
        }


class Directory:
    """`members` by address, `holders` by key: the two always say the same.

    Attempt and size stand at the member only. Nearly all keys have one holder, and all such keys of a worker share one
    tuple; keys of one report that have attempt and size in common share their entry.
    """

    def __init__(self) -> None:
        self.members: dict[str, Registration] = {}
        self.by_connection: dict[int, Registration] = {}
        self.holders: dict[str, tuple[str, ...]] = {}

    def join(self, registration: Registration) -> None:
        """A worker registered; its connection is the valid one from now on."""
        self.members[registration.member.address] = registration
        self.by_connection[registration.connection] = registration

    def leave(self, registration: Registration) -> None:
        """A worker is gone, and all it held with it."""
        address = registration.member.address
        del self.members[address], self.by_connection[registration.connection]
        for key in registration.keys:
            self._forget(key, address)
        self._shrink(self.holders)

    def who_has(self, key: str) -> dict[str, Entry]:
        """The holders of a key with what they hold; empty if nobody does."""
        return {address: self.members[address].keys[key] for address in self.holders.get(key, ())}

    def add(self, registration: Registration, keys: list[str], attempts: list[int], sizes: list[int]) -> set[str]:
        """A worker holds these values; returns the owners of the keys. Written as one loop: the center's hottest."""
        address, held, all_holders = registration.member.address, registration.keys, self.holders
        alone = (address,)
        owners, prefix = set(), None
        alike: dict[Entry, Entry] = {}
        for key, attempt, nbytes in zip(keys, attempts, sizes, strict=True):
            entry = alike.setdefault(entry := (attempt, nbytes), entry)
            old = held.get(key)
            registration.nbytes += nbytes - old[1] if old else nbytes
            held[key] = entry
            if old is None:
                others = all_holders.get(key)
                all_holders[key] = others + alone if others else alone
            if prefix is None or not key.startswith(prefix):
                owner = owner_of(key)
                prefix = f"{owner}/" if owner else None
                owners.add(owner)
        return owners

    def remove(self, registration: Registration, keys: list[str]) -> None:
        """A worker no longer holds these values; keys that it did not hold are no error."""
        for key in keys:
            entry = registration.keys.pop(key, None)
            if entry is not None:
                registration.nbytes -= entry[1]
                self._forget(key, registration.member.address)
        self._shrink(registration.keys)
        self._shrink(self.holders)

    @staticmethod
    def _shrink(table: dict[str, Any]) -> None:
        """A dictionary that was emptied key by key keeps the room of its best times, until it is told."""
        if not table:
            table.clear()

    def _forget(self, key: str, address: str) -> None:
        holders = self.holders[key]
        if len(holders) == 1:
            del self.holders[key]
        else:
            self.holders[key] = tuple(other for other in holders if other != address)

    def check(self) -> None:
        """Assert that both sides agree, and that nothing is known of those who are no members."""
        assert len(self.by_connection) == len(self.members)
        for address, registration in self.members.items():
            assert registration.member.address == address
            assert self.by_connection[registration.connection] is registration
            assert registration.nbytes == sum(nbytes for _, nbytes in registration.keys.values()), address
            assert all(address in self.holders[key] for key in registration.keys), address
        for key, holders in self.holders.items():
            assert holders, f"{key} has an entry but no holder"
            assert len(set(holders)) == len(holders), key
            assert all(key in self.members[address].keys for address in holders), key
