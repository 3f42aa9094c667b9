"""Values in pieces, written without joining them: to a socket, or into a file that was allocated for them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from typing import Any

PIECES_MAX = 512  # in one system call; the kernel's limit is 1024


def write_all(write: Callable[[list[memoryview], int], int], pieces: Sequence[Any]) -> None:
    """Call `write(views, offset)`, which returns how many bytes it took, until it took all of them."""
    views = [view for view in (memoryview(piece).cast("B") for piece in pieces) if view.nbytes]
    first = offset = 0
    while first < len(views):
        written = write(views[first : first + PIECES_MAX], offset)
        offset += written
        while first < len(views) and written >= views[first].nbytes:
            written -= views[first].nbytes
            first += 1
        if written:
            views[first] = views[first][written:]


def write_file(path: str, pieces: Sequence[Any]) -> None:
    """Write them into a file that is there; not through a mapping, which would fault in every page."""
    fill_file(open_to_write(path), pieces)


def fill_file(descriptor: int, pieces: Sequence[Any]) -> None:
    """The same with a file that was opened already; it is closed."""
    try:
        write_all(lambda views, offset: os.pwritev(descriptor, views, offset), pieces)
    finally:
        os.close(descriptor)


def open_to_read(path: str) -> int:
    """A descriptor of a value's file; `FileNotFoundError` if it was given up, also while it was being opened.

    What was given up may be filled with another value as soon as nobody has it open. Whoever still finds it by its old
    name after opening it has it: it is not filled as long as the descriptor, or a mapping, is there.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            return descriptor
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    except BaseException:
        os.close(descriptor)
        raise


def never_fill_again(descriptor: int) -> None:
    """Mark a file whose pages are in places that nobody knows of."""
    os.fchmod(descriptor, stat.S_IRUSR)


def may_be_filled_again(status: os.stat_result) -> bool:
    """Whether a file was not marked by `never_fill_again`."""
    return bool(status.st_mode & stat.S_IWUSR)


def open_to_write(path: str) -> int:
    """A descriptor of a file that is there."""
    return os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
