"""Machines that reach nobody but the head: what they say to each other goes through its center, and nothing is missing.

Between network namespaces that have no route to one another.
"""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from distributed import Pool
from distributed.wire.credential import find_or_create_credential
from tests.promises.machines import islands

PATIENCE_S = 60
LARGE = 50 << 20


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


def where(*_):
    """A task tells on which machine it runs: none has the address of another."""
    import socket

    return [socket.if_nameindex()[-1][1], os.environ["DISTRIBUTED_CENTER"]]


def inside(nbytes, there):
    """A task whose task runs elsewhere and has a large value, which this one reads."""
    from distributed import current_pool

    return total(current_pool().options(workers=[there]).submit(made, 3, nbytes).get())


def use(hear, say, center):
    """A client that reaches the head only, and uses all there is."""
    with Pool(center) as pool:
        pool._core.wait(lambda: len(pool.workers) == 2, PATIENCE_S)
        here, there = sorted(pool.workers)
        say([here, there])
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
        inner = pool.options(workers=[here]).submit(inside, 1 << 20, there)
        assert inner.get(PATIENCE_S) == expected[2]
        ran = {where for where, _ in pool.gather(pool.map(tuple, pool.map(where, range(200))), PATIENCE_S)}
        say(sorted(ran))
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
@pytest.mark.parametrize("options", [(), ("--via-center", "--announce", "island")], ids=["", "via center"])
def test_a_client_and_workers_that_reach_the_head_only_do_all_they_do_elsewhere(encrypted, options):
    with islands("alice", "bob", "client") as net:
        _, address, workers = head_and_workers(net, encrypted, *options)
        client = net.program("client", use, net.center_from("client", address))
        known = client.hear()
        assert sorted(known) == sorted(address for _, address in workers.values())
        assert client.hear() == ["uplink"]
        client.say("end")
        assert client.hear() == "closed"
        assert client.end() == 0
        for worker, _ in workers.values():
            assert worker.end(signal.SIGTERM)[0] == 0
