"""Functions as bytes: by reference where another process can import them, by value where it cannot.

A function is named by the hash of its bytes, so that it travels once to each place. `FunctionCache` spares `submit` the
pickling of the same lambda again and again, but never at the price of running stale code: it looks at everything that
the pickle would contain, and reuses the earlier one only while all of it is the identical, immutable objects.
"""

from __future__ import annotations

import dataclasses
import dis
import functools
import hashlib
import importlib
import inspect
import os
import pickle
import sys
import threading
import types
from collections.abc import Iterable
from typing import Any, Final

from cloudpickle import cloudpickle as cloud

from distributed.config import SETTINGS
from distributed.errors import InitializerFailed
from distributed.wire.pickles import GIVEN, dump
from distributed.wire.unpicklable import explain, names_in

_ATOMS: Final = frozenset({int, float, str, bytes, bool, type(None), complex, range, type(Ellipsis)})
_ABSENT: Final = object()  # stands for a name that is not there (yet), or a cell that is empty


@dataclasses.dataclass(slots=True, frozen=True)
class PackedFunction:
    """A function ready to travel; with `handles` it has to travel with each call (`call_carried`)."""

    id: bytes
    code: bytes
    name: str
    handles: list[Any]
    asynchronous: bool


def pack_function(function: Any) -> PackedFunction:
    """Pickle a function; `CannotPickle` names the closure variable, default or global that refuses.

    >>> packed = pack_function(len)
    >>> packed.name, len(packed.id), packed.asynchronous
    ('builtins.len', 16, False)
    """
    name = name_of(function)
    try:
        code, buffers, handles = dump(_by_name(function), out_of_band=False)
    except Exception as error:
        raise explain("the function", [(name, function)], error) from error
    assert not buffers
    identity = hashlib.blake2b(code, digest_size=16).digest()
    return PackedFunction(identity, code, name, handles, is_asynchronous(function))


class OfModule:
    """A method that a module has as a function of its own: it travels by name, and its object stays where it is.

    >>> import random
    >>> gauss = unpack_function(pack_function(random.gauss).code)
    >>> gauss is random.gauss
    True
    """

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return _of_module(self._module, self._name)(*args, **kwargs)

    def __reduce__(self) -> Any:
        return _of_module, (self._module, self._name)


def _of_module(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _by_name(function: Any) -> Any:
    """The function with what it calls by name, as far as a module has that: else each task had the same random number.

    >>> import random
    >>> uniform = unpack_function(pack_function(functools.partial(random.uniform, 0, 1)).code)
    >>> uniform() == uniform()
    False
    """
    kind = type(function)
    if kind is functools.partial:
        called = _by_name(function.func)
        return function if called is function.func else functools.partial(called, *function.args, **function.keywords)
    if kind in (types.MethodType, types.BuiltinFunctionType):
        module = type(function.__self__).__module__
        if module != "__main__" and getattr(sys.modules.get(module), function.__name__, None) == function:
            return OfModule(module, function.__name__)
    return function


def pack_need(need: Any, what: str) -> tuple[bytes, bytes]:
    """The hash and pickle of something that executors have to call before functions that need it."""
    try:
        code, _, handles = dump(need, out_of_band=False)
    except Exception as error:
        raise explain(what, [(name, value) for name, value in vars(need).items()], error) from error
    if handles:
        raise TypeError(f"{what} cannot hold handles: publish the data, or pass it to the tasks")
    return hashlib.blake2b(code, digest_size=16).digest(), code


def needing(identity: bytes, needs: Iterable[bytes]) -> bytes:
    """The name of a function of this name that needs these: another one than without them."""
    return hashlib.blake2b(b"".join((identity, *needs)), digest_size=16).digest()


class Initializer:
    """What executors have to call once; if it raises, before the next task again.

    Globals that it sets are there for all functions of its module, also for those that travel by value.
    """

    def __init__(self, initializer: Any, initargs: tuple[Any, ...]) -> None:
        self.initializer, self.initargs = initializer, initargs
        self.mark = os.urandom(16)  # two pools may have the same one, and each has it called

    def __call__(self) -> None:
        if self.mark in _initialized:
            GIVEN.update(_initialized[self.mark])
            return
        try:
            self.initializer(*self.initargs)
        except (Exception, SystemExit) as error:  # an exit would be that of whoever asks for the task's result
            reason = f"{type(error).__name__}: {error}"
            raise InitializerFailed(f"the pool's initializer failed in executor {os.getpid()}: {reason}") from error
        _initialized[self.mark] = given = _globals_set_by(self.initializer)
        GIVEN.update(given)
        self.initializer, self.initargs = None, ()  # they may be large, and are called no more


_initialized: dict[bytes, dict[str, dict[str, Any]]] = {}  # and what those have set


def _globals_set_by(function: Any) -> dict[str, dict[str, Any]]:
    """The globals that a function assigns, by its module."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    if type(function) is not types.FunctionType:
        return {}
    values, names, todo = function.__globals__, set(), [function.__code__]
    while todo:
        code = todo.pop()
        names |= {step.argval for step in dis.get_instructions(code) if step.opname == "STORE_GLOBAL"}
        todo += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return {function.__module__: {name: values[name] for name in names & values.keys()}}


def call_carried(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function that came with its arguments, because it is large or has handles in it."""
    return function(*args, **kwargs)


def unpack_function(code: bytes) -> Any:
    """The function again, to be called by many tasks; for executors.

    >>> unpack_function(pack_function(abs).code)(-1)
    1
    >>> append = unpack_function(pack_function(['x'].__add__).code)
    >>> append(['y']), append(['z'])
    (['x', 'y'], ['x', 'z'])
    """
    function = pickle.loads(code)
    return Renewed(code) if _has_state(function) and pickle.loads(code) is not function else function


def unpack_need(code: bytes) -> Any:
    """What functions need, again."""
    return pickle.loads(code)


class Renewed:
    """A function with an object of its own: each call has a new one, and sees nothing of what others did to theirs."""

    def __init__(self, code: bytes) -> None:
        self._code = code

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return pickle.loads(self._code)(*args, **kwargs)


def behind_renewal(trace: types.TracebackType | None) -> types.TracebackType | None:
    """A traceback without the call of `Renewed`, if it begins with that."""
    return trace.tb_next if trace is not None and trace.tb_frame.f_code is Renewed.__call__.__code__ else trace


def _has_state(function: Any) -> bool:
    """Whether it is, or refers to, an object that a call may change. What functions have in globals is the process's.

    >>> [_has_state(function) for function in (len, str.upper, dict.fromkeys, lambda: 1, functools.partial(pow, 2))]
    [False, False, False, False, False]
    >>> [_has_state(function) for function in ([].append, Initializer(id, ()).__call__, functools.partial(map, []))]
    [True, True, True]
    """
    kind = type(function)
    if kind is functools.partial:
        return any(map(_has_state, (function.func, *function.args, *function.keywords.values())))
    if kind in (types.MethodType, types.BuiltinFunctionType):
        return not isinstance(function.__self__, (type, types.ModuleType, type(None)))
    stateless = (type, types.FunctionType, types.MethodDescriptorType, types.ModuleType, Renewed)
    return kind not in _ATOMS and not isinstance(function, stateless)


def name_of(function: Any) -> str:
    """What people call a function: ``module.qualname``.

    >>> name_of(functools.partial(sum, [1]))
    'builtins.sum'
    >>> name_of(dict.fromkeys), name_of(object())
    ('builtins.dict.fromkeys', 'builtins.object')
    """
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    if not isinstance(name, str):  # an instance of a class with __call__
        function = type(function)
        name = function.__qualname__
    owner = getattr(function, "__self__", None)
    module = getattr(function, "__module__", None) or getattr(owner, "__module__", None) or "builtins"
    return f"{module}.{name}"


def is_asynchronous(function: Any) -> bool:
    """Whether calling it gives a coroutine."""
    if isinstance(function, types.BuiltinFunctionType):
        return False
    if inspect.iscoroutinefunction(function):
        return True
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, (types.FunctionType, types.MethodType, type)):
        return inspect.iscoroutinefunction(function)
    return inspect.iscoroutinefunction(type(function).__call__)


class FunctionCache:
    """The pickles of functions that were submitted before.

    An entry is found by code object and name, so that the lambda in a loop is one entry although it is a new function
    each time. No function is kept alive, only what its pickle contains anyway. Bounded in number and in bytes.
    """

    def __init__(
        self,
        functions_max: int = SETTINGS.functions_cached_max,
        bytes_max: int = SETTINGS.functions_cached_bytes_max,
    ) -> None:
        self._functions_max, self._bytes_max = functions_max, bytes_max
        self._entries: dict[tuple[int, str], tuple[list[object], PackedFunction]] = {}
        self._nbytes = 0
        self._lock = threading.Lock()  # for changes; who looks something up does without

    def __len__(self) -> int:
        return len(self._entries)

    def pack(self, function: Any) -> PackedFunction:
        """As `pack_function`, without doing it twice while nothing has changed."""
        if type(function) is not types.FunctionType:
            return pack_function(function)
        if _is_bare(function):  # by far the most usual one, and the shortest way to it
            parts: list[object] | None = [function.__code__, function.__module__, function.__name__, function.__doc__]
        else:
            parts = contents_of(function)
        if parts is None:
            return pack_function(function)
        name = (id(function.__code__), function.__qualname__)  # `parts` keeps the code alive, so its id stays its own
        entry = self._entries.get(name)
        if entry is not None and len(entry[0]) == len(parts) and all(map(_same, entry[0], parts)):
            return entry[1]
        packed = pack_function(function)
        if not packed.handles:
            self._keep(name, parts, packed)
        return packed

    def _keep(self, name: tuple[int, str], parts: list[object], packed: PackedFunction) -> None:
        with self._lock:
            old = self._entries.pop(name, None)
            if old is not None:
                self._nbytes -= len(old[1].code)
            if len(packed.code) > self._bytes_max:
                return
            self._entries[name] = parts, packed
            self._nbytes += len(packed.code)
            while len(self._entries) > self._functions_max or self._nbytes > self._bytes_max:
                oldest = next(iter(self._entries))
                self._nbytes -= len(self._entries.pop(oldest)[1].code)


def _is_bare(function: types.FunctionType) -> bool:
    """Whether nothing but its code makes it what it is: it travels by value, and refers to nothing outside."""
    return (
        function.__closure__ is None
        and function.__defaults__ is None
        and function.__kwdefaults__ is None
        and function.__module__ == "__main__"
        and not function.__dict__
        and not function.__annotations__
        and not getattr(function, "__type_params__", ())
        and not _names_in(_ByIdentity(function.__code__))
    )


def _same(one: object, other: object) -> bool:
    """Identical; for whole numbers, which may be counted afresh each time, equal."""
    return one is other or (type(one) is int and type(other) is int and one == other)


# ----------------------------------------------------------------------------------------- what a pickle would contain


def contents_of(function: types.FunctionType) -> list[object] | None:
    """Everything that the pickle of a function depends on, in a fixed order; None if a part of it can change unseen.

    >>> contents_of(lambda: alice) is None, contents_of(lambda: contents_of.bob) is None
    (False, False)
    >>> bob = []
    >>> contents_of(lambda bob=bob: bob) is None
    True
    """
    parts: list[object] = []
    return parts if _add_function(function, parts, set()) else None


def _add_function(function: types.FunctionType, parts: list[object], seen: set[int]) -> bool:
    """Add what `function` consists of. By reference it is its name; by value all that cloudpickle would take along."""
    if _is_importable(function):
        parts += (function.__code__, function.__module__, function.__qualname__)
        return True
    if id(function) in seen:
        return True
    seen.add(id(function))
    code = function.__code__
    parts += (code, function.__module__, function.__name__, function.__qualname__, function.__doc__)
    for fields in (function.__kwdefaults__, function.__annotations__, vars(function)):
        if fields and not _add_fields(fields, parts, seen):
            return False
    if getattr(function, "__type_params__", ()):
        return False
    if not _add(function.__defaults__, parts, seen):
        return False
    for cell in function.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:
            value = _ABSENT
        if not _add(value, parts, seen):
            return False
    names = function.__globals__
    return all(_add(names.get(name, _ABSENT), parts, seen) for name in _names_in(_ByIdentity(code)))


class _ByIdentity:
    """A code object as the key of a cache: compared by identity, since comparing its contents is slow."""

    __slots__ = ("code",)

    def __init__(self, code: types.CodeType) -> None:
        self.code = code

    def __hash__(self) -> int:
        return id(self.code)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and self.code is other.code


@functools.lru_cache(maxsize=1024)
def _names_in(code: _ByIdentity) -> tuple[str, ...]:
    return tuple(sorted(names_in(code.code)))


def _add_fields(fields: dict[str, object], parts: list[object], seen: set[int]) -> bool:
    return all(_add(name, parts, seen) and _add(value, parts, seen) for name, value in fields.items())


def _add(value: object, parts: list[object], seen: set[int]) -> bool:
    """Add one object that a function refers to; false if it, or a part of it, could change without being replaced."""
    kind = type(value)
    if kind in _ATOMS or value is _ABSENT:
        parts.append(value)
        return True
    if getattr(kind, "travels_as_handle", False):
        return False
    if kind is types.FunctionType:
        return _add_function(value, parts, seen)  # type: ignore[arg-type]
    if kind is tuple or kind is frozenset:
        parts.append(value)
        return all(_add(item, parts, seen) for item in value)  # type: ignore[attr-defined]
    parts.append(value)
    if kind is types.ModuleType:
        if hasattr(value, "__path__"):
            parts.append(len(sys.modules))  # a package: its submodules that are imported meanwhile travel along
        return sys.modules.get(value.__name__) is value  # type: ignore[attr-defined]
    if isinstance(value, type):
        return _is_importable(value)
    return kind is types.BuiltinFunctionType and isinstance(value.__self__, (types.ModuleType, type(None)))  # type: ignore[attr-defined]


def _is_importable(value: Any) -> bool:
    """Whether another process finds this function or class by its name."""
    module = sys.modules.get(value.__module__)
    if module is None or value.__module__ in ("__main__", "__mp_main__"):
        return False
    if value.__module__ in cloud._PICKLE_BY_VALUE_MODULES:
        return False
    found: Any = module
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is value
