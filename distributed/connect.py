"""A connection for code that blocks: an address in, an authenticated socket out, or an error that a person understands.

Also what every socket of this package has in common, whoever opens it: its options, and system errors in plain words.
It knows nothing of frames and messages.
"""

from __future__ import annotations

import math
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from distributed import address as addresses
from distributed.config import SETTINGS
from distributed.errors import AuthenticationFailed, ConnectionFailed
from distributed.wire.security import ClientHandshake, Itself, Secret

if TYPE_CHECKING:
    from distributed.wire.credential import Credential

KEEPALIVE_PROBES = 10
NO_TUNNEL = "nobody listens at that Unix socket: has the connection of ssh ended?"
UNANSWERED = "is that the right host and port, does a firewall let it through, is the daemon there stopped?"
UNIX_PATH_BYTES_MAX = 107  # of the kernel's structure, without its final zero


def connect_blocking(
    address: str,
    *,
    kind: str,
    role: str,
    secret: Secret,
    unix: str = "",
    timeout_s: float | None = None,
    tcp_timeout_s: float = math.inf,
    expects: str = "",
    incarnation: str = "",
) -> socket.socket:
    """An authenticated blocking socket of this kind ('control' or 'bulk'), without a timeout.

    Over the Unix socket `unix` if it answers, else over TCP. `expects` is the role of who should answer, and
    `incarnation` the worker's; empty: whoever does. `tcp_timeout_s` is how long the machine there may take to answer;
    whoever listens on it has all of `timeout_s`. Raises `ConnectionFailed` or one of its kind.
    """
    timeout_s = SETTINGS.connect_timeout_s if timeout_s is None else timeout_s
    began = time.monotonic()
    sock = connect_unix(unix, timeout_s) or _connect_tcp(address, began, min(timeout_s, tcp_timeout_s))
    try:
        who = Meant(address, expects, incarnation, meant_place(sock, address))
    except OSError as error:  # it has been reset already
        sock.close()
        raise failed(error, address, timeout_s) from error
    return open_over(sock, who, kind=kind, role=role, secret=secret, timeout_s=timeout_s, began=began)


class Meant(NamedTuple):
    """Who should answer, as far as that is known; what is empty is not compared. `address` is for people."""

    address: str
    role: str = ""
    incarnation: str = ""
    place: str = ""


def open_over(
    sock: socket.socket,
    meant: Meant,
    *,
    kind: str,
    role: str,
    secret: Secret,
    timeout_s: float = SETTINGS.connect_timeout_s,
    began: float | None = None,
) -> socket.socket:
    """The authenticated socket that becomes of a connected one, which is closed if it comes to nothing."""
    deadline = (time.monotonic() if began is None else began) + timeout_s
    try:
        means = Itself(meant.place, meant.incarnation)
        if secret.credential is not None and not is_local(sock):
            sock = _encrypt(sock, secret.credential, deadline)
        handshake = ClientHandshake(secret, role, kind, meant.address, expects=meant.role, means=means)
        _authenticate(sock, handshake, deadline)
        sock.settimeout(None)
    except OSError as error:
        sock.close()
        raise failed(error, meant.address, timeout_s) from error
    except BaseException:
        sock.close()
        raise
    return sock


def failed(error: OSError, address: str, timeout_s: float) -> ConnectionFailed:
    """That this went wrong, as an error that a person understands."""
    kind = AuthenticationFailed if getattr(error, "is_refusal", False) else ConnectionFailed
    return kind(address, explain(error, address, timeout_s))


def _encrypt(sock: socket.socket, credential: Credential, deadline: float) -> socket.socket:
    from distributed import tls  # here: who has no credential need not load ssl

    encrypted = tls.wrapped(sock, credential, is_server=False)
    try:
        encrypted.settimeout(_left(deadline))
        tls.shake_hands(encrypted, credential)
    except BaseException:
        encrypted.close()
        raise
    return encrypted


def connect_unix(path: str, timeout_s: float) -> socket.socket | None:
    """Connected to a Unix socket, if there is such a path on this machine and somebody listens there."""
    if not path:
        return None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout_s)
    try:
        sock.connect(path)
    except OSError:  # left over, or not ours: the address is what counts
        sock.close()
        return None
    return sock


def _connect_tcp(address: str, began: float, timeout_s: float) -> socket.socket:
    there, tunnel = addresses.split_tunnel(address)
    host, port = addresses.parse(there)
    if tunnel:
        return _connect_tunnel(tunnel, address, timeout_s)
    deadline = began + timeout_s
    last: OSError | None = None
    try:
        for family, type_, protocol, _, target in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            sock = socket.socket(family, type_, protocol)
            try:
                sock.settimeout(_left(deadline))
                sock.connect(target)
                tune(sock, SETTINGS.silent_worker_s)  # who listens is a daemon
                return sock
            except OSError as error:
                sock.close()
                last = error
            except BaseException:
                sock.close()
                raise
    except OSError as error:
        last = error
    assert last is not None, "a name that resolves has an address"
    raise ConnectionFailed(address, explain(last, address, timeout_s)) from last


def _connect_tunnel(path: str, address: str, timeout_s: float) -> socket.socket:
    sock = connect_unix(path, timeout_s)
    if sock is None:
        raise ConnectionFailed(address, NO_TUNNEL)
    return sock


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _authenticate(sock: socket.socket, handshake: ClientHandshake, deadline: float) -> None:
    sock.sendall(handshake.start())
    while handshake.wanted:
        sock.settimeout(_left(deadline))
        answer = handshake.receive(receive_exactly(sock, handshake.wanted, deadline))
        if answer:
            sock.sendall(answer)
    if handshake.failure is not None:
        raise handshake.failure


def receive_exactly(sock: socket.socket, nbytes: int, deadline: float) -> bytes:
    """So many bytes, and none more."""
    data = b""
    while len(data) < nbytes:
        sock.settimeout(_left(deadline))
        part = sock.recv(nbytes - len(data))
        if not part:
            raise ConnectionResetError("it closed the connection before the handshake was over")
        data += part
    return data


def place_of(name: Any) -> str:
    """Where a connection ends, by the kernel's name of that end: of a Unix socket nobody has to be told.

    >>> place_of(('::ffff:127.0.0.1', 8787, 0, 0)), place_of('/dev/shm/socket')
    ('127.0.0.1:8787', '')
    """
    if not isinstance(name, tuple):
        return ""
    return addresses.unparse(name[0].removeprefix("::ffff:").partition("%")[0], name[1])


def is_local(sock: socket.socket) -> bool:
    """Whether both ends are on this machine, where the kernel keeps others out: a Unix socket that is no tunnel.

    At the other end of a tunnel is a TCP port, where TLS is spoken if there is the credential.
    """
    return sock.family == socket.AF_UNIX and not _is_tunnelled(sock)


def meant_place(sock: socket.socket, address: str) -> str:
    """Where whoever answers to an address is, as its machine sees it: beyond a tunnel the kernel knows nothing."""
    return addresses.split_tunnel(address)[0] if _is_tunnelled(sock) else place_of(sock.getpeername())


def _is_tunnelled(sock: socket.socket) -> bool:
    try:
        name = sock.getpeername()
    except OSError:  # it is not connected any more
        return False
    return isinstance(name, str) and addresses.is_tunnel(name)


def own_place(name: Any) -> str:
    """The same, as who listens says it of itself: on loopback only (see `Itself`).

    >>> own_place(('127.0.0.1', 8787)), own_place(('10.0.0.7', 8787))
    ('127.0.0.1:8787', '')
    """
    place = place_of(name)
    return place if place and addresses.is_loopback(addresses.parse(place)[0]) else ""


def tune(sock: socket.socket, silent_s: float) -> None:
    """The options of every TCP socket here: nothing waits for more to send, and the kernel notices dead peers.

    A peer is dead when its machine has been silent for `silent_s`. One that is stopped, or in a debugger, is not: its
    kernel answers. But a peer that has read nothing for so long, while something waits for it, is given up, too.
    """
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", silent_s / 2),
        ("TCP_KEEPINTVL", silent_s / 2 / KEEPALIVE_PROBES),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", silent_s * 1000),
    ):
        if hasattr(socket, name):  # macOS lacks some
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), max(1, int(value)))


def silence_of(role: str) -> float:
    """How long the machine of a peer may be silent: a worker's is expected to be there, a client's may go to sleep.

    >>> silence_of('worker') < silence_of('pool')
    True
    """
    return SETTINGS.silent_worker_s if role == "worker" else SETTINGS.client_lease_s


def explain(error: OSError, address: str, timeout_s: float) -> str:
    """A system error in words that tell a person what to look at.

    >>> explain(ConnectionRefusedError(), 'alice:8787', 10)
    'nobody listens there (connection refused): is the daemon running?'
    """
    if isinstance(error, socket.gaierror):
        return f"unknown host {addresses.parse(address)[0]!r} ({error.strerror})"
    if isinstance(error, (TimeoutError, BlockingIOError)):  # the latter from SO_RCVTIMEO and SO_SNDTIMEO
        return f"no answer within {timeout_s:g} s: {UNANSWERED}"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there (connection refused): is the daemon running?"
    return error.strerror or str(error) or type(error).__name__
