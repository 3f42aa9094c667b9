"""How a process reaches workers: directly where that goes, and through the center where it does not.

Of two that cannot reach one another both reach the center. Who wants a connection asks the center for it, the center
tells the worker over the connection that the worker keeps to it, and the worker dials back; from there on the center
passes bytes on between the two. What the two are to each other does not change by that: they open their connection as
if it were direct, with TLS and the handshake from end to end. Blocking, for code in threads.
"""

from __future__ import annotations

import math
import socket
import threading
import time

from distributed.address import split_tunnel
from distributed.config import SETTINGS
from distributed.connect import Meant, connect_blocking, connect_unix, failed, open_over, receive_exactly
from distributed.errors import ConnectionFailed, ProtocolError, WrongPeer, by_name
from distributed.wire import frames
from distributed.wire.codec import decode, encode_frame
from distributed.wire.messages import DialledBack, Message, Refusal, Reply, Splice
from distributed.wire.security import Secret

REQUEST = 1
REMEMBERED_MAX = 10_000  # workers that were reached through the center


class Roads:
    """The ways of one process to the workers of one center, for connections of any kind, by any thread.

    Who could not be reached directly is reached through the center from then on, and now and then tried again. Without
    a center all ways are direct.
    """

    def __init__(self, center: str, role: str, secret: Secret) -> None:
        self.center, self.role, self.secret = center, role, secret
        self._relayed_until: dict[str, float] = {}  # by incarnation, or address where that is not known
        self._lock = threading.Lock()
        self._is_tunnelled = bool(split_tunnel(center)[1])  # then this machine's network is another one

    def connect(
        self, address: str, *, kind: str, unix: str = "", incarnation: str = "", relayed: bool = False
    ) -> socket.socket:
        """An authenticated blocking socket to the worker at `address`; `relayed`: which nobody reaches directly.

        Whoever else answers at that address, of another network perhaps, is not taken for it: with an `incarnation`
        it is that worker or none. Raises `ConnectionFailed` or one of its kind.
        """
        meant = Meant(address, "" if self.role == "hand" else "worker", incarnation)
        who = incarnation or address
        if not self.center:
            return self._directly(meant, kind, unix, math.inf)
        if not (relayed or self._is_tunnelled or self.goes_through_center(who)):
            try:
                return self._directly(meant, kind, unix, SETTINGS.direct_connect_s)
            except ConnectionFailed as error:
                return self._after(error, meant, kind)
        if (sock := self._here(meant, kind, unix)) is not None:
            return sock
        return through_center(self.center, meant, kind=kind, role=self.role, secret=self.secret)

    def goes_through_center(self, who: str) -> bool:
        """Whether this worker, by its incarnation, is reached through the center for now."""
        return self._relayed_until.get(who, 0.0) > time.monotonic()

    def _directly(self, meant: Meant, kind: str, unix: str, tcp_timeout_s: float) -> socket.socket:
        return connect_blocking(
            meant.address,
            kind=kind,
            role=self.role,
            secret=self.secret,
            unix=unix,
            tcp_timeout_s=tcp_timeout_s,
            expects=meant.role,
            incarnation=meant.incarnation,
        )

    def _here(self, meant: Meant, kind: str, unix: str) -> socket.socket | None:
        """Over the worker's Unix socket: whoever reaches it from elsewhere, it may be on this machine."""
        sock = connect_unix(unix, SETTINGS.connect_timeout_s)
        if sock is None:
            return None
        try:
            return open_over(sock, meant, kind=kind, role=self.role, secret=self.secret)
        except ConnectionFailed:
            return None

    def _after(self, error: ConnectionFailed, meant: Meant, kind: str) -> socket.socket:
        """There is no direct way just now."""
        try:
            sock = through_center(self.center, meant, kind=kind, role=self.role, secret=self.secret)
        except ConnectionFailed as second:
            reason = f"{error.reason}; nor is it reached through the center {self.center}: {second.reason}"
            raise type(second if isinstance(second, WrongPeer) else error)(meant.address, reason) from error
        with self._lock:
            while len(self._relayed_until) >= REMEMBERED_MAX:
                del self._relayed_until[next(iter(self._relayed_until))]
            self._relayed_until[meant.incarnation or meant.address] = time.monotonic() + SETTINGS.direct_again_s
        return sock


def through_center(
    center: str, meant: Meant, *, kind: str, role: str, secret: Secret, timeout_s: float | None = None
) -> socket.socket:
    """An authenticated blocking socket to a worker, by way of the center, which cannot read it where there is TLS.

    `timeout_s` is for all of it; without one each step takes as long as the settings let it.
    """
    began = time.monotonic()
    asks = Splice(meant.address, meant.incarnation, for_values=kind == "bulk")
    sock, incarnation = _spliced(center, asks, role, secret, meant.address, timeout_s)
    meant = Meant(meant.address, "worker", incarnation)
    if timeout_s is None:
        return open_over(sock, meant, kind=kind, role=role, secret=secret)
    return open_over(sock, meant, kind=kind, role=role, secret=secret, timeout_s=timeout_s, began=began)


def dial_back(center: str, token: str, secret: Secret) -> socket.socket:
    """The worker's part: a plain blocking socket, at whose other end somebody begins to open a connection."""
    sock, _ = _spliced(center, DialledBack(token), "worker", secret, center)
    return sock


def below_tls(sock: socket.socket) -> socket.socket:
    """The plain socket under one that may be encrypted, when all that was said on it has been read.

    TLS reads no byte beyond the record that it needs. What follows is another conversation, with TLS of its own.
    """
    if not getattr(sock, "is_encrypted", False):
        return sock
    timeout_s = sock.gettimeout()
    plain = socket.socket(fileno=sock.detach())
    plain.settimeout(timeout_s)
    return plain


def _spliced(
    center: str, message: Message, role: str, secret: Secret, whom: str, timeout_s: float | None = None
) -> tuple[socket.socket, str]:
    """A connection to the center that leads elsewhere after one request; and the answer to that."""
    began = time.monotonic()
    sock = connect_blocking(center, kind="control", role=role, secret=secret, expects="center", timeout_s=timeout_s)
    if timeout_s is None:
        began = time.monotonic()
        timeout_s = SETTINGS.connect_timeout_s + SETTINGS.dial_back_s  # the center knows sooner that nobody dials back
    try:
        answer = _ask(sock, message, began + timeout_s)
        if isinstance(answer, Refusal):
            kind = type(by_name(answer.kind, answer.reason))
            raise (kind if issubclass(kind, ConnectionFailed) else ConnectionFailed)(whom, answer.reason)
        if not isinstance(answer, Reply):
            raise ConnectionFailed(center, f"it answered {message.operation} with {answer.operation}")
        return below_tls(sock), str(answer.result or "")
    except ProtocolError as error:
        sock.close()
        raise ConnectionFailed(center, f"it sent what nobody understands: {error}") from error
    except OSError as error:
        sock.close()
        raise failed(error, center, timeout_s) from error
    except BaseException:
        sock.close()
        raise


def _ask(sock: socket.socket, message: Message, deadline: float) -> Message:
    """One request and its answer; not a byte more is read."""
    sock.sendall(b"".join(encode_frame(message, REQUEST)))
    header, lengths = frames.read_prefix(lambda nbytes: receive_exactly(sock, nbytes, deadline))
    if lengths:
        raise ProtocolError(f"an answer to {message.operation} with buffers")
    return decode(header)[0]
