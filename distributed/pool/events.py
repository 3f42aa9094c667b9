"""What can happen to a pool (events), and what its mind may ask its shell to do (instructions). Data only.

A wire message is an event too: it arrives inside `Received` (from a worker) or `CenterSaid`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from distributed.pool.tasks import Task
from distributed.record import record
from distributed.wire.messages import Member, Message, Output

# -------------------------------------------------------------------------------------------------------- local events


@record
class Submitted:
    """The user asked for these tasks."""

    tasks: list[Task]


@record
class Storing:
    """The user's values are about to be put on workers: what a worker lists from now on may be one of them."""

    tasks: list[Task]


@record
class Stored:
    """The user's value was put on these workers, which acknowledged it."""

    task: Task
    holders: list[str]
    nbytes: int
    contains: list[Task]


@record
class Claimed:
    """One more handle refers to this task."""

    task: Task


@record
class Dropped:
    """A handle of each of these tasks is gone."""

    tasks: list[Task]


@record
class Exported:
    """A handle of this task was pickled for somebody else: it lives until it is withdrawn."""

    task: Task


@record
class Shown:
    """A name is about to stand for this task: others may ask for its value, and for what is in it."""

    task: Task


@record
class Unexported:
    """The user released a task whose handle had been pickled."""

    task: Task


@record
class Borrowed:
    """A handle of another client's key arrived in this process."""

    task: Task


@record
class Located:
    """The center told where a borrowed key is (`holders`), or that it will not come (`error`)."""

    task: Task
    holders: dict[str, list[int]]  # address -> [attempt, nbytes]
    error: Any = None


@record
class Wanted:
    """The user asks for a value: these holders said that they do not have it, the others could not be reached.

    `handled` becomes true when it makes sense to look again.
    """

    task: Task
    refused: list[str]
    handled: bool = False


@record
class CancelAsked:
    """The user wants these tasks no longer; or, with an error, they can never have a value."""

    tasks: list[Task]
    error: Exception | None = None


@record
class RestartAsked:
    """The user wants fresh executors everywhere. `pending` names who has not done it; `done` is set last."""

    pending: dict[str, str] = dataclasses.field(default_factory=dict)  # address -> incarnation
    done: bool = False
    is_given_up: bool = False  # nobody waits any more


@record
class Received:
    """A worker sent a message."""

    address: str
    message: Message


@record
class CenterReached:
    """There is a connection to the center (again), and our registration is on its way: what is said now follows it."""


@record
class CenterSaid:
    """The center sent a message."""

    message: Message


@record
class Connected:
    """The connection to a worker that `Connect` asked for is there. It holds these keys of ours: [key, attempt]."""

    member: Member
    held: list[list[Any]] = dataclasses.field(default_factory=list)


@record
class Disconnected:
    """The connection to a worker broke, or could not be made."""

    member: Member
    reason: str


@record
class Tick:
    """The time asked for with `WakeAt` has come."""


# -------------------------------------------------------------------------------------------------------- instructions


@record
class Send:
    """Send a message to a worker."""

    address: str
    message: Message


@record
class TellCenter:
    """Send a message to the center."""

    message: Message


@record
class Connect:
    """Connect to a worker, not before `after_s` from now."""

    member: Member
    after_s: float = 0.0


@record
class Disconnect:
    """Close the connection to a worker."""

    address: str


@record
class Locate:
    """Ask the center where a borrowed key is; answer with `Located`."""

    task: Task


@record
class Resolved:
    """These tasks have an outcome now: wake whoever waits for them."""

    tasks: list[Task]


@record
class Show:
    """Show the user what a task printed."""

    output: Output


@record
class Warn:
    """Tell the user something that needs attention."""

    text: str


@record
class WakeAt:
    """Come back with a `Tick` at this time."""

    time: float


Event = Any
Instruction = Any
