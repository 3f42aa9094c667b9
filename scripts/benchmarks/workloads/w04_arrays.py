"""A 256 MiB array: from the client to a task, from a task to the client, from a task to a task on another worker

Two workers of one executor each. Fresh random content each time. A sending task has the array at hand; the receiver
reads every byte of it within the time. Memory is heated before each.
"""

import time

from benchmarks import blocks, machine
from benchmarks.systems.base import Unsupported
from benchmarks.workloads import Figure, require_equal, scaled

FIGURES = {
    "to worker": Figure("GB/s", higher_is_better=True),
    "to client": Figure("GB/s", higher_is_better=True),
    "worker to worker": Figure("GB/s", higher_is_better=True),
}
NBYTES = 256 << 20
HEATED = 8  # times the array


def run(open_system, scale, seed):
    nbytes = scaled(NBYTES >> 3, scale, least=1 << 17) << 3
    with open_system(apart=True) as system:
        figures = {}
        for name, way in (("to worker", to_worker), ("to client", to_client), ("worker to worker", between)):
            try:
                way(system, nbytes, seed * 10)  # connections, imports, buffers
                machine.heat(HEATED * nbytes)
                figures[name] = nbytes / way(system, nbytes, seed * 10 + 1) / 1e9
            except Unsupported:
                figures[name] = None
        return figures


def to_worker(system, nbytes, seed):
    array = blocks.make(seed, nbytes)
    expected = blocks.checksum(array)
    began_s = time.perf_counter()
    found = system.call(blocks.checksum, array)
    elapsed_s = time.perf_counter() - began_s
    require_equal(found, expected, "the sum at the worker")
    return elapsed_s


def to_client(system, nbytes, seed):
    expected = set(system.on_each_worker(blocks.keep, seed, nbytes).values())
    began_s = time.perf_counter()
    found = blocks.checksum(system.call(blocks.give, seed))
    elapsed_s = time.perf_counter() - began_s
    require_equal({found}, expected, "the sum at the client")
    return elapsed_s


def between(system, nbytes, seed):
    if not system.keeps_values:
        raise Unsupported("values do not stay at workers")
    expected = set(system.on_each_worker(blocks.keep, seed, nbytes).values())
    began_s = time.perf_counter()
    given = system.start_at(0, blocks.give, seed)
    found = system.value(system.start_at(1, blocks.checksum, given))
    elapsed_s = time.perf_counter() - began_s
    require_equal({found}, expected, "the sum at the other worker")
    return elapsed_s
