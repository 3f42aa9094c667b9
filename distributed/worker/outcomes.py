"""What became of tasks, on its way from the executor to the agent: collected, sent together, never held back for long.

Results are columns of one message. A task that runs for long must not hold back those that finished before it, and the
loop that runs tasks cannot look at a clock meanwhile: a thread does. It exists only in executors that were ever given
several tasks at once, and sleeps while there is nothing to hold back: for good when no task is under way.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from distributed.config import SETTINGS
from distributed.errors import CannotPickle
from distributed.pieces import write_file
from distributed.wire.functions import behind_renewal
from distributed.wire.messages import NO_INPUT, NO_ROOM, Message, Outcomes, Room
from distributed.wire.values import Packed, pack_exception
from distributed.worker.calls import InputLost

Special = tuple[str, int, list[Any], bytes]  # path, bytes, contained handles, packed exception
Finished = tuple[int, bytes, int, Special | None]  # serial, packed value, duration in microseconds, what is special
STAY_AWAKE_TICKS = 50  # without anything to do
SLEEP_S = 0.1  # while tasks run: the loop may have been held up between its call for us and the end of the first one


class NoRoom(Exception):
    """There was no room for a result: the task comes again later. `path`: a file that turned out to be of no use."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


_forks = 0  # how often this process came into being by a fork, since the module was imported


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class Report:
    """Outcomes that have not been sent yet; `finished.append` is all that the hot loop calls."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self.finished: deque[Finished] = deque()
        self._send = send
        self._thread: threading.Thread | None = None
        self._bell = threading.Event()
        self._is_asleep = self._is_closed = self._is_under_way = False
        self._watches = 0  # how often it was asked to watch: never set back, so that no call is overlooked
        self._forks = _forks

    def flush(self) -> None:
        """Send what there is. May be called by both threads."""
        if self._forks != _forks:  # a task forked, and the child came back out of the task
            os._exit(0)
        finished = self.finished
        if not finished:
            return
        try:
            sys.stdout.flush()
        except (AttributeError, ValueError, OSError):  # the task put something else there
            pass
        items: list[Finished] = []
        try:
            for _ in range(len(finished)):
                items.append(finished.popleft())
        except IndexError:  # the other thread took the rest
            pass
        if len(items) == 1 and items[0][3] is None:  # one task and nothing special: a message in a third of the time
            serial, value, duration_us, _ = items[0]
            self._send(Outcomes([serial], [value], [len(value)], [duration_us], {}, {}, {}))
        elif items:
            self._send(columns(items))

    def watch(self) -> None:
        """Several tasks are about to run: see to it that the first ones do not wait for the last."""
        self._is_under_way = True
        self._watches += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_flushing, name="outcomes", daemon=True)
            self._thread.start()
        elif self._is_asleep:
            self._bell.set()

    def rest(self) -> None:
        """All that was given is done: send what there is, and be at ease."""
        self.flush()
        self._is_under_way = False

    def close(self) -> None:
        """No more tasks will come."""
        self._is_closed = True
        self._watches += 1
        self._bell.set()
        if self._thread is not None:
            self._thread.join()

    def _keep_flushing(self) -> None:
        idle_ticks = watches = 0
        seen: Finished | None = None
        while not self._is_closed:
            time.sleep(SETTINGS.flush_interval_s)
            try:
                oldest: Finished | None = self.finished[0]
            except IndexError:
                oldest = None
            if oldest is not None and oldest is seen:
                self.flush()
            known, watches = watches, self._watches
            idle_ticks = 0 if watches != known or oldest is not None else idle_ticks + 1
            seen = oldest
            if idle_ticks > STAY_AWAKE_TICKS:
                self._bell.clear()
                self._is_asleep = True
                if self._watches == watches:  # or else `watch` came before it could see that we fall asleep
                    self._bell.wait(SLEEP_S if self._is_under_way else None)
                self._is_asleep = False


def columns(items: list[Finished]) -> Outcomes:
    """One message of many outcomes.

    >>> columns([(7, b'N', 2, None), (8, b'', 3, ('/v1', 99, [], b''))])  # doctest: +NORMALIZE_WHITESPACE
    Outcomes(serials=[7, 8], values=[b'N', b''], nbytes=[1, 99], durations_us=[2, 3], paths={1: '/v1'}, errors={},
             contains={})
    """
    serials, values, durations, specials = map(list, zip(*items, strict=True))
    outcomes = Outcomes(serials, values, list(map(len, values)), durations, {}, {}, {})
    for position, special in enumerate(specials):
        if special is not None:
            path, nbytes, contains, error = special
            if error:
                outcomes.errors[position] = error
            if path:
                outcomes.paths[position] = path
            if contains:
                outcomes.contains[position] = contains
            outcomes.nbytes[position] = nbytes
    return outcomes


def write_into_room(room: Room, packed: Packed) -> str:
    """Write a large result where the agent made room for it, if it did; `NoRoom` if there is none after all."""
    if not room.path:
        raise NoRoom("")
    try:
        write_file(room.path, packed.pieces())
    except OSError as error:  # some file systems promise room that they do not have
        raise NoRoom(room.path) from error
    return room.path


def failure(serial: int, error: BaseException, duration_us: int, own_frames: int) -> Finished:
    """The outcome of a task that raised, its traceback beginning behind our own frames."""
    if isinstance(error, NoRoom):
        return serial, b"", duration_us, (error.path, 0, [], NO_ROOM)
    if isinstance(error, InputLost):
        return serial, error.key.encode(), duration_us, ("", 0, [], NO_INPUT)
    trace = error.__traceback__
    if isinstance(error, CannotPickle):
        trace = None  # only frames of ours; its cause has the user's
    for _ in range(own_frames):
        trace = trace and trace.tb_next
    try:
        return serial, b"", duration_us, ("", 0, [], pack_exception(error.with_traceback(behind_renewal(trace))))
    except Exception as reason:  # noqa: BLE001  the exception's own methods may do anything
        kind = type(error).__name__
        substitute = RuntimeError(f"a task raised {kind}, which cannot be sent: {type(reason).__name__}")
        return serial, b"", duration_us, ("", 0, [], pack_exception(substitute))
