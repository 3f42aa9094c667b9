"""The center is killed while 20,000 tasks run, and comes back on its address: nothing is lost, nothing runs twice.

While it is away pools and workers go on with one another; what needs it waits, says so, and gives up within a bound.
"""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from distributed import Pool, rpc
from distributed.errors import ConnectionFailed, NameTaken, NameUnknown
from tests.chaos.graph import Graph, Plan
from tests.promises.machines import Program
from tests.promises.observe import terminals, until

TASKS = 20_000
DEATHS = 3
AWAY_S = 1.0


@pytest.fixture
def free_port():
    """The same one each time the center starts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def compute(hear, say, center, notes):
    """Thousands of tasks with dependencies, and how they came out."""
    with Pool(center) as pool:
        pool._core.wait(lambda: len(pool.workers) == 2, 20)
        kept = pool.scatter({"x": [1, 2, 3]})["x"]
        pool.publish("kept", kept)
        graph = Graph(Plan.draw(TASKS, random.Random(4)), Path(notes))
        graph.submit(pool)
        say("submitted")
        hear()
        say(len(graph.unfinished()))
        graph.all_arrived.wait(100)
        graph.check(20)
        once = len({execution.number for execution in graph.executions})
        say([len(graph.unfinished()), len(graph.executions), once, graph.wrong[:3], kept.get(20), pool.names])
        graph.handles.clear()
        del kept
        hear()


@pytest.mark.slow
def test_killed_while_twenty_thousand_tasks_run(tmp_path, free_port):
    with terminals() as terminal:
        center = terminal("center", "--port", str(free_port))
        address = center.said()["Center"]
        workers = [terminal("worker", address, "--ncores", "4", log=tmp_path / f"worker-{n}") for n in range(2)]
        members = {worker.said()["Worker"] for worker in workers}
        with Program(compute, address, tmp_path / "notes") as program:
            assert program.hear() == "submitted"
            before = {member["address"]: member["incarnation"] for member in status(address)["members"]}
            for _ in range(DEATHS):
                center.process.send_signal(signal.SIGKILL)
                center.kill()
                center = terminal("center", "--port", str(free_port))
                assert center.said()["Center"] == address
                assert until(lambda: {member["address"] for member in status(address)["members"]} == members)
                assert until(lambda: status(address)["clients"]), "the pool registered again"
            assert program.ask("count") > 0, "the center died while tasks were under way"
            unfinished, executions, once, wrong, kept, names = program.hear()
            assert (unfinished, wrong) == (0, [])
            assert executions == once == TASKS, "nothing ran again because of it"
            assert (kept, names) == ([1, 2, 3], ["kept"])
            after = {member["address"]: member["incarnation"] for member in status(address)["members"]}
            assert after == before, "the same workers, with their data"
            program.say("end")
            assert program.end() == 0
        with rpc(address) as there:
            assert list(there.status()["names"]) == ["kept"], "it outlives its client"


def test_names_are_there_for_whoever_asks_before_the_workers_are_back(free_port):
    """Neither is a published name unknown, nor free for others, because the center came back before the workers."""
    with terminals() as terminal:
        center = terminal("center", "--port", str(free_port))
        address = center.said()["Center"]
        worker = terminal("worker", address, "--ncores", "1")
        worker.said()
        with Pool(address) as author:
            author.publish("kept", author.submit(abs, -5))
        for _ in range(3):
            worker.process.send_signal(signal.SIGSTOP)  # so that it does not come first
            center.process.send_signal(signal.SIGKILL)
            center.kill()
            center = terminal("center", "--port", str(free_port))
            center.said()
            with rpc(address) as there, contextlib.ExitStack() as later:
                later.callback(worker.process.send_signal, signal.SIGCONT)
                asked = threading.Timer(0, later.close)  # while the question waits
                asked.start()
                assert there.look_up(name="kept")
                assert there.look_up(name="") == ["kept"]
                asked.join()
        with Pool(address) as reader:
            assert reader["kept"].get(20) == 5
            with pytest.raises(NameTaken):
                reader.publish("kept", reader.submit(abs, -6))
            with pytest.raises(NameUnknown):
                reader["lost"]


def status(center):
    with rpc(center) as there:
        return there.status()


def go_on(hear, say, center):
    """Work that does not need the center, and requests that do."""
    with Pool(center) as pool:
        pool._core.wait(lambda: len(pool.workers) == 1, 20)
        say("ready")
        hear()
        assert pool.gather(pool.map(abs, range(-500, 0)), 20) == list(range(500, 0, -1))
        chain = pool.submit(abs, 0)
        for _ in range(50):
            chain = pool.submit(lambda x: x + 1, chain)
        say(chain.get(20))
        began_s = time.monotonic()
        try:
            pool.publish("late", chain)
        except ConnectionFailed as error:
            say([time.monotonic() - began_s, str(error)])
        borrowed = pool._core.borrow("somebody/1")
        try:
            borrowed.get()
        except ConnectionFailed as error:
            say(str(error))
        say("now")
        names = None
        while names is None:  # how long it takes to start is not known
            with contextlib.suppress(ConnectionFailed):
                names = pool.names
        say(names)
        hear()


@pytest.mark.slow
def test_what_needs_the_center_waits_with_a_message_up_to_a_bound(free_port, tmp_path):
    with terminals() as terminal:
        center = terminal("center", "--port", str(free_port))
        address = center.said()["Center"]
        terminal("worker", address, "--ncores", "1", log=tmp_path / "worker").said()
        with Program(go_on, address, DISTRIBUTED_CENTER_AWAY_S=AWAY_S) as program:
            assert program.hear() == "ready"
            center.process.send_signal(signal.SIGKILL)
            center.kill()
            assert program.ask("go on") == 50
            waited_s, reason = program.hear()
            assert AWAY_S <= waited_s < AWAY_S + 5
            assert f"{address}: the center has been away for {AWAY_S:g} s" in reason
            assert "start it again" in reason
            assert "the center has been away" in program.hear()
            assert program.hear() == "now"
            center = terminal("center", "--port", str(free_port))
            center.said()
            assert program.hear() == []
            program.say("end")
            assert program.end() == 0
