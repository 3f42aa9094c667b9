"""The daemons' event loop: uvloop's where it is installed, else asyncio's with a shorter way to who reads a socket.

asyncio goes through selector, list of events and queue of callbacks before it calls anybody: seven Python functions an
event, and each costs a process that was just woken a microsecond. Here the common turn, in which nothing but sockets
has to be looked at, calls readers straight from what the kernel said. All else is left to asyncio. This needs private
names of asyncio and selectors, so it is used only where they are known. Uvloop is about as fast with this; it is there
for users' coroutines, which gain from it, and for those who trust it.
"""

from __future__ import annotations

import asyncio
import select
import selectors
import sys
from time import monotonic
from typing import Any

from distributed.config import SETTINGS

KNOWN = sys.platform == "linux" and sys.version_info[:2] <= (3, 13)
WAIT_MAX_S = 3600.0
READABLE, WRITABLE = ~select.EPOLLOUT, ~select.EPOLLIN  # errors and hang-ups are both


class ShortLoop(asyncio.SelectorEventLoop):
    """An event loop for Linux."""

    _ready: Any
    _scheduled: list[Any]
    _stopping: bool
    _debug: bool

    def __init__(self) -> None:
        selector: Any = selectors.EpollSelector()
        self._poll, self._keys = selector._selector.poll, selector._fd_to_key
        super().__init__(selector)

    def _run_once(self) -> None:
        timeout_s = WAIT_MAX_S
        if self._scheduled:
            first = self._scheduled[0]
            timeout_s = 0.0 if first._cancelled else first._when - monotonic()
        if timeout_s <= 0 or self._ready or self._stopping or self._debug:
            super()._run_once()  # type: ignore[misc]
            return
        due = []
        for descriptor, events in self._poll(timeout_s if timeout_s < WAIT_MAX_S else WAIT_MAX_S, len(self._keys)):
            reader, writer = self._keys[descriptor].data
            if reader is not None and events & READABLE:
                due.append(reader)
            if writer is not None and events & WRITABLE:
                due.append(writer)
        for handle in due:  # after all of them are known: one may close what another one watched
            if not handle._cancelled:
                try:
                    handle._callback(*handle._args)  # in no context of its own: no reader here has any
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001 - as asyncio does
                    what = f"Exception in callback {handle._callback!r}"
                    self.call_exception_handler({"message": what, "exception": error, "handle": handle})


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop for a daemon."""
    return _uvloop() or (ShortLoop() if KNOWN else asyncio.new_event_loop())


def new_loop_for_tasks() -> asyncio.AbstractEventLoop:
    """An event loop for the coroutines of users, who may look at what it is."""
    return _uvloop() or asyncio.new_event_loop()


def _uvloop() -> asyncio.AbstractEventLoop | None:
    """One of uvloop's, where that is installed and not turned off."""
    if not SETTINGS.uvloop:
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop()
