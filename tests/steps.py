"""What a call takes, counted in the interpreter's instructions: as exact as a clock is not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def steps_of(function: Callable[[], Any]) -> int:
    """How many instructions of the interpreter a call takes."""
    steps = 0

    def follow(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return follow

    sys.settrace(follow)
    try:
        function()
    finally:
        sys.settrace(None)
    return steps
