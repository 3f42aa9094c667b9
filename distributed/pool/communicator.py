"""`Communicator`: what a member of a group says to the others, and hears of them. Runs in the executor of the member.

A message goes straight to the worker of its receiver, on a bulk connection; a large one as a file in that worker's
store, which is written once and mapped by whoever receives it. Collective operations are made of messages whose tags
users cannot have, one tag for each call. What the owner says of the others comes through the door of the executor.
"""

from __future__ import annotations

import operator
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, NoReturn

from distributed import arguments, running
from distributed.bulk import BulkClient
from distributed.config import SETTINGS
from distributed.errors import ConnectionFailed, DistributedError, MemberEnded
from distributed.pool.transfer import map_copy_on_write
from distributed.relay import Roads
from distributed.running import Door, Running
from distributed.wire.messages import GroupBegins, Letter, MembersEnded, Message, Post
from distributed.wire.security import find_secret
from distributed.wire.values import Packed, pack, unpack

AGAIN_S = 0.05  # a worker that could not be reached is tried again so soon
TAG_MAX = (1 << 31) - 1
OPERATIONS = ("barrier", "bcast", "scatter", "gather", "allgather", "allreduce")  # of all members


def run_member(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What each task of a group calls: the user's function, as soon as all members are there."""
    door = running.door
    task = door.running() if door is not None else None
    if door is None or task is None:
        raise DistributedError("a member of a group runs in an executor, and this is none")
    mail = task.mail = Mail()
    door.listen(task, lambda: mail.roster is not None, None)
    door.begin(task)
    comm = Communicator(door, task, mail)
    try:
        return function(comm, *args, **kwargs)
    finally:
        comm._close()
        task.mail = None


class Mail:
    """What has come for this member and was not asked for yet. Filled by whichever thread reads."""

    def __init__(self) -> None:
        self.roster: GroupBegins | None = None
        self.ended: set[int] = set()
        self._letters: dict[tuple[int, int], deque[Letter]] = {}  # by sender and tag

    def hear(self, said: Message) -> None:
        """The owner said something."""
        if isinstance(said, GroupBegins):
            self.roster = said
        elif isinstance(said, MembersEnded):
            self.ended.update(said.ranks)

    def deliver(self, letter: Letter) -> None:
        """A message has come."""
        self._letters.setdefault((letter.sender, letter.tag), deque()).append(letter)

    def find(self, sender: int | None, tag: int | None) -> tuple[int, int] | None:
        """From whom, and with which tag, the next message is that fits."""
        if sender is not None and tag is not None:
            return (sender, tag) if (sender, tag) in self._letters else None
        fitting = [
            name
            for name in self._letters
            if name[0] == (name[0] if sender is None else sender) and (name[1] >= 0 if tag is None else name[1] == tag)
        ]
        return min(fitting, key=lambda name: self._letters[name][0].number, default=None)

    def take(self, name: tuple[int, int]) -> Letter:
        """The first one of those."""
        letters = self._letters[name]
        letter = letters.popleft()
        if not letters:
            del self._letters[name]
        return letter


class Communicator:
    """One member of a group, for its function: which one it is, and how it talks to the others.

    For the thread that runs the function, while that runs. Messages are copies: what is changed after it was sent, or
    after it was received, is changed for nobody else. A large array is written once, into shared memory of the
    receiver's machine, and the receiver's array is a view of that. Handles cannot be sent.

    Collective operations (all but `send` and `recv`) have to be called by all members, in the same order.
    """

    def __init__(self, door: Door, task: Running, mail: Mail) -> None:
        assert mail.roster is not None
        self._door, self._task, self._mail, self._roster = door, task, mail, mail.roster
        self._rank, self._size = self._roster.keys.index(task.key), len(self._roster.keys)
        self._members = {member.address: member for member in self._roster.members}
        self._sent = [0] * self._size  # messages to each rank, so far
        self._rounds = 0  # collective operations, so far
        self._roads = Roads(os.environ.get(running.CENTER, ""), "pool", find_secret())
        self._clients: dict[str, BulkClient] = {}
        self._thread = threading.get_ident()
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Communicator: rank {self._rank} of {self._size}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Communicator stays in its member: the others have their own")

    @property
    def rank(self) -> int:
        """Which member this is: 0, 1, ... up to `size` - 1."""
        return self._rank

    @property
    def size(self) -> int:
        """How many members there are."""
        return self._size

    # ------------------------------------------------------------------------------------------- from one to another

    def send(self, obj: Any, to: int, tag: int = 0) -> None:
        """Send an object to the member of rank `to`; returns when its worker has it, read or not.

        Waits while that member has too much that it has not read (``unread_bytes_max``). Messages of one tag arrive in
        the order in which they were sent. `MemberEnded` if it has returned.
        """
        self._require_usable()
        to = self._a_rank("to", to)
        arguments.count("tag", tag, 0, TAG_MAX)
        self._post([to], tag, _packed(obj))

    def recv(self, from_: int | None = None, tag: int | None = None, timeout: float | None = None) -> Any:
        """The next object from the member of rank `from_` (default: from any), with this tag (default: with any).

        Waits until it comes. `MemberEnded` if that member has returned, so that nothing can come; `TimeoutError` after
        `timeout` seconds.
        """
        self._require_usable()
        timeout = arguments.timeout("timeout", timeout)
        if tag is not None:
            arguments.count("tag", tag, 0, TAG_MAX)
        return self._take(None if from_ is None else self._a_rank("from_", from_), tag, timeout)

    # ------------------------------------------------------------------------------------------------ among all of them

    def barrier(self) -> None:
        """Wait until every member has called this."""
        self._gather("barrier", None, 0)
        self._spread("barrier", None, 0)

    def bcast(self, obj: Any = None, root: int = 0) -> Any:
        """The object that the member of rank `root` gives; what others give does not matter."""
        self._begin(root)
        return self._spread("bcast", obj, root)

    def gather(self, obj: Any, root: int = 0) -> list[Any] | None:
        """At the member of rank `root`: what all give, by rank. None at the others."""
        self._begin(root)
        return self._gather("gather", obj, root)

    def allgather(self, obj: Any) -> list[Any]:
        """What all give, by rank, at every member."""
        self._begin(0)
        gathered = self._gather("allgather", obj, 0)
        every: list[Any] = self._spread("allgather", gathered, 0)
        return every

    def allreduce(self, obj: Any, op: Callable[[Any, Any], Any] = operator.add) -> Any:
        """``op`` of what all give, in the order of their ranks: ``op(op(of 0, of 1), of 2)`` and so on."""
        self._begin(0)
        if not callable(op):
            raise TypeError(f"op={arguments.shown(op)} must be a function of two arguments")
        gathered = self._gather("allreduce", obj, 0)
        result = None
        if gathered is not None:
            result = gathered[0]
            for position in range(1, self._size):
                result = op(result, gathered[position])
        return self._spread("allreduce", result, 0)

    def scatter(self, objs: Sequence[Any] | None = None, root: int = 0) -> Any:
        """One of the objects that the member of rank `root` gives: as many as there are members, each to its rank."""
        self._begin(root)
        if self._rank == root:
            given = list(arguments.iterable("objs", objs, "a list with one object for each member"))
            if len(given) != self._size:
                raise ValueError(f"objs has {len(given)} objects for a group of {self._size} members")
            self._rounds += 1
            for rank in range(self._size):
                if rank != root:
                    self._post([rank], self._tag("scatter"), _packed(given[rank]))
            return given[root]
        self._rounds += 1
        return self._take_part("scatter", root)

    def _begin(self, root: int) -> None:
        self._require_usable()
        self._a_rank("root", root)

    def _gather(self, what: str, obj: Any, root: int) -> list[Any] | None:
        self._require_usable()
        self._rounds += 1
        if self._rank != root:
            self._post([root], self._tag(what), _packed(obj))
            return None
        return [obj if rank == root else self._take_part(what, rank) for rank in range(self._size)]

    def _spread(self, what: str, obj: Any, root: int) -> Any:
        self._rounds += 1
        if self._rank != root:
            return self._take_part(what, root)
        others = [rank for rank in range(self._size) if rank != root]
        by_worker: dict[str, list[int]] = {}
        for rank in others:
            by_worker.setdefault(self._roster.addresses[rank], []).append(rank)
        packed = _packed(obj)
        for ranks in by_worker.values():  # a large value is written once for each worker
            self._post(ranks, self._tag(what), packed)
        return obj

    def _tag(self, what: str) -> int:
        """The tag of the messages of one operation: below zero, of this round, and of this kind."""
        return -1 - OPERATIONS.index(what) - len(OPERATIONS) * self._rounds

    def _take_part(self, what: str, sender: int) -> Any:
        """What a member gives to the operation that goes on."""
        mail, tags = self._mail, [self._tag(operation) for operation in OPERATIONS]

        def called() -> list[int]:
            return [tag for tag in tags if mail.find(sender, tag) is not None]

        self._door.listen(self._task, lambda: bool(called()) or sender in mail.ended, None)
        tag = next(iter(called()), self._tag(what))
        if tag != self._tag(what):
            other = OPERATIONS[tags.index(tag)]
            raise DistributedError(f"rank {sender} called {other} where rank {self._rank} called {what}")
        return self._take(sender, tag, None)

    # ------------------------------------------------------------------------------------------------------- messages

    def _take(self, sender: int | None, tag: int | None, timeout_s: float | None) -> Any:
        mail, others = self._mail, set(range(self._size)) - {self._rank}
        awaited = others if sender is None else {sender}

        def is_decided() -> bool:
            return mail.find(sender, tag) is not None or awaited <= mail.ended

        is_over = not self._door.listen(self._task, is_decided, timeout_s)
        name = mail.find(sender, tag)
        if name is not None:
            return self._open(mail.take(name))
        who = "every other member has" if sender is None else f"rank {sender} has"
        what = "" if tag is None or tag < 0 else f" with tag {tag}"
        if is_over:
            whom = "any member" if sender is None else f"rank {sender}"
            raise TimeoutError(f"no message{what} from {whom} came to rank {self._rank} within {timeout_s:g} s")
        raise MemberEnded(f"no message{what} can come any more: {who} returned", -1 if sender is None else sender)

    def _open(self, letter: Letter) -> Any:
        data: Any = letter.value
        if letter.path:
            data = map_copy_on_write(letter.path)
            if data is None:
                raise DistributedError(f"a message of rank {letter.sender} is gone from {os.path.dirname(letter.path)}")
        self._door.has_read(self._task, [letter.number])
        return unpack(data)

    def _post(self, ranks: list[int], tag: int, packed: Packed) -> None:
        """Hand a message to the worker of these members, who are at one."""
        roster, address = self._roster, self._roster.addresses[ranks[0]]
        for rank in ranks:
            self._sent[rank] += 1
        post = Post(
            keys=[roster.keys[rank] for rank in ranks],
            attempts=[roster.attempts[rank] for rank in ranks],
            numbers=[self._sent[rank] for rank in ranks],
            sender=self._rank, tag=tag, nbytes=packed.nbytes, path="", buffers=[],
        )  # fmt: skip
        until_s = monotonic() + SETTINGS.reach_member_s
        while True:
            self._require_running(ranks)
            try:
                if self._client(address).post(post, packed, self._directory(address), self._pause):
                    return
                self._wait_for_word(ranks)
            except ConnectionFailed as error:  # if its worker died, the owner stops us
                if monotonic() > until_s:
                    names = ", ".join(f"rank {rank}" for rank in ranks)
                    raise ConnectionFailed(address, f"{names} could not be reached: {error.reason}") from error
                self._pause(AGAIN_S)

    def _wait_for_word(self, ranks: list[int]) -> None:
        """One of these runs no more. Its owner knows whether it returned, and tells us, or died, and stops us."""
        self._door.listen(self._task, lambda: not self._mail.ended.isdisjoint(ranks), None)

    def _require_running(self, ranks: list[int]) -> None:
        ended = [rank for rank in ranks if rank in self._mail.ended]
        if ended:
            raise MemberEnded(f"rank {ended[0]} has returned: nobody reads messages there any more", ended[0])

    def _pause(self, pause_s: float) -> None:
        """Wait a moment, and hear meanwhile what the owner says."""
        self._door.listen(self._task, lambda: False, pause_s)

    def _client(self, address: str) -> BulkClient:
        client = self._clients.get(address)
        if client is None:
            member = self._members[address]
            client = BulkClient(member.address, member.unix, self._roads, member.incarnation, member.relayed)
            self._clients[address] = client
        return client

    def _directory(self, address: str) -> str:
        """The store of a worker whose files this process can open."""
        directory = self._members[address].directory
        return directory if directory and os.access(directory, os.R_OK | os.W_OK | os.X_OK) else ""

    # --------------------------------------------------------------------------------------------------------- checks

    def _require_usable(self) -> None:
        if self._is_over or running.door is not self._door or self._door.running() is not self._task:
            raise DistributedError("this Communicator is for its member alone, and as long as its function runs")
        if threading.get_ident() != self._thread:
            raise DistributedError("a Communicator is for the thread that its member's function runs in")

    def _a_rank(self, name: str, value: Any) -> int:
        try:
            rank = operator.index(value)
        except TypeError:
            raise TypeError(f"{name}={arguments.shown(value)} must be a rank, a whole number") from None
        if isinstance(value, bool) or not 0 <= rank < self._size:
            raise ValueError(f"{name}={value} is no rank of a group of {self._size}: 0 to {self._size - 1}")
        return rank

    def _close(self) -> None:
        self._is_over = True
        for client in self._clients.values():
            client.close()


def _packed(obj: Any) -> Packed:
    packed = pack(obj, "the message")
    if packed.handles:
        raise DistributedError("a handle cannot be sent to another member: send its value, or pass it to group()")
    return packed
