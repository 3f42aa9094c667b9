"""Cables that delay, lose and reorder packets: a program between network namespaces that passes frames on as told.

The kernel's own means for that (netem) are not in every kernel. Here each machine's cable ends in a namespace in
which one process reads every frame and writes it, later or never, to the cables that it is meant for.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.promises.machines import Machines
from tests.promises.test_large_values import run, why_not

EVERYTHING = 0x0003  # ETH_P_ALL
SIOCETHTOOL = 0x8946
OFFLOADS = {"checksums": 0x17, "segmentation": 0x1F, "generic segmentation": 0x24}
FRAME_BYTES = 1 << 16
OUTGOING = 4


def switch(interfaces: list[str]) -> None:
    """Pass frames on between these interfaces, as the last line of stdin says; on 'lost' tell how many were not."""
    sockets = {name: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERYTHING)) for name in interfaces}
    for name, sock in sockets.items():
        sock.bind((name, EVERYTHING))
        sock.setblocking(False)
    told: dict[str, float] = {}
    lost, number = 0, 0
    later: list[tuple[float, int, Any, bytes]] = []
    dice = random.Random(0)
    print("ready", flush=True)
    while True:
        patience_s = max(0.0, later[0][0] - time.monotonic()) if later else None
        ready, _, _ = select.select([sys.stdin, *sockets.values()], [], [], patience_s)
        for sock in ready:
            if sock is sys.stdin:
                line = sys.stdin.readline()
                if not line:
                    return
                told = json.loads(line) if line.strip() != "lost" else told
                print(lost, flush=True)
                continue
            for _ in range(64):
                try:
                    frame, (_, _, kind, _, _) = sock.recvfrom(FRAME_BYTES)
                except BlockingIOError:
                    break
                if kind == OUTGOING:
                    continue
                if dice.random() < told.get("loss", 0.0):
                    lost += 1
                    continue
                due = time.monotonic() + told.get("delay_s", 0.0) + dice.random() * told.get("jitter_s", 0.0)
                for other in sockets.values():
                    if other is not sock:
                        number += 1
                        heapq.heappush(later, (due, number, other, frame))
        now = time.monotonic()
        while later and later[0][0] <= now:
            _, _, other, frame = heapq.heappop(later)
            with contextlib.suppress(OSError):
                other.send(frame)


def without_offloads(interface: str) -> None:
    """Checksums are made and packets are cut before they leave, as on a real cable."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in OFFLOADS.values():
            value = array.array("B", struct.pack("II", command, 0))
            request = struct.pack("16sP", interface.encode(), value.buffer_info()[0])
            fcntl.ioctl(sock.fileno(), SIOCETHTOOL, request)


class Cables(Machines):
    """Machines whose cables end in a switch of ours."""

    def __init__(self, stack: contextlib.ExitStack, names: tuple[str, ...]) -> None:
        self._stack, self._environment = stack, {}
        names = ("hub", *names)
        self.full = {name: f"distributed-{os.getpid()}-{name}" for name in (*names, "switch")}
        self.addresses = {name: f"10.88.0.{number}" for number, name in enumerate(names, start=1)}
        self._uplinks = dict.fromkeys(names, "uplink")
        for name in self.full.values():
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "del", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        for name in names:
            peer = ("peer", "uplink", "netns", self.full[name])
            self.ip("switch", "link", "add", f"to-{name}", "type", "veth", *peer)
            self.ip("switch", "link", "set", f"to-{name}", "up")
            self.ip(name, "address", "add", f"{self.addresses[name]}/24", "dev", "uplink")
            self.ip(name, "link", "set", "uplink", "up")
            self._python(name, "without_offloads('uplink')").communicate()
        self._switch = self._python("switch", f"switch({[f'to-{name}' for name in names]!r})")
        stack.callback(self._end)
        assert self._switch.stdout is not None
        assert self._switch.stdout.readline() == "ready\n"

    def _python(self, name: str, call: str) -> subprocess.Popen[str]:
        code = f"from tests.promises.cable import *; {call}"
        command = ["ip", "netns", "exec", self.full[name], sys.executable, "-c", code]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _end(self) -> None:
        self._switch.kill()
        self._switch.communicate()

    def _tell(self, line: str) -> int:
        assert self._switch.stdin is not None and self._switch.stdout is not None
        self._switch.stdin.write(line + "\n")
        self._switch.stdin.flush()
        return int(self._switch.stdout.readline())

    def impair(self, **how: float) -> None:
        """From now on packets take `delay_s` and up to `jitter_s` more, each its own; a part `loss` goes nowhere."""
        self._tell(json.dumps(how))

    def lost(self) -> int:
        """How many packets were lost so far."""
        return self._tell("lost")


@contextlib.contextmanager
def cables(*names: str) -> Iterator[Cables]:
    """Machines with these names beside the first one, 'hub'. Skips the test where they cannot be made."""
    if reason := why_not():
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        yield Cables(stack, names)
