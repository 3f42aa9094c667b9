"""The agent's end of an executor: what it prints is taken in pieces, so that nobody can keep the agent reading."""

from __future__ import annotations

import os

from distributed.worker.child import Stream


def test_who_prints_faster_than_it_is_read_does_not_keep_the_reader() -> None:
    shown: list[str] = []

    def print_on(name: str, text: str) -> bool:
        shown.append(text)
        assert len(shown) < 10, "it reads for ever"
        os.write(stream.writer, b"y\n" * 4000)
        return True

    stream = Stream("stdout", print_on)
    try:
        os.write(stream.writer, b"y\n" * 4000)
        assert stream.drain()
        assert shown == ["y\n" * 4000]
    finally:
        stream.close()


def test_all_that_a_pipe_holds_is_taken_at_once() -> None:
    shown: list[str] = []
    stream = Stream("stdout", lambda name, text: shown.append(text) is None)
    try:
        os.set_blocking(stream.writer, False)
        written = os.write(stream.writer, b"n" * (1 << 20))
        assert stream.drain()
        assert len("".join(shown)) == written
    finally:
        stream.close()
