"""The commands: ``dcenter``, ``dworker`` and ``python -m distributed {center,worker,status}``.

Owns what people read: help, start lines, one-line errors, exit codes (0 ended as asked, 1 could not do it, 2 wrong
usage). What the daemons do is not decided here. Imports of daemons are inside the functions that need them, so that
``--help`` and usage errors come at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from distributed import address as addresses
from distributed import arguments as checks
from distributed import machine, resources
from distributed.cluster.daemon import Ending, exit_code, run_daemon
from distributed.config import SETTINGS
from distributed.errors import ConnectionFailed
from distributed.quantities import size
from distributed.version import __version__
from distributed.web.terminal import format_status

CENTER_PORT = 8787

CENTER_HELP = """\
The center of a cluster: it knows which workers there are, and which of them holds which value.
Start one per cluster, then workers that join it, then use it from Python:

  $ dcenter
  $ dworker 127.0.0.1:8787                in another terminal, as often as you like
  >>> from distributed import Pool
  >>> Pool('127.0.0.1:8787').apply(sum, [[1, 2, 3]])

Whoever joins must hold the secret that the first dcenter creates for you. Your own workers and pools on this machine
find it by themselves; to another machine you copy the file, to the same place. The same goes for tls.pem, which --tls
creates: wherever it is, everything that goes over TCP is encrypted.
"""
WORKER_HELP = """\
A worker: it joins the cluster of a center, holds values, and runs functions on them, in one child process per core.

  $ dworker 127.0.0.1:8787
  $ dworker 127.0.0.1:8787 --ncores 4 --memory-limit 4GiB --spill-directory /scratch
"""
CENTER_EXAMPLES = """\
examples:
  dcenter                                 on 127.0.0.1:8787, for this machine only
  dcenter --port 0                        on whatever port is free; it is printed
  dcenter --ncores 4                      a head node: this machine computes too, on 4 cores
  dcenter --host 10.0.0.7 --tls           for other machines, too; creates tls.pem beside the secret:
                                          copy both files to the same place there
  dcenter --host 10.0.0.7 --insecure-plaintext
                                          for a network that you trust: peers prove that they hold
                                          the secret, but what they say can be read on the way
"""
WORKER_EXAMPLES = """\
examples:
  dworker 127.0.0.1:8787                  all cores, 60 % of the memory for values, the rest in /var/tmp
  dworker 127.0.0.1:8787 --task-memory-limit 2GiB
                                          a task that takes more is killed, and tried again twice
  dworker 127.0.0.1:8787 --ncores 4 --memory-limit 4GiB
  dworker 127.0.0.1:8787 --resources gpu=2,license=1
                                          for tasks that ask for them: pool.options(resources={'gpu': 1})
  dworker 127.0.0.1:8787 --memory-limit 0.25 --spill-directory /scratch
                                          a quarter of the memory; what does not fit goes to /scratch
  dworker 10.0.0.7:8787                   on another machine, with copies of the center's secret and
                                          tls.pem. Others connect to it where they can, and are led
                                          there by the center where they cannot
  dworker 10.0.0.7:8787 --insecure-plaintext
                                          the same in a network that you trust, without tls.pem
  dworker 10.0.0.7:8787 --via-center      nobody connects to this machine
"""
STATUS_EXAMPLES = """\
examples:
  python -m distributed status 127.0.0.1:8787
  python -m distributed status 127.0.0.1:8787 --json | jq .members
"""

# ------------------------------------------------------------------------------------------------------------- doors


def dcenter(argv: Sequence[str] | None = None) -> int:
    """The command ``dcenter``; returns its exit code."""
    parser = _parser("dcenter", CENTER_HELP, CENTER_EXAMPLES)
    _add_center_options(parser)
    parser.set_defaults(parser=parser)
    return _run_center(parser.parse_args(argv))


def dworker(argv: Sequence[str] | None = None) -> int:
    """The command ``dworker``; returns its exit code."""
    parser = _parser("dworker", WORKER_HELP, WORKER_EXAMPLES)
    _add_worker_options(parser)
    return _run_worker(parser.parse_args(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m distributed``; returns its exit code."""
    name = "python -m distributed"
    parser = _parser(name, "Functions run where their data is, on the cores of one or many machines.", "")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(word: str, summary: str, text: str, examples: str) -> argparse.ArgumentParser:
        layout = argparse.RawDescriptionHelpFormatter
        return commands.add_parser(
            word, help=summary, description=text, epilog=examples, formatter_class=layout, allow_abbrev=False
        )

    center = command("center", "start a center (as dcenter)", CENTER_HELP, CENTER_EXAMPLES)
    _add_center_options(center)
    center.set_defaults(run=_run_center, parser=center)
    worker = command("worker", "start a worker (as dworker)", WORKER_HELP, WORKER_EXAMPLES)
    _add_worker_options(worker)
    worker.set_defaults(run=_run_worker)
    status = command(
        "status", "show members, cores, keys, bytes and what runs", _run_status.__doc__ or "", STATUS_EXAMPLES
    )
    status.add_argument(
        "address",
        metavar="HOST:PORT",
        type=_address_of_any,
        help="a center, or a worker; HOST:PORT?via=HOST:PORT of one that its center leads to",
    )
    status.add_argument("--json", action="store_true", help="print all there is, for programs")
    status.set_defaults(run=_run_status)
    embedded = commands.add_parser("embedded")  # no help: it is what Pool() starts
    embedded.add_argument("--ncores", type=int)
    embedded.add_argument("--memory-limit", type=_memory)
    embedded.add_argument("--parent-fd", type=int)
    embedded.set_defaults(run=_run_embedded, verbose=False)
    arguments = parser.parse_args(argv)
    code: int = arguments.run(arguments)
    return code


# ----------------------------------------------------------------------------------------------------------- arguments


def _parser(name: str, text: str, examples: str) -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog=name, description=text, epilog=examples, formatter_class=layout, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"distributed {__version__}")
    return parser


def _add_daemon_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tls-file",
        type=_path,
        metavar="PATH",
        help="a private key and its certificate, in PEM, instead of tls.pem beside the secret "
        "(the same as DISTRIBUTED_TLS_FILE)",
    )
    parser.add_argument(
        "--insecure-plaintext",
        action="store_true",
        help="listen beyond this machine although nothing is encrypted",
    )
    parser.add_argument("--verbose", action="store_true", help="log more")
    parser.add_argument("--parent-fd", type=int, help=argparse.SUPPRESS)


def _add_center_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", type=_host, default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=CENTER_PORT, help="0 picks a free one (default: %(default)s)")
    parser.add_argument(
        "--status-port", type=_port, default=0, help="port of the status page (default: 0, which picks a free one)"
    )
    parser.add_argument(
        "--tls", action="store_true", help="encrypt; creates the certificate and its key if they are not there yet"
    )
    parser.add_argument(
        "--ncores",
        type=_at_least_one,
        help="be a head node, which computes too: start a worker beside the center that runs so many tasks at a time "
        "(default: no worker)",
    )
    _add_memory_limit(parser, "memory for values of that worker")
    _add_daemon_options(parser)


def _add_memory_limit(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--memory-limit",
        type=_memory,
        metavar="SIZE",
        help=f"{what}: 4GiB, 500MiB, or 0.5 for half of the machine's (default: {SETTINGS.memory_fraction:g} of it)",
    )


def _add_worker_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("center", metavar="HOST:PORT", type=_address, help="where the center is")
    parser.add_argument("--ncores", type=_at_least_one, help="how many tasks run at a time (default: all cores)")
    _add_memory_limit(parser, "memory for values")
    parser.add_argument(
        "--task-memory-limit",
        type=_memory_or_none,
        metavar="SIZE",
        help="memory that one running task may have of its own, beside the values that it reads; with more it is "
        f"killed (default: {SETTINGS.task_memory_fraction:g} of the machine's; none: no limit)",
    )
    parser.add_argument(
        "--host",
        type=_host,
        help="address to listen on (default: 127.0.0.1 if the center is there, too; else the one that leads to the "
        "center where there is TLS, or with --insecure-plaintext; else none, as with --via-center)",
    )
    parser.add_argument(
        "--resources",
        type=_resources,
        metavar="NAME=NUMBER,...",
        help="what tasks may ask for beside a core, and how much of it is here: gpu=2,license=1",
    )
    parser.add_argument("--port", type=_port, default=0, help="default: 0, which picks a free one")
    parser.add_argument(
        "--announce",
        type=_host_elsewhere,
        metavar="HOST",
        help="the name or address under which others know this machine (default: where it listens)",
    )
    parser.add_argument(
        "--via-center",
        action="store_true",
        help="nobody connects to this worker: whoever wants it is led there by the center, to which it dials back",
    )
    parser.add_argument("--name", type=_name, help="a name for people; default: the address")
    parser.add_argument("--directory", type=_path, help="where large values are kept (default: in memory, /dev/shm)")
    parser.add_argument(
        "--spill-directory",
        type=_path,
        metavar="DIRECTORY",
        help="where values go that memory has no room for (default: "
        "/var/tmp or the like, if that is on a disk with room; none: nowhere)",
    )
    _add_daemon_options(parser)


def _argument(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """An argparse type whose error message is the exception's own."""

    def parse(text: str) -> Any:
        try:
            return check(text)
        except (TypeError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


@_argument
def _address(text: str) -> str:
    return addresses.normalized(text, CENTER_PORT)


@_argument
def _address_of_any(text: str) -> str:
    if "?" not in text:
        return addresses.unparse(*addresses.parse(text, CENTER_PORT))
    addresses.split_via(text)
    return text


@_argument
def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port: a number from 0 to 65535")
    return int(text)


@_argument
def _at_least_one(text: str) -> int:
    most = SETTINGS.executors_max
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise ValueError(f"{checks.shown(text)} is not a number of cores: from 1 to {most}")
    return int(text)


@_argument
def _memory(text: str) -> int:
    return machine.parse_bytes(text)


@_argument
def _memory_or_none(text: str) -> int:
    return 0 if text.strip().lower() == "none" else machine.parse_bytes(text)


@_argument
def _resources(text: str) -> dict[str, int]:
    return resources.parse(text)


@_argument
def _host(text: str) -> str:
    try:
        return addresses.parse(addresses.unparse(text, 0))[0]
    except ValueError:
        shown = checks.shown(text)
        raise ValueError(f"{shown} is not a host: a name or an IP address of this machine, without a port") from None


@_argument
def _host_elsewhere(text: str) -> str:
    return addresses.host("--announce", text)


@_argument
def _name(text: str) -> str:
    return checks.text("the name", text)


@_argument
def _path(text: str) -> str:
    return checks.path("the path", text)


# ------------------------------------------------------------------------------------------------------------- daemons


def _run_center(arguments: argparse.Namespace) -> int:
    async def start(ending: Ending) -> Any:
        from distributed.center.server import Center

        center = Center(
            arguments.host, arguments.port, arguments.status_port, arguments.insecure_plaintext, arguments.tls
        )
        await ending.start(center)
        ending.say(_center_lines(center, arguments.ncores))
        if arguments.ncores is not None:
            from distributed.cluster.head import HeadWorker

            await ending.start(HeadWorker(center, *_head_options(arguments)))
        ending.say_ready(address=center.address, status_link=center.status_link)

    if arguments.memory_limit is not None and arguments.ncores is None:
        arguments.parser.error("argument --memory-limit: it is for the worker of a head node: give --ncores, too")
    _name_tls_file(arguments.tls_file)
    is_head = arguments.ncores is not None
    return run_daemon("dcenter", start, arguments.parent_fd, arguments.verbose, is_orderly=is_head)


def _head_options(arguments: argparse.Namespace) -> list[str]:
    """What the worker of a head node is told of the center's options."""
    limit = [] if arguments.memory_limit is None else ["--memory-limit", str(arguments.memory_limit)]
    return ["--ncores", str(arguments.ncores), *limit, *["--verbose"] * arguments.verbose]


def _name_tls_file(path: str | None) -> None:
    """For this process and what it starts: pools within tasks look for it in the same way."""
    if path is not None:
        os.environ["DISTRIBUTED_TLS_FILE"] = os.path.abspath(path)


def _run_worker(arguments: argparse.Namespace) -> int:
    async def start(ending: Ending) -> Any:
        from distributed.wire.security import find_secret
        from distributed.worker.server import Worker

        worker = Worker(
            arguments.center,
            arguments.host,
            arguments.port,
            ncores=arguments.ncores,
            memory_limit=arguments.memory_limit,
            task_memory_limit=arguments.task_memory_limit,
            name=arguments.name,
            directory=arguments.directory,
            spill_directory=arguments.spill_directory,
            insecure_plaintext=arguments.insecure_plaintext,
            announce=arguments.announce,
            via_center=arguments.via_center,
            resources=arguments.resources,
        )
        worker.place.check(find_secret().credential is not None)
        if arguments.parent_fd is None:  # else the center was there before us
            await ending.unless_ended(_reach(arguments.center))
        await ending.start(worker)
        ending.say(_worker_lines(worker, arguments.center))
        ending.say_ready(address=worker.address)

    _name_tls_file(arguments.tls_file)
    return run_daemon("dworker", start, arguments.parent_fd, arguments.verbose, is_orderly=True)


def _run_embedded(arguments: argparse.Namespace) -> int:
    async def start(ending: Ending) -> Any:
        from distributed.center.server import Center
        from distributed.worker.server import Worker

        center = Center(port=0, status_port=None)
        await ending.start(center)
        if arguments.ncores != 0:  # else they are all elsewhere
            await ending.start(Worker(center.address, ncores=arguments.ncores, memory_limit=arguments.memory_limit))
        ending.say_ready(address=center.address)

    return run_daemon("embedded", start, arguments.parent_fd, arguments.verbose)


async def _reach(center: str) -> None:
    """Wait until a center answers, for a while: it may be starting beside us. An unknown host fails at once."""
    from distributed.comm import connect
    from distributed.errors import AuthenticationFailed, VersionMismatch
    from distributed.wire.security import find_secret

    secret, loop = find_secret(), asyncio.get_running_loop()
    deadline, is_first = loop.time() + SETTINGS.connect_timeout_s, True
    while True:
        try:
            connection = await connect(center, role="worker", secret=secret, expects="center")
            connection.close()
            return
        except (AuthenticationFailed, VersionMismatch):
            raise
        except ConnectionFailed as error:
            if isinstance(error.__cause__, socket.gaierror):
                raise
            if loop.time() + SETTINGS.reconnect_interval_s > deadline:
                reason = f"no center within {SETTINGS.connect_timeout_s:g} s: {error.reason}"
                raise ConnectionFailed(center, reason) from error
            if is_first:
                reason = error.reason if error.reason.endswith("?") else f"{error.reason}."
                print(f"{center}: {reason} Trying on ...", file=sys.stderr, flush=True)
            is_first = False
            await asyncio.sleep(SETTINGS.reconnect_interval_s)


def _center_lines(center: Any, ncores: int | None) -> list[str]:
    from distributed.wire.security import secret_path

    host, port = addresses.parse(center.address)
    reachable = addresses.unparse(machine.name(), port) if host in addresses.EVERYWHERE else center.address
    return [
        f"Center at {center.address}",
        f"  secret   {secret_path()}" + (" (new)" if center.created_secret else ""),
        *(
            [f"  TLS      {center.tls_file}" + (" (new)" if center.created_credential else "")]
            if center.tls_file
            else []
        ),
        *([f"  status   {center.status_link}"] if center.status_link else []),
        *([f"  cores    {ncores} of this machine, for a worker beside the center"] if ncores is not None else []),
        f"  workers  join with: dworker {reachable}",
        f"  Python   from distributed import Pool; pool = Pool({reachable!r})",
    ]


def _worker_lines(worker: Any, center: str) -> list[str]:
    from distributed.wire.security import secret_path

    member, spill = worker.member, worker.spills_to
    beyond = f"what does not fit goes to {spill}" if spill else "nothing beyond that: there is no --spill-directory"
    return [
        f"Worker at {worker.address}",
        f"  center   {center}" + (", which leads everyone here" if member.relayed else ""),
        f"  cores    {member.ncores}",
        *([f"  has      {resources.told(member.resources.items())}"] if member.resources else []),
        f"  memory   {size(member.memory_limit)} for values, in {member.directory}; {beyond}",
        f"  secret   {secret_path()}",
        *([f"  TLS      {worker.tls_file}"] if worker.tls_file else []),
    ]


# -------------------------------------------------------------------------------------------------------------- status


def _run_status(arguments: argparse.Namespace) -> int:
    """Show what a center knows: its members, their cores, keys and bytes, and what runs now."""

    async def run() -> None:
        from distributed.rpc import rpc

        async with rpc(arguments.address, asynchronous=True) as there:
            status = await there.status()
        print(json.dumps(status, indent=2) if arguments.json else format_status(arguments.address, status))

    return exit_code("status", run)
