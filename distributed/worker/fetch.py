"""Values from other workers: linked where a peer's directory can be opened, else received into room reserved here.

Blocking work in a bounded number of threads, over bulk connections that are used again. The worker's state decided what
to ask of whom, and took account of the room; this module does it and tells how it went.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from distributed.bulk import BulkClient
from distributed.bulk import Fetched as Value
from distributed.config import SETTINGS
from distributed.errors import DistributedError
from distributed.wire.messages import Member
from distributed.wire.security import Secret
from distributed.worker.events import Fetch, Fetched, FetchFailed
from distributed.worker.files import NONCE, Files


class Fetcher:
    """Fetches from peers. `members` maps the addresses that are known to what is known about them."""

    def __init__(self, files: Files, secret: Secret, members: dict[str, Member]) -> None:
        self._files, self._secret, self._members = files, secret, members
        self._threads = ThreadPoolExecutor(SETTINGS.fetch_threads_max, thread_name_prefix="distributed-fetch")
        self._lock = threading.Lock()
        self._idle: dict[str, list[BulkClient]] = {}
        self._busy: set[BulkClient] = set()
        self._is_closed = False

    def submit(self, what: Fetch) -> Future[Fetched | FetchFailed]:
        """Begin to fetch; the future's result is the event."""
        return self._threads.submit(self._run, what, self._members.get(what.peer))

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

    def _run(self, what: Fetch, member: Member | None) -> Fetched | FetchFailed:
        client = self._take_client(what.peer, member)
        received: list[str] = []
        try:
            values = self._fetch(client, what, member, received)
        except BaseException as error:
            client.close()
            for path in received:
                if self._files.remove(path):
                    self._files.tidy()
            if not isinstance(error, (DistributedError, OSError, ValueError)):
                raise
            return FetchFailed(what.fetch, str(error))
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
            path = self._files.reserve(nbytes)
            received.append(path)
            return path

        linkable = member is None or _is_here(member)  # of a peer that just joined nothing may be known: try
        values = client.fetch(what.keys, what.attempts, linkable=linkable, receive_into=receive_into)
        for position, value in enumerate(values):
            if not value.path or value.path in received:
                continue
            own = self._files.link(value.path)
            if own is not None:
                received.append(own)
                value.path = own
            else:  # it is gone, or cannot be linked: its bytes will do
                again = client.fetch([value.key], [value.attempt], linkable=False, receive_into=receive_into)
                values[position] = again[0]
        return values

    def _take_client(self, peer: str, member: Member | None) -> BulkClient:
        with self._lock:
            idle = self._idle.get(peer)
            client = idle.pop() if idle else None
            if client is None:
                unix = member.unix if member is not None and _is_here(member) else ""
                client = BulkClient(peer, unix, self._secret, "worker")
            self._busy.add(client)
            if self._is_closed:
                client.close()
        return client

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
