"""Which values this worker holds, under which limits, and what goes when there are too many. No disk, no bytes read.

A value is named (key, attempt); a key has at most one entry in the table, and the newest attempt wins. An entry::

    added ──▶ in the table ──delete, newer attempt, owner left──▶ detached ──last user gone──▶ its file is removed
                 │    ▲
                 │    └─ a pin (published name) keeps it here, whatever its owner does
                 └─ memory limit passed ─▶ on disk (readable in place) ─ used again, and there is room ─▶ in memory

Users of an entry are counted twice: `uses` by tasks that need it (their file must not vanish), `given` by tasks that an
executor has already (their file must not even move). Replicas of what other workers hold are a cache: under pressure
the ones used longest ago go first, then the values used longest ago are copied to disk (see
:mod:`distributed.worker.moves`).

A small value of a first attempt, such as most tasks leave, needs no entry: the table holds the value itself, so that
hundreds of them come and go at a time. It becomes an entry when somebody asks for one; a task that reads it does not.

Changes of the table collect in `added` and `removed` until they are reported; what came and went in between is nobody's
business.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any

from distributed.config import SETTINGS
from distributed.key import owner_of
from distributed.wire.messages import Evicted
from distributed.worker.events import Remove, Send
from distributed.worker.moves import Moves


class Entry:
    """One stored value. What most entries never need is a default of the class."""

    path = ""  # '': the value is `data`
    in_table = True
    replica = False
    announced = True  # a replica: its owner was told that it is here
    released = False  # its owner does not want it any more, but it is pinned
    uses = 0
    given = 0
    resident = True  # counts as memory, as opposed to: on disk
    moving = ""  # 'to disk' or 'to memory', while it is copied there
    old_path = ""  # still read by a given task although the value has moved

    def __init__(self, key: str, attempt: int, nbytes: int, data: bytes | None) -> None:
        self.key, self.attempt, self.nbytes, self.data = key, attempt, nbytes, data

    def __repr__(self) -> str:
        return f"<Entry {self.key}@{self.attempt} {self.nbytes} bytes>"


class Store:
    """The table of values, its accounts, and the decisions about eviction. Instructions are appended to `out`."""

    def __init__(self, memory_limit: int, out: list[Any], spill_directory: str = "") -> None:
        self.memory_limit = memory_limit
        self.out = out
        self.entries: dict[str, Entry | bytes] = {}  # bytes: a small value of attempt 1
        self.owners: dict[str, None] = {}  # whose keys may be here: of others there are none
        self.names: dict[str, str] = {}  # published name -> the key it stands for
        self.published: dict[str, dict[str, int]] = {}  # published name -> every key it keeps alive, and which attempt
        self.pins: dict[str, int] = {}  # key -> how many names keep it,
        self.pinned: dict[str, int] = {}  # and which attempt, if that is known
        self.memory_bytes = 0
        self.disk_bytes = 0
        self.reserved_bytes = 0
        self.moves = Moves(self, spill_directory)
        self.unborn: OrderedDict[str, None] = OrderedDict()  # deleted, but never here (yet)
        self.added: dict[str, Entry | bytes] = {}
        self.removed: dict[str, None] = {}
        self._files = self.moves.files  # values in memory files, the one used longest ago first
        self._replicas: dict[Entry, None] = {}  # those in memory, likewise
        self._detached: dict[Entry, None] = {}  # out of the table, still used

    # -------------------------------------------------------------------------------------------------- the table

    def get(self, key: str, attempt: int) -> Entry | None:
        """The entry of exactly this attempt (0: of any)."""
        value = self.entries.get(key)
        if isinstance(value, bytes):
            self.entries[key] = entry = Entry(key, 1, len(value), value)
            if key in self.added:
                self.added[key] = entry
            value = entry
        return value if value is not None and (value.attempt == attempt or not attempt) else None

    def find(self, key: str, attempt: int) -> Entry | bytes | None:
        """The same for who only wants to read: a small value is as good as its entry."""
        value = self.entries.get(key)
        return value if isinstance(value, bytes) and attempt < 2 else self.get(key, attempt)

    def add_small(self, keys: list[str], attempts: list[int], nbytes: list[int], values: list[Any]) -> None:
        """Store small values. The way of most results: together they take 0.2 microseconds each, one alone 0.5."""
        if len(keys) > 1:
            new: dict[str, Entry | bytes] = dict(zip(keys, values, strict=True))
            if (
                attempts.count(1) == len(keys)
                and set(map(type, values)) == {bytes}
                and list(map(len, values)) == nbytes
                and self.entries.keys().isdisjoint(new)
            ):
                self._add_bytes(new, sum(nbytes))
                return
        for key, attempt, size, value in zip(keys, attempts, nbytes, values, strict=True):
            if attempt == 1 and type(value) is bytes and len(value) == size and key not in self.entries:
                self.entries[key] = self.added[key] = value
                self.owners[owner_of(key)] = None
                self.memory_bytes += size
            else:
                self.add_unused(key, attempt, size, value)

    def _add_bytes(self, new: dict[str, Entry | bytes], nbytes: int) -> None:
        first, last = min(new), max(new)
        if (owner := owner_of(first)) == owner_of(last):  # then all between them have it, too
            self.owners[owner] = None
        else:
            self.owners.update(dict.fromkeys(map(owner_of, new)))
        self.memory_bytes += nbytes
        self.entries.update(new)
        if self.added:
            self.added.update(new)
        else:
            self.added = new

    def add(
        self, key: str, attempt: int, nbytes: int, data: bytes | None, path: str = "", replace: bool = False
    ) -> Entry:
        """Store a value. An older attempt than the one here is kept aside, only for whoever uses it."""
        old = self.get(key, 0)
        entry = Entry(key, attempt, nbytes, data)
        if path:
            entry.path, entry.resident = path, not self.moves.is_on_disk(path)
        if old is not None:
            if old.attempt == attempt and not replace:
                if path:
                    self.out.append(Remove(path))
                return old
            if old.attempt > attempt:
                self._account(entry)
                entry.in_table = False
                self._detached[entry] = None
                return entry
            self._detach(old)
        self._account(entry)
        self.entries[key] = self.added[key] = entry
        self.owners[owner_of(key)] = None
        if path and entry.resident:
            self._files[entry] = None
        return entry

    def _account(self, entry: Entry) -> None:
        if entry.resident:
            self.memory_bytes += entry.nbytes
        else:
            self.disk_bytes += entry.nbytes

    def add_unused(
        self, key: str, attempt: int, nbytes: int, data: bytes | None, path: str = "", replace: bool = False
    ) -> None:
        """Store a value that no task here waits for: an older attempt than the one here goes at once."""
        entry = self.add(key, attempt, nbytes, data, path, replace)
        if not entry.in_table:
            self._vacate(entry)

    def add_replica(self, key: str, attempt: int, nbytes: int, data: bytes | None, path: str) -> Entry:
        """Store what was fetched from a peer: others hold it too, its owner does not know yet that we do."""
        known = self.entries.get(key)
        entry = self.add(key, attempt, nbytes, data, path)
        if entry is not known and entry.in_table:
            entry.replica, entry.announced = True, False
            self._files.pop(entry, None)
            if entry.resident:
                self._replicas[entry] = None
        return entry

    def add_nameless(self, nbytes: int, path: str, uses: int) -> Entry:
        """A value without a key, in a file, which has so many users from the beginning and goes with the last one."""
        entry = Entry("", 0, nbytes, None)
        entry.path, entry.resident = path, not self.moves.is_on_disk(path)
        entry.uses = entry.given = uses
        entry.in_table = False
        self._account(entry)
        self._detached[entry] = None
        return entry

    def file_in_memory(self, entry: Entry) -> None:
        """A value came back from disk: it may go again."""
        if entry.in_table:
            order = self._replicas if entry.replica else self._files
            order[entry] = None

    def keep(self, entry: Entry) -> None:
        """A replica is as good as a value that was made here: it may be spilled, and is not dropped to make room."""
        if entry.replica:
            entry.replica, entry.announced = False, True
            if entry in self._replicas:
                del self._replicas[entry]
                if entry.path and entry.resident:
                    self._files[entry] = None

    def discard(self, key: str) -> None:
        """Another worker has this instead, and names keep it there; or it is lost, and nothing can keep it."""
        entry = self.get(key, 0)
        if entry is not None:
            self._detach(entry)

    def delete(self, keys: list[str], attempts: Sequence[int] = ()) -> None:
        """Drop these keys; pinned ones go when their last name does. With `attempts`, only what is of that attempt."""
        if attempts:
            keys = [key for key, attempt in zip(keys, attempts, strict=True) if self._is_attempt(key, attempt)]
        if self.pins and not self.pins.keys().isdisjoint(keys):
            keys = [key for key in keys if not self._release(key)]
        gone = list(map(self.entries.pop, keys, repeat(None)))
        if set(map(type, gone)) == {bytes}:
            self._forget_small(keys, gone)  # type: ignore[arg-type]
            return
        small = {key: value for key, value in zip(keys, gone, strict=True) if isinstance(value, bytes)}
        self._forget_small(list(small), list(small.values()))
        were_here = {key for key, entry in zip(keys, gone, strict=True) if entry is not None}
        for key, entry in zip(keys, gone, strict=True):
            if isinstance(entry, Entry):
                self._struck(entry)
            elif entry is None and key not in were_here and owner_of(key):
                self.unborn[key] = None
        while len(self.unborn) > SETTINGS.unborn_keys_max:
            self.unborn.popitem(last=False)

    def _is_attempt(self, key: str, attempt: int) -> bool:
        """Whether no other attempt (0: of any) is here. What is put, and may not have come yet, is a first one."""
        value = self.entries.get(key)
        if value is None:
            return attempt < 2
        return not attempt or attempt == (value.attempt if isinstance(value, Entry) else 1)

    def _release(self, key: str) -> bool:
        """Note that the owner does not want this any more; whether a name keeps it here."""
        entry = self.get(key, 0) if key in self.pins else None
        if entry is None or not self.is_pinned(entry):
            return False
        entry.released = True
        return True

    def is_pinned(self, entry: Entry) -> bool:
        """Whether a name keeps it: what was published, and not another attempt that came too late."""
        return entry.key in self.pins and self.pinned.get(entry.key, entry.attempt) == entry.attempt

    def _forget_small(self, keys: list[str], values: list[bytes]) -> None:
        """Small values are out of the table, and nobody can need them there."""
        self.memory_bytes -= sum(map(len, values))
        added = self.added
        if added and not added.keys().isdisjoint(keys):
            keys = [key for key in keys if added.pop(key, None) is None]
        if keys:
            self.removed.update(dict.fromkeys(keys))

    def is_unborn(self, key: str) -> bool:
        """Whether a value that is being put was deleted before it came: its writer gave up half-way. Asked once."""
        return self.unborn.pop(key, self) is not self

    def held_of(self, owner: str) -> list[list[Any]]:
        """The keys of an owner that are here, each with its attempt, for the owner: it counts on them from now on."""
        held = []
        for key in self._keys_of(owner):
            value = self.entries[key]
            if isinstance(value, Entry):
                value.announced = True
            held.append([key, 1 if isinstance(value, bytes) else value.attempt])
        return held

    def _keys_of(self, owner: str) -> list[str]:
        """A look at all keys, now and then, costs less than an index that follows each of them."""
        if owner not in self.owners:
            return []
        prefix = owner + "/"
        keys = [key for key in self.entries if key.startswith(prefix)]
        if not keys:
            del self.owners[owner]
        return keys

    def forget_owner(self, owner: str) -> None:
        """Drop every key of a client that is gone for good, or starts afresh."""
        if owner:
            self.delete(self._keys_of(owner))

    def pin(self, name: str, key: str, keys: dict[str, int]) -> None:
        """Keep these keys, of these attempts (0: of any), while they are published under `name`."""
        before = self.published.get(name, {})
        self.names[name] = key
        self.published[name] = kept = {key: 0, **keys}
        for kept_key, attempt in kept.items():
            self.pins[kept_key] = self.pins.get(kept_key, 0) + 1
            if attempt:
                self.pinned[kept_key] = attempt
        self._unkeep(before, {owner_of(known) for known in before})

    def unpin(self, name: str, living: Iterable[str]) -> None:
        """A name is gone. Keys that their owner released, or whose owner is not among the `living`, go too."""
        self.names.pop(name, None)
        self._unkeep(self.published.pop(name, {}), {*living, ""})

    def _unkeep(self, keys: Iterable[str], living: set[str]) -> None:
        for key in keys:
            self.pins[key] -= 1
            if self.pins[key]:
                continue
            del self.pins[key]
            self.pinned.pop(key, None)
            entry = self.get(key, 0)
            if entry is None:
                continue
            if entry.released or owner_of(key) not in living:
                self._detach(entry)
            elif not entry.uses:
                self._unused(entry)

    def snapshot(self) -> tuple[list[str], list[int], list[int]]:
        """Everything in the table as columns; what was waiting to be reported is part of it."""
        self.added, self.removed = {}, {}
        return columns(self.entries)

    # ------------------------------------------------------------------------------------------------------ users

    def use(self, entry: Entry) -> None:
        """A task needs this entry: its value stays until `let_go`."""
        entry.uses += 1
        for order in (self._files, self._replicas):
            if entry in order:
                del order[entry]
                order[entry] = None

    def let_go(self, entry: Entry) -> None:
        """A task needs this entry no longer."""
        entry.uses -= 1
        if not entry.resident:
            self.moves.used[entry] = None
        if not entry.uses:
            self._unused(entry)

    def put_down(self, entry: Entry) -> None:
        """An executor has this entry no longer (`given` was counted up by who gave it)."""
        entry.given -= 1
        if not entry.given and entry.old_path:
            self.out.append(Remove(entry.old_path))
            entry.old_path = ""

    def _unused(self, entry: Entry) -> None:
        if not entry.in_table:
            self._vacate(entry)
        elif entry.replica and not entry.announced and not self.is_pinned(entry):
            self._detach(entry)  # nobody who could release it knows that it is here

    def _detach(self, entry: Entry) -> None:
        """Take an entry out of the table, and out of the store unless somebody still needs it."""
        del self.entries[entry.key]
        self._struck(entry)

    def _struck(self, entry: Entry) -> None:
        """It is out of the table."""
        if self.added.pop(entry.key, None) is None:
            self.removed[entry.key] = None
        entry.in_table = False
        if entry.path or entry.replica:
            self._files.pop(entry, None)
            self._replicas.pop(entry, None)
        if entry.uses:
            self._detached[entry] = None
        else:
            self._vacate(entry)

    def _vacate(self, entry: Entry) -> None:
        """Nobody needs this entry: give back its bytes. A copy to disk that is under way is dropped when it comes."""
        self._detached.pop(entry, None)
        if entry.resident:
            self.memory_bytes -= entry.nbytes
        else:
            self.disk_bytes -= entry.nbytes
        self.moves.forget(entry)
        if entry.path:
            self.out.append(Remove(entry.path))

    # ----------------------------------------------------------------------------------------------------- memory

    def fits(self, nbytes: int) -> bool:
        """Whether that much can be added now."""
        return self.memory_bytes + self.reserved_bytes + nbytes <= self.memory_limit

    def make_room(self, nbytes: int) -> bool:
        """Drop replicas and start spilling until `nbytes` fit; whether they do already."""
        if self.fits(nbytes):
            return True
        self._evict(nbytes)
        if self.fits(nbytes):
            return True
        self.moves.spill(self.memory_bytes + self.reserved_bytes + nbytes - self.memory_limit)
        return False

    def _evict(self, nbytes: int) -> None:
        """Drop replicas until `nbytes` fit. Their owners count on those that they were told of, and are told now."""
        told: dict[str, Evicted] = {}
        for entry in [entry for entry in self._replicas if not entry.uses and not self.is_pinned(entry)]:
            if self.fits(nbytes):
                break
            self._detach(entry)
            if entry.announced:
                evicted = told.setdefault(owner_of(entry.key), Evicted([], []))
                evicted.keys.append(entry.key)
                evicted.attempts.append(entry.attempt)
        self.out += [Send(owner, evicted) for owner, evicted in told.items()]

    # -------------------------------------------------------------------------------------------------- invariants

    def all_entries(self) -> Iterator[Entry]:
        """Everything that takes up room and is more than a small value, in the table or not."""
        yield from (entry for entry in self.entries.values() if isinstance(entry, Entry))
        yield from self._detached

    def check(self) -> None:
        """Byte accounts equal content; every index agrees with the table."""
        everything = list(self.all_entries())
        small = [value for value in self.entries.values() if isinstance(value, bytes)]
        here = sum(map(len, small)) + sum(e.nbytes for e in everything if e.resident)
        assert self.memory_bytes == here, "memory account"
        assert self.disk_bytes == sum(e.nbytes for e in everything if not e.resident), "disk account"
        self.moves.check(everything)
        assert self.reserved_bytes >= 0
        assert set(map(owner_of, self.entries)) <= self.owners.keys()
        assert all(e.in_table and e.key == key for key, e in self.entries.items() if isinstance(e, Entry))
        assert all(not e.in_table and e.uses for e in self._detached), "a detached entry that nobody uses"
        assert all(e.in_table and e.resident for e in self._replicas)
        assert all(0 <= e.given <= e.uses for e in everything)
        assert all(self.entries[key] is entry for key, entry in self.added.items())
        counted: dict[str, int] = {}
        for keys in self.published.values():
            for key in keys:
                counted[key] = counted.get(key, 0) + 1
        assert (counted, set(self.names)) == (self.pins, set(self.published))
        assert self.pinned.keys() <= self.pins.keys()


def columns(values: dict[str, Entry | bytes]) -> tuple[list[str], list[int], list[int]]:
    """Keys, attempts and sizes, as they are told to the center."""
    keys = list(values)
    try:
        return keys, [1] * len(keys), list(map(len, values.values()))  # type: ignore[arg-type]  # mostly, and faster
    except TypeError:  # there are entries among them
        pass
    attempts = [1 if isinstance(v, bytes) else v.attempt for v in values.values()]
    return keys, attempts, [len(v) if isinstance(v, bytes) else v.nbytes for v in values.values()]
