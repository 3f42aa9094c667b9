"""Plays stories, and tells what happened in one that went wrong. This is what `scripts/simulate` runs."""

from __future__ import annotations

import argparse
import collections
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from tests.simulation.story import SAMPLED_EVERY, THOROUGH_TASKS_MAX, THOROUGH_WORKERS_MAX, Story

EPILOG = f"""After every step each mind checks its own rules, and each pool's counts, queues and windows are compared
with what its user did; when all is quiet, everything is compared with everything. In stories of more than
{THOROUGH_TASKS_MAX} tasks or {THOROUGH_WORKERS_MAX} workers the checks that look at all tasks, keys or workers of a
pool or of the center come every {SAMPLED_EVERY} steps only. What a reader sees is checked in all of them."""
CALLS_A_STEP_MAX = 10_000_000  # and returns
TRIES_MAX = 300  # stories played to make a failing one short


def tell(story: Story) -> str:
    """Play a story; nothing to say if all went well, else the last things that happened and what was wrong."""
    try:
        story.play()
    except Exception:  # noqa: BLE001  whatever breaks is the news
        return f"{story.world.story()}\n\n{traceback.format_exc()}\nseed {story.seed}; again with: {again(story)}"
    return ""


def again(story: Story) -> str:
    """The command that plays this story."""
    command = f"scripts/simulate --workers {story.n_workers} --tasks {story.n_tasks} --seeds {story.seed}"
    if story.only is None:
        return command
    return f"{command} --only {','.join(map(str, sorted(story.only)))}"


def verdict(story: Story) -> str:
    """Play a story; what was found wrong, in one line, or nothing."""
    try:
        story.play()
    except Exception as error:  # noqa: BLE001
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = str(error).partition("\n")[0] or place.line
        return f"{Path(place.filename).stem}.{place.name}: {type(error).__name__}: {said:.100}"
    return ""


def watched(story: Story) -> str:
    """The same; a step that makes calls without end is found wrong, too. Takes a few times as long."""
    step, calls = -1, 0

    def count(frame: FrameType, event: str, _: Any) -> None:
        nonlocal step, calls
        if step != story.world.steps:
            step, calls = story.world.steps, 0
        calls += 1
        assert calls < CALLS_A_STEP_MAX, "a step without end: a mind runs in circles"

    sys.setprofile(count)
    try:
        return verdict(story)
    finally:
        sys.setprofile(None)


def rule(said: str) -> str:
    """The rule that a verdict is about: where it was found out, and as what."""
    return ":".join(said.split(":")[:2])


def shrink(story: Story) -> Story:
    """A shorter story that breaks the same rule, not played yet: fewer acts and faults, workers, tasks.

    Greedy: whatever can be left out is, larger parts first, until nothing can or patience ends.
    """
    wanted, tries = rule(verdict(remade(story))), iter(range(TRIES_MAX))

    def fails(**changes: Any) -> bool:
        return next(tries, None) is not None and rule(verdict(remade(story, **changes))) == wanted

    story = _with_few_acts(story, fails)
    for count in range(1, story.n_workers):
        if fails(n_workers=count):
            story = remade(story, n_workers=count)
            break
    while story.n_tasks > 1 and fails(n_tasks=story.n_tasks // 2):
        story = remade(story, n_tasks=story.n_tasks // 2)
    return _with_few_acts(story, fails)


def _with_few_acts(story: Story, fails: Callable[..., bool]) -> Story:
    acts = sorted(range(len(story.acts)) if story.only is None else story.only)
    size = max(1, len(acts) // 2)
    while size:
        start = 0
        while start < len(acts):
            fewer = acts[:start] + acts[start + size :]
            if fails(n_workers=story.n_workers, n_tasks=story.n_tasks, only=frozenset(fewer)):
                acts = fewer
            else:
                start += size
        size //= 2
    return remade(story, only=frozenset(acts))


def remade(story: Story, **changes: Any) -> Story:
    """The same story, from its beginning, but for these changes."""
    given: dict[str, Any] = {"n_workers": story.n_workers, "n_tasks": story.n_tasks, "only": story.only, **changes}
    return Story(story.seed, **given)


def wrong(story: Story, is_shrunk: bool) -> str:
    """All that is to be told of a story that goes wrong, for people."""
    said = tell(story)
    if not said or not is_shrunk:
        return said
    shorter = shrink(remade(story))
    length = f"{len(shorter.only or ())} acts of {len(story.acts)}, {shorter.n_workers} workers"
    return f"{said}\n\n======== the same in short: {length}\n\n{tell(shorter)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    parser.epilog = EPILOG
    parser.add_argument("--workers", type=int, default=3, help="how many there are at first (default %(default)s)")
    parser.add_argument("--tasks", type=int, default=80, help="about how many in each story (default %(default)s)")
    parser.add_argument(
        "--seeds", "--seed", default="0:100", metavar="A:B", help="from A up to B, without B (default %(default)s)"
    )
    parser.add_argument("--only", metavar="N,N", help="only these acts of the story, as a shrunk one says")
    parser.add_argument(
        "--keep-going", action="store_true", help="tell of every story that goes wrong, not of the first"
    )
    parser.add_argument("--no-shrink", action="store_true", help="do not look for a shorter story that goes wrong, too")
    parser.add_argument("--verdicts", action="store_true", help="a line for each story: its seed, and what was wrong")
    parser.add_argument("--count-calls", action="store_true", help="with --verdicts: find steps without end")
    parser.add_argument(
        "--mutants", action="store_true", help="play with deliberate bugs instead: see --mutants --help"
    )
    options = parser.parse_args()
    first, _, end = options.seeds.partition(":")
    only = frozenset(map(int, filter(None, options.only.split(",")))) if options.only is not None else None
    began_s, tasks, steps, failed = time.perf_counter(), 0, 0, 0
    faults: collections.Counter[str] = collections.Counter()
    for seed in range(int(first), int(end) if end else int(first) + 1):
        story = Story(seed, options.workers, options.tasks, only)
        if options.verdicts:
            print(seed, end="\t", flush=True)
            said = watched(story) if options.count_calls else verdict(story)
        else:
            said = wrong(story, not options.no_shrink)
        tasks, steps = tasks + len(story.plans), steps + story.world.steps
        faults += story.world.faults
        if said or options.verdicts:
            print(said, flush=True)
        if said:
            failed += 1
            if not options.keep_going:
                break
    if not options.verdicts:
        took_s = time.perf_counter() - began_s
        print(f"{tasks:,} tasks, {steps:,} steps, {tasks / took_s:,.0f} tasks/s; {failed} stories went wrong")
        told = ", ".join(f"{kind} {count:,}" for kind, count in sorted(faults.items()))
        print(f"{faults.total():,} faults: {told or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    if "--mutants" in sys.argv:
        from tests.simulation import mutants

        sys.argv.remove("--mutants")
        sys.exit(mutants.main())
    sys.exit(main())
