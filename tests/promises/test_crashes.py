"""A task that ends its process, one that segfaults, one that holds the GIL for 20 seconds: each costs itself alone.

Meanwhile the worker stays a member and its data stays readable; only the task that crashed used up an attempt; tasks
that were batched with it finish, and others run exactly once.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import os
import re
import signal
import sys
import time

import numpy as np
import pytest

from distributed import Cluster, Pool, current_pool, rpc
from distributed.errors import TaskCancelled, TaskCrashed, TaskTimeout
from tests.promises.observe import until

READ_S_MAX = 1.0  # generous: a read of 1 MiB takes milliseconds
MATES = 400


@pytest.fixture
def pool():
    with Cluster(n_workers=1, ncores=2) as cluster, Pool(cluster) as pool:
        pool._core.wait(lambda: len(pool.workers) == 1, 20)
        yield pool


def exit_process():
    os._exit(1)


def segfault():
    ctypes.string_at(0)


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def abort():
    os.abort()


def talk_and_crash(crash):
    """It takes memory, says something, and dies deep in a call."""
    block = bytearray(80 << 20)
    print("these were", file=sys.stderr)
    print("its last words", file=sys.stderr, flush=True)
    crash()
    return len(block)


def hold_the_gil(seconds):
    """A loop in C, seen from Python: nothing else of this process runs meanwhile."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def note(path, number):
    """One line for each execution; a write of this size to a file opened for appending is atomic."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{number}\n".encode())
    os.close(descriptor)
    return number


def executions(path):
    return sorted(map(int, path.read_text().split()))


def incarnation(pool):
    with rpc(pool.address) as center:
        return [member["incarnation"] for member in center.status()["members"]]


class Reader:
    """Reads a stored value again and again, over the wire, and remembers the longest it took."""

    def __init__(self, pool):
        self.address, self.slowest_s, self.count = pool.workers[0], 0.0, 0
        self.handle = pool.scatter(np.arange(131_072))
        self.key = self.handle.key

    def read(self):
        began_s = time.monotonic()
        with rpc(self.address) as worker:
            found = worker.get_data(keys=[self.key])
        self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
        self.count += 1
        assert int(found[self.key][-1]) == 131_071


@pytest.mark.parametrize("crash", [exit_process, segfault, kill_itself, abort])
def test_a_crash_costs_the_task_alone(pool, crash, tmp_path):
    before, reader, ran = incarnation(pool), Reader(pool), tmp_path / "ran"
    pool.gather(pool.map(note, [str(tmp_path / "warm-up")] * 100, range(100)), 20)  # now they go in batches
    mates = pool.map(note, [str(ran)] * MATES, range(MATES))
    crashing = pool.options(attempts=2).submit(crash)
    mates += pool.map(note, [str(ran)] * MATES, range(MATES, 2 * MATES))
    assert until(lambda: reader.read() or crashing.ready())
    with pytest.raises(TaskCrashed) as caught:
        crashing.get(20)
    assert len(caught.value.attempts) == 2
    assert pool.gather(mates, 60) == list(range(2 * MATES))
    assert executions(ran) == list(range(2 * MATES)), "each mate ran exactly once"
    reader.read()
    assert incarnation(pool) == before
    assert reader.slowest_s < READ_S_MAX


@pytest.mark.parametrize(
    ("crash", "cause", "has_stack"),
    [
        (exit_process, "exit code 1", False),
        (segfault, "signal 11 (SIGSEGV)", True),
        (abort, "signal 6 (SIGABRT)", True),
        (kill_itself, "signal 9 (SIGKILL)", False),
    ],
)
def test_after_three_attempts_the_error_tells_of_each_where_and_why_it_ended(pool, crash, cause, has_stack):
    with pytest.raises(TaskCrashed) as caught:
        pool.submit(talk_and_crash, crash).get(20)
    error, text = caught.value, str(caught.value)
    assert "talk_and_crash" in text.splitlines()[0]
    assert len(error.attempts) == 3
    for number, told in enumerate(error.attempts, start=1):
        assert told.startswith(f"attempt {number}: on {pool.workers[0]}: {cause}, peak memory ")
        assert int(re.search(r"peak memory (\d+)\.\d MiB", told)[1]) >= 80
        assert "these were\n    its last words" in told
        assert (f"in {crash.__name__}" in told and "in talk_and_crash" in told) == has_stack
        assert told in text


def crash_in_the_middle(path, marker, number):
    if number == 50 and not os.path.exists(marker):
        open(marker, "w").close()
        os._exit(1)
    return note(path, number)


def close_descriptors(path):
    note(path, 0)
    os.closerange(3, 300)


def replace_descriptors(path):
    note(path, 0)
    null = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):
                os.dup2(null, int(name))


@pytest.mark.parametrize("spoil", [close_descriptors, replace_descriptors])
def test_a_task_that_closes_the_descriptors_of_its_executor_crashed_it(pool, spoil, tmp_path):
    """As code does that makes a daemon of its process."""
    with pytest.raises(TaskCrashed, match="a task closed the connection of its executor") as caught:
        pool.submit(spoil, str(tmp_path / "ran")).get(20)
    assert len(caught.value.attempts) == len(executions(tmp_path / "ran")) == 3
    with rpc(pool.workers[0]) as worker:
        assert worker.status()["bad_starts"] == 0, "the executors did start, and others come at once"


def test_mates_of_the_same_function_finish_and_use_up_no_attempt(pool, tmp_path):
    """Those whose results were less than a millisecond old died with the executor: they run again, free of charge."""
    ran, marker = tmp_path / "ran", tmp_path / "crashed"
    pool.gather(pool.map(crash_in_the_middle, [str(tmp_path / "warm-up")] * 40, [""] * 40, range(40)), 20)
    view = pool.options(attempts=2)
    handles = view.map(crash_in_the_middle, [str(ran)] * MATES, [str(marker)] * MATES, range(MATES))
    assert pool.gather(handles, 60) == list(range(MATES))
    times = collections.Counter(executions(ran))
    assert set(times) == set(range(MATES))
    assert max(times.values()) <= 2
    assert times[50] == 1, "its first attempt ended before it wrote"


def test_mates_that_may_run_once_at_most_do(pool, tmp_path):
    ran, marker = tmp_path / "ran", tmp_path / "crashed"
    view = pool.options(attempts=1)
    handles = view.map(crash_in_the_middle, [str(ran)] * MATES, [str(marker)] * MATES, range(MATES))
    with pytest.raises(TaskCrashed, match="exit code 1"):
        handles.pop(50).get(20)
    others = [number for number in range(MATES) if number != 50]
    assert pool.gather(handles, 60) == others
    assert executions(ran) == others


@pytest.mark.long
@pytest.mark.slow
def test_twenty_seconds_of_the_gil_hold_up_nobody_else(pool, tmp_path):
    before, reader, ran = incarnation(pool), Reader(pool), tmp_path / "ran"
    began_s = time.monotonic()
    holding = pool.submit(hold_the_gil, 20)
    mates = pool.map(note, [str(ran)] * MATES, range(MATES))
    assert pool.gather(mates, 15) == list(range(MATES))
    reading_ends_s = began_s + 19
    while time.monotonic() < reading_ends_s:
        reader.read()
        with rpc(pool.address) as center:
            assert list(center.ncores()) == [reader.address]
        time.sleep(0.1)
    assert not holding.ready()
    print(f"{reader.count} reads, the slowest took {reader.slowest_s * 1e3:.0f} ms")
    assert holding.get(30) is None
    assert executions(ran) == list(range(MATES))
    assert incarnation(pool) == before
    assert reader.slowest_s < READ_S_MAX


def test_a_task_that_holds_the_gil_can_be_cancelled_and_timed_out(pool):
    began_s = time.monotonic()
    holding = pool.submit(hold_the_gil, 60)
    with pytest.raises(Exception, match=re.escape("timeout=0.5 s")):
        pool.options(timeout=0.5).submit(hold_the_gil, 60).get(20)
    assert holding.cancel()
    with pytest.raises(TaskCancelled):
        holding.get()
    assert pool.gather(pool.map(abs, [-1] * 4), 10) == [1] * 4
    assert time.monotonic() - began_s < 15


# ------------------------------------------------------------------------------------------------ coroutines


def is_there(path):
    return os.path.exists(path)


async def wait_for(path, ran, number):
    """Notes that it began, and ends when the file is there."""
    note(ran, number)
    while not is_there(path):  # noqa: ASYNC110  it waits for another process
        await asyncio.sleep(0.01)
    return number


async def sleep_deep():
    await sleep_long()


async def sleep_long():
    await asyncio.sleep(600)


async def answer_its_cancel():
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        return "nobody hears this"


async def hold_on():
    """It does not let itself be cancelled."""
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass


async def never_wait():
    while True:
        pass


async def end_the_process():
    os._exit(5)


def beside(pool, ran, path):
    """Coroutines that have begun, the last of which may run once only; they share one process."""
    handles = pool.options(attempts=2).map(wait_for, [path] * 4, [str(ran)] * 4, range(4))
    handles.append(pool.options(attempts=1).submit(wait_for, path, str(ran), 4))
    assert until(lambda: ran.exists() and executions(ran) == [0, 1, 2, 3, 4])
    return handles


@pytest.mark.parametrize(
    ("coroutine", "where"), [(sleep_deep, ["in sleep_deep", "in sleep_long"]), (answer_its_cancel, [])]
)
def test_a_coroutine_over_its_time_is_cancelled_and_those_beside_it_go_on(pool, coroutine, where, tmp_path):
    ran, path = tmp_path / "ran", tmp_path / "go"
    handles = beside(pool, ran, str(path))
    with pytest.raises(TaskTimeout, match=r"ran longer than timeout=0\.2 s and was cancelled") as caught:
        pool.options(timeout=0.2).submit(coroutine).get(20)
    assert ("it was at" in str(caught.value)) == bool(where)
    assert all(name in str(caught.value) for name in where)
    path.touch()
    assert pool.gather(handles, 20) == [0, 1, 2, 3, 4]
    assert executions(ran) == [0, 1, 2, 3, 4], "each ran once"


@pytest.mark.parametrize(("coroutine", "where"), [(hold_on, ""), (never_wait, "in never_wait")])
def test_one_that_does_not_end_is_killed_and_those_beside_it_run_again_free_of_charge(pool, coroutine, where, tmp_path):
    """Each of them may have two attempts, is killed twice, and runs a third time: none of that was an attempt."""
    ran, path = tmp_path / "ran", tmp_path / "go"
    *handles, once = beside(pool, ran, str(path))
    for times in (2, 3):
        with pytest.raises(TaskTimeout, match="was cancelled, did not end within 1 s, and was killed") as caught:
            pool.options(timeout=0.2).submit(coroutine).get(20)
        assert where in str(caught.value)
        assert until(lambda times=times: [n for n in executions(ran) if n < 4] == sorted([*range(4)] * times))
    path.touch()
    assert pool.gather(handles, 20) == [0, 1, 2, 3]
    with pytest.raises(TaskCrashed, match="a task beside it that did not end within 1 s of being cancelled"):
        once.get(20)
    assert executions(ran).count(4) == 1, "what may run once at most did"


async def submit_and_wait(path, ran):
    """Its first task is done when it begins to wait, and its second one is submitted afterwards."""
    first = await current_pool().submit(abs, -5)
    note(ran, first)
    while not is_there(path):  # noqa: ASYNC110  it waits for another process
        await asyncio.sleep(0.01)
    return first, await current_pool().submit(abs, -6)


def test_one_that_runs_again_beside_what_was_killed_submits_its_tasks_anew(pool, tmp_path):
    ran, path = tmp_path / "ran", tmp_path / "go"
    waiting = pool.options(attempts=2).submit(submit_and_wait, str(path), str(ran))
    for times in (1, 2):
        assert until(lambda times=times: ran.exists() and executions(ran) == [5] * times)
        with pytest.raises(TaskTimeout, match="was killed"):
            pool.options(timeout=0.2).submit(hold_on).get(20)
    path.touch()
    assert waiting.get(20) == (5, 6)


def test_what_may_run_once_and_was_beside_a_crash_hears_that_it_was_another(pool, tmp_path):
    ran, path = tmp_path / "ran", tmp_path / "go"
    *handles, once = beside(pool, ran, str(path))
    with pytest.raises(TaskCrashed, match=r"attempt 1: .*: exit code 5"):
        pool.options(attempts=1).submit(end_the_process).get(20)
    path.touch()
    assert pool.gather(handles, 20) == [0, 1, 2, 3]
    with pytest.raises(TaskCrashed, match=r"a task beside it ended the executor \(exit code 5\)"):
        once.get(20)
