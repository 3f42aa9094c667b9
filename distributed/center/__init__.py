"""The center: who is in the cluster, and which worker holds which key.

`state` decides (pure: events in, instructions out), with `borrowing` for keys that other clients wait for; `server`
carries the instructions out over sockets. The center is on nobody's hot path, holds no values, runs no user code and
unpickles nothing. All it knows, somebody else knew first: after a restart everyone registers again and work goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed.center.server import Center as Center

__all__ = ["Center"]


def __getattr__(name: str) -> Any:
    if name == "Center":  # lazy: whoever needs only the state does not pay for asyncio
        from distributed.center.server import Center

        return Center
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
