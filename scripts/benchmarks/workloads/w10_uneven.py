"""400 tasks of very uneven durations: how much longer than the best possible schedule

Most take 2 to 6 ms, every twentieth 40 to 80 ms, drawn by a seed, in no order. They sleep, so that the schedule is all
that is measured. The best possible is half of their sum.
"""

import random
import time

from benchmarks.tasks import sleep
from benchmarks.workloads import Figure, require_equal, scaled

FIGURES = {"excess": Figure("% over the best")}
TASKS = 400


def run(open_system, scale, seed):
    seconds = durations(scaled(TASKS, scale, least=100), seed)
    with open_system() as system:
        system.map_each(sleep, [0.002] * 20)
        began_s = time.perf_counter()
        values = system.map_each(sleep, seconds)
        elapsed_s = time.perf_counter() - began_s
        require_equal(values, seconds, "the values")
        best_s = max(sum(seconds) / system.workers, *seconds)
    return {"excess": (elapsed_s / best_s - 1) * 100}


def durations(count, seed):
    lots = random.Random(seed)
    return [lots.uniform(0.040, 0.080) if number % 20 == 7 else lots.uniform(0.002, 0.006) for number in range(count)]
