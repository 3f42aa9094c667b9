"""The network between machines delays, loses, reorders, goes one way only, and comes back: results stay right.

Between network namespaces. Each result is a nonce that nobody can guess, noted in a file by the execution that made it:
what a dependent or a borrower saw of an input is what its owner published. Then peers that do not read, and daemons
that have no descriptors left.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest

from distributed import Pool, rpc
from distributed.errors import DistributedError
from tests.chaos.graph import Graph, Plan
from tests.promises.cable import cables
from tests.promises.machines import Program, machines
from tests.promises.observe import MIB, memory_bytes, terminals, until

SILENT_S = 1.0
SHORT = {"DISTRIBUTED_SILENT_WORKER_S": SILENT_S, "DISTRIBUTED_CLOSED_CLIENT_LEASE_S": 60}


def play_graph(hear, say, center, notes, tasks):
    """A graph of short tasks on two workers; what came of it."""
    with Pool(center) as pool:
        pool._core.wait(lambda: len(pool.workers) == 2, 20)
        graph = Graph(Plan.draw(int(tasks), Random(1)), Path(notes))
        graph.submit(pool)
        graph.handles[0].get(30)
        say("running")
        graph.all_arrived.wait(100)
        graph.check(20)
        say([len(graph.unfinished()), graph.wrong[:3], len(graph.executions)])
        hear()


@pytest.mark.namespaces
@pytest.mark.slow
def test_slow_lossy_cables_that_reorder_packets_change_no_result(tmp_path):
    with cables("alice", "bob") as net:
        _, center = net.daemon("hub", "center", "--port", "0")
        for name in ("alice", "bob"):
            net.daemon(name, "worker", center, "--ncores", "2")
        net.impair(delay_s=0.002, jitter_s=0.01, loss=0.01)
        client = net.program("hub", play_graph, center, tmp_path / "notes", 1000)
        assert client.hear() == "running"
        unfinished, wrong, executions = client.hear()
        assert (unfinished, wrong) == (0, [])
        assert executions == 1000, "nothing was lost, and so nothing ran again"
        assert net.lost() > 0, "the cable did lose packets"
        client.say("end")
        assert client.end() == 0


# --------------------------------------------------------------------------------------------- partitions that heal


def nonce(path, number, seconds=0.0):
    """A large result that nobody can guess, noted in a file before it is stored."""
    made = os.urandom(16)
    with open(path, "ab", buffering=0) as file:
        file.write(f"{number} {made.hex()}\n".encode())
    time.sleep(seconds)
    return np.frombuffer(made * 8192, np.uint8)  # 128 KiB


def seen(array):
    return array.tobytes()[:16].hex()


def own(hear, say, center, path):
    """A client whose results are at a worker that is cut off, computed again elsewhere, and back again later."""
    with Pool(center) as pool:
        pool._core.wait(lambda: len(pool.workers) == 2, 20)
        there = pool.workers
        handles = pool.map(nonce, [path] * 24, range(24))
        assert all(handle.wait(20) for handle in handles)
        slow = pool.map(nonce, [path] * 4, range(24, 28), [3.0] * 4)  # these are running when the cable goes
        say([pickle.dumps(handle).hex() for handle in handles + slow])
        hear()  # it is out
        pool._core.wait(lambda: len(pool.workers) == 1, 20)
        saw = pool.gather(pool.map(seen, handles + slow), 60)
        say([there, pool.workers])
        hear()  # it is in again
        pool._core.wait(lambda: len(pool.workers) == 2, 20)
        say([saw, pool.gather(pool.map(seen, handles + slow), 60), [seen(v) for v in pool.gather(handles + slow, 60)]])
        say({address: len(view.holds) for address, view in pool._core.state.workers.items()})
        hear()


def borrow(hear, say, center, path):
    """Another client, which reads the same results by their handles, again and again."""
    with Pool(center) as pool:
        handles = [pickle.loads(bytes.fromhex(text)) for text in hear().split()]
        say("got them")
        while hear() == "read":
            values = [handle.get(60) for handle in handles]
            say([[seen(value) for value in values], pool.gather(pool.map(seen, handles), 60)])


@pytest.mark.namespaces
@pytest.mark.slow
def test_after_a_partition_heals_nobody_reads_an_attempt_that_was_not_published(tmp_path):
    """The worker that was cut off finished what it ran, and still has what was computed again elsewhere meanwhile."""
    notes = tmp_path / "notes"
    with machines("alice", "bob", **SHORT) as net:
        _, center = net.daemon("hub", "center", "--port", "0")
        for name in ("alice", "bob"):
            net.daemon(name, "worker", center, "--ncores", "2")
        owner = net.program("hub", own, center, notes)
        borrower = net.program("hub", borrow, center, notes)
        handles = owner.hear()
        assert borrower.ask(" ".join(handles)) == "got them"
        net.cut("alice")
        before, left = owner.ask("out")
        assert len(left) == 1 and set(left) < set(before)
        meanwhile, _ = borrower.ask("read")
        assert until(lambda: len(notes.read_text().splitlines()) > 28), "lost ones were computed again"
        net.mend("alice")
        saw, again, values = owner.ask("in")
        assert saw == again == values, "what its owner saw, it sees for ever"
        holds = owner.hear()
        assert set(holds) == set(before), "the worker came back"
        for _ in range(5):
            assert borrower.ask("read") == [values, values]
        assert meanwhile == values
        made = {}
        for line in notes.read_text().splitlines():
            number, noted = line.split()
            made.setdefault(int(number), []).append(noted)
        assert all(value in made[number] for number, value in enumerate(values))
        assert max(map(len, made.values())) <= 2
        for program in (borrower, owner):
            program.say("end")
            assert program.end() == 0


@pytest.mark.namespaces
@pytest.mark.slow
@pytest.mark.parametrize("deaf", ["to the client", "to the center", "to a worker"])
def test_half_open_connections_lose_nothing(deaf, tmp_path):
    """One machine's packets to one other vanish for a while; what comes the other way still comes."""
    with machines("alice", "bob", **SHORT) as net:
        _, center = net.daemon("hub", "center", "--port", "0")
        for name in ("alice", "bob"):
            net.daemon(name, "worker", center, "--ncores", "2")
        client = net.program("bob" if deaf == "to the client" else "hub", play_graph, center, tmp_path / "notes", 1500)
        assert client.hear() == "running"
        to = {"to the client": "bob", "to the center": "hub", "to a worker": "bob"}[deaf]
        net.deafen("alice", to)
        time.sleep(3 * SILENT_S)  # both longer and shorter than this is survived; that it lasts is what is tested
        net.hearken("alice", to)
        unfinished, wrong, executions = client.hear()
        assert (unfinished, wrong) == (0, [])
        print(f"{executions} executions of 1500 tasks")
        client.say("end")
        assert client.end() == 0


# ------------------------------------------------------------------------------------------------------ slow readers


def not_reading(hear, say, center):
    """A client that asks for much and then reads nothing: it is stopped."""
    with Pool(center) as pool:
        pool._core.wait(lambda: len(pool.workers) == 1, 20)
        handles = pool.map(chatter, range(20_000))
        handles[0].get(20)
        say("ready")
        pool.gather(handles, 100)
        say(len(handles))
        hear()


def chatter(number):
    print("x" * 4000)
    return bytes(4000)


@pytest.mark.slow
def test_a_client_that_does_not_read_takes_bounded_memory_and_holds_up_nobody_else(tmp_path):
    with terminals() as terminal:
        center = terminal("center", "--port", "0").said()["Center"]
        worker = terminal("worker", center, "--ncores", "2", log=tmp_path / "worker").said()["Worker"]
        with rpc(worker) as agent:
            pid = agent.status()["pid"]
        with Program(not_reading, center) as program:
            assert program.hear() == "ready"
            before = memory_bytes(pid)
            program.process.send_signal(signal.SIGSTOP)
            with Pool(center) as other:
                other._core.wait(lambda: len(other.workers) == 1, 20)
                slowest_s = 0.0
                for number in range(100):
                    began_s = time.monotonic()
                    assert other.submit(abs, -number).get(20) == number
                    slowest_s = max(slowest_s, time.monotonic() - began_s)
                print(f"the slowest of 100 round trips took {slowest_s * 1e3:.0f} ms")
            grown = memory_bytes(pid) - before
            print(f"the agent grew by {grown / MIB:.1f} MiB")
            assert grown < 96 * MIB
            program.process.send_signal(signal.SIGCONT)
            assert program.hear() == 20_000, "and nothing was lost"
            program.say("end")
            assert program.end() == 0


def babble(begun, seconds):
    Path(begun).touch()
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        print("x" * 1000)
    return "said it all"


def listen(hear, say, center, begun):
    """A client that is stopped while its only task prints all the time."""
    with Pool(center) as pool:
        pool._core.wait(lambda: len(pool.workers) == 1, 20)
        talking = pool.options(attempts=1).submit(babble, begun, 4.0)
        assert until(Path(begun).exists)
        say("ready")
        hear()
        say(talking.get(60))
        hear()


@pytest.mark.slow
def test_what_a_task_prints_for_a_client_that_does_not_read_costs_it_no_result(tmp_path):
    with terminals() as terminal:
        center = terminal("center", "--port", "0").said()["Center"]
        few = {"DISTRIBUTED_WRITE_BUFFER_BYTES_MAX": str(MIB)}  # it prints one in a second
        terminal("worker", center, "--ncores", "1", log=tmp_path / "worker", **few).said()
        with Program(listen, center, tmp_path / "begun") as program:
            assert program.hear() == "ready"
            program.process.send_signal(signal.SIGSTOP)
            time.sleep(4.0)  # so long it prints
            program.process.send_signal(signal.SIGCONT)
            assert program.ask("go on") == "said it all"
            program.say("end")
            assert program.end() == 0


# -------------------------------------------------------------------------------------------- descriptors are exhausted


@pytest.mark.slow
def test_daemons_without_descriptors_recover(tmp_path):
    """The center and the worker may have 64 each; more connections than that come and go."""
    few = ("prlimit", "--nofile=64:64")
    with terminals() as terminal:
        center = terminal("center", "--port", "0", prefix=few, log=tmp_path / "center").said()["Center"]
        worker = terminal("worker", center, "--ncores", "2", prefix=few, log=tmp_path / "worker").said()["Worker"]
        with Pool(center) as pool:
            pool._core.wait(lambda: len(pool.workers) == 1, 20)
            handles = pool.map(np.zeros, [20_000] * 50)
            assert all(handle.wait(30) for handle in handles)
            for address in (center, worker):
                crowd = []
                try:
                    for _ in range(100):
                        crowd.append(rpc(address))
                        crowd[-1].ping()
                except DistributedError as error:
                    print(f"{len(crowd)} connections, then {error}")
                assert pool.gather(pool.map(abs, range(100)), 30) == list(range(100)), "who is in stays in"
                for member in crowd:
                    member.close()
                with rpc(address) as there:
                    assert until(lambda there=there: there.ping() == "pong")
            assert pool.gather(pool.map(len, handles), 30) == [20_000] * 50
            assert all(value.shape == (20_000,) for value in pool.gather(handles, 30))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft > 64
