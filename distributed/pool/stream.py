"""`Stream`, what `imap` returns: the values of a :mod:`~distributed.pool.pipeline`, for ``for`` and ``async for``.

Plain loops run at C speed over whole chunks; only between two chunks is there any Python. Knows nothing of tasks: how
items become values is the pipeline's business. When a loop ends, however that happens, its iterator is dropped, and
that is how it is noticed that what is outstanding is of no use.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

from distributed import arguments
from distributed.errors import PoolClosed
from distributed.pool.inputs import Asynchronous
from distributed.pool.pipeline import Pipeline
from distributed.pool.sources import Threaded

LOOK_S = 1.0  # a consumer on an event loop looks at least so often whether the pool was closed


class Errand(NamedTuple):
    """Something that has to be done on the way to the next value."""

    function: Callable[[], object]
    is_quick: bool = False  # it waits for nobody


WAIT = Errand(bool)  # for news


class Stream:
    """The values of an `imap`, each once, in one loop or in several one after the other, or by `next`.

    An exception is raised at its place, and the iteration may go on after it. Leaving a loop early, by an exception or
    not, cancels what is outstanding. A later loop goes on with the next value; what was cancelled is computed again.
    Calls of `next` cancel nothing; then `close`, or dropping the object, does.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._taking = threading.Lock()
        self._taking_asynchronously: asyncio.Lock | None = None
        source = pipeline.source
        if isinstance(source, Threaded):
            source.start(pipeline.on_item)
        if not source.is_asynchronous:
            pipeline.feed()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._pipeline._name}{': closed' if self._pipeline.is_closed else ''}>"

    @property
    def is_asynchronous(self) -> bool:
        """Whether its input is, so that only `async for` can take the values."""
        return self._pipeline.source.is_asynchronous

    def close(self) -> None:
        """Cancel what is outstanding, and end."""
        self._pipeline.close()

    def __del__(self) -> None:
        pipeline = getattr(self, "_pipeline", None)
        if pipeline is not None and not pipeline.is_closed:
            pipeline.close()

    # ------------------------------------------------------------------------------------------------------ plain loops

    def __iter__(self) -> Iterator[Any]:
        self._require_plain()
        return itertools.chain.from_iterable(self._parts())

    def _parts(self) -> Iterator[Iterator[Any]]:
        """The parts, one after the other. Each is the pipeline's own iterator, so that none of it is lost."""
        pipeline = self._pipeline
        try:
            yield pipeline.current
            while self._advance():
                yield pipeline.current
        except BaseException:  # also GeneratorExit: the loop was left, and its iterator dropped
            pipeline.rest()
            raise

    def next(self, timeout: float | None = None) -> Any:
        """The next value, as `next()` gives it; TimeoutError if it does not come in so many seconds."""
        if timeout is not None:
            timeout = arguments.timeout("timeout", timeout)
        self._require_plain()
        while True:
            for value in self._pipeline.current:
                return value  # not by way of `next()`: a signal could act between the call and the return
            if not self._advance(timeout):
                raise StopIteration

    __next__ = next

    def _require_plain(self) -> None:
        if self.is_asynchronous:
            raise TypeError("the input is asynchronous: use `async for`, because a plain `for` cannot wait for it")

    def _advance(self, timeout: float | None = None) -> bool:
        """Wait for the next part; False at the end."""
        pipeline = self._pipeline
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._taking:
            errands = self._errands()
            while not pipeline.take_part():
                errand = next(errands, None)
                if errand is None:
                    return False
                if errand is not WAIT:
                    errand.function()
                    continue
                left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not pipeline.core.wait(pipeline.has_news, left_s):
                    raise TimeoutError(f"the next value did not come within {timeout} s")
            return True

    def _errands(self) -> Iterator[Errand]:
        """What is to be done, one after the other, while there is no part; it ends where the values do."""
        pipeline = self._pipeline
        while True:
            pipeline.resume()  # each time: another loop over the same values may have ended just now
            pipeline.look()
            if pipeline.needs_feed():
                yield Errand(pipeline.feed)
            entries = pipeline.ready()
            if entries:
                yield Errand(functools.partial(pipeline.open, entries), is_quick=entries[0].is_here)
            elif pipeline.is_over:
                pipeline.finish()
                return
            elif not pipeline.has_news():
                yield WAIT

    # ----------------------------------------------------------------------------------------------- asynchronous loops

    def __aiter__(self) -> AsyncIterator[Any]:
        return AsynchronousLoop(self)

    async def __anext__(self) -> Any:
        while True:
            for value in self._pipeline.current:
                return value
            if not await self._advance_asynchronously():
                raise StopAsyncIteration

    async def aclose(self) -> None:
        """As `close`."""
        self.close()

    async def _advance_asynchronously(self) -> bool:
        """The same as `_advance`; what may block is done by a thread of the loop's."""
        if self._taking_asynchronously is None:
            self._taking_asynchronously = asyncio.Lock()
        pipeline, loop, bell = self._pipeline, asyncio.get_running_loop(), asyncio.Event()
        async with self._taking_asynchronously:
            pipeline.alert = _ringing(loop, bell)
            if isinstance(pipeline.source, Asynchronous):
                pipeline.source.start(_feeding(pipeline))
            errands = self._errands()
            while not pipeline.take_part():
                errand = next(errands, None)
                if errand is None:
                    return False
                if errand is WAIT:
                    await _wait(bell)
                    bell.clear()  # before the next look: what rings from now on was not seen
                    pipeline.core.require_open()
                elif errand.is_quick:
                    errand.function()
                else:
                    await asyncio.to_thread(errand.function)
            return True


class AsynchronousLoop:
    """One `async for`: dropped when the loop is left."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __aiter__(self) -> AsynchronousLoop:
        return self

    async def __anext__(self) -> Any:
        return await self._stream.__anext__()

    def __del__(self) -> None:
        pipeline = self._stream._pipeline
        if not pipeline.is_closed:
            pipeline.rest()


async def _wait(bell: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(bell.wait(), LOOK_S)
    except TimeoutError:
        pass


def _ringing(loop: asyncio.AbstractEventLoop, bell: asyncio.Event) -> Callable[[], None]:
    def ring() -> None:
        try:
            loop.call_soon_threadsafe(bell.set)
        except RuntimeError:  # the loop was closed: nobody waits any more
            pass

    return ring


def _feeding(pipeline: Pipeline) -> Callable[[], Any]:
    """What an asynchronous source does after each item: it has no thread that could make tasks."""

    async def on_item() -> None:
        if pipeline.needs_feed():
            try:
                await asyncio.to_thread(pipeline.feed)
            except PoolClosed:
                pipeline.close()
        if pipeline.source.is_ended or not pipeline.source.is_slow:
            pipeline.ring()

    return on_item
