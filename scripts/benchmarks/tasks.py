"""The functions that tasks run, of plain Python. A module of its own, so that every system can import them by name."""

import os
import time


def same(value):
    """Nothing, but its result can be checked."""
    return value


def increment(number):
    return number + 1


def add(left, right):
    return left + right


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def hold_until(path):
    """Occupies a worker until this file is there."""
    while not os.path.exists(path):
        time.sleep(0.005)


def meet(directory, count, function, args):
    """Wait until `count` processes are in here, so that each worker has one of these; then call, in each."""
    open(os.path.join(directory, str(os.getpid())), "w").close()
    deadline = time.monotonic() + 30
    while len(os.listdir(directory)) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the other {count - 1} workers did not come: are these tasks on one worker?")
        time.sleep(0.002)
    return os.getpid(), function(*args)


def here(function, args):
    """The same, for a task whose worker was chosen by the client."""
    return os.getpid(), function(*args)
