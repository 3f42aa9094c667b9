"""The connections of a pool: what is pushed arrives, who cannot send is told of, and nothing stays open."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from distributed.pool.channel import Channel
from distributed.pool.channels import Channels
from distributed.wire.messages import Ncores, NeedFunction
from tests.pool.test_state import ALICE, BOB, member


class Bench:
    """Channels, and the other ends of those that were added."""

    def __init__(self) -> None:
        self.broke: list[tuple[Channel, str]] = []
        self.channels = Channels(lambda channel, reason: self.broke.append((channel, reason)))
        self.others: list[socket.socket] = []

    def add(self, address: str = "") -> tuple[Channel, Channel]:
        ours, theirs = socket.socketpair()
        self.others.append(theirs)
        channel = Channel(ours, member(address) if address else None)
        self.channels.add(channel)
        return channel, Channel(theirs, None)

    def ready(self, timeout_s: float = 0.0) -> list[Channel]:
        return list(self.channels.readable(self.channels.select(timeout_s)))


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.channels.close()
    for sock in bench.others:
        sock.close()


def test_what_is_pushed_goes_with_the_next_flush_and_what_comes_is_read(bench):
    center, theirs = bench.add()
    bench.channels.push(center, Ncores(), 1)
    bench.channels.push(center, Ncores(), 2)
    buffer = memoryview(bytearray(1000))
    assert theirs.receive(buffer) == []
    bench.channels.flush()
    assert theirs.receive(buffer) == [(Ncores(), 1), (Ncores(), 2)]
    assert bench.ready() == []
    theirs.push(NeedFunction(b"f"))
    theirs.send()
    assert bench.ready() == [center]
    assert bench.channels.receive(center) == [(NeedFunction(b"f"), 0)]


def test_what_a_socket_does_not_take_is_sent_when_it_has_room(bench):
    alice, theirs = bench.add(ALICE)
    buffer = memoryview(bytearray(1 << 20))
    many = 100
    for _ in range(many):
        bench.channels.push(alice, NeedFunction(bytes(1 << 16)))
    bench.channels.flush()
    assert alice.is_writing
    come = 0
    while come < many:
        come += len(theirs.receive(buffer) or ())
        assert bench.ready() == []
    assert not alice.is_writing
    assert bench.channels.bytes_sent == theirs.bytes_received > many << 16


def test_one_that_cannot_send_is_told_of_and_the_others_send(bench):
    (alice, gone), (bob, theirs) = bench.add(ALICE), bench.add(BOB)
    gone.sock.close()
    for channel in (alice, bob):
        bench.channels.push(channel, Ncores())
    bench.channels.flush()
    assert [channel for channel, _ in bench.broke] == [alice]
    assert len(theirs.receive(memoryview(bytearray(1000))) or ()) == 1


def test_one_that_was_removed_is_closed_once_and_its_bytes_count(bench):
    alice, _ = bench.add(ALICE)
    bench.channels.push(alice, Ncores())
    bench.channels.flush()
    sent = bench.channels.bytes_sent
    assert bench.channels.remove(alice)
    assert (alice.sock.fileno(), bench.channels.workers, bench.channels.bytes_sent) == (-1, {}, sent)
    assert not bench.channels.remove(alice)
    successor, _ = bench.add(ALICE)
    assert not bench.channels.remove(alice), "another one has its place"
    assert list(bench.channels) == [successor]


def test_one_that_is_removed_while_others_are_read_is_not_read(bench):
    (alice, hers), (bob, his) = bench.add(ALICE), bench.add(BOB)
    for theirs in (hers, his):
        theirs.push(Ncores())
        theirs.send()
    readable = bench.channels.readable(bench.channels.select(0.0))
    first = next(readable)
    bench.channels.remove(bob if first is alice else alice)
    assert list(readable) == []


def test_whoever_selects_can_be_woken_until_all_is_closed(bench):
    bench.channels.wake()
    assert bench.ready(10.0) == []
    assert bench.channels.select(0.0) == []
    bench.add()
    bench.channels.close()
    bench.channels.close()
    assert (bench.channels.is_closed, list(bench.channels)) == (True, [])
    bench.channels.wake()
