"""``scripts/bench W4n``: two machines on one, beside a plain socket; a sentence where they cannot be made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numpy")

ROOT = Path(__file__).parent.parent
FIGURES = {"to worker", "to client", "worker to worker"}


@pytest.mark.namespaces
@pytest.mark.slow
def test_arrays_go_between_machines_or_one_sentence_says_why_not(tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}/scripts{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "benchmarks", "W4n", "--peers", "", "--repeat", "1", "--scale", "0.01"]
    done = subprocess.run(
        [*command, "--json", str(written)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads(written.read_text())["workloads"]["W4n"]["systems"]
    for name in ("ours", "bound"):
        if not measured[name]["samples"]:
            assert "namespaces" in done.stdout or "install" in done.stdout
            pytest.skip("no network namespaces here")
        assert set(measured[name]["medians"]) == FIGURES
