"""Packed values: an object as bytes that describe themselves, and the object again.

A packed value is contiguous and relocatable, so that a file of it can be mapped and used in place. Its first byte is
its form. Three forms are compact; the fourth has room for everything::

    0x80  a pickle, and nothing else (0x80 is how every such pickle begins: the form costs nothing)
    0x01  one byte, then raw bytes
    0x02  one byte, then the content of a bytearray
    0x03  u8 form, 3 zero bytes, u32 number of buffers, u64 bytes of handles, u64 bytes of pickle,
          per buffer u64 length and u64 flags (1: read-only), handles (msgpack), pickle,
          then the buffers, each at a multiple of 64 bytes from the start of the value
    0x04  (calls only) one byte, then a pickle with marks

All integers are little endian. *Handles* are references to other stored values. In a stored value they stay handles;
in a call, each stands for the value it refers to. How an object is pickled is the business of `pickles`; where a packed
value is kept, of nobody here.
"""

from __future__ import annotations

import functools
import itertools
import pickle
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack

from distributed.errors import ProtocolError
from distributed.quantities import count, size
from distributed.wire.exceptions import RemoteTraceback, pack_exception, unpack_exception
from distributed.wire.pickles import CONTEXT, PROTOCOL, Mark, Marks, Reference, dump, load, reduce_handle
from distributed.wire.unpicklable import explain, named

__all__ = [
    "Packed",
    "RemoteTraceback",
    "contains_of",
    "pack",
    "pack_call",
    "pack_exception",
    "pack_marks",
    "pack_plain_calls",
    "reduce_handle",
    "unpack",
    "unpack_call",
    "unpack_exception",
]

PICKLE, BYTES, BYTEARRAY, FULL, MARKED = 0x80, 1, 2, 3, 4
ALIGNMENT: Final = 64
_HEAD: Final = struct.Struct("<B3xIQQ")
_READ_ONLY: Final = 1
_PADDING: Final = bytes(ALIGNMENT)
_ATOMS: Final = frozenset({int, float, str, bool, type(None), complex})  # always plain: no handles, no buffers
_CALL_ATOMS: Final = _ATOMS | {bytes}
_NUMBERS: Final = _ATOMS - {str}

Buffer = bytes | bytearray | memoryview


class Packed:
    """A packed value that has not been written anywhere yet; its large pieces are the object's own memory."""

    __slots__ = ("_pieces", "contains", "handles", "nbytes")

    def __init__(self, nbytes: int, pieces: list[Any], handles: Sequence[Any] = ()) -> None:
        self.nbytes, self._pieces = nbytes, pieces
        self.handles = handles  # found in the value, each once
        self.contains: list[Reference] = [handle.reference() for handle in handles]

    def pieces(self) -> list[Buffer]:
        """Buffers to be written one after the other; together `nbytes`."""
        return self._pieces

    def tobytes(self) -> bytes:
        """The whole value in one."""
        pieces = self._pieces
        return pieces[0] if len(pieces) == 1 and type(pieces[0]) is bytes else b"".join(pieces)

    def __repr__(self) -> str:
        return f"<Packed: {size(self.nbytes)}, {count(len(self.contains), 'handle')}>"


def pack(value: object, what: str = "the result") -> Packed:
    """Pack any object; `what` names it in the error if a part of it cannot be pickled.

    >>> unpack(pack({'alice': [1, 2]}).tobytes())
    {'alice': [1, 2]}
    """
    kind = type(value)
    if kind in _ATOMS:
        data = pickle.dumps(value, PROTOCOL)
        return Packed(len(data), [data])
    if kind is bytes:
        return Packed(1 + len(value), [b"\x01", value])  # type: ignore[arg-type]
    if kind is bytearray:
        return Packed(1 + len(value), [b"\x02", value])  # type: ignore[arg-type]
    if CONTEXT.how is not None:
        value = CONTEXT.how.carry(value)
    try:
        data, buffers, handles = dump(value)
    except Exception as error:
        raise explain(what, [(named(what), value)], error) from error
    if not buffers and not handles:
        return Packed(len(data), [data])
    return _lay_out(data, buffers, handles)


def _lay_out(data: bytes, buffers: list[memoryview], handles: Sequence[Any]) -> Packed:
    """The full form."""
    references = msgpack.packb([handle.reference() for handle in handles]) if handles else b""
    table = b"".join(struct.pack("<QQ", view.nbytes, _READ_ONLY if view.readonly else 0) for view in buffers)
    front = _HEAD.pack(FULL, len(buffers), len(references), len(data)) + table + references
    pieces: list[Buffer] = [front, data]
    nbytes = len(front) + len(data)
    for view in buffers:
        padding = -nbytes % ALIGNMENT
        if padding:
            pieces.append(_PADDING[:padding])
        pieces.append(view)
        nbytes += padding + view.nbytes
    return Packed(nbytes, pieces, handles)


def unpack(data: Any, make_handle: Callable[[Reference], object] | None = None) -> Any:
    """The object again. Arrays are views into `data` where it is writable or they are read-only, else copies.

    `make_handle` makes a handle of each reference in the value; without it the reference itself stands there.
    """
    form = data[0]
    if form == PICKLE:
        return pickle.loads(data)
    if form == FULL:
        contains, start, nbytes, table = _read_front(data)
        view = memoryview(data).cast("B")
        resolve = contains.__getitem__ if make_handle is None else lambda index: make_handle(contains[index])
        return load(view[start : start + nbytes], _buffers(view, start + nbytes, table), resolve)
    if form == BYTES:
        return bytes(memoryview(data)[1:])
    if form == BYTEARRAY:
        return bytearray(memoryview(data)[1:])
    raise ProtocolError(f"a packed value begins with {form:#04x}, which is no form of this version")


def _buffers(view: memoryview, offset: int, table: list[tuple[int, int]]) -> list[Any]:
    """The out-of-band buffers; those that must be writable are copied if `view` is not."""
    buffers: list[Any] = []
    for nbytes, flags in table:
        offset += -offset % ALIGNMENT
        part = view[offset : offset + nbytes]
        buffers.append(bytearray(part) if view.readonly and not flags & _READ_ONLY else part)
        offset += nbytes
    return buffers


def _read_front(data: Any) -> tuple[list[Reference], int, int, list[tuple[int, int]]]:
    """Of the full form: handles, where the pickle starts, how long it is, and the table of buffers; all checked."""
    size = len(data)
    if size < _HEAD.size:
        raise ProtocolError("a packed value is cut off in its head")
    _, count, handles_nbytes, nbytes = _HEAD.unpack_from(data)
    handles_start = _HEAD.size + 16 * count
    start = handles_start + handles_nbytes
    if start + nbytes > size:
        raise ProtocolError("a packed value is shorter than its head says")
    table = list(struct.iter_unpack("<QQ", bytes(data[_HEAD.size : handles_start])))
    end = start + nbytes
    for buffer_nbytes, _ in table:
        end += -end % ALIGNMENT + buffer_nbytes
    if end > size:
        raise ProtocolError("a packed value is shorter than its table of buffers says")
    return _read_handles(bytes(data[handles_start:start])), start, nbytes, table


def _read_handles(packed: bytes) -> list[Reference]:
    if not packed:
        return []
    try:
        references = msgpack.unpackb(packed)
        well_formed = type(references) is list and all(
            [type(part) for part in reference] == [str, int, int, list] for reference in references
        )
    except Exception as error:  # msgpack raises a dozen kinds
        raise ProtocolError(f"the handles of a packed value cannot be read ({type(error).__name__})") from error
    if not well_formed:
        raise ProtocolError("the handles of a packed value are not references")
    return references  # type: ignore[no-any-return]


def contains_of(data: Any) -> list[Reference]:
    """References of the handles in a packed value, read without unpickling anything.

    >>> contains_of(pack([1, 2, 3]).tobytes())
    []
    """
    return _read_front(data)[0] if len(data) and data[0] == FULL else []


# -------------------------------------------------------------------------------------------------------------- calls


def pack_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, list[Any]]:
    """The arguments of one call, and the handles in them: its inputs, each once.

    >>> unpack_call(pack_call((5,), {'y': 'alice'})[0])
    ((5,), {'y': 'alice'})
    """
    if not kwargs:
        for value in args:
            if type(value) not in _CALL_ATOMS:
                break
        else:
            return pickle.dumps((args, kwargs), PROTOCOL), []
    marked = [Marks(value) if _is_of_handles(value) else value for value in args]  # ten thousand inputs: 20 ms less
    try:
        data, buffers, handles = dump((tuple(marked), kwargs))
    except Exception as error:
        raise explain("the arguments", _roots(args, kwargs), error) from error
    if buffers:
        return _lay_out(data, buffers, []).tobytes(), handles
    return (b"\x04" + data if handles else data), handles


def _is_of_handles(value: Any) -> bool:
    """Whether it is a list or tuple of handles, and of nothing else."""
    return (
        (type(value) is list or type(value) is tuple)
        and len(value) > 1
        and hasattr(type(value[0]), "reduce_outside")
        and len(set(map(type, value))) == 1
    )


def pack_plain_calls(calls: list[tuple[Any, ...]]) -> list[bytes] | None:
    """The arguments of many calls, if none of them has anything but numbers and None; else None. 0.3 µs a call.

    >>> [unpack_call(payload) for payload in pack_plain_calls([(5,), (6, None)])]
    [((5,), {}), ((6, None), {})]
    >>> pack_plain_calls([(5,), ('alice',)])
    """
    if not _NUMBERS.issuperset(map(type, itertools.chain.from_iterable(calls))):
        return None
    dumps, nothing = pickle.dumps, {}  # type: ignore[var-annotated]
    return [dumps((args, nothing), PROTOCOL) for args in calls]


@functools.lru_cache(maxsize=64)
def pack_marks(count: int) -> bytes:
    """A call whose arguments are `count` different handles, and nothing else: the same bytes for all such calls.

    >>> unpack_call(pack_marks(2), ['alice', 'bob'].__getitem__)
    (('alice', 'bob'), {})
    """
    return bytes([MARKED]) + pickle.dumps((tuple(map(Mark, range(count))), {}), PROTOCOL)


def _roots(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, object]]:
    """Where the search for an unpicklable part of a call begins."""
    positional = [(f"args[{position}]", value) for position, value in enumerate(args)]
    return [*positional, *((f"kwargs[{name!r}]", value) for name, value in kwargs.items())]


class _InputValues(dict[int, object]):
    """The values of inputs by their index, each unpacked when it is first asked for."""

    def __init__(self, input_values: Callable[[int], object] | None) -> None:
        self.input_values = input_values

    def __missing__(self, index: int) -> object:
        if self.input_values is None:
            raise ProtocolError("a call with handles came without its inputs")
        self[index] = value = self.input_values(index)
        return value


def unpack_call(payload: Any, input_values: Callable[[int], object] | None = None) -> tuple[Any, ...]:
    """``(args, kwargs)``; each handle has become `input_values` of its index."""
    form = payload[0]
    if form == PICKLE:
        return pickle.loads(payload)  # type: ignore[no-any-return]
    resolve = _InputValues(input_values).__getitem__
    view = memoryview(payload).cast("B")
    if form == MARKED:
        return load(view[1:], None, resolve)  # type: ignore[no-any-return]
    if form != FULL:
        raise ProtocolError(f"a packed call begins with {form:#04x}, which is no form of this version")
    _, start, nbytes, table = _read_front(payload)
    return load(view[start : start + nbytes], _buffers(view, start + nbytes, table), resolve)  # type: ignore[no-any-return]
