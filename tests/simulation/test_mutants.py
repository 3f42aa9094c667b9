"""The simulator can fail: deliberate bugs are noticed, and a failing story is made short enough to be read."""

from __future__ import annotations

import concurrent.futures
import os

import pytest

from tests.simulation.mutants import MUTANTS, ROOT, SEEDS, try_mutant
from tests.simulation.story import Story
from tests.simulation.tell import rule, shrink, tell, verdict, watched, wrong


def test_every_deliberate_bug_can_still_be_put_into_its_module():
    for mutant in MUTANTS:
        source = (ROOT / mutant.module).read_text()
        assert mutant.mutate(source) != source
        compile(mutant.mutate(source), mutant.module, "exec")


def test_a_bug_whose_text_is_gone_is_an_error():
    with pytest.raises(LookupError, match="0 times, not once"):
        MUTANTS[0].mutate("a module that was written anew")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)  # where a story has changed, others are looked through for the bug
def test_every_deliberate_bug_is_caught_by_a_story():
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        catches = list(pool.map(catch_soon, MUTANTS))
    assert [catch.mutant.name for catch in catches if catch.seed is None] == []


def catch_soon(mutant):
    """In the story that is known to notice it, or else (stories change with the code) in the first that does."""
    catch = try_mutant(mutant, str(mutant.seed))
    return catch if catch.seed is not None else try_mutant(mutant, f"0:{SEEDS}")


def test_a_mind_that_runs_in_circles_is_noticed_by_counting_and_not_by_a_clock(monkeypatch):
    from distributed.pool.state import PoolState
    from tests.simulation import tell as teller

    assert watched(Story(0)) == ""
    monkeypatch.setattr(teller, "CALLS_A_STEP_MAX", 100_000)
    monkeypatch.setattr(PoolState, "_on_submitted", lambda state, event, now: [len("") for _ in iter(int, 1)])
    assert "runs in circles" in watched(Story(0))


@pytest.fixture
def lost_tasks(monkeypatch):
    """A bug: what a lost worker was doing is forgotten."""
    from distributed.pool.state import PoolState

    def part(self, address, reason, now):
        self._lose_data(self.membership.part(address), now)

    monkeypatch.setattr(PoolState, "_part", part)


@pytest.mark.slow
def test_a_failing_story_is_shrunk_to_one_that_breaks_the_same_rule_and_says_how_to_repeat_it(lost_tasks):
    story = next(story for story in map(Story, range(50)) if verdict(story))
    shorter = shrink(Story(story.seed))
    assert len(shorter.only) < len(shorter.acts) / 4
    said = verdict(shorter)
    assert rule(said) == rule(verdict(Story(story.seed)))
    again = Story(story.seed, shorter.n_workers, shorter.n_tasks, shorter.only)
    assert "--only" in tell(again)
    assert again.world.digest == shorter.world.digest


def test_a_story_that_goes_well_is_not_shrunk():
    assert wrong(Story(0), is_shrunk=True) == ""
