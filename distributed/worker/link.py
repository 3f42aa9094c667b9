"""The executor's end of its socket to the agent: messages in and out, blocking. Knows no task.

What comes is not checked as what comes from elsewhere is: the agent made this process out of its own code.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections import deque
from typing import TypeVar

from distributed.wire import codec
from distributed.wire.frames import Decoder
from distributed.wire.messages import Message

READ_BYTES = 1 << 18
Kind = TypeVar("Kind", bound=Message)


class Link:
    """Messages over the blocking task socket, sent and received by any thread.

    What one thread reads may be for another. So whoever waits looks into the inbox, notes `reads` before, and passes
    that to `read`: it returns at once if another thread has read since.
    """

    def __init__(self, task_socket: socket.socket) -> None:
        self.socket = task_socket
        self.inbox: deque[Message] = deque()
        self._decoder = Decoder()
        self._arrived = select.poll()
        self._arrived.register(task_socket, select.POLLIN)
        self._sending, self._reading = threading.Lock(), threading.Lock()
        self.reads = 0  # how often something arrived
        self._bell = -1  # whoever reads returns when something is written into it

    def send(self, message: Message) -> None:
        """Send a message; if the agent is gone it goes nowhere, and the next `receive` tells.

        `OSError` if a task closed the socket, or put something else in its place.
        """
        (frame,) = codec.encode_frame(message)  # no message on this socket has buffers
        try:
            with self._sending:
                self._send_all(memoryview(frame))
        except ConnectionError:
            pass

    def _send_all(self, left: memoryview) -> None:
        """As `sendall`, also where uvloop, which watches this socket, has made it one that does not wait."""
        while left:
            try:
                left = left[self.socket.send(left) :]
            except BlockingIOError:
                room = select.poll()
                room.register(self.socket, select.POLLOUT)
                room.poll()

    def receive(self) -> Message | None:
        """The next message; None when the agent is gone."""
        while True:
            seen = self.reads
            try:
                return self.inbox.popleft()
            except IndexError:
                if not self.read(seen):
                    return None

    def read(self, seen: int, timeout_s: float | None = None) -> bool:
        """Move what arrives into the inbox, if nothing has since `seen`; False when the agent is gone.

        True also when the time is over, or `wake` was called.
        """
        if timeout_s is None:
            self._reading.acquire()
        elif not self._reading.acquire(timeout=timeout_s):
            return True
        try:
            if self.reads != seen:
                return True
            # Whoever waits in `recv` on a Unix socket is woken once more, for nothing, when the peer reads what was
            # sent before; whoever waits in `poll` is not. It costs less than the switch to this process and back.
            ready = self._arrived.poll(None if timeout_s is None else timeout_s * 1000)
            if self._bell >= 0 and any(descriptor == self._bell for descriptor, _ in ready):
                os.eventfd_read(self._bell)
                if len(ready) == 1:
                    return True
            return self._take(0) if ready else True
        finally:
            self._reading.release()

    def read_what_is_there(self) -> bool:
        """Move what has arrived into the inbox; False when the agent is gone."""
        with self._reading:
            return self._take(socket.MSG_DONTWAIT)

    def _take(self, flags: int) -> bool:
        try:
            data = self.socket.recv(READ_BYTES, flags)
        except ConnectionError:
            return False
        for header, _ in self._decoder.feed(data):
            self.inbox.append(codec.decode_unchecked(header))
        self.reads += 1
        return bool(data)

    def hang_bell(self) -> None:
        """From now on somebody may want to wake those who read."""
        with self._sending:
            if self._bell < 0:
                self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                self._arrived.register(self._bell, select.POLLIN)

    def wake(self) -> None:
        """Make whoever reads return, if there is a bell."""
        if self._bell >= 0:
            os.eventfd_write(self._bell, 1)

    def wait_for(self, kind: type[Kind]) -> Kind:
        """The next message of this kind; others stay in the inbox. `ConnectionError` when the agent is gone."""
        while True:
            seen = self.reads
            for message in list(self.inbox):
                if isinstance(message, kind):
                    self.inbox.remove(message)
                    return message
            if not self.read(seen):
                raise ConnectionError("the worker is gone")
