"""mpi4py: `MPIPoolExecutor` in a program that mpiexec starts with two workers, the form that works with every MPI."""

from mpi4py import MPI
from mpi4py.futures import MPIPoolExecutor

from benchmarks.systems import base


class System(base.Futures):
    distribution = "mpi4py"

    def open(self):
        if self.workers != MPI.COMM_WORLD.Get_size() - 1:
            raise base.Unsupported("mpiexec says how many workers there are, before anything begins")
        executor = MPIPoolExecutor()
        executor.bootup(wait=True)
        return executor
