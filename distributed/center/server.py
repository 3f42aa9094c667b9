"""The center as a daemon: it listens, hands every message to :class:`~distributed.center.state.CenterState`, and does
what that says. It decides nothing, and knows of messages only how to carry them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import os
import socket
from pathlib import Path
from typing import Any

from distributed import address as addresses
from distributed import arguments
from distributed.center import events
from distributed.center.state import CenterState
from distributed.comm import Connection
from distributed.config import SETTINGS
from distributed.connect import tune
from distributed.errors import DistributedError
from distributed.listen import Listener, within_descriptors
from distributed.relay import below_tls
from distributed.splicer import Splicer
from distributed.version import installed
from distributed.wire import codec
from distributed.wire import messages as m
from distributed.wire.security import Secret, credential_path, find_or_create_secret, secret_path

log = logging.getLogger("distributed.center")

SOCKETS_PER_SPLICE = 2


class Center:
    """The center of a cluster, on the running event loop.

    Parameters
    ----------
    host, port
        Where to listen; port 0 picks a free one.
    status_port
        Port of the status page; 0 picks a free one, None: no page.
    insecure_plaintext
        Listen on other addresses than loopback, although nothing is encrypted.
    tls
        Create the credential of TLS if there is none yet; if there is one, TLS is spoken in any case.

    Examples
    --------
    ::

        center = Center(port=0)
        await center.start()
        print(center.address)
        await center.close()
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8787,
        status_port: int | None = 0,
        insecure_plaintext: bool = False,
        tls: bool = False,
    ) -> None:
        self.host, self.port = arguments.text("host", host), arguments.port("port", port)
        self.status_port = None if status_port is None else arguments.port("status_port", status_port)
        self.insecure_plaintext = arguments.truth("insecure_plaintext", insecure_plaintext)
        self.tls = arguments.truth("tls", tls)
        self.address = self.status_link = ""
        self.created_secret = self.created_credential = False
        self.tls_file: Path | None = None
        self._connections: dict[int, Connection] = {}
        self._last = 0
        self._telling: set[asyncio.Task] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._listener: Listener | None = None
        self._splicer: Splicer | None = None
        self._page: Any = None
        self._finished, self._closing = asyncio.Event(), asyncio.Event()

    async def start(self) -> None:
        """Listen, and serve the status page; afterwards `address` and `status_link` are known."""
        will_encrypt = self.tls or credential_path(secret_path()).exists()
        addresses.require_loopback(self.host, self.insecure_plaintext, will_encrypt)  # before anything is created
        self.created_secret = not secret_path().exists()
        secret = self._find_secret()
        self.tls_file = secret.tls_file
        addresses.require_loopback(self.host, self.insecure_plaintext, secret.credential is not None)
        self._loop = asyncio.get_running_loop()
        about: dict[str, Any] = {"address": "", "pid": os.getpid(), "versions": installed()}
        splices_max = within_descriptors(SETTINGS.spliced_connections_max, SOCKETS_PER_SPLICE)
        settings = dataclasses.replace(
            SETTINGS,
            spliced_connections_max=splices_max,
            names_back_s=SETTINGS.names_back_s if self.port else 0.0,  # nobody knew where this one would be
        )
        self.state = CenterState(settings, started=self._loop.time(), about=about)
        self._listener = await Listener.start(self.host, self.port, "", secret, "center", self._connected, _refuse_bulk)
        self.address = about["address"] = self._listener.address
        if self.status_port is not None:
            from distributed.web.status import StatusPage  # lazy: tornado costs an embedded center its quick start

            self._page = StatusPage(self.status, self.host, self.status_port, self._page_context(secret))
            self.status_link = self._page.link

    def _find_secret(self) -> Secret:
        """The secret, and with `tls` the credential; whichever is not there is created."""
        secret = find_or_create_secret()
        if not self.tls:
            return secret
        from distributed.wire.credential import find_or_create_credential  # here: it loads ssl

        path = credential_path(secret_path())
        self.created_credential = not path.exists()
        find_or_create_credential(path)
        return find_or_create_secret()

    def _page_context(self, secret: Secret) -> Any:
        """What the status page is encrypted with: beyond loopback, where others could read its link."""
        if secret.credential is None or addresses.is_loopback(self.host):
            return None
        return secret.credential.page

    async def finished(self) -> None:
        """Wait until somebody asked the center to end (`Terminate`)."""
        await self._finished.wait()

    async def close(self) -> None:
        """Close everything. Workers and clients keep what they have, and look for the center again."""
        if self._page is not None:
            await self._page.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._listener is not None:
            await self._listener.close()
        self._finished.set()
        if self._splicer is not None:
            self._splicer.close()
        for task in self._telling:
            task.cancel()
        await asyncio.gather(*self._telling, return_exceptions=True)
        for connection in list(self._connections.values()):
            connection.close()
        while self._connections:  # what was sent is flushed first, within a bound of the connection's
            await self._closing.wait()
            self._closing.clear()

    def status(self) -> dict[str, Any]:
        """What the status page and the `status` command show."""
        return self.state.status(self._loop.time())

    # ------------------------------------------------------------------------------------------------- events in

    def _connected(self, connection: Connection) -> None:
        self._last += 1
        number = self._last
        self._connections[number] = connection

        def on_message(_: Connection, message: m.Message, request: int) -> None:
            self._handle(events.Received(number, message, request))

        def on_close(_: Connection, reason: str) -> None:
            self._connections.pop(number, None)
            self._closing.set()
            if not self._finished.is_set():
                self._handle(events.Disconnected(number))

        connection.on_message, connection.on_close = on_message, on_close

    def _tick(self) -> None:
        self._timer = None
        self._handle(events.Tick())

    def _handle(self, event: events.Event) -> None:
        for instruction in self.state.handle(event, self._loop.time()):
            self._perform(instruction)

    # ------------------------------------------------------------------------------------------------- instructions out

    def _perform(self, instruction: events.Instruction) -> None:
        match instruction:
            case events.Send(connection, message, request):
                self._send(connection, message, request)
            case events.Broadcast(connections, message):
                frame = codec.encode_frame(message)
                for number in connections:
                    if number in self._connections:
                        self._connections[number].send_frame(frame)
            case events.Tell(connections, message, token):
                task = self._loop.create_task(self._tell(connections, message, token))
                self._telling.add(task)
                task.add_done_callback(self._telling.discard)
            case events.Join(splice, one, other, idle_s):
                self._join(splice, idle_s, one, other)
            case events.Part(splice):
                if self._splicer is not None:
                    self._splicer.part(splice)
            case events.WakeAt(time):
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = self._loop.call_at(time, self._tick)
            case events.Close(connection, reason):
                self._close(connection, reason)
            case events.Say(text):
                log.info("%s", text)
            case events.End():
                self._finished.set()

    def _send(self, number: int, message: m.Message, request: int = 0) -> None:
        connection = self._connections.get(number)
        if connection is not None:  # else it broke meanwhile, and the state hears of it
            connection.send(message, request)

    def _close(self, number: int, reason: str) -> None:
        connection = self._connections.get(number)
        if connection is not None:
            log.warning("closed the connection of %s: %s", connection.peer_address, reason)
            connection.close()

    def _join(self, splice: int, idle_s: float, *numbers: int) -> None:
        """Hand the sockets of two connections to the splicer; one that is not ready for that ends with the other."""
        connections = [self._connections.pop(number, None) for number in numbers]
        detached = [connection.detach() for connection in connections if connection is not None]
        socks = [below_tls(sock) for sock in detached if sock is not None]
        if len(socks) != len(numbers):
            for sock in socks:
                sock.close()
            for connection in filter(None, connections):
                connection.close()
            self._loop.call_soon(self._parted, splice)
            return
        if self._splicer is None:
            self._splicer = Splicer(lambda number: self._loop.call_soon_threadsafe(self._parted, number))
        asking, answering = socks
        tune(answering, SETTINGS.client_lease_s)  # the worker may not read before it has made room
        self._splicer.join(splice, asking, answering, idle_s or math.inf)

    def _parted(self, splice: int) -> None:
        if not self._finished.is_set():
            self._handle(events.Parted(splice))

    async def _tell(self, numbers: list[int], message: m.Message, token: int) -> None:
        """Ask all of them; who is gone, refuses or is too slow has been told as well as it can be."""
        connections = [self._connections[number] for number in numbers if number in self._connections]
        asks = (connection.ask(message, timeout_s=SETTINGS.connect_timeout_s) for connection in connections)
        for answer in await asyncio.gather(*asks, return_exceptions=True):
            if isinstance(answer, BaseException) and not isinstance(answer, (DistributedError, TimeoutError)):
                raise answer
        self._handle(events.Told(token))


def _refuse_bulk(sock: socket.socket, peer_role: str) -> None:
    """A center holds no values: nobody has a reason to open a bulk connection to it."""
    sock.close()
