"""What people write for workers on other machines: ``ssh://user@host:port/8?python=/path``. Pure text."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable

from distributed import address as addresses
from distributed import arguments
from distributed.config import SETTINGS
from distributed.errors import BadAddress

SCHEME = "ssh://"
FORM = "ssh://[USER@]HOST[:PORT][/NCORES][?python=PATH]"
_USER = re.compile(r"[\w.+][\w.+@-]*")
_HOST = re.compile(r"[\w.:%][\w.:%-]*")  # no name of a host has what a shell would read
_PYTHON = re.compile(r"[^\s'\"`!\\$?&-][^\s'\"`!\\$?&]*")


@dataclasses.dataclass(frozen=True, slots=True)
class SshHost:
    """A machine that ssh leads to. `port` 0: whatever ssh's own configuration says; `ncores` 0: all of them there."""

    host: str
    user: str = ""
    port: int = 0
    ncores: int = 0
    python: str = ""

    @property
    def place(self) -> str:
        """Which account on which machine it is."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (f"{self.user}@" if self.user else "") + host + (f":{self.port}" if self.port else "")

    @property
    def name(self) -> str:
        """What it is called: in errors, and as the name of the worker there."""
        return f"{SCHEME}{self.place}" + (f"/{self.ncores}" if self.ncores else "")


def parse(text: object) -> SshHost:
    """The parts of what was written.

    >>> parse('ssh://alice@maxi:2222/8')
    SshHost(host='maxi', user='alice', port=2222, ncores=8, python='')
    >>> parse('ssh://maxi?python=/opt/python3.12/bin/python').name
    'ssh://maxi'
    >>> parse('ssh://maxi/0')
    Traceback (most recent call last):
    distributed.errors.BadAddress: 'ssh://maxi/0': NCORES is from 1 to 4096; write ssh://[USER@]HOST[:PORT][/NCORES][?python=PATH]
    """
    if not isinstance(text, str):
        raise TypeError(f"{arguments.shown(text)} is not a host: write {FORM}, as a text")
    if not text.startswith(SCHEME):
        raise _bad(text, "it does not begin with ssh://")
    place, question, query = text[len(SCHEME) :].partition("?")
    place, slash, ncores = place.partition("/")
    user, at, host_and_port = place.rpartition("@")
    if at and not _USER.fullmatch(user):
        raise _bad(text, f"{arguments.shown(user)} is not a user")
    host, port = _host_and_port(text, host_and_port)
    return SshHost(host, user, port, _ncores(text, ncores) if slash else 0, _python(text, query) if question else "")


def _host_and_port(text: str, place: str) -> tuple[str, int]:
    if not place:
        raise _bad(text, "there is no host")
    try:
        host, port = addresses.parse(place, 0)
    except BadAddress:
        raise _bad(text, f"{arguments.shown(place)} is not a host, nor a host and its port") from None
    if not _HOST.fullmatch(host):
        raise _bad(text, f"{arguments.shown(host)} is not a host")
    if port == 0 and host_has_port(place):
        raise _bad(text, "PORT is from 1 to 65535")
    return host, port


def host_has_port(place: str) -> bool:
    """Whether something follows the host.

    >>> host_has_port('maxi:0'), host_has_port('[::1]')
    (True, False)
    """
    return ":" in place.rpartition("]")[2]


def _ncores(text: str, digits: str) -> int:
    most = SETTINGS.executors_max
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= len(str(most)) and 1 <= int(digits) <= most):
        raise _bad(text, f"NCORES is from 1 to {most}")
    return int(digits)


def _python(text: str, query: str) -> str:
    option, _, path = query.partition("=")
    if option != "python":
        near = difflib.get_close_matches(option, ["python"], n=1)
        hint = "did you mean 'python'?" if near else "'python' is the only one"
        raise _bad(text, f"there is no option {arguments.shown(option)}: {hint}")
    if not _PYTHON.fullmatch(path) or not path.isprintable():
        raise _bad(text, f"{arguments.shown(path)} is not the path of a Python there")
    return path


def _bad(text: str, why: str) -> BadAddress:
    return BadAddress(f"{arguments.shown(text)}: {why}; write {FORM}")


def parse_all(texts: Iterable[object]) -> list[SshHost]:
    """All of these; none of them twice.

    >>> parse_all(['ssh://maxi/4', 'ssh://maxi/2'])
    Traceback (most recent call last):
    distributed.errors.BadAddress: ssh://maxi is there twice: write it once, with all the cores that it shall have
    """
    found: dict[str, SshHost] = {}
    for text in texts:
        host = parse(text)
        if host.place in found:
            raise BadAddress(
                f"{SCHEME}{host.place} is there twice: write it once, with all the cores that it shall have"
            )
        found[host.place] = host
    return list(found.values())
