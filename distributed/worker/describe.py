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
    first = [executor.given[0] for executor in executors if executor.given]
    return ReportLoad(
        running=len(first),
        queued=queued(state),
        stored_bytes=state.store.memory_bytes,
        spilled_bytes=state.store.disk_bytes,
        running_names=[part.order.name for part in first],
        resources=dict(state.dispatch.supplies.used),
    )


def queued(state: WorkerState) -> int:
    """How many tasks are ready to run, but for an executor or for resources."""
    return state.dispatch.queue.live + state.dispatch.coroutines.live + state.dispatch.supplies.live


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
        "spill_directory": state.store.moves.spill_directory,
        "spilled_bytes_ever": state.store.moves.spilled_bytes,
        "returned_bytes_ever": state.store.moves.returned_bytes,
        "memory_limit": state.store.memory_limit,
        "fetched_bytes": state.fetches.fetched_bytes,
        "tasks": len(state.tasks),
        "queued": queued(state),
        "resources": dict(state.member.resources),
        "resources_used": dict(state.dispatch.supplies.used),
        "fetching": len(state.fetches.wants),
        "finished": state.endings.finished,
        "executors": [{"pid": e.pid, "ready": e.ready, "given": e.count} for e in executors],
        "executors_started": state.dispatch.started,
        "leaving": state.departure is not None,
        "bad_starts": state.dispatch.bad_starts,
        "clients": sorted({order.client for order in set(state.tasks.values())}),
    }


def check(state: WorkerState) -> None:
    """Byte accounts equal content, every task is in exactly one place, limits hold."""
    assert not state.out
    state.store.check()
    state.fetches.check()
    state.rooms.check(state.fetches.reserved_bytes() + state.store.moves.loading_bytes())
    state.dispatch.check()
    state.intake.functions.check()
    state.letters.check()
    given = [part for executor in state.dispatch.executors.values() for part in executor.given]
    dropped = [part for part in given if part.verdict == "cancelled"]
    parts = [part for order in set(state.tasks.values()) for part in order.parts]
    assert state.tasks == {key: part.order for part in parts for key in part.keys}, "tasks and their parts"
    assert len(state.tasks) == sum(map(len, parts)), "a key in two parts"
    assert sorted(map(id, given)) == sorted(map(id, dropped + [part for part in parts if part.serial])), "lost parts"
    assert not any(part in part.order.parts for part in dropped), "nobody waits for these"
    state.dispatch.supplies.check((*parts, *dropped))
    users: dict[Entry, int] = {}
    for unread in state.letters.entries():
        users[unread] = users.get(unread, 0) + 1
    for part in (*parts, *dropped):
        for entry in part.entries:
            if isinstance(entry, Entry):
                users[entry] = users.get(entry, 0) + 1
        assert len(part.keys) == len(part.attempts) == len(part.args) > 0
        assert (len(part.inputs), len(part.ready)) in ((0, 0), (0, len(part)), (len(part), 0))
        assert len(part) == 1 or not part.entries
        waits = part.missing > 0 or part in part.function.waiting
        assert sum((part.queued, bool(part.serial), waits)) == 1, f"{part} is in two places, or none"
        assert part.missing == sum(entry is None for entry in part.entries)
    assert all(entry.uses == users.get(entry, 0) for entry in state.store.all_entries()), "users of entries"
