"""`concurrent.futures.ProcessPoolExecutor`."""

from concurrent.futures import ProcessPoolExecutor

from benchmarks.systems import base


class System(base.Futures):
    def open(self):
        return ProcessPoolExecutor(self.workers)
