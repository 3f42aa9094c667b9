"""An exception as bytes: itself, and beside it what can always be said of it in words.

The words (type, message, traceback) travel as text, so that an exception that cannot be pickled, or not unpickled on
the other side, still tells what happened. How the object itself is pickled is said in `pickles`.
"""

from __future__ import annotations

import io
import pickle
import re
import traceback
from typing import Any, Final

import msgpack

from distributed.config import SETTINGS
from distributed.errors import ProtocolError, RemoteError
from distributed.quantities import size
from distributed.wire.pickles import ByValuePickler

TRACEBACK_CHARACTERS_MAX: Final = 100_000
WORDS_CHARACTERS_MAX: Final = 500
NEXT: Final = "\nThe above exception was the direct cause of the following exception:\n\n"  # as Python has it
AGAIN: Final = re.compile(r"\[The last traceback (\d+) more times, task within task\]\n\Z")


def note(error: BaseException, words: str) -> None:
    """Say below the error's message where foreign code raised it: nobody sees that unpickling was going on."""
    try:
        error.add_note(f"(raised while {words})")
    except Exception:  # noqa: BLE001  a class may refuse attributes
        pass


def note_unpickling(error: BaseException, what: str) -> None:
    """Say that an executor unpickled something; what it could not import can be sent to it.

    >>> error = ModuleNotFoundError("No module named 'model'")
    >>> note_unpickling(error, 'the function was')
    >>> error.__notes__
    ['(raised while the function was unpickled in the executor: pool.upload(path) sends a module along)']
    """
    advice = ": pool.upload(path) sends a module along" if isinstance(error, ModuleNotFoundError) else ""
    note(error, f"{what} unpickled in the executor{advice}")


class RemoteTraceback(Exception):
    """Where a remote exception was raised, as text; it is the ``__cause__`` of the exception."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""' if self.args else ""


RemoteTraceback.__module__ = "distributed"  # what a printed traceback shows


def pack_exception(error: BaseException) -> bytes:
    """Pack an exception with its traceback and its chain of causes as text. Never raises an exception of its own."""
    text = _in_words(error)
    try:
        file = _Limited()
        ByValuePickler(file, lambda buffer: True).dump(error)
        pickled, refusal = file.getvalue(), ""
    except _TooLarge:
        pickled, refusal = b"", f"its pickle has more than {size(SETTINGS.exception_bytes_max)}"
    except Exception as reason:  # noqa: BLE001 - foreign code
        pickled, refusal = b"", f"it cannot be pickled: {type(reason).__name__}: {reason}"
    packed: bytes = msgpack.packb(
        [_name(type(error)), _message(error), text, refusal, pickled], unicode_errors="replace"
    )
    return packed


class _TooLarge(Exception):
    """An exception is sent inside of a message, which others have to wait for."""


class _Limited(io.BytesIO):
    """A file that takes so much and no more."""

    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > SETTINGS.exception_bytes_max:
            raise _TooLarge
        return super().write(data)


def unpack_exception(data: bytes | memoryview) -> BaseException:
    """The exception itself, or a `RemoteError` that tells of it; its cause is the remote traceback."""
    try:
        name, message, text, refusal, pickled = msgpack.unpackb(data)
    except Exception as reason:  # msgpack raises a dozen kinds
        raise ProtocolError("a packed exception cannot be read") from reason
    error: object = None
    if pickled:
        try:
            error = pickle.loads(pickled)
            refusal = f"its pickle gives a {type(error).__name__}"
        except KeyboardInterrupt:
            raise
        except BaseException as reason:  # noqa: BLE001 - foreign code, which may also want to exit
            refusal = f"it cannot be unpickled here: {type(reason).__name__}: {reason}"
    if not isinstance(error, BaseException):
        error = RemoteError(name, message, text, refusal)
    if text:
        BaseException.__setattr__(error, "__cause__", RemoteTraceback(text))
    return error


def words_of(data: bytes) -> str:
    """The first line of what a packed exception says of itself; nothing is unpickled.

    >>> words_of(pack_exception(ValueError('x is wrong')))
    'ValueError: x is wrong'
    """
    try:
        name, message, *_ = msgpack.unpackb(data)
        line = str(message).partition("\n")[0][:WORDS_CHARACTERS_MAX]
    except Exception:  # noqa: BLE001  msgpack raises a dozen kinds
        return "an exception that cannot be read"
    return f"{name}: {line}" if line else str(name)


def traceback_of(data: bytes) -> str:
    """The traceback in a packed exception, or nothing; nothing is unpickled."""
    try:
        return str(msgpack.unpackb(data)[2]).rstrip()
    except Exception:  # noqa: BLE001  msgpack raises a dozen kinds
        return ""


def _name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ in ("builtins", "__main__") else f"{cls.__module__}.{cls.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error)[:TRACEBACK_CHARACTERS_MAX]
    except Exception as reason:  # noqa: BLE001 - foreign code
        return f"<its __str__ raised {type(reason).__name__}>"


def _in_words(error: BaseException) -> str:
    """The traceback as Python prints it, its middle left out if it is endless."""
    try:
        before = error.__cause__
        if isinstance(before, RemoteTraceback) and before.args:
            text = _passed_on(before.args[0], error)
        else:
            text = "".join(traceback.format_exception(error))
    except Exception as reason:  # noqa: BLE001 - foreign code
        return f"{_name(type(error))}: {_message(error)} (no traceback: {type(reason).__name__})\n"
    half = TRACEBACK_CHARACTERS_MAX // 2
    return text if len(text) <= 2 * half else f"{text[:half]}\n[...]\n{text[-half:]}"


def _passed_on(before: str, error: BaseException) -> str:
    """The traceback of a task within whose task it was raised. The same one again and again is told once."""
    if error.__traceback__ is None:
        return before
    own = "".join(traceback.format_exception(error, chain=False))
    again = AGAIN.search(before)
    times = int(again[1]) if again else 0
    blocks = before[: again.start()] if again else before
    if blocks.endswith(NEXT + own):
        return f"{blocks}[The last traceback {times + 1} more times, task within task]\n"
    return f"{before}{NEXT}{own}"
