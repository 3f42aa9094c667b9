"""Stories in which tasks ask for resources, and for single executors, while everything goes wrong as in the others."""

from __future__ import annotations

import dataclasses

import pytest

from distributed.pool.tasks import Options
from tests.simulation.story import Story
from tests.simulation.tell import tell

SEEDS = 40
SEEDS_A_TEST = 10
DEMANDS = ((("gpu", 1),), (("gpu", 2),), (("gpu", 1), ("license", 1)), (("license", 1),))


class Demanding(Story):
    """Most workers have something, and tasks ask for it."""

    def resources_of(self, number: int) -> dict[str, int]:
        return {"gpu": 1 + number % 3, "license": 1} if number % 4 else {}

    def options(self) -> Options:
        options = super().options()
        if self.dice.random() < 0.4:
            return dataclasses.replace(options, resources=self.dice.choice(DEMANDS))
        return options

    def run_on_all(self) -> None:
        """One task for each executor of each worker."""
        client = self.client()
        for address, view in sorted(client.state.placement.takers.items()):
            for seat in range(view.member.ncores):
                kind = self.kind(Options(workers=frozenset({address})), False)
                client.start([self.make(client, [], dataclasses.replace(kind, seat=seat))])

    ACTIONS = (*Story.ACTIONS, run_on_all, run_on_all)


@pytest.mark.parametrize(
    "first",
    [pytest.param(first, marks=[pytest.mark.slow] if first else []) for first in range(0, SEEDS, SEEDS_A_TEST)],
)
def test_whatever_goes_wrong_all_is_right_in_the_end_and_nothing_is_in_use(first):
    for seed in range(first, first + SEEDS_A_TEST):
        story = Demanding(seed)
        assert tell(story) == "", f"seed {seed}"
        for worker in story.workers.values():
            is_in_use = worker.is_alive and any(worker.state.dispatch.supplies.used.values())
            assert not is_in_use, f"seed {seed}: {worker.name}"
