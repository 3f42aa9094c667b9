"""The daemons carry pickles and never load one: neither does user code run in them, nor are users' modules imported.

Every process of a real cluster is watched from its first line on by a `sitecustomize` that writes down each import,
each class or function that a pickle asks for, and each call of `pickle` itself. The executors and the client show that
the watch sees what there is to be seen. All other tests are watched, too, by `watch.py`, which writes down less.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections import defaultdict
from pathlib import Path

import pytest

import conftest
from conftest import forbidden
from conftest import watched as watched_so_far
from distributed import Pool
from tests.promises.observe import PATIENCE_S, terminals

WATCH = """
import os, pickle, sys

directory = os.environ["WATCH_DIRECTORY"]

def write(line):
    descriptor = os.open(f"{directory}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"{line}\\n".encode())
    os.close(descriptor)

def hook(event, arguments):
    if event == "pickle.find_class":
        write(f"find {arguments[0]}.{arguments[1]}")
    elif event == "import":
        write(f"import {arguments[0]}")

def watched(name, function):
    def call(*arguments, **options):
        write(f"load {name}")
        return function(*arguments, **options)
    return call

class Unpickler(pickle.Unpickler):
    def load(self):
        write("load Unpickler")
        return super().load()

write("begin " + " ".join(sys.orig_argv))
pickle.load, pickle.loads, pickle.Unpickler = watched("load", pickle.load), watched("loads", pickle.loads), Unpickler
sys.addaudithook(hook)
"""

USERS_MODULE = """
class Account:
    def __init__(self, owner):
        self.owner = owner

class Overdrawn(Exception):
    def __init__(self, owner, amount):
        super().__init__(owner, amount)

def open_account(owner):
    return Account(owner)

def owner_of(account):
    return account.owner

def withdraw(account, amount):
    raise Overdrawn(account.owner, amount)
"""

PROGRAM = """
import dataclasses, sys
import bank
from distributed import Pool

@dataclasses.dataclass
class Point:
    x: int
    def __add__(self, other):
        return Point(self.x + other.x)

class Lost(Exception):
    pass

def lose(point):
    raise Lost(point)

def large(number):
    return [bytearray(300_000), number]

if __name__ == "__main__":
    with Pool(sys.argv[1]) as pool:
        assert [value.get() for value in pool.map(lambda x: x + 1, range(100))] == list(range(1, 101))
        points = pool.map(Point, range(10))
        assert pool.submit(sum, points, Point(0)).get() == Point(45)
        account = pool.submit(bank.open_account, "alice")
        assert pool.submit(bank.owner_of, account).get() == account.get().owner == "alice"
        for failing, kind in ((pool.submit(bank.withdraw, account, 5), bank.Overdrawn),
                              (pool.submit(lose, Point(1)), Lost)):
            try:
                failing.get()
            except kind:
                pass
            else:
                raise AssertionError(kind)
        blocks = pool.map(large, range(8))
        assert pool.submit(lambda blocks: sum(block[1] for block in blocks), blocks).get() == sum(range(8))
        assert sum(pool.imap(lambda x: bank.Account(x).owner, iter(range(50)))) == sum(range(50))
        pool.publish("account", account)
        with Pool(sys.argv[1]) as other:
            assert other["account"].get().owner == "alice"
            assert other.submit(bank.owner_of, other["account"]).get() == "alice"
        pool.unpublish("account")
        scattered = pool.scatter([Point(3), bank.Account("bob"), bytes(200_000)])
        assert pool.submit(lambda point, account, data: (point.x, account.owner, len(data)), *scattered).get() == (
            3, "bob", 200_000)
        print("done")
"""


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """The environment of all processes that this test starts, and what they wrote: by pid, a list of lines."""
    for name, source in (("sitecustomize", WATCH), ("bank", USERS_MODULE), ("program", PROGRAM)):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
    (tmp_path / "watch").mkdir()
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), root]))
    monkeypatch.setenv("WATCH_DIRECTORY", str(tmp_path / "watch"))

    def lines():
        found = defaultdict(list)
        for path in (tmp_path / "watch").iterdir():
            found[int(path.name)] = path.read_text().splitlines()
        return found

    lines.program = tmp_path / "program.py"
    return lines


def of_kind(lines, kind):
    return {line.partition(" ")[2] for line in lines if line.startswith(f"{kind} ")}


def test_center_and_agent_load_no_pickle_and_import_no_module_of_a_user(watched):
    with terminals() as terminal:
        center = terminal("center", "--port", "0")
        address = center.said()["Center"]
        workers = [terminal("worker", address, "--ncores", "2") for _ in range(2)]
        for worker in workers:
            worker.said()
        done = subprocess.run(
            [sys.executable, watched.program, address], capture_output=True, text=True, timeout=3 * PATIENCE_S
        )
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
        daemons = {daemon.process.pid for daemon in (center, *workers)}
        assert [daemon.end(signal.SIGTERM)[0] for daemon in (*workers, center)] == [0, 0, 0]
    lines = watched()
    for pid in daemons:
        assert of_kind(lines[pid], "begin"), "it was watched"
        assert "distributed.wire.codec" in of_kind(lines[pid], "import"), "from its beginning"
        assert of_kind(lines[pid], "find") == set()
        assert of_kind(lines[pid], "load") == set()
        assert of_kind(lines[pid], "import").isdisjoint({"bank", "program", "__mp_main__"})
    others = [line for pid, found in lines.items() if pid not in daemons for line in found]
    assert {"bank.Account", "bank.open_account"} <= of_kind(others, "find"), "executors and client do load"
    assert "bank" in of_kind(others, "import")
    assert of_kind(others, "load")


# ----------------------------------------------------------------------------------------------- in all other tests


def test_the_watch_that_tests_look_at_is_the_one_that_watches():
    """A second file of that name, imported under the same one, would have a record of its own, in which nothing is."""
    assert str(conftest.WATCH) in os.environ["PYTHONPATH"].split(os.pathsep)


def test_daemons_of_all_tests_are_watched(tmp_path):
    before = len(watched_so_far())
    with Pool(1) as pool, terminals() as terminal:
        center = terminal("center", "--port", "0")
        worker = terminal("worker", center.said()["Center"], "--ncores", "1")
        worker.said()
        assert pool.submit(abs, -1).get(PATIENCE_S) == 1
        pids = {str(daemon.process.pid) for daemon in (center, worker)}
        assert [daemon.end(signal.SIGTERM)[0] for daemon in (worker, center)] == [0, 0]
    begun = {line.split()[0] for line in watched_so_far()[before:] if line.endswith(" begins")}
    assert pids < begun
    assert len(begun) == 3, "and the one inside of the pool; neither executors nor what they are forked from"


@pytest.mark.parametrize(("name", "is_noticed"), [("dworker", True), ("dcenter", True), ("program", False)])
def test_a_daemon_that_did_load_a_pickle_or_import_a_module_would_be_noticed(tmp_path, name, is_noticed):
    """What is noticed here is taken off the record again, or this test would fail as every other would."""
    (tmp_path / "bank.py").write_text("account = 1")
    (tmp_path / name).write_text(
        "import pickle, decimal\nimport bank\npickle.loads(pickle.dumps(decimal.Decimal(1)))\n"
    )
    before = watched_so_far()
    subprocess.run([sys.executable, tmp_path / name], check=True)
    noticed = forbidden(watched_so_far()[len(before) :])
    (conftest.WATCH / "record").write_text("".join(f"{line}\n" for line in before))
    deeds = [line.partition(": ")[2] for line in noticed]
    expected = ["imported bank", "called pickle.loads", "looked for decimal.Decimal for a pickle"]
    assert deeds == (expected if is_noticed else [])
