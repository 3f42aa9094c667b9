"""Every second one thing breaks: which, by the dice; and what mends it again a little later.

A fault either happens, and is told in the story, or cannot happen just now, and another kind is drawn. What is stopped
goes on, what is filled is emptied, what was killed is replaced: this module ends with everything mended.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import random
import signal
import time
from collections.abc import Callable

from tests.chaos.daemons import Daemons, Member, Process, ballast, connected_sockets, descendants, pick_socket

WORKERS_MIN = 2  # so many stay, whatever is killed
STOP_S = (0.1, 3.0)
FILL_S = (0.2, 1.5)

KINDS = {
    "kill-executor": "kill -9 of one executor",
    "kill-agent": "kill -9 of an agent alone; another worker is started",
    "kill-worker": "kill -9 of an agent and everything below it; another worker is started",
    "kill-center": "kill -9 of the center, which is started again on the same address",
    "stop-executor": "SIGSTOP of an executor, for a while",
    "stop-agent": "SIGSTOP of an agent, for a while",
    "stop-center": "SIGSTOP of the center, for a while",
    "cut": "one connection of the pool, an agent or the center is shut down",
    "fill": "the file system of the stores is full, for a while",
}


@dataclasses.dataclass(frozen=True)
class Death:
    """A worker's death: when, where, which processes went, and which tasks were there, unfinished."""

    name: str
    at_s: float
    executors: frozenset[int]
    numbers: tuple[int, ...]


class Faults:
    """`tick` breaks one thing and mends what is due; `mend` mends everything."""

    def __init__(
        self,
        daemons: Daemons,
        kinds: list[str],
        dice: random.Random,
        unfinished_at: Callable[[str], tuple[int, ...]],
        aloud: bool,
    ) -> None:
        self.daemons, self.kinds, self.dice, self._unfinished_at = daemons, kinds, dice, unfinished_at
        self._aloud = aloud
        self.began_s = time.monotonic()
        self.count: collections.Counter[str] = collections.Counter()
        self.story: list[str] = []
        self.deaths: list[Death] = []
        self._bag: list[str] = []
        self._mending: list[tuple[float, str, Callable[[], None]]] = []
        self._stopped: set[int] = set()
        self._is_full = False

    def tick(self) -> None:
        """One fault of a kind that is possible now; every kind comes up equally often."""
        for _ in self.kinds:
            if not self._bag:
                self._bag = self.dice.sample(self.kinds, len(self.kinds))
            kind = self._bag.pop()
            told = getattr(self, "_" + kind.replace("-", "_"))()
            if told:
                self.count[kind] += 1
                self.tell(f"{kind}: {told}")
                return

    def mend_due(self, now_s: float) -> None:
        due = [mending for mending in self._mending if mending[0] <= now_s]
        self._mending = [mending for mending in self._mending if mending[0] > now_s]
        for _, told, action in due:
            action()
            self.tell(told)

    def mend(self) -> None:
        self.mend_due(float("inf"))
        for member in self.daemons.members:
            member.starting.join()

    def tell(self, line: str) -> None:
        self.story.append(f"{time.monotonic() - self.began_s:7.2f} s  {line}")
        if self._aloud:
            print(self.story[-1], flush=True)

    def _later(self, bounds_s: tuple[float, float], told: str, action: Callable[[], None]) -> float:
        after_s = self.dice.uniform(*bounds_s)
        self._mending.append((time.monotonic() + after_s, told, action))
        return after_s

    # ------------------------------------------------------------------------------------------------------- victims

    def _worker(self) -> Member | None:
        ready = [member for member in self.daemons.members if member.is_ready()]
        return self.dice.choice(ready) if ready else None

    def _executor(self) -> tuple[Member, int] | None:
        member = self._worker()
        executors = member.executors() if member else []
        return (member, self.dice.choice(executors)) if member and executors else None

    # ------------------------------------------------------------------------------------------------------- killing

    def _kill_executor(self) -> str:
        found = self._executor()
        if found is None:
            return ""
        with contextlib.suppress(ProcessLookupError):
            os.kill(found[1], signal.SIGKILL)
        return f"process {found[1]} of {found[0].name}"

    def _kill_agent(self) -> str:
        return self._kill(lambda member: [member.pid])

    def _kill_worker(self) -> str:
        return self._kill(lambda member: [member.pid, *descendants(member.pid)])

    def _kill(self, victims: Callable[[Member], list[int]]) -> str:
        member = self._worker()
        if member is None or sum(other.is_ready() for other in self.daemons.members) <= WORKERS_MIN:
            return ""
        pids, executors, numbers = victims(member), member.executors(), self._unfinished_at(member.address)
        self.deaths.append(Death(member.name, time.monotonic(), frozenset(executors), numbers))
        self.daemons.bury(member, pids)
        instead = self.daemons.add()
        return f"{member.name} at {member.address}, {len(numbers)} tasks were there; {instead.name} instead"

    def _kill_center(self) -> str:
        if self.daemons.center._process.pid in self._stopped:
            return ""
        self.daemons.restart_center()
        return f"it is process {self.daemons.center._process.pid} now"

    # ------------------------------------------------------------------------------------------------------ stopping

    def _stop_executor(self) -> str:
        found = self._executor()
        return self._stop(f"process {found[1]} of {found[0].name}", found[1]) if found else ""

    def _stop_agent(self) -> str:
        member = self._worker()
        return self._stop(member.name, member.pid) if member else ""

    def _stop_center(self) -> str:
        return self._stop("the center", self.daemons.center._process.pid)

    def _stop(self, name: str, pid: int) -> str:
        if pid in self._stopped:
            return ""
        try:
            process = Process(pid)
        except ProcessLookupError:
            return ""

        def go_on() -> None:
            process.send(signal.SIGCONT)
            process.close()
            self._stopped.discard(pid)

        process.send(signal.SIGSTOP)
        self._stopped.add(pid)
        after_s = self._later(STOP_S, f"... {name} goes on", go_on)
        return f"{name}, for {after_s:.1f} s"

    # --------------------------------------------------------------------------------------------- cutting and filling

    def _cut(self) -> str:
        names = {os.getpid(): "the pool", self.daemons.center._process.pid: "the center"}
        names |= {member.pid: member.name for member in self.daemons.members if member.is_ready()}
        try:
            found = pick_socket(sorted(names), self.dice)
        except (ProcessLookupError, FileNotFoundError):
            return ""
        return f"{names[found[0]]}, {found[1]}" if found else ""

    def _fill(self) -> str:
        if self._is_full:
            return ""
        stack = contextlib.ExitStack()
        taken = stack.enter_context(ballast(self.daemons.stores))
        self._is_full = True

        def empty() -> None:
            stack.close()
            self._is_full = False

        after_s = self._later(FILL_S, "... the stores have room again", empty)
        return f"{taken:,} bytes taken, for {after_s:.1f} s"


def why_no_cuts(pid: int) -> str:
    """Why connections of this child cannot be cut here; nothing if they can."""
    try:
        for _ in connected_sockets(pid):
            pass
    except OSError as error:
        return f"sockets of other processes cannot be taken here: {error}"
    return ""
