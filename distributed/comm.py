"""Control connections of the event loop: authenticated sockets that carry messages, and the listener that accepts them.

A connection turns bytes into messages and back, joins what is sent in one turn of the loop into one write, and pairs
replies with requests. It knows no message's meaning. Whatever a peer does, only its own connection suffers: garbage,
an exception in a callback or an ever growing backlog close it with one line in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import socket
import stat
from collections.abc import Callable
from typing import Any

from distributed import address as addresses
from distributed import errors
from distributed.config import SETTINGS
from distributed.connect import UNIX_PATH_BYTES_MAX, explain, tune
from distributed.errors import ConnectionFailed, DistributedError, ProtocolError, StartFailed
from distributed.wire import frames
from distributed.wire.messages import Message, Refusal, Reply, buffers_of, decode, encode_header
from distributed.wire.security import ClientHandshake, Secret, ServerHandshake

logger = logging.getLogger("distributed.comm")

OnMessage = Callable[["Connection", Message, int], object]
OnClose = Callable[["Connection", str], object]

LISTEN_BACKLOG = 1024
ACCEPTED_AT_ONCE_MAX = 64  # connections taken from the listen queue in one turn of the loop
ACCEPT_PAUSE_S = 0.1  # when the process has no descriptors left
CLOSE_TIMEOUT_S = 2.0  # a peer that reads nothing holds up the end of its connection no longer than this


def _ignore(*_: object) -> None:
    """What a connection calls until its owner has said what it should call."""


# ------------------------------------------------------------------------------------------------------- a connection


class Connection(asyncio.Protocol):
    """An authenticated control connection.

    Attributes
    ----------
    on_message
        Called with (connection, message, request) for all that is not an answer; set it before returning to the loop.
    on_close
        Called once with (connection, reason) when nothing will come any more, whoever closed it.
    peer_role, peer_address
        Who is at the other end, and where; the address is for people and logs.
    is_closed
        Whether anything can still be sent.
    """

    def __init__(
        self,
        peer_role: str,
        peer_address: str,
        on_message: OnMessage = _ignore,
        on_close: OnClose = _ignore,
        on_made: Callable[[Connection], object] = _ignore,
    ) -> None:
        self.peer_role, self.peer_address = peer_role, peer_address
        self.on_message, self.on_close, self._on_made = on_message, on_close, on_made
        self.is_closed = False
        self._reason = ""
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._decoder = frames.Decoder(bytes_max=SETTINGS.frame_header_bytes_max)  # values travel elsewhere
        self._outgoing: list[bytes | memoryview] = []
        self._outgoing_bytes = 0
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._last_request = 0

    def __repr__(self) -> str:
        return f"<Connection to {self.peer_role} at {self.peer_address}{' (closed)' if self.is_closed else ''}>"

    @property
    def backlog_bytes(self) -> int:
        """Bytes that were sent and that the kernel has not taken yet."""
        return self._outgoing_bytes + (0 if self._transport is None else self._transport.get_write_buffer_size())

    # ------------------------------------------------------------------------------------------------------- sending

    def send(self, message: Message, request: int = 0) -> None:
        """Send a message, after what was sent before. On a closed connection nothing happens: `on_close` tells."""
        if self.is_closed:
            return
        if self.backlog_bytes > SETTINGS.write_buffer_bytes_max:
            self._cut(f"it does not read: {self.backlog_bytes} bytes wait for it")
            return
        pieces = frames.encode(encode_header(message, request), buffers_of(message))
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing += pieces
        self._outgoing_bytes += sum(map(len, pieces))

    def reply(self, request: int, result: Any = None) -> None:
        """Answer a request; a message that was no request (its number is 0) gets no answer."""
        if request:
            self.send(Reply(result), request)

    def refuse(self, request: int, error: BaseException) -> None:
        """Answer a request with an error; one of `distributed.errors` arrives as itself."""
        if request:
            self.send(Refusal(type(error).__name__, str(error)), request)

    async def ask(self, message: Message, timeout_s: float | None = None) -> Any:
        """Send a request and wait for its answer; a refusal is raised as the error it names.

        Raises `ConnectionFailed` when the connection closes before, or no answer comes in time.
        """
        if self.is_closed:
            raise ConnectionFailed(self.peer_address, self._reason)
        self._last_request = request = self._last_request + 1
        self._asked[request] = future = self._loop.create_future()
        self.send(message, request)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            reason = f"no answer to {message.operation} within {timeout_s:g} s"
            raise ConnectionFailed(self.peer_address, reason) from error
        finally:
            self._asked.pop(request, None)

    def _flush(self) -> None:
        pieces, self._outgoing, self._outgoing_bytes = self._outgoing, [], 0
        if pieces and not self._transport.is_closing():
            self._transport.writelines(pieces)

    # ----------------------------------------------------------------------------------------------------- receiving

    def data_received(self, data: bytes) -> None:
        if self.is_closed:
            return
        try:
            for header, buffers in self._decoder.feed(data):
                self._receive(*decode(header, buffers))
                if self.is_closed:
                    return
        except ProtocolError as error:
            self._cut(f"it sent what nobody understands: {error}")
        except Exception as error:  # noqa: BLE001 - a callback's bug must cost no more than this connection
            self._cut(f"what it sent could not be handled ({type(error).__name__}: {error})", error)

    def _receive(self, message: Message, request: int) -> None:
        if isinstance(message, (Reply, Refusal)):
            future = self._asked.pop(request, None)
            if future is None or future.done():  # the answer came too late
                return
            if isinstance(message, Reply):
                future.set_result(message.result)
            else:
                future.set_exception(errors.by_name(message.kind, message.reason))
        else:
            self.on_message(self, message, request)

    # ------------------------------------------------------------------------------------------------ begin and end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._on_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        if not self._reason:
            words = explain(exc, self.peer_address, SETTINGS.client_lease_s) if isinstance(exc, OSError) else ""
            cut = "in the middle of a message" if self._decoder.pending_bytes else ""
            self._reason = " ".join(filter(None, [words or "the peer closed the connection", cut]))
            if cut:
                logger.warning("%s at %s: %s", self.peer_role, self.peer_address, self._reason)
        self._outgoing.clear()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ConnectionFailed(self.peer_address, self._reason))
        try:
            self.on_close(self, self._reason)
        except Exception:
            logger.exception("after the connection of %s closed", self.peer_address)
        self.on_message, self.on_close = _ignore, _ignore  # they often refer back to this connection

    def close(self) -> None:
        """Send what was to be sent, then close. Nothing is received any more."""
        if self.is_closed:
            return
        self.is_closed, self._reason = True, "closed on this side"
        self._flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(CLOSE_TIMEOUT_S, self._transport.abort)

    def _cut(self, reason: str, error: BaseException | None = None) -> None:
        """Close at once, because of what the peer did."""
        if self.is_closed:
            return
        logger.warning(
            "closed the connection of %s at %s: %s", self.peer_role, self.peer_address, reason, exc_info=error
        )
        self.is_closed, self._reason = True, reason
        self._transport.abort()


# --------------------------------------------------------------------------------------- a socket becomes a connection


async def _shake_hands(sock: socket.socket, handshake: ClientHandshake | ServerHandshake) -> None:
    """Authenticate a fresh non-blocking socket, reading not one byte too many. Encryption will begin here, too."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, handshake.start())
    while handshake.wanted:
        data = b""
        while len(data) < handshake.wanted:
            part = await loop.sock_recv(sock, handshake.wanted - len(data))
            if not part:
                raise ConnectionResetError("it closed the connection before the handshake was over")
            data += part
        await loop.sock_sendall(sock, handshake.receive(data))
    if handshake.failure is not None:
        raise handshake.failure


async def _become_connection(sock: socket.socket, connection: Connection) -> None:
    """Hand an authenticated socket to the event loop, which closes it from now on."""
    await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)


async def connect(
    address: str,
    *,
    role: str,
    secret: Secret,
    on_message: OnMessage = _ignore,
    on_close: OnClose = _ignore,
    unix: str = "",
    timeout_s: float | None = None,
) -> Connection:
    """A control connection to whoever listens at `address`; over its Unix socket if that answers.

    Raises `ConnectionFailed`, `AuthenticationFailed` or `VersionMismatch`.
    """
    timeout_s = SETTINGS.connect_timeout_s if timeout_s is None else timeout_s
    handshake = ClientHandshake(secret, role, "control", address)
    sock: socket.socket | None = None
    try:
        async with asyncio.timeout(timeout_s):
            sock = await _open_unix(unix) or await _open_tcp(address)
            await _shake_hands(sock, handshake)
            connection = Connection(handshake.peer_role, address, on_message, on_close)
            await _become_connection(sock, connection)
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, OSError):
            raise ConnectionFailed(address, explain(error, address, timeout_s)) from error
        raise
    return connection


async def _open_unix(path: str) -> socket.socket | None:
    """Connected to a Unix socket, if there is such a path on this machine and somebody listens there."""
    return await _open(socket.AF_UNIX, path, []) if path else None


async def _open_tcp(address: str) -> socket.socket:
    host, port = addresses.parse(address)
    failures: list[OSError] = []
    for family, _, _, _, target in await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = await _open(family, target, failures)
        if sock is not None:
            return sock
    raise failures[-1]


async def _open(family: int, target: Any, failures: list[OSError]) -> socket.socket | None:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, target)
        tune(sock)
    except OSError as error:
        sock.close()
        failures.append(error)
        return None
    except BaseException:
        sock.close()
        raise
    return sock


# ----------------------------------------------------------------------------------------------------------- listening


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
    ) -> None:
        self.address = self.unix_path = ""
        self._secret, self._role = secret, role
        self._on_connection, self._on_bulk = on_connection, on_bulk
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._handshakes: dict[asyncio.Task[None], None] = {}  # in the order of their beginning
        self._resume: asyncio.TimerHandle | None = None

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
    ) -> Listener:
        """Listen at host and port (0: any free one), and on a Unix socket if a path is given.

        `on_connection(connection)` gets control connections; it sets their callbacks before it returns.
        `on_bulk(socket, peer_role)` gets bulk connections as blocking sockets, and closes them. Both run on the loop.
        """
        listener = cls(secret, role, on_connection, on_bulk)
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
            if len(self._handshakes) >= SETTINGS.handshakes_under_way_max:
                oldest = next(iter(self._handshakes))
                del self._handshakes[oldest]
                oldest.cancel("too many handshakes are under way, and this is the oldest")
            task = self._loop.create_task(self._admit(sock, peer))
            self._handshakes[task] = None
            task.add_done_callback(functools.partial(self._forget, sock))

    def _forget(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)
        if task.cancelled():  # perhaps before its first step
            sock.close()

    def _pause(self, error: OSError) -> None:
        """No descriptors are left: the oldest handshake gives one back, and we look again a little later."""
        logger.warning("cannot accept a connection: %s", explain(error, self.address, 0))
        for sock in self._sockets:
            self._loop.remove_reader(sock)
        if self._handshakes:
            next(iter(self._handshakes)).cancel("no descriptors are left")
        self._resume = self._loop.call_later(ACCEPT_PAUSE_S, self._watch)

    async def _admit(self, sock: socket.socket, peer: str) -> None:
        """Authenticate one peer and hand it over; whatever fails closes this socket, with one line in the log."""
        handshake = ServerHandshake(self._secret, self._role, peer)
        timeout_s = SETTINGS.handshake_timeout_s
        try:
            sock.setblocking(False)
            tune(sock)
            async with asyncio.timeout(timeout_s):
                await _shake_hands(sock, handshake)
            if handshake.kind == "bulk":
                sock.setblocking(True)
                self._on_bulk(sock, handshake.peer_role)
            else:
                made = self._on_connection
                await _become_connection(sock, Connection(handshake.peer_role, peer, on_made=made))
        except asyncio.CancelledError as cancelled:
            if self._sockets:  # else the listener is being closed
                logger.warning("refused %s: %s", peer, cancelled)
            raise
        except (OSError, DistributedError) as error:
            sock.close()
            reason = (
                explain(error, peer, timeout_s) if isinstance(error, OSError) else str(error).removeprefix(f"{peer}: ")
            )
            logger.warning("refused %s: %s", peer, reason)
        except Exception:
            sock.close()
            logger.exception("cannot take the connection of %s", peer)
