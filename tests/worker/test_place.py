"""Where a worker listens and how it is announced, whatever it was told."""

import socket

import pytest

from distributed.errors import BadAddress
from distributed.worker.place import Place

NEAR, FAR, TUNNEL = "127.0.0.1:8787", "198.51.100.1:8787", "127.0.0.1:8787?tunnel=/x.tunnel"


def place(host=None, announce=None, via_center=False, plain=False):
    return Place(host, 0, announce, via_center, plain)


@pytest.mark.parametrize(
    ("told", "center", "is_encrypted", "host", "via_center"),
    [
        (place(), NEAR, False, "127.0.0.1", False),
        (place(), NEAR, True, "127.0.0.1", False),
        (place(), FAR, False, "127.0.0.1", True),
        (place(), FAR, True, "towards", False),
        (place(plain=True), FAR, False, "towards", False),
        (place(), TUNNEL, True, "127.0.0.1", True),
        (place(plain=True), TUNNEL, False, "127.0.0.1", True),
        (place(via_center=True), NEAR, False, "127.0.0.1", True),
        (place(via_center=True), FAR, True, "127.0.0.1", True),
        (place("127.0.0.1"), NEAR, False, "127.0.0.1", False),
        (place("127.0.0.1"), FAR, False, "127.0.0.1", True),
        (place("127.0.0.1", announce="gateway"), FAR, False, "127.0.0.1", False),
        (place("127.0.0.1", via_center=True), NEAR, False, "127.0.0.1", True),
        (place("10.0.0.8"), FAR, True, "10.0.0.8", False),
        (place("10.0.0.8", plain=True), FAR, False, "10.0.0.8", False),
    ],
)
def test_what_was_not_told_is_safe_and_works(monkeypatch, told, center, is_encrypted, host, via_center):
    monkeypatch.setattr("distributed.machine.address_towards", lambda _: "towards")
    settled = told.settled(center, is_encrypted)
    assert (settled.host, settled.via_center) == (host, via_center)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (place("10.0.0.8"), "there is no TLS credential here"),
        (place("10.0.0.8", via_center=True, plain=True), "leave out --host, or --via-center"),
    ],
)
def test_what_does_not_go_together_is_refused(told, says):
    with pytest.raises(BadAddress, match=says):
        told.settled(FAR, is_encrypted=False)


@pytest.mark.parametrize(
    ("told", "listening", "address"),
    [
        (place("127.0.0.1"), "127.0.0.1:40123", "127.0.0.1:40123"),
        (place("10.0.0.8", announce="gateway"), "10.0.0.8:40123", "gateway:40123"),
        (place("127.0.0.1", via_center=True), "127.0.0.1:40123", f"{socket.gethostname()}:40123"),
        (place("127.0.0.1", announce="maxi", via_center=True), "127.0.0.1:40123", "maxi:40123"),
        (place("0.0.0.0"), "0.0.0.0:40123", "towards:40123"),
        (place("::", announce="fe80::1"), "[::]:40123", "[fe80::1]:40123"),
    ],
)
def test_it_is_announced_where_others_find_it(monkeypatch, told, listening, address):
    monkeypatch.setattr("distributed.machine.address_towards", lambda _: "towards")
    assert told.announced(listening, FAR) == address


def test_a_machine_without_a_usable_name_is_announced_all_the_same(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "my machine")
    assert place("127.0.0.1", via_center=True).announced("127.0.0.1:40123", FAR) == "127.0.0.1:40123"
