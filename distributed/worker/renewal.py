"""Fresh executors on demand: those that are here when a pool asks get no more work, and are replaced once idle.

What is queued stays queued, what is stored stays stored, and whoever's task runs just now runs to its end. Each request
is answered when none of the executors that there were is left.
"""

from __future__ import annotations

from distributed.wire.messages import Restarted
from distributed.worker.dispatch import Dispatch
from distributed.worker.events import Send


class Renewal:
    """The requests that are not answered yet."""

    def __init__(self, dispatch: Dispatch) -> None:
        self.dispatch = dispatch
        self._waiting: dict[tuple[str, int], set[int]] = {}  # client and its number -> executors still to be replaced

    def begin(self, client: str, number: int) -> None:
        """A pool asks for it."""
        self._waiting[client, number] = set(self.dispatch.retire_all())
        self._answer()

    def ended(self, executor: int) -> None:
        """An executor is gone, for whatever reason."""
        for executors in self._waiting.values():
            executors.discard(executor)
        self._answer()

    def forget(self, client: str) -> None:
        """Nobody is there to be told."""
        for asked in [asked for asked in self._waiting if asked[0] == client]:
            del self._waiting[asked]

    def _answer(self) -> None:
        for client, number in [asked for asked, executors in self._waiting.items() if not executors]:
            del self._waiting[client, number]
            self.dispatch.out.append(Send(client, Restarted(number)))
