"""No garbage collection while many objects are made that are all going to live: it took half of a map's time.

It is the process's, so whoever pauses it first turns it off, and the last one turns it on again, if it was on. A child
that is forked meanwhile has none of those who would: it gets it back at once.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

from distributed.pool.interrupts import deferred_signals

_lock = threading.Lock()
_pausing: set[object] = set()
_was_enabled = False


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Within the block garbage is not collected, unless it already was not before; then that stays so."""
    mine = object()
    try:
        _begin(mine)
        yield
    finally:
        _end(mine)


def _begin(mine: object) -> None:
    global _was_enabled
    with deferred_signals(), _lock:
        if not _pausing:
            _was_enabled = gc.isenabled()
        _pausing.add(mine)  # first: a child may be forked between any two of these lines
        gc.disable()


def _end(mine: object) -> None:
    with deferred_signals(), _lock:
        if mine in _pausing:
            if len(_pausing) == 1 and _was_enabled:
                gc.enable()
            _pausing.remove(mine)


def _resume_in_child() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it
    if _pausing:
        _pausing.clear()
        if _was_enabled:
            gc.enable()


os.register_at_fork(after_in_child=_resume_in_child)
