"""Values on their way between memory and disk: which go, which come back, and what that does to the store's accounts.

A large value is a file in memory or a file in the spill directory, and can be read in place in either. When memory is
wanted those used longest ago are copied to disk (`Spill`). One on disk that was used, and is still wanted a moment
later, is copied back (`Load`), but only while memory is far from full: so nothing goes to and fro, and what is used for
the last time stays where it is. A copy that is under way ends in one event, and is dropped then if its value went
meanwhile. The old file stays as long as an executor that was given it runs.

Knows no disk: where a file is, is told by its path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distributed.config import SETTINGS
from distributed.worker.events import Load, Remove, Spill

if TYPE_CHECKING:
    from distributed.worker.store import Entry, Store


class Moves:
    """Copies under way, in either direction, of one store's values."""

    def __init__(self, store: Store, spill_directory: str) -> None:
        self.store, self.out = store, store.out
        self.spill_directory = spill_directory  # '': there is none
        self.refused = ""  # why spilling did not work last time
        self.spilling_bytes = 0  # of values that leave memory
        self.spilled_bytes = self.returned_bytes = 0  # of all that ever moved, for people
        self.files: dict[Entry, None] = {}  # values in memory files, the one used longest ago first
        self.used: dict[Entry, None] = {}  # on disk, and used since the last time that `bring_back` looked
        self._spills: dict[int, Entry] = {}
        self._loads: dict[int, Entry] = {}
        self._tickets = 0

    @property
    def can_spill(self) -> bool:
        """Whether there is a directory, and it took something the last time."""
        return bool(self.spill_directory) and not self.refused

    def is_on_disk(self, path: str) -> bool:
        """Where a file is."""
        return bool(self.spill_directory) and path.startswith(self.spill_directory + "/")

    def forget(self, entry: Entry) -> None:
        """This value is gone; a copy that is under way is dropped when it comes."""
        self.used.pop(entry, None)
        if entry.moving == "to disk":
            self.spilling_bytes -= entry.nbytes
        entry.moving = ""

    # ---------------------------------------------------------------------------------------------------- to disk

    def spill(self, excess: int) -> None:
        """Begin to copy values until so many bytes are on their way."""
        if not self.can_spill:
            return
        for entry in self.files:
            if self.spilling_bytes >= excess:
                return
            if not (entry.moving or entry.given):
                self._tickets += 1
                self._spills[self._tickets] = entry
                entry.moving = "to disk"
                self.spilling_bytes += entry.nbytes
                self.out.append(Spill(self._tickets, entry.path))

    def spilled(self, ticket: int, path: str) -> None:
        """The copy on disk is the value now; the file in memory stays as long as a given task reads it."""
        entry = self.spill_ended(ticket)
        if entry is None:
            self.out.append(Remove(path))
            return
        self.spilled_bytes += entry.nbytes
        self.store.memory_bytes -= entry.nbytes
        self.store.disk_bytes += entry.nbytes
        self.files.pop(entry, None)
        entry.resident = False
        self._replace(entry, path)

    def spill_failed(self, ticket: int, reason: str) -> None:
        """Disk full, or there is none: nothing more is spilled for a while."""
        if self.spill_ended(ticket) is not None:
            self.refused = reason

    def forgive(self) -> None:
        """The while is over."""
        self.refused = ""

    def spill_ended(self, ticket: int) -> Entry | None:
        """A value is not on its way any more; None if it was dropped meanwhile."""
        entry = self._spills.pop(ticket)
        if not entry.moving:
            return None
        entry.moving = ""
        self.spilling_bytes -= entry.nbytes
        return entry

    def _replace(self, entry: Entry, path: str) -> None:
        old, entry.path = entry.path, path
        if entry.given:
            entry.old_path = old
        else:
            self.out.append(Remove(old))

    # ------------------------------------------------------------------------------------------------------- back

    def bring_back(self) -> None:
        """Copy back what was used and is still wanted, as far as memory stays well below its limit."""
        store = self.store
        room = int(store.memory_limit * SETTINGS.return_fraction) - store.memory_bytes - store.reserved_bytes
        for entry in self.used:
            if entry.nbytes <= room and not (entry.moving or entry.old_path):
                room -= entry.nbytes
                self._tickets += 1
                self._loads[self._tickets] = entry
                entry.moving = "to memory"
                store.reserved_bytes += entry.nbytes
                self.out.append(Load(self._tickets, entry.path))
        self.used.clear()

    def loaded(self, ticket: int, path: str) -> None:
        """The copy in memory is the value now."""
        entry = self._loads.pop(ticket)
        self.store.reserved_bytes -= entry.nbytes
        if not entry.moving:
            self.out.append(Remove(path))
            return
        entry.moving = ""
        self.used.pop(entry, None)
        self.returned_bytes += entry.nbytes
        self.store.disk_bytes -= entry.nbytes
        self.store.memory_bytes += entry.nbytes
        entry.resident = True
        self.store.file_in_memory(entry)
        self._replace(entry, path)

    def load_failed(self, ticket: int) -> None:
        """It stays where it is, and can be read there."""
        entry = self._loads.pop(ticket)
        self.store.reserved_bytes -= entry.nbytes
        entry.moving = ""

    def loading_bytes(self) -> int:
        """Room that is reserved for what comes back."""
        return sum(entry.nbytes for entry in self._loads.values())

    # -------------------------------------------------------------------------------------------------- invariants

    def check(self, everything: list[Entry]) -> None:
        """What is on its way is in one of the tables; only what is on disk comes back."""
        leaving = [entry for entry in self._spills.values() if entry.moving]
        coming = [entry for entry in self._loads.values() if entry.moving]
        assert {e.moving for e in leaving} <= {"to disk"}
        assert {e.moving for e in coming} <= {"to memory"}
        assert sorted(map(id, leaving + coming)) == sorted(id(e) for e in everything if e.moving), "what moves"
        assert self.spilling_bytes == sum(e.nbytes for e in leaving), "spilling account"
        assert all(e.resident for e in leaving) and not any(e.resident for e in coming)
        assert all(e.in_table and e.resident for e in self.files)
        assert not any(e.resident for e in self.used)
        for entry in everything:
            assert not entry.path or self.is_on_disk(entry.path) != entry.resident, f"{entry} is not where it should be"
            assert entry.given or not entry.old_path
