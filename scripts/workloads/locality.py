"""Bytes that had to move, beside the least possible and beside a placement that ignores where data is.

Two workers with one executor each. Blocks are made on them, fresh and random; y = f(x) for each block; then
z = y_i + y_(i+1) for each pair of neighbours. Every consumer reads every byte. The least possible is counted from where
the blocks are; the placement that ignores location is run too: each task is pinned to a worker drawn by lot.
"""

import os
import random
import time

import numpy as np

from distributed import Cluster, Pool

MIB = 1 << 20


def add_arguments(parser):
    parser.add_argument("--blocks", type=int, default=32, help="how many (default %(default)s)")
    parser.add_argument("--mebibytes", type=int, default=16, help="size of one block (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the lots (default %(default)s)")


def make_block(nbytes):
    return np.frombuffer(os.urandom(nbytes), dtype=np.uint8)


def consume(block):
    """Reads every byte, and makes a block of the same size."""
    assert block.sum() > 0
    return block ^ 1


def add(left, right):
    assert left.sum() > 0
    assert right.sum() > 0
    return left + right


def run(options):
    lots = random.Random(options.seed)
    with Cluster(n_workers=2, ncores=1) as cluster, Pool(cluster) as pool:

        def by_lot(function, *columns):
            rows = zip(*columns, strict=True)
            return [pool.options(workers=lots.choice(cluster.workers)).submit(function, *row) for row in rows]

        list(steps(pool, pool.map, options))  # memory that was not used lately is slow at first
        yield from steps(pool, pool.map, options)
        for what, value, unit in steps(pool, by_lot, options):
            if "least" not in what:
                yield f"location ignored, {what}", value, unit


def steps(pool, start, options):
    """Both steps, on fresh blocks, their tasks started in this way."""
    x = pool.map(make_block, [options.mebibytes << 20] * options.blocks)
    wait_for(x)

    y, moved_bytes, elapsed_s = measured(pool, start, consume, x)
    yield "y = f(x): moved", moved_bytes / MIB, "MiB"
    yield "y = f(x): least possible", 0, "MiB"
    yield "y = f(x): seconds", elapsed_s, "s"

    who_has = pool.who_has(y)
    moves = least_for_pairs([set(who_has[handle.key]) for handle in y])
    _, moved_bytes, elapsed_s = measured(pool, start, add, y[:-1], y[1:])
    yield "z = y_i + y_(i+1): moved", moved_bytes / MIB, "MiB"
    yield "z = y_i + y_(i+1): least possible", moves * options.mebibytes, "MiB"
    yield "z = y_i + y_(i+1): seconds", elapsed_s, "s"


def wait_for(handles):
    """Until all of their tasks are done; the values stay where they are."""
    for handle in handles:
        handle.wait()
        assert handle.successful()


def measured(pool, start, function, *columns):
    """(handles of the results, bytes moved, seconds) of one step."""
    moved_before, began_s = pool.counters["bytes_moved"], time.perf_counter()
    handles = start(function, *columns)
    wait_for(handles)
    elapsed_s = time.perf_counter() - began_s
    return handles, pool.counters["bytes_moved"] - moved_before, elapsed_s


def least_for_pairs(holders):
    """How many blocks must move so that each meets its neighbour, given who holds each.

    A block that moved has met both of its neighbours: no need to look at the next pair.

    >>> a, b = {'alice'}, {'bob'}
    >>> least_for_pairs([a, a, b, b]), least_for_pairs([a, b, a, b])
    (1, 2)
    """
    moves, position = 0, 0
    while position + 1 < len(holders):
        if holders[position] & holders[position + 1]:
            position += 1
        else:
            moves += 1
            position += 2
    return moves
