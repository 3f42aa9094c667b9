"""Values above the memory limit go to disk and come back; where there is no room tasks wait, or fail with the sizes.

Nothing else breaks: not when others fill the file system just while a value is written, nor with the small shared
memory of containers, nor when the spill disk is full. Roots are not overproduced. Stories that mount a file system run
in a process with mounts of its own, which takes root.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from distributed import Cluster, Pool, rpc
from distributed.errors import KeyLost, StoreFull
from distributed.pieces import write_file
from distributed.worker.files import Files
from tests.promises.observe import MIB, until

BLOCK_MIB = 16
needs_mounts = pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a file system")


def block(number, mib=BLOCK_MIB):
    return np.full(mib * MIB // 8, float(number))


def total(array):
    return float(array.sum())


def add(left, right):
    return left + right


def first_of_each(*arrays):
    return sum(float(array[0]) for array in arrays)


def total_of(number, mib=BLOCK_MIB):
    return float(number) * mib * MIB // 8


@contextlib.contextmanager
def cluster_of(n_workers=1, ncores=1, limit_mib=128, spill_directory=None):
    """A pool, and what its workers said of themselves."""
    with (
        Cluster(n_workers, ncores, memory_limit=limit_mib * MIB, spill_directory=spill_directory) as cluster,
        Pool(cluster) as pool,
    ):
        pool._core.wait(lambda: len(pool.workers) == n_workers, 20)
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(rpc(address)) for address in pool.workers]
            yield pool, lambda: [worker.status() for worker in workers]


class Watch(threading.Thread):
    """Asks workers again and again what they hold, and remembers the most."""

    def __init__(self, statuses):
        super().__init__()
        self.statuses, self.held, self.spilled, self.is_over = statuses, 0, 0, False

    def run(self):
        while not self.is_over:
            told = self.statuses()
            self.held = max(self.held, *(one["stored_bytes"] + one["reserved_bytes"] for one in told))
            self.spilled = max(self.spilled, sum(one["spilled_bytes"] for one in told))
            time.sleep(0.002)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.is_over = True
        self.join()


# ------------------------------------------------------------------------------------------------------ roots


def reduce_each(pool, count):
    blocks = pool.map(block, range(count))
    totals = pool.map(total, blocks)
    del blocks
    return sum(pool.gather(totals, 120))


def reduce_in_pairs(pool, count):
    layer = pool.map(block, range(count))
    while len(layer) > 1:
        odd = layer[len(layer) // 2 * 2 :]
        layer = [pool.submit(add, *layer[start : start + 2]) for start in range(0, len(layer) - 1, 2)] + odd
    return pool.submit(total, layer.pop()).get(120)


@pytest.mark.slow
@pytest.mark.parametrize(("n_workers", "ncores"), [(1, 1), (1, 2), (1, 4), (2, 2)])
@pytest.mark.parametrize("reduce", [reduce_each, reduce_in_pairs])
def test_roots_are_not_overproduced(reduce, n_workers, ncores):
    with cluster_of(n_workers, ncores, limit_mib=640) as (pool, statuses), Watch(statuses) as watch:
        assert reduce(pool, 200) == sum(map(total_of, range(200)))
    print(f"at most {watch.held // MIB} MiB in memory, {watch.spilled // MIB} MiB on disk")
    assert watch.held <= 640 * MIB
    assert watch.spilled <= 64 * MIB


# ---------------------------------------------------------------------------------------------- more than memory


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_working_set_three_times_the_memory_finishes(n_workers):
    with cluster_of(n_workers, 2, limit_mib=128 // n_workers) as (pool, statuses), Watch(statuses) as watch:
        blocks = pool.map(block, range(24))
        assert pool.gather(pool.map(total, blocks), 60) == list(map(total_of, range(24)))
        picks = [random.Random(number).sample(range(24), 3) for number in range(24)]
        mixed = [pool.submit(first_of_each, *(blocks[at] for at in pick)) for pick in picks]
        assert pool.gather(mixed, 60) == [float(sum(pick)) for pick in picks]
        assert [float(array[0]) for array in pool.gather(blocks, 60)] == list(map(float, range(24)))
        del blocks, mixed
        assert until(lambda: not any(one["stored_bytes"] + one["spilled_bytes"] for one in statuses()))
    assert watch.held <= 128 * MIB // n_workers
    assert watch.spilled >= (24 * BLOCK_MIB - 128) * MIB


def test_what_was_spilled_comes_back_when_it_is_used_and_there_is_room():
    with cluster_of(limit_mib=128) as (pool, statuses):
        blocks = pool.map(block, range(12))
        assert all(handle.wait(20) for handle in blocks)
        (status,) = statuses()
        assert status["spilled_bytes"] > 4 * BLOCK_MIB * MIB
        kept = blocks[:3]
        del blocks
        assert until(lambda: statuses()[0]["keys"] == 3)
        assert statuses()[0]["spilled_bytes"] > 3 * BLOCK_MIB * MIB, "those used longest ago went, and stay there"
        assert pool.gather(pool.map(total, kept), 20) == list(map(total_of, range(3)))
        assert until(lambda: statuses()[0]["spilled_bytes"] == 0), "they are used again"
        assert statuses()[0]["returned_bytes_ever"] > 3 * BLOCK_MIB * MIB
        assert pool.gather(pool.map(total, kept), 20) == list(map(total_of, range(3)))


def test_a_value_larger_than_the_memory_lives_on_disk():
    with cluster_of(n_workers=2, limit_mib=64) as (pool, statuses):
        here, there = pool.workers
        large = pool.options(workers=[here]).submit(block, 7, 200)
        assert pool.options(workers=[here]).submit(total, large).get(60) == total_of(7, 200)
        assert pool.options(workers=[there]).submit(total, large).get(60) == total_of(7, 200)
        assert float(large.get(60)[-1]) == 7.0
        scattered = pool.scatter(block(8, 100))
        assert pool.submit(total, scattered).get(60) == total_of(8, 100)
        assert all(one["stored_bytes"] + one["reserved_bytes"] <= 64 * MIB for one in statuses())


def test_a_value_whose_file_was_cut_short_is_computed_again():
    with cluster_of(limit_mib=64) as (pool, statuses):
        blocks = pool.map(block, range(6))
        assert all(handle.wait(20) for handle in blocks)
        directory = statuses()[0]["spill_directory"]
        for name in os.listdir(directory):
            os.truncate(os.path.join(directory, name), MIB)
        assert [float(array[-1]) for array in pool.gather(blocks, 60)] == list(map(float, range(6)))


def harm(pool, statuses, how):
    """Somebody does this to all value files of the only worker; how many these are."""
    (view,) = pool._core.state.workers.values()
    paths = [
        os.path.join(directory, name)
        for directory in (view.member.directory, statuses()[0]["spill_directory"])
        for name in os.listdir(directory)
        if name.startswith("v")
    ]
    for path in paths:
        how(path)
    return len(paths)


def cut(path):
    os.truncate(path, MIB)


@pytest.mark.parametrize("how", [cut, os.unlink])
def test_inputs_whose_files_were_removed_or_cut_short_are_computed_again(how):
    with cluster_of(ncores=2, limit_mib=64) as (pool, statuses):
        blocks = pool.map(block, range(6))
        scattered = pool.scatter(block(6))
        assert all(handle.wait(20) for handle in [*blocks, scattered])
        assert harm(pool, statuses, how) == 7
        assert pool.gather(pool.options(attempts=1).map(total, blocks * 2), 60) == list(map(total_of, range(6))) * 2
        with pytest.raises(KeyLost, match=scattered.key):
            pool.submit(total, scattered).get(20)


def test_a_value_whose_file_was_removed_does_not_keep_others_from_going_to_disk():
    with cluster_of(limit_mib=64) as (pool, statuses):
        first = pool.submit(block, 1)
        assert first.wait(20)
        assert harm(pool, statuses, os.unlink) == 1
        blocks = pool.map(block, range(8))
        assert pool.gather(pool.map(total, [first, *blocks]), 60) == list(map(total_of, [1, *range(8)]))


# --------------------------------------------------------------------------------------------------------- waiting


def count_and_make(path, mib):
    with open(path, "a") as file:
        file.write("x")
    return np.ones(mib * MIB // 8)


def test_a_task_waits_for_room_and_uses_up_no_attempt(tmp_path):
    with cluster_of(limit_mib=64, spill_directory="none") as (pool, _):
        held = pool.map(block, range(3))
        assert all(handle.wait(20) for handle in held)
        waiting = pool.options(attempts=1).submit(count_and_make, str(tmp_path / "ran"), 40)
        assert until((tmp_path / "ran").exists)
        assert not waiting.wait(0.3)
        assert pool.gather(pool.map(total, held), 20) == list(map(total_of, range(3)))
        del held
        assert waiting.wait(20)
        assert (tmp_path / "ran").read_text() == "x"


def test_what_consumes_goes_on_while_producers_wait(tmp_path):
    """Two producers block both executors; only what reads the held values can make room."""
    with cluster_of(ncores=2, limit_mib=64, spill_directory="none") as (pool, _):
        held = pool.map(block, range(3))
        assert all(handle.wait(20) for handle in held)
        producers = [pool.submit(count_and_make, str(tmp_path / f"ran {n}"), 40) for n in range(2)]
        assert until(lambda: all((tmp_path / f"ran {n}").exists() for n in range(2)))
        assert pool.gather(pool.map(total, held), 20) == list(map(total_of, range(3)))
        assert until(lambda: any("waits for room" in producer.explain() for producer in producers))
        del held
        totals = [pool.submit(total, producer) for producer in producers]
        producers.clear()
        assert pool.gather(totals, 30) == [40.0 * MIB / 8] * 2


def test_what_can_never_fit_fails_at_once_with_the_sizes():
    with cluster_of(limit_mib=64, spill_directory="none") as (pool, _):
        for full in (lambda: pool.submit(block, 1, 80).get(20), lambda: pool.scatter(block(1, 80))):
            with pytest.raises(StoreFull) as caught:
                full()
            for word in ("64.0 MiB", "80.0 MiB", "--spill-directory"):
                assert word in str(caught.value)
        assert pool.submit(total, pool.submit(block, 3)).get(20) == total_of(3)


def test_the_client_waits_for_room_as_well():
    with cluster_of(limit_mib=64, spill_directory="none") as (pool, _):
        held = pool.map(block, range(3))
        assert all(handle.wait(20) for handle in held)
        threading.Timer(0.5, held.clear).start()
        assert total(pool.scatter(block(5, 40)).get(20)) == total_of(5, 40)


# ------------------------------------------------------------------------------------- file systems of our own


def in_own_mounts(story, *mounts, **environment):
    """Run a story where these (directory, size in MiB) are file systems in memory."""
    setup = "".join(f"mount -t tmpfs -o size={mib}m,mode=1777 none '{directory}' && " for directory, mib in mounts)
    program = f"from tests.promises import test_room as t; t.{story.__name__}()"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f'{setup}exec "$0" -c "$1"', sys.executable, program],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)


def fill(directory):
    """Somebody else takes all that is left of a file system; what gives it back."""
    path = os.path.join(directory, f"filler-{random.random()}")
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(MIB // 4))
    return lambda: os.unlink(path)


def story_of_files():
    """Between reservation and write others take the rest: also of a file that was used before."""
    files = Files("/dev/shm", "/mnt")
    first = files.reserve(40 * MIB)
    empty = fill("/dev/shm")
    write_file(first, [b"x" * (40 * MIB)])
    files.remove(first)
    again = files.reserve(30 * MIB)
    with open(again, "r+b") as file, mmap.mmap(file.fileno(), 30 * MIB) as mapped:
        mapped[:] = b"y" * (30 * MIB)
    with contextlib.suppress(StoreFull):
        files.reserve(90 * MIB)
        raise AssertionError("there is no room for that")
    spilled = files.spill(again)
    with open(spilled, "rb") as file:
        assert file.read() == b"y" * (30 * MIB)
    empty()
    files.close()


@needs_mounts
def test_a_file_that_was_reserved_can_be_written_whatever_others_take():
    in_own_mounts(story_of_files, ("/dev/shm", 100), ("/mnt", 100))


def story_of_a_filler():
    """Others fill the shared memory and give it back, again and again, while values are made, moved and read."""
    with cluster_of(n_workers=2, ncores=2, limit_mib=120) as (pool, _):
        is_over = False

        def others():
            while not is_over:
                empty = fill("/dev/shm")
                time.sleep(0.1)
                empty()
                time.sleep(0.1)

        thread = threading.Thread(target=others)
        thread.start()
        try:
            blocks = pool.map(block, range(40), [5] * 40)
            mixed = [pool.submit(first_of_each, *blocks[start : start + 3]) for start in range(38)]
            scattered = [pool.scatter(block(number, 5)) for number in range(10)]
            assert pool.gather(mixed, 60) == [3.0 * start + 3 for start in range(38)]
            assert pool.gather(pool.map(total, scattered), 60) == [total_of(number, 5) for number in range(10)]
        finally:
            is_over = True
            thread.join()


@needs_mounts
def test_tasks_go_on_while_others_fill_the_shared_memory():
    in_own_mounts(story_of_a_filler, ("/dev/shm", 300))


def story_of_small_shared_memory():
    with cluster_of(limit_mib=500) as (pool, _):
        (view,) = pool._core.state.workers.values()
        assert not view.member.directory.startswith("/dev/shm"), view.member
        blocks = pool.map(block, range(20))
        assert pool.gather(pool.map(total, blocks), 60) == list(map(total_of, range(20)))
        assert float(blocks[7].get(20)[0]) == 7.0


@needs_mounts
def test_the_small_shared_memory_of_containers_is_not_used():
    in_own_mounts(story_of_small_shared_memory, ("/dev/shm", 64))


def story_of_a_full_disk():
    with cluster_of(ncores=2, limit_mib=64, spill_directory="/mnt") as (pool, statuses):
        blocks = pool.map(block, range(10))
        failed = 0
        for number, handle in enumerate(blocks):
            try:
                assert float(handle.get(60)[0]) == number
            except StoreFull as error:
                failed += 1
                missing = [word for word in (" are stored", "64.0 MiB", "/mnt") if word not in str(error)]
                if missing:
                    raise AssertionError(f"{missing} is not in {error}") from error
        assert failed >= 3, "64 MiB in memory and 60 on disk hold seven blocks at most"
        del blocks, handle
        assert until(lambda: not statuses()[0]["keys"])
        blocks = pool.map(block, range(6))
        assert pool.gather(pool.map(total, blocks), 60) == list(map(total_of, range(6)))


@needs_mounts
def test_a_full_spill_disk_is_told_with_the_sizes_and_all_goes_on_when_there_is_room():
    in_own_mounts(story_of_a_full_disk, ("/mnt", 64), DISTRIBUTED_ROOM_PATIENCE_S="3")
