"""Values over bulk connections: real sockets, a store of the simplest kind, and peers that misbehave."""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distributed.bulk import BulkClient, BulkServer
from distributed.bulk import server as server_module
from distributed.bulk.stream import Stream, queued_bytes_max
from distributed.config import SETTINGS
from distributed.connect import tune
from distributed.errors import ConnectionFailed, DistributedError, ProtocolError, StoreFull
from distributed.pieces import may_be_filled_again
from distributed.relay import Roads
from distributed.wire.messages import GetData, NeedRoom, Ping, Post, Refusal, Room, UpdateData, Values
from distributed.wire.security import Secret, ServerHandshake
from distributed.wire.values import pack, reduce_handle, unpack

LARGE = SETTINGS.inline_bytes_max * 5 + 3


class DirectoryStore:
    """A store in a dictionary and a directory."""

    def __init__(self, directory: Path, room_bytes: int = 1 << 30) -> None:
        self.directory, self.room_bytes = directory, room_bytes
        self.values: dict[str, tuple[int, int, bytes | None, str]] = {}
        self.owners: dict[str, str] = {}
        self.contains: list[dict[int, list]] = []
        self.abandoned: list[str] = []
        self.on_abandon = threading.Event()
        self.posts: list[tuple[list[str], int, str, bytes]] = []
        self.outcomes: list[str] = []  # what becomes of the next messages; afterwards all are taken
        self.lock, self.count = threading.Lock(), 0

    def lookup(self, key: str) -> tuple[int, int, bytes | None, str] | None:
        return self.values.get(key)

    def reserve(self, nbytes: int) -> str:
        if nbytes > self.room_bytes:
            raise StoreFull(f"no room for {nbytes} bytes")
        with self.lock:
            self.count += 1
            path = self.directory / f"v{self.count}"
        with open(path, "xb") as file:
            os.posix_fallocate(file.fileno(), 0, nbytes)
        return str(path)

    def put(self, owner: str, keys: list[str], nbytes: list[int], values: list[Any], contains: dict) -> None:
        if "forbidden" in keys:
            raise DistributedError("forbidden key")
        for key, size, value in zip(keys, nbytes, values, strict=True):
            self.values[key] = (1, size, None, value) if isinstance(value, str) else (1, size, value, "")
            self.owners[key] = owner
        self.contains.append(contains)

    def post(self, message: Post, value: bytes, path: str) -> str:
        outcome = self.outcomes.pop(0) if self.outcomes else "taken"
        if outcome == "taken":
            self.posts.append((message.keys, message.tag, path, Path(path).read_bytes() if path else value))
        return outcome

    def abandon(self, path: str) -> None:
        os.unlink(path)
        self.abandoned.append(path)
        self.on_abandon.set()

    def hold(self, key: str, data: bytes, attempt: int = 1, is_file: bool | None = None) -> None:
        """Put something there without a connection."""
        if is_file or (is_file is None and len(data) > SETTINGS.inline_bytes_max):
            path = self.reserve(len(data))
            Path(path).write_bytes(data)
            self.values[key] = (attempt, len(data), None, path)
        else:
            self.values[key] = (attempt, len(data), data, "")


class Holder:
    """A bulk server behind a listening socket, as a worker's listener would feed it."""

    def __init__(self, store: DirectoryStore, secret: Secret, connections_max: int = 8) -> None:
        self.secret, self.bulk = secret, BulkServer(store, connections_max)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listening.getsockname()[1]}"
        self.accepted = 0
        self.thread = threading.Thread(target=self.accept)
        self.thread.start()

    def accept(self) -> None:
        while True:
            try:
                sock, _ = self.listening.accept()
            except OSError:
                return
            tune(sock, SETTINGS.client_lease_s)
            handshake = ServerHandshake(self.secret, "worker")
            while handshake.wanted:
                sock.sendall(handshake.receive(sock.recv(handshake.wanted, socket.MSG_WAITALL)))
            self.accepted += 1
            self.bulk.serve(sock, handshake.peer_role)

    def close(self) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self.thread.join()
        self.bulk.close()


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


@pytest.fixture
def secret() -> Secret:
    return Secret.create()


@pytest.fixture
def holder(store: DirectoryStore, secret: Secret) -> Iterator[Holder]:
    holder = Holder(store, secret)
    yield holder
    holder.close()


@pytest.fixture
def client(holder: Holder, secret: Secret) -> Iterator[BulkClient]:
    client = BulkClient(holder.address, "", Roads("", "pool", secret))
    yield client
    client.close()


def content(nbytes: int) -> bytes:
    return os.urandom(1 << 10) * (nbytes >> 10) + os.urandom(nbytes & 1023)


# -------------------------------------------------------------------------------------------------------------- reading


def test_small_and_large_values_arrive_in_the_order_asked_for(store, client):
    values = {f"x{n}": content(size) for n, size in enumerate([1, LARGE, 70, LARGE + 1, 65536, 65537])}
    for key, data in values.items():
        store.hold(key, data)
    keys = list(reversed(values))
    fetched = client.fetch(keys, [0] * len(keys))
    assert [(f.key, f.attempt, f.nbytes, bytes(f.data)) for f in fetched] == [
        (key, 1, len(values[key]), values[key]) for key in keys
    ]


def test_a_small_value_may_be_in_a_file(store, client):
    store.hold("x", b"abc", is_file=True)
    assert client.fetch(["x"], [1])[0].data == b"abc"


def test_another_attempt_is_not_here(store, client):
    store.hold("x", b"abc", attempt=2)
    assert [f.nbytes for f in client.fetch(["x", "x", "x", "y"], [1, 2, 0, 0])] == [-1, 3, 3, -1]


def test_large_values_come_as_paths_where_the_reader_can_link(store, client):
    store.hold("x", content(LARGE))
    store.hold("y", b"abc")
    x, y = client.fetch(["x", "y"], [0, 0], linkable=True)
    assert (x.path, x.data) == (store.values["x"][3], None)
    assert (y.path, y.data) == ("", b"abc")


def test_values_are_received_into_a_file_or_memory_of_the_reader(store, client, tmp_path):
    data = content(LARGE)
    store.hold("x", data)
    path = tmp_path / "mine"
    path.write_bytes(bytes(LARGE))
    assert client.fetch(["x"], [0], receive_into=lambda nbytes: str(path))[0].path == str(path)
    assert path.read_bytes() == data
    memory = memoryview(mmap.mmap(-1, LARGE))
    assert client.fetch(["x"], [0], receive_into=lambda nbytes: memory[:nbytes])[0].data.tobytes() == data


def test_a_released_file_is_not_here(store, client):
    store.hold("x", content(LARGE))
    os.unlink(store.values["x"][3])
    assert client.fetch(["x"], [0])[0].nbytes == -1


def test_a_file_that_moved_between_look_up_and_opening_is_found(store, client):
    data = content(LARGE)
    store.hold("x", data)
    moved = store.values["x"]
    stale = (*moved[:3], moved[3] + ".gone")
    answers = [stale, moved]
    store.lookup = lambda key: answers.pop(0)
    assert client.fetch(["x"], [0])[0].data == data


def test_many_keys_travel_in_several_requests(store, client):
    keys = [f"x{n}" for n in range(1000)]
    for key in keys:
        store.hold(key, key.encode(), is_file=True)
    assert [f.data.decode() for f in client.fetch(keys, [0] * 1000)] == keys


def test_a_large_value_takes_no_memory_on_its_way_through_files(store, client, tmp_path):
    nbytes = 64 << 20
    store.hold("x", bytes(nbytes))
    path = tmp_path / "mine"
    with open(path, "xb") as file:
        os.posix_fallocate(file.fileno(), 0, nbytes)
    client.fetch([], [])
    tracemalloc.start()
    try:
        client.fetch(["x"], [0], receive_into=lambda _: str(path))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert path.stat().st_size == nbytes


@pytest.mark.parametrize("how", ["by the kernel", "in small pieces", "where the kernel cannot", "without splice"])
def test_a_large_value_arrives_whole_in_a_file(how, tmp_path, monkeypatch):
    data = content(5_000_001)
    path = tmp_path / "mine"
    path.write_bytes(bytes(len(data)))
    ours, theirs = socket.socketpair()
    if how == "in small pieces":
        monkeypatch.setattr("distributed.bulk.stream.PIPE_BYTES", 4096)
    elif how == "where the kernel cannot":
        monkeypatch.setattr(os, "splice", refuse)
    elif how == "without splice":
        monkeypatch.delattr(os, "splice", raising=False)
    sender = threading.Thread(target=theirs.sendall, args=(data,))
    sender.start()
    with ours, theirs:
        Stream(ours).receive_into_file(str(path), len(data))
        sender.join()
    assert path.read_bytes() == data


def refuse(*_args, **_options):
    raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.parametrize("how", ["by the kernel", "where the kernel cannot"])
def test_a_sender_that_breaks_off_is_a_broken_connection(how, tmp_path, monkeypatch):
    path = tmp_path / "mine"
    path.write_bytes(bytes(3 << 20))
    before = len(os.listdir("/proc/self/fd"))
    if how == "where the kernel cannot":
        monkeypatch.setattr(os, "splice", refuse)
    ours, theirs = socket.socketpair()
    sender = threading.Thread(target=lambda: (theirs.sendall(content(2 << 20)), theirs.close()))
    sender.start()
    with ours, pytest.raises(ConnectionResetError):
        Stream(ours).receive_into_file(str(path), 3 << 20)
    sender.join()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_a_peer_only_says_will_come_takes_no_room():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"all that comes")
        theirs.shutdown(socket.SHUT_WR)
        tracemalloc.start()
        try:
            with pytest.raises(ConnectionResetError):
                Stream(ours).read_exactly(1 << 30)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("queued_bytes", [0, 1 << 20, 1 << 30])
def test_a_file_that_was_sent_whole_may_be_filled_again(queued_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr("distributed.bulk.stream.queued_bytes_max", lambda: queued_bytes)
    data = content(5_000_001)
    path = tmp_path / "theirs"
    path.write_bytes(data)
    ours, theirs = socket.socketpair()
    with ours, theirs, open(path, "rb") as file:
        sender = threading.Thread(target=lambda: Stream(theirs).send_file(file.fileno(), len(data)))
        sender.start()
        assert Stream(ours).read_exactly(len(data)) == data
        sender.join()
        assert may_be_filled_again(os.fstat(file.fileno()))


def test_of_a_file_that_was_not_sent_whole_nobody_knows_where_its_pages_are(tmp_path):
    path = tmp_path / "theirs"
    path.write_bytes(bytes(5_000_000))
    ours, theirs = socket.socketpair()
    with theirs, open(path, "rb") as file:
        ours.close()
        with pytest.raises(ConnectionError):
            Stream(theirs).send_file(file.fileno(), 5_000_000)
        assert not may_be_filled_again(os.fstat(file.fileno()))


def test_pages_are_sent_only_where_as_much_follows_as_queues_hold():
    with open("/proc/sys/net/ipv4/tcp_wmem") as written, open("/proc/sys/net/ipv4/tcp_rmem") as read:
        assert queued_bytes_max() > int(written.read().split()[2]) + int(read.read().split()[2])


# -------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("is_same_machine", [True, False])
def test_values_that_were_put_can_be_fetched(store, client, is_same_machine):
    values = {"x": 1, "y": content(LARGE), "z": bytearray(content(LARGE)), "empty": b""}
    client.put("", {key: pack(value) for key, value in values.items()}, str(store.directory) if is_same_machine else "")
    fetched = client.fetch(list(values), [1] * len(values))
    assert {f.key: unpack(f.data) for f in fetched} == values
    assert set(store.owners.values()) == {""}
    assert store.count == 2
    assert not store.abandoned


def test_values_go_into_reserved_files_where_the_directory_can_be_opened(store, client):
    store_put, seen = store.put, []
    store.put = lambda owner, keys, nbytes, values, contains: (
        seen.extend(values),
        store_put(owner, keys, nbytes, values, contains),
    )
    data = content(LARGE)
    client.put("alice", {"alice/1": pack(data)}, str(store.directory))
    assert seen == [str(store.directory / "v1")]
    assert unpack(Path(seen[0]).read_bytes()) == data


def test_room_that_the_writer_cannot_open_is_used_by_the_worker(store, client, monkeypatch):
    from distributed.bulk import client as client_module

    real_open = os.open

    def open_nothing_for_writing(path: str, flags: int, *more: Any) -> int:
        if flags & os.O_WRONLY:
            raise PermissionError(13, "not yours", path)
        return real_open(path, flags, *more)

    data = content(LARGE)
    monkeypatch.setattr(client_module.os, "open", open_nothing_for_writing)
    client.put("alice", {"alice/1": pack(data)}, str(store.directory))
    assert store.count == 1
    assert unpack(Path(store.values["alice/1"][3]).read_bytes()) == data


class Handle:
    """A reference to a stored value, as `values` sees it."""

    key = "x"

    def reference(self) -> list:
        return ["x", 1, 5, []]

    def __reduce__(self) -> Any:
        return reduce_handle(self)


def test_contained_handles_are_reported_by_position(store, client):
    client.put("alice", {"alice/1": pack(1), "alice/2": pack([Handle()])})
    assert store.contains == [{1: [["x", 1, 5, []]]}]


@pytest.mark.parametrize("is_same_machine", [True, False])
def test_no_room_is_an_error_with_its_reason_and_leaves_nothing_behind(store, client, is_same_machine):
    store.room_bytes = LARGE * 2
    values = {"x": pack(content(LARGE)), "y": pack(content(LARGE * 3)), "z": pack(content(LARGE))}
    with pytest.raises(StoreFull, match=f"no room for {LARGE * 3 + 1} bytes"):
        client.put("", values, str(store.directory) if is_same_machine else "")
    assert store.on_abandon.wait(10)
    assert not store.values
    client.put("", {"x": values["x"]})
    assert list(store.values) == ["x"]


def test_a_refused_put_gives_its_room_back(store, client):
    with pytest.raises(DistributedError, match="forbidden key"):
        client.put("", {"forbidden": pack(content(LARGE))})
    assert store.abandoned == [str(store.directory / "v1")]


def test_room_of_a_writer_that_goes_away_is_given_back(store, holder, client):
    client.fetch([], [])
    stream = raw_stream(client)
    stream.send(NeedRoom(LARGE))
    assert stream.receive()[0] == Room(str(store.directory / "v1"), "")
    client.close()
    assert store.on_abandon.wait(10)


def test_room_of_a_writer_that_breaks_off_is_given_back(store, holder, client):
    stream = raw_stream(client)
    stream.send(UpdateData("", ["x"], [LARGE], [""], {}, []), [LARGE])
    stream.sock.sendall(b"half of it")
    client.close()
    assert store.on_abandon.wait(10)
    assert not store.values


# ---------------------------------------------------------------------------------------------------------- connections


def raw_stream(client: BulkClient) -> Stream:
    """The client's connection, to say on it what a client would not."""
    client.fetch(["nothing"], [0])
    assert client._stream is not None
    return client._stream


def is_closed_by_peer(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:  # with bytes of ours unread
        return True


def test_one_connection_serves_many_requests(holder, client):
    for _ in range(3):
        client.fetch(["x"], [0])
    assert holder.accepted == 1


def test_a_connection_that_was_closed_while_idle_is_opened_again(store, holder, client):
    store.hold("x", b"abc")
    raw_stream(client).sock.shutdown(socket.SHUT_RDWR)
    assert client.fetch(["x"], [0])[0].data == b"abc"
    assert holder.accepted == 2


def test_too_many_connections_close_the_one_idle_for_longest(store, holder, secret):
    store.hold("x", b"abc")
    clients = [
        BulkClient(holder.address, "", Roads("", "pool", secret)) for _ in range(holder.bulk._connections_max + 3)
    ]
    for _ in range(2):
        assert [client.fetch(["x"], [0])[0].data for client in clients] == [b"abc"] * len(clients)
    for client in clients:
        client.close()


def test_nobody_there_is_a_failed_connection(secret):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(ConnectionFailed, match=f"127.0.0.1:{port}: nobody listens there"):
        BulkClient(f"127.0.0.1:{port}", "", Roads("", "pool", secret)).fetch(["x"], [0])


def test_a_holder_that_ends_is_a_failed_connection(holder, client):
    client.fetch(["x"], [0])
    holder.bulk.close()
    with pytest.raises(ConnectionFailed):
        client.fetch(["x"], [0])


def test_a_callback_that_raises_leaves_a_usable_client(store, client):
    def no_room(nbytes: int) -> str:
        raise StoreFull("mine is full")

    store.hold("x", content(LARGE))
    with pytest.raises(StoreFull, match="mine is full"):
        client.fetch(["x"], [0], receive_into=no_room)
    assert client.fetch(["x"], [0])[0].nbytes == LARGE


# ------------------------------------------------------------------------------------------------- messages to members


def letter(*keys: str) -> Post:
    return Post(list(keys), [1] * len(keys), [1] * len(keys), 0, 7, 0, "", [])


def never(pause_s: float) -> None:
    raise AssertionError("it had to wait")


@pytest.mark.parametrize("nbytes", [10, LARGE])
@pytest.mark.parametrize("is_local", [True, False])
def test_a_message_is_handed_over_once_written_where_it_is_read_if_that_can_be_opened(store, client, nbytes, is_local):
    data = content(nbytes)
    assert client.post(letter("x", "y"), pack(data), str(store.directory) if is_local else "", never)
    [(keys, tag, path, value)] = store.posts
    assert (keys, tag, unpack(value)) == (["x", "y"], 7, data)
    assert bool(path) == (nbytes == LARGE)
    assert not store.abandoned


@pytest.mark.parametrize("is_local", [True, False])
def test_a_message_that_there_is_no_room_for_is_tried_again_without_being_sent_again(store, holder, client, is_local):
    store.outcomes = ["full", "full"]
    pauses: list[float] = []
    assert client.post(letter("x"), pack(content(LARGE)), str(store.directory) if is_local else "", pauses.append)
    assert len(pauses) == 2 and pauses[0] < pauses[1]
    assert len(store.posts) == 1 and store.count == 1  # one file
    store.outcomes = ["full"]
    assert client.post(letter("x"), pack(b"small"), "", pauses.append)
    assert holder.accepted == 1


def test_a_message_to_one_that_is_gone_leaves_nothing(store, client):
    store.outcomes = ["over", "over"]
    assert not client.post(letter("x"), pack(content(LARGE)), str(store.directory), never)
    assert not client.post(letter("x"), pack(b"small"), "", never)
    assert len(store.abandoned) == 1
    assert not store.posts


def test_a_message_larger_than_the_room_is_refused_with_the_reason(store, client):
    store.room_bytes = 100
    for directory in ("", str(store.directory)):
        with pytest.raises(StoreFull, match="no room for"):
            client.post(letter("x"), pack(content(LARGE)), directory, never)
    assert client.post(letter("x"), pack(b"small"), "", never)


# ------------------------------------------------------------------------------------------------------------ bad input


def requests_nobody_sends(path: str) -> dict[str, tuple[Any, list[int]]]:
    return {
        "not a bulk message": (Ping(), []),
        "buffers without a use": (GetData(["x"], [0], False), [5]),
        "columns of different lengths": (GetData(["x", "y"], [0], False), []),
        "no room at all": (NeedRoom(0), []),
        "room below zero": (NeedRoom(-5), []),
        "a path that was not reserved": (UpdateData("", ["x"], [5], ["/etc/passwd"], {}, []), []),
        "a path reserved for another size": (UpdateData("", ["x"], [5], [path], {}, []), []),
        "one path for two keys": (UpdateData("", ["x", "y"], [LARGE, LARGE], [path, path], {}, []), []),
        "sizes that differ from the buffers": (UpdateData("", ["x"], [5], [""], {}, []), [6]),
        "a size below zero": (UpdateData("", ["x"], [-1], [""], {}, []), []),
        "a missing column": (UpdateData("", ["x"], [], [], {}, []), []),
        "a message for nobody": (Post([], [], [], 0, 0, 5, "", []), [5]),
        "a message with a column that is too short": (Post(["x"], [1], [], 0, 0, 5, "", []), [5]),
        "a message of another size": (Post(["x"], [1], [1], 0, 0, 5, "", []), [6]),
        "a message without its buffer": (Post(["x"], [1], [1], 0, 0, 5, "", []), []),
        "a message in a path that was not reserved": (Post(["x"], [1], [1], 0, 0, 5, "/etc/passwd", []), []),
        "a message in a path reserved for another size": (Post(["x"], [1], [1], 0, 0, 5, path, []), []),
        "more than anything can hold": (UpdateData("", ["x"], [1 << 62], [""], {}, []), [1 << 62]),
    }


@pytest.mark.parametrize("name", requests_nobody_sends(""))
def test_a_request_that_nobody_sends_costs_the_connection_and_one_line(name, store, holder, client, secret, caplog):
    stream = raw_stream(client)
    stream.send(NeedRoom(LARGE))
    room, _ = stream.receive()
    with caplog.at_level(logging.INFO):
        message, lengths = requests_nobody_sends(room.path)[name]
        stream.send(message, lengths)
        assert is_closed_by_peer(stream.sock)
    assert store.on_abandon.wait(10)
    assert [record.name for record in caplog.records] == ["distributed.bulk"]
    assert "nobody understands" in caplog.text
    assert not store.values
    store.hold("x", b"abc")
    assert client.fetch(["x"], [0])[0].data == b"abc"


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 64, b"\x05\0\0\0\0\0\0\0" + b"\x91" * 5, b"\x00\x00\x00\x10\0\0\0\0" + b"\x91" * 4096, b"\x05\0"],
    ids=["huge lengths", "no message", "cut in the header", "cut in the prefix"],
)
def test_garbage_costs_the_connection(data, store, holder, client):
    stream = raw_stream(client)
    stream.sock.sendall(data)
    with contextlib.suppress(OSError):  # closed already
        stream.sock.shutdown(socket.SHUT_WR)
    assert is_closed_by_peer(stream.sock)
    store.hold("x", b"abc")
    assert client.fetch(["x"], [0])[0].data == b"abc"


@pytest.mark.parametrize(
    ("answer", "lengths"),
    [
        (Values([3, 3], ["", ""], [1, 1], []), [3, 3]),
        (Values([3], [""], [1], []), [4]),
        (Values([-1], [""], [1], []), [3]),
        (Ping(), []),
    ],
)
def test_an_answer_that_nobody_sends_is_an_error(answer, lengths, store, client, monkeypatch):
    monkeypatch.setattr(server_module._Service, "_get", lambda service, message: service._stream.send(answer, lengths))
    with pytest.raises(ProtocolError):
        client.fetch(["x"], [0])


def test_a_refusal_arrives_as_the_error_it_names(client, monkeypatch):
    refusal = Refusal("StoreFull", "no, thanks")
    monkeypatch.setattr(server_module._Service, "_get", lambda service, message: service._stream.send(refusal))
    with pytest.raises(StoreFull, match="no, thanks"):
        client.fetch(["x"], [0])


def test_a_bug_in_the_store_costs_only_the_connection(store, client, caplog):
    store.lookup = None
    with pytest.raises(ConnectionFailed):
        client.fetch(["x"], [0])
    assert "could not be handled" in caplog.text
    del store.lookup
    assert client.fetch(["x"], [0])[0].nbytes == -1
