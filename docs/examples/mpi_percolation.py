"""Site percolation: from which density on does a random grid let water through? The same program, with or without MPI.

mpiexec -n 4 python -m distributed.mpi mpi_percolation.py [SIZE [GRIDS]]        ranks 1 to 3 compute
python mpi_percolation.py [SIZE [GRIDS]]                                        local processes compute
"""

from __future__ import annotations

import random
import sys
from statistics import mean

from distributed import Pool

DENSITIES = [0.50, 0.55, 0.59, 0.63, 0.70]


def percolates(seed: int, density: float, size: int) -> bool:
    """Whether open sites of one random grid connect its top row with its bottom row."""
    rng = random.Random(seed)
    is_open = [[rng.random() < density for _ in range(size)] for _ in range(size)]
    wet = [(0, column) for column in range(size) if is_open[0][column]]
    seen = set(wet)
    while wet:
        row, column = wet.pop()
        if row == size - 1:
            return True
        for site in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if 0 <= site[0] < size and 0 <= site[1] < size and is_open[site[0]][site[1]] and site not in seen:
                seen.add(site)
                wet.append(site)
    return False


def main(size: int, grids: int) -> None:
    with Pool() as pool:  # of the MPI job's ranks, or else one executor per core
        print(f"{sum(pool.ncores().values())} executors on {len(pool.workers)} workers")
        outcomes = {
            density: pool.map(percolates, range(grids), [density] * grids, [size] * grids) for density in DENSITIES
        }
        for density, handles in outcomes.items():
            part = mean(pool.gather(handles))
            print(f"density {density:.2f}: {part:4.0%} of {grids} grids let water through  {'#' * round(40 * part)}")


if __name__ == "__main__":
    sizes = [int(argument) for argument in sys.argv[1:]]
    main(*(sizes + [64, 40][len(sizes) :]))
