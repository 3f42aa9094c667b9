"""The store: attempts, pins, users, memory."""

import pytest

from distributed.key import owner_of
from distributed.wire.messages import Evicted
from distributed.worker.events import Load, Remove, Send, Spill
from distributed.worker.store import Store, columns

ALICE, BOB = "a11ce0000000", "b0b000000000"
X, Y, Z = f"{ALICE}/x", f"{ALICE}/y", f"{BOB}/z"


class Bench:
    """A store whose instructions are read after each step, and whose invariants hold then."""

    def __init__(self, memory_limit=1000):
        self.out = []
        self.store = Store(memory_limit, self.out, "/d")

    def said(self):
        self.store.check()
        out = self.out[:]
        self.out.clear()
        return out

    def file(self, key, nbytes, attempt=1):
        return self.store.add(key, attempt, nbytes, None, f"/m/{key}@{attempt}")


@pytest.fixture
def bench():
    return Bench()


def test_the_newest_attempt_wins_and_the_file_of_the_older_goes(bench):
    bench.file(X, 10)
    bench.file(X, 20, attempt=2)
    assert bench.said() == [Remove(f"/m/{X}@1")]
    assert (bench.store.get(X, 1), bench.store.get(X, 2).nbytes) == (None, 20)
    assert bench.store.get(X, 0).attempt == 2


def test_an_older_attempt_is_kept_only_for_who_uses_it(bench):
    bench.file(X, 20, attempt=2)
    old = bench.file(X, 10, attempt=1)
    bench.store.use(old)
    assert bench.said() == []
    assert bench.store.get(X, 0).attempt == 2
    bench.store.let_go(old)
    assert bench.said() == [Remove(f"/m/{X}@1")]
    assert bench.store.memory_bytes == 20


def test_an_older_attempt_that_nobody_uses_goes_at_once(bench):
    bench.file(X, 20, attempt=2)
    bench.store.add_unused(X, 1, 10, None, "/m/old")
    bench.store.add_small([X, Y], [1, 1], [5, 5], [b"value", b"value"])
    assert bench.said() == [Remove("/m/old")]
    assert (bench.store.memory_bytes, columns(bench.store.entries)) == (25, ([X, Y], [2, 1], [20, 5]))


def test_the_same_attempt_twice_is_kept_once(bench):
    first = bench.file(X, 10)
    assert bench.store.add(X, 1, 10, None, "/m/again") is first
    assert bench.said() == [Remove("/m/again")]


def test_a_value_put_again_by_hand_replaces_the_first(bench):
    bench.store.add("x", 1, 3, b"one")
    bench.store.add("x", 1, 3, b"two", replace=True)
    assert bench.store.get("x", 0).data == b"two"
    assert bench.said() == []


def test_a_file_outlives_its_key_while_a_task_uses_it(bench):
    entry = bench.file(X, 10)
    bench.store.use(entry)
    bench.store.delete([X, "never heard of"])
    assert bench.said() == []
    assert bench.store.entries == {}
    bench.store.let_go(entry)
    assert bench.said() == [Remove(f"/m/{X}@1")]
    assert bench.store.memory_bytes == 0


def test_what_came_and_went_between_two_reports_is_not_reported(bench):
    bench.file(X, 10)
    bench.store.delete([X])
    assert (bench.store.added, bench.store.removed) == ({}, {})
    bench.file(Y, 10)
    bench.store.snapshot()
    bench.store.delete([Y])
    assert list(bench.store.removed) == [Y]


def test_a_key_that_was_replaced_and_deleted_is_reported_as_removed(bench):
    bench.file(X, 10)
    bench.store.snapshot()
    bench.file(X, 10, attempt=2)
    bench.store.delete([X])
    assert (bench.store.added, list(bench.store.removed)) == ({}, [X])


def test_an_owner_that_left_takes_its_keys_along_except_published_ones(bench):
    for key in (X, Y, Z):
        bench.file(key, 10)
    bench.store.pin("result", Y, {})
    bench.store.forget_owner(ALICE)
    assert bench.said() == [Remove(f"/m/{X}@1")]
    bench.store.unpin("result", [BOB])
    assert bench.said() == [Remove(f"/m/{Y}@1")]
    assert list(bench.store.entries) == [Z]


def test_an_unpublished_key_lives_on_while_its_owner_lives_and_wants_it(bench):
    bench.file(X, 10)
    bench.file(Y, 10)
    bench.store.pin("a", X, {Y: 0})
    bench.store.pin("b", Y, {})
    bench.store.delete([Y])
    bench.store.unpin("a", [ALICE])
    assert list(bench.store.entries) == [X, Y]
    bench.store.unpin("b", [ALICE])
    assert list(bench.store.entries) == [X]
    bench.said()


def test_keys_put_by_hand_belong_to_nobody(bench):
    bench.store.add("x", 1, 1, b"1")
    bench.store.forget_owner("")
    assert list(bench.store.entries) == ["x"]
    assert owner_of("x") == ""


def test_replicas_go_before_values_are_spilled_and_the_one_used_longest_ago_first(bench):
    values = [bench.file(f"{ALICE}/{n}", 300) for n in range(2)]
    replica = bench.store.add_replica(X, 1, 300, None, "/m/replica")
    replica.announced = True
    bench.store.use(values[0])
    bench.store.let_go(values[0])
    assert bench.store.make_room(300)
    assert bench.said() == [Remove("/m/replica"), Send(ALICE, Evicted([X], [1]))]
    assert not bench.store.make_room(600)
    assert bench.said() == [Spill(1, f"/m/{ALICE}/1@1")]
    bench.store.moves.spilled(1, "/d/1")
    assert bench.said() == [Remove(f"/m/{ALICE}/1@1")]
    assert (bench.store.memory_bytes, bench.store.disk_bytes) == (300, 300)
    assert bench.store.get(f"{ALICE}/1", 1).path == "/d/1"


def test_a_value_that_an_executor_has_does_not_move(bench):
    entry = bench.file(X, 900)
    bench.store.use(entry)
    entry.given = 1
    assert not bench.store.make_room(500)
    assert bench.said() == []


def test_a_file_that_was_given_while_it_was_spilled_stays_until_it_is_put_down(bench):
    entry = bench.file(X, 900)
    bench.store.make_room(500)
    bench.store.use(entry)
    entry.given = 1
    bench.said()
    bench.store.moves.spilled(1, "/d/x")
    assert bench.said() == []
    bench.store.put_down(entry)
    assert bench.said() == [Remove(f"/m/{X}@1")]
    bench.store.let_go(entry)
    assert entry.path == "/d/x"


def test_a_value_deleted_while_it_is_spilled_leaves_nothing(bench):
    bench.file(X, 900)
    bench.store.make_room(500)
    bench.store.delete([X])
    bench.said()
    bench.store.moves.spilled(1, "/d/x")
    assert bench.said() == [Remove("/d/x")]
    assert (bench.store.memory_bytes, bench.store.disk_bytes, bench.store.moves.spilling_bytes) == (0, 0, 0)


def test_a_replica_that_nobody_was_told_of_goes_with_its_last_user(bench):
    replica = bench.store.add_replica(X, 1, 5, b"value", "")
    bench.store.use(replica)
    bench.store.let_go(replica)
    assert bench.store.entries == {}
    bench.said()


def small(store, *keys, attempts=None):
    store.add_small(list(keys), attempts or [1] * len(keys), [5] * len(keys), [b"value"] * len(keys))


def test_small_values_come_and_go_together(bench):
    small(bench.store, X, Y)
    assert (bench.store.memory_bytes, list(bench.store.added)) == (10, [X, Y])
    assert bench.store.snapshot() == ([X, Y], [1, 1], [5, 5])
    small(bench.store, Z)
    bench.store.delete([X, Z])
    assert (bench.store.memory_bytes, bench.store.added, list(bench.store.removed)) == (5, {}, [X])
    bench.said()


def test_a_small_value_becomes_an_entry_when_it_is_asked_for_and_is_told_of_as_before(bench):
    small(bench.store, X, Y)
    entry = bench.store.get(X, 1)
    assert (entry.data, entry.nbytes, bench.store.get(X, 1)) == (b"value", 5, entry)
    assert bench.store.get(Y, 2) is None
    assert columns(bench.store.added) == ([X, Y], [1, 1], [5, 5])
    bench.said()
    bench.store.delete([X, Y, Z])
    assert (bench.store.added, bench.store.removed, list(bench.store.unborn)) == ({}, {}, [Z])
    bench.said()


def test_small_values_of_a_newer_attempt_replace_the_older(bench):
    small(bench.store, X, Y)
    bench.store.snapshot()
    small(bench.store, X, Z, attempts=[2, 1])
    assert columns(bench.store.entries) == ([Y, X, Z], [1, 2, 1], [5, 5, 5])
    assert (list(bench.store.removed), list(bench.store.added)) == ([X], [X, Z])
    bench.said()


def test_only_the_attempt_that_was_published_outlives_its_owner(bench):
    bench.store.add(X, 2, 3, b"old")
    bench.store.pin("result", X, {X: 3})
    bench.store.delete([X], [2])
    assert X not in bench.store.entries
    bench.store.add(X, 3, 3, b"new")
    bench.store.delete([X], [3])
    assert bench.store.entries[X].data == b"new"
    bench.store.unpin("result", [])
    assert X not in bench.store.entries


def test_a_name_that_is_told_again_loses_nothing_that_its_owner_released(bench):
    bench.store.add(X, 2, 3, b"value")
    bench.store.pin("result", X, {X: 2})
    bench.store.delete([X])
    bench.store.pin("result", X, {X: 2})
    assert X in bench.store.entries


def test_a_published_small_value_outlives_its_owner(bench):
    small(bench.store, X, Y, Z)
    bench.store.pin("result", Y, {})
    bench.store.forget_owner(ALICE)
    assert (list(bench.store.entries), bench.store.held_of(ALICE)) == ([Y, Z], [[Y, 1]])
    bench.store.unpin("result", [BOB])
    assert (list(bench.store.entries), bench.store.held_of(ALICE)) == ([Z], [])
    bench.said()


def test_what_is_not_a_small_value_is_stored_as_what_it_is(bench):
    bench.store.add_small([X, "by hand"], [1, 1], [7, 5], [b"value", bytearray(b"value")])
    assert (bench.store.get(X, 1).nbytes, bench.store.get("by hand", 1).data) == (7, bytearray(b"value"))
    bench.store.forget_owner(ALICE)
    assert list(bench.store.entries) == ["by hand"]
    bench.said()


# ------------------------------------------------------------------------------------------------- back from disk


def on_disk(bench, key=X, nbytes=400):
    """A value that was spilled, and has memory to come back to."""
    entry = bench.file(key, nbytes)
    bench.store.make_room(bench.store.memory_limit)
    (spill,) = bench.said()
    bench.store.moves.spilled(spill.ticket, f"/d/{key}")
    assert bench.said() == [Remove(f"/m/{key}@1")]
    return entry


def use_once(bench, entry):
    bench.store.use(entry)
    bench.store.let_go(entry)


def test_what_is_used_again_comes_back_when_there_is_room(bench):
    entry = on_disk(bench)
    bench.store.moves.bring_back()
    assert bench.said() == [], "it was not used"
    use_once(bench, entry)
    bench.store.moves.bring_back()
    assert bench.said() == [Load(2, f"/d/{X}")]
    assert (bench.store.reserved_bytes, bench.store.disk_bytes) == (400, 400)
    bench.store.moves.loaded(2, "/m/back")
    assert bench.said() == [Remove(f"/d/{X}")]
    accounts = bench.store.memory_bytes, bench.store.disk_bytes, bench.store.reserved_bytes
    assert (accounts, entry.path) == ((400, 0, 0), "/m/back")
    bench.store.make_room(bench.store.memory_limit)
    assert bench.said() == [Spill(3, "/m/back")], "and may go again"


def test_nothing_comes_back_while_memory_is_nearly_full(bench):
    entry = on_disk(bench)
    bench.file(Y, 301)
    use_once(bench, entry)
    bench.store.moves.bring_back()
    assert bench.said() == []
    bench.store.delete([Y])
    bench.store.moves.bring_back()
    assert bench.said() == [Remove(f"/m/{Y}@1")], "one use asks once"


def test_what_was_given_up_soon_after_its_use_does_not_come_back(bench):
    entry = on_disk(bench)
    use_once(bench, entry)
    bench.store.delete([X])
    bench.store.moves.bring_back()
    assert bench.said() == [Remove(f"/d/{X}")]


def test_a_value_deleted_while_it_comes_back_leaves_nothing(bench):
    use_once(bench, on_disk(bench))
    bench.store.moves.bring_back()
    bench.store.delete([X])
    assert bench.said() == [Load(2, f"/d/{X}"), Remove(f"/d/{X}")]
    bench.store.moves.loaded(2, "/m/back")
    assert bench.said() == [Remove("/m/back")]
    assert (bench.store.memory_bytes, bench.store.disk_bytes, bench.store.reserved_bytes) == (0, 0, 0)


def test_the_file_on_disk_stays_while_a_task_reads_it(bench):
    entry = on_disk(bench)
    use_once(bench, entry)
    bench.store.moves.bring_back()
    bench.store.use(entry)
    entry.given = 1
    bench.said()
    bench.store.moves.loaded(2, "/m/back")
    assert bench.said() == []
    bench.store.put_down(entry)
    assert bench.said() == [Remove(f"/d/{X}")]
    bench.store.let_go(entry)
    assert entry.path == "/m/back"


def test_what_is_used_while_it_comes_back_comes_once(bench):
    entry = on_disk(bench)
    use_once(bench, entry)
    bench.store.moves.bring_back()
    use_once(bench, entry)
    bench.said()
    bench.store.moves.loaded(2, "/m/back")
    assert bench.said() == [Remove(f"/d/{X}")]
    bench.store.moves.bring_back()
    assert bench.said() == []


def test_what_cannot_be_brought_back_stays_on_disk(bench):
    entry = on_disk(bench)
    use_once(bench, entry)
    bench.store.moves.bring_back()
    bench.said()
    bench.store.moves.load_failed(2)
    assert bench.said() == []
    assert (entry.path, bench.store.reserved_bytes, bench.store.disk_bytes) == (f"/d/{X}", 0, 400)
    use_once(bench, entry)
    bench.store.moves.bring_back()
    assert bench.said() == [Load(3, f"/d/{X}")]


def test_what_is_made_on_disk_counts_there(bench):
    entry = bench.store.add(X, 1, 5000, None, "/d/x")
    assert (bench.store.memory_bytes, bench.store.disk_bytes, entry.resident) == (0, 5000, False)
    bench.said()
    bench.store.delete([X])
    assert bench.said() == [Remove("/d/x")]
    assert bench.store.disk_bytes == 0


def test_a_deletion_that_names_an_older_attempt_leaves_the_newer_one():
    store = Store(1 << 30, [])
    store.add_unused("me/x", 2, 1, b"x")
    store.add_small(["me/y"], [1], [1], [b"y"])
    store.delete(["me/x", "me/y"], [1, 2])
    assert sorted(store.entries) == ["me/x", "me/y"]
    store.delete(["me/x", "me/y", "me/z"], [2, 1, 2])
    assert not store.entries
    assert not store.unborn, "an attempt that is not the first one is not put by anybody"
    store.check()


def test_whichever_attempt_is_here_goes_when_none_is_named():
    store = Store(1 << 30, [])
    store.add_unused("me/x", 2, 1, b"x")
    store.add_unused("me/y", 3, 1, b"y")
    store.delete(["me/x"])
    store.delete(["me/y"], [0])
    assert not store.entries
    store.check()


@pytest.mark.parametrize("value", [b"x", None])
def test_a_key_that_is_deleted_twice_in_one_message_may_come_again(value):
    store = Store(1 << 30, [])
    store.add("me/x", 1, 1, value, "" if value else "/m/x")
    store.delete(["me/x", "me/x"])
    assert not store.is_unborn("me/x")
    store.check()
