"""Files of values that nobody needs any more, kept for a while for the next ones: their memory is there already.

A page of tmpfs that is not there yet has to be found and cleared before it is written, and given back afterwards. Of
256 MiB, on two cores: 56 ms to allocate, 46 to write, 30 to give back; and a virtual machine takes memory that nobody
uses away from itself, which makes the first use of it five times as slow again. A spare file leaves only the writing.

A file's pages may never change while anybody sees them. A spare has lost its name: whoever was told that name and comes
late finds nothing (see `pieces.open_to_read`). It becomes a value again only when it is proved that nobody has it: it
has no second name, and the kernel grants a write lease, which it refuses while there is any other open file or mapping
of the same inode. That it does so for mappings, too, is tried once: on file systems stacked on others it does not, and
then nothing is kept. What is marked is not kept either: sockets may hold its pages (see `bulk.stream`).

Knows no values and no accounts. Spares are bounded, count as free room, and go first. Any thread may call.
"""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
import signal
import threading

from distributed.pieces import may_be_filled_again

SPARE_BYTES_MIN = 1 << 20  # less than this is allocated as soon as it is proved
PROOFS_MAX = 8  # spares that are looked at for one new file


class Spares:
    """The spare files in one directory, `r…` by name."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._kept: dict[str, int] = {}  # path -> bytes; the oldest first
        self._aged: set[str] = set()  # those that were here when `age` was called last
        self._excess: list[str] = []  # to be given back, which takes its time
        self._dropping = threading.Lock()
        self._is_of_use = _is_mapping_seen(directory)

    def keep(self, path: str, bytes_max: int) -> bool:
        """Take over a file that is of no use any more: it has no name from now on. Whether `drop` has work to do.

        `bytes_max` is how much may be kept in all. `FileNotFoundError` if there is no such file.
        """
        status = os.stat(path, follow_symlinks=False)
        nbytes = status.st_size
        spare = os.path.join(self._directory, f"r{next(self._numbers):x}")
        os.rename(path, spare)
        with self._lock:
            if not (self._is_of_use and may_be_filled_again(status)) or nbytes > bytes_max:
                self._excess.append(spare)
                return True
            self._kept[spare] = nbytes
            self._limit(bytes_max)
            return bool(self._excess)

    def take(self, nbytes: int, path: str) -> bool:
        """Make a spare the file of this name and size, allocated; False if there is none that nobody else has."""
        for _ in range(PROOFS_MAX):
            with self._lock:
                spare = self._nearest(nbytes)
                held = self._kept.pop(spare) if spare else 0
            if not spare:
                return False
            try:
                if not _is_ours_alone(spare):
                    with self._lock:
                        self._excess.append(spare)
                    continue
                _resize(spare, held, nbytes)
                os.rename(spare, path)
            except OSError:  # no room for what it lacks; or it is gone, with the directory or without
                with self._lock:
                    self._excess.append(spare)
                return False
            return True
        return False

    def drop(self) -> None:
        """Give back what is too much. Takes as long as the kernel needs for that many pages."""
        with self._dropping:
            while True:
                with self._lock:
                    if not self._excess:
                        return
                    spare = self._excess.pop()
                try:
                    os.unlink(spare)
                except FileNotFoundError:  # the whole directory was removed
                    pass

    def drop_all(self) -> bool:
        """Give everything back, as there is no room; False if there was nothing."""
        with self._lock:
            had_some = bool(self._kept or self._excess) or self._dropping.locked()
            self._excess += self._kept
            self._kept.clear()
        self.drop()
        return had_some

    def age(self) -> bool:
        """Let go, for `drop`, of what was not used since this was called last; whether any are left."""
        with self._lock:
            old = [spare for spare in self._kept if spare in self._aged]
            for spare in old:
                del self._kept[spare]
            self._excess += old
            self._aged = set(self._kept)
            return bool(self._kept)

    def _limit(self, bytes_max: int) -> None:
        excess = sum(self._kept.values()) - bytes_max
        for spare, nbytes in list(self._kept.items()):
            if excess <= 0:
                return
            del self._kept[spare]
            self._excess.append(spare)
            excess -= nbytes

    def _nearest(self, nbytes: int) -> str:
        """The one whose size differs least; of little use are those that are much larger or smaller."""
        near = [spare for spare, held in self._kept.items() if held // 4 <= nbytes <= held * 4]
        return min(near, key=lambda spare: abs(self._kept[spare] - nbytes), default="")


def _is_ours_alone(path: str) -> bool:
    """Whether this file has one name, nobody has it open or mapped, and none of its pages is on its way."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _has_lease(descriptor):
            return False
        status = os.fstat(descriptor)
        return status.st_nlink == 1 and may_be_filled_again(status)
    finally:
        os.close(descriptor)


def _has_lease(descriptor: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # for who comes just now: ignored, unlike SIGIO
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except (OSError, AttributeError):  # somebody has it; or no leases here, as on macOS
        return False
    return True


def _resize(path: str, held: int, nbytes: int) -> None:
    """Cut or grow an allocated file; all of it is allocated afterwards."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if nbytes < held:
            os.ftruncate(descriptor, nbytes)
        elif nbytes > held:
            os.posix_fallocate(descriptor, held, nbytes - held)
    finally:
        os.close(descriptor)


def _is_mapping_seen(directory: str) -> bool:
    """Whether the kernel tells, for files in here, that somebody has one mapped; tried with a file."""
    path = os.path.join(directory, "r0")
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, mmap.PAGESIZE)
        os.close(descriptor)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY) as mapped:
            os.close(descriptor)
            descriptor = -1
            if _is_ours_alone(path) or mapped[0]:
                return False
        return _is_ours_alone(path)
    except (OSError, ValueError):
        return False
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        os.unlink(path)
