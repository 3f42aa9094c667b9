"""What happens to a worker, and what its mind asks of its shell: the words of `WorkerState.handle`.

Events are named in past tense, instructions in the imperative. A wire message is an event too: it comes wrapped with
who sent it. Every instruction that starts something (`Fetch`, `Spill`, `Load`, `Allocate`, `Spawn`,
`AskRunning`) ends in
exactly one event; the others are simply done. This module knows no socket and no file.
"""

from __future__ import annotations

from distributed.record import record
from distributed.wire.messages import Message

# ------------------------------------------------------------------------------------------------------------- events


@record
class FromClient:
    """A pool's message on its control connection; `client` is empty for a request made by hand."""

    client: str
    message: Message


@record
class FromCenter:
    """The center told every worker: OwnerLeft, Pin, Unpin, WorkerLeft. Or this one: Adopt, HandedOver."""

    message: Message


@record
class FromExecutor:
    """An executor reported: Outcomes, NeedRoom, FromTask, Blocked or LettersRead."""

    executor: int
    message: Message


@record
class ClientDisconnected:
    """The connection of a pool broke. Its data stay until the center says that it is gone."""

    client: str


@record
class CenterConnected:
    """There is a new connection to the center; it wants a snapshot."""


@record
class CenterLost:
    """The connection to the center is gone; there is nobody to report to."""


@record
class ExecutorStarted:
    """`Spawn` worked."""

    executor: int
    pid: int


@record
class ExecutorEnded:
    """An executor is gone, whatever the reason; `serial` is the task that it was running (0: none).

    `cause` is 'limit' if it was killed because it had more memory of its own than a task may, 'machine' if the kernel
    killed it for want of memory, 'initializer' if it ended in what a pool has called first.
    """

    executor: int
    serial: int = 0
    signal: int = 0
    exit_code: int = 0
    peak_bytes: int = 0
    stderr_tail: str = ""
    stack: str = ""
    cause: str = ""
    task_memory_limit: int = 0


@record
class Running:
    """Answer to `AskRunning`: which task (0: none) since when."""

    executor: int
    serial: int
    started_s: float


@record
class RoomWanted:
    """A writer on a bulk connection wants a file of this size; answered by `GrantRoom` or `RefuseRoom`."""

    writer: int
    nbytes: int


@record
class RoomAbandoned:
    """The writer that reserved this file went away."""

    path: str


@record
class Allocated:
    """`Allocate` worked."""

    ticket: int
    path: str


@record
class AllocationFailed:
    """`Allocate` did not work."""

    ticket: int
    reason: str


@record
class Put:
    """A client (or someone by hand, with an empty owner) stored values here. Columns; a path or else a value."""

    owner: str
    keys: list[str]
    nbytes: list[int]
    values: list[bytes | None]
    paths: list[str]


@record
class Posted:
    """A member of a group has a message for tasks here. A path, or else a value; answered by `AnswerPost`."""

    writer: int
    keys: list[str]
    attempts: list[int]
    numbers: list[int]
    sender: int
    tag: int
    nbytes: int
    value: bytes
    path: str


@record
class Fetched:
    """A peer answered. Columns; a size of -1: it does not hold that; a path of ours, or else a value."""

    fetch: int
    nbytes: list[int]
    values: list[bytes | None]
    paths: list[str]


@record
class FetchFailed:
    """A peer did not answer; or (`is_full`) the file system had no room for its answer, whatever the accounts say."""

    fetch: int
    reason: str
    is_full: bool = False


@record
class Spilled:
    """`Spill` worked: this is the copy on disk."""

    ticket: int
    path: str


@record
class SpillFailed:
    """`Spill` did not work; the file is where it was, or `is_lost`: somebody removed it."""

    ticket: int
    reason: str
    is_lost: bool = False


@record
class Loaded:
    """`Load` worked: this is the copy in memory."""

    ticket: int
    path: str


@record
class LoadFailed:
    """`Load` did not work; the file on disk is where it was."""

    ticket: int
    reason: str


@record
class LeaveAsked:
    """Somebody wants this worker to leave in an orderly way; `Leave` follows when nothing is left to do."""


@record
class Tick:
    """The time asked for with `WakeAt` has come."""


# ------------------------------------------------------------------------------------------------------- instructions


@record
class Send:
    """Send a message to a pool; dropped when it is not connected."""

    client: str
    message: Message


@record
class HangUp:
    """Close the connection to a pool, if there is one; `ClientDisconnected` follows."""

    client: str


@record
class ToCenter:
    """Send a message to the center."""

    message: Message


@record
class Give:
    """Send a message to an executor: Run, Room, CancelRunning, ToTask or Letter."""

    executor: int
    message: Message


@record
class Spawn:
    """Start an executor."""

    executor: int
    asynchronous: bool = False


@record
class Kill:
    """Kill an executor with its process group; `ExecutorEnded` follows."""

    executor: int


@record
class AskRunning:
    """Look into the progress cell of an executor; `Running` follows."""

    executor: int


@record
class Fetch:
    """Ask a peer for values; large ones go to files in memory, or in the spill directory."""

    fetch: int
    peer: str
    keys: list[str]
    attempts: list[int]
    nbytes: list[int]
    on_disk: bool = False


@record
class Allocate:
    """Make a file of this size, its pages allocated: in memory, or in the spill directory."""

    ticket: int
    nbytes: int
    on_disk: bool = False


@record
class GrantRoom:
    """Tell a writer on a bulk connection where to write."""

    writer: int
    path: str


@record
class RefuseRoom:
    """Tell a writer on a bulk connection that there is no room."""

    writer: int
    reason: str


@record
class AnswerPost:
    """Tell a writer on a bulk connection what became of its message: 'taken', 'full' or 'over'."""

    writer: int
    outcome: str


@record
class Spill:
    """Copy a file to disk; the original is removed with `Remove` once nobody needs it."""

    ticket: int
    path: str


@record
class Load:
    """Copy a file from disk to memory; the original is removed with `Remove` once nobody needs it."""

    ticket: int
    path: str


@record
class Remove:
    """Unlink a file of the store."""

    path: str


@record
class WakeAt:
    """Send a `Tick` at this time; replaces what was asked for before."""

    time_s: float


@record
class Leave:
    """Nothing is left to do here: end."""


@record
class Say:
    """News for the person who runs the worker."""

    text: str


@record
class Log:
    """A line for the person who runs the worker."""

    text: str
