"""Daemons on this machine, started and ended by this process: `Cluster`, and the small cluster inside a `Pool`.

Either may have workers on other machines, too, to which ssh leads (:mod:`distributed.cluster.ssh`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distributed import address as addresses
from distributed import arguments, machine
from distributed.cluster.child import Child, stop
from distributed.cluster.launcher import without_rank
from distributed.config import SETTINGS
from distributed.errors import DistributedError
from distributed.quantities import count
from distributed.resources import amounts, written

if TYPE_CHECKING:
    from distributed.cluster.hosts import SshHost

CENTER_PART = 0.2  # of the time to end a cluster: so much is left for the center if workers take all of theirs


class Daemon(Child):
    """One ``python -m distributed …`` of ours, on this machine. What it prints is kept, or goes where ours goes."""

    def __init__(self, *arguments: str, is_shown: bool = False) -> None:
        self._arguments, self._is_shown = arguments, is_shown
        super().__init__()

    def _launch(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "distributed", *self._arguments, "--parent-fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=None if self._is_shown else self._output,
            stderr=None if self._is_shown else subprocess.STDOUT,
            env={**without_rank(os.environ), "PYTHONPATH": os.pathsep.join(_search_path())},
        )

    def _understand(self, line: bytes) -> dict[str, Any]:
        ready: dict[str, Any] = json.loads(line)
        return ready

    def ask_to_leave(self) -> None:
        """A worker takes nothing new, hands over what only it holds, and ends."""
        if os.getpid() == self._parent_pid and self.is_alive():
            self._process.send_signal(signal.SIGTERM)


def _search_path() -> Iterable[str]:
    """Where this process imports from, so that its daemons' executors import the same."""
    return dict.fromkeys(entry or os.getcwd() for entry in sys.path)


def _stop_cluster(workers: dict[str, Child], centers: list[Daemon], spill_directory: str | None) -> None:
    began = time.monotonic()
    stop(list(workers.values()), (1 - CENTER_PART) * SETTINGS.close_timeout_s, spill_directory)
    stop(centers, SETTINGS.close_timeout_s - (time.monotonic() - began))


class Cluster:
    """A cluster of real daemons: one center on this machine and some workers, all of which end with this process.

    Parameters
    ----------
    n_workers
        How many workers to start; default: one, or one for each of `hosts`.
    ncores
        Executors of each worker; default: the machine's cores, divided among the workers.
    hosts
        Where the workers are: addresses of this machine, ``host:port``, and other machines to which ssh leads without
        a password, ``ssh://user@host:port/8`` for a worker with 8 executors there. Default: on this machine.
    center
        Address of the center; default: a free port of 127.0.0.1.
    memory_limit
        Bytes of values that each worker keeps in memory, or a text such as ``'4GiB'`` or ``'0.2'`` (of the machine).
    spill_directory
        Where workers put values beyond that (default: a temporary directory on disk; ``'none'``: nowhere).
    task_memory_limit
        Bytes, or a text, that an executor may have of its own; one with more is killed. ``'none'``: no limit.
    resources
        What each worker has a number of, beside cores, for tasks that ask for it: ``{'gpu': 2}``.
    insecure_plaintext
        Listen on other addresses than loopback, although nothing is encrypted.
    tls
        Encrypt what goes over TCP: create the credential if there is none. If there is one, that is done in any case.

    Examples
    --------
    ::

        with Cluster(n_workers=2) as cluster, Pool(cluster) as pool:
            pool.apply(sum, [[1, 2, 3]])
    """

    @arguments.nearest_names()
    def __init__(
        self,
        n_workers: int | None = None,
        ncores: int | None = None,
        hosts: Sequence[str] | None = None,
        center: str | None = None,
        memory_limit: int | str | None = None,
        *,
        spill_directory: str | None = None,
        task_memory_limit: int | str | None = None,
        insecure_plaintext: bool = False,
        tls: bool = False,
        resources: Mapping[str, int] | None = None,
    ) -> None:
        wanted, elsewhere = self._places(n_workers, hosts)
        self._options = _worker_options(len(wanted), ncores, memory_limit, spill_directory, task_memory_limit)
        each = {} if resources is None else amounts("resources", resources)
        has = ["--resources", written(each)] if each else []
        self._options += has
        arguments.truth("insecure_plaintext", insecure_plaintext)
        self._common = ["--insecure-plaintext"] if insecure_plaintext else []
        self._workers: dict[str, Child] = {}
        self._centers: list[Daemon] = []
        self._finalizer = weakref.finalize(self, _stop_cluster, self._workers, self._centers, spill_directory)
        host, port = ("127.0.0.1", 0) if center is None else addresses.parse(center, 8787)
        tls_option = ["--tls"] if arguments.truth("tls", tls) else []
        try:
            self._centers.append(Daemon("center", "--host", host, "--port", str(port), *tls_option, *self._common))
            ready = self._centers[0].wait_ready()
            self.center_address: str = ready["address"]
            self.status_link: str = ready["status_link"]
            self._start_workers(wanted)
            if elsewhere:
                options = [*_options_elsewhere(memory_limit, spill_directory, task_memory_limit), *has]
                self._workers.update(start_elsewhere(elsewhere, self.center_address, options, ncores or 0))
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _places(n_workers: int | None, hosts: Sequence[str] | None) -> tuple[list[tuple[str, int]], Sequence[SshHost]]:
        """Where workers are to be: on this machine, and elsewhere."""
        right = "a list of addresses, ['host:port', 'ssh://host/8', ...]"
        if isinstance(hosts, str):
            raise TypeError(f"hosts={arguments.shown(hosts)} must be {right}")
        listed = list(arguments.iterable("hosts", hosts or (), right))
        elsewhere = [host for host in listed if _is_elsewhere(host)]
        wanted = [addresses.parse(host, 0) for host in listed if not _is_elsewhere(host)]
        for place in wanted:
            if place[1] and wanted.count(place) > 1:
                raise ValueError(
                    f"hosts names {addresses.unparse(*place)} twice: each worker has an address of its own"
                )
        if n_workers is not None:
            n_workers = arguments.count("n_workers", n_workers, 0, SETTINGS.workers_started_max)
        if listed and n_workers is not None and n_workers != len(listed):
            raise ValueError(f"n_workers={n_workers}, but hosts names {len(listed)}: leave one of them out")
        if not listed:
            wanted = [("127.0.0.1", 0)] * (1 if n_workers is None else n_workers)
        return wanted, ssh_hosts(elsewhere)

    def _start_workers(self, wanted: Iterable[tuple[str, int]]) -> None:
        """Start them all, then wait for them; if one fails, none of these stays."""
        daemons: list[Daemon] = []
        try:
            for host, port in wanted:
                place = ["--host", host, "--port", str(port)]
                daemons.append(Daemon("worker", self.center_address, *place, *self._options, *self._common))
            started = {daemon.wait_ready()["address"]: daemon for daemon in daemons}
        except BaseException:
            stop(daemons, SETTINGS.close_timeout_s)
            raise
        self._workers.update(started)

    @property
    def workers(self) -> list[str]:
        """The addresses of the workers that run."""
        return [address for address, daemon in self._workers.items() if daemon.is_alive()]

    def scale(self, n: int) -> None:
        """Start or end workers until `n` run. Those that hold least end first, the youngest of equals.

        They leave in an orderly way: their queued tasks go elsewhere, running ones end, and what only they hold is
        handed over. After `drain_timeout_s` they end anyway. Returns when all are gone, or there.
        """
        if not self._finalizer.alive:
            raise ValueError("the cluster is closed")
        n = arguments.count("n", n, 0, SETTINGS.workers_started_max)
        for address in [address for address in self._workers if address not in self.workers]:
            stop([self._workers.pop(address)], 0.0)
        surplus = [self._workers.pop(address) for address in self._emptiest(len(self._workers) - n)]
        self._dismiss(surplus)
        self._start_workers([("127.0.0.1", 0)] * (n - len(self._workers)))

    def _emptiest(self, count: int) -> list[str]:
        """So many workers that hold least, the youngest of equals first."""
        if count < 1:
            return []
        from distributed.rpc import rpc  # lazy, too: it loads an event loop

        with contextlib.suppress(DistributedError, TimeoutError), rpc(self.center_address) as center:
            held = {member["address"]: member["nbytes"] for member in center.status()["members"]}
            youngest = list(reversed(self._workers))
            return sorted(youngest, key=lambda address: held.get(address, 0))[:count]
        return list(self._workers)[-count:]

    def _dismiss(self, daemons: list[Child]) -> None:
        """Have workers leave, all at the same time, and kill those that do not end in time."""
        deadline = time.monotonic() + SETTINGS.drain_timeout_s + SETTINGS.drain_kill_s + SETTINGS.close_timeout_s
        for daemon in daemons:
            daemon.ask_to_leave()
        for daemon in daemons:
            daemon.wait_until_gone(deadline)
        stop(daemons, SETTINGS.close_timeout_s)

    def close(self) -> None:
        """End workers and center, and wait for it. Closing twice is no error."""
        self._finalizer()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if not self._finalizer.alive:
            return "<Cluster: closed>"
        return f"<Cluster {self.center_address}: {count(len(self.workers), 'worker')}>"


def _worker_options(
    n_workers: int,
    ncores: int | None,
    memory_limit: int | str | None,
    spill_directory: str | None,
    task_memory_limit: int | str | None,
) -> list[str]:
    each = max(1, machine.cores() // max(1, n_workers))
    if ncores is not None:
        each = arguments.count("ncores", ncores, 1, SETTINGS.executors_max)
    limit = f"{SETTINGS.memory_fraction / max(1, n_workers):.4f}"
    if memory_limit is not None:
        limit = _size("memory_limit", memory_limit)
    task = []
    if task_memory_limit is not None:
        is_none = isinstance(task_memory_limit, str) and task_memory_limit.strip().lower() == "none"
        task = ["--task-memory-limit", "none" if is_none else _size("task_memory_limit", task_memory_limit)]
    spill = [] if spill_directory is None else ["--spill-directory", arguments.path("spill_directory", spill_directory)]
    return ["--ncores", str(each), "--memory-limit", str(limit), *spill, *task]


def _size(name: str, value: Any) -> str:
    """Bytes as a worker's option: a number, or a text that says how many."""
    return str(machine.parse_bytes(value) if isinstance(value, str) else arguments.count(name, value, 2))


def _is_elsewhere(host: object) -> bool:
    return isinstance(host, str) and "://" in host


def _options_elsewhere(
    memory_limit: int | str | None, spill_directory: str | None, task_memory_limit: int | str | None
) -> list[str]:
    """The same wishes for a worker of its own machine: a part of the memory is one of the memory there."""
    wishes = {
        "--memory-limit": memory_limit,
        "--spill-directory": spill_directory,
        "--task-memory-limit": task_memory_limit,
    }
    return [word for option, value in wishes.items() if value is not None for word in (option, str(value))]


def ssh_hosts(hosts: Iterable[object]) -> Sequence[SshHost]:
    """What these texts mean; none of them twice."""
    listed = list(hosts)
    if not listed:
        return ()
    from distributed.cluster.hosts import parse_all  # lazy, as the next: a quick start needs none of it

    return parse_all(listed)


def start_elsewhere(
    hosts: Sequence[SshHost], center: str, options: Sequence[str] = (), ncores: int = 0
) -> dict[str, Child]:
    """Start a worker on each of these, which joins the center; by address."""
    from distributed.cluster.ssh import Wishes, start_workers

    return dict(start_workers(hosts, Wishes(center, tuple(options), ncores)))


class Embedded:
    """The cluster inside a `Pool`: one child process that holds center and worker agent, and workers elsewhere.

    `ncores` 0: no worker in that process.
    """

    def __init__(
        self, ncores: int | None = None, memory_limit: int | str | None = None, hosts: Sequence[SshHost] = ()
    ) -> None:
        options = ["--ncores", str(ncores)] if ncores is not None else []
        options += ["--memory-limit", str(memory_limit)] if memory_limit else []
        self._daemon = Daemon("embedded", *options)
        children: list[Child] = [self._daemon]
        self._finalizer = weakref.finalize(self, stop, children, SETTINGS.close_timeout_s)
        try:
            self.address: str = self._daemon.wait_ready()["address"]
            if hosts:
                children += start_elsewhere(hosts, self.address).values()
        except BaseException:
            self.close()
            raise

    def why_over(self) -> str:
        """Why it does not work any more; empty while it does."""
        how = self._daemon.why_ended()
        return how and f"open a new pool: this one's own cluster, process {self._daemon.pid}, {how}"

    def close(self, timeout_s: float = SETTINGS.close_timeout_s) -> None:
        """End it, and wait for it; what does not end in time is killed. Closing twice is no error."""
        alive = self._finalizer.detach()
        if alive is not None:
            _, end, (children, _), _ = alive
            end(children, timeout_s)


def embedded(
    ncores: int | None = None, memory_limit: int | str | None = None, hosts: Sequence[SshHost] = ()
) -> Embedded:
    """Start a center and a worker with `ncores` executors in one child process, and workers elsewhere, for one pool."""
    return Embedded(ncores, memory_limit, hosts)
