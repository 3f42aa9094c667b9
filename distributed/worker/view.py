"""What a worker's mind knows of one executor. Data and arithmetic: `dispatch` and those it works with decide."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import OrderedDict
from operator import attrgetter

from distributed.config import Settings
from distributed.worker.tasks import Function, Part

_serial_of = attrgetter("serial")


class ExecutorView:
    """One child process that runs tasks: what it was given, what it knows, and what becomes of it."""

    def __init__(self, number: int, asynchronous: bool) -> None:
        self.number, self.asynchronous = number, asynchronous
        self.seat = -1  # plain ones have one each, from 0 on: what is sent to a seat is run by whoever has it
        self.ready = False
        self.has_served = False  # a task has ended in it
        self.pid = 0
        self.given: list[Part] = []  # by serial, in the order in which they run
        self.count = 0  # tasks in them
        self.depths: dict[int, int] = {}  # of coroutines: how many of each depth
        self.under_way_s = 0.0  # predicted duration of what is given
        self.alone = False  # what it has must not be joined by more
        self.killing = False
        self.surplus = False  # killed because it was one too many
        self.retiring = False  # it gets no more work, and is replaced as soon as it has none
        self.started_s = 0.0
        self.look_at_s = math.inf
        self.keeps_slot = False  # and the slot it gave back is kept, for a moment, for what its task waits for
        self.waits_for_others = False  # its task waits for other tasks: it uses no core, and gets nothing more
        self.waiting_since_s = self.waited_s = 0.0
        self.client = ""  # whose task it was given last: what it prints is for them
        self.functions: OrderedDict[bytes, int] = OrderedDict()
        self.functions_bytes = 0

    def find(self, serial: int) -> tuple[Part | None, int]:
        """The part in which the task of this number is, and its position there."""
        index = self._index(serial)
        if index < 0 or serial - self.given[index].serial >= len(self.given[index].keys):
            return None, 0
        return self.given[index], serial - self.given[index].serial

    def _index(self, serial: int) -> int:
        """Where the last part is that begins with this number or before."""
        return bisect_right(self.given, serial, key=_serial_of) - 1

    def single_out(self, serial: int) -> Part:
        """One task, with what it has to itself from here on; those before and behind it stay here as parts, too."""
        index = self._index(serial)
        part = self.given[index]
        if serial > part.serial:
            part = part.split(serial - part.serial)
            index += 1
            self.given.insert(index, part)
        if len(part.keys) > 1:
            self.given.insert(index + 1, part.split(1))
        return part

    def take(self, serial: int, count: int) -> Part | None:
        """Up to `count` tasks from this number on have ended: the part that the first ones are. None: never given."""
        given = self.given
        index = self._index(serial) if len(given) > 1 and given[0].serial != serial else 0
        if index < 0 or not given:
            return None
        part = given[index]
        position = serial - part.serial
        if not 0 <= position < len(part.keys):
            return None
        if position:
            part = part.split(position)
            if len(part.keys) > count:
                given.insert(index + 1, part.split(count))
        elif len(part.keys) > count:
            given[index] = part.split(count)
        else:
            del given[index]
        self.count -= len(part.keys)
        self.has_served = True
        if self.asynchronous:
            self.count_depth(part.depth, -len(part.keys))
        return part

    def count_depth(self, depth: int, count: int) -> None:
        """So many coroutines of this depth more are under way."""
        self.depths[depth] = self.depths.get(depth, 0) + count
        if not self.depths[depth]:
            del self.depths[depth]

    def count_from(self, depth: int) -> int:
        """How many coroutines are under way that are so deep or deeper."""
        return sum(count for deep, count in self.depths.items() if deep >= depth)

    def depth_with_room(self, count_max: int) -> int:
        """The least depth of which one more coroutine may begin, though those above it wait, for it perhaps.

        >>> executor = ExecutorView(1, asynchronous=True)
        >>> executor.depths = {0: 2, 1: 1, 4: 1}
        >>> [executor.depth_with_room(count_max) for count_max in (5, 4, 3, 2, 1)]
        [0, 1, 1, 2, 5]
        """
        count = 0
        for depth in sorted(self.depths, reverse=True):
            count += self.depths[depth]
            if count >= count_max:
                return depth + 1
        return 0

    def learn(self, function: Function, settings: Settings, is_need: bool = False) -> bytes:
        """The code to send along: none when the executor surely has it.

        It keeps the functions used last within the bounds of the settings; half of that is what we rely on. What is
        called once, a need of functions, is worth no bytes afterwards.
        """
        if function.identity in self.functions:
            self.functions.move_to_end(function.identity)
            return b""
        code = function.code
        assert code is not None
        self.functions[function.identity] = nbytes = 0 if is_need else len(code)
        self.functions_bytes += nbytes
        while len(self.functions) > 1 and (
            len(self.functions) > settings.functions_cached_max // 2
            or self.functions_bytes > settings.functions_cached_bytes_max // 2
        ):
            self.functions_bytes -= self.functions.popitem(last=False)[1]
        return code
