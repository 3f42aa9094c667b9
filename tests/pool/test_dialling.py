"""Connections to a center that ends, or somebody else ends, at the worst moment: right after they were made."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import threading
import time

import pytest

from distributed import Cluster, Pool
from distributed import address as addresses
from distributed.errors import ConnectionFailed
from distributed.listen import Listener
from distributed.pool import dialling
from distributed.wire.security import find_secret

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() tells the peer that all is lost


def a_socket_that_was_reset() -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        theirs.close()
    with pytest.raises(ConnectionResetError):
        ours.recv(1)
    return ours


def test_a_center_that_is_gone_as_soon_as_it_was_reached_is_one_that_was_not_reached(monkeypatch):
    sock = a_socket_that_was_reset()
    monkeypatch.setattr(dialling, "connect_blocking", lambda *args, **options: sock)
    with pytest.raises(ConnectionFailed):
        dialling.Dialler("127.0.0.1:8787", None, print).dial()
    assert sock.fileno() == -1


class Hasty:
    """Listens where a center was, knows the secret, and resets each connection when it is open."""

    def __init__(self, port: int) -> None:
        self.accepted = threading.Semaphore(0)
        self._port, self._loop, self._over = port, asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._listen(),))

    async def _listen(self) -> None:
        listener = await Listener.start(
            "127.0.0.1", self._port, "", find_secret(), "center", self._reset, lambda *_: None
        )
        await self._over.wait()
        await listener.close()

    def _reset(self, connection) -> None:
        connection._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.close()
        self.accepted.release()

    def __enter__(self) -> Hasty:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()


def test_a_pool_outlives_whoever_resets_its_connections_to_the_center(secret_file):
    with Cluster(1, ncores=1) as cluster, Pool(cluster) as pool:
        running = pool.submit(time.sleep, 4)
        _, port = addresses.parse(cluster.center_address)
        os.kill(cluster._centers[0].pid, signal.SIGKILL)
        cluster._centers[0].wait_until_gone(time.monotonic() + 30)
        with Hasty(port) as hasty:
            for _ in range(6):
                assert hasty.accepted.acquire(timeout=30)
            assert running.get(timeout=60) is None


def test_why_a_task_waits_says_that_the_center_is_away(secret_file):
    with Cluster(1, ncores=1) as cluster, Pool(cluster) as pool:
        waiting = pool.options(workers=["nobody"]).submit(abs, -1)
        assert "center" not in waiting.explain()
        os.kill(cluster._centers[0].pid, signal.SIGKILL)
        pool._core.wait(lambda: pool._core.driver.about_the_center, 30)
        assert f"the center {cluster.center_address} is away" in waiting.explain()
