"""What `Pool(address, hosts)` stands for: a cluster that is there, or one of the pool's own, which is started."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from distributed import arguments, machine
from distributed.cluster import launcher, surroundings
from distributed.cluster.local import Cluster, Embedded, embedded, ssh_hosts
from distributed.config import SETTINGS
from distributed.errors import BadAddress

if TYPE_CHECKING:
    from distributed.cluster.hosts import SshHost

RIGHT_HOSTS = "a list of hosts, ['ssh://user@host:port/8', ...]"


def meant_by(address: str | int | Cluster | None, hosts: Iterable[str] = ()) -> tuple[str, Embedded | None]:
    """The center to join, and the cluster that was started for that and ends with the pool."""
    elsewhere = _elsewhere(hosts)
    if address is None and surroundings.center and not elsewhere:
        return surroundings.center, None
    if address is None or (isinstance(address, int) and not isinstance(address, bool)):
        return _started(address, elsewhere)
    if not isinstance(address, (str, Cluster)):
        shown = arguments.shown(address)
        raise TypeError(f"Pool({shown}): address must be 'host:port', a number of executors, a Cluster, or nothing")
    if isinstance(address, str) and address.strip().isdecimal():
        raise BadAddress(
            f"Pool({arguments.shown(address)}): a number of executors is no text, write Pool(4); "
            "a center is 'host:port'"
        )
    if elsewhere:
        raise ValueError(
            f"hosts={arguments.shown([host.name for host in elsewhere])} go with a cluster of the pool's own: "
            "Pool(4, hosts), or Cluster(hosts=...) for one that others join, too"
        )
    return (address.center_address if isinstance(address, Cluster) else address), None


def _elsewhere(hosts: Iterable[str]) -> Sequence[SshHost]:
    if isinstance(hosts, str):
        raise TypeError(f"hosts={arguments.shown(hosts)} must be {RIGHT_HOSTS}")
    return ssh_hosts(arguments.iterable("hosts", hosts, RIGHT_HOSTS))


def _started(ncores: int | None, elsewhere: Sequence[SshHost]) -> tuple[str, Embedded]:
    most = SETTINGS.executors_max
    if ncores == 0 and not elsewhere:
        raise ValueError(f"Pool(0) computes nowhere; give it 1 to {most} executors, or other machines in hosts")
    if ncores is not None and not 0 <= ncores <= most:
        raise ValueError(f"Pool({arguments.shown(ncores)}): it takes 1 to {most} executors")
    if ncores is None and launcher.size(os.environ) > 1 and os.environ.get("DISTRIBUTED_MPI") != "0":
        _tell_of_ranks()
    own = embedded(machine.cores() if ncores is None else ncores, hosts=elsewhere)
    return own.address, own


def _tell_of_ranks() -> None:
    """Whoever starts a program by mpiexec alone has as many pools as ranks, each with all cores."""
    if not launcher.rank(os.environ):
        warnings.warn(
            f"each of {launcher.size(os.environ)} ranks starts a local Pool() of its own; for one over all ranks run "
            "the program by python -m distributed.mpi, or set DISTRIBUTED_MPI=0 if it is meant so",
            stacklevel=6,
        )
