"""A task that writes into its input sees its own change; everybody else sees the original.

Everybody: the next task on the same executor, on another one, the client, and a worker that linked the file, in all
directions. Two workers on one machine share files by hard links, so a leak in any direction would show.
"""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from conftest import leaks_looked_for_by_module
from distributed import Cluster, Pool

COUNT = 300_000


no_leaks = leaks_looked_for_by_module()


@pytest.fixture(scope="module")
def pool(no_leaks):
    with Cluster(n_workers=2, ncores=2) as cluster, Pool(cluster) as pool:
        pool._core.wait(lambda: len(pool.workers) == 2, 20)
        yield pool


def make(value):
    return np.full(COUNT, value)


def overwrite(array):
    before = int(array.sum())
    array[:] = -1
    return before, int(array.sum()), os.getpid()


def look(array):
    time.sleep(0.01)  # so that several looks do not go to one executor as a batch
    return int(array.min()), int(array.max()), os.getpid()


def inodes(pool, address):
    directory = pool._core.state.workers[address].member.directory
    return {entry.stat().st_ino for entry in os.scandir(directory) if entry.name.startswith("v")}


def everybody_sees(pool, handle, value):
    """Both executors of both workers, and the client."""
    for address in pool.workers:
        view = pool.options(workers=address)
        pids = set()
        while len(pids) < 2:  # the executor that was busy longest ago is not always the next
            looks = [view.submit(look, handle) for _ in range(4)]
            for least, most, pid in pool.gather(looks, 20):
                assert (least, most) == (value, value)
                pids.add(pid)
    mine = handle.get(20)
    assert (int(mine.min()), int(mine.max())) == (value, value)
    return mine


@pytest.mark.parametrize("where_made", ["alice", "bob", "client"])
def test_writes_are_seen_by_the_writer_alone(pool, where_made):
    alice, bob = pool.workers
    at = {"alice": alice, "bob": bob}
    handle = pool.options(workers=at[where_made]).submit(make, 7) if where_made in at else pool.scatter(make(7))
    mine = everybody_sees(pool, handle, 7)
    assert inodes(pool, alice) & inodes(pool, bob), "one file, which the other worker linked"
    for writer in (alice, bob, alice):
        view = pool.options(workers=writer)
        writes = pool.gather([view.submit(overwrite, handle) for _ in range(4)], 20)
        assert [(before, after) for before, after, _ in writes] == [(7 * COUNT, -COUNT)] * 4
        everybody_sees(pool, handle, 7)
    mine[:] = 0
    again = everybody_sees(pool, handle, 7)
    assert int(mine.sum()) == 0
    assert int(again.sum()) == 7 * COUNT


def test_a_value_inside_a_task_is_not_that_of_the_batch_mate(pool):
    """Many small tasks of one batch share the executor, and get a view of their own each."""
    handle = pool.submit(make, 3)
    assert {result[:2] for result in pool.gather(pool.map(overwrite, [handle] * 200), 60)} == {(3 * COUNT, -COUNT)}
    everybody_sees(pool, handle, 3)


def test_small_values_are_as_safe(pool):
    """A value that travels inside messages instead of in a file."""
    handle = pool.submit(np.full, 100, 5)
    writes = pool.gather([pool.submit(overwrite, handle) for _ in range(20)], 20)
    assert {write[:2] for write in writes} == {(500, -100)}
    everybody_sees(pool, handle, 5)
    listed = pool.scatter({"x": [1, 2]})["x"]
    assert pool.gather([pool.submit(lambda x: x.append(3) or x, listed) for _ in range(5)], 20) == [[1, 2, 3]] * 5
