"""`imap` with real executors: what comes, in which order, and what is left when somebody stops half-way."""

from __future__ import annotations

import asyncio
import gc
import itertools
import operator
import os
import signal
import threading
import time
import traceback

import numpy as np
import pytest

from conftest import leaks_looked_for_by_module
from distributed import Cluster, Pool
from distributed.errors import CannotPickle, PoolClosed, TaskCrashed, TaskTimeout
from distributed.pool.chunks import Chunk, run_chunk

no_leaks = leaks_looked_for_by_module()


@pytest.fixture(scope="module")
def pool(no_leaks):
    with Pool(2) as pool:
        yield pool


@pytest.fixture(autouse=True)
def nothing_is_outstanding(pool):
    """After each test no task is under way, and no worker holds anything."""
    yield
    gc.collect()
    comes_to(lambda: pool._core.state.unfinished == 0)
    comes_to(lambda: not any(pool.has_what().values()))


def comes_to(is_true, seconds=20.0):
    """Wait until it is so; fail if it never is."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def add(x, y):
    return x + y


def reciprocal(x):
    return 1 / x


def hold_until(path):
    while not os.path.exists(path):
        time.sleep(0.005)
    return str(path)


def hold_or_pass(item):
    number, path = item
    return number if path is None else hold_until(path) and number


def end_process_at(limit, x):
    if x == limit:
        os._exit(7)
    return x


# ------------------------------------------------------------------------------------------------------------- values


def test_values_come_in_the_order_of_the_items(pool):
    assert list(pool.imap(abs, range(-20_000, 0))) == list(range(20_000, 0, -1))


@pytest.mark.parametrize("chunksize", [None, 1, 3, 1000])
def test_every_value_comes_once_whatever_the_chunks(pool, chunksize):
    assert list(pool.imap(operator.neg, range(100), chunksize=chunksize)) == [-x for x in range(100)]
    assert sorted(pool.imap_unordered(operator.neg, range(100), chunksize=chunksize)) == sorted(-x for x in range(100))


@pytest.mark.parametrize(
    "items",
    [[3, 1], (3, 1), {3: "a", 1: "b"}, {1, 3}, "ab", b"ab", np.arange(5), iter([1, 2]), (x for x in range(5)), []],
    ids=lambda items: type(items).__name__,
)
def test_any_iterable_will_do(pool, items):
    copies = list(items) if not isinstance(items, (type(iter([])), type(x for x in ()))) else None
    values = list(pool.imap(lambda x: (x,), items))
    assert values == ([(x,) for x in copies] if copies is not None else [(x,) for x in range(1, 3)]) or copies is None
    assert copies is None or len(values) == len(copies)


def test_several_iterables_end_with_the_shortest(pool):
    assert list(pool.imap(add, [1, 2, 3], itertools.count(10))) == [11, 13, 15]
    assert list(pool.imap(add, range(3), [10, 20])) == [10, 21]
    assert list(pool.imap(add, (x for x in range(3)), [10, 20])) == [10, 21]


def test_unbounded_input_is_consumed_as_it_is_needed(pool):
    taken = []

    def numbers():
        for number in itertools.count():
            taken.append(number)
            yield number

    values = pool.imap(operator.neg, numbers(), qsize=10)
    assert list(itertools.islice(values, 100)) == [-x for x in range(100)]
    assert len(taken) <= 100 + 10 + 10 + 1
    values.close()


def test_values_can_be_taken_one_by_one(pool):
    values = pool.imap(abs, [-1, -2])
    assert (next(values), next(values), next(values, None)) == (1, 2, None)


def test_next_and_loops_share_one_iteration(pool):
    values = pool.imap(abs, range(10), chunksize=4)
    first, iterator = next(values), iter(values)
    assert [first, next(iterator), next(values), *iterator] == list(range(10))
    assert list(values) == []


def test_handles_among_the_items_are_inputs(pool):
    handles = pool.map(abs, [-1, -2, -3])
    assert list(pool.imap(add, handles, [10, 20, 30])) == [11, 22, 33]
    assert list(pool.imap(add, handles, [10, 20, 30], chunksize=2)) == [11, 22, 33]
    assert list(pool.imap(sum, [handles, [handles[0], 5]], chunksize=2)) == [6, 6]


def test_a_function_may_have_handles_in_it_or_be_large(pool):
    ten, ballast = pool.submit(abs, -10), bytes(200_000)
    assert list(pool.imap(lambda x, ten=ten: x + ten, range(100), chunksize=7)) == list(range(10, 110))
    assert list(pool.imap(lambda x: x + len(ballast), range(100))) == [x + 200_000 for x in range(100)]


def test_large_values_come_and_go(pool):
    arrays = pool.imap(lambda n: np.full(100_000, n), range(12))
    assert [int(array.sum()) for array in arrays] == [n * 100_000 for n in range(12)]


def test_large_items_are_stored_and_released(pool):
    assert list(pool.imap(np.sum, [np.ones(100_000) for _ in range(6)])) == [100_000] * 6


def test_coroutine_functions_run_many_at_a_time(pool):
    async def meet(name):
        import sys

        room = sys.__dict__.setdefault("room_of_imap", set())
        room.add(name)
        while len(room) < 50:  # noqa: ASYNC110 - nobody leaves before everybody came
            await asyncio.sleep(0.005)
        return name

    assert list(pool.imap(meet, range(50))) == list(range(50))


def test_unordered_values_do_not_wait_for_a_slow_one(pool, tmp_path):
    path = tmp_path / "go"
    values = pool.imap_unordered(hold_or_pass, [(0, path), (1, None), (2, None)], chunksize=1)
    assert sorted([next(values), next(values)]) == [1, 2]
    path.touch()
    assert list(values) == [0]


def test_a_chunk_that_takes_long_gives_back_what_it_has_not_begun(pool):
    values, errors, _ = run_chunk(reciprocal, Chunk(([1, 2, 4],), limit_s=0.0))
    assert (values, errors) == ([1], {})
    pauses = [*([0] * 3000), 0.05, 0.05, *([0] * 100)]
    assert list(pool.imap(lambda pause, n: time.sleep(pause) or n, pauses, itertools.count())) == list(range(3102))


def test_two_imaps_from_two_threads_do_not_disturb_one_another(pool):
    found = {}

    def run(name, step):
        found[name] = list(pool.imap(operator.mul, range(5000), itertools.repeat(step)))

    threads = [threading.Thread(target=run, args=(step, step)) for step in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {step: [x * step for x in range(5000)] for step in (2, 3)}


def test_an_imap_over_an_imap(pool):
    assert list(pool.imap(abs, pool.imap(operator.neg, range(300)))) == list(range(300))


def test_several_threads_may_take_from_one_imap(pool):
    values, found = pool.imap(abs, range(2000), chunksize=10), []
    threads = [threading.Thread(target=lambda: found.extend(iter(lambda: next(values, None), None))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(2000))


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("chunksize", [None, 1, 2, 100])
def test_an_error_is_raised_at_its_place_and_the_iteration_goes_on_after_it(pool, chunksize):
    values = pool.imap(reciprocal, [1, 2, 0, 4, 0], chunksize=chunksize)
    assert [next(values), next(values)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError) as caught:
        next(values)
    assert "in reciprocal" in "".join(traceback.format_exception(caught.value))
    assert next(values) == 0.25
    with pytest.raises(ZeroDivisionError):
        next(values)
    assert list(values) == []


def test_after_an_error_in_a_loop_a_further_loop_goes_on(pool):
    values, found = pool.imap(reciprocal, [1, 0, 4], chunksize=3), []
    with pytest.raises(ZeroDivisionError):
        for value in values:
            found.append(value)
    assert [*found, *values] == [1, 0.25]


def test_a_function_that_raises_stop_iteration_does_not_end_the_loop(pool):
    for chunksize in (1, 2):
        values = pool.imap(lambda x: next(iter(x)), ["a", "", "b"], chunksize=chunksize)
        assert next(values) == "a"
        with pytest.raises(RuntimeError, match="StopIteration"):
            next(values)
        assert list(values) == ["b"]


def test_the_values_before_a_broken_input_come_then_its_exception(pool):
    def items():
        yield from [1, 2, 3]
        raise LookupError("half-way")

    values, found = pool.imap(operator.neg, items()), []
    with pytest.raises(LookupError, match="half-way"):
        for value in values:
            found.append(value)
    assert found == [-1, -2, -3]
    assert list(values) == []


@pytest.mark.parametrize("chunksize", [1, 3])
def test_an_item_that_cannot_be_pickled_fails_alone(pool, chunksize):
    values = pool.imap(lambda x: 0, [1, threading.Lock(), 3], chunksize=chunksize)
    assert next(values) == 0
    with pytest.raises(CannotPickle):
        next(values)
    assert list(values) == [0]


def test_a_result_that_cannot_be_pickled_fails_alone(pool):
    values = pool.imap(lambda x: threading.Lock() if x == 1 else x, range(3), chunksize=3)
    assert next(values) == 0
    with pytest.raises(CannotPickle):
        next(values)
    assert list(values) == [2]


def test_an_executor_that_dies_costs_the_guilty_item_alone(pool):
    values, found = pool.imap(end_process_at, itertools.repeat(5), range(12), chunksize=4), []
    for _ in range(12):
        try:
            found.append(next(values))
        except TaskCrashed:
            found.append("crashed")
    assert found == [0, 1, 2, 3, 4, "crashed", *range(6, 12)]


def test_a_killed_executor_costs_nothing(pool):
    values = pool.imap(lambda x: (x, os.getpid()), range(50_000))
    number, pid = next(values)
    os.kill(pid, signal.SIGKILL)
    assert [number, *(number for number, _ in values)] == list(range(50_000))


def test_a_time_limit_is_one_for_each_item(pool):
    limited = pool.options(timeout=0.3)
    values, outcomes = limited.imap(time.sleep, [0, 60, 0], chunksize=3), []
    assert next(values) is None
    with pytest.raises(TaskTimeout):
        next(values)
    outcomes.append(next(values))
    assert outcomes == [None]


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "3"])
def test_sizes_must_be_whole_numbers_above_zero(pool, number):
    error = ValueError if type(number) is int else TypeError
    with pytest.raises(error, match=r"qsize=.* must be a whole number, 1 or more"):
        pool.imap(abs, [], qsize=number)
    with pytest.raises(error, match=r"chunksize=.* must be a whole number, 1 or more"):
        pool.imap_unordered(abs, [], chunksize=number)


def test_the_next_value_may_be_waited_for_with_a_time_limit(pool, tmp_path):
    path = tmp_path / "go"
    values = pool.imap(hold_until, [path])
    with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
        values.next(timeout=0.01)
    path.touch()
    assert values.next(timeout=20) == str(path)
    with pytest.raises(StopIteration):
        values.next()


def test_what_cannot_work_is_refused_at_once(pool):
    with pytest.raises(TypeError, match="needs at least one iterable"):
        pool.imap(abs)
    with pytest.raises(TypeError, match=r"5 is not iterable; .* chunksize= go by name"):
        pool.imap(abs, [1], 5)
    with pytest.raises(TypeError, match="not callable"):
        pool.imap(5, [])
    with pytest.raises(ValueError, match="key= names one result"):
        pool.options(key="x").imap(abs, [])
    with pytest.raises(CannotPickle):
        lock = threading.Lock()
        pool.imap(lambda x: lock, [1])


# ---------------------------------------------------------------------------------------------------- leaving the loop


def test_leaving_a_loop_cancels_what_is_outstanding(pool, tmp_path):
    path = tmp_path / "never"
    values = pool.imap(hold_or_pass, [(0, None), *((number, path) for number in range(1, 1000))], chunksize=1)
    for value in values:
        assert value == 0
        break
    comes_to(lambda: pool._core.state.unfinished == 0)
    del values


@pytest.mark.parametrize("end", ["close", "drop"])
def test_an_iterator_that_is_closed_or_dropped_cancels_what_is_outstanding(pool, tmp_path, end):
    values = pool.imap(hold_until, itertools.repeat(tmp_path / "never"), chunksize=1)
    comes_to(lambda: pool._core.state.unfinished > 0)
    if end == "close":
        values.close()
        assert list(values) == []
    else:
        del values
    comes_to(lambda: pool._core.state.unfinished == 0)


def test_a_loop_that_was_left_can_be_taken_up_again(pool):
    values, found = pool.imap(operator.neg, range(5000)), []
    for value in values:
        found.append(value)
        if len(found) % 700 == 0:
            break
    assert len(found) == 700
    assert [*found, *itertools.islice(values, 1000), *values] == [-x for x in range(5000)]


def test_an_interrupt_in_the_consumer_leaves_nothing_under_way(pool, tmp_path):
    path = tmp_path / "never"
    timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    with pytest.raises(KeyboardInterrupt):
        for value in pool.imap(hold_or_pass, [(0, None), *((number, path) for number in range(1, 100))], chunksize=1):
            assert value == 0
            timer.start()
    timer.join()


def test_a_pool_that_is_closed_in_the_middle_ends_the_loop_with_an_error(no_leaks, tmp_path):
    with Pool(1) as own:
        values = own.imap(hold_or_pass, [(0, None), (1, tmp_path / "never")], chunksize=1)
        assert next(values) == 0
        own.terminate()
        with pytest.raises(PoolClosed):
            next(values)
        with pytest.raises(PoolClosed):
            own.imap(abs, [1])
        values.close()


# -------------------------------------------------------------------------------------------------------------- pacing


def test_a_slow_consumer_lets_only_so_many_items_ahead(pool):
    taken = []

    def numbers():
        for number in itertools.count():
            taken.append(number)
            yield number

    values = pool.imap(abs, numbers(), qsize=5, chunksize=1)
    assert next(values) == 0
    comes_to(lambda: pool._core.state.unfinished == 0 and len(taken) >= 5)
    assert len(taken) <= 1 + 5 + 2
    values.close()


def test_bytes_that_wait_to_be_taken_are_limited(pool):
    values = pool.imap(bytes, itertools.repeat(32 << 20), chunksize=1)
    next(values)
    assert len(next(values)) == 32 << 20
    comes_to(lambda: pool._core.state.unfinished == 0)
    held = sum(view.holds[key].nbytes for view in pool._core.state.workers.values() for key in list(view.holds))
    assert held <= 5 * (33 << 20)
    values.close()


def test_an_input_that_waits_for_the_results_of_its_items_gets_them(pool):
    seen = threading.Semaphore(0)

    def items():
        for number in range(20):
            yield number
            assert seen.acquire(timeout=20)

    for value in pool.imap(operator.neg, items()):
        assert value <= 0
        seen.release()


def test_items_of_a_slow_input_do_not_wait_for_a_full_chunk(pool):
    go = threading.Event()

    def items():
        yield from range(5000)
        assert go.wait(20)
        yield 5000

    values = pool.imap(abs, items())
    assert list(itertools.islice(values, 5000)) == list(range(5000))
    go.set()


# ---------------------------------------------------------------------------------------------------------- async loops


async def numbers_one_by_one(count):
    for number in range(count):
        await asyncio.sleep(0)
        yield number


def test_async_for_over_plain_input(pool):
    async def main():
        return [value async for value in pool.imap(operator.neg, range(3000))]

    assert asyncio.run(main()) == [-x for x in range(3000)]


def test_async_for_over_asynchronous_input(pool):
    async def main():
        both = [value async for value in pool.imap(add, numbers_one_by_one(500), itertools.count(1))]
        return both, [value async for value in pool.imap(operator.neg, numbers_one_by_one(500), ordered=True)]

    assert asyncio.run(main()) == ([2 * x + 1 for x in range(500)], [-x for x in range(500)])


def test_plain_input_beside_asynchronous_input_may_be_shorter_and_may_take_its_time(pool):
    async def main():
        loop, released = asyncio.get_running_loop(), threading.Event()

        def slow():
            yield 1
            loop.call_soon_threadsafe(released.set)
            yield int(released.wait(20))  # the loop goes on meanwhile

        return [
            [value async for value in pool.imap(add, numbers_one_by_one(500), some)] for some in (range(3), [], slow())
        ]

    assert asyncio.run(main()) == [[0, 2, 4], [], [1, 2]]


def test_the_loop_runs_on_while_async_for_waits(pool, tmp_path):
    path = tmp_path / "go"

    async def main():
        asyncio.get_running_loop().call_later(0.05, path.touch)
        return [value async for value in pool.imap(hold_until, (path for _ in range(2)))]

    assert asyncio.run(main()) == [str(path)] * 2


def test_large_values_in_async_for(pool):
    async def main():
        return [int(array.sum()) async for array in pool.imap_unordered(lambda n: np.full(50_000, n), range(5))]

    assert sorted(asyncio.run(main())) == [n * 50_000 for n in range(5)]


def test_an_asynchronous_input_that_raises_half_way(pool):
    async def items():
        yield 1
        yield 2
        raise LookupError("half-way")

    async def main():
        found = []
        with pytest.raises(LookupError, match="half-way"):
            async for value in pool.imap(operator.neg, items()):
                found.append(value)
        return found

    assert asyncio.run(main()) == [-1, -2]


def test_errors_in_async_for_are_raised_at_their_place(pool):
    async def main():
        values = pool.imap(reciprocal, [1, 0, 4])
        found = [await anext(values)]
        with pytest.raises(ZeroDivisionError):
            await anext(values)
        return [*found, await anext(values), await anext(values, "end")]

    assert asyncio.run(main()) == [1, 0.25, "end"]


def test_leaving_async_for_cancels_what_is_outstanding_and_ends_the_input(pool, tmp_path):
    path, ended = tmp_path / "never", []

    async def items():
        try:
            yield 0, None
            for number in itertools.count(1):
                yield number, path
        finally:
            ended.append(True)

    async def main():
        async for value in pool.imap(hold_or_pass, items(), chunksize=1):
            assert value == 0
            break
        while pool._core.state.unfinished or not ended:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_an_asynchronous_input_that_waits_for_the_results_of_its_items_gets_them(pool):
    async def main():
        seen = asyncio.Semaphore(0)

        async def items():
            for number in range(10):
                yield number
                await seen.acquire()

        async for value in pool.imap(operator.neg, items()):
            assert value <= 0
            seen.release()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_asynchronous_input_is_refused_where_nobody_could_wait_for_it(pool):
    with pytest.raises(TypeError, match="use `async for`"):
        for _ in pool.imap(abs, numbers_one_by_one(3)):
            pass
    with pytest.raises(TypeError, match="use `async for`"):
        next(pool.imap(abs, numbers_one_by_one(3)))
    with pytest.raises(TypeError, match=r"map\(\) cannot wait .* imap\(\)"):
        pool.map(abs, numbers_one_by_one(3))
    with pytest.raises(TypeError, match=r"starmap\(\) cannot wait .* imap\(\)"):
        pool.starmap(abs, numbers_one_by_one(3))


# ------------------------------------------------------------------------------------------------------- lost workers


@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_middle_costs_no_value(no_leaks):
    with Cluster(n_workers=2, ncores=1) as cluster, Pool(cluster) as own:
        values = own.imap(lambda x: x * 3, range(200_000))
        found = [next(values)]
        next(iter(cluster._workers.values()))._process.kill()
        assert [*found, *values] == list(range(0, 600_000, 3))
        arrays = own.imap(lambda x: np.full(100_000, x), range(20))
        assert [int(array[-1]) for array in arrays] == list(range(20))
