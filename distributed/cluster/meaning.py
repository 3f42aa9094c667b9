"""What `Pool(address, hosts)` stands for: a cluster that is there, or one of the pool's own, which is started."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from distributed import arguments, machine
from distributed.cluster import surroundings
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
    least, most = 0 if elsewhere else 1, SETTINGS.executors_max
    if ncores == 0 and least:
        raise ValueError(
            f"address=0: Pool(0) computes nowhere; give it 1 to {most} executors, or other machines in hosts"
        )
    count = machine.cores() if ncores is None else arguments.count("address", ncores, least, most)
    own = embedded(count, hosts=elsewhere)
    return own.address, own
