"""Control connections over real sockets: what they carry, and what strangers and broken peers cannot do."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import inspect
import os
import socket
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from distributed import comm, listen
from distributed.comm import Connection, connect
from distributed.config import SETTINGS, Settings
from distributed.connect import connect_blocking
from distributed.errors import (
    AuthenticationFailed,
    BadAddress,
    ConnectionFailed,
    KeyLost,
    StartFailed,
    StoreFull,
    VersionMismatch,
)
from distributed.listen import Listener
from distributed.loop import new_loop
from distributed.wire import frames, security
from distributed.wire.codec import decode, encode_header
from distributed.wire.messages import AddKeys, HasWhat, Message, Ncores, Ping, Reply, Status, WhoHas
from distributed.wire.security import Secret, find_or_create_secret

SECRET = Secret.create()


class Echo:
    """A daemon that answers `Ping`, hangs up on `Status`, and notes the rest."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.messages: list[Message] = []
        self.reasons: asyncio.Queue[str] = asyncio.Queue()
        self.bulk: asyncio.Queue[tuple[socket.socket, str]] = asyncio.Queue()

    def accept(self, connection: Connection) -> None:
        self.connections.append(connection)
        connection.on_message, connection.on_close = self.receive, lambda _, reason: self.reasons.put_nowait(reason)

    def receive(self, connection: Connection, message: Message, request: int) -> None:
        self.messages.append(message)
        match message:
            case Ping():
                connection.reply(request, "pong")
            case WhoHas():
                connection.refuse(request, KeyLost(message.keys[0]))
            case HasWhat():
                raise RuntimeError("a bug of ours")
            case Status():
                connection.close()

    def accept_bulk(self, sock: socket.socket, role: str) -> None:
        self.bulk.put_nowait((sock, role))


@contextlib.asynccontextmanager
async def echo(unix_path: str = ""):
    daemon = Echo()
    listener = await Listener.start("127.0.0.1", 0, unix_path, SECRET, "center", daemon.accept, daemon.accept_bulk)
    try:
        yield daemon, listener
    finally:
        await listener.close()
        for connection in daemon.connections:
            connection.close()
        await asyncio.sleep(0)  # lets the loop close the sockets


def on_a_loop(test: Callable[..., Coroutine]) -> Callable[..., None]:
    """Run a coroutine as a test, for twenty seconds at most."""

    def run(**fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(asyncio.wait_for(test(**fixtures), 20))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.__signature__ = inspect.signature(test)
    return run


async def pinged(listener: Listener, unix: str = "") -> Connection:
    """A connection that is known to work."""
    connection = await connect(listener.address, role="worker", secret=SECRET, unix=unix)
    assert await connection.ask(Ping()) == "pong"
    return connection


@contextlib.contextmanager
def settings(monkeypatch: pytest.MonkeyPatch, **changed: Any):
    with monkeypatch.context() as patch:
        for module in (comm, listen):
            patch.setattr(module, "SETTINGS", dataclasses.replace(SETTINGS, **changed))
        yield


@pytest.mark.parametrize(("role", "expected_s"), [("worker", 30), ("pool", 600), ("hand", 600)])
def test_a_silent_daemon_is_noticed_soon_and_a_silent_client_when_its_lease_is_over(role: str, expected_s: int):
    @on_a_loop
    async def scenario():
        secret, accepted, handed = find_or_create_secret(), asyncio.Queue(), asyncio.Queue()
        ours, theirs = accepted.put_nowait, lambda sock, _: handed.put_nowait(sock)
        listener = await Listener.start("127.0.0.1", 0, "", secret, "worker", ours, theirs)
        near = await connect(listener.address, role=role, secret=secret)
        far = await accepted.get()
        bulk = await asyncio.to_thread(connect_blocking, listener.address, kind="bulk", role=role, secret=secret)
        far_bulk = await handed.get()
        try:
            assert [patience_of(near._sock), patience_of(bulk)] == [30, 30]
            ends = [patience_of(far._sock), patience_of(far_bulk)]
            assert ends == [expected_s, expected_s]
        finally:
            for end in (bulk, far_bulk, near, far):
                end.close()
            await listener.close()

    scenario()


def patience_of(sock: Any) -> float:
    """After how many seconds of silence the kernel gives a connection up, whether or not something was sent."""
    option = functools.partial(sock.getsockopt, socket.IPPROTO_TCP)
    timeout_s = option(socket.TCP_USER_TIMEOUT) / 1000
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    probing_s = option(socket.TCP_KEEPIDLE) + option(socket.TCP_KEEPCNT) * option(socket.TCP_KEEPINTVL)
    assert timeout_s / 2 < probing_s <= timeout_s
    return timeout_s


# ------------------------------------------------------------------------------------------------------------- messages


@on_a_loop
async def test_requests_are_answered_and_both_sides_know_each_other():
    async with echo() as (daemon, listener):
        connection = await pinged(listener)
        assert (connection.peer_role, connection.peer_address) == ("center", listener.address)
        assert daemon.connections[0].peer_role == "worker"
        assert daemon.connections[0].peer_address.startswith("127.0.0.1:")
        connection.close()
        assert await daemon.reasons.get() == "the peer closed the connection"


@on_a_loop
async def test_answers_find_their_requests_in_any_order():
    async with echo() as (daemon, listener):
        waiting: list[int] = []

        def answer_backwards(connection: Connection, message: Message, request: int) -> None:
            waiting.append(request)
            if len(waiting) == 100:
                for number in reversed(waiting):
                    connection.reply(number, number * 10)

        connection = await pinged(listener)
        daemon.connections[0].on_message = answer_backwards
        answers = await asyncio.gather(*(connection.ask(Ncores()) for _ in range(100)))
        assert answers == [number * 10 for number in waiting]
        connection.close()


@on_a_loop
async def test_a_refusal_is_raised_as_the_error_it_names():
    async with echo() as (_, listener):
        connection = await pinged(listener)
        with pytest.raises(KeyLost, match="x is lost"):
            await connection.ask(WhoHas(["x"]))
        connection.close()


class Counting:
    """A socket that notes how many pieces it was given in each call."""

    def __init__(self, sock: socket.socket, writes: list[int]) -> None:
        self.sock, self.writes = sock, writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def sendmsg(self, pieces: list[bytes]) -> int:
        self.writes.append(len(pieces))
        return self.sock.sendmsg(pieces)


@on_a_loop
async def test_messages_arrive_in_order_and_in_one_write_for_each_turn_of_the_loop():
    async with echo() as (daemon, listener):
        connection = await pinged(listener)
        writes: list[int] = []
        connection._sock = Counting(connection._sock, writes)
        for n in range(500):
            connection.send(AddKeys([f"x{n}"], [1], [n]))
        assert await connection.ask(Ping()) == "pong"
        assert [message.nbytes for message in daemon.messages[1:-1]] == [[n] for n in range(500)]
        assert writes == [501]
        connection.close()


@on_a_loop
async def test_answers_to_what_one_read_brought_leave_in_one_write_before_the_loop_turns():
    async with echo() as (daemon, listener):
        near, other = await pinged(listener), await pinged(listener)
        writes: list[int] = []
        first, second = daemon.connections
        first._sock = Counting(first._sock, writes)

        def answer(connection: Connection, message: Message, request: int) -> None:
            asyncio.get_running_loop().call_soon(writes.append, 0)
            connection.reply(request, [])
            second.send(WhoHas(["also to somebody else"]))

        first.on_message = answer
        await asyncio.gather(*(near.ask(Ncores()) for _ in range(100)))
        assert writes == [100] + [0] * 100
        near.close()
        other.close()


@on_a_loop
async def test_what_was_sent_leaves_also_when_the_rest_of_the_read_is_garbage(caplog: pytest.LogCaptureFixture):
    async with echo() as (daemon, listener):
        near, other = await pinged(listener), await pinged(listener)
        first, second = daemon.connections
        strays: asyncio.Queue[Message] = asyncio.Queue()
        other.on_message = lambda _, message, __: strays.put_nowait(message)

        def fail(connection: Connection, message: Message, request: int) -> None:
            second.send(Ncores())
            raise RuntimeError("a bug of ours")

        first.on_message = fail
        near.send(Ping())
        assert await strays.get() == Ncores()
        second.send(Ping())
        assert await strays.get() == Ping()
        assert len(warnings_of(caplog)) == 1
        other.close()


@on_a_loop
async def test_a_large_message_crosses_whole():
    async with echo() as (daemon, listener):
        connection = await pinged(listener)
        connection.send(AddKeys(["x" * 100] * 200_000, [], []))
        assert await connection.ask(Ping()) == "pong"
        assert len(daemon.messages[1].keys) == 200_000
        connection.close()


@on_a_loop
async def test_what_was_sent_before_close_still_arrives():
    async with echo() as (daemon, listener):
        connection = await pinged(listener)
        connection.send(AddKeys(["x" * 100] * 50_000, [], []))
        connection.close()
        await daemon.reasons.get()
        assert len(daemon.messages[1].keys) == 50_000


@on_a_loop
async def test_an_answer_that_does_not_come_is_an_error_and_comes_too_late_afterwards():
    async with echo() as (daemon, listener):
        connection = await pinged(listener)
        with pytest.raises(ConnectionFailed, match=r"no answer to ncores within 0\.01 s"):
            await connection.ask(Ncores(), timeout_s=0.01)
        daemon.connections[0].reply(2, "late")
        assert await connection.ask(Ping()) == "pong"
        connection.close()


@on_a_loop
async def test_whoever_waits_for_an_answer_hears_that_the_connection_closed():
    async with echo() as (_, listener):
        reasons: list[str] = []
        connection = await connect(
            listener.address, role="worker", secret=SECRET, on_close=lambda _, reason: reasons.append(reason)
        )
        answers = await asyncio.gather(connection.ask(Ncores()), connection.ask(Status()), return_exceptions=True)
        assert [type(answer) for answer in answers] == [ConnectionFailed] * 2
        assert reasons == ["the peer closed the connection"]
        assert connection.is_closed
        connection.send(Ping())
        connection.close()
        with pytest.raises(ConnectionFailed):
            await connection.ask(Ping())
        assert len(reasons) == 1


@on_a_loop
async def test_a_message_that_is_no_request_gets_no_answer():
    async with echo() as (daemon, listener):
        strays: list[Message] = []
        connection = await connect(
            listener.address, role="worker", secret=SECRET, on_message=lambda _, message, __: strays.append(message)
        )
        connection.send(Ping())
        connection.send(WhoHas(["x"]))
        assert await connection.ask(Ping()) == "pong"
        assert strays == []
        assert len(daemon.messages) == 3
        connection.close()


# ------------------------------------------------------------------------------------------------------------ addresses


@on_a_loop
async def test_the_unix_socket_is_used_where_it_answers(tmp_path: Path):
    path = str(tmp_path / "socket")
    async with echo(path) as (daemon, listener):
        assert os.stat(path).st_mode & 0o777 == 0o600
        (await pinged(listener, path)).close()
        (await pinged(listener, str(tmp_path / "other"))).close()
        (await pinged(listener, "/nowhere/" + "x" * 200)).close()
        assert [c.peer_address.partition(":")[0] for c in daemon.connections] == ["unix", "127.0.0.1", "127.0.0.1"]
        sock = await asyncio.to_thread(
            connect_blocking, listener.address, kind="bulk", role="worker", secret=SECRET, unix=path
        )
        assert sock.family == socket.AF_UNIX
        accepted, role = await daemon.bulk.get()
        assert role == "worker"
        accepted.close()
        sock.close()
    assert os.listdir(tmp_path) == []


@on_a_loop
async def test_a_unix_socket_that_a_killed_process_left_is_replaced(tmp_path: Path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    async with echo(path) as (daemon, listener):
        (await pinged(listener, path)).close()
        assert daemon.connections[0].peer_address.startswith("unix:")


@on_a_loop
async def test_a_blocking_connection_exchanges_bytes_right_after_the_handshake():
    async with echo() as (daemon, listener):

        def talk() -> Any:
            with connect_blocking(listener.address, kind="control", role="pool", secret=SECRET) as sock:
                assert sock.gettimeout() is None
                sock.sendall(b"".join(frames.encode(encode_header(Ping(), 7))))
                return decode(frames.read_prefix(lambda nbytes: sock.recv(nbytes, socket.MSG_WAITALL))[0])

        assert await asyncio.to_thread(talk) == (Reply("pong"), 7)
        assert daemon.connections[0].peer_role == "pool"


@on_a_loop
async def test_a_bulk_connection_is_handed_over_as_a_blocking_socket():
    async with echo() as (daemon, listener):

        def begin() -> socket.socket:
            sock = connect_blocking(listener.address, kind="bulk", role="hand", secret=SECRET)
            sock.sendall(b"hello")
            return sock

        mine = await asyncio.to_thread(begin)
        theirs, role = await daemon.bulk.get()
        assert (role, theirs.getblocking(), theirs.gettimeout()) == ("hand", True, None)
        assert theirs.recv(5, socket.MSG_WAITALL) == b"hello"
        assert theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        theirs.close()
        mine.close()


async def both_ways(address: str, secret: Secret, **more: Any) -> list[BaseException]:
    """What both ways to connect raise."""
    blocking = asyncio.to_thread(connect_blocking, address, kind="control", role="pool", secret=secret, **more)
    asynchronous = connect(address, role="pool", secret=secret, **more)
    return await asyncio.gather(blocking, asynchronous, return_exceptions=True)


@on_a_loop
async def test_the_reason_of_a_failed_connection_can_be_read():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for error in await both_ways(f"127.0.0.1:{port}", SECRET, timeout_s=0.05):
            assert str(error).startswith(f"127.0.0.1:{port}: no answer within 0.05 s: is that the right host and port")
            assert type(error) is ConnectionFailed
    for error in await both_ways(f"127.0.0.1:{port}", SECRET):
        assert "nobody listens there (connection refused)" in str(error)
    for error in await both_ways("nobody.invalid:1", SECRET):
        assert "unknown host 'nobody.invalid'" in str(error)
    for error in await both_ways("no address", SECRET):
        assert type(error) is BadAddress


@on_a_loop
async def test_a_port_of_something_else_is_recognised():
    async def serve_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(40)
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        writer.close()

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(40)
        writer.close()

    for serve, reason in ((serve_http, "is not distributed"), (hang_up, "closed the connection before the handshake")):
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            for error in await both_ways(f"127.0.0.1:{port}", SECRET):
                assert type(error) is ConnectionFailed
                assert reason in str(error)


@on_a_loop
async def test_a_port_in_use_is_an_error_that_says_so():
    async with echo() as (_, listener):
        port = int(listener.address.rpartition(":")[2])
        with pytest.raises(StartFailed, match=f"127.0.0.1:{port}: another program uses this port"):
            await Listener.start("127.0.0.1", port, "", SECRET, "center", print, print)
        with pytest.raises(StartFailed, match="unknown host 'nobody"):
            await Listener.start("nobody.invalid", 0, "", SECRET, "center", print, print)
        with pytest.raises(StartFailed, match="at most 107 bytes"):
            await Listener.start("127.0.0.1", 0, "/tmp/" + "x" * 200, SECRET, "center", print, print)


# ------------------------------------------------------------------------------------------------------------ bad input


def frame_prefix(header_nbytes: int, *lengths: int) -> bytes:
    return struct.pack(f"<II{len(lengths)}Q", header_nbytes, len(lengths), *lengths)


STRANGERS = {
    "nothing, then the end": b"",
    "random bytes": os.urandom(3000),
    "HTTP": b"GET / HTTP/1.1\r\nHost: center\r\n\r\n",
    "TLS hello": bytes.fromhex("16030100c8010000c40303") + os.urandom(194),
    "the magic, and no more": b"DSTB",
    "half a hello": b"DSTB\x02\x00\x01",
    "another version": security._HELLO.pack(b"DSTB", 999, 1, 1, bytes(32)),
    "a kind that does not exist": security._HELLO.pack(b"DSTB", security.PROTOCOL_VERSION, 9, 1, bytes(32)),
    "a wrong proof": security._HELLO.pack(b"DSTB", security.PROTOCOL_VERSION, 1, 1, bytes(32)) + b"\x01" + bytes(32),
    "a frame at once": frame_prefix(5) + b"\x91\xa4ping",
}


async def read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:  # some of what we said was not read
        return b""


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("distributed")]


@pytest.mark.parametrize("name", STRANGERS)
@on_a_loop
async def test_a_stranger_costs_one_line_and_others_are_served(name: str, caplog: pytest.LogCaptureFixture):
    async with echo() as (daemon, listener):
        good = await pinged(listener)
        host, port = listener.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(STRANGERS[name])
        with contextlib.suppress(OSError):
            writer.write_eof()
        await read_to_the_end(reader)
        writer.close()
        assert await good.ask(Ping()) == "pong"
        lines = warnings_of(caplog)
        assert len(lines) == 1
        assert lines[0].startswith("refused 127.0.0.1:")
        assert len(daemon.connections) == 1
        good.close()


MEMBERS_GONE_MAD = {
    "random bytes": b"\xfe" + os.urandom(3000) + bytes(1000),
    "a header that is too large": frame_prefix(SETTINGS.frame_header_bytes_max + 1),
    "too many buffers": struct.pack("<II", 5, SETTINGS.frame_buffers_max + 1),
    "buffers that are too large": frame_prefix(5, 1 << 62),
    "buffers that are too large together": frame_prefix(5, *[1 << 29] * 4),
    "deep msgpack": frame_prefix(100_000) + b"\x91" * 100_000,
    "an array that claims billions": frame_prefix(5) + b"\xdd\xff\xff\xff\xff",
    "an operation that does not exist": frame_prefix(7) + b"\x92\xa4pong\x00",
    "no operation": frame_prefix(2) + b"\x91\xc0",
    "a header of nothing": frame_prefix(0),
    "a field of the wrong type": frame_prefix(len(encode_header(WhoHas("x")))) + encode_header(WhoHas("x")),
    "a truncated frame": frame_prefix(100) + b"\x93",
    "an operation whose handling has a bug": frame_prefix(len(encode_header(HasWhat([])))) + encode_header(HasWhat([])),
}


@pytest.mark.parametrize("name", MEMBERS_GONE_MAD)
@on_a_loop
async def test_a_malformed_peer_loses_its_connection_and_nobody_else_does(name: str, caplog: pytest.LogCaptureFixture):
    async with echo() as (daemon, listener):
        good = await pinged(listener)
        sock = await asyncio.to_thread(connect_blocking, listener.address, kind="control", role="pool", secret=SECRET)
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(MEMBERS_GONE_MAD[name])
        if name == "a truncated frame":
            writer.write_eof()
        assert await read_to_the_end(reader) == b""
        writer.close()
        reason = await daemon.reasons.get()
        assert await good.ask(Ping()) == "pong"
        lines = warnings_of(caplog)
        assert len(lines) == 1
        assert reason in lines[0]
        assert "pool at 127.0.0.1:" in lines[0]
        good.close()


@on_a_loop
async def test_both_sides_hear_of_different_secrets(caplog: pytest.LogCaptureFixture):
    async with echo() as (daemon, listener):
        for error in await both_ways(listener.address, Secret.create()):
            assert type(error) is AuthenticationFailed
            assert "the two sides hold different secrets" in str(error)
        (await pinged(listener)).close()
        assert ["different secrets" in line for line in warnings_of(caplog)] == [True, True]
        assert len(daemon.connections) == 1


@on_a_loop
async def test_both_sides_hear_of_another_version(caplog: pytest.LogCaptureFixture):
    """An older center, played by hand, for a client of ours; a newer client, played by hand, for our listener."""

    async def answer_as_version_0(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(40)
        writer.write(security._HELLO.pack(b"DSTB", 0, 0, 1, bytes(32)))
        writer.close()

    async with await asyncio.start_server(answer_as_version_0, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for error in await both_ways(f"127.0.0.1:{port}", SECRET):
            assert type(error) is VersionMismatch
            assert "it speaks version 0 of the protocol, this side version 2" in str(error)
    async with echo() as (_, listener):
        host, port_text = listener.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port_text))
        writer.write(security._HELLO.pack(b"DSTB", 3, 1, 1, bytes(32)))
        assert (await reader.read())[:6] == b"DSTB\x02\x00"
        writer.close()
        assert "it speaks version 3 of the protocol, this side version 2" in caplog.text


@on_a_loop
async def test_idle_strangers_keep_nobody_out(caplog: pytest.LogCaptureFixture):
    async with echo() as (_, listener):
        host, port = listener.address.split(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(300)]
        good = await pinged(listener)
        assert await good.ask(Ping()) == "pong"
        assert warnings_of(caplog) == []
        for _, writer in idle:
            writer.close()
        good.close()


@on_a_loop
async def test_more_idle_strangers_than_there_is_room_for_keep_nobody_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    async with echo() as (_, listener):
        host, port = listener.address.split(":")
        with settings(monkeypatch, handshakes_under_way_max=5):
            idle = [await asyncio.open_connection(host, int(port)) for _ in range(50)]
            for _ in range(3):
                (await pinged(listener)).close()
            ends = [asyncio.ensure_future(read_to_the_end(reader)) for reader, _ in idle[:40]]
            assert await asyncio.gather(*ends) == [b""] * 40
            assert len(listener._handshakes) <= 5
        assert all("this is the oldest" in line for line in warnings_of(caplog))
        for _, writer in idle:
            writer.close()


@on_a_loop
async def test_a_handshake_that_takes_too_long_is_given_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    async with echo() as (_, listener):
        host, port = listener.address.split(":")
        with settings(monkeypatch, handshake_timeout_s=0.05):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"DST")  # slowly
            assert await reader.read() == b""
            writer.close()
        lines = warnings_of(caplog)
        assert len(lines) == 1
        assert lines[0].endswith("it began to connect, and did not go on within 0.05 s")


@on_a_loop
async def test_a_peer_that_does_not_read_is_cut_before_memory_grows(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    async with echo() as (daemon, listener):
        connection = await pinged(listener)
        asyncio.get_running_loop().remove_reader(connection._sock)
        sender = daemon.connections[0]
        with settings(monkeypatch, write_buffer_bytes_max=1 << 20):
            message = AddKeys(["x" * 1000] * 100, [], [])
            for _ in range(1000):
                sender.send(message)
                await asyncio.sleep(0)
                assert sender.is_closed or sender.backlog_bytes < (1 << 20) + 200_000
        assert "it does not read" in await daemon.reasons.get()
        assert len(warnings_of(caplog)) == 1
        connection.close()


@on_a_loop
async def test_without_descriptors_the_listener_waits_and_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    async with echo() as (_, listener):
        monkeypatch.setattr(listen, "ACCEPT_PAUSE_S", 0.01)
        (listening,) = listener._sockets
        failures = [OSError(24, "Too many open files")] * 2

        class Exhausted:
            """A listening socket of a process that has no descriptors left."""

            fileno = listening.fileno
            close = listening.close

            def accept(self) -> Any:
                if failures:
                    raise failures.pop()
                return listening.accept()

        asyncio.get_running_loop().remove_reader(listening)
        listener._sockets[:] = [Exhausted()]
        listener._watch()
        (await pinged(listener)).close()
        assert warnings_of(caplog) == ["cannot accept a connection: Too many open files"], (
            "once, not ten times a second"
        )


@on_a_loop
async def test_closing_gives_up_handshakes_and_leaves_connections_to_their_owners(caplog: pytest.LogCaptureFixture):
    async with echo() as (_, listener):
        good = await pinged(listener)
        host, port = listener.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"DSTB")
        await good.ask(Ping())
        await listener.close()
        assert await reader.read() == b""
        writer.close()
        assert await good.ask(Ping()) == "pong"
        assert warnings_of(caplog) == []
        with pytest.raises(ConnectionFailed, match="refused"):
            await connect(listener.address, role="worker", secret=SECRET)
        good.close()


@on_a_loop
async def test_an_error_in_taking_a_connection_costs_only_that_one(caplog: pytest.LogCaptureFixture):
    async with echo() as (_, listener):

        def refuse(sock: socket.socket, role: str) -> None:
            raise StoreFull("a bug of ours")

        listener._on_bulk = refuse
        sock = await asyncio.to_thread(connect_blocking, listener.address, kind="bulk", role="pool", secret=SECRET)
        reader, writer = await asyncio.open_connection(sock=sock)
        assert await read_to_the_end(reader) == b""
        writer.close()
        (await pinged(listener)).close()
        assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "many", ""])
def test_a_setting_that_no_message_could_carry_is_refused_by_its_name(monkeypatch, text):
    monkeypatch.setenv("DISTRIBUTED_CLIENT_LEASE_S", text)
    with pytest.raises(ValueError, match=rf"DISTRIBUTED_CLIENT_LEASE_S='{text}' is not a finite number"):
        Settings.from_environment()
