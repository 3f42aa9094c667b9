"""What a key costs the center, with 10 to 5,000 simulated workers and 10,000 to 1,000,000 keys

The center's real state is fed with what it would receive: workers register, report keys in columns of 100, and report
that they have removed them; messages are decoded as they are from a socket, and there is no socket. After each report a
client asks who has one of its keys; `unasked` is without that. The number of workers varies with 100,000 keys, that of
keys with 1,000 workers. A `join` is what a new worker costs for each worker that is there: it learns of all of them,
and they of it; with one encoding of the message for all, and no sending.
"""

import time

from benchmarks.systems import OURS
from benchmarks.workloads import Figure, require_equal, scaled

WORKERS, KEYS = (5_000, 1_000, 100, 10), (1_000_000, 100_000, 10_000)
USUAL_WORKERS, USUAL_KEYS = 1_000, 100_000
FIGURES = {
    **{f"{workers:,} workers": Figure("µs/key") for workers in WORKERS},
    **{f"{keys:,} keys": Figure("µs/key") for keys in KEYS},
    "unasked": Figure("µs/key"),
    "join": Figure("µs/worker"),
}
SYSTEMS = [OURS]
REPORT_KEYS, JOINS = 100, 20
CLIENT = "a11ce0000000"


def run(open_system, scale, seed):
    usual_keys, usual_workers = scaled(USUAL_KEYS, scale, least=1_000), scaled(USUAL_WORKERS, scale, least=10)
    figures = {}
    for workers in WORKERS:
        figures[f"{workers:,} workers"] = microseconds_a_key(scaled(workers, scale, least=10), usual_keys)
    for keys in KEYS:
        figures[f"{keys:,} keys"] = microseconds_a_key(usual_workers, scaled(keys, scale, least=1_000))
    figures["unasked"] = microseconds_a_key(usual_workers, usual_keys, is_asked=False)
    figures["join"] = microseconds_a_join(scaled(max(WORKERS), scale, least=10))
    return figures


def microseconds_a_key(workers, keys, is_asked=True):
    """Processor time for each key: it is added, one in a hundred is asked for, and it is removed."""
    from distributed.wire import codec
    from distributed.wire import messages as m

    center = Simulated(workers)
    reports = [(center.worker(n), *report(n)) for n in range(keys // REPORT_KEYS)]
    came = [
        (worker, codec.encode_header(m.AddKeys(names, [1] * len(names), sizes))) for worker, names, sizes in reports
    ]
    asked = [codec.encode_header(m.WhoHas(names[:1]), n + 1) for n, (_, names, _) in enumerate(reports)]
    gone = [(worker, codec.encode_header(m.RemoveKeys(names))) for worker, names, _ in reports]
    expected = [(names[0], center.address(worker)) for worker, names, _ in reports] if is_asked else []
    del reports
    answers, began_s = [], time.process_time()
    for (worker, header), question in zip(came, asked, strict=True):
        center.hears(worker, header)
        if is_asked:
            answers += center.hears(center.client, question)
    for worker, header in gone:
        center.hears(worker, header)
    spent_s = time.process_time() - began_s
    found = [(key, address) for answer in answers for key, held in answer.message.result.items() for address in held]
    require_equal(found, expected, "who has what")
    require_equal(center.state.status(1.0)["keys"], 0, "keys that are left")
    return spent_s / keys * 1e6


def microseconds_a_join(workers):
    """Processor time of a join for each worker that is there: the state's, and that of encoding both messages."""

    center = Simulated(workers - JOINS)
    headers = [(n, center.register(n)) for n in range(workers - JOINS, workers)]
    began_s = time.process_time()
    for number, header in headers:
        for instruction in center.hears(number + 1, header):
            if hasattr(instruction, "message"):
                center.codec.encode_header(instruction.message)
    spent_s = time.process_time() - began_s
    require_equal(len(center.state.directory.members), workers, "members")
    return spent_s / JOINS / workers * 1e6


def report(number):
    """The keys and sizes of one report."""
    first = number * REPORT_KEYS
    return [f"{CLIENT}/{n}" for n in range(first, first + REPORT_KEYS)], [40 + n % 500 for n in range(REPORT_KEYS)]


class Simulated:
    """A center with this many workers and one client, and nothing between them but messages."""

    def __init__(self, workers):
        from distributed.center.events import Received
        from distributed.center.state import CenterState
        from distributed.wire import codec
        from distributed.wire import messages as m

        self.workers, self.client = workers, 1_000_000
        self.state, self._received, self._messages, self.codec = CenterState(), Received, m, codec
        self.hears(self.client, codec.encode_header(m.RegisterClient(CLIENT)))
        for number in range(workers):
            self.hears(number + 1, self.register(number))

    def register(self, number):
        """The header of a worker's first message."""
        m = self._messages
        versions = {"python": "3.11", "distributed": "0.1.0", "cloudpickle": "3.1.0"}
        directory = f"/dev/shm/distributed-1000-{number:016x}"
        member = m.Member(
            self.address(number + 1), f"{number:016x}", f"worker-{number}", 2, 1 << 33, "", directory, number, versions
        )
        return self.codec.encode_header(m.Register(member, [], [], []))

    def worker(self, number):
        """The connection of the worker whose turn it is."""
        return number % self.workers + 1

    def address(self, connection):
        return f"10.0.{connection >> 8}.{connection & 255}:39999"

    def hears(self, connection, header):
        """What the center does about a message that comes over this connection."""
        message, request = self.codec.decode(header)
        return self.state.handle(self._received(connection, message, request), 1.0)
