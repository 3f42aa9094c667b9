"""Workers that leave, as a pool sees them: which values it keeps, where it believes them to be, and what it deletes."""

from __future__ import annotations

import pytest

from distributed.pool.events import CenterSaid, Connected, Dropped, Exported, Received, Resolved, Send, Stored, Storing
from distributed.pool.tasks import DONE, WAITING
from distributed.wire.messages import (
    Adopted,
    Compute,
    DeleteData,
    Keep,
    Leaving,
    Offer,
    Recalled,
    WorkerJoined,
    WorkerLeft,
)
from tests.pool.test_state import ALICE, BOB, CAROL, LARGE, Bench, deleted, kind, member, sent


@pytest.fixture
def bench() -> Bench:
    """Alice leaves as soon as `leave` is called; Bob stays."""
    return Bench(ALICE, BOB)


def leave(bench, address=ALICE):
    return bench.on(Received(address, Leaving()))


def large(bench, address=ALICE, exported=False):
    """A large result that one worker holds."""
    task = bench.stored(address)
    if exported:
        bench.on(Exported(task))
    return task


def small(bench, address=ALICE, exported=True):
    """A small result, which is here as well."""
    task = bench.done()
    task.worker = address
    if exported:
        bench.on(Exported(task))
    return task


def offer(bench, *tasks, address=ALICE, handed=False, attempts=None):
    return bench.on(Received(address, Offer([task.key for task in tasks], attempts or [1] * len(tasks), handed)))


def adopt(bench, *tasks, address=BOB, attempts=None):
    return bench.on(Received(address, Adopted([task.key for task in tasks], attempts or [1] * len(tasks))))


def named(out):
    """What is deleted, with attempts."""
    return {
        address: list(zip(message.keys, message.attempts, strict=True)) for address, message in sent(out, DeleteData)
    }


# -------------------------------------------------------------------------------------------------------------- tasks


def test_who_leaves_is_given_nothing_and_what_comes_back_goes_to_others_free_of_charge():
    bench = Bench(ALICE)
    tasks = [bench.submit() for _ in range(2)]
    assert leave(bench) == []
    assert bench.on(CenterSaid(WorkerJoined(member(BOB)))) != []
    bench.on(Connected(member(BOB)))
    out = bench.on(Received(ALICE, Recalled([tasks[1].key], [1])))
    [(address, message)] = sent(out, Compute)
    assert (address, message.keys, message.attempts) == (BOB, [tasks[1].key], [2])
    assert bench.finish(tasks[0])[-1] == Resolved([tasks[0]]), "the one that ran there ended there"
    later = bench.submit()
    assert later.worker == BOB


def test_who_waits_for_a_worker_that_leaves_because_its_input_is_there_goes_elsewhere(bench):
    value = large(bench)
    busy = [bench.submit(value, kind=kind()) for _ in range(2)]
    waiting = bench.submit(value)
    assert {task.worker for task in busy} == {ALICE}
    out = leave(bench)
    [(address, message)] = sent(out, Compute)
    assert (address, message.keys, waiting.worker) == (BOB, [waiting.key], BOB)


def test_nobody_but_who_leaves_is_no_place_to_run():
    bench = Bench(ALICE)
    leave(bench)
    task = bench.submit()
    assert task.worker is None


# ------------------------------------------------------------------------------------------------------------ offered


def test_what_is_needed_is_kept_and_what_nobody_needs_is_deleted(bench):
    wanted, dropped = large(bench), large(bench)
    bench.on(Dropped([dropped]))
    leave(bench)
    out = offer(bench, wanted, dropped)
    assert sent(out, Keep) == [(ALICE, Keep([wanted.key]))]
    assert named(out) == {ALICE: [(dropped.key, 1)]}


def test_a_small_result_is_kept_only_if_others_may_ask_for_it(bench):
    shown, own = small(bench), small(bench, exported=False)
    leave(bench)
    out = offer(bench, shown, own)
    assert sent(out, Keep) == [(ALICE, Keep([shown.key]))]
    assert named(out) == {ALICE: [(own.key, 1)]}
    assert (own.status, own.outcome) == (DONE, b"v")


def test_an_attempt_that_does_not_count_is_deleted(bench):
    task = large(bench)
    leave(bench)
    assert named(offer(bench, task, attempts=[2])) == {ALICE: [(task.key, 2)]}
    assert task.holders == {ALICE}


def test_a_value_that_somebody_who_stays_holds_as_well_need_not_be_kept_where_nobody_believes_it_to_be(bench):
    task = large(bench, BOB)
    leave(bench)
    assert named(offer(bench, task)) == {ALICE: [(task.key, 1)]}
    assert task.holders == {BOB}


def test_a_holder_among_several_is_kept_until_its_copy_is_with_another():
    bench = Bench(ALICE, BOB, CAROL)
    task = bench.stored(ALICE, BOB)
    leave(bench)
    assert sent(offer(bench, task), Keep) == [(ALICE, Keep([task.key]))]
    out = adopt(bench, task, address=CAROL)
    assert named(out) == {ALICE: [(task.key, 1)]}
    assert task.holders == {BOB, CAROL}


def test_what_is_unknown_is_deleted_in_that_attempt(bench):
    leave(bench)
    assert bench.on(Received(ALICE, Offer(["me/77"], [3]))) == [Send(ALICE, DeleteData(["me/77"], [3]))]


def test_a_value_that_is_being_put_there_is_dealt_with_when_it_is_there(bench):
    coming = bench.task()
    coming.kind = coming.args = None
    bench.on(Storing([coming]))
    leave(bench)
    assert offer(bench, coming) == []
    assert sent(bench.on(Stored(coming, [ALICE], LARGE, [])), Keep) == [(ALICE, Keep([coming.key]))]
    assert bench.state.departures.postponed == {}


def test_a_value_that_was_being_put_there_when_the_worker_went_is_nobodys_there_any_more(bench):
    coming = bench.task()
    coming.kind = coming.args = None
    bench.on(Storing([coming]))
    leave(bench)
    offer(bench, coming)
    bench.lose(ALICE)
    assert sent(bench.on(Stored(coming, [BOB], LARGE, [])), Keep) == []
    assert (bench.state.departures.postponed, coming.holders) == ({}, {BOB})


# ------------------------------------------------------------------------------------------------------------ adopted


def test_what_another_adopted_is_there_and_may_go_here(bench):
    task = large(bench)
    leave(bench)
    offer(bench, task)
    assert named(adopt(bench, task)) == {ALICE: [(task.key, 1)]}
    assert task.holders == {BOB}
    assert bench.state.workers[ALICE].holds == {}
    out = bench.lose(ALICE)
    assert sent(out, Compute) == []
    assert (task.status, task.holders) == (DONE, {BOB})


def test_a_small_result_that_another_adopted_is_there_for_others(bench):
    task = small(bench)
    leave(bench)
    assert named(adopt(bench, task)) == {ALICE: [(task.key, 1)]}
    assert task.worker == BOB
    bench.on(Dropped([task]))


def test_a_small_result_that_somebody_who_stays_has_for_others_is_not_needed_twice(bench):
    task = small(bench, BOB)
    out = adopt(bench, task, address=ALICE)
    assert named(out) == {ALICE: [(task.key, 1)]}
    assert task.worker == BOB


@pytest.mark.parametrize("how", ["released", "another attempt", "unknown"])
def test_what_is_not_needed_any_more_when_it_was_adopted_is_deleted_there(bench, how):
    task = large(bench)
    leave(bench)
    if how == "released":
        bench.on(Dropped([task]))
    attempt = 2 if how == "another attempt" else 1
    if how == "unknown":
        out = bench.on(Received(BOB, Adopted(["me/77"], [1])))
        assert named(out) == {BOB: [("me/77", 1)]}
    else:
        assert named(adopt(bench, task, attempts=[attempt]))[BOB] == [(task.key, attempt)]


def test_who_adopts_and_leaves_then_is_a_holder_like_any_other(bench):
    task = large(bench)
    leave(bench)
    leave(bench, BOB)
    assert named(adopt(bench, task)) == {ALICE: [(task.key, 1)]}
    assert sent(offer(bench, task, address=BOB), Keep) == [(BOB, Keep([task.key]))]


def test_when_the_one_that_adopted_dies_what_the_other_still_had_is_gone_as_well(bench):
    task = large(bench)
    leave(bench)
    adopt(bench, task)
    bench.lose(BOB)
    assert task.holders == set()
    assert bench.state.lifetimes.bereft == {task.key: task}


# ----------------------------------------------------------------------------------------------- handed over, reminded


def test_a_reminder_of_what_others_hold_is_left_alone_until_it_is_known_who_does(bench):
    task = large(bench)
    leave(bench)
    assert offer(bench, task, handed=True) == []
    assert task.holders == {ALICE}
    adopt(bench, task)
    assert named(offer(bench, task, handed=True)) == {ALICE: [(task.key, 1)]}


def test_a_reminder_of_what_somebody_who_stays_holds_is_answered(bench):
    task = bench.stored(ALICE, BOB)
    leave(bench)
    assert named(offer(bench, task, handed=True)) == {ALICE: [(task.key, 1)]}
    assert task.holders == {BOB}


def test_a_reminder_of_what_is_not_needed_is_answered(bench):
    task, own = large(bench), small(bench, exported=False)
    bench.on(Dropped([task]))
    leave(bench)
    assert named(offer(bench, task, own, handed=True)) == {ALICE: [(task.key, 1), (own.key, 1)]}


def test_a_reminder_of_what_is_being_put_is_left_alone(bench):
    coming = bench.task()
    coming.kind = coming.args = None
    bench.on(Storing([coming]))
    leave(bench)
    assert offer(bench, coming, handed=True) == []


def test_a_holder_that_leaves_as_well_is_none(bench):
    task = bench.stored(ALICE, BOB)
    leave(bench)
    leave(bench, BOB)
    assert offer(bench, task, handed=True) == []
    assert task.holders == {ALICE, BOB}


# -------------------------------------------------------------------------------------------- connections that break


def test_an_adopter_that_could_not_tell_lists_it_when_it_is_back(bench):
    task = large(bench)
    leave(bench)
    offer(bench, task)
    bench.cut(BOB)
    bench.on(Received(ALICE, Offer([task.key], [1], True)))
    out = bench.on(Connected(member(BOB), [[task.key, 1]]))
    assert deleted(out) == {}
    assert task.holders == {ALICE, BOB}
    assert named(offer(bench, task, handed=True)) == {ALICE: [(task.key, 1)]}
    assert task.holders == {BOB}


def test_an_adopter_that_comes_back_when_the_other_is_gone_has_what_was_believed_to_be_lost(bench):
    task = large(bench)
    leave(bench)
    offer(bench, task)
    bench.cut(BOB)
    bench.lose(ALICE)
    assert task.holders == set()
    assert deleted(bench.on(Connected(member(BOB), [[task.key, 1]]))) == {}
    assert (task.holders, task.status) == ({BOB}, DONE)


def test_a_worker_that_was_cut_off_while_it_leaves_is_leaving_still(bench):
    task = large(bench)
    leave(bench)
    bench.cut(ALICE)
    assert bench.state.membership.find(ALICE).leaving
    adopt(bench, task)
    assert task.holders == {BOB}
    assert deleted(bench.on(Connected(member(ALICE), [[task.key, 1]]))) == {}
    assert task.holders == {ALICE, BOB}
    leave(bench)
    assert named(offer(bench, task, handed=True)) == {ALICE: [(task.key, 1)]}
    assert task.holders == {BOB}


def test_a_task_of_which_the_only_input_was_left_behind_makes_it_again(bench):
    source = bench.done(value=None)
    assert source.holders == {ALICE}
    leave(bench)
    offer(bench, source)
    bench.on(CenterSaid(WorkerLeft(ALICE, "one", "it left")))
    bench.cut(ALICE)
    task = bench.submit(source)
    assert (source.attempt, source.worker, task.status) == (2, BOB, WAITING)
