"""The worker's mind: never is more of a resource in use than there is; who needs none does not wait; all get a turn."""

import pytest

from distributed.errors import ProtocolError
from distributed.wire.messages import Cancel, OwnerLeft, Recall, Recalled
from distributed.worker.events import (
    AskRunning,
    ExecutorEnded,
    ExecutorStarted,
    Give,
    Kill,
    LeaveAsked,
    Running,
    Send,
)
from tests.worker.bench import ALICE, BOB, Bench, compute, finished, key
from tests.worker.test_nesting import blocked, goes_on

GPU = {"gpu": 1}


@pytest.fixture
def bench():
    bench = Bench(ncores=3, resources={"gpu": 2, "license": 1})
    bench.know(mean_us=1_000_000)
    return bench


def given(out):
    """The names of the tasks that executors were given, in order."""
    return [name.partition("/")[2] for what in out if isinstance(what, Give) for name in what.message.keys]


def end(bench, name, client=ALICE):
    """A task ends."""
    for executor in bench.state.dispatch.executors.values():
        for part in executor.given:
            if key(name, client) in part.keys:
                serial = part.serial + part.keys.index(key(name, client))
                return bench.done([serial], executor=executor.number)
    raise AssertionError(f"{name} does not run")


def used(bench):
    return bench.state.dispatch.supplies.used


def test_no_more_than_there_is_are_in_use_and_others_pass(bench):
    assert given(bench.client(compute("abcd", resources=GPU))) == ["a", "b"]
    assert given(bench.client(compute("x"))) == ["x"]
    assert used(bench) == {"gpu": 2, "license": 0}
    assert given(end(bench, "a")) == ["c"]
    assert given(end(bench, "c")) == ["d"]
    for name in "bdx":
        end(bench, name)
    assert used(bench) == {"gpu": 0, "license": 0}


def test_several_are_had_together_or_not_at_all(bench):
    assert given(bench.client(compute("a", resources={"gpu": 2, "license": 1}))) == ["a"]
    assert given(bench.client(compute("b", resources={"license": 1}))) == []
    assert given(bench.client(compute("c", resources=GPU))) == []
    assert given(end(bench, "a")) == ["b", "c"]


def test_one_that_needs_much_gets_its_turn_though_others_that_need_less_keep_coming(bench):
    bench.client(compute("ab", resources=GPU))
    assert given(bench.client(compute("m", resources={"gpu": 2}))) == []
    bench.client(compute("cd", resources=GPU))
    assert given(bench.client(compute("l", resources={"license": 1}))) == ["l"], "it needs something else"
    assert given(end(bench, "a")) == [], "kept for m"
    assert given(end(bench, "b")) == ["m"]
    assert given(end(bench, "m")) == ["c", "d"]


def test_the_more_urgent_one_is_first_and_clients_take_turns(bench):
    bench.client(compute("ab", resources=GPU))
    bench.client(compute("cd", resources=GPU))
    bench.client(compute("u", resources=GPU, priority=-1))
    bench.client(compute("p", client=BOB, resources=GPU), BOB)
    first = given(end(bench, "a"))
    assert first == ["p"], "Bob has used less"
    assert given(end(bench, "b")) == ["u"]


def test_resources_come_back_when_a_task_raises_times_out_or_dies(bench):
    bench.client(compute("abc", resources={"gpu": 2}, timeout_s=5))
    executor, serial = next((e.number, e.given[0].serial) for e in bench.state.dispatch.executors.values() if e.given)
    assert bench.done([serial], [b""], executor=executor, errors={0: b"raised"})
    assert used(bench)["gpu"] == 2  # b runs
    executor, serial = next((e.number, e.given[0].serial) for e in bench.state.dispatch.executors.values() if e.given)
    bench.now += 10
    assert bench.on(Running(executor, serial, bench.now - 6)) == [Kill(executor)]
    out = bench.on(ExecutorEnded(executor, signal=9, serial=serial))
    assert given(out) == ["c"]
    executor, serial = next((e.number, e.given[0].serial) for e in bench.state.dispatch.executors.values() if e.given)
    out = bench.on(ExecutorEnded(executor, signal=11, serial=serial))
    assert [what.message.kind for what in out if isinstance(what, Send)] == ["crashed"]
    assert used(bench) == {"gpu": 0, "license": 0}


def test_a_cancelled_task_has_what_it_uses_until_its_executor_is_dead(bench):
    bench.client(compute("a", resources={"gpu": 2}))
    bench.client(compute("b", resources={"gpu": 2}))
    assert bench.client(Cancel([key("a")], [1])) == [AskRunning(1)]
    assert used(bench)["gpu"] == 2
    assert bench.on(Running(1, 2, bench.now)) == [Kill(1)]
    assert given(bench.on(ExecutorEnded(1, signal=9, serial=2))) == ["b"]


def test_one_that_is_cancelled_while_it_waits_is_in_nobodys_way(bench):
    bench.client(compute("ab", resources=GPU))
    bench.client(compute("m", resources={"gpu": 2}))
    bench.client(compute("c", resources=GPU))
    end(bench, "a")
    assert given(bench.client(Cancel([key("m")], [1]))) == ["c"]


def test_of_many_that_wait_some_are_cancelled(bench):
    bench.client(compute("abcdef", resources=GPU))
    bench.client(Cancel([key("d"), key("f")], [1, 1]))
    assert bench.state.dispatch.supplies.live == 2
    assert given(end(bench, "a")) == ["c"]
    assert given(end(bench, "b")) == ["e"]


def test_a_client_that_is_gone_uses_nothing_any_more(bench):
    bench.client(compute("abc", resources=GPU))
    bench.client(compute("x", client=BOB, resources={"gpu": 2}), BOB)
    bench.center(OwnerLeft(ALICE))
    for executor in (1, 2):
        bench.on(Running(executor, executor + 1, bench.now))
        out = bench.on(ExecutorEnded(executor, signal=9, serial=executor + 1))
    assert given(out) == ["x"]


def test_what_waits_for_a_core_has_its_resources_already_and_keeps_them_when_it_is_queued_again():
    bench = Bench(ncores=1, resources={"gpu": 2})
    bench.know(mean_us=10)
    assert given(bench.client(compute("ab", resources=GPU))) == ["a", "b"]
    assert bench.client(compute("c", resources=GPU)) == []
    bench.on(ExecutorEnded(1, signal=11, serial=2))
    assert used(bench) == {"gpu": 2}
    assert given(bench.on(ExecutorStarted(2, 7))) == ["b", "c"]


def test_what_was_given_behind_a_task_that_waits_keeps_them_too():
    bench = Bench(ncores=1, resources={"gpu": 2})
    bench.know(mean_us=10)
    bench.client(compute("ab", resources=GPU))
    blocked(bench, 2, returned=[3])
    assert used(bench) == {"gpu": 2}
    assert given(bench.on(ExecutorStarted(2, 7))) == ["b"]
    goes_on(bench, 2)
    bench.done([2])
    bench.done([4], executor=2)
    assert used(bench) == {"gpu": 0}


def test_those_that_wait_are_recalled_first(bench):
    bench.client(compute("abcd", resources=GPU))
    assert bench.client(Recall(1)) == [Send(ALICE, Recalled([key("d")], [1]))]
    assert bench.client(Recall(5)) == [Send(ALICE, Recalled([key("c")], [1]))]
    assert used(bench)["gpu"] == 2


def test_a_worker_that_leaves_gives_them_back(bench):
    bench.client(compute("abc", resources=GPU))
    out = bench.on(LeaveAsked())
    (recalled,) = [what.message.keys for what in out if isinstance(what, Send) and isinstance(what.message, Recalled)]
    assert recalled == [key("c")]
    assert end(bench, "a")[0] == finished("a")
    assert used(bench)["gpu"] == 1


def test_coroutines_use_them_as_well():
    bench = Bench(resources={"gpu": 2})
    bench.client(compute("abc", code=b"code", asynchronous=True, resources=GPU))
    out = bench.on(ExecutorStarted(2, 7))
    assert given(out) == ["a", "b"]
    assert given(bench.done([2], executor=2)) == ["c"]


@pytest.mark.parametrize("wrong", [{"gpu": 3}, {"tpu": 1}, {"gpu": 0}, {"gpu": -1}])
def test_a_demand_that_this_worker_never_meets_ends_the_connection(bench, wrong):
    with pytest.raises(ProtocolError, match="more than this worker has"):
        bench.client(compute("a", resources=wrong))
