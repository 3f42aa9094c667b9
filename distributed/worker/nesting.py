"""Tasks that wait for other tasks: whose slot others use meanwhile, and what they and their owners say to each other.

An executor whose task waits does not count: another one is started in its place when there is something to run, up to
`blocked_executors_max` that wait. What had been given to it behind that task is queued again. When the task goes on, it
runs on at once, for a moment one more than there are cores; the executors that are too many by then get nothing, and
end when they were idle for a while. Whatever task and owner say is passed on unread. Owns no executor: `dispatch` does.
"""

from __future__ import annotations

from collections.abc import Callable

from distributed.errors import ProtocolError
from distributed.wire.codec import encode_header
from distributed.wire.messages import Blocked, FromTask, TaskSays, TellTask, TooDeep, ToTask
from distributed.worker.dispatch import Dispatch
from distributed.worker.events import FromClient, FromExecutor, Give, Send
from distributed.worker.tasks import Part, stretches
from distributed.worker.view import ExecutorView

BAD_STARTS_MAX = 3  # in a row: then nobody counts on the next one


class Nesting:
    """What happens at a worker because of tasks in tasks."""

    def __init__(self, dispatch: Dispatch, failed: Callable[[Part, str, dict], None]) -> None:
        self.dispatch, self.settings, self.out, self._failed = dispatch, dispatch.settings, dispatch.out, failed

    def from_task(self, event: FromExecutor) -> None:
        """Pass on what a running task says to its owner."""
        message: FromTask = event.message  # type: ignore[assignment]
        executor = self.dispatch.executors.get(event.executor)
        part, position = executor.find(message.serial) if executor is not None else (None, 0)
        if part is None or part.verdict:  # last words of a task that is over
            return
        said = TaskSays(part.keys[position], part.attempts[position], event.executor, message.serial, message.said)
        self.out.append(Send(part.order.client, said))

    def to_task(self, event: FromClient) -> None:
        """Pass on what the owner of a running task says to it."""
        message: TellTask = event.message  # type: ignore[assignment]
        executor = self.dispatch.executors.get(message.executor)
        part, position = executor.find(message.serial) if executor is not None else (None, 0)
        if part is None or part.order.client != event.client:
            return
        if (part.keys[position], part.attempts[position]) == (message.key, message.attempt):
            self.out.append(Give(message.executor, ToTask(message.serial, message.said)))

    def blocked(self, event: FromExecutor, now: float) -> None:
        """A task begins to wait for others, or goes on."""
        message: Blocked = event.message  # type: ignore[assignment]
        executor = self.dispatch.executors.get(event.executor)
        if executor is None:
            return
        if executor.asynchronous:
            raise ProtocolError("blocked: by a coroutine")
        self.dispatch.slots.moved(now)
        self._take_back(executor, message.returned)
        if executor.waits_for_others and not executor.given:  # it gave back what it had begun: user code runs there
            self.dispatch.go_on(executor, now)
        part, _ = executor.find(message.serial)
        if message.is_waiting and part is not None and not executor.waits_for_others:
            self._begin(executor, message, now)
        elif not message.is_waiting and part is not None and executor.waits_for_others:
            self.dispatch.go_on(executor, now)

    def on_bad_start(self, reason: str) -> None:
        """An executor could not be started. Where all others wait, for what it was to run perhaps, one must give up.

        The one that began to wait last: its executor runs something else then, or another one gives up, too.
        """
        dispatch = self.dispatch
        plain = [executor for executor in dispatch.executors.values() if not executor.asynchronous]
        waiting = [executor for executor in plain if executor.waits_for_others and not executor.killing]
        if dispatch.bad_starts < BAD_STARTS_MAX or not waiting or not dispatch.queue.live:
            return
        if any(executor.ready and not executor.waits_for_others for executor in plain):
            return
        last = max(waiting, key=lambda executor: (executor.waiting_since_s, executor.number))
        refusal = encode_header(TooDeep(len(waiting), reason))
        self.out.append(Give(last.number, ToTask(last.given[0].serial, refusal)))

    def _begin(self, executor: ExecutorView, message: Blocked, now: float) -> None:
        if self.dispatch.slots.is_full:
            refusal = encode_header(TooDeep(self.settings.blocked_executors_max))
            self.out.append(Give(executor.number, ToTask(message.serial, refusal)))
        else:
            self.dispatch.slots.wait(executor, message.has_submitted, now)

    def _take_back(self, executor: ExecutorView, serials: list[int]) -> None:
        """Tasks that an executor had and did not begin are queued again."""
        parts: list[Part] = []
        for start, stop in stretches(serials, set()):
            while start < stop:
                part = executor.take(serials[start], stop - start)
                if part is None:
                    start += 1
                    continue
                start += len(part)
                parts.append(part)
        for part in reversed(parts):
            self.dispatch.queue_of(part).settle(part.order.account, len(part), 0.0)
            if part.verdict:
                self._failed(part, "" if part.verdict == "cancelled" else part.verdict, {})
            else:
                self.dispatch.requeue(part)
