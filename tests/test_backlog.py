"""Tries that may take long are begun in order, by no more threads than may be."""

import threading

from distributed.backlog import Backlog

PATIENCE_S = 20.0


def test_all_are_made_in_order_by_one_thread():
    made, over = [], threading.Event()
    backlog = Backlog(threads_max=1)
    for number in range(100):
        backlog.add(lambda number=number: made.append((number, threading.get_ident())))
    backlog.add(over.set)
    assert over.wait(PATIENCE_S)
    assert [number for number, _ in made] == list(range(100))


def test_no_more_threads_than_may_be_try_at_one_time():
    backlog, lock, go_on = Backlog(threads_max=3), threading.Lock(), threading.Event()
    trying, begun, done = [0], threading.Semaphore(0), threading.Semaphore(0)
    most = [0]

    def attempt():
        with lock:
            trying[0] += 1
            most[0] = max(most[0], trying[0])
        begun.release()
        assert go_on.wait(PATIENCE_S)
        with lock:
            trying[0] -= 1
        done.release()

    for _ in range(10):
        backlog.add(attempt)
    assert all(begun.acquire(timeout=PATIENCE_S) for _ in range(3))
    go_on.set()
    assert all(done.acquire(timeout=PATIENCE_S) for _ in range(10))
    assert most == [3]


def test_what_has_not_begun_is_dropped_and_what_has_goes_on():
    backlog, begun, go_on, over, made = Backlog(1), threading.Event(), threading.Event(), threading.Event(), []

    def attempt():
        begun.set()
        assert go_on.wait(PATIENCE_S)
        over.set()

    backlog.add(attempt)
    backlog.add(lambda: made.append("never"))
    assert begun.wait(PATIENCE_S)
    backlog.clear()
    go_on.set()
    assert over.wait(PATIENCE_S)
    later = threading.Event()
    backlog.add(later.set)
    assert later.wait(PATIENCE_S), "and new ones are made"
    assert made == []


def test_a_try_that_breaks_costs_no_thread(caplog):
    backlog, over = Backlog(threads_max=1), threading.Event()
    for _ in range(3):
        backlog.add(lambda: 1 // 0)
    backlog.add(over.set)
    assert over.wait(PATIENCE_S)
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError] * 3
