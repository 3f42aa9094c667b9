"""What must be true of a story: of every outcome, and of all that is there when everything is quiet and released."""

from __future__ import annotations

from distributed.errors import GroupFailed, KeyLost, NoWorker, StoreFull, TaskCancelled, TaskCrashed, TaskTimeout
from distributed.pool.tasks import FAILED, Task
from distributed.wire import messages as m
from distributed.wire.exceptions import unpack_exception
from distributed.worker.store import columns
from tests.simulation.client import Client
from tests.simulation.executors import Value
from tests.simulation.plan import Plan, ancestors, owner_of

SLOW_S = 10.0  # what has no trouble ends sooner, also where it waits for room


class Truths:
    """What is found out about a story."""

    def compare(self, client: Client, task: Task, value: Value | None) -> None:
        """The value, or the error, is right."""
        self.checked += 1
        plan = self.plans[task.key]
        if value is None:
            self.judge(task, plan)
            return
        assert value.number == plan.number, f"{task} has a wrong value"
        for inner in client.make_handles(value.contains):
            self.held.append((client, inner))

    def judge(self, task: Task, plan: Plan) -> None:
        """Whether an error tells a true cause."""
        error, causes = task.outcome, ancestors(plan)
        assert task.status == FAILED
        if isinstance(error, bytes) and not error.startswith((b"raised ", b"lost ")):
            error = unpack_exception(error)  # another client's
        if isinstance(error, bytes):
            what, _, key = error.decode().partition(" ")
            if what == "raised":
                assert any(cause.key == key and cause.trouble == "raise" for cause in causes), error
            else:
                borrowed = {other.key for client in (*self.clients, *self.gone) for other in client.borrowed}
                assert any(cause.key == key and key in borrowed for cause in causes), error
                assert not self.is_lent(key), f"{error!r}, but its owner lends it still"
        elif isinstance(error, TaskCancelled):
            assert any(cause.is_cancelled for cause in causes), error
        elif isinstance(error, TaskTimeout):
            late = [cause for cause in causes if cause.key == error.key and cause.options.timeout_s]
            waited = late and self.may_be_full and not self.world.has_disks  # for room, which counts
            assert waited or any(it.trouble == "sleep" or it.options.timeout_s < SLOW_S for it in late), error
        elif isinstance(error, TaskCrashed):
            guilty = next(cause for cause in causes if cause.key == error.key)
            assert len(error.attempts) == guilty.options.attempts, error
        elif isinstance(error, NoWorker):
            picky = [cause for cause in causes if cause.options.is_picky or cause.mates]
            assert any(cause.key == error.key for cause in picky), error
        elif isinstance(error, GroupFailed):
            mates = next(cause.mates for cause in causes if cause.key == error.key)
            assert self.may_repeat or any(mate.trouble for mate in mates), error
        elif isinstance(error, KeyLost):
            assert any(self.is_fragile(cause, plan) for cause in causes), error
        else:
            assert isinstance(error, StoreFull) and self.may_be_full, error
            may_not_wait = any(cause.options.attempts == 1 for cause in causes)  # it ran, and must not run again
            assert may_not_wait or not self.world.has_disks, f"{error}: but there was room on disk"

    def is_fragile(self, cause: Plan, plan: Plan) -> bool:
        """Whether a value may be lost for good: with a worker, or by its owner's will."""
        options = cause.options
        is_single = cause.is_scattered or not options.recompute or options.attempts == 1
        return (self.may_lose and is_single) or owner_of(cause) != owner_of(plan)

    def is_lent(self, key: str) -> bool:
        """Whether its owner is there, always was, and still lends this to others, and can compute it again."""
        owners = [
            client
            for client in self.clients
            if key in client.state.lending.exported and client.state.lending.exported[key].can_come_again
        ]
        return any(not client.isolated_until_s and key not in client.heard_late for client in owners)

    def read_everything(self) -> None:
        for client, task in list(self.held):
            client.get(task, lambda value, client=client, task=task: self.compare(client, task, value))  # type: ignore[misc]
        self.wait_for(lambda: all(self.is_settled(client) for client in self.clients), "values that cannot be read")

    def compare_center(self) -> None:
        """The center's map is the union of the stores."""
        self.world.run(self.world.now + 5.0)
        living = {worker.name: worker for worker in self.workers.values() if worker.is_alive}
        assert self.center.state.directory.members.keys() == living.keys()
        names = {name: publication.key for name, publication in self.center.state.names.publications.items()}
        if not self.world.faults["center lost"]:  # a new one cannot know what was unpublished while a worker was away
            assert names.keys().isdisjoint(self.unpublished), f"unpublished, but there again: {names}"
        for address, worker in living.items():
            store = worker.state.store
            assert store.names == names, f"{address} knows other names than the center: {store.names}, not {names}"
            keys, attempts, nbytes = columns(store.entries)
            stored = dict(zip(keys, zip(attempts, nbytes, strict=True), strict=True))
            has = self.center.state.directory.members[address].has_what()
            assert has == stored, f"the center is wrong about {address}"
            used = sum(file.nbytes for file in worker.files.values())
            small = sum(nbytes) - sum(entry.nbytes for entry in store.all_entries() if entry.path and entry.in_table)
            accounts = store.memory_bytes + store.disk_bytes
            assert used + small == accounts, f"{address}: {used + small} bytes are there, {accounts} accounted for"

    def find_repeated(self) -> None:
        """What finished, or runs, does not run again because the center was away or somebody was stopped."""
        if (
            self.may_repeat
            or self.may_be_full
            or self.world.faults["request broken"]
            or self.world.faults["outcomes untold"]
        ):
            return
        for key, plan in self.plans.items():
            is_troubled = any(mate.trouble for mate in plan.mates)
            is_plain = not (plan.trouble or plan.is_asynchronous or plan.is_scattered or is_troubled)
            assert self.world.starts[key] < 2 or not is_plain, f"{key} was run {self.world.starts[key]} times"

    def find_published(self) -> None:
        """What is published is there, whatever its owner did, unless a worker was lost or left it behind."""
        there = {key for worker in self.workers.values() if worker.is_alive for key in worker.state.store.entries}
        if self.world.faults["worker lost"] or self.world.faults["values left behind"]:
            return
        for name in self.names:
            key = self.center.state.names.publications[name].key
            assert key in there, f"{key} is published as {name!r}, but nowhere"

    def release_everything(self) -> None:
        for name in self.center.state.names.publications:  # also those that a worker that missed their end brought back
            self.clients[0].ask(m.Unpublish(name), lambda result, refusal: None)
        for client, task in self.lent:
            if (client, task) in self.held:
                self.held.remove((client, task))
                client.release(task)
        for client in self.clients:  # handles that were dropped while the task was lent
            for task in list(client.state.lending.exported.values()):
                client.claim(task)
                client.release(task)
        while self.held:
            client, task = self.held.pop()
            client.drop(task)
        self.world.run(self.world.now + 5.0)

    def find_leftovers(self) -> None:
        """Nothing is left, anywhere."""
        for worker in self.workers.values():
            if worker.is_alive:
                state = worker.state
                assert not state.store.entries, f"{worker.name} still has {list(state.store.entries.values())}"
                assert not worker.files, f"{worker.name} still has {worker.files}"
                assert not state.tasks, f"{worker.name} still has {state.tasks}"
                assert not state.fetches.wants
                assert not (state.store.memory_bytes or state.store.disk_bytes or state.store.reserved_bytes)
                assert not (state.store.pins or state.store.names)
        for client in self.clients:
            state = client.state
            lifetimes, lending = state.lifetimes, state.lending
            tables = (
                *(lifetimes.shared, lifetimes.lineage.tasks, lifetimes.storing),
                *(lending.exported, lending.visible, state.failures.troubles, state.placement.near),
            )
            assert not any(tables), f"{client.name} still has {tables}"
            assert not state.placement.stranded
            assert not state.unfinished
            for view in state.workers.values():
                assert not (view.under_way or view.holds or view.load), view
        assert not self.center.state.directory.holders
        assert not any(self.center.state.borrowing.exported.values())

    def say_goodbye(self) -> None:
        for client in self.clients:
            client.close()
        self.world.run(self.world.now + 2.0)
        assert not self.center.state.leases
        assert not self.center.state.borrowing.exported
