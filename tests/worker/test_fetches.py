"""Which value is asked of whom, and what waits when there is no room for it."""

from __future__ import annotations

from typing import Any

import pytest

from distributed.config import SETTINGS
from distributed.worker.events import Fetch
from distributed.worker.fetches import Fetches
from distributed.worker.store import Store

BOB, CAROL = "bob:1", "carol:1"
SIZE = 100_000


@pytest.fixture
def out() -> list[Any]:
    return []


@pytest.fixture
def fetches(out: list[Any]) -> Fetches:
    """There is room for two values of `SIZE`."""
    return Fetches(SETTINGS, Store(2 * SIZE, out), "alice:1", out)


def want(fetches: Fetches, *keys: str, nbytes: int = SIZE) -> None:
    for key in keys:
        assert fetches.want(f"task of {key}", key, 1, nbytes, [BOB]) is None


def come(fetches: Fetches, number: int, *keys: str) -> None:
    here, missing = fetches.fetched(number, [SIZE] * len(keys), [None] * len(keys), [f"/m/{key}" for key in keys])
    assert [wanted.key for wanted, _ in here] == list(keys)
    assert missing == []
    for _, entry in here:
        fetches.store.use(entry)
    fetches.check()


def test_what_does_not_fit_waits_for_what_is_under_way_and_for_tasks_that_will_end(fetches, out):
    want(fetches, "x", "y", "z")
    assert fetches.pump(more_will_go=False) == []
    assert out == [Fetch(1, BOB, ["x", "y"], [1, 1], [SIZE, SIZE])]
    assert fetches.pump(more_will_go=False) == [], "two are under way"
    come(fetches, 1, "x", "y")
    assert fetches.pump(more_will_go=True) == [], "their tasks run"
    entry = fetches.store.entries["x"]
    fetches.store.let_go(entry)
    assert fetches.pump(more_will_go=True) == []
    assert out[-1] == Fetch(2, BOB, ["z"], [1], [SIZE])
    fetches.check()


def test_when_nothing_will_go_one_is_given_up_for_the_others(fetches):
    want(fetches, "x", "y")
    fetches.pump(more_will_go=False)
    come(fetches, 1, "x", "y")  # their tasks want more
    want(fetches, "z", "w")
    (hopeless,) = fetches.pump(more_will_go=False)
    assert hopeless.key == "z"
    fetches.drop(hopeless)
    fetches.check()
    assert [key for key, _ in fetches.wants] == ["w"]


def test_what_is_larger_than_the_memory_is_given_up_at_once_and_the_others_go(fetches, out):
    want(fetches, "huge", nbytes=3 * SIZE)
    want(fetches, "x")
    (hopeless,) = fetches.pump(more_will_go=True)
    assert hopeless.key == "huge"
    assert out == [Fetch(1, BOB, ["x"], [1], [SIZE])]
    fetches.drop(hopeless)
    fetches.check()


def test_another_holder_is_asked_when_the_first_does_not_have_it(fetches, out):
    assert fetches.want("task", "x", 1, SIZE, [BOB, CAROL]) is None
    fetches.pump(more_will_go=False)
    assert fetches.fetched(1, [-1], [None], [""]) == ([], [])
    fetches.pump(more_will_go=False)
    assert [fetch.peer for fetch in out] == [BOB, CAROL]
    ((missing,),) = (fetches.fetched(2, [-1], [None], [""])[1],)
    assert (missing.key, missing.refused) == ("x", [BOB, CAROL])
