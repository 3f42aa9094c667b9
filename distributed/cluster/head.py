"""The worker of a head node, whose machine computes too: an agent in a process of its own beside the center.

It joins as any worker does, and ends with the center. Of the two it leaves first: what only it holds is handed over
while the center is there to say to whom.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from distributed import address as addresses
from distributed import machine
from distributed.cluster.local import Daemon
from distributed.config import SETTINGS
from distributed.errors import StartFailed

log = logging.getLogger("distributed.head")


class HeadWorker:
    """A worker daemon of this process, for a center in it. Started, left and closed as other daemons are."""

    def __init__(self, center: Any, *options: str) -> None:
        self._center, self._options = center, options
        self._daemon: Daemon | None = None
        self._ended, self._asked = asyncio.Event(), asyncio.Event()  # to leave, or to end
        self.address = ""

    def arguments(self) -> list[str]:
        """How to start it: where the center listens for others they reach the worker, too, by this machine's name."""
        host, port = addresses.parse(self._center.address)
        place = ["--host", host]
        if host in addresses.EVERYWHERE:
            place += ["--announce", machine.name()]
        plain = ["--insecure-plaintext"] if self._center.insecure_plaintext else []
        center = addresses.unparse(addresses.EVERYWHERE.get(host, host), port)
        return ["worker", center, *place, *plain, *self._options]

    async def start(self) -> None:
        """Start it; afterwards `address` is known. What it complains of is on our stderr."""
        self._daemon = Daemon(*self.arguments(), is_shown=True)
        try:
            self.address = (await asyncio.to_thread(self._daemon.wait_ready))["address"]
        except StartFailed as error:
            raise StartFailed(f"the worker of this head node did not start: {error}") from error
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._daemon, self._on_end)
        log.info("the worker of this head node is %s, process %d", self.address, self._daemon.pid)

    def _on_end(self) -> None:
        """Its socket is at its end, and so is the process."""
        assert self._daemon is not None
        self._loop.remove_reader(self._daemon)
        self._ended.set()

    async def finished(self) -> None:
        """Wait until it has left as it was asked to. If it ends by itself the center goes on without it."""
        await self._ended.wait()
        if not self._asked.is_set():
            assert self._daemon is not None
            await asyncio.to_thread(self._daemon.wait_until_gone, time.monotonic())
            how = self._daemon.why_ended()
            log.warning(
                "the worker of this head node %s; the center goes on without it, and dworker %s starts another",
                how,
                self._center.address,
            )
        await self._asked.wait()

    def leave(self) -> None:
        """Have it hand over what only it holds, and end."""
        log.info("the worker of this head node leaves first, then the center ends; asked again, both end at once")
        self._asked.set()
        if self._daemon is not None:
            self._daemon.ask_to_leave()

    async def close(self) -> None:
        """End it at once, whatever it holds."""
        self._asked.set()
        if self._daemon is None:
            return
        if not self._ended.is_set() and self.address:
            self._loop.remove_reader(self._daemon)
        await asyncio.to_thread(self._daemon.stop, time.monotonic() + SETTINGS.close_timeout_s / 2)
