"""A worker that leaves: what it asks whom, what it does without an answer, and when it goes."""

from __future__ import annotations

import dataclasses

import pytest

from distributed.wire.messages import (
    AddKeys,
    Attach,
    DeleteData,
    HandedOver,
    HandOver,
    Keep,
    Leaving,
    Offer,
    OwnerLeft,
    Pin,
    Recalled,
    RemoveKeys,
    ReportLoad,
)
from distributed.worker.events import (
    CenterConnected,
    CenterLost,
    ClientDisconnected,
    ExecutorEnded,
    Fetch,
    Fetched,
    Kill,
    Leave,
    LeaveAsked,
    Put,
    Remove,
    Say,
    Send,
    ToCenter,
)
from tests.worker.bench import ALICE, BOB, SETTINGS, Bench, compute, finished, key, needs

A, B = key("a"), key("b")
LOOK_S, RETRY_S = 2 * SETTINGS.drain_interval_s, 1.5 * SETTINGS.drain_retry_s
LEAVING = [ToCenter(Leaving()), Send(ALICE, Leaving())]


def made(**options):
    """A worker that knows the center and a client."""
    bench = Bench(**options)
    bench.on(CenterConnected())
    bench.know()
    bench.client(Attach(ALICE))
    bench.wait(1)
    return bench


@pytest.fixture
def bench():
    """It holds two values."""
    bench = made()
    put(bench, "a")
    put(bench, "b", 1000)
    bench.wait(1)
    return bench


def put(bench, name, nbytes=5, path="", owner=ALICE):
    bench.on(Put(owner, [f"{owner}/{name}" if owner else name], [nbytes], [None if path else bytes(nbytes)], [path]))


def leave(bench):
    """Without what is said about it."""
    return [what for what in without_reports(bench.on(LeaveAsked())) if not isinstance(what, Say)]


def look(bench, seconds=LOOK_S):
    """What is done at the next look, without reports."""
    out = without_reports(bench.wait(seconds))
    return [what for what in out if not (isinstance(what, Say) and what.text.startswith("left after "))]


def without_reports(out):
    return [what for what in out if not isinstance(getattr(what, "message", None), (AddKeys, RemoveKeys, ReportLoad))]


def handing(bench):
    """The owner needs both values, and the center has been asked to find somebody."""
    leave(bench)
    bench.client(Keep([A, B]))
    assert look(bench) == [ToCenter(HandOver([A, B], [1, 1], [5, 1000]))]


# ----------------------------------------------------------------------------------------------------- what is offered


def test_who_has_nothing_goes_at_once_without_a_word():
    bench = made()
    assert bench.on(LeaveAsked()) == [*LEAVING, Leave()]


def test_everybody_is_told_and_owners_are_asked(bench):
    said, *out = bench.on(LeaveAsked())
    assert said == Say("leaving: 0 tasks to end or give back, 2 values to look after; a second signal ends it at once")
    assert out == [*LEAVING, Send(ALICE, Offer([A, B], [1, 1]))]
    assert look(bench) == [], "they are asked once"


def test_what_nobody_needs_is_deleted_and_then_it_goes(bench):
    leave(bench)
    bench.client(DeleteData([A, B], [1, 1]))
    assert look(bench) == [Leave()]


def test_the_last_line_tells_how_long_it_took(bench):
    leave(bench)
    bench.client(DeleteData([A, B]))
    assert without_reports(bench.wait(LOOK_S)) == [Say("left after 0.0 s"), Leave()]


def test_what_is_left_when_it_has_to_end_at_once_is_told(bench):
    bench.client(compute("c"))
    leave(bench)
    departure = bench.state.departure
    assert departure.cut_short() == "ended at once, leaving behind 1 task and 2 values (1005 B)"
    bench.client(DeleteData([A, B]))
    bench.done([2])
    bench.client(DeleteData([key("c")]))
    assert departure.cut_short() == "", "nothing was"
    look(bench)
    assert (departure.is_gone, departure.cut_short()) == (True, "")


def test_what_is_needed_is_handed_over_then_deleted_by_its_owner_then_it_goes(bench):
    handing(bench)
    bench.center(HandedOver([A, B], [], 1))
    assert look(bench) == [], "the owner must learn where they are first"
    bench.client(DeleteData([A, B], [1, 1]))
    assert look(bench) == [Say("handed over 2 values (1005 B)"), Leave()]


def test_an_owner_that_does_not_delete_what_others_hold_is_reminded(bench):
    handing(bench)
    bench.center(HandedOver([A, B], [], 1))
    assert look(bench, RETRY_S) == [Send(ALICE, Offer([A, B], [1, 1], handed=True))]
    assert look(bench, RETRY_S) == [Send(ALICE, Offer([A, B], [1, 1], handed=True))]


def test_what_nobody_owns_is_handed_to_the_center_and_deleted_here():
    bench = made()
    put(bench, "x", owner="")
    assert leave(bench) == [*LEAVING, ToCenter(HandOver(["x"], [1], [5]))]
    bench.center(HandedOver(["x"], [], 1))
    assert look(bench) == [Say("handed over 1 value (5 B)"), Leave()]


def test_what_its_owner_released_and_a_name_keeps_is_handed_over(bench):
    bench.center(Pin("table", A, {A: 1}))
    bench.client(DeleteData([A, B]))
    assert ToCenter(HandOver([A], [1], [5])) in leave(bench)
    bench.center(HandedOver([A], [], 2))
    assert look(bench)[-1] == Leave()
    assert bench.state.store.entries == {}


def test_a_value_that_comes_while_it_leaves_is_offered_as_well():
    bench = made()
    bench.client(compute("a"))
    assert bench.on(LeaveAsked())[1:] == LEAVING
    bench.done([2])
    assert look(bench) == [Send(ALICE, Offer([A], [1]))]


def test_many_are_asked_about_in_portions():
    bench = made(settings=dataclasses.replace(SETTINGS, offered_keys_max=2))
    for name in "abcde":
        put(bench, name)
    offers = [what.message.keys for what in leave(bench)[2:]]
    assert offers == [[A, B], [key("c"), key("d")], [key("e")]]
    bench.on(ClientDisconnected(ALICE))
    assert [what.message.keys for what in look(bench)] == offers, "and so is the center"


def test_a_newer_attempt_is_another_value_and_handed_over_once_more(bench):
    handing(bench)
    bench.center(HandedOver([A, B], [], 1))
    bench.client(DeleteData([B]))
    bench.state.store.add_unused(A, 2, 7, b"renewed")
    assert look(bench) == [ToCenter(HandOver([A], [2], [7]))]


# --------------------------------------------------------------------------------------------------------------- tasks


def test_tasks_go_back_and_the_one_that_runs_ends():
    bench = made()
    bench.know(mean_us=60_000)
    bench.client(compute("abc"))
    out = leave(bench)
    assert [what.message for what in out if isinstance(what, Send)] == [Leaving(), Recalled([key("c")], [1])]
    assert ToCenter(Leaving()) in out
    assert look(bench, 10) == []
    assert bench.client(compute("d")) == [Send(ALICE, Recalled([key("d")], [1]))], "nor does any other begin"
    bench.done([3])
    bench.done([4])
    assert look(bench) == [Send(ALICE, Offer([A, B], [1, 1]))]
    bench.client(DeleteData([A, B]))
    assert look(bench) == [Leave()]


def test_a_task_whose_input_is_on_its_way_goes_back_and_the_input_is_not_kept():
    bench = made()
    [fetch] = bench.client(compute("b", inputs={0: [needs("x")]}))
    assert isinstance(fetch, Fetch)
    out = leave(bench)
    assert Send(ALICE, Recalled([B], [1])) in out
    assert out[-1] == Leave(), "nothing is left to wait for"
    bench.on(Fetched(fetch.fetch, [5], [None], ["/store/x"]))
    assert bench.state.store.entries == {}


def test_an_input_that_only_a_task_here_has_is_nobody_elses_matter():
    bench = made()
    [fetch] = bench.client(compute("b", inputs={0: [needs("x", client=BOB)]}))
    bench.on(Fetched(fetch.fetch, [5], [b"value"], [""]))
    assert leave(bench) == LEAVING, "its owner does not know that it is here"
    bench.client(Attach(BOB), BOB)
    assert look(bench) == [Send(BOB, Leaving())]


def test_a_task_that_waits_for_its_code_goes_back():
    bench = made()
    bench.client(compute("z", function=b"z" * 16))
    assert leave(bench) == [*LEAVING, Send(ALICE, Recalled([key("z")], [1])), Leave()]


def test_when_the_time_is_over_what_runs_is_stopped_and_goes_back(bench):
    bench.client(compute("c"))
    leave(bench)
    assert [what for what in look(bench, SETTINGS.drain_timeout_s) if isinstance(what, (Kill, Leave))] == [Kill(1)]
    [back] = [what for what in bench.on(ExecutorEnded(1, signal=9, serial=2)) if isinstance(what, Send)]
    assert (back.client, back.message.operation, back.message.kind) == (ALICE, "failed", "requeue")
    assert look(bench)[-2:] == [Say("leaving behind 2 values (1005 B): the time is over"), Leave()]


def test_a_task_that_may_run_only_once_is_not_given_back_when_it_is_stopped():
    bench = made()
    bench.client(compute("c", once=True))
    leave(bench)
    look(bench, SETTINGS.drain_timeout_s)
    out = bench.on(ExecutorEnded(1, signal=9, serial=2))
    [failed] = [what.message for what in out if isinstance(what, Send)]
    assert (failed.operation, failed.kind) == ("failed", "crashed")
    assert look(bench) == [Leave()]


def test_an_executor_that_will_not_die_holds_nobody_up():
    bench = made()
    bench.client(compute("c"))
    leave(bench)
    out = look(bench, SETTINGS.drain_timeout_s + 2 * SETTINGS.drain_kill_s)
    assert [what for what in out if not isinstance(what, ToCenter)] == [
        Kill(1),
        Say("leaving 1 task that did not end in time"),
        Leave(),
    ]


def test_no_value_is_waited_for_when_the_time_is_over(bench):
    handing(bench)
    out = look(bench, SETTINGS.drain_timeout_s)
    assert out[-2:] == [Say("leaving behind 2 values (1005 B): the time is over"), Leave()]
    assert look(bench, 100) == [], "once"


# --------------------------------------------------------------------------------------------- nobody has room, or time


def test_without_another_worker_it_goes_and_says_what_it_leaves(bench):
    handing(bench)
    bench.center(HandedOver([], [A, B], 0))
    assert look(bench) == [Say("leaving behind 2 values (1005 B): there is no other worker"), Leave()]


def test_what_nobody_had_room_for_is_asked_about_again(bench):
    handing(bench)
    bench.center(HandedOver([A], [B], 1, "bob:1 is full"))
    bench.client(DeleteData([A], [1]))
    assert look(bench) == []
    assert look(bench, RETRY_S) == [ToCenter(HandOver([B], [1], [1000]))]
    bench.center(HandedOver([B], [], 1))
    bench.client(DeleteData([B], [1]))
    assert look(bench)[-1] == Leave()


def test_the_reason_is_said_when_nobody_had_room_until_the_end(bench):
    handing(bench)
    bench.center(HandedOver([], [A, B], 1, "bob:1 is full"))
    said = []
    for _ in range(round(SETTINGS.drain_timeout_s)):
        if any(isinstance(what, ToCenter) and isinstance(what.message, HandOver) for what in look(bench, 1)):
            said += bench.center(HandedOver([], [A, B], 1, "bob:1 is full"))
    bench.wait(10)
    assert said == []
    assert bench.state.departure.is_gone
    assert bench.state.departure._last_words(bench.now) == ["leaving behind 2 values (1005 B): bob:1 is full"]


def test_what_is_said_of_values_that_nobody_asked_about_counts_for_nothing(bench):
    leave(bench)
    bench.center(HandedOver([A, "other/1"], [B, "other/2"], 1))
    departure = bench.state.departure
    assert (departure.handed, departure.refused, departure.handed_count) == ({}, {}, 0)


def test_the_answer_about_a_value_that_was_deleted_meanwhile_holds_nothing_up(bench):
    handing(bench)
    bench.client(DeleteData([A, B]))
    assert look(bench) == [Leave()]
    assert bench.center(HandedOver([A], [B], 1)) == []


# ------------------------------------------------------------------------------------------------ the center is away


def test_while_the_center_is_away_values_stay_and_after_a_while_it_goes(bench):
    bench.on(CenterLost())
    assert leave(bench) == [Send(ALICE, Leaving()), Send(ALICE, Offer([A, B], [1, 1]))]
    bench.client(Keep([A, B]))
    assert look(bench, SETTINGS.drain_center_s - 1) == []
    assert look(bench, 2) == [Say("leaving behind 2 values (1005 B): the center is away"), Leave()]


def test_a_center_that_comes_back_is_asked(bench):
    bench.on(CenterLost())
    leave(bench)
    bench.client(Keep([A, B]))
    look(bench, SETTINGS.drain_center_s - 1)
    [registered] = bench.on(CenterConnected())
    assert registered.message.leaving
    assert look(bench) == [ToCenter(HandOver([A, B], [1, 1], [5, 1000]))]
    assert look(bench, SETTINGS.drain_center_s) == []


def test_a_center_that_went_with_the_question_is_asked_again(bench):
    handing(bench)
    bench.on(CenterLost())
    assert look(bench, 1) == []
    bench.on(CenterConnected())
    assert look(bench) == [ToCenter(HandOver([A, B], [1, 1], [5, 1000]))]
    bench.center(HandedOver([A, B], [], 1))
    bench.client(DeleteData([A, B]))
    assert look(bench)[-1] == Leave()


def test_while_the_center_is_away_what_runs_is_waited_for(bench):
    bench.client(compute("c"))
    leave(bench)
    bench.client(DeleteData([A, B]))
    bench.on(CenterLost())
    assert look(bench, SETTINGS.drain_center_s + 1) == []
    assert bench.done([2])[0] == finished("c")
    assert look(bench)[-1] == Leave()


def test_other_workers_may_not_have_found_a_center_yet_that_was_started_again(bench):
    handing(bench)
    bench.on(CenterLost())
    bench.on(CenterConnected())
    asked = [ToCenter(HandOver([A, B], [1, 1], [5, 1000]))]
    assert look(bench) == asked
    bench.center(HandedOver([], [A, B], 0))
    assert look(bench) == [], "nobody else is there: yet"
    assert look(bench, RETRY_S) == asked
    bench.center(HandedOver([A, B], [], 1))
    bench.client(DeleteData([A, B]))
    assert look(bench)[-1] == Leave()


def test_nobody_who_comes_to_a_center_that_was_started_again_is_waited_for_without_end(bench):
    handing(bench)
    bench.on(CenterLost())
    bench.on(CenterConnected())
    look(bench)
    bench.center(HandedOver([], [A, B], 0))
    out = []
    for _ in range(round(SETTINGS.drain_center_s) + 1):
        out += look(bench, 1)
        if not bench.state.departure.is_gone:
            bench.center(HandedOver([], [A, B], 0))
    assert out[-2:] == [Say("leaving behind 2 values (1005 B): there is no other worker"), Leave()]


# ------------------------------------------------------------------------------------------------------------- owners


def test_an_owner_that_comes_while_it_leaves_is_told_and_asked(bench):
    bench.on(ClientDisconnected(ALICE))
    assert leave(bench) == [ToCenter(Leaving()), ToCenter(HandOver([A, B], [1, 1], [5, 1000]))], "it may come back"
    bench.client(Attach(ALICE))
    assert look(bench) == [Send(ALICE, Leaving())]
    bench.center(HandedOver([], [A, B], 1, "bob:1 is full"))
    assert look(bench, RETRY_S) == [Send(ALICE, Offer([A, B], [1, 1]))], "perhaps it does not need them"
    bench.client(Keep([A]))
    bench.client(DeleteData([B]))
    assert look(bench) == [ToCenter(HandOver([A], [1], [5]))]


def test_an_owner_that_went_and_came_back_is_asked_again(bench):
    leave(bench)
    bench.client(Keep([A]))
    bench.on(ClientDisconnected(ALICE))
    assert look(bench)[0] == ToCenter(HandOver([A, B], [1, 1], [5, 1000]))
    bench.center(HandedOver([A, B], [], 1))
    bench.client(Attach(ALICE))
    assert look(bench) == [Send(ALICE, Leaving())]
    assert look(bench, RETRY_S) == [Send(ALICE, Offer([A, B], [1, 1], handed=True))]


def test_an_owner_that_is_away_does_not_keep_what_others_hold(bench):
    handing(bench)
    bench.on(ClientDisconnected(ALICE))
    bench.center(HandedOver([A, B], [], 1))
    assert look(bench) == [Say("handed over 2 values (1005 B)"), Leave()]


def test_the_values_of_a_client_that_is_gone_for_good_are_nobodys(bench):
    handing(bench)
    bench.center(OwnerLeft(ALICE))
    bench.on(ClientDisconnected(ALICE))
    assert look(bench) == [Leave()]


def test_a_release_in_the_middle_of_it_is_heard(bench):
    handing(bench)
    bench.client(DeleteData([A]))
    bench.center(HandedOver([B], [A], 1, "bob:1 is full"))
    bench.client(DeleteData([B]))
    assert look(bench)[-1] == Leave()


def test_a_value_that_is_named_after_it_was_released_in_the_middle_is_kept_by_others(bench):
    leave(bench)
    bench.center(Pin("table", A, {A: 1}))
    bench.client(DeleteData([A, B]))
    assert look(bench) == [ToCenter(HandOver([A], [1], [5]))]


# ------------------------------------------------------------------------------------------------------------ the rest


def test_to_be_asked_twice_changes_nothing(bench):
    leave(bench)
    assert bench.on(LeaveAsked()) == []
    assert look(bench) == []


def test_files_of_what_others_hold_are_removed():
    bench = made()
    bench.on(Put("", ["x"], [100_000], [None], ["/store/x"]))
    leave(bench)
    bench.center(HandedOver(["x"], [], 1))
    assert look(bench) == [Remove("/store/x"), Say("handed over 1 value (97.7 KiB)"), Leave()]


def test_keep_and_handed_over_mean_nothing_to_who_stays(bench):
    assert bench.client(Keep([A])) == bench.center(HandedOver([A], [], 1)) == []
    assert sorted(bench.state.store.entries) == [A, B]


def test_a_crash_while_it_leaves_is_told_as_ever_and_a_fresh_executor_gets_nothing():
    bench = made()
    bench.client(compute("a"))
    leave(bench)
    out = bench.on(ExecutorEnded(1, signal=11, serial=2))
    assert [what.message.kind for what in out if isinstance(what, Send)] == ["crashed"]
    assert [what for what in bench.client(compute("b")) if not isinstance(what, Send)] == []
    assert look(bench) == [Leave()]
