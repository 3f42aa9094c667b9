"""`Executor` beyond what CPython's own tests look at (those run in test_executor_cpython.py)."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, as_completed, wait

import pytest

from conftest import leaks_looked_for_by_module
from distributed import Cluster, Executor
from distributed.errors import TaskCrashed

no_leaks = leaks_looked_for_by_module()


@pytest.fixture(scope="module")
def executor(no_leaks):
    with Executor(2) as executor:
        yield executor


def test_a_large_result_is_there_when_the_future_is_done(executor):
    future = executor.submit(bytes, 3_000_000)
    assert len(future.result()) == 3_000_000
    assert future._handle is None, "the copy on the worker was not given up"


def test_a_call_that_was_not_sent_yet_can_be_cancelled_and_one_that_runs_cannot(executor):
    futures = [executor.submit(time.sleep, 0.3) for _ in range(20)]
    while not futures[0].running():
        time.sleep(0.001)
    assert not futures[0].cancel()
    assert futures[-1].cancel() and futures[-1].cancelled() and futures[-1].cancel()
    with pytest.raises(CancelledError):
        futures[-1].result()
    for future in futures[1:]:
        future.cancel()
    assert futures[0].result() is None
    wait(futures)


def test_what_cannot_be_pickled_is_an_error_of_its_future(executor):
    with pytest.raises(TypeError, match="lock"):
        executor.submit(id, threading.Lock()).result()
    assert executor.submit(abs, -1).result() == 1


def test_an_argument_that_waits_for_other_futures_as_it_is_pickled_holds_up_none_of_them(executor):
    futures = [executor.submit(lambda n: time.sleep(0.02) or n, n) for n in range(8)]
    assert executor.submit(int, Sum(futures)).result(timeout=30) == 28


class Sum:
    """Pickled, it is the sum of what is there when all have come."""

    def __init__(self, futures):
        self.futures = futures

    def __reduce__(self):
        return sum, ([future.result(timeout=30) for future in self.futures],)


def test_what_is_being_submitted_while_it_is_shut_down_is_finished():
    entered, goes_on = threading.Event(), threading.Event()

    class Slow:
        def __reduce__(self):
            entered.set()
            assert goes_on.wait(30)
            return int, (5,)

    executor, found = Executor(1), []
    thread = threading.Thread(target=lambda: found.append(executor.submit(abs, Slow()).result(30)))
    thread.start()
    assert entered.wait(30)
    executor.shutdown(wait=False)
    goes_on.set()
    thread.join(30)
    executor.shutdown()
    assert found == [5]
    assert executor._work.pool._core.driver.closed


def test_a_crash_costs_one_call(executor):
    future = executor.submit(os._exit, 3)
    assert isinstance(future.exception(), TaskCrashed)
    assert executor.submit(abs, -1).result() == 1


def test_map_consumes_no_more_than_its_buffer(executor):
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield number

    squares = executor.map(lambda x: x * x, endless(), buffersize=5)
    assert [next(squares) for _ in range(10)] == [x * x for x in range(10)]
    assert len(taken) <= 15
    squares.close()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"chunksize": 0}, ValueError),
        ({"buffersize": 0}, ValueError),
        ({"buffersize": 1.5}, TypeError),
        ({"buffersize": True}, TypeError),
    ],
)
def test_map_refuses_what_is_no_number_of_calls(executor, options, error):
    with pytest.raises(error, match=next(iter(options))):
        executor.map(abs, [1], **options)


def test_an_exception_in_a_chunk_is_raised_and_the_rest_cancelled(executor):
    with pytest.raises(ZeroDivisionError):
        list(executor.map(lambda x: 1 // x, [2, 1, 0, 5], chunksize=2))


def test_an_event_loop_awaits_its_futures(executor):
    async def main():
        loop = asyncio.get_running_loop()
        first = asyncio.wrap_future(executor.submit(divmod, 7, 2))
        return await first, await loop.run_in_executor(executor, pow, 2, 5)

    assert asyncio.run(main()) == ((3, 1), 32)


def test_a_done_callback_that_waits_for_another_future_holds_up_nobody_else(executor):
    gate = threading.Event()
    executor.submit(abs, -1).add_done_callback(lambda future: gate.wait(30))
    large = executor.submit(bytes, 2_000_000)
    assert len(large.result(timeout=20)) == 2_000_000
    gate.set()


def test_several_executors_share_a_cluster():
    with Cluster(n_workers=1, ncores=2) as cluster, Executor(cluster) as one, Executor(cluster.center_address) as two:
        futures = [one.submit(pow, 2, 2), two.submit(pow, 3, 2)]
        assert sorted(future.result() for future in as_completed(futures)) == [4, 9]
        one.shutdown()
        assert two.submit(pow, 4, 2).result() == 16


def test_it_is_broken_when_its_own_cluster_was_killed():
    with Executor(2) as executor:
        executor.submit(abs, -1).result()
        running = [executor.submit(time.sleep, 60) for _ in range(10)]
        os.kill(executor._work.pool._owned._daemon.pid, signal.SIGKILL)
        done, _ = wait(running, timeout=30, return_when=FIRST_COMPLETED)
        assert done
        for future in running:
            with pytest.raises(BrokenExecutor, match="signal 9"):
                future.result(timeout=10)
        with pytest.raises(BrokenExecutor, match="signal 9"):
            executor.submit(abs, -1)


def test_an_initializer_that_fails_breaks_it_with_the_cause():
    with Executor(2, initializer=int, initargs=("no number",)) as executor:
        with pytest.raises(BrokenExecutor, match="no number"):
            executor.submit(abs, -1).result()
        with pytest.raises(BrokenExecutor, match="no number"):
            executor.submit(abs, -1)


def test_an_initializer_that_crashes_breaks_it():
    with Executor(1, initializer=os._exit, initargs=(7,)) as executor:
        with pytest.raises(BrokenExecutor, match="initializer crashed"):
            executor.submit(abs, -1).result()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_workers": 0}, ValueError),
        ({"max_workers": "four"}, TypeError),
        ({"address_or_workers": 2, "max_workers": 2}, TypeError),
        ({"initializer": 5}, TypeError),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, error):
    with pytest.raises(error):
        Executor(**arguments)


def run_program(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "executor.shutdown(wait=False)", "del executor"])
def test_work_is_finished_when_the_program_ends(end, tmp_path):
    program = run_program(f"""
        import pathlib, time
        from distributed import Executor
        executor = Executor(2)
        def work():
            time.sleep(0.5)
            pathlib.Path({str(tmp_path / "done")!r}).touch()
        future = executor.submit(work)
        {end}
    """)
    assert (program.returncode, program.stderr) == (0, "")
    assert (tmp_path / "done").exists()


@pytest.mark.slow
def test_nothing_can_be_submitted_while_the_interpreter_ends():
    program = run_program("""
        import atexit
        @atexit.register
        def late():
            try:
                executor.submit(abs, -1)
            except RuntimeError as error:
                print(error)
        from distributed import Executor
        executor = Executor(1)
        executor.submit(abs, -1).result()
    """)
    assert program.stdout == "cannot schedule new futures after shutdown\n", program.stderr
