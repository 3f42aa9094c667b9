"""After `close()` nothing is left, and after kill -9 of the client neither.

No process, socket, thread, no file in shared memory or in the spill directory; stderr is empty; it takes under two
seconds. When the client is killed its own cluster ends at once; in a cluster that it had joined its keys go when its
lease is over.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from conftest import abandoned, processes_with, store_directories
from distributed import Pool, rpc
from tests.promises.observe import contents, terminals, until

CLOSE_S_MAX = 2.0
LEASE_S = 2.0

PROGRAM = """
import gc, json, os, sys, threading, time
import numpy as np
from distributed import Cluster, Pool, as_completed

def sockets():
    names = []
    for name in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            pass
    return sorted(name for name in names if "socket" in name or "pipe" in name or "eventpoll" in name)

def work(pool):
    arrays = pool.map(np.full, [300_000] * 12, range(12))
    assert sorted(int(done.get()[0]) for done in as_completed(arrays)) == list(range(12))
    pool.scatter(np.zeros(100_000))
    kept = pool.submit(lambda left, right: int(left[0] + right[0]), *arrays[-2:])
    async def tick():
        return 5
    assert pool.submit(tick).get() == 5
    heard = threading.Event()
    pool.submit(abs, -1).add_done_callback(lambda handle: heard.set())
    assert heard.wait(10)
    assert kept.get() == 21
    return arrays, kept

def main(kind, spill):
    before = sockets()
    cluster = None
    if kind == "own":
        pool = Pool(2)
    elif kind == "cluster":
        cluster = Cluster(n_workers=2, ncores=1, memory_limit=6_000_000, spill_directory=spill)
        pool = Pool(cluster)
    else:
        pool = Pool(kind)
    held = work(pool)
    endless = pool.submit(time.sleep, 1000)
    print("ready", flush=True)
    if sys.stdin.readline() != "close\\n":
        return
    began_s = time.perf_counter()
    endless.cancel()
    pool.close()
    if cluster is not None:
        cluster.close()
    closed_s = time.perf_counter() - began_s
    gc.collect()
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    left = [name for name in sockets() if name not in before]
    print(json.dumps([closed_s, threads, left]), flush=True)
    sys.stdin.readline()

main(sys.argv[1], sys.argv[2])
"""


class Program:
    """A client in a process of its own."""

    def __init__(self, kind, spill):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, kind, str(spill)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        line = self.process.stdout.readline()
        assert line == "ready\n", self.process.communicate()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


@pytest.fixture
def others(secret_file):
    """What was there before: processes and stores that are none of the test's business."""
    before = processes_with(secret_file), store_directories()

    def new_ones(but=()):
        processes = {pid: name for pid, name in processes_with(secret_file).items() if pid not in (*before[0], *but)}
        return processes, set(abandoned(store_directories() - before[1]))  # others may run clusters here, too

    return new_ones


@pytest.mark.parametrize("kind", ["own", "cluster"])
def test_close_leaves_nothing(kind, others, tmp_path):
    spill = tmp_path / "spill"
    with Program(kind, spill) as program:
        assert len(others()[0]) > 2, "the measure sees daemons and executors"
        if kind == "cluster":
            assert any(spill.rglob("v*")), "something was spilled"
        program.say("close")
        closed_s, threads, left = json.loads(program.process.stdout.readline())
        assert others(but=[program.process.pid]) == ({}, set())
        assert list(spill.glob("*")) == []
        print(f"closed within {closed_s:.2f} s")
        assert (threads, left) == ([], [])
        assert closed_s < CLOSE_S_MAX
        _, err = program.process.communicate("end\n", timeout=20)
        assert (program.process.returncode, err) == (0, "")
    assert others() == ({}, set())


def test_a_program_that_forgets_to_close_leaves_nothing(others, tmp_path):
    with Program("own", tmp_path) as program:
        _, err = program.process.communicate("leave\n", timeout=20)
        assert (program.process.returncode, err) == (0, "")
    assert until(lambda: others() == ({}, set()), CLOSE_S_MAX)


@pytest.mark.parametrize("kind", ["own", "cluster"])
def test_a_client_that_is_killed_takes_its_own_cluster_along(kind, others, tmp_path):
    spill = tmp_path / "spill"
    with Program(kind, spill) as program:
        program.process.send_signal(signal.SIGKILL)
        program.process.wait()
        began_s = time.monotonic()
        until(lambda: others() == ({}, set()), 10)
        print(f"gone within {time.monotonic() - began_s:.2f} s")
        assert others() == ({}, set())
        assert time.monotonic() - began_s < CLOSE_S_MAX
        assert list(spill.glob("*")) == []
        assert program.process.stderr.read() == ""


def test_the_keys_of_a_killed_client_go_when_its_lease_is_over(tmp_path):
    lease = {"DISTRIBUTED_CLOSED_CLIENT_LEASE_S": str(LEASE_S)}
    with terminals() as terminal:
        center = terminal("center", "--port", "0", **lease)
        address = center.said()["Center"]
        workers = [terminal("worker", address, "--ncores", "1", **lease) for _ in range(2)]
        addresses = [worker.said()["Worker"] for worker in workers]
        with Program(address, tmp_path) as program:
            held = contents(address)
            assert held
            program.process.send_signal(signal.SIGKILL)
            program.process.wait()
            began_s = time.monotonic()
        while time.monotonic() - began_s < LEASE_S / 2:
            assert contents(address), "it may come back"
            time.sleep(0.1)
        assert until(lambda: not contents(address), 10)
        print(f"gone {time.monotonic() - began_s:.1f} s after the kill, the lease being {LEASE_S} s")
        for worker in addresses:
            with rpc(worker) as there:
                assert until(lambda there=there: there.status()["tasks"] == 0), "its endless task ended, too"
        assert [worker.end(signal.SIGTERM)[::2] for worker in workers] == [(0, "")] * 2
        assert center.end(signal.SIGTERM)[::2] == (0, "")


def test_a_client_that_closes_gives_up_its_keys_at_once(tmp_path):
    with terminals() as terminal:
        center = terminal("center", "--port", "0")
        address = center.said()["Center"]
        worker = terminal("worker", address, "--ncores", "2")
        worker.said()
        with Program(address, tmp_path) as program:
            program.say("close")
            closed_s, threads, left = json.loads(program.process.stdout.readline())
            assert (threads, left) == ([], [])
            assert closed_s < CLOSE_S_MAX
            assert until(lambda: not contents(address), 2)
            program.process.communicate("end\n")
        files = [name for name in os.listdir(next(iter(agents_directories(address)))) if name.startswith("v")]
        assert files == []
        assert worker.end(signal.SIGTERM)[::2] == (0, "")
        assert center.end(signal.SIGTERM)[::2] == (0, "")


def agents_directories(center):
    """Where the workers keep their values."""
    with Pool(center) as pool:
        pool._core.wait(lambda: bool(pool.workers), 20)
        return [view.member.directory for view in pool._core.state.workers.values()]
