"""Every default and every limit, each with its unit in its name.

A setting is changed by an environment variable of its name in capitals, for the daemons and clients started with it::

    DISTRIBUTED_CLIENT_LEASE_S=60 dcenter
"""

from __future__ import annotations

import dataclasses
import math
import os

KIB, MIB = 1 << 10, 1 << 20


@dataclasses.dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Settings:
    """The settings of one process; `SETTINGS` is the instance that everything uses unless a test brings its own."""

    # connections
    connect_timeout_s: float = 10.0
    handshake_timeout_s: float = 10.0
    handshakes_under_way_max: int = 1024  # when one more begins, the oldest is dropped
    frame_header_bytes_max: int = 256 * MIB  # of an authenticated peer
    frame_buffers_max: int = 4096
    frame_bytes_max: int = 1 << 40
    write_buffer_bytes_max: int = 64 * MIB  # a peer that reads so slowly that more piles up is paused, then cut
    connection_close_s: float = 2.0  # a peer that reads nothing holds up the end of its connection no longer
    reconnect_interval_s: float = 0.5
    bulk_connections_max: int = 128  # of one worker, a thread each; one more closes the one idle for longest
    direct_connect_s: float = 3.0  # who does not answer so soon, and may be reached through the center, is reached so
    direct_again_s: float = 60.0  # and no direct way is tried before this time is over
    dial_back_s: float = 10.0  # a worker that was asked to dial back to the center does so within this time
    spliced_connections_max: int = (
        4096  # through one center; each takes two descriptors, all of them a third of what it has
    )
    spliced_idle_s: float = 120.0  # one for values over which so long nothing came is ended: others need its place
    spliced_bytes_max: int = 64 * KIB  # under way in the center in each direction of one of them
    keys_per_request_max: int = 256  # each large value is an open file at the holder while it answers
    silent_worker_s: float = 30.0  # a center's or worker's machine that answers nothing, not even probes, is gone

    center_away_s: float = 60.0  # what needs the center waits so long for it to come back, or to answer

    # center
    report_interval_s: float = 0.05  # workers tell the center about keys at most this late
    load_interval_s: float = 1.0  # workers tell the center about their load
    closed_client_lease_s: float = 30.0  # a client whose socket closed may come back within this time
    client_lease_s: float = 600.0  # the same for a client's machine; a client that is only stopped has no end
    borrow_wait_s: float = 5.0  # how long an unknown borrowed key may take to appear
    borrowers_waiting_max: int = 10_000  # requests that wait at one time; others hear at once what is known
    exported_keys_max: int = 1_000_000  # remembered of one client; older ones are as if they had never been exported
    withdrawn_keys_max: int = 10_000  # remembered of one client; of older ones a borrower hears only that they are gone
    names_max: int = 100_000  # published at one time
    names_back_s: float = 1.0  # in which workers come back to a center that was started again, with the names they know
    publish_wait_s: float = 60.0  # until what a name shall keep is at a worker that has heard of it; else it is refused
    unborn_keys_max: int = 10_000  # deleted at a worker before they were put there, by a writer that gave up
    unpublished_names_max: int = 10_000  # remembered, so that a worker which was away does not bring them back

    # values
    inline_bytes_max: int = 64 * KIB  # above: a file
    reply_inline_bytes_max: int = 4 * KIB  # results up to this size ride back in the completion message
    out_of_band_bytes_min: int = 4 * KIB
    upload_bytes_max: int = 32 * MIB  # of code, in one upload; every executor keeps what it uses
    spread_bytes_min: int = 64 * KIB  # an argument or function larger than this becomes a stored value
    hidden_bytes_max: int = 1 * MIB  # so much of one call's arguments may travel along because nothing shows their size
    payload_bytes_max: int = 128 * MIB  # of one call's arguments beside handles, which cannot become stored values
    exception_bytes_max: int = 16 * MIB  # a larger one that a task raises arrives in words

    # how many of something one call starts: more is a slip of the hand, and would be the end of the machine
    executors_max: int = 4096  # of one worker, also the one inside of a pool
    workers_started_max: int = 1000  # of one local cluster
    ssh_starting_max: int = 8  # that connect at one time: an sshd on the way, or a jump host, drops more by default

    # worker
    window_s: float = 0.020  # predicted work under way at a worker, for each core
    window_tasks_max: int = 4096  # per executor
    task_overhead_s: float = 8e-6  # what even a trivial task costs; no prediction goes below it
    window_bytes_max: int = 64 * MIB  # of arguments under way at one worker
    batch_s: float = 0.002  # predicted work under way at one executor
    batch_tasks_max: int = 512
    ahead_s: float = 0.05  # a task predicted to take no longer may wait at a busy executor, ready to run
    asynchronous_tasks_max: int = 1000  # coroutines of tasks under way in the asynchronous executor, and as many that
    # these submitted, and so on
    coroutine_depth_max: int = 1000  # under way, each submitted by the one before; one more gets NestingTooDeep
    flush_interval_s: float = 0.001  # an executor holds back finished results at most this long
    blocked_executors_max: int = 200  # of one worker, whose tasks wait for tasks; one more gets NestingTooDeep
    crowded_executors_min: int = 16  # when these and two for each core wait only deeper tasks begin beside others
    kept_slot_s: float = 0.02  # a slot given back by a task that waits is kept so long for the tasks it waits for
    surplus_executors_s: float = 2.0  # executors that nobody needs since those that waited went on stay so long
    requeues_max: int = 5  # a task queued again so often, when an executor died and none was seen to run, crashed it
    look_interval_s: float = 0.02  # how soon to look again for a cancelled task that was not running yet
    coroutine_yield_s: float = 1.0  # how long a cancelled coroutine may take to end before its executor is killed
    unread_bytes_max: int = 64 * MIB  # of messages to a member of a group that it has not read; then senders wait
    drain_timeout_s: float = 60.0  # a worker that was asked to leave goes at last, whatever runs, whatever it holds
    drain_interval_s: float = 0.02  # it looks so often for what else there is to hand over
    drain_retry_s: float = 1.0  # when nobody had room for a value, somebody may have it now
    drain_center_s: float = 5.0  # how long it waits for a center that is away, and for others to find one that is back
    drain_kill_s: float = 2.0  # how long the end of tasks may take that run when its time is over
    adoptions_keys_max: int = 512  # under way to one worker at a time, on behalf of workers that leave,
    adoptions_bytes_max: int = 256 * MIB  # and so much
    offered_keys_max: int = 10_000  # in one message
    respawn_pause_s: float = 0.1  # after an executor that ended before it ran anything; doubled each time in a row,
    respawn_pause_max_s: float = 10.0  # up to this
    spill_retry_s: float = 1.0  # after spilling failed
    spill_free_fraction: float = 0.05  # of the disk that is left to others
    spill_disk_bytes_min: int = 1024 * MIB  # with less free room no disk is chosen for spilling unless it was named
    return_fraction: float = 0.7  # what is on disk and in use comes back while memory is no fuller than this
    return_pause_s: float = 0.1  # but not what is given up so soon after it was used
    room_patience_s: float = 60.0  # a task, or a writer, that finds no room for a value waits so long
    file_threads_max: int = 4  # of those that allocate and spill; fetches have their own
    spare_bytes_max: int = 1024 * MIB  # of files that were removed and are kept to be filled again
    spare_age_s: float = 15.0  # those that nobody needed for so long, or up to twice as long, are given back
    fetch_threads_max: int = 16
    start_timeout_s: float = 30.0  # of a daemon that a cluster starts, and of the process that starts executors
    fetches_per_peer_max: int = 2
    fetch_bytes_max: int = 64 * MIB  # several keys in one request, up to this size
    functions_cached_max: int = 1024
    functions_cached_bytes_max: int = 64 * MIB
    stderr_tail_lines: int = 20
    output_bytes_per_s_max: int = 1 * MIB
    output_backlog_bytes_max: int = 256 * KIB  # to a client that does not read; then only results go there
    memory_fraction: float = 0.6  # default memory limit of a worker's store, as a part of what is there
    task_memory_fraction: float = 0.9  # the same for what one executor may have of its own
    task_memory_interval_s: float = 0.05  # how often an executor near that limit is looked at
    executor_oom_score: int = 500  # added to the kernel's score (0 to 1000) of whom to kill when memory runs out
    client_share_horizon_s: float = 2.0  # how far an idle client may save up executor time

    # pool
    attempts_max: int = 3
    receive_buffers_bytes_max: int = 512 * MIB  # that wait, reclaimable, for the next values that come over sockets
    lineage_bytes_max: int = 64 * MIB
    scattered_value_bytes_max: int = 1 * MIB  # a scattered value up to this size stays at its client, too
    scattered_bytes_max: int = 64 * MIB  # of all that stay there; beyond it the oldest ones go
    workers_compared_max: int = 64  # when one of many is looked for: the best of so many will do
    move_wait_min_s: float = 0.05  # leave the holder of the inputs only if it saves more waiting than this
    local_bytes_per_s: float = 10e9  # between workers of one machine
    network_bytes_per_s: float = 1e9  # until measured
    no_worker_grace_s: float = 30.0
    unmet_demand_grace_s: float = 30.0  # what asks for more than anybody in the cluster has waits so long for somebody
    resources_max: int = 64  # kinds of them that a worker has, or a task asks for
    members_max: int = 4096  # of one group
    reach_member_s: float = 30.0  # a member of a group tries for so long to reach the worker of another one
    name_characters_max: int = 4096  # of keys and published names
    no_worker_warning_s: float = 8.0  # who waits where no worker is hears it, once after the last submit
    progress_warning_s: float = 60.0  # the watchdog names a task that has not moved for this long
    close_timeout_s: float = 5.0
    dialling_threads_max: int = 16  # connections to workers that are being made at one time
    spin_s: float = 0.0003  # a caller that waits for the only task under way looks for its result so long, then sleeps
    uvloop: int = 1  # daemons, and the coroutines of tasks, run on it where it is installed; 0: on asyncio's own loop
    linger_s: float = 0.001  # a caller that waited leaves the connection to itself this long before the thread takes it

    def __init__(self, **changed: object) -> None:
        """The defaults but for these. By hand: to generate it would be most of what importing this module takes."""
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, changed.pop(field.name, field.default))
        if changed:
            raise TypeError(f"there is no setting {', '.join(map(repr, changed))}")

    @classmethod
    def from_environment(cls) -> Settings:
        """The defaults, overridden by DISTRIBUTED_* variables; a value of the wrong type is an error that names it."""
        changed: dict[str, object] = {}
        for field in dataclasses.fields(cls):
            name = f"DISTRIBUTED_{field.name.upper()}"
            if name in os.environ:
                kind: type = type(field.default)
                try:
                    changed[field.name] = number = kind(os.environ[name])
                    if not 0 <= number < math.inf:  # nor NaN: no message could carry it
                        raise ValueError
                except ValueError:
                    right = "a whole number" if kind is int else "a finite number"
                    raise ValueError(f"{name}={os.environ[name]!r} is not {right}, 0 or more") from None
        return cls(**changed)


SETTINGS = Settings.from_environment()
