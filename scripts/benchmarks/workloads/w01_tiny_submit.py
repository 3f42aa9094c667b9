"""Trivial tasks a second, through one `submit` each"""

from benchmarks.workloads import rates, w01_tiny_map

FIGURES = w01_tiny_map.FIGURES


def run(open_system, scale, seed):
    with open_system(tiny=True) as system:
        return rates.measure(lambda function, items: system.values(system.submit_each(function, items)), scale)
