"""Spare files: used again only when nobody else has them, bounded, given back."""

from __future__ import annotations

import mmap
import os

import pytest

from distributed.errors import StoreFull
from distributed.pieces import never_fill_again, open_to_read
from distributed.worker import files as files_module
from distributed.worker.files import Files

MIB = 1 << 20


@pytest.fixture
def files():
    files = Files()
    if not files._spares._is_of_use:
        files.close()
        pytest.skip("the kernel does not tell here who has a file mapped")
    yield files
    files.close()


def inode(path):
    return os.stat(path).st_ino


def removed(files, nbytes=2 * MIB):
    """The inode of a file that was a value, and its old path."""
    path = files.reserve(nbytes)
    found = inode(path)
    files.remove(path)
    assert not os.path.exists(path)
    return found, path


def held_bytes(files):
    return sum(entry.stat().st_blocks * 512 for entry in os.scandir(files.directory))


@pytest.mark.parametrize("nbytes", [MIB, 2 * MIB - 5, 2 * MIB, 3 * MIB + 1])
def test_a_removed_file_is_the_next_one_of_its_size_or_nearly(files, nbytes):
    spare, _ = removed(files)
    again = files.reserve(nbytes)
    assert inode(again) == spare
    status = os.stat(again)
    assert status.st_size == nbytes
    assert status.st_blocks * 512 >= nbytes


def test_a_small_file_is_not_made_of_a_large_one(files):
    spare, _ = removed(files, 16 * MIB)
    assert inode(files.reserve(MIB)) != spare


@pytest.mark.parametrize("how", ["open", "mapped", "linked"])
def test_what_somebody_has_is_not_filled_again_until_they_let_go(files, how):
    path = files.reserve(2 * MIB)
    spare = inode(path)
    with open(path, "r+b") as file:
        file.write(b"alice")
    descriptor = os.open(path, os.O_RDONLY)
    mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    if how != "open":
        os.close(descriptor)
    if how == "linked":
        mapped.close()
        os.link(path, other := path + "x")
    files.remove(path)
    assert inode(files.reserve(2 * MIB)) != spare
    if how == "linked":
        with open(other, "rb") as file:
            assert file.read(5) == b"alice"
    else:
        assert mapped[:5] == b"alice"
        mapped.close()
    if how == "open":
        os.close(descriptor)


def test_who_comes_late_finds_nothing_by_the_old_name(files):
    spare, path = removed(files)
    assert inode(files.reserve(2 * MIB)) == spare
    with pytest.raises(FileNotFoundError):
        open_to_read(path)
    peer = Files(files.base)
    assert peer.link(path) is None
    peer.close()


def test_a_file_given_up_while_it_was_being_opened_is_not_opened(files, monkeypatch):
    path = files.reserve(2 * MIB)

    def look(opened):
        files.remove(path)
        return fstat(opened)

    fstat = os.fstat
    monkeypatch.setattr(os, "fstat", look)
    with pytest.raises(FileNotFoundError):
        open_to_read(path)


def test_a_file_given_up_while_it_was_being_linked_is_not_linked(files, monkeypatch):
    peer = Files(files.base)
    theirs = files.reserve(2 * MIB)

    def link_late(source, target, **options):
        link(source, target, **options)
        files.remove(theirs)

    link = os.link
    monkeypatch.setattr(os, "link", link_late)
    assert peer.link(theirs) is None
    assert [name for name in os.listdir(peer.directory) if name.startswith("v")] == []
    peer.close()


@pytest.mark.parametrize("is_removed_first", [False, True])
def test_a_marked_file_is_not_filled_again(files, is_removed_first):
    path = files.reserve(2 * MIB)
    spare = inode(path)
    descriptor = open_to_read(path)
    if is_removed_first:
        files.remove(path)
    never_fill_again(descriptor)
    if not is_removed_first:
        files.remove(path)
    os.close(descriptor)
    assert inode(files.reserve(2 * MIB)) != spare


def test_a_peers_file_is_left_to_the_peer(files):
    peer = Files(files.base)
    theirs = peer.reserve(2 * MIB)
    spare = inode(theirs)
    mine = files.link(theirs)
    peer.remove(theirs)
    assert inode(peer.reserve(2 * MIB)) != spare, "we have it still"
    files.remove(mine)
    assert inode(files.reserve(2 * MIB)) != spare, "who made it fills it again"
    peer.close()


def test_spares_are_bounded_and_the_oldest_go_first(files, monkeypatch):
    monkeypatch.setattr(files, "_spare_bytes_max", lambda: 4 * MIB)
    paths = [files.reserve(2 * MIB) for _ in range(3)]
    inodes = [inode(path) for path in paths]
    assert [files.remove(path) for path in paths] == [False, False, True]
    files.tidy()
    assert held_bytes(files) < 5 * MIB
    assert {inode(files.reserve(2 * MIB)) for _ in range(2)} == set(inodes[1:])


def test_spares_that_nobody_needs_are_given_back(files):
    removed(files)
    assert files.age()
    assert held_bytes(files) >= 2 * MIB, "not at once"
    assert not files.age()
    assert held_bytes(files) < MIB


def test_spares_are_free_room(files, monkeypatch):
    removed(files)
    allocate, refused = os.posix_fallocate, []

    def refuse_once(descriptor, offset, nbytes):
        if not refused:
            refused.append(nbytes)
            raise OSError(28, "No space left on device")
        allocate(descriptor, offset, nbytes)

    monkeypatch.setattr(os, "posix_fallocate", refuse_once)
    assert os.path.exists(files.reserve(16 * MIB))
    assert held_bytes(files) < 17 * MIB
    refused.clear()
    with pytest.raises(StoreFull):
        files.reserve(16 * MIB)


def test_where_the_kernel_does_not_tell_of_mappings_nothing_is_kept(monkeypatch):
    monkeypatch.setattr("distributed.worker.spares._has_lease", lambda descriptor: True)
    files = Files()
    spare, _ = removed(files)
    assert inode(files.reserve(2 * MIB)) != spare
    files.tidy()
    assert held_bytes(files) < 3 * MIB
    files.close()


def test_all_workers_of_a_machine_share_what_may_be_kept(files):
    alone = files._spare_bytes_max()
    more = [Files(files.base) for _ in range(63)]
    assert files._spare_bytes_max() <= max(alone // 4, files_module.MIB)
    for one in more:
        one.close()
