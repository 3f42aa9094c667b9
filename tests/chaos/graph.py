"""What runs while things break: layers of short tasks with fresh nonces, and how one tells that all went right.

A task returns a nonce that nobody can guess, and the nonces that it saw of its inputs. Each execution is also noted in
a file, so that what ran is known from another side than the pool's. This module knows nothing of faults.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import random
import struct
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from distributed import Failure, Pool, RemoteData
from distributed.errors import StoreFull

TASK_S = 0.005
NONCE_BYTES = 16
LARGE_NONCES = 6144  # 96 KiB: a file in the store, which peers fetch, link and spill
LARGE_PART = 0.02
LAYER_TASKS_MAX = 400
LAYERS_BACK_MAX = 4
INPUTS_MAX = 3
EXECUTION = struct.Struct("<II16s")  # number of the task, process, nonce


class Result(NamedTuple):
    """What a task returns. `seen`: number and nonce of each input as this attempt saw it."""

    number: int
    nonce: bytes
    seen: tuple[tuple[int, bytes], ...]
    padding: bytes  # the nonce again and again, in some tasks

    @property
    def is_whole(self) -> bool:
        return self.padding == self.nonce * (len(self.padding) // NONCE_BYTES)


class Execution(NamedTuple):
    """One run of a task, to its end or nearly so."""

    number: int
    pid: int
    nonce: bytes


def work(notes: str, number: int, is_large: bool, inputs: list[Result]) -> Result:
    """The task. An append of this size is atomic, whoever else appends."""
    seen = tuple((given.number, given.nonce if given.is_whole else b"torn") for given in inputs)
    time.sleep(TASK_S)
    nonce = os.urandom(NONCE_BYTES)
    descriptor = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, EXECUTION.pack(number, os.getpid(), nonce))
    finally:
        os.close(descriptor)
    return Result(number, nonce, seen, nonce * (LARGE_NONCES if is_large else 0))


@dataclasses.dataclass(frozen=True)
class Plan:
    """A random graph: for each task its inputs, all in earlier layers, and whether its result is large."""

    layers: list[range]
    inputs: list[tuple[int, ...]]
    large: list[bool]

    @classmethod
    def draw(cls, n_tasks: int, dice: random.Random) -> Plan:
        """
        >>> plan = Plan.draw(1000, random.Random(1))
        >>> len(plan.inputs), plan == Plan.draw(1000, random.Random(1))
        (1000, True)
        >>> all(needed < number for number, inputs in enumerate(plan.inputs) for needed in inputs)
        True
        """
        layers: list[range] = []
        inputs: list[tuple[int, ...]] = []
        width = min(LAYER_TASKS_MAX, max(1, n_tasks // 8))
        for first in range(0, n_tasks, width):
            layer = range(first, min(n_tasks, first + width))
            before = [number for back in layers[-LAYERS_BACK_MAX:] for number in back]
            for _ in layer:
                count = min(len(before), dice.randint(0, INPUTS_MAX))
                inputs.append(tuple(dice.sample(before, count)))
            layers.append(layer)
        return cls(layers, inputs, [dice.random() < LARGE_PART for _ in range(n_tasks)])


class Graph:
    """One plan on its way through a pool."""

    def __init__(self, plan: Plan, notes: Path) -> None:
        self.plan, self.notes = plan, notes
        self.handles: list[RemoteData] = []
        self.arrivals: collections.Counter[int] = collections.Counter()
        self.arrived_s: dict[int, float] = {}
        self.all_arrived = threading.Event()
        self.wrong: list[str] = []
        self.refused = 0  # failed because a store was full, or because an input did
        self.executions: list[Execution] = []
        self.ran_by: dict[int, int] = {}  # the process that made the published result

    def submit(self, pool: Pool) -> None:
        plan = self.plan
        for layer in plan.layers:
            given = [[self.handles[needed] for needed in plan.inputs[number]] for number in layer]
            large = [plan.large[number] for number in layer]
            handles = pool.map(work, [str(self.notes)] * len(layer), layer, large, given)
            self.handles += handles
            for number, handle in zip(layer, handles, strict=True):
                handle.add_done_callback(lambda _, number=number: self._arrive(number))

    def _arrive(self, number: int) -> None:
        self.arrivals[number] += 1
        self.arrived_s.setdefault(number, time.monotonic())
        if len(self.arrived_s) == len(self.plan.inputs):
            self.all_arrived.set()

    def unfinished(self) -> list[int]:
        return [number for number, handle in enumerate(self.handles) if not handle.ready()]

    def check(self, timeout_s: float) -> None:
        """Get every value, and compare what was published, what was seen and what ran; says what is `wrong`."""
        values = [self._value(number, handle, timeout_s) for number, handle in enumerate(self.handles)]
        self._read_notes()
        ran: dict[int, dict[bytes, int]] = collections.defaultdict(dict)
        for execution in self.executions:
            ran[execution.number][execution.nonce] = execution.pid
        for number, value in enumerate(values):
            if self.arrivals[number] != 1:
                self.wrong.append(f"task {number}: its outcome was announced {self.arrivals[number]} times")
            if value is None:
                continue
            if value.number != number or not value.is_whole:
                self.wrong.append(f"task {number}: got the result of task {value.number}, whole: {value.is_whole}")
            elif value.nonce not in ran[number]:
                self.wrong.append(f"task {number}: no execution made the nonce {value.nonce.hex()} that was published")
            else:
                self.ran_by[number] = ran[number][value.nonce]
                self._compare_inputs(number, value, values, ran)

    def _compare_inputs(
        self, number: int, value: Result, values: list[Result | None], ran: dict[int, dict[bytes, int]]
    ) -> None:
        """A small result stays with its owner, so there is one nonce. A large one that was lost is computed again."""
        if tuple(needed for needed, _ in value.seen) != self.plan.inputs[number]:
            self.wrong.append(f"task {number}: saw the inputs {value.seen}, and should {self.plan.inputs[number]}")
            return
        for needed, nonce in value.seen:
            published = values[needed]
            is_right = nonce in ran[needed] if self.plan.large[needed] else published and nonce == published.nonce
            if not is_right:
                told = published.nonce.hex() if published else "none"
                self.wrong.append(
                    f"task {number}: saw of task {needed} the nonce {nonce.hex()}; published: {told}; "
                    f"executions: {[ran_nonce.hex() for ran_nonce in ran[needed]]}"
                )

    def _value(self, number: int, handle: RemoteData, timeout_s: float) -> Result | None:
        try:
            value: Any = handle.get(timeout_s, reraise=False)
        except TimeoutError:
            self.wrong.append(f"task {number}: its value did not come within {timeout_s:g} s: {handle.explain()}")
            return None
        if isinstance(value, Failure):
            if not isinstance(value.exception, StoreFull):
                self.wrong.append(f"task {number}: {type(value.exception).__name__}: {value.exception}")
            self.refused += 1
            return None
        result: Result = value
        return result

    def _read_notes(self) -> None:
        noted = self.notes.read_bytes() if self.notes.exists() else b""
        whole = len(noted) - len(noted) % EXECUTION.size
        self.executions = [Execution(*fields) for fields in EXECUTION.iter_unpack(noted[:whole])]
