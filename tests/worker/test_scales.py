"""What an executor has of its own is weighed: its anonymous memory and that of all it started, mapped files not."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile

import pytest

from distributed import offspring
from distributed.worker import scales as scales_module
from distributed.worker.scales import INTERVAL_S_MAX, NEVER_S, Scales, own_bytes

MIB = 1 << 20
GROW = """
import os, sys
kept = bytearray(os.urandom(1)) * (64 << 20)
{more}
print('ready', flush=True)
sys.stdin.read()
"""


@pytest.fixture
def grown():
    """Starts a process with 64 MiB of its own that goes on as it is told."""
    started = []

    def start(more=""):
        process = subprocess.Popen(
            [sys.executable, "-c", GROW.format(more=more)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process.pid

    yield start
    for process in started:
        process.communicate()


def test_memory_of_a_process_is_seen(grown):
    assert 64 * MIB < own_bytes(grown(), 1 << 40) < 100 * MIB


def test_memory_of_what_it_started_counts_wherever_that_is_now(grown):
    command = f"[sys.executable, '-c', {GROW.format(more='')!r}], stdin=0, stdout=-1, start_new_session=True"
    pid = grown(f"import subprocess; subprocess.Popen({command}).stdout.readline()")
    assert len(offspring.descendants(pid)) == 1
    assert own_bytes(pid, 1 << 40) > 128 * MIB


SHARE = """
import mmap
shared = {what}
for page in range(0, 64 << 20, 4096): shared[page] = 1
if not os.fork(): shared[:1]; sys.stdin.read(); os._exit(0)
"""
ANONYMOUS = "mmap.mmap(-1, 64 << 20)"
OF_A_DESCRIPTOR = "(fd := os.memfd_create('x'), os.ftruncate(fd, 64 << 20), mmap.mmap(fd, 64 << 20))[2]"


@pytest.mark.parametrize("what", [ANONYMOUS, OF_A_DESCRIPTOR])
def test_shared_memory_without_a_name_counts_once_where_it_matters(grown, what):
    """64 MiB of its own, and as many that it shares with a child."""
    assert 120 * MIB < own_bytes(grown(SHARE.format(what=what)), 100 * MIB) < 160 * MIB


def test_a_mapped_file_in_shared_memory_does_not_count(grown):
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        path = f"open({file.name!r}, 'r+b')"
        pid = grown(SHARE.format(what=f"(f := {path}, f.truncate(64 << 20), mmap.mmap(f.fileno(), 64 << 20))[2]"))
        assert own_bytes(pid, 100 * MIB) < 90 * MIB


@pytest.mark.parametrize("name", [b"\xff", b"a\r\r", b"a\x0b b:"])
def test_names_of_mapped_files_may_be_any_bytes(name):
    directory = os.fsencode(tempfile.mkdtemp(dir="/dev/shm"))
    path = os.path.join(directory, name)
    try:
        with open(path, "w+b") as file:
            file.truncate(mmap.PAGESIZE)
            with mmap.mmap(file.fileno(), mmap.PAGESIZE), mmap.mmap(-1, MIB) as nameless:
                before = scales_module.nameless_bytes(os.getpid())
                nameless[:] = bytes(MIB)
                assert scales_module.nameless_bytes(os.getpid()) == before + MIB
    finally:
        os.unlink(path)
        os.rmdir(directory)


def test_pages_that_a_fork_shares_count_once_when_it_matters(grown):
    pid = grown("if not os.fork(): sys.stdin.read(); os._exit(0)")
    assert own_bytes(pid, 1 << 40) > 128 * MIB
    assert own_bytes(pid, 100 * MIB) < 110 * MIB


def test_a_mapped_file_does_not_count_until_it_is_changed(tmp_path):
    path = tmp_path / "value"
    path.write_bytes(b"x" * 64 * MIB)
    before = own_bytes(os.getpid(), 1 << 40)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        assert mapped[:: 1 << 12]
        assert own_bytes(os.getpid(), 1 << 40) - before < 16 * MIB
        mapped[:] = b"y" * len(mapped)
        assert own_bytes(os.getpid(), 1 << 40) - before > 48 * MIB


def test_the_nearer_to_the_limit_the_sooner_the_next_look(grown):
    pid = grown()
    scales = Scales(own_bytes(pid, 1 << 40) + MIB, 0.05)
    assert scales.weigh([pid], now=1.0) == []
    assert scales.due_s == 1.05
    scales = Scales(1 << 50, 0.05)
    assert scales.weigh([pid], now=1.0) == []
    assert scales.due_s == 1.0 + INTERVAL_S_MAX


def test_who_has_too_much_is_named_and_the_most_that_was_seen_is_remembered(grown):
    pid = grown()
    scales = Scales(32 * MIB)
    assert scales.weigh([pid, os.getppid()], now=1.0)[:1] == [pid]
    assert scales.peak(pid) > 64 * MIB
    assert scales.peak(pid) == 0


def test_without_a_limit_nobody_is_weighed():
    assert Scales().due_s == NEVER_S


def test_a_process_that_is_gone_weighs_nothing():
    assert own_bytes(2**22 + 1, 0) == 0


def test_a_machine_ran_out_of_memory_only_if_that_was_just_now(monkeypatch):
    kills = 7
    monkeypatch.setattr(scales_module, "_kills_for_want_of_memory", lambda: kills)
    scales = Scales(1 << 60)
    assert not scales.machine_ran_out()
    kills = 9
    scales.weigh([], 1.0)
    assert scales.machine_ran_out() and scales.machine_ran_out(), "of each that died of it"
    scales.weigh([], 1.5)  # too soon for another look
    assert scales.machine_ran_out()
    scales.weigh([], 2.0)
    assert not scales.machine_ran_out(), "who is killed later was killed by somebody else"
