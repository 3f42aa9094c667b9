"""What lies on disk and in memory is its owner's alone, has names nobody can guess, and follows no link of others.

Somebody else on the machine can write to ``/dev/shm`` and ``/tmp``, too, and may have put something there before us.
Their files would be another user's; tests have one user only, so what stands here does without looking at the owner.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import stat
import tempfile
from pathlib import Path

import pytest

from conftest import nothing_left_behind
from distributed import Pool, rpc
from distributed.errors import SecretUnusable, StartFailed
from distributed.pieces import open_to_read, open_to_write
from distributed.stores import SHARED_MEMORY, remove_store, sweep
from distributed.wire.security import find_or_create_secret, find_secret
from distributed.worker import files as files_module
from distributed.worker.files import Files
from tests.promises.observe import PATIENCE_S, terminals, until

STORE_NAME = re.compile(rf"distributed-{os.getuid()}-([0-9a-f]{{16}})")


@pytest.fixture
def no_mask():
    """As under a shell that hides nothing of what it makes."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes_below(directory):
    """Type and permissions of everything in a directory, itself included."""
    found = {directory: os.lstat(directory).st_mode}
    for parent, names, others in os.walk(directory):
        for name in names + others:
            path = os.path.join(parent, name)
            found[path] = os.lstat(path).st_mode
    return found


def is_private(mode):
    return not mode & 0o077


# ------------------------------------------------------------------------------------------------------ what is there


@pytest.fixture
def base():
    """Where a path is short enough for a Unix socket, however long that of temporary files is here."""
    base = Path(tempfile.mkdtemp(dir=SHARED_MEMORY))
    base.chmod(0o777)
    yield base
    shutil.rmtree(base)


def test_all_that_a_cluster_leaves_on_disk_is_its_owners_alone(no_mask, base, tmp_path, secret_file):
    """The store, the spill directory, values in both, the nonce, the Unix socket, the secret; whatever the umask is."""
    spill = tmp_path / "spill"
    with nothing_left_behind(secret_file), terminals() as terminal:
        center = terminal("center", "--port", "0")
        address = center.said()["Center"]
        options = ("--directory", str(base), "--spill-directory", str(spill), "--memory-limit", "20MiB")
        worker = terminal("worker", address, "--ncores", "1", *options)
        there = worker.said()["Worker"]
        with rpc(there) as remote, Pool(address) as pool:
            results = pool.map(bytes, [8 << 20] * 4)
            assert [len(value.get(PATIENCE_S)) for value in results] == [8 << 20] * 4
            for number in range(4):
                remote.update_data(data={f"kept{number}": bytes(8 << 20)})
            assert until(lambda: remote.status()["spilled_bytes"])
            modes = modes_below(str(base)) | modes_below(str(spill))
        assert [daemon.end(signal.SIGTERM)[0] for daemon in (worker, center)] == [0, 0]
    del modes[str(base)], modes[str(spill)]  # made by whoever started the worker
    stores = [path for path in modes if STORE_NAME.fullmatch(os.path.basename(path))]
    kinds = {stat.S_IFMT(mode) for mode in modes.values()}
    assert len(stores) == 2
    assert kinds == {stat.S_IFDIR, stat.S_IFREG, stat.S_IFSOCK}
    assert any(path.startswith(str(spill)) and "/v" in path for path in modes), "something was spilled"
    assert {oct(mode) for mode in modes.values() if not is_private(mode)} == set()
    assert all(stat.S_IMODE(modes[store]) == 0o700 for store in stores)
    assert stat.S_IMODE(secret_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(secret_file.parent.stat().st_mode) == 0o700


def test_names_of_stores_and_the_nonce_cannot_be_guessed(tmp_path):
    stores = [Files(str(tmp_path)) for _ in range(20)]
    words = {STORE_NAME.fullmatch(os.path.basename(files.directory))[1] for files in stores}
    nonces = {Path(files.directory, "nonce").read_text() for files in stores}
    for files in stores:
        files.close()
    assert len(words) == len(nonces) == 20
    assert all(re.fullmatch("[0-9a-f]{64}", nonce) for nonce in nonces)


# --------------------------------------------------------------------------------------------- what others have planted


@pytest.mark.parametrize("is_dangling", [False, True])
def test_a_link_at_the_place_of_a_new_store_is_not_taken_for_one(tmp_path, monkeypatch, is_dangling):
    """Whoever guessed the name gets no store put where they like: it is an error, and their place stays empty."""
    elsewhere = tmp_path / "elsewhere"
    if not is_dangling:
        elsewhere.mkdir()
    monkeypatch.setattr(files_module.secrets, "token_hex", lambda count: "0" * 2 * count)
    planted = tmp_path / f"distributed-{os.getuid()}-{'0' * 16}"
    planted.symlink_to(elsewhere)
    with pytest.raises(StartFailed, match="File exists"):
        Files(str(tmp_path))
    assert planted.is_symlink()
    assert not elsewhere.exists() or os.listdir(elsewhere) == []


def test_neither_sweep_nor_removal_follows_a_link_that_looks_like_a_store(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "v1").write_text("mine")
    planted = tmp_path / f"distributed-{os.getuid()}-{secrets.token_hex(8)}"
    planted.symlink_to(elsewhere)
    assert sweep(str(tmp_path)) == []
    remove_store(str(planted))
    assert (elsewhere / "v1").read_text() == "mine"


def test_sweep_removes_a_link_inside_a_dead_store_and_not_what_it_leads_to(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "v1").write_text("mine")
    dead = tmp_path / f"distributed-{os.getuid()}-{secrets.token_hex(8)}"
    dead.mkdir(mode=0o700)
    (dead / "v1").symlink_to(elsewhere / "v1")
    (dead / "v2").symlink_to(elsewhere)
    assert sweep(str(tmp_path)) == [str(dead)]
    assert (elsewhere / "v1").read_text() == "mine"


@pytest.fixture
def files(tmp_path):
    files = Files(str(tmp_path), str(tmp_path / "spill"))
    yield files
    files.close()


def test_a_link_at_the_place_of_a_new_value_is_an_error_and_is_not_written_through(files, tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "precious").chmod(0o600)
    for directory in (files.directory, files.spill_directory):
        for number in range(1, 30):
            os.symlink(tmp_path / "precious", os.path.join(directory, f"v{number:x}"))
    with pytest.raises(FileExistsError):
        files.reserve(4)
    source = tmp_path / "value"
    source.write_text("theirs")
    with pytest.raises(FileExistsError):
        files.spill(str(source))
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_value_that_became_a_link_is_neither_read_nor_written(files, tmp_path):
    (tmp_path / "precious").write_text("mine")
    path = files.reserve(4)
    os.unlink(path)
    os.symlink(tmp_path / "precious", path)
    for opened in (open_to_read, open_to_write):
        with pytest.raises(OSError, match=r"symbolic|links"):
            opened(path)
    with pytest.raises(OSError, match=r"symbolic|links"):
        files.spill(path)
    files.remove(path)
    assert (tmp_path / "precious").read_text() == "mine"
    assert not os.path.lexists(path)


# ---------------------------------------------------------------------------------------------------------- the secret


def test_a_link_to_nowhere_at_the_place_of_the_secret_is_not_written_through(tmp_path):
    """Else whoever planted it could read what is created at its other end."""
    elsewhere, planted = tmp_path / "elsewhere", tmp_path / "secret"
    planted.symlink_to(elsewhere)
    with pytest.raises(SecretUnusable):
        find_or_create_secret(planted)
    assert not elsewhere.exists()
    assert os.listdir(tmp_path) == ["secret"], "no draft is left"


def test_a_secret_that_others_may_read_is_refused_also_behind_a_link(tmp_path):
    target, link = tmp_path / "target", tmp_path / "secret"
    target.write_text("ab" * 32)
    target.chmod(0o644)
    link.symlink_to(target)
    with pytest.raises(SecretUnusable, match="others can read"):
        find_or_create_secret(link)
    target.chmod(0o600)
    assert find_secret(link) == find_secret(target), "a link of one's own is nobody else's business"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("reader", [54321, 0], ids=["a user", "root"])
def test_a_secret_of_another_user_is_refused(tmp_path, monkeypatch, reader):
    """Also by root: with `sudo dcenter`, whoever planted the file would have a door into a daemon of root's."""
    path = tmp_path / "secret"
    path.write_text("ab" * 32)
    path.chmod(0o600)
    os.chown(path, 12345, 12345)
    monkeypatch.setattr(os, "geteuid", lambda: reader)
    with pytest.raises(SecretUnusable, match="another user"):
        find_secret(path)
    os.chown(path, 0, 0)
    assert find_secret(path), "what root provides is for everybody who can read it"


def test_the_draft_of_the_secret_is_private_and_has_a_name_that_cannot_be_guessed(tmp_path, monkeypatch, no_mask):
    drafts = []
    link = os.link

    def observed(source, target):
        drafts.append((os.path.basename(source), stat.S_IMODE(os.stat(source).st_mode)))
        link(source, target)

    monkeypatch.setattr(os, "link", observed)
    find_or_create_secret(tmp_path / "new" / "secret")
    ((name, mode),) = drafts
    assert re.fullmatch("secret[.][0-9a-f]{16}", name)
    assert mode == 0o600
    assert os.listdir(tmp_path / "new") == ["secret"]
