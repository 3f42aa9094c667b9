"""Functions named by a text, which executors import: ``'math.sqrt'``, ``'package.module:Class.method'``.

The program that submits such a task need not be able to import the function itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_PART = r"[^\W\d]\w*"
_DOTTED = rf"{_PART}(\.{_PART})*"
_NAME = re.compile(rf"{_DOTTED}:{_DOTTED}|{_PART}\.{_DOTTED}")


class NamedFunction:
    """Stands for a function until it is unpickled: then it is that function.

    >>> NamedFunction('math.sqrt')(9)
    3.0
    >>> NamedFunction('sqrt')
    Traceback (most recent call last):
    ValueError: function='sqrt' must name a module, too: 'package.module:function' or 'math.sqrt'
    """

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            shown = name if len(name) <= 60 and name.isprintable() else f"{ascii(name[:60])[1:-1]}..."
            raise ValueError(f"function='{shown}' must name a module, too: 'package.module:function' or 'math.sqrt'")
        self._name = name
        self.__module__, _, self.__qualname__ = name.replace(":", ".").rpartition(".")

    def __reduce__(self) -> Any:
        return import_function, (self._name,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return import_function(self._name)(*args, **kwargs)


def import_function(name: str) -> Callable[..., Any]:
    """The function of this name. A coroutine function is run to its end by each call."""
    import inspect  # here and below: the others start without
    import pkgutil

    try:
        function = pkgutil.resolve_name(name)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ImportError(f"function='{name}' cannot be imported on the worker: {reason}") from error
    if not callable(function):
        raise ImportError(f"function='{name}' is a {type(function).__name__} on the worker, and not callable")
    return _to_its_end(function) if inspect.iscoroutinefunction(function) else function  # type: ignore[no-any-return]


def _to_its_end(function: Callable[..., Any]) -> Callable[..., Any]:
    """Whoever submitted it could not know that it is a coroutine function."""

    import asyncio
    import functools

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(function(*args, **kwargs))

    return run
