"""Machines that reach nobody but the head: what they say to each other goes through its center, and nothing is missing.

Between network namespaces that have no route to one another.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest

from distributed import Pool, rpc
from distributed.wire.credential import find_or_create_credential
from tests.chaos.graph import EXECUTION, Graph, Plan
from tests.promises.machines import islands
from tests.promises.observe import until

PATIENCE_S = 60
LARGE = 50 << 20
MIB = 1 << 20
TASKS = 3000


@pytest.fixture(params=["", "TLS"])
def encrypted(request, secret_file, monkeypatch, tmp_path):
    """Whether there is a credential; the secret has no place where one was left by another test."""
    secret = tmp_path / "secret"
    monkeypatch.setenv("DISTRIBUTED_SECRET_FILE", str(secret))
    if request.param:
        find_or_create_credential(secret.with_name("tls.pem"))
    return bool(request.param)


def made(seed, nbytes):
    return np.random.default_rng(seed).integers(0, 255, nbytes, np.uint8)


def total(*arrays):
    return int(sum(array.sum(dtype=np.int64) for array in arrays))


def where(_):
    """A task tells on which machine it runs: each knows the head by another address."""
    time.sleep(0.01)
    return os.environ["DISTRIBUTED_CENTER"]


def inside(nbytes, there):
    """A task whose task runs elsewhere and has a large value, which this one reads."""
    from distributed import current_pool

    return total(current_pool().options(workers=[there]).submit(made, 3, nbytes).get())


def shared(comm):
    """A member of a group that is on both islands: each gives a large array, and each hears of its neighbour."""
    comm.send(comm.rank, (comm.rank + 1) % comm.size)
    return [total(*comm.allgather(made(comm.rank, MIB))), comm.recv()]


def use(hear, say, center, uploads):
    """A client that reaches the head only, and uses all there is."""
    with Pool(center) as pool:
        pool._core.wait(lambda: len(pool.workers) == 2, PATIENCE_S)
        here, there = sorted(pool.workers)
        say([here, there])
        with rpc(center) as asked:
            assert asked.status()["spliced"] >= 2, "the way to each leads through the center"
        one = pool.options(workers=[here]).submit(made, 1, LARGE)
        other = pool.options(workers=[there]).submit(made, 2, LARGE)
        expected = [total(made(1, LARGE)), total(made(2, LARGE)), total(made(3, 1 << 20))]
        assert pool.options(workers=[there]).submit(total, one, other).get(PATIENCE_S) == expected[0] + expected[1]
        assert np.array_equal(one.get(PATIENCE_S), made(1, LARGE)), "a large value comes to the client"
        (sent,) = pool.options(workers=[here]).scatter([made(4, 1 << 20)])
        assert pool.options(workers=[there]).submit(total, sent).get(PATIENCE_S) == total(made(4, 1 << 20))
        assert pool.gather(pool.map(abs, range(-1000, 0)), PATIENCE_S) == list(range(1000, 0, -1))
        assert list(pool.imap(abs, range(-100, 0))) == list(range(100, 0, -1))
        pool.publish("large", one)
        assert total(pool["large"].get(PATIENCE_S)) == expected[0]
        pool.unpublish("large")
        module = Path(uploads, "doubles.py")
        module.write_text("def double(x): return 2 * x")
        pool.upload(module)
        assert pool.gather(pool.map("doubles.double", range(100)), PATIENCE_S) == list(range(0, 200, 2))
        whole = total(*[made(rank, MIB) for rank in range(4)])
        assert pool.gather(pool.group(shared, 4), PATIENCE_S) == [[whole, rank] for rank in (3, 0, 1, 2)]
        inner = pool.options(workers=[here]).submit(inside, 1 << 20, there)
        assert inner.get(PATIENCE_S) == expected[2]
        say(sorted(set(pool.gather(pool.map(where, range(100)), PATIENCE_S))))
        hear()
    say("closed")


def head_and_workers(net, encrypted, *options):
    """A center on the head, and a worker on each of two islands; the center's address, and the terminals."""
    plain = () if encrypted else ("--insecure-plaintext",)
    center, address = net.start("hub", "center", "--host", "0.0.0.0", "--port", "0", *plain)
    workers = {}
    for name in ("alice", "bob"):
        there = net.center_from(name, address)
        workers[name] = net.start(name, "worker", there, "--ncores", "2", *plain, *options)
    return center, address, workers


@pytest.mark.namespaces
@pytest.mark.slow
@pytest.mark.parametrize("how", ["no route", "packets get lost", "via center"])
def test_a_client_and_workers_that_reach_the_head_only_do_all_they_do_elsewhere(encrypted, how, tmp_path):
    options = ("--via-center", "--announce", "island") if how == "via center" else ()
    with islands("alice", "bob", "client", DISTRIBUTED_DIRECT_CONNECT_S=0.5) as net:
        if how == "packets get lost":
            net.lead_astray()
        _, address, workers = head_and_workers(net, encrypted, *options)
        client = net.program("client", use, net.center_from("client", address), tmp_path)
        known = client.hear()
        assert sorted(known) == sorted(address for _, address in workers.values())
        assert client.hear() == sorted(net.center_from(name, address) for name in workers), "both computed"
        client.say("end")
        assert client.hear() == "closed"
        assert client.end() == 0
        for worker, _ in workers.values():
            assert worker.end(signal.SIGTERM)[0] == 0


def watch(hear, say, center, directory):
    """A client behind the head whose worker dies, and whose center is started again."""
    with Pool(center) as pool:
        pool._core.wait(lambda: len(pool.workers) == 2, PATIENCE_S)
        handles = pool.map(made, range(40), [MIB] * 40)
        assert all(handle.wait(PATIENCE_S) for handle in handles)
        waiting = pool.submit(held_up, directory)  # on one core of four, and then of two
        assert until(lambda: os.listdir(directory), PATIENCE_S)
        say("a worker may die")
        hear()
        assert pool._core.wait(lambda: len(pool.workers) == 1, PATIENCE_S)
        assert pool.gather(pool.map(total, handles), PATIENCE_S) == [total(made(number, MIB)) for number in range(40)]
        say("the center may end")
        hear()
        Path(directory, "go on").touch()
        assert waiting.get(PATIENCE_S) == "went on"
        (sent,) = pool.scatter([made(50, MIB)])
        assert pool.submit(total, sent, handles[0]).get(PATIENCE_S) == total(made(50, MIB)) + total(made(0, MIB))
        say("all is there")
        hear()


def held_up(directory):
    Path(directory, os.urandom(8).hex()).touch()
    while not Path(directory, "go on").exists():
        time.sleep(0.01)
    return "went on"


@pytest.mark.namespaces
@pytest.mark.slow
def test_behind_the_head_a_worker_dies_and_the_center_is_started_again_and_nothing_is_lost(encrypted, tmp_path):
    (tmp_path / "begun").mkdir()
    with islands("alice", "bob", "client") as net:
        center, address, workers = head_and_workers(net, encrypted, "--via-center")
        client = net.program("client", watch, net.center_from("client", address), tmp_path / "begun")
        assert client.hear() == "a worker may die"
        with contextlib.suppress(ProcessLookupError):
            workers["alice"][0].process.kill()
        assert client.ask("it did") == "the center may end"
        center.kill()
        plain = () if encrypted else ("--insecure-plaintext",)
        net.start("hub", "center", "--host", "0.0.0.0", "--port", address.rpartition(":")[2], *plain)
        assert client.ask("it is there again") == "all is there"
        client.say("end")
        assert client.end() == 0


def play(hear, say, center, notes):
    """A graph of tasks whose inputs are at other workers, each behind the head."""
    with Pool(center) as pool:
        pool._core.wait(lambda: len(pool.workers) == 2, PATIENCE_S)
        graph = Graph(Plan.draw(TASKS, Random(1)), Path(notes))
        graph.submit(pool)
        say("running")
        hear()
        graph.all_arrived.wait(PATIENCE_S)
        graph.check(PATIENCE_S)
        say([len(graph.unfinished()), graph.wrong[:3]])
        hear()


def executions(notes):
    return notes.stat().st_size // EXECUTION.size if notes.exists() else 0


@pytest.mark.long
@pytest.mark.namespaces
@pytest.mark.slow
def test_a_graph_comes_out_right_though_workers_and_the_center_are_killed_while_all_goes_through_the_head(
    encrypted, tmp_path
):
    plain = () if encrypted else ("--insecure-plaintext",)
    notes = tmp_path / "notes"
    with islands("alice", "bob", "client") as net:
        center, address, workers = head_and_workers(net, encrypted, "--via-center")
        client = net.program("client", play, net.center_from("client", address), notes)
        assert client.hear() == "running"
        for part, name in enumerate(("alice", "bob", "center", "alice", "bob"), start=1):
            assert until(lambda part=part: executions(notes) >= part * TASKS // 6, PATIENCE_S)
            if name == "center":
                center.kill()
                center, _ = net.start(
                    "hub", "center", "--host", "0.0.0.0", "--port", address.rpartition(":")[2], *plain
                )
            else:
                workers[name][0].kill()
                there = net.center_from(name, address)
                workers[name] = net.start(name, "worker", there, "--ncores", "2", "--via-center", *plain)
        assert client.ask("no more of it") == [0, []]
        client.say("end")
        assert client.end() == 0


@pytest.mark.long
@pytest.mark.namespaces
@pytest.mark.slow
def test_who_falls_silent_behind_the_head_is_noticed_by_those_who_were_led_there_and_comes_back(encrypted, tmp_path):
    """Nothing tells a client whose way leads through the center that the machine at its end is gone, but the center."""
    notes = tmp_path / "notes"
    with islands("alice", "bob", "client", DISTRIBUTED_SILENT_WORKER_S=1) as net:
        _, address, _ = head_and_workers(net, encrypted, "--via-center")
        client = net.program("client", play, net.center_from("client", address), notes)
        assert client.hear() == "running"
        for part, name in enumerate(("alice", "bob"), start=1):
            assert until(lambda part=part: executions(notes) >= part * TASKS // 6, PATIENCE_S)
            net.cut(name)
            before = executions(notes)
            assert until(lambda before=before: executions(notes) >= before + TASKS // 6, PATIENCE_S)
            net.mend(name)
        net.cut("alice")  # for good: what it has and what it runs must be given up
        assert client.ask("no more of it") == [0, []]
        client.say("end")
        assert client.end() == 0


def noted(path, seed):
    with open(path, "a") as file:
        file.write(f"{seed}\n")
    return made(seed, MIB)


def hold(hear, say, center, notes):
    """A client whose values are on a worker that leaves."""
    with Pool(center) as pool:
        pool._core.wait(lambda: len(pool.workers) == 2, PATIENCE_S)
        say(sorted(pool.workers))
        leaves = hear()
        values = pool.options(workers=[leaves]).map(noted, [notes] * 10, range(10))
        assert all(value.wait(PATIENCE_S) for value in values)
        say("they are there")
        hear()
        assert [total(value) for value in pool.gather(values, PATIENCE_S)] == [total(made(n, MIB)) for n in range(10)]
        say("they are still there")
        hear()


@pytest.mark.namespaces
@pytest.mark.slow
def test_a_worker_behind_the_head_hands_over_what_it_holds_to_one_that_it_cannot_reach(encrypted, tmp_path):
    with islands("alice", "bob", "client") as net:
        _, address, workers = head_and_workers(net, encrypted, "--via-center")
        client = net.program("client", hold, net.center_from("client", address), tmp_path / "notes")
        assert sorted(known for _, known in workers.values()) == client.hear()
        worker, known = workers["alice"]
        assert client.ask(known) == "they are there"
        code, said, _ = worker.end(signal.SIGTERM)
        assert code == 0
        assert "handed over 10 values" in said
        assert client.ask("it left") == "they are still there"
        assert len((tmp_path / "notes").read_text().splitlines()) == 10, "nothing was computed again"
        client.say("end")
        assert client.end() == 0


@pytest.mark.namespaces
@pytest.mark.slow
def test_a_head_node_and_a_second_machine_that_joins_it_with_nothing_but_its_address(encrypted, tmp_path):
    """`dcenter --ncores`, `dworker HEAD:PORT`, `Pool(HEAD:PORT)`: without TLS nobody connects to the second machine."""
    with islands("second", "client") as net:
        plain = () if encrypted else ("--insecure-plaintext",)
        head, address = net.start("hub", "center", "--host", "0.0.0.0", "--port", "0", "--ncores", "2", *plain)
        second, known_as = net.start("second", "worker", net.center_from("second", address), "--ncores", "2")
        assert known_as.startswith(net.addresses["second"] if encrypted else os.uname().nodename)
        client = net.program("client", use, net.center_from("client", address), tmp_path)
        assert known_as in client.hear()
        assert len(client.hear()) == 2, "both computed"
        client.say("end")
        assert client.hear() == "closed"
        assert client.end() == 0
        assert second.end(signal.SIGTERM)[0] == 0
        assert head.end(signal.SIGTERM)[0] == 0
