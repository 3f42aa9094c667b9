"""Whatever bytes come, in whatever order: a refusal of the known kind, or something that is what it says; nothing else.

Frames, messages, handshakes and the heads of packed values are made, broken in the ways that streams and liars break
them, and read again. CI looks at some seven thousand inputs each time, always others; ``scripts/fuzz --minutes 10``
goes on for so long.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import struct
import tracemalloc

import msgpack
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from distributed.errors import AuthenticationFailed, ConnectionFailed, ProtocolError, VersionMismatch
from distributed.wire import frames
from distributed.wire.codec import buffers_of, decode, encode_frame, encode_header, restore_member
from distributed.wire.messages import REGISTRY, Member
from distributed.wire.security import (
    ANSWER_BYTES,
    KINDS,
    MAGIC,
    PROTOCOL_VERSION,
    ROLES,
    ClientHandshake,
    Secret,
    ServerHandshake,
)
from distributed.wire.values import contains_of

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))
LIMITS = {"header_bytes_max": 200, "bytes_max": 400, "buffers_max": 5}
FRAME_BYTES_MAX = frames.PREFIX.size + 8 * LIMITS["buffers_max"] + LIMITS["bytes_max"]
MEMORY_BYTES_MAX = 256 * 1024
HELLO = struct.Struct("<4sHBB32s")
HEAD = struct.Struct("<B3xIQQ")
OURS, THEIRS = Secret(b"alice" * 8), Secret(b"bobby" * 8)


LOOKED_AT = 0


def examples(count):
    """Look at so many inputs, and count them."""

    def decorate(test):
        @functools.wraps(test)
        def counted(*arguments, **named):
            global LOOKED_AT
            LOOKED_AT += 1
            test(*arguments, **named)

        return settings(
            max_examples=count * TIMES,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        )(counted)

    return decorate


@pytest.fixture(autouse=True, scope="module")
def say_how_many():
    """For `scripts/fuzz`, which adds them up."""
    yield
    print(f"fuzz: {LOOKED_AT} inputs")


# ------------------------------------------------------------------------------------------------- how bytes are broken

BREAKS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "insert", "delete", "double", "cut", "number"]),
        st.integers(0, 1 << 20),
        st.integers(0, 255),
        st.binary(max_size=9),
    ),
    min_size=1,
    max_size=4,
)
NUMBERS = [struct.pack("<Q", number) for number in (0, 1, 255, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 64) - 1)]


def broken(data, breaks):
    """The same bytes after some accidents, or after somebody has thought about them."""
    changed = bytearray(data)
    for kind, where, value, piece in breaks:
        at = where % (len(changed) + 1)
        if kind == "flip" and at < len(changed):
            changed[at] ^= 1 << value % 8
        elif kind == "set" and at < len(changed):
            changed[at] = value
        elif kind == "insert":
            changed[at:at] = piece
        elif kind == "delete":
            del changed[at : at + value % 16]
        elif kind == "double":
            changed[at:at] = changed[at : at + value]
        elif kind == "cut":
            del changed[at:]
        elif kind == "number":
            width = 4 if value % 2 else 8
            changed[at : at + width] = NUMBERS[value % len(NUMBERS)][:width]
    return bytes(changed)


def cut_into(data, cuts):
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


# --------------------------------------------------------------------------------------------------------------- frames

FRAMES = st.lists(st.tuples(st.binary(max_size=60), st.lists(st.binary(max_size=30), max_size=4)), max_size=4)
CUTS = st.lists(st.integers(0, 1 << 20), max_size=8)


def stream_of(content):
    return b"".join(bytes(piece) for header, buffers in content for piece in frames.encode(header, buffers))


def fed(pieces):
    """What a decoder makes of a stream, and whether it refused it; it never keeps more than a frame may have."""
    decoder, found = frames.Decoder(**LIMITS), []
    for piece in pieces:
        try:
            found += decoder.feed(piece)
        except ProtocolError:
            return found, True
        assert decoder.pending_bytes <= FRAME_BYTES_MAX
    return found, False


@given(st.one_of(st.binary(max_size=300), st.builds(broken, st.builds(stream_of, FRAMES), BREAKS)), CUTS)
@examples(1000)
def test_a_stream_is_frames_within_the_limits_or_refused_however_it_is_cut(data, cuts):
    found, is_refused = fed(cut_into(data, cuts))
    for header, buffers in found:
        assert len(header) <= LIMITS["header_bytes_max"]
        assert len(buffers) <= LIMITS["buffers_max"]
        assert len(header) + sum(map(len, buffers)) <= LIMITS["bytes_max"]
    again = stream_of(found)
    assert data.startswith(again), "what was read is what was sent"
    at_once, is_refused_at_once = fed([data] if data else [])
    assert is_refused_at_once == is_refused
    assert is_refused or at_once == found


@given(st.one_of(st.binary(max_size=300), st.builds(broken, st.builds(stream_of, FRAMES), BREAKS)))
@examples(500)
def test_a_blocking_reader_sees_what_the_decoder_sees(data):
    position = 0

    def read_exactly(count):
        nonlocal position
        position += count
        if position > len(data):
            raise EOFError
        return data[position - count : position]

    found = []
    try:
        while position < len(data):
            header, lengths = frames.read_prefix(read_exactly, frames.Limits(**LIMITS))
            found.append((header, [read_exactly(length) for length in lengths]))
        is_refused = False
    except EOFError:
        is_refused = False
    except ProtocolError:
        is_refused = True
    assert (found, is_refused) == fed([bytes([byte]) for byte in data])


@given(
    st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1), st.lists(st.integers(0, (1 << 64) - 1), max_size=9)
)
@examples(150)
def test_what_a_peer_declares_takes_no_memory_before_it_comes(header_nbytes, count, lengths):
    """With the limits as they are in a daemon: large ones, and nothing is allocated on the strength of a promise."""
    data = struct.pack(f"<II{len(lengths)}Q", header_nbytes, count, *lengths) + bytes(100)
    tracemalloc.start()
    try:
        decoder = frames.Decoder()
        decoder.feed(data)
    except ProtocolError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MEMORY_BYTES_MAX


# ------------------------------------------------------------------------------------------------------------- messages

ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=8)),
    st.builds(msgpack.Timestamp, st.integers(0, 1 << 40), st.integers(0, 999_999_999)),
)
KEYS = st.one_of(st.integers(0, 99), st.text(max_size=4), st.binary(max_size=4), st.none(), st.floats())
ANYTHING = st.recursive(
    ATOMS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=12,
)
ADDRESSES = st.builds("127.0.0.1:{}".format, st.integers(1, 65535))
MEMBERS = st.builds(
    Member,
    ADDRESSES,
    st.text(max_size=4),
    st.text(max_size=4),
    st.integers(1, 99),
    st.integers(0, 1 << 40),
    st.text(max_size=4),
    st.text(max_size=4),
    st.integers(0, 99),
    st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2),
    relayed=st.booleans(),
    resources=st.dictionaries(st.from_regex(r"[a-z][a-z0-9.-]{0,3}", fullmatch=True), st.integers(1, 99), max_size=2),
)
KEY_TEXTS, NUMBERS_OF_LISTS = st.text(max_size=6), st.integers(0, 1 << 40)
OF_TYPE = {
    "str": KEY_TEXTS,
    "int": NUMBERS_OF_LISTS,
    "float": st.floats(allow_nan=False, allow_infinity=False),  # what a message may hold
    "bool": st.booleans(),
    "bytes": st.binary(max_size=8),
    "Any": ANYTHING,
    "list": st.lists(ANYTHING, max_size=3),
    "list[str]": st.lists(KEY_TEXTS, max_size=3),
    "list[int]": st.lists(NUMBERS_OF_LISTS, max_size=3),
    "list[bytes]": st.lists(st.binary(max_size=8), max_size=3),
    "dict": st.dictionaries(KEYS, ANYTHING, max_size=3),
    "dict[int, list]": st.dictionaries(st.integers(0, 9), st.lists(ANYTHING, max_size=2), max_size=2),
    "dict[int, int]": st.dictionaries(st.integers(0, 9), st.integers(0, 9), max_size=2),
    "dict[int, str]": st.dictionaries(st.integers(0, 9), KEY_TEXTS, max_size=2),
    "dict[int, bytes]": st.dictionaries(st.integers(0, 9), st.binary(max_size=8), max_size=2),
    "dict[bytes, bytes]": st.dictionaries(st.binary(max_size=8), st.binary(max_size=8), max_size=2),
    "dict[str, str]": st.dictionaries(KEY_TEXTS, KEY_TEXTS, max_size=2),
    "dict[str, int]": st.dictionaries(KEY_TEXTS, st.integers(1, 99), max_size=2),
    "dict[str, dict[str, int]]": st.dictionaries(
        KEY_TEXTS, st.dictionaries(KEY_TEXTS, st.integers(0, 9), max_size=2), max_size=2
    ),
    "Member": MEMBERS,
    "list[Member]": st.lists(MEMBERS, max_size=2),
}


def messages_of(cls):
    fields = {field.name: OF_TYPE[str(field.type)] for field in dataclasses.fields(cls) if field.name != "buffers"}
    if len(fields) < len(dataclasses.fields(cls)):
        fields["buffers"] = st.lists(st.binary(max_size=8), max_size=3)
    return st.builds(cls, **fields)


MESSAGES = st.sampled_from(sorted(REGISTRY)).flatmap(lambda operation: messages_of(REGISTRY[operation]))


def decoded(header, buffers=()):
    """The message and its request number, or None if that is refused; any other error is a failure."""
    try:
        return decode(header, buffers)
    except ProtocolError:
        return None


def assert_stable(message, request):
    """Encoding what was decoded gives bytes that mean the same, and give the same bytes again."""
    header = encode_header(message, request)
    again, number = decode(header, buffers_of(message))
    assert type(again) is type(message)
    assert encode_header(again, number) == header


@given(MESSAGES, st.integers(0, 1 << 40))
@examples(500)
def test_every_message_comes_back(message, request):
    header, buffers = encode_header(message, request), buffers_of(message)
    again, number = decode(header, buffers)
    assert (type(again), number, buffers_of(again)) == (type(message), request, buffers)
    assert encode_header(again, number) == header
    frame = b"".join(bytes(piece) for piece in encode_frame(message, request))
    assert frames.Decoder().feed(frame) == [(header, buffers)]


@given(MESSAGES, BREAKS)
@examples(1000)
def test_a_message_of_broken_bytes_is_refused_or_is_a_message(message, breaks):
    outcome = decoded(broken(encode_header(message, 1), breaks), buffers_of(message))
    if outcome is not None:
        assert_stable(*outcome)


@given(MESSAGES, st.integers(0, 20), ANYTHING, st.sampled_from(["replace", "insert", "delete"]))
@examples(1000)
def test_a_message_with_something_else_in_a_field_is_refused_or_is_a_message(message, position, value, how):
    row = msgpack.unpackb(encode_header(message, 1), strict_map_key=False)
    at = position % len(row)
    row[at : at + (how != "insert")] = [] if how == "delete" else [value]
    outcome = decoded(msgpack.packb(row))
    if outcome is not None:
        assert_stable(*outcome)
        for field in dataclasses.fields(outcome[0]):
            expected = {"str": str, "bytes": bytes, "bool": bool, "Member": Member}.get(str(field.type))
            assert expected is None or type(getattr(outcome[0], field.name)) is expected


@given(st.one_of(st.binary(max_size=100), st.builds(msgpack.packb, ANYTHING)))
@examples(375)
def test_a_header_of_anything_is_refused_or_is_a_message(header):
    outcome = decoded(header)
    if outcome is not None:
        assert_stable(*outcome)


@given(st.one_of(ANYTHING, st.lists(ANYTHING, min_size=5, max_size=9)))
@examples(250)
def test_a_member_of_anything_is_refused_or_is_a_member(value):
    try:
        member = restore_member(value)
    except ProtocolError:
        return
    assert type(member) is Member
    assert member.ncores >= 1


@given(st.sampled_from([b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"]), st.integers(0, (1 << 32) - 1), st.booleans())
@examples(150)
def test_lengths_inside_a_header_take_no_memory_either(kind, length, is_inside):
    """Arrays, maps, byte strings and texts that say that they are up to four thousand million long."""
    header = (b"\x93\xa7who_has\x00" if is_inside else b"") + kind + struct.pack(">I", length) + bytes(50)
    tracemalloc.start()
    try:
        outcome = decoded(header)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert outcome is None
    assert peak < MEMORY_BYTES_MAX


# ----------------------------------------------------------------------------------------------------------- handshakes


def take_part(handshake, stream):
    """Let one side hear a stream; what it said, and how many bytes it wanted."""
    said, position = [handshake.start()], 0
    while handshake.wanted and position + handshake.wanted <= len(stream):
        assert handshake.wanted <= HELLO.size
        part = stream[position : position + handshake.wanted]
        position += len(part)
        said.append(handshake.receive(part))
    assert position <= ANSWER_BYTES + 1  # and a verdict
    if handshake.failure is not None:
        assert type(handshake.failure) in (ConnectionFailed, AuthenticationFailed, VersionMismatch)
        assert not handshake.wanted
    return b"".join(said)


HELLOS = st.builds(
    HELLO.pack,
    st.sampled_from([MAGIC, MAGIC, MAGIC, b"GET "]),
    st.one_of(st.just(PROTOCOL_VERSION), st.integers(0, 65535)),
    st.integers(0, 4),
    st.integers(0, 6),
    st.binary(min_size=32, max_size=32),
)
TAILS = st.builds(bytes.__add__, st.sampled_from([b"\0", b"\1", b"\2", b""]), st.binary(max_size=80))


@given(st.one_of(st.binary(max_size=120), st.builds(bytes.__add__, HELLOS, TAILS)), st.booleans())
@example(HELLO.pack(MAGIC, PROTOCOL_VERSION, 0, 1, bytes(32)) + bytes(80), False)
@examples(750)
def test_nobody_passes_who_does_not_know_the_secret(stream, is_server):
    side = ServerHandshake(OURS, "worker") if is_server else ClientHandshake(OURS, "pool", "control")
    take_part(side, stream)
    assert not side.done


@given(
    st.sampled_from(sorted(ROLES)),
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(["client", "server", "nobody"]),
    BREAKS,
    st.booleans(),
)
@examples(750)
def test_a_broken_conversation_of_members_fails_and_a_whole_one_does_not(role, kind, who, breaks, knows):
    """Who reads something else than was said does not pass, and who hears of no secret does not either."""
    secret = OURS if knows else THEIRS
    client, server = ClientHandshake(OURS, role, kind), ServerHandshake(secret, "center")
    spoken = {"client": client.start(), "server": b""}
    was_broken = False
    for hearer, speaker, name in ((server, "client", "server"), (client, "server", "client")) * 2:
        heard = spoken[speaker]
        if who == speaker and heard and not was_broken:
            other = broken(heard, breaks)
            assume(other != heard and len(other) == len(heard))
            heard, was_broken = other, True
        spoken[speaker] = b""
        while hearer.wanted and len(heard) >= hearer.wanted:
            part, heard = heard[: hearer.wanted], heard[hearer.wanted :]
            spoken[name] += hearer.receive(part)
    assert (client.done and server.done) == (knows and not was_broken)
    for side in (client, server):
        assert side.failure is None or isinstance(side.failure, ConnectionFailed)


# ----------------------------------------------------------------------------------------------- heads of packed values


REFERENCES = st.lists(
    st.tuples(st.text(max_size=6), st.integers(0, 9), st.integers(0, 9), st.lists(ADDRESSES, max_size=2)).map(list),
    max_size=3,
)


def full_form(references, lengths, pickled, tail):
    """A packed value of the full form, by hand."""
    handles = msgpack.packb(references) if references else b""
    table = b"".join(struct.pack("<QQ", length, length % 2) for length in lengths)
    return HEAD.pack(3, len(lengths), len(handles), len(pickled)) + table + handles + pickled + bytes(tail)


FULL = st.builds(
    full_form,
    REFERENCES,
    st.lists(st.integers(0, 100), max_size=3),
    st.binary(max_size=20),
    st.integers(0, 600),
)


@given(st.one_of(st.binary(max_size=80), FULL, st.builds(broken, FULL, BREAKS)))
@examples(1000)
def test_the_head_of_a_packed_value_is_refused_or_tells_what_is_inside(data):
    """Read by daemons and clients without unpickling anything."""
    try:
        references = contains_of(data)
    except ProtocolError:
        return
    assert all([type(part) for part in reference] == [str, int, int, list] for reference in references)
    if data[:1] == b"\x03":
        _, count, handles_nbytes, nbytes = HEAD.unpack_from(data)
        assert HEAD.size + 16 * count + handles_nbytes + nbytes <= len(data)


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1), st.binary())
@examples(150)
def test_a_packed_value_that_says_that_it_is_large_takes_no_memory(count, handles_nbytes, nbytes, tail):
    data = HEAD.pack(3, count, handles_nbytes, nbytes) + tail
    tracemalloc.start()
    try:
        contains_of(data)
    except ProtocolError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MEMORY_BYTES_MAX


@pytest.mark.parametrize("nbytes", range(1, 60, 3))
def test_a_head_that_is_cut_is_refused(nbytes):
    data = full_form([["alice/1", 1, 100, ["127.0.0.1:1"]]], [4], b"0123456789", 200)
    assert contains_of(data) == [["alice/1", 1, 100, ["127.0.0.1:1"]]]
    with pytest.raises(ProtocolError):
        contains_of(data[:nbytes])
