"""What a task costs, counted instead of timed: calls, bytes, memory, system calls. A guard against creeping growth.

Each limit is what was measured when it was written, and about a quarter more. Whoever makes a task cheaper lowers it.
"""

from __future__ import annotations

import cProfile
import gc
import os
import pstats
import re
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from distributed import Pool
from distributed.config import SETTINGS
from distributed.pool.events import CenterSaid, Connected, Dropped, Received, Send, Submitted
from distributed.pool.state import PoolState
from distributed.pool.tasks import Duration, Kind, Options, Task
from distributed.wire.messages import Compute, DeleteData, Finished, Member, Members, Outcomes
from distributed.wire.values import pack_call
from distributed.worker.events import ExecutorStarted, FromClient, FromExecutor, Give, Tick
from distributed.worker.state import WorkerState

TASKS = 4_000
BATCH = 1_000
PENDING = 100_000
WORKER = Member("127.0.0.1:1", "f00", "bob", 2, 1 << 30)

CALLS_MAX = 2.7  # of Python functions in the pool's mind, from submission to the handle's end
ROUND_TRIP_CALLS_MAX = 64.0  # the same for one task that is submitted, finished and dropped by itself
WORKER_CALLS_MAX = 0.25  # of Python functions in the worker's mind, from Compute to DeleteData
WORKER_ROUND_TRIP_CALLS_MAX = 75.0
BYTES_SENT_MAX = 60.0
BYTES_RECEIVED_MAX = 48.0
PENDING_BYTES_MAX = 600.0
SYSTEM_CALLS_MAX = 0.2  # of all processes together; more than measured by a factor of two, because timing decides


def increment(number: int) -> int:
    return number + 1


# ----------------------------------------------------------------------------------------------------------- the mind


def pool_with_a_worker() -> PoolState:
    state = PoolState()
    state.handle(CenterSaid(Members([WORKER])), 0.0)
    state.handle(Connected(WORKER), 0.0)
    assert list(state.workers) == [WORKER.address]
    return state


def new_tasks(count: int) -> list[Task]:
    kind = Kind(b"f" * 16, b"code", "module.f", False, Options(), Duration())
    payload, _ = pack_call((1,), {})
    return [Task(f"a11ce0000000/{number}", kind, payload) for number in range(count)]


def life_of(state: PoolState, tasks: list[Task]) -> None:
    """Submitted in batches, sent, finished in the batches in which they were sent, dropped."""
    sent: list[Any] = []
    for start in range(0, len(tasks), BATCH):
        sent += state.handle(Submitted(tasks[start : start + BATCH]), 0.0)
    while sent:
        message = sent.pop(0)
        if isinstance(message, Send) and isinstance(message.message, Compute):
            sent += state.handle(Received(message.address, finished(message.message)), 0.0)
    state.handle(Dropped(tasks), 0.0)


def finished(compute: Compute) -> Finished:
    count = len(compute.keys)
    return Finished(compute.keys, compute.attempts, [5] * count, [b"value"] * count, [2] * count, {}, [])


def test_a_task_costs_the_mind_of_a_pool_few_calls() -> None:
    state = pool_with_a_worker()
    life_of(state, new_tasks(BATCH))  # what happens once is not counted
    tasks = new_tasks(TASKS)
    calls = calls_of(life_of, state, tasks)
    assert not state.unfinished and all(task.published for task in tasks)
    assert calls / TASKS < CALLS_MAX


def calls_of(function: Any, *args: Any) -> int:
    """Python functions that are called, those that are built in not counted."""
    profile = cProfile.Profile(builtins=False)
    profile.runcall(function, *args)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


def lives_one_by_one(state: PoolState, tasks: list[Task]) -> None:
    for task in tasks:
        life_of(state, [task])


def test_a_round_trip_costs_the_mind_of_a_pool_few_calls() -> None:
    state = pool_with_a_worker()
    life_of(state, new_tasks(BATCH))
    assert calls_of(lives_one_by_one, state, new_tasks(500)) / 500 < ROUND_TRIP_CALLS_MAX


def pool_with_workers(count: int) -> PoolState:
    state = PoolState()
    members = [Member(f"10.0.0.1:{port}", "f00", "bob", 2, 1 << 30) for port in range(1, count + 1)]
    state.handle(CenterSaid(Members(members)), 0.0)
    for member in members:
        state.handle(Connected(member), 0.0)
    return state


def lives_beside_long_ones(state: PoolState, tasks: list[Task]) -> None:
    """While every second worker is busy, as between the layers of a graph."""
    for task in tasks:
        value = new_tasks(1)[0]
        life_of_value = state.handle(Submitted([value]), 0.0)
        [sent] = [what for what in life_of_value if isinstance(what, Send)]
        compute: Any = sent.message
        large = Finished(compute.keys, compute.attempts, [10**6], [None], [2], {}, [])
        state.handle(Received(sent.address, large), 0.0)
        task.inputs = (value,)
        life_of(state, [task])
        state.handle(Dropped([value]), 0.0)


@pytest.mark.parametrize("lives", [lives_one_by_one, lives_beside_long_ones])
def test_a_task_costs_the_mind_of_a_pool_the_same_among_many_workers(lives: Any) -> None:
    calls = []
    for count in (200, 2000):
        state = pool_with_workers(count)
        busy = new_tasks(count)
        for task in busy:
            task.key = f"b0b/{task.key}"
            state.handle(Submitted([task]), 0.0)
        assert sum(bool(view.under_way) for view in state.workers.values()) > count / 2
        calls.append(calls_of(lives, state, new_tasks(50)))
    few, many = calls
    assert many < 1.2 * few


def worker_that_knows_a_function() -> WorkerState:
    state = WorkerState(WORKER, SETTINGS)
    state.start()
    state.handle(ExecutorStarted(1, 1000), 0.0)
    state.handle(ExecutorStarted(2, 1001), 0.0)
    work_of(state, BATCH, BATCH)
    return state


def work_of(state: WorkerState, count: int, batch: int) -> None:
    """Tasks come in batches, are given to executors, end in the batches in which they were given, and are deleted."""
    for start in range(0, count, batch):
        keys = [f"a11ce0000000/{number}" for number in range(start, start + batch)]
        columns = {"keys": keys, "attempts": [1] * batch, "args": [b"args"] * batch, "inputs": {}}
        order = Compute(b"f" * 16, b"code", "module.f", **columns, priority=0.0, timeout_s=0.0)
        todo = state.handle(FromClient("a11ce0000000", order), 0.0)
        for given in todo:
            if isinstance(given, Give):
                todo += state.handle(FromExecutor(given.executor, outcomes(given.message)), 0.0)
        state.handle(FromClient("a11ce0000000", DeleteData(keys)), 0.0)
        state.handle(Tick(), 1e9)


def outcomes(run: Any) -> Outcomes:
    count = len(run.keys)
    serials = list(range(run.serial, run.serial + count))
    return Outcomes(serials, [b"value"] * count, [5] * count, [2] * count, {}, {}, {})


def test_a_task_costs_the_mind_of_a_worker_few_calls() -> None:
    state = worker_that_knows_a_function()
    assert calls_of(work_of, state, TASKS, BATCH) / TASKS < WORKER_CALLS_MAX
    assert not state.store.entries and not state.tasks


def test_a_round_trip_costs_the_mind_of_a_worker_few_calls() -> None:
    state = worker_that_knows_a_function()
    assert calls_of(work_of, state, 500, 1) / 500 < WORKER_ROUND_TRIP_CALLS_MAX


def test_the_calls_of_a_task_do_not_grow_with_the_number_of_tasks() -> None:
    state, calls = pool_with_a_worker(), []
    for count in (BATCH, BATCH, 10 * BATCH):
        calls.append(calls_of(life_of, state, new_tasks(count)) / count)
    assert calls[2] < calls[1] * 1.1


# ------------------------------------------------------------------------------------------------ a pool with a worker


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A FIFO: a task that opens it for reading is held until somebody opens it for writing."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def hold(path: Path) -> None:
    with open(path, "rb") as gate:
        gate.read()


def test_a_task_takes_few_bytes_on_the_wire() -> None:
    with Pool(2) as pool:
        pool.gather(pool.map(increment, range(BATCH)))
        before = pool.counters
        pool.gather(pool.map(increment, range(TASKS)))
        after = pool.counters
    sent, received = ((after[name] - before[name]) / TASKS for name in ("bytes_sent", "bytes_received"))
    assert 1 < sent < BYTES_SENT_MAX
    assert 1 < received < BYTES_RECEIVED_MAX


def test_a_pending_task_takes_little_memory_at_the_client(gate: Path) -> None:
    with Pool(1) as pool:
        pool.gather(pool.map(increment, range(BATCH)))
        held = pool.submit(hold, gate)
        gc.collect()
        tracemalloc.start()
        try:
            handles = pool.map(increment, range(PENDING))
            pool.ncores()  # the pool has taken them up when the center has answered this
            gc.collect()
            pending_bytes = tracemalloc.get_traced_memory()[0] / PENDING
        finally:
            tracemalloc.stop()
        assert not handles[-1].ready()
        open(gate, "wb").close()
        held.get()
        assert pool.gather(handles) == list(range(1, PENDING + 1))
    assert 100 < pending_bytes < PENDING_BYTES_MAX


# ------------------------------------------------------------------------------------------------------- system calls

PROGRAM = """
import sys
from distributed import Pool
from distributed.config import SETTINGS

def increment(number):
    return number + 1

with Pool(2) as pool:
    assert pool.gather(pool.map(increment, range(int(sys.argv[1])))) == list(range(1, int(sys.argv[1]) + 1))
"""


def system_calls(count: int, written: Path) -> int:
    """How many system calls client, daemon and executors make for a program with this many tasks."""
    strace = ["strace", "--follow-forks", "--summary-only", "--output", str(written)]
    subprocess.run([*strace, sys.executable, "-c", PROGRAM, str(count)], check=True, timeout=100)
    total = re.search(r"^100\.00 +[\d.]+ +\d+ +(\d+)", written.read_text(), re.MULTILINE)
    assert total is not None, written.read_text()
    return int(total[1])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_a_task_takes_few_system_calls(tmp_path: Path) -> None:
    few, many = (system_calls(count, tmp_path / f"{count}.txt") for count in (1_000, 21_000))
    assert (many - few) / 20_000 < SYSTEM_CALLS_MAX
