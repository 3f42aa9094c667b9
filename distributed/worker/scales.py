"""How much memory of its own each executor has, and which one has more than a task may. Lives in the fork server.

What counts is what nobody else has: anonymous pages, resident or swapped out, of an executor and all that it started,
and memory that these share among them and that has no name. Inputs that are mapped from files do not count until the
task changes them. The fork server looks, not the agent: it is
the parent, so that a process number is never somebody else's, and it has nothing else to do.
"""

from __future__ import annotations

from collections.abc import Iterable

from distributed import offspring
from distributed.config import SETTINGS

GROWTH_BYTES_PER_S = 8e9  # nobody fills memory faster: how long one far from the limit need not be looked at
INTERVAL_S_MAX = 1.0
NEVER_S = float("inf")
NAMELESS = (b"/dev/zero", b"/memfd:", b"/SYSV")  # memory that goes with those that share it, as the kernel calls it


class Scales:
    """Weighs executors now and then, the more often the nearer one is to the limit; without a limit never."""

    def __init__(self, limit_bytes: int = 0, interval_s: float = SETTINGS.task_memory_interval_s) -> None:
        self.limit_bytes, self._interval_s = limit_bytes, interval_s
        self.peaks: dict[int, int] = {}  # process id -> the most it was seen to have
        self.due_s = 0.0 if limit_bytes else NEVER_S
        self._kills = [_kills_for_want_of_memory()] * 2  # of the machine, a look before the last one, and then
        self._kills_due_s = 0.0

    def weigh(self, pids: Iterable[int], now: float) -> list[int]:
        """Those with more than the limit; sets the time of the next look."""
        heavy, heaviest = [], 0
        for pid in pids:
            nbytes = own_bytes(pid, self.limit_bytes)
            self.peaks[pid] = max(nbytes, self.peaks.get(pid, 0))
            if nbytes > self.limit_bytes:
                heavy.append(pid)
            else:
                heaviest = max(heaviest, nbytes)
        if now >= self._kills_due_s:
            self._kills, self._kills_due_s = [self._kills[1], _kills_for_want_of_memory()], now + INTERVAL_S_MAX
        pause_s = (self.limit_bytes - heaviest) / GROWTH_BYTES_PER_S
        self.due_s = now + min(max(pause_s, self._interval_s), INTERVAL_S_MAX)
        return heavy

    def peak(self, pid: int) -> int:
        """The most that an executor had, as far as anybody looked; it is forgotten."""
        return self.peaks.pop(pid, 0)

    def machine_ran_out(self) -> bool:
        """Whether the kernel just killed somebody for want of memory: within two seconds, while anybody is weighed."""
        return _kills_for_want_of_memory() > self._kills[0]


def own_bytes(pid: int, limit_bytes: int) -> int:
    """The memory that goes when a process and its descendants end.

    Pages that a fork shares are in both: only if the sum is above the limit each page is counted once, which is slow.
    So is to tell nameless shared memory from mapped inputs, which is done only where the sum of both matters.
    """
    family = [pid, *offspring.descendants(pid)]
    nbytes = sum(_bytes_in(f"/proc/{one}/status", ("RssAnon:", "VmSwap:")) for one in family)
    if nbytes > limit_bytes and len(family) > 1:
        nbytes = sum(_bytes_in(f"/proc/{one}/smaps_rollup", ("Pss_Anon:", "SwapPss:")) for one in family) or nbytes
    if nbytes > limit_bytes:
        return nbytes
    shared = sum(_bytes_in(f"/proc/{one}/status", ("RssShmem:",)) for one in family)
    if nbytes + shared > limit_bytes:
        nbytes += sum(nameless_bytes(one) for one in family if _has_nameless(one))
    return nbytes


def nameless_bytes(pid: int) -> int:
    """What a process has of shared memory without a name; of pages that several have, its part."""
    nbytes, is_nameless = 0, False
    for line in _lines_of(f"/proc/{pid}/smaps"):
        first, *others = line.split()
        if not first.endswith(b":"):  # of a mapping: where, how, offset, device, inode, name
            is_nameless = len(others) > 4 and others[4].startswith(NAMELESS)
        elif is_nameless and first in (b"Pss:", b"SwapPss:"):
            nbytes += int(others[0]) * 1024
    return nbytes


def _has_nameless(pid: int) -> bool:
    """The same question, only whether: without a look at each page."""
    return any(name in line for line in _lines_of(f"/proc/{pid}/maps") for name in NAMELESS)


def _lines_of(path: str) -> list[bytes]:
    """What there is to read, where names are any bytes; nothing of a process that is gone."""
    try:
        with open(path, "rb") as file:
            return list(file)
    except OSError:
        return []


def _bytes_in(path: str, fields: tuple[str, ...]) -> int:
    """The sum of these fields; 0 for a process that is gone, or where there is no such file."""
    try:
        with open(path) as file:
            return sum(int(line.split()[1]) * 1024 for line in file if line.startswith(fields))
    except (OSError, ValueError, IndexError):
        return 0


def _kills_for_want_of_memory() -> int:
    try:
        with open("/proc/vmstat") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
    except (OSError, ValueError):
        return 0
