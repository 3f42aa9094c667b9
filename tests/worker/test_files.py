"""A worker's files on real directories: room, names, links, spilling, and what is left by the dead."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys

import pytest

from distributed.errors import StartFailed, StoreFull
from distributed.stores import remove_store, sweep
from distributed.worker import files as files_module
from distributed.worker.files import Files


@pytest.fixture
def files(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    files = Files(str(base), str(tmp_path / "spill"))
    yield files
    files.close()


def write(path, data):
    with open(path, "r+b") as file:
        file.write(data)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def test_a_reserved_file_has_its_size_and_belongs_to_us_alone(files):
    path = files.reserve(100_000)
    status = os.stat(path)
    assert status.st_size == 100_000
    assert status.st_blocks * 512 >= 100_000
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert stat.S_IMODE(os.stat(files.directory).st_mode) == 0o700


def test_no_room_is_store_full_and_leaves_no_file(files):
    before = os.listdir(files.directory)
    with pytest.raises(StoreFull, match=r"no room for 1048576\.0 TiB"):
        files.reserve(1 << 60)
    assert os.listdir(files.directory) == before


def test_a_link_shares_the_bytes_and_outlives_the_peer(files, tmp_path):
    peer = Files(files.base)
    theirs = peer.reserve(5)
    write(theirs, b"alice")
    mine = files.link(theirs)
    assert mine is not None
    assert os.path.samefile(mine, theirs)
    peer.close()
    assert read(mine) == b"alice"


@pytest.mark.parametrize("name", ["secret", "nonce", "v1"])
def test_only_values_of_stores_are_linked(files, tmp_path, name):
    (tmp_path / name).write_text("private")
    assert files.link(str(tmp_path / name)) is None
    assert files.link(os.path.join(files.directory, "nonce")) is None


def test_a_symbolic_link_in_a_peers_store_is_not_taken_for_a_value(files, tmp_path):
    peer = Files(files.base)
    (tmp_path / "private").write_text("private")
    os.symlink(tmp_path / "private", os.path.join(peer.directory, "v99"))
    assert files.link(os.path.join(peer.directory, "v99")) is None
    peer.close()


def test_a_missing_file_cannot_be_linked(files):
    assert files.link(os.path.join(files.directory, "v77")) is None


def test_spilling_keeps_the_bytes(files):
    path = files.reserve(300_000)
    write(path, data := os.urandom(300_000))
    spilled = files.spill(path)
    files.remove(path)
    assert os.path.dirname(spilled) == files.spill_directory
    assert read(spilled) == data


def test_where_no_spill_directory_can_be_made_nothing_is_left(tmp_path):
    (tmp_path / "file").touch()
    for spill, why in (("file/spill", "Not a directory"), ("typo/spill", "No such file or directory")):
        with pytest.raises(StartFailed, match=f"values cannot be spilled in {tmp_path / spill}: {why}"):
            Files(str(tmp_path), str(tmp_path / spill))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_directories_are_made_beside_what_is_there_and_nowhere_else(tmp_path):
    with pytest.raises(StartFailed, match=f"values cannot be kept in {tmp_path}/typo/kept: No such file"):
        Files(str(tmp_path / "typo" / "kept"))
    Files(str(tmp_path / "kept"), str(tmp_path / "spilled")).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "spilled"]


def test_without_a_spill_directory_spilling_is_store_full(tmp_path):
    files = Files(str(tmp_path))
    with pytest.raises(StoreFull, match="spill directory"):
        files.spill(files.reserve(10))
    files.close()


def test_remove_is_idempotent_and_refuses_foreign_paths(files, tmp_path):
    path = files.reserve(1)
    files.remove(path)
    files.remove(path)
    assert not os.path.exists(path)
    (tmp_path / "other").write_text("")
    with pytest.raises(ValueError):
        files.remove(str(tmp_path / "other"))
    assert (tmp_path / "other").exists()


def test_close_leaves_nothing(tmp_path):
    files = Files(str(tmp_path / "."), str(tmp_path / "spill"))
    files.spill(files.reserve(10))
    files.close()
    assert os.listdir(tmp_path) == ["spill"]
    assert os.listdir(tmp_path / "spill") == []


def test_sweep_takes_what_the_dead_left_and_spares_the_living(tmp_path, files):
    code = f"import os; from distributed.worker.files import Files; f = Files({files.base!r}); print(f.directory)\n"
    dead = subprocess.run(
        [sys.executable, "-c", code + "f.reserve(10); os.kill(os.getpid(), 9)"], stdout=subprocess.PIPE, text=True
    )
    assert dead.returncode == -9
    # The line may be lost with the process: what counts is what lies there.
    (left,) = {os.path.join(files.base, name) for name in os.listdir(files.base)} - {files.directory}
    assert sweep(files.base) == [left]
    assert os.listdir(files.base) == [os.path.basename(files.directory)]


def test_sweep_leaves_other_peoples_directories_alone(tmp_path):
    for name in ("data", "distributed-0", f"distributed-{os.getuid() + 1}-{'0' * 16}"):
        (tmp_path / name).mkdir()
    assert sweep(str(tmp_path)) == []
    assert len(os.listdir(tmp_path)) == 3
    remove_store(str(tmp_path / "data"))
    assert (tmp_path / "data").exists()


def test_too_small_shared_memory_falls_back_with_a_warning(monkeypatch):
    monkeypatch.setattr(files_module, "CAPACITY_BYTES_MIN", 1 << 60)
    files = Files()
    assert "may be slow" in files.warning
    assert not files.directory.startswith("/dev/shm")
    files.close()
    assert not os.path.exists(files.directory)


def test_capacity_does_not_shrink_by_what_we_hold_ourselves(tmp_path):
    files = Files()
    before = files.capacity()
    files.reserve(32 << 20)
    assert before - files.capacity() < 16 << 20  # others use the same room meanwhile
    files.close()
    shutil.rmtree(files.directory, ignore_errors=True)
