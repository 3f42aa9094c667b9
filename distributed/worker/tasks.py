"""What a worker was asked to do: tasks, the order each came with, and functions with their measured durations.

Tasks of one message share an `Order`: what is the same for all is kept once. There is no object for a task: those of an
order that are in the same state are a `Part`, with columns. States of a part::

    (code unknown) ──▶ fetching ──▶ queued ──▶ given ──▶ done: Finished or Failed
         │                │           │ ▲        │
         │                │           │ └────────┘ its executor died, it was not the one running
         └────────────────┴───────────┴─▶ dropped: cancelled, recalled, replaced by a newer attempt
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import compress, repeat
from typing import Any

from distributed.config import Settings
from distributed.errors import ProtocolError
from distributed.key import account_of
from distributed.resources import Demand, fit
from distributed.wire.messages import Compute, DeleteData, Member, Outcomes, TellGroup
from distributed.worker.store import Entry

WEIGHT_OF_PAST = 8  # the mean duration of a function weighs its past as this many tasks at most


class Function:
    """A function by the hash of its pickle. Those given alone (`once`) are kept apart from their namesakes."""

    def __init__(self, identity: bytes, once: bool) -> None:
        self.identity, self.once = identity, once
        self.code: bytes | None = None
        self.mean_s: float | None = None  # None: never measured
        self.seen = 0
        self.waiting: dict[Part, None] = {}  # tasks that came before the code
        self.asked: dict[str, None] = {}  # clients that were asked for the code
        self.needs: tuple[Function, ...] = ()  # what executors have to call before
        self.needed_by: dict[Function, None] = {}  # functions with tasks that wait for this one's code

    @property
    def is_awaited(self) -> bool:
        """Whether tasks wait for its code."""
        return bool(self.waiting) or any(function.waiting for function in self.needed_by)

    def lacking(self) -> list[Function]:
        """This function and what it needs, as far as their code is not here."""
        return [function for function in (self, *self.needs) if function.code is None]

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

    def get(self, identity: bytes, once: bool) -> Function:
        """The function of that name; its `code` is None when it was never seen, or forgotten."""
        key = (identity, once)
        function = self._known.get(key)
        if function is None:
            function = self._known[key] = Function(identity, once)
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
            if old is not function and not old.is_awaited:
                del self._known[key]
                self.nbytes -= len(old.code or b"")

    def both(self, identity: bytes) -> list[Function]:
        """The function of that identity, in either form, if it is known."""
        return [f for once in (False, True) if (f := self._known.get((identity, once))) is not None]

    def check(self) -> None:
        assert self.nbytes == sum(len(f.code or b"") for f in self._known.values())


class Order:
    """What the tasks of a Compute message, or of several alike, have in common, and the parts they are in now."""

    __slots__ = (
        "account", "asynchronous", "begun", "client", "depth", "function", "name", "parts", "priority", "resources",
        "seat", "timeout_s", "together",
    )  # fmt: skip

    def __init__(
        self,
        client: str,
        function: Function,
        priority: float = 0.0,
        timeout_s: float = 0.0,
        asynchronous: bool = False,
        seat: int = -1,
        resources: Demand = (),
    ) -> None:
        self.client, self.function, self.priority = client, function, priority
        self.account = account_of(client)
        self.timeout_s, self.asynchronous, self.seat, self.resources = timeout_s, asynchronous, seat, resources
        self.name = ""  # what people call the function: groups have one function, and call that of the user's
        self.depth = 0  # of tasks that tasks submitted: how many are above them
        self.together = self.begun = False  # members of a group; whether their owner let them begin
        self.parts: dict[Part, None] = {}

    def is_like(self, client: str, function: Function, message: Compute) -> bool:
        """Whether the tasks of this message may as well be of this order: many come one by one."""
        return (
            self.client == client
            and self.function is function
            and self.name == message.name
            and self.priority == message.priority
            and self.timeout_s == message.timeout_s
            and self.asynchronous == message.asynchronous
            and self.seat == message.seat
            and self.resources == demand_of(message)
            and self.depth == message.depth
            and not (self.together or message.together)
        )

    def divide(self, keys: list[str], attempts: list[int], args: list[bytes], inputs: dict[int, list]) -> list[Part]:
        """The tasks as parts: those that need nothing, and those that have inputs."""
        if not keys:
            return []
        whole = Part(self, keys, attempts, args)
        if not inputs:
            return [whole]
        del self.parts[whole]
        needed = list(map(inputs.get, range(len(keys)), repeat(())))
        producers = [position for position, some in enumerate(needed) if not some]
        whole.inputs = needed
        consumers = [position for position, some in enumerate(needed) if some]
        parts = [whole.pick(positions) for positions in (producers, consumers) if positions]
        if producers:
            parts[0].inputs = ()
        return parts

    def find(self, keys: Collection[str]) -> list[tuple[Part, list[int]]]:
        """Where tasks are: each part that has some of them, and their positions there. One look at everything."""
        wanted = frozenset(keys)
        return [
            (part, [position for position, key in enumerate(part.keys) if key in wanted])
            for part in self.parts
            if not wanted.isdisjoint(part.keys)
        ]


class Part:
    """Tasks of one order that are in the same state: hundreds, or one that has to wait for its inputs or to use files.

    Columns, because most tasks come, wait, go to an executor and end beside their like: nothing is done for one of them
    that C code cannot do for all. Where one has a fate of its own it is split off. No column is shared with a message
    that is sent. What most parts never need is a default of the class.
    """

    queued = False
    has_resources = False  # those that its order asks for, for each of its tasks
    inputs: Sequence[Any] = ()  # as they came, a column, too: each a list of [key, attempt, nbytes, holders, inline]
    ready: Sequence[Any] = ()  # instead, where all inputs are small values that are here: as an executor wants them
    entries: Sequence[Entry | bytes | None] = ()  # of a single task, parallel to its inputs; None: not here yet
    missing = 0  # inputs not here yet
    serial = 0  # the first one's number at the executor that has them; 0: not given
    executor = 0
    verdict = ""  # why their outcomes will not count: 'cancelled' or 'timeout'
    requeues = 0
    given_s = 0.0  # asynchronous tasks: since when

    def __init__(self, order: Order, keys: list[str], attempts: list[int], args: list[bytes]) -> None:
        self.order, self.function = order, order.function
        self.keys, self.attempts, self.args = keys, attempts, args
        order.parts[self] = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def depth(self) -> int:
        """How many tasks are above them, which may wait for them."""
        return self.order.depth

    @property
    def together(self) -> bool:
        """Whether they are members of a group, which start at one time."""
        return self.order.together

    def split(self, count: int) -> Part:
        """Keep the first `count` tasks; the others, in the same state, are a part of their own from here on.

        >>> part = Part(Order('alice', Function(b'f', once=False)), ['a', 'b', 'c'], [1, 1, 1], [b'', b'', b''])
        >>> part.split(1), part
        (<Part b@1..c@1>, <Part a@1>)
        """
        rest = Part(self.order, self.keys[count:], self.attempts[count:], self.args[count:])
        self.keys, self.attempts, self.args = self.keys[:count], self.attempts[:count], self.args[:count]
        if self not in self.order.parts:  # they were cancelled, and run to an end that nobody waits for
            del self.order.parts[rest]
        if self.serial:
            rest.serial, rest.executor = self.serial + count, self.executor
            rest.verdict, rest.given_s = self.verdict, self.given_s
        rest.queued, rest.requeues, rest.has_resources = self.queued, self.requeues, self.has_resources
        if self.ready:
            self.ready, rest.ready = self.ready[:count], self.ready[count:]
        elif self.inputs:
            self.inputs, rest.inputs = self.inputs[:count], self.inputs[count:]
        return rest

    def join(self, behind: Part) -> bool:
        """Take over tasks that come right behind these in the queue, if they are of the same order and kind."""
        if self.order is not behind.order or self.requeues or not self.queued or self.inputs or behind.inputs:
            return False
        del self.order.parts[behind]
        self.keys += behind.keys
        self.attempts += behind.attempts
        self.args += behind.args
        if self.ready:
            self.ready = [*self.ready, *behind.ready]
        return True

    def pick(self, positions: list[int]) -> Part:
        """Some of the tasks as a part of their own; they stay here, too, until this part is given up."""
        picked = Part(
            self.order,
            [self.keys[n] for n in positions],
            [self.attempts[n] for n in positions],
            [self.args[n] for n in positions],
        )
        if self.inputs:
            picked.inputs = [self.inputs[n] for n in positions]
        return picked

    def remove(self, positions: list[int]) -> None:
        """Forget some of these tasks.

        >>> part = Part(Order('alice', Function(b'f', once=False)), ['a', 'b', 'c'], [1, 2, 3], [b'', b'', b''])
        >>> part.remove([0, 2]); part
        <Part b@2>
        """
        kept = [True] * len(self.keys)
        for position in positions:
            kept[position] = False
        self.keys = list(compress(self.keys, kept))
        self.attempts = list(compress(self.attempts, kept))
        self.args = list(compress(self.args, kept))
        self.inputs = list(compress(self.inputs, kept))
        self.ready = list(compress(self.ready, kept))

    def __repr__(self) -> str:
        ends = dict.fromkeys(zip(self.keys[:1] + self.keys[-1:], self.attempts[:1] + self.attempts[-1:], strict=True))
        return f"<Part {'..'.join(f'{key}@{attempt}' for key, attempt in ends)}>"


# What the codec cannot see. A peer that sends such things loses its connection before anything here is changed.

INPUTS = frozenset({(str, int, int, list, bytes), (str, int, int, list, type(None))})
"""The types of an input: key, attempt, nbytes, holders, inline."""


def find(tasks: Mapping[str, Order], keys: Iterable[str]) -> list[tuple[Part, list[int]]]:
    """Where these tasks are, of those that are in the table: parts and positions."""
    orders: dict[Order, list[str]] = {}
    for key in keys:
        if key in tasks:
            orders.setdefault(tasks[key], []).append(key)
    return [found for order, some in orders.items() for found in order.find(some)]


def demand_of(message: Compute) -> Demand:
    """What each of these tasks uses."""
    return tuple(sorted(message.resources.items())) if message.resources else ()


def check_compute(message: Compute, member: Member) -> None:
    """Whether the columns of a Compute fit together, its inputs are inputs, and the tasks may run on this worker."""
    count = len(message.keys)
    if len(message.attempts) != count or len(message.args) != count:
        raise ProtocolError("compute: columns of different lengths")
    if message.seat >= 0 and (message.asynchronous or count > 1 or message.seat >= member.ncores):
        raise ProtocolError("compute: a seat is for one plain task, and there are as many as cores")
    if message.resources and (min(message.resources.values()) < 1 or not fit(demand_of(message), {}, member.resources)):
        raise ProtocolError("compute: tasks that need more than this worker has")
    alone = message.once and not (message.asynchronous or message.resources or message.seat >= 0)
    if message.together and not alone:
        raise ProtocolError("compute: members of a group are plain tasks, which run once")
    if not all(type(name) is bytes and type(code) is bytes for name, code in message.needs.items()):
        raise ProtocolError("compute.needs: not hashes and code")
    for position, inputs in message.inputs.items():
        if not isinstance(position, int) or not 0 <= position < count or not isinstance(inputs, list):
            raise ProtocolError("compute.inputs: no such task")
        for item in inputs:
            if type(item) is not list or tuple(map(type, item)) not in INPUTS:
                raise ProtocolError("compute.inputs: not [key, attempt, nbytes, holders, inline]")


def check_delete(message: DeleteData) -> None:
    """Whether the attempts of a DeleteData are those of its keys."""
    if message.attempts and len(message.attempts) != len(message.keys):
        raise ProtocolError("delete_data: columns of different lengths")


def check_told(message: TellGroup) -> None:
    """Whether the attempts of a TellGroup are those of its keys."""
    if len(message.attempts) != len(message.keys):
        raise ProtocolError("tell_group: columns of different lengths")


def check_outcomes(message: Outcomes) -> None:
    """Whether the columns of Outcomes fit together: the process that sent them runs user code."""
    count = len(message.serials)
    if not count == len(message.values) == len(message.nbytes) == len(message.durations_us):
        raise ProtocolError("outcomes: columns of different lengths")
    if count and (min(message.nbytes) < 0 or min(message.durations_us) < 0):
        raise ProtocolError("outcomes: a negative size or duration")


def stretches(serials: list[int], special: set[int]) -> list[tuple[int, int]]:
    """From and to which positions outcomes can be dealt with together: their numbers follow each other.

    Where something is special, it is by itself.

    >>> stretches([5, 6, 7, 9, 10], set()), stretches([5, 6, 7], {1})
    ([(0, 3), (3, 5)], [(0, 1), (1, 2), (2, 3)])
    """
    count = len(serials)
    if count == 1 or (count and not special and serials == list(range(serials[0], serials[0] + count))):
        return [(0, count)]
    starts = [
        position
        for position, serial in enumerate(serials)
        if not position or serial != serials[position - 1] + 1 or position in special or position - 1 in special
    ]
    return list(zip(starts, [*starts[1:], count], strict=True)) if starts else []
