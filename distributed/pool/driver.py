"""The pool's thread: what others asked for, what the clock asks for, what the connections bring; nothing decided here.

Whoever holds the baton turns the selector (:mod:`distributed.pool.baton`), and only the holder touches the state.
Everyone else appends to `inbox` or `holds.dropped` and goes on.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import heapq
import itertools
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from distributed.config import SETTINGS
from distributed.errors import DistributedError, KeyLost, PoolClosed, ProtocolError, TaskCancelled
from distributed.pool import explain
from distributed.pool.baton import Baton
from distributed.pool.callbacks import CallbackThread
from distributed.pool.channel import Channel
from distributed.pool.channels import Channels
from distributed.pool.dialling import Dialled, Dialler
from distributed.pool.events import (
    CancelAsked,
    CenterReached,
    CenterSaid,
    Connect,
    Connected,
    Disconnect,
    Disconnected,
    Dropped,
    Locate,
    Located,
    Received,
    Resolved,
    Send,
    Show,
    Submitted,
    TellCenter,
    Tick,
    WakeAt,
    Warn,
)
from distributed.pool.holds import Holds
from distributed.pool.requests import Asked, Requests
from distributed.pool.state import PoolState
from distributed.pool.tasks import READY, WAITING, Task
from distributed.version import installed, version_difference
from distributed.wire.codec import restore_member
from distributed.wire.messages import (
    Attach,
    Member,
    Members,
    Message,
    Offer,
    Refusal,
    RegisterClient,
    Reply,
    UnregisterClient,
    WhoHas,
)

logger = logging.getLogger("distributed.pool")

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
ATTACH = 1  # the number of the only request that a worker gets
WATCH_INTERVAL_S = 5.0
COALESCE_S = 0.0005
DROPS_INTERVAL_S = 0.01  # handles that are gone are released together, at most this late,
DROPS_MIN = 64  # or as soon as there are so many
LEAST_S = 0.2  # for a thread to end, however long the center let us wait for its goodbye
NOTICE_S = 0.2  # handles that are gone are noticed at least so often: what notes them can wake nobody


@dataclasses.dataclass(slots=True)
class Watch:
    """Somebody wants to be told of the outcomes of these tasks."""

    tasks: list[Task]
    watcher: Callable[[Task], None]


def _is_awaited(watcher: Any) -> bool:
    """Whether somebody is still behind a watcher; what was dropped half-way says so when the next one comes."""
    return not getattr(watcher, "forsaken", None)


@dataclasses.dataclass(slots=True)
class Unwatch:
    """Somebody does not want to be told any more."""

    tasks: list[Task]
    watcher: Callable[[Task], None]


@dataclasses.dataclass(slots=True)
class Inquiry:
    """Something to be done by whoever holds the baton, because it looks at the state."""

    function: Callable[[], Any]
    result: Any = None
    done: bool = False


class Driver:
    """Turns the selector, feeds the state, carries out its instructions."""

    def __init__(self, state: PoolState, center: str, client: str, secret: Any) -> None:
        self.state, self.center_address, self.client, self.secret = state, center, client, secret
        self.inbox: collections.deque[Any] = collections.deque()
        self.holds = Holds()
        self.closed = False
        self.broken: BaseException | None = None
        self.why_closed = "the pool is closed"
        self.has_met_members = False  # the center has told who is there
        self.on_worker_lost: Callable[[Member], None] = lambda member: None
        self.on_output: Callable[[Any], None] = lambda output: None
        self._baton = Baton(self._turn_safely, self.wake, lambda: self.closed)
        self._channels = Channels(self._lose)
        self.dialler = Dialler(center, secret, self.post)
        self.is_selecting = self.is_taking = False
        self._drops_taken_at = 0.0
        self._center_peer, self._center_since = center, 0.0
        self._alarms: list[float] = []
        self._next_watch = time.monotonic() + WATCH_INTERVAL_S
        self._requests = Requests(center)
        self._numbers = itertools.count(1)
        self._later: list[tuple[float, int, Member]] = []  # connections to make at a time
        self._differences = {""}
        self._callbacks = CallbackThread()
        self._thread = self._baton.thread

    # --------------------------------------------------------------------------------------- called from any thread

    def start(self) -> None:
        """Register with the center, then let the thread take over. Raises `ConnectionFailed` and its kind."""
        try:
            self._adopt(self.dialler.dial())
        except BaseException:
            self.abandon()
            raise
        self._thread.start()

    def post(self, event: Any) -> None:
        """Hand an event to the state, soon."""
        self.inbox.append(event)
        if self.is_selecting:
            self.wake()

    def wake(self) -> None:
        """Make the selector return."""
        self.is_selecting = False
        self._channels.wake()

    def ask(self, message: Message, timeout_s: float | None = None) -> Any:
        """Send a request to the center and wait for the answer, across a restart of the center if need be."""
        asked = Asked(message)
        self.post(asked)
        if not self.wait(lambda: asked.done, timeout_s):
            asked.is_given_up = True
            raise TimeoutError(f"the center did not answer {type(message).__name__} within {timeout_s} s")
        if asked.error is not None:
            raise asked.error
        return asked.result

    def wait(self, is_done: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until `is_done()`; False when the time is over first. Raises if the pool ends meanwhile."""
        if is_done() or self._baton.wait(is_done, timeout_s):
            return True
        if self.broken:
            raise DistributedError("the pool's thread broke; this is a bug") from self.broken
        if self.closed:
            raise PoolClosed(self.why_closed)
        return False

    def pump(self) -> None:
        """Have what was posted carried out now, by the caller, who goes on posting; nothing is waited for."""
        self._baton.pump()

    def inspect(self, function: Callable[[], Any]) -> Any:
        """The result of a function that reads the state: whoever holds the baton runs it."""
        inquiry = Inquiry(function)
        self.post(inquiry)
        self.wait(lambda: inquiry.done)
        return inquiry.result

    def cancel_everything(self, reason: str) -> int:
        """Cancel every task that has no outcome, for this reason; how many there were."""

        def cancel() -> int:
            tasks = list(explain.unfinished_tasks(self.state))
            self._handle(CancelAsked(tasks, TaskCancelled(reason)))
            return len(tasks)

        return int(self.inspect(cancel) or 0)

    def cancel_unsent(self, task: Task) -> bool:
        """Cancel a task unless it was sent to a worker, or has an outcome; whether it was cancelled."""

        def cancel() -> bool:
            is_unsent = task.status in (WAITING, READY)
            if is_unsent:
                self._handle(CancelAsked([task]))
            return is_unsent

        return bool(self.inspect(cancel))

    @property
    def about_the_center(self) -> str:
        """What to add to the reason why something waits: that the center is away, if it is."""
        is_here = self._channels.center is not None or self.closed
        return "" if is_here else f"; and the center {self.center_address} is away, which must be started again"

    @property
    def center_peer(self) -> str:
        """The center's address as the network knows it, whatever name was used for it here."""
        return self._center_peer

    @property
    def bytes_sent(self) -> int:
        """Over all connections to center and workers, so far."""
        return self._channels.bytes_sent

    @property
    def bytes_received(self) -> int:
        """Over all connections to center and workers, so far."""
        return self._channels.bytes_received

    def call_later(self, function: Callable[..., object], *args: Any) -> None:
        """Run a user's callback on the thread that is there for them."""
        self._callbacks.put(function, *args)

    def close(self, timeout_s: float) -> None:
        """Say goodbye to the center, end the thread, close every socket. Bounded in time."""
        if self._channels.is_closed:  # `closed` it also is, with everything open, when there is no cluster any more
            return
        deadline = time.monotonic() + timeout_s
        if not self.closed and self._channels.center is not None and self._thread.is_alive():
            with contextlib.suppress(Exception):
                self.ask(UnregisterClient(), timeout_s)
        self.closed = True
        self.wake()
        self._baton.end(max(LEAST_S, deadline - time.monotonic()))
        self._callbacks.close(max(LEAST_S, deadline - time.monotonic()))
        self._close_descriptors()

    def abandon(self) -> None:
        """Give up the descriptors without a word to anybody; in a forked child they are the parent's."""
        self.closed = True
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        self.dialler.close()
        self._channels.close()
        for event in list(self.inbox):
            if type(event) is Dialled and event.sock is not None:  # it came too late to be taken
                event.sock.close()

    # ------------------------------------------------------------------------------------------- the thread, the baton

    def _turn_safely(self, timeout_s: float | None, is_done: Callable[[], bool] | None = None) -> None:
        try:
            self._turn(timeout_s, is_done)
        except Exception as error:  # a bug of ours: nobody may wait for ever because of it
            logger.exception("the pool's thread broke; this is a bug")
            self.broken = error
            self.closed = True
            self._baton.tell(everyone=True)

    def _turn(self, timeout_s: float | None, is_done: Callable[[], bool] | None) -> None:
        """One round: what others asked for, what the clock asks for, what the sockets bring."""
        if self.inbox and self.state.unfinished and self._baton.is_alone:
            time.sleep(COALESCE_S)  # somebody submits one by one: a batch costs a tenth of as many single messages
        now = time.monotonic()
        if self.inbox or (self.holds.dropped and self._is_time_for_drops(now)):
            self._take_inbox(now)
            if self._baton.has_sleepers or (is_done is not None and is_done()):
                timeout_s = 0.0  # that was all that somebody waits for
        self._on_time(now)
        self._channels.flush()
        self.is_selecting = True
        if self.inbox or self.closed or self._baton.is_wanted:
            timeout_s = 0.0
        ready: Any = ()
        if is_done is not None and self.state.unfinished == 1 and timeout_s != 0.0 and CORES > 1:
            ready = self._look(now + SETTINGS.spin_s)
        if not ready:
            ready = self._channels.select(self._patience(timeout_s, now))
        self.is_selecting = False
        for channel in self._channels.readable(ready):
            self._read(channel)
        self._channels.flush()
        if self._baton.has_sleepers:
            self._baton.tell()

    def _look(self, until: float) -> Any:
        """What the sockets bring in the next moment, looked for without falling asleep.

        The caller waits for the only task there is. To be woken, with cold caches, would take longer than many a task:
        a round trip takes a quarter less without it.
        """
        select = self._channels.select
        while time.monotonic() < until:
            ready = select(0)
            if ready:
                return ready
        return ()

    def _patience(self, timeout_s: float | None, now: float) -> float:
        until = min(self._next_watch, now + (DROPS_INTERVAL_S if self.holds.dropped else NOTICE_S))
        if self._alarms:
            until = min(until, self._alarms[0])
        if self._later:
            until = min(until, self._later[0][0])
        left_s = max(0.0, until - now)
        return left_s if timeout_s is None else min(left_s, timeout_s)

    # ------------------------------------------------------------------------------------------------ events, outwards

    def _is_time_for_drops(self, now: float) -> bool:
        """A handle that is gone does not deserve a message of its own: it waits a moment for others."""
        return now >= self._drops_taken_at + DROPS_INTERVAL_S or len(self.holds.dropped) >= DROPS_MIN

    def _take_inbox(self, now: float) -> None:
        drops = len(
            self.holds.dropped
        )  # what these tasks are inputs of was posted before: it is in the inbox, or handled
        self.is_taking = True  # what is out of the inbox and not in the state yet is not over
        submitted: list[Task] = []  # tasks that were submitted one by one are placed together
        for _ in range(len(self.inbox)):  # and no more: somebody may be adding all the time
            event = self.inbox.popleft()
            if type(event) is Submitted:
                submitted += event.tasks
                continue
            self._submit(submitted, now)
            own = _OWN_EVENTS.get(type(event))
            if own is not None:
                own(self, event)
            else:
                self._perform(self.state.handle(event, now))
        self._submit(submitted, now)
        self.is_taking = False
        if drops and self._is_time_for_drops(now):
            self._drops_taken_at = now
            self._perform(self.state.handle(Dropped(self.holds.take_dropped(drops)), now))

    def _submit(self, tasks: list[Task], now: float) -> None:
        if tasks:
            self._perform(self.state.handle(Submitted(tasks[:]), now))
            tasks.clear()

    def _handle(self, event: Any) -> None:
        self._perform(self.state.handle(event, time.monotonic()))

    def _on_time(self, now: float) -> None:
        if self._alarms and self._alarms[0] <= now:
            while self._alarms and self._alarms[0] <= now:
                heapq.heappop(self._alarms)
            self._perform(self.state.handle(Tick(), now))
        while self._later and self._later[0][0] <= now:
            _, _, member = heapq.heappop(self._later)
            self.dialler.reach_worker(member)
        if now >= self._requests.due:
            self._requests.give_up(now, self._channels.center is None)
        if now >= self._next_watch:
            self._next_watch = now + WATCH_INTERVAL_S
            self._perform(explain.watch(self.state, now))

    def _perform(self, instructions: list[Any]) -> None:
        for instruction in instructions:
            _PERFORMERS[type(instruction)](self, instruction)

    def _send(self, instruction: Send) -> None:
        channel = self._channels.workers.get(instruction.address)
        if channel is not None:
            self._channels.push(channel, instruction.message)

    def _tell_center(self, instruction: TellCenter) -> None:
        if self._channels.center is not None:
            self._channels.push(self._channels.center, instruction.message)

    def _connect(self, instruction: Connect) -> None:
        when = time.monotonic() + instruction.after_s
        heapq.heappush(self._later, (when, next(self._numbers), instruction.member))

    def _disconnect(self, instruction: Disconnect) -> None:
        channel = self._channels.workers.get(instruction.address)
        if channel is not None:
            self._channels.remove(channel)

    def _locate(self, instruction: Locate) -> None:
        task = instruction.task

        def located(asked: Asked) -> None:
            answer = asked.result.get(task.key) if isinstance(asked.result, dict) else None
            if isinstance(answer, dict):
                self.post(Located(task, answer))
            else:  # the packed exception of a task that failed, or nothing
                self.post(
                    Located(task, {}, asked.error or answer or KeyLost(task.key, "its owner released it or left"))
                )

        self._send_request(Asked(WhoHas([task.key], wait_s=SETTINGS.client_lease_s), located))

    def _resolve(self, instruction: Resolved) -> None:
        for task in instruction.tasks:
            if task.watchers is not None:
                watchers, task.watchers = task.watchers, None
                for watcher in watchers:
                    _tell(watcher, task)

    def _watch(self, event: Watch) -> None:
        for task in event.tasks:
            if task.published:
                _tell(event.watcher, task)
            elif task.watchers is None:
                task.watchers = [event.watcher]
            else:
                task.watchers = [*filter(_is_awaited, task.watchers), event.watcher]

    def _unwatch(self, event: Unwatch) -> None:
        for task in event.tasks:
            if task.watchers and event.watcher in task.watchers:
                task.watchers.remove(event.watcher)

    def _answer(self, inquiry: Inquiry) -> None:
        inquiry.result = inquiry.function()
        inquiry.done = True

    def _show(self, instruction: Show) -> None:
        self.on_output(instruction.output)

    def _warn(self, instruction: Warn) -> None:
        logger.warning("%s%s", instruction.text, self.about_the_center)

    def _wake_at(self, instruction: WakeAt) -> None:
        if not self._alarms or instruction.time < self._alarms[0]:
            heapq.heappush(self._alarms, instruction.time)

    def _send_request(self, asked: Asked) -> None:
        number = self._requests.add(asked, time.monotonic(), self._channels.center is None)
        if self._channels.center is not None:
            self._channels.push(self._channels.center, asked.message, number)

    # ------------------------------------------------------------------------------------------------------- sockets

    def _read(self, channel: Channel) -> None:
        try:
            messages = self._channels.receive(channel)
            if messages is None:
                self._lose(channel, "it closed the connection")
                return
            for message, request in messages:
                self._receive(channel, message, request)
        except OSError as error:
            self._lose(channel, error.strerror or str(error))
        except ProtocolError as error:
            logger.error("%s sent what nobody understands: %s", self._name(channel), error)
            self._lose(channel, str(error))

    def _receive(self, channel: Channel, message: Message, request: int) -> None:
        if isinstance(message, (Reply, Refusal)):
            if channel.member is None:
                self._requests.settle(request, message)
            else:
                self._attached(channel, message)
        elif channel.member is None:
            self._handle(CenterSaid(message))
            self.has_met_members = self.has_met_members or isinstance(message, Members)
        elif channel.is_attached:
            if type(message) is Offer:  # of a value that is just being put we must have been told before
                self._take_inbox(time.monotonic())
            self._handle(Received(channel.member.address, message))

    def _attached(self, channel: Channel, answer: Reply | Refusal) -> None:
        """A worker says who it is, and what it has of ours: from here on it may be used."""
        if isinstance(answer, Refusal):
            self._lose(channel, answer.reason)
            return
        try:
            member = restore_member(answer.result["member"])
            held = [[str(key), int(attempt)] for key, attempt in answer.result["held"]]
        except (TypeError, ValueError, KeyError) as error:
            raise ProtocolError("the answer to attach is not a member and what it holds") from error
        if channel.is_attached:
            raise ProtocolError("a second answer to attach")
        channel.member, channel.is_attached = member, True
        self._handle(Connected(member, held))

    def _name(self, channel: Channel) -> str:
        return f"worker {channel.member.address}" if channel.member else f"center {self.center_address}"

    def _lose(self, channel: Channel, reason: str) -> None:
        if not self._channels.remove(channel):
            return
        if channel.member is None:
            self._requests.postpone(time.monotonic())
            if not self.closed:
                logger.warning("the connection to the center %s broke (%s); trying again", self.center_address, reason)
                was_short = time.monotonic() - self._center_since < SETTINGS.reconnect_interval_s
                self.dialler.find_center(SETTINGS.reconnect_interval_s if was_short else 0.0)
        else:
            logger.info("the connection to worker %s broke: %s", channel.member.address, reason)
            self.on_worker_lost(channel.member)
            self._handle(Disconnected(channel.member, reason))

    def _adopt(self, event: Dialled) -> None:
        """A try to connect has ended: from now on the selector carries the connection, if there is one."""
        if event.sock is None:
            if event.member is not None:
                self._handle(Disconnected(event.member, event.reason))
            else:
                self._give_up(event.reason)
            return
        if self.closed:
            event.sock.close()
            return
        channel = Channel(event.sock, event.member)
        self._channels.add(channel)
        if event.member is None:
            self._center_peer = event.place
            if self._center_since:
                logger.warning("connected to the center %s again", self.center_address)
            self._center_since = time.monotonic()
            self._channels.push(channel, RegisterClient(self.client))
            self._handle(CenterReached())
            for number, asked in self._requests.unanswered(self._center_since):
                self._channels.push(channel, asked.message, number)
        else:
            self._channels.push(channel, Attach(self.client), ATTACH)
            self._compare_versions(event.member)

    def _give_up(self, reason: str) -> None:
        """There will never be a center or a worker again: whatever waits fails, and so will what comes."""
        logger.error("%s", reason)
        self.why_closed = reason
        tasks = dict.fromkeys([*explain.unfinished_tasks(self.state), *self.holds.tasks()])
        self._handle(CancelAsked(list(tasks), PoolClosed(reason)))
        self.closed = True
        self._baton.tell(everyone=True)

    def _compare_versions(self, member: Member) -> None:
        """Say what is installed differently here and there; once, however many workers differ in the same way."""
        difference = version_difference(installed(), member.versions)
        if difference not in self._differences:
            self._differences.add(difference)
            logger.warning(
                "worker %s differs from this process: %s; install the same versions, or tasks may fail to unpickle",
                member.address,
                difference,
            )


def _tell(watcher: Callable[[Task], None], task: Task) -> None:
    """Watchers are ours, but they reach into event loops and queues of the user's, which may be closed."""
    try:
        watcher(task)
    except Exception:
        logger.exception("somebody who waited for %s could not be told", task.key)


_OWN_EVENTS: dict[type, Callable[[Driver, Any], None]] = {
    Asked: Driver._send_request,
    Dialled: Driver._adopt,
    Inquiry: Driver._answer,
    Unwatch: Driver._unwatch,
    Watch: Driver._watch,
}

_PERFORMERS: dict[type, Callable[[Driver, Any], None]] = {
    Send: Driver._send,
    TellCenter: Driver._tell_center,
    Connect: Driver._connect,
    Disconnect: Driver._disconnect,
    Locate: Driver._locate,
    Resolved: Driver._resolve,
    Show: Driver._show,
    Warn: Driver._warn,
    WakeAt: Driver._wake_at,
}
