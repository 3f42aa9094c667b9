"""A blocked matrix product A @ B: blocks are made on the workers, multiplied where they are, and added up in trees."""

import argparse
import time

import numpy as np

from distributed import Cluster, Pool, progress


def make_block(seed, side):
    return np.random.default_rng(seed).random((side, side))


def make_matrix(pool, options, first_seed):
    """Rows of blocks, as handles; each block is made on a worker and stays there."""
    n = options.blocks
    seeds = range(first_seed, first_seed + n * n)
    blocks = pool.map(make_block, seeds, [options.side] * n * n)
    return [blocks[n * i : n * i + n] for i in range(n)]


def add_up(pool, values):
    """The sum of many values as a tree of additions: each level halves their number."""
    while len(values) > 1:
        sums = pool.map(np.add, values[0::2], values[1::2])
        values = sums + values[2 * len(sums) :]
    return values[0]


def product(pool, a, b):
    """The blocks of A @ B, as handles: nothing is computed here, and no block comes here."""
    n = range(len(a))
    return [[add_up(pool, pool.map(np.matmul, a[i], [b[k][j] for k in n])) for j in n] for i in n]


def is_product(pool, a, b, c):
    """Whether C is A @ B, checked by its total: the sum of C is (column sums of A) times (row sums of B)."""
    n = range(len(a))
    columns = [add_up(pool, pool.map(lambda block: block.sum(axis=0), [a[i][k] for i in n])) for k in n]
    rows = [add_up(pool, pool.map(lambda block: block.sum(axis=1), b[k])) for k in n]
    total = add_up(pool, pool.map(np.sum, [block for row in c for block in row]))
    return np.isclose(total.get(), sum(pool.gather(pool.map(np.dot, columns, rows))))


def parse_arguments():
    parser = argparse.ArgumentParser(prog="scripts/quickstart", description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="workers to start (default %(default)s)")
    parser.add_argument("--blocks", type=int, default=6, help="blocks in a row of each matrix (default %(default)s)")
    parser.add_argument("--side", type=int, default=512, help="rows and columns of a block (default %(default)s)")
    return parser.parse_args()


def main():
    options = parse_arguments()
    size = options.blocks * options.side
    print(f"A @ B with {size} x {size} numbers each, in {options.blocks**2} blocks, on {options.workers} workers")
    with Cluster(n_workers=options.workers) as cluster, Pool(cluster) as pool:
        began_s = time.perf_counter()
        a = make_matrix(pool, options, first_seed=0)
        b = make_matrix(pool, options, first_seed=options.blocks**2)
        c = product(pool, a, b)
        for _ in progress([block for row in c for block in row], unit="block"):
            pass
        elapsed_s = time.perf_counter() - began_s
        counters = dict(pool.counters)
        right = is_product(pool, a, b, c)
    total_bytes = counters["bytes_in_place"] + counters["bytes_moved"]
    print(f"  tasks                  {counters['tasks']:>10,}")
    print(f"  seconds                {elapsed_s:>10.2f}")
    print(f"  input bytes in place   {counters['bytes_in_place'] / 1e6:>10,.1f} MB of {total_bytes / 1e6:,.1f} MB")
    print(f"  input bytes moved      {counters['bytes_moved'] / 1e6:>10,.1f} MB")
    print(f"  the product is         {'right' if right else 'WRONG':>10}")
    raise SystemExit(0 if right else 1)


if __name__ == "__main__":
    main()
