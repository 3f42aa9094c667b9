"""A worker dies: its agent, all its processes, its machine. Its tasks are done elsewhere, and what it held comes back.

Lost results are computed again from their inputs, as far back as is needed and no further; each execution leaves a line
in a file, so that it can be counted. Scattered values have no recipe: replicas, or the client itself, keep them.
"""

from __future__ import annotations

import collections
import os
import signal
import time

import numpy as np
import pytest

from distributed import Cluster, Pool
from distributed.errors import KeyLost
from tests.chaos.daemons import descendants, send_all
from tests.promises.machines import machines
from tests.promises.observe import until

ITEMS = 20_000  # 160 KB: a file, which only its worker has
SILENT_S = 1.0
LARGE = 2 << 20  # above what a client keeps of what it scattered


def note(path, name):
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{name}\n".encode())
    os.close(descriptor)


def executions(path):
    return collections.Counter(path.read_text().split())


def make(path, name, *inputs):
    note(path, name)
    return np.full(ITEMS, 1 + sum(int(array[0]) for array in inputs))


def small(path, name):
    note(path, name)
    return 5


def slow(path, number):
    note(path, number)
    time.sleep(0.02)
    return number


class Workers:
    """A cluster whose workers can be killed."""

    def __init__(self, cluster, pool):
        self.cluster, self.pool = cluster, pool

    def kill(self, address, everything=False):
        """kill -9 of the agent, or of everything that belongs to it, at one time."""
        pid = self.cluster._workers[address]._process.pid
        send_all([*(descendants(pid) if everything else []), pid], signal.SIGKILL)

    def more(self):
        """One more worker; its address."""
        before = set(self.pool.workers)
        self.cluster.scale(len(self.cluster.workers) + 1)
        self.pool._core.wait(lambda: len(self.pool.workers) > len(before), 20)
        return (set(self.pool.workers) - before).pop()


@pytest.fixture
def workers():
    with Cluster(n_workers=1, ncores=1) as cluster, Pool(cluster) as pool:
        pool._core.wait(lambda: len(pool.workers) == 1, 20)
        yield Workers(cluster, pool)


@pytest.mark.parametrize("everything", [False, True], ids=["agent", "all of its processes"])
def test_lost_results_are_computed_again_and_only_what_is_needed(workers, everything, tmp_path):
    pool, ran = workers.pool, tmp_path / "ran"
    (alice,) = pool.workers
    first = pool.submit(make, ran, "first")
    second = pool.submit(make, ran, "second", first)
    third = pool.submit(make, ran, "third", second, first)
    unneeded = pool.submit(make, ran, "unneeded", first)
    at_hand = pool.submit(small, ran, "small")
    assert all(handle.wait(20) for handle in (third, unneeded, at_hand))
    del first, second  # only their recipes are left
    workers.more()
    workers.kill(alice, everything)
    assert int(third.get(30)[0]) == 4
    assert at_hand.get(20) == 5
    assert executions(ran) == {"first": 2, "second": 2, "third": 2, "unneeded": 1, "small": 1}
    assert int(unneeded.get(30)[0]) == 2
    assert executions(ran)["unneeded"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("everything", [False, True], ids=["agent", "all of its processes"])
def test_queued_and_running_tasks_move(workers, everything, tmp_path):
    pool, ran = workers.pool, tmp_path / "ran"
    (alice,) = pool.workers
    workers.more()
    handles = pool.map(slow, [ran] * 200, range(200))
    assert until(lambda: handles[0].ready())
    workers.kill(alice, everything)
    assert pool.gather(handles, 60) == list(range(200))
    assert set(executions(ran).values()) <= {1, 2}
    assert executions(ran).total() < 220, "only what ran there, or had not been told of, ran again"


def test_a_result_that_may_not_be_computed_again_is_lost_and_says_so(workers, tmp_path):
    pool = workers.pool
    (alice,) = pool.workers
    once = pool.options(recompute=False).submit(make, tmp_path / "ran", "once")
    assert once.wait(20)
    workers.more()
    workers.kill(alice)
    with pytest.raises(KeyLost, match=once.key):
        once.get(20)
    assert executions(tmp_path / "ran") == {"once": 1}


def test_scattered_values_survive_by_replicas_or_at_their_client_and_are_lost_at_once_otherwise(workers):
    pool = workers.pool
    (alice,) = pool.workers
    kept = pool.scatter({"words": ["alice"] * 20_000, "array": np.arange(ITEMS), "number": 5})
    gone = pool.scatter([bytes(LARGE), bytes(LARGE)])
    bob = workers.more()
    twice = pool.scatter([bytes(LARGE)], replicas=2)[0]
    mapped = pool.map(len, [bytes(300_000)] * 3)  # a large argument, which is stored once
    assert mapped[0].get(20) == 300_000
    workers.kill(alice, everything=True)
    pool._core.wait(lambda: pool.workers == [bob], 20)
    assert twice.get(20) == bytes(LARGE)
    assert pool.submit(len, twice).get(20) == LARGE
    assert kept["words"].get(20) == ["alice"] * 20_000
    assert pool.submit(lambda array, number: int(array[-1]) + number, kept["array"], kept["number"]).get(20) == 20_004
    assert pool.gather(mapped, 20) == [300_000] * 3
    for use in (lambda handle: handle.get(20), lambda handle: pool.submit(len, handle).get(20)):
        began_s = time.monotonic()
        handle = gone.pop()
        with pytest.raises(KeyLost, match=handle.key):
            use(handle)
        assert time.monotonic() - began_s < 5, "at once"


def test_what_a_client_keeps_of_scattered_values_is_bounded_and_goes_with_them(workers):
    pool = workers.pool
    scattered = pool._core.state.lifetimes.scattered
    handles = pool.scatter([bytes(1 << 19)] * 140)
    assert until(lambda: not pool._core.state.lifetimes.storing)
    assert 100 < len(scattered.tasks) < 140
    assert 0 < scattered.nbytes <= 64 << 20
    del handles
    assert until(lambda: not pool._core.state.lifetimes.scattered.nbytes)


@pytest.mark.slow
@pytest.mark.parametrize("spilled", [False, True])
def test_files_of_a_worker_that_died_with_all_its_processes_go_when_the_next_one_starts(spilled, tmp_path):
    stores, spill = tmp_path / "stores", tmp_path / "spill"
    with Cluster(
        n_workers=0, spill_directory=str(spill), memory_limit=1_000_000 if spilled else 100_000_000
    ) as cluster:
        cluster._options += ["--directory", str(stores)]
        stores.mkdir()
        with Pool(cluster) as pool:
            workers = Workers(cluster, pool)
            alice = workers.more()
            held = pool.map(np.zeros, [ITEMS] * 20)
            assert all(handle.wait(20) for handle in held)
            (directory,) = stores.iterdir()
            assert until(lambda: any(spill.rglob("v*")) == spilled)
            workers.kill(alice, everything=True)
            assert until(lambda: alice not in cluster.workers)
            assert directory.exists(), "nobody was left to remove it"
            workers.more()
            assert not directory.exists()
            assert len(list(spill.iterdir())) == 1, "only that of the new one"
            assert held[0].get(20).shape == (ITEMS,)


# ----------------------------------------------------------------------------------------------- a machine is silent


def hold_the_gil(path, seconds):
    import ctypes

    note(path, "held")
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return seconds


def drive(hear, say, center, ran):
    """A client with two workers: many tasks, of which some are where the cable is taken out."""
    with Pool(center) as pool:
        pool._core.wait(lambda: len(pool.workers) == 2, 20)
        lost = {address: pool.options(recompute=False).submit(make, ran, "warm") for address in pool.workers}
        handles = pool.map(slow, [ran] * 200, range(200))
        handles[0].get(20)
        say(sorted(pool.workers))
        hear()
        began_s = time.monotonic()
        pool._core.wait(lambda: len(pool.workers) == 1, 20)
        say(time.monotonic() - began_s)
        say(pool.gather(handles, 60) == list(range(200)))
        del lost
        hear()


@pytest.mark.namespaces
@pytest.mark.slow
def test_a_silent_machine_is_noticed_in_time_and_its_tasks_move(tmp_path):
    with machines("alice", "bob", DISTRIBUTED_SILENT_WORKER_S=SILENT_S) as net:
        _, center = net.daemon("hub", "center", "--port", "0")
        for name in ("alice", "bob"):
            net.daemon(name, "worker", center, "--ncores", "1")
        client = net.program("hub", drive, center, tmp_path / "ran")
        assert len(client.hear()) == 2
        net.cut("alice")
        noticed_s = client.ask("go on")
        print(f"noticed within {noticed_s:.2f} s")
        assert noticed_s < SILENT_S + 2
        assert client.hear()
        assert max(executions(tmp_path / "ran").values()) <= 2
        client.say("end")
        assert client.end() == 0


def keep_busy(hear, say, center, ran):
    """User code that holds the GIL, and an agent that is stopped, for many times as long as a machine may be silent."""
    with Pool(center) as pool:
        pool._core.wait(lambda: len(pool.workers) == 1, 20)
        once = pool.options(attempts=1)
        holding = [once.submit(hold_the_gil, ran, 3 * SILENT_S) for _ in range(2)]
        say("busy")
        say([handle.get(60) for handle in holding])
        say(once.submit(hold_the_gil, ran, 0).get(20))
        hear()


@pytest.mark.namespaces
@pytest.mark.slow
@pytest.mark.parametrize("who", ["user code", "agent"])
def test_nobody_takes_a_worker_for_dead_because_it_is_busy(who, tmp_path):
    with machines("alice", DISTRIBUTED_SILENT_WORKER_S=SILENT_S) as net:
        _, center = net.daemon("hub", "center", "--port", "0")
        agent, _ = net.daemon("alice", "worker", center, "--ncores", "2")
        client = net.program("hub", keep_busy, center, tmp_path / "ran")
        assert client.hear() == "busy"
        if who == "agent":
            agent.process.send_signal(signal.SIGSTOP)
            time.sleep(4 * SILENT_S)  # the time is what is tested
            agent.process.send_signal(signal.SIGCONT)
        assert client.hear() == [3 * SILENT_S] * 2
        assert client.hear() == 0
        assert executions(tmp_path / "ran") == {"held": 3}
        client.say("end")
        assert client.end() == 0
