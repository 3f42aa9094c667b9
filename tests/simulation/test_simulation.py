"""Random stories of users and faults, in virtual time, over the real minds of center, workers and pools."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.story import Story
from tests.simulation.tell import tell

ROOT = Path(__file__).parents[2]
SEEDS = 200
SEEDS_AT_LEAST = 60  # that are played when there is little time
SEEDS_A_TEST = 10
SEEDS_TWICE = (7, 18, 27)
LARGE_SEEDS = (0, 2, 5)  # of stories with each kind of fault, and more of them
FIRSTS = [
    pytest.param(first, marks=[pytest.mark.slow] if first >= SEEDS_AT_LEAST else [])
    for first in range(0, SEEDS, SEEDS_A_TEST)
]


@pytest.mark.parametrize("first", FIRSTS)
def test_whatever_goes_wrong_every_task_has_a_right_outcome_and_nothing_is_left(first):
    for seed in range(first, first + SEEDS_A_TEST):
        assert tell(Story(seed)) == "", f"seed {seed}"


@pytest.mark.parametrize("seed", LARGE_SEEDS)
def test_all_goes_well_among_fifty_workers_with_thousands_of_tasks_and_every_kind_of_fault(seed):
    story = Story(seed, n_workers=50, n_tasks=2000)
    assert tell(story) == ""
    assert len(story.plans) > 2000
    assert {fault for _, fault in story.acts if fault in story.FAULTS} == set(story.FAULTS)


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_same_seed_gives_the_same_trace_under_any_hash_seed(hash_seed):
    stories = [Story(seed) for seed in SEEDS_TWICE]
    for story in stories:
        story.play()
    digests = " ".join(story.world.digest for story in stories)
    program = f"""
from tests.simulation.story import Story
stories = [Story(seed) for seed in {SEEDS_TWICE}]
for story in stories:
    story.play()
print(*(story.world.digest for story in stories))
"""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.stderr) == (digests, "")


def test_a_failing_seed_says_how_to_repeat_it_and_what_happened_last():
    story = Story(0)
    story.workers["worker:1"].state.store.memory_bytes += 1  # a bug
    said = tell(story)
    assert "memory account" in said
    assert "scripts/simulate --workers 3 --tasks 80 --seeds 0" in said
    assert said.count("\n") > 10
