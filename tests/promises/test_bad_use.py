"""Used wrongly, or at the wrong time: a clear error, nothing lost, nothing that hangs, and the pool goes on."""

from __future__ import annotations

import asyncio
import itertools
import os

import pytest

from conftest import leaks_looked_for_by_module
from distributed import Executor, Pool, as_completed, current_pool, wait
from distributed.errors import PoolClosed, TaskCancelled

WAIT_S = 30


no_leaks = leaks_looked_for_by_module()


@pytest.fixture(scope="module")
def pool(no_leaks):
    with Pool(2) as pool:
        yield pool


class HalfWay(Exception):
    pass


def items(count, made=None):
    """So many, then an error."""
    for number in range(count):
        yield number if made is None else made(number)
    raise HalfWay


async def items_later(count):
    for number in range(count):
        await asyncio.sleep(0)
        yield number
    raise HalfWay


def nothing_is_left(pool):
    """What was made before the error goes as soon as nobody has it."""
    while any(pool.has_what().values()) or pool._core.state.unfinished:
        assert pool.submit(abs, -1).get(WAIT_S) == 1
    return True


CALLS = {
    "map": lambda pool: pool.map(abs, items(1200)),
    "map of several": lambda pool: pool.map(pow, items(700), range(9999)),
    "starmap": lambda pool: pool.starmap(pow, items(700, lambda n: (n, 2))),
    "gather": lambda pool: pool.map(abs, items(3)),
    "wait": lambda pool: wait(items(3, lambda n: pool.submit(abs, n))),
    "as_completed": lambda pool: as_completed(items(3, lambda n: pool.submit(abs, n))),
    "who_has": lambda pool: pool.who_has(items(3, lambda n: pool.submit(abs, n))),
    "apply": lambda pool: pool.apply(max, items(3)),
    "imap": lambda pool: list(pool.imap(abs, items(3000))),
    "initargs": lambda pool: Pool(1, initializer=print, initargs=items(2)),
    "options": lambda pool: pool.options(workers=items(2, str)),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_iterator_that_raises_half_way_raises_that_and_leaves_nothing(pool, name):
    with pytest.raises(HalfWay):
        CALLS[name](pool)
    assert nothing_is_left(pool)


@pytest.mark.parametrize("count", [0, 1, 500])
def test_a_stream_gives_what_came_before_the_error_of_its_input(pool, count):
    seen = []
    with pytest.raises(HalfWay):
        for value in pool.imap(abs, items(count)):
            seen.append(value)
    assert seen == list(range(count))

    async def consume():
        with pytest.raises(HalfWay):
            async for value in pool.imap(abs, items_later(count)):
                seen.append(value)

    asyncio.run(consume())
    assert seen == [*range(count), *range(count)]
    assert nothing_is_left(pool)


def large():
    return os.urandom(1_000_000)


def for_ever():
    import signal

    signal.pause()


USES = [str, len, bool, repr, lambda value: value + b"x", lambda value: list(value), lambda value: value == b""]


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_a_deferred_used_after_the_end_of_its_pool_says_so_or_is_its_value(end):
    pool = Pool(1)
    known, unknown = pool.defer(large)(), pool.defer(large)()
    size = len(known)
    while "done" not in repr(unknown) and "runs" in repr(unknown):
        os.sched_yield()
    never = pool.defer(for_ever)()
    getattr(pool, end)(*([0.5] if end == "close" else []))
    assert len(known) == size, "a value that was here stays"
    for use in USES:
        if use is repr:
            assert "for_ever" in repr(never), "to look at it never raises"
            continue
        with pytest.raises((PoolClosed, TaskCancelled), match="closed"):
            use(never)
    with pytest.raises(PoolClosed, match="the pool is closed"):
        pool.defer(large)()


def test_handles_are_awaited_in_whatever_loop_and_in_several():
    with Pool(2) as pool:
        handles = pool.map(abs, range(-20, 0))
        slow = pool.submit(sum, handles)

        async def all_of_them():
            return await asyncio.gather(*handles), await slow

        for _ in range(3):
            assert asyncio.run(all_of_them()) == (list(range(20, 0, -1)), 210)

        async def give_up():
            await asyncio.wait_for(pool.submit(for_ever), 0.1)

        with pytest.raises(TimeoutError):
            asyncio.run(give_up())
        assert asyncio.run(all_of_them())[1] == 210


def test_a_loop_that_ended_while_it_awaited_hears_nothing_and_harms_nobody(capfd):
    with Pool(1) as pool:
        handle = pool.submit(for_ever)

        async def leave():
            waiting = asyncio.ensure_future(as_awaitable(handle))
            await asyncio.sleep(0)
            waiting.cancel()

        asyncio.run(leave())
        handle.cancel()
        assert handle.wait(WAIT_S)
        assert pool.submit(abs, -1).get(WAIT_S) == 1
    assert capfd.readouterr().err == ""


async def as_awaitable(handle):
    return await handle


def test_a_stream_whose_input_belongs_to_a_loop_that_ended_says_so(pool):
    stream = pool.imap(abs, items_later(100_000))

    async def some(count):
        return [await anext(stream) for _ in range(count)]

    assert asyncio.run(some(3)) == [0, 1, 2]
    with pytest.raises(RuntimeError, match="the event loop on which the asynchronous input was read has ended"):
        asyncio.run(some(100_000))
    assert nothing_is_left(pool)


@pytest.mark.parametrize("path", ["no/such/file.py", "no_such_directory", "/no/such.zip"])
def test_an_upload_of_what_is_not_there_names_it_and_keeps_what_was_uploaded(pool, tmp_path, path):
    (tmp_path / "uploaded_before.py").write_text("VALUE = 5")
    pool.upload(tmp_path / "uploaded_before.py")
    with pytest.raises(FileNotFoundError, match=f"nothing to upload at '{path}'"):
        pool.upload(path)
    assert pool.submit("uploaded_before.__getattribute__", "VALUE").get(WAIT_S) == 5


@pytest.mark.parametrize(
    ("use", "kind", "says"),
    [
        (lambda pool: pool.map([1, 2], abs), TypeError, "function=[1, 2] is not callable"),
        (lambda pool: pool.map(abs, [1], timeout=3), TypeError, "options come first, pool.options(timeout=...)"),
        (lambda pool: pool.imap(abs, [1], priority=3), TypeError, "options come first, pool.options(priority=...)"),
        (lambda pool: pool.map(abs, [1], chunksize=3), TypeError, "each item is a task of its own here; imap() has"),
        (lambda pool: pool.imap(abs, [1], chunk_size=3), TypeError, "did you mean 'chunksize'?"),
        (lambda pool: pool.scatter([1], replica=2), TypeError, "did you mean 'replicas'?"),
        (lambda pool: pool.map_async(abs, [1]), AttributeError, "map() returns at once"),
        (lambda pool: pool.join(), AttributeError, "close() waits for what is under way"),
        (lambda pool: pool.submitt(abs, 1), AttributeError, "'Pool' object has no attribute 'submitt'"),
        (lambda pool: sum(pool.map(abs, [1])), TypeError, "stands for a value and is none: get() waits for it"),
        (lambda pool: sorted(pool.map(abs, [1, 2])), TypeError, "stands for a value and is none"),
        (lambda pool: [1, 2][pool.submit(abs, 1)], TypeError, "stands for a value and is none"),
        (lambda pool: Pool(-1), ValueError, "Pool(-1): it takes 1 to 4096 executors"),
        (lambda pool: Pool(1, initargs=(1,)), TypeError, "initargs=(1,) are arguments of an initializer, and there is"),
        (lambda pool: Executor(max_worker=1), TypeError, "did you mean 'max_workers'?"),
    ],
)
def test_what_belongs_elsewhere_is_shown_where(pool, use, kind, says):
    with pytest.raises(kind) as raised:
        use(pool)
    assert says in str(raised.value)
    assert pool.submit(abs, -1).get(WAIT_S) == 1


@pytest.mark.parametrize("method", ["map", "starmap"])
def test_a_map_over_input_without_end_tells_of_imap(pool, monkeypatch, method):
    monkeypatch.setattr("distributed.pool.hints.READ_MANY", 10)
    rows = ((number,) if method == "starmap" else number for number in range(12))
    with pytest.warns(UserWarning, match=r"map\(\) has taken 10 items and goes on; imap\(\) is for input that") as told:
        handles = getattr(pool, method)(abs, rows)
    assert [warning.filename for warning in told] == [__file__]
    assert pool.gather(handles) == list(range(12))


def test_a_map_that_ends_tells_nothing(pool, monkeypatch, recwarn):
    monkeypatch.setattr("distributed.pool.hints.READ_MANY", 10)
    pool.gather(pool.map(pow, itertools.count(), [1] * 100))
    pool.gather(pool.map(abs, iter(range(10))))
    assert list(recwarn) == []


def fail_below(depth):
    if not depth:
        raise HalfWay("at the bottom")
    return current_pool().submit(fail_below, depth - 1).get()


def test_an_error_deep_below_in_tasks_of_tasks_is_told_once(pool):
    with pytest.raises(HalfWay) as raised:
        pool.submit(fail_below, 9).get(WAIT_S)
    told = str(raised.value.__cause__)
    assert told.count("Traceback (most recent call last)") == 2
    assert told.endswith('[The last traceback 8 more times, task within task]\n"""')
