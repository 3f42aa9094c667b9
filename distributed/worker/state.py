"""The worker's mind: which tasks are here, what they wait for, what was stored, what to tell whom. No I/O of any kind.

One door: `WorkerState.handle(event, now)` absorbs an event and returns the instructions it calls for (both are listed
in :mod:`distributed.worker.events`). A task passes through::

    Compute ─▶ needs code ─▶ fetching ─▶ queued ─▶ given ─▶ Finished / Failed     (drawn in full in `tasks`)

This module keeps the table of tasks and joins the parts: `queue` knows whose turn it is, `dispatch` what the executors
have, `fetches` what is on its way, `store` and `rooms` what is here and what may come, `reports` what the center is
told. A message about another attempt than the one in the table is ignored; a newer attempt of a key replaces the older
one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from distributed.config import Settings
from distributed.key import owner_of
from distributed.wire import messages
from distributed.wire.messages import Failed, Finished, Member, NeedFunction
from distributed.worker import describe, events
from distributed.worker.dispatch import Alarms, Dispatch
from distributed.worker.events import Send, WakeAt
from distributed.worker.fetches import Fetches, Want
from distributed.worker.reports import Reports
from distributed.worker.rooms import Rooms, full
from distributed.worker.store import Entry, Store
from distributed.worker.tasks import Function, Functions, Order, Task, check_compute, check_outcomes


class WorkerState:
    """What a worker knows and decides. Attributes may be read by all and are written by `handle` alone."""

    def __init__(self, member: Member, settings: Settings) -> None:
        self.member, self.settings = member, settings
        self.out: list[Any] = []
        self.alarms = Alarms()
        self.functions = Functions(settings)
        self.store = Store(member.memory_limit, self.out)
        self.rooms = Rooms(self.store, self.out)
        self.fetches = Fetches(settings, self.store, member.address, self.out)
        self.dispatch = Dispatch(member.ncores, settings, self.alarms, self.store, self._fail)
        self.reports = Reports(member, settings, self.store, self.alarms, lambda: describe.load(self))
        self.tasks: dict[str, Task] = {}
        self.absent: dict[str, float] = {}  # clients whose connection broke, and when
        self.finished = 0
        self._now = 0.0
        self._wake_at_s = math.inf
        self._handlers: dict[type, Callable[[Any], None]] = {
            events.FromClient: self._on_client,
            events.FromCenter: self._on_center,
            events.FromExecutor: self._on_executor,
            events.ClientDisconnected: self._on_client_disconnected,
            events.CenterConnected: lambda event: self.reports.connected(self._now),
            events.CenterLost: lambda event: self.reports.lost(),
            events.ExecutorStarted: lambda event: self.dispatch.on_started(event, self._now),
            events.ExecutorEnded: self._on_executor_ended,
            events.Running: lambda event: self.dispatch.on_running(event, self._now),
            events.RoomWanted: lambda event: self.rooms.ask(("writer", event.writer), event.nbytes),
            events.RoomAbandoned: lambda event: self.rooms.abandon(event.path),
            events.Allocated: lambda event: self.rooms.allocated(event.ticket, event.path),
            events.AllocationFailed: lambda event: self.rooms.allocation_failed(event.ticket, event.reason),
            events.Put: self._on_put,
            events.Fetched: self._on_fetched,
            events.FetchFailed: lambda event: self._missing(self.fetches.failed(event.fetch)),
            events.Spilled: lambda event: self.store.spilled(event.ticket, event.path),
            events.SpillFailed: self._on_spill_failed,
            events.Tick: self._on_tick,
            messages.Compute: self._compute,
            messages.DefineFunction: self._define_function,
            messages.Cancel: self._cancel,
            messages.Recall: self._recall,
            messages.Attach: self._attach,
            messages.DeleteData: lambda event: self.store.delete(event.message.keys),
            messages.OwnerLeft: self._owner_left,
            messages.Pin: self._pin,
            messages.Unpin: lambda event: self.store.unpin(event.message.name, event.message.owners),
            messages.WorkerLeft: lambda event: self._missing(self.fetches.peer_left(event.message.address)),
            messages.Outcomes: self._outcomes,
            messages.NeedRoom: lambda event: self.rooms.ask(("executor", event.executor), event.message.nbytes),
        }

    def start(self) -> list[Any]:
        """The first instructions: as many executors as there are cores."""
        for _ in range(self.member.ncores):
            self.dispatch.spawn()
        return self._take_out()

    def handle(self, event: Any, now: float) -> list[Any]:
        """Absorb one event; return the instructions it calls for."""
        self._now = now
        self._handlers[type(event)](event)
        return self._settle(now)

    def _settle(self, now: float) -> list[Any]:
        """Whatever an event was: use the room and the executors that are free now, and set the clock."""
        store, dispatch = self.store, self.dispatch
        if not store.fits(0):
            store.make_room(0)
        if self.rooms.wanted:
            self.rooms.pump()
        while self.fetches.pending and (hopeless := self.fetches.pump(dispatch.is_busy)):
            self._hopeless(hopeless)
        if dispatch.queue.live or dispatch.coroutines.live:
            dispatch.fill(now)
        if store.added or store.removed:
            self.reports.plan(now)
        if self.alarms.next_s < self._wake_at_s:
            self._wake_at_s = self.alarms.next_s
            self.out.append(WakeAt(self._wake_at_s))
        return self._take_out()

    def _take_out(self) -> list[Any]:
        out = self.out[:]
        self.out.clear()
        return out

    # ------------------------------------------------------------------------------------------- messages of pools

    def _on_client(self, event: events.FromClient) -> None:
        self._handlers[type(event.message)](event)

    def _attach(self, event: events.FromClient) -> None:
        """A pool's connection begins: tasks of an older one stop. What is stored stays; the pool tells what may go."""
        self.absent.pop(event.client, None)
        self._stop_tasks(event.client)

    def _compute(self, event: events.FromClient) -> None:
        message: messages.Compute = event.message  # type: ignore[assignment]
        check_compute(message)
        function = self.functions.get(message.function, message.once, message.name)
        order = Order(event.client, function, message.priority, message.timeout_s, message.asynchronous)
        tasks = self.tasks
        new: list[Task] = []
        for key, attempt, args in zip(message.keys, message.attempts, message.args):  # noqa: B905  checked above
            if key in tasks and not self._replace(tasks[key], attempt):
                continue
            tasks[key] = task = Task(order, function, key, attempt, args)
            new.append(task)
        if message.inputs:
            self._attach_inputs(message, new)
        if message.code:
            self._define(message.function, message.code)
        if function.code is not None:
            self._admit(new)
        else:
            function.waiting += new
            self._ask_for_code(function, event.client)

    def _replace(self, task: Task, attempt: int) -> bool:
        if attempt <= task.attempt:
            return False
        self._drop(task)
        return True

    def _attach_inputs(self, message: messages.Compute, new: list[Task]) -> None:
        accepted = {(task.key, task.attempt): task for task in new}
        for position, inputs in message.inputs.items():
            task = accepted.get((message.keys[position], message.attempts[position]))
            if task is not None:
                task.inputs = inputs

    def _admit(self, tasks: list[Task]) -> None:
        """Tasks whose code is here: queue what needs nothing else, fetch for the others."""
        plain = [task for task in tasks if not task.inputs]
        if plain:
            self.dispatch.enqueue(plain)
        for task in tasks:
            if task.inputs:
                self._gather(task)

    def _gather(self, task: Task) -> None:
        """Take the inputs that are here, and want the others."""
        task.entries = entries = []
        wanted: list[tuple[str, int, int, list[str]]] = []
        for key, attempt, nbytes, holders, inline in task.inputs:
            entry = None if inline is not None else self.store.get(key, attempt)
            if entry is not None:
                self.store.use(entry)
            elif inline is None:
                wanted.append((key, attempt, nbytes, holders))
            entries.append(inline if inline is not None else entry)
        task.missing = len(wanted)
        if not wanted:
            self.dispatch.enqueue([task])
        missing = [want for item in wanted if (want := self.fetches.want(task, *item)) is not None]
        self._missing(missing)

    def _ask_for_code(self, function: Function, client: str) -> None:
        if client not in function.asked:
            function.asked[client] = None
            self.out.append(Send(client, NeedFunction(function.identity)))

    def _define_function(self, event: events.FromClient) -> None:
        self._define(event.message.function, event.message.code)  # type: ignore[attr-defined]

    def _define(self, identity: bytes, code: bytes) -> None:
        for function in self.functions.both(identity):
            self.functions.define(function, code)
            waiting, function.waiting, function.asked = function.waiting, [], {}
            by_order: dict[int, list[Task]] = {}
            for task in waiting:
                by_order.setdefault(id(task.order), []).append(task)
            for tasks in by_order.values():
                self._admit(tasks)

    def _cancel(self, event: events.FromClient) -> None:
        message: messages.Cancel = event.message  # type: ignore[assignment]
        for key, attempt in zip(message.keys, message.attempts, strict=True):
            task = self.tasks.get(key)
            if task is not None and task.attempt == attempt:
                self._drop(task)

    def _drop(self, task: Task) -> None:
        """A task is no longer wanted, wherever it is; nobody is told."""
        del self.tasks[task.key]
        if task.serial:
            self.dispatch.cancel(task, self._now)
            return
        if task.queued:
            queue = self.dispatch.coroutines if task.order.asynchronous else self.dispatch.queue
            queue.dropped(task.order.client, task)
        elif task in task.function.waiting:
            task.function.waiting.remove(task)
        if task.missing:
            self.fetches.forget_task(task)
        self._let_inputs_go(task, tell=False)

    def _recall(self, event: events.FromClient) -> None:
        taken = self.dispatch.queue.take_last(event.client, event.message.count)  # type: ignore[attr-defined]
        for task in taken:
            del self.tasks[task.key]
            self._let_inputs_go(task, tell=False)
        recalled = messages.Recalled([task.key for task in taken], [task.attempt for task in taken])
        self.out.append(Send(event.client, recalled))

    # ---------------------------------------------------------------------------------------------- ends of tasks

    def _on_executor(self, event: events.FromExecutor) -> None:
        if event.executor in self.dispatch.executors:  # else: last words of one that was buried already
            self._handlers[type(event.message)](event)

    def _outcomes(self, event: events.FromExecutor) -> None:
        """A batch is done. The loop runs once per task: no calls on the way of a small result without inputs."""
        message: messages.Outcomes = event.message  # type: ignore[assignment]
        check_outcomes(message)
        executor = self.dispatch.executors[event.executor]
        given, tasks, add = executor.given, self.tasks, self.store.add
        inline_bytes_max = self.settings.reply_inline_bytes_max
        rare = {*message.paths, *message.errors, *message.contains}
        before = len(given)
        reports: dict[str, Finished] = {}
        used_us: dict[str, list[int]] = {}
        measured: dict[Function, list[int]] = {}
        order, report, used, spent = None, None, [0, 0], [0, 0]
        for position, (serial, value, nbytes, duration_us) in enumerate(
            zip(message.serials, message.values, message.nbytes, message.durations_us, strict=True)
        ):
            task = given.pop(serial, None)
            if task is None:
                continue
            if task.order is not order:
                order = task.order
                report = reports.get(order.client) or reports.setdefault(
                    order.client, Finished([], [], [], [], [], {}, [])
                )
                used = used_us.setdefault(order.client, [0, 0])
                spent = measured.setdefault(task.function, [0, 0])
            used[0] += 1
            used[1] += duration_us
            spent[0] += 1
            spent[1] += duration_us
            if position in rare or task.entries or task.verdict:
                self._end(task, message, position, report)  # type: ignore[arg-type]
                continue
            key, attempt = task.key, task.attempt
            del tasks[key]
            add(key, attempt, nbytes, value)
            report.keys.append(key)  # type: ignore[union-attr]
            report.attempts.append(attempt)  # type: ignore[union-attr]
            report.nbytes.append(nbytes)  # type: ignore[union-attr]
            report.values.append(value if nbytes <= inline_bytes_max else None)  # type: ignore[union-attr]
            report.durations_us.append(duration_us)  # type: ignore[union-attr]
        executor.under_way_s *= len(given) / before if before else 0.0
        if not given:
            executor.alone = False
        for function, (count, total_us) in measured.items():
            function.learn(count, total_us / 1e6)
        queue = self.dispatch.coroutines if executor.asynchronous else self.dispatch.queue
        for client, (count, total_us) in used_us.items():
            queue.settle(client, count, total_us / 1e6)
        for client, finished in reports.items():
            if finished.keys:
                self.finished += len(finished.keys)
                self.out.append(Send(client, finished))

    def _end(self, task: Task, message: messages.Outcomes, position: int, report: Finished) -> None:
        """One outcome of the less simple kind: an error, a file, handles inside, inputs, or not wanted any more."""
        path, error = message.paths.get(position, ""), message.errors.get(position)
        known = bool(path) and self.rooms.filled(path)
        if task.verdict == "timeout":
            self._fail(task, "timeout", {"timeout_s": task.order.timeout_s})
        elif task.verdict:
            self._fail(task, "", {})
        elif path and not known:
            self._fail(task, "full", {"reason": "the result is in a file that was never reserved for it"})
        elif error is not None:
            self._fail(task, "raised", {}, error)
        else:
            nbytes = message.nbytes[position]
            value = None if path else message.values[position]
            self.store.add(task.key, task.attempt, nbytes, value, path)
            del self.tasks[task.key]
            if position in message.contains:
                report.contains[len(report.keys)] = message.contains[position]
            report.keys.append(task.key)
            report.attempts.append(task.attempt)
            report.nbytes.append(nbytes)
            report.values.append(value if nbytes <= self.settings.reply_inline_bytes_max else None)
            report.durations_us.append(message.durations_us[position])
            report.held += self._let_inputs_go(task)
            return
        if path and known:
            self.out.append(events.Remove(path))

    def _fail(self, task: Task, kind: str, detail: dict[str, Any], error: bytes = b"") -> None:
        """A task ends without a result. No kind: it was dropped, nobody waits for it."""
        if self.tasks.get(task.key) is task:
            del self.tasks[task.key]
        held = self._let_inputs_go(task, tell=bool(kind))
        if kind:
            detail = {**detail, "worker": self.member.address, "memory_limit": self.member.memory_limit}
            self.out.append(Send(task.order.client, Failed(task.key, task.attempt, kind, error, detail, held)))

    def _let_inputs_go(self, task: Task, tell: bool = True) -> list[list[Any]]:
        """A task needs its inputs no longer; those that its client does not know to be here, if it will be told."""
        held = []
        for entry in task.entries:
            if not isinstance(entry, Entry):
                continue
            if tell and not entry.announced and entry.in_table and owner_of(entry.key) == task.order.client:
                entry.announced = True
                held.append([entry.key, entry.attempt])
            if task.serial:
                self.store.put_down(entry)
            self.store.let_go(entry)
        task.entries = ()
        return held

    def _on_executor_ended(self, event: events.ExecutorEnded) -> None:
        self.rooms.requester_gone(("executor", event.executor))
        self.dispatch.on_ended(event, self._now)

    # --------------------------------------------------------------------------------------------------- values

    def _on_put(self, event: events.Put) -> None:
        for key, nbytes, value, path in zip(event.keys, event.nbytes, event.values, event.paths, strict=True):
            if path:
                self.rooms.filled(path)
            if self.store.is_unborn(key):
                if path:
                    self.out.append(events.Remove(path))
                continue
            self.store.add(key, 1, nbytes, None if path else value, path, replace=True)

    def _on_fetched(self, event: events.Fetched) -> None:
        here, missing = self.fetches.fetched(event.fetch, event.nbytes, event.values, event.paths)
        for want, entry in here:
            for task in want.tasks:
                for position, (key, attempt, *_) in enumerate(task.inputs):
                    if task.entries[position] is None and (key, attempt) == (want.key, want.attempt):
                        self.store.use(entry)
                        task.entries[position] = entry
                        task.missing -= 1
                if not task.missing:
                    self.dispatch.enqueue([task])
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
            reason = full(self.store, want.nbytes)
            self._fail_wanting([want], "full", lambda gone, reason=reason: {"keys": gone, "reason": reason})  # type: ignore[misc]

    def _fail_wanting(self, wants: Iterable[Want], kind: str, detail: Callable[[list[str]], dict[str, Any]]) -> None:
        gone: dict[Task, list[str]] = {}
        for want in wants:
            for task in want.tasks:
                gone.setdefault(task, []).append(want.key)
            want.tasks = {}
            self.fetches.drop(want)
        for task, keys in gone.items():
            self.fetches.forget_task(task)
            self._fail(task, kind, detail(keys))

    def _on_spill_failed(self, event: events.SpillFailed) -> None:
        self.store.spill_failed(event.ticket, event.reason)
        self.alarms.set(self._now + self.settings.spill_retry_s, "spill")

    # ---------------------------------------------------------------------------------------- center and clients

    def _on_center(self, event: events.FromCenter) -> None:
        self._handlers[type(event.message)](event)

    def _pin(self, event: events.FromCenter) -> None:
        message: messages.Pin = event.message  # type: ignore[assignment]
        self.store.pin(message.name, message.key, message.keys)

    def _on_client_disconnected(self, event: events.ClientDisconnected) -> None:
        self.absent[event.client] = self._now
        self.alarms.set(self._now + self.settings.closed_client_lease_s, "absent", event.client)

    def _owner_left(self, event: events.FromCenter) -> None:
        """A lease is over. A client that still talks to us only lost the center: it must learn what it lost here."""
        client = event.message.client  # type: ignore[attr-defined]
        self._forget_client(client)
        self.out.append(events.HangUp(client))

    def _forget_client(self, client: str) -> None:
        self.absent.pop(client, None)
        self._stop_tasks(client)
        self.store.forget_owner(client)

    def _stop_tasks(self, client: str) -> None:
        for task in [task for task in self.tasks.values() if task.order.client == client]:
            self._drop(task)
        self.dispatch.queue.forget(client)
        self.dispatch.coroutines.forget(client)

    # ------------------------------------------------------------------------------------------------------ time

    def _on_tick(self, event: events.Tick) -> None:
        self._wake_at_s = math.inf
        for kind, about in self.alarms.due(self._now):
            if kind == "report":
                self.reports.report()
            elif kind == "look":
                self.dispatch.on_look(about, self._now)
            elif kind == "load":
                self.reports.report_load(about, self._now)
            elif kind == "absent":
                self._end_absence(about)
            elif kind == "yield":
                self.dispatch.on_yield(*about)
            elif kind == "respawn":
                self.dispatch.on_respawn(about)
            elif kind == "spill":
                self.store.spill_refused = ""

    def _end_absence(self, client: str) -> None:
        left = self.absent.get(client)
        if left is not None and self._now >= left + self.settings.closed_client_lease_s:
            del self.absent[client]
            self._stop_tasks(client)

    # -------------------------------------------------------------------------------------------- for the shell

    def status(self) -> dict[str, Any]:
        """Everything a person may want to know."""
        return describe.status(self)

    def held_of(self, client: str) -> list[list[Any]]:
        """The keys of a client's that are stored here, each with its attempt."""
        entries = self.store.entries
        return [[key, entries[key].attempt] for key in self.store.owners.get(client, ())]

    def client_of(self, executor: int, serial: int) -> str:
        """Whose task this is, which an executor runs: what it prints is for them. Else whose it was given last."""
        known = self.dispatch.executors.get(executor)
        if known is None:
            return ""
        task = known.given.get(serial)
        return task.order.client if task is not None else known.client

    def check(self) -> None:
        """The invariants of a worker; a failure is a bug here, never in the world."""
        describe.check(self)
