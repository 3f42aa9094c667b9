"""W4 between two machines with TLS: what `dcenter --tls` sends, beside a bare socket of Python's ssl

As W4n: two network namespaces, one worker in each. `bound` is a blocking `ssl` socket with the same certificate and
cipher, read into memory that is there already. Needs root, and the package cryptography.
"""

import os
import socket
import ssl
import sys
import tempfile
from pathlib import Path

from benchmarks.machines import HERE, Machines
from benchmarks.systems import OURS
from benchmarks.systems.base import Unsupported
from benchmarks.workloads import scaled
from benchmarks.workloads.w04_arrays import FIGURES, NBYTES  # noqa: F401
from benchmarks.workloads.w04_between_machines import (
    PORT,
    PYTHON,
    measure,
    numbers,
    other_end,
    socket_ways,
    started,
    ways_of,
)

SYSTEMS = [OURS]
HAS_BOUND = True
DAEMONS = (
    (PYTHON, "-m", "distributed", "center", "--host", "{}", "--port", str(PORT), "--tls"),
    (PYTHON, "-m", "distributed", "worker", f"{HERE}:{PORT}", "--host", "{}", "--ncores", "1"),
)


def run(open_system, scale, seed):
    nbytes = scaled(NBYTES >> 3, scale, least=1 << 17) << 3
    with tempfile.TemporaryDirectory() as directory, Machines() as machines:
        os.environ["DISTRIBUTED_SECRET_FILE"] = f"{directory}/secret"
        if open_system is None:
            return measure(bare_ssl(machines, Path(directory)), nbytes, seed)
        system = started(machines, open_system, DAEMONS)
        machines.callback(system.close)
        return measure(ways_of(system, *numbers(system)), nbytes, seed)


def bare_ssl(machines, directory):
    try:
        from distributed.wire.credential import find_or_create_credential
    except ImportError as error:
        raise Unsupported("to create a certificate takes the package cryptography") from error
    pem = directory / "tls.pem"
    find_or_create_credential(pem)
    listener = machines.enter_context(socket.create_server((HERE, PORT)))
    machines.there(PYTHON, "-m", "benchmarks.workloads.w04_encrypted", str(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    sock = machines.enter_context(context.wrap_socket(listener.accept()[0], server_side=True))
    return socket_ways(sock)


if __name__ == "__main__":
    context = ssl.create_default_context(cafile=sys.argv[1])
    context.check_hostname = False
    other_end(context.wrap_socket)
