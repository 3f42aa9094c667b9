"""Signals that come while they are deferred: each acts afterwards, once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from distributed.pool.interrupts import deferred_signals


class Stopped(Exception):
    """What the first handler raises."""


@pytest.fixture
def acted() -> Iterator[list[int]]:
    """The signals whose handlers ran; that of SIGUSR1 raises."""
    acted: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        acted.append(number)
        if number == signal.SIGUSR1:
            raise Stopped

    former = {number: signal.signal(number, handle) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    yield acted
    for number, handler in former.items():
        signal.signal(number, handler)


def test_a_signal_acts_when_the_block_is_over(acted: list[int]) -> None:
    with deferred_signals(lambda: None) as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGUSR2)
        assert interrupted() and not acted
    assert acted == [signal.SIGUSR2]


def test_behind_a_signal_whose_handler_raises_the_next_one_acts_too(acted: list[int]) -> None:
    with pytest.raises(Stopped), deferred_signals(lambda: None):
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR2)
    assert acted == [signal.SIGUSR1, signal.SIGUSR2]
