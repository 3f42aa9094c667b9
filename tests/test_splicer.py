"""Pairs of sockets that are joined: every byte, each way, as fast as it is read and no faster; and how that ends."""

import contextlib
import errno
import math
import queue
import socket
import threading

import pytest

from distributed.config import SETTINGS
from distributed.splicer import Splicer

PATIENCE_S = 20.0


class Bench:
    """A splicer; `joined` gives the far ends of two connections that it joined."""

    def __init__(self):
        self.parted = queue.Queue()
        self.splicer = Splicer(self.parted.put)
        self._last = 0
        self._far = []

    def joined(self, idle_s=math.inf):
        (one, near_one), (other, near_other) = over_tcp(), over_tcp()
        self._last += 1
        self.splicer.join(self._last, near_one, near_other, idle_s)
        self._far += [one, other]
        return one, other

    def has_parted(self):
        return self.parted.get(timeout=PATIENCE_S)

    def close(self):
        self.splicer.close()
        for sock in self._far:
            sock.close()


def over_tcp():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname(), timeout=PATIENCE_S)
        other, _ = listener.accept()
    return one, other


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


def everything(sock):
    data = bytearray()
    while part := sock.recv(1 << 20):
        data += part
    return bytes(data)


def pattern(nbytes):
    return bytes(range(251)) * (nbytes // 251)


def test_bytes_go_both_ways_at_the_same_time(bench):
    one, other = bench.joined()
    there, back = pattern(30 << 20), pattern(20 << 20)[::-1]
    heard = {}

    def talk(name, sock, says):
        writing = threading.Thread(target=lambda: (sock.sendall(says), sock.shutdown(socket.SHUT_WR)))
        writing.start()
        heard[name] = everything(sock)
        writing.join()

    threads = [threading.Thread(target=talk, args=args) for args in (("one", one, there), ("other", other, back))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert heard["one"] == back
    assert heard["other"] == there
    assert bench.has_parted() == 1


def test_who_has_said_all_still_hears_the_answer(bench):
    one, other = bench.joined()
    one.sendall(b"question")
    one.shutdown(socket.SHUT_WR)
    assert everything(other) == b"question"
    assert bench.parted.empty()
    other.sendall(b"answer")
    other.close()
    assert everything(one) == b"answer"
    assert bench.has_parted() == 1


def test_a_slow_reader_stops_the_writer_and_loses_nothing(bench):
    one, other = bench.joined()
    data, sent, over = pattern(1 << 20), [0], threading.Event()

    def write():
        for _ in range(150):
            one.sendall(data)
            sent[0] += len(data)
        one.shutdown(socket.SHUT_WR)
        over.set()

    writing = threading.Thread(target=write)
    writing.start()
    got = 0
    while part := other.recv(1 << 16):
        assert part == (data * 2)[got % len(data) :][: len(part)]
        assert sent[0] - got < 64 << 20, "the queues of the kernel, and one piece in the splicer"
        got += len(part)
        held = [len(flow.waiting) for splice in bench.splicer._splices.values() for flow in splice.flows]
        assert max(held, default=0) <= SETTINGS.spliced_bytes_max
    writing.join()
    assert over.is_set()
    assert got == sent[0] == 150 * len(data)


def test_while_one_reader_sleeps_others_are_served(bench):
    asleep, _ = bench.joined()
    asleep.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            asleep.send(bytes(1 << 20))
    one, other = bench.joined()
    for _ in range(100):
        one.sendall(b"ping")
        assert other.recv(100) == b"ping"
        other.sendall(b"pong")
        assert one.recv(100) == b"pong"


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("says", [b"", b"the beginning of"])
def test_when_one_end_breaks_the_other_ends_too(bench, who, says):
    ends = bench.joined()
    broken, left = ends[who], ends[1 - who]
    broken.sendall(says)
    broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # it ends as a process does that dies
    broken.close()
    with contextlib.suppress(ConnectionError):
        everything(left)
        left.sendall(b"into the void")
        everything(left)
    left.close()
    assert bench.has_parted() == 1


def test_a_splice_can_be_ended_while_much_is_on_its_way(bench):
    one, other = bench.joined()
    one.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            one.send(bytes(1 << 20))
    bench.splicer.part(1)
    assert bench.has_parted() == 1
    with contextlib.suppress(ConnectionError):
        everything(other)
    bench.splicer.part(1)  # it is over: nothing happens
    bench.splicer.part(7)
    assert bench.parted.empty()


def test_what_is_idle_for_too_long_ends_and_nothing_else_does(bench):
    now_s = [0.0]
    bench.splicer.close()
    bench.splicer = Splicer(bench.parted.put, look_s=0.01, clock=lambda: now_s[0])
    kept = bench.joined()
    one, other = bench.joined(idle_s=60.0)
    for _ in range(3):
        one.sendall(b"x")
        assert other.recv(1) == b"x"
        now_s[0] += 59.0
    assert bench.parted.empty()
    now_s[0] += 2.0
    assert bench.has_parted() == 2
    assert everything(one) == everything(other) == b""
    kept[0].sendall(b"y")
    assert kept[1].recv(1) == b"y"


def test_many_come_and_go_and_nothing_is_left(bench):
    for number in range(1, 201):
        one, other = bench.joined()
        one.sendall(b"%d" % number)
        one.close()
        assert everything(other) == b"%d" % number
        other.close()
        assert bench.has_parted() == number
    assert not bench.splicer._splices
    assert len(bench.splicer._selector.get_map()) == 1, "its bell"


def test_at_the_end_of_the_splicer_all_connections_end(bench):
    pairs = [bench.joined() for _ in range(5)]
    bench.splicer.close()
    for pair in pairs:
        for sock in pair:
            with contextlib.suppress(ConnectionError):
                assert everything(sock) == b""


# --------------------------------------------------------------------------------------------------- what goes wrong


def passes(one, other):
    one.sendall(b"ping")
    return other.recv(4) == b"ping"


@pytest.mark.parametrize("name", ["register", "modify", "unregister"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no more can be watched"), MemoryError()], ids=["", "memory"])
def test_one_that_cannot_be_watched_ends_and_the_others_go_on(bench, monkeypatch, name, error, caplog):
    selector, kept = bench.splicer._selector, bench.joined()
    assert passes(*kept)
    working = getattr(selector, name)

    def fail_once(*args):
        monkeypatch.setattr(selector, name, working)
        raise error

    if name == "register":
        monkeypatch.setattr(selector, name, fail_once)
        ends = bench.joined()
    else:
        ends = bench.joined()
        assert passes(*ends)
        monkeypatch.setattr(selector, name, fail_once)
        if name == "unregister":  # one side has said all, and is looked at no more
            ends[0].shutdown(socket.SHUT_WR)
        else:  # nobody reads, so it waits for room as well
            ends[0].setblocking(False)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                while True:
                    ends[0].send(bytes(1 << 20))
    assert bench.has_parted() == 2
    assert "a connection through the center ends" in caplog.text
    for end in ends:
        end.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionError):
            everything(end)
    assert passes(*kept)
    assert passes(*bench.joined())


def test_a_socket_that_is_closed_already_ends_its_splice_alone(bench):
    kept, (far, near), (other, broken) = bench.joined(), over_tcp(), over_tcp()
    broken.close()
    bench.splicer.join(7, near, broken)
    assert bench.has_parted() == 7
    assert everything(far) == everything(other) == b""
    far.close()
    other.close()
    assert passes(*kept)


def test_who_is_to_hear_of_an_end_may_be_gone(bench):
    ended = queue.Queue()

    def hear(number):
        ended.put(number)
        raise RuntimeError("Event loop is closed")

    bench.splicer.close()
    bench.splicer = Splicer(hear)
    kept, (one, other) = bench.joined(), bench.joined()
    one.close()
    other.close()
    assert ended.get(timeout=PATIENCE_S) == 2
    assert passes(*kept)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whatever_ends_the_thread_ends_what_is_joined_then_and_later(bench, monkeypatch):
    pairs = [bench.joined() for _ in range(3)]
    assert all(passes(*pair) for pair in pairs)

    def fail(timeout_s):
        raise OSError(errno.EBADF, "epoll is gone")

    monkeypatch.setattr(bench.splicer._selector, "select", fail)
    bench.splicer.part(100)  # it wakes, and waits anew
    assert sorted(bench.has_parted() for _ in pairs) == [1, 2, 3]
    pairs.append(bench.joined())
    assert bench.has_parted() == 4
    for pair in pairs:
        assert everything(pair[0]) == everything(pair[1]) == b""


def test_what_is_joined_when_it_is_closed_is_closed_too(bench):
    bench.splicer.close()
    one, other = bench.joined()
    assert everything(one) == everything(other) == b""
    assert bench.has_parted() == 1
    bench.splicer.part(1)
    bench.splicer.close()


def test_who_joins_while_it_is_closed_leaves_no_socket_open(bench):
    """Whichever of the two is first: nobody waits for bytes that never come."""
    pairs = []
    for _ in range(50):
        bench.splicer.close()
        bench.splicer = Splicer(bench.parted.put)
        closing = threading.Thread(target=bench.splicer.close)
        closing.start()
        pairs.append(bench.joined())
        closing.join()
    assert sorted(bench.has_parted() for _ in pairs) == list(range(1, 51))
    assert all(everything(one) == everything(other) == b"" for one, other in pairs)
