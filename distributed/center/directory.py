"""Members and their keys: who holds what, both ways round, with sizes. Pure; knows no clients and sends nothing.

Written for reports of many keys, most of which come and go unasked for: there is no object for a key and no step of a
Python loop, only dictionaries of texts and numbers that C goes through (and the garbage collector does not)::

    Registration.sizes       what a worker holds: always up to date
    Registration.attempts    where the attempt is not the first
    Directory.holders        the other way round, key to worker: up to date when `who_has` looks at it, see `index`
    Directory.others         further holders of keys that have several
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Collection
from typing import Any, Final

from distributed.key import owner_of
from distributed.wire import messages as m

Entry = tuple[int, int]  # attempt, nbytes
FIRST_ATTEMPT: Final = 1
UNINDEXED_MAX: Final = 1 << 18  # keys: the longest that a question waits for the index, some 50 ms


@dataclasses.dataclass(slots=True)
class Registration:
    """A worker, and what it said over its one valid connection."""

    member: m.Member
    connection: int
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)  # of all that it holds
    attempts: dict[str, int] = dataclasses.field(default_factory=dict)  # where that is not the first
    nbytes: int = 0
    load: m.ReportLoad | None = None
    leaving: bool = False  # it gets nothing new, and hands over what only it holds

    def entry(self, key: str) -> Entry:
        """What it holds under this key."""
        return self.attempts.get(key, FIRST_ATTEMPT), self.sizes[key]

    def has_what(self) -> dict[str, Entry]:
        """All it holds."""
        return {key: (self.attempts.get(key, FIRST_ATTEMPT), nbytes) for key, nbytes in self.sizes.items()}

    def status(self) -> dict[str, Any]:
        """This worker for the status page."""
        member, load = self.member, self.load or m.ReportLoad(0, 0, 0, 0, [])
        return {
            "address": member.address,
            "incarnation": member.incarnation,
            "name": member.name,
            "pid": member.pid,
            "ncores": member.ncores,
            "resources": member.resources,
            "resources_used": load.resources,
            "leaving": self.leaving,
            "relayed": member.relayed,
            "memory_limit": member.memory_limit,
            "versions": member.versions,
            "keys": len(self.sizes),
            "nbytes": self.nbytes,
            "running": load.running,
            "queued": load.queued,
            "stored_bytes": load.stored_bytes,
            "spilled_bytes": load.spilled_bytes,
            "running_names": load.running_names,
        }


def known_as(member: m.Member) -> str:
    """A worker for people: by its name, if it was given one, and where it is.

    >>> known_as(m.Member('alice:1', 'one', 'maxi', 2, 1000)), known_as(m.Member('alice:1', 'one', 'alice:1', 2, 1000))
    ('maxi at alice:1', 'alice:1')
    """
    name = member.name if member.name.isprintable() else ascii(member.name)
    return member.address if name in ("", member.address) else f"{name} at {member.address}"


class Directory:
    """`members` by address, and the index from keys to members, which is made when somebody asks.

    Few ever ask, and to put a key into a second dictionary and take it out again is half of what it costs. So reports
    wait in `unindexed`, and keys that go before somebody asked never enter `holders`. At any time, what a worker holds
    is in the index or in an unindexed report of it, and what is in the index is held.
    """

    def __init__(self) -> None:
        self.members: dict[str, Registration] = {}
        self.by_connection: dict[int, Registration] = {}
        self.alike: dict[tuple[tuple[str, str], ...], dict[str, None]] = {}  # versions -> the members that have them
        self.holders: dict[str, str] = {}  # key -> the address of its holder, or of the first of several
        self.others: dict[str, dict[str, None]] = {}  # key -> further holders in order of arrival, if there are any
        self.unindexed: list[tuple[Registration, list[str]]] = []
        self._unindexed_count = self._held_count = 0

    # ------------------------------------------------------------------------------------------------------- members

    def join(self, registration: Registration) -> None:
        """A worker registered; its connection is the valid one from now on."""
        member = registration.member
        self.members[member.address] = registration
        self.by_connection[registration.connection] = registration
        self.alike.setdefault(_sorted_versions(member), {})[member.address] = None

    def leave(self, registration: Registration) -> None:
        """A worker is gone, and all it held with it."""
        member, versions = registration.member, _sorted_versions(registration.member)
        del self.members[member.address], self.by_connection[registration.connection]
        del self.alike[versions][member.address]
        if not self.alike[versions]:
            del self.alike[versions]
        self._forget(registration.sizes, member.address)
        self._count(-len(registration.sizes))

    def unlike(self, member: m.Member) -> list[m.Member]:
        """One member of each kind that has other versions of things than this one."""
        own = _sorted_versions(member)
        return [self.members[next(iter(kind))].member for versions, kind in self.alike.items() if versions != own]

    # ------------------------------------------------------------------------------------------------------- reports

    def add(self, registration: Registration, keys: list[str], attempts: list[int], sizes: list[int]) -> None:
        """A worker holds these values. The center's hottest: columns cost a quarter of what one loop did."""
        held, unusual = registration.sizes, registration.attempts
        count = len(held)
        held.update(zip(keys, sizes, strict=True))
        is_news = len(held) == count + len(keys)  # else it reported some of them before, which workers hardly do
        registration.nbytes = registration.nbytes + sum(sizes) if is_news else sum(held.values())
        if unusual or attempts.count(FIRST_ATTEMPT) != len(attempts):
            for key, attempt in zip(keys, attempts, strict=True):
                if attempt != FIRST_ATTEMPT:
                    unusual[key] = attempt
                else:
                    unusual.pop(key, None)
        self.unindexed.append((registration, keys))
        self._unindexed_count += len(keys)
        self._count(len(held) - count)

    def remove(self, registration: Registration, keys: list[str]) -> None:
        """A worker no longer holds these values; keys that it did not hold are no error."""
        count = len(registration.sizes)
        sizes = list(map(registration.sizes.pop, keys, itertools.repeat(None)))
        if len(registration.sizes) + len(keys) != count:
            keys = [key for key, nbytes in zip(keys, sizes, strict=True) if nbytes is not None]
        registration.nbytes -= sum(filter(None, sizes))
        if registration.attempts:
            _exhaust(map(registration.attempts.pop, keys, itertools.repeat(None)))
        self._forget(keys, registration.member.address)
        _shrink(registration.sizes)
        self._count(-len(keys))

    def _count(self, more: int) -> None:
        """So many keys came (or went): see that no more reports wait than are worth it."""
        self._held_count += more
        if not self._held_count:
            self.unindexed.clear()
            self._unindexed_count = 0
        elif self._unindexed_count > UNINDEXED_MAX:
            self._forget_the_gone()
            if self._unindexed_count > UNINDEXED_MAX // 2:
                self.index()

    def _forget_the_gone(self) -> None:
        """Strike out of the unindexed reports what is no longer held."""
        reports, self.unindexed, self._unindexed_count = self.unindexed, [], 0
        for registration, keys in reports:
            is_member = self.members.get(registration.member.address) is registration
            if is_member and (held := list(filter(registration.sizes.__contains__, keys))):
                self.unindexed.append((registration, held))
                self._unindexed_count += len(held)

    # ----------------------------------------------------------------------------------------------------- the index

    def who_has(self, key: str) -> dict[str, Entry]:
        """The holders of a key with what they hold; empty if nobody does."""
        self.index()
        if key not in self.holders:
            return {}
        holders = (self.holders[key], *self.others.get(key, ()))
        return {address: self.members[address].entry(key) for address in holders}

    def count(self) -> int:
        """How many keys there are."""
        self.index()
        return len(self.holders)

    def index(self) -> None:
        """Make `holders` and `others` complete; afterwards all reports are in them."""
        if self.unindexed:
            self._forget_the_gone()
            for registration, keys in self.unindexed:
                self._index(registration.member.address, keys)
            self.unindexed, self._unindexed_count = [], 0

    def _index(self, address: str, keys: list[str]) -> None:
        count = len(self.holders)
        _exhaust(map(self.holders.setdefault, keys, itertools.repeat(address)))
        if len(self.holders) != count + len(keys):
            for key in keys:
                if self.holders[key] != address:
                    self.others.setdefault(key, {})[address] = None

    def _forget(self, keys: Collection[str], address: str) -> None:
        """This worker is no holder of these keys any more; the index may have all of them, some or none."""
        found = list(map(self.holders.get, keys)) if self.holders else []
        if found.count(None) == len(found):
            return
        if not self.others.keys().isdisjoint(keys):
            keys = [key for key in keys if key in self.holders and self._is_alone(key, address)]
        elif found.count(address) != len(found):
            keys = [key for key, holder in zip(keys, found, strict=True) if holder == address]
        _exhaust(map(self.holders.pop, keys))
        _shrink(self.holders)

    def _is_alone(self, key: str, address: str) -> bool:
        """Whether the index has this worker as the only holder; if others hold the key, too, it is theirs now."""
        others = self.others.get(key)
        if others is None:
            return self.holders[key] == address
        if self.holders[key] == address:
            address = self.holders[key] = next(iter(others))
        others.pop(address, None)
        if not others:
            del self.others[key]
        return False

    def check(self) -> None:
        """Assert that both sides agree, and that nothing is known of those who are no members."""
        assert len(self.by_connection) == len(self.members) == sum(map(len, self.alike.values()))
        assert all(self.alike.values())
        waiting = {(reporter.connection, key) for reporter, keys in self.unindexed for key in keys}
        for address, registration in self.members.items():
            assert registration.member.address == address
            assert self.by_connection[registration.connection] is registration
            assert registration.nbytes == sum(registration.sizes.values()), address
            assert registration.attempts.keys() <= registration.sizes.keys(), address
            for key in registration.sizes:
                is_indexed = self.holders.get(key) == address or address in self.others.get(key, ())
                assert is_indexed or (registration.connection, key) in waiting, (address, key)
        for key, holder in self.holders.items():
            others = self.others.get(key, {})
            assert holder not in others, f"{key} has {holder} twice"
            assert all(key in self.members[address].sizes for address in (holder, *others)), key
        assert all(self.others.values())
        assert self.others.keys() <= self.holders.keys()
        assert self._held_count == sum(len(registration.sizes) for registration in self.members.values())
        assert self._unindexed_count == sum(len(keys) for _, keys in self.unindexed)


def owners_of(keys: list[str]) -> set[str]:
    """The owners of these keys; '' for those that have none.

    Nearly always all have one, and then no more is looked at than the first and the last in the order of the alphabet.

    >>> owners_of(['a11ce0000000/7', 'a11ce0000000/1']), sorted(owners_of(['a/1', 'b/1', 'x'])), owners_of([])
    ({'a11ce0000000'}, ['', 'a', 'b'], set())
    """
    owner = owner_of(min(keys, default=""))
    return {owner} if owner and max(keys).startswith(f"{owner}/") else set(map(owner_of, keys))


def _sorted_versions(member: m.Member) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(member.versions.items()))


def _exhaust(items: map[Any]) -> None:
    """Let a `map` run for what it does; in C."""
    collections.deque(items, maxlen=0)


def _shrink(table: dict[str, Any]) -> None:
    """A dictionary that was emptied key by key keeps the room of its best times, until it is told."""
    if not table:
        table.clear()
