"""Making connections, which may take long, on a few threads of their own; each try ends in exactly one report."""

from __future__ import annotations

import dataclasses
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

from distributed.backlog import Backlog
from distributed.config import SETTINGS
from distributed.connect import connect_blocking, failed, meant_place
from distributed.errors import DistributedError
from distributed.relay import Roads
from distributed.wire.messages import Member

logger = logging.getLogger("distributed.pool")


@dataclasses.dataclass(slots=True)
class Dialled:
    """The end of a try: an authenticated socket, or the reason why there is none. For a center: or ever will be."""

    member: Member | None  # None: the center
    sock: socket.socket | None
    reason: str = ""
    place: str = ""  # of a center: its address as the network knows it


class Dialler:
    """Connects to workers, a bounded number at a time, and to the center, for as long as it takes."""

    def __init__(self, center: str, secret: Any, report: Callable[[Dialled], None]) -> None:
        self.center, self.secret = center, secret
        self.roads = Roads(center, "pool", secret)
        self.why_over: Callable[[], str] = lambda: ""  # why there will never be a center there again, if that is known
        self._report = report
        self._closing = threading.Event()
        self._backlog = Backlog()

    def dial(self) -> Dialled:
        """Connect to the center, blocking."""
        sock = connect_blocking(self.center, kind="control", role="pool", secret=self.secret, expects="center")
        try:
            return Dialled(None, sock, place=meant_place(sock, self.center))
        except OSError as error:  # it has been reset already
            sock.close()
            raise failed(error, self.center, SETTINGS.connect_timeout_s) from error

    def reach_worker(self, member: Member) -> None:
        """Try once."""
        self._backlog.add(lambda: self._try_worker(member))

    def find_center(self, after_s: float) -> None:
        """Try until somebody answers there."""
        self._backlog.add(lambda: self._try_center(after_s))

    def close(self) -> None:
        """No more tries; one that is under way ends by itself."""
        self._closing.set()
        self._backlog.clear()

    def _try_worker(self, member: Member) -> None:
        try:
            dialled = Dialled(member, self._connect(member))
        except (DistributedError, OSError, ValueError) as error:
            dialled = Dialled(member, None, str(error))
        self._hand_over(dialled)

    def _connect(self, member: Member) -> socket.socket:
        return self.roads.connect(
            member.address,
            kind="control",
            unix=member.unix,
            incarnation=member.incarnation,
            relayed=member.relayed,
        )

    def _try_center(self, after_s: float) -> None:
        self._closing.wait(after_s)
        while not self._closing.is_set():
            if reason := self.why_over():
                self._hand_over(Dialled(None, None, reason))
                return
            try:
                dialled = self.dial()
            except (DistributedError, OSError, ValueError):
                self._closing.wait(SETTINGS.reconnect_interval_s)
            else:
                self._hand_over(dialled)
                return

    def _hand_over(self, dialled: Dialled) -> None:
        self._report(dialled)
        if self._closing.is_set() and dialled.sock is not None:  # nobody will take it
            dialled.sock.close()
