"""The codec of the vocabulary: every message comes back as it was, and anything else is a ProtocolError."""

import dataclasses

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed.errors import ProtocolError
from distributed.wire.codec import buffers_of, decode, encode_header, restore_members
from distributed.wire.messages import (
    REGISTRY,
    AddKeys,
    Compute,
    GetData,
    Member,
    Members,
    Ping,
    Register,
    Reply,
    UpdateData,
    Values,
    WhoHas,
    WorkerJoined,
)

ALICE = Member("127.0.0.1:8788", "ab12", "alice", 4, 1 << 30, "/tmp/a.sock", "/dev/shm/a", 77, {"python": "3.11.4"})

EXAMPLES = {  # by annotation, as it is written in the class
    "str": "x",
    "int": 3,
    "float": 0.5,
    "bool": True,
    "bytes": b"code",
    "Any": {"alice": [1, None]},
    "list": [["x", 1], None],
    "list[str]": ["x", "y"],
    "list[int]": [1, 2],
    "list[bytes]": [b"x", b""],
    "dict": {"x": 1},
    "dict[int, list]": {0: [1], 5: []},
    "dict[int, int]": {0: 2},
    "dict[int, str]": {3: "/dev/shm/x"},
    "dict[int, bytes]": {3: b"error"},
    "dict[bytes, bytes]": {b"need": b"code"},
    "dict[str, str]": {"table": "c/1"},
    "dict[str, int]": {"gpu": 1},
    "dict[str, dict[str, int]]": {"table": {"c/1": 1, "c/2": 0}},
    "Member": ALICE,
    "list[Member]": [ALICE, ALICE],
}


def example(cls):
    """A message of this class with something in each field."""
    fields = {}
    for field in dataclasses.fields(cls):
        fields[field.name] = [b"x", b"y"] if field.name == "buffers" else EXAMPLES[str(field.type)]
    return cls(**fields)


@pytest.mark.parametrize("operation", sorted(REGISTRY))
def test_every_message_comes_back_as_it_was(operation):
    message = example(REGISTRY[operation])
    assert decode(encode_header(message, 9), buffers_of(message)) == (message, 9)


@pytest.mark.parametrize("operation", sorted(REGISTRY))
def test_every_message_refuses_a_missing_and_an_additional_field(operation):
    header = msgpack.unpackb(encode_header(example(REGISTRY[operation])), strict_map_key=False)
    with pytest.raises(ProtocolError):
        decode(msgpack.packb([*header, "one too many"]))
    required = [
        field
        for field in dataclasses.fields(REGISTRY[operation])
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name != "buffers"
    ]
    if required:
        with pytest.raises(ProtocolError):
            decode(msgpack.packb(header[: 2 + len(required) - 1]))


@pytest.mark.parametrize("operation", sorted(REGISTRY))
def test_every_field_refuses_a_value_of_another_type(operation):
    cls = REGISTRY[operation]
    header = msgpack.unpackb(encode_header(example(cls)), strict_map_key=False)
    names = [field for field in dataclasses.fields(cls) if field.name != "buffers"]
    for position, field in enumerate(names, start=2):
        if field.type == "Any":
            continue
        wrong = {"x": 1} if str(field.type).startswith(("list", "Member")) else [1]
        with pytest.raises(ProtocolError):
            decode(msgpack.packb([*header[:position], wrong, *header[position + 1 :]]))


WRONG_ITEMS = {
    "list[str]": [1],
    "list[int]": ["x"],
    "list[bytes]": ["x"],
    "dict[int, list]": {"x": []},
    "dict[str, dict[str, int]]": {"x": {"y": "z"}},
}


@pytest.mark.parametrize("operation", sorted(REGISTRY))
def test_items_are_checked_in_every_message_also_after_a_good_one_of_the_same_shape(operation):
    cls = REGISTRY[operation]
    header = msgpack.unpackb(encode_header(example(cls)), strict_map_key=False)
    names = [field for field in dataclasses.fields(cls) if field.name != "buffers"]
    for position, field in enumerate(names, start=2):
        wrong = WRONG_ITEMS.get(str(field.type))
        if wrong is not None:
            decode(msgpack.packb(header))
            with pytest.raises(ProtocolError, match=f"{operation}.{field.name} has the wrong type"):
                decode(msgpack.packb([*header[:position], wrong, *header[position + 1 :]]))
    with pytest.raises(ProtocolError):
        decode(msgpack.packb([header[0], -1, *header[2:]]))


NO_NUMBERS = (float("nan"), float("inf"), float("-inf"))


@pytest.mark.parametrize("number", NO_NUMBERS, ids=str)
@pytest.mark.parametrize("operation", sorted(REGISTRY))
def test_a_number_is_finite_in_every_message_also_after_a_good_one_of_the_same_shape(operation, number):
    cls = REGISTRY[operation]
    header = msgpack.unpackb(encode_header(example(cls)), strict_map_key=False)
    names = [field for field in dataclasses.fields(cls) if field.name != "buffers"]
    for position, field in enumerate(names, start=2):
        if field.type == "float":
            wrong = msgpack.packb([*header[:position], number, *header[position + 1 :]])
            with pytest.raises(ProtocolError, match=f"{operation}.{field.name} "):
                decode(wrong)
            decode(msgpack.packb(header))
            with pytest.raises(ProtocolError, match=f"{operation}.{field.name} is no finite number"):
                decode(wrong)


def test_there_are_messages_with_numbers_that_must_be_finite():
    numbers = {
        (cls.operation, f.name) for cls in REGISTRY.values() for f in dataclasses.fields(cls) if f.type == "float"
    }
    assert numbers >= {("who_has", "wait_s"), ("compute", "priority"), ("compute", "timeout_s")}


def test_a_truth_value_is_no_number():
    with pytest.raises(ProtocolError, match=r"who_has\.wait_s has the wrong type"):
        decode(msgpack.packb(["who_has", 3, ["x"], True]))


def test_a_field_with_a_default_may_be_missing():
    assert decode(msgpack.packb(["who_has", 3, ["x"]])) == (WhoHas(["x"], 0.0), 3)


def test_no_two_messages_share_a_mutable_default():
    one, _ = decode(encode_header(Ping()))
    assert buffers_of(one) == []
    first = Member("a:1", "i", "a", 1, 1)
    first.versions["python"] = "3.11"
    assert Member("a:1", "i", "a", 1, 1).versions == {}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"\xc0",
        b"\x90",
        msgpack.packb("ping"),
        msgpack.packb(["ping"]),
        msgpack.packb({"ping": 0}),
        msgpack.packb(["no_such_operation", 0]),
        msgpack.packb([["ping"], 0]),
        msgpack.packb([{"a": 1}, 0]),
        msgpack.packb(["ping", "0"]),
        msgpack.packb(["ping", -1]),
        msgpack.packb(["ping", None]),
        msgpack.packb(["ping", 0]) + b"\x00",
        msgpack.packb(["who_has", 0, ["x"]])[:-1],
        msgpack.packb(["worker_joined", 0, ["too", "short"]]),
        msgpack.packb(["worker_joined", 0, 5]),
        msgpack.packb(["members", 0, [5]]),
        msgpack.packb(["members", 0, [list(range(20))]]),
        b"\x91" * 5000 + b"\xc0",  # deep
        b"\x81\xa1x" * 5000 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",  # an array said to have four thousand million items
        b"\xc6\xff\xff\xff\xff",  # bytes, said to be 4 GiB
        b"\x93\xa4ping\x00\xd4\x05x",  # an extension type
        b"\x93\xa5reply\x00\xa2\xff\xfe",  # not UTF-8
        b"\x93\xa5reply\x00\x81\x90\x01",  # a mapping with a list as its key
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_a_malformed_header_is_a_protocol_error(header):
    with pytest.raises(ProtocolError):
        decode(header)


@pytest.mark.parametrize(
    ("operation", "values"),
    [
        ("who_has", [["x", 1]]),
        ("who_has", [[b"x"]]),
        ("who_has", ["x"]),
        ("who_has", [["x"], "soon"]),
        ("add_keys", [["x"], [1.0], [1]]),
        ("add_keys", [["x"], [True], [1]]),
        ("add_keys", [["x"], [None], [1]]),
        ("delete_data", [{"x": 1}]),
        ("update_data", ["", ["x"], [1], [""], {"x": []}]),
        ("update_data", ["", ["x"], [1], [""], {0: 5}]),
        ("worker_joined", [["a:1", "i", "a", "four", 1]]),
        ("worker_joined", [["a:1", "i", None, 4, 1]]),
        ("ping", [1]),
    ],
)
def test_columns_hold_items_of_one_type_only(operation, values):
    with pytest.raises(ProtocolError):
        decode(msgpack.packb([operation, 0, *values]))


def test_deep_nesting_inside_a_field_is_a_protocol_error_too():
    with pytest.raises(ProtocolError):
        decode(b"\x93\xa5reply\x00" + b"\x91" * 5000 + b"\xc0")


@given(st.binary(max_size=200))
def test_random_bytes_are_a_message_or_a_protocol_error(data):
    try:
        decode(data)
    except ProtocolError:
        pass


@given(st.sampled_from(sorted(REGISTRY)), st.data())
def test_a_message_with_damaged_bytes_is_a_message_or_a_protocol_error(operation, data):
    header = bytearray(encode_header(example(REGISTRY[operation]), 1))
    for _ in range(data.draw(st.integers(1, 3))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    try:
        message, request = decode(bytes(header), [b"x"])
    except ProtocolError:
        return
    assert type(message) in REGISTRY.values()
    assert request >= 0


scalars = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=3) | st.binary()
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@given(st.sampled_from(sorted(REGISTRY)), st.lists(anything, max_size=9))
def test_an_operation_with_random_fields_is_a_message_or_a_protocol_error(operation, values):
    try:
        decode(msgpack.packb([operation, 0, *values]))
    except ProtocolError:
        pass


def test_what_cannot_travel_is_refused_at_the_sender():
    with pytest.raises(TypeError, match="set"):
        encode_header(Reply({"alice"}))


def test_raw_buffers_stay_out_of_the_header():
    large = bytes(100_000)
    values = Values([100_000], [""], [1], [large])
    assert len(encode_header(values)) < 100
    assert buffers_of(values)[0] is large
    update = UpdateData("", ["x"], [100_000], [""], {}, [large])
    assert decode(encode_header(update), [memoryview(large)])[0].buffers == [large]


def test_numbers_as_keys_survive():
    message = Compute(b"f", b"", "f", ["c/1"], [1], [b"a"], {0: [["c/0", 1, 8, ["a:1"], None]]})
    assert decode(encode_header(message))[0] == message


def test_members_come_back_as_members():
    assert decode(encode_header(Members([ALICE])))[0].members == [ALICE]
    assert decode(encode_header(WorkerJoined(ALICE)))[0].member == ALICE


def test_operations_keep_the_founding_names():
    founding = {"register", "unregister", "add_keys", "remove_keys", "who_has", "has_what", "get_data", "update_data"}
    founding |= {"delete_data", "compute", "terminate", "ping"}
    assert founding <= set(REGISTRY)
    assert (AddKeys.operation, GetData.operation) == ("add_keys", "get_data")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("address", "alice"),
        ("address", "alice:70000"),
        ("ncores", 0),
        ("ncores", -1),
        ("ncores", True),
        ("memory_limit", -1),
        ("versions", {3: "3.11"}),
        ("resources", {"gpu": 0}),
        ("resources", {"gpu": "2"}),
        ("resources", {3: 1}),
        ("resources", {"": 1}),
        ("resources", {"gpu\x1b[2J": 1}),
    ],
)
def test_what_no_worker_can_be_is_no_member(field, value):
    wrong = dataclasses.replace(ALICE, **{field: value})
    for message in (Members([ALICE, wrong]), Register(wrong, [], [], [])):
        with pytest.raises(ProtocolError, match="member"):
            decode(encode_header(message))
    with pytest.raises(ProtocolError, match="member"):
        restore_members([list(dataclasses.astuple(wrong))])


@pytest.mark.parametrize("value", [None, 7, {"a": 1}, [7], [[]], ["alice"], [[1] * 20]])
def test_what_is_no_list_of_members_is_a_protocol_error(value):
    with pytest.raises(ProtocolError, match="member"):
        restore_members(value)
