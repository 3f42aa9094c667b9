"""Every public call, each of its arguments, with what makes no sense there: a sentence names it and says what is right.

The tables below are compared with what there is: a public method, argument, option or operation without a row in them
fails `test_the_tables_know_everything_that_is_public`. After each refusal the pool still computes.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import inspect
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import distributed
from conftest import leaks_looked_for_by_module
from distributed import Center, Cluster, Executor, Pool, RemoteData, Worker, as_completed, cli, mpi, progress, rpc, wait
from distributed.errors import BadAddress, CannotPickle, NameUnknown
from distributed.pool.remote import AsCompleted
from distributed.pool.stream import Stream
from distributed.rpc import Remote, operations
from distributed.wire.messages import REGISTRY, Member
from distributed.wire.security import Secret

SECRET = Secret(bytes(32))
NAN, INFINITY = float("nan"), float("inf")
MIB = 1 << 20
WORDS_MAX = 300  # characters of a message


class Hostile:
    """Does nothing that is asked of it."""

    def __refuse(self, *_):
        raise RuntimeError("hostile")

    __repr__ = __str__ = __eq__ = __len__ = __iter__ = __bool__ = __call__ = __format__ = __refuse
    __hash__ = object.__hash__


# ---------------------------------------------------------------------------------------------------- what is wrong

WRONG_TEXTS = [(TypeError, value) for value in (None, 5, b"x", ["x"], Hostile())] + [
    (ValueError, value) for value in ("", "x" * 10 * MIB, "\ud800")
]
WRONG_TRUTHS = [(TypeError, value) for value in (None, 0, 1, "no", [], np.array([True, False]))]
WRONG_COUNTS = [(TypeError, value) for value in ("3", 2.5, True, [1], NAN, np.array([1, 2]))] + [(ValueError, -1)]
FROM_ONE = [*WRONG_COUNTS, (ValueError, 0)]
NO_NUMBERS = [(TypeError, value) for value in ("3", True, [1], 1j, Hostile())] + [
    (ValueError, value) for value in (NAN, INFINITY, -INFINITY, 10**400, np.array([1.0, 2.0]))
]
NO_TIMEOUTS = [*NO_NUMBERS, *[(ValueError, value) for value in (-1, -0.001, 1e10)]]
NOT_ITERABLE = [(TypeError, value) for value in (None, 5, abs, object())]
NO_CALLABLES = [(TypeError, value) for value in (None, 5, "abs", [abs])]
NO_FUNCTIONS = [(TypeError, value) for value in (None, 5, b"math.sqrt", [abs])] + [
    (ValueError, value) for value in ("abs", "", "math.", "math:", ".sqrt", "a b.c", "math.sqrt()", "x" * 10 * MIB)
]
NO_ADDRESSES = [
    (BadAddress, value)
    for value in (
        "nonsense",
        "127.0.0.1",
        "127.0.0.1:",
        ":8787",
        "127.0.0.1:99999",
        "[::1",
        "",
        "a:b:c",
        "a b:1",
        "a\0:1",
        "a..b:1",
        "x" * 64 + ":1",
        "\udcff:1",
        "[a b]:1",
        "[]:1",
        "a:1\n",
        "::1:80",
        "a:1?tunnel=",
        "a:1?tunnel=x.tunnel",
        "a:1?tunnel=/x",
        "?tunnel=/x.tunnel",
        "x" * 10 * MIB,
        b"a:1",
        5,
    )
]
NO_SSH_HOSTS = [(TypeError, "ssh://maxi/8")] + [
    (BadAddress, value)
    for value in (
        ["ssh://"],
        ["ssh://maxi/0"],
        ["ssh://maxi:99999/4"],
        ["sssh://maxi/4"],
        ["ssh://maxi/4", "ssh://maxi/8"],
        ["ssh://-oProxyCommand=id/4"],
        ["ssh://maxi/4?pyton=python3"],
        ["ssh://" + "x" * 10 * MIB],
    )
]
NO_HANDLES = [*NOT_ITERABLE, (TypeError, [1]), (TypeError, ["x"]), (TypeError, [None]), (TypeError, [Hostile()])]
NO_KEYS = [*NOT_ITERABLE[1:], (TypeError, [1]), (TypeError, [None]), (ValueError, [""]), (ValueError, ["x" * 10 * MIB])]
NO_PATHS = [(TypeError, value) for value in (5, b"/tmp", [], Hostile())] + [(ValueError, ""), (ValueError, "a\0b")]
NO_PORTS = [(TypeError, "80"), (TypeError, 1.5), (TypeError, True), (ValueError, -1), (ValueError, 65536)]
UNPICKLABLE = [(CannotPickle, threading.Lock()), (CannotPickle, {"a": [threading.Lock()]})]
NO_KEYWORDS = [(TypeError, value) for value in (5, "ab", [1], {1: 2})]
TOO_MANY = [(ValueError, 10**9)]


def deep(levels):
    nested = []
    for _ in range(levels):
        nested = [nested]
    return nested


def endless():
    nested = []
    nested.append(nested)
    return nested


class Wrong(NamedTuple):
    """A call that gets each of these values in the place of one argument, and a pattern that its message must match."""

    call: Callable[[Any, Any], object]
    values: list[tuple[type[BaseException], Any]]
    says: str = ""  # else the name of the argument


FREE = "there is nothing that would be wrong here"


def ready(pool):
    handle = pool.submit(abs, -1)
    handle.wait()
    return handle


def made(pool, **arguments):
    """A daemon as an object; on a loop, as it wants to be."""

    async def make():
        kind = Worker if "center" in arguments else Center
        kind(**arguments)

    asyncio.run(make())


def of_worker(name):
    return lambda pool, value: made(pool, **{"center": "127.0.0.1:1", name: value})


def of_center(name):
    return lambda pool, value: made(pool, **{name: value})


def scaled(n):
    with Cluster(n_workers=0) as cluster:
        cluster.scale(n)


def of_cluster(name):
    return lambda pool, value: Cluster(**{name: value}).close()


def at_worker(pool):
    return rpc(pool.workers[0])


EXECUTORS = {}  # one for all tests, on the cluster of their pool


def executor(pool):
    if pool.address not in EXECUTORS:
        EXECUTORS[pool.address] = Executor(pool.address)
    return EXECUTORS[pool.address]


def stream(pool):
    return pool.imap(abs, [-1])


NO_WORKERS = [(TypeError, 5), (TypeError, [None]), (ValueError, []), (ValueError, ""), (ValueError, ["\ud800"])]
NO_RESOURCES = (
    [(TypeError, value) for value in (5, "gpu", ["gpu"], {1: 1}, {"gpu": "1"}, {"gpu": 0.5}, {"gpu": None}, Hostile())]
    + [
        (ValueError, value)
        for value in (
            {"gpu": 0},
            {"gpu": -1},
            {"gpu": 10**10},
            {"": 1},
            {"a b": 1},
            {"a=1": 1},
            {"1": 1},
            {"x" * 101: 1},
        )
    ]
    + [(ValueError, {f"name{n}": 1 for n in range(65)})]
)
OPTIONAL = [(error, value) for error, value in WRONG_TEXTS if value is not None]
TRUTHS_OR_NONE = [(error, value) for error, value in WRONG_TRUTHS if value is not None]
SIZES = [(TypeError, value) for value in (2.5, True, [1])] + [(ValueError, value) for value in (0, -1, "lots", "")]

TAKES = {
    "Pool": {
        "address": Wrong(
            lambda pool, x: Pool(x),
            [
                *[row for row in NO_ADDRESSES if isinstance(row[1], str)],
                (TypeError, 2.5),
                (TypeError, True),
                (TypeError, b"a:1"),
                (TypeError, [2]),
                (TypeError, Hostile()),
                (ValueError, 0),
                (ValueError, -1),
                *TOO_MANY,
            ],
            r"address|Pool\(",
        ),
        "hosts": [
            Wrong(lambda pool, x: Pool(1, x), [*NOT_ITERABLE, *NO_SSH_HOSTS], "host|address|ssh://"),
            Wrong(
                lambda pool, x: Pool(x, ["ssh://maxi/8"]),
                [(ValueError, "a:1"), (ValueError, -1), (TypeError, 2.5)],
                r"hosts|Pool\(",
            ),
        ],
        "initializer": Wrong(lambda pool, x: Pool(1, initializer=x), NO_CALLABLES[1:]),
        "initargs": [
            Wrong(lambda pool, x: Pool(1, initializer=abs, initargs=x), NOT_ITERABLE),
            Wrong(lambda pool, x: Pool(1, initializer=abs, initargs=[x]), UNPICKLABLE),
        ],
        "serializer": Wrong(
            lambda pool, x: Pool(1, serializer=x),
            [(ValueError, value) for value in ("", "dil", "json", "x" * 10 * MIB)]
            + [(TypeError, value) for value in (None, 5, b"pickle", ["pickle"], abs, object(), Hostile(), Pool)],
        ),
    },
    "Executor": {
        "address_or_workers": Wrong(
            lambda pool, x: Executor(x),
            [(BadAddress, "nonsense"), (TypeError, 2.5), (TypeError, True), (ValueError, 0)],
            "address|executor",
        ),
        "max_workers": [
            Wrong(
                lambda pool, x: Executor(max_workers=x), [*WRONG_COUNTS, (ValueError, 0), *TOO_MANY], "max_workers|Pool"
            ),
            Wrong(lambda pool, x: Executor(pool.address, max_workers=x), [(TypeError, 2)], "max_workers"),
        ],
        "initializer": Wrong(lambda pool, x: Executor(1, initializer=x), NO_CALLABLES[1:]),
        "initargs": Wrong(lambda pool, x: Executor(1, initializer=abs, initargs=x), NOT_ITERABLE),
    },
    "Executor.submit": {
        "fn": Wrong(lambda pool, x: executor(pool).submit(x), NO_FUNCTIONS, "function"),
        "args": Wrong(lambda pool, x: executor(pool).submit(print, x).result(), UNPICKLABLE),
        "kwargs": Wrong(lambda pool, x: executor(pool).submit(print, end=x).result(), UNPICKLABLE, "'end'"),
    },
    "Executor.map": {
        "fn": Wrong(lambda pool, x: executor(pool).map(x, [1]), NO_FUNCTIONS, "function"),
        "iterables": Wrong(lambda pool, x: executor(pool).map(abs, x), NOT_ITERABLE, "iterable"),
        "timeout": Wrong(lambda pool, x: executor(pool).map(abs, [1], timeout=x), NO_TIMEOUTS),
        "chunksize": Wrong(lambda pool, x: executor(pool).map(abs, [1], chunksize=x), FROM_ONE),
        "buffersize": Wrong(lambda pool, x: executor(pool).map(abs, [1], buffersize=x), FROM_ONE),
    },
    "Executor.shutdown": {
        "wait": Wrong(lambda pool, x: executor(pool).shutdown(x), WRONG_TRUTHS),
        "cancel_futures": Wrong(lambda pool, x: executor(pool).shutdown(cancel_futures=x), WRONG_TRUTHS),
    },
    "Pool.submit": {
        "function": Wrong(lambda pool, x: pool.submit(x), NO_FUNCTIONS),
        "args": Wrong(lambda pool, x: pool.submit(print, x), UNPICKLABLE),
        "kwargs": Wrong(lambda pool, x: pool.submit(print, end=x), UNPICKLABLE, "'end'"),
    },
    "Pool.map": {
        "function": Wrong(lambda pool, x: pool.map(x, [1]), NO_FUNCTIONS),
        "iterables": [
            Wrong(lambda pool, x: pool.map(abs, x), NOT_ITERABLE),
            Wrong(lambda pool, x: pool.map(pow, [1, 2], x), NOT_ITERABLE),
            Wrong(lambda pool, x: pool.map(abs, *x), [(TypeError, ())], "iterable"),
            Wrong(lambda pool, x: pool.map(abs, [1, x]), UNPICKLABLE, "args"),
        ],
    },
    "Pool.starmap": {
        "function": Wrong(lambda pool, x: pool.starmap(x, [(1,)]), NO_FUNCTIONS),
        "iterable": [
            Wrong(lambda pool, x: pool.starmap(abs, x), NOT_ITERABLE),
            Wrong(lambda pool, x: pool.starmap(abs, [(1,), x]), NOT_ITERABLE, "each item"),
        ],
    },
    "Pool.imap": {
        "function": Wrong(lambda pool, x: pool.imap(x, [1]), NO_FUNCTIONS),
        "iterables": [
            Wrong(lambda pool, x: pool.imap(abs, x), NOT_ITERABLE, "iterable"),
            Wrong(lambda pool, x: pool.imap(abs, *x), [(TypeError, ())], "iterable"),
            Wrong(lambda pool, x: list(pool.imap(abs, [x])), UNPICKLABLE, "item|args"),
        ],
        "qsize": Wrong(lambda pool, x: pool.imap(abs, [1], qsize=x), FROM_ONE),
        "ordered": Wrong(lambda pool, x: pool.imap(abs, [1], ordered=x), WRONG_TRUTHS),
        "chunksize": Wrong(lambda pool, x: pool.imap(abs, [1], chunksize=x), FROM_ONE),
    },
    "Pool.imap_unordered": {
        "function": Wrong(lambda pool, x: pool.imap_unordered(x, [1]), NO_FUNCTIONS),
        "iterables": Wrong(lambda pool, x: pool.imap_unordered(abs, x), NOT_ITERABLE, "iterable"),
        "qsize": Wrong(lambda pool, x: pool.imap_unordered(abs, [1], qsize=x), FROM_ONE),
        "chunksize": Wrong(lambda pool, x: pool.imap_unordered(abs, [1], chunksize=x), FROM_ONE),
    },
    "Pool.apply": {
        "function": Wrong(lambda pool, x: pool.apply(x), NO_FUNCTIONS),
        "args": Wrong(lambda pool, x: pool.apply(abs, x), NOT_ITERABLE),
        "kwargs": Wrong(lambda pool, x: pool.apply(print, (), x), NO_KEYWORDS),
    },
    "Pool.apply_async": {
        "function": Wrong(lambda pool, x: pool.apply_async(x), NO_FUNCTIONS),
        "args": Wrong(lambda pool, x: pool.apply_async(abs, x), NOT_ITERABLE),
        "kwargs": Wrong(lambda pool, x: pool.apply_async(print, (), x), NO_KEYWORDS),
        "callback": Wrong(lambda pool, x: pool.apply_async(int, callback=x), NO_CALLABLES[1:]),
        "error_callback": Wrong(lambda pool, x: pool.apply_async(int, error_callback=x), NO_CALLABLES[1:]),
        "options": [
            Wrong(lambda pool, x: pool.apply_async(int, timeout=x), NO_TIMEOUTS, "timeout"),
            Wrong(lambda pool, x: pool.apply_async(int, **{x: 1}), [(TypeError, "timeuot")], "timeuot"),
        ],
    },
    "Pool.options": {
        "timeout": Wrong(lambda pool, x: pool.options(timeout=x), [*NO_TIMEOUTS, (ValueError, 0)]),
        "priority": Wrong(lambda pool, x: pool.options(priority=x), NO_NUMBERS),
        "retries": Wrong(lambda pool, x: pool.options(retries=x), WRONG_COUNTS),
        "attempts": Wrong(lambda pool, x: pool.options(attempts=x), FROM_ONE),
        "recompute": Wrong(lambda pool, x: pool.options(recompute=x), TRUTHS_OR_NONE),
        "workers": Wrong(lambda pool, x: pool.options(workers=x), NO_WORKERS),
        "key": Wrong(lambda pool, x: pool.options(key=x), OPTIONAL),
        "resources": Wrong(lambda pool, x: pool.options(resources=x), NO_RESOURCES),
    },
    "Pool.run_on_all": {
        "function": Wrong(lambda pool, x: pool.run_on_all(x), NO_FUNCTIONS),
        "args": Wrong(lambda pool, x: pool.run_on_all(print, x), UNPICKLABLE),
        "kwargs": Wrong(lambda pool, x: pool.run_on_all(print, end=x), UNPICKLABLE, "'end'"),
    },
    "Pool.group": {
        "function": [
            Wrong(lambda pool, x: pool.group(x, 1), NO_FUNCTIONS),
            Wrong(lambda pool, x: pool.group(x, 1), [(TypeError, asyncio.sleep)], "coroutine function"),
        ],
        "size": Wrong(lambda pool, x: pool.group(abs, x), [*FROM_ONE, (TypeError, None), *TOO_MANY]),
        "args": Wrong(lambda pool, x: pool.group(print, 1, x), UNPICKLABLE),
        "kwargs": Wrong(lambda pool, x: pool.group(print, 1, end=x), UNPICKLABLE, "'end'"),
    },
    "Pool.defer": {"function": Wrong(lambda pool, x: pool.defer(x), NO_FUNCTIONS)},
    "Pool.upload": {
        "path": [
            Wrong(lambda pool, x: pool.upload(x), NO_PATHS),
            Wrong(lambda pool, x: pool.upload(x), [(FileNotFoundError, "no_such.py")], "nothing to upload"),
            Wrong(lambda pool, x: pool.upload(x), [(ValueError, "LICENSE")], "neither"),
        ]
    },
    "Pool.scatter": {
        "data": Wrong(lambda pool, x: pool.scatter(x), UNPICKLABLE),
        "replicas": Wrong(lambda pool, x: pool.scatter([1], x), [*FROM_ONE, *TOO_MANY]),
    },
    "Pool.restart": {"timeout": Wrong(lambda pool, x: pool.restart(x), NO_TIMEOUTS)},
    "Pool.gather": {
        "nested": Wrong(lambda pool, x: pool.gather(x), [(ValueError, endless()), (ValueError, deep(100_000))]),
        "timeout": Wrong(lambda pool, x: pool.gather([], x), NO_TIMEOUTS),
    },
    "Pool.publish": {
        "name": Wrong(lambda pool, x: pool.publish(x, ready(pool)), WRONG_TEXTS),
        "data": Wrong(
            lambda pool, x: pool.publish("x", x), [(TypeError, value) for value in (None, 5, "x", Hostile())]
        ),
        "timeout": Wrong(lambda pool, x: pool.publish("x", ready(pool), x), NO_TIMEOUTS),
    },
    "Pool.unpublish": {
        "name": [
            Wrong(lambda pool, x: pool.unpublish(x), WRONG_TEXTS),
            Wrong(lambda pool, x: pool.unpublish(x), [(NameUnknown, "nobody")], "'nobody'"),
        ],
    },
    "Pool.__getitem__": {
        "name": [
            Wrong(lambda pool, x: pool[x], WRONG_TEXTS),
            Wrong(lambda pool, x: pool[x], [(NameUnknown, "nobody")], "'nobody'"),
        ],
    },
    "Pool.__contains__": {"name": FREE},
    "Pool.who_has": {"handles": Wrong(lambda pool, x: pool.who_has(x), NO_KEYS)},
    "Pool.close": {"timeout": Wrong(lambda pool, x: pool.close(x), [*NO_TIMEOUTS, (TypeError, None)])},
    "RemoteData.wait": {"timeout": Wrong(lambda pool, x: ready(pool).wait(x), NO_TIMEOUTS)},
    "RemoteData.get": {
        "timeout": Wrong(lambda pool, x: ready(pool).get(x), NO_TIMEOUTS),
        "reraise": Wrong(lambda pool, x: ready(pool).get(reraise=x), WRONG_TRUTHS),
    },
    "RemoteData.result": {"timeout": Wrong(lambda pool, x: ready(pool).result(x), NO_TIMEOUTS)},
    "RemoteData.exception": {"timeout": Wrong(lambda pool, x: ready(pool).exception(x), NO_TIMEOUTS)},
    "RemoteData.add_done_callback": {
        "callback": Wrong(lambda pool, x: ready(pool).add_done_callback(x), NO_CALLABLES),
    },
    "Stream.next": {"timeout": Wrong(lambda pool, x: stream(pool).next(x), NO_TIMEOUTS)},
    "as_completed": {
        "handles": Wrong(lambda pool, x: as_completed(x), NO_HANDLES),
        "timeout": Wrong(lambda pool, x: as_completed([], x), NO_TIMEOUTS),
    },
    "wait": {
        "handles": Wrong(lambda pool, x: wait(x), NO_HANDLES),
        "timeout": Wrong(lambda pool, x: wait([], x), NO_TIMEOUTS),
        "return_when": Wrong(
            lambda pool, x: wait([], return_when=x),
            [(ValueError, value) for value in (None, "", "first_completed", 5, [])],
        ),
    },
    "progress": {
        "handles": Wrong(lambda pool, x: list(progress(x, disable=True)), NO_HANDLES),
        "options": Wrong(lambda pool, x: progress([], **{x: 1}), [(KeyError, "colur")], "colur"),
    },
    "Cluster": {
        "n_workers": Wrong(of_cluster("n_workers"), [*WRONG_COUNTS, *TOO_MANY]),
        "ncores": Wrong(of_cluster("ncores"), [*FROM_ONE, *TOO_MANY]),
        "hosts": Wrong(
            of_cluster("hosts"),
            [
                *NOT_ITERABLE[1:],
                (TypeError, "127.0.0.1:8788"),
                (BadAddress, ["127.0.0.1:x"]),
                (BadAddress, [5]),
                *NO_SSH_HOSTS,
            ],
            "host|address|ssh://",
        ),
        "center": Wrong(
            of_cluster("center"),
            [(BadAddress, value) for value in ("a:b", "a:99999", "[::1", b"a:1", 5, "")],
            "host:port",
        ),
        "memory_limit": Wrong(of_cluster("memory_limit"), SIZES, "memory_limit|is not a size"),
        "task_memory_limit": Wrong(of_cluster("task_memory_limit"), SIZES, "memory_limit|is not a size"),
        "spill_directory": Wrong(of_cluster("spill_directory"), NO_PATHS),
        "insecure_plaintext": Wrong(of_cluster("insecure_plaintext"), WRONG_TRUTHS),
        "resources": Wrong(of_cluster("resources"), NO_RESOURCES),
        "tls": Wrong(of_cluster("tls"), WRONG_TRUTHS),
    },
    "mpi.start": {
        "ranks": Wrong(
            lambda pool, x: mpi.start(x),
            [(TypeError, value) for value in (5, "1,2", ["1"], [1.5], [True], [Hostile()])]
            + [(ValueError, value) for value in ([], [0, 1], [1, 1], [-1])],
        ),
        "ncores": Wrong(lambda pool, x: mpi.start(ncores=x), [*FROM_ONE, *TOO_MANY]),
        "memory_limit": Wrong(lambda pool, x: mpi.start(memory_limit=x), SIZES, "memory_limit|is not a size"),
        "spill_directory": Wrong(lambda pool, x: mpi.start(spill_directory=x), NO_PATHS),
        "host": Wrong(lambda pool, x: mpi.start(host=x), [*OPTIONAL, (ValueError, "a b"), (ValueError, "a:1")]),
        "insecure_plaintext": Wrong(lambda pool, x: mpi.start(insecure_plaintext=x), WRONG_TRUTHS),
    },
    "Cluster.scale": {"n": Wrong(lambda pool, x: scaled(x), [*WRONG_COUNTS, *TOO_MANY])},
    "Center": {
        "host": Wrong(of_center("host"), WRONG_TEXTS),
        "port": Wrong(of_center("port"), [*NO_PORTS, (TypeError, None)]),
        "status_port": Wrong(of_center("status_port"), NO_PORTS),
        "insecure_plaintext": Wrong(of_center("insecure_plaintext"), WRONG_TRUTHS),
        "tls": Wrong(of_center("tls"), WRONG_TRUTHS),
    },
    "Worker": {
        "center": Wrong(of_worker("center"), NO_ADDRESSES, "host:port"),
        "host": Wrong(of_worker("host"), OPTIONAL),
        "port": Wrong(of_worker("port"), [*NO_PORTS, (TypeError, None)]),
        "ncores": Wrong(of_worker("ncores"), [*FROM_ONE, *TOO_MANY]),
        "memory_limit": Wrong(of_worker("memory_limit"), FROM_ONE),
        "task_memory_limit": Wrong(of_worker("task_memory_limit"), WRONG_COUNTS),
        "name": Wrong(of_worker("name"), OPTIONAL),
        "directory": Wrong(of_worker("directory"), NO_PATHS),
        "spill_directory": Wrong(of_worker("spill_directory"), NO_PATHS),
        "insecure_plaintext": Wrong(of_worker("insecure_plaintext"), WRONG_TRUTHS),
        "announce": Wrong(of_worker("announce"), [*OPTIONAL, *[(ValueError, x) for x in ("a b", "a:1", "x" * 300)]]),
        "via_center": Wrong(of_worker("via_center"), WRONG_TRUTHS),
        "resources": Wrong(of_worker("resources"), NO_RESOURCES),
    },
    "rpc": {
        "address": [
            Wrong(lambda pool, x: rpc(x), NO_ADDRESSES, "host:port"),
            Wrong(
                lambda pool, x: rpc(f"a:1?via={x}"), [(BadAddress, x) for x in ("", "b", "b:x", "b:1?via=c:1")], "via"
            ),
        ],
        "asynchronous": Wrong(lambda pool, x: rpc("a:1", asynchronous=x), WRONG_TRUTHS),
        "timeout_s": Wrong(lambda pool, x: rpc("a:1", timeout_s=x), [*NO_TIMEOUTS, (ValueError, 0)]),
        "secret": Wrong(
            lambda pool, x: rpc("a:1", secret=x), [(TypeError, value) for value in ("ab" * 32, b"x" * 32, 5)]
        ),
    },
    "Pool.__getattr__": {"name": Wrong(lambda pool, x: getattr(pool, x), [(AttributeError, "join")], "close")},
    "Remote.__getattr__": {
        "operation": Wrong(
            lambda pool, x: getattr(at_worker(pool), x), [(AttributeError, "who_hsa"), (AttributeError, "reply")]
        ),
    },
    "rpc.get_data": {
        "keys": Wrong(lambda pool, x: at_worker(pool).get_data(x), [*NOT_ITERABLE, (TypeError, "x"), (TypeError, [1])]),
        "attempts": Wrong(
            lambda pool, x: at_worker(pool).get_data(["x"], x),
            [
                (TypeError, 5),
                (TypeError, ["1"]),
                (ValueError, [-1]),
                (ValueError, [1, 2]),
                (ValueError, []),
            ],
        ),
    },
    "rpc.update_data": {
        "data": [
            Wrong(
                lambda pool, x: at_worker(pool).update_data(x), [(TypeError, value) for value in (None, 5, [1], {1: 2})]
            ),
            Wrong(lambda pool, x: at_worker(pool).update_data({"x": x}), UNPICKLABLE),
        ],
        "owner": Wrong(lambda pool, x: at_worker(pool).update_data({}, x), [(TypeError, None), (TypeError, 5)]),
    },
}
TAKES_NOTHING = {
    "current_pool",
    "Pool.has_what", "Pool.ncores", "Pool.terminate", "RemoteData.cancel", "RemoteData.cancelled", "RemoteData.done",
    "RemoteData.explain", "RemoteData.ready", "RemoteData.reduce_outside", "RemoteData.reference", "RemoteData.release",
    "RemoteData.successful", "Stream.aclose", "Stream.close", "AsCompleted.close", "Cluster.close", "Center.close",
    "Center.finished", "Center.start", "Center.status", "Worker.close", "Worker.finished", "Worker.leave",
    "Worker.start", "Worker.status", "Remote.close", "mpi.communicator", "mpi.is_client",
}  # fmt: skip
MADE_BY_US = {"RemoteData", "Stream", "AsCompleted", "Remote"}  # nobody else calls these constructors
NO_CALLS = {"Failure", "errors", "__version__"}  # what users get, and do not make
CLASSES = [Pool, Executor, RemoteData, Cluster, Center, Worker, Stream, AsCompleted, Remote]
SPECIAL = {"__getitem__", "__contains__", "__getattr__"}  # the others are called by Python itself


no_leaks = leaks_looked_for_by_module()


@pytest.fixture(scope="module")
def pool(no_leaks):
    with Pool(1) as pool:
        yield pool
        for executor in EXECUTORS.values():
            executor.shutdown()


def assert_refused(pool, call, error, says):
    with pytest.raises(error) as caught:
        call()
    words = str(caught.value)
    assert re.search(says, words), words
    assert 10 < len(words) < WORDS_MAX, words
    assert words.isprintable(), words
    assert pool.submit(abs, -1).get(10) == 1, "the pool goes on"


CASES = [
    pytest.param(wrong, wrong.says or name, id=f"{call}-{name}" + (f"-{position}" if position else ""))
    for call, arguments in TAKES.items()
    for name, several in arguments.items()
    if several is not FREE
    for position, wrong in enumerate(several if isinstance(several, list) else [several])
]


@pytest.mark.parametrize(("wrong", "says"), CASES)
def test_what_makes_no_sense_is_refused_on_the_spot_in_a_sentence(pool, wrong, says):
    for error, value in wrong.values:
        assert_refused(pool, lambda value=value: wrong.call(pool, value), error, says)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda pool: Pool(processes=4), r"Pool\(\) has no argument 'processes': write Pool\(4\)"),
        (lambda pool: Pool(max_workers=4), r"write Pool\(4\)"),
        (lambda pool: Pool(n_jobs=4), r"write Pool\(4\)"),
        (lambda pool: Pool(2, initialiser=abs), "did you mean 'initializer'"),
        (lambda pool: pool.options(timeuot=1), r"options\(\) has no argument 'timeuot'; did you mean 'timeout'\?"),
        (lambda pool: pool.options(resource={"gpu": 1}), "did you mean 'resources'"),
        (lambda pool: pool.options(retry=2), "did you mean 'retries'"),
        (lambda pool: pool.options(self=2), "no argument 'self'|multiple values"),
        (lambda pool: pool.options(zzzz=2), "there are timeout, priority, retries"),
        (lambda pool: pool.options(**{"x" * MIB: 2}), "there are timeout, priority, retries"),
        (lambda pool: pool.apply_async(abs, (1,), prioritty=2), "did you mean 'priority'"),
        (lambda pool: Cluster(n_worker=2), r"Cluster\(\) has no argument 'n_worker'; did you mean 'n_workers'\?"),
        (lambda pool: Cluster(memory_limits="4GiB"), "did you mean 'memory_limit'"),
        (lambda pool: made(pool, center="127.0.0.1:1", ncore=2), r"Worker\(\).*did you mean 'ncores'"),
    ],
)
def test_an_argument_that_does_not_exist_is_told_with_the_one_that_was_meant(pool, call, says):
    assert_refused(pool, lambda: call(pool), TypeError, says)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda pool: Pool("4"), BadAddress, r"a number of executors is no text, write Pool\(4\)"),
        (lambda pool: Pool("tcp://127.0.0.1:8787"), BadAddress, r"host:port, .* \(without 'tcp://'\)"),
        (lambda pool: Pool("localhost"), BadAddress, "the port is missing"),
        (lambda pool: Pool("localhost:http"), BadAddress, "'http' is no port"),
        (lambda pool: Pool("localhost:65536"), BadAddress, "'65536' is no port: a number from 0 to 65535"),
        (lambda pool: Pool("::1"), BadAddress, r"stands in brackets: \[::1\]:8787"),
        (lambda pool: Pool("localhost:8787 "), BadAddress, "blanks around it"),
        (lambda pool: Pool("ssh://maxi"), BadAddress, "go in hosts"),
        (lambda pool: rpc("tcp://a:1"), BadAddress, "without 'tcp://'"),
        (lambda pool: Pool(0), ValueError, r"Pool\(0\) computes nowhere; give it 1 to \d+ executors"),
        (lambda pool: Cluster(hosts=["127.0.0.1:8788"] * 2), ValueError, r"hosts names 127\.0\.0\.1:8788 twice"),
        (lambda pool: Pool(1, serializer="dil"), ValueError, "did you mean 'dill'"),
        (
            lambda pool: pool.map(abs, endless_items()),
            TypeError,
            r"map\(\) cannot wait for an async_gen.*: imap\(\)",
        ),
        (lambda pool: pool.starmap(abs, endless_items()), TypeError, r"starmap\(\) .*imap\(\)"),
        (lambda pool: pool.map(abs, endless_items), TypeError, "gives items when it is called: call it"),
        (lambda pool: list(pool.imap(abs, endless_items())), TypeError, "use `async for`"),
        (lambda pool: wait(endless_items()), TypeError, "handles=<async_generator.* must be a list of handles"),
        (lambda pool: as_completed(endless_items()), TypeError, "must be a list of handles"),
        (lambda pool: pool.submit(list, endless_items()), CannotPickle, r"args\[0\] is an async_generator"),
        (lambda pool: executor(pool).map(abs, endless_items()), TypeError, "async_generator|not iterable"),
    ],
)
def test_what_is_nearly_right_is_told_what_would_be(pool, call, error, says):
    assert_refused(pool, lambda: call(pool), error, says)


async def endless_items():
    while True:
        yield 1


def test_a_name_that_nobody_published_is_told_with_the_one_that_was_meant(pool):
    pool.publish("table", ready(pool))
    for call in (lambda: pool["tabel"], lambda: pool.unpublish("tabel")):
        assert_refused(pool, call, NameUnknown, r"under the name 'tabel'; did you mean 'table'\?")
    assert pool["table"].get() == 1
    pool.unpublish("table")


def public_calls():
    """Every call that there is, with the names of its arguments."""
    found = {}
    for name in distributed.__all__:
        thing = getattr(distributed, name)
        if not isinstance(thing, type) and name not in NO_CALLS:
            found[name] = thing
    for cls in CLASSES:
        if cls.__name__ not in MADE_BY_US:
            found[cls.__name__] = cls
        for name, method in inspect.getmembers(cls, callable):
            if (not name.startswith("_") and name in dir(cls)) or (name in SPECIAL and name in vars(cls)):
                found[f"{cls.__name__}.{name}"] = method
    for name in ("start", "is_client", "communicator"):
        found[f"mpi.{name}"] = getattr(mpi, name)
    for name in ("get_data", "update_data"):
        found[f"rpc.{name}"] = getattr(rpc("127.0.0.1:1", secret=SECRET), name)
    return {
        name: {argument for argument in inspect.signature(call).parameters if argument != "self"}
        for name, call in found.items()
    }


def test_the_tables_know_everything_that_is_public():
    """A new method or argument needs rows: what is wrong in its place, and what is said then?"""
    calls = public_calls()
    assert {name for name, arguments in calls.items() if not arguments} - {"Remote.__dir__"} == TAKES_NOTHING
    assert {name: arguments for name, arguments in calls.items() if arguments} == {
        name: set(arguments) for name, arguments in TAKES.items()
    }
    covered = {name.partition(".")[0] for name in (*TAKES, *TAKES_NOTHING)} | NO_CALLS | {"RemoteData"}
    assert set(distributed.__all__) <= covered, "each name of the package"


# ------------------------------------------------------------------------------------------------------ operations


WRONG_FOR = {
    "str": [None, 5, b"x", []],
    "bytes": [None, 5, "x", []],
    "bool": [None, 5, "x", []],
    "int": [None, "5", 1.5, True, []],
    "float": [None, "5", NAN, INFINITY, []],
    "list": [None, 5, "x", {}],
    "dict": [None, 5, "x", []],
    "Member": [None, 5, "x", []],
}


@pytest.mark.parametrize("operation", sorted(set(operations()) - {"get_data", "update_data"}))
def test_an_operation_by_hand_with_wrong_fields_is_refused_before_it_is_sent(operation):
    """Nobody listens at this address: what gets so far as to connect would be ConnectionFailed."""
    fields = [field for field in dataclasses.fields(REGISTRY[operation]) if str(field.type) != "Any"]
    call = getattr(rpc("127.0.0.1:1", secret=SECRET), operation)
    with pytest.raises(TypeError, match=rf"{operation}\(\) takes .*"):
        call(nonsense=1)
    for wrong in [field for field in fields if field.name != "buffers"]:
        for value in WRONG_FOR[str(wrong.type).partition("[")[0]]:
            if value == wrong.default:
                continue
            right = {field.name: sample(field) for field in fields}
            with pytest.raises(TypeError, match=f"{operation}.*") as caught:
                call(**{**right, wrong.name: value})
            assert len(str(caught.value)) < WORDS_MAX


def sample(field):
    kind = str(field.type).partition("[")[0]
    return {"Member": Member("a:1", "i", "n", 1, 1)}.get(kind) or {
        "str": "", "bytes": b"", "bool": False, "int": 0, "float": 0.0, "list": [], "dict": {},
    }[kind]  # fmt: skip


# -------------------------------------------------------------------------------------------------------- commands


NO_PORT = ["x", "-1", "65536", "1.5", "", " "]
NO_HOST = ["", "a b", "a:1", "x" * 300, "a\0b", "\udcff"]
NO_CORES = ["x", "0", "-1", "1.5", "", "1000000000"]
NO_SIZE = ["", "lots", "-1", "0", "nan", "1e9", "4 GB GB"]
NO_PATH = ["", "a\0b"]
COMMANDS = {
    "dcenter": {
        "--host": NO_HOST,
        "--port": NO_PORT,
        "--status-port": NO_PORT,
        "--tls-file": NO_PATH,
        "--ncores": NO_CORES,
        "--memory-limit": [*NO_SIZE, "1GiB"],  # without --ncores there is nothing that it limits
    },
    "dworker": {
        "HOST:PORT": [
            "",
            "a:b",
            "a:99999",
            ":1",
            "[::1",
            "a b:1",
            "a:1?tunnel=x.tunnel",
            "a:1?tunnel=/x",
            "?tunnel=/x",
        ],
        "--ncores": NO_CORES,
        "--memory-limit": NO_SIZE,
        "--task-memory-limit": NO_SIZE,
        "--resources": [
            "",
            "gpu",
            "gpu=",
            "gpu=x",
            "gpu=0",
            "gpu=-1",
            "gpu=1.5",
            "gpu=1,gpu=2",
            "=1",
            "gpu=1,",
            "a b=1",
        ],
        "--host": NO_HOST,
        "--port": NO_PORT,
        "--announce": NO_HOST,
        "--name": ["", "x" * 5000, "\udcff"],
        "--directory": NO_PATH,
        "--spill-directory": NO_PATH,
        "--tls-file": NO_PATH,
    },
    "python -m distributed.mpi": {
        "--ranks": ["", "x", "0", "1,1", "1-", "2-1", "1-2-3", "1-99999999999"],
        "--ncores": NO_CORES,
        "--memory-limit": NO_SIZE,
        "--spill-directory": NO_PATH,
        "--host": NO_HOST,
    },
    "status": {"HOST:PORT": ["", "a:b", "a:99999", ":1", "[::1", "a b:1", "a:1?via=", "a:1?by=b:1", "a?via=b:1"]},
}
SWITCHES = {
    "--insecure-plaintext",
    "--tls",
    "--verbose",
    "--via-center",
    "--json",
    "--help",
    "--version",
    "-m",
    "SCRIPT",
    "ARGUMENT",
}


def run_command(name, *arguments):
    doors = {"dcenter": cli.dcenter, "dworker": cli.dworker, "status": lambda argv: cli.main(["status", *argv])}
    return {**doors, "python -m distributed.mpi": mpi.main}[name](list(arguments))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [(name, option, value) for name, options in COMMANDS.items() for option in options for value in options[option]],
)
def test_a_wrong_option_is_a_line_that_names_it_and_exit_code_2(name, option, value, capsys):
    center = ["127.0.0.1:1"] if name == "dworker" and option != "HOST:PORT" else []
    with pytest.raises(SystemExit) as caught:
        run_command(name, *center, *([value] if option == "HOST:PORT" else [f"{option}={value}"]))
    last = capsys.readouterr().err.splitlines()[-1]
    assert caught.value.code == 2
    assert f"argument {option}: " in last
    assert len(last) < WORDS_MAX


def test_the_table_of_commands_knows_every_option(monkeypatch):
    """A new option needs a row: with what is it wrong, and what is said then?"""
    found = {}

    def note(parser, argv=None, namespace=None):
        actions = [action for action in parser._actions if action.help != argparse.SUPPRESS]
        name = parser.prog.removeprefix("python -m distributed ")
        found[name] = {action.option_strings[-1] if action.option_strings else action.metavar for action in actions}
        raise SystemExit

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", note)
    for name in ("dcenter", "dworker", "python -m distributed.mpi"):
        with pytest.raises(SystemExit):
            run_command(name)
    monkeypatch.undo()
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", noting_below(note))
    with pytest.raises(SystemExit):
        run_command("status")
    assert {name: options - SWITCHES for name, options in found.items()} == {
        name: set(options) for name, options in COMMANDS.items()
    }


def noting_below(note):
    """The parser of `python -m distributed` itself goes on to the one of its command."""
    original = argparse.ArgumentParser.parse_known_args

    def parse(parser, argv=None, namespace=None):
        return original(parser, argv, namespace) if parser.prog == "python -m distributed" else note(parser)

    return parse


# -------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("value", ["", "x", "nan", "inf", "-1", "1e400"])
@pytest.mark.parametrize("name", ["CONNECT_TIMEOUT_S", "NAMES_MAX"])
@pytest.mark.parametrize(
    "program", [["-m", "distributed", "center", "--port", "0"], ["-c", "import distributed.config"]]
)
def test_a_setting_that_makes_no_sense_is_named(program, name, value, monkeypatch):
    monkeypatch.setenv(f"DISTRIBUTED_{name}", value)
    done = subprocess.run([sys.executable, *program], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode in (1, 2)
    last = done.stderr.splitlines()[-1]
    assert f"DISTRIBUTED_{name}={value!r}" in last
    if program[0] == "-m":
        assert len(done.stderr.splitlines()) == 1, done.stderr
