"""Tasks in tasks: they run whatever the number of executors, belong to who submitted them, and end with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from distributed import Pool, RemoteData, as_completed, current_pool, wait
from distributed.errors import DistributedError, NestingTooDeep, TaskCancelled, TaskTimeout
from tests.promises.observe import until


def down(depth: int) -> int:
    return 1 + current_pool().submit(down, depth - 1).get() if depth else 0


def fib(n: int) -> int:
    if n < 2:
        return n
    one, two = current_pool().map(fib, [n - 1, n - 2])
    return one.get() + two.get()


def executors_of(pool: Pool) -> list[int]:
    """How many processes run tasks, or may, at each worker just now."""
    from distributed import rpc

    return [len(rpc(address).status()["executors"]) for address in pool.workers]


class Sampler:
    """Looks again and again how many executors there are."""

    def __init__(self, pool: Pool) -> None:
        self.most, self._pool, self._is_over = 0, pool, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._is_over.wait(0.01):
            self.most = max(self.most, *executors_of(self._pool))

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()


def test_current_pool_outside_of_a_task_says_so() -> None:
    with pytest.raises(DistributedError, match="open a Pool"):
        current_pool()


@pytest.mark.slow
def test_a_recursion_of_depth_100_finishes_on_one_executor() -> None:
    with Pool(1) as pool:
        assert pool.submit(down, 100).get(100) == 100


@pytest.mark.slow
def test_fib_15_finishes_with_a_bounded_number_of_processes() -> None:
    with Pool(2) as pool, Sampler(pool) as sampler:
        assert pool.submit(fib, 15).get(100) == 610
    assert 2 < sampler.most <= 60  # of nearly 2,000 tasks: what is deeper goes first


def parallel(count: int, directory: str) -> int:
    """How many of these ran at one time."""
    mine = Path(directory, f"{os.getpid()}-{time.monotonic_ns()}")
    mine.touch()
    most = 0
    deadline = time.monotonic() + 30
    while most < count and time.monotonic() < deadline and not Path(directory, "enough").exists():
        most = max(most, sum(1 for name in os.listdir(directory) if name != "enough"))
        time.sleep(0.01)
    if most >= count:
        Path(directory, "enough").touch()
    return most


def test_no_slot_is_lost_or_won_by_waiting(tmp_path: Path) -> None:
    with Pool(2) as pool:
        assert pool.gather(pool.map(fib, [4, 5, 3])) == [3, 5, 2]
        assert max(pool.gather([pool.submit(parallel, 2, str(tmp_path)) for _ in range(2)])) >= 2
        state_of(pool, lambda executors: len(executors) == 2)
        assert pool.gather(pool.map(abs, range(-500, 0))) == list(range(500, 0, -1))


def state_of(pool: Pool, is_right: Any) -> None:
    """Wait until the executors of the only worker are as they should be."""
    from distributed import rpc

    deadline = time.monotonic() + 30
    while not is_right(found := rpc(pool.workers[0]).status()["executors"]):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def mixed(n: int) -> int:
    return n if n % 10 else current_pool().submit(abs, -n).get()


def test_many_that_wait_and_many_that_do_not_finish_beside_one_another() -> None:
    with Pool(2) as pool:
        assert pool.gather(pool.map(mixed, range(600)), timeout=100) == list(range(600))


def test_what_is_queued_behind_a_task_that_waits_is_run_elsewhere() -> None:
    with Pool(1) as pool:
        pool.gather(pool.map(mixed, [1, 2, 3, 4, 5]))  # they are known to be short: many are given at a time
        assert sum(pool.gather(pool.map(mixed, range(300)), timeout=100)) == sum(range(300))


def beat(path: str) -> None:
    with open(path, "a") as file:
        while True:
            file.write(".")
            file.flush()
            time.sleep(0.02)


def wait_for_growth(path: Path, more_than: int = 0) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or path.stat().st_size <= more_than:
        assert time.monotonic() < deadline, f"{path} does not grow"
        time.sleep(0.01)


def wait_for_rest(paths: list[Path]) -> None:
    """Until nobody writes into them any more."""
    deadline, sizes = time.monotonic() + 30, None
    while True:
        now = [path.stat().st_size for path in paths]
        if now == sizes:
            return
        assert time.monotonic() < deadline, "somebody goes on writing"
        sizes = now
        time.sleep(0.5)


def parent_of_beats(directory: str) -> None:
    pool = current_pool()
    pool.submit(middle_of_beats, directory)
    pool.submit(beat, f"{directory}/one").get()


def middle_of_beats(directory: str) -> None:
    current_pool().submit(beat, f"{directory}/two").get()


def test_a_task_that_is_cancelled_takes_its_own_along(tmp_path: Path) -> None:
    with Pool(2) as pool:
        outer = pool.submit(parent_of_beats, str(tmp_path))
        wait_for_growth(tmp_path / "one")
        wait_for_growth(tmp_path / "two")
        assert outer.cancel()
        wait_for_rest([tmp_path / "one", tmp_path / "two"])
        assert pool.submit(abs, -3).get(30) == 3


def test_a_task_that_takes_too_long_takes_its_own_along(tmp_path: Path) -> None:
    with Pool(2) as pool:
        outer = pool.options(timeout=3).submit(parent_of_beats, str(tmp_path))
        with pytest.raises(TaskTimeout):
            outer.get(60)
        wait_for_rest([path for path in (tmp_path / "one", tmp_path / "two") if path.exists()])


def leaves_behind(directory: str) -> int:
    current_pool().submit(beat, f"{directory}/one")
    wait_for_growth(Path(directory, "one"))
    return 7


def test_what_a_task_leaves_behind_without_returning_it_is_cancelled(tmp_path: Path) -> None:
    with Pool(2) as pool:
        assert pool.submit(leaves_behind, str(tmp_path)).get(30) == 7
        wait_for_rest([tmp_path / "one"])


def killed_once(directory: str) -> int:
    """Dies in its first attempt, while its own tasks run."""
    pool = current_pool()
    mark = Path(directory, "killed")
    handles = pool.map(slow_square, [1, 2, 3])
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return sum(pool.gather(handles))


def slow_square(n: int) -> int:
    time.sleep(0.1)
    return n * n


def test_a_task_that_is_killed_while_its_own_run_has_the_right_result_in_the_end(tmp_path: Path) -> None:
    with Pool(2) as pool:
        assert pool.submit(killed_once, str(tmp_path)).get(60) == 14


def returns_a_handle(n: int) -> RemoteData:
    return current_pool().submit(slow_square, n)


def returns_handles(n: int) -> dict[str, Any]:
    return {"all": current_pool().map(slow_square, range(n)), "n": n}


def test_a_result_may_be_or_contain_handles() -> None:
    with Pool(2) as pool:
        handle = pool.submit(returns_a_handle, 3).get(30)
        assert isinstance(handle, RemoteData)
        assert handle.get(30) == 9
        result = pool.submit(returns_handles, 4).get(30)
        assert pool.gather(result) == {"all": [0, 1, 4, 9], "n": 4}
        assert pool.submit(sum, result["all"]).get(30) == 14


def takes_apart(contained: dict[str, Any]) -> int:
    return sum(current_pool().gather(contained["all"]))


def passes_on(n: int) -> int:
    pool = current_pool()
    inner = pool.submit(returns_handles, n).get()
    return pool.submit(takes_apart, inner).get() + sum(pool.gather(inner["all"]))


def test_handles_found_in_values_can_be_waited_for_in_a_task() -> None:
    with Pool(2) as pool:
        contained = pool.submit(returns_handles, 4)
        assert pool.submit(takes_apart, contained).get(30) == 14
        assert pool.submit(passes_on, 4).get(60) == 28


def fails(levels: int) -> None:
    if not levels:
        raise LookupError("no such thing")
    current_pool().submit(fails, levels - 1).get()


def test_an_exception_comes_through_three_levels_as_itself_and_tells_its_way() -> None:
    with Pool(1) as pool:
        with pytest.raises(LookupError, match="no such thing") as caught:
            pool.submit(fails, 3).get(60)
        text = str(caught.value.__cause__)
        assert text.count("current_pool().submit(fails, levels - 1).get()") == 1
        assert text.endswith('[The last traceback 2 more times, task within task]\n"""')
        assert 'raise LookupError("no such thing")' in text


def catches() -> str:
    pool = current_pool()
    handle = pool.submit(fails, 0)
    try:
        handle.get()
    except LookupError as error:
        caught = str(error)
    failure = handle.get(reraise=False)
    return f"{caught} {type(failure.exception).__name__} {handle.status} {handle.successful()}"


def test_a_task_may_catch_what_its_own_raise() -> None:
    with Pool(1) as pool:
        assert pool.submit(catches).get(30) == "no such thing LookupError failed False"


def large(n: int) -> bytes:
    return b"x" * n


def uses_large(n: int) -> int:
    pool = current_pool()
    one = pool.submit(large, n)
    given = pool.submit(len, b"y" * n)  # an argument that becomes a stored value
    data = pool.scatter(b"z" * n)
    return len(one.get()) + given.get() + pool.submit(len, one).get() + len(data.get()) + pool.submit(len, data).get()


def test_large_values_and_arguments_work_in_tasks() -> None:
    with Pool(2) as pool:
        assert pool.submit(uses_large, 1_000_000).get(60) == 5_000_000


def leaves_a_thread_behind(n: int) -> int:
    """It waits until the task is over, for what would take much longer."""
    handle = current_pool().submit(time.sleep, 60)
    begun = threading.Event()

    def waits() -> None:
        begun.set()
        with contextlib.suppress(DistributedError):
            handle.get()

    threading.Thread(target=waits, daemon=True).start()
    begun.wait()
    return n


def test_threads_that_tasks_leave_behind_hold_up_nobody() -> None:
    with Pool(1) as pool:
        assert [pool.submit(leaves_a_thread_behind, n).get(20) for n in range(5)] == list(range(5))


def many_ways(n: int) -> list[Any]:
    pool = current_pool()
    handles = pool.map(slow_square, range(n))
    done = wait(handles)
    order = sorted(handle.get() for handle in as_completed(pool.starmap(pow, [(2, 3), (3, 2)])))
    urgent = pool.options(priority=-1, timeout=20, retries=1).submit(abs, -5)
    with ThreadPoolExecutor(3) as threads:
        from_threads = list(threads.map(lambda handle: handle.get(), pool.map(abs, [-1, -2, -3, -4])))
    return [len(done.done), order, list(pool.imap(abs, [-1, -2, -3])), urgent.get(), from_threads]


def test_the_pool_in_a_task_does_what_the_one_outside_does() -> None:
    with Pool(1) as pool:
        assert pool.submit(many_ways, 3).get(60) == [3, [8, 9], [1, 2, 3], 5, [1, 2, 3, 4]]


async def awaits(depth: int) -> int:
    if not depth:
        await asyncio.sleep(0.01)
        return 0
    return 1 + await current_pool().submit(awaits, depth - 1)


def awaits_in_a_loop_of_its_own(n: int) -> int:
    async def main() -> int:
        return sum(await asyncio.gather(*[_value(handle) for handle in current_pool().map(slow_square, range(n))]))

    return asyncio.run(main())


async def _value(handle: RemoteData) -> int:
    return await handle


async def blocks_the_loop() -> int:
    return current_pool().submit(abs, -1).get()


def test_coroutines_await_their_own_tasks() -> None:
    with Pool(1) as pool:
        assert pool.gather([pool.submit(awaits, depth) for depth in (0, 3, 10)], timeout=60) == [0, 3, 10]
        assert pool.submit(awaits_in_a_loop_of_its_own, 3).get(60) == 5
        with pytest.raises(RuntimeError, match="await"):
            pool.submit(blocks_the_loop).get(60)


async def awaits_after(begun: Path, path: Path) -> int:
    begun.touch()  # noqa: ASYNC240
    while not path.exists():  # noqa: ASYNC110, ASYNC240  it waits for another process
        await asyncio.sleep(0.01)
    return await current_pool().submit(awaits, 2)


def test_executors_are_replaced_while_a_coroutine_waits_for_its_own_tasks(tmp_path: Path) -> None:
    with Pool(1) as pool:
        waiting = pool.submit(awaits_after, tmp_path / "begun", tmp_path / "go")
        assert until((tmp_path / "begun").exists)
        with pytest.raises(TimeoutError, match="not all executors are fresh"):
            pool.restart(0.5)
        (tmp_path / "go").touch()
        assert waiting.get(20) == 2
        pool.restart(20)


async def doubles(depth: int) -> int:
    if not depth:
        return 1
    pair = current_pool().map(doubles, [depth - 1, depth - 1])
    return await pair[0] + await pair[1]


def test_a_recursion_of_coroutines_finishes_however_many_of_them_wait() -> None:
    with Pool(1) as pool:
        assert pool.submit(doubles, 11).get(100) == 2**11  # 4095, of which a thousand of each depth run at a time
        assert pool.gather(pool.map(awaits, [1] * 1500), timeout=100) == [1] * 1500


async def endless(n: int) -> int:
    return await current_pool().submit(endless, n + 1)


def test_a_recursion_of_coroutines_without_an_end_is_an_error() -> None:
    with Pool(1) as pool:
        with pytest.raises(NestingTooDeep, match="coroutine_depth_max"):
            pool.submit(endless, 0).get(100)
        assert pool.submit(awaits, 3).get(20) == 3


def cancels() -> list[str]:
    handle = current_pool().submit(time.sleep, 60)
    handle.cancel()
    try:
        handle.get()
    except TaskCancelled:
        return [handle.status]
    return []


def test_a_task_cancels_its_own() -> None:
    with Pool(1) as pool:
        assert pool.submit(cancels).get(30) == ["cancelled"]


def gives_up_waiting() -> str:
    try:
        current_pool().submit(time.sleep, 60).get(timeout=0.2)
    except TimeoutError:
        return "in time"
    return ""


def test_a_wait_with_a_limit_ends_in_time() -> None:
    with Pool(1) as pool:
        assert pool.submit(gives_up_waiting).get(30) == "in time"


def test_nesting_deeper_than_allowed_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTRIBUTED_BLOCKED_EXECUTORS_MAX", "3")
    with Pool(1) as pool:
        assert pool.submit(down, 3).get(60) == 3
        with pytest.raises(NestingTooDeep, match="blocked_executors_max"):
            pool.submit(down, 6).get(60)
        assert pool.submit(down, 3).get(60) == 3


def independent(center: str) -> int:
    with Pool(center) as pool:
        return pool.submit(slow_square, 5).get()


def test_a_pool_that_a_task_opens_to_its_own_cluster_does_not_starve_it() -> None:
    with Pool(1) as pool:
        assert pool.submit(independent, pool.address).get(60) == 25


def test_what_goes_with_the_programs_own_pool_says_so() -> None:
    with Pool(1) as pool:
        for wrong in (
            lambda: current_pool().names,
            lambda: current_pool().upload("x"),
            lambda: current_pool().ncores(),
        ):
            with pytest.raises(DistributedError, match="program's own pool"):
                pool.submit(wrong).get(30)
        with pytest.raises(ValueError, match="named by their task"):
            pool.submit(lambda: current_pool().options(key="x")).get(30)
