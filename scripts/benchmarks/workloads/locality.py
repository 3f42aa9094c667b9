"""Bytes that had to move, beside the least possible and beside a placement that ignores where data is

Two workers with one executor each. Blocks are made on them, fresh and random; y = f(x) for each block; then
z = y_i + y_(i+1) for each pair of neighbours. Every consumer reads every byte. The least possible is counted from where
the blocks are; the placement that ignores location is run too: each task is pinned to a worker drawn by lot. Only this
product tells which bytes it moved.
"""

import random
import time

from benchmarks import blocks
from benchmarks.systems import OURS
from benchmarks.workloads import Figure, scaled

FIGURES = {
    "z moved": Figure("MiB"),
    "z least": Figure("MiB"),
    "z by lot": Figure("MiB"),
    "y moved": Figure("MiB"),
    "y by lot": Figure("MiB"),
    "y time": Figure("s"),
    "z time": Figure("s"),
    "y by lot time": Figure("s"),
    "z by lot time": Figure("s"),
}
SYSTEMS = [OURS]
BLOCKS, NBYTES = 32, 16 << 20
MIB = 1 << 20


def run(open_system, scale, seed):
    nbytes = scaled(NBYTES >> 3, scale, least=1 << 14) << 3
    lots = random.Random(seed)
    with open_system(apart=True) as system:
        pool = system.pool

        def by_lot(function, *columns):
            rows = zip(*columns, strict=True)
            return [pool.options(workers=lots.choice(pool.workers)).submit(function, *row) for row in rows]

        both_steps(system, system.start, nbytes)  # memory that was not used lately is slow at first
        y_moved, y_s, z_moved, z_s, least = both_steps(system, system.start, nbytes)
        y_by_lot, y_by_lot_s, z_by_lot, z_by_lot_s, _ = both_steps(system, by_lot, nbytes)
    return {
        "z moved": z_moved / MIB,
        "z least": least / MIB,
        "z by lot": z_by_lot / MIB,
        "y moved": y_moved / MIB,
        "y by lot": y_by_lot / MIB,
        "y time": y_s,
        "z time": z_s,
        "y by lot time": y_by_lot_s,
        "z by lot time": z_by_lot_s,
    }


def both_steps(system, start, nbytes):
    """(bytes moved for y, seconds, bytes moved for z, seconds, least possible for z), on fresh blocks."""
    x = system.start(blocks.make, range(BLOCKS), [nbytes] * BLOCKS)
    system.wait(x)
    y, y_moved, y_s = measured(system, start, blocks.transform, x)
    who_has = system.pool.who_has(y)
    least = least_for_pairs([set(who_has[handle.key]) for handle in y]) * nbytes
    _, z_moved, z_s = measured(system, start, blocks.add, y[:-1], y[1:])
    return y_moved, y_s, z_moved, z_s, least


def measured(system, start, function, *columns):
    """(handles of the results, bytes moved, seconds) of one step."""
    moved_before, began_s = system.pool.counters["bytes_moved"], time.perf_counter()
    handles = start(function, *columns)
    system.wait(handles)
    elapsed_s = time.perf_counter() - began_s
    return handles, system.pool.counters["bytes_moved"] - moved_before, elapsed_s


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
