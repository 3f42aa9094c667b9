"""How an object is pickled: by which pickler, with which of its parts apart, and with its handles as marks.

Plain pickle comes first. Cloudpickle takes over when that fails, and also when the pickle mentions ``__main__``: it
would be read here and fail in an executor, whose ``__main__`` is another module. Three habits are added to
cloudpickle's: a class that was defined in this process is recognised when it comes back and left as it is; strided
arrays are made contiguous so that their bytes can stay out of the pickle; an exception is rebuilt without calling its
constructor. This module knows nothing of the layout of packed values, nor what a handle refers to.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

import cloudpickle
from cloudpickle import cloudpickle as cloud

from distributed.config import SETTINGS

PROTOCOL: Final = 5
Reference = list[Any]  # [key, attempt, nbytes, holders]
Keep = Callable[[pickle.PickleBuffer], bool]  # what a pickler asks of each buffer: true leaves it in the pickle


# ----------------------------------------------------------------------------------------------------------- handles


class _Context(threading.local):
    """What this thread is pickling or unpickling just now; None: nothing of ours."""

    collected: dict[str, tuple[int, Any]] | None = None  # key -> index, handle
    resolve: Callable[[int], object] | None = None
    how: Any = None  # the serializer in force (see `serializers`); None: the usual way


CONTEXT: Final = _Context()


def reduce_handle(handle: Any) -> Any:
    """What a handle's ``__reduce__`` returns: a mark while a value or call is packed, else what the handle says."""
    collected = CONTEXT.collected
    if collected is None:
        return handle.reduce_outside()
    return restore_mark, (_index_of(handle, collected),)


def _index_of(handle: Any, collected: dict[str, tuple[int, Any]]) -> int:
    key = handle.key
    entry = collected.get(key)
    if entry is None:
        entry = collected[key] = (len(collected), handle)
    return entry[0]


class Mark:
    """What a handle leaves in a pickle, by itself."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __reduce__(self) -> Any:
        return restore_mark, (self.index,)


def restore_mark(index: int) -> object:
    """Called by pickle where a mark was left."""
    if CONTEXT.resolve is None:
        raise pickle.UnpicklingError("the mark of a handle was read outside of the value that it belongs to")
    return CONTEXT.resolve(index)


class Marks:
    """What a list or tuple of nothing but handles leaves in the pickle of a call: one mark for all of them."""

    def __init__(self, handles: list[Any] | tuple[Any, ...]) -> None:
        self.handles = handles

    def __reduce__(self) -> Any:
        collected = CONTEXT.collected
        assert collected is not None
        indices: Any = [_index_of(handle, collected) for handle in self.handles]
        if indices == list(range(indices[0], indices[0] + len(indices))):
            indices = range(indices[0], indices[0] + len(indices))
        return restore_marks, (type(self.handles), indices)


def are_handles(value: object) -> bool:
    """Whether it is a handle, or a list or tuple of handles and of nothing else."""
    if type(value) is list or type(value) is tuple:
        return bool(value) and all(hasattr(type(item), "reduce_outside") for item in value)  # type: ignore[arg-type]
    return type(value) is Marks or hasattr(type(value), "reduce_outside")


def restore_marks(kind: type, indices: Any) -> object:
    """Called by pickle where one mark stands for many handles."""
    return kind(map(CONTEXT.resolve or restore_mark, indices))


def load(data: Any, buffers: Any, resolve: Callable[[int], object] | None) -> Any:
    """Unpickle; every mark becomes what `resolve` says of its index."""
    outer, CONTEXT.resolve = CONTEXT.resolve, resolve
    try:
        return pickle.loads(data, buffers=buffers)
    finally:
        CONTEXT.resolve = outer


# ----------------------------------------------------------------------------------------------------------- pickling


def dump(value: object, out_of_band: bool = True) -> tuple[bytes, list[memoryview], list[Any]]:
    """Pickle, buffers out of band, and the handles found, each once; raises whatever cloudpickle raises."""
    outer = CONTEXT.collected
    buffers: list[memoryview] = []
    keep = _keeper(buffers) if out_of_band else bool  # bool(buffer) is true: leave it in the pickle
    try:
        CONTEXT.collected = {}
        if CONTEXT.how is not None and CONTEXT.how.dump is not None:
            data = CONTEXT.how.dump(value, keep)
            return data, buffers, [handle for _, handle in CONTEXT.collected.values()]
        try:
            data = dump_plain(value, keep)
            if not must_go_by_value(data):
                return data, buffers, [handle for _, handle in CONTEXT.collected.values()]
        except Exception:  # noqa: BLE001 - foreign code: whatever plain pickle stumbles over, cloudpickle may manage
            pass
        CONTEXT.collected = {}
        buffers.clear()
        data = dump_by_value(value, keep)
        return data, buffers, [handle for _, handle in CONTEXT.collected.values()]
    finally:
        CONTEXT.collected = outer


def dump_by_value(value: object, keep: Keep) -> bytes:
    """Cloudpickle's pickle of a value."""
    file = io.BytesIO()
    ByValuePickler(file, keep).dump(value)
    return file.getvalue()


def _keeper(buffers: list[memoryview]) -> Keep:
    """A `buffer_callback` that keeps large buffers apart, in `buffers`, and leaves small ones in the pickle."""
    nbytes_min = SETTINGS.out_of_band_bytes_min

    def keep(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < nbytes_min:
            return True
        buffers.append(view)
        return False

    return keep


def dump_plain(value: object, keep: Keep) -> bytes:
    """Plain pickle's pickle of a value."""
    array = array_type()
    if array is None:
        return pickle.dumps(value, PROTOCOL, buffer_callback=keep)
    file = io.BytesIO()
    pickler = pickle.Pickler(file, PROTOCOL, buffer_callback=keep)
    pickler.dispatch_table = {**copyreg.dispatch_table, array: reduce_array}
    pickler.dump(value)
    return file.getvalue()


def must_go_by_value(data: bytes) -> bool:
    """Whether a plain pickle names a module that another process does not have, or not by that name."""
    if b"_main__" in data:  # also multiprocessing's __mp_main__
        return True
    registered = cloud._PICKLE_BY_VALUE_MODULES
    return bool(registered) and any(name.encode() in data for name in registered)


class ByValuePickler(cloud.Pickler):
    """Cloudpickle, for what plain pickle cannot do or does wrongly."""

    def __init__(self, file: Any, keep: Callable[[pickle.PickleBuffer], bool]) -> None:
        super().__init__(file, PROTOCOL, keep)
        if "__mp_main__" in sys.modules:  # what multiprocessing's spawn calls the parent's __main__
            cloudpickle.register_pickle_by_value(sys.modules["__mp_main__"])
        self._array = array_type()

    def reducer_override(self, obj: Any) -> Any:
        """Cloudpickle's own door, which comes before its table of types."""
        if type(obj) is self._array:
            return reduce_array(obj)
        if isinstance(obj, BaseException):
            return reduce_exception(obj)
        reduced = super().reducer_override(obj)
        if type(reduced) is tuple and reduced[0] is cloud._make_function:
            return *reduced[:5], set_function_state
        return _as_known_class(reduced) if isinstance(obj, type) else reduced


# ----------------------------------------------------------------------------------------------- functions by value

GIVEN: Final[dict[str, dict[str, Any]]] = {}
"""In an executor: globals that the initializer of the pool whose tasks come now has set, by module."""


def set_function_state(function: Any, state: Any) -> None:
    """Fill a function that came by value. Each has globals of its own, but for what an initializer has set for all."""
    cloud._function_setstate(function, state)
    if GIVEN:
        function.__globals__.update(GIVEN.get(function.__module__, ()))


# ------------------------------------------------------------------------------------------------- classes by value

_CLASS_MAKERS: Final = (cloud._make_skeleton_class, cloud._make_skeleton_enum)
_FROM_ELSEWHERE: Final[weakref.WeakSet[type]] = weakref.WeakSet()  # classes that came to this process by value


def reduce_class(cls: type) -> Any:
    """Reduce a class that others cannot import, to be recognised where it is known; NotImplemented: any other one."""
    return _as_known_class(cloud._class_reduce(cls))


def _as_known_class(reduced: Any) -> Any:
    if type(reduced) is tuple and reduced[0] in _CLASS_MAKERS:
        maker, arguments, state = reduced[:3]
        return restore_class, (maker, arguments[-2], arguments), state, None, None, set_class_state
    return reduced


def restore_class(maker: Callable[..., type], tracker: str, arguments: tuple[Any, ...]) -> type:
    """The class of this identity: the very one, if it was defined here or came before; else a new one to be filled."""
    known = cloud._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker)
    if known is not None:
        return known  # type: ignore[no-any-return]
    cls = maker(*arguments)
    _FROM_ELSEWHERE.add(cls)
    return cls


def set_class_state(cls: type, state: Any) -> None:
    """Fill a class that came by value; one that was defined here is not altered by a copy of itself."""
    if cls in _FROM_ELSEWHERE:
        cloud._class_setstate(cls, state)


# ------------------------------------------------------------------------------------------------------------- arrays


def array_type() -> Any:
    """The type of numpy's arrays; None while nobody here has any."""
    return getattr(sys.modules.get("numpy"), "ndarray", None)


def reduce_array(array: Any) -> Any:
    """Reduce a numpy array so that its bytes are one buffer, also where numpy would copy them into the pickle."""
    dtype, contiguous = array.dtype, array.flags.forc
    if dtype.hasobject or (contiguous and dtype.kind not in "mM"):
        return array.__reduce_ex__(PROTOCOL)
    if not contiguous:
        writeable = array.flags.writeable
        array = array.copy(order="C")
        array.flags.writeable = writeable
    if dtype.kind in "mM":  # dates and spans of time export no buffer
        return view_as, (array.view("i8"), dtype)
    return array.__reduce_ex__(PROTOCOL)


def view_as(array: Any, dtype: Any) -> Any:
    """An array seen as one of dates or spans of time."""
    return array.view(dtype)


# --------------------------------------------------------------------------------------------------------- exceptions


_PICKLING_METHODS: Final = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
_MADE_IN_PYTHON: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE


def reduce_exception(error: BaseException) -> Any:
    """Reduce an exception so that it is rebuilt without its class's constructor, which may want other arguments."""
    cls: Any = type(error)
    base: Any = next(kind for kind in cls.__mro__ if not kind.__flags__ & _MADE_IN_PYTHON)
    if any(getattr(cls, name, None) is not getattr(base, name, None) for name in _PICKLING_METHODS):
        return NotImplemented  # the class has its own way
    reduced = base.__reduce__(error)
    state = dict(reduced[2]) if len(reduced) > 2 and reduced[2] else {}
    for slot in copyreg._slotnames(cls):  # type: ignore[attr-defined]
        if hasattr(error, slot):
            state[slot] = getattr(error, slot)
    return restore_exception, (cls, base, reduced[1], error.args), state, None, None, set_exception_state


def restore_exception(
    cls: type[BaseException], base: type[BaseException], arguments: tuple[Any, ...], args: tuple[Any, ...]
) -> BaseException:
    """An exception of this class as its C base makes it: the fields that live in C are set, no Python code ran."""
    error: BaseException = base.__new__(cls, *arguments)
    try:
        base.__init__(error, *arguments)
    except (TypeError, ValueError):  # its args were changed by hand
        pass
    BaseException.__setattr__(error, "args", args)
    return error


def set_exception_state(error: BaseException, state: dict[str, Any]) -> None:
    """Set the attributes, also of an exception that is a frozen dataclass."""
    for name, value in state.items():
        BaseException.__setattr__(error, name, value)
