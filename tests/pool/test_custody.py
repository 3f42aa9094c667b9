"""What others may ask for: what follows when it comes, fails, or is nowhere any more. Without the rest of a pool."""

from __future__ import annotations

import pytest

from distributed.config import SETTINGS
from distributed.errors import KeyLost
from distributed.pool.custody import Custody
from distributed.pool.events import Send, TellCenter
from distributed.pool.lifetimes import Lifetimes
from distributed.pool.membership import Membership
from distributed.pool.placement import Placement
from distributed.pool.tasks import DONE, FAILED, RELEASED, WAITING, Task
from distributed.wire.exceptions import unpack_exception
from distributed.wire.messages import DeleteData, Export, Hold, Withdraw
from tests.pool.test_state import ALICE, BOB, kind, member


class Bench:
    """The custody of a pool that is connected to Alice and Bob; what it orders, and what it has computed again."""

    def __init__(self) -> None:
        self.placement = Placement(SETTINGS)
        self.membership = Membership(self.placement.workers, reconnect_interval_s=1.0)
        self.lifetimes = Lifetimes(self.membership, lineage_bytes_max=1000)
        self.out: list = []
        self.again: list[Task] = []
        self.custody = Custody(self.lifetimes, self.placement, self.out, lambda task, now: self.again.append(task))
        for address in (ALICE, BOB):
            self.membership.meet(member(address))
            self.placement.admit(self.membership.connected(member(address))[0])

    def made(self, *holders: str, value: bytes | None = None, worker: str = ALICE, recipe: bytes | None = b"") -> Task:
        """A task of ours that has a value."""
        task = Task("me/x", kind(), recipe)
        task.status, task.worker, task.outcome, task.holders = DONE, worker, value, set(holders) or None
        return task

    def lose(self, address: str) -> None:
        """A worker is gone, as all others are told."""
        view = self.membership.part(address)
        self.placement.dismiss(address)
        self.lifetimes.lose(view)
        self.custody.holds_only(address, (), 0.0)

    def orders(self) -> list:
        """What was ordered since the last time, deletions last."""
        out = [*self.out, *self.lifetimes.take_deletions()]
        self.out.clear()
        return out


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_export_is_one_user_and_says_which_attempt_counts(bench):
    task = bench.made(ALICE)
    task.attempt = 3
    bench.custody.export(task, 0.0)
    bench.custody.export(task, 0.0)
    assert task.users == 2
    assert bench.orders() == [TellCenter(Export(["me/x"], [3]))]
    bench.custody.take_back(task)
    bench.custody.take_back(task)
    assert task.users == 1
    assert bench.orders() == [TellCenter(Withdraw(["me/x"], [b""]))]


def test_what_is_borrowed_is_not_lent(bench):
    task = bench.made(ALICE)
    task.borrowed = True
    bench.custody.export(task, 0.0)
    assert (task.users, bench.orders()) == (1, [])


def test_a_small_value_whose_worker_is_lost_is_given_to_another_one(bench):
    task = bench.made(value=b"value")
    bench.custody.show([task], 0.0)
    bench.orders()
    bench.lose(ALICE)
    assert bench.orders() == [Send(BOB, Hold(["me/x"], [1], [b"value"]))]
    assert (task.worker, bench.again) == (BOB, [])


def test_a_large_value_is_computed_again_when_its_last_holder_is_lost(bench):
    task = bench.made(ALICE, BOB)
    for address in (ALICE, BOB):
        bench.placement.workers[address].holds[task.key] = task
    bench.custody.show([task], 0.0)
    bench.lose(BOB)
    assert bench.again == []
    bench.lose(ALICE)
    assert bench.again == [task]


def test_a_value_without_a_recipe_and_without_workers_is_told_to_be_lost(bench):
    task = bench.made(value=b"value", recipe=None)
    bench.custody.show([task], 0.0)
    bench.lose(BOB)
    bench.orders()
    bench.lose(ALICE)
    [told] = bench.orders()
    assert isinstance(unpack_exception(told.message.errors[0]), KeyLost)


def test_what_was_dropped_for_others_comes_again_only_if_no_copy_is_left(bench):
    task = bench.made(BOB)
    bench.custody.evicted(task, 0.0)
    task.holders = set()
    bench.custody.evicted(task, 0.0)
    assert bench.again == [], "nobody else may ask for it"
    task.holders = {BOB}
    bench.custody.show([task], 0.0)
    bench.custody.evicted(task, 0.0)
    assert bench.again == []
    task.holders = set()
    bench.custody.evicted(task, 0.0)
    assert bench.again == [task]


def test_a_large_value_that_is_nowhere_when_it_is_lent_goes_where_it_may_be_after_all_before_it_comes(bench):
    task = bench.made()
    bench.membership.part(ALICE)  # it may have lost what nobody else could ask for
    bench.membership.connected(member(ALICE))
    bench.custody.show([task], 0.0)
    assert bench.orders() == [
        TellCenter(Export(["me/x"], [1])),
        Send(ALICE, DeleteData(["me/x"], [1])),
    ]
    assert bench.again == [task]


@pytest.mark.parametrize("status", [WAITING, RELEASED])
def test_nothing_is_missed_of_what_has_no_value_now(bench, status):
    task = bench.made()
    task.status = status
    bench.custody.show([task], 0.0)
    bench.lose(ALICE)
    assert bench.again == []


def test_who_failed_is_told_again_to_a_center_that_was_away_after_all_that_is_lent(bench):
    bench.custody.announce()
    assert bench.orders() == [], "nothing is lent"
    task = bench.made(ALICE)
    bench.custody.show([task], 0.0)
    task.status, task.outcome = FAILED, b"error"
    bench.custody.failed(task)
    withdrawn = TellCenter(Withdraw(["me/x"], [b"error"]))
    assert bench.orders() == [TellCenter(Export(["me/x"], [1])), withdrawn]
    bench.custody.announce()
    assert bench.orders() == [TellCenter(Export(["me/x"], [0])), withdrawn]
