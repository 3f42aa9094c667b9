"""A thousand SIGINTs at random moments, and the pool is still right.

A program works in a loop and survives each KeyboardInterrupt; at the end its pool gives right answers, every store is
empty, and nothing was printed but what it prints itself.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from distributed import Cluster
from tests.promises.observe import PATIENCE_S, contents, until

INTERRUPTS = 1000
PAUSE_S = (0.001, 0.020)

PROGRAM = """
import gc, json, os, signal, sys, time
import numpy as np
from distributed import Pool, as_completed, wait

def work(pool, n):
    kind = n % 6
    if kind == 0:
        handles = pool.map(abs, range(-50, 0))
        assert pool.gather(handles) == list(range(50, 0, -1))
    elif kind == 1:
        assert pool.submit(divmod, 17, 5).get() == (3, 2)
    elif kind == 2:
        handles = pool.map(np.full, [20_000] * 4, range(4))
        assert sorted(int(handle.get()[0]) for handle in as_completed(handles)) == [0, 1, 2, 3]
    elif kind == 3:
        handles = [pool.submit(int, str(i)) for i in range(20)]
        done, _ = wait(handles)
        assert done == set(handles)
    elif kind == 4:
        array = pool.scatter(np.arange(20_000))
        assert pool.submit(lambda block: int(block.sum()), array).get() == 199_990_000
    else:
        x = pool.submit(int, "0")
        for _ in range(10):
            x = pool.submit(lambda y: y + 1, x)
        assert x.get() == 10

def main():
    pool = Pool(sys.argv[1])
    rounds = interrupts = 0
    print("ready", flush=True)
    over = False
    while not over:
        try:
            while True:
                work(pool, rounds)
                rounds += 1
                if os.path.exists(sys.argv[2]):
                    over = True
                    break
        except KeyboardInterrupt:
            interrupts += 1
            rounds += 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    for n in range(12):
        work(pool, n)
    print(json.dumps([rounds, interrupts]), flush=True)
    sys.stdin.readline()
    pool.close()

main()
"""


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_a_thousand_interrupts_at_random_moments(tmp_path, seed):
    chance, over = random.Random(seed), tmp_path / "over"
    with Cluster(n_workers=2, ncores=1) as cluster:
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, cluster.center_address, str(over)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert program.stdout.readline() == "ready\n"
            for _ in range(INTERRUPTS):
                time.sleep(chance.uniform(*PAUSE_S))
                program.send_signal(signal.SIGINT)
            over.touch()
            line = program.stdout.readline()
            assert line, program.communicate(timeout=PATIENCE_S)[1]
            rounds, interrupts = json.loads(line)
            print(f"{rounds} rounds, {interrupts} of {INTERRUPTS} interrupts arrived one by one")
            assert interrupts > INTERRUPTS // 2
            until(lambda: not contents(cluster.center_address))
            assert contents(cluster.center_address) == {}
            _, err = program.communicate("end\n", timeout=PATIENCE_S)
            assert (program.returncode, err) == (0, "")
        finally:
            program.kill()
            program.communicate()
