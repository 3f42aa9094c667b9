"""Ten times 100,000 tasks and a chain of 100,000 steps leave no memory behind.

When all is released, client, agent and center are within 5 MiB of where they were after a warm-up. The daemons run as
they always do. The client is a process of its own that allocates with the C library's malloc: Python's own allocator
gives back whole mebibytes only, so that a handful of small living objects decide what it keeps, and that is chance.
The agent has its share of such chance; but a leak grows each time, and chance does not.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import time

import pytest

from distributed import Cluster, Pool, rpc
from tests.promises.observe import MIB, memory_bytes, until

GROWTH_BYTES_MAX = 5 * MIB
TASKS = 100_000
ROUNDS = 10
TIDY_S = 2.5  # daemons look each second whether work is over


class Scales:
    """Weighs the three processes when all is released and quiet."""

    def __init__(self, cluster, center):
        self.center = center
        self.pids = {
            "client": os.getpid(),
            "agent": next(iter(cluster._workers.values()))._process.pid,
            "center": cluster._centers[0]._process.pid,
        }

    def weigh(self):
        assert until(lambda: not any(self.center.has_what().values())), "the store is not empty"
        time.sleep(TIDY_S)  # nobody can be asked whether it has tidied up
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return {name: memory_bytes(pid) for name, pid in self.pids.items()}


def same(x):
    return x


def add_one(x):
    return x + 1


def run_many(pool):
    handles = pool.map(same, range(TASKS))
    for handle in handles:
        assert handle.wait()
    assert handles[-1].get() == TASKS - 1


def run_chain(pool, steps):
    handle = pool.submit(same, 0)
    for _ in range(steps):
        handle = pool.submit(add_one, handle)
    assert handle.get(100) == steps


def growth(before, after):
    return {name: round((after[name] - before[name]) / MIB, 1) for name in before}


def many(pool, scales):
    for _ in range(2):  # the first round fills caches and tables, the second finds its place in what that left
        run_many(pool)
    grown = []
    before = scales.weigh()
    while not grown or (len(grown) < 3 and max(grown[-1].values()) * MIB > GROWTH_BYTES_MAX):
        for _ in range(ROUNDS):
            run_many(pool)
        after = scales.weigh()
        grown.append(growth(before, after))
        before = after
    return grown


def chain(pool, scales):
    run_many(pool)
    run_chain(pool, TASKS // 10)
    before = scales.weigh()
    run_chain(pool, TASKS)
    return [growth(before, scales.weigh())]


def main(story):
    del os.environ["PYTHONMALLOC"]  # the daemons inherit what is left
    with Cluster(n_workers=1, ncores=2) as cluster, Pool(cluster) as pool, rpc(cluster.center_address) as center:
        print(json.dumps(story(pool, Scales(cluster, center))))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("story", [many, chain])
def test_memory_comes_back(story):
    program = f"from tests.promises import test_memory as m; m.main(m.{story.__name__})"
    environment = {**os.environ, "PYTHONMALLOC": "malloc"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    grown = json.loads(done.stdout)
    print("grown by MiB:", grown)
    assert max(grown[-1].values()) * MIB < GROWTH_BYTES_MAX, grown
