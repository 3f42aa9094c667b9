"""How the tasks of a pool are pickled, if not in the usual way: by one pickler alone, or by a serializer of the user's.

Whatever makes it, what travels is a pickle that names all that it takes to read it: who reads it, an executor, this
client or another one, unpickles it as any other, and needs to know nothing. Only who writes has to know: a client by
what its `Pool` was opened with, an executor because the pool's tasks need `UseSerializer`, and the pool inside of a
task because its executor knows. The serializer in force is `CONTEXT.how` of a thread.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, Final

from distributed.arguments import nearest, shown
from distributed.errors import SerializerMissing
from distributed.wire.exceptions import note
from distributed.wire.pickles import (
    CONTEXT,
    PROTOCOL,
    Keep,
    are_handles,
    array_type,
    dump_by_value,
    dump_plain,
    must_go_by_value,
    reduce_array,
    reduce_class,
)

NAMES: Final = ("auto", "pickle", "cloudpickle", "dill")


class Serializer:
    """A way to pickle. `dump` makes a pickle, large buffers kept apart; None: as usual."""

    is_own = False

    def __init__(self, name: str) -> None:
        self.name, self.dump = name, _DUMPS.get(name)

    def __reduce__(self) -> Any:
        return Serializer, (self.name,)

    def carry(self, value: object) -> object:
        """What is pickled in the place of a value."""
        return value

    def require(self) -> None:
        """Raise `SerializerMissing` if it cannot be used in this process."""
        if self.name == "dill":
            _dill()

    def __repr__(self) -> str:
        return f"<Serializer: {self.name}>"


class Own(Serializer):
    """An object, or a module, of the user's with `dumps` and `loads`, for arguments and results.

    Functions travel in the usual way. So do handles, lists of them, and the exceptions of tasks.
    """

    is_own = True

    def __init__(self, owner: Any) -> None:
        self.name, self.dump = getattr(owner, "__name__", type(owner).__name__), None
        self.owner = owner

    def __reduce__(self) -> Any:
        if isinstance(self.owner, types.ModuleType):
            return _own_module, (self.owner.__name__,)
        return Own, (self.owner,)

    def carry(self, value: object) -> object:
        as_usual = isinstance(value, (Carried, types.FunctionType, type)) or are_handles(value)
        return value if as_usual else Carried(self, value)

    def loads(self, data: Any) -> Any:
        """A value again."""
        return self.owner.loads(data)


def _own_module(name: str) -> Own:
    try:
        return Own(importlib.import_module(name))
    except ImportError as error:
        raise SerializerMissing(f"the serializer {name} cannot be imported here ({sys.executable}): {error}") from error


class Carried:
    """A value that a serializer of the user's turns into bytes while it is pickled."""

    def __init__(self, how: Own, value: object) -> None:
        self._how, self.stands_for = how, value

    def __reduce__(self) -> Any:
        data = self._how.owner.dumps(self.stands_for)
        if not isinstance(data, (bytes, bytearray, str)):
            raise TypeError(f"{self._how.name}.dumps gave a {type(data).__name__}, not bytes or text")
        return restore, (self._how, data)


def restore(how: Own, data: Any) -> Any:
    """Called by pickle: the value that a serializer of the user's has made bytes of."""
    try:
        return how.loads(data)
    except Exception as error:
        note(error, f"the serializer {how.name} read {len(data):,} bytes")
        raise


class UseSerializer:
    """What executors call before the tasks of a pool that has a serializer: their results are made in the same way."""

    def __init__(self, how: Serializer) -> None:
        self.how = how

    def __call__(self) -> None:
        self.how.require()
        CONTEXT.how = self.how


def serializer(value: Any) -> Serializer | None:
    """The serializer that an argument of `Pool` means; None: the usual way.

    >>> serializer('auto'), serializer('pickle')
    (None, <Serializer: pickle>)
    >>> serializer('dil')
    Traceback (most recent call last):
    ValueError: serializer='dil' is none of 'auto', 'pickle', 'cloudpickle', 'dill'; did you mean 'dill'?
    """
    if isinstance(value, str):
        if value not in NAMES:
            told = ", ".join(map(repr, NAMES))
            raise ValueError(f"serializer={shown(value)} is none of {told}{nearest(value, NAMES)}")
        if value == "auto":
            return None
        chosen = Serializer(value)
        chosen.require()
        return chosen
    if not all(callable(getattr(value, name, None)) for name in ("dumps", "loads")) or isinstance(value, type):
        right = f"one of {', '.join(map(repr, NAMES))}, or an object or module with dumps(value) and loads(data)"
        raise TypeError(f"serializer={shown(value)} must be {right}")
    return Own(value)


@contextlib.contextmanager
def using(how: Serializer | None) -> Iterator[None]:
    """This thread pickles in this way meanwhile."""
    outer, CONTEXT.how = CONTEXT.how, how
    try:
        yield
    finally:
        CONTEXT.how = outer


# ---------------------------------------------------------------------------------------------------- one pickler alone


def _dump_pickle(value: object, keep: Keep) -> bytes:
    data = dump_plain(value, keep)
    if must_go_by_value(data):
        raise pickle.PicklingError("plain pickle names the program's own __main__, which executors do not have")
    return data


def _dump_dill(value: object, keep: Keep) -> bytes:
    file = io.BytesIO()
    pickler = _dill_pickler()(file, PROTOCOL, buffer_callback=keep, recurse=True, byref=False)
    pickler.dump(value)
    return file.getvalue()


@functools.cache
def _dill_pickler() -> Any:
    """Dill's pickler, but for classes of the program: a copy of one that comes back would be another class."""

    class Pickler(_dill().Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, type):
                return reduce_class(obj)
            return reduce_array(obj) if type(obj) is array_type() else NotImplemented

    return Pickler


def _dill() -> Any:
    try:
        import dill
    except ImportError as error:
        where = "pip install distributed[dill]"
        raise SerializerMissing(f"serializer='dill' needs dill here ({sys.executable}): {where}") from error
    return dill


_DUMPS: Final[dict[str, Callable[[object, Keep], bytes]]] = {
    "pickle": _dump_pickle,
    "cloudpickle": dump_by_value,
    "dill": _dump_dill,
}
