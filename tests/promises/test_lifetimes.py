"""Nothing dangles, whatever handles go through: in the end every store is empty, and no pool had to be closed for it.

A key is fetched while it is released, released while it is fetched, pickled to another client and released there,
returned from a task, deep-copied, put inside other values, dropped before it is there.
"""

from __future__ import annotations

import copy
import gc
import pickle
import random
import subprocess
import sys
import threading

import numpy as np
import pytest

from conftest import leaks_looked_for_by_module
from distributed import Cluster, Pool, as_completed
from distributed.errors import KeyLost
from tests.promises.observe import PATIENCE_S, contents, until

ITEMS = 20_000  # 160 KB: a file


no_leaks = leaks_looked_for_by_module()


@pytest.fixture(scope="module")
def cluster(no_leaks):
    with Cluster(n_workers=2, ncores=1) as cluster:
        yield cluster


@pytest.fixture
def pool(cluster):
    """A pool for each test, and at its end, while it is still open: nothing is stored anywhere."""
    with Pool(cluster) as pool:
        pool._core.wait(lambda: len(pool.workers) == 2, 20)
        yield pool
        gc.collect()
        until(lambda: not contents(pool.address))
        assert contents(pool.address) == {}
        assert pool._core.state.unfinished == 0
        assert not any(view.holds for view in pool._core.state.workers.values())
        assert not pool._core.state.lifetimes.shared


def make(value):
    return np.full(ITEMS, value)


def first(array):
    return int(array[0])


def test_fetched_by_a_worker_while_released(pool):
    alice, bob = pool.workers
    for number in range(100):
        handle = pool.options(workers=alice).submit(make, number)
        consumer = pool.options(workers=bob).submit(first, handle)
        del handle  # the consumer's need is what keeps it
        assert consumer.get(PATIENCE_S) == number


def test_consumers_dropped_while_their_inputs_are_fetched(pool):
    alice, bob = pool.workers
    for number in range(100):
        handle = pool.options(workers=alice).submit(make, number)
        handle.wait(PATIENCE_S)
        consumer = pool.options(workers=bob).submit(first, handle)
        if number % 3 == 0:
            consumer.cancel()
        if number % 3 == 1:
            handle.release()
        del handle, consumer


def test_released_by_one_thread_while_another_gets_it(pool):
    handles = pool.map(make, range(200))
    outcomes = []

    def read():
        for number, handle in enumerate(list(handles)):
            try:
                outcomes.append(first(handle.get(PATIENCE_S)) == number)
            except KeyLost as error:
                outcomes.append("released" in str(error) or error)

    reader = threading.Thread(target=read)
    reader.start()
    for handle in random.Random(0).sample(handles, 100):
        handle.release()
    reader.join(60)
    del handle
    handles.clear()
    assert len(outcomes) == 200
    assert set(outcomes) == {True}


BORROWER = """
import pickle, sys
from distributed import Pool

center = sys.argv[1]
with Pool(center) as pool:
    for line in sys.stdin:
        handle = pickle.loads(bytes.fromhex(line.strip()))
        there = pool.submit(lambda array: int(array.sum()), handle)
        print(int(handle.get(20)[0]), there.get(20), flush=True)
        handle.release()
        del handle, there
    print("end", flush=True)
"""


def test_pickled_to_another_client_and_released_there(pool):
    command = [sys.executable, "-c", BORROWER, pool.address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as borrower:
        for number in range(20):
            handle = pool.submit(make, number)
            borrower.stdin.write(pickle.dumps(handle).hex() + "\n")
            borrower.stdin.flush()
            assert borrower.stdout.readline().split() == [str(number), str(number * ITEMS)]
            assert first(handle.get(PATIENCE_S)) == number, "what the borrower released is still the owner's"
            handle.release()
        borrower.stdin.close()
        assert borrower.stdout.readline() == "end\n"
    assert borrower.returncode == 0


def test_a_borrower_learns_who_released_it(pool):
    with Pool(pool.address) as other:
        handle = pool.submit(make, 1)
        handle.wait(PATIENCE_S)
        _, (_, reference) = handle.__reduce__()
        borrowed = other._core.make_handle(reference)
        assert first(borrowed.get(PATIENCE_S)) == 1
        handle.release()
        assert until(lambda: not contents(pool.address))
        for late in (borrowed, other._core.make_handle(reference)):
            with pytest.raises(KeyLost, match="its owner released it"):
                late.get(PATIENCE_S)


def test_a_handle_that_was_given_up_says_so(pool):
    handle, waiting = pool.submit(make, 1), pool.submit(make, 2)
    assert handle.wait(PATIENCE_S)
    handle.release()
    handle.release()
    assert "released" in repr(handle)
    with pytest.raises(KeyLost, match="released"):
        handle.get()
    for use in (pool.gather, pool.scatter, lambda nested: pool.submit(first, nested)):
        with pytest.raises(KeyLost, match="released"):
            use([waiting, handle])


def test_returned_from_a_task_and_held_inside_values(pool):
    inner = pool.submit(make, 5)
    box = pool.scatter({"box": [inner, 1]})["box"]
    returned = pool.submit(lambda found: found[0], box)
    del inner, box
    again = returned.get(PATIENCE_S)
    del returned
    assert first(again.get(PATIENCE_S)) == 5
    nest = again
    del again
    for _ in range(30):  # a value that contains a value that contains ...
        nest = pool.scatter([[nest]])[0]
    for _ in range(30):
        (nest,) = nest.get(PATIENCE_S)
    assert first(nest.get(PATIENCE_S)) == 5


def test_copied_deeply_and_pickled_at_home(pool):
    handle = pool.submit(make, 6)
    copies = copy.deepcopy({"x": [handle, (handle,)]})
    again = pickle.loads(pickle.dumps(handle))
    del handle
    assert first(copies["x"][1][0].get(PATIENCE_S)) == 6
    assert first(again.get(PATIENCE_S)) == 6
    again.release()


def test_dropped_before_it_is_there(pool):
    for _ in range(20):
        pool.map(make, range(20))
        pool.submit(first, pool.submit(make, 1))
    assert pool.submit(abs, -1).get(PATIENCE_S) == 1


def test_failed_cancelled_and_iterated(pool):
    broken = pool.map(first, [[], None, "x"])
    after = [pool.submit(first, handle) for handle in broken]
    for handle in as_completed(broken + after, timeout=PATIENCE_S):
        assert handle.exception() is not None
    slow = pool.map(make, range(50))
    for handle in slow:
        handle.cancel()
    published = pool.submit(make, 9)
    pool.publish("nine", published)
    del published
    assert first(pool["nine"].get(PATIENCE_S)) == 9
    pool.unpublish("nine")
