"""One result for each task: what an attempt that was given up still says, or leaves behind, changes nothing.

What must hold for every order of events is tried on the minds themselves, the pool's and the worker's, where the order
can be chosen; a worker that is killed, and a chain of a million, on the real thing.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from distributed import Cluster, Pool
from distributed.errors import KeyLost, ProtocolError, TaskCrashed
from distributed.pool.events import CenterSaid, Connected, Dropped, Received, Submitted, Wanted
from distributed.pool.state import PoolState
from distributed.pool.tasks import DONE, FAILED, RELEASED, SENT, Duration, Kind, Options, Task
from distributed.wire.messages import Compute, DeleteData, Finished, WorkerJoined
from distributed.worker.events import FromClient
from tests.pool.test_state import ALICE, BOB, Bench, kind, member, sent
from tests.promises.observe import agent_pids, until
from tests.worker.bench import Bench as WorkerBench

KIB, MIB = 1 << 10, 1 << 20


def report(address, task, attempt, value, held=()):
    sizes = [len(value) if value is not None else 1_000_000]
    return Received(address, Finished([task.key], [attempt], sizes, [value], [1000], {}, list(held)))


def moved(bench, task):
    """The worker that has a task loses its connection and comes back at once: the task has another attempt now."""
    address = task.worker
    bench.cut(address)
    bench.on(Connected(member(address), []))
    assert (task.status, task.attempt) == (SENT, 2)


# ------------------------------------------------------------------------------------------------------------- fences


@pytest.mark.parametrize("late", [b"late", None])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_late_result_of_an_older_attempt_is_no_outcome_and_deletes_no_newer_data(late, when):
    bench = Bench(ALICE)
    task = bench.submit()
    moved(bench, task)
    if when == "after":
        bench.finish(task, b"right")
    out = bench.on(report(ALICE, task, 1, late))
    assert sent(out, DeleteData) == [(ALICE, DeleteData([task.key], [1]))]
    if when == "before":
        assert task.status == SENT
        bench.finish(task, b"right")
    assert (task.status, task.outcome) == (DONE, b"right")


def test_a_worker_drops_the_attempt_that_is_named_and_keeps_another():
    key = "a11ce0000000/1"
    for here, gone in ((1, 2), (2, 1)):
        worker = WorkerBench()
        worker.state.store.add_unused(key, here, 1, b"x")
        worker.client(DeleteData([key], [gone]))
        assert worker.state.store.get(key, here) is not None
        worker.client(DeleteData([key], [here]))
        assert not worker.state.store.entries


@pytest.mark.parametrize("attempts", [[1], [1, 1, 1]])
def test_a_deletion_whose_columns_do_not_fit_changes_nothing(attempts):
    worker = WorkerBench()
    worker.state.store.add_small(["me/x"], [1], [1], [b"x"])
    with pytest.raises(ProtocolError, match="columns"):
        worker.state.handle(FromClient("me", DeleteData(["me/x", "me/y"], attempts)), 0.0)
    assert list(worker.state.store.entries) == ["me/x"]


def test_replicas_of_an_older_attempt_are_deleted_by_their_number():
    bench = Bench(ALICE)
    x = bench.done(value=None)
    y = bench.submit(x)
    out = bench.on(report(ALICE, y, 1, b"v", held=[["me/gone", 7]]))
    assert sent(out, DeleteData) == [(ALICE, DeleteData(["me/gone"], [7]))]


# --------------------------------------------------------------------------------------------------------- duplicates


@pytest.mark.parametrize("value", [b"another", None])
def test_a_duplicate_with_another_outcome_never_replaces_a_published_one(value):
    bench = Bench(ALICE, BOB)
    task = bench.done(value=b"first")
    for address in (ALICE, BOB):
        for attempt in (0, 1, 2, 99):
            bench.on(report(address, task, attempt, value))
            assert (task.status, task.outcome, task.published, task.holders) == (DONE, b"first", "done", None)


def test_a_key_twice_in_one_report_counts_once_and_the_connection_is_what_it_costs():
    bench = Bench(ALICE)
    task = bench.submit()
    twice = Finished([task.key] * 2, [1, 1], [1, 1], [b"a", b"b"], [1, 1], {}, [])
    with pytest.raises(ProtocolError):
        bench.state.handle(Received(ALICE, twice), bench.now)
    assert (task.status, bench.state.unfinished) == (SENT, 1)
    bench.finish(task, b"c")
    assert task.outcome == b"c"


def test_a_value_that_is_computed_again_keeps_its_first_outcome_as_what_handles_say():
    bench = Bench(ALICE, BOB)
    x = bench.done(value=None)
    holder = x.worker
    bench.lose(holder)
    bench.on(Wanted(x, []))
    assert x.status == SENT and x.attempt == 2 and x.published == "done"
    bench.fail(x, "raised", b"an error this time")
    assert x.published == "done"


# ------------------------------------------------------------------------------------------------------- incarnations


def test_a_worker_that_was_restarted_on_the_same_address_has_nothing_of_the_former_one():
    bench = Bench(ALICE)
    x = bench.done(value=None)
    bench.cut(ALICE)
    bench.on(CenterSaid(WorkerJoined(member(ALICE, "two"))))
    bench.on(Connected(member(ALICE, "two"), []))
    assert not x.holders
    y = bench.submit(x)
    assert (x.status, x.attempt) == (SENT, 2), "it is computed again, not looked for"
    bench.on(report(ALICE, x, 1, None))
    assert x.status == SENT, "the former one's result is not believed"
    bench.finish(x, None)
    assert (x.holders, y.status) == ({ALICE}, SENT)


# --------------------------------------------------------------------------------------------------------- at most once


def once():
    return kind(attempts=1)


def test_what_may_run_once_is_never_sent_again_when_its_worker_is_lost():
    for how in (Bench.cut, Bench.lose):
        bench = Bench(ALICE, BOB)
        task = bench.submit(kind=once())
        bench_out = how(bench, task.worker)
        assert not sent(bench_out, Compute)
        assert task.status == FAILED
        assert isinstance(task.outcome, TaskCrashed)


def test_a_lost_result_of_what_may_run_once_is_lost():
    bench = Bench(ALICE, BOB)
    x = bench.done(value=None, kind=once())
    bench.lose(x.worker)
    y = bench.submit(x)
    assert (x.status, y.status) == (FAILED, FAILED)
    assert isinstance(x.outcome, KeyLost)


def note_and_wait(directory, number):
    descriptor = os.open(f"{directory}/ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{number}\n".encode())
    os.close(descriptor)
    time.sleep(0.02)
    return number


def test_attempts_1_never_runs_twice_when_a_worker_is_killed(tmp_path):
    with Cluster(n_workers=2, ncores=2) as cluster, Pool(cluster) as pool:
        pool._core.wait(lambda: len(pool.workers) == 2, 20)
        handles = pool.options(attempts=1).map(note_and_wait, [tmp_path] * 300, range(300))
        handles[0].wait(20)
        os.kill(next(iter(agent_pids(pool.address).values())), signal.SIGKILL)
        outcomes = [handle.exception(timeout=60) for handle in handles]
    ran = [int(line) for line in (tmp_path / "ran").read_text().split()]
    assert len(ran) == len(set(ran))
    assert {type(outcome) for outcome in outcomes} <= {type(None), TaskCrashed}
    done = {number for number, outcome in enumerate(outcomes) if outcome is None}
    assert done <= set(ran)


# ------------------------------------------------------------------------------------------------------------- lineage


def chain(length, bytes_max):
    """`x = f(x)`, each time without the former handle: the state, the last task, and the most that recipes weighed."""
    bench = Bench(ALICE, lineage_bytes_max=bytes_max)
    state: PoolState = bench.state
    of = Kind(b"f" * 16, b"code", "f", False, Options(), Duration())
    most = 0
    former: Task | None = None
    for number in range(length):
        task = Task(f"me/{number}", of, b"args", (former,) if former is not None else ())
        state.handle(Submitted([task]), bench.now)
        state.handle(report(ALICE, task, 1, None), bench.now)
        if former is not None:
            state.handle(Dropped([former]), bench.now)
        former = task
        most = max(most, state.lifetimes.lineage.nbytes)
    assert former is not None
    return bench, former, most


@pytest.mark.parametrize("length", [20_000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.long])])
def test_recipes_of_a_long_chain_stay_within_their_bytes(length):
    bench, last, most = chain(length, 100 * KIB)
    lineage = bench.state.lifetimes.lineage
    assert 90 * KIB < lineage.nbytes <= most <= 100 * KIB
    assert len(lineage.tasks) < 400
    seen = 0
    task = last
    while task.inputs:
        (task,) = task.inputs
        seen += 1
    assert seen <= len(lineage.tasks) + 1, "what is beyond the recipes is not kept alive"
    assert task.status == RELEASED


def test_what_is_lost_is_computed_again_as_far_as_recipes_go_and_beyond_that_the_key_is_named():
    short, last, _ = chain(50, MIB)
    short.lose(ALICE)
    short.on(CenterSaid(WorkerJoined(member(BOB))))
    short.on(Connected(member(BOB), []))
    short.on(Wanted(last, []))
    for number in range(50):
        (task,) = short.state.workers[BOB].under_way.values()
        assert task.key == f"me/{number}"
        short.finish(task, None)
    assert last.has_value

    long, last, _ = chain(1000, 10 * KIB)
    long.lose(ALICE)
    long.on(CenterSaid(WorkerJoined(member(BOB))))
    long.on(Connected(member(BOB), []))
    long.on(Wanted(last, []))
    assert last.status == FAILED
    assert isinstance(last.outcome, KeyLost)
    assert last.outcome.key.startswith("me/9"), "the one that has no recipe any more"
    assert last.outcome.key in str(last.outcome)


def grow(x):
    return (x[0] + 1, bytes(20_000))


def test_a_real_chain_leaves_one_value_behind_and_comes_back_after_its_worker_was_killed(tmp_path):
    with Cluster(n_workers=2, ncores=1) as cluster, Pool(cluster) as pool:
        pool._core.wait(lambda: len(pool.workers) == 2, 20)
        x = pool.submit(grow, (0, b""))
        for _ in range(999):
            x = pool.submit(grow, x)
        assert x.wait(60)
        assert until(lambda: sum(map(len, pool.has_what().values())) == 1)
        lineage = pool._core.state.lifetimes.lineage
        assert lineage.nbytes < 1000 * 2 * KIB
        (holder,) = [address for address, keys in pool.has_what().items() if keys]
        os.kill(agent_pids(pool.address)[holder], signal.SIGKILL)
        assert x.get(timeout=60)[0] == 1000
