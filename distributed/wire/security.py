"""Who may come in: the shared secret, and the handshake that proves both sides hold it. Owns no socket.

The secret is a file of 64 hexadecimal digits that only its owner can read. The first ``dcenter`` of a user creates it,
that user's workers and pools find it by themselves, and other machines get a copy. It never travels: each side proves
that it holds it by an HMAC-SHA256 over everything said before, fresh nonces of both sides included. Nothing else a peer
says is looked at before that::

    client                                                   server
      magic, version, kind, role, nonce     (40 bytes) ─────▶
            ◀───── magic, version, 0, role, nonce (40 bytes), place, incarnation (40 bytes), proof (32 bytes)
      verdict (1 byte), proof (32 bytes)               ─────▶
            ◀───── verdict (1 byte)

With its proof the server says who it is: its role, where it was reached (see `Itself`), and, a worker, its incarnation.
A client that meant somebody else goes no further, and has not proved anything then. So nobody who sits where a daemon
was, or is looked for, can pass a handshake on to another one.

Whatever fails, fails on both sides with the same sentence. A handshake asks for exactly the bytes it needs (`wanted`),
so that what follows it in the stream stays in the socket. The first 40 bytes of either side keep their form in every
version, or else two versions could not tell each other that they differ.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import shlex
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from distributed.errors import AuthenticationFailed, ConnectionFailed, SecretUnusable, VersionMismatch, WrongPeer
from distributed.wire.private import create_private, open_private

if TYPE_CHECKING:
    from distributed.wire.credential import Credential

PROTOCOL_VERSION: Final = 2
MAGIC: Final = b"DSTB"
KINDS: Final = {"control": 1, "bulk": 2}
"""What a connection is for: small messages, or values."""
ROLES: Final = {"center": 1, "worker": 2, "pool": 3, "hand": 4}
"""Who speaks: a daemon, a pool, or somebody who calls operations by hand."""

_HELLO: Final = struct.Struct("<4sHBB32s")  # little endian, like frames
_ITSELF: Final = struct.Struct("<24s16s")
_NONCE_BYTES: Final = 32
_PROOF_BYTES: Final = 32
_ACCEPTED, _WRONG_SECRET = b"\x01", b"\x02"
_TLS_HELLO, _TLS_ALERT = b"\x16\x03", b"\x15\x03"  # how a client's and a server's first record may begin
_SECRET_DIGITS: Final = 64
_WHAT: Final = "the secret file"
ANSWER_BYTES: Final = _HELLO.size + _ITSELF.size + _PROOF_BYTES
"""What a server says before the client has proved anything."""


# --------------------------------------------------------------------------------------------------------- the secret


class Secret:
    """The shared secret, and what was found with it. Nothing prints, pickles or logs its content.

    >>> Secret(b'x' * 32)
    <Secret>
    """

    __slots__ = ("_credential", "_key", "tls_file")

    def __init__(self, key: bytes, tls_file: Path | None = None) -> None:
        self._key, self.tls_file = key, tls_file
        self._credential: Credential | None = None

    @property
    def credential(self) -> Credential | None:
        """What TLS is spoken with wherever there is TCP; None: it is not. `SecretUnusable` if the file is no good."""
        if self._credential is None and self.tls_file is not None:
            from distributed.wire.credential import Credential  # here: who has none need not load ssl

            self._credential = Credential(self.tls_file)
        return self._credential

    @classmethod
    def create(cls) -> Secret:
        """A new random secret, kept in memory only: for tests, and for clusters that nobody else joins."""
        return cls(secrets.token_bytes(_SECRET_DIGITS // 2))

    def derive(self, label: str, context: bytes = b"") -> bytes:
        """32 bytes that only a holder of the secret can compute, and that do not reveal it."""
        return hmac.new(self._key, label.encode() + b"\0" + context, hashlib.sha256).digest()

    def hash_seed(self) -> int:
        """The cluster's PYTHONHASHSEED: the same wherever the secret is the same, never 0 (which means no seed).

        >>> Secret(b'x' * 32).hash_seed() == Secret(b'x' * 32).hash_seed() > 0
        True
        """
        return 1 + int.from_bytes(self.derive("distributed hash seed")[:8], "little") % 0xFFFF_FFFF

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._key, other._key)

    def __hash__(self) -> int:
        return hash(self.derive("distributed python hash"))

    def __repr__(self) -> str:
        return "<Secret>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled: every process reads the secret file")


def secret_path() -> Path:
    """Where this user's secret is: DISTRIBUTED_SECRET_FILE, or else ``~/.config/distributed/secret``."""
    if override := os.environ.get("DISTRIBUTED_SECRET_FILE"):
        return Path(override)
    configuration = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(configuration) if os.path.isabs(configuration) else Path.home() / ".config") / "distributed/secret"


def credential_path(secret: Path) -> Path:
    """Where the credential of TLS is: DISTRIBUTED_TLS_FILE, or else ``tls.pem`` beside the secret."""
    override = os.environ.get("DISTRIBUTED_TLS_FILE")
    return Path(override) if override else secret.with_name("tls.pem")


def find_secret(path: str | os.PathLike[str] | None = None) -> Secret:
    """Read the secret; `SecretUnusable` says what is wrong with the file, and which command helps."""
    path = Path(path) if path is not None else secret_path()
    try:
        with open_private(path, _WHAT) as descriptor:
            content = os.read(descriptor, 2 * _SECRET_DIGITS)
    except FileNotFoundError as error:
        raise SecretUnusable(
            f"there is no secret at {path}: start dcenter here first (it creates one), copy the file from the center's "
            "machine to the same place, or name another file in DISTRIBUTED_SECRET_FILE"
        ) from error
    return Secret(_parse_secret(content, path), _find_tls_file(path))


def _find_tls_file(secret: Path) -> Path | None:
    """Whether TLS is spoken is decided here: no error but "there is none" may mean that it is not."""
    path = credential_path(secret)
    try:
        os.stat(path)
    except FileNotFoundError:
        return path if os.environ.get("DISTRIBUTED_TLS_FILE") or path.is_symlink() else None
    except OSError:  # whoever opens it will say what is wrong
        pass
    return path


def _parse_secret(content: bytes, path: Path) -> bytes:
    digits = content.strip()
    try:
        key = bytes.fromhex(digits.decode("ascii"))
    except ValueError:  # a UnicodeDecodeError is one, too; neither may be chained: it would show the content
        key = b""
    if len(digits) != _SECRET_DIGITS or len(key) != _SECRET_DIGITS // 2:
        raise SecretUnusable(
            f"the secret file {path} does not hold {_SECRET_DIGITS} hexadecimal digits: copy it again from the "
            f"center's machine, or make a new one: rm {shlex.quote(str(path))} and start dcenter"
        )
    return key


def find_or_create_secret(path: str | os.PathLike[str] | None = None) -> Secret:
    """Read the secret; the first to ask creates it. Of several at the same time one creates, and all read that one."""
    path = Path(path) if path is not None else secret_path()
    if not path.exists():
        if os.environ.get("DISTRIBUTED_SECRET_FILE") and not path.parent.parent.is_dir():  # mistyped, more likely
            raise SecretUnusable(
                f"{path} is in a directory that does not exist: make it (mkdir -p {shlex.quote(str(path.parent))}), "
                "or correct DISTRIBUTED_SECRET_FILE"
            )
        create_private(path, _WHAT, secrets.token_hex(_SECRET_DIGITS // 2).encode() + b"\n")
    return find_secret(path)


# ------------------------------------------------------------------------------------------------------ the handshake


class Itself(NamedTuple):
    """Whom a client means, or who a server is, beyond its role; what is empty is not compared.

    `place` is where the connection ends, as the server's machine sees it: ``127.0.0.1:8787``. A server says it only on
    loopback and without TLS. Between machines the two sides may rightly see different addresses, and where TLS is
    spoken a go-between can neither read nor change anything. `incarnation` is a worker's.
    """

    place: str = ""
    incarnation: str = ""

    def packed(self) -> bytes:
        return _ITSELF.pack(self.place.encode(), self.incarnation.encode())

    @classmethod
    def unpacked(cls, data: bytes) -> Itself:
        return cls(*(field.rstrip(b"\0").decode("ascii", "replace") for field in _ITSELF.unpack(data)))


class _Handshake:
    """The abstract edge of both sides: feed `receive` exactly `wanted` bytes, send what it returns, until it wants 0.

    Then `done` is true, or `failure` says why not (what `receive` returned last still has to be sent: it tells the
    peer). `address` is only for the messages of errors.
    """

    def __init__(self, secret: Secret, address: str, nonce: bytes) -> None:
        self._secret, self._address, self._nonce = secret, address, nonce
        self.wanted = len(MAGIC)
        self.failure: ConnectionFailed | None = None
        self.peer_role = ""
        self._transcript = b""
        self._received = b""
        self._is_center = False  # this side

    @property
    def done(self) -> bool:
        return not self.wanted and self.failure is None

    def _fail(self, kind: type[ConnectionFailed], reason: str, answer: bytes = b"") -> bytes:
        self.failure, self.wanted = kind(self._address, reason), 0
        return answer

    def _other_version(self, version: int, answer: bytes = b"") -> bytes:
        reason = (
            f"it speaks version {version} of the protocol, this side version {PROTOCOL_VERSION}: "
            "install the same version of distributed on both sides"
        )
        return self._fail(VersionMismatch, reason, answer)

    def _hello_is_complete(self, data: bytes) -> bool:
        """Collect the peer's first 40 bytes: the magic alone first, so that strangers are turned away early."""
        self._received += data
        if self._received[:2] in (_TLS_HELLO, _TLS_ALERT):
            self._fail(AuthenticationFailed, _no_credential(self._is_center))
        elif not self._received.startswith(MAGIC):
            self._fail(ConnectionFailed, "the other side is not distributed (its first bytes are something else)")
        elif len(self._received) == len(MAGIC):
            self.wanted = _HELLO.size - len(MAGIC)
        return self.failure is None and len(self._received) == _HELLO.size


def _no_credential(is_center: bool) -> str:
    if is_center:
        return (
            "it speaks TLS, and this center does not: start the center again with the file that is used there as "
            f"{credential_path(secret_path())}, or remove it there, if nothing is to be encrypted"
        )
    return (
        "it speaks TLS, and this side found no credential for it: copy the center's tls.pem to "
        f"{credential_path(secret_path())}, or name it in DISTRIBUTED_TLS_FILE"
    )


def _wrong() -> str:
    return (
        f"the two sides hold different secrets (this side reads {secret_path()}): "
        "copy the center's secret file to the other machines, or name it in DISTRIBUTED_SECRET_FILE"
    )


def _name_of(code: int, codes: dict[str, int]) -> str:
    return next((name for name, number in codes.items() if number == code), "")


class ClientHandshake(_Handshake):
    """The side that connects: `start()` gives the first bytes to send.

    With `expects` it goes on only with a server in that role, and with `means` only with that one. Somebody without the
    secret who took the address of a daemon that ended cannot pass another one off as that then.

    >>> alice = ClientHandshake(Secret(b'x' * 32), role='worker', kind='control')
    >>> bob = ServerHandshake(Secret(b'x' * 32), role='center')
    >>> hello = alice.start()
    >>> answer = bob.receive(hello[:4]) + bob.receive(hello[4:])
    >>> proof = b''.join(map(alice.receive, (answer[:4], answer[4:40], answer[40:80], answer[80:])))
    >>> verdict = bob.receive(proof)
    >>> alice.receive(verdict)
    b''
    >>> alice.done, bob.done, bob.peer_role, bob.kind, alice.peer_role
    (True, True, 'worker', 'control', 'center')
    """

    def __init__(
        self,
        secret: Secret,
        role: str,
        kind: str = "control",
        address: str = "",
        nonce: bytes | None = None,
        expects: str = "",
        means: Itself = Itself(),  # noqa: B008 - it cannot be changed
    ) -> None:
        super().__init__(secret, address, nonce or secrets.token_bytes(_NONCE_BYTES))
        self.kind, self._expects, self._means = kind, expects, Itself.unpacked(means.packed())
        self.peer = Itself()
        self._hello = _HELLO.pack(MAGIC, PROTOCOL_VERSION, KINDS[kind], ROLES[role], self._nonce)
        self._answer_with = self._read_hello

    def start(self) -> bytes:
        return self._hello

    def receive(self, data: bytes) -> bytes:
        return self._answer_with(data)

    def _read_hello(self, data: bytes) -> bytes:
        if not self._hello_is_complete(data):
            return b""
        _, version, _, role, _ = _HELLO.unpack(self._received)
        if version != PROTOCOL_VERSION:
            return self._other_version(version)
        self.peer_role = _name_of(role, ROLES)
        self._transcript = self._hello + self._received
        self._answer_with, self.wanted = self._read_itself, _ITSELF.size
        return b""

    def _read_itself(self, data: bytes) -> bytes:
        self.peer = Itself.unpacked(data)
        self._transcript += data
        self._answer_with, self.wanted = self._read_proof, _PROOF_BYTES
        return b""

    def _read_proof(self, data: bytes) -> bytes:
        if not hmac.compare_digest(data, self._secret.derive("distributed server", self._transcript)):
            return self._fail(AuthenticationFailed, _wrong(), _WRONG_SECRET + bytes(_PROOF_BYTES))
        if reason := self._is_somebody_else():  # what it said of itself is proved now
            return self._fail(WrongPeer, reason)
        self._answer_with, self.wanted = self._read_verdict, 1
        return _ACCEPTED + self._secret.derive("distributed client", self._transcript + data)

    def _is_somebody_else(self) -> str:
        """Why this is not whom we mean; empty if it is."""
        if self._expects not in ("", self.peer_role):
            return f"a {self.peer_role} answers there, not a {self._expects}: is the address right?"
        if "" not in (self._means.place, self.peer.place) and self._means.place != self.peer.place:
            return (
                f"the {self.peer_role} at {self.peer.place} answers there: somebody passes connections on to it, which "
                "is refused without TLS: use its own address (a tunnel: the same port on this side), or dcenter --tls"
            )
        if (
            "" not in (self._means.incarnation, self.peer.incarnation)
            and self._means.incarnation != self.peer.incarnation
        ):
            return f"another {self.peer_role} answers there than the one that was meant: has it been started again?"
        return ""

    def _read_verdict(self, data: bytes) -> bytes:
        self.wanted = 0
        return b"" if data == _ACCEPTED else self._fail(AuthenticationFailed, _wrong())


class ServerHandshake(_Handshake):
    """The side that listens: it learns `kind` and `peer_role` from the client. `start()` says nothing."""

    def __init__(
        self,
        secret: Secret,
        role: str,
        address: str = "",
        nonce: bytes | None = None,
        itself: Itself = Itself(),  # noqa: B008 - it cannot be changed
    ) -> None:
        super().__init__(secret, address, nonce or secrets.token_bytes(_NONCE_BYTES))
        self.kind, self._itself = "", itself.packed()
        self._is_center = role == "center"
        self._hello = _HELLO.pack(MAGIC, PROTOCOL_VERSION, 0, ROLES[role], self._nonce)
        self._answer_with = self._read_hello

    def start(self) -> bytes:
        return b""

    def receive(self, data: bytes) -> bytes:
        return self._answer_with(data)

    def _read_hello(self, data: bytes) -> bytes:
        if not self._hello_is_complete(data):
            return self._hello if self._received.startswith(_TLS_HELLO) else b""  # it sees that this is no TLS
        _, version, kind, role, _ = _HELLO.unpack(self._received)
        if version != PROTOCOL_VERSION:
            return self._other_version(version, self._hello)
        self.kind, self.peer_role = _name_of(kind, KINDS), _name_of(role, ROLES)
        if not self.kind or not self.peer_role:
            return self._fail(ConnectionFailed, f"it asked for kind {kind} in role {role}, which do not exist")
        said = self._hello + self._itself
        proof = self._secret.derive("distributed server", self._received + said)
        self._transcript = self._received + said + proof
        self._answer_with, self.wanted = self._read_proof, 1 + _PROOF_BYTES
        return said + proof

    def _read_proof(self, data: bytes) -> bytes:
        if data[:1] == _ACCEPTED and hmac.compare_digest(
            data[1:], self._secret.derive("distributed client", self._transcript)
        ):
            self.wanted = 0
            return _ACCEPTED
        return self._fail(AuthenticationFailed, _wrong(), _WRONG_SECRET if data[:1] == _ACCEPTED else b"")
