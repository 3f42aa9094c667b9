"""Fetching from a worker that was started again on its address: who asks may know of it sooner than we do."""

from __future__ import annotations

import dataclasses
import socket

import pytest

from distributed.relay import Roads
from distributed.wire.messages import Member
from distributed.wire.security import Secret
from distributed.worker import fetch as fetch_module
from distributed.worker.events import Fetch, Fetched, FetchFailed
from distributed.worker.fetch import Fetcher
from distributed.worker.files import Files
from tests.test_bulk import DirectoryStore
from tests.test_tls import Daemon

SECRET = Secret.create()
BEFORE, NOW = "dead" * 4, "f00d" * 4


@pytest.fixture
def daemon(tmp_path):
    store = DirectoryStore(tmp_path / "theirs")
    store.directory.mkdir()
    store.hold("x", b"abc")
    daemon = Daemon(SECRET, store, NOW)
    yield daemon
    daemon.close()


@pytest.fixture
def fetching(daemon, tmp_path):
    """A fetcher that knows the worker as it was before."""
    files = Files(str(tmp_path))
    members = {daemon.address: Member(daemon.address, BEFORE, "bob", 1, 1 << 30)}
    fetcher = Fetcher(files, Roads("", "worker", SECRET), members)
    yield fetcher, members
    fetcher.close()
    files.close()


class News(dict):
    """Members of whom the center tells something new after they have been looked at."""

    def get(self, address):
        known = super().get(address)
        self[address] = dataclasses.replace(known, incarnation=NOW)
        return known


def test_what_its_successor_holds_is_fetched_as_soon_as_the_center_has_told_of_it(daemon, fetching):
    fetcher, members = fetching
    fetcher._members = News(members)
    ended = fetcher.submit(Fetch(1, daemon.address, ["x"], [1], [3])).result(20)
    assert isinstance(ended, Fetched)
    assert ended.values == [b"abc"]


def test_without_news_it_is_a_failed_fetch_that_says_why(daemon, fetching, monkeypatch):
    monkeypatch.setattr(fetch_module, "NEWS_WAIT_S", 0.0)
    ended = fetching[0].submit(Fetch(1, daemon.address, ["x"], [1], [3])).result(20)
    assert isinstance(ended, FetchFailed)
    assert "another worker answers there than the one that was meant" in ended.reason


def test_whoever_is_there_is_asked_where_nothing_is_known_yet(daemon, fetching):
    fetcher, members = fetching
    members.clear()
    assert isinstance(fetcher.submit(Fetch(1, daemon.address, ["x"], [1], [3])).result(20), Fetched)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
    assert isinstance(fetcher.submit(Fetch(2, address, ["x"], [1], [3])).result(20), FetchFailed)
