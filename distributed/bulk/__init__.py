"""Values between machines, and to and from clients: blocking sockets in threads, never on an event loop.

The server answers `GetData`, `NeedRoom` and `UpdateData` out of a store; the client asks. Neither looks into a value.
A value that has a file is sent by the kernel from that file, and a large one that arrives is received straight into its
place: room in a file, or memory that the reader provides. So a value of a gigabyte passes through without a gigabyte of
anybody's memory.
"""

from distributed.bulk.client import BulkClient, Fetched
from distributed.bulk.server import BulkServer, StoreView

__all__ = ["BulkClient", "BulkServer", "Fetched", "StoreView"]
