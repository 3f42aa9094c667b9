"""Where values are, as workers report it: which attempts count, and what is deleted. Without the rest of a pool."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from distributed.config import SETTINGS
from distributed.pool.events import Send
from distributed.pool.lifetimes import Lifetimes
from distributed.pool.membership import Membership
from distributed.pool.placement import Placement
from distributed.pool.tasks import DONE, SENT, Task
from distributed.pool.whereabouts import Whereabouts
from distributed.wire.messages import DeleteData, Finished
from tests.pool.test_state import ALICE, LARGE, kind, member


@pytest.fixture
def bench() -> SimpleNamespace:
    """A pool's books, and Alice."""
    placement = Placement(SETTINGS)
    membership = Membership(placement.workers, reconnect_interval_s=1.0)
    lifetimes = Lifetimes(membership, lineage_bytes_max=1000)
    alice, _ = membership.connected(member(ALICE))
    return SimpleNamespace(alice=alice, lifetimes=lifetimes, whereabouts=Whereabouts(lifetimes))


def task(key: str, *inputs: Task) -> Task:
    return Task(key, kind(), b"", inputs)


def large(key: str, *holders: str) -> Task:
    made = task(key)
    made.status, made.nbytes, made.holders = DONE, LARGE, set(holders)
    return made


def finished(*attempts: tuple[str, int]) -> Finished:
    many = len(attempts)
    keys, numbers = [key for key, _ in attempts], [attempt for _, attempt in attempts]
    return Finished(keys, numbers, [1] * many, [b"v"] * many, [0] * many, {}, [])


def test_an_attempt_that_was_given_away_does_not_count_and_its_value_goes(bench):
    x, y = task("x"), task("y")
    y.attempt = 2
    for sent in (x, y):
        sent.status = SENT
        bench.alice.under_way[sent.key] = sent
    accepted = bench.whereabouts.accept(bench.alice, finished(("y", 1), ("x", 1), ("z", 1)))
    assert accepted == [(x, 1, b"v", 1)]
    assert bench.lifetimes.take_deletions() == [Send(ALICE, DeleteData(["y", "z"], [1, 1]))]


def test_a_large_result_is_where_it_was_made_and_keeps_what_is_in_it(bench):
    inner, outer = large("inner", ALICE), task("outer")
    bench.lifetimes.shared[inner.key] = inner
    bench.whereabouts.take(outer, bench.alice, [["inner", 1, 1, []], ["of somebody else", 1, 1, []]], {})
    assert (outer.holders, bench.alice.holds) == ({ALICE}, {"outer": outer})
    assert (outer.contains, inner.users) == ((inner,), 2)
    assert bench.lifetimes.shared["outer"] is outer


def test_copies_are_counted_once_and_what_no_task_accounts_for_goes(bench):
    here, fetched, small = large("here", ALICE), large("fetched", "bob:1"), task("small")
    small.status, small.outcome = DONE, b"v"
    held = {"fetched": 1, "somebody's": 4}
    bench.whereabouts.take(task("x", here, fetched, small), bench.alice, (), held)
    assert (bench.whereabouts.bytes_in_place, bench.whereabouts.bytes_moved) == (LARGE, LARGE)
    assert fetched.holders == {ALICE, "bob:1"}
    bench.whereabouts.disown(bench.alice, held)
    assert bench.lifetimes.take_deletions() == [Send(ALICE, DeleteData(["somebody's"], [4]))]


def test_a_copy_of_another_attempt_is_none(bench):
    again = large("x", "bob:1")
    again.attempt = 2
    bench.whereabouts.count_inputs(task("y", again), bench.alice, held := {"x": 1})
    assert (again.holders, held, bench.whereabouts.bytes_moved) == ({"bob:1"}, {"x": 1}, 0)
