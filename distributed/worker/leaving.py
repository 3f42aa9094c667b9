"""How a worker leaves: tasks go back, running ones end, and what only it holds is handed over before it goes.

::

    value ─offered to its owner─▶ not needed: deleted
       │                        └▶ kept ──┐
       └─ nobody owns it, its owner is ───┴▶ handed to the center ─▶ another worker has it ─▶ deleted by its owner,
          away, or has released it                   ▲     │          or here, if there is nobody to wait for
          and a name keeps it                        └─────┴▶ nobody has room: again after `drain_retry_s`

So the table of values empties, and when no task is left either the worker goes. It waits no longer than
`drain_timeout_s`; then the tasks that still run are stopped and run elsewhere, free of charge, and it says what it
left.
Alone in the cluster it hands over nothing, and says so; but others may need a moment to find a center that was started
again, up to `drain_center_s`. Knows neither sockets nor who the others are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from distributed.key import owner_of
from distributed.quantities import count, size
from distributed.wire import messages as m
from distributed.worker.events import Leave, Say, Send, ToCenter
from distributed.worker.store import Entry

if TYPE_CHECKING:
    from distributed.worker.state import WorkerState

LOOK_S_PER_VALUE = 3e-6  # from look to look: one takes a third of that, and others want the loop, too


class Departure:
    """What a worker that leaves has done about each of its values and tasks. Lives until the worker ends."""

    def __init__(self, state: WorkerState, now: float) -> None:
        self.state, self.store, self.settings = state, state.store, state.settings
        self.out: list[Any] = state.out
        self.began_s = now
        self.is_over = False  # its time, not its work
        self.is_gone = False
        self.is_alone = self.has_announced = False
        self.cut_off_s: float | None = None if state.reports.is_connected else now  # since when the center is away
        self.told: dict[str, None] = {}  # clients that know
        self.offered: dict[str, None] = {}  # keys that their owner has been asked about,
        self.kept: dict[str, None] = {}  # or needs,
        self.handing: dict[str, tuple[int, int]] = {}  # or the center has been asked about: attempt, nbytes
        self.handed: dict[str, int] = {}  # that another worker has: attempt
        self.reminded_s = now  # when owners were last asked about those
        self.refused: dict[str, float] = {}  # that nobody had room for; when to ask again
        self.refusal = ""
        self.handed_count = self.handed_bytes = 0
        self._is_set = False

    def begin(self) -> None:
        """Tell everybody, and give back what has not begun."""
        state = self.state
        tasks, values = len(state.tasks), len(self.store.entries)
        self.has_announced = bool(tasks or values)
        if self.has_announced:
            what = f"{count(tasks, 'task')} to end or give back, {count(values, 'value')} to look after"
            self.out.append(Say(f"leaving: {what}; a second signal ends it at once"))
        state.alarms.set(self.began_s + self.settings.drain_timeout_s, self.end_time)
        if state.reports.is_connected:
            self.out.append(ToCenter(m.Leaving()))
        self._tell_clients()
        self.give_back(self.began_s)
        self.look(self.began_s)

    def absorb(self, now: float) -> None:
        """Something happened: see to it soon, and to what must not wait at once."""
        if not self.is_gone:
            self.give_back(now)
            if not self._is_set:
                self._is_set = True
                pause_s = max(self.settings.drain_interval_s, LOOK_S_PER_VALUE * len(self.store.entries))
                self.state.alarms.set(now + pause_s, self.look)

    # --------------------------------------------------------------------------------------------------------- tasks

    def give_back(self, now: float) -> None:
        """Whatever no executor has goes back to where it came from; no attempt of it was used up."""
        recalled: dict[str, m.Recalled] = {}
        for order in dict.fromkeys(self.state.tasks.values()):
            parts = [part for part in order.parts if not part.serial]
            for part in parts:
                back = recalled.setdefault(order.client, m.Recalled([], []))
                back.keys += part.keys
                back.attempts += part.attempts
            self.state.endings.drop_all(parts, now)
        self.out += [Send(client, back) for client, back in recalled.items()]

    def end_time(self, now: float) -> None:
        """It took too long: what runs is stopped, and goes back as well."""
        if not self.is_over:
            self.is_over = True
            self.state.dispatch.stopping.stop_all("the worker left, and did not wait for it any longer")
            self.state.alarms.set(now + self.settings.drain_kill_s, self.end_time)
            self.absorb(now)
        elif not self.is_gone:
            self._leave(now)

    # -------------------------------------------------------------------------------------------------------- values

    def attached(self, client: str) -> None:
        """A pool is here (again): it has not been asked anything."""
        self.told.pop(client, None)
        for table in (self.offered, self.kept):
            for key in [key for key in table if owner_of(key) == client]:
                del table[key]

    def center_lost(self, now: float) -> None:
        """What it was asked it has forgotten."""
        self.cut_off_s = now
        self.handing.clear()

    def center_found(self) -> None:
        """It is asked again."""
        self.cut_off_s = None

    def keep(self, keys: list[str]) -> None:
        """The owner needs these."""
        self.kept.update(dict.fromkeys(keys))
        for key in keys:
            self.offered.pop(key, None)

    def handed_over(self, message: m.HandedOver, now: float) -> None:
        """The center says what became of what it was asked."""
        for key in message.keys:
            attempt, nbytes = self.handing.pop(key, (0, 0))
            if attempt:
                self.handed[key] = attempt
                self.handed_count += 1
                self.handed_bytes += nbytes
        for key in message.refused:
            if self.handing.pop(key, None) is not None:
                self.refused[key] = now + self.settings.drain_retry_s
        self.is_alone, self.refusal = not message.others, message.reason

    def look(self, now: float) -> None:
        """What else is there to ask, and whether all is done."""
        self._is_set = False
        if self.is_gone:
            return
        self._tell_clients()
        left = self._see_to_values(now)
        is_hopeless = self.is_alone and not self._may_others_come(now) and all(key in self.refused for key in left)
        is_done = self.is_over or not left or is_hopeless
        if (is_done or self.is_cut_off(now)) and not self.state.tasks:
            self._leave(now)
        else:
            self.absorb(now)

    def is_cut_off(self, now: float) -> bool:
        """Whether the center is away for so long that it may never come back."""
        return self.cut_off_s is not None and now >= self.cut_off_s + self.settings.drain_center_s

    def _may_others_come(self, now: float) -> bool:
        """Whether the center may have been started again, and others are still on their way to it, as we were."""
        return now < self.state.reports.renewed_s + self.settings.drain_center_s

    def _tell_clients(self) -> None:
        for client in self.state.attached:
            if client not in self.told:
                self.told[client] = None
                self.out.append(Send(client, m.Leaving()))

    def _see_to_values(self, now: float) -> list[str]:
        """Offer what an owner may need, hand what is needed to the center; returns the keys that are still here."""
        offers: dict[str, list[str]] = {}
        handing: list[str] = []
        gone: list[str] = []
        reminders: dict[str, list[str]] = {}
        here: list[str] = []
        for key, value in self.store.entries.items():
            entry = value if isinstance(value, Entry) else None
            if entry is not None and self._is_cache(entry):
                continue  # it goes with the task that reads it
            here.append(key)
            owner = owner_of(key)
            asks = owner in self.state.attached and not (entry is not None and entry.released)
            if self.handed.get(key) == self._named(key)[0]:
                if not asks:
                    gone.append(key)
                else:
                    reminders.setdefault(owner, []).append(key)
            elif key in self.handing or now < self.refused.get(key, 0.0):
                continue
            elif not asks or key in self.kept:
                handing.append(key)
            elif key not in self.offered:
                offers.setdefault(owner, []).append(key)
        for key in gone:
            self.store.discard(key)
        for owner, keys in offers.items():
            self._offer(owner, keys)
        if handing and self.state.reports.is_connected:
            self._hand_over(handing)
        if now >= self.reminded_s + self.settings.drain_retry_s:
            self.reminded_s = now
            for owner, keys in reminders.items():
                self._offer(owner, keys, handed=True)
        return here

    def _offer(self, owner: str, keys: list[str], handed: bool = False) -> None:
        self.offered.update(dict.fromkeys(keys))
        for some in self._in_parts(keys):
            self.out.append(Send(owner, m.Offer(some, [self._named(key)[0] for key in some], handed)))

    def _hand_over(self, keys: list[str]) -> None:
        self.state.reports.report()  # the center must know who has what before it is asked to change that
        for some in self._in_parts(keys):
            named = [self._named(key) for key in some]
            self.handing.update(zip(some, named, strict=True))
            attempts, nbytes = [attempt for attempt, _ in named], [nbytes for _, nbytes in named]
            self.out.append(ToCenter(m.HandOver(some, attempts, nbytes)))

    def _in_parts(self, keys: list[str]) -> Iterator[list[str]]:
        for start in range(0, len(keys), self.settings.offered_keys_max):
            yield keys[start : start + self.settings.offered_keys_max]

    def _named(self, key: str) -> tuple[int, int]:
        value = self.store.entries[key]
        return (1, len(value)) if isinstance(value, bytes) else (value.attempt, value.nbytes)

    # ----------------------------------------------------------------------------------------------------------- end

    def _leave(self, now: float) -> None:
        self.is_gone = True
        self.out += [Say(line) for line in self._last_words(now)]
        if self.has_announced:
            self.out.append(Say(f"left after {now - self.began_s:.1f} s"))
        self.out.append(Leave())

    def cut_short(self) -> str:
        """What to say when it has to end before all is done, if there is anything to say."""
        values = [key for key in self.store.entries if not self.is_spare(key)]
        if self.is_gone or not (values or self.state.tasks):
            return ""
        nbytes = sum(self._named(key)[1] for key in values)
        left = f"{count(len(self.state.tasks), 'task')} and {count(len(values), 'value')} ({size(nbytes)})"
        return f"ended at once, leaving behind {left}"

    def _last_words(self, now: float) -> list[str]:
        lines = []
        if self.handed_count:
            lines.append(f"handed over {count(self.handed_count, 'value')} ({size(self.handed_bytes)})")
        if left := [key for key in self.store.entries if not self.is_spare(key)]:
            nbytes = sum(self._named(key)[1] for key in left)
            why = "there is no other worker" if self.is_alone else self.refusal or "the time is over"
            why = "the center is away" if self.is_cut_off(now) else why
            lines.append(f"leaving behind {count(len(left), 'value')} ({size(nbytes)}): {why}")
        if self.state.tasks:
            lines.append(f"leaving {count(len(self.state.tasks), 'task')} that did not end in time")
        return lines

    def is_spare(self, key: str) -> bool:
        """Whether nobody misses a value that is here."""
        value = self.store.entries[key]
        return self.handed.get(key) == self._named(key)[0] or (isinstance(value, Entry) and self._is_cache(value))

    def _is_cache(self, entry: Entry) -> bool:
        """Whether nobody but a task here knows of it."""
        return entry.replica and not entry.announced and not self.store.is_pinned(entry)
