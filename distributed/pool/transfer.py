"""Values between the user's process and the workers: mapped where that is possible, over bulk connections elsewhere.

Runs in the user's threads, blocking. Knows nothing of tasks beyond where their values are.
"""

from __future__ import annotations

import mmap
import os
import threading
from typing import Any

from distributed.bulk import BulkClient
from distributed.wire.messages import Member
from distributed.wire.security import Secret
from distributed.wire.values import Packed


class Transfer:
    """Bulk connections of one pool: kept when idle, one request at a time on each."""

    def __init__(self, client: str, secret: Secret) -> None:
        self.client, self.secret = client, secret
        self.bytes_sent = self.bytes_received = 0  # of values, over sockets
        self._idle: dict[str, list[BulkClient]] = {}  # by incarnation
        self._lock = threading.Lock()

    def fetch(self, member: Member, keys: list[str], attempts: list[int]) -> list[Any]:
        """The packed values as bytes or maps, in order; None where the worker does not have one."""
        client = self._borrow(member)
        try:
            linkable = _is_reachable(member)
            values = self._receive(client, keys, attempts, linkable)
            gone = [position for position, value in enumerate(values) if value is None]
            if gone and linkable:  # moved to another file just now, or in a directory that is not for us
                again = self._receive(client, [keys[at] for at in gone], [attempts[at] for at in gone], False)
                for position, value in zip(gone, again, strict=True):
                    values[position] = value
        except BaseException:
            client.close()  # an interrupt or an error leaves the connection in the middle of something
            raise
        self._give_back(member, client)
        return values

    def put(self, member: Member, packed: dict[str, Packed]) -> None:
        """Store values on a worker; returns when they are stored there."""
        client = self._borrow(member)
        is_local = _is_reachable(member)
        try:
            client.put(self.client, packed, member.directory if is_local else "")
        except BaseException:
            client.close()
            raise
        self.bytes_sent += 0 if is_local else sum(value.nbytes for value in packed.values())
        self._give_back(member, client)

    def close(self) -> None:
        """Close every idle connection."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for clients in idle.values():
            for client in clients:
                client.close()

    def _receive(self, client: BulkClient, keys: list[str], attempts: list[int], linkable: bool) -> list[Any]:
        values: list[Any] = []
        for found in client.fetch(keys, attempts, linkable=linkable, receive_into=_anonymous):
            if found.nbytes < 0:
                values.append(None)
            elif found.path:
                values.append(map_copy_on_write(found.path))
            else:
                self.bytes_received += found.nbytes
                values.append(found.data)
        return values

    def _borrow(self, member: Member) -> BulkClient:
        with self._lock:
            idle = self._idle.get(member.incarnation)
            if idle:
                return idle.pop()
        return BulkClient(member.address, member.unix, self.secret, "pool")

    def _give_back(self, member: Member, client: BulkClient) -> None:
        with self._lock:
            self._idle.setdefault(member.incarnation, []).append(client)


def _is_reachable(member: Member) -> bool:
    """Whether this process can open the files of a worker: they are on one machine, and of one user."""
    return bool(member.directory) and os.access(member.directory, os.R_OK | os.W_OK | os.X_OK)


def map_copy_on_write(path: str) -> mmap.mmap | None:
    """A worker's file as memory of our own: what is written there stays here. None if it can't be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    finally:
        os.close(descriptor)


def _anonymous(nbytes: int) -> memoryview:
    """Memory for a value that comes over a socket."""
    return memoryview(mmap.mmap(-1, nbytes))
