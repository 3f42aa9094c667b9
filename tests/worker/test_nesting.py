"""The worker's mind: tasks that wait for tasks give their slot back, and what is said to and by them is passed on."""

import pytest

from distributed.config import Settings
from distributed.errors import ProtocolError
from distributed.wire.codec import decode
from distributed.wire.messages import Blocked, Cancel, FromTask, TaskSays, TellTask, TooDeep, ToTask
from distributed.worker.events import AskRunning, ExecutorEnded, ExecutorStarted, FromExecutor, Give, Kill, Send, Spawn
from tests.worker.bench import ALICE, BOB, Bench, compute, finished, key, run


@pytest.fixture
def bench():
    return Bench()


def blocked(bench, serial, executor=1, returned=()):
    return bench.on(FromExecutor(executor, Blocked(serial, True, list(returned))))


def goes_on(bench, serial, executor=1):
    return bench.on(FromExecutor(executor, Blocked(serial, False, [])))


def test_what_a_task_says_goes_to_its_owner_and_the_answer_to_its_executor(bench):
    bench.client(compute("a", code=b"code", attempt=3))
    assert bench.on(FromExecutor(1, FromTask(1, b"said"))) == [Send(ALICE, TaskSays(key("a"), 3, 1, 1, b"said"))]
    assert bench.client(TellTask(key("a"), 3, 1, 1, b"answer")) == [Give(1, ToTask(1, b"answer"))]


@pytest.mark.parametrize("wrong", [(key("a"), 2, 1, 1), (key("b"), 1, 1, 1), (key("a"), 1, 9, 1), (key("a"), 1, 1, 9)])
def test_an_answer_to_a_task_that_is_over_goes_nowhere(bench, wrong):
    bench.client(compute("a", code=b"code"))
    assert bench.client(TellTask(*wrong, b"answer")) == []
    assert bench.client(TellTask(key("a"), 1, 1, 1, b"answer"), client=BOB) == []


def test_the_last_words_of_a_task_that_is_over_go_nowhere(bench):
    bench.client(compute("a", code=b"code"))
    bench.done([1])
    assert bench.on(FromExecutor(1, FromTask(1, b"said"))) == []
    assert bench.on(FromExecutor(7, FromTask(1, b"said"))) == []


def test_an_executor_is_started_for_what_is_queued_while_a_task_waits(bench):
    bench.know()
    bench.client(compute("a"))
    assert blocked(bench, 2) == []  # nothing is there to run
    assert bench.client(compute("b")) == [Spawn(2)]
    assert bench.on(ExecutorStarted(2, 7)) == [run("b", 3, 2, code=b"code")]
    assert bench.done([3], executor=2) == [finished("b")]
    goes_on(bench, 2)
    assert bench.done([2]) == [finished("a")]


def test_the_executor_too_many_gets_nothing_and_ends_when_nobody_needed_it_for_a_while(bench):
    bench.know()
    bench.client(compute("a"))
    blocked(bench, 2)
    bench.client(compute("b"))
    bench.on(ExecutorStarted(2, 7))
    bench.done([3], executor=2)
    goes_on(bench, 2)
    (given,) = bench.client(compute("c"))  # the task that waited runs: only behind it, there is one core
    assert given.executor == 1
    bench.done([2, 4])
    assert bench.wait(bench.state.settings.surplus_executors_s) == [Kill(1)]
    assert bench.on(ExecutorEnded(1, signal=9)) == []
    (given,) = bench.client(compute("d"))
    assert given.executor == 2


def test_what_was_given_behind_a_task_that_waits_is_given_to_others(bench):
    bench.know()
    bench.client(compute("abc"))
    assert blocked(bench, 2, returned=[3, 4]) == [Spawn(2)]
    assert bench.on(ExecutorStarted(2, 7)) == [run("bc", 5, 2, code=b"code")]
    goes_on(bench, 2)
    assert bench.done([5, 6], executor=2) == [finished("bc")]
    assert bench.done([2]) == [finished("a")]


def test_what_is_cancelled_while_it_is_given_back_is_not_given_again(bench):
    bench.know()
    bench.client(compute("abc"))
    assert bench.client(Cancel([key("b")], [1])) == [AskRunning(1)]
    assert blocked(bench, 2, returned=[3, 4]) == [Spawn(2)]
    assert bench.on(ExecutorStarted(2, 7)) == [run("c", 5, 2, code=b"code")]


def test_no_more_tasks_wait_than_are_allowed():
    bench = Bench(settings=Settings(blocked_executors_max=1))
    bench.know()
    bench.client(compute("a"))
    blocked(bench, 2)
    bench.client(compute("b"))
    assert bench.on(ExecutorStarted(2, 7)) == []  # it could be that something deeper is on its way
    assert bench.wait(1) == [run("b", 3, 2, code=b"code")]
    (refusal,) = blocked(bench, 3, executor=2)
    assert (refusal.executor, refusal.message.serial) == (2, 3)
    assert decode(refusal.message.said)[0] == TooDeep(1)
    assert bench.done([3], executor=2) == [finished("b")]


def test_when_all_wait_and_no_executor_can_be_started_for_others_the_last_one_that_waits_is_told_so():
    bench = Bench()
    bench.know()
    bench.client(compute("a"))
    assert blocked(bench, 2) == []
    assert bench.client(compute("b")) == [Spawn(2)]
    for number in (2, 3):
        (log,) = bench.on(ExecutorEnded(number, exit_code=1, stderr_tail="no descriptors"))
        assert "no descriptors" in log.text
        assert bench.wait(1) == [Spawn(number + 1)]
    _, refusal = bench.on(ExecutorEnded(4, exit_code=1, stderr_tail="no descriptors"))
    assert (refusal.executor, refusal.message.serial) == (1, 2)
    assert decode(refusal.message.said)[0] == TooDeep(1, "no descriptors")
    assert goes_on(bench, 2) == [run("b", 3)]


def test_when_many_wait_what_is_deeper_goes_first_and_the_others_when_nothing_else_happens():
    bench = Bench(settings=Settings(blocked_executors_max=2))
    bench.know()
    bench.client(compute("a"))
    blocked(bench, 2)
    bench.client(compute("b"))
    bench.on(ExecutorStarted(2, 7))
    assert bench.client(compute("c", priority=-1)) == [run("c", 3, 2, code=b"code")]
    assert bench.done([3], executor=2) == [finished("c")]
    assert bench.wait(1) == [run("b", 4, 2)]


def test_the_slot_of_a_task_that_waits_for_what_is_on_its_way_is_kept_for_that(bench):
    bench.know()
    bench.client(compute("ab"))
    assert bench.on(FromExecutor(1, Blocked(2, True, [3], True))) == [Spawn(2)]
    assert bench.on(ExecutorStarted(2, 7)) == []
    given = bench.client(compute("c", priority=-1))
    assert given == [run("c", 4, 2, code=b"code"), run("b", 5, 2)]  # and what was here before stands behind it


def test_a_slot_is_not_kept_for_long(bench):
    bench.know()
    bench.client(compute("ab"))
    bench.on(FromExecutor(1, Blocked(2, True, [3], True)))
    assert bench.on(ExecutorStarted(2, 7)) == []
    assert bench.wait(bench.state.settings.kept_slot_s) == [run("b", 4, 2, code=b"code")]


def test_the_end_of_an_executor_whose_task_waits_leaves_as_many_as_there_are_cores(bench):
    bench.know()
    bench.client(compute("a"))
    blocked(bench, 2)
    bench.client(compute("b"))
    bench.on(ExecutorStarted(2, 7))
    (failed,) = bench.on(ExecutorEnded(1, serial=2, signal=9))
    assert failed.message.kind == "crashed"
    assert [e.number for e in bench.state.dispatch.executors.values()] == [2]


def test_the_time_for_which_a_task_waited_is_not_its_function_s(bench):
    bench.client(compute("a", code=b"code"))
    blocked(bench, 1)
    bench.now += 5
    goes_on(bench, 1)
    assert bench.done([1], durations_us=[5_000_300]) == [finished("a", durations_us=[300])]


def test_a_task_that_ends_while_a_thread_of_its_waits_does_not_wait_any_more(bench):
    bench.client(compute("a", code=b"code"))
    bench.on(FromExecutor(1, Blocked(1, True, [], True)))
    assert bench.done([1]) == [finished("a")]
    (given,) = bench.client(compute("b"))
    assert (given.executor, bench.state.dispatch.slots.waiting) == (1, 0)
    blocked(bench, 2)
    goes_on(bench, 1)  # the last words of that thread
    assert bench.state.dispatch.slots.waiting == 1
    goes_on(bench, 2)
    assert bench.done([2]) == [finished("b")]


def test_an_executor_that_gives_back_what_it_waits_in_harms_nobody(bench):
    bench.client(compute("a", code=b"code"))
    bench.on(FromExecutor(1, Blocked(1, True, [], True)))
    bench.on(FromExecutor(1, Blocked(1, True, [1], True)))
    bench.client(compute("b"))
    assert bench.state.dispatch.slots.waiting == 0


def test_coroutines_do_not_block(bench):
    bench.client(compute("a", code=b"code", asynchronous=True))
    bench.on(ExecutorStarted(2, 7))
    with pytest.raises(ProtocolError, match="coroutine"):
        blocked(bench, 1, executor=2)


def coroutines(names, depth=0, client=ALICE):
    return compute(names, client, code=b"code", asynchronous=True, depth=depth)


def test_coroutines_begin_though_those_above_them_are_as_many_as_may_run():
    """Each of these may wait for one that is deeper; of each depth as many run, and those above make way for them."""
    bench = Bench(settings=Settings(asynchronous_tasks_max=2))
    assert bench.client(coroutines("abc")) == [Spawn(2, asynchronous=True)]
    assert bench.on(ExecutorStarted(2, 7)) == [run("ab", 1, 2, code=b"code")]
    assert bench.client(coroutines("def", 1)) == [run("de", 3, 2)]
    assert bench.client(coroutines("g", 1, BOB), BOB) == []
    assert bench.client(coroutines("h", 2, BOB), BOB) == [run("h", 5, 2, client=BOB)]
    assert bench.done([5], executor=2) == [finished("h", BOB)]
    assert bench.done([3], executor=2) == [finished("d"), run("f", 6, 2)]
    assert bench.done([6], executor=2) == [finished("f"), run("g", 7, 2, client=BOB)]
    assert bench.done([7, 4], executor=2) == [finished("g", BOB), finished("e")]
    assert bench.done([1], executor=2) == [finished("a"), run("c", 8, 2)]


def test_when_their_executor_dies_the_deeper_ones_begin_again_first():
    bench = Bench(settings=Settings(asynchronous_tasks_max=2))
    bench.client(coroutines("ab"))
    bench.client(coroutines("c", 1))
    bench.on(ExecutorStarted(2, 7))
    bench.now += 5
    assert bench.on(ExecutorEnded(2, signal=9)) == [Spawn(3, asynchronous=True)]
    given = bench.on(ExecutorStarted(3, 8))
    assert [give.message.keys for give in given] == [[key("c")], [key("a")]], "the deeper one before those above it"
    assert bench.done([given[0].message.serial], executor=3)[1:] == [run("b", 5, 3)]
