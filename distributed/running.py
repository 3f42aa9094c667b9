"""Which task this process runs just now, for code that is part of it: the door between an executor and what it runs.

The executor opens the door; `current_pool` and everything that waits in this process go through it. In a process that
is no executor it stays None. Knows neither messages nor pools.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

CENTER = "DISTRIBUTED_CENTER"  # in an executor's environment: the center's address, as its worker knows it


class Running:
    """One attempt of a task, as its executor runs it."""

    __slots__ = ("attempt", "core", "has_submitted", "how", "key", "mail", "refusal", "serial", "waiters")

    def __init__(self, serial: int, key: str, attempt: int, how: Any = None) -> None:
        self.serial, self.key, self.attempt = serial, key, attempt
        self.how = how  # the serializer of its pool
        self.core: Any = None  # what its code submits tasks with, once it does
        self.mail: Any = None  # what takes messages of other members, if it is one of a group
        self.has_submitted = False  # since it last waited
        self.waiters = 0  # threads of it that wait for tasks
        self.refusal: BaseException | None = None  # why it may not wait


class Door(Protocol):
    """What an executor does for the code that it runs."""

    def running(self) -> Running | None:
        """The task that the caller is part of."""

    def say(self, running: Running, message: Any) -> None:
        """Send a message to the owner of a task."""

    def wait(self, running: Running, is_done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until `is_done()`, and let others have the slot meanwhile; False if the time was over first."""

    def listen(self, running: Running, is_done: Callable[[], bool], timeout_s: float | None) -> bool:
        """The same, for what other members of its group say; the slot is kept."""

    def begin(self, running: Running) -> None:
        """The time of a task begins now."""

    def has_read(self, running: Running, numbers: list[int]) -> None:
        """A task has read these messages of other members."""

    def wake(self) -> None:
        """Make everybody who waits look again."""

    def give_way(self, wait: Callable[[], bool]) -> bool:
        """Let others have the slot while `wait` waits for something that does not come through here."""


door: Door | None = None


def _close() -> None:
    global door
    door = None  # a process that a task forked is no executor


os.register_at_fork(after_in_child=_close)
