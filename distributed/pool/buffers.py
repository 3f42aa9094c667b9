"""Memory for large values that come over sockets, used again when the program has let go of what was in it.

Memory that is there already is filled several times as fast as memory that the kernel has to find and to clear first:
90 ms of processor time for 256 MiB over TCP, not 230. Nobody has to say that a value is of no use any more: a buffer
comes back when the last object that looks into it is gone. While it waits the kernel may take its pages back whenever
memory runs short. How much may wait is bounded. Knows nothing of values.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import weakref
from collections import deque

from distributed.config import SETTINGS

WASTE_MAX = 2  # a buffer of up to so many times the size that is wanted will do


class Buffers:
    """Receive buffers of one pool. Any thread may take one; they come back by themselves, in any thread."""

    def __init__(self, bytes_max: int = SETTINGS.receive_buffers_bytes_max) -> None:
        self._bytes_max = bytes_max
        self._idle: deque[mmap.mmap] = deque()  # the end of an object only appends: it may come while a lock is held
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> memoryview:
        """Memory of this size for somebody alone; what is in it is of no meaning."""
        import ctypes  # some milliseconds that only those pay who receive large values

        memory = self._fitting(nbytes) or mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        lent = (ctypes.c_ubyte * nbytes).from_buffer(memory)
        weakref.finalize(lent, self._give_back, memory).atexit = False
        return memoryview(lent).cast("B")

    def close(self) -> None:
        """What waits is given back to the system, and what comes back later, too."""
        self._bytes_max = 0
        self._idle.clear()

    @property
    def idle_bytes(self) -> int:
        """How much waits for the next value."""
        return sum(map(len, list(self._idle)))

    def _fitting(self, nbytes: int) -> mmap.mmap | None:
        """The smallest that is large enough, and no more than a little larger."""
        with self._lock:
            fitting = [memory for memory in list(self._idle) if nbytes <= len(memory) <= WASTE_MAX * nbytes]
            if not fitting:
                return None
            chosen = min(fitting, key=len)
            with contextlib.suppress(ValueError):  # closed just now
                self._idle.remove(chosen)
            return chosen

    def _give_back(self, memory: mmap.mmap) -> None:
        """Nobody looks into this memory any more."""
        if self.idle_bytes + len(memory) > self._bytes_max:
            return
        if hasattr(mmap, "MADV_FREE"):
            with contextlib.suppress(OSError):  # an old kernel: then it stays
                memory.madvise(mmap.MADV_FREE)
        self._idle.append(memory)
