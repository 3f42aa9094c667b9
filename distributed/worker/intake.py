"""Tasks that come in, until they are queued: they need the code of their function, and values that are not here.

Tasks whose code is unknown wait for it, and their pool is asked. Small values that are here are passed on as they are,
and tasks that need nothing else stay together. One that needs more is looked after by itself: what is here is kept for
it, the rest is wanted from `fetches`; it is queued when the last value has come, and fails when one will not come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from distributed.wire.messages import Compute, Member, NeedFunction
from distributed.worker.adoptions import Adoption, Adoptions
from distributed.worker.dispatch import Dispatch
from distributed.worker.endings import Endings
from distributed.worker.events import Fetched, FetchFailed, Send
from distributed.worker.fetches import Fetches, Want
from distributed.worker.rooms import full
from distributed.worker.store import Entry
from distributed.worker.tasks import Function, Functions, Order, Part, check_compute, demand_of, find


class Intake:
    """Puts tasks into the table `tasks`, and queues them as soon as they can run."""

    def __init__(
        self,
        member: Member,
        tasks: dict[str, Order],
        *,
        dispatch: Dispatch,
        fetches: Fetches,
        adoptions: Adoptions,
        endings: Endings,
    ) -> None:
        self._member, self._tasks, self._dispatch, self._fetches = member, tasks, dispatch, fetches
        self._adoptions, self._endings = adoptions, endings
        self._store, self._out = dispatch.store, dispatch.out
        self.functions = Functions(dispatch.settings)
        self._order: Order | None = None  # the last one

    def compute(self, client: str, message: Compute, now: float) -> None:
        """A pool wants these to be run."""
        check_compute(message, self._member)
        function = self.functions.get(message.function, message.once)
        if message.needs:
            function.needs = tuple([self.functions.get(identity, once=False) for identity in message.needs])
        order = self._order
        if order is None or not order.is_like(client, function, message):
            how = message.priority, message.timeout_s, message.asynchronous, message.seat, demand_of(message)
            order = Order(client, function, *how)
            order.name, order.depth, order.together = message.name, message.depth, message.together
            self._order = order
            if order.together:
                self._dispatch.gangs.orders[order] = None
        keys, attempts, args, inputs = message.keys, message.attempts, message.args, message.inputs
        new = dict.fromkeys(keys, order)
        if len(new) < len(keys) or not self._tasks.keys().isdisjoint(new):
            keys, attempts, args, inputs = self._sift(message, now)
            new = dict.fromkeys(keys, order)
        self._tasks.update(new)
        parts = order.divide(keys, attempts, args, inputs)
        if message.code:
            self.define(message.function, message.code)
        for identity, code in message.needs.items():
            if code:
                self.define(identity, code)
        if function.code is not None and (not function.needs or not function.lacking()):
            self._admit(parts)
        else:
            function.waiting.update(dict.fromkeys(parts))
            self._ask_for_code(function, client)

    def _sift(self, message: Compute, now: float) -> tuple[list[str], list[int], list[bytes], dict[int, list]]:
        """The columns without what is here already; older attempts that are here make way for newer ones."""
        here = {
            part.keys[index]: part.attempts[index]
            for part, positions in find(self._tasks, message.keys)
            for index in positions
        }
        newest: dict[str, int] = {}
        for position, (key, attempt) in enumerate(zip(message.keys, message.attempts, strict=True)):
            if key in here and attempt <= here[key]:
                continue
            if key not in newest or attempt > message.attempts[newest[key]]:
                newest[key] = position
        self._endings.drop([(key, here[key]) for key in newest if key in here], now)
        chosen = list(newest.values())
        inputs = {index: message.inputs[n] for index, n in enumerate(chosen) if n in message.inputs}
        keys, attempts = [message.keys[n] for n in chosen], [message.attempts[n] for n in chosen]
        return keys, attempts, [message.args[n] for n in chosen], inputs

    def _admit(self, parts: Iterable[Part]) -> None:
        """Tasks whose code is here: queue what needs nothing else, fetch for the others."""
        for part in parts:
            if part.inputs:
                self._gather(part)
            else:
                self._dispatch.enqueue(part)

    def _gather(self, part: Part) -> None:
        """Tasks need inputs. Where all are small values that are here, they are passed on as they are."""
        ready = [self._small(inputs) for inputs in part.inputs]
        if None not in ready:
            part.ready, part.inputs = ready, ()
            self._dispatch.enqueue(part)
            return
        del part.order.parts[part]
        positions = [position for position, small in enumerate(ready) if small is not None]
        if positions:
            together = part.pick(positions)
            together.ready, together.inputs = [ready[position] for position in positions], ()
            self._dispatch.enqueue(together)
        for single in [part.pick([position]) for position, small in enumerate(ready) if small is None]:
            self._fetch(single)

    def _small(self, inputs: list[Any]) -> list[list[Any]] | None:
        """The inputs of a task as an executor wants them, if that takes neither files nor fetches."""
        small = []
        for key, attempt, _, _, inline in inputs:
            value = self._store.entries.get(key) if inline is None else inline
            if not isinstance(value, bytes) or (inline is None and attempt > 1):
                return None
            small.append([key, value])
        return small

    def _fetch(self, part: Part) -> None:
        """A task needs more than small values that are here: take what is here, and want the rest."""
        part.entries = entries = []
        wanted: list[tuple[str, int, int, list[str]]] = []
        for key, attempt, nbytes, holders, inline in part.inputs[0]:
            entry = self._store.find(key, attempt) if inline is None else inline
            if entry is None:
                wanted.append((key, attempt, nbytes, holders))
            elif isinstance(entry, Entry):
                self._store.use(entry)
            entries.append(entry)
        part.missing = len(wanted)
        if not wanted:
            self._dispatch.enqueue(part)
        missing = [want for item in wanted if (want := self._fetches.want(part, *item)) is not None]
        self.missing(missing)

    def _ask_for_code(self, function: Function, client: str) -> None:
        for lacking in function.lacking():
            lacking.needed_by[function] = None
            if client not in lacking.asked:
                lacking.asked[client] = None
                self._out.append(Send(client, NeedFunction(lacking.identity)))

    def define(self, identity: bytes, code: bytes) -> None:
        """The code of a function has come: what waited for it goes on."""
        for defined in self.functions.both(identity):
            self.functions.define(defined, code)
            needed_by, defined.needed_by, defined.asked = defined.needed_by, {}, {}
            for function in needed_by:
                if not function.lacking():
                    waiting, function.waiting = function.waiting, {}
                    self._admit(waiting)

    def fetched(self, event: Fetched) -> None:
        """Values have come: for tasks, or for those that this worker takes over."""
        here, missing = self._fetches.fetched(event.fetch, event.nbytes, event.values, event.paths)
        for want, entry in here:
            for part in want.tasks:
                if isinstance(part, Adoption):
                    continue
                for position, (key, attempt, *_) in enumerate(part.inputs[0]):
                    if part.entries[position] is None and (key, attempt) == (want.key, want.attempt):
                        self._store.use(entry)
                        part.entries[position] = entry
                        part.missing -= 1
                if not part.missing:
                    self._dispatch.enqueue(part)
            for adoption in [task for task in want.tasks if isinstance(task, Adoption)]:
                self._adoptions.fetched(adoption, want.key, entry)
        self.missing(missing)

    def missing(self, wants: Iterable[Want]) -> None:
        """Nobody has these values: the tasks that want them fail, and what only they wanted is not fetched."""
        wants = list(wants)
        refused = {want.key: want.refused for want in wants if want.refused}
        self._fail_wanting(
            wants, "missing", lambda gone: {"keys": gone, "refused": {key: refused.get(key, []) for key in gone}}
        )

    def hopeless(self, wants: list[Want]) -> None:
        """There is no room for these values."""
        for want in wants:
            never = want.nbytes > self._store.memory_limit and not self._store.moves.spill_directory
            detail = {"reason": full(self._store, want.nbytes), "never": never, "waited_s": 0.0}
            self._fail_wanting([want], "full", lambda gone, detail=detail: {"keys": gone} | detail)  # type: ignore[misc]

    def _fail_wanting(self, wants: Iterable[Want], kind: str, detail: Callable[[list[str]], dict[str, Any]]) -> None:
        gone: dict[Part, list[str]] = {}
        for want in wants:
            tasks, want.tasks = want.tasks, {}
            self._fetches.drop(want)
            for part in tasks:
                if isinstance(part, Adoption):
                    reason = detail([want.key]).get("reason", "the worker that leaves did not give it")
                    self._adoptions.missed(part, want.key, reason)
                else:
                    gone.setdefault(part, []).append(want.key)
        for part, keys in gone.items():
            self._fetches.forget_task(part, part.inputs[0])
            self._endings.fail(part, kind, detail(keys))

    def fetch_failed(self, event: FetchFailed) -> None:
        """A peer did not give what it was asked for, or there was no room for it."""
        if event.is_full:
            self.hopeless(self._fetches.found_full(event.fetch))
        else:
            self.missing(self._fetches.failed(event.fetch))
