"""A machine that falls silent is noticed in time, whether or not something was sent to it; a stopped process is not.

Between network namespaces, whose link is taken down: no process ends, no socket is closed, nothing arrives any more.
"""

import os
import signal
import subprocess
import sys

import pytest

from tests.promises.test_large_values import namespaces, run, why_not

pytestmark = [pytest.mark.namespaces, pytest.mark.slow]

SILENT_S = 4.0
LISTEN = """
import socket, sys
listening = socket.create_server((sys.argv[1], 7000))
print("ready", flush=True)
accepted = []
while True:
    accepted.append(listening.accept())
"""
WATCH = """
import socket, sys, time
from distributed.connect import tune
sock = socket.create_connection((sys.argv[1], 7000))
tune(sock, float(sys.argv[2]))
sock.settimeout(3 * float(sys.argv[2]))
print("ready", flush=True)
if sys.stdin.readline() == "send\\n":
    sock.sendall(b"x" * 1000)
began = time.monotonic()
try:
    sock.recv(1)
except OSError:
    print(time.monotonic() - began, flush=True)
"""


def start(namespace, code, *arguments):
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("what", ["send", "wait", "stopped"])
def test_a_silent_machine_is_noticed_and_a_stopped_process_is_not(what):
    if reason := why_not():
        pytest.skip(reason)
    with namespaces("near", "far") as (names, addresses):
        listening = start(names["far"], LISTEN, addresses["far"])
        watching = start(names["near"], WATCH, addresses["far"], str(SILENT_S))
        try:
            if what == "stopped":
                os.kill(listening.pid, signal.SIGSTOP)
            else:
                run("ip", "-n", names["far"], "link", "set", "uplink", "down")
            noticed_s = float(watching.communicate(f"{what}\n", timeout=20 * SILENT_S)[0])
            if what == "stopped":
                assert noticed_s >= 3 * SILENT_S  # only the watcher's own patience ended
            else:
                assert noticed_s <= SILENT_S + 2
        finally:
            for process in (listening, watching):
                process.kill()
                process.communicate()
