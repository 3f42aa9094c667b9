"""Published names: told to all workers, and answered when their values are safe."""

from __future__ import annotations

import dataclasses

import pytest

from distributed.center.events import Broadcast, Disconnected, Send, Tell, Tick, Told, WakeAt
from distributed.center.state import CenterState
from distributed.config import SETTINGS
from distributed.wire import messages as m
from tests.center.bench import ALICE, BOB, Bench, bounded, register

DONE = Send(3, m.Reply(None), 4)
KEYS = [f"{ALICE}/1", f"{ALICE}/2"]
PUBLISH = m.Publish("table", KEYS[0], KEYS)
PIN = m.Pin("table", KEYS[0], dict.fromkeys(KEYS, 1))
WAIT = WakeAt(1000 + SETTINGS.publish_wait_s)


@pytest.fixture
def bench() -> Bench:
    """Two workers, each with one of two keys, and their owner."""
    bench = Bench()
    bench.worker(1, "alice:1", {KEYS[0]: 1})
    bench.worker(2, "bob:1", {KEYS[1]: 1})
    bench.client(3, ALICE)
    bench.say(3, m.Export(KEYS, [1, 1]))
    return bench


def test_publish_is_answered_when_every_worker_knows(bench: Bench) -> None:
    assert bench.say(3, PUBLISH, request=4) == [Tell([1, 2], PIN, 1)]
    assert bench.event(Told(1)) == [DONE]
    assert bench.ask(5, m.LookUp("table")) == KEYS[0]
    assert bench.ask(5, m.LookUp("")) == ["table"]


def test_publish_waits_for_a_holder_that_has_not_found_the_center_again() -> None:
    bench = Bench()
    bench.client(3, ALICE)
    assert bench.say(3, m.Publish("table", KEYS[0], []), request=4) == [WAIT]
    pin = m.Pin("table", KEYS[0], {KEYS[0]: 0})
    assert Tell([1], pin, 1) in bench.say(1, register("alice:1", {KEYS[0]: 1}))
    assert bench.event(Told(1)) == [DONE]


def test_publish_waits_until_the_value_comes_to_a_worker_that_knows(bench: Bench) -> None:
    bench.say(3, m.Publish("table", "x", []), request=4)
    assert bench.event(Told(1)) == []
    assert bench.say(2, m.AddKeys(["x"], [1], [1])) == [DONE]


def test_only_the_attempt_that_counts_is_worth_waiting_for(bench: Bench) -> None:
    bench.say(3, m.Export([f"{ALICE}/3"], [2]))
    bench.say(3, m.Publish("table", f"{ALICE}/3", []), request=4)
    bench.event(Told(1))
    assert bench.say(1, m.AddKeys([f"{ALICE}/3"], [1], [1])) == []
    assert bench.say(2, m.AddKeys([f"{ALICE}/3"], [2], [1])) == [DONE]


def test_who_reads_by_name_is_sent_to_nobody_who_has_another_attempt(bench: Bench) -> None:
    key = f"{ALICE}/3"
    bench.say(3, m.Export([key], [2]))
    bench.say(1, m.AddKeys([key], [1], [1]))
    bench.say(2, m.AddKeys([key], [2], [1]))
    bench.say(3, m.Publish("table", key, [key]), request=4)
    bench.event(Told(1))
    bench.say(3, m.Withdraw([key], [b""]))
    bench.client(6, BOB)
    assert bench.ask(6, m.WhoHas([key], wait_s=60)) == {key: {"bob:1": [2, 1]}}
    bench.event(Disconnected(2))
    assert not [said for said in bench.say(6, m.WhoHas([key], wait_s=60), request=9) if isinstance(said, Send)]


def test_a_value_that_was_computed_again_is_kept_as_it_is_now(bench: Bench) -> None:
    bench.say(3, PUBLISH)
    said = bench.say(3, m.Export(KEYS[:1], [2]))
    assert said == [Broadcast([1, 2], m.Pin("table", KEYS[0], {KEYS[0]: 2, KEYS[1]: 1}))]
    assert bench.say(3, m.Export(KEYS[:1], [2])) == []


def test_a_worker_that_has_the_name_already_need_not_be_told() -> None:
    bench = Bench()
    bench.say(3, m.Publish("table", "x", []), request=4)
    assert DONE in bench.say(1, register("alice:1", {"x": 1}, names={"table": "x"}))


def test_publish_is_refused_when_nobody_has_the_value_for_long(bench: Bench) -> None:
    bench.say(3, m.Publish("table", "x", []), request=4)
    bench.event(Told(1))
    [refused, unpinned] = bench.tick_at(WAIT.time)
    assert refused == Send(3, m.Refusal("KeyLost", "nothing is published as 'table': no worker has x"), 4)
    assert unpinned == Broadcast([1, 2], m.Unpin("table", []))
    assert bench.ask(5, m.LookUp("")) == []


def test_publish_is_refused_at_once_when_the_value_is_lost(bench: Bench) -> None:
    bench.say(3, PUBLISH, request=4)
    bench.event(Disconnected(1))
    bench.event(Told(1))
    [refused, _] = bench.say(3, m.Withdraw(KEYS[:1], [b"packed error"]))
    assert refused == Send(3, m.Refusal("KeyLost", f"nothing is published as 'table': {KEYS[0]} is lost"), 4)


def test_a_value_that_refers_to_what_failed_or_is_not_there_yet_is_published_nevertheless(bench: Bench) -> None:
    failed, running = f"{ALICE}/3", f"{ALICE}/4"
    bench.say(3, m.Publish("table", KEYS[0], [failed, running]), request=4)
    bench.event(Told(1))
    assert bench.say(3, m.Withdraw([failed], [b"packed error"])) == []
    assert bench.say(3, m.Export([running], [0])) == [DONE]


def test_a_time_that_is_over_when_the_name_is_safe_does_nothing(bench: Bench) -> None:
    bench.say(3, PUBLISH, request=4)
    bench.event(Told(1))
    assert bench.tick_at(WAIT.time) == []
    assert bench.ask(5, m.LookUp("")) == ["table"]


def test_publishing_again_because_the_answer_was_lost_has_an_answer_of_its_own(bench: Bench) -> None:
    bench.say(3, PUBLISH, request=4)
    bench.event(Disconnected(3))
    bench.say(6, PUBLISH, request=7)
    assert bench.event(Told(1)) == [Send(6, m.Reply(None), 7)]
    assert bench.event(Told(2)) == []
    bench.client(3, ALICE)
    bench.say(3, PUBLISH, request=4)
    assert bench.event(Told(3)) == [DONE]


def test_whoever_publishes_the_same_meanwhile_is_answered_as_well(bench: Bench) -> None:
    bench.say(3, PUBLISH, request=4)
    bench.say(3, PUBLISH, request=5)
    assert bench.event(Told(1)) == [DONE, Send(3, m.Reply(None), 5)]


def test_the_workers_answers_about_a_former_name_say_nothing_of_the_next_one(bench: Bench) -> None:
    bench.say(3, PUBLISH, request=4)
    bench.say(3, m.Unpublish("table"), request=5)
    bench.say(3, m.Publish("table", KEYS[1], []), request=6)
    assert bench.event(Told(1)) == []
    assert bench.event(Told(2)) == [Send(3, m.Reply(None), 6)]


def test_publishing_again_in_vain_does_not_unpublish(bench: Bench) -> None:
    bench.say(3, PUBLISH, request=4)
    bench.event(Told(1))
    bench.event(Disconnected(1))
    bench.say(3, PUBLISH, request=5)
    bench.event(Told(2))
    [refused] = [said for said in bench.tick_at(WAIT.time) if isinstance(said, Send)]
    assert (refused.request, type(refused.message)) == (5, m.Refusal)
    assert bench.ask(5, m.LookUp("table")) == KEYS[0]


def test_a_taken_name_and_an_unknown_name_are_refused(bench: Bench) -> None:
    bench.say(3, PUBLISH)
    for wrong in (m.Publish("table", "y", []), m.LookUp("chair"), m.Unpublish("chair"), m.Publish("", "y", [])):
        [answer] = bench.say(3, wrong, request=4)
        assert isinstance(answer.message, m.Refusal), wrong
    assert bench.ask(5, m.LookUp("table")) == KEYS[0]


def test_unpublish_tells_workers_who_still_lives(bench: Bench) -> None:
    bench.say(3, PUBLISH)
    bench.event(Told(1))
    assert bench.say(4, m.Unpublish("table"), request=4) == [
        Broadcast([1, 2], m.Unpin("table", [ALICE])),
        Send(4, m.Reply(None), 4),
    ]


def test_who_waits_for_a_name_that_somebody_unpublishes_waits_no_longer(bench: Bench) -> None:
    bench.say(3, PUBLISH, request=4)
    assert DONE in bench.say(5, m.Unpublish("table"), request=4)
    assert bench.event(Told(1)) == []


def test_names_come_back_with_the_workers_and_reach_those_who_join_later() -> None:
    bench = Bench()
    bench.worker(1, "alice:1")
    said = bench.say(2, register("bob:1", {}, names={"table": "x"}, published={"table": {"x": 0, "y": 0}}))
    assert Broadcast([1], m.Pin("table", "x", {"x": 0, "y": 0})) in said
    assert Send(2, m.Pin("table", "x", {"x": 0, "y": 0})) not in said
    assert Send(3, m.Pin("table", "x", {"x": 0, "y": 0})) in bench.say(3, register("carol:1", {}))


def test_a_worker_that_was_away_does_not_bring_an_unpublished_name_back(bench: Bench) -> None:
    bench.say(3, PUBLISH)
    bench.say(3, m.Unpublish("table"))
    said = bench.say(7, register("carol:1", {}, names={"table": KEYS[0]}, published={"table": dict.fromkeys(KEYS, 1)}))
    assert Send(7, m.Unpin("table", [ALICE])) in said
    assert bench.state.names.publications == {}


def test_names_are_bounded_in_number_and_length() -> None:
    bench = bounded(names_max=1, name_characters_max=8)
    bench.say(2, m.Publish("table", "x", []), request=9)
    for name in ("more", "", "n" * 9):
        [refused] = bench.say(2, m.Publish(name, "y", []), request=9)
        assert isinstance(refused.message, m.Refusal)
    bench.worker(1, "alice:1", names={"table": "x", "other": "y"})
    assert set(bench.state.names.publications) == {"table"}
    bench.say(2, m.Unpublish("table"), request=9)
    bench.say(2, m.Publish("more", "y", []), request=9)
    assert set(bench.state.names.publications) == {"more"}


def test_unpublishing_twice_is_as_good_as_once(bench: Bench) -> None:
    bench.say(2, m.Publish("table", "x", []), request=8)
    for _ in range(2):
        answer = bench.say(2, m.Unpublish("table", "x"), request=9)
        assert answer[-1] == Send(2, m.Reply(None), 9)
    assert bench.state.names.publications == {}


def test_unpublishing_again_does_not_take_a_name_from_who_has_it_now(bench: Bench) -> None:
    bench.say(2, m.Publish("table", "x", []), request=7)
    bench.say(2, m.Unpublish("table", "x"), request=8)
    bench.say(3, m.Publish("table", "y", []), request=7)
    assert bench.ask(2, m.Unpublish("table", "x")) is None
    assert bench.ask(2, m.LookUp("table")) == "y"


def test_a_name_unpublished_before_its_worker_came_back_stays_so() -> None:
    bench = Bench()
    assert bench.ask(2, m.Unpublish("table", "x")) is None
    out = bench.say(1, register("alice:1", {"x": 1}, names={"table": "x"}), request=5)
    assert Send(1, m.Unpin("table", [])) in out
    assert bench.state.names.publications == {}


# ------------------------------------------------------------------------------------------------- after a restart


@pytest.fixture
def restarted() -> Bench:
    """A center that hears its first word, which may have been another one's before."""
    bench = Bench()
    bench.state = CenterState(started=0.0)
    bench.event(Tick())
    return bench


def test_names_that_workers_may_come_back_with_are_neither_unknown_nor_free(restarted: Bench) -> None:
    there = WakeAt(restarted.now + SETTINGS.names_back_s)
    assert restarted.say(4, m.LookUp("table"), request=1) == [there]
    assert restarted.say(4, m.LookUp(""), request=2) == []
    assert restarted.say(4, m.Publish("table", "another", []), request=3) == []
    assert restarted.say(4, m.LookUp("chair"), request=4) == []
    out = restarted.say(1, register("alice:1", {KEYS[0]: 1}, names={"table": KEYS[0]}))
    assert Send(4, m.Reply(KEYS[0]), 1) in out
    assert [said.message.kind for said in to(4, 3, out)] == ["NameTaken"]
    assert to(4, 2, out) == to(4, 4, out) == []
    out = restarted.tick_at(there.time)
    assert to(4, 2, out) == [Send(4, m.Reply(["table"]), 2)]
    assert [said.message.kind for said in to(4, 4, out)] == ["NameUnknown"]
    [answer] = restarted.say(4, m.LookUp("chair"), request=5)
    assert answer.message.kind == "NameUnknown", "and from then on at once"


def test_who_asked_and_went_hears_nothing(restarted: Bench) -> None:
    restarted.say(4, m.LookUp("table"), request=1)
    restarted.event(Disconnected(4))
    assert to(4, 1, restarted.tick_at(restarted.now + SETTINGS.names_back_s)) == []


def test_where_nobody_can_have_known_the_center_names_are_unknown_at_once() -> None:
    bench = Bench()
    bench.state = CenterState(dataclasses.replace(SETTINGS, names_back_s=0.0))
    [answer] = bench.say(4, m.LookUp("table"), request=1)
    assert answer.message.kind == "NameUnknown"


def to(connection: int, request: int, out: list) -> list:
    """What was answered to this request."""
    return [said for said in out if isinstance(said, Send) and (said.connection, said.request) == (connection, request)]
