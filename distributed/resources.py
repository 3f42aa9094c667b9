"""Resources: what a worker has a number of, beside cores, and tasks ask for by name: ``gpu``, ``license``.

A name stands for nothing but itself: nobody looks for devices. Amounts are whole numbers, so that what is taken and
given back a million times still adds up; where tasks share one device it is declared as several.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from distributed import arguments
from distributed.config import SETTINGS

Demand = tuple[tuple[str, int], ...]
"""What a task asks for: names and amounts, sorted."""

AMOUNT_MAX = 1_000_000_000
_NAME = re.compile(r"[^\W\d][\w.-]{0,99}")
_RIGHT = "a dict with whole numbers from 1 on, such as {'gpu': 1}"


def amounts(name: str, value: Any) -> dict[str, int]:
    """An argument that says how much of what.

    >>> amounts('resources', {'license': 2, 'gpu': 1})
    {'gpu': 1, 'license': 2}
    >>> amounts('resources', {'gpu': 0.5})
    Traceback (most recent call last):
    TypeError: resources['gpu']=0.5 must be a whole number from 1 to 1000000000; to share one, declare several of it
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}={arguments.shown(value)} must be {_RIGHT}")
    if len(value) > SETTINGS.resources_max:
        raise ValueError(f"{name} has {len(value)} names, more than {SETTINGS.resources_max} (resources_max)")
    return {key: _amount(name, key, value[key]) for key in sorted(value, key=str)}


def is_name(name: str) -> bool:
    """Whether a resource may be called so.

    >>> is_name('gpu'), is_name('gpu 1'), is_name('')
    (True, False, False)
    """
    return _NAME.fullmatch(name) is not None


def _amount(name: str, key: Any, amount: Any) -> int:
    if not isinstance(key, str):
        raise TypeError(f"{name}={{{arguments.shown(key)}: ...}} must be {_RIGHT}")
    if not is_name(key):
        right = "a letter, then letters, digits, dots, dashes and underscores, 100 at most"
        raise ValueError(f"{name}: {arguments.shown(key)} is no name of a resource: it must be {right}")
    try:
        return arguments.count(f"{name}[{key!r}]", amount, 1, AMOUNT_MAX)
    except TypeError as error:
        more = "; to share one, declare several of it" if isinstance(amount, float) else ""
        raise TypeError(f"{error}{more}") from None


def parse(text: str) -> dict[str, int]:
    """The same as an option of a command.

    >>> parse('gpu=2,license=1')
    {'gpu': 2, 'license': 1}
    >>> parse('gpu')
    Traceback (most recent call last):
    ValueError: 'gpu' must be NAME=NUMBER, or several with commas between them: gpu=2,license=1
    """
    found: dict[str, int] = {}
    for item in text.split(","):
        name, sign, amount = (part.strip() for part in item.partition("="))
        if not sign or not amount.isdecimal() or name in found:
            right = "NAME=NUMBER, or several with commas between them: gpu=2,license=1"
            raise ValueError(f"{arguments.shown(text)} must be {right}")
        found[name] = int(amount[:20])
    return amounts("resources", found)


def written(resources: Mapping[str, int]) -> str:
    """As that option.

    >>> written({'gpu': 2, 'license': 1})
    'gpu=2,license=1'
    """
    return ",".join(f"{name}={amount}" for name, amount in resources.items())


def told(resources: Iterable[tuple[str, int]]) -> str:
    """For people.

    >>> told([('gpu', 2), ('license', 1)])
    'gpu 2, license 1'
    """
    return ", ".join(f"{name} {amount}" for name, amount in resources)


def used_of(used: Mapping[str, int], all_of_it: Mapping[str, int]) -> str:
    """For people: how much is in use of what there is.

    >>> used_of({'gpu': 1}, {'gpu': 2, 'license': 1})
    'gpu 1/2, license 0/1'
    """
    return ", ".join(f"{name} {used.get(name, 0)}/{amount}" for name, amount in all_of_it.items())


def fit(demand: Demand, used: Mapping[str, int], all_of_it: Mapping[str, int]) -> int:
    """How often a demand fits beside what is in use.

    >>> fit((('gpu', 1), ('license', 2)), {'gpu': 1}, {'gpu': 4, 'license': 5})
    2
    >>> fit((('tpu', 1),), {}, {'gpu': 4})
    0
    """
    return max(0, min((all_of_it.get(name, 0) - used.get(name, 0)) // amount for name, amount in demand))
