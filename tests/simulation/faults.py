"""What goes wrong: processes that die or stop, connections that break, networks that part, disks that fill up."""

from __future__ import annotations

from distributed.wire import messages as m
from tests.simulation.actors import CENTER, CenterActor, WorkerActor
from tests.simulation.client import Client
from tests.simulation.world import End


class Faults:
    """The part of a story that nobody wishes."""

    def start_worker(self, address: str = "") -> None:
        self.incarnations += 1
        number = self.incarnations if not address else int(address.partition(":")[2])
        address = address or f"worker:{number}"
        limit = self.dice.choice((30_000_000, 50_000_000)) if self.is_tight else 10**10
        has = self.resources_of(number)
        member = m.Member(
            address, f"i{self.incarnations}", f"w{number % 4}", self.dice.randint(1, 3), limit, resources=has
        )
        self.world.stopped.pop(address, None)
        worker = self.workers[address] = WorkerActor(self.world, self.settings, member)
        worker.on_leave = lambda: self.see_off(worker)

    def resources_of(self, number: int) -> dict[str, int]:
        """What a worker has beside cores; in most stories nothing."""
        return {}

    def drain_worker(self) -> None:
        """A worker is asked to leave."""
        worker = self.some_worker()
        if worker is not None:
            self.world.fault("worker asked to leave", f"{worker.name} is asked to leave")
            worker.leave()

    def see_off(self, worker: WorkerActor) -> None:
        """A worker leaves by itself: whether it is missed."""
        departure = worker.state.departure
        left = [key for key in worker.state.store.entries if not departure.is_spare(key)]
        if left:
            self.world.fault("values left behind", f"{worker.name} leaves, with {len(left)} values")
        self.may_repeat |= departure.is_over
        if left:
            is_excused = departure.is_over or departure.is_alone or departure.is_cut_off(self.world.now)
            assert is_excused, f"{worker.name} leaves although only it has {left}"
            self.may_lose = self.may_repeat = True

    def some_worker(self) -> WorkerActor | None:
        alive = [worker for worker in self.workers.values() if worker.is_alive]
        return self.dice.choice(alive) if alive else None

    def busy_worker(self) -> WorkerActor | None:
        """One that has much to do, most of the time."""
        alive = [worker for worker in self.workers.values() if worker.is_alive]
        if self.dice.random() < 0.3 or not alive:
            return self.some_worker()
        return max(alive, key=lambda worker: len(worker.state.tasks))

    def lose_worker(self) -> None:
        worker = self.some_worker()
        if worker is not None:
            comes_back = self.dice.random() < 0.5  # on the same address, at once or later
            is_silent = self.dice.random() < (0.5 if comes_back else 0.2)
            self.quiet_at(self.world.now + (self.settings.silent_worker_s if is_silent else 0.0))
            worker.die(is_silent)
            self.may_lose = self.may_repeat = True
            self.world.fault("worker lost", f"{worker.name} is lost{', silently' * is_silent}")
            if comes_back:
                self.world.after(self.dice.choice((0.0, 0.0, 0.3, 2.0)), self.start_worker, worker.name)

    def crash_executor(self) -> None:
        worker = self.busy_worker()
        if worker is not None and worker.executors:
            executor = max(
                worker.executors.values(), key=lambda executor: len(executor.current) + len(executor.outcomes)
            )
            self.may_repeat = True
            self.world.fault("executor killed", f"an executor of {worker.name} is killed")
            executor.die(9)

    def crash_between_outcomes(self) -> None:
        """An executor ends when it has told of some of its tasks, and not yet of others that it has done."""
        for worker in self.workers.values():
            for executor in worker.executors.values() if worker.is_alive else ():
                executor.dies_with_outcomes = self.may_repeat = True

    def restart_center(self) -> None:
        if self.center.is_alive:
            self.center.die()
            self.may_lose = True
            self.world.fault("center lost", "the center is lost")
            for client in self.clients:  # a new center waits one lease for them, and no longer
                if self.world.stopped.get(client.name, 0.0) > self.world.now:
                    client.isolated_until_s = self.world.stopped[client.name]
            away_s = self.dice.choice((0.0, 0.2, 3.0, self.dice.uniform(10.0, 40.0)))
            self.quiet_at(self.world.now + away_s)
            self.world.after(away_s, self.start_center)

    def lend_and_lose_center(self) -> None:
        """The center is lost just after it was told what is lent, or before."""
        self.lend_at_work()
        self.world.after(self.dice.uniform(0.0, 0.1), self.restart_center)

    def start_center(self) -> None:
        self.center = CenterActor(self.world, self.settings, self.is_thorough)

    def cut_link(self) -> None:
        links = self.links()
        if links:
            end = self.dice.choice(links)
            self.world.fault("link cut", f"a link of {end.who} and {end.peer.who} is cut")
            self.may_lose |= CENTER in (end.who, end.peer.who)
            self.may_repeat = True
            for client in self.clients:
                if client.center is end and client.name in self.world.stopped:
                    client.isolated_until_s = max(client.isolated_until_s, self.world.stopped[client.name])
            end.break_within(self.dice.choice((0.0, 0.0, 3.0)))

    def cut_worker(self) -> None:
        """All connections between pools and one worker break; that costs time, but no data."""
        worker = self.busy_worker()
        if worker is not None:
            self.world.fault("worker cut off", f"{worker.name} is cut off from the pools")
            self.may_repeat = True
            for end in worker.clients.values():
                end.cut()

    def part(self, names: list[str], others: list[str], most_s: float) -> None:
        """These cannot reach those for a while, which they may or may not learn, each in their own time."""
        length_s, gives_up = self.dice.uniform(0.01, most_s), self.dice.random() < 0.7
        self.world.fault("partition", f"{', '.join(names)} cannot reach {', '.join(others)} for {length_s:.2f} s")
        self.may_repeat = True
        until_s = self.world.now + length_s
        self.quiet_at(until_s)
        for name in names:
            for other in others:
                self.world.part(name, other, until_s)
        for end in self.links() if gives_up else ():
            if (end.who in names and end.peer.who in others) or (end.who in others and end.peer.who in names):
                end.break_within(length_s)
                self.may_lose |= CENTER in (end.who, end.peer.who)
        if CENTER in (*names, *others):
            for client in self.clients:
                if client.name in (*names, *others):
                    client.isolated_until_s = max(client.isolated_until_s, until_s)

    def links(self) -> list[End]:
        """One end of each link there is."""
        links = [end for worker in self.workers.values() if worker.is_alive for end in worker.ends]
        return links + [client.center for client in self.clients if client.center is not None]

    def part_busy_worker(self) -> None:
        """A worker goes on with its tasks, but its pools do not hear it; then they do."""
        worker = self.busy_worker()
        if worker is not None:
            far = [client.name for client in self.clients if self.dice.random() < 0.8]
            far += [CENTER] if self.dice.random() < 0.3 else []
            far += [name for name in self.workers if name != worker.name and self.dice.random() < 0.2]
            self.part([worker.name], sorted(far), self.dice.choice((0.5, 5.0)))

    def part_client(self) -> None:
        """A client reaches nobody, for less than its lease."""
        client = self.client()
        near = sorted(name for name, worker in self.workers.items() if worker.is_alive)
        self.part([client.name], [*near, CENTER] if self.dice.random() < 0.7 else near, self.dice.choice((1.0, 20.0)))

    def stop(self) -> None:
        """SIGSTOP of a client, a worker or the center; later SIGCONT."""
        who = self.dice.choice([CENTER, *(client.name for client in self.clients), *sorted(self.workers)])
        length_s = self.dice.choice((self.dice.uniform(0.01, 1.0), self.dice.uniform(1.0, 60.0)))
        if self.world.stopped.get(who, 0.0) > self.world.now:
            return
        self.world.fault("stopped", f"{who} is stopped for {length_s:.2f} s")
        self.world.stop(who, self.world.now + length_s)
        for client in self.clients:
            if client.name == who and (client.center is None or not self.center.is_alive):
                client.isolated_until_s = self.world.now + length_s
        self.quiet_at(self.world.now + length_s)

    def fill_disk(self) -> None:
        """A file system is full although the accounts say that there is room."""
        worker = self.busy_worker()
        if worker is not None:
            worker.full_until_s = self.world.now + self.dice.uniform(0.01, 2.0)
            self.may_be_full = self.may_repeat = True
            self.world.fault("disk full", f"no room in the files of {worker.name}")
            self.quiet_at(worker.full_until_s)

    def part_workers(self) -> None:
        """Two workers cannot reach one another for a while; the pools reach both."""
        names = sorted(name for name, worker in self.workers.items() if worker.is_alive)
        if len(names) > 1:
            pair = frozenset(self.dice.sample(names, 2))
            self.world.fault("workers parted", f"{' and '.join(sorted(pair))} cannot reach one another")
            self.world.part(*sorted(pair), self.world.now + self.dice.uniform(0.1, 8.0))

    def isolate_client(self) -> None:
        """A client cannot reach the center for longer than its lease lasts, but its workers it can."""
        client = self.client()
        if client.center is not None:
            self.world.fault("lease lost", f"{client.name} is cut off from the center")
            self.may_repeat = True
            client.isolated_until_s = self.world.now + self.settings.closed_client_lease_s + self.dice.uniform(1, 5)
            client.center.cut()
            self.may_lose = True

    def lose_client(self) -> None:
        """A user's program is killed; another one begins."""
        client = self.client()
        self.world.fault("client lost", f"{client.name} is lost")
        client.die()
        self.gone.append(client)
        self.held = [item for item in self.held if item[0] is not client]
        self.lent = [item for item in self.lent if item[0] is not client]
        name = f"ca401{len(self.gone):07d}"
        self.clients[self.clients.index(client)] = Client(self.world, self.settings, name, self.is_thorough)

    FAULTS = (
        start_worker,
        lose_worker,
        lose_worker,
        crash_executor,
        crash_between_outcomes,
        restart_center,
        lend_and_lose_center,
        cut_link,
        cut_link,
        cut_worker,
        part_workers,
        part_busy_worker,
        part_busy_worker,
        part_busy_worker,
        part_client,
        isolate_client,
        lose_client,
        stop,
        stop,
        fill_disk,
    )
