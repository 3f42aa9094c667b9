"""What the arguments of public calls must be. Each check says in one sentence which one is wrong, and what is right.

A wrong type is a TypeError, a wrong value a ValueError; both are raised where the call is written, before anything has
happened. What a check returns is what the rest of the package works with: a float, an int, a text.
"""

from __future__ import annotations

import functools
import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from distributed.config import SETTINGS
from distributed.named import NamedFunction

SECONDS_MAX = 1e9  # thirty years; clocks and locks of the system take no more
SHOWN_CHARACTERS_MAX = 60
COMPARED_CHARACTERS_MAX = 100  # of a name that may be a mistyped one


def shown(value: object) -> str:
    """A value in an error message: short, on one line, whatever its ``__repr__`` does.

    >>> shown('alice' * 20)
    "'alicealicealicealicealicealicealicealicealicealicealicea..."
    """
    try:
        text = " ".join(repr(value).split("\n"))
    except Exception:  # noqa: BLE001  a user's __repr__, or a number of too many digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[: SHOWN_CHARACTERS_MAX - 3]}..."


P = ParamSpec("P")
R = TypeVar("R")


def nearest_names(instead: Mapping[str, str] | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: what is no argument is a TypeError with the one that was meant, or what to do `instead`.

    >>> @nearest_names({'processes': 'write Pool(4)'})
    ... def Pool(address, *, serializer='auto'): pass
    >>> Pool(1, serialiser='dill')
    Traceback (most recent call last):
    TypeError: Pool() has no argument 'serialiser'; did you mean 'serializer'?
    >>> Pool(processes=4)
    Traceback (most recent call last):
    TypeError: Pool() has no argument 'processes': write Pool(4)
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        code = function.__code__  # type: ignore[attr-defined]
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        owner, _, own = function.__qualname__.rpartition(".")
        called = owner if own == "__init__" else own

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                if name not in names or name == "self":
                    raise TypeError(no_such(called, name, [known for known in names if known != "self"], instead or {}))
            return function(*args, **kwargs)

        return checked

    return decorate


def no_such(called: str, name: str, known: Iterable[str], instead: Mapping[str, str]) -> str:
    """The sentence about an argument that does not exist."""
    said = f"{called}() has no argument {shown(name)}"
    if name in instead:
        return f"{said}: {instead[name]}"
    return said + (nearest(name, known) or f"; there are {', '.join(known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that does not exist; empty if none is like it.

    >>> nearest('tabel', ['table', 'x']), nearest('y', ['table', 'x'])
    ("; did you mean 'table'?", '')
    """
    import difflib  # here: it is for those who mistype

    found = difflib.get_close_matches(name[:COMPARED_CHARACTERS_MAX], list(known), 1, 0.5)
    return f"; did you mean {shown(found[0])}?" if found else ""


# ------------------------------------------------------------------------------------------------------------- numbers


def number(name: str, value: Any) -> float:
    """A finite number.

    >>> number('priority', float('nan'))
    Traceback (most recent call last):
    ValueError: priority=nan must be a finite number
    """
    return _finite(name, value, "a finite number")


def positive(name: str, value: Any) -> float:
    """Seconds, more than none."""
    right = f"a number of seconds, above 0 and at most {SECONDS_MAX:g}"
    seconds = _finite(name, value, right)
    if not 0 < seconds <= SECONDS_MAX:
        raise ValueError(f"{name}={shown(value)} must be {right}")
    return seconds


def seconds(name: str, value: Any) -> float:
    """Seconds; none is allowed."""
    return _seconds(name, value, f"a number of seconds from 0 to {SECONDS_MAX:g}")


def timeout(name: str, value: Any) -> float | None:
    """Seconds to wait at most; None: as long as it takes.

    >>> timeout('timeout', 2), timeout('timeout', None)
    (2.0, None)
    >>> timeout('timeout', -1)
    Traceback (most recent call last):
    ValueError: timeout=-1 must be a number of seconds from 0 to 1e+09, or None for no limit
    """
    if value is None:
        return None
    return _seconds(name, value, f"a number of seconds from 0 to {SECONDS_MAX:g}, or None for no limit")


def _seconds(name: str, value: Any, right: str) -> float:
    converted = _finite(name, value, right)
    if not 0 <= converted <= SECONDS_MAX:
        raise ValueError(f"{name}={shown(value)} must be {right}")
    return converted


def _finite(name: str, value: Any, right: str) -> float:
    if isinstance(value, (bool, str, bytes)) or not hasattr(type(value), "__float__"):
        raise TypeError(f"{name}={shown(value)} must be {right}")
    try:
        converted = float(value)
    except (TypeError, ValueError, OverflowError):  # an array of several numbers, an int of a thousand digits
        converted = math.nan
    if not abs(converted) <= 1e300:
        raise ValueError(f"{name}={shown(value)} must be {right}")
    return converted


def count(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number.

    >>> count('retries', 3, 0)
    3
    >>> count('attempts', 2.5, 1)
    Traceback (most recent call last):
    TypeError: attempts=2.5 must be a whole number, 1 or more
    """
    right = f"a whole number, {least} or more" if most is None else f"a whole number from {least} to {most}"
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise TypeError(f"{name}={shown(value)} must be {right}")
    try:
        whole = operator.index(value)
    except TypeError:  # an array
        raise TypeError(f"{name}={shown(value)} must be {right}") from None
    if whole < least or (most is not None and whole > most):
        raise ValueError(f"{name}={shown(value)} must be {right}")
    return whole


def port(name: str, value: Any) -> int:
    """The port of a socket; 0 picks a free one."""
    return count(name, value, 0, 65535)


def truth(name: str, value: Any) -> bool:
    """True or False, and nothing that merely counts as one: ``recompute='no'`` would."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}={shown(value)} must be True or False")
    return value


# --------------------------------------------------------------------------------------------------------------- texts


def text(name: str, value: Any) -> str:
    """A text that can be sent: the name of something.

    >>> text('key', '')
    Traceback (most recent call last):
    ValueError: key='' must be a text of 1 to 4096 characters
    """
    right = f"a text of 1 to {SETTINGS.name_characters_max} characters"
    if not isinstance(value, str):
        raise TypeError(f"{name}={shown(value)} must be {right}")
    if not 1 <= len(value) <= SETTINGS.name_characters_max:
        raise ValueError(f"{name}={shown(value)} must be {right}")
    if not value.isprintable() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name}={shown(value)} has characters that cannot be sent: a file name? use os.fsencode")
    return value


def path(name: str, value: Any) -> str:
    """The path of a file or directory, as text."""
    right = "the path of a file or directory, as a text or a Path"
    if not isinstance(value, (str, os.PathLike)) or not isinstance(converted := os.fspath(value), str):
        raise TypeError(f"{name}={shown(value)} must be {right}")
    if not converted or "\0" in converted:
        raise ValueError(f"{name}={shown(value)} must be {right}")
    return converted


# ---------------------------------------------------------------------------------------------------------- of several


def function(value: Any) -> Callable[..., Any]:
    """Something to call, or the name of something that executors can import."""
    if isinstance(value, str):
        return NamedFunction(value)
    if not callable(value):
        raise TypeError(
            f"function={shown(value)} is not callable: it must be a function, what is called like one, or the name of "
            "one: 'package.module:function'"
        )
    return value  # type: ignore[no-any-return]


def iterable(name: str, value: Any, right: str = "a list, or anything else to iterate over") -> Any:
    """Something to iterate over."""
    if not isinstance(value, Iterable) and not hasattr(type(value), "__getitem__"):
        raise TypeError(f"{name}={shown(value)} is not iterable: it must be {right}")
    return value


def keywords(name: str, value: Any) -> Mapping[str, Any]:
    """The keyword arguments of a call; None: there are none."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name}={shown(value)} must be a dict with the names of arguments")
    return value


def worker_names(name: str, value: Any) -> frozenset[str]:
    """The address or name of a worker, or several."""
    if not isinstance(value, (str, Iterable)):
        raise TypeError(f"{name}={shown(value)} must be an address or name of a worker, or a list of them")
    names = [value] if isinstance(value, str) else list(value)
    if not names:
        raise ValueError(f"{name}={shown(value)} must be an address or name of a worker, or a list of at least one")
    return frozenset(text(f"each of {name}", item) for item in names)
