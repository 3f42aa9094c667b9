"""Many tasks of a pool cancelled at once: what that costs grows with their number, and no faster."""

from __future__ import annotations

import pytest

from distributed.pool.events import CancelAsked, Submitted
from distributed.pool.tasks import FAILED, Task
from tests.pool.test_state import ALICE, Bench, kind
from tests.steps import steps_of

MANY = 200


def busy(place: str, count: int) -> tuple[Bench, list[Task]]:
    """A pool with tasks in one state."""
    bench = Bench(*([ALICE] if place == "sent" else []), ncores=10 * count)
    tasks = [Task(f"me/{number}", kind(), b"", ()) for number in range(count)]
    if place == "waiting":
        source = Task("me/x", kind(), b"", ())
        tasks = [Task(f"me/{number}", kind(), b"", (source,)) for number in range(count)]
        bench.on(Submitted([source]))
    bench.on(Submitted(tasks))
    assert {task.status for task in tasks} == {place}
    return bench, tasks


@pytest.mark.parametrize("place", ["ready", "sent", "waiting"])
def test_cancelling_twice_as_many_takes_twice_as_long(place: str) -> None:
    def steps(count: int) -> int:
        bench, tasks = busy(place, count)
        return steps_of(lambda: bench.state.handle(CancelAsked(tasks[::-1]), bench.now))

    assert steps(2 * MANY) < 2.5 * steps(MANY)


def test_cancelling_what_many_wait_for_takes_as_long_as_there_are_many() -> None:
    def steps(count: int) -> int:
        bench, tasks = busy("waiting", count)
        taken = steps_of(lambda: bench.state.handle(CancelAsked([tasks[0].inputs[0]]), bench.now))
        assert {task.status for task in tasks} == {FAILED}
        return taken

    assert steps(2 * MANY) < 2.5 * steps(MANY)
