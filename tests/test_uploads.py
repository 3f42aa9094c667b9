"""Code that is sent along: what is gathered, what is refused, and what an executor imports then."""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import zipfile

import pytest

from conftest import leaks_looked_for_by_module
from distributed import Cluster, Pool
from distributed.config import SETTINGS, Settings
from distributed.pool.needs import Needs
from distributed.uploads import Tree, checked, gather, name_of


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def zipped(path, entries):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return str(path)


def test_a_module_a_directory_and_a_zip_become_paths_below_where_imports_begin(tmp_path):
    write(tmp_path / "tool.py", "x = 1\n")
    assert gather(str(tmp_path / "tool.py")) == {"tool.py": b"x = 1\n"}
    write(tmp_path / "package/__init__.py")
    write(tmp_path / "package/deep/part.py", "y = 2\n")
    write(tmp_path / "package/data.txt", "z")
    write(tmp_path / "package/__pycache__/part.pyc", "old")
    write(tmp_path / "package/.git/config", "secret")
    expected = {"package/__init__.py": b"", "package/deep/part.py": b"y = 2\n", "package/data.txt": b"z"}
    assert gather(str(tmp_path / "package")) == expected
    assert gather(f"{tmp_path}/package/") == expected
    assert gather(zipped(tmp_path / "a.zip", expected)) == expected


def test_a_directory_is_named_after_itself_also_when_it_is_given_as_a_dot(tmp_path, monkeypatch):
    write(tmp_path / "package/__init__.py")
    monkeypatch.chdir(tmp_path / "package")
    assert gather(".") == {"package/__init__.py": b""}


def test_what_is_not_there_says_from_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"'no\.py' \(looked from {tmp_path}\)"):
        gather("no.py")


def test_a_module_that_no_python_understands_is_refused_at_once(tmp_path, recwarn):
    with pytest.raises(SyntaxError) as caught:
        gather(str(write(tmp_path / "broken.py", "x = 1\ndef f(:\n")))
    assert (caught.value.filename, caught.value.lineno) == (str(tmp_path / "broken.py"), 2)
    assert list(gather(str(write(tmp_path / "odd.py", "x = '\\d'\n")))) == ["odd.py"]
    assert not recwarn.list, "that is for whoever imports it"
    write(tmp_path / "package" / "template.py", "x = {{ name }")
    assert list(gather(str(tmp_path / "package"))) == ["package/template.py"], "it need not be there to be imported"


@pytest.mark.parametrize("name", ["data.csv", "empty.txt"])
def test_what_is_no_code_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"neither a \.py file, nor a directory, nor a zip"):
        gather(str(write(tmp_path / name, "1,2")))


def test_a_directory_without_code_is_refused(tmp_path):
    write(tmp_path / "empty/notes.txt", "nothing")
    with pytest.raises(ValueError, match="no code"):
        gather(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    "name", ["../out.py", "/etc/out.py", "a/../../out.py", "a\\..\\out.py", "C:/out.py", "a/b/../../../out.py"]
)
def test_a_zip_that_climbs_out_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="leads out"):
        gather(zipped(tmp_path / "bad.zip", {"good.py": "", name: ""}))
    with pytest.raises(ValueError, match="leads out"):
        checked(name)


def test_a_name_that_no_executor_would_take_is_refused_at_once(tmp_path):
    write(tmp_path / "package/__init__.py")
    write(tmp_path / "package/a\\b.py")
    with pytest.raises(ValueError, match="leads out"):
        gather(str(tmp_path / "package"))


def test_a_zip_with_a_link_is_refused(tmp_path):
    entry = zipfile.ZipInfo("link.py")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(ValueError, match="is a link"):
        gather(str(tmp_path / "bad.zip"))


def test_a_link_to_a_directory_is_refused(tmp_path):
    write(tmp_path / "package/__init__.py")
    (tmp_path / "package/loop").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="is a link to a directory"):
        gather(str(tmp_path / "package"))


def test_what_is_too_large_is_refused_before_it_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("distributed.uploads.SETTINGS", Settings(upload_bytes_max=1000))
    write(tmp_path / "package/__init__.py")
    os.truncate(write(tmp_path / "package/large.bin"), 1 << 40)
    with pytest.raises(ValueError, match=r"scatter\(\)"):
        gather(str(tmp_path / "package"))
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.py", bytes(10_000_000))
    with pytest.raises(ValueError, match=r"scatter\(\)"):
        gather(str(tmp_path / "bomb.zip"))


def test_a_content_is_named_by_itself():
    assert name_of(b"x") == name_of(b"x") != name_of(b"y")
    assert SETTINGS.upload_bytes_max > 1 << 20


def test_a_tree_that_stands_is_not_named_again_before_each_task(monkeypatch):
    planted = []
    monkeypatch.setattr("distributed.uploads._called_last", None)
    monkeypatch.setattr("distributed.uploads.plant", planted.append)
    one, two = Tree({"one.py": b"1"}), Tree({"two.py": b"2"})
    for tree in (one, one, two, two, one):
        tree()
    assert planted == [one.paths, two.paths, one.paths]


def test_an_executor_imports_from_the_tree_of_its_task_and_forgets_the_one_before(tmp_path):
    """In a process of its own, because modules are forgotten."""
    program = """
        import os, sys
        from distributed.uploads import Bundle, Tree, name_of

        def tree(**modules):
            files = {f"{name.replace('_', '/')}.py": text.encode() for name, text in modules.items()}
            Bundle(list(files.values()))()
            return Tree({path: name_of(data) for path, data in files.items()})

        one = tree(tool="version = 1", package_part="import tool; seen = tool.version")
        two = tree(tool="version = 2", package_part="import tool; seen = tool.version")
        one()
        import package.part, tool
        assert (tool.version, package.part.seen) == (1, 1)
        first = sys.path[0]
        one()
        assert sys.path.count(first) == 1 and sys.modules["tool"] is tool
        two()
        import package.part, tool
        assert (tool.version, package.part.seen) == (2, 2)
        assert first not in sys.path
        one()
        import tool
        assert tool.version == 1
        assert os.path.dirname(first) == os.path.join(os.environ["DISTRIBUTED_STORE"], "uploads")
        print("fine")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "DISTRIBUTED_STORE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "fine\n", done.stderr
    contents = list((tmp_path / "uploads/contents").iterdir())
    assert len(contents) == 3, "what both trees have is kept once"


# ------------------------------------------------------------------------------------------------------ on a cluster


no_leaks = leaks_looked_for_by_module()


@pytest.fixture(scope="module")
def cluster(no_leaks):
    with Cluster(n_workers=2, ncores=1) as cluster:
        yield cluster


def is_there(name):
    """Whether a module can be found by whoever runs this."""
    return importlib.util.find_spec(name) is not None


@pytest.fixture
def pool(cluster):
    with Pool(cluster) as pool:
        yield pool


def test_tasks_import_what_was_uploaded_by_name_or_by_themselves(pool, tmp_path):
    write(tmp_path / "shapes/__init__.py", "from shapes.square import area")
    write(tmp_path / "shapes/square.py", "def area(side): return side * side")
    pool.upload(tmp_path / "shapes")
    assert pool.gather(pool.map("shapes.area", range(100))) == [side * side for side in range(100)]

    def imported(side):
        import shapes

        return shapes.square.area(side)

    assert pool.submit(imported, 3).get() == 9
    assert list(pool.imap("shapes.area", [1, 2])) == [1, 4]


def test_a_new_upload_takes_effect_for_what_is_submitted_after_it(pool, tmp_path):
    gate = tmp_path / "gate"
    module = write(tmp_path / "versioned.py", "def version(): return 1")
    pool.upload(module)
    waiting = pool.map(lambda path: __import__("time").sleep(0.01) or os.path.exists(path), [str(gate)] * 4)
    old = pool.map(lambda _: __import__("versioned").version(), range(20))
    write(module, "def version(): return 2")
    pool.upload(module)
    new = pool.map(lambda _: __import__("versioned").version(), range(20))
    assert pool.gather(waiting) == [False] * 4
    assert set(pool.gather(old)) == {1}
    assert set(pool.gather(new)) == {2}
    assert pool.submit("versioned.version").get() == 2


def test_what_is_gone_from_an_upload_or_hides_the_new_one_is_gone_there(pool, tmp_path):
    """Otherwise a module that was deleted, or a package of a module's name, would be imported instead."""
    write(tmp_path / "planets/__init__.py")
    write(tmp_path / "planets/pluto.py")
    write(tmp_path / "planets/mars/__init__.py", "moons = 0")
    pool.upload(tmp_path / "planets")
    assert pool.submit(is_there, "planets.pluto").get()
    (tmp_path / "planets/pluto.py").unlink()
    pool.upload(tmp_path / "planets")
    assert not pool.submit(is_there, "planets.pluto").get()
    write(tmp_path / "elsewhere/planets/__init__.py")
    write(tmp_path / "elsewhere/planets/mars.py", "moons = 2")
    pool.upload(tmp_path / "elsewhere/planets")
    assert pool.submit(lambda: __import__("planets.mars").mars.moons).get() == 2
    pool.upload(write(tmp_path / "planets.py", "moons = 3"))
    assert pool.submit(lambda: __import__("planets").moons).get() == 3


def test_what_is_gone_from_a_zip_is_gone_there_and_other_uploads_stay(pool, tmp_path):
    pool.upload(write(tmp_path / "bystander.py"))
    for names in (["first", "second"], ["second"]):
        pool.upload(zipped(tmp_path / "code.zip", {f"{name}_of_zip.py": "" for name in names}))
        found = pool.gather(pool.map(is_there, ["first_of_zip", "second_of_zip", "bystander"]))
        assert found == ["first" in names, True, True]


def test_data_of_a_module_s_name_replaces_no_module(pool, tmp_path):
    pool.upload(write(tmp_path / "planet_model.py"))
    zipped(tmp_path / "data.zip", {"planet_code.py": "", "planet_model.json": "{}"})
    pool.upload(tmp_path / "data.zip")
    assert pool.gather(pool.map(is_there, ["planet_model", "planet_code"])) == [True, True]


def test_only_what_changed_travels(pool, tmp_path):
    write(tmp_path / "heavy/__init__.py", "kept = 1")
    (tmp_path / "heavy/table.py").write_bytes(b"#" + os.urandom(500_000).hex().encode())
    pool.upload(tmp_path / "heavy")
    workers = [pool.options(workers=worker) for worker in pool.workers]
    for view in workers:
        assert view.submit(lambda: __import__("heavy").kept).get() == 1
    before = pool.counters["bytes_sent"]
    write(tmp_path / "heavy/__init__.py", "kept = 2")
    pool.upload(tmp_path / "heavy")
    for view in workers:
        assert view.submit(lambda: __import__("heavy").kept).get() == 2
    assert pool.counters["bytes_sent"] - before < 20_000


def test_uploads_of_several_threads_are_all_there():
    needs = Needs()
    threads = [
        threading.Thread(
            target=lambda n=n: [needs.upload(f"/{n}_{m}.py", {f"{n}_{m}.py": b"%d %d" % (n, m)}) for m in range(20)]
        )
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _, codes = needs.current
    assert len(pickle.loads(codes[-1].code).paths) == 80


def test_many_uploads_stay_few_bundles(pool, tmp_path):
    for number in range(40):
        pool.upload(write(tmp_path / f"part_{number}.py", f"number = {number}"))
    assert len(pool._calls.needs.current[1]) < 20
    assert pool.submit(lambda: __import__("part_0").number + __import__("part_39").number).get() == 39


def test_a_worker_that_joins_later_has_it_too(cluster, pool, tmp_path):
    pool.upload(write(tmp_path / "late.py", "answer = 42"))
    former = set(cluster.workers)
    cluster.scale(len(former) + 1)
    (newest,) = set(cluster.workers) - former
    assert pool.options(workers=newest).submit(lambda: __import__("late").answer).get() == 42


def test_two_pools_with_different_code_of_one_name_do_not_mix(cluster, tmp_path):
    with Pool(cluster) as one, Pool(cluster) as two:
        for number, pool in enumerate((one, two), 1):
            pool.upload(write(tmp_path / f"{number}/common.py", f"whose = {number}"))
        found = [pool.map(lambda _: __import__("common").whose, range(30)) for pool in (one, two)]
        assert [set(pool.gather(handles)) for pool, handles in zip((one, two), found, strict=True)] == [{1}, {2}]


def test_uploaded_code_that_cannot_be_imported_says_why(cluster, tmp_path):
    with Pool(cluster) as pool:
        pool.upload(write(tmp_path / "broken.py", "1 / 0"))
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: __import__("broken")).get()
        with pytest.raises(ImportError, match="ZeroDivisionError"):
            pool.submit("broken.function").get()
        assert pool.submit(abs, -1).get() == 1


def test_data_beside_the_code_is_there(pool, tmp_path):
    write(tmp_path / "with_data/__init__.py")
    write(tmp_path / "with_data/words.txt", "alice bob")
    pool.upload(tmp_path / "with_data")

    def words():
        import importlib.resources

        return importlib.resources.files("with_data").joinpath("words.txt").read_text().split()

    assert pool.submit(words).get() == ["alice", "bob"]


def test_coroutines_import_it_too(pool, tmp_path):
    pool.upload(write(tmp_path / "patient.py", "async def wait(x): return x + 1"))

    async def call():
        import patient

        return await patient.wait(1)

    assert pool.submit(call).get() == 2
    assert pool.submit("patient.wait", 2).get() == 3


def test_it_replaces_a_module_that_was_imported_from_elsewhere_before(pool, tmp_path, monkeypatch):
    for worker in pool.workers:
        view = pool.options(workers=worker)
        assert view.submit(lambda: sys.modules.setdefault("beside", type(sys)("beside")).__name__).get() == "beside"
    pool.upload(write(tmp_path / "beside.py", "version = 2"))
    for worker in pool.workers:
        assert pool.options(workers=worker).submit(lambda: __import__("beside").version).get() == 2
