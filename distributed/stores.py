"""The directories that hold workers' large values: how they are named and locked, and told from what the dead left.

A directory in use is locked (`flock`), so that whoever comes later can tell the living from the dead: a lock goes with
the process, however it ended, and unlike a process number it means the same in every container. What is in them is
their workers' business.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat

SHARED_MEMORY = "/dev/shm"
_NAME = re.compile(r"distributed-(\d+)-[0-9a-f]{16}")


def sweep(base: str) -> list[str]:
    """Remove the directories in `base` that workers of this user left behind when they were killed; tell which."""
    removed = []
    for name in stores_in(base):
        directory = os.path.join(base, name)
        lock = _try_lock(directory)
        if lock is None:
            continue
        try:
            if _is_same(lock, directory):
                shutil.rmtree(directory, ignore_errors=True)
                removed.append(directory)
        finally:
            os.close(lock)
    return removed


def remove_store(directory: str) -> None:
    """Remove the store of a worker that died, lock or no lock; anything else by that path is left alone."""
    if is_store(directory):
        shutil.rmtree(directory, ignore_errors=True)


def stores_in(base: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(base) if is_store(os.path.join(base, name)))
    except OSError:
        return []


def is_store(directory: str) -> bool:
    """Whether this is, by name and owner, the directory of a worker of this user.

    >>> is_store('/etc')
    False
    """
    match = _NAME.fullmatch(os.path.basename(directory))
    if not match or int(match[1]) != os.getuid():
        return False
    try:
        status = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def make_store(base: str) -> tuple[str, int]:
    """A new directory of ours and the descriptor that holds its lock."""
    while True:
        directory = os.path.join(base, f"distributed-{os.getuid()}-{secrets.token_hex(8)}")
        os.mkdir(directory, 0o700)
        lock = _try_lock(directory)
        if lock is not None and _is_same(lock, directory):
            return directory, lock
        if lock is not None:  # a sweep came between mkdir and lock, and took it for a dead one
            os.close(lock)


def _try_lock(directory: str) -> int | None:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _is_same(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False
