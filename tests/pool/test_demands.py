"""The pool's mind: tasks that ask for resources go where these are free, and wait beside the others until they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from distributed.config import SETTINGS
from distributed.errors import NoWorker, ProtocolError
from distributed.pool import explain
from distributed.pool.events import CancelAsked, CenterSaid, Connected, Received, Submitted, Tick
from distributed.pool.nesting import understand
from distributed.pool.tasks import FAILED, READY, SENT, WAITING, Kind, Task
from distributed.wire.codec import encode_header
from distributed.wire.messages import Compute, Failed, Leaving, SubmitInner, TaskSays, WorkerJoined
from tests.pool.test_state import ALICE, BOB, CAROL, LARGE, Bench, kind, member, sent


class Demanding(Bench):
    """Alice has two gpus, Bob four and a license, Carol nothing."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.join(ALICE, {"gpu": 2})
        self.join(BOB, {"gpu": 4, "license": 1})
        self.join(CAROL, {})

    def join(self, address: str, resources: dict[str, int], ncores: int = 4) -> list[Any]:
        joined = dataclasses.replace(member(address, ncores=ncores), resources=resources)
        return self.on(CenterSaid(WorkerJoined(joined))) + self.on(Connected(joined))

    def ask(self, count: int = 1, **options: Any) -> list[Task]:
        """So many tasks that ask for something."""
        resources = tuple(sorted(options.pop("resources").items()))
        wanted = kind(resources=resources, **options)
        tasks = [self.task(kind=wanted) for _ in range(count)]
        self.on(Submitted(tasks))
        return tasks

    def explain(self, task: Task) -> str:
        return explain.explain(self.state, task, self.now)


def places(tasks: list[Task]) -> list[str | None]:
    return [task.worker if task.status == SENT else None for task in tasks]


def test_they_go_where_there_is_some_and_no_more_than_there_is() -> None:
    bench = Demanding()
    tasks = bench.ask(8, resources={"gpu": 1})
    assert (places(tasks).count(ALICE), places(tasks).count(BOB), places(tasks).count(None)) == (2, 4, 2)
    bench.finish(tasks[places(tasks).index(ALICE)])
    assert [task.status for task in tasks].count(READY) == 1


def test_the_message_says_what_each_uses() -> None:
    bench = Demanding()
    wanted = kind(resources=(("gpu", 1), ("license", 1)))
    ((where, message),) = sent(bench.on(Submitted([bench.task(kind=wanted)])), Compute)
    assert (where, message.resources) == (BOB, {"gpu": 1, "license": 1})


def test_others_pass_those_that_wait() -> None:
    bench = Demanding()
    bench.ask(9, resources={"gpu": 1})
    plain = [bench.submit() for _ in range(3)]
    assert {task.status for task in plain} == {SENT}


def test_a_worker_full_of_other_tasks_is_sent_them_all_the_same() -> None:
    bench = Demanding()
    for _ in range(30):
        bench.submit()
    assert places(bench.ask(1, resources={"license": 1})) == [BOB]


def test_one_that_needs_much_gets_its_turn_though_others_that_need_less_keep_coming() -> None:
    bench = Demanding()
    small = bench.ask(6, resources={"gpu": 1})
    (large,) = bench.ask(1, resources={"gpu": 2})
    more = bench.ask(6, resources={"gpu": 1})
    assert large.status == READY
    at_alice = [task for task in small if task.worker == ALICE]
    bench.finish(at_alice[0])
    assert (large.status, places(more)) == (READY, [None] * 6), "kept at Alice, who lacks least"
    at_bob = [task for task in small if task.worker == BOB]
    bench.finish(at_bob[0])
    assert places(more).count(BOB) == 1, "what becomes free elsewhere is not kept"
    bench.finish(at_alice[1])
    assert large.worker == ALICE


def test_the_more_urgent_ones_are_first() -> None:
    bench = Demanding()
    tasks = bench.ask(6, resources={"gpu": 1})
    late, urgent = bench.ask(1, resources={"gpu": 1})[0], bench.ask(1, resources={"gpu": 1}, priority=-1)[0]
    bench.finish(tasks[0])
    assert (urgent.status, late.status) == (SENT, READY)


def test_of_several_that_have_it_the_one_with_the_inputs() -> None:
    bench = Demanding()
    for holder in (ALICE, BOB):
        task = bench.task(bench.stored(holder, nbytes=LARGE), kind=kind(resources=(("gpu", 1),)))
        bench.on(Submitted([task]))
        assert task.worker == holder
    task = bench.task(bench.stored(CAROL, nbytes=LARGE), kind=kind(resources=(("license", 1),)))
    bench.on(Submitted([task]))
    assert task.worker == BOB


def test_resources_and_named_workers_together() -> None:
    bench = Demanding()
    assert places(bench.ask(3, resources={"gpu": 1}, workers=frozenset({ALICE}))) == [ALICE, ALICE, None]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"resources": {"gpu": 5}}, "f needs gpu 5, the most that a worker has is gpu 4, at bob:1"),
        ({"resources": {"tpu": 1}}, "f needs tpu 1, and no worker here has tpu (dworker --resources tpu=...)"),
        ({"resources": {"gpu": 3}, "workers": frozenset({ALICE})}, "the most that a worker has is gpu 2, at alice:1"),
        ({"resources": {"gpu": 4, "license": 2}}, "the most that a worker has is license 1, at bob:1"),
        ({"resources": {"gpu": 1}, "workers": frozenset({"dave"})}, "may only run on dave"),
    ],
)
def test_a_demand_that_nobody_meets_is_explained_at_once_and_is_an_error_after_a_while(
    options: dict[str, Any], says: str
) -> None:
    bench = Demanding()
    (task,) = bench.ask(**options)
    assert says in bench.explain(task)
    bench.now += SETTINGS.unmet_demand_grace_s
    bench.on(Tick())
    assert task.status == FAILED
    assert isinstance(task.outcome, NoWorker)
    assert says in str(task.outcome)


def test_somebody_who_joins_in_time_gets_what_nobody_else_could_run() -> None:
    bench = Demanding()
    (task,) = bench.ask(resources={"gpu": 8})
    assert [where for where, _ in sent(bench.join("dave:1", {"gpu": 8}), Compute)] == ["dave:1"]
    bench.now += SETTINGS.unmet_demand_grace_s
    bench.on(Tick())
    assert task.status == SENT


@pytest.mark.parametrize("how", ["leaves", "dies"])
def test_when_the_only_one_that_has_it_goes_those_that_wait_are_explained(how: str) -> None:
    bench = Demanding()
    tasks = bench.ask(3, resources={"license": 1})
    if how == "leaves":
        bench.on(Received(BOB, Leaving()))
    else:
        bench.lose(BOB)
    waiting = [task for task in tasks if task.status == READY]
    assert len(waiting) == (2 if how == "leaves" else 3)
    for task in waiting:
        assert "no worker here has license" in bench.explain(task)
    bench.join("dave:1", {"license": 9})
    assert {task.worker for task in waiting} == {"dave:1"}


def test_what_is_given_back_or_fails_frees_what_it_used() -> None:
    bench = Demanding()
    first, second = bench.ask(2, resources={"license": 1})
    assert bench.explain(second) == "f waits for license 1: gpu 0/4, license 1/1 in use at bob:1"
    assert "runs on bob:1, or waits there for license 1 that others use" in bench.explain(first)
    bench.on(Received(BOB, Failed(first.key, 1, "raised", b"", {}, [])))
    assert second.status == SENT
    bench.on(CancelAsked([second]))
    assert bench.state.workers[BOB].resources_used == {"license": 0}


def test_those_cancelled_while_they_wait_are_in_nobodys_way() -> None:
    bench = Demanding()
    running = bench.ask(6, resources={"gpu": 1})
    (large,) = bench.ask(1, resources={"gpu": 4})
    (small,) = bench.ask(1, resources={"gpu": 1})
    bench.on(CancelAsked([large]))
    bench.finish(running[0])
    assert small.status == SENT


def test_something_more_urgent_hurries_its_inputs_that_wait() -> None:
    bench = Demanding()
    tasks = bench.ask(6, resources={"gpu": 1})
    early, needed = bench.ask(1, resources={"gpu": 1})[0], bench.ask(1, resources={"gpu": 1})[0]
    urgent = bench.submit(needed, kind=kind(priority=-1))
    bench.finish(tasks[0])
    assert (needed.status, early.status, urgent.status) == (SENT, READY, WAITING)


def test_large_arguments_wait_for_room_in_the_window() -> None:
    bench = Demanding(window_bytes_max=100)
    wanted: Kind = kind(resources=(("gpu", 1),))
    tasks = [Task(f"me/{n}", wanted, bytes(90)) for n in range(6)]
    bench.on(Submitted(tasks))
    assert all(task.status == SENT for task in tasks), "cores are idle: one each is sent, however large"
    bench = Demanding(window_bytes_max=100)
    bench.state.workers[BOB].member = dataclasses.replace(bench.state.workers[BOB].member, ncores=1)
    tasks = [Task(f"me/{n}", kind(resources=(("gpu", 1),), workers=frozenset({BOB})), bytes(90)) for n in range(3)]
    bench.on(Submitted(tasks))
    assert [task.status for task in tasks] == [SENT, READY, READY]
    bench.finish(tasks[0])
    assert [task.status for task in tasks[1:]] == [SENT, READY]


class Counted(float):
    """A priority that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return float(self) == other

    __hash__ = float.__hash__


def work(count: int, end: Callable[[Demanding, Task], None]) -> int:
    """How often priorities are compared while so many tasks go, one after the other ends."""
    bench = Demanding()
    bench.state.placement.demands.check = lambda: None  # type: ignore[method-assign]  # it looks at all that wait
    tasks = [bench.ask(1, resources={"license": 1}, priority=Counted(0))[0] for _ in range(count)]
    before = Counted.compared
    for task in tasks:
        assert task.status == SENT
        end(bench, task)
    assert Counted.compared > before
    return Counted.compared - before


@pytest.mark.parametrize(
    "end",
    [lambda bench, task: bench.finish(task), lambda bench, task: bench.on(CancelAsked([task]))],
    ids=["ends", "is cancelled"],
)
def test_each_costs_about_the_same_however_many_wait(end: Callable[[Demanding, Task], None]) -> None:
    assert work(400, end) < 6 * work(100, end)


def test_those_hurried_again_and_again_wait_once_each() -> None:
    bench = Demanding()
    (first,) = bench.ask(1, resources={"license": 1})
    waiting = bench.ask(20, resources={"license": 1})
    for n, task in enumerate(reversed(waiting)):
        bench.submit(task, kind=kind(priority=-1 - n))
    assert list(bench.state.placement.demands) == waiting
    for task in waiting:
        assert task.status == READY
        bench.finish(first)
        assert task.status == SENT
        first = task


@pytest.mark.parametrize("wrong", [{"gpu": 0}, {"gpu": 1.5}, {1: 1}, {"gpu": True}, {"gpu": "1"}])
def test_a_task_that_asks_for_nonsense_for_its_own_tasks_is_refused(wrong: dict[Any, Any]) -> None:
    said = SubmitInner(b"f", b"", "f", False, [], [], {}, {"resources": wrong})
    with pytest.raises(ProtocolError, match="resources"):
        understand(TaskSays("me/1", 1, 1, 1, encode_header(said)))
