"""Why a task is where it is, and what happened to it, in sentences for a person.

Reads a pool's state and changes nothing, but for the time of the last warning.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from distributed import resources
from distributed.pool import withheld
from distributed.pool.demands import may_run
from distributed.pool.events import Instruction, Warn
from distributed.pool.tasks import DONE, READY, SENT, WAITING, Task
from distributed.pool.view import WorkerView
from distributed.quantities import count, size
from distributed.wire.exceptions import traceback_of
from distributed.wire.messages import Failed

if TYPE_CHECKING:
    from distributed.pool.state import PoolState


def watch(state: PoolState, now: float) -> list[Instruction]:
    """The watchdog: name a task whose worker, or whose queue, has not moved for a long time.

    Where there is no worker at all it says so early, once after the last submit: nobody started one, or it is lost.
    """
    is_alone = not state.workers and state.warned_at <= state.progress_at
    patience_s = state.settings.no_worker_warning_s if is_alone else state.settings.progress_warning_s
    if not state.unfinished or now - state.warned_at < patience_s:
        return []
    stuck = [(since, task) for since, task in _oldest(state) if now - since >= patience_s]
    silent_s = now - state.progress_at
    if not stuck and silent_s < patience_s:
        return []
    state.warned_at = now
    text = f"{_census(state)}; no task has finished for {silent_s:.0f} s"
    if not stuck:
        return [Warn(text)]
    since, task = min(stuck, key=lambda item: item[0])
    if is_alone:
        return [Warn(explain(state, task, now))]
    many = f"{len(stuck)} queues have not moved" if len(stuck) > 1 else "a queue has not moved"
    return [Warn(f"{text}; {many}, this one for {now - since:.0f} s: {task.key}: {explain(state, task, now)}")]


def _oldest(state: PoolState) -> Iterator[tuple[float, Task]]:
    """The first task at each worker and in each queue, and since when nothing has moved there."""
    for view in state.workers.values():
        if view.under_way:
            yield view.since, next(iter(view.under_way.values()))
    placement = state.placement
    for task in placement.unplaced:
        if task.status == READY:
            yield placement.moved_at, task
            break
    for task, deadline in placement.stranded.values():
        yield deadline - state.settings.unmet_demand_grace_s, task


def _census(state: PoolState) -> str:
    sent = sum(len(view.under_way) for view in state.workers.values())
    ready = sum(task.status == READY for task in unfinished_tasks(state))
    waiting = state.unfinished - sent - ready
    return f"{count(state.unfinished, 'task')} left: {sent} at workers, {ready} ready, {waiting} waiting for inputs"


def unfinished_tasks(state: PoolState) -> Iterator[Task]:
    """Every task that is under way or ready, those that are furthest first."""
    for view in state.workers.values():
        yield from view.under_way.values()
    for view in state.workers.values():
        yield from view.assigned
    yield from state.placement.unplaced
    yield from state.placement.demands
    yield from (task for task, _ in state.placement.stranded.values())
    yield from state.groups.tasks()


def explain(state: PoolState, task: Task, now: float) -> str:
    """Why a task is where it is, in one sentence for a person."""
    name = task.kind.name if task.kind else task.key
    if task.kind is not None and task.kind.group is not None and task.status in (READY, SENT):
        return state.groups.explain(task)
    if task.status == SENT:
        view = state.workers[task.worker or ""]
        ahead = list(view.under_way).index(task.key)
        silent_s = now - view.since
        if reason := withheld.why(state, task):
            return reason
        if task.kind is not None and task.kind.options.resources:
            needed = resources.told(task.kind.options.resources)
            return f"{name} runs on {task.worker}, or waits there for {needed} that others use"
        if ahead < view.member.ncores:
            return f"{name} runs on {task.worker}, where nothing has begun or ended for {silent_s:.1f} s"
        return f"{name} is queued on {task.worker} behind {count(ahead, 'task')}"
    if task.status == WAITING:
        if task.borrowed:
            return f"{task.key} belongs to another client; the center has not told yet where it is"
        unready = [needed.key for needed in task.inputs if not needed.has_value]
        trouble = state.failures.troubles.get(task.key)
        if not unready and trouble is not None and trouble.full:
            return f"{name} waits for room, and is tried again in a moment: {trouble.why_full}"
        if not unready and task.key in state.failures.troubles:
            missed = state.failures.troubles[task.key].missed
            return f"{name} could not fetch its inputs ({count(missed, 'time')}); it is tried again in a moment"
        if not unready:
            return f"{name} has just been submitted"
        return f"{name} waits for {len(unready)} of its {count(len(task.inputs), 'input')}, for example {unready[:1]}"
    if task.status == READY and task.key in state.placement.stranded:
        return f"{name} {unmet(state, task)}"
    if task.status == READY and state.workers and not state.placement.takers:
        return f"{name} waits: the only worker leaves; start another one with `dworker HOST:PORT`"
    if task.status == READY and not state.workers:
        return f"{name} waits: no worker is connected; start one with `dworker HOST:PORT`"
    if task.status == READY and (reason := withheld.why(state, task)):
        return reason
    if task.status == READY and task.kind is not None and task.kind.options.resources:
        return f"{name} waits for {resources.told(task.kind.options.resources)}: {_in_use(state, task)}"
    if task.status == READY:
        return f"{name} is ready and waits for room on one of {count(len(state.placement.takers), 'worker')}"
    if task.status == DONE:
        where = sorted(task.holders or ([task.worker] if task.worker else ()))
        return f"{name} is done: {size(task.nbytes)}" + (f" on {' and '.join(where)}" if where else "")
    return f"{name} is {task.status}"


def unmet(state: PoolState, task: Task) -> str:
    """What it asks for that nobody here has."""
    assert task.kind is not None
    options, takers = task.kind.options, list(state.placement.takers.values())
    if options.workers:
        named = [view for view in takers if {view.member.address, view.member.name} & options.workers]
        wanted = ", ".join(sorted(options.workers))
        if not named:
            here = ", ".join(sorted(view.member.name for view in takers)) or "nobody"
            return f"may only run on {wanted}, and no such worker is here (who is: {here})"
        takers = named
    if not options.resources:
        return f"is for executor {task.kind.seat} of a worker that has fewer by now"
    return f"needs {resources.told(options.resources)}, {_most(options.resources, takers)}"


def _most(demand: resources.Demand, views: list[WorkerView]) -> str:
    """The most that there is of what is too little."""
    for name, amount in demand:
        richest = max(views, key=lambda view: view.member.resources.get(name, 0), default=None)
        most = 0 if richest is None else richest.member.resources.get(name, 0)
        if richest is None or not most:
            return f"and no worker here has {name} (dworker --resources {name}=...)"
        if most < amount:
            return f"the most that a worker has is {name} {most}, at {richest.member.address}"
    return "and no worker here has all of that together"


def _in_use(state: PoolState, task: Task) -> str:
    able = [view for view in state.placement.takers.values() if may_run(view, task)]
    told = [
        f"{resources.used_of(view.resources_used, view.member.resources)} in use at {view.member.address}"
        for view in able[:3]
    ]
    return "; ".join([*told, *(["and so on"] if len(able) > len(told) else [])])


def stopped(message: Failed) -> str:
    """How a task was stopped that was over its time, and where it was, for the end of a sentence."""
    detail = message.detail
    if "yield_s" in detail:
        how = f", was cancelled, did not end within {detail['yield_s']:g} s, and was killed"
    else:
        how = " and was cancelled" if detail.get("cancelled") else " and was killed"
    place = detail.get("stack") or traceback_of(message.error)
    return f"{how}; it was at\n{place}" if place else how


def obituary(address: str, detail: dict[str, Any]) -> str:
    """One attempt's end, in a line, and what the executor last said below it."""
    if detail.get("reason"):
        return f"on {address}: {detail['reason']}"
    cause = _signal_name(detail["signal"]) if detail.get("signal") else f"exit code {detail.get('exit_code')}"
    peak = detail.get("peak_bytes") or 0
    limit = detail.get("task_memory_limit") or 0
    most = f" (a task may have {size(limit)})" if limit else ""
    memory = f", peak memory {size(peak)}{most}" if peak else ""
    if detail.get("cause") == "limit":
        cause = "killed, because it had more memory than --task-memory-limit allows"
    elif detail.get("cause") == "machine":
        cause += ": the machine, or its control group, ran out of memory"
    last = "".join(f"\n    {line}" for line in (detail.get("stderr_tail") or "").splitlines())
    stack = "".join(f"\n    {line}" for line in (detail.get("stack") or "").splitlines())
    return f"on {address}: {cause}{memory}{last}{stack}"


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
