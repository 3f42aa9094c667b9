"""Files that nobody but their owner may read, the secret and the credential of TLS: how they are read and made.

One way for both. What stands in them is not known here, nor whether it is any good.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from distributed.errors import SecretUnusable


@contextlib.contextmanager
def open_private(path: Path, what: str) -> Iterator[int]:
    """A descriptor to read; `SecretUnusable` if others can read it, too. Of `FileNotFoundError` the caller tells."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # not blocking: it might be a fifo
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SecretUnusable(f"{what} {path} cannot be read: {error.strerror}") from error
    try:
        _refuse_shared(os.fstat(descriptor), path, what)
        yield descriptor
    finally:
        os.close(descriptor)


def _refuse_shared(status: os.stat_result, path: Path, what: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SecretUnusable(f"{what} {path} is not a file")
    if status.st_mode & 0o077:
        raise SecretUnusable(f"others can read {what} {path}: chmod 600 {shlex.quote(str(path))}")
    if status.st_uid not in (0, os.geteuid()):  # root, too: its owner knows what stands in it
        raise SecretUnusable(f"{what} {path} belongs to another user: make a copy that is yours")


def create_private(path: Path, what: str, content: bytes) -> None:
    """Write it beside its place, then link it there: it appears whole, or somebody else's did before and stays."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
    except OSError as error:
        raise SecretUnusable(f"{what} {path} cannot be created: {error.strerror}") from error
