"""Room for large values: in memory, else on disk, else later; refused with the sizes when there is none."""

import pytest

from distributed.config import Settings
from distributed.wire.messages import Room
from distributed.worker.events import Allocate, Give, GrantRoom, RefuseRoom, Remove, Spill
from distributed.worker.rooms import Rooms
from distributed.worker.store import Store

X = "a11ce0000000/x"


class Bench:
    """Rooms in a store of 1000 bytes, whose instructions are read after each step."""

    def __init__(self, spill_directory="/d"):
        self.out, self.now = [], 100.0
        self.store = Store(1000, self.out, spill_directory)
        self.rooms = Rooms(self.store, self.out, Settings(room_patience_s=60.0, spill_retry_s=1.0))

    def file(self, key, nbytes):
        return self.store.add(key, 1, nbytes, None, f"/m/{key}")

    def ask(self, number, nbytes, kind="writer"):
        self.rooms.ask((kind, number), nbytes, self.now)
        return self.pump()

    def pump(self, must_yield=False, after_s=0.0):
        self.now += after_s
        self.rooms.pump(self.now, must_yield)
        return self.said()

    def said(self):
        self.store.check()
        self.rooms.check(0)
        out = self.out[:]
        self.out.clear()
        return out


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def diskless():
    return Bench(spill_directory="")


def test_room_is_accounted_for_then_allocated_then_granted_then_filled(bench):
    assert bench.ask(7, 600) == [Allocate(1, 600)]
    bench.rooms.allocated(1, "/m/v1")
    assert bench.said() == [GrantRoom(7, "/m/v1")]
    assert bench.store.reserved_bytes == 600
    assert bench.rooms.filled("/m/v1")
    assert bench.store.reserved_bytes == 0
    assert not bench.rooms.filled("/m/v1")


def test_waiting_requests_are_answered_in_order_once_spilling_is_done(bench):
    bench.file(X, 700)
    assert bench.ask(7, 600) == [Spill(1, f"/m/{X}")]
    assert bench.ask(8, 100) == []
    bench.store.moves.spilled(1, "/d/x")
    assert bench.pump() == [Remove(f"/m/{X}"), Allocate(1, 600), Allocate(2, 100)]


def test_more_than_the_whole_memory_goes_to_disk(bench):
    assert bench.ask(7, 5000) == [Allocate(1, 5000, on_disk=True)]
    assert bench.store.reserved_bytes == 0
    bench.rooms.allocated(1, "/d/v1")
    assert bench.said() == [GrantRoom(7, "/d/v1")]
    assert bench.rooms.filled("/d/v1")


def test_more_than_the_whole_memory_is_refused_at_once_where_there_is_no_disk(diskless):
    (refusal,) = diskless.ask(7, 1001)
    assert isinstance(refusal, RefuseRoom)
    for word in ("no room for 1001 B", "at most 1000 B", "--spill-directory"):
        assert word in refusal.reason


def test_what_finds_no_room_while_nothing_can_be_spilled_goes_to_disk(bench):
    entry = bench.file(X, 900)
    bench.store.use(entry)
    entry.given = 1
    assert bench.ask(7, 500) == [Allocate(1, 500, on_disk=True)]


def test_room_that_the_accounts_promise_but_others_took_is_looked_for_on_disk(bench):
    bench.ask(7, 500)
    bench.rooms.allocation_failed(1, "no room in /dev/shm", bench.now)
    assert bench.pump() == [Allocate(2, 500, on_disk=True)]
    assert bench.store.reserved_bytes == 0


def test_without_a_disk_it_is_tried_again_a_little_later(diskless):
    diskless.ask(7, 500)
    diskless.rooms.allocation_failed(1, "no room in /dev/shm", diskless.now)
    assert diskless.pump() == []
    assert diskless.ask(8, 100) == [Allocate(2, 100)], "nobody else is held up"
    assert diskless.pump(after_s=1.1) == [Allocate(3, 500)]


def test_a_full_disk_is_tried_again_and_refused_with_the_sizes_when_the_patience_is_over(bench):
    bench.file(X, 700)
    assert bench.ask(7, 600) == [Spill(1, f"/m/{X}")]
    bench.store.moves.spill_failed(1, "no room in /d")
    assert bench.pump() == []
    bench.store.moves.refused = ""
    assert bench.pump(after_s=1.0) == [Spill(2, f"/m/{X}")]
    bench.store.moves.spill_failed(2, "no room in /d")
    (refusal,) = bench.pump(after_s=60.0)
    assert isinstance(refusal, RefuseRoom)
    for word in ("600 B", "700 B", "1000 B", "no room in /d"):
        assert word in refusal.reason
    assert not bench.rooms.wanted


def test_who_waits_gets_the_room_that_somebody_gives_back(diskless):
    diskless.file(X, 700)
    assert diskless.ask(7, 600) == []
    assert diskless.ask(8, 200) == [Allocate(1, 200)], "what fits does not wait for what does not"
    diskless.store.delete([X])
    assert diskless.pump() == [Remove(f"/m/{X}"), Allocate(2, 600)]


def test_when_all_executors_wait_the_last_one_goes_away_so_that_others_can_run(diskless):
    diskless.file(X, 700)
    assert diskless.ask(1, 600, "executor") == diskless.ask(2, 600, "executor") == []
    (give,) = diskless.pump(must_yield=True, after_s=2.0)
    assert (give.executor, give.message.path) == (2, "")
    refusal = diskless.rooms.why_refused(("executor", 2))
    assert (refusal.waited_s, refusal.never, refusal.reason) == (2.0, False, give.message.reason)
    assert list(diskless.rooms.blocked) == [("executor", 1)]
    assert diskless.pump() == []


def test_nobody_goes_away_while_a_file_is_being_made(bench):
    bench.file(X, 700)
    bench.ask(1, 300, "executor")
    assert bench.ask(2, 600, "executor") == [Spill(1, f"/m/{X}")]
    assert bench.pump(must_yield=True) == []


def test_who_goes_away_leaves_no_reservation(bench):
    bench.ask(1, 100, "executor")
    bench.ask(1, 100, "executor")
    bench.rooms.allocated(1, "/m/v1")
    assert bench.said() == [Give(1, Room("/m/v1", ""))]
    bench.rooms.requester_gone(("executor", 1))
    assert bench.said() == [Remove("/m/v1")]
    bench.rooms.allocated(2, "/m/v2")
    assert bench.said() == [Remove("/m/v2")]
    assert bench.store.reserved_bytes == 0
