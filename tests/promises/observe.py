"""What the tests of promises look at: processes and their memory, daemons in terminals, stores that should be empty.

Everything here asks the kernel or the daemons; nothing believes what a pool says of itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distributed import rpc

PATIENCE_S = 20.0
MIB = 1 << 20


def until(is_true: Callable[[], Any], patience_s: float = PATIENCE_S) -> bool:
    """Whether it becomes true within a generous time: for what happens in other processes, which tell nobody."""
    deadline = time.monotonic() + patience_s
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def memory_bytes(pid: int, field: str = "RssAnon") -> int:
    """A process's memory by the kernel's account: RssAnon, VmRSS, VmHWM, ..."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def open_files(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def keys_at_center(center: str) -> set[str]:
    """Every key that the center believes to be somewhere."""
    with rpc(center) as there:
        return {key for keys in there.has_what().values() for key in keys}


def agent_pids(center: str) -> dict[str, int]:
    """The process of each agent, by address."""
    with rpc(center) as there:
        addresses = list(there.ncores())
    pids = {}
    for address in addresses:
        with rpc(address) as agent:
            pids[address] = agent.status()["pid"]
    return pids


def contents(center: str) -> dict[str, list[str]]:
    """What the stores still hold: keys by worker, and value files by directory; {} when all are empty."""
    found: dict[str, list[str]] = {}
    with rpc(center) as there:
        members = there.status()["members"]
    for member in members:
        with rpc(member["address"]) as agent:
            status = agent.status()
        held = [str(status[name]) for name in ("keys", "stored_bytes") if status[name]]
        if held:
            found[member["address"]] = held
    if keys := keys_at_center(center):
        found["center"] = sorted(keys)[:10]
    return found


# ------------------------------------------------------------------------------------------------ daemons in terminals


class Terminal:
    """A command as somebody types it; what it prints is kept. With `log`, a file, its stderr goes there."""

    def __init__(
        self, *arguments: str, prefix: tuple[str, ...] = (), log: Path | None = None, **environment: str
    ) -> None:
        with contextlib.ExitStack() as stack:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "distributed", *arguments],
                stdout=subprocess.PIPE,
                stderr=stack.enter_context(log.open("w")) if log is not None else subprocess.PIPE,
                text=True,
                env={**os.environ, **environment},
            )

    def said(self, lines: int = 5) -> dict[str, str]:
        """The start lines by their first word; `Center` and `Worker` give the address."""
        assert self.process.stdout is not None
        read = [self.process.stdout.readline() for _ in range(lines)]
        if not all(read):
            self.process.kill()
            raise AssertionError(f"it said {read}, and then: {self.process.communicate()}")
        return dict(line.strip().replace(" at ", "  ").split(None, 1) for line in read)

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        """Send a signal; exit code, and what was printed since the start lines."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err

    def kill(self) -> None:
        """Whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def terminals() -> Iterator[Callable[..., Terminal]]:
    """Opens terminals; those that a failing test leaves are closed."""
    opened: list[Terminal] = []

    def open_one(*arguments: str, **environment: Any) -> Terminal:
        opened.append(Terminal(*arguments, **environment))
        return opened[-1]

    try:
        yield open_one
    finally:
        for terminal in opened:
            terminal.kill()
