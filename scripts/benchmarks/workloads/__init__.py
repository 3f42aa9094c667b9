"""What is measured: one module a workload.

A workload has a docstring whose first line says what it measures, `FIGURES` (a `Figure` for each value it yields, the
first of which is what systems are compared by), and ``run(open_system, scale, seed)``, which opens a system, measures,
checks that every result is right, and returns the values by name. `scale` makes it smaller for a quick look. It may
also have `SYSTEMS`, the only ones it makes sense for, and `HAS_BOUND`: then it is run without a system too, and says
what the hardware allows.
"""

import dataclasses
import importlib


@dataclasses.dataclass(frozen=True)
class Figure:
    unit: str
    higher_is_better: bool = False


class WrongResult(Exception):
    """A system gave a wrong value: its figure is worth nothing."""


WORKLOADS = {
    "W1": "w01_tiny_map",
    "W1s": "w01_tiny_submit",
    "W2": "w02_map_in_chunks",
    "W3": "w03_round_trip",
    "W4": "w04_arrays",
    "W4n": "w04_between_machines",
    "W4t": "w04_encrypted",
    "W5": "w05_fan_in",
    "W6": "w06_tree",
    "W7": "w07_blocks",
    "W8": "w08_start",
    "W9": "w09_pending",
    "W10": "w10_uneven",
    "W11": "w11_many_workers",
    "W11c": "w11_center",
    "W12": "w12_many_clients",
    "locality": "locality",
}
"""By the name that the command line knows."""

ALIASES = {"tasks": "W1", "start": "W8"}


def load(name):
    return importlib.import_module(f"benchmarks.workloads.{WORKLOADS[name]}")


def purpose(name):
    """What a workload measures, in one line."""
    return load(name).__doc__.splitlines()[0]


def require_equal(found, expected, what):
    """Raise `WrongResult` unless they are equal."""
    if found != expected:
        raise WrongResult(f"{what}: {found!s:.80} instead of {expected!s:.80}")


def scaled(count, scale, least=1):
    """A size made smaller for a quick look.

    >>> scaled(2000, 0.01, least=50)
    50
    """
    return max(least, round(count * scale))
