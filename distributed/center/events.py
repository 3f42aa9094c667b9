"""What happens to the center (events), and what it wants done (instructions). Plain data, no behaviour."""

from __future__ import annotations

from distributed.record import record
from distributed.wire import messages as m

# ------------------------------------------------------------------------------------------------------------- events


@record
class Received:
    """A message came over a connection."""

    connection: int
    message: m.Message
    request: int = 0


@record
class Disconnected:
    """A connection is closed, by whatever side."""

    connection: int


@record
class Told:
    """Everyone whom a `Tell` addressed has answered, or is gone, or too slow."""

    token: int


@record
class Parted:
    """Two connections that were joined by `Join` have ended."""

    splice: int


@record
class Tick:
    """A time that was asked for by `WakeAt` has come."""


Event = Received | Disconnected | Told | Parted | Tick

# ------------------------------------------------------------------------------------------------------- instructions


@record
class Send:
    """Send a message; a `request` number makes it the answer to that request."""

    connection: int
    message: m.Message
    request: int = 0


@record
class Broadcast:
    """Send one message to several."""

    connections: list[int]
    message: m.Message


@record
class Tell:
    """Send one message to several as a request; report `Told` when it is sure that all who live have read it."""

    connections: list[int]
    message: m.Message
    token: int


@record
class Join:
    """Pass bytes on between two connections, which carry no messages any more; report `Parted` at the end."""

    splice: int
    one: int
    other: int
    idle_s: float = 0.0  # end it when nothing came over it for so long; 0: never


@record
class Part:
    """End what was joined."""

    splice: int


@record
class WakeAt:
    """Report a `Tick` at this time. It replaces what was asked for before."""

    time: float


@record
class Close:
    """Close a connection."""

    connection: int
    reason: str


@record
class Say:
    """Write a log line."""

    text: str


@record
class End:
    """End the center cleanly."""


Instruction = Send | Broadcast | Tell | Join | Part | WakeAt | Close | Say | End
