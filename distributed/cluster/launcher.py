"""What the launcher of an MPI job (mpiexec, mpirun, srun) tells its processes by their environment.

Read without loading MPI, which on some machines must not be loaded outside of a job. It also knows what to leave out
of the environment of daemons and executors: they are no ranks of the job, and an MPI library that one of them loads
must not take it for one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_SIZES: Final = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
_RANKS: Final = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID")
# What names a rank or leads to the launcher. What a person sets for MPI itself (which network, say) stays.
_OF_A_RANK: Final = re.compile(
    r"(PMIX?|PMI2|PRTE|PALS|HYDRA|HYDI|MPIR|MV2_COMM_WORLD|I_MPI_(HYDRA|PMI))_"
    r"|OMPI_(?!ALLOW_|MCA_)|OMPI_MCA_(orte|prte|ess|pmix|plm|shmem_RUNTIME|initial_wdir|mpi_oversubscribe)"
    r"|MPI_LOCAL(NRANKS|RANKID)|SLURM_(STEP|PROCID|LOCALID|GTIDS|TASK_PID)"
)


def size(environment: Mapping[str, str]) -> int:
    """How many processes the launcher started; 0 if there is no launcher.

    >>> size({'OMPI_COMM_WORLD_SIZE': '4'}), size({})
    (4, 0)
    """
    return _first_number(environment, _SIZES)


def rank(environment: Mapping[str, str]) -> int:
    """Which of them this process is; 0 without a launcher.

    >>> rank({'OMPI_COMM_WORLD_SIZE': '4', 'OMPI_COMM_WORLD_RANK': '3'}), rank({'SLURM_PROCID': '1'})
    (3, 0)
    """
    return _first_number(environment, _RANKS) if size(environment) else 0  # a batch script has a SLURM_PROCID, too


def _first_number(environment: Mapping[str, str], names: tuple[str, ...]) -> int:
    return next((int(text) for name in names if (text := environment.get(name, "")).isdecimal()), 0)


def without_rank(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of what a rank starts: all that there is but for what makes it a rank.

    >>> without_rank({'PATH': '/bin', 'PMIX_RANK': '1', 'OMPI_MCA_btl': 'tcp', 'OMPI_MCA_ess': '^singleton'})
    {'PATH': '/bin', 'OMPI_MCA_btl': 'tcp'}
    """
    return {name: value for name, value in environment.items() if not _OF_A_RANK.match(name)}
