"""Operations by hand, against a daemon in a thread."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import distributed
from distributed.bulk import BulkServer
from distributed.comm import Connection
from distributed.errors import AuthenticationFailed, CannotPickle, ConnectionFailed, KeyLost, SecretUnusable
from distributed.listen import Listener
from distributed.rpc import operations, rpc
from distributed.wire.messages import REGISTRY, AddKeys, HasWhat, Message, Ncores, Ping, Status, Terminate, WhoHas
from distributed.wire.security import Secret

SECRET = Secret.create()


class MemoryStore:
    """Values in a dictionary, however large."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[int, int, bytes | None, str]] = {}

    def lookup(self, key: str) -> tuple[int, int, bytes | None, str] | None:
        return self.values.get(key)

    def put(self, owner: str, keys: list[str], nbytes: list[int], values: list[Any], contains: dict) -> None:
        for key, size, value in zip(keys, nbytes, values, strict=True):
            self.values[key] = (1, size, value, "")


class Daemon:
    """Answers some operations on a loop of its own."""

    def __init__(self) -> None:
        self.address = ""
        self.connections: list[Connection] = []
        self.messages: list[Message] = []
        self.bulk = BulkServer(MemoryStore())
        self.is_ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run()))
        self.thread.start()
        assert self.is_ready.wait(10)

    async def run(self) -> None:
        self.loop, self.end = asyncio.get_running_loop(), asyncio.Event()
        listener = await Listener.start("127.0.0.1", 0, "", SECRET, "center", self.accept, self.bulk.serve)
        self.address = listener.address
        self.is_ready.set()
        await self.end.wait()
        await listener.close()
        self.hang_up()
        await asyncio.sleep(0)

    def accept(self, connection: Connection) -> None:
        self.connections.append(connection)
        connection.on_message = self.receive

    def receive(self, connection: Connection, message: Message, request: int) -> None:
        self.messages.append(message)
        match message:
            case Ncores():
                connection.send(Ping())  # not an answer: nothing that a caller by hand listens to
                connection.reply(request, {"alice:1": 4})
            case WhoHas() if message.keys == ["lost"]:
                connection.refuse(request, KeyLost("lost"))
            case HasWhat():
                pass  # no answer at all
            case Status():
                connection.close()
            case Terminate():
                connection.reply(request)
                self.end.set()
            case _:
                connection.reply(request, message.operation)

    def hang_up(self) -> None:
        for connection in self.connections:
            connection.close()
        self.connections.clear()

    def call(self, function: Any) -> None:
        """Run this on the loop, and wait until it has run."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (function(), self.loop.call_soon(done.set)))
        assert done.wait(10)

    def close(self) -> None:
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.end.set)
        self.thread.join()
        self.bulk.close()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    daemon = Daemon()
    yield daemon
    daemon.close()


def test_any_operation_can_be_called_by_its_name(daemon):
    with rpc(daemon.address, secret=SECRET) as remote:
        assert remote.ping() == "ping"
        assert remote.who_has(keys=["x"], wait_s=0.5) == "who_has"
        assert remote.who_has(["y"]) == "who_has"
        assert remote.add_keys(keys=["x"], attempts=[1], nbytes=[5]) == "add_keys"
    assert daemon.messages == [Ping(), WhoHas(["x"], 0.5), WhoHas(["y"]), AddKeys(["x"], [1], [5])]
    assert len(daemon.connections) == 1


def test_calls_are_awaitable_where_that_is_asked_for(daemon):
    async def call() -> list[Any]:
        async with rpc(daemon.address, asynchronous=True, secret=SECRET) as remote:
            return await asyncio.gather(remote.ncores(), remote.who_has(keys=["x"]), remote.get_data(keys=["x"]))

    assert asyncio.run(call()) == [{"alice:1": 4}, "who_has", {}]


def test_it_can_be_called_in_one_line_and_leaves_no_connection(daemon):
    assert rpc(daemon.address, secret=SECRET).ncores() == {"alice:1": 4}
    assert rpc(daemon.address, secret=SECRET).get_data(keys=["x"]) == {}
    gc.collect()  # a socket that was left open would be a warning here, and so an error


def test_values_are_packed_and_unpacked(daemon):
    with rpc(daemon.address, secret=SECRET) as remote:
        assert remote.update_data(data={"x": {"alice": [1, 2]}, "array": np.arange(5000)}) is None
        values = remote.get_data(keys=["x", "array", "absent"])
        assert values["x"] == {"alice": [1, 2]}
        assert (values["array"] == np.arange(5000)).all()
        assert set(values) == {"x", "array"}
        assert remote.get_data(keys=["x"], attempts=[2]) == {}


def test_a_value_that_cannot_be_pickled_is_named(daemon):
    with (
        rpc(daemon.address, secret=SECRET) as remote,
        pytest.raises(CannotPickle, match=r"data\['x'\]"),
    ):
        remote.update_data(data={"x": {"lock": threading.Lock()}})


def test_a_refusal_is_an_error_and_the_connection_goes_on(daemon):
    with rpc(daemon.address, secret=SECRET) as remote:
        with pytest.raises(KeyLost):
            remote.who_has(keys=["lost"])
        assert remote.ping() == "ping"
        assert len(daemon.connections) == 1


def test_an_unknown_operation_names_the_nearest(daemon):
    remote = rpc(daemon.address, secret=SECRET)
    with pytest.raises(AttributeError, match="no operation 'hoo_has'; did you mean 'who_has'"):
        remote.hoo_has
    with pytest.raises(AttributeError, match=r"rpc\.operations\(\) lists them"):
        remote.xyzzy
    with pytest.raises(AttributeError):
        remote.reply
    assert not hasattr(remote, "_private")
    assert {"who_has", "get_data", "close"} <= set(dir(remote))


@pytest.mark.parametrize(
    "fields", [{}, {"keys": "x"}, {"keys": [1]}, {"key": ["x"]}, {"keys": ["x"], "wait_s": "long"}]
)
def test_a_mistake_in_a_call_is_an_error_of_the_call(daemon, fields):
    with rpc(daemon.address, secret=SECRET) as remote, pytest.raises(TypeError):
        remote.who_has(**fields)
    assert daemon.messages == []


def test_a_connection_that_was_closed_while_idle_is_opened_again(daemon):
    with rpc(daemon.address, secret=SECRET) as remote:
        remote.ping()
        daemon.call(daemon.hang_up)
        assert remote.ping() == "ping"


def test_a_daemon_that_hangs_up_or_does_not_answer_is_a_failed_connection(daemon):
    with rpc(daemon.address, secret=SECRET, timeout_s=0.05) as remote:
        with pytest.raises(ConnectionFailed, match="closed the connection instead of answering"):
            remote.status()
        with pytest.raises(ConnectionFailed, match=r"no answer within 0\.05 s"):
            remote.has_what()
        remote._line._timeout_s = 10
        assert remote.ping() == "ping"


def test_a_daemon_can_be_ended(daemon):
    with rpc(daemon.address, secret=SECRET) as remote:
        assert remote.terminate() is None
        daemon.thread.join()
        with pytest.raises(ConnectionFailed, match="nobody listens there"):
            remote.ping()


def test_the_secret_is_needed(daemon, monkeypatch, tmp_path):
    with pytest.raises(AuthenticationFailed):
        rpc(daemon.address, secret=Secret.create()).ping()
    monkeypatch.setenv("DISTRIBUTED_SECRET_FILE", str(tmp_path / "none"))
    with pytest.raises(SecretUnusable):
        rpc(daemon.address)


def test_threads_may_share_it(daemon):
    answers: list[Any] = []
    with rpc(daemon.address, secret=SECRET) as remote:

        def call() -> None:
            answers.extend(remote.who_has(keys=[str(n)]) for n in range(50))

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == ["who_has"] * 200


def test_every_message_but_the_answers_is_an_operation():
    assert set(operations()) == set(REGISTRY) - {"reply", "refusal"}


def test_the_public_name_can_be_called_however_it_was_imported(daemon):
    assert callable(distributed.rpc)
    assert distributed.rpc(daemon.address, secret=SECRET).ping() == "ping"
