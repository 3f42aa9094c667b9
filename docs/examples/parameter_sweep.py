"""Try many parameters of a program that sometimes fails, hangs, or takes its process with it.

Every outcome is told; none stops the sweep. Results are shown as they come.

    python parameter_sweep.py
"""

from __future__ import annotations

import collections
import os
import time

from distributed import Pool, as_completed
from distributed.errors import TaskCrashed, TaskTimeout


def simulate(stiffness: int) -> float:
    """A model that was not written with all of its parameters in mind."""
    if stiffness % 10 == 7:
        raise ValueError(f"does not converge for {stiffness}")
    if stiffness % 20 == 13:
        time.sleep(3600)
    if stiffness % 20 == 19:
        os.abort()
    return stiffness**0.5


def main() -> None:
    with Pool() as pool:
        careful = pool.options(timeout=1.0, attempts=2)  # seconds a run may take; how often one that crashes is tried
        runs = {careful.submit(simulate, stiffness): stiffness for stiffness in range(40)}
        best, outcomes = (0.0, -1), collections.Counter()
        for run in as_completed(runs):
            try:
                best = max(best, (run.get(), runs[run]))
                outcomes["done"] += 1
            except TaskTimeout:
                outcomes["took too long"] += 1
            except TaskCrashed:
                outcomes["crashed"] += 1
            except ValueError:
                outcomes["failed"] += 1
    print(", ".join(f"{number} {what}" for what, number in sorted(outcomes.items())))
    print(f"best {best[0]:.3f} at {best[1]}")
    assert outcomes == {"done": 32, "failed": 4, "took too long": 2, "crashed": 2}


if __name__ == "__main__":
    main()
