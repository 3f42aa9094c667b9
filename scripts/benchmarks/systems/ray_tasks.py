"""Ray: one node with one CPU a worker; `ray.get` of a list of references; references as top-level arguments.

Chunks are made by hand, as Ray's page on too fine-grained tasks advises.
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray

from benchmarks.systems import base


class System(base.System):
    distribution = "ray"
    has_dependencies = True
    keeps_values = True

    def __init__(self, workers=2, *, apart=False, tiny=False):
        super().__init__(workers)
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        self.remotes = {}

    def close(self):
        ray.shutdown()

    def remote(self, function):
        """Ray's form of this function, made once."""
        if function not in self.remotes:
            self.remotes[function] = ray.remote(num_cpus=1)(function).remote
        return self.remotes[function]

    def call(self, function, *args):
        return ray.get(self.remote(function)(*args))

    def submit_each(self, function, items):
        submit = self.remote(function)
        return [submit(item) for item in items]

    def values(self, handles):
        return ray.get(handles)

    def map_each(self, function, *columns):
        return ray.get(self.start(function, *columns))

    def map_in_chunks(self, function, items):
        submit = self.remote(base.each_of)
        parts = base.chunks(items, base.chunk_size(len(items), self.workers))
        return base.flat(ray.get([submit(function, part) for part in parts]))

    def start(self, function, *columns):
        submit = self.remote(function)
        return [submit(*row) for row in zip(*columns, strict=True)]

    def start_one(self, function, handles):
        return self.remote(_call_with_list)(function, *handles)

    def wait(self, handles):
        ray.wait(handles, num_returns=len(handles), fetch_local=False)

    def start_at(self, worker, function, *args):
        return self.remote(function)(*args)  # a node's workers share one store: there is no other place

    @property
    def address(self):
        return ray.get_runtime_context().gcs_address

    @classmethod
    def connect(cls, address):
        client = cls.__new__(cls)
        client.remotes = {}
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        return client


def _call_with_list(function, *values):
    return function(list(values))
