"""Values between the user's process and the workers: mapped where that is possible, over bulk connections elsewhere.

Runs in the user's threads, blocking. Knows nothing of tasks beyond where their values are.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Iterator
from typing import Any

from distributed.bulk import BulkClient
from distributed.pieces import open_to_read
from distributed.pool.buffers import Buffers
from distributed.relay import Roads
from distributed.wire.messages import Member
from distributed.wire.values import Packed

IDLE_CONNECTIONS_MAX = 4  # to one worker; a thread that finds none makes one


class Transfer:
    """Bulk connections of one pool: kept when idle, one request at a time on each."""

    def __init__(self, client: str, roads: Roads) -> None:
        self.client, self._roads = client, roads
        self.bytes_sent = self.bytes_received = 0  # of values, over sockets
        self._idle: dict[str, list[BulkClient]] = {}  # by incarnation
        self._busy: dict[int, BulkClient] = {}  # by thread
        self._lock = threading.Lock()
        self._buffers = Buffers()

    def fetch(self, member: Member, keys: list[str], attempts: list[int], timeout_s: float | None = None) -> list[Any]:
        """The packed values as bytes or maps, in order; None where the worker does not have one."""
        with self._connection(member) as client, _time_limit(client, timeout_s):
            linkable = _is_reachable(member)
            values = self._receive(client, keys, attempts, linkable)
            gone = [position for position, value in enumerate(values) if value is None]
            if gone and linkable:  # moved to another file just now, or in a directory that is not for us
                again = self._receive(client, [keys[at] for at in gone], [attempts[at] for at in gone], False)
                for position, value in zip(gone, again, strict=True):
                    values[position] = value
        return values

    def put(self, member: Member, packed: dict[str, Packed]) -> None:
        """Store values on a worker; returns when they are stored there."""
        is_local = _is_reachable(member)
        with self._connection(member) as client:
            client.put(self.client, packed, member.directory if is_local else "")
        self.bytes_sent += 0 if is_local else sum(value.nbytes for value in packed.values())

    def abort(self) -> None:
        """Make what this thread transfers just now fail; for signal handlers, which run in the midst of it."""
        client = self._busy.get(threading.get_ident())
        if client is not None:
            client.abort()

    def forget(self, member: Member) -> None:
        """A worker is gone: its idle connections are of no use."""
        with self._lock:
            idle = self._idle.pop(member.incarnation, [])
        for client in idle:
            client.close()

    def close(self) -> None:
        """Close every idle connection, and give back what memory waits for values."""
        self._buffers.close()
        with self._lock:
            idle, self._idle = self._idle, {}
        for clients in idle.values():
            for client in clients:
                client.close()

    def _receive(self, client: BulkClient, keys: list[str], attempts: list[int], linkable: bool) -> list[Any]:
        values: list[Any] = []
        for found in client.fetch(keys, attempts, linkable=linkable, receive_into=self._buffers.take):
            if found.nbytes < 0:
                values.append(None)
            elif found.path:
                values.append(map_copy_on_write(found.path))
            else:
                self.bytes_received += found.nbytes
                values.append(found.data)
        return values

    def _client_of(self, member: Member) -> BulkClient:
        return BulkClient(member.address, member.unix, self._roads, member.incarnation, member.relayed)

    @contextlib.contextmanager
    def _connection(self, member: Member) -> Iterator[BulkClient]:
        """A connection that this thread has to itself; one that is left in the midst of something is closed."""
        with self._lock:
            idle = self._idle.get(member.incarnation)
            client = idle.pop() if idle else self._client_of(member)
        thread = threading.get_ident()
        self._busy[thread] = client
        try:
            yield client
        except BaseException:
            client.close()
            raise
        finally:
            del self._busy[thread]
        with self._lock:
            idle = self._idle.setdefault(member.incarnation, [])
            if len(idle) < IDLE_CONNECTIONS_MAX and not client.is_aborted:  # a signal may come when all is done
                idle.append(client)
                return
        client.close()


@contextlib.contextmanager
def _time_limit(client: BulkClient, timeout_s: float | None) -> Iterator[None]:
    if timeout_s is None:
        yield
        return
    timer = threading.Timer(timeout_s, client.abort)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # or it might abort what the connection is used for next


def _is_reachable(member: Member) -> bool:
    """Whether this process can open the files of a worker: they are on one machine, and of one user."""
    return bool(member.directory) and os.access(member.directory, os.R_OK | os.W_OK | os.X_OK)


def map_copy_on_write(path: str) -> mmap.mmap | None:
    """A worker's file as memory of our own: what is written there stays here. None if it can't be opened."""
    try:
        descriptor = open_to_read(path)
    except OSError:
        return None
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    finally:
        os.close(descriptor)
