"""Values that do everything wrong that a value can: each is a clear error at its place, or works; and the pool goes on.

What cannot be pickled is an error of the call that passed it, or of the task that returned it. What cannot be unpickled
is an error where it is unpickled, and says so. Exceptions arrive as themselves, or in words.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
import threading
import traceback
import types
from pathlib import Path

import numpy as np
import pytest

from conftest import leaks_looked_for_by_module
from distributed import Pool, as_completed
from distributed.config import SETTINGS
from distributed.errors import CannotPickle, RemoteError, TaskCrashed

WAIT_S = 60
WORDS_MAX = 500  # of which two hundred and more are the names of functions in here
MIB, GIB = 1 << 20, 1 << 30
DEEP = 100_000


no_leaks = leaks_looked_for_by_module()


@pytest.fixture(scope="module")
def pool(no_leaks):
    with Pool(2) as pool:
        yield pool


@pytest.fixture(autouse=True)
def the_pool_goes_on(request):
    yield
    if "pool" in request.fixturenames:
        pool = request.getfixturevalue("pool")
        assert pool.gather(pool.map(abs, range(-20, 0)), WAIT_S) == list(range(20, 0, -1))


# ----------------------------------------------------------------------------------------------- what refuses something


def refusing(method, error=ZeroDivisionError):
    """An object whose method raises."""

    def refuse(self, *_):
        raise error(method)

    return type("Refusing", (), {method: refuse, "__hash__": refuse if method == "__hash__" else object.__hash__})()


def raise_when_loaded(error=LookupError):
    raise error("when it was loaded")


class Loading:
    """Its pickle calls a function."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def deep(levels):
    nested = []
    for _ in range(levels):
        nested = [nested]
    return nested


def deep_object(levels):
    nested = None
    for _ in range(levels):
        nested = types.SimpleNamespace(inner=nested)
    return nested


def endless():
    nested = []
    nested.append(nested)
    return nested


def in_module(source, name):
    """Something of a module that only the process has which calls this."""
    module = types.ModuleType("only_here")
    exec(source, module.__dict__)
    sys.modules["only_here"] = module
    return getattr(module, name)


UNPICKLABLE = {
    "a lock": threading.Lock,
    "a socket": socket.socket,
    "a generator": lambda: (x for x in [1]),
    "a frame": sys._getframe,
    "a thread": threading.current_thread,
    "its __reduce__ raises": lambda: refusing("__reduce__"),
    "its __getstate__ raises": lambda: refusing("__getstate__"),
    "deep lists": lambda: deep(DEEP),
    "deep objects": lambda: deep_object(DEEP),
    "__repr__ raises beside a lock": lambda: [refusing("__repr__"), threading.Lock()],
    "__repr__ raises in a key": lambda: {refusing("__repr__"): threading.Lock()},
}


@pytest.mark.parametrize("kind", UNPICKLABLE)
def test_what_cannot_be_pickled_is_an_error_of_who_passes_or_returns_it(pool, kind):
    make = UNPICKLABLE[kind]
    value = make()
    calls = [
        lambda: pool.submit(len, value),
        lambda: pool.map(len, [1, value]),
        lambda: pool.submit(print, end=value),
        lambda: pool.scatter(value),
        lambda: pool.scatter({"x": value}),
        lambda: pool.submit(lambda: value),
        lambda: pool.submit(make).get(WAIT_S),
        lambda: pool.gather(pool.map(lambda _: make(), range(2)), WAIT_S),
        lambda: list(pool.imap(lambda _: make(), range(2))),
        lambda: list(pool.imap(len, [value])),
    ]
    for call in calls:
        with pytest.raises(CannotPickle) as caught:
            call()
        words = str(caught.value)
        assert words.startswith("cannot send ")
        assert len(words) < WORDS_MAX, words
    if hasattr(value, "close"):
        value.close()


@pytest.mark.parametrize(
    "method",
    [
        "__eq__",
        "__hash__",
        "__bool__",
        "__len__",
        "__repr__",
        "__str__",
        "__iter__",
        "__call__",
        "__sizeof__",
        "__format__",
    ],
)
def test_objects_that_refuse_anything_but_travelling_travel(pool, method):
    value = refusing(method)
    for returned in (
        pool.submit(lambda x: x, value).get(WAIT_S),
        pool.submit(lambda: value).get(WAIT_S),
        pool.gather({"x": [value, pool.scatter([value])[0]]})["x"][1],
        next(pool.imap(lambda x: x, [value])),
    ):
        assert type(returned).__name__ == "Refusing"


def test_an_object_that_refuses_to_be_looked_at_travels(pool):
    class Closed:
        def __getattr__(self, name):
            raise ZeroDivisionError(name)

    returned = pool.submit(lambda x: [x], Closed()).get(WAIT_S)[0]
    with pytest.raises(ZeroDivisionError):
        returned.something


def test_an_object_whose_end_raises_is_no_task_s_error(pool, capfd):
    class Bad:
        def __del__(self):
            raise ZeroDivisionError("in __del__")

    assert pool.submit(lambda: len([Bad(), Bad()])).get(WAIT_S) == 2


@pytest.mark.parametrize("error", [LookupError, SystemExit, KeyboardInterrupt, MemoryError, RecursionError])
def test_what_cannot_be_unpickled_says_where_that_was(pool, error):
    """A result in the client, an argument and a stored input in the executor; each with a note that tells of it."""
    value = Loading(raise_when_loaded, error)
    result = pool.submit(lambda: Loading(raise_when_loaded, error))
    for call, words in (
        (lambda: result.get(WAIT_S), f"{result.key}.* was unpickled in this process"),
        (lambda: pool.gather([pool.submit(int), result], WAIT_S), f"{result.key}.* was unpickled in this process"),
        (lambda: result.result(WAIT_S), "was unpickled in this process"),
        (lambda: pool.submit(len, value).get(WAIT_S), "arguments of builtins.len were unpickled in the executor"),
        (lambda: pool.submit(len, result).get(WAIT_S), "arguments of builtins.len were unpickled in the executor"),
        (lambda: pool.scatter(value).get(WAIT_S), "was unpickled in this process"),
    ):
        with pytest.raises(error) as caught:
            call()
        assert re.search(words, "".join(traceback.format_exception(caught.value))), words
        assert "when it was loaded" in str(caught.value)
    assert result.successful(), "the task itself has done nothing wrong"


def test_values_that_cannot_be_unpickled_keep_their_place_in_an_imap(pool):
    values = pool.imap(lambda x: Loading(raise_when_loaded) if x == 2 else x, range(4), chunksize=1)
    assert [next(values), next(values)] == [0, 1]
    with pytest.raises(LookupError, match="when it was loaded"):
        next(values)
    assert next(values) == 3


def test_an_argument_that_ends_the_executor_when_it_is_unpickled_is_a_crash(pool):
    with pytest.raises(TaskCrashed, match="exit code 7"):
        pool.options(attempts=1).submit(len, Loading(os._exit, 7)).get(WAIT_S)


def test_a_class_that_is_not_importable_here_is_named_with_the_task(pool):
    handle = pool.submit(lambda: in_module("class Ghost:\n    pass", "Ghost")())
    with pytest.raises(ModuleNotFoundError, match="only_here") as caught:
        handle.get(WAIT_S)
    assert handle.key in caught.value.__notes__[0]


def test_data_may_refer_to_itself(pool):
    for returned in (
        pool.submit(endless).get(WAIT_S),
        pool.submit(lambda x: x, endless()).get(WAIT_S),
        pool.scatter([endless()])[0].get(WAIT_S),
    ):
        assert returned[0] is returned


def test_gather_says_that_what_contains_itself_cannot_be_walked_through(pool):
    for nested in (endless(), deep(DEEP)):
        with pytest.raises(ValueError, match="contains itself, or is nested too deeply"):
            pool.gather(nested)


def test_a_module_is_a_result_like_any_other(pool):
    assert pool.submit(lambda: os).get(WAIT_S) is os


# -------------------------------------------------------------------------------------------------------- exceptions


def raised(make):
    raise make()


class Wants(Exception):
    def __init__(self, code, *, reason):
        super().__init__(f"{code}: {reason}")
        self.code = code


class NoWords(Exception):
    def __str__(self):
        raise ZeroDivisionError("no words")

    __repr__ = __str__


class Frozen(Exception):
    def __setattr__(self, name, value):
        raise AttributeError("frozen")


def chained(count):
    """Causes of causes; with 0, an exception that is its own cause."""
    error = last = ValueError("chained")
    for number in range(count):
        last.__cause__ = LookupError(number)
        last = last.__cause__
    last.__cause__ = error
    return error


def in_circles():
    error = ValueError("in circles")
    error.__context__ = LookupError("other")
    error.__context__.__context__ = error
    return error


AS_THEMSELVES = {
    "a constructor with other arguments": lambda: Wants(7, reason="because"),
    "its own cause": lambda: chained(0),
    "a circle of causes": lambda: chained(1),
    "a long circle of causes": lambda: chained(3000),
    "a circle of contexts": in_circles,
    "a group": lambda: ExceptionGroup("many", [ValueError(1), ExceptionGroup("more", [TypeError(2)])]),
    "a group of interrupts": lambda: BaseExceptionGroup("many", [KeyboardInterrupt(1)]),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": lambda: KeyboardInterrupt("now"),
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration(5),
    "StopAsyncIteration": lambda: StopAsyncIteration(5),
    "CancelledError": asyncio.CancelledError,
    "a BaseException": lambda: type("Strange", (BaseException,), {})("strange"),
    "without words": NoWords,
    "frozen": Frozen,
    "words that cannot be encoded": lambda: ValueError("\ud800"),
    "bytes that cannot be decoded": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "because"),
    "a megabyte of words": lambda: ValueError("x" * MIB),
}


@pytest.mark.parametrize("kind", AS_THEMSELVES)
def test_exceptions_of_all_kinds_arrive_as_themselves(pool, kind):
    make = AS_THEMSELVES[kind]
    expected = type(make())
    handle = pool.submit(raised, make)
    with pytest.raises(BaseException) as caught:
        handle.get(WAIT_S)
    for error in (caught.value, handle.exception(WAIT_S), handle.get(WAIT_S, reraise=False).exception):
        assert type(error).__name__ == expected.__name__
        assert error.__cause__ is not None, "the remote traceback"
    failed = pool.map(raised, [make] * 2)
    assert not any(handle.successful() for handle in as_completed(failed, WAIT_S))


def with_attribute():
    error = ValueError("told")
    error.lock = threading.Lock()
    return error


def with_pickle(function, *arguments):
    return lambda: type("Bad", (Exception,), {"__reduce__": lambda self: (function, arguments)})("told")


IN_WORDS = {
    "an attribute that cannot be pickled": (with_attribute, "cannot be pickled"),
    "a pickle that raises": (with_pickle(int, "x"), "cannot be unpickled here: ValueError"),
    "a pickle that exits": (with_pickle(sys.exit, 5), "cannot be unpickled here: SystemExit"),
    "a pickle of something else": (with_pickle(int), "its pickle gives a int"),
    "a class that is not importable here": (
        lambda: in_module("class Gone(Exception):\n    pass", "Gone")("told"),
        "No module named 'only_here'",
    ),
    "too large": (lambda: ValueError("told", bytes(SETTINGS.exception_bytes_max)), "more than 16.0 MiB"),
    "too deep": (lambda: ValueError("told", deep(DEEP)), "recursion"),
}


@pytest.mark.parametrize("kind", IN_WORDS)
def test_exceptions_that_cannot_be_sent_are_told_in_words(pool, kind):
    make, reason = IN_WORDS[kind]
    for handle in [pool.submit(raised, make), *pool.map(raised, [make])]:
        with pytest.raises(RemoteError, match="told") as caught:
            handle.get(WAIT_S)
        assert reason in caught.value.reason
        assert "in raised" in caught.value.traceback


def test_a_task_that_recurses_without_end_fails_alone(pool):
    def again():
        return again()

    with pytest.raises(RecursionError):
        pool.submit(again).get(WAIT_S)


# --------------------------------------------------------------------------------------------------------- functions


def test_functions_without_source_and_with_a_large_closure_run(pool):
    namespace = {}
    exec("def f(x):\n    return 6 / x", namespace)
    assert pool.submit(namespace["f"], 2).get(WAIT_S) == 3
    with pytest.raises(ZeroDivisionError):
        pool.submit(namespace["f"], 0).get(WAIT_S)
    data = os.urandom(100 * MIB)
    assert pool.gather(pool.map(lambda at: data[at], [0, -1]), WAIT_S) == [data[0], data[-1]]


def test_a_task_may_close_or_replace_its_streams(pool):
    def spoil(how):
        if how == "close":
            sys.stdout.close()
        else:
            sys.stdout = sys.stderr = how

    for how in ("close", None, 5):
        with Pool(1) as small:
            assert small.submit(spoil, how).get(WAIT_S) is None
            assert small.submit(abs, -1).get(WAIT_S) == 1


# ------------------------------------------------------------------------------------------------------------- sizes


def test_large_arguments_are_found_wherever_they_hide(pool):
    """Nothing in `[data]` shows that it is large; as a part of a message it would have to be read in one go."""
    data, large = bytes(2 * MIB), bytes(300 * MIB)
    sent = pool.counters["bytes_sent"]
    assert pool.submit(lambda x: len(x["y"][0]), {"y": [large]}).get(WAIT_S) == len(large), (
        "more than a message may have"
    )
    assert pool.gather(pool.map(lambda x, y: (len(x[0]), y), [[data]] * 9, [5] * 9), WAIT_S) == [(len(data), 5)] * 9
    assert pool.submit(lambda *, x: len(x[0]), x=[data]).get(WAIT_S) == len(data)
    assert list(pool.imap(lambda x: len(x[0]), [[data]])) == [len(data)]
    assert pool.counters["bytes_sent"] - sent < len(large) + 4 * len(data), "and nine times the same is sent once"


def test_large_arguments_beside_handles_are_refused_with_advice(pool):
    one = pool.submit(abs, -1)
    with pytest.raises(CannotPickle, match="scatter the large ones first"):
        pool.submit(len, [one, bytes(SETTINGS.payload_bytes_max)])
    assert pool.submit(lambda x: x[0], [one, bytes(2 * MIB)]).get(WAIT_S) == 1


def test_names_of_all_kinds(pool):
    for name in ["a/b", "../x", " ", "\n", "\0", "ü", "'", "x" * 4096, "{}", "%s", "\u202e", "/", "a\tb", "None"]:
        assert pool.options(key=name).submit(abs, -1).get(WAIT_S) == 1
        pool.publish(name, pool.submit(abs, -2))
        assert name in pool
        assert pool[name].get(WAIT_S) == 2
        pool.unpublish(name)
        assert name not in pool


def test_nothing_at_all(pool):
    assert (pool.map(abs, []), list(pool.imap(abs, [])), pool.starmap(abs, []), pool.gather([])) == ([], [], [], [])
    assert (pool.scatter([]), pool.scatter({}), pool.who_has([]), list(as_completed([]))) == ([], {}, {}, [])


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_million_keys(pool):
    handles = pool.map(abs, range(1_000_000))
    assert sum(pool.gather(handles, 110)) == 499_999_500_000
    assert len(pool.who_has(handles[:100_000])) == 100_000


@pytest.mark.slow
def test_a_question_about_many_long_keys_is_asked_in_parts(pool):
    names = [f"{number:0>4000}" for number in range(80_000)]  # together more than a message may have
    assert set(map(tuple, pool.who_has(names).values())) == {()}


def memory_available_bytes():
    return int(re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1]) * 1024


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(memory_available_bytes() < 18 * GIB, reason="needs 18 GiB of memory that nobody uses")
@pytest.mark.parametrize("kind", ["bytes", "array", "pickled"])
def test_a_value_of_5_gib_goes_there_and_back(kind):
    """Beyond four GiB each length is a number of more than 32 bits: in frames, files, mappings, and calls of write."""
    size = 5 * GIB
    marks = {0: 1, (4 << 30) - 1: 2, 4 << 30: 3, size - 1: 4}

    def marked():
        data = np.zeros(size, np.uint8)
        for at, mark in marks.items():
            data[at] = mark
        if kind == "array":
            return data
        data = data.tobytes()
        return data if kind == "bytes" else Envelope(data)

    def marks_of(value):
        content = value.content if isinstance(value, Envelope) else value
        return len(content), [int(content[at]) for at in marks]

    class Envelope:
        def __init__(self, content):
            self.content = content

    expected = size, list(marks.values())
    with Pool(1) as pool:
        there = pool.scatter([marked()])[0]
        assert pool.submit(marks_of, there).get(200) == expected
        there.release()
        made = pool.submit(marked)
        assert pool.submit(marks_of, made).get(200) == expected
        assert marks_of(made.get(200)) == expected
        assert made.nbytes > size
