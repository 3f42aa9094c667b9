"""Plays stories, and tells what happened in one that went wrong. This is what `scripts/simulate` runs."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.simulation.story import Story


def tell(story: Story) -> str:
    """Play a story; nothing to say if all went well, else the last things that happened and what was wrong."""
    try:
        story.play()
    except Exception:  # noqa: BLE001  whatever breaks is the news
        again = f"scripts/simulate --workers {story.n_workers} --tasks {story.n_tasks} --seeds {story.seed}"
        return f"{story.world.story()}\n\n{traceback.format_exc()}\nseed {story.seed}; again with: {again}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    parser.add_argument("--workers", type=int, default=3, help="how many there are at first (default %(default)s)")
    parser.add_argument("--tasks", type=int, default=80, help="about how many in each story (default %(default)s)")
    parser.add_argument(
        "--seeds", default="0:100", metavar="A:B", help="from A up to B, without B (default %(default)s)"
    )
    parser.add_argument(
        "--keep-going", action="store_true", help="tell of every story that goes wrong, not of the first"
    )
    options = parser.parse_args()
    first, _, end = options.seeds.partition(":")
    began_s, tasks, steps, wrong = time.perf_counter(), 0, 0, 0
    for seed in range(int(first), int(end) if end else int(first) + 1):
        story = Story(seed, options.workers, options.tasks)
        said = tell(story)
        tasks, steps = tasks + len(story.plans), steps + story.world.steps
        if said:
            print(said, flush=True)
            wrong += 1
            if not options.keep_going:
                break
    took_s = time.perf_counter() - began_s
    print(f"{tasks} tasks, {steps} steps, {tasks / took_s:,.0f} tasks/s; {wrong} stories went wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
