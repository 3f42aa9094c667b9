"""The worker over real sockets, with real executors: what a pool, a peer and the center see of it."""

import asyncio
import contextlib
import dataclasses
import errno
import os
import threading
import time

import pytest

from distributed.bulk import BulkClient
from distributed.center.server import Center
from distributed.comm import connect
from distributed.errors import BadAddress, ConnectionFailed, DistributedError, StoreFull
from distributed.listen import Listener
from distributed.relay import Roads
from distributed.wire import messages as m
from distributed.wire.functions import pack_function
from distributed.wire.security import find_or_create_secret, find_secret
from distributed.wire.values import pack, pack_call, unpack, unpack_exception
from distributed.worker.doorway import Doorway
from distributed.worker.server import Worker
from distributed.worker.store import Store

ALICE = "a11ce0000000"
MIB = 1 << 20
BOB_CAROL_DORA = [(1, "bob"), (2, "carol"), (3, "dora")]


class Client:
    """As much of a pool as a worker can tell."""

    def __init__(self, worker):
        self.worker, self.attempts = worker, {}
        self.outcomes, self.output = {}, []
        self.news = asyncio.Event()
        self.closed = asyncio.Event()

    async def attach(self):
        self.connection = await connect(
            self.worker.address,
            role="pool",
            secret=find_secret(),
            on_message=self.on_message,
            on_close=lambda *_: self.closed.set(),
        )
        answer = await self.connection.ask(m.Attach(ALICE))
        assert m.Member(*answer["member"]) == self.worker.member
        self.held = answer["held"]
        return self

    def on_message(self, connection, message, request):
        if isinstance(message, m.Output):
            self.output.append((message.stream, message.text))
        elif isinstance(message, m.Finished):
            for position, key in enumerate(message.keys):
                self.outcomes[key] = (message, position)
        elif isinstance(message, m.Failed):
            self.outcomes[message.key] = (message, 0)
        self.news.set()

    def compute(self, function, names, *args, inputs=None, **options):
        """Submit one task for each name, all with the same arguments; the keys."""
        packed = pack_function(function)
        keys = [f"{ALICE}/{name}" for name in names]
        payload, _ = pack_call(args, {})
        inputs = dict.fromkeys(range(len(keys)), inputs) if inputs else {}
        options.setdefault("asynchronous", packed.asynchronous)
        self.connection.send(
            m.Compute(
                packed.id, packed.code, packed.name, keys, [1] * len(keys), [payload] * len(keys), inputs, **options
            )
        )
        return keys

    async def until(self, condition):
        async with asyncio.timeout(20):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def outcome(self, key):
        await self.until(lambda: key in self.outcomes)
        return self.outcomes[key]

    async def value(self, key):
        message, position = await self.outcome(key)
        assert isinstance(message, m.Finished), message
        return unpack(message.values[position])

    async def failure(self, key):
        message, _ = await self.outcome(key)
        assert isinstance(message, m.Failed), message
        return message


@contextlib.asynccontextmanager
async def cluster(n_workers=1, **options):
    center = Center(port=0, status_port=None)
    await center.start()
    workers = [Worker(center.address, **({"ncores": 1} | options)) for _ in range(n_workers)]
    try:
        await asyncio.gather(*(worker.start() for worker in workers))
        clients = [await Client(worker).attach() for worker in workers]
        yield center, *clients
        for client in clients:
            client.connection.close()
            await client.closed.wait()
    finally:
        for worker in workers:
            await worker.close()
            if hasattr(worker, "state"):
                worker.state.out.clear()
                worker.state.check()
        await center.close()


def run(scenario):
    """Run a scenario; no process, thread or file may be left (see conftest)."""
    asyncio.run(asyncio.wait_for(scenario(), 40))


async def in_bulk(worker, work):
    """Run `work(client)` with a bulk connection in a thread."""
    client = BulkClient(worker.address, "", Roads("", "pool", find_secret()))
    try:
        return await asyncio.to_thread(work, client)
    finally:
        client.close()


async def who_has(center, keys, wait_s=5.0):
    connection = await connect(center.address, role="hand", secret=find_secret())
    try:
        return await connection.ask(m.WhoHas(keys, wait_s))
    finally:
        connection.close()


async def until(condition, timeout_s=10.0):
    """Wait for something that nobody announces."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  it happens in other processes, or deep inside
            await asyncio.sleep(0.01)


def exists(path):
    return os.path.exists(path)


def same_file(path, other):
    return os.path.samefile(path, other)


def add(a, b):
    return a + b


def total(data):
    return sum(data)


def large(nbytes):
    return bytes(nbytes)


def test_a_task_runs_and_its_result_is_here_for_all():
    async def scenario():
        async with cluster() as (center, client):
            (key,) = client.compute(add, "x", 1, 2)
            assert await client.value(key) == 3
            address = client.worker.address
            assert await who_has(center, [key]) == {key: {address: [1, client.outcomes[key][0].nbytes[0]]}}
            (fetched,) = await in_bulk(client.worker, lambda bulk: bulk.fetch([key], [0]))
            assert unpack(fetched.data) == 3
            client.connection.send(m.DeleteData([key]))
            await until(lambda: not client.worker.state.store.entries)

    run(scenario)


def test_many_tasks_on_several_executors_all_come_back():
    async def scenario():
        async with cluster(ncores=2) as (_, client):
            keys = client.compute(add, range(3000), 1, 2)
            await client.until(lambda: len(client.outcomes) == len(keys))
            assert {await client.value(key) for key in keys[::500]} == {3}
            client.worker.state.check()

    run(scenario)


def test_an_exception_arrives_as_itself():
    async def scenario():
        async with cluster() as (_, client):
            (key,) = client.compute(add, "x", 1, "one")
            failed = await client.failure(key)
            assert failed.kind == "raised"
            assert isinstance(unpack_exception(failed.error), TypeError)

    run(scenario)


def test_large_inputs_of_a_peer_are_linked_and_small_ones_copied():
    async def scenario():
        async with cluster(2) as (_, here, there):
            keys = here.compute(large, ["big"], MIB) + here.compute(large, ["small"], 10)
            for key in keys:
                await here.outcome(key)
            inputs = [[key, 1, here.outcomes[key][0].nbytes[0], [here.worker.address], None] for key in keys]
            assert await sum_of(there, "sum", inputs) == MIB + 10
            held = there.outcomes[f"{ALICE}/sum"][0].held
            assert held == [[key, 1] for key in keys]
            path = there.worker.state.store.get(keys[0], 1).path
            assert same_file(path, here.worker.state.store.get(keys[0], 1).path)

    run(scenario)


def test_without_a_shared_directory_large_inputs_come_over_the_socket():
    async def scenario():
        async with cluster(2) as (_, here, there):
            (key,) = here.compute(large, ["big"], MIB)
            await here.outcome(key)
            members = there.worker._members
            members[here.worker.address] = dataclasses.replace(here.worker.member, directory="")
            inputs = [[key, 1, here.outcomes[key][0].nbytes[0], [here.worker.address], None]]
            assert await sum_of(there, "sum", inputs) == MIB
            path = there.worker.state.store.get(key, 1).path
            assert not same_file(path, here.worker.state.store.get(key, 1).path)

    run(scenario)


async def sum_of(client, name, inputs):
    """A task whose arguments are two handles (or one), as the pool would submit it."""
    handles = [Handle(*item[:4]) for item in inputs]
    payload, _ = pack_call((handles,), {})
    packed = pack_function(sum_of_lengths)
    key = f"{ALICE}/{name}"
    client.connection.send(m.Compute(packed.id, packed.code, packed.name, [key], [1], [payload], {0: inputs}))
    return await client.value(key)


class Handle:
    def __init__(self, *reference):
        self.key, self._reference = reference[0], list(reference)

    def reference(self):
        return self._reference

    def __reduce__(self):
        from distributed.wire.values import reduce_handle

        return reduce_handle(self)


def sum_of_lengths(values):
    return sum(len(value) for value in values)


def test_an_input_that_nobody_has_is_missing_not_waited_for():
    async def scenario():
        async with cluster(2) as (_, here, there):
            inputs = [[f"{ALICE}/nope", 1, 10, [here.worker.address, "127.0.0.1:1"], None]]
            (key,) = there.compute(total, "x", [], inputs=inputs)
            failed = await there.failure(key)
            assert (failed.kind, failed.detail["keys"]) == ("missing", [f"{ALICE}/nope"])

    run(scenario)


def test_a_death_costs_one_task_and_tells_how():
    async def scenario():
        async with cluster() as (_, client):
            keys = client.compute(add, range(50), 1, 2)
            (fatal,) = client.compute(os._exit, ["fatal"], 3)
            keys += client.compute(add, range(50, 100), 1, 2)
            failed = await client.failure(fatal)
            assert (failed.kind, failed.detail["exit_code"]) == ("crashed", 3)
            await client.until(lambda: len(client.outcomes) == 101)
            assert {await client.value(key) for key in keys} == {3}

    run(scenario)


def test_a_running_task_is_killed_when_it_is_cancelled_or_over_its_time():
    async def scenario():
        async with cluster() as (_, client):
            (late,) = client.compute(time.sleep, ["late"], 60, timeout_s=0.2)
            assert (await client.failure(late)).kind == "timeout"
            (unwanted,) = client.compute(time.sleep, ["unwanted"], 60)
            executors = client.worker.state.dispatch.executors
            await until(lambda: any(executor.given for executor in executors.values()))
            client.connection.send(m.Cancel([unwanted], [1]))
            (key,) = client.compute(add, "x", 1, 2)
            assert await client.value(key) == 3
            assert unwanted not in client.outcomes

    run(scenario)


async def sleep_and_add(a, b):
    await asyncio.sleep(0.2)
    return a + b


def test_coroutines_run_beside_one_another():
    async def scenario():
        async with cluster() as (_, client):
            keys = client.compute(sleep_and_add, range(50), 1, 2)
            begin = time.monotonic()
            assert [await client.value(key) for key in keys] == [3] * 50
            assert time.monotonic() - begin < 50 * 0.2

    run(scenario)


def test_what_a_task_prints_is_shown_to_its_client():
    async def scenario():
        async with cluster() as (_, client):
            client.compute(print, "x", "hello")
            await client.until(lambda: ("stdout", "hello\n") in client.output)

    run(scenario)


def test_values_that_do_not_fit_are_spilled_and_still_readable(tmp_path):
    async def scenario():
        async with cluster(memory_limit=5 * MIB, spill_directory=str(tmp_path)) as (_, client):
            keys = client.compute(large, range(12), MIB)
            await client.until(lambda: len(client.outcomes) == 12)
            state = client.worker.state
            assert state.store.memory_bytes <= 5 * MIB
            assert state.store.disk_bytes >= 7 * MIB
            fetched = await in_bulk(client.worker, lambda bulk: bulk.fetch(keys, [1] * 12))
            assert [len(unpack(value.data)) for value in fetched] == [MIB] * 12
            client.connection.send(m.DeleteData(keys))
            await until(lambda: state.store.disk_bytes == state.store.memory_bytes == 0)
            assert [name for _, _, names in os.walk(tmp_path) for name in names] == []

    run(scenario)


def test_what_can_never_fit_is_refused_with_the_sizes():
    async def scenario():
        async with cluster(memory_limit=5 * MIB, spill_directory="none") as (_, client):
            (key,) = client.compute(large, "x", 6 * MIB)
            failed = await client.failure(key)
            assert (failed.kind, failed.detail["never"]) == ("full", True)
            assert "5.0 MiB" in failed.detail["reason"]
            with pytest.raises(StoreFull, match=r"5\.0 MiB"):
                value = {f"{ALICE}/y": pack(bytes(6 * MIB))}
                await in_bulk(client.worker, lambda bulk: bulk.put(ALICE, value))

    run(scenario)


def test_values_are_put_from_outside_by_file_and_by_socket():
    async def scenario():
        async with cluster() as (_, client):
            directory = client.worker.member.directory
            await in_bulk(client.worker, lambda bulk: bulk.put(ALICE, {f"{ALICE}/x": pack(bytes(MIB))}, directory))
            await in_bulk(client.worker, lambda bulk: bulk.put("", {"y": pack(bytes(MIB)), "z": pack(7)}))
            fetched = await in_bulk(client.worker, lambda bulk: bulk.fetch([f"{ALICE}/x", "y", "z"], [1, 0, 1]))
            assert [value.nbytes > MIB for value in fetched] == [True, True, False]
            with pytest.raises(DistributedError, match="not a key of"):
                await in_bulk(client.worker, lambda bulk: bulk.put(ALICE, {"b0b/x": pack(1)}))
            assert client.worker.state.store.reserved_bytes == 0

    run(scenario)


def test_a_center_that_comes_back_learns_everything_again():
    async def scenario():
        async with cluster() as (center, client):
            (key,) = client.compute(add, "x", 1, 2)
            await client.value(key)
            port = int(center.address.rpartition(":")[2])
            await center.close()
            (other,) = client.compute(add, "y", 1, 2)
            assert await client.value(other) == 3
            again = Center(port=port, status_port=None)
            await again.start()
            try:
                await until(lambda: client.worker._center is not None)
                assert set(await who_has(again, [key, other])) == {key, other}
            finally:
                await again.close()

    run(scenario)


def test_who_left_while_the_center_was_away_is_forgotten():
    async def scenario():
        async with cluster(2) as (center, client, other):
            worker, gone = client.worker, other.worker
            await until(lambda: set(worker._members) == {worker.address, gone.address})
            port = int(center.address.rpartition(":")[2])
            await center.close()
            await gone.close()
            again = Center(port=port, status_port=None)
            await again.start()
            try:
                await until(lambda: set(worker._members) == {worker.address})
            finally:
                await again.close()

    run(scenario)


def test_who_joins_and_leaves_right_after_the_answer_of_the_center_is_known():
    """News and answer arrive together: the news are read before the worker is woken for the answer."""
    bob, carol, dora = (m.Member(f"127.0.0.1:{port}", "one", name, 1, 10**9) for port, name in BOB_CAROL_DORA)

    def on_message(connection, message, request):
        if isinstance(message, m.Register):
            connection.reply(request, [message.member, carol, dora])
            connection.send(m.WorkerJoined(bob))
            connection.send(m.WorkerLeft(carol.address, carol.incarnation, "it left"))
            connection.send(m.WorkerLeft(dora.address, "an older one", "it left"))

    def on_connection(connection):
        connection.on_message = on_message
        connections.append(connection)

    connections = []

    async def scenario():
        center = await Listener.start("127.0.0.1", 0, "", find_or_create_secret(), "center", on_connection, print)
        worker = Worker(center.address, ncores=1)
        await worker.start()
        try:
            assert set(worker._members) == {worker.address, bob.address, dora.address}
        finally:
            await worker.close()
            await center.close()
            for connection in connections:
                connection.close()

    run(scenario)


@pytest.mark.parametrize("answer", [None, 7, ["alice"], [["alice", "one", "", 0, 0]]])
def test_a_center_that_answers_nonsense_is_tried_again(answer):
    async def scenario():
        answers = [answer]
        registered = asyncio.Event()

        def on_message(connection, message, request):
            if isinstance(message, m.Register):
                connection.reply(request, answers.pop() if answers else [message.member])
                if not answers:
                    registered.set()

        def on_connection(connection):
            connection.on_message = on_message
            connections.append(connection)

        connections = []
        async with cluster() as (center, client):
            host, port = "127.0.0.1", int(center.address.rpartition(":")[2])
            await center.close()
            odd = await Listener.start(host, port, "", find_secret(), "center", on_connection, lambda *_: None)
            try:
                await until(lambda: len(connections) == 2 and registered.is_set())
                await until(lambda: client.worker._center is not None and not client.worker._center.is_closed)
            finally:
                await odd.close()
                for connection in connections:
                    connection.close()

    run(scenario)


def test_an_executor_for_which_there_are_no_descriptors_is_tried_again(monkeypatch, caplog):
    real, refused = os.pipe, []

    def no_pipe():
        monkeypatch.setattr(os, "pipe", real)
        refused.append(True)
        raise OSError(errno.EMFILE, "Too many open files")

    async def scenario():
        async with cluster() as (_, client):
            monkeypatch.setattr(os, "pipe", no_pipe)
            (key,) = client.compute(os._exit, "x", 3)
            assert (await client.failure(key)).kind == "crashed"
            (key,) = client.compute(add, "y", 1, 2)
            assert await client.value(key) == 3
            assert client.worker.state.dispatch.bad_starts == 1

    run(scenario)
    assert refused == [True]
    assert "Too many open files" in caplog.text


@pytest.mark.parametrize(("arm", "name"), [("_errands", "fetch"), ("_fetcher", "submit"), ("_fetcher", "_fetch")])
def test_a_fetch_that_breaks_where_nobody_foresaw_it_ends_in_a_failure(arm, name, monkeypatch):
    def broken(*_):
        raise RuntimeError("can't start new thread")

    async def scenario():
        async with cluster(2) as (_, client, other):
            (held,) = other.compute(add, ["held"], 1, 2)
            await other.value(held)
            errands = client.worker._errands
            monkeypatch.setattr(errands if arm == "_errands" else errands._fetcher, name, broken)
            inputs = [[held, 1, 1, [other.worker.address], None]]
            (key,) = client.compute(add, ["sum"], 1, 2, inputs=inputs)
            assert (await client.failure(key)).kind == "missing"

    run(scenario)


def test_a_writer_hears_that_its_value_could_not_be_stored():
    def refuse(event):
        raise ZeroDivisionError("a bug")

    async def scenario():
        doorway = Doorway(Store(MIB, []), refuse)
        for ask in (lambda: doorway.put("", ["x"], [1], [b"N"], {}), lambda: doorway.reserve(MIB)):
            with pytest.raises(ZeroDivisionError):
                await asyncio.to_thread(ask)

    run(scenario)


def test_a_second_connection_of_a_client_learns_what_is_stored():
    async def scenario():
        async with cluster() as (_, client):
            (key,) = client.compute(add, "x", 1, 2)
            await client.value(key)
            again = await Client(client.worker).attach()
            await client.closed.wait()
            assert again.held == [[key, 1]]
            (key,) = again.compute(add, "y", 1, 2)
            assert await again.value(key) == 3
            again.connection.close()
            await again.closed.wait()

    run(scenario)


@pytest.mark.parametrize(
    "message",
    [
        m.Compute(b"f", b"code", "f", [f"{ALICE}/x"], [], [], {}),
        m.Attach("b0b000000000"),
        m.Finished([], [], [], [], [], {}, []),
    ],
)
def test_a_client_that_talks_nonsense_loses_its_connection_and_nobody_else(message, caplog):
    async def scenario():
        async with cluster() as (_, client):
            client.connection.send(message)
            await client.closed.wait()
            again = await Client(client.worker).attach()
            (key,) = again.compute(add, "x", 1, 2)
            assert await again.value(key) == 3
            again.connection.close()
            await again.closed.wait()

    run(scenario)


def test_tasks_are_for_those_who_said_who_they_are():
    async def scenario():
        async with cluster() as (_, client):
            stranger = await connect(client.worker.address, role="hand", secret=find_secret())
            assert await stranger.ask(m.Ping()) == "pong"
            assert (await stranger.ask(m.Status()))["ncores"] == 1
            with pytest.raises(ConnectionFailed):
                await stranger.ask(m.Cancel(["x"], [1]), timeout_s=10)

    run(scenario)


def test_terminate_is_answered_and_ends_it():
    async def scenario():
        async with cluster() as (_, client):
            await client.connection.ask(m.Terminate())
            async with asyncio.timeout(5):
                await client.worker.finished()

    run(scenario)


def test_without_a_center_it_says_so_and_leaves_nothing():
    async def scenario():
        center = Center(port=0, status_port=None)  # makes the secret
        await center.start()
        await center.close()
        with pytest.raises(ConnectionFailed, match="nobody listens"):
            await Worker(center.address, ncores=1).start()

    run(scenario)


def test_listening_beyond_this_machine_has_to_be_asked_for():
    async def scenario():
        with pytest.raises(BadAddress, match="insecure-plaintext"):
            await Worker("127.0.0.1:1", host="0.0.0.0").start()

    run(scenario)


def test_closing_under_load_takes_no_time_and_leaves_nothing():
    async def scenario():
        async with cluster(ncores=2) as (_, client):
            client.compute(time.sleep, range(100), 30)
            client.compute(sleep_and_add, range(100, 200), 30, 1)
            await until(
                lambda: any(e.asynchronous and e.given for e in client.worker.state.dispatch.executors.values())
            )
            begin = time.monotonic()
            await client.worker.close()
            assert time.monotonic() - begin < 2
            assert not exists(client.worker.member.directory)
            assert threading.active_count() < 20

    run(scenario)
