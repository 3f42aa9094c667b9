"""Values that this worker takes over from one that leaves: fetched as for a task, then kept as if they were made here.

Each `Adopt` of the center's is answered by one `Adopted`, when all its values are here or will not come. The owners are
told as well, and whoever is not attached just now sees it when it attaches. A value that does not fit is refused as
soon as nothing is on its way out: another worker may have room. Decides no eviction and opens no connection.
"""

from __future__ import annotations

from typing import Any

from distributed.config import Settings
from distributed.key import owner_of
from distributed.wire.messages import Adopt, Adopted
from distributed.worker.events import Send, ToCenter
from distributed.worker.fetches import Fetches, Want
from distributed.worker.rooms import full
from distributed.worker.store import Entry, Store


class Adoption:
    """One `Adopt` that is not answered yet. It stands among the tasks that want a value."""

    def __init__(self, message: Adopt) -> None:
        self.missing = dict(zip(message.keys, message.attempts, strict=True))
        self.adopted: dict[str, int] = {}
        self.refused: dict[str, None] = {}
        self.reason = ""


class Adoptions:
    """All of them."""

    def __init__(self, settings: Settings, store: Store, fetches: Fetches) -> None:
        self.settings, self.store, self.fetches = settings, store, fetches
        self.out: list[Any] = store.out
        self.open: dict[Adoption, None] = {}

    def begin(self, message: Adopt) -> None:
        """The center asks for it."""
        adoption = Adoption(message)
        self.open[adoption] = None
        for key, attempt, nbytes in zip(message.keys, message.attempts, message.nbytes, strict=True):
            entry = self.store.get(key, 0)
            if entry is not None and entry.attempt >= attempt:
                self._take(adoption, key, entry)
            elif self.fetches.want(adoption, key, attempt, nbytes, [message.holder]) is not None:
                self.fetches.drop(self.fetches.wants[key, attempt])
                self.refuse(adoption, key, "it is asked to adopt from itself")
        self._answer(adoption)

    def refuse_all(self, message: Adopt, reason: str) -> None:
        """This worker takes nothing."""
        self.out.append(ToCenter(Adopted([], [], message.keys, reason)))

    def fetched(self, adoption: Adoption, key: str, entry: Entry) -> None:
        """A value is here."""
        self._take(adoption, key, entry)
        self._answer(adoption)

    def missed(self, adoption: Adoption, key: str, reason: str) -> None:
        """A value will not come."""
        self.refuse(adoption, key, reason)
        self._answer(adoption)

    def refuse(self, adoption: Adoption, key: str, reason: str) -> None:
        if adoption.missing.pop(key, None) is not None:
            adoption.refused[key], adoption.reason = None, reason

    def _take(self, adoption: Adoption, key: str, entry: Entry) -> None:
        """Others may go by it from here on: it is no cache any more."""
        self.store.use(entry)
        self.store.keep(entry)
        self.store.let_go(entry)
        there = self.store.get(key, 0)
        if adoption.missing.pop(key, None) is not None and there is not None:  # perhaps a newer attempt
            adoption.adopted[key] = there.attempt

    def _answer(self, adoption: Adoption) -> None:
        if adoption.missing or adoption not in self.open:
            return
        del self.open[adoption]
        adopted = adoption.adopted
        by_owner: dict[str, list[str]] = {}
        for key in adopted:
            by_owner.setdefault(owner_of(key), []).append(key)
        for owner, keys in by_owner.items():
            if owner:
                self.out.append(Send(owner, Adopted(keys, [adopted[key] for key in keys])))
        refused = list(adoption.refused)
        self.out.append(ToCenter(Adopted(list(adopted), list(adopted.values()), refused, adoption.reason)))

    def pump(self) -> None:
        """Give up at once what there is no room for, instead of waiting until tasks end."""
        for adoption in list(self.open):
            for key, attempt in list(adoption.missing.items()):
                want = self.fetches.wants.get((key, attempt))
                if want is not None and self._is_hopeless(want):
                    self.fetches.forget_task(adoption, [(key, attempt)])
                    self.refuse(adoption, key, full(self.store, want.nbytes))
            self._answer(adoption)

    def _is_hopeless(self, want: Want) -> bool:
        if want.under_way or want.nbytes <= self.settings.inline_bytes_max or self.store.make_room(want.nbytes):
            return False
        return not (self.store.moves.can_spill or self.store.moves.spilling_bytes or self.fetches.under_way)

    def forget_owner(self, client: str) -> None:
        """A client is gone: what it owned and nobody published is not wanted any more."""
        for adoption in list(self.open):
            for key, attempt in list(adoption.missing.items()):
                if owner_of(key) == client and key not in self.store.pins:
                    want = self.fetches.wants.get((key, attempt))
                    if want is not None:
                        self.fetches.forget_task(adoption, [(key, attempt)])
                    self.refuse(adoption, key, "its owner is gone")
            self._answer(adoption)
