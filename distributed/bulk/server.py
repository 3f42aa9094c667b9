"""The holder's side of bulk connections: values out of a store, and into it, one thread a connection.

It sees the store through `StoreView`, and decides nothing about what is kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import threading
import time
from typing import Any, Protocol

from distributed.address import unparse
from distributed.bulk.encrypted import stream_over
from distributed.config import SETTINGS
from distributed.connect import explain
from distributed.errors import DistributedError, ProtocolError, StoreFull
from distributed.pieces import open_to_read
from distributed.wire.messages import GetData, Message, NeedRoom, Post, Refusal, Reply, Room, UpdateData, Values

logger = logging.getLogger("distributed.bulk")


class StoreView(Protocol):
    """What a bulk server needs of a store. Called from its threads."""

    def lookup(self, key: str) -> tuple[int, int, bytes | None, str] | None:
        """(attempt, nbytes, the value if it is in memory, else the path of its file), or None."""

    def reserve(self, nbytes: int) -> str:
        """The path of a new file, allocated. May block; raises `StoreFull`."""

    def put(self, owner: str, keys: list[str], nbytes: list[int], values: list[Any], contains: dict[int, list]) -> None:
        """Store values, each bytes or the path of a reserved file; returns when they are stored."""

    def post(self, message: Post, value: bytes, path: str) -> str:
        """Hand a message to members of a group that run here, as bytes or in a reserved file: what became of it."""

    def abandon(self, path: str) -> None:
        """This reserved file will not be put."""


class BulkServer:
    """Serves authenticated bulk connections, each in a thread of its own.

    When there are too many, the one that has been idle for longest is closed: its client connects
    again when it needs to.
    """

    def __init__(self, store: StoreView, connections_max: int = SETTINGS.bulk_connections_max) -> None:
        self._store, self._connections_max = store, connections_max
        self._lock = threading.Lock()
        self._serving: dict[_Service, threading.Thread] = {}
        self._is_closed = False

    def serve(self, sock: socket.socket, peer_role: str) -> None:
        """Take over a blocking socket; returns at once. This is a listener's `on_bulk`."""
        service = _Service(sock, self._store, f"{peer_role} at {_name_of_peer(sock)}")
        thread = threading.Thread(target=self._run, args=(service,), name="distributed-bulk", daemon=True)
        with self._lock:
            if self._is_closed or not self._make_room():
                if not self._is_closed:
                    logger.warning("refused a bulk connection of a %s: %d are busy", peer_role, len(self._serving))
                sock.close()
                return
            thread.start()
            self._serving[service] = thread

    def close(self, timeout_s: float = SETTINGS.connection_close_s) -> None:
        """Break all connections and wait a little for their threads; call it where blocking is allowed."""
        with self._lock:
            self._is_closed = True
            serving = dict(self._serving)
            for service in serving:
                service.stop()
        deadline = time.monotonic() + timeout_s
        for thread in serving.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _make_room(self) -> bool:
        """Whether one more may be served, after closing an idle one if need be."""
        living = [service for service in self._serving if not service.is_stopped]
        if len(living) < self._connections_max:
            return True
        idle = [service for service in living if service.idle_since is not None]
        if not idle:
            return False
        min(idle, key=lambda service: service.idle_since or 0.0).stop()
        return True

    def _run(self, service: _Service) -> None:
        try:
            service.run()
        finally:
            with self._lock:
                self._serving.pop(service, None)
                service.sock.close()


def _name_of_peer(sock: socket.socket) -> str:
    try:
        name = sock.getpeername()
    except OSError:  # gone already
        return "?"
    return unparse(*name[:2]) if isinstance(name, tuple) else "a Unix socket"


class _Service:
    """One connection: requests in, values out, until either side has enough."""

    def __init__(self, sock: socket.socket, store: StoreView, peer: str) -> None:
        self.sock, self._store, self._peer = sock, store, peer
        self.idle_since: float | None = time.monotonic()
        self.is_stopped = False
        self._stream = stream_over(sock)
        self._reserved: dict[str, int] = {}  # files promised to this writer, and their sizes
        self._why_full = ""

    def stop(self) -> None:
        self.is_stopped = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        try:
            while self._wait():
                self.idle_since = None
                self._answer(*self._stream.receive())
                self.idle_since = time.monotonic()
        except ProtocolError as error:
            logger.warning("closed the bulk connection of %s: it sent what nobody understands: %s", self._peer, error)
        except OSError as error:
            if not self.is_stopped:
                logger.info(
                    "the bulk connection of %s broke: %s", self._peer, explain(error, "", SETTINGS.client_lease_s)
                )
        except Exception:
            logger.exception("closed the bulk connection of %s: its request could not be handled", self._peer)
        finally:
            for path in self._reserved:
                self._store.abandon(path)

    def _wait(self) -> bool:
        """Wait, for as long as it takes, until the next request begins; False at the end of the stream."""
        while True:
            try:
                return bool(self.sock.recv(1, socket.MSG_PEEK))
            except (BlockingIOError, TimeoutError):  # of `Stream`: an idle connection may stay
                continue
            except ConnectionResetError:
                return False

    def _answer(self, message: Message, lengths: list[int]) -> None:
        if isinstance(message, UpdateData):
            self._update(message, lengths)
        elif isinstance(message, Post):
            self._post(message, lengths)
        elif lengths:
            raise ProtocolError(f"{message.operation} with buffers")
        elif isinstance(message, GetData):
            self._get(message)
        elif isinstance(message, NeedRoom):
            self._stream.send(self._reserve(message.nbytes))
        else:
            raise ProtocolError(f"{message.operation} does not belong on a bulk connection")

    # ---------------------------------------------------------------------------------------------------- reading

    def _get(self, message: GetData) -> None:
        if len(message.keys) != len(message.attempts) or len(message.keys) > SETTINGS.frame_buffers_max:
            raise ProtocolError(f"get_data with {len(message.keys)} keys and {len(message.attempts)} attempts")
        with contextlib.ExitStack() as files:
            found = [
                self._find(key, attempt, message.linkable, files)
                for key, attempt in zip(message.keys, message.attempts, strict=True)
            ]
            lengths = [value.nbytes for value in found if value.is_sent]
            columns = [value.nbytes for value in found], [v.path for v in found], [v.attempt for v in found]
            answer = Values(*columns, buffers=[])
            first = next((at for at, value in enumerate(found) if value.descriptor >= 0), len(found))
            self._stream.send(answer, lengths, [value.inline for value in found[:first] if value.inline is not None])
            for value in found[first:]:
                if value.inline is not None:
                    self._stream.send_pieces([value.inline])
                elif value.descriptor >= 0:
                    self._stream.send_file(value.descriptor, value.nbytes)

    def _find(self, key: str, attempt: int, linkable: bool, files: contextlib.ExitStack) -> _Found:
        """Where a value is; its file is open from now on, so that it can be sent even if it is released meanwhile."""
        for _ in range(3):  # a file may move to disk or back between look-up and opening
            entry = self._store.lookup(key)
            if entry is None or attempt not in (0, entry[0]):
                break
            held, nbytes, inline, path = entry
            if inline is not None:
                return _Found(nbytes, held, inline=inline)
            try:
                descriptor = open_to_read(path)
            except FileNotFoundError:
                continue
            files.callback(os.close, descriptor)
            if os.fstat(descriptor).st_size != nbytes:  # not ours: to map it would end the reader with SIGBUS
                logger.warning("%s is not whole any more: %s is lost", path, key)
                break
            return _Found(nbytes, held, path=path) if linkable else _Found(nbytes, held, descriptor=descriptor)
        return _Found(-1, 0)

    # ---------------------------------------------------------------------------------------------------- writing

    def _reserve(self, nbytes: int) -> Room:
        if nbytes < 1:
            raise ProtocolError(f"room for {nbytes} bytes")
        try:
            path = self._store.reserve(nbytes)
        except DistributedError as error:
            self._why_full = str(error)
            return Room("", self._why_full)
        self._reserved[path] = nbytes
        return Room(path, "")

    def _update(self, message: UpdateData, lengths: list[int]) -> None:
        self._check(message, lengths)
        used = set(filter(None, message.paths))
        refusal: DistributedError | None = None
        values = [path or self._take(nbytes, used) for nbytes, path in zip(message.nbytes, message.paths, strict=True)]
        try:
            if None in values:
                raise StoreFull(self._why_full)
            self._store.put(message.owner, message.keys, message.nbytes, values, message.contains)
        except DistributedError as error:
            refusal = error
        for path in used:
            del self._reserved[path]
            if refusal is not None:
                self._store.abandon(path)
        self._stream.send(Reply(None) if refusal is None else Refusal(type(refusal).__name__, str(refusal)))

    def _post(self, message: Post, lengths: list[int]) -> None:
        columns = {len(message.keys), len(message.attempts), len(message.numbers)}
        if len(columns) != 1 or not message.keys or message.nbytes < 1:
            raise ProtocolError("post with columns that do not fit together")
        if lengths != ([] if message.path else [message.nbytes]):
            raise ProtocolError("post with a buffer of another size than it says")
        if message.path and self._reserved.get(message.path) != message.nbytes:
            raise ProtocolError("post with a path that was not reserved for it")
        value = message.path or self._take(message.nbytes, set())
        if value is None:
            self._stream.send(Refusal("StoreFull", self._why_full))
            return
        path = value if isinstance(value, str) else ""
        try:
            outcome = self._store.post(message, b"" if isinstance(value, str) else value, path)
        except DistributedError as error:
            self._stream.send(Refusal(type(error).__name__, str(error)))
            return
        if path and outcome != "full":
            del self._reserved[path]
            if outcome == "over":
                self._store.abandon(path)
        self._stream.send(Reply([outcome, path if outcome == "full" else ""]))

    def _take(self, nbytes: int, used: set[str]) -> bytes | str | None:
        """Receive one value, into a file if it is large; None if there is no room for it.

        It is read all the same then, so that the writer hears why instead of seeing the connection break.
        """
        if nbytes <= SETTINGS.inline_bytes_max:
            return bytes(self._stream.read_exactly(nbytes))
        unused = (path for path, size in self._reserved.items() if size == nbytes and path not in used)
        path = next(unused, "") or self._reserve(nbytes).path  # the first: room that the writer could not open
        if not path:
            self._stream.skip(nbytes)
            return None
        used.add(path)
        self._stream.receive_into_file(path, nbytes)
        return path

    def _check(self, message: UpdateData, lengths: list[int]) -> None:
        columns = {len(message.keys), len(message.nbytes), len(message.paths)}
        if len(columns) != 1 or any(nbytes < 1 for nbytes in message.nbytes):
            raise ProtocolError("update_data with columns that do not fit together")
        raw = [nbytes for nbytes, path in zip(message.nbytes, message.paths, strict=True) if not path]
        if raw != lengths:
            raise ProtocolError("update_data with buffers of other sizes than it says")
        given = [(path, nbytes) for path, nbytes in zip(message.paths, message.nbytes, strict=True) if path]
        if any(self._reserved.get(path) != nbytes for path, nbytes in given) or len(dict(given)) != len(given):
            raise ProtocolError("update_data with a path that was not reserved for it")


@dataclasses.dataclass(slots=True)
class _Found:
    nbytes: int
    attempt: int
    inline: bytes | None = None
    descriptor: int = -1
    path: str = ""

    @property
    def is_sent(self) -> bool:
        return self.inline is not None or self.descriptor >= 0
