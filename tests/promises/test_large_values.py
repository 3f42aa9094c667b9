"""An array of 1 GiB goes from worker to worker and to the client without passing through anybody's memory.

Between network namespaces, where nothing is shared but the wire: the anonymous memory of either agent grows by less
than 50 MiB at its peak. On one machine: nothing is copied at all, it is one file with several names.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from distributed import Cluster, Pool
from tests.promises.observe import MIB, PATIENCE_S, Terminal, memory_bytes

GROWTH_BYTES_MAX = 50 * MIB
ITEMS = (1 << 30) // 8
SAMPLE_INTERVAL_S = 0.005

CLIENT = """
import json, sys, time
import numpy as np
from distributed import Pool

center, items = sys.argv[1], int(sys.argv[2])
with Pool(center) as pool:
    pool._core.wait(lambda: len(pool.workers) == 2, 20)
    alice, bob = pool.workers
    array = pool.options(workers=alice).submit(np.arange, items)
    assert array.wait(60)
    print("made", flush=True)
    sys.stdin.readline()
    began_s = time.perf_counter()
    there = pool.options(workers=bob).submit(lambda block: int(block.sum()), array).get(60)
    worker_s = time.perf_counter() - began_s
    before = pool.counters["bytes_received"]
    began_s = time.perf_counter()
    here = array.get(60)
    client_s = time.perf_counter() - began_s
    crossed = pool.counters["bytes_received"] - before
    print(json.dumps([there, int(here.sum()), crossed, pool.counters["bytes_moved"], worker_s, client_s]), flush=True)
    sys.stdin.readline()
"""


def run(*command):
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def namespaces(*names):
    """Network namespaces that reach one another over a bridge in the first one; their addresses."""
    full = {name: f"distributed-{os.getpid()}-{name}" for name in names}
    hub, addresses = full[names[0]], {}
    with contextlib.ExitStack() as stack:
        for name in full.values():
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "del", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", hub, "address", "add", "10.87.0.1/24", "dev", "bridge")
        run("ip", "-n", hub, "link", "set", "bridge", "up")
        addresses[names[0]] = "10.87.0.1"
        for number, name in enumerate(names[1:], start=2):
            addresses[name] = f"10.87.0.{number}"
            run("ip", "-n", hub, "link", "add", f"to{number}", "type", "veth", "peer", "uplink", "netns", full[name])
            run("ip", "-n", hub, "link", "set", f"to{number}", "master", "bridge", "up")
            run("ip", "-n", full[name], "address", "add", f"{addresses[name]}/24", "dev", "uplink")
            run("ip", "-n", full[name], "link", "set", "uplink", "up")
        yield full, addresses


def why_not():
    """The reason for which network namespaces can't be made here; empty if they can."""
    if not shutil.which("ip") or not shutil.which("unshare"):
        return "iproute2 and util-linux are not installed"
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    try:
        with namespaces("hub", "probe"):
            return ""
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.decode().strip()}"


def apart(namespace):
    """In a network namespace, and with a shared memory that nobody else sees."""
    private = 'mount -t tmpfs -o size=4g tmpfs /dev/shm && exec "$@"'
    return ("ip", "netns", "exec", namespace, "unshare", "--mount", "sh", "-c", private, "sh")


class Sampler:
    """The largest growth of the anonymous memory of some processes, looked at every few milliseconds."""

    def __init__(self, pids):
        self.before = {pid: memory_bytes(pid) for pid in pids}
        self.growth_bytes = dict.fromkeys(pids, 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _sample(self):
        while not self._over.wait(SAMPLE_INTERVAL_S):
            for pid, before in self.before.items():
                self.growth_bytes[pid] = max(self.growth_bytes[pid], memory_bytes(pid) - before)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


@pytest.mark.namespaces
@pytest.mark.slow
def test_a_gibibyte_between_machines_passes_through_nobodys_memory():
    if reason := why_not():
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        full, addresses = stack.enter_context(namespaces("hub", "alice", "bob"))

        def start(name, *arguments):
            terminal = Terminal(*arguments, "--host", addresses[name], "--insecure-plaintext", prefix=apart(full[name]))
            stack.callback(terminal.kill)
            return terminal, terminal.said()

        _, said = start("hub", "center", "--port", "0")
        center = said["Center"]
        agents = [start(name, "worker", center, "--ncores", "1")[0] for name in ("alice", "bob")]
        client = subprocess.Popen(
            [*apart(full["hub"]), sys.executable, "-c", CLIENT, center, str(ITEMS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.enter_context(client)
        stack.callback(client.kill)
        assert client.stdout.readline() == "made\n"
        with Sampler([agent.process.pid for agent in agents]) as sampler:
            client.stdin.write("go on\n")
            client.stdin.flush()
            there, here, crossed, moved, worker_s, client_s = json.loads(client.stdout.readline())
        client.communicate("end\n", timeout=PATIENCE_S)
    grown = [round(growth / MIB, 1) for growth in sampler.growth_bytes.values()]
    print(f"to a worker {worker_s:.2f} s, to the client {client_s:.2f} s; agents grew by {grown} MiB at most")
    assert there == here == ITEMS * (ITEMS - 1) // 2
    assert crossed >= ITEMS * 8, "it came to the client over a socket"
    assert moved >= ITEMS * 8, "and to the worker"
    assert max(sampler.growth_bytes.values()) < GROWTH_BYTES_MAX


def inodes(directory):
    return {entry.stat().st_ino for entry in os.scandir(directory) if entry.name.startswith("v")}


def mapped_inodes():
    """The files that this process has mapped."""
    return {int(line.split()[4]) for line in Path("/proc/self/maps").read_text().splitlines()}


def test_on_one_machine_nothing_is_copied():
    with Cluster(n_workers=2, ncores=1) as cluster, Pool(cluster) as pool:
        pool._core.wait(lambda: len(pool.workers) == 2, 20)
        alice, bob = pool.workers
        at = {address: view.member.directory for address, view in pool._core.state.workers.items()}
        array = pool.options(workers=alice).submit(np.arange, 1 << 22)
        assert array.wait(20)
        (inode,) = inodes(at[alice])
        assert pool.options(workers=bob).submit(len, array).get(20) == 1 << 22
        assert inodes(at[bob]) == {inode}, "the other worker has another name of the same file"
        before = pool.counters
        here = array.get(20)
        assert inode in mapped_inodes(), "and the client has mapped it"
        assert int(here[-1]) == (1 << 22) - 1
        assert pool.counters["bytes_received"] - before["bytes_received"] < 1 << 16
