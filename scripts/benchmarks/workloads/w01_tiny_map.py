"""Trivial tasks a second, each schedulable on its own, by the system's bulk call

From the first submission until every value is at the client. Beside the rate, the processor time that a task costs.
"""

from benchmarks.workloads import Figure, rates

FIGURES = {
    "rate": Figure("tasks/s", higher_is_better=True),
    "client": Figure("µs/task"),
    "others": Figure("µs/task"),
    "tasks": Figure("tasks"),
}


def run(open_system, scale, seed):
    with open_system(tiny=True) as system:
        return rates.measure(system.map_each, scale)
