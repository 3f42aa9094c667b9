"""Submit one no-op and wait for it, 2,000 times: the middle and the 99th percentile

The no-op takes a number and gives it back, so that the result can be checked.
"""

from benchmarks.tasks import same
from benchmarks.workloads import Figure, scaled

FIGURES = {"p50": Figure("µs"), "p99": Figure("µs")}
CALLS, WARM_UP = 2_000, 100


def run(open_system, scale, seed):
    with open_system() as system:
        system.round_trips(same, WARM_UP)
        seconds = sorted(system.round_trips(same, scaled(CALLS, scale, least=WARM_UP)))
    return {"p50": percentile(seconds, 50) * 1e6, "p99": percentile(seconds, 99) * 1e6}


def percentile(ordered, percent):
    """The value below which this part of them lies.

    >>> percentile([10, 20, 30, 40], 50)
    30
    """
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
