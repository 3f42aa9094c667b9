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
    try:
        if _is_wanted_until_it_speaks(daemon):
            _say(**daemon.wait_ready())
            while _is_wanted_until_it_speaks(daemon):
                if daemon.wait_until_gone(time.monotonic()):
                    why = daemon.why_ended()
                    print(f"the worker there {why}", file=sys.stderr, flush=True)
                    return 0 if daemon.has_ended_well else 1
    finally:
        daemon.stop(time.monotonic() + SETTINGS.close_timeout_s)
    return 0


def _is_wanted_until_it_speaks(daemon: Daemon) -> bool:
    """Wait for the daemon's line, or its end, and do meanwhile what ssh's input says; False at the end of that."""
    while True:
        ready, _, _ = select.select([INPUT, daemon.fileno()], [], [])
        if INPUT in ready:
            try:
                said = os.read(INPUT, 4096)
            except OSError:
                said = b""
            if not said:
                return False
            if said == LEAVE:
                daemon.ask_to_leave()
        if daemon.fileno() in ready:
            return True


def _say(**what: Any) -> None:
    try:
        os.write(1, f"{MARK}{json.dumps(what)}\n".encode())
    except OSError:  # nobody listens any more
        pass
