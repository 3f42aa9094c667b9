"""Every error a user can meet, in one tree; a leaf for each thing the reader might *do* differently.

::

    DistributedError
    ├── ConnectionFailed        nobody answers there, or the connection broke: check the address, try again
    │   ├── AuthenticationFailed    the peer does not share our secret, or TLS credential: copy the files
    │   ├── VersionMismatch         the peer speaks another protocol: install the same version on both sides
    │   └── WrongPeer               another daemon answers there than the one that was meant: check the address
    ├── ProtocolError           the peer sent what no peer of this version sends: report it
    ├── BadAddress              not a ``host:port``: fix the address
    ├── SecretUnusable          the secret or TLS file cannot be used, or others can read it: do as the message says
    ├── CannotPickle            an argument, result or exception cannot travel: the message names the object
    ├── PoolClosed              the pool was closed (or belongs to the parent of this forked process)
    ├── TaskError               the task has no result, and its own code did not say why
    │   ├── TaskCrashed             its executor died on every attempt
    │   ├── TaskTimeout             it ran longer than ``timeout=`` and was killed, or cancelled
    │   ├── GroupFailed             a member of the group raised, or its executor or worker died
    │   ├── TaskCancelled           somebody cancelled it, or something it depends on
    │   ├── NestingTooDeep          more tasks wait for tasks already than are allowed: return handles instead
    │   └── NoWorker                no worker can run it
    ├── SerializerMissing       the pool's ``serializer=`` needs a package: install it there
    ├── MemberEnded             a member of a group has returned: no message comes from there, or is read there
    ├── InitializerFailed       the pool's ``initializer=`` raised, or crashed: the error tells what and where
    ├── RemoteError             a task raised an exception that cannot travel: this tells of it
    ├── KeyLost                 every copy of a value is gone, and no recipe makes it again
    ├── NameUnknown             nothing is published under this name: `pool.names` lists what is
    ├── NameTaken               something else is: choose another name, or unpublish that
    ├── StoreFull               no worker has room for a value: release data, or add memory or a spill directory
    └── StartFailed             a daemon of a local cluster did not start: its last words are in the message

Errors carry fields, survive pickling, and say in their docstring what to do next. An exception that a task raised is
not here: it arrives as itself, with the remote traceback as its cause.
"""

from __future__ import annotations

from typing import Any


class DistributedError(Exception):
    """The root: catch it to catch everything that this package raises by itself."""

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[DistributedError], args: tuple[Any, ...], fields: dict[str, Any]) -> DistributedError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    return error


class ConnectionFailed(DistributedError):
    """Nobody answers at `address`, or the connection broke. Check that the daemon runs there, then try again."""

    address = reason = ""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address}: {reason}" if address else reason)
        self.address, self.reason = address, reason


class AuthenticationFailed(ConnectionFailed):
    """The two sides hold different secrets, or credentials of TLS. Copy the center's files to this machine."""


class VersionMismatch(ConnectionFailed):
    """The peer speaks another version of the protocol. Install the same version of this package on both sides."""


class WrongPeer(ConnectionFailed):
    """A daemon of the cluster answers at `address`, but not the one that was meant. Check the address, or try again."""


class ProtocolError(DistributedError):
    """A peer sent something that no peer of this version sends; its connection was closed. Please report it."""


class BadAddress(DistributedError, ValueError):
    """Not an address. Write ``host:port``, for example ``127.0.0.1:8787`` or ``[::1]:8787``."""


class SecretUnusable(DistributedError):
    """The secret file cannot be read, or others can read it. The message names the file and the command that helps."""


class CannotPickle(DistributedError, TypeError):
    """An object cannot be sent to another process. `path` leads to the part of it that refuses."""

    what = path = reason = ""

    def __init__(self, what: str, path: str, reason: str) -> None:
        super().__init__(f"cannot send {what} to another process: {path} {reason}")
        self.what, self.path, self.reason = what, path, reason


class PoolClosed(DistributedError):
    """The pool was closed, or this process is a fork of the one that opened it. Open a new pool."""


class TaskError(DistributedError):
    """A task has no result, for a cause outside its own code. `key` names it, `attempts` tells what happened."""

    def __init__(self, message: str, key: str = "", attempts: list[str] | None = None) -> None:
        super().__init__("\n".join([message, *(f"  {line}" for line in attempts or ())]))
        self.key, self.attempts = key, attempts or []


class TaskCrashed(TaskError):
    """The executor died each time it ran this task. `attempts` holds signal or exit code, memory and last stderr."""


class TaskTimeout(TaskError):
    """The task ran longer than its ``timeout=`` and was killed, or cancelled. Raise the limit, or split the work."""


class GroupFailed(TaskError):
    """A member raised, or its executor or worker died: that ended the whole group. The cause is what it raised.

    `rank` and `worker` tell which member it was. Every handle of the group has this error. Run it again, or have that
    done with ``retries=``.
    """

    def __init__(self, message: str, key: str = "", rank: int = 0, worker: str = "", raised: bytes = b"") -> None:
        super().__init__(message, key)
        self.rank, self.worker = rank, worker
        self.raised = raised  # the exception, packed


class TaskCancelled(TaskError):
    """Somebody cancelled this task, or one that it depends on. Submit it again if you want it after all."""


class NestingTooDeep(TaskError):
    """Too many tasks wait for other tasks. Return handles instead of waiting, or raise the setting that it names."""


class NoWorker(TaskError):
    """No worker can run this task: start one (``dworker HOST:PORT``), or relax its ``workers=`` or ``resources=``."""


class SerializerMissing(DistributedError):
    """The pool's ``serializer=`` cannot be used in this process: a package is missing. Install it there."""


class MemberEnded(DistributedError):
    """A member of a group waits for one that has returned. Have that send, or receive, what others count on."""

    rank = -1

    def __init__(self, message: str, rank: int = -1) -> None:
        super().__init__(message)
        self.rank = rank


class InitializerFailed(DistributedError):
    """The pool's ``initializer=`` raised in an executor, before a task, or crashed it; the cause is what it raised.

    It runs again before the next task there: an error that passes does no lasting harm.
    """


class RemoteError(DistributedError):
    """A task raised an exception that cannot be sent as itself. Fields tell of it; make its class picklable."""

    def __init__(self, type_name: str, message: str, traceback: str = "", reason: str = "") -> None:
        super().__init__(f"{type_name}: {message}" + (f" (told in words: {reason})" if reason else ""))
        self.type_name, self.message, self.traceback, self.reason = type_name, message, traceback, reason


class KeyLost(DistributedError):
    """Every worker holding `key` is gone and it has no recipe. Scatter it again, or with replicas=2."""

    key = reason = ""

    def __init__(self, key: str, reason: str = "no worker has it any more, and it has no recipe") -> None:
        super().__init__(f"{key} is lost: {reason}")
        self.key, self.reason = key, reason


class NameUnknown(DistributedError, LookupError):
    """Nothing is published under this name. `pool.names` lists what is."""


class NameTaken(DistributedError):
    """Something else is published under this name. Choose another, or unpublish that first."""


class StoreFull(DistributedError):
    """A worker has no room for a value, in memory or on disk. Release data, or give it more of either."""


class StartFailed(DistributedError):
    """A daemon that should have been started did not come up. The message ends with what it printed."""


def by_name(kind: str, reason: str) -> DistributedError:
    """The error that a peer named in a `Refusal`.

    >>> by_name('StoreFull', 'no room for 5 bytes')
    StoreFull('no room for 5 bytes')
    """
    cls = globals().get(kind)
    if not (isinstance(cls, type) and issubclass(cls, DistributedError)):
        return DistributedError(f"{kind}: {reason}")
    error = cls.__new__(cls)
    error.args = (reason,)
    return error
