"""8 clients of one system, each with trivial tasks for two seconds: all of them together, and the slowest

The slowest client's part is compared with an eighth of all.
"""

import json
import subprocess
import sys
import time

from benchmarks.workloads import Figure, rates, scaled

FIGURES = {
    "rate": Figure("tasks/s", higher_is_better=True),
    "slowest": Figure("of a fair share", higher_is_better=True),
}
CLIENTS, SPAN_S, BATCH = 8, 2.0, 2_000


def run(open_system, scale, seed):
    with open_system(tiny=True) as system:
        rates.run(system.map_each, rates.TASKS_FIRST)
        span_s = max(0.3, SPAN_S * scale)
        each = in_clients(open_system.name, system.address, scaled(BATCH, scale, least=100), span_s)
    return {"rate": sum(each), "slowest": min(each) / (sum(each) / CLIENTS)}


def in_clients(name, address, batch, span_s):
    """The rate of each client."""
    command = [sys.executable, "-m", __name__, name, address, str(batch), str(span_s)]
    clients = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(CLIENTS)
    ]
    for client in clients:
        client.stdout.readline()  # it is ready
    for client in clients:
        client.stdin.write("go\n")
        client.stdin.flush()
    return [json.loads(client.communicate()[0]) for client in clients]


def client(name, address, batch, span_s):
    """One client: run batches until the time is over, and print their rate."""
    from benchmarks import systems

    system = systems.load(name).connect(address)
    rates.run(system.map_each, batch)
    print("ready", flush=True)
    sys.stdin.readline()
    count, began_s, elapsed_s = 0, time.perf_counter(), 0.0
    while elapsed_s < float(span_s):
        rates.run(system.map_each, batch)
        count, elapsed_s = count + batch, time.perf_counter() - began_s
    print(json.dumps(count / elapsed_s), flush=True)
    system.close()


if __name__ == "__main__":
    client(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
