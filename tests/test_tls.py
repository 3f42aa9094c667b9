"""TLS on real sockets: what arrives, who is let in, what both sides hear when it fails, and what a thief has of it.

`Wire` is whoever sits between client and daemon: it records, changes, cuts and passes on what goes by.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distributed import address as addresses
from distributed import tls
from distributed.bulk import BulkClient, BulkServer
from distributed.bulk.encrypted import EncryptedStream, stream_over
from distributed.comm import Connection, connect
from distributed.config import SETTINGS
from distributed.connect import connect_blocking
from distributed.errors import AuthenticationFailed, ConnectionFailed, WrongPeer
from distributed.listen import Listener
from distributed.loop import new_loop
from distributed.relay import Roads
from distributed.wire import frames
from distributed.wire.codec import encode_header
from distributed.wire.credential import Credential, new_pem
from distributed.wire.messages import Message, Ping, WhoHas
from distributed.wire.security import Secret
from distributed.wire.values import pack, unpack
from tests.promises.observe import until
from tests.test_bulk import DirectoryStore, content
from tests.wire.test_credential import pem as pem_of
from tests.wire.test_credential import written

KEY = os.urandom(32)
MARK = b"the crown jewels"
LARGE = 5_000_003


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return credential_file(tmp_path_factory.mktemp("credential"))


def credential_file(directory: Path) -> Path:
    path = directory / "tls.pem"
    path.write_bytes(new_pem(path))
    path.chmod(0o600)
    return path


@pytest.fixture
def secret(pem: Path) -> Secret:
    """Of a member."""
    return Secret(KEY, pem)


PLAIN = Secret(KEY)
"""Of somebody with the secret, and without the credential."""


# --------------------------------------------------------------------------------------------------------- the daemon


class Daemon:
    """A listener on a loop in a thread of its own, which answers pings and serves values."""

    def __init__(self, secret: Secret, store: DirectoryStore, incarnation: str = "") -> None:
        self.heard: list[Message] = []
        self.connections: list[Connection] = []
        self.bulk = BulkServer(store)
        self._ready, self._end = threading.Event(), asyncio.Event()
        self._secret, self._incarnation = secret, incarnation
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(20)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.listener = await Listener.start(
            "127.0.0.1", 0, "", self._secret, "worker", self._take, self.bulk.serve, self._incarnation
        )
        self.address = self.listener.address
        self._ready.set()
        await self._end.wait()
        await self.listener.close()
        for connection in self.connections:
            connection.close()
        await asyncio.sleep(0)
        await asyncio.to_thread(self.bulk.close)

    def _take(self, connection: Connection) -> None:
        self.connections.append(connection)
        connection.on_message = self._hear

    def _hear(self, connection: Connection, message: Message, request: int) -> None:
        self.heard.append(message)
        connection.reply(request, message.keys if isinstance(message, WhoHas) else "pong")

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


@contextlib.contextmanager
def daemon_with(secret: Secret, directory: Path, incarnation: str = "") -> Iterator[Daemon]:
    daemon = Daemon(secret, DirectoryStore(directory), incarnation)
    try:
        yield daemon
    finally:
        daemon.close()


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


@pytest.fixture
def daemon(secret: Secret, store: DirectoryStore) -> Iterator[Daemon]:
    daemon = Daemon(secret, store)
    yield daemon
    daemon.close()


def answered(address: str, secret: Secret, *messages: Message, **options: Any) -> list[Any]:
    """What a connection of the loop is answered."""

    async def ask() -> list[Any]:
        connection = await connect(address, role="pool", secret=secret, **options)
        try:
            return [await connection.ask(message, 20) for message in messages]
        finally:
            connection.close()
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(ask())


def both_failures(address: str, secret: Secret, **options: Any) -> list[ConnectionFailed]:
    """How both ways to connect fail."""
    found = []
    with pytest.raises(ConnectionFailed) as caught:
        connect_blocking(address, kind="control", role="pool", secret=secret, **options)
    found.append(caught.value)
    options.pop("incarnation", None)
    with pytest.raises(ConnectionFailed) as caught:
        answered(address, secret, **options)
    return [*found, caught.value]


class Wire:
    """Sits at an address and passes everything on to another one, through `change(is_from_client, data)`."""

    def __init__(self, target: str) -> None:
        self.target, self.said, self.answered = target, bytearray(), bytearray()
        self.change = lambda is_from_client, data: data
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                host, port = self.target.split(":")
                far = socket.create_connection((host, int(port)))
                self.pairs.append((near, far))
                done = threading.Barrier(2, action=lambda pair=(near, far): [sock.close() for sock in pair])
                for source, sink, is_from_client in ((near, far, True), (far, near, False)):
                    thread = threading.Thread(target=self._pass_on, args=(source, sink, is_from_client, done))
                    self._threads.append(thread)
                    thread.start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_from_client: bool, done: Any) -> None:
        record = self.said if is_from_client else self.answered
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                record += data
                sink.sendall(self.change(is_from_client, data))
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        done.wait(20)  # both are closed when neither is used any more

    def cut(self) -> None:
        """Break every connection there is."""
        for sock in (sock for pair in self.pairs for sock in pair):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def settle(self) -> None:
        """Wait until nothing goes on over what was cut."""
        for thread in self._threads[1:]:
            thread.join(20)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def wire(daemon: Daemon) -> Iterator[Wire]:
    wire = Wire(daemon.address)
    yield wire
    wire.close()


# ------------------------------------------------------------------------------------------------------- what arrives


def test_messages_of_all_sizes_arrive_on_the_loop(daemon, secret):
    keys = [["x" * size] for size in (0, 1, 16_000, 16_384, 16_385, 3_000_000)] + [["y" * 1000] * 5000]
    assert answered(daemon.address, secret, *map(WhoHas, keys)) == keys


def test_values_arrive_in_both_directions_and_the_kernel_is_given_no_plain_byte(
    daemon, store, secret, tmp_path, monkeypatch
):
    def refuse(*_: Any) -> None:
        raise AssertionError("these bytes would go over the wire as they are")

    monkeypatch.setattr(os, "sendfile", refuse)
    monkeypatch.setattr(os, "splice", refuse, raising=False)
    values = {"small": b"abc", "middle": content(SETTINGS.inline_bytes_max + 1), "large": content(LARGE), "empty": b""}
    client = BulkClient(daemon.address, "", Roads("", "pool", secret))
    for _ in range(2):
        client.put("", {key: pack(value) for key, value in values.items()})
        fetched = client.fetch(list(values), [0] * len(values))
        assert {value.key: unpack(value.data) for value in fetched} == values

    def into(nbytes: int) -> str:
        return store.reserve(nbytes)

    (large,) = client.fetch(["large"], [0], receive_into=into)
    assert unpack(Path(large.path).read_bytes()) == values["large"]
    assert isinstance(client._stream, EncryptedStream)
    client.close()


def test_what_the_other_side_of_a_bulk_connection_idles_it_stays(daemon, store, secret, monkeypatch):
    store.hold("x", b"abc")
    monkeypatch.setattr(
        EncryptedStream, "_limit_silence", lambda stream: stream.sock.settimeout(0.05)
    )  # as if it had been idle for the whole lease
    client = BulkClient(daemon.address, "", Roads("", "pool", secret))
    assert client.fetch(["x"], [0])[0].data == b"abc"
    stream = client._stream
    threading.Event().wait(0.2)
    assert client.fetch(["x"], [0])[0].data == b"abc"
    assert client._stream is stream
    client.close()


def pair(secret: Secret) -> tuple[tls.TlsSocket, tls.TlsSocket]:
    """Two ends of one encrypted connection, blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
    ends = [tls.wrapped(near, secret.credential, is_server=False), tls.wrapped(far, secret.credential, is_server=True)]
    threads = [threading.Thread(target=tls.shake_hands, args=(end, secret.credential)) for end in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends[0], ends[1]


def test_what_does_not_fit_is_sent_later_and_nothing_is_lost_or_doubled(secret):
    """As a connection of the loop does it: pieces in a queue that grows at its end while the kernel is full."""
    sender, receiver = pair(secret)
    with sender, receiver:
        sender.setblocking(False)
        receiver.setblocking(False)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)
        pieces = [os.urandom((1 << (number % 19)) + number) for number in range(150)]
        waiting = pieces[:]
        queue: list[Any] = []
        received, wanted = bytearray(), sum(map(len, pieces))
        with selectors.DefaultSelector() as selector:
            selector.register(sender, selectors.EVENT_WRITE)
            selector.register(receiver, selectors.EVENT_READ)
            while len(received) < wanted:
                queue += waiting[:3]
                del waiting[:3]
                ready = {key.fileobj for key, _ in selector.select(20)}
                assert ready
                with contextlib.suppress(BlockingIOError):
                    while queue:
                        sent = sender.sendmsg(queue[:64]) if len(queue) > 1 else sender.send(queue[0])
                        while sent:
                            taken = min(sent, len(queue[0]))
                            queue[0] = memoryview(queue[0])[taken:]
                            sent -= taken
                            if not len(queue[0]):
                                queue.pop(0)
                if receiver in ready:
                    with contextlib.suppress(BlockingIOError):
                        received += receiver.recv(1 << 18)
                if not queue and not waiting and sender in selector.get_map().values():
                    selector.unregister(sender)
        assert bytes(received) == b"".join(pieces)


@pytest.mark.parametrize("read", ["recv", "recv_into"])
def test_nothing_stays_where_no_selector_sees_it(secret, read):
    """OpenSSL decrypts a record whole: after a read that was not full nothing of it is left behind."""
    sender, receiver = pair(secret)
    with sender, receiver:
        receiver.setblocking(False)
        buffer = memoryview(bytearray(1 << 18))
        received = bytearray()
        thread = threading.Thread(target=lambda: [sender.sendall(os.urandom(size % 30_000 + 1)) for size in SIZES])
        thread.start()
        with selectors.DefaultSelector() as selector:
            selector.register(receiver, selectors.EVENT_READ)
            while len(received) < sum(size % 30_000 + 1 for size in SIZES):
                assert selector.select(20), "what was sent is hidden"
                try:
                    received += receiver.recv(1 << 18) if read == "recv" else buffer[: receiver.recv_into(buffer)]
                except BlockingIOError:
                    continue
                assert receiver.pending() == 0
        thread.join()


SIZES = [number * 7919 for number in range(300)]


def test_a_look_takes_nothing(secret):
    sender, receiver = pair(secret)
    with sender, receiver:
        with pytest.raises(BlockingIOError):
            receiver.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        sender.sendmsg([b"ab", b"", b"cde"])
        assert receiver.recv(1, socket.MSG_PEEK) == b"a"
        buffer = bytearray(5)
        assert receiver.recv_into(buffer) == 1
        assert receiver.recv_into(memoryview(buffer)[1:], 0, socket.MSG_WAITALL) == 4
        assert buffer == b"abcde"
        sender.close()
        assert receiver.recv(1, socket.MSG_PEEK) == b""


def test_after_a_shutdown_nothing_goes_out_in_plaintext(secret):
    """ssl's own sockets would go on without encryption."""
    sender, receiver = pair(secret)
    with sender, receiver:
        sender.shutdown(socket.SHUT_RD)
        sender.sendall(MARK)
        assert receiver.recv(100) == MARK
        sender.close()
        for use in (lambda: sender.send(MARK), lambda: sender.sendall(MARK), lambda: sender.recv(1)):
            with pytest.raises(OSError, match="closed on this side"):
                use()


def test_a_thread_that_waits_for_bytes_is_woken_when_another_one_closes(secret):
    sender, receiver = pair(secret)
    with sender:
        ended: list[Any] = []
        waiting = threading.Event()

        def wait() -> None:
            waiting.set()
            ended.append(receiver.recv(10))

        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(20)
        receiver.close()
        thread.join(20)
        assert ended in ([b""], []) and not thread.is_alive()
        assert receiver.fileno() == -1


# --------------------------------------------------------------------------------------------------------- who gets in


def test_another_certificate_is_refused_on_both_sides(daemon, tmp_path, caplog):
    stranger = Secret(KEY, credential_file(tmp_path))
    for error in both_failures(daemon.address, stranger):
        assert type(error) is AuthenticationFailed
        assert "different certificates" in str(error)
        assert "copy the center's tls.pem" in str(error)
    assert not daemon.connections


def test_the_credential_alone_is_not_enough(daemon, pem):
    """Within TLS both sides still prove that they hold the secret."""
    for error in both_failures(daemon.address, Secret.create()):
        assert "it speaks TLS" in str(error)  # who has neither
    for error in both_failures(daemon.address, Secret(bytes(32), pem)):
        assert type(error) is AuthenticationFailed
        assert "different secrets" in str(error)
    assert not daemon.connections


def test_plaintext_for_tls_is_told_to_both(daemon, pem, caplog):
    for error in both_failures(daemon.address, PLAIN):
        assert type(error) is AuthenticationFailed
        assert "it speaks TLS, and this side found no credential for it: copy the center's tls.pem to" in str(error)
    said = f"it does not speak TLS, which this side does because it found {pem}: copy that file"
    assert until(lambda: caplog.text.count(said) == 2)
    assert not daemon.connections


def test_tls_for_plaintext_is_told_to_both(secret, tmp_path, caplog):
    with daemon_with(PLAIN, tmp_path) as daemon:
        for error in both_failures(daemon.address, secret):
            assert type(error) is AuthenticationFailed
            assert f"it does not speak TLS, which this side does because it found {secret.tls_file}:" in str(error)
        assert until(lambda: caplog.text.count("it speaks TLS, and this side found no credential for it") == 2)
        assert not daemon.connections


def context_of(pem: Path | None, **changed: Any) -> ssl.SSLContext:
    """As an attacker's client would be set up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if pem is not None:
        context.load_cert_chain(pem)
    for name, value in changed.items():
        setattr(context, name, value)
    return context


def said_to(daemon: Daemon, context: ssl.SSLContext, data: bytes) -> bytes:
    """What the daemon answers to these bytes within TLS."""
    host, port = daemon.address.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as sock,
        contextlib.suppress(OSError),
        context.wrap_socket(sock) as encrypted,
    ):
        encrypted.sendall(data)
        answer = b""
        while part := encrypted.recv(1000):
            answer += part
        return answer
    return b""


def test_a_client_without_a_certificate_is_refused(daemon, caplog):
    assert said_to(daemon, context_of(None), b"DSTB" + bytes(100)) == b""
    assert until(lambda: "one presents none" in caplog.text)
    assert not daemon.connections


def test_a_stranger_who_resets_the_connection_at_once_is_a_line_in_the_log(daemon, caplog):
    for _ in range(3):
        with socket.create_connection(addresses.parse(daemon.address)) as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stranger.sendall(tls.HANDSHAKE_RECORD)  # with what follows not this, but a reset
    assert until(lambda: len([line for line in caplog.messages if line.startswith("refused")]) == 3)
    assert not [record for record in caplog.records if record.exc_info], "and no traceback"


def test_a_peer_that_is_gone_before_the_handshake_is_a_reset_connection(secret):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        with tls.wrapped(ours, secret.credential, is_server=False) as sock, pytest.raises(ConnectionResetError):
            tls.shake_hands(sock, secret.credential)


def test_an_older_tls_is_refused(daemon, pem, caplog):
    context = context_of(pem, maximum_version=ssl.TLSVersion.TLSv1_2)
    assert said_to(daemon, context, b"DSTB" + bytes(100)) == b""
    assert until(lambda: "it does not offer TLS 1.3" in caplog.text)
    assert not daemon.connections


def test_a_daemon_that_offers_an_older_tls_is_not_talked_to(secret, pem):
    """Somebody has made client and daemon believe that there is nothing better."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"

        def serve() -> None:
            for _ in range(2):
                sock, _ = listening.accept()
                with sock, contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        for error in both_failures(address, secret):
            assert "it does not offer TLS 1.3" in str(error)
        thread.join()


def test_a_certificate_that_expired_while_a_daemon_ran_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Credential, "_rehearse", lambda credential: None)  # it was good when both began
    secret = Secret(KEY, written(tmp_path / "tls.pem", pem_of(begins=-9, ends=-1)))
    with daemon_with(secret, tmp_path) as daemon:
        for error in both_failures(daemon.address, secret):
            assert type(error) is AuthenticationFailed
            assert "is not valid at this time: look at its dates and the clocks" in str(error)
        assert not daemon.connections


def test_another_certificate_that_the_trusted_one_has_signed_is_another(daemon, secret, monkeypatch):
    """The pin is looked at even when OpenSSL takes a certificate."""
    monkeypatch.setattr(Credential, "is_presented", lambda credential, certificate: False)
    for error in both_failures(daemon.address, secret):
        assert type(error) is AuthenticationFailed
        assert "the peer's certificate is another than this side's" in str(error)
    assert not daemon.connections


# ------------------------------------------------------------------------------------------------ who sits in between


def test_nobody_on_the_wire_reads_what_is_said(daemon, wire, store, secret):
    store.hold("x", MARK * 10_000)
    assert answered(wire.address, secret, WhoHas([MARK.decode()]), Ping()) == [[MARK.decode()], "pong"]
    client = BulkClient(wire.address, "", Roads("", "pool", secret))
    assert bytes(client.fetch(["x"], [0])[0].data) == MARK * 10_000
    client.put("", {"y": pack(MARK * 10_000)})
    client.close()
    assert len(wire.said) > 10_000 * len(MARK)
    assert len(wire.answered) > 10_000 * len(MARK)
    for record in (wire.said, wire.answered):
        assert MARK not in record
        assert b"DSTB" not in record


def test_what_was_recorded_is_worth_nothing_when_it_is_said_again(daemon, wire, secret):
    assert answered(wire.address, secret, Ping()) == ["pong"]
    heard = len(daemon.heard)
    host, port = daemon.address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        sock.sendall(bytes(wire.said))
        with contextlib.suppress(ConnectionError):
            while sock.recv(1000):
                pass
    assert len(daemon.heard) == heard
    assert len(daemon.connections) == 1


@pytest.mark.parametrize("is_from_client", [True, False])
def test_a_single_changed_bit_breaks_the_connection_and_is_not_believed(daemon, wire, secret, is_from_client, caplog):
    is_changing = threading.Event()

    def change(from_client: bool, data: bytes) -> bytes:
        if is_changing.is_set() and from_client == is_from_client:
            return data[:-1] + bytes([data[-1] ^ 1])
        return data

    wire.change = change
    frame = b"".join(frames.encode(encode_header(Ping(), 1)))
    with connect_blocking(wire.address, kind="control", role="pool", secret=secret) as sock:
        sock.settimeout(20)
        sock.sendall(frame)
        assert sock.recv(1000)
        heard = len(daemon.heard)
        is_changing.set()
        sock.sendall(frame)
        try:
            assert sock.recv(1000) == b""
        except ConnectionError:
            pass
    assert len(daemon.heard) == heard + (not is_from_client)


def test_what_one_worker_is_meant_to_hear_is_not_passed_on_to_another(secret, tmp_path):
    """Raw bytes can be: but which worker answers stands in what only members can say."""
    with daemon_with(secret, tmp_path, "f00d" * 4) as living, contextlib.ExitStack() as stack:
        wire = Wire(living.address)
        stack.callback(wire.close)
        for kind in ("control", "bulk"):
            options = {"kind": kind, "role": "pool", "secret": secret, "expects": "worker"}
            with pytest.raises(WrongPeer, match="another worker answers there than the one that was meant"):
                connect_blocking(wire.address, **options, incarnation="dead" * 4)
            connect_blocking(wire.address, **options, incarnation="f00d" * 4).close()
        with pytest.raises(WrongPeer, match="a worker answers there, not a center"):
            connect_blocking(wire.address, kind="control", role="worker", secret=secret, expects="center")


def test_a_tunnel_may_have_another_port_when_there_is_tls(wire, secret):
    assert answered(wire.address, secret, Ping()) == ["pong"]


def test_without_tls_a_tunnel_with_another_port_is_refused(tmp_path):
    """It might be anybody, who could go on in a member's name."""
    with daemon_with(PLAIN, tmp_path) as daemon:
        wire = Wire(daemon.address)
        try:
            for error in both_failures(wire.address, PLAIN):
                assert type(error) is WrongPeer
                assert f"the worker at {daemon.address} answers there" in str(error)
                assert "dcenter --tls" in str(error)
            assert not daemon.connections
        finally:
            wire.close()


@pytest.mark.parametrize("way", ["to the client", "to the worker"])
def test_a_transfer_that_is_cut_is_a_failed_connection_and_gives_back_its_room(daemon, wire, store, secret, way):
    store.hold("x", content(50_000_000))
    client = BulkClient(wire.address, "", Roads("", "pool", secret))
    client.fetch(["nothing"], [0])
    is_half_way = threading.Event()
    passed = {True: 0, False: 0}

    def change(is_from_client: bool, data: bytes) -> bytes:
        passed[is_from_client] += len(data)
        if passed[is_from_client] > 10_000_000:
            is_half_way.set()
            wire.cut()
        return data

    wire.change = change
    with pytest.raises(ConnectionFailed):
        if way == "to the client":
            client.fetch(["x"], [0])
        else:
            client.put("", {"y": pack(content(50_000_000))})
    assert is_half_way.is_set()
    if way == "to the worker":
        assert store.on_abandon.wait(20)
        assert "y" not in store.values
    wire.change = lambda is_from_client, data: data
    wire.settle()
    assert client.fetch(["nothing"], [0])[0].nbytes == -1
    client.close()


# ------------------------------------------------------------------------------------------------------ those who wait


@pytest.mark.parametrize("said", ["nothing", "a byte", "half a hello"])
def test_slow_handshakes_keep_nobody_out(daemon, secret, said):
    hello = client_hello(secret.credential)
    said_bytes = {"nothing": b"", "a byte": hello[:1], "half a hello": hello[: len(hello) // 2]}[said]
    host, port = daemon.address.split(":")
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            sock = stack.enter_context(socket.create_connection((host, int(port))))
            sock.sendall(said_bytes)
        assert answered(daemon.address, secret, Ping()) == ["pong"]
        connect_blocking(daemon.address, kind="bulk", role="pool", secret=secret).close()


def client_hello(credential: Credential) -> bytes:
    back, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = credential.client.wrap_bio(back, there)
    with pytest.raises(ssl.SSLWantReadError):
        side.do_handshake()
    return there.read()


def test_a_stream_fits_its_socket(secret):
    near, far = pair(secret)
    with near, far:
        assert type(stream_over(near)) is EncryptedStream
    plain, other = socket.socketpair()
    with plain, other:
        assert type(stream_over(plain)) is not EncryptedStream
