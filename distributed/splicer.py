"""Bytes between pairs of sockets, both ways, in a thread of their own: what the center passes on, it never looks at.

A stream that is read slowly is read no faster from its other end: of each direction there is one piece in here at most,
and the kernel's queues tell the writer to wait. In one turn no stream gets more than its share, and the event loop
beside this thread is held up by none: while bytes are copied nobody holds the interpreter.
"""

from __future__ import annotations

import contextlib
import logging
import math
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from distributed.config import SETTINGS

log = logging.getLogger("distributed.center")

LOOK_S = 10.0  # so often those are looked for that have been idle for too long
PIECES_PER_TURN = 4  # of one direction, before the others get their turn
CLOSE_S = 1.0


class _Flow:
    """One direction: what comes out of `source` goes into `target`."""

    __slots__ = ("is_over", "source", "target", "waiting")

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self.waiting = memoryview(b"")  # read, and not taken by the target yet: until then nothing more is read
        self.is_over = False  # the source said all, and the target has been told so

    def move(self, scratch: memoryview) -> None:
        """Pass on what is there, as far as the target takes it; `OSError` when either is gone."""
        for _ in range(PIECES_PER_TURN):
            try:
                if not self.waiting:
                    count = self.source.recv_into(scratch)
                    if not count:
                        self.is_over = True
                        self.target.shutdown(socket.SHUT_WR)
                        return
                    self.waiting = scratch[:count]
                while self.waiting:
                    self.waiting = self.waiting[self.target.send(self.waiting) :]
            except (BlockingIOError, InterruptedError):
                break
        if self.waiting.obj is scratch.obj:  # which others need
            self.waiting = memoryview(bytes(self.waiting))


class _Splice:
    """Two sockets, and both directions between them."""

    def __init__(self, number: int, one: socket.socket, other: socket.socket, idle_s: float, used_s: float) -> None:
        self.number, self.socks = number, (one, other)
        self.flows = (_Flow(one, other), _Flow(other, one))
        self.idle_s, self.used_s = idle_s, used_s

    def wanted(self, sock: socket.socket) -> int:
        """What to wait for at one of its sockets."""
        events = 0
        for flow in self.flows:
            if flow.source is sock and not flow.waiting and not flow.is_over:
                events |= selectors.EVENT_READ
            if flow.target is sock and flow.waiting:
                events |= selectors.EVENT_WRITE
        return events


class Splicer:
    """Joins sockets. `on_parted(number)` is called once for each `join`, when both are closed.

    That is in its thread; or, when that has ended, in the one that joins. What goes wrong with two sockets ends these
    two and no others; whatever ends the thread ends all of them, rather than leave them open with nobody to serve them.
    """

    def __init__(
        self, on_parted: Callable[[int], object], look_s: float = LOOK_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._on_parted, self._look_s, self._clock = on_parted, look_s, clock
        self._splices: dict[int, _Splice] = {}
        self._commands: deque[Callable[[], None]] = deque()
        self._is_closed = False
        self._scratch = memoryview(bytearray(SETTINGS.spliced_bytes_max))
        self._selector = selectors.DefaultSelector()
        self._bell, self._ringer = socket.socketpair()
        for sock in (self._bell, self._ringer):
            sock.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="distributed-splicer", daemon=True)
        self._thread.start()

    def join(self, number: int, one: socket.socket, other: socket.socket, idle_s: float = math.inf) -> None:
        """Pass bytes on between these two plain sockets, which are closed in here, until both have said all.

        Or until nothing has come from either for `idle_s`.
        """
        splice = _Splice(number, one, other, idle_s, self._clock())
        self._command(lambda: self._with(splice, self._begin))

    def part(self, number: int) -> None:
        """End a splice, whatever is on its way."""
        self._command(lambda: self._end(self._splices.get(number)))

    def close(self) -> None:
        """End all of them, and the thread."""
        self._command(self._finish)
        self._thread.join(CLOSE_S)
        self._ringer.close()

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        with contextlib.suppress(OSError):  # it is full, so the thread will wake; or closed, so there is none
            self._ringer.send(b"\0")
        if self._is_closed:  # then the thread may have looked for commands for the last time
            self._obey()

    # ------------------------------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            self._finish()
            self._obey()  # who commands from now on sees that it is closed
            self._selector.close()
            self._bell.close()

    def _serve(self) -> None:
        looked_s = self._clock()
        while not self._is_closed:
            for key, _ in self._selector.select(self._look_s):
                if key.data is None:
                    self._obey()
                else:
                    self._with(key.data, self._turn)
            if self._clock() - looked_s > self._look_s:
                looked_s = self._clock()
                self._end_idle_ones(looked_s)

    def _end_idle_ones(self, now_s: float) -> None:
        for splice in [splice for splice in self._splices.values() if now_s - splice.used_s > splice.idle_s]:
            self._end(splice)

    def _obey(self) -> None:
        with contextlib.suppress(OSError):  # nobody rang, or it is closed
            self._bell.recv(4096)
        with contextlib.suppress(IndexError):
            while True:
                self._commands.popleft()()

    def _with(self, splice: _Splice, act: Callable[[_Splice], None]) -> None:
        """Whatever goes wrong goes wrong for this one alone."""
        try:
            act(splice)
        except Exception:
            log.exception("a connection through the center ends, because it could not be served")
            self._end(splice)

    def _begin(self, splice: _Splice) -> None:
        self._splices[splice.number] = splice
        if self._is_closed:
            self._end(splice)
            return
        for sock in splice.socks:
            sock.setblocking(False)
        self._watch(splice)

    def _turn(self, splice: _Splice) -> None:
        """Whatever of it is ready."""
        if splice.number not in self._splices:  # ended in this very turn
            return
        splice.used_s = self._clock()
        try:
            for flow in splice.flows:
                if not flow.is_over:
                    flow.move(self._scratch)
        except OSError as error:
            log.debug("a connection through the center broke: %s", error)
            self._end(splice)
            return
        if all(flow.is_over for flow in splice.flows):
            self._end(splice)
        else:
            self._watch(splice)

    def _watch(self, splice: _Splice) -> None:
        for sock in splice.socks:
            events, known = splice.wanted(sock), self._selector.get_map().get(sock)
            if known is None:
                if events:
                    self._selector.register(sock, events, splice)
            elif not events:  # the kernel would tell of its end again and again
                self._selector.unregister(sock)
            elif events != known.events:
                self._selector.modify(sock, events, splice)

    def _end(self, splice: _Splice | None) -> None:
        if splice is None or self._splices.pop(splice.number, None) is None:
            return
        for sock in splice.socks:
            with contextlib.suppress(KeyError, ValueError):  # it was not waited for, or has been closed
                self._selector.unregister(sock)
            with contextlib.suppress(OSError):
                sock.close()
        try:
            self._on_parted(splice.number)
        except RuntimeError as error:  # the event loop of whoever wanted to know is closed
            log.debug("nobody hears that a connection through the center ended: %s", error)

    def _finish(self) -> None:
        self._is_closed = True
        for splice in list(self._splices.values()):
            self._end(splice)
