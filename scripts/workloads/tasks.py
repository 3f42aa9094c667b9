"""Trivial tasks a second, each its own RemoteData.

From the first submission until every value is at the client, on two executors of a local pool. `map` hands the work
over in one call, `submit` in one call a task.
"""

import time

from distributed import Pool


def add_arguments(parser):
    parser.add_argument("--tasks", type=int, default=100_000, help="how many (default %(default)s)")
    parser.add_argument("--executors", type=int, default=2, help="how many (default %(default)s)")


def increment(number):
    return number + 1


def run(options):
    with Pool(options.executors) as pool:
        pool.submit(increment, 0).get()
        for way, start in (("map", start_by_map), ("submit", start_by_submit)):
            began_s = time.perf_counter()
            values = pool.gather(start(pool, options.tasks))
            elapsed_s = time.perf_counter() - began_s
            assert values == list(range(1, options.tasks + 1))
            yield f"by {way}", options.tasks / elapsed_s, "tasks/s"


def start_by_map(pool, count):
    return pool.map(increment, range(count))


def start_by_submit(pool, count):
    return [pool.submit(increment, number) for number in range(count)]
