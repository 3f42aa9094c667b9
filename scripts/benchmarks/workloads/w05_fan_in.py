"""10,000 independent trivial tasks, and one that takes all their results"""

import time

from benchmarks.tasks import increment
from benchmarks.workloads import Figure, require_equal, scaled

FIGURES = {"time": Figure("s")}
TASKS = 10_000


def run(open_system, scale, seed):
    with open_system(tiny=True) as system:
        fan_in(system, 100)
        return {"time": fan_in(system, scaled(TASKS, scale, least=100))}


def fan_in(system, count):
    began_s = time.perf_counter()
    found = system.value(system.start_one(sum, system.start(increment, range(count))))
    elapsed_s = time.perf_counter() - began_s
    require_equal(found, count * (count + 1) // 2, "the sum")
    return elapsed_s
