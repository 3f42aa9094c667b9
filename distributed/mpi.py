"""``mpiexec -n 4 python -m distributed.mpi script.py``: rank 0 runs the script, the other ranks are its workers.

The door of an MPI job, for the command and for programs that call `start` themselves. It decides which ranks do what,
runs the script and hands out its exit code. How the cluster comes up and ends is in :mod:`distributed.cluster.job`.
"""

from __future__ import annotations

import argparse
import atexit
import os
import runpy
import sys
import types
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from distributed import address as addresses
from distributed import arguments as checks
from distributed import machine
from distributed.cluster import launcher
from distributed.config import SETTINGS
from distributed.errors import DistributedError, StartFailed
from distributed.version import __version__

NAME = "python -m distributed.mpi"
HELP = """\
Run a program whose Pool() has the ranks of an MPI job as its workers:

  $ mpiexec -n 4 python -m distributed.mpi script.py

Rank 0 runs the script; the others are workers, with one executor each. Every rank ends with the script, and its exit
code is that of mpiexec. Without mpiexec the same script has a local Pool().
"""
EXAMPLES = """\
examples:
  mpiexec -n 4 python -m distributed.mpi script.py --size 100
  mpiexec -n 4 python -m distributed.mpi -m package.module
  srun -n 8 -c 4 python -m distributed.mpi --ncores 4 script.py
                                          eight ranks with four cores each
  mpiexec -n 6 python -m distributed.mpi --ranks 1,2 script.py
                                          ranks 0, 3, 4 and 5 run the script, for MPI of its own
                                          (see distributed.mpi.communicator)

environment:
  DISTRIBUTED_MPI=0                       local processes even under mpiexec; the script runs once
  DISTRIBUTED_MPI=1                       MPI, although no launcher is known by the environment
"""

RANK_DIGITS_MAX = 6  # no job has more

_job: Any = None  # distributed.cluster.job.Job, on a rank that runs the program
_failure: int = 0  # the program's exit code, as far as it is known

# --------------------------------------------------------------------------------------------------- for programs


def start(
    ranks: Iterable[int] | None = None,
    *,
    ncores: int = 1,
    memory_limit: int | str | None = None,
    spill_directory: str | None = None,
    host: str | None = None,
    insecure_plaintext: bool = False,
) -> None:
    """Make workers of some ranks of this MPI job. On these it does not return: they end when the program does.

    A program that was started without ``-m distributed.mpi`` calls it first of all, on every rank. Elsewhere than under
    mpiexec it does nothing, so that `Pool()` is a local one.

    Parameters
    ----------
    ranks : list of int
        The ranks that become workers. Default: all but rank 0. The others go on; `communicator` is theirs.
    ncores : int
        Executors in each worker.
    memory_limit : int or str
        Memory for values in each worker, as for ``dworker``. Default: 60 % of a machine's, for all workers on it.
    spill_directory : str
        Where values go when that is full.
    host : str
        The address of rank 0's machine that the others reach. Default: it is found out.
    insecure_plaintext : bool
        Go on without TLS when the ranks are on several machines.
    """
    from distributed.cluster.job import Plan

    options = ["--ncores", str(checks.count("ncores", ncores, 1, SETTINGS.executors_max))]
    if memory_limit is not None:
        if isinstance(memory_limit, str):
            memory_limit = machine.parse_bytes(memory_limit)
        options += ["--memory-limit", str(checks.count("memory_limit", memory_limit, 2))]
    if spill_directory is not None:
        options += ["--spill-directory", checks.path("spill_directory", spill_directory)]
    chosen = () if ranks is None else _worker_ranks(ranks)
    place = "" if host is None else _host(checks.text("host", host))
    plan = Plan(chosen, tuple(options), place, checks.truth("insecure_plaintext", insecure_plaintext))
    if _job is not None:
        raise ValueError("start() was called before, in this program or by python -m distributed.mpi")
    try:
        mpi = _find_mpi()
        if mpi is not None:
            _begin(mpi, plan)
    except DistributedError:
        if launcher.rank(os.environ):
            raise SystemExit(0) from None  # or the launcher would end the first rank before it has told why
        raise


def is_client() -> bool:
    """Whether this is rank 0, or no MPI job at all: what a program does only once is done here."""
    return _job is None or _job.is_client


def communicator() -> Any:
    """The communicator (of mpi4py) of the ranks that run the program, for its own MPI; None outside of an MPI job.

    ``MPI.COMM_WORLD`` has the workers in it, which never answer. Rank 0 of the job is rank 0 of this one.
    """
    return None if _job is None else _job.communicator


def _worker_ranks(ranks: Iterable[int]) -> tuple[int, ...]:
    right = "a list of ranks, [1, 2]"
    chosen = [checks.count("each of ranks", rank, 0) for rank in checks.iterable("ranks", ranks, right)]
    if not chosen:
        raise ValueError("ranks names no rank: at least one has to be a worker")
    if 0 in chosen:
        raise ValueError("ranks names 0, which runs the program: workers are ranks from 1 on")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"ranks={checks.shown(chosen)} names a rank twice")
    return tuple(sorted(chosen))


def _host(text: str) -> str:
    try:
        return addresses.parse(addresses.unparse(text, 0))[0]
    except ValueError:
        shown = checks.shown(text)
        raise ValueError(f"host={shown} is not a host: a name or an IP address of rank 0's machine") from None


# ------------------------------------------------------------------------------------------------------ MPI, or not


def _find_mpi() -> Any:
    """The MPI of mpi4py; None if this program is to use local processes. `StartFailed` if it can't be had."""
    wish, size = os.environ.get("DISTRIBUTED_MPI", ""), launcher.size(os.environ)
    if wish not in ("", "0", "1"):
        raise StartFailed(f"DISTRIBUTED_MPI={wish!r} must be 0 (local processes) or 1 (MPI), or not set")
    if wish == "0":
        if size > 1:
            _go_alone("DISTRIBUTED_MPI=0: the program runs once, and Pool() starts local processes")
        return None
    if not wish and size < 2:
        _say("one process alone: Pool() starts local processes")
        return None
    try:
        from mpi4py import MPI
    except ModuleNotFoundError as error:
        raise StartFailed("an MPI job takes mpi4py: pip install mpi4py") from error
    except (ImportError, RuntimeError) as error:  # it is there, and no library that it was made for
        raise StartFailed(f"mpi4py finds no MPI library that it can use: {str(error).splitlines()[0]}") from error
    world: int = MPI.COMM_WORLD.size
    if size > 1 and world == 1:
        raise StartFailed(
            f"the launcher started {size} processes, but each of them is alone for MPI: mpi4py uses another MPI "
            "library than this launcher's; start with the mpiexec of that library (or srun --mpi=pmix)"
        )
    if world == 1:
        _say("one process alone: Pool() starts local processes")
        return None
    return MPI


def _go_alone(why: str) -> None:
    """One process goes on as if there were no launcher, and the others end."""
    if launcher.rank(os.environ):
        raise SystemExit(0)
    _say(why)
    alone = launcher.without_rank(os.environ)
    for name in set(os.environ) - set(alone):
        del os.environ[name]


def _begin(mpi: Any, plan: Any) -> None:
    global _job
    from distributed.cluster.job import Job

    job = Job(mpi, plan)
    if job.is_worker:
        job.work()
        raise SystemExit(0)
    _job = job
    atexit.register(_finish)  # what is registered later, like the end of pools, comes before it
    _note_failures()


def _finish() -> None:
    _job.finish(_failure)


def _note_failures() -> None:
    """A program that ends by an exception may leave other ranks waiting for it."""
    hook = sys.excepthook

    def note(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        global _failure
        _failure = _failure or 1
        hook(kind, error, trace)

    sys.excepthook = note


def _say(what: str) -> None:
    print(f"distributed.mpi: {what}", file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------------ the command


class _Parser(argparse.ArgumentParser):
    """What every rank would say is said once."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if not launcher.rank(os.environ):
            super()._print_message(message, file)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        super().exit(0 if launcher.rank(os.environ) else status, message)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    global _failure
    arguments = _parse(argv)
    try:
        _prepare(arguments)
        start(
            arguments.ranks,
            ncores=arguments.ncores,
            memory_limit=arguments.memory_limit,
            spill_directory=arguments.spill_directory,
            host=arguments.host,
            insecure_plaintext=arguments.insecure_plaintext,
        )
    except DistributedError as error:
        from distributed.cluster.job import Failed

        _say(str(error))
        return 1 if isinstance(error, Failed) else 2
    _failure = _run(arguments)
    return _failure


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog=NAME, description=HELP, epilog=EXAMPLES, formatter_class=layout, allow_abbrev=False,
                     usage=f"{NAME} [OPTION ...] {{SCRIPT | -m MODULE}} [ARGUMENT ...]")  # fmt: skip
    parser.add_argument("--version", action="version", version=f"distributed {__version__}")
    parser.add_argument("--ranks", type=_ranks, help="which ranks are workers: 1,2 or 1-3 (default: all but rank 0)")
    parser.add_argument("--ncores", type=_ncores, default=1, help="executors in each worker (default: 1)")
    parser.add_argument("--memory-limit", type=_memory, metavar="SIZE", help="memory for values in each worker: 4GiB")
    parser.add_argument("--spill-directory", type=_directory, metavar="PATH", help="where values go when that is full")
    parser.add_argument("--host", type=_place, help="the address of rank 0 that others reach (default: found out)")
    parser.add_argument(
        "--insecure-plaintext", action="store_true", help="go on without TLS when the ranks are on several machines"
    )
    parser.add_argument("-m", dest="module", action="store_true", help="SCRIPT is the name of a module")
    parser.add_argument("script", metavar="SCRIPT", nargs="?", help="the program")
    parser.add_argument("arguments", metavar="ARGUMENT", nargs=argparse.REMAINDER, help="what it gets as sys.argv[1:]")
    arguments = parser.parse_args(argv)
    if arguments.script is None:
        parser.error("there is no program to run: name a script, or a module with -m")
    return arguments


def _ranks(text: str) -> tuple[int, ...]:
    chosen: list[int] = []
    for part in text.split(","):
        bounds = part.strip().split("-")
        if len(bounds) > 2 or not all(bound.isdecimal() and len(bound) <= RANK_DIGITS_MAX for bound in bounds):
            raise argparse.ArgumentTypeError(f"{checks.shown(text)} is not a list of ranks: write 1,2 or 1-3")
        chosen += range(int(bounds[0]), int(bounds[-1]) + 1)
    return _told(_worker_ranks, chosen)


def _ncores(text: str) -> int:
    most = SETTINGS.executors_max
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{checks.shown(text)} is not a number of cores: from 1 to {most}")
    return int(text)


def _memory(text: str) -> int:
    return _told(machine.parse_bytes, text)


def _directory(text: str) -> str:
    return _told(lambda text: checks.path("the directory", text), text)


def _place(text: str) -> str:
    return _told(_host, text)


def _told(check: Any, value: Any) -> Any:
    try:
        return check(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _prepare(arguments: argparse.Namespace) -> None:
    """The program's own ``sys.argv`` and ``sys.path``, on workers, too: their executors import what is beside it."""
    if not (arguments.module or os.path.exists(arguments.script) or launcher.rank(os.environ)):
        raise StartFailed(f"there is no script {arguments.script}")
    sys.argv[:] = [arguments.script, *arguments.arguments]
    if not sys.flags.safe_path and not arguments.module:
        script = os.path.realpath(arguments.script)
        sys.path[0] = script if os.path.isdir(script) else os.path.dirname(script)


def _run(arguments: argparse.Namespace) -> int:
    """Run the program as ``__main__``; its exit code."""
    try:
        if arguments.module:
            runpy.run_module(arguments.script, run_name="__main__", alter_sys=True)
        else:
            _run_script(arguments.script)
    except SystemExit as end:
        if isinstance(end.code, int) or end.code is None:
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:  # noqa: BLE001 - the program's; it is told as Python would tell it
        trace = _of_the_program(error.__traceback__)
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _run_script(path: str) -> None:
    if os.path.isdir(path) or zipfile.is_zipfile(path):
        runpy.run_path(path, run_name="__main__")
        return
    program = types.ModuleType("__main__")  # it stays, for what the program leaves running
    program.__dict__.update(__file__=path, __builtins__=__builtins__)
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    sys.modules["__main__"] = program
    exec(code, program.__dict__)


def _of_the_program(trace: Any) -> Any:
    """A traceback without the lines that led to the program; all of it if it has no line of its own."""
    rest = trace
    while rest is not None and rest.tb_frame.f_code.co_filename in (__file__, runpy.__file__, "<frozen runpy>"):
        rest = rest.tb_next
    return rest or trace


if __name__ == "__main__":
    from distributed import mpi  # the module that programs import is another one than `__main__`

    sys.exit(mpi.main())
