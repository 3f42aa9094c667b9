"""Arrays that are made, changed and summed up on workers never cross the client's sockets.

Map, map and apply over ten arrays of 1 MiB: less than 100 KiB in both directions together, by the account of the kernel
(TCP_INFO of each of this process's sockets), and the pool's own account says about the same.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

import numpy as np
import pytest

from distributed import Pool
from distributed.bulk import BulkClient
from distributed.relay import Roads
from distributed.wire.security import find_secret
from tests.promises.observe import terminals

KIB = 1 << 10
BYTES_ACKED_AT, BYTES_RECEIVED_AT = 120, 128  # in struct tcp_info, since Linux 4.1


def crossed_bytes():
    """What went over the TCP sockets that this process has open, in both directions, without headers."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as sock:
                if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM:
                    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    (acked,) = struct.unpack_from("=Q", info, BYTES_ACKED_AT)
                    (received,) = struct.unpack_from("=Q", info, BYTES_RECEIVED_AT)
                    total += acked + received
    return total


@pytest.fixture
def pool_over_tcp(tmp_path):
    """A pool of two workers whose stores are too deep in the tree for a Unix socket: all goes over TCP."""
    with terminals() as terminal:
        address = terminal("center", "--port", "0").said()["Center"]
        for name in ("alice", "bob"):
            directory = tmp_path / ("deep" * 20) / name
            directory.mkdir(parents=True)
            terminal("worker", address, "--ncores", "1", "--directory", str(directory)).said()
        with Pool(address) as pool:
            pool._core.wait(lambda: len(pool.workers) == 2, 20)
            assert not any(view.member.unix for view in pool._core.state.workers.values())
            yield pool


def make_array(n):
    return np.full(131_072, n, dtype=float)


def test_arrays_stay_where_they_are(pool_over_tcp):
    pool = pool_over_tcp
    before, counted_before = crossed_bytes(), pool.counters
    arrays = pool.map(make_array, range(10))
    negative = pool.map(np.negative, arrays)
    total = pool.apply(lambda blocks: sum(float(block.sum()) for block in blocks), [negative])
    crossed, counted = crossed_bytes() - before, pool.counters
    assert total == -131_072 * sum(range(10))
    said = sum(counted[name] - counted_before[name] for name in ("bytes_sent", "bytes_received"))
    print(f"{crossed} bytes by the kernel's account, {said} by the pool's")
    assert 0 < crossed < 100 * KIB
    assert abs(crossed - said) < 4 * KIB  # what is under way, or came in between


def test_an_array_that_is_asked_for_is_counted(pool_over_tcp):
    """The measure can fail: a value that does cross is seen by both accounts."""
    pool = pool_over_tcp
    array = pool.submit(make_array, 1)
    assert array.wait(20)
    (holder,) = array._task.holders
    before = crossed_bytes()
    client = BulkClient(holder, "", Roads("", "pool", find_secret()))
    (found,) = client.fetch([array.key], [0])
    assert found.nbytes > 1 << 20
    assert crossed_bytes() - before > 1 << 20
    client.close()


def test_numbers_instead_of_arrays(pool_over_tcp):
    squares = pool_over_tcp.map(lambda x: x**2, range(10))
    negative = pool_over_tcp.map(lambda x: -x, squares)
    assert pool_over_tcp.apply(sum, [negative]) == -285
