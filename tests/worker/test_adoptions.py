"""Values taken over from a worker that leaves: fetched, kept, answered for; or refused, and why."""

from __future__ import annotations

import dataclasses

import pytest

from distributed.errors import ProtocolError
from distributed.wire.messages import Adopt, Adopted, Attach, DeleteData, OwnerLeft, Pin, WorkerLeft
from distributed.worker.events import (
    CenterConnected,
    CenterLost,
    ClientDisconnected,
    Fetch,
    Fetched,
    FetchFailed,
    LeaveAsked,
    Put,
    Remove,
    RoomWanted,
    Send,
    Spill,
    Spilled,
    SpillFailed,
    ToCenter,
)
from distributed.worker.store import Entry
from tests.worker.bench import ALICE, BOB, HOLDER, OTHER, SETTINGS, Bench, compute, key, needs, run

A, B = key("a"), key("b")
LARGE = 100_000
ADOPT = Adopt([A, B], [1, 1], [5, 5], HOLDER)


@pytest.fixture
def bench():
    return made()


def made(**options):
    bench = Bench(**options)
    bench.on(CenterConnected())
    bench.client(Attach(ALICE))
    return bench


def fetch(number, keys, nbytes, peer=HOLDER, **changes):
    return Fetch(number, peer, keys, [1] * len(keys), nbytes, **changes)


def arrive(bench, number, *names, path=""):
    """Small values that a fetch brought."""
    return bench.on(Fetched(number, [5] * len(names), [name and b"value" for name in names], [path] * len(names)))


def large(bench, number, *paths):
    return bench.on(Fetched(number, [LARGE] * len(paths), [None] * len(paths), list(paths)))


def told_both(keys, attempts=(), refused=(), reason=""):
    """The owner, then the center."""
    attempts = list(attempts) or [1] * len(keys)
    owner = [Send(ALICE, Adopted(keys, attempts))] if keys else []
    return [*owner, ToCenter(Adopted(keys, attempts, list(refused), reason))]


# ---------------------------------------------------------------------------------------------------------- adopted


def test_values_are_fetched_kept_and_answered_for(bench):
    assert bench.center(ADOPT) == [fetch(1, [A, B], [5, 5])]
    assert arrive(bench, 1, "a", "b") == told_both([A, B])
    assert not any(isinstance(value, Entry) and value.replica for value in bench.state.store.entries.values())
    assert not bench.state.adoptions.open
    bench.client(DeleteData([A, B]))
    assert bench.state.store.memory_bytes == 0


def test_one_answer_when_the_last_of_several_fetches_is_over():
    bench = made(settings=dataclasses.replace(SETTINGS, fetch_bytes_max=5))
    assert bench.center(ADOPT) == [fetch(1, [A], [5]), fetch(2, [B], [5])]
    assert arrive(bench, 2, "b") == []
    assert arrive(bench, 1, "a") == told_both([B, A])


def test_each_owner_hears_of_its_own_and_nobody_owns_what_was_put_by_hand(bench):
    bench.center(Adopt([A, key("b", BOB), "x"], [1, 1, 1], [5, 5, 5], HOLDER))
    answers = arrive(bench, 1, "a", "b", "x")
    assert answers[:2] == [Send(ALICE, Adopted([A], [1])), Send(BOB, Adopted([key("b", BOB)], [1]))]
    assert answers[2:] == [ToCenter(Adopted([A, key("b", BOB), "x"], [1, 1, 1]))]


def test_a_copy_that_is_here_already_becomes_as_good_as_one_made_here(bench):
    bench.know()
    bench.client(compute("t", inputs={0: [needs("a")]}))
    arrive(bench, 1, "a")
    bench.done([2])
    assert bench.state.store.entries[A].replica
    assert bench.center(Adopt([A], [1], [5], HOLDER)) == told_both([A])
    assert not bench.state.store.entries[A].replica


def test_a_copy_that_a_task_is_waiting_for_is_fetched_once_and_serves_both(bench):
    bench.know()
    assert bench.client(compute("t", inputs={0: [needs("a")]})) == [fetch(1, [A], [5])]
    assert bench.center(Adopt([A], [1], [5], HOLDER)) == []
    out = arrive(bench, 1, "a")
    assert out == [*told_both([A]), run("t", 2, inputs={0: [[A, b"value"]]})]
    bench.done([2])
    assert A in bench.state.store.entries, "the task is done, and the value stays"


def test_a_newer_attempt_that_is_here_is_what_it_has(bench):
    bench.state.store.add_unused(A, 3, 7, b"renewed")
    assert bench.center(Adopt([A], [2], [5], HOLDER)) == told_both([A], attempts=[3])


def test_a_newer_attempt_that_came_first_is_not_overwritten(bench):
    bench.center(Adopt([A], [1], [5], HOLDER))
    bench.state.store.add_unused(A, 2, 7, b"renewed")
    assert arrive(bench, 1, "a") == told_both([A], attempts=[2])
    assert bench.state.store.get(A, 0).data == b"renewed"


def test_an_older_attempt_that_is_here_makes_way(bench):
    bench.on(Put(ALICE, [A], [3], [b"old"], [""]))
    assert bench.center(Adopt([A], [2], [5], HOLDER)) == [Fetch(1, HOLDER, [A], [2], [5])]
    assert arrive(bench, 1, "a") == told_both([A], attempts=[2])
    assert bench.state.store.get(A, 2).data == b"value"


def test_what_was_adopted_may_be_spilled_and_is_not_dropped_to_make_room():
    bench = made(memory_limit=LARGE + 1000, spill_directory="/disk")
    bench.center(Adopt([A], [1], [LARGE], HOLDER))
    assert large(bench, 1, "/store/a") == told_both([A])
    out = bench.on(RoomWanted(1, LARGE))
    assert [what for what in out if isinstance(what, (Spill, Remove))] == [Spill(1, "/store/a")]


def test_two_requests_for_one_value_are_both_answered(bench):
    """Two workers that leave had it."""
    bench.center(Adopt([A], [1], [5], HOLDER))
    assert bench.center(Adopt([A], [1], [5], OTHER)) == []
    assert arrive(bench, 1, "a") == told_both([A]) * 2


def test_an_empty_request_is_answered(bench):
    assert bench.center(Adopt([], [], [], HOLDER)) == told_both([])


# ---------------------------------------------------------------------------------------------------------- refused


def test_what_the_leaving_worker_does_not_have_any_more_is_refused(bench):
    bench.center(ADOPT)
    out = bench.on(Fetched(1, [5, -1], [b"value", None], ["", ""]))
    assert out == told_both([A], refused=[B], reason="the worker that leaves did not give it")


def test_when_the_leaving_worker_dies_what_was_under_way_is_refused(bench):
    bench.center(ADOPT)
    assert bench.center(WorkerLeft(HOLDER, "one", "its connection closed")) == []
    reason = "the worker that leaves did not give it"
    assert bench.on(FetchFailed(1, "connection reset")) == told_both([], refused=[A, B], reason=reason)
    assert not bench.state.fetches.wants


def test_when_the_leaving_worker_dies_what_had_not_begun_is_refused_at_once():
    bench = made(settings=dataclasses.replace(SETTINGS, fetch_bytes_max=5, fetches_per_peer_max=1))
    bench.center(ADOPT)
    assert bench.center(WorkerLeft(HOLDER, "one", "its connection closed")) == []
    reason = "the worker that leaves did not give it"
    assert arrive(bench, 1, "a") == told_both([A], refused=[B], reason=reason)


def test_another_request_names_another_holder_to_ask(bench):
    bench.center(Adopt([A], [1], [5], HOLDER))
    bench.center(Adopt([A], [1], [5], OTHER))
    assert bench.on(FetchFailed(1, "connection reset")) == [fetch(2, [A], [5], OTHER)]
    assert arrive(bench, 2, "a") == told_both([A]) * 2


def test_it_does_not_adopt_from_itself(bench):
    own = bench.state.member.address
    out = bench.center(Adopt([A], [1], [5], own))
    assert out == told_both([], refused=[A], reason="it is asked to adopt from itself")
    assert not bench.state.fetches.wants


@pytest.mark.parametrize("disk", ["", "/disk"])
def test_what_does_not_fit_beside_what_is_here_is_refused_at_once_unless_there_is_a_disk(disk):
    bench = made(memory_limit=LARGE, spill_directory=disk)
    bench.on(Put(BOB, [key("x", BOB)], [LARGE], [None], ["/store/x"]))
    out = bench.center(Adopt([A], [1], [LARGE], HOLDER))
    if disk:
        assert [what for what in out if not isinstance(what, ToCenter)] == [Spill(1, "/store/x")]
        assert fetch(1, [A], [LARGE]) in bench.on(Spilled(1, "/disk/x"))
    else:
        [answer] = [what.message for what in out if isinstance(what, ToCenter) and isinstance(what.message, Adopted)]
        assert (answer.keys, answer.refused) == ([], [A])
        assert "no room for 97.7 KiB" in answer.reason
        assert not bench.state.fetches.wants


def test_what_does_not_fit_waits_while_something_else_is_under_way_and_is_refused_then():
    bench = made(memory_limit=LARGE + 1000)
    assert bench.center(Adopt([A, B], [1, 1], [LARGE, LARGE], HOLDER)) == [fetch(1, [A], [LARGE])]
    [owner, answer] = large(bench, 1, "/store/a")
    assert owner == Send(ALICE, Adopted([A], [1]))
    assert (answer.message.keys, answer.message.refused) == ([A], [B])


def test_a_disk_that_refuses_is_no_reason_to_wait_for_ever():
    bench = made(memory_limit=LARGE, spill_directory="/disk")
    bench.on(Put(BOB, [key("x", BOB)], [LARGE], [None], ["/store/x"]))
    bench.center(Adopt([A], [1], [LARGE], HOLDER))
    out = bench.on(SpillFailed(1, "No space left on device"))
    [answer] = [what.message for what in out if isinstance(what, ToCenter) and isinstance(what.message, Adopted)]
    assert answer.refused == [A]


def test_a_file_system_that_is_full_whatever_the_accounts_say_refuses(bench):
    bench.center(Adopt([A], [1], [LARGE], HOLDER))
    [answer] = bench.on(FetchFailed(1, "No space left on device", is_full=True))
    assert (answer.message.keys, answer.message.refused) == ([], [A])
    assert "no room for 97.7 KiB" in answer.message.reason


def test_a_worker_that_leaves_itself_refuses_everything(bench):
    bench.on(LeaveAsked())
    assert bench.center(ADOPT) == told_both([], refused=[A, B], reason="127.0.0.1:1 leaves, too")


def test_what_was_under_way_when_it_was_asked_to_leave_is_adopted_and_handed_on():
    bench = made()
    bench.center(ADOPT)
    bench.know()
    bench.client(compute("t"))  # so there is something to wait for
    bench.on(LeaveAsked())
    assert arrive(bench, 1, "a", "b") == told_both([A, B])
    offered = [what.message for what in bench.wait(0.02) if isinstance(what, Send) and what.client == ALICE]
    assert [key for offer in offered for key in offer.keys if key in (A, B)] == [A, B]


@pytest.mark.parametrize(
    "wrong", [Adopt([A], [], [5], HOLDER), Adopt([A], [1], [], HOLDER), Adopt([A, B], [1, 1], [5, -1], HOLDER)]
)
def test_columns_that_do_not_fit_together_are_refused(bench, wrong):
    with pytest.raises(ProtocolError, match="adopt"):
        bench.center(wrong)


# --------------------------------------------------------------------------------------------- owners, and the center


def test_the_values_of_a_client_that_is_gone_for_good_are_not_waited_for(bench):
    bench.center(Adopt([A, "x"], [1, 1], [5, 5], HOLDER))
    bench.center(OwnerLeft(ALICE))
    out = arrive(bench, 1, "a", "x")
    assert out == [ToCenter(Adopted(["x"], [1], [A], "its owner is gone"))]
    assert sorted(bench.state.store.entries) == ["x"]


def test_when_that_was_all_it_is_answered_at_once_and_the_file_that_comes_is_removed(bench):
    bench.center(Adopt([A], [1], [LARGE], HOLDER))
    out = bench.center(OwnerLeft(ALICE))
    assert ToCenter(Adopted([], [], [A], "its owner is gone")) in out
    assert large(bench, 1, "/store/a") == [Remove("/store/a")]
    assert bench.state.store.memory_bytes == bench.state.store.reserved_bytes == 0


def test_what_is_published_is_adopted_whoever_is_gone(bench):
    bench.center(Pin("table", A, {A: 1}))
    bench.center(Adopt([A], [1], [5], HOLDER))
    bench.center(OwnerLeft(ALICE))
    out = arrive(bench, 1, "a")
    assert ToCenter(Adopted([A], [1])) in out
    assert list(bench.state.store.entries) == [A]


def test_an_owner_that_is_away_sees_it_when_it_comes_back(bench):
    bench.on(ClientDisconnected(ALICE))
    bench.center(ADOPT)
    arrive(bench, 1, "a", "b")
    assert bench.state.held_of(ALICE) == [[A, 1], [B, 1]]


def test_a_release_while_it_travels_is_heard_when_it_is_there(bench):
    """The owner hears that it is here, and deletes it then."""
    bench.center(ADOPT)
    bench.client(DeleteData([A, B], [1, 1]))
    assert arrive(bench, 1, "a", "b") == told_both([A, B])
    bench.client(DeleteData([A, B], [1, 1]))
    assert bench.state.store.entries == {}


def test_without_a_center_values_are_kept_nevertheless(bench):
    bench.center(ADOPT)
    bench.on(CenterLost())
    arrive(bench, 1, "a", "b")
    [registered] = bench.on(CenterConnected())
    assert (registered.message.keys, registered.message.attempts) == ([A, B], [1, 1])
