"""What follows when an attempt ends without a result: another one, at once or after a pause, or the error to publish.

Keeps the history of unfinished tasks. Judges, and distrusts holders that are none; `pool.state` carries it out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from distributed.config import Settings
from distributed.errors import InitializerFailed, KeyLost, StoreFull, TaskCrashed, TaskTimeout
from distributed.pool import explain
from distributed.pool.lifetimes import Lifetimes
from distributed.pool.tasks import DONE, Task, Trouble
from distributed.pool.view import WorkerView
from distributed.wire.messages import Failed

MISSED_BY_ABSENT_MAX = 5  # so often no answer from holders that we are not connected to: compute it again if we can
MISSED_MAX = 30  # a task whose inputs cannot be fetched so often, though they were computed again, is given up


@dataclasses.dataclass(slots=True)
class Verdict:
    """No error: the task runs again, after a pause if there is one, and then near these workers if there are any."""

    error: Any = None  # an exception, or a packed one
    pause_s: float = 0.0
    near: set[str] = dataclasses.field(default_factory=set)


class Failures:
    """What went wrong so far, by key of unfinished tasks."""

    def __init__(self, lifetimes: Lifetimes, workers: Mapping[str, WorkerView], settings: Settings) -> None:
        self.lifetimes, self.workers, self.settings = lifetimes, workers, settings
        self.troubles: dict[str, Trouble] = {}

    def judge(self, task: Task, address: str, message: Failed, now: float) -> Verdict:
        """A worker reported that an attempt failed."""
        assert task.kind is not None
        kind, detail, options = message.kind, message.detail, task.kind.options
        if kind == "raised":
            trouble = self._trouble(task)
            trouble.raised += 1
            return Verdict() if trouble.raised <= options.retries else Verdict(message.error)
        if kind == "timeout":
            text = f"{task.kind.name} ran longer than timeout={options.timeout_s:g} s{explain.stopped(message)}"
            return Verdict(TaskTimeout(text, task.key))
        if kind == "missing":
            return self._missing(task, address, detail)
        if kind == "requeue":
            return Verdict()
        if kind == "full":
            return self._full(task, address, detail, now)
        return self.crashed(task, explain.obituary(address, detail), detail.get("cause") == "initializer")

    def crashed(self, task: Task, line: str, has_not_begun: bool = False) -> Verdict:
        """An attempt is used up: try again, or tell what happened in each."""
        assert task.kind is not None
        attempts = self._trouble(task).attempts
        attempts.append(f"attempt {len(attempts) + 1}: {line}")
        if len(attempts) < task.kind.options.attempts:
            return Verdict()
        if has_not_begun:
            head = f"the pool's initializer crashed the executor, before {task.kind.name} ({task.key}) began"
            return Verdict(InitializerFailed("\n".join([head, *(f"  {attempt}" for attempt in attempts)])))
        return Verdict(TaskCrashed(f"{task.kind.name} ({task.key}) crashed its executor", task.key, attempts))

    def _full(self, task: Task, address: str, detail: dict[str, Any], now: float) -> Verdict:
        """There was no room for an input, or for the result. No attempt is used up: others may make room meanwhile.

        It is tried again after pauses that grow, elsewhere if there is somebody else, until the patience is over. A
        task that ran and may not run twice fails at once, as does one with no room even in an empty store.
        """
        assert task.kind is not None
        trouble = self._trouble(task)
        if not trouble.full:
            trouble.full_since_s = now - detail.get("waited_s", 0.0)
        trouble.full += 1
        trouble.why_full = f"{detail.get('reason') or 'no room for a value'} (on {address})"
        has_run = "keys" not in detail
        if detail.get("never"):
            trouble.too_small.add(address)
        late = now - trouble.full_since_s >= self.settings.room_patience_s
        hopeless = trouble.too_small and (task.kind.options.workers or self.workers.keys() <= trouble.too_small)
        if late or hopeless or (has_run and task.kind.options.attempts == 1):
            waited = f" after {now - trouble.full_since_s:.0f} s" if late else ""
            return Verdict(StoreFull(f"{task.kind.name}: {trouble.why_full}{waited}"))
        return Verdict(pause_s=trouble.pause_s, near=self.workers.keys() - {address})

    def _missing(self, task: Task, address: str, detail: dict[str, Any]) -> Verdict:
        """No holder gave an input. Those that said that they do not have it are wrong holders: it is computed again.

        One that could not be reached proves nothing: after a pause the task is tried at a holder that we can reach.
        The attempt of the task is not used up: it never began.
        """
        trouble = self._trouble(task)
        trouble.missed += 1
        missing = [needed for needed in task.inputs if needed.key in detail["keys"] and needed.status == DONE]
        for needed in missing:
            self._doubt(needed, detail.get("refused", {}).get(needed.key, ()), trouble)
        near = {holder for needed in missing for holder in needed.holders or () if holder in self.workers}
        if trouble.missed > MISSED_MAX and not near:
            return Verdict(KeyLost(detail["keys"][0], f"{address} could not fetch it, time and again"))
        if any(needed.has_value or needed.borrowed for needed in missing):
            return Verdict(pause_s=trouble.pause_s, near=near)
        return Verdict()

    def _doubt(self, needed: Task, refused: Iterable[str], trouble: Trouble) -> None:
        """Which holders of an input that could not be fetched are none."""
        holders, connected = needed.holders or set(), self.workers.keys()
        wrong = holders & set(refused)
        if needed.borrowed:
            wrong = set(holders)  # the center is asked again, which costs nothing
        elif needed.is_repeatable and trouble.missed > MISSED_BY_ABSENT_MAX and not holders & connected:
            wrong = set(holders)
        for holder in sorted(wrong):
            self.lifetimes.distrust(needed, holder)

    def _trouble(self, task: Task) -> Trouble:
        return self.troubles.setdefault(task.key, Trouble())
