"""Workers on other machines, reached by a real ssh: they compute and end, and what goes wrong is said in one line."""

from __future__ import annotations

import ast
import contextlib
import logging
import os
import pickle
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distributed import Cluster, Pool, current_pool, rpc, wait
from distributed.cluster import hosts, keys, preamble
from distributed.cluster.child import CHILDREN
from distributed.cluster.ssh import COMMAND_VARIABLE, SshWorker, Wishes
from distributed.errors import BadAddress, StartFailed
from tests.promises.machines import Program, machines
from tests.promises.test_large_values import apart
from tests.ssh.sshd import Sshd, name_of, sshd, wait_for_end

MIB = 1 << 20


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    with sshd(tmp_path / "sshd") as server:
        monkeypatch.setenv(COMMAND_VARIABLE, server.command)
        yield server


def ssh_workers() -> list[SshWorker]:
    return [child for child in CHILDREN if isinstance(child, SshWorker) and child.is_alive()]


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


def place() -> str:
    """The worker that runs the task, by its process."""
    return f"{os.environ.get('SSH_CONNECTION', '') and 'there'} {os.getpid()}"


def slow_place(seconds: float) -> str:
    time.sleep(seconds)
    return place()


# ------------------------------------------------------------------------------------------------------------ working


@pytest.mark.slow
def test_local_and_remote_workers_compute_together_and_nothing_is_left(server: Sshd) -> None:
    with Pool(1, [server.url(2)]) as pool:
        assert sorted(pool.ncores().values()) == [1, 2]
        places = set(pool.gather(pool.map(slow_place, [0.05] * 30)))
        assert len([where for where in places if where.startswith("there")]) == 2
        assert len([where for where in places if not where.startswith("there")]) == 1
        assert server.marked()
        there = server.url(2).partition("?")[0]
        assert pool.options(workers=there).submit(place).get().startswith("there")
    assert wait_for_end(server.marked()) == []
    assert ssh_workers() == []


@pytest.mark.slow
def test_a_pool_may_have_remote_workers_only(server: Sshd) -> None:
    with Pool(0, [server.url(1)]) as pool:
        assert list(pool.ncores().values()) == [1]
        assert pool.submit(place).get().startswith("there")


@pytest.mark.slow
def test_large_values_travel_both_ways_and_between_workers(server: Sshd) -> None:
    array = np.arange(4 * MIB, dtype=np.float64)
    with Pool(1, [server.url(1)]) as pool:
        [there] = [address for address, name in names(pool).items() if name.startswith("ssh://")]
        [here] = [address for address in pool.workers if address != there]
        made = pool.options(workers=there).submit(np.multiply, array, 2)
        assert pool.options(workers=there).submit(place).get().startswith("there")
        total = pool.options(workers=here).submit(np.sum, made).get()
        assert total == 2 * array.sum()
        back = pool.options(workers=there).submit(np.sum, pool.options(workers=here).submit(np.negative, array)).get()
        assert back == -array.sum()
        np.testing.assert_array_equal(made.get(), array * 2)


def names(pool: Pool) -> dict[str, str]:
    with rpc(pool.address) as center:
        return {member["address"]: member["name"] for member in center.status()["members"]}


def total_of_parts(where: str) -> float:
    """Its parts are made on another worker, and are too large to come with the answer."""
    pool = current_pool().options(workers=where)
    return float(sum(part.sum() for part in pool.gather([pool.submit(np.ones, MIB // 8) for _ in range(3)])))


@pytest.mark.slow
def test_tasks_there_have_tasks_here_and_the_other_way_round(server: Sshd) -> None:
    with Pool(1, [server.url(1)]) as pool:
        by_name = {name: address for address, name in names(pool).items()}
        [there] = [address for name, address in by_name.items() if name.startswith("ssh://")]
        [here] = [address for address in pool.workers if address != there]
        assert pool.options(workers=there).submit(total_of_parts, here).get() == 3 * MIB // 8
        assert pool.options(workers=here).submit(total_of_parts, there).get() == 3 * MIB // 8


def test_uploaded_code_gets_there(server: Sshd, tmp_path: Path) -> None:
    module = tmp_path / "uploaded_over_ssh.py"
    module.write_text("def double(x): return 2 * x")
    with Pool(0, [server.url(1)]) as pool:
        pool.upload(module)
        assert pool.submit("uploaded_over_ssh.double", 4).get() == 8


@pytest.mark.slow
def test_a_cluster_has_workers_there_that_leave_in_good_order(server: Sshd) -> None:
    places, wishes = ["127.0.0.1:0", server.url()], {"ncores": 1, "memory_limit": "0.1", "resources": {"gpu": 1}}
    with Cluster(hosts=places, **wishes) as cluster, Pool(cluster) as pool:
        assert len(cluster.workers) == 2
        assert list(pool.ncores().values()) == [1, 1]
        [there] = [address for address, name in names(pool).items() if name.startswith("ssh://")]
        assert pool.options(workers=there, resources={"gpu": 1}).submit(place).get().startswith("there")
        [here] = [address for address in pool.workers if address != there]
        more = pool.options(workers=here).submit(bytes, 3 * MIB)
        kept = pool.options(workers=there, recompute=False).submit(bytes, MIB)
        wait([more, kept])
        cluster.scale(1)  # who holds less goes
        assert cluster.workers == [here]
        assert ssh_workers() == []
        assert wait_for_end(server.marked()) == []
        assert pool.submit(len, kept).get() == MIB


@pytest.mark.slow
def test_who_is_asked_to_leave_before_it_has_begun_leaves(server: Sshd) -> None:
    """What follows the program and the plan in the same piece is still there for who runs next."""
    with Cluster(1) as cluster:
        host = hosts.parse(server.url(1))
        worker = SshWorker(host, Wishes(cluster.center_address), *keys.at_hand())
        try:
            worker.ask_to_leave()
            worker.ask_to_leave()
            with pytest.raises(StartFailed):
                worker.wait_ready()
        finally:
            worker.stop(time.monotonic() + 10)
        assert wait_for_end(server.marked()) == []


@pytest.mark.slow
def test_with_a_credential_the_tunnel_is_encrypted_once_more(server: Sshd, secret_file: Path) -> None:
    from distributed.wire.credential import find_or_create_credential

    credential = secret_file.with_name("tls.pem")
    existed = credential.exists()
    find_or_create_credential(credential)
    try:
        with Pool(0, [server.url(1)]) as pool:
            assert pool.submit(place).get().startswith("there")
    finally:
        if not existed:
            credential.unlink()


def test_the_secret_stands_on_no_command_line_and_in_no_environment_there(server: Sshd, secret_file: Path) -> None:
    with Pool(0, [server.url(1)]) as pool:
        assert pool.submit(place).get()
        secret = secret_file.read_bytes().strip()
        for pid in [*server.marked(), *[worker.pid for worker in ssh_workers()], server.process.pid]:
            assert secret not in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert secret not in Path(f"/proc/{pid}/environ").read_bytes()
        for path in Path("/tmp").glob("*.tunnel"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """It ends with the block, however that ends."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_worker_joins_by_a_tunnel_made_by_hand(tmp_path: Path, secret_file: Path) -> None:
    with (
        Cluster(n_workers=0) as cluster,
        sshd(tmp_path / "sshd", DISTRIBUTED_SECRET_FILE=str(secret_file)) as server,
    ):
        tunnel = tmp_path / "mine.tunnel"
        center = cluster.center_address
        there = f"{sys.executable} -m distributed worker '{center}?tunnel={tunnel}' --announce maxi --ncores 1"
        command = [*server.command.split(), "-R", f"{tunnel}:{center}", "maxi", there]
        with running(command) as ssh:
            assert ssh.stdout is not None
            while not (line := ssh.stdout.readline()).startswith("Worker at "):
                assert line
            with Pool(cluster) as pool:
                assert pool.submit(place).get().startswith("there")
                [address] = pool.workers
                assert address.startswith("maxi:")
            with rpc(f"{address}?via={center}") as worker:
                worker.terminate()
            ssh.communicate()
            assert ssh.returncode == 0
        assert wait_for_end(server.marked()) == []


def test_a_program_reaches_a_cluster_by_a_tunnel_made_by_hand(server: Sshd, tmp_path: Path) -> None:
    tunnel = tmp_path / "other.tunnel"
    with Cluster(n_workers=1, ncores=1) as cluster:
        address = f"{cluster.center_address}?tunnel={tunnel}"
        command = [*server.command.split(), "-N", "-L", f"{tunnel}:{cluster.center_address}", "maxi"]
        with running(command) as ssh:
            while not tunnel.exists():
                assert ssh.poll() is None
                time.sleep(0.01)
            with Pool(address) as pool, Pool(cluster) as other:
                assert pool.submit(sum, [1, 2]).get() == 3
                large = pool.submit(bytes, MIB)
                assert len(large.get()) == MIB
                copy = pickle.loads(pickle.dumps(large))  # it tells others of the center's own address
                assert other.submit(len, copy).get() == MIB
            with rpc(address) as center:
                assert len(center.ncores()) == 1
            done = subprocess.run(
                [sys.executable, "-m", "distributed", "status", address], capture_output=True, text=True, check=True
            )
            assert cluster.workers[0] in done.stdout


def test_an_interrupt_in_the_terminal_is_the_programs(server: Sshd) -> None:
    with Pool(0, [server.url(1)]):
        [worker] = ssh_workers()
        assert os.getsid(worker.pid) == worker.pid != os.getsid(0)


def test_settings_of_this_process_are_those_there(server: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTRIBUTED_DRAIN_TIMEOUT_S", "7.5")
    with Pool(0, [server.url(1)]) as pool:
        assert pool.submit(lambda: os.environ.get("DISTRIBUTED_DRAIN_TIMEOUT_S")).get() == "7.5"


def test_what_a_login_shell_prints_does_no_harm(server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = 'echo "Welcome"; echo; echo "distributed: 2 updates"; echo "distributed: 2"; head -c 300000 /dev/zero; echo'
    noisy = script(tmp_path / "noisy", f'{noise}; exec {server.command} "$@"')
    monkeypatch.setenv(COMMAND_VARIABLE, str(noisy))
    with Pool(0, [server.url(1)]) as pool:
        assert pool.submit(place).get().startswith("there")


# ----------------------------------------------------------------------------------------------------- wrong arguments

WRONG = {
    "ssh://": "there is no host",
    "ssh:///8": "there is no host",
    "ssh://@maxi/8": "is not a user",
    "ssh://-oProxyCommand=x@maxi/8": "is not a user",
    "ssh://-oProxyCommand=x/8": "is not a host",
    "ssh://ma xi/8": "is not a host",
    "ssh://$(id)/8": "is not a host",
    "ssh://maxi/abc": "NCORES is from 1",
    "ssh://maxi/0": "NCORES is from 1",
    "ssh://maxi/-1": "NCORES is from 1",
    "ssh://maxi/1000000": "NCORES is from 1",
    "ssh://maxi/²": "NCORES is from 1",
    "ssh://maxi/": "NCORES is from 1",
    "ssh://maxi/8/8": "NCORES is from 1",
    "ssh://maxi:99999/4": "is not a host, nor a host and its port",
    "ssh://maxi:0/4": "PORT is from 1",
    "ssh://maxi:/4": "is not a host, nor a host and its port",
    "ssh://[::1/4": "is not a host, nor a host and its port",
    "ssh://maxi/8?pyton=/usr/bin/python3": "did you mean 'python'?",
    "ssh://maxi/8?": "there is no option",
    "ssh://maxi/8?python=": "is not the path of a Python",
    "ssh://maxi/8?python='; id;'": "is not the path of a Python",
    "sssh://maxi/8": "does not begin with ssh://",
    "http://maxi/8": "does not begin with ssh://",
    "ssh://" + "x" * 10 * MIB: "is not a host",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:40])
def test_a_wrong_host_is_told_before_anything_is_started(text: str) -> None:
    before = set(CHILDREN)
    for call in (lambda: Pool(1, [text]), lambda: Cluster(hosts=[text])):
        with pytest.raises(BadAddress) as caught:
            call()
        assert WRONG[text] in str(caught.value)
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)
    assert set(CHILDREN) <= before


def test_other_mistakes_with_hosts_are_told_as_early() -> None:
    with pytest.raises(BadAddress, match="ssh://maxi is there twice"):
        Pool(1, ["ssh://maxi/8", "ssh://maxi/4"])
    with pytest.raises(BadAddress, match="ssh://maxi is there twice"):
        Cluster(hosts=["ssh://maxi/8", "ssh://maxi/8"])
    with pytest.raises(TypeError, match="hosts='ssh://maxi/8' must be a list"):
        Pool(1, "ssh://maxi/8")
    with pytest.raises(BadAddress, match="does not begin with ssh://"):
        Pool(1, ["127.0.0.1:8787"])
    with pytest.raises(TypeError, match="5 is not a host"):
        Pool(1, [5])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"go with a cluster of the pool's own: Pool\(4, hosts\)"):
        Pool("127.0.0.1:8787", ["ssh://maxi/8"])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ssh://maxi", ("maxi", "", 0, 0, "")),
        ("ssh://maxi/8", ("maxi", "", 0, 8, "")),
        ("ssh://alice@maxi:2222/8", ("maxi", "alice", 2222, 8, "")),
        ("ssh://alice@example.org@maxi", ("maxi", "alice@example.org", 0, 0, "")),
        ("ssh://[::1]:22/1?python=~/bin/python3", ("::1", "", 22, 1, "~/bin/python3")),
        ("ssh://my_host-2", ("my_host-2", "", 0, 0, "")),
    ],
)
def test_right_hosts_are_understood(text: str, parts: tuple[Any, ...]) -> None:
    host = hosts.parse(text)
    assert (host.host, host.user, host.port, host.ncores, host.python) == parts
    assert hosts.parse(host.name).name == host.name


# --------------------------------------------------------------------------------------------------- it does not start


def refusal(*urls: str) -> str:
    """What is said when this cannot be started; nothing of it stays."""
    with pytest.raises(StartFailed) as caught:
        Pool(1, list(urls))
    assert ssh_workers() == []
    return str(caught.value)


def test_a_port_where_nobody_listens(server: Sshd) -> None:
    server.close()
    assert refusal(server.url(1)) == (
        f"{server.url(1).partition('?')[0]}: ssh: connect to host 127.0.0.1 port {server.port}: Connection refused"
    )


def test_a_host_that_nobody_knows(server: Sshd) -> None:
    said = refusal("ssh://no.such.host.invalid/1")
    assert said.startswith("ssh://no.such.host.invalid/1: ssh: Could not resolve hostname")


def test_a_key_that_is_not_welcome(server: Sshd) -> None:
    (server.directory / "authorized_keys").write_text("")
    said = refusal(server.url(1))
    assert "Permission denied (publickey)" in said
    assert f"`ssh -p {server.port} 127.0.0.1 true` must work" in said
    assert "\n" not in said


def test_a_machine_that_is_not_known_yet(server: Sshd) -> None:
    (server.directory / "known_hosts").write_text("")
    said = refusal(server.url(1))
    assert "Host key verification failed" in said
    assert f"ssh -p {server.port} 127.0.0.1" in said


def test_an_sshd_that_forwards_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sshd(tmp_path / "sshd", more="AllowStreamLocalForwarding no") as server:
        monkeypatch.setenv(COMMAND_VARIABLE, server.command)
        said = refusal(server.url(1))
    assert "forwards no Unix sockets: it needs AllowStreamLocalForwarding yes" in said
    assert "\n" not in said


def test_no_ssh_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMAND_VARIABLE, "no-such-ssh -v")
    said = refusal("ssh://maxi/1")
    assert said.startswith("ssh://maxi/1: there is no program 'no-such-ssh' here")
    monkeypatch.setenv(COMMAND_VARIABLE, "ssh 'x")
    assert "is no command: No closing quotation" in refusal("ssh://maxi/1")
    monkeypatch.setenv(COMMAND_VARIABLE, "")
    assert "is empty" in refusal("ssh://maxi/1")


def tunnels() -> set[str]:
    return {str(path) for path in Path("/tmp").glob("distributed-*.tunnel")}


def test_no_python_there(server: Sshd) -> None:
    before = tunnels()
    said = refusal(server.url(1, "/nowhere/python"))
    assert said.endswith("/1: no Python there goes by the name of /nowhere/python")
    assert tunnels() == before


def test_a_python_that_cannot_be_executed(server: Sshd, tmp_path: Path) -> None:
    (tmp_path / "python").mkdir()
    said = refusal(server.url(1, str(tmp_path / "python")))
    assert str(tmp_path / "python") in said
    assert "ssh-agent" not in said


def test_a_python_without_the_package(server: Sshd, tmp_path: Path) -> None:
    before = tunnels()
    bare = script(tmp_path / "python", f'exec {sys.executable} -I -S "$@"')
    said = refusal(server.url(1, str(bare)))
    assert f"there is Python {sys.version.split()[0]}, without the package distributed: install distributed " in said
    assert "\n" not in said
    assert tunnels() == before


def test_another_version_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "other" / "distributed"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '0.0.1'\n")
    (package / "version.py").write_text("__version__ = '0.0.1'\n")
    with sshd(tmp_path / "sshd", PYTHONPATH=str(package.parent)) as server:
        monkeypatch.setenv(COMMAND_VARIABLE, server.command)
        said = refusal(server.url(1))
    assert "distributed 0.0.1 is installed there" in said
    assert f"and {preamble_version()} here: install the same version on both sides" in said


def preamble_version() -> str:
    from distributed import __version__

    return __version__


def test_an_older_python_understands_enough_to_say_that_it_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(preamble.__file__).read_text()
    ast.parse(source, feature_version=(3, 4))
    compile(source, "preamble", "exec")
    monkeypatch.setattr(sys, "version_info", (3, 9, 18, "final", 0))
    assert "is Python 3.9.18, and distributed needs 3.11 or newer" in preamble.why_not("0.1.0", "3.11")


def test_another_minor_version_of_python(server: Sshd, tmp_path: Path) -> None:
    other = (3, sys.version_info.minor + 1, 7, "final", 0)
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.version_info = {other}")
    python = script(tmp_path / "python", f'PYTHONPATH={tmp_path}:$PYTHONPATH exec {sys.executable} "$@"')
    said = refusal(server.url(1, str(python)))
    assert f"there is Python 3.{other[1]}.7, and Python 3.{other[1] - 1} here: functions travel only between" in said


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.9"])
def test_old_pythons_say_that_they_are_too_old(server: Sshd, version: str) -> None:
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    if not found:
        pytest.skip(f"there is no Python {version} here")
    assert f"is Python {version}." in refusal(server.url(1, str(found[0])))


@pytest.mark.slow
def test_of_several_hosts_each_that_fails_is_told_and_none_stays(server: Sshd, tmp_path: Path) -> None:
    before = tunnels()
    said = refusal(server.url(1), f"ssh://localhost:{server.port}/1", "ssh://no.such.host.invalid/1")
    assert said.count("\n") == 1
    assert wait_for_end(server.marked()) == []
    assert tunnels() == before
    assert "Host key verification failed" in said
    assert "Could not resolve hostname" in said


def test_a_worker_that_cannot_start_there_says_why(server: Sshd) -> None:
    with pytest.raises(StartFailed, match=r"ssh://127.0.0.1:\d+/1: dworker: .*/dev/null/spill"):
        Cluster(hosts=[server.url(1)], spill_directory="/dev/null/spill")


def start_and_tell(hear: Any, say: Any, *urls: str) -> None:
    try:
        with Pool(0, urls):
            say("it started")
    except StartFailed as error:
        say(str(error))


def start_and_be_interrupted(hear: Any, say: Any, *urls: str) -> None:
    try:
        Pool(1, urls)
    except KeyboardInterrupt:
        say("interrupted")


@pytest.mark.slow
def test_an_interrupt_while_machines_are_connected_to_leaves_nothing(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    silent = script(tmp_path / "silent", f"echo $$ >{pipe}; exec sleep 1000")
    with Program(start_and_be_interrupted, "ssh://maxi/1", **{COMMAND_VARIABLE: silent}) as program:
        pid = int(pipe.read_text())
        os.kill(program.process.pid, signal.SIGINT)
        assert program.hear() == "interrupted"
        assert wait_for_end([pid]) == []
        assert program.end() == 0


def start_many(hear: Any, say: Any) -> None:
    try:
        Pool(1, [f"ssh://maxi{number}/1" for number in range(5)])
    except StartFailed as error:
        say(len(str(error).splitlines()))


@pytest.mark.slow
def test_few_connect_at_one_time(tmp_path: Path) -> None:
    record = tmp_path / "record"
    ssh = script(tmp_path / "ssh", f"echo + >>{record}; sleep 0.5; echo - >>{record}; echo no >&2; exit 255")
    environment = {COMMAND_VARIABLE: ssh, "DISTRIBUTED_SSH_STARTING_MAX": "2"}
    with Program(start_many, **environment) as program:
        assert program.hear() == 5
        assert program.end() == 0
    now = most = 0
    for sign in record.read_text().split():
        now += 1 if sign == "+" else -1
        most = max(most, now)
    assert 1 <= most <= 2  # of five


@pytest.mark.slow
def test_an_ssh_that_says_nothing_is_given_up_in_time(tmp_path: Path) -> None:
    silent = script(tmp_path / "silent", "exec sleep 1000")
    environment = {COMMAND_VARIABLE: silent, "DISTRIBUTED_START_TIMEOUT_S": "6"}
    with Program(start_and_tell, "ssh://maxi/1", **environment) as program:
        assert program.hear() == "ssh://maxi/1 was not ready after 6 s, and said nothing"
        assert program.end() == 0


# ------------------------------------------------------------------------------------------------ the connection breaks


@pytest.mark.slow
def test_a_killed_ssh_ends_the_workers_there_and_their_tasks_run_elsewhere(
    server: Sshd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    started = tmp_path / "started"

    def task(number: int) -> int:
        with open(started, "a") as file:
            file.write("x" if "SSH_CONNECTION" in os.environ else "")
        time.sleep(0.05)
        return number

    with Pool(1, [server.url(2)]) as pool:
        handles = pool.map(task, range(60))
        while not (started.exists() and started.stat().st_size > 4):
            time.sleep(0.01)
        marked = server.marked()
        [worker] = ssh_workers()
        os.kill(worker.pid, signal.SIGKILL)
        assert pool.gather(handles) == list(range(60))
        assert wait_for_end(marked) == []
        assert len(pool.workers) == 1
    assert f"lost the worker of {worker.name}: ssh was killed by signal 9" in caplog.text


def test_a_worker_that_dies_there_is_lost_and_said(server: Sshd, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with Pool(1, [server.url(1)]) as pool:
        [agent] = [
            pid for pid in server.marked() if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        ]
        os.kill(agent, signal.SIGKILL)
        assert wait_for_end(server.marked()) == []
        assert pool.submit(abs, -1).get() == 1
        for worker in list(CHILDREN):
            if isinstance(worker, SshWorker) and worker._watcher.is_alive():
                worker._watcher.join()
    assert "the worker there was killed by signal 9" in caplog.text


@pytest.mark.slow
def test_the_program_there_may_be_killed_and_the_next_one_cleans_up(server: Sshd) -> None:
    with Pool(1, [server.url(1)]) as pool:
        [program] = [pid for pid in server.marked() if name_of(pid) == "ssh worker"]
        os.kill(program, signal.SIGKILL)
        assert wait_for_end([pid for pid in server.marked() if name_of(pid) not in ("sshd", "sshd-session")]) == []
        assert pool.submit(abs, -1).get() == 1
    with Pool(0, [server.url(1)]) as pool:
        assert pool.submit(abs, -1).get() == 1


def compute_until_told(hear: Any, say: Any, url: str) -> None:
    with Pool(1, [url]) as pool:
        handles = pool.map(slow_place, [0.1] * 40)
        say([worker.pid for worker in ssh_workers()])
        hear()
        places = pool.gather(handles)
        say(len(places))
        say(len(pool.workers))
        hear()


@pytest.mark.slow
def test_a_silent_machine_is_noticed_and_its_tasks_run_elsewhere(server: Sshd) -> None:
    if not server.prefix:
        pytest.skip("only root can have a worker here that is not reached through shared memory")
    with Program(compute_until_told, server.url(2), DISTRIBUTED_SILENT_WORKER_S=3) as program:
        [pid] = program.hear()
        stopped = server.sessions()
        for session in stopped:
            os.kill(session, signal.SIGSTOP)
        try:
            program.say("go on")
            assert program.hear() == 40
            assert program.hear() == 1
            assert wait_for_end([pid]) == []
        finally:
            for session in stopped:
                os.kill(session, signal.SIGCONT)
        program.say("end")
        assert program.end() == 0
    assert wait_for_end(server.marked()) == []


def test_an_ssh_that_was_stopped_for_a_while_loses_nothing(server: Sshd) -> None:
    with Pool(1, [server.url(2)]) as pool:
        [worker] = ssh_workers()
        handles = pool.map(slow_place, [0.02] * 40)
        os.kill(worker.pid, signal.SIGSTOP)
        pool.submit(time.sleep, 0.5).wait(1)
        os.kill(worker.pid, signal.SIGCONT)
        assert len(pool.gather(handles)) == 40
        assert len(pool.workers) == 2


@pytest.mark.slow
def test_closing_is_bounded_while_ssh_or_the_machine_there_is_stopped(server: Sshd) -> None:
    pool = Pool(1, [server.url(1)])
    [worker] = ssh_workers()
    stopped = server.sessions()
    for session in stopped:
        os.kill(session, signal.SIGSTOP)
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 30  # it is 5; a machine may be busy
    assert wait_for_end([worker.pid], 0.0) == []
    for session in stopped:
        os.kill(session, signal.SIGCONT)
    assert wait_for_end(server.marked()) == []


@pytest.mark.slow
def test_a_killed_client_leaves_nothing_at_either_end(server: Sshd) -> None:
    with Program(compute_until_told, server.url(2)) as program:
        [pid] = program.hear()
        here, there = [pid], server.marked()
        assert len(there) > 2
        os.kill(program.process.pid, signal.SIGKILL)
        assert wait_for_end([*here, *there]) == []


@pytest.mark.slow
def test_sshd_itself_may_die(server: Sshd) -> None:
    with Pool(1, [server.url(1)]) as pool:
        there = [pid for pid in server.marked() if name_of(pid) not in ("sshd", "sshd-session")]
        handles = pool.map(slow_place, [0.05] * 20)
        for pid in server.sessions():
            os.kill(pid, signal.SIGKILL)
        assert len(pool.gather(handles)) == 20
        assert wait_for_end(there) == []


# ------------------------------------------------------------------------------------------------------ other machines


def exchange(hear: Any, say: Any, *urls: str) -> None:
    """Values go from here to both machines, between them, and back; and nobody has another way than ssh's."""
    array = np.arange(MIB, dtype=np.float64)
    with Pool(1, urls) as pool:
        named = names(pool)
        say(sorted(named.values()))
        one, two = [address for address in named if named[address].startswith("ssh://")]
        here = next(address for address in named if named[address] == address)
        made = pool.options(workers=one).submit(np.multiply, array, 2)
        say([pool.options(workers=where).submit(np.sum, made).get() for where in (one, two, here)])
        local = pool.options(workers=here).submit(np.negative, array)
        say([pool.options(workers=where).submit(np.sum, local).get() for where in (one, two, here)])
        say(float(pool.options(workers=two).submit(np.add, local, made).get().sum()))
        say(sorted(set(pool.gather(pool.map(machine, [0.02] * 100)))))


def machine(seconds: float) -> str:
    time.sleep(seconds)
    return os.readlink("/proc/self/ns/net")


@pytest.mark.namespaces
@pytest.mark.slow
def test_machines_that_only_ssh_reaches_exchange_values(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(machines("one", "two"))
        servers = [
            stack.enter_context(
                sshd(tmp_path / name, host=made.addresses[name], port=22, prefix=apart(made.full[name]))
            )
            for name in ("one", "two")
        ]
        config = tmp_path / "both"
        config.write_text("".join((server.directory / "ssh_config").read_text() for server in servers))
        command = {COMMAND_VARIABLE: f"ssh -F {config}"}
        prefix = apart(made.full["hub"])
        urls = [server.url(1) for server in servers]
        program = stack.enter_context(Program(exchange, *urls, prefix=prefix, **command))
        assert len(program.hear()) == 3
        total = float(np.arange(MIB, dtype=np.float64).sum())
        assert program.hear() == [2 * total] * 3
        for listening in (listeners(made.full[name]) for name in ("one", "two")):
            assert {host for host, port in listening if port != 22} == {"127.0.0.1"}
        assert program.hear() == [-total] * 3
        assert program.hear() == total
        assert len(program.hear()) == 3
        assert program.end() == 0


@pytest.mark.namespaces
@pytest.mark.slow
def test_both_ends_notice_that_the_cable_between_them_is_out(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(machines("one"))
        place = {"host": made.addresses["one"], "port": 22, "prefix": apart(made.full["one"])}
        server = stack.enter_context(sshd(tmp_path / "one", **place))
        give_up_soon = ("sysctl", "-qw", "net.ipv4.tcp_retries2=3")  # its kernel tries for 15 minutes by default
        subprocess.run(["ip", "netns", "exec", made.full["one"], *give_up_soon], check=True)
        environment = {COMMAND_VARIABLE: server.command, "DISTRIBUTED_SILENT_WORKER_S": "3"}
        program = stack.enter_context(
            Program(compute_until_told, server.url(2), prefix=apart(made.full["hub"]), **environment)
        )
        [pid] = program.hear()
        there = [pid for pid in server.marked() if name_of(pid) not in ("sshd", "sshd-session")]
        assert there
        made.cut("one")
        program.say("go on")
        assert program.hear() == 40
        assert program.hear() == 1
        assert wait_for_end([pid, *there], 60) == []
        program.say("end")
        assert program.end() == 0


def listeners(namespace: str) -> list[tuple[str, int]]:
    """Where something listens on a machine."""
    told = subprocess.run(
        ["ip", "netns", "exec", namespace, "ss", "-Hltn"], capture_output=True, text=True, check=True
    ).stdout
    places = [line.split()[3].rpartition(":") for line in told.splitlines()]
    return [(host, int(port)) for host, _, port in places]


# ------------------------------------------------------------------------------------------------------------ the page


def test_the_example_for_those_who_come_from_distex_runs(server: Sshd) -> None:
    page = (Path(__file__).parents[2] / "docs/coming-from-distex.rst").read_text()
    block = page.partition("has the details)::\n")[2].partition("\n>>>")[0]
    names: dict[str, Any] = {}
    exec(textwrap.dedent(block), names)
    assert "ssh://maxi/2" in block
    assert names["cores"] == [1, 2]
    assert names["squares"] == [x * x for x in range(100)]
