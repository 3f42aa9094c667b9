"""A clock, a network and a trace, all virtual. Everything random comes from one seed; what travels is not known here.

Messages pass through the real codec. On one link they arrive in order, each after a random delay; links are independent
of one another, and some are slow. A link can be cut: then each side learns of it in its own time, and what arrives
later is lost. Two who cannot reach one another for a while get later what was sent meanwhile, unless one of them gave
up. Who is stopped notices nothing until it goes on, then everything at once.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from distributed.wire.codec import buffers_of, decode, encode_header
from distributed.wire.messages import Message, ReportLoad

TRACE_LINES = 60
CONNECT_S = 10.0  # to give up a connection to somebody who cannot be reached
COURSE = ("story", "fault")  # who it is that leads a story
ROUTINE = ("Tick", "Received ReportLoad")  # what tells nothing


class World:
    """Virtual time, the processes that can be reached, and what has happened lately."""

    def __init__(self, seed: int, steps_max: int) -> None:
        self.dice, self.steps_max = random.Random(seed), steps_max
        self.now = 1000.0
        self.bandwidth = 1e9  # bytes a second, of each transfer of values
        self.is_faulty = True  # whether requests may fail for no reason
        self.has_disks = True  # to spill to
        self.doors: dict[str, Callable[[End], None]] = {}  # address -> who accepts connections there
        self.gone: set[str] = set()  # those who asked, and will never hear an answer
        self.bulk: dict[str, Any] = {}  # address -> the actor that answers requests there
        self.slow_links = 0.0  # the part of all links that are slow
        self.parted: dict[frozenset[str], float] = {}  # two who cannot reach one another, and until when
        self.stopped: dict[str, float] = {}  # who is stopped, and until when
        self.published: set[tuple[str, int]] = set()  # (key, attempt) of every value that its owner knows
        self._open: dict[str, dict[int, Callable[[Any], None]]] = {}  # address -> requests not answered yet
        self.starts: Counter[str] = Counter()  # how often each task was begun
        self.once: set[str] = set()  # tasks that may run once only
        self.alone: set[str] = set()  # members of groups that may, too: their executors may die before they begin
        self.crashes: Counter[str] = Counter()  # how often the executor ended that was running it
        self.faults: Counter[str] = Counter()  # how often each kind of thing went wrong
        self.steps = 0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self._trace: deque[tuple[float, str, str, bytes]] = deque(maxlen=TRACE_LINES)
        self._course: list[str] = []  # what users and faults did
        self._digest = hashlib.blake2b(digest_size=16)

    # ------------------------------------------------------------------------------------------------------- time

    def at(self, time_s: float, action: Callable[..., None], *args: Any) -> None:
        """Do something at a time."""
        heapq.heappush(self._queue, (max(time_s, self.now), next(self._numbers), action, args))

    def after(self, delay_s: float, action: Callable[..., None], *args: Any) -> None:
        """Do something a while from now."""
        self.at(self.now + delay_s, action, *args)

    def step(self) -> None:
        """Let the next thing happen."""
        self.now, _, action, args = heapq.heappop(self._queue)
        self.steps += 1
        assert self.steps <= self.steps_max, "a story without end: they go round in circles"
        action(*args)

    def run(self, until_s: float, is_done: Callable[[], bool] = lambda: False) -> bool:
        """Let things happen until a time, or until it is done; whether it is."""
        while not is_done():
            if not self._queue or self._queue[0][0] > until_s:
                self.now = max(self.now, until_s)
                return is_done()
            self.step()
        return True

    def delay_s(self) -> float:
        """How long a message, or a small thing in the operating system, takes; now and then very long."""
        slow = self.dice.random() < 0.01
        return self.dice.uniform(0.02, 0.3) if slow else self.dice.uniform(0.00002, 0.002)

    def stop(self, who: str, until_s: float) -> None:
        """SIGSTOP, and later SIGCONT."""
        self.stopped[who] = max(until_s, self.stopped.get(who, 0.0))

    def postpones(self, who: str, action: Callable[..., None], *args: Any) -> bool:
        """Whether somebody is stopped; then this happens when they go on."""
        until_s = self.stopped.get(who, 0.0) if self.stopped else 0.0
        if until_s > self.now:
            self.at(until_s, action, *args)
            return True
        return False

    def when_awake(self, who: str, action: Callable[..., None], *args: Any) -> None:
        """Do something in somebody's name, as soon as they are not stopped."""
        if not self.postpones(who, self.when_awake, who, action, *args):
            action(*args)

    # ------------------------------------------------------------------------------------------------------ network

    def part(self, one: str, other: str, until_s: float) -> None:
        """Nothing gets from one to the other for a while; neither is told."""
        pair = frozenset((one, other))
        self.parted[pair] = max(until_s, self.parted.get(pair, 0.0))

    def parted_until_s(self, one: str, other: str) -> float:
        """When these two can reach one another again; long ago, if they can now."""
        return self.parted.get(frozenset((one, other)), 0.0) if self.parted else 0.0

    def connect(self, address: str, ready: Callable[[End | None], None], who: str) -> None:
        """Connect `who` to whoever accepts at an address; `ready` gets this side's end, or None."""
        until_s = self.parted_until_s(who, address)
        if until_s > self.now:
            wait_s = min(until_s - self.now, CONNECT_S) + self.delay_s()
            self.after(wait_s, self.when_awake, who, ready, None)
        else:
            self.after(self.delay_s(), self._arrive, address, ready, who)

    def _arrive(self, address: str, ready: Callable[[End | None], None], who: str) -> None:
        accept = self.doors.get(address)
        if accept is None:
            self.after(self.delay_s(), self.when_awake, who, ready, None)
            return
        lag_s = self.dice.uniform(0.01, 0.5) if self.slow_links and self.dice.random() < self.slow_links else 0.0
        near, far = End(self, who, lag_s), End(self, address, lag_s)
        near.peer, far.peer = far, near
        accept(far)
        self.after(self.delay_s(), self.when_awake, who, ready, near)

    def ask(
        self, address: str, question: Callable[[Any], Any], answered: Callable[[Any], None], asker: str = ""
    ) -> None:
        """A request over a bulk connection. The answer is None if that breaks, before or after it was done."""
        if self.parted_until_s(asker, address) > self.now:
            address = ""

        def hear(result: Any) -> None:
            self.when_awake(asker, answered, result if self.parted_until_s(asker, address) <= self.now else None)

        self.after(self.delay_s(), self._ask, address, question, hear)

    def _ask(self, address: str, question: Callable[[Any], Any], answered: Callable[[Any], None]) -> None:
        actor = self.bulk.get(address)
        if self.postpones(address, self._ask, address, question, answered):
            return
        breaks = self.dice.random() if self.is_faulty else 1.0
        if actor is None or breaks < 0.01:
            self.fault("request broken")
            self.after(self.delay_s(), answered, None)
            return

        number = next(self._numbers)
        self._open.setdefault(address, {})[number] = answered

        def answer(result: Any) -> None:
            if self._open.get(address, {}).pop(number, None) is not None:
                self.after(self.delay_s(), answered, None if breaks < 0.02 else result)

        question(actor)(answer)

    def hang_up(self, address: str) -> None:
        """Nobody is there any more: whoever waits for an answer learns that none will come."""
        del self.bulk[address], self.doors[address]
        for answered in self._open.pop(address, {}).values():
            self.after(self.delay_s(), answered, None)

    # -------------------------------------------------------------------------------------------------------- trace

    def note(self, who: str, what: str, frame: bytes = b"") -> None:
        """Remember what happened, for people and for comparing two runs."""
        if who in COURSE:
            self._course.append(f"{self.now:12.6f} {what}")
        if what not in ROUTINE:
            self._trace.append((self.now, who, what, frame))
        self._digest.update(f"{self.now!r} {who} {what} ".encode() + frame)

    def see(self, value: Any) -> None:
        """A task or a user reads a value: it is of an attempt that its owner knows, and has not given away."""
        named = value.key, value.attempt
        assert named in self.published, f"{value.key}@{value.attempt} was read but never published"

    def fault(self, kind: str, what: str = "") -> None:
        """Something goes wrong: it is counted, and told if there is something to tell."""
        self.faults[kind] += 1
        if what:
            self.note("fault", what)

    @property
    def digest(self) -> str:
        """A fingerprint of everything that happened so far."""
        return self._digest.hexdigest()

    def story(self) -> str:
        """What users and faults did, then the last things that happened anywhere; a line each."""
        lines = [*self._course[-TRACE_LINES:], ""]
        for time_s, who, what, frame in self._trace:
            message = decode(frame, [])[0] if frame else ""
            if isinstance(message, ReportLoad):
                continue
            text = f"{what} {message}".rstrip()
            lines.append(f"{time_s:12.6f} {who:<22} {text}"[:400])
        return "\n".join(lines)


class End:
    """One side of a link."""

    peer: End

    def __init__(self, world: World, who: str, lag_s: float) -> None:
        self.world, self.who, self.lag_s = world, who, lag_s
        self.is_open = True
        self.on_message: Callable[[End, Message, int], None] = lambda end, message, request: None
        self.on_close: Callable[[End], None] = lambda end: None
        self._clear_at = 0.0

    def send(self, message: Message, request: int = 0) -> None:
        """Say something to the other side."""
        if self.is_open:
            self.send_frame(encode_header(message, request), list(buffers_of(message)))

    def send_frame(self, frame: bytes, buffers: list[Any]) -> None:
        """The same for what is packed already."""
        if self.is_open:
            self.world.at(self._next_arrival(), self.peer._receive, frame, buffers)

    def _next_arrival(self) -> float:
        leaves_at = max(self.world.now, self.world.parted_until_s(self.who, self.peer.who))
        self._clear_at = max(self._clear_at, leaves_at + self.lag_s + self.world.delay_s())
        return self._clear_at

    def _receive(self, frame: bytes, buffers: list[Any]) -> None:
        if self.is_open and not self.world.postpones(self.who, self._receive, frame, buffers):
            message, request = decode(frame, buffers)
            self.world.note(self.who, "<-", frame)
            self.on_message(self, message, request)

    def close(self) -> None:
        """This side ends the connection, and hears no more of it."""
        if self.is_open:
            self.is_open = False
            self.world.at(self._next_arrival(), self.peer._hear_end)

    def cut(self) -> None:
        """The network ends the connection."""
        self.break_within(0.0)

    def break_within(self, most_s: float) -> None:
        """The connection is dead; each side finds that out by itself, the one perhaps long before the other."""
        for end in (self, self.peer):
            self.world.after(self.world.dice.uniform(0.0, most_s) + self.world.delay_s(), end._hear_end)

    def _hear_end(self) -> None:
        if self.is_open and not self.world.postpones(self.who, self._hear_end):
            self.is_open = False
            self.world.note(self.who, "connection lost")
            self.on_close(self)
