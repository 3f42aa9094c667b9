"""How tasks end at a worker: with a result, without one, given back, or because nobody wants them any more.

However that is, they leave the table, let their inputs go, and use no resources from then on. What was given to an
executor and is not wanted ends when the executor says so, and nobody is told. What ended side by side, as it was given,
is dealt with as columns.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable
from typing import Any

from distributed.key import owner_of
from distributed.wire.messages import NO_INPUT, NO_ROOM, Failed, Finished, Member, Outcomes, Recalled
from distributed.worker.dispatch import Dispatch
from distributed.worker.events import Log, Remove, Send
from distributed.worker.fetches import Fetches
from distributed.worker.letters import Letters
from distributed.worker.rooms import Rooms
from distributed.worker.store import Entry
from distributed.worker.tasks import Order, Part, check_outcomes, find, stretches
from distributed.worker.view import ExecutorView


class Endings:
    """Ends the tasks in the table `tasks`. `finished` is how many have had a result."""

    def __init__(
        self,
        member: Member,
        tasks: dict[str, Order],
        *,
        dispatch: Dispatch,
        fetches: Fetches,
        rooms: Rooms,
        letters: Letters,
    ) -> None:
        self._member, self._tasks, self._dispatch, self._fetches = member, tasks, dispatch, fetches
        self._rooms, self._letters = rooms, letters
        self._store, self._settings, self._out = dispatch.store, dispatch.settings, dispatch.out
        self.finished = 0

    # ----------------------------------------------------------------------------------------------- run to their end

    def outcomes(self, message: Outcomes, number: int, now: float) -> None:
        """An executor is done with a batch."""
        check_outcomes(message)
        executor = self._dispatch.executors.get(number)
        if executor is None:  # last words of one that was buried already
            return
        self._dispatch.slots.moved(now)
        if executor.waits_for_others and executor.given[0].serial in message.serials:
            self._dispatch.go_on(executor, now)  # a thread that the task left behind waits, but the task is over
        if executor.waited_s:
            _leave_out_waiting(executor, message)
        special = {*message.paths, *message.errors, *message.contains}
        queue = self._dispatch.coroutines if executor.asynchronous else self._dispatch.queue
        reports: dict[str, Finished] = {}
        before = executor.count
        for start, stop in stretches(message.serials, special):
            while start < stop:
                part = executor.take(message.serials[start], stop - start)
                if part is None:
                    self._rooms.abandon(message.paths.get(start, ""))
                    start += 1
                    continue
                self._dispatch.supplies.release(part)
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
                self._dispatch.retire_if_idle(executor)
        for client, report in reports.items():
            if report.keys:
                self.finished += len(report.keys)
                self._out.append(Send(client, report))

    def _finish(self, part: Part, message: Outcomes, start: int, stop: int, report: Finished) -> None:
        """Tasks without inputs that have small results."""
        self._strike(part)
        nbytes, values = message.nbytes[start:stop], message.values[start:stop]
        self._store.add_small(part.keys, part.attempts, nbytes, values)
        report.keys += part.keys
        report.attempts += part.attempts
        report.nbytes += nbytes
        report.durations_us += message.durations_us[start:stop]
        inline_bytes_max = self._settings.reply_inline_bytes_max
        if max(nbytes) > inline_bytes_max:
            values = [v if n <= inline_bytes_max else None for v, n in zip(values, nbytes, strict=True)]
        report.values += values

    def _end(self, part: Part, message: Outcomes, position: int, report: Finished) -> None:
        """An outcome of the less simple kind: an error, a file, handles inside, inputs, or not wanted any more."""
        path, error = message.paths.get(position, ""), message.errors.get(position)
        known = bool(path) and self._rooms.filled(path)
        if part.verdict == "timeout":
            ended = {"cancelled": True} if part.order.asynchronous else {}
            self.fail(part, "timeout", {"timeout_s": part.order.timeout_s, **ended}, error or b"")
        elif part.verdict:
            self.fail(part, "", {})
        elif path and not known:
            self.fail(part, "full", {"reason": "the result is in a file that was never reserved for it"})
        elif error == NO_ROOM:
            self.fail(part, "full", dataclasses.asdict(self._rooms.why_refused(("executor", part.executor))))
        elif error == NO_INPUT:
            self._input_lost(part, message.values[position])
        elif error is not None:
            self.fail(part, "raised", {}, error)
        else:
            self._finish_one(part, message, position, report, path)
            return
        if path and known:
            self._out.append(Remove(path))

    def _finish_one(self, part: Part, message: Outcomes, position: int, report: Finished, path: str) -> None:
        """A single task that had inputs, or has a result in a file or with handles inside."""
        self._strike(part)
        nbytes, value = message.nbytes[position], None if path else message.values[position]
        if path:
            self._store.add_unused(part.keys[0], part.attempts[0], nbytes, None, path)
        else:
            self._store.add_small(part.keys, part.attempts, [nbytes], [value])
        if position in message.contains:
            report.contains[len(report.keys)] = message.contains[position]
        report.keys += part.keys
        report.attempts += part.attempts
        report.nbytes.append(nbytes)
        report.values.append(value if nbytes <= self._settings.reply_inline_bytes_max else None)
        report.durations_us.append(message.durations_us[position])
        report.held += self._let_inputs_go(part)

    # ------------------------------------------------------------------------------------------------ without a result

    def _input_lost(self, part: Part, name: Any) -> None:
        """An executor found that the file of an input is gone, or was cut short, and did not begin the task."""
        lost = next((entry for entry in part.entries if isinstance(entry, Entry) and entry.key.encode() == name), None)
        if lost is None:  # user code runs in that process, and may say anything
            self.fail(part, "crashed", {"reason": "its executor missed an input that it was not given"})
        else:
            self.lose(lost)
            self.fail(part, "missing", self._lost(lost.key))

    def lose(self, entry: Entry) -> None:
        """The file of a value was removed or cut short by somebody else. What waits for it to be read here fails now.

        Whom its owner asks about it next hears that it is not here. What executors have already finds out by itself.
        """
        self._out.append(Log(f"the file of {entry.key} was removed or cut short: its value is lost here"))
        if self._store.get(entry.key, 0) is entry:
            self._store.discard(entry.key)
        orders = dict.fromkeys(self._tasks.values())
        for part in [part for order in orders for part in order.parts if entry in part.entries and not part.serial]:
            self._take_out_of_line(part)
            self.fail(part, "missing", self._lost(entry.key))

    def _lost(self, key: str) -> dict[str, Any]:
        """What the owner is told: not to count on us any more, unless a newer attempt has come meanwhile."""
        refused = [] if self._store.get(key, 0) else [self._member.address]
        return {"keys": [key], "refused": {key: refused}}

    def fail(self, part: Part, kind: str, detail: dict[str, Any], error: bytes = b"") -> None:
        """Tasks end without a result. No kind: they were dropped, nobody waits for them."""
        if part.verdict != "cancelled":
            self._strike(part)
        self._dispatch.supplies.release(part)
        held = self._let_inputs_go(part, tell=bool(kind))
        if kind:
            detail = {**detail, "worker": self._member.address, "memory_limit": self._member.memory_limit}
            for key, attempt in zip(part.keys, part.attempts, strict=True):
                self._out.append(Send(part.order.client, Failed(key, attempt, kind, error, detail, held)))

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
                self._store.put_down(entry)
            self._store.let_go(entry)
        part.entries = ()
        return held

    def drop(self, attempts: Iterable[tuple[str, int]], now: float) -> None:
        """These attempts of tasks are no longer wanted, wherever they are; nobody is told."""
        parts: list[Part] = []
        unwanted = dict.fromkeys(attempts)
        for part, found in find(self._tasks, (key for key, _ in unwanted)):
            positions = [n for n in found if (part.keys[n], part.attempts[n]) in unwanted]
            if len(positions) == len(part):
                parts.append(part)
            elif part.serial:
                executor, first = self._dispatch.executors[part.executor], part.serial
                parts += [executor.single_out(first + position) for position in positions]
            elif positions:
                for position in positions:
                    del self._tasks[part.keys[position]]
                part.remove(positions)
                if part.queued:
                    self._dispatch.dropped(part, len(positions))
                    self._dispatch.supplies.dropped(part, len(positions))
        self.drop_all(parts, now)

    def drop_all(self, parts: list[Part], now: float) -> None:
        """Tasks are no longer wanted, wherever they are; nobody is told."""
        given: list[Part] = []
        for part in parts:
            self._strike(part)
            if part.serial:
                given.append(part)
                continue
            self._take_out_of_line(part)
            self._dispatch.supplies.release(part)
            self._let_inputs_go(part, tell=False)
        self._dispatch.stopping.cancel(given, now)

    def _take_out_of_line(self, part: Part) -> None:
        """Tasks that no executor has will not be given to one, whatever they still wait for."""
        if part.queued:
            part.queued = False
            self._dispatch.dropped(part, len(part))
        part.function.waiting.pop(part, None)
        if part.missing:
            self._fetches.forget_task(part, part.inputs[0])

    def give_back(self, client: str, count: int) -> None:
        """A pool has others who run these sooner."""
        recalled = Recalled([], [])
        for part in self._dispatch.take_last(client, count):
            self._strike(part)
            self._dispatch.supplies.release(part)
            self._let_inputs_go(part, tell=False)
            recalled.keys += reversed(part.keys)
            recalled.attempts += reversed(part.attempts)
        self._out.append(Send(client, recalled))

    def _strike(self, part: Part) -> None:
        """These tasks are done, or will never be: they leave the table."""
        del part.order.parts[part]
        if len(part.keys) == 1:
            del self._tasks[part.keys[0]]
        else:
            deque(map(self._tasks.__delitem__, part.keys), maxlen=0)
        if part.order.together:
            self._dispatch.gangs.ended(part.order)
            self._letters.close(part.keys)


def _leave_out_waiting(executor: ExecutorView, message: Outcomes) -> None:
    """The task that waited for others is done: the time for which it waited says nothing of its function."""
    waited_us, executor.waited_s = int(executor.waited_s * 1e6), 0.0
    if message.serials:
        last = len(message.serials) - 1  # nothing was run behind it
        message.durations_us[last] = max(0, message.durations_us[last] - waited_us)
