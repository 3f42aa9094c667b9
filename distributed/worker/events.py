"""What happens to a worker, and what its mind asks of its shell: the words of `WorkerState.handle`.

Events are named in past tense, instructions in the imperative. A wire message is an event too: it comes wrapped with
who sent it. Every instruction that starts something (`Fetch`, `Spill`, `Allocate`, `Spawn`, `AskRunning`) ends in
exactly one event; the others are simply done. This module knows no socket and no file.
"""

from __future__ import annotations

import dataclasses

from distributed.wire.messages import Message

# ------------------------------------------------------------------------------------------------------------- events


@dataclasses.dataclass(slots=True)
class FromClient:
    """A pool's message on its control connection; `client` is empty for a request made by hand."""

    client: str
    message: Message


@dataclasses.dataclass(slots=True)
class FromCenter:
    """The center told every worker: OwnerLeft, Pin, Unpin, WorkerLeft."""

    message: Message


@dataclasses.dataclass(slots=True)
class FromExecutor:
    """An executor reported: Outcomes or NeedRoom."""

    executor: int
    message: Message


@dataclasses.dataclass(slots=True)
class ClientDisconnected:
    """The connection of a pool broke. Its data stay until the center says that it is gone."""

    client: str


@dataclasses.dataclass(slots=True)
class CenterConnected:
    """There is a new connection to the center; it wants a snapshot."""


@dataclasses.dataclass(slots=True)
class CenterLost:
    """The connection to the center is gone; there is nobody to report to."""


@dataclasses.dataclass(slots=True)
class ExecutorStarted:
    """`Spawn` worked."""

    executor: int
    pid: int


@dataclasses.dataclass(slots=True)
class ExecutorEnded:
    """An executor is gone, whatever the reason; `serial` is the task that it was running (0: none)."""

    executor: int
    serial: int = 0
    signal: int = 0
    exit_code: int = 0
    peak_bytes: int = 0
    stderr_tail: str = ""
    stack: str = ""


@dataclasses.dataclass(slots=True)
class Running:
    """Answer to `AskRunning`: which task (0: none) since when."""

    executor: int
    serial: int
    started_s: float


@dataclasses.dataclass(slots=True)
class RoomWanted:
    """A writer on a bulk connection wants a file of this size; answered by `GrantRoom` or `RefuseRoom`."""

    writer: int
    nbytes: int


@dataclasses.dataclass(slots=True)
class RoomAbandoned:
    """The writer that reserved this file went away."""

    path: str


@dataclasses.dataclass(slots=True)
class Allocated:
    """`Allocate` worked."""

    ticket: int
    path: str


@dataclasses.dataclass(slots=True)
class AllocationFailed:
    """`Allocate` did not work."""

    ticket: int
    reason: str


@dataclasses.dataclass(slots=True)
class Put:
    """A client (or someone by hand, with an empty owner) stored values here. Columns; a path or else a value."""

    owner: str
    keys: list[str]
    nbytes: list[int]
    values: list[bytes | None]
    paths: list[str]


@dataclasses.dataclass(slots=True)
class Fetched:
    """A peer answered. Columns; a size of -1: it does not hold that; a path of ours, or else a value."""

    fetch: int
    nbytes: list[int]
    values: list[bytes | None]
    paths: list[str]


@dataclasses.dataclass(slots=True)
class FetchFailed:
    """A peer did not answer, or there was no room for its answer."""

    fetch: int
    reason: str


@dataclasses.dataclass(slots=True)
class Spilled:
    """`Spill` worked: this is the copy on disk."""

    ticket: int
    path: str


@dataclasses.dataclass(slots=True)
class SpillFailed:
    """`Spill` did not work; the file is where it was."""

    ticket: int
    reason: str


@dataclasses.dataclass(slots=True)
class Tick:
    """The time asked for with `WakeAt` has come."""


# ------------------------------------------------------------------------------------------------------- instructions


@dataclasses.dataclass(slots=True)
class Send:
    """Send a message to a pool; dropped when it is not connected."""

    client: str
    message: Message


@dataclasses.dataclass(slots=True)
class HangUp:
    """Close the connection to a pool, if there is one; `ClientDisconnected` follows."""

    client: str


@dataclasses.dataclass(slots=True)
class ToCenter:
    """Send a message to the center."""

    message: Message


@dataclasses.dataclass(slots=True)
class Give:
    """Send a message to an executor: Run, Room or CancelRunning."""

    executor: int
    message: Message


@dataclasses.dataclass(slots=True)
class Spawn:
    """Start an executor."""

    executor: int
    asynchronous: bool = False


@dataclasses.dataclass(slots=True)
class Kill:
    """Kill an executor with its process group; `ExecutorEnded` follows."""

    executor: int


@dataclasses.dataclass(slots=True)
class AskRunning:
    """Look into the progress cell of an executor; `Running` follows."""

    executor: int


@dataclasses.dataclass(slots=True)
class Fetch:
    """Ask a peer for values."""

    fetch: int
    peer: str
    keys: list[str]
    attempts: list[int]
    nbytes: list[int]


@dataclasses.dataclass(slots=True)
class Allocate:
    """Make a file of this size on tmpfs, its pages allocated."""

    ticket: int
    nbytes: int


@dataclasses.dataclass(slots=True)
class GrantRoom:
    """Tell a writer on a bulk connection where to write."""

    writer: int
    path: str


@dataclasses.dataclass(slots=True)
class RefuseRoom:
    """Tell a writer on a bulk connection that there is no room."""

    writer: int
    reason: str


@dataclasses.dataclass(slots=True)
class Spill:
    """Copy a file to disk; the original is removed with `Remove` once nobody needs it."""

    ticket: int
    path: str


@dataclasses.dataclass(slots=True)
class Remove:
    """Unlink a file of the store."""

    path: str


@dataclasses.dataclass(slots=True)
class WakeAt:
    """Send a `Tick` at this time; replaces what was asked for before."""

    time_s: float


@dataclasses.dataclass(slots=True)
class Log:
    """A line for the person who runs the worker."""

    text: str
