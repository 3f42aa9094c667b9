"""Garbage collection, paused by several at a time, and by somebody whose process is forked meanwhile."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from distributed.pool import collection
from distributed.pool.collection import collection_paused


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    assert gc.isenabled()
    yield
    assert gc.isenabled()


def test_it_is_off_until_the_last_one_has_ended() -> None:
    first, second = collection_paused(), collection_paused()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()


def test_where_it_was_off_it_stays_so() -> None:
    gc.disable()
    try:
        with collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_it_is_on_in_a_child_that_is_forked_while_another_thread_pauses_it() -> None:
    paused, over = threading.Event(), threading.Event()

    def pause() -> None:
        with collection_paused():
            paused.set()
            over.wait(20)

    thread = threading.Thread(target=pause)
    thread.start()
    assert paused.wait(20)
    pid = os.fork()
    if not pid:
        os._exit(0 if gc.isenabled() and not collection._lock.locked() else 1)
    over.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_an_interrupt_while_it_is_turned_off_turns_it_on_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        raise InterruptedError

    def disable() -> None:
        signal.raise_signal(signal.SIGUSR1)

    former = signal.signal(signal.SIGUSR1, stop)
    monkeypatch.setattr(collection.gc, "disable", disable)
    try:
        with pytest.raises(InterruptedError), collection_paused():
            pytest.fail("the block is not begun")
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert not collection._pausing
