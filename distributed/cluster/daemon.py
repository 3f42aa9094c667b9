"""How a daemon's process lives and ends: signals, the parent's pipe, exit codes, one-line errors.

The child's side of :mod:`distributed.cluster.local`, and what the commands run in. It starts and closes what it is
given (`start`, `finished`, `close`), and knows nothing about it.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import logging
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from distributed.config import SETTINGS
from distributed.errors import DistributedError
from distributed.loop import new_loop
from distributed.offspring import set_death_signal

log = logging.getLogger("distributed.daemon")


DESCRIPTORS_MAX = 1 << 16
TIDY_INTERVAL_S = 1.0
QUIET_WORK_S = 0.02  # processor time: so little in one interval means that the work is over
TIDY_WORK_S = 0.05  # and less than this leaves too little behind to be worth the trouble
TIDY_PART_MAX = 0.05  # of the work: with a million keys in the store tidying takes long


class Stopped(Exception):
    """The daemon was asked to end before it had started."""


class Ending:
    """When a daemon ends: on SIGTERM, Ctrl-C, `Terminate`, or the end of its parent; and what is closed then.

    With `is_orderly` the first signal asks the daemon that was started last to leave, which the others are there for as
    long as it takes; at the second one all end at once.
    """

    def __init__(self, parent_fd: int | None, is_orderly: bool = False) -> None:
        self._is_orderly = is_orderly
        self._loop = asyncio.get_running_loop()
        self._asked = asyncio.Event()
        self._daemons: list[Any] = []
        self._has_started = False
        self._parent: socket.socket | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._on_signal)
        if parent_fd is not None:
            self._parent = socket.socket(fileno=parent_fd)
            self._parent.set_inheritable(False)
            self._parent.setblocking(False)
            self._loop.add_reader(self._parent, self._read_parent)

    def _on_signal(self) -> None:
        is_up = self._has_started and self._is_orderly
        self._is_orderly = False
        if not is_up:
            self._asked.set()
            return
        self._daemons[-1].leave()

    def _read_parent(self) -> None:
        assert self._parent is not None
        try:
            if self._parent.recv(1024):
                return
        except OSError:  # it is gone in an unfriendly way
            pass
        self._loop.remove_reader(self._parent)
        self._asked.set()

    async def start(self, daemon: Any) -> None:
        """Start a daemon; whatever happens, it will be closed."""
        self._has_started = False
        self._daemons.append(daemon)
        await self.unless_ended(daemon.start())
        self._has_started = True

    async def unless_ended(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it; `Stopped` if the end comes first."""
        doing, asked = asyncio.ensure_future(work), asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait({doing, asked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
        if not doing.done():
            doing.cancel()
            await asyncio.wait({doing})
            raise Stopped
        doing.result()

    def say(self, lines: list[str]) -> None:
        """Tell people, if there is no parent that waits."""
        if self._parent is None:
            print("\n".join(lines), flush=True)

    def say_ready(self, **ready: Any) -> None:
        """Tell the parent that waits, in JSON."""
        if self._parent is not None:
            self._parent.send(json.dumps(ready).encode() + b"\n")

    async def wait(self) -> None:
        waits = [asyncio.ensure_future(self._asked.wait())]
        waits += [asyncio.ensure_future(daemon.finished()) for daemon in self._daemons]
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        for wait in done:
            wait.result()  # a bug of ours is not a quiet end

    async def tidy(self) -> None:
        """Each time much work is over, give the memory that it took back to the machine.

        After a burst tens of megabytes are kept that nobody needs: by the C library, which keeps what was freed for
        later, and by Python's lists of free objects, which only a collection empties, and which pin whole arenas.
        """
        gc.collect()
        gc.freeze()  # what a daemon starts with stays for good: collections need not look at it
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        worked_s, due_s = time.process_time(), 0.0
        while True:
            await asyncio.sleep(TIDY_INTERVAL_S)
            before_s, worked_s = worked_s, time.process_time()
            if worked_s < due_s or worked_s - before_s > QUIET_WORK_S:
                continue
            gc.collect()
            if trim is not None:
                trim(0)
            tidied_s = time.process_time()
            due_s = tidied_s + max(TIDY_WORK_S, (tidied_s - worked_s) / TIDY_PART_MAX)
            worked_s = tidied_s

    async def close(self) -> None:
        """Close all daemons, the last one first, within bounds."""
        for daemon in reversed(self._daemons):
            try:
                await asyncio.wait_for(daemon.close(), SETTINGS.close_timeout_s)
            except TimeoutError:
                log.warning("%s did not close within %g s", type(daemon).__name__, SETTINGS.close_timeout_s)


def run_daemon(
    name: str,
    start: Callable[[Ending], Coroutine[Any, Any, Any]],
    parent_fd: int | None,
    verbose: bool,
    is_orderly: bool = False,
) -> int:
    """Run daemons until they are asked to end; the exit code."""

    async def run() -> None:
        ending = Ending(parent_fd, is_orderly)
        try:
            await start(ending)
            tidying = asyncio.ensure_future(ending.tidy())
            await ending.wait()
            tidying.cancel()
        except Stopped:
            pass
        finally:
            await ending.close()

    if parent_fd is not None:
        set_death_signal(signal.SIGCONT)  # the parent's end is to be noticed also by one that is stopped
    _log_to_streams(verbose)
    _allow_descriptors()
    return exit_code(name, run)


def _allow_descriptors() -> None:
    """Take as many descriptors as this process may have: each member is one, and the usual 1024 are soon gone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _log_to_streams(verbose: bool) -> None:
    """What happens is told on stdout, after the start lines; what needs somebody's attention on stderr."""
    story, trouble = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    story.addFilter(lambda record: record.levelno < logging.WARNING)
    trouble.setLevel(logging.WARNING)
    logging.basicConfig(
        format="%(asctime)s %(levelname)-7s %(message)s", level=logging.WARNING, handlers=[story, trouble]
    )
    logging.getLogger("distributed").setLevel(logging.DEBUG if verbose else logging.INFO)


def exit_code(name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> int:
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(run())
    except (DistributedError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before our own handler was in place
        return 0
    return 0
