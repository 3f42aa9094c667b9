"""A random story, from one seed: what users do, what goes wrong, then quiet, and what must be true in the end."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from distributed.config import Settings
from distributed.pool import explain
from distributed.pool.tasks import DONE, FAILED, Kind, Task
from tests.simulation.actors import CenterActor, WorkerActor
from tests.simulation.client import Client
from tests.simulation.faults import Faults
from tests.simulation.plan import Plan
from tests.simulation.second_thoughts import SecondThoughts
from tests.simulation.truths import Truths
from tests.simulation.world import World

CLIENTS = ("a11ce0000000", "b0b000000000")
THOROUGH_TASKS_MAX = 300  # in longer stories, or with more workers, the checks that look at every task, key or
THOROUGH_WORKERS_MAX = 100  # worker come only now and then
SAMPLED_EVERY = 997  # steps
TASKS_A_FAULT = 200  # in large stories, beside one of each kind
PATIENCE_S = 3000.0
BATCHES = 14
STEPS_MAX = 20_000  # and some for each task and worker; ordinary stories take a tenth
SIZES = (10, 10, 10, 3_000, 20_000, 100_000, 1_000_000, 20_000_000)
DURATIONS_S = (0.0001, 0.0001, 0.003, 0.05, 0.4)


class Story(SecondThoughts, Faults, Truths):
    """One run. `play` raises AssertionError where something is not as it must be.

    What is done, and when, is decided before; each act has dice of its own. So a story of which parts are left out
    (`only` the acts of these numbers happen) resembles the whole one, and a failing one can be made short.
    """

    def __init__(self, seed: int, n_workers: int = 3, n_tasks: int = 80, only: frozenset[int] | None = None) -> None:
        self.world, self.seed, self.only = World(seed, STEPS_MAX + 100 * n_tasks + 1000 * n_workers), seed, only
        self.dice, self.n_workers, self.n_tasks = random.Random(f"{seed} story"), n_workers, n_tasks
        self.settings = Settings(
            window_bytes_max=500 if seed % 4 == 0 else Settings().window_bytes_max,
            names_back_s=0.0 if seed % 2 else Settings().names_back_s,  # workers may always come back after that
        )
        self.is_tight = self.may_be_full = self.dice.random() < 0.3  # so little memory that values are spilled
        self.world.has_disks = not (self.is_tight and seed % 2)
        self.sizes, self.durations_s = SIZES, DURATIONS_S
        self.horizon_s = self.world.now + self.dice.uniform(1.0, 6.0)
        self.plans: dict[str, Plan] = {}
        self.kinds: dict[Any, Kind] = {}
        self.held: list[tuple[Client, Task]] = []
        self.lent: list[tuple[Client, Task]] = []
        self.names: list[str] = []  # published
        self.unpublished: set[str] = set()
        self.may_lose = False  # a worker was lost, or somebody was without the center for a while
        self.may_repeat = False  # something happened for which tasks may run again
        self.quiet_s = 0.0  # when all that went wrong will be over
        self.workers: dict[str, WorkerActor] = {}
        self.incarnations = self.checked = self.published = 0
        self.gone: list[Client] = []  # clients that ended without a word
        self.acts = self.plan()
        self.world.bandwidth = self.dice.choice((1e9, 1e9, 1e8, 2e7))
        self.world.slow_links = self.dice.choice((0.0, 0.0, 0.0, 0.2, 0.6))
        self.center = CenterActor(self.world, self.settings, self.is_thorough)
        for _ in range(n_workers):
            self.start_worker()
        self.clients = [Client(self.world, self.settings, name, self.is_thorough) for name in CLIENTS]

    def is_thorough(self) -> bool:
        is_small = self.n_tasks <= THOROUGH_TASKS_MAX and self.n_workers <= THOROUGH_WORKERS_MAX
        return is_small or self.world.steps % SAMPLED_EVERY == 0

    # ---------------------------------------------------------------------------------------------------- the course

    def play(self) -> None:
        """Users and faults, then no more faults, then everything is read, then everything is released."""
        for number, (time_s, action) in enumerate(self.acts):
            if self.only is None or number in self.only:
                self.world.at(time_s, self.act, number, action)
        self.world.run(self.horizon_s)
        while self.world.now < self.quiet_s + 5.0:
            self.world.run(max(self.quiet_s, self.horizon_s) + 5.0)
        self.heal()
        self.world.run(max(client.isolated_until_s for client in self.clients) + 5.0)
        if self.gone:
            self.world.run(self.world.now + self.settings.closed_client_lease_s + 5.0)
        self.wait_for(lambda: all(self.is_settled(client) for client in self.clients), "tasks without an outcome")
        self.read_everything()
        self.compare_center()
        self.find_published()
        self.find_repeated()
        self.release_everything()
        self.find_leftovers()
        self.say_goodbye()

    def plan(self) -> list[tuple[float, Callable[[Story], None]]]:
        """What will be done, and when."""
        acts: list[tuple[float, Callable[[Story], None]]] = []
        for _ in range(BATCHES):
            acts.append((self.moment(), self.dice.choice(self.WORK)))
            acts += [(self.moment(), self.dice.choice(self.ACTIONS)) for _ in range(3)]
        acts += [(self.moment(), self.dice.choice(self.FAULTS)) for _ in range(self.dice.randrange(10))]
        return acts + self.plan_departures() + self.plan_more() + self.plan_second_thoughts() + self.plan_groups()

    def plan_departures(self) -> list[tuple[float, Callable[..., None]]]:
        """In some stories workers are asked to leave, at any time; with dice of their own, so that the others stay."""
        dice = random.Random(f"{self.seed} departures")
        count = dice.choice((0, 0, 1, 3))
        return [(dice.uniform(self.world.now + 0.2, self.horizon_s), Faults.drain_worker) for _ in range(count)]

    def plan_more(self) -> list[tuple[float, Callable[..., None]]]:
        """Large stories have room for every kind of fault, and for more of each."""
        if self.n_tasks <= THOROUGH_TASKS_MAX:
            return []
        more = [self.dice.choice(self.FAULTS) for _ in range(self.n_tasks // TASKS_A_FAULT)]
        return [(self.moment(), fault) for fault in (*dict.fromkeys(self.FAULTS), Faults.drain_worker, *more)]

    def plan_second_thoughts(self) -> list[tuple[float, Callable[..., None]]]:
        """With dice of their own, too."""
        dice = random.Random(f"{self.seed} second thoughts")
        acts = (Story.cancel_at_work, Story.cancel_at_work, Story.publish_and_forget)
        return [
            (dice.uniform(self.world.now + 0.2, self.horizon_s), act) for act in dice.choices(acts, k=dice.randrange(5))
        ]

    def plan_groups(self) -> list[tuple[float, Callable[..., None]]]:
        """In some stories, likewise."""
        dice = random.Random(f"{self.seed} groups")
        count = dice.choice((0, 0, 0, 1, 4))
        acts = dice.choices((Story.group, Story.compete), k=count)
        return [(dice.uniform(self.world.now + 0.2, self.horizon_s), act) for act in acts]

    def moment(self) -> float:
        return self.dice.uniform(self.world.now + 0.2, self.horizon_s)

    def act(self, number: int, action: Callable[[Story], None]) -> None:
        self.dice = random.Random(f"{self.seed} act {number}")
        self.world.note("story", f"act {number}: {action.__name__.replace('_', ' ')}")
        action(self)

    def quiet_at(self, time_s: float) -> None:
        """What goes wrong now is over by then."""
        self.quiet_s = max(self.quiet_s, time_s)

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
        if client.state.unfinished or client.unanswered or client.asking or client.putting:
            return False
        return all(task.status in (DONE, FAILED) or count <= 0 for task, count in client.handles.items())

    def heal(self) -> None:
        """From here on nothing goes wrong by itself."""
        self.world.is_faulty = False
        if all(worker.state.departure or not worker.is_alive for worker in self.workers.values()):
            self.start_worker()
        self.world.note("story", "no more faults")
