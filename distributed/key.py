"""Keys: the names of values. Pure text; what a key stands for, and where that is, others know."""

from __future__ import annotations


def owner_of(key: str) -> str:
    """The client that owns a key; keys put by hand have no owner.

    >>> owner_of('a11ce0000000/7'), owner_of('x')
    ('a11ce0000000', '')
    """
    owner, slash, _ = key.partition("/")
    return owner if slash else ""
