"""The center's mind: one event in, the whole list of instructions compared, invariants after each."""

from __future__ import annotations

import dataclasses

import pytest

from distributed.center.events import (
    Broadcast,
    Close,
    Disconnected,
    End,
    Received,
    Say,
    Send,
    WakeAt,
)
from distributed.center.state import CenterState
from distributed.config import SETTINGS
from distributed.wire import messages as m
from tests.center.bench import ALICE, BOB, Bench, bounded, member, register

LEASE_S = SETTINGS.closed_client_lease_s


@pytest.fixture
def bench() -> Bench:
    return Bench()


def as_list(some: m.Member) -> list:
    return list(dataclasses.astuple(some))


# ------------------------------------------------------------------------------------------------------------ members


def test_a_worker_that_registers_learns_the_members_and_all_others_learn_of_it(bench: Bench) -> None:
    bench.worker(1, "alice:1")
    bench.client(2, ALICE)
    assert bench.say(3, register("bob:1", {}), request=5) == [
        Broadcast([1, 2], m.WorkerJoined(member("bob:1"))),
        Send(3, m.Reply([as_list(member("alice:1")), as_list(member("bob:1"))]), 5),
    ]


def test_a_registration_without_request_is_answered_by_a_members_message(bench: Bench) -> None:
    assert bench.say(1, register("alice:1", {})) == [Send(1, m.Members([member("alice:1")]))]


def test_a_broken_connection_takes_the_worker_and_its_keys_away(bench: Bench) -> None:
    bench.worker(1, "alice:1", {"x": 10, "y": 20})
    bench.worker(2, "bob:1", {"x": 10})
    assert bench.event(Disconnected(1)) == [Broadcast([2], m.WorkerLeft("alice:1", "one", "its connection broke"))]
    assert bench.ask(3, m.WhoHas(["x", "y"])) == {"x": {"bob:1": [1, 10]}}
    assert bench.ask(3, m.Ncores()) == {"bob:1": 2}


def test_a_worker_that_unregisters_is_gone_at_once_and_its_disconnect_is_nothing_new(bench: Bench) -> None:
    bench.worker(1, "alice:1")
    bench.client(2, ALICE)
    assert bench.say(1, m.Unregister()) == [Broadcast([2], m.WorkerLeft("alice:1", "one", "it left"))]
    assert bench.event(Disconnected(1)) == []


def test_a_new_incarnation_replaces_the_old_one_and_its_connection(bench: Bench) -> None:
    bench.worker(1, "alice:1", {"x": 10})
    bench.client(2, ALICE)
    assert bench.say(3, register("alice:1", {"y": 5}, "two"), request=5) == [
        Close(1, "replaced by a newer registration"),
        Broadcast([2], m.WorkerLeft("alice:1", "one", "another worker started at its address")),
        Broadcast([2], m.WorkerJoined(member("alice:1", "two"))),
        Send(3, m.Reply([as_list(member("alice:1", "two"))]), 5),
    ]
    assert bench.ask(4, m.HasWhat()) == {"alice:1": {"y": [1, 5]}}


def test_the_same_incarnation_on_a_new_connection_is_a_new_snapshot_and_no_news(bench: Bench) -> None:
    bench.worker(1, "alice:1", {"x": 10})
    bench.client(2, ALICE)
    assert bench.say(3, register("alice:1", {"y": 5}), request=5) == [
        Close(1, "replaced by a newer registration"),
        Send(3, m.Reply([as_list(member("alice:1"))]), 5),
    ]
    assert bench.event(Disconnected(1)) == []
    assert bench.ask(4, m.HasWhat()) == {"alice:1": {"y": [1, 5]}}


def test_registering_again_on_the_same_connection_replaces_the_snapshot(bench: Bench) -> None:
    bench.worker(1, "alice:1", {"x": 10})
    assert bench.say(1, register("alice:1", {"y": 5})) == [Send(1, m.Members([member("alice:1")]))]
    assert bench.ask(4, m.HasWhat()) == {"alice:1": {"y": [1, 5]}}


def test_reports_over_the_connection_of_an_older_registration_are_dropped(bench: Bench) -> None:
    bench.worker(1, "alice:1")
    bench.worker(3, "alice:1", incarnation="two")
    for late in (m.AddKeys(["x"], [1], [10]), m.RemoveKeys(["x"]), m.ReportLoad(1, 0, 0, 0, [])):
        assert bench.say(1, late) == []
    assert bench.ask(4, m.HasWhat()) == {"alice:1": {}}


def test_by_hand_only_a_registered_worker_may_report(bench: Bench) -> None:
    [answer] = bench.say(1, m.AddKeys(["x"], [1], [10]), request=3)
    assert answer.message.kind == "ProtocolError"
    assert "register first" in answer.message.reason


def test_different_versions_are_said_in_one_line(bench: Bench) -> None:
    bench.worker(1, "alice:1")
    other = dataclasses.replace(member("bob:1"), versions={"python": "3.13"})
    said = [
        each.text for each in bench.state.handle(Received(2, m.Register(other, [], [], [])), 1.0) if type(each) is Say
    ]
    assert any("bob:1 differs from alice:1: python 3.11 and 3.13" in text for text in said)


@pytest.mark.parametrize(
    "wrong",
    [
        m.AddKeys(["x", "y"], [1], [1, 1]),
        m.Register(member("bob:1"), ["x"], [], [1]),
        m.Cancel(["x"], [1]),
        m.RegisterClient("a/b"),
        m.RegisterClient(ALICE),
    ],
)
def test_a_malformed_message_costs_the_connection_or_is_refused_and_harms_nothing(bench: Bench, wrong) -> None:
    bench.worker(1, "alice:1", {"x": 10})
    before = bench.ask(4, m.HasWhat())
    [instruction] = bench.say(1, wrong)
    assert isinstance(instruction, Close)
    [instruction] = bench.say(1, wrong, request=7)
    assert isinstance(instruction.message, m.Refusal)
    assert bench.ask(4, m.HasWhat()) == before


# ---------------------------------------------------------------------------------------------------------- directory


def test_who_has_and_has_what_follow_reports(bench: Bench) -> None:
    bench.worker(1, "alice:1", {"x": 10})
    bench.worker(2, "bob:1")
    assert bench.say(2, m.AddKeys(["x", "y"], [2, 1], [11, 20])) == []
    assert bench.ask(3, m.WhoHas(["x", "y"])) == {
        "x": {"alice:1": [1, 10], "bob:1": [2, 11]},
        "y": {"bob:1": [1, 20]},
    }
    assert bench.say(2, m.RemoveKeys(["x", "nothing"])) == []
    assert bench.ask(3, m.HasWhat(["bob:1", "carol:1"])) == {"bob:1": {"y": [1, 20]}}
    assert bench.state.directory.members["bob:1"].nbytes == 20


def test_a_key_reported_again_counts_once(bench: Bench) -> None:
    bench.worker(1, "alice:1", {"x": 10})
    bench.say(1, m.AddKeys(["x"], [2], [30]))
    assert bench.ask(3, m.Status())["nbytes"] == 30


def test_asking_for_an_unknown_key_creates_no_entry(bench: Bench) -> None:
    assert bench.ask(1, m.WhoHas(["x"])) == {}
    assert bench.state.directory.holders == {}


def test_a_hundred_thousand_keys_come_and_go_and_leave_nothing(bench: Bench) -> None:
    bench.worker(1, "alice:1")
    bench.client(2, ALICE)
    keys = [f"{ALICE}/{number}" for number in range(100_000)]
    bench.state.handle(Received(1, m.AddKeys(keys, [1] * len(keys), [8] * len(keys))), 1.0)
    assert bench.ask(3, m.Status())["keys"] == 100_000
    bench.state.handle(Received(1, m.RemoveKeys(keys)), 2.0)
    assert (bench.state.directory.holders, bench.state.directory.members["alice:1"].sizes) == ({}, {})


# ------------------------------------------------------------------------------------------------------------- leases


def test_goodbye_ends_a_lease_at_once(bench: Bench) -> None:
    bench.worker(1, "alice:1")
    bench.client(2, ALICE)
    assert bench.say(2, m.UnregisterClient(), request=4) == [
        Broadcast([1], m.OwnerLeft(ALICE)),
        Send(2, m.Reply(None), 4),
    ]
    assert bench.event(Disconnected(2)) == []


def test_a_closed_socket_leaves_a_client_its_lease_and_no_longer(bench: Bench) -> None:
    bench.worker(1, "alice:1")
    bench.client(2, ALICE)
    assert bench.event(Disconnected(2)) == [WakeAt(1000 + LEASE_S)]
    assert bench.tick_at(1000 + LEASE_S - 1) == [WakeAt(1000 + LEASE_S)]
    assert bench.tick_at(1000 + LEASE_S) == [Broadcast([1], m.OwnerLeft(ALICE))]
    assert bench.state.leases == {}


def test_a_client_that_comes_back_within_its_lease_keeps_everything(bench: Bench) -> None:
    bench.worker(1, "alice:1", {f"{ALICE}/1": 5})
    bench.client(2, ALICE)
    bench.event(Disconnected(2))
    assert bench.say(3, m.RegisterClient(ALICE), request=1) == [Send(3, m.Reply([as_list(member("alice:1"))]), 1)]
    assert bench.tick_at(1000 + LEASE_S) == []
    assert list(bench.state.leases) == [ALICE]


def test_a_client_on_a_new_connection_replaces_its_half_open_one(bench: Bench) -> None:
    bench.client(2, ALICE)
    assert bench.say(3, m.RegisterClient(ALICE), request=1) == [
        Close(2, "replaced by a newer registration"),
        Send(3, m.Reply([]), 1),
    ]
    assert bench.event(Disconnected(2)) == []
    assert bench.state.leases[ALICE].connection == 3


def test_an_owner_known_only_from_keys_gets_one_lease_to_appear(bench: Bench) -> None:
    assert WakeAt(1000 + LEASE_S) in bench.say(1, register("alice:1", {f"{ALICE}/1": 5, f"{BOB}/1": 5, "x": 1}))
    bench.client(2, BOB)
    assert bench.tick_at(1000 + LEASE_S) == [Broadcast([1], m.OwnerLeft(ALICE))]


# ---------------------------------------------------------------------------------------------------------- borrowing


def test_a_request_waits_for_an_exported_key(bench: Bench) -> None:
    bench.worker(1, "alice:1")
    bench.client(2, ALICE)
    bench.say(2, m.Export([f"{ALICE}/1"], [1]))
    asked = m.WhoHas([f"{ALICE}/1", "x"], wait_s=60)
    assert bench.say(3, asked, request=8) == [WakeAt(1000 + SETTINGS.borrow_wait_s)]
    assert bench.say(1, m.AddKeys(["x"], [1], [1])) == []
    assert bench.tick_at(1010) == [WakeAt(1060)]
    assert bench.say(1, m.AddKeys([f"{ALICE}/1"], [1], [5])) == [
        Send(3, m.Reply({f"{ALICE}/1": {"alice:1": [1, 5]}, "x": {"alice:1": [1, 1]}}), 8)
    ]


def test_a_request_gives_up_at_its_deadline(bench: Bench) -> None:
    bench.say(3, m.WhoHas(["x"], wait_s=60), request=8)
    assert bench.tick_at(1010) == [WakeAt(1060)]
    assert bench.tick_at(1060) == [Send(3, m.Reply({}), 8)]


def test_a_key_that_its_living_owner_never_exported_is_waited_for_a_short_time_only(bench: Bench) -> None:
    bench.client(2, ALICE)
    bench.say(3, m.WhoHas([f"{ALICE}/1"], wait_s=60), request=8)
    assert bench.tick_at(1000 + SETTINGS.borrow_wait_s) == [Send(3, m.Reply({}), 8), WakeAt(1060)]


def test_an_export_that_arrives_late_makes_the_request_wait_on(bench: Bench) -> None:
    bench.client(2, ALICE)
    bench.say(3, m.WhoHas([f"{ALICE}/1"], wait_s=60), request=8)
    bench.say(2, m.Export([f"{ALICE}/1"], [1]))
    assert bench.tick_at(1000 + SETTINGS.borrow_wait_s) == [WakeAt(1060)]


def test_borrowers_get_the_attempt_that_counts_and_no_other(bench: Bench) -> None:
    key = f"{ALICE}/1"
    bench.worker(1, "alice:1", {key: 5})  # an attempt that was given away, or that its owner has not heard of yet
    bench.worker(4, "bob:1")
    bench.client(2, ALICE)
    bench.client(3, BOB)
    asked = bench.say(3, m.WhoHas([key], wait_s=60), request=8)
    assert not any(isinstance(what, Send) for what in asked)  # nobody said that it may be read
    assert not any(isinstance(what, Send) for what in bench.say(2, m.Export([key], [0])))  # under way
    assert not any(isinstance(what, Send) for what in bench.say(2, m.Export([key], [2])))  # not reported yet
    answer = m.Reply({key: {"bob:1": [2, 5]}})
    assert bench.say(4, m.AddKeys([key], [2], [5])) == [Send(3, answer, 8)]
    assert bench.ask(3, m.WhoHas([key], wait_s=60)) == {key: {"bob:1": [2, 5]}}
    for by_hand in (m.WhoHas([key]), m.WhoHas([key], wait_s=60)):  # what is where
        assert bench.ask(5, by_hand) == {key: {"alice:1": [1, 5], "bob:1": [2, 5]}}


def test_an_attempt_that_is_there_already_is_given_as_soon_as_it_counts(bench: Bench) -> None:
    key = f"{ALICE}/1"
    bench.worker(1, "alice:1", {key: 5})
    bench.client(2, ALICE)
    bench.client(3, BOB)
    bench.say(3, m.WhoHas([key], wait_s=60), request=8)
    assert Send(3, m.Reply({key: {"alice:1": [1, 5]}}), 8) in bench.say(2, m.Export([key], [1]))


def test_a_key_that_is_held_but_that_nobody_exported_or_named_is_no_ones_to_borrow(bench: Bench) -> None:
    key = f"{ALICE}/1"
    bench.worker(1, "alice:1", {key: 5})
    bench.client(2, ALICE)
    bench.client(3, BOB)
    bench.say(3, m.WhoHas([key], wait_s=60), request=8)
    assert Send(3, m.Reply({}), 8) in bench.tick_at(1000 + SETTINGS.borrow_wait_s)
    bench.say(2, m.Publish("table", key, [key]), request=1)
    assert bench.ask(3, m.WhoHas([key], wait_s=60)) == {key: {"alice:1": [1, 5]}}
    bench.say(2, m.Unpublish("table"))
    assert bench.state.names.kept == {}


def test_what_a_client_took_back_while_it_was_away_is_not_exported_when_it_returns(bench: Bench) -> None:
    bench.client(2, ALICE)
    bench.say(2, m.Export([f"{ALICE}/1"], [1]))
    bench.event(Disconnected(2))
    bench.client(5, ALICE)
    assert bench.state.borrowing.exported == {}


def test_a_withdrawn_key_answers_with_its_error_those_who_wait_and_those_who_come_later(bench: Bench) -> None:
    bench.client(2, ALICE)
    bench.say(2, m.Export([f"{ALICE}/1"], [1]))
    bench.say(3, m.WhoHas([f"{ALICE}/1"], wait_s=60), request=8)
    answer = m.Reply({f"{ALICE}/1": b"error"})
    assert bench.say(2, m.Withdraw([f"{ALICE}/1"], [b"error"])) == [Send(3, answer, 8)]
    assert bench.say(4, m.WhoHas([f"{ALICE}/1"], wait_s=60), request=2) == [Send(4, answer, 2)]


def test_a_key_that_its_owner_released_is_found_as_long_as_it_has_a_name(bench: Bench) -> None:
    key = f"{ALICE}/1"
    bench.client(2, ALICE)
    bench.worker(1, "alice:1", {key: 1})
    bench.say(2, m.Export([key], [1]))
    bench.say(2, m.Publish("table", key, [key]), request=1)
    bench.say(2, m.Withdraw([key], [b""]))
    found = {key: {"alice:1": [1, 1]}}
    assert bench.ask(3, m.WhoHas([key], wait_s=60)) == found
    bench.say(3, m.Unpublish("table"), request=1)
    assert bench.ask(3, m.WhoHas([key], wait_s=60)) == {key: b""}


def test_who_waits_for_a_named_key_that_is_released_before_it_was_reported_waits_on(bench: Bench) -> None:
    key = f"{ALICE}/1"
    bench.client(2, ALICE)
    bench.client(3, BOB)
    bench.worker(1, "alice:1")
    bench.say(2, m.Export([key], [1]))
    bench.say(2, m.Publish("table", key, [key]), request=1)
    bench.say(3, m.WhoHas([key], wait_s=60), request=8)
    assert bench.say(2, m.Withdraw([key], [b""])) == []
    assert Send(3, m.Reply({key: {"alice:1": [1, 1]}}), 8) in bench.say(1, m.AddKeys([key], [1], [1]))


def test_an_owner_that_leaves_ends_the_waiting_for_its_keys(bench: Bench) -> None:
    bench.client(2, ALICE)
    bench.say(2, m.Export([f"{ALICE}/1"], [1]))
    bench.say(3, m.WhoHas([f"{ALICE}/1"], wait_s=60), request=8)
    assert bench.say(2, m.UnregisterClient()) == [Send(3, m.Reply({}), 8)]


def test_a_center_that_was_stopped_at_its_start_waits_for_owners_from_then_on() -> None:
    bench = Bench()
    bench.state = CenterState(started=0.0)
    asked = bench.say(3, m.WhoHas([f"{ALICE}/1"], wait_s=60), request=8)
    assert not [said for said in asked if isinstance(said, Send)], "its owner may still register again"


def test_a_key_of_an_owner_that_nobody_knows_is_lost_at_once(bench: Bench) -> None:
    assert bench.ask(3, m.WhoHas([f"{ALICE}/1"], wait_s=60)) == {}


def test_a_center_that_just_started_gives_unknown_owners_time_to_come_back() -> None:
    bench = Bench(now=1.0)
    assert bench.say(3, m.WhoHas([f"{ALICE}/1"], wait_s=60), request=8) == [WakeAt(1 + SETTINGS.borrow_wait_s)]


def test_a_waiting_request_leaves_with_its_connection(bench: Bench) -> None:
    bench.say(3, m.WhoHas(["x"], wait_s=60), request=8)
    assert bench.event(Disconnected(3)) == []
    assert (bench.state.borrowing.waiters, bench.state.borrowing.waiting_for) == ({}, {})
    bench.worker(1, "alice:1", {"x": 1})


def test_requests_that_wait_are_bounded() -> None:
    bench = bounded(borrowers_waiting_max=1)
    bench.say(3, m.WhoHas(["x"], wait_s=60), request=8)
    assert bench.ask(3, m.WhoHas(["y"], wait_s=60)) == {}


def test_withdrawals_and_exports_are_remembered_within_bounds() -> None:
    bench = bounded(withdrawn_keys_max=2, exported_keys_max=3)
    bench.client(2, ALICE)
    keys = [f"{ALICE}/{n}" for n in range(5)]
    bench.say(2, m.Export(keys, [0] * 5))
    assert list(bench.state.borrowing.exported[ALICE]) == keys[2:]
    bench.say(2, m.Withdraw(keys, [b""] * 5))
    assert list(bench.state.borrowing.withdrawn[ALICE]) == keys[3:]
    assert bench.state.borrowing.exported[ALICE] == {}


def test_requests_that_were_answered_leave_no_alarms_behind(bench: Bench) -> None:
    bench.client(2, ALICE)
    bench.say(3, m.WhoHas(["never"], wait_s=600), request=8)
    for n in range(1000):
        bench.say(3, m.WhoHas([f"{ALICE}/{n}"], wait_s=600), request=9)
        bench.say(2, m.Withdraw([f"{ALICE}/{n}"], [b"gone"]))
    assert len(bench.state._alarms) < 100
    assert bench.tick_at(bench.now + 600) == [Send(3, m.Reply({}), 8)]


def test_clients_that_come_and_go_leave_no_alarms_behind(bench: Bench) -> None:
    for connection in range(2, 1000):
        bench.client(connection, ALICE)
        bench.event(Disconnected(connection))
    assert len(bench.state._alarms) < 100
    bench.worker(1, "alice:1")
    assert bench.tick_at(bench.now + LEASE_S) == [Broadcast([1], m.OwnerLeft(ALICE))]


def test_ping_status_and_terminate(bench: Bench) -> None:
    bench.worker(1, "alice:1", {"x": 10})
    bench.say(1, m.ReportLoad(1, 2, 10, 0, ["module.f"]))
    assert bench.ask(3, m.Ping()) == "pong"
    status = bench.ask(3, m.Status())
    assert (status["keys"], status["nbytes"], status["uptime_s"]) == (1, 10, 1000.0)
    assert status["members"][0]["running_names"] == ["module.f"]
    assert bench.say(3, m.Terminate(), request=1) == [Send(3, m.Reply(None), 1), End()]
