"""What a pool knows of one task, of a kind of tasks, and of a queue of tasks. Data only: `pool.state` decides.

A task's status::

    waiting ──▶ ready ──▶ sent ──▶ done ──▶ released
       ▲  ▲       │         │  │              │
       │  └───────┴─────────┘  └─▶ failed     │     (a lost worker, a crash with attempts left, a recall)
       └──────────────────────────────────────┘     (recomputed from its recipe, because something needs it again)
"""

from __future__ import annotations

import bisect
import dataclasses
import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from distributed.config import SETTINGS
from distributed.resources import Demand

WAITING: Final = "waiting"  # for inputs
READY: Final = "ready"  # for a worker
SENT: Final = "sent"  # a worker has it, queued or running
DONE: Final = "done"
FAILED: Final = "failed"
RELEASED: Final = "released"  # nobody needs the value; the recipe may still be needed

PAUSE_S_MIN: Final = 0.1  # before a holder that could not be reached is asked again; the next pause is twice as long
PAUSE_S_MAX: Final = 2.0
INPUT_BYTES: Final = 100  # about what naming an input takes in a message


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """How a task is to be run; `pool.options(...)` makes a view of the pool with other ones."""

    timeout_s: float = 0.0
    priority: float = 0
    retries: int = 0
    attempts: int = SETTINGS.attempts_max
    recompute: bool = True
    workers: frozenset[str] = frozenset()
    key: str = ""
    resources: Demand = ()

    @property
    def is_picky(self) -> bool:
        """Whether not every worker will do."""
        return bool(self.workers or self.resources)


class Duration:
    """How long the tasks of one function take, as a moving average; unknown until one has finished."""

    __slots__ = ("mean_s",)

    def __init__(self) -> None:
        self.mean_s: float | None = None

    def learn(self, total_s: float, count: int) -> None:
        """Take `count` tasks into account that took `total_s` together."""
        observed_s = total_s / count
        weight = 1 - 0.7**count if count < 20 else 1.0
        self.mean_s = observed_s if self.mean_s is None else self.mean_s + weight * (observed_s - self.mean_s)


class Code(NamedTuple):
    """Something that executors call, by the hash of its pickle."""

    identity: bytes
    code: bytes


@dataclasses.dataclass(eq=False, slots=True)
class Kind:
    """What the tasks of one call have in common: the function and the options."""

    function: bytes  # hash of the code
    code: bytes
    name: str
    asynchronous: bool
    options: Options
    duration: Duration
    carried: bool = False  # the function travels with the arguments, as the first of them
    needs: tuple[Code, ...] = ()  # what executors have to call before
    group: Any = None  # of which these tasks are the members
    depth: int = 0  # of tasks that tasks submitted: how many are above them
    seat: int = -1  # of the executor that it is for; -1: any
    hurried: dict[float, Kind] = dataclasses.field(default_factory=dict)  # the same with another priority

    @property
    def is_beside(self) -> bool:
        """Whether such tasks take no place among those that wait for cores: they wait for an executor of their own."""
        return self.asynchronous or self.seat >= 0

    def code_of(self, identity: bytes) -> bytes | None:
        """The code of this hash, if it is the function's or that of something it needs."""
        if identity == self.function:
            return self.code
        return next((need.code for need in self.needs if need.identity == identity), None)

    def with_priority(self, priority: float) -> Kind:
        """The kind of a task that something more urgent waits for."""
        if priority not in self.hurried:
            options = dataclasses.replace(self.options, priority=priority)
            self.hurried[priority] = dataclasses.replace(self, options=options, hurried={})
        return self.hurried[priority]


@dataclasses.dataclass(slots=True)
class Trouble:
    """What went wrong with one unfinished task so far."""

    attempts: list[str] = dataclasses.field(default_factory=list)  # a line for each attempt that was used up
    raised: int = 0
    missed: int = 0  # how often its inputs could not be fetched
    full: int = 0  # how often there was no room for an input or the result
    full_since_s: float = 0.0
    why_full: str = ""  # the sizes, the last time
    too_small: set[str] = dataclasses.field(default_factory=set)  # workers that would have no room if they were empty

    @property
    def pause_s(self) -> float:
        """How long to wait before it is tried again.

        >>> [Trouble(missed=missed).pause_s for missed in (1, 2, 3, 9999)]
        [0.1, 0.2, 0.4, 2.0]
        """
        pause_s: float = PAUSE_S_MIN * 2 ** min(self.missed + self.full - 1, 10)
        return min(pause_s, PAUSE_S_MAX)


class Task:
    """One task of a pool, or a value that was scattered (`kind` is None), or one borrowed from another client."""

    __slots__ = (
        "args",
        "attempt",
        "borrowed",
        "contains",
        "dependents",
        "heirs",
        "holders",
        "inputs",
        "key",
        "kind",
        "missing",
        "nbytes",
        "outcome",
        "published",
        "status",
        "users",
        "watchers",
        "worker",
    )

    def __init__(self, key: str, kind: Kind | None, args: bytes | None, inputs: tuple[Task, ...] = ()) -> None:
        self.key = key
        self.kind = kind
        self.args = args  # packed arguments; None when there is no recipe (any more)
        self.inputs = inputs
        self.status = WAITING
        self.attempt = 1
        self.users = 1  # handles, unfinished dependents, containing values: while above 0, the value lives
        self.heirs = 0  # tasks whose recipe starts from this one: while above 0, the recipe lives
        self.missing = 0  # inputs that are not there yet
        self.worker: str | None = None  # where it was sent, or where its result was made
        self.holders: set[str] | None = None  # where its large result is; None: small, `outcome` is all there is
        self.outcome: Any = None  # packed value, or packed exception when failed
        self.nbytes = 0
        self.dependents: list[Task] | None = None
        self.contains: tuple[Task, ...] = ()
        self.watchers: list[Callable[[Task], None]] | None = None
        self.borrowed = False  # from another client: never deleted, never computed here
        self.published = ""  # its first outcome ('done', 'failed', 'cancelled'), which stays, whatever becomes of it

    def __repr__(self) -> str:
        return f"<Task {self.key} {self.status}>"

    @property
    def has_value(self) -> bool:
        """Whether its value can be had right now, here or from a worker."""
        return self.status == DONE and (self.outcome is not None or bool(self.holders))

    @property
    def is_made(self) -> bool:
        """Whether an attempt has made its value; of a member of a group it may be published later than that."""
        group = self.kind.group if self.kind is not None else None
        return self.status == DONE or (self.status == SENT and group is not None and group.has(self))

    @property
    def can_run(self) -> bool:
        """Whether all its inputs are to be had. Written out: asked twice for every task with inputs."""
        for needed in self.inputs:
            if needed.status != DONE or (needed.outcome is None and not needed.holders):
                return False
        return True

    @property
    def is_repeatable(self) -> bool:
        """Whether a lost value may be computed again: there is a recipe, and running it twice is not forbidden."""
        options = self.kind.options if self.kind is not None else None
        return self.args is not None and options is not None and options.recompute and options.attempts > 1

    @property
    def can_come_again(self) -> bool:
        """Whether it is repeatable with all that its recipe starts from and that is not there (any more)."""
        pending, seen = [self], {self}
        while pending:  # a loop, because a chain of lost values may be a hundred thousand long
            task = pending.pop()
            if task.status == FAILED or not task.is_repeatable:
                return False
            for needed in task.inputs:
                if needed not in seen and needed.status in (DONE, RELEASED, FAILED) and not needed.has_value:
                    seen.add(needed)
                    pending.append(needed)
        return True

    @property
    def recipe_bytes(self) -> int:
        """About how much memory it takes to remember how this task is computed again."""
        return 250 + len(self.args or b"") + 8 * len(self.inputs)

    @property
    def message_bytes(self) -> int:
        """How much it weighs in the message that sends it: its arguments, and the inputs that travel along.

        >>> x = Task('x', None, b''); x.status, x.outcome = DONE, b'123456'
        >>> Task('y', None, b'12345', (x,)).message_bytes - INPUT_BYTES
        11
        """
        nbytes = len(self.args or b"")
        for needed in self.inputs:
            nbytes += INPUT_BYTES
            if needed.holders is None and needed.status == DONE and needed.outcome is not None:
                nbytes += len(needed.outcome)
        return nbytes

    @property
    def inline(self) -> Any:
        """What travels along where this is an input: the value itself, if it is small and therefore here."""
        return self.outcome if self.holders is None and self.status == DONE else None

    def reference(self) -> list[Any]:
        """What a packed value or another client needs to know of it."""
        return [self.key, self.attempt, self.nbytes, sorted(self.holders or ([self.worker] if self.worker else []))]


KIND = operator.attrgetter("kind")


class Levels:
    """A queue of tasks in levels; within one level first in, first out. Lower levels come first.

    >>> queue = Levels()
    >>> x, y, urgent = (Task(key, None, b'') for key in ('x', 'y', 'urgent'))
    >>> queue.extend((0, 1), [x, y])
    >>> queue.extend((0, 0), [urgent])
    >>> [task.key for task in queue.take(2, 100)], len(queue)
    (['urgent'], 2)
    """

    __slots__ = ("_levels", "_order", "_size")

    def __init__(self) -> None:
        self._levels: dict[tuple[float, int], deque[Any]] = {}
        self._order: list[tuple[float, int]] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return (task for level in self._order for task in self._levels[level])

    def extend(self, level: tuple[float, int], tasks: Iterable[Any]) -> None:
        """Append tasks to a level."""
        if level not in self._levels:
            self._levels[level] = deque()
            bisect.insort(self._order, level)
        queue = self._levels[level]
        before = len(queue)
        queue.extend(tasks)
        self._size += len(queue) - before

    def first_level(self) -> tuple[float, int]:
        """The level from which `take` would take; an empty queue is after every other."""
        return self._order[0] if self._order else (float("inf"), 0)

    def peek(self) -> Any:
        """The first task."""
        return self._levels[self._order[0]][0]

    def take(self, count: int, bytes_max: int) -> list[Any]:
        """Remove and return tasks of the first level that are of one kind: one, and more while they are within bounds.

        >>> queue = Levels()
        >>> queue.extend((0, 0), [Task(key, None, b'12345') for key in ('x', 'y', 'z')])
        >>> queue.take(3, 12), queue.take(3, 0)
        ([<Task x waiting>, <Task y waiting>], [<Task z waiting>])
        """
        level = self._order[0]
        queue = self._levels[level]
        taken = [queue.popleft()]
        kind = taken[0].kind
        left = bytes_max - taken[0].message_bytes
        while queue and len(taken) < count and queue[0].kind is kind:
            task = queue[0]
            left -= task.message_bytes if task.inputs else len(task.args or b"")  # none: it was cancelled
            if left < 0:
                break
            taken.append(queue.popleft())
        if not queue:
            del self._levels[level], self._order[0]
        self._size -= len(taken)
        return taken

    def take_last(self) -> Any:
        """Remove and return the last task."""
        level = self._order[-1]
        task = self._levels[level].pop()
        if not self._levels[level]:
            del self._levels[level], self._order[-1]
        self._size -= 1
        return task

    def remove(self, tasks: set[Any]) -> None:
        """Remove these tasks, wherever they are: looks at everything."""
        for level in list(self._order):
            kept = deque(task for task in self._levels[level] if task not in tasks)
            self._size -= len(self._levels[level]) - len(kept)
            self._levels[level] = kept
            if not kept:
                del self._levels[level]
                self._order.remove(level)

    def take_all(self) -> list[Any]:
        """Remove and return everything, in order."""
        taken = [task for level in self._order for task in self._levels[level]]
        self._levels, self._order, self._size = {}, [], 0
        return taken
