"""Chaos on real processes, for some seconds; `scripts/chaos` runs it for as long as one likes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.chaos.graph import Graph, Plan, Result

ROOT = Path(__file__).parents[2]
SECONDS = 60


def chaos(*arguments):
    command = [sys.executable, "-m", "tests.chaos.tell", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.timeout(600)  # a busy machine takes its time for the last graph
def test_whatever_breaks_every_result_is_right_and_arrives_once_and_nothing_is_left(monkeypatch):
    with tempfile.TemporaryDirectory() as directory:  # its path is short, as those of sockets must be
        monkeypatch.setenv("TMPDIR", directory)
        ran = chaos("--seconds", SECONDS, "--tasks", 20_000, "--workers", 4, "--seed", 1)
        left = [name for name in os.listdir(directory) if not name.startswith("watch-")]  # of those who look on
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "all results were right" in ran.stdout
    assert "kill-worker" in ran.stdout, "the measure broke something"
    assert left == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--faults", "kill-everything"], "there is no fault 'kill-everything'; there are kill-executor, "),
        (["--seconds", "0"], "0 is not a number from 1 on"),
        (["--seconds", "nan"], "nan is not a number from 1 on"),
        (["--tasks", "many"], "'many' is not a number"),
        (["--workers"], "expected one argument"),
    ],
)
def test_bad_arguments_are_told_in_one_sentence(arguments, reason):
    ran = chaos(*arguments)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert ran.stderr.startswith("scripts/chaos: ")
    assert reason in ran.stderr


class Given:
    """A handle whose value is known."""

    def __init__(self, value):
        self.value = value

    def get(self, timeout, reraise):
        return self.value


A, B, C = (bytes([letter]) * 16 for letter in b"ABC")


@pytest.mark.parametrize(
    ("values", "arrivals", "reason"),
    [
        ([Result(0, A, (), b""), Result(1, B, ((0, A),), b"")], [1, 1], None),
        ([Result(0, A, (), b""), Result(1, B, ((0, C),), b"")], [1, 1], "saw of task 0 the nonce"),
        ([Result(0, A, (), b""), Result(1, B, ((0, A),), b"")], [1, 2], "announced 2 times"),
        ([Result(0, A, (), b""), Result(1, B, ((0, A),), b"")], [0, 1], "announced 0 times"),
        ([Result(0, A, (), b""), Result(1, B, (), b"")], [1, 1], "saw the inputs ()"),
        ([Result(0, A, (), b""), Result(1, C, ((0, A),), b"")], [1, 1], "no execution made"),
        ([Result(0, A, (), b""), Result(0, A, (), b"")], [1, 1], "got the result of task 0"),
        ([Result(0, A, (), A + B), Result(1, B, ((0, A),), b"")], [1, 1], "whole: False"),
    ],
)
def test_what_is_not_as_it_must_be_is_found(values, arrivals, reason, tmp_path):
    graph = Graph(Plan([range(1), range(1, 2)], [(), (0,)], [False, False]), tmp_path / "notes")
    graph.handles = [Given(value) for value in values]
    graph.arrivals.update(dict(enumerate(arrivals)))
    noted = [(0, A), (0, C), (1, B)]  # task 0 ran twice
    graph.notes.write_bytes(b"".join(number.to_bytes(4, "little") + bytes(4) + nonce for number, nonce in noted))
    graph.check(1)
    if reason is None:
        assert graph.wrong == []
    else:
        assert any(reason in line for line in graph.wrong), graph.wrong
