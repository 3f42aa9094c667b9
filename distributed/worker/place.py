"""Where a worker listens, and under which address others know it: what was asked for, and what follows from it."""

from __future__ import annotations

import dataclasses

from distributed import address as addresses
from distributed import machine
from distributed.errors import BadAddress

LOOPBACK = "127.0.0.1"


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a worker is, as told; `settled` fills in what was not.

    >>> Place(None, 0, None, False, False).settled('127.0.0.1:8787', is_encrypted=False).host
    '127.0.0.1'
    >>> Place('127.0.0.1', 0, 'maxi', True, False).announced('127.0.0.1:40123', 'alice:8787')
    'maxi:40123'
    """

    host: str | None
    port: int
    announce: str | None
    via_center: bool
    insecure_plaintext: bool

    def check(self, is_encrypted: bool) -> None:
        """Beyond loopback a worker listens only where that is safe, or somebody said that it may be read."""
        if self.host is None:
            return
        if self.via_center and not addresses.is_loopback(self.host):
            raise BadAddress(
                f"nobody connects to a worker with via_center, so it need not listen on {self.host}: "
                "leave out --host, or --via-center"
            )
        addresses.require_loopback(self.host, self.insecure_plaintext, is_encrypted)

    def settled(self, center: str, is_encrypted: bool) -> Place:
        """The same with a host to listen on, whatever was told."""
        self.check(is_encrypted)
        there, tunnel = addresses.split_tunnel(center)
        is_near = not tunnel and addresses.is_loopback(addresses.parse(there)[0])
        if self.host is not None:
            nobody_connects = addresses.is_loopback(self.host) and not is_near and self.announce is None
            return dataclasses.replace(self, via_center=self.via_center or nobody_connects)
        if is_near or self.via_center:
            return dataclasses.replace(self, host=LOOPBACK)
        if tunnel or not (is_encrypted or self.insecure_plaintext):
            return dataclasses.replace(self, host=LOOPBACK, via_center=True)
        return dataclasses.replace(self, host=machine.address_towards(center))

    def announced(self, listening: str, center: str) -> str:
        """The address of the worker that listens here."""
        host, port = addresses.parse(listening)
        if self.announce is not None:
            host = self.announce
        elif self.via_center:
            host = machine.name()
        elif host in addresses.EVERYWHERE:
            host = machine.address_towards(center)
        return addresses.unparse(host, port)
