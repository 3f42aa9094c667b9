"""Data-local distributed computing: a center, workers that hold data and run functions on it, pools that schedule.

>>> from distributed import Pool
>>> with Pool(2) as pool:
...     [handle.get() for handle in pool.map(lambda x: x * 10, [1, 2, 3])]
[10, 20, 30]
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from distributed.version import __version__

if sys.platform == "win32":
    raise ImportError("distributed needs Linux (or, with less speed, macOS): Windows has no fork and no tmpfs")

if TYPE_CHECKING:
    from distributed import errors
    from distributed.center.server import Center
    from distributed.cluster.local import Cluster
    from distributed.pool.futures import Executor
    from distributed.pool.inside import current_pool
    from distributed.pool.pool import Pool
    from distributed.pool.progress import progress
    from distributed.pool.remote import Failure, RemoteData, as_completed, wait
    from distributed.rpc import rpc
    from distributed.worker.server import Worker

_HOMES = {
    "Center": "distributed.center.server",
    "Cluster": "distributed.cluster.local",
    "Executor": "distributed.pool.futures",
    "Failure": "distributed.pool.remote",
    "Pool": "distributed.pool.pool",
    "RemoteData": "distributed.pool.remote",
    "Worker": "distributed.worker.server",
    "as_completed": "distributed.pool.remote",
    "current_pool": "distributed.pool.inside",
    "errors": "distributed.errors",
    "progress": "distributed.pool.progress",
    "rpc": "distributed.rpc",
    "wait": "distributed.pool.remote",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that daemons and executors load only what they need."""
    if name not in _HOMES:
        raise AttributeError(f"module 'distributed' has no attribute {name!r}")
    home = importlib.import_module(_HOMES[name])
    value = home if name == "errors" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "Center",
    "Cluster",
    "Executor",
    "Failure",
    "Pool",
    "RemoteData",
    "Worker",
    "__version__",
    "as_completed",
    "current_pool",
    "errors",
    "progress",
    "rpc",
    "wait",
]
