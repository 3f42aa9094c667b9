"""`Pool.run_on_all`: once in every executor, in no other, whatever else runs there."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from conftest import leaks_looked_for_by_module
from distributed import Cluster, Pool, current_pool
from distributed.errors import CannotPickle, DistributedError, NoWorker, TaskCrashed, TaskTimeout

no_leaks = leaks_looked_for_by_module()


@pytest.fixture(scope="module")
def pool(no_leaks):
    with Cluster(n_workers=2, ncores=2) as cluster, Pool(cluster) as pool:
        yield pool


def names_of(pool):
    return [f"{address}/{number}" for address in pool.workers for number in range(2)]


def count_here():
    """How often this process has run it."""
    sys.counted = getattr(sys, "counted", 0) + 1
    return os.getpid(), sys.counted


def test_it_runs_once_in_each_executor_and_the_same_name_is_the_same_process(pool):
    first, second = pool.run_on_all(count_here), pool.run_on_all(count_here)
    assert list(first) == list(second) == names_of(pool)
    assert len({pid for pid, _ in first.values()}) == 4
    assert second == {name: (pid, count + 1) for name, (pid, count) in first.items()}


async def where():
    await asyncio.sleep(0)
    return os.getpid()


def test_a_coroutine_function_runs_once_in_the_asynchronous_executor_of_each_worker(pool):
    first = pool.run_on_all(where)
    assert list(first) == [f"{address}/async" for address in pool.workers]
    assert pool.run_on_all(where) == first
    assert len(set(first.values())) == 2


def test_arguments_are_as_with_submit(pool):
    two = pool.submit(abs, -2)
    assert set(pool.run_on_all(lambda x, *, y: x + y, two, y=[3][0]).values()) == {5}
    assert set(pool.run_on_all("operator.add", 1, 2).values()) == {3}
    with pytest.raises(CannotPickle, match="lock"):
        pool.run_on_all(print, threading.Lock())


def hold(path):
    """Run until somebody reads the pipe."""
    path.with_suffix(".began").touch()
    with open(path, "w"):
        return os.getpid()


def wait_for(path):
    while not path.exists():
        os.sched_yield()


def test_it_waits_for_those_that_are_busy_and_does_not_disturb_them(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with Pool(2) as pool:
        (address,) = pool.workers
        busy = pool.options(attempts=1).submit(hold, pipe)
        wait_for(pipe.with_suffix(".began"))
        queued = pool.map(abs, range(100))

        def read_when_the_other_one_is_done():
            marks = [tmp_path / f"mark{number}" for number in (0, 1)]
            while not any(mark.exists() for mark in marks):
                os.sched_yield()
            assert not all(mark.exists() for mark in marks)
            assert not busy.ready()
            with open(pipe) as file:
                file.read()

        reader = threading.Thread(target=read_when_the_other_one_is_done)
        reader.start()
        pids = pool.run_on_all(leave_a_mark, tmp_path)
        reader.join()
        assert busy.get() in pids.values()
        assert set(pids) == {f"{address}/0", f"{address}/1"}
        assert pool.gather(queued) == list(range(100))


def leave_a_mark(directory):
    for number in (0, 1):
        try:
            (directory / f"mark{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return os.getpid()


def raise_in(path):
    (path / str(os.getpid())).touch()
    raise ValueError("not here")


def test_what_it_raises_is_raised_when_all_have_run_it_and_names_the_executor(pool, tmp_path):
    with pytest.raises(ValueError, match="not here") as caught:
        pool.run_on_all(raise_in, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    assert any(names_of(pool)[0] in line and "3 others failed" in line for line in caught.value.__notes__)


def die_once(directory: Path):
    """Once for each parent: the first time there the executor is killed."""
    mark = directory / str(os.getpid())
    if len(list(directory.iterdir())) < 2:
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def test_an_executor_that_dies_of_it_runs_it_again_in_its_replacement(tmp_path):
    with Pool(2) as pool:
        dead = pool.run_on_all(os.getpid)
        alive = pool.run_on_all(die_once, tmp_path)
        assert alive.keys() == dead.keys()
        assert {int(mark.name) for mark in tmp_path.iterdir()}.isdisjoint(alive.values())
        assert pool.run_on_all(os.getpid) == alive


def test_options_hold(pool):
    address = pool.workers[0]
    assert list(pool.options(workers=address).run_on_all(os.getpid)) == [f"{address}/0", f"{address}/1"]
    with pytest.raises(NoWorker, match=r"nobody.*there are.*127"):
        pool.options(workers="nobody").run_on_all(os.getpid)
    with pytest.raises(TaskCrashed, match="exit code 3"):
        pool.options(attempts=1, workers=address).run_on_all(os._exit, 3)
    with pytest.raises(TaskTimeout):
        pool.options(timeout=0.1).run_on_all(signal.pause)
    with pytest.raises(ValueError, match="run_on_all"):
        pool.options(key="one").run_on_all(os.getpid)


def from_inside():
    return current_pool().run_on_all(abs, 1)


def test_from_inside_of_a_task_it_would_wait_for_itself_and_says_so(pool):
    with pytest.raises(DistributedError, match="never be free"):
        pool.submit(from_inside).get()


def test_a_worker_that_joins_later_has_not_run_it():
    with Cluster(n_workers=1, ncores=1) as cluster, Pool(cluster) as pool:
        assert len(pool.run_on_all(count_here)) == 1
        cluster.scale(2)
        while len(pool.workers) < 2:
            pool.submit(abs, -1).get()
        assert sorted(count for _, count in pool.run_on_all(count_here).values()) == [1, 2]


def test_an_interrupt_cancels_what_has_not_begun(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with Pool(1) as pool:
        busy = pool.submit(hold, pipe)
        wait_for(pipe.with_suffix(".began"))
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            pool.run_on_all(leave_a_mark, tmp_path)
        with open(pipe) as file:
            file.read()
        busy.get()
        assert pool.submit(abs, -1).get() == 1
        assert not (tmp_path / "mark0").exists()


def interrupt(*_):
    raise KeyboardInterrupt
