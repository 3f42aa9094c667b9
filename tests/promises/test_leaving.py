"""Workers that are asked to leave do so in an orderly way: nothing is lost, nothing runs twice, all within a bound."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time

import numpy as np
import pytest

from conftest import leaks_looked_for_by_module
from distributed import Cluster, Pool, wait
from distributed.errors import KeyLost
from tests.promises.observe import PATIENCE_S, terminals, until

LARGE = 300_000
TASKS = 2000


no_leaks = leaks_looked_for_by_module()


def note(path):
    """One more line in a file that all processes append to."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, b"x\n")
    os.close(descriptor)


def work(number, directory):
    time.sleep(0.004)
    note(f"{directory}/{number}")
    return number * number


def hang_once(directory):
    """The first time for ever."""
    note(f"{directory}/begun")
    with open(f"{directory}/begun") as file:
        if len(file.readlines()) == 1:
            time.sleep(3600)
    return "done"


def start(terminal, *options, **environment):
    """A center and two workers; who leaves comes first."""
    center = terminal("center", "--port", "0")
    address = center.said()["Center"]
    workers = [terminal("worker", address, "--ncores", "1", *options, **environment) for _ in range(2)]
    return address, center, workers, [worker.said()["Worker"] for worker in workers]


def test_a_worker_that_leaves_while_tasks_run_loses_nothing_and_nothing_runs_twice(tmp_path):
    with terminals() as terminal:
        address, _, [leaver, stayer], [there, here] = start(terminal)
        with Pool(address) as author:
            author.publish("table", author.options(workers=[there]).submit(np.arange, LARGE))
        with Pool(address) as pool:
            pinned = pool.options(workers=[there], recompute=False)
            arrays = pinned.map(np.full, [LARGE] * 5, range(5))
            small = pinned.submit(str, "small")
            wait([*arrays, small])
            squares = pool.map(work, range(TASKS), [str(tmp_path)] * TASKS)
            assert until(lambda: any(handle.ready() for handle in squares))
            code, said, trouble = leaver.end(signal.SIGTERM)
            assert (code, trouble) == (0, "")
            assert "handed over 6 values" in said
            assert "leaving behind" not in said
            assert said.splitlines()[-1].partition(" left after ")[1]
            assert pool.gather(squares) == [number * number for number in range(TASKS)]
            assert {len((tmp_path / str(number)).read_text()) for number in range(TASKS)} == {2}
            assert [array.get()[-1] for array in arrays] == list(range(5))
            assert [pool.submit(np.sum, array).get() for array in arrays] == [LARGE * n for n in range(5)]
            assert pool["table"].get()[-1] == LARGE - 1
            assert pool.who_has(arrays) == {array.key: [here] for array in arrays}
            assert pool.workers == [here]
        assert stayer.end(signal.SIGTERM)[0] == 0


def test_what_nobody_has_room_for_is_left_behind_and_said_when_the_time_is_over():
    with terminals() as terminal:
        _, _, [leaver, _], [there, here] = started = start(
            terminal, "--memory-limit", "3000000", "--spill-directory", "none", DISTRIBUTED_DRAIN_TIMEOUT_S="1.5"
        )
        with Pool(started[0]) as pool:
            full = pool.options(workers=[here]).submit(bytes, 2_000_000)
            lost = pool.options(workers=[there], recompute=False).submit(bytes, 2_000_000)
            wait([full, lost])
            code, said, _ = leaver.end(signal.SIGTERM)
            assert code == 0
            assert "leaving behind 1 value (1.9 MiB): no room for 1.9 MiB" in said
            with pytest.raises(KeyLost):
                lost.get()
            assert len(full.get()) == 2_000_000


def test_a_task_that_hangs_is_stopped_when_the_time_is_over_and_runs_elsewhere_free_of_charge(tmp_path):
    with terminals() as terminal:
        address, _, [leaver, stayer], [there, here] = start(terminal, DISTRIBUTED_DRAIN_TIMEOUT_S="1")
        with Pool(address) as pool:
            handle = pool.options(workers=[there, here]).submit(hang_once, str(tmp_path))
            assert until((tmp_path / "begun").exists)
            runs = {there: leaver, here: stayer}[handle._task.worker]
            assert runs.end(signal.SIGTERM)[0] == 0
            assert handle.get(PATIENCE_S) == "done"


def test_a_second_signal_ends_it_at_once_and_it_says_what_it_leaves(tmp_path):
    with terminals() as terminal:
        address, center, workers, places = start(terminal, "--name", "maxi")
        with Pool(address) as pool:
            handle = pool.submit(hang_once, str(tmp_path))
            assert until((tmp_path / "begun").exists)
            there = handle._task.worker
            leaver = workers[places.index(there)]
            leaver.process.send_signal(signal.SIGTERM)
            assert "leaving: 1 task to end or give back, 0 values" in leaver.process.stdout.readline()
            code, said, trouble = leaver.end(signal.SIGTERM)
            assert (code, trouble) == (0, "")
            assert said.endswith("ended at once, leaving behind 1 task and 0 values (0 B)\n")
            assert handle.get(PATIENCE_S) == "done"
        told = center.end(signal.SIGTERM)[1]
        for words in (f"maxi at {there} joined: 1 core, ", f"maxi at {there} is leaving\n", f"maxi at {there} left\n"):
            assert f"worker {words}" in told


def test_a_cluster_shrinks_and_grows_with_its_data():
    with Cluster(n_workers=3, ncores=1) as cluster, Pool(cluster) as pool:
        arrays = pool.scatter([np.full(LARGE, number) for number in range(9)])
        held = {worker for workers in pool.who_has(arrays).values() for worker in workers}
        assert held == set(cluster.workers)
        extra = pool.options(workers=[cluster.workers[1]]).submit(bytes, 10 * LARGE * 8)
        wait([extra])
        fullest = cluster.workers[1]
        assert until(lambda: pool.who_has([extra.key])[extra.key])
        cluster.scale(1)
        assert cluster.workers == [fullest], "the emptiest went first"
        assert [array.get()[0] for array in arrays] == list(range(9))
        cluster.scale(3)
        assert len(cluster.workers) == 3
        assert until(lambda: len(pool.workers) == 3)
        assert [value[-1] for value in pool.gather(arrays)] == list(range(9))


def test_a_restart_gives_fresh_processes_which_import_anew_and_leaves_queues_and_values_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "changing.py").write_text("def answer():\n    return 'old'\n")
    changing = importlib.import_module("changing")
    try:
        with Pool(2) as pool:
            kept = pool.scatter(b"x" * 1_000_000)
            assert pool.submit(changing.answer).get() == "old"
            before = set(pool.gather(pool.map(lambda n: time.sleep(0.01) or os.getpid(), range(20))))
            (tmp_path / "changing.py").write_text("def answer():\n    return 'quite new'\n")
            queued = pool.map(lambda n: time.sleep(0.005) or n, range(200))
            pool.restart(PATIENCE_S)
            assert pool.gather(queued) == list(range(200))
            after = set(pool.gather(pool.map(lambda n: time.sleep(0.01) or os.getpid(), range(20))))
            assert not before & after
            assert pool.submit(changing.answer).get() == "quite new"
            assert len(kept.get()) == 1_000_000
    finally:
        del sys.modules["changing"]


def test_a_restart_that_takes_too_long_names_who_is_late_and_is_done_nevertheless(tmp_path):
    def linger():
        while not os.path.exists(f"{tmp_path}/go"):
            time.sleep(0.01)
        return os.getpid()

    with Pool(1) as pool:
        [address] = pool.workers
        late = pool.submit(linger)
        queued = pool.submit(os.getpid)
        with pytest.raises(TimeoutError, match=f"not all executors are fresh yet on {address}"):
            pool.restart(0.3)
        (tmp_path / "go").touch()
        assert late.get() != queued.get(), "what was queued waited for the fresh one"
        pool.restart(PATIENCE_S)
