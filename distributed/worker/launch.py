"""Starting the process that executors are forked from; a daemon's command starts it before it imports anything else.

That process takes as long to come up as the agent itself, so the two come up side by side: `begin` starts it, and the
first `launch` with the same environment takes it. It waits for that: it was told neither what to remove nor whom to
start, and it ends when this process does (end of file on its socket). Why nothing here imports an event loop.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from distributed.wire.security import Secret

MARK = "DISTRIBUTED_FORK_SERVER"  # in the environment of everything that an executor starts
LIBRARIES = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB")  # each would start a thread per core, in every executor


class Launched(NamedTuple):
    """A fork server: our end of its socket, the process, a descriptor that tells of its end, and its mark."""

    control: socket.socket
    process: subprocess.Popen[bytes]
    exit_descriptor: int
    mark: str


_begun: list[tuple[dict[str, str], Launched]] = []  # one at most, with its environment


def executor_environment(secret: Secret) -> dict[str, str]:
    """What executors of a cluster have in their environment beside the agent's own."""
    return {"PYTHONHASHSEED": str(secret.hash_seed())}


def begin(environment: Mapping[str, str]) -> None:
    """Start one before it is wanted; `environment` is added to this process's own."""
    _begun[:] = [(_complete(environment), _start(_complete(environment)))]


def launch(environment: Mapping[str, str]) -> Launched:
    """A fork server that has this environment beside this process's own: the one that was begun, or a new one."""
    complete = _complete(environment)
    while _begun:
        begun, launched = _begun.pop()
        if begun == complete:
            return launched
        launched.control.close()
        os.close(launched.exit_descriptor)
        launched.process.kill()  # it started nothing
        launched.process.wait()
    return _start(complete)


def _complete(environment: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {f"{name}_NUM_THREADS": "1" for name in LIBRARIES} | os.environ | dict(environment) | {"PYTHONPATH": path}


def _start(environment: dict[str, str]) -> Launched:
    """A new one, or `OSError`."""
    mark = secrets.token_hex(8)
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "distributed.worker.forkserver", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            env=environment | {MARK: mark},
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        try:
            exit_descriptor = os.pidfd_open(process.pid)
        except OSError:
            process.kill()
            process.wait()
            raise
    except OSError:
        control.close()
        raise
    finally:
        theirs.close()
    control.setblocking(False)
    return Launched(control, process, exit_descriptor, mark)
