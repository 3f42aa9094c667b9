"""A pool with real executors: what users do with it, and what it says when they do it wrong."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import ctypes
import functools
import operator
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback

import numpy as np
import pytest

from conftest import leaks_looked_for_by_module
from distributed import Cluster, Pool, as_completed, rpc, wait
from distributed.errors import (
    BadAddress,
    CannotPickle,
    ConnectionFailed,
    GroupFailed,
    InitializerFailed,
    KeyLost,
    PoolClosed,
    TaskCancelled,
    TaskCrashed,
    TaskTimeout,
)
from distributed.pool.remote import FIRST_COMPLETED, FIRST_EXCEPTION, Failure

no_leaks = leaks_looked_for_by_module()


@pytest.fixture(scope="module")
def pool(no_leaks):
    with Pool(2) as pool:
        yield pool


def make_array(n):
    return np.full(131_072, n, dtype=float)


def add(x, y):
    return x + y


# ------------------------------------------------------------------------------------------------------- calls, results


def test_map_gives_one_handle_for_each_item(pool):
    handles = pool.map(lambda x: x * 10, [1, 2, 3])
    assert [handle.get() for handle in handles] == [10, 20, 30]


def test_map_over_several_iterables_ends_with_the_shortest(pool):
    assert pool.gather(pool.map(add, [1, 2, 3], [10, 20])) == [11, 22]


def test_map_over_nothing_is_nothing(pool):
    assert pool.map(abs, []) == []


def test_a_map_over_a_generator_that_raises_raises_and_the_pool_goes_on(pool):
    def items():
        yield 1
        raise ZeroDivisionError("half-way")

    with pytest.raises(ZeroDivisionError, match="half-way"):
        pool.map(abs, items())
    assert pool.submit(abs, -1).get() == 1


def test_submit_passes_keywords(pool):
    assert pool.submit(int, "ff", base=16).get() == 255


def test_keywords_of_the_function_never_collide_with_options(pool):
    def f(timeout, key, priority):
        return timeout, key, priority

    assert pool.submit(f, timeout=1, key=2, priority=3).get() == (1, 2, 3)


def test_apply_waits_and_returns_the_value(pool):
    assert pool.apply(divmod, (17, 5)) == (3, 2)


def test_a_task_that_was_applied_is_cancelled_when_the_wait_for_it_is_interrupted():
    with Pool(1) as pool:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            pool.apply(time.sleep, (60,))
        assert pool.submit(abs, -1).get(timeout=10) == 1  # on the only executor


class Counter:
    """Counts the calls of itself."""

    def __init__(self):
        self.calls = 0

    def __call__(self, *_):
        self.calls += 1
        return self.calls

    def divide(self, number):
        return self() / number


@pytest.mark.parametrize("function", [Counter(), Counter().divide, functools.partial(Counter(), 1)])
def test_what_a_call_does_to_the_object_of_its_function_is_not_seen_by_others(pool, function):
    assert set(pool.gather(pool.map(function, [1] * 20))) == {1}
    assert set(pool.imap(function, [1] * 200, chunksize=50)) == {1}
    assert set(pool.imap(function, [1] * 20, chunksize=1)) == {1}


@pytest.mark.parametrize("call", [Pool.submit, lambda pool, *call: pool.imap(call[0], [call[1]], chunksize=2)])
def test_the_traceback_of_a_method_begins_in_the_users_code(pool, call):
    with pytest.raises(ZeroDivisionError) as raised:
        called = call(pool, Counter().divide, 0)
        called.get() if call is Pool.submit else list(called)
    remote = str(raised.value.__cause__)
    assert remote.count("  File ") == 1 and "in divide" in remote


def test_apply_async_calls_back_with_value_or_error(pool):
    arrived, event = [], threading.Event()

    def note(value):
        arrived.append(value)
        if len(arrived) == 2:
            event.set()

    pool.apply_async(add, (1, 2), callback=note)
    pool.apply_async(operator.truediv, (1, 0), callback=note, error_callback=lambda error: note(type(error)))
    assert event.wait(10)
    assert sorted(arrived, key=str) == [3, ZeroDivisionError]


def test_starmap_unpacks_tuples(pool):
    assert pool.gather(pool.starmap(pow, [(2, 5), (3, 2)])) == [32, 9]


def test_none_is_a_result(pool):
    handle = pool.submit(lambda: None)
    assert handle.get() is None
    assert handle.successful()


def test_coroutine_functions_are_awaited_many_at_a_time_beside_plain_ones(pool):
    async def meet(name):
        room = sys.__dict__.setdefault("meeting_room", set())  # of the one executor that awaits them all
        room.add(name)
        while len(room) < 50:  # noqa: ASYNC110 - nobody leaves before everybody came
            await asyncio.sleep(0.01)
        return name

    waiting = pool.map(meet, range(49))
    assert pool.gather(pool.map(abs, range(-100, 0)), 30) == list(range(100, 0, -1))
    assert not any(handle.ready() for handle in waiting)
    assert pool.gather([*waiting, pool.submit(meet, 49)], 30) == list(range(50))


def test_a_changed_global_is_never_stale(pool):
    namespace = {"__name__": "__main__", "factor": 1}
    exec("def scaled(x): return x * factor", namespace)
    assert pool.submit(namespace["scaled"], 3).get() == 3
    namespace["factor"] = 2
    assert pool.submit(namespace["scaled"], 3).get() == 6


# -------------------------------------------------------------------------------------------------------------- handles


def test_handles_are_found_anywhere_in_the_arguments(pool):
    one, two = pool.map(abs, [-1, -2])

    class Box:
        def __init__(self, content):
            self.content = content

    assert pool.submit(lambda box, x, *, y: (box.content, x["a"][0], y), Box(one), {"a": [two]}, y=one).get() == (
        1,
        2,
        1,
    )


def test_handles_in_closures_and_defaults_are_dependencies(pool):
    one = pool.submit(abs, -1)
    assert pool.submit(lambda: one + 1).get() == 2
    assert pool.gather(pool.map(lambda x, y=one: x + y, [1, 2])) == [2, 3]


def test_a_large_closure_travels_once_as_data(pool):
    table = os.urandom(1_000_000)
    sent = pool.counters["bytes_sent"]
    assert pool.gather(pool.map(lambda i: table[i], range(20))) == list(table[:20])
    assert pool.counters["bytes_sent"] - sent < 100_000


def test_a_task_that_returns_its_handle_gives_a_handle(pool):
    inner = pool.submit(make_array, 5)
    box = pool.scatter({"box": [inner]})["box"]
    returned = pool.submit(lambda found: found[0], box)
    again = returned.get()
    assert again.key == inner.key
    del inner, box
    assert again.get()[0] == 5


def test_copies_of_a_handle_are_the_handle(pool):
    handle = pool.submit(abs, -1)
    assert copy.copy(handle) is handle
    assert copy.deepcopy([handle])[0] is handle


def test_a_pickled_handle_comes_back_as_a_handle_of_the_same_value(pool):
    handle = pool.submit(make_array, 3)
    again = pickle.loads(pickle.dumps(handle))
    assert again.key == handle.key
    assert again.get()[0] == 3
    again.release()


def test_repr_tells_the_state_and_never_waits(pool):
    handle = pool.submit(time.sleep, 0.2)
    assert "pending" in repr(handle)
    handle.get()
    assert "done" in repr(handle)


def test_gather_keeps_the_nesting(pool):
    a, b = pool.map(abs, [-1, -2])
    assert pool.gather({"x": [a, (b, 5)], "y": None}) == {"x": [1, (2, 5)], "y": None}


def test_scatter_of_list_dict_and_single(pool):
    a, b = pool.scatter([1, 2])
    assert pool.submit(add, a, b).get() == 3
    assert pool.scatter({"x": "alice"})["x"].get() == "alice"
    array = np.arange(100_000)
    assert (pool.scatter(array).get() == array).all()


def test_a_chain_of_a_thousand_tasks(pool):
    x = pool.submit(abs, 0)
    for _ in range(1000):
        x = pool.submit(add, x, 1)
    assert x.get(60) == 1000


def test_large_results_do_not_cross_the_sockets_of_the_client(pool):
    before = pool.counters
    arrays = pool.map(make_array, range(10))
    negative = pool.map(np.negative, arrays)
    total = pool.apply(lambda blocks: sum(float(block.sum()) for block in blocks), [negative])
    after = pool.counters
    assert total == -sum(range(10)) * 131_072
    crossed = sum(after[name] - before[name] for name in ("bytes_sent", "bytes_received"))
    assert crossed < 100 * 1024


def test_numbers_instead_of_arrays(pool):
    squares = pool.map(lambda x: x**2, range(10))
    negative = pool.map(operator.neg, squares)
    assert pool.apply(sum, [negative]) == -285


def test_a_large_argument_used_twice_goes_to_the_store_once(pool):
    big = np.random.default_rng(0).random(200_000)
    before = number_of(pool.submit(abs, 1).key)
    handles = pool.map(lambda array, i: float(array[i]), [big] * 10, range(10))
    assert pool.gather(handles) == list(big[:10])
    since = [key for key in pool.has_what()[pool.workers[0]] if number_of(key) > before]
    assert len(since) <= 11  # the array, and ten results


def number_of(key):
    return int(key.partition("/")[2])


def test_a_task_that_writes_into_its_input_harms_nobody(pool):
    def overwrite(array):
        array[:] = -1
        return float(array.sum())

    original = pool.submit(make_array, 7)
    assert pool.submit(overwrite, original).get() == -131_072
    assert pool.gather(pool.map(lambda array, _: float(array[0]), [original] * 4, range(4))) == [7.0] * 4
    mine = original.get()
    mine[:] = 0
    assert original.get()[0] == 7


@pytest.mark.parametrize("value", [b"", b"x" * 100_000, bytearray(b"y" * 100_000), "z" * 200_000, [], {}, range(5)])
def test_values_of_all_kinds_come_back_equal_and_of_their_type(pool, value):
    for returned in (pool.submit(lambda x: x, value).get(), pool.scatter([value])[0].get()):
        assert returned == value
        assert type(returned) is type(value)


@pytest.mark.parametrize(
    "array",
    [np.zeros(0), np.arange(100_000)[::3], np.asfortranarray(np.ones((300, 300))), np.ones((200, 200)).T, np.array(5)],
)
def test_arrays_of_all_layouts(pool, array):
    returned = pool.submit(lambda x: x, array).get()
    assert (returned == array).all()
    assert returned.flags.writeable


def test_read_only_arrays_stay_read_only(pool):
    array = np.arange(100_000)
    array.flags.writeable = False
    assert pool.submit(lambda x: x.flags.writeable, array).get() is False


# --------------------------------------------------------------------------------------------------------------- errors


def test_an_exception_arrives_as_itself_with_the_remote_traceback(pool):
    def fail(x):
        raise LookupError(f"no {x}", 42)

    handle = pool.submit(fail, "alice")
    with pytest.raises(LookupError) as caught:
        handle.get()
    assert caught.value.args == ("no alice", 42)
    printed = "".join(traceback.format_exception(caught.value))
    assert "in fail" in printed
    assert isinstance(handle.exception(), LookupError)
    assert not handle.successful()
    failure = handle.get(reraise=False)
    assert isinstance(failure, Failure)
    assert isinstance(failure.exception, LookupError)


def test_a_failed_input_fails_its_dependents_with_the_original_cause(pool):
    broken = pool.submit(operator.truediv, 1, 0)
    after = pool.submit(add, broken, 1)
    much_after = pool.submit(add, after, 1)
    with pytest.raises(ZeroDivisionError):
        much_after.get()


def test_system_exit_and_keyboard_interrupt_in_a_task_are_outcomes(pool):
    def leave(kind):
        raise kind("bye")

    for kind in (SystemExit, KeyboardInterrupt):
        with pytest.raises(kind):
            pool.submit(leave, kind).get()
    assert pool.submit(abs, -1).get() == 1


def test_an_unpicklable_argument_names_the_path(pool):
    with pytest.raises(CannotPickle, match=r"args\[1\]\['lock'\]"):
        pool.submit(print, 1, {"lock": threading.Lock()})
    assert pool.submit(abs, -1).get() == 1


def test_an_unpicklable_result_names_the_path(pool):
    with pytest.raises(CannotPickle, match=r"\[1\]"):
        pool.submit(lambda: [1, threading.Lock()]).get()


def test_an_exception_whose_constructor_takes_other_arguments(pool):
    class Strange(Exception):
        def __init__(self, code, *, reason):
            super().__init__(f"{code}: {reason}")
            self.code = code

    def fail():
        raise Strange(7, reason="because")

    with pytest.raises(Strange) as caught:
        pool.submit(fail).get()
    assert caught.value.code == 7


def test_a_task_that_exits_its_process_fails_alone(pool):
    neighbours = pool.map(abs, range(-500, 0))
    dead = pool.options(attempts=2).submit(os._exit, 3)
    neighbours += pool.map(abs, range(-500, 0))
    with pytest.raises(TaskCrashed, match="exit code 3") as caught:
        dead.get(30)
    assert len(caught.value.attempts) == 2
    assert pool.gather(neighbours, 30) == [*range(500, 0, -1)] * 2


def test_a_segmentation_fault_names_signal_and_place(pool):
    def crash():
        ctypes.string_at(0)

    with pytest.raises(TaskCrashed, match=r"signal 11[\s\S]*in crash"):
        pool.options(attempts=1).submit(crash).get(30)


def test_a_timeout_kills_also_a_loop_in_c(pool):
    start = time.monotonic()
    with pytest.raises(TaskTimeout, match=r"timeout=0.3 s"):
        pool.options(timeout=0.3).submit(sum, range(10**12)).get(30)
    assert time.monotonic() - start < 10
    assert pool.submit(abs, -1).get(10) == 1


def test_retries_repeat_a_task_that_raises(pool, tmp_path):
    counter = tmp_path / "count"

    def third_time_lucky():
        with counter.open("a") as file:
            file.write("x")
        if len(counter.read_text()) < 3:
            raise RuntimeError("not yet")
        return "done"

    assert pool.options(retries=2).submit(third_time_lucky).get() == "done"


def test_cancel_ends_a_running_task_and_its_dependents(pool):
    endless = pool.submit(sum, range(10**12))
    after = pool.submit(add, endless, 1)
    assert endless.cancel()
    assert endless.cancelled()
    with pytest.raises(TaskCancelled):
        endless.get()
    with pytest.raises(TaskCancelled, match="because its input"):
        after.get(10)
    assert pool.submit(abs, -1).get(10) == 1


def test_cancel_of_a_finished_task_says_no(pool):
    handle = pool.submit(abs, -1)
    assert handle.get() == 1
    assert not handle.cancel()
    assert handle.get() == 1


def test_get_with_a_timeout_raises_and_the_task_goes_on(pool):
    slow = pool.submit(lambda: time.sleep(0.5) or "late")
    with pytest.raises(TimeoutError):
        slow.get(0.05)
    assert not slow.ready()
    assert slow.get(10) == "late"


def test_the_time_that_a_get_may_take_is_counted_once(pool, monkeypatch):
    waited, wait_for = [], pool._core.wait
    monkeypatch.setattr(
        pool._core, "wait", lambda done, seconds=None: waited.append(seconds) or wait_for(done, seconds)
    )
    slow = pool.submit(sum, range(10**12))
    with pytest.raises(TimeoutError):
        slow.get(0.2)
    monkeypatch.undo()
    slow.cancel()
    assert 0.2 <= sum(waited) < 0.21


@pytest.mark.parametrize(
    "wrong",
    [
        lambda pool: pool.unpublish(None),
        lambda pool: pool.unpublish("x" * 10_000_000),
        lambda pool: pool.who_has([3]),
        lambda pool: pool.publish("\ud800", pool.submit(int)),
        lambda pool: pool.options(key="\ud800"),
        lambda pool: pool.options(priority=10**400),
        lambda pool: pool.options(workers=[]),
        lambda pool: pool.options(workers=[None]),
        lambda pool: pool.options(recompute="x"),
        lambda pool: pool["\ud800"],
        lambda pool: wait([1]),
        lambda pool: pool.submit(int).add_done_callback(None),
        lambda pool: iter(pool),
        lambda pool: pickle.dumps(pool),
    ],
)
def test_what_makes_no_sense_is_refused_on_the_spot_and_the_pool_goes_on(pool, wrong):
    with pytest.raises((TypeError, ValueError)) as caught:
        wrong(pool)
    assert len(str(caught.value)) < 300
    assert pool.submit(abs, -1).get(10) == 1


def test_a_pool_named_in_a_function_is_refused_with_advice(pool):
    with pytest.raises(CannotPickle, match="where it is needed"):
        pool.submit(lambda: pool.ncores())


def test_a_function_with_a_strange_name_runs(pool):
    def strange():
        return 5

    strange.__qualname__ = "\ud800"
    assert pool.submit(strange).get() == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": -1}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"priority": float("inf")}, "priority"),
        ({"retries": -1}, "retries"),
        ({"attempts": 0}, "attempts"),
        ({"key": ""}, "key"),
        ({"key": "x" * 10_000_000}, "key"),
    ],
)
def test_options_that_make_no_sense_are_refused_where_they_are_written(pool, options, message):
    with pytest.raises(ValueError, match=message):
        pool.options(**options)


def test_what_is_not_callable_is_refused(pool):
    with pytest.raises(TypeError, match="not callable"):
        pool.submit(5)


def test_key_gives_the_same_result_again(pool):
    view = pool.options(key="answer")
    first = view.submit(os.urandom, 8)
    assert view.submit(os.urandom, 8).get() == first.get()


def test_a_key_whose_task_still_runs_without_a_handle_is_the_same_task(pool, tmp_path):
    def run_once():
        with (tmp_path / "runs").open("a") as file:
            file.write("x")
        time.sleep(0.2)
        return 5

    view = pool.options(key="once")
    view.submit(run_once)
    assert view.submit(run_once).get() == 5
    assert (tmp_path / "runs").read_text() == "x"


def test_whatever_the_function_a_name_that_is_there_gives_what_is_there(pool):
    view = pool.options(key="one name")
    first = view.submit(abs, -1)
    assert (view.submit(abs, -2).get(), view.apply(pow, (2, 3))) == (1, 1)
    assert pool.options(key="other name").submit(abs, -2).get() == 2
    assert first.key.endswith("/one name")


def test_a_name_belongs_to_one_pool(pool):
    with Pool(pool.address) as other:
        mine = pool.options(key="shared").submit(abs, -1)
        assert other.options(key="shared").submit(abs, -2).get() == 2
        assert mine.get() == 1


def test_what_failed_under_a_name_is_computed_again(pool, tmp_path):
    def fail_once():
        if not (tmp_path / "failed").exists():
            (tmp_path / "failed").touch()
            raise ValueError("once")
        return 7

    view = pool.options(key="fails once")
    first = view.submit(fail_once)
    with pytest.raises(ValueError, match="once"):
        first.get()
    second = view.submit(fail_once)
    assert (second.get(), view.submit(fail_once).get()) == (7, 7)
    assert first.status == "failed"
    with pytest.raises(ValueError, match="once"):
        first.get()


def test_what_was_cancelled_under_a_name_is_computed_again(pool, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    view = pool.options(key="cancelled")
    first = view.submit(pipe.read_text)
    while "runs on" not in first.explain():
        os.sched_yield()
    assert first.cancel()
    assert view.submit(abs, -3).get() == 3
    assert first.cancelled()


def test_a_name_is_free_when_its_result_was_released(pool):
    view = pool.options(key="released")
    first = view.submit(os.urandom, 8)
    before = first.get()
    task = first._task
    first.release()
    while task.status != "released":  # a moment later
        assert pool.submit(abs, -1).get() == 1
    assert view.submit(os.urandom, 8).get() != before


def test_a_name_whose_result_others_need_is_that_result(pool):
    view = pool.options(key="needed")
    first = view.submit(os.urandom, 8)
    before = first.get()
    value = pool.scatter([first])
    del first
    assert view.submit(os.urandom, 8).get() == before
    del value


def test_priorities_mean_the_same_in_all_pools_of_a_program(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def note(name):
        with (tmp_path / "order").open("a") as file:
            file.write(name)

    with Cluster(n_workers=1, ncores=1) as cluster, Pool(cluster) as one, Pool(cluster) as two:
        blocker = one.submit(pipe.read_text)
        while "runs on" not in blocker.explain():
            os.sched_yield()
        order = ((one, -1, "a"), (two, 0, "b"), (two, 1, "c"))
        handles = [pool.options(priority=priority).submit(note, name) for pool, priority, name in order]
        while rpc(cluster.workers[0]).status()["queued"] < 3:
            os.sched_yield()
        pipe.write_text("go")
        wait(handles)
    assert (tmp_path / "order").read_text() == "abc", "though the first pool has used much more"


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", "127.0.0.1:99999", ""])
def test_an_address_that_is_none(address):
    with pytest.raises(BadAddress, match="host:port"):
        Pool(address)


def test_nobody_at_the_address():
    with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1\b"):
        Pool("127.0.0.1:1")


@pytest.mark.parametrize("count", [0, -1, 2.5, True])
def test_a_pool_of_no_executors(count):
    with pytest.raises((ValueError, TypeError)):
        Pool(count)


# ---- waiting, threads


def test_as_completed_gives_the_quick_ones_first(pool):
    slow, quick = pool.map(lambda s: time.sleep(s) or s, [0.5, 0.0])
    assert [handle.get() for handle in as_completed([slow, quick])] == [0.0, 0.5]


def test_as_completed_gives_a_handle_as_often_as_it_was_given(pool):
    handle = pool.submit(abs, -1)
    assert list(as_completed([handle, handle])) == [handle, handle]


def test_wait_as_concurrent_futures_does(pool):
    slow, quick = pool.map(lambda s: time.sleep(s) or s, [1.0, 0.0])
    assert wait([slow, quick], return_when=FIRST_COMPLETED) == ({quick}, {slow})
    bad = pool.submit(operator.truediv, 1, 0)
    assert bad in wait([slow, bad], return_when=FIRST_EXCEPTION).done
    assert wait([slow, quick, bad]) == ({slow, quick, bad}, set())
    with pytest.raises(ValueError, match="return_when"):
        wait([slow], return_when="SOMETIMES")


def test_several_share_one_iterator_over_handles_and_all_come_to_the_end(pool):
    def handles():
        return pool.map(lambda x: time.sleep(0.02) or x, range(6))

    async def main():
        iterator, found = as_completed(handles()), []

        async def consume():
            async for handle in iterator:
                found.append(handle.get())

        await asyncio.wait_for(asyncio.gather(consume(), consume(), consume()), 20)
        return found

    assert sorted(asyncio.run(main())) == [*range(6)]
    iterator, found = as_completed(handles()), []
    threads = [
        threading.Thread(target=lambda: found.extend(handle.get() for handle in iterator), daemon=True)
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(found) == [*range(6)]


def test_as_completed_that_takes_too_long_says_how_many_are_left(pool):
    async def main():
        async for _ in as_completed([handle], timeout=0.01):
            pass

    handle = pool.submit(time.sleep, 60)
    for late in (lambda: list(as_completed([handle], timeout=0.01)), lambda: asyncio.run(main())):
        with pytest.raises(TimeoutError, match="1 of the handles have no outcome"):
            late()
    handle.cancel()


def test_await_a_handle_and_iterate_asynchronously(pool):
    async def main():
        handles = pool.map(lambda x: time.sleep(0.05) or x, range(4))
        seen = [await handle async for handle in as_completed(handles)]
        array = await pool.submit(make_array, 2)
        with pytest.raises(ZeroDivisionError):
            await pool.submit(operator.truediv, 1, 0)
        return sorted(seen), array[0]

    assert asyncio.run(main()) == ([0, 1, 2, 3], 2.0)


def test_blocking_calls_work_under_a_running_event_loop(pool):
    async def main():
        return pool.submit(abs, -3).get()

    assert asyncio.run(main()) == 3


def test_many_threads_use_one_pool(pool):
    results = {}

    def work(n):
        results[n] = sum(pool.gather(pool.map(add, range(200), [n] * 200)))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {n: sum(range(200)) + 200 * n for n in range(8)}


def test_done_callbacks_get_the_handle_also_when_it_was_done_before(pool):
    handle = pool.submit(abs, -1)
    handle.get()
    seen, event = [], threading.Event()
    handle.add_done_callback(lambda got: (seen.append(got), event.set()))
    assert event.wait(10)
    assert seen == [handle]


# ------------------------------------------------------------------------------------------------- publishing, who_has


def test_published_data_can_be_read_by_another_pool_and_outlives_its_owner(pool):
    other = Pool(pool.address)
    other.publish("block", other.submit(make_array, 9))
    other.publish("small", other.scatter("alice"))
    other.close()
    assert "block" in pool.names
    assert pool["block"].get(10)[0] == 9
    assert pool.submit(lambda x: x + "!", pool["small"]).get(10) == "alice!"
    pool.unpublish("block")
    pool.unpublish("small")
    with pytest.raises(Exception, match="block"):
        pool["block"]


def test_a_handle_pickled_to_another_client_is_read_there(pool):
    from distributed.pool.core import restore_handle

    handle = pool.submit(make_array, 4)
    _, (center, reference) = handle.__reduce__()
    with Pool(pool.address) as other:
        assert restore_handle(center, reference).key == handle.key
        borrowed = other._core.make_handle(reference)
        assert borrowed.get(10)[0] == 4
        assert other.submit(lambda x: float(x[0]), borrowed).get(10) == 4.0
        handle.release()
        del borrowed
        deadline = time.monotonic() + 10
        while other.who_has([handle.key])[handle.key] and time.monotonic() < deadline:
            pool.submit(abs, 1).get()  # until the release has reached everybody
        with pytest.raises(KeyLost):
            other._core.make_handle(reference).get(20)


def test_who_has_and_has_what_know_a_result_at_once(pool):
    handle = pool.submit(make_array, 1)
    handle.wait()
    holder = pool.who_has(handle)[handle.key][0]
    assert handle.key in pool.has_what()[holder]
    assert pool.ncores() == {holder: 2}


def test_explain_says_where_a_task_is(pool):
    endless = pool.submit(sum, range(10**12))
    waiting = pool.submit(add, endless, 1)
    assert "waits for 1 of its 1 input," in waiting.explain()
    endless.cancel()


# ---- the end


def test_closing_waits_for_running_work():
    pool = Pool(1)
    handle = pool.submit(lambda: time.sleep(0.3) or "done")
    pool.close()
    assert handle.get() == "done"


def test_a_closed_pool_says_so():
    pool = Pool(1)
    handle = pool.submit(make_array, 1)
    handle.wait()
    pool.close()
    pool.close()
    with pytest.raises(PoolClosed):
        pool.submit(abs, 1)
    with pytest.raises(PoolClosed):
        handle.get()
    assert "closed" in repr(pool)


def test_terminate_does_not_wait():
    pool = Pool(1)
    pool.submit(sum, range(10**12))
    start = time.monotonic()
    pool.terminate()
    assert time.monotonic() - start < 3


def test_a_forked_child_is_inert(pool):
    handle = pool.submit(abs, -1)
    assert handle.get() == 1
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            pool.submit(abs, -1)
        except PoolClosed as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    assert b"fork" in os.read(reader, 1000)
    os.close(reader)
    assert pool.submit(functools.reduce, add, [1, 2, 3]).get(10) == 6


def test_what_a_task_prints_is_shown_with_a_label(pool, capfd):
    pool.submit(print, "hello from afar").get()
    deadline = time.monotonic() + 10
    shown = ""
    while "hello" not in shown and time.monotonic() < deadline:
        pool.submit(abs, 1).get()
        shown += capfd.readouterr().out
    assert "] hello from afar" in shown


def test_a_dropped_iterator_over_handles_is_forgotten(pool):
    slow = pool.submit(time.sleep, 0.3)
    for _ in range(20):
        wait([slow], timeout=0)
        iter(as_completed([slow]))
    pool._core.driver.inspect(lambda: None)
    assert len(slow._task.watchers) <= 1, "those of the former ones went when the last one came"
    slow.get()


def test_a_signal_handler_that_raises_leaves_the_pool_as_it_was(pool):
    def too_late(number, frame):
        raise InterruptedError("time is over")

    before = signal.signal(signal.SIGALRM, too_late)
    try:
        for delay in (0.01, 0.02, 0.03):
            signal.setitimer(signal.ITIMER_REAL, delay)
            with pytest.raises(InterruptedError):
                pool.submit(time.sleep, 0.3).get()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert pool.submit(abs, -1).get() == 1


def test_a_signal_handler_that_returns_does_not_end_a_wait(pool):
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        assert pool.submit(lambda: time.sleep(0.4) or "done").get() == "done"
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]


def test_a_pool_that_was_not_closed_ends_without_a_word():
    program = "from distributed import Pool; pool = Pool(1); print(pool.submit(abs, -1).get()); 1 / 0"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "1\n"
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "center" not in done.stderr


def test_a_pool_that_cannot_join_leaves_no_descriptor():
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(ConnectionFailed):
            Pool("127.0.0.1:1")
    assert len(os.listdir("/proc/self/fd")) == before


def test_terminate_while_tasks_come_and_go():
    pool = Pool(2)
    pool.map(abs, range(20_000))
    pool.terminate()
    assert "closed" in repr(pool)


def remember(value):
    import builtins

    assert not hasattr(builtins, "remembered"), "the initializer ran a second time"
    builtins.remembered = value


def recall(_=None):
    import builtins

    return os.getpid(), builtins.remembered


async def recall_later():
    return recall()[1]


def test_an_initializer_runs_once_in_each_executor_before_anything_else_there():
    large = bytes(200_000)
    with Pool(2, initializer=remember, initargs=("x",)) as pool:
        values = pool.gather(pool.map(recall, range(300)))
        assert {value for _, value in values} == {"x"}
        assert pool.submit(recall_later).get() == "x"
        handle = pool.submit(abs, -3)
        assert pool.submit(lambda: (len(large), handle, recall()[1])).get() == (200_000, 3, "x")
        assert [value for _, value in pool.imap(recall, range(5))] == ["x"] * 5


def test_an_initializer_that_fails_is_told_with_its_cause_and_tried_again(tmp_path):
    def fail_twice():
        with open(tmp_path / "tries", "a") as file:
            file.write("x")
        if os.path.getsize(tmp_path / "tries") < 3:
            raise OSError("the database is not there")

    with Pool(1, initializer=fail_twice) as pool:
        for _ in range(2):
            with pytest.raises(InitializerFailed, match="the database is not there") as caught:
                pool.submit(abs, -1).get()
            assert "fail_twice" in str(caught.value.__cause__)
        assert pool.submit(abs, -1).get() == 1


def test_an_initializer_that_crashes_is_blamed_itself_and_not_the_task():
    with Pool(1, initializer=os._exit, initargs=(7,)) as pool:
        handle = pool.submit(abs, -1)
        with pytest.raises(InitializerFailed, match=r"crashed the executor, before builtins\.abs .* began") as caught:
            handle.get()
        assert str(caught.value).count("exit code 7") == 3
        assert "builtins.abs failed: distributed.errors.InitializerFailed: the pool's" in handle.explain()


def test_a_group_says_that_the_initializer_crashed_it_and_an_exit_there_is_no_exit_here():
    with Pool(1, initializer=os._exit, initargs=(7,)) as pool, pytest.raises(GroupFailed, match="pool's initializer"):
        pool.gather(pool.group(abs, 1), 20)
    with Pool(1, initializer=sys.exit, initargs=("no licence",)) as pool:
        with pytest.raises(InitializerFailed, match="SystemExit: no licence"):
            pool.submit(abs, -1).get(20)


def test_an_initializer_that_is_over_is_not_blamed_for_a_crash():
    with Pool(1, initializer=abs, initargs=(1,)) as pool, pytest.raises(TaskCrashed):
        pool.submit(os._exit, 7).get()


def test_explain_says_why_there_is_no_value_or_where_it_is(pool):
    failed, cancelled, done = pool.submit(int, "x"), pool.submit(time.sleep, 60), pool.submit(bytes, 2 << 20)
    assert cancelled.cancel()
    wait([failed, done])
    assert failed.explain() == "builtins.int failed: ValueError: invalid literal for int() with base 10: 'x'"
    assert cancelled.explain().startswith("time.sleep was cancelled: distributed.errors.TaskCancelled: ")
    assert done.explain() == f"builtins.bytes is done: 2.0 MiB on {pool.who_has([done])[done.key][0]}"


def test_a_task_knows_nothing_of_the_command_line_of_the_program(pool):
    assert pool.submit(lambda: __import__("sys").argv).get() == ["executor"]


def test_a_handle_is_true_whatever_its_value_is(pool):
    assert pool.submit(bool)


def test_tracebacks_of_interrupts_and_of_connections_that_fail_show_little_of_this_package(pool):
    sleeping = pool.submit(time.sleep, 60)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt) as interrupted:
        sleeping.get()
    assert traceback.extract_tb(interrupted.value.__traceback__)[-1].name == "wait"
    assert len(traceback.extract_tb(interrupted.value.__traceback__)) <= 4
    assert sleeping.cancel()
    with pytest.raises(ConnectionFailed) as failed:
        Pool("127.0.0.1:1")
    assert traceback.extract_tb(failed.value.__traceback__)[-1].name == "__init__"
    assert "direct cause" not in "".join(traceback.format_exception(failed.value))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"initializer": 3}, "initializer=3 is not callable"),
        ({"initializer": asyncio.sleep, "initargs": (1,)}, "must be a plain one"),
        ({"initializer": abs, "initargs": 5}, "not iterable"),
        ({"initializer": abs, "initargs": [threading.Lock()]}, "initargs"),
    ],
)
def test_an_initializer_that_cannot_be_is_refused_before_anything_starts(options, error):
    with pytest.raises(TypeError, match=error):
        Pool(1, **options)


def test_a_pool_whose_own_cluster_is_killed_says_so_and_hangs_nobody():
    with Pool(2) as pool:
        pool.submit(abs, -1).get()
        waiting = pool.map(time.sleep, [60] * 10)
        after = pool.submit(lambda x: x, waiting[0])
        os.kill(pool._owned._daemon.pid, signal.SIGKILL)
        for handle in [*waiting, after]:
            with pytest.raises(PoolClosed, match=r"own cluster.*signal 9"):
                handle.get(timeout=30)
        with pytest.raises(PoolClosed, match=r"own cluster.*signal 9"):
            pool.submit(abs, -1)


def test_a_pool_whose_own_cluster_was_killed_leaves_nothing_behind_when_it_is_closed():
    descriptors, threads, told = open_descriptors(), set(threading.enumerate()), []
    with Pool(1) as pool:
        waiting = pool.submit(time.sleep, 60)
        waiting.add_done_callback(told.append)
        os.kill(pool._owned._daemon.pid, signal.SIGKILL)
        with pytest.raises(PoolClosed):
            waiting.get(timeout=30)
    assert told == [waiting]
    for thread in set(threading.enumerate()) - threads:
        thread.join(30)  # one that dials ends by itself, after its try
        assert not thread.is_alive(), thread
    assert not open_descriptors() - descriptors


def open_descriptors() -> set[str]:
    """What this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # of the listing itself
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return found


def test_a_function_named_by_a_text_is_imported_on_the_executor(pool):
    assert pool.submit("math.sqrt", 16).get() == 4
    assert pool.gather(pool.map("operator:add", [1, 2], [3, 4])) == [4, 6]
    assert pool.submit("collections:OrderedDict.fromkeys", "ab").get() == {"a": None, "b": None}
    assert pool.submit("collections.OrderedDict.fromkeys", "ab").get() == {"a": None, "b": None}
    assert list(pool.imap("math.factorial", range(5))) == [1, 1, 2, 6, 24]
    assert pool.submit("asyncio.sleep", 0, "awaited").get() == "awaited"
    assert "math.sqrt" in repr(pool.submit("math.sqrt", 1))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_module.function", r"'no_such_module.function' cannot be imported on the worker: ModuleNotFoundError"),
        ("math:no_such_function", r"'math:no_such_function' cannot be imported on the worker: AttributeError"),
        ("math:pi", r"'math:pi' is a float on the worker, and not callable"),
    ],
)
def test_a_named_function_that_is_not_there_says_so_and_the_pool_goes_on(pool, name, says):
    with pytest.raises(ImportError, match=says):
        pool.submit(name, 1).get()
    assert pool.submit("builtins.abs", -1).get() == 1


def test_globals_that_an_initializer_sets_are_there_for_tasks(tmp_path):
    program = """
        from distributed import Executor, Pool

        connection = None

        def connect(address):
            global connection
            connection = f"connection to {address}"

        def use(number):
            return f"{number} by {connection}"

        async def use_later():
            return connection

        if __name__ == "__main__":
            with Pool(2, initializer=connect, initargs=("a",)) as one, Pool(one.address) as two:
                print(one.submit(use, 1).get(), one.submit(lambda: use(2)).get(), list(one.imap(use, [3])))
                print(one.submit(use_later).get(), two.submit(use, 4).get())
            with Executor(1, initializer=connect, initargs=("b",)) as executor:
                print(*executor.map(use, [5, 6]))
    """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines() == [
        "1 by connection to a 2 by connection to a ['3 by connection to a']",
        "connection to a 4 by None",
        "5 by connection to b 6 by connection to b",
    ], done.stderr


def test_closing_before_tasks_have_ended_says_so(caplog):
    with Pool(1) as pool:
        handles = pool.map(time.sleep, [60, 60])
        pool.close(timeout=0.5)
    for handle in handles:
        with pytest.raises(TaskCancelled, match="the pool was closed before this task had ended"):
            handle.get()
    assert "closed before 2 of its tasks had ended" in caplog.text
