"""A task that takes more memory than `--task-memory-limit` costs itself alone, and is told so with the sizes."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from distributed import Cluster, Pool
from distributed.errors import TaskCrashed
from tests.promises.observe import agent_pids

MIB = 1 << 20


@pytest.fixture
def pool():
    with Cluster(n_workers=1, ncores=2, task_memory_limit="200MiB") as cluster, Pool(cluster) as pool:
        pool._core.wait(lambda: len(pool.workers) == 1, 20)
        yield pool


def leak(path=""):
    """Takes more and more, and never returns by itself."""
    if path:
        with open(path, "a") as file:
            file.write("ran\n")
    print("about to leak", file=sys.stderr)
    kept = []
    while True:
        kept.append(b"x" * (4 * MIB))
        time.sleep(0.001)


def leak_in_a_child():
    program = "kept = []\nwhile True: kept.append(b'x' * (4 << 20)); import time; time.sleep(0.001)"
    return subprocess.run([sys.executable, "-c", program], check=False).returncode


def read_and_change(array, changed, kept_s=0):
    mine = array[: changed // 8]
    mine += 1.0
    time.sleep(kept_s)
    return float(array[0] + array[-1])


def test_a_leak_ends_as_a_crash_that_names_limit_and_peak(pool, tmp_path):
    kept = pool.scatter(np.arange(1_000_000))
    mates = pool.map(pow, [3] * 200, range(200))
    with pytest.raises(TaskCrashed) as caught:
        pool.submit(leak, str(tmp_path / "ran")).get(60)
    assert (tmp_path / "ran").read_text() == "ran\n" * 3
    assert len(caught.value.attempts) == 3
    for line in caught.value.attempts:
        assert "--task-memory-limit" in line
        assert "a task may have 200.0 MiB" in line
        assert "about to leak" in line
        assert "in leak" in line, "the stack tells where it was"
        assert pool.workers[0] in line
        assert 200 <= float(line.split("peak memory ")[1].split()[0]) < 1000
    assert pool.gather(mates, 30) == [3**n for n in range(200)]
    assert int(kept.get(20)[-1]) == 999_999


def test_what_a_task_started_counts_as_well(pool):
    with pytest.raises(TaskCrashed, match="--task-memory-limit"):
        pool.options(attempts=1).submit(leak_in_a_child).get(60)


def leak_shared():
    """Takes more and more of what ``multiprocessing`` shares arrays in."""
    kept = []
    while True:
        kept.append(mmap.mmap(-1, 4 * MIB))
        kept[-1][:] = b"x" * (4 * MIB)
        time.sleep(0.001)


def test_memory_that_is_shared_and_has_no_name_counts_as_well(pool):
    with pytest.raises(TaskCrashed, match="--task-memory-limit"):
        pool.options(attempts=1).submit(leak_shared).get(60)


def test_inputs_that_are_mapped_do_not_count_until_they_are_changed(pool):
    array = pool.scatter(np.ones(400 * MIB // 8))
    assert pool.submit(read_and_change, array, 8).get(60) == 3.0
    with pytest.raises(TaskCrashed, match="--task-memory-limit"):
        pool.options(attempts=1).submit(read_and_change, array, 300 * MIB, kept_s=50).get(60)
    assert float(array.get(20)[0]) == 1.0


def test_without_a_limit_it_may_take_what_it_likes():
    with Cluster(n_workers=1, ncores=1, task_memory_limit="none") as cluster, Pool(cluster) as pool:
        assert pool.submit(lambda: len(b"x" * (300 * MIB))).get(60) == 300 * MIB


def score_of(pid):
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_the_kernel_takes_an_executor_before_the_agent(pool):
    (agent,) = agent_pids(pool.address).values()
    executor, score = pool.submit(lambda: (os.getpid(), score_of(os.getpid()))).get(20)
    assert executor != agent
    assert score >= min(1000, score_of(agent) + 500)
