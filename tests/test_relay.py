"""Workers that nobody can connect to are reached through the center, from end to end as if it were direct.

A real center and a real worker on one loop; whoever wants the worker is in a thread. Once in plain, once with TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import inspect
import socket
import threading
import time

import pytest

from distributed import Pool, relay, rpc, splicer
from distributed.bulk import BulkClient
from distributed.center import server as center_server
from distributed.center.server import Center
from distributed.comm import Connection, connect
from distributed.config import SETTINGS
from distributed.connect import Meant, connect_blocking
from distributed.errors import BadAddress, ConnectionFailed, ProtocolError, WrongPeer
from distributed.listen import Listener
from distributed.relay import Roads, dial_back, through_center
from distributed.wire import messages as m
from distributed.wire.codec import encode_frame
from distributed.wire.credential import find_or_create_credential
from distributed.wire.security import find_or_create_secret, find_secret
from distributed.worker.callbacks import Callbacks
from distributed.worker.server import Worker

PATIENCE_S = 20.0
MIB = 1 << 20


@pytest.fixture(autouse=True, params=["", "TLS"])
def encrypted(request, monkeypatch, tmp_path, no_leaks):
    secret = tmp_path / "secret"
    monkeypatch.setenv("DISTRIBUTED_SECRET_FILE", str(secret))
    if request.param:
        find_or_create_credential(secret.with_name("tls.pem"))
    return bool(request.param)


@contextlib.asynccontextmanager
async def head(*names, **settings):
    """A center, and workers with these names that are reached through it only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(center_server, "SETTINGS", dataclasses.replace(SETTINGS, **settings))
        center = Center(port=0, status_port=None)
        await center.start()
    workers = [Worker(center.address, ncores=1, announce=name, via_center=True) for name in names]
    try:
        for worker in workers:
            await worker.start()
        yield center, *workers
    finally:
        for worker in workers:
            await worker.close()
        await center.close()


def on_a_loop(scenario):
    def run(**fixtures):
        asyncio.run(asyncio.wait_for(scenario(**fixtures), 60))

    run.__name__ = scenario.__name__
    run.__signature__ = inspect.signature(scenario)
    return run


async def in_thread(function, *args, **options):
    return await asyncio.to_thread(functools.partial(function, *args, **options))


def bulk(worker, center):
    roads = Roads(center.address, "pool", find_secret())
    return BulkClient(worker.address, "", roads, worker.member.incarnation, relayed=True)


async def until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  it happens in another thread
            await asyncio.sleep(0.005)


# -------------------------------------------------------------------------------------------------------- what goes


@on_a_loop
async def test_a_worker_that_listens_to_nobody_answers_through_the_center():
    async with head("maxi") as (center, worker):
        assert worker.address.startswith("maxi:")
        assert worker.member.relayed

        def by_hand():
            with rpc(f"{worker.address}?via={center.address}") as there:
                there.update_data(data={"x": 1, "large": bytes(3 * MIB)})
                values = there.get_data(keys=["x", "large"])
                there.delete_data(keys=["x", "large"])
                return there.status()["address"], values["x"], len(values["large"])

        assert await in_thread(by_hand) == (worker.address, 1, 3 * MIB)
        await until(lambda: center.status()["spliced"] == 0)


@on_a_loop
async def test_the_center_sees_what_passes_in_plain_only_where_there_is_no_tls(encrypted, monkeypatch):
    seen = bytearray()
    move = splicer._Flow.move

    def watched(flow, scratch):
        send = flow.target

        class Tap:
            def send(self, data):
                count = send.send(data)
                seen.extend(data[:count])
                return count

            def __getattr__(self, name):
                return getattr(send, name)

        flow.target = Tap()
        try:
            move(flow, scratch)
        finally:
            flow.target = send

    monkeypatch.setattr(splicer._Flow, "move", watched)
    async with head("maxi") as (center, worker):

        def by_hand():
            with rpc(f"{worker.address}?via={center.address}") as there:
                there.update_data(data={"x": b"the jewels are in the cellar" * 10})
                there.get_data(keys=["x"])

        await in_thread(by_hand)
    assert (b"the jewels are in the cellar" in seen) is not encrypted
    assert (b"DSTB" in seen) is not encrypted, "even the handshake is between the two alone"
    assert len(seen) > 500


@on_a_loop
async def test_a_connection_that_was_ended_because_it_was_idle_is_opened_again():
    async with head("maxi", spliced_idle_s=0.05) as (center, worker):
        client = bulk(worker, center)
        center._splicer = splicer.Splicer(
            lambda number: center._loop.call_soon_threadsafe(center._parted, number), look_s=0.01
        )
        try:
            for _ in range(3):
                assert (await in_thread(client.fetch, ["x"], [0]))[0].nbytes == -1
                await until(lambda: center.status()["spliced"] == 0)
        finally:
            client.close()


@on_a_loop
async def test_values_take_the_direct_way_again_when_it_is_there():
    """The address leads nowhere at first, and the worker is there later; what is open is not kept for ever."""
    async with head("maxi") as (center, worker):
        port = int(worker.address.rpartition(":")[2])
        roads = Roads(center.address, "pool", find_secret())
        client = BulkClient(worker.address, "", roads, worker.member.incarnation)
        try:
            assert (await in_thread(client.fetch, ["x"], [0]))[0].nbytes == -1
            assert center.status()["spliced"] == 1
            client.address = f"127.0.0.1:{port}"
            await in_thread(client.fetch, ["x"], [0])
            assert center.status()["spliced"] == 1, "not yet"
            roads._relayed_until[worker.member.incarnation] = 0.0
            await in_thread(client.fetch, ["x"], [0])
            await until(lambda: center.status()["spliced"] == 0)
        finally:
            client.close()


@on_a_loop
async def test_many_at_a_time(encrypted):
    async with head("maxi") as (center, worker):

        def ask(number):
            client = bulk(worker, center)
            try:
                return [found.nbytes for found in client.fetch([f"unknown {number}"] * 3, [0] * 3)]
            finally:
                client.close()

        assert await asyncio.gather(*(in_thread(ask, number) for number in range(40))) == [[-1] * 3] * 40
        await until(lambda: center.status()["spliced"] == 0)


# ------------------------------------------------------------------------------------------------- what does not go


@on_a_loop
async def test_who_is_no_member_is_named_and_so_is_the_center():
    async with head() as (center,):
        roads = Roads(center.address, "pool", find_secret())
        with pytest.raises(
            ConnectionFailed, match=r"nobody:1: no worker of the address 'nobody:1' is a member"
        ) as error:
            await in_thread(roads.connect, "nobody:1", kind="bulk", relayed=True)
        assert error.value.address == "nobody:1"
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        why = (
            rf"nobody listens there.*; nor is it reached through the center {center.address}: no worker of the address"
        )
        with pytest.raises(ConnectionFailed, match=why):
            await in_thread(roads.connect, f"127.0.0.1:{port}", kind="bulk")


@on_a_loop
async def test_the_worker_of_another_incarnation_is_refused_as_a_direct_one_would_be():
    async with head("maxi") as (center, worker):
        roads = Roads(center.address, "pool", find_secret())
        with pytest.raises(WrongPeer, match="has it been started again"):
            await in_thread(roads.connect, worker.address, kind="bulk", incarnation="f00d", relayed=True)


@on_a_loop
async def test_whoever_else_answers_at_the_address_is_not_taken_for_the_worker():
    """Private networks have the same addresses: here another worker of the cluster listens at that one."""
    async with head("moritz") as (center, moritz):
        port = int(moritz.address.rpartition(":")[2])
        there = Worker(center.address, ncores=1, announce="127.0.0.1", via_center=True)
        await there.start()
        try:
            confusing = f"127.0.0.1:{port}"
            there._center.send(m.Register(dataclasses.replace(there.member, address=confusing), [], [], []))
            await until(lambda: confusing in center.state.directory.members)
            roads = Roads(center.address, "hand", find_secret())
            sock = await in_thread(roads.connect, confusing, kind="control", incarnation=there.member.incarnation)
            with sock:
                assert roads.goes_through_center(there.member.incarnation)
                connection = await in_thread(ask, sock, m.Status())
            assert connection["pid"] == there.status()["pid"]
            assert connection["address"] == there.address
        finally:
            await there.close()


def ask(sock, message):
    return relay._ask(sock, message, time.monotonic() + PATIENCE_S).result


class FakeWorker:
    """Registers as a worker; what it does with a token is the test's business."""

    def __init__(self, on_token):
        self.on_token, self.tokens = on_token, []

    async def join(self, center, address="maxi:1"):
        self.connection = await connect(
            center.address, role="worker", secret=find_secret(), on_message=self._hear, expects="center"
        )
        await self.connection.ask(m.Register(m.Member(address, "f00d", "", 1, 1), [], [], []))

    def _hear(self, connection: Connection, message, request):
        if isinstance(message, m.DialBack):
            self.tokens.append(message.token)
            self.on_token(message.token)


@on_a_loop
async def test_who_waits_for_a_worker_that_does_not_dial_back_hears_so():
    async with head(dial_back_s=0.2) as (center,):
        worker = FakeWorker(lambda token: None)
        await worker.join(center)
        with pytest.raises(ConnectionFailed, match=r"maxi:1: the worker did not dial back to the center within 0.2 s"):
            await in_thread(
                through_center, center.address, Meant("maxi:1"), kind="bulk", role="pool", secret=find_secret()
            )
        [token] = worker.tokens
        with pytest.raises(ConnectionFailed, match="nobody waits for this token"):
            await in_thread(dial_back, center.address, token, find_secret())
        worker.connection.close()


@on_a_loop
async def test_who_calls_by_hand_waits_no_longer_than_they_said():
    async with head() as (center,):
        worker = FakeWorker(lambda token: None)
        await worker.join(center)
        with rpc(f"maxi:1?via={center.address}", timeout_s=0.5) as there:
            with pytest.raises(ConnectionFailed, match=r"no answer within 0\.5 s"):
                await in_thread(there.ping)
        worker.connection.close()


@on_a_loop
async def test_a_worker_that_dials_back_and_ends_is_an_error_in_words():
    async with head() as (center,):
        worker = FakeWorker(
            lambda token: threading.Thread(
                target=lambda: dial_back(center.address, token, find_secret()).close()
            ).start()
        )
        await worker.join(center)
        with pytest.raises(ConnectionFailed, match="maxi:1: "):
            await in_thread(
                through_center, center.address, Meant("maxi:1"), kind="bulk", role="pool", secret=find_secret()
            )
        await until(lambda: center.status()["spliced"] == 0)
        worker.connection.close()


@on_a_loop
async def test_who_dials_back_for_another_is_found_out():
    """A token leads to whoever has it; who answers there must still be the worker that was asked for."""
    async with head("moritz") as (center, moritz):
        worker = FakeWorker(lambda token: moritz._callbacks.dial(token))
        await worker.join(center)
        with pytest.raises(WrongPeer, match="another worker answers there than the one that was meant"):
            await in_thread(
                through_center, center.address, Meant("maxi:1"), kind="bulk", role="pool", secret=find_secret()
            )
        worker.connection.close()


@on_a_loop
async def test_a_client_is_not_taken_for_a_worker():
    """Whoever dials back must answer as a worker: here it is a center that does."""
    async with head() as (center,):
        listener = await Listener.start(
            "127.0.0.1", 0, "", find_secret(), "center", lambda _: None, lambda sock, _: sock.close(), "f00d"
        )
        loop = asyncio.get_running_loop()

        def answer(token):
            sock = dial_back(center.address, token, find_secret())
            loop.call_soon_threadsafe(listener.take, sock, "somebody")

        worker = FakeWorker(lambda token: threading.Thread(target=answer, args=(token,)).start())
        await worker.join(center)
        with pytest.raises(WrongPeer, match="a center answers there, not a worker"):
            await in_thread(
                through_center, center.address, Meant("maxi:1"), kind="bulk", role="pool", secret=find_secret()
            )
        await listener.close()
        worker.connection.close()


@on_a_loop
async def test_who_says_more_than_was_asked_gets_no_way():
    """What follows the request before the answer would be taken for the first bytes to the worker."""
    async with head() as (center,):
        worker = FakeWorker(lambda token: None)
        await worker.join(center)
        hasty = await in_thread(
            connect_blocking, center.address, kind="control", role="pool", secret=find_secret(), timeout_s=PATIENCE_S
        )
        with hasty:
            request = b"".join(encode_frame(m.Splice("maxi:1"), 1))
            await in_thread(hasty.sendall, request + request[:7])
            await until(lambda: worker.tokens)
            with pytest.raises(ConnectionFailed):
                sock = await in_thread(dial_back, center.address, worker.tokens[0], find_secret())
                with sock:
                    sock.settimeout(PATIENCE_S)
                    assert await in_thread(sock.recv, 1) == b""
                    raise ConnectionFailed("", "closed")
        await until(lambda: center.status()["spliced"] == 0)
        worker.connection.close()


@on_a_loop
async def test_tokens_of_ones_own_making_open_nothing():
    async with head("maxi") as (center, worker):

        def guess():
            with rpc(center.address) as there:
                for token in ("", "0" * 32, "x" * 10_000):
                    with pytest.raises(ProtocolError, match="nobody waits for this token"):
                        there.dialled_back(token=token)
            with rpc(f"{worker.address}?via={center.address}") as there:
                with pytest.raises(ProtocolError, match="a worker does not do dial_back"):
                    there.dial_back(token="x")

        await in_thread(guess)


@on_a_loop
async def test_a_worker_that_ends_dials_nobody_back():
    async with head("maxi") as (center, worker):
        await worker.close()
        worker._callbacks.dial("0" * 32)
        assert not worker._callbacks._backlog._waiting
    taken = []
    callbacks = Callbacks(center.address, find_secret(), lambda *taking: taken.append(taking))
    one, other = socket.socketpair()
    await callbacks.close()
    callbacks._hand_over(one)  # it was under way
    with other:
        assert other.recv(1) == b""
    assert taken == []


@on_a_loop
async def test_the_end_of_the_center_ends_what_it_passes_on():
    async with head("maxi") as (center, worker):
        client = bulk(worker, center)
        try:
            assert (await in_thread(client.fetch, ["x"], [0]))[0].nbytes == -1
            await until(lambda: center.status()["spliced"] == 1)
            await center.close()
            with pytest.raises(ConnectionFailed):
                await in_thread(client.fetch, ["x"], [0])
        finally:
            client.close()


# ------------------------------------------------------------------------------------------ which way, and how long


class Ways:
    """Stands for both ways; notes which one was tried."""

    def __init__(self, monkeypatch):
        self.tried, self.now = [], 1000.0
        self.direct: Exception | None = None
        self.relayed: Exception | None = None
        monkeypatch.setattr(relay, "connect_blocking", self._directly)
        monkeypatch.setattr(relay, "through_center", self._through_center)
        monkeypatch.setattr(relay.time, "monotonic", lambda: self.now)
        self.roads = Roads("center:1", "worker", None)

    def _directly(self, address, **_):
        return self._try("direct", self.direct)

    def _through_center(self, center, meant, **_):
        return self._try("center", self.relayed)

    def _try(self, way, error):
        self.tried.append(way)
        if error is not None:
            raise error
        return way

    def connect(self, **options):
        self.tried.clear()
        return self.roads.connect("maxi:1", kind="bulk", incarnation="f00d", **options)


@pytest.fixture
def ways(monkeypatch):
    return Ways(monkeypatch)


def test_the_direct_way_is_tried_first_and_the_center_is_spared(ways):
    assert ways.connect() == "direct"
    assert ways.tried == ["direct"]


def test_who_is_not_reached_directly_is_not_tried_again_for_a_while(ways):
    ways.direct = ConnectionFailed("maxi:1", "no answer within 3 s")
    assert ways.connect() == "center"
    assert ways.tried == ["direct", "center"]
    assert ways.connect() == "center"
    assert ways.tried == ["center"]
    ways.now += SETTINGS.direct_again_s + 1
    ways.direct = None
    assert ways.connect() == "direct"
    assert ways.connect() == "direct"
    assert ways.tried == ["direct"]


def test_a_worker_that_is_reached_neither_way_is_tried_both_ways_each_time(ways):
    ways.direct = ConnectionFailed("maxi:1", "nobody listens there")
    ways.relayed = ConnectionFailed("maxi:1", "it is no member")
    for _ in range(2):
        with pytest.raises(ConnectionFailed, match=r"nobody listens there; nor .* center:1: it is no member"):
            ways.connect()
        assert ways.tried == ["direct", "center"]


@pytest.mark.parametrize("which", ["direct", "relayed"])
def test_that_it_is_another_worker_is_what_counts(ways, which):
    """Whoever fetches looks for the successor then."""
    ways.direct = ways.relayed = ConnectionFailed("maxi:1", "no answer")
    setattr(ways, which, WrongPeer("maxi:1", "another worker"))
    with pytest.raises(WrongPeer):
        ways.connect()


def test_who_says_that_nobody_reaches_it_is_not_tried_directly(ways):
    assert ways.connect(relayed=True) == "center"
    assert ways.tried == ["center"]


def test_without_a_center_there_is_no_other_way(ways):
    ways.roads = Roads("", "worker", None)
    ways.direct = ConnectionFailed("maxi:1", "nobody listens there")
    with pytest.raises(ConnectionFailed, match=r"^maxi:1: nobody listens there$"):
        ways.connect()


def test_not_more_is_remembered_than_matters(ways, monkeypatch):
    monkeypatch.setattr(relay, "REMEMBERED_MAX", 10)
    ways.direct = ConnectionFailed("maxi:1", "no answer within 3 s")
    for number in range(100):
        ways.roads.connect("maxi:1", kind="bulk", incarnation=str(number))
    assert len(ways.roads._relayed_until) == 10


@pytest.mark.parametrize(
    "address",
    [
        "maxi:1?via=",
        "maxi:1?via=alice",
        "maxi:1?by=alice:1",
        "maxi?via=alice:1",
        "a:1?via=b:1?via=c:1",
        "?via=b:1",
        "?",
    ],
)
def test_an_address_that_leads_nowhere_is_refused_where_it_is_written(address):
    with pytest.raises(BadAddress, match=r"is written host:port\?via=host:port"):
        rpc(address)


def test_where_no_worker_is_meant_no_way_to_one_is_taken():
    find_or_create_secret()
    for call in (Pool, Worker):
        with pytest.raises(BadAddress, match="via= leads to a worker, and here belongs the address of a daemon"):
            call("maxi:1?via=alice:8787")
