"""The commands as people meet them: start lines, one-line errors, exit codes, signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from distributed import cli, machine
from distributed.comm import connect
from distributed.wire import messages as m
from distributed.wire.security import find_secret

COMMANDS = {"dcenter": ["center"], "dworker": ["worker"], "status": ["status"], "": []}


def command(name: str, *arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "distributed", *COMMANDS[name], *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def finished(name: str, *arguments: str, **environment: str) -> tuple[int, str, str]:
    with command(name, *arguments, **environment) as process:
        out, err = process.communicate()
    return process.returncode, out, err


def start_lines(process: subprocess.Popen, count: int) -> dict[str, str]:
    """The first lines, by their first word; the first line's value is the address."""
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(count)]
    if not all(lines):
        process.kill()
        raise AssertionError(f"it said {lines}, and then: {process.communicate()}")
    return dict(line.strip().replace(" at ", "  ").split(None, 1) for line in lines)


@contextlib.contextmanager
def center(*arguments: str) -> Iterator[dict[str, str]]:
    """A center in a terminal, ended by SIGTERM; asserts that it ended as asked."""
    with command("dcenter", "--port", "0", *arguments) as process:
        try:
            yield start_lines(process, 5)
        finally:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate()
    assert process.returncode == 0
    assert "Traceback" not in err


@contextlib.contextmanager
def worker(address: str, *arguments: str) -> Iterator[dict[str, str]]:
    with command("dworker", address, "--ncores", "1", *arguments) as process:
        try:
            yield start_lines(process, 5)
        finally:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate()
    assert process.returncode == 0
    assert "Traceback" not in err


# ------------------------------------------------------------------------------------------------------------ center


def test_a_center_says_where_it_is_where_the_secret_is_and_how_to_look(secret_file: Path) -> None:
    with center() as said:
        assert re.fullmatch(r"127\.0\.0\.1:\d+", said["Center"])
        assert said["secret"].split()[0] == str(secret_file)
        assert stat.S_IMODE(secret_file.stat().st_mode) == 0o600
        with urllib.request.urlopen(said["status"] + "status.json") as answer:
            assert json.load(answer)["address"] == said["Center"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_center_that_is_asked_to_end_ends_with_code_0_and_says_nothing(number: signal.Signals) -> None:
    with command("dcenter", "--port", "0") as process:
        start_lines(process, 5)
        process.send_signal(number)
        assert process.communicate() == ("", "")
        assert process.returncode == 0


def test_a_port_in_use_is_one_readable_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = finished("dcenter", "--port", str(port))
    assert (code, out) == (1, "")
    assert re.fullmatch(rf"dcenter: cannot listen at 127\.0\.0\.1:{port}: another program uses this port.*\n", err), err


@pytest.mark.parametrize(("name", "arguments"), [("dcenter", []), ("dworker", ["127.0.0.1:1"])])
def test_listening_beyond_this_machine_needs_a_word(name: str, arguments: list[str]) -> None:
    code, _, err = finished(name, *arguments, "--host", "0.0.0.0", DISTRIBUTED_CONNECT_TIMEOUT_S="0.1")
    assert code == 1
    assert err.startswith(f"{name}: ")
    assert "--insecure-plaintext" in err
    assert err.count("\n") == 1


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0" * 64)
    secret.chmod(0o644)
    code, _, err = finished("dcenter", "--port", "0", DISTRIBUTED_SECRET_FILE=str(secret))
    assert code == 1
    assert f"chmod 600 {secret}" in err


def test_a_secret_far_from_any_directory_is_a_mistake_and_makes_none(tmp_path) -> None:
    nowhere = tmp_path / "typo" / "distributed" / "secret"
    code, _, err = finished("dcenter", "--port", "0", DISTRIBUTED_SECRET_FILE=str(nowhere))
    assert (code, len(err.splitlines())) == (1, 1)
    assert f"{nowhere} is in a directory that does not exist: make it (mkdir -p {nowhere.parent}), or correct" in err
    assert not nowhere.parent.parent.exists()


# ------------------------------------------------------------------------------------------------------------ worker


def test_a_worker_joins_and_status_shows_it() -> None:
    with center() as said, worker(said["Center"], "--name", "alice", "--memory-limit", "64MiB") as joined:
        assert joined["center"] == said["Center"]
        assert joined["cores"] == "1"
        assert joined["memory"].startswith("64.0 MiB")
        code, out, err = finished("status", said["Center"])
        assert (code, err) == (0, "")
        assert "1 worker, 1 core, " in out
        assert joined["Worker"] in out
        assert "alice" in out
        code, out, _ = finished("status", said["Center"], "--json")
        assert json.loads(out)["members"][0]["name"] == "alice"


def test_a_worker_whose_center_does_not_answer_gives_up_with_one_sentence() -> None:
    with center() as said:
        address = said["Center"]
    code, out, err = finished(
        "dworker", address, DISTRIBUTED_CONNECT_TIMEOUT_S="0.2", DISTRIBUTED_RECONNECT_INTERVAL_S="0.1"
    )
    assert (code, out) == (1, "")
    assert re.search(rf"^dworker: {address}: no center within 0.2 s: nobody listens there", err, re.M)


def test_a_worker_waits_for_a_center_that_starts_after_it() -> None:
    with center() as said:
        address = said["Center"]
    with command("dworker", address, "--ncores", "1") as process:
        assert process.stderr is not None
        assert "Trying on" in process.stderr.readline()
        with center("--port", address.rpartition(":")[2]):
            assert start_lines(process, 5)["center"] == address
            process.send_signal(signal.SIGTERM)
            process.communicate()
    assert process.returncode == 0


def test_a_worker_finds_its_center_again_after_that_was_killed() -> None:
    async def has_joined(address: str) -> str:
        joined: asyncio.Queue[m.Message] = asyncio.Queue()
        connection = await connect(
            address, role="pool", secret=find_secret(), on_message=lambda _, message, __: joined.put_nowait(message)
        )
        connection.send(m.RegisterClient("aaaaaaaaaaaa"))
        members = await joined.get()
        assert isinstance(members, m.Members)
        news = m.WorkerJoined(members.members[0]) if members.members else await joined.get()
        assert isinstance(news, m.WorkerJoined)
        closed = asyncio.Event()
        connection.on_close = lambda *_: closed.set()
        connection.close()
        await closed.wait()
        return news.member.address

    with command("dcenter", "--port", "0") as first:
        address = start_lines(first, 5)["Center"]
        with worker(address) as joined:
            first.kill()
            first.communicate()
            with center("--port", address.rpartition(":")[2]):
                assert asyncio.run(asyncio.wait_for(has_joined(address), 20)) == joined["Worker"]


def test_an_unknown_host_is_one_sentence_at_once() -> None:
    with center():
        code, _, err = finished("dworker", "no-such-host.invalid:8787")
    assert code == 1
    assert re.fullmatch(r"dworker: no-such-host\.invalid:8787: unknown host .*\n", err), err


@pytest.mark.parametrize("name", ["dworker", "status"])
def test_without_a_secret_there_is_one_sentence_that_helps(name: str, tmp_path: Path) -> None:
    code, _, err = finished(name, "127.0.0.1:1", DISTRIBUTED_SECRET_FILE=str(tmp_path / "none"))
    assert code == 1
    assert "start dcenter here first" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_a_wrong_secret_is_one_sentence(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("0" * 64)
    other.chmod(0o600)
    with center() as said:
        for name in ("dworker", "status"):
            code, _, err = finished(name, said["Center"], DISTRIBUTED_SECRET_FILE=str(other))
            assert code == 1
            assert "different secrets" in err
            assert err.count("\n") == 1


def test_a_worker_that_nobody_connects_to_joins_and_is_asked_through_its_center() -> None:
    with center() as said, worker(said["Center"], "--via-center", "--announce", "maxi") as about:
        assert re.fullmatch(r"maxi:\d+", about["Worker"])
        assert about["center"] == f"{said['Center']}, which leads everyone here"
        code, out, err = finished("status", said["Center"])
        assert (code, err) == (0, "")
        assert f"{about['Worker']} via center" in out
        code, out, err = finished("status", f"{about['Worker']}?via={said['Center']}")
        assert (code, err) == (0, "")
        assert f"address: {about['Worker']}" in out
        code, out, err = finished("status", f"moritz:1?via={said['Center']}")
        assert (code, out) == (1, "")
        assert err == "status: moritz:1: no worker of the address 'moritz:1' is a member of the center\n"


def test_status_of_nobody_is_one_sentence() -> None:
    with center() as said:
        address = said["Center"]
    code, out, err = finished("status", address)
    assert (code, out) == (1, "")
    assert err.startswith(f"status: {address}: ")
    assert err.count("\n") == 1


# ------------------------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("door", "arguments", "complaint"),
    [
        (cli.dcenter, ["--port", "99999"], "'99999' is not a port"),
        (cli.dcenter, ["--port", "http"], "'http' is not a port"),
        (cli.dworker, [], "HOST:PORT"),
        (cli.dworker, ["127.0.0.1:x"], "'127.0.0.1:x' is not an address"),
        (cli.dworker, ["127.0.0.1:1", "--ncores", "0"], "'0' is not a number of cores"),
        (cli.dworker, ["127.0.0.1:1", "--memory-limit", "lots"], "'lots' is not a size: write 4GiB"),
        (cli.main, [], "COMMAND"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(door, arguments, complaint, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        door(arguments)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("door", "arguments"), [(cli.dcenter, []), (cli.dworker, []), (cli.main, ["status"]), (cli.main, ["worker"])]
)
def test_help_teaches_by_examples(door, arguments, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        door([*arguments, "--help"])
    assert ended.value.code == 0
    assert "127.0.0.1:8787" in capsys.readouterr().out.partition("examples:")[2]


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "0.0", "4XB", "1e3", "GiB", "4 Gi B"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        machine.parse_bytes(text)


def test_the_commands_do_not_load_tornado_before_it_is_needed() -> None:
    code = "import sys, distributed.cli; print([m for m in sys.modules if m.split('.')[0] == 'tornado'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
