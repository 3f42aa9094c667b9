"""The status page: four files and nothing to click. It reads what it is given, and can change nothing.

Who may look: whoever has the link, whose path holds a token that is new at each start. Other web pages may not: the
name in the Host header must be ours (or a page whose name was rebound to our address could read us), and requests
that other origins caused are refused. All addresses are relative, so that the page works behind a forwarded port.
"""

from __future__ import annotations

import errno
import hmac
import json
import secrets
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application, HTTPError, RequestHandler

from distributed import address
from distributed.errors import StartFailed

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "json": "application/json"}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
HEADER_BYTES_MAX = 16 * 1024
IDLE_CONNECTION_S = 60.0
CONNECTIONS_MAX = 32  # one more closes the oldest: browsers connect again, and whoever holds on locks nobody out


class StatusPage:
    """Serves what `status()` returns, encrypted if there is a `context`. Nobody gets in without the `link`."""

    def __init__(
        self, status: Callable[[], dict[str, Any]], host: str, port: int = 0, context: ssl.SSLContext | None = None
    ) -> None:
        self._token = secrets.token_urlsafe(16)
        self.host, self.scheme = host, "https" if context is not None else "http"
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            place = address.unparse(host, port)
            reason = "another program uses this port" if error.errno == errno.EADDRINUSE else error.strerror
            raise StartFailed(f"cannot listen at {place} for the status page: {reason}") from error
        self._socket.setblocking(False)
        application = Application(
            [(r"/([^/]+)/(|status\.css|status\.js|status\.json)", _File, {"page": self, "status": status})],
            default_handler_class=_Nothing,
        )
        self._server = _Server(
            application,
            ssl_options=context,
            max_header_size=HEADER_BYTES_MAX,
            max_body_size=0,
            idle_connection_timeout=IDLE_CONNECTION_S,
        )
        self._server.add_socket(self._socket)

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def link(self) -> str:
        host = self.host if self.host not in ("", "0.0.0.0", "::") else socket.gethostname()
        return f"{self.scheme}://{address.unparse(host, self.port)}/{self._token}/"

    def admits(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())

    async def close(self) -> None:
        self._server.stop()
        await self._server.close_all_connections()


def is_our_name(host_header: str, host: str) -> bool:
    """Whether a Host header names this machine rather than some name that resolves to it for the occasion.

    A literal address cannot be rebound; of names only localhost, this machine's own, and the one we listen on count.

    >>> is_our_name('127.0.0.1:8080', '127.0.0.1'), is_our_name('localhost', '127.0.0.1')
    (True, True)
    >>> is_our_name('[::1]:8080', '127.0.0.1'), is_our_name('evil.example:8080', '127.0.0.1')
    (True, False)
    """
    name = host_header.lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name in ("localhost", host.lower(), socket.gethostname().lower()):
        return True
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, name)
            return True
        except OSError:
            continue
    return False


def is_our_origin(headers: Mapping[str, str], scheme: str = "http") -> bool:
    """Whether a request comes from this page, or from a person who follows the link, and not from another page.

    >>> is_our_origin({'Host': 'localhost:80', 'Origin': 'http://localhost:80', 'Sec-Fetch-Site': 'same-origin'})
    True
    >>> is_our_origin({'Host': 'localhost:80', 'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'navigate'})
    True
    >>> is_our_origin({'Host': 'localhost:80', 'Origin': 'http://evil.example'})
    False
    >>> is_our_origin({'Host': 'localhost:80', 'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'no-cors'})
    False
    """
    ours = f"{scheme}://{headers.get('Host')}"
    if headers.get("Origin", ours) != ours:
        return False
    return headers.get("Sec-Fetch-Mode") == "navigate" or headers.get("Sec-Fetch-Site", "none") in (
        "none",
        "same-origin",
    )


class _Server(HTTPServer):
    """Holds a bounded number of connections: their descriptors are the center's."""

    def initialize(self, *arguments: Any, **options: Any) -> None:
        super().initialize(*arguments, **options)
        self._streams: list[IOStream] = []  # the oldest first

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        self._streams = [other for other in self._streams if not other.closed()]
        if len(self._streams) >= CONNECTIONS_MAX:
            self._streams.pop(0).close()
        self._streams.append(stream)
        super().handle_stream(stream, address)


class _Nothing(RequestHandler):
    """Everything that is not the page: not found, in the same words whether or not the token was right."""

    def prepare(self) -> None:
        raise HTTPError(404)

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def write_error(self, status_code: int, **_: Any) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{status_code}: open the link that dcenter printed\n")


class _File(_Nothing):
    def initialize(self, page: StatusPage, status: Callable[[], dict[str, Any]]) -> None:
        self.page, self.status = page, status

    def prepare(self) -> None:
        headers, page = self.request.headers, self.page
        is_ours = is_our_name(self.request.host, page.host) and is_our_origin(headers, page.scheme)
        if not is_ours or not self.page.admits(self.path_args[0]):
            raise HTTPError(403)

    def get(self, _token: str, name: str) -> None:
        name = name or "status.html"
        self.set_header("Content-Type", f"{TYPES[name.rpartition('.')[2]]}; charset=utf-8")
        if name == "status.json":
            self.finish(json.dumps(self.status()))
        else:
            self.finish((Path(__file__).parent / name).read_bytes())
