"""What the center knows and decides: members, key directory, leases of owners, published names.

Pure: an event goes in, instructions come out. It refuses to know of sockets, clocks and values. All of it is soft:
workers bring their keys and the published names along when they register, clients their leases.

A member is an address *and* an incarnation; its registration belongs to one connection::

    absent --Register--> member --Unregister, Disconnected--> absent
                         member --Register on another connection--> member (the older connection is closed,
                                                                    and what still comes over it is dropped)

A client's lease::

    none --RegisterClient--> held --Disconnected--> lapsing --closed_client_lease_s--> none, and `OwnerLeft`
    none --a worker has keys of it--> lapsing      (after a restart: it may still come)
    held, lapsing --UnregisterClient--> none, and `OwnerLeft`
    lapsing --RegisterClient--> held
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import secrets
from collections.abc import Callable
from typing import Any

from distributed.center.borrowing import Borrowing, Waiter
from distributed.center.directory import Directory, Entry, Registration, known_as, owners_of
from distributed.center.events import (
    Broadcast,
    Close,
    Disconnected,
    End,
    Event,
    Instruction,
    Join,
    Part,
    Parted,
    Received,
    Say,
    Send,
    Told,
    WakeAt,
)
from distributed.center.handover import Handover
from distributed.center.handover import Told as ToBeTold
from distributed.center.names import Names, Publication
from distributed.center.splices import Asking, Splices
from distributed.config import SETTINGS, Settings
from distributed.key import owner_of
from distributed.quantities import count
from distributed.version import version_difference
from distributed.wire import messages as m

ALARMS_TO_SPARE = 64  # so many that are for nobody are not worth the trouble
TOKEN_BYTES = 16
LEFT = "it left"  # as it was asked to, or as it wanted


@dataclasses.dataclass(slots=True)
class Lease:
    """A client whose keys live. Held while `connection` is not 0, else until `deadline`."""

    name: str = ""
    connection: int = 0
    deadline: float = 0.0


class Refused(Exception):
    """Raised by an operation, turned into a `Refusal` by `handle`; a request that was not one costs the connection."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


class CenterState:
    """The center's mind. Read any attribute, change none: `handle` is the only door."""

    def __init__(
        self,
        settings: Settings = SETTINGS,
        started: float = 0.0,
        about: dict[str, Any] | None = None,
        new_token: Callable[[], str] = lambda: secrets.token_hex(TOKEN_BYTES),
    ) -> None:
        self.settings, self.started = settings, started
        self.about = about if about is not None else {}  # what the shell adds to a status: address, versions
        self.directory = Directory()
        self.handover = Handover(settings, self.directory)
        self.leases: dict[str, Lease] = {}
        self.names = Names(settings, self.directory, self._is_held, self._fate)
        self.borrowing = Borrowing(settings)
        self.splices = Splices(settings, new_token)
        self._clients: dict[int, str] = {}  # by connection
        self._alarms: list[tuple[float, str, Any]] = []  # heap of (time, 'lease', 'waiter', 'name' or 'splice', which)
        self._woken_at = float("inf")
        self._now = started
        self._all_here_s = math.inf  # until then those who knew the center before may come back,
        self._names_here_s = math.inf  # and until then the workers with names, which are soon back if they are alive
        self._early: list[Received] = []  # what was asked meanwhile about names that nobody has told yet
        self._out: list[Instruction] = []

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Absorb one event; return the instructions it calls for."""
        self._now, self._out = now, []
        if self._all_here_s == math.inf:  # counted from the first event: it may have been stopped before that
            self._all_here_s = now + self.settings.closed_client_lease_s
            self._names_here_s = now + self.settings.names_back_s
        if isinstance(event, Received):
            self._received(event)
        elif isinstance(event, Disconnected):
            self._disconnected(event.connection)
        elif isinstance(event, Told):
            self._out += self.names.told(event.token)
        elif isinstance(event, Parted):
            self.splices.part(event.splice)
        else:
            self._tick()
        many = len(self.leases) + 2 * len(self.borrowing.waiters) + len(self.names.waiting) + len(self.splices.asking)
        if len(self._alarms) > 2 * many + ALARMS_TO_SPARE:
            self._clear_alarms()
        if self._alarms and self._alarms[0][0] < self._woken_at:
            self._woken_at = self._alarms[0][0]
            self._out.append(WakeAt(self._woken_at))
        return self._out

    def _received(self, event: Received) -> None:
        operation = _OPERATIONS.get(type(event.message))
        try:
            if event.connection in self.splices.by_connection:
                raise Refused("ProtocolError", f"{event.message.operation}: nothing follows a splice but its answer")
            if operation is None:
                raise Refused("ProtocolError", f"the center has no operation {event.message.operation!r}")
            if self._is_early(event.message):
                self._early.append(event)
                self._wake(self._names_here_s, "names", "")
                return
            operation(self, event.message, event.connection, event.request)
        except Refused as refused:
            if event.request:
                self._out.append(Send(event.connection, m.Refusal(refused.kind, refused.reason), event.request))
            else:
                self._out.append(Close(event.connection, refused.reason))

    def _reply(self, connection: int, request: int, result: Any) -> None:
        if request:
            self._out.append(Send(connection, m.Reply(result), request))

    def _tell_workers(self, message: m.Message) -> None:
        if self.directory.by_connection:
            self._out.append(Broadcast(list(self.directory.by_connection), message))

    def _tell_all_but(self, connection: int, message: m.Message) -> None:
        others = [other for other in (*self.directory.by_connection, *self._clients) if other != connection]
        if others:
            self._out.append(Broadcast(others, message))

    def _wake(self, time: float, kind: str, which: Any) -> None:
        heapq.heappush(self._alarms, (time, kind, which))

    def _clear_alarms(self) -> None:
        """Drop the alarms of requests that were answered and of clients that came back, which are most of them."""
        self._alarms = [alarm for alarm in dict.fromkeys(self._alarms) if self._matters(*alarm)]
        heapq.heapify(self._alarms)

    def _matters(self, time: float, kind: str, which: Any) -> bool:
        if kind == "waiter":
            return which in self.borrowing.waiters
        if kind == "name":
            return which in self.names.waiting
        if kind == "names":
            return bool(self._early)
        if kind == "splice":
            return which in self.splices.asking
        lease = self.leases.get(which)
        return lease is not None and not lease.connection and lease.deadline == time

    # ------------------------------------------------------------------------------------------------- workers

    def _register(self, message: m.Register, connection: int, request: int) -> None:
        _check_columns(message)
        if connection in self._clients:
            raise Refused("ProtocolError", "a client's connection cannot register a worker")
        address = message.member.address
        known = self.directory.by_connection.get(connection)
        if known is not None and known.member.address != address:
            self._drop_worker(known, "it registered under another address")
        older = self.directory.members.get(address)
        if older is not None:
            self._replace(older, connection, message.member)
        registration = Registration(message.member, connection, leaving=message.leaving)
        self.directory.join(registration)
        if older is None or older.member != message.member:
            self._tell_all_but(connection, m.WorkerJoined(message.member))
            self._say_joined(message.member)
        self._answer_with_members(connection, request)
        self._out += self.names.merge(message, connection, self._owners())
        self._hear_early()
        self._add(registration, message.keys, message.attempts, message.nbytes)
        self._tell(self.handover.pump())

    def _replace(self, older: Registration, connection: int, member: m.Member) -> None:
        """The worker at this address registered before: its keys go, and its connection if that is another."""
        self.directory.leave(older)
        self.handover.forget(older.member.address)  # others are found for what waits when the new one counts, too
        if older.connection != connection:
            self._out.append(Close(older.connection, "replaced by a newer registration"))
        if older.member.incarnation != member.incarnation:
            reason = "another worker started at its address"
            left = m.WorkerLeft(older.member.address, older.member.incarnation, reason)
            self._part_from(older.member)
            self._tell_all_but(connection, left)
            self._refuse_splices_to(older.member)

    def _answer_with_members(self, connection: int, request: int) -> None:
        members = [registration.member for registration in self.directory.members.values()]
        answer = m.Reply(members) if request else m.Members(members)
        self._out.append(Send(connection, answer, request))

    def _say_joined(self, member: m.Member) -> None:
        self._out.append(
            Say(f"worker {known_as(member)} joined: {count(member.ncores, 'core')}, incarnation {member.incarnation}")
        )
        for other in self.directory.unlike(member):
            difference = version_difference(other.versions, member.versions)
            if difference:
                text = f"worker {known_as(member)} differs from {known_as(other)}: {difference}"
                self._out.append(Say(f"{text}; install the same versions, or tasks may fail to unpickle"))
                return

    def _unregister(self, message: m.Unregister, connection: int, request: int) -> None:
        registration = self.directory.by_connection.get(connection)
        if registration is not None:
            self._drop_worker(registration, LEFT)
        self._reply(connection, request, None)

    def _drop_worker(self, registration: Registration, reason: str) -> None:
        member = registration.member
        self.directory.leave(registration)
        self.handover.forget(member.address)
        self._tell(self.handover.pump())
        self._tell_all_but(registration.connection, m.WorkerLeft(member.address, member.incarnation, reason))
        name = known_as(member)
        self._out.append(Say(f"worker {name} left" if reason == LEFT else f"lost worker {name}: {reason}"))
        self._refuse_splices_to(member)

    def _registration(self, connection: int, request: int) -> Registration | None:
        """Who reports; None for what still comes over the connection of an older registration."""
        registration = self.directory.by_connection.get(connection)
        if registration is None and request:
            raise Refused("ProtocolError", "register first: only a registered worker reports keys and load")
        return registration

    def _tell(self, told: ToBeTold) -> None:
        self._out += [Send(registration.connection, message) for registration, message in told]

    def _leaving(self, message: m.Leaving, connection: int, request: int) -> None:
        registration = self._registration(connection, request)
        if registration is not None:
            registration.leaving = True
            self._out.append(Say(f"worker {known_as(registration.member)} is leaving"))
            self._reply(connection, request, None)

    def _hand_over(self, message: m.HandOver, connection: int, request: int) -> None:
        registration = self._registration(connection, request)
        if registration is not None:
            _check_columns(message)
            if not registration.leaving:
                raise Refused("ProtocolError", "hand_over: only a worker that leaves hands over")
            self._tell(self.handover.want(registration.member.address, message.keys, message.attempts, message.nbytes))
            self._reply(connection, request, None)

    def _adopted(self, message: m.Adopted, connection: int, request: int) -> None:
        registration = self._registration(connection, request)
        if registration is not None:
            self._tell(self.handover.answered(registration.member.address, message))
            self._reply(connection, request, None)

    def _add_keys(self, message: m.AddKeys, connection: int, request: int) -> None:
        registration = self._registration(connection, request)
        if registration is not None:
            _check_columns(message)
            self._add(registration, message.keys, message.attempts, message.nbytes)
            self._reply(connection, request, None)

    def _add(self, registration: Registration, keys: list[str], attempts: list[int], sizes: list[int]) -> None:
        self.directory.add(registration, keys, attempts, sizes)
        for owner in sorted(owners_of(keys)):
            if owner and owner not in self.leases:
                self._lapse(owner, Lease())
        self._answer_those_who_wait_for(keys)
        self._out += self.names.heard_of(keys)

    def _remove_keys(self, message: m.RemoveKeys, connection: int, request: int) -> None:
        registration = self._registration(connection, request)
        if registration is not None:
            self.directory.remove(registration, message.keys)
            self._reply(connection, request, None)

    def _report_load(self, message: m.ReportLoad, connection: int, request: int) -> None:
        registration = self._registration(connection, request)
        if registration is not None:
            registration.load = message
            self._reply(connection, request, None)

    # ------------------------------------------------------------------------------------------------- clients

    def _register_client(self, message: m.RegisterClient, connection: int, request: int) -> None:
        client = message.client
        if not client or "/" in client:
            raise Refused("ProtocolError", f"{client!r} cannot name a client")
        if connection in self.directory.by_connection or self._clients.get(connection, client) != client:
            raise Refused("ProtocolError", "this connection is registered already, as somebody else")
        lease = self.leases.setdefault(client, Lease())
        if lease.connection not in (0, connection):
            del self._clients[lease.connection]
            self._out.append(Close(lease.connection, "replaced by a newer registration"))
        lease.name, lease.connection = message.name, connection
        self.borrowing.forget_exports(client)  # it says again which there are: some may have been taken back meanwhile
        self._clients[connection] = client
        self._answer_with_members(connection, request)

    def _unregister_client(self, message: m.UnregisterClient, connection: int, request: int) -> None:
        client = self._clients.pop(connection, None)
        if client is not None:
            self._end_lease(client)
        self._reply(connection, request, None)

    def _lapse(self, client: str, lease: Lease) -> None:
        lease.connection, lease.deadline = 0, self._now + self.settings.closed_client_lease_s
        self.leases[client] = lease
        self._wake(lease.deadline, "lease", client)

    def _end_lease(self, client: str) -> None:
        del self.leases[client]
        self.borrowing.forget_owner(client)
        self._tell_workers(m.OwnerLeft(client))
        for waiter in self.borrowing.hopeless(lambda key: owner_of(key) == client):
            self._answer(waiter)

    def _owners(self) -> list[str]:
        return list(self.leases)

    def _client(self, connection: int) -> str:
        if connection not in self._clients:
            raise Refused("ProtocolError", "register as a client first")
        return self._clients[connection]

    # ------------------------------------------------------------------------------------------------- names

    def _is_early(self, message: m.Message) -> bool:
        """Whether this is about a name that a worker may know which is on its way back to a center that was away."""
        return (
            self._now < self._names_here_s
            and isinstance(message, (m.LookUp, m.Publish, m.Unpublish))
            and message.name not in self.names.publications
            and len(self._early) < self.settings.borrowers_waiting_max
        )

    def _hear_early(self) -> None:
        """Answer what was asked too early, as far as it no longer is."""
        early, self._early = self._early, []
        for event in early:
            self._received(event)

    def _publish(self, message: m.Publish, connection: int, request: int) -> None:
        known = self.names.publications.get(message.name)
        if known is not None and known.key != message.key:
            raise Refused("NameTaken", f"the name {message.name!r} is taken; unpublish it first")
        if not 0 < len(message.name) <= self.settings.name_characters_max:
            raise Refused("DistributedError", f"a name has 1 to {self.settings.name_characters_max} characters")
        count = len(self.names.publications)
        if known is None and count >= self.settings.names_max:
            raise Refused("DistributedError", f"{count} names are published, no more fit; unpublish some")
        attempts = {key: self.borrowing.attempt_of(key) or 0 for key in [message.key, *message.keys]}
        self._out += self.names.publish(message, attempts, connection, request, self._now)
        if message.name in self.names.waiting:
            self._wake(self.names.waiting[message.name].deadline, "name", message.name)

    def _unpublish(self, message: m.Unpublish, connection: int, request: int) -> None:
        key = message.key or self._known_name(message.name).key
        self._out += self.names.unpublish(message.name, key, self._owners())
        self._reply(connection, request, None)

    def _is_held(self, key: str, connections: set[int]) -> bool:
        """Whether a worker that has one of these connections holds what counts as the value of a key."""
        counts = self._counts(key)
        return any(
            self.directory.members[address].connection in connections and counts in (None, entry[0])
            for address, entry in self.directory.who_has(key).items()
        )

    def _fate(self, key: str) -> str:
        """What the owner of a key says of it."""
        if self.borrowing.error_of(key):
            return "lost"
        return "to come" if self.borrowing.attempt_of(key) == 0 else ""

    def _look_up(self, message: m.LookUp, connection: int, request: int) -> None:
        if message.name:
            self._reply(connection, request, self._known_name(message.name).key)
        else:
            self._reply(connection, request, sorted(self.names.publications))

    def _known_name(self, name: str) -> Publication:
        if name not in self.names.publications:
            raise Refused("NameUnknown", f"nothing is published under the name {name!r}")
        return self.names.publications[name]

    # ------------------------------------------------------------------------------------------------- borrowing

    def _export(self, message: m.Export, connection: int, request: int) -> None:
        client = self._client(connection)
        if len(message.keys) != len(message.attempts):
            raise Refused("ProtocolError", "export: the columns differ in length")
        self.borrowing.export(client, message.keys, message.attempts)
        self._answer_those_who_wait_for(message.keys)
        self._out += self.names.counts(message.keys, message.attempts) + self.names.heard_of(message.keys)
        self._reply(connection, request, None)

    def _withdraw(self, message: m.Withdraw, connection: int, request: int) -> None:
        client = self._client(connection)
        if len(message.keys) != len(message.errors):
            raise Refused("ProtocolError", "withdraw: the columns differ in length")
        self.borrowing.withdraw(client, message.keys, message.errors)
        self._answer_those_who_wait_for(message.keys)
        self._out += self.names.heard_of(message.keys)
        self._reply(connection, request, None)

    def _who_has(self, message: m.WhoHas, connection: int, request: int) -> None:
        deadline = self._now + message.wait_s
        patience = min(deadline, self._now + self.settings.borrow_wait_s)
        by_hand = connection not in self._clients
        waiter = Waiter(connection, request, message.keys, set(), patience, deadline, by_hand)
        if message.wait_s > 0 and request and self.borrowing.may_wait():
            waiter.missing = {key for key in message.keys if self._may_come(key, waiter)}
        if not waiter.missing:
            self._answer(waiter, with_errors=message.wait_s > 0)
            return
        number = self.borrowing.wait(waiter)
        for time in sorted({patience, deadline}):
            self._wake(time, "waiter", number)

    def _answer_those_who_wait_for(self, keys: list[str]) -> None:
        """These keys may be there now, and it may be known which attempt counts."""
        if wanted := self.borrowing.wanted(keys):
            for waiter in self.borrowing.found(wanted, lambda key, waiter: not self._may_come(key, waiter)):
                self._answer(waiter)

    def _holders(self, key: str, waiter: Waiter) -> dict[str, Entry]:
        """Who has a key that somebody borrows: of another attempt than the one that counts nobody has it."""
        holders, counts = self.directory.who_has(key), self._counts(key)
        if waiter.by_hand:
            return holders
        if counts is None:  # its owner has not said, and cannot have published it unless there is a name for it
            return holders if key in self.names.kept or not owner_of(key) else {}
        return {address: entry for address, entry in holders.items() if entry[0] == counts}

    def _counts(self, key: str) -> int | None:
        """Which attempt of a key its owner has published, or a name keeps; 0: none yet; None: nobody has said."""
        counts = self.borrowing.attempt_of(key)
        return counts if counts is not None else self.names.attempts.get(key)

    def _error_of(self, key: str) -> bytes | None:
        """Why a key will not come. That its owner released it is no reason while it has a name."""
        error = self.borrowing.error_of(key)
        return None if error == b"" and key in self.names.kept else error

    def _may_come(self, key: str, waiter: Waiter) -> bool:
        owner = owner_of(key)
        if self._error_of(key) is not None or self._holders(key, waiter):
            return False
        if not owner or self.borrowing.attempt_of(key) is not None:
            return True
        return owner in self.leases or self._now < self._all_here_s  # or it may still register again

    def _answer(self, waiter: Waiter, with_errors: bool = True) -> None:
        answer: dict[str, dict[str, Entry] | bytes] = {}
        for key in waiter.keys:
            error = self._error_of(key) if with_errors else None
            if error is not None:
                answer[key] = error
            elif holders := self._holders(key, waiter) if with_errors else self.directory.who_has(key):
                answer[key] = holders
        self._reply(waiter.connection, waiter.request, answer)

    # ------------------------------------------------------------------------------------------------- splices

    def _splice(self, message: m.Splice, connection: int, request: int) -> None:
        self._require_unused(connection, request)
        registration = self.directory.members.get(message.address)
        if registration is None:
            raise Refused("ConnectionFailed", f"no worker of the address {message.address!r} is a member of the center")
        if message.incarnation not in ("", registration.member.incarnation):
            reason = "another worker is there than the one that was meant: has it been started again?"
            raise Refused("WrongPeer", reason)
        if self.splices.is_full():
            most = self.settings.spliced_connections_max
            reason = f"the center passes on {most} connections already, and takes no more (spliced_connections_max)"
            raise Refused("ConnectionFailed", reason)
        incarnation = registration.member.incarnation
        token = self.splices.ask(connection, request, incarnation, message.for_values, self._now)
        self._wake(self.splices.asking[token].deadline, "splice", token)
        self._out.append(Send(registration.connection, m.DialBack(token)))

    def _dialled_back(self, message: m.DialledBack, connection: int, request: int) -> None:
        self._require_unused(connection, request)
        joined = self.splices.join(message.token)
        if joined is None:
            raise Refused("ProtocolError", "dialled_back: nobody waits for this token")
        number, asking = joined
        self._reply(asking.connection, asking.request, asking.incarnation)
        self._reply(connection, request, None)
        self._out.append(Join(number, asking.connection, connection, asking.idle_s))

    def _require_unused(self, connection: int, request: int) -> None:
        """What is led elsewhere is nobody's connection to the center, and begins with one request."""
        if connection in self._clients or connection in self.directory.by_connection or not request:
            raise Refused("ProtocolError", "splice and dialled_back are the only request on a connection of their own")

    def _refuse_splice(self, asking: Asking, reason: str) -> None:
        refusal = m.Refusal("ConnectionFailed", reason)
        self._out.append(Send(asking.connection, refusal, asking.request))

    def _part_from(self, member: m.Member) -> None:
        """It ended, perhaps without a word: what leads to its machine would end only much later."""
        self._out += [Part(number) for number in self.splices.leading_to(member.incarnation)]

    def _refuse_splices_to(self, member: m.Member) -> None:
        for asking in self.splices.despair(member.incarnation):
            self._refuse_splice(asking, "the worker is not a member of the center any more")

    # ------------------------------------------------------------------------------------------------- questions

    def _has_what(self, message: m.HasWhat, connection: int, request: int) -> None:
        addresses = message.addresses or list(self.directory.members)
        known = [address for address in addresses if address in self.directory.members]
        self._reply(connection, request, {address: self.directory.members[address].has_what() for address in known})

    def _ncores(self, message: m.Ncores, connection: int, request: int) -> None:
        answer = {address: registration.member.ncores for address, registration in self.directory.members.items()}
        self._reply(connection, request, answer)

    def _ping(self, message: m.Ping, connection: int, request: int) -> None:
        self._reply(connection, request, "pong")

    def _status(self, message: m.Status, connection: int, request: int) -> None:
        self._reply(connection, request, self.status(self._now))

    def _terminate(self, message: m.Terminate, connection: int, request: int) -> None:
        self._reply(connection, request, None)
        self._out.append(End())

    def status(self, now: float) -> dict[str, Any]:
        """Everything a person may want to know, as plain data."""
        return {
            "role": "center",
            **self.about,
            "uptime_s": round(now - self.started, 3),
            "members": [registration.status() for registration in self.directory.members.values()],
            "clients": [
                {"client": client, "name": lease.name, "connected": bool(lease.connection)}
                for client, lease in self.leases.items()
            ],
            "names": {name: publication.key for name, publication in sorted(self.names.publications.items())},
            "keys": self.directory.count(),
            "nbytes": sum(registration.nbytes for registration in self.directory.members.values()),
            "waiting": len(self.borrowing.waiters),
            "spliced": len(self.splices.joined),
        }

    # ------------------------------------------------------------------------------------------------- time and loss

    def _disconnected(self, connection: int) -> None:
        self.borrowing.forget_connection(connection)
        self.splices.forget_connection(connection)
        self.names.forget_connection(connection)
        self._early = [event for event in self._early if event.connection != connection]
        registration = self.directory.by_connection.get(connection)
        if registration is not None:
            self._part_from(registration.member)
            self._drop_worker(registration, "its connection broke")
        client = self._clients.pop(connection, None)
        if client is not None:
            self._lapse(client, self.leases[client])

    def _tick(self) -> None:
        self._woken_at = float("inf")
        while self._alarms and self._alarms[0][0] <= self._now:
            _, kind, which = heapq.heappop(self._alarms)
            if kind == "lease":
                lease = self.leases.get(which)
                if lease is not None and not lease.connection and lease.deadline <= self._now:
                    self._out.append(Say(f"client {which} is gone: its keys go too"))
                    self._end_lease(which)
            elif kind == "name":
                self._out += self.names.give_up(which, self._now)
            elif kind == "names":
                self._hear_early()
            elif kind == "splice":
                asking = self.splices.give_up(which, self._now)
                if asking is not None:
                    patience_s = self.settings.dial_back_s
                    self._refuse_splice(asking, f"the worker did not dial back to the center within {patience_s:g} s")
            else:
                waiter = self.borrowing.give_up(which, self._now)
                if waiter is not None:
                    self._answer(waiter)

    # ------------------------------------------------------------------------------------------------- invariants

    def check(self) -> None:
        """Assert what must hold between any two events."""
        self.directory.check()
        self.handover.check()
        self.borrowing.check()
        self.splices.check()
        alarms = {which for _, kind, which in self._alarms if kind == "lease"}
        for connection, client in self._clients.items():
            assert self.leases[client].connection == connection
            assert connection not in self.directory.by_connection
        for client, lease in self.leases.items():
            assert self._clients[lease.connection] == client if lease.connection else client in alarms
        assert all(owner in self.leases for owner in self.borrowing.exported)
        self.names.check()
        assert not self._alarms or self._woken_at <= self._alarms[0][0]


def _check_columns(message: m.Register | m.AddKeys | m.HandOver) -> None:
    if not len(message.keys) == len(message.attempts) == len(message.nbytes):
        raise Refused("ProtocolError", f"{message.operation}: the columns differ in length")


_OPERATIONS: dict[type[m.Message], Callable[..., None]] = {
    m.Register: CenterState._register,
    m.Unregister: CenterState._unregister,
    m.Leaving: CenterState._leaving,
    m.HandOver: CenterState._hand_over,
    m.Adopted: CenterState._adopted,
    m.AddKeys: CenterState._add_keys,
    m.RemoveKeys: CenterState._remove_keys,
    m.ReportLoad: CenterState._report_load,
    m.RegisterClient: CenterState._register_client,
    m.UnregisterClient: CenterState._unregister_client,
    m.Publish: CenterState._publish,
    m.Unpublish: CenterState._unpublish,
    m.LookUp: CenterState._look_up,
    m.Export: CenterState._export,
    m.Withdraw: CenterState._withdraw,
    m.WhoHas: CenterState._who_has,
    m.Splice: CenterState._splice,
    m.DialledBack: CenterState._dialled_back,
    m.HasWhat: CenterState._has_what,
    m.Ncores: CenterState._ncores,
    m.Ping: CenterState._ping,
    m.Status: CenterState._status,
    m.Terminate: CenterState._terminate,
}
