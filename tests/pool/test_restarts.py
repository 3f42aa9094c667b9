"""Requests for fresh executors: whom a pool asks, who counts as done, and when the request is over."""

from __future__ import annotations

import pytest

from distributed.pool.events import CenterSaid, Connected, Disconnected, Received, RestartAsked, Send
from distributed.wire.messages import Members, Restart, Restarted, WorkerJoined, WorkerLeft
from tests.pool.test_state import ALICE, BOB, Bench, member, sent


@pytest.fixture
def bench() -> Bench:
    return Bench(ALICE, BOB)


def test_every_worker_is_asked_and_the_last_answer_ends_it(bench):
    asked = RestartAsked()
    assert bench.on(asked) == [Send(ALICE, Restart(1)), Send(BOB, Restart(1))]
    bench.on(Received(BOB, Restarted(1)))
    assert (asked.done, list(asked.pending)) == (False, [ALICE])
    bench.on(Received(ALICE, Restarted(1)))
    assert asked.done


def test_without_workers_it_is_over_at_once():
    asked = RestartAsked()
    assert Bench().on(asked) == []
    assert asked.done


def test_two_requests_are_told_apart(bench):
    first, second = RestartAsked(), RestartAsked()
    bench.on(first)
    assert bench.on(second) == [Send(ALICE, Restart(2)), Send(BOB, Restart(2))]
    for address in (ALICE, BOB):
        bench.on(Received(address, Restarted(2)))
    assert (first.done, second.done) == (False, True)


def test_answers_that_nobody_waits_for_do_nothing(bench):
    asked = RestartAsked()
    bench.on(asked)
    bench.on(Received(ALICE, Restarted(9)))
    bench.on(Received(ALICE, Restarted(1)))
    bench.on(Received(ALICE, Restarted(1)))
    assert list(asked.pending) == [BOB]


def test_a_worker_that_dies_has_no_executors_left(bench):
    asked = RestartAsked()
    bench.on(asked)
    bench.on(Received(ALICE, Restarted(1)))
    bench.lose(BOB)
    assert asked.done


def test_a_worker_that_is_away_is_waited_for_and_asked_again(bench):
    asked = RestartAsked()
    bench.on(asked)
    bench.on(Received(ALICE, Restarted(1)))
    bench.cut(BOB)
    assert not asked.done
    assert sent(bench.on(Connected(member(BOB))), Restart) == [(BOB, Restart(1))]
    bench.on(Received(BOB, Restarted(1)))
    assert asked.done


def test_a_worker_that_did_not_come_back_is_waited_for_no_longer(bench):
    asked = RestartAsked()
    bench.on(asked)
    bench.on(Received(ALICE, Restarted(1)))
    bench.cut(BOB)
    bench.on(CenterSaid(WorkerLeft(BOB, "one", "its machine is silent")))
    assert asked.done


def test_another_worker_on_the_same_address_is_fresh_as_a_whole(bench):
    asked = RestartAsked()
    bench.on(asked)
    bench.on(Received(ALICE, Restarted(1)))
    bench.cut(BOB)
    assert sent(bench.on(Connected(member(BOB, "two"))), Restart) == []
    assert asked.done


def test_a_worker_that_is_known_and_not_connected_yet_is_asked_when_it_is(bench):
    bench.on(CenterSaid(WorkerJoined(member("carol:1"))))
    asked = RestartAsked()
    assert "carol:1" not in [what.address for what in bench.on(asked)]
    assert sent(bench.on(Connected(member("carol:1"))), Restart) == [("carol:1", Restart(1))]
    assert "carol:1" in asked.pending


@pytest.mark.parametrize("farewell", [WorkerLeft("carol:1", "one", "it left"), Members([member(ALICE), member(BOB)])])
def test_a_worker_that_goes_before_anybody_reached_it_is_waited_for_no_longer(bench, farewell):
    bench.on(CenterSaid(WorkerJoined(member("carol:1"))))
    asked = RestartAsked()
    bench.on(asked)
    for address in (ALICE, BOB):
        bench.on(Received(address, Restarted(1)))
    assert list(asked.pending) == ["carol:1"]
    bench.on(CenterSaid(farewell))
    assert asked.done


def test_a_worker_that_joins_later_is_fresh(bench):
    asked = RestartAsked()
    bench.on(asked)
    bench.on(CenterSaid(WorkerJoined(member("carol:1"))))
    assert sent(bench.on(Connected(member("carol:1"))), Restart) == []
    for address in (ALICE, BOB):
        bench.on(Received(address, Restarted(1)))
    assert asked.done


def test_who_gives_up_waiting_leaves_nothing_behind(bench):
    asked = RestartAsked()
    bench.on(asked)
    asked.is_given_up = True
    bench.on(Received(ALICE, Restarted(1)))
    assert not asked.done
    assert not bench.state.restarts._asked
    assert sent(bench.cut(BOB) + bench.on(Connected(member(BOB))), Restart) == []


def test_a_connection_that_fails_before_it_is_made_changes_nothing(bench):
    bench.on(CenterSaid(WorkerJoined(member("carol:1"))))
    asked = RestartAsked()
    bench.on(asked)
    bench.on(Disconnected(member("carol:1"), "connection refused"))
    assert "carol:1" in asked.pending, "the center says that it is here"
