"""Ten thousand tasks are cancelled at once, wherever they are: nothing of them is left, and no slot is lost.

Some run, some are queued at workers, some wait for a value that is on its way from a worker which does not answer, most
were not sent yet; others wait for the results of these.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from distributed import Cluster, Pool, rpc
from distributed.errors import TaskCancelled
from tests.promises.observe import agent_pids, until

WORKERS, CORES = 2, 2
MANY = 10_000


@pytest.fixture
def pool():
    with Cluster(n_workers=WORKERS, ncores=CORES) as cluster, Pool(cluster) as pool:
        pool._core.wait(lambda: len(pool.workers) == WORKERS, 20)
        yield pool


def hold(directory, number):
    Path(directory, f"{number}").touch()
    while True:
        time.sleep(0.005)


def meet(directory, number, count):
    """Every one of them is running, or none ever ends."""
    Path(directory, f"met-{number}").touch()
    while len(list(Path(directory).glob("met-*"))) < count:
        time.sleep(0.005)
    return os.getpid()


def size_of(array, number):
    return array.size


def cancel(handles):
    for handle in handles:
        handle.cancel()
    assert all(map(is_cancelled, handles))


def is_cancelled(handle):
    return handle.cancelled() and isinstance(handle.exception(), TaskCancelled)


def status_of(address):
    with rpc(address) as agent:
        return agent.status()


def tasks_at(address):
    return status_of(address)["tasks"]


def assert_every_slot_is_there(pool, directory):
    """As many tasks as there are cores run at one time, and the workers know of no other."""
    count = WORKERS * CORES
    executors = [
        handle.get(timeout=60) for handle in pool.map(meet, [directory] * count, range(count), [count] * count)
    ]
    assert len(set(executors)) == count
    assert until(lambda: not any(map(tasks_at, agent_pids(pool.address))))


def test_ten_thousand_queued_and_running_tasks_are_cancelled(pool, tmp_path):
    handles = pool.map(hold, [tmp_path] * MANY, range(MANY))
    assert until(lambda: len(list(tmp_path.iterdir())) == WORKERS * CORES)
    cancel(reversed(handles))
    assert_every_slot_is_there(pool, tmp_path)
    assert len([path for path in tmp_path.iterdir() if "met" not in path.name]) < MANY


def test_what_waits_for_cancelled_tasks_is_cancelled_and_says_because_of_which(pool, tmp_path):
    base = pool.submit(hold, tmp_path, 0)
    first = pool.map(size_of, [base] * MANY, range(MANY))
    last = pool.submit(sum, first[-1:])
    base.cancel()
    assert all(map(is_cancelled, [base, *first, last]))
    assert first[0].exception().key == first[0].key
    assert f"because its input {base.key} was" in str(first[0].exception())
    assert f"because its input {first[-1].key} was" in str(last.exception())
    assert_every_slot_is_there(pool, tmp_path)


def test_ten_thousand_tasks_are_cancelled_whose_input_does_not_come(pool, tmp_path):
    silent, other = sorted(pool.workers)
    array = pool.options(workers=[silent]).submit(np.zeros, 1_000_000)
    assert array.wait(20)
    pid = agent_pids(pool.address)[silent]
    os.kill(pid, signal.SIGSTOP)
    try:
        handles = pool.options(workers=[other]).map(size_of, [array] * MANY, range(MANY))
        assert until(lambda: status_of(other)["fetching"] > 0)
        cancel(handles)
        assert until(lambda: tasks_at(other) == 0)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert_every_slot_is_there(pool, tmp_path)
    assert array.get().size == 1_000_000
