"""Executors as the worker's mind sees them: what each is given, how many there are, when one is replaced.

An executor::

    spawned ──started──▶ ready ──▶ (given tasks, runs them in order) ──ended──▶ replaced
       │                             └─ kill: of the running task only; the others are queued again
       └──ended before it was ready: replaced after a pause that doubles each time

About `batch_s` of predicted work is under way at an executor, and a single task while the duration of its function is
unknown or when it must be alone. What must not run on is `stopping`'s business. Owns no socket and no process.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from distributed.alarms import Alarms
from distributed.config import Settings
from distributed.key import account_of
from distributed.wire.messages import Member, Run
from distributed.worker.events import ExecutorEnded, ExecutorStarted, Give, Log, Spawn
from distributed.worker.gangs import Gangs
from distributed.worker.queue import FairQueue
from distributed.worker.seats import Seats
from distributed.worker.slots import Slots
from distributed.worker.stopping import Stopping
from distributed.worker.store import Entry, Store
from distributed.worker.supplies import Supplies
from distributed.worker.tasks import Function, Part
from distributed.worker.view import ExecutorView


class Dispatch:
    """All executors and the queues that feed them: `queue` for plain functions, `coroutines` for asynchronous ones."""

    def __init__(
        self,
        member: Member,
        settings: Settings,
        alarms: Alarms,
        store: Store,
        failed: Callable[[Part, str, dict], None],
    ) -> None:
        self.ncores, self.settings, self.alarms = member.ncores, settings, alarms
        self.store, self.out, self.failed = store, store.out, failed
        self.queue: FairQueue[Part] = FairQueue(settings.client_share_horizon_s, member.ncores)
        self.coroutines: FairQueue[Part] = FairQueue(settings.client_share_horizon_s, 1)
        self.seats = Seats(self)
        self.supplies = Supplies(member.resources, self.queue.used_s)
        self.gangs = Gangs(self)
        self.executors: dict[int, ExecutorView] = {}
        self.stopping = Stopping(self.executors, settings, alarms, self.out)
        self.slots = Slots(self.executors, member.ncores, settings, alarms)
        self.bad_starts = 0  # in a row
        self.pauses = self.plain_pauses = 0  # replacements that wait for their time; those of plain executors
        self.started = 0
        self._has_surplus = False  # an alarm is set
        self._numbers = itertools.count(1)
        self._serials = 1

    @property
    def is_busy(self) -> bool:
        """Whether tasks run or are about to."""
        return bool(self.queue.live or self.coroutines.live or any(e.given for e in self.executors.values()))

    # ------------------------------------------------------------------------------------------ start and replace

    def spawn(self, asynchronous: bool = False) -> None:
        executor = ExecutorView(next(self._numbers), asynchronous)
        if not asynchronous:
            executor.seat = self.seats.vacant()
        self.executors[executor.number] = executor
        self.out.append(Spawn(executor.number, asynchronous))

    def _working(self) -> list[ExecutorView]:
        """The plain executors whose tasks do not wait for others: as many as cores, or more for a while."""
        return [e for e in self.executors.values() if not (e.asynchronous or e.waits_for_others or e.surplus)]

    def go_on(self, executor: ExecutorView, now: float) -> None:
        """An executor's task waits no longer: in a while, those executors that nobody needs any more may end."""
        self.slots.go_on(executor, now)
        self._plan_to_end_surplus(now)

    def _plan_to_end_surplus(self, now: float) -> None:
        if not self._has_surplus:
            self._has_surplus = True
            self.alarms.set(now + self.settings.surplus_executors_s, self._end_surplus)

    def _end_surplus(self, now: float) -> None:
        self._has_surplus = False
        working = self._working()
        surplus = len(working) - self.ncores
        if surplus <= 0:
            return
        for executor in working:
            if surplus and executor.ready and not executor.given and not executor.killing:
                executor.surplus = True
                self.stopping.kill(executor)
                surplus -= 1
        if surplus:
            self._plan_to_end_surplus(now)

    def on_started(self, event: ExecutorStarted, now: float) -> None:
        executor = self.executors[event.executor]
        executor.ready, executor.pid, executor.started_s = True, event.pid, now
        self.started += 1
        self.retire_if_idle(executor)

    def on_ended(self, event: ExecutorEnded, now: float) -> str:
        """Sort out what it had, and replace it. If it could not even start: why."""
        executor = self.executors.pop(event.executor)
        self.seats.vacated(executor)
        self.slots.gone(executor)
        self._bury(executor, event)
        has_run = event.serial or executor.has_served or now - executor.started_s > 1.0
        if executor.ready and (has_run or executor.killing):
            self.bad_starts = 0
            if not executor.asynchronous:
                self._replace()
            return ""
        self.bad_starts += 1
        pause_s = min(self.settings.respawn_pause_s * 2.0**self.bad_starts, self.settings.respawn_pause_max_s)
        self.out.append(
            Log(
                f"executor {executor.number} ended before it ran anything ({_death(event)}), "
                f"{self.bad_starts} in a row; next try in {pause_s:.1f} s\n{event.stderr_tail}".rstrip()
            )
        )
        self.pauses += 1
        self.plain_pauses += not executor.asynchronous
        self.alarms.set(now + pause_s, partial(self._respawn, executor.asynchronous))
        return event.stderr_tail or _death(event)

    def retire_all(self) -> list[int]:
        """Replace all that are here, each as soon as it is idle; their numbers."""
        for executor in list(self.executors.values()):
            executor.retiring = True
            self.retire_if_idle(executor)
        return list(self.executors)

    def retire_if_idle(self, executor: ExecutorView) -> None:
        """The last task of an executor that is to be replaced has ended."""
        if executor.retiring and executor.ready and not executor.given and not executor.killing:
            self.stopping.kill(executor)

    def _respawn(self, asynchronous: bool, now: float) -> None:
        """The pause after a bad start is over. The asynchronous executor comes back only if it is wanted."""
        self.pauses -= 1
        if not asynchronous:
            self.plain_pauses -= 1
            self._replace()

    def _replace(self) -> None:
        """Start another executor in the place of one that is gone, if it was one of those that are needed."""
        if len(self._working()) + self.plain_pauses < self.ncores:
            self.spawn()

    def _bury(self, executor: ExecutorView, event: ExecutorEnded) -> None:
        detail = {
            "signal": event.signal,
            "exit_code": event.exit_code,
            "peak_bytes": event.peak_bytes,
            "stderr_tail": event.stderr_tail,
            "stack": event.stack,
            "cause": event.cause,
            "task_memory_limit": event.task_memory_limit,
        }
        if executor.killing and self.stopping.reason:
            detail["reason"] = self.stopping.reason
        again: list[Part] = []
        running, _ = executor.find(event.serial)
        if running is not None:
            running = executor.single_out(event.serial)
        is_explained = running is not None or executor.killing
        for part in self._take_back(executor):
            guilty = part is running and not executor.killing
            lost = guilty or part.function.once or part.requeues >= self.settings.requeues_max
            if part.verdict == "cancelled":
                self.failed(part, "", {})
            elif part.verdict == "timeout":
                late = {"timeout_s": part.order.timeout_s}
                if executor.asynchronous:
                    late |= {"cancelled": True, "yield_s": self.settings.coroutine_yield_s}
                self.failed(part, "timeout", {**detail, **late})
            elif lost:
                beside = {} if guilty or not is_explained else self._why_beside(executor, event)
                self.failed(part, "crashed", {**detail, **beside})
            elif is_explained and (executor.asynchronous or part is running):
                self.failed(part, "requeue", {})  # it had begun, and perhaps submitted tasks: its owner ends these
            else:
                again.append(part)
        for part in reversed(again):
            if not is_explained:  # by another task, or by us: then this one had nothing to do with it
                part.requeues += 1
            self.requeue(part)

    def _why_beside(self, executor: ExecutorView, event: ExecutorEnded) -> dict[str, str]:
        """Why tasks are lost that may run once only, and ended with their executor through no fault of their own."""
        if self.stopping.reason:
            return {}  # it is in the detail of all
        if executor.killing:
            grace = f"{self.settings.coroutine_yield_s:g} s"
            return {"reason": f"killed with a task beside it that did not end within {grace} of being cancelled"}
        return {"reason": f"a task beside it ended the executor ({_death(event)})"}

    def requeue(self, part: Part) -> None:
        """Tasks that were given and did not run are next again."""
        part.serial = part.executor = 0
        for entry in part.entries:
            if isinstance(entry, Entry):
                self.store.put_down(entry)
        self.enqueue(part, first=True)

    def _take_back(self, executor: ExecutorView) -> list[Part]:
        """Given tasks that end without an outcome; their clients are not charged."""
        parts, executor.given, executor.count, executor.depths = executor.given, [], 0, {}
        for part in parts:
            self.queue_of(part).settle(part.order.account, len(part), 0.0)
        return parts

    # ------------------------------------------------------------------------------------------------ give

    def queue_of(self, part: Part) -> FairQueue[Part]:
        """The queue for tasks of this kind."""
        return self.coroutines if part.order.asynchronous else self.queue

    def enqueue(self, part: Part, first: bool = False) -> None:
        """Queue tasks that are ready to run."""
        order = part.order
        if order.resources and not part.has_resources:
            self.supplies.put(part)
            return
        if order.seat >= 0:
            self.seats.put(part)
            return
        queue = self.coroutines if order.asynchronous else self.queue
        queue.put(order.account, part, order.priority, not (part.inputs or part.ready), first)

    def dropped(self, part: Part, count: int) -> None:
        """So many tasks of a part that is queued are no longer wanted."""
        if part.order.resources and not part.has_resources:
            self.supplies.is_due = True  # others may have waited behind these
        elif part.order.seat < 0:
            self.queue_of(part).dropped(part.order.account, count)

    def admit(self) -> None:
        """Queue the tasks that can have what they need."""
        for part in self.supplies.take():
            self.enqueue(part)

    def take_last(self, client: str, count: int) -> list[Part]:
        """Take tasks away that would run last: those that wait for resources before those that wait for executors."""
        taken = self.supplies.take_last(client, count)
        count -= sum(map(len, taken))
        return taken + self.queue.take_last(account_of(client), count, lambda part: part.order.client == client)

    def fill(self, now: float) -> None:
        """Give queued tasks to executors that have room; spread what there is over all of them."""
        while self.queue.live:
            free = [executor for executor in self.executors.values() if self._has_room(executor)]
            if self.slots.waiting or self._has_surplus:
                free = self._within_cores(free, now)
            if self.gangs.orders:
                if self.gangs.stand_first(free, now):
                    continue
                free = self._beside_members(free, now)
            if not free:
                break
            share = math.ceil(self.queue.live / len(free))
            given = 0
            for executor in free:
                given += self._give_next(executor, share, now)
            if not given:
                break
        if self.coroutines.live:
            self._fill_asynchronous(now)

    def _within_cores(self, free: list[ExecutorView], now: float) -> list[ExecutorView]:
        """Those of them that may be given something, while tasks wait for tasks: no more run than there are cores.

        Executors are started for those whose tasks wait.
        """
        working = self._working()
        for _ in range(self.ncores - self.plain_pauses - len(working)):
            self.spawn()
        busy = sum(bool(executor.given) for executor in working)
        client = self.queue.turn()
        if parts := client.first_class() if client else None:
            busy += self.slots.kept(parts[0], now)
            if self.slots.is_crowded(parts[0], busy, now):
                return []
        idle = [executor for executor in free if not executor.given]
        return [executor for executor in free if executor.given] + idle[: max(0, self.ncores - busy)]

    def _beside_members(self, free: list[ExecutorView], now: float) -> list[ExecutorView]:
        """Those of them that may be given something, while members of groups run.

        Members wait for one another, and one of them for tasks of its own, which may have come here. Where members have
        all cores these would never be run: one executor more is for tasks of tasks.
        """
        working = self._working()
        others = [executor for executor in working if not (executor.given and executor.given[0].together)]
        if len(working) - len(others) < self.ncores:
            return free
        self.gangs.hold = True
        if not others and not self.plain_pauses and self.queue.turn(1) is not None:
            self.spawn()
            self._plan_to_end_surplus(now)
        return [executor for executor in others if self._has_room(executor)]

    def _has_room(self, executor: ExecutorView) -> bool:
        if executor.waits_for_others or executor.seat in self.seats.waiting:
            return False
        if not executor.ready or executor.killing or executor.retiring or executor.alone or executor.asynchronous:
            return False
        # not at every outcome: single tasks sent after single outcomes would keep batches small for ever
        return executor.count < 2 or executor.under_way_s <= self.settings.batch_s / 2

    def _give_next(self, executor: ExecutorView, share: int, now: float) -> bool:
        """Give one batch of the client whose turn it is; False when its next task does not fit beside what is there."""
        depth_min = int(self.gangs.hold)  # then only tasks of tasks, which something that runs may wait for
        client = self.queue.turn(depth_min)
        parts = client.first_class(depth_min) if client else None
        if client is None or parts is None or parts[0].together:  # those were not next when this round began
            return False
        function = parts[0].function
        alone = function.once or function.mean_s is None
        if alone and executor.given:
            return False
        predicted_s, count = 0.0, 1
        if not alone:
            predicted_s = max(function.mean_s or 0.0, self.settings.task_overhead_s)
            room = math.ceil((self.settings.batch_s - executor.under_way_s) / predicted_s)  # or a long one waits for us
            if (
                room < 1
                and executor.count < 2
                and predicted_s <= self.settings.ahead_s
                and self.queue.live > self.ncores
            ):
                room = 1  # between two tasks of 10 ms an executor would be idle for 3% of the time, waiting for us
            count = min(room, share, self.settings.batch_tasks_max - executor.count)
        if count < 1:
            return False
        executor.alone = alone
        taken = self.queue.take(client, count, predicted_s, depth_min)
        executor.under_way_s += predicted_s * self.give(executor, function, taken, now)
        return True

    def give_alone(self, executor: ExecutorView, part: Part, now: float) -> None:
        """Give an idle executor a task that did not stand in the queue."""
        part.queued = False
        executor.alone = True
        self.queue.give_past(part.order.account)
        self.give(executor, part.function, [part], now)

    def _fill_asynchronous(self, now: float) -> None:
        # one that is to be replaced may have coroutines that wait for those that are queued
        executor = next((e for e in self.executors.values() if e.asynchronous and not e.retiring), None)
        if executor is None:
            if not self.pauses:
                self.spawn(asynchronous=True)
            return
        while executor.ready and not executor.killing:
            depth_min = executor.depth_with_room(self.settings.asynchronous_tasks_max)
            client = self.coroutines.turn(depth_min)
            first = client.first_class(depth_min) if client else None
            if client is None or first is None:
                return
            count = self.settings.asynchronous_tasks_max - executor.count_from(first[0].depth)
            parts = self.coroutines.take(client, count, 0.0, depth_min)
            for part in parts:
                part.given_s = now
            self.give(executor, parts[0].function, parts, now)

    def give(self, executor: ExecutorView, function: Function, parts: list[Part], now: float) -> int:
        """Give these to an executor, as one batch; returns how many tasks they are."""
        first, number = self._serials, executor.number
        keys: list[str] = []
        args: list[bytes] = []
        inputs: dict[int, list] = {}
        for part in parts:
            count = len(keys)
            part.serial, part.executor = first + count, number
            if part.ready:
                inputs.update(zip(range(count, count + len(part.keys)), part.ready, strict=True))
            elif part.inputs:
                inputs[count] = _inputs_of(part)
            if part.order.timeout_s:
                self.stopping.look(executor, now + part.order.timeout_s)
            keys += part.keys
            args += part.args
        self._serials += len(keys)
        executor.given += parts
        executor.count += len(keys)
        if executor.asynchronous:
            executor.count_depth(parts[0].depth, len(keys))
        executor.client = parts[0].order.client
        code = executor.learn(function, self.settings)
        needs = {need.identity: executor.learn(need, self.settings, is_need=True) for need in function.needs}
        if self.slots.waiting:
            self.slots.use_kept(parts[0].order.priority)
        attempts = _attempts_of(parts)
        run = Run(function.identity, code, parts[0].order.name, first, keys, args, inputs, needs, attempts)
        self.out.append(Give(number, run))
        return len(keys)

    # ------------------------------------------------------------------------------------------------ invariants

    def check(self) -> None:
        """Executors hold what they may hold, and queues count right."""
        self.queue.check()
        self.coroutines.check()
        given: dict[str, int] = {}
        for executor in self.executors.values():
            assert executor.count == sum(map(len, executor.given))
            if executor.asynchronous:
                assert sum(executor.depths.values()) == executor.count
                assert max(executor.depths.values(), default=0) <= self.settings.asynchronous_tasks_max
            else:
                assert executor.count <= self.settings.batch_tasks_max
            assert not executor.alone or executor.count <= 1 or executor.asynchronous, "one task alone"
            assert executor.ready or not executor.given
            serial = 1
            for part in executor.given:
                assert part.serial >= serial, "they run in order"
                assert (part.executor, part.queued, part.function) == (executor.number, False, part.order.function)
                assert part.keys, "an empty part"
                serial = part.serial + len(part)
                if not executor.asynchronous:
                    given[part.order.account] = given.get(part.order.account, 0) + len(part)
        assert given == {name: c.given for name, c in self.queue.clients.items() if c.given}
        plain = [e for e in self.executors.values() if not e.asynchronous]
        self.slots.check()
        assert self.plain_pauses <= self.pauses
        self.seats.check()
        assert self.ncores <= len(plain) + self.plain_pauses
        if not self.slots.waiting and not self._has_surplus:
            assert sum(not e.surplus for e in plain) <= self.ncores


def _inputs_of(part: Part) -> list[list[Any]]:
    """The inputs as an executor wants them; their files must not move from here on."""
    columns: list[list[Any]] = []
    for (key, *_), entry in zip(part.inputs[0], part.entries, strict=True):
        if isinstance(entry, Entry):
            entry.given += 1
            columns.append([key, entry.path, entry.nbytes] if entry.path else [key, entry.data])
        else:
            columns.append([key, entry])
    return columns


def _attempts_of(parts: list[Part]) -> dict[int, int]:
    """By position, the numbers of the attempts that are not the first ones: nearly always none."""
    later: dict[int, int] = {}
    start = 0
    for part in parts:
        if part.attempts.count(1) < len(part.attempts):
            later.update((start + n, attempt) for n, attempt in enumerate(part.attempts) if attempt != 1)
        start += len(part.attempts)
    return later


def _death(event: ExecutorEnded) -> str:
    return f"signal {event.signal}" if event.signal else f"exit code {event.exit_code}"
