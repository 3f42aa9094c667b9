"""A cluster within an MPI job: rank 0 starts the center, some ranks a worker each, and all of it ends with rank 0.

MPI starts and places the processes and carries what they need to find one another: the center's address, and a secret
that exists for this job only, in memory. Everything else goes the usual way. Center and workers are child processes
that know nothing of MPI, because its libraries bear neither forks nor a second user of a rank's identity.

How it ends: rank 0 says so to the workers when the program is over, and lets all ranks go when each has said that it
is done. None finalizes MPI before, for the job may still be aborted, and mpiexec of Open MPI 4 crashes or hangs if one
does so meanwhile. Should rank 0 die without a word, its center goes with it, and each worker rank notices that by a
connection of its own to the center, whatever the launcher does.
"""

from __future__ import annotations

import dataclasses
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distributed import address as addresses
from distributed.cluster import keys, surroundings
from distributed.cluster.local import Daemon
from distributed.cluster.ranks import Ranks, SilentRank
from distributed.cluster.reach import Beacon, own_addresses, seen, this_machine
from distributed.config import SETTINGS
from distributed.connect import connect_blocking
from distributed.errors import DistributedError, StartFailed
from distributed.wire.security import find_secret

LOOK_INTERVAL_S = 0.05  # how soon a worker rank notices that the program is over
FAREWELL_S = 5.0  # how long rank 0 may take to say so after its center is gone
RESTART_PAUSE_S, RESTART_PAUSE_MAX_S = 1.0, 60.0  # before another worker in the place of one that was killed
SPARE_S = 5.0  # beyond what a step may take in one rank, for the others to hear of it


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is the same for all ranks. No `workers`: all but the first are."""

    workers: tuple[int, ...] = ()
    worker_options: tuple[str, ...] = ()
    host: str = ""
    insecure_plaintext: bool = False

    def roles(self, size: int) -> tuple[int, ...]:
        """The ranks that are workers, of so many; `StartFailed` if that can't be."""
        outside = [rank for rank in self.workers if rank >= size]
        if outside:
            raise StartFailed(f"there is no rank {outside[0]} to be a worker: the job has {size}, from 0 on")
        return self.workers or tuple(range(1, size))


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a rank is."""

    name: str
    machine: str
    addresses: list[str]


class Failed(StartFailed):
    """What went wrong is known to every rank, and the first one tells it."""


class Job:
    """This rank's part in it. Made by all ranks at the same time; afterwards every worker has joined the center."""

    def __init__(self, mpi: Any, plan: Plan) -> None:
        self.ranks = ranks = Ranks(mpi)
        self.is_client = ranks.rank == 0
        self._plan = plan
        self._daemon: Daemon | None = None
        self._lifeline: socket.socket | None = None
        self._is_over, self._pid = False, os.getpid()
        self._start_at, self._pause_s = 0.0, RESTART_PAUSE_S
        self.workers: tuple[int, ...] = ()
        try:
            self.workers = plan.roles(ranks.size)
            self.is_worker = ranks.rank in self.workers
            self.communicator = mpi.COMM_WORLD.Split(int(self.is_worker), ranks.rank)
            self.programs = [rank for rank in range(ranks.size) if rank not in self.workers]
            self._begin()
        except SilentRank as error:
            print(f"distributed.mpi: {error}", file=sys.stderr, flush=True)
            ranks.abort(1)
        except BaseException:
            self._stop_daemon()
            raise

    # ------------------------------------------------------------------------------------------------ the beginning

    def _begin(self) -> None:
        step_s = SETTINGS.connect_timeout_s + SETTINGS.start_timeout_s + SPARE_S
        places = self.ranks.collect(Place(socket.gethostname(), this_machine(), own_addresses()), step_s)
        host = self._meeting_host(places, step_s)
        center = self._share_center(host, step_s)
        reason = "" if self.is_client else self._join(center, places)
        reasons = self.ranks.collect(reason, 2 * step_s)
        for rank, reason in enumerate(reasons):
            if reason:
                raise Failed(f"rank {rank} on {places[rank].name}: {reason}")
        if not self.is_worker:
            surroundings.center = center

    def _meeting_host(self, places: list[Place], step_s: float) -> str:
        """The address of rank 0 at which every other machine reaches it; loopback if there is no other."""
        machines = [place.machine for place in places]
        if len(set(machines)) == 1 and not self._plan.host:
            return "127.0.0.1"
        hosts = [self._plan.host] if self._plan.host else places[0].addresses
        firsts = sorted({machines.index(machine) for machine in machines[1:]} - {0})  # one rank looks for its machine
        if self.is_client:
            with Beacon(hosts) as beacon:
                where = beacon.addresses
                self.ranks.share((where, beacon.token), step_s)
                reached = self.ranks.collect(where, step_s)
        else:
            where, token = self.ranks.share(None, step_s)
            is_looking = self.ranks.rank in firsts
            timeout_s = SETTINGS.connect_timeout_s
            reached = self.ranks.collect(seen(where, token, timeout_s) if is_looking else where, step_s)
        common = [address for address in where if all(address in found for found in reached)]
        if not common:
            raise Failed(_why_unreachable(places, hosts, where, reached))
        return addresses.parse(common[0])[0]

    def _share_center(self, host: str, step_s: float) -> str:
        """Start the center on rank 0; let all have the secret, and return its address."""
        said: tuple[str, ...] = ()
        if self.is_client:
            try:
                said = ("", self._start_center(host), *self._keys)
            except DistributedError as error:
                said = (str(error),)
        reason, *rest = self.ranks.share(said, step_s)
        if reason:
            raise Failed(reason)
        center, secret, credential = rest
        if not self.is_client:
            keys.keep(secret, credential)
        return center

    def _start_center(self, host: str) -> str:
        is_inside = addresses.is_loopback(host)
        self._keys = os.urandom(32).hex(), "" if is_inside or self._plan.insecure_plaintext else credential_of_job()
        keys.keep(*self._keys)
        options = ["--insecure-plaintext"] if self._plan.insecure_plaintext else []
        self._daemon = Daemon("center", "--host", host, "--port", "0", *options)
        address: str = self._daemon.wait_ready()["address"]
        return address

    def _join(self, center: str, places: list[Place]) -> str:
        """Reach the center, and start this rank's worker if it has one. Returns what is wrong, or nothing."""
        try:
            secret = find_secret()
            self._lifeline = connect_blocking(center, kind="control", role="hand", secret=secret, expects="center")
            if self.is_worker:
                own = places[self.ranks.rank].machine
                beside = sum(places[rank].machine == own for rank in self.workers)
                self._options = self._worker_options(center, beside)
                self._daemon = Daemon(*self._options)
                self._daemon.wait_ready()
        except DistributedError as error:
            return str(error)
        return ""

    def _worker_options(self, center: str, beside: int) -> list[str]:
        assert self._lifeline is not None
        options = ["worker", center, "--host", self._lifeline.getsockname()[0], "--name", f"rank {self.ranks.rank}"]
        options += ["--insecure-plaintext"] if self._plan.insecure_plaintext else []
        if "--memory-limit" not in self._plan.worker_options:
            options += ["--memory-limit", f"{SETTINGS.memory_fraction / beside:.4f}"]
        return [*options, *self._plan.worker_options]

    # ------------------------------------------------------------------------------------------------ a worker's life

    def work(self) -> None:
        """What a worker rank does all the time: see to it that its worker is there, until the program is over."""
        signal.signal(signal.SIGINT, lambda number, frame: None)  # Ctrl-C is the program's, on rank 0
        gone_at = 0.0
        while (message := self.ranks.look(0)) is None:
            if self._lifeline is None:
                time.sleep(LOOK_INTERVAL_S)
                if time.monotonic() > gone_at + FAREWELL_S:
                    self._say("rank 0 or its center is gone, and the job with it")
                    self._stop_daemon()
                    self.ranks.abort(1)
            elif select.select([self._lifeline], [], [], LOOK_INTERVAL_S)[0] and self._is_cut():
                gone_at = time.monotonic()
            else:
                self._keep_a_worker()
        self._stop_daemon()
        self._end_lifeline()
        self.ranks.send(0, message)
        try:
            self.ranks.receive(0, 2 * SETTINGS.close_timeout_s + 2 * SPARE_S)  # others may take that long
        except SilentRank as error:
            self._say(str(error))
            self.ranks.abort(1)

    def _is_cut(self) -> bool:
        assert self._lifeline is not None
        try:
            if self._lifeline.recv(65536):
                return False
        except OSError:
            pass
        self._end_lifeline()
        return True

    def _end_lifeline(self) -> None:
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None

    def _keep_a_worker(self) -> None:
        """If it was killed, another one takes its place; what it computed is computed elsewhere."""
        now = time.monotonic()
        if self._daemon is not None and (why := self._daemon.why_ended()):
            self._say(f"its worker {why}\nAnother one takes its place.")
            self._stop_daemon()
            self._start_at, self._pause_s = now + self._pause_s, min(2 * self._pause_s, RESTART_PAUSE_MAX_S)
        if self._daemon is None and now >= self._start_at:
            self._daemon = Daemon(*self._options)

    def _say(self, what: str) -> None:
        print(f"distributed.mpi: rank {self.ranks.rank}: {what}", file=sys.stderr, flush=True)

    # ------------------------------------------------------------------------------------------------------- the end

    def finish(self, code: int) -> None:
        """The program is over on this rank, with this exit code. Returns when all may end; does it once."""
        if self._is_over or os.getpid() != self._pid:  # a fork of the program ends alone
            return
        self._is_over, surroundings.center = True, ""
        others = [rank for rank in self.programs if rank]
        if code and others:  # they may be waiting for what this rank would have sent
            if self.is_client:
                self._dismiss_workers()
            self._stop_daemon()
            self.ranks.abort(code)
        elif self.is_client:
            for rank in others:
                self.ranks.receive(rank)
            is_complete = self._dismiss_workers()
            self._stop_daemon()
            if not is_complete:
                self.ranks.abort(code or 1)
            for rank in range(1, self.ranks.size):
                self.ranks.send(rank, "leave")
        else:
            self._end_lifeline()
            self.ranks.send(0, "done")
            self.ranks.receive(0)

    def _dismiss_workers(self) -> bool:
        """Have all workers end, and wait for it; False if one takes too long."""
        for rank in self.workers:
            self.ranks.send(rank, "end")
        deadline = time.monotonic() + SETTINGS.close_timeout_s + SPARE_S
        try:
            for rank in self.workers:
                self.ranks.receive(rank, max(0.0, deadline - time.monotonic()))
        except SilentRank as error:
            self._say(str(error))
            return False
        return True

    def _stop_daemon(self) -> None:
        if self._daemon is not None:
            self._daemon.stop(time.monotonic() + SETTINGS.close_timeout_s)
            self._daemon = None


def _why_unreachable(
    places: Sequence[Place], hosts: Sequence[str], where: Sequence[str], reached: Sequence[Sequence[str]]
) -> str:
    here, remedy = places[0].name, "name an address of its machine that all others reach, with --host"
    if not where:
        return f"rank 0 on {here} can listen at none of {', '.join(hosts) or 'its addresses'}: {remedy}"
    for rank, found in enumerate(reached):
        if not found:
            return f"rank {rank} on {places[rank].name} does not reach rank 0 on {here} at {', '.join(hosts)}: {remedy}"
    return f"no address of rank 0 on {here} is reached by all others (of {', '.join(hosts)}): {remedy}"


def credential_of_job() -> str:
    """A key and certificate for TLS within this job: what DISTRIBUTED_TLS_FILE names here, or new ones."""
    from distributed.wire.credential import Credential, new_pem  # here: on one machine nobody needs them

    named = os.environ.get("DISTRIBUTED_TLS_FILE")
    if named:
        return Credential(Path(named)).path.read_text()
    try:
        return new_pem(Path("tls.pem")).decode()
    except StartFailed as error:
        raise StartFailed(
            "the ranks are on several machines, and a certificate to encrypt with takes the package cryptography: "
            "pip install cryptography, or name a credential in DISTRIBUTED_TLS_FILE, or, in a network that you "
            "trust, say --insecure-plaintext (insecure_plaintext=True)"
        ) from error
