"""The worker's side: the tasks and calls that it was given, in order, and the answers that it owes.

A worker runs plain tasks one after the other, or serves one actor. ``take`` returns the next task or call to the shell,
which runs it and calls ``finish``. Answers may be held back until the owners of references inside have acknowledged
them (the reference rule). A worker of plain tasks does not leave while it owns objects that can be reached. An actor's
worker leaves when the actor ends, and the objects that it owned are lost.

An actor that ends itself takes no more calls, and ends when its running calls have ended (``end_actor``).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from zray.client.core.answers import Answers
from zray.client.core.assignments import CALL, CONSTRUCTOR, TASK, Assignment, of_call, of_lease, of_run, of_start
from zray.client.core.effects import Interrupt
from zray.client.core.group_queues import GroupQueues
from zray.client.core.grouped_view import group_in
from zray.client.core.payloads import CANCELLED, Return, pack_outcome
from zray.client.core.producers import Listener
from zray.client.core.references import ReferenceTable
from zray.client.core.states import ERROR
from zray.client.core.stream_flow import StreamFlow
from zray.client.core.tasks import TaskTable, name_in
from zray.client.core.time_limits import TimeLimits
from zray.failures import NO_REFERENCES, encode_failure
from zray.ids import owner_of
from zray.protocol.codec import unpack
from zray.protocol.messages import (
    CANCEL_FORCE,
    CANCEL_RECURSIVE,
    ActorExiting,
    ActorReady,
    ActorRun,
    ActorStart,
    ActorStop,
    Blocked,
    CancelTask,
    Done,
    ExitIfIdle,
    FunctionBlob,
    FunctionGet,
    JobConfig,
    Killable,
    LeaseLeft,
    LeaseOver,
    LeaseReturned,
    LeaseRun,
    Leaving,
    PinCpus,
    ProtocolError,
    Reply,
    Result,
    Returned,
    Run,
    Started,
    Staying,
)
from zray.protocol.records import ActorSpec, RunningCall


class Execution:
    """The tasks and calls that this process was given."""

    def __init__(
        self,
        references: ReferenceTable,
        tasks: TaskTable,
        send: Callable[[Any], None],
        reply: Callable[[Reply], None],
        answer_owner: Callable[[bytes, Result | LeaseReturned], None],
        perform: Callable[[Interrupt], None],
        process_id: bytes,
        host_id: bytes,
        started_bytes: int,
    ) -> None:
        """``send``: to the broker; ``reply``: to a caller, through the broker or by a lane; ``answer_owner(owner,
        message)``: by the lane of an owner who has leased this worker; ``started_bytes``: see ``Windows``."""
        self._started_bytes = started_bytes
        self._references = references
        self._tasks = tasks
        self._send = send
        self._reply = reply
        self._answer_owner = answer_owner
        self._perform = perform
        self._host_id = host_id
        self._queue: deque[Run | LeaseRun | ActorRun | ActorStart] = deque()
        self.functions: dict[bytes, FunctionBlob] = {}  # as they arrived, not unpickled
        self.job: JobConfig | None = None
        self.cpus: list[int] = []  # those that the next work may use, see ``PinCpus``; empty: all
        self.worth_keeping: Callable[[], bool] = lambda: False  # True if a new worker would cost more than this one
        self.idle: Listener | None = None  # woken when there may be something to take
        self.last_end_wakes = False  # the end of the last running call wakes it, too
        self._asked: set[bytes] = set()  # functions that were requested from the broker
        self._running: dict[bytes, Assignment] = {}
        self._seen_at: dict[bytes, float] = {}  # by task: when it was first seen running
        self._blocked = 0  # number of tasks that wait in ``get``
        self.actor_id = b""
        self._actor_function = b""  # the actor's class
        self.actor_spec: ActorSpec | None = None
        self.incarnation = 0
        self._groups: GroupQueues[Assignment] | None = None  # its calls, if it has concurrency groups
        self._stopping = False  # the actor's last handle is gone
        self.leaving = False  # no more work is taken; the process exits when ``may_exit``
        self.must_exit = False  # the process exits as soon as nothing runs
        self._end_reason = ""  # why the actor ends, from the decision until the broker has been told
        self._enders: set[bytes] = set()  # running calls that have ended the actor: that is their only outcome
        self.cancelled: set[bytes] = set()  # running tasks and calls that were asked to stop
        self.lessee = b""  # the owner who has leased this worker; empty: none
        self._lease = 0  # its number
        self._lease_shape = b""
        self._lease_is_over = False  # it runs the last task of its lease
        # What its parts do is called by their own methods: one call of a method, not two.
        self._answers = Answers(references, self._running, send, reply, answer_owner, process_id, host_id)
        self.send_items, self.flush_items = self._answers.send_items, self._answers.flush_items
        self._flow = StreamFlow(references, self._running, self.hand_back)
        self.has_room, self.wake_producers = self._flow.has_room, self._flow.wake_producers
        self.on_credit = self._flow.on_credit
        self._limits = TimeLimits(tasks, send, perform, self.cancelled)
        self.begin_limited, self.is_timed_out = self._limits.begin, self._limits.is_timed_out
        self.on_time_is_up = self._limits.on_time_is_up

    # ------------------------------------------------------------------ tasks and calls

    def take(self) -> Assignment | None:
        """Takes the next task or call; None if there is none, or if its function has not arrived yet."""
        if not self._queue:
            task = self._groups.take() if self._groups is not None else None
            if task is None:
                if self._stopping and not self._running and not self.queued and not self.leaving:
                    self.end_actor(NO_REFERENCES)
                return None
        elif isinstance(head := self._queue[0], ActorRun):
            self._queue.popleft()
            task = of_call(head)
        else:
            if head.function_id not in self.functions:
                if head.function_id not in self._asked:
                    self._asked.add(head.function_id)
                    self._send(FunctionGet(head.function_id))
                return None
            self._queue.popleft()
            if isinstance(head, LeaseRun):
                task = of_lease(head, self._lease_shape)
            else:
                task = of_start(head) if isinstance(head, ActorStart) else of_run(head)
        self._running[task.task_id] = task
        producer = task.producer
        if producer is not None and producer.skip > 0:
            # The owner gives credit to the process that its last items came from. Items that it has of an earlier
            # attempt may fill the limit, so that none can come from here: it is told of this process without one.
            self._send(self._answers.items_message(task, producer.sent, []))
        return task

    @property
    def queued(self) -> int:
        """The number of tasks and calls that were not started yet."""
        return len(self._queue) + (len(self._groups) if self._groups is not None else 0)

    @property
    def running(self) -> int:
        """The number of tasks and calls that were taken and are not finished."""
        return len(self._running)

    def note_time(self, now: float) -> None:
        """Notes since when tasks run. Called several times a second, so that short tasks pay nothing for it."""
        if self._running or self._seen_at:
            self._seen_at = {task_id: self._seen_at.get(task_id, now) for task_id in self._running}

    def about_running(self, now: float, most: int) -> list[RunningCall]:
        """Describes at most ``most`` of the running tasks and calls."""
        class_name = self.actor_spec.short_name if self.actor_spec is not None else ""
        rows = []
        for task_id, task in itertools.islice(self._running.items(), most):
            name = name_in(task.payload.options)
            full = f"{class_name}.{name}" if class_name and "." not in name else name
            rows.append(RunningCall(full, max(0.0, now - self._seen_at.get(task_id, now)), task_id))
        return rows

    def running_tasks(self, most: int) -> list[bytes]:
        """At most ``most`` of the running tasks and calls."""
        return list(itertools.islice(self._running, most))

    def ran_ms(self, now: float, most: int) -> list[int]:
        """For how long these have been running, in milliseconds. What has just begun has not been seen yet."""
        return [int(1000 * max(0.0, now - self._seen_at.get(task_id, now))) for task_id in self.running_tasks(most)]

    def is_running(self, task_id: bytes) -> bool:
        """Whether the task was taken and is not finished."""
        return task_id in self._running

    def function_name(self, task_id: bytes) -> str:
        """The name of a running task's function: ``module.function``, ``module.Class.method``; empty if it is not
        running."""
        task = self._running.get(task_id)
        shipped = self.functions.get(task.function_id or self._actor_function) if task is not None else None
        if task is None or shipped is None:
            return ""
        if task.kind == TASK:
            return shipped.name
        method = unpack(task.payload.options).get("method")
        return f"{shipped.name}.{method or '__init__'}"

    def finish(self, task: Assignment, returns: list[Return], retryable: bool, run_us: int) -> None:
        """Answers a task or call. The answer is sent once the owners of all references inside have acknowledged."""
        kept = self._release(task)
        if task.producer is not None:
            self._answers.flush_items()
            self._flow.wake_producers()
        if self._enders and task.task_id in self._enders:
            died = encode_failure("ActorDiedError", self._end_reason or "its process exits", self.actor_id)
            returns, retryable = [Return(ERROR, died, 0, ()) for _ in returns], False
        for value in returns:
            if value.inner:
                self._references.hand_over(value.inner, task.owner)
        payload = pack_outcome(self._host_id, returns, kept, retryable, run_us)
        if task.lease:  # if work waits, the broker ends it before the owner has heard of it
            self.lessee, self._lease, self._lease_shape = task.owner, task.lease, task.shape
        answer = self._answers.message(task, run_us, payload)
        send = self._answers.way(task)
        if self._references.acknowledged:
            send(answer)
        else:
            self._answers.later(answer, [object_id for value in returns for object_id in value.inner], send)
        if self._end_reason:
            self._end_if_done()
        elif self._lease_is_over:
            self._leave_lease()

    @property
    def has_items(self) -> bool:
        """Whether items are gathered."""
        return bool(self._answers.gathering)

    def finish_cancelled(self, task: Assignment, outcome: bytes = CANCELLED) -> None:
        """Answers a task or call that was cancelled; ``outcome``: INTERRUPTED if its code was interrupted."""
        self._release_unseen(task)
        self._answers.later(self._answers.message(task, 0, outcome), [], self._answers.way(task))
        if self._end_reason:
            self._end_if_done()
        elif self._lease_is_over:
            self._leave_lease()

    def refuse(self, task: Assignment, why: str) -> None:
        """Answers a task or call that cannot be read. Only the sender is affected."""
        text = f"the call cannot be read by its worker: {why}"
        if task.kind == CONSTRUCTOR:
            self.constructed(task, encode_failure("ActorDiedError", text, self.actor_id))
        else:
            self.finish(task, [Return(ERROR, encode_failure("SystemFailure", text), 0, ())], False, 0)

    def end_actor(self, reason: str, ender: bytes = b"") -> None:
        """Ends the actor once all running calls have ended. The broker answers the queued calls, not this process.

        ``ender``: the running call that asked for the end, if one did. It is answered with the actor's death.
        """
        if ender in self._running:
            self._enders.add(ender)
        if self.leaving:
            return
        self.stop_taking()
        self._end_reason = reason
        self._end_if_done()

    def stop_taking(self) -> None:
        """Takes no more tasks or calls. This process does not answer the queued ones."""
        self.hand_back()
        self._queue.clear()
        if self._groups is not None:
            self._groups.clear()
        self.leaving = True
        self._wake()

    @property
    def ends_actor(self) -> bool:
        """Whether the actor's end is decided, but not reported yet, because calls still run."""
        return self._end_reason != ""

    def exit_process(self, task_id: bytes) -> None:
        """Makes the process exit as soon as nothing runs, whatever it owns.

        ``task_id``: the task that asked for it. The broker reports its end when the process is gone.
        """
        self._running.pop(task_id, None)
        self.cancelled.discard(task_id)
        self._limits.end(task_id)
        self.must_exit = True
        self.stop_taking()

    def abandon_all(self) -> None:
        """Drops the running tasks and calls, whose time is up. The broker reports the end to their callers."""
        self._running.clear()
        self.cancelled.clear()
        for task_id in list(self._limits.limited):
            self._limits.end(task_id)
        if self._end_reason:
            self._end_if_done()

    def _end_if_done(self) -> None:
        """Reports the actor's end to the broker once nothing runs. Answers that are held back are sent first."""
        if not self._running:
            reason, self._end_reason = self._end_reason, ""
            self._answers.later(ActorExiting(self.actor_id, reason), [])
            self._answers.later(Leaving(reason), [])
            self._wake()

    def constructed(self, task: Assignment, error: bytes) -> None:
        """Reports that the actor's constructor returned, or raised ``error``. If the constructor has ended the actor,
        only the actor's end is reported."""
        self._release_unseen(task)
        if self._end_reason:
            self._end_if_done()
        else:
            self._answers.later(ActorReady(self.actor_id, error), [])

    def gives_up_value(self, task: Assignment) -> bool:
        """Whether the value of a piece of work that has returned is not wanted.

        This is so if its time was over before. It is also so for cancelled calls of an actor without an event loop:
        nothing interrupts them, but they may ask whether they were cancelled.
        """
        return task.task_id in self.cancelled and (task.kind == CALL or self.is_timed_out(task.task_id))

    def _release(self, task: Assignment) -> list[bytes]:
        del self._running[task.task_id]
        if self._groups is not None:
            self._groups.ended(task.task_id)
        if self._limits.limited:
            self._limits.end(task.task_id)
        if self.cancelled:
            self.cancelled.discard(task.task_id)
        return self._references.uncover(task.covered, task.owner) if task.covered else []

    def _release_unseen(self, task: Assignment) -> None:
        """As ``_release``, if no result tells the submitter which of its objects are kept: they are registered."""
        for object_id in self._release(task):
            self._references.entries[object_id].registered -= 1
            self._references.register(object_id)

    def on_run(self, message: Run) -> None:
        self.lessee = b""
        if self.leaving or self._blocked:
            self._send(Returned([message.task_id]))
        else:
            self._queue.append(message)
            if self.idle is not None:
                self.idle.wake()

    def on_actor_start(self, message: ActorStart) -> None:
        if self.actor_id:
            raise ProtocolError("this worker has an actor already")
        self.actor_id = message.actor_id
        self._actor_function = message.function_id
        self.actor_spec = spec = message.spec
        if spec.groups:
            self._groups = GroupQueues(spec.max_concurrency, spec.groups)
        self.incarnation = message.incarnation
        self._queue.append(message)
        self._wake()

    def on_actor_run(self, message: ActorRun) -> None:
        if self.leaving:
            return  # the actor has ended, and the broker answers the call
        if self._groups is None:
            self._queue.append(message)
        else:
            call = of_call(message)
            self._groups.add(group_in(call.payload.options), call)
        if self.idle is not None:
            self.idle.wake()

    def on_actor_stop(self, message: ActorStop) -> None:
        if message.actor_id != self.actor_id:
            raise ProtocolError("this worker serves another actor, or none")
        self._stopping = True
        self._wake()

    def on_function(self, message: FunctionBlob) -> None:
        self.functions[message.function_id] = message
        self._wake()

    def on_job(self, message: JobConfig) -> None:
        self.job = message

    def call_ended(self, most: int) -> None:
        """Wakes the thread that waits for work, if there is something that it waits for.

        ``most``: the number of calls that may run at once. The end of the last running call alone is not enough: in a
        loop of short calls each is the last one, and the thread would be woken for each, to find nothing.
        """
        if self.running >= most:
            return
        none_runs = not self._running
        if self.queued or self.leaving or (none_runs and (self._stopping or self.last_end_wakes)):
            self._wake()

    def _wake(self) -> None:
        if self.idle is not None:
            self.idle.wake()

    # ------------------------------------------------------------------ blocking and leaving

    def block(self) -> None:
        """Notes that a task waits for objects. Its CPUs are lent, and the tasks queued behind it are handed back."""
        self._blocked += 1
        if self._blocked == 1:
            self.hand_back()
            self.tell_started()
            self._send(Blocked(True))

    def unblock(self) -> None:
        """Undoes one ``block``."""
        self._blocked -= 1
        if self._blocked == 0:
            self._send(Blocked(False))

    def hand_back(self) -> None:
        """Returns the plain tasks that have not been started."""
        if self._queue and not self.actor_id:
            if back := [run.task_id for run in self._queue if isinstance(run, Run)]:
                self._send(Returned(back))
            for run in self._queue:
                if isinstance(run, LeaseRun):
                    self._send_back(run)
            self._queue.clear()
            if self._lease_is_over and not self._runs_leased():
                self._leave_lease()

    def tell_started(self) -> None:
        """Reports running tasks with large payloads, because they take long or wait: their owners may send more."""
        for task in self._running.values():
            if task.kind == TASK and not task.by_lane and task.untold_bytes >= self._started_bytes:
                task.untold_bytes = -1
                self._send(Started(task.task_id, task.attempt))

    def leave(self, reason: str) -> None:
        """Takes no more tasks. The process may exit once ``may_exit``."""
        if not self.leaving:
            self.leaving = True
            self.hand_back()
            self._send(Leaving(reason))
            self._wake()

    def may_exit(self) -> bool:
        """Whether a leaving worker may exit: it owes no answer, and no process can need its objects."""
        if not self.leaving or self._running or self._answers.owed:
            return False
        if self.actor_id or self.must_exit:
            return True
        return not (self._tasks.tasks or self._references.owned_reachable())

    def on_exit_if_idle(self, message: ExitIfIdle) -> None:
        busy = self._queue or self._running or self._answers.owed or self.actor_id or self._tasks.tasks
        if busy or self._references.owned_reachable():
            self._send(Staying(True))
        elif not message.surplus and self.worth_keeping():
            self._send(Staying(False))
        else:
            self.leave(message.reason)

    # ------------------------------------------------------------------ leases

    def on_lease_run(self, owner: bytes, message: LeaseRun) -> None:
        """An owner sends a task by its lane. This worker takes it if it is leased for it, and has no other."""
        is_free = not (self._queue or self._running or self._blocked or self.leaving or self._lease_is_over)
        if is_free and owner == self.lessee and message.lease == self._lease:
            self._queue.append(message)
            self._wake()
        else:
            self._send_back(message)

    def _send_back(self, run: LeaseRun) -> None:
        self._answer_owner(owner_of(run.task_id), LeaseReturned(run.task_id, run.attempt))

    def on_lease_over(self, message: LeaseOver) -> None:
        """The broker takes this worker back. If the process ends, its death is the answer."""
        if message.lease != self._lease or self.must_exit:
            return
        if not self._runs_leased():
            self._leave_lease()
            return
        self._lease_is_over = True
        if message.is_dead:
            self._send(LeaseLeft(self._lease, True))

    def _runs_leased(self) -> bool:
        """Whether a task of the owner who has leased this worker runs, or is about to."""
        begun = any(task.by_lane for task in self._running.values())
        return begun or any(isinstance(run, LeaseRun) for run in self._queue)

    def _leave_lease(self) -> None:
        self.lessee = b""
        self._lease_is_over = False
        self._answers.later(LeaseLeft(self._lease, False), [])

    # ------------------------------------------------------------------ cancellation

    def on_pin(self, message: PinCpus) -> None:
        """The broker says which CPUs the next work may use."""
        self.cpus = message.cpus

    def on_cancel(self, message: CancelTask) -> None:
        """Cancels a task. Drops it if it was not started; interrupts it if it runs, or has it killed by force."""
        if message.mode & CANCEL_RECURSIVE:
            self._tasks.cancel_children(message.task_id, message.mode)
        for item in self._queue:
            if not isinstance(item, ActorStart) and item.task_id == message.task_id:
                self._queue.remove(item)
                if isinstance(item, Run):
                    self._send(Done(item.task_id, item.attempt, 0, b""))
                elif isinstance(item, LeaseRun):
                    self._answers.by_lane(Reply(owner_of(item.task_id), item.task_id, item.attempt, b""))
                    if self._lease_is_over:
                        self._leave_lease()
                else:
                    self._reply(Reply(item.caller, item.task_id, item.attempt, b""))
                return
        call = self._groups.remove(message.task_id) if self._groups is not None else None
        if call is not None:
            self._reply(Reply(call.owner, call.task_id, call.attempt, b""))
            self._wake()  # the actor may end, now that the call is gone
            return
        if message.task_id not in self._running:
            return
        if message.mode & CANCEL_FORCE and not self.actor_id:
            self.hand_back()
            self._send(Killable(message.task_id))
        else:
            self.cancelled.add(message.task_id)
            self._perform(Interrupt(message.task_id))
