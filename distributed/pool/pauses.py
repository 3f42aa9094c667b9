"""How long to wait before something that did not work is tried again: twice as long each time. Data and arithmetic."""

from __future__ import annotations

from distributed.pool.tasks import PAUSE_S_MAX, PAUSE_S_MIN

FORGIVING_S = 5.0  # what was not tried again for so long after its pause did work
REMEMBERED_MAX = 1000


class Pauses:
    """The last pause of each thing that does not work.

    >>> pauses = Pauses()
    >>> pauses.next('x', now=1.0), pauses.next('y', now=1.0)
    (1.1, 1.1)
    >>> pauses.next('x', now=1.1), pauses.next('x', now=20.0)
    (1.3, 20.1)
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}  # how long, until when

    def next(self, subject: str, now: float) -> float:
        """When the pause that begins now is over."""
        pause_s, until = self._last.get(subject, (0.0, now))
        pause_s = PAUSE_S_MIN if now > until + FORGIVING_S or not pause_s else min(2 * pause_s, PAUSE_S_MAX)
        if len(self._last) >= REMEMBERED_MAX:
            self._last = {known: last for known, last in self._last.items() if last[1] + FORGIVING_S > now}
        self._last[subject] = pause_s, now + pause_s
        return now + pause_s
