"""What the machine gives this process: cores and memory, as far as the kernel and the control group let it.

It only reads; it knows nothing of workers.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

from distributed import address as addresses

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes(limits: Iterable[str] = CGROUP_LIMITS) -> int:
    """The memory that this process may use: the machine's, or its control group's if that is less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in limits:
        try:
            with open(path) as file:
                found.append(int(file.read()))
        except (OSError, ValueError):  # no such file, or 'max'
            continue
    return min(found)


def address_towards(peer: str) -> str:
    """The address of this machine that its packets to `peer` carry; nothing is sent to find out."""
    host, port = addresses.parse(peer)
    family, kind, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as sock:
        sock.connect(target)
        return str(sock.getsockname()[0])
