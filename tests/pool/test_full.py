"""A task for which there is no room waits and comes again, elsewhere if it can, and in the end fails with the sizes."""

from __future__ import annotations

import pytest

from distributed.errors import StoreFull
from distributed.pool import explain
from distributed.pool.events import Tick
from distributed.pool.tasks import FAILED, SENT, WAITING
from tests.pool.test_state import ALICE, BOB, Bench, kind

REASON = "no room for 5 bytes: 7 of at most 10"


def full(bench, task, **detail):
    return bench.fail(task, "full", **({"reason": REASON, "waited_s": 0.0, "never": False} | detail))


def until_sent(bench, task):
    """Let time pass until it is tried again; how long that took."""
    began = bench.now
    while task.status == WAITING:
        bench.now += 0.01
        bench.on(Tick())
    assert task.status == SENT
    return bench.now - began


def test_it_waits_and_uses_up_no_attempt():
    bench = Bench(ALICE)
    task = bench.submit(kind=kind(attempts=2))
    pauses = []
    for _ in range(7):
        full(bench, task)
        assert task.status == WAITING
        assert explain.explain(bench.state, task, bench.now).endswith(
            f"waits for room, and is tried again in a moment: {REASON} (on {ALICE})"
        )
        pauses.append(until_sent(bench, task))
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0], abs=0.03), "pauses grow"
    bench.fail(task, "crashed", signal=9)
    assert task.status == SENT
    bench.finish(task)
    assert not bench.state.failures.troubles
    assert not bench.state.placement.near


def test_when_the_patience_is_over_it_fails_with_the_sizes():
    bench = Bench(ALICE, room_patience_s=5.0)
    task = bench.submit()
    began = bench.now
    while task.status != FAILED:
        full(bench, task)
        if task.status == WAITING:
            until_sent(bench, task)
    assert 5.0 <= bench.now - began < 8.0
    assert isinstance(task.outcome, StoreFull)
    assert REASON in str(task.outcome)


def test_what_it_waited_at_the_worker_counts():
    bench = Bench(ALICE, room_patience_s=5.0)
    task = bench.submit()
    full(bench, task, waited_s=5.0)
    assert isinstance(task.outcome, StoreFull)


def test_what_fits_nowhere_fails_as_soon_as_everybody_said_so():
    bench = Bench(ALICE, BOB)
    task = bench.submit(bench.stored(ALICE))
    assert task.worker == ALICE
    full(bench, task, never=True)
    assert task.status == WAITING
    until_sent(bench, task)
    if task.worker == ALICE:
        full(bench, task, never=True)
        until_sent(bench, task)
    assert task.worker == BOB
    full(bench, task, never=True)
    assert isinstance(task.outcome, StoreFull)


def test_a_task_that_ran_and_must_not_run_again_fails_at_once_but_waits_for_its_inputs():
    bench = Bench(ALICE)
    x = bench.stored(ALICE)
    task = bench.submit(x, kind=kind(attempts=1))
    full(bench, task, keys=[x.key])
    assert task.status == WAITING
    until_sent(bench, task)
    full(bench, task)
    assert isinstance(task.outcome, StoreFull)


def test_those_that_consume_go_first_meanwhile():
    bench = Bench(ALICE)
    x = bench.stored(ALICE)
    producer = bench.submit()
    full(bench, producer)
    consumer = bench.submit(x)
    assert (consumer.status, producer.status) == (SENT, WAITING)
