"""Functions as bytes: by name or by value, and never a stale one."""

import asyncio
import functools
import gc
import json
import math
import operator
import pickle
import random
import sys
import threading
import types
import weakref

import numpy as np
import pytest

from distributed.errors import CannotPickle
from distributed.wire import values
from distributed.wire.functions import (
    FunctionCache,
    contents_of,
    is_asynchronous,
    name_of,
    pack_function,
    unpack_function,
)

MAIN = """
import json
import numpy as np
factor = 2
table = {'x': 1}
pair = (1, (2, 'alice'))
def scale(x):
    return x * factor
def twice(x):
    return scale(scale(x))
def nested(xs):
    return [(lambda y: y * factor)(x) for x in xs]
def later(x):
    return not_yet(x)
def look(x):
    return table[x]
def pairs():
    return pair
def countdown(n):
    return n and countdown(n - 1)
def even(n):
    return n == 0 or odd(n - 1)
def odd(n):
    return n != 0 and even(n - 1)
def text(x):
    return json.dumps(x)
def array(x):
    return np.negative(x)
class Alice:
    x = 1
def alice():
    return Alice.x
def attributes():
    return attributes.x
"""


@pytest.fixture
def main(monkeypatch):
    """A `__main__` of the test's own: importable by name here, and not the same elsewhere."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    exec(MAIN, module.__dict__)
    return module


def run(packed, *args):
    return unpack_function(packed.code)(*args)


class Counted(FunctionCache):
    """A cache whose hits are seen by identity."""

    def reuses(self, function):
        return self.pack(function) is self.pack(function)


# ------------------------------------------------------------------------------------------------------------- packing


@pytest.mark.parametrize("function", [len, math.sqrt, json.dumps, np.negative, dict.fromkeys, operator.add, str.upper])
def test_what_is_importable_goes_by_reference(function):
    packed = pack_function(function)
    assert unpack_function(packed.code) == function
    assert len(packed.code) < 100


def test_what_is_not_importable_goes_by_value(main):
    assert run(pack_function(lambda x: x + 1), 5) == 6
    assert run(pack_function(main.twice), 5) == 20
    assert run(pack_function(functools.partial(main.scale, 4))) == 8
    assert run(pack_function(main.even), 10) is True


def test_the_same_bytes_have_the_same_id_and_others_another():
    assert pack_function(len).id == pack_function(len).id
    assert pack_function(len).id != pack_function(abs).id
    assert len(pack_function(len).id) == 16


def test_large_arrays_in_a_closure_are_in_the_code():
    array = np.arange(10_000)[::2]
    assert run(pack_function(lambda: array.sum())) == array.sum()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (len, "builtins.len"),
        (json.dumps, "json.dumps"),
        (functools.partial(json.dumps, indent=2), "json.dumps"),
        (str.upper, "builtins.str.upper"),
        (operator.itemgetter(1), "operator.itemgetter"),
        (int, "builtins.int"),
        (np.negative, "numpy.negative"),
    ],
)
def test_names_are_for_people(function, name):
    assert name_of(function) == name


def test_a_lambda_is_named_by_where_it_is():
    assert name_of(lambda: 1).endswith("test_a_lambda_is_named_by_where_it_is.<locals>.<lambda>")


async def coroutine_function(x):
    return x


class AsynchronousCall:
    async def __call__(self, x):
        return x

    async def method(self, x):
        return x

    def plain(self, x):
        return x


def test_coroutine_functions_are_known():
    call = AsynchronousCall()
    for function in (coroutine_function, functools.partial(coroutine_function, 1), call, call.method, asyncio.sleep):
        assert is_asynchronous(function)
        assert pack_function(function).asynchronous
    for function in (len, call.plain, AsynchronousCall, functools.partial(len), lambda: 1, np.negative):
        assert not is_asynchronous(function)


class Handle:
    key = "c/1"

    def reference(self):
        return ["c/1", 1, 8, ["a:1"]]

    def reduce_outside(self):
        return str, ("outside",)

    def __reduce__(self):
        return values.reduce_handle(self)


def test_handles_in_closure_and_default_are_found():
    handle = Handle()
    assert pack_function(lambda: handle).handles == [handle]
    assert pack_function(lambda x=handle: x).handles == [handle]
    assert pack_function(lambda: 1).handles == []


@pytest.mark.parametrize("kind", ["closure", "default", "global", "keyword", "partial", "method"])
def test_the_error_names_what_the_function_drags_along(main, kind):
    lock = threading.Lock()
    main.table = lock

    def f():
        return lock

    class Bob:
        def __init__(self):
            self.lock = lock

        def work(self):
            pass

    function, path = {
        "closure": (f, "closure variable 'lock' of "),
        "default": (lambda x=lock: x, "default of 'x' of "),
        "keyword": (lambda *, x=lock: x, "default of 'x' of "),
        "global": (main.look, "global variable 'table' of look"),
        "partial": (functools.partial(len, lock), "builtins.len.args[0]"),
        "method": (Bob().work, ".lock"),
    }[kind]
    with pytest.raises(CannotPickle) as caught:
        pack_function(function)
    assert path in caught.value.path
    assert caught.value.what == "the function"


# ----------------------------------------------------------------------------------------------------------- the cache


def test_an_unchanged_function_is_pickled_once(main):
    cache = Counted()
    for function in (main.twice, main.nested, main.pairs, main.countdown, main.even, main.text, main.array, main.later):
        assert cache.reuses(function), function.__name__
    factor = 5
    assert cache.reuses(lambda x: x * factor)
    assert cache.reuses(json.dumps)


def test_the_lambda_in_a_loop_is_pickled_once():
    cache = FunctionCache()
    packed = {id(cache.pack(lambda x: x + 1)) for _ in range(10)}
    assert (len(packed), len(cache)) == (1, 1)


def test_a_loop_variable_in_a_closure_is_never_stale():
    cache = FunctionCache()
    assert [run(cache.pack(lambda i=i: i)) for i in range(600)] == list(range(600))

    def made(i):
        return lambda: i

    assert [run(cache.pack(made(i))) for i in range(600)] == list(range(600))


def test_a_changed_global_is_never_stale(main):
    cache = FunctionCache()
    for factor in (2, 3, 1000, 1001, 2.0, True, "ab"):
        main.factor = factor
        assert run(cache.pack(main.scale), 1) == factor
        assert type(run(cache.pack(main.scale), 1)) is type(factor * 1)
        assert factor == "ab" or run(cache.pack(main.twice), 1) == factor * factor
        assert run(cache.pack(main.nested), [1]) == [factor]


def test_a_changed_function_that_is_called_is_never_stale(main):
    cache = FunctionCache()
    assert run(cache.pack(main.twice), 1) == 4
    main.scale = lambda x: x + 10
    assert run(cache.pack(main.twice), 1) == 21
    main.scale.__code__ = (lambda x: x + 20).__code__
    assert run(cache.pack(main.twice), 1) == 41


def test_a_global_that_appears_or_goes_is_never_stale(main):
    cache = FunctionCache()
    with pytest.raises(NameError):
        run(cache.pack(main.later), 1)
    main.not_yet = main.scale
    assert run(cache.pack(main.later), 1) == 2
    del main.not_yet
    with pytest.raises(NameError):
        run(cache.pack(main.later), 1)


def test_a_changed_mutable_global_is_never_stale(main):
    cache = FunctionCache()
    for number in range(5):
        main.table["x"] = number
        assert run(cache.pack(main.look), "x") == number
    main.pair = (main.table,)
    for number in range(5):
        main.table["x"] = number
        assert run(cache.pack(main.pairs))[0]["x"] == number


def test_a_changed_class_is_never_stale(main):
    cache = FunctionCache()
    main.Alice.__module__ = "__main__"
    assert contents_of(main.alice) is None
    for number in range(5):
        main.Alice.x = number
        assert run(cache.pack(main.alice)) == number


def test_changed_code_defaults_cells_and_attributes_are_never_stale(main):
    cache = FunctionCache()

    def f(x=1, *, y=2):
        return x + y + cell

    cell = 0
    assert run(cache.pack(f)) == 3
    cell = 10
    assert run(cache.pack(f)) == 13
    f.__defaults__ = (2,)
    assert run(cache.pack(f)) == 14
    f.__kwdefaults__["y"] = 3
    assert run(cache.pack(f)) == 15
    for number in range(5):
        main.attributes.x = number
        assert run(cache.pack(main.attributes)) == number


def test_a_mutable_default_and_an_array_are_never_stale():
    cache = FunctionCache()
    items, array = [], np.zeros(3)

    def f(x=items):
        return len(x), array.sum()

    assert run(cache.pack(f)) == (0, 0)
    items.append(1)
    array[0] = 5
    assert run(cache.pack(f)) == (1, 5)


def test_a_function_with_handles_is_not_kept():
    cache, handle = FunctionCache(), Handle()
    assert cache.pack(lambda: handle).handles
    assert len(cache) == 0


def test_the_cache_keeps_no_function_alive():
    def made():
        def itself():
            return itself and 1

        return itself

    cache, function = FunctionCache(), made()
    cache.pack(function)
    assert len(cache) == 1
    reference = weakref.ref(function)
    del function
    gc.collect()
    assert reference() is None


def test_the_cache_is_bounded_in_number_and_bytes():
    cache = FunctionCache(functions_max=3)
    functions = [eval(f"lambda: {number}") for number in range(10)]
    for function in functions:
        cache.pack(function)
    assert len(cache) == 3
    assert cache.pack(functions[9]) is cache.pack(functions[9])
    small = FunctionCache(bytes_max=1500)
    for number in range(10):
        text = str(number) * 1000
        small.pack(eval("lambda text=text: text", {"text": text}))
        assert len(small) <= 1
    small.pack(eval("lambda text=text: text", {"text": "x" * 10_000}))
    assert small._nbytes <= 1500


def test_a_code_object_whose_address_is_used_again_is_another_function():
    cache = FunctionCache(functions_max=2)
    for number in range(2000):
        assert run(cache.pack(eval(f"lambda: {number}"))) == number


def test_unpicklable_functions_raise_from_the_cache_too():
    lock = threading.Lock()
    with pytest.raises(CannotPickle, match="closure variable 'lock'"):
        FunctionCache().pack(lambda: lock)


def test_the_code_is_a_plain_pickle():
    assert pickle.loads(pack_function(len).code) is len


@pytest.mark.parametrize("function", [random.random, random.gauss, functools.partial(random.uniform, 0, 1)])
def test_methods_that_a_module_has_as_functions_use_its_object(function):
    """Else each task had a new generator of random numbers, in the state of the client's, and all the same number."""
    there = unpack_function(pack_function(function).code)
    random.seed(1)
    first = there(), there()
    random.seed(1)
    assert first == (function(), function())
    assert first[0] != first[1]


def test_a_method_of_an_object_that_only_has_the_name_travels_with_its_object():
    """As of a generator of the user's own: each task has it as it was when the task was submitted."""
    own = random.Random(1)
    there = unpack_function(pack_function(own.random).code)
    assert there() == there() == own.random()
