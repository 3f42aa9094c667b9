"""Resources that tasks keep while they wait for tasks of their own: which of these can never begin because of that.

A task that has the only ``gpu`` and waits for one that needs it, too, would wait for ever. Only those that wait count:
what others have comes free when they end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from distributed import resources
from distributed.errors import NoWorker
from distributed.pool.demands import may_run
from distributed.pool.events import CancelAsked
from distributed.pool.nesting import OVER
from distributed.pool.tasks import Task

if TYPE_CHECKING:
    from distributed.pool.state import PoolState


def watch(state: PoolState, now: float) -> None:
    """A task begins to wait: what can never begin because of that fails, if it is still so after a grace time."""
    if not any(view.member.resources for view in state.placement.takers.values()):
        return
    tasks = [parent.tasks[key] for parent in state.nesting.parents.values() for key in parent.own]
    if withheld := [task for task in tasks if why(state, task)]:
        state.later(now + state.settings.unmet_demand_grace_s, lambda now: _give_up(state, withheld, now))


def _give_up(state: PoolState, tasks: list[Task], now: float) -> None:
    for task in sorted(tasks, key=lambda task: task.key):
        if reason := why(state, task):
            state.absorb(CancelAsked([task], NoWorker(reason, task.key)), now)


def why(state: PoolState, task: Task) -> str:
    """That a task needs what others keep while they wait for it; empty if a worker may come to have enough."""
    kind = task.kind
    if kind is None or not kind.options.resources or task.status in OVER:
        return ""
    able = [view for view in state.placement.takers.values() if may_run(view, task)]
    keepers = list(_keepers(state, task))
    kept = {view.member.address: Counter[str]() for view in able}
    for keeper, address in keepers:
        assert keeper.kind is not None
        kept.get(address, Counter()).update(dict(keeper.kind.options.resources))
    demand = kind.options.resources
    if (
        not keepers
        or not able
        or any(resources.fit(demand, kept[view.member.address], view.member.resources) for view in able)
    ):
        return ""
    nearest = keepers[0][0]
    assert nearest.kind is not None
    return (
        f"{kind.name} needs {resources.told(demand)}, and {nearest.kind.name} ({nearest.key}) keeps "
        f"{resources.told(nearest.kind.options.resources)} while it waits for it: ask for that in one of the two only, "
        "or start workers that have more"
    )


def _keepers(state: PoolState, task: Task) -> Iterator[tuple[Task, str]]:
    """The tasks above this one that wait, and keep resources; with their workers, the nearest first."""
    parents = state.nesting.parents.values()
    parent = next((it for it in parents if task.key in it.own), None)
    while parent is not None:
        view = state.workers.get(parent.address)
        if view is None or parent.task.key not in view.waiting:
            return
        if parent.task.kind is not None and parent.task.kind.options.resources:
            yield parent.task, parent.address
        key = parent.task.key
        parent = next((it for it in parents if key in it.own), None)
