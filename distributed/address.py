"""Addresses: ``host:port``, and ``host:port?via=host:port`` where one is dialled through a center.

Pure text; resolving a name is the transport's business.
"""

from __future__ import annotations

from distributed import arguments
from distributed.errors import BadAddress

IPV6_CHARACTERS = set("0123456789abcdefABCDEF:.")
HOST_CHARACTERS_MAX = 255  # of the domain name system, as the next
LABEL_CHARACTERS_MAX = 63
TUNNEL_SUFFIX = ".tunnel"  # of the names of Unix sockets that others made, and whose other end is a TCP port elsewhere
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # who listens at all addresses is reached so on the same machine
_TUNNEL = "?tunnel="


def parse(address: str, default_port: int | None = None) -> tuple[str, int]:
    """Split an address into host and port.

    >>> parse('127.0.0.1:8787')
    ('127.0.0.1', 8787)
    >>> parse('[::1]:8787')
    ('::1', 8787)
    >>> parse('alice', default_port=8787)
    ('alice', 8787)
    >>> parse('8787', default_port=8787)
    Traceback (most recent call last):
    distributed.errors.BadAddress: '8787' is not an address; write host:port, ... (the host is missing)
    """
    if not isinstance(address, str):
        raise _bad(address)
    if address.startswith("["):
        host, bracket, rest = address[1:].partition("]")
        colon, port_text = rest[:1], rest[1:]
        is_good = bracket and colon in ("", ":") and _is_inside_brackets(host)
    else:
        host, colon, port_text = address.partition(":")
        is_good = _is_host(host)
    if is_good and not colon and default_port is not None and not address.isdecimal():
        return host, default_port
    if not is_good or not port_text.isdecimal() or len(port_text) > 5 or int(port_text) > 65535:
        raise _bad(address)
    return host, int(port_text)


def host(name: str, value: object) -> str:
    """A host as it stands in an address.

    >>> host('announce', 'maxi'), host('announce', '10.0.0.7')
    ('maxi', '10.0.0.7')
    >>> host('announce', 'maxi:1')
    Traceback (most recent call last):
    distributed.errors.BadAddress: announce='maxi:1' is not a host: write a name or an IP address, without a port
    """
    try:
        return parse(unparse(arguments.text(name, value), 0))[0]
    except BadAddress:
        reason = "is not a host: write a name or an IP address, without a port"
        raise BadAddress(f"{name}={arguments.shown(value)} {reason}") from None


def split_via(address: str) -> tuple[str, str]:
    """Who is meant, and the center through which they are reached; '' if they are reached directly.

    >>> split_via('maxi:40123?via=alice:8787'), split_via('alice:8787')
    (('maxi:40123', 'alice:8787'), ('alice:8787', ''))
    >>> split_via('maxi:40123?via=alice:8787?tunnel=/tmp/x.tunnel')
    ('maxi:40123', 'alice:8787?tunnel=/tmp/x.tunnel')
    >>> split_via('maxi:40123?by=alice')
    Traceback (most recent call last):
    distributed.errors.BadAddress: 'maxi:40123?by=alice' is not an address; ...
    """
    if not isinstance(address, str) or "?" not in address or split_tunnel(address.partition("?via=")[0])[1]:
        return normalized(address), ""
    there, via, center = address.partition("?via=")
    try:
        if via:
            return unparse(*parse(there)), normalized(center)
    except BadAddress:
        pass
    raise BadAddress(
        f"{arguments.shown(address)} is not an address; a worker behind a center is written host:port?via=host:port, "
        "for example maxi:40123?via=alice:8787"
    )


def split_tunnel(address: str) -> tuple[str, str]:
    """A daemon's own address, and the Unix socket on this machine that leads there; '' if nothing is in between.

    >>> split_tunnel('127.0.0.1:8787?tunnel=/tmp/x.tunnel'), split_tunnel('alice:8787')
    (('127.0.0.1:8787', '/tmp/x.tunnel'), ('alice:8787', ''))
    >>> split_tunnel('alice:8787?tunnel=x')
    Traceback (most recent call last):
    distributed.errors.BadAddress: 'alice:8787?tunnel=x' is not an address; one with a tunnel is written ...
    """
    there, mark, path = address.partition(_TUNNEL) if isinstance(address, str) else (address, "", "")
    if mark and not (path.startswith("/") and is_tunnel(path)):
        form = f"host:port{_TUNNEL}/directory/name{TUNNEL_SUFFIX}, with the path of a Unix socket"
        raise BadAddress(f"{arguments.shown(address)} is not an address; one with a tunnel is written {form}")
    return there, path


def normalized(address: str, default_port: int | None = None) -> str:
    """The same as everybody writes it.

    >>> normalized('alice', 8787), normalized('127.0.0.1:8787?tunnel=/tmp/x.tunnel')
    ('alice:8787', '127.0.0.1:8787?tunnel=/tmp/x.tunnel')
    """
    there, tunnel = split_tunnel(address)
    return unparse(*parse(there, default_port)) + (_TUNNEL + tunnel if tunnel else "")


def is_tunnel(path: str) -> bool:
    """Whether the Unix socket of this name leads to a TCP port elsewhere."""
    return path.endswith(TUNNEL_SUFFIX)


def _bad(address: object) -> BadAddress:
    if isinstance(address, str) and "?" in address:
        return BadAddress(
            f"{arguments.shown(address)}: via= leads to a worker, and here belongs the address of a daemon that is "
            "reached directly: host:port, for example 127.0.0.1:8787"
        )
    said = f"{arguments.shown(address)} is not an address; write host:port, for example 127.0.0.1:8787"
    hint = _hint(address) if isinstance(address, str) else ""
    return BadAddress(f"{said} ({hint})" if hint else said)


def _hint(address: str) -> str:
    """What it may be that is wrong.

    >>> [_hint(address) for address in ('tcp://alice:1', 'alice', 'alice:x', '::1', ' alice:1', '[::1]')]
    ... # doctest: +NORMALIZE_WHITESPACE
    ["without 'tcp://'", 'the port is missing', "'x' is no port: a number from 0 to 65535",
     'one of version 6 stands in brackets: [::1]:8787', 'there are blanks around it', 'the port is missing']
    """
    scheme, slashes, _ = address.partition("://")
    if slashes:
        without = f"without {arguments.shown(scheme + slashes)}"
        return "machines to start workers on go in hosts" if scheme == "ssh" else without
    if address != address.strip():
        return "there are blanks around it"
    if _is_inside_brackets(address):
        return f"one of version 6 stands in brackets: [{address[:60]}]:8787"
    if address.startswith("[") and address.endswith("]") and _is_inside_brackets(address[1:-1]):
        return "the port is missing"
    host, colon, port = address.rpartition(":")
    if not colon and _is_host(address):
        return "the host is missing" if address.isdecimal() else "the port is missing"
    is_near = colon and ":" not in host and _is_host(host)
    return f"{arguments.shown(port)} is no port: a number from 0 to 65535" if is_near else ""


def _is_inside_brackets(host: str) -> bool:
    """Whether it may be an IP address of version 6; a zone may follow it.

    >>> _is_inside_brackets('fe80::1%eth0'), _is_inside_brackets('alice:1')
    (True, False)
    """
    digits, _, zone = host.partition("%")
    return digits.count(":") >= 2 and set(digits) <= IPV6_CHARACTERS and zone.isprintable() and " " not in zone


def _is_host(host: str) -> bool:
    """Whether the system would look it up at all; it has its own, strange errors for what it does not.

    >>> _is_host('alice.example'), _is_host('x' * 64), _is_host('a..b'), _is_host('a b')
    (True, False, False, False)
    """
    if not host.isprintable() or " " in host:
        return False
    try:
        labels = (host if host.isascii() else host.encode("idna").decode()).removesuffix(".").split(".")
    except UnicodeError:
        return False
    return len(host) <= HOST_CHARACTERS_MAX and all(1 <= len(label) <= LABEL_CHARACTERS_MAX for label in labels)


def unparse(host: str, port: int) -> str:
    """Join host and port again.

    >>> unparse('::1', 8787)
    '[::1]:8787'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def require_loopback(host: str, insecure_plaintext: bool, is_encrypted: bool = False) -> None:
    """Refuse to let other machines in without TLS, before somebody has said that their network is trusted.

    >>> require_loopback('0.0.0.0', insecure_plaintext=False, is_encrypted=True)
    """
    if not (is_loopback(host) or is_encrypted or insecure_plaintext):
        raise BadAddress(
            f"listening on {host} lets other machines in, and there is no TLS credential here to encrypt with: start "
            "dcenter --tls, which creates one, and copy tls.pem beside the secret of the other machines; or, in a "
            "network that you trust, say so with --insecure-plaintext (insecure_plaintext=True)"
        )


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine can reach `host`.

    >>> is_loopback('127.0.0.1'), is_loopback('localhost'), is_loopback('0.0.0.0')
    (True, True, False)
    """
    return host in ("localhost", "::1") or host.startswith("127.")
