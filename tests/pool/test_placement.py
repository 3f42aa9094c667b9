"""Queues of ready tasks, and what moves between workers."""

from __future__ import annotations

from typing import Any

from distributed.config import SETTINGS
from distributed.pool.events import Send, WakeAt
from distributed.pool.placement import Placement
from distributed.pool.tasks import DONE, READY, Duration, Kind, Options, Task
from distributed.pool.view import WorkerView
from distributed.wire.messages import Member, Recall

ALICE, BOB = "alice:1", "bob:1"


def placement(*addresses: str, ncores: int = 1) -> Placement:
    placed = Placement(SETTINGS)
    for address in addresses:
        add(placed, address, ncores)
    return placed


def add(placed: Placement, address: str, ncores: int = 1) -> None:
    view = WorkerView(Member(address, "one", address.partition(":")[0], ncores, 10**9))
    placed.workers[address] = view
    placed.admit(view)


def kind(mean_s: float | None = None, **options: Any) -> Kind:
    duration = Duration()
    duration.mean_s = mean_s
    return Kind(b"f", b"code", "f", False, Options(**options), duration)


def task(name: str, kind: Kind, *inputs: Task) -> Task:
    made = Task(name, kind, b"args", inputs)
    made.status = READY
    return made


def value(name: str, nbytes: int, *holders: str) -> Task:
    made = Task(name, None, None)
    made.status, made.nbytes, made.holders = DONE, nbytes, set(holders)
    return made


def give(placed: Placement, now: float = 0.0) -> dict[str, list[str]]:
    """Let every worker take what it has room for, as the pool's mind does."""
    given: dict[str, list[str]] = {}
    for view, batch in placed.batches(now):
        view.send(batch, now)
        given.setdefault(view.member.address, []).extend(task.key for task in batch)
    return given


def test_the_last_tasks_are_spread_evenly():
    placed, fast = placement(ALICE, BOB), kind(mean_s=0.0001)
    placed.place_anywhere([task(str(n), fast) for n in range(40)], 0.0)
    assert {address: len(keys) for address, keys in give(placed).items()} == {ALICE: 20, BOB: 20}


def test_the_window_is_bounded_in_bytes_of_arguments():
    placed, fast = placement(ALICE), kind(mean_s=0.0001)
    tasks = [task(str(n), fast) for n in range(100)]
    for made in tasks:
        made.args = bytes(SETTINGS.window_bytes_max // 10)
    placed.workers[ALICE].send(tasks[:1], 0.0)
    placed.place_anywhere(tasks[1:], 0.0)
    assert len(give(placed)[ALICE]) == 9


def test_what_is_sent_to_an_idle_worker_is_bounded_in_bytes_too():
    placed, fast = placement(ALICE), kind(mean_s=0.0001)
    tasks = [task(str(n), fast) for n in range(100)]
    for made in tasks:
        made.args = bytes(SETTINGS.window_bytes_max // 10)
    placed.place_anywhere(tasks, 0.0)
    assert len(give(placed)[ALICE]) == 10


def test_inputs_that_travel_along_count():
    placed, fast, small = placement(ALICE), kind(mean_s=0.0001), value("x", 1)
    small.holders, small.outcome = None, bytes(SETTINGS.window_bytes_max // 10)
    placed.place_anywhere([task(str(n), fast, small) for n in range(100)], 0.0)
    assert len(give(placed)[ALICE]) == 9
    view = placed.workers[ALICE]
    small.holders = {ALICE}  # it is made again, and large now
    for under_way in list(view.under_way.values()):
        view.remove(under_way)
    assert view.bytes_under_way == 0


def test_tasks_that_are_larger_than_the_window_go_one_by_one_while_a_core_is_idle():
    placed, fast = placement(ALICE, ncores=2), kind(mean_s=0.0001)
    tasks = [task(str(n), fast) for n in range(5)]
    for made in tasks:
        made.args = bytes(SETTINGS.window_bytes_max + 1)
    placed.place_anywhere(tasks, 0.0)
    batches = []
    for view, batch in placed.batches(0.0):
        view.send(batch, 0.0)
        batches.append(len(batch))
    assert batches == [1, 1]


def test_a_single_task_waits_while_coroutines_fill_the_window_of_bytes_of_a_worker_with_an_idle_core():
    placed, plain = placement(ALICE), kind()
    coroutine = Kind(b"g", b"code", "g", True, Options(), Duration())
    heavy = task("heavy", coroutine)
    heavy.args = b"x" * (SETTINGS.window_bytes_max - 10)
    placed.place_anywhere([heavy], 0.0)
    give(placed)
    small = task("small", plain)
    assert placed.idle_worker(small) is placed.workers[ALICE]
    small.args = b"x" * 11
    assert placed.idle_worker(small) is None


def test_coroutines_take_no_core_and_are_sent_many_at_a_time():
    placed, plain = placement(ALICE), kind()
    coroutine = Kind(b"g", b"code", "g", True, Options(), Duration())
    placed.place_anywhere([task(f"c{n}", coroutine) for n in range(SETTINGS.asynchronous_tasks_max + 5)], 0.0)
    assert len(give(placed)[ALICE]) == SETTINGS.asynchronous_tasks_max
    placed.unplaced.take_all()
    placed.place_anywhere([task(f"p{n}", plain) for n in range(5)], 0.0)
    assert give(placed) == {ALICE: ["p0", "p1"]}


def test_a_batch_is_of_one_kind():
    placed, first, second = placement(ALICE), kind(mean_s=0.0001), kind(mean_s=0.0001)
    placed.place_anywhere([task("x", first), task("y", first)], 0.0)
    placed.place_anywhere([task("z", second)], 0.0)
    batches = []
    for view, batch in placed.batches(0.0):
        view.send(batch, 0.0)
        batches.append({task.kind for task in batch})
    assert batches[-1] == {second}
    assert all(len(kinds) == 1 for kinds in batches)


def test_what_was_sent_before_and_comes_back_does_not_wait_behind_everything_else():
    placed, one = placement(ALICE), kind(mean_s=1.0)
    placed.place_anywhere([task(str(n), one) for n in range(100)], 0.0)
    moved, urgent = task("moved", one), task("urgent", kind(mean_s=1.0, priority=-1))
    moved.attempt = 2
    for made in (moved, urgent):
        placed.place(made, 0.0)
    sent = give(placed)
    assert sent == {ALICE: ["urgent", "moved"]}


def test_what_is_assigned_to_one_worker_is_not_given_to_another():
    placed, large = placement(ALICE, BOB), value("x", 10**6, ALICE)
    for number in range(4):
        placed.place(task(str(number), kind(), large), 0.0)
    assert give(placed) == {ALICE: ["0", "1"]}


def test_a_task_whose_inputs_travel_along_may_run_anywhere():
    placed, small = placement(ALICE), value("x", 1)
    small.holders, small.outcome = None, b"v"
    placed.place(task("y", kind(), small), 0.0)
    assert [task.key for task in placed.unplaced] == ["y"]


def test_wishes_are_names_or_addresses_and_hold_against_inputs():
    placed, large = placement(ALICE, BOB), value("x", 10**6, ALICE)
    placed.place(task("by name", kind(workers=frozenset(["bob"])), large), 0.0)
    placed.place(task("by address", kind(workers=frozenset([BOB])), large), 0.0)
    assert [task.key for task in placed.workers[BOB].assigned] == ["by name", "by address"]
    wake = placed.place(task("stranded", kind(workers=frozenset(["carol"])), large), 5.0)
    assert wake == WakeAt(5.0 + SETTINGS.unmet_demand_grace_s)
    assert placed.take_reachable() == []
    add(placed, "carol:1")
    assert [task.key for task in placed.take_reachable()] == ["stranded"]
    assert placed.stranded == {}


def test_an_assigned_task_leaves_a_worker_that_turns_out_to_be_slow():
    placed, large, slow = placement(ALICE, BOB), value("x", 10**6, ALICE), kind(mean_s=1.0)
    for number in range(4):
        placed.place(task(str(number), slow, large), 0.0)
    assert give(placed)[ALICE] == ["0", "1"]
    assert placed.balance(0.0) == [WakeAt(SETTINGS.move_wait_min_s)]
    assert give(placed) == {BOB: ["3"]}, "the one that would wait longest"


def test_the_last_task_of_a_queue_does_not_count_itself_among_those_it_waits_for():
    placed, large, quick = placement(ALICE, BOB), value("x", 10**6, ALICE), kind(mean_s=0.02)
    for number in range(4):
        placed.place(task(str(number), quick, large), 0.0)
    assert give(placed)[ALICE] == ["0", "1"]
    placed.balance(0.0)
    assert give(placed) == {BOB: ["3"]}, "it would have waited 60 ms"
    placed.workers[BOB].remove(next(iter(placed.workers[BOB].under_way.values())))
    placed.balance(0.0)
    assert give(placed) == {}, "the next one only 40 ms"
    assert [task.key for task in placed.workers[ALICE].assigned] == ["2"]


def test_of_equally_calm_workers_the_one_on_the_machine_of_the_inputs_is_preferred():
    placed, large = placement("bob:1", "alice:1", "bob:2"), value("x", 10**9, "bob:1")
    placed.workers["bob:1"].send([task(str(number), kind(mean_s=1.0)) for number in range(2)], 0.0)
    placed.place(task("y", kind(), large), 0.0)
    assert [task.key for task in placed.workers["bob:2"].assigned] == ["y"]


def test_one_recall_at_a_time():
    placed, slow = placement(ALICE, BOB), kind(mean_s=1.0)
    placed.workers[ALICE].send([task(str(number), slow) for number in range(9)], 0.0)
    assert placed.balance(0.0) == [Send(ALICE, Recall(4))]
    assert placed.balance(0.0) == []


def test_nothing_moves_where_everybody_is_busy_or_nobody_is():
    placed, slow = placement(ALICE, BOB), kind(mean_s=1.0)
    assert placed.balance(0.0) == []
    for view in placed.workers.values():
        view.send([task(f"{view.member.name} {number}", slow) for number in range(3)], 0.0)
    assert placed.balance(0.0) == []
