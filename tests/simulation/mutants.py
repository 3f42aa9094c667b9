"""Deliberate bugs: each is one change of the product that the simulator must notice. This shows that it can fail.

Every bug is put into a copy of the package and played there, in processes of their own; the checkout stays as it is. A
bug whose text is no longer in its module is an error: it has to be written anew, or it would prove nothing.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEEDS = 50  # a bug must be caught by one of so many stories
PATIENCE_S = 600.0  # before the calls of a story are counted, to find out whether it has no end
LATE = "late"  # instead of what was found wrong


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A bug: in `module`, `text` (which is there once) becomes `replacement`; story `seed` is known to catch it."""

    name: str
    module: str
    text: str
    replacement: str
    seed: int = 0
    workers: int = 3  # in its stories
    tasks: int = 80

    def mutate(self, source: str) -> str:
        """The module's source with the bug in it."""
        count = source.count(self.text)
        if count != 1:
            raise LookupError(f"mutant {self.name!r}: its text is in {self.module} {count} times, not once")
        return source.replace(self.text, self.replacement)


@dataclasses.dataclass(frozen=True)
class Catch:
    """What became of a bug. No seed: nobody noticed."""

    mutant: Mutant
    seed: int | None
    invariant: str

    def __str__(self) -> str:
        if self.seed is None:
            return f"SURVIVED       {self.mutant.name}  {self.invariant}"
        return f"caught in {self.seed:>4} {self.mutant.name:<55} by {self.invariant}"


MUTANTS = (
    Mutant(
        "a release is dropped",
        "distributed/pool/lifetimes.py",
        "self._deletions[task.worker].append(task.key)",
        "pass",
    ),
    Mutant(
        "a fetch that ends after its release keeps the value",
        "distributed/worker/fetches.py",
        "if not want.tasks:\n                self.drop(want)\n                if path",
        "if False:\n                self.drop(want)\n                if path",
        seed=46,
    ),
    Mutant(
        "the fence is forgotten",
        "distributed/pool/whereabouts.py",
        "if task is not None and task.attempt == attempt\n        ]",
        "if task is not None\n        ]",
    ),
    Mutant(
        "the fence is forgotten for failures",
        "distributed/pool/state.py",
        "if task is not None and task.attempt == message.attempt:",
        "if task is not None:",
    ),
    Mutant(
        "the fence is forgotten for recalled tasks",
        "distributed/pool/state.py",
        "if task is None or task.attempt != attempt:\n                continue\n            view.remove(task)",
        "if task is None:\n                continue\n            view.remove(task)",
    ),
    Mutant(
        "another attempt has the same number",
        "distributed/pool/state.py",
        "task.attempt += 1\n        self._wait_again(task, now)",
        "self._wait_again(task, now)",
    ),
    Mutant(
        "an incarnation is lost by a pool that is connected",
        "distributed/pool/membership.py",
        "return view is not None and view.member.incarnation != member.incarnation",
        "return False",
        seed=4,
    ),
    Mutant(
        "an incarnation is lost by a pool that was away",
        "distributed/pool/membership.py",
        "if away is None or away.member.incarnation == member.incarnation:",
        "if True:",
        seed=18,
    ),
    Mutant(
        "a put is acknowledged before it is stored",
        "tests/simulation/actors.py",
        "self.handle(events.Put(owner, [key], [nbytes], [None if path else content], [path]))",
        "(lambda *told: self.world.after(0.05, self.handle, events.Put(*told)))(\n"
        "                owner, [key], [nbytes], [None if path else content], [path]\n            )",
        seed=10,
    ),
    Mutant(
        "a window is never refilled",
        "distributed/pool/state.py",
        "if kind is not Dropped:\n            self._fill(now)",
        "if kind is Submitted:\n            self._fill(now)",
    ),
    Mutant(
        "the tasks of a lost worker are not moved",
        "distributed/pool/state.py",
        "for position, task in enumerate(view.under_way.values()):",
        "for position, task in enumerate(()):",
    ),
    Mutant(
        "the data of a lost worker is not missed",
        "distributed/pool/lifetimes.py",
        "self._lose_holder(task, view.member.address)",
        "pass",
        seed=1,
    ),
    Mutant(
        "dependents do not fail with their input",
        "distributed/pool/state.py",
        "failing.append((waiting, _inherited(waiting, task)))",
        "pass",
    ),
    Mutant(
        "a lease never ends",
        "distributed/center/state.py",
        "if lease is not None and not lease.connection and lease.deadline <= self._now:",
        "if False:",
        seed=2,
    ),
    Mutant(
        "the keys of a client that left stay",
        "distributed/worker/state.py",
        "self.store.forget_owner(client)",
        "pass",
        seed=10,
    ),
    Mutant(
        "lineage is not kept",
        "distributed/pool/lifetimes.py",
        "elif task.heirs and task.args is not None:\n            self.lineage.keep(task)",
        "elif False:\n            self.lineage.keep(task)",
        seed=1,
    ),
    Mutant(
        "a cancelled task's slot is lost by the pool",
        "distributed/pool/state.py",
        "if view is not None and view.under_way.get(task.key) is task:",
        "if False:",
        seed=1,
    ),
    Mutant(
        "a recalled task is forgotten",
        "distributed/pool/state.py",
        "self.groups.given_back(task, now)\n            else:\n                self._again(task, now)",
        "self.groups.given_back(task, now)\n            else:\n                pass",
    ),
    Mutant(
        "a worker keeps what it gave back",
        "distributed/worker/endings.py",
        "self._strike(part)\n            self._dispatch.supplies.release(part)",
        "self._dispatch.supplies.release(part)",
    ),
    Mutant(
        "removed keys are not reported",
        "distributed/worker/reports.py",
        "if store.removed:",
        "if False:",
    ),
    Mutant(
        "added keys are not reported",
        "distributed/worker/reports.py",
        "if store.added:",
        "if False:",
    ),
    Mutant(
        "a published name keeps nothing",
        "distributed/worker/store.py",
        "if self.pins and not self.pins.keys().isdisjoint(keys):",
        "if False:",
        seed=2,
    ),
    Mutant(
        "an outcome is published twice",
        "distributed/pool/state.py",
        'if not task.published:\n            task.published = "done"\n            self._resolved.append(task)',
        'if True:\n            task.published = "done"\n            self._resolved.append(task)',
        seed=1,
    ),
    Mutant(
        "a task that must not run twice may",
        "distributed/pool/state.py",
        "            if may_have_run:",
        "            if False:",
        seed=29,
    ),
    Mutant(
        "batch-mates of a crashed task are forgotten",
        "distributed/worker/dispatch.py",
        "again.append(part)",
        "pass",
    ),
    Mutant(
        "a replica that nobody accounts for stays",
        "distributed/pool/whereabouts.py",
        "self._lifetimes.delete_at(view.member.address, key, attempt)",
        "pass",
        seed=28,
    ),
    Mutant(
        "a worker that comes back keeps what nobody accounts for",
        "distributed/pool/lifetimes.py",
        "if not self._accounts_for(view, key, attempt):",
        "if False:",
        seed=3,
    ),
    Mutant(
        "handles inside a value are not counted",
        "distributed/pool/lifetimes.py",
        "for inner in contained:\n            inner.users += 1",
        "for inner in ():\n            inner.users += 1",
    ),
    Mutant(
        "a fetch that fails is not tried elsewhere, and its tasks are not told",
        "distributed/worker/fetches.py",
        "return [] if self._ask_next(want) else [want]",
        "return [] if self._ask_next(want) else []",
        seed=4,
    ),
    # ---------------------------------------- attempts that were never published
    Mutant(
        "an unpublished attempt read: given to whoever asks for another one",
        "distributed/worker/store.py",
        "return value if value is not None and (value.attempt == attempt or not attempt) else None",
        "return value",
        seed=4,
    ),
    Mutant(
        "an unpublished attempt read: by a borrower, whom the center sends to any",
        "distributed/center/state.py",
        "for address, entry in holders.items() if entry[0] == counts}",
        "for address, entry in holders.items()}",
        seed=11,
    ),
    Mutant(
        "an unpublished attempt read: said to count before it is published",
        "distributed/pool/lending.py",
        "task.attempt if task.status == DONE else 0",
        "task.attempt",
    ),
    Mutant(
        "the center is not told which attempt counts",
        "distributed/pool/state.py",
        "if self.lending.visible:\n            self.custody.show([",
        "if False:\n            self.custody.show([",
        seed=1,
    ),
    # ---------------------------------------- names and pins
    Mutant(
        "what a name kept stays when the name goes",
        "distributed/worker/store.py",
        "if entry.released or owner_of(key) not in living:",
        "if False:",
        seed=2,
    ),
    Mutant(
        "nobody remembers that a value with a name was released",
        "distributed/worker/store.py",
        "entry.released = True",
        "pass",
        seed=1,
    ),
    Mutant(
        "a name is answered before who has its value knows of it",
        "distributed/center/names.py",
        "if self._missing(name):",
        "if False:",
        seed=5,
    ),
    # ---------------------------------------- the center's leases, loans
    Mutant(
        "a client that the center never saw again keeps its keys",
        "distributed/center/state.py",
        "if owner and owner not in self.leases:",
        "if False:",
        seed=10,
    ),
    Mutant(
        "workers are not told that a client is gone",
        "distributed/center/state.py",
        "self._tell_workers(m.OwnerLeft(client))",
        "pass",
        seed=10,
    ),
    Mutant(
        "a center that comes back is not told what is lent",
        "distributed/pool/custody.py",
        "self._out.append(announcement(visible))",
        "pass",
        seed=5,
    ),
    # ---------------------------------------- rooms and spilling
    Mutant(
        "the room of an executor that died stays reserved",
        "distributed/worker/state.py",
        'self.rooms.requester_gone(("executor", event.executor))',
        "pass",
        seed=12,
    ),
    Mutant(
        "a file that could not be made keeps its reservation",
        "distributed/worker/rooms.py",
        "self.store.moves.refused = reason\n        else:\n            self.store.reserved_bytes -= asked.nbytes",
        "self.store.moves.refused = reason",
        seed=3,
    ),
    Mutant(
        "when everybody waits for room nobody steps back",
        "distributed/worker/rooms.py",
        "if must_yield and not",
        "if False and not",
        seed=7,
        workers=2,
        tasks=160,
    ),
    # ---------------------------------------- executors, coroutines, cancels
    Mutant(
        "a coroutine that does not listen is never killed",
        "distributed/worker/stopping.py",
        "and any(executor.find(n)[0] for n in serials):\n            self.kill(executor)",
        "and any(executor.find(n)[0] for n in serials):\n            pass",
        seed=6,
    ),
    Mutant(
        "a cancelled task runs on",
        "distributed/worker/stopping.py",
        "if part.verdict:\n                self.kill(executor)",
        "if False:\n                self.kill(executor)",
    ),
    Mutant(
        "a task that must run once goes to another executor when the first one dies",
        "distributed/worker/dispatch.py",
        "lost = guilty or part.function.once or part",
        "lost = guilty or part",
        seed=2,
        tasks=160,
    ),
    Mutant(
        "tasks of a client that has a new connection go on",
        "distributed/worker/state.py",
        "self.absent.pop(event.client, None)\n        self._stop_tasks(event.client)",
        "self.absent.pop(event.client, None)",
        seed=3,
    ),
    # ---------------------------------------- placement, recalls, lineage, revival
    Mutant(
        "what a lost value contained is kept when it is made again",
        "distributed/pool/lifetimes.py",
        "self.let_go(former)",
        "pass",
        seed=3,
    ),
    Mutant(
        "a recipe whose last heir is gone stays",
        "distributed/pool/lineage.py",
        "needed.heirs -= 1",
        "pass",
    ),
    Mutant(
        "a pool does not try again to reach a worker",
        "distributed/pool/membership.py",
        "return [] if member is None else self._connect(member, self.reconnect_interval_s)",
        "return []",
    ),
    Mutant(
        "copies that were fetched for a task are not told",
        "distributed/worker/endings.py",
        "held.append([entry.key, entry.attempt])",
        "pass",
    ),
    Mutant(
        "where a task's inputs can be reached is remembered for ever",
        "distributed/pool/state.py",
        "self.placement.near.pop(task.key, None)",
        "pass",
        seed=3,
    ),
    # ------------------------------------------------------------------------------------------- workers that leave
    Mutant(
        "a worker leaves before others have its values",
        "distributed/worker/leaving.py",
        "is_done = self.is_over or not left or is_hopeless",
        "is_done = True",
        seed=1,
    ),
    Mutant(
        "what a worker adopts its owner does not learn",
        "distributed/pool/departures.py",
        "task.holders.add(view.member.address)",
        "pass",
        seed=1,
    ),
    # ---------------------------------------- groups
    Mutant(
        "members of a group run on when one of them has failed",
        "distributed/pool/groups.py",
        "            if going:\n",
        "            if False:\n",
        seed=26,
    ),
    Mutant(
        "groups gather in any order of workers",
        "distributed/pool/groups.py",
        "for address in sorted(counts)]",
        "for address in (sorted(counts) if group.number % 2 else sorted(counts)[::-1])]",
        seed=16,
    ),
    Mutant(
        "what members had returned stays when their group fails",
        "distributed/pool/groups.py",
        "                self._drop_value(task)\n",
        "                pass\n",
        seed=2,
    ),
    Mutant(
        "members of a group are given to executors one by one",
        "distributed/worker/dispatch.py",
        "if client is None or parts is None or parts[0].together:",
        "if client is None or parts is None:",
        seed=2,
    ),
    Mutant(
        "messages that a member did not read stay when it is gone",
        "distributed/worker/endings.py",
        "            self._letters.close(part.keys)\n",
        "            pass\n",
        seed=2,
    ),
)


def try_mutant(mutant: Mutant, seeds: str) -> Catch:
    """Play these stories with the bug in a copy of the package."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        for package in ("distributed", "tests/simulation"):
            shutil.copytree(ROOT / package, Path(folder, package), ignore=ignored)
        Path(folder, "tests/__init__.py").touch()
        victim = Path(folder, mutant.module)
        victim.write_text(mutant.mutate(victim.read_text()))
        seed, verdict = _play(mutant, folder, seeds)
        while verdict is LATE:  # a mind may run in circles, or the machine is slow: that is not told by a clock
            seed, verdict = _play(mutant, folder, str(seed), "--count-calls")
            if verdict is LATE:
                raise RuntimeError(f"mutant {mutant.name!r}: nobody knows whether story {seed} has an end")
            _, _, end = seeds.partition(":")
            if not verdict and end and seed + 1 < int(end):
                seed, verdict = _play(mutant, folder, f"{seed + 1}:{end}")
    return Catch(mutant, seed if verdict else None, verdict)


def _play(mutant: Mutant, folder: str, seeds: str, *options: str) -> tuple[int, str]:
    """The last story that was played, and what was found wrong with it; `LATE` if it had not come to its end."""
    size = "--workers", str(mutant.workers), "--tasks", str(mutant.tasks)
    command = [sys.executable, "-m", "tests.simulation.tell", "--seeds", seeds, "--verdicts", *size, *options]
    environment = {**os.environ, "PYTHONPATH": folder}
    try:
        ran = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired as late:
        last = (late.stdout or b"").decode().rpartition("\n")[2]
        return int(last.strip() or seeds.partition(":")[0]), LATE
    if ran.stderr:
        raise RuntimeError(f"mutant {mutant.name!r} did not even begin:\n{ran.stderr}")
    seed, _, verdict = ran.stdout.splitlines()[-1].partition("\t")
    return int(seed), verdict


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/simulate --mutants", description=__doc__)
    parser.add_argument("--seeds", default=f"0:{SEEDS}", metavar="A:B", help="stories to try (default %(default)s)")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only bugs with this in their names")
    options = parser.parse_args()
    chosen = [it for it in MUTANTS if not options.names or any(name in it.name for name in options.names)]
    survivors = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for catch in pool.map(lambda mutant: try_mutant(mutant, options.seeds), chosen):
            print(catch, flush=True)
            survivors += catch.seed is None
    print(f"{len(chosen)} deliberate bugs, {survivors} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
