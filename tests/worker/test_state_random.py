"""The worker's mind under random events, in any order that it can see: its invariants hold, and all comes to an end.

The simulation sends what a pool would send; here clients name keys twice, cancel what is not there, and delete what is
used, and executors answer in any order. Every message goes through the codec, and every step ends with the invariants.
"""

import random
from collections import Counter

import pytest

from distributed.wire.messages import (
    Attach,
    Cancel,
    Compute,
    DefineFunction,
    DeleteData,
    Failed,
    Finished,
    Outcomes,
    OwnerLeft,
    Pin,
    Recall,
    Recalled,
    Run,
    Unpin,
)
from distributed.worker import events
from tests.worker.bench import ALICE, BOB, HOLDER, Bench, F, G

NAMES = ("m", "n")


class Story:
    """Two clients, two executors and a peer, and what became of each attempt."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.bench = Bench(ncores=2, start=False, resources={"gpu": 2, "license": 1})
        self.running = {}  # executor -> serials that it was given and has not answered
        self.asynchronous = {1: False, 2: False}  # executors that live
        self.starting = [1, 2]
        self.dying = []
        self.asked = []
        self.fetches = []
        self.keys = []
        self.sent, self.ended = Counter(), Counter()  # attempts
        self.on(events.CenterConnected())

    def on(self, event):
        for what in self.bench.on(event):
            self.perform(what)

    def perform(self, what):
        match what:
            case events.Spawn(number, asynchronous):
                self.starting.append(number)
                self.asynchronous[number] = asynchronous
            case events.Give(number, Run() as run):
                self.running.setdefault(number, []).extend(range(run.serial, run.serial + len(run.keys)))
            case events.Kill(number):
                self.dying.append(number)
            case events.AskRunning(number):
                self.asked.append(number)
            case events.Fetch():
                self.fetches.append(what)
            case events.Send(_, Finished() | Recalled() as message):
                self.ended.update(zip(message.keys, message.attempts, strict=True))
            case events.Send(_, Failed() as message):
                self.ended[message.key, message.attempt] += 1

    # ------------------------------------------------------------------------------------------------------ actions

    def compute(self):
        client = self.dice.choice([ALICE, BOB])
        keys = [f"{client}/{len(self.keys) + n}" for n in range(self.dice.choice([1, 1, 3, 20]))]
        self.keys += keys
        keys += self.some_keys(self.dice.choice([0, 0, 2]))
        attempts = [self.dice.choice([1, 1, 1, 2, 3]) for _ in keys]
        inputs = {n: self.inputs(client) for n in range(len(keys)) if self.dice.random() < 0.3}
        self.sent.update(zip(keys, attempts, strict=True))
        options = {
            "priority": self.dice.choice([0, 0, 1]),
            "timeout_s": self.dice.choice([0, 0, 0, 0.5]),
            "once": self.dice.random() < 0.05,
            "asynchronous": self.dice.random() < 0.1,
            "resources": self.dice.choice([{}, {}, {"gpu": 1}, {"gpu": 2}, {"gpu": 1, "license": 1}]),
        }
        if len(keys) == 1 and not options["asynchronous"]:
            options["seat"] = self.dice.choice([-1, 0, 1])
        code = self.dice.choice([b"", b"code"])
        columns = keys, attempts, [b""] * len(keys), inputs
        message = Compute(self.dice.choice([F, G]), code, "f", *columns, **options)
        self.on(events.FromClient(client, message))

    def inputs(self, client):
        inputs = []
        for _ in range(self.dice.choice([0, 1, 2])):
            key = self.dice.choice([*self.some_keys(1), f"{client}/in{self.dice.randrange(30)}"])
            inline = self.dice.choice([None, b"inline"])
            inputs.append([key, 1, self.dice.choice([5, 100_000]), [HOLDER], inline])
        return inputs

    def some_keys(self, count):
        return self.dice.sample(self.keys, min(count, len(self.keys)))

    def talk(self):
        """A client or the center says something."""
        client, keys = self.dice.choice([ALICE, BOB]), self.some_keys(self.dice.choice([1, 5, 30]))
        message = self.dice.choice(
            [
                DefineFunction(self.dice.choice([F, G]), b"code"),
                Cancel(keys, [self.dice.choice([1, 2]) for _ in keys]),
                Recall(self.dice.choice([1, 5, 50])),
                DeleteData(keys),
                Pin(self.dice.choice(NAMES), keys[0], dict.fromkeys(keys[:2], self.dice.choice((0, 1, 2))))
                if keys
                else Unpin("m", [ALICE, BOB]),
                Unpin(self.dice.choice(NAMES), self.dice.choice([[ALICE], [BOB], [ALICE, BOB]])),
                self.dice.choice([Attach(client), OwnerLeft(client), DeleteData([])]),
            ]
        )
        is_center = isinstance(message, (Pin, Unpin, OwnerLeft))
        self.on(events.FromCenter(message) if is_center else events.FromClient(client, message))

    def put(self):
        client = self.dice.choice([ALICE, BOB])
        self.on(events.Put(client, [f"{client}/in{self.dice.randrange(30)}"], [3], [b"put"], [""]))

    def fetch(self):
        if self.fetches:
            fetch = self.fetches.pop(self.dice.randrange(len(self.fetches)))
            sizes = [self.dice.choice([-1, 4, 4, 4]) for _ in fetch.keys]
            self.on(events.Fetched(fetch.fetch, sizes, [b"here" if n > 0 else None for n in sizes], [""] * len(sizes)))

    def run(self, part=1.0):
        for number in sorted(self.running):
            serials = self.running.get(number, [])
            if self.asynchronous.get(number):
                self.dice.shuffle(serials)
            count = self.dice.randint(0, len(serials)) if self.dice.random() < part else len(serials)
            done, self.running[number] = serials[:count], serials[count:]
            if done:
                self.on(events.FromExecutor(number, self.outcomes(done)))

    def outcomes(self, serials):
        errors = {n: b"error" for n in range(len(serials)) if self.dice.random() < 0.05}
        contains = {n: [["x", 1, 2, []]] for n in range(len(serials)) if self.dice.random() < 0.05 and n not in errors}
        values = [b"v" * self.dice.choice([1, 9, 5000]) for _ in serials]
        durations_us = [self.dice.randrange(3000) for _ in serials]
        return Outcomes(serials, values, [len(value) for value in values], durations_us, {}, errors, contains)

    def settle(self, crash=0.0):
        """Executors start and end, questions are answered, time passes."""
        for what in self.bench.wait(self.dice.choice([1e-5, 1e-3, 0.06])):
            self.perform(what)
        while self.starting:
            self.on(events.ExecutorStarted(self.starting.pop(), 1))
        asked, self.asked = self.asked, []
        for number in asked:
            serials = self.running.get(number)
            self.on(events.Running(number, serials[0] if serials else 0, self.bench.now - self.dice.random()))
        if self.asynchronous and self.dice.random() < crash:
            self.dying.append(self.dice.choice(sorted(self.asynchronous)))
        for number in dict.fromkeys(self.dying):
            if number in self.asynchronous and number not in self.starting:
                del self.asynchronous[number]
                serials = self.running.pop(number, [])
                self.on(events.ExecutorEnded(number, serials[0] if serials else 0, 9))
        self.dying = []


@pytest.mark.parametrize("seed", range(25))
def test_whatever_happens_the_invariants_hold_and_nothing_is_left_in_the_end(seed):
    story = Story(seed)
    actions = [story.compute] * 4 + [story.talk] * 3 + [story.run] * 4 + [story.fetch, story.put]
    for _ in range(200):
        story.settle(crash=0.02)
        story.dice.choice(actions)()
    for function in (F, G):
        story.on(events.FromClient(ALICE, DefineFunction(function, b"code")))
    for _ in range(1000):
        if not story.bench.state.tasks:
            break
        story.settle()
        story.fetch()
        story.run(part=0.0)
    state = story.bench.state
    assert state.tasks == {}
    assert story.ended <= story.sent, "an end for each time that it was asked for, or none where it was dropped"
    for name in NAMES:
        story.on(events.FromCenter(Unpin(name, [ALICE, BOB])))
    for client in (ALICE, BOB):
        story.on(events.FromCenter(OwnerLeft(client)))
    for _ in range(100):
        story.settle()
        story.fetch()
        story.run(part=0.0)
    assert (state.store.entries, state.store.memory_bytes, state.dispatch.queue.clients) == ({}, 0, {})
    assert (state.dispatch.supplies.used, state.dispatch.supplies.live) == ({"gpu": 0, "license": 0}, 0)
