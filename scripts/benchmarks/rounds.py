"""Runs samples one after the other: A B C A B C, each in a fresh process in the environment of its system."""

import dataclasses
import json
import os
import subprocess
import tempfile
import uuid
from pathlib import Path

from benchmarks import environments, machine, workloads
from benchmarks.systems import BOUND, SYSTEMS

SCRIPTS = Path(__file__).parents[1]
TIMEOUT_S = 300


@dataclasses.dataclass
class Series:
    """All samples of one system on one workload."""

    system: str
    samples: list[dict[str, float]] = dataclasses.field(default_factory=list)
    reason: str = ""  # why there are none, or no more
    version: str = ""
    client_peak_bytes: int = 0
    has_failed: bool = False

    def add(self, answer):
        self.has_failed = "failed" in answer
        self.reason = answer.get("unsupported", "") or answer.get("failed", "")
        if "figures" in answer:
            self.samples.append(answer["figures"])
            self.version = answer["version"]
            self.client_peak_bytes = max(self.client_peak_bytes, answer["client_peak_bytes"])

    def values(self, figure):
        return [sample[figure] for sample in self.samples if sample.get(figure) is not None]


def measure(workload, names, repeat, scale, quiet, tell):
    """[Series], in the order of `names`, after this many rounds. A system that could not, is not asked again."""
    module = workloads.load(workload)
    names = [name for name in names if name in getattr(module, "SYSTEMS", names)]
    series = {name: Series(name) for name in [*names, *([BOUND] if getattr(module, "HAS_BOUND", False) else [])]}
    for number in range(repeat):
        for name, one in series.items():
            if one.reason:
                continue
            tell(f"{workload} {name}, round {number + 1} of {repeat}")
            quiet.look()
            one.add(sample(name, workload, scale, number))
    return list(series.values())


def sample(name, workload, scale, seed):
    """What one sample says; what went wrong with it, if it says nothing."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:  # not here: `distributed` must be the installed one
        process = start(name, workload, mark, directory, "--scale", str(scale), "--seed", str(seed))
        try:
            output, errors = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return {"failed": f"no result after {TIMEOUT_S} s"}
        finally:
            machine.end_all(mark)
    try:
        return json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        words = errors.strip().splitlines()
        return {"failed": words[-1] if words else f"ended with {process.returncode} without a word", "errors": errors}


def start(name, workload, mark, directory, *options):
    """Start the process of one sample."""
    entry = SYSTEMS["multiprocessing" if name == BOUND else name]
    commands = environments.commands(entry)
    return subprocess.Popen(
        [str(commands / entry.launcher[0]), *entry.launcher[1:], name, workload, *options],
        cwd=directory,
        env=os.environ
        | {
            machine.MARK: mark,
            "PYTHONPATH": str(SCRIPTS),
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
