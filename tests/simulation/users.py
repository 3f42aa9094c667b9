"""What users do: graphs of all kinds, values of their own, handles lent and names given, and second thoughts."""

from __future__ import annotations

from distributed.pool import events
from distributed.pool.groups import Group
from distributed.pool.lending import keys_within
from distributed.pool.tasks import Duration, Kind, Options, Task
from distributed.wire import messages as m
from tests.simulation.client import Client
from tests.simulation.executors import Value, Work, combine
from tests.simulation.plan import TROUBLES, Plan


class Users:
    """The part of a story that goes as its users wish."""

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

    def make(
        self,
        client: Client,
        inputs: list[Task],
        kind: Kind | None = None,
        trouble: str | None = None,
        passes_on: bool = False,
    ) -> Task:
        """One task, with what it should give."""
        dice = self.dice
        kind = kind or self.kind(self.options(), dice.random() < 0.05)
        inputs = list(dict.fromkeys(inputs))
        if trouble is None:
            trouble = dice.choice(TROUBLES) if dice.random() < 0.04 else ""
        if trouble == "sleep" and not kind.options.timeout_s:
            trouble = ""
        number = len(self.plans)
        work = Work(number, dice.choice(self.durations_s), dice.choice(self.sizes), trouble, passes_on)
        task = client.submit(kind, work.pack(), tuple(inputs))
        parents = [self.plans[needed.key] for needed in inputs]
        right = combine(number, [parent.number for parent in parents])
        self.plans[task.key] = Plan(task.key, right, parents, trouble, kind.options, is_asynchronous=kind.asynchronous)
        self.held.append((client, task))
        if kind.options.attempts == 1:
            self.world.once.add(task.key)
        return task

    def some_held(self, client: Client, most: int) -> list[Task]:
        return self.some_of([task for owner, task in self.held if owner is client], most)

    def some_of(self, mine: list[Task], most: int) -> list[Task]:
        return self.dice.sample(mine, min(len(mine), self.dice.randint(1, most)))

    def make_consumers(self, client: Client, count: int, most: int, kind: Kind | None = None) -> list[Task]:
        """Tasks with inputs: what is held, and one another."""
        tasks: list[Task] = []
        held = [task for owner, task in self.held if owner is client]
        for _ in range(count):
            tasks.append(self.make(client, self.some_of(held, most), kind))
            held.append(tasks[-1])
        return tasks

    def map(self) -> None:
        client, kind = self.client(), self.kind(self.options(), False)
        client.start([self.make(client, [], kind) for _ in range(max(1, self.n_tasks // 8))])

    def consume(self) -> None:
        client = self.client()
        client.start(self.make_consumers(client, max(1, self.n_tasks // 12), 3))

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

        client.scatter(number, self.dice.choice(self.sizes), inside, self.dice.randint(1, 2), stored)

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
        tasks = self.make_consumers(client, max(2, self.n_tasks // 16), 3)
        client.start(tasks)
        for task in tasks:
            if self.dice.random() < 0.8:
                self.plans[task.key].is_cancelled = True
                self.world.after(self.dice.uniform(0.0, 0.06), client.cancel, task)

    def hang(self) -> None:
        """Tasks that never end, and do not listen when they are told to, are cancelled after a while."""
        client, kind = self.client(), self.kind(Options(), self.dice.random() < 0.5)
        tasks = [self.make(client, self.some_held(client, 2), kind, "hang") for _ in range(self.dice.randint(1, 6))]
        client.start(tasks)
        patience_s = self.dice.choice((0.0, 0.05, 0.5, 5.0))
        for task in tasks:
            self.plans[task.key].is_cancelled = True
            self.world.after(patience_s + self.dice.choice((0.0, self.dice.uniform(0.0, 1.0))), client.cancel, task)

    def coroutines(self) -> None:
        """Many that run at the same time in one executor."""
        client = self.client()
        options = self.dice.choice((Options(), Options(), Options(attempts=1), Options(timeout_s=1.0)))
        kind = self.kind(options, True)
        client.start(self.make_consumers(client, max(2, self.n_tasks // 10), 1, kind))

    def time_out(self) -> None:
        """Some of these end in time."""
        client, kind = (
            self.client(),
            self.kind(Options(timeout_s=self.dice.choice((0.2, 3.0))), self.dice.random() < 0.3),
        )
        troubles = ["sleep" if self.dice.random() < 0.3 else "" for _ in range(max(2, self.n_tasks // 12))]
        client.start([self.make(client, self.some_held(client, 1), kind, trouble) for trouble in troubles])

    def group(self) -> None:
        """Tasks that start together and talk to one another."""
        client = self.client()
        inputs = self.some_held(client, 2) if self.dice.random() < 0.5 else []
        tasks = self.make_group(client, inputs, self.dice.randint(1, 5))
        client.start(tasks[:])
        if self.dice.random() < 0.2:
            self.plans[tasks[0].key].is_cancelled = True
            self.world.after(self.dice.uniform(0.0, 0.5), client.cancel, tasks[0])

    def make_group(self, client: Client, inputs: list[Task], size: int) -> list[Task]:
        made = Group()
        options = self.dice.choice(
            (Options(attempts=1), Options(attempts=1, retries=2), Options(attempts=1, timeout_s=30.0, priority=-1))
        )
        kind = Kind(b"m" * 16, b"code of members", "m", False, options, Duration(), group=made)
        made.tasks = [self.make(client, inputs, kind) for _ in range(size)]
        plans = [self.plans[task.key] for task in made.tasks]
        for plan in plans:
            plan.mates = plans
        if not options.retries:
            self.world.alone.update(plan.key for plan in plans)
        return made.tasks

    def compete(self) -> None:
        """Groups of all clients at one time, with other tasks among them, that are too many for the workers."""
        for _ in range(3):
            for client in self.clients:
                client.start(self.make_group(client, [], self.dice.randint(2, 4))[:])
                client.start([self.make(client, []) for _ in range(self.dice.randint(0, 4))])

    def get(self) -> None:
        for client, task in self.dice.sample(self.held, min(len(self.held), 3)):
            client.get(task, lambda value, client=client, task=task: self.compare(client, task, value))  # type: ignore[misc]

    def lend(self) -> None:
        """Pickle a handle, send it to the other client, who reads it and computes with it."""
        owner = self.client()
        other = next(client for client in self.clients if client is not owner)
        for task in self.some_held(owner, 2):
            if not task.borrowed:
                self.lend_to(owner, task, other)

    def lend_to(self, owner: Client, task: Task, other: Client) -> None:
        owner.lend(task)
        self.lent.append((owner, task))
        for _ in range(self.dice.randint(1, 2)):
            delay_s = self.dice.choice((self.world.delay_s(), self.dice.uniform(0.0, 3.0)))
            self.quiet_at(self.world.now + delay_s)
            self.world.after(delay_s, self.borrow, other, task.key)

    def lend_at_work(self) -> None:
        """Lend what is being computed: the other client may hear of it before its owner does."""
        owner = self.client()
        other = next(client for client in self.clients if client is not owner)
        tasks = self.make_consumers(owner, max(2, self.n_tasks // 16), 2)
        owner.start(tasks)
        for task in tasks:
            self.lend_to(owner, task, other)

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
                    client.handle(events.Shown(task))
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
            self.client().ask(
                m.Unpublish(name), lambda result, refusal: None if refusal else self.unpublished.add(name)
            )

    def look_up(self) -> None:
        if self.names:
            name = self.dice.choice(self.names)
            client = self.client()

            def found(key: str | None, refusal: str) -> None:
                if key:
                    self.held.append((client, client.borrow(key)))

            client.ask(m.LookUp(name), found)

    WORK = (map, consume, chain, tree, diamond, consume, coroutines)
    ACTIONS = (
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
        hang,
        time_out,
        lend_at_work,
    )
