"""The agent's end of one executor: its task socket, what it prints, and its progress cell.

Nothing here blocks, and nothing here knows what a task is. All descriptors of both ends are made here before the
executor exists, so that messages may be sent at once; the executor's ends are passed on and then closed.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import logging
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from distributed.config import SETTINGS
from distributed.errors import ProtocolError
from distributed.quantities import size
from distributed.turns import TURN
from distributed.wire import codec, messages
from distributed.wire.frames import Decoder
from distributed.worker.progress import Cell

log = logging.getLogger(__name__)

READ_BYTES = 1 << 18
TAIL_LINE_CHARACTERS_MAX = 2000


class Stream:
    """What an executor prints on one of its streams: decoded, limited in rate, the last lines kept."""

    def __init__(self, name: str, on_text: Callable[[str, str], bool]) -> None:
        self.name, self.on_text = name, on_text
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.tail: deque[str] = deque([""], maxlen=SETTINGS.stderr_tail_lines + 1)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._second, self._shown_bytes, self._hidden_bytes = 0, 0, 0

    def drain(self) -> bool:
        """Take what is there now; False when nothing can come any more."""
        try:
            data = os.read(self.reader, READ_BYTES)  # more than a pipe holds: all that is there by now, and no more
        except BlockingIOError:
            return True
        if data:
            self._take(data)
        return bool(data)

    def _take(self, data: bytes) -> None:
        text = self._decoder.decode(data)
        for number, line in enumerate(text.split("\n")):
            if number:
                self.tail.append("")
            self.tail[-1] = (self.tail[-1] + line)[:TAIL_LINE_CHARACTERS_MAX]
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._shown_bytes = second, 0
            self.tell_hidden()
        if self._shown_bytes + len(data) > SETTINGS.output_bytes_per_s_max:
            self._hidden_bytes += len(data)
        else:
            self._shown_bytes += len(data)
            if not self.on_text(self.name, text):
                self._hidden_bytes += len(data)

    def tell_hidden(self) -> None:
        """Say how much was printed too fast to be shown."""
        told = f"[{size(self._hidden_bytes)} of output not shown]\n"
        if self._hidden_bytes and self.on_text(self.name, told):
            self._hidden_bytes = 0

    def last_lines(self) -> str:
        return "\n".join(self.tail).strip("\n")

    def close(self) -> None:
        """Give up both ends: nobody prints here."""
        os.close(self.reader)
        os.close(self.writer)


class Child:
    """One executor as its agent sees it.

    `on_message(message)` and `on_output(stream, text)` are called from the event loop. What was printed before a
    message was sent is handed over before that message. `on_broken()`: it sends what is no message.
    """

    def __init__(
        self,
        on_message: Callable[[messages.Message], None],
        on_output: Callable[[str, str], bool],
        on_broken: Callable[[], None],
    ) -> None:
        self.pid = 0
        self.is_closed = False
        self._on_message, self._on_broken = on_message, on_broken
        self.loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as opened:  # all of it, or nothing
            self.socket, self._their_socket = socket.socketpair()
            opened.callback(self.socket.close)
            opened.callback(self._their_socket.close)
            self.streams = []
            for name in ("stdout", "stderr"):
                self.streams.append(Stream(name, on_output))
                opened.callback(self.streams[-1].close)
            self.cell = Cell.create()
            opened.pop_all()
        self.socket.setblocking(False)
        self._decoder = Decoder(SETTINGS.frame_header_bytes_max, SETTINGS.frame_bytes_max, SETTINGS.frame_buffers_max)
        self._unsent: deque[Any] = deque()
        self._printed = select.poll()
        self.loop.add_reader(self.socket, self.read)
        for stream in self.streams:
            self._printed.register(stream.reader, select.POLLIN)
            self.loop.add_reader(stream.reader, self._read_stream, stream)

    def descriptors(self) -> list[int]:
        """The executor's ends, in the order in which the fork server wants them."""
        return [
            self._their_socket.fileno(), *(stream.writer for stream in self.streams), self.cell.descriptor,
        ]  # fmt: skip

    def close_their_ends(self) -> None:
        """The fork server has them now."""
        self._their_socket.close()
        for stream in self.streams:
            os.close(stream.writer)

    def send(self, message: messages.Message) -> None:
        """Hand a message to the executor, or to the queue before it while its socket is full."""
        if self.is_closed:
            return
        (frame,) = codec.encode_frame(message)  # no message on this socket has buffers
        if self._unsent:
            self._unsent.append(frame)
            return
        try:
            count = self.socket.send(frame)
        except BlockingIOError:
            count = 0
        except OSError:  # it is dead: its end is reported by the fork server
            return
        if count < len(frame):
            self._unsent.append(memoryview(frame)[count:])
            self.loop.add_writer(self.socket, self._write)

    def _write(self) -> None:
        while self._unsent:
            piece = self._unsent[0]
            try:
                count = self.socket.send(piece)
            except BlockingIOError:
                return
            except OSError:  # it is dead: its end is reported by the fork server
                self._unsent.clear()
                break
            if count < len(piece):
                self._unsent[0] = memoryview(piece)[count:]
            else:
                self._unsent.popleft()
        self.loop.remove_writer(self.socket)

    def read(self) -> bool:
        """Take what the executor sent, what it printed first; False when there is no more for now."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if printed := self._printed.poll(0):  # after `recv`: all that was printed before is in the pipes by now
            self._show_output({descriptor for descriptor, _ in printed})
        if not data:
            self.loop.remove_reader(self.socket)
            return False
        waiting = TURN.begin()
        try:
            for message in [codec.decode(header)[0] for header, _ in self._decoder.feed(data)]:
                self._on_message(message)
        except ProtocolError as error:  # user code wrote into the socket
            log.warning("executor with pid %d: %s", self.pid, error)
            self.loop.remove_reader(self.socket)
            self._on_broken()
            return False
        finally:
            TURN.end(waiting)
        return True

    def _show_output(self, readable: set[int]) -> None:
        for stream in self.streams:
            if stream.reader in readable:
                self._read_stream(stream)

    def _read_stream(self, stream: Stream) -> None:
        if not stream.drain():
            self.loop.remove_reader(stream.reader)
            self._printed.unregister(stream.reader)

    def finish(self) -> None:
        """The executor is dead: take what it left in socket and pipes, then close."""
        if self.is_closed:
            return
        while self.read():
            pass
        for stream in self.streams:
            stream.drain()
            stream.tell_hidden()
        self.close()

    def close(self) -> None:
        """Give up this end: an idle executor ends when it sees that."""
        if self.is_closed:
            return
        self.is_closed = True
        self.loop.remove_reader(self.socket)
        self.loop.remove_writer(self.socket)
        self.socket.close()
        for stream in self.streams:
            self.loop.remove_reader(stream.reader)
            os.close(stream.reader)
        self.cell.close()
