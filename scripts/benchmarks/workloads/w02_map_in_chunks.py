"""A map over 1,000,000 small numbers, in chunks as the documentation recommends, values at the client"""

from benchmarks.workloads import Figure, rates, scaled

FIGURES = {"rate": Figure("items/s", higher_is_better=True)}
ITEMS = 1_000_000


def run(open_system, scale, seed):
    count = scaled(ITEMS, scale, least=1_000)
    with open_system() as system:
        rates.run(system.map_in_chunks, 1_000)
        return {"rate": count / rates.run(system.map_in_chunks, count)}
