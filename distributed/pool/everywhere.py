"""`Pool.run_on_all`: one task for each executor that there is, which waits for that one and runs nowhere else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from distributed import running
from distributed.errors import DistributedError, NoWorker
from distributed.pool.calls import Calls
from distributed.pool.core import Core
from distributed.pool.remote import RemoteData
from distributed.pool.tasks import Kind, Options
from distributed.wire.exceptions import note
from distributed.wire.messages import Member


def run_on_all(
    core: Core,
    calls: Calls,
    options: Options,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> dict[str, Any]:
    """The values of a call in every executor, by executor, when all of them have run it."""
    _require_outside()
    core.require_open()
    if options.key:
        raise ValueError("key= names one result; it goes with submit and apply, not with run_on_all")
    if options.resources:
        raise ValueError("resources= goes with tasks that one executor runs, not with run_on_all")
    core.wait_for_workers()
    members = _members(core, options)
    names: list[str] = []

    def kinds(kind: Kind) -> Iterator[Kind]:
        for member in members:
            here = dataclasses.replace(options, workers=frozenset({member.address}))
            for seat in [-1] if kind.asynchronous else range(member.ncores):
                names.append(f"{member.address}/{'async' if kind.asynchronous else seat}")
                yield dataclasses.replace(kind, options=here, seat=seat, hurried={})

    handles = calls.one_each(function, args, kwargs, options, kinds)
    try:
        for handle in handles:
            handle.wait()
    except BaseException:  # an interrupt: what has not begun shall not begin
        for handle in handles:
            handle.cancel()
        raise
    return _values(calls, dict(zip(names, handles, strict=True)))


def _require_outside() -> None:
    door = running.door
    if door is not None and door.running() is not None:
        raise DistributedError("run_on_all() is not for the code of a task: its own executor would never be free")


def _members(core: Core, options: Options) -> list[Member]:
    """The workers that tasks with these options may run on."""
    members = [view.member for _, view in sorted(core.state.placement.takers.copy().items())]
    names = options.workers
    chosen = [member for member in members if not names or member.address in names or member.name in names]
    if not chosen:
        there = ", ".join(member.address for member in members) or "none"
        raise NoWorker(f"no worker here is one of {', '.join(sorted(names))}; there are: {there}")
    return chosen


def _values(calls: Calls, handles: dict[str, RemoteData]) -> dict[str, Any]:
    failed = [name for name, handle in handles.items() if not handle.successful()]
    if failed:
        name, others = failed[0], len(failed) - 1
        more = f"; {others} other{'s' * (others > 1)} failed, too" if others else ""
        try:
            handles[name].get()
        except BaseException as error:
            note(error, f"run_on_all ran it in {name}{more}")
            raise
    tasks = [handle.living_task for handle in handles.values()]
    return dict(zip(handles, calls.values(tasks, None), strict=True))
