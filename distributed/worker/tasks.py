"""What a worker was asked to do: tasks, the order each came with, and functions with their measured durations.

Tasks of one message share an `Order`: what is the same for all is kept once. States of a task::

    (code unknown) ──▶ fetching ──▶ queued ──▶ given ──▶ done: Finished or Failed
         │                │           │ ▲        │
         │                │           │ └────────┘ its executor died, it was not the one running
         └────────────────┴───────────┴─▶ dropped: cancelled, recalled, replaced by a newer attempt
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from distributed.config import Settings
from distributed.errors import ProtocolError
from distributed.wire.messages import Compute, Outcomes
from distributed.worker.store import Entry

WEIGHT_OF_PAST = 8  # the mean duration of a function weighs its past as this many tasks at most


class Function:
    """A function by the hash of its pickle. Those given alone (`once`) are kept apart from their namesakes."""

    def __init__(self, identity: bytes, once: bool) -> None:
        self.identity, self.once = identity, once
        self.name = ""
        self.code: bytes | None = None
        self.mean_s: float | None = None  # None: never measured
        self.seen = 0
        self.waiting: list[Task] = []  # tasks that came before the code
        self.asked: dict[str, None] = {}  # clients that were asked for the code

    def learn(self, count: int, total_s: float) -> None:
        """`count` tasks took `total_s` together.

        >>> f = Function(b'f', once=False); f.learn(1, 0.5); f.learn(3, 0.3); round(f.mean_s, 3)
        0.2
        """
        if self.mean_s is None:
            self.mean_s = total_s / count
        else:
            self.mean_s += (total_s / count - self.mean_s) * count / (count + min(self.seen, WEIGHT_OF_PAST))
        self.seen += count


class Functions:
    """Functions known here, within bounds; one that is forgotten while tasks need it lives on with them."""

    def __init__(self, settings: Settings) -> None:
        self.count_max, self.bytes_max = settings.functions_cached_max, settings.functions_cached_bytes_max
        self.nbytes = 0
        self._known: OrderedDict[tuple[bytes, bool], Function] = OrderedDict()

    def get(self, identity: bytes, once: bool, name: str = "") -> Function:
        """The function of that name; its `code` is None when it was never seen, or forgotten."""
        key = (identity, once)
        function = self._known.get(key)
        if function is None:
            function = self._known[key] = Function(identity, once)
            function.name = name
            twin = self._known.get((identity, not once))
            if twin is not None and twin.code is not None:
                self.define(function, twin.code)
        self._known.move_to_end(key)
        return function

    def define(self, function: Function, code: bytes) -> None:
        """This is its code. The functions used longest ago make room."""
        if function.code is None:
            self.nbytes += len(code)
        function.code = code
        for key, old in list(self._known.items()):
            if len(self._known) <= self.count_max and self.nbytes <= self.bytes_max:
                break
            if old is not function and not old.waiting:
                del self._known[key]
                self.nbytes -= len(old.code or b"")

    def both(self, identity: bytes) -> list[Function]:
        """The function of that identity, in either form, if it is known."""
        return [f for once in (False, True) if (f := self._known.get((identity, once))) is not None]

    def check(self) -> None:
        assert self.nbytes == sum(len(f.code or b"") for f in self._known.values())


@dataclasses.dataclass(slots=True, eq=False)
class Order:
    """What the tasks of one Compute message have in common."""

    client: str
    function: Function
    priority: float
    timeout_s: float
    asynchronous: bool


class Task:
    """One attempt of one key. What most tasks never need is a default of the class: one of these is made per task."""

    queued = False
    inputs: Sequence[Any] = ()  # as they came: [key, attempt, nbytes, holders, inline]
    entries: Sequence[Entry | bytes | None] = ()  # parallel to inputs; None: not here yet
    missing = 0  # inputs not here yet
    serial = 0  # its number at the executor that has it; 0: not given
    executor = 0
    verdict = ""  # why its outcome will not count: 'cancelled' or 'timeout'
    requeues = 0
    given_s = 0.0  # asynchronous tasks: since when

    def __init__(self, order: Order, function: Function, key: str, attempt: int, args: bytes) -> None:
        self.order, self.function, self.key, self.attempt, self.args = order, function, key, attempt, args

    def __repr__(self) -> str:
        return f"<Task {self.key}@{self.attempt}>"


# What the codec cannot see. A peer that sends such things loses its connection before anything here is changed.

INPUT_TYPES = (str, int, int, list, (bytes, type(None)))  # key, attempt, nbytes, holders, inline


def check_compute(message: Compute) -> None:
    """Whether the columns of a Compute fit together, and its inputs are inputs."""
    count = len(message.keys)
    if len(message.attempts) != count or len(message.args) != count:
        raise ProtocolError("compute: columns of different lengths")
    for position, inputs in message.inputs.items():
        if not isinstance(position, int) or not 0 <= position < count or not isinstance(inputs, list):
            raise ProtocolError("compute.inputs: no such task")
        for item in inputs:
            if not isinstance(item, list) or len(item) != 5 or not all(map(_is_a, item, INPUT_TYPES)):
                raise ProtocolError("compute.inputs: not [key, attempt, nbytes, holders, inline]")


def _is_a(value: object, kind: Any) -> bool:
    return isinstance(value, kind)


def check_outcomes(message: Outcomes) -> None:
    """Whether the columns of Outcomes fit together: the process that sent them runs user code."""
    count = len(message.serials)
    if not count == len(message.values) == len(message.nbytes) == len(message.durations_us):
        raise ProtocolError("outcomes: columns of different lengths")
