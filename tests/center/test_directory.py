"""The directory says at any time what a plain table of reports says, however reports, losses and questions mix."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from distributed.center import directory as module
from distributed.center.directory import Directory, Registration, owners_of
from distributed.wire import messages as m

ADDRESSES = ["alice:1", "bob:1", "carol:1"]
KEYS = [f"a/{number}" for number in range(5)]
SOME_KEYS = st.lists(st.sampled_from(KEYS), max_size=6)
ADDRESS = st.sampled_from(ADDRESSES)
ROWS = st.lists(st.tuples(st.sampled_from(KEYS), st.integers(1, 3), st.integers(0, 9)), max_size=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), ADDRESS, ROWS),
        st.tuples(st.just("remove"), ADDRESS, SOME_KEYS),
        st.tuples(st.just("leave"), ADDRESS, st.none()),
        st.tuples(st.just("ask"), st.sampled_from(KEYS), st.none()),
    ),
    max_size=30,
)


def joined(directory: Directory, address: str, connection: int = 1) -> Registration:
    registration = Registration(m.Member(address, "one", address, 1, 1000, versions={"python": "3.11"}), connection)
    directory.join(registration)
    return registration


def add(directory: Directory, registration: Registration, keys: list[str]) -> None:
    directory.add(registration, keys, [1] * len(keys), [8] * len(keys))


@settings(max_examples=300, deadline=None)
@given(STEPS, st.sampled_from([0, 3, 1000]))
def test_the_directory_agrees_with_a_table_of_reports(steps, unindexed_max: int) -> None:
    usual, module.UNINDEXED_MAX = module.UNINDEXED_MAX, unindexed_max
    try:
        follow(steps)
    finally:
        module.UNINDEXED_MAX = usual


def follow(steps) -> None:
    directory, table = Directory(), {address: {} for address in ADDRESSES}
    for number, address in enumerate(ADDRESSES):
        joined(directory, address, number)
    for number, (what, which, rows) in enumerate(steps, start=len(ADDRESSES)):
        if what == "ask":
            assert directory.who_has(which) == {at: held[which] for at, held in table.items() if which in held}
        elif what == "add":
            directory.add(directory.members[which], *map(list, zip(*rows, strict=True)) if rows else ([], [], []))
            table[which].update((key, (attempt, nbytes)) for key, attempt, nbytes in rows)
        elif what == "remove":
            directory.remove(directory.members[which], rows)
            for key in rows:
                table[which].pop(key, None)
        else:
            directory.leave(directory.members[which])
            joined(directory, which, number)
            table[which] = {}
        directory.check()
        assert {address: each.has_what() for address, each in directory.members.items()} == table
    assert directory.count() == len({key for held in table.values() for key in held})
    for key in KEYS:
        assert directory.who_has(key) == {at: held[key] for at, held in table.items() if key in held}
    directory.check()


def test_keys_that_go_before_anybody_asks_never_enter_the_index() -> None:
    directory = Directory()
    alice, bob = joined(directory, "alice:1", 1), joined(directory, "bob:1", 2)
    add(directory, alice, ["x"])
    assert directory.who_has("x") == {"alice:1": (1, 8)}
    add(directory, bob, KEYS)
    directory.remove(bob, KEYS[1:])
    assert directory.holders == {"x": "alice:1"}
    assert directory.who_has(KEYS[0]) == {"bob:1": (1, 8)}
    assert set(directory.holders) == {"x", KEYS[0]}


def test_an_indexed_key_that_goes_does_not_bring_others_into_the_index() -> None:
    directory = Directory()
    alice, bob = joined(directory, "alice:1", 1), joined(directory, "bob:1", 2)
    add(directory, alice, ["x"])
    assert directory.who_has("x")
    add(directory, bob, KEYS)
    directory.remove(alice, ["x"])
    assert directory.holders == {}
    assert directory.who_has(KEYS[0]) == {"bob:1": (1, 8)}


def test_reports_that_wait_for_the_index_are_bounded_and_leave_with_the_last_key(monkeypatch) -> None:
    monkeypatch.setattr(module, "UNINDEXED_MAX", 4)
    directory = Directory()
    alice = joined(directory, "alice:1")
    add(directory, alice, KEYS[:2])
    directory.remove(alice, KEYS[:2])
    assert directory.unindexed == []
    for key in KEYS:
        add(directory, alice, [key])
    assert directory.unindexed == []
    assert len(directory.holders) == len(KEYS)


def test_too_many_reports_of_what_is_gone_are_struck_out_and_not_indexed(monkeypatch) -> None:
    monkeypatch.setattr(module, "UNINDEXED_MAX", 4)
    directory = Directory()
    alice = joined(directory, "alice:1")
    add(directory, alice, KEYS[:4])
    directory.remove(alice, KEYS[:3])
    add(directory, alice, KEYS[4:])
    assert directory.unindexed == [(alice, [KEYS[3]]), (alice, [KEYS[4]])]
    assert directory.holders == {}


def test_members_unlike_a_new_one_are_named_once_a_kind() -> None:
    directory = Directory()
    for number, address in enumerate(ADDRESSES):
        joined(directory, address, number)
    other = m.Member("dave:1", "one", "dave", 1, 1000, versions={"python": "3.13"})
    assert [member.address for member in directory.unlike(other)] == ["alice:1"]
    assert directory.unlike(directory.members["bob:1"].member) == []
    directory.leave(directory.members["alice:1"])
    assert [member.address for member in directory.unlike(other)] == ["bob:1"]


def test_a_prefix_that_two_owners_share_is_not_taken_for_one_owner() -> None:
    assert owners_of(["a/1", "a0/1", "a/2"]) == {"a", "a0"}
    assert owners_of(["a", "a/1"]) == {"", "a"}
    assert owners_of(["a/0", "a-b/1", "a/9"]) == {"a", "a-b"}
