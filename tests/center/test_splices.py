"""Who asks the center for a worker is led there when the worker dials back; whatever else is said is refused."""

import itertools

import pytest

from distributed.center.events import Broadcast, Close, Disconnected, Join, Part, Parted, Send, WakeAt
from distributed.center.state import CenterState
from distributed.config import SETTINGS, Settings
from distributed.wire import messages as m
from tests.center.test_state import ALICE, Bench, register

WORKER, POOL, ASKING, ANSWERING = 1, 2, 3, 4
DIAL_BACK_S = SETTINGS.dial_back_s
UNKNOWN = "dialled_back: nobody waits for this token"
GONE = "the worker is not a member of the center any more"


@pytest.fixture
def bench():
    bench = Bench()
    numbers = itertools.count(1)
    settings = Settings(spliced_connections_max=3)
    bench.state = CenterState(settings, started=0.0, new_token=lambda: f"token {next(numbers)}")
    bench.worker(WORKER, "maxi:1")
    return bench


def refused(connection, kind, reason, request=9):
    return Send(connection, m.Refusal(kind, reason), request)


def ask(bench, connection=ASKING, incarnation="one"):
    return [
        instruction
        for instruction in bench.say(connection, m.Splice("maxi:1", incarnation), 9)
        if not isinstance(instruction, WakeAt)
    ]


def joined(bench, connection=ASKING, answering=ANSWERING):
    [told] = ask(bench, connection)
    *_, join = bench.say(answering, m.DialledBack(told.message.token), 9)
    return join.splice


def test_the_worker_is_told_to_dial_back_and_both_are_answered_when_it_does(bench):
    assert ask(bench) == [Send(WORKER, m.DialBack("token 1"))]
    assert bench.say(ANSWERING, m.DialledBack("token 1"), 5) == [
        Send(ASKING, m.Reply("one"), 9),
        Send(ANSWERING, m.Reply(None), 5),
        Join(1, ASKING, ANSWERING),
    ]
    assert bench.state.status(0.0)["spliced"] == 1
    assert bench.event(Parted(1)) == []
    assert bench.state.status(0.0)["spliced"] == 0


def test_without_an_incarnation_it_is_whoever_is_there_and_the_answer_says_who(bench):
    assert ask(bench, incarnation="") == [Send(WORKER, m.DialBack("token 1"))]
    assert bench.say(ANSWERING, m.DialledBack("token 1"), 5)[0] == Send(ASKING, m.Reply("one"), 9)


def test_a_connection_for_values_ends_when_it_is_idle(bench):
    bench.say(ASKING, m.Splice("maxi:1", "one", for_values=True), 9)
    assert bench.say(ANSWERING, m.DialledBack("token 1"), 5)[-1] == Join(1, ASKING, ANSWERING, SETTINGS.spliced_idle_s)


def test_another_incarnation_or_address_is_refused_at_once(bench):
    [refusal] = ask(bench, incarnation="two")
    assert refusal.message.kind == "WrongPeer"
    [refusal] = bench.say(ASKING, m.Splice("moritz:1"), 9)
    reason = "no worker of the address 'moritz:1' is a member of the center"
    assert refusal == refused(ASKING, "ConnectionFailed", reason)


def test_a_token_serves_once(bench):
    ask(bench)
    bench.say(ANSWERING, m.DialledBack("token 1"), 5)
    assert bench.say(5, m.DialledBack("token 1"), 9) == [refused(5, "ProtocolError", UNKNOWN)]


@pytest.mark.parametrize("token", ["", "token 2", "token", "Token 1", "x" * 1000])
def test_a_token_that_was_not_given_is_refused_and_costs_nobody_their_place(bench, token):
    ask(bench)
    assert bench.say(5, m.DialledBack(token), 9) == [refused(5, "ProtocolError", UNKNOWN)]
    assert bench.say(ANSWERING, m.DialledBack("token 1"), 5)[-1] == Join(1, ASKING, ANSWERING)


def test_tokens_cannot_be_guessed():
    bench = Bench()
    bench.worker(WORKER, "maxi:1")
    tokens = {ask(bench, connection)[0].message.token for connection in range(10, 30)}
    assert len(tokens) == 20
    assert {len(bytes.fromhex(token)) for token in tokens} == {16}


def test_a_worker_that_does_not_dial_back_is_given_up_and_comes_too_late(bench):
    began = bench.now
    assert WakeAt(began + DIAL_BACK_S) in bench.say(ASKING, m.Splice("maxi:1"), 9)
    assert bench.tick_at(began + DIAL_BACK_S - 1)[:-1] == []
    reason = f"the worker did not dial back to the center within {DIAL_BACK_S:g} s"
    assert bench.tick_at(began + DIAL_BACK_S) == [refused(ASKING, "ConnectionFailed", reason)]
    assert bench.say(ANSWERING, m.DialledBack("token 1"), 9) == [refused(ANSWERING, "ProtocolError", UNKNOWN)]


def test_who_does_not_wait_any_more_is_not_joined(bench):
    ask(bench)
    assert bench.event(Disconnected(ASKING)) == []
    assert bench.say(ANSWERING, m.DialledBack("token 1"), 9) == [refused(ANSWERING, "ProtocolError", UNKNOWN)]
    assert bench.tick_at(bench.now + DIAL_BACK_S) == []


def test_the_loss_of_a_worker_ends_what_waits_for_it_and_what_leads_to_it(bench):
    bench.client(POOL, ALICE)
    splice = joined(bench)
    ask(bench, 5)
    assert bench.event(Disconnected(WORKER)) == [
        Part(splice),
        Broadcast([POOL], m.WorkerLeft("maxi:1", "one", "its connection broke")),
        refused(5, "ConnectionFailed", GONE),
    ]
    assert bench.event(Parted(splice)) == []


def test_what_leads_to_a_worker_that_leaves_carries_its_last_words(bench):
    joined(bench)
    ask(bench, 5)
    assert bench.say(WORKER, m.Unregister()) == [refused(5, "ConnectionFailed", GONE)]
    assert bench.event(Disconnected(WORKER)) == []


def test_a_worker_that_registers_again_keeps_what_leads_to_it(bench):
    joined(bench)
    ask(bench, 5)
    bench.worker(7, "maxi:1")
    assert bench.event(Disconnected(WORKER)) == []
    assert bench.say(8, m.DialledBack("token 2"), 9)[-1] == Join(2, 5, 8)


def test_who_waits_for_the_predecessor_of_a_worker_hears_of_it(bench):
    ask(bench)
    out = bench.say(7, register("maxi:1", {}, "two"), 1)
    assert refused(ASKING, "ConnectionFailed", GONE) in out


def test_what_leads_to_the_predecessor_of_a_worker_ends(bench):
    """Nobody has seen its connection break yet, and when that is seen nobody knows any more who it was."""
    splice = joined(bench)
    out = bench.say(7, register("maxi:1", {}, "two"), 1)
    assert [instruction for instruction in out if isinstance(instruction, Part)] == [Part(splice)]
    assert bench.event(Disconnected(WORKER)) == bench.event(Parted(splice)) == []
    assert not bench.state.splices.joined


def test_no_more_are_passed_on_than_the_setting_says_and_who_parts_makes_room(bench):
    first = joined(bench, 10, 11)
    joined(bench, 12, 13)
    ask(bench, 14)
    [refusal] = ask(bench, 15)
    assert refusal.message.kind == "ConnectionFailed"
    assert "3 connections already" in refusal.message.reason
    bench.event(Parted(first))
    assert ask(bench, 15) == [Send(WORKER, m.DialBack("token 4"))]


@pytest.mark.parametrize("message", [m.Splice("maxi:1"), m.DialledBack("token 1")])
@pytest.mark.parametrize("connection", [WORKER, POOL])
def test_a_registered_connection_leads_nowhere_else(bench, message, connection):
    bench.client(POOL, ALICE)
    ask(bench)
    [refusal] = bench.say(connection, message, 9)
    assert refusal.message.kind == "ProtocolError"
    assert bench.say(ANSWERING, m.DialledBack("token 1"), 5)[-1] == Join(1, ASKING, ANSWERING), (
        "the token is still good"
    )


@pytest.mark.parametrize("message", [m.Splice("maxi:1"), m.DialledBack("token 1")])
def test_what_is_no_request_has_no_answer_and_costs_the_connection(bench, message):
    ask(bench)
    [close] = bench.say(5, message)
    assert isinstance(close, Close)


@pytest.mark.parametrize(
    "message",
    [m.RegisterClient(ALICE), register("moritz:1", {}), m.Splice("maxi:1"), m.DialledBack("token 1"), m.Ping()],
)
def test_nothing_but_the_answer_follows_a_splice(bench, message):
    """What is led elsewhere must not stay somebody here."""
    ask(bench)
    [refusal] = bench.say(ASKING, message, 10)
    assert refusal.message.kind == "ProtocolError"
    assert bench.say(ANSWERING, m.DialledBack("token 1"), 5)[-1] == Join(1, ASKING, ANSWERING)


def test_many_who_ask_leave_no_alarms_behind(bench):
    for number in range(1000):
        splice = joined(bench, 2 * number + 100, 2 * number + 101)
        bench.event(Parted(splice))
    assert len(bench.state._alarms) < 100
    assert not bench.state.splices.by_connection
