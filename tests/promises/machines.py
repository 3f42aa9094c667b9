"""Programs and daemons on machines of their own: network namespaces whose cables can be cut, deafened and mended.

A machine's addresses are reached over a bridge. `cut` takes its cable out: nothing is closed, nothing arrives any more.
`deafen` lets one machine's packets to another vanish while those the other way still come. All of it ends with the
test. `Program` is a client in a process of its own, on one of these machines or here, that is spoken to in lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.promises.observe import Terminal
from tests.promises.test_large_values import apart, namespaces, run, why_not

NOBODY = "02:00:00:00:00:99"  # an address on the wire that no machine has


class Program:
    """A function of a test's module, called as ``function(hear, say, *arguments)`` in another process.

    There `hear()` gives the next line that was said to it, and `say(x)` answers with anything that JSON can carry.
    """

    def __init__(
        self, function: Callable[..., Any], *arguments: Any, prefix: tuple[str, ...] = (), **environment: Any
    ) -> None:
        code = f"from tests.promises.machines import play; play({function.__module__!r}, {function.__name__!r})"
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        )

    def hear(self) -> Any:
        """What it says next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended with code {self.process.wait()}"
        return json.loads(line)

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def ask(self, word: str) -> Any:
        self.say(word)
        return self.hear()

    def end(self) -> int:
        """Let it go on until it ends; its exit code."""
        self.process.communicate()
        return self.process.returncode

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        if self.process.stdout is not None and not self.process.stdout.closed:
            self.process.communicate()


def play(module: str, function: str) -> None:
    """The other side of `Program`. Its stdout is for answers alone: what tasks print goes elsewhere."""
    import importlib

    answers, sys.stdout = sys.stdout, sys.stderr
    part = getattr(importlib.import_module(module), function)
    part(
        lambda: sys.stdin.readline().strip(),
        lambda said: print(json.dumps(said), file=answers, flush=True),
        *sys.argv[1:],
    )


class Machines:
    """Machines by name, each with an address and a shared memory of its own."""

    def __init__(self, stack: contextlib.ExitStack, names: tuple[str, ...], environment: dict[str, Any]) -> None:
        self._stack, self._environment = stack, {name: str(value) for name, value in environment.items()}
        self.full, self.addresses = stack.enter_context(namespaces("hub", *names))
        self._uplinks = dict.fromkeys(names, "uplink")

    def daemon(self, name: str, *arguments: str) -> tuple[Terminal, str]:
        """A center or worker there, and its address."""
        place = ["--host", self.addresses[name], "--insecure-plaintext"]
        return self.start(name, *arguments, *place)

    def start(self, name: str, *arguments: str) -> tuple[Terminal, str]:
        """The same where it listens as it likes."""
        terminal = Terminal(*arguments, prefix=apart(self.full[name]), **self._environment)
        self._stack.callback(terminal.kill)
        said = terminal.said()
        return terminal, said.get("Center") or said["Worker"]

    def program(self, name: str, function: Callable[..., Any], *arguments: Any) -> Program:
        """A client there."""
        prefix = apart(self.full[name])
        return self._stack.enter_context(Program(function, *arguments, prefix=prefix, **self._environment))

    def ip(self, name: str, *arguments: str) -> None:
        run("ip", "-n", self.full[name], *arguments)

    def cut(self, name: str) -> None:
        """Take out its cable."""
        self.ip(name, "link", "set", self._uplinks[name], "down")

    def mend(self, name: str) -> None:
        """Put it in again."""
        self.ip(name, "link", "set", self._uplinks[name], "up")

    def deafen(self, name: str, to: str) -> None:
        """What `name` sends to `to` is lost from now on; what comes from there still comes."""
        device = self._uplinks.get(name, "bridge")
        self.ip(name, "neigh", "replace", self.addresses[to], "lladdr", NOBODY, "dev", device, "nud", "permanent")

    def hearken(self, name: str, to: str) -> None:
        """It arrives again."""
        self.ip(name, "neigh", "del", self.addresses[to], "dev", self._uplinks.get(name, "bridge"))


@contextlib.contextmanager
def machines(*names: str, **environment: Any) -> Iterator[Machines]:
    """Machines with these names beside the first one, 'hub'. Skips the test where they cannot be made."""
    if reason := why_not():
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        yield Machines(stack, names, environment)


class Islands(Machines):
    """Machines that reach the hub and nobody else, each by a cable of its own, in a network that others lack."""

    def __init__(self, stack: contextlib.ExitStack, names: tuple[str, ...], environment: dict[str, Any]) -> None:
        self._stack, self._environment = stack, {name: str(value) for name, value in environment.items()}
        self.full = {name: f"distributed-{os.getpid()}-{name}" for name in ("hub", *names)}
        self.addresses, self.hubs = {"hub": "0.0.0.0"}, {"hub": "127.0.0.1"}
        self._uplinks = dict.fromkeys(names, "uplink")
        for name in self.full.values():
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "del", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        for number, name in enumerate(names, start=1):
            self.hubs[name], self.addresses[name] = f"10.86.{number}.1", f"10.86.{number}.2"
            self.ip("hub", "link", "add", f"to{number}", "type", "veth", "peer", "uplink", "netns", self.full[name])
            for end, device, address in (
                ("hub", f"to{number}", self.hubs[name]),
                (name, "uplink", self.addresses[name]),
            ):
                self.ip(end, "address", "add", f"{address}/24", "dev", device)
                self.ip(end, "link", "set", device, "up")

    def lead_astray(self) -> None:
        """What they send to one another goes to the hub, which passes nothing on, and says nothing."""
        run("ip", "netns", "exec", self.full["hub"], "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
        for name in self._uplinks:
            self.ip(name, "route", "add", "10.86.0.0/16", "via", self.hubs[name])

    def center_from(self, name: str, center: str) -> str:
        """The hub's center, as it is known on this machine."""
        return f"{self.hubs[name]}:{center.rpartition(':')[2]}"


@contextlib.contextmanager
def islands(*names: str, **environment: Any) -> Iterator[Islands]:
    """Islands with these names around the 'hub'. Skips the test where they cannot be made."""
    if reason := why_not():
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        yield Islands(stack, names, environment)
