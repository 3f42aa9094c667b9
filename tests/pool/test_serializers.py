"""Pools with serializers: functions, arguments and results, also of tasks in tasks, of coroutines, and of streams."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading

import msgpack
import numpy as np
import pytest

from conftest import leaks_looked_for_by_module
from distributed import Cluster, Pool, current_pool
from distributed.errors import CannotPickle
from tests.wire.test_serializers import Reversing

ALL = ["auto", "pickle", "cloudpickle", "dill", Reversing(), msgpack]
BY_VALUE = ["auto", "cloudpickle", "dill"]


no_leaks = leaks_looked_for_by_module()


@pytest.fixture(scope="module")
def cluster(no_leaks):
    with Cluster(n_workers=1, ncores=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def pools(cluster):
    pools = {str(how): Pool(cluster, serializer=how) for how in ALL}
    yield pools
    for pool in pools.values():
        pool.close()


@pytest.fixture(params=map(str, ALL), ids=[getattr(how, "__name__", str(how)[:12]) for how in ALL])
def pool(request, pools):
    return pools[request.param]


def inner(values):
    pool = current_pool()
    return [pool._calls.how and pool._calls.how.name, pool.submit(sum, values).get()]


async def later(values):
    await asyncio.sleep(0)
    return [*values, "later"]


def test_everything_goes_with_each_of_them(pool):
    assert pool.submit(sorted, [3, 1, 2]).get() == [1, 2, 3]
    assert pool.submit(sorted, [3, 1, 2], reverse=True).get() == [3, 2, 1]
    one, two = pool.map(abs, [-1, -2])
    assert pool.submit(sum, [one, two]).get() == 3
    assert pool.submit(max, one, two).get() == 2
    assert pool.submit(len, pool.scatter({"x": [1, 2, 3]})["x"]).get() == 3
    assert list(pool.imap(abs, range(-3000, 0))) == list(range(3000, 0, -1))
    assert list(pool.imap(sorted, [[2, 1]] * 5)) == [[1, 2]] * 5
    assert pool.gather(pool.map(later, [[1], [2]])) == [[1, "later"], [2, "later"]]
    name = pool._calls.how and pool._calls.how.name
    assert pool.submit(inner, [1, 2]).get() == [name, 3], "tasks in tasks have the same one"
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).get()


def test_coroutines_of_several_pools_beside_one_another_have_each_their_own(pools):
    handles = [(how, pool.submit(meet)) for how, pool in pools.items()]
    for how, handle in handles:
        if how == str(msgpack):
            with pytest.raises(CannotPickle, match="can not serialize 'set'"):
                handle.get()
        else:
            assert handle.get() == {"met"}


async def meet():
    await asyncio.sleep(0.05)
    return {"met"}


def test_pools_with_different_serializers_read_one_anothers_data(pools):
    for position, (how, pool) in enumerate(pools.items()):
        pool.publish(f"name {position}", pool.submit(sorted, ["b", "a", how]))
    for position, how in enumerate(pools):
        for reader in pools.values():
            assert reader.submit(len, reader[f"name {position}"]).get() == 3
            assert set(reader[f"name {position}"].get()) == {"a", "b", how}
        pools["auto"].unpublish(f"name {position}")


@pytest.mark.parametrize("how", ["auto", "pickle", "cloudpickle", "dill"])
def test_arrays_come_and_go_without_being_copied_into_a_pickle(pools, how):
    pool = pools[how]
    array = np.arange(300_000.0).reshape(500, 600)
    handle = pool.submit(np.transpose, array)
    np.testing.assert_array_equal(handle.get(), array.T)
    assert handle.nbytes < array.nbytes + 2000


@pytest.mark.parametrize("how", ["pickle", str(msgpack)])
def test_what_one_cannot_take_is_refused_where_it_is_written(pools, how):
    refused = (lambda x: x, 1) if how == "pickle" else (abs, object())
    with pytest.raises(CannotPickle, match=r"lambda|args\[0\] is an object"):
        pools[how].submit(*refused)
    with pytest.raises(CannotPickle, match=r"the result of .*lock"):
        pools[how].submit(threading.Lock).get()
    assert pools[how].submit(abs, -1).get() == 1


SCRIPT = """
import sys, threading
from distributed import Pool, current_pool
class Point:
    def __init__(self, x):
        self.x = x
    def moved(self, by):
        return Point(self.x + by)
    def __eq__(self, other):
        return type(other) is Point and other.x == self.x
STEP = 10
def move(point):
    return point.moved(STEP)
def deep(point):
    return current_pool().submit(move, point).get()
if __name__ == "__main__":
    with Pool(sys.argv[1], serializer=sys.argv[2]) as pool:
        assert pool.submit(move, Point(1)).get() == Point(11)
        assert pool.submit(deep, pool.submit(move, Point(1))).get() == Point(21)
        assert pool.submit(lambda points: [point.x for point in points], [Point(1), Point(2)]).get() == [1, 2]
        assert list(pool.imap(move, [Point(1), Point(2)])) == [Point(11), Point(12)]
        STEP = 20
        assert pool.submit(move, Point(1)).get() == Point(21)
"""


@pytest.mark.parametrize("how", BY_VALUE)
def test_functions_and_classes_of_the_program_itself(cluster, tmp_path, how):
    (tmp_path / "program.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, tmp_path / "program.py", cluster.center_address, how],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert (ran.stderr, ran.returncode) == ("", 0)


def test_plain_pickle_and_what_is_in_main(cluster, tmp_path):
    (tmp_path / "program.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, tmp_path / "program.py", cluster.center_address, "pickle"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert "__main__.move is a function (plain pickle names the program's own __main__" in ran.stderr


def test_an_initializer_and_a_serializer_together(cluster):
    with Pool(cluster, serializer=json, initializer=os.putenv, initargs=("INITIALIZED", "yes")) as pool:
        assert pool.submit(sorted, ["b", "a"]).get() == ["a", "b"]
        assert len(set(map(type, pool.run_on_all(os.getpid).values()))) == 1
