"""What is under way for one `imap`: items become tasks, singly or in chunks, and tasks become values to be taken.

The pipeline never waits for input and owns no thread. Whoever takes values feeds it on the way, and where the input is
slow, whoever brings an item. Every item stays here until its value was opened, so that nothing is lost when a chunk
crashed, took too long or was called off: its items are planned again, before everything else. What was opened is
released. Several threads may be in here at one time: `_lock` guards what is written below, and is held for moments;
`_turn` belongs to the thread that makes tasks, for which nobody waits.

A signal may act in the main thread after any call, and its handler may raise. So what belongs together is written with
signals deferred, or in lines without a call between them; user code (pickling, unpickling) runs outside of that, and
changes nothing here. Whatever was begun then stands as it was, and whoever comes next goes on with it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from distributed import arguments
from distributed.errors import PoolClosed, TaskCancelled
from distributed.pool.calls import Calls, Draft
from distributed.pool.chunks import Chunk, each_of
from distributed.pool.core import Core
from distributed.pool.entries import Entry, Sender, outcomes_of
from distributed.pool.events import CancelAsked
from distributed.pool.interrupts import deferred_signals, is_of_a_handler
from distributed.pool.pace import LIMIT_S, TASKS_MAX, Pace
from distributed.pool.sources import Source
from distributed.pool.tasks import Options, Task
from distributed.wire.exceptions import unpack_exception
from distributed.wire.functions import is_asynchronous, name_of

TASKS_ENOUGH = TASKS_MAX * 3 // 4  # with more than this, a slow consumer would have them made one by one
FEW = 8  # are sent one by one: those of a batch are left to a caller who will wait, and none does on an event loop
OPENED_MAX, OPENED_BYTES_MAX = 100, 4 << 20  # tasks whose values are brought here in one go


class Pipeline:
    """Everything of one `imap` but its faces."""

    def __init__(
        self,
        core: Core,
        calls: Calls,
        options: Options,
        function: Callable[..., Any],
        source: Source,
        *,
        ordered: bool,
        qsize: int | None,
        chunksize: int | None,
    ) -> None:
        function = arguments.function(function)
        self.core, self.source = core, source
        self._calls, self._options, self._ordered, self._qsize = calls, options, ordered, qsize
        asynchronous = is_asynchronous(function)
        if asynchronous or not _may_share(options) or (calls.how is not None and calls.how.is_own):
            chunksize = 1
        self._pace = Pace(chunksize, asynchronous)
        self._function, self._name = function, name_of(function)
        self._one: Sender = calls.packed(Sender, core, function, self._name)
        self._many: Sender | None = None
        self._lock = threading.RLock()
        self._turn: list[None] = [None]  # empty while a thread makes tasks
        self._entries: OrderedDict[Entry, None] = OrderedDict()  # all that was not opened yet
        self._again: deque[Entry] = deque()  # of these, what has to be planned
        self._planned: deque[Entry] = deque()  # and what is to be sent next
        self._under_way: dict[Task, Entry] = {}
        self._done: deque[Entry] = deque()  # as they came; where order does not matter
        self._items = self._items_under_way = self._waiting_bytes = 0
        self._opened: deque[list[Any] | BaseException] = deque()
        self.current: Any = iter(())  # the values that are being taken
        self._arrived: deque[Task] = deque()
        self._enough = 1  # tasks under way, so that every executor has one
        self._generation = 0  # how often everything was called off
        self._is_resting = self._is_feed_asked = self._has_news = False
        self.is_closed = False
        self.alert: Callable[[], object] = bool  # called on any thread when there is news

    # ------------------------------------------------------------------------------------------------------ being told

    def arrive(self, task: Task) -> None:
        """A task has an outcome. Called by the pool, on any thread."""
        self._arrived.append(task)
        if self.source.is_slow and len(self._under_way) - len(self._arrived) < self._enough:
            self.source.notice_at = 1  # an executor has nothing to do: it need not be a full chunk
        self.alert()

    def on_item(self) -> None:
        """A slow source has what is waited for, or nothing any more. Called on its thread."""
        if self._arrived:
            self._has_news = True  # before it is taken out of there: whoever waits looks at both
            self._absorb()
        if self.needs_feed():
            try:
                self.feed()
            except PoolClosed:
                self.close()
        if self.source.is_ended or not self.source.is_slow:
            self.ring()

    def ring(self) -> None:
        """Whoever waits shall look again."""
        self._has_news = True
        self.alert()
        self.core.driver.wake()

    def look(self) -> None:
        """Take note of what arrived. What happens from now on is news."""
        self._has_news = False
        self._absorb()

    def _absorb(self) -> None:
        if not self._arrived:
            return
        with deferred_signals(), self._lock:
            while self._arrived:
                task = self._arrived.popleft()
                entry = self._under_way.pop(task, None)
                if entry is not None:
                    self._finish(entry, task)

    def _finish(self, entry: Entry, task: Task) -> None:
        entry.is_done = True
        self._items_under_way -= entry.count
        self._waiting_bytes += task.nbytes
        self._pace.learn_result(task.nbytes, entry.count)
        duration_s = task.kind.duration.mean_s if task.kind is not None else None
        if entry.count == 1 and duration_s is not None:
            self._pace.learn(duration_s, 1)
        if not self._ordered:
            self._done.append(entry)

    def has_news(self) -> bool:
        """Whether it makes sense to look."""
        return self._has_news or bool(self._arrived)

    # --------------------------------------------------------------------------------------------------------- feeding

    @property
    def _cores(self) -> int:
        return max(1, sum(view.member.ncores for view in list(self.core.state.workers.values())))

    def needs_feed(self) -> bool:
        """Whether it is time to make more tasks: not for each that ends, where many small ones are under way."""
        if self.is_closed or self._is_resting:
            return False
        if self._planned:
            return True  # somebody was interrupted before they were sent
        if self.source.is_ended and not self._again:
            return False
        under_way, cores = len(self._under_way), self._cores
        if len(self._entries) - len(self._again) > TASKS_ENOUGH:
            return False
        if under_way < cores:
            return True
        if self.source.is_slow and not self._again and 0 < len(self.source) < self._pace.size():
            return False  # it will make a chunk, or be sent when an executor has nothing to do
        window = self._pace.window(cores)
        return under_way < window if window <= 4 * cores else under_way <= window // 2

    def feed(self) -> None:
        """Make tasks of items that are there, as many as may be under way. Never waits for input."""
        self._is_feed_asked = True
        while self._is_feed_asked:
            try:
                del self._turn[0]  # no lock: a signal could act between `acquire` and `try`, and nobody released it
            except IndexError:
                return  # another thread is at it, and looks again before it ends
            try:
                self._is_feed_asked = False
                self._plan()
                while self._planned:
                    self._send()
            finally:
                self._turn.append(None)

    def _plan(self) -> None:
        """Choose the entries to send now, beside what is left of those of the last time."""
        cores, planned = self._cores, self._planned
        with deferred_signals(), self._lock:
            window = self._pace.window(cores) - len(self._under_way)
            while len(planned) < window and self._may_have_more(cores):
                is_busy = len(self._under_way) + len(planned) >= cores
                entry = self._again.popleft() if self._again else self._pull(is_busy)
                if entry is None:
                    break
                self._items_under_way += entry.count
                planned.append(entry)
            if self.source.is_slow:
                self._ask_for_items(cores, window - len(planned))

    def _ask_for_items(self, cores: int, tasks: int) -> None:
        """Tell the source how many items there is use for: those of so many tasks."""
        size = self._size()
        count = size * tasks if tasks > 0 and self._may_have_more(cores) else 0
        if self._qsize is not None:
            count = min(count, max(0, self._room()))
        self._enough = cores
        is_busy = len(self._under_way) + len(self._planned) >= cores
        self.source.want(count, size if is_busy else 1)

    def _may_have_more(self, cores: int) -> bool:
        if self.is_closed or self._is_resting:
            return False
        if not self._again and (self.source.is_ended or self._size() < 1):
            return False
        tasks = len(self._entries) - len(self._again)
        return self._pace.has_room(tasks, self._waiting_bytes, self._items_under_way, cores)

    def _size(self) -> int:
        """How many items the next entry may have; 0: there are enough."""
        size = self._pace.size()
        if self._qsize is None:
            return size
        if self._pace.chunksize is None:
            size = min(size, max(1, self._qsize // (2 * self._cores)))
        return min(size, self._room())

    def _room(self) -> int:
        """How many items more may be ahead of whoever takes the values."""
        waiting = operator.length_hint(self.current) + sum(len(part) for part in self._opened if type(part) is list)
        return (self._qsize or 0) - waiting - self._items

    def _pull(self, is_busy: bool) -> Entry | None:
        """Items from the source; a chunk that is not full only if there is an executor with nothing to do."""
        size = self._size()
        if self.source.is_slow and is_busy and len(self.source) < size:
            return None
        columns = self.source.take(size)
        if columns is None:
            return None
        entry = Entry(columns)
        self._entries[entry] = None
        self._items += entry.count
        return entry

    def _send(self) -> None:
        """Make tasks of the first that are planned: all single, or all chunks."""
        with self._lock:
            generation, planned = self._generation, list(self._planned)
        for _, group in itertools.groupby(planned, lambda entry: (entry.count > 1, entry.is_again)):
            entries = list(group)
            for some in [entries] if len(entries) > FEW else [[entry] for entry in entries]:
                self._send_alike(some, generation)

    def _send_alike(self, entries: list[Entry], generation: int) -> None:
        """Where one cannot be pickled, the others are sent all the same."""
        try:
            draft = self._draft_of(entries)
        except PoolClosed:
            raise
        except Exception as error:
            if is_of_a_handler(error):
                raise
            if len(entries) > 1:
                for entry in entries:
                    self._send_alike([entry], generation)
            else:
                self._refuse(entries[0], error, generation)
            return
        self._learn_arguments(entries, draft.tasks)
        with deferred_signals(), self._lock:
            if generation != self._generation or self.is_closed:
                return  # all was called off meanwhile
            for entry, handle in zip(entries, self._calls.submit(draft), strict=True):
                self._planned.popleft()
                entry.handle = handle
                self._under_way[handle._task] = entry
            self.core.watch(draft.tasks, self.arrive)
        self._calls.press(len(entries))

    def _learn_arguments(self, entries: list[Entry], tasks: list[Task]) -> None:
        own_inputs = (self._one if entries[0].count == 1 else self._many or self._one).inputs
        for entry, task in zip(entries, tasks, strict=True):
            nbytes = len(task.args or b"") + sum(needed.nbytes for needed in task.inputs[own_inputs:])
            self._pace.learn_arguments(nbytes, entry.count, len(task.inputs) > own_inputs)

    def _draft_of(self, entries: list[Entry]) -> Draft:
        options = self._options
        if entries[0].count == 1:
            if entries[0].is_again:  # one attempt was used up by the chunk
                options = dataclasses.replace(options, attempts=max(1, options.attempts - 1))
            rows = [tuple([column[0] for column in entry.columns]) for entry in entries]
            return self._one.draft(self._calls, rows, options)
        if self._many is None:
            self._many = self._calls.packed(lambda: Sender(self.core, each_of(self._function), self._name))
        limit_s = LIMIT_S if self._pace.chunksize is None else math.inf
        options = dataclasses.replace(options, attempts=1)  # a chunk that crashed is not run again: its items are
        return self._many.draft(self._calls, [(Chunk(entry.columns, limit_s),) for entry in entries], options)

    def _refuse(self, entry: Entry, error: Exception, generation: int) -> None:
        """It could not be sent."""
        with deferred_signals(), self._lock:
            if generation == self._generation:
                self._planned.popleft()
                self._items_under_way -= entry.count
                entry.error, entry.is_done = error, True
                if not self._ordered:
                    self._done.append(entry)
                self._has_news = True

    # ---------------------------------------------------------------------------------------------------------- taking

    def take_part(self) -> bool:
        """Let `current` be the next opened values; False if there are none. An error whose turn it is is raised."""
        opened = self._opened
        with self._lock:
            if operator.length_hint(self.current):
                return True  # another thread was faster, and left some
            if not opened:
                return False
            part = opened[0]
            try:
                if isinstance(part, BaseException):
                    error = _not_an_end(part)
                    del opened[0]  # no call in between, as above: it is raised, or it is still there
                    raise error
                values = iter(part)
                self.current = values
                del opened[0]
            finally:
                error = part = None  # type: ignore[assignment]
            return True

    def ready(self) -> list[Entry]:
        """What can be opened now, in one go: entries that are here, or some that have to be fetched."""
        found: list[Entry] = []
        nbytes = 0
        with self._lock:
            for entry in itertools.islice(self._entries if self._ordered else self._done, OPENED_MAX):
                nbytes += entry.nbytes
                if not entry.is_done:
                    break
                if found and (nbytes > OPENED_BYTES_MAX or entry.is_here != found[0].is_here):
                    break
                found.append(entry)
        return found

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to come."""
        return self.is_closed or (self.source.is_ended and not self._entries and not self._opened)

    def finish(self) -> None:
        """The end was reached: raise what ended the input, if that was an error."""
        source = self.source
        with deferred_signals():
            error = source.error
            self.close()
            source.error = error
        try:
            if error is not None:
                source.error = None
                raise error
        finally:
            del error

    def open(self, entries: list[Entry]) -> None:
        """Bring the values here, where they can be taken, and release them there. May wait for workers."""
        generation = self._generation
        outcomes = outcomes_of(self.core, entries)
        if any(isinstance(outcome, TaskCancelled) for outcome in outcomes):
            self.core.require_open()
        opened = [_parts_of(entry, outcome) for entry, outcome in zip(entries, outcomes, strict=True)]
        with deferred_signals(), self._lock:
            if generation != self._generation:
                return
            singles: list[Any] = []
            for entry, parts, outcome in zip(entries, opened, outcomes, strict=True):
                if entry not in self._entries:  # another thread was faster
                    continue
                self._forget(entry)
                if entry.count == 1 and type(parts[0]) is list:
                    if not singles or self._opened[-1] is not singles:
                        self._opened.append(singles := [])
                    singles += parts[0]
                    continue
                self._opened.extend(parts)
                if entry.count > 1 and self._is_left(entry, outcome):
                    return  # what comes after it has to wait for it

    def _is_left(self, entry: Entry, outcome: Any) -> bool:
        """Whether a chunk has to be planned again: that which has no values."""
        if isinstance(outcome, TaskCancelled):
            return False
        if isinstance(outcome, BaseException):
            self._plan_again(entry.pieces(0, 1, is_again=True))
            return True
        values, _, seconds = outcome
        self._pace.learn(seconds / len(values), len(values))
        if len(values) == entry.count:
            return False
        self._plan_again(entry.pieces(len(values), self._pace.size(), is_again=entry.is_again))
        return True

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry]
        if not self._ordered:
            self._done.remove(entry)
        self._items -= entry.count
        self._waiting_bytes -= entry.nbytes
        entry.handle = None

    def _plan_again(self, entries: list[Entry]) -> None:
        """Before everything else."""
        self._again.extendleft(reversed(entries))
        for entry in reversed(entries):
            self._entries[entry] = None
            self._entries.move_to_end(entry, last=False)
            self._items += entry.count
        self._has_news = True

    # ----------------------------------------------------------------------------------------------------- calling off

    def resume(self) -> None:
        """Somebody takes values (again)."""
        self._is_resting = False

    def rest(self) -> None:
        """Cancel what is under way, and release what waits: nobody takes values just now. Their items are kept."""
        if self.core.is_forked:
            return
        with deferred_signals(), self._lock:
            self._is_resting = True
            self._generation += 1
            tasks = list(self._under_way)
            self._under_way.clear()
            self._done.clear()
            self._planned.clear()
            self._items_under_way = self._waiting_bytes = 0
            for entry in self._entries:
                entry.rest()
            self._again = deque(self._entries)
            self._cancel(tasks)
            self.ring()

    def close(self) -> None:
        """Nobody will take values any more."""
        if self.is_closed or self.core.is_forked:
            return
        with deferred_signals():
            self.is_closed = True
            self.rest()
            with self._lock:
                self._entries.clear()
                self._again.clear()
                self._opened.clear()
                self.current = iter(())
            self.source.close()
            self.source.error = None  # nobody asks any more

    def _cancel(self, tasks: list[Task]) -> None:
        if tasks and not self.core.driver.closed:
            self.core.post(CancelAsked(tasks))


def _may_share(options: Options) -> bool:
    """Whether items may be calls of one task: not if the user said something about single tasks."""
    usual = Options()
    return (options.timeout_s, options.retries, options.attempts, options.recompute) == (
        usual.timeout_s, usual.retries, usual.attempts, usual.recompute,
    )  # fmt: skip


def _parts_of(entry: Entry, outcome: Any) -> list[list[Any] | BaseException]:
    """What becomes of an entry: values that belong together, and errors where their place is."""
    if entry.count == 1:
        return [outcome if isinstance(outcome, BaseException) else [outcome]]
    if isinstance(outcome, BaseException):
        return [outcome] * entry.count if isinstance(outcome, TaskCancelled) else []
    values, errors, _ = outcome
    if not errors:
        return [values]
    parts: list[list[Any] | BaseException] = []
    start = 0
    for position, error in errors.items():
        if position > start:
            parts.append(values[start:position])
        parts.append(unpack_exception(error))
        start = position + 1
    return [*parts, values[start:]] if start < len(values) else parts


def _not_an_end(error: BaseException) -> BaseException:
    """What is raised for an error of a task: not one that would quietly end the consumer's loop."""
    if not isinstance(error, (StopIteration, StopAsyncIteration)):
        return error
    reason = RuntimeError(f"a task raised {error!r}")
    reason.__cause__ = error
    return reason
