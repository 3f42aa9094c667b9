"""Keys that others than their owner ask for: exports, withdrawals, and the requests that wait for a key to appear.

Owns no directory and no leases: it is told what is held and who lives. Pure, as the state it is a part of.

What a waiting `WhoHas` makes of a key::

    put by hand (no owner), and held       -> known: its holders; also for who asks by hand, whatever the key
    exported, and held                     -> known: the holders of the attempt that counts, as its owner says
    withdrawn by its owner                 -> known: the packed exception (b'': it was released)
    not exported, but kept by a name       -> known: its holders
    owner has no lease                     -> lost: absent from the reply
    exported, or put by hand               -> wait, as long as the request says
    owner lives, but never exported it     -> wait, at most `borrow_wait_s`: the export may be under way
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable
from typing import Any

from distributed.config import Settings
from distributed.key import owner_of


@dataclasses.dataclass(slots=True)
class Waiter:
    """One request that waits: for the keys in `missing`, at most until `deadline`."""

    connection: int
    request: int
    keys: list[str]
    missing: set[str]
    patience: float  # until here keys that nobody exported are waited for
    deadline: float
    by_hand: bool = False  # a person or a script: they hear of every copy, whichever attempt it is of

    @property
    def next_time(self) -> float:
        return min(self.patience, self.deadline)


class Borrowing:
    """Exports and withdrawals by owner, waiters by key."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.exported: dict[str, dict[str, int]] = {}  # owner -> its keys, the oldest first, and which attempt counts
        self.withdrawn: dict[str, dict[str, bytes]] = {}
        self.waiters: dict[int, Waiter] = {}
        self.waiting_for: dict[str, dict[int, None]] = {}  # key -> waiters, in order of arrival
        self._last = 0

    # ------------------------------------------------------------------------------------------ what owners say

    def export(self, owner: str, keys: Iterable[str], attempts: Iterable[int]) -> None:
        withdrawn, exported = self.withdrawn.get(owner, {}), self.exported.setdefault(owner, {})
        for key, attempt in zip(keys, attempts, strict=True):
            withdrawn.pop(key, None)
            exported[key] = attempt
        _forget_oldest(exported, self.settings.exported_keys_max)

    def withdraw(self, owner: str, keys: Iterable[str], errors: Iterable[bytes]) -> None:
        withdrawn, exported = self.withdrawn.setdefault(owner, {}), self.exported.get(owner, {})
        for key, error in zip(keys, errors, strict=True):
            withdrawn.pop(key, None)
            withdrawn[key] = error
            exported.pop(key, None)
        _forget_oldest(withdrawn, self.settings.withdrawn_keys_max)

    def forget_exports(self, owner: str) -> None:
        self.exported.pop(owner, None)

    def forget_owner(self, owner: str) -> None:
        self.exported.pop(owner, None)
        self.withdrawn.pop(owner, None)

    def is_exported(self, key: str) -> bool:
        owner = owner_of(key)
        return not owner or key in self.exported.get(owner, ())

    def attempt_of(self, key: str) -> int | None:
        """Which attempt of a key counts: 0: none yet; None: its owner has not said."""
        return self.exported.get(owner_of(key), {}).get(key)

    def error_of(self, key: str) -> bytes | None:
        return self.withdrawn.get(owner_of(key), {}).get(key)

    # ------------------------------------------------------------------------------------------ who waits

    def may_wait(self) -> bool:
        """Whether there is room for one more who waits."""
        return len(self.waiters) < self.settings.borrowers_waiting_max

    def wait(self, waiter: Waiter) -> int:
        self._last += 1
        self.waiters[self._last] = waiter
        for key in waiter.missing:
            self.waiting_for.setdefault(key, {})[self._last] = None
        return self._last

    def wanted(self, keys: Collection[str]) -> list[str]:
        """Those of these keys that somebody waits for."""
        if not self.waiting_for or self.waiting_for.keys().isdisjoint(keys):
            return []
        return [key for key in keys if key in self.waiting_for]

    def found(self, keys: Collection[str], is_known: Callable[[str, Waiter], bool]) -> list[Waiter]:
        """Something is new about these keys: the waiters that wait for nothing more now, which leave."""
        ready = []
        for key in keys:
            for number in list(self.waiting_for.get(key, ())):
                waiter = self.waiters[number]
                if is_known(key, waiter):
                    self._stop_waiting(number, key)
                    if not waiter.missing:
                        ready.append(self.waiters.pop(number))
        return ready

    def give_up(self, number: int, now: float) -> Waiter | None:
        """Time passed for this waiter: it leaves if its time is over, or if all it waits for is beyond patience."""
        waiter = self.waiters.get(number)
        if waiter is None or now < waiter.next_time:
            return None
        if now < waiter.deadline:
            waiter.patience = waiter.deadline
            if any(self.is_exported(key) for key in waiter.missing):
                for key in [key for key in waiter.missing if not self.is_exported(key)]:
                    self._stop_waiting(number, key)
                return None
        return self._leave(number)

    def hopeless(self, is_lost: Callable[[str], bool]) -> list[Waiter]:
        """An owner is gone: the waiters that waited only for keys of which `is_lost` now holds, which leave."""
        for key in [key for key in self.waiting_for if is_lost(key)]:
            for number in list(self.waiting_for[key]):
                self._stop_waiting(number, key)
        return [self._leave(number) for number, waiter in list(self.waiters.items()) if not waiter.missing]

    def forget_connection(self, connection: int) -> None:
        for number in [number for number, waiter in self.waiters.items() if waiter.connection == connection]:
            self._leave(number)

    def _stop_waiting(self, number: int, key: str) -> None:
        self.waiters[number].missing.discard(key)
        self.waiting_for[key].pop(number)
        if not self.waiting_for[key]:
            del self.waiting_for[key]

    def _leave(self, number: int) -> Waiter:
        for key in list(self.waiters[number].missing):
            self._stop_waiting(number, key)
        return self.waiters.pop(number)

    def check(self) -> None:
        """Assert that waiters and their index agree."""
        for number, waiter in self.waiters.items():
            assert waiter.missing, f"waiter {number} waits for nothing"
            assert all(number in self.waiting_for[key] for key in waiter.missing)
        for key, numbers in self.waiting_for.items():
            assert numbers, key
            assert all(key in self.waiters[number].missing for number in numbers), key


def _forget_oldest(table: dict[str, Any], count_max: int) -> None:
    for key in list(itertools.islice(table, max(0, len(table) - count_max))):
        del table[key]
