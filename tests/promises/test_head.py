"""A head node, `dcenter --ncores N`: a center whose machine computes too. How it starts, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from distributed import Pool, rpc
from distributed.center.server import Center
from distributed.cluster.head import HeadWorker
from distributed.errors import StartFailed
from tests.promises.observe import PATIENCE_S, terminals, until


def head(terminal, *options):
    """A head node with two cores, and its center's address."""
    there = terminal("center", "--port", "0", "--ncores", "2", *options)
    said = there.said(6)
    assert said["cores"].split()[0] == "2"
    while "the worker of this head node is" not in (line := there.process.stdout.readline()):
        assert line, there.process.communicate()
    return there, said["Center"].replace("0.0.0.0", "127.0.0.1")


def members(center):
    with rpc(center) as there:
        return there.status()["members"]


def pid_of(center):
    """The process of the only worker, when there is one."""
    assert until(lambda: len(members(center)) == 1)
    return members(center)[0]["pid"]


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("options", [[], ["--host", "0.0.0.0", "--insecure-plaintext"]], ids=["", "for others, too"])
def test_a_head_node_computes_and_ends_as_asked(options):
    with terminals() as terminal:
        there, center = head(terminal, *options, "--memory-limit", "100MB")
        with Pool(center) as pool:
            assert pool.gather(pool.map(abs, range(-10, 0))) == list(range(10, 0, -1))
            assert [worker["ncores"] for worker in members(center)] == [2]
            assert [worker["memory_limit"] for worker in members(center)] == [100_000_000]
        code, out, err = there.end(signal.SIGINT)
        assert (code, err) == (0, "")
        assert "the worker of this head node leaves first" in out


def test_who_reaches_the_head_from_elsewhere_is_told_a_name_not_loopback():
    with terminals() as terminal:
        there, center = head(terminal, "--host", "0.0.0.0", "--insecure-plaintext")
        [host] = {worker["address"].rpartition(":")[0] for worker in members(center)} if pid_of(center) else []
        assert host == os.uname().nodename
        assert there.end(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize(("name", "announced"), [("maxi", "maxi"), ("my machine", "127.0.0.1")])
def test_a_name_that_could_not_stand_in_an_address_is_not_announced(monkeypatch, name, announced):
    center = Center("0.0.0.0")
    center.address = "0.0.0.0:8787"
    monkeypatch.setattr("socket.gethostname", lambda: name)
    assert HeadWorker(center).arguments() == ["worker", "127.0.0.1:8787", "--host", "0.0.0.0", "--announce", announced]


@pytest.mark.slow
def test_what_only_the_head_holds_is_handed_over_to_another_machine_first(tmp_path):
    with terminals() as terminal:
        there, center = head(terminal)
        pid_of(center)
        soon = {"DISTRIBUTED_DRAIN_CENTER_S": "0.1"}  # it will have no center at its own end
        other = terminal("worker", center, "--ncores", "1", log=tmp_path / "other", **soon)
        address = other.said()["Worker"]
        with rpc(center) as asked:
            [here] = [worker["address"] for worker in members(center) if worker["address"] != address]
            with rpc(here) as worker:
                worker.update_data(data={"x": bytes(1 << 20), "y": 1})
            assert until(lambda: len(asked.who_has(keys=["x", "y"])) == 2)
        assert there.end(signal.SIGTERM)[0] == 0
        with rpc(address) as worker:
            held = worker.get_data(keys=["x", "y"])
            assert (len(held["x"]), held["y"]) == (1 << 20, 1)
        assert other.end(signal.SIGTERM)[0] == 0


def linger(begun, seconds):
    begun.touch()
    time.sleep(seconds)


@pytest.mark.slow
def test_a_task_ends_before_the_head_does_unless_asked_twice(tmp_path):
    with terminals() as terminal:
        there, center = head(terminal)
        pid = pid_of(center)
        with Pool(center) as pool:
            pool.submit(linger, tmp_path / "begun", 600)
            assert until((tmp_path / "begun").exists)
            there.process.send_signal(signal.SIGTERM)
            assert until(lambda: [worker["leaving"] for worker in members(center)] == [True]), "it waits for the task"
            assert there.process.poll() is None
            assert there.end(signal.SIGTERM)[0] == 0
        assert until(lambda: gone(pid))


def test_a_head_whose_worker_is_killed_says_so_and_goes_on():
    with terminals() as terminal:
        there, center = head(terminal)
        os.kill(pid_of(center), signal.SIGKILL)
        assert until(lambda: members(center) == [])
        other = terminal("worker", center, "--ncores", "1")
        other.said()
        with Pool(center) as pool:
            assert pool.submit(abs, -1).get(PATIENCE_S) == 1
        assert other.end(signal.SIGTERM)[0] == 0
        code, _, err = there.end(signal.SIGTERM)
        assert code == 0
        assert f"was killed by signal 9; the center goes on without it, and dworker {center} starts another" in err


def test_the_worker_ends_with_a_head_that_is_killed():
    with terminals() as terminal:
        there, center = head(terminal)
        pid = pid_of(center)
        there.process.kill()
        assert until(lambda: gone(pid))


def test_a_head_whose_worker_was_told_to_end_ends_when_it_is_asked_to():
    with terminals() as terminal:
        there, center = head(terminal)
        pid = pid_of(center)
        with rpc(members(center)[0]["address"]) as worker:
            worker.terminate()
        assert until(lambda: gone(pid))
        with rpc(center) as asked:
            assert asked.ping() == "pong"
            asked.terminate()
        assert there.process.wait(PATIENCE_S) == 0


def test_a_worker_that_does_not_start_is_an_error(capfd):
    async def scenario():
        center = Center(port=0, status_port=None)
        await center.start()
        worker = HeadWorker(center, "--ncores", "none")
        try:
            with pytest.raises(StartFailed, match="the worker of this head node did not start"):
                await worker.start()
        finally:
            await worker.close()
            await center.close()

    asyncio.run(scenario())
    assert "'none' is not a number of cores" in capfd.readouterr().err
