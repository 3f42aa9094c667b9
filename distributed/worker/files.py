"""The directory of a worker's large values: one file each, on tmpfs, and a second directory on disk for spilling.

This module owns names, room, permissions and the end of these directories. It does not know keys, attempts or what is
inside a file, and it decides nothing: which value to spill or to drop is the store's decision. Every method may be
called from any thread; those that allocate or copy may take as long as the kernel needs to move that many bytes.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable

from distributed import machine
from distributed.config import MIB, SETTINGS
from distributed.errors import StartFailed, StoreFull
from distributed.pieces import open_to_read
from distributed.quantities import size
from distributed.stores import SHARED_MEMORY, is_store, make_store, stores_in, sweep
from distributed.worker.spares import SPARE_BYTES_MIN, Spares

log = logging.getLogger(__name__)

CAPACITY_BYTES_MIN = 256 * MIB  # containers often give /dev/shm 64 MiB: too little to be of use
COPY_CHUNK_BYTES = 64 * MIB
SPARE_PART = 1 / 16  # of memory may be spare files, of all workers here together
NONCE = "nonce"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_VALUE_NAME = re.compile(r"v[0-9a-f]+")
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class ValueLost(OSError):
    """The file of a value was removed, by nobody here."""


class Files:
    """The value files of one worker.

    `base` is where the directory is made (default: shared memory, or the temporary directory where that is too small),
    `spill` where values go that memory has no room for (None: nowhere). `warning` is empty, or tells what is slower
    than it could be. A part of the disk (`Settings.spill_free_fraction`) is left to others.
    """

    def __init__(self, base: str | None = None, spill: str | None = None) -> None:
        self.warning = ""
        self.base = base or self._choose_base()
        self._numbers = itertools.count(1)
        self.directory, self._lock = _made(self.base, "kept")
        self._spares = Spares(self.directory)
        self._links: set[str] = set()  # names of files that peers made
        self.spill_directory, self._spill_lock = "", -1
        try:
            self._prepare(spill)
        except BaseException:
            self.close()
            raise

    def _prepare(self, spill: str | None) -> None:
        if spill is not None:
            self.spill_directory, self._spill_lock = _made(spill, "spilled")
        with open(os.open(os.path.join(self.directory, NONCE), _NEW_FILE, 0o600), "w") as file:
            file.write(secrets.token_hex(32))

    def _choose_base(self) -> str:
        try:
            space = os.statvfs(SHARED_MEMORY)
            nbytes = space.f_frsize * space.f_blocks
            if nbytes >= CAPACITY_BYTES_MIN and os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
                return SHARED_MEMORY
            reason = f"{SHARED_MEMORY} has {size(nbytes)}"
        except OSError as error:
            reason = f"{SHARED_MEMORY}: {error.strerror}"
        base = tempfile.gettempdir()
        self.warning = f"large values are kept in {base}, which may be slow: {reason} (in a container, try --shm-size)"
        log.warning("%s", self.warning)
        return base

    def capacity(self) -> int:
        """How many bytes all values together could take where they are kept: those that are there and free room."""
        space = os.statvfs(self.directory)
        return space.f_frsize * space.f_bavail + _allocated_bytes(self.directory)

    def reserve(self, nbytes: int, on_disk: bool = False) -> str:
        """The path of a new file that `nbytes` can be written into; `StoreFull` if there is no room for them."""
        if on_disk:
            return self._reserve_on_disk(nbytes)
        if nbytes >= SPARE_BYTES_MIN:
            path = self._new_name(self.directory)
            if self._spares.take(nbytes, path):
                return path
        try:
            return self._reserve(self.directory, nbytes)
        except StoreFull:
            if not self._spares.drop_all():
                raise
        return self._reserve(self.directory, nbytes)

    def _reserve_on_disk(self, nbytes: int) -> str:
        if not self.spill_directory:
            raise StoreFull("there is no room in memory, and no spill directory (start the worker with one)")
        space = os.statvfs(self.spill_directory)
        free, spared = (
            space.f_frsize * space.f_bavail,
            int(space.f_frsize * space.f_blocks * SETTINGS.spill_free_fraction),
        )
        if nbytes + spared > free:
            raise StoreFull(
                f"no room for {size(nbytes)} in {self.spill_directory}: {size(free)} are free on that disk, of which "
                f"{size(spared)} are left to others"
            )
        return self._reserve(self.spill_directory, nbytes)

    def link(self, path: str, on_disk: bool = False) -> str | None:
        """Hold a peer's value under a name of our own, without a copy; None if that cannot be (then fetch it)."""
        directory, name = os.path.split(path)
        if not (_VALUE_NAME.fullmatch(name) and is_store(directory)):
            return None  # whatever the peer says, only values are linked
        own = self._new_name(self.spill_directory if on_disk else self.directory)
        try:
            os.link(path, own, follow_symlinks=False)
        except OSError:
            return None
        if stat.S_ISREG(os.lstat(own).st_mode) and _is_one_file(own, path):
            self._links.add(own)
            return own
        os.unlink(own)  # or else its owner gave it up meanwhile, and may fill it with something else
        return None

    def spill(self, path: str) -> str:
        """Copy a value to disk and return where. `remove` the old path once nobody is being told of it any more."""
        return self._copy(path, self._reserve_on_disk)

    def load(self, path: str) -> str:
        """Copy a value from disk into memory and return where; `remove` the old path as above."""
        return self._copy(path, self.reserve)

    def remove(self, path: str) -> bool:
        """Give a value up. Who has it mapped or linked keeps it; one that is gone already is no error.

        True if there is something to `tidy`.
        """
        directory = os.path.dirname(path)
        if directory not in (self.directory, self.spill_directory):
            raise ValueError(f"{path} is not a file of this store")
        try:
            is_ours = directory == self.directory and path not in self._links
            if is_ours and os.stat(path, follow_symlinks=False).st_size >= SPARE_BYTES_MIN:
                return self._spares.keep(path, self._spare_bytes_max())
            self._links.discard(path)
            os.unlink(path)
        except FileNotFoundError:
            pass
        return False

    def tidy(self) -> None:
        """Give back the memory of removed files that are too many to be kept for the next ones. May take a while."""
        self._spares.drop()

    def age(self) -> bool:
        """Give back what nobody needed since the last time; whether there is anything left that will age."""
        has_left = self._spares.age()
        self._spares.drop()
        return has_left

    def _spare_bytes_max(self) -> int:
        space = os.statvfs(self.directory)
        nbytes = min(space.f_frsize * space.f_blocks, machine.memory_bytes())
        return min(SETTINGS.spare_bytes_max, int(nbytes * SPARE_PART) // max(1, len(stores_in(self.base))))

    def close(self) -> None:
        """Remove the directories and everything in them."""
        for directory, lock in ((self.directory, self._lock), (self.spill_directory, self._spill_lock)):
            if lock >= 0:
                shutil.rmtree(directory, ignore_errors=True)
                os.close(lock)
        self._lock = self._spill_lock = -1

    def _new_name(self, directory: str) -> str:
        return os.path.join(directory, f"v{next(self._numbers):x}")

    def _reserve(self, directory: str, nbytes: int) -> str:
        path = self._new_name(directory)
        try:
            descriptor = os.open(path, _NEW_FILE, 0o600)
        except OSError as error:
            raise _full(error, nbytes, directory) from error
        try:
            if nbytes:
                os.posix_fallocate(descriptor, 0, nbytes)
        except OSError as error:
            os.unlink(path)
            raise _full(error, nbytes, directory) from error
        finally:
            os.close(descriptor)
        return path

    def _copy(self, path: str, reserve: Callable[[int], str]) -> str:
        try:
            source = open_to_read(path)
        except FileNotFoundError as error:
            raise ValueLost(f"{path} is not there any more: its value is lost") from error
        try:
            nbytes = os.fstat(source).st_size
            new = reserve(nbytes)
            try:
                _copy_bytes(source, new, nbytes)
            except OSError as error:
                os.unlink(new)
                raise _full(error, nbytes, os.path.dirname(new)) from error
        finally:
            os.close(source)
        return new


def _is_one_file(path: str, other: str) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.lstat(other))
    except OSError:
        return False


def _allocated_bytes(directory: str) -> int:
    with os.scandir(directory) as entries:
        return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)


def _copy_bytes(source: int, path: str, nbytes: int) -> None:
    target = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        done = 0
        while done < nbytes:
            count = os.sendfile(target, source, done, min(nbytes - done, COPY_CHUNK_BYTES))
            if not count:
                raise OSError(errno.EIO, "the file became shorter while it was copied")
            done += count
    finally:
        os.close(target)


def _full(error: OSError, nbytes: int, directory: str) -> StoreFull | OSError:
    if error.errno in _NO_ROOM:
        return StoreFull(f"no room for {size(nbytes)} in {directory}: {os.strerror(error.errno)}")
    return error


def _made(base: str, how: str) -> tuple[str, int]:
    """A store's directory and its lock, in a directory that is cleared of what dead workers left.

    It may be a new one. One in a directory that does not exist either was mistyped, more likely.
    """
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(base)
        sweep(base)
        return make_store(base)
    except OSError as error:
        raise StartFailed(f"values cannot be {how} in {base}: {error.strerror}") from error
