"""The executor's end of its socket to the agent: messages in and out, blocking. Knows no task.

What comes is not checked as what comes from elsewhere is: the agent made this process out of its own code.
"""

from __future__ import annotations

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
    """Messages over the blocking task socket. Anything may be sent from any thread; one thread receives."""

    def __init__(self, task_socket: socket.socket) -> None:
        self.socket = task_socket
        self.inbox: deque[Message] = deque()
        self._decoder = Decoder()
        self._arrived = select.poll()
        self._arrived.register(task_socket, select.POLLIN)
        self._sending = threading.Lock()

    def send(self, message: Message) -> None:
        """Send a message; if the agent is gone it goes nowhere, and the next `receive` tells."""
        (frame,) = codec.encode_frame(message)  # no message on this socket has buffers
        try:
            with self._sending:
                self.socket.sendall(frame)
        except OSError:
            pass

    def receive(self) -> Message | None:
        """The next message; None when the agent is gone."""
        while not self.inbox:
            if not self.read():
                return None
        return self.inbox.popleft()

    def read(self, flags: int = 0) -> bool:
        """Move what arrived into the inbox; False when the agent is gone."""
        if not flags:
            # Whoever waits in `recv` on a Unix socket is woken once more, for nothing, when the peer reads what was
            # sent before; whoever waits in `poll` is not. It costs less than the switch to this process and back.
            self._arrived.poll()
        try:
            data = self.socket.recv(READ_BYTES, flags)
        except ConnectionError:
            return False
        for header, _ in self._decoder.feed(data):
            self.inbox.append(codec.decode_unchecked(header))
        return bool(data)

    def wait_for(self, kind: type[Kind]) -> Kind:
        """The next message of this kind; others stay in the inbox. `ConnectionError` when the agent is gone."""
        seen = 0
        while True:
            for position in range(seen, len(self.inbox)):
                message = self.inbox[position]
                if isinstance(message, kind):
                    del self.inbox[position]
                    return message
            seen = len(self.inbox)
            if not self.read():
                raise ConnectionError("the worker is gone")
