"""Many tasks cancelled at once: what that costs grows with their number, and no faster. Steps are counted, not time."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from distributed.config import Settings
from distributed.wire.messages import Cancel, Compute, Member
from distributed.worker.events import AskRunning, ExecutorStarted, FromClient, Give, Send
from distributed.worker.state import WorkerState
from tests.steps import steps_of
from tests.worker.bench import ALICE, F, key, needs

SETTINGS = dataclasses.replace(Settings(), batch_tasks_max=100_000, batch_s=1000.0)
MANY = 200


class Name(str):
    """A key that is compared in Python, so that comparisons are steps, too."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other)  # type: ignore[return-value]

    __hash__ = str.__hash__


def names(count: int, prefix: str = "") -> list[str]:
    return [Name(key(f"{prefix}{number}")) for number in range(count)]


def columns(keys: list[str], inputs: dict[int, list[Any]], code: bytes = b"code", attempt: int = 1) -> FromClient:
    args = [b""] * len(keys)
    return FromClient(ALICE, Compute(F, code, "f", keys, [attempt] * len(keys), args, inputs))


class Busy:
    """A worker with many tasks in one state."""

    def __init__(self, count: int) -> None:
        self.state = WorkerState(Member("127.0.0.1:1", "i1", "w", 1, 1 << 30), SETTINGS)
        self.state.start()
        self.keys = names(count)

    def start(self) -> None:
        """An executor is there, and takes what is queued."""
        function = self.state.intake.functions.get(F, False)
        function.learn(1, 0.001)
        self.state.handle(ExecutorStarted(1, 1000), 0.0)

    def queued(self) -> None:
        self.state.handle(columns(self.keys, {}), 0.0)

    def queued_one_by_one(self) -> None:
        for name in self.keys:
            self.state.handle(columns([name], {0: [needs("x", inline=b"x")]}), 0.0)

    def without_code(self) -> None:
        for name in self.keys:
            self.state.handle(columns([name], {}, code=b""), 0.0)

    def fetching(self) -> None:
        inputs = {n: [needs(f"x{n}", nbytes=100_000)] for n in range(len(self.keys))}
        self.state.handle(columns(self.keys, inputs), 0.0)

    def given(self) -> None:
        self.queued()
        self.start()
        assert sum(map(len, self.state.dispatch.executors[1].given)) == len(self.keys)

    def cancel(self, keys: list[str]) -> list[Any]:
        out = self.state.handle(FromClient(ALICE, Cancel(keys, [1] * len(keys))), 0.0)
        self.state.check()
        return out


STATES = ["queued", "queued_one_by_one", "without_code", "fetching", "given"]


@pytest.mark.parametrize("place", STATES)
@pytest.mark.parametrize("part", ["all of them, the last one first", "every second one"])
def test_cancelling_twice_as_many_takes_twice_as_long(place: str, part: str) -> None:
    def steps(count: int) -> int:
        busy = Busy(count)
        getattr(busy, place)()
        # what was cancelled has another identity here: a message brings keys of its own
        chosen = [Name(name) for name in (busy.keys[::-1] if part.startswith("all") else busy.keys[::2])]
        return steps_of(lambda: busy.state.handle(FromClient(ALICE, Cancel(chosen, [1] * len(chosen))), 0.0))

    assert steps(2 * MANY) < 2.5 * steps(MANY)


def test_newer_attempts_of_many_tasks_take_the_places_of_older_ones_as_fast() -> None:
    def steps(count: int) -> int:
        busy = Busy(count)
        busy.queued()
        again = columns([Name(name) for name in busy.keys], {}, attempt=2)
        return steps_of(lambda: busy.state.handle(again, 0.0))

    assert steps(2 * MANY) < 2.5 * steps(MANY)


@pytest.mark.parametrize("place", STATES)
def test_what_was_cancelled_is_gone_and_the_others_are_there(place: str) -> None:
    busy = Busy(10)
    getattr(busy, place)()
    busy.cancel(busy.keys[:4] + busy.keys[6:])
    assert sorted(busy.state.tasks) == sorted(busy.keys[4:6])
    busy.cancel(busy.keys)
    assert busy.state.tasks == {}
    assert not busy.state.fetches.pending
    assert not busy.state.dispatch.queue.live


def test_an_executor_is_asked_once_what_it_runs_however_many_were_cancelled() -> None:
    busy = Busy(20)
    busy.given()
    assert busy.cancel(busy.keys[::2]) == [AskRunning(1)]


def test_only_the_attempt_that_is_here_is_cancelled() -> None:
    busy = Busy(3)
    busy.given()
    state, keys = busy.state, busy.keys
    assert state.handle(FromClient(ALICE, Cancel([*keys, keys[0]], [2, 1, 2, 3])), 0.0) == [AskRunning(1)]
    assert sorted(state.tasks) == [keys[0], keys[2]]
    assert not any(isinstance(out, (Send, Give)) for out in state.handle(columns([], {}), 0.0))
