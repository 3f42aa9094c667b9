"""Where a task runs and how much is under way: arithmetic, at its edges."""

from __future__ import annotations

import dataclasses

import pytest

from distributed.config import SETTINGS
from distributed.pool import policy


def test_most_bytes_win_however_many_keys_they_are():
    assert policy.place({"alice:1": 10**6, "bob:1": 10**6 + 1}, {"alice:1": 0.0, "bob:1": 0.0}) == "bob:1"


def test_a_little_waiting_is_no_reason_to_move():
    waits = {"alice:1": SETTINGS.move_wait_min_s, "bob:1": 0.0}
    assert policy.place({"alice:1": 1, "bob:1": 0}, waits) == "alice:1"
    waits["alice:1"] += 0.001
    assert policy.place({"alice:1": 1, "bob:1": 0}, waits) == "bob:1"


@pytest.mark.parametrize(("nbytes", "home"), [(10**8, "bob:1"), (10**9, "alice:1")])
def test_moving_must_save_twice_what_it_costs(nbytes, home):
    assert policy.place({"alice:1": nbytes, "bob:1": 0}, {"alice:1": 1.0, "bob:1": 0.0}) == home


def test_the_network_is_slower_than_a_machine():
    held = {"alice:1": 10**9, "alice:2": 0, "bob:1": 0}
    assert policy.place(held, {"alice:1": 1.0, "alice:2": 0.0, "bob:1": 0.0}) == "alice:2"
    assert policy.place(held, {"alice:1": 1.0, "alice:2": 0.9, "bob:1": 0.0}) == "alice:1"
    assert policy.bytes_per_s("[::1]:1", "[::1]:2") == SETTINGS.local_bytes_per_s
    assert policy.bytes_per_s("[::1]:1", "[::2]:1") == SETTINGS.network_bytes_per_s


def test_only_the_bytes_that_are_missing_count():
    held, waits = {"alice:1": 10**9, "bob:1": 10**9 - 10**6}, {"alice:1": 1.0, "bob:1": 0.0}
    assert policy.place(held, waits) == "bob:1"


def test_the_calmest_of_equals_is_the_one_that_holds_more():
    held, waits = {"alice:1": 3, "bob:1": 1, "carol:1": 2}, {"alice:1": 9.0, "bob:1": 0.0, "carol:1": 0.0}
    assert policy.place(held, waits) == "carol:1"


def test_the_order_of_candidates_decides_nothing():
    names = ["carol:1", "alice:1", "bob:1"]
    for order in (names, names[::-1]):
        assert policy.place(dict.fromkeys(order, 0), dict.fromkeys(order, 0.0)) == "alice:1"


@pytest.mark.parametrize(
    ("under_way", "busy_s", "mean_s", "count"),
    [
        (0, 0.0, None, 3),  # one more than there are cores
        (2, 0.0, None, 1),
        (9, 0.0, None, 0),
        (0, 0.0, 100.0, 3),  # also when they take for ever
        (0, 0.0, 0.001, 40),  # the window, on every core
        (20, 0.02, 0.001, 20),
        (40, 0.04, 0.001, 0),
        (0, 0.0, 0.0, 5000),  # no prediction below what any task costs
    ],
)
def test_room(under_way, busy_s, mean_s, count):
    settings = dataclasses.replace(SETTINGS, window_s=0.020, task_overhead_s=8e-6)
    assert policy.room(2, under_way, busy_s, mean_s, settings.window_s, settings) == count


def test_room_has_a_limit_in_tasks():
    settings = dataclasses.replace(SETTINGS, window_tasks_max=100)
    assert policy.room(2, 0, 0.0, 0.0, 1.0, settings) == 200
    assert policy.room(2, 250, 0.0, 0.0, 1.0, settings) == 0
