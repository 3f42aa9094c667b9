"""The functions that tasks run, on numpy arrays. Whoever receives an array reads every byte of it."""

import numpy as np

RESIDENT = {}
"""Arrays that a worker has at hand, so that making them is not part of what is measured."""


def make(seed, nbytes):
    """Fresh random bytes, as 64-bit numbers; the same ones for the same seed."""
    return np.frombuffer(np.random.default_rng(seed).bytes(nbytes), dtype=np.uint64)


def checksum(block):
    return int(block.sum(dtype=np.uint64))


def keep(seed, nbytes):
    """Have an array at hand in this process; returns its sum."""
    RESIDENT.clear()
    RESIDENT[seed] = make(seed, nbytes)
    return checksum(RESIDENT[seed])


def give(seed):
    """The array that is at hand, as a task's result."""
    return RESIDENT[seed]


def transform(block):
    """The fixed `f` of W7: reads and makes a block, a few operations an element."""
    assert block.any()
    return (block ^ (block >> np.uint64(7))) * np.uint64(0x9E3779B97F4A7C15)


def add(left, right):
    assert left.any()
    assert right.any()
    return left + right
