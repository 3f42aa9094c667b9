"""The worker's mind: which tasks are here, what they wait for, what was stored, what to tell whom. No I/O of any kind.

One door: `WorkerState.handle(event, now)` absorbs an event and returns the instructions it calls for (both are listed
in :mod:`distributed.worker.events`). A task passes through::

    Compute ─▶ needs code ─▶ fetching ─▶ queued ─▶ given ─▶ Finished / Failed     (drawn in full in `tasks`)

Tasks that were sent together stay together: what happens to hundreds of plain ones is done to whole columns, so that it
costs a few dozen nanoseconds a task. This module joins the others: `intake` sees to what tasks need, `queue` knows
whose turn it is, `dispatch` what the executors have, `endings` what follows from outcomes; `fetches` knows what is on
its way, `store` and `rooms` what is here and what may come, `reports` what the center is told. A message about another
attempt than the one in the table of tasks is ignored; a newer attempt of a key replaces the older one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from distributed.alarms import Alarms
from distributed.config import Settings
from distributed.errors import ProtocolError
from distributed.key import account_of, owner_of
from distributed.wire import messages
from distributed.wire.messages import Member
from distributed.worker import describe, events
from distributed.worker.adoptions import Adoptions
from distributed.worker.dispatch import Dispatch
from distributed.worker.endings import Endings
from distributed.worker.events import WakeAt
from distributed.worker.fetches import Fetches
from distributed.worker.intake import Intake
from distributed.worker.leaving import Departure
from distributed.worker.letters import Letters
from distributed.worker.nesting import Nesting
from distributed.worker.renewal import Renewal
from distributed.worker.reports import Reports
from distributed.worker.rooms import Rooms
from distributed.worker.store import Entry, Store
from distributed.worker.tasks import Order, check_delete, check_told, find
from distributed.worker.view import ExecutorView

WRAPPED = {events.FromClient, events.FromCenter, events.FromExecutor}


class WorkerState:
    """What a worker knows and decides. Attributes may be read by all and are written by `handle` alone."""

    def __init__(self, member: Member, settings: Settings, spill_directory: str = "") -> None:
        self.member, self.settings = member, settings
        self.out: list[Any] = []
        self.alarms = Alarms()
        self.tasks: dict[str, Order] = {}  # what is neither done nor dropped; which part it is in the order knows
        self.store = Store(member.memory_limit, self.out, spill_directory)
        self.rooms = Rooms(self.store, self.out, settings)
        self.fetches = Fetches(settings, self.store, member.address, self.out)
        self.dispatch = Dispatch(member, settings, self.alarms, self.store, lambda *how: self.endings.fail(*how))
        self.reports = Reports(member, settings, self.store, self.alarms, lambda: describe.load(self))
        self.adoptions = Adoptions(settings, self.store, self.fetches)
        self.renewal = Renewal(self.dispatch)
        self.letters = Letters(partial(find, self.tasks), self.store, self.rooms, settings)
        self.endings = Endings(
            member, self.tasks, dispatch=self.dispatch, fetches=self.fetches, rooms=self.rooms, letters=self.letters
        )
        self.intake = Intake(
            member,
            self.tasks,
            dispatch=self.dispatch,
            fetches=self.fetches,
            adoptions=self.adoptions,
            endings=self.endings,
        )
        self.nesting = Nesting(self.dispatch, self.endings.fail)
        self.departure: Departure | None = None  # when it was asked to leave
        self.attached: dict[str, None] = {}  # clients that are connected
        self.absent: dict[str, float] = {}  # clients whose connection broke, and when
        self._now = 0.0
        self._rings: set[str] = set()  # alarms of which one at a time is enough
        self._wake_at_s = math.inf
        self._handlers: dict[type, Callable[[Any], None]] = {
            events.ClientDisconnected: self._on_client_disconnected,
            events.CenterConnected: lambda event: self._on_center_connected(),
            events.CenterLost: lambda event: self._on_center_lost(),
            events.LeaveAsked: self._on_leave_asked,
            events.ExecutorStarted: lambda event: self.dispatch.on_started(event, self._now),
            events.ExecutorEnded: self._on_executor_ended,
            events.Running: self._on_running,
            events.RoomWanted: lambda event: self.rooms.ask(("writer", event.writer), event.nbytes, self._now),
            events.RoomAbandoned: lambda event: self.rooms.abandon(event.path),
            events.Allocated: lambda event: self.rooms.allocated(event.ticket, event.path),
            events.AllocationFailed: self._on_allocation_failed,
            events.Put: self._on_put,
            events.Posted: self.letters.posted,
            events.Fetched: self.intake.fetched,
            events.FetchFailed: self.intake.fetch_failed,
            events.Spilled: lambda event: self.store.moves.spilled(event.ticket, event.path),
            events.SpillFailed: self._on_spill_failed,
            events.Loaded: lambda event: self.store.moves.loaded(event.ticket, event.path),
            events.LoadFailed: lambda event: self.store.moves.load_failed(event.ticket),
            events.Tick: self._on_tick,
            messages.Compute: lambda event: self.intake.compute(event.client, event.message, self._now),
            messages.DefineFunction: lambda event: self.intake.define(event.message.function, event.message.code),
            messages.Cancel: self._cancel,
            messages.Recall: lambda event: self.endings.give_back(event.client, event.message.count),
            messages.Attach: self._attach,
            messages.Keep: self._keep,
            messages.Hold: self._hold,
            messages.Restart: lambda event: self.renewal.begin(event.client, event.message.number),
            messages.Adopt: self._adopt,
            messages.HandedOver: self._handed_over,
            messages.DeleteData: self._delete_data,
            messages.OwnerLeft: self._owner_left,
            messages.Pin: self._pin,
            messages.Unpin: lambda event: self.store.unpin(event.message.name, event.message.owners),
            messages.WorkerLeft: lambda event: self.intake.missing(self.fetches.peer_left(event.message.address)),
            messages.Outcomes: lambda event: self.endings.outcomes(event.message, event.executor, self._now),
            messages.NeedRoom: self._need_room,
            messages.FromTask: self.nesting.from_task,
            messages.TellTask: self.nesting.to_task,
            messages.Blocked: lambda event: self.nesting.blocked(event, self._now),
            messages.TellGroup: self._tell_group,
            messages.LettersRead: self.letters.read,
        }

    def start(self) -> list[Any]:
        """The first instructions: as many executors as there are cores."""
        for _ in range(self.member.ncores):
            self.dispatch.spawn()
        return self._take_out()

    def handle(self, event: Any, now: float) -> list[Any]:
        """Absorb one event; return the instructions it calls for."""
        self._now = now
        kind = type(event)
        if kind in WRAPPED:
            kind = type(event.message)
        self._handlers[kind](event)
        # whatever it was: use the room and the executors that are free now, and set the clock
        store, dispatch = self.store, self.dispatch
        if store.memory_bytes + store.reserved_bytes > store.memory_limit:
            store.make_room(0)
        if self.rooms.wanted:
            self.rooms.pump(now, self._must_yield())
            self._ring_once("room", self.settings.spill_retry_s)
        while self.fetches.pending and (hopeless := self.fetches.pump(self._will_go())):
            self.intake.hopeless(hopeless)
        if self.adoptions.open:
            self.adoptions.pump()
        if self.departure is not None:
            self.departure.absorb(now)
        if store.moves.used:
            self._ring_once("return", self.settings.return_pause_s, store.moves.bring_back)
        if dispatch.supplies.is_due:
            dispatch.admit()
        if dispatch.seats.waiting:
            dispatch.seats.fill(now)
        if dispatch.queue.live or dispatch.coroutines.live:
            dispatch.fill(now)
        if not self.reports.is_due and (store.added or store.removed):
            self.reports.plan(now)
        if self.alarms.next_s < self._wake_at_s:
            self._wake_at_s = self.alarms.next_s
            self.out.append(WakeAt(self._wake_at_s))
        return self._take_out()

    def _ring_once(self, kind: str, after_s: float, action: Callable[[], None] = lambda: None) -> None:
        if kind in self._rings:
            return

        def ring(now: float) -> None:
            self._rings.discard(kind)
            action()

        self._rings.add(kind)
        self.alarms.set(self._now + after_s, ring)

    def _will_go(self) -> bool:
        """Whether tasks run, or are about to, and will let their inputs go: those that wait for room do not count."""
        dispatch = self.dispatch
        if dispatch.queue.live or dispatch.coroutines.live:
            return True
        return any(executor.given and not self._is_blocked(executor) for executor in dispatch.executors.values())

    def _must_yield(self) -> bool:
        """Whether everything here waits for room, and something could go on if one that waits did not."""
        dispatch = self.dispatch
        busy = [executor for executor in dispatch.executors.values() if executor.given]
        if not all(map(self._is_blocked, busy)):
            return False
        return len(busy) > 1 or bool(dispatch.queue.live or dispatch.coroutines.live or self.fetches.pending)

    def _is_blocked(self, executor: ExecutorView) -> bool:
        """Whether all that an executor was given waits for room, or for tasks; a plain one does one thing at a time."""
        if executor.waits_for_others:
            return True
        waiting = self.rooms.blocked.get(("executor", executor.number))
        return bool(waiting) and (not executor.asynchronous or len(waiting or ()) >= executor.count)

    def _take_out(self) -> list[Any]:
        out = self.out[:]
        self.out.clear()
        return out

    # ------------------------------------------------------------------------------------------- messages of pools

    def _attach(self, event: events.FromClient) -> None:
        """A pool's connection begins: tasks of an older one stop. What is stored stays; the pool tells what may go."""
        self.attached[event.client] = None
        self.absent.pop(event.client, None)
        self._stop_tasks(event.client)
        if self.departure is not None:
            self.departure.attached(event.client)

    def _cancel(self, event: events.FromClient) -> None:
        message: messages.Cancel = event.message  # type: ignore[assignment]
        self.endings.drop(zip(message.keys, message.attempts, strict=True), self._now)

    def _tell_group(self, event: events.FromClient) -> None:
        check_told(event.message)  # type: ignore[arg-type]
        self.letters.tell(event)

    # ------------------------------------------------------------------------------------------------- executors

    def _need_room(self, event: events.FromExecutor) -> None:
        if event.executor in self.dispatch.executors:  # else: last words of one that was buried already
            self.rooms.ask(("executor", event.executor), event.message.nbytes, self._now)  # type: ignore[attr-defined]

    def _on_running(self, event: events.Running) -> None:
        if ("executor", event.executor) in self.rooms.blocked:  # to wait for room is not to run: no time is up yet
            event.started_s = self._now
        self.dispatch.stopping.on_running(event, self._now)

    def _on_executor_ended(self, event: events.ExecutorEnded) -> None:
        self.rooms.requester_gone(("executor", event.executor))
        why_not_started = self.dispatch.on_ended(event, self._now)
        if why_not_started:
            self.nesting.on_bad_start(why_not_started)
        self.renewal.ended(event.executor)

    # --------------------------------------------------------------------------------------------------- values

    def _delete_data(self, event: events.FromClient) -> None:
        message: messages.DeleteData = event.message  # type: ignore[assignment]
        check_delete(message)
        self.store.delete(message.keys, message.attempts)

    def _hold(self, event: events.FromClient) -> None:
        message: messages.Hold = event.message  # type: ignore[assignment]
        if not len(message.keys) == len(message.attempts) == len(message.values):
            raise ProtocolError("hold: columns of different lengths")
        if any(owner_of(key) != event.client for key in message.keys):
            raise ProtocolError("hold: a key of somebody else's")
        self.store.add_small(message.keys, message.attempts, list(map(len, message.values)), message.values)
        for key in message.keys:
            if isinstance(entry := self.store.entries.get(key), Entry):
                self.store.keep(entry)  # a copy was here, for a task only; now it is what the owner counts on

    def _on_put(self, event: events.Put) -> None:
        for key, nbytes, value, path in zip(event.keys, event.nbytes, event.values, event.paths, strict=True):
            if path:
                self.rooms.filled(path)
            if self.store.is_unborn(key):
                if path:
                    self.out.append(events.Remove(path))
                continue
            if path or key in self.store.entries:
                self.store.add_unused(key, 1, nbytes, None if path else value, path, replace=True)
            else:
                self.store.add_small([key], [1], [nbytes], [value])

    def _on_spill_failed(self, event: events.SpillFailed) -> None:
        if event.is_lost:
            if (entry := self.store.moves.spill_ended(event.ticket)) is not None:
                self.endings.lose(entry)
            return
        self.store.moves.spill_failed(event.ticket, event.reason)
        self._ring_once("spill", self.settings.spill_retry_s, self.store.moves.forgive)

    def _on_allocation_failed(self, event: events.AllocationFailed) -> None:
        self.rooms.allocation_failed(event.ticket, event.reason, self._now)
        if self.store.moves.refused:
            self._ring_once("spill", self.settings.spill_retry_s, self.store.moves.forgive)

    # ------------------------------------------------------------------------------------------- workers that leave

    def _on_leave_asked(self, event: events.LeaveAsked) -> None:
        if self.departure is None:
            self.departure = Departure(self, self._now)
            self.departure.begin()

    def _adopt(self, event: events.FromCenter) -> None:
        message: messages.Adopt = event.message  # type: ignore[assignment]
        columns = {len(message.keys), len(message.attempts), len(message.nbytes)}
        if len(columns) > 1 or min(message.nbytes, default=0) < 0:
            raise ProtocolError("adopt: columns that do not fit together")
        if self.departure is None:
            self.adoptions.begin(message)
        else:
            self.adoptions.refuse_all(message, f"{self.member.address} leaves, too")

    def _keep(self, event: events.FromClient) -> None:
        if self.departure is not None:
            self.departure.keep(event.message.keys)  # type: ignore[attr-defined]

    def _handed_over(self, event: events.FromCenter) -> None:
        if self.departure is not None:
            self.departure.handed_over(event.message, self._now)  # type: ignore[arg-type]

    # ---------------------------------------------------------------------------------------- center and clients

    def _on_center_connected(self) -> None:
        self.reports.connected(self._now, self.departure is not None)
        if self.departure is not None:
            self.departure.center_found()

    def _on_center_lost(self) -> None:
        self.reports.lost()
        if self.departure is not None:
            self.departure.center_lost(self._now)

    def _pin(self, event: events.FromCenter) -> None:
        message: messages.Pin = event.message  # type: ignore[assignment]
        self.store.pin(message.name, message.key, message.keys)
        self.reports.report()  # the center must know what is here before it hears that this name keeps it

    def _on_client_disconnected(self, event: events.ClientDisconnected) -> None:
        self.attached.pop(event.client, None)
        self.renewal.forget(event.client)
        self.absent[event.client] = self._now
        self.alarms.set(self._now + self.settings.closed_client_lease_s, partial(self._end_absence, event.client))

    def _owner_left(self, event: events.FromCenter) -> None:
        """A lease is over. A client that still talks to us only lost the center: it must learn what it lost here."""
        client = event.message.client  # type: ignore[attr-defined]
        self._forget_client(client)
        self.out.append(events.HangUp(client))

    def _forget_client(self, client: str) -> None:
        self.absent.pop(client, None)
        self._stop_tasks(client)
        self.adoptions.forget_owner(client)
        self.store.forget_owner(client)

    def _stop_tasks(self, client: str) -> None:
        orders = [order for order in dict.fromkeys(self.tasks.values()) if order.client == client]
        self.endings.drop_all([part for order in orders for part in order.parts], self._now)
        account = account_of(client)
        if not any(account_of(other) == account for other in self.attached if other != client):
            self.dispatch.queue.forget(account)
            self.dispatch.coroutines.forget(account)

    # ------------------------------------------------------------------------------------------------------ time

    def _on_tick(self, event: events.Tick) -> None:
        self._wake_at_s = math.inf
        self.alarms.ring(self._now)

    def _end_absence(self, client: str, now: float) -> None:
        left = self.absent.get(client)
        if left is not None and now >= left + self.settings.closed_client_lease_s:
            del self.absent[client]
            self._stop_tasks(client)

    # -------------------------------------------------------------------------------------------- for the shell

    def status(self) -> dict[str, Any]:
        """Everything a person may want to know."""
        return describe.status(self)

    def held_of(self, client: str) -> list[list[Any]]:
        """The keys of a client's that are stored here, each with its attempt."""
        return self.store.held_of(client)

    def client_of(self, executor: int, serial: int) -> str:
        """Whose task this is, which an executor runs: what it prints is for them. Else whose it was given last."""
        known = self.dispatch.executors.get(executor)
        if known is None:
            return ""
        part, _ = known.find(serial)
        return part.order.client if part is not None else known.client

    def check(self) -> None:
        """The invariants of a worker; a failure is a bug here, never in the world."""
        describe.check(self)
