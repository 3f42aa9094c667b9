"""The credential of TLS: one private key with its certificate, which every member presents and requires. No socket.

It is a PEM file beside the secret, ``tls.pem``, or the one named in DISTRIBUTED_TLS_FILE; ``dcenter --tls`` creates it.
Whether it is there decides: who has it speaks TLS 1.3 over TCP and nothing else, so that nobody can be talked out of
it. There is no authority and no name to check. The certificate is pinned: a peer must present exactly this one, and
prove that it has the private key. Only to create one takes the `cryptography` package.
"""

from __future__ import annotations

import datetime
import hmac
import os
import re
import shlex
import ssl
from functools import cached_property
from pathlib import Path
from typing import Final

from distributed.errors import SecretUnusable, StartFailed
from distributed.wire.private import create_private, open_private

WHAT: Final = "the TLS credential"
PEM_BYTES_MAX: Final = 1 << 20
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class Credential:
    """A key and a certificate that can be used. Nothing prints or pickles the key, which only OpenSSL has."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_private(path, WHAT) as descriptor:
                content = os.read(descriptor, PEM_BYTES_MAX)
                found = _CERTIFICATE.search(content)
                if found is None:
                    raise SecretUnusable(_no_pem(path, "no certificate"))
                self.certificate = ssl.PEM_cert_to_DER_cert(found[0].decode("ascii"))
                self.client = self._context(ssl.PROTOCOL_TLS_CLIENT, descriptor)
                self.server = self._context(ssl.PROTOCOL_TLS_SERVER, descriptor)
                self._page = self._context(ssl.PROTOCOL_TLS_SERVER, descriptor)
        except FileNotFoundError as error:
            raise SecretUnusable(
                f"there is no TLS credential at {path}: copy it from the center's machine, or start dcenter --tls here"
            ) from error
        except ValueError as error:
            raise SecretUnusable(_no_pem(path, "no certificate that can be read")) from error
        self._rehearse()

    def _context(self, protocol: int, descriptor: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the certificate is pinned: it stands for the cluster, not for a host
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an operator's certificate, without its authority
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0  # nothing is resumed
        os.lseek(descriptor, 0, os.SEEK_SET)
        try:
            context.load_verify_locations(cadata=self.certificate)
            context.load_cert_chain(f"/dev/fd/{descriptor}", password=_no_password)  # the file that was looked at
        except _Encrypted as error:
            raise SecretUnusable(
                f"the private key in {self.path} is encrypted, and nobody could type the password: store it without one"
            ) from error
        except ssl.SSLError as error:
            why = (
                "no private key" if "PEM" in (error.reason or "PEM") else (error.reason or "").lower().replace("_", " ")
            )
            raise SecretUnusable(_no_pem(self.path, why)) from error
        return context

    def _rehearse(self) -> None:
        """Shake hands with itself, in memory: what would fail with every peer fails here, at the start."""
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        sides = [self.client.wrap_bio(back, there), self.server.wrap_bio(there, back, server_side=True)]
        try:
            while sides:
                for side in list(sides):
                    try:
                        side.do_handshake()
                        sides.remove(side)
                    except ssl.SSLWantReadError:
                        pass
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", "") or (error.reason or "").lower().replace("_", " ")
            raise SecretUnusable(
                f"the TLS credential {self.path} is of no use: {why}. It must be valid today, for servers and for "
                f"clients; a new one: rm {shlex.quote(str(self.path))} and start dcenter --tls"
            ) from error

    @cached_property
    def page(self) -> ssl.SSLContext:
        """For the status page: browsers have no certificate to present."""
        self._page.verify_mode = ssl.CERT_NONE
        return self._page

    def is_presented(self, certificate: bytes | None) -> bool:
        """Whether a peer's certificate, in DER, is the one."""
        return certificate is not None and hmac.compare_digest(certificate, self.certificate)

    def __repr__(self) -> str:
        return f"<Credential {self.path}>"


class _Encrypted(Exception):
    pass


def _no_password() -> str:
    raise _Encrypted


def _no_pem(path: Path, why: str) -> str:
    return (
        f"the TLS credential {path} is not a private key and its certificate in one PEM file ({why}): copy it again "
        f"from the center's machine, or make a new one: rm {shlex.quote(str(path))} and start dcenter --tls"
    )


def find_or_create_credential(path: Path) -> Credential:
    """Read it; the first to ask creates it. Of several at the same time one creates, and all read that one."""
    if not path.parent.is_dir():  # else a slip of the pen would become a directory, and look as if all were well
        raise SecretUnusable(
            f"there is no directory {path.parent} to create the TLS credential {path.name} in: create it, or correct "
            "--tls-file (or DISTRIBUTED_TLS_FILE)"
        )
    if not path.exists():
        create_private(path, WHAT, new_pem(path))
    return Credential(path)


def new_pem(path: Path) -> bytes:
    """A new private key, ECDSA on P-256, with a certificate that it has signed itself and that does not expire."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise StartFailed(
            "to create a certificate takes the package cryptography: pip install cryptography, "
            f"or put a private key and its certificate, in one PEM file, at {path}"
        ) from error
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "distributed")])
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2000, 1, 1))  # clocks may be wrong
        .not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59))  # "no expiry", RFC 5280; it is pinned
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)
