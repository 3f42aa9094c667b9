"""Virtual executors: they run tasks that are nothing but a duration, a size and perhaps some trouble.

A value says who it is and who made it, and carries a number computed from its inputs' numbers. So whoever meets a value
can tell whether it is the right one, and whether its owner knew of it by then.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections import deque
from typing import TYPE_CHECKING, Any

import msgpack

from distributed.wire import codec
from distributed.wire import messages as m
from distributed.worker import events

if TYPE_CHECKING:
    from tests.simulation.actors import WorkerActor

FOREVER_S = 1e6


@dataclasses.dataclass
class File:
    """A virtual file: as large as it claims to be, its content as short as it can be."""

    nbytes: int
    content: bytes


@dataclasses.dataclass
class Work:
    """What a task does. Trouble: 'raise', 'crash' (always), 'crash once', or none; 'sleep' for ever, or 'hang': so deep
    a sleep that it goes on when it is cancelled.
    """

    number: int
    duration_s: float
    nbytes: int
    trouble: str = ""
    passes_on: bool = False  # returns the handles that it finds in its inputs

    def pack(self) -> bytes:
        packed: bytes = msgpack.packb(dataclasses.astuple(self))
        return packed


@dataclasses.dataclass
class Value:
    """The content of a value."""

    key: str
    attempt: int
    number: int
    contains: list[Any]

    def pack(self) -> bytes:
        packed: bytes = msgpack.packb(dataclasses.astuple(self))
        return packed

    @classmethod
    def unpack(cls, content: bytes) -> Value:
        return cls(*msgpack.unpackb(content))


def combine(number: int, inputs: list[int]) -> int:
    """What a task computes.

    >>> combine(1, [2, 3]) != combine(1, [3, 2])
    True
    """
    return zlib.crc32(repr((number, inputs)).encode())


@dataclasses.dataclass
class Job:
    """One task at an executor."""

    serial: int
    key: str
    attempt: int
    once: bool
    work: Work
    inputs: list[Any]
    is_member: bool  # of a group: it begins when it is told to


@dataclasses.dataclass
class Outcome:
    """What became of it."""

    serial: int
    value: bytes
    nbytes: int
    duration_us: int
    path: str = ""
    error: bytes = b""
    contains: list[Any] = dataclasses.field(default_factory=list)


class VirtualExecutor:
    """One executor process: runs jobs in order, or, asynchronous, all at once."""

    def __init__(self, worker: WorkerActor, number: int, asynchronous: bool) -> None:
        self.worker, self.world, self.number, self.asynchronous = worker, worker.world, number, asynchronous
        self.is_alive = True
        self.jobs: deque[Job] = deque()
        self.current: dict[int, tuple[Job, float]] = {}  # serial -> what runs, since when
        self.waiting: deque[tuple[Job, Outcome]] = deque()  # for room
        self.outcomes: list[Outcome] = []  # not sent yet
        self.dies_with_outcomes = False  # instead of telling all of the next few
        self.functions: set[bytes] = set()
        self._heard_at = self._spoke_at = 0.0
        self.world.after(self.world.delay_s() + 0.01, self._start)

    def _start(self) -> None:
        if self.is_alive:
            self.worker.handle(events.ExecutorStarted(self.number, 1000 + self.number))

    def running(self) -> tuple[int, float]:
        """What the progress cell says."""
        for serial, (_, started_s) in self.current.items():
            return serial, started_s
        return 0, 0.0

    def die(self, signal: int) -> None:
        """The process ends, by its own hand or another's. What it said before is heard before."""
        if self.is_alive:
            self.is_alive = False
            if self.outcomes:
                self.world.fault("outcomes untold")
            self.world.crashes.update([job.key for job, _ in self.current.values()])
            ended = events.ExecutorEnded(self.number, self.running()[0], signal)
            self._spoke_at = max(self._spoke_at, self.world.now + self.world.delay_s())
            self.world.at(self._spoke_at, self._bury, ended)

    def _bury(self, ended: events.ExecutorEnded) -> None:
        if self.worker.is_alive:
            del self.worker.executors[self.number]
            self.worker.handle(ended)

    # --------------------------------------------------------------------------------------------- agent to executor

    def receive(self, message: m.Message) -> None:
        """The agent sent this; it arrives a little later, and in order."""
        if isinstance(message, m.Run):
            what: Any = [self._job(message, position) for position in range(len(message.keys))]
            message = codec.decode(codec.encode_header(message))[0]
            assert message.code or message.function in self.functions, "code that was never sent"  # type: ignore[attr-defined]
            self.functions.add(message.function)  # type: ignore[attr-defined]
        else:
            what = codec.decode(codec.encode_header(message))[0]
        self._heard_at = max(self._heard_at, self.world.now + self.world.dice.uniform(1e-5, 1e-4))
        self.world.at(self._heard_at, self._hear, what)

    def _job(self, run: m.Run, position: int) -> Job:
        serial = run.serial + position
        part, index = self.worker.state.dispatch.executors[self.number].find(serial)
        assert part is not None, "a task that was not given"
        work = Work(*msgpack.unpackb(run.args[position]))
        inputs = run.inputs.get(position, [])
        once = part.function.once and not part.together  # with retries those run again
        return Job(serial, run.keys[position], part.attempts[index], once, work, inputs, part.together)

    def _hear(self, what: Any) -> None:
        if not self.is_alive or not self.worker.is_alive:
            return
        if isinstance(what, m.Room):
            self._enter_room(what)
        elif isinstance(what, m.CancelRunning):
            for serial in what.serials:
                if serial in self.current and not any(job.serial == serial for job, _ in self.waiting):
                    job, started_s = self.current[serial]
                    if job.work.trouble == "hang":
                        continue
                    self._finish(job, Outcome(serial, b"", 0, self._since(started_s), error=b"cancelled"))
        elif isinstance(what, m.ToTask):
            self._hear_owner(what.serial, codec.decode(what.said)[0])
        elif isinstance(what, m.Letter):
            self._hear_member(what)
        else:
            self.jobs.extend(what)
            self._begin()

    def _hear_owner(self, serial: int, said: m.Message) -> None:
        """The owner of a group lets it begin, or tells who has returned."""
        if isinstance(said, m.GroupBegins) and serial in self.current:
            job, _ = self.current[serial]
            self._run(job)
            rank = said.keys.index(job.key)
            assert said.attempts[rank] == job.attempt, "a member that is told of another attempt of its own"
            to = (rank + 1) % len(said.keys)
            self.worker.post(said.addresses[to], said.keys[to], said.attempts[to], rank, job.work.nbytes)

    def _hear_member(self, letter: m.Letter) -> None:
        """Another member says something. Some of it is never read."""
        if letter.serial in self.current and self.world.dice.random() < 0.7:
            is_wanted = self.current[letter.serial][0].key in self.worker.state.tasks
            is_there = not letter.path or letter.path in self.worker.files
            assert is_there or not is_wanted, "a message whose file is gone"
            self._send(m.LettersRead(letter.serial, [letter.number]))

    # ------------------------------------------------------------------------------------------------------- running

    def _begin(self) -> None:
        while self.jobs and (self.asynchronous or not self.current):
            job = self.jobs.popleft()
            self.current[job.serial] = job, self.world.now
            if not job.is_member:
                self._run(job)

    def _run(self, job: Job) -> None:
        self.current[job.serial] = job, self.world.now
        self.world.starts[job.key] += 1
        is_first = self.world.starts[job.key] == 1
        assert is_first or not (job.once or job.key in self.world.alone), f"{job.key} ran twice, but was to run once"
        inputs = [self._read(job, item) for item in job.inputs]
        duration_s = FOREVER_S if job.work.trouble in ("sleep", "hang") else job.work.duration_s
        self.world.after(duration_s, self._end, job, inputs)

    def _read(self, job: Job, item: list[Any]) -> Value:
        """An input as the task sees it: the right value, of an attempt that its owner has published."""
        key, where, *_ = item
        value = Value.unpack(self.worker.files[where].content if isinstance(where, str) else where)
        assert value.key == key, f"asked for {key}, got {value.key}"
        self.world.see(value)
        return value

    def _end(self, job: Job, inputs: list[Value]) -> None:
        if not self.is_alive or not self.worker.is_alive or job.serial not in self.current:
            return
        work, started_s = job.work, self.current[job.serial][1]
        if work.trouble == "crash" or (work.trouble == "crash once" and self.world.starts[job.key] == 1):
            self.die(11)
            return
        outcome = Outcome(job.serial, b"", 0, self._since(started_s))
        if work.trouble == "raise":
            outcome.error = f"raised {job.key}".encode()
        else:
            contains = [ref for value in inputs for ref in value.contains] if work.passes_on else []
            number = combine(work.number, [value.number for value in inputs])
            outcome.value = Value(job.key, job.attempt, number, contains).pack()
            outcome.contains, outcome.nbytes = contains, work.nbytes
        if outcome.nbytes > self.worker.settings.inline_bytes_max:
            self.waiting.append((job, outcome))
            self._send(m.NeedRoom(outcome.nbytes))
        else:
            self._finish(job, outcome)

    def _enter_room(self, room: m.Room) -> None:
        job, outcome = self.waiting.popleft()
        if room.path:
            self.worker.files[room.path].content = outcome.value
            outcome.path, outcome.value = room.path, b""
        else:
            outcome = Outcome(outcome.serial, b"", 0, outcome.duration_us, error=m.NO_ROOM)
        self._finish(job, outcome)

    def _finish(self, job: Job, outcome: Outcome) -> None:
        del self.current[job.serial]
        self.outcomes.append(outcome)
        if len(self.outcomes) == 1:
            flush_s = self.worker.settings.flush_interval_s
            self.world.after(flush_s if self.jobs else 0.0, self._flush)
        self._begin()

    def _since(self, started_s: float) -> int:
        return int(1e6 * (self.world.now - started_s)) + 1

    # --------------------------------------------------------------------------------------------- executor to agent

    def _flush(self) -> None:
        if not self.is_alive or not self.outcomes:
            return
        if self.dies_with_outcomes and len(self.outcomes) > 1:
            self.world.fault("executor killed", f"an executor of {self.worker.name} ends with outcomes untold")
            self.outcomes = self.outcomes[: len(self.outcomes) // 2]
            self.dies_with_outcomes = False
            self.world.after(0.0, self.die, 9)
        items, self.outcomes = self.outcomes, []
        at = dict(enumerate(items))
        self._send(
            m.Outcomes(
                serials=[item.serial for item in items],
                values=[item.value for item in items],
                nbytes=[item.nbytes for item in items],
                durations_us=[item.duration_us for item in items],
                paths={position: item.path for position, item in at.items() if item.path},
                errors={position: item.error for position, item in at.items() if item.error},
                contains={position: item.contains for position, item in at.items() if item.contains},
            )
        )

    def _send(self, message: m.Message) -> None:
        message = codec.decode(codec.encode_header(message))[0]
        self._spoke_at = max(self._spoke_at, self.world.now + self.world.dice.uniform(1e-5, 1e-4))
        self.world.at(self._spoke_at, self._say, message)

    def _say(self, message: m.Message) -> None:
        if self.number in self.worker.executors:
            self.worker.handle(events.FromExecutor(self.number, message))
