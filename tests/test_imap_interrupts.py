"""An `imap` that is interrupted anywhere: its values come all the same, each once.

A signal acts where the interpreter looks for one: after calls, and at the end of loops. Here it comes once at each of
these places of the modules below that the main thread passes, in as many iterations as there are such places.
"""

from __future__ import annotations

import _thread
import asyncio
import collections
import contextlib
import dis
import functools
import gc
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import pytest

from conftest import leaks_looked_for_by_module
from distributed import Pool
from distributed.pool import calls, entries, inputs, pipeline, sources, stream

MODULES = frozenset(module.__file__ for module in (calls, entries, inputs, pipeline, sources, stream))
PLACES_MIN = 50  # there are 200 and more
HANGS_S = 30


class Stopped(Exception):
    """What the handler of the signal raises."""


class Hung(BaseException):
    """Nothing came for a long time."""


@functools.cache
def places(code: CodeType) -> frozenset[int]:
    """Where in the code the interpreter looks for signals."""
    looking = ("CALL", "JUMP_BACKWARD", "RESUME")
    return frozenset(found.offset for found in dis.get_instructions(code) if found.opname.startswith(looking))


class Tripwire:
    """Sends a signal to the main thread when it comes to the next place where none was sent so far.

    The tracing function only notes the signal, without a call of its own that would let it act: `trip` does that when
    it is asked for what it does not have. It acts where it would have without any tracing.
    """

    def __init__(self, often: int) -> None:
        self.often = often
        self.tripped: set[tuple[str, int, int]] = set()
        self.where: Any = None

    def __enter__(self) -> None:
        self.where = None
        self.passed: collections.Counter[tuple[str, int]] = collections.Counter()
        self.trip = collections.defaultdict(functools.partial(_thread.interrupt_main, signal.SIGUSR1))
        sys.settrace(self.begin)

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def begin(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in MODULES:
            return None
        frame.f_trace_opcodes = True
        return self.follow

    def follow(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode" and self.where is None and frame.f_lasti in places(frame.f_code):
            place = frame.f_code.co_qualname, frame.f_lasti
            self.passed[place] += 1
            where = *place, self.passed[place]
            if where[2] <= self.often and where not in self.tripped:
                self.tripped.add(where)
                self.where = where
                self.trip[where]
        return self.follow


no_leaks = leaks_looked_for_by_module()


@pytest.fixture(scope="module")
def pool(no_leaks) -> Iterator[Pool]:
    with Pool(2) as pool:
        yield pool


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    def give_up(number: int, frame: FrameType | None) -> None:
        raise Hung

    former = {
        signal.SIGUSR1: signal.signal(signal.SIGUSR1, stop),
        signal.SIGALRM: signal.signal(signal.SIGALRM, give_up),
    }
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


def reciprocal(x: int) -> float:
    return 1 / x


def behind(stopped: Stopped) -> tuple[str, ...]:
    """The error of an item that was on its way to us when the signal came, and is seen behind it."""
    error: BaseException | None = stopped
    while error is not None and not isinstance(error, ZeroDivisionError):
        error = error.__context__
    return ("error",) if error is not None else ()


def by_loops(values: Any) -> list[Any]:
    found: list[Any] = []
    while True:
        try:
            for value in values:
                found += (value,)  # no call here: the signal that comes now is the iterator's
            return found
        except Stopped as stopped:
            found += behind(stopped)
        except ZeroDivisionError:
            found += ("error",)


def one_by_one(values: Any) -> list[Any]:
    found: list[Any] = []
    while True:
        try:
            found += (values.next(),)
        except StopIteration:
            return found
        except Stopped as stopped:
            found += behind(stopped)
        except ZeroDivisionError:
            found += ("error",)


def by_cancelled_loops(values: Any) -> list[Any]:
    """On an event loop a signal cancels what runs there, as `asyncio.run` does for Ctrl-C."""

    async def take() -> list[Any]:
        found: list[Any] = []
        task = asyncio.current_task()
        assert task is not None
        former = signal.signal(signal.SIGUSR1, lambda number, frame: task.cancel())
        try:
            while True:
                try:
                    async for value in values:
                        found += (value,)
                    await asyncio.sleep(0)  # the signal came at the very end: here it acts
                    return found
                except asyncio.CancelledError:
                    task.uncancel()
                except ZeroDivisionError:
                    found += ("error",)
        finally:
            signal.signal(signal.SIGUSR1, former)

    return asyncio.run(take())


def interrupted_everywhere(
    start: Callable[[], Any], consume: Callable[[Any], list[Any]], expected: list[Any], often: int
) -> int:
    """At how many places the iteration was interrupted."""
    tripwire = Tripwire(often)
    while True:
        values = None
        signal.alarm(HANGS_S)
        try:
            with tripwire:
                while values is None:
                    with contextlib.suppress(Stopped):
                        values = start()
                found = consume(values)
            assert sorted(found, key=str) == sorted(expected, key=str), tripwire.where
            if tripwire.where is None:
                return len(tripwire.tripped)
        except (Hung, RuntimeError) as error:
            raise AssertionError(f"interrupted at {tripwire.where}") from error
        finally:
            signal.alarm(0)
            sys.settrace(None)
            if values is not None:
                values.close()


FAST, SLOW = 1, 3  # how often each place is interrupted: the first times that it is passed in one iteration


@pytest.mark.parametrize("often", [FAST, pytest.param(SLOW, marks=[pytest.mark.slow, pytest.mark.long])])
@pytest.mark.parametrize(
    ("name", "chunksize", "consume"),
    [
        ("imap", None, by_loops),
        pytest.param("imap", 1, by_loops, marks=pytest.mark.slow),
        pytest.param("imap", 7, one_by_one, marks=pytest.mark.slow),
        pytest.param("imap_unordered", None, by_loops, marks=pytest.mark.slow),
        pytest.param("imap_unordered", 7, one_by_one, marks=pytest.mark.slow),
        pytest.param("imap_unordered", 7, by_cancelled_loops, marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_loses_no_value_and_doubles_none(pool, name, chunksize, consume, often) -> None:
    items = [1, 2, 3, 0, 4, *range(5, 15)]
    expected = ["error" if item == 0 else 1 / item for item in items]

    def start() -> Any:
        return getattr(pool, name)(reciprocal, items, chunksize=chunksize)

    assert interrupted_everywhere(start, consume, expected, often) > PLACES_MIN
    everything_ends(pool)


@pytest.mark.parametrize("often", [FAST, pytest.param(SLOW, marks=[pytest.mark.slow, pytest.mark.long])])
@pytest.mark.parametrize("consume", [pytest.param(by_loops, marks=pytest.mark.slow), one_by_one, by_cancelled_loops])
def test_an_interrupt_leaves_a_generator_its_place(pool, consume, often) -> None:
    def start() -> Any:
        return pool.imap(abs, (item for item in range(15)), qsize=6)

    assert interrupted_everywhere(start, consume, list(range(15)), often) > PLACES_MIN
    everything_ends(pool)


def everything_ends(pool: Pool) -> None:
    """Nothing is under way, and no worker holds anything."""
    gc.collect()
    deadline = time.monotonic() + 20
    while pool._core.state.unfinished or any(pool.has_what().values()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
