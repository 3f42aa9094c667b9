"""Deferred calls: whatever a program does with what they return, it does with the value."""

from __future__ import annotations

import asyncio
import builtins
import copy
import math
import operator
import pickle
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

from conftest import leaks_looked_for_by_module
from distributed import Pool, as_completed, wait
from distributed.errors import PoolClosed, TaskTimeout

no_leaks = leaks_looked_for_by_module()


@pytest.fixture(scope="module")
def pool(no_leaks):
    with Pool(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def deferred(pool):
    return pool.defer(lambda value: value)


class Account:
    """A class of the program, with a bit of everything."""

    def __init__(self, balance):
        self.balance = balance
        self.entered = False

    def __enter__(self):
        self.entered = True
        return self

    def __exit__(self, *error):
        self.entered = False

    def __call__(self, amount):
        return self.balance + amount

    def __len__(self):
        return self.balance

    def __contains__(self, item):
        return item == self.balance


class Countdown:
    def __init__(self, number):
        self.number = number + 1

    def __aiter__(self):
        return self

    async def __anext__(self):
        self.number -= 1
        if not self.number:
            raise StopAsyncIteration
        return self.number


USES = [
    (7, lambda x: x + 1), (7, lambda x: 1 + x), (7, lambda x: -x), (7, lambda x: x**2), (7, lambda x: divmod(x, 2)),
    (7, lambda x: x == 7), (7, lambda x: x < 8), (7, lambda x: hash(x)), (7, bool), (0, bool), (7, str), (7, float),
    (7, lambda x: f"{x:04d}"), (7, lambda x: isinstance(x, int)), (7, math.sqrt),
    (7, lambda x: list(range(x))), (7, lambda x: "abcdefgh"[x]), (7, oct), (7, hex),
    ("abc", lambda x: x.upper()), ("abc", len), ("abc", lambda x: x[1]), ("abc", lambda x: "b" in x), ("abc", list),
    ("abc", lambda x: "-".join(x)), ("abc", lambda x: x + "d"), ("abc", repr), ("/tmp", lambda x: x.__class__),
    ([3, 1, 2], sorted), ([3, 1, 2], lambda x: [*x]), ([3, 1, 2], lambda x: x[::-1]), ([1, 2], lambda x: x + [3]),
    ({"a": 1}, lambda x: x["a"]), ({"a": 1}, lambda x: {**x}), ({"a": 1}, dict), ({"a": 1}, lambda x: list(x.items())),
    (None, lambda x: x == None), (None, bool), (None, str), (None, lambda x: isinstance(x, type(None))),  # noqa: E711
    (b"xy", bytes), ({1, 2}, lambda x: x | {3}), (1.5, round), (1.5, math.floor),
    (operator.add, lambda x: x(1, 2)), (len, callable),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(USES)))
def test_it_does_what_its_value_does(deferred, case):
    value, use = USES[case]
    if repr is use:  # shows the pending call first: looked at below
        use = ascii
        late = deferred(value)
        str(late)
        assert use(late) == use(value)
        return
    assert use(deferred(value)) == use(value)


def test_an_object_of_the_programs_own_class(deferred):
    account = deferred(Account(10))
    assert account.balance == 10 and len(account) == 10 and account(5) == 15 and 10 in account
    assert isinstance(account, Account)
    with account as entered:
        assert entered.entered
    account.balance = 11
    assert account.balance == 11 and vars(account) == {"balance": 11, "entered": False}
    assert "balance" in dir(account)


def test_a_deferred_argument_is_a_dependency_wherever_it_hides(pool, deferred):
    add = pool.defer(operator.add)
    gate = pool.defer(lambda seconds: time.sleep(seconds) or 1)(0.2)
    nested = pool.defer(lambda table, *, extra: table["x"][0] + extra())
    total = nested({"x": [add(gate, 1)]}, extra=lambda: gate + 10)
    assert repr(total).startswith("<Deferred")
    assert total == 13


def test_building_a_graph_waits_for_nothing(pool):
    slow = pool.defer(lambda: time.sleep(0.3) or 1)
    add = pool.defer(operator.add)
    first = slow()
    second = add(first, (lambda: 1)())
    third = pool.defer(lambda f: f() + 1)(lambda: second)  # in a closure, which takes cloudpickle
    assert not any(handle._self_handle.ready() for handle in (first, second, third))
    assert third == 3


def test_repr_shows_the_call_until_the_value_is_here(pool):
    @pool.defer
    def scale(number, by=1):
        return number * by

    inner = scale(2)
    outer = scale(inner, by=3)
    outer._self_handle.wait()
    assert repr(outer) == "<Deferred scale(scale(2), by=3): done>"
    assert outer == 6
    assert repr(outer) == "6"
    assert scale.__name__ == "scale"


def test_an_array_is_one_in_numpy(deferred):
    array = deferred(np.arange(6.0).reshape(2, 3))
    assert array.sum() == 15 and np.sum(array) == 15 and (array + 1)[1, 2] == 6 and array.shape == (2, 3)
    assert np.asarray(array).flags.c_contiguous and (np.ones(3) + array).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_number_is_one_in_numpy(deferred):
    """And not an object, of which it would make arrays of objects."""
    for made in (
        np.ones(2) * deferred(2),
        np.array([deferred(1.0), 2]),
        np.full(2, deferred(2.0)),
        np.sqrt(deferred(4)),
    ):
        assert made.dtype == float
    out = np.zeros(2)
    assert np.add(deferred([1, 2]), deferred(1), out=out) is out and out.tolist() == [2, 3]
    assert np.add.reduce(deferred([1, 2]), axis=deferred(0)) == 3
    assert np.asarray(deferred([1, 2]), dtype=float).dtype == float


def test_asynchronous_iteration_is_over_its_value(deferred):
    async def main():
        return [number async for number in deferred(Countdown(2))]

    assert asyncio.run(main()) == [2, 1]


def test_it_can_be_published(pool, deferred):
    pool.publish("deferred", deferred(5))
    assert pool["deferred"].get() == 5
    pool.unpublish("deferred")


def test_none_is_a_result(deferred):
    nothing = deferred(None)
    assert nothing == None  # noqa: E711 - `is` cannot be asked of a stand-in
    assert repr(nothing) == "None" and not nothing


def test_an_error_surfaces_at_first_use_and_leads_to_the_deferred_calls_line(pool):
    @pool.defer
    def fail(message):
        raise LookupError(message)

    failed = fail("not in the book")  # this line
    heir = pool.defer(len)(failed)
    for late in (failed, heir):
        with pytest.raises(LookupError, match="not in the book") as caught:
            late + 1
        text = "".join(traceback.format_exception(caught.value))
        assert "raise LookupError(message)" in text, "where it was raised, remotely"
        assert f'deferred in File "{__file__}", line ' in text
    lines = Path(__file__).read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if text.endswith("# this line"))
    with pytest.raises(LookupError) as caught:
        bool(failed)
    assert caught.value.__notes__ == [
        f'deferred in File "{__file__}", line {line}, in '
        "test_an_error_surfaces_at_first_use_and_leads_to_the_deferred_calls_line"
    ]


def test_a_failed_input_fails_its_dependents_at_once_with_the_original_cause(pool):
    add = pool.defer(operator.add)
    bad = pool.defer(lambda: 1 / 0)()
    sleeping = pool.defer(lambda: time.sleep(60))()
    late = add(bad, sleeping)
    with pytest.raises(ZeroDivisionError):
        str(late)
    sleeping._self_handle.cancel()


def test_options_go_along(pool):
    with pytest.raises(TaskTimeout):
        str(pool.options(timeout=0.1).defer(time.sleep)(60))


def test_changes_stay_here_and_in_place_operators_give_plain_values(deferred, pool):
    numbers = deferred([1, 2])
    numbers.append(3)
    assert numbers == [1, 2, 3]
    assert pool.submit(len, numbers).get() == 2, "a task gets the value as it was computed"
    count = deferred(5)
    before = count
    count += 1
    assert (count, type(count), before) == (6, int, 5)


def test_as_completed_and_wait_take_them_for_their_handles_and_use_none(pool, deferred):
    later = [deferred(number) for number in range(3)]
    assert sorted(handle.get() for handle in as_completed(later)) == [0, 1, 2]
    assert {handle.get() for handle in wait(later).done} == {0, 1, 2}
    assert all(repr(value).startswith("<Deferred") for value in later)


def test_copies_are_of_the_value(deferred):
    original = deferred([[1]])
    shallow, deep = copy.copy(original), copy.deepcopy(original)
    original[0].append(2)
    assert (shallow, deep, type(deep)) == ([[1, 2]], [[1]], list)


def test_it_can_be_awaited(deferred):
    async def main():
        return await deferred(4) + await deferred(5)

    assert asyncio.run(main()) == 9


def test_all_threads_get_one_object(deferred):
    late = deferred([0] * 100_000)
    found = []
    threads = [threading.Thread(target=lambda: found.append(id(late.__wrapped__))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1


def test_outside_of_tasks_it_is_pickled_as_its_handle(deferred):
    again = pickle.loads(pickle.dumps(deferred(3)))
    assert again.get() == 3


def test_used_after_close_it_says_so():
    with Pool(1) as pool:
        late = pool.defer(bytes)(1_000_000)
        late._self_handle.wait()
        small = pool.defer(abs)(-1)
        small._self_handle.wait()
    assert small == 1, "a small value came with the news that it is there"
    with pytest.raises(PoolClosed, match="closed"):
        len(late)
    assert "bytes(1000000)" in repr(late)


def test_only_functions_can_be_deferred(pool):
    with pytest.raises(TypeError, match="callable"):
        pool.defer(5)


def test_without_wrapt_the_error_says_what_to_install(tmp_path):
    (tmp_path / "wrapt.py").write_text("raise ImportError('no wrapt here')")
    program = "import distributed.pool.deferred"
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {program}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "ImportError: deferred calls need wrapt" in ran.stderr
    assert "pip install wrapt" in ran.stderr


def test_builtins_that_look_at_types_wait_too(deferred):
    assert builtins.sum([deferred(1), deferred(2)]) == 3
    assert max(deferred(1), deferred(2)) == 2
