"""The far end of an ssh connection: a worker whose only way to its center is a socket that sshd made for it.

What it needs came over ssh's input, the secret included, which is kept in memory. The worker is a child process that
ends when ssh's input does: the connection broke, or whoever wanted the worker is gone, or says so. Nothing stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import time
from typing import Any

from distributed import address as addresses
from distributed import stores
from distributed.cluster import keys
from distributed.cluster.local import Daemon
from distributed.cluster.preamble import LEAVE, MARK
from distributed.config import SETTINGS
from distributed.errors import DistributedError
from distributed.offspring import set_name

INPUT = 0
SAID_BYTES_MAX = 4096  # of what is said to the far end in one piece, or without the end of a line


def run(plan: dict[str, Any]) -> None:
    """Run a worker until nobody wants it any more; does not return."""
    set_name("ssh worker")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    base = os.path.dirname(plan["socket"])
    stores.sweep(base)  # what was left by one that was killed
    directory, lock = stores.make_store(base)
    try:
        code = _run(plan, directory)
    except (DistributedError, OSError) as error:
        _say(error=str(error))
        code = 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)
    sys.exit(code)


def _run(plan: dict[str, Any], directory: str) -> int:
    tunnel = os.path.join(directory, f"center{addresses.TUNNEL_SUFFIX}")
    os.rename(plan["socket"], tunnel)  # from where anybody may look to where only this user may
    keys.keep(plan["secret"], plan["credential"])
    with contextlib.suppress(OSError):  # there is none: it stays where sshd has put it
        os.chdir(os.path.expanduser("~"))
    daemon = Daemon("worker", f"{plan['center']}?tunnel={tunnel}", *plan["options"])
    said = Said()
    try:
        if _is_wanted_until_it_speaks(daemon, said):
            _say(**daemon.wait_ready())
            while _is_wanted_until_it_speaks(daemon, said):
                if daemon.wait_until_gone(time.monotonic()):
                    why = daemon.why_ended()
                    print(f"the worker there {why}", file=sys.stderr, flush=True)
                    return 0 if daemon.has_ended_well else 1
    finally:
        daemon.stop(time.monotonic() + SETTINGS.close_timeout_s)
    return 0


class Said:
    """What came over ssh's input, in whole lines, however it was cut into pieces on the way.

    >>> said = Said()
    >>> said.lines(b'lea'), said.lines(b've' + bytes([10]) + LEAVE + b'x'), said.lines(b'y')
    ([], [b'leave', b'leave'], [])
    """

    def __init__(self) -> None:
        self._rest = b""

    def lines(self, piece: bytes) -> list[bytes]:
        """What this piece has completed, without the ends of the lines."""
        *whole, rest = (self._rest + piece).split(b"\n")
        self._rest = rest[-SAID_BYTES_MAX:]
        return whole


def _is_wanted_until_it_speaks(daemon: Daemon, said: Said) -> bool:
    """Wait for the daemon's line, or its end, and do meanwhile what ssh's input says; False at the end of that."""
    while True:
        ready, _, _ = select.select([INPUT, daemon.fileno()], [], [])
        if INPUT in ready:
            try:
                piece = os.read(INPUT, SAID_BYTES_MAX)
            except OSError:
                piece = b""
            if not piece:
                return False
            if LEAVE.strip() in said.lines(piece):
                daemon.ask_to_leave()
        if daemon.fileno() in ready:
            return True


def _say(**what: Any) -> None:
    try:
        os.write(1, f"{MARK}{json.dumps(what)}\n".encode())
    except OSError:  # nobody listens any more
        pass
