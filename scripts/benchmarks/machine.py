"""What is asked of the machine: is it quiet, whose is a process, what does it use. Linux only."""

import dataclasses
import mmap
import os
import signal
import time
from pathlib import Path

MARK = "BENCH_SAMPLE"
"""An environment variable that tells all processes of one sample, also those that left their parents."""

CALIBRATION_ROUNDS = 5
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BUSY_LOAD_PER_CORE = 0.5
STOLEN_MAX = 0.02
CALIBRATION_SPREAD_MAX = 0.15


# ------------------------------------------------------------------------------------------------------ is it quiet?


def calibrate():
    """Seconds of a fixed piece of plain Python: how quick the machine is just now."""
    seconds = []
    for _ in range(CALIBRATION_ROUNDS):
        began_s = time.perf_counter()
        total = 0
        for number in range(200_000):
            total += number & 7
        seconds.append(time.perf_counter() - began_s)
    return sorted(seconds)[CALIBRATION_ROUNDS // 2]


@dataclasses.dataclass
class Quiet:
    """Watches the machine during a run; `complaints` says what disturbed it."""

    load: float = dataclasses.field(default_factory=lambda: os.getloadavg()[0])
    ticks: tuple[int, int] = dataclasses.field(default_factory=lambda: _ticks())
    calibrations: list[float] = dataclasses.field(default_factory=list)

    def look(self):
        self.calibrations.append(calibrate())

    def complaints(self):
        found = []
        cores = os.cpu_count() or 1
        if self.load > cores * BUSY_LOAD_PER_CORE:
            found.append(f"the load was {self.load:.1f} on {cores} cores before anything was measured")
        stolen, total = (after - before for before, after in zip(self.ticks, _ticks(), strict=True))
        if total and stolen / total > STOLEN_MAX:
            found.append(f"{stolen / total:.0%} of the time was stolen by other virtual machines")
        if len(self.calibrations) > 1:
            middle = sorted(self.calibrations)[len(self.calibrations) // 2]
            spread = (max(self.calibrations) - min(self.calibrations)) / middle
            if spread > CALIBRATION_SPREAD_MAX:
                found.append(f"a fixed loop took {spread:.0%} longer at its slowest than at its quickest")
        return found


def _ticks():
    """(stolen, all) of the processors' time so far."""
    numbers = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return numbers[7], sum(numbers[:8])


def heat(nbytes):
    """Write to fresh memory and give it back: what a virtual machine has not used lately is slow at first."""
    with mmap.mmap(-1, nbytes) as memory:
        for start in range(0, nbytes, mmap.PAGESIZE):
            memory[start] = 1


# ------------------------------------------------------------------------------------------------ processes of a sample


def processes(mark):
    """The ids of the other processes with this mark in their environment."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # it ended meanwhile, or is another user's
            continue
    return sorted(found)


def others():
    """The other processes of this sample: daemons and workers."""
    return processes(os.environ[MARK]) if MARK in os.environ else []


def end_all(mark):
    """Kill what a sample left behind; returns how many there were."""
    left = processes(mark)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(left)


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def processor_s(pid):
    """Processor time that a process has used so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_S


def proportional_bytes(pid):
    """Memory of a process, where what several share is divided among them; 0 if it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def private_bytes(pid):
    """Memory that only this process uses."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))
