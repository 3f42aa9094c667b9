"""Multiply two matrices block by block; blocks are made, multiplied and added where they are.

python blocked_matrices.py [SIZE [BLOCKS]]
"""

from __future__ import annotations

import sys

import numpy as np

from distributed import Cluster, Pool, RemoteData


def make(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).random((size, size))


def add(*blocks: np.ndarray) -> np.ndarray:
    return np.sum(blocks, axis=0)


def multiply(pool: Pool, a: list[list[RemoteData]], b: list[list[RemoteData]]) -> list[list[RemoteData]]:
    """The product of two matrices of handles, as a matrix of handles."""
    span = range(len(a))
    return [
        [pool.submit(add, *[pool.submit(np.matmul, a[row][k], b[k][column]) for k in span]) for column in span]
        for row in span
    ]


def main(size: int, blocks: int) -> None:
    with Cluster(n_workers=2, ncores=1) as cluster, Pool(cluster) as pool:
        matrix = [
            [
                [pool.submit(make, seed + row * blocks + column, size // blocks) for column in range(blocks)]
                for row in range(blocks)
            ]
            for seed in (0, 1000)
        ]
        product = multiply(pool, *matrix)
        trace = sum(pool.gather([pool.submit(np.trace, product[at][at]) for at in range(blocks)]))
        a, b = (np.block(pool.gather(part)) for part in matrix)  # small enough to check it here
        counters = pool.counters
        print(f"trace {trace:.3f}, computed here {np.trace(a @ b):.3f}")
        print(f"{counters['bytes_in_place']:,} input bytes were in place, {counters['bytes_moved']:,} moved")
        assert np.isclose(trace, np.trace(a @ b))


if __name__ == "__main__":
    sizes = [int(argument) for argument in sys.argv[1:]]
    main(*(sizes + [1024, 4][len(sizes) :]))
