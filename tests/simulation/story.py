"""A random story, from one seed: what users do, what goes wrong, then quiet, and what must be true in the end."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

from distributed.config import Settings
from distributed.errors import KeyLost, NoWorker, StoreFull, TaskCancelled, TaskCrashed, TaskTimeout
from distributed.pool import explain
from distributed.pool.tasks import DONE, FAILED, Duration, Kind, Options, Task
from distributed.wire import messages as m
from distributed.wire.exceptions import unpack_exception
from distributed.worker.store import columns
from tests.simulation.actors import CenterActor, WorkerActor
from tests.simulation.client import Client
from tests.simulation.executors import Value, Work, combine
from tests.simulation.world import World

CLIENTS = ("a11ce0000000", "b0b000000000")
THOROUGH_TASKS_MAX = 300  # in longer stories the checks that look at every task come now and then
PATIENCE_S = 3000.0
BATCHES = 14
STEPS_MAX = 50_000  # and some for each task and worker; ordinary stories take a tenth
SIZES = (10, 10, 10, 3_000, 20_000, 100_000, 1_000_000, 20_000_000)
DURATIONS_S = (0.0001, 0.0001, 0.003, 0.05, 0.4)
TROUBLES = ("raise", "crash", "crash once", "crash once", "sleep")


@dataclasses.dataclass
class Plan:
    """What the story knows of a task: what is right, and what may go wrong."""

    key: str
    number: int
    parents: list[Plan]
    trouble: str = ""
    options: Options = dataclasses.field(default_factory=Options)
    is_cancelled: bool = False
    is_scattered: bool = False


class Story:
    """One run. `play` raises AssertionError where something is not as it must be.

    What is done, and when, is decided before; each act has dice of its own. So a story of which parts are left out
    (`only` the acts of these numbers happen) resembles the whole one, and a failing one can be made short.
    """

    def __init__(self, seed: int, n_workers: int = 3, n_tasks: int = 80, only: frozenset[int] | None = None) -> None:
        self.world, self.seed, self.only = World(seed, STEPS_MAX + 500 * n_tasks + 1000 * n_workers), seed, only
        self.dice, self.n_workers, self.n_tasks = random.Random(f"{seed} story"), n_workers, n_tasks
        self.settings = Settings(window_bytes_max=500) if seed % 4 == 0 else Settings()
        self.is_tight = self.dice.random() < 0.25  # so little memory that values are spilled
        self.horizon_s = self.world.now + self.dice.uniform(1.0, 6.0)
        self.plans: dict[str, Plan] = {}
        self.kinds: dict[Any, Kind] = {}
        self.held: list[tuple[Client, Task]] = []
        self.lent: list[tuple[Client, Task]] = []
        self.names: list[str] = []  # published
        self.may_lose = False  # a worker was lost, or somebody was without the center for a while
        self.workers: dict[str, WorkerActor] = {}
        self.incarnations = self.checked = self.published = 0
        self.gone: list[Client] = []  # clients that ended without a word
        self.acts = self.plan()
        self.world.bandwidth = self.dice.choice((1e9, 1e9, 1e8))
        self.center = CenterActor(self.world, self.settings)
        for _ in range(n_workers):
            self.start_worker()
        self.clients = [Client(self.world, self.settings, name, self.is_thorough) for name in CLIENTS]

    def is_thorough(self) -> bool:
        return self.n_tasks <= THOROUGH_TASKS_MAX or self.world.steps % 997 == 0

    # ---------------------------------------------------------------------------------------------------- the course

    def play(self) -> None:
        """Users and faults, then no more faults, then everything is read, then everything is released."""
        for number, (time_s, action) in enumerate(self.acts):
            if self.only is None or number in self.only:
                self.world.at(time_s, self.act, number, action)
        self.world.run(self.horizon_s + 5.0)
        self.heal()
        self.world.run(max(client.isolated_until_s for client in self.clients) + 5.0)
        if self.gone:
            self.world.run(self.world.now + self.settings.closed_client_lease_s + 5.0)
        self.wait_for(lambda: all(self.is_settled(client) for client in self.clients), "tasks without an outcome")
        self.read_everything()
        self.compare_center()
        self.find_published()
        self.release_everything()
        self.find_leftovers()
        self.say_goodbye()

    def plan(self) -> list[tuple[float, Callable[[Story], None]]]:
        """What will be done, and when."""
        acts: list[tuple[float, Callable[[Story], None]]] = []
        for _ in range(BATCHES):
            acts.append((self.moment(), self.dice.choice(self.ACTIONS[:6])))
            acts += [(self.moment(), self.dice.choice(self.ACTIONS[6:])) for _ in range(3)]
        return acts + [(self.moment(), self.dice.choice(self.FAULTS)) for _ in range(self.dice.randrange(8))]

    def moment(self) -> float:
        return self.dice.uniform(self.world.now + 0.2, self.horizon_s)

    def act(self, number: int, action: Callable[[Story], None]) -> None:
        self.dice = random.Random(f"{self.seed} act {number}")
        self.world.note("story", f"act {number}: {action.__name__.replace('_', ' ')}")
        action(self)

    def wait_for(self, is_done: Callable[[], bool], complaint: str) -> None:
        if not self.world.run(self.world.now + PATIENCE_S, is_done):
            raise AssertionError(f"{complaint}: {self.excuses()}")

    def excuses(self) -> str:
        found = []
        for client in self.clients:
            for task in client.tasks:
                if task.status not in (DONE, FAILED) and client.handles[task]:
                    found.append(f"{task}: {explain.explain(client.state, task, self.world.now)}")
        return "\n  ".join(found[:5])

    def is_settled(self, client: Client) -> bool:
        waits = any(count > 0 and task.status not in (DONE, FAILED) for task, count in client.handles.items())
        return not client.state.unfinished and not client.getting and not waits and not client.asking

    # ------------------------------------------------------------------------------------------------ tasks of a user

    def client(self) -> Client:
        return self.dice.choice(self.clients)

    def kind(self, options: Options, asynchronous: bool) -> Kind:
        function = self.dice.choice((b"f" * 16, b"g" * 16, b"h" * 16))
        name = function, options, asynchronous
        if name not in self.kinds:
            self.kinds[name] = Kind(function, b"code of " + function, "f", asynchronous, options, Duration())
        return self.kinds[name]

    def options(self) -> Options:
        dice = self.dice
        if dice.random() < 0.7:
            return Options()
        return dice.choice(
            (
                Options(timeout_s=30.0),
                Options(priority=-1),
                Options(priority=1),
                Options(retries=2),
                Options(attempts=1),
                Options(attempts=8),
                Options(recompute=False),
                Options(workers=frozenset([f"w{dice.randrange(4)}"])),
            )
        )

    def make(self, client: Client, inputs: list[Task], kind: Kind | None = None, passes_on: bool = False) -> Task:
        """One task, with what it should give."""
        dice = self.dice
        kind = kind or self.kind(self.options(), dice.random() < 0.05)
        inputs = list(dict.fromkeys(inputs))
        trouble = dice.choice(TROUBLES) if dice.random() < 0.04 else ""
        if trouble == "sleep" and not kind.options.timeout_s:
            trouble = ""
        number = len(self.plans)
        work = Work(number, dice.choice(DURATIONS_S), dice.choice(SIZES), trouble, passes_on)
        task = client.submit(kind, work.pack(), tuple(inputs))
        parents = [self.plans[needed.key] for needed in inputs]
        right = combine(number, [parent.number for parent in parents])
        self.plans[task.key] = Plan(task.key, right, parents, trouble, kind.options)
        self.held.append((client, task))
        return task

    def some_held(self, client: Client, most: int) -> list[Task]:
        mine = [task for owner, task in self.held if owner is client]
        return self.dice.sample(mine, min(len(mine), self.dice.randint(1, most)))

    def map(self) -> None:
        client, kind = self.client(), self.kind(self.options(), False)
        client.start([self.make(client, [], kind) for _ in range(max(1, self.n_tasks // 8))])

    def consume(self) -> None:
        client = self.client()
        client.start([self.make(client, self.some_held(client, 3)) for _ in range(max(1, self.n_tasks // 12))])

    def chain(self) -> None:
        client, tasks = self.client(), []
        for _ in range(max(2, self.n_tasks // 10)):
            tasks.append(self.make(client, tasks[-1:]))
        client.start(tasks)
        for task in tasks[:-1]:
            if self.dice.random() < 0.8:
                self.give_up(client, task)

    def tree(self) -> None:
        client = self.client()
        layer = tasks = [self.make(client, []) for _ in range(self.n_tasks // 16 + 2)]
        while len(layer) > 1:
            layer = [self.make(client, layer[start : start + 2]) for start in range(0, len(layer), 2)]
            tasks = tasks + layer
        client.start(tasks)
        for task in tasks[:-1]:
            self.give_up(client, task)

    def diamond(self) -> None:
        client = self.client()
        top = self.make(client, self.some_held(client, 2))
        middle = [self.make(client, [top]) for _ in range(self.n_tasks // 16 + 2)]
        client.start([top, *middle, self.make(client, middle)])

    def scatter(self) -> None:
        client = self.client()
        if not client.state.workers:
            return
        number = len(self.plans)
        inside = self.some_held(client, 2) if self.dice.random() < 0.4 else []
        plan = self.plans[f"reserved {number}"] = Plan("", number, [], is_scattered=True)

        def stored(task: Task) -> None:
            plan.key = task.key
            self.plans[task.key] = plan
            self.held.append((client, task))
            if inside:
                client.start([self.make(client, [task], passes_on=True)])

        client.scatter(number, self.dice.choice(SIZES), inside, self.dice.randint(1, 2), stored)

    def drop(self) -> None:
        for _ in range(3):
            if self.held:
                self.give_up(*self.dice.choice(self.held))

    def give_up(self, client: Client, task: Task) -> None:
        self.held.remove((client, task))
        client.drop(task)

    def cancel(self) -> None:
        for client, task in self.dice.sample(self.held, min(len(self.held), self.dice.randint(0, 2))):
            if not task.borrowed and not task.published:
                self.plans[task.key].is_cancelled = True
                client.cancel(task)

    def change_mind(self) -> None:
        """Tasks that need much are cancelled at once: while they fetch, wait, or run."""
        client = self.client()
        tasks = [self.make(client, self.some_held(client, 3)) for _ in range(max(2, self.n_tasks // 16))]
        client.start(tasks)
        for task in tasks:
            if self.dice.random() < 0.8:
                self.plans[task.key].is_cancelled = True
                self.world.after(self.dice.uniform(0.0, 0.06), client.cancel, task)

    def get(self) -> None:
        for client, task in self.dice.sample(self.held, min(len(self.held), 3)):
            client.get(task, lambda value, client=client, task=task: self.compare(client, task, value))  # type: ignore[misc]

    def lend(self) -> None:
        """Pickle a handle, send it to the other client, who reads it and computes with it."""
        owner = self.client()
        other = next(client for client in self.clients if client is not owner)
        for task in self.some_held(owner, 2):
            if not task.borrowed:
                owner.lend(task)
                self.lent.append((owner, task))
                self.world.after(self.world.delay_s(), self.borrow, other, task.key)

    def borrow(self, client: Client, key: str) -> None:
        if not client.is_alive:
            return
        task = client.borrow(key)
        self.held.append((client, task))
        client.start([self.make(client, [task])])

    def release(self) -> None:
        """The user gives a value up that others may be about to read."""
        if self.lent:
            client, task = self.dice.choice(self.lent)
            self.lent.remove((client, task))
            if (client, task) in self.held:
                self.held.remove((client, task))
                client.release(task)

    def publish(self) -> None:
        client = self.client()
        for task in self.some_held(client, 1):
            self.published += 1
            name = f"name {self.published}"

            def publish(value: Value | None, task: Task = task, name: str = name) -> None:
                if value is not None and not task.borrowed:
                    client.claim(task)  # until the name keeps it
                    client.ask(
                        m.Publish(name, task.key, keys_within(task)), lambda result, refusal: named(name, refusal)
                    )

            def named(name: str, refusal: str, task: Task = task) -> None:
                client.drop(task)
                if not refusal:
                    self.names.append(name)

            client.get(task, publish)

    def unpublish(self) -> None:
        if self.names:
            name = self.dice.choice(self.names)
            self.names.remove(name)
            self.client().ask(m.Unpublish(name), lambda result, refusal: None)

    def look_up(self) -> None:
        if self.names:
            name = self.dice.choice(self.names)
            client = self.client()

            def found(key: str | None, refusal: str) -> None:
                if key:
                    self.held.append((client, client.borrow(key)))

            client.ask(m.LookUp(name), found)

    ACTIONS = (
        map,
        consume,
        chain,
        tree,
        diamond,
        consume,
        scatter,
        drop,
        cancel,
        change_mind,
        get,
        lend,
        release,
        publish,
        unpublish,
        look_up,
        drop,
        get,
    )

    # ----------------------------------------------------------------------------------------------- what goes wrong

    def start_worker(self, address: str = "") -> None:
        self.incarnations += 1
        number = self.incarnations if not address else int(address.partition(":")[2])
        address = address or f"worker:{number}"
        limit = 50_000_000 if self.is_tight else 10**10
        member = m.Member(address, f"i{self.incarnations}", f"w{number % 4}", self.dice.randint(1, 3), limit)
        self.workers[address] = WorkerActor(self.world, self.settings, member)

    def some_worker(self) -> WorkerActor | None:
        alive = [worker for worker in self.workers.values() if worker.is_alive]
        return self.dice.choice(alive) if alive else None

    def lose_worker(self) -> None:
        worker = self.some_worker()
        if worker is not None:
            comes_back = self.dice.random() < 0.5  # on the same address, at once or later
            is_silent = comes_back and self.dice.random() < 0.5
            worker.die(is_silent)
            self.may_lose = True
            self.world.note("fault", f"{worker.name} is lost{', silently' * is_silent}")
            if comes_back:
                self.world.after(self.dice.choice((0.0, 0.0, 0.3, 2.0)), self.start_worker, worker.name)

    def crash_executor(self) -> None:
        worker = self.some_worker()
        if worker is not None and worker.executors:
            self.dice.choice(list(worker.executors.values())).die(9)

    def restart_center(self) -> None:
        if self.center.is_alive:
            self.center.die()
            self.may_lose = True
            self.world.note("fault", "the center is lost")
            self.world.after(self.dice.choice((0.0, 0.2, 3.0)), self.start_center)

    def start_center(self) -> None:
        self.center = CenterActor(self.world, self.settings)

    def cut_link(self) -> None:
        links = [end for worker in self.workers.values() if worker.is_alive for end in worker.ends]
        links += [client.center for client in self.clients if client.center is not None]
        if links:
            end = self.dice.choice(links)
            self.world.note("fault", f"a link of {end.who} and {end.peer.who} is cut")
            self.may_lose |= "center" in (end.who, end.peer.who)
            end.cut()

    def cut_worker(self) -> None:
        """All connections between pools and one worker break; that costs time, but no data."""
        worker = self.some_worker()
        if worker is not None:
            self.world.note("fault", f"{worker.name} is cut off from the pools")
            for end in worker.clients.values():
                end.cut()

    def part_workers(self) -> None:
        """Two workers cannot reach one another for a while; the pools reach both."""
        names = sorted(name for name, worker in self.workers.items() if worker.is_alive)
        if len(names) > 1:
            pair = frozenset(self.dice.sample(names, 2))
            self.world.note("fault", f"{' and '.join(sorted(pair))} cannot reach one another")
            self.world.parted.add(pair)
            self.world.after(self.dice.uniform(0.1, 8.0), self.world.parted.discard, pair)

    def isolate_client(self) -> None:
        """A client cannot reach the center for longer than its lease lasts, but its workers it can."""
        client = self.client()
        if client.center is not None:
            self.world.note("fault", f"{client.name} is cut off from the center")
            client.isolated_until_s = self.world.now + self.settings.closed_client_lease_s + self.dice.uniform(1, 5)
            client.center.cut()
            self.may_lose = True

    def lose_client(self) -> None:
        """A user's program is killed; another one begins."""
        client = self.client()
        self.world.note("fault", f"{client.name} is lost")
        client.die()
        self.gone.append(client)
        self.held = [item for item in self.held if item[0] is not client]
        self.lent = [item for item in self.lent if item[0] is not client]
        name = f"ca401{len(self.gone):07d}"
        self.clients[self.clients.index(client)] = Client(self.world, self.settings, name, self.is_thorough)

    FAULTS = (
        start_worker,
        lose_worker,
        lose_worker,
        crash_executor,
        restart_center,
        cut_link,
        cut_link,
        cut_worker,
        part_workers,
        isolate_client,
        lose_client,
    )

    def heal(self) -> None:
        """From here on nothing goes wrong by itself."""
        self.world.is_faulty = False
        if self.some_worker() is None:
            self.start_worker()
        self.world.note("story", "no more faults")

    # ------------------------------------------------------------------------------------------- what must be true

    def compare(self, client: Client, task: Task, value: Value | None) -> None:
        """The value, or the error, is right."""
        self.checked += 1
        plan = self.plans[task.key]
        if value is None:
            self.judge(task, plan)
            return
        assert value.number == plan.number, f"{task} has a wrong value"
        for inner in client.make_handles(value.contains):
            self.held.append((client, inner))

    def judge(self, task: Task, plan: Plan) -> None:
        """Whether an error tells a true cause."""
        error, causes = task.outcome, ancestors(plan)
        assert task.status == FAILED
        if isinstance(error, bytes) and not error.startswith((b"raised ", b"full ", b"lost ")):
            error = unpack_exception(error)  # another client's
        if isinstance(error, bytes):
            what, _, key = error.decode().partition(" ")
            if what == "raised":
                assert any(cause.key == key and cause.trouble == "raise" for cause in causes), error
            elif what == "full":
                assert self.is_tight, error
            else:
                borrowed = {other.key for client in (*self.clients, *self.gone) for other in client.borrowed}
                assert any(cause.key == key and key in borrowed for cause in causes), error
                assert not self.is_lent(key), f"{error!r}, but its owner lends it still"
        elif isinstance(error, TaskCancelled):
            assert any(cause.is_cancelled for cause in causes), error
        elif isinstance(error, TaskTimeout):
            assert any(cause.key == error.key and cause.trouble == "sleep" for cause in causes), error
        elif isinstance(error, TaskCrashed):
            guilty = next(cause for cause in causes if cause.key == error.key)
            assert len(error.attempts) == guilty.options.attempts, error
        elif isinstance(error, NoWorker):
            assert any(cause.key == error.key and cause.options.workers for cause in causes), error
        elif isinstance(error, KeyLost):
            assert any(self.is_fragile(cause, plan) for cause in causes), error
        else:
            assert isinstance(error, StoreFull) and self.is_tight, error

    def is_fragile(self, cause: Plan, plan: Plan) -> bool:
        """Whether a value may be lost for good: with a worker, or by its owner's will."""
        options = cause.options
        is_single = cause.is_scattered or not options.recompute or options.attempts == 1
        return (self.may_lose and is_single) or owner_of(cause) != owner_of(plan)

    def is_lent(self, key: str) -> bool:
        """Whether its owner is there, always was, and still lends this to others, and can compute it again."""
        owners = [
            client
            for client in self.clients
            if key in client.state.exported and client.state.exported[key].is_repeatable
        ]
        return any(not client.isolated_until_s and key not in client.heard_late for client in owners)

    def read_everything(self) -> None:
        for client, task in list(self.held):
            client.get(task, lambda value, client=client, task=task: self.compare(client, task, value))  # type: ignore[misc]
        self.wait_for(lambda: all(self.is_settled(client) for client in self.clients), "values that cannot be read")

    def compare_center(self) -> None:
        """The center's map is the union of the stores."""
        self.world.run(self.world.now + 5.0)
        living = {worker.name: worker for worker in self.workers.values() if worker.is_alive}
        assert self.center.state.directory.members.keys() == living.keys()
        for address, worker in living.items():
            store = worker.state.store
            keys, attempts, nbytes = columns(store.entries)
            stored = dict(zip(keys, zip(attempts, nbytes, strict=True), strict=True))
            has = self.center.state.directory.members[address].has_what()
            assert has == stored, f"the center is wrong about {address}"
            used = sum(file.nbytes for file in worker.files.values())
            small = sum(nbytes) - sum(entry.nbytes for entry in store.all_entries() if entry.path and entry.in_table)
            accounts = store.memory_bytes + store.disk_bytes
            assert used + small == accounts, f"{address}: {used + small} bytes are there, {accounts} accounted for"

    def find_published(self) -> None:
        """What is published is there, whatever its owner did, unless a worker or a center was lost."""
        there = {key for worker in self.workers.values() if worker.is_alive for key in worker.state.store.entries}
        for name in self.names if not self.may_lose else ():
            key = self.center.state.names[name].key
            assert key in there, f"{key} is published as {name!r}, but nowhere"

    def release_everything(self) -> None:
        for name in self.center.state.names:  # also those that came back with a worker that had missed their end
            self.clients[0].ask(m.Unpublish(name), lambda result, refusal: None)
        for client, task in self.lent:
            if (client, task) in self.held:
                self.held.remove((client, task))
                client.release(task)
        for client in self.clients:  # handles that were dropped while the task was lent
            for task in list(client.state.exported.values()):
                client.claim(task)
                client.release(task)
        while self.held:
            self.give_up(*self.held[-1])
        self.world.run(self.world.now + 5.0)

    def find_leftovers(self) -> None:
        """Nothing is left, anywhere."""
        for worker in self.workers.values():
            if worker.is_alive:
                state = worker.state
                assert not state.store.entries, f"{worker.name} still has {list(state.store.entries.values())}"
                assert not worker.files, f"{worker.name} still has {worker.files}"
                assert not state.tasks, f"{worker.name} still has {state.tasks}"
                assert not state.fetches.wants
                assert not (state.store.memory_bytes or state.store.disk_bytes or state.store.reserved_bytes)
                assert not (state.store.pins or state.store.names)
        for client in self.clients:
            state = client.state
            tables = (state.lifetimes.shared, state.exported, state.failures.troubles, state.lifetimes.lineage.tasks)
            assert not any(tables), f"{client.name} still has {tables}"
            assert not state.placement.stranded
            assert not state.unfinished
            for view in state.workers.values():
                assert not (view.under_way or view.holds or view.load), view
        assert not self.center.state.directory.holders

    def say_goodbye(self) -> None:
        for client in self.clients:
            client.close()
        self.world.run(self.world.now + 2.0)
        assert not self.center.state.leases
        assert not self.center.state.borrowing.exported


def keys_within(task: Task) -> list[str]:
    """A task's key and those of everything that its value refers to."""
    keys: dict[str, None] = {}
    todo = [task]
    while todo:
        task = todo.pop()
        if task.key not in keys:
            keys[task.key] = None
            todo.extend(task.contains)
    return list(keys)


def ancestors(plan: Plan) -> list[Plan]:
    """A task and everything that it is built on."""
    found: dict[int, Plan] = {}
    todo = [plan]
    while todo:
        plan = todo.pop()
        if id(plan) not in found:
            found[id(plan)] = plan
            todo += plan.parents
    return list(found.values())


def owner_of(plan: Plan) -> str:
    return plan.key.partition("/")[0]
