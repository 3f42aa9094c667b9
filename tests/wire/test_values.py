"""Packed values: what goes in comes out, views where possible, handles as marks, errors that name the way."""

import copy
import dataclasses
import datetime
import mmap
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import distributed
from distributed.errors import CannotPickle, KeyLost, ProtocolError, RemoteError
from distributed.wire import values
from distributed.wire.values import (
    contains_of,
    pack,
    pack_call,
    pack_exception,
    unpack,
    unpack_call,
    unpack_exception,
)

Point = namedtuple("Point", "x y")


def there_and_back(value):
    return unpack(pack(value).tobytes())


def value_of(error):
    """An exception after a journey."""
    return unpack_exception(pack_exception(error))


def raised(error):
    """The same exception with a traceback."""
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - also those that are no Exception
        return caught


# ------------------------------------------------------------------------------------------------------ round trips

atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
objects = st.recursive(
    atoms, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner), max_leaves=10
)


@given(objects)
def test_plain_objects_come_back(value):
    packed = pack(value)
    data = packed.tobytes()
    assert len(data) == packed.nbytes == sum(len(piece) for piece in packed.pieces())
    assert unpack(data) == unpack(memoryview(data)) == value
    assert type(unpack(data)) is type(value)
    assert contains_of(data) == packed.contains == []


@pytest.mark.parametrize("content", [b"", b"x", bytes(100_000)])
def test_bytes_likes_at_the_top_travel_raw(content):
    for value in (content, bytearray(content)):
        packed = pack(value)
        assert packed.nbytes == len(content) + 1
        assert packed.pieces()[1] is value
        back = unpack(packed.tobytes())
        assert back == value
        assert type(back) is type(value)
    assert there_and_back(memoryview(content)) == content


def test_a_none_result_is_a_value():
    assert there_and_back(None) is None


@pytest.mark.parametrize(
    "array",
    [
        np.arange(5),
        np.arange(5000),
        np.zeros((0, 3)),
        np.array(3.5),
        np.arange(10_000).reshape(100, 100).T,
        np.arange(10_000)[::2],
        np.arange(10_000).reshape(100, 100)[::3, 5:90:2],
        np.arange(10_000)[::-1],
        np.broadcast_to(np.arange(100), (100, 100)),
        np.arange(5000).astype("datetime64[s]"),
        np.arange(5000).astype("timedelta64[ns]")[::2],
        np.array(["alice", "bob"] * 2000),
        np.array([None, "x", 3] * 2000, dtype=object),
        np.zeros(3000, dtype=[("x", "i4"), ("y", "f8")]),
        np.arange(5000, dtype=">i4"),
        np.asfortranarray(np.arange(10_000.0).reshape(100, 100)),
        np.ma.masked_array(np.arange(3000), mask=np.arange(3000) % 2 == 0),
    ],
    ids=lambda array: f"{array.dtype.char}{array.shape}{array.strides}",
)
@pytest.mark.parametrize("nested", [False, True], ids=["alone", "nested"])
def test_arrays_come_back(array, nested):
    back = there_and_back({"x": [array]})["x"][0] if nested else there_and_back(array)
    np.testing.assert_array_equal(back, array)
    assert (back.dtype, back.shape, type(back)) == (array.dtype, array.shape, type(array))
    assert back.flags.writeable == array.flags.writeable


@pytest.mark.parametrize(
    "array",
    [
        np.arange(10_000),
        np.arange(10_000)[::2],
        np.arange(10_000).astype("datetime64[s]")[::2],
        np.asfortranarray(np.ones((100, 100))),
    ],
)
def test_large_arrays_stay_out_of_the_pickle(array):
    assert len(pack([array])._pieces[1]) < 500


def test_the_memory_of_a_large_array_is_not_copied_by_packing():
    array = np.arange(10_000)
    assert any(np.shares_memory(np.frombuffer(piece, "u1"), array) for piece in pack({"x": array}).pieces())


def test_small_buffers_go_into_the_pickle():
    assert len(pack([np.arange(10)] * 3).pieces()) == 1


def test_one_array_twice_is_one_array():
    array = np.arange(10_000)
    packed = pack([array, array])
    first, second = unpack(packed.tobytes())
    assert first is second
    assert packed.nbytes < 1.1 * array.nbytes


def test_read_only_stays_read_only_and_writable_writable():
    for small in (True, False):
        read_only, writable = np.arange(3 if small else 5000), np.arange(3 if small else 5000)
        read_only.flags.writeable = False
        first, second = there_and_back([read_only, writable])
        assert not first.flags.writeable
        second[0] = 7
        strided = read_only[::2]
        assert not there_and_back(strided).flags.writeable


def test_arrays_out_of_bytes_are_copies_unless_read_only():
    read_only = np.arange(5000)
    read_only.flags.writeable = False
    data = pack([read_only, np.arange(5000)]).tobytes()
    first, second = unpack(data)
    whole = np.frombuffer(data, "u1")
    assert np.shares_memory(first, whole)
    assert not np.shares_memory(second, whole)


def test_buffers_are_aligned_from_the_start_of_the_value():
    data = pack([np.full(5001, 7, "u1"), np.full(5003, 8, "u1")]).tobytes()
    assert data.index(b"\x07" * 5001) % 64 == 0
    assert data.index(b"\x08" * 5003) % 64 == 0


def test_a_value_in_a_file_is_used_in_place_and_copied_on_write(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(pack({"x": np.arange(100_000), "name": "alice"}).tobytes())
    with path.open("rb") as file:
        first = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        second = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    mine, yours = unpack(first)["x"], unpack(second)["x"]
    assert np.shares_memory(mine, np.frombuffer(first, "u1"))
    assert mine.ctypes.data % 64 == 0
    mine[:] = -1
    assert yours[99_999] == 99_999
    assert unpack(path.read_bytes())["x"].sum() == sum(range(100_000))


def test_a_value_may_lie_anywhere_in_memory():
    data = pack([np.arange(5000), "alice"]).tobytes()
    back = unpack(memoryview(b"123" + data)[3:])
    np.testing.assert_array_equal(back[0], np.arange(5000))


@pytest.mark.parametrize("cut", [0, 1, 10, 30, 60, 300, 5000])
def test_a_value_that_is_cut_off_is_an_error(cut):
    data = pack([np.arange(5000), Handle("c/1")]).tobytes()
    with pytest.raises((ProtocolError, IndexError)):
        unpack(data[:cut])


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x03\x00\x00\x00", pack([np.arange(5000)]).tobytes()[:60]]))
def test_reading_the_handles_of_random_bytes_is_a_protocol_error_or_works(data, front):
    try:
        contains_of(front + data)
    except ProtocolError:
        pass


def test_an_unknown_form_is_a_protocol_error():
    for read in (unpack, unpack_call):
        with pytest.raises(ProtocolError):
            read(b"\x77alice")


# ---------------------------------------------------------------------------------------------------------- handles


class Handle:
    """What a RemoteData is to this module."""

    def __init__(self, key, attempt=1):
        self.key, self.attempt = key, attempt

    def reference(self):
        return [self.key, self.attempt, 100, ["alice:1"]]

    def reduce_outside(self):
        return Handle, ("outside " + self.key, self.attempt)

    def __reduce__(self):
        return values.reduce_handle(self)


class Box:
    def __init__(self, content):
        self.content = content


class Slotted:
    __slots__ = ("content",)

    def __init__(self, content):
        self.content = content


def test_a_handle_in_a_value_stays_a_handle():
    packed = pack({"deep": [Box(Handle("c/1")), Handle("c/2", 3)]})
    expected = [["c/1", 1, 100, ["alice:1"]], ["c/2", 3, 100, ["alice:1"]]]
    assert packed.contains == contains_of(packed.tobytes()) == expected
    back = unpack(packed.tobytes(), lambda reference: ("handle", reference[0], reference[1]))
    assert back["deep"][0].content == ("handle", "c/1", 1)
    assert back["deep"][1] == ("handle", "c/2", 3)


def test_a_value_may_be_a_handle():
    assert unpack(pack(Handle("c/1")).tobytes(), lambda reference: reference[0]) == "c/1"
    assert unpack(pack(Handle("c/1")).tobytes()) == ["c/1", 1, 100, ["alice:1"]]


def test_a_handle_beside_large_buffers():
    data = pack([np.arange(5000), Handle("c/1")]).tobytes()
    assert contains_of(memoryview(data))[0][0] == "c/1"
    assert unpack(data, lambda reference: reference[0])[1] == "c/1"


@pytest.mark.parametrize("wrap", [lambda h: h, lambda h: [h], lambda h: {"x": (h,)}, Box, Slotted, lambda h: lambda: h])
def test_a_handle_anywhere_in_arguments_is_a_dependency(wrap):
    payload, handles = pack_call((1, wrap(Handle("c/1"))), {})
    assert [handle.key for handle in handles] == ["c/1"]
    args, kwargs = unpack_call(payload, {0: "the value"}.__getitem__)
    inner = args[1]
    for _ in range(3):
        if isinstance(inner, (Box, Slotted)):
            inner = inner.content
        elif isinstance(inner, (list, tuple)):
            inner = inner[0]
        elif isinstance(inner, dict):
            inner = inner["x"]
        elif callable(inner):
            inner = inner()
    assert (args[0], inner, kwargs) == (1, "the value", {})


def test_a_key_twice_in_a_call_is_one_input_and_one_object():
    payload, handles = pack_call((Handle("c/1"), Handle("c/1")), {"z": [Handle("c/2"), Handle("c/1")]})
    assert [handle.key for handle in handles] == ["c/1", "c/2"]
    asked = []

    def input_values(index):
        asked.append(index)
        return [index]

    (first, second), kwargs = unpack_call(payload, input_values)
    assert first is second is kwargs["z"][1]
    assert kwargs["z"][0] == [1]
    assert sorted(asked) == [0, 1]


def test_a_string_that_equals_a_key_is_a_string():
    payload, handles = pack_call(("c/1", "restore_mark", b"\x04"), {})
    assert handles == []
    assert unpack_call(payload) == (("c/1", "restore_mark", b"\x04"), {})


def test_a_call_with_large_arrays_and_handles():
    payload, handles = pack_call((np.arange(5000), Handle("c/1")), {"y": np.ones(5000)})
    args, kwargs = unpack_call(payload, lambda index: "value")
    args[0][0] = 5  # writable
    assert (args[1], len(handles), kwargs["y"].sum()) == ("value", 1, 5000)


def test_inputs_may_be_unpacked_while_a_call_is():
    inner = pack([Handle("c/7")]).tobytes()
    payload, _ = pack_call((Handle("c/1"), Handle("c/2")), {})
    (first, second), _ = unpack_call(payload, lambda index: (index, unpack(inner, lambda reference: reference[0])))
    assert (first, second) == ((0, ["c/7"]), (1, ["c/7"]))


def test_a_handle_pickled_outside_says_so_itself():
    assert pickle.loads(pickle.dumps(Handle("c/1"))).key == "outside c/1"
    pack([Handle("c/1")])
    with pytest.raises(CannotPickle):
        pack_call((Handle("c/1"), threading.Lock()), {})
    assert pickle.loads(pickle.dumps(Handle("c/1"))).key == "outside c/1"


def test_another_thread_that_pickles_meanwhile_is_outside():
    seen = []

    class Slow:
        def __reduce__(self):
            other = threading.Thread(target=lambda: seen.append(pickle.loads(pickle.dumps(Handle("c/2"))).key))
            other.start()
            other.join()
            return int, ()

    assert pack([Slow(), Handle("c/1")]).contains[0][0] == "c/1"
    assert set(seen) == {"outside c/2"}


def test_a_mark_outside_of_its_value_is_an_error_and_not_a_wrong_value():
    data = pack_call((Handle("c/1"),), {})[0]
    with pytest.raises(pickle.UnpicklingError, match="mark"):
        pickle.loads(data[1:])
    with pytest.raises(ProtocolError):
        unpack_call(data)


def test_when_cloudpickle_takes_over_handles_are_counted_once():
    packed = pack([Handle("c/1"), lambda: 1])
    assert [reference[0] for reference in packed.contains] == ["c/1"]


def test_when_cloudpickle_takes_over_buffers_are_packed_once():
    array = np.arange(10_000)
    packed = pack([array, lambda: 1])
    assert packed.nbytes < 1.1 * array.nbytes
    np.testing.assert_array_equal(unpack(packed.tobytes())[0], array)


# -------------------------------------------------------------------------------------------------- what cannot travel


class Holder:
    """A class whose attributes are pickled as usual."""


def holding(value):
    holder = Holder()
    holder.inner = value
    return holder


class Refuser:
    def __reduce__(self):
        raise RuntimeError("alice does not travel")


def lock_in_closure(lock):
    def f():
        return lock

    return f


LOCK = threading.Lock()


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        ((1, LOCK), {}, "args[1]"),
        ((1, {"lock": holding(LOCK)}), {}, "args[1]['lock'].inner"),
        ((), {"x": [1, 2, (3, LOCK)]}, "kwargs['x'][2][1]"),
        ((Slotted([LOCK]),), {}, "args[0].content[0]"),
        ((lock_in_closure(LOCK),), {}, "closure variable 'lock' of lock_in_closure.<locals>.f"),
        ((lambda x=LOCK: x,), {}, "default of 'x' of <lambda>"),
        ((list(range(100_000)) + [LOCK],), {}, "args[0][100000]"),
        ((KeyError([LOCK]),), {}, "args[0].args[0][0]"),
        ((Refuser(),), {}, "args[0]"),
        (([Refuser()],), {}, "args[0][0]"),
        (({1: Box({"y": LOCK})},), {}, "args[0][1].content['y']"),
        ((Handle("c/1"), LOCK), {}, "args[1]"),
    ],
)
def test_the_error_names_the_way_to_what_cannot_be_pickled(args, kwargs, path):
    with pytest.raises(CannotPickle) as caught:
        pack_call(args, kwargs)
    assert caught.value.path == path
    assert path in str(caught.value)
    assert caught.value.what == "the arguments"


def test_the_error_of_a_result_begins_with_the_result():
    holder = Holder()
    holder.x = [1, 2, 3, LOCK]
    with pytest.raises(CannotPickle, match="lock") as caught:
        pack(holder)
    assert (caught.value.what, caught.value.path) == ("the result", "result.x[3]")
    assert str(caught.value) == "cannot send the result to another process: result.x[3] is a _thread.lock"


def test_the_error_says_nothing_twice():
    with pytest.raises(CannotPickle) as caught:
        pack([LOCK], "the result of module.f")
    assert str(caught.value) == "cannot send the result of module.f to another process: result[0] is a _thread.lock"


def test_the_error_gives_the_reason_of_the_object_itself():
    with pytest.raises(CannotPickle, match="alice does not travel"):
        pack({"x": Refuser()})


def test_an_object_that_contains_itself_does_not_lead_the_search_astray():
    ring = [1]
    ring += [ring, {"again": ring, "lock": LOCK}]
    with pytest.raises(CannotPickle) as caught:
        pack(ring)
    assert caught.value.path == "result[2]['lock']"


def test_endless_nesting_is_an_error_that_says_so():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(CannotPickle, match="nested too deeply"):
        pack(deep)
    while deep:
        deep = deep.pop()


def test_interrupts_are_not_taken_for_unpicklable_objects():
    class Interrupted:
        def __reduce__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack([Interrupted()])
    assert pickle.loads(pickle.dumps(Handle("c/1"))).key == "outside c/1"


# ---------------------------------------------------------------------------------------------------------- exceptions


class Picky(Exception):
    """Its constructor wants other arguments than it passes on."""

    def __init__(self, code, *, hint):
        super().__init__(f"code {code}")
        self.code, self.hint = code, hint


class PickyOSError(OSError):
    def __init__(self, path, *, hint):
        super().__init__(2, "not here", path)
        self.hint = hint


class SlottedError(Exception):
    __slots__ = ("x",)


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    x: int


class Reduced(Exception):
    def __init__(self, one, two):
        super().__init__(one)
        self.two = two

    def __reduce__(self):
        return Reduced, (self.args[0], self.two)


class BreaksThere(Exception):
    def __reduce__(self):
        return explode, ("alice",)


def explode(name):
    raise RuntimeError(f"not for {name}")


class NotAnException(Exception):
    def __reduce__(self):
        return int, ("5",)


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("mute")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("alice", 3),
        KeyError("x"),
        Picky(3, hint="ask bob"),
        Reduced("one", "two"),
        OSError(2, "No such file", "/x"),
        FileNotFoundError(2, "No such file", "/x", None, "/y"),
        PickyOSError("/x", hint="look there"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        SyntaxError("bad", ("file.py", 1, 2, "x y", 1, 3)),
        ImportError("none", name="x", path="/x"),
        StopIteration(5),
        SystemExit(3),
        KeyboardInterrupt(),
        KeyLost("c/1"),
        CannotPickle("the result", "result.x", "is a lock"),
        subprocess.CalledProcessError(3, ["ls"], b"out", b"err"),
        FrozenError(3),
        SlottedError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_comes_back_as_itself(error):
    back = value_of(raised(error))
    assert type(back) is type(error)
    assert back.args == error.args
    assert {**vars(back)} == {**vars(error)}
    assert str(back) == str(error)
    for name in (
        "errno",
        "filename",
        "filename2",
        "value",
        "code",
        "name",
        "path",
        "object",
        "start",
        "lineno",
        "text",
    ):
        assert getattr(back, name, None) == getattr(error, name, None)
    assert "in raised" in str(back.__cause__)


def test_slots_and_notes_of_an_exception_come_along():
    error = SlottedError("x")
    error.x = 7
    error.add_note("seen by alice")
    back = value_of(error)
    assert (back.x, back.__notes__) == (7, ["seen by alice"])


def test_the_remote_traceback_is_printed_like_that_of_a_process_pool():
    printed = "".join(traceback.format_exception(value_of(raised(ValueError("alice")))))
    assert '"""\nTraceback (most recent call last):' in printed
    assert "in raised" in printed
    assert "direct cause" in printed
    assert printed.rstrip().endswith("ValueError: alice")


def test_a_chain_of_causes_comes_as_text():
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner
    except ValueError as outer:
        back = value_of(outer)
    assert "KeyError: 'inner'" in str(back.__cause__)
    assert "direct cause" in str(back.__cause__)


def test_groups_come_back_with_their_members():
    back = value_of(raised(ExceptionGroup("two", [Picky(3, hint="x"), ExceptionGroup("one", [KeyError("y")])])))
    assert type(back) is ExceptionGroup
    assert (back.message, back.exceptions[0].hint, back.exceptions[1].exceptions[0].args) == ("two", "x", ("y",))
    assert back.split(Picky)[0] is not None
    assert isinstance(value_of(BaseExceptionGroup("b", [KeyboardInterrupt()])), BaseExceptionGroup)


def test_exceptions_that_refer_to_one_another_come_back():
    error = ValueError("x")
    error.partner = KeyError("y")
    error.partner.partner = error
    back = value_of(error)
    assert back.partner.partner is back


def test_an_unpicklable_exception_becomes_a_readable_one():
    error = ValueError("alice")
    error.lock = LOCK
    back = value_of(raised(error))
    assert type(back) is RemoteError
    assert (back.type_name, back.message) == ("ValueError", "alice")
    assert "cannot be pickled" in str(back)
    assert "in raised" in back.traceback
    assert "in raised" in str(back.__cause__)
    assert pickle.loads(pickle.dumps(back)).type_name == "ValueError"


@pytest.mark.parametrize(("error", "reason"), [(BreaksThere("x"), "not for alice"), (NotAnException("x"), "int")])
def test_an_exception_that_breaks_on_arrival_becomes_a_readable_one(error, reason):
    back = value_of(raised(error))
    assert type(back) is RemoteError
    assert back.type_name.endswith(type(error).__name__)
    assert reason in str(back)


def test_an_exception_without_words_still_arrives():
    assert type(value_of(raised(Mute()))) is Mute


def test_an_exception_of_surrogates_arrives():
    assert value_of(ValueError("\udc80")).args == ("\udc80",)


def test_an_endless_message_is_cut_in_the_traceback_only():
    error = ValueError("x" * 1_000_000)
    back = value_of(raised(error))
    assert back.args == error.args
    assert len(str(back.__cause__)) < 110_000


@given(st.binary(max_size=100))
def test_random_bytes_are_no_packed_exception(data):
    with pytest.raises(ProtocolError):
        unpack_exception(data)


# ------------------------------------------------------------------------------------------------ classes of __main__

EXECUTOR = """
import sys
from distributed.wire import frames, values
while True:
    try:
        payload, _ = frames.read_prefix(lambda n: sys.stdin.buffer.read(n))
    except Exception:
        break
    try:
        (function, args), kwargs = values.unpack_call(payload)
        reply = b"v" + values.pack(function(*args, **kwargs)).tobytes()
    except BaseException as error:
        reply = b"e" + values.pack_exception(error)
    for piece in frames.encode(reply):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
"""

CLIENT = """
import abc, dataclasses, enum, subprocess, sys
from distributed.wire import frames, values

child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

def run(function, *args):
    for piece in frames.encode(values.pack_call((function, args), {})[0]):
        child.stdin.write(piece)
    child.stdin.flush()
    reply, _ = frames.read_prefix(child.stdout.read)
    if reply[:1] == b"e":
        raise values.unpack_exception(reply[1:])
    return values.unpack(reply[1:])

class Alice:
    count = 0
    shared = []
    def __init__(self, x): self.x = x
    def double(self): return type(self)(self.x * 2)
    def parent(self): return super().__repr__()

class Bob(Alice):
    __slots__ = ("y",)

@dataclasses.dataclass(frozen=True)
class Pair:
    x: int
    y: list = dataclasses.field(default_factory=list)

class Colour(enum.Enum):
    RED = 1
    BLUE = 2
    def other(self): return Colour.BLUE if self is Colour.RED else Colour.RED

class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...

class Square(Shape):
    def area(self): return 4

class Oops(Exception):
    def __init__(self, code, *, hint):
        super().__init__(f"code {code}")
        self.code, self.hint = code, hint

def fail():
    raise Oops(3, hint="ask bob")

def fail_with_group():
    raise ExceptionGroup("two", [Oops(1, hint="x"), ValueError("y")])

classes = (Alice, Bob, Pair, Colour, Shape, Square, Oops)
before = {cls: dict(vars(cls)) for cls in classes}
subclasses = len(Alice.__subclasses__())

def same():
    for cls in classes:
        now = dict(vars(cls))
        assert set(now) - {"__slotnames__"} == set(before[cls]), (cls, now)  # that one is copyreg's
        for name, value in before[cls].items():
            assert now[name] is value, (cls, name)
    assert len(Alice.__subclasses__()) == subclasses

# the result of a class that the client defined is of that very class
for _ in range(3):
    result = run(lambda x: Alice(x), 5)
    assert type(result) is Alice and result.x == 5
    result = run(lambda a: a.double(), Alice(4))
    assert type(result) is Alice and result.x == 8
    result = run(lambda b: b, Bob(3))
    assert type(result) is Bob and isinstance(result, Alice)
    assert run(lambda p: Pair(p.x + 1, p.y), Pair(1, [2])) == Pair(2, [2])
    assert run(lambda c: c.other(), Colour.RED) is Colour.BLUE
    assert type(run(lambda s: s, Square())) is Square
    assert run(lambda s: s.area(), Square()) == 4
    assert run(lambda a: isinstance(a, Alice), Alice(1)) is True
    assert run(lambda: Alice) is Alice
    same()

# an exception too, also one whose constructor wants other arguments, also in a group
for _ in range(2):
    try:
        run(fail)
    except Oops as error:
        assert (error.code, error.hint, error.args) == (3, "ask bob", ("code 3",))
        assert "in fail" in str(error.__cause__), error.__cause__
    else:
        raise AssertionError("nothing was raised")
    try:
        run(fail_with_group)
    except* Oops as group:
        assert group.exceptions[0].hint == "x"
    except* ValueError:
        pass
    same()

# what a task does to the class there does not reach the class here
def spoil(a):
    type(a).count = 99
    type(a).double = None
    type(a).shared.append(1)
    return a
assert type(run(spoil, Alice(1))) is Alice
assert (Alice.count, Alice.shared) == (0, [])
same()

# what the client does to its class does reach the executor
Alice.count = 7
assert run(lambda: Alice.count) == 7
assert type(run(lambda: Alice(1))) is Alice and Alice.count == 7

# a class of the same name defined again is another class
old = Alice(1)
class Alice:
    def __init__(self, x): self.x = -x
assert type(run(lambda a: a, old)) is type(old) is not Alice
assert type(run(lambda: Alice(1))) is Alice

# a class that a task defines is one class here, however often it comes
def define():
    import sys
    if not hasattr(sys, "Local"):
        class Local:
            pass
        sys.Local = Local
    return sys.Local()
first, second = run(define), run(define)
assert type(first) is type(second)
assert type(run(lambda x: x, first)) is type(first)

child.stdin.close()
assert child.wait(10) == 0
child.stdout.close()
print("alright")
"""


@pytest.mark.parametrize("start", ["script", "spawned"])
def test_classes_of_main_are_the_very_same_after_a_journey(tmp_path, start):
    """Two processes for real: the client's `__main__` is a script, the executor's is not."""
    script = tmp_path / "client.py"
    script.write_text(CLIENT)
    command = [sys.executable, "-W", "error", str(script), EXECUTOR]
    if start == "spawned":  # as under multiprocessing's spawn, where __main__ is called __mp_main__
        code = (
            "import sys; module = sys.modules['__mp_main__'] = type(sys)('__mp_main__'); sys.argv = sys.argv[1:]\n"
            "with open(sys.argv[0]) as file: text = file.read()\n"
            "exec(text, vars(module))"
        )
        command = [sys.executable, "-W", "error", "-c", code, str(script), EXECUTOR]
    environment = {**os.environ, "PYTHONPATH": str(Path(distributed.__file__).parent.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("alright\n", "")


def test_a_class_that_is_local_to_a_function_comes_back_as_itself():
    class Local:
        x = datetime.date(2026, 11, 20)

    before = dict(vars(Local))
    back = there_and_back([Local(), Local])
    assert type(back[0]) is Local
    assert back[1] is Local
    assert {name: value for name, value in vars(Local).items() if name != "__slotnames__"} == before  # copyreg's own


def test_copies_of_a_handle_go_by_its_own_methods_and_not_by_marks():
    assert copy.copy(Handle("c/1")).key == "outside c/1"


def test_a_named_tuple_keeps_its_class():
    assert there_and_back(Point(1, 2)) == Point(1, 2)
    assert type(there_and_back([Point(1, 2)])[0]) is Point
