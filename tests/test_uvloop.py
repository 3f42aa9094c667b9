"""With uvloop and without: daemons, coroutines of tasks, and programs whose own loop it is."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import numpy as np
import pytest

from conftest import leaks_looked_for_by_module
from distributed import Cluster, Pool, rpc
from distributed.config import Settings
from distributed.errors import TaskCancelled, TaskCrashed, TaskTimeout
from distributed.loop import new_loop, new_loop_for_tasks

uvloop = pytest.importorskip("uvloop")


no_leaks = leaks_looked_for_by_module()


async def kind_of_loop():
    return type(asyncio.get_running_loop()).__module__


@pytest.fixture(params=["0", "1"], ids=["without", "with"])
def cluster(request, monkeypatch):
    monkeypatch.setenv("DISTRIBUTED_UVLOOP", request.param)
    with Cluster(n_workers=2, ncores=2) as cluster:
        cluster.has_uvloop = request.param == "1"
        yield cluster


@pytest.fixture
def pool(cluster):
    with Pool(cluster) as pool:
        yield pool


def test_daemons_and_coroutines_run_on_what_was_asked_for(cluster, pool):
    loops = {rpc(address).status()["event_loop"].partition(".")[0] for address in cluster.workers}
    assert loops == ({"uvloop"} if cluster.has_uvloop else {"distributed"})
    coroutines = pool.run_on_all(kind_of_loop).values()
    assert {kind.partition(".")[0] for kind in coroutines} == ({"uvloop"} if cluster.has_uvloop else {"asyncio"})


async def wait_for_ever():
    await asyncio.Event().wait()


async def add(x, y):
    await asyncio.sleep(0.001)
    return x + y


def test_everything_works(cluster, pool):
    assert pool.gather(pool.map(pow, range(5000), [2] * 5000)) == [n * n for n in range(5000)]
    array = np.arange(1_000_000.0)
    (handle,) = pool.scatter([array], replicas=2)
    assert pool.submit(np.sum, handle).get() == array.sum()
    np.testing.assert_array_equal(pool.submit(np.negative, handle).get(), -array)
    assert pool.gather(pool.map(add, range(200), range(200))) == [2 * n for n in range(200)]
    assert list(pool.imap(abs, range(-1000, 0))) == list(range(1000, 0, -1))
    with pytest.raises(TaskTimeout):
        pool.options(timeout=0.2).submit(signal.pause).get()
    with pytest.raises(TaskTimeout):
        pool.options(timeout=0.2).submit(wait_for_ever).get()
    with pytest.raises(TaskCrashed):
        pool.options(attempts=1).submit(os._exit, 1).get()
    running = pool.submit(signal.pause)
    while "runs on" not in running.explain():
        os.sched_yield()
    running.cancel()
    with pytest.raises(TaskCancelled):
        running.get()
    pool.restart()
    cluster.scale(1)
    assert pool.submit(np.sum, handle).get() == array.sum(), "handed over, when its worker left"


def test_a_program_whose_loop_is_uvloop():
    async def numbers():
        for number in range(20):
            await asyncio.sleep(0)
            yield number

    async def main():
        async with Pool(2) as pool:
            values = [value async for value in pool.imap(abs, numbers())]
            return values, await pool.submit(add, 2, 3), await asyncio.gather(*pool.map(abs, [-1, -2]))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == (list(range(20)), 5, [1, 2])


def test_without_it_there_is_the_usual_loop(monkeypatch):
    monkeypatch.setattr("distributed.loop.SETTINGS", Settings(uvloop=1))
    for make in (new_loop, new_loop_for_tasks):
        with_it = make()
        assert isinstance(with_it, uvloop.Loop)
        with_it.close()
    monkeypatch.setitem(sys.modules, "uvloop", None)
    for make in (new_loop, new_loop_for_tasks):
        without = make()
        assert isinstance(without, asyncio.SelectorEventLoop)
        without.close()
