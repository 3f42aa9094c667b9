"""`close()` ends within five seconds, whatever state the cluster is in, and nothing stays behind.

Daemons that are dead or stopped, a center that does not answer, a transfer under way, thousands of tasks, a program
that ends by an exception or without a word, and one that is killed while its daemons are stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest

from conftest import abandoned, processes_with, store_directories
from distributed import Cluster, Pool
from distributed.errors import DistributedError
from tests.chaos.daemons import descendants, send_all
from tests.promises.machines import Program, machines
from tests.promises.observe import until

CLOSE_S_MAX = 5.0
SLACK_S = 1.0  # of a busy machine
TASKS = 5000
SHORT_S = 2.0


class Victims:
    """The processes of a cluster, by what they are."""

    def __init__(self, daemons, center=None):
        daemons = list(daemons)
        self.pids = {"workers": [daemon._process.pid for daemon in daemons], "center": [center] if center else []}
        self.pids["below"] = [pid for agent in self.pids["workers"] for pid in descendants(agent)]

    def send(self, which, number):
        send_all([pid for name in which for pid in self.pids[name]], number)

    def living(self):
        return [pid for pids in self.pids.values() for pid in pids if os.path.exists(f"/proc/{pid}")]


def lose(hear, say, number, which):
    """A client with thousands of tasks under way, to whose daemons something happens before it closes."""
    with contextlib.ExitStack() as stack:
        if which == "embedded":
            things = [Pool(2)]
            victims = Victims(things[0]._owned._finalizer.peek()[2][0])
            which = "workers below"
        else:
            cluster = stack.enter_context(Cluster(n_workers=2, ncores=1))
            things = [Pool(cluster), cluster]
            victims = Victims(cluster._workers.values(), cluster._centers[0]._process.pid)
        things[0]._core.wait(lambda: len(things[0].workers) == len(victims.pids["workers"]), 20)
        handles = things[0].map(time.sleep, [0.01] * TASKS)
        handles[0].get(20)
        victims.send(which.split(), signal.Signals[number])
        took_s = []
        for thing in things:
            began_s = time.monotonic()
            thing.close()
            took_s.append(time.monotonic() - began_s)
        say(took_s)
        say(until(lambda: not victims.living()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "which"),
    [
        ("SIGKILL", "center workers below"),
        ("SIGSTOP", "center"),
        ("SIGSTOP", "center workers below"),
        ("SIGSTOP", "embedded"),
    ],
)
def test_with_thousands_of_tasks_under_way_and_these_daemons_gone(number, which):
    """The bound is a setting; with a smaller one the test is shorter."""
    with Program(lose, number, which, DISTRIBUTED_CLOSE_TIMEOUT_S=SHORT_S) as program:
        took_s = program.hear()
        print(f"took {took_s} s")
        assert max(took_s) < SHORT_S + SLACK_S
        assert program.hear(), "what was stopped or orphaned ends, too"
        assert program.end() == 0


def leave(hear, say, how):
    """A client with thousands of tasks under way that leaves in some way."""
    pool = Pool(2)
    handles = pool.map(time.sleep, [0.01] * TASKS)
    handles[0].get(20)
    (daemon,) = pool._owned._finalizer.peek()[2][0]
    say([daemon._process.pid, *descendants(daemon._process.pid)])
    hear()
    if how == "exception":
        with pool:
            raise LookupError("of the program's own")
    if how == "exit in a task's callback":
        handles[-1].add_done_callback(lambda _: sys.exit(1))


@pytest.mark.parametrize("how", ["exception", "atexit", "exit in a task's callback"])
def test_a_program_ends_in_time_by(how, secret_file):
    with Program(leave, how) as program:
        pids = program.hear()
        began_s = time.monotonic()
        program.say("go on")
        code = program.process.wait(timeout=60)
        assert time.monotonic() - began_s < CLOSE_S_MAX + SLACK_S
        assert code == (1 if how == "exception" else 0)
        assert until(lambda: not [pid for pid in pids if os.path.exists(f"/proc/{pid}")])


@pytest.mark.parametrize("which", ["nobody", "daemon", "everybody"])
def test_nothing_outlives_a_client_that_is_killed_while_its_daemons_are_stopped(which, secret_file):
    stores = store_directories()
    with Program(leave, "kill") as program:
        pids = program.hear()
        send_all({"nobody": [], "daemon": pids[:1], "everybody": pids}[which], signal.SIGSTOP)
        program.process.kill()
        program.process.wait()
        assert until(lambda: not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]), "a process is left"
        assert until(lambda: not processes_with(secret_file))
        assert abandoned(store_directories() - stores) == []


def transfer(hear, say, center, what):
    """A client on another machine that closes its pool while much is on its way, or nobody answers any more."""
    pool = Pool(center)
    pool._core.wait(lambda: bool(pool.workers), 20)
    block = pool.submit(np.zeros, 1 << 25)  # 256 MiB
    block.wait(30)
    pool.map(time.sleep, [0.01] * TASKS)
    got = threading.Thread(target=attempt, args=(block.get,), daemon=True)
    if what == "transfer":
        got.start()
        assert until(lambda: pool._core.transfer._busy)
    say("ready")
    hear()
    began_s = time.monotonic()
    pool.close()
    say(time.monotonic() - began_s)
    hear()


def attempt(function):
    with contextlib.suppress(DistributedError):
        function()


@pytest.mark.namespaces
@pytest.mark.slow
@pytest.mark.parametrize("what", ["transfer", "partition"])
def test_close_between_machines_in_the_midst_of_a(what):
    with machines("alice", "bob") as net:
        _, center = net.daemon("hub", "center", "--port", "0")
        net.daemon("alice", "worker", center, "--ncores", "1")
        client = net.program("bob", transfer, center, what)
        assert client.hear() == "ready"
        if what == "partition":
            net.cut("bob")
        assert client.ask("close") < CLOSE_S_MAX + SLACK_S
        assert client.end() == 0
