"""The executor's loop over a socket pair: what goes in as `Run` comes out as `Outcomes`, whatever the task does."""

from __future__ import annotations

import asyncio
import importlib
import os
import pickle
import queue
import socket
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from distributed.config import SETTINGS
from distributed.errors import CannotPickle
from distributed.pieces import write_file
from distributed.uploads import Bundle
from distributed.wire import codec
from distributed.wire.frames import encode
from distributed.wire.functions import Initializer, pack_function, pack_need
from distributed.wire.messages import NO_INPUT, NO_ROOM, NOBODY, CancelRunning, NeedRoom, Outcomes, Room, Run
from distributed.wire.values import pack, pack_call, reduce_handle, unpack, unpack_exception
from distributed.worker import outcomes
from distributed.worker.calls import Functions, Handle, map_input
from distributed.worker.executor import Executor
from distributed.worker.executor_async import AsyncExecutor
from distributed.worker.link import Link
from distributed.worker.outcomes import Report
from distributed.worker.progress import Cell


class Agent:
    """Plays the agent for an executor that runs in a thread."""

    def __init__(self, asynchronous):
        ours, theirs = socket.socketpair()
        ours.settimeout(20)
        self.link, self.cell = Link(ours), Cell.create()
        serve = self._serve_async if asynchronous else Executor(theirs, self.cell).serve
        self.sockets = ours, theirs
        self.thread = threading.Thread(target=serve)
        self.thread.start()

    def _serve_async(self):
        asyncio.run(AsyncExecutor(self.sockets[1], self.cell).serve())

    def close(self):
        self.sockets[0].shutdown(socket.SHUT_RDWR)
        self.thread.join(20)
        assert not self.thread.is_alive()
        for end in self.sockets:
            end.close()
        self.cell.close()

    def send(self, message):
        self.link.send(message)

    def run(self, function, *calls, serial=1, inputs=None, with_code=True):
        """`calls` are tuples of arguments or payloads."""
        packed = pack_function(function)
        args = [call if isinstance(call, bytes) else pack_call(call, {})[0] for call in calls]
        code = packed.code if with_code else b""
        keys = [f"alice/{serial + position}" for position in range(len(args))]
        self.send(Run(packed.id, code, packed.name, serial, keys, args, inputs or {}))
        return packed

    def outcomes(self, count):
        """{serial: value or exception} of the next `count` tasks."""
        found = {}
        while len(found) < count:
            message = self.link.wait_for(Outcomes)
            for position, serial in enumerate(message.serials):
                error = message.errors.get(position)
                found[serial] = unpack_exception(error) if error else unpack(message.values[position])
        return found


@pytest.fixture(params=["blocking", "asynchronous"])
def agent(request):
    agent = Agent(request.param == "asynchronous")
    yield agent
    agent.close()


@pytest.fixture
def blocking():
    agent = Agent(asynchronous=False)
    yield agent
    agent.close()


@pytest.fixture
def asynchronous():
    agent = Agent(asynchronous=True)
    yield agent
    agent.close()


class RemoteHandle:
    """What a pool's handle is to the wire."""

    def __init__(self, key):
        self.key = key

    def reference(self):
        return [self.key, 1, 10, ["worker"]]

    def reduce_outside(self):
        raise AssertionError("pickled outside")

    def __reduce__(self):
        return reduce_handle(self)


def test_a_batch_gives_its_results_durations_and_sizes(agent):
    agent.run(lambda x: x * 10, (1,), (2,), (b"x" * 1000,))
    message = agent.link.wait_for(Outcomes)
    assert message.serials == [1, 2, 3]
    assert message.nbytes == [len(value) for value in message.values]
    assert [unpack(value) for value in message.values] == [10, 20, b"x" * 10_000]
    assert all(0 <= duration_us < 1_000_000 for duration_us in message.durations_us)
    assert (message.paths, message.errors, message.contains) == ({}, {}, {})


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
def test_whatever_a_task_raises_is_its_outcome_and_the_others_run(agent, kind):
    def fail_at_two(n):
        if n == 2:
            raise kind("alice")
        return n

    agent.run(fail_at_two, (1,), (2,), (3,))
    found = agent.outcomes(3)
    assert (found[1], found[3]) == (1, 3)
    assert type(found[2]) is kind
    assert found[2].args == ("alice",)


def test_the_traceback_begins_in_the_users_code(agent):
    def divide(n):
        return 1 // n

    agent.run(divide, (0,))
    text = str(agent.outcomes(1)[1].__cause__)
    assert "in divide" in text
    assert "worker/executor" not in text


def test_a_result_that_cannot_be_sent_is_a_readable_error(agent):
    agent.run(lambda: {"lock": threading.Lock()}, ())
    error = agent.outcomes(1)[1]
    assert isinstance(error, CannotPickle)
    assert "'lock'" in str(error)


def test_a_function_that_cannot_be_loaded_fails_each_of_its_tasks(agent):
    code = pickle.dumps(ImportedNowhere, 0).replace(b"ImportedNowhere", b"GoneNowhere")
    payload = pack_call((), {})[0]
    agent.send(Run(b"f" * 16, code, "f", 1, ["x", "y"], [payload, payload], {}))
    found = agent.outcomes(2)
    assert all("GoneNowhere" in str(error) for error in found.values())


class ImportedNowhere:
    pass


def test_code_comes_once(agent):
    packed = agent.run(lambda x: x + 1, (1,))
    assert agent.outcomes(1) == {1: 2}
    agent.send(Run(packed.id, b"", packed.name, 2, ["x"], [pack_call((5,), {})[0]], {}))
    assert agent.outcomes(1) == {2: 6}
    agent.run(lambda x: x + 2, (1,), serial=3, with_code=False)
    assert "whose code it does not have" in str(agent.outcomes(1)[3])


def test_a_function_that_could_not_be_loaded_is_tried_again(agent, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code, payload = b"\x80\x05clate_module\nanswer\n.", pack_call((), {})[0]
    agent.send(Run(b"f" * 16, code, "answer", 1, ["x"], [payload], {}))
    assert isinstance(agent.outcomes(1)[1], ModuleNotFoundError)
    (tmp_path / "late_module.py").write_text("def answer(): return 42")
    importlib.invalidate_caches()
    agent.send(Run(b"f" * 16, b"", "answer", 2, ["x"], [payload], {}))
    assert agent.outcomes(1) == {2: 42}
    del sys.modules["late_module"]


LARGE = os.urandom(2000)


def test_the_cache_of_functions_is_bounded_in_number_and_bytes():
    functions = Functions(count_max=3, bytes_max=1000)
    codes = {n: pack_function(str if n % 2 else len).code for n in range(9)}
    for n in range(5):
        functions.get(bytes([n]), codes[n])
        functions.get(b"\0", codes[0])
    assert [bytes([n]) in functions for n in range(5)] == [True, False, False, True, True]
    functions.get(b"large", pack_function(lambda data=LARGE: data).code)
    assert b"large" in functions
    assert b"\0" not in functions


def test_what_functions_need_stays_however_large_it_was(monkeypatch):
    monkeypatch.setattr("distributed.uploads.keep", bool)
    functions = Functions(count_max=10, bytes_max=1000)
    needs = {bytes([n]): pack_need(Bundle([LARGE + bytes([n])]), "the upload")[1] for n in range(3)}
    assert functions.prepared(b"f", pack_function(len).code, needs)("abc") == 3
    assert functions.prepared(b"f", b"", dict.fromkeys(needs, b""))("abc") == 3
    assert functions.nbytes < 1000


def test_an_initializer_keeps_nothing_once_it_was_called():
    argument = Keepable()
    living = weakref.ref(argument)
    initializer = Initializer(id, (argument,))
    del argument
    initializer()
    assert living() is None
    initializer()  # and is not called again


class Keepable:
    """Something that may be kept too long."""


def test_inputs_are_values_and_each_task_has_its_own(agent, tmp_path):
    array = np.arange(100_000.0)
    path = str(tmp_path / "value")
    packed = pack(array)
    with open(path, "wb") as file:
        file.truncate(packed.nbytes)
    write_file(path, packed.pieces())
    before = Path(path).read_bytes()

    def spoil(large, small):
        total = float(large[0] + large.sum()) + small["y"]
        large += 1
        small["y"] += 1
        return total, large.flags.writeable

    payload, handles = pack_call((RemoteHandle("x"), RemoteHandle("y")), {})
    assert [handle.key for handle in handles] == ["x", "y"]
    inputs = [["x", path, packed.nbytes], ["y", pack({"y": 0.5}).tobytes()]]
    agent.run(spoil, payload, payload, inputs={0: inputs, 1: inputs})
    expected = (float(array.sum()) + 0.5, True)
    assert agent.outcomes(2) == {1: expected, 2: expected}
    assert Path(path).read_bytes() == before


def test_the_same_input_twice_is_the_same_object(agent):
    x = RemoteHandle("x")
    payload, _ = pack_call((x, [x]), {})
    agent.run(lambda one, other: one is other[0], payload, inputs={0: [["x", pack([1, 2]).tobytes()]]})
    assert agent.outcomes(1) == {1: True}


def test_handles_in_an_input_stay_handles_and_may_be_returned(agent):
    payload, _ = pack_call((RemoteHandle("list"),), {})
    value = pack([RemoteHandle("bob/1"), RemoteHandle("bob/2")]).tobytes()
    agent.run(lambda handles: handles[1], payload, inputs={0: [["list", value]]})
    message = agent.link.wait_for(Outcomes)
    assert message.errors == {}
    assert message.contains == {0: [["bob/2", 1, 10, ["worker"]]]}
    assert unpack(message.values[0], Handle).key == "bob/2"


def test_a_large_result_is_written_into_a_reserved_file(agent, tmp_path):
    data = np.random.default_rng(7).integers(0, 255, 300_000, dtype=np.uint8)
    agent.run(lambda: (data, data[::2], "bob"), ())
    need = agent.link.wait_for(NeedRoom)
    path = tmp_path / "room"
    path.write_bytes(bytes(need.nbytes))
    agent.send(Room(str(path), ""))
    message = agent.link.wait_for(Outcomes)
    assert (message.paths, message.nbytes, message.values) == ({0: str(path)}, [need.nbytes], [b""])
    whole, half, name = unpack(map_input("x", str(path), path.stat().st_size))
    assert np.array_equal(whole, data)
    assert np.array_equal(half, data[::2])
    assert name == "bob"


@pytest.mark.parametrize("is_there", [True, False])
def test_a_task_does_not_begin_when_the_file_of_an_input_is_gone_or_was_cut_short(agent, tmp_path, is_there):
    path = tmp_path / "value"
    if is_there:
        path.write_bytes(bytes(70_000))
    payload, _ = pack_call((RemoteHandle("y"), RemoteHandle("x")), {})
    inputs = [["y", pack(1).tobytes()], ["x", str(path), 90_000]]
    agent.run(lambda y, x: 1 / 0, payload, inputs={0: inputs})
    message = agent.link.wait_for(Outcomes)
    assert (message.errors, message.values) == ({0: NO_INPUT}, [b"x"])


def test_without_room_the_task_fails_and_the_next_one_runs(agent):
    agent.run(bytes, (SETTINGS.inline_bytes_max + 1,))
    agent.link.wait_for(NeedRoom)
    agent.run(int, (), serial=2)
    agent.send(Room("", "the store is full"))
    errors, values = {}, {}
    while len(errors) + len(values) < 2:
        message = agent.link.wait_for(Outcomes)
        for position, serial in enumerate(message.serials):
            if position in message.errors:
                errors[serial] = message.errors[position]
            else:
                values[serial] = unpack(message.values[position])
    assert (errors, values) == ({1: NO_ROOM}, {2: 0})


def test_a_file_that_cannot_be_written_after_all_is_given_back(agent, tmp_path):
    agent.run(bytes, (SETTINGS.inline_bytes_max + 1,))
    agent.link.wait_for(NeedRoom)
    agent.send(Room("/dev/full", ""))
    message = agent.link.wait_for(Outcomes)
    assert (message.errors, message.paths) == ({0: NO_ROOM}, {0: "/dev/full"})


def test_a_value_of_many_pieces_is_written_whole(tmp_path):
    arrays = [np.full(1000, n) for n in range(3000)]
    packed = pack(arrays)
    path = tmp_path / "value"
    path.write_bytes(bytes(packed.nbytes))
    write_file(str(path), packed.pieces())
    assert path.read_bytes() == packed.tobytes()
    assert len(packed.pieces()) > 2048


def test_a_slow_task_does_not_hold_back_those_before_it(blocking):
    release = threading.Event()
    WAITING.append(release)
    blocking.run(wait_if, (False,), (False,), (True,))
    assert blocking.outcomes(2) == {1: False, 2: False}
    assert blocking.cell.read()[0] == 3
    release.set()
    assert blocking.outcomes(1) == {3: True}
    WAITING.clear()


def test_nor_does_one_that_comes_after_a_long_silence(blocking, monkeypatch):
    monkeypatch.setattr(outcomes, "STAY_AWAKE_TICKS", 0)
    for round_ in range(3):
        release = threading.Event()
        WAITING[:] = [release]
        time.sleep(0.02)  # the silence itself
        blocking.run(wait_if, (False,), (True,), serial=1 + 2 * round_)
        assert blocking.outcomes(1) == {1 + 2 * round_: False}
        release.set()
        assert blocking.outcomes(1) == {2 + 2 * round_: True}
    WAITING.clear()


WAITING: list[threading.Event] = []


def wait_if(is_slow):
    if is_slow:
        WAITING[0].wait(20)
    return is_slow


def test_what_a_task_held_is_freed_before_the_next_message(blocking):
    """Or the largest value would stay in the memory of an idle executor."""
    blocking.run(keep_track, (Tracked(),))
    blocking.outcomes(1)
    blocking.run(count_tracked, (), serial=2)
    assert blocking.outcomes(1) == {2: 0}


class Tracked:
    alive = 0

    def __init__(self):
        pass

    def __setstate__(self, state):
        Tracked.alive += 1
        self.is_tracked = True

    def __getstate__(self):
        return {"x": 1}

    def __del__(self):
        if hasattr(self, "is_tracked"):
            Tracked.alive -= 1


def keep_track(tracked):
    return Tracked.alive, tracked.is_tracked


def count_tracked():
    return Tracked.alive


def test_the_cell_is_empty_when_nothing_runs(agent):
    agent.run(int, ("5",))
    assert agent.outcomes(1) == {1: 5}
    assert agent.cell.read() is None


def test_coroutines_can_be_cancelled_before_and_after_their_first_step(asynchronous):
    async def wait_for_ever():
        await asyncio.Event().wait()

    asynchronous.run(wait_for_ever, (), (), ())
    asynchronous.run(int, (), serial=4)
    assert asynchronous.outcomes(1) == {4: 0}
    asynchronous.send(CancelRunning([1, 3, 99]))
    found = asynchronous.outcomes(2)
    assert {serial: type(error) for serial, error in found.items()} == dict.fromkeys((1, 3), asyncio.CancelledError)
    pieces = []
    packed = pack_function(wait_for_ever)
    for message in (Run(packed.id, b"", "f", 5, ["x"], [pack_call((), {})[0]], {}), CancelRunning([5, 2])):
        pieces += encode(codec.encode_header(message))
    asynchronous.sockets[0].sendall(b"".join(pieces))
    assert set(asynchronous.outcomes(2)) == {2, 5}


def test_large_results_of_cancelled_coroutines_do_not_shift_the_answers(asynchronous, tmp_path):
    asynchronous.run(bytes, (100_000,), (200_000,))
    sizes = [asynchronous.link.wait_for(NeedRoom).nbytes for _ in range(2)]
    asynchronous.send(CancelRunning([1]))
    assert isinstance(asynchronous.outcomes(1)[1], asyncio.CancelledError)
    for position, nbytes in enumerate(sizes):
        (tmp_path / str(position)).write_bytes(bytes(nbytes))
        asynchronous.send(Room(str(tmp_path / str(position)), ""))
    found = {}
    while len(found) < 2:
        message = asynchronous.link.wait_for(Outcomes)
        for position, serial in enumerate(message.serials):
            found[serial] = message.paths[position], message.nbytes[position]
    used, given_back = (str(tmp_path / "1"), sizes[1]), (str(tmp_path / "0"), 0)
    assert found == {2: used, NOBODY: given_back}


def test_outcomes_are_flushed_by_whoever_comes_first_and_sent_once():
    sent = []
    report = Report(sent.append)
    for serial in range(10_000):
        report.finished.append((serial, b"N.", 0, None))
    threads = [threading.Thread(target=report.flush) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(serial for message in sent for serial in message.serials) == list(range(10_000))


class Bell(threading.Event):
    """Tells when somebody falls asleep beside it, and when for good."""

    def __init__(self):
        super().__init__()
        self.is_waited_for, self.is_waited_for_without_end = threading.Event(), threading.Event()

    def wait(self, timeout=None):
        self.is_waited_for.set()
        if timeout is None:
            self.is_waited_for_without_end.set()
        return super().wait(timeout)


def test_an_outcome_is_not_held_back_though_the_loop_was_held_up_before_its_task_ended(monkeypatch):
    """The thread that flushes has fallen asleep by then, and the loop may be busy with the next task for hours."""
    monkeypatch.setattr(outcomes, "STAY_AWAKE_TICKS", 0)
    sent = queue.SimpleQueue()
    report = Report(sent.put)
    report._bell = bell = Bell()
    report.watch()
    assert bell.is_waited_for.wait(20)
    report.finished.append((1, b"N.", 0, None))
    assert sent.get(timeout=20).serials == [1]
    assert not bell.is_waited_for_without_end.is_set()
    report.rest()
    assert bell.is_waited_for_without_end.wait(20), "nothing is under way: it need not look again"
    report.watch()
    report.finished.append((2, b"N.", 0, None))
    assert sent.get(timeout=20).serials == [2]
    report.close()


def test_own_work_per_task_is_small(blocking):
    """Generous, for a loaded machine: what is meant is a few microseconds."""
    payloads = [pack_call((n,), {})[0] for n in range(500)]
    best = 1.0
    for round_ in range(20):
        blocking.run(abs, *payloads, serial=1 + 500 * round_)
        start = time.perf_counter()
        blocking.outcomes(500)
        best = min(best, time.perf_counter() - start)
    assert best / 500 < 50e-6
