"""`multiprocessing.Pool`: the bulk call is `starmap` or `map` with chunks of one; single calls are `apply_async`."""

import multiprocessing

from benchmarks.systems import base


class System(base.System):
    def __init__(self, workers=2, *, apart=False, tiny=False):
        super().__init__(workers)
        self.pool = multiprocessing.Pool(workers)

    def close(self):
        self.pool.close()
        self.pool.join()

    def call(self, function, *args):
        return self.pool.apply(function, args)

    def submit_each(self, function, items):
        submit = self.pool.apply_async
        return [submit(function, (item,)) for item in items]

    def values(self, handles):
        return [handle.get() if hasattr(handle, "get") else handle for handle in handles]

    def map_each(self, function, *columns):
        if len(columns) == 1:
            return self.pool.map(function, columns[0], chunksize=1)
        return self.pool.starmap(function, zip(*columns, strict=True), chunksize=1)

    def map_in_chunks(self, function, items):
        return self.pool.map(function, items)
