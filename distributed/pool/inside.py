"""`current_pool`: what a task submits tasks with. A `Pool` as outside, whose core asks the owner of the task for all.

The core takes the part of a client's: the same calls are packed in the same way, and the same handles wait for them.
What a client does to its own state and connections goes as a message through the door of the executor here, and what
comes back changes the tasks that are known in this process.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from distributed import running
from distributed.errors import DistributedError
from distributed.pool.callbacks import CallbackThread
from distributed.pool.calls import Calls
from distributed.pool.core import Core
from distributed.pool.driver import Unwatch, Watch
from distributed.pool.events import CancelAsked, Claimed, Stored, Storing, Submitted, Unexported, Wanted
from distributed.pool.holds import Holds
from distributed.pool.needs import Needs
from distributed.pool.pool import Pool
from distributed.pool.remote import RemoteData
from distributed.pool.tasks import DONE, FAILED, Kind, Options, Task
from distributed.pool.transfer import Transfer
from distributed.pool.view import WorkerView
from distributed.relay import Roads
from distributed.running import Door, Running
from distributed.wire.messages import (
    AdoptInner,
    AskMember,
    CancelInner,
    InnerOutcomes,
    Members,
    Message,
    ReleaseInner,
    StoredInner,
    SubmitInner,
    WantInner,
)
from distributed.wire.security import find_secret

KEY_CHARACTERS_MAX = 100  # longer ones, of tasks in tasks in tasks, are hashed before they become part of others
_transfers: dict[str, Transfer] = {}


def current_pool() -> Pool:
    """The pool that a task submits tasks with: those of its own owner, whose pool it is.

    They are cancelled when the task that submitted them ends, but for those whose handles it returns. A task that waits
    for others gives its slot to them. Outside of a task this is an error.

    >>> def factorial(n):
    ...     from distributed import current_pool
    ...     return n * current_pool().submit(factorial, n - 1).get() if n > 1 else 1
    >>> pool.submit(factorial, 5).get()
    120
    """
    door = running.door
    task = door.running() if door is not None else None
    if door is None or task is None:
        raise DistributedError("current_pool() is for the code of tasks, and this is not one: open a Pool(...) instead")
    if task.core is None:
        task.core = InnerCore(door, task)
    return task.core.pool


def adopt(reference: list[Any]) -> RemoteData:
    """A handle that the current task found in a value, as one that can be waited for."""
    handle: RemoteData = current_pool()._core.make_handle(reference)
    return handle


class InnerPool(Pool):
    """What `current_pool` gives."""

    def __init__(self, core: InnerCore) -> None:
        self._core, self._owned, self._name = core, None, core.running.key
        self._options, self._calls = Options(), Calls(core, Needs(), core.running.how)

    def __repr__(self) -> str:
        return f"<Pool of the task {self._name}>"

    def options(self, **options: Any) -> Pool:
        """A view of this pool whose tasks run with these options; `key` is for the program's own pool."""
        if options.get("key") is not None:
            raise ValueError("key= names results of the program's own pool; tasks in tasks are named by their task")
        view = super().options(**options)
        view.__class__ = InnerPool
        return view

    def upload(self, path: Any) -> NoReturn:
        """Not from inside of a task."""
        raise DistributedError("upload() is for the program's own pool: tasks in tasks have what was uploaded there")

    def group(self, function: Any, size: Any, /, *args: Any, **kwargs: Any) -> NoReturn:
        """Not from inside of a task."""
        raise DistributedError("group() is for the program's own pool: from inside of a task, submit() and map()")

    def close(self, timeout: float = 0.0) -> None:
        """Nothing: it ends with the task."""

    def terminate(self) -> None:
        """Nothing: it ends with the task."""


class Surroundings:
    """What is known in here of the cluster: the workers that a task has heard of."""

    def __init__(self) -> None:
        self.workers: dict[str, WorkerView] = {}
        self.placement, self.takers = self, self.workers
        self.unfinished = 0
        self.counters: dict[str, int] = {}

    def meet(self, members: list[Any]) -> None:
        for member in members:
            self.workers[member.address] = WorkerView(member)


class InnerCore(Core):
    """What the handles and pools of one task share."""

    def __init__(self, door: Door, task: Running) -> None:
        self.door, self.running = door, task
        self.center, self.client = "", task.key.partition("/")[0]
        self.state: Any = Surroundings()
        self.driver: Any = Line(self)
        self.lent = {}
        self.is_forked = False
        self._numbers = itertools.count(1)
        self._root = _root(task)
        self.post, self.watch = self.driver.post, self._watch
        self.holds = self.driver.holds
        self.call_later = self.driver.call_later
        self.pool = InnerPool(self)

    @property
    def transfer(self) -> Transfer:  # type: ignore[override]
        """Connections to workers, for what is large; kept for the next task."""
        if self.client not in _transfers:
            center = os.environ.get(running.CENTER, "")
            _transfers[self.client] = Transfer(self.client, Roads(center, "pool", find_secret()))
        return _transfers[self.client]

    def new_key(self, name: str = "") -> str:
        return f"{self._root}{next(self._numbers)}"

    def new_keys(self, count: int) -> list[str]:
        return [self.new_key() for _ in range(count)]

    def require_open(self) -> None:
        door = running.door
        now = door.running() if door is not None else None
        if now is not self.running:
            raise DistributedError(f"this pool ended with its task {self.running.key}; current_pool() gives another")

    def wait(self, is_done: Callable[[], bool], timeout: float | None = None) -> bool:
        self.driver.tell_of_found()
        self.driver.tell_of_drops()
        return self.door.wait(self.running, is_done, timeout)

    def ask(self, message: Message, timeout: float | None = None) -> NoReturn:
        raise DistributedError("this goes with the program's own pool, not from inside of a task")

    def explain(self, task: Task) -> str:
        return f"{task.key} is {task.published or 'pending'}; its owner, the program's own pool, knows more"

    def wait_for_workers(self) -> None:
        if not self.state.workers:
            self.driver.say(AskMember())
            self.wait(lambda: bool(self.state.workers))

    def hear(self, said: Message) -> None:
        """The owner told something."""
        if isinstance(said, Members):
            self.state.meet(said.members)
        elif isinstance(said, InnerOutcomes):
            self.state.meet(said.members)
            for position, key in enumerate(said.keys):
                task = self.driver.tasks.get(key)
                if task is not None:
                    self._settle(task, said, position)

    def _settle(self, task: Task, said: InnerOutcomes, position: int) -> None:
        task.attempt, task.nbytes = said.attempts[position], said.nbytes[position]
        task.holders = set(said.holders[position]) if position in said.holders else None
        task.outcome = said.values[position]
        status = said.statuses[position]
        task.status = DONE if status == "done" else FAILED
        for wanted in self.driver.wanted.pop(task.key, ()):
            wanted.handled = True
        if not task.published:
            task.published = status
            watchers, task.watchers = task.watchers, None
            for watcher in watchers or ():
                watcher(task)

    def _watch(self, tasks: list[Task], watcher: Callable[[Task], None]) -> None:
        self.require_open()
        self.driver.post(Watch(tasks, watcher))
        asyncio = sys.modules.get("asyncio")
        if asyncio is not None and asyncio._get_running_loop() is not None:  # it awaits, and reads no socket of ours
            self.driver.keep_reading(tasks)

    def make_handle(self, reference: list[Any]) -> RemoteData:
        """A handle for a reference found inside a value."""
        key, attempt, nbytes, holders = reference
        task = self.driver.tasks.get(key)
        if task is None:
            task = Task(key, None, None)
            task.attempt, task.nbytes, task.users = attempt, nbytes, 0
            task.worker = holders[0] if holders else None
        return self.handle(task)

    def lend(self, task: Task) -> NoReturn:
        raise DistributedError(f"the handle of {task.key} can only travel in the arguments or the result of a task")

    def close(self, timeout_s: float, is_waited_for: bool = False) -> None:
        """Nothing: it ends with the task."""


class Line:
    """What takes the part of a client's driver: events become messages to the owner."""

    closed, why_closed, center_peer = False, "", ""
    bytes_sent = bytes_received = 0

    def __init__(self, core: InnerCore) -> None:
        self._core = core
        self.holds = Holds()
        self.inbox: tuple[Any, ...] = ()
        self.tasks: dict[str, Task] = {}
        self.wanted: dict[str, list[Wanted]] = {}
        self.found: list[str] = []  # keys of handles in values, of which the owner has not been told
        self._callbacks: CallbackThread | None = None
        self._lock = threading.RLock()
        self._handlers: dict[type, Callable[[Any], None]] = {
            Submitted: self._submit,
            Claimed: self._claim,
            CancelAsked: lambda event: self.say(CancelInner([task.key for task in event.tasks])),
            Wanted: self._want,
            Storing: self._remember,
            Stored: self._store,
            Unexported: lambda event: None,
            Watch: self._watch,
            Unwatch: self._unwatch,
        }

    def say(self, message: Message) -> None:
        """Send something to the owner."""
        self.tell_of_found()
        self._core.door.say(self._core.running, message)

    def post(self, event: Any) -> None:
        """What a client's state would be handed."""
        handler = self._handlers.get(type(event))
        if handler is None:
            raise DistributedError("this goes with the program's own pool, not from inside of a task")
        handler(event)
        self.tell_of_drops()

    def pump(self) -> None:
        """Nothing waits here to be sent."""

    def wake(self) -> None:
        self._core.door.wake()

    def inspect(self, function: Callable[[], Any]) -> Any:
        return function()

    def call_later(self, function: Callable[..., object], *args: Any) -> None:
        if self._callbacks is None:
            self._callbacks = CallbackThread()
        self._callbacks.put(function, *args)

    def tell_of_drops(self) -> None:
        """Tell the owner of tasks that nobody here has a handle of any more."""
        if not self.holds.dropped:
            return
        gone = []
        with self._lock:
            for task in self.holds.take_dropped(len(self.holds.dropped)):
                task.users -= 1
                if not task.users and self.tasks.pop(task.key, None) is not None:
                    gone.append(task.key)
        if gone:
            self.say(ReleaseInner(gone))

    def keep_reading(self, tasks: list[Task]) -> None:
        """Wait for these on a thread of its own: an event loop awaits them, and does not read the socket."""
        core = self._core

        def read() -> None:
            try:
                core.door.wait(core.running, lambda: all(task.published for task in tasks), None)
            except (DistributedError, ConnectionError, RuntimeError):
                pass

        if hasattr(core.door, "batch") and not all(task.published for task in tasks):
            threading.Thread(target=read, name="inner-outcomes", daemon=True).start()

    def _remember(self, event: Any) -> None:
        self.tasks.update((task.key, task) for task in event.tasks)

    def _submit(self, event: Submitted) -> None:
        self._remember(event)
        for kind, group in itertools.groupby(event.tasks, key=lambda task: task.kind):
            tasks = list(group)
            self.say(_as_message(kind, tasks))  # type: ignore[arg-type]

    def _claim(self, event: Claimed) -> None:
        with self._lock:
            event.task.users += 1
            if self.tasks.get(event.task.key) is not event.task:
                self.tasks[event.task.key] = event.task
                self.found.append(event.task.key)

    def tell_of_found(self) -> None:
        """Tell the owner of handles that were found in values, when there is something else to talk of."""
        if self.found:
            found, self.found = self.found, []
            self.say(AdoptInner(found))

    def _want(self, event: Wanted) -> None:
        with self._lock:
            self.wanted.setdefault(event.task.key, []).append(event)
        self.say(WantInner(event.task.key, list(event.refused)))

    def _store(self, event: Stored) -> None:
        inside = [task.key for task in event.contains]
        self.say(StoredInner(event.task.key, event.holders, event.nbytes, inside))

    def _watch(self, event: Watch) -> None:
        for task in event.tasks:
            if not task.published:
                task.watchers = [*(task.watchers or ()), event.watcher]
            if task.published:  # now, or while we wrote that down
                watchers, task.watchers = task.watchers, None
                for watcher in watchers if watchers is not None else [event.watcher]:
                    watcher(task)

    def _unwatch(self, event: Unwatch) -> None:
        for task in event.tasks:
            if task.watchers and event.watcher in task.watchers:
                task.watchers.remove(event.watcher)


def _as_message(kind: Kind, tasks: list[Task]) -> SubmitInner:
    options = kind.options
    inputs = {n: [needed.key for needed in task.inputs] for n, task in enumerate(tasks) if task.inputs}
    return SubmitInner(
        function=kind.function,
        code=kind.code,
        name=kind.name,
        asynchronous=kind.asynchronous,
        keys=[task.key for task in tasks],
        args=[task.args or b"" for task in tasks],
        inputs=inputs,
        options={
            "timeout_s": options.timeout_s,
            "priority": options.priority,
            "retries": options.retries,
            "attempts": options.attempts,
            "recompute": options.recompute,
            "workers": sorted(options.workers),
            "resources": dict(options.resources),
        },
    )


def _root(task: Running) -> str:
    """What the keys of a task's own tasks begin with: another attempt of it names its own."""
    client, _, name = task.key.partition("/")
    if len(name) > KEY_CHARACTERS_MAX:
        name = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
    return f"{client}/{name}@{task.attempt}."
