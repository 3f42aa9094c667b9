"""A binary tree of additions over 4,096 leaves, each addition a task that depends on two"""

import time

from benchmarks.tasks import add, increment
from benchmarks.workloads import Figure, require_equal

FIGURES = {"time": Figure("s")}
LEAVES = 4_096


def run(open_system, scale, seed):
    leaves = LEAVES
    while leaves > max(64, LEAVES * scale):
        leaves //= 2
    with open_system(tiny=True) as system:
        tree(system, 64)
        return {"time": tree(system, leaves)}


def tree(system, leaves):
    began_s = time.perf_counter()
    level = system.start(increment, range(leaves))
    while len(level) > 1:
        level = system.start(add, level[::2], level[1::2])
    found = system.value(level[0])
    elapsed_s = time.perf_counter() - began_s
    require_equal(found, leaves * (leaves + 1) // 2, "the sum")
    return elapsed_s
