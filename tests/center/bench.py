"""A center's mind on a bench: events in, instructions out, and nothing else there."""

from __future__ import annotations

import dataclasses

from distributed.center.events import Broadcast, Instruction, Received, Say, Send, Tell, Tick
from distributed.center.state import CenterState
from distributed.config import SETTINGS
from distributed.wire import codec
from distributed.wire import messages as m

ALICE, BOB = "aaaaaaaaaaaa", "bbbbbbbbbbbb"


def member(address: str, incarnation: str = "one", **changes) -> m.Member:
    return m.Member(address, incarnation, address, 2, 1000, versions={"python": "3.11"}, **changes)


class Bench:
    """A center in a world of fake connections; every message passes through the real codec, both ways."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.state = CenterState(started=0.0)
        self.state.handle(Tick(), 0.0)  # so it is old enough to know all that there are

    def say(self, connection: int, message: m.Message, request: int = 0) -> list[Instruction]:
        return self.event(Received(connection, *codec.decode(codec.encode_header(message, request))))

    def event(self, event) -> list[Instruction]:
        out = [travelled(instruction) for instruction in self.state.handle(event, self.now)]
        self.state.check()
        return [instruction for instruction in out if not isinstance(instruction, Say)]

    def ask(self, connection: int, message: m.Message):
        """The result of a request that is answered at once, with nothing else sent."""
        [answer] = self.say(connection, message, request=9)
        assert isinstance(answer, Send), answer
        assert (answer.connection, answer.request) == (connection, 9)
        assert isinstance(answer.message, m.Reply), answer.message
        return answer.message.result

    def worker(self, connection: int, address: str, keys: dict[str, int] | None = None, **changes) -> None:
        keys = keys or {}
        self.say(connection, register(address, keys, **changes), request=1)

    def client(self, connection: int, client: str) -> None:
        self.say(connection, m.RegisterClient(client), request=1)

    def tick_at(self, now: float) -> list[Instruction]:
        self.now = now
        return self.event(Tick())


def register(address: str, keys: dict[str, int], incarnation: str = "one", **changes) -> m.Register:
    return m.Register(member(address, incarnation), list(keys), [1] * len(keys), list(keys.values()), **changes)


def travelled(instruction: Instruction) -> Instruction:
    if isinstance(instruction, (Send, Broadcast, Tell)):
        message, _ = codec.decode(codec.encode_header(instruction.message))
        return dataclasses.replace(instruction, message=message)
    return instruction


def bounded(**settings) -> Bench:
    bench = Bench()
    bench.state = CenterState(dataclasses.replace(SETTINGS, **settings))
    bench.state.handle(Tick(), 0.0)
    return bench
