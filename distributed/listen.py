"""Where connections are accepted: sockets that listen, handshakes under way, and whom a new connection is handed to.

Peers that say nothing, too many of them, and a process without descriptors keep nobody out for long. A control
connection is handed over as a :class:`~distributed.comm.Connection`, a bulk connection as a blocking socket; what they
carry is their owners' business.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import resource
import socket
import stat
from collections.abc import Callable

from distributed import address as addresses
from distributed.comm import Connection
from distributed.config import SETTINGS
from distributed.connect import UNIX_PATH_BYTES_MAX, explain, own_place, silence_of, tune
from distributed.errors import DistributedError, StartFailed
from distributed.greeting import encrypt, shake_hands, speaks_tls
from distributed.wire.security import Itself, Secret, ServerHandshake

logger = logging.getLogger("distributed.comm")

LISTEN_BACKLOG = 1024
ACCEPTED_AT_ONCE_MAX = 64  # connections taken from the listen queue in one turn of the loop
ACCEPT_PAUSE_S = 0.1  # when the process has no descriptors left
PAUSE_NEWS_S = 60.0  # it is said once in this time
DESCRIPTORS_PART = 1 / 3  # of those that this process may have: no one purpose takes more


class Listener:
    """Accepts connections and authenticates them; strangers, however many or slow, keep nobody else out.

    A handshake has a limited time. When too many are under way the oldest is given up: a member's takes milliseconds,
    so the oldest one is not a member's.
    """

    def __init__(
        self,
        secret: Secret,
        role: str,
        on_connection: Callable[[Connection], object],
        on_bulk: Callable[[socket.socket, str], object],
        incarnation: str = "",
    ) -> None:
        self.address = self.unix_path = ""
        self._secret, self._role, self._incarnation = secret, role, incarnation
        self._on_connection, self._on_bulk = on_connection, on_bulk
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._handshakes: dict[asyncio.Task[None], None] = {}  # in the order of their beginning
        self._resume: asyncio.TimerHandle | None = None
        self._quiet_until_s = 0.0  # that no descriptors are left has just been said

    @classmethod
    async def start(
        cls,
        host: str,
        port: int,
        unix_path: str,
        secret: Secret,
        role: str,
        on_connection: Callable[[Connection], object],
        on_bulk: Callable[[socket.socket, str], object],
        incarnation: str = "",
    ) -> Listener:
        """Listen at host and port (0: any free one), and on a Unix socket if a path is given.

        `on_connection(connection)` gets control connections; it sets their callbacks before it returns.
        `on_bulk(socket, peer_role)` gets bulk connections as blocking sockets, and closes them. Both run on the loop.
        Who connects may mean one `incarnation` of a worker and no other.
        """
        listener = cls(secret, role, on_connection, on_bulk, incarnation)
        try:
            await listener._listen_tcp(host, port)
            if unix_path:
                listener._listen_unix(unix_path)
        except BaseException:
            await listener.close()
            raise
        listener._watch()
        return listener

    async def _listen_tcp(self, host: str, port: int) -> None:
        address = addresses.unparse(host, port)
        try:
            infos = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, target = infos[0]
            sock = self._add_socket(family)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(target)
            sock.listen(LISTEN_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                reason = "another program uses this port; choose another one (--port), 0 for any that is free"
            else:
                reason = explain(error, address, 0)
            raise StartFailed(f"cannot listen at {address}: {reason}") from error
        self.address = addresses.unparse(host, sock.getsockname()[1])

    def _listen_unix(self, path: str) -> None:
        if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
            raise StartFailed(
                f"cannot listen at {path}: the path of a Unix socket has at most {UNIX_PATH_BYTES_MAX} bytes"
            )
        sock = self._add_socket(socket.AF_UNIX)
        try:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.stat(path).st_mode):  # left by a process that was killed: the path is ours
                    os.unlink(path)
            sock.bind(path)
            os.chmod(path, 0o600)
            sock.listen(LISTEN_BACKLOG)
        except OSError as error:
            raise StartFailed(f"cannot listen at {path}: {explain(error, path, 0)}") from error
        self.unix_path = path

    def _add_socket(self, family: int) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        self._sockets.append(sock)
        return sock

    async def close(self) -> None:
        """Accept nobody any more and give up handshakes; connections that were handed over are their owners'."""
        if self._resume is not None:
            self._resume.cancel()
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()
        if self.unix_path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.unix_path)
        tasks = list(self._handshakes)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _watch(self) -> None:
        for sock in self._sockets:
            self._loop.add_reader(sock, self._accept, sock)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE_MAX):
            try:
                sock, source = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            peer = addresses.unparse(*source[:2]) if isinstance(source, tuple) else f"unix:{self.unix_path}"
            if len(self._handshakes) >= _handshakes_max():
                oldest = next(iter(self._handshakes))
                del self._handshakes[oldest]
                oldest.cancel("too many handshakes are under way, and this is the oldest")
            self._greet(sock, peer, own_place(sock.getsockname()))

    def take(self, sock: socket.socket, peer: str) -> None:
        """Somebody begins to open a connection at the other end of this socket, which was made for that elsewhere."""
        self._greet(sock, peer, "")

    def _greet(self, sock: socket.socket, peer: str, place: str) -> None:
        task = self._loop.create_task(self._admit(sock, peer, place))
        self._handshakes[task] = None
        task.add_done_callback(functools.partial(self._forget, sock))

    def _forget(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)
        if task.cancelled():  # perhaps before its first step
            sock.close()

    def _pause(self, error: OSError) -> None:
        """No descriptors are left: the oldest handshake gives one back, and we look again a little later."""
        if self._loop.time() >= self._quiet_until_s:  # it is found ten times a second, for as long as it lasts
            self._quiet_until_s = self._loop.time() + PAUSE_NEWS_S
            logger.warning("cannot accept a connection: %s", explain(error, self.address, 0))
        for sock in self._sockets:
            self._loop.remove_reader(sock)
        if self._handshakes:
            next(iter(self._handshakes)).cancel("no descriptors are left")
        self._resume = self._loop.call_later(ACCEPT_PAUSE_S, self._watch)

    async def _admit(self, sock: socket.socket, peer: str, place: str) -> None:
        """Authenticate one peer and hand it over; whatever fails closes this socket, with one line in the log."""
        timeout_s = SETTINGS.handshake_timeout_s
        try:
            is_encrypted = speaks_tls(sock, self._secret)
            itself = Itself("" if is_encrypted else place, self._incarnation)
            handshake = ServerHandshake(self._secret, self._role, peer, itself=itself)
            sock.setblocking(False)
            tune(sock, timeout_s)
            async with asyncio.timeout(timeout_s):
                if is_encrypted:
                    sock = await encrypt(sock, self._secret, is_server=True, address=peer)
                await shake_hands(sock, handshake)
            silent_s = silence_of(handshake.peer_role)
            tune(sock, silent_s)
            if handshake.kind == "bulk":
                sock.setblocking(True)
                self._on_bulk(sock, handshake.peer_role)
            else:
                made = self._on_connection
                Connection(handshake.peer_role, peer, on_made=made, silent_s=silent_s).begin(sock)
        except asyncio.CancelledError as cancelled:
            sock.close()
            if self._sockets:  # else the listener is being closed
                logger.warning("refused %s: %s", peer, cancelled)
            raise
        except (OSError, DistributedError) as error:
            sock.close()
            logger.warning("refused %s: %s", peer, _why(error, peer, timeout_s))
        except Exception:
            sock.close()
            logger.exception("cannot take the connection of %s", peer)


def _why(error: OSError | DistributedError, peer: str, timeout_s: float) -> str:
    """Why a peer was not let in, in words for who runs this side."""
    if isinstance(error, TimeoutError):
        return f"it began to connect, and did not go on within {timeout_s:g} s"
    return explain(error, peer, timeout_s) if isinstance(error, OSError) else str(error).removeprefix(f"{peer}: ")


def _handshakes_max() -> int:
    """How many may be under way: so many that strangers never hold the last descriptors of this process."""
    return within_descriptors(SETTINGS.handshakes_under_way_max, 1)


def within_descriptors(most: int, each: int) -> int:
    """So many, unless they would take more than their part of this process's descriptors."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return most
    return max(1, min(most, int(descriptors * DESCRIPTORS_PART / each)))
