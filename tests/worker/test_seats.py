"""The worker's mind: what is for one executor waits for that one, and for whoever comes in its place."""

import pytest

from distributed.errors import ProtocolError
from distributed.wire.messages import Attach, Cancel, DeleteData, Recall, Recalled, Restart, Restarted
from distributed.worker.events import AskRunning, ExecutorEnded, ExecutorStarted, Kill, LeaveAsked, Running, Send, Spawn
from tests.worker.bench import ALICE, BOB, Bench, compute, finished, key, run
from tests.worker.test_nesting import blocked, goes_on


@pytest.fixture
def bench():
    bench = Bench(ncores=2)
    bench.know()
    return bench


def seated(name, seat, **options):
    return compute(name, seat=seat, **options)


def serial_of(give):
    return give.message.serial


def test_each_seat_is_that_of_one_executor(bench):
    assert bench.client(seated("b", 1)) == [run("b", 2, 2, code=b"code")]
    assert bench.client(seated("a", 0)) == [run("a", 3)]
    assert bench.done([2], executor=2) == [finished("b")]
    assert bench.done([3]) == [finished("a")]


def test_what_runs_is_not_disturbed_and_what_is_queued_comes_after(bench):
    bench.client(compute("abcdef"))
    running = {
        e.number: [name for part in e.given for name in part.keys] for e in bench.state.dispatch.executors.values()
    }
    assert bench.client(seated("x", 0)) == []
    bench.client(compute("ghi"))
    first, last = running[1], bench.state.dispatch.executors[1]
    serials = [part.serial + n for part in last.given for n in range(len(part))]
    out = bench.done(serials)
    assert [give.message.keys for give in out if hasattr(give, "executor")] == [[key("x")]], first
    out = bench.done([serial_of(out[-1])])
    assert out[0] == finished("x")


def test_it_is_alone_in_its_executor_and_counts_for_its_client(bench):
    bench.client(compute("pq"))  # both are busy
    bench.client(seated("x", 0, client=BOB), BOB)
    executor = bench.state.dispatch.executors[1]
    bench.done([executor.given[0].serial])
    assert executor.alone
    assert bench.state.dispatch.queue.clients[BOB].given == 1
    bench.done([executor.given[0].serial], durations_us=[7_000_000])
    assert bench.state.dispatch.queue.clients[BOB].used_s >= 7


def test_in_place_of_an_executor_that_died_of_something_else_the_next_one_runs_it(bench):
    bench.client(compute("pq"))
    assert bench.client(seated("x", 0)) == []
    serial = bench.state.dispatch.executors[1].given[0].serial
    out = bench.on(ExecutorEnded(1, signal=11, serial=serial))
    assert Spawn(3) in out
    assert bench.on(ExecutorStarted(3, 7)) == [run("x", 4, 3, code=b"code")]


def test_the_one_that_it_killed_is_replaced_and_its_next_attempt_runs_there(bench):
    bench.client(seated("x", 0))
    out = bench.on(ExecutorEnded(1, signal=11, serial=2))
    assert [what.message.kind for what in out if isinstance(what, Send)] == ["crashed"]
    assert bench.client(seated("x", 0, attempt=2)) == []
    assert bench.on(ExecutorStarted(3, 7)) == [run("x", 3, 3, code=b"code", attempts={0: 2})]


def test_a_restart_comes_first(bench):
    bench.client(compute("pq"))
    bench.client(seated("x", 0))
    assert bench.client(Restart(5)) == []
    (first, second) = [bench.state.dispatch.executors[n].given[0].serial for n in (1, 2)]
    assert Kill(1) in bench.done([first])
    assert Kill(2) in bench.done([second], executor=2)
    assert bench.on(ExecutorEnded(1, signal=9)) == [Spawn(3)]
    assert bench.on(ExecutorEnded(2, signal=9)) == [Spawn(4), Send(ALICE, Restarted(5))]
    assert bench.on(ExecutorStarted(4, 7)) == []
    assert bench.on(ExecutorStarted(3, 7)) == [run("x", 4, 3, code=b"code")]


def test_while_its_task_waits_for_tasks_an_executor_is_not_free():
    bench = Bench()
    bench.know()
    bench.client(compute("a"))
    blocked(bench, 2)
    assert bench.client(seated("x", 0)) == []
    goes_on(bench, 2)
    assert bench.done([2]) == [finished("a"), run("x", 3)]


def test_an_executor_beyond_those_of_the_cores_moves_up_when_one_of_them_goes():
    bench = Bench()
    bench.know()
    bench.client(compute("a"))
    blocked(bench, 2)
    assert bench.client(compute("b")) == [Spawn(2)]
    bench.on(ExecutorStarted(2, 7))
    assert bench.state.dispatch.executors[2].seat == 1
    bench.client(seated("x", 0))
    goes_on(bench, 2)
    assert bench.on(ExecutorEnded(1, signal=11, serial=2))[0].message.kind == "crashed"
    assert bench.state.dispatch.executors[2].seat == 0
    assert bench.done([3], executor=2) == [finished("b"), run("x", 4, 2)]


def test_what_is_cancelled_while_it_waits_does_not_run_and_others_go_on(bench):
    bench.client(compute("p"))
    bench.client(compute("q"))
    bench.client(seated("x", 0))
    assert bench.client(Cancel([key("x")], [1])) == []
    assert bench.client(compute("c")) != [], "the executor may be given others again"
    assert not bench.state.dispatch.seats.waiting
    assert key("x") not in bench.state.tasks


def test_what_is_cancelled_while_it_runs_is_ended(bench):
    bench.client(seated("x", 0))
    assert bench.client(Cancel([key("x")], [1])) == [AskRunning(1)]
    assert bench.on(Running(1, 2, bench.now)) == [Kill(1)]
    assert bench.on(ExecutorEnded(1, signal=9, serial=2)) == [Spawn(3)]


def test_a_client_that_comes_anew_has_nothing_waiting(bench):
    bench.client(compute("pq"))
    bench.client(seated("x", 0))
    bench.client(Attach(ALICE))
    assert not bench.state.tasks


def test_it_is_not_recalled_and_goes_back_from_a_worker_that_leaves(bench):
    bench.client(compute("pq"))
    bench.client(seated("x", 0))
    assert bench.client(Recall(5)) == [Send(ALICE, Recalled([], []))]
    out = bench.on(LeaveAsked())
    assert Send(ALICE, Recalled([key("x")], [1])) in out or any(
        isinstance(what, Send) and isinstance(what.message, Recalled) and key("x") in what.message.keys for what in out
    )


def test_it_waits_for_its_inputs_first(bench):
    bench.client(compute("p"))
    bench.done([2])
    assert bench.client(seated("x", 1, inputs={0: [[key("p"), 1, 1, [], None]]})) == [
        run("x", 3, 2, code=b"code", inputs={0: [[key("p"), b"v"]]})
    ]
    bench.client(DeleteData([key("p")]))


@pytest.mark.parametrize(
    "wrong", [compute("a", seat=2), compute("ab", seat=0), compute("a", seat=0, asynchronous=True)]
)
def test_a_seat_that_makes_no_sense_ends_the_connection(bench, wrong):
    with pytest.raises(ProtocolError, match="seat"):
        bench.client(wrong)
