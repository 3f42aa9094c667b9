"""The systems that are measured: one adapter a system, imported only inside the environment of that system."""

import dataclasses
import importlib


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a system is found, and what its environment holds (nothing: the standard library, or this product)."""

    module: str
    requirements: tuple[str, ...] = ()
    environment: str = ""
    what: str = ""
    launcher: tuple[str, ...] = ("python", "-m", "benchmarks.sample")


MPIEXEC = (
    *("mpiexec", "--allow-run-as-root", "--oversubscribe", "-n", "3"),
    *("python", "-m", "mpi4py.futures", "-m", "benchmarks.sample"),
)
OURS = "ours"
SYSTEMS = {
    OURS: Entry("ours", what="this product"),
    "multiprocessing": Entry("multiprocessing_pool", what="multiprocessing.Pool"),
    "futures": Entry("concurrent_futures", what="concurrent.futures.ProcessPoolExecutor"),
    "loky": Entry("loky_executor", ("loky",), "loky", "loky's reusable executor"),
    "distex": Entry("distex_pool", ("distex", "uvloop"), "distex", "distex.Pool, with uvloop"),
    "dask": Entry("dask_client", ("dask", "distributed"), "dask", "dask.distributed on a LocalCluster"),
    "dask-saturated": Entry(
        "dask_saturated", ("dask", "distributed"), "dask", "the same with unlimited worker-saturation"
    ),
    "ray": Entry("ray_tasks", ("ray",), "ray", "Ray's tasks and objects"),
    "mpi4py": Entry(
        "mpi4py_futures",
        ("mpi4py", "openmpi"),
        "mpi4py",
        "mpi4py.futures.MPIPoolExecutor over Open MPI",
        MPIEXEC,
    ),
}
"""By the name that the command line knows."""

BOUND = "bound"
"""Not a system: what the hardware allows, where a workload knows it."""


def load(name):
    """The adapter class of a system; imports the system itself."""
    return importlib.import_module(f"benchmarks.systems.{SYSTEMS[name].module}").System
