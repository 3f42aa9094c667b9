"""The status page, over a real socket: who gets in, who does not, and that nothing can be changed."""

from __future__ import annotations

import asyncio
import http.client
import json
from urllib.parse import urlsplit

import pytest

from distributed.errors import StartFailed
from distributed.web.status import StatusPage
from distributed.web.terminal import format_status

STATUS = {
    "role": "center",
    "address": "127.0.0.1:8787",
    "uptime_s": 12.0,
    "members": [
        {
            "address": "127.0.0.1:1",
            "name": "alice",
            "ncores": 2,
            "running": 1,
            "queued": 0,
            "keys": 3,
            "nbytes": 2048,
            "stored_bytes": 2048,
            "spilled_bytes": 0,
            "memory_limit": 1 << 30,
            "running_names": ["module.f"],
            "resources": {"gpu": 2, "license": 1},
            "resources_used": {"gpu": 1},
        }
    ],
    "clients": [],
    "names": {"table": "x"},
    "keys": 3,
    "nbytes": 2048,
}


def visit(path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    """What the page answers; TOKEN in the path stands for the real one, HOST in a header for the real host."""

    def request(link: str) -> tuple[int, dict[str, str], str]:
        parts = urlsplit(link)
        connection = http.client.HTTPConnection(parts.netloc, timeout=10)
        try:
            given = {name.replace("_", "-"): value.replace("HOST", parts.netloc) for name, value in headers.items()}
            connection.request(method, path.replace("/TOKEN/", parts.path), headers=given)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()
        finally:
            connection.close()

    async def run() -> tuple[int, dict[str, str], str]:
        page = StatusPage(lambda: STATUS, "127.0.0.1")
        try:
            return await asyncio.to_thread(request, page.link)
        finally:
            await page.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("name", "kind", "part"),
    [
        ("", "text/html", "<h2>Workers</h2>"),
        ("status.css", "text/css", "table"),
        ("status.js", "text/javascript", "fetch("),
    ],
)
def test_the_link_opens_the_page_and_its_parts(name: str, kind: str, part: str) -> None:
    code, headers, body = visit(f"/TOKEN/{name}")
    assert (code, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
    assert part in body


def test_the_numbers_come_as_json_and_are_never_cached() -> None:
    code, headers, body = visit("/TOKEN/status.json", Origin="http://HOST", Sec_Fetch_Site="same-origin")
    assert (code, json.loads(body)) == (200, STATUS)
    assert headers["Cache-Control"] == "no-store"


def test_the_page_refers_to_its_parts_by_relative_addresses_only() -> None:
    _, headers, body = visit("/TOKEN/")
    assert "//" not in body
    assert 'src="/' not in body
    assert 'href="/' not in body
    assert "default-src 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/wrong/status.json", {}),
        ("/wr%C3%B6ng/status.json", {}),
        ("/TOKEN/status.json", {"Host": "evil.example"}),
        ("/TOKEN/status.json", {"Origin": "http://evil.example"}),
        ("/TOKEN/status.json", {"Origin": "null"}),
        ("/TOKEN/status.json", {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "cors"}),
    ],
)
def test_strangers_and_other_origins_are_refused(path: str, headers: dict[str, str]) -> None:
    code, _, body = visit(path, **headers)
    assert code == 403
    assert "members" not in body


@pytest.mark.parametrize("path", ["/", "/status.json", "/TOKEN/../secret", "/TOKEN/status.py", "/TOKEN/x/status.json"])
def test_there_is_nothing_else(path: str) -> None:
    assert visit(path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(method: str) -> None:
    assert visit("/TOKEN/status.json", method)[0] == 405


def test_a_port_in_use_is_one_sentence() -> None:
    async def run() -> None:
        page = StatusPage(lambda: STATUS, "127.0.0.1")
        try:
            with pytest.raises(StartFailed, match=f"127.0.0.1:{page.port} for the status page: another program"):
                StatusPage(lambda: STATUS, "127.0.0.1", page.port)
        finally:
            await page.close()

    asyncio.run(run())


def test_the_terminal_shows_members_cores_keys_bytes_and_what_runs() -> None:
    lines = format_status("127.0.0.1:8787", STATUS).splitlines()
    assert lines[0] == "Center 127.0.0.1:8787: 1 worker, 2 cores, 3 keys, 2.0 KiB, 0 clients, up for 12 s"
    row = "127.0.0.1:1 alice 2 1 0 3 2.0 KiB 0 B gpu 1/2, license 0/1 module.f"
    assert lines[3].split() == row.split()


def test_the_terminal_says_who_is_reached_through_the_center() -> None:
    relayed = STATUS | {"spliced": 2, "members": [{**member, "relayed": True} for member in STATUS["members"]]}
    lines = format_status("127.0.0.1:8787", relayed).splitlines()
    assert lines[1] == "passes on 2 connections to workers that cannot be reached directly"
    assert lines[4].startswith("127.0.0.1:1 via center  alice")
