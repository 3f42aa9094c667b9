"""Keys: the names of values. Pure text; what a key stands for, and where that is, others know."""

from __future__ import annotations


def owner_of(key: str) -> str:
    """The client that owns a key; keys put by hand have no owner.

    >>> owner_of('a11ce0000000/7'), owner_of('x')
    ('a11ce0000000', '')
    """
    owner, slash, _ = key.partition("/")
    return owner if slash else ""


def account_of(client: str) -> str:
    """Whose work a client's is: that of its program, which may have several pools.

    >>> account_of('a11ce0000000-2'), account_of('a11ce0000000')
    ('a11ce0000000', 'a11ce0000000')
    """
    return client.partition("-")[0]
