"""The shell of a pool and the user's side of it: what `pool/driver.py`, `pool/core.py` and `pool/remote.py` do.

A client keeps count of the handles it holds, so that it can tell what the pool's own counts must be.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from distributed.config import Settings
from distributed.pool import events
from distributed.pool.state import PoolState
from distributed.pool.tasks import DONE, FAILED, READY, RELEASED, SENT, WAITING, Kind, Task
from distributed.wire import messages as m
from tests.simulation.actors import CENTER, Actor
from tests.simulation.executors import Value
from tests.simulation.world import End, World

FETCH_TRIES = 3


class Client(Actor):
    """One pool, and its user."""

    def __init__(self, world: World, settings: Settings, name: str, is_thorough: Callable[[], bool]) -> None:
        super().__init__(world, name)
        self.settings, self.is_thorough = settings, is_thorough
        self.state = PoolState(settings, world.now)
        self.handles: Counter[Task] = Counter()
        self.tasks: dict[Task, None] = {}  # every task that may still matter
        self.center: End | None = None
        self.channels: dict[str, End] = {}
        self.asking: dict[int, tuple[m.Message, Callable[[Any, str], None]]] = {}
        self.getting: dict[Task, list[Callable[[Value | None], None]]] = {}  # until the pool has it
        self.unanswered = 0  # values that the user wants to see, and does not yet
        self.putting = 0  # values that it puts on workers, and that are not there yet
        self.wanted: list[tuple[events.Wanted, list[Callable[[Value | None], None]]]] = []
        self.resolved: Counter[Task] = Counter()
        self.blamed: Counter[str] = Counter()  # how often each task was said to have crashed its executor
        self.borrowed: list[Task] = []
        self.heard_late: set[str] = set()  # keys whose data a worker deletes because of what it said too late
        self.sent: dict[str, int] = {}  # key -> the last attempt that a worker was sent
        self._numbers = itertools.count(1)
        self._alarms: list[float] = []
        self.isolated_until_s = 0.0
        self._find_center()

    # ----------------------------------------------------------------------------------------------------- the center

    def _find_center(self) -> None:
        if self.is_alive:
            wait_s = max(0.0, self.isolated_until_s - self.world.now)
            self.world.after(wait_s, self.world.connect, CENTER, self._found_center, self.name)

    def _found_center(self, end: End | None) -> None:
        if end is None or not end.is_open or not self.is_alive:
            self.world.after(self.settings.reconnect_interval_s, self._find_center)
            return
        end.on_message, end.on_close = self._hear_center, self._lose_center
        self.center = end
        end.send(m.RegisterClient(self.name))
        self.handle(events.CenterReached())
        for number, (message, _) in self.asking.items():
            end.send(message, number)

    def _hear_center(self, end: End, message: m.Message, request: int) -> None:
        if isinstance(message, (m.Reply, m.Refusal)):
            _, then = self.asking.pop(request)
            if isinstance(message, m.Reply):
                then(message.result, "")
            else:
                then(None, message.reason)
        else:
            self.handle(events.CenterSaid(message))

    def _lose_center(self, end: End) -> None:
        self.center = None
        self.world.after(self.settings.reconnect_interval_s, self._find_center)

    def ask(self, message: m.Message, then: Callable[[Any, str], None]) -> None:
        """Ask the center, across its restarts."""
        number = next(self._numbers)
        self.asking[number] = message, then
        if self.center is not None:
            self.center.send(message, number)

    def do_TellCenter(self, what: events.TellCenter) -> None:  # noqa: N802  named as the instruction
        if self.center is not None:
            self.center.send(what.message)

    def do_Locate(self, what: events.Locate) -> None:  # noqa: N802
        task = what.task

        def located(result: Any, refusal: str) -> None:
            answer = result.get(task.key) if result else None
            if isinstance(answer, dict):
                self.handle(events.Located(task, answer))
            else:
                self.handle(events.Located(task, {}, answer or b"lost " + task.key.encode()))

        self.ask(m.WhoHas([task.key], wait_s=self.settings.client_lease_s), located)

    # -------------------------------------------------------------------------------------------------------- workers

    def do_Connect(self, what: events.Connect) -> None:  # noqa: N802
        member = what.member

        def connected(end: End | None) -> None:
            if not self.is_alive:
                return
            if end is None or not end.is_open:
                self.handle(events.Disconnected(member, "nobody answers"))
                return
            end.on_message, end.on_close = hear, lose
            self.channels[member.address] = end
            end.send(m.Attach(self.name), 1)

        def hear(end: End, message: m.Message, request: int) -> None:
            if isinstance(message, m.Reply):
                self.handle(events.Connected(m.Member(*message.result["member"]), message.result["held"]))
            else:
                self.handle(events.Received(member.address, message))

        def lose(end: End) -> None:
            if self.channels.get(member.address) is end:
                del self.channels[member.address]
                self.handle(events.Disconnected(member, "the connection broke"))

        def dial() -> None:
            self.world.connect(member.address, connected, self.name)

        self.world.after(what.after_s, dial)

    def do_Disconnect(self, what: events.Disconnect) -> None:  # noqa: N802
        end = self.channels.pop(what.address, None)
        if end is not None:
            end.close()

    def do_Send(self, what: events.Send) -> None:  # noqa: N802
        self.channels[what.address].send(what.message)
        if isinstance(what.message, m.Compute):
            for key, attempt in zip(what.message.keys, what.message.attempts, strict=True):
                assert self.sent.get(key, 0) < attempt, f"{key}@{attempt} was sent before"
                self.sent[key] = attempt
                if attempt > 1 and self.world.is_faulty and self.world.dice.random() < 0.3:
                    self.world.after(self.world.delay_s(), self._hear_late, what.address, key, attempt)

    def _hear_late(self, address: str, key: str, attempt: int) -> None:
        """While an attempt runs, something is said of the one before, which nobody waits for any more."""
        view = self.state.workers.get(address)
        task = view.under_way.get(key) if view is not None else None
        if task is None or task.attempt != attempt or not task.is_repeatable:
            return
        wrong = Value(key, attempt - 1, 0, []).pack()
        said = self.world.dice.choice(
            (
                m.Finished([key], [attempt - 1], [10], [wrong], [100], {}, []),
                m.Failed(key, attempt - 1, "raised", b"raised nothing", {}, []),
                m.Recalled([key], [attempt - 1]),
            )
        )
        self.world.fault("late message", f"{address} says to {self.name} {said.operation} of {key}@{attempt - 1}, late")
        self.heard_late.add(key)
        before = task.status, task.attempt, task.worker
        self.handle(events.Received(address, said))
        assert (task.status, task.attempt, task.worker) == before, f"{said.operation} of a former attempt counted"

    def do_WakeAt(self, what: events.WakeAt) -> None:  # noqa: N802
        if not self._alarms or what.time < min(self._alarms):
            self._alarms.append(what.time)
            self.world.at(what.time, self._tick)

    def _tick(self) -> None:
        if self.world.postpones(self.name, self._tick):
            return
        self._alarms = [time_s for time_s in self._alarms if time_s > self.world.now]
        self.handle(events.Tick())

    def do_Show(self, what: events.Show) -> None:  # noqa: N802
        pass

    def do_Warn(self, what: events.Warn) -> None:  # noqa: N802
        self.world.note(self.name, what.text)

    def do_Resolved(self, what: events.Resolved) -> None:  # noqa: N802
        for task in what.tasks:
            self.resolved[task] += 1
            assert self.resolved[task] == 1, f"{task} was published twice"

    # ----------------------------------------------------------------------------------------- what the user asks for

    def submit(self, kind: Kind, args: bytes, inputs: tuple[Task, ...]) -> Task:
        """Make a task and a handle of it; `start` hands tasks to the pool."""
        task = Task(f"{self.name}/{next(self._numbers)}", kind, args, inputs)
        self._adopt(task)
        return task

    def _adopt(self, task: Task) -> None:
        self.tasks[task] = None
        self.handles[task] = 1

    def start(self, tasks: list[Task]) -> None:
        self.handle(events.Submitted(tasks))

    def claim(self, task: Task) -> None:
        """One handle more."""
        self.handles[task] += 1
        self.handle(events.Claimed(task))

    def drop(self, task: Task) -> None:
        """One handle is gone."""
        self.handles[task] -= 1
        self.handle(events.Dropped([task]))

    def cancel(self, task: Task) -> None:
        self.handle(events.CancelAsked([task]))

    def lend(self, task: Task) -> None:
        """The handle is pickled for somebody else."""
        self.handle(events.Exported(task))

    def release(self, task: Task) -> None:
        self.handle(events.Unexported(task))
        self.drop(task)

    def borrow(self, key: str) -> Task:
        """A handle for a key of another client's."""
        task = Task(key, None, None)
        task.borrowed = True
        self.borrowed.append(task)
        self._adopt(task)
        self.handle(events.Borrowed(task))
        return task

    def scatter(
        self, number: int, nbytes: int, contains: list[Task], copies: int, then: Callable[[Task], None]
    ) -> None:
        """Put a value on workers; `then` gets its task, but nothing happens if it could not be put."""
        addresses = sorted(self.state.workers)[:copies]
        task = Task(f"{self.name}/{next(self._numbers)}", None, None)
        references = [inner.reference() for inner in contains]
        content = Value(task.key, 1, number, references).pack()
        missing = set(addresses)
        self.tasks[task] = None
        self.handle(events.Storing([task]))
        self.putting += 1
        for inner in contains:  # the user holds them meanwhile
            self.claim(inner)

        def acknowledged(address: str, answer: bool | None) -> None:
            missing.discard(address)
            failed.append(address) if not answer else None
            if missing or not self.is_alive:
                return
            self.putting -= 1
            self.world.published.add((task.key, 1))
            self.handles[task] += 1
            self.handle(events.Stored(task, addresses, nbytes, contains))
            for inner in contains:
                self.drop(inner)
            if failed:
                self.drop(task)
            else:
                then(task)

        failed: list[str] = []
        for address in addresses:
            self.world.ask(
                address,
                lambda worker: worker.take(self.name, task.key, nbytes, content),
                lambda answer, address=address: acknowledged(address, answer),  # type: ignore[misc]
                self.name,
            )

    def get(self, task: Task, then: Callable[[Value | None], None]) -> None:
        """The value of a task, fetched if need be; None if it failed. A handle is held meanwhile."""
        self.claim(task)
        self.unanswered += 1
        self.getting.setdefault(task, []).append(then)
        self._look(task)

    def _look(self, task: Task, tries: int = FETCH_TRIES) -> None:
        if not self.getting.get(task):
            return
        if task.status == FAILED:
            self._got(task, None)
        elif task.status == DONE and task.outcome is not None:
            self._got(task, Value.unpack(task.outcome))
        elif task.status == DONE:
            connected = [address for address in task.holders or () if address in self.state.workers]
            address = min(connected or task.holders or [""])
            waiting = self.getting.pop(task)
            self.world.ask(
                address,
                lambda worker: worker.give([task.key], [task.attempt]),
                lambda values: self._fetched(task, address, waiting, values, tries - 1),
                self.name,
            )

    def _fetched(self, task: Task, address: str, waiting: list[Any], values: Any, tries: int) -> None:
        if not self.is_alive:
            return
        self.getting.setdefault(task, []).extend(waiting)
        if values is None and tries:
            self._look(task, tries)
        elif values is None or values[0][0] < 0:
            wanted = events.Wanted(task, [] if values is None and address else [address])
            self.wanted.append((wanted, waiting))
            others = [then for then in self.getting.pop(task) if then not in waiting]
            if others:
                self.getting[task] = others
            self.handle(wanted)
        else:
            self._got(task, Value.unpack(values[0][1]))

    def _got(self, task: Task, value: Value | None) -> None:
        if value is not None:
            self.world.see(value)
        for then in self.getting.pop(task, ()):
            self.unanswered -= 1
            then(value)
            self.drop(task)

    def make_handles(self, references: list[Any]) -> list[Task]:
        """Handles for references found in a value."""
        found = []
        for reference in references:
            task = self.state.lifetimes.shared.get(reference[0])
            if task is not None:
                self.claim(task)
                found.append(task)
            else:
                found.append(self.borrow(reference[0]))
        return found

    def close(self) -> None:
        """Goodbye."""
        self.ask(m.UnregisterClient(), lambda result, refusal: self._end())

    def die(self) -> None:
        """The program ends without a word."""
        self._end()

    def _end(self) -> None:
        self.is_alive = False
        self.world.gone.add(self.name)
        for end in [*self.channels.values(), self.center]:
            if end is not None:
                end.close()

    # ----------------------------------------------------------------------------------------------------- invariants

    def handle(self, event: Any) -> None:
        if not self.is_alive:
            return
        accepted = self._reported(event)
        self.absorb(event)
        self._check_incarnations(event)
        self._check_blame(getattr(event, "message", None))
        self.world.published.update(key for key, task in accepted.items() if (task.key, task.attempt) == key)
        if not self._is_handling:
            self._look_again()
            for task in list(self.getting):
                self._look(task)

    def _check_incarnations(self, event: Any) -> None:
        """Of whom the center just spoke there is no connection to a former one at the same address."""
        message = getattr(event, "message", None)
        for member in getattr(message, "members", ()) or filter(None, [getattr(message, "member", None)]):
            view = self.state.workers.get(member.address)
            is_same = view is None or view.member.incarnation == member.incarnation
            assert is_same, f"{self.name} takes {member} for {view.member}"

    def _check_blame(self, message: Any) -> None:
        """A task is charged an attempt only where an executor ended that was running it."""
        if isinstance(message, m.Failed) and message.kind == "crashed":
            self.blamed[message.key] += 1
            is_guilty = self.blamed[message.key] <= self.world.crashes[message.key]
            assert is_guilty or message.key in self.world.once, f"{message.key} was charged for the crash of another"

    def _look_again(self) -> None:
        """The pool says that it makes sense to look for these values again."""
        for wanted, waiting in [item for item in self.wanted if item[0].handled]:
            self.wanted.remove((wanted, waiting))
            self.getting.setdefault(wanted.task, []).extend(waiting)

    def _reported(self, event: Any) -> dict[tuple[str, int], Task]:
        """The attempts that a message reports finished and that are the ones we wait for."""
        message = getattr(event, "message", None)
        if not isinstance(message, m.Finished) or event.address not in self.state.workers:
            return {}
        under_way = self.state.workers[event.address].under_way
        reported = zip(message.keys, message.attempts, strict=True)
        return {(key, attempt): under_way[key] for key, attempt in reported if key in under_way}

    def check(self) -> None:
        """The pool's own invariants, and those that need to know every task and every handle."""
        if self.is_thorough():
            super().check()
            self._forget_the_dead()
            self._check_counts()
            self._check_places()

    def _forget_the_dead(self) -> None:
        needed = {needed for task in self.tasks for needed in task.inputs}
        for task in list(self.tasks):
            is_dead = task.status == FAILED or (task.status == RELEASED and task.args is None)
            if is_dead and not self.handles[task] and not task.users and task not in needed:
                del self.tasks[task]

    def _check_counts(self) -> None:
        unfinished = 0
        users, heirs, missing = defaultdict(int, self.handles), defaultdict(int), defaultdict(int)
        for task in self.state.lending.exported.values():
            users[task] += 1
        for task in self.tasks:  # written out: in this the simulator spends most of its time
            is_unfinished = task.kind is not None and task.status in (WAITING, READY, SENT)
            unfinished += is_unfinished
            for needed in task.inputs:
                heirs[needed] += 1
                if is_unfinished:
                    users[needed] += 1
            for inner in task.contains:
                users[inner] += 1
            for waiting in task.dependents or ():
                missing[waiting] += 1
        for task in self.tasks:
            if task.status == WAITING and task.kind is None and not task.borrowed:
                continue  # scattered, not stored yet
            assert task.users == users[task], f"{task}: {task.users} users, {users[task]} expected"
            assert task.heirs == heirs[task], f"{task}: {task.heirs} heirs, {heirs[task]} expected"
            assert task.status != WAITING or task.missing == missing[task], f"{task}: {task.missing} inputs missing"
            assert task.status != DONE or task.users, f"{task}: nobody needs it"
            assert task.status != RELEASED or not self.handles[task], f"{task}: somebody holds it"
        assert self.state.unfinished == unfinished, f"{self.state.unfinished} unfinished, {unfinished} expected"

    def _check_places(self) -> None:
        """Every ready task is in one queue, every sent task at one worker; windows are kept."""
        placement = self.state.placement
        queues = [placement.unplaced, *(view.assigned for view in self.state.workers.values())]
        queued = [task for queue in queues if queue for task in queue if task.status == READY]
        queued += [task for task, _ in placement.stranded.values() if task.status == READY]
        queued += list(placement.demands)
        sent = [task for view in self.state.workers.values() for task in view.under_way.values()]
        for task in self.state.groups.tasks():  # members that are not sent yet, and those that have returned
            (queued if task.status == READY else sent).append(task)
        for status, places in ((READY, queued), (SENT, sent)):
            there = {task for task in self.tasks if task.status == status}
            assert there == set(places), f"{status}: {there ^ set(places)} are nowhere, or without being so"
            assert len(there) == len(places), f"{status}: a task in two places"
        for view in self.state.workers.values():
            most = max(view.member.ncores + 1, view.member.ncores * self.settings.window_tasks_max)
            assert len(view.under_way) <= most, "a window"
