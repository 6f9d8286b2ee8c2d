"""The tasks that owners wait for: from their submission to the outcome, or to the error that takes its place.

A task belongs to the process that has submitted it (``Process.tasks``). It is in exactly one place: in a queue, or with
a worker. It ends with a ``Result``, with a ``Failed``, or without a message when its owner is gone.

A task that is cancelled by force is killed together with its worker, but the worker first cancels what the task has
submitted. A worker that does not do so in time is killed nevertheless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from zray.broker.dispatch import Dispatch
from zray.broker.leases import GRACE_S, OWNER_IS_GONE, Leases
from zray.broker.lines import Lines
from zray.broker.memory import OUT_OF_MEMORY, Stop
from zray.broker.records import Envelope, Job, Process, Worker
from zray.broker.resources import Shape, read_shape
from zray.broker.workers import Workers
from zray.ids import owner_of
from zray.protocol import messages as m
from zray.protocol.messages import CANCEL_FORCE, ProtocolError

REFUSED = "MessageRefusedError"
KILLED_BY_FORCE = "its task was cancelled with force=True"
MAX_SHAPES = 10_000
"""The number of shapes that are kept decoded."""


class Tasks:
    """All tasks of living owners. ``send(dest, message)``; ``clock()``: the time of the present event, in seconds.

    ``on_again(envelope)`` is told of each further attempt; ``is_gone(group)``: whether a placement group is removed.
    """

    def __init__(
        self,
        processes: dict[bytes, Process],
        jobs: dict[bytes, Job],
        lines: Lines,
        workers: Workers,
        dispatch: Dispatch,
        leases: Leases,
        on_again: Callable[[Envelope], None],
        is_gone: Callable[[str], bool],
        send: Callable[[bytes, Any], None],
        clock: Callable[[], float],
    ) -> None:
        self._processes = processes
        self._jobs = jobs
        self._lines = lines
        self._workers = workers
        self._dispatch = dispatch
        self._leases = leases
        self._on_again = on_again
        self._is_gone = is_gone
        self._send = send
        self._clock = clock
        self._shapes: dict[bytes, Shape] = {}
        self._forced: dict[bytes, tuple[Envelope, float]] = {}  # tasks to be killed, and when their time to cancel ends

    def find(self, task_id: bytes) -> Envelope | None:
        """The task of that identifier that a living owner waits for; None if there is none."""
        owner = self._processes.get(owner_of(task_id))
        return None if owner is None else owner.tasks.get(task_id)

    def _forget(self, envelope: Envelope) -> None:
        del self._processes[envelope.owner].tasks[envelope.task_id]

    # ------------------------------------------------------------------ from submission to outcome

    def on_submit(self, source: Process, message: m.Submit) -> None:
        """A process submits a task: queues it."""
        task_id = message.task_id
        if not task_id.startswith(source.process_id):
            raise ProtocolError("submitted a task of another process")
        if task_id in source.tasks or source.job_id not in self._jobs:
            return  # a repetition, or from a worker whose job has ended
        shape = self._shapes.get(message.shape) or self._new_shape(message.shape)
        if shape.environment_id:
            self._workers.check_environment(source.job_id, shape)
        envelope = Envelope(task_id, message.attempt, source.process_id, source.job_id, message.function_id, shape,
                            message.flags, message.near, message.payload, source.depth)  # fmt: skip
        source.tasks[task_id] = envelope
        if message.attempt:
            self._on_again(envelope)
        if shape.group and self._is_gone(shape.group):
            self.end_without_group(envelope)
            return
        self._lines.enqueue(envelope)

    def _new_shape(self, key: bytes) -> Shape:
        shape = read_shape(key)
        if len(self._shapes) > MAX_SHAPES:
            self._shapes.clear()
        return self._shapes.setdefault(key, shape)

    def on_started(self, source: Process, message: m.Started) -> None:
        """A worker has begun a task. The task will not return to a queue, so the broker drops the payload.

        The owner still has it.
        """
        envelope = self._workers.workers[source.process_id].outstanding.get(message.task_id)
        if envelope is None or self.find(message.task_id) is not envelope:
            return  # no owner waits for it
        if envelope.attempt != message.attempt:
            raise ProtocolError("began an attempt that the worker was not given")
        envelope.payload = b""
        self._send(envelope.owner, message)

    def on_done(self, source: Process, message: m.Done) -> None:
        """A worker has finished a task: passes its outcome on."""
        worker = self._workers.workers.get(source.process_id)
        if worker is None:
            return
        held = worker.outstanding.get(message.task_id)
        if held is None:
            return
        if held.attempt != message.attempt:
            raise ProtocolError("the outcome of an attempt that the worker was not given")
        has_run = len(message.payload) > 1  # to its end
        if has_run:
            self._dispatch.record_run(held.function_id, message.run_us)
        if not (has_run and held.lease and self._leases.begin(worker, held)):
            self._dispatch.finished(worker, held)
        owner = self._processes.get(held.owner)
        if owner is not None and owner.tasks.get(message.task_id) is held:
            del owner.tasks[message.task_id]
            self._send(held.owner, m.Result(message.task_id, message.attempt, source.process_id, b"", message.payload))
        if worker.lease is not None:
            self._leases.tell(worker)

    def on_yield(self, source: Process, message: m.Yield) -> None:
        """Passes items of a stream on to the owner of the task or call."""
        worker = self._workers.workers[source.process_id]
        owner = message.owner
        if not worker.served:
            envelope = worker.outstanding.get(message.task_id)
            if envelope is None or self.find(message.task_id) is not envelope:
                return  # no owner waits for it
            if envelope.attempt != message.attempt:
                raise ProtocolError("items of an attempt that the worker was not given")
            owner = envelope.owner
        elif not message.task_id.startswith(owner):
            raise ProtocolError("items of a call that this worker was never given")
        if owner in self._processes:
            item = m.Item(message.task_id, message.attempt, source.process_id, worker.served, message.position,
                          message.payload)  # fmt: skip
            self._send(owner, item)

    def on_reply(self, source: Process, message: m.Reply) -> None:
        """Passes on an actor's reply with the actor's identifier: an owner takes replies only from the called actor."""
        actor_id = self._workers.workers[source.process_id].served
        if not actor_id or not message.task_id.startswith(message.owner):
            raise ProtocolError("a reply to a call that this worker was never given")
        if message.owner in self._processes:
            result = m.Result(message.task_id, message.attempt, source.process_id, actor_id, message.payload)
            self._send(message.owner, result)

    def on_returned(self, source: Process, message: m.Returned) -> None:
        """A worker hands tasks back that it has not begun: queues them again."""
        worker = self._workers.workers[source.process_id]
        back = []
        for task_id in message.task_ids:
            envelope = worker.outstanding.get(task_id)
            if envelope is not None:
                self._dispatch.finished(worker, envelope)
                if envelope.cancelled:  # its owner is gone
                    continue
                if envelope.stopped:  # the cancellation and this message crossed
                    self._cancelled_before_start(envelope)
                elif envelope.shape.group and self._is_gone(envelope.shape.group):
                    self.end_without_group(envelope)
                else:
                    back.append(envelope)
        worker.overdue = bool(worker.outstanding)
        self._lines.requeue(back)

    # ------------------------------------------------------------------ cancellation

    def on_cancel(self, source: Process, message: m.Cancel) -> None:
        """An owner cancels a task."""
        envelope = self.find(message.task_id)
        if envelope is None or envelope.owner != source.process_id:
            return
        worker = envelope.worker
        if worker is None:
            self._cancelled_before_start(envelope)
            return
        envelope.stopped = True
        if message.mode & CANCEL_FORCE:
            self._force(envelope, worker, message.mode)
        else:
            self._send(worker.worker_id, m.CancelTask(message.task_id, message.mode))

    def _force(self, envelope: Envelope, worker: Worker, mode: int) -> None:
        """Has a worker cancel what its task has submitted, and then kills the worker if it still runs the task."""
        self._send(worker.worker_id, m.CancelTask(envelope.task_id, mode))
        self._forced.setdefault(envelope.task_id, (envelope, self._clock() + GRACE_S))
        worker.overdue = True

    def on_killable(self, source: Process, message: m.Killable) -> None:
        """A worker has cancelled what its task has submitted."""
        envelope, _ = self._forced.pop(message.task_id, (None, 0.0))
        worker = self._workers.workers[source.process_id]
        runs = envelope is not None and worker.outstanding.get(message.task_id) is envelope
        if runs or self._leases.is_forced(worker, message.task_id):
            self._workers.kill(worker, KILLED_BY_FORCE)

    def tick(self, now: float) -> None:
        """Kills workers that have not answered in time: their task holds the GIL, or they are stopped."""
        for task_id, (envelope, until) in list(self._forced.items()):
            worker = envelope.worker
            runs = worker is not None and worker.outstanding.get(task_id) is envelope
            if runs and now < until:
                continue
            del self._forced[task_id]
            if runs:
                assert worker is not None
                self._workers.kill(worker, KILLED_BY_FORCE)
        for worker, is_orphaned in self._leases.overdue(now):
            self._workers.kill(worker, OWNER_IS_GONE if is_orphaned else KILLED_BY_FORCE)

    # ------------------------------------------------------------------ errors

    def fail_queued(self, envelope: Envelope, kind: str, message: str) -> None:
        """Ends a task that no worker has. Its envelope is dropped when it reaches the head of its queue."""
        envelope.cancelled = True
        self._forget(envelope)
        self._send(envelope.owner, m.Failed(envelope.task_id, envelope.attempt, kind, message, False))

    def _cancelled_before_start(self, envelope: Envelope) -> None:
        self.fail_queued(envelope, "TaskCancelledError", "cancelled before it started")

    def end_without_group(self, envelope: Envelope) -> None:
        """Fails a task that has not started, because its placement group is removed."""
        text = f"its placement group was removed (placement group id: {envelope.shape.group})"
        self.fail_queued(envelope, "TaskPlacementGroupRemoved", text)

    def refuse(self, envelope: Envelope, why: str) -> None:
        """Fails a task that has left its queue because it can never be placed."""
        if self.find(envelope.task_id) is envelope:
            self.fail_queued(envelope, "TaskUnschedulableError", why)

    def not_sent(self, worker_id: bytes, message: m.Run, text: str) -> None:
        """A task could not be sent to a worker: fails it."""
        worker = self._workers.workers.get(worker_id)
        envelope = self.find(message.task_id)
        if worker is None or envelope is None or worker.outstanding.get(message.task_id) is not envelope:
            return
        self._dispatch.finished(worker, envelope)
        self._forget(envelope)
        self._send(envelope.owner, m.Failed(envelope.task_id, envelope.attempt, REFUSED, text, False))

    # ------------------------------------------------------------------ deaths

    def worker_gone(self, worker: Worker, kind: str, message: str, culprit: bytes | None, stop: Stop | None) -> None:
        """Ends the tasks of a dead worker. ``culprit``: as in ``BrokerCore._worker_gone``.

        ``stop``: how its host has stopped it for lack of memory; None if it did not.
        """
        if kind == OUT_OF_MEMORY:
            self._fail_for_memory(worker, message, culprit, stop)
        else:
            self._fail_all(worker, kind, message, culprit)

    def _fail_for_memory(self, worker: Worker, message: str, culprit: bytes | None, stop: Stop | None) -> None:
        """Ends the tasks of a worker that was killed for lack of memory, by its host (``stop``) or by the kernel.

        Tasks that waited in the worker have used no memory. The first one, if it has begun, pays with a retry unless it
        was stopped to make room for others.
        """
        first = culprit or next(iter(worker.outstanding), b"")
        stopped = worker.outstanding.pop(first, None)
        self._fail_all(worker, "WorkerCrashedError", message, b"")
        if stopped is not None:
            worker.outstanding[first] = stopped
            pays = first == culprit and (stop is None or stop.was_alone)
            self._fail_all(worker, OUT_OF_MEMORY, message, first if pays else b"")

    def _fail_all(self, worker: Worker, kind: str, message: str, culprit: bytes | None) -> None:
        outstanding, worker.outstanding = worker.outstanding, {}
        for task_id, envelope in outstanding.items():
            if self.find(task_id) is envelope:
                self._forget(envelope)
                failed = m.Failed(task_id, envelope.attempt, kind, message, culprit is None or task_id == culprit)
                self._send(envelope.owner, failed)

    def owner_gone(self, owner: Process) -> None:
        """Drops the queued tasks of a dead owner, and stops its running ones."""
        self._leases.owner_gone(owner.process_id)
        for envelope in owner.tasks.values():
            envelope.cancelled = True
            worker = envelope.worker
            if worker is None or worker.outstanding.get(envelope.task_id) is not envelope:
                continue
            if envelope.task_id in self._forced:
                continue  # its worker is already cancelling what the task has submitted
            if len(worker.outstanding) == 1:
                self._workers.kill(worker, OWNER_IS_GONE)
            else:  # the worker also has tasks of other owners
                self._force(envelope, worker, CANCEL_FORCE)

    def drop(self, envelopes: Iterable[Envelope]) -> None:
        """Forgets tasks whose job is over."""
        for envelope in envelopes:
            if self.find(envelope.task_id) is envelope:
                self._forget(envelope)

    # ------------------------------------------------------------------ tests

    def check(self) -> None:
        """Raises AssertionError if a task is not in exactly one place; for tests."""
        queued = {id(envelope) for queue in self._lines.queues.values() for envelope in queue}
        for process in self._processes.values():
            for envelope in process.tasks.values():
                assert envelope.owner == process.process_id, "tasks by owner"
                holder = envelope.worker
                at_worker = holder is not None and holder.outstanding.get(envelope.task_id) is envelope
                assert at_worker != (id(envelope) in queued), "a task is in exactly one place"
