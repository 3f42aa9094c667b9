"""Ctrl-C returns at once and leaves a pool that still gives right answers: a thousand times, at random moments."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys

INTERRUPTS = 1000
CLIENT = """
import os, signal, sys, time
from distributed import Pool, as_completed

pool = Pool(2)
caught = rounds = 0
print("ready", flush=True)
while caught < int(sys.argv[1]):
    try:
        os.write(1, b".")  # ready for an interrupt
        while True:
            handles = pool.map(lambda x: x + 1, range(50))
            assert pool.gather(handles) == list(range(1, 51))
            assert pool.submit(abs, -3).get() == 3
            assert sorted(done.get() for done in as_completed(pool.map(abs, [-1, -2]))) == [1, 2]
            assert pool.scatter([b"x" * 100_000])[0].get() == b"x" * 100_000
            pool.who_has(handles[:1])
            rounds += 1
    except KeyboardInterrupt:
        caught += 1
signal.signal(signal.SIGINT, signal.SIG_IGN)
del handles
assert pool.gather(pool.map(lambda x: x + 1, range(1000))) == list(range(1, 1001))
deadline = time.monotonic() + 20
while any(pool.has_what().values()) and time.monotonic() < deadline:
    time.sleep(0.05)
print("\\nleft", sum(map(len, pool.has_what().values())), "rounds", rounds > 0)
pool.close()
"""


def test_a_thousand_interrupts_at_random_moments_leave_a_pool_that_is_right():
    dice = random.Random(5)
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(INTERRUPTS)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    try:
        assert client.stdout.readline() == b"ready\n"
        for _ in range(INTERRUPTS):
            assert select.select([client.stdout], [], [], 30)[0], "an interrupt did not return"
            os.read(client.stdout.fileno(), 1)
            # the pause is the test's dice: when the interrupt comes, not a wait for something
            select.select([], [], [], dice.uniform(0.0, 0.015))
            os.kill(client.pid, signal.SIGINT)
        said, trouble = client.communicate(timeout=60)
    finally:
        client.kill()
        client.wait()
    assert (said.decode().strip(), trouble.decode(), client.returncode) == ("left 0 rounds True", "", 0)
