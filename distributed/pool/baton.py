"""Who turns the selector: a background thread by default, or a caller that has to wait anyway.

Whoever turns holds the *baton*, and only the holder touches the state. A caller that waits takes it and turns the
selector itself, which saves two thread switches a round trip. A caller that leaves does not hand it back at once: the
thread takes it up when nobody has wanted it for a moment. Knows nothing of sockets or tasks.

While the main thread waits or holds the baton, signals are noted and acted on afterwards, so that neither Ctrl-C nor a
time limit ever leaves a half-changed state behind.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from distributed.config import SETTINGS
from distributed.pool.interrupts import deferred_signals

NAP_S = 0.05  # nobody sleeps longer without a look at the world: a lock cannot be told of everything
THREAD_NAP_S = 0.005  # while callers turn; to wake the thread when the last one leaves would cost each round trip more
PUMP_LINGER_S = 0.004  # who pumps does it again soon


class Baton:
    """Sees that exactly one thread turns, and that whoever waits is told.

    Parameters
    ----------
    turn : callable
        One round of work; takes the seconds it may block (None: as long as it likes), and what is waited for: when that
        comes in the middle of the round, it need not block.
    wake : callable
        Makes a blocking `turn` return soon; callable from any thread and from a signal handler.
    is_over : callable
        Whether there is nothing to turn any more.
    """

    def __init__(self, turn: Callable[..., None], wake: Callable[[], None], is_over: Callable[[], bool]) -> None:
        self._turn, self._wake, self._is_over = turn, wake, is_over
        self._held = threading.Lock()
        self._guests: list[None] = []  # callers that want the baton
        self._sleepers: list[tuple[Callable[[], bool], threading.Lock]] = []  # callers that wait while another has it
        self._back = threading.Lock()  # released to call the thread back
        self._back.acquire()
        self._turns_by_guests = 0
        self._linger_s = SETTINGS.linger_s
        self.is_with_guest = False
        self.thread = threading.Thread(target=self._run, name="distributed-pool", daemon=True)

    @property
    def is_wanted(self) -> bool:
        """Whether the thread holds it while a caller waits for it: it should not block."""
        return bool(self._guests) and not self.is_with_guest

    @property
    def has_sleepers(self) -> bool:
        """Whether somebody waits while another turns, and must be told."""
        return bool(self._sleepers)

    @property
    def is_alone(self) -> bool:
        """Whether the thread turns, and nobody waits."""
        return not self._guests and not self.is_with_guest

    def wait(self, is_done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until `is_done()`, turning meanwhile. False when the time is over first, or everything is."""
        self._linger_s = SETTINGS.linger_s
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self._wait_uninterrupted(is_done, deadline):
            pass  # a signal came whose handler did not raise: wait on
        return is_done()

    def pump(self) -> None:
        """One turn that does not block, by a caller that has much to do: else it and the thread fight for the GIL."""
        self._linger_s = PUMP_LINGER_S
        with deferred_signals(self._wake):
            self._guests.append(None)
            try:
                if self._take():
                    self.is_with_guest = True
                    try:
                        if not self._is_over():
                            self._turn(0.0)
                    finally:
                        self._put_down()
            finally:
                self._leave()

    def _take(self) -> bool:
        """Get the baton from the thread; not from another caller, who turns anyway."""
        if self._held.acquire(blocking=False):
            return True
        if self.is_with_guest:
            return False
        self._wake()
        return self._held.acquire(timeout=NAP_S)

    def _wait_uninterrupted(self, is_done: Callable[[], bool], deadline: float | None) -> bool:
        """Wait, and let signals act afterwards. Whether it was one of them that ended the wait."""
        with deferred_signals(self._wake) as interrupted:
            self._guests.append(None)
            try:
                while not is_done() and not self._is_over():
                    left_s = None if deadline is None else deadline - time.monotonic()
                    if left_s is not None and left_s <= 0:
                        return False
                    if interrupted():
                        return True
                    if self._held.acquire(blocking=False):
                        self._turn_until(is_done, interrupted, deadline)
                    else:
                        self._sleep(is_done, left_s)
            finally:
                self._leave()
        return False

    def _turn_until(self, is_done: Callable[[], bool], interrupted: Callable[[], bool], deadline: float | None) -> None:
        self.is_with_guest = True
        try:
            while not is_done() and not interrupted() and not self._is_over():
                left_s = None if deadline is None else deadline - time.monotonic()
                if left_s is not None and left_s <= 0:
                    break
                self._turn(left_s, is_done)
        finally:
            self._put_down()

    def _put_down(self) -> None:
        self.is_with_guest = False
        self._turns_by_guests += 1
        self._held.release()

    def _sleep(self, is_done: Callable[[], bool], left_s: float | None) -> None:
        """Another has it: wait until it is offered, or what is waited for has come."""
        alarm = threading.Lock()
        alarm.acquire()
        sleeper = (is_done, alarm)
        self._sleepers.append(sleeper)
        if not self.is_with_guest:
            self._wake()  # the thread steps back for a guest
        if self._held.locked() and not is_done():  # it may have come while we were in nobody's list
            alarm.acquire(timeout=NAP_S if left_s is None else min(left_s, NAP_S))
        with contextlib.suppress(ValueError):
            self._sleepers.remove(sleeper)

    def tell(self, everyone: bool = False) -> None:
        """After a turn: wake those who have what they waited for."""
        for is_done, alarm in list(self._sleepers):
            if everyone or is_done():
                _ring(alarm)

    def _offer(self) -> None:
        """It is free now: let one of those who wait for it know."""
        for _, alarm in list(self._sleepers):
            if alarm.locked():
                _ring(alarm)
                return

    def call_back(self) -> None:
        """Have the thread take a look now, instead of in a moment."""
        _ring(self._back)

    def end(self, timeout_s: float) -> None:
        """Everything is over: see that nobody turns any more."""
        self.call_back()
        self.tell(everyone=True)
        if self.thread.is_alive() and threading.current_thread() is not self.thread:
            self.thread.join(timeout_s)
        if self._held.acquire(timeout=timeout_s):
            self._held.release()

    def _run(self) -> None:
        while not self._is_over():
            with self._held:
                while not self._is_over() and not self._guests:
                    self._turn(None)
            self._offer()
            self._stand_back()

    def _stand_back(self) -> None:
        """Leave the baton to callers, until they have not wanted it for a moment."""
        while not self._is_over():
            turns = self._turns_by_guests
            is_called = self._back.acquire(timeout=THREAD_NAP_S if self._guests else self._linger_s)
            if is_called or (not self._guests and turns == self._turns_by_guests):
                return

    def _leave(self) -> None:
        """A caller wants the baton no longer: see that somebody else takes it up."""
        self._guests.pop()
        self._offer()


def _ring(alarm: threading.Lock) -> None:
    try:
        alarm.release()
    except RuntimeError:  # it rings already
        pass
