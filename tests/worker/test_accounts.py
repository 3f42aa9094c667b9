"""The worker's mind: the pools of one program are one client to its queues, and each is told of its own."""

import pytest

from distributed.wire.messages import Attach, Cancel, OwnerLeft, Recall, Recalled
from distributed.worker.events import ClientDisconnected, Give, Send
from tests.worker.bench import Bench, compute, finished, key

FIRST, SECOND, OTHER = "a11ce0000000-1", "a11ce0000000-2", "b0b000000000-1"


@pytest.fixture
def bench():
    bench = Bench()
    for client in (FIRST, SECOND, OTHER):
        bench.client(Attach(client), client)
    bench.know(mean_us=1_000_000)
    bench.state.dispatch.queue.clients.clear()
    return bench


def given(out):
    return [name for what in out if isinstance(what, Give) for name in what.message.keys]


def run_all(bench):
    """What is run, in order."""
    ran = []
    while parts := bench.state.dispatch.executors[1].given:
        ran += parts[0].keys
        bench.done([parts[0].serial], durations_us=[1_000_000])
    return ran


def test_priorities_mean_the_same_in_all_pools_of_a_program(bench):
    bench.client(compute("x", client=FIRST), FIRST)  # it runs
    bench.client(compute("ab", client=FIRST, priority=2), FIRST)
    bench.client(compute("cd", client=SECOND, priority=1), SECOND)
    bench.client(compute("e", client=FIRST, priority=0), FIRST)
    assert run_all(bench) == [
        key("x", FIRST), key("e", FIRST), key("c", SECOND), key("d", SECOND), key("a", FIRST), key("b", FIRST),
    ]  # fmt: skip


def test_a_program_with_two_pools_gets_no_more_than_one_with_one(bench):
    bench.client(compute("x", client=FIRST), FIRST)
    bench.client(compute("abcd", client=FIRST), FIRST)
    bench.client(compute("efgh", client=SECOND), SECOND)
    bench.client(compute("klmn", client=OTHER), OTHER)
    first_eight = run_all(bench)[1:9]
    assert sum(name.startswith(OTHER) for name in first_eight) == 4


def test_each_pool_is_told_of_its_own():
    bench = Bench()
    bench.know()
    bench.client(compute("x", client=FIRST), FIRST)
    bench.client(compute("a", client=FIRST), FIRST)
    bench.client(compute("b", client=SECOND), SECOND)
    assert bench.done([2, 3, 4]) == [finished("xa", FIRST), finished("b", SECOND)]


def test_each_pool_recalls_and_cancels_its_own(bench):
    bench.client(compute("x", client=FIRST), FIRST)
    bench.client(compute("ab", client=FIRST), FIRST)
    bench.client(compute("cd", client=SECOND), SECOND)
    assert bench.client(Recall(1), FIRST) == [Send(FIRST, Recalled([key("b", FIRST)], [1]))]
    bench.client(Cancel([key("c", SECOND)], [1]), SECOND)
    assert run_all(bench) == [key("x", FIRST), key("a", FIRST), key("d", SECOND)]


def test_resources_are_recalled_from_the_right_one():
    bench = Bench(resources={"gpu": 1})
    bench.know(mean_us=1_000_000)
    for name, client in (("a", FIRST), ("bc", FIRST), ("de", SECOND)):
        bench.client(compute(name, client=client, resources={"gpu": 1}), client)
    assert bench.client(Recall(1), FIRST) == [Send(FIRST, Recalled([key("c", FIRST)], [1]))]
    (back,) = bench.client(Recall(9), SECOND)
    assert sorted(back.message.keys) == [key("d", SECOND), key("e", SECOND)]
    assert bench.state.dispatch.supplies.live == 1


def test_what_a_program_used_is_remembered_until_its_last_pool_is_gone(bench):
    bench.client(compute("x", client=FIRST), FIRST)
    bench.client(compute("y", client=SECOND), SECOND)
    run_all(bench)
    bench.on(ClientDisconnected(FIRST))
    bench.center(OwnerLeft(FIRST))
    assert bench.state.dispatch.queue.clients["a11ce0000000"].used_s > 1
    bench.on(ClientDisconnected(SECOND))
    bench.center(OwnerLeft(SECOND))
    assert bench.state.dispatch.queue.clients == {}
