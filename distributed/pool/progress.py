"""A progress bar over handles, in a terminal or a notebook. Needs tqdm: ``pip install tqdm``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from distributed import arguments
from distributed.pool.remote import RemoteData, as_completed


def progress(handles: Iterable[RemoteData], **options: Any) -> Iterator[RemoteData]:
    """Yield handles as they finish, and draw a bar meanwhile; `options` are tqdm's.

    >>> sum(handle.get() for handle in progress(pool.map(abs, [-1, -2]), disable=True))
    3
    """
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("progress() draws with tqdm: pip install tqdm") from None

    class Bar(tqdm):
        monitor_interval = 0  # without tqdm's own thread, which would outlive the bar

    listed = list(arguments.iterable("handles", handles, "a list of handles"))
    return iter(Bar(as_completed(listed), total=len(listed), **options))
