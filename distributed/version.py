"""The version of this package, and how it differs from what a peer has installed."""

from __future__ import annotations

import sys

__version__ = "0.1.0"


def installed() -> dict[str, str]:
    """What has to be the same on both sides for functions and values to travel safely."""
    import cloudpickle  # here, because setup.py reads this file before anything is installed

    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"python": python, "distributed": __version__, "cloudpickle": cloudpickle.__version__}


def version_difference(ours: dict[str, str], theirs: dict[str, str]) -> str:
    """What differs, for people; empty if nothing does.

    >>> version_difference({'python': '3.11', 'msgpack': '1.0'}, {'python': '3.12', 'msgpack': '1.0'})
    'python 3.11 and 3.12'
    """
    common = sorted(set(ours) & set(theirs))
    return ", ".join(f"{name} {ours[name]} and {theirs[name]}" for name in common if ours[name] != theirs[name])
