"""Two machines on one: network namespaces with a cable between them, each with a shared memory that only it sees.

This process, and all that it starts from here on, is on the one; `there` starts something on the other. Both vanish
with their processes. Linux, as root.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess

from benchmarks.systems.base import Unsupported

HERE, THERE = "10.87.0.1", "10.87.0.2"
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
PRIVATE = "mount --make-rprivate / && mount -t tmpfs -o size=75% tmpfs /dev/shm"


class Machines(contextlib.ExitStack):
    """Separates this process from the rest of the machine, for good."""

    def __init__(self):
        super().__init__()
        if os.geteuid() != 0:
            raise Unsupported("only root makes network namespaces")
        for tool in ("ip", "unshare", "nsenter"):
            if not shutil.which(tool):
                raise Unsupported(f"there is no {tool!r} here: install iproute2 and util-linux")
        leave()
        run("sh", "-c", PRIVATE)
        command = ["unshare", "--net", "--mount", "sh", "-c", f"{PRIVATE} && echo ready && exec cat"]
        other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.callback(end, other)
        if other.stdout.readline() != b"ready\n":
            raise Unsupported("no second network namespace can be made here")
        self.enter = ("nsenter", "--target", str(other.pid), "--net", "--mount")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(other.pid))
        for address, prefix in ((HERE, ()), (THERE, self.enter)):
            run(*prefix, "ip", "address", "add", f"{address}/24", "dev", "cable")
            run(*prefix, "ip", "link", "set", "cable", "up")
        run(*self.enter, "ip", "link", "set", "lo", "up")

    def here(self, *command, **options):
        """A process on this machine, ended with this object."""
        process = subprocess.Popen(command, **options)
        self.callback(end, process)
        return process

    def there(self, *command, **options):
        """A process on the other machine."""
        return self.here(*self.enter, *command, **options)


def leave():
    """Leave the machine's network, and see no more of what is mounted later."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET | CLONE_NEWNS):
        raise Unsupported(f"no network namespaces here: {os.strerror(ctypes.get_errno())}")


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unsupported(f"no network namespaces here: {done.stderr.strip()}")


def end(process):
    process.terminate()
    process.wait()
