"""Nonsense from workers and center is refused before anything changes."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest

from distributed.errors import ProtocolError
from distributed.pool.checks import FROM_CENTER, FROM_WORKERS
from distributed.pool.events import Borrowed, CenterSaid, Connected, Located, Received, Submitted
from distributed.pool.state import PoolState
from distributed.pool.tasks import SENT, Duration, Kind, Options, Task
from distributed.wire import codec
from distributed.wire import messages as m

ALICE = m.Member("alice:1", "one", "alice", 1, 10**9)
NONSENSE: list[Any] = [None, -1, 1.5, "x", b"x", [], [[]], [None], [[1, 2, 3]], {}, {7: []}, {0: [[]]}, {"keys": [1]}]
GOOD = [
    m.Finished(["me/1"], [1], [1], [b"v"], [10], {0: [["me/1", 1, 1, []]]}, [["me/1", 1]]),
    m.Failed("me/1", 1, "crashed", b"", {"signal": 11, "peak_bytes": 5, "stderr_tail": "oh", "stack": "here"}, []),
    m.Failed("me/1", 1, "missing", b"", {"keys": ["x"], "refused": {"x": ["alice:1"]}}, []),
    m.Failed("me/1", 1, "full", b"", {"reason": "no room"}, []),
    m.Failed("me/1", 1, "timeout", b"", {"timeout_s": 1.0}, []),
    m.Recalled(["me/1"], [1]),
    m.Evicted(["me/1"], [1]),
    m.NeedFunction(b"f"),
    m.Output("alice:1", 1, "stdout", "hello"),
]


def pool() -> tuple[PoolState, Task]:
    state = PoolState(now=0.0)
    state.handle(CenterSaid(m.WorkerJoined(ALICE)), 0.0)
    state.handle(Connected(ALICE), 0.0)
    task = Task("me/1", Kind(b"f", b"c", "f", False, Options(), Duration()), b"args")
    state.handle(Submitted([task]), 0.0)
    return state, task


def travelled(message: m.Message) -> m.Message | None:
    """What arrives of it; nothing if the codec refuses it already."""
    try:
        return codec.decode(codec.encode_header(message))[0]
    except ProtocolError:
        return None


def mutants(message: m.Message) -> list[m.Message]:
    """Each field, and each item of each detail, replaced by nonsense; columns one shorter or longer."""
    made = []
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        others = [*NONSENSE]
        if isinstance(value, list):
            others += [value[:-1], value * 2]
        if isinstance(value, dict):
            others += [{**value, name: nonsense} for name in value for nonsense in NONSENSE]
            others += [{name: item for name, item in value.items() if name != left_out} for left_out in value]
        for other in others:
            made.append(copy.copy(message))
            setattr(made[-1], field.name, other)
    return made


@pytest.mark.parametrize("good", GOOD, ids=lambda message: message.operation)
def test_every_mutant_of_what_a_worker_says_is_refused_or_understood(good):
    state, task = pool()
    state.handle(Received(ALICE.address, travelled(good)), 1.0)
    refused = 0
    for mutant in mutants(good):
        message = travelled(mutant)
        if message is None:
            continue
        state, task = pool()
        try:
            state.handle(Received(ALICE.address, message), 1.0)
        except ProtocolError:
            refused += 1
            assert (task.status, task.attempt, state.unfinished) == (SENT, 1, 1)
            assert list(state.workers[ALICE.address].under_way) == ["me/1"]
        state.check()
    assert refused or isinstance(good, (m.NeedFunction, m.Output))


def test_a_worker_that_finishes_a_task_twice_in_one_breath_loses_its_connection_and_the_pool_goes_on():
    state, task = pool()
    twice = m.Finished(["me/1", "me/1"], [1, 1], [5, 5], [b"value", b"value"], [2, 2], {}, [])
    with pytest.raises(ProtocolError, match="a key twice"):
        state.handle(Received(ALICE.address, twice), 1.0)
    assert (task.status, state.unfinished) == (SENT, 1)
    state.check()


def test_who_may_say_what():
    state, _ = pool()
    for kind in m.REGISTRY.values():
        message = object.__new__(kind)
        if kind not in FROM_WORKERS:
            with pytest.raises(ProtocolError, match="a worker does not say"):
                state.handle(Received(ALICE.address, message), 1.0)
        if kind not in FROM_CENTER:
            with pytest.raises(ProtocolError, match="the center does not say"):
                state.handle(CenterSaid(message), 1.0)
    state.check()


@pytest.mark.parametrize("held", [None, 7, [[]], [["x"]], [[1, 2]], [["x", "y"]], ["xy"], {"x": 1}])
def test_what_a_worker_lists_is_looked_at(held):
    state, _ = pool()
    with pytest.raises(ProtocolError):
        state.handle(Connected(dataclasses.replace(ALICE, address="bob:1"), held), 1.0)
    assert list(state.workers) == [ALICE.address]


@pytest.mark.parametrize("holders", [{}, None, [], {"a": 1}, {"a": [1]}, {"a": ["x", 1]}, {1: [1, 1]}])
def test_nonsense_of_where_a_value_is_is_an_error_for_who_asked(holders):
    state, _ = pool()
    task = Task("other/1", None, None)
    task.borrowed = True
    state.handle(Borrowed(task), 0.0)
    state.handle(Located(task, holders), 1.0)
    assert isinstance(task.outcome, ProtocolError)
