"""Messages to bytes and back; whatever a peer sends that is no message is a `ProtocolError`.

How a kind of message is written, read and checked is worked out from its class when the first one comes or goes, and
kept. What runs for each message is written out: it is on every task's way.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgpack

from distributed import address as addresses
from distributed import resources
from distributed.errors import BadAddress, ProtocolError
from distributed.wire import frames
from distributed.wire.messages import REGISTRY, Member, Message


def _check_for(annotation: Any) -> Callable[[Any], bool]:
    """A predicate for one field: its outer type, the items of lists of keys and numbers, keys and items of mappings.

    Numbers are finite: a time or a priority that compares with nothing would stay in a queue or a clock for ever.
    """
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if annotation is Any:
        return lambda value: True
    if annotation is float:
        return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and value - value == 0
    if annotation is int:
        return lambda value: isinstance(value, int) and not isinstance(value, bool)
    if origin is list and arguments and arguments[0] in (int, str, bytes):
        kind = {arguments[0]}
        return lambda value: isinstance(value, list) and (not value or set(map(type, value)) == kind)
    if origin is dict and arguments:
        key_kind, item_kind = {arguments[0]}, {get_origin(arguments[1]) or arguments[1]}
        check_item = _check_for(arguments[1]) if item_kind == {dict} else None
        return lambda value: (
            isinstance(value, dict)
            and (not value or (set(map(type, value)) == key_kind and set(map(type, value.values())) == item_kind))
            and (check_item is None or all(map(check_item, value.values())))
        )
    return lambda value: isinstance(value, origin)


def _restore_for(annotation: Any) -> Callable[[Any], Any] | None:
    return {Member: restore_member, list[Member]: restore_members}.get(annotation)


def restore_member(value: Any) -> Member:
    """A member as it travelled, in a field of a message or in a reply; what no worker can be is a `ProtocolError`.

    >>> restore_member(['alice:1', 'one', 'alice', 0, 1000])
    Traceback (most recent call last):
    distributed.errors.ProtocolError: a member with 0 cores
    """
    try:
        member = Member(*value)
    except TypeError as error:
        raise ProtocolError("not a member") from error
    for name, check in _MEMBER_CHECKS:
        if not check(getattr(member, name)):
            raise ProtocolError(f"a member whose {name} has the wrong type")
    try:
        addresses.parse(member.address)
    except BadAddress as error:
        raise ProtocolError(f"a member whose address is none: {error}") from error
    if member.ncores < 1:
        raise ProtocolError(f"a member with {member.ncores} cores")
    if member.memory_limit < 0:
        raise ProtocolError(f"a member with a memory limit of {member.memory_limit} bytes")
    if min(member.resources.values(), default=1) < 1:
        raise ProtocolError("a member with less than one of a resource")
    if not all(map(resources.is_name, member.resources)):
        raise ProtocolError("a member with a resource whose name is none")
    return member


def restore_members(value: Any) -> list[Member]:
    """Members as they travelled."""
    if not isinstance(value, list):
        raise ProtocolError("not a list of members")
    return [restore_member(item) for item in value]


@dataclasses.dataclass(slots=True, frozen=True)
class _Plan:
    """How one kind of message is written and read, worked out once."""

    cls: type[Message]
    steps: list[tuple[str, Callable[[Any], bool], Callable[[Any], Any] | None]]  # name, check and restore of each field
    required: int  # so many fields must come
    has_buffers: bool
    row: Callable[[Any], tuple[Any, ...]]  # a message's fields in their order
    numbers: list[int]  # where there may be NaN or infinity; checked also where outer types are right, as are
    lists: list[tuple[int, type]]  # where there are lists, and of what
    mappings: list[tuple[int, Callable[[Any], bool]]]  # where there are dictionaries
    passed: set[tuple[type, ...]]  # outer types of all fields that passed every check


def _plan(cls: type[Message]) -> _Plan:
    hints = get_type_hints(cls)
    fields = [field for field in dataclasses.fields(cls) if field.name != "buffers"]
    required = sum(
        field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING for field in fields
    )
    steps = [(field.name, _check_for(hints[field.name]), _restore_for(hints[field.name])) for field in fields]
    kinds = [get_args(hints[field.name]) for field in fields]
    numbers = [at for at, field in enumerate(fields) if hints[field.name] is float]
    lists = [(at, kind[0]) for at, kind in enumerate(kinds) if len(kind) == 1 and kind[0] in (int, str, bytes)]
    mappings = [(at, steps[at][1]) for at, kind in enumerate(kinds) if len(kind) == 2]
    has_buffers = len(fields) != len(dataclasses.fields(cls))
    return _Plan(
        cls, steps, required, has_buffers, _row([field.name for field in fields]), numbers, lists, mappings, set()
    )


def _row(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """All these attributes in one call that runs no Python code."""
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda message: tuple(getattr(message, name) for name in names)


_MEMBER_CHECKS = [(name, _check_for(annotation)) for name, annotation in get_type_hints(Member).items()]


class _Plans(dict[str, _Plan]):
    """The plan of each operation, worked out when the first such message comes or goes: nobody meets all of them."""

    def __missing__(self, operation: str) -> _Plan:
        self[operation] = plan = _plan(REGISTRY[operation])
        return plan


class _Writers(dict[type[Message], tuple[str, Callable[[Any], tuple[Any, ...]], bool]]):
    """The operation of each kind of message, its fields, and whether it has buffers."""

    def __missing__(self, cls: type[Message]) -> tuple[str, Callable[[Any], tuple[Any, ...]], bool]:
        plan = _PLANS[cls.operation]
        self[cls] = writer = cls.operation, plan.row, plan.has_buffers
        return writer


_PLANS, _WRITERS = _Plans(), _Writers()


_MEMBER_FIELDS = operator.attrgetter(*[field.name for field in dataclasses.fields(Member)])


def _default(value: Any) -> Any:
    if isinstance(value, Member):
        return _MEMBER_FIELDS(value)
    raise TypeError(f"a {type(value).__name__} cannot travel in a message")


_PREFIX_OF = frames.PREFIX.pack
_PACKERS: list[msgpack.Packer] = []  # those that nobody uses just now: making one costs as much as packing
_PACKER_BYTES_MAX: Final = 1 << 20  # one that packed more keeps that much memory


def encode_header(message: Message, request: int = 0) -> bytes:
    """The msgpack header of a message's frame."""
    operation, row, _ = _WRITERS[type(message)]
    try:
        packer = _PACKERS.pop()  # so that no other thread has it, and no finalizer that runs meanwhile
    except IndexError:
        packer = msgpack.Packer(default=_default)
    packed: bytes = packer.pack((operation, request, *row(message)))
    if len(packed) <= _PACKER_BYTES_MAX:
        _PACKERS.append(packer)
    return packed


def encode_frame(message: Message, request: int = 0) -> list[bytes | memoryview]:
    """The pieces of a message's whole frame, to be written in this order."""
    header = encode_header(message, request)
    if _WRITERS[type(message)][2]:
        return frames.encode(header, buffers_of(message))
    return [_PREFIX_OF(len(header), 0) + header]  # nearly all of them: one call less


def buffers_of(message: Message) -> list:
    """The raw buffers of a message's frame."""
    return getattr(message, "buffers", [])


def decode(header: bytes | memoryview, buffers: Iterable[Any] = ()) -> tuple[Message, int]:
    """The message in a frame and its request number; whatever is wrong with it is a `ProtocolError`.

    >>> from distributed.wire.messages import WhoHas
    >>> decode(encode_header(WhoHas(keys=['x']), request=7))
    (WhoHas(keys=['x'], wait_s=0.0), 7)
    """
    try:
        operation, request, *values = msgpack.unpackb(header, strict_map_key=False)
        plan = _PLANS[operation]
    except Exception as error:  # msgpack and unpacking raise a dozen kinds; all mean one thing here
        raise ProtocolError(f"a frame whose header is not a message ({type(error).__name__})") from error
    types = tuple(map(type, values))
    if types not in plan.passed or type(request) is not int or request < 0:
        _check(plan, operation, request, values)
        if len(types) == len(plan.steps) and not any(restore for _, _, restore in plan.steps):
            plan.passed.add(types)
    else:  # what every message after the first of its kind takes: a third of the time
        for position in plan.numbers:
            if values[position] - values[position] != 0:  # NaN or infinite; no call
                raise ProtocolError(f"{operation}.{plan.steps[position][0]} is no finite number")
        for position, kind in plan.lists:
            value = values[position]
            if type(value[0]) is not kind if len(value) == 1 else value and set(map(type, value)) != {kind}:
                raise ProtocolError(f"{operation}.{plan.steps[position][0]} has the wrong type")
        for position, check in plan.mappings:
            if values[position] and not check(values[position]):
                raise ProtocolError(f"{operation}.{plan.steps[position][0]} has the wrong type")
    if plan.has_buffers:
        return plan.cls(*values, buffers=list(buffers)), request  # type: ignore[call-arg]
    return plan.cls(*values), request


def decode_unchecked(header: bytes) -> Message:
    """The message in a frame of a process that is trusted like this one; anything may be raised if it is none."""
    operation, _, *values = msgpack.unpackb(header, strict_map_key=False)
    return _PLANS[operation].cls(*values)


def _check(plan: _Plan, operation: str, request: Any, values: list[Any]) -> None:
    """Check everything, and restore in place what travels in another form."""
    if not isinstance(request, int) or request < 0 or not plan.required <= len(values) <= len(plan.steps):
        expected = f"between {plan.required} and {len(plan.steps)} expected"
        raise ProtocolError(f"{operation}: {len(values)} fields, {expected}")
    for position, (name, check, restore) in enumerate(plan.steps[: len(values)]):
        if restore:
            values[position] = restore(values[position])
        elif not check(values[position]):
            raise ProtocolError(f"{operation}.{name} has the wrong type")
