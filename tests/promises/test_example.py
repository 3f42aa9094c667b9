"""The example of the public surface works to the letter, with a `Cluster` and with commands in three terminals.

Every daemon ends on SIGTERM and on Ctrl-C with exit code 0 and without a word on stderr.
"""

from __future__ import annotations

import signal
import socket

import pytest

from distributed import Cluster, Pool
from tests.promises.observe import terminals


def free_addresses(count):
    """Addresses of ports that nobody listens at; all are held until all are known, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{held.getsockname()[1]}" for held in sockets]
    for held in sockets:
        held.close()
    return addresses


def test_the_example_with_a_cluster_on_given_addresses(capfd):
    center, first, second = free_addresses(3)
    c = Cluster(hosts=[first, second], center=center)
    p = Pool(center)
    a, b, c_ = p.map(lambda x: x * 10, [1, 2, 3])
    assert (a.get(), b.get(), c_.get()) == (10, 20, 30)
    assert (c.center_address, sorted(c.workers)) == (center, sorted([first, second]))
    assert sorted(p.ncores()) == sorted([first, second])
    p.close()
    c.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_example_with_three_terminals(number, capfd):
    with terminals() as terminal:
        center = terminal("center", "--port", "0")
        address = center.said()["Center"]
        workers = [terminal("worker", address) for _ in range(2)]
        said = [worker.said()["Worker"] for worker in workers]
        p = Pool(address)
        a, b, c_ = p.map(lambda x: x * 10, [1, 2, 3])
        assert (a.get(), b.get(), c_.get()) == (10, 20, 30)
        assert sorted(p.ncores()) == sorted(said)
        p.close()
        assert [worker.end(number) for worker in workers] == [(0, "", "")] * 2
        assert center.end(number)[::2] == (0, "")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_daemons_end_as_cleanly_while_tasks_run_and_data_is_there(number):
    with terminals() as terminal:
        center = terminal("center", "--port", "0")
        address = center.said()["Center"]
        worker = terminal("worker", address, "--ncores", "2")
        worker.said()
        pool = Pool(address)
        kept = pool.submit(bytes, 1_000_000)
        endless = pool.submit(sum, range(10**12))
        assert kept.wait(20)
        worker.process.send_signal(number)
        assert "leaving: 1 task to end or give back" in worker.process.stdout.readline()
        code, said, trouble = worker.end(number)
        assert (code, trouble) == (0, ""), "a second signal ends it at once"
        assert said.endswith("ended at once, leaving behind 1 task and 1 value (976.6 KiB)\n")
        assert center.end(number)[::2] == (0, "")
        assert not endless.ready()
        pool.terminate()
