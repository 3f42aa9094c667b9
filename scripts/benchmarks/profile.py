"""Flame graphs of where this product spends its time: py-spy looks at client, agent and executor at the same moment."""

import os
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

from benchmarks import environments, machine, rounds
from benchmarks.systems import OURS

SECONDS = 8
RATE = 200  # samples a second
START_TIMEOUT_S = 30
WARM_UP_S = 1.0


class CannotProfile(Exception):
    """The message says why."""


def record(workload, scale):
    """Run the workload for some seconds and write profile-WORKLOAD-PROCESS.svg here, one for each process."""
    where = environments.ROOT / ".cache" / "bench-profile"
    environments.make(where, ["py-spy"])
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        options = ["--scale", str(scale), "--loop", str(SECONDS + 4)]
        client = rounds.start(OURS, workload, mark, directory, *options)
        try:
            recorders = [
                (path, start_recording(where / "bin" / "py-spy", pid, path))
                for pid, path in paths(workload, wait_for_processes(client, mark)).items()
            ]
            for path, recorder in recorders:
                _, errors = recorder.communicate()
                if recorder.returncode or not path.exists():
                    raise CannotProfile(f"py-spy could not record {path.name}: {first_error(errors)}")
                print(path)
        finally:
            client.kill()
            client.communicate()
            machine.end_all(mark)


def wait_for_processes(client, mark):
    """{process id: role} of the busiest process of each role."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and client.poll() is None:
        before = {pid: machine.processor_s(pid) for pid in machine.processes(mark)}
        time.sleep(WARM_UP_S)
        busy = {pid: machine.processor_s(pid) - used for pid, used in before.items()}
        found = {}
        for pid in sorted(busy, key=busy.__getitem__, reverse=True):
            found.setdefault(role(pid, client.pid), pid)
        if {"client", "agent", "executor"} <= found.keys() and busy[found["executor"]] > 0.05:
            return {pid: name for name, pid in found.items() if name}
    raise CannotProfile(f"the workload did not run long enough to be looked at: {last_line(client.communicate()[1])}")


def role(pid, client):
    if pid == client:
        return "client"
    words = machine.command_line(pid)
    if "distributed.worker.forkserver" in words:
        return "executor"
    if " embedded" in words or " worker " in words:
        return "agent"
    return "center" if " center " in words else ""


def paths(workload, roles):
    return {pid: Path.cwd() / f"profile-{workload}-{name}.svg" for pid, name in roles.items()}


def start_recording(py_spy, pid, path):
    command = [py_spy, "record", "--pid", str(pid), "--duration", str(SECONDS), "--rate", str(RATE), "--output", path]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ
    )


def first_error(text):
    """py-spy's reason, which stands above its own stack."""
    return next((line for line in text.splitlines() if line.startswith("Error:")), last_line(text))


def last_line(text):
    return (text.strip().splitlines() or ["it said nothing"])[-1]
