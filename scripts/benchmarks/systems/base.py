"""The few verbs that a workload needs of a system.

A *handle* stands for a result that may not be there yet and may be an argument of further tasks. A system without
dependencies has none: there `start` waits and gives values, and what a workload does with handles is then, without
another line, gathering at the client and sending again, which is what its users do by hand.
"""

import tempfile
import time

from benchmarks import tasks

CHUNKS_PER_WORKER = 4


class Unsupported(Exception):
    """This system has nothing that does this; the message says why."""


class System:
    """Two single-threaded workers, unless said otherwise. A subclass says how one system does each verb.

    Parameters
    ----------
    workers : int
        How many, with one executor each.
    apart : bool
        Whether workers must be servers of their own, as on several machines, if the system knows the difference.
    tiny : bool
        Whether tasks will be many and tiny: what the documentation advises for these may be set then.
    """

    distribution = ""  # the name under which its version is found; empty: the standard library
    has_dependencies = False
    keeps_values = False  # whether results can stay where they were made

    def __init__(self, workers=2, *, apart=False, tiny=False):
        self.workers = workers

    def close(self):
        """End everything."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # -------------------------------------------------------------------------------------- tasks, each with a future

    def call(self, function, *args):
        """Run it, wait, and return the value."""
        raise NotImplementedError

    def submit_each(self, function, items):
        """One task for each item, through one call each; the futures, at once."""
        raise NotImplementedError

    def values(self, handles):
        """What became of them, in order."""
        return handles

    def map_each(self, function, *columns):
        """The values of one task for each row, each schedulable on its own, in the fastest way there is."""
        raise NotImplementedError

    def map_in_chunks(self, function, items):
        """The same values in the way that the documentation recommends for many small items."""
        raise NotImplementedError

    def round_trips(self, function, count):
        """Seconds that each of `count` calls with a number took, one after the other; the value is that number."""
        seconds, clock = [], time.perf_counter
        for number in range(count):
            began_s = clock()
            value = self.call(function, number)
            seconds.append(clock() - began_s)
            assert value == number
        return seconds

    # ---------------------------------------------------------------------------- results as arguments of further tasks

    def start(self, function, *columns):
        """A handle for each row of values or handles."""
        return self.map_each(function, *columns)

    def start_one(self, function, handles):
        """The handle of one task that takes the list of all these values."""
        return self.call(function, self.values(handles))

    def value(self, handle):
        return self.values([handle])[0]

    def wait(self, handles):
        """Until all are done; values stay where they are."""

    def start_at(self, worker, function, *args):
        """The handle of a task at the worker of this number."""
        raise Unsupported("results cannot stay at a worker, nor go from one to another")

    def on_each_worker(self, function, *args):
        """{process id: value}, from every worker."""
        with tempfile.TemporaryDirectory() as directory:
            rows = [[directory] * self.workers, [self.workers] * self.workers]
            return dict(self.map_each(tasks.meet, *rows, [function] * self.workers, [args] * self.workers))

    # -------------------------------------------------------------------------------------------------- several clients

    @property
    def address(self):
        """Where further clients may connect."""
        raise Unsupported("a pool belongs to the process that opened it")

    @classmethod
    def connect(cls, address):
        """A client of the system at this address, which ends without ending the system."""
        raise Unsupported("a pool belongs to the process that opened it")


class Futures(System):
    """Any executor of the kind that PEP 3148 describes."""

    def __init__(self, workers=2, *, apart=False, tiny=False):
        super().__init__(workers)
        self.executor = self.open()

    def open(self):
        raise NotImplementedError

    def close(self):
        self.executor.shutdown()

    def call(self, function, *args):
        return self.executor.submit(function, *args).result()

    def submit_each(self, function, items):
        submit = self.executor.submit
        return [submit(function, item) for item in items]

    def values(self, handles):
        return [handle.result() if hasattr(handle, "result") else handle for handle in handles]

    def map_each(self, function, *columns):
        return list(self.executor.map(function, *columns))

    def map_in_chunks(self, function, items):
        return list(self.executor.map(function, items, chunksize=chunk_size(len(items), self.workers)))


def chunk_size(count, workers):
    """Four chunks a worker: what multiprocessing chooses by itself, and what concurrent.futures is told to use.

    >>> chunk_size(1_000_000, 2)
    125000
    """
    return max(1, -(-count // (CHUNKS_PER_WORKER * workers)))


def chunks(items, size):
    """Slices of at most this many items.

    >>> chunks(range(5), 2)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [items[start : start + size] for start in range(0, len(items), size)]


def each_of(function, items):
    """What a chunk is, for systems in which it is made by hand."""
    return [function(item) for item in items]


def flat(lists):
    """One list of the items of all."""
    return [item for items in lists for item in items]


__all__ = ["Futures", "System", "Unsupported", "chunk_size", "chunks", "each_of", "flat"]
