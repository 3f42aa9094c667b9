"""The queue: order within a client, shares between clients."""

import heapq
import itertools

import pytest

from distributed.worker.queue import FairQueue


class Tasks:
    """A part: tasks of one function, with names of one letter. `depth`: how many tasks are above them."""

    depth, together = 0, False

    def __init__(self, names, function="f"):
        self.names, self.function, self.queued = names, function, False

    def __len__(self):
        return len(self.names)

    def split(self, count):
        rest = Tasks(self.names[count:], self.function)
        rest.queued, self.names = self.queued, self.names[:count]
        return rest

    def join(self, behind):
        if not self.names.isupper() or not behind.names.isupper():
            return False
        self.names += behind.names
        return True


def names_of(parts):
    return "".join(part.names for part in parts)


def take(queue, count=100):
    taken = ""
    while len(taken) < count and (client := queue.turn()) is not None:
        taken += names_of(queue.take(client, count - len(taken), 0.0))
        queue.check()
    return taken


def queue_for(executors=1):
    return FairQueue(2.0, executors)


def test_tasks_run_by_priority_then_consumers_before_producers_then_in_order_of_arrival():
    queue = queue_for()
    queue.put("alice", Tasks("ab"), 1.0, producer=True)
    queue.put("alice", Tasks("cd"), 0.0, producer=True)
    queue.put("alice", Tasks("ef"), 0.0, producer=False)
    queue.put("alice", Tasks("g"), 0.0, producer=True)
    assert take(queue) == "efcdgab"


def test_tasks_that_are_put_back_run_before_their_equals():
    queue = queue_for()
    queue.put("alice", Tasks("cd"), 0, producer=True)
    queue.put("alice", Tasks("ab"), 0, producer=True, first=True)
    assert take(queue) == "abcd"


def test_one_batch_holds_one_function():
    queue = queue_for()
    for names, function in (("ab", "f"), ("c", "g"), ("d", "f"), ("e", "f")):
        queue.put("alice", Tasks(names, function), 0, producer=True)
    client = queue.turn()
    assert [names_of(queue.take(client, 10, 0.0)) for _ in range(3)] == ["ab", "c", "de"]


def test_a_part_is_split_where_a_batch_ends():
    queue = queue_for()
    queue.put("alice", Tasks("abc"), 0, producer=True)
    queue.put("alice", Tasks("def"), 0, producer=True)
    assert [take(queue, 2), take(queue, 3), take(queue, 3)] == ["ab", "cde", "f"]


def test_tasks_that_come_one_by_one_stand_in_one_part():
    queue = queue_for()
    for names in ("a", "B", "C", "D", "e"):
        queue.put("alice", Tasks(names), 0, producer=True)
        queue.check()
    assert [part.names for part in queue.take(queue.turn(), 10, 0.0)] == ["a", "BCD", "e"]


def test_a_dropped_part_is_not_served_nor_counted():
    queue = queue_for()
    a, b, c = Tasks("a"), Tasks("xy"), Tasks("c")
    for part in (a, b, c):
        queue.put("alice", part, 0, producer=True)
    b.queued = False
    queue.dropped("alice", 2)
    queue.check()
    assert queue.live == 2
    assert take(queue) == "ac"
    assert queue.turn() is None


def test_the_last_tasks_are_given_back_first():
    queue = queue_for()
    queue.put("alice", Tasks("abc"), 0, producer=True)
    queue.put("alice", Tasks("yz"), 5, producer=True)
    queue.put("bob", Tasks("mn"), 5, producer=True)
    assert [part.names for part in queue.take_last("alice", 4)] == ["yz", "bc"]
    queue.check()
    assert queue.take_last("carol", 3) == []
    assert sorted(take(queue)) == ["a", "m", "n"]


def test_a_client_is_forgotten_once_nothing_of_it_is_given():
    queue = queue_for()
    queue.put("alice", Tasks("a"), 0, producer=True)
    queue.take(queue.turn(), 1, 0.1)
    queue.forget("alice")
    queue.settle("alice", 1, 0.1)
    assert queue.clients == {}


def share(durations, executors, until_s, gap_s=0.0, starts=None):
    """Simulate clients that keep a window of 20 ms under way, refilled after a gap; use in windows of 2 s."""
    queue = queue_for(executors)
    numbers = itertools.count()
    events = []  # (time, number, what, client, executor)
    used = {}
    idle = list(range(executors))

    def later(time_s, what, client, executor=None):
        heapq.heappush(events, (time_s, next(numbers), what, client, executor))

    for client, duration_s in durations.items():
        for _ in range(executors * max(2, round(0.02 / duration_s))):
            later((starts or {}).get(client, 0.0), "arrive", client)
    while events[0][0] < until_s:
        now, _, what, client, executor = heapq.heappop(events)
        if what == "arrive":
            queue.put(client, Tasks("a"), 0, producer=True)
        else:
            queue.settle(client, 1, durations[client])
            later(now + gap_s, "arrive", client)
            idle.append(executor)
        while idle and (turn := queue.turn()) is not None:
            queue.take(turn, 1, durations[turn.client])
            end_s = now + durations[turn.client]
            later(end_s, "done", turn.client, idle.pop())
            for window in {int(now / 2), int(end_s / 2)}:
                overlap_s = min(end_s, 2 * window + 2) - max(now, 2 * window)
                account = used.setdefault(window, dict.fromkeys(durations, 0.0))
                account[turn.client] += overlap_s
    return used


@pytest.mark.parametrize("gap_s", [0.0001, 0.002])
@pytest.mark.parametrize("executors", [1, 2, 4])
def test_short_and_long_tasks_share_executor_seconds_in_every_window(executors, gap_s):
    windows = share({"alice": 0.001, "bob": 0.1}, executors, until_s=10.0, gap_s=gap_s)
    for number in range(5):
        for used in windows[number].values():
            assert used >= 0.7 * executors * 2.0 / 2


def test_who_comes_late_is_served_at_once_but_does_not_starve_the_others():
    windows = share({"alice": 0.01, "bob": 0.01}, 2, until_s=10.0, starts={"bob": 4.0})
    assert windows[1]["alice"] == pytest.approx(4.0, abs=0.1)
    assert windows[2]["alice"] >= 0.7 * 2
    assert windows[2]["bob"] >= 0.7 * 2


def test_what_others_may_wait_for_can_be_taken_past_all_else():
    queue = queue_for()
    for name in ("alice", "bob"):
        queue.put(name, Tasks("ab"), 0, producer=True)
    assert queue.turn(depth_min=1) is None
    inner = Tasks("cd")
    inner.depth = 1
    queue.put("bob", inner, 1, producer=True)
    client = queue.turn(depth_min=1)
    assert client.client == "bob"
    assert names_of(queue.take(client, 9, 0.0, depth_min=1)) == "cd"
    queue.check()
    assert queue.turn(depth_min=1) is None
    assert take(queue) == "abab"


def test_what_starts_together_is_not_given_back_in_parts():
    queue = queue_for()
    queue.put("alice", Tasks("ab"), 0, producer=True)
    group = Tasks("cd")
    group.together = True
    queue.put("alice", group, 0, producer=True)
    queue.put("alice", Tasks("ef"), 0, producer=True)
    assert names_of(queue.take_last("alice", 3)) == "efb"
    client = queue.turn()
    queue.take_these(client, [group], 0.0)
    assert take(queue) == "a"
    queue.settle("alice", 2, 0.0)
    queue.check()
