"""Numbers as people read them: how many of something, and how large. Powers of 1024, everywhere the same."""

from __future__ import annotations

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(nbytes: float) -> str:
    """A number of bytes for people.

    >>> size(0), size(1536), size(5 << 30)
    ('0 B', '1.5 KiB', '5.0 GiB')
    """
    units = list(UNITS)
    while nbytes >= 1024 and len(units) > 1:
        nbytes /= 1024
        units.pop(0)
    return f"{nbytes:g} B" if units[0] == "B" else f"{nbytes:.1f} {units[0]}"


def count(number: int, what: str) -> str:
    """So many of something.

    >>> count(1, 'core'), count(2000, 'value')
    ('1 core', '2,000 values')
    """
    return f"{number:,} {what}{'s' * (number != 1)}"
