"""What the center is told, and when: a snapshot when a connection begins, then changes in batches, and the load.

Reads the store; knows no connection. While there is no center nothing is told, and nothing is lost: the next snapshot
holds it all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from distributed.alarms import Alarms
from distributed.config import Settings
from distributed.wire.messages import AddKeys, Member, Register, RemoveKeys, ReportLoad
from distributed.worker.events import ToCenter
from distributed.worker.store import Store, columns


class Reports:
    """The center's share of the instructions."""

    def __init__(
        self, member: Member, settings: Settings, store: Store, alarms: Alarms, load: Callable[[], ReportLoad]
    ):
        self.member, self.settings, self.store, self.alarms, self.load = member, settings, store, alarms, load
        self.out: list[Any] = store.out
        self.is_connected = False
        self._registrations = 0
        self.renewed_s = -math.inf  # when the center was found again
        self.is_due = False

    def connected(self, now: float, is_leaving: bool) -> None:
        """A snapshot of everything; what happens from here on follows as deltas."""
        self.is_connected = True
        keys, attempts, nbytes = self.store.snapshot()
        names, published = dict(self.store.names), dict(self.store.published)
        self.out.append(ToCenter(Register(self.member, keys, attempts, nbytes, names, published, is_leaving)))
        if self._registrations:
            self.renewed_s = now
        self._registrations += 1
        self._report_load_later(self._registrations, now)

    def lost(self) -> None:
        """There is nobody to report to."""
        self.is_connected = False

    def plan(self, now: float) -> None:
        """Something changed: report it, together with what changes until then."""
        if self.is_connected and not self.is_due:
            self.is_due = True
            self.alarms.set(now + self.settings.report_interval_s, lambda now: self.report())

    def report(self) -> None:
        """What was removed first: a key may have been replaced."""
        self.is_due = False
        if not self.is_connected:
            return
        store = self.store
        if store.removed:
            self.out.append(ToCenter(RemoveKeys(list(store.removed))))
        if store.added:
            self.out.append(ToCenter(AddKeys(*columns(store.added))))
        store.added, store.removed = {}, {}

    def _report_load_later(self, registration: int, now: float) -> None:
        """Each registration has one such rhythm."""
        self.alarms.set(now + self.settings.load_interval_s, partial(self._report_load, registration))

    def _report_load(self, registration: int, now: float) -> None:
        if self.is_connected and registration == self._registrations:
            self.out.append(ToCenter(self.load()))
            self._report_load_later(registration, now)
