"""Memory for each pending task, at the client and in all other processes; the rate of many tasks against that of few

Both workers are held up while tasks are submitted one by one, so that all of them are pending. For the rates, as many
tasks as take about twenty seconds, 1,000,000 at most, against a hundredth of that.
"""

import gc
import os
import tempfile
import time

from benchmarks import machine
from benchmarks.tasks import hold_until, increment
from benchmarks.workloads import Figure, rates, require_equal, scaled

FIGURES = {
    "client": Figure("bytes/task"),
    "others": Figure("bytes/task"),
    "rate of many": Figure("of the rate of few", higher_is_better=True),
    "many": Figure("tasks"),
}
PENDING, MANY, FEW, SPAN_S = 100_000, 1_000_000, 10_000, 20.0
SETTLE_S = 1.0


def run(open_system, scale, seed):
    with open_system(tiny=True) as system:
        few = scaled(FEW, scale, least=500)
        rates.run(system.map_each, few)
        few_s = rates.run(system.map_each, few)
        client, others = pending_bytes(system, scaled(PENDING, scale, least=1_000))
        many = int(min(scaled(MANY, scale, least=few), max(few, SPAN_S * few / few_s)))
        many_s = rates.run(system.map_each, many)
    return {"client": client, "others": others, "rate of many": (many / many_s) / (few / few_s), "many": many}


def pending_bytes(system, count):
    """(at the client, elsewhere) for each of this many pending tasks."""
    with tempfile.TemporaryDirectory() as directory:
        go = os.path.join(directory, "go")
        held = system.submit_each(hold_until, [go] * system.workers)
        try:
            time.sleep(SETTLE_S)  # they are running by now
            before = memory()
            pending = system.submit_each(increment, range(count))
            time.sleep(SETTLE_S)  # and these are where they will wait
            after = memory()
        finally:
            open(go, "w").close()
        system.values(held)
        require_equal(system.values(pending), list(range(1, count + 1)), "the values")
    return tuple((now - then) / count for then, now in zip(before, after, strict=True))


def memory():
    gc.collect()
    return machine.private_bytes(os.getpid()), sum(map(machine.private_bytes, machine.others()))
