"""Dialling back: somebody who cannot reach this worker asked the center for it, and the center told us.

In threads, for it may take long; what comes of it is a connection like any other, and goes to the listener.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from distributed.backlog import Backlog
from distributed.errors import DistributedError
from distributed.relay import dial_back
from distributed.wire.security import Secret

log = logging.getLogger("distributed.worker")


class Callbacks:
    """Dials back to the center; `take(socket, peer)` gets each connection before its first byte."""

    def __init__(self, center: str, secret: Secret, take: Callable[[socket.socket, str], None]) -> None:
        self._center, self._secret, self._take = center, secret, take
        self._loop = asyncio.get_running_loop()
        self._backlog = Backlog()
        self._is_closed = False

    def dial(self, token: str) -> None:
        """Begin; whoever waits at the center hears of a failure when their time is over."""
        if not self._is_closed:
            self._backlog.add(lambda: self._run(token))

    def _run(self, token: str) -> None:
        try:
            sock = dial_back(self._center, token, self._secret)
        except (DistributedError, OSError) as error:
            log.info("nobody is led here by the center who had asked for it: %s", error)  # they may have gone, too
            return
        try:
            self._loop.call_soon_threadsafe(self._hand_over, sock)
        except RuntimeError:  # the loop is closed
            sock.close()

    def _hand_over(self, sock: socket.socket) -> None:
        if self._is_closed:
            sock.close()
        else:
            self._take(sock, f"somebody via the center {self._center}")

    async def close(self) -> None:
        """Dial no more; what is under way ends by itself."""
        self._is_closed = True
        self._backlog.clear()
