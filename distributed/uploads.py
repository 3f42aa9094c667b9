"""Code that a program sends along: gathered from its files here, planted where executors import from there.

A tree is a list of paths and hashes; files travel by their hashes, so of a tree that changed only what changed does. In
an executor the newest tree that a task needs stands at the front of the search path, and modules of the one before are
forgotten, so that they are imported anew. Nothing here knows how bytes travel.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from distributed.config import MIB, SETTINGS

SKIPPED_DIRECTORIES: Final = frozenset(
    {"__pycache__", ".git", ".hg", ".svn", ".venv", ".tox", ".mypy_cache", ".ruff_cache"}
)
SKIPPED_SUFFIXES: Final = (".pyc", ".pyo")
CODE_SUFFIXES: Final = (".py", ".so")

Files = dict[str, bytes]
"""Path below the place that is imported from, with slashes, and the content."""


# -------------------------------------------------------------------------------------------------------- at the client


def gather(path: str) -> Files:
    """The files of a module, a directory (importable by its own name) or a zip (what it holds is importable)."""
    source = Path(path)
    if source.is_dir():
        files = _bounded(path, _of_directory(source.resolve()))
    elif not source.exists():
        raise FileNotFoundError(f"there is nothing to upload at {path!r} (looked from {os.getcwd()})")
    elif zipfile.is_zipfile(source):
        files = _bounded(path, _of_zip(source))
    elif source.suffix == ".py":
        files = _bounded(path, iter([(source.name, source.stat().st_size, source.read_bytes)]))
        _require_python(str(source), files[source.name])
    else:
        raise ValueError(f"path={path!r} is neither a .py file, nor a directory, nor a zip: upload() takes these")
    if not any(name.endswith((".py", ".so")) for name in files):
        raise ValueError(f"there is no code in {path!r}: no .py or .so file")
    return files


def _require_python(path: str, code: bytes) -> None:
    """SyntaxError now, rather than in a task. Only for a module by itself: of many files some may be something else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compile(code, path, "exec", dont_inherit=True)


def _bounded(path: str, entries: Iterator[tuple[str, int, object]]) -> Files:
    files: Files = {}
    total = 0
    for name, nbytes, read in entries:
        total += nbytes
        if total > SETTINGS.upload_bytes_max:
            raise ValueError(
                f"{path!r} has more than {SETTINGS.upload_bytes_max // MIB} MiB: upload() is for code; data goes by "
                "scatter(), or raise DISTRIBUTED_UPLOAD_BYTES_MAX"
            )
        files[name] = read()  # type: ignore[operator]
        total += len(files[name]) - nbytes
    return files


def _of_directory(root: Path) -> Iterator[tuple[str, int, object]]:
    for directory, names, files in os.walk(root):
        for name in [*names]:
            if name in SKIPPED_DIRECTORIES:
                names.remove(name)
            elif os.path.islink(os.path.join(directory, name)):
                raise ValueError(f"{os.path.join(directory, name)!r} is a link to a directory: upload that one itself")
        names.sort()
        for name in sorted(files):
            file = Path(directory, name)
            if not name.endswith(SKIPPED_SUFFIXES) and file.is_file():  # sockets and the like are no code
                place = checked(f"{root.name}/{file.relative_to(root).as_posix()}")
                yield place, file.stat().st_size, file.read_bytes


def _of_zip(path: Path) -> Iterator[tuple[str, int, object]]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise ValueError(f"{entry.filename!r} in {path} is a link: it could lead anywhere")
            if not entry.is_dir() and not entry.filename.endswith(SKIPPED_SUFFIXES):
                yield checked(entry.filename), entry.file_size, lambda entry=entry: _read(archive, entry)


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as file:
        data = file.read(entry.file_size + 1)
    if len(data) != entry.file_size:
        raise ValueError(f"{entry.filename!r} in {archive.filename} has another size than it says")
    return data


def checked(name: str) -> str:
    """A relative path that stays below where it begins.

    >>> checked('package/module.py')
    'package/module.py'
    >>> checked('../module.py')
    Traceback (most recent call last):
    ValueError: '../module.py' leads out of the place where it is unpacked
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]:
        raise ValueError(f"{name!r} leads out of the place where it is unpacked")
    return "/".join(parts)


def top_of(path: str) -> str:
    """The name by which the file, or the package that it is in, is imported.

    >>> top_of('package/module.py'), top_of('module.py'), top_of('fast.cpython-313-x86_64-linux-gnu.so')
    ('package', 'module', 'fast')
    """
    return path.partition("/")[0].partition(".")[0]


def tops_of(paths: Iterable[str]) -> set[str]:
    """The names by which these are imported; a file of data beside the code has none.

    >>> sorted(tops_of(['package/module.py', 'package/data.json', 'module.py', 'model.json', 'README']))
    ['module', 'package']
    """
    return {top_of(path) for path in paths if "/" in path or path.endswith(CODE_SUFFIXES)}


def name_of(data: bytes) -> bytes:
    """What a content is called: its hash."""
    return hashlib.blake2b(data, digest_size=16).digest()


class Bundle:
    """Contents of files; in an executor, calling it keeps them there by their names."""

    def __init__(self, contents: list[bytes]) -> None:
        self.contents = contents

    def __call__(self) -> None:
        while self.contents:  # from then on they are files
            keep(self.contents.pop())


class Tree:
    """Paths and the names of their contents; in an executor, calling it makes it what is imported from."""

    def __init__(self, paths: dict[str, bytes]) -> None:
        self.paths = paths

    def __call__(self) -> None:
        global _called_last
        if _called_last is not self:  # before each batch of tasks: to name a thousand files takes a millisecond
            plant(self.paths)
            _called_last = self


# ------------------------------------------------------------------------------------------------------ in an executor

STORE: Final = "DISTRIBUTED_STORE"  # in the environment of executors: a directory that goes when their worker goes

_ground = ""  # where contents are, and trees: of all executors of a worker
_standing = ""  # the tree that is imported from now,
_called_last: Tree | None = None  # and who made it that


def keep(data: bytes) -> None:
    """Have this content at hand, as a file by its name."""
    path = os.path.join(_prepared_ground(), "contents", name_of(data).hex())
    if not os.path.exists(path):
        draft = f"{path}.{secrets.token_hex(8)}"
        Path(draft).write_bytes(data)
        os.replace(draft, path)


def plant(paths: dict[str, bytes]) -> None:
    """From now on this tree is imported from, and nothing of the one before."""
    global _standing
    directory = _made(paths)
    if directory == _standing:
        return
    if _standing in sys.path:
        sys.path.remove(_standing)
    tops = tops_of(paths) - sys.stdlib_module_names - {"distributed"}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in tops or _is_below(module, _standing):  # from there, or from elsewhere before
            del sys.modules[name]
    sys.path.insert(0, directory)
    importlib.invalidate_caches()
    _standing = directory


def _made(paths: dict[str, bytes]) -> str:
    """The directory with this tree; made if no executor of the worker has needed it yet, and then there as a whole."""
    name = name_of(repr(sorted(paths.items())).encode()).hex()
    ground = _prepared_ground()
    directory = os.path.join(ground, name)
    if not os.path.isdir(directory):
        draft = tempfile.mkdtemp(dir=ground)
        try:
            for path, content in paths.items():
                target = Path(draft, checked(path))
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(os.path.join(ground, "contents", content.hex()), target)
            os.rename(draft, directory)
        except OSError:
            if not os.path.isdir(directory):  # else another executor was first
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return directory


def _prepared_ground() -> str:
    global _ground
    if not _ground:
        store = os.environ.get(STORE)
        _ground = os.path.join(store, "uploads") if store else tempfile.mkdtemp(prefix="uploads-")
        os.makedirs(os.path.join(_ground, "contents"), mode=0o700, exist_ok=True)
    return _ground


def _is_below(module: object, directory: str) -> bool:
    """Whether a module, or a package without an __init__, was imported from there."""
    if not directory:
        return False
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any(isinstance(place, str) and place.startswith(directory + os.sep) for place in places)
