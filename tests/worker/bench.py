"""A bench for the worker's mind: messages go through the codec, and the invariants are checked after each step."""

from distributed.config import Settings
from distributed.wire import codec
from distributed.wire.messages import (
    Compute,
    DeleteData,
    Finished,
    Member,
    Outcomes,
    Run,
)
from distributed.worker.events import (
    ExecutorStarted,
    FromCenter,
    FromClient,
    FromExecutor,
    Give,
    Send,
    Spawn,
    Tick,
    WakeAt,
)
from distributed.worker.state import WorkerState

ALICE, BOB = "a11ce0000000", "b0b000000000"
SETTINGS = Settings()
F, G = b"f" * 16, b"g" * 16


def through_the_codec(message):
    decoded, _ = codec.decode(codec.encode_header(message), codec.buffers_of(message))
    return decoded


class Bench:
    """A worker's state; every message passes through the codec, every step ends with the invariants."""

    def __init__(
        self, ncores=1, memory_limit=1 << 30, settings=SETTINGS, start=True, spill_directory="", resources=None
    ):
        self.member = Member("127.0.0.1:1", "i1", "w", ncores, memory_limit, resources=resources or {})
        self.state = WorkerState(self.member, settings, spill_directory)
        self.now = 100.0
        self.wake_at = None
        assert self.state.start() == [Spawn(n + 1) for n in range(ncores)]
        if start:
            for n in range(ncores):
                assert self.on(ExecutorStarted(n + 1, 1000 + n)) == []

    def on(self, event):
        if hasattr(event, "message"):
            event.message = through_the_codec(event.message)
        out = self.state.handle(event, self.now)
        self.state.check()
        for instruction in out:
            if hasattr(instruction, "message"):
                instruction.message = through_the_codec(instruction.message)
        self.wake_at = next((i.time_s for i in reversed(out) if isinstance(i, WakeAt)), self.wake_at)
        return [instruction for instruction in out if not isinstance(instruction, WakeAt)]

    def wait(self, seconds):
        """Let time pass, with a tick at each time that was asked for."""
        end, out = self.now + seconds, []
        while self.wake_at is not None and self.wake_at <= end:
            self.now, self.wake_at = self.wake_at, None
            out += self.on(Tick())
        self.now = end
        return out

    def client(self, message, client=ALICE):
        return self.on(FromClient(client, message))

    def center(self, message):
        return self.on(FromCenter(message))

    def done(self, serials, values=None, executor=1, durations_us=None, **columns):
        values = values or [b"v"] * len(serials)
        durations_us = durations_us or [10] * len(serials)
        sizes = columns.pop("nbytes", [len(value) for value in values])
        columns = {"paths": {}, "errors": {}, "contains": {}} | columns
        return self.on(FromExecutor(executor, Outcomes(serials, values, sizes, durations_us, **columns)))

    def know(self, function=F, mean_us=10, code=b"code"):
        """Measure a function, so that its tasks are given in batches."""
        (give,) = self.client(compute(["warm"], function=function, code=code))
        self.done([give.message.serial], durations_us=[mean_us])
        self.client(DeleteData([f"{ALICE}/warm"]))


def compute(names, client=ALICE, function=F, code=b"", attempt=1, inputs=None, **options):
    keys = [f"{client}/{name}" for name in names]
    args = [f"args of {name}".encode() for name in names]
    return Compute(function, code, "f", keys, [attempt] * len(keys), args, inputs or {}, **options)


def key(name, client=ALICE):
    return f"{client}/{name}"


def run(names, serial, executor=1, function=F, code=b"", inputs=None, client=ALICE, needs=None, attempts=None):
    args = [f"args of {name}".encode() for name in names]
    keys = [key(name, client) for name in names]
    return Give(executor, Run(function, code, "f", serial, keys, args, inputs or {}, needs or {}, attempts or {}))


def finished(names, client=ALICE, attempt=1, value=b"v", durations_us=None, held=()):
    n = len(names)
    keys = [key(name, client) for name in names]
    columns = [keys, [attempt] * n, [len(value)] * n, [value] * n, durations_us or [10] * n, {}, list(held)]
    return Send(client, Finished(*columns))


HOLDER, OTHER = "127.0.0.1:2", "127.0.0.1:3"


def needs(name, holders=(HOLDER,), nbytes=5, attempt=1, inline=None, client=ALICE):
    return [key(name, client), attempt, nbytes, list(holders), inline]
