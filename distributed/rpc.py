"""Operations of a center or worker by hand: `rpc('host:port').who_has(keys=['x'])`.

Each message of the vocabulary that somebody may send is a method of the same name; its fields are keyword arguments.
Values go over a bulk connection of their own, and only here are they packed and unpacked. For people and scripts: one
request at a time, and nothing is kept beyond the connection.
"""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import functools
import itertools
import socket
import sys
import threading
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from distributed import address as addresses
from distributed import arguments
from distributed.bulk import BulkClient
from distributed.config import SETTINGS
from distributed.connect import Meant, connect_blocking, explain
from distributed.errors import ConnectionFailed, ProtocolError, by_name
from distributed.quantities import size
from distributed.relay import Roads, through_center
from distributed.wire import frames
from distributed.wire.codec import decode, encode_header
from distributed.wire.messages import REGISTRY, Message, Refusal, Reply
from distributed.wire.security import Secret, find_secret
from distributed.wire.values import pack, unpack

RECEIVE_BYTES = 1 << 16
ANSWERS = {"reply", "refusal"}
BULK = {"get_data", "update_data"}


def rpc(
    address: str, *, asynchronous: bool = False, timeout_s: float | None = None, secret: Secret | None = None
) -> Remote:
    """Call operations of the center or worker at `address` by hand.

    Parameters
    ----------
    address
        ``host:port``; or ``host:port?via=host:port`` of a worker that only the center reaches, behind ``via=``.
    asynchronous
        Whether calls return awaitables. Nothing is guessed from a running event loop: in a notebook, too, plain calls
        block and return their result.
    timeout_s
        How long an answer may take, beyond what the operation itself is asked to wait.
    secret
        Instead of the one in the user's secret file.

    Examples
    --------
    ::

        rpc('127.0.0.1:8787').ncores()
        rpc('127.0.0.1:8788').update_data(data={'x': 1})
        await rpc('127.0.0.1:8787', asynchronous=True).who_has(keys=['x'])
    """
    addresses.split_via(address)
    arguments.truth("asynchronous", asynchronous)
    timeout_s = None if timeout_s is None else arguments.positive("timeout_s", timeout_s)
    if secret is not None and not isinstance(secret, Secret):
        raise TypeError(f"secret must be a Secret, as find_secret(path) gives it, not a {type(secret).__name__}")
    return Remote(address, asynchronous, timeout_s, secret or find_secret())


class Remote:
    """What `rpc` returns: one method for each operation. Closed by `close`, by ``with``, or with the last reference."""

    def __init__(self, address: str, asynchronous: bool, timeout_s: float | None, secret: Secret) -> None:
        self._line = _Line(address, timeout_s, secret)
        self._asynchronous = asynchronous

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        if operation.startswith("_"):
            raise AttributeError(operation)
        if operation not in REGISTRY or operation in ANSWERS:
            raise AttributeError(_no_such(operation))
        call = getattr(self._line, operation) if operation in BULK else functools.partial(self._line.ask, operation)
        return functools.partial(asyncio.to_thread, call) if self._asynchronous else call

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *operations()]

    def __repr__(self) -> str:
        return f"<rpc to {self._line.address}>"

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._line.close()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Remote:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


def operations() -> list[str]:
    """The names of all operations that can be called.

    >>> 'who_has' in operations(), 'reply' in operations()
    (True, False)
    """
    return sorted(REGISTRY.keys() - ANSWERS)


def _no_such(operation: str) -> str:
    """Say that there is no such operation, and which one may have been meant.

    >>> _no_such('whohas')
    "there is no operation 'whohas'; did you mean 'who_has'?"
    """
    nearest = difflib.get_close_matches(operation, operations(), n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "distributed.rpc.operations() lists them"
    return f"there is no operation {operation!r}; {hint}"


class _Line:
    """The connections to one address, blocking: one for control, one for values; both opened when first needed."""

    def __init__(self, address: str, timeout_s: float | None, secret: Secret) -> None:
        self._sock: socket.socket | None = None
        self.address, self._connect_s, self._secret = address, timeout_s, secret
        self._timeout_s = SETTINGS.connect_timeout_s if timeout_s is None else timeout_s
        self._lock = threading.Lock()
        self._decoder = frames.Decoder()
        self._requests = itertools.count(1)
        self._there, self._via = addresses.split_via(address)
        self._bulk = BulkClient(self._there, "", Roads(self._via, "hand", secret), relayed=bool(self._via))

    def ask(self, operation: str, *args: Any, **fields: Any) -> Any:
        """Send one request and wait for its answer."""
        message = _build(operation, args, fields)
        patience_s = self._timeout_s + getattr(message, "wait_s", 0.0)
        with self._lock:
            try:
                answer = self._exchange(message, next(self._requests), patience_s)
            except OSError as error:
                self._hang_up()
                raise ConnectionFailed(self.address, explain(error, self.address, patience_s)) from error
            except BaseException:  # also an interrupt: the answer would be taken for the next one's
                self._hang_up()
                raise
        if isinstance(answer, Refusal):
            raise by_name(answer.kind, answer.reason)
        return answer.result

    def get_data(self, keys: Iterable[str], attempts: list[int] | None = None) -> dict[str, Any]:
        """The values of these keys that the worker holds; other keys are absent."""
        if isinstance(keys, str):
            raise TypeError(f"keys={arguments.shown(keys)} must be a list of keys")
        keys = [arguments.text("each of keys", key) for key in arguments.iterable("keys", keys, "a list of keys")]
        right = "a list with a whole number for each of keys"
        numbers = [0] * len(keys) if attempts is None else arguments.iterable("attempts", attempts, right)
        numbers = [arguments.count("each of attempts", number, 0) for number in numbers]
        if len(numbers) != len(keys):
            raise ValueError(f"attempts={arguments.shown(attempts)} must be {right}")
        with self._lock:
            fetched = self._bulk.fetch(keys, numbers)
        return {value.key: unpack(value.data) for value in fetched if value.nbytes >= 0}

    def update_data(self, data: dict[str, Any], owner: str = "") -> None:
        """Store values under these keys; they have no owner and live until `delete_data`."""
        if not isinstance(data, Mapping):
            raise TypeError(f"data={arguments.shown(data)} must be a dict of values by key")
        if not isinstance(owner, str):
            raise TypeError(f"owner={arguments.shown(owner)} must be a text: a client, or empty")
        packed = {arguments.text("each key of data", key): pack(value, f"data[{key!r}]") for key, value in data.items()}
        with self._lock:
            self._bulk.put(owner, packed)

    def close(self) -> None:
        with self._lock:
            self._hang_up()
            self._bulk.close()

    def __del__(self) -> None:
        self._hang_up()
        self._bulk.drop()

    def _hang_up(self) -> None:
        if self._sock is not None:
            self._sock.close()
        self._sock, self._decoder = None, frames.Decoder()

    def _exchange(self, message: Message, request: int, patience_s: float) -> Reply | Refusal:
        header, most = encode_header(message, request), SETTINGS.frame_header_bytes_max
        if len(header) > most:  # the peer would hang up
            raise ValueError(
                f"{message.operation}: {size(len(header))} are more than {size(most)}: ask for less at a time"
            )
        data = b"".join(frames.encode(header))
        if self._sock is not None and _was_closed(self._sock):
            self._hang_up()
        if self._sock is None:
            self._sock = self._connect()
        return self._send_and_receive(self._sock, data, request, patience_s)

    def _connect(self) -> socket.socket:
        if self._via:
            meant, secret, timeout_s = Meant(self._there), self._secret, self._connect_s
            return through_center(self._via, meant, kind="control", role="hand", secret=secret, timeout_s=timeout_s)
        return connect_blocking(
            self._there, kind="control", role="hand", secret=self._secret, timeout_s=self._connect_s
        )

    def _send_and_receive(self, sock: socket.socket, data: bytes, request: int, patience_s: float) -> Reply | Refusal:
        sock.settimeout(patience_s)
        sock.sendall(data)
        while True:
            received = sock.recv(RECEIVE_BYTES)
            if not received:
                raise ConnectionResetError("the peer closed the connection instead of answering")
            for header, buffers in self._decoder.feed(received):
                message, number = decode(header, buffers)
                if number == request and isinstance(message, (Reply, Refusal)):
                    return message


def _was_closed(sock: socket.socket) -> bool:
    """Whether the peer closed a connection while it was idle; a request sent on it would be lost."""
    sock.settimeout(None)
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _build(operation: str, args: tuple[Any, ...], fields: dict[str, Any]) -> Message:
    """The message, checked as the peer would check it, so that a mistake in a call is an error of the call."""
    try:
        message = REGISTRY[operation](*args, **fields)
    except TypeError:
        wanted = ", ".join(field.name for field in dataclasses.fields(REGISTRY[operation])) or "no arguments"
        raise TypeError(f"{operation}() takes {wanted}; see docs/protocol for what they are") from None
    try:
        decode(encode_header(message, 1))
    except ProtocolError as error:
        raise TypeError(str(error) if operation in str(error) else f"{operation}: {error}") from error
    return message


class _CallableModule(types.ModuleType):
    """`distributed.rpc` is the function; once this module is imported it would be the module: so that is one, too."""

    def __call__(self, address: str, **options: Any) -> Remote:
        return rpc(address, **options)


sys.modules[__name__].__class__ = _CallableModule
