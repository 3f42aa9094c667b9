"""The worker's mind: events in, instructions out."""

import dataclasses

import pytest

from distributed.errors import ProtocolError
from distributed.wire.messages import (
    NO_INPUT,
    NO_ROOM,
    NOBODY,
    AddKeys,
    Attach,
    Cancel,
    CancelRunning,
    DefineFunction,
    DeleteData,
    Failed,
    Hold,
    NeedFunction,
    NeedRoom,
    Outcomes,
    OwnerLeft,
    Pin,
    Recall,
    Recalled,
    Register,
    RemoveKeys,
    Room,
    Unpin,
    WorkerLeft,
)
from distributed.worker.events import (
    Allocate,
    Allocated,
    AskRunning,
    CenterConnected,
    ClientDisconnected,
    ExecutorEnded,
    ExecutorStarted,
    Fetch,
    Fetched,
    FetchFailed,
    FromClient,
    FromExecutor,
    Give,
    HangUp,
    Kill,
    LeaveAsked,
    Log,
    Put,
    Remove,
    Running,
    Send,
    Spawn,
    Spill,
    SpillFailed,
    ToCenter,
)
from tests.worker.bench import ALICE, BOB, HOLDER, OTHER, SETTINGS, Bench, F, G, compute, finished, key, needs, run


@pytest.fixture
def bench():
    return Bench()


# ------------------------------------------------------------------------------------------------------- plain tasks


def test_a_task_is_given_and_its_result_is_reported_and_stored(bench):
    assert bench.client(compute("a", code=b"code")) == [run("a", 1, code=b"code")]
    assert bench.done([1]) == [finished("a")]
    assert bench.state.store.get(key("a"), 1).data == b"v"
    assert bench.state.tasks == {}


def test_code_goes_to_each_executor_once():
    bench = Bench(ncores=2)
    out = bench.client(compute("abc", code=b"code"))
    assert out == [run("a", 1, 1, code=b"code"), run("b", 2, 2, code=b"code")]
    assert bench.done([2], executor=2, durations_us=[5000]) == [finished("b", durations_us=[5000]), run("c", 3, 2)]


def test_code_that_is_not_known_is_asked_for_once_and_tasks_wait_for_it(bench):
    assert bench.client(compute("a")) == [Send(ALICE, NeedFunction(F))]
    assert bench.client(compute("b")) == []
    assert bench.client(compute("c", client=BOB), BOB) == [Send(BOB, NeedFunction(F))]
    assert bench.client(Cancel([key("b")], [1])) == []
    assert bench.client(DefineFunction(F, b"code")) == [run("a", 1, code=b"code")]
    assert bench.done([1]) == [finished("a"), run("c", 2, client=BOB)]


def test_what_a_function_needs_is_asked_for_and_goes_along_once(bench):
    needed = {G: b""}
    assert bench.client(compute("a", code=b"code", needs=needed)) == [Send(ALICE, NeedFunction(G))]
    assert bench.client(compute("b", needs=needed)) == []
    assert bench.client(DefineFunction(G, b"first")) == [run("a", 1, code=b"code", needs={G: b"first"})]
    assert bench.done([1]) == [finished("a"), run("b", 2, needs={G: b""})]


def test_what_is_needed_goes_along_once_however_large_it_is(bench):
    large = bytes(SETTINGS.functions_cached_bytes_max // 3)
    needed = {G: large, b"h" * 16: large}
    assert bench.client(compute("a", code=b"code", needs=needed)) == [run("a", 1, code=b"code", needs=needed)]
    assert bench.client(compute("b", needs=dict.fromkeys(needed, b""))) == []
    assert bench.done([1]) == [finished("a"), run("b", 2, needs=dict.fromkeys(needed, b""))]


def test_a_function_waits_until_it_and_all_that_it_needs_is_here(bench):
    third = b"3" * 16
    asked = bench.client(compute("ab", needs={G: b"first", third: b""}))
    assert asked == [Send(ALICE, NeedFunction(F)), Send(ALICE, NeedFunction(third))]
    assert bench.client(DefineFunction(F, b"code")) == []
    assert bench.client(Cancel([key("b")], [1])) == []
    given = bench.client(DefineFunction(third, b"third"))
    assert given == [run("a", 1, code=b"code", needs={G: b"first", third: b"third"})]


@pytest.mark.parametrize("needs", [{G: "code"}, {"name": b"code"}, {G: 1}])
def test_needs_that_are_no_hashes_and_code_are_refused(bench, needs):
    with pytest.raises(ProtocolError, match="needs"):
        bench.client(compute("a", code=b"code", needs=needs))


def test_code_is_cached_within_bounds():
    bench = Bench(settings=dataclasses.replace(SETTINGS, functions_cached_max=2))
    for function in (b"1", b"2", b"3"):
        bench.client(compute([function.decode()], function=function * 16, code=b"code"))
        bench.done([int(function)])
    assert bench.client(compute("a", function=b"1" * 16)) == [Send(ALICE, NeedFunction(b"1" * 16))]


def test_while_its_duration_is_unknown_one_task_of_a_function_is_under_way(bench):
    bench.client(compute("abc", code=b"code"))
    assert bench.done([1]) == [finished("a"), run("bc", 2)]


def test_about_two_milliseconds_are_under_way(bench):
    bench.know(mean_us=500)
    names = list("abcdefgh")
    assert bench.client(compute(names)) == [run("abcd", 2)]
    assert bench.done([2, 3], durations_us=[500, 500]) == [
        finished("ab", durations_us=[500, 500]),
        run("ef", 6),
    ]


def test_what_there_is_is_spread_over_the_executors():
    bench = Bench(ncores=2)
    bench.know(mean_us=10)
    assert bench.client(compute("abcd")) == [run("ab", 2, 1), run("cd", 4, 2, code=b"code")]


def test_at_most_once_means_alone():
    bench = Bench()
    bench.know(mean_us=1)
    assert bench.client(compute("abc", once=True)) == [run("a", 2)]
    assert bench.done([2]) == [finished("a"), run("b", 3)]
    bench.client(compute("d"))
    assert bench.done([3]) == [finished("b"), run("c", 4)]


def test_lower_priority_runs_sooner(bench):
    bench.client(compute("a", code=b"code"))
    bench.client(compute("b", priority=1))
    bench.client(compute("c", priority=0))
    bench.client(compute("d", priority=-1))
    assert bench.done([1], durations_us=[60_000]) == [finished("a", durations_us=[60_000]), run("d", 2)]


def test_one_short_task_waits_at_a_busy_executor_while_there_are_others(bench):
    bench.know(mean_us=10_000)
    assert bench.client(compute("abcd")) == [run("a", 2), run("b", 3)]
    assert bench.done([2], durations_us=[10_000]) == [finished("a", durations_us=[10_000]), run("c", 4)]
    assert bench.done([3], durations_us=[10_000]) == [finished("b", durations_us=[10_000])]
    assert bench.done([4], durations_us=[10_000]) == [finished("c", durations_us=[10_000]), run("d", 5)]


def test_large_values_are_not_sent_back_and_handles_inside_are(bench):
    bench.know()
    bench.client(compute("abc"))
    large = b"l" * 5000
    contains = {1: [["other/1", 1, 5, []]]}
    out = bench.done([2, 3, 4], [b"a", b"b", large], contains=contains)
    message = out[0].message
    assert message.keys == [key("a"), key("b"), key("c")]
    assert message.values == [b"a", b"b", None]
    assert message.contains == {1: [["other/1", 1, 5, []]]}
    assert bench.state.store.memory_bytes == 5002


def test_an_exception_is_passed_on_unread(bench):
    bench.client(compute("a", code=b"code"))
    (send,) = bench.done([1], errors={0: b"packed"})
    assert send == Send(ALICE, Failed(key("a"), 1, "raised", b"packed", send.message.detail, []))
    assert send.message.detail["worker"] == "127.0.0.1:1"
    assert bench.state.store.entries == {}


def test_one_message_for_each_client(bench):
    bench.know(mean_us=1)
    bench.client(compute("ab"))
    bench.client(compute("c", client=BOB), BOB)
    bench.client(compute("d"))
    out = bench.done([2, 3, 4, 5])
    assert out == [finished("abd"), finished("c", BOB)]


def test_a_newer_attempt_replaces_an_older_one_and_old_messages_are_ignored(bench):
    bench.know(mean_us=60_000)
    bench.client(compute("ab"))
    assert bench.client(compute("b", attempt=2)) == []
    assert bench.client(compute("b", attempt=1)) == []
    assert bench.client(Cancel([key("b")], [1])) == []
    bench.done([2], durations_us=[60_000])
    assert bench.done([3], durations_us=[60_000]) == [finished("b", attempt=2, durations_us=[60_000])]


def test_an_attempt_that_runs_is_killed_when_a_newer_one_comes(bench):
    bench.client(compute("a", code=b"code"))
    assert bench.client(compute("a", attempt=2)) == [AskRunning(1)]
    assert bench.on(Running(1, 1, 99.0)) == [Kill(1)]
    assert bench.on(ExecutorEnded(1, serial=1, signal=9)) == [Spawn(2)]
    assert bench.on(ExecutorStarted(2, 7)) == [run("a", 2, 2, code=b"code", attempts={0: 2})]
    assert bench.done([2], executor=2) == [finished("a", attempt=2)]


def test_the_last_queued_tasks_are_given_back(bench):
    bench.client(compute("abcd", code=b"code"))
    assert bench.client(Recall(2)) == [Send(ALICE, Recalled([key("d"), key("c")], [1, 1]))]
    assert bench.client(Recall(9)) == [Send(ALICE, Recalled([key("b")], [1]))]
    assert bench.done([1]) == [finished("a")]


def test_outcomes_in_any_order_are_those_of_their_tasks(bench):
    bench.know()
    bench.client(compute("abcdef"))
    assert bench.done([4, 5, 99, 2]) == [finished("cda")]
    assert bench.done([7, 3]) == [finished("fb")]
    assert bench.done([6, 6]) == [finished("e")]
    assert bench.state.tasks == {}


def test_tasks_of_several_messages_end_in_one_batch_and_each_client_hears_of_its_own(bench):
    bench.know(mean_us=1)
    bench.client(compute("ab"))
    bench.client(compute("cd", client=BOB), BOB)
    bench.client(compute("ef"))
    serials = [2, 3, 4, 5, 6, 7]
    out = bench.done(serials, [b"%d" % n for n in serials], durations_us=serials)
    assert [(send.client, send.message.keys, send.message.values, send.message.durations_us) for send in out] == [
        (ALICE, [key(n) for n in "abef"], [b"2", b"3", b"6", b"7"], [2, 3, 6, 7]),
        (BOB, [key(n, BOB) for n in "cd"], [b"4", b"5"], [4, 5]),
    ]


def test_an_error_among_results_fails_its_task_alone(bench):
    bench.know()
    bench.client(compute("abcd"))
    failed, done = bench.done([2, 3, 4, 5], errors={1: b"packed"})
    assert (failed.message.key, failed.message.kind) == (key("b"), "raised")
    assert done == finished("acd")


def test_a_message_may_name_what_is_here_already_and_what_is_new_twice(bench):
    bench.know(mean_us=60_000)
    bench.client(compute("abc"))
    message = compute("bxbxy", inputs={3: [needs("z", inline=b"zet")]})
    bench.client(dataclasses.replace(message, attempts=[1, 1, 2, 2, 1]))
    assert sorted(bench.state.tasks) == [key(name) for name in "abcxy"]
    ended = []
    for serial in range(2, 7):
        for instruction in bench.done([serial], durations_us=[60_000]):
            if isinstance(instruction, Send):
                ended += zip(instruction.message.keys, instruction.message.attempts, strict=True)
    assert sorted(ended) == [(key("a"), 1), (key("b"), 2), (key("c"), 1), (key("x"), 2), (key("y"), 1)]
    assert bench.state.tasks == {}


def test_what_a_client_gave_up_may_come_again_while_the_first_still_runs(bench):
    bench.know()
    bench.client(compute("abc"))
    bench.client(Attach(ALICE))
    bench.client(compute("abc"))
    assert bench.done([2]) == []
    assert sorted(bench.state.tasks) == [key(name) for name in "abc"]
    bench.client(Cancel([key("b")], [1]))
    assert bench.done([3, 4]) == []
    assert bench.done([5, 6, 7]) == [finished("ac")]


def test_tasks_that_wait_for_code_can_be_dropped_one_by_one(bench):
    bench.client(compute("abc"))
    bench.client(Cancel([key("b")], [1]))
    bench.client(Cancel([key("a"), key("c")], [1, 1]))
    assert bench.client(DefineFunction(F, b"code")) == []
    assert bench.state.tasks == {}


def test_a_message_can_be_given_back_in_part(bench):
    bench.know(mean_us=1000)
    bench.client(compute("abcdefg"))
    assert bench.client(Recall(2)) == [Send(ALICE, Recalled([key("g"), key("f")], [1, 1]))]
    bench.client(Cancel([key("d")], [1]))
    assert bench.client(Recall(9)) == [Send(ALICE, Recalled([key("e"), key("c")], [1, 1]))]
    assert bench.done([2, 3]) == [finished("ab")]


# ------------------------------------------------------------------------------------------------------------ inputs


def test_inputs_inline_and_here_are_passed_on_at_once(bench):
    bench.on(Put(ALICE, [key("y")], [5], [b"why"], [""]))
    inputs = {0: [needs("x", inline=b"ex"), needs("y")]}
    out = bench.client(compute("a", code=b"code", inputs=inputs))
    assert out == [run("a", 1, code=b"code", inputs={0: [[key("x"), b"ex"], [key("y"), b"why"]]})]
    assert bench.done([1]) == [finished("a")]


def test_tasks_whose_inputs_are_here_go_together_and_the_others_wait_for_theirs(bench):
    bench.know()
    bench.on(Put(ALICE, [key("y")], [5], [b"value"], [""]))
    inputs = {1: [needs("x", inline=b"ex")], 2: [needs("z")], 3: [needs("y"), needs("x", inline=b"ex")]}
    together = {0: [[key("x"), b"ex"]], 1: [[key("y"), b"value"], [key("x"), b"ex"]]}
    fetch, *gives = bench.client(compute("abcd", inputs=inputs))
    assert gives == [run("bd", 2, inputs=together), run("a", 4)]
    assert (fetch.keys, fetch.peer) == ([key("z")], HOLDER)
    assert bench.client(DeleteData([key("y")])) == []
    assert bench.done([2, 3]) == [finished("bd")]
    given = bench.on(Fetched(1, [3], [b"zet"], [""]))
    assert given == [run("c", 5, inputs={0: [[key("z"), b"zet"]]})]


def test_a_crash_takes_no_inputs_from_the_batch_mates(bench):
    bench.know()
    bench.client(compute("abc", inputs={n: [needs(str(n), inline=b"%d" % n)] for n in range(3)}))
    failed, _ = bench.on(ExecutorEnded(1, serial=3, signal=11))
    assert failed.message.key == key("b")
    again = {0: [[key("0"), b"0"]], 1: [[key("2"), b"2"]]}
    assert bench.on(ExecutorStarted(2, 5)) == [run("ac", 5, 2, code=b"code", inputs=again)]


def test_a_queued_task_can_be_dropped_from_among_tasks_with_inputs(bench):
    bench.know(mean_us=60_000)
    bench.client(compute("abcd", inputs={n: [needs(str(n), inline=b"%d" % n)] for n in range(4)}))
    assert bench.client(Cancel([key("c")], [1])) == []
    assert bench.client(Recall(1)) == [Send(ALICE, Recalled([key("d")], [1]))]
    _, give = bench.done([2], durations_us=[60_000])
    assert give == run("b", 3, inputs={0: [[key("1"), b"1"]]})


def test_tasks_with_inputs_wait_for_code_and_can_be_dropped_there(bench):
    bench.client(compute("abc", inputs={1: [needs("x", inline=b"ex")], 2: [needs("y", inline=b"why")]}))
    bench.client(Cancel([key("b")], [1]))
    (give,) = bench.client(DefineFunction(F, b"code"))
    assert give == run("c", 1, code=b"code", inputs={0: [[key("y"), b"why"]]})


def test_missing_inputs_are_fetched_once_and_listed_as_held_once(bench):
    inputs = {0: [needs("x")], 1: [needs("x"), needs("y", [OTHER])]}
    out = bench.client(compute("ab", code=b"code", inputs=inputs))
    assert out == [Fetch(1, HOLDER, [key("x")], [1], [5]), Fetch(2, OTHER, [key("y")], [1], [5])]
    given = {0: [[key("x"), b"ex"]]}
    assert bench.on(Fetched(1, [2], [b"ex"], [""])) == [run("a", 1, code=b"code", inputs=given)]
    assert bench.done([1], durations_us=[9]) == [finished("a", held=[[key("x"), 1]], durations_us=[9])]
    given = {0: [[key("x"), b"ex"], [key("y"), b"why"]]}
    assert bench.on(Fetched(2, [3], [b"why"], [""])) == [run("b", 2, inputs=given)]
    assert bench.done([2]) == [finished("b", held=[[key("y"), 1]])]
    assert bench.state.store.get(key("x"), 1).replica


def test_many_small_inputs_travel_in_few_requests():
    bench = Bench(settings=dataclasses.replace(SETTINGS, fetch_bytes_max=20))
    inputs = {0: [needs(str(n), nbytes=8) for n in range(7)]}
    out = bench.client(compute("a", code=b"code", inputs=inputs))
    assert [len(fetch.keys) for fetch in out] == [2, 2]
    (third,) = bench.on(Fetched(1, [1, 1], [b"1", b"1"], ["", ""]))
    assert third.keys == [key("4"), key("5")]


def test_the_next_holder_is_asked_when_one_fails(bench):
    inputs = {0: [needs("x", [HOLDER, OTHER])]}
    assert bench.client(compute("a", code=b"code", inputs=inputs)) == [Fetch(1, HOLDER, [key("x")], [1], [5])]
    assert bench.on(Fetched(1, [-1], [None], [""])) == [Fetch(2, OTHER, [key("x")], [1], [5])]
    (failed,) = bench.on(FetchFailed(2, "refused"))
    assert (failed.message.kind, failed.message.detail["keys"]) == ("missing", [key("x")])
    assert bench.state.tasks == {}


def test_inputs_without_a_holder_are_missing_at_once_and_the_others_are_not_fetched(bench):
    inputs = {0: [needs("x"), needs("y", [bench.member.address])]}
    out = bench.client(compute("a", code=b"code", inputs=inputs))
    assert [type(i) for i in out] == [Send]
    assert out[0].message.detail["keys"] == [key("y")]


def test_a_message_whose_columns_do_not_fit_changes_nothing(bench):
    message = compute("ab", code=b"code")
    for broken in ({"args": [b""]}, {"attempts": []}, {"inputs": {2: []}}, {"inputs": {0: [["x"]]}}):
        with pytest.raises(ProtocolError):
            bench.state.handle(FromClient(ALICE, dataclasses.replace(message, **broken)), 0.0)
    bench.state.check()
    assert bench.state.tasks == {}


def test_a_worker_that_left_is_not_asked(bench):
    inputs = {0: [needs(str(n), [HOLDER], nbytes=SETTINGS.fetch_bytes_max) for n in range(3)]}
    bench.client(compute("a", code=b"code", inputs=inputs))
    out = bench.center(WorkerLeft(HOLDER, "i2", "gone"))
    assert [send.message.detail["keys"] for send in out] == [[key("2")]]
    assert bench.on(FetchFailed(1, "gone")) == []
    assert bench.on(FetchFailed(2, "gone")) == []


def test_a_cancelled_fetch_is_dropped_when_it_comes(bench):
    inputs = {0: [needs("x", nbytes=100_000)]}
    bench.client(compute("a", code=b"code", inputs=inputs))
    assert bench.client(Cancel([key("a")], [1])) == []
    assert bench.on(Fetched(1, [100_000], [None], ["/m/v1"])) == [Remove("/m/v1")]
    assert bench.state.store.entries == {}


def test_a_replica_goes_when_nobody_will_be_told_of_it(bench):
    bench.know(mean_us=60_000)
    bench.client(compute("ab", inputs={0: [needs("x")], 1: [needs("y")]}))
    bench.on(Fetched(1, [2, 3], [b"ex", b"why"], ["", ""]))
    assert bench.client(Recall(1)) == [Send(ALICE, Recalled([key("b")], [1]))]
    assert list(bench.state.store.entries) == [key("x")]
    assert bench.client(Cancel([key("a")], [1])) == [AskRunning(1)]
    assert bench.done([2]) == []
    assert bench.state.store.entries == {}


def test_an_input_released_while_it_is_used_is_kept_until_the_end(bench):
    bench.state.rooms.reserved["/m/x"] = (("writer", 1), 0)
    bench.on(Put(ALICE, [key("x")], [100_000], [None], ["/m/x"]))
    out = bench.client(compute("a", code=b"code", inputs={0: [needs("x")]}))
    assert out == [run("a", 1, code=b"code", inputs={0: [[key("x"), "/m/x", 100_000]]})]
    assert bench.client(DeleteData([key("x")])) == []
    assert bench.done([1]) == [Remove("/m/x"), finished("a")]


def put_file(bench, name):
    bench.state.rooms.reserved[f"/m/{name}"] = (("writer", 1), 0)
    bench.on(Put(ALICE, [key(name)], [100_000], [None], [f"/m/{name}"]))


def lost(*names, refused=True):
    detail = {"keys": [key("x")], "refused": {key("x"): ["127.0.0.1:1"] if refused else []}}
    detail |= {"worker": "127.0.0.1:1", "memory_limit": 1 << 30}
    return [Send(ALICE, Failed(key(name), 1, "missing", b"", detail, [])) for name in names]


SAID = Log(f"the file of {ALICE}/x was removed or cut short: its value is lost here")


def test_an_input_whose_file_is_gone_is_lost_and_all_that_wait_to_read_it_hear_so(bench):
    """The first task was given, the second is queued, the third waits for something else, too."""
    put_file(bench, "x")
    inputs = {0: [needs("x")], 1: [needs("x")], 2: [needs("x"), needs("y")]}
    bench.client(compute("abc", code=b"code", inputs=inputs))
    assert bench.done([1], [key("x").encode()], errors={0: NO_INPUT}) == [
        SAID, *lost("b", "c"), Remove("/m/x"), *lost("a")
    ]  # fmt: skip
    assert (bench.state.tasks, bench.state.store.entries) == ({}, {})
    assert not any(want.tasks for want in bench.state.fetches.wants.values())
    (failed,) = bench.client(compute("b", attempt=2, inputs={0: [needs("x", holders=["127.0.0.1:1"])]}))
    assert failed.message.detail["refused"] == {key("x"): ["127.0.0.1:1"]}


def test_an_input_that_came_again_meanwhile_is_not_said_to_be_missing(bench):
    put_file(bench, "x")
    bench.client(compute("ab", code=b"code", inputs={0: [needs("x")]}))
    bench.client(DeleteData([key("x")]))
    put_file(bench, "x")
    assert bench.done([1], [key("x").encode()], errors={0: NO_INPUT})[2:3] == lost("a", refused=False)
    assert key("x") in bench.state.store.entries


def test_a_value_whose_file_is_gone_does_not_keep_others_from_being_spilled():
    bench = Bench(memory_limit=150_000, spill_directory="/d")
    put_file(bench, "x")
    bench.client(compute("ab", code=b"code"))
    assert bench.on(FromExecutor(1, NeedRoom(100_001))) == [Spill(1, "/m/x")]
    assert bench.on(SpillFailed(1, "/m/x is gone", is_lost=True)) == [SAID, Remove("/m/x"), Allocate(1, 100_001)]
    assert bench.state.store.moves.can_spill


def test_a_replica_of_another_client_goes_when_its_last_task_has_ended(bench):
    inputs = {0: [needs("z", client=BOB)]}
    bench.client(compute("a", code=b"code", inputs=inputs))
    bench.on(Fetched(1, [3], [b"zet"], [""]))
    assert bench.done([1]) == [finished("a")]
    assert list(bench.state.store.entries) == [key("a")]


def test_an_input_that_does_not_fit_fails_with_the_sizes():
    bench = Bench(memory_limit=200_000)
    (failed,) = bench.client(compute("a", code=b"code", inputs={0: [needs("x", nbytes=300_000)]}))
    assert failed.message.kind == "full"
    assert "293.0 KiB" in failed.message.detail["reason"]


# ---------------------------------------------------------------------------------------------------- large results


def test_a_large_result_asks_for_room_first(bench):
    bench.client(compute("a", code=b"code"))
    assert bench.on(FromExecutor(1, NeedRoom(100_000))) == [Allocate(1, 100_000)]
    assert bench.on(Allocated(1, "/m/v1")) == [Give(1, Room("/m/v1", ""))]
    (send,) = bench.done([1], [b""], nbytes=[100_000], paths={0: "/m/v1"})
    assert (send.message.values, send.message.nbytes) == ([None], [100_000])
    assert bench.state.store.get(key("a"), 1).path == "/m/v1"
    assert bench.client(DeleteData([key("a")])) == [Remove("/m/v1")]


def test_a_file_that_was_never_reserved_is_not_stored(bench):
    bench.client(compute("a", code=b"code"))
    (send,) = bench.done([1], [b""], nbytes=[100_000], paths={0: "/etc/passwd"})
    assert send.message.kind == "full"
    assert bench.state.store.entries == {}


def test_room_is_made_by_spilling_and_waited_for_when_that_fails():
    bench = Bench(memory_limit=150_000, spill_directory="/d")
    bench.client(compute("ab", code=b"code"))
    bench.on(FromExecutor(1, NeedRoom(100_000)))
    bench.on(Allocated(1, "/m/v1"))
    bench.done([1], [b""], nbytes=[100_000], paths={0: "/m/v1"})
    assert bench.on(FromExecutor(1, NeedRoom(100_001))) == [Spill(1, "/m/v1")]
    assert bench.on(SpillFailed(1, "disk full")) == []
    assert bench.wait(1.5) == [Spill(2, "/m/v1")]
    out = bench.on(SpillFailed(2, "disk full"))
    while not any(isinstance(what, Give) for what in out):
        out = [
            done for what in out if isinstance(what, Spill) for done in bench.on(SpillFailed(what.ticket, "disk full"))
        ]
        out += bench.wait(0.5)
    (give,) = [what for what in out if isinstance(what, Give)]
    assert give.message.path == ""
    assert "disk full" in give.message.reason
    (failed,) = bench.done([2], [b""], nbytes=[0], errors={0: NO_ROOM})
    assert (failed.message.kind, failed.message.detail["never"]) == ("full", False)
    assert failed.message.detail["waited_s"] >= 60
    assert "disk full" in failed.message.detail["reason"]


def test_room_is_given_in_the_order_of_the_questions(bench):
    bench.client(compute("a", code=b"code"))
    bench.on(FromExecutor(1, NeedRoom(100_000)))
    bench.on(FromExecutor(1, NeedRoom(200_000)))
    assert bench.on(FromExecutor(1, NeedRoom(2 << 30))) == []
    assert bench.on(Allocated(2, "/m/v2")) == []
    first, second, third = bench.on(Allocated(1, "/m/v1"))
    assert (first, second) == (Give(1, Room("/m/v1", "")), Give(1, Room("/m/v2", "")))
    assert third.message.path == ""


def test_room_that_comes_when_its_coroutine_was_cancelled_is_given_back(bench):
    bench.client(compute("ab", code=b"code", asynchronous=True))
    executor = next(n for n, one in bench.state.dispatch.executors.items() if one.asynchronous)
    bench.on(ExecutorStarted(executor, pid=7))
    bench.on(FromExecutor(executor, NeedRoom(100_000)))
    bench.client(Cancel([key("a")], [1]))
    bench.done([1], [b""], executor=executor, errors={0: b"cancelled"})
    bench.on(Allocated(1, "/m/v1"))
    assert bench.state.store.reserved_bytes == 100_000
    out = bench.done([NOBODY], [b""], executor=executor, paths={0: "/m/v1"}, errors={0: NO_ROOM}, nbytes=[0])
    assert out == [Remove("/m/v1")]
    assert bench.state.store.reserved_bytes == 0


def test_an_executor_that_dies_leaves_no_reservation(bench):
    bench.client(compute("a", code=b"code"))
    bench.on(FromExecutor(1, NeedRoom(100_000)))
    bench.on(Allocated(1, "/m/v1"))
    out = bench.on(ExecutorEnded(1, serial=1, signal=11))
    assert out[0] == Remove("/m/v1")
    assert bench.state.store.reserved_bytes == 0


# ------------------------------------------------------------------------------------------------- crash and cancel


def test_only_the_task_that_was_running_failed_when_its_executor_died(bench):
    bench.know()
    bench.client(compute("abcd"))
    bench.done([2])
    out = bench.on(ExecutorEnded(1, serial=3, signal=11, peak_bytes=7, stderr_tail="oh", stack="where"))
    detail = {"signal": 11, "exit_code": 0, "peak_bytes": 7, "stderr_tail": "oh", "stack": "where"}
    detail |= {"worker": "127.0.0.1:1", "memory_limit": 1 << 30, "cause": "", "task_memory_limit": 0}
    assert out == [Send(ALICE, Failed(key("b"), 1, "crashed", b"", detail, [])), Spawn(2)]
    assert bench.on(ExecutorStarted(2, 5)) == [run("cd", 6, 2, code=b"code")]


def test_inputs_survive_the_executor_that_had_them(bench):
    bench.know()
    bench.on(Put(ALICE, [key("x")], [2], [b"ex"], [""]))
    bench.client(compute("ab", inputs={0: [needs("x")], 1: [needs("x")]}))
    out = bench.on(ExecutorEnded(1, serial=2, exit_code=1))
    assert out[0].message.key == key("a")
    assert bench.on(ExecutorStarted(2, 5)) == [run("b", 4, 2, code=b"code", inputs={0: [[key("x"), b"ex"]]})]


def test_what_an_executor_says_after_its_end_is_ignored(bench):
    bench.client(compute("a", code=b"code"))
    bench.on(ExecutorEnded(1, serial=1, signal=9))
    assert bench.done([1]) == []


def test_an_at_most_once_task_is_never_queued_again(bench):
    bench.client(compute("a", code=b"code", once=True))
    out = bench.on(ExecutorEnded(1, serial=0, signal=9))
    assert out[0].message.kind == "crashed"


def test_a_task_whose_executors_always_die_unseen_fails_in_the_end(bench):
    bench.client(compute("a", code=b"code"))
    kinds = []
    for executor in range(1, 10):
        out = bench.on(ExecutorEnded(executor, serial=0, exit_code=3)) + bench.wait(20)
        kinds += [i.message.kind for i in out if isinstance(i, Send)]
        bench.on(ExecutorStarted(executor + 1, 5))
    assert kinds == ["crashed"]


def test_a_task_whose_batch_mates_crash_one_after_the_other_is_charged_for_none_of_them(bench):
    bench.know()
    names = "abcdefghijklm"
    given = bench.client(compute(names))
    crashed = []
    for executor in range(1, len(names)):
        (give,) = given
        out = bench.on(ExecutorEnded(executor, serial=give.message.serial, signal=11))
        crashed += [what.message.key for what in out if isinstance(what, Send)]
        given = bench.on(ExecutorStarted(executor + 1, 5))
    assert crashed == [key(name) for name in names[:-1]]
    assert [what.message.keys for what in given] == [[key("m")]]


def test_an_executor_that_ends_when_it_has_told_of_its_task_is_replaced_at_once(bench):
    """What a task left in it, a thread perhaps, ended it: it did start, and the next one may."""
    bench.client(compute("a", code=b"code"))
    bench.done([1])
    assert bench.on(ExecutorEnded(1, signal=9)) == [Spawn(2)]
    assert bench.state.dispatch.bad_starts == 0


def test_executors_that_do_not_start_are_tried_again_less_and_less_often():
    bench = Bench(start=False)
    pauses = []
    for executor in range(1, 12):
        (line,) = bench.on(ExecutorEnded(executor, exit_code=1, stderr_tail="no numpy"))
        assert isinstance(line, Log)
        assert "no numpy" in line.text
        before, out = bench.now, []
        while not out:
            out = bench.wait(0.1)
        assert out == [Spawn(executor + 1)]
        pauses.append(bench.now - before)
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.5
    assert pauses[-1] == pytest.approx(10, abs=0.2)


def test_a_queued_task_is_dropped_without_a_word(bench):
    bench.client(compute("abc", code=b"code"))
    assert bench.client(Cancel([key("b"), "unknown"], [1, 1])) == []
    assert bench.done([1]) == [finished("a"), run("c", 2)]


def test_a_running_task_is_killed_when_it_is_cancelled_and_its_batch_mates_go_on(bench):
    bench.know()
    bench.client(compute("abc"))
    assert bench.client(Cancel([key("b")], [1])) == [AskRunning(1)]
    assert bench.on(Running(1, 2, 99.0)) == []
    assert bench.done([2]) == [finished("a")]
    assert bench.wait(0.03) == [AskRunning(1)]
    assert bench.on(Running(1, 3, 99.0)) == [Kill(1)]
    assert bench.client(compute("d")) == []
    assert bench.on(ExecutorEnded(1, serial=3, signal=9)) == [Spawn(2)]
    assert bench.on(ExecutorStarted(2, 5)) == [run("cd", 5, 2, code=b"code")]


def test_the_outcome_of_a_cancelled_task_is_dropped(bench):
    bench.know()
    bench.client(compute("ab"))
    bench.client(Cancel([key("a")], [1]))
    bench.on(Running(1, 0, 0.0))
    assert bench.done([2, 3]) == [finished("b")]
    assert key("a") not in bench.state.store.entries


def test_a_task_that_runs_too_long_is_killed(bench):
    bench.client(compute("a", code=b"code", timeout_s=2.0))
    assert bench.wait(1.9) == []
    assert bench.wait(0.2) == [AskRunning(1)]
    assert bench.on(Running(1, 1, 100.5)) == []
    assert bench.wait(0.3) == []
    assert bench.wait(0.3) == [AskRunning(1)]
    assert bench.on(Running(1, 1, 100.5)) == [Kill(1)]
    out = bench.on(ExecutorEnded(1, serial=1, signal=9, stack="in loop()"))
    assert (out[0].message.kind, out[0].message.detail["stack"]) == ("timeout", "in loop()")


def test_one_that_was_killed_by_mistake_goes_back_to_its_owner_and_uses_up_no_attempt(bench):
    """It may have submitted tasks, which its owner ends before it runs again."""
    bench.know()
    bench.client(compute("ab"))
    bench.client(Cancel([key("a")], [1]))
    bench.on(Running(1, 2, 99.0))
    bench.done([2])
    [back, spawned] = bench.on(ExecutorEnded(1, serial=3, signal=9))
    assert (back.message.key, back.message.kind, spawned) == (key("b"), "requeue", Spawn(2))


# --------------------------------------------------------------------------------------------------------- coroutines


def coroutines(names, **options):
    return compute(names, asynchronous=True, **options)


def test_coroutines_run_many_at_a_time_in_an_executor_of_their_own():
    bench = Bench(settings=dataclasses.replace(SETTINGS, asynchronous_tasks_max=2))
    assert bench.client(coroutines("abc", code=b"code")) == [Spawn(2, asynchronous=True)]
    assert bench.on(ExecutorStarted(2, 9)) == [run("ab", 1, 2, code=b"code")]
    assert bench.done([2], executor=2) == [finished("b"), run("c", 3, 2)]


def test_a_cancelled_coroutine_is_asked_to_end_and_killed_when_it_does_not(bench):
    bench.client(coroutines("ab", code=b"code"))
    bench.on(ExecutorStarted(2, 9))
    assert bench.client(Cancel([key("a")], [1])) == [Give(2, CancelRunning([1]))]
    assert bench.wait(0.9) == []
    assert bench.wait(0.2) == [Kill(2)]
    [back] = bench.on(ExecutorEnded(2, signal=9))
    assert (back.message.key, back.message.kind) == (key("b"), "requeue"), "its owner ends what it submitted"


def test_a_coroutine_that_ends_when_asked_to_harms_nobody(bench):
    bench.client(coroutines("ab", code=b"code", timeout_s=1.0))
    bench.on(ExecutorStarted(2, 9))
    assert bench.wait(1.1) == [Give(2, CancelRunning([1, 2]))]
    out = bench.done([1], errors={0: b"cancelled"}, executor=2)
    assert out[0].message.kind == "timeout"
    bench.done([2], errors={0: b"cancelled"}, executor=2)
    assert bench.wait(2) == []


# ------------------------------------------------------------------------------------------------ clients and center


def test_attach_stops_tasks_and_keeps_what_is_stored(bench):
    bench.on(Put(ALICE, [key("x")], [2], [b"ex"], [""]))
    bench.on(Put("", ["mine"], [2], [b"ex"], [""]))
    bench.client(compute("ab", code=b"code"))
    assert bench.client(Attach(ALICE)) == [AskRunning(1)]
    assert list(bench.state.store.entries) == [key("x"), "mine"]
    assert bench.state.held_of(ALICE) == [[key("x"), 1]]
    assert bench.state.tasks == {}


def test_a_client_that_went_away_has_time_to_come_back(bench):
    bench.on(Put(ALICE, [key("x")], [2], [b"ex"], [""]))
    bench.client(compute("ab", code=b"code"))
    assert bench.on(ClientDisconnected(ALICE)) == []
    assert bench.wait(29) == []
    assert bench.wait(2) == [AskRunning(1)]
    assert bench.on(Running(1, 1, 99.0)) == [Kill(1)]
    assert bench.state.tasks == {}
    assert list(bench.state.store.entries) == [key("x")]
    bench.center(OwnerLeft(ALICE))
    assert bench.state.store.entries == {}
    bench.on(ExecutorEnded(1, serial=1, signal=9))
    assert bench.state.dispatch.queue.clients == {}


def test_a_client_whose_lease_is_over_but_who_still_talks_to_us_learns_it(bench):
    bench.client(Attach(ALICE))
    bench.client(compute("a", code=b"code"))
    assert bench.center(OwnerLeft(ALICE)) == [AskRunning(1), HangUp(ALICE)]
    assert bench.state.tasks == {}
    bench.on(ClientDisconnected(ALICE))
    bench.wait(SETTINGS.closed_client_lease_s + 1)
    assert bench.state.absent == {}


def test_published_keys_outlive_their_owner(bench):
    bench.on(Put(ALICE, [key("x"), key("y")], [2, 2], [b"ex", b"wy"], ["", ""]))
    bench.center(Pin("result", key("x"), {}))
    bench.center(OwnerLeft(ALICE))
    assert list(bench.state.store.entries) == [key("x")]
    bench.center(Unpin("result", []))
    assert bench.state.store.entries == {}


def test_a_replica_that_only_a_name_kept_goes_with_the_name(bench):
    bench.client(compute("a", code=b"code", inputs={0: [needs("z", client=BOB)]}))
    bench.on(Fetched(1, [3], [b"zet"], [""]))
    bench.center(Pin("result", f"{BOB}/z", {}))
    bench.done([1])
    assert f"{BOB}/z" in bench.state.store.entries
    bench.center(Unpin("result", [ALICE, BOB]))
    assert list(bench.state.store.entries) == [key("a")]


@pytest.mark.parametrize("how", ["told", "held"])
def test_a_copy_that_its_owner_counts_on_stays_when_the_task_that_fetched_it_is_over(bench, how):
    bench.client(compute("a", code=b"code", inputs={0: [needs("z", client=BOB)]}))
    bench.on(Fetched(1, [3], [b"zet"], [""]))
    if how == "told":
        assert bench.state.held_of(BOB) == [[f"{BOB}/z", 1]]
    else:
        bench.client(Hold([f"{BOB}/z"], [1], [b"zet"]), BOB)
    bench.done([1])
    assert f"{BOB}/z" in bench.state.store.entries


def test_what_is_here_is_reported_before_the_center_hears_that_a_name_is_known(bench):
    bench.on(CenterConnected())
    bench.on(Put("", ["c"], [1], [b"1"], [""]))
    assert bench.center(Pin("n", "c", {})) == [ToCenter(AddKeys(["c"], [1], [1]))]


def test_the_center_gets_a_snapshot_then_deltas(bench):
    bench.on(Put("", ["a", "b"], [1, 1], [b"1", b"2"], ["", ""]))
    bench.center(Pin("n", "a", {}))
    snapshot = Register(bench.member, ["a", "b"], [1, 1], [1, 1], {"n": "a"}, {"n": {"a": 0}})
    assert bench.on(CenterConnected()) == [ToCenter(snapshot)]
    bench.on(Put("", ["c", "d"], [1, 1], [b"1", b"2"], ["", ""]))
    bench.client(DeleteData(["b", "d"]), "")
    assert bench.wait(0.049) == []
    assert bench.wait(0.002) == [ToCenter(RemoveKeys(["b"])), ToCenter(AddKeys(["c"], [1], [1]))]
    assert bench.wait(0.5) == []
    (load,) = bench.wait(0.6)
    assert load.message.stored_bytes == 2


def test_clients_share_executor_seconds():
    bench = Bench()
    bench.know(mean_us=1000)
    bench.client(compute("m", client=BOB, function=G, code=b"code"), BOB)
    bench.done([2], durations_us=[100_000])
    used = {ALICE: 0.0, BOB: 0.0}
    executor = bench.state.dispatch.executors[1]
    bench.client(compute([str(n) for n in range(3000)]))
    bench.client(compute([str(n) for n in range(30)], client=BOB, function=G), BOB)
    for _ in range(1000):
        part = executor.given[0]
        duration_us = 1000 if part.function.identity == F else 100_000
        used[part.order.client] += duration_us / 1e6
        bench.now += duration_us / 1e6
        bench.state.handle(
            FromExecutor(1, Outcomes([part.serial], [b"v"], [1], [duration_us], {}, {}, {})),
            bench.now,
        )
    bench.state.check()
    assert used[ALICE] / sum(used.values()) == pytest.approx(0.5, abs=0.1)


def test_output_is_for_the_client_whose_task_runs_else_for_who_was_given_something_last(bench):
    bench.know()
    (alice,) = bench.client(compute("a"))
    (bob,) = bench.client(compute("b", client=BOB, code=b"code"), BOB)
    client_of = bench.state.client_of
    assert [client_of(1, alice.message.serial), client_of(1, bob.message.serial)] == [ALICE, BOB]
    assert [client_of(1, 0), client_of(1, 99), client_of(7, 1)] == [BOB, BOB, ""]
    bench.done([alice.message.serial])
    assert client_of(1, alice.message.serial) == BOB


def test_executors_that_cannot_be_started_are_tried_again_after_growing_pauses():
    settings = dataclasses.replace(SETTINGS, respawn_pause_s=1.0, respawn_pause_max_s=3.0)
    bench = Bench(settings=settings, start=False)
    for number, pause_s in enumerate((2.0, 3.0, 3.0), start=1):
        [said] = bench.on(ExecutorEnded(number, exit_code=1, stderr_tail="Too many open files"))
        assert isinstance(said, Log)
        assert "Too many open files" in said.text
        assert bench.wait(pause_s - 0.01) == []
        assert bench.wait(0.01) == [Spawn(number + 1)]


def test_a_value_that_was_deleted_before_it_was_put_does_not_stay(bench):
    bench.client(DeleteData([f"{ALICE}/x", "by hand"]))
    bench.on(Put(ALICE, [f"{ALICE}/x", f"{ALICE}/y"], [5, 5], [b"value", b"value"], ["", ""]))
    bench.on(Put("", ["by hand"], [5], [b"value"], [""]))
    assert sorted(bench.state.store.entries) == [f"{ALICE}/y", "by hand"]


# ---------------------------------------------------------------------------------------------------- to leave


@pytest.mark.parametrize(("count", "pause_s"), [(1, 0.02), (100_000, 0.3)])
def test_a_worker_that_leaves_looks_less_often_at_many_values(bench, monkeypatch, count, pause_s):
    """A look at all of them takes its time, and they are handed over in between."""
    keys = [key(str(number)) for number in range(count)]
    bench.state.store.add_small(keys, [1] * count, [1] * count, [b"v"] * count)
    alarms = []
    monkeypatch.setattr(bench.state.alarms, "set", lambda time_s, action: alarms.append((action, time_s)))
    bench.on(LeaveAsked())
    assert [time_s - bench.now for action, time_s in alarms if action == bench.state.departure.look] == [
        pytest.approx(pause_s)
    ]


@pytest.mark.parametrize("said", [b"\xff", "text", b"", b"alice/another"])
def test_an_executor_that_names_an_input_wrongly_costs_its_task_alone(bench, said):
    put_file(bench, "x")
    bench.client(compute("ab", code=b"code", inputs={0: [needs("x")]}))
    out = bench.done([1], [said], errors={0: NO_INPUT})
    assert [(e.message.key, e.message.kind) for e in out if isinstance(e, Send)] == [(key("a"), "crashed")]
    assert key("x") in bench.state.store.entries
