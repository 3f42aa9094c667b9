"""A client says goodbye, closes its socket, falls silent or is only stopped: each has its own consequences.

Goodbye ends its tasks and keys at once, a closed socket after `closed_client_lease_s`, a silent machine after
`client_lease_s`. One that is stopped, or holds its GIL, for many times as long, loses nothing: its kernel answers.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from distributed import Pool, rpc
from tests.promises.machines import Program, machines
from tests.promises.observe import contents, terminals, until

LEASE_S = 1.0
STOPPED_S = 4.0
LEASES = {
    "DISTRIBUTED_CLOSED_CLIENT_LEASE_S": LEASE_S,
    "DISTRIBUTED_CLIENT_LEASE_S": LEASE_S,
    "DISTRIBUTED_SILENT_WORKER_S": LEASE_S,
}
RESULTS = 600
RESULT_BYTES = 4000  # they ride back in the message that tells of the end


def tick(path, number):
    """Note that it runs, for ever."""
    while True:
        with open(path, "w") as file:
            file.write(f"{os.getpid()} {number}")
        time.sleep(0.02)
        number += 1


def mark(path, number):
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{number}\n".encode())
    os.close(descriptor)
    time.sleep(0.005)
    print(f"task {number} prints a line")
    return bytes([number % 251]) * RESULT_BYTES


def live(hear, say, center, home):
    """A client with a running task, queued tasks, a stored value and a published one; it ends as it is told."""
    pool = Pool(center)
    pool._core.wait(lambda: len(pool.workers) == 1, 20)
    pool.publish("kept", pool.scatter({"x": bytes(200_000)})["x"])
    stored = pool.scatter([bytes(200_000)])
    running = pool.submit(tick, f"{home}/tick", 0)
    queued = pool.map(mark, [f"{home}/queued"] * 50, range(50))
    say("ready")
    if hear() == "close":
        pool.terminate()
        say("closed")
        hear()
    del stored, running, queued


def stays(hear, say, center, home, how):
    """A client that does nothing for long, while results come in."""
    with Pool(center) as pool:
        pool._core.wait(lambda: len(pool.workers) == 1, 20)
        stored = pool.scatter({"x": list(range(50_000))})["x"]
        handles = pool.options(attempts=1).map(mark, [f"{home}/ran"] * RESULTS, range(RESULTS))
        handles[0].get(20)
        say("ready")
        hear()
        if how == "GIL":
            hold_the_gil(STOPPED_S)
        values = pool.gather(handles, 60)
        assert values == [bytes([number % 251]) * RESULT_BYTES for number in range(RESULTS)]
        say(sum(stored.get(20)))
        say(pool.submit(len, stored).get(20))
        hear()


def hold_the_gil(seconds):
    """Matching with backtracking, in C: no other thread of this process runs meanwhile."""
    import re

    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        re.match(r"(a?){27}a{27}$", "a" * 26)


class Cluster:
    """A center and a worker with short leases."""

    def __init__(self, terminal, home):
        environment = {name: str(value) for name, value in LEASES.items()}
        self.center = terminal("center", "--port", "0", log=home / "center", **environment).said()["Center"]
        worker = terminal("worker", self.center, "--ncores", "1", log=home / "worker", **environment)
        self.worker = worker.said()["Worker"]

    def status(self):
        with rpc(self.worker) as there:
            return there.status()

    def names(self):
        with rpc(self.center) as there:
            return list(there.status()["names"])


def assert_all_ends(cluster, home, within_s):
    pid = int((home / "tick").read_text().split()[0])
    assert until(lambda: not os.path.exists(f"/proc/{pid}"), within_s), "its running task was killed"
    assert until(lambda: cluster.status()["tasks"] == 0, within_s), "its queued tasks are gone"
    assert until(lambda: cluster.status()["keys"] == 1, within_s), "only what it published stays"
    assert cluster.names() == ["kept"]
    assert not (home / "queued").exists(), "none of them ran"
    with Pool(cluster.center) as other:
        assert other["kept"].get(20) == bytes(200_000)
        assert other.submit(abs, -1).get(20) == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["close", "kill"])
def test_its_tasks_stop_and_its_keys_go_but_for_published_ones(how, tmp_path):
    with terminals() as terminal:
        cluster = Cluster(terminal, tmp_path)
        with Program(live, cluster.center, tmp_path, **LEASES) as program:
            assert program.hear() == "ready"
            assert until((tmp_path / "tick").exists)
            began_s = time.monotonic()
            if how == "close":
                assert program.ask("close") == "closed"
            else:
                program.process.send_signal(signal.SIGKILL)
                program.process.wait()
                assert contents(cluster.center), "it may come back"
            assert_all_ends(cluster, tmp_path, within_s=10)
            if how == "kill":
                assert time.monotonic() - began_s >= LEASE_S


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGSTOP", "GIL"])
def test_one_that_is_stopped_for_many_leases_loses_nothing(how, tmp_path):
    """`attempts=1`: what came in meanwhile must be there, for it is not computed again."""
    with terminals() as terminal:
        cluster = Cluster(terminal, tmp_path)
        with Program(stays, cluster.center, tmp_path, how, **LEASES) as program:
            assert program.hear() == "ready"
            if how == "SIGSTOP":
                program.process.send_signal(signal.SIGSTOP)
                time.sleep(STOPPED_S)  # the time is what is tested
                program.process.send_signal(signal.SIGCONT)
            program.say("go on")
            assert program.hear() == sum(range(50_000))
            assert program.hear() == 50_000
            assert sorted(map(int, (tmp_path / "ran").read_text().split())) == list(range(RESULTS))
            program.say("end")
            assert program.end() == 0


@pytest.mark.namespaces
@pytest.mark.slow
def test_a_silent_machine_is_given_up_after_its_lease(tmp_path):
    with machines("alice", "bob", **LEASES) as net:
        _, center = net.daemon("hub", "center", "--port", "0")
        _, worker = net.daemon("alice", "worker", center, "--ncores", "1")
        client = net.program("bob", live, center, tmp_path)
        watcher = net.program("hub", watch, center, worker)
        assert client.hear() == "ready"
        assert until((tmp_path / "tick").exists)
        assert watcher.ask("look")["keys"] == 2
        net.cut("bob")
        pid = int((tmp_path / "tick").read_text().split()[0])
        assert until(lambda: not os.path.exists(f"/proc/{pid}"), 30), "its running task was killed"
        assert until(lambda: watcher.ask("look") == {"tasks": 0, "keys": 1, "names": ["kept"]}, 30)


def watch(hear, say, center, worker):
    """What a worker and the center say of themselves, from where they can be reached."""
    while hear():
        with rpc(worker) as there:
            status = there.status()
        with rpc(center) as there:
            names = list(there.status()["names"])
        say({"tasks": status["tasks"], "keys": status["keys"], "names": names})
