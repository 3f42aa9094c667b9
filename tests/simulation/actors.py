"""The shells of center and worker: they carry out what the real minds decide, in a virtual world.

An actor does what the server of its kind does (`center/server.py`, `worker/server.py`), and no more. After every event
the mind's own invariants are checked.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from distributed.center import events as center_events
from distributed.center.state import CenterState
from distributed.config import Settings
from distributed.wire import messages as m
from distributed.wire.codec import buffers_of, encode_header
from distributed.worker import events
from distributed.worker.state import WorkerState
from distributed.worker.store import Entry
from tests.simulation.executors import File, VirtualExecutor
from tests.simulation.world import End, World

CENTER = "center:1"
DISK_BYTES_PER_S = 1e8


class Actor:
    """A process: one mind, events in, instructions out."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.state: Any = None
        self.is_alive = True
        self._events: deque[Any] = deque()
        self._is_handling = False
        self._timer = 0

    def handle(self, event: Any) -> None:
        """Something happened; whoever is stopped learns of it later."""
        if self.is_alive and not self.world.postpones(self.name, self.handle, event):
            self.absorb(event)

    def absorb(self, event: Any) -> None:
        """Give an event to the mind and do as told; what comes up meanwhile waits."""
        self._events.append(event)
        if self._is_handling:
            return
        self._is_handling = True
        while self._events:
            event = self._events.popleft()
            self.world.note(self.name, brief(event))
            instructions = self.state.handle(event, self.world.now)
            self.check()
            for instruction in instructions:
                self.perform(instruction)
        self._is_handling = False

    def check(self) -> None:
        self.state.check()

    def perform(self, instruction: Any) -> None:
        getattr(self, f"do_{type(instruction).__name__}")(instruction)

    def wake_at(self, time_s: float, tick: Any) -> None:
        """A timer that replaces the one before."""
        self._timer += 1
        self.world.at(time_s, self._ring, self._timer, tick)

    def _ring(self, timer: int, tick: Any) -> None:
        if timer == self._timer and not self.world.postpones(self.name, self._ring, timer, tick):
            self.handle(tick)


def brief(event: Any) -> str:
    """An event in a few words; messages are in the trace already."""
    name = type(event).__name__
    message = getattr(event, "message", None)
    if message is not None:
        return f"{name} {type(message).__name__}"
    tasks = getattr(event, "tasks", None) or ([event.task] if hasattr(event, "task") else None)
    if tasks:
        return f"{name} {' '.join(task.key for task in tasks)}"
    return f"{name} {event}" if hasattr(event, "executor") or hasattr(event, "fetch") else name


class CenterActor(Actor):
    """The center."""

    def __init__(self, world: World, settings: Settings, is_thorough: Callable[[], bool]) -> None:
        super().__init__(world, CENTER)
        self.is_thorough = is_thorough
        self.state = CenterState(settings, world.now)
        self.ends: dict[int, End] = {}
        self._numbers = itertools.count(1)
        self._telling: dict[int, set[tuple[int, int]]] = {}  # token -> (connection, request) not answered yet
        world.doors[CENTER] = self.accept

    def check(self) -> None:
        if self.is_thorough():
            super().check()

    def accept(self, end: End) -> None:
        number = next(self._numbers)
        self.ends[number] = end

        def hear(_: End, message: m.Message, request: int) -> None:
            if isinstance(message, (m.Reply, m.Refusal)):
                self._answered(number, request)
            else:
                self.handle(center_events.Received(number, message, request))

        def lose(_: End) -> None:
            self.ends.pop(number, None)
            self._answered(number, 0)
            self.handle(center_events.Disconnected(number))

        end.on_message, end.on_close = hear, lose

    def die(self) -> None:
        self.is_alive = False
        del self.world.doors[CENTER]
        for end in self.ends.values():
            end.close()

    def do_Send(self, what: center_events.Send) -> None:  # noqa: N802  named as the instruction
        message = what.message
        if what.connection not in self.ends:
            return
        if isinstance(message, m.Reply) and what.connection in self.state.directory.by_connection:
            message = m.Reply(
                None
            )  # all members: a worker's shell keeps them to find the way, its mind does not hear it
        self.ends[what.connection].send(message, what.request)

    def do_Broadcast(self, what: center_events.Broadcast) -> None:  # noqa: N802
        frame, buffers = encode_header(what.message), list(buffers_of(what.message))
        workers = self.state.directory.by_connection if isinstance(what.message, m.WorkerJoined) else ()
        for connection in what.connections:
            if connection in self.ends and connection not in workers:  # as above: only their shells want to know
                self.ends[connection].send_frame(frame, buffers)

    def do_Tell(self, what: center_events.Tell) -> None:  # noqa: N802
        asked = {(connection, next(self._numbers)) for connection in what.connections if connection in self.ends}
        self._telling[what.token] = asked
        for connection, request in sorted(asked):
            self.ends[connection].send(what.message, request)
        self._answered(0, 0)

    def _answered(self, connection: int, request: int) -> None:
        for token, asked in list(self._telling.items()):
            self._telling[token] = {who for who in asked if who[0] != connection or request not in (0, who[1])}
            if not self._telling[token]:
                del self._telling[token]
                self.handle(center_events.Told(token))

    def do_WakeAt(self, what: center_events.WakeAt) -> None:  # noqa: N802
        self.wake_at(what.time, center_events.Tick())

    def do_Close(self, what: center_events.Close) -> None:  # noqa: N802
        end = self.ends.pop(what.connection, None)
        if end is not None:
            end.close()
            self._answered(what.connection, 0)
            self.handle(center_events.Disconnected(what.connection))

    def do_Say(self, what: center_events.Say) -> None:  # noqa: N802
        pass


class WorkerActor(Actor):
    """A worker with its store of virtual files and its virtual executors."""

    def __init__(self, world: World, settings: Settings, member: m.Member) -> None:
        super().__init__(world, member.address)
        self.member, self.settings = member, settings
        self.spill_directory = f"{member.incarnation}/disk" if world.has_disks else ""
        self.state = WorkerState(member, settings, self.spill_directory)
        self.files: dict[str, File] = {}
        self.executors: dict[int, VirtualExecutor] = {}
        self.clients: dict[str, End] = {}
        self.center: End | None = None
        self.ends: dict[End, None] = {}
        self.writers: dict[int, Any] = {}  # who waits for room
        self.posted: dict[int, str] = {}  # writer -> the file of a message that is being handed over
        self.full_until_s = 0.0  # no room in the file system, whatever the accounts say
        self.on_leave: Callable[[], None] = lambda: None
        self._numbers = itertools.count(1)
        world.doors[member.address] = self.accept
        world.bulk[member.address] = self
        for instruction in self.state.start():
            self.perform(instruction)
        self._find_center()

    def check(self) -> None:
        super().check()
        for executor in self.state.dispatch.executors.values():
            for part in executor.given:
                for (key, attempt, *_), entry in zip(part.inputs[0] if part.entries else (), part.entries, strict=True):
                    is_right = not isinstance(entry, Entry) or entry.attempt == attempt
                    assert is_right, f"{entry} is read for {key}@{attempt}"

    def die(self, is_silent: bool = False) -> None:
        """kill -9, or (silent) a machine that loses its power: pools learn of it when nothing answers their kernel."""
        self.is_alive = False
        self.world.hang_up(self.name)
        for end in self.ends:
            if is_silent and end is not self.center:
                end.is_open = False
                self.world.after(self.world.dice.uniform(1.0, self.settings.silent_worker_s), end.peer._hear_end)
            else:
                end.close()

    # ----------------------------------------------------------------------------------------------------- center

    def _find_center(self) -> None:
        if self.is_alive:
            self.world.connect(CENTER, self._found_center, self.name)

    def _found_center(self, end: End | None) -> None:
        if end is None or not end.is_open or not self.is_alive:
            self.world.after(self.settings.reconnect_interval_s, self._find_center)
            return
        end.on_message, end.on_close = self._hear_center, self._lose_center
        self.center = end
        self.ends[end] = None
        self.handle(events.CenterConnected())

    def _hear_center(self, end: End, message: m.Message, request: int) -> None:
        if isinstance(message, (m.OwnerLeft, m.Pin, m.Unpin, m.WorkerLeft, m.Adopt, m.HandedOver)):
            self.handle(events.FromCenter(message))
        if request and not isinstance(message, m.Reply):
            end.send(m.Reply(None), request)

    def _lose_center(self, end: End) -> None:
        self.ends.pop(end, None)
        self.center = None
        self.handle(events.CenterLost())
        self.world.after(self.settings.reconnect_interval_s, self._find_center)

    def do_ToCenter(self, what: events.ToCenter) -> None:  # noqa: N802
        if self.center is not None:
            self.center.send(what.message, 1 if isinstance(what.message, m.Register) else 0)

    # ------------------------------------------------------------------------------------------------------ pools

    def accept(self, end: End) -> None:
        self.ends[end] = None
        client = ""

        def hear(_: End, message: m.Message, request: int) -> None:
            nonlocal client
            if isinstance(message, m.Attach):
                client = message.client
                older = self.clients.get(client)
                if older is not None:
                    older.close()
                self.clients[client] = end
            self.handle(events.FromClient(client, message))
            if request:
                end.send(m.Reply({"member": self.member, "held": self.state.held_of(client)}), request)

        def lose(_: End) -> None:
            self.ends.pop(end, None)
            if self.clients.get(client) is end:
                del self.clients[client]
                self.handle(events.ClientDisconnected(client))

        end.on_message, end.on_close = hear, lose

    def do_Send(self, what: events.Send) -> None:  # noqa: N802
        if what.client in self.clients:
            self.clients[what.client].send(what.message)

    def do_HangUp(self, what: events.HangUp) -> None:  # noqa: N802
        end = self.clients.pop(what.client, None)
        if end is not None:
            self.ends.pop(end)
            end.close()
            self.handle(events.ClientDisconnected(what.client))

    def do_WakeAt(self, what: events.WakeAt) -> None:  # noqa: N802
        self.wake_at(what.time_s, events.Tick())

    def do_Say(self, what: events.Say) -> None:  # noqa: N802
        self.world.note(self.name, what.text)

    def leave(self) -> None:
        """SIGTERM."""
        self.handle(events.LeaveAsked())

    def do_Leave(self, what: events.Leave) -> None:  # noqa: N802
        """It goes in an orderly way: what it said before is heard before."""
        self.on_leave()
        if self.center is not None:
            self.center.send(m.Unregister())
        self.die()

    def do_Log(self, what: events.Log) -> None:  # noqa: N802
        self.world.note(self.name, what.text.replace("\n", " "))

    # -------------------------------------------------------------------------------------------------- executors

    def do_Spawn(self, what: events.Spawn) -> None:  # noqa: N802
        self.executors[what.executor] = VirtualExecutor(self, what.executor, what.asynchronous)

    def do_Give(self, what: events.Give) -> None:  # noqa: N802
        if what.executor in self.executors:
            self.executors[what.executor].receive(what.message)

    def do_Kill(self, what: events.Kill) -> None:  # noqa: N802
        if what.executor in self.executors:
            self.world.after(self.world.delay_s(), self.executors[what.executor].die, 9)

    def do_AskRunning(self, what: events.AskRunning) -> None:  # noqa: N802
        executor = self.executors.get(what.executor)
        serial, started_s = executor.running() if executor else (0, 0.0)
        self.handle(events.Running(what.executor, serial, started_s))

    # ------------------------------------------------------------------------------------------------------ files

    @property
    def is_full(self) -> bool:
        return self.full_until_s > self.world.now

    def make_file(self, nbytes: int, content: bytes = b"", on_disk: bool = False) -> str:
        path = f"{self.spill_directory if on_disk else self.member.incarnation}/{next(self._numbers)}"
        self.files[path] = File(nbytes, content)
        return path

    def do_Allocate(self, what: events.Allocate) -> None:  # noqa: N802
        def allocate() -> None:
            if self.is_full:
                self.world.fault("allocation failed")
                self.handle(events.AllocationFailed(what.ticket, "No space left on device"))
            else:
                self.handle(events.Allocated(what.ticket, self.make_file(what.nbytes, on_disk=what.on_disk)))

        self.world.after(self.world.delay_s(), allocate)

    def do_Spill(self, what: events.Spill) -> None:  # noqa: N802
        source = self.files[what.path]

        def spill() -> None:
            if self.is_full or (self.world.is_faulty and self.world.dice.random() < 0.05):
                self.world.fault("spilling failed")
                self.handle(events.SpillFailed(what.ticket, "disk full"))
            else:
                self.handle(events.Spilled(what.ticket, self.make_file(source.nbytes, source.content, on_disk=True)))

        self.world.after(self.world.delay_s() + source.nbytes / DISK_BYTES_PER_S, spill)

    def do_Load(self, what: events.Load) -> None:  # noqa: N802
        source = self.files[what.path]

        def load() -> None:
            if self.is_full or (self.world.is_faulty and self.world.dice.random() < 0.05):
                self.world.fault("loading failed")
                self.handle(events.LoadFailed(what.ticket, "others filled it"))
            else:
                self.handle(events.Loaded(what.ticket, self.make_file(source.nbytes, source.content)))

        self.world.after(self.world.delay_s() + source.nbytes / DISK_BYTES_PER_S, load)

    def do_Remove(self, what: events.Remove) -> None:  # noqa: N802
        del self.files[what.path]

    # ------------------------------------------------------------------------------------------------------- bulk

    def do_Fetch(self, what: events.Fetch) -> None:  # noqa: N802
        def arrived(values: list[tuple[int, bytes]] | None) -> None:
            if values is None or (
                self.is_full and any(nbytes > self.settings.inline_bytes_max for nbytes, _ in values)
            ):
                reason = "the connection broke" if values is None else "No space left on device"
                self.handle(events.FetchFailed(what.fetch, reason, is_full=values is not None))
                return
            sizes, contents, paths = [], [], []
            for nbytes, content in values if self.is_alive else ():
                large = nbytes > self.settings.inline_bytes_max
                sizes.append(nbytes)
                contents.append(None if large or nbytes < 0 else content)
                paths.append(self.make_file(nbytes, content, what.on_disk) if large else "")
            self.handle(events.Fetched(what.fetch, sizes, contents, paths))

        self.world.ask(what.peer, lambda peer: peer.give(what.keys, what.attempts), arrived, self.name)

    def give(self, keys: list[str], attempts: list[int]) -> Any:
        """A reader asks for values: what is here now is read, which takes its time."""
        values: list[tuple[int, bytes]] = []
        for key, attempt in zip(keys, attempts, strict=True):
            entry = self.state.store.get(key, attempt)
            if entry is None:
                values.append((-1, b""))
            else:
                assert entry.attempt == attempt or not attempt, f"{entry} was given for attempt {attempt}"
                values.append((entry.nbytes, self.files[entry.path].content if entry.path else entry.data))
        duration_s = sum(nbytes for nbytes, _ in values) / self.world.bandwidth
        return lambda answer: self.world.after(duration_s, answer, values)

    def take(self, owner: str, key: str, nbytes: int, content: bytes) -> Any:
        """A writer brings a value; a large one asks for room first. Answered when it is stored; False: no room."""

        def bring(answer: Any) -> None:
            if nbytes <= self.settings.inline_bytes_max:
                store("", answer)
                return
            writer = next(self._numbers)
            self.writers[writer] = lambda path: enter(path, answer)
            self.handle(events.RoomWanted(writer, nbytes))

        def enter(path: str | None, answer: Any) -> None:
            if path and owner in self.world.gone:
                self.handle(events.RoomAbandoned(path))
                answer(None)
            elif path:
                store(path, answer)
            else:
                answer(None if path is None else False)

        def store(path: str, answer: Any) -> None:
            if path:
                self.files[path].content = content
            self.handle(events.Put(owner, [key], [nbytes], [None if path else content], [path]))
            answer(True)

        return bring

    def post(self, address: str, key: str, attempt: int, sender: int, nbytes: int) -> None:
        """An executor here has a message for a member of its group."""
        self.world.ask(
            address, lambda worker: worker.take_post(key, attempt, sender, nbytes), lambda answer: None, self.name
        )

    def take_post(self, key: str, attempt: int, sender: int, nbytes: int) -> Any:
        """A member of a group brings a message for one that is here; a large one asks for room first."""
        writer = next(self._numbers)

        def bring(answer: Any) -> None:
            if nbytes <= self.settings.inline_bytes_max:
                self.handle(events.Posted(writer, [key], [attempt], [1], sender, 0, nbytes, b"letter", ""))
            else:
                self.writers[writer] = enter
                self.handle(events.RoomWanted(writer, nbytes))

        def enter(path: str | None) -> None:
            if path:
                self.posted[writer] = path
                self.handle(events.Posted(writer, [key], [attempt], [1], sender, 0, nbytes, b"", path))

        return bring

    def do_AnswerPost(self, what: events.AnswerPost) -> None:  # noqa: N802
        path = self.posted.pop(what.writer, "")
        if path and what.outcome != "taken":
            self.world.after(0.0, self.handle, events.RoomAbandoned(path))

    def do_GrantRoom(self, what: events.GrantRoom) -> None:  # noqa: N802
        self.world.after(self.world.delay_s(), self._granted, what.writer, what.path)

    def do_RefuseRoom(self, what: events.RefuseRoom) -> None:  # noqa: N802
        self.world.after(self.world.delay_s(), self._granted, what.writer, "")

    def _granted(self, writer: int, path: str) -> None:
        if self.world.postpones(self.name, self._granted, writer, path):
            return
        answer = self.writers.pop(writer)
        if path and self.is_alive and self.world.is_faulty and self.world.dice.random() < 0.1:
            self.world.fault("put broken", f"a writer at {self.name} ends before it writes")
            self.handle(events.RoomAbandoned(path))
            answer(None)
        elif self.is_alive:
            answer(path)
