"""The stream of frames: any cut of it gives the same frames, and lengths are checked before they are believed."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed.errors import ProtocolError
from distributed.wire.frames import Decoder, Limits, encode, read_prefix

FRAMES = st.lists(st.tuples(st.binary(max_size=40), st.lists(st.binary(max_size=40), max_size=4)), max_size=6)


def joined(frames):
    return b"".join(b"".join(encode(header, buffers)) for header, buffers in frames)


@given(FRAMES, st.lists(st.integers(0, 60), max_size=30))
def test_frames_survive_any_cut_of_the_stream(frames, cuts):
    stream, decoder, seen = joined(frames), Decoder(), []
    for cut in cuts:
        seen += decoder.feed(stream[:cut])
        stream = stream[cut:]
    seen += decoder.feed(stream)
    assert seen == frames
    assert decoder.pending_bytes == 0


def test_frames_survive_one_byte_at_a_time():
    frames = [(b"alice", []), (b"", [b"x", b"", b"y" * 300]), (b"bob", [b""])]
    decoder = Decoder()
    assert [frame for byte in joined(frames) for frame in decoder.feed(bytes([byte]))] == frames


@given(FRAMES)
def test_a_blocking_reader_sees_the_same_frames(frames):
    stream = io.BytesIO(joined(frames))
    seen = []
    for _ in frames:
        header, lengths = read_prefix(stream.read)
        seen.append((header, [stream.read(length) for length in lengths]))
    assert seen == frames


def test_the_byte_order_is_little_endian():
    assert b"".join(encode(b"h", [b"xy"])) == bytes.fromhex("01000000 01000000 0200000000000000") + b"hxy"


def test_large_buffers_are_not_copied_and_small_ones_are_joined():
    large = bytearray(100_000)
    pieces = encode(b"h", [b"x", large, b"y", b"z"])
    assert len(pieces) == 3
    assert pieces[1].obj is large
    assert pieces[2] == b"yz"


def test_a_buffer_of_any_item_size_is_sent_as_its_bytes():
    numbers = memoryview(struct.pack("<3I", 1, 2, 3)).cast("I")
    assert Decoder().feed(b"".join(encode(b"", [numbers]))) == [(b"", [bytes(numbers)])]


def test_a_stream_that_ends_in_a_frame_is_noticed():
    decoder = Decoder()
    assert decoder.feed(joined([(b"alice", [b"x"])])[:-1]) == []
    assert decoder.pending_bytes == 21


@pytest.mark.parametrize(
    ("limits", "frame"),
    [
        ((10, 1000, 4), (b"h" * 11, [])),
        ((10, 1000, 4), (b"h" * 11, [b"x"])),
        ((10, 1000, 4), (b"h", [b""] * 5)),
        ((10, 1000, 4), (b"h", [b"x" * 1000])),
        ((10, 1000, 4), (b"h", [b"x" * 500, b"x" * 500])),
        ((10, 5, 4), (b"h" * 6, [])),
    ],
)
def test_a_frame_beyond_a_limit_is_refused(limits, frame):
    stream = joined([frame])
    with pytest.raises(ProtocolError):
        Decoder(*limits).feed(stream)
    with pytest.raises(ProtocolError):
        read_prefix(io.BytesIO(stream).read, Limits(*limits))


def test_a_frame_at_the_limit_is_taken():
    frame = (b"h" * 10, [b"x" * 90])
    assert Decoder(10, 100, 1).feed(joined([frame])) == [frame]


@pytest.mark.parametrize(
    "prefix",
    [
        struct.pack("<II", 0xFFFFFFFF, 0),
        struct.pack("<II", 0, 0xFFFFFFFF),
        struct.pack("<IIQ", 1, 1, 0xFFFFFFFFFFFFFFFF),
        struct.pack("<II4Q", 1, 4, *[1 << 63] * 4),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),  # a TLS hello
    ],
)
def test_absurd_lengths_are_refused_before_anything_is_allocated(prefix):
    with pytest.raises(ProtocolError):
        Decoder().feed(prefix)


def test_lengths_are_refused_as_soon_as_they_are_known():
    decoder = Decoder(header_bytes_max=10)
    assert decoder.feed(struct.pack("<II", 11, 0)[:7]) == []
    with pytest.raises(ProtocolError):
        decoder.feed(b"\x00")


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_random_bytes_give_frames_or_a_protocol_error(pieces):
    decoder = Decoder(header_bytes_max=1000, bytes_max=1000, buffers_max=8)
    try:
        for piece in pieces:
            decoder.feed(piece)
            assert decoder.pending_bytes < 1000 + 8 + 8 * 8
    except ProtocolError:
        pass


def test_a_large_frame_in_small_pieces_is_decoded_once():
    decoder, decoded = Decoder(), []
    inner = decoder._decode
    decoder._decode = lambda data: decoded.append(len(data)) or inner(data)
    stream = joined([(b"h", [bytes(1_000_000)])])
    frames = [frame for start in range(0, len(stream), 1000) for frame in decoder.feed(stream[start : start + 1000])]
    assert [len(buffers[0]) for _, buffers in frames] == [1_000_000]
    assert len(decoded) <= 3  # at the first piece and at the last, not at each of a thousand
