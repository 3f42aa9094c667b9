"""TLS in real processes: what needs it, what it protects, and that everything else stays as it is.

Who is not a member, or only half of one, does nothing here either: without TLS, with TLS and no certificate, with
another certificate, or with the right one and a wrong secret.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import leaks_looked_for_by_module
from distributed import Pool, rpc
from distributed.address import parse
from distributed.errors import AuthenticationFailed, ConnectionFailed
from distributed.wire.credential import new_pem
from distributed.wire.messages import REGISTRY
from distributed.wire.security import Secret, find_secret
from tests.promises.observe import PATIENCE_S, terminals, until
from tests.promises.test_large_values import apart, namespaces, why_not
from tests.promises.test_unauthenticated import HELLO, frame_of, heard, hello_of, said_last

ROOT = Path(__file__).parent.parent.parent


no_leaks = leaks_looked_for_by_module()


class Daemons:
    """`dcenter --tls` and a worker that finds what that made."""

    def __init__(self, terminal, directory):
        self.logs = {name: directory / f"{name}.log" for name in ("center", "worker")}
        self.center = terminal("center", "--port", "0", "--tls", log=self.logs["center"])
        self.said = {"center": self.center.said(6)}
        center = self.said["center"]["Center"]
        self.worker = terminal("worker", center, "--ncores", "1", log=self.logs["worker"])
        self.said["worker"] = self.worker.said(6)
        self.addresses = {"center": center, "worker": self.said["worker"]["Worker"]}

    def lines(self, name):
        return self.logs[name].read_text().splitlines()


@pytest.fixture(scope="module")
def daemons(no_leaks, secret_file, tmp_path_factory):
    with terminals() as terminal:
        daemons = Daemons(terminal, tmp_path_factory.mktemp("logs"))
        yield daemons
        assert [daemon.end(signal.SIGTERM)[0] for daemon in (daemons.worker, daemons.center)] == [0, 0]
        assert not any("Traceback" in log.read_text() for log in daemons.logs.values())


def test_the_start_lines_name_the_credential_which_is_its_owners_alone(daemons, secret_file):
    path = secret_file.with_name("tls.pem")
    assert daemons.said["center"]["TLS"] == f"{path} (new)"
    assert daemons.said["worker"]["TLS"] == str(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_pools_people_and_the_status_command_find_it_by_themselves(daemons):
    with Pool(daemons.addresses["center"]) as pool:
        assert pool.gather(pool.map(abs, range(-100, 0))) == list(range(100, 0, -1))
        (array,) = pool.scatter([bytes(3_000_000)])
        assert pool.submit(len, array).get() == len(array.get()) == 3_000_000
    with rpc(daemons.addresses["worker"]) as worker:  # over TCP: it knows no Unix socket
        value = os.urandom(5_000_000)
        worker.update_data(data={"large": value, "small": 1})
        assert worker.get_data(keys=["large", "small"]) == {"large": value, "small": 1}
        worker.delete_data(keys=["large", "small"])
    command = [sys.executable, "-m", "distributed", "status", daemons.addresses["center"], "--json"]
    status = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    assert [member["address"] for member in status["members"]] == [daemons.addresses["worker"]]


def test_a_pool_with_a_cluster_of_its_own_uses_it_too(daemons):
    with Pool(1) as pool:
        assert pool.submit(sum, [1, 2, 3]).get() == 6
        with pytest.raises(ConnectionFailed, match="it speaks TLS"):
            in_plaintext(pool._core.center)


def in_plaintext(address):
    """As a member that has the secret, and not the credential."""
    key = find_secret()._key
    with rpc(address, secret=Secret(key)) as there:
        return there.ping()


@pytest.mark.parametrize("name", ["center", "worker"])
def test_who_has_the_secret_alone_hears_what_is_missing(daemons, name, secret_file):
    with pytest.raises(AuthenticationFailed, match=f"copy the center's tls.pem to {secret_file.with_name('tls.pem')}"):
        in_plaintext(daemons.addresses[name])


# ------------------------------------------------------------------------------------------------------- half a member


def context_with(pem):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if pem is not None:
        context.load_cert_chain(pem)
    return context


def in_plain(sock, frame, **_):
    sock.sendall(hello_of("control") + frame)
    return said_last(sock)


def without_a_certificate(sock, frame, **_):
    with context_with(None).wrap_socket(sock) as encrypted:
        encrypted.sendall(hello_of("control") + frame)
        return said_last(encrypted)


def with_another_certificate(sock, frame, tmp_path, **_):
    path = tmp_path / "other.pem"
    if not path.exists():
        path.write_bytes(new_pem(path))
    with context_with(path).wrap_socket(sock) as encrypted:
        encrypted.sendall(hello_of("control") + frame)
        return said_last(encrypted)


def with_a_wrong_secret(sock, frame, tls_file, **_):
    with context_with(tls_file).wrap_socket(sock) as encrypted:
        hello = hello_of("control")
        encrypted.sendall(hello)
        transcript = hello + heard(encrypted, HELLO.size)
        encrypted.sendall(b"\x01" + Secret(bytes(32)).derive("distributed client", transcript) + frame)
        said_last(encrypted)
        return b""  # it had to say what it says to every member


def with_the_certificate_and_no_proof(sock, frame, tls_file, **_):
    with context_with(tls_file).wrap_socket(sock) as encrypted:
        encrypted.sendall(frame)
        return said_last(encrypted)


WAYS = [
    in_plain,
    without_a_certificate,
    with_another_certificate,
    with_a_wrong_secret,
    with_the_certificate_and_no_proof,
]


@pytest.mark.parametrize("name", ["center", "worker"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_no_operation_is_done_for_half_a_member(daemons, way, name, tmp_path, secret_file):
    with rpc(daemons.addresses["center"]) as center:
        before, lines_before = center.has_what(), len(daemons.lines(name))
        for operation in sorted(REGISTRY):
            with socket.create_connection(parse(daemons.addresses[name]), timeout=PATIENCE_S) as sock:
                answer = b""
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    answer = way(
                        sock, frame_of(operation), tmp_path=tmp_path, tls_file=secret_file.with_name("tls.pem")
                    )
                assert answer in (b"", b"\x15\x03\x03\x00\x02\x02\x46"), (operation, answer)
        assert until(lambda: len(daemons.lines(name)) >= lines_before + len(REGISTRY))
        lines = daemons.lines(name)[lines_before:]
        assert len(lines) == len(REGISTRY), "one line each"
        assert all(re.search(r" WARNING refused ", line) for line in lines), lines
        assert center.has_what() == before


def test_four_hundred_slow_handshakes_lock_nobody_out(daemons):
    """Each has said the first byte of TLS, and no more."""
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            for address in daemons.addresses.values():
                sock = stack.enter_context(socket.create_connection(parse(address), timeout=PATIENCE_S))
                sock.sendall(b"\x16")
        with Pool(daemons.addresses["center"]) as pool:
            assert pool.submit(abs, -1).get(PATIENCE_S) == 1
        with rpc(daemons.addresses["worker"]) as worker:
            assert worker.ping() == "pong"


# ------------------------------------------------------------------------------------------------------- what needs it


def test_beyond_this_machine_it_is_needed_and_the_message_names_it_first(daemons, tmp_path):
    command = [sys.executable, "-m", "distributed", "center", "--host", "0.0.0.0", "--port", "0"]
    environment = {**os.environ, "DISTRIBUTED_SECRET_FILE": str(tmp_path / "secret")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.index("--tls") < done.stderr.index("--insecure-plaintext")
    assert os.listdir(tmp_path) == [], "nothing is created for a center that does not start"


def test_with_it_a_center_listens_anywhere_and_its_page_is_encrypted_there(daemons, tmp_path):
    with terminals() as terminal:
        center = terminal("center", "--host", "0.0.0.0", "--port", "0")
        said = center.said(6)
        link = said["status"]
        assert link.startswith("https://")
        port = int(link.split(":")[2].split("/")[0])
        path = "/" + link.split("/", 3)[3]
        context = context_with(None)
        with (
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock,
            context.wrap_socket(sock) as page,
        ):
            page.sendall(f"GET {path}status.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            assert b"200 OK" in said_last(page)
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock:
            sock.sendall(f"GET {path}status.json HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert b"200 OK" not in said_last(sock)
        assert center.end(signal.SIGTERM)[0] == 0


def test_an_operators_own_file_is_taken_from_the_command_line(tmp_path, daemons):
    own = tmp_path / "own.pem"
    own.write_bytes(new_pem(own))
    own.chmod(0o600)
    with terminals() as terminal:
        center = terminal("center", "--port", "0", "--tls-file", str(own))
        said = center.said(6)
        assert said["TLS"] == str(own)
        with pytest.raises(AuthenticationFailed, match="different certificates"), rpc(said["Center"]) as there:
            there.ping()
        worker = terminal("worker", said["Center"], "--ncores", "1", DISTRIBUTED_TLS_FILE=str(own))
        assert worker.said(6)["TLS"] == str(own)
        assert [daemon.end(signal.SIGTERM)[0] for daemon in (worker, center)] == [0, 0]


def test_without_the_package_tls_is_one_sentence_that_names_it(tmp_path):
    (tmp_path / "cryptography.py").write_text("raise ImportError('not here')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    environment["DISTRIBUTED_SECRET_FILE"] = str(tmp_path / "home" / "secret")
    command = [sys.executable, "-m", "distributed", "center", "--port", "0", "--tls"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 1
    assert "pip install cryptography" in done.stderr
    assert done.stderr.count("\n") == 1


# ----------------------------------------------------------------------------------------------------- between machines

CLIENT = """
import sys
import numpy as np
from distributed import Pool

center, items = sys.argv[1], int(sys.argv[2])
with Pool(center) as pool:
    pool._core.wait(lambda: len(pool.workers) == 2, 20)
    alice, bob = pool.workers
    expected = items * (items - 1) // 2
    for there, other in ((alice, bob), (bob, alice)):
        made = pool.options(workers=there).submit(np.arange, items)
        assert pool.options(workers=other).submit(lambda block: int(block.sum()), made).get(60) == expected
        assert int(made.get(60).sum()) == expected
        given = pool.options(workers=there).submit(lambda block: int(block.sum()), np.arange(items))
        assert given.get(60) == expected
    assert pool.counters["bytes_received"] > 2 * items * 8, "nothing was shared"
print("right")
"""


@pytest.mark.namespaces
@pytest.mark.slow
def test_large_values_go_both_ways_between_machines_that_share_nothing(secret_file):
    if reason := why_not():
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        full, addresses = stack.enter_context(namespaces("hub", "alice", "bob"))
        terminal = stack.enter_context(terminals())
        center = terminal("center", "--tls", "--port", "0", "--host", addresses["hub"], prefix=apart(full["hub"]))
        address = center.said(6)["Center"]
        for name in ("alice", "bob"):
            worker = terminal("worker", address, "--ncores", "1", "--host", addresses[name], prefix=apart(full[name]))
            assert worker.said(6)["Worker"].startswith(addresses[name])
        done = subprocess.run(
            [*apart(full["hub"]), sys.executable, "-c", CLIENT, address, str(4 << 20)],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.stdout == "right\n", done.stderr


# --------------------------------------------------------------------------------------------- what was promised before


@pytest.mark.long
@pytest.mark.slow
def test_other_promises_are_kept_with_it_too():
    """Some of the tests that know nothing of TLS, with a credential beside each secret."""
    chosen = ["tests/promises/test_crashes.py", "tests/promises/test_lifetimes.py", "tests/center/test_server.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *chosen]
        + ["--deselect", "tests/center/test_server.py::test_a_port_in_use_and_an_open_address_are_refused"],
        cwd=ROOT,
        env={**os.environ, "TESTS_WITH_TLS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
