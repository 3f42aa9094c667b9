"""Control connections of the event loop: authenticated sockets that carry messages.

A connection turns bytes into messages and back, joins what is sent in one turn (see :mod:`distributed.turns`) into one
write, and pairs replies with requests. It reads and writes its socket itself: asyncio's transports would double what a
small message costs. It knows no message's meaning. Whatever a peer does, only its own connection suffers: garbage,
an exception in a callback or an ever growing backlog close it with one line in the log. Who listens for connections is
:mod:`distributed.listen`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

from distributed import address as addresses
from distributed import errors
from distributed.config import SETTINGS
from distributed.connect import NO_TUNNEL, explain, failed, meant_place, tune
from distributed.errors import ConnectionFailed, ProtocolError
from distributed.greeting import encrypt, shake_hands, speaks_tls
from distributed.quantities import size
from distributed.turns import TURN
from distributed.wire import frames
from distributed.wire.codec import decode, encode_frame
from distributed.wire.messages import Message, Refusal, Reply
from distributed.wire.security import ClientHandshake, Itself, Secret

logger = logging.getLogger("distributed.comm")

READ_BYTES = 1 << 18
WRITE_PIECES_MAX = 1024  # the kernel takes no more in one call

ANSWERS = (Reply, Refusal)

OnMessage = Callable[["Connection", Message, int], object]
OnClose = Callable[["Connection", str], object]


def _ignore(*_: object) -> None:
    """What a connection calls until its owner has said what it should call."""


# ------------------------------------------------------------------------------------------------------- a connection


class Connection:
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
        silent_s: float = SETTINGS.silent_worker_s,
    ) -> None:
        self.peer_role, self.peer_address = peer_role, peer_address
        self.on_message, self.on_close, self._on_made = on_message, on_close, on_made
        self.is_closed = False
        self._silent_s = silent_s  # as the socket was tuned; for the words about its end
        self._reason = ""
        self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = None  # from `begin` until nothing more will happen here
        self._decoder = frames.Decoder(bytes_max=SETTINGS.frame_header_bytes_max)  # values travel elsewhere
        self._outgoing: list[bytes | memoryview] = []
        self._outgoing_bytes = 0
        self._is_full = False  # the kernel takes nothing just now: the loop tells when it does again
        self._giving_up: asyncio.TimerHandle | None = None
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._last_request = 0

    def __repr__(self) -> str:
        return f"<Connection to {self.peer_role} at {self.peer_address}{' (closed)' if self.is_closed else ''}>"

    @property
    def backlog_bytes(self) -> int:
        """Bytes that were sent and that the kernel has not taken yet."""
        return self._outgoing_bytes

    # ------------------------------------------------------------------------------------------------------- sending

    def send(self, message: Message, request: int = 0) -> None:
        """Send a message, after what was sent before. On a closed connection nothing happens: `on_close` tells."""
        self.send_frame(encode_frame(message, request))

    def send_frame(self, pieces: list[Any]) -> None:
        """Send a message that is encoded already, because many receive it."""
        if self.is_closed:
            return
        if self._outgoing_bytes > SETTINGS.write_buffer_bytes_max:
            self._cut(f"it does not read: {size(self._outgoing_bytes)} wait for it")
            return
        if not self._outgoing:
            if TURN.waiting is None:
                self._loop.call_soon(self.flush)
            else:
                TURN.waiting.append(self)
        self._outgoing += pieces
        for piece in pieces:
            self._outgoing_bytes += len(piece)

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

    def flush(self) -> None:
        """Send what there is, as far as the kernel takes it."""
        if self._sock is None or self._is_full:
            return
        outgoing = self._outgoing
        try:
            while outgoing:
                if len(outgoing) == 1:
                    sent = self._sock.send(outgoing[0])
                else:
                    sent = self._sock.sendmsg(outgoing[:WRITE_PIECES_MAX])
                self._outgoing_bytes -= sent
                if not self._outgoing_bytes:
                    outgoing.clear()
                    return
                self._consume(sent)
        except (BlockingIOError, InterruptedError):
            self._is_full = True
            self._loop.add_writer(self._sock, self._write_rest)
        except OSError as error:
            self._lose(error)

    def _consume(self, sent: int) -> None:
        """So many bytes are gone; more is left."""
        outgoing, whole = self._outgoing, 0
        while sent >= len(outgoing[whole]):
            sent -= len(outgoing[whole])
            whole += 1
        del outgoing[:whole]
        if sent:
            outgoing[0] = memoryview(outgoing[0])[sent:]

    def _write_rest(self) -> None:
        assert self._sock is not None, "the loop does not watch it any more when it is closed"
        self._is_full = False
        self._loop.remove_writer(self._sock)
        self.flush()
        if self.is_closed and not self._outgoing:
            self._end()

    # ----------------------------------------------------------------------------------------------------- receiving

    def _read(self) -> None:
        if self._sock is None or self.is_closed:
            return
        try:
            data = self._sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if not data:
            self._finish(self._explained(None))
            return
        waiting = TURN.begin()
        try:
            for header, buffers in self._decoder.feed(data):
                message, request = decode(header, buffers)
                if type(message) in ANSWERS:
                    self._take_answer(message, request)
                else:
                    self.on_message(self, message, request)
                if self.is_closed:
                    break
        except ProtocolError as error:
            self._cut(f"it sent what nobody understands: {error}")
        except Exception as error:  # noqa: BLE001 - a callback's bug must cost no more than this connection
            self._cut(f"what it sent could not be handled ({type(error).__name__}: {error})", error)
        finally:
            TURN.end(waiting)

    def _take_answer(self, message: Any, request: int) -> None:
        future = self._asked.pop(request, None)
        if future is None or future.done():  # the answer came too late
            return
        if isinstance(message, Reply):
            future.set_result(message.result)
        else:
            future.set_exception(errors.by_name(message.kind, message.reason))

    # ------------------------------------------------------------------------------------------------ begin and end

    def begin(self, sock: socket.socket) -> None:
        """Carry messages over this authenticated non-blocking socket, which is closed here from now on."""
        self._sock = sock
        self._on_made(self)
        if not self.is_closed:
            self._loop.add_reader(sock, self._read)

    def close(self) -> None:
        """Send what was to be sent, then close. Nothing is received any more."""
        if not self.is_closed:
            self._finish("closed on this side")

    def detach(self) -> socket.socket | None:
        """The socket, which carries no messages any more and is the caller's; `on_close` is not called.

        None, and nothing has changed, if something is still to be sent, or came already that is no message.
        """
        sock = self._sock
        self.flush()
        if sock is None or self.is_closed or self._outgoing or self._decoder.pending_bytes:
            return None
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)
        self._sock, self.is_closed, self._reason = None, True, "it carries something else now"
        self.on_message, self.on_close = _ignore, _ignore
        return sock

    def _finish(self, reason: str) -> None:
        """Nothing is received any more, and nothing more will be sent than what waits, if the peer takes it."""
        self.is_closed, self._reason = True, reason
        if self._sock is None:
            return
        self._loop.remove_reader(self._sock)
        self.flush()
        if self._outgoing:
            self._giving_up = self._loop.call_later(SETTINGS.connection_close_s, self._end)
        else:
            self._loop.call_soon(self._end)

    def _lose(self, error: OSError) -> None:
        """The socket failed: nothing comes and goes any more."""
        self._stop(self._reason or self._explained(error))

    def _cut(self, reason: str, error: BaseException | None = None) -> None:
        """Close at once, because of what the peer did."""
        if self.is_closed:
            return
        logger.warning(
            "closed the connection of %s at %s: %s", self.peer_role, self.peer_address, reason, exc_info=error
        )
        self._stop(reason)

    def _stop(self, reason: str) -> None:
        """Drop what waits, and end in the next turn of the loop: whoever is just using this connection goes on."""
        self.is_closed, self._reason = True, reason
        self._outgoing.clear()
        self._outgoing_bytes = 0
        if self._sock is not None:
            self._loop.remove_reader(self._sock)
            self._loop.call_soon(self._end)

    def _explained(self, error: OSError | None) -> str:
        """Why the other side is gone."""
        words = explain(error, self.peer_address, self._silent_s) if error else "the peer closed the connection"
        if not self._decoder.pending_bytes:
            return words
        words += " in the middle of a message"
        logger.warning("%s at %s: %s", self.peer_role, self.peer_address, words)
        return words

    def _end(self) -> None:
        """Close the socket, and tell everybody who waits for something; once."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        if self._giving_up is not None:
            self._giving_up.cancel()
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)
        sock.close()
        self._outgoing.clear()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ConnectionFailed(self.peer_address, self._reason))
        try:
            self.on_close(self, self._reason)
        except Exception:
            logger.exception("after the connection of %s closed", self.peer_address)
        self.on_message, self.on_close = _ignore, _ignore  # they often refer back to this connection


# --------------------------------------------------------------------------------------- a socket becomes a connection


async def connect(
    address: str,
    *,
    role: str,
    secret: Secret,
    on_message: OnMessage = _ignore,
    on_close: OnClose = _ignore,
    unix: str = "",
    timeout_s: float | None = None,
    expects: str = "",
) -> Connection:
    """A control connection to whoever listens at `address`; over its Unix socket if that answers.

    `expects` is the role of who should answer; empty: whoever does.

    Raises `ConnectionFailed`, `AuthenticationFailed` or `VersionMismatch`.
    """
    timeout_s = SETTINGS.connect_timeout_s if timeout_s is None else timeout_s
    sock: socket.socket | None = None
    try:
        async with asyncio.timeout(timeout_s):
            sock = await _open_unix(unix) or await _open_tcp(address)
            means = Itself(meant_place(sock, address))
            if speaks_tls(sock, secret):
                sock = await encrypt(sock, secret, is_server=False, address=address)
            handshake = ClientHandshake(secret, role, "control", address, expects=expects, means=means)
            await shake_hands(sock, handshake)
            connection = Connection(handshake.peer_role, address, on_message, on_close)
            connection.begin(sock)
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, OSError):
            raise failed(error, address, timeout_s) from error
        raise
    return connection


async def _open_unix(path: str) -> socket.socket | None:
    """Connected to a Unix socket, if there is such a path on this machine and somebody listens there."""
    return await _open(socket.AF_UNIX, path, []) if path else None


async def _open_tcp(address: str) -> socket.socket:
    there, tunnel = addresses.split_tunnel(address)
    host, port = addresses.parse(there)
    if tunnel:
        sock = await _open_unix(tunnel)
        if sock is None:
            raise ConnectionFailed(address, NO_TUNNEL)
        return sock
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
        tune(sock, SETTINGS.silent_worker_s)  # who listens is a daemon
    except OSError as error:
        sock.close()
        failures.append(error)
        return None
    except BaseException:
        sock.close()
        raise
    return sock
