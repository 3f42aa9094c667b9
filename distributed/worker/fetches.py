"""What to fetch from whom: wants, the holders left to ask for each, and requests under way. Opens no connection.

::

    wanted ──▶ pending at one holder ──room, a free request──▶ under way ──▶ here
                   ▲                                              │
                   └──── next holder ◀──── not there, no answer ──┘  (none left: missing)

A value that several tasks want is fetched once. Several values travel in one request, up to `fetch_bytes_max`; at most
`fetches_per_peer_max` requests are under way at a peer. A large value takes its room in the store before it travels, or
goes to the spill directory, if it is larger than the whole memory or nothing will make room for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from distributed.config import Settings
from distributed.worker.events import Fetch, Remove
from distributed.worker.store import Entry, Store


class Want:
    """One value that tasks wait for."""

    __slots__ = ("attempt", "holders", "key", "nbytes", "peer", "refused", "reserved", "tasks", "under_way")

    def __init__(self, key: str, attempt: int, nbytes: int) -> None:
        self.key, self.attempt, self.nbytes = key, attempt, nbytes
        self.holders: list[str] = []  # still to be asked
        self.refused: list[str] = []  # said that they do not have it, which says more than that they could not be asked
        self.tasks: dict[Any, None] = {}
        self.peer = ""
        self.under_way = False
        self.reserved = 0


class Fetches:
    """All wants and requests. Methods that find out that values cannot be had return the wants concerned."""

    def __init__(self, settings: Settings, store: Store, own_address: str, out: list[Any]) -> None:
        self.settings, self.store, self.own_address, self.out = settings, store, own_address, out
        self.wants: dict[tuple[str, int], Want] = {}
        self.pending: dict[str, dict[Want, None]] = {}  # peer -> wants to ask it for
        self.under_way: dict[int, list[Want]] = {}
        self.requests: dict[str, int] = {}  # peer -> requests under way
        self.fetched_bytes = 0
        self._fetches = 0

    def want(self, task: Any, key: str, attempt: int, nbytes: int, holders: list[str]) -> Want | None:
        """A task wants a value. The want is returned when nobody is left to ask for it."""
        want = self.wants.get((key, attempt))
        if want is not None:
            want.tasks[task] = None
            want.holders += [h for h in holders if h not in want.holders and h != want.peer and h != self.own_address]
            return None
        want = self.wants[key, attempt] = Want(key, attempt, nbytes)
        want.tasks[task] = None
        want.holders = [holder for holder in dict.fromkeys(holders) if holder != self.own_address]
        want.refused = [self.own_address] if self.own_address in holders else []
        return None if self._ask_next(want) else want

    def _ask_next(self, want: Want) -> bool:
        """Line up at the holder with the fewest before us; False when all were asked."""
        want.under_way = False
        if not want.holders:
            want.peer = ""
            return False
        want.peer = min(want.holders, key=lambda peer: (self._load_of(peer), peer))
        want.holders.remove(want.peer)
        self.pending.setdefault(want.peer, {})[want] = None
        return True

    def _load_of(self, peer: str) -> int:
        return len(self.pending.get(peer, ())) + self.requests.get(peer, 0)

    def forget_task(self, task: Any, inputs: Iterable[Sequence[Any]]) -> None:
        """A task is gone that has these inputs; what only it wanted is not fetched, or not kept when it comes."""
        for key, attempt, *_ in inputs:
            want = self.wants.get((key, attempt))
            if want is None or want.tasks.pop(task, self) is self:
                continue
            if not want.tasks and not want.under_way:
                self.drop(want)

    def drop(self, want: Want) -> None:
        """Nobody wants this any more."""
        if self.wants.get((want.key, want.attempt)) is want:
            del self.wants[want.key, want.attempt]
        waiting = self.pending.get(want.peer)
        if waiting is not None and waiting.pop(want, 0) is None and not waiting:
            del self.pending[want.peer]

    def pump(self, more_will_go: bool) -> list[Want]:
        """Send the requests that can go now; returns wants that there will be no room for.

        What does not fit now waits while something will go: a fetch is under way, something is being spilled, or
        `more_will_go` because tasks that hold inputs will end. When nothing will, the first one goes to disk, or else
        is given up, which may make room for the others.
        """
        hopeless: list[Want] = []
        for peer in list(self.pending):
            while peer in self.pending and self.requests.get(peer, 0) < self.settings.fetches_per_peer_max:
                if not self._request(peer, hopeless):
                    break
        if self.pending and not (hopeless or more_will_go or self.under_way or self.store.moves.spilling_bytes):
            waiting = next(iter(self.pending.values()))
            want = self._take_out(next(iter(waiting)))
            if self.store.moves.can_spill:
                self._send(want.peer, [want], on_disk=True)
            else:
                hopeless.append(want)
        return hopeless

    def _request(self, peer: str, hopeless: list[Want]) -> bool:
        wants: list[Want] = []
        nbytes = 0
        for want in list(self.pending[peer]):
            if wants and nbytes + want.nbytes > self.settings.fetch_bytes_max:
                break
            large = want.nbytes if want.nbytes > self.settings.inline_bytes_max else 0
            if large > self.store.memory_limit:
                if wants:
                    break
                if self.store.moves.can_spill:
                    self._send(peer, [self._take_out(want)], on_disk=True)
                    return True
                hopeless.append(self._take_out(want))
                continue
            if large and not self.store.make_room(large):
                break
            want.reserved = large
            self.store.reserved_bytes += large
            nbytes += want.nbytes
            wants.append(self._take_out(want))
        if wants:
            self._send(peer, wants)
        return bool(wants)

    def _take_out(self, want: Want) -> Want:
        """It lines up no longer."""
        waiting = self.pending[want.peer]
        del waiting[want]
        if not waiting:
            del self.pending[want.peer]
        return want

    def _send(self, peer: str, wants: list[Want], on_disk: bool = False) -> None:
        for want in wants:
            want.under_way = True
        self._fetches += 1
        self.under_way[self._fetches] = wants
        self.requests[peer] = self.requests.get(peer, 0) + 1
        columns = [want.key for want in wants], [want.attempt for want in wants], [want.nbytes for want in wants]
        self.out.append(Fetch(self._fetches, peer, *columns, on_disk))

    def fetched(
        self, fetch: int, nbytes: list[int], values: list[bytes | None], paths: list[str]
    ) -> tuple[list[tuple[Want, Entry]], list[Want]]:
        """A peer answered: the wants that are satisfied, with their entries, and those that nobody can satisfy."""
        here: list[tuple[Want, Entry]] = []
        missing: list[Want] = []
        for want, size, value, path in zip(self._ended(fetch), nbytes, values, paths, strict=True):
            if size < 0:
                want.refused.append(want.peer)
                missing += self._failed(want)
                continue
            self.fetched_bytes += size
            if not want.tasks:
                self.drop(want)
                if path:
                    self.out.append(Remove(path))
                continue
            here.append((want, self.store.add_replica(want.key, want.attempt, size, None if path else value, path)))
            del self.wants[want.key, want.attempt]
        return here, missing

    def failed(self, fetch: int) -> list[Want]:
        """A peer did not answer: ask others. Returns the wants for which nobody is left."""
        return [want for asked in self._ended(fetch) for want in self._failed(asked)]

    def found_full(self, fetch: int) -> list[Want]:
        """There was no room for an answer, on any file system: nothing is wrong with the peer. Returns the wants."""
        wants = self._ended(fetch)
        for want in wants:
            want.under_way = False
            if not want.tasks:
                self.drop(want)
        return [want for want in wants if want.tasks]

    def _ended(self, fetch: int) -> list[Want]:
        wants = self.under_way.pop(fetch)
        peer = wants[0].peer
        self.requests[peer] -= 1
        if not self.requests[peer]:
            del self.requests[peer]
        for want in wants:
            self.store.reserved_bytes -= want.reserved
            want.reserved = 0
        return wants

    def _failed(self, want: Want) -> list[Want]:
        if not want.tasks:
            want.under_way = False
            self.drop(want)
            return []
        return [] if self._ask_next(want) else [want]

    def peer_left(self, peer: str) -> list[Want]:
        """A worker is gone: nobody asks it any more; what is under way there fails by itself."""
        for want in self.wants.values():
            if peer in want.holders:
                want.holders.remove(peer)
        return [want for want in self.pending.pop(peer, ()) if not self._ask_next(want)]

    def reserved_bytes(self) -> int:
        """Room held for values under way."""
        return sum(want.reserved for wants in self.under_way.values() for want in wants)

    def check(self) -> None:
        """Every want is in exactly one place; limits hold."""
        pending = [want for wants in self.pending.values() for want in wants]
        under_way = [want for wants in self.under_way.values() for want in wants]
        assert sorted(map(id, (*pending, *under_way))) == sorted(map(id, self.wants.values())), "a lost want"
        assert all(want.tasks for want in pending)
        assert all(count <= self.settings.fetches_per_peer_max for count in self.requests.values())
        assert sum(self.requests.values()) == len(self.under_way)
