"""Slots of executors whose tasks wait for other tasks: for whom they are kept, and when nobody else may begin."""

from __future__ import annotations

import dataclasses

import pytest

from distributed.alarms import Alarms
from distributed.config import SETTINGS
from distributed.worker.slots import Slots
from distributed.worker.tasks import Function, Order, Part
from distributed.worker.view import ExecutorView

F = Function(b"f" * 16, once=False)
NOW = 100.0


class Bench:
    """Executors with a task each, whose priority is minus its depth; eight may wait, and four are many."""

    def __init__(self) -> None:
        self.executors: dict[int, ExecutorView] = {}
        self.alarms = Alarms()
        settings = dataclasses.replace(SETTINGS, blocked_executors_max=8, kept_slot_s=1.0)
        self.slots = Slots(self.executors, 2, settings, self.alarms)

    def wait(self, depth: int = 0, keeps_slot: bool = False, client: str = "alice") -> ExecutorView:
        executor = ExecutorView(len(self.executors) + 1, False)
        self.executors[executor.number] = executor
        executor.given.append(next_one(depth, client))
        self.slots.wait(executor, keeps_slot, NOW)
        self.slots.check()
        return executor


def next_one(depth: int, client: str = "alice") -> Part:
    return Part(Order(client, F, priority=-depth), ["x"], [1], [b""])


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_slot_is_kept_for_a_moment_for_what_is_deeper(bench):
    bench.wait(depth=1, keeps_slot=True)
    bench.wait(depth=1)
    assert [bench.slots.kept(next_one(depth), NOW) for depth in (0, 1, 2)] == [1, 1, 0]
    assert bench.alarms.next_s == NOW + 1.0
    assert bench.slots.kept(next_one(0), NOW + 1.0) == 0


def test_what_is_given_takes_the_slot_that_was_kept_last_for_what_is_so_deep(bench):
    first, last, deep = (bench.wait(depth, keeps_slot=True) for depth in (0, 0, 5))
    bench.slots.use_kept(-1)
    assert [executor.keeps_slot for executor in (first, last, deep)] == [True, False, True]


def test_who_goes_on_or_is_gone_does_not_wait(bench):
    executor = bench.wait(keeps_slot=True)
    bench.slots.go_on(executor, NOW + 3.0)
    assert (bench.slots.waiting, executor.waited_s, executor.keeps_slot) == (0, 3.0, False)
    bench.slots.gone(bench.executors.pop(executor.number))
    killed = bench.wait()
    bench.slots.gone(bench.executors.pop(killed.number))
    assert bench.slots.waiting == 0
    bench.slots.check()


def test_those_that_are_being_killed_leave_room_for_others_to_wait(bench):
    executors = [bench.wait() for _ in range(8)]
    assert bench.slots.is_full
    executors[0].killing = True
    assert not bench.slots.is_full


def test_where_many_wait_only_what_is_deeper_than_all_of_its_own_begins(bench):
    for depth in range(4):
        assert not bench.slots.is_crowded(next_one(0), 1, NOW)
        bench.wait(depth)
    assert [bench.slots.is_crowded(next_one(depth), 1, NOW) for depth in (0, 3, 4)] == [True, True, False]
    assert not bench.slots.is_crowded(next_one(0, "bob"), 1, NOW), "none of his waits"


def test_where_nothing_runs_the_next_one_begins_after_a_moment_of_silence(bench):
    for _ in range(4):
        bench.wait()
    bench.slots.moved(NOW)
    assert bench.slots.is_crowded(next_one(0), 0, NOW + 0.5)
    assert bench.alarms.next_s == NOW + 1.0, "to look again"
    assert not bench.slots.is_crowded(next_one(0), 0, NOW + 1.0)
