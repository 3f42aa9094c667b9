"""Every decision of a pool: which task goes where and when, what is released, what is computed again.

Events go in through `PoolState.handle`; instructions come out. There is no socket, thread, clock or dice in here, and
no user object either: arguments and values are packed bytes. Whoever calls `handle` does so from one thread at a time.
The states of a task are drawn in :mod:`distributed.pool.tasks`.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from distributed.alarms import Alarms
from distributed.config import SETTINGS, Settings
from distributed.errors import KeyLost, NoWorker, TaskCancelled
from distributed.pool import explain
from distributed.pool.checks import CHECKS, complaint_about
from distributed.pool.custody import Custody
from distributed.pool.departures import Departures
from distributed.pool.events import (
    Borrowed,
    CancelAsked,
    CenterReached,
    CenterSaid,
    Claimed,
    Connected,
    Disconnect,
    Disconnected,
    Dropped,
    Event,
    Exported,
    Instruction,
    Locate,
    Located,
    Received,
    Resolved,
    RestartAsked,
    Send,
    Show,
    Shown,
    Stored,
    Storing,
    Submitted,
    Tick,
    Unexported,
    WakeAt,
    Wanted,
)
from distributed.pool.failures import Failures, Verdict
from distributed.pool.groups import Groups
from distributed.pool.inner import Inner
from distributed.pool.lifetimes import Lifetimes
from distributed.pool.membership import Membership
from distributed.pool.naming import Naming
from distributed.pool.nesting import Nesting
from distributed.pool.pauses import Pauses
from distributed.pool.placement import Placement
from distributed.pool.restarts import Restarts
from distributed.pool.tasks import DONE, FAILED, KIND, READY, RELEASED, SENT, WAITING, Duration, Task
from distributed.pool.view import WorkerView
from distributed.pool.whereabouts import Whereabouts
from distributed.wire.messages import (
    Adopted,
    Cancel,
    DefineFunction,
    Evicted,
    Failed,
    Finished,
    Gathered,
    Leaving,
    Member,
    Members,
    NeedFunction,
    Offer,
    Output,
    Recalled,
    Restarted,
    TaskSays,
    WorkerJoined,
    WorkerLeft,
)

_UNDER_WAY = frozenset({WAITING, READY, SENT})


class PoolState:
    """A pool's mind. `handle` is the only door; attributes may be read by anyone."""

    def __init__(self, settings: Settings = SETTINGS, now: float = 0.0) -> None:
        self.settings = settings
        self._out: list[Instruction] = []
        self.placement = Placement(settings)
        self.workers = self.placement.workers
        self.membership = Membership(self.workers, settings.reconnect_interval_s)
        self.lifetimes = Lifetimes(self.membership, settings.lineage_bytes_max, settings.scattered_bytes_max)
        self.departures = Departures(self.membership, self.lifetimes)
        self.restarts = Restarts(self.membership)
        self.failures = Failures(self.lifetimes, self.workers, settings)
        self.naming = Naming(self.lifetimes.lineage)
        self.nesting = Nesting(self.lifetimes, self.membership)
        self.inner = Inner(self)
        self.groups = Groups(self)
        self.lending = self.lifetimes.lending
        self.custody = Custody(self.lifetimes, self.placement, self._out, self._compute_again)
        self.whereabouts = Whereabouts(self.lifetimes)
        self.submitted = self.unfinished = 0
        self.progress_at = now  # when something was last submitted or finished
        self.warned_at = now
        self.pauses = Pauses()
        self._alarms = Alarms()
        self._resolved: list[Task] = []
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            Submitted: self._on_submitted,
            Received: self._on_received,
            Dropped: lambda event, now: self.lifetimes.let_go(event.tasks),
            Claimed: self._on_claimed,
            Storing: lambda event, now: self.lifetimes.storing.update(task.key for task in event.tasks),
            Stored: self._on_stored,
            Exported: lambda event, now: self.custody.export(event.task, now),
            Shown: lambda event, now: self.custody.show([event.task], now),
            Unexported: lambda event, now: self.custody.take_back(event.task),
            Borrowed: self._on_borrowed,
            Located: self._on_located,
            Wanted: self._on_wanted,
            CancelAsked: self._on_cancel_asked,
            CenterReached: lambda event, now: self.custody.announce(),
            CenterSaid: lambda event, now: self._handlers[type(event.message)](event, now),
            Connected: self._on_connected,
            Disconnected: self._on_disconnected,
            RestartAsked: self._on_restart_asked,
            Tick: self._on_tick,
            Finished: self._on_finished,
            Failed: self._on_failed,
            Recalled: self._on_recalled,
            Evicted: self._on_evicted,
            NeedFunction: self._on_need_function,
            Output: lambda event, now: self._out.append(Show(event.message)),
            Leaving: self._on_leaving,
            Offer: self._on_offer,
            Adopted: self._on_adopted,
            Restarted: lambda event, now: self.restarts.done(event.address, event.message.number),
            Gathered: self.groups.on_gathered,
            TaskSays: self.inner.on_task_says,
            Members: self._on_members,
            WorkerJoined: lambda event, now: self._meet(event.message.member, now),
            WorkerLeft: self._on_worker_left,
        }

    @property
    def counters(self) -> dict[str, int]:
        """What the user may read of how much was done."""
        moved = self.whereabouts
        return {"tasks": self.submitted, "bytes_in_place": moved.bytes_in_place, "bytes_moved": moved.bytes_moved}

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Absorb one event; return what it calls for. `ProtocolError`: it was nonsense, and changed nothing."""
        kind = type(event)
        if kind in CHECKS:
            CHECKS[kind](event)
        self._handlers[kind](event, now)
        if self.nesting.ended:
            self._on_cancel_asked(CancelAsked(self.nesting.take_unwanted()), now)  # type: ignore[arg-type]
        if kind is not Dropped:
            self._fill(now)
        return self._take_instructions()

    def absorb(self, event: Event, now: float) -> None:
        """What an event inside of another one calls for; for the handlers of what tasks say."""
        self._handlers[type(event)](event, now)

    def order(self, instruction: Instruction) -> None:
        """One more instruction; for the same."""
        self._out.append(instruction)

    def settle_done(self, task: Task, now: float) -> None:
        """A member of a group has its value; for `groups`, as is the next one."""
        self._settle_done(task, now)
        if task.key in self.lending.visible:
            self.custody.show([task], now)

    def wait_again(self, task: Task, now: float, pause_s: float) -> None:
        """A member of a group is to run anew, which its attempt says already."""
        if pause_s:
            self._resume_later(task, now + pause_s)
        else:
            self._wait_again(task, now)

    def _take_instructions(self) -> list[Instruction]:
        # the lists themselves stay: new ones would be scattered over memory that a burst left behind
        out = self._out[:]
        self._out.clear()
        if self.lifetimes.has_deletions:
            out += self.lifetimes.take_deletions()
        if self.lending.has_news:
            out.append(self.lending.take_news())
        if self._resolved:
            if self.nesting.listeners:
                out += self.nesting.tell(self._resolved)
            out.append(Resolved(self._resolved[:]))
            self._resolved.clear()
        return out

    # ------------------------------------------------------------------------------------------- what the user asks for

    def _on_submitted(self, event: Submitted, now: float) -> None:
        self.unfinished += len(event.tasks)
        self.submitted += len(event.tasks)
        self.progress_at = now
        plain, others = [], []
        for task in event.tasks:
            kind: Any = task.kind
            options = kind.options
            if options.key:
                self.naming.take(task)
            if task.inputs or options.workers or options.resources or kind.group is not None:  # `is_picky`, uncalled
                others.append(task)
            else:
                task.status = READY
                plain.append(task)
        if len(plain) == 1 and (idle := self.placement.idle_worker(plain[0])) is not None:
            self._send(idle, plain, now)
        else:
            for _, group in itertools.groupby(plain, key=KIND):
                self.placement.place_anywhere(list(group), now)
        for task in others:
            if task.kind.group is not None and (error := self.groups.take(task)) is not None:  # type: ignore[union-attr]
                self._fail_at_once(task, error)
            else:
                self._adopt_inputs(task, now)

    def refuse(self, tasks: list[Task], error: Any) -> None:
        """Tasks that a task submits, and that are not even tried."""
        self.unfinished += len(tasks)
        self.submitted += len(tasks)
        for task in tasks:
            self._fail_at_once(task, error)

    def _fail_at_once(self, task: Task, error: Any) -> None:
        """A task that may not begin, or a member whose group has failed with those that were submitted before it."""
        for needed in task.inputs:
            needed.heirs += 1
            needed.users += 1
        self.settle_failed(task, error)

    def _adopt_inputs(self, task: Task, now: float) -> None:
        for needed in task.inputs:
            needed.heirs += 1
        self._hurry_inputs(task, now)
        if task.inputs and _UNDER_WAY.issuperset([needed.status for needed in task.inputs]):
            task.missing = len(task.inputs)  # the usual case while a graph is being built: nothing is there yet
            for needed in task.inputs:
                needed.users += 1
                if needed.dependents is None:
                    needed.dependents = []
                needed.dependents.append(task)
            return
        self._wait_for_inputs(task, now)

    def _hurry_inputs(self, task: Task, now: float) -> None:
        """What a task waits for is as urgent as the task."""
        priority = task.kind.options.priority  # type: ignore[union-attr]
        slower, queued = [needed for needed in task.inputs if needed.status != DONE], []
        while slower:
            needed = slower.pop()
            if needed.status not in (WAITING, READY) or needed.kind is None:
                continue
            if needed.kind.options.priority > priority:
                needed.kind = needed.kind.with_priority(priority)
                slower += needed.inputs
                if needed.status == READY:
                    queued.append(needed)
        if queued:
            self.placement.withdraw(queued)
            for needed in queued:
                self._place(needed, now)

    def _wait_for_inputs(self, task: Task, now: float) -> None:
        """Count what is missing; compute again what is lost; place the task when nothing is missing."""
        task.status, task.missing = WAITING, 0
        pending = [task]
        while pending:  # a loop, because a chain of lost values may be a hundred thousand long
            waiting = pending.pop()
            for needed in waiting.inputs:
                needed.users += 1
            for needed in waiting.inputs:
                if needed.has_value or needed.status == FAILED:
                    continue
                if needed.status in (DONE, RELEASED) and self._revive(needed):
                    pending.append(needed)
                if needed.status != FAILED:
                    if needed.dependents is None:
                        needed.dependents = []
                    needed.dependents.append(waiting)
                    waiting.missing += 1
            failed = next((needed for needed in waiting.inputs if needed.status == FAILED), None)
            if waiting.status != WAITING:
                continue  # it failed with one of its inputs, just now
            if failed is not None:
                self.settle_failed(waiting, _inherited(waiting, failed))
            elif not waiting.missing:
                self._place(waiting, now)

    def _need_again(self, task: Task, now: float) -> None:
        """See to it that a value that was released or lost comes (again)."""
        is_gone = task.status == RELEASED or (task.status == DONE and not task.has_value)
        if is_gone:
            self._compute_again(task, now)

    def _compute_again(self, task: Task, now: float) -> None:
        if self._revive(task):
            self._wait_for_inputs(task, now)

    def _revive(self, task: Task) -> bool:
        """Start to compute a value again; the caller sees to its inputs. False: no need to look at inputs."""
        if task.borrowed:
            task.status = WAITING
            self._out.append(Locate(task))
            return False
        if not task.is_repeatable:
            self.settle_failed(task, KeyLost(task.key))
            return False
        self.lifetimes.lineage.remove(task)
        self.lifetimes.scattered.remove(task)
        task.status, task.holders, task.worker = WAITING, None, None
        task.attempt += 1
        task.missing = 0
        self.unfinished += 1
        return True

    def _on_claimed(self, event: Claimed, now: float) -> None:
        event.task.users += 1
        self._need_again(event.task, now)  # the last handle may have gone while this one was made

    def _on_stored(self, event: Stored, now: float) -> None:
        task = event.task
        self.lifetimes.storing.discard(task.key)
        task.nbytes = event.nbytes
        for inner in event.contains:
            self.lifetimes.shared[inner.key] = inner
        self.lifetimes.keep_contained(task, tuple(event.contains))
        task.holders = set()
        for address in event.holders:
            view = self.membership.find(address)
            if view is not None:
                task.holders.add(address)
                view.holds[task.key] = task
        self.lifetimes.shared[task.key] = task
        if task.args is not None:
            self.lifetimes.scattered.keep(task)
        self._settle_done(task, now)
        self._out += self.departures.stored(task)

    def _on_borrowed(self, event: Borrowed, now: float) -> None:
        task = event.task
        self.lifetimes.shared.setdefault(task.key, task)
        if task.status == WAITING:
            self._out.append(Locate(task))

    def _on_located(self, event: Located, now: float) -> None:
        task = event.task
        if task.status != WAITING:
            return
        error = event.error or complaint_about(event)
        if error is not None:
            self.settle_failed(task, error)
            return
        newest = max(attempt for attempt, _ in event.holders.values())
        task.attempt = newest
        task.holders = {address for address, (attempt, _) in event.holders.items() if attempt == newest}
        task.nbytes = max(nbytes for attempt, nbytes in event.holders.values() if attempt == newest)
        for address in task.holders & self.workers.keys():
            self.workers[address].holds.setdefault(task.key, task)  # it may be our own key, borrowed by its name
        self._settle_done(task, now)

    def _on_wanted(self, event: Wanted, now: float) -> None:
        task = event.task
        for address in event.refused:
            self.lifetimes.distrust(task, address)
        if task.status != DONE or task.outcome is not None:
            event.handled = True
        elif not event.refused if task.has_value else task.borrowed:  # or the center tells the same again, at once
            self.later(self.pauses.next(task.key, now), lambda now: self._want_again(event, now))
        else:
            event.handled = True
            self._need_again(task, now)

    def _want_again(self, event: Wanted, now: float) -> None:
        """The pause is over. Another client's value may be elsewhere by now; ours is where it was."""
        task, event.handled = event.task, True
        if task.status != DONE or task.outcome is not None:
            return
        if task.borrowed:
            for holder in sorted(task.holders or ()):
                self.lifetimes.distrust(task, holder)
        self._need_again(task, now)

    def _on_cancel_asked(self, event: CancelAsked, now: float) -> None:
        revoked: defaultdict[str, list[Task]] = defaultdict(list)
        for task in event.tasks:
            if task.status in (WAITING, READY, SENT) and (event.error or not task.borrowed):
                if task.status == SENT:
                    revoked[task.worker].append(task)  # type: ignore[index]
                self.settle_failed(task, event.error or TaskCancelled(f"{task.key} was cancelled", task.key))
        for address, tasks in revoked.items():
            message = Cancel([task.key for task in tasks], [task.attempt for task in tasks])
            self._out.append(Send(address, message))

    # -------------------------------------------------------------------------------------------- what workers report

    def _on_received(self, event: Received, now: float) -> None:
        if event.address in self.workers:
            self._handlers[type(event.message)](event, now)

    def _on_finished(self, event: Received, now: float) -> None:
        """A batch is done. The second loop runs once per task: no calls on the way of a small result that is awaited
        by nobody but the user (0.3 µs; 1.0 with the calls).
        """
        message: Any = event.message
        view = self.workers[event.address]
        view.since = self.progress_at = now
        held = dict(message.held)
        finished = self.whereabouts.accept(view, message)
        view.remove_many([task for task, _, _, _ in finished])
        unusual = bool(self.failures.troubles or message.contains or self.nesting.parents or self.groups.active)
        resolved, plain = self._resolved, 0
        spent: dict[Duration, list[int]] = {}
        duration = None
        for task, nbytes, value, position in finished:
            if task.kind.duration is not duration:  # type: ignore[union-attr]
                duration = task.kind.duration  # type: ignore[union-attr]
                total = spent.setdefault(duration, [0, 0])
            total[0] += message.durations_us[position]
            total[1] += 1
            task.nbytes, task.outcome = nbytes, value
            if unusual or value is None or task.inputs or task.contains or task.dependents or not task.users:
                self.whereabouts.take(task, view, message.contains.get(position, ()), held)
                if task.kind.group is None:  # type: ignore[union-attr]
                    self._settle_done(task, now)
                else:
                    self.groups.returned(task, now)
                continue
            task.status = DONE
            plain += 1
            if not task.published:
                task.published = "done"
                resolved.append(task)
        self.unfinished -= plain
        self.whereabouts.disown(view, held)
        if self.lending.visible:
            self.custody.show([task for task, _, _, _ in finished if task.key in self.lending.visible], now)
        for duration, (total_us, count) in spent.items():
            duration.learn(total_us / 1e6, count)

    def _on_failed(self, event: Received, now: float) -> None:
        message: Any = event.message
        view = self.workers[event.address]
        task = view.under_way.get(message.key)
        held = dict(message.held)
        if task is not None and task.attempt == message.attempt:
            view.since = self.progress_at = now
            view.remove(task)
            if task.inputs:
                self.whereabouts.count_inputs(task, view, held)
            if task.kind is not None and task.kind.group is not None:
                self.groups.failed(task, event.address, message, now)
            else:
                self._carry_out(self.failures.judge(task, event.address, message, now), task, now)
        self.whereabouts.disown(view, held)

    def _carry_out(self, verdict: Verdict, task: Task, now: float) -> None:
        """What follows a failed attempt: another one, at once or after a pause, or the end."""
        if verdict.error is not None:
            self.settle_failed(task, verdict.error)
        elif verdict.pause_s:
            self.placement.near[task.key] = verdict.near
            self._again_later(task, now + verdict.pause_s)
        else:
            self._again(task, now)

    def _forget_troubles(self, task: Task) -> None:
        self.failures.troubles.pop(task.key, None)
        self.placement.near.pop(task.key, None)

    def _again_later(self, task: Task, time: float) -> None:
        """Run a task again after a pause."""
        self.nesting.over(task)
        task.attempt += 1
        self._resume_later(task, time)

    def _resume_later(self, task: Task, time: float) -> None:
        task.status, task.worker, task.missing = WAITING, None, 0
        attempt = task.attempt

        def resume(now: float) -> None:
            if task.status == WAITING and task.attempt == attempt:
                self._wait_again(task, now)

        self.later(time, resume)

    def _on_recalled(self, event: Received, now: float) -> None:
        message: Any = event.message
        view = self.workers[event.address]
        view.recall_at_s = now if message.keys else now + self.settings.move_wait_min_s  # its executors have them all
        for key, attempt in zip(message.keys, message.attempts, strict=True):
            task = view.under_way.get(key)
            if task is None or task.attempt != attempt:
                continue
            view.remove(task)
            if task.kind is not None and task.kind.group is not None:
                self.groups.given_back(task, now)
            else:
                self._again(task, now)

    def _on_evicted(self, event: Received, now: float) -> None:
        """Copies are gone. Others may wait for the last one of a value that we lent."""
        message: Any = event.message
        view = self.workers[event.address]
        for key, attempt in zip(message.keys, message.attempts, strict=True):
            task = view.holds.get(key)
            if task is None or task.attempt != attempt or task.borrowed:
                continue
            self.lifetimes.forget_holder(task, event.address)
            self.custody.evicted(task, now)

    def _on_need_function(self, event: Received, now: float) -> None:
        wanted = event.message.function  # type: ignore[attr-defined]
        for task in self.workers[event.address].under_way.values():
            code = task.kind.code_of(wanted) if task.kind is not None else None
            if code is not None:
                self._out.append(Send(event.address, DefineFunction(wanted, code)))
                return

    # ----------------------------------------------------------------------------------- workers that leave or renew

    def _on_leaving(self, event: Received, now: float) -> None:
        """A worker is given nothing any more; what waits here to be sent there goes elsewhere."""
        view = self.workers[event.address]
        view.leaving = True
        self.placement.dismiss(event.address)
        for task in [*view.assigned.take_all(), *self.placement.demands.take_unmet()]:
            if task.status == READY:
                self._place(task, now)
        self.groups.leaves(event.address, now)

    def _on_offer(self, event: Received, now: float) -> None:
        message: Any = event.message
        view = self.workers[event.address]
        if message.handed:
            self.departures.handed(view, message.keys, message.attempts)
        else:
            self._out += self.departures.offered(view, message.keys, message.attempts)

    def _on_adopted(self, event: Received, now: float) -> None:
        message: Any = event.message
        self.departures.adopted(self.workers[event.address], message.keys, message.attempts)

    def _on_restart_asked(self, event: RestartAsked, now: float) -> None:
        self._out += self.restarts.begin(event)

    # ------------------------------------------------------------------------------------------- who is in the cluster

    def _on_members(self, event: CenterSaid, now: float) -> None:
        """The center knows us (again), and tells who is here."""
        members: list[Member] = event.message.members  # type: ignore[attr-defined]
        for view in self.membership.keep_only(member.address for member in members):
            self._lose_data(view, now)
        self.restarts.look()
        for member in members:
            self._meet(member, now)

    def _meet(self, member: Member, now: float) -> None:
        if self.membership.replaces(member):
            self._out.append(Disconnect(member.address))
            self._part(member.address, "another worker started on its address", now)
        former = self.membership.succeeded(member)
        self._out += self.membership.meet(member)
        if former is not None:
            self._lose_data(former, now)

    def _on_worker_left(self, event: CenterSaid, now: float) -> None:
        message: Any = event.message
        view = self.membership.left(message.address, message.incarnation)
        if view is not None:
            self._lose_data(view, now)
        self.restarts.look()

    def _on_connected(self, event: Connected, now: float) -> None:
        """A worker that was away may have its data still: it lists what it has."""
        former = self.membership.succeeded(event.member)
        if former is not None:
            self._lose_data(former, now)
        view, believed = self.membership.connected(event.member)
        self.placement.admit(view)
        self._out += self.restarts.connected(event.member)
        self.lifetimes.reconcile(view, believed, event.held)
        self.custody.holds_only(event.member.address, {key for key, _ in event.held}, now)
        for task in self.placement.take_reachable():
            self._place(task, now)

    def _on_disconnected(self, event: Disconnected, now: float) -> None:
        address = event.member.address
        if address in self.workers and address not in self.membership.connecting:
            self._part(address, event.reason, now)
        self._out += self.membership.disconnected(address)

    def _part(self, address: str, reason: str, now: float) -> None:
        """No connection to a worker any more: its tasks move. Its data is lost only if the worker is gone as well."""
        view = self.membership.part(address)
        self.placement.dismiss(address)
        if address not in self.membership.away:
            self._lose_data(view, now)
        for task in [*view.assigned.take_all(), *self.placement.demands.take_unmet()]:
            if task.status == READY:
                self._wait_again(task, now)
        for position, task in enumerate(view.under_way.values()):
            assert task.kind is not None
            kind = task.kind
            if kind.group is not None:
                continue
            is_parent = task.key in self.nesting.parents
            may_have_run = position < view.member.ncores or kind.is_beside or kind.options.attempts == 1 or is_parent
            if may_have_run:
                self._carry_out(self.failures.crashed(task, f"worker {address} was lost: {reason}"), task, now)
            else:
                self._again(task, now)
        members = [task for task in view.under_way.values() if task.kind is not None and task.kind.group is not None]
        if members:
            self.groups.lost(members, address, f"the worker was lost: {reason}", now)

    def _lose_data(self, view: WorkerView, now: float) -> None:
        """A worker is gone, and its data with it."""
        self.lifetimes.lose(view)
        self.restarts.look()
        self.custody.holds_only(view.member.address, (), now)

    # ---------------------------------------------------------------------------------------------- from ready to sent

    def _again(self, task: Task, now: float) -> None:
        """Run a task again: its former attempt no longer counts, wherever it may still be."""
        self.nesting.over(task)
        task.attempt += 1
        self._wait_again(task, now)

    def _wait_again(self, task: Task, now: float) -> None:
        for needed in task.inputs:
            needed.users -= 1  # counted again, now
        task.worker = None
        self._wait_for_inputs(task, now)

    def _place(self, task: Task, now: float) -> None:
        """All inputs are there: queue the task where it should run."""
        if not task.can_run:
            self._wait_again(task, now)  # one was lost while the last one came
            return
        if task.kind is not None and task.kind.group is not None:
            self.groups.ready(task, now)
            return
        wake = self.placement.place(task, now)
        if wake is not None:
            self._out.append(wake)

    def _fill(self, now: float) -> None:
        """Send work to every worker that has room."""
        if self.groups.queue:
            self.groups.fill(now)
        if self.placement.demands.is_due:
            for view, batch in self.placement.demands.batches():
                self._send(view, batch, now)
        if self.placement.has_ready:
            for view, batch in self.placement.batches(now):
                self._send(view, batch, now)
        if len(self.workers) > 1:
            self._out += self.placement.balance(now)
            if self.placement.has_ready:
                for view, batch in self.placement.batches(now):
                    self._send(view, batch, now)

    def _send(self, view: WorkerView, batch: list[Task], now: float) -> None:
        bereft = [task for task in batch if task.inputs and not task.can_run]
        for task in bereft:  # an input was lost while they were queued
            self._wait_again(task, now)
        batch = [task for task in batch if task not in bereft] if bereft else batch
        if batch:
            self._out.append(Send(view.member.address, view.send(batch, now)))

    # ------------------------------------------------------------------------------------ outcomes, releases, recipes

    def _settle_done(self, task: Task, now: float) -> None:
        if task.status == SENT:
            self.unfinished -= 1
            self.lifetimes.let_go(task.inputs)
            if self.nesting.parents:
                self.nesting.over(task)
        task.status = DONE
        if not task.published:
            task.published = "done"
            self._resolved.append(task)
        if self.failures.troubles:
            self._forget_troubles(task)
        if task.dependents:
            dependents, task.dependents = task.dependents, None
            for waiting in dependents:
                if waiting.status == WAITING:
                    waiting.missing -= 1
                    if not waiting.missing:
                        self._place(waiting, now)
        if not task.users:
            self.lifetimes.release(task)

    def settle_failed(self, task: Task, error: Any) -> None:
        """Publish a failure, and that of everything that waits for this task."""
        failing: list[tuple[Task, Any]] = [(task, error)]
        while failing:
            task, error = failing.pop()
            if task.status == FAILED:
                continue
            if task.status in (WAITING, READY, SENT) and not task.borrowed and task.kind is not None:
                if task.kind.group is not None:
                    failing += [(member, error) for member in self.groups.ended(task.kind.group, error)]
                self._stop(task)
            task.status, task.outcome = FAILED, error
            if not task.published:
                task.published = "cancelled" if isinstance(error, TaskCancelled) else "failed"
                self._resolved.append(task)
            self._forget_troubles(task)
            self.custody.failed(task)
            self.lifetimes.keep_contained(task, ())
            for waiting in task.dependents or ():
                if waiting.status == WAITING:
                    failing.append((waiting, _inherited(waiting, task)))
            task.dependents = None
            self.lifetimes.lineage.forget(task)
            if not task.users:
                self.lifetimes.release(task)

    def _stop(self, task: Task) -> None:
        """Take a task that will not run (any more) out of the books."""
        self.unfinished -= 1
        if self.nesting.parents:
            self.nesting.over(task)
        if task.status == SENT:
            view = self.workers.get(task.worker or "")
            if view is not None and view.under_way.get(task.key) is task:
                view.remove(task)
        self.placement.stranded.pop(task.key, None)
        self.lifetimes.let_go(task.inputs)

    # --------------------------------------------------------------------------------------------- time, explanations

    def _on_tick(self, event: Tick, now: float) -> None:
        self._alarms.ring(now)
        if self._alarms.next_s < math.inf:
            self._out.append(WakeAt(self._alarms.next_s))
        for task, deadline in list(self.placement.stranded.values()):
            if now >= deadline and task.status == READY:
                self.settle_failed(task, NoWorker(explain.explain(self, task, now), task.key))
        if self.placement.stranded:
            self._out.append(WakeAt(min(deadline for _, deadline in self.placement.stranded.values())))

    def later(self, time: float, action: Callable[[float], None]) -> None:
        """Do something at that time."""
        self._alarms.set(time, action)
        self._out.append(WakeAt(time))

    def check(self) -> None:
        """Assert what must hold between any two events."""
        for address, view in self.workers.items():
            assert sum(view.load.values()) == view.on_cores + len(view.waiting)
            assert view.waiting.keys() <= view.under_way.keys()
            assert view.bytes_under_way == sum(map(view.weight, view.under_way.values()))
            is_full = view.bytes_under_way > self.settings.window_bytes_max
            has_group = any(task.kind is not None and task.kind.group is not None for task in view.under_way.values())
            is_excused = view.depths or has_group  # what others wait for, and members that are sent together
            assert not is_full or len(view.under_way) <= view.member.ncores or is_excused, "the window of bytes"
            for key, task in view.under_way.items():
                assert (task.status, task.worker, task.key) == (SENT, address, key), task
        leaving = {address for address, view in self.workers.items() if view.leaving}
        assert self.placement.takers.keys() == self.workers.keys() - leaving
        self.placement.check()
        self.membership.check()
        self.lifetimes.check()
        self.groups.check()
        assert self.unfinished >= 0


def _inherited(waiting: Task, failed: Task) -> Any:
    """The error of a task whose input failed: the original one; a cancelled input cancels it, and says so."""
    if isinstance(failed.outcome, TaskCancelled):
        return TaskCancelled(f"{waiting.key} was cancelled, because its input {failed.key} was", waiting.key)
    return failed.outcome
