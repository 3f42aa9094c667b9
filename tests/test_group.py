"""`pool.group`: tasks that start together, talk to one another and end together. Real workers, real executors."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import leaks_looked_for_by_module
from distributed import Cluster, Pool, current_pool, rpc
from distributed.errors import (
    DistributedError,
    GroupFailed,
    MemberEnded,
    NoWorker,
    PoolClosed,
    TaskCancelled,
    TaskTimeout,
)
from distributed.pool.communicator import Communicator
from tests.promises.machines import Program
from tests.promises.observe import Terminal, contents, until
from tests.promises.test_large_values import why_not

ITEMS = 12_500_000  # 100 MB of floats
PATIENCE_S = 60.0


no_leaks = leaks_looked_for_by_module()


@pytest.fixture(scope="module")
def cluster(no_leaks: None) -> Iterator[Cluster]:
    with Cluster(n_workers=2, ncores=2) as cluster:
        yield cluster


@pytest.fixture
def pool(cluster: Cluster) -> Iterator[Pool]:
    with Pool(cluster) as pool:
        assert until(lambda: len(pool.workers) == 2)
        yield pool
    assert until(lambda: not contents(cluster.center_address)), contents(cluster.center_address)


def one(handles: list[Any]) -> BaseException:
    """The error that all of these have."""
    errors = [handle.exception(PATIENCE_S) for handle in handles]
    assert len({(type(error), str(error)) for error in errors}) == 1, errors
    return errors[0]


# ------------------------------------------------------------------------------------------------- what they exchange


def collectives(comm: Any, offset: int, *, name: str) -> dict[str, Any]:
    comm.barrier()
    last = comm.size - 1
    return {
        "bcast": comm.bcast({"name": name} if comm.rank == last else None, root=last),
        "scatter": comm.scatter([i * i for i in range(comm.size)] if comm.rank == 0 else None),
        "gather": comm.gather(comm.rank + offset, root=last),
        "allgather": comm.allgather(chr(97 + comm.rank)),
        "sum": comm.allreduce(comm.rank + 1),
        "ordered": comm.allreduce(str(comm.rank), op=operator.add),
        "largest": float(comm.allreduce(np.array([comm.rank]), op=np.maximum)[0]),
        "who": repr(comm),
    }


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_collective_operations(pool: Pool, size: int) -> None:
    handles = pool.group(collectives, size, 10, name="alice")
    assert len(handles) == size
    for rank, result in enumerate(pool.gather(handles, PATIENCE_S)):
        assert result == {
            "bcast": {"name": "alice"},
            "scatter": rank * rank,
            "gather": list(range(10, 10 + size)) if rank == size - 1 else None,
            "allgather": list("abcd"[:size]),
            "sum": size * (size + 1) // 2,
            "ordered": "0123"[:size],
            "largest": float(size - 1),
            "who": f"<Communicator: rank {rank} of {size}>",
        }


def many_messages(comm: Any, count: int, nbytes: int) -> list[int]:
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    if comm.rank % 2 == 0:
        for number in range(count):
            comm.send((number, bytes(nbytes)), right)
    received = [comm.recv(left)[0] for _ in range(count)] if comm.rank % 2 else []
    comm.barrier()
    return received


def test_messages_of_one_sender_arrive_in_order_also_when_more_is_sent_than_may_be_unread(
    no_leaks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTRIBUTED_UNREAD_BYTES_MAX", "20000")
    with Cluster(n_workers=2, ncores=1) as cluster, Pool(cluster) as pool:
        for nbytes in (1000, 100_000):
            _, received = pool.gather(pool.group(many_messages, 2, 60, nbytes), PATIENCE_S)
            assert received == list(range(60))


def chosen(comm: Any) -> list[Any]:
    if comm.rank:
        comm.send(f"first of {comm.rank}", 0, tag=1)
        comm.send(f"second of {comm.rank}", 0, tag=2)
        comm.send("to myself", comm.rank)
        return [comm.recv(comm.rank)]
    second = [comm.recv(rank, tag=2) for rank in (2, 1)]
    anybody = sorted(comm.recv(tag=1) for _ in range(2))
    return [second, anybody]


def test_who_receives_chooses_by_sender_and_tag(pool: Pool) -> None:
    zero, one, two = pool.gather(pool.group(chosen, 3), PATIENCE_S)
    assert zero == [["second of 2", "second of 1"], ["first of 1", "first of 2"]]
    assert one == two == ["to myself"]


def mapped_file(array: np.ndarray) -> tuple[str, str]:
    """The path and the inode of the file whose pages an array is."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *rest = line.split(None, 5)
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            return (rest[4] if len(rest) > 4 else ""), rest[3]
    raise LookupError(address)


def exchange_large(comm: Any, items: int) -> tuple[str, float, float]:
    own = np.full(items, float(comm.rank))
    others = 1 - comm.rank
    comm.send(own, others)
    got = comm.recv(others)
    path, _ = mapped_file(got)
    total = float(got[:: items // 10].sum())
    got[0] = 77.0  # it is the receiver's own view
    comm.barrier()
    return path, total, float(own[0])


def stores(pool: Pool) -> dict[str, Any]:
    """The directory of each worker's store."""
    return {address: view.member.directory for address, view in pool._core.state.workers.items()}


@pytest.mark.parametrize("where", ["at one worker", "at two workers"])
def test_a_large_array_is_a_view_of_the_file_that_its_sender_wrote(pool: Pool, where: str) -> None:
    blockers = []
    if where == "at one worker":
        handles = pool.options(workers=pool.workers[0]).group(exchange_large, 2, ITEMS)
    else:
        blockers = [pool.options(workers=address).group(wait_for_word, 1)[0] for address in pool.workers]
        assert until(lambda: all("runs on" in blocker.explain() for blocker in blockers))
        handles = pool.group(exchange_large, 2, ITEMS)
    results = pool.gather(handles, PATIENCE_S)
    for blocker in blockers:
        blocker.cancel()
    for rank, (path, total, kept) in enumerate(results):
        worker = handles[rank]._task.worker or ""
        assert path.startswith(stores(pool)[worker]), path  # in its own worker's store, whoever wrote it
        assert total >= 10.0 * (1 - rank)
        assert kept == float(rank)
    for address in pool.workers:
        with rpc(address) as worker:
            status = worker.status()
        assert status["fetched_bytes"] == 0  # nothing went from worker to worker
        assert status["stored_bytes"] < 1000  # and nothing is left of it, but results


def wait_for_word(comm: Any) -> None:
    threading.Event().wait()


def share_large(comm: Any, items: int) -> str:
    got = comm.bcast(np.ones(items) if comm.rank == 0 else None)
    _, inode = mapped_file(got)
    comm.barrier()
    return inode


def test_an_array_for_all_is_written_once_for_each_worker(no_leaks: None) -> None:
    with Pool(3) as pool:
        _, one, two = pool.gather(pool.group(share_large, 3, 1_000_000), PATIENCE_S)
    assert one == two != "0"


PRIVATE = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=1g tmpfs /dev/shm && exec "$@"', "sh")


@pytest.mark.namespaces
@pytest.mark.slow
def test_members_on_machines_that_share_no_memory_exchange_large_arrays_over_sockets(no_leaks: None) -> None:
    if reason := why_not():
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:

        def started(*arguments: str) -> str:
            terminal = Terminal(*arguments, prefix=PRIVATE)
            stack.callback(terminal.end, signal.SIGTERM)
            return terminal.said()[arguments[0].capitalize()].split()[0]

        center = started("center", "--port", "0")
        workers = {started("worker", center, "--ncores", "1") for _ in range(2)}
        pool = stack.enter_context(Pool(center))
        assert until(lambda: set(pool.workers) == workers)
        handles = pool.group(exchange_large, 2, 1_000_000)
        assert {handle._task.worker for handle in handles} <= {None, *workers}
        for rank, (path, total, _) in enumerate(pool.gather(handles, PATIENCE_S)):
            assert path  # a file in its own worker's store, received there
            assert total >= 10.0 * (1 - rank)
        assert {handle._task.worker for handle in handles} == workers
        handles.clear()
        assert until(lambda: not contents(center)), contents(center)


def use_inner_pool(comm: Any) -> list[int]:
    inner = current_pool().submit(pow, comm.rank, 2).get()
    with pytest.raises(DistributedError, match="from inside of a task"):
        current_pool().group(use_inner_pool, 2)
    return comm.allgather(inner)


def test_a_member_submits_tasks_and_the_others_wait_for_its_messages_meanwhile(pool: Pool) -> None:
    assert pool.gather(pool.group(use_inner_pool, 4), PATIENCE_S) == [[0, 1, 4, 9]] * 4


def has_another_worker_compute(comm: Any, elsewhere: str) -> Any:
    if comm.rank == 0:
        comm.send(current_pool().options(workers=elsewhere).submit(abs, -5).get(), 1)
        return None
    return comm.recv(0)


def test_a_member_waits_for_a_task_at_a_worker_whose_members_wait_for_it(no_leaks: None) -> None:
    with Cluster(n_workers=2, ncores=1) as cluster, Pool(cluster) as pool:
        assert until(lambda: len(pool.workers) == 2)
        handles = pool.group(has_another_worker_compute, 2, max(pool.workers))
        assert pool.gather(handles, PATIENCE_S) == [None, 5]


def sums_input(comm: Any, numbers: np.ndarray, parts: list[int]) -> float:
    return comm.allreduce(float(numbers[comm.rank :: comm.size].sum())) + sum(parts)


def test_inputs_are_handles_as_in_any_task(pool: Pool) -> None:
    numbers = pool.scatter(np.arange(100_000.0))
    parts = pool.map(abs, [-1, -2])
    handles = pool.group(sums_input, 4, numbers, parts=parts)
    assert pool.gather(handles, PATIENCE_S) == [np.arange(100_000.0).sum() + 3] * 4


# ---------------------------------------------------------------------------------------------------- what goes wrong


def returns_itself(comm: Any) -> Any:
    return comm


def test_each_group_is_called_by_the_name_of_its_own_function(pool: Pool) -> None:
    """All of them are one function to the workers, which remember functions."""
    assert len(pool.gather(pool.group(shares, 2), PATIENCE_S)) == 2
    error = one(pool.group(returns_itself, 2))
    assert "the result of tests.test_group.returns_itself" in str(error)


def shares(comm: Any) -> Any:
    return comm.allgather(comm.rank)


def raises(comm: Any, rank: int) -> None:
    if comm.rank == rank:
        raise KeyError("the third shelf")
    comm.recv()


def test_a_member_that_raises_ends_the_group_with_its_exception_as_the_cause(pool: Pool) -> None:
    handles = pool.group(raises, 4, 2)
    error = one(handles)
    assert isinstance(error, GroupFailed) and error.rank == 2
    assert "rank 2 of 4" in str(error) and "KeyError: 'the third shelf'" in str(error)
    assert isinstance(error.__cause__, KeyError)
    assert "raise KeyError" in str(error.__cause__.__cause__)  # the line, on the worker
    assert pickle.loads(pickle.dumps(error)).rank == 2
    assert pool.gather(pool.group(collectives, 4, 0, name="bob"), PATIENCE_S)[0]["sum"] == 10


def tells_its_pid_and_waits(comm: Any, directory: str) -> None:
    Path(directory, str(comm.rank)).write_text(str(os.getpid()))
    comm.barrier()
    comm.recv()


def pids_in(directory: Path, count: int) -> list[int]:
    files = [directory / str(rank) for rank in range(count)]
    assert until(lambda: all(file.exists() and file.read_text() for file in files))
    return [int(file.read_text()) for file in files]


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_the_death_of_a_member_ends_the_group_and_names_it(pool: Pool, tmp_path: Path) -> None:
    handles = pool.group(tells_its_pid_and_waits, 3, str(tmp_path))
    pids = pids_in(tmp_path, 3)
    os.kill(pids[1], signal.SIGKILL)
    error = one(handles)
    assert isinstance(error, GroupFailed) and error.rank == 1
    assert "rank 1 of 3" in str(error) and "SIGKILL" in str(error)
    assert until(lambda: not any(map(is_alive, pids)))
    assert pool.gather(pool.group(collectives, 4, 0, name="carol"), PATIENCE_S)[0]["sum"] == 10


def test_the_death_of_a_worker_ends_the_group_and_names_it(no_leaks: None, tmp_path: Path) -> None:
    with Cluster(n_workers=2, ncores=1) as cluster, Pool(cluster) as pool:
        assert until(lambda: len(pool.workers) == 2)
        handles = pool.group(tells_its_pid_and_waits, 2, str(tmp_path))
        pids_in(tmp_path, 2)
        lost = handles[1]._task.worker or ""
        with rpc(lost) as worker:
            os.kill(worker.status()["pid"], signal.SIGKILL)
        error = one(handles)
        assert isinstance(error, GroupFailed) and (error.rank, error.worker) == (1, lost)


def exchanges_when_told(comm: Any, directory: str) -> int:
    Path(directory, str(comm.rank)).write_text(str(os.getpid()))
    wait_for_file(os.path.join(directory, "go"))
    comm.send(comm.rank, 1 - comm.rank)
    return comm.allreduce(comm.recv(1 - comm.rank))


def test_groups_begin_run_and_end_while_the_center_is_away(no_leaks: None, tmp_path: Path) -> None:
    with Cluster(n_workers=2, ncores=1) as cluster, Pool(cluster) as pool:
        assert until(lambda: len(pool.workers) == 2)
        handles = pool.group(exchanges_when_told, 2, str(tmp_path))
        pids_in(tmp_path, 2)
        with rpc(cluster.center_address) as center:
            os.kill(center.status()["pid"], signal.SIGKILL)
        (tmp_path / "go").touch()
        assert pool.gather(handles, PATIENCE_S) == [1, 1]
        assert pool.gather(pool.group(collectives, 2, 0, name="eve"), PATIENCE_S)[0]["sum"] == 3


def dies_once(comm: Any, marker: str) -> int:
    if comm.rank == 0 and not os.path.exists(marker):
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return comm.allreduce(1)


def test_with_retries_a_group_runs_again_as_a_whole(pool: Pool, tmp_path: Path) -> None:
    handles = pool.options(retries=1).group(dies_once, 3, str(tmp_path / "died"))
    assert pool.gather(handles, PATIENCE_S) == [3, 3, 3]


def test_to_cancel_one_handle_cancels_the_group(pool: Pool, tmp_path: Path) -> None:
    handles = pool.group(tells_its_pid_and_waits, 3, str(tmp_path))
    pids = pids_in(tmp_path, 3)
    assert handles[2].cancel()
    assert isinstance(one(handles), TaskCancelled)
    assert until(lambda: not any(map(is_alive, pids)))


def test_a_timeout_ends_the_group(pool: Pool) -> None:
    error = one(pool.options(timeout=0.2).group(raises, 4, 9))
    assert isinstance(error, TaskTimeout) and "timeout=0.2" in str(error)
    assert pool.gather(pool.group(collectives, 4, 0, name="dora"), PATIENCE_S)[0]["sum"] == 10


def test_a_pool_that_is_closed_ends_its_groups(no_leaks: None, tmp_path: Path) -> None:
    pool = Pool(2)
    handles = pool.group(tells_its_pid_and_waits, 2, str(tmp_path))
    pids_in(tmp_path, 2)
    pool.terminate()
    assert [handle.status for handle in handles] == ["cancelled"] * 2
    with pytest.raises(PoolClosed):
        pool.group(collectives, 2, 0)


def uses_one_that_returned(comm: Any, directory: str) -> list[str]:
    if comm.rank == 1:
        comm.send("last words", 0)
        return []
    words = []
    assert comm.recv(1) == "last words"
    for attempt in (lambda: comm.recv(1), lambda: comm.recv(), lambda: comm.send(1, 1), lambda: comm.bcast(1)):
        with pytest.raises(MemberEnded) as caught:
            attempt()
        words.append(f"{caught.value.rank}: {caught.value}")
    with pytest.raises(TimeoutError) as late:
        comm.recv(0, tag=5, timeout=0.01)
    return [*words, str(late.value)]


def test_who_waits_for_one_that_has_returned_is_told(pool: Pool, tmp_path: Path) -> None:
    words, _ = pool.gather(pool.group(uses_one_that_returned, 2, str(tmp_path)), PATIENCE_S)
    assert words == [
        "1: no message can come any more: rank 1 has returned",
        "-1: no message can come any more: every other member has returned",
        "1: rank 1 has returned: nobody reads messages there any more",
        "1: rank 1 has returned: nobody reads messages there any more",
        "no message with tag 5 from rank 0 came to rank 0 within 0.01 s",
    ]


def misuses(comm: Any) -> list[str]:
    words = []
    lock, handle = threading.Lock(), current_pool().submit(abs, -1)
    wrong: list[Any] = [
        lambda: comm.send(1, comm.size),
        lambda: comm.send(1, "0"),
        lambda: comm.recv(-1),
        lambda: comm.send(1, 0, tag=-1),
        lambda: comm.recv(0, timeout=-1),
        lambda: comm.bcast(1, root=True),
        lambda: comm.gather(1, root=9),
        lambda: comm.scatter([1, 2, 3], root=comm.rank),
        lambda: comm.scatter(None, root=comm.rank),
        lambda: comm.allreduce(1, op=5),
        lambda: comm.send(lock, 0),
        lambda: comm.send([handle], 0),
        lambda: pickle.dumps(comm),
    ]
    for call in wrong:
        with pytest.raises((ValueError, TypeError, DistributedError)) as caught:
            call()
        words.append(str(caught.value))
    found: list[str] = []

    def use() -> None:
        try:
            comm.barrier()
        except DistributedError as error:
            found.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    builtins = __import__("builtins")
    builtins.kept = comm
    return words + found


def uses_a_kept_one(number: int) -> str:
    kept = getattr(__import__("builtins"), "kept", None)
    if kept is None:
        return ""
    with pytest.raises(DistributedError) as caught:
        kept.send(1, 0)
    return str(caught.value)


def test_what_makes_no_sense_is_an_error_that_says_so(no_leaks: None) -> None:
    with Pool(1) as pool:
        (words,) = pool.gather(pool.group(misuses, 1), PATIENCE_S)
        expected = [
            "no rank of a group of 1", "must be a rank", "no rank of a group of 1", "tag", "timeout", "root",
            "no rank of a group of 1", "3 objects for a group of 1", "objs", "op=", "the message",
            "a handle cannot be sent", "stays in its member", "for the thread",
        ]  # fmt: skip
        assert len(words) == len(expected)
        for said, wanted in zip(words, expected, strict=True):
            assert wanted in said
        assert "as long as its function runs" in pool.submit(uses_a_kept_one, 0).get(PATIENCE_S)


class Reversed:
    """A serializer of the user's that knows lists of numbers, and nothing else."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return bytes(reversed(value))

    @staticmethod
    def loads(data: bytes) -> list[int]:
        return list(reversed(data))


def exchanges_numbers(comm: Any, numbers: list[int]) -> list[int]:
    comm.send([*numbers, comm.rank], 1 - comm.rank)
    return comm.bcast(comm.recv(1 - comm.rank), root=1)


def test_messages_go_by_the_serializer_of_the_pool(cluster: Cluster) -> None:
    with Pool(cluster, serializer=Reversed()) as pool:
        assert pool.gather(pool.group(exchanges_numbers, 2, [7, 8]), PATIENCE_S) == [[7, 8, 0]] * 2


def mixes_up(comm: Any) -> None:
    if comm.rank:
        comm.barrier()
    else:
        comm.gather(1)


def test_members_that_call_different_operations_are_told(pool: Pool) -> None:
    error = one(pool.group(mixes_up, 2))
    assert "rank 1 called barrier where rank 0 called gather" in str(error)


async def coroutine(comm: Any) -> None:
    pass


def test_a_function_may_be_named_and_one_that_is_defined_here_travels_along(pool: Pool) -> None:
    here = "defined here"
    assert pool.gather(pool.group(lambda comm: (comm.rank, here), 2), PATIENCE_S) == [(0, here), (1, here)]
    assert pool.gather(pool.group("builtins:repr", 1), PATIENCE_S) == ["<Communicator: rank 0 of 1>"]


def test_calls_that_make_no_group_are_refused(pool: Pool) -> None:
    with pytest.raises(TypeError, match="coroutine function"):
        pool.group(coroutine, 2)
    with pytest.raises(ValueError, match="key="):
        pool.options(key="x").group(raises, 2, 0)
    with pytest.raises(ValueError, match="resources="):
        pool.options(resources={"gpu": 1}).group(raises, 2, 0)
    with pytest.raises(ValueError, match="retries="):
        pool.options(attempts=2).group(raises, 2, 0)
    assert pool.options(attempts=1).group(collectives, 1, 0, name="x")[0].get(PATIENCE_S)["sum"] == 1


# ----------------------------------------------------------------------------------------------------------- places


def test_a_group_larger_than_the_cluster_says_so_at_once_and_fails_after_a_while(pool: Pool) -> None:
    groups = pool._core.state.groups
    groups._settings = dataclasses.replace(groups._settings, unmet_demand_grace_s=0.3)
    handles = pool.group(collectives, 5, 0, name="x")
    assert until(lambda: "only 4 executors on 2 workers" in handles[0].explain())
    error = one(handles)
    assert isinstance(error, NoWorker) and "has 5 members" in str(error)


def wait_for_file(path: str) -> str:
    while not os.path.exists(path):
        threading.Event().wait(0.01)
    return path


def test_a_group_waits_for_tasks_that_run_and_says_where(pool: Pool, tmp_path: Path) -> None:
    task = pool.submit(wait_for_file, str(tmp_path / "go"))
    assert until(lambda: "runs on" in task.explain())
    handles = pool.group(collectives, 4, 0, name="x")
    later = pool.map(abs, range(-8, 0))
    assert until(lambda: "have an executor; it waits until" in handles[0].explain())
    assert not any(handle.ready() for handle in handles)
    (tmp_path / "go").touch()
    assert pool.gather(handles, PATIENCE_S)[0]["sum"] == 10
    assert pool.gather(later, PATIENCE_S) == list(range(8, 0, -1))
    assert task.get(PATIENCE_S)


SIZES = (3, 4, 2, 3, 1, 4)


def run_groups(hear: Any, say: Any, center: str) -> None:
    """A program that wants more executors than there are, time and again; it tells what came of it."""
    with Pool(center) as pool:
        say("here")
        hear()
        groups = [pool.group(collectives, size, 0, name="x") for size in SIZES]
        tasks = pool.map(abs, range(50))
        for group in groups:
            say(group[0].get()["sum"] if group[0].wait(PATIENCE_S) else group[0].explain())
        say(sum(pool.gather(tasks, PATIENCE_S)))


def test_groups_of_several_programs_that_are_too_many_for_the_cluster_all_come_to_their_end(cluster: Cluster) -> None:
    with contextlib.ExitStack() as stack:
        programs = [stack.enter_context(Program(run_groups, cluster.center_address)) for _ in range(3)]
        assert [program.hear() for program in programs] == ["here"] * 3
        for program in programs:
            program.say("go")
        for program in programs:
            assert [program.hear() for _ in SIZES] == [size * (size + 1) // 2 for size in SIZES]
            assert program.hear() == sum(range(50))
            assert program.end() == 0


def test_members_of_a_group_are_what_they_are_documented_to_be() -> None:
    public = {name for name in vars(Communicator) if not name.startswith("_")}
    assert public == {
        "rank", "size", "send", "recv", "barrier", "bcast", "gather", "allgather", "allreduce", "scatter",
    }  # fmt: skip
