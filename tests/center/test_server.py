"""The center over real sockets, on the test's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from distributed.center.server import Center
from distributed.comm import Connection, connect
from distributed.errors import BadAddress, DistributedError, StartFailed
from distributed.wire import messages as m
from distributed.wire.security import find_secret

ALICE = "aaaaaaaaaaaa"


class Peer:
    """A connection to the center that collects what the center says by itself, and answers requests with None."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[m.Message] = asyncio.Queue()
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def join(self, address: str, role: str) -> Peer:
        self.connection = await connect(
            address, role=role, secret=find_secret(), on_message=self._hear, on_close=lambda _, why: self._end(why)
        )
        self.ask = self.connection.ask
        return self

    def _hear(self, connection: Connection, message: m.Message, request: int) -> None:
        self.heard.put_nowait(message)
        connection.reply(request, None)

    def _end(self, reason: str) -> None:
        self.closed.set_result(reason)

    async def leave(self) -> None:
        self.connection.close()
        await self.closed


def with_center(test: Callable[..., Awaitable[None]], *roles: str) -> None:
    """Run a test with a center and one connection of each role."""

    async def run() -> None:
        center = Center(port=0, status_port=None)
        await center.start()
        peers = [await Peer().join(center.address, role) for role in roles]
        try:
            await test(center, *peers)
        finally:
            for peer in peers:
                await peer.leave()
            await center.close()

    asyncio.run(run())


def register(address: str, keys: list[str]) -> m.Register:
    return m.Register(m.Member(address, "one", "", 2, 1000), keys, [1] * len(keys), [8] * len(keys))


def test_members_and_keys_are_known_and_pushed() -> None:
    async def test(center: Center, worker: Peer, pool: Peer) -> None:
        assert await pool.ask(m.RegisterClient(ALICE)) == []
        [member] = await worker.ask(register("127.0.0.1:1", ["x"]))
        assert m.Member(*member).address == "127.0.0.1:1"
        assert isinstance(await pool.heard.get(), m.WorkerJoined)
        assert await pool.ask(m.WhoHas(["x", "y"])) == {"x": {"127.0.0.1:1": [1, 8]}}
        await worker.leave()
        left = await pool.heard.get()
        assert (type(left), left.reason) == (m.WorkerLeft, "its connection broke")
        assert await pool.ask(m.WhoHas(["x"])) == {}

    with_center(test, "worker", "pool")


def test_publish_returns_when_workers_have_answered() -> None:
    async def test(center: Center, worker: Peer, pool: Peer) -> None:
        await worker.ask(register("127.0.0.1:1", ["x"]))
        await pool.ask(m.RegisterClient(ALICE))
        await pool.ask(m.Publish("table", "x", ["x"]))
        assert worker.heard.get_nowait() == m.Pin("table", "x", {"x": 0})
        with pytest.raises(DistributedError, match="taken"):
            await pool.ask(m.Publish("table", "y", ["y"]))

    with_center(test, "worker", "pool")


def test_a_waiting_request_is_answered_when_its_time_is_over() -> None:
    async def test(center: Center, pool: Peer) -> None:
        assert await pool.ask(m.WhoHas(["x"], wait_s=0.02)) == {}

    with_center(test, "pool")


def test_a_second_registration_closes_the_first_connection() -> None:
    async def test(center: Center, older: Peer, newer: Peer) -> None:
        await older.ask(register("127.0.0.1:1", ["x"]))
        await newer.ask(register("127.0.0.1:1", ["y"]))
        await older.closed
        assert await newer.ask(m.HasWhat()) == {"127.0.0.1:1": {"y": [1, 8]}}

    with_center(test, "worker", "worker")


def test_a_peer_that_speaks_out_of_place_is_cut_and_the_others_are_served() -> None:
    async def test(center: Center, bad: Peer, good: Peer) -> None:
        bad.connection.send(m.Cancel(["x"], [1]))
        await bad.closed
        assert await good.ask(m.Ping()) == "pong"

    with_center(test, "worker", "pool")


def test_a_worker_that_cannot_be_one_is_cut_and_nobody_hears_of_it() -> None:
    async def test(center: Center, bad: Peer, pool: Peer) -> None:
        await pool.ask(m.RegisterClient(ALICE))
        bad.connection.send(m.Register(m.Member("127.0.0.1:1", "one", "", 0, 1000), [], [], []))
        await bad.closed
        assert await pool.ask(m.Ncores()) == {}
        assert pool.heard.empty()

    with_center(test, "worker", "pool")


def test_status_names_the_center_and_terminate_finishes_it() -> None:
    async def test(center: Center, peer: Peer) -> None:
        status = await peer.ask(m.Status())
        assert status["address"] == center.address
        assert "python" in status["versions"]
        assert await peer.ask(m.Terminate()) is None
        await center.finished()

    with_center(test, "hand")


def test_a_center_closes_with_its_connections_open() -> None:
    async def run() -> None:
        center = Center(port=0)
        await center.start()
        peer = await Peer().join(center.address, "worker")
        await peer.ask(register("127.0.0.1:1", ["x"]))
        await center.close()
        await peer.closed

    asyncio.run(run())


def test_a_port_in_use_and_an_open_address_are_refused() -> None:
    async def test(center: Center) -> None:
        for wrong, error in [
            (Center(port=int(center.address.rpartition(":")[2])), StartFailed),
            (Center("0.0.0.0", 0), BadAddress),
            (Center(port=0, status_port=int(center.address.rpartition(":")[2])), StartFailed),
        ]:
            with pytest.raises(error):
                await wrong.start()
            await wrong.close()

    with_center(test)
