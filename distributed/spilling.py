"""Where values go that memory has no room for: a directory that is on a disk, and on one with room.

What was named is taken as it is. Otherwise it is the first temporary directory that is not in memory itself: to spill
from one part of memory into another would help nobody. Reads the system, and removes nothing but what the dead left.
"""

from __future__ import annotations

import os
import tempfile

from distributed.config import SETTINGS
from distributed.stores import sweep

NONE = "none"  # in place of a directory: do not spill
IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
MOUNTS = "/proc/self/mountinfo"


def place(wanted: str | None) -> str | None:
    """The directory to spill into; None: nowhere."""
    if wanted:
        return None if wanted == NONE else wanted
    for directory in candidates(wanted):
        sweep(directory)  # before its room is looked at: what the dead left may be what fills it
        if _is_of_use(directory):
            return directory
    return None


def candidates(wanted: str | None) -> list[str]:
    """The directories that `place` chooses from."""
    if wanted:
        return [] if wanted == NONE else [wanted]
    return list(dict.fromkeys(filter(None, (os.environ.get("TMPDIR"), "/var/tmp", tempfile.gettempdir()))))


def _is_of_use(directory: str) -> bool:
    try:
        space = os.statvfs(directory)
    except OSError:
        return False
    has_room = space.f_frsize * space.f_bavail >= SETTINGS.spill_disk_bytes_min
    return has_room and os.access(directory, os.W_OK | os.X_OK) and kind_of(directory) not in IN_MEMORY


def kind_of(directory: str) -> str:
    """The kind of file system that a directory is on; '' if the system does not tell.

    >>> kind_of('/proc')
    'proc'
    """
    try:
        status = os.stat(directory)
        device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
        with open(MOUNTS) as file:
            for line in file:
                before, _, after = line.partition(" - ")
                if before.split()[2] == device:
                    return after.split()[0]
    except (OSError, IndexError):
        pass
    return ""
