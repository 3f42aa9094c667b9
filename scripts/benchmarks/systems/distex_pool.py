"""distex: `map_async`, which its documentation calls the faster form; `run_async` for single calls.

The queue of a worker is made longer where tasks are tiny, as its documentation says ("to improve the throughput of
small tasks"). Functions go by plain pickle: the default, dill, is slower and only needed for lambdas.
"""

import asyncio
import time

import uvloop
from distex import Pool
from distex.serializer import PickleType

from benchmarks import tasks
from benchmarks.systems import base

QUEUE_TINY = 100  # per worker; measured: 2 gives 0.5 of the rate, 1000 no more than this


class System(base.System):
    distribution = "distex"

    def __init__(self, workers=2, *, apart=False, tiny=False):
        super().__init__(workers)
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.pool = Pool(workers, qsize=QUEUE_TINY if tiny else 2, func_pickle=PickleType.pickle)

    def close(self):
        self.pool.shutdown()

    def call(self, function, *args):
        return self.pool.run(function, *args)

    def submit_each(self, function, items):
        async def submit():
            return [asyncio.ensure_future(self.pool.run_async(function, item)) for item in items]

        return self.loop.run_until_complete(submit())

    def values(self, handles):
        async def gather():
            return [await handle if asyncio.isfuture(handle) else handle for handle in handles]

        return self.loop.run_until_complete(gather())

    def map_each(self, function, *columns):
        return self._map(function, columns, 1)

    def map_in_chunks(self, function, items):
        return self._map(function, [items], base.chunk_size(len(items), self.workers))

    def start(self, function, *columns):
        return self._map(function, [zip(*columns, strict=True)], 1, star=True)  # a bare array is mistaken for arguments

    def _map(self, function, columns, chunksize, **how):
        async def gather():
            return [value async for value in self.pool.map_async(function, *columns, chunksize=chunksize, **how)]

        return self.loop.run_until_complete(gather())

    def round_trips(self, function, count):
        async def measure():
            seconds, clock = [], time.perf_counter
            for number in range(count):
                began_s = clock()
                value = await self.pool.run_async(function, number)
                seconds.append(clock() - began_s)
                assert value == number
            return seconds

        return self.loop.run_until_complete(measure())

    def on_each_worker(self, function, *args):
        return dict(self.pool.run_on_all(tasks.here, function, args))
