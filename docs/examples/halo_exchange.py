"""Heat spreads over a plate: a group shares it out in strips, and exchanges their edges after each step.

python halo_exchange.py [SIZE [STEPS [MEMBERS]]]

Each member keeps some rows of the plate, and above and below them a copy of its neighbours' next row, the halo. A step
needs no more than that. Now and then all members agree on how much has changed, and stop when that is little.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from distributed import Pool

LOOK_EVERY = 50  # steps


def step(plate: np.ndarray) -> None:
    """One step in place: every inner point becomes the mean of its four neighbours."""
    plate[1:-1, 1:-1] = (plate[:-2, 1:-1] + plate[2:, 1:-1] + plate[1:-1, :-2] + plate[1:-1, 2:]) / 4


def plate_of(size: int) -> np.ndarray:
    """A cold plate with a hot upper edge."""
    plate = np.zeros((size, size))
    plate[0] = 100.0
    return plate


def exchange_halos(comm: Any, strip: np.ndarray) -> None:
    """Give the outermost own rows to the neighbours, and take theirs. Rows are sent before any is awaited."""
    above, below = comm.rank - 1, comm.rank + 1
    if above >= 0:
        comm.send(strip[1], above)
    if below < comm.size:
        comm.send(strip[-2], below)
    if above >= 0:
        strip[0] = comm.recv(above)
    if below < comm.size:
        strip[-1] = comm.recv(below)


def spread_heat(comm: Any, size: int, steps: int, little: float) -> tuple[np.ndarray, int]:
    """What each member does; its own rows when the heat has spread, and after how many steps that was."""
    bounds = np.linspace(1, size - 1, comm.size + 1).astype(int)  # the edges of the plate stay as they are
    strip = plate_of(size)[bounds[comm.rank] - 1 : bounds[comm.rank + 1] + 1].copy()
    for done in range(1, steps + 1):
        before = strip[1:-1].copy()
        step(strip)
        exchange_halos(comm, strip)
        if done % LOOK_EVERY == 0:
            changed = comm.allreduce(float(np.abs(strip[1:-1] - before).max()), op=max)
            if changed < little:
                break
    return strip[1:-1], done


def main(size: int, steps: int, members: int) -> None:
    with Pool(members) as pool:
        parts = pool.gather(pool.group(spread_heat, members, size, steps, little=0.001))
    done = parts[0][1]
    plate = plate_of(size)
    plate[1:-1] = np.vstack([rows for rows, _ in parts])

    alone = plate_of(size)  # small enough to do it here again
    for _ in range(done):
        step(alone)
    print(f"{members} members took {done} steps; the middle is at {plate[size // 2, size // 2]:.3f} degrees")
    assert np.allclose(plate, alone)


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    main(*(numbers + [40, 1500, 3][len(numbers) :]))
