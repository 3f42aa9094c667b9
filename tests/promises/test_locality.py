"""Functions run where their data is: what could stay in place is not moved.

Two workers with one executor each, real files, every byte of every block read by its consumer.

A task leaves its data when that saves it 50 ms of waiting, and on a machine that is busy with other things any task may
wait that long: so the pool is told to be more patient here. `scripts/bench locality` is run with what users have.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import time

import numpy as np
import pytest

from distributed import Cluster, Pool, rpc
from distributed.config import SETTINGS
from tests.promises.observe import MIB, until

BLOCKS, BLOCK_BYTES = 32, 16 * MIB
PATIENCE_S = 5.0


@pytest.fixture
def pool():
    with Cluster(n_workers=2, ncores=1) as cluster, Pool(cluster) as pool:
        pool._core.wait(lambda: len(pool.workers) == 2, 20)
        pool._core.state.placement.settings = dataclasses.replace(SETTINGS, move_wait_min_s=PATIENCE_S)
        yield pool


def make_block(seed):
    return np.frombuffer(os.urandom(1 << 16) * (BLOCK_BYTES >> 16), dtype=np.uint8)


def change(block):
    assert block.sum() > 0
    return block ^ 1


def add(left, right):
    assert left.sum() > 0
    assert right.sum() > 0
    return left + right


def finished(handles):
    for handle in handles:
        assert handle.wait(60)
        assert handle.successful()
    return handles


def holders(pool, handles):
    """Who holds each value, as the center knows it by now."""
    keys = [handle.key for handle in handles]
    with rpc(pool.address) as center:
        found = center.who_has(keys=keys, wait_s=10.0)
        return [set(found[key]) for key in keys]


def copies(pool, handles):
    """How many there are beyond one of each."""
    return sum(len(where) - 1 for where in holders(pool, handles))


@pytest.mark.slow
def test_blocks_stay_and_pairs_move_one_block_at_most(pool):
    x = finished(pool.map(make_block, range(BLOCKS)))
    at_x = holders(pool, x)
    assert {len(where) for where in at_x} == {1}
    assert len(set.union(*at_x)) == 2, "both workers made blocks"

    before = pool.counters["bytes_moved"]
    y = finished(pool.map(change, x))
    at_y = holders(pool, y)
    assert pool.counters["bytes_moved"] == before
    assert at_y == at_x, "each y was made where its x is"
    assert holders(pool, x) == at_x, "and no x was copied for it"

    z = finished(pool.map(add, y[:-1], y[1:]))
    apart = [left != right for left, right in itertools.pairwise(at_y)]
    moved = pool.counters["bytes_moved"] - before
    assert moved <= sum(apart) * y[0].nbytes
    at_z = holders(pool, z)
    assert until(lambda: copies(pool, y) * y[0].nbytes == moved), "the account tells what the stores hold"
    copied = [len(where) - 1 for where in holders(pool, y)]
    for position, (is_apart, where) in enumerate(zip(apart, at_z, strict=True)):
        if not is_apart:
            assert where == at_y[position], "a pair that is in one place is added up there"
    for position, extra in enumerate(copied):
        neighbours = apart[max(0, position - 1) : position + 1]
        assert extra <= any(neighbours), "no block is copied whose pairs are where it is"


def test_the_large_input_decides_also_when_its_holder_is_a_little_busier(pool):
    alice, bob = pool.workers
    large = finished([pool.options(workers=alice).submit(make_block, 0)])[0]
    small = finished([pool.options(workers=bob).submit(np.ones, 100_000)])[0]
    finished([pool.options(workers=worker).submit(time.sleep, 0.005) for worker in (alice, bob) for _ in range(10)])
    before = pool.counters["bytes_moved"]
    work = [pool.options(workers=alice).submit(time.sleep, 0.005) for _ in range(3)]
    result = pool.submit(weigh, large, small)
    finished([*work, result])
    assert holders(pool, [large]) == [{alice}]
    assert until(lambda: holders(pool, [small]) == [{alice, bob}])
    assert pool.counters["bytes_moved"] - before == small.nbytes


def weigh(large, small):
    return float(large.sum() + small.sum())
