"""The pool's mind: one event in, the instructions compared, the invariants after each."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from distributed.config import SETTINGS
from distributed.errors import InitializerFailed, KeyLost, NoWorker, TaskCancelled, TaskCrashed, TaskTimeout
from distributed.pool import explain
from distributed.pool.events import (
    Borrowed,
    CancelAsked,
    CenterReached,
    CenterSaid,
    Claimed,
    Connect,
    Connected,
    Disconnect,
    Disconnected,
    Dropped,
    Exported,
    Locate,
    Located,
    Received,
    Resolved,
    Send,
    Shown,
    Stored,
    Storing,
    Submitted,
    TellCenter,
    Tick,
    Unexported,
    WakeAt,
    Wanted,
)
from distributed.pool.failures import MISSED_BY_ABSENT_MAX, MISSED_MAX
from distributed.pool.naming import NAMES_MAX
from distributed.pool.state import PoolState
from distributed.pool.tasks import DONE, FAILED, READY, RELEASED, SENT, WAITING, Duration, Kind, Options, Task
from distributed.wire.codec import decode, encode_header
from distributed.wire.exceptions import unpack_exception
from distributed.wire.messages import (
    Cancel,
    Compute,
    DefineFunction,
    DeleteData,
    Evicted,
    Export,
    Failed,
    Finished,
    Hold,
    Keep,
    Leaving,
    Member,
    Members,
    NeedFunction,
    Offer,
    Recall,
    Recalled,
    Withdraw,
    WorkerJoined,
    WorkerLeft,
)

ALICE, BOB, CAROL = "alice:1", "bob:1", "carol:1"
LARGE = 1_000_000
F = b"f" * 16


def member(address: str, incarnation: str = "one", ncores: int = 1) -> Member:
    return Member(address, incarnation, address.partition(":")[0], ncores, 10**9)


def kind(function: bytes = F, **options: Any) -> Kind:
    return Kind(function, b"code", "f", False, Options(**options), Duration())


def travelled(what: Any) -> Any:
    if hasattr(what, "message"):
        return dataclasses.replace(what, message=decode(encode_header(what.message))[0])
    return what


class Bench:
    """A pool in a world of fake connections; every message passes through the real codec, both ways."""

    def __init__(self, *addresses: str, ncores: int = 1, **settings: Any) -> None:
        self.now = 1000.0
        self.state = PoolState(dataclasses.replace(SETTINGS, **settings), self.now)
        self.kind = kind()
        self.numbers = 0
        for address in addresses:
            self.on(CenterSaid(WorkerJoined(member(address, ncores=ncores))))
            self.on(Connected(member(address, ncores=ncores)))

    def on(self, event: Any) -> list[Any]:
        out = [travelled(instruction) for instruction in self.state.handle(travelled(event), self.now)]
        self.state.check()
        return [instruction for instruction in out if not isinstance(instruction, WakeAt)]

    def task(self, *inputs: Task, kind: Kind | None = None) -> Task:
        self.numbers += 1
        return Task(f"me/{self.numbers}", kind or self.kind, b"args", inputs)

    def submit(self, *inputs: Task, kind: Kind | None = None) -> Task:
        task = self.task(*inputs, kind=kind)
        self.on(Submitted([task]))
        return task

    def stored(self, *addresses: str, nbytes: int = LARGE, contains: tuple[Task, ...] = ()) -> Task:
        self.numbers += 1
        task = Task(f"me/{self.numbers}", None, None)
        self.on(Stored(task, list(addresses), nbytes, list(contains)))
        return task

    def finish(
        self, task: Task, value: bytes | None = b"v", held: tuple[Task, ...] = (), contains: Any = ()
    ) -> list[Any]:
        """The worker that has a task reports a result: small, or (None) a large one."""
        assert task.worker is not None
        references = [[inner.key, inner.attempt] for inner in held]
        return self.on(
            Received(
                task.worker,
                Finished(
                    [task.key],
                    [task.attempt],
                    [LARGE if value is None else len(value)],
                    [value],
                    [1000],
                    {0: contains} if contains else {},
                    references,
                ),
            )
        )

    def fail(self, task: Task, kind: str, error: bytes = b"", **detail: Any) -> list[Any]:
        assert task.worker is not None
        return self.on(Received(task.worker, Failed(task.key, task.attempt, kind, error, detail, [])))

    def done(self, *inputs: Task, value: bytes | None = b"v", kind: Kind | None = None) -> Task:
        """A task that has finished."""
        task = self.submit(*inputs, kind=kind)
        self.finish(task, value)
        return task

    def cut(self, address: str, incarnation: str = "one") -> list[Any]:
        """Its connection breaks; it may be there still."""
        return self.on(Disconnected(member(address, incarnation), "the connection broke"))

    def lose(self, address: str) -> list[Any]:
        """It dies: its connections break, to us and to the center."""
        out = self.on(CenterSaid(WorkerLeft(address, "one", "it died")))
        return out + self.cut(address)


def sent(out: list[Any], message: type) -> list[Any]:
    """The messages of one class to workers, each with its address."""
    return [
        (what.address, what.message) for what in out if isinstance(what, Send) and isinstance(what.message, message)
    ]


def deleted(out: list[Any]) -> dict[str, list[str]]:
    return {address: message.keys for address, message in sent(out, DeleteData)}


def compute(tasks: list[Task], code: bytes = b"code", inputs: Any = None, **changes: Any) -> Compute:
    attempts = [task.attempt for task in tasks]
    return Compute(
        F, code, "f", [task.key for task in tasks], attempts, [b"args"] * len(tasks), inputs or {}, **changes
    )


# -------------------------------------------------------------------------------------------------- from ready to sent


def test_a_worker_that_joins_is_connected_and_then_gets_what_waits():
    bench = Bench()
    task = bench.task()
    assert bench.on(Submitted([task])) == []
    assert bench.on(CenterSaid(Members([member(ALICE)]))) == [Connect(member(ALICE))]
    assert bench.on(CenterSaid(WorkerJoined(member(ALICE)))) == []
    assert bench.on(Connected(member(ALICE))) == [Send(ALICE, compute([task]))]
    assert bench.finish(task) == [Resolved([task])]
    assert (task.status, task.outcome, bench.state.unfinished) == (DONE, b"v", 0)


def test_code_travels_once_to_each_worker_and_again_when_asked_for():
    bench = Bench(ALICE)
    bench.done()
    task = bench.task()
    assert bench.on(Submitted([task])) == [Send(ALICE, compute([task], code=b""))]
    assert bench.on(Received(ALICE, NeedFunction(F))) == [Send(ALICE, DefineFunction(F, b"code"))]


def test_one_task_more_than_cores_is_sent_until_the_duration_is_known_then_enough_for_the_window():
    bench = Bench(ALICE, ncores=2)
    tasks = [bench.task() for _ in range(1000)]
    [(_, first)] = sent(bench.on(Submitted(tasks)), Compute)
    assert first.keys == [task.key for task in tasks[:3]]
    assert len(bench.state.workers[ALICE].under_way) == 3
    bench.finish(tasks[0])  # in a millisecond
    assert len(bench.state.workers[ALICE].under_way) == 2 * SETTINGS.window_s / 0.001


def test_tasks_are_spread_evenly_over_workers():
    bench = Bench(ALICE, BOB)
    out = bench.on(Submitted([bench.task() for _ in range(4)]))
    assert {address: len(message.keys) for address, message in sent(out, Compute)} == {ALICE: 1, BOB: 1}
    assert {len(view.under_way) for view in bench.state.workers.values()} == {2}


def test_a_dependent_waits_and_a_small_input_travels_in_its_message():
    bench = Bench(ALICE)
    x = bench.submit()
    y = bench.task(x)
    assert bench.on(Submitted([y])) == []
    assert (y.status, y.missing) == (WAITING, 1)
    message = compute([y], code=b"", inputs={0: [[x.key, 1, 1, [], b"v"]]})
    assert bench.finish(x) == [Send(ALICE, message), Resolved([x])]


def test_a_large_input_brings_the_task_to_its_holder():
    bench = Bench(ALICE, BOB)
    x, y = bench.stored(BOB), bench.stored(ALICE, nbytes=LARGE // 10)
    task = bench.task(y, x)
    inputs = {0: [[y.key, 1, LARGE // 10, [ALICE], None], [x.key, 1, LARGE, [BOB], None]]}
    assert bench.on(Submitted([task])) == [Send(BOB, compute([task], inputs=inputs))]


def test_consumers_go_before_producers_and_lower_priorities_before_both():
    bench = Bench(ALICE)
    x = bench.done()
    running = [bench.submit(kind=kind()) for _ in range(2)]  # as many as there is room for
    producer, consumer, urgent = bench.task(kind=kind()), bench.task(x, kind=kind()), bench.task(kind=kind(priority=-1))
    assert bench.on(Submitted([producer, consumer, urgent])) == []
    order = []
    for _ in range(3):
        [(_, message)] = sent(bench.finish(running.pop(0)), Compute)
        running.append(next(task for task in (producer, consumer, urgent) if [task.key] == message.keys))
        order.append(running[-1])
    assert order == [urgent, consumer, producer]


# ---------------------------------------------------------------------------------------------------------- releases


def test_what_an_urgent_task_waits_for_is_urgent_too():
    bench = Bench(ALICE)
    running = bench.submit(), bench.submit()  # as many as a worker gets while nobody knows how long they take
    before, root = bench.submit(), bench.submit()
    between = bench.submit(root)
    urgent = bench.submit(between, kind=kind(priority=-1))
    order = []
    while urgent.status != DONE:
        task = next(iter(bench.state.workers[ALICE].under_way.values()))
        order.append(task)
        bench.finish(task)
        bench.state.check()
    assert order[:5] == [*running, root, between, urgent] or order.index(before) > order.index(root)
    assert order.index(root) == 2


def test_what_nobody_needs_any_more_is_deleted_in_one_batch():
    bench = Bench(ALICE, BOB)
    x, y = bench.stored(ALICE), bench.stored(ALICE)
    task = bench.submit(x, y)
    assert bench.on(Dropped([x, y])) == []
    out = bench.finish(task)
    assert deleted(out) == {ALICE: [x.key, y.key]}
    assert (x.status, y.status) == (RELEASED, RELEASED)


def test_replicas_are_deleted_where_they_were_reported():
    bench = Bench(ALICE, BOB)
    x, y = bench.stored(ALICE), bench.stored(BOB, nbytes=2 * LARGE)
    task = bench.submit(x, y)
    assert task.worker == BOB
    bench.finish(task, held=(x,))
    assert x.holders == {ALICE, BOB}
    assert bench.state.counters["bytes_moved"] == LARGE
    assert bench.state.counters["bytes_in_place"] == 2 * LARGE
    assert deleted(bench.on(Dropped([x]))) == {ALICE: [x.key], BOB: [x.key]}


def test_a_dropped_handle_of_a_small_result_deletes_it_where_it_was_made():
    bench = Bench(ALICE)
    task = bench.done()
    assert bench.on(Dropped([task])) == [Send(ALICE, DeleteData([task.key]))]


def test_the_result_of_an_attempt_that_is_not_wanted_is_deleted_with_what_was_fetched_for_it():
    bench = Bench(ALICE, BOB)
    x = bench.stored(ALICE)
    task = bench.submit(x, bench.stored(BOB, nbytes=2 * LARGE))
    bench.on(CancelAsked([task]))
    out = bench.on(Received(BOB, Finished([task.key], [1], [1], [b"v"], [10], {}, [[x.key, 1]])))
    assert out == [Send(BOB, DeleteData([task.key, x.key], [1, 1]))]
    assert x.holders == {ALICE}


def test_a_value_keeps_what_it_contains_until_it_goes():
    bench = Bench(ALICE)
    inner = bench.stored(ALICE)
    outer = bench.stored(ALICE, contains=(inner,))
    assert bench.on(Dropped([inner])) == []
    assert deleted(bench.on(Dropped([outer]))) == {ALICE: [outer.key, inner.key]}
    assert bench.state.lifetimes.shared == {}


def test_what_a_lost_value_contained_is_let_go_when_it_is_made_again():
    bench = Bench(ALICE)
    inner = bench.stored(ALICE)
    outer = bench.stored(ALICE, contains=(inner,))
    task = bench.submit(outer)
    bench.finish(task, value=None, contains=[inner.reference()])
    assert inner.users == 3
    bench.on(Wanted(task, [ALICE]))
    bench.finish(task, value=None)
    assert (task.contains, inner.users) == ((), 2)


def test_containment_a_hundred_thousand_deep_is_released():
    bench = Bench(ALICE)
    chain = [bench.stored(ALICE)]
    for _ in range(100_000):
        chain.append(Task(f"deep/{len(chain)}", None, None))
        bench.state.handle(Stored(chain[-1], [ALICE], LARGE, [chain[-2]]), bench.now)
    bench.on(Dropped(chain[:-1]))
    assert len(deleted(bench.on(Dropped(chain[-1:])))[ALICE]) == 100_001


def test_a_chain_of_a_hundred_thousand_leaves_nothing():
    bench = Bench(ALICE)
    tasks: list[Task] = []
    for _ in range(100_000):
        tasks.append(bench.task(*tasks[-1:]))
    bench.state.handle(Submitted(tasks), bench.now)
    bench.on(Dropped(tasks[:-1]))
    for task in tasks:
        finished = Finished([task.key], [1], [1], [b"v"], [10], {}, [])
        bench.state.handle(Received(ALICE, finished), bench.now)
    assert len(bench.state.lifetimes.lineage.tasks) == 99_999
    bench.on(Dropped(tasks[-1:]))
    assert not bench.state.lifetimes.lineage.tasks
    assert not bench.state.workers[ALICE].under_way
    assert all(task.args is None and not task.inputs for task in tasks)


def test_the_oldest_recipes_go_when_there_are_too_many():
    bench = Bench(ALICE, lineage_bytes_max=600)  # two of them
    x = bench.done(value=None)
    y = bench.done(x, value=None)
    z = bench.done(y, value=None)
    top = bench.done(z, value=None)
    bench.on(Dropped([x, y, z]))
    assert list(bench.state.lifetimes.lineage.tasks) == [y.key, z.key]
    bench.on(Wanted(top, [ALICE]))
    assert isinstance(top.outcome, KeyLost)
    assert str(top.outcome) == str(KeyLost(x.key))


# ---------------------------------------------------------------------------------------------------- what goes wrong


def test_a_crashed_task_is_tried_again_and_tells_the_story_of_each_attempt():
    bench = Bench(ALICE)
    task = bench.submit()
    for attempt in (1, 2):
        assert task.attempt == attempt
        out = bench.fail(task, "crashed", signal=11, stderr_tail="oh", peak_bytes=1 << 20)
        assert out == [Send(ALICE, compute([task], code=b""))]
    assert bench.fail(task, "crashed", exit_code=1) == [Resolved([task])]
    assert isinstance(task.outcome, TaskCrashed)
    assert task.outcome.key == task.key
    assert [line.partition("\n")[0] for line in task.outcome.attempts] == [
        "attempt 1: on alice:1: signal 11 (SIGSEGV), peak memory 1.0 MiB",
        "attempt 2: on alice:1: signal 11 (SIGSEGV), peak memory 1.0 MiB",
        "attempt 3: on alice:1: exit code 1",
    ]
    assert bench.state.failures.troubles == {}


def test_a_crash_in_the_initializer_is_not_the_fault_of_the_task():
    bench = Bench(ALICE)
    task = bench.submit(kind=kind(attempts=2))
    for _ in range(2):
        bench.fail(task, "crashed", exit_code=7, cause="initializer")
    assert isinstance(task.outcome, InitializerFailed)
    assert str(task.outcome).splitlines() == [
        f"the pool's initializer crashed the executor, before f ({task.key}) began",
        "  attempt 1: on alice:1: exit code 7",
        "  attempt 2: on alice:1: exit code 7",
    ]


def test_retries_repeat_what_raised_and_leave_no_trace_when_it_works():
    bench = Bench(ALICE)
    task = bench.submit(kind=kind(retries=1))
    bench.fail(task, "raised", b"first")
    assert (task.status, task.attempt) == (SENT, 2)
    bench.finish(task)
    assert bench.state.failures.troubles == {}
    other = bench.submit(kind=kind(retries=1))
    bench.fail(other, "raised", b"first")
    assert bench.fail(other, "raised", b"second") == [Resolved([other])]
    assert (other.status, other.outcome) == (FAILED, b"second")


def test_a_timeout_is_not_tried_again():
    bench = Bench(ALICE)
    task = bench.submit(kind=kind(timeout_s=2.5))
    assert bench.fail(task, "timeout") == [Resolved([task])]
    assert isinstance(task.outcome, TaskTimeout)
    assert "longer than timeout=2.5 s" in str(task.outcome)


def test_a_dependent_fails_with_the_error_of_its_input_and_its_own_inputs_are_let_go():
    bench = Bench(ALICE)
    x, z = bench.submit(), bench.stored(ALICE)
    y = bench.submit(x, z)
    bench.on(Dropped([z]))
    out = bench.fail(x, "raised", b"error")
    assert (y.status, y.outcome) == (FAILED, b"error")
    assert out == [Send(ALICE, DeleteData([z.key])), Resolved([x, y])]


def test_an_input_that_its_holder_does_not_have_is_computed_again():
    bench = Bench(ALICE, BOB)
    x = bench.done(value=None)
    task = bench.submit(x)
    out = bench.fail(task, "missing", keys=[x.key], refused={x.key: [ALICE]})
    assert deleted(out) == {ALICE: [x.key]}
    assert (x.status, x.attempt, task.status) == (SENT, 2, WAITING)
    bench.finish(x, value=None)
    assert task.status == SENT
    bench.fail(task, "crashed", signal=9)
    assert task.status == SENT, "what could not be fetched used up no attempt"


def test_a_holder_that_could_not_be_reached_keeps_its_trust_and_the_task_goes_there_after_a_pause():
    bench = Bench(ALICE, BOB)
    x, y = bench.stored(BOB), bench.stored(ALICE, nbytes=2 * LARGE)
    task = bench.submit(x, y)
    assert task.worker == ALICE
    assert bench.fail(task, "missing", keys=[x.key], refused={x.key: []}) == []
    assert (x.holders, task.status) == ({BOB}, WAITING)
    assert "could not fetch its inputs (1 time)" in explain.explain(bench.state, task, bench.now)
    bench.now += 0.11
    assert [address for address, _ in sent(bench.on(Tick()), Compute)] == [BOB]
    assert bench.finish(task) == [Resolved([task])]
    assert not bench.state.placement.near


def test_nothing_is_lost_while_a_connected_worker_holds_it_however_often_it_cannot_be_reached():
    bench = Bench(ALICE, BOB)
    x = bench.stored(BOB)
    task = bench.submit(x, kind=kind(workers=frozenset([ALICE])))
    pauses = []
    for _ in range(2 * MISSED_MAX):
        assert bench.fail(task, "missing", keys=[x.key]) == []
        began = bench.now
        while task.status != SENT:
            bench.now += 0.1
            bench.on(Tick())
        pauses.append(round(bench.now - began, 1))
    assert pauses[:7] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert x.holders == {BOB}
    bench.finish(task)
    assert bench.state.failures.troubles == {}


def test_what_only_a_worker_holds_that_nobody_reaches_is_computed_again_or_given_up():
    bench = Bench(BOB)
    x, y = bench.done(value=None), bench.stored(BOB)
    bench.on(CenterSaid(WorkerJoined(member(ALICE))))
    bench.on(Connected(member(ALICE)))
    bench.cut(BOB)
    first, second = bench.submit(x), bench.submit(y)
    for _ in range(MISSED_BY_ABSENT_MAX + 1):
        bench.fail(first, "missing", keys=[x.key])
        bench.now += 3
        bench.on(Tick())
    assert (x.status, x.worker, y.holders) == (SENT, ALICE, {BOB})
    while second.status == SENT:
        bench.fail(second, "missing", keys=[y.key])
        bench.now += 3
        bench.on(Tick())
    assert isinstance(second.outcome, KeyLost)
    assert "time and again" in str(second.outcome)


def test_a_task_that_is_cancelled_while_it_pauses_stays_so():
    bench = Bench(ALICE, BOB)
    task = bench.submit(bench.stored(BOB), kind=kind(workers=frozenset([ALICE])))
    bench.fail(task, "missing", keys=[task.inputs[0].key])
    bench.on(CancelAsked([task]))
    bench.now += 3
    assert bench.on(Tick()) == []
    assert isinstance(task.outcome, TaskCancelled)


def test_whoever_wants_a_value_whose_holder_cannot_be_reached_looks_again_after_a_pause():
    bench = Bench(ALICE)
    x = bench.stored(ALICE)
    for pause_s in (0.1, 0.2, 0.4):
        wanted = Wanted(x, [])
        assert bench.on(wanted) == []
        bench.now += 0.9 * pause_s
        bench.on(Tick())
        assert not wanted.handled
        bench.now += 0.1 * pause_s + 0.001
        assert bench.on(Tick()) == []
        assert wanted.handled
    assert x.holders == {ALICE}


def test_a_borrowed_value_whose_holder_cannot_be_reached_is_looked_for_after_a_pause():
    bench = Bench(ALICE)
    x = Task("other/1", None, None)
    x.borrowed = True
    bench.on(Borrowed(x))
    for refused in ([], ["nobody:1"], []):
        bench.on(Located(x, {"nobody:1": [1, LARGE]}))
        wanted = Wanted(x, refused)
        assert (bench.on(wanted), wanted.handled) == ([], False)
        bench.now += 3
        assert (bench.on(Tick()), wanted.handled) == ([Locate(x)], True)


def test_alarms_are_told_again_after_each_tick():
    bench = Bench(ALICE)
    early, late = Wanted(bench.stored(ALICE), []), Wanted(bench.stored(ALICE), [])
    assert WakeAt(bench.now + 0.1) in bench.state.handle(early, bench.now)
    bench.now += 0.05
    bench.state.handle(late, bench.now)
    bench.now += 0.06
    assert WakeAt(1000.0 + 0.05 + 0.1) in bench.state.handle(Tick(), bench.now)
    assert (early.handled, late.handled) == (True, False)


def test_a_value_of_another_client_is_never_deleted():
    bench = Bench(ALICE)
    x = Task("other/1", None, None)
    x.borrowed = True
    assert bench.on(Borrowed(x)) == [Locate(x)]
    bench.on(Located(x, {ALICE: [1, LARGE]}))
    task = bench.submit(x)
    assert bench.fail(task, "missing", keys=[x.key], refused={x.key: [ALICE]}) == []
    bench.now += 1
    assert bench.on(Tick()) == [Locate(x)]
    bench.on(Located(x, {ALICE: [2, LARGE]}))
    assert task.status == SENT
    assert bench.finish(task) == [Resolved([task])]
    assert bench.on(Dropped([x])) == []


def test_a_lost_worker_costs_only_those_an_attempt_that_may_have_run():
    bench = Bench(ALICE)
    bench.kind.duration.mean_s = 0.001
    tasks = [bench.task() for _ in range(3)]
    bench.on(Submitted(tasks))
    assert bench.cut(ALICE) == [Connect(member(ALICE), SETTINGS.reconnect_interval_s)]
    assert list(bench.state.failures.troubles) == [tasks[0].key]
    assert [task.status for task in tasks] == [READY] * 3
    out = bench.on(Connected(member(ALICE)))
    assert sorted(key for _, message in sent(out, Compute) for key in message.keys) == [task.key for task in tasks]


def test_what_a_lost_worker_held_is_computed_again_when_it_is_needed():
    bench = Bench(ALICE, BOB)
    x = bench.done(value=None)
    bench.lose(ALICE)
    assert not x.has_value
    task = bench.submit(x)
    assert (x.status, x.worker, x.attempt) == (SENT, BOB, 2)
    assert bench.finish(x, value=None) == [
        Send(BOB, compute([task], code=b"", inputs={0: [[x.key, 2, LARGE, [BOB], None]]}))
    ]


def test_a_task_whose_input_is_lost_while_it_is_queued_waits_again():
    bench = Bench(ALICE, BOB)
    x = bench.done(value=None)
    running = [bench.submit(kind=kind(workers=frozenset(["bob"]))) for _ in range(2)]
    queued = bench.submit(x, bench.stored(BOB, nbytes=2 * LARGE), kind=kind())
    assert queued.status == READY
    bench.lose(ALICE)
    again = bench.finish(running[0])
    assert sent(again, Compute) == [(BOB, compute([x], code=b""))]
    assert (queued.status, x.status, x.attempt) == (WAITING, SENT, 2)


def test_the_error_of_an_input_that_failed_while_its_consumer_was_queued_is_not_taken_for_its_value():
    bench = Bench(ALICE)
    x = bench.done(value=None, kind=kind(recompute=False))
    running = [bench.submit(kind=kind()) for _ in range(2)]
    queued = bench.submit(x, kind=kind())
    assert queued.status == READY
    bench.on(Wanted(x, [ALICE]))
    assert x.status == FAILED
    assert sent(bench.finish(running[0]), Compute) == []
    assert (queued.status, queued.outcome) == (FAILED, x.outcome)


@pytest.mark.parametrize("how", ["crashed", "lost", "queued"])
def test_attempts_1_is_never_run_twice(how):
    bench = Bench(ALICE)
    once = kind(attempts=1)
    tasks = [bench.task(kind=once) for _ in range(2)]
    messages = sent(bench.on(Submitted(tasks)), Compute)
    assert [message.once for _, message in messages] == [True, True]
    if how == "crashed":
        bench.fail(tasks[0], "crashed", signal=9)
        assert [task.status for task in tasks] == [FAILED, SENT]
    elif how == "lost":
        bench.lose(ALICE)
        assert [type(task.outcome) for task in tasks] == [TaskCrashed, TaskCrashed]
    else:
        bench.fail(tasks[0], "requeue")
        assert (tasks[0].status, tasks[0].attempt) == (SENT, 2), "it never began"


def test_the_lost_result_of_an_attempts_1_task_is_lost():
    bench = Bench(ALICE, BOB)
    x = bench.done(value=None, kind=kind(attempts=1))
    bench.lose(ALICE)
    y = bench.submit(x)
    assert isinstance(y.outcome, KeyLost)


def test_recompute_false_makes_a_lost_value_key_lost():
    bench = Bench(ALICE)
    x = bench.done(value=None, kind=kind(recompute=False))
    assert bench.on(Wanted(x, [ALICE])) == [Send(ALICE, DeleteData([x.key], [1]))]
    assert isinstance(x.outcome, KeyLost)


def test_a_value_that_is_lost_for_good_was_done_all_the_same_and_what_is_built_on_it_fails():
    bench = Bench(ALICE)
    x = bench.done(value=None, kind=kind(recompute=False))
    bench.lose(ALICE)
    wanted = Wanted(x, [])
    assert bench.on(wanted) == [], "its outcome was published once"
    assert (wanted.handled, x.status, x.published) == (True, FAILED, "done")
    assert isinstance(x.outcome, KeyLost)
    y = bench.submit(x)
    assert (y.published, y.outcome) == ("failed", x.outcome)
    z = bench.task()
    bench.on(Submitted([z]))
    bench.on(CancelAsked([z]))
    assert z.published == "cancelled"


def test_reviving_a_chain_fifty_thousand_deep_needs_no_deep_stack():
    bench = Bench(ALICE)
    tasks: list[Task] = []
    for _ in range(50_000):
        tasks.append(bench.task(*tasks[-1:]))
    bench.state.handle(Submitted(tasks), bench.now)
    bench.on(Dropped(tasks[:-1]))
    for task in tasks:
        finished = Finished([task.key], [1], [LARGE], [None], [10], {}, [])
        bench.state.handle(Received(ALICE, finished), bench.now)
    bench.lose(ALICE)
    bench.on(Wanted(tasks[-1], [ALICE]))
    assert bench.state.unfinished == 50_000
    assert tasks[0].status == READY
    bench.on(CancelAsked(tasks[:1]))
    assert isinstance(tasks[-1].outcome, TaskCancelled)
    assert bench.state.unfinished == 0


# ------------------------------------------------------------------------------------------------------------- cancel


def test_cancelled_tasks_are_dropped_or_revoked_and_their_dependents_say_why():
    bench = Bench(ALICE)
    running, queued, waiting = bench.submit(), bench.submit(), bench.submit()
    dependent = bench.submit(running)
    assert waiting.status == READY
    out = bench.on(CancelAsked([running, waiting]))
    assert out == [Send(ALICE, Cancel([running.key], [1])), Resolved([running, dependent, waiting])]
    assert isinstance(dependent.outcome, TaskCancelled)
    assert f"its input {running.key}" in str(dependent.outcome)
    assert queued.status == SENT
    assert bench.state.unfinished == 1
    assert bench.on(Received(ALICE, Finished([running.key], [1], [1], [b"v"], [10], {}, []))) == [
        Send(ALICE, DeleteData([running.key], [1]))
    ]


def test_the_handle_of_a_failed_task_may_go_before_it_fails():
    bench = Bench(ALICE)
    task = bench.submit()
    bench.on(Exported(task))
    bench.on(Unexported(task))
    bench.on(Dropped([task]))
    bench.fail(task, "raised", b"error")
    assert bench.state.lifetimes.shared == {}


def test_a_handle_made_while_the_last_one_goes_brings_the_value_back():
    bench = Bench(ALICE)
    x = bench.done()
    y = bench.done(x)
    bench.on(Dropped([x]))
    assert x.status == RELEASED
    bench.on(Claimed(x))
    assert (x.status, x.attempt) == (SENT, 2)
    assert y.status == DONE


# ------------------------------------------------------------------------------------------------- workers and center


def test_workers_wished_for_are_waited_for_then_there_is_no_worker():
    bench = Bench(ALICE)
    task = bench.task(kind=kind(workers=frozenset(["bob"])))
    other = bench.task(kind=kind(workers=frozenset(["carol"])))
    began = bench.now
    assert WakeAt(began + SETTINGS.unmet_demand_grace_s) in bench.state.handle(Submitted([task, other]), began)
    bench.now += 20
    assert sent(bench.on(Connected(member(BOB))), Compute) == [(BOB, compute([task]))]
    assert other.status == READY
    assert WakeAt(began + SETTINGS.unmet_demand_grace_s) in bench.state.handle(Tick(), bench.now)
    bench.now += 11
    assert bench.on(Tick()) == [Resolved([other])]
    assert isinstance(other.outcome, NoWorker)
    assert "may only run on carol" in str(other.outcome)


def test_a_worker_that_ran_dry_takes_from_a_busy_one():
    bench = Bench(ALICE, ncores=2)
    bench.kind.duration.mean_s = 0.001
    tasks = [bench.task() for _ in range(30)]
    bench.on(Submitted(tasks))
    bench.kind.duration.mean_s = 1.0  # longer than thought
    recall = bench.on(Connected(member(BOB, ncores=2)))
    assert recall == [Send(ALICE, Recall(14))]
    last = tasks[-14:]
    out = bench.on(Received(ALICE, Recalled([task.key for task in last], [1] * 14)))
    assert {address for address, _ in sent(out, Compute)} == {BOB}
    assert all(task.attempt == 2 for task in last)


def test_a_worker_that_has_nothing_to_give_back_is_not_asked_again_at_once():
    bench = Bench(ALICE, ncores=2)
    bench.kind.duration.mean_s = 0.001
    bench.on(Submitted([bench.task() for _ in range(30)]))
    bench.kind.duration.mean_s = 1.0
    bench.on(Connected(member(BOB, ncores=2)))
    assert sent(bench.on(Received(ALICE, Recalled([], []))), Recall) == []
    bench.now += SETTINGS.move_wait_min_s
    assert sent(bench.on(Tick()), Recall) == [(ALICE, Recall(14))]


def test_another_worker_on_the_same_address_replaces_the_one_that_was_there():
    bench = Bench(ALICE)
    x = bench.done(value=None)
    task = bench.submit()
    out = bench.on(CenterSaid(WorkerJoined(member(ALICE, "two"))))
    assert out == [Disconnect(ALICE), Connect(member(ALICE, "two"))]
    assert not x.has_value
    assert sent(bench.on(Connected(member(ALICE, "two"))), Compute) == [(ALICE, compute([task]))]


def test_one_connection_at_a_time_is_tried_for_an_address():
    bench = Bench()
    assert bench.on(CenterSaid(WorkerJoined(member(ALICE)))) == [Connect(member(ALICE))]
    assert bench.on(CenterSaid(WorkerLeft(ALICE, "one", "it died"))) == []
    assert bench.on(CenterSaid(WorkerJoined(member(ALICE, "two")))) == []
    assert bench.cut(ALICE) == [Connect(member(ALICE, "two"), SETTINGS.reconnect_interval_s)]
    assert bench.on(Connected(member(ALICE, "two"))) == []
    assert bench.on(CenterSaid(WorkerLeft(ALICE, "two", "it died"))) == []
    assert bench.cut(ALICE, "two") == []
    assert bench.state.workers == {}


def test_the_word_of_the_center_alone_moves_nothing():
    bench = Bench(ALICE)
    task = bench.submit()
    assert bench.on(CenterSaid(WorkerLeft(ALICE, "one", "its connection broke"))) == []
    assert bench.on(CenterSaid(Members([]))) == []
    assert task.status == SENT
    assert bench.on(CenterSaid(Members([member(ALICE)]))) == []


# ----------------------------------------------------------------------------------------------- keys that come again


def named(name: str, *inputs: Task) -> Task:
    return Task(f"me/{name}", kind(key=name), b"args", inputs)


def test_attempts_of_a_key_go_on_when_it_is_used_again():
    bench = Bench(ALICE)
    first, second = named("x"), named("x")
    bench.on(Submitted([first]))
    bench.fail(first, "crashed", signal=9)
    bench.finish(first, value=None)
    bench.on(Dropped([first]))
    [(_, message)] = sent(bench.on(Submitted([second])), Compute)
    assert (message.keys, message.attempts) == (["me/x"], [3])
    bench.finish(second)
    assert bench.state.counters["tasks"] == 2


def test_a_recipe_whose_key_was_used_again_is_followed_under_another_key():
    bench = Bench(ALICE)
    first = named("x")
    bench.on(Submitted([first]))
    bench.finish(first, value=None)
    heir = bench.done(first, value=None)
    bench.on(Dropped([first]))
    second = named("x")
    bench.on(Submitted([second]))
    bench.finish(second, value=None)
    [(_, message)] = sent(bench.on(Wanted(heir, [ALICE])), Compute)
    assert (message.keys, message.attempts) == (["me/x/1"], [2])
    bench.finish(first, value=None)
    bench.finish(heir, value=None)
    assert (second.status, second.holders) == (DONE, {ALICE})
    bench.on(Dropped([heir]))
    assert not bench.state.lifetimes.lineage.tasks


def test_names_that_were_used_are_forgotten_but_never_their_attempts():
    bench = Bench(ALICE)
    for number in range(3 * NAMES_MAX):
        task = named(str(number % 5000))
        bench.state.handle(Submitted([task]), bench.now)
        bench.state.handle(CancelAsked([task]), bench.now)
        bench.state.handle(Dropped([task]), bench.now)
    assert len(bench.state.naming) <= NAMES_MAX
    again = named("0")
    bench.on(Submitted([again]))
    assert again.attempt > 3 * NAMES_MAX // 5000


# -------------------------------------------------------------------------------------- a connection is not a worker


def test_a_broken_connection_moves_tasks_but_loses_no_data():
    bench = Bench(ALICE, BOB)
    x, task = bench.stored(ALICE), bench.submit(kind=kind(workers=frozenset([ALICE])))
    assert bench.cut(ALICE) == [Connect(member(ALICE), SETTINGS.reconnect_interval_s)]
    assert task.status == READY
    assert (x.status, x.holders) == (DONE, {ALICE}), "others can still fetch it"
    y = bench.submit(x)
    assert y.worker == BOB
    assert bench.finish(y, held=(x,)) == [Resolved([y])]
    assert x.holders == {ALICE, BOB}
    assert sent(bench.on(Connected(member(ALICE), [[x.key, 1]])), Compute) == [(ALICE, compute([task]))]
    assert deleted(bench.on(Dropped([x]))) == {ALICE: [x.key], BOB: [x.key]}


@pytest.mark.parametrize("word", ["left", "snapshot", "another", "another answers"])
def test_the_data_of_a_worker_that_is_away_is_lost_when_the_worker_is(word):
    bench = Bench(ALICE, BOB)
    x, task = bench.stored(ALICE), bench.done(value=None)
    assert task.worker == ALICE
    bench.on(Exported(task))
    bench.cut(ALICE)
    out = bench.on(
        {
            "left": CenterSaid(WorkerLeft(ALICE, "one", "it died")),
            "snapshot": CenterSaid(Members([member(BOB)])),
            "another": CenterSaid(WorkerJoined(member(ALICE, "two"))),
            "another answers": Connected(member(ALICE, "two")),
        }[word]
    )
    assert x.holders == set()
    assert (BOB, compute([task])) in sent(out, Compute) or task.worker == ALICE
    assert task.attempt == 2, "others wait for it"


def test_the_word_of_the_center_about_another_incarnation_loses_nothing():
    bench = Bench(ALICE)
    x = bench.stored(ALICE)
    bench.cut(ALICE)
    bench.on(CenterSaid(WorkerLeft(ALICE, "zero", "it died")))
    bench.on(CenterSaid(Members([member(ALICE)])))
    assert x.has_value


def test_a_worker_that_comes_back_is_asked_to_delete_what_nobody_accounts_for():
    bench = Bench(ALICE)
    kept, gone, made = bench.stored(ALICE), bench.stored(ALICE), bench.done(value=None)
    dropped, small, lent = bench.stored(ALICE), bench.done(), bench.done()
    bench.on(Exported(lent))
    moved = bench.submit()
    bench.cut(ALICE)
    assert bench.on(Dropped([dropped])) == [], "nobody can tell it"
    coming = bench.task()
    bench.on(Storing([coming]))
    listed = [[kept.key, 1], [made.key, 2], [dropped.key, 1], [small.key, 1], [lent.key, 1], [moved.key, 1]]
    out = bench.on(Connected(member(ALICE), [*listed, [coming.key, 1]]))
    assert deleted(out) == {ALICE: [made.key, dropped.key, small.key, moved.key]}
    assert (kept.holders, gone.holders, made.holders) == ({ALICE}, set(), set())
    assert lent.status == DONE
    bench.on(Stored(coming, [ALICE], LARGE, []))
    assert bench.state.lifetimes.storing == set()


def test_what_was_believed_to_be_lost_is_there_again():
    bench = Bench(ALICE)
    x, y = bench.stored(ALICE), bench.stored(ALICE)
    bench.state.lifetimes.shared.pop(y.key)
    bench.lose(ALICE)
    assert not x.has_value
    bench.on(CenterSaid(WorkerJoined(member(ALICE))))
    assert deleted(bench.on(Connected(member(ALICE), [[x.key, 1], [y.key, 1], ["me/9", 1]]))) == {ALICE: ["me/9"]}
    assert (x.holders, y.holders) == ({ALICE}, {ALICE})
    assert deleted(bench.on(Dropped([x, y]))) == {ALICE: [x.key, y.key]}


def test_what_a_worker_that_comes_back_does_not_hold_is_made_again_for_others():
    bench = Bench(ALICE)
    small, large = bench.done(), bench.done(value=None)
    bench.on(Exported(small))
    bench.on(Exported(large))
    bench.cut(ALICE)
    out = bench.on(Connected(member(ALICE), []))
    assert [message.keys for _, message in sent(out, Compute)] == [[large.key]]
    assert sent(out, Hold) == [(ALICE, Hold([small.key], [1], [b"v"]))]


def test_what_was_lost_before_it_was_lent_is_made_again_for_others_or_given_to_another_worker_if_it_is_here():
    bench = Bench(ALICE, BOB)
    large, small = bench.done(value=None), bench.done(value=b"small", kind=kind(recompute=False))
    bench.lose(ALICE)
    assert sent(bench.on(Exported(large)), Compute) == [(BOB, compute([large]))]
    small.worker = ALICE
    assert sent(bench.on(Exported(small)), Hold) == [(BOB, Hold([small.key], [1], [b"small"]))]
    bench.on(Unexported(small))
    assert deleted(bench.on(Dropped([small]))) == {BOB: [small.key]}


def test_a_small_result_that_was_deleted_when_its_worker_came_back_is_given_to_it_again_for_others():
    bench = Bench(ALICE)
    x = bench.done()
    bench.cut(ALICE)
    assert deleted(bench.on(Connected(member(ALICE), [[x.key, 1]]))) == {ALICE: [x.key]}
    out = bench.on(Exported(x))
    assert [what for what in out if isinstance(what, Send)] == [Send(ALICE, Hold([x.key], [1], [b"v"]))]


def test_a_value_that_is_stored_while_the_connection_is_broken_is_there():
    bench = Bench(ALICE)
    bench.cut(ALICE)
    x = bench.stored(ALICE)
    assert x.holders == {ALICE}
    bench.on(Connected(member(ALICE), [[x.key, 1]]))
    assert deleted(bench.on(Dropped([x]))) == {ALICE: [x.key]}


# ------------------------------------------------------------------------------------------------------- the watchdog


def test_the_watchdog_names_a_task_that_does_not_move_while_others_do():
    bench = Bench(ALICE, BOB)
    stuck = bench.submit(kind=kind(workers=frozenset([ALICE])))
    dependent = bench.submit(stuck)
    for _ in range(7):
        bench.now += SETTINGS.progress_warning_s / 5
        bench.done(kind=kind(workers=frozenset([BOB])))
        said = explain.watch(bench.state, bench.now)
        if said:
            break
    [warning] = said
    assert bench.now >= 1000 + SETTINGS.progress_warning_s
    assert stuck.key in warning.text and "runs on alice:1" in warning.text
    assert "2 tasks left: 1 at workers, 0 ready, 1 waiting for inputs" in warning.text
    assert dependent.status == WAITING
    assert explain.watch(bench.state, bench.now + 1) == [], "once in a while"


def test_the_watchdog_soon_says_that_there_is_no_worker_and_then_no_more_often_than_of_anything_else():
    bench = Bench()
    bench.now += 500
    bench.submit()
    soon = bench.now + SETTINGS.no_worker_warning_s
    assert explain.watch(bench.state, soon - 1) == []
    [warning] = explain.watch(bench.state, soon)
    assert warning.text == "f waits: no worker is connected; start one with `dworker HOST:PORT`"
    assert explain.watch(bench.state, soon + SETTINGS.progress_warning_s - 1) == []
    assert len(explain.watch(bench.state, soon + SETTINGS.progress_warning_s)) == 1


def test_the_watchdog_names_a_ready_task_that_nobody_takes():
    bench = Bench(ALICE)
    bench.now += 500
    task = bench.submit(kind=kind(workers=frozenset([BOB])))
    assert explain.watch(bench.state, bench.now + SETTINGS.progress_warning_s - 1) == []
    [warning] = explain.watch(bench.state, bench.now + SETTINGS.progress_warning_s)
    assert f"{task.key}: f may only run on bob:1" in warning.text


def test_the_watchdog_is_silent_while_everything_moves():
    bench = Bench(ALICE)
    for _ in range(10):
        bench.now += SETTINGS.progress_warning_s / 2
        bench.done()
        task = bench.submit()
        assert explain.watch(bench.state, bench.now) == []
        bench.finish(task)


# ------------------------------------------------------------------------------------------------ sharing with others


def test_exported_and_withdrawn():
    bench = Bench(ALICE)
    task = bench.submit()
    assert bench.on(Exported(task)) == [TellCenter(Export([task.key], [0]))]
    assert bench.on(Dropped([task])) == []
    counts = TellCenter(Export([task.key], [1]))
    assert bench.finish(task) == [counts, Resolved([task])]
    assert bench.on(CenterReached()) == [counts]
    assert bench.on(Unexported(task)) == [
        TellCenter(Withdraw([task.key], [b""])),
        Send(ALICE, DeleteData([task.key])),
    ]


def test_what_an_exported_value_contains_may_be_asked_for_as_long_as_it_is_contained():
    bench = Bench(ALICE)
    inner = bench.stored(ALICE)
    outer = bench.stored(ALICE, contains=(inner,))
    bench.on(Dropped([inner]))
    [shown] = [what.message for what in bench.on(Exported(outer)) if isinstance(what, TellCenter)]
    assert (shown.keys, shown.attempts) == ([outer.key, inner.key], [1, 1])
    bench.on(Dropped([outer]))
    out = [what.message for what in bench.on(Unexported(outer)) if isinstance(what, TellCenter)]
    assert out == [Withdraw([outer.key], [b""]), Withdraw([inner.key], [b""])]
    assert not bench.state.lending.visible


def test_what_a_name_stands_for_is_kept_by_no_handle_but_may_be_asked_for():
    bench = Bench(ALICE)
    task = bench.done()
    assert bench.on(Shown(task)) == [TellCenter(Export([task.key], [1]))]
    assert bench.on(Dropped([task])) == [
        Send(ALICE, DeleteData([task.key])),
        TellCenter(Withdraw([task.key], [b""])),
    ]


def test_the_center_learns_which_attempt_counts_when_an_exported_value_was_made_again():
    bench = Bench(ALICE, BOB)
    task = bench.done(value=None)
    bench.on(Exported(task))
    bench.lose(ALICE)
    assert (task.status, task.attempt) == (SENT, 2)
    assert TellCenter(Export([task.key], [2])) in bench.finish(task)


def test_borrowers_learn_why_an_exported_task_failed():
    bench = Bench(ALICE)
    task = bench.submit()
    bench.on(Exported(task))
    withdrawal = next(what for what in bench.on(CancelAsked([task])) if isinstance(what, TellCenter))
    [error] = withdrawal.message.errors
    assert isinstance(unpack_exception(error), TaskCancelled)
    assert bench.on(CenterReached()) == [TellCenter(Export([task.key], [0])), withdrawal]


def test_an_exported_value_is_made_again_or_given_to_another_worker_when_its_worker_is_lost():
    bench = Bench(ALICE, BOB)
    large, small = bench.done(value=None), bench.done()
    for task in (large, small):
        task.worker = ALICE
        bench.on(Exported(task))
    out = bench.lose(ALICE)
    assert sent(out, Hold) == [(BOB, Hold([small.key], [1], [b"v"]))]
    kept = bench.done(kind=kind(recompute=False))
    bench.on(Exported(kept))
    [withdrawal] = [what for what in bench.lose(BOB) if isinstance(what, TellCenter)]
    assert isinstance(unpack_exception(withdrawal.message.errors[0]), KeyLost)
    assert (kept.status, kept.outcome) == (DONE, b"v")


def test_a_value_that_was_being_put_on_a_worker_that_leaves_is_handed_over_as_soon_as_it_is_there():
    bench = Bench(ALICE, BOB)
    coming = bench.task()
    coming.kind = coming.args = None
    bench.on(Received(ALICE, Leaving()))
    bench.on(Storing([coming]))
    assert bench.on(Received(ALICE, Offer([coming.key], [1], False))) == []
    out = bench.on(Stored(coming, [ALICE], LARGE, []))
    assert sent(out, Keep) == [(ALICE, Keep([coming.key]))]
    assert sent(out, DeleteData) == []
    assert coming.holders == {ALICE}


def test_a_value_that_is_here_is_not_given_up_for_a_recipe_that_lacks_an_input_that_nobody_can_make_again():
    bench = Bench(ALICE)
    only_once = bench.done(value=None, kind=kind(recompute=False))
    between = bench.done(only_once)
    task = bench.done(between)
    bench.on(Exported(task))
    bench.on(Dropped([only_once, between]))
    assert task.is_repeatable
    assert between.status == only_once.status == RELEASED
    out = bench.lose(ALICE)
    assert sent(out, Compute) == []
    [withdrawal] = [what for what in out if isinstance(what, TellCenter)]
    assert isinstance(unpack_exception(withdrawal.message.errors[0]), KeyLost)
    assert (task.status, task.outcome) == (DONE, b"v")


def test_an_exported_value_is_made_again_when_its_worker_is_lost_and_the_last_copy_had_to_make_room():
    bench = Bench(ALICE, BOB)
    value, other = bench.done(value=None), bench.stored(BOB, nbytes=2 * LARGE)
    bench.on(Exported(value))
    consumer = bench.submit(value, other)
    assert consumer.worker == BOB
    bench.finish(consumer, held=(value,))
    assert value.holders == {ALICE, BOB}
    bench.on(Received(BOB, Evicted([value.key, other.key, "other/7"], [2, 2, 1])))  # of other attempts: of no concern
    assert value.holders == {ALICE, BOB}
    assert bench.on(Received(BOB, Evicted([value.key], [1]))) == []
    assert value.holders == {ALICE}
    [made_again] = sent(bench.lose(ALICE), Compute)
    assert (made_again[0], made_again[1].keys, made_again[1].attempts) == (BOB, [value.key], [2])


def test_the_last_copy_of_an_exported_value_is_made_again_when_it_has_to_make_room():
    bench = Bench(ALICE, BOB)
    value, other = bench.done(value=None), bench.stored(BOB, nbytes=2 * LARGE)
    bench.on(Exported(value))
    bench.finish(bench.submit(value, other), held=(value,))
    bench.lose(ALICE)
    assert value.holders == {BOB}
    [made_again] = sent(bench.on(Received(BOB, Evicted([value.key], [1]))), Compute)
    assert (made_again[0], made_again[1].keys, made_again[1].attempts) == (BOB, [value.key], [2])


def test_a_borrowed_value_is_located_or_fails_with_its_owners_error():
    bench = Bench(ALICE)
    found, lost = Task("other/1", None, None), Task("other/2", None, None)
    found.borrowed = lost.borrowed = True
    assert bench.on(Borrowed(found)) == [Locate(found)]
    bench.on(Borrowed(lost))
    dependent = bench.submit(lost)
    assert bench.on(Located(found, {BOB: [1, 5], ALICE: [2, LARGE]})) == [Resolved([found])]
    assert (found.attempt, found.holders, found.nbytes) == (2, {ALICE}, LARGE)
    assert bench.on(Located(lost, {}, b"error")) == [Resolved([lost, dependent])]
    assert dependent.outcome == b"error"
    assert bench.on(Wanted(found, [ALICE])) == []
    bench.now += 1
    assert bench.on(Tick()) == [Locate(found)]


def test_our_own_key_borrowed_by_name_does_not_hold_a_replica_for_us():
    bench = Bench(ALICE, BOB)
    bench.done()
    borrowed = Task("me/1", None, None)
    borrowed.borrowed = True
    bench.on(Borrowed(borrowed))
    bench.on(Located(borrowed, {ALICE: [1, 1]}))
    task = bench.submit(borrowed, bench.stored(BOB))
    assert task.worker == BOB
    assert deleted(bench.finish(task, held=(borrowed,))) == {BOB: ["me/1"]}


def test_a_worker_that_is_away_by_now_is_not_told_that_what_it_offered_is_needed() -> None:
    bench = Bench(ALICE, BOB)
    task = Task("me/x", None, None)
    bench.on(Storing([task]))
    bench.on(Received(ALICE, Leaving()))
    assert bench.on(Received(ALICE, Offer([task.key], [1]))) == []
    bench.cut(ALICE)
    assert sent(bench.on(Stored(task, [ALICE], LARGE, [])), Keep) == []
