"""Daemons on this machine, started and ended by this process: `Cluster`, and the small cluster inside a `Pool`.

Every daemon is a child in a session of its own (Ctrl-C in the terminal is the client's) and holds one end of a socket
pair: over it comes one line of JSON when the daemon is ready, and its end of file means that the parent is gone,
however that happened. Nothing polls a port, and nothing has to be alive to clean up.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from distributed import address as addresses
from distributed import arguments, machine
from distributed.cluster.launcher import without_rank
from distributed.config import SETTINGS
from distributed.errors import DistributedError, StartFailed
from distributed.resources import amounts, written

LAST_WORDS_BYTES_MAX = 4000
EXIT_S = 0.5  # from the end of a daemon's socket to that of its process
CENTER_PART = 0.2  # of the time to end a cluster: so much is left for the center if workers take all of theirs
_DAEMONS: weakref.WeakSet[Daemon] = weakref.WeakSet()


class Daemon:
    """One ``python -m distributed …`` of ours."""

    def __init__(self, *arguments: str) -> None:
        self._parent_pid = os.getpid()
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`
        self._ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "distributed", *arguments, "--parent-fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                env={**without_rank(os.environ), "PYTHONPATH": os.pathsep.join(_search_path())},
            )
        _DAEMONS.add(self)

    def wait_ready(self) -> dict[str, Any]:
        """What the daemon says of itself when it is ready; `StartFailed` with its last words if it never is."""
        line = b""
        self._ours.settimeout(SETTINGS.start_timeout_s)
        try:
            while not line.endswith(b"\n"):
                data = self._ours.recv(65536)
                if not data:
                    raise StartFailed(self._last_words() or "a daemon ended before it was ready, and said nothing")
                line += data
        except TimeoutError:
            words = self._last_words()
            raise StartFailed(
                f"a daemon was not ready after {SETTINGS.start_timeout_s:g} s; it said: {words!r}"
            ) from None
        except ConnectionError as error:
            raise StartFailed(self._last_words() or f"a daemon ended before it was ready: {error}") from error
        ready: dict[str, Any] = json.loads(line)
        return ready

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.returncode is None and self._process.poll() is None

    def why_ended(self) -> str:
        """How it ended, with its last words; empty while it lives."""
        if self.is_alive():
            return ""
        code = self._process.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        words = [line for line in self._last_words().splitlines() if " INFO " not in line]
        return "\n".join([how, *words])

    @property
    def was_killed(self) -> bool:
        """Whether it ended by a signal."""
        return (self._process.returncode or 0) < 0

    def ask_to_stop(self) -> None:
        """End of file: the daemon ends as on SIGTERM. A forked child of ours must not end what is its parent's."""
        if os.getpid() == self._parent_pid and self._ours.fileno() >= 0:
            try:
                self._ours.shutdown(socket.SHUT_WR)
            except OSError:  # it ended already
                pass
            self._process.send_signal(signal.SIGCONT)  # should it be stopped

    def ask_to_leave(self) -> None:
        """A worker takes nothing new, hands over what only it holds, and ends."""
        if os.getpid() == self._parent_pid and self.is_alive():
            self._process.send_signal(signal.SIGTERM)

    def wait_until_gone(self, deadline: float) -> bool:
        """Whether the daemon ends by itself before the deadline."""
        try:
            while True:  # its end closes when it ends, and nobody else has it
                self._ours.settimeout(max(0.001, deadline - time.monotonic()))
                if not self._ours.recv(65536):
                    break
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def stop(self, deadline: float) -> None:
        """Wait until the daemon ended, and kill it at the deadline."""
        if os.getpid() != self._parent_pid or self._ours.fileno() < 0:
            return
        self.ask_to_stop()
        is_ending = self.wait_until_gone(deadline)
        try:
            self._process.wait(EXIT_S if is_ending else 0.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._ours.close()
        self._output.close()

    def _last_words(self) -> str:
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - LAST_WORDS_BYTES_MAX))
        return self._output.read().decode(errors="replace").strip()

    def forget(self) -> None:
        """In a forked child: let go of the socket, or the daemon would outlive our parent."""
        self._ours.close()


def _forget_daemons() -> None:
    for daemon in list(_DAEMONS):
        daemon.forget()


os.register_at_fork(after_in_child=_forget_daemons)


def _search_path() -> Iterable[str]:
    """Where this process imports from, so that its daemons' executors import the same."""
    return dict.fromkeys(entry or os.getcwd() for entry in sys.path)


def _stop(daemons: Sequence[Daemon], timeout_s: float, spill_directory: str | None = None) -> None:
    """End all of these at the same time. What was killed with all that would have cleaned up is cleaned up here."""
    deadline = time.monotonic() + timeout_s
    for daemon in daemons:
        daemon.ask_to_stop()
    for daemon in daemons:
        daemon.stop(deadline)
    if any(daemon.was_killed for daemon in daemons):
        from distributed import spilling, stores  # lazy: a quick start needs none of it

        for base in {stores.SHARED_MEMORY, tempfile.gettempdir(), *spilling.candidates(spill_directory)}:
            stores.sweep(base)


def _stop_cluster(workers: dict[str, Daemon], centers: list[Daemon], spill_directory: str | None) -> None:
    began = time.monotonic()
    _stop(list(workers.values()), (1 - CENTER_PART) * SETTINGS.close_timeout_s, spill_directory)
    _stop(centers, SETTINGS.close_timeout_s - (time.monotonic() - began))


class Cluster:
    """A cluster of real daemons on this machine: one center and some workers, which end with this process.

    Parameters
    ----------
    n_workers
        How many workers to start; default: one, or one for each of `hosts`.
    ncores
        Executors of each worker; default: the machine's cores, divided among the workers.
    hosts
        Addresses of the workers, ``host:port``, of this machine.
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
        wanted = self._addresses(n_workers, hosts)
        self._options = _worker_options(len(wanted), ncores, memory_limit, spill_directory, task_memory_limit)
        if resources is not None and (each := amounts("resources", resources)):
            self._options += ["--resources", written(each)]
        arguments.truth("insecure_plaintext", insecure_plaintext)
        self._common = ["--insecure-plaintext"] if insecure_plaintext else []
        self._workers: dict[str, Daemon] = {}
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
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _addresses(n_workers: int | None, hosts: Sequence[str] | None) -> list[tuple[str, int]]:
        right = "a list of addresses, ['host:port', ...]"
        if isinstance(hosts, str):
            raise TypeError(f"hosts={arguments.shown(hosts)} must be {right}")
        wanted = [addresses.parse(host, 0) for host in arguments.iterable("hosts", hosts or (), right)]
        if n_workers is not None:
            n_workers = arguments.count("n_workers", n_workers, 0, SETTINGS.workers_started_max)
        if wanted and n_workers is not None and n_workers != len(wanted):
            raise ValueError(f"n_workers={n_workers}, but hosts names {len(wanted)}: leave one of them out")
        return wanted or [("127.0.0.1", 0)] * (1 if n_workers is None else n_workers)

    def _start_workers(self, wanted: Iterable[tuple[str, int]]) -> None:
        """Start them all, then wait for them; if one fails, none of these stays."""
        daemons = []
        try:
            for host, port in wanted:
                place = ["--host", host, "--port", str(port)]
                daemons.append(Daemon("worker", self.center_address, *place, *self._options, *self._common))
            started = {daemon.wait_ready()["address"]: daemon for daemon in daemons}
        except BaseException:
            _stop(daemons, SETTINGS.close_timeout_s)
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
            _stop([self._workers.pop(address)], 0.0)
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

    def _dismiss(self, daemons: list[Daemon]) -> None:
        """Have workers leave, all at the same time, and kill those that do not end in time."""
        deadline = time.monotonic() + SETTINGS.drain_timeout_s + SETTINGS.drain_kill_s + SETTINGS.close_timeout_s
        for daemon in daemons:
            daemon.ask_to_leave()
        for daemon in daemons:
            daemon.wait_until_gone(deadline)
        _stop(daemons, SETTINGS.close_timeout_s)

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
        return f"<Cluster {self.center_address}: {len(self.workers)} workers>"


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


class Embedded:
    """The cluster inside a `Pool`: one child process that holds center and worker agent."""

    def __init__(self, ncores: int | None = None, memory_limit: int | str | None = None) -> None:
        options = ["--ncores", str(ncores)] if ncores else []
        options += ["--memory-limit", str(memory_limit)] if memory_limit else []
        self._daemon = daemon = Daemon("embedded", *options)
        self._finalizer = weakref.finalize(self, _stop, [daemon], SETTINGS.close_timeout_s)
        try:
            self.address: str = daemon.wait_ready()["address"]
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
            _, stop, (daemons, _), _ = alive
            stop(daemons, timeout_s)


def embedded(ncores: int | None = None, memory_limit: int | str | None = None) -> Embedded:
    """Start a center and a worker with `ncores` executors in one child process, for one pool."""
    return Embedded(ncores, memory_limit)
