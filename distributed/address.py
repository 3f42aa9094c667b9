"""Addresses: ``host:port`` and nothing else. Pure text; resolving a name is the transport's business."""

from __future__ import annotations

from distributed.errors import BadAddress


def parse(address: str, default_port: int | None = None) -> tuple[str, int]:
    """Split an address into host and port.

    >>> parse('127.0.0.1:8787')
    ('127.0.0.1', 8787)
    >>> parse('[::1]:8787')
    ('::1', 8787)
    >>> parse('alice', default_port=8787)
    ('alice', 8787)
    """
    if not isinstance(address, str) or not address:
        raise BadAddress(f"{address!r} is not an address; write host:port, for example 127.0.0.1:8787")
    if address.startswith("["):
        host, bracket, rest = address[1:].partition("]")
        port_text = rest[1:] if bracket and rest.startswith(":") else rest and None
    else:
        host, _, port_text = address.partition(":")
    if not port_text and default_port is not None:
        return host, default_port
    if not host or not port_text or not port_text.isdecimal() or not 0 <= int(port_text) < 65536:
        raise BadAddress(f"{address!r} is not an address; write host:port, for example 127.0.0.1:8787")
    return host, int(port_text)


def unparse(host: str, port: int) -> str:
    """Join host and port again.

    >>> unparse('::1', 8787)
    '[::1]:8787'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def require_loopback(host: str, insecure_plaintext: bool) -> None:
    """Refuse to let other machines in before somebody has said that their network is trusted.

    >>> require_loopback('0.0.0.0', insecure_plaintext=True)
    """
    if not is_loopback(host) and not insecure_plaintext:
        raise BadAddress(
            f"listening on {host} lets other machines in, and nothing is encrypted yet: in a network that you "
            "trust, say so with --insecure-plaintext (insecure_plaintext=True)"
        )


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine can reach `host`.

    >>> is_loopback('127.0.0.1'), is_loopback('localhost'), is_loopback('0.0.0.0')
    (True, True, False)
    """
    return host in ("localhost", "::1") or host.startswith("127.")
