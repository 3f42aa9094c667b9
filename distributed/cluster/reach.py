"""Which address of one machine do the others reach? Found out by trying, before anything is started there.

A machine of a cluster often has several addresses, and which of them lead to it from elsewhere is known to its
administrator alone. So it lights a `Beacon` at each of them, and the others say where they saw it (`seen`). Nothing is
told to whoever connects but a random number, by which the beacon is told from anything else that listens.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence

from distributed import address as addresses

_GET_INTERFACE_ADDRESS = 0x8915  # SIOCGIFADDR
_INTERFACE = struct.Struct("256s")
TOKEN_BYTES = 16
SEEN_GRACE_S = 0.5  # after one address was reached, the others get so much time still
BACKLOG = 1024


def this_machine() -> str:
    """The same for all processes that reach one another by loopback, and for no others."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return f"{boot} {os.stat('/proc/thread-self/ns/net').st_ino}"
    except OSError:
        return socket.gethostname()


def own_addresses() -> list[str]:
    """The addresses of this machine that may lead to it from elsewhere."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(sock, _GET_INTERFACE_ADDRESS, _INTERFACE.pack(name.encode()))
            except OSError:  # it has none
                continue
            found.append(socket.inet_ntoa(answer[20:24]))
    return [host for host in found if not addresses.is_loopback(host)] + _own_addresses_of_version_6()


def _own_addresses_of_version_6() -> list[str]:
    found = []
    try:
        with open("/proc/net/if_inet6") as file:
            for line in file:
                digits, _, _, scope, *_ = line.split()
                if int(scope, 16) == 0:  # neither loopback nor of one link only
                    found.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)))
    except OSError:  # it is switched off
        pass
    return found


class Beacon:
    """Listens at all these hosts, for a while, and tells whoever connects the number that stands for this beacon."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self.token = secrets.token_bytes(TOKEN_BYTES)
        self.addresses: list[str] = []
        self._is_over = False
        self._selector = selectors.DefaultSelector()
        for host in hosts:
            self._listen(host)
        self._thread = threading.Thread(target=self._answer, name="distributed beacon", daemon=True)
        self._thread.start()

    def _listen(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listener = socket.create_server((host, 0), family=family, backlog=BACKLOG)
        except OSError:  # a name that is not ours, or an interface that is down
            return
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self.addresses.append(addresses.unparse(host, listener.getsockname()[1]))

    def _answer(self) -> None:
        while not self._is_over:
            for key, _ in self._selector.select(timeout=0.1):
                try:
                    sock, _ = key.fileobj.accept()  # type: ignore[union-attr]
                    with sock:
                        sock.send(self.token)
                except OSError:  # it went away again
                    continue

    def close(self) -> None:
        self._is_over = True
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def __enter__(self) -> Beacon:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def seen(where: Sequence[str], token: bytes, timeout_s: float) -> list[str]:
    """At which of these addresses the beacon is seen from here, in their order; all are tried at the same time."""
    found: set[str] = set()
    done = threading.Semaphore(0)

    def look(address: str) -> None:
        try:
            with socket.create_connection(addresses.parse(address), timeout_s) as sock:
                sock.settimeout(timeout_s)
                if sock.recv(TOKEN_BYTES, socket.MSG_WAITALL) == token:
                    found.add(address)
        except OSError:
            pass
        done.release()

    for address in where:
        threading.Thread(target=look, args=(address,), name="distributed look", daemon=True).start()
    deadline = time.monotonic() + timeout_s
    for _ in where:
        if found:
            deadline = min(deadline, time.monotonic() + SEEN_GRACE_S)
        if not done.acquire(timeout=max(0.0, deadline - time.monotonic())):
            break
    return [address for address in where if address in found]
