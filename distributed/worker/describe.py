"""A worker's state as others see it: load for the center, status for people, invariants for tests. It only reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distributed.wire.messages import ReportLoad
from distributed.worker.store import Entry

if TYPE_CHECKING:
    from distributed.worker.state import WorkerState


def load(state: WorkerState) -> ReportLoad:
    """What runs, in numbers and names."""
    executors = state.dispatch.executors.values()
    first = [next(iter(executor.given.values())) for executor in executors if executor.given]
    return ReportLoad(
        running=len(first),
        queued=state.dispatch.queue.live + state.dispatch.coroutines.live,
        stored_bytes=state.store.memory_bytes,
        spilled_bytes=state.store.disk_bytes,
        running_names=[task.function.name for task in first],
    )


def status(state: WorkerState) -> dict[str, Any]:
    """Everything a person may want to know."""
    executors = state.dispatch.executors.values()
    return {
        "address": state.member.address,
        "name": state.member.name,
        "ncores": state.member.ncores,
        "keys": len(state.store.entries),
        "stored_bytes": state.store.memory_bytes,
        "spilled_bytes": state.store.disk_bytes,
        "reserved_bytes": state.store.reserved_bytes,
        "memory_limit": state.store.memory_limit,
        "fetched_bytes": state.fetches.fetched_bytes,
        "tasks": len(state.tasks),
        "queued": state.dispatch.queue.live + state.dispatch.coroutines.live,
        "fetching": len(state.fetches.wants),
        "finished": state.finished,
        "executors": [{"pid": e.pid, "ready": e.ready, "given": len(e.given)} for e in executors],
        "executors_started": state.dispatch.started,
        "bad_starts": state.dispatch.bad_starts,
        "clients": sorted({task.order.client for task in state.tasks.values()}),
    }


def check(state: WorkerState) -> None:
    """Byte accounts equal content, every task is in exactly one place, limits hold."""
    assert not state.out
    state.store.check()
    state.fetches.check()
    state.rooms.check(state.fetches.reserved_bytes())
    state.dispatch.check()
    state.functions.check()
    users: dict[Entry, int] = {}
    given = [task for executor in state.dispatch.executors.values() for task in executor.given.values()]
    dropped = [task for task in given if task.verdict == "cancelled"]
    assert len(given) == len(dropped) + sum(bool(task.serial) for task in state.tasks.values())
    for task in (*state.tasks.values(), *dropped):
        for entry in task.entries:
            if isinstance(entry, Entry):
                users[entry] = users.get(entry, 0) + 1
        waits = task.missing > 0 or task in task.function.waiting
        assert sum((task.queued, bool(task.serial), waits)) == 1, f"{task} is in two places, or none"
        assert task.missing == sum(entry is None for entry in task.entries)
    assert all(entry.uses == users.get(entry, 0) for entry in state.store.all_entries()), "users of entries"
    assert all(task.key == key for key, task in state.tasks.items())
