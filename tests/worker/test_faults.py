"""The worker's mind under a shell that does what it is told, in any order, with failures."""

import dataclasses
import random

import pytest

from distributed.wire.messages import (
    NO_INPUT,
    Cancel,
    DeleteData,
    Failed,
    Finished,
    NeedRoom,
    Outcomes,
    OwnerLeft,
    Recall,
    Recalled,
    Room,
    Run,
)
from distributed.worker.events import (
    Allocate,
    Allocated,
    AskRunning,
    ExecutorEnded,
    ExecutorStarted,
    Fetch,
    Fetched,
    FetchFailed,
    FromCenter,
    FromClient,
    FromExecutor,
    Give,
    Kill,
    Remove,
    Running,
    Send,
    Spawn,
    Spill,
    Spilled,
    SpillFailed,
)
from tests.worker.bench import ALICE, BOB, HOLDER, OTHER, SETTINGS, Bench, F, G, compute, needs


@pytest.mark.parametrize("seed", range(60))
def test_invariants_hold_whatever_happens(seed):
    """A shell that does what it is told, in any order, with failures; in the end nothing is left."""
    Chaos(seed).play()


class Chaos:
    def __init__(self, seed):
        self.dice = random.Random(seed)
        settings = dataclasses.replace(SETTINGS, asynchronous_tasks_max=3, fetch_bytes_max=100_000)
        self.bench = Bench(ncores=2, memory_limit=400_000, settings=settings)
        self.alive = {1: True, 2: True}
        self.owed = []  # instructions that must end in an event
        self.given = {1: [], 2: []}
        self.rooms = {}
        self.files = set()
        self.in_files = {}  # number of a task -> which of its inputs are files
        self.outcomes = {}  # key@attempt -> how often it ended
        self.submitted = {}
        self.paths = 0
        self.names = 0

    def play(self):
        for _ in range(300):
            self.step()
            self.bench.now += self.dice.choice([0.0, 0.001, 0.1])
        self.settle()

    def perform(self, out):
        for what in out:
            if isinstance(what, (Fetch, Spill, Allocate, AskRunning, Kill, Spawn)):
                self.owed.append(what)
            elif isinstance(what, Remove):
                self.files.remove(what.path)
            elif isinstance(what, Give):
                self.receive(what)
            elif isinstance(what, Send) and isinstance(what.message, (Finished, Failed, Recalled)):
                self.count(what.message)

    def count(self, message):
        pairs = [(message.key, message.attempt)] if isinstance(message, Failed) else None
        for pair in pairs or zip(message.keys, message.attempts, strict=True):
            self.outcomes[pair] = self.outcomes.get(pair, 0) + 1

    def receive(self, what):
        if what.executor not in self.given:
            return
        if isinstance(what.message, Run):
            message = what.message
            for inputs in message.inputs.values():
                assert all(value in self.files for _, value, *_ in inputs if isinstance(value, str))
            for position, inputs in message.inputs.items():
                self.in_files[message.serial + position] = [name for name, where, *_ in inputs if type(where) is str]
            self.given[what.executor] += range(message.serial, message.serial + len(message.keys))
        elif isinstance(what.message, Room) and what.message.path:
            self.rooms.setdefault(what.executor, []).append(what.message.path)

    def on(self, event):
        self.perform(self.bench.on(event))

    def new_file(self):
        self.paths += 1
        self.files.add(f"/m/v{self.paths}")
        return f"/m/v{self.paths}"

    def step(self):
        choices = [
            self.submit,
            self.finish,
            self.finish,
            self.pay,
            self.pay,
            self.cancel,
            self.crash,
            self.delete,
            self.tick,
        ]
        choices += [self.recall, self.need_room]
        self.dice.choice(choices)()

    def submit(self):
        client = self.dice.choice([ALICE, BOB])
        names, inputs = [], {}
        for position in range(self.dice.randrange(1, 5)):
            self.names += 1
            names.append(str(self.names))
            if self.dice.random() < 0.4:
                inputs[position] = [
                    needs(
                        str(self.dice.randrange(self.names)),
                        self.dice.sample([HOLDER, OTHER], self.dice.randrange(3)),
                        self.dice.choice([5, 90_000]),
                        inline=self.dice.choice([None, None, b"in"]),
                        client=self.dice.choice([ALICE, BOB]),
                    )
                    for _ in range(self.dice.randrange(1, 3))
                ]
        options = {"once": self.dice.random() < 0.1, "asynchronous": self.dice.random() < 0.1}
        options |= {"timeout_s": self.dice.choice([0.0, 0.0, 0.3]), "priority": self.dice.choice([0, 1])}
        options["depth"] = self.dice.choice([0, 0, 1, 2])
        function = self.dice.choice([F, G])
        message = compute(names, client, function, b"code", inputs=inputs, **options)
        self.submitted |= {(k, 1): True for k in message.keys}
        self.on(FromClient(client, message))

    def finish(self):
        executor = self.dice.choice(list(self.given) or [0])
        serials = self.given.get(executor, [])[: self.dice.randrange(1, 4)]
        if not serials:
            return
        del self.given[executor][: len(serials)]
        paths, errors, values, nbytes = {}, {}, [b"v"] * len(serials), [1] * len(serials)
        if self.in_files.get(serials[0]) and not self.rooms.get(executor) and self.dice.random() < 0.3:
            errors[0], values[0] = NO_INPUT, self.dice.choice(self.in_files[serials[0]]).encode()
        elif self.rooms.get(executor):
            paths[0] = self.rooms[executor].pop()
            nbytes[0] = 90_000
        elif self.dice.random() < 0.2:
            errors[0] = b"error"
        message = Outcomes(serials, values, nbytes, [300] * len(serials), paths, errors, {})
        self.on(FromExecutor(executor, message))

    def need_room(self):
        executor = self.dice.choice(list(self.given) or [0])
        if self.given.get(executor) and len(self.rooms.get(executor, ())) < 1:
            self.on(FromExecutor(executor, NeedRoom(90_000)))

    def pay(self):
        if self.owed:
            self.pay_for(self.owed.pop(self.dice.randrange(len(self.owed))))

    def pay_for(self, what):
        well = self.dice.random() < 0.8
        if isinstance(what, Spawn):
            if well:
                self.given[what.executor] = []
                self.on(ExecutorStarted(what.executor, 1))
            else:
                self.on(ExecutorEnded(what.executor, exit_code=1))
        elif isinstance(what, Kill):
            self.end(what.executor, signal=9)
        elif isinstance(what, AskRunning):
            given = self.given.get(what.executor)
            self.on(Running(what.executor, given[0] if given else 0, self.bench.now - self.dice.choice([0, 1])))
        elif isinstance(what, Allocate):
            self.on(Allocated(what.ticket, self.new_file()))
        elif isinstance(what, Spill):
            failed = SpillFailed(what.ticket, "disk full", is_lost=self.dice.random() < 0.5)
            self.on(Spilled(what.ticket, self.new_file()) if well else failed)
        elif not well:
            self.on(FetchFailed(what.fetch, "refused"))
        else:
            self.answer(what)

    def answer(self, what):
        sizes = [size if self.dice.random() < 0.8 else -1 for size in what.nbytes]
        paths = [self.new_file() if size > 65536 else "" for size in sizes]
        self.on(Fetched(what.fetch, sizes, [None if path else b"v" for path in paths], paths))

    def end(self, executor, **how):
        if executor in self.given:
            serials = self.given.pop(executor)
            self.rooms.pop(executor, None)
            running = serials[0] if serials and self.dice.random() < 0.8 else 0
            self.on(ExecutorEnded(executor, serial=running, **how))

    def crash(self):
        if self.dice.random() < 0.3:
            self.end(self.dice.choice(list(self.given) or [0]), signal=11)
        if not self.given:
            self.pay()

    def cancel(self):
        if self.submitted:
            name, attempt = self.dice.choice(list(self.submitted))
            self.outcomes.setdefault((name, attempt), 0)
            self.submitted.pop((name, attempt))
            self.on(FromClient(name.partition("/")[0], Cancel([name], [attempt])))

    def delete(self):
        if self.bench.state.store.entries:
            name = self.dice.choice(list(self.bench.state.store.entries))
            self.on(FromClient(name.partition("/")[0], DeleteData([name])))

    def recall(self):
        self.on(FromClient(ALICE, Recall(1)))

    def tick(self):
        self.perform(self.bench.wait(self.dice.choice([0.01, 0.2, 2.0])))

    def settle(self):
        """No more faults: everything that was submitted ends exactly once, and then nothing is left."""
        self.dice.random = lambda: 0.5
        for _ in range(1000):
            while self.owed:
                self.pay()
            for executor in list(self.given):
                while self.given.get(executor):
                    serials, self.given[executor] = self.given[executor], []
                    nothing = Outcomes(
                        serials, [b"v"] * len(serials), [1] * len(serials), [9] * len(serials), {}, {}, {}
                    )
                    self.on(FromExecutor(executor, nothing))
            self.perform(self.bench.wait(20.0))
            if not self.bench.state.tasks and not self.owed:
                break
        assert self.bench.state.tasks == {}
        assert all(self.outcomes.get(pair) == 1 for pair in self.submitted)
        assert all(count <= 1 for count in self.outcomes.values())
        for executor in list(self.given):
            for path in self.rooms.pop(executor, []):
                self.bench.state.rooms.abandon(path)
                self.files.discard(path)
                self.bench.state.out.clear()
        for client in (ALICE, BOB):
            self.on(FromCenter(OwnerLeft(client)))
        assert self.bench.state.store.entries == {}
        assert self.bench.state.store.memory_bytes == self.bench.state.store.disk_bytes == 0
        assert self.files == set()
