"""What a story knows of each task that a user asked for: what is right, and what may go wrong."""

from __future__ import annotations

import dataclasses

from distributed.pool.tasks import Options

TROUBLES = ("raise", "crash", "crash once", "crash once", "sleep")


@dataclasses.dataclass
class Plan:
    """What the story knows of a task: what is right, and what may go wrong."""

    key: str
    number: int
    parents: list[Plan]
    trouble: str = ""
    options: Options = dataclasses.field(default_factory=Options)
    is_cancelled: bool = False
    is_scattered: bool = False
    is_asynchronous: bool = False
    mates: list[Plan] = dataclasses.field(default_factory=list)  # all members of its group


def ancestors(plan: Plan) -> list[Plan]:
    """A task and everything that it is built on; members of a group are built on one another."""
    found: dict[int, Plan] = {}
    todo = [plan]
    while todo:
        plan = todo.pop()
        if id(plan) not in found:
            found[id(plan)] = plan
            todo += plan.parents + plan.mates
    return list(found.values())


def owner_of(plan: Plan) -> str:
    return plan.key.partition("/")[0]
