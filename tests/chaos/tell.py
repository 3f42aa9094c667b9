"""Breaks a real cluster while a pool works on it, and tells the score. This is what `scripts/chaos` runs.

Graphs of tasks follow one another for as long as was asked: the first one undisturbed, for comparison, and then every
second something breaks. The last one is finished after everything is mended. Nothing may be lost, and nothing be left.
With `--pairs` undisturbed graphs alternate with equal ones during which one worker a second dies: what is the
throughput that is kept?
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import NoReturn

from conftest import processes_with
from distributed import Pool
from tests.chaos.daemons import Daemons, private_file_system
from tests.chaos.faults import KINDS, Faults, why_no_cuts
from tests.chaos.graph import Graph, Plan
from tests.promises.observe import contents, until

TICK_S = 1.0
LOOK_S = 0.05
PATIENCE_S = 60.0  # without a single result, after which something is lost
END_S = 20.0
CLOSE_S = 10.0
QUIET_TASKS_MAX = 4000
SAID_MAX = 12
HARMLESS = {"kill-center", "stop-center", "stop-agent", "stop-executor"}  # because of these nothing runs again


class Wrong(Exception):
    """What was promised did not hold."""


class Chaos:
    """One run."""

    def __init__(self, options: argparse.Namespace, home: Path) -> None:
        self.options, self.home = options, home
        self.dice = random.Random(options.seed)
        self.notes = 0
        self.graph: Graph | None = None
        self.tasks = self.executions = self.refused = 0
        self.quiet_per_s = 0.0
        self.busy_tasks, self.busy_s, self.close_s = 0, 0.0, 0.0
        self.mttr_s: list[float] = []
        self.pairs: list[tuple[float, float]] = []  # tasks a second, undisturbed and while workers died
        self.skipped: list[str] = []
        self._trouble = ""  # of daemons or faults, as the thread of faults saw it
        self._enough = threading.Event()
        (home / "stores").mkdir()
        no_fill = private_file_system(home / "stores") if "fill" in options.faults else ""
        self.daemons = Daemons(home, options.workers)
        no_cuts = why_no_cuts(self.daemons.center._process.pid) if "cut" in options.faults else ""
        self.skipped += [f"{kind} is left out: {why}" for kind, why in (("fill", no_fill), ("cut", no_cuts)) if why]
        kinds = [kind for kind in options.faults if not any(told.startswith(f"{kind} ") for told in self.skipped)]
        self.faults = Faults(self.daemons, kinds, self.dice, self._unfinished_at, options.story)

    def run(self) -> None:
        try:
            with Pool(self.daemons.center_address) as pool:
                self._await_workers(pool)
                if self.options.pairs:
                    self._play_pairs(pool)
                else:
                    self._play_undisturbed(pool)
                    self._play_disturbed(pool)
                self._check_members()
                self._check_empty()
                began_s = time.monotonic()
            self.close_s = time.monotonic() - began_s
        finally:
            self.faults.mend()
            self.daemons.close(CLOSE_S)
        self._check_nothing_left()

    # -------------------------------------------------------------------------------------------------------- playing

    def _await_workers(self, pool: Pool) -> None:
        if not until(lambda: len(pool.workers) == self.options.workers, PATIENCE_S):
            raise Wrong(f"{len(pool.workers)} of {self.options.workers} workers came: {self.daemons.died_alone()}")

    def _new_graph(self, pool: Pool, n_tasks: int) -> Graph:
        self.notes += 1
        self.graph = Graph(Plan.draw(n_tasks, self.dice), self.home / f"notes-{self.notes}")
        self.graph.submit(pool)
        return self.graph

    def _play_undisturbed(self, pool: Pool) -> None:
        for n_tasks in (200, min(self.options.tasks, QUIET_TASKS_MAX)):  # the first warms up
            self.quiet_per_s = self._measure(pool, n_tasks)

    def _measure(self, pool: Pool, n_tasks: int) -> float:
        """Play one graph; how many tasks a second came back."""
        began_s = time.monotonic()
        graph = self._new_graph(pool, n_tasks)
        self._await(graph)
        took_s = max(graph.arrived_s.values()) - began_s
        self._finish(graph)
        return n_tasks / took_s

    def _play_pairs(self, pool: Pool) -> None:
        """Equal numbers of tasks, without and with deaths in turn, so that whatever else runs here hits both."""
        self._measure(pool, 200)
        for _ in range(self.options.pairs):
            quiet_per_s = self._measure(pool, self.options.tasks)
            self._enough.clear()
            disturbing = threading.Thread(target=self._disturb, args=(float("inf"),), name="faults")
            disturbing.start()
            try:
                self.pairs.append((quiet_per_s, self._measure(pool, self.options.tasks)))
            finally:
                self._enough.set()
                disturbing.join()
            if self._trouble:
                raise Wrong(self._trouble)
            self._await_workers(pool)

    def _play_disturbed(self, pool: Pool) -> None:
        """Faults have a thread of their own: also a client that waits for a value of a stopped worker gets it later."""
        disturbing = threading.Thread(target=self._disturb, args=(self.options.seconds,), name="faults")
        disturbing.start()
        try:
            while disturbing.is_alive():
                began_s = time.monotonic()
                graph = self._new_graph(pool, self.options.tasks)
                self._await(graph)
                self.busy_tasks += len(graph.handles)
                self.busy_s += max(graph.arrived_s.values()) - began_s
                self._finish(graph)
        finally:
            self._enough.set()
            disturbing.join()
        if self._trouble:
            raise Wrong(self._trouble)

    def _disturb(self, seconds: float) -> None:
        began_s = self.faults.began_s = next_s = time.monotonic()
        try:
            while (now_s := time.monotonic()) < began_s + seconds and not self._enough.is_set() and not self._trouble:
                self.faults.mend_due(now_s)
                if now_s >= next_s:
                    self.faults.tick()
                    next_s += TICK_S
                self._trouble = "; ".join(self.daemons.died_alone())
                self._enough.wait(LOOK_S)
            self.faults.mend()
            self._trouble = self._trouble or "; ".join(self.daemons.died_alone())
        except Exception:  # noqa: BLE001  it would be lost with the thread
            self._trouble = traceback.format_exc()

    def _await(self, graph: Graph) -> None:
        arrived, moved_s = 0, time.monotonic()
        while not graph.all_arrived.wait(LOOK_S):
            if self._trouble:
                raise Wrong(self._trouble)
            if len(graph.arrived_s) > arrived:
                arrived, moved_s = len(graph.arrived_s), time.monotonic()
            elif time.monotonic() - moved_s > PATIENCE_S:
                self._say_stuck(graph)

    def _say_stuck(self, graph: Graph) -> NoReturn:
        numbers = graph.unfinished()
        lines = [f"task {number}: {graph.handles[number].explain()}" for number in numbers[:SAID_MAX]]
        told = f"nothing arrived for {PATIENCE_S:g} s, and {len(numbers)} of {len(graph.handles)} tasks are unfinished"
        raise Wrong("\n  ".join([told, *lines]))

    def _finish(self, graph: Graph) -> None:
        """Check it, count it, and let go of it."""
        graph.check(PATIENCE_S)
        self.tasks += len(graph.handles)
        self.executions += len(graph.executions)
        self.refused += graph.refused
        if graph.refused and not self.faults.count["fill"]:
            graph.wrong.append(f"{graph.refused} tasks found a store full that nobody had filled")
        if not self.faults.count.keys() - HARMLESS and len(graph.executions) != len(graph.handles):
            graph.wrong.append(
                f"{len(graph.handles)} tasks ran {len(graph.executions)} times, though no worker was hurt"
            )
        self._note_recoveries(graph)
        graph.notes.unlink(missing_ok=True)
        self.graph = None
        graph.handles.clear()
        if graph.wrong:
            more = [f"... and {len(graph.wrong) - SAID_MAX} more"] if len(graph.wrong) > SAID_MAX else []
            raise Wrong("\n  ".join(["results are not what they must be:", *graph.wrong[:SAID_MAX], *more]))

    def _unfinished_at(self, address: str) -> tuple[int, ...]:
        graph = self.graph
        there = enumerate(list(graph.handles) if graph else [])
        return tuple(number for number, handle in there if handle._task.worker == address and not handle.ready())

    def _note_recoveries(self, graph: Graph) -> None:
        """From a worker's death to the first result, made elsewhere, of a task that was there."""
        deaths, self.faults.deaths = self.faults.deaths, []
        for death in deaths:
            moved = [n for n in death.numbers if n in graph.ran_by and graph.ran_by[n] not in death.executors]
            if moved:
                self.mttr_s.append(min(graph.arrived_s[number] for number in moved) - death.at_s)
                last_s = max(graph.arrived_s[number] for number in moved) - death.at_s
                self.faults.tell(
                    f"... of {death.name} {len(moved)} tasks went elsewhere: the first {self.mttr_s[-1] * 1e3:.0f} ms "
                    f"later, the last {last_s * 1e3:.0f} ms"
                )

    # -------------------------------------------------------------------------------------------------------- the end

    def _check_members(self) -> None:
        """Each living worker is a member in the end, and nobody else."""
        from distributed import rpc

        expected = {member.address for member in self.daemons.members}

        def known() -> set[str]:
            with rpc(self.daemons.center_address) as center:
                return {member["address"] for member in center.status()["members"]}

        if not until(lambda: known() == expected, END_S):
            raise Wrong(f"the center knows {sorted(known())}; there are {sorted(expected)}")

    def _check_empty(self) -> None:
        """After everything was released, every store is empty."""
        if not until(lambda: not contents(self.daemons.center_address), END_S):
            raise Wrong(f"not empty {END_S:g} s after everything was released: {contents(self.daemons.center_address)}")

    def _check_nothing_left(self) -> None:
        secret = Path(os.environ["DISTRIBUTED_SECRET_FILE"])
        until(lambda: not processes_with(secret), END_S)
        left = [f"process {pid}: {name}" for pid, name in processes_with(secret).items()]
        left += [str(path) for base in ("stores", "spill") for path in (self.home / base).iterdir()]
        if left:
            raise Wrong("\n  ".join(["left behind:", *left[:SAID_MAX]]))

    # -------------------------------------------------------------------------------------------------------- the score

    def score(self) -> str:
        lines = [*self.skipped, f"tasks        {self.tasks:,} checked, {self.executions:,} executions noted"]
        if self.refused:
            lines[-1] += f", {self.refused:,} told that a store was full"
        by_kind = ", ".join(f"{kind} {count}" for kind, count in sorted(self.faults.count.items()))
        lines.append(f"faults       {self.faults.count.total()}: {by_kind or 'none'}")
        if self.mttr_s:
            ordered = sorted(self.mttr_s)
            p99_s = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
            lines.append(
                f"MTTR         median {statistics.median(ordered) * 1e3:.0f} ms, p99 {p99_s * 1e3:.0f} ms, "
                f"of {len(ordered)} deaths of workers with tasks that moved"
            )
        if self.pairs:
            told = ", ".join(f"{busy:,.0f} of {quiet:,.0f}" for quiet, busy in self.pairs)
            kept = statistics.median(busy / quiet for quiet, busy in self.pairs)
            lines.append(f"throughput   {kept:.0%} kept while a worker a second died: {told} tasks/s")
            return "\n".join([*lines, f"close        {self.close_s:.1f} s"])
        busy_per_s = self.busy_tasks / self.busy_s if self.busy_s else 0.0
        kept = f", {busy_per_s / self.quiet_per_s:.0%}" if self.quiet_per_s else ""
        lines.append(f"throughput   {busy_per_s:,.0f} tasks/s under faults, {self.quiet_per_s:,.0f} undisturbed{kept}")
        lines.append(f"close        {self.close_s:.1f} s")
        return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------------- the door


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _number(kind: type, least: float):
    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not least <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not a number from {least} on")
        return value

    return parse


def _kinds(text: str) -> list[str]:
    kinds = [kind.strip() for kind in text.split(",")]
    for kind in kinds:
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(f"there is no fault {kind!r}; there are {', '.join(KINDS)}")
    return list(dict.fromkeys(kinds))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    listed = "\n".join(f"  {kind:14} {what}" for kind, what in KINDS.items())
    parser = Parser(
        prog="scripts/chaos",
        description=__doc__,
        epilog=f"faults:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=_number(float, 1), default=60, help="of disturbance (default %(default)s)")
    parser.add_argument("--tasks", type=_number(int, 1), default=20_000, help="of a graph (default %(default)s)")
    parser.add_argument(
        "--workers", type=_number(int, 1), default=4, help="each with 2 executors (default %(default)s)"
    )
    parser.add_argument("--seed", type=_number(int, 0), default=0, help="of graphs and faults (default %(default)s)")
    parser.add_argument("--faults", type=_kinds, default=list(KINDS), metavar="KIND,...", help="default: all of them")
    parser.add_argument(
        "--pairs", type=_number(int, 1), help="instead: so many graphs undisturbed, and as many while workers die"
    )
    parser.add_argument("--story", action="store_true", help="tell each fault as it happens")
    options = parser.parse_args(arguments)
    if options.pairs:
        options.faults = ["kill-worker"]
    return options


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is stopped must go on, also then
    wrong = ""
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        os.environ["DISTRIBUTED_SECRET_FILE"] = str(Path(name) / "secret")
        chaos = Chaos(options, Path(name))
        try:
            chaos.run()
        except Wrong as error:
            wrong = str(error)
        except KeyboardInterrupt:
            wrong = "interrupted"
        except Exception:  # noqa: BLE001  whatever breaks is the news
            wrong = traceback.format_exc()
        if wrong and not options.story:
            print("\n".join(chaos.faults.story))
        print(chaos.score())
        if os.path.ismount(chaos.home / "stores"):
            subprocess.run(["umount", "--lazy", chaos.home / "stores"], check=True)
    if wrong:
        kinds = "" if options.faults == list(KINDS) else f" --faults {','.join(options.faults)}"
        kinds = f" --pairs {options.pairs}" if options.pairs else kinds
        print(
            f"WRONG: {wrong}\nagain with: scripts/chaos --seconds {options.seconds:g} --tasks {options.tasks} ", end=""
        )
        print(f"--workers {options.workers} --seed {options.seed}{kinds}")
        return 1
    print("all results were right, each arrived once, and nothing was left behind")
    return 0


if __name__ == "__main__":
    sys.exit(main())
