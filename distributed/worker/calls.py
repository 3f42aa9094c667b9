"""From what a `Run` message says to things that can be called and passed: functions, and the values of inputs."""

from __future__ import annotations

import importlib
import mmap
import os
import sys
from collections import OrderedDict
from pickle import loads
from typing import Any

from distributed import running
from distributed.config import SETTINGS
from distributed.errors import DistributedError, ProtocolError
from distributed.wire.exceptions import note_unpickling
from distributed.wire.functions import Initializer, unpack_function, unpack_need
from distributed.wire.messages import Run
from distributed.wire.pickles import CONTEXT, GIVEN
from distributed.wire.values import PICKLE, reduce_handle, unpack
from distributed.worker.progress import Cell


class Functions:
    """The functions that this executor has, by the hash of their pickle; the least recently used go first."""

    def __init__(
        self,
        cell: Cell | None = None,
        count_max: int = SETTINGS.functions_cached_max,
        bytes_max: int = SETTINGS.functions_cached_bytes_max,
    ) -> None:
        self.cell = cell  # where it is said that an initializer is being called
        self.count_max, self.bytes_max, self.nbytes = count_max, bytes_max, 0
        self._entries: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()
        self.how: Any = None  # the serializer of the pool whose tasks come now

    def __contains__(self, name: bytes) -> bool:
        return name in self._entries

    def get(self, name: bytes, code: bytes, is_need: bool = False) -> Any:
        """The function of this hash: the one that is here, or else what `code` makes.

        Where it cannot be made (a module is missing) there is one in its place that raises the reason; since `code`
        comes once, it is kept, and tried again the next time. What functions need keeps nothing once it was called.
        """
        if name in self._entries:
            self._entries.move_to_end(name)
            function = self._entries[name][0]
            if not isinstance(function, Unloadable):
                return function
            code = function.code
        elif not code:
            return Unloadable(code, ProtocolError("an executor was told to run a function whose code it does not have"))
        try:
            function = unpack_need(code) if is_need else unpack_function(code)
        except BaseException as error:  # noqa: BLE001  modules that are imported here may raise anything
            note_unpickling(error, "the function was")
            function = Unloadable(code, error)
        self._put(name, function, 0 if is_need else len(code))
        return function

    def prepared(self, name: bytes, code: bytes, needs: dict[bytes, bytes]) -> Any:
        """The function of this hash, when what it needs has been called; what that raises, the function raises."""
        reason: BaseException | None = None
        GIVEN.clear()  # it is another pool's
        CONTEXT.how = None
        for need, need_code in needs.items():
            try:
                called = self.get(need, need_code, is_need=True)
                self._say_initializing(isinstance(called, Initializer))
                called()
            except BaseException as error:  # noqa: BLE001  foreign code
                reason = reason or error
        if needs:
            self._say_initializing(False)
        self.how = CONTEXT.how
        function = self.get(name, code)
        return function if reason is None else Unloadable(b"", reason)

    def _say_initializing(self, yes: bool) -> None:
        if self.cell is not None:
            self.cell.initializes = yes

    def keep(self, batch: Run) -> None:
        """A batch is not run here after all. The code that came with it, once, is made something of when it is used."""
        for name, code in ((batch.function, batch.code), *batch.needs.items()):
            if code and name not in self._entries:
                unused = Unloadable(code, ProtocolError("a function that was given back was run"))
                self._put(name, unused, 0 if name in batch.needs else len(code))

    def _put(self, name: bytes, function: Any, nbytes: int) -> None:
        if name not in self._entries:
            self.nbytes += nbytes
        self._entries[name] = function, nbytes
        while len(self._entries) > 1 and (len(self._entries) > self.count_max or self.nbytes > self.bytes_max):
            _, (_, oldest_nbytes) = self._entries.popitem(last=False)
            self.nbytes -= oldest_nbytes


class Unloadable:
    """Stands for a function that could not be unpickled here."""

    def __init__(self, code: bytes, error: BaseException) -> None:
        self.code, self.error = code, error

    def __call__(self, *args: object, **kwargs: object) -> object:
        raise self.error


class InputLost(Exception):
    """The file of an input is not there any more, or was cut short: the task cannot begin here."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class Inputs:
    """The inputs of one task: called with an index, it gives that input's value, in a view of the task's own."""

    __slots__ = ("entries",)

    def __init__(self, entries: list[Any]) -> None:
        self.entries = entries

    def __call__(self, index: int) -> object:
        entry = self.entries[index]
        where = entry[1]
        if type(where) is bytes and where[0] == PICKLE:  # a task may have ten thousand of these
            return loads(where)
        return unpack(map_input(*entry) if type(where) is str else where, handle_of)


def handle_of(reference: list[Any]) -> object:
    """A handle in an input: one that can be waited for, if this process runs code that does such things."""
    inside = sys.modules.get("distributed.pool.inside")
    return Handle(reference) if inside is None or running.door is None else inside.adopt(reference)


def map_input(key: str, path: str, nbytes: int) -> mmap.mmap:
    """A value's file as memory: changes stay in this mapping, and its pages are shared until then.

    Pages are mapped as they are touched: to populate all at once takes as long, also for a task that needs few. To
    touch a page of a file that was cut short would end this process (SIGBUS): `InputLost`, as when it is gone.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise InputLost(key) from error
    try:
        if os.fstat(descriptor).st_size != nbytes:
            raise InputLost(key)
        return mmap.mmap(descriptor, nbytes, access=mmap.ACCESS_COPY)
    finally:
        os.close(descriptor)


class Handle:
    """A stored value as a task sees it that finds the handle in its input: it can be returned or passed on."""

    __slots__ = ("_reference",)

    def __init__(self, reference: list[Any]) -> None:
        self._reference = reference

    @property
    def key(self) -> str:
        """The name of the value."""
        return self._reference[0]  # type: ignore[no-any-return]

    @property
    def nbytes(self) -> int:
        """The size of the value."""
        return self._reference[2]  # type: ignore[no-any-return]

    def reference(self) -> list[Any]:
        """What a packed value says of the handle in it."""
        return self._reference

    def reduce_outside(self) -> Any:
        """Outside of a result there is nobody who would keep the value alive."""
        raise DistributedError(f"the handle of {self.key} can only travel inside the result of a task")

    def __reduce__(self) -> Any:
        return reduce_handle(self)

    def __copy__(self) -> Handle:
        return self

    def __deepcopy__(self, memo: object) -> Handle:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        inside: Any = importlib.import_module("distributed.pool.inside")
        return getattr(inside.adopt(self._reference), name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and self._reference[:2] == other._reference[:2]

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"<Handle: {self.key}>"
