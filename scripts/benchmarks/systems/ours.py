"""This product: `Pool` on one machine, `Cluster` where workers must be servers of their own."""

from benchmarks import tasks
from benchmarks.systems import base
from distributed import Cluster, Pool, wait


class System(base.System):
    distribution = "distributed"
    has_dependencies = True
    keeps_values = True

    def __init__(self, workers=2, *, apart=False, tiny=False):
        super().__init__(workers)
        self.cluster = Cluster(n_workers=workers, ncores=1) if apart else None
        self.pool = Pool(self.cluster or workers)

    def close(self):
        self.pool.close()
        if self.cluster is not None:
            self.cluster.close()

    def call(self, function, *args):
        return self.pool.submit(function, *args).get()

    def submit_each(self, function, items):
        submit = self.pool.submit
        return [submit(function, item) for item in items]

    def values(self, handles):
        return self.pool.gather(handles)

    def map_each(self, function, *columns):
        return self.pool.gather(self.pool.map(function, *columns))

    def map_in_chunks(self, function, items):
        return list(self.pool.imap(function, items))

    def start(self, function, *columns):
        return self.pool.map(function, *columns)

    def start_one(self, function, handles):
        return self.pool.submit(function, handles)

    def wait(self, handles):
        wait(handles)
        assert all(handle.successful() for handle in handles)

    def start_at(self, worker, function, *args):
        return self.pool.options(workers=self.pool.workers[worker]).submit(function, *args)

    def on_each_worker(self, function, *args):
        if self.cluster is None:
            return super().on_each_worker(function, *args)
        return dict(self.values([self.start_at(n, tasks.here, function, args) for n in range(self.workers)]))

    @property
    def address(self):
        return self.pool.address

    @classmethod
    def connect(cls, address):
        client = cls.__new__(cls)
        client.cluster, client.pool = None, Pool(address)
        return client
