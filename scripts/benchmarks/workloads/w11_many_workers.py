"""Trivial tasks a second on 64 workers of one machine, and as a part of the rate on two"""

from benchmarks.workloads import Figure, rates, scaled

FIGURES = {
    "rate": Figure("tasks/s", higher_is_better=True),
    "of two workers": Figure("of the rate", higher_is_better=True),
}
WORKERS = 64


def run(open_system, scale, seed):
    measured = {}
    for workers in (2, scaled(WORKERS, scale, least=4)):
        with open_system(workers, apart=True, tiny=True) as system:
            measured[workers] = rates.measure(system.map_each, scale)["rate"]
    few, many = measured.values()
    return {"rate": many, "of two workers": many / few}
