"""How large the chunks of `imap` are, and how many are under way, by what was measured."""

from __future__ import annotations

import pytest

from distributed.pool.inputs import source_of
from distributed.pool.pace import BYTES_MAX, CHUNK_BYTES, GROWTH, ITEMS_MAX, LARGE_BYTES, TASKS_MAX, Pace
from distributed.pool.sources import AtHand, Buffer, Slices


def grown(item_s):
    """A pace that has seen enough items of this duration."""
    pace = Pace(None)
    for _ in range(10):
        pace.learn(item_s, pace.size())
    return pace


def test_the_first_chunks_have_one_item_and_later_ones_at_most_so_many_times_more():
    pace, sizes = Pace(None), []
    for _ in range(5):
        sizes.append(pace.size())
        pace.learn(1e-8, pace.size())
    assert sizes == [1, GROWTH, GROWTH**2, GROWTH**3, ITEMS_MAX]


@pytest.mark.parametrize(("item_s", "size"), [(1e-6, 4000), (1e-4, 40), (3e-3, 1), (60.0, 1)])
def test_a_chunk_takes_some_milliseconds(item_s, size):
    assert grown(item_s).size() == pytest.approx(size, rel=0.01)


def test_items_that_become_slow_are_sent_one_by_one_at_once_and_together_again_later():
    pace = grown(1e-5)
    pace.learn(0.1, 1)
    assert pace.size() == 1
    for _ in range(20):
        pace.learn(1e-5, pace.size())
    assert pace.size() == pytest.approx(400, rel=0.1)


def test_large_items_and_items_with_inputs_go_alone():
    pace = grown(1e-6)
    pace.learn_arguments(LARGE_BYTES + 1, 1, has_inputs=False)
    assert pace.size() == 1
    pace = grown(1e-6)
    pace.learn_arguments(100, 1, has_inputs=True)
    assert pace.size() == 1


def test_a_chunk_is_limited_in_bytes_of_its_results():
    pace = grown(1e-8)
    pace.learn_result(1000, 1)
    assert pace.size() == CHUNK_BYTES // 1000


def test_the_users_chunksize_is_never_changed():
    pace = Pace(7)
    pace.learn(100.0, 7)
    pace.learn_arguments(10**9, 7, has_inputs=True)
    assert pace.size() == 7


def test_few_tasks_are_under_way_while_nothing_is_known_or_they_take_long():
    assert Pace(None).window(8) == Pace(1).window(8) == grown(60.0).window(8) == 10


def test_many_short_tasks_are_under_way_but_never_more_than_so_many():
    pace = Pace(1)
    pace.learn(1e-3, 1)
    assert pace.window(2) == 80
    pace.learn(1e-9, 1)
    assert Pace(1, asynchronous=True).window(2) == TASKS_MAX >= pace.window(64)


def test_results_that_nobody_takes_stop_the_work_and_every_core_may_have_one_all_the_same():
    pace = Pace(1)
    pace.learn_result(BYTES_MAX, 1)
    assert not pace.has_room(tasks=9, waiting_bytes=BYTES_MAX, under_way_items=0, cores=8)
    assert not pace.has_room(tasks=9, waiting_bytes=0, under_way_items=1, cores=8)
    assert pace.has_room(tasks=8, waiting_bytes=BYTES_MAX, under_way_items=8, cores=8)
    assert not Pace(1).has_room(tasks=TASKS_MAX, waiting_bytes=0, under_way_items=0, cores=8)


# ------------------------------------------------------------------------------------------------------------- sources


def test_lists_and_ranges_are_cut_and_not_copied_item_by_item():
    source = source_of([range(10), [1, 2, 3]])
    assert isinstance(source, Slices)
    assert source.take(2) == (range(2), [1, 2])
    assert (source.take(2), source.is_ended, source.take(2)) == ((range(2, 3), [3]), True, None)


def test_a_list_that_became_shorter_ends_early():
    items = [1, 2, 3]
    source = source_of([items])
    assert source.take(2) == ([1, 2],)
    items.clear()
    assert (source.take(2), source.is_ended) == (None, True)


def test_a_collection_that_changes_meanwhile_ends_with_its_error():
    items = {"alice": 1, "bob": 2}
    source = source_of([items])
    assert isinstance(source, AtHand)
    assert source.take(1) == (["alice"],)
    items["x"] = 3
    assert (source.take(5), type(source.error), source.is_ended) == (None, RuntimeError, True)


def test_a_buffer_ends_when_its_input_is_over_and_everything_was_taken():
    source = Buffer(single=True)
    source._rows.extend([1, 2])
    assert (source.take(1), source.is_slow) == (([1],), True)
    source.end(LookupError("half-way"))
    assert (source.is_ended, source.is_slow) == (False, False)
    assert (source.take(5), source.is_ended) == (([2],), True)
