"""A status for people at a terminal. Pure text; the numbers come from whoever was asked."""

from __future__ import annotations

from typing import Any

from distributed.quantities import count, size
from distributed.resources import used_of


def format_status(address: str, status: dict[str, Any]) -> str:
    """A status for people: of a center as a table, of anything else line by line.

    >>> print(format_status('alice:1', {'role': 'worker', 'queued': 2}))
    role: worker
    queued: 2
    """
    if status.get("role") != "center":
        return "\n".join(f"{name}: {value}" for name, value in status.items())
    members = status["members"]
    cores = sum(member["ncores"] for member in members)
    lines = [
        f"Center {address}: {count(len(members), 'worker')}, {count(cores, 'core')}, {count(status['keys'], 'key')}, "
        f"{size(status['nbytes'])}, {count(len(status['clients']), 'client')}, up for {status['uptime_s']:.0f} s"
    ]
    if status.get("spliced"):
        lines.append(f"passes on {status['spliced']} connections to workers that cannot be reached directly")
    if members:
        heads = ["worker", "name", "cores", "running", "queued", "keys", "bytes", "spilled", "resources", "what runs"]
        lines += ["", *_table(_without_empty([heads, *map(_member_row, members)]))]
    if status["names"]:
        lines += ["", *_table([["name", "key"], *([name, key] for name, key in status["names"].items())])]
    return "\n".join(lines)


def _member_row(member: dict[str, Any]) -> list[str]:
    numbers = [str(member[name]) for name in ("ncores", "running", "queued", "keys")]
    sizes = [size(member["nbytes"]), size(member["spilled_bytes"])]
    runs = ", ".join(dict.fromkeys([*["(leaving)"] * bool(member.get("leaving")), *member["running_names"]]))
    address = member["address"] + " via center" * bool(member.get("relayed"))
    return [address, member["name"], *numbers, *sizes, _resources(member), runs]


def _resources(member: dict[str, Any]) -> str:
    return used_of(member.get("resources_used", {}), member.get("resources", {}))


def _without_empty(rows: list[list[str]]) -> list[list[str]]:
    """The table without the column of resources where nobody has any."""
    at = rows[0].index("resources")
    return rows if any(row[at] for row in rows[1:]) else [[*row[:at], *row[at + 1 :]] for row in rows]


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
