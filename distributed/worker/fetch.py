"""Values from other workers: linked where a peer's directory can be opened, else received into room reserved here.

Blocking work in a bounded number of threads, over bulk connections that are used again. The worker's state decided what
to ask of whom, and took account of the room; this module does it and tells how it went.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

from distributed.bulk import BulkClient
from distributed.bulk import Fetched as Value
from distributed.config import SETTINGS
from distributed.errors import DistributedError, StoreFull, WrongPeer
from distributed.relay import Roads
from distributed.wire.messages import Member
from distributed.worker.events import Fetch, Fetched, FetchFailed
from distributed.worker.files import NONCE, Files

NEWS_WAIT_S = 1.0  # another worker answers than the center told us of: so long it may take to tell
NEWS_LOOK_S = 0.02


class NoRoomHere(StoreFull):
    """There is no room for a value that a peer gave: nothing is wrong with the peer."""


class Fetcher:
    """Fetches from peers. `members` maps the addresses that are known to what is known about them."""

    def __init__(self, files: Files, roads: Roads, members: dict[str, Member]) -> None:
        self._files, self._roads, self._members = files, roads, members
        self._threads = ThreadPoolExecutor(SETTINGS.fetch_threads_max, thread_name_prefix="distributed-fetch")
        self._lock = threading.Lock()
        self._idle: dict[str, list[BulkClient]] = {}
        self._busy: set[BulkClient] = set()
        self._is_closed = False

    def submit(self, what: Fetch) -> Future[Fetched | FetchFailed]:
        """Begin to fetch; the future's result is the event."""
        return self._threads.submit(self._run, what)

    def forget(self, peer: str) -> None:
        """A peer is gone: close what is open to it."""
        self.let_go(peer)
        with self._lock:
            clients = [client for client in self._busy if client.address == peer]
        for client in clients:
            client.close()

    def let_go(self, peer: str) -> None:
        """A peer may be gone: close what is idle, and let what is under way come to its end."""
        with self._lock:
            clients = self._idle.pop(peer, [])
        for client in clients:
            client.close()

    def close(self) -> None:
        """Break what is under way, and end all threads."""
        with self._lock:
            self._is_closed = True
            clients = [client for idle in self._idle.values() for client in idle] + list(self._busy)
            self._idle.clear()
        for client in clients:
            client.close()
        self._threads.shutdown(cancel_futures=True)

    # ------------------------------------------------------------------------------------------------ in a thread

    def _run(self, what: Fetch) -> Fetched | FetchFailed:
        member = self._members.get(what.peer)
        try:
            return self._try(what, member)
        except WrongPeer as error:  # started again, and who asked for this may have heard of it sooner than we do
            return self._try_successor(what, member, error)

    def _try_successor(self, what: Fetch, member: Member | None, error: WrongPeer) -> Fetched | FetchFailed:
        until_s = time.monotonic() + NEWS_WAIT_S
        while not self._is_closed and time.monotonic() < until_s:
            successor = self._members.get(what.peer)
            if successor is not None and successor is not member:
                try:
                    return self._try(what, successor)
                except WrongPeer as again:
                    return FetchFailed(what.fetch, str(again))
            time.sleep(NEWS_LOOK_S)
        return FetchFailed(what.fetch, str(error))

    def _try(self, what: Fetch, member: Member | None) -> Fetched | FetchFailed:
        """Raises `WrongPeer`; whatever else goes wrong is the event that it ends in."""
        client = self._take_client(what.peer, member)
        received: list[str] = []
        try:
            values = self._fetch(client, what, member, received)
        except BaseException as error:
            client.close()
            for path in received:
                if self._files.remove(path):
                    self._files.tidy()
            if isinstance(error, WrongPeer) or not isinstance(error, (DistributedError, OSError, ValueError)):
                raise
            return FetchFailed(what.fetch, str(error), isinstance(error, NoRoomHere))
        else:
            self._give_back(client)
        finally:
            with self._lock:
                self._busy.discard(client)
        return Fetched(
            what.fetch,
            [value.nbytes for value in values],
            [None if value.path else value.data for value in values],
            [value.path for value in values],
        )

    def _fetch(self, client: BulkClient, what: Fetch, member: Member | None, received: list[str]) -> list[Value]:
        def receive_into(nbytes: int) -> str:
            path = self._reserve(nbytes, what.on_disk)
            received.append(path)
            return path

        linkable = member is None or _is_here(member)  # of a peer that just joined nothing may be known: try
        values = client.fetch(what.keys, what.attempts, linkable=linkable, receive_into=receive_into)
        for position, value in enumerate(values):
            if not value.path or value.path in received:
                continue
            own = self._files.link(value.path, what.on_disk)
            if own is not None:
                received.append(own)
                value.path = own
            else:  # it is gone, or cannot be linked: its bytes will do
                again = client.fetch([value.key], [value.attempt], linkable=False, receive_into=receive_into)
                values[position] = again[0]
        return values

    def _reserve(self, nbytes: int, on_disk: bool) -> str:
        """Where a value is received: on disk also if the memory that the accounts promise is somebody else's."""
        try:
            return self._files.reserve(nbytes, on_disk)
        except StoreFull as error:
            if on_disk or not self._files.spill_directory:
                raise NoRoomHere(str(error)) from error
        try:
            return self._files.reserve(nbytes, on_disk=True)
        except StoreFull as error:
            raise NoRoomHere(str(error)) from error

    def _take_client(self, peer: str, member: Member | None) -> BulkClient:
        with self._lock:
            idle = self._idle.get(peer)
            client = idle.pop() if idle else None
            if client is not None and member is not None and client.incarnation not in ("", member.incarnation):
                client.close()  # to a predecessor
                client = None
            client = client or self._new_client(peer, member)
            self._busy.add(client)
            if self._is_closed:
                client.close()
        return client

    def _new_client(self, peer: str, member: Member | None) -> BulkClient:
        if member is None:
            return BulkClient(peer, "", self._roads)
        unix = member.unix if _is_here(member) else ""
        return BulkClient(peer, unix, self._roads, member.incarnation, member.relayed)

    def _give_back(self, client: BulkClient) -> None:
        with self._lock:
            if not self._is_closed:
                self._idle.setdefault(client.address, []).append(client)
                return
        client.close()


def _is_here(member: Member) -> bool:
    """Whether a peer's store is on this machine and ours to open: names may lie, a file that opens does not."""
    if not member.directory:
        return False
    try:
        os.close(os.open(os.path.join(member.directory, NONCE), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError:
        return False
    return True
