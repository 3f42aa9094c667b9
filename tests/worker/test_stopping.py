"""How what runs is stopped: whom a worker asks, when it looks again, and whom it kills. Without the rest of a mind."""

from __future__ import annotations

import dataclasses

import pytest

from distributed.alarms import Alarms
from distributed.config import SETTINGS
from distributed.wire.messages import CancelRunning
from distributed.worker.events import AskRunning, Give, Kill, Running
from distributed.worker.stopping import Stopping
from distributed.worker.tasks import Function, Order, Part
from distributed.worker.view import ExecutorView

F = Function(b"f" * 16, once=False)


class Bench:
    """One executor, plain or for coroutines, at time 100."""

    def __init__(self, asynchronous: bool = False) -> None:
        self.out: list = []
        self.alarms = Alarms()
        self.executor = ExecutorView(1, asynchronous)
        settings = dataclasses.replace(SETTINGS, coroutine_yield_s=2.0)
        self.stopping = Stopping({1: self.executor}, settings, self.alarms, self.out)

    def give(self, serial: int, keys: str, timeout_s: float = 0.0, now: float = 100.0) -> Part:
        order = Order("alice", F, timeout_s=timeout_s, asynchronous=self.executor.asynchronous)
        part = Part(order, list(keys), [1] * len(keys), [b""] * len(keys))
        order.parts[part] = None
        part.serial, part.executor, part.given_s = serial, 1, now
        self.executor.given.append(part)
        self.executor.count += len(keys)
        if timeout_s:
            self.stopping.look(self.executor, now + timeout_s)
        return part

    def ring(self, now: float) -> list:
        self.alarms.ring(now)
        return self.take()

    def take(self) -> list:
        out = self.out[:]
        self.out.clear()
        return out


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def awaiting() -> Bench:
    return Bench(asynchronous=True)


def test_what_runs_is_asked_before_anything_is_killed_and_only_what_was_cancelled_is(bench):
    running, cancelled = bench.give(1, "a"), bench.give(2, "b")
    bench.stopping.cancel([cancelled], 100.0)
    assert bench.take() == [AskRunning(1)]
    bench.stopping.on_running(Running(1, 1, 100.0), 100.0)
    assert bench.take() == [], "it has not come to that one yet"
    assert bench.ring(100.0 + SETTINGS.look_interval_s) == [AskRunning(1)]
    bench.stopping.on_running(Running(1, 2, 100.1), 100.2)
    assert bench.take() == [Kill(1)]
    assert (running.verdict, cancelled.verdict) == ("", "cancelled")


def test_the_time_of_a_task_begins_with_it_and_only_this_one_is_late(bench):
    part = bench.give(1, "abc", timeout_s=5.0)
    assert bench.ring(105.0) == [AskRunning(1)]
    bench.stopping.on_running(Running(1, 2, 103.0), 105.0)
    assert (bench.take(), bench.alarms.next_s) == ([], 108.0)
    assert bench.ring(108.0) == [AskRunning(1)]
    bench.stopping.on_running(Running(1, 2, 103.0), 108.0)
    assert bench.take() == [Kill(1)]
    assert [(it.keys, it.verdict) for it in bench.executor.given] == [(["a"], ""), (["b"], "timeout"), (["c"], "")]
    assert part.keys == ["a"]


def test_an_executor_that_is_killed_already_is_neither_asked_nor_killed(bench):
    part = bench.give(1, "a", timeout_s=5.0)
    bench.stopping.kill(bench.executor)
    assert bench.take() == [Kill(1)]
    bench.stopping.cancel([part], 101.0)
    bench.stopping.on_running(Running(1, 1, 100.0), 105.0)
    bench.stopping.stop_all("the worker leaves")
    assert bench.ring(105.0) == []


def test_a_coroutine_that_is_late_is_cancelled_and_its_executor_killed_if_it_goes_on(awaiting):
    awaiting.give(1, "a", timeout_s=5.0)
    awaiting.give(2, "b", now=101.0, timeout_s=5.0)
    assert awaiting.ring(105.0) == [Give(1, CancelRunning([1]))]
    assert awaiting.ring(106.0) == [Give(1, CancelRunning([2]))]
    awaiting.executor.take(1, 1)
    assert awaiting.ring(107.0) == []
    assert awaiting.ring(108.0) == [Kill(1)]


def test_all_that_runs_is_stopped_and_who_is_idle_is_left_alone(bench):
    bench.stopping.stop_all("the worker leaves")
    assert bench.take() == []
    bench.give(1, "a")
    bench.stopping.stop_all("the worker leaves")
    assert (bench.take(), bench.stopping.reason) == ([Kill(1)], "the worker leaves")
