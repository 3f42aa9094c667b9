"""The worker as a daemon: carries events to its mind (:class:`~distributed.worker.state.WorkerState`), does as told.

It owns the arms (files, listener, bulk server, fetcher, supervisor of executors, connection to the center) and
starts and ends them in the right order. It decides nothing, and never unpickles a value.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from distributed import address as addresses
from distributed import arguments, machine, spilling
from distributed.bulk import BulkServer
from distributed.comm import Connection, connect
from distributed.config import SETTINGS
from distributed.connect import UNIX_PATH_BYTES_MAX
from distributed.errors import DistributedError, ProtocolError
from distributed.listen import Listener
from distributed.relay import Roads
from distributed.resources import amounts
from distributed.version import installed
from distributed.wire import codec
from distributed.wire import messages as m
from distributed.wire.security import find_secret
from distributed.worker import events
from distributed.worker.callbacks import Callbacks
from distributed.worker.doorway import Doorway
from distributed.worker.errands import Errands, in_thread
from distributed.worker.fetch import Fetcher
from distributed.worker.files import Files
from distributed.worker.launch import executor_environment
from distributed.worker.place import LOOPBACK, Place
from distributed.worker.state import WorkerState
from distributed.worker.supervise import End, Supervisor

log = logging.getLogger("distributed.worker")

FROM_POOLS = (m.Compute, m.DefineFunction, m.Cancel, m.Recall, m.Keep, m.Hold, m.Restart, m.TellTask, m.TellGroup)
FROM_EXECUTORS = (m.Outcomes, m.NeedRoom, m.FromTask, m.Blocked, m.LettersRead)
FOR_INNER_TASKS = "distributed.pool.inside"  # what an executor needs whose task submits tasks; many will be started
FROM_CENTER = (m.OwnerLeft, m.Pin, m.Unpin, m.WorkerLeft, m.Adopt, m.HandedOver)


class Worker:
    """A worker of a cluster, on the running event loop, with its executors in processes of their own.

    Parameters
    ----------
    center
        Address of the center to join.
    host, port
        Where to listen; port 0 picks a free one. Default: loopback if the center is there, too; else the address that
        leads to the center, but only where what is said is encrypted, or may be read: else `via_center`.
    ncores
        How many tasks run at a time; default: all cores.
    memory_limit
        Bytes of values to keep in memory; default: a part of the machine's (see `Settings.memory_fraction`).
    task_memory_limit
        Bytes that an executor may have of its own, beside mapped inputs; one with more is killed. 0: no limit; default:
        most of the machine's (see `Settings.task_memory_fraction`).
    resources
        What there is a number of, beside cores, for tasks that ask for it: ``{'gpu': 2}``.
    name
        For people; default: the address.
    directory, spill_directory
        Where large values are kept (default: in memory), and where they go when there is no room (default: a temporary
        directory on disk, if there is one with room; ``'none'``: nowhere).
    insecure_plaintext
        Listen on other addresses than loopback, although nothing is encrypted.
    announce
        The name or address under which others know this machine; default: where it listens.
    via_center
        Nobody connects to this worker: it listens on loopback only, and whoever wants it is led there by the center.

    Examples
    --------
    ::

        worker = Worker('127.0.0.1:8787', ncores=2)
        await worker.start()
        print(worker.address)
        await worker.close()
    """

    @arguments.nearest_names()
    def __init__(
        self,
        center: str,
        host: str | None = None,
        port: int = 0,
        ncores: int | None = None,
        memory_limit: int | None = None,
        task_memory_limit: int | None = None,
        name: str | None = None,
        directory: str | None = None,
        spill_directory: str | None = None,
        insecure_plaintext: bool = False,
        announce: str | None = None,
        via_center: bool = False,
        resources: Mapping[str, int] | None = None,
    ) -> None:
        self.center = addresses.normalized(center)
        self.place = Place(
            None if host is None else arguments.text("host", host),
            arguments.port("port", port),
            None if announce is None else addresses.host("announce", announce),
            arguments.truth("via_center", via_center) or bool(addresses.split_tunnel(self.center)[1]),
            arguments.truth("insecure_plaintext", insecure_plaintext),
        )
        most = SETTINGS.executors_max
        self.ncores = machine.cores() if ncores is None else arguments.count("ncores", ncores, 1, most)
        self.memory_limit = None if memory_limit is None else arguments.count("memory_limit", memory_limit, 2)
        if task_memory_limit is None:
            task_memory_limit = int(SETTINGS.task_memory_fraction * machine.memory_bytes())
        self.task_memory_limit = arguments.count("task_memory_limit", task_memory_limit, 0)
        self.name = None if name is None else arguments.text("name", name)
        self.directory = None if directory is None else arguments.path("directory", directory)
        self.spill_directory = None if spill_directory is None else arguments.path("spill_directory", spill_directory)
        self.resources = {} if resources is None else amounts("resources", resources)
        self.address = ""
        self._members: dict[str, m.Member] = {}
        self._news: list[m.WorkerJoined | m.WorkerLeft] | None = None  # while we wait for the answer to `Register`
        self._connections: dict[Connection, str] = {}  # to the client that is attached, '' if none
        self._clients: dict[str, Connection] = {}
        self._center: Connection | None = None
        self._events: deque[Any] = deque()
        self._is_handling = self._is_leaving = False
        self._timer: asyncio.TimerHandle | None = None
        self._closers: list[Callable[[], Coroutine[Any, Any, None]]] = []  # of what was started, last one first
        self._finished, self._center_lost, self._disconnected = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._perform: dict[type, Callable[[Any], None]] = {
            events.Send: self._send,
            events.HangUp: self._hang_up,
            events.ToCenter: self._to_center,
            events.Give: self._give,
            events.Spawn: lambda what: self._supervisor.spawn(what.executor, what.asynchronous),
            events.Kill: lambda what: self._supervisor.kill(what.executor),
            events.AskRunning: self._ask_running,
            events.Fetch: lambda what: self._errands.fetch(what),
            events.Allocate: lambda what: self._errands.allocate(what),
            events.GrantRoom: lambda what: self._doorway.answer(what.writer, what.path),
            events.RefuseRoom: lambda what: self._doorway.refuse_room(what.writer, what.reason),
            events.AnswerPost: lambda what: self._doorway.answer(what.writer, what.outcome),
            events.Spill: lambda what: self._errands.spill(what),
            events.Load: lambda what: self._errands.load(what),
            events.Remove: lambda what: self._errands.remove(what),
            events.WakeAt: self._wake_at,
            events.Leave: lambda what: self._finished.set(),
            events.Say: lambda what: log.info("%s", what.text),
            events.Log: lambda what: log.warning("%s", what.text),
        }

    # ------------------------------------------------------------------------------------------------ start and end

    async def start(self) -> None:
        """Listen, start executors, and join the cluster; afterwards `address` and `member` are known."""
        self._secret = find_secret()
        self.place = self.place.settled(self.center, self._secret.credential is not None)
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._files = Files(self.directory, spilling.place(self.spill_directory))
        self._closers.append(self._close_files)
        starting = self._start_supervisor()
        await self._listen()
        self.state = WorkerState(self.member, SETTINGS, self._files.spill_directory)
        self._doorway = Doorway(self.state.store, self._on)
        self._bulk = BulkServer(self._doorway)
        self._closers.append(self._close_bulk)
        roads = Roads(self.center, "worker", self._secret)
        self._errands = Errands(self._files, Fetcher(self._files, roads, self._members), self._on)
        self._closers.append(self._errands.close)
        connection = await self._connect()
        await starting
        self._carry_out(self.state.start())
        await self._register(connection)
        self._staying = self._loop.create_task(self._stay_registered())
        self._closers.append(self._stop_staying)

    def _start_supervisor(self) -> asyncio.Task[None]:
        """The slowest part of a start begins first and goes on beside the rest."""
        directories = [path for path in (self._files.directory, self._files.spill_directory) if path]
        self._supervisor = Supervisor(
            lambda executor, pid: self._on(events.ExecutorStarted(executor, pid)),
            self._on_executor,
            self._on_executor_ended,
            self._on_output,
            executor_environment(self._secret),
            center=self.center,
            directories=directories,
            task_memory_limit=self.task_memory_limit,
        )
        starting = self._loop.create_task(self._supervisor.start())

        async def stop() -> None:
            await asyncio.wait({starting})
            if starting.exception() is None:
                await self._supervisor.stop()

        self._closers.append(stop)
        return starting

    async def _listen(self) -> None:
        unix = os.path.join(self._files.directory, "socket")
        unix = unix if len(os.fsencode(unix)) <= UNIX_PATH_BYTES_MAX else ""
        incarnation = secrets.token_hex(8)
        self._listener = await Listener.start(
            self.place.host or LOOPBACK,
            self.place.port,
            unix,
            self._secret,
            "worker",
            self._connected,
            lambda *bulk: self._bulk.serve(*bulk),
            incarnation,
        )
        self._closers.append(self._listener.close)
        self._callbacks = Callbacks(self.center, self._secret, self._listener.take)
        self._closers.append(self._callbacks.close)
        self.address = self.place.announced(self._listener.address, self.center)
        limit = self.memory_limit or int(SETTINGS.memory_fraction * machine.memory_bytes())
        self.member = m.Member(
            address=self.address,
            incarnation=incarnation,
            name=self.name or self.address,
            ncores=self.ncores,
            memory_limit=min(limit, self._files.capacity()),
            unix=self._listener.unix_path,
            directory=self._files.directory,
            pid=os.getpid(),
            versions=installed(),
            relayed=self.place.via_center,
            resources=self.resources,
        )

    @property
    def tls_file(self) -> Path | None:
        """Where the credential of TLS was found; None: what goes over TCP is not encrypted."""
        return self._secret.tls_file

    async def finished(self) -> None:
        """Wait until somebody asked the worker to end (`Terminate`)."""
        await self._finished.wait()

    def leave(self) -> None:
        """Take no new tasks, hand over what only this worker holds, then end; `finished` tells when."""
        self._is_leaving = True
        self._on(events.LeaveAsked())

    async def close(self) -> None:
        """Leave the cluster and end all executors; values held here are gone."""
        self._finished.set()
        departure = self.state.departure if self._is_leaving else None
        if departure is not None and (words := departure.cut_short()):
            log.info("%s", words)
        if self._timer is not None:
            self._timer.cancel()
        if self._center is not None:
            self._center.send(m.Unregister())
        while self._closers:
            await self._closers.pop()()
        for connection in list(self._connections):
            connection.close()
        while self._connections:  # what was sent is flushed first, within a bound of the connection's
            await self._disconnected.wait()
            self._disconnected.clear()

    async def _close_files(self) -> None:
        self._files.close()

    async def _close_bulk(self) -> None:
        self._doorway.close()
        await in_thread(self._bulk.close)

    async def _stop_staying(self) -> None:
        self._staying.cancel()
        await asyncio.wait({self._staying})

    # --------------------------------------------------------------------------------------------------- the center

    async def _connect(self) -> Connection:
        connection = await connect(self.center, role="worker", secret=self._secret, expects="center")
        connection.on_message, connection.on_close = self._on_center, self._on_close
        self._connections[connection] = ""
        return connection

    async def _register(self, connection: Connection) -> None:
        """Send a snapshot; from the moment it is sent what changes follows on the same connection."""
        register: Any = None
        for instruction in self.state.handle(events.CenterConnected(), monotonic()):
            if isinstance(instruction, events.ToCenter):
                register = instruction.message
            else:
                self._carry_out([instruction])
        self._center = connection
        news: list[m.WorkerJoined | m.WorkerLeft] = []
        self._news = news
        answer = await connection.ask(register, SETTINGS.connect_timeout_s)  # sends before it first lets go
        self._news = None
        self._know(codec.restore_members(answer), news)

    def _know(self, members: list[m.Member], news: Iterable[m.WorkerJoined | m.WorkerLeft] = ()) -> None:
        """These are all there are, but for the news. Who is missing left, or is late to find a center that came back.

        News that came with the answer are read before we are woken for the answer.
        """
        now = {member.address: member for member in members}
        for message in news:
            if isinstance(message, m.WorkerJoined):
                now[message.member.address] = message.member
            elif message.address in now and now[message.address].incarnation == message.incarnation:
                del now[message.address]
        for address, known in list(self._members.items()):
            if address not in now:
                del self._members[address]
                self._errands.let_go(address)
            elif now[address].incarnation != known.incarnation:
                self._errands.forget(address)
        self._members.update(now)

    async def _stay_registered(self) -> None:
        """When the center was away it has forgotten us: register again, for ever. Whatever we hold, we keep."""
        while True:
            await self._center_lost.wait()
            self._center_lost.clear()
            self._center = None
            self._on(events.CenterLost())
            log.warning("lost the center at %s; trying again, and keeping what is here", self.center)
            while self._center is None:
                await asyncio.sleep(SETTINGS.reconnect_interval_s)
                await self._try_to_register()

    async def _try_to_register(self) -> None:
        try:
            connection = await self._connect()
        except (DistributedError, OSError) as error:
            log.debug("cannot reach the center at %s: %s", self.center, error)
            return
        try:
            await self._register(connection)
            log.info("registered again with the center at %s", self.center)
        except DistributedError as error:
            log.warning("the center at %s does not take this worker: %s", self.center, error)
            connection.close()

    def _on_center(self, connection: Connection, message: m.Message, request: int) -> None:
        if self._news is not None and isinstance(message, (m.WorkerJoined, m.WorkerLeft)):
            self._news.append(message)
        if isinstance(message, m.WorkerJoined):
            self._members[message.member.address] = message.member
        elif isinstance(message, m.Members):
            self._know(message.members)
        elif isinstance(message, m.DialBack):
            self._callbacks.dial(message.token)
        elif isinstance(message, FROM_CENTER):
            if isinstance(message, m.WorkerLeft) and self._forget_member(message):
                self._errands.forget(message.address)
            self._on(events.FromCenter(message))
        else:
            self._on_hand(connection, message, request)
            return
        connection.reply(request)

    def _forget_member(self, message: m.WorkerLeft) -> bool:
        member = self._members.get(message.address)
        if member is None or member.incarnation != message.incarnation:
            return False
        del self._members[message.address]
        return True

    # ------------------------------------------------------------------------------------------- pools, and by hand

    def _connected(self, connection: Connection) -> None:
        self._connections[connection] = ""
        connection.on_message, connection.on_close = self._on_message, self._on_close

    def _on_message(self, connection: Connection, message: m.Message, request: int) -> None:
        if isinstance(message, FROM_POOLS):
            client = self._connections.get(connection)
            if not client:
                raise ProtocolError(f"{message.operation} without attach")
            self._on(events.FromClient(client, message))
            connection.reply(request)
        elif isinstance(message, m.Attach):
            self._attach(connection, message)
            connection.reply(request, {"member": self.member, "held": self.state.held_of(message.client)})
        else:
            self._on_hand(connection, message, request)

    def _attach(self, connection: Connection, message: m.Attach) -> None:
        client = message.client
        if not client or "/" in client or self._connections[connection] not in ("", client):
            raise ProtocolError(f"attach as {client!r}")
        older = self._clients.get(client)
        self._connections[connection], self._clients[client] = client, connection
        if older is not None and older is not connection:
            older.close()
        self._on(events.FromClient(client, message))

    def _on_hand(self, connection: Connection, message: m.Message, request: int) -> None:
        if isinstance(message, m.DeleteData):
            self._on(events.FromClient(self._connections.get(connection, ""), message))
            connection.reply(request)
        elif isinstance(message, m.Ping):
            connection.reply(request, "pong")
        elif isinstance(message, m.Status):
            connection.reply(request, self.status())
        elif isinstance(message, m.Terminate):
            connection.reply(request)
            self._finished.set()
        elif request:
            connection.refuse(request, ProtocolError(f"a worker does not do {message.operation}"))
        else:
            raise ProtocolError(f"a worker does not do {message.operation}")

    @property
    def spills_to(self) -> str:
        """Where values go that memory has no room for; '': nowhere."""
        return self._files.spill_directory

    def status(self) -> dict[str, Any]:
        """What the `status` command shows."""
        own = {"role": "worker", "center": self.center, "pid": os.getpid(), "task_memory_limit": self.task_memory_limit}
        loop = type(self._loop)
        return self.state.status() | own | {"event_loop": f"{loop.__module__}.{loop.__qualname__}"}

    def _on_close(self, connection: Connection, reason: str) -> None:
        client = self._connections.pop(connection, "")
        self._disconnected.set()
        if connection is self._center:
            self._center_lost.set()
        if client and self._clients.get(client) is connection:
            del self._clients[client]
            self._on(events.ClientDisconnected(client))

    # ----------------------------------------------------------------------------------------------------- executors

    def _on_executor(self, executor: int, message: m.Message) -> None:
        """User code runs in that process: what it sends is as trustworthy as that."""
        try:
            if not isinstance(message, FROM_EXECUTORS):
                raise ProtocolError(f"an executor does not do {message.operation}")
            if isinstance(message, m.FromTask):
                self._supervisor.prepare(FOR_INNER_TASKS)
            self._on(events.FromExecutor(executor, message))
        except ProtocolError as error:
            log.warning("executor %d: %s", executor, error)
            self._supervisor.kill(executor)

    def _on_executor_ended(self, executor: int, end: End) -> None:
        self._on(
            events.ExecutorEnded(
                executor,
                end.serial or 0,
                end.signal,
                end.exit_code,
                end.peak_bytes,
                end.stderr_tail,
                end.stack,
                end.cause,
                self.task_memory_limit,
            )
        )

    def _on_output(self, executor: int, stream: str, text: str) -> bool:
        """Whether it was shown. A client that does not read loses what is printed, before it would lose results."""
        serial, _ = self._supervisor.running(executor) or (0, 0.0)
        connection = self._clients.get(self.state.client_of(executor, serial))
        if connection is None:
            log.info("executor %d, %s: %s", executor, stream, text.rstrip())
        elif connection.backlog_bytes > SETTINGS.output_backlog_bytes_max:
            return False
        else:
            child = self.state.dispatch.executors.get(executor)
            connection.send(m.Output(self.member.name, child.pid if child else 0, stream, text))
        return True

    def _ask_running(self, what: events.AskRunning) -> None:
        serial, started_s = self._supervisor.running(what.executor) or (0, 0.0)
        self._on(events.Running(what.executor, serial, started_s))

    # ------------------------------------------------------------------------------------- events in, instructions out

    def _on(self, event: Any) -> None:
        """Handle an event; one that comes up while instructions are carried out waits until they are."""
        self._events.append(event)
        if not self._is_handling:
            self._handle_events()

    def _handle_events(self) -> None:
        if self._finished.is_set():
            self._events.clear()
            return
        self._is_handling = True
        try:
            while self._events:
                self._carry_out(self.state.handle(self._events.popleft(), monotonic()))
        finally:
            self._is_handling = False
            if self._events:  # one was refused; it is not their fault
                self._loop.call_soon(self._handle_events)

    def _carry_out(self, instructions: list[Any]) -> None:
        """Start what is to be started. What cannot even start ends at once, in its event, and the others follow."""
        for instruction in instructions:
            try:
                self._perform[type(instruction)](instruction)
            except Exception as error:
                log.exception("cannot do %s", type(instruction).__name__)
                self._give_up(instruction, f"{type(error).__name__}: {error}")

    def _give_up(self, instruction: Any, reason: str) -> None:
        match instruction:
            case events.Spawn(executor):
                self._on(events.ExecutorEnded(executor, exit_code=1, stderr_tail=f"cannot start it: {reason}"))
            case events.Give(executor):
                self._supervisor.kill(executor)  # its end tells what becomes of what it should have had
            case events.AskRunning(executor):
                self._on(events.Running(executor, 0, 0.0))
            case events.Fetch(fetch):
                self._on(events.FetchFailed(fetch, reason))
            case events.Allocate(ticket):
                self._on(events.AllocationFailed(ticket, reason))
            case events.Spill(ticket):
                self._on(events.SpillFailed(ticket, reason))
            case events.Load(ticket):
                self._on(events.LoadFailed(ticket, reason))

    def _give(self, what: events.Give) -> None:
        child = self._supervisor.children.get(what.executor)
        if child is not None:  # else it is dead, and its end tells what becomes of what it should have had
            child.send(what.message)

    def _send(self, what: events.Send) -> None:
        connection = self._clients.get(what.client)
        if connection is not None:
            connection.send(what.message)

    def _hang_up(self, what: events.HangUp) -> None:
        connection = self._clients.get(what.client)
        if connection is not None:
            connection.close()

    def _to_center(self, what: events.ToCenter) -> None:
        if self._center is not None:
            self._center.send(what.message)

    def _wake_at(self, what: events.WakeAt) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(what.time_s - monotonic(), self._on, events.Tick())
