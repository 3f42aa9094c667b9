"""Receive buffers: nobody's memory changes under them, and memory comes back by itself."""

from __future__ import annotations

import gc
import os
import sys

import numpy as np
import pytest

from distributed.pool.buffers import Buffers
from distributed.wire.values import pack, unpack

MIB = 1 << 20


def address(view):
    return np.frombuffer(view, np.uint8).ctypes.data


def test_memory_is_used_again_when_nobody_looks_into_it():
    buffers = Buffers(8 * MIB)
    first = buffers.take(2 * MIB)
    place = address(first)
    del first
    gc.collect()
    assert buffers.idle_bytes == 2 * MIB
    again = buffers.take(2 * MIB)
    assert address(again) == place
    assert not buffers.idle_bytes


def test_an_array_in_a_buffer_keeps_it():
    buffers = Buffers(8 * MIB)
    sent = np.arange(MIB // 8)
    packed = pack(sent)
    view = buffers.take(packed.nbytes)
    view[:] = packed.tobytes()
    array = unpack(view)[10:20]
    del view
    gc.collect()
    other = buffers.take(packed.nbytes)
    other[:] = bytes(packed.nbytes)
    assert array.tolist() == list(range(10, 20))
    array[0] = 5  # what comes over a socket is writable
    del array
    gc.collect()
    assert buffers.idle_bytes


def test_no_more_waits_than_was_said():
    buffers = Buffers(3 * MIB)
    views = [buffers.take(2 * MIB), buffers.take(2 * MIB)]
    views.clear()
    gc.collect()
    assert buffers.idle_bytes == 2 * MIB


@pytest.mark.parametrize("nbytes", [MIB - 1, 2 * MIB + 1])
def test_a_buffer_of_quite_another_size_is_left(nbytes):
    buffers = Buffers(8 * MIB)
    buffers.take(2 * MIB)
    gc.collect()
    taken = buffers.take(nbytes)
    assert taken.nbytes == nbytes
    assert buffers.idle_bytes == 2 * MIB


def test_after_closing_nothing_waits():
    buffers = Buffers(8 * MIB)
    taken = buffers.take(MIB)
    buffers.take(MIB)
    gc.collect()
    buffers.close()
    assert not buffers.idle_bytes
    taken[0] = 1
    del taken
    gc.collect()
    assert not buffers.idle_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="fork")
def test_a_forked_child_has_a_copy_of_its_own():
    buffers = Buffers(8 * MIB)
    view = buffers.take(MIB)
    view[0] = 1
    child = os.fork()
    if not child:
        view[0] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert view[0] == 1
