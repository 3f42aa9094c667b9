"""The secret and the credential of TLS on their way to processes of ours on other machines, where no files hold them.

Who starts such a process sends it both, over what only the two can read (MPI's transport, ssh). There they are kept in
memory that only its user can read, and that is gone when the process is. On this machine they are read from the files
in which everybody finds them.
"""

from __future__ import annotations

import os
from pathlib import Path

from distributed.wire.credential import PEM_BYTES_MAX
from distributed.wire.private import open_private
from distributed.wire.security import find_secret, secret_path


def at_hand() -> tuple[str, str]:
    """The secret that is found here, and the credential, empty if there is none; as the text of their files."""
    tls_file = find_secret().tls_file
    return _content(secret_path(), "the secret"), _content(tls_file, "the TLS credential") if tls_file else ""


def _content(path: Path, what: str) -> str:
    with open_private(path, what) as descriptor:
        return os.read(descriptor, PEM_BYTES_MAX).decode("utf-8", "replace").strip()


def keep(secret: str, credential: str) -> None:
    """Have this process and all that it starts find the secret, in memory that is gone when this process is."""
    os.environ["DISTRIBUTED_SECRET_FILE"] = _in_memory(secret)
    os.environ.pop("DISTRIBUTED_TLS_FILE", None)
    if credential:
        os.environ["DISTRIBUTED_TLS_FILE"] = _in_memory(credential)


def _in_memory(content: str) -> str:
    descriptor = os.memfd_create("distributed secret")  # closed when it is executed by something else, as all are
    os.fchmod(descriptor, 0o600)
    os.write(descriptor, content.encode() + b"\n")
    return f"/proc/{os.getpid()}/fd/{descriptor}"
