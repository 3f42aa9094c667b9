"""W4 between two machines: two network namespaces with a cable, and nothing shared but that

One worker beside the client, one on the other machine. `bound` is a plain blocking socket from one to the other, which
is read into memory that is there already, and summed. Needs root.
"""

import contextlib
import socket
import ssl
import subprocess
import sys
import time

import numpy as np

from benchmarks import blocks, machine
from benchmarks.machines import HERE, THERE, Machines
from benchmarks.systems import OURS
from benchmarks.systems.base import Unsupported
from benchmarks.workloads import require_equal, scaled
from benchmarks.workloads.w04_arrays import FIGURES, HEATED, NBYTES  # noqa: F401

SYSTEMS = [OURS, "dask"]
HAS_BOUND = True
PORT = 8790
PATIENCE_S = 30
RECEIVE_BYTES = 4 << 20
PYTHON = sys.executable
DAEMONS = {
    "ours": (
        (PYTHON, "-m", "distributed", "center", "--host", "{}", "--port", str(PORT), "--insecure-plaintext"),
        (PYTHON, "-m", "distributed", "worker", f"{HERE}:{PORT}", "--host", "{}", "--ncores", "1")
        + ("--insecure-plaintext",),
    ),
    "dask": (
        ("dask", "scheduler", "--host", "{}", "--port", str(PORT), "--no-dashboard"),
        ("dask", "worker", f"tcp://{HERE}:{PORT}", "--host", "{}", "--nthreads", "1", "--no-nanny", "--no-dashboard"),
    ),
}
"""What starts a system's center, and its workers, at an address."""


def run(open_system, scale, seed):
    nbytes = scaled(NBYTES >> 3, scale, least=1 << 17) << 3
    with Machines() as machines:
        if open_system is None:
            return measure(plain_socket(machines), nbytes, seed)
        system = started(machines, open_system, DAEMONS[open_system.name])
        machines.callback(system.close)
        return measure(ways_of(system, *numbers(system)), nbytes, seed)


def ways_of(system, near, far):
    return {
        "to worker": lambda *which: to_worker(system, far, *which),
        "to client": lambda *which: to_client(system, far, *which),
        "worker to worker": lambda *which: between(system, near, far, *which),
    }


def measure(ways, nbytes, seed):
    figures = {}
    for name, way in ways.items():
        way(nbytes, seed * 10)  # connections, imports, buffers
        machine.heat(HEATED * nbytes)
        figures[name] = nbytes / way(nbytes, seed * 10 + 1) / 1e9
    return figures


def started(machines, open_system, daemons):
    """A client of a system with a worker on each machine."""
    center, worker = daemons
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    machines.here(*at(HERE, center), **quiet)
    wait_until(lambda: answers(HERE), "the center answers")
    machines.here(*at(HERE, worker), **quiet)
    machines.there(*at(THERE, worker), **quiet)
    prefix = "tcp://" if open_system.name == "dask" else ""
    system = open_system.load().connect(f"{prefix}{HERE}:{PORT}")
    wait_until(lambda: len(addresses(system)) == 2, "both workers are there")
    return system


def at(address, command):
    return [word.format(address) for word in command]


def answers(host):
    with contextlib.suppress(OSError):
        socket.create_connection((host, PORT), timeout=1).close()
        return True
    return False


def wait_until(holds, what):
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise Unsupported(f"after {PATIENCE_S} s it is not so that {what}")
        time.sleep(0.02)


def addresses(system):
    """Of the workers, in the order of their numbers."""
    if hasattr(system, "pool"):
        return list(system.pool.workers)
    return sorted(system.client.scheduler_info(n_workers=-1)["workers"])


def numbers(system):
    """Of the worker here, and of the other one."""
    (near,) = (number for number, address in enumerate(addresses(system)) if HERE in address)
    return near, 1 - near


def to_worker(system, far, nbytes, seed):
    array = blocks.make(seed, nbytes)
    expected = blocks.checksum(array)
    began_s = time.perf_counter()
    found = system.value(system.start_at(far, blocks.checksum, array))
    elapsed_s = time.perf_counter() - began_s
    require_equal(found, expected, "the sum at the worker")
    return elapsed_s


def to_client(system, far, nbytes, seed):
    expected = system.value(system.start_at(far, blocks.keep, seed, nbytes))
    began_s = time.perf_counter()
    found = blocks.checksum(system.value(system.start_at(far, blocks.give, seed)))
    elapsed_s = time.perf_counter() - began_s
    require_equal(found, expected, "the sum at the client")
    return elapsed_s


def between(system, near, far, nbytes, seed):
    expected = system.value(system.start_at(near, blocks.keep, seed, nbytes))
    began_s = time.perf_counter()
    given = system.start_at(near, blocks.give, seed)
    found = system.value(system.start_at(far, blocks.checksum, given))
    elapsed_s = time.perf_counter() - began_s
    require_equal(found, expected, "the sum at the other worker")
    return elapsed_s


# ------------------------------------------------------------------------------------------------- nothing but a socket


def plain_socket(machines):
    listener = machines.enter_context(socket.create_server((HERE, PORT)))
    machines.there(PYTHON, "-m", "benchmarks.workloads.w04_between_machines")
    return socket_ways(machines.enter_context(listener.accept()[0]))


def socket_ways(sock):
    """The ways of a bare socket: what goes to a worker or from one to another is the same, there and back."""

    def give(nbytes, seed):
        array = blocks.make(seed, nbytes)
        expected = blocks.checksum(array)
        began_s = time.perf_counter()
        sock.sendall(np.array([1, nbytes, seed], np.uint64))
        sock.sendall(array)
        found = int(read(sock, np.empty(1, np.uint64))[0])
        elapsed_s = time.perf_counter() - began_s
        require_equal(found, expected, "the sum there")
        return elapsed_s

    def take(nbytes, seed):
        array = np.ones(nbytes >> 3, np.uint64)
        sock.sendall(np.array([0, nbytes, seed], np.uint64))
        expected = int(read(sock, np.empty(1, np.uint64))[0])
        began_s = time.perf_counter()
        sock.sendall(b"g")
        found = blocks.checksum(read(sock, array))
        elapsed_s = time.perf_counter() - began_s
        require_equal(found, expected, "the sum here")
        return elapsed_s

    return {"to worker": give, "to client": take, "worker to worker": give}


def read(sock, array):
    view = memoryview(array).cast("B")
    flags = () if isinstance(sock, ssl.SSLSocket) else (socket.MSG_WAITALL,)
    while view:
        count = sock.recv_into(view, min(len(view), RECEIVE_BYTES), *flags)
        if not count:
            raise SystemExit
        view = view[count:]
    return array


def other_end(wrap=lambda sock: sock):
    """The other machine's part: sum what comes, or send."""
    sock = wrap(socket.create_connection((HERE, PORT)))
    kept = {}
    while True:
        is_given, nbytes, seed = map(int, read(sock, np.empty(3, np.uint64)))
        if is_given:
            array = kept.setdefault(nbytes, np.ones(nbytes >> 3, np.uint64))
            sock.sendall(np.array([blocks.checksum(read(sock, array))], np.uint64))
        else:
            array = blocks.make(seed, nbytes)
            sock.sendall(np.array([blocks.checksum(array)], np.uint64))
            read(sock, np.empty(1, np.uint8))
            sock.sendall(array)


if __name__ == "__main__":
    other_end()
