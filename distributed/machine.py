"""What the machine gives this process: cores and memory, as far as the kernel and the control group let it.

And sizes as people write them, because they write parts of that memory.
It only reads; it knows nothing of workers.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable

from distributed import address as addresses
from distributed.errors import BadAddress

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


def parse_bytes(text: str, whole: int | None = None) -> int:
    """A number of bytes, as people write it; a number up to 1 is a part of `whole` (default: the machine's memory).

    >>> parse_bytes('4GiB'), parse_bytes('500 MB'), parse_bytes('0.5', whole=1000), parse_bytes('65536')
    (4294967296, 500000000, 500, 65536)
    """
    match = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*([kmgt]?)(i?)b?", text.strip(), re.IGNORECASE)
    if not match:
        raise ValueError(f"{text!r} is not a size: write 4GiB, 500MiB, or 0.5 for half of the memory")
    number, prefix, binary = float(match[1]), match[2].lower(), match[3]
    if not prefix and number <= 1:
        size = number * (whole if whole is not None else memory_bytes())
    else:
        size = number * (1024 if binary else 1000) ** " kmgt".index(prefix or " ")
    if size < 1:
        raise ValueError(f"{text!r} is not a size: it must be more than nothing")
    return int(size)


def name() -> str:
    """This machine's name; the loopback address, which many have, where that could not stand in an address."""
    try:
        return addresses.host("name", socket.gethostname())
    except BadAddress:
        return "127.0.0.1"


def address_towards(peer: str) -> str:
    """The address of this machine that its packets to `peer` carry; nothing is sent to find out."""
    host, port = addresses.parse(peer)
    family, kind, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as sock:
        sock.connect(target)
        return str(sock.getsockname()[0])
