"""The worker's mind: members of a group start together, and what they say to one another is passed on."""

import dataclasses

import pytest

from distributed.config import SETTINGS, Settings
from distributed.errors import ProtocolError
from distributed.wire.messages import (
    Blocked,
    Cancel,
    Failed,
    Gathered,
    Letter,
    LettersRead,
    Recall,
    Recalled,
    TellGroup,
    ToTask,
)
from distributed.worker.events import (
    Allocate,
    Allocated,
    AnswerPost,
    AskRunning,
    ClientDisconnected,
    ExecutorEnded,
    ExecutorStarted,
    FromExecutor,
    Give,
    GrantRoom,
    Kill,
    Posted,
    Remove,
    RoomWanted,
    Running,
    Send,
    Spawn,
)
from tests.worker.bench import ALICE, BOB, Bench, F, G, compute, finished, key, needs, run

LARGE = 1 << 20


def group(names, **options):
    return compute(names, function=G, code=b"code", together=True, once=True, **options)


def gathered(names, client=ALICE):
    return Send(client, Gathered([key(name, client) for name in names], [1] * len(names)))


def given(names, first=1, executor=1, client=ALICE):
    """Each of these goes to an executor of its own."""
    return [run(name, first + n, executor + n, function=G, code=b"code", client=client) for n, name in enumerate(names)]


@pytest.fixture
def bench():
    return Bench(ncores=2)


def running(bench, names="ab"):
    bench.client(group(names))
    bench.client(TellGroup([key(name) for name in names], [1] * len(names), b"begin", True))
    return bench


def post(bench, to="a", number=1, sender=1, value=b"hello", path="", nbytes=None, tag=0, writer=9):
    keys = [key(name) for name in to]
    nbytes = len(value) if nbytes is None else nbytes
    return bench.on(Posted(writer, keys, [1] * len(to), [number] * len(to), sender, tag, nbytes, value, path))


# ------------------------------------------------------------------------------------------------------ to start


def test_members_of_a_group_are_given_at_one_time_each_to_an_executor(bench):
    assert bench.client(group("ab")) == [*given("ab"), gathered("ab")]


def test_they_wait_until_there_are_enough_idle_executors_which_are_kept_for_them(bench):
    bench.client(compute("x", code=b"code"))
    assert bench.client(group("ab")) == []
    assert bench.client(compute("y")) == []  # although one executor is idle
    assert bench.done([1]) == [finished("x"), *given("ab", first=2), gathered("ab")]
    assert bench.done([2], executor=1) == [finished("a"), run("y", 4, 1)]


def test_nobody_elses_tasks_take_the_executors_that_are_kept(bench):
    bench.client(compute("x", client=BOB, code=b"code"), BOB)
    bench.client(group("ab"))
    assert bench.client(compute("z", client=BOB), BOB) == []
    assert bench.done([1]) == [finished("x", BOB), *given("ab", first=2), gathered("ab")]


def test_members_whose_turn_comes_when_another_task_was_given_are_not_given_one_by_one():
    bench = Bench(ncores=3)
    bench.client(compute("w", client=BOB, code=b"code"), BOB)
    bench.done([1], durations_us=[1_000_000])  # so it is not the turn of Bob
    bench.client(compute("x", function=b"h" * 16, code=b"code"))
    bench.client(group("cde", priority=-1))  # keeps two executors
    assert bench.client(compute("z")) == []
    assert bench.client(group("ab", client=BOB), BOB) == []
    cancelled = Cancel([key(name) for name in "cde"], [1] * 3)
    assert bench.client(cancelled) == [run("z", 3, 2, code=b"code")]  # and executor 3 is kept
    members = [
        run("a", 4, 1, function=G, code=b"code", client=BOB), run("b", 5, 3, function=G, code=b"code", client=BOB),
    ]  # fmt: skip
    assert bench.done([2])[1:3] == members


def test_tasks_that_what_runs_may_wait_for_go_on_meanwhile(bench):
    bench.client(compute("x", code=b"code"))
    bench.client(group("ab"))
    assert bench.client(compute("y", depth=1)) == [run("y", 2, 2, code=b"code")]
    assert bench.done([2], executor=2) == [finished("y")]
    assert bench.done([1])[1:3] == given("ab", first=3)


def test_where_members_have_all_cores_one_executor_more_is_for_tasks_of_tasks(bench):
    """A member elsewhere may wait for one, and those here for that member."""
    running(bench)
    assert bench.client(compute("x", code=b"code")) == []
    assert bench.client(compute("y", depth=1)) == [Spawn(3)]
    assert bench.client(compute("z", depth=1)) == []
    assert bench.on(ExecutorStarted(3, 7)) == [run("y", 3, 3, code=b"code")]
    assert bench.done([3], executor=3) == [finished("y"), run("z", 4, 3)]
    assert bench.done([4], executor=3) == [finished("z")]
    assert bench.wait(SETTINGS.surplus_executors_s) == [Kill(3)]
    assert bench.on(ExecutorEnded(3, signal=9)) == []
    assert bench.done([1]) == [finished("a"), run("x", 5, 1, code=b"code")]


def test_the_executor_of_a_task_that_waits_does_not_count_but_another_in_its_place(bench):
    bench.client(compute("x", code=b"code"))
    assert bench.client(group("ab")) == []
    assert bench.on(FromExecutor(1, Blocked(1, True, []))) == [Spawn(3)]
    assert bench.on(ExecutorStarted(3, 7)) == [*given("ab", first=2, executor=2), gathered("ab")]


def test_two_groups_start_one_after_the_other():
    bench = Bench(ncores=3)
    assert bench.client(group("ab")) == [*given("ab"), gathered("ab")]
    assert bench.client(group("cd")) == []
    assert bench.done([1], executor=1) == [
        finished("a"),
        run("c", 3, 1, function=G),
        run("d", 4, 3, function=G, code=b"code"),
        gathered("cd"),
    ]


def test_members_with_inputs_start_when_the_inputs_are_here(bench):
    inputs = {n: [needs("x", inline=b"value")] for n in range(2)}
    out = bench.client(group("ab", inputs=inputs))
    assert [what.message.inputs for what in out[:2]] == [{0: [[key("x"), b"value"]]}] * 2
    assert out[2] == gathered("ab")


def test_members_are_not_given_back_one_by_one(bench):
    bench.client(compute("xy", code=b"code"))
    bench.client(group("ab"))
    bench.client(compute("z"))
    assert bench.client(Recall(5)) == [Send(ALICE, Recalled([key("z")], [1]))]


def test_a_cancelled_group_no_longer_keeps_executors(bench):
    bench.client(compute("x", code=b"code"))
    bench.client(group("ab"))
    bench.client(compute("y"))
    assert bench.client(Cancel([key("a"), key("b")], [1, 1])) == [run("y", 2, 2, code=b"code")]


def test_a_member_whose_executor_dies_is_not_given_to_another(bench):
    bench.client(group("ab"))
    out = bench.on(ExecutorEnded(1, signal=9))  # before it said that it runs
    (failed,) = [what.message for what in out if isinstance(what, Send)]
    assert (failed.key, failed.kind) == (key("a"), "crashed")


def test_when_the_client_is_gone_its_members_end(bench):
    running(bench)
    post(bench)
    bench.on(ClientDisconnected(ALICE))
    out = bench.wait(bench.state.settings.closed_client_lease_s)
    assert {what.executor for what in out if isinstance(what, AskRunning)} == {1, 2}
    assert not list(bench.state.letters.entries())


def test_the_time_of_members_begins_when_their_owner_lets_them_begin(bench):
    bench.client(group("ab", timeout_s=5.0))
    assert [type(what) for what in bench.wait(5)] == [AskRunning, AskRunning]
    assert bench.on(Running(1, 1, 100.0)) == []
    bench.client(TellGroup([key("a"), key("b")], [1, 1], b"begin", True))
    began_s = bench.now
    bench.wait(5)
    assert bench.on(Running(1, 1, began_s)) == [Kill(1)]


@pytest.mark.parametrize("wrong", [{"once": False}, {"asynchronous": True}])
def test_what_is_no_group_is_refused(bench, wrong):
    with pytest.raises(ProtocolError):
        bench.client(dataclasses.replace(group("ab"), **wrong))


# ---------------------------------------------------------------------------------------------------- what is said


def test_what_the_owner_tells_a_group_goes_to_its_members(bench):
    bench.client(group("ab"))
    told = bench.client(TellGroup([key("b"), key("a"), key("z")], [1, 2, 1], b"said"))
    assert told == [Give(2, ToTask(2, b"said"))]  # the other attempt, and the task that is not here, are over
    assert bench.client(TellGroup([key("b")], [1], b"said"), client=BOB) == []


def test_columns_that_do_not_fit_together_are_refused(bench):
    with pytest.raises(ProtocolError):
        bench.client(TellGroup([key("b")], [], b"said"))


def test_a_small_message_is_passed_on_at_once(bench):
    running(bench)
    assert post(bench, "b", tag=7) == [Give(2, Letter(2, 1, 1, 7, b"hello", "")), AnswerPost(9, "taken")]


def test_a_message_for_several_goes_to_each(bench):
    running(bench)
    out = post(bench, "ab")
    assert out == [
        Give(1, Letter(1, 1, 1, 0, b"hello", "")), Give(2, Letter(2, 2, 1, 0, b"hello", "")), AnswerPost(9, "taken"),
    ]  # fmt: skip


@pytest.mark.parametrize("to", ["z", "az"])
def test_a_message_to_a_task_that_is_not_here_goes_to_nobody(bench, to):
    running(bench)
    assert post(bench, to) == [AnswerPost(9, "over")]


def test_a_message_to_a_task_that_is_no_member_goes_to_nobody(bench):
    bench.client(compute("a", code=b"code"))
    assert post(bench) == [AnswerPost(9, "over")]


def test_a_message_that_comes_twice_is_passed_on_once(bench):
    running(bench)
    post(bench, number=1)
    assert post(bench, number=1) == [AnswerPost(9, "taken")]
    assert len(post(bench, number=2)) == 2
    assert len(post(bench, number=1, sender=0)) == 2


def test_when_too_much_is_unread_nobody_gets_more_until_something_was_read():
    bench = running(Bench(ncores=2, settings=Settings(unread_bytes_max=8)))
    assert post(bench, number=1)[-1] == AnswerPost(9, "taken")
    assert post(bench, number=2)[-1] == AnswerPost(9, "taken")  # however large: what is there was below
    assert post(bench, number=3) == [AnswerPost(9, "full")]
    assert post(bench, "ab", number=3) == [AnswerPost(9, "full")]
    assert bench.on(FromExecutor(1, LettersRead(1, [1, 99]))) == []
    assert post(bench, "ab", number=3)[-1] == AnswerPost(9, "taken")


def reserve(bench, path="/store/v1"):
    (asked,) = bench.on(RoomWanted(9, LARGE))
    assert isinstance(asked, Allocate)
    assert bench.on(Allocated(asked.ticket, path)) == [GrantRoom(9, path)]
    return path


def test_a_large_message_is_a_file_which_goes_when_it_was_read(bench):
    running(bench)
    path = reserve(bench)
    assert post(bench, "ab", value=b"", path=path, nbytes=LARGE)[0] == Give(1, Letter(1, 1, 1, 0, b"", path))
    assert (bench.state.store.memory_bytes, bench.state.store.reserved_bytes) == (LARGE, 0)
    assert not bench.state.store.entries  # nobody can ask for it
    assert bench.on(FromExecutor(1, LettersRead(1, [1]))) == []
    assert bench.on(FromExecutor(2, LettersRead(2, [2]))) == [Remove(path)]
    assert bench.state.store.memory_bytes == 0


def test_a_large_message_that_comes_twice_leaves_one_file(bench):
    running(bench)
    post(bench, value=b"", path=reserve(bench), nbytes=LARGE)
    again = post(bench, value=b"", path=reserve(bench, "/store/v2"), nbytes=LARGE)
    assert again == [Remove("/store/v2"), AnswerPost(9, "taken")]
    assert bench.state.store.memory_bytes == LARGE


@pytest.mark.parametrize("end", ["returns", "raises", "dies", "is cancelled"])
def test_what_a_member_did_not_read_goes_with_it(bench, end):
    running(bench)
    path = reserve(bench)
    post(bench, value=b"", path=path, nbytes=LARGE)
    if end == "returns":
        out = bench.done([1])
    elif end == "raises":
        out = bench.done([1], values=[b""], errors={0: b"error"})
    elif end == "dies":
        out = bench.on(ExecutorEnded(1, serial=1, signal=9))
    else:
        out = bench.client(Cancel([key("a"), key("b")], [1, 1]))
    assert Remove(path) in out
    assert bench.state.store.memory_bytes == (1 if end == "returns" else 0)
    assert post(bench, number=5) == [AnswerPost(9, "over")]


def test_last_words_of_an_executor_that_is_gone_are_ignored(bench):
    running(bench)
    assert bench.on(FromExecutor(7, LettersRead(1, [1]))) == []


def test_a_member_that_fails_is_reported_once_and_alone(bench):
    running(bench)
    out = bench.done([1], values=[b""], errors={0: b"error"})
    (failed,) = [what.message for what in out if isinstance(what, Send)]
    assert isinstance(failed, Failed) and failed.kind == "raised"
    assert bench.done([2], executor=2) == [finished("b")]
    assert F not in (order.function.identity for order in bench.state.dispatch.gangs.orders)
    assert not bench.state.dispatch.gangs.orders
