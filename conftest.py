"""What every test gets: a secret of its own module, and a look afterwards at what it left behind and its daemons did.

A process that a test starts inherits the path of the module's secret file in its environment, and so do its children,
also those that lost their parents: that is how leftovers are told from whatever else runs on this machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from distributed import Pool

LEFTOVERS_WAIT_S = 5.0
SECRET_VARIABLE = "DISTRIBUTED_SECRET_FILE"

WATCH = Path(tempfile.mkdtemp(prefix="watch-"))  # before anything is collected: also collecting may start processes

os.environ.setdefault("DISTRIBUTED_UVLOOP", "0")  # installed or not: the tests of uvloop turn it on

collect_ignore = ["setup.py", "distributed/__main__.py"]


def pytest_configure() -> None:
    """Every process that is started from now on imports the watch, and a daemon is watched from its first line on."""
    shutil.copy(Path(__file__).parent / "tests" / "promises" / "watch.py", WATCH / "sitecustomize.py")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(WATCH), os.environ.get("PYTHONPATH")]))
    sys.path.insert(0, str(WATCH))  # what a local cluster hands on to its daemons
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests beside others has it ignored


def pytest_unconfigure() -> None:
    shutil.rmtree(WATCH, ignore_errors=True)


def watched() -> list[str]:
    """What daemons wrote down since the beginning: that they began, and what they must not do."""
    record = WATCH / "record"
    return record.read_text().splitlines() if record.exists() else []


def forbidden(lines: Iterable[str]) -> list[str]:
    """Those of these lines that tell of a pickle that was loaded or a user's module that was imported by a daemon."""
    return [line for line in lines if not line.endswith(" begins")]


@pytest.fixture(autouse=True, scope="module")
def secret_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where this module's daemons and clients look for the secret; the first of them creates it.

    With TESTS_WITH_TLS=1 they find the credential of TLS there, too, and all that goes over TCP is encrypted.
    """
    path = tmp_path_factory.mktemp("home") / "distributed" / "secret"
    if os.environ.get("TESTS_WITH_TLS"):
        from distributed.wire.credential import find_or_create_credential

        path.parent.mkdir(mode=0o700)
        find_or_create_credential(path.with_name("tls.pem"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET_VARIABLE, str(path))
        yield path


@pytest.fixture
def pool(no_leaks: None) -> Iterator[Pool]:
    """A local pool with two executors."""
    from distributed import Pool

    with Pool(2) as pool:
        yield pool


@pytest.fixture(autouse=True)
def pool_of_examples(request: pytest.FixtureRequest) -> None:
    """An example in a docstring that says ``pool`` has one."""
    if isinstance(request.node, pytest.DoctestItem):
        example = request.node.dtest
        if example is not None and any("pool." in line.source for line in example.examples):
            example.globs.setdefault("pool", request.getfixturevalue("pool"))


@pytest.fixture(autouse=True)
def no_leaks(secret_file: Path) -> Iterator[None]:
    """Fails a test that leaves a process, a thread, a socket or a store's directory behind.

    A module whose tests share a pool says ``no_leaks = leaks_looked_for_by_module()``.
    """
    with nothing_left_behind(secret_file):
        yield


def leaks_looked_for_by_module() -> Any:
    """A fixture that looks when all tests of a module are over, in the place of the one that looks after each."""

    @pytest.fixture(autouse=True, scope="module")
    def no_leaks(secret_file: Path) -> Iterator[None]:
        with nothing_left_behind(secret_file):
            yield

    return no_leaks


@contextlib.contextmanager
def nothing_left_behind(secret_file: Path) -> Iterator[None]:
    """Fails the test or module that runs within if something of it is still there afterwards."""
    if sys.platform != "linux":
        yield
        return
    processes, threads, sockets = processes_with(secret_file), set(threading.enumerate()), open_sockets()
    stores, deeds = store_directories(), len(watched())
    yield
    deadline_s = time.monotonic() + LEFTOVERS_WAIT_S
    new_processes = {pid: name for pid, name in processes_with(secret_file).items() if pid not in processes}
    left = [f"process {pid}: {new_processes[pid]}" for pid in outliving(new_processes, deadline_s)]
    left += [f"thread {thread.name}" for thread in unfinished(set(threading.enumerate()) - threads, deadline_s)]
    if open_sockets() - sockets:
        gc.collect()
    left += [f"socket {name}" for name in sorted(open_sockets() - sockets)]
    left += [f"directory {path}" for path in abandoned(store_directories() - stores)]
    if done := forbidden(watched()[deeds:]):
        pytest.fail("a daemon did what it must not do:\n  " + "\n  ".join(done[:20]), pytrace=False)
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


def processes_with(secret: Path) -> dict[int, str]:
    """The other processes in whose environment this secret file stands, with their command lines."""
    wanted = f"{SECRET_VARIABLE}={secret}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile, or is another user's
            continue
    return found


def outliving(pids: Iterable[int], deadline_s: float) -> list[int]:
    """Those of these processes that do not end before the deadline; they are killed then."""
    left = []
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([descriptor], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
                left.append(pid)
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except ProcessLookupError:
            continue
        finally:
            os.close(descriptor)
    return left


def unfinished(threads: Iterable[threading.Thread], deadline_s: float) -> list[threading.Thread]:
    """Those of these threads that do not end before the deadline."""
    threads = list(threads)
    for thread in threads:
        thread.join(max(0.0, deadline_s - time.monotonic()))
    return [thread for thread in threads if thread.is_alive()]


def open_sockets() -> set[str]:
    """The sockets of this process, by the kernel's names for them."""
    names = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:  # the descriptor that listed the directory
            continue
        if name.startswith("socket:"):
            names.add(name)
    return names


def store_directories() -> set[Path]:
    """The store directories of this user's agents, in memory and on disk."""
    bases = {Path("/dev/shm"), Path(tempfile.gettempdir())}
    return {path for base in bases for path in base.glob(f"distributed-{os.getuid()}-*") if path.is_dir()}


def abandoned(directories: Iterable[Path]) -> list[Path]:
    """Those of these directories that no living agent holds locked; they are removed."""
    found = []
    for path in sorted(directories):
        try:
            if is_in_use(path):
                continue
        except FileNotFoundError:  # its agent, somebody else's, removed it meanwhile
            continue
        found.append(path)
        shutil.rmtree(path, ignore_errors=True)
    return found


def is_in_use(directory: Path) -> bool:
    """Whether a living process holds a lock on this directory, or on a file in it."""
    for path in [directory, *directory.iterdir()]:
        if path != directory and not path.is_file():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False
