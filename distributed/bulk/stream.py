"""Frames on a blocking socket, whose buffers come from files and memory and go straight to where they belong."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import mmap
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

from distributed.config import SETTINGS
from distributed.errors import ProtocolError
from distributed.pieces import never_fill_again, write_all
from distributed.wire import frames
from distributed.wire.codec import decode, encode_header
from distributed.wire.messages import Message

RECEIVE_BYTES = 4 << 20  # in one system call
SKIP_BYTES = 1 << 20
BELIEVED_BYTES = 64 << 10  # of what a peer says will come
PIPE_BYTES = 1 << 20
SPLICED_BYTES_MIN = 1 << 20
COPY_BYTES = 256 << 10
QUEUED_BYTES_UNKNOWN = 64 << 20  # where the system does not say


class Stream:
    """A blocking socket that frames go through; the buffers of an incoming frame are left to the caller."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._limit_silence()

    def _limit_silence(self) -> None:
        seconds, fraction = divmod(SETTINGS.client_lease_s, 1)  # a peer that neither sends nor reads for so long
        stalled = struct.pack("ll", int(seconds), int(fraction * 1e6))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, stalled)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, stalled)

    def send(self, message: Message, lengths: Sequence[int] = (), pieces: Sequence[Any] = ()) -> None:
        """A frame with buffers of these lengths, of which `pieces` are the beginning; the rest must follow."""
        header = encode_header(message)
        table = struct.pack(f"<{len(lengths)}Q", *lengths)
        self.send_pieces([frames.PREFIX.pack(len(header), len(lengths)) + table + header, *pieces])

    def send_pieces(self, pieces: Sequence[Any]) -> None:
        """Buffers, one after the other, without joining them."""
        write_all(lambda views, offset: self.sock.sendmsg(views), pieces)

    def send_file(self, descriptor: int, nbytes: int) -> None:
        """The content of a file, most of it sent by the kernel.

        The kernel puts the file's own pages into the queues of sockets, on one machine the receiver's too, and they
        must not change there. So the end is copied, as much as the queues hold: once it has been taken, all pages
        have been read. If it comes to something else the file is marked, and never filled again.
        """
        try:
            offset = self._send_pages(descriptor, max(0, nbytes - queued_bytes_max()))
            buffer = memoryview(bytearray(min(COPY_BYTES, nbytes - offset)))
            while offset < nbytes:
                count = os.preadv(descriptor, [buffer[: nbytes - offset]], offset)
                if not count:
                    raise ConnectionResetError("a file was cut short while it was sent")
                self.sock.sendall(buffer[:count])
                offset += count
        except BaseException:
            never_fill_again(descriptor)
            raise

    def _send_pages(self, descriptor: int, nbytes: int) -> int:
        offset = 0
        while offset < nbytes:
            sent = os.sendfile(self.sock.fileno(), descriptor, offset, nbytes - offset)
            if not sent:
                raise ConnectionResetError("a file was cut short while it was sent")
            offset += sent
        return offset

    def receive(self) -> tuple[Message, list[int]]:
        """The next message without its buffers, and their lengths."""
        header, lengths = frames.read_prefix(lambda nbytes: bytes(self.read_exactly(nbytes)))
        return decode(header)[0], lengths

    def read_exactly(self, nbytes: int) -> bytearray:
        """So many bytes. They take up room as they come, not as they are announced."""
        data, filled = bytearray(min(nbytes, BELIEVED_BYTES)), 0
        while filled < nbytes:
            with memoryview(data) as view, view[filled:] as rest:
                self.receive_into(rest)
            filled = len(data)
            data += bytes(min(filled, nbytes - filled))
        return data

    def receive_into(self, view: memoryview) -> None:
        """Fill the view from the socket."""
        filled, nbytes = 0, len(view)
        while filled < nbytes:
            received = self.sock.recv_into(view[filled : filled + RECEIVE_BYTES], 0, socket.MSG_WAITALL)
            if not received:
                raise ConnectionResetError("the peer closed the connection in the middle of a message")
            filled += received

    def receive_into_file(self, path: str, nbytes: int) -> None:
        """Fill a file, allocated before, from the socket; its pages are the only memory this takes."""
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size != nbytes:
                raise ProtocolError(f"the file reserved for {nbytes} bytes has another size")
            self._fill(descriptor, nbytes)
        finally:
            os.close(descriptor)

    def _fill(self, descriptor: int, nbytes: int) -> None:
        # A large one by way of a pipe, which leaves it to the kernel: for 256 MiB 70 ms of processor time, against 120
        # to receive into a mapping, whose pages have to be mapped one by one, or to receive and write.
        if nbytes >= SPLICED_BYTES_MIN and self._splice(descriptor, nbytes):
            return
        with mmap.mmap(descriptor, nbytes) as mapped, memoryview(mapped) as view:
            self.receive_into(view)

    def _splice(self, descriptor: int, nbytes: int) -> bool:
        """Fill the file by way of a pipe; False, and nothing was received, where the kernel does not do that."""
        if not hasattr(os, "splice"):
            return False
        done = 0
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # unprivileged users have few large pipes: then it is a small one
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            while done < nbytes:
                try:
                    count = os.splice(self.sock.fileno(), writing, min(PIPE_BYTES, nbytes - done))
                except ValueError as error:
                    raise ConnectionResetError("closed on this side") from error
                except OSError as error:
                    if error.errno == errno.EINVAL and not done:
                        return False
                    raise
                if not count:
                    raise ConnectionResetError("the peer closed the connection in the middle of a message")
                end = done + count
                while done < end:
                    done += os.splice(reading, descriptor, end - done, offset_dst=done)
        finally:
            os.close(reading)
            os.close(writing)
        return True

    def skip(self, nbytes: int) -> None:
        """Read bytes that nobody wants."""
        with memoryview(bytearray(min(nbytes, SKIP_BYTES))) as scratch:
            while nbytes:
                part = scratch[: min(nbytes, len(scratch))]
                self.receive_into(part)
                nbytes -= len(part)


@functools.cache
def queued_bytes_max() -> int:
    """What sender, receiver and the pipe behind it may hold at most of a connection, and a quarter more."""
    try:
        limits = []
        for name in ("tcp_wmem", "tcp_rmem"):
            with open(f"/proc/sys/net/ipv4/{name}") as file:
                limits.append(int(file.read().split()[2]))
    except (OSError, ValueError, IndexError):
        return QUEUED_BYTES_UNKNOWN
    return (sum(limits) + 2 * PIPE_BYTES) * 5 // 4
