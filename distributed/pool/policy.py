"""Where a task should run, and how much work a worker should have under way: pure arithmetic, no state.

A task runs at the holder of most of its input bytes. It leaves that holder only when the waiting it saves clearly
exceeds the price of moving the missing bytes. Sizes count, never the number of keys.
"""

from __future__ import annotations

from collections.abc import Mapping

from distributed.config import SETTINGS, Settings


def transfer_s(nbytes: int, bytes_per_s: float) -> float:
    """How long it takes to bring `nbytes` to another worker.

    >>> round(transfer_s(10**9, bytes_per_s=10e9), 4)
    0.1001
    """
    return nbytes / bytes_per_s + 100e-6


def is_worth_moving(wait_saved_s: float, missing_bytes: int, bytes_per_s: float, settings: Settings = SETTINGS) -> bool:
    """Whether a task should leave the holder of its inputs.

    >>> is_worth_moving(wait_saved_s=0.04, missing_bytes=0, bytes_per_s=10e9)
    False
    >>> is_worth_moving(wait_saved_s=0.10, missing_bytes=10**6, bytes_per_s=10e9)
    True
    >>> is_worth_moving(wait_saved_s=0.10, missing_bytes=10**9, bytes_per_s=1e9)
    False
    """
    return wait_saved_s > max(settings.move_wait_min_s, 2 * transfer_s(missing_bytes, bytes_per_s))


def host_of(address: str) -> str:
    """The part of an address that names the machine.

    >>> host_of('alice:1'), host_of('[::1]:8787')
    ('alice', '[::1]')
    """
    return address.rpartition(":")[0]


def bytes_per_s(address: str, other: str, settings: Settings = SETTINGS) -> float:
    """How fast bytes get from one worker to another: addresses of one host are taken for one machine.

    >>> bytes_per_s('alice:1', 'alice:2') > bytes_per_s('alice:1', 'bob:1')
    True
    """
    return settings.local_bytes_per_s if host_of(address) == host_of(other) else settings.network_bytes_per_s


def place(held: Mapping[str, int], waits_s: Mapping[str, float], settings: Settings = SETTINGS) -> str:
    """The address where a task should run.

    `held` tells how many of the task's input bytes each candidate holds; `waits_s` how long a task sent there now would
    wait. Both name the same candidates, and at least one.

    The large input decides, even if Alice is a little busier:

    >>> place({'alice:1': 1000, 'bob:1': 10}, {'alice:1': 0.03, 'bob:1': 0.0})
    'alice:1'

    Much busier is another matter, and ties go to the address:

    >>> place({'alice:1': 1000, 'bob:1': 10}, {'alice:1': 3.0, 'bob:1': 0.0})
    'bob:1'
    >>> place({'bob:1': 0, 'alice:1': 0}, {'alice:1': 0.0, 'bob:1': 0.0})
    'alice:1'

    A gigabyte goes to another process of the machine, but not so easily over the network:

    >>> held = {'alice:1': 10**9, 'alice:2': 0, 'bob:1': 0}
    >>> place(held, {'alice:1': 1.0, 'alice:2': 0.0, 'bob:1': 0.0}), place(held, {'alice:1': 1.0, 'bob:1': 0.0})
    ('alice:2', 'alice:1')
    """
    holder = min(held, key=lambda address: (-held[address], address))
    speeds = {address: bytes_per_s(holder, address, settings) for address in waits_s}
    calmest = min(waits_s, key=lambda address: (waits_s[address], -held[address], -speeds[address], address))
    saved_s = waits_s[holder] - waits_s[calmest]
    if is_worth_moving(saved_s, held[holder] - held[calmest], speeds[calmest], settings):
        return calmest
    return holder


def room(
    ncores: int, under_way: int, busy_s: float, mean_s: float | None, window_s: float, settings: Settings = SETTINGS
) -> int:
    """How many more tasks of one kind a worker should be sent.

    Enough predicted work to cover the window on every core, but always one task more than there are cores, and no more
    than that while nobody knows how long a task takes.

    >>> room(ncores=4, under_way=0, busy_s=0.0, mean_s=None, window_s=0.01)
    5
    >>> room(ncores=4, under_way=5, busy_s=500.0, mean_s=100.0, window_s=0.01)
    0
    >>> room(ncores=4, under_way=100, busy_s=0.01, mean_s=0.0001, window_s=0.01)
    300

    A window that is nearly full is not topped up task by task:

    >>> room(ncores=4, under_way=350, busy_s=0.035, mean_s=0.0001, window_s=0.01)
    0
    """
    least = ncores + 1 - under_way
    if mean_s is None:
        return max(0, least)
    most = ncores * settings.window_tasks_max - under_way
    each_s = max(mean_s, settings.task_overhead_s)
    by_time = int((ncores * window_s - busy_s) / each_s)
    if by_time < ncores * window_s / each_s / 4:
        by_time = 0
    return max(0, least, min(most, by_time))


def share(queued: int, workers: int, ncores: int, mean_s: float | None, settings: Settings = SETTINGS) -> int:
    """How many tasks of a common queue one worker is sent at a time: not all to the first who asks.

    >>> share(queued=1000, workers=2, ncores=4, mean_s=1.0), share(queued=3, workers=2, ncores=4, mean_s=1.0)
    (250, 4)

    But never less than is worth a message, half of what an executor takes at a time: sixty workers that share five
    hundred tiny tasks would get nearly as many messages as tasks.

    >>> share(queued=500, workers=60, ncores=1, mean_s=1e-5)
    100
    """
    least = int(settings.batch_s / 2 / max(mean_s, settings.task_overhead_s)) if mean_s else 0
    return max(ncores, least, queued // (2 * workers))


def spread(size: int, cores: Mapping[str, int], idle: Mapping[str, int], held: Mapping[str, int]) -> dict[str, int]:
    """How many members of a group gather at each worker; together there are enough cores for them.

    On idle cores, if these are enough; and then at one worker, if one has enough: what is said there costs least.

    >>> spread(2, {'alice:1': 4, 'bob:1': 2}, {'alice:1': 1, 'bob:1': 2}, {})
    {'bob:1': 2}
    >>> spread(3, {'alice:1': 4, 'bob:1': 2}, {'alice:1': 1, 'bob:1': 2}, {})
    {'bob:1': 2, 'alice:1': 1}

    Else where there is most room, and inputs decide before that:

    >>> spread(5, {'alice:1': 4, 'bob:1': 2}, {'alice:1': 1, 'bob:1': 1}, {})
    {'alice:1': 4, 'bob:1': 1}
    >>> spread(2, {'alice:1': 4, 'bob:1': 2}, {'alice:1': 4, 'bob:1': 2}, {'bob:1': 10**9})
    {'bob:1': 2}
    """
    room = idle if sum(idle.values()) >= size else cores
    order = sorted(room, key=lambda address: (-held.get(address, 0), -room[address], address))
    enough = [address for address in order if room[address] >= size]
    if enough:
        return {enough[0]: size}
    counts: dict[str, int] = {}
    for address in order:
        count = min(room[address], size - sum(counts.values()))
        if count:
            counts[address] = count
    return counts
