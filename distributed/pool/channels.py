"""The connections of a pool: one selector carries the center's and each worker's, and whoever holds the baton turns it.

Owns the descriptors and what is to be sent with the next flush. What messages mean, and what follows when a connection
breaks, is the driver's.
"""

from __future__ import annotations

import contextlib
import os
import selectors
from collections.abc import Callable, Iterator
from typing import Any

from distributed.pool.channel import RECEIVE_BYTES, Channel
from distributed.wire.messages import Message


class Channels:
    """The center's, if there is one, and the workers', by address. `broke` is told of one that cannot send."""

    def __init__(self, broke: Callable[[Channel, str], None]) -> None:
        self.center: Channel | None = None
        self.workers: dict[str, Channel] = {}
        self._broke = broke
        self._unsent: list[Channel] = []  # have something to send since the last flush
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._bytes_sent = self._bytes_received = 0  # over connections that are closed
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_out, selectors.EVENT_READ, None)

    def __iter__(self) -> Iterator[Channel]:
        return iter([channel for channel in (*self.workers.values(), self.center) if channel is not None])

    @property
    def bytes_sent(self) -> int:
        """Over all connections so far."""
        return self._bytes_sent + sum(channel.bytes_sent for channel in self)

    @property
    def bytes_received(self) -> int:
        """Over all connections so far."""
        return self._bytes_received + sum(channel.bytes_received for channel in self)

    @property
    def is_closed(self) -> bool:
        """Whether the descriptors are gone."""
        return self._wake_in < 0

    def add(self, channel: Channel) -> None:
        """A connection is there."""
        self._selector.register(channel.sock, selectors.EVENT_READ, channel)
        if channel.member is None:
            self.center = channel
        else:
            self.workers[channel.member.address] = channel

    def remove(self, channel: Channel) -> bool:
        """Close a connection; whether it was still one of these."""
        if channel is self.center:
            self.center = None
        elif channel.member is not None and self.workers.get(channel.member.address) is channel:
            del self.workers[channel.member.address]
        else:
            return False
        self._bytes_sent += channel.bytes_sent
        self._bytes_received += channel.bytes_received
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(channel.sock)
        channel.sock.close()
        return True

    def close(self) -> None:
        """Close all of them, and what they are waited for with; in a forked child they are the parent's."""
        for channel in self:
            channel.sock.close()
        self.workers.clear()
        self.center = None
        if not self.is_closed:
            descriptors = self._wake_in, self._wake_out
            self._wake_in = self._wake_out = -1
            self._selector.close()
            for descriptor in descriptors:
                os.close(descriptor)

    # ------------------------------------------------------------------------------------------------------ bytes

    def wake(self) -> None:
        """Make the selector return; from any thread."""
        try:
            os.write(self._wake_in, b"\0")
        except (BlockingIOError, OSError):
            pass  # it is full, so it will return; or closed, so nobody selects

    def select(self, timeout_s: float) -> Any:
        """What has happened to any of them by then, for `readable`."""
        return self._selector.select(timeout_s)

    def readable(self, ready: Any) -> Iterator[Channel]:
        """Of what the selector returned: writes what can be written, and gives those on which something has come."""
        for key, events in ready:
            channel = key.data
            if channel is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_out, 4096)
                continue
            if events & selectors.EVENT_WRITE:
                self._write(channel)
            if events & selectors.EVENT_READ and channel.sock.fileno() >= 0:
                yield channel

    def receive(self, channel: Channel) -> list[tuple[Message, int]] | None:
        """What has come on it: see `Channel.receive`."""
        return channel.receive(self._buffer)

    def push(self, channel: Channel, message: Message, request: int = 0) -> None:
        """Have a message sent with the next flush."""
        if not channel.outgoing:
            self._unsent.append(channel)
        channel.push(message, request)

    def flush(self) -> None:
        """Send what is to be sent."""
        while self._unsent:  # what cannot be sent is lost with its connection, and its tasks are sent elsewhere
            unsent, self._unsent = self._unsent, []
            for channel in unsent:
                if channel.outgoing and not channel.is_writing:
                    self._write(channel)

    def _write(self, channel: Channel) -> None:
        try:
            channel.send()
        except OSError as error:
            self._broke(channel, error.strerror or str(error))
            return
        if bool(channel.outgoing) != channel.is_writing:
            channel.is_writing = bool(channel.outgoing)
            mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.is_writing else 0)
            self._selector.modify(channel.sock, mask, channel)
