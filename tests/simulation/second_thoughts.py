"""What users do at the worst moment: cancel a task while it fetches or runs, and forget what they have just published.

Chance alone finds such moments too seldom. Here somebody waits for them.
"""

from __future__ import annotations

from distributed.pool import events
from distributed.pool.lending import keys_within
from distributed.pool.tasks import READY, SENT, WAITING, Options, Task
from distributed.wire import messages as m
from tests.simulation.client import Client
from tests.simulation.executors import Value
from tests.simulation.users import Users

LOOK_S = 0.0005
LOOKS = 1500
LATER_S = 3.0
LARGE_BYTES = 3_000_000
HARMLESS = ("late message", "request broken")


class SecondThoughts(Users):
    """More of what users do."""

    def cancel_at_work(self) -> None:
        """Tasks that have to fetch are cancelled just then, or just when they run; their inputs are often dropped."""
        client, living = self.client(), sorted(name for name, worker in self.workers.items() if worker.is_alive)
        inputs = [self.make_large(client, name) for name in self.dice.sample(living, min(2, len(living)))]
        kind = self.kind(Options(), False)
        tasks = [self.make(client, inputs, kind, "") for _ in range(3)]
        client.start([*inputs, *tasks])
        dropped = inputs if self.dice.random() < 0.5 else []
        self.lie_in_wait(client, tasks, dropped, self.dice.choice(("fetching", "fetching", "running")), LOOKS)
        self.world.after(LATER_S, self.find_strays, client, inputs, tasks, self.losses())

    def find_strays(self, client: Client, inputs: list[Task], tasks: list[Task], losses: int) -> None:
        """Where a copy came to, its owner knows of it; unless something else went wrong meanwhile.

        An owner hears of copies with the outcomes of the tasks that read them.
        """
        if losses != self.losses() or self.anybody_leaves() or self.world.now < self.quiet_s or client in self.gone:
            return
        if any(task.status in (WAITING, READY, SENT) for task in (*inputs, *tasks)):
            self.world.after(LATER_S, self.find_strays, client, inputs, tasks, losses)
            return
        for task in inputs:
            for worker in self.workers.values():
                is_here = worker.is_alive and task.key in worker.state.store.entries
                assert not is_here or worker.name in (task.holders or ()), f"a stray {task.key} at {worker.name}"

    def make_large(self, client: Client, where: str) -> Task:
        sizes, self.sizes = self.sizes, (LARGE_BYTES,)
        task = self.make(client, [], self.kind(Options(workers=frozenset([where])), False), "")
        self.sizes = sizes
        return task

    def lie_in_wait(self, client: Client, tasks: list[Task], inputs: list[Task], phase: str, looks: int) -> None:
        there = self.keys_that_are(phase)
        left = [task for task in tasks if task.key not in there]
        for task in tasks:
            if task.key in there and not task.published:
                self.plans[task.key].is_cancelled = self.may_repeat = True  # its executor may have others untold
                client.cancel(task)
        if not left:
            for task in inputs:
                if (client, task) in self.held:
                    self.give_up(client, task)
        if left and looks:
            self.world.after(LOOK_S, self.lie_in_wait, client, left, inputs, phase, looks - 1)

    def keys_that_are(self, phase: str) -> set[str]:
        """Tasks that wait for a fetch that is under way, or that run."""
        workers = [worker for worker in self.workers.values() if worker.is_alive]
        if phase == "running":
            running = [run.current.values() for worker in workers for run in worker.executors.values()]
            return {job.key for jobs in running for job, _ in jobs}
        wants = [want for worker in workers for want in worker.state.fetches.wants.values() if want.under_way]
        return {key for want in wants for part in want.tasks for key in getattr(part, "keys", ())}

    def publish_and_forget(self) -> None:
        """From here on only the name keeps the value."""
        client = self.client()
        task = self.make(client, [], trouble="")
        client.start([task])
        self.published += 1
        name = f"name {self.published}"

        def publish(value: Value | None) -> None:
            if value is not None:
                losses = self.losses()
                client.handle(events.Shown(task))
                client.claim(task)
                client.ask(m.Publish(name, task.key, keys_within(task)), lambda _, refusal: named(refusal, losses))

        def named(refusal: str, losses: int) -> None:
            client.drop(task)
            if not refusal:
                self.names.append(name)
                if (client, task) in self.held:
                    self.give_up(client, task)
                self.world.after(LATER_S, look, losses)

        def look(losses: int) -> None:
            if losses == self.losses() and name in self.names:
                workers = [worker for worker in self.workers.values() if worker.is_alive]
                is_there = any(task.key in worker.state.store.entries for worker in workers)
                assert is_there, f"{task.key} is published as {name!r}, but nowhere, and nothing went wrong"

        client.get(task, publish)

    def anybody_leaves(self) -> bool:
        return any(worker.state.departure for worker in self.workers.values())

    def losses(self) -> int:
        return sum(count for kind, count in self.world.faults.items() if kind not in HARMLESS)
