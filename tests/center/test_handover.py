"""Values of workers that leave: who is asked to take them over, what follows a refusal, and when nobody will."""

from __future__ import annotations

import pytest

from distributed.center.events import Broadcast, Close, Disconnected, Send
from distributed.wire import messages as m
from tests.center.bench import ALICE, Bench, bounded, member, register

X, Y, Z = (f"{ALICE}/{number}" for number in (1, 2, 3))
LEAVER, BOB, CAROL, DAVE = 1, 2, 3, 4  # connections
ADDRESSES = {LEAVER: "alice:1", BOB: "bob:1", CAROL: "carol:1", DAVE: "dave:1"}


def make(bench: Bench, *others: int, keys=(X, Y)) -> Bench:
    """A worker that leaves, holds these, and has not asked for anything yet; and others that hold nothing."""
    bench.worker(LEAVER, ADDRESSES[LEAVER], dict.fromkeys(keys, 10))
    for connection in others:
        bench.worker(connection, ADDRESSES[connection])
    assert bench.say(LEAVER, m.Leaving()) == []
    return bench


@pytest.fixture
def bench() -> Bench:
    return make(Bench(), BOB, CAROL)


def hand_over(bench: Bench, *keys: str, nbytes: int = 10, connection: int = LEAVER):
    return bench.say(connection, m.HandOver(list(keys), [1] * len(keys), [nbytes] * len(keys)))


def adopt(connection: int, *keys: str, nbytes: int = 10, holder: int = LEAVER) -> Send:
    return Send(connection, m.Adopt(list(keys), [1] * len(keys), [nbytes] * len(keys), ADDRESSES[holder]))


def adopted(bench: Bench, connection: int, *keys: str, refused=(), reason: str = ""):
    return bench.say(connection, m.Adopted(list(keys), [1] * len(keys), list(refused), reason))


def handed(*keys: str, refused=(), others: int = 2, reason: str = "", connection: int = LEAVER) -> Send:
    return Send(connection, m.HandedOver(list(keys), list(refused), others, reason))


def nothing_is_left(bench: Bench) -> bool:
    handover = bench.state.handover
    return not any((*handover.orphans.values(), *handover._waiting.values(), handover._keys, handover._bytes))


# ------------------------------------------------------------------------------------------------------------ adopted


def test_values_are_spread_and_the_leaver_hears_what_others_have(bench: Bench) -> None:
    assert hand_over(bench, X, Y) == [adopt(BOB, X), adopt(CAROL, Y)]
    assert adopted(bench, CAROL, Y) == [handed(Y)]
    assert adopted(bench, BOB, X) == [handed(X)]
    assert nothing_is_left(bench)


def test_who_has_most_room_comes_first(bench: Bench) -> None:
    bench.say(BOB, m.AddKeys([Z], [1], [500]))
    assert hand_over(bench, X, Y, nbytes=600) == [adopt(CAROL, X, nbytes=600), adopt(BOB, Y, nbytes=600)]


def test_who_has_a_copy_comes_before_all_others(bench: Bench) -> None:
    bench.say(CAROL, m.AddKeys([X], [1], [999]))
    assert hand_over(bench, X) == [adopt(CAROL, X)]


def test_a_copy_of_another_attempt_is_none(bench: Bench) -> None:
    bench.say(CAROL, m.AddKeys([X], [2], [999]))
    assert hand_over(bench, X) == [adopt(BOB, X)]


def test_to_ask_twice_is_to_ask_once(bench: Bench) -> None:
    hand_over(bench, X)
    assert hand_over(bench, X) == []


def test_several_leave_and_none_is_asked_to_adopt() -> None:
    bench = make(Bench(), BOB, CAROL)
    bench.say(BOB, m.Leaving())
    bench.say(BOB, m.AddKeys([X], [1], [10]))
    assert hand_over(bench, X) == [adopt(CAROL, X)]
    assert hand_over(bench, X, connection=BOB) == [adopt(CAROL, X, holder=BOB)]
    assert adopted(bench, CAROL, X) == [handed(X, others=1), handed(X, others=1, connection=BOB)]
    assert adopted(bench, CAROL, X) == []


def test_no_more_at_a_time_than_a_worker_may_be_asked_for() -> None:
    bench = make(bounded(adoptions_keys_max=1), BOB)
    assert hand_over(bench, X, Y) == [adopt(BOB, X)]
    assert adopted(bench, BOB, X) == [handed(X, others=1), adopt(BOB, Y)]
    assert adopted(bench, BOB, Y) == [handed(Y, others=1)]


def test_nor_more_bytes() -> None:
    bench = make(bounded(adoptions_bytes_max=15), BOB)
    assert hand_over(bench, X, Y, Z) == [adopt(BOB, X, Y)]
    assert adopted(bench, BOB, Y) == [handed(Y, others=1), adopt(BOB, Z)]


# ------------------------------------------------------------------------------------------------------------ refused


def test_what_one_refuses_another_is_asked_for_and_the_reason_of_the_last_is_told(bench: Bench) -> None:
    assert hand_over(bench, X) == [adopt(BOB, X)]
    assert adopted(bench, BOB, refused=[X], reason="bob:1 is full") == [adopt(CAROL, X)]
    out = adopted(bench, CAROL, refused=[X], reason="carol:1 is full")
    assert out == [handed(refused=[X], reason="carol:1 is full")]
    assert nothing_is_left(bench)


def test_what_all_refused_may_be_asked_for_again(bench: Bench) -> None:
    hand_over(bench, X)
    adopted(bench, BOB, refused=[X])
    adopted(bench, CAROL, refused=[X])
    assert hand_over(bench, X) == [adopt(BOB, X)]


def test_some_adopted_and_some_refused_in_one_answer() -> None:
    bench = make(Bench(), BOB)
    assert hand_over(bench, X, Y) == [adopt(BOB, X, Y)]
    out = adopted(bench, BOB, X, refused=[Y], reason="bob:1 is full")
    assert out == [handed(X, others=1), handed(refused=[Y], others=1, reason="bob:1 is full")]
    assert nothing_is_left(bench)


def test_one_who_joins_is_asked_for_what_waits() -> None:
    bench = make(bounded(adoptions_keys_max=1), BOB)
    hand_over(bench, X, Y)
    assert adopt(DAVE, Y) in bench.say(DAVE, register("dave:1", {}))


def test_alone_there_is_nobody_to_ask() -> None:
    bench = make(Bench())
    assert hand_over(bench, X, Y) == [handed(refused=[X, Y], others=0)]
    assert nothing_is_left(bench)


def test_the_last_two_that_leave_together_are_told_that_they_are_alone() -> None:
    bench = make(Bench(), BOB)
    bench.say(BOB, m.Leaving())
    assert hand_over(bench, X) == [handed(refused=[X], others=0)]
    assert hand_over(bench, Y, connection=BOB) == [handed(refused=[Y], others=0, connection=BOB)]


def test_when_the_one_that_was_asked_leaves_too_it_may_still_adopt_what_is_under_way() -> None:
    bench = make(Bench(), BOB)
    hand_over(bench, X)
    bench.say(BOB, m.Leaving())
    assert adopted(bench, BOB, X) == [handed(X, others=0)]
    assert nothing_is_left(bench)


def test_when_the_one_that_was_asked_leaves_too_and_refuses_nobody_is_left() -> None:
    bench = make(Bench(), BOB)
    hand_over(bench, X)
    bench.say(BOB, m.Leaving())
    out = adopted(bench, BOB, refused=[X], reason="bob:1 leaves, too")
    assert out == [handed(refused=[X], others=0, reason="bob:1 leaves, too")]


# ------------------------------------------------------------------------------------------------- somebody is lost


def test_what_was_on_its_way_to_one_that_dies_goes_to_another(bench: Bench) -> None:
    assert hand_over(bench, X) == [adopt(BOB, X)]
    assert adopt(CAROL, X) in bench.event(Disconnected(BOB))
    assert adopted(bench, CAROL, X) == [handed(X, others=1)]
    assert nothing_is_left(bench)


def test_when_the_last_that_was_asked_dies_nobody_is_left() -> None:
    bench = make(Bench(), BOB)
    hand_over(bench, X)
    assert handed(refused=[X], others=0) in bench.event(Disconnected(BOB))
    assert nothing_is_left(bench)


def test_when_the_one_that_had_the_turn_dies_those_that_refused_before_are_not_asked_again(bench: Bench) -> None:
    hand_over(bench, X)
    adopted(bench, BOB, refused=[X], reason="bob:1 is full")
    assert handed(refused=[X], others=1) in bench.event(Disconnected(CAROL))


def test_when_the_leaver_dies_nothing_is_left_of_it_and_answers_do_nothing(bench: Bench) -> None:
    hand_over(bench, X, Y)
    bench.event(Disconnected(LEAVER))
    assert nothing_is_left(bench)
    assert adopted(bench, BOB, X) == adopted(bench, CAROL, refused=[Y]) == []


def test_the_turn_of_one_that_dies_is_free_for_others() -> None:
    bench = make(bounded(adoptions_keys_max=1), BOB, CAROL)
    bench.say(CAROL, m.Leaving())
    assert hand_over(bench, X) == [adopt(BOB, X)]
    assert hand_over(bench, Y, connection=CAROL) == []
    assert adopt(BOB, Y, holder=CAROL) in bench.event(Disconnected(LEAVER))


def test_a_leaver_that_comes_over_another_connection_asks_anew(bench: Bench) -> None:
    assert hand_over(bench, X) == [adopt(BOB, X)]
    out = bench.say(9, register("alice:1", {X: 10}, leaving=True))
    assert Close(LEAVER, "replaced by a newer registration") in out
    assert nothing_is_left(bench)
    assert hand_over(bench, X, connection=9) == [adopt(BOB, X)]
    assert adopted(bench, BOB, X) == [handed(X, connection=9)]


def test_one_that_was_asked_and_comes_over_another_connection_is_asked_again() -> None:
    """For a moment nobody was there: that is no reason to tell the one that leaves that it is alone."""
    bench = make(Bench(), BOB)
    assert hand_over(bench, X) == [adopt(BOB, X)]
    out = bench.say(9, register("bob:1", {}))
    assert [what for what in out if isinstance(what, Send) and what.connection == LEAVER] == []
    assert adopt(9, X) in out
    assert adopted(bench, 9, X) == [handed(X, others=1)]


def test_one_that_brings_the_value_when_it_comes_back_is_asked_to_keep_it() -> None:
    bench = make(Bench(), BOB, CAROL)
    assert hand_over(bench, X) == [adopt(BOB, X)]
    out = bench.say(9, register("bob:1", {X: 10}))
    assert adopt(9, X) in out
    assert sum(isinstance(what, Send) and isinstance(what.message, m.Adopt) for what in out) == 1


# -------------------------------------------------------------------------------------------- who may not, and garbage


def test_one_that_does_not_leave_hands_nothing_over(bench: Bench) -> None:
    refusal = m.Refusal("ProtocolError", "hand_over: only a worker that leaves hands over")
    assert bench.say(BOB, m.HandOver([X], [1], [10]), request=5) == [Send(BOB, refusal, 5)]


def test_one_that_is_no_member_is_refused() -> None:
    bench = Bench()
    for message in (m.Leaving(), m.HandOver([X], [1], [10]), m.Adopted([X], [1])):
        [answer] = bench.say(7, message, request=5)
        assert isinstance(answer.message, m.Refusal)
        assert bench.say(7, message) == [], "and what an older registration still says is nobody's business"


def test_columns_that_do_not_fit_together_cost_the_connection(bench: Bench) -> None:
    [closed] = bench.say(LEAVER, m.HandOver([X, Y], [1], [10, 10]))
    assert isinstance(closed, Close)
    assert nothing_is_left(bench)


def test_answers_of_those_who_were_not_asked_do_nothing(bench: Bench) -> None:
    hand_over(bench, X)
    assert adopted(bench, CAROL, X) == adopted(bench, CAROL, refused=[X, "other/1"]) == []
    assert adopted(bench, BOB, X) == [handed(X)]


def test_a_worker_that_leaves_is_a_member_until_it_goes_and_is_told_of_as_leaving(bench: Bench) -> None:
    assert [worker["leaving"] for worker in bench.ask(8, m.Status())["members"]] == [True, False, False]
    assert bench.say(LEAVER, m.Unregister(), request=6) == [
        Broadcast([BOB, CAROL], m.WorkerLeft("alice:1", "one", "it left")),
        Send(LEAVER, m.Reply(None), 6),
    ]
    assert member("alice:1").address not in bench.state.directory.members
