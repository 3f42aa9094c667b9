"""The pool's mind: tasks of tasks are the owner's, are told of, and end with the attempt that submitted them."""

from __future__ import annotations

from typing import Any

import pytest

from distributed.errors import NestingTooDeep, ProtocolError
from distributed.pool.events import CancelAsked, Disconnected, Dropped, Received, Send
from distributed.pool.tasks import DONE, FAILED, READY, SENT, Duration, Kind, Options, Task
from distributed.wire.codec import decode, encode_header
from distributed.wire.exceptions import unpack_exception
from distributed.wire.messages import (
    AdoptInner,
    AskMember,
    Cancel,
    Compute,
    Failed,
    InnerOutcomes,
    Members,
    Ping,
    ReleaseInner,
    SubmitInner,
    TaskSays,
    TellTask,
    Waits,
)
from tests.pool.test_state import ALICE, Bench, F, member

G = b"g" * 16


def inner(*names: str, inputs: Any = None, **options: Any) -> SubmitInner:
    keys = [f"me/{name}" for name in names]
    return SubmitInner(G, b"inner code", "g", False, keys, [b"args"] * len(keys), inputs or {}, options)


def says(bench: Bench, task: Task, said: Any, attempt: int | None = None) -> list[Any]:
    message = TaskSays(task.key, task.attempt if attempt is None else attempt, 5, 77, encode_header(said))
    return bench.on(Received(task.worker or ALICE, message))


def sent(out: list[Any], message: type) -> list[Any]:
    return [what.message for what in out if isinstance(what, Send) and isinstance(what.message, message)]


def told(out: list[Any]) -> list[Any]:
    """What tasks are told."""
    return [decode(what.message.said)[0] for what in out if isinstance(getattr(what, "message", None), TellTask)]


@pytest.fixture
def bench() -> Bench:
    return Bench(ALICE)


def of(bench: Bench, key: str) -> Task:
    task = bench.state.lifetimes.shared[key]
    return task


def test_a_task_of_a_task_is_sent_before_its_like_and_its_parent_is_told(bench):
    parent = bench.submit()
    (compute,) = sent(says(bench, parent, inner("1@1.1")), Compute)
    assert (compute.keys, compute.name) == (["me/1@1.1"], "g")
    assert compute.priority < 0
    out = bench.finish(of(bench, "me/1@1.1"))
    assert told(out) == [InnerOutcomes(["me/1@1.1"], [1], [1], ["done"], [b"v"], {}, [])]


def test_a_window_full_of_others_does_not_hold_up_what_a_task_waits_for(bench):
    bench.kind.duration.learn(1e-5, 1)
    tasks = [bench.submit() for _ in range(3000)]
    parent = tasks[0]
    assert parent.status == SENT
    assert sent(says(bench, parent, inner("1@1.1")), Compute)
    says(bench, parent, Waits(True))
    grandparent = of(bench, "me/1@1.1")
    assert sent(says(bench, grandparent, inner("1@1.1@1.1")), Compute)


def test_a_task_that_waits_uses_no_core(bench):
    parent = bench.submit()
    view = bench.state.workers[ALICE]
    assert view.on_cores == 1
    says(bench, parent, Waits(True))
    assert view.on_cores == 0
    says(bench, parent, Waits(False))
    assert view.on_cores == 1
    says(bench, parent, Waits(True))
    bench.finish(parent)
    assert (view.on_cores, view.waiting) == (0, {})


@pytest.mark.parametrize("end", ["done", "failed", "cancelled", "lost"])
def test_what_a_task_leaves_unfinished_is_cancelled_when_its_attempt_is_over(bench, end):
    parent = bench.submit()
    says(bench, parent, inner("1@1.1"))
    child = of(bench, "me/1@1.1")
    says(bench, child, inner("1@1.1@1.1"))
    grandchild = of(bench, "me/1@1.1@1.1")
    if end == "done":
        out = bench.finish(parent)
    elif end == "failed":
        out = bench.fail(parent, "crashed")
    elif end == "cancelled":
        out = bench.on(CancelAsked([parent]))
    else:
        out = bench.on(Disconnected(member(ALICE), "cut"))
    assert child.status == grandchild.status == FAILED
    if end != "lost":
        cancelled = [key for message in sent(out, Cancel) for key in message.keys]
        assert {child.key, grandchild.key} <= set(cancelled)
    assert not bench.state.nesting.listeners
    assert bench.state.nesting.parents.keys() <= set()
    assert bench.state.unfinished == (1 if end in ("failed", "lost") else 0)


def test_a_result_that_contains_the_handle_of_an_unfinished_task_keeps_it(bench):
    parent = bench.submit()
    says(bench, parent, inner("1@1.1", "1@1.2"))
    kept, other = of(bench, "me/1@1.1"), of(bench, "me/1@1.2")
    bench.finish(parent, contains=[[kept.key, 1, 0, []]])
    assert (kept.status, other.status) == (SENT, FAILED)
    bench.finish(kept)
    assert kept.status == DONE
    bench.on(Dropped([parent]))
    assert kept.key not in bench.state.lifetimes.shared


def test_another_attempt_names_its_own_and_the_former_says_nothing_more(bench):
    parent = bench.submit()
    says(bench, parent, inner("1@1.1"))
    bench.fail(parent, "crashed")
    assert parent.attempt == 2
    assert sent(says(bench, parent, inner("1@1.2"), attempt=1), Compute) == []
    assert sent(says(bench, parent, inner("1@2.1")), Compute)[0].keys == ["me/1@2.1"]


def test_what_a_task_has_no_handle_of_goes_when_it_is_done(bench):
    parent = bench.submit()
    says(bench, parent, inner("1@1.1", "1@1.2"))
    one, two = of(bench, "me/1@1.1"), of(bench, "me/1@1.2")
    says(bench, parent, ReleaseInner([one.key]))
    assert one.status == SENT
    bench.finish(one)
    bench.finish(two)
    says(bench, parent, ReleaseInner([two.key]))
    assert not {one.key, two.key} & bench.state.lifetimes.shared.keys()
    assert bench.state.nesting.parents[parent.key].tasks == {}


def test_inputs_of_inner_tasks_are_waited_for(bench):
    parent = bench.submit()
    assert len(sent(says(bench, parent, inner("1@1.1")), Compute)) == 1
    assert sent(says(bench, parent, inner("1@1.2", inputs={0: ["me/1@1.1"]})), Compute) == []
    out = bench.finish(of(bench, "me/1@1.1"))
    assert [message.keys for message in sent(out, Compute)] == [["me/1@1.2"]]


def test_a_handle_that_was_found_is_told_of(bench):
    contained = bench.done()
    outer = bench.submit()
    bench.state.lifetimes.shared[contained.key] = contained
    (said,) = told(says(bench, outer, AdoptInner([contained.key])))
    assert (said.keys, said.values) == ([contained.key], [b"v"])


def coroutine(name: str) -> SubmitInner:
    return SubmitInner(G, b"inner code", "g", True, [f"me/{name}"], [b"args"], {}, {})


def test_coroutines_are_sent_though_those_above_them_are_as_many_as_may_run():
    bench = Bench(ALICE, asynchronous_tasks_max=1)
    kind = Kind(F, b"code", "f", True, Options(), Duration())
    parent, waiting = bench.submit(kind=kind), bench.submit(kind=kind)
    assert (parent.status, waiting.status) == (SENT, READY)
    (compute,) = sent(says(bench, parent, coroutine("1@1.1")), Compute)
    assert (compute.keys, compute.depth) == (["me/1@1.1"], 1)
    child = of(bench, "me/1@1.1")
    assert [c.depth for c in sent(says(bench, child, coroutine("1@1.1@1.1")), Compute)] == [2]
    assert sent(says(bench, parent, coroutine("1@1.2")), Compute) == []
    assert [c.keys for c in sent(bench.finish(of(bench, "me/1@1.1@1.1")), Compute)] == []
    assert [c.keys for c in sent(bench.finish(child), Compute)] == [["me/1@1.2"]]
    bench.finish(of(bench, "me/1@1.2"))
    assert [c.keys for c in sent(bench.finish(parent), Compute)] == [[waiting.key]]


def test_coroutines_without_end_in_one_another_are_an_error():
    bench = Bench(ALICE, coroutine_depth_max=1)
    parent = bench.submit(kind=Kind(F, b"code", "f", True, Options(), Duration()))
    says(bench, parent, coroutine("1@1.1"))
    (said,) = told(says(bench, of(bench, "me/1@1.1"), coroutine("1@1.1@1.1")))
    assert said.statuses == ["failed"]
    with pytest.raises(NestingTooDeep, match="coroutine_depth_max"):
        raise unpack_exception(said.values[0])


def test_coroutines_that_return_handles_of_the_next_ones_may_go_on_without_end():
    bench = Bench(ALICE, coroutine_depth_max=1)
    task = bench.submit(kind=Kind(F, b"code", "f", True, Options(), Duration()))
    for n in range(1, 5):
        (compute,) = sent(says(bench, task, coroutine(f"{n}@1.1")), Compute)
        assert compute.depth == n
        bench.finish(task, contains=[[f"me/{n}@1.1", 1, 0, []]])
        task = of(bench, f"me/{n}@1.1")


def test_what_initializers_the_parent_needs_its_tasks_need_too():
    from distributed.pool.tasks import Code

    bench = Bench(ALICE)
    parent = bench.submit(kind=Kind(F, b"code", "f", False, Options(), Duration(), needs=(Code(b"n" * 16, b"need"),)))
    (compute,) = sent(says(bench, parent, inner("1@1.1")), Compute)
    assert list(compute.needs) == [b"n" * 16]
    assert compute.function != G


def test_a_task_asks_who_runs_it(bench):
    parent = bench.submit()
    assert told(says(bench, parent, AskMember())) == [Members([member(ALICE)])]


@pytest.mark.parametrize(
    "nonsense",
    [
        Ping(),
        SubmitInner(G, b"", "g", False, ["me/x"], [], {}, {}),
        inner("x", bad=1),
        inner("x", timeout_s="long"),
        inner("x", workers=[1]),
        inner("x", inputs={0: [1]}),
    ],
)
def test_what_no_task_says_is_refused_and_changes_nothing(bench, nonsense):
    parent = bench.submit()
    with pytest.raises(ProtocolError):
        says(bench, parent, nonsense)
    assert bench.state.nesting.parents == {}
    assert bench.state.unfinished == 1


def test_the_error_of_an_inner_task_is_told(bench):
    parent = bench.submit()
    says(bench, parent, inner("1@1.1"))
    message = Failed("me/1@1.1", 1, "raised", b"packed", {}, [])
    (said,) = told(bench.on(Received(ALICE, message)))
    assert (said.statuses, said.values) == (["failed"], [b"packed"])


def test_the_send_goes_to_the_executor_that_asked(bench):
    parent = bench.submit()
    says(bench, parent, inner("1@1.1"))
    (what,) = [it for it in bench.finish(of(bench, "me/1@1.1")) if isinstance(it, Send) and it.address == ALICE]
    assert (what.message.executor, what.message.serial, what.message.attempt) == (5, 77, 1)
