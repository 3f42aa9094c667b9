"""Whatever strangers and broken members send to a daemon's port costs them their connection, and nobody else anything.

Random bytes, HTTP, a TLS hello, truncated and oversized frames, msgpack a million arrays deep, a wrong secret, an old
version: the connection is closed, one line stands in the log, no memory is kept, everyone else is served meanwhile.
"""

from __future__ import annotations

import contextlib
import random
import re
import signal
import socket
import ssl
import struct
import threading

import pytest

from conftest import leaks_looked_for_by_module
from distributed import Pool, rpc
from distributed.address import parse
from distributed.connect import connect_blocking
from distributed.errors import AuthenticationFailed
from distributed.wire.codec import encode_header
from distributed.wire.messages import GetData, LookUp, Ping, WhoHas
from distributed.wire.security import MAGIC, PROTOCOL_VERSION, Secret, find_secret
from tests.promises.observe import MIB, PATIENCE_S, memory_bytes, open_files, terminals, until

TRIES = 300
GROWTH_BYTES_MAX = 4 * MIB
HELLO_BYTES = 40


def reached(address):
    return socket.create_connection(parse(address), timeout=PATIENCE_S)


def is_closed_by_peer(sock):
    """Read until the daemon closes the connection; not waiting for ever is the point."""
    sock.settimeout(PATIENCE_S)
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        pass


def says(data):
    """A stranger that sends this, and no more."""

    def stranger(address, number):
        with reached(address) as sock:
            sock.sendall(data(number) if callable(data) else data)
            is_closed_by_peer(sock)

    return stranger


def breaks_off(data):
    """A stranger, or a member, that goes away in the middle of something."""

    def stranger(address, number):
        with reached(address) as sock:
            sock.sendall(data)

    return stranger


def member_says(data, breaks_off=False):
    """Somebody with the right secret whose first bytes after the handshake are these."""

    def member(address, number):
        with connect_blocking(address, kind="control", role="pool", secret=find_secret(), timeout_s=PATIENCE_S) as sock:
            try:
                sock.sendall(data)
                if not breaks_off:
                    is_closed_by_peer(sock)
            except ConnectionError:  # it was closed before all was sent
                pass

    return member


def with_a_wrong_secret(address, number):
    with pytest.raises(AuthenticationFailed):
        connect_blocking(address, kind="control", role="pool", secret=Secret(bytes(32)), timeout_s=PATIENCE_S)


def wants_tls(address, number):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with reached(address) as sock, pytest.raises(OSError):
        context.wrap_socket(sock)


def frame(header, header_bytes=None, buffers=()):
    """A frame by hand, which may lie about its lengths."""
    lengths = struct.pack(f"<{len(buffers)}Q", *buffers)
    size = len(header) if header_bytes is None else header_bytes
    return struct.pack("<II", size, len(buffers)) + lengths + header


def random_bytes(number):
    return random.Random(number).randbytes(HELLO_BYTES + number)


OLD_HELLO = MAGIC + struct.pack("<H", PROTOCOL_VERSION + 1) + bytes(HELLO_BYTES - 6)
PING = encode_header(Ping(), 1)
ATTACKS = {
    "random bytes": says(random_bytes),
    "http": says(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "tls": wants_tls,
    "an old version": says(OLD_HELLO),
    "half a hello": breaks_off(MAGIC + b"\1"),
    "a wrong secret": with_a_wrong_secret,
    "half a frame": member_says(frame(PING)[:-2], breaks_off=True),
    "a header too large": member_says(frame(b"x" * 100, header_bytes=(1 << 32) - 1)),
    "a buffer too large": member_says(frame(PING, buffers=[1 << 62])),
    "too many buffers": member_says(struct.pack("<II", 100, (1 << 32) - 1) + bytes(100)),
    "deep msgpack": member_says(frame(b"\x91" * 1_000_000)),
    "no msgpack": member_says(frame(b"\xc1" * 1000)),
    "no message": member_says(frame(b"\x93\xa4what\x00\x01")),
    "fields of other types": member_says(frame(b"\x93\xa7who_has\x00\x01")),
}


class Daemons:
    """A center and a worker in terminals; what they say on stderr is in files."""

    def __init__(self, terminal, directory):
        self.logs = {name: directory / f"{name}.log" for name in ("center", "worker")}
        self.center = terminal("center", "--port", "0", log=self.logs["center"])
        self.addresses = {"center": self.center.said()["Center"]}
        self.worker = terminal("worker", self.addresses["center"], "--ncores", "1", log=self.logs["worker"])
        self.addresses["worker"] = self.worker.said()["Worker"]
        self.pids = {"center": self.center.process.pid, "worker": self.worker.process.pid}

    def lines(self, name):
        return self.logs[name].read_text().splitlines()


@pytest.fixture(scope="module")
def daemons(no_leaks, tmp_path_factory):
    with terminals() as terminal:
        daemons = Daemons(terminal, tmp_path_factory.mktemp("logs"))
        yield daemons
        assert [daemon.end(signal.SIGTERM)[0] for daemon in (daemons.worker, daemons.center)] == [0, 0]
        assert not any("Traceback" in log.read_text() for log in daemons.logs.values())


no_leaks = leaks_looked_for_by_module()


@pytest.mark.parametrize("name", ["center", "worker"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_bad_input_costs_a_connection_and_one_line(daemons, name, attack):
    before = len(daemons.lines(name))
    for number in range(3):
        ATTACKS[attack](daemons.addresses[name], number)
    assert until(lambda: len(daemons.lines(name)) >= before + 3), daemons.lines(name)[before:]
    lines = daemons.lines(name)[before:]
    assert len(lines) == 3, lines
    assert all(re.search(r" WARNING .*127\.0\.0\.1:\d+", line) for line in lines), lines
    with rpc(daemons.addresses[name]) as there:
        assert there.ping() == "pong"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["center", "worker"])
def test_bad_input_keeps_no_memory_and_hinders_nobody(daemons, name):
    address, pid = daemons.addresses[name], daemons.pids[name]
    attacks = list(ATTACKS.values())
    with Pool(daemons.addresses["center"]) as pool:
        served, over = [], threading.Event()

        def be_served():
            while not over.is_set():
                served.append(pool.submit(abs, -1).get(PATIENCE_S))

        somebody = threading.Thread(target=be_served)
        somebody.start()
        try:
            for number in range(4 * len(attacks)):
                attacks[number % len(attacks)](address, number)
            before, files_before, lines_before = memory_bytes(pid), open_files(pid), len(daemons.lines(name))
            for number in range(TRIES):
                attacks[number % len(attacks)](address, number)
            assert until(lambda: len(daemons.lines(name)) >= lines_before + TRIES)
            assert until(lambda: open_files(pid) <= files_before)
            grown = memory_bytes(pid) - before
        finally:
            over.set()
            somebody.join()
    print(f"{name}: {grown / MIB:.1f} MiB more after {TRIES} tries, {len(served)} tasks were served meanwhile")
    assert grown < GROWTH_BYTES_MAX
    assert len(daemons.lines(name)) == lines_before + TRIES, "one line each"
    assert len(served) > 100
    assert set(served) == {1}


HARMLESS = [Ping(), WhoHas(["x", "y"] * 20), LookUp("x"), GetData(["x"], [0], True)]
BROKEN_TRIES = 120


def broken(data, chance):
    """The same bytes after an accident or three."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(changed))
        how = chance.choice(["flip", "set", "insert", "delete", "number"])
        if how == "flip":
            changed[at] ^= 1 << chance.randrange(8)
        elif how == "set":
            changed[at] = chance.randrange(256)
        elif how == "insert":
            changed[at:at] = chance.randbytes(chance.randint(1, 40))
        elif how == "delete" and len(changed) > 20:
            del changed[at : at + chance.randint(1, 10)]
        else:
            changed[at : at + 4] = struct.pack("<I", chance.choice([0, 1, 1 << 16, (1 << 31) - 1, (1 << 32) - 1]))
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hello", "control", "bulk"])
@pytest.mark.parametrize("name", ["center", "worker"])
def test_broken_bytes_on_real_sockets_end_nothing_and_keep_no_memory(daemons, name, kind):
    """Of strangers, and of members after the handshake; each time others, told by their seed."""
    address, pid, seed = daemons.addresses[name], daemons.pids[name], random.randrange(1 << 32)
    chance = random.Random(seed)
    print(f"seed {seed}")

    def say_something():
        if kind == "hello":
            says(broken(MAGIC + struct.pack("<HBB", PROTOCOL_VERSION, 1, 3) + bytes(100), chance))(address, 0)
            return
        frames = b"".join(frame(encode_header(chance.choice(HARMLESS), number)) for number in range(1, 4))
        with connect_blocking(address, kind=kind, role="pool", secret=find_secret(), timeout_s=PATIENCE_S) as sock:
            with contextlib.suppress(OSError):  # it was closed before all was sent
                sock.sendall(broken(frames, chance))
                sock.shutdown(socket.SHUT_WR)
            is_closed_by_peer(sock)

    for _ in range(20):
        say_something()
    before, files_before = memory_bytes(pid), open_files(pid)
    for _ in range(BROKEN_TRIES):
        say_something()
    assert until(lambda: open_files(pid) <= files_before)
    assert memory_bytes(pid) - before < GROWTH_BYTES_MAX
    with Pool(daemons.addresses["center"]) as pool:
        assert pool.submit(abs, -1).get(PATIENCE_S) == 1


def test_a_bulk_connection_of_a_member_that_talks_nonsense(daemons):
    """The worker's other kind of connection; the center refuses it altogether."""
    before = len(daemons.lines("worker"))
    for data in (frame(b"\x91" * 100_000), frame(PING, buffers=[1 << 62]), frame(b"x", header_bytes=(1 << 32) - 1)):
        with connect_blocking(
            daemons.addresses["worker"], kind="bulk", role="pool", secret=find_secret(), timeout_s=PATIENCE_S
        ) as sock:
            sock.sendall(data)
            is_closed_by_peer(sock)
    assert until(lambda: len(daemons.lines("worker")) >= before + 3)
    assert len(daemons.lines("worker")) == before + 3


def test_both_sides_of_a_wrong_secret_are_told(daemons):
    with pytest.raises(AuthenticationFailed, match="secret"):
        connect_blocking(
            daemons.addresses["center"], kind="control", role="pool", secret=Secret(bytes(32)), timeout_s=PATIENCE_S
        )
    assert until(lambda: "secret" in daemons.lines("center")[-1])
