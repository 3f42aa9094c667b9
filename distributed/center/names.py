"""Published names: what each stands for, and when it is safe to say that it keeps its values.

::

    asked for ─▶ learned, every worker is told ─▶ answered, once each of its keys is at a worker that has been told
                                    │
                                    └─ `publish_wait_s`: refused, and forgotten

Until the answer the owner keeps the values itself. A worker may be on its way back to a center that was started again;
were the name answered before that worker has heard of it, the owner would let go of the last copy. Says what to tell
whom; knows the directory, and neither owners nor the clock.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable

from distributed.center.directory import Directory
from distributed.center.events import Broadcast, Instruction, Send, Tell
from distributed.config import Settings
from distributed.wire import messages as m

SHOWN_KEYS = 3  # of those that are missing, in an error


@dataclasses.dataclass(slots=True)
class Publication:
    """A name: the key it stands for, and every key that this keeps alive, with the attempt that counts (0: any)."""

    key: str
    keys: dict[str, int]


@dataclasses.dataclass(slots=True)
class Waiting:
    """Those who published a name that does not keep all its values yet."""

    is_new: bool  # nobody had been told that it is published
    deadline: float = 0.0
    askers: dict[tuple[int, int], None] = dataclasses.field(default_factory=dict)  # connections and requests
    told: set[int] = dataclasses.field(default_factory=set)  # connections of workers that know the name


class Names:
    """All names, by text, and the keys that they keep."""

    def __init__(
        self,
        settings: Settings,
        directory: Directory,
        is_held: Callable[[str, set[int]], bool],
        fate: Callable[[str], str],
    ) -> None:
        self.settings, self.directory = settings, directory
        self.is_held = is_held  # whether a worker that has one of these connections holds a key
        self.fate = fate  # what its owner says of a key: 'lost', 'to come', or ''
        self.publications: dict[str, Publication] = {}
        self.kept: dict[str, int] = {}  # key -> how many names keep it,
        self.attempts: dict[str, int] = {}  # and which attempt of it, where that is known
        self.unpublished: dict[str, str] = {}  # name -> the key it had
        self.waiting: dict[str, Waiting] = {}
        self._telling: dict[int, tuple[str, Waiting, list[int]]] = {}  # token -> which name, for whom, and whom
        self._tokens = 0

    # ------------------------------------------------------------------------------------------------------ publishing

    def publish(
        self, message: m.Publish, attempts: dict[str, int], connection: int, request: int, now: float
    ) -> list[Instruction]:
        """Learn a name, and tell the workers; also again, when somebody asks again because the answer was lost."""
        name, is_new = message.name, message.name not in self.publications
        if is_new:
            self._learn(name, message.key, attempts)
            self.unpublished.pop(name, None)
        waiting = self.waiting.setdefault(name, Waiting(is_new))
        waiting.askers[connection, request] = None
        waiting.deadline = now + self.settings.publish_wait_s
        return self._tell(name, list(self.directory.by_connection))

    def told(self, token: int) -> list[Instruction]:
        """These workers know this name now."""
        name, waiting, connections = self._telling.pop(token)
        if self.waiting.get(name) is not waiting:  # it was answered, or is another one's name now
            return []
        waiting.told.update(connections)
        return self._settle(name)

    def forget_connection(self, connection: int) -> None:
        """Who asked over this one hears no answer, and asks again."""
        for waiting in self.waiting.values():
            waiting.askers = {asker: None for asker in waiting.askers if asker[0] != connection}

    def heard_of(self, keys: list[str]) -> list[Instruction]:
        """Something is new about these: a worker has them, or their owner says what became of them."""
        if not self.waiting or self.kept.keys().isdisjoint(keys):
            return []
        found = set(keys)
        names = [name for name in self.waiting if not found.isdisjoint(self.publications[name].keys)]
        return [instruction for name in names for instruction in self._settle(name)]

    def counts(self, keys: list[str], attempts: list[int]) -> list[Instruction]:
        """Which attempts count, says the owner: a value that a name keeps may have been lost, and computed again."""
        new = {
            key: attempt
            for key, attempt in zip(keys, attempts, strict=True)
            if key in self.kept and attempt > self.attempts.get(key, 0)
        }
        self.attempts.update(new)
        out: list[Instruction] = []
        for name, publication in self.publications.items() if new else ():
            if changed := publication.keys.keys() & new.keys():
                publication.keys.update({key: new[key] for key in changed})
                out += self._to_all(m.Pin(name, publication.key, publication.keys))
        return out

    def give_up(self, name: str, now: float) -> list[Instruction]:
        """Time passed for a name: nobody may have had what it should keep for too long."""
        waiting = self.waiting.get(name)
        if waiting is None or now < waiting.deadline:
            return []
        missing = self._missing(name)
        shown = ", ".join(missing[:SHOWN_KEYS]) + " ..." * (len(missing) > SHOWN_KEYS)
        return self._refuse(name, f"no worker has {shown}")

    def _settle(self, name: str) -> list[Instruction]:
        """Answer whoever published this if nothing is missing any more."""
        key = self.publications[name].key
        if self.fate(key) == "lost":
            return self._refuse(name, f"{key} is lost")
        if self._missing(name):
            return []
        return _reply(self.waiting.pop(name))

    def _missing(self, name: str) -> list[str]:
        """What this name should keep and does not yet; a value may refer to others that failed, or are yet to come."""
        told, publication = self.waiting[name].told, self.publications[name]
        return [
            key
            for key in publication.keys
            if not self.is_held(key, told) and (key == publication.key or not self.fate(key))
        ]

    def _refuse(self, name: str, why: str) -> list[Instruction]:
        waiting = self.waiting.pop(name)
        refusal = m.Refusal("KeyLost", f"nothing is published as {name!r}: {why}")
        refused = _answer(waiting, refusal)
        if not waiting.is_new:  # it was published before: what it keeps may come back with whoever has it
            return refused
        self.forget(name)
        return refused + self._to_all(m.Unpin(name, []))

    # -------------------------------------------------------------------------------------------------- unpublishing

    def unpublish(self, name: str, key: str, owners: list[str]) -> list[Instruction]:
        """Forget a name. One that is not known may be with a worker which comes back, as after a restart."""
        known = self.publications.get(name)
        if known is not None and known.key != key:
            return []
        self.unpublished.pop(name, None)
        self.unpublished[name] = key
        if len(self.unpublished) > self.settings.unpublished_names_max:
            del self.unpublished[next(iter(self.unpublished))]
        if known is None:
            return []
        waiting = self.waiting.get(name)
        self.forget(name)
        answer = _reply(waiting) if waiting is not None else []
        return answer + self._to_all(m.Unpin(name, owners))

    def forget(self, name: str) -> None:
        """It keeps nothing any more."""
        self.waiting.pop(name, None)
        for key in self.publications.pop(name).keys:
            self.kept[key] -= 1
            if not self.kept[key]:
                del self.kept[key]
                self.attempts.pop(key, None)

    # ------------------------------------------------------------------------------------------------------- workers

    def merge(self, message: m.Register, connection: int, owners: list[str]) -> list[Instruction]:
        """Learn names that only this worker knows (the center came back), teach it those that it does not know."""
        out: list[Instruction] = []
        for name, key in message.names.items():
            if self.unpublished.get(name) == key:
                out.append(Send(connection, m.Unpin(name, owners)))
            elif name not in self.publications and len(self.publications) < self.settings.names_max:
                self._learn(name, key, message.published.get(name, {}))
                others = [other for other in self.directory.by_connection if other != connection]
                if others:
                    out.append(Broadcast(others, m.Pin(name, key, self.publications[name].keys)))
        for name, publication in self.publications.items():
            if message.names.get(name) == publication.key:
                if name in self.waiting:
                    self.waiting[name].told.add(connection)
            elif name in self.waiting:
                out += self._tell(name, [connection])
            else:
                out.append(Send(connection, m.Pin(name, publication.key, publication.keys)))
        return out

    # --------------------------------------------------------------------------------------------------------- words

    def _learn(self, name: str, key: str, keys: dict[str, int]) -> None:
        self.publications[name] = Publication(key, {key: 0, **keys})
        for kept, attempt in self.publications[name].keys.items():
            self.kept[kept] = self.kept.get(kept, 0) + 1
            if attempt > self.attempts.get(kept, 0):
                self.attempts[kept] = attempt

    def _tell(self, name: str, connections: list[int]) -> list[Instruction]:
        if not connections:
            return []
        self._tokens += 1
        self._telling[self._tokens] = name, self.waiting[name], connections
        known = self.publications[name]
        return [Tell(connections, m.Pin(name, known.key, known.keys), self._tokens)]

    def _to_all(self, message: m.Message) -> list[Instruction]:
        return [Broadcast(list(self.directory.by_connection), message)] if self.directory.by_connection else []

    def check(self) -> None:
        """Assert that keys are counted, and that only what is published is waited for."""
        kept = collections.Counter(key for publication in self.publications.values() for key in publication.keys)
        assert self.kept == kept, "keys that names keep"
        assert self.waiting.keys() <= self.publications.keys()


def _reply(waiting: Waiting) -> list[Instruction]:
    return _answer(waiting, m.Reply(None))


def _answer(waiting: Waiting, message: m.Message) -> list[Instruction]:
    return [Send(connection, message, request) for connection, request in waiting.askers if request]
