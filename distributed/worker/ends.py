"""What the outcomes in one message add up to: which of them can be dealt with together, whom they are reported to.

Arithmetic on columns. Knows no table of tasks, no store and no executor.
"""

from __future__ import annotations

from distributed.wire.messages import Finished, Outcomes
from distributed.worker.tasks import Function, Part


def special_positions(message: Outcomes) -> set[int]:
    """Where there is more than a small value: a file, an error, handles inside."""
    return {*message.paths, *message.errors, *message.contains}


def stretches(serials: list[int], special: set[int]) -> list[tuple[int, int]]:
    """Positions from..to whose numbers follow each other. A special one is by itself.

    >>> stretches([5, 6, 7, 9, 10], set()), stretches([5, 6, 7], {1})
    ([(0, 3), (3, 5)], [(0, 1), (1, 2), (2, 3)])
    """
    count = len(serials)
    if count == 1 or (count and not special and serials == list(range(serials[0], serials[0] + count))):
        return [(0, count)]
    starts = [
        position
        for position, serial in enumerate(serials)
        if not position or serial != serials[position - 1] + 1 or position in special or position - 1 in special
    ]
    return list(zip(starts, [*starts[1:], count], strict=True))


class Ends:
    """What a message of outcomes means for clients and functions."""

    def __init__(self) -> None:
        self.reports: dict[str, Finished] = {}
        self.used_us: dict[str, list[int]] = {}  # client -> tasks, time
        self.measured: dict[Function, list[int]] = {}  # the same for functions

    def count(self, part: Part, durations_us: list[int]) -> Finished:
        """These have ended, however; returns the report to their client."""
        client, function = part.order.client, part.function
        report = self.reports.get(client)
        if report is None:
            report = self.reports[client] = Finished([], [], [], [], [], {}, [])
            self.used_us[client] = [0, 0]
        measured = self.measured.get(function)
        if measured is None:
            measured = self.measured[function] = [0, 0]
        for account in (self.used_us[client], measured):
            account[0] += len(durations_us)
            account[1] += sum(durations_us)
        return report
