"""MPI jobs, really started: who runs what, what the script's end means for every rank, and what there is without MPI.

Everything that a job starts has a mark of the test in its environment, by which leftovers are found.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distributed import mpi, offspring
from distributed.cluster import launcher
from distributed.cluster.job import credential_of_job
from distributed.cluster.reach import Beacon, seen
from distributed.errors import SecretUnusable, StartFailed
from distributed.wire.credential import new_pem
from tests.promises.test_large_values import namespaces, why_not

ROOT = Path(__file__).parent.parent
END_S = 30.0  # what is to end within a bound ends within this
MARK = "DISTRIBUTED_TEST_OF_MPI"
ALLOWANCES = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def why_no_mpi() -> str:
    if not shutil.which("mpiexec"):
        return "needs mpiexec (Debian: openmpi-bin)"
    done = subprocess.run(
        [sys.executable, "-c", "from mpi4py import MPI"], capture_output=True, text=True, check=False, timeout=100
    )
    return done.stderr.strip().rpartition("\n")[2] and f"needs mpi4py and an MPI library: {done.stderr[-200:]}"


@pytest.fixture(scope="module")
def mpiexec() -> str:
    if reason := why_no_mpi():
        pytest.skip(reason)
    return "mpiexec"


def searched(*first: Path) -> str:
    """A PYTHONPATH with these directories before what is there."""
    return os.pathsep.join(map(str, [*first, ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]))


class Run:
    """A command whose processes, wherever they are, carry a mark."""

    def __init__(self, *command: str, **environment: str) -> None:
        self.mark = secrets.token_hex(8)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **ALLOWANCES, "PYTHONPATH": searched(), **environment, MARK: self.mark},
        )

    def said(self, first: str) -> str:
        """The rest of the next line that begins so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(first):
                return line.removeprefix(first).strip()
        raise AssertionError(f"it never said {first!r}, but: {self.process.communicate()[1]}")

    def finish(self) -> subprocess.CompletedProcess[str]:
        out, err = self.process.communicate(timeout=100)
        return subprocess.CompletedProcess([], self.process.returncode, out, err)

    def processes(self) -> list[int]:
        return [pid for pid in offspring.carriers(f"{MARK}={self.mark}".encode()) if pid != self.process.pid]

    def rank(self, number: int) -> int:
        """The process id of a rank."""
        [pid] = [pid for pid in self.processes() if rank_of(pid) == number]
        return pid


def rank_of(pid: int) -> int | None:
    """Which rank a process is, by the environment that its launcher gave it; None for all others."""
    lines = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    environment = dict(line.split("=", 1) for line in lines if "=" in line)
    return launcher.rank(environment) if launcher.size(environment) else None


@contextlib.contextmanager
def running(*command: str, **environment: str) -> Iterator[Run]:
    """Asserts that nothing of it is left a moment after it has ended."""
    run = Run(*command, **environment)
    try:
        yield run
        run.finish()
        left = [pid for pid in run.processes() if not has_ended(pid)]
        assert left == [], "left behind"
    finally:
        run.process.kill()
        run.process.communicate()
        for pid in run.processes():
            offspring.kill(pid)


def has_ended(pid: int) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], END_S)[0])
    finally:
        os.close(descriptor)


def job(script: Path | str, *arguments: str, n: int = 4, options: tuple[str, ...] = ()) -> tuple[str, ...]:
    return ("mpiexec", "-n", str(n), sys.executable, "-m", "distributed.mpi", *options, str(script), *arguments)


def done(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    with running(*command, **environment) as run:
        finished = run.finish()
    return finished


@pytest.fixture
def script(tmp_path: Path):
    """Write a script; `tmp_path` is not on any path beside it."""

    def write(text: str, name: str = "script.py") -> Path:
        path = tmp_path / name
        path.write_text("import json, os, sys, time\nfrom distributed import Pool\n" + text)
        return path

    return write


# -------------------------------------------------------------------------------------------------------- who does what


@pytest.mark.slow
def test_rank_0_runs_the_script_and_the_others_are_the_workers_of_its_pool(mpiexec, script) -> None:
    program = script(
        "import beside\n"
        "def variables(_):\n"
        "    return sorted(name for name in os.environ if 'COMM_WORLD' in name or name.startswith('PMI'))\n"
        "class Own:\n"
        "    x = 3\n"
        "if __name__ == '__main__':\n"
        "    with Pool() as pool:\n"
        "        print(json.dumps({'argv': sys.argv[1:], 'cores': sorted(pool.ncores().values()),\n"
        "            'variables': pool.gather(pool.map(variables, range(3))), 'beside': pool.apply(beside.f),\n"
        "            'own': pool.apply(lambda own: own.x, (Own(),))}))\n"
    )
    script("def f():\n    return 'imported'\n", "beside.py")
    finished = done(*job(program, "--size", "-1"))
    assert (finished.returncode, finished.stderr) == (0, "")
    assert json.loads(finished.stdout) == {
        "argv": ["--size", "-1"],
        "cores": [1, 1, 1],
        "variables": [[], [], []],
        "beside": "imported",
        "own": 3,
    }


@pytest.mark.slow
def test_ranks_that_are_no_workers_run_the_script_too_and_have_mpi_among_themselves(mpiexec, script) -> None:
    program = script(
        "from distributed.mpi import communicator, is_client\n"
        "ranks = communicator()\n"
        "with Pool() as pool:\n"
        "    total = ranks.allreduce(pool.apply(pow, (2, ranks.rank)))\n"
        "    cores = list(pool.ncores().values())\n"
        "if is_client():\n"
        "    print(json.dumps([ranks.size, total, cores]))\n"
    )
    finished = done(*job(program, n=5, options=("--ranks", "1,2", "--ncores", "2")))
    assert (finished.returncode, finished.stderr) == (0, "")
    assert json.loads(finished.stdout) == [3, 1 + 2 + 4, [2, 2]]


@pytest.mark.slow
def test_a_program_may_call_start_itself(mpiexec, script) -> None:
    program = script(
        "from distributed import mpi\n"
        "mpi.start(ranks=[2], ncores=2)\n"
        "with Pool() as pool:\n"
        "    print(json.dumps([mpi.communicator().rank, list(pool.ncores().values())]), flush=True)\n"
    )
    finished = done("mpiexec", "-n", "3", sys.executable, str(program))
    assert (finished.returncode, finished.stderr) == (0, "")
    assert sorted(map(json.loads, finished.stdout.splitlines())) == [[0, [2]], [1, [2]]]


@pytest.mark.slow
def test_a_module_can_be_the_program(mpiexec, script, tmp_path) -> None:
    script("print(__name__, Pool().apply(abs, (-5,)))\n", "of_a_user.py")
    finished = done(*job("of_a_user", n=2, options=("-m",)), PYTHONPATH=searched(tmp_path))
    assert (finished.returncode, finished.stderr, finished.stdout) == (0, "", "__main__ 5\n")


@pytest.mark.slow
def test_waiting_ranks_take_next_to_no_processor_time(mpiexec, script) -> None:
    program = script("print('ready', flush=True)\nsys.stdin.read()\ntime.sleep(600)\n")
    with running(*job(program)) as run:
        run.said("ready")
        rank = run.rank(3)
        before = processor_time_s(rank)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.process.wait(timeout=3)
        used_s = processor_time_s(rank) - before
        run.process.terminate()
    assert used_s < 0.6


def processor_time_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_the_example_is_an_mpi_job_as_it_stands(mpiexec) -> None:
    finished = done(*job(ROOT / "docs/examples/mpi_percolation.py", "16", "8", n=3))
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.startswith("2 executors on 2 workers\n")


# -------------------------------------------------------------------------------------------------------------- the end


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "code", "says"),
    [
        ("sys.exit(7)", 7, ""),
        ("sys.exit('this is why')", 1, "this is why"),
        ("{}['missing']", 1, "KeyError: 'missing'"),
        ("os._exit(5)", None, ""),  # some launchers tell of those that they killed then
    ],
)
def test_however_the_script_ends_every_rank_ends_and_its_exit_code_is_that_of_the_job(
    mpiexec, script, end: str, code: int | None, says: str
) -> None:
    program = script(
        f"pool = Pool()\npending = pool.map(time.sleep, [600] * 5)\npool.apply(abs, (-1,)) if 0 else 0\n{end}\n"
    )
    finished = done(*job(program, n=3))
    assert finished.returncode == code or (code is None and finished.returncode)
    assert says in finished.stderr
    assert "distributed/mpi.py" not in finished.stderr


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2], ids=["the client", "a worker"])
def test_a_rank_that_is_killed_takes_all_others_with_it(mpiexec, script, rank: int) -> None:
    program = script("with Pool() as pool:\n    print('ready', flush=True)\n    pool.apply(time.sleep, (600,))\n")
    with running(*job(program)) as run:
        run.said("ready")
        os.kill(run.rank(rank), signal.SIGKILL)
        finished = run.finish()
    assert finished.returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_script_that_hangs_ends_with_its_launcher(mpiexec, script, number: signal.Signals) -> None:
    program = script("with Pool() as pool:\n    print('ready', flush=True)\n    pool.apply(time.sleep, (600,))\n")
    with running(*job(program)) as run:
        run.said("ready")
        run.process.send_signal(number)
        finished = run.finish()
    assert finished.returncode != 0


@pytest.mark.slow
def test_where_the_launcher_does_not_mind_workers_end_all_the_same_when_rank_0_is_gone(mpiexec, script) -> None:
    program = script("print('ready', flush=True)\ntime.sleep(600)\n")
    with running(*job(program)) as run:
        run.said("ready")
        center = child_of(run.rank(0), b"center")
        offspring.kill(center)  # rank 0 itself lives, so the launcher sees nothing
        finished = run.finish()
    assert finished.returncode != 0
    assert "rank 0 or its center is gone, and the job with it" in finished.stderr


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_its_task_runs_again(mpiexec, script) -> None:
    program = script(
        "with Pool() as pool:\n"
        "    flag = sys.argv[0] + '.x'\n"
        "    task = pool.submit(lambda: (time.sleep(0 if os.path.exists(flag) else 600), 5)[1])\n"
        "    print('ready', flush=True)\n"
        "    print('value', task.get(), flush=True)\n"
    )
    with running(*job(program, n=2)) as run:
        run.said("ready")
        Path(f"{program}.x").touch()
        offspring.kill(child_of(run.rank(1), b"worker"))
        value = run.said("value")
        finished = run.finish()
    assert value == "5"
    assert finished.returncode == 0
    assert "rank 1: its worker was killed by signal 9" in finished.stderr


def child_of(rank: int, word: bytes) -> int:
    [pid] = [
        pid
        for pid in offspring.descendants(rank)
        if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[2:5] == [b"-m", b"distributed", word]
    ]
    return pid


@pytest.fixture
def left(tmp_path):
    """A directory for PYTHONPATH, by which ranks tell that they leave MPI: mpiexec bears no abort after that."""
    (tmp_path / "telling").mkdir()
    (tmp_path / "telling" / "sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        "from distributed.cluster import launcher\n"
        "if launcher.size(os.environ):\n"
        "    atexit.register(lambda: print('rank', launcher.rank(os.environ), 'left', file=sys.stderr, flush=True))\n"
    )
    return tmp_path / "telling"


@pytest.mark.slow
def test_a_script_that_raises_while_another_rank_waits_for_it_ends_the_job(mpiexec, script, left) -> None:
    program = script(
        "from distributed.mpi import communicator, is_client\n"
        "if is_client():\n"
        "    raise ValueError('before it has sent anything')\n"
        "communicator().bcast(None)\n"
    )
    finished = done(*job(program, n=3, options=("--ranks", "2")), PYTHONPATH=searched(left))
    assert finished.returncode == 1
    assert "ValueError: before it has sent anything" in finished.stderr
    assert "left" not in finished.stderr


@pytest.mark.slow
def test_all_ranks_leave_when_all_are_done(mpiexec, script, left) -> None:
    finished = done(*job(script("pass"), n=3, options=("--ranks", "2")), PYTHONPATH=searched(left))
    assert finished.returncode == 0
    assert sorted(finished.stderr.splitlines()) == ["rank 0 left", "rank 1 left", "rank 2 left"]


# ------------------------------------------------------------------------------------------------- wrong from the start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--ranks", "3"), "there is no rank 3 to be a worker: the job has 2, from 0 on"),
        (("--ranks", "0,1"), "ranks names 0, which runs the program"),
        (("--ncores", "no"), "'no' is not a number of cores"),
        (("--host", "192.0.2.77"), "can listen at none of 192.0.2.77"),
    ],
)
def test_what_is_wrong_is_said_once_and_the_job_fails(mpiexec, script, options: tuple[str, ...], says: str) -> None:
    finished = done(*job(script("print('ran')"), n=2, options=options))
    assert finished.returncode in (1, 2)
    assert finished.stderr.count(says) == 1
    assert "ran" not in finished.stdout


@pytest.mark.slow
def test_a_rank_whose_worker_does_not_start_is_named(mpiexec, script) -> None:
    program = script("print('ran')")
    nowhere = str(program / "not-a-directory")
    finished = done(*job(program, n=2, options=("--spill-directory", nowhere)))
    assert finished.returncode == 1
    assert "distributed.mpi: rank 1 on " in finished.stderr
    assert nowhere in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.slow
def test_without_mpi4py_under_a_launcher_one_rank_says_what_to_install(mpiexec, script, tmp_path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "mpi4py.py").write_text("raise ModuleNotFoundError('hidden', name='mpi4py')\n")
    finished = done(*job(script("print('ran')")), PYTHONPATH=searched(tmp_path / "hidden"))
    assert finished.returncode == 2
    assert finished.stderr.count("an MPI job takes mpi4py: pip install mpi4py\n") == 1
    assert finished.stdout == ""


@pytest.mark.slow
def test_a_launcher_of_another_mpi_is_recognised(mpiexec, script) -> None:
    program = script("print('ran')")
    finished = done(sys.executable, "-m", "distributed.mpi", str(program), SLURM_STEP_NUM_TASKS="4")
    assert finished.returncode == 2
    assert "the launcher started 4 processes, but each of them is alone for MPI" in finished.stderr
    assert finished.stdout == ""


# -------------------------------------------------------------------------------------------------- several machines


ENTER = """
from mpi4py import MPI      # what it needs of the network it has from here
import ctypes, os, sys
from distributed import mpi
names, arguments = sys.argv[1].split(','), sys.argv[2:]
descriptor = os.open('/run/netns/' + names[MPI.COMM_WORLD.rank], os.O_RDONLY)
assert ctypes.CDLL(None).setns(descriptor, 0) == 0
os.close(descriptor)
sys.exit(mpi.main(arguments))
"""


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """The names and addresses of three machines; nobody is reached from the last one, 'lonely'."""
    if reason := why_not():
        pytest.skip(reason)
    with namespaces("hub", "other", "lonely") as (full, addresses):
        subprocess.run(["ip", "-n", full["lonely"], "link", "set", "uplink", "down"], check=True)
        yield full, addresses


def job_on(machines, where: list[str], directory: Path, program: Path, *options: str) -> tuple[str, ...]:
    """A job whose ranks are on these machines."""
    (directory / "enter.py").write_text(ENTER)
    names = ",".join(machines[0][name] for name in where)
    return (
        "mpiexec",
        "-n",
        str(len(where)),
        sys.executable,
        str(directory / "enter.py"),
        names,
        *options,
        str(program),
    )


ELSEWHERE = """
with Pool() as pool:
    places = [pool.address, *pool.workers]
    encrypted = 'DISTRIBUTED_TLS_FILE' in os.environ
    print(json.dumps([sorted({place.rpartition(':')[0] for place in places}), pool.apply(abs, (-5,)), encrypted]))
"""


@pytest.mark.slow
@pytest.mark.namespaces
@pytest.mark.parametrize("options", [(), ("--insecure-plaintext",)], ids=["with TLS", "without"])
def test_ranks_on_several_machines_find_one_another(mpiexec, script, tmp_path, machines, options) -> None:
    if not options:
        pytest.importorskip("cryptography")
    program = script(ELSEWHERE)
    finished = done(*job_on(machines, ["hub", "hub", "other"], tmp_path, program, *options))
    assert (finished.returncode, finished.stderr) == (0, "")
    addresses = [machines[1]["hub"], machines[1]["other"]]
    assert json.loads(finished.stdout) == [addresses, 5, not options]


@pytest.mark.slow
@pytest.mark.namespaces
def test_a_machine_that_does_not_reach_rank_0_is_named_and_the_job_fails(mpiexec, script, tmp_path, machines) -> None:
    program = script("print('ran')")
    finished = done(*job_on(machines, ["hub", "other", "lonely"], tmp_path, program))
    assert finished.returncode == 1
    assert finished.stdout == ""
    [line] = [line for line in finished.stderr.splitlines() if line.startswith("distributed.mpi:")]
    assert f"rank 2 on {socket.gethostname()} does not reach rank 0" in line
    assert f"at {machines[1]['hub']}: name an address of its machine that all others reach, with --host" in line


@pytest.mark.slow
@pytest.mark.namespaces
def test_between_machines_nothing_is_said_in_the_clear_unasked(mpiexec, script, tmp_path, machines) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "cryptography.py").write_text("raise ModuleNotFoundError('hidden')\n")
    command = job_on(machines, ["hub", "other"], tmp_path, script("print('ran')"))
    finished = done(*command, PYTHONPATH=searched(tmp_path / "hidden"))
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert "distributed.mpi: the ranks are on several machines" in finished.stderr
    assert "pip install cryptography" in finished.stderr
    assert "--insecure-plaintext" in finished.stderr


def test_a_credential_that_is_named_is_the_one_of_the_job_if_it_is_of_any_use(tmp_path, monkeypatch) -> None:
    pytest.importorskip("cryptography")
    path = tmp_path / "tls.pem"
    path.write_bytes(new_pem(path))
    monkeypatch.setenv("DISTRIBUTED_TLS_FILE", str(path))
    path.chmod(0o644)
    with pytest.raises(SecretUnusable, match="others can read"):
        credential_of_job()
    path.chmod(0o600)
    assert credential_of_job() == path.read_text()


def test_a_beacon_is_told_from_whatever_else_listens() -> None:
    with Beacon(["127.0.0.1", "192.0.2.77"]) as beacon, socket.create_server(("127.0.0.1", 0)) as stranger:
        where = addresses_of(beacon, stranger)
        assert len(beacon.addresses) == 1, "it listens at addresses of its own only"
        assert seen(where, beacon.token, 0.2) == beacon.addresses
        assert seen(where, bytes(len(beacon.token)), 0.2) == []


def addresses_of(beacon: Beacon, stranger: socket.socket) -> list[str]:
    return [f"127.0.0.1:{stranger.getsockname()[1]}", *beacon.addresses]


# ------------------------------------------------------------------------------------------------------- who gets in


@pytest.mark.slow
def test_the_secret_is_of_this_job_alone_and_on_no_command_line_in_no_environment_and_in_no_file(
    mpiexec, script, secret_file
) -> None:
    program = script(
        "secret = open(os.environ['DISTRIBUTED_SECRET_FILE']).read().strip()\n"
        "pool = Pool()\n"
        "there = pool.apply(lambda: open(os.environ['DISTRIBUTED_SECRET_FILE']).read().strip())\n"
        "where = os.path.realpath(os.environ['DISTRIBUTED_SECRET_FILE'])\n"
        "print('secret', secret, there == secret, where, flush=True)\n"
        "time.sleep(600)\n"
    )
    with running(*job(program, n=2)) as run:
        secret, is_shared, *path = run.said("secret").split()
        told = b"".join(
            Path(f"/proc/{pid}/{what}").read_bytes() for pid in run.processes() for what in ("cmdline", "environ")
        )
        run.process.terminate()
    assert (len(secret), is_shared) == (64, "True")
    assert path == ["/memfd:distributed", "secret", "(deleted)"]
    assert secret.encode() not in told
    assert not secret_file.exists() or secret_file.read_text().strip() != secret


# ---------------------------------------------------------------------------------------------------------- without MPI


def alone(program: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return done(sys.executable, "-m", "distributed.mpi", *options, str(program), "word", **environment)


LOCAL = (
    "from distributed.mpi import communicator, is_client\n"
    "with Pool(1 if os.environ.get('ONE') else None) as pool:\n"
    "    print(sys.argv[1], is_client(), communicator(), pool.apply(abs, (-5,)))\n"
)


@pytest.mark.slow
def test_without_a_launcher_the_pool_is_local_and_one_sentence_says_so(script) -> None:
    finished = alone(script(LOCAL))
    assert (finished.returncode, finished.stdout) == (0, "word True None 5\n")
    assert finished.stderr == "distributed.mpi: one process alone: Pool() starts local processes\n"


@pytest.mark.slow
def test_a_variable_forces_local_processes_and_under_a_launcher_the_script_runs_once(mpiexec, script) -> None:
    program = script(LOCAL)
    finished = alone(program, DISTRIBUTED_MPI="0")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "word True None 5\n", "")
    finished = done(*job(program, "word"), DISTRIBUTED_MPI="0")
    assert (finished.returncode, finished.stdout) == (0, "word True None 5\n")
    assert finished.stderr.startswith("distributed.mpi: DISTRIBUTED_MPI=0: the program runs once")
    assert finished.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_variable_that_makes_no_sense_is_told(script) -> None:
    finished = alone(script(LOCAL), DISTRIBUTED_MPI="maybe")
    assert finished.returncode == 2
    assert finished.stderr == (
        "distributed.mpi: DISTRIBUTED_MPI='maybe' must be 0 (local processes) or 1 (MPI), or not set\n"
    )


def test_a_script_that_is_not_there_is_one_line(tmp_path) -> None:
    finished = alone(tmp_path / "missing.py")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == f"distributed.mpi: there is no script {tmp_path / 'missing.py'}\n"


@pytest.mark.slow
def test_a_directory_with_a_main_module_is_a_program(script, tmp_path) -> None:
    (tmp_path / "application").mkdir()
    script("print('ran as', __name__)", "application/__main__.py")
    assert alone(tmp_path / "application", DISTRIBUTED_MPI="0").stdout == "ran as __main__\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "there is no program to run: name a script, or a module with -m"),
        (["-m"], "there is no program to run"),
        (["--rank", "1", "x.py"], "unrecognized arguments: --rank"),
    ],
)
def test_a_command_without_a_program_or_with_an_unknown_option_is_told(arguments, says, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        mpi.main(arguments)
    assert says in capsys.readouterr().err


@pytest.mark.slow
def test_a_script_that_mpiexec_starts_by_itself_is_told_how_to_have_one_pool(mpiexec, script) -> None:
    program = script("from distributed import Pool\nwith Pool() as pool:\n    print(pool.submit(abs, -1).get())\n")
    finished = done("mpiexec", "-n", "2", sys.executable, str(program))
    assert (finished.returncode, finished.stdout) == (0, "1\n1\n")
    assert finished.stderr.count(f"{program}:4: UserWarning: each of 2 ranks starts a local Pool() of its own") == 1
    finished = done("mpiexec", "-n", "2", sys.executable, str(program), DISTRIBUTED_MPI="0")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "1\n1\n", "")


def test_help_teaches_by_examples(capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        mpi.main(["--help"])
    assert "mpiexec -n 4 python -m distributed.mpi script.py" in capsys.readouterr().out


def test_only_the_first_rank_tells_of_wrong_usage(capsys, monkeypatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    for rank, code in ((1, 0), (0, 2)):
        monkeypatch.setenv("OMPI_COMM_WORLD_RANK", str(rank))
        with pytest.raises(SystemExit) as end:
            mpi.main(["--ranks", "x", "script.py"])
        assert end.value.code == code
        assert ("'x' is not a list of ranks: write 1,2 or 1-3" in capsys.readouterr().err) == (rank == 0)


def test_what_makes_a_process_a_rank_is_not_handed_on_and_what_a_person_set_is() -> None:
    of_ranks = {"PMIX_RANK": "1", "PMI_FD": "9", "OMPI_COMM_WORLD_RANK": "1", "OMPI_MCA_ess": "^singleton"}
    of_ranks |= {"OMPI_MCA_orte_hnp_uri": "x", "SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "MPI_LOCALRANKID": "1"}
    of_people = {"OMPI_MCA_btl": "tcp,self", "OMPI_ALLOW_RUN_AS_ROOT": "1", "SLURM_JOB_ID": "7", "I_MPI_FABRICS": "shm"}
    assert launcher.without_rank(of_ranks | of_people) == of_people


def test_a_wrong_wish_outside_of_a_job_starts_nothing(monkeypatch) -> None:
    monkeypatch.setenv("DISTRIBUTED_MPI", "yes")
    with pytest.raises(StartFailed, match="DISTRIBUTED_MPI='yes' must be 0"):
        mpi.start()
