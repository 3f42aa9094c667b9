"""Where values go that memory has no room for, when nobody said: on a disk with room, never into memory."""

from __future__ import annotations

import os
import tempfile

import pytest

from distributed import spilling
from distributed.stores import make_store
from distributed.worker.files import Files


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    """The only temporary directory there is, on a disk with room."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(spilling, "kind_of", lambda directory: "ext4" if directory == str(tmp_path) else "tmpfs")
    return str(tmp_path)


def test_what_was_named_is_taken_as_it_is(temporary):
    assert spilling.place("/scratch") == "/scratch"
    assert spilling.place("none") is None


def test_the_temporary_directory_is_taken_if_it_is_on_a_disk(temporary, monkeypatch):
    assert spilling.place(None) == temporary
    monkeypatch.setattr(spilling, "kind_of", lambda directory: "tmpfs")
    assert spilling.place(None) is None


def test_a_disk_without_room_is_not_taken(temporary, monkeypatch):
    class Full:
        f_frsize, f_bavail, f_blocks = 4096, 1000, 1 << 30

    monkeypatch.setattr(os, "statvfs", lambda directory: Full)
    assert spilling.place(None) is None


def test_a_directory_that_does_not_exist_or_is_not_ours_is_not_taken(temporary, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert spilling.place(None) is None


def test_a_disk_that_the_dead_have_filled_is_taken(temporary, monkeypatch):
    left, lock = make_store(temporary)
    os.close(lock)
    monkeypatch.setattr(spilling, "_is_of_use", lambda directory: directory == temporary and not os.path.exists(left))
    assert spilling.place(None) == temporary


def test_memory_is_told_from_disk():
    assert spilling.kind_of("/proc") == "proc"
    assert spilling.kind_of("/no/such/directory") == ""


def test_a_part_of_the_disk_is_left_to_others(tmp_path, monkeypatch):
    files = Files(str(tmp_path), str(tmp_path / "spill"))

    class NearlyFull:
        f_frsize, f_bavail, f_blocks = 1, 60_000, 1_000_000

    monkeypatch.setattr(os, "statvfs", lambda directory: NearlyFull)
    assert os.path.dirname(files.reserve(9_000, on_disk=True)) == files.spill_directory
    with pytest.raises(Exception, match=r"58.6 KiB are free on that disk, of which 48.8 KiB are left to others"):
        files.reserve(11_000, on_disk=True)
    monkeypatch.undo()
    files.close()
