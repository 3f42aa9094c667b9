"""The progress cell: memory that an executor and its agent share, in which the executor says what it is running.

The executor writes the serial number and the start of each task before it begins, so that after a crash, or while the
task holds the interpreter for an hour, the agent knows which one it is; and whether it is still at the
initializer of the task's pool. Behind that first page the file holds whatever
`faulthandler` wrote: where each thread was when the executor crashed, or when it was asked.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct

PAGE_BYTES = 4096
STACK_BYTES_MAX = 64 * 1024
STACK_SIGNAL = int(getattr(signal, "SIGRTMAX", signal.SIGUSR2)) - 2  # asks an executor to write down where it is

_OWN_FRAME = "/distributed/worker/executor"
_OWN_THREAD = "/distributed/worker/"
_CELL = struct.Struct("<Qd")  # serial + 1 (0: nothing is running), start on the machine's monotonic clock
_INITIALIZES_AT = _CELL.size
write_into = _CELL.pack_into  # (memory, 0, serial + 1, start_s): for loops in which a method call would be felt


def without_own_frames(stack: str) -> str:
    """A stack without the frames of the executor, which are the last ones of its thread; without that, if none is left.

    Nor has it other threads of the executor's.

    >>> print(without_own_frames('Thread 1:\\n  File "user.py"\\n  File "/distributed/worker/executor.py"'))
    Thread 1:
      File "user.py"
    >>> without_own_frames('Thread 2:\\n  File "threading.py"\\n  File "/distributed/worker/outcomes.py"')
    ''
    """
    threads = []
    for thread in stack.split("\n\n"):
        lines = thread.splitlines()
        own = next((number for number, line in enumerate(lines) if _OWN_FRAME in line), len(lines))
        if own == len(lines) and _OWN_THREAD in thread:
            continue
        threads.append("\n".join(lines[:own]))
    return "\n\n".join(thread for thread in threads if "\n" in thread and not thread.startswith("Extension modules:"))


class Cell:
    """One side's view of a progress cell."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.memory = mmap.mmap(descriptor, PAGE_BYTES)

    @classmethod
    def create(cls) -> Cell:
        """A new cell; pass its `descriptor` on to the executor."""
        descriptor = os.memfd_create("progress", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, PAGE_BYTES)
            os.lseek(descriptor, PAGE_BYTES, os.SEEK_SET)  # where a stack will be written
            return cls(descriptor)
        except OSError:
            os.close(descriptor)
            raise

    def write(self, serial: int, start_s: float) -> None:
        """Say that a task runs since `start_s`."""
        write_into(self.memory, 0, serial + 1, start_s)

    def clear(self) -> None:
        """Say that nothing runs."""
        write_into(self.memory, 0, 0, 0.0)

    @property
    def initializes(self) -> bool:
        """Whether the executor is calling the initializer of a pool, before a task."""
        return bool(self.memory[_INITIALIZES_AT])

    @initializes.setter
    def initializes(self, yes: bool) -> None:
        self.memory[_INITIALIZES_AT] = yes

    def read(self) -> tuple[int, float] | None:
        """The running task's serial number and start, or None.

        >>> cell = Cell.create()
        >>> cell.read()
        >>> cell.write(7, 1.5)
        >>> cell.read()
        (7, 1.5)
        """
        serial, start_s = _CELL.unpack_from(self.memory, 0)
        return (serial - 1, start_s) if serial else None

    def stack(self) -> str:
        """What `faulthandler` wrote, if it did."""
        return without_own_frames(os.pread(self.descriptor, STACK_BYTES_MAX, PAGE_BYTES).decode(errors="replace"))

    def close(self) -> None:
        """Forget this side's view."""
        self.memory.close()
        os.close(self.descriptor)
