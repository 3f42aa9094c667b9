"""What README.rst, docs/ and the scripts promise: examples run, pages agree with the source, layers hold."""

from __future__ import annotations

import ast
import doctest
import os
import re
import runpy
import socket
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst"))]
PAGES_WITH_EXAMPLES = [page for page in PAGES if ">>>" in page.read_text()]
EXAMPLES = sorted((ROOT / "docs/examples").glob("*.py"))
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
IMPORT_SECONDS_MAX = 0.15

# ---------------------------------------------------------------------------------------------------------- examples


@pytest.mark.parametrize("page", PAGES_WITH_EXAMPLES, ids=lambda page: page.name)
def test_examples_of_a_page_run_and_print_what_it_says(page: Path) -> None:
    test = doctest.DocTestParser().get_doctest(
        with_free_ports(page.read_text()), {"__name__": "__main__"}, page.name, str(page), 0
    )
    assert test.examples
    printed: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=printed.append)
    assert outcome.failed == 0, "".join(printed)


@pytest.mark.slow
@pytest.mark.parametrize("program", EXAMPLES, ids=lambda program: program.stem)
def test_an_example_program_runs_and_is_on_the_page(program: Path) -> None:
    done = run(sys.executable, str(program))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert f"examples/{program.name}" in (ROOT / "docs/examples.rst").read_text()


def with_free_ports(text: str) -> str:
    """The text with every port in it replaced by a free one, so that tests disturb no real cluster."""
    named = sorted(set(re.findall(r"127\.0\.0\.1:(\d+)", text)))
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in named]
    for port, free in zip(named, sockets, strict=True):
        text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free.getsockname()[1]}")
        free.close()
    return text


def test_the_protocol_page_lists_every_message() -> None:
    pytest.importorskip("sphinx")
    from distributed.wire import messages

    source = ROOT / "docs" / "from_source.py"
    namespace: dict = {}
    exec(compile(source.read_text(), str(source), "exec"), namespace)
    page = "\n".join(namespace["Messages"].lines(None, Path(messages.__file__).read_text()))
    assert [operation for operation in messages.REGISTRY if f"(``{operation}``)" not in page] == []


GUARANTEES = ROOT / "docs" / "guarantees.rst"
TEST_NAMED = re.compile(r"``([\w/]+\.py)::(\w+)``")


def test_every_sentence_of_the_guarantees_names_tests_and_they_exist() -> None:
    page = GUARANTEES.read_text()
    promises = re.split(r"^(\d+)\. .+\n-+\n", page, flags=re.MULTILINE)
    assert promises[1::2] == [str(number) for number in range(1, 11)]
    sentences = [sentence for promise in promises[2::2] for sentence in promise.split("\n* ")[1:]]
    assert [sentence for sentence in sentences if not TEST_NAMED.search(sentence)] == []
    missing = [f"{path}::{name}" for path, name in TEST_NAMED.findall(page) if name not in functions_of(path)]
    assert missing == []


def functions_of(path: str) -> set[str]:
    """The names of the functions in a file below tests/."""
    file = ROOT / "tests" / path
    tree = ast.parse(file.read_text()) if file.exists() else ast.Module([], [])
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_setting_that_the_guarantees_name_exists() -> None:
    from distributed.config import SETTINGS

    named = set(re.findall(r"``([a-z]+_[a-z_]*(?:_s|_max))``", GUARANTEES.read_text())) - {"this_form_s"}
    assert len(named) > 5
    assert sorted(name for name in named if not hasattr(SETTINGS, name)) == []


def test_the_changelog_speaks_of_this_version() -> None:
    from distributed.version import __version__

    assert f"\n{__version__}\n-----" in (ROOT / "docs" / "changelog.rst").read_text()


# ----------------------------------------------------------------------------------------------------------- scripts


@pytest.mark.parametrize("script", ["test", "quickstart", "fuzz", "audit"])
def test_a_script_explains_itself(script: str) -> None:
    done = run(f"scripts/{script}", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: scripts/{script}")


@pytest.mark.parametrize("script", ["test", "quickstart", "bench", "fuzz"])
def test_a_script_without_its_python_says_so_in_one_sentence(script: str) -> None:
    done = run(f"scripts/{script}", "--python", "3.99")
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(rf"scripts/{script}: no Python 3\.99 .*\n", done.stderr)


@pytest.mark.slow
def test_the_quickstart_multiplies_correctly_and_counts_every_input_byte() -> None:
    pytest.importorskip("tqdm")
    done = run(sys.executable, "scripts/quickstart.py", "--blocks", "3", "--side", "64", PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"the product is +right", done.stdout)
    assert re.search(r"tasks +63\b", done.stdout)  # 2 * 9 blocks, 27 products, 18 sums


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100, check=False
    )


# -------------------------------------------------------------------------------------------------- layers, packaging


def modules() -> dict[str, Path]:
    """Every module of the package, by name."""
    paths = sorted((ROOT / "distributed").rglob("*.py"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def test_every_module_has_its_place_in_the_layers() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    placed = {name for layer in layers for name in re.findall(r"[\w.]+", layer)}
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    homeless = [
        name
        for name in modules().keys() - packages
        if not any(name == place or name.startswith(f"{place}.") for place in placed)
    ]
    assert sorted(homeless) == []
    assert sorted(placed - modules().keys()) == []


def test_nothing_inside_the_package_imports_the_package_as_a_whole() -> None:
    guilty = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "distributed":
                names = [alias.name for alias in node.names if f"distributed.{alias.name}" not in modules()]
                guilty += [f"{name} line {node.lineno}: {', '.join(names)}"] if names else []
    assert guilty == []


def test_each_package_and_module_says_what_it_owns() -> None:
    silent = [name for name, path in modules().items() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_the_distribution_takes_the_place_of_the_one_with_the_same_import_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed.version import __version__

    said: dict = {}
    fake = types.ModuleType("setuptools")  # a fresh environment of Python 3.12 has none
    fake.setup, fake.find_packages = said.update, dict
    monkeypatch.setitem(sys.modules, "setuptools", fake)
    runpy.run_path(str(ROOT / "setup.py"))
    assert (said["name"], said["version"]) == ("distributed", __version__)


# ------------------------------------------------------------------------------------------------------------ imports


def test_import_distributed_is_quick_and_leaves_heavy_modules_alone() -> None:
    program = (
        "import sys, time; began_s = time.perf_counter(); import distributed; print(time.perf_counter() - began_s);"
        "print(*sys.modules)"
    )
    fastest_s = IMPORT_SECONDS_MAX
    for _ in range(5):
        seconds, loaded = run(sys.executable, "-c", program).stdout.splitlines()
        fastest_s = min(fastest_s, float(seconds))
    assert fastest_s < IMPORT_SECONDS_MAX
    assert {"numpy", "tornado", "tqdm", "distributed.web"}.isdisjoint(loaded.split())
