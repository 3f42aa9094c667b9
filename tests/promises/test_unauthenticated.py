"""Who does not hold the secret can do nothing: no operation, on no door of any daemon, in whatever way it is tried.

Every operation of the vocabulary is sent without a handshake, with a wrong secret, after a handshake recorded from a
member, after the daemon's own proofs thrown back at it, and under another version. Who does hold the secret must still
say first who they are. And those who hold on to their connections, however many, lock nobody out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import resource
import signal
import socket
import struct
import threading

import pytest

from conftest import leaks_looked_for_by_module
from distributed import Pool, rpc
from distributed.address import parse
from distributed.config import SETTINGS
from distributed.connect import connect_blocking
from distributed.errors import WrongPeer
from distributed.wire import frames
from distributed.wire.codec import buffers_of, decode, encode_header
from distributed.wire.messages import REGISTRY, Member, Refusal
from distributed.wire.security import (
    ANSWER_BYTES,
    KINDS,
    MAGIC,
    PROTOCOL_VERSION,
    ROLES,
    ClientHandshake,
    Secret,
    find_secret,
)
from tests.promises.observe import PATIENCE_S, open_files, terminals, until

HELLO = struct.Struct("<4sHBB32s")
PROVED, REFUSED = b"\x01", b"\x02"
HELD_MANY = 1000
DESCRIPTORS_FEW = 200

STRANGER = Member("127.0.0.1:9", "feed", "stranger", 64, 1 << 40, "", "/nowhere", 1, {})
FIELDS = {  # by the annotation of a field: what would do most harm if anybody listened
    "str": "precious",
    "int": 1,
    "float": 1.0,
    "bool": True,
    "bytes": b"\x80\x05.",
    "Any": None,
    "list": [],
    "list[str]": ["precious"],
    "list[int]": [1],
    "list[bytes]": [b"\x80\x05."],
    "dict": {},
    "dict[int, list]": {},
    "dict[int, int]": {},
    "dict[int, str]": {},
    "dict[int, bytes]": {},
    "dict[bytes, bytes]": {},
    "dict[str, str]": {"table": "precious"},
    "dict[str, int]": {"gpu": 1},
    "dict[str, dict[str, int]]": {"table": {"precious": 1}},
    "Member": STRANGER,
    "list[Member]": [STRANGER],
}


def message_of(operation):
    """This operation, filled in."""
    cls = REGISTRY[operation]
    fields = dataclasses.fields(cls)
    return cls(**{field.name: [b"\x01x"] if field.name == "buffers" else FIELDS[str(field.type)] for field in fields})


def frame_of(operation, request=1):
    message = message_of(operation)
    return b"".join(frames.encode(encode_header(message, request), buffers_of(message)))


# -------------------------------------------------------------------------------------------------------- the daemons


class Daemons:
    """A center and a worker in terminals, with something to lose."""

    def __init__(self, terminal, directory):
        self.logs = {name: directory / f"{name}.log" for name in ("center", "worker")}
        self.center = terminal("center", "--port", "0", log=self.logs["center"])
        self.said = self.center.said()
        self.addresses = {"center": self.said["Center"]}
        self.worker = terminal("worker", self.addresses["center"], "--ncores", "1", log=self.logs["worker"])
        said = self.worker.said()
        self.addresses["worker"] = said["Worker"]
        self.unix = said["memory"].partition(" in ")[2].partition(";")[0] + "/socket"
        self.processes = {"center": self.center.process, "worker": self.worker.process}
        with rpc(self.addresses["worker"]) as worker, rpc(self.addresses["center"]) as center:
            worker.update_data(data={"precious": "jewels"})
            assert until(lambda: center.who_has(keys=["precious"]))
            assert until(lambda: center.status()["members"][0]["stored_bytes"])  # it has reported its load, too

    def lines(self, name):
        return self.logs[name].read_text().splitlines()

    def state(self):
        """What strangers could have changed: members, keys, names, clients, tasks, values."""
        with rpc(self.addresses["center"]) as center, rpc(self.addresses["worker"]) as worker:
            return [
                center.ncores(),
                center.has_what(),
                center.look_up(name=""),
                lasting(center.status()),
                lasting(worker.status()),
                worker.get_data(keys=["precious"]),
            ]


def lasting(status):
    """A status without what changes by itself."""
    return {name: value for name, value in status.items() if name != "uptime_s"}


no_leaks = leaks_looked_for_by_module()


@pytest.fixture(scope="module")
def daemons(no_leaks, tmp_path_factory):
    with terminals() as terminal:
        daemons = Daemons(terminal, tmp_path_factory.mktemp("logs"))
        yield daemons
        assert [daemon.end(signal.SIGTERM)[0] for daemon in (daemons.worker, daemons.center)] == [0, 0]
        assert not any("Traceback" in log.read_text() for log in daemons.logs.values())


# ---------------------------------------------------------------------------------------------- doors and ways to try


def through_tcp(name):
    return lambda daemons: socket.create_connection(parse(daemons.addresses[name]), timeout=PATIENCE_S)


def through_unix(daemons):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE_S)
    sock.connect(daemons.unix)
    return sock


DOORS = {  # who stands behind it, and how to get there
    "center": ("center", through_tcp("center")),
    "worker": ("worker", through_tcp("worker")),
    "worker's unix socket": ("worker", through_unix),
}


def heard(sock, nbytes):
    data = b""
    while len(data) < nbytes:
        part = sock.recv(nbytes - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data


def said_last(sock):
    """All that the daemon still says before it closes the connection; not waiting for ever is the point."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := sock.recv(65536):
            data += part
    return data


def conversation(sock, kind, role="hand"):
    """A member's handshake, and what the member said in it."""
    handshake = ClientHandshake(find_secret(), role, kind)
    hello = said = handshake.start()
    sock.sendall(hello)
    while handshake.wanted:
        answer = handshake.receive(heard(sock, handshake.wanted))
        sock.sendall(answer)
        said += answer
    assert handshake.done
    return said


def hello_of(kind, role="hand", version=PROTOCOL_VERSION, nonce=bytes(32)):
    return HELLO.pack(MAGIC, version, KINDS[kind], ROLES[role], nonce)


def without_a_handshake(enter, kind):
    yield lambda sock, frame: sock.sendall(frame)


def without_a_proof(enter, kind):
    """The operation comes where the proof should."""
    yield lambda sock, frame: sock.sendall(hello_of(kind) + frame + bytes(33))


def with_a_wrong_secret(enter, kind):
    wrong = Secret(bytes(32))

    def attempt(sock, frame):
        hello = hello_of(kind)
        sock.sendall(hello)
        transcript = hello + heard(sock, ANSWER_BYTES)
        sock.sendall(PROVED + wrong.derive("distributed client", transcript) + frame)

    yield attempt


def with_another_verdict(enter, kind):
    """A client may say that the server's proof is wrong, and go on as if nothing had happened."""
    for verdict in (b"\x00", b"\x02", b"\xff"):
        yield lambda sock, frame, verdict=verdict: sock.sendall(hello_of(kind) + verdict + bytes(32) + frame)


def replayed(enter, kind):
    """Word for word what a member said on another connection."""
    with enter() as sock:
        said = conversation(sock, kind)
    yield lambda sock, frame: sock.sendall(said + frame)


def reflected(enter, kind):
    """The daemon's own proof, of this connection."""

    def attempt(sock, frame):
        sock.sendall(hello_of(kind))
        proof = heard(sock, ANSWER_BYTES)[-32:]
        sock.sendall(PROVED + proof + frame)

    yield attempt


def asked_of_itself(enter, kind):
    """The challenge of one connection is put to the daemon itself on a second one."""

    def attempt(sock, frame):
        sock.sendall(hello_of(kind))
        challenge = heard(sock, ANSWER_BYTES)[: HELLO.size]
        *_, nonce = HELLO.unpack(challenge)
        with enter() as other:
            other.sendall(hello_of(kind, nonce=nonce))
            proof = heard(other, ANSWER_BYTES)[-32:]
            sock.sendall(PROVED + proof + frame)
            said_last(sock)
            other.sendall(bytes(33))
            said_last(other)

    attempt.lines = 2
    yield attempt


def downgraded(enter, kind):
    for version in (0, PROTOCOL_VERSION + 1, 0xFFFF):
        yield lambda sock, frame, version=version: sock.sendall(hello_of(kind, version=version) + frame)


WAYS = [
    without_a_handshake,
    without_a_proof,
    with_a_wrong_secret,
    with_another_verdict,
    replayed,
    reflected,
    asked_of_itself,
    downgraded,
]


@pytest.mark.parametrize("kind", ["control", "bulk"])
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_no_operation_is_done_for_who_does_not_prove_that_they_hold_the_secret(daemons, way, door, kind):
    name, through = DOORS[door]
    before, lines_before, expected = daemons.state(), len(daemons.lines(name)), 0
    for attempt in way(lambda: through(daemons), kind):
        for operation in sorted(REGISTRY):
            with through(daemons) as sock:
                with contextlib.suppress(ConnectionError):  # closed before all was said
                    attempt(sock, frame_of(operation))
                answer = said_last(sock)
            assert len(answer) in (0, 1, HELLO.size, ANSWER_BYTES, ANSWER_BYTES + 1), (operation, answer)
            assert len(answer) not in (1, ANSWER_BYTES + 1) or answer.endswith(REFUSED), operation
            expected += getattr(attempt, "lines", 1)
    assert until(lambda: len(daemons.lines(name)) >= lines_before + expected)
    lines = daemons.lines(name)[lines_before:]
    assert len(lines) == expected, "one line each"
    assert all(re.search(r" WARNING refused ", line) for line in lines), lines
    assert daemons.state() == before
    assert daemons.processes[name].poll() is None


def relayed(victim, target):
    """Pass a handshake on, word for word; the verdict at its end, or b'' if the victim did not go on."""
    try:
        target.sendall(heard(victim, HELLO.size))
        victim.sendall(heard(target, ANSWER_BYTES))
        target.sendall(heard(victim, 33))
        return heard(target, 1)
    except ConnectionError:
        return b""


@pytest.mark.parametrize("who", ["worker", "pool"])
def test_who_takes_the_place_of_a_center_that_ended_gets_no_proof_for_a_workers_door(no_leaks, tmp_path, who):
    """Workers and pools look for their center again at an address where anybody may listen by now."""
    with terminals() as terminal, contextlib.ExitStack() as stack:
        daemons = Daemons(terminal, tmp_path)
        address = daemons.addresses["center"]
        if who == "pool":
            pool = stack.enter_context(Pool(address))
            assert pool.submit(abs, -1).get(PATIENCE_S) == 1
        daemons.center.process.kill()
        daemons.center.process.wait()
        if who == "pool":
            daemons.worker.process.send_signal(signal.SIGSTOP)  # so that the pool is the one that comes
        impostor = stack.enter_context(socket.create_server(parse(address)))
        impostor.settimeout(PATIENCE_S)
        victim, _ = impostor.accept()
        victim.settimeout(PATIENCE_S)
        daemons.worker.process.send_signal(signal.SIGCONT)
        with victim, through_tcp("worker")(daemons) as target:
            assert relayed(victim, target) == b""
        impostor.close()
        assert daemons.worker.end(signal.SIGTERM)[0] == 0


def impostor_at(stack, address):
    """Somebody without the secret listens where a daemon listened that ended."""
    impostor = stack.enter_context(socket.create_server(parse(address)))
    impostor.settimeout(PATIENCE_S)
    return impostor


def caught_by(impostor):
    victim, _ = impostor.accept()
    victim.settimeout(PATIENCE_S)
    return victim


def test_one_center_is_not_passed_off_as_another_with_the_same_secret(daemons, tmp_path):
    """The worker of a center that ended looks for it; a living center of the same user is not what it looks for."""
    with terminals() as terminal, contextlib.ExitStack() as stack:
        other = Daemons(terminal, tmp_path)
        before = daemons.state()
        other.center.process.kill()
        other.center.process.wait()
        impostor = impostor_at(stack, other.addresses["center"])
        with caught_by(impostor) as victim, through_tcp("center")(daemons) as target:
            assert relayed(victim, target) == b""
        assert daemons.state() == before
        impostor.close()
        assert other.worker.end(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize("kind", ["control", "bulk"])
def test_one_worker_is_not_passed_off_as_another(daemons, tmp_path, kind):
    """Whoever looks for a worker that ended, by its address alone, is not led to a living one."""
    with terminals() as terminal, contextlib.ExitStack() as stack:
        other = Daemons(terminal, tmp_path)
        assert other.worker.end(signal.SIGTERM)[0] == 0
        address = other.addresses["worker"]
        impostor = impostor_at(stack, address)
        refused = []

        def look():
            try:
                connect_blocking(address, kind=kind, role="hand", secret=find_secret(), timeout_s=PATIENCE_S)
            except WrongPeer as error:
                refused.append(str(error))

        looking = threading.Thread(target=look)
        looking.start()
        with caught_by(impostor) as victim, through_tcp("worker")(daemons) as target:
            assert relayed(victim, target) == b""
        looking.join(PATIENCE_S)
        assert [daemons.addresses["worker"] in reason for reason in refused] == [True]
        assert other.center.end(signal.SIGTERM)[0] == 0


def test_a_worker_that_was_started_again_on_its_address_is_not_taken_for_its_predecessor(daemons):
    address = daemons.addresses["worker"]
    with pytest.raises(WrongPeer, match="another worker answers there than the one that was meant"):
        connect_blocking(address, kind="bulk", role="pool", secret=find_secret(), incarnation="f00", unix=daemons.unix)


# ------------------------------------------------------------------------------------------------------ the status page


def page(daemons, request):
    """What the status page answers to these bytes, until it closes the connection."""
    address = daemons.said["status"].removeprefix("http://").partition("/")[0]
    with socket.create_connection(parse(address), timeout=PATIENCE_S) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        return said_last(sock)


def http(method, path, body=b"", **headers):
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def test_the_status_page_does_no_operation_for_anybody(daemons):
    """Neither as a frame, nor as a path, nor as a body; nor for those who hold its link."""
    token = daemons.said["status"].rstrip("/").rpartition("/")[2]
    before = daemons.state()
    for operation in sorted(REGISTRY):
        frame = frame_of(operation)
        answers = [
            page(daemons, frame),
            page(daemons, hello_of("control") + frame),
            page(daemons, http("GET", f"/{operation}")),
            page(daemons, http("POST", f"/{operation}", frame)),
            page(daemons, http("GET", f"/{token[:-1]}/status.json")),
            page(daemons, http("GET", f"/{token}/{operation}")),
            page(daemons, http("POST", f"/{token}/", frame)),
            page(daemons, http("POST", f"/{token}/status.json", frame, Origin="http://localhost")),
        ]
        assert not any(b"200 OK" in answer or b"precious" in answer for answer in answers), operation
    assert b"200 OK" in page(daemons, http("GET", f"/{token}/status.json"))
    assert daemons.state() == before
    assert not any("Traceback" in line for line in daemons.lines("center"))


# ----------------------------------------------------------------------------------- members, and who they say they are


def asked(daemons, name, role, *operations):
    """What a member in this role is answered to each of these operations; None: the connection was closed."""
    answers, decoder = [], frames.Decoder()
    with connect_blocking(
        daemons.addresses[name], kind="control", role=role, secret=find_secret(), timeout_s=PATIENCE_S
    ) as sock:
        sock.settimeout(PATIENCE_S)
        for request, operation in enumerate(operations, 1):
            sock.sendall(frame_of(operation, request))
            answer = None
            with contextlib.suppress(ConnectionError):
                while answer is None and (data := sock.recv(65536)):
                    heard = [decode(*frame) for frame in decoder.feed(data)]
                    answer = next((message for message, number in heard if number == request), None)
            answers.append(answer)
    return answers


FOR_REGISTERED_WORKERS = ["add_keys", "remove_keys", "report_load"]
FOR_REGISTERED_CLIENTS = ["export", "withdraw"]
FOR_ATTACHED_POOLS = ["compute", "define_function", "cancel", "recall", "tell_group"]
FROM_THE_CENTER = ["dial_back", "owner_left", "pin", "unpin", "members", "worker_joined", "worker_left"]
FROM_EXECUTORS = ["outcomes", "need_room", "letters_read"]
FROM_WORKERS = ["finished", "failed", "gathered", "recalled", "evicted", "need_function", "output", "values", "room"]
TO_EXECUTORS = ["run", "cancel_running", "letter"]
ON_BULK = ["get_data", "update_data", "post"]
LED_ELSEWHERE = ["splice", "dialled_back"]  # by who is a member, and with a token that was given
TO_THE_CENTER = ["register", "register_client", "publish", "look_up", "who_has", *FOR_REGISTERED_WORKERS]

NOT_DONE_AT = {
    "center": [
        *FOR_REGISTERED_WORKERS,
        *FOR_REGISTERED_CLIENTS,
        *FOR_ATTACHED_POOLS,
        *LED_ELSEWHERE,
        "attach",
        "delete_data",
        *FROM_THE_CENTER,
        *FROM_EXECUTORS,
        *FROM_WORKERS,
        *TO_EXECUTORS,
        *ON_BULK,
    ],
    "worker": [
        *TO_THE_CENTER,
        *LED_ELSEWHERE,
        *FOR_REGISTERED_CLIENTS,
        *FOR_ATTACHED_POOLS,
        *FROM_THE_CENTER,
        *FROM_EXECUTORS,
        *FROM_WORKERS,
        *TO_EXECUTORS,
        *ON_BULK,
    ],
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", NOT_DONE_AT)
def test_a_member_does_not_get_done_what_is_not_its_to_ask(daemons, name, role):
    """Whatever role it claims: what counts is who it registered as on this connection."""
    before = daemons.state()
    for operation in NOT_DONE_AT[name]:
        (answer,) = asked(daemons, name, role, operation)
        assert answer is None or isinstance(answer, Refusal), (operation, answer)
    assert daemons.state() == before


def test_a_client_cannot_register_as_a_worker_on_the_same_connection_nor_report_keys(daemons):
    before = daemons.state()
    answers = asked(
        daemons, "center", "pool", "register_client", "register", *FOR_REGISTERED_WORKERS, "unregister_client"
    )
    assert [type(answer).__name__ for answer in answers] == ["Reply", *["Refusal"] * 4, "Reply"]
    assert until(lambda: daemons.state() == before)


def test_the_center_carries_no_values(daemons):
    """A bulk connection to it ends at once, whoever opens it."""
    for role in ROLES:
        with connect_blocking(
            daemons.addresses["center"], kind="bulk", role=role, secret=find_secret(), timeout_s=PATIENCE_S
        ) as sock:
            sock.settimeout(PATIENCE_S)
            assert said_last(sock) == b""


@pytest.mark.parametrize("operation", sorted(REGISTRY.keys() - {"get_data", "need_room", "post", "update_data"}))
def test_a_bulk_connection_carries_values_and_nothing_else(daemons, operation):
    before = daemons.state()
    with connect_blocking(
        daemons.addresses["worker"], kind="bulk", role="pool", secret=find_secret(), timeout_s=PATIENCE_S
    ) as sock:
        sock.settimeout(PATIENCE_S)
        sock.sendall(frame_of(operation))
        assert said_last(sock) == b""
    assert daemons.state() == before


# ------------------------------------------------------------------------------------------ those who hold on to a door


@contextlib.contextmanager
def many_descriptors(count):
    """This process may have so many, or the test is skipped: there is nobody to hold the doors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"only {hard} descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def held(enter, says):
    """A thousand connections that say this much and then nothing, one after the other and all at once."""
    with contextlib.ExitStack() as stack, many_descriptors(HELD_MANY + 500):
        for number in range(HELD_MANY):
            sock = stack.enter_context(enter())
            with contextlib.suppress(ConnectionError):
                sock.sendall(says[: number % (len(says) + 1)])
        yield


def through_status_page(daemons):
    address = daemons.said["status"].removeprefix("http://").partition("/")[0]
    return socket.create_connection(parse(address), timeout=PATIENCE_S)


HOLDERS = {
    "center": ("center", through_tcp("center"), hello_of("control")),
    "worker": ("worker", through_tcp("worker"), hello_of("bulk")),
    "worker's unix socket": ("worker", through_unix, hello_of("control")),
    "status page": ("center", through_status_page, b"GET /x/ HTTP/1.1\r\nHost: localhost\r\nX: "),
}


@pytest.mark.slow
@pytest.mark.parametrize("has_few_descriptors", [False, True], ids=["", "few descriptors"])
@pytest.mark.parametrize("door", HOLDERS)
def test_a_thousand_idle_connections_lock_nobody_out(daemons, door, has_few_descriptors):
    """Nor when the daemon has fewer descriptors than there are connections: a member still gets in, and is served."""
    name, through, says = HOLDERS[door]
    pid = daemons.processes[name].pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    lines_before = len(daemons.lines(name))
    if has_few_descriptors:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (DESCRIPTORS_FEW, limits[1]))
    try:
        with held(lambda: through(daemons), says):
            with Pool(daemons.addresses["center"]) as pool:
                assert pool.submit(abs, -1).get(PATIENCE_S) == 1
            with rpc(daemons.addresses[name]) as there:
                assert there.ping() == "pong"
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    print(f"connections held: {HELD_MANY} idle ones at the {door}{', which has few descriptors' * has_few_descriptors}")
    assert until(lambda: open_files(pid) < DESCRIPTORS_FEW), "what they held was given back"
    lines = daemons.lines(name)[lines_before:]
    assert len(lines) <= 3 * HELD_MANY, lines[:10]
    assert not any("Traceback" in line for line in lines), lines[:20]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["center", "worker"])
def test_a_thousand_who_say_a_byte_now_and_then_lock_nobody_out(daemons, name):
    """Each byte is news, so nobody is idle: what limits them is the time that a handshake may take in all."""
    hello, over = hello_of("control"), threading.Event()
    with contextlib.ExitStack() as stack, many_descriptors(HELD_MANY + 500):
        socks = [stack.enter_context(through_tcp(name)(daemons)) for _ in range(HELD_MANY)]

        def drip():
            for byte in hello[:-1]:
                for sock in socks:
                    with contextlib.suppress(OSError):  # it was given up
                        sock.send(bytes([byte]))
                if over.wait(1.0):
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            with Pool(daemons.addresses["center"]) as pool:
                assert pool.submit(abs, -1).get(PATIENCE_S) == 1
            with rpc(daemons.addresses[name]) as there:
                assert there.ping() == "pong"
        finally:
            over.set()
            dripping.join()
    print(f"connections held: {HELD_MANY} that say a byte a second, at the {name}")
    assert until(lambda: open_files(daemons.processes[name].pid) < DESCRIPTORS_FEW), "what they held was given back"


@pytest.mark.slow
def test_members_that_hold_bulk_connections_and_say_nothing_lock_nobody_out(daemons):
    """Each is a thread of the worker; beyond their limit the one that is idle for longest is closed."""
    count = 3 * SETTINGS.bulk_connections_max
    address, pid = daemons.addresses["worker"], daemons.processes["worker"].pid
    with contextlib.ExitStack() as stack, many_descriptors(count + 500):
        for _ in range(count):
            stack.enter_context(
                connect_blocking(address, kind="bulk", role="pool", secret=find_secret(), timeout_s=PATIENCE_S)
            )
        threads = len(os.listdir(f"/proc/{pid}/task"))
        with Pool(daemons.addresses["center"]) as pool:
            assert len(pool.submit(bytes, 1 << 20).get(PATIENCE_S)) == 1 << 20
        with rpc(address) as there:
            there.update_data(data={"x": 1})
            assert there.get_data(keys=["x"]) == {"x": 1}
            there.delete_data(keys=["x"])
    print(f"connections held: {count} authenticated and idle for values, {threads} threads")
    assert threads < SETTINGS.bulk_connections_max + 60


@pytest.mark.parametrize("name", ["center", "worker"])
def test_a_daemon_takes_as_many_descriptors_as_it_may_have(daemons, name):
    soft, hard = resource.prlimit(daemons.processes[name].pid, resource.RLIMIT_NOFILE)
    assert soft == hard or soft >= 1 << 16
