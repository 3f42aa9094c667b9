"""The credential of TLS: how it is made and found, and what is refused before any connection is."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from distributed.errors import SecretUnusable, StartFailed
from distributed.wire.credential import Credential, find_or_create_credential, new_pem
from distributed.wire.security import find_or_create_secret, find_secret

PLAIN = serialization.NoEncryption()
DAY = datetime.timedelta(days=1)


@pytest.fixture(autouse=True)
def no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTRIBUTED_TLS_FILE", raising=False)


def pem(
    begins: int = -1,
    ends: int = 1,
    purposes: list[x509.ObjectIdentifier] | None = None,
    encryption: serialization.KeySerializationEncryption = PLAIN,
    other_key: bool = False,
    issuer: str = "authority",
) -> bytes:
    """What an operator may bring; times in days from now. It is signed by somebody who is not in it."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "alice")]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins * DAY)
        .not_valid_after(now + ends * DAY)
    )
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    certificate = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    if other_key:
        key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def test_the_first_to_ask_creates_it_for_its_owner_alone(tmp_path):
    path = tmp_path / "tls.pem"
    credential = find_or_create_credential(path)
    assert Credential(path).certificate == credential.certificate == find_or_create_credential(path).certificate
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["tls.pem"]


def test_a_directory_that_is_not_there_is_a_slip_of_the_pen(tmp_path):
    with pytest.raises(SecretUnusable, match=r"there is no directory .*typo to create .* or correct --tls-file"):
        find_or_create_credential(tmp_path / "typo" / "tls.pem")
    assert os.listdir(tmp_path) == []


def test_it_does_not_expire_and_stands_for_no_authority(tmp_path):
    certificate = x509.load_pem_x509_certificate(new_pem(tmp_path))
    assert certificate.not_valid_after_utc.year == 9999
    assert certificate.not_valid_before_utc.year == 2000
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)


def test_concurrent_starters_agree(tmp_path):
    code = (
        "import sys, pathlib, hashlib; from distributed.wire.credential import *; sys.stdin.readline();"
        f"path = pathlib.Path({str(tmp_path / 'deep' / 'tls.pem')!r});"
        "print(hashlib.sha256(find_or_create_credential(path).certificate).hexdigest())"
    )
    starters = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for starter in starters:
        starter.stdin.write("go\n")
        starter.stdin.flush()
    assert len({starter.communicate()[0] for starter in starters}) == 1


def test_presence_beside_the_secret_decides(tmp_path):
    secret = tmp_path / "secret"
    assert find_or_create_secret(secret).credential is None
    made = find_or_create_credential(tmp_path / "tls.pem")
    assert find_secret(secret).credential.certificate == made.certificate


def test_the_environment_names_another_file_which_must_be_there(tmp_path, monkeypatch):
    find_or_create_secret(tmp_path / "secret")
    monkeypatch.setenv("DISTRIBUTED_TLS_FILE", str(tmp_path / "own.pem"))
    with pytest.raises(SecretUnusable, match=r"there is no TLS credential at .*own\.pem"):
        find_secret(tmp_path / "secret").credential
    written(tmp_path / "own.pem", pem())
    assert find_secret(tmp_path / "secret").credential is not None


def test_a_link_to_nothing_does_not_mean_that_nothing_is_encrypted(tmp_path):
    find_or_create_secret(tmp_path / "secret")
    (tmp_path / "tls.pem").symlink_to(tmp_path / "gone")
    with pytest.raises(SecretUnusable, match="there is no TLS credential"):
        find_secret(tmp_path / "secret").credential


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644])
def test_a_file_that_others_can_read_is_refused_with_the_command_that_helps(tmp_path, mode):
    path = tmp_path / "tls.pem"
    find_or_create_credential(path)
    path.chmod(mode)
    with pytest.raises(SecretUnusable, match=f"others can read the TLS credential .*: chmod 600 {path}"):
        Credential(path)


def test_a_file_of_another_user_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "tls.pem"
    find_or_create_credential(path)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    monkeypatch.setattr(os, "geteuid", lambda: 23456)
    with pytest.raises(SecretUnusable, match="belongs to another user"):
        Credential(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no certificate"),
        (b"rubbish" * 100, "no certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not a private key and its certificate"),
        (b"-----BEGIN CERTIFICATE-----\n\xff\xff\n-----END CERTIFICATE-----\n", "no certificate that can be read"),
        (pem()[pem().index(b"-----BEGIN CERT") :], "not a private key and its certificate"),
        (pem(other_key=True), "key values mismatch"),
        (pem(encryption=serialization.BestAvailableEncryption(b"alice")), "is encrypted"),
        (pem(begins=-9, ends=-1), "certificate has expired"),
        (pem(begins=1, ends=2), "not yet valid"),
        (pem(purposes=[x509.ExtendedKeyUsageOID.SERVER_AUTH]), "(unsuitable|unsupported) certificate purpose"),
    ],
)
def test_what_is_no_good_is_refused_at_once_and_says_why(tmp_path, content, reason):
    with pytest.raises(SecretUnusable, match=reason) as caught:
        Credential(written(tmp_path / "tls.pem", content))
    assert "PRIVATE KEY" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        pem(),
        pem(issuer="alice"),
        pem(purposes=[x509.ExtendedKeyUsageOID.SERVER_AUTH, x509.ExtendedKeyUsageOID.CLIENT_AUTH]),
        pem() + pem()[pem().index(b"-----BEGIN CERT") :],
    ],
    ids=["signed by an authority", "of that name", "for both purposes", "with the authority's"],
)
def test_an_operators_own_certificate_will_do(tmp_path, content):
    credential = Credential(written(tmp_path / "tls.pem", content))
    certificate = x509.load_der_x509_certificate(credential.certificate)
    assert certificate.subject.rfc4514_string() == "CN=alice"
    assert not credential.is_presented(None)
    assert not credential.is_presented(credential.certificate[:-1])
    assert credential.is_presented(bytes(credential.certificate))


def test_without_the_package_one_can_be_used_but_not_created(tmp_path):
    find_or_create_credential(tmp_path / "tls.pem")
    code = (
        "import sys, pathlib; sys.modules['cryptography'] = None\n"
        "from distributed.wire.credential import *\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "print(find_or_create_credential(here / 'tls.pem'))\n"
        "try: find_or_create_credential(here / 'other.pem')\n"
        "except StartFailed as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == f"<Credential {tmp_path / 'tls.pem'}>"
    assert "pip install cryptography" in second
    assert str(tmp_path / "other.pem") in second
    assert StartFailed.__name__ not in done.stderr
