"""How many items make a chunk of `imap`, and how many chunks are under way: arithmetic on what was measured so far.

Chunks begin with one item, so that first results come soon, and grow until one takes some milliseconds: what a task
costs by itself is small beside that. They shrink as soon as items turn out to take longer. No clock, no task in here.
"""

from __future__ import annotations

from typing import Final

CHUNK_S: Final = 0.004  # of work in one chunk; measured: from 2 to 16 ms make no difference to the rate
LIMIT_S: Final = 0.04  # a chunk that takes this long gives back what it has not begun
LEAD_S: Final = 0.04  # of work under way, for each core
GROWTH: Final = 32  # a chunk is at most so many times as large as one whose duration is known
ITEMS_MAX: Final = 1 << 16
CHUNK_BYTES: Final = 1 << 20  # of arguments or results in one chunk, predicted
LARGE_BYTES: Final = 1 << 15  # an item of this size is a task of its own: it is stored, and found, by itself
BYTES_MAX: Final = 64 << 20  # of arguments and results, under way and waiting to be taken
TASKS_MAX: Final = 1024  # under way and waiting to be taken
SPARE: Final = 2  # tasks beyond those that run, so that no executor waits for the next one


class Pace:
    """What one `imap` has learned about its items.

    Parameters
    ----------
    chunksize : int or None
        The user's choice; None: chosen here, by what was measured.

    Examples
    --------
    >>> pace = Pace(None)
    >>> pace.size()                          # nothing is known
    1
    >>> pace.learn(0.000_001, 1); pace.size()    # a microsecond: many, but not at once
    32
    >>> pace.learn(0.000_001, 32); pace.size()
    1024
    >>> pace.learn(0.5, 1); pace.size()      # they became slow
    1
    """

    def __init__(self, chunksize: int | None, asynchronous: bool = False) -> None:
        self.chunksize, self._asynchronous = chunksize, asynchronous
        self._item_s: float | None = None
        self._size_max = 1
        self._argument_bytes = self._result_bytes = 0.0
        self._has_inputs = False

    def learn(self, item_s: float, count: int) -> None:
        """A task of this many items took so long for each. What is slower is believed at once."""
        known_s = self._item_s
        self._item_s = item_s if known_s is None or item_s > known_s else (item_s + known_s) / 2
        self._size_max = min(max(self._size_max, count * GROWTH), ITEMS_MAX)

    def learn_arguments(self, nbytes: int, count: int, has_inputs: bool) -> None:
        """The arguments of so many items. Those with inputs run where these are, each on its own."""
        self._argument_bytes = _mean(self._argument_bytes, nbytes / count)
        self._has_inputs = has_inputs

    def learn_result(self, nbytes: int, count: int) -> None:
        """The results of so many items."""
        self._result_bytes = _mean(self._result_bytes, nbytes / count)

    def size(self) -> int:
        """How many items the next chunk should have."""
        if self.chunksize is not None:
            return self.chunksize
        item_bytes = max(self._argument_bytes, self._result_bytes, 1.0)
        if self._item_s is None or self._has_inputs or item_bytes > LARGE_BYTES:
            return 1
        return max(1, min(self._by_time(), self._size_max, int(CHUNK_BYTES / item_bytes)))

    def window(self, cores: int) -> int:
        """How many tasks should be under way.

        >>> pace = Pace(1)
        >>> pace.window(4)
        6
        >>> pace.learn(0.001, 1)
        >>> pace.window(4)
        160
        """
        least = cores + SPARE
        if self._asynchronous:
            return TASKS_MAX
        if self._item_s is None or (self.chunksize is None and self._by_time() > self._size_max):
            return least  # small ones by the hundred would delay what is learned from them
        chunk_s = max(self.size() * self._item_s, 1e-5)
        return max(least, min(TASKS_MAX, int(cores * LEAD_S / chunk_s)))

    def has_room(self, tasks: int, waiting_bytes: int, under_way_items: int, cores: int) -> bool:
        """Whether one more task may be under way, or its result waiting, beside those."""
        if tasks <= cores:
            return True  # or values that are larger than everything that is allowed would be made one by one
        nbytes = waiting_bytes + under_way_items * self._result_bytes
        return tasks < TASKS_MAX and nbytes < BYTES_MAX

    def _by_time(self) -> int:
        return int(CHUNK_S / max(self._item_s or 0.0, 1e-9))


def _mean(known: float, observed: float) -> float:
    return observed if observed > known else (known + observed) / 2
