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
from distributed.wire.values import Packed


class Transfer:
    """Bulk connections of one pool: kept when idle, one request at a time on each."""

    def __init__(self, client: str, secret: Any) -> None:
        self.client, self.secret = client, secret
        self._idle: dict[str, list[BulkClient]] = {}
        self._lock = threading.Lock()
        self._remote: set[str] = set()  # incarnations whose files this process can't open
        self.bytes_moved = 0

    def fetch(self, member: Member, keys: list[str], attempts: list[int]) -> list[Any]:
        """The packed values as bytes or maps, in order; None where the worker does not have one."""
        client = self._borrow(member)
        try:
            linkable = member.incarnation not in self._remote
            values = [
                self._open(found) for found in client.fetch(keys, attempts, linkable=linkable, receive_into=_anonymous)
            ]
            lost = [position for position, value in enumerate(values) if value is _UNREACHABLE]
            if lost:  # not the same machine after all, or spilled just now
                again = client.fetch(
                    [keys[position] for position in lost],
                    [attempts[position] for position in lost],
                    linkable=False,
                    receive_into=_anonymous,
                )
                for position, found in zip(lost, again, strict=True):
                    values[position] = self._open(found)
        except BaseException:
            client.close()  # an interrupt or an error leaves the connection in the middle of something
            raise
        self._give_back(member, client)
        return values

    def put(self, member: Member, packed: dict[str, Packed]) -> None:
        """Store values on a worker; returns when they are stored there."""
        client = self._borrow(member)
        try:
            client.put(self.client, packed, member.directory)
        except BaseException:
            client.close()
            raise
        self._give_back(member, client)

    def close(self) -> None:
        """Close every idle connection."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for clients in idle.values():
            for client in clients:
                client.close()

    def _open(self, found: Any) -> Any:
        if found is None or found.nbytes < 0:
            return None
        if found.path:
            return map_copy_on_write(found.path)
        return found.data

    def _borrow(self, member: Member) -> BulkClient:
        with self._lock:
            idle = self._idle.get(member.incarnation)
            if idle:
                return idle.pop()
        return BulkClient(member.address, member.unix, self.secret, "pool")

    def _give_back(self, member: Member, client: BulkClient) -> None:
        with self._lock:
            self._idle.setdefault(member.incarnation, []).append(client)


class _Unreachable:
    """Marks a file that this process cannot open."""


_UNREACHABLE = _Unreachable()


def map_copy_on_write(path: str) -> Any:
    """A worker's file as memory of our own: what is written there stays here."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return _UNREACHABLE
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    finally:
        os.close(descriptor)


def _anonymous(nbytes: int) -> memoryview:
    """Memory for a value that comes over a socket."""
    return memoryview(mmap.mmap(-1, max(nbytes, 1)))[:nbytes]
