"""What the kernel knows about our child processes, and what it should do with them when somebody dies.

Linux only where it says so; elsewhere these calls do nothing, and the end of stray processes is best effort.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_SET_DEATH_SIGNAL, _SET_NAME, _SET_SUBREAPER = 1, 15, 36
_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


def set_death_signal() -> None:
    """Have the kernel kill this process when its parent dies. Linux."""
    if _prctl:
        _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def set_name(name: str) -> None:
    """The name of this process in `ps` and `top`, 15 bytes at most. Linux."""
    if _prctl:
        _prctl(_SET_NAME, name.encode()[:15], 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, however it tries to detach itself. Linux."""
    if _prctl:
        _prctl(_SET_SUBREAPER, 1, 0, 0, 0)


def children() -> list[int]:
    """The process ids of the children of this (single-threaded) process, dead ones not yet waited for included."""
    own = os.getpid()
    try:
        with open(f"/proc/self/task/{own}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:  # a kernel without this file, or no /proc at all
        return [pid for pid in _processes() if _parent(pid) == own]


def carriers(mark: bytes) -> list[int]:
    """The processes that were started with these bytes in their environment: ``b'NAME=value'``. Linux."""
    found = []
    for pid in _processes():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if mark in file.read().split(b"\0"):
                    found.append(pid)
        except OSError:  # gone, or another user's
            pass
    return found


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone already."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def kill_group(pid: int) -> None:
    """Kill the process group that `pid` leads, if there is one."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _processes() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0
