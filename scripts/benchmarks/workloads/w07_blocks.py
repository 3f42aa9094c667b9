"""32 blocks of 16 MiB made on two workers; y = f(x) for each; z = y_i + y_(i+1) for each pair of neighbours

The blocks are there before the time begins. Fresh random content each time; every task reads every byte. `bound` is
what two processes of plain numpy need for the same, each on its half, with nothing sent.
"""

import itertools
import multiprocessing
import time

from benchmarks import blocks, machine
from benchmarks.workloads import Figure, require_equal, scaled

FIGURES = {"time": Figure("s")}
HAS_BOUND = True
BLOCKS, NBYTES = 32, 16 << 20
HEATED = 4  # times all blocks: those of x, y and z, and what is under way


def run(open_system, scale, seed):
    nbytes = scaled(NBYTES >> 3, scale, least=1 << 10) << 3
    seeds = range(seed * 1000, seed * 1000 + BLOCKS)
    if open_system is None:
        return {"time": bound(seeds, nbytes)}
    with open_system(apart=True) as system:
        blockwise(system, range(4), nbytes)
        machine.heat(HEATED * BLOCKS * nbytes)
        elapsed_s, sums = blockwise(system, seeds, nbytes)
    require_equal(sums, expected_sums(seeds, nbytes), "the sums of z")
    return {"time": elapsed_s}


def blockwise(system, seeds, nbytes):
    """Seconds, and the sum of each block of z."""
    x = system.start(blocks.make, seeds, [nbytes] * len(seeds))
    system.wait(x)
    began_s = time.perf_counter()
    y = system.start(blocks.transform, x)
    z = system.start(blocks.add, y[:-1], y[1:])
    system.wait(z)
    elapsed_s = time.perf_counter() - began_s
    return elapsed_s, system.values(system.start(blocks.checksum, z))


def expected_sums(seeds, nbytes):
    y = [blocks.transform(blocks.make(seed, nbytes)) for seed in seeds]
    return [blocks.checksum(left + right) for left, right in itertools.pairwise(y)]


def bound(seeds, nbytes):
    """Seconds of two processes that need nothing of each other."""
    machine.heat(HEATED * BLOCKS * nbytes)
    halves = [seeds[: len(seeds) // 2 + 1], seeds[len(seeds) // 2 :]]
    ready, seconds = multiprocessing.Barrier(2), multiprocessing.SimpleQueue()
    pair = [multiprocessing.Process(target=half_of_it, args=(half, nbytes, ready, seconds)) for half in halves]
    for process in pair:
        process.start()
    slowest_s = max(seconds.get() for _ in pair)
    for process in pair:
        process.join()
    return slowest_s


def half_of_it(seeds, nbytes, ready, seconds):
    x = [blocks.make(seed, nbytes) for seed in seeds]
    for _ in range(2):  # the first one only warms up
        ready.wait()
        began_s = time.perf_counter()
        y = [blocks.transform(block) for block in x]
        z = [blocks.add(left, right) for left, right in itertools.pairwise(y)]
        ready.wait()
        elapsed_s = time.perf_counter() - began_s
        assert len(z) == len(seeds) - 1
        del y, z
    seconds.put(elapsed_s)
