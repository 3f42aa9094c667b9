"""Workers that leave, in stories in which nothing else goes wrong: then nothing is lost, and nothing computed again."""

from __future__ import annotations

import pytest

from distributed.pool.tasks import DONE
from tests.simulation.story import Story
from tests.simulation.tell import tell

SEEDS = 60
SEEDS_A_TEST = 10


class Departures(Story):
    """Workers come and leave; whatever a pool computes again because it lost it is noted."""

    missed: list[str]

    def drain_one_of_several(self) -> None:
        """Somebody stays, with room for everything."""
        if sum(worker.is_alive and not worker.state.departure for worker in self.workers.values()) > 1:
            self.drain_worker()

    FAULTS = (Story.start_worker, drain_one_of_several, drain_one_of_several, drain_one_of_several)

    def find_repeated(self):
        """Not asked: an executor that crashes takes along what it had not told yet, and that is run again."""

    def plan_departures(self):
        return []  # they are among the faults

    def play(self) -> None:
        self.missed = []
        for client in self.clients:
            client.state._revive = self.watch(client)  # type: ignore[method-assign]
        super().play()
        if self.may_be_full:
            return  # nobody may have had room
        assert not self.missed, f"{self.missed} were lost, though all workers left in an orderly way"
        assert not self.may_lose, "a worker left something behind"

    def watch(self, client):
        revive = client.state._revive

        def watched(task):
            is_lost = task.status == DONE and not task.borrowed and task.outcome is None
            if is_lost and task.key not in client.heard_late:
                self.missed.append(f"{task.key}@{task.attempt}")
            return revive(task)

        return watched


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_nothing_is_lost_and_nothing_computed_again_because_workers_leave(first):
    handed_over = 0
    for seed in range(first, first + SEEDS_A_TEST):
        story = Departures(seed)
        assert tell(story) == "", f"seed {seed}"
        departures = [worker.state.departure for worker in story.workers.values() if worker.state.departure]
        handed_over += sum(departure.handed_count for departure in departures)
    assert handed_over > SEEDS_A_TEST
