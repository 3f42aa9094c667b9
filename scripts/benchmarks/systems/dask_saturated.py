"""dask.distributed with `worker-saturation: inf`: tasks are queued at the workers, which is quicker for tiny ones."""

import dask

from benchmarks.systems import dask_client


class System(dask_client.System):
    def __init__(self, workers=2, *, apart=False, tiny=False):
        dask.config.set({"distributed.scheduler.worker-saturation": "inf"})
        super().__init__(workers)
