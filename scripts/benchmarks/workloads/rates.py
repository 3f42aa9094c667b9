"""How the rate of tiny tasks is measured, and what they cost in processor time: shared by several workloads."""

import time

from benchmarks import machine
from benchmarks.tasks import increment
from benchmarks.workloads import require_equal, scaled

TASKS_FIRST, TASKS_MIN, TASKS_MAX, SPAN_S = 500, 1_000, 200_000, 2.0


def measure(map_each, scale=1.0, count=None):
    """Figures of `map_each(increment, numbers)` on as many numbers as take about two seconds (1,000 to 200,000).

    The first tasks, which also start what a system starts late, are not counted.
    """
    run(map_each, TASKS_FIRST)
    if count is None:
        elapsed_s = run(map_each, TASKS_FIRST)
        likely = min(TASKS_MAX, max(TASKS_MIN, TASKS_FIRST / elapsed_s * SPAN_S))
        count = scaled(likely, scale, least=TASKS_FIRST)
    pids = machine.others()
    client_s, others_s = time.process_time(), sum(map(machine.processor_s, pids))
    elapsed_s = run(map_each, count)
    client_s = time.process_time() - client_s
    others_s = sum(map(machine.processor_s, pids)) - others_s
    return {
        "rate": count / elapsed_s,
        "client": client_s / count * 1e6,
        "others": others_s / count * 1e6,
        "tasks": count,
    }


def run(map_each, count):
    """Seconds for this many tasks, every value checked."""
    numbers = range(count)
    began_s = time.perf_counter()
    values = map_each(increment, numbers)
    elapsed_s = time.perf_counter() - began_s
    require_equal(len(values), count, "the number of values")
    require_equal(list(values), list(range(1, count + 1)), "the values")
    return elapsed_s
