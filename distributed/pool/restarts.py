"""Requests for fresh executors: whom to ask, and who has not done it yet."""

from __future__ import annotations

import itertools

from distributed.pool.events import Instruction, RestartAsked, Send
from distributed.pool.membership import Membership
from distributed.wire.messages import Member, Restart


class Restarts:
    """The requests that are under way, by number."""

    def __init__(self, membership: Membership) -> None:
        self.membership = membership
        self._asked: dict[int, RestartAsked] = {}
        self._numbers = itertools.count(1)

    def begin(self, event: RestartAsked) -> list[Instruction]:
        """The user wants every executor of every worker to be a fresh process."""
        number = next(self._numbers)
        event.pending = {member.address: member.incarnation for member in self.membership.members.values()}
        event.pending |= {address: view.member.incarnation for address, view in self.membership.workers.items()}
        self._asked[number] = event
        self._end_those_that_are_done()
        return [Send(address, Restart(number)) for address in event.pending if address in self.membership.workers]

    def done(self, address: str, number: int) -> None:
        """A worker has only fresh executors now."""
        if number in self._asked:
            self._asked[number].pending.pop(address, None)
        self._end_those_that_are_done()

    def connected(self, member: Member) -> list[Instruction]:
        """A worker is here (again): what it was asked over another connection it has forgotten."""
        self._forget_others(member.address, member.incarnation)
        waiting = [number for number, event in self._asked.items() if member.address in event.pending]
        return [Send(member.address, Restart(number)) for number in waiting]

    def look(self) -> None:
        """Somebody left, perhaps: of who is not here any more no executor is left."""
        for event in self._asked.values():
            for address in [address for address in event.pending if not self._is_here(address)]:
                del event.pending[address]
        self._end_those_that_are_done()

    def _is_here(self, address: str) -> bool:
        return address in self.membership.workers or address in self.membership.members

    def _forget_others(self, address: str, incarnation: str) -> None:
        """Another worker than the one that was meant is fresh as a whole."""
        for event in self._asked.values():
            if event.pending.get(address, incarnation) != incarnation:
                del event.pending[address]
        self._end_those_that_are_done()

    def _end_those_that_are_done(self) -> None:
        for number, event in list(self._asked.items()):
            if not event.pending or event.is_given_up:
                event.done = not event.pending
                del self._asked[number]
