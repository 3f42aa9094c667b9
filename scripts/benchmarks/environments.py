"""One virtual environment for each peer, under .cache/: dask's scheduler has this product's import name."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.systems import SYSTEMS

ROOT = Path(__file__).parents[2]


class CannotInstall(Exception):
    """The message says what could not be installed, and where pip's words are."""


def directory(entry):
    return ROOT / ".cache" / f"bench-{entry.environment}"


def commands(entry):
    """Where the system's `python` and its other commands are."""
    return directory(entry) / "bin" if entry.requirements else Path(sys.executable).parent


def is_installed(name):
    entry = SYSTEMS[name]
    return not entry.requirements or (directory(entry) / "stamp").exists()


def install(names):
    """Make or complete the environments of these systems."""
    for name in names:
        entry = SYSTEMS[name]
        if entry.requirements:
            numpy = f"numpy=={importlib.metadata.version('numpy')}"  # the same for all: it does the work in W4 and W7
            make(directory(entry), [*entry.requirements, numpy])


def make(where, requirements):
    """Make a virtual environment that holds these; nothing to do when it holds them already."""
    stamp = f"{sys.version}\n{' '.join(requirements)}\n"
    if (where / "stamp").exists() and (where / "stamp").read_text() == stamp:
        return
    print(f"Making the environment {where.relative_to(ROOT)} for {' '.join(requirements)} ...", flush=True)
    base = os.path.join(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    with open(f"{where}.log", "w") as log:
        commands = [
            [base, "-m", "venv", "--clear", str(where)],
            [str(where / "bin" / "pip"), "install", "--quiet", *requirements],
        ]
        for command in commands:
            done = subprocess.run(command, stdout=log, stderr=log, check=False)
            if done.returncode:
                raise CannotInstall(f"cannot install {' '.join(requirements)}; pip's words are in {log.name}")
    (where / "stamp").write_text(stamp)
