"""The search for the part of an object that cannot be pickled, so that an error can name the way to it.

Each step pickles halves of the object's parts until one part remains that refuses by itself, and goes on inside that.
Nothing here is on the way of anything that works.
"""

from __future__ import annotations

import copyreg
import functools
import types
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

from distributed.errors import CannotPickle
from distributed.wire.pickles import CONTEXT, ByValuePickler

DEPTH_MAX: Final = 100
Part = tuple[str, object]  # the path to it, and it


def explain(what: str, roots: Sequence[Part], error: Exception) -> CannotPickle:
    """The error to raise when pickling `what`, which consists of `roots`, failed with `error`."""
    part = _refusing(roots)
    if part is not None and _is_too_deep(_refusal(part[1])):
        return CannotPickle(
            what, part[0], f"is a {type(part[1]).__name__} nested too deeply for pickle: make it flatter"
        )
    if part is None:
        return CannotPickle(what, named(what), f"cannot be pickled as a whole ({_words(error)})")
    seen: set[int] = set()
    while len(seen) < DEPTH_MAX and _is_inside(part[1]):
        seen.add(id(part[1]))
        inner = _refusing([child for child in _children(*part) if id(child[1]) not in seen and _is_inside(child[1])])
        if inner is None:
            break
        part = inner
    path, value = part
    cls = type(getattr(value, "stands_for", value))
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    article = "an" if name[0] in "aeiouAEIOU" else "a"
    return CannotPickle(what, path, f"is {article} {name}{_besides(_words(_refusal(value) or error), cls)}")


def named(what: str) -> str:
    """The beginning of a path into what shall be pickled.

    >>> named('the result of module.f')
    'result'
    """
    return what.removeprefix("the ").partition(" of ")[0]


def _is_inside(part: object) -> bool:
    """Whether something is pickled as a part of what refers to it; plain pickle only names classes and functions."""
    return CONTEXT.how is None or CONTEXT.how.name != "pickle" or not isinstance(part, (type, types.FunctionType))


def _is_too_deep(error: Exception | None) -> bool:
    """Cloudpickle turns a RecursionError into one of its own."""
    return isinstance(error, RecursionError) or isinstance(error and error.__cause__, RecursionError)


def _besides(words: str, cls: type) -> str:
    """What an error says beyond that this class cannot be pickled, which the reader knows already.

    >>> _besides("cannot pickle 'generator' object", types.GeneratorType), _besides('it is open', types.GeneratorType)
    ('', ' (it is open)')
    """
    told = {f"cannot pickle {quote}{name}{quote} object" for quote in ("", "'") for name in _names_of(cls)}
    return "" if words in told else f" ({words})"


def _names_of(cls: type) -> set[str]:
    return {cls.__name__, cls.__qualname__, f"{cls.__module__}.{cls.__qualname__}"}


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, data: Any) -> int:
        return len(data)


def _refusal(value: object) -> Exception | None:
    """Why `value` cannot be pickled; None if it can."""
    outer, CONTEXT.collected = CONTEXT.collected, {}
    try:
        if CONTEXT.how is not None and CONTEXT.how.dump is not None:
            CONTEXT.how.dump(value, lambda buffer: False)
        else:
            ByValuePickler(_Nowhere(), lambda buffer: False).dump(value)
    except Exception as error:  # noqa: BLE001 - foreign code
        return error
    finally:
        CONTEXT.collected = outer
    return None


def _refusing(parts: Sequence[Part]) -> Part | None:
    """One part that cannot be pickled, found by halving; None if all can."""
    if not parts or not _refusal([value for _, value in parts]):
        return None
    while len(parts) > 1:
        half = parts[: len(parts) // 2]
        parts = half if _refusal([value for _, value in half]) else parts[len(parts) // 2 :]
    return parts[0] if _refusal(parts[0][1]) else None


def _children(path: str, value: Any) -> list[Part]:
    """The parts that pickling `value` would visit, as far as they can be named."""
    if isinstance(value, type):
        return [(f"{path}.{name}", member) for name, member in vars(value).items() if name not in _NOT_PICKLED]
    if isinstance(value, types.FunctionType):
        return list(_function_children(value))
    if isinstance(value, types.MethodType):
        return [(f"{path}.__self__", value.__self__), (f"{path}.__func__", value.__func__)]
    if isinstance(value, (staticmethod, classmethod)):
        return [(path, value.__func__)]
    if isinstance(value, property):
        return [(path, part) for part in (value.fget, value.fset, value.fdel) if part is not None]
    if isinstance(value, functools.partial):
        parts: list[Part] = [(f"{path}.func", value.func)]
        parts += [(f"{path}.args[{position}]", item) for position, item in enumerate(value.args)]
        return parts + [(f"{path}.keywords[{name!r}]", item) for name, item in value.keywords.items()]
    return [*_items(path, value), *_attributes(path, value)]


_NOT_PICKLED: Final = frozenset({"__dict__", "__weakref__", "__abstractmethods__", "_abc_impl"})


def _function_children(function: types.FunctionType) -> Iterator[Part]:
    name, code = function.__qualname__, function.__code__
    for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f"closure variable {variable!r} of {name}", cell.cell_contents
        except ValueError:  # still empty
            continue
    defaults = function.__defaults__ or ()
    for variable, value in zip(code.co_varnames[code.co_argcount - len(defaults) :], defaults, strict=False):
        yield f"default of {variable!r} of {name}", value
    for variable, value in (function.__kwdefaults__ or {}).items():
        yield f"default of {variable!r} of {name}", value
    for variable in sorted(names_in(code)):
        if variable in function.__globals__:
            yield f"global variable {variable!r} of {name}", function.__globals__[variable]
    for attribute, value in vars(function).items():
        yield f"{name}.{attribute}", value


def names_in(code: types.CodeType) -> set[str]:
    """Every name that a code object, or one nested in it, may look up outside of itself.

    >>> sorted(names_in(compile('f = lambda: alice + bob', '', 'exec')))
    ['alice', 'bob', 'f']
    """
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= names_in(constant)
    return names


def _items(path: str, value: Any) -> Iterator[Part]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}[{_short(key)}]", item
        for key in value:
            yield f"the key {_short(key)} of {path}", key
    elif isinstance(value, (list, tuple, deque)):
        yield from ((f"{path}[{position}]", item) for position, item in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((f"the item {_short(item)} of {path}", item) for item in value)
    elif isinstance(value, BaseException):
        yield from ((f"{path}.args[{position}]", item) for position, item in enumerate(value.args))


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - foreign code
        return f"<{type(value).__name__}>"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _attributes(path: str, value: Any) -> Iterator[Part]:
    """Attributes that are pickled; where the class has its own idea of them, what its ``__reduce_ex__`` gives."""
    try:
        reduced = value.__reduce_ex__(5)
    except Exception:  # noqa: BLE001 - foreign code
        if any("__reduce__" in vars(cls) or "__reduce_ex__" in vars(cls) for cls in type(value).__mro__[:-1]):
            return  # it refuses by itself, and says why
        reduced = None  # the attributes are the best guess
    state = reduced[2] if isinstance(reduced, tuple) and len(reduced) > 2 else getattr(value, "__dict__", None)
    for fields in state if isinstance(state, tuple) and len(state) == 2 else (state,):
        if isinstance(fields, dict):
            yield from ((f"{path}.{name}", item) for name, item in fields.items())
        elif fields is not None:
            yield f"the state of {path}", fields
    if isinstance(value, BaseException):
        names = copyreg._slotnames(type(value))  # type: ignore[attr-defined]
        yield from ((f"{path}.{name}", getattr(value, name)) for name in names if hasattr(value, name))
    elif isinstance(reduced, tuple) and not isinstance(value, (list, tuple, dict, set, frozenset, deque)):
        arguments = reduced[1] if isinstance(reduced[1], tuple) else ()
        yield from (
            (f"{path} (argument {position} of its __reduce__)", item) for position, item in enumerate(arguments)
        )
    yield f"the class {type(value).__qualname__}", type(value)
