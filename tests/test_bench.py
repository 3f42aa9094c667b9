"""`scripts/bench` says what it can measure, measures it, and answers bad input in one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("numpy")

ROOT = Path(__file__).parent.parent
WORKLOADS = ["W1", "W1s", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9", "W10", "W11", "W11c", "W12", "locality"]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}/scripts{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)


def test_bench_lists_its_workloads_and_systems() -> None:
    done = bench("--help")
    assert done.returncode == 0, done.stderr
    assert [name for name in WORKLOADS if f"\n  {name} " not in done.stdout] == []
    assert "mpi4py" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["W99"], "there is no workload 'W99'; there are W1, "),
        (["--only", "W1,nonsense"], "there is no workload 'nonsense'; "),
        (["W1", "--peers", "celery"], "there is no system 'celery'; "),
        (["--install-peers", "celery"], "there is no system 'celery'; "),
        (["profile"], "profile needs one workload"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gets_one_sentence(arguments: list[str], sentence: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"scripts/bench: {sentence}")
    assert done.stderr.count("\n") == 1


def test_a_peer_that_is_not_installed_gets_one_sentence() -> None:
    if (ROOT / ".cache" / "bench-loky" / "stamp").exists():
        pytest.skip("loky is installed here")
    done = bench("W1", "--peers", "loky")
    assert done.returncode == 1
    assert done.stderr == "scripts/bench: loky is not installed; run: scripts/bench --install-peers loky\n"


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_workload_runs_and_checks_its_results(workload: str, tmp_path: Path) -> None:
    written, plots = tmp_path / "figures.json", tmp_path / "plots"
    done = bench(
        workload, "--peers", "", "--repeat", "1", "--scale", "0.005", "--json", str(written), "--plot", str(plots)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ours = json.loads(written.read_text())["workloads"][workload]["systems"]["ours"]
    assert len(ours["samples"]) == 1
    assert all(isinstance(value, (int, float)) for value in ours["medians"].values())
    assert ElementTree.fromstring(next(plots.iterdir()).read_text()).tag.endswith("svg")
