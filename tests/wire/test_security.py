"""The secret file, and what a handshake lets in."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed.errors import AuthenticationFailed, ConnectionFailed, SecretUnusable, VersionMismatch, WrongPeer
from distributed.wire import security
from distributed.wire.security import (
    ANSWER_BYTES,
    ClientHandshake,
    Itself,
    Secret,
    ServerHandshake,
    find_or_create_secret,
    find_secret,
    secret_path,
)

ALICE, BOB = Secret(b"alice" * 8), Secret(b"bobby" * 8)


# ----------------------------------------------------------------------------------------------------------- handshake


def converse(client: ClientHandshake, server: ServerHandshake, tamper=lambda who, data: data) -> list[str]:
    """Let the two talk until both are silent; who spoke, in order."""
    inbox = {client: bytearray(), server: bytearray(tamper("client", client.start()))}
    spoken = ["client"]
    is_moving = True
    while is_moving:
        is_moving = False
        for hearer, other, name in ((server, client, "server"), (client, server, "client")):
            while hearer.wanted and len(inbox[hearer]) >= hearer.wanted:
                data = bytes(inbox[hearer][: hearer.wanted])
                del inbox[hearer][: len(data)]
                said = hearer.receive(data)
                is_moving = True
                if said:
                    spoken.append(name)
                    inbox[other] += tamper(name, said)
    assert client.failure or server.failure or not any(inbox.values()), "bytes that nobody wanted"
    return spoken


@pytest.mark.parametrize("kind", ["control", "bulk"])
@pytest.mark.parametrize("role", ["center", "worker", "pool", "hand"])
def test_holders_of_one_secret_learn_who_the_other_is(role, kind):
    client, server = ClientHandshake(ALICE, role, kind), ServerHandshake(ALICE, "worker")
    assert converse(client, server) == ["client", "server", "client", "server"]
    assert (client.done, server.done) == (True, True)
    assert (server.peer_role, server.kind, client.peer_role) == (role, kind, "worker")


def test_what_follows_the_handshake_is_not_read():
    client, server = ClientHandshake(ALICE, "pool", "control"), ServerHandshake(ALICE, "worker")
    stream = bytearray(client.start())
    answer = b"".join(server.receive(bytes(stream[at : at + n])) for at, n in ((0, 4), (4, 36)))
    assert (len(stream), server.wanted, len(answer)) == (40, 33, ANSWER_BYTES)
    proof = b"".join(client.receive(answer[at : at + n]) for at, n in ((0, 4), (4, 36), (40, 40), (80, 32)))
    assert (len(proof), client.wanted) == (33, 1)
    assert client.receive(server.receive(proof)) == b""
    assert (client.wanted, server.wanted) == (0, 0)


@pytest.mark.parametrize("expects", ["center", "pool"])
def test_a_client_goes_on_only_with_the_role_that_it_expects(expects):
    """Also when it holds the secret: somebody may have passed on to it what we wanted to say to another."""
    client, server = ClientHandshake(ALICE, "worker", expects=expects), ServerHandshake(ALICE, "worker")
    converse(client, server)
    assert not client.done
    assert not server.done, "it has not got our proof"
    assert f"a worker answers there, not a {expects}" in str(client.failure)


def test_different_secrets_fail_on_both_sides_with_the_same_sentence():
    client, server = ClientHandshake(ALICE, "pool", "control", "bob:1"), ServerHandshake(BOB, "worker", "alice:2")
    converse(client, server)
    assert type(client.failure) is type(server.failure) is AuthenticationFailed
    assert client.failure.reason == server.failure.reason
    assert "different secrets" in client.failure.reason
    assert (client.failure.address, server.failure.address) == ("bob:1", "alice:2")
    assert not client.done
    assert not server.done


def test_a_client_that_skips_the_servers_proof_is_refused():
    server = ServerHandshake(ALICE, "worker")
    hello = ClientHandshake(BOB, "pool", "control").start()
    server.receive(hello[:4])
    server.receive(hello[4:])
    assert server.receive(b"\x01" + bytes(32)) == b"\x02"
    assert isinstance(server.failure, AuthenticationFailed)


def test_another_version_fails_on_both_sides_and_names_both(monkeypatch):
    server = ServerHandshake(ALICE, "worker")
    monkeypatch.setattr(security, "PROTOCOL_VERSION", 7)
    client = ClientHandshake(ALICE, "pool", "control")
    monkeypatch.undo()
    hello = client.start()
    answer = server.receive(hello[:4]) + server.receive(hello[4:])
    assert isinstance(server.failure, VersionMismatch)
    assert "it speaks version 7 of the protocol, this side version 2" in server.failure.reason
    monkeypatch.setattr(security, "PROTOCOL_VERSION", 7)
    assert client.receive(answer[:4]) + client.receive(answer[4:]) == b""
    assert isinstance(client.failure, VersionMismatch)
    assert "it speaks version 2 of the protocol, this side version 7" in client.failure.reason


@given(st.binary(min_size=4, max_size=4).filter(lambda data: data != b"DSTB"))
def test_strangers_are_recognised_by_their_first_four_bytes(data):
    for handshake in (ServerHandshake(ALICE, "center"), ClientHandshake(ALICE, "pool", "control")):
        assert handshake.receive(data) == b""
        assert type(handshake.failure) is ConnectionFailed
        assert "not distributed" in str(handshake.failure)
        assert handshake.wanted == 0


@pytest.mark.parametrize(("kind", "role"), [(0, 1), (3, 1), (1, 0), (1, 5), (255, 255)])
def test_unknown_kinds_and_roles_are_refused(kind, role):
    server = ServerHandshake(ALICE, "center")
    server.receive(b"DSTB")
    hello = security._HELLO.pack(b"DSTB", security.PROTOCOL_VERSION, kind, role, bytes(32))
    assert server.receive(hello[4:]) == b""
    assert "do not exist" in str(server.failure)


PLACE, OTHER = Itself("127.0.0.1:8787", "1a2b3c4d5e6f7a8b"), Itself("127.0.0.1:8788", "ffffffffffffffff")


@pytest.mark.parametrize(
    ("means", "itself"),
    [
        (PLACE, PLACE),
        (PLACE, Itself()),
        (Itself(), PLACE),
        (Itself("10.0.0.7:9000"), Itself()),
        (Itself("127.0.0.1:8787"), Itself("127.0.0.1:8787", "f00")),
    ],
)
def test_a_client_goes_on_with_whom_it_means(means, itself):
    client, server = ClientHandshake(ALICE, "pool", means=means), ServerHandshake(ALICE, "worker", itself=itself)
    converse(client, server)
    assert client.done and server.done
    assert client.peer == itself


@pytest.mark.parametrize(
    ("means", "itself", "reason"),
    [
        (PLACE, OTHER, "the worker at 127.0.0.1:8788 answers there: somebody passes connections on to it"),
        (Itself("10.0.0.7:8787"), PLACE, "the worker at 127.0.0.1:8787 answers there: somebody passes connections on"),
        (Itself(incarnation="1a2b"), OTHER, "another worker answers there than the one that was meant"),
        (Itself(PLACE.place, "1a2b"), PLACE, "another worker answers there than the one that was meant"),
    ],
)
def test_a_client_proves_nothing_to_another_than_it_means(means, itself, reason):
    """Who took the place of a daemon that ended can pass a handshake on, but not as that daemon's."""
    client, server = ClientHandshake(ALICE, "pool", means=means), ServerHandshake(ALICE, "worker", itself=itself)
    assert converse(client, server) == ["client", "server"]
    assert type(client.failure) is WrongPeer
    assert reason in str(client.failure)
    assert not server.done


def test_who_a_server_is_cannot_be_said_for_it():
    """Whoever passes a handshake on may change what the server says of itself: then its proof does not fit."""

    def tamper(who: str, data: bytes) -> bytes:
        return data.replace(OTHER.packed(), PLACE.packed()) if who == "server" else data

    client, server = ClientHandshake(ALICE, "pool", means=PLACE), ServerHandshake(ALICE, "worker", itself=OTHER)
    converse(client, server, tamper)
    assert type(client.failure) is AuthenticationFailed
    assert not server.done


@given(turn=st.integers(0, 3), position=st.integers(0, ANSWER_BYTES - 1), bit=st.integers(0, 7))
def test_a_single_changed_bit_never_passes(turn, position, bit):
    client = ClientHandshake(ALICE, "pool", "control", nonce=bytes(range(32)))
    server = ServerHandshake(ALICE, "worker", nonce=bytes(range(32, 64)))
    turns = iter(range(4))

    def tamper(who: str, data: bytes) -> bytes:
        if next(turns) != turn:
            return data
        changed = bytearray(data)
        changed[position % len(data)] ^= 1 << bit
        return bytes(changed)

    converse(client, server, tamper)
    assert not (client.done and server.done)


def test_proofs_cannot_be_reflected():
    """A peer without the secret that echoes what it hears convinces nobody."""
    server = ServerHandshake(ALICE, "center", nonce=bytes(32))
    mirror = server._hello[:6] + b"\x01" + server._hello[7:]
    answer = server.receive(mirror[:4]) + server.receive(mirror[4:])
    assert server.receive(b"\x01" + answer[-32:]) == b"\x02"


def test_proofs_cannot_be_replayed():
    recorded: list[bytes] = []
    converse(
        ClientHandshake(ALICE, "pool", "control"),
        ServerHandshake(ALICE, "worker"),
        lambda who, data: recorded.append(data) or data,
    )
    hello, _, proof, _ = recorded
    server = ServerHandshake(ALICE, "worker")
    server.receive(hello[:4])
    server.receive(hello[4:])
    assert server.receive(proof) == b"\x02"


# ----------------------------------------------------------------------------------------------------------- the secret


def test_a_secret_shows_itself_nowhere():
    for text in (repr(ALICE), str(ALICE), f"{ALICE}", f"{[ALICE]}"[1:-1]):
        assert text == "<Secret>"
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            duplicate(ALICE)
    assert not hasattr(ALICE, "__dict__")


def test_secrets_are_equal_when_their_content_is():
    assert ALICE == Secret(b"alice" * 8) != BOB
    assert hash(ALICE) == hash(Secret(b"alice" * 8))
    assert ALICE != "alice"


def test_the_hash_seed_is_one_that_python_accepts():
    seeds = {Secret.create().hash_seed() for _ in range(50)}
    assert len(seeds) == 50
    assert all(0 < seed < 1 << 32 for seed in seeds)


def test_the_path_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("DISTRIBUTED_SECRET_FILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert secret_path() == tmp_path / ".config/distributed/secret"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert secret_path() == tmp_path / ".config/distributed/secret"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert secret_path() == tmp_path / "xdg/distributed/secret"
    monkeypatch.setenv("DISTRIBUTED_SECRET_FILE", "/elsewhere")
    assert secret_path() == Path("/elsewhere")


def test_the_first_to_ask_creates_it_for_its_owner_alone(tmp_path):
    path = tmp_path / "new" / "secret"
    secret = find_or_create_secret(path)
    assert secret == find_secret(path) == find_or_create_secret(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(path.parent) == ["secret"]
    assert len(path.read_text().strip()) == 64


def test_concurrent_starters_agree(tmp_path):
    code = (
        "import sys; from distributed.wire.security import *; sys.stdin.readline();"
        f"print(find_or_create_secret({str(tmp_path / 'deep' / 'secret')!r}).hash_seed())"
    )
    starters = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    for starter in starters:
        starter.stdin.write("go\n")
        starter.stdin.flush()
    seeds = {starter.communicate()[0] for starter in starters}
    assert seeds == {f"{find_secret(tmp_path / 'deep' / 'secret').hash_seed()}\n"}


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o602, 0o660, 0o644])
def test_a_file_that_others_can_reach_is_refused_with_the_command_that_helps(tmp_path, mode):
    path = tmp_path / "my secret"
    path.write_text("ab" * 32)
    path.chmod(mode)
    with pytest.raises(SecretUnusable, match="others can read") as caught:
        find_secret(path)
    assert f"chmod 600 '{path}'" in str(caught.value)
    path.chmod(0o600)
    find_secret(path)


def test_a_missing_secret_says_how_to_get_one(tmp_path):
    with pytest.raises(SecretUnusable, match="start dcenter here first") as caught:
        find_secret(tmp_path / "none")
    assert str(tmp_path / "none") in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"ab" * 31, b"ab" * 33, b"xy" * 32, b"ab " * 32, "ä".encode() * 32, b"\xff" * 64, b"ab" * 32 + b"\nmore"],
)
def test_a_malformed_secret_is_refused_without_being_shown(tmp_path, content):
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SecretUnusable, match="64 hexadecimal digits") as caught:
        find_secret(path)
    assert "ab" * 20 not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path):
    with pytest.raises(SecretUnusable, match="not a file"):
        find_secret(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(SecretUnusable, match="not a file"):
        find_secret(tmp_path / "pipe")


def test_a_directory_that_cannot_be_made_is_an_error_that_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SecretUnusable, match=r"cannot be (created|read)"):
        find_or_create_secret(tmp_path / "file" / "secret")
