"""The process that executors are forked from is started once, early, and never left behind."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgpack
import pytest

from distributed.center.server import Center
from distributed.wire.security import find_or_create_secret
from distributed.worker import launch
from distributed.worker.forkserver import PACKET_BYTES_MAX
from distributed.worker.server import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Pool


@pytest.fixture(autouse=True)
def nothing_begun() -> Iterator[None]:
    """Each test begins for itself."""
    assert not launch._begun
    yield
    assert not launch._begun


def finish(launched: launch.Launched) -> int:
    launched.control.close()
    os.close(launched.exit_descriptor)
    return launched.process.wait(10)


def until_ready(launched: launch.Launched) -> None:
    launched.control.setblocking(True)
    assert msgpack.unpackb(launched.control.recv(PACKET_BYTES_MAX)) == ["ready"]


def mark_of(pid: int) -> str:
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    environment = dict(entry.split(b"=", 1) for entry in entries if entry)
    return environment[launch.MARK.encode()].decode()


def test_what_was_begun_is_taken_by_the_first_launch_with_the_same_environment() -> None:
    launch.begin({"SOMETHING": "1"})
    ((_, begun),) = launch._begun
    first, second = launch.launch({"SOMETHING": "1"}), launch.launch({"SOMETHING": "1"})
    try:
        until_ready(first)  # before it is, /proc need not tell its environment
        assert first is begun
        assert second.process.pid != first.process.pid
        assert second.mark != first.mark == mark_of(first.process.pid)
    finally:
        assert (finish(first), finish(second)) == (0, 0)


def test_one_begun_with_another_environment_is_ended_and_a_new_one_started() -> None:
    launch.begin({"SOMETHING": "1"})
    ((_, begun),) = launch._begun
    launched = launch.launch({"SOMETHING": "2"})
    try:
        assert begun.process.returncode is not None
        assert launched.process.pid != begun.process.pid
        until_ready(launched)
        assert b"SOMETHING=2" in Path(f"/proc/{launched.process.pid}/environ").read_bytes().split(b"\0")
    finally:
        assert finish(launched) == 0


def test_a_worker_takes_what_its_command_began_for_it() -> None:
    launch.begin(launch.executor_environment(find_or_create_secret()))
    ((_, begun),) = launch._begun

    async def start_and_end() -> int:
        center = Center(port=0, status_port=None)
        await center.start()
        worker = Worker(center.address, ncores=1)
        try:
            await worker.start()
            return worker._supervisor.process.pid
        finally:
            await worker.close()
            await center.close()

    assert asyncio.run(start_and_end()) == begun.process.pid
    assert begun.process.returncode == 0


def test_an_embedded_agent_has_one_process_that_starts_executors(pool: Pool) -> None:
    def family() -> tuple[int, list[str]]:
        parent = Path(f"/proc/{os.getppid()}/stat").read_text()
        agent = int(parent.rpartition(")")[2].split()[1])
        children = [path.read_text().split() for path in Path(f"/proc/{agent}/task").glob("*/children")]
        return os.getppid(), [pid for pids in children for pid in pids]

    fork_server, children = pool.apply(family)
    assert children == [str(fork_server)]


def test_a_daemon_that_cannot_start_leaves_no_such_process() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        center = f"127.0.0.1:{nobody.getsockname()[1]}"
        command = [sys.executable, "-m", "distributed", "worker", center, "--parent-fd", str(theirs.fileno())]
        done = subprocess.run(command, pass_fds=[theirs.fileno()], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr  # its output ended, too: nobody holds it any more
