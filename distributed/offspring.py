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


def set_death_signal(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent dies. Linux."""
    if _prctl:
        _prctl(_SET_DEATH_SIGNAL, number, 0, 0, 0)


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


def descendants(pid: int) -> list[int]:
    """The process ids of what a process started, and of what that started; none where the kernel does not tell."""
    found: list[int] = []
    looking = [pid]
    while looking:
        parent = looking.pop()
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:  # it is gone
            continue
        for thread in threads:
            try:
                with open(f"/proc/{parent}/task/{thread}/children") as file:
                    looking += (born := [int(word) for word in file.read().split()])
            except OSError:
                continue
            found += born
    return found


def prefer_to_kill(score: int) -> None:
    """Have the kernel take this process rather than its parent when memory runs out. Linux."""
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            own = int(file.read())
            file.seek(0)
            file.write(str(min(1000, max(own, own + score))))
    except (OSError, ValueError):
        pass


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
