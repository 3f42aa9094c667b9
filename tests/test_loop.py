"""The daemons' event loop does what asyncio's does, on its short way, too."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from distributed.loop import KNOWN, ShortLoop, new_loop

pytestmark = pytest.mark.skipif(not KNOWN, reason="the loop is asyncio's own here")


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert isinstance(runner.get_loop(), ShortLoop)
        return runner.run(asyncio.wait_for(scenario, 20))


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    return ours, theirs


def test_readers_timers_and_threads_all_have_their_turn_while_sockets_are_busy():
    async def scenario():
        loop, (ours, theirs) = asyncio.get_running_loop(), pair()
        done = asyncio.Event()
        seen = {"read": 0, "timer": 0, "soon": 0, "thread": 0}

        def read() -> None:
            theirs.send(theirs.recv(10))

        def answered() -> None:
            ours.send(ours.recv(10))  # for ever: there is always something to read
            seen["read"] += 1
            if all(seen.values()):
                done.set()

        loop.add_reader(theirs, read)
        loop.add_reader(ours, answered)
        ours.send(b"x")
        loop.call_later(0.001, seen.__setitem__, "timer", 1)
        loop.call_soon(seen.__setitem__, "soon", 1)
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(seen.__setitem__, "thread", 1))
        thread.start()
        await done.wait()
        thread.join()
        for end in (ours, theirs):
            loop.remove_reader(end)
            end.close()

    run(scenario())


@pytest.mark.parametrize("again", [False, True])
def test_whoever_is_no_longer_watched_is_not_called_though_the_kernel_named_it(again: bool):
    async def scenario():
        loop, pairs, called = asyncio.get_running_loop(), [pair(), pair()], []
        done = loop.create_future()

        def first(number: int) -> None:
            called.append(number)
            for ours, _ in pairs:
                loop.remove_reader(ours)
            if again:  # what was said of the old reader is not for the new one
                loop.add_reader(pairs[1 - number][0], called.append, "again")
            loop.call_soon(lambda: done.set_result(list(called)))

        for number, (ours, theirs) in enumerate(pairs):
            theirs.send(b"x")
            loop.add_reader(ours, first, number)
        assert await done in ([0], [1])
        for ours, theirs in pairs:
            loop.remove_reader(ours)
            ours.close()
            theirs.close()

    run(scenario())


def test_an_exception_in_a_reader_is_reported_and_the_loop_goes_on():
    async def scenario():
        loop, (ours, theirs) = asyncio.get_running_loop(), pair()
        reported = asyncio.Queue()
        loop.set_exception_handler(lambda _, context: reported.put_nowait(context["exception"]))

        def fail() -> None:
            ours.recv(10)
            raise RuntimeError("a bug of ours")

        loop.add_reader(ours, fail)
        for _ in range(2):
            theirs.send(b"x")
            assert str(await reported.get()) == "a bug of ours"
        loop.remove_reader(ours)
        ours.close()
        theirs.close()

    run(scenario())


def test_a_full_socket_is_written_when_there_is_room_again():
    async def scenario():
        loop, (ours, theirs) = asyncio.get_running_loop(), pair()
        sent = asyncio.ensure_future(loop.sock_sendall(ours, bytes(10_000_000)))
        received = 0
        while received < 10_000_000:
            received += len(await loop.sock_recv(theirs, 1 << 18))
        await sent
        ours.close()
        theirs.close()

    run(scenario())


def test_signals_wake_a_loop_that_waits_for_nothing_else():
    async def scenario():
        loop, asked = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, asked.set)
        thread = threading.Thread(target=signal.pthread_kill, args=(threading.get_ident(), signal.SIGUSR1))
        thread.start()
        await asked.wait()
        thread.join()

    run(scenario())


def test_a_timer_that_is_cancelled_does_not_run_and_the_next_one_does():
    async def scenario():
        loop, ran = asyncio.get_running_loop(), []
        loop.call_later(0.001, ran.append, "cancelled").cancel()
        await asyncio.sleep(0.002)
        assert ran == []

    run(scenario())
