"""Local clusters of real processes: they start, grow, shrink, and end with whoever started them."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
import time

import pytest

from distributed.cluster.local import Cluster, embedded
from distributed.errors import BadAddress, StartFailed


def answers(address: str) -> bool:
    return (
        subprocess.run(
            [sys.executable, "-m", "distributed", "status", address], capture_output=True, check=False
        ).returncode
        == 0
    )


def test_a_cluster_starts_scales_and_ends() -> None:
    with Cluster(n_workers=1, ncores=1) as cluster:
        assert answers(cluster.center_address)
        [first] = cluster.workers
        cluster.scale(2)
        assert len(cluster.workers) == 2
        assert cluster.workers[0] == first
        cluster.scale(1)
        assert cluster.workers == [first]
        assert repr(cluster) == f"<Cluster {cluster.center_address}: 1 worker>"
    assert repr(cluster) == "<Cluster: closed>"
    assert not answers(cluster.center_address)
    cluster.close()
    with pytest.raises(ValueError, match="closed"):
        cluster.scale(1)


def test_workers_and_center_listen_where_they_are_told() -> None:
    with Cluster(n_workers=1, ncores=1) as free:
        center, [host] = free.center_address, free.workers
    with Cluster(hosts=[host], center=center, ncores=1) as cluster:
        assert (cluster.center_address, cluster.workers) == (center, [host])


def test_a_port_in_use_fails_the_start_with_the_daemons_own_words_and_leaves_nothing() -> None:
    with (
        Cluster(n_workers=0) as cluster,
        pytest.raises(StartFailed, match=rf"{cluster.center_address}.*another program uses"),
    ):
        Cluster(n_workers=1, center=cluster.center_address)


def test_wrong_arguments_start_nothing() -> None:
    with pytest.raises(ValueError, match="hosts names 1"):
        Cluster(n_workers=2, hosts=["127.0.0.1:0"])
    with pytest.raises(BadAddress):
        Cluster(hosts=["127.0.0.1:x"])
    with pytest.raises(ValueError, match="is not a size"):
        Cluster(n_workers=1, memory_limit="lots")


def test_an_embedded_cluster_is_quick_and_ends() -> None:
    started = time.monotonic()
    small = embedded(1)
    ready_s = time.monotonic() - started
    assert answers(small.address)
    small.close()
    assert not answers(small.address)
    small.close()
    assert ready_s < 5


@pytest.mark.parametrize("last_deed", ["os.kill(os.getpid(), 9)", "os._exit(1)", "sys.exit(0)"])
@pytest.mark.parametrize("start", ["embedded(1)", "Cluster(n_workers=1, ncores=1)"])
def test_daemons_end_with_the_process_that_started_them(start: str, last_deed: str) -> None:
    program = f"""
        import os, sys
        from distributed.cluster.child import CHILDREN
        from distributed.cluster.local import Cluster, embedded
        cluster = {start}
        print(*[daemon._process.pid for daemon in CHILDREN], flush=True)
        sys.stdin.readline()
        {last_deed}
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        handles = [os.pidfd_open(int(pid)) for pid in client.stdout.readline().split()]
        assert handles
        client.communicate("\n")
    for handle in handles:
        assert select.select([handle], [], [], 10)[0], "a daemon outlived its client"
        os.close(handle)


def test_a_forked_child_neither_ends_nor_keeps_the_daemons() -> None:
    with Cluster(n_workers=0) as cluster:
        child = os.fork()
        if not child:
            cluster.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert answers(cluster.center_address)
