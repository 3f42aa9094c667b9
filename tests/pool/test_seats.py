"""The pool's mind: what is for one executor alone, as `Pool.run_on_all` submits it."""

from __future__ import annotations

import dataclasses

from distributed.errors import TaskCrashed
from distributed.pool.events import Submitted
from distributed.pool.tasks import READY, SENT, Kind, Options
from distributed.wire.messages import Compute
from tests.pool.test_state import ALICE, Bench, kind, sent


def for_seat(seat: int, address: str = ALICE) -> Kind:
    return dataclasses.replace(kind(workers=frozenset({address})), seat=seat)


def test_what_is_for_one_executor_is_sent_at_once_however_full_the_worker_is() -> None:
    bench = Bench(ALICE, ncores=2)
    plain = [bench.submit() for _ in range(5)]
    mine = [bench.task(kind=for_seat(seat)) for seat in (0, 1)]
    assert [(where, what.seat) for where, what in sent(bench.on(Submitted(mine)), Compute)] == [(ALICE, 0), (ALICE, 1)]
    assert [task.status for task in plain].count(SENT) == 3


def test_what_is_for_one_executor_waits_for_a_worker_with_so_many() -> None:
    bench = Bench(ALICE, ncores=2)
    task = bench.submit(kind=for_seat(2))
    assert task.status == READY
    assert task.key in bench.state.placement.stranded


def test_what_was_sent_for_one_executor_uses_up_an_attempt_when_the_worker_is_lost() -> None:
    bench = Bench(ALICE, ncores=1)
    for _ in range(2):
        bench.submit()
    task = bench.submit(kind=dataclasses.replace(for_seat(0), options=Options(workers=frozenset({ALICE}), attempts=1)))
    bench.lose(ALICE)
    assert isinstance(task.outcome, TaskCrashed)
