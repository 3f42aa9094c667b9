"""From nothing to a first result on two workers, in a fresh process; and the memory of what then idles

`first result` counts from before the import. Memory is proportional set size: pages that several processes share are
divided among them. `executor` is the mean of the processes that run tasks, `daemons` the sum of all others but the
client. Modules are compiled beforehand, as pip does it with what it installs: this checkout may have no bytecode yet.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import machine
from benchmarks.tasks import increment
from benchmarks.workloads import Figure, require_equal

FIGURES = {
    "first result": Figure("s"),
    "import": Figure("s"),
    "close": Figure("s"),
    "client": Figure("MiB"),
    "daemons": Figure("MiB"),
    "executor": Figure("MiB"),
}
SETTLE_S = 1.5
PACKAGE = Path(__file__).parents[3] / "distributed"


def run(open_system, scale, seed):
    subprocess.run([sys.executable, "-m", "compileall", "-q", PACKAGE], check=True)
    began_s = time.perf_counter()
    open_system.load()
    import_s = time.perf_counter() - began_s
    system = open_system()
    require_equal(system.call(increment, 41), 42, "the first result")
    first_result_s = time.perf_counter() - began_s
    executors = set(system.on_each_worker(os.getpid))
    time.sleep(SETTLE_S)  # not to wait for anything: idle is what is measured
    memory = {pid: machine.proportional_bytes(pid) / (1 << 20) for pid in [os.getpid(), *machine.others()]}
    began_s = time.perf_counter()
    system.close()
    return {
        "first result": first_result_s,
        "import": import_s,
        "close": time.perf_counter() - began_s,
        "client": memory[os.getpid()],
        "daemons": sum(mib for pid, mib in memory.items() if pid not in executors and pid != os.getpid()),
        "executor": statistics.mean(memory.get(pid, 0.0) for pid in executors),
    }
