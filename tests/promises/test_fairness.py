"""Two pools in two processes share a cluster by executor-seconds, however long their tasks are.

One has tasks of 1 ms, the other of 100 ms, both want all there is: each gets at least 0.7 of its half of the
executor-seconds in every window of 2 s.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from distributed import Cluster

EXECUTORS = 2
DEMAND_S = 9.0
WINDOW_S, STEP_S = 2.0, 0.1
SHARE_MIN = 0.7

CLIENT = """
import json, sys, time
from collections import deque
from distributed import Pool

center, task_s, demand_s, backlog = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])

def work(task_s):
    began_s = time.time()
    time.sleep(task_s)
    return began_s, time.time()

with Pool(center) as pool:
    pool.gather(pool.map(work, [task_s] * 4))
    print("ready", flush=True)
    sys.stdin.readline()
    wanted_until_s = time.time() + demand_s
    under_way = deque()
    ran = []
    while time.time() < wanted_until_s:
        if len(under_way) < backlog:
            under_way.extend(pool.map(work, [task_s] * (backlog // 2)))
        ran.extend(pool.gather([under_way.popleft() for _ in range(backlog // 4)]))
    print(json.dumps(ran), flush=True)
    pool.terminate()
"""


def client(center, task_s, backlog):
    arguments = [center, str(task_s), str(DEMAND_S), str(backlog)]
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def used_s(ran, since_s, until_s):
    """Executor-seconds within a window."""
    return sum(max(0.0, min(ended_s, until_s) - max(began_s, since_s)) for began_s, ended_s in ran)


@pytest.mark.long
@pytest.mark.slow
def test_each_pool_gets_its_share_in_every_window():
    with Cluster(n_workers=1, ncores=EXECUTORS) as cluster:
        clients = [client(cluster.center_address, 0.001, 4000), client(cluster.center_address, 0.1, 40)]
        for process in clients:
            assert process.stdout.readline() == "ready\n"
        for process in clients:
            process.stdin.write("go\n")
            process.stdin.flush()
        short, long = [json.loads(process.communicate(timeout=60)[0]) for process in clients]
    since_s = max(short[0][0], long[0][0]) + 0.5  # both have begun
    until_s = min(max(ended_s for _, ended_s in ran) for ran in (short, long)) - 0.5  # nobody has ended
    shares = []
    start_s = since_s
    while start_s + WINDOW_S <= until_s:
        window = start_s, start_s + WINDOW_S
        shares.append([round(used_s(ran, *window) / (EXECUTORS * WINDOW_S / 2), 2) for ran in (short, long)])
        start_s += STEP_S
    least = [min(column) for column in zip(*shares, strict=True)]
    print(f"{len(short)} short and {len(long)} long tasks; least shares in {len(shares)} windows: {least}")
    assert len(shares) > 20
    assert min(least) >= SHARE_MIN, shares
