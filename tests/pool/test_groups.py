"""The pool's mind: tasks that start together and end together."""

from __future__ import annotations

from typing import Any

import pytest

from distributed.errors import GroupFailed, NoWorker, TaskCancelled, TaskTimeout
from distributed.pool import explain
from distributed.pool.events import (
    CancelAsked,
    CenterSaid,
    Connected,
    Disconnected,
    Dropped,
    Exported,
    Received,
    Send,
    Submitted,
    TellCenter,
    Tick,
)
from distributed.pool.groups import Group
from distributed.pool.tasks import DONE, FAILED, READY, SENT, WAITING, Duration, Kind, Options, Task
from distributed.wire.codec import decode
from distributed.wire.exceptions import pack_exception
from distributed.wire.messages import (
    Adopted,
    Cancel,
    Compute,
    Export,
    Failed,
    Finished,
    Gathered,
    GroupBegins,
    Keep,
    Leaving,
    MembersEnded,
    Offer,
    Recalled,
    TellGroup,
    WorkerJoined,
)
from tests.pool.test_state import ALICE, BOB, CAROL, Bench, F, deleted, member, sent


def group(bench: Bench, size: int, *inputs: Task, **options: Any) -> list[Task]:
    """A group that was submitted: its tasks."""
    made = Group()
    kind = Kind(F, b"code", "f", False, Options(attempts=1, **options), Duration(), group=made)
    made.tasks = [bench.task(*inputs, kind=kind) for _ in range(size)]
    return made.tasks


def submitted(bench: Bench, size: int, *inputs: Task, **options: Any) -> tuple[list[Task], list[Any]]:
    tasks = group(bench, size, *inputs, **options)
    return tasks, bench.on(Submitted(tasks[:]))


def gathered(bench: Bench, tasks: list[Task]) -> list[Any]:
    """The worker that these are at has executors for them."""
    message = Gathered([task.key for task in tasks], [task.attempt for task in tasks])
    return bench.on(Received(tasks[0].worker or "", message))


def running(bench: Bench, size: int, **options: Any) -> list[Task]:
    """A group that runs."""
    tasks, _ = submitted(bench, size, **options)
    for address in sorted({ALICE, BOB, CAROL}):
        if here := [task for task in tasks if task.status == SENT and task.worker == address]:
            gathered(bench, here)
    assert all(task.status == SENT for task in tasks)
    return tasks


def told(out: list[Any]) -> list[tuple[str, Any]]:
    return [(address, decode(message.said)[0]) for address, message in sent(out, TellGroup)]


def keys(tasks: list[Task]) -> list[str]:
    return [task.key for task in tasks]


def test_all_members_are_sent_in_one_message_and_begin_when_all_have_executors():
    bench = Bench(ALICE, ncores=3)
    tasks, out = submitted(bench, 3)
    [(address, message)] = sent(out, Compute)
    assert (address, message.keys, message.together, message.once) == (ALICE, keys(tasks), True, True)
    assert gathered(bench, tasks[:2]) == []
    out = gathered(bench, tasks[2:])
    assert told(out) == [(ALICE, GroupBegins(keys(tasks), [1, 1, 1], [ALICE] * 3, [member(ALICE, ncores=3)]))]
    assert sent(out, TellGroup)[0][1].begins


def test_a_group_gathers_worker_by_worker_in_the_order_of_addresses():
    bench = Bench(CAROL, ALICE, BOB, ncores=2)
    tasks, out = submitted(bench, 5)
    assert [(address, message.keys) for address, message in sent(out, Compute)] == [(ALICE, keys(tasks[:2]))]
    out = gathered(bench, tasks[:2])
    assert [(address, message.keys) for address, message in sent(out, Compute)] == [(BOB, keys(tasks[2:4]))]
    out = gathered(bench, tasks[2:4])
    assert [(address, message.keys) for address, message in sent(out, Compute)] == [(CAROL, keys(tasks[4:]))]
    assert told(out) == []
    assert [address for address, said in told(gathered(bench, tasks[4:]))] == [ALICE, BOB, CAROL]


def test_values_are_published_when_the_last_member_has_returned_and_the_others_are_told_of_each():
    bench = Bench(ALICE, ncores=2)
    tasks = running(bench, 2)
    out = bench.finish(tasks[1], b"second")
    assert told(out) == [(ALICE, MembersEnded([1]))]
    assert sent(out, TellGroup)[0][1].keys == [tasks[0].key]
    assert (tasks[1].published, tasks[1].status) == ("", SENT)
    (resolved,) = bench.finish(tasks[0], b"first")
    assert resolved.tasks == tasks
    assert [(task.status, task.outcome) for task in tasks] == [(DONE, b"first"), (DONE, b"second")]
    assert bench.state.unfinished == 0
    assert not bench.state.groups.active


def test_a_group_of_one_is_a_group():
    bench = Bench(ALICE)
    tasks = running(bench, 1)
    bench.finish(tasks[0])
    assert tasks[0].status == DONE


def test_a_group_waits_for_its_inputs():
    bench = Bench(ALICE, ncores=2)
    x = bench.submit()
    tasks, out = submitted(bench, 2, x)
    assert sent(out, Compute) == []
    [(_, message)] = sent(bench.finish(x), Compute)
    assert message.keys == keys(tasks)
    assert message.inputs == {n: [[x.key, 1, 1, [], b"v"]] for n in range(2)}


def test_a_failed_input_fails_every_member_with_the_original_error():
    bench = Bench(ALICE, ncores=2)
    x = bench.submit()
    tasks, _ = submitted(bench, 2, x)
    bench.fail(x, "raised", b"error")
    assert [(task.status, task.outcome) for task in tasks] == [(FAILED, b"error")] * 2
    assert bench.state.unfinished == 0


def test_a_member_that_raises_ends_the_group_with_one_error_that_names_it():
    bench = Bench(ALICE, BOB, ncores=2)
    tasks = running(bench, 3)
    bench.finish(tasks[1], b"done already")
    error = pack_exception(ValueError("no"))
    out = bench.fail(tasks[2], "raised", error)
    assert sent(out, Cancel) == [(ALICE, Cancel([tasks[0].key], [1]))]
    assert deleted(out) == {ALICE: [tasks[1].key]}  # what had been returned goes
    (failure,) = {id(task.outcome): task.outcome for task in tasks}.values()
    assert isinstance(failure, GroupFailed)
    assert (failure.rank, failure.worker, failure.raised) == (2, BOB, error)
    assert str(failure) == f"the group f ended: rank 2 of 3 raised ValueError: no (on {BOB})"
    assert bench.state.unfinished == 0
    assert not bench.state.workers[ALICE].under_way


def test_a_member_whose_executor_dies_ends_the_group():
    bench = Bench(ALICE, ncores=2)
    tasks = running(bench, 2)
    out = bench.fail(tasks[0], "crashed", signal=9)
    assert sent(out, Cancel) == [(ALICE, Cancel([tasks[1].key], [1]))]
    assert f"rank 0 of 2 died on {ALICE}: signal 9 (SIGKILL)" in str(tasks[1].outcome)


def test_a_worker_that_is_lost_ends_the_group():
    bench = Bench(ALICE, BOB, ncores=1)
    tasks = running(bench, 2)
    out = bench.cut(BOB)
    assert sent(out, Cancel) == [(ALICE, Cancel([tasks[0].key], [1]))]
    assert "rank 1 of 2" in str(tasks[0].outcome) and "the worker was lost" in str(tasks[0].outcome)


def test_a_worker_that_is_lost_before_the_group_began_does_it_no_harm():
    bench = Bench(ALICE, BOB, CAROL, ncores=1)
    tasks, _ = submitted(bench, 2)
    gathered(bench, tasks[:1])
    assert [task.worker for task in tasks] == [ALICE, BOB]
    out = bench.cut(BOB)
    assert sent(out, Cancel) == [(ALICE, Cancel([tasks[0].key], [1]))]
    assert [(address, message.attempts) for address, message in sent(out, Compute)] == [(ALICE, [2])]
    gathered(bench, tasks[:1])
    assert [(task.worker, task.attempt) for task in tasks] == [(ALICE, 2), (CAROL, 2)]


def test_however_often_a_worker_is_lost_before_a_group_begins_it_goes_on():
    bench = Bench(ALICE, ncores=1)
    tasks, _ = submitted(bench, 1)
    for attempt in range(2, 8):
        bench.cut(ALICE)
        bench.on(Connected(member(ALICE)))
        assert (tasks[0].status, tasks[0].attempt) == (SENT, attempt)


def test_an_executor_that_dies_again_and_again_before_the_group_begins_ends_it():
    bench = Bench(ALICE, ncores=1)
    tasks, _ = submitted(bench, 1)
    for _ in range(2):
        bench.fail(tasks[0], "crashed", signal=11)
        assert tasks[0].status == SENT
    bench.fail(tasks[0], "crashed", signal=11)
    assert "before the group began, as members did 3 times" in str(tasks[0].outcome)


def test_with_retries_the_whole_group_runs_again():
    bench = Bench(ALICE, ncores=2)
    tasks = running(bench, 2, retries=1)
    bench.finish(tasks[0])
    out = bench.fail(tasks[1], "raised", pack_exception(ValueError("first")))
    assert deleted(out) == {ALICE: [tasks[0].key]}
    assert [(address, message.attempts) for address, message in sent(out, Compute)] == [(ALICE, [2, 2])]
    gathered(bench, tasks)
    bench.fail(tasks[1], "crashed", signal=9)
    assert "signal 9" in str(tasks[0].outcome)
    assert "before: rank 1 of 2 raised ValueError: first (on alice:1)" in str(tasks[0].outcome)


def test_to_cancel_one_member_cancels_all():
    bench = Bench(ALICE, ncores=2)
    tasks = running(bench, 2)
    out = bench.on(CancelAsked([tasks[1]]))
    cancelled = {key for _, message in sent(out, Cancel) for key in message.keys}
    assert cancelled == set(keys(tasks))
    assert all(isinstance(task.outcome, TaskCancelled) for task in tasks)
    assert bench.state.unfinished == 0


@pytest.mark.parametrize("until", ["inputs", "queued", "gathering"])
def test_to_cancel_a_group_that_has_not_begun_leaves_nothing(until):
    bench = Bench(*[] if until == "queued" else [ALICE, BOB], ncores=1)
    x = bench.submit() if until == "inputs" else None
    tasks, _ = submitted(bench, 2, *[x] if x else [])
    if until == "gathering":
        gathered(bench, tasks[:1])
    bench.on(CancelAsked(tasks))
    assert [task.status for task in tasks] == [FAILED] * 2
    assert not bench.state.groups.active and not bench.state.groups.queue
    assert bench.state.unfinished == (1 if x else 0)


def test_a_timeout_ends_the_group():
    bench = Bench(ALICE, ncores=2)
    tasks = running(bench, 2, timeout_s=5.0)
    bench.fail(tasks[0], "timeout", stack="")
    assert all(isinstance(task.outcome, TaskTimeout) for task in tasks)


def test_what_a_leaving_worker_gives_back_gathers_elsewhere():
    bench = Bench(ALICE, BOB, ncores=2)
    tasks, _ = submitted(bench, 2)
    assert {task.worker for task in tasks} == {ALICE}
    out = bench.on(Received(ALICE, Leaving()))
    assert [(address, message.keys) for address, message in sent(out, Compute)] == [(BOB, keys(tasks))]
    assert bench.on(Received(ALICE, Recalled(keys(tasks), [1, 1]))) == []  # that crossed it


def test_a_group_that_is_given_back_gathers_again():
    bench = Bench(ALICE, ncores=2)
    tasks, _ = submitted(bench, 2)
    out = bench.on(Received(ALICE, Recalled(keys(tasks), [1, 1])))
    assert [(address, message.attempts) for address, message in sent(out, Compute)] == [(ALICE, [2, 2])]


def test_inputs_that_cannot_be_fetched_let_the_group_gather_again():
    bench = Bench(ALICE, BOB, ncores=2)
    x = bench.done(value=None)
    tasks, _ = submitted(bench, 3, x)
    where = tasks[0].worker or ""
    out = bench.fail(tasks[0], "missing", keys=[x.key], refused={x.key: sorted(x.holders or ())})
    assert x.status == SENT  # computed again
    assert {key for _, message in sent(out, Cancel) for key in message.keys} == {
        task.key for task in tasks[1:] if task.worker in (where, None) and task.attempt == 2
    }
    bench.finish(x, None)
    assert tasks[0].status == SENT


def test_one_group_gathers_at_a_time_unless_there_are_idle_cores_for_more():
    bench = Bench(ALICE, BOB, ncores=2)
    first, out = submitted(bench, 3)
    assert len(sent(out, Compute)) == 1
    second, out = submitted(bench, 1)  # beside the third member of the first one, which has still to be sent there
    assert [(address, message.keys) for address, message in sent(out, Compute)] == [(BOB, keys(second))]
    third, out = submitted(bench, 2)
    assert sent(out, Compute) == []
    assert "waits until other groups" in explain.explain(bench.state, third[0], bench.now)
    gathered(bench, first[:2])
    gathered(bench, first[2:])
    gathered(bench, second)
    assert third[0].status == SENT  # the others have begun: the next one lines up


def test_a_group_larger_than_the_cluster_says_so_and_fails_after_a_while():
    bench = Bench(ALICE, BOB, ncores=2)
    tasks, out = submitted(bench, 5)
    assert sent(out, Compute) == []
    words = explain.explain(bench.state, tasks[0], bench.now)
    assert "has 5 members" in words and "only 4 executors on 2 workers" in words
    _, out = submitted(bench, 2)  # and holds up nobody
    assert sent(out, Compute)
    bench.now += bench.state.settings.unmet_demand_grace_s
    bench.on(Tick())
    assert all(isinstance(task.outcome, NoWorker) and "only 4 executors" in str(task.outcome) for task in tasks)


def test_a_group_that_is_too_large_begins_when_another_worker_joins():
    bench = Bench(ALICE, ncores=2)
    tasks, _ = submitted(bench, 3)
    bench.now += bench.state.settings.unmet_demand_grace_s / 2
    bench.on(CenterSaid(WorkerJoined(member(BOB, ncores=2))))
    out = bench.on(Connected(member(BOB, ncores=2)))
    assert sent(out, Compute)
    bench.now += bench.state.settings.unmet_demand_grace_s
    bench.on(Tick())
    assert tasks[0].status == SENT


def test_a_group_keeps_to_the_workers_that_it_may_run_on():
    bench = Bench(ALICE, BOB, ncores=2)
    tasks, _ = submitted(bench, 2, workers=frozenset({BOB}))
    assert {task.worker for task in tasks} == {BOB}
    tasks, out = submitted(bench, 3, workers=frozenset({BOB}))
    assert sent(out, Compute) == []
    assert "only 2 executors on bob:1" in explain.explain(bench.state, tasks[0], bench.now)
    tasks, out = submitted(bench, 2, workers=frozenset({"carol:1"}))
    assert "may only run on carol:1, and no such worker is here" in explain.explain(bench.state, tasks[0], bench.now)


def test_a_large_input_brings_a_group_to_its_holder():
    bench = Bench(ALICE, BOB, ncores=2)
    x = bench.stored(BOB)
    tasks, _ = submitted(bench, 2, x)
    assert {task.worker for task in tasks} == {BOB}


def test_every_stage_of_a_group_is_explained():
    bench = Bench(ALICE, BOB, ncores=1)
    tasks, _ = submitted(bench, 2)
    words = explain.explain(bench.state, tasks[1], bench.now)
    assert "0 of its 2 members have an executor; it waits until alice:1 has 1 idle at one time" in words
    gathered(bench, tasks[:1])
    assert "1 of its 2 members" in explain.explain(bench.state, tasks[0], bench.now)
    gathered(bench, tasks[1:])
    assert explain.explain(bench.state, tasks[1], bench.now) == f"rank 1 of the group f runs on {BOB}"
    bench.finish(tasks[1])
    assert "has returned" in explain.explain(bench.state, tasks[1], bench.now)


def test_everything_unfinished_includes_members_that_no_worker_has():
    bench = Bench(ALICE, ncores=2)
    tasks = running(bench, 2)
    queued, _ = submitted(bench, 5)
    bench.finish(tasks[0])
    assert set(explain.unfinished_tasks(bench.state)) == {*tasks, *queued}


def test_messages_about_former_attempts_change_nothing():
    bench = Bench(ALICE, BOB, ncores=1)
    tasks, _ = submitted(bench, 2)
    bench.cut(ALICE)
    bench.on(Connected(member(ALICE)))
    former = Gathered([tasks[0].key], [1])
    assert tasks[0].attempt == 2
    for message in (
        former,
        Finished([tasks[0].key], [1], [1], [b"v"], [1], {}, []),
        Failed(tasks[0].key, 1, "raised", b"", {}, []),
    ):
        out = bench.on(Received(ALICE, message))
        assert not told(out) and not sent(out, Compute)
    assert tasks[0].status in (READY, SENT, WAITING)


def test_a_group_whose_handles_are_gone_runs_to_its_end_and_leaves_nothing():
    bench = Bench(ALICE, ncores=2)
    tasks = running(bench, 2)
    bench.on(Dropped(tasks[:]))
    bench.finish(tasks[0])
    out = bench.finish(tasks[1])
    assert sorted(deleted(out)[ALICE]) == sorted(keys(tasks))


def test_a_large_value_of_a_group_that_is_lost_is_not_computed_again():
    bench = Bench(ALICE, BOB, ncores=1)
    tasks = running(bench, 2)
    bench.finish(tasks[0], None)
    bench.finish(tasks[1], None)
    assert not tasks[0].is_repeatable
    assert tasks[0].holders == {ALICE}


def test_a_worker_that_comes_back_without_the_members_is_given_them_anew_when_they_had_not_begun():
    bench = Bench(ALICE, ncores=2)
    tasks, _ = submitted(bench, 2)
    bench.on(Disconnected(member(ALICE, ncores=2), "the connection broke"))
    assert [task.status for task in tasks] == [READY] * 2
    out = bench.on(Connected(member(ALICE, ncores=2)))
    assert [message.attempts for _, message in sent(out, Compute)] == [[2, 2]]
    assert [what for what in out if isinstance(what, Send)]


def test_a_group_of_a_task_that_has_failed_fails_at_once_and_holds_nothing():
    bench = Bench(ALICE, ncores=2)
    y = bench.done()
    x = bench.submit()
    bench.fail(x, "raised", b"error")
    tasks, out = submitted(bench, 3, y, x)
    assert sent(out, Compute) == []
    assert [(task.status, task.outcome) for task in tasks] == [(FAILED, b"error")] * 3
    assert (y.users, x.users, bench.state.unfinished) == (1, 1, 0)
    assert not bench.state.groups.active


def test_what_a_member_has_returned_is_kept_by_others_when_its_worker_leaves():
    bench = Bench(ALICE, BOB, ncores=1)
    tasks = running(bench, 2)
    bench.finish(tasks[0], None)
    bench.on(Received(ALICE, Leaving()))
    out = bench.on(Received(ALICE, Offer([tasks[0].key], [1])))
    assert sent(out, Keep) == [(ALICE, Keep([tasks[0].key]))]
    out = bench.on(Received(BOB, Adopted([tasks[0].key], [1])))
    assert (deleted(out), tasks[0].holders) == ({ALICE: [tasks[0].key]}, {BOB})
    bench.finish(tasks[1])
    assert tasks[0].has_value


def test_others_hear_of_what_was_lent_when_it_is_published():
    bench = Bench(ALICE, ncores=2)
    tasks = running(bench, 2)
    bench.on(Exported(tasks[0]))
    out = bench.finish(tasks[0])
    assert not [what for what in out if isinstance(what, TellCenter) and 1 in what.message.attempts]
    out = bench.finish(tasks[1])
    assert [what.message for what in out if isinstance(what, TellCenter)] == [Export([tasks[0].key], [1])]


def test_a_value_that_is_lost_before_the_others_have_returned_ends_the_group():
    bench = Bench(ALICE, BOB, ncores=1)
    tasks = running(bench, 2)
    bench.finish(tasks[0], None)
    bench.lose(ALICE)
    assert tasks[0].status == SENT
    bench.finish(tasks[1])
    assert "rank 0 of 2 had returned, but its value was lost with worker alice:1" in str(tasks[1].outcome)
    assert bench.state.unfinished == 0
