"""Real executors under a real supervisor: they run, die in every way there is, and leave nothing behind."""

# These tests start processes and look at /proc while their loop waits: nobody else needs the loop meanwhile.
# ruff: noqa: ASYNC110, ASYNC220, ASYNC221, ASYNC240

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from distributed.errors import StartFailed
from distributed.wire.functions import pack_function
from distributed.wire.messages import Outcomes, Run
from distributed.wire.values import pack_call, unpack, unpack_exception
from distributed.worker.supervise import End, Supervisor

WAIT_S = 20.0


class Bench:
    """A supervisor whose reports are queued."""

    def __init__(self, environment=None, directories=()):
        self.reports, self.texts, self.serial = asyncio.Queue(), [], 1
        report = self.reports.put_nowait
        self.supervisor = Supervisor(
            lambda *report_: report(("started", *report_)),
            lambda executor, message: report(("message", executor, message)),
            lambda *report_: report(("ended", *report_)),
            lambda executor, stream, text: self.texts.append((executor, stream, text)) is None,
            environment,
            directories=directories,
        )

    async def __aenter__(self):
        await self.supervisor.start()
        return self

    async def __aexit__(self, *error):
        await self.supervisor.stop()

    async def next(self, kind, executor=None):
        while True:
            report = await asyncio.wait_for(self.reports.get(), WAIT_S)
            if report[0] == kind and executor in (None, report[1]):
                return report[2]

    async def spawn(self, executor=1, asynchronous=False):
        self.supervisor.spawn(executor, asynchronous)
        return await self.next("started", executor)

    def run(self, function, *argument_tuples, executor=1):
        packed = pack_function(function)
        args = [pack_call(arguments, {})[0] for arguments in argument_tuples]
        keys = [f"x{number}" for number in range(len(args))]
        serial, self.serial = self.serial, self.serial + len(args)
        self.supervisor.send(executor, Run(packed.id, packed.code, packed.name, serial, keys, args, {}))
        return serial

    async def value(self, function, *arguments, executor=1):
        self.run(function, arguments, executor=executor)
        outcomes = await self.next("message", executor)
        assert outcomes.errors == {}, unpack_exception(outcomes.errors[0])
        return unpack(outcomes.values[0])


def on_bench(test):
    """Turns a coroutine function into a test."""

    def run_test(tmp_path):
        asyncio.run(test(tmp_path) if test.__code__.co_argcount else test())

    run_test.__name__, run_test.__doc__ = test.__name__, test.__doc__
    return run_test


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def is_gone(pid, within_s=WAIT_S):
    """Other people's children give no event to wait for: look again until the time is over."""
    deadline = time.monotonic() + within_s
    while is_alive(pid) and time.monotonic() < deadline:
        await asyncio.sleep(0.005)
    return not is_alive(pid)


def crash_by_exit():
    os._exit(3)


def crash_by_segfault():
    import ctypes

    ctypes.string_at(0)


def crash_by_kill():
    os.kill(os.getpid(), signal.SIGKILL)


@on_bench
async def test_tasks_run_in_order_in_another_process():
    async with Bench() as bench:
        pid = await bench.spawn()
        bench.run(lambda x: (os.getpid(), x), (1,), (2,), (3,))
        outcomes = await bench.next("message")
        assert outcomes.serials == [1, 2, 3]
        assert [unpack(value) for value in outcomes.values] == [(pid, 1), (pid, 2), (pid, 3)]


@on_bench
async def test_paths_may_be_no_utf_8(tmp_path):
    directory = os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller")
    os.mkdir(directory)
    sys.path.append(directory)
    try:
        async with Bench() as bench:
            await bench.spawn()
            assert directory in await bench.value(lambda: [os.fsdecode(path) for path in sys.path])
    finally:
        sys.path.remove(directory)


@on_bench
async def test_a_task_that_forks_has_one_outcome_and_its_copy_is_gone():
    async with Bench() as bench:
        await bench.spawn()
        pid = await bench.value(os.fork)
        assert pid > 0
        assert await is_gone(pid)
        assert await bench.value(abs, -1) == 1
        assert bench.reports.empty()


@on_bench
async def test_a_task_that_closes_its_output_is_not_looked_at_for_output_any_more():
    async with Bench() as bench:
        await bench.spawn()
        await bench.value(os.close, 1)
        assert await bench.value(os.write, 2, b"still here") == 10
        assert await bench.value(abs, -1) == 1
        assert bench.texts == [(1, "stderr", "still here")]
        stdout, stderr = bench.supervisor.children[1].streams
        loop = asyncio.get_running_loop()
        assert [loop.remove_reader(stream.reader) for stream in (stdout, stderr)] == [False, True]


@pytest.mark.parametrize(
    ("crash", "number", "code"), [(crash_by_exit, 0, 3), (crash_by_segfault, 11, 0), (crash_by_kill, 9, 0)]
)
def test_a_crash_tells_how_it_was_which_task_and_where(crash, number, code):
    async def test():
        async with Bench() as bench:
            await bench.spawn()
            bench.run(lambda n: crash() if n == 1 else n, (0,), (1,), (2,))
            end = await bench.next("ended")
            assert (end.signal, end.exit_code, end.serial) == (number, code, 2)
            assert 1 << 20 < end.peak_bytes < 1 << 30
            assert ("in crash_by_segfault" in end.stack) == (crash is crash_by_segfault)
            assert "executor.py" not in end.stack

    asyncio.run(test())


@on_bench
async def test_results_sent_before_a_crash_arrive_before_its_report():
    async with Bench() as bench:
        await bench.spawn()
        bench.run(lambda: 7, ())
        bench.run(crash_by_exit, ())
        reports = [await asyncio.wait_for(bench.reports.get(), WAIT_S) for _ in range(2)]
        assert [report[0] for report in reports] == ["message", "ended"]


@on_bench
async def test_a_replacement_is_ready_within_100_ms():
    async with Bench() as bench:
        await bench.spawn(1)
        bench.run(crash_by_kill, ())
        await bench.next("ended")
        start = time.perf_counter()
        bench.supervisor.spawn(2)
        assert await bench.value(lambda: 1, executor=2) == 1
        assert time.perf_counter() - start < 0.1


@on_bench
async def test_an_idle_executors_end_names_no_task():
    async with Bench() as bench:
        pid = await bench.spawn()
        assert await bench.value(lambda: 1) == 1
        os.kill(pid, signal.SIGTERM)
        end = await bench.next("ended")
        assert (end.signal, end.serial) == (15, None)


@on_bench
async def test_a_running_task_can_be_seen_and_killed_and_says_where_it_was():
    async with Bench() as bench:
        await bench.spawn()
        before = time.monotonic()

        def wait_for_ever():
            print("waiting", flush=True)
            time.sleep(1000)

        serial = bench.run(wait_for_ever, ())
        while not bench.texts:
            await asyncio.sleep(0.001)
        running, start_s = bench.supervisor.running(1)
        assert running == serial
        assert before <= start_s <= time.monotonic()
        bench.supervisor.kill(1)
        end = await bench.next("ended")
        assert (end.signal, end.serial) == (9, serial)
        assert "in wait_for_ever" in end.stack
        assert bench.supervisor.running(1) is None


@on_bench
async def test_a_loop_in_c_that_holds_the_interpreter_is_killed_too():
    async with Bench() as bench:
        await bench.spawn()
        serial = bench.run(lambda: sum(range(10**12)), ())
        while (bench.supervisor.running(1) or (0,))[0] != serial:
            await asyncio.sleep(0.001)
        start = time.perf_counter()
        bench.supervisor.kill(1)
        assert (await bench.next("ended")).signal == 9
        assert time.perf_counter() - start < 1.0


def start_processes():
    """A child, one in a session of its own, and one that detached itself in the way of a daemon, without exec."""
    sleepers = [["sleep", "1000"], ["setsid", "sleep", "1000"]]
    pids = [subprocess.Popen(sleeper).pid for sleeper in sleepers]
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if (pid := os.fork()) > 0:
            os.write(writer, str(pid).encode())
            os._exit(0)
        time.sleep(1000)
    pids.append(int(os.read(reader, 20)))
    return pids


@pytest.mark.parametrize("death", ["exit", "kill"])
def test_nothing_that_a_task_started_outlives_its_executor(death):
    async def test():
        async with Bench() as bench:
            await bench.spawn(1)
            await bench.spawn(2)
            pids, others = await bench.value(start_processes), await bench.value(start_processes, executor=2)
            assert all(map(is_alive, pids + others))
            if death == "exit":
                bench.run(crash_by_exit, ())
            else:
                bench.supervisor.kill(1)
            await bench.next("ended", 1)
            for pid in pids:
                assert await is_gone(pid)
            assert all(map(is_alive, others)), "processes of another executor are not ours to kill"
        for pid in others:
            assert await is_gone(pid, 0.1)

    asyncio.run(test())


@on_bench
async def test_output_comes_before_the_result_and_its_tail_is_kept():
    async with Bench({"DISTRIBUTED_X": "alice"}) as bench:
        await bench.spawn()

        def talk():
            print("to", os.environ["DISTRIBUTED_X"], end="")
            for number in range(100):
                print("line", number, file=sys.stderr)

        assert await bench.value(talk) is None
        assert (1, "stdout", "to alice") in bench.texts
        bench.run(crash_by_exit, ())
        tail = (await bench.next("ended")).stderr_tail.splitlines()
        assert tail == [f"line {number}" for number in range(80, 100)]


@on_bench
async def test_a_flood_of_output_is_limited_and_hurts_nobody():
    async with Bench() as bench:
        await bench.spawn()
        assert await bench.value(lambda: print("x" * 10_000_000)) is None
        bench.run(crash_by_exit, ())
        await bench.next("ended")
        assert sum(len(text) for _, _, text in bench.texts) < 4_000_000
        assert " of output not shown" in bench.texts[-1][2]


@on_bench
async def test_executors_have_a_clean_process():
    async with Bench({"PYTHONHASHSEED": "5"}) as bench:
        await bench.spawn()

        def describe():
            import __main__

            descriptors = sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1]
            return {
                "main": [name for name in vars(__main__) if not name.startswith("__")],
                "sigint": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
                "stdin": sys.stdin.read(),
                "descriptors": len(descriptors),  # three streams, task socket, cell and its mapping
                "leader": os.getpgrp() == os.getpid(),
                "threads": os.environ["OMP_NUM_THREADS"],
                "hash": hash("alice"),
                "paths": (sys.path, os.environ.get("PYTHONPATH")),
            }

        found = await bench.value(describe)
        code = "print(hash('alice'))"
        env = {"PYTHONHASHSEED": "5"}
        expected_hash = int(subprocess.run([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE).stdout)
        paths = ([entry or os.getcwd() for entry in sys.path], os.environ.get("PYTHONPATH"))
        assert found == {
            "main": [], "sigint": True, "stdin": "", "descriptors": 6, "leader": True, "threads": "1",
            "hash": expected_hash, "paths": paths,
        }  # fmt: skip


@on_bench
async def test_many_messages_both_ways_are_neither_lost_nor_mixed_up():
    async with Bench() as bench:
        await bench.spawn()
        payload = os.urandom(50_000)
        for _ in range(20):
            bench.run(lambda n, data: (n, data), *((n, payload) for n in range(20)))
        values = []
        while len(values) < 400:
            values += [unpack(value) for value in (await bench.next("message")).values]
        assert values == [(n, payload) for _ in range(20) for n in range(20)]


@on_bench
async def test_rubbish_on_the_task_socket_costs_the_executor_and_nothing_else():
    async with Bench() as bench:
        await bench.spawn()

        def write_rubbish():
            for descriptor in range(3, 10):
                try:
                    os.write(descriptor, b"\xff" * 100)
                except OSError:
                    pass
            time.sleep(1000)

        bench.run(write_rubbish, ())
        assert (await bench.next("ended")).signal == 9
        await bench.spawn(2)
        assert await bench.value(lambda: 5, executor=2) == 5


@on_bench
async def test_when_the_fork_server_dies_its_executors_are_reported_and_new_ones_start():
    async with Bench() as bench:
        await bench.spawn()
        pids = await bench.value(start_processes)
        bench.supervisor.process.kill()
        assert (await bench.next("ended")).signal == 9
        await bench.spawn(2)
        assert await bench.value(lambda: 6, executor=2) == 6
        for pid in pids[:2]:  # the third has neither group, session nor environment in common with anybody
            assert await is_gone(pid)
        os.kill(pids[2], signal.SIGKILL) if is_alive(pids[2]) else None


def fails(monkeypatch, module, name, succeeds=0):
    """Let a function find no descriptors left, after it worked a few times."""
    calls, real = iter(range(succeeds)), getattr(module, name)

    def attempt(*args, **options):
        if next(calls, None) is None:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(*args, **options)

    monkeypatch.setattr(module, name, attempt)


@pytest.mark.parametrize(
    ("module", "name", "succeeds"),
    [(socket, "socketpair", 0), (os, "pipe", 0), (os, "pipe", 1), (os, "memfd_create", 0), (os, "dup", 2)],
)
def test_without_descriptors_a_spawn_leaves_nothing_and_the_next_one_works(module, name, succeeds, monkeypatch):
    async def scenario():
        async with Bench() as bench:
            await bench.spawn(1)
            before = set(os.listdir("/proc/self/fd"))
            with monkeypatch.context() as patch:
                if name == "dup":  # that happens while the fork server is busy
                    patch.setattr(socket, "send_fds", raise_blocking)
                fails(patch, module, name, succeeds)
                with pytest.raises(OSError, match="Too many"):
                    bench.supervisor.spawn(2)
            assert set(os.listdir("/proc/self/fd")) == before
            assert set(bench.supervisor.children) == {1}
            await bench.spawn(3)
            assert await bench.value(lambda: 6, executor=3) == 6

    asyncio.run(scenario())


def raise_blocking(*_):
    raise BlockingIOError


@on_bench
async def test_a_fork_server_that_cannot_be_started_again_is_tried_again_with_the_next_spawn():
    async with Bench() as bench:
        bench.supervisor.process.kill()
        await asyncio.wait_for(bench.supervisor._ended.wait(), WAIT_S)
        with pytest.MonkeyPatch.context() as patch:
            fails(patch, os, "pidfd_open")
            with pytest.raises(OSError, match="Too many"):
                bench.supervisor.spawn(1)
        await bench.spawn(2)
        assert await bench.value(lambda: 6, executor=2) == 6


@on_bench
async def test_a_supervisor_whose_fork_server_could_not_be_started_again_stops():
    async with Bench() as bench:
        bench.supervisor.process.kill()
        await asyncio.wait_for(bench.supervisor._ended.wait(), WAIT_S)


@on_bench
async def test_stop_ends_busy_executors_at_once():
    bench = Bench()
    await bench.supervisor.start()
    pids = [await bench.spawn(number) for number in range(3)]
    bench.run(time.sleep, (1000,))
    start = time.perf_counter()
    await bench.supervisor.stop()
    assert time.perf_counter() - start < 1.0
    assert not any(map(is_alive, pids))
    assert bench.supervisor.process.returncode == 0


AGENT = """
import asyncio, sys, time
from distributed.worker.files import Files
sys.path.insert(0, {tests!r})
from test_supervise import Bench, start_processes

async def main():
    files = Files()
    async with Bench(directories=[files.directory]) as bench:
        files.reserve(1 << 20)
        executors = [await bench.spawn(number) for number in (1, 2, 3)]
        started = await bench.value(start_processes)
        bench.run(time.sleep, (1000,), executor=2)
        print(files.directory, bench.supervisor.process.pid, *executors, *started, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@on_bench
async def test_when_the_agent_is_killed_all_is_gone_within_a_second():
    code = AGENT.format(tests=os.path.dirname(__file__))
    agent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with agent:
        directory, *pids = agent.stdout.readline().split()
        assert os.path.exists(directory)
        assert all(map(is_alive, pids))
        agent.kill()
        start = time.perf_counter()
        for pid in pids:
            assert await is_gone(pid, within_s=start + 1.0 - time.perf_counter())
        assert not os.path.exists(directory)


@on_bench
async def test_coroutines_run_side_by_side_and_a_crash_names_the_one_that_ran():
    async with Bench() as bench:
        await bench.spawn(asynchronous=True)

        async def pause(n):
            await asyncio.sleep(0.05)
            if n == 700:
                os._exit(1)
            return n

        start = time.perf_counter()
        bench.run(pause, *((n,) for n in range(500)))
        seen = []
        while len(seen) < 500:
            seen += [unpack(value) for value in (await bench.next("message")).values]
        assert sorted(seen) == list(range(500))
        assert time.perf_counter() - start < 5.0
        first = bench.run(pause, *((n,) for n in range(600, 800)))
        assert (await bench.next("ended")).serial == first + 100


@on_bench
async def test_stop_before_start_starts_nothing():
    bench = Bench()
    await bench.supervisor.stop()
    await bench.supervisor.start()
    assert not hasattr(bench.supervisor, "process")


@on_bench
async def test_stop_while_it_starts_ends_both():
    bench = Bench()
    starting = asyncio.ensure_future(bench.supervisor.start())
    await asyncio.sleep(0)
    await bench.supervisor.stop()
    with pytest.raises(StartFailed):
        await starting


def test_a_failing_start_is_reported(monkeypatch):
    async def test():
        with pytest.raises(StartFailed, match="ended with code 1"):
            await Bench().supervisor.start()

    monkeypatch.setattr(sys, "executable", "/bin/false")
    asyncio.run(test())


def test_an_end_reads_as_a_sentence():
    assert str(End(9, 0, 3 << 20, None, "", "")) == "killed by signal 9 (SIGKILL), peak memory 3.0 MiB"
    assert Outcomes.operation == "outcomes"
