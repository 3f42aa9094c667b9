"""One connection of a pool: a non-blocking socket, what has arrived on it, what is to be sent. Knows no message."""

from __future__ import annotations

import collections
import itertools
import socket
from typing import Any

from distributed.wire import frames
from distributed.wire.codec import decode, encode_header
from distributed.wire.messages import Member, Message

RECEIVE_BYTES = 1 << 18
WRITE_PIECES_MAX = 64


class Channel:
    """The center's connection (`member` is None) or a worker's. Bytes in, messages out, and the other way round."""

    def __init__(self, sock: socket.socket, member: Member | None) -> None:
        sock.setblocking(False)
        self.sock, self.member = sock, member
        self.is_attached = member is None  # a worker is used once it has answered
        self.is_writing = False  # the socket was full: the selector tells when it is not
        self.bytes_sent = self.bytes_received = 0
        self.outgoing: collections.deque[Any] = collections.deque()
        self._decoder = frames.Decoder()

    def push(self, message: Message, request: int = 0) -> None:
        """Queue a message."""
        self.outgoing.extend(frames.encode(encode_header(message, request)))

    def receive(self, buffer: memoryview) -> list[tuple[Message, int]] | None:
        """The messages that have arrived; None at the end. OSError and ProtocolError mean what they say.

        `buffer` is where they arrive: to allocate one for each call would take longer than to read a small message.
        """
        try:
            nbytes = self.sock.recv_into(buffer)
        except BlockingIOError:
            return []
        self.bytes_received += nbytes
        frames_ = self._decoder.feed(bytes(buffer[:nbytes]))
        return [decode(header, buffers) for header, buffers in frames_] if nbytes else None

    def send(self) -> None:
        """Send what is queued, as far as the socket takes it."""
        outgoing = self.outgoing
        try:
            while outgoing:
                if len(outgoing) > 1:
                    sent = self.sock.sendmsg(list(itertools.islice(outgoing, WRITE_PIECES_MAX)))
                else:
                    sent = self.sock.send(outgoing[0])
                self.bytes_sent += sent
                self._consume(sent)
        except BlockingIOError:
            pass

    def _consume(self, sent: int) -> None:
        """Take `sent` bytes off the front."""
        outgoing = self.outgoing
        while sent:
            piece = outgoing[0]
            if len(piece) > sent:
                outgoing[0] = memoryview(piece)[sent:]
                return
            sent -= len(piece)
            outgoing.popleft()
