"""How what runs is stopped: a task that was cancelled, one whose time is over, and all of them when the worker leaves.

Executors are killed, and replaced then; coroutines are cancelled, and have a moment to end. Which task an executor runs
is known only to its progress cell: whoever must know asks (`AskRunning`) and acts on the answer, so that a kill hits
the right task. What was stopped ends when its executor has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from distributed.alarms import Alarms
from distributed.config import Settings
from distributed.wire.messages import CancelRunning
from distributed.worker.events import AskRunning, Give, Kill, Running
from distributed.worker.tasks import Part
from distributed.worker.view import ExecutorView


class Stopping:
    """Looks at these executors when a time may be over, and kills those that must end."""

    def __init__(
        self, executors: Mapping[int, ExecutorView], settings: Settings, alarms: Alarms, out: list[Any]
    ) -> None:
        self._executors, self._settings, self._alarms, self._out = executors, settings, alarms, out
        self.reason = ""  # why all were stopped

    def look(self, executor: ExecutorView, time_s: float) -> None:
        """See what this executor runs, at this time."""
        if time_s < executor.look_at_s:
            executor.look_at_s = time_s
            self._alarms.set(time_s, partial(self._look_again, executor.number))

    def _look_again(self, number: int, now: float) -> None:
        executor = self._executors.get(number)
        if executor is None or now < executor.look_at_s:
            return
        executor.look_at_s = math.inf
        if executor.asynchronous:
            self._look_asynchronous(executor, now)
        elif executor.given and not executor.killing:
            self._out.append(AskRunning(number))

    def cancel(self, parts: list[Part], now: float) -> None:
        """Given tasks are no longer wanted: their outcomes will not count, and those that run are ended."""
        of_executors: dict[int, list[Part]] = {}
        for part in parts:
            part.verdict = "cancelled"
            of_executors.setdefault(part.executor, []).append(part)
        for number, some in of_executors.items():
            executor = self._executors[number]
            if executor.asynchronous:
                self._cancel_running(executor, some, now)
            elif not executor.killing:
                self._out.append(AskRunning(number))

    def on_running(self, event: Running, now: float) -> None:
        """What runs is known: kill it if it was cancelled or is over its time; else decide when to look again."""
        executor = self._executors.get(event.executor)
        if executor is None or executor.killing:
            return
        part, _ = executor.find(event.serial)
        if part is not None:
            timeout_s = part.order.timeout_s
            if part.together and not part.order.begun:  # its time begins with that of the others
                event.started_s = now
            if not part.verdict and timeout_s and now >= event.started_s + timeout_s:
                part = executor.single_out(event.serial)
                part.verdict = "timeout"
            if part.verdict:
                self.kill(executor)
                return
        for other in executor.given:
            if other.verdict:
                self.look(executor, now + self._settings.look_interval_s)
            elif other.order.timeout_s:
                since_s = event.started_s if other is part else now
                self.look(executor, max(since_s + other.order.timeout_s, now + 0.001))

    def _look_asynchronous(self, executor: ExecutorView, now: float) -> None:
        late: list[Part] = []
        for part in executor.given:
            if part.verdict or not part.order.timeout_s:
                continue
            if now >= part.given_s + part.order.timeout_s:
                part.verdict = "timeout"
                late.append(part)
            else:
                self.look(executor, part.given_s + part.order.timeout_s)
        if late:
            self._cancel_running(executor, late, now)

    def _cancel_running(self, executor: ExecutorView, parts: list[Part], now: float) -> None:
        serials = [serial for part in parts for serial in range(part.serial, part.serial + len(part))]
        self._out.append(Give(executor.number, CancelRunning(serials)))
        self._alarms.set(now + self._settings.coroutine_yield_s, partial(self._insist, executor.number, serials))

    def _insist(self, number: int, serials: list[int], now: float) -> None:
        """Coroutines that were cancelled should have ended by now."""
        executor = self._executors.get(number)
        if executor is not None and not executor.killing and any(executor.find(n)[0] for n in serials):
            self.kill(executor)

    def stop_all(self, reason: str) -> None:
        """Whatever runs is stopped. It did nothing wrong: it is queued again, but for what must not run twice."""
        self.reason = reason
        for executor in self._executors.values():
            if executor.given and not executor.killing:
                self.kill(executor)

    def kill(self, executor: ExecutorView) -> None:
        """Its process ends at once; `ExecutorEnded` follows."""
        executor.killing = True
        self._out.append(Kill(executor.number))
