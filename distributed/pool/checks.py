"""What others may say to a pool, and in which shape. Looked at before anything changes: a peer's bug is not ours.

The codec has checked the outer types of fields; here is what it cannot know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from distributed.errors import ProtocolError
from distributed.pool.events import CenterSaid, Connected, Located, Received
from distributed.wire.messages import (
    Adopted,
    Evicted,
    Failed,
    Finished,
    Gathered,
    Leaving,
    Members,
    NeedFunction,
    Offer,
    Output,
    Recalled,
    Restarted,
    TaskSays,
    WorkerJoined,
    WorkerLeft,
)

FROM_CENTER: Final = (Members, WorkerJoined, WorkerLeft)
FAILURES: Final = ("raised", "crashed", "timeout", "missing", "full", "requeue")
_PACKED_OR_NOT: Final = frozenset({bytes, type(None)})
DETAILS: Final[dict[str, Any]] = {
    "signal": int,
    "exit_code": int,
    "peak_bytes": (int, float),
    "stderr_tail": str,
    "stack": str,
    "reason": str,
    "cause": str,
    "task_memory_limit": int,
    "waited_s": (int, float),
    "never": bool,
    "cancelled": bool,
    "yield_s": (int, float),
}


def check_received(event: Received) -> None:
    """A worker's message."""
    check = _CHECKS.get(type(event.message))
    if check is None:
        raise ProtocolError(f"a worker does not say {event.message.operation} to a pool")
    check(event.message)


def check_center_said(event: CenterSaid) -> None:
    """The center's message."""
    if not isinstance(event.message, FROM_CENTER):
        raise ProtocolError(f"the center does not say {event.message.operation} to a pool")


def check_connected(event: Connected) -> None:
    """What a worker lists that it holds."""
    _require(_are_pairs(event.held), "attach: a held key is not [key, attempt]")


def complaint_about(event: Located) -> ProtocolError | None:
    """What is wrong with what the center says of where a value is. An answer, so it can only harm who asked."""
    is_right = isinstance(event.holders, dict) and all(
        isinstance(address, str) and _is_numbers(where, 2) for address, where in event.holders.items()
    )
    if is_right and event.holders:
        return None
    return ProtocolError(f"the center tells nonsense about where {event.task.key} is: {event.holders!r:.80}")


def _check_finished(message: Finished) -> None:
    """Written out, because it runs for every round trip: a sentence is made only when something is wrong."""
    count, values = len(message.keys), message.values
    if not count == len(message.attempts) == len(message.nbytes) == len(values) == len(message.durations_us):
        raise ProtocolError("finished: columns of different lengths")
    if count and (min(message.nbytes) < 0 or min(message.durations_us) < 0):
        raise ProtocolError("finished: a negative size or duration")
    if count > 1 and len(set(message.keys)) < count:
        raise ProtocolError("finished: a key twice")
    if not _PACKED_OR_NOT.issuperset(map(type, values)):
        raise ProtocolError("finished: a value is not packed")
    if message.contains:
        _require(all(0 <= at < count for at in message.contains), "finished: contains has no such position")
        references = (reference for inside in message.contains.values() for reference in inside)
        _require(all(map(_is_reference, references)), "finished: a contained handle is not a reference")
    if message.held:
        _require(_are_pairs(message.held), "finished: a held key is not [key, attempt]")


def _check_failed(message: Failed) -> None:
    detail = message.detail
    _require(message.kind in FAILURES, f"failed: no such kind as {message.kind!r:.80}")
    _require(_are_pairs(message.held), "failed: a held key is not [key, attempt]")
    for name, kind in DETAILS.items():
        _require(detail.get(name) is None or isinstance(detail[name], kind), f"failed: {name} has the wrong type")
    if message.kind == "missing":
        refused = detail.get("refused", {})
        _require(bool(detail.get("keys")) and _is_texts(detail["keys"]), "failed: missing without keys")
        _require(isinstance(refused, dict) and all(map(_is_texts, refused.values())), "failed: refused by nobody")


def _check_columns(message: Recalled | Gathered | Evicted | Offer | Adopted) -> None:
    _require(len(message.keys) == len(message.attempts), f"{message.operation}: columns of different lengths")


def _require(is_right: bool, complaint: str) -> None:
    if not is_right:
        raise ProtocolError(complaint)


def _are_pairs(items: Any) -> bool:
    return isinstance(items, list) and all(
        isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], str) and isinstance(item[1], int)
        for item in items
    )


def _is_reference(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and len(item) == 4 and isinstance(item[0], str)


def _is_texts(items: Any) -> bool:
    return isinstance(items, list) and all(isinstance(item, str) for item in items)


def _is_numbers(items: Any, count: int) -> bool:
    return isinstance(items, (list, tuple)) and len(items) == count and all(isinstance(item, int) for item in items)


_CHECKS: dict[type, Callable[[Any], None]] = {
    Finished: _check_finished,
    Failed: _check_failed,
    Recalled: _check_columns,
    Gathered: _check_columns,
    Evicted: _check_columns,
    Leaving: lambda message: None,
    Offer: _check_columns,
    Adopted: _check_columns,
    Restarted: lambda message: None,
    NeedFunction: lambda message: None,
    Output: lambda message: None,
    TaskSays: lambda message: None,  # what it says is looked at before anything else
}
FROM_WORKERS: Final = tuple(_CHECKS)
CHECKS: Final[dict[type, Callable[[Any], None]]] = {
    Received: check_received,
    CenterSaid: check_center_said,
    Connected: check_connected,
}
"""By event: raises `ProtocolError` where somebody else did wrong."""
