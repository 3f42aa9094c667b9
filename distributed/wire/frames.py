"""Bytes to frames and back: where a message begins and ends in a stream, and nothing about what it says.

No socket is held here. A frame is a prefix, a header and raw buffers; all integers are little endian::

    u32 length of the header | u32 number of buffers | one u64 per buffer: its length | header | buffers

Every length is checked against a limit before a byte is allocated for it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from distributed.config import SETTINGS
from distributed.errors import ProtocolError

PREFIX: Final = struct.Struct("<II")
JOIN_BYTES_MAX: Final = 16 * 1024  # a smaller piece is copied into its neighbour: cheaper than one more write

Frame = tuple[bytes, list[bytes]]

# Whoever reads asks for up to 256 KiB, and mostly gets a hundred bytes. The GNU C library maps and unmaps such a block
# each time (15 us), until the first time that one is freed; then it keeps them on the heap. This is that time.
bytes(1 << 19)


def encode(header: bytes, buffers: Sequence[bytes | bytearray | memoryview] = ()) -> list[bytes | memoryview]:
    """The pieces of a frame, to be written in this order; small ones are joined, large ones are not copied.

    >>> encode(b'hi')
    [b'\\x02\\x00\\x00\\x00\\x00\\x00\\x00\\x00hi']
    """
    if not buffers:
        return [PREFIX.pack(len(header), 0) + header]
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    lengths = [view.nbytes for view in views]
    pieces: list[bytes | memoryview] = []
    joined = bytearray(struct.pack(f"<II{len(views)}Q", len(header), len(views), *lengths))
    joined += header
    for view in views:
        if view.nbytes <= JOIN_BYTES_MAX:
            joined += view
            continue
        if joined:
            pieces.append(bytes(joined))
            joined = bytearray()
        pieces.append(view)
    if joined:
        pieces.append(bytes(joined))
    return pieces


class Limits:
    """How much a peer may declare: bytes of a header, bytes of a whole frame, number of buffers."""

    __slots__ = ("buffers_max", "bytes_max", "header_bytes_max")

    def __init__(
        self,
        header_bytes_max: int = SETTINGS.frame_header_bytes_max,
        bytes_max: int = SETTINGS.frame_bytes_max,
        buffers_max: int = SETTINGS.frame_buffers_max,
    ) -> None:
        self.header_bytes_max, self.bytes_max, self.buffers_max = header_bytes_max, bytes_max, buffers_max

    def check_prefix(self, header_nbytes: int, count: int) -> None:
        """Refuse a header or a number of buffers beyond the limits."""
        if header_nbytes > self.header_bytes_max:
            raise ProtocolError(f"a frame with a header of {header_nbytes} bytes; the limit is {self.header_bytes_max}")
        if count > self.buffers_max:
            raise ProtocolError(f"a frame with {count} buffers; the limit is {self.buffers_max}")

    def check_total(self, header_nbytes: int, lengths: Sequence[int]) -> None:
        """Refuse a frame that is too large as a whole."""
        total = header_nbytes + sum(lengths)
        if total > self.bytes_max:
            raise ProtocolError(f"a frame of {total} bytes; the limit is {self.bytes_max}")


class Decoder:
    """Frames out of a stream, however it is cut into pieces.

    >>> decoder = Decoder()
    >>> alice = b''.join(encode(b'alice', [b'x', b'']))
    >>> decoder.feed(alice[:9]), decoder.feed(alice[9:] + alice[:1])
    ([], [(b'alice', [b'x', b''])])
    """

    def __init__(
        self,
        header_bytes_max: int = SETTINGS.frame_header_bytes_max,
        bytes_max: int = SETTINGS.frame_bytes_max,
        buffers_max: int = SETTINGS.frame_buffers_max,
    ) -> None:
        self.limits = Limits(header_bytes_max, bytes_max, buffers_max)
        self._small_max = PREFIX.size + min(header_bytes_max, bytes_max)
        self._pending = bytearray()  # the beginning of a frame that is not complete
        self._wanted = PREFIX.size  # nothing can be decoded before so many bytes are pending
        self._lengths: list[int] | None = None  # header and buffers, when the prefix has been read

    @property
    def pending_bytes(self) -> int:
        """Bytes of an incomplete frame; a stream that ends while there are any was cut."""
        return len(self._pending)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """The frames that `data` completes; `ProtocolError` when the stream cannot be frames within the limits."""
        if not self._pending:
            if type(data) is not bytes:
                data = bytes(data)
            nbytes = len(data)
            if nbytes >= PREFIX.size:
                header_nbytes, count = PREFIX.unpack_from(data)
                if not count and nbytes == PREFIX.size + header_nbytes <= self._small_max:
                    return [(data[PREFIX.size :], [])]  # one small frame and nothing else: a third of the time
            frames, used = self._decode(data)
            if used < len(data):
                self._pending += memoryview(data)[used:]
            return frames
        self._pending += data
        if len(self._pending) < self._wanted:
            return []
        frames, used = self._decode(self._pending)
        if used:
            del self._pending[:used]
        return frames

    def _decode(self, data: bytes | bytearray) -> tuple[list[Frame], int]:
        """All whole frames at the beginning of `data`, and how many bytes they are."""
        frames: list[Frame] = []
        start, end = 0, len(data)
        with memoryview(data) as view:
            while True:
                available = end - start
                if available < PREFIX.size:
                    self._wanted = PREFIX.size
                    return frames, start
                lengths = self._lengths
                if lengths is None:
                    header_nbytes, count = PREFIX.unpack_from(view, start)
                    if not count and available >= PREFIX.size + header_nbytes <= self.limits.header_bytes_max:
                        body = start + PREFIX.size  # the common frame: no buffers, and all of it is here
                        start = body + header_nbytes
                        frames.append((bytes(view[body:start]), []))
                        continue
                    lengths = self._read_lengths(view, start, available, header_nbytes, count)
                    if lengths is None:
                        return frames, start
                offset = PREFIX.size + 8 * (len(lengths) - 1)
                self._wanted = offset + sum(lengths)
                if available < self._wanted:
                    self._lengths = lengths
                    return frames, start
                self._lengths = None
                parts = []
                offset += start
                for length in lengths:
                    parts.append(bytes(view[offset : offset + length]))
                    offset += length
                start = offset
                frames.append((parts[0], parts[1:]))

    def _read_lengths(
        self, view: memoryview, start: int, available: int, header_nbytes: int, count: int
    ) -> list[int] | None:
        """Lengths of header and buffers, checked; None while the table itself is not complete."""
        self.limits.check_prefix(header_nbytes, count)
        if available < PREFIX.size + 8 * count:
            self._wanted = PREFIX.size + 8 * count
            return None
        lengths = struct.unpack_from(f"<{count}Q", view, start + PREFIX.size)
        self.limits.check_total(header_nbytes, lengths)
        return [header_nbytes, *lengths]


def read_prefix(read_exactly: Callable[[int], bytes], limits: Limits | None = None) -> tuple[bytes, list[int]]:
    """Header and lengths of the buffers, read with `read_exactly(n)`; the buffers themselves are left to the caller.

    >>> import io
    >>> read_prefix(io.BytesIO(b''.join(encode(b'alice', [b'x', b'yz']))).read)
    (b'alice', [1, 2])
    """
    limits = limits or Limits()
    header_nbytes, count = PREFIX.unpack(read_exactly(PREFIX.size))
    limits.check_prefix(header_nbytes, count)
    lengths = list(struct.unpack(f"<{count}Q", read_exactly(8 * count))) if count else []
    limits.check_total(header_nbytes, lengths)
    return (bytes(read_exactly(header_nbytes)) if header_nbytes else b""), lengths
