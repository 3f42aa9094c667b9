"""The worker's mind: which tasks are here, what they wait for, what was stored, what to tell whom. No I/O of any kind.

One door: `WorkerState.handle(event, now)` absorbs an event and returns the instructions it calls for (both are listed
in :mod:`distributed.worker.events`). A task passes through::

    Compute ─▶ needs code ─▶ fetching ─▶ queued ─▶ given ─▶ Finished / Failed     (drawn in full in `tasks`)

Tasks that were sent together stay together: what happens to hundreds of plain ones is done to whole columns, so that it
costs a few dozen nanoseconds a task. This module keeps the table of tasks and joins the others: `queue` knows whose
turn it is, `dispatch` what the executors have, `fetches` what is on its way, `store` and `rooms` what is here and what
may come, `reports` what the center is told. A message about another attempt than the one in the table is ignored; a
newer attempt of a key replaces the older one.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from distributed.alarms import Alarms
from distributed.config import Settings
from distributed.errors import ProtocolError
from distributed.key import account_of, owner_of
from distributed.wire import messages
from distributed.wire.messages import Failed, Finished, Member, NeedFunction
from distributed.worker import describe, events
from distributed.worker.adoptions import Adoption, Adoptions
from distributed.worker.dispatch import Dispatch, Executor
from distributed.worker.events import Send, WakeAt
from distributed.worker.fetches import Fetches, Want
from distributed.worker.leaving import Departure
from distributed.worker.letters import Letters
from distributed.worker.nesting import Nesting
from distributed.worker.renewal import Renewal
from distributed.worker.reports import Reports
from distributed.worker.rooms import Rooms, full
from distributed.worker.store import Entry, Store
from distributed.worker.tasks import (
    Function,
    Functions,
    Order,
    Part,
    check_compute,
    check_delete,
    check_outcomes,
    check_told,
    demand_of,
    stretches,
)

WRAPPED = {events.FromClient, events.FromCenter, events.FromExecutor}


class WorkerState:
    """What a worker knows and decides. Attributes may be read by all and are written by `handle` alone."""

    def __init__(self, member: Member, settings: Settings, spill_directory: str = "") -> None:
        self.member, self.settings = member, settings
        self.out: list[Any] = []
        self.alarms = Alarms()
        self.functions = Functions(settings)
        self.store = Store(member.memory_limit, self.out, spill_directory)
        self.rooms = Rooms(self.store, self.out, settings)
        self.fetches = Fetches(settings, self.store, member.address, self.out)
        self.dispatch = Dispatch(member, settings, self.alarms, self.store, self._fail)
        self.nesting = Nesting(self.dispatch, self._fail)
        self.reports = Reports(member, settings, self.store, self.alarms, lambda: describe.load(self))
        self.adoptions = Adoptions(settings, self.store, self.fetches)
        self.renewal = Renewal(self.dispatch)
        self.letters = Letters(self._find, self.store, self.rooms, settings)
        self.departure: Departure | None = None  # when it was asked to leave
        self.tasks: dict[str, Order] = {}  # what is neither done nor dropped; which part it is in the order knows
        self.attached: dict[str, None] = {}  # clients that are connected
        self.absent: dict[str, float] = {}  # clients whose connection broke, and when
        self.finished = 0
        self._order: Order | None = None  # the last one
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
            events.Fetched: self._on_fetched,
            events.FetchFailed: self._on_fetch_failed,
            events.Spilled: lambda event: self.store.moves.spilled(event.ticket, event.path),
            events.SpillFailed: self._on_spill_failed,
            events.Loaded: lambda event: self.store.moves.loaded(event.ticket, event.path),
            events.LoadFailed: lambda event: self.store.moves.load_failed(event.ticket),
            events.Tick: self._on_tick,
            messages.Compute: self._compute,
            messages.DefineFunction: self._define_function,
            messages.Cancel: self._cancel,
            messages.Recall: self._recall,
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
            messages.WorkerLeft: lambda event: self._missing(self.fetches.peer_left(event.message.address)),
            messages.Outcomes: self._outcomes,
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
            self._hopeless(hopeless)
        if self.adoptions.open:
            self.adoptions.pump()
        if self.departure is not None:
            self.departure.absorb(now)
        if store.moves.used:
            self._ring_once("return", self.settings.return_pause_s, store.moves.bring_back)
        if dispatch.demands.is_due:
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

    def _is_blocked(self, executor: Executor) -> bool:
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

    def _compute(self, event: events.FromClient) -> None:
        message: messages.Compute = event.message  # type: ignore[assignment]
        check_compute(message, self.member)
        function = self.functions.get(message.function, message.once)
        if message.needs:
            function.needs = tuple([self.functions.get(identity, once=False) for identity in message.needs])
        order = self._order
        if order is None or not order.is_like(event.client, function, message):
            how = message.priority, message.timeout_s, message.asynchronous, message.seat, demand_of(message)
            order = Order(event.client, function, *how)
            order.name, order.depth, order.together = message.name, message.depth, message.together
            self._order = order
            if order.together:
                self.dispatch.gangs.orders[order] = None
        keys, attempts, args, inputs = message.keys, message.attempts, message.args, message.inputs
        new = dict.fromkeys(keys, order)
        if len(new) < len(keys) or not self.tasks.keys().isdisjoint(new):
            keys, attempts, args, inputs = self._sift(message)
            new = dict.fromkeys(keys, order)
        self.tasks.update(new)
        parts = order.divide(keys, attempts, args, inputs)
        if message.code:
            self._define(message.function, message.code)
        for identity, code in message.needs.items():
            if code:
                self._define(identity, code)
        if function.code is not None and (not function.needs or not function.lacking()):
            self._admit(parts)
        else:
            function.waiting.update(dict.fromkeys(parts))
            self._ask_for_code(function, event.client)

    def _sift(self, message: messages.Compute) -> tuple[list[str], list[int], list[bytes], dict[int, list]]:
        """The columns without what is here already; older attempts that are here make way for newer ones."""
        here = {
            part.keys[index]: part.attempts[index]
            for part, positions in self._find(message.keys)
            for index in positions
        }
        newest: dict[str, int] = {}
        for position, (key, attempt) in enumerate(zip(message.keys, message.attempts, strict=True)):
            if key in here and attempt <= here[key]:
                continue
            if key not in newest or attempt > message.attempts[newest[key]]:
                newest[key] = position
        self._drop([(key, here[key]) for key in newest if key in here])
        chosen = list(newest.values())
        inputs = {index: message.inputs[n] for index, n in enumerate(chosen) if n in message.inputs}
        keys, attempts = [message.keys[n] for n in chosen], [message.attempts[n] for n in chosen]
        return keys, attempts, [message.args[n] for n in chosen], inputs

    def _admit(self, parts: Iterable[Part]) -> None:
        """Tasks whose code is here: queue what needs nothing else, fetch for the others."""
        for part in parts:
            if part.inputs:
                self._gather(part)
            else:
                self.dispatch.enqueue(part)

    def _gather(self, part: Part) -> None:
        """Tasks need inputs. Where all are small values that are here, they are passed on as they are."""
        ready = [self._small(inputs) for inputs in part.inputs]
        if None not in ready:
            part.ready, part.inputs = ready, ()
            self.dispatch.enqueue(part)
            return
        del part.order.parts[part]
        positions = [position for position, small in enumerate(ready) if small is not None]
        if positions:
            together = part.pick(positions)
            together.ready, together.inputs = [ready[position] for position in positions], ()
            self.dispatch.enqueue(together)
        for single in [part.pick([position]) for position, small in enumerate(ready) if small is None]:
            self._fetch(single)

    def _small(self, inputs: list[Any]) -> list[list[Any]] | None:
        """The inputs of a task as an executor wants them, if that takes neither files nor fetches."""
        small = []
        for key, attempt, _, _, inline in inputs:
            value = self.store.entries.get(key) if inline is None else inline
            if not isinstance(value, bytes) or (inline is None and attempt > 1):
                return None
            small.append([key, value])
        return small

    def _fetch(self, part: Part) -> None:
        """A task needs more than small values that are here: take what is here, and want the rest."""
        part.entries = entries = []
        wanted: list[tuple[str, int, int, list[str]]] = []
        for key, attempt, nbytes, holders, inline in part.inputs[0]:
            entry = self.store.find(key, attempt) if inline is None else inline
            if entry is None:
                wanted.append((key, attempt, nbytes, holders))
            elif isinstance(entry, Entry):
                self.store.use(entry)
            entries.append(entry)
        part.missing = len(wanted)
        if not wanted:
            self.dispatch.enqueue(part)
        missing = [want for item in wanted if (want := self.fetches.want(part, *item)) is not None]
        self._missing(missing)

    def _ask_for_code(self, function: Function, client: str) -> None:
        for lacking in function.lacking():
            lacking.needed_by[function] = None
            if client not in lacking.asked:
                lacking.asked[client] = None
                self.out.append(Send(client, NeedFunction(lacking.identity)))

    def _define_function(self, event: events.FromClient) -> None:
        self._define(event.message.function, event.message.code)  # type: ignore[attr-defined]

    def _define(self, identity: bytes, code: bytes) -> None:
        for defined in self.functions.both(identity):
            self.functions.define(defined, code)
            needed_by, defined.needed_by, defined.asked = defined.needed_by, {}, {}
            for function in needed_by:
                if not function.lacking():
                    waiting, function.waiting = function.waiting, {}
                    self._admit(waiting)

    def _cancel(self, event: events.FromClient) -> None:
        message: messages.Cancel = event.message  # type: ignore[assignment]
        self._drop(zip(message.keys, message.attempts, strict=True))

    def _find(self, keys: Iterable[str]) -> list[tuple[Part, list[int]]]:
        """Where these tasks are, of those that are here: parts and positions."""
        orders: dict[Order, list[str]] = {}
        for key in keys:
            if key in self.tasks:
                orders.setdefault(self.tasks[key], []).append(key)
        return [found for order, some in orders.items() for found in order.find(some)]

    def _drop(self, attempts: Iterable[tuple[str, int]]) -> None:
        """These attempts of tasks are no longer wanted, wherever they are; nobody is told."""
        parts: list[Part] = []
        unwanted = set(attempts)
        for part, found in self._find(key for key, _ in unwanted):
            positions = [n for n in found if (part.keys[n], part.attempts[n]) in unwanted]
            if len(positions) == len(part):
                parts.append(part)
            elif part.serial:
                executor, first = self.dispatch.executors[part.executor], part.serial
                parts += [executor.single_out(first + position) for position in positions]
            elif positions:
                for position in positions:
                    del self.tasks[part.keys[position]]
                part.remove(positions)
                if part.queued:
                    self.dispatch.dropped(part, len(positions))
                    self.dispatch.demands.dropped(part, len(positions))
        self._drop_all(parts)

    def _drop_all(self, parts: list[Part]) -> None:
        """Tasks are no longer wanted, wherever they are; nobody is told."""
        given: list[Part] = []
        for part in parts:
            self._strike(part)
            if part.serial:
                given.append(part)
                continue
            self._take_out_of_line(part)
            self.dispatch.demands.release(part)
            self._let_inputs_go(part, tell=False)
        self.dispatch.cancel(given, self._now)

    def _take_out_of_line(self, part: Part) -> None:
        """Tasks that no executor has will not be given to one, whatever they still wait for."""
        if part.queued:
            part.queued = False
            self.dispatch.dropped(part, len(part))
        part.function.waiting.pop(part, None)
        if part.missing:
            self.fetches.forget_task(part, part.inputs[0])

    def _strike(self, part: Part) -> None:
        """These tasks are done, or will never be: they leave the table."""
        del part.order.parts[part]
        if len(part.keys) == 1:
            del self.tasks[part.keys[0]]
        else:
            deque(map(self.tasks.__delitem__, part.keys), maxlen=0)
        if part.order.together:
            self.dispatch.gangs.ended(part.order)
            self.letters.close(part.keys)

    def _recall(self, event: events.FromClient) -> None:
        recalled = messages.Recalled([], [])
        for part in self.dispatch.take_last(event.client, event.message.count):  # type: ignore[attr-defined]
            self._strike(part)
            self.dispatch.demands.release(part)
            self._let_inputs_go(part, tell=False)
            recalled.keys += reversed(part.keys)
            recalled.attempts += reversed(part.attempts)
        self.out.append(Send(event.client, recalled))

    def _tell_group(self, event: events.FromClient) -> None:
        check_told(event.message)  # type: ignore[arg-type]
        self.letters.tell(event)

    # ---------------------------------------------------------------------------------------------- ends of tasks

    def _need_room(self, event: events.FromExecutor) -> None:
        if event.executor in self.dispatch.executors:  # else: last words of one that was buried already
            self.rooms.ask(("executor", event.executor), event.message.nbytes, self._now)  # type: ignore[attr-defined]

    def _outcomes(self, event: events.FromExecutor) -> None:
        """A batch is done. What ended side by side, as it was given, is dealt with as columns."""
        message: messages.Outcomes = event.message  # type: ignore[assignment]
        check_outcomes(message)
        executor = self.dispatch.executors.get(event.executor)
        if executor is None:  # last words of one that was buried already
            return
        if self.dispatch.waiting:
            self.dispatch.moved_s = self._now
        if executor.waited_s:
            self.nesting.leave_out_waiting(executor, message)
        special = {*message.paths, *message.errors, *message.contains}
        queue = self.dispatch.coroutines if executor.asynchronous else self.dispatch.queue
        reports: dict[str, Finished] = {}
        before = executor.count
        for start, stop in stretches(message.serials, special):
            while start < stop:
                part = executor.take(message.serials[start], stop - start)
                if part is None:
                    self.rooms.abandon(message.paths.get(start, ""))
                    start += 1
                    continue
                self.dispatch.demands.release(part)
                count, client = len(part.keys), part.order.client
                spent_s = sum(message.durations_us[start : start + count]) / 1e6
                part.function.learn(count, spent_s)
                queue.settle(part.order.account, count, spent_s)
                report = reports.get(client)
                if report is None:
                    report = reports[client] = Finished([], [], [], [], [], {}, [])
                if part.entries or part.verdict or start in special:
                    self._end(part, message, start, report)
                else:
                    self._finish(part, message, start, start + count, report)
                start += count
        executor.under_way_s *= executor.count / before if before else 0.0
        if not executor.count:
            executor.alone = False
            if executor.retiring:
                self.dispatch.retire_if_idle(executor)
        for client, report in reports.items():
            if report.keys:
                self.finished += len(report.keys)
                self.out.append(Send(client, report))

    def _finish(self, part: Part, message: messages.Outcomes, start: int, stop: int, report: Finished) -> None:
        """Tasks without inputs that have small results."""
        self._strike(part)
        nbytes, values = message.nbytes[start:stop], message.values[start:stop]
        self.store.add_small(part.keys, part.attempts, nbytes, values)
        report.keys += part.keys
        report.attempts += part.attempts
        report.nbytes += nbytes
        report.durations_us += message.durations_us[start:stop]
        inline_bytes_max = self.settings.reply_inline_bytes_max
        if max(nbytes) > inline_bytes_max:
            values = [v if n <= inline_bytes_max else None for v, n in zip(values, nbytes, strict=True)]
        report.values += values

    def _end(self, part: Part, message: messages.Outcomes, position: int, report: Finished) -> None:
        """An outcome of the less simple kind: an error, a file, handles inside, inputs, or not wanted any more."""
        path, error = message.paths.get(position, ""), message.errors.get(position)
        known = bool(path) and self.rooms.filled(path)
        if part.verdict == "timeout":
            ended = {"cancelled": True} if part.order.asynchronous else {}
            self._fail(part, "timeout", {"timeout_s": part.order.timeout_s, **ended}, error or b"")
        elif part.verdict:
            self._fail(part, "", {})
        elif path and not known:
            self._fail(part, "full", {"reason": "the result is in a file that was never reserved for it"})
        elif error == messages.NO_ROOM:
            self._fail(part, "full", dataclasses.asdict(self.rooms.why_refused(("executor", part.executor))))
        elif error == messages.NO_INPUT:
            self._input_lost(part, bytes(message.values[position]).decode())
        elif error is not None:
            self._fail(part, "raised", {}, error)
        else:
            self._finish_one(part, message, position, report, path)
            return
        if path and known:
            self.out.append(events.Remove(path))

    def _finish_one(self, part: Part, message: messages.Outcomes, position: int, report: Finished, path: str) -> None:
        """A single task that had inputs, or has a result in a file or with handles inside."""
        self._strike(part)
        nbytes, value = message.nbytes[position], None if path else message.values[position]
        if path:
            self.store.add_unused(part.keys[0], part.attempts[0], nbytes, None, path)
        else:
            self.store.add_small(part.keys, part.attempts, [nbytes], [value])
        if position in message.contains:
            report.contains[len(report.keys)] = message.contains[position]
        report.keys += part.keys
        report.attempts += part.attempts
        report.nbytes.append(nbytes)
        report.values.append(value if nbytes <= self.settings.reply_inline_bytes_max else None)
        report.durations_us.append(message.durations_us[position])
        report.held += self._let_inputs_go(part)

    def _input_lost(self, part: Part, key: str) -> None:
        """An executor found that the file of an input is gone, or was cut short, and did not begin the task."""
        lost = next((entry for entry in part.entries if isinstance(entry, Entry) and entry.key == key), None)
        if lost is not None:
            self._lose(lost)
        self._fail(part, "missing", self._lost(key))

    def _lose(self, entry: Entry) -> None:
        """The file of a value was removed or cut short by somebody else. What waits for it to be read here fails now.

        Whom its owner asks about it next hears that it is not here. What executors have already finds out by itself.
        """
        self.out.append(events.Log(f"the file of {entry.key} was removed or cut short: its value is lost here"))
        if self.store.get(entry.key, 0) is entry:
            self.store.discard(entry.key)
        orders = dict.fromkeys(self.tasks.values())
        for part in [part for order in orders for part in order.parts if entry in part.entries and not part.serial]:
            self._take_out_of_line(part)
            self._fail(part, "missing", self._lost(entry.key))

    def _lost(self, key: str) -> dict[str, Any]:
        """What the owner is told: not to count on us any more, unless a newer attempt has come meanwhile."""
        refused = [] if self.store.get(key, 0) else [self.member.address]
        return {"keys": [key], "refused": {key: refused}}

    def _fail(self, part: Part, kind: str, detail: dict[str, Any], error: bytes = b"") -> None:
        """Tasks end without a result. No kind: they were dropped, nobody waits for them."""
        if part.verdict != "cancelled":
            self._strike(part)
        self.dispatch.demands.release(part)
        held = self._let_inputs_go(part, tell=bool(kind))
        if kind:
            detail = {**detail, "worker": self.member.address, "memory_limit": self.member.memory_limit}
            for key, attempt in zip(part.keys, part.attempts, strict=True):
                self.out.append(Send(part.order.client, Failed(key, attempt, kind, error, detail, held)))

    def _let_inputs_go(self, part: Part, tell: bool = True) -> list[list[Any]]:
        """Inputs are needed no longer; returns those that the client does not know to be here, if it will be told."""
        held = []
        for entry in part.entries:
            if not isinstance(entry, Entry):
                continue
            if tell and not entry.announced and entry.in_table and owner_of(entry.key) == part.order.client:
                entry.announced = True
                held.append([entry.key, entry.attempt])
            if part.serial:
                self.store.put_down(entry)
            self.store.let_go(entry)
        part.entries = ()
        return held

    def _on_running(self, event: events.Running) -> None:
        if ("executor", event.executor) in self.rooms.blocked:  # to wait for room is not to run: no time is up yet
            event.started_s = self._now
        self.dispatch.on_running(event, self._now)

    def _on_executor_ended(self, event: events.ExecutorEnded) -> None:
        self.rooms.requester_gone(("executor", event.executor))
        self.dispatch.on_ended(event, self._now)
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

    def _on_fetched(self, event: events.Fetched) -> None:
        here, missing = self.fetches.fetched(event.fetch, event.nbytes, event.values, event.paths)
        for want, entry in here:
            for part in want.tasks:
                if isinstance(part, Adoption):
                    continue
                for position, (key, attempt, *_) in enumerate(part.inputs[0]):
                    if part.entries[position] is None and (key, attempt) == (want.key, want.attempt):
                        self.store.use(entry)
                        part.entries[position] = entry
                        part.missing -= 1
                if not part.missing:
                    self.dispatch.enqueue(part)
            for adoption in [task for task in want.tasks if isinstance(task, Adoption)]:
                self.adoptions.fetched(adoption, want.key, entry)
        self._missing(missing)

    def _missing(self, wants: Iterable[Want]) -> None:
        """Nobody has these values: the tasks that want them fail, and what only they wanted is not fetched."""
        wants = list(wants)
        refused = {want.key: want.refused for want in wants if want.refused}
        self._fail_wanting(
            wants, "missing", lambda gone: {"keys": gone, "refused": {key: refused.get(key, []) for key in gone}}
        )

    def _hopeless(self, wants: list[Want]) -> None:
        """There is no room for these values."""
        for want in wants:
            never = want.nbytes > self.store.memory_limit and not self.store.moves.spill_directory
            detail = {"reason": full(self.store, want.nbytes), "never": never, "waited_s": 0.0}
            self._fail_wanting([want], "full", lambda gone, detail=detail: {"keys": gone} | detail)  # type: ignore[misc]

    def _fail_wanting(self, wants: Iterable[Want], kind: str, detail: Callable[[list[str]], dict[str, Any]]) -> None:
        gone: dict[Part, list[str]] = {}
        for want in wants:
            tasks, want.tasks = want.tasks, {}
            self.fetches.drop(want)
            for part in tasks:
                if isinstance(part, Adoption):
                    reason = detail([want.key]).get("reason", "the worker that leaves did not give it")
                    self.adoptions.missed(part, want.key, reason)
                else:
                    gone.setdefault(part, []).append(want.key)
        for part, keys in gone.items():
            self.fetches.forget_task(part, part.inputs[0])
            self._fail(part, kind, detail(keys))

    def _on_spill_failed(self, event: events.SpillFailed) -> None:
        if event.is_lost:
            if (entry := self.store.moves.spill_ended(event.ticket)) is not None:
                self._lose(entry)
            return
        self.store.moves.spill_failed(event.ticket, event.reason)
        self._ring_once("spill", self.settings.spill_retry_s, self.store.moves.forgive)

    def _on_allocation_failed(self, event: events.AllocationFailed) -> None:
        self.rooms.allocation_failed(event.ticket, event.reason, self._now)
        if self.store.moves.refused:
            self._ring_once("spill", self.settings.spill_retry_s, self.store.moves.forgive)

    def _on_fetch_failed(self, event: events.FetchFailed) -> None:
        if event.is_full:
            self._hopeless(self.fetches.found_full(event.fetch))
        else:
            self._missing(self.fetches.failed(event.fetch))

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
        self._drop_all([part for order in orders for part in order.parts])
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
