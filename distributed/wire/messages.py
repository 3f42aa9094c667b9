"""The whole vocabulary: one class per message, grouped by who says it to whom.

A message travels as one frame (see :mod:`distributed.wire.frames`). The frame's header is a msgpack array
``[operation, request, field, field, ...]``: the operation is the class name in snake case, `request` is 0 or the number
under which the sender expects one `Reply` or `Refusal`. A field named `buffers` does not travel in the header: its
items are the raw buffers of the frame. Byte strings are opaque to the daemons: only clients and executors unpickle.

Batches are columns: parallel lists, one item a task or key, because a list of a hundred integers costs far less than a
hundred little objects. Sparse columns are dictionaries from position to value.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, ClassVar

from distributed.record import record

REGISTRY: dict[str, type[Message]] = {}
"""Operation name -> message class."""


@dataclasses.dataclass(slots=True)
class Message:
    """The abstract edge of all messages."""

    operation: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super(Message, cls).__init_subclass__()
        cls.operation = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        REGISTRY[cls.operation] = cls


@dataclasses.dataclass(slots=True, frozen=True)
class Member:
    """A worker as everybody sees it: an address *and* an incarnation (a new one each time a worker starts)."""

    address: str
    incarnation: str
    name: str
    ncores: int
    memory_limit: int
    unix: str = ""  # path of its Unix socket, for processes of the same machine
    directory: str = ""  # its store; whoever can open the nonce file in it is on the same machine
    pid: int = 0
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    relayed: bool = False  # nobody connects to its address: everyone reaches it through the center (see `Splice`)
    resources: dict[str, int] = dataclasses.field(default_factory=dict)  # how much it has of what tasks may ask for


# ---------------------------------------------------------------------------------------------- everyone to everyone


@record
class Reply(Message):
    """Receiver of a request to its sender: it was done, and this is the answer. The request number is the request's."""

    result: Any


@record
class Refusal(Message):
    """Receiver of a request to its sender: it was not done. `kind` is the name of an error in `distributed.errors`."""

    kind: str
    reason: str


@record
class Ping(Message):
    """Anyone, by hand: are you there? Answered by ``'pong'``."""


@record
class Status(Message):
    """Anyone, to center or worker: everything a person may want to know, as one dictionary."""


@record
class Terminate(Message):
    """Anyone, to center or worker: end cleanly, as on SIGTERM. Answered before the end."""


# -------------------------------------------------------------------------------------------------- anyone to center


@record
class WhoHas(Message):
    """Which workers hold these keys? Reply: ``{key: {address: [attempt, nbytes]}}``; a key that nobody holds is absent.

    With `wait_s` the reply comes when all keys are known, or their owners are gone, or the time is over.
    """

    keys: list[str]
    wait_s: float = 0.0


@record
class HasWhat(Message):
    """Which keys do these workers (none given: all workers) hold? Reply: ``{address: {key: [attempt, nbytes]}}``."""

    addresses: list[str] = dataclasses.field(default_factory=list)


@record
class Ncores(Message):
    """How many cores has each worker? Reply: ``{address: ncores}``."""


@record
class Splice(Message):
    """Anyone to center, alone on its connection: I cannot reach the worker at `address`, lead this connection to it.

    Reply: the worker's incarnation, when the worker has dialled back. From there on the connection carries bytes
    between the two, who begin with the opening of a connection as if it were direct. With an `incarnation` it is that
    worker or none. One `for_values`, which its client opens again when it needs it, the center ends when it is idle.
    """

    address: str
    incarnation: str = ""
    for_values: bool = False


# ------------------------------------------------------------------------------------------------- worker to center


@record
class DialledBack(Message):
    """Worker to center, alone on its connection, after a `DialBack`: lead this connection to whoever asked for it.

    Reply: None; what follows on the connection is between the two. Each token serves once.
    """

    token: str


@record
class Register(Message):
    """Worker to center, first on its connection, also after the center came back: I am here, and this is all I hold.

    A snapshot; `AddKeys` and `RemoveKeys` on the same connection are deltas to it. Reply: the `Members` there are.
    """

    member: Member
    keys: list[str]
    attempts: list[int]
    nbytes: list[int]
    names: dict[str, str] = dataclasses.field(default_factory=dict)  # published name -> packed handle's key
    published: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)  # name -> all it keeps, as `Pin`
    leaving: bool = False  # it said `Leaving` before the center went


@record
class Unregister(Message):
    """Worker to center: I leave in an orderly way."""


@record
class Leaving(Message):
    """Worker to center and to every pool: I end soon. Give me nothing new; what only I hold is handed over first."""


@record
class HandOver(Message):
    """Worker that leaves to center: nobody else will have these values; see that another worker adopts them.

    Answered by one `HandedOver` or several.
    """

    keys: list[str]
    attempts: list[int]
    nbytes: list[int]


@record
class Adopted(Message):
    """Worker to center: what became of an `Adopt`. Worker to a pool: I hold these values of yours for good.

    `refused` are those that could not be fetched, or that there is no room for, and `reason` says which.
    """

    keys: list[str]
    attempts: list[int]
    refused: list[str] = dataclasses.field(default_factory=list)
    reason: str = ""


@record
class AddKeys(Message):
    """Worker to center, in batches: I hold these values now."""

    keys: list[str]
    attempts: list[int]
    nbytes: list[int]


@record
class RemoveKeys(Message):
    """Worker to center, in batches: I no longer hold these values."""

    keys: list[str]


@record
class ReportLoad(Message):
    """Worker to center, now and then: what runs, for people who look at the status page."""

    running: int
    queued: int
    stored_bytes: int
    spilled_bytes: int
    running_names: list[str]  # names of the functions that run just now
    resources: dict[str, int] = dataclasses.field(default_factory=dict)  # how much of them is in use


# ------------------------------------------------------------------------------------------------- center to worker


@record
class DialBack(Message):
    """Center to worker: somebody who cannot reach you asked for you (`Splice`). Connect to me, and say this token."""

    token: str


@record
class Adopt(Message):
    """Center to worker: fetch these values from `holder`, which leaves, and keep them as if they were made here.

    Answered by one `Adopted`, to the center; the owners of the values are told, too.
    """

    keys: list[str]
    attempts: list[int]
    nbytes: list[int]
    holder: str


@record
class HandedOver(Message):
    """Center to a worker that leaves: others hold these values now. For those `refused` nobody has room.

    `others` is how many workers there are that could have taken them.
    """

    keys: list[str]
    refused: list[str]
    others: int
    reason: str = ""


@record
class OwnerLeft(Message):
    """Center to workers: this client is gone for good. Its tasks stop, its keys go, except published ones."""

    client: str


@record
class Pin(Message):
    """Center to workers: these keys are published under `name`; keep them whatever their owner does."""

    name: str
    key: str
    keys: dict[str, int]  # which attempt of each; 0: whichever


@record
class Unpin(Message):
    """Center to workers: the name is gone. Keys whose owner has released them, or is gone, go too."""

    name: str
    owners: list[str]  # the clients that still have a lease: their keys live on


# ---------------------------------------------------------------------------------------- center to pools and workers


@record
class Members(Message):
    """Center to a pool or worker that registered: everyone who is here now. A snapshot; joins and losses follow."""

    members: list[Member]


@record
class WorkerJoined(Message):
    """Center to pools and workers: a worker registered."""

    member: Member


@record
class WorkerLeft(Message):
    """Center to pools and workers: a worker left or its connection broke; pools probe it, workers forget its keys."""

    address: str
    incarnation: str
    reason: str


# --------------------------------------------------------------------------------------------------- pool to center


@record
class RegisterClient(Message):
    """Pool to center, first on its connection: I am `client`; my keys begin with it. Reply: the `Members` there are."""

    client: str
    name: str = ""


@record
class UnregisterClient(Message):
    """Pool to center: I close. My lease ends now."""


@record
class Publish(Message):
    """Pool to center: keep `key`, and all `keys` that its value refers to, under `name`.

    Reply: None, when each of the keys is at a worker that has been told; the sender keeps them until then. A name that
    is taken is refused, and one whose keys nobody has for `publish_wait_s`.
    """

    name: str
    key: str
    keys: list[str]


@record
class Unpublish(Message):
    """Pool to center: forget a name, if it still stands for `key`. Without a key: whatever it stands for.

    With a key it may be said twice, as when the answer was lost with a connection: the second time changes nothing.
    Without one an unknown name is refused.
    """

    name: str
    key: str = ""


@record
class LookUp(Message):
    """Pool to center: which key has this name? Reply: the key; an unknown name is refused. An empty name: all names."""

    name: str


@record
class Export(Message):
    """Pool to center: others may ask for these keys: handles of them were pickled, or are in values that others read.

    `attempts` says which attempt of each is the one that counts, 0 as long as there is none: borrowers get no other.
    """

    keys: list[str]
    attempts: list[int]


@record
class Withdraw(Message):
    """Pool to center: these exported keys will not come (any more), for this reason; `errors` are packed exceptions."""

    keys: list[str]
    errors: list[bytes]


# ---------------------------------------------------------------------------------------------------- pool to worker


@record
class Attach(Message):
    """Pool to worker, first on its connection: I am `client`. Tasks of mine from an older connection stop.

    Reply: ``{'member': [...], 'held': [[key, attempt], ...]}``: who the worker is, so that a pool notices another
    incarnation on the same address, and what it holds of the client's. The pool deletes what it does not account for.
    """

    client: str


@record
class Compute(Message):
    """Pool to worker: run one function on many arguments.

    The function is named by the hash of its pickle; `code` comes along the first time on a connection. `inputs` maps a
    position to the inputs of that task, each ``[key, attempt, nbytes, holders, inline]``, where `inline` is the packed
    value itself when the owner has it. `args` are packed arguments. Lower `priority` runs sooner. `needs` names what
    an executor has to call first (an initializer, uploaded code), in this order, as functions are named: a hash, and
    the code the first time on a connection.
    """

    function: bytes
    code: bytes
    name: str
    keys: list[str]
    attempts: list[int]
    args: list[bytes]
    inputs: dict[int, list]
    priority: float = 0
    timeout_s: float = 0.0  # 0: none
    once: bool = False  # at most once: given to an executor alone
    asynchronous: bool = False  # a coroutine function: awaited beside others, in the asynchronous executor
    needs: dict[bytes, bytes] = dataclasses.field(default_factory=dict)  # what executors must have run before
    seat: int = -1  # of the executor that a single task is for, as soon as that is free; -1: any of them
    resources: dict[str, int] = dataclasses.field(default_factory=dict)  # what each of them uses while it runs
    depth: int = 0  # of tasks that tasks submitted: how many are above them, which may wait for these
    together: bool = False  # members of a group: each gets an executor at one time, as `Gathered` tells


@record
class DefineFunction(Message):
    """Pool to worker: the code that was asked for by `NeedFunction`."""

    function: bytes
    code: bytes


@record
class Cancel(Message):
    """Pool to worker: these attempts are no longer wanted: queued ones are dropped, a running one is killed."""

    keys: list[str]
    attempts: list[int]


@record
class Recall(Message):
    """Pool to worker: give up to `count` queued tasks back, the last ones first. Answered by `Recalled`."""

    count: int


@record
class TellGroup(Message):
    """Pool to worker: pass this on to members of a group that run there; `said` is the header of a whole message.

    `begins`: it lets them begin.
    """

    keys: list[str]
    attempts: list[int]
    said: bytes
    begins: bool = False


@record
class Keep(Message):
    """Pool to a worker that leaves, answer to `Offer`: these values are needed, nobody else shall be without them.

    What is offered and not needed is deleted by `DeleteData`.
    """

    keys: list[str]


@record
class Hold(Message):
    """Pool to worker: others may ask for these small results of mine, and the worker that had them is gone."""

    keys: list[str]
    attempts: list[int]
    values: list[bytes]


@record
class Restart(Message):
    """Pool to worker: replace every executor by a fresh process when what it runs now has ended.

    Answered by `Restarted` with the same number.
    """

    number: int


@record
class DeleteData(Message):
    """Pool (or anyone, by hand) to worker: drop these values. Replicas included; unknown keys are not an error.

    `attempts` says of each key which attempt shall go, 0: whichever is here. Empty: whichever, of all of them.
    """

    keys: list[str]
    attempts: list[int] = dataclasses.field(default_factory=list)


# ---------------------------------------------------------------------------------------------------- worker to pool


@record
class Finished(Message):
    """Worker to pool: these attempts have a result, which is stored here.

    `values` holds the packed result where it is small, None where it is not. `contains` maps a position to the handles
    inside that result. `held` lists ``[key, attempt]`` of inputs that this worker holds now and did not before.
    """

    keys: list[str]
    attempts: list[int]
    nbytes: list[int]
    values: list
    durations_us: list[int]
    contains: dict[int, list]
    held: list


@record
class Failed(Message):
    """Worker to pool: this attempt has no result.

    `kind` is ``raised`` (`error` is the packed exception), ``crashed`` (the executor died), ``timeout``
    (`detail['cancelled']`: it is a coroutine, and `error` is what ended it; `detail['yield_s']`: it was killed, because
    it did not end within that), ``missing`` (`detail['keys']`: inputs that no holder gave; `detail['refused']`: for
    each of them the holders that said that they do not have it, while the others could not be reached), ``full`` (no
    room for inputs, `detail['keys']`, or for the result; `detail['reason']` tells the sizes, `detail['waited_s']` how
    long it waited, `detail['never']` whether there would be none in an empty store), or ``requeue`` (it never started:
    no attempt was used up). `detail` tells what is known: exit, peak memory and limit, stderr, stack, worker.
    """

    key: str
    attempt: int
    kind: str
    error: bytes
    detail: dict
    held: list


@record
class Gathered(Message):
    """Worker to pool: these members of a group have an executor each now, and wait until they are let begin."""

    keys: list[str]
    attempts: list[int]


@record
class Recalled(Message):
    """Worker to pool: these attempts were queued and will not run here."""

    keys: list[str]
    attempts: list[int]


@record
class Evicted(Message):
    """Worker to pool: these copies, of which it was told as `held`, had to make room and are not here any more."""

    keys: list[str]
    attempts: list[int]


@record
class Offer(Message):
    """Worker that leaves to pool: I hold these values of yours. `DeleteData` what may go, `Keep` what may not.

    Those that were `handed` over another worker holds, too: they may go as soon as you know which.
    """

    keys: list[str]
    attempts: list[int]
    handed: bool = False


@record
class Restarted(Message):
    """Worker to pool: none of the executors that there were at `Restart` is left."""

    number: int


@record
class NeedFunction(Message):
    """Worker to pool: send the code of this function again, it is no longer in the cache."""

    function: bytes


@record
class Output(Message):
    """Worker to pool: what an executor printed while it ran a task of this pool."""

    worker: str
    pid: int
    stream: str  # 'stdout' or 'stderr'
    text: str


@record
class TaskSays(Message):
    """Worker to pool: what the code of a task that runs here says to its owner, as its executor sent it (`FromTask`).

    `said` is the header of one of the messages from a task to its owner; `executor` and `serial` say where the answer
    is to go.
    """

    key: str
    attempt: int
    executor: int
    serial: int
    said: bytes


@record
class TellTask(Message):
    """Pool to worker: an answer for the code of a task that runs there; `said` is the header of a whole message."""

    key: str
    attempt: int
    executor: int
    serial: int
    said: bytes


# ------------------------------------------------------ bulk connections: pool or worker (or anyone, by hand) to worker


@record
class GetData(Message):
    """Reader to holder, on a bulk connection: give me these values. Answered by `Values`."""

    keys: list[str]
    attempts: list[int]  # 0: whichever there is
    linkable: bool  # the reader would like paths of large values, to link or map them


@record
class Values(Message):
    """Holder to reader: the values asked for. A size of -1: not here. A path, or else the next raw buffer."""

    nbytes: list[int]
    paths: list[str]  # '' where the value comes as a buffer
    attempts: list[int]
    buffers: list


@record
class NeedRoom(Message):
    """Executor, or a writer on a bulk connection, to worker: reserve a file for a value of this size."""

    nbytes: int


@record
class Room(Message):
    """Worker to executor or writer: an allocated file to write into. An empty path: there is no room, and why."""

    path: str
    reason: str


@record
class UpdateData(Message):
    """Writer to worker, on a bulk connection: store these values. Answered by a `Reply` when they are stored.

    `owner` is a client, or empty for keys put by hand, which live until `delete_data`. A path names a file that was
    reserved with `NeedRoom` and written; where it is empty the value is the next raw buffer.
    """

    owner: str
    keys: list[str]
    nbytes: list[int]
    paths: list[str]
    contains: dict[int, list]
    buffers: list


@record
class Post(Message):
    """Member of a group to the worker of others, on a bulk connection: here is a message for these tasks.

    `numbers` count the messages from this sender to each of them: one that comes twice is taken once. A path names a
    file that was reserved with `NeedRoom` and written; where it is empty the packed value is the raw buffer. Answered
    by ``['taken', '']``, by ``['over', '']`` if one of the tasks does not run here, or by ``['full', path]`` if one of
    them has received too much that it has not read: then nobody got it, and it may be posted again, by its path.
    """

    keys: list[str]
    attempts: list[int]
    numbers: list[int]
    sender: int
    tag: int
    nbytes: int
    path: str
    buffers: list


# --------------------------------------------------------------------------------------- worker to executor and back


@record
class Run(Message):
    """Worker to executor: run one function on many arguments, in this order.

    `serial` numbers the first task; the cell in shared memory names the running one. `inputs` maps a position to the
    task's inputs, each ``[key, packed bytes]`` or ``[key, path of a file]``. An empty `code`: you have the function.
    `needs` are hashes and code of what to call before, in this order. `attempts` maps a position to the number of the
    attempt where it is not the first.
    """

    function: bytes
    code: bytes
    name: str
    serial: int
    keys: list[str]
    args: list[bytes]
    inputs: dict[int, list]
    needs: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    attempts: dict[int, int] = dataclasses.field(default_factory=dict)


NO_ROOM = b"no room"  # in place of an exception: there was no room for the result
NO_INPUT = b"no input"  # likewise: the file of an input is gone or was cut short, so the task did not begin
NOBODY = 0  # in place of a task's number: room is given back that was asked for by a task that is gone


@record
class Outcomes(Message):
    """Executor to worker: what became of tasks, in any order; all columns are parallel to `serials`.

    `values` holds packed results; where the result was too large, `paths` maps the position to the file that was
    reserved and written. `errors` maps a position to the packed exception (its value is empty then), or to `NO_ROOM`
    where there was no room for the result, or to `NO_INPUT` where the value of an input is lost (the key of it stands
    in the place of the result then). Number 0 is nobody's: with it a file is given back whose task is gone.
    """

    serials: list[int]
    values: list
    nbytes: list[int]
    durations_us: list[int]
    paths: dict[int, str]
    errors: dict[int, bytes]
    contains: dict[int, list]


@record
class CancelRunning(Message):
    """Worker to the asynchronous executor: cancel the coroutines with these serials; each still gets an outcome."""

    serials: list[int]


@record
class FromTask(Message):
    """Executor to worker: forward this to the owner of the task with this serial, as `TaskSays`."""

    serial: int
    said: bytes


@record
class ToTask(Message):
    """Worker to executor: what the owner of a running task answers to its code (`TellTask`), or the worker: `TooDeep`.

    `said` is the header of a whole message.
    """

    serial: int
    said: bytes


@record
class Blocked(Message):
    """Executor to worker: its task begins to wait for others and gives its slot back, or goes on.

    `returned` are the serials of tasks that it was given and has not begun: others may run them. `has_submitted`: tasks
    that it submitted since it last waited are on their way.
    """

    serial: int
    is_waiting: bool
    returned: list[int]
    has_submitted: bool = False


@record
class Letter(Message):
    """Worker to executor: a message that another member of its group sent to its task, small or in a file."""

    serial: int
    number: int
    sender: int
    tag: int
    value: bytes
    path: str


@record
class LettersRead(Message):
    """Executor to worker: its task has read these messages, and mapped them: their files are of no use any more."""

    serial: int
    numbers: list[int]


# -------------------------------------- a task to its owner and back: inside of FromTask, TaskSays, TellTask and ToTask


@record
class SubmitInner(Message):
    """Task to owner: run these calls, too, for this attempt of the task. Columns, and names, as in `Compute`.

    `inputs` maps a position to the keys of the handles in that call's arguments. `options` are those of the pool.
    """

    function: bytes
    code: bytes
    name: str
    asynchronous: bool
    keys: list[str]
    args: list[bytes]
    inputs: dict[int, list]
    options: dict


@record
class AdoptInner(Message):
    """Task to owner: it found handles of these keys in values, and wants to know their outcomes."""

    keys: list[str]


@record
class ReleaseInner(Message):
    """Task to owner: it has no handles of these any more."""

    keys: list[str]


@record
class CancelInner(Message):
    """Task to owner: it does not want these tasks of its own any more."""

    keys: list[str]


@record
class WantInner(Message):
    """Task to owner: these holders did not give it the value of this key. Answered by `InnerOutcomes`, once more."""

    key: str
    refused: list[str]


@record
class StoredInner(Message):
    """Task to owner: it put a value on these workers; `contains` are the keys of the handles inside."""

    key: str
    holders: list[str]
    nbytes: int
    contains: list[str]


@record
class Waits(Message):
    """Task to owner: it begins to wait for others, or goes on; a task that waits uses no core."""

    is_waiting: bool


@record
class AskMember(Message):
    """Task to owner: which worker runs it? Answered by `Members`."""


@record
class InnerOutcomes(Message):
    """Owner to task: what became of tasks. `statuses` are ``done``, ``failed`` or ``cancelled``.

    `values` holds small packed results, and packed exceptions; for other results `holders` maps the position to who
    has them, and `members` tells of these.
    """

    keys: list[str]
    attempts: list[int]
    nbytes: list[int]
    statuses: list[str]
    values: list
    holders: dict[int, list]
    members: list[Member]


@record
class TooDeep(Message):
    """Worker to task: so many wait here already; this one does not get a slot to wait for.

    With a `reason` that is no limit of ours: no executor can be started for what they wait for.
    """

    limit: int
    reason: str = ""


# ------------------------------------------------------------ the owner of a group to its members: inside of TellGroup


@record
class GroupBegins(Message):
    """Owner to the members of a group, when all of them have an executor: who they are, in the order of their ranks.

    `members` are the workers that they are on.
    """

    keys: list[str]
    attempts: list[int]
    addresses: list[str]
    members: list[Member]


@record
class MembersEnded(Message):
    """Owner to the members of a group that still run: these ranks have returned, and will send nothing any more."""

    ranks: list[int]
