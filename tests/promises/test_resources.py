"""Resources: never is more in use at a worker than it has, over all clients, and all of it comes back in the end."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from conftest import leaks_looked_for_by_module
from distributed import Cluster, Pool, current_pool, rpc
from distributed.errors import TaskCancelled, TaskCrashed, TaskTimeout

no_leaks = leaks_looked_for_by_module()


@pytest.fixture(scope="module")
def cluster(no_leaks):
    with Cluster(n_workers=1, ncores=4, resources={"gpu": 2}) as cluster:
        yield cluster


@pytest.fixture
def pool(cluster):
    with Pool(cluster) as pool:
        yield pool


def used(pool):
    with rpc(pool.workers[0]) as worker:
        return worker.status()["resources_used"]


def all_comes_back(pool):
    while used(pool) != {"gpu": 0}:
        os.sched_yield()
    return True


def use_one_of_two(directory):
    """Take a lock that nobody else has; there are two. No third task may be there at the same time."""
    for number in (0, 1):
        with open(directory / f"gpu{number}", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            os.sched_yield()
            time.sleep(0.001)
            return number
    raise RuntimeError("both are in use")


def test_two_clients_together_never_use_more_than_there_is(cluster, tmp_path):
    with Pool(cluster) as alice, Pool(cluster) as bob:
        handles = [pool.options(resources={"gpu": 1}).map(use_one_of_two, [tmp_path] * 150) for pool in (alice, bob)]
        others = alice.map(abs, range(-100, 0))
        assert alice.gather(others) == list(range(100, 0, -1))
        assert set(alice.gather(handles[0]) + bob.gather(handles[1])) <= {0, 1}
        assert all_comes_back(alice)


def hold(path):
    path.with_suffix(f".{os.getpid()}").touch()
    with open(path, "w"):
        return os.getpid()


def test_tasks_that_need_none_pass_by_those_that_wait(pool, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    large = pool.options(resources={"gpu": 2})
    first, second = large.submit(hold, pipe), large.submit(abs, -2)
    assert pool.gather(pool.map(abs, range(50))) == list(range(50))
    assert not second.ready()
    assert "waits for gpu 2: gpu 2/2 in use" in second.explain()
    with open(pipe) as file:
        file.read()
    assert (first.get() > 0, second.get()) == (True, 2)


def test_whatever_its_end_a_task_gives_back_what_it_used(pool, tmp_path):
    both = pool.options(resources={"gpu": 2}, attempts=1)
    with pytest.raises(ZeroDivisionError):
        both.submit(divmod, 1, 0).get()
    with pytest.raises(TaskCrashed):
        both.submit(os._exit, 1).get()
    with pytest.raises(TaskTimeout):
        both.options(timeout=0.1).submit(signal.pause).get()
    running, waiting = both.submit(signal.pause), both.submit(signal.pause)
    while used(pool) != {"gpu": 2}:
        os.sched_yield()
    waiting.cancel()
    running.cancel()
    with pytest.raises(TaskCancelled):
        running.get()
    assert both.submit(abs, -3).get() == 3
    assert all_comes_back(pool)


CLIENT = """
import sys, signal
from distributed import Pool
pool = Pool(sys.argv[1])
handles = pool.options(resources={"gpu": 1}).map(lambda n: signal.pause(), range(5))
sys.stdout.write("started")
sys.stdout.flush()
signal.pause()
"""


def test_what_a_client_used_that_was_killed_is_free_for_others_when_its_lease_is_over(monkeypatch):
    monkeypatch.setenv("DISTRIBUTED_CLOSED_CLIENT_LEASE_S", "0.2")
    with Cluster(n_workers=1, ncores=4, resources={"gpu": 2}) as cluster, Pool(cluster) as pool:
        client = subprocess.Popen([sys.executable, "-c", CLIENT, cluster.center_address], stdout=subprocess.PIPE)
        assert client.stdout.read(7) == b"started"
        while used(pool) != {"gpu": 2}:
            os.sched_yield()
        handle = pool.options(resources={"gpu": 2}).submit(abs, -1)
        client.kill()
        client.wait()
        client.stdout.close()
        assert handle.get() == 1


def outer():
    pool = current_pool().options(resources={"gpu": 1})
    return pool.gather(pool.map(abs, [-1, -2, -3]))


def test_tasks_in_tasks_ask_for_them_too(pool):
    assert pool.submit(outer).get() == [1, 2, 3]
    assert all_comes_back(pool)


def greedy():
    return current_pool().options(resources={"gpu": 1}).submit(abs, -1).get()


def test_a_task_that_keeps_what_its_own_task_needs_hears_so_and_does_not_wait_for_ever(monkeypatch, cluster):
    monkeypatch.setenv("DISTRIBUTED_UNMET_DEMAND_GRACE_S", "0.5")
    program = (
        "from tests.promises.test_resources import *\n"
        f"with Pool({cluster.center_address!r}) as pool:\n"
        "    both, one = pool.options(resources={'gpu': 2}), pool.options(resources={'gpu': 1})\n"
        "    try:\n"
        "        both.submit(greedy).get(30)\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error)\n"
        "    print(one.submit(greedy).get(30))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    refused, enough = ran.stdout.splitlines() or [ran.stderr, ""]
    assert "NoWorker builtins.abs needs gpu 1, and tests.promises.test_resources.greedy" in refused
    assert "keeps gpu 2 while it waits for it" in refused
    assert enough == "1", "the other one was free"


def test_a_demand_that_nobody_meets_is_explained_at_once_and_an_error_after_the_grace(monkeypatch, cluster):
    script = """
import sys
from distributed import Pool
from distributed.errors import NoWorker
with Pool(sys.argv[1]) as pool:
    handle = pool.options(resources={"gpu": 3}).submit(abs, -1)
    dependent = pool.submit(abs, handle)
    print(handle.explain())
    for one in (handle, dependent):
        try:
            one.get()
        except NoWorker as error:
            print(error)
"""
    environment = {**os.environ, "DISTRIBUTED_UNMET_DEMAND_GRACE_S": "0.2"}
    ran = subprocess.run(
        [sys.executable, "-c", script, cluster.center_address], env=environment, capture_output=True, text=True
    )
    sentence = f"builtins.abs needs gpu 3, the most that a worker has is gpu 2, at {cluster.workers[0]}"
    assert ran.stdout.splitlines() == [sentence] * 3
    assert ran.stderr == ""


def test_a_worker_that_joins_in_time_takes_what_nobody_else_could(pool):
    with Cluster(n_workers=0, center=None) as small, Pool(small) as waiting:
        handle = waiting.options(resources={"gpu": 1}).submit(abs, -1)
        assert "no worker" in handle.explain()
        command = [sys.executable, "-m", "distributed", "worker", small.center_address, "--resources", "gpu=1"]
        worker = subprocess.Popen([*command, "--ncores", "1"], stdout=subprocess.PIPE, text=True)
        assert handle.get() == 1
        lines = iter(worker.stdout.readline, "")
        assert "  has      gpu 1\n" in lines
        status = subprocess.run(
            [sys.executable, "-m", "distributed", "status", small.center_address], capture_output=True, text=True
        ).stdout
        assert "resources" in status
        assert "gpu 0/1" in status or "gpu 1/1" in status
        worker.terminate()
        worker.wait()
        worker.stdout.close()
