"""Fresh executors on demand: each is replaced as soon as it is idle, and the request answered when all are."""

from __future__ import annotations

import pytest

from distributed.wire.messages import Attach, Cancel, Restart, Restarted
from distributed.worker.events import (
    AskRunning,
    ClientDisconnected,
    ExecutorEnded,
    ExecutorStarted,
    Kill,
    LeaveAsked,
    Log,
    Running,
    Say,
    Send,
    Spawn,
    ToCenter,
)
from tests.worker.bench import ALICE, BOB, SETTINGS, Bench, compute, finished, key, run

DONE = Send(ALICE, Restarted(7))


@pytest.fixture
def bench():
    """Two executors that have been idle for some time."""
    bench = Bench(ncores=2)
    bench.client(Attach(ALICE))
    bench.wait(10)
    return bench


def killed(bench, executor, **changes):
    return bench.on(ExecutorEnded(executor, signal=9, **changes))


def test_idle_executors_are_replaced_at_once_and_the_answer_follows_the_last(bench):
    assert bench.client(Restart(7)) == [Kill(1), Kill(2)]
    assert killed(bench, 2) == [Spawn(3)]
    assert killed(bench, 1) == [Spawn(4), DONE]
    assert bench.on(ExecutorStarted(3, 7)) == bench.on(ExecutorStarted(4, 8)) == []


def test_what_runs_ends_first_and_what_is_queued_goes_to_fresh_ones():
    bench = Bench()
    bench.client(compute("a", code=b"code"))
    bench.client(compute("b"))
    assert bench.client(Restart(7)) == []
    assert bench.done([1]) == [Kill(1), finished("a")]
    assert bench.client(compute("c")) == []
    assert killed(bench, 1) == [Spawn(2), DONE]
    assert bench.on(ExecutorStarted(2, 7)) == [run("bc", 2, 2, code=b"code")]


def test_one_that_is_just_starting_is_replaced_when_it_has_started():
    bench = Bench(start=False)
    assert bench.client(Restart(7)) == []
    assert bench.on(ExecutorStarted(1, 7)) == [Kill(1)]
    assert killed(bench, 1) == [Spawn(2), DONE]


def test_one_that_crashes_instead_is_as_good_as_replaced(bench):
    bench.client(compute("a", code=b"code"))
    assert bench.client(Restart(7)) == [Kill(2)]
    [failed, spawned] = bench.on(ExecutorEnded(1, signal=11, serial=1))
    assert (failed.message.kind, spawned) == ("crashed", Spawn(3))
    assert killed(bench, 2) == [Spawn(4), DONE]


def test_one_that_never_started_is_as_good_as_replaced():
    bench = Bench(start=False)
    bench.client(Restart(7))
    [told, answer] = bench.on(ExecutorEnded(1, exit_code=1, stderr_tail="ImportError"))
    assert isinstance(told, Log)
    assert answer == DONE
    assert bench.client(Restart(8)) == [Send(ALICE, Restarted(8))], "none is here"
    assert bench.wait(SETTINGS.respawn_pause_max_s) == [Spawn(2)]


def test_one_that_is_being_killed_already_is_not_killed_twice(bench):
    bench.client(compute("a", code=b"code"))
    bench.client(Cancel([key("a")], [1]))
    assert bench.on(Running(1, 1, bench.now)) == [Kill(1)]
    assert bench.client(Restart(7)) == [Kill(2)]
    assert bench.on(ExecutorEnded(1, signal=9, serial=1)) == [Spawn(3)]
    assert killed(bench, 2) == [Spawn(4), DONE]


def test_a_task_that_is_cancelled_makes_its_executor_free_to_go():
    bench = Bench()
    bench.client(compute("a", code=b"code"))
    bench.client(Restart(7))
    assert bench.client(Cancel([key("a")], [1])) == [AskRunning(1)]
    assert bench.on(Running(1, 1, bench.now)) == [Kill(1)]
    assert bench.on(ExecutorEnded(1, signal=9, serial=1)) == [Spawn(2), DONE]


def test_the_executor_of_coroutines_is_replaced_as_well_and_comes_back_when_it_is_wanted():
    bench = Bench()
    assert bench.client(compute("a", code=b"code", asynchronous=True)) == [Spawn(2, asynchronous=True)]
    assert bench.on(ExecutorStarted(2, 7)) == [run("a", 1, 2, code=b"code")]
    assert bench.client(Restart(7)) == [Kill(1)]
    bench.now += 10
    assert killed(bench, 1) == [Spawn(3)]
    assert bench.done([1], executor=2) == [Kill(2), finished("a")]
    assert killed(bench, 2) == [DONE]


def test_those_who_asked_at_the_same_time_are_both_answered(bench):
    bench.client(Restart(7))
    assert bench.client(Restart(1), BOB) == []
    killed(bench, 1)
    assert killed(bench, 2) == [Spawn(4), DONE, Send(BOB, Restarted(1))]


def test_to_ask_again_while_fresh_ones_start_means_these_too(bench):
    bench.client(Restart(7))
    killed(bench, 1)
    assert bench.client(Restart(8)) == []
    assert killed(bench, 2) == [Spawn(4), DONE]
    assert bench.on(ExecutorStarted(3, 7)) == [Kill(3)]
    assert bench.on(ExecutorStarted(4, 8)) == [], "it is fresh in the eyes of both"
    assert killed(bench, 3) == [Spawn(5), Send(ALICE, Restarted(8))]


def test_a_client_that_is_gone_is_not_answered_and_its_wish_is_carried_out(bench):
    bench.client(Restart(7))
    bench.client(Restart(1), BOB)
    bench.on(ClientDisconnected(ALICE))
    assert killed(bench, 1) == [Spawn(3)]
    assert killed(bench, 2) == [Spawn(4), Send(BOB, Restarted(1))]


def test_an_end_that_concerns_nobody_answers_nobody(bench):
    bench.client(compute("a", code=b"code"))
    assert [type(what) for what in bench.on(ExecutorEnded(1, signal=11, serial=1))] == [Send, Spawn]


def test_a_worker_that_leaves_answers_still(bench):
    bench.client(compute("a", code=b"code"))
    bench.client(Restart(7))
    bench.on(LeaveAsked())
    killed(bench, 2)
    assert Kill(1) in bench.done([1])
    out = [what for what in killed(bench, 1) if not isinstance(what, (Say, ToCenter, Spawn))]
    assert out == [DONE]


def test_coroutines_that_a_running_one_may_wait_for_run_in_a_fresh_one_meanwhile(bench):
    bench.client(compute("a", code=b"code", asynchronous=True))
    bench.on(ExecutorStarted(3, 9))
    assert bench.client(Restart(7)) == [Kill(1), Kill(2)]
    assert bench.client(compute("b", asynchronous=True)) == [Spawn(4, asynchronous=True)]
    assert bench.on(ExecutorStarted(4, 9)) == [run("b", 2, 4, code=b"code")]
    assert bench.done([2], executor=4) == [finished("b")]
    assert bench.done([1], executor=3) == [Kill(3), finished("a")]
