"""What happens to the center (events), and what it wants done (instructions). Plain data, no behaviour."""

from __future__ import annotations

import dataclasses

from distributed.wire import messages as m

# ------------------------------------------------------------------------------------------------------------- events


@dataclasses.dataclass(slots=True, frozen=True)
class Received:
    """A message came over a connection."""

    connection: int
    message: m.Message
    request: int = 0


@dataclasses.dataclass(slots=True, frozen=True)
class Disconnected:
    """A connection is closed, by whatever side."""

    connection: int


@dataclasses.dataclass(slots=True, frozen=True)
class Told:
    """Everyone whom a `Tell` addressed has answered, or is gone, or too slow."""

    token: int


@dataclasses.dataclass(slots=True, frozen=True)
class Tick:
    """A time that was asked for by `WakeAt` has come."""


Event = Received | Disconnected | Told | Tick

# ------------------------------------------------------------------------------------------------------- instructions


@dataclasses.dataclass(slots=True, frozen=True)
class Send:
    """Send a message; a `request` number makes it the answer to that request."""

    connection: int
    message: m.Message
    request: int = 0


@dataclasses.dataclass(slots=True, frozen=True)
class Broadcast:
    """Send one message to several."""

    connections: list[int]
    message: m.Message


@dataclasses.dataclass(slots=True, frozen=True)
class Tell:
    """Send one message to several as a request; report `Told` when it is sure that all who live have read it."""

    connections: list[int]
    message: m.Message
    token: int


@dataclasses.dataclass(slots=True, frozen=True)
class WakeAt:
    """Report a `Tick` at this time. It replaces what was asked for before."""

    time: float


@dataclasses.dataclass(slots=True, frozen=True)
class Close:
    """Close a connection."""

    connection: int
    reason: str


@dataclasses.dataclass(slots=True, frozen=True)
class Say:
    """Write a log line."""

    text: str


@dataclasses.dataclass(slots=True, frozen=True)
class End:
    """End the center cleanly."""


Instruction = Send | Broadcast | Tell | WakeAt | Close | Say | End
