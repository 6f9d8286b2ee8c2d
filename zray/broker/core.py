"""The broker core: the scheduler and the control store of a cluster, as a state machine.

See ``zray/protocol/contract.py``. The core never sees a value: payloads are opaque bytes, and messages between
processes are routed unopened. Waiting tasks and actors are placed once, at the end of a turn (``schedule``).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, get_args

from zray.broker.actors import Actors
from zray.broker.effects import BrokerEffect, Departed
from zray.broker.environments import SETUP_FAILED, Environments
from zray.broker.history import History, ToldToBoth
from zray.broker.inspections import Inspections
from zray.broker.key_values import KeyValues
from zray.broker.memory import OUT_OF_MEMORY, MemoryPressure, Stop
from zray.broker.notices import Notices
from zray.broker.output import WorkerOutput
from zray.broker.placement_groups import PlacementGroups
from zray.broker.records import Actor, Envelope, Host, Job, Process, Worker
from zray.broker.reports import Reports
from zray.broker.resources import HEAD, UNIT, Pool, Shape, check_amounts, read_shape
from zray.broker.scheduler import Scheduler
from zray.broker.state_reports import StateReports
from zray.broker.states import BUSY, IDLE, PROBED, RETIRED
from zray.broker.time_limits import TimeLimits
from zray.failures import encode_failure
from zray.ids import function_id_of, owner_of
from zray.protocol import key_values as kv
from zray.protocol import messages as m
from zray.protocol.contract import Outbox, Output, event
from zray.protocol.messages import CANCEL_FORCE, DRIVER, HOST, OBSERVER, WORKER, ProtocolError
from zray.protocol.questions import BrokerStatus, GroupsQuery, Question
from zray.protocol.records import ClusterInfo, JoinInfo
from zray.protocol.state_questions import RecordsInspected, StateQuestion

MAX_FENCED = 50_000
REFUSED = "MessageRefusedError"
FORCE_GRACE_S = 1.0
"""How long a worker may take to cancel what its task has submitted, before it is killed for that task."""
KILLED_BY_FORCE = "its task was cancelled with force=True"
WORKER_DEATHS = ("WorkerCrashedError", OUT_OF_MEMORY, SETUP_FAILED)
"""The kinds of death that a host may report of a worker."""
CROWDED_S = 0.5
"""How long a worker in a runtime environment is kept idle while its host has more idle workers than CPUs. A program may
use many environments, each for a short time."""
MAX_BUSY_REPLIES = 6
"""The limit of the back-off for a worker that is busy each time it is asked to exit.

The broker asks it again after 2, 4, ... and at most 64 times the idle time.
"""


class BrokerCore:
    """All state of a broker.

    ``new_id()`` makes identifiers of 16 bytes; ``shell_status()`` returns the part of the status that only the shell
    knows; ``silent_s(process)`` returns for how many seconds a process has been silent.
    """

    def __init__(
        self,
        new_id: Callable[[], bytes],
        infeasible_warn_s: float = 2.0,
        shell_status: Callable[[], BrokerStatus] = BrokerStatus,
        silent_s: Callable[[bytes], float] = lambda process_id: 0.0,
    ) -> None:
        self._outbox: Outbox[BrokerEffect] = Outbox()
        self.send = self._outbox.send
        self._now = 0.0
        self.processes: dict[bytes, Process] = {}
        self.jobs: dict[bytes, Job] = {}
        self.functions: dict[bytes, tuple[str, bytes, set[bytes]]] = {}  # name, blob, the jobs that have sent it
        self.dropped_frames = 0  # messages that could not be sent
        self.scheduler = Scheduler(self.send, new_id, self.jobs, self.processes, lambda: self._now)
        self.notices = Notices(self.jobs, self.processes, self.send, self._outbox.perform, lambda: self._now)
        self.history = History(self.processes, lambda: self._now)
        told = ToldToBoth(self.notices, self.history)
        self.actors = Actors(self.scheduler, self.send, self.jobs, self.processes, told)
        self.environments = Environments(self.scheduler, self.actors, self.jobs, self._fail_queued)
        self.groups = PlacementGroups(
            self.scheduler, self.actors, self.send, self.jobs, self.processes, lambda: self._now
        )
        self.groups.fail_task = self._without_group
        self.actors.on_dead = self._actor_dead
        self.time_limits = TimeLimits(self.scheduler, self.processes, self.send, lambda: self._now)
        self.inspections = Inspections(self.processes, self.send, lambda: self._now)
        self.reports = Reports(self, self.notices.cannot_be_placed, infeasible_warn_s, shell_status, silent_s)
        self.state_reports = StateReports(self)
        self._forced: dict[bytes, tuple[Envelope, float]] = {}  # tasks to be killed, and when their time to cancel ends
        self.key_values = KeyValues(self.send)
        self.memory = MemoryPressure(self.scheduler, self._outbox.perform, lambda: self._now)
        self.output = WorkerOutput(self.jobs, self.processes, self.scheduler, self.send)
        self._fenced: OrderedDict[bytes, str] = OrderedDict()
        self._shapes: dict[bytes, Shape] = {}
        self._job_counter = 0
        actors = self.actors
        self._handlers: dict[Any, Callable[[Process, Any], None]] = {
            m.Submit: self._submit,
            m.Done: self._done,
            m.Reply: self._reply,
            m.Yield: self._yield,
            m.Started: self._started,
            m.TimeLimited: self.time_limits.on_limited,
            m.TimeLimitOver: self.time_limits.on_over,
            m.Returned: self._returned,
            m.Blocked: self._blocked,
            m.Cancel: self._cancel,
            m.FunctionPut: self._function_put,
            m.FunctionGet: self._function_get,
            m.EnvironmentPut: self.environments.on_put,
            m.ActorCreate: actors.on_create,
            m.ActorCall: actors.on_call,
            m.ActorCancel: actors.on_cancel,
            m.ActorKill: actors.on_kill,
            m.ActorRelease: actors.on_release,
            m.ActorLookup: actors.on_lookup,
            m.ActorReady: actors.on_ready,
            m.ActorExiting: lambda source, msg: actors.on_exiting(source, msg.actor_id, msg.reason),
            m.Leaving: self._leaving,
            m.Staying: self._staying,
            m.Killable: self._killable,
            m.Watch: self._watch,
            m.Forward: self._peer,
            m.GroupCreate: self.groups.on_create,
            m.GroupRemove: self.groups.on_remove,
            m.GroupWatch: self.groups.on_watch,
            **dict.fromkeys(get_args(Question), self.reports.on_question),
            GroupsQuery: self.groups.on_query,
            **dict.fromkeys(get_args(StateQuestion), self.state_reports.on_question),
            kv.KvPut: self.key_values.on_put,
            kv.KvGet: self.key_values.on_get,
            kv.KvDelete: self.key_values.on_delete,
            kv.KvList: self.key_values.on_list,
            m.Goodbye: lambda source, msg: self._lost(source.process_id, msg.reason, in_order=True),
            m.HostReady: self._host_ready,
            m.WorkerStarted: self._worker_started,
            m.WorkerDied: self._worker_died,
            m.MemoryShort: self.memory.on_short,
            m.WorkerLogs: self.output.on_logs,
            m.LogsTaken: self.output.on_taken,
            m.LogsFlushed: self.output.on_flushed,
            m.Inspected: self.inspections.on_inspected,
            m.HostInspected: self.inspections.on_inspected,
            RecordsInspected: self.inspections.on_inspected,
            m.ChannelRefusals: self.reports.on_channel_refusals,
        }

    # ------------------------------------------------------------------ in and out

    @property
    def tasks(self) -> dict[bytes, Envelope]:
        """All tasks of living owners, by identifier: a new dictionary, for tests. See ``task``."""
        return {task_id: envelope for process in self.processes.values() for task_id, envelope in process.tasks.items()}

    def task(self, task_id: bytes) -> Envelope | None:
        """The task of that identifier that a living owner waits for; None if there is none."""
        owner = self.processes.get(owner_of(task_id))
        return None if owner is None else owner.tasks.get(task_id)

    def take_output(self) -> Output[BrokerEffect]:
        """Takes the messages and effects of this turn. Membership drops messages to processes that have left."""
        return self._outbox.take()

    def receive(self, source: bytes, message: Any, now: float) -> None:
        """Handles a message of a process that has joined. Raises ProtocolError if the message is not allowed."""
        self._now = now
        process = self.processes.get(source)
        if process is not None:
            self._handlers[type(message)](process, message)

    @event
    def set_congested(self, process_id: bytes, congested: bool, now: float) -> None:
        """Notes whether a process is congested. Tasks of a congested owner are not started."""
        self._now = now
        self._set_congested(process_id, congested)

    def _set_congested(self, process_id: bytes, congested: bool) -> None:
        if congested != (process_id in self.scheduler.congested):
            self.scheduler.set_congested(process_id, congested)

    @event
    def rejected(self, dest: bytes, message: Any, reason: str, now: float) -> None:
        """The link to ``dest`` did not take a message: the process that waits for its outcome gets an error."""
        self._now = now
        self.dropped_frames += 1
        text = f"a {type(message).__name__} cannot be sent on by the broker: {reason}"
        if isinstance(message, m.Run):
            worker = self.scheduler.workers.get(dest)
            envelope = self.task(message.task_id)
            if worker is None or envelope is None or worker.outstanding.get(message.task_id) is not envelope:
                return
            self.scheduler.finished(worker, envelope, self._now)
            self._forget_task(envelope)
            self.send(envelope.owner, m.Failed(envelope.task_id, envelope.attempt, REFUSED, text, False))
        elif isinstance(message, m.ActorRun):
            self.send(message.caller, m.Failed(message.task_id, message.attempt, REFUSED, text, False))
        elif isinstance(message, m.Result):
            self.send(dest, m.Failed(message.task_id, message.attempt, REFUSED, text, False))
        elif isinstance(message, m.ActorStart) and message.actor_id in self.actors.actors:
            self.actors.end(self.actors.actors[message.actor_id], text)

    def due_s(self, now: float) -> float:
        """In how many seconds ``schedule`` must run even if no message arrives; infinite if it need not."""
        return min(self.scheduler.lent.due_s(now), self.time_limits.due_s(now))

    @event
    def schedule(self, now: float) -> None:
        """Places what can be placed. The shell calls this at the end of a turn."""
        self._now = now
        self.time_limits.look(now)
        self.scheduler.run(now)
        if self.scheduler.refused:
            self._refuse_all()

    # ------------------------------------------------------------------ joining and leaving

    def may_join(self, process_id: bytes, kind: str, relay: bytes = b"") -> str:
        """Why a process cannot join; empty if it can. ``relay``: the host that passed its Hello on, or empty."""
        if process_id in self._fenced:
            return f"this process was declared dead: {self._fenced[process_id]}"
        if kind == WORKER:
            worker = self.scheduler.workers.get(process_id)
            if worker is None or relay not in (b"", worker.host.host_id):
                return "no host of this cluster has started this worker"
        return ""

    def is_member(self, process_id: bytes) -> bool:
        """Whether a process has joined, even if it is dead now."""
        return process_id in self.processes or process_id in self._fenced

    @event
    def joined(self, process_id: bytes, kind: str, info: JoinInfo, now: float) -> ClusterInfo:
        """A process has said Hello: makes its record and returns the content of its Welcome. Idempotent."""
        self._now = now
        process = self.processes.get(process_id)
        if process is None:
            process = self.processes[process_id] = Process(process_id, kind, b"", info)
            process.joined_at = now
            if kind == DRIVER:
                self._job_counter += 1
                process.job_id = self._job_counter.to_bytes(4, "big")
                self.jobs[process.job_id] = Job(process.job_id, process_id, info.job)
                self.notices.driver_joined(process)
            elif kind == WORKER:
                self._worker_joined(process, now)
        if kind == WORKER:  # a worker asks for other hosts when it needs them
            return ClusterInfo(process.job_id, [self.reports.host(self.scheduler.workers[process_id].host)])
        return ClusterInfo(process.job_id, self.reports.hosts())

    def _worker_joined(self, process: Process, now: float) -> None:
        worker = process.worker = self.scheduler.workers[process.process_id]
        worker.pid = process.info.pid
        if worker.cpus:
            self.scheduler.cpus.tell(worker)
        self.environments.succeeded(worker, now)
        self.notices.worker_joined(worker)
        if worker.retiring:
            self.scheduler.retire(worker)
            return
        if worker.actor is not None:
            self.scheduler.begin_actor(worker)
            return
        self.scheduler.worker_joined(worker, now)

    @event
    def lost(self, process_id: bytes, reason: str, now: float) -> None:
        """A process is declared dead."""
        self._now = now
        self._lost(process_id, reason)

    def _lost(self, process_id: bytes, reason: str, in_order: bool = False) -> None:
        """A process is gone, said goodbye, or is declared dead: fences it and ends everything that depends on it.

        ``in_order``: it said goodbye.
        """
        worker = self.scheduler.workers.get(process_id)
        if worker is not None:
            self._worker_gone(worker, "WorkerCrashedError", reason, None)
        else:
            self._fence(process_id, reason, in_order)

    def _fence(self, process_id: bytes, reason: str, in_order: bool = False) -> None:
        """Ends a process's membership, and with it what the process owned, submitted and watched."""
        process = self.processes.pop(process_id, None)
        self._outbox.perform(Departed(process_id))
        self._set_congested(process_id, False)
        self._fenced[process_id] = reason
        if len(self._fenced) > MAX_FENCED:
            self._fenced.popitem(last=False)
        if process is None:
            return
        if process.kind == OBSERVER:
            self.inspections.process_lost(process_id)
            return
        for watcher in process.watchers:
            if watcher in self.processes:
                self.send(watcher, m.ProcessDied(process_id, reason))
        self._drop_tasks_of(process)
        job = self.jobs.get(process.job_id)  # the end of its last actor may close it
        self.actors.owner_died(process_id)
        if process.kind == HOST:
            self._host_lost(process, reason, in_order)
        elif process.kind == DRIVER:
            self.notices.driver_lost(process, reason)
            assert job is not None, "a driver's job is open as long as the driver lives"
            self.history.driver_gone(process, job, reason)
            self._job_ended(process)
        self.output.process_lost(process_id)
        self.inspections.process_lost(process_id)

    @event
    def expel(self, process_id: bytes, reason: str, now: float) -> None:
        """A process misbehaves: has its host kill it if it is a worker, and declares it dead otherwise."""
        self._now = now
        worker = self.scheduler.workers.get(process_id)
        if worker is not None:
            self.scheduler.kill(worker, reason)
        elif process_id in self.processes:
            self._lost(process_id, reason)

    def _drop_tasks_of(self, process: Process) -> None:
        """Drops the queued tasks of a dead owner, and stops its running ones."""
        for envelope in process.tasks.values():
            envelope.cancelled = True
            worker = envelope.worker
            if worker is None or worker.outstanding.get(envelope.task_id) is not envelope:
                continue
            if envelope.task_id in self._forced:
                continue  # its worker is already cancelling what the task has submitted
            if len(worker.outstanding) == 1:
                self.scheduler.kill(worker, "the owner of its task is gone")
            else:  # the worker also has tasks of other owners
                self._force(envelope, worker, CANCEL_FORCE)

    def _host_lost(self, process: Process, reason: str, in_order: bool) -> None:
        host = self.scheduler.hosts.get(process.process_id)
        if host is None:
            return
        self.notices.host_lost(host, reason)
        self.memory.host_lost(host.host_id)
        self.history.host_lost(host, max(0.0, self._now - process.joined_at), reason, in_order)
        self.scheduler.remove_host(host)
        self.groups.host_lost(host)
        why = f"its host {host.label} is gone: {reason}"
        for worker in list(host.workers.values()):
            self._worker_gone(worker, "NodeDiedError", why, None)

    def _job_ended(self, process: Process) -> None:
        """Ends the workers of a job whose driver is gone.

        Workers that serve a detached actor, or have tasks of a living owner, stay.
        """
        self.groups.job_ended(process.job_id)
        job = self.jobs.get(process.job_id)
        if job is None:
            return  # closed already, with its last actor
        for worker_id in list(job.workers):
            worker = self.scheduler.workers.get(worker_id)
            if worker is not None and worker.actor is None and not self._serves_a_living_owner(worker):
                self.scheduler.kill(worker, "its job has ended")
        self._close_job_if_over(job)

    def _serves_a_living_owner(self, worker: Worker) -> bool:
        return any(envelope.owner in self.processes for envelope in worker.outstanding.values())

    def _actor_dead(self, actor: Actor) -> None:
        self.groups.actor_dead(actor.actor_id)
        job = self.jobs.get(actor.job_id)
        if job is not None:
            self._close_job_if_over(job)

    def _close_job_if_over(self, job: Job) -> None:
        """Closes a job that has neither a driver nor actors: no process can submit to it any more."""
        if job.driver in self.processes or any(actor.job_id == job.job_id for actor in self.actors.actors.values()):
            return
        if self.jobs.pop(job.job_id, None) is None:
            return
        for worker_id in job.workers:
            worker = self.scheduler.workers.get(worker_id)
            if worker is not None:
                self.scheduler.kill(worker, "its job has ended")
        for envelope in self.scheduler.drop_queues(job.job_id):
            if self.task(envelope.task_id) is envelope:
                self._forget_task(envelope)
        for function_id, (_, _, jobs) in list(self.functions.items()):
            jobs.discard(job.job_id)
            if not jobs:
                del self.functions[function_id]
        self.environments.forget_job(job.job_id)

    # ------------------------------------------------------------------ tasks

    def _submit(self, source: Process, msg: m.Submit) -> None:
        task_id = msg.task_id
        if not task_id.startswith(source.process_id):
            raise ProtocolError("submitted a task of another process")
        if task_id in source.tasks or source.job_id not in self.jobs:
            return  # a repetition, or from a worker whose job has ended
        shape = self._shapes.get(msg.shape) or self._new_shape(msg.shape)
        if shape.environment_id:
            self.scheduler.check_environment(source.job_id, shape)
        envelope = Envelope(task_id, msg.attempt, source.process_id, source.job_id, msg.function_id, shape, msg.flags,
                            msg.near, msg.payload, source.depth)  # fmt: skip
        source.tasks[task_id] = envelope
        if msg.attempt:
            self.notices.task_again(envelope)
        if shape.group and self.groups.is_gone(shape.group):
            self._without_group(envelope)
            return
        self.scheduler.enqueue(envelope)

    def _without_group(self, envelope: Envelope) -> None:
        """Fails a task that has not started, because its placement group is removed."""
        text = f"its placement group was removed (placement group id: {envelope.shape.group})"
        self._fail_queued(envelope, "TaskPlacementGroupRemoved", text)

    def _forget_task(self, envelope: Envelope) -> None:
        del self.processes[envelope.owner].tasks[envelope.task_id]

    def _new_shape(self, key: bytes) -> Shape:
        shape = read_shape(key)
        if len(self._shapes) > 10_000:
            self._shapes.clear()
        return self._shapes.setdefault(key, shape)

    def _done(self, source: Process, msg: m.Done) -> None:
        worker = self.scheduler.workers.get(source.process_id)
        if worker is None:
            return
        held = worker.outstanding.get(msg.task_id)
        if held is None:
            return
        if held.attempt != msg.attempt:
            raise ProtocolError("the outcome of an attempt that the worker was not given")
        self.scheduler.finished(worker, held, self._now)
        if len(msg.payload) > 1:  # it has run to its end
            self.scheduler.record_run(held.function_id, msg.run_us)
        owner = self.processes.get(held.owner)
        if owner is not None and owner.tasks.get(msg.task_id) is held:
            del owner.tasks[msg.task_id]
            self.send(held.owner, m.Result(msg.task_id, msg.attempt, source.process_id, b"", msg.payload))

    def _reply(self, source: Process, msg: m.Reply) -> None:
        """Passes on an actor's reply with the actor's identifier: an owner takes replies only from the called actor."""
        actor_id = self.scheduler.workers[source.process_id].served
        if not actor_id or not msg.task_id.startswith(msg.owner):
            raise ProtocolError("a reply to a call that this worker was never given")
        if msg.owner in self.processes:
            self.send(msg.owner, m.Result(msg.task_id, msg.attempt, source.process_id, actor_id, msg.payload))

    def _yield(self, source: Process, msg: m.Yield) -> None:
        """Passes items of a stream on to the owner of the task or call."""
        worker = self.scheduler.workers[source.process_id]
        owner = msg.owner
        if not worker.served:
            envelope = worker.outstanding.get(msg.task_id)
            if envelope is None or self.task(msg.task_id) is not envelope:
                return  # no owner waits for it
            if envelope.attempt != msg.attempt:
                raise ProtocolError("items of an attempt that the worker was not given")
            owner = envelope.owner
        elif not msg.task_id.startswith(owner):
            raise ProtocolError("items of a call that this worker was never given")
        if owner in self.processes:
            item = m.Item(msg.task_id, msg.attempt, source.process_id, worker.served, msg.position, msg.payload)
            self.send(owner, item)

    def _started(self, source: Process, msg: m.Started) -> None:
        """A worker has begun a task. The task will not return to a queue, so the broker drops the payload.

        The owner still has it.
        """
        envelope = self.scheduler.workers[source.process_id].outstanding.get(msg.task_id)
        if envelope is None or self.task(msg.task_id) is not envelope:
            return  # no owner waits for it
        if envelope.attempt != msg.attempt:
            raise ProtocolError("began an attempt that the worker was not given")
        envelope.payload = b""
        self.send(envelope.owner, msg)

    def _returned(self, source: Process, msg: m.Returned) -> None:
        worker = self.scheduler.workers[source.process_id]
        back = []
        for task_id in msg.task_ids:
            envelope = worker.outstanding.get(task_id)
            if envelope is not None:
                self.scheduler.finished(worker, envelope, self._now)
                if envelope.cancelled:  # its owner is gone
                    continue
                if envelope.stopped:  # the cancellation and this message crossed
                    self._cancelled_before_start(envelope)
                elif envelope.shape.group and self.groups.is_gone(envelope.shape.group):
                    self._without_group(envelope)
                else:
                    back.append(envelope)
        worker.overdue = bool(worker.outstanding)
        self.scheduler.requeue(back)

    def _blocked(self, source: Process, msg: m.Blocked) -> None:
        worker = self.scheduler.workers[source.process_id]
        if worker.blocked == msg.blocked:
            return
        if msg.blocked:
            self.scheduler.lend(worker)
        else:
            self.scheduler.take_back(worker)

    def _cancel(self, source: Process, msg: m.Cancel) -> None:
        envelope = self.task(msg.task_id)
        if envelope is None or envelope.owner != source.process_id:
            return
        worker = envelope.worker
        if worker is None:
            self._cancelled_before_start(envelope)
            return
        envelope.stopped = True
        if msg.mode & CANCEL_FORCE:
            self._force(envelope, worker, msg.mode)
        else:
            self.send(worker.worker_id, m.CancelTask(msg.task_id, msg.mode))

    def _force(self, envelope: Envelope, worker: Worker, mode: int) -> None:
        """Has a worker cancel what its task has submitted, and then kills the worker if it still runs the task."""
        self.send(worker.worker_id, m.CancelTask(envelope.task_id, mode))
        self._forced.setdefault(envelope.task_id, (envelope, self._now + FORCE_GRACE_S))
        worker.overdue = True

    def _killable(self, source: Process, msg: m.Killable) -> None:
        envelope, _ = self._forced.pop(msg.task_id, (None, 0.0))
        worker = self.scheduler.workers[source.process_id]
        if envelope is not None and worker.outstanding.get(msg.task_id) is envelope:
            self.scheduler.kill(worker, KILLED_BY_FORCE)

    def _kill_overdue(self, now: float) -> None:
        """Kills workers that have not answered in time: their task holds the GIL, or they are stopped."""
        for task_id, (envelope, until) in list(self._forced.items()):
            worker = envelope.worker
            runs = worker is not None and worker.outstanding.get(task_id) is envelope
            if runs and now < until:
                continue
            del self._forced[task_id]
            if runs:
                assert worker is not None
                self.scheduler.kill(worker, KILLED_BY_FORCE)

    def _refuse_all(self) -> None:
        """Fails tasks and actors that have left their lines because they can never be placed."""
        refused, self.scheduler.refused = self.scheduler.refused, []
        for each, why in refused:
            if not isinstance(each, Envelope):
                self.actors.refuse(each, why)
            elif self.task(each.task_id) is each:
                self._fail_queued(each, "TaskUnschedulableError", why)

    def _cancelled_before_start(self, envelope: Envelope) -> None:
        self._fail_queued(envelope, "TaskCancelledError", "cancelled before it started")

    def _fail_queued(self, envelope: Envelope, kind: str, message: str) -> None:
        """Ends a task that no worker has. Its envelope is dropped when it reaches the head of its queue."""
        envelope.cancelled = True
        self._forget_task(envelope)
        self.send(envelope.owner, m.Failed(envelope.task_id, envelope.attempt, kind, message, False))

    # ------------------------------------------------------------------ functions and routing

    def _function_put(self, source: Process, msg: m.FunctionPut) -> None:
        if source.job_id not in self.jobs:
            return  # its job has ended: the process is about to be killed
        if function_id_of(msg.blob) != msg.function_id:
            raise ProtocolError("a function whose identifier is not its hash")
        _, _, jobs = self.functions.setdefault(msg.function_id, (msg.name, msg.blob, set()))
        jobs.add(source.job_id)

    def _function_get(self, source: Process, msg: m.FunctionGet) -> None:
        name, blob, _ = self.functions.get(msg.function_id, ("", b"", set()))
        self.send(source.process_id, m.FunctionBlob(msg.function_id, bool(blob), name, blob))

    def _peer(self, source: Process, msg: m.Forward) -> None:
        if msg.dest in self.processes:
            self.send(msg.dest, m.Delivered(source.process_id, msg.rows))
        else:
            self.send(source.process_id, m.ProcessDied(msg.dest, self._fenced.get(msg.dest, "unknown process")))

    def _watch(self, source: Process, msg: m.Watch) -> None:
        watched = self.processes.get(msg.process_id)
        if watched is None:
            reason = self._fenced.get(msg.process_id, "unknown process")
            self.send(source.process_id, m.ProcessDied(msg.process_id, reason))
        else:
            watched.watchers[source.process_id] = None

    # ------------------------------------------------------------------ hosts and workers

    def _host_ready(self, source: Process, msg: m.HostReady) -> None:
        if source.process_id in self.scheduler.hosts:
            return
        amounts = check_amounts(msg.resources)
        if not any(HEAD in host.pool.total for host in self.scheduler.hosts.values()):
            amounts[HEAD] = UNIT
        host = Host(source.process_id, Pool(amounts), msg.info)
        self.scheduler.add_host(host)
        self.notices.host_joined(host)
        for _ in range(host.pool.total.get("CPU", 0) // 10_000):
            self.scheduler.start_worker(host)

    def _worker_started(self, source: Process, msg: m.WorkerStarted) -> None:
        worker = self.scheduler.workers.get(msg.worker_id)
        if worker is not None and worker.host.host_id == source.process_id:
            worker.pid = msg.pid
            self.notices.worker_started(worker)

    def _worker_died(self, source: Process, msg: m.WorkerDied) -> None:
        worker = self.scheduler.workers.get(msg.worker_id)
        if msg.kind not in WORKER_DEATHS:
            raise ProtocolError("WorkerDied with an unknown kind of death")
        if worker is not None and worker.host.host_id == source.process_id:
            self._worker_gone(worker, msg.kind, msg.message, msg.running)

    def _worker_gone(self, worker: Worker, kind: str, message: str, culprit: bytes | None) -> None:
        """A worker is dead: settles everything that depends on it. Every worker leaves the broker this way.

        ``culprit``: the task that it had started last (may be empty); None: unknown, so it may be any of its tasks.
        """
        actor, job = worker.actor, self.jobs.get(worker.job_id)
        never_joined = worker.never_joined
        if self.environments.blames(worker, kind):
            self.environments.failed(worker, message)
            if actor is not None:  # the worker did not work for its job yet
                job, actor = self.jobs.get(actor.job_id), None
        stop = self.memory.ended(worker.worker_id)
        if stop is not None and kind == OUT_OF_MEMORY:
            message = f"{message}\n{stop.account}"
        else:
            stop = None
        self.notices.worker_gone(worker, kind, message, culprit)
        if never_joined and kind == "WorkerCrashedError":
            self.notices.start_failed(worker, message)
        self.history.worker_gone(worker, kind, message)
        self.time_limits.worker_gone(worker)
        self.scheduler.remove(worker)
        if kind == OUT_OF_MEMORY:
            self._fail_for_memory(worker, message, culprit, stop)
        else:
            self._fail_tasks_of(worker, kind, message, culprit)
        if actor is not None:
            error = encode_failure(OUT_OF_MEMORY, message) if kind == OUT_OF_MEMORY else b""
            self.actors.worker_died(actor, message, never_joined, told=kind == "NodeDiedError", error=error)
        self._fence(worker.worker_id, message)
        if job is not None:
            self._close_job_if_over(job)

    def _fail_for_memory(self, worker: Worker, message: str, culprit: bytes | None, stop: Stop | None) -> None:
        """Ends the tasks of a worker that was killed for lack of memory, by its host (``stop``) or by the kernel.

        Tasks that waited in the worker have used no memory. The first one, if it has begun, pays with a retry unless it
        was stopped to make room for others.
        """
        first = culprit or next(iter(worker.outstanding), b"")
        stopped = worker.outstanding.pop(first, None)
        self._fail_tasks_of(worker, "WorkerCrashedError", message, b"")
        if stopped is not None:
            worker.outstanding[first] = stopped
            pays = first == culprit and (stop is None or stop.was_alone)
            self._fail_tasks_of(worker, OUT_OF_MEMORY, message, first if pays else b"")

    def _fail_tasks_of(self, worker: Worker, kind: str, message: str, culprit: bytes | None) -> None:
        outstanding, worker.outstanding = worker.outstanding, {}
        for task_id, envelope in outstanding.items():
            if self.task(task_id) is envelope:
                self._forget_task(envelope)
                failed = m.Failed(task_id, envelope.attempt, kind, message, culprit is None or task_id == culprit)
                self.send(envelope.owner, failed)

    def _leaving(self, source: Process, msg: m.Leaving) -> None:
        worker = self.scheduler.workers[source.process_id]
        if worker.actor is not None:
            raise ProtocolError("Leaving from a worker whose actor has not ended")
        worker.retiring = True
        if not worker.outstanding and worker.state is not RETIRED:
            self.scheduler.retire(worker)

    def _staying(self, source: Process, msg: m.Staying) -> None:
        worker = self.scheduler.workers[source.process_id]
        if worker.state is PROBED:
            worker.kept = not msg.busy
            worker.busy_replies += msg.busy
            self.scheduler.make_idle(worker, self._now)

    # ------------------------------------------------------------------ time

    def tick(self, now: float) -> None:
        """Reaps idle workers, kills workers that do not answer, and warns of what cannot be placed."""
        self._now = now
        self._kill_overdue(now)
        for host in self.scheduler.hosts.values():
            self._reap(host, now)
        self.reports.tick(now)
        self.notices.tick(now)
        self.inspections.tick(now)

    def _reap(self, host: Host, now: float) -> None:
        idle = [worker for workers in host.idle.values() for worker in workers]
        surplus = len(idle) - host.pool.total.get("CPU", 0) // 10_000
        for worker in sorted(idle, key=lambda worker: worker.idle_since):
            timeout_s = host.info.idle_timeout_s
            if surplus > 0 and worker.environment_id:
                timeout_s = min(timeout_s, CROWDED_S)
            patience_s = timeout_s * 2 ** min(worker.busy_replies, MAX_BUSY_REPLIES)
            if now - worker.idle_since >= patience_s and (surplus > 0 or not worker.kept):
                self.scheduler.probe(worker, "it was idle", surplus > 0)
                surplus -= 1

    def check(self) -> None:
        """Raises AssertionError if an invariant between the records does not hold; for tests."""
        for host in self.scheduler.hosts.values():
            held: dict[str, int] = dict(host.pool.free)
            for worker in host.workers.values():
                for name, amount in worker.grant.amounts.items():
                    held[name] += amount
                held["CPU"] = held.get("CPU", 0) - worker.lent
                assert bool(worker.outstanding) <= (worker.state is BUSY), "work on a worker that is not busy"
            for bundle in itertools.chain.from_iterable(host.bundles.values()):
                for name, amount in bundle.shape.amounts.items():
                    held[name] += amount
            assert {k: v for k, v in held.items() if v} == {k: v for k, v in host.pool.total.items() if v}, "resources"
            idle = [worker for workers in host.idle.values() for worker in workers]
            assert all(worker.state is IDLE for worker in idle) and len(set(map(id, idle))) == len(idle), "idle list"
            assert host.actors == sum(worker.actor is not None for worker in host.workers.values()), "its actors"
            assert sum(loan.cpus for loan in host.lent.values()) == sum(
                worker.lent for worker in host.workers.values()
            ), "what is lent"
            assert (host.pool.free.get("CPU", 0) > 0) == self.scheduler.places.is_open(host), (
                "the index of hosts with room"
            )
        for process in self.processes.values():
            assert all(envelope.owner == process.process_id for envelope in process.tasks.values()), "tasks by owner"
        for queue in self.scheduler.queues.values():
            assert len(queue) == sum(1 for _ in queue), "the length of a queue"
        for actor in self.actors.actors.values():
            assert actor.creator or owner_of(actor.actor_id) in self.processes, "an actor that will never be announced"
        self.scheduler.check()
        self.groups.check()
        self.key_values.check()
        self.time_limits.check()
        queued = {id(envelope) for queue in self.scheduler.queues.values() for envelope in queue}
        for envelope in self.tasks.values():
            holder = envelope.worker
            at_worker = holder is not None and holder.outstanding.get(envelope.task_id) is envelope
            assert at_worker != (id(envelope) in queued), "a task is in exactly one place"
