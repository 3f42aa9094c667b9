"""`Deferred`: what a deferred call returns; it behaves as the value, and waits for it when it is first used.

Built on wrapt (``pip install wrapt``), whose proxies pass on what Python looks up on types. Here is only
what a value that is elsewhere needs beyond that: it travels as a handle, shows itself without waiting, and an error
tells where the call stands in the user's program.
"""

from __future__ import annotations

import functools
import operator
import reprlib
import sys
import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

try:
    import wrapt

    BaseObjectProxy = wrapt.BaseObjectProxy
except (ImportError, AttributeError):
    raise ImportError("deferred calls need wrapt, version 2 or newer: pip install wrapt") from None

from distributed.wire.pickles import CONTEXT, reduce_handle

if TYPE_CHECKING:
    from distributed.pool.pool import Pool
    from distributed.pool.remote import RemoteData

ARGUMENT_CHARACTERS_MAX = 40


class Deferred(BaseObjectProxy):
    """The value of a deferred call, or what will be it. Any use waits for it; `repr` does not.

    What a program does to the value it does to its own copy: as an argument of a task this stands for the value as it
    was computed.
    """

    travels_as_handle = True

    def __init__(self, handle: RemoteData, call: str, where: str) -> None:
        self._self_handle, self._self_call, self._self_where = handle, call, where
        self._self_lock = threading.RLock()
        self._self_is_here = False
        super().__init__(None)  # wrapt asks `__wrapped_get__` for it, because there is a factory

    def __wrapped_factory__(self) -> Any:
        """Its presence tells wrapt that the value comes later."""
        return self.__wrapped_get__()

    def __wrapped_get__(self) -> Any:
        with self._self_lock:  # one object, whichever thread is first
            if not self._self_is_here:
                try:
                    value = self._self_handle.get()
                except BaseException as error:
                    if self._self_where not in getattr(error, "__notes__", ()):
                        error.add_note(self._self_where)
                    raise
                self.__wrapped__ = value
                self._self_is_here = True
            return self.__wrapped__

    # --------------------------------------------------------------------------------- what needs no value, or more

    def __repr__(self) -> str:
        if self._self_is_here:
            return repr(self.__wrapped__)
        return f"<Deferred {self._self_call}: {self._self_handle.status}>"

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The value's; but picklers, which ask every object whether it is a module or a function, must not wait."""
        return Deferred if CONTEXT.collected is not None else type(self.__wrapped__)

    def __reduce__(self) -> Any:
        return reduce_handle(self._self_handle)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return reduce_handle(self._self_handle)

    def __copy__(self) -> Any:
        import copy

        return copy.copy(self.__wrapped__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        import copy

        return copy.deepcopy(self.__wrapped__, memo)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    def __iter__(self) -> Any:
        return iter(self.__wrapped__)

    def __next__(self) -> Any:
        return next(self.__wrapped__)

    def __index__(self) -> int:
        return operator.index(self.__wrapped__)

    def __fspath__(self) -> Any:
        return self.__wrapped__.__fspath__()

    def __aiter__(self) -> Any:
        return aiter(self.__wrapped__)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        """numpy looks at types, and would make an array of objects out of a number that it does not know."""
        import numpy as np  # whoever asks is numpy

        return np.asarray(self.__wrapped__, *args, **kwargs)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        outputs = tuple(map(_plain, kwargs.pop("out", ())))
        kwargs = {name: _plain(value) for name, value in kwargs.items()} | ({"out": outputs} if outputs else {})
        return getattr(ufunc, method)(*map(_plain, inputs), **kwargs)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._self_handle.__await__()


def _plain(value: Any) -> Any:
    return value.__wrapped__ if type(value) is Deferred else value


def _in_place(change: Callable[[Any, Any], Any]) -> Callable[[Deferred, Any], Any]:
    """``x += 1`` gives the new value, and leaves the deferred one as it was computed."""
    return lambda self, other: change(self.__wrapped__, other)


for _name in (
    "add",
    "sub",
    "mul",
    "matmul",
    "floordiv",
    "truediv",
    "mod",
    "pow",
    "lshift",
    "rshift",
    "and",
    "xor",
    "or",
):
    setattr(Deferred, f"__i{_name}__", _in_place(getattr(operator, f"__i{_name}__")))


def defer(pool: Pool, function: Callable[..., Any]) -> Callable[..., Deferred]:
    """The function whose calls return a `Deferred`."""

    @functools.wraps(function)
    def call_later(*args: Any, **kwargs: Any) -> Deferred:
        handle = pool.submit(function, *args, **kwargs)
        frame = sys._getframe(1)
        where = f'deferred in File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}'
        return Deferred(handle, _describe(function, args, kwargs), where)

    return call_later


def _describe(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    shown = [_shown(value) for value in args] + [f"{key}={_shown(value)}" for key, value in kwargs.items()]
    return f"{name}({', '.join(shown)})"


def _shown(value: Any) -> str:
    if type(value) is Deferred:
        return value._self_call
    try:
        text = reprlib.repr(value)
    except Exception:  # noqa: BLE001 - the user's code, and only to show something
        return f"<{type(value).__name__}>"
    return text if len(text) <= ARGUMENT_CHARACTERS_MAX else f"<{type(value).__name__}>"
