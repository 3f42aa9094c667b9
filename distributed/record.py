"""`record`: a dataclass with slots that costs half as much to define; every start defines a hundred.

What is generated is compiled at every start; `__init__` has to be, because records are made on hot paths. Comparing
and printing them is for tests and people, and one function for all does it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


def _is_equal(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return all(getattr(self, name) == getattr(other, name) for name in self.__match_args__)


def _represent(self: Any) -> str:
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
    return f"{type(self).__qualname__}({shown})"


@dataclass_transform(field_specifiers=(dataclasses.field,))
def record(cls: type[T]) -> type[T]:
    """A dataclass with slots. It has no hash, as it may change.

    >>> @record
    ... class Point:
    ...     '''Somewhere.'''
    ...     x: int
    ...     y: int = 0
    >>> Point(1), Point(1) == Point(1, 0), Point(1) == Point(2)
    (Point(x=1, y=0), True, False)
    """
    made = dataclasses.dataclass(slots=True, eq=False, repr=False)(cls)
    if "__eq__" not in cls.__dict__:
        made.__eq__ = _is_equal  # type: ignore[method-assign]
        made.__hash__ = None  # type: ignore[assignment]
    if "__repr__" not in cls.__dict__:
        made.__repr__ = _represent  # type: ignore[method-assign]
    return made
