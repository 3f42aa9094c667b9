"""The processes of an MPI job, as they talk to one another here: few small messages, and nobody burns a core.

What waits inside of an MPI library spins: it expects its answer within microseconds. A rank that waits for minutes, or
beside the daemon that it has just started, looks now and then instead. The communicator is a duplicate of the world,
so that none of this can be mistaken for a message of the program's own.
"""

from __future__ import annotations

import time
from typing import Any

from distributed.errors import StartFailed

TAG = 1
LOOK_MIN_S, LOOK_MAX_S = 0.0002, 0.02


class SilentRank(StartFailed):
    """A rank did not say what it should have; only aborting the job ends all of them then."""


class Ranks:
    """All ranks of the job, by number; the first speaks for all."""

    def __init__(self, mpi: Any) -> None:
        self._mpi = mpi
        self._comm = mpi.COMM_WORLD.Dup()
        self.rank, self.size = self._comm.rank, self._comm.size
        self._requests: list[Any] = []  # what is on its way has to be kept

    def send(self, to: int, message: Any) -> None:
        """On its way; nobody waits until it has arrived."""
        self._requests = [request for request in self._requests if not request.Test()]
        self._requests.append(self._comm.isend(message, to, TAG))

    def look(self, source: int) -> Any:
        """The next message of that rank, if there is one by now, or None."""
        for request in self._requests:
            request.Test()  # it also moves on what is on its way
        arrived = self._comm.improbe(source, TAG)
        return None if arrived is None else arrived.recv()

    def receive(self, source: int, timeout_s: float | None = None) -> Any:
        """The next message of that rank; `SilentRank` if none comes in time."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        pause_s = LOOK_MIN_S
        while (message := self.look(source)) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise SilentRank(f"rank {source} said nothing for {timeout_s:g} s")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LOOK_MAX_S)
        return message

    def share(self, message: Any, timeout_s: float) -> Any:
        """What the first rank says, for all. It must not be None."""
        if self.rank:
            return self.receive(0, timeout_s)
        for other in range(1, self.size):
            self.send(other, message)
        return message

    def collect(self, message: Any, timeout_s: float) -> list[Any]:
        """What each says, for all to know. It must not be None."""
        if self.rank:
            self.send(0, message)
            everything: list[Any] = self.receive(0, timeout_s)
            return everything
        deadline = time.monotonic() + timeout_s
        others = [self.receive(other, max(0.0, deadline - time.monotonic())) for other in range(1, self.size)]
        self.share([message, *others], timeout_s)
        return [message, *others]

    def abort(self, code: int) -> None:
        """End every rank at once, by force; the launcher sees to it."""
        self._mpi.COMM_WORLD.Abort(code)
