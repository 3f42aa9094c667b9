"""The asking side of bulk connections: fetch values, put values. Blocking, for threads that may wait."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from distributed.bulk.encrypted import stream_over
from distributed.bulk.stream import Stream
from distributed.config import SETTINGS
from distributed.connect import explain, tune
from distributed.errors import ConnectionFailed, ProtocolError, StoreFull, by_name
from distributed.pieces import fill_file, open_to_write
from distributed.relay import Roads
from distributed.wire.messages import GetData, Message, NeedRoom, Post, Refusal, Reply, Room, UpdateData, Values
from distributed.wire.values import Packed

ReceiveInto = Callable[[int], "str | memoryview"]
POST_AGAIN_S, POST_AGAIN_S_MAX = 0.001, 0.05  # when those whom a message is for have too much to read: the first pause


def _chunks(items: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    from toolz import partition_all  # here: it imports much, and many a program never gets so far

    chunks: Iterator[tuple[Any, ...]] = partition_all(SETTINGS.keys_per_request_max, items)
    return chunks


def _outcome_of_post(reply: Reply) -> tuple[str, str]:
    is_right = isinstance(reply.result, list) and list(map(type, reply.result)) == [str, str]
    if not is_right or reply.result[0] not in ("taken", "full", "over"):
        raise ProtocolError("the answer to a post says nothing of what became of it")
    return reply.result[0], reply.result[1]


@dataclasses.dataclass(slots=True)
class Fetched:
    """One value as it came: in `data`, or in the file at `path`. `nbytes` is -1 when the holder does not have it."""

    key: str
    attempt: int
    nbytes: int
    data: Any = None
    path: str = ""


class BulkClient:
    """A bulk connection to one worker, opened when it is first needed and used again; one request at a time.

    It is to the worker of that `incarnation`, and to no other that is found at its address; '': to whoever is there.

    A connection that was closed while it was idle is opened again. Every failure of the connection is a
    `ConnectionFailed`; after any exception the next request begins with a new connection, and the worker takes back
    the room it had reserved for the old one.
    """

    def __init__(self, address: str, unix: str, roads: Roads, incarnation: str = "", relayed: bool = False) -> None:
        self._stream: Stream | None = None
        self.address, self.unix, self._roads = address, unix, roads
        self.incarnation, self._relayed = incarnation, relayed
        self._is_answered = self._went_round = False
        self.is_aborted = False  # and of no use any more

    def fetch(
        self, keys: list[str], attempts: list[int], *, linkable: bool = False, receive_into: ReceiveInto | None = None
    ) -> list[Fetched]:
        """The values of these keys, in this order.

        With `linkable` large values come as paths of the holder's files, to map or link. Else
        `receive_into(nbytes)` says where each goes: a path of an allocated file, or writable memory; without it they
        come as new bytearrays. Small values come as bytes. What was received into when this raises is the caller's.
        """
        fetched: list[Fetched] = []
        for chunk in _chunks(zip(keys, attempts, strict=True)):
            request = GetData([key for key, _ in chunk], [attempt for _, attempt in chunk], linkable)
            fetched += self._run(functools.partial(self._fetch, request, receive_into))
        return fetched

    def put(self, owner: str, values: dict[str, Packed], directory: str = "") -> None:
        """Store values; returns when they are stored.

        Large ones are written into files in `directory`, the worker's store, when it can be opened from here.
        """
        for chunk in _chunks(values.items()):
            self._run(functools.partial(self._put, owner, dict(chunk), directory))

    def post(self, message: Post, packed: Packed, directory: str, wait: Callable[[float], object]) -> bool:
        """Send a message to members of a group at this worker; False if one of them does not run there any more.

        A large one is written into a file in `directory`, the worker's store, when it can be opened from here. While
        they have too much to read, `wait(seconds)` is called again and again.
        """
        return bool(self._run(functools.partial(self._post, message, packed, directory, wait)))

    def abort(self) -> None:
        """Make a request under way, in this or another thread, fail at once. May be called by a signal handler."""
        self.is_aborted = True
        stream = self._stream
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; a request under way in another thread fails."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.sock.shutdown(socket.SHUT_RDWR)
            stream.sock.close()

    def drop(self) -> None:
        """Close it for this process only, as the end of its owner does: a forked child may go on using its copy."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.sock.close()

    def _run(self, operation: Callable[[], Any]) -> Any:
        """Run it on the open connection, or on a new one when that turns out to be closed before any answer came."""
        if self._went_round and not self._goes_round():  # it is time to try the direct way again
            self.close()
        is_reused, self._is_answered = self._stream is not None, False
        try:
            return self._attempt(operation)
        except ConnectionFailed:
            if not is_reused or self._is_answered or self.is_aborted:
                raise
        return self._attempt(operation)

    def _attempt(self, operation: Callable[[], Any]) -> Any:
        try:
            if self._stream is None:
                self._stream = stream_over(self._connect())
            return operation()
        except OSError as error:
            self.close()
            if error.filename is not None:  # not of the connection: the file to receive into
                raise
            raise ConnectionFailed(self.address, explain(error, self.address, SETTINGS.client_lease_s)) from error
        except BaseException:
            self.close()
            raise

    def _connect(self) -> socket.socket:
        sock = self._roads.connect(
            self.address, kind="bulk", unix=self.unix, incarnation=self.incarnation, relayed=self._relayed
        )
        self._went_round = self._goes_round()
        return sock

    def _goes_round(self) -> bool:
        """Whether a new connection would go through the center, although there may be a direct way."""
        return self._roads.goes_through_center(self.incarnation or self.address)

    def _connected(self) -> Stream:
        if self._stream is None:
            raise ConnectionResetError("closed on this side")
        return self._stream

    def _receive(self, expected: type[Message]) -> tuple[Any, list[int]]:
        message, lengths = self._connected().receive()
        self._is_answered = True
        if isinstance(message, Refusal):
            raise by_name(message.kind, message.reason)
        if not isinstance(message, expected):
            raise ProtocolError(f"{self.address} answered with {message.operation}")
        return message, lengths

    def _fetch(self, request: GetData, receive_into: ReceiveInto | None) -> list[Fetched]:
        self._connected().send(request)
        values, lengths = self._receive(Values)
        if not len(values.nbytes) == len(values.paths) == len(values.attempts) == len(request.keys):
            raise ProtocolError(f"{self.address} answered with another number of values")
        raw = [nbytes for nbytes, path in zip(values.nbytes, values.paths, strict=True) if nbytes >= 0 and not path]
        if raw != lengths:
            raise ProtocolError(f"{self.address} sent buffers of other sizes than it said")
        rows = zip(request.keys, values.attempts, values.nbytes, values.paths, strict=True)
        return [
            self._take(Fetched(key, attempt, nbytes, None, path), receive_into) for key, attempt, nbytes, path in rows
        ]

    def _take(self, fetched: Fetched, receive_into: ReceiveInto | None) -> Fetched:
        """Receive one value, if it comes as bytes, to where it belongs."""
        stream, nbytes = self._connected(), fetched.nbytes
        if nbytes < 0 or fetched.path:
            return fetched
        if nbytes <= SETTINGS.inline_bytes_max:
            fetched.data = bytes(stream.read_exactly(nbytes))
        elif receive_into is None:
            fetched.data = data = bytearray(nbytes)
            with memoryview(data) as view:
                stream.receive_into(view)
        else:
            target = receive_into(nbytes)
            if isinstance(target, str):
                stream.receive_into_file(target, nbytes)
                fetched.path = target
            else:
                stream.receive_into(target)
                fetched.data = target
        return fetched

    def _put(self, owner: str, values: dict[str, Packed], directory: str) -> None:
        paths = [self._write(packed, directory) for packed in values.values()]
        sizes = [packed.nbytes for packed in values.values()]
        contains = {at: packed.contains for at, packed in enumerate(values.values()) if packed.contains}
        raw = [packed for packed, path in zip(values.values(), paths, strict=True) if not path]
        message = UpdateData(owner, list(values), sizes, paths, contains, buffers=[])
        pieces = [piece for packed in raw for piece in packed.pieces()]
        sock = self._connected().sock
        if raw:  # the worker may have to spill before it reads on: that is no silence
            tune(sock, SETTINGS.client_lease_s)
        self._connected().send(message, [packed.nbytes for packed in raw], pieces)
        self._receive(Reply)
        if raw:
            tune(sock, SETTINGS.silent_worker_s)

    def _post(self, message: Post, packed: Packed, directory: str, wait: Callable[[float], object]) -> bool:
        message.nbytes, message.path = packed.nbytes, self._write(packed, directory)
        pause_s = POST_AGAIN_S
        while True:
            raw = [] if message.path else packed.pieces()
            if raw:
                tune(self._connected().sock, SETTINGS.client_lease_s)  # as in `_put`
            self._connected().send(message, [packed.nbytes] if raw else [], raw)
            reply, _ = self._receive(Reply)
            if raw:
                tune(self._connected().sock, SETTINGS.silent_worker_s)
            outcome, message.path = _outcome_of_post(reply)
            if outcome != "full":
                return outcome == "taken"
            wait(pause_s)
            pause_s = min(2 * pause_s, POST_AGAIN_S_MAX)

    def _write(self, packed: Packed, directory: str) -> str:
        """Write a large value into the worker's directory, and say where; '' if it has to travel instead."""
        if packed.nbytes <= SETTINGS.inline_bytes_max or not os.access(directory or "/nowhere", os.W_OK | os.X_OK):
            return ""
        self._connected().send(NeedRoom(packed.nbytes))
        room, _ = self._receive(Room)
        if not room.path:
            raise StoreFull(room.reason)
        if os.path.dirname(room.path) != directory:  # in its spill directory; we write nowhere else than we know
            return ""
        try:
            descriptor = open_to_write(room.path)
        except OSError:  # another machine with the same directory: the bytes travel, the worker writes them there
            return ""
        fill_file(descriptor, packed.pieces())
        return str(room.path)
