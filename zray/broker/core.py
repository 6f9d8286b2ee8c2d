"""The broker core: the scheduler and the control store of a cluster, as a state machine.

See ``zray/protocol/contract.py``. The core never sees a value: payloads are opaque bytes, and messages between
processes are routed unopened. Waiting tasks and actors are placed once, at the end of a turn (``schedule``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, get_args

from zray.broker.actor_placement import ActorPlacement
from zray.broker.actors import Actors
from zray.broker.dispatch import Dispatch
from zray.broker.effects import BrokerEffect, Departed
from zray.broker.environments import SETUP_FAILED, Environments
from zray.broker.explanations import Explanations
from zray.broker.functions import Functions
from zray.broker.grants import Grants
from zray.broker.history import History, ToldToAll
from zray.broker.inspections import Inspections
from zray.broker.journal_records import Kept
from zray.broker.key_values import KeyValues
from zray.broker.leases import Leases
from zray.broker.ledger import Ledger
from zray.broker.lines import Lines
from zray.broker.memory import OUT_OF_MEMORY, MemoryPressure
from zray.broker.notices import Notices
from zray.broker.output import WorkerOutput
from zray.broker.placement_groups import PlacementGroups
from zray.broker.placement_warnings import PlacementWarnings
from zray.broker.places import Places
from zray.broker.records import Actor, Envelope, Host, Job, Process, Worker
from zray.broker.reports import Reports
from zray.broker.resources import HEAD, UNIT, Pool, check_amounts
from zray.broker.restoration import restore
from zray.broker.scheduler import Scheduler
from zray.broker.state_reports import StateReports
from zray.broker.status_report import StatusReport
from zray.broker.tasks import REFUSED, Tasks
from zray.broker.time_limits import TimeLimits
from zray.broker.workers import Workers
from zray.failures import encode_failure
from zray.ids import owner_of
from zray.logs.line import LogLine
from zray.protocol import key_values as kv
from zray.protocol import messages as m
from zray.protocol.contract import Outbox, Output, event
from zray.protocol.messages import DRIVER, HOST, OBSERVER, WORKER, ProtocolError
from zray.protocol.questions import BrokerStatus, GroupsQuery, Question
from zray.protocol.records import ClusterInfo, JoinInfo
from zray.protocol.state_questions import LEFT_BEHIND, RecordsInspected, StateQuestion

MAX_FENCED = 50_000
WORKER_DEATHS = ("WorkerCrashedError", OUT_OF_MEMORY, SETUP_FAILED)
"""The kinds of death that a host may report of a worker."""


class BrokerCore:
    """All state of a broker.

    ``new_id()`` makes identifiers of 16 bytes; ``shell_status()`` returns the part of the status that only the shell
    knows; ``silent_s(process)`` returns for how many seconds a process has been silent; ``has_journal``: changes of
    what is kept over a restart are effects.
    """

    def __init__(
        self,
        new_id: Callable[[], bytes],
        infeasible_warn_s: float = 2.0,
        shell_status: Callable[[], BrokerStatus] = BrokerStatus,
        silent_s: Callable[[bytes], float] = lambda process_id: 0.0,
        has_journal: bool = False,
    ) -> None:
        self._outbox: Outbox[BrokerEffect] = Outbox()
        self.send = self._outbox.send
        self.log: Callable[[LogLine], None] = self._outbox.perform
        self._now = 0.0
        self.processes: dict[bytes, Process] = {}
        self.jobs: dict[bytes, Job] = {}
        self.dropped_frames = 0  # messages that could not be sent
        self._fenced: OrderedDict[bytes, str] = OrderedDict()
        self.job_counter = 0
        send, perform = self.send, self._outbox.perform

        def clock() -> float:
            return self._now

        # What runs where, from the resources of hosts up to the pass over all lines.
        self.places = places = Places()
        self.grants = grants = Grants(places, send, clock)
        self.lines = lines = Lines(places, grants.shares, clock)
        self.workers = workers = Workers(grants, places, self.jobs, self.processes, send, new_id, clock)
        self.dispatch = Dispatch(places, grants, workers, send)
        self.functions = Functions(self.jobs, send)
        actor_placement = ActorPlacement(places, grants, workers, send, self.functions.blob)
        self.scheduler = Scheduler(places, lines, grants, workers, self.dispatch, actor_placement)
        # What is told of it.
        self.notices = Notices(self.jobs, self.processes, send, perform, clock)
        self.history = History(self.processes, clock)
        # What users make, and what each of it needs.
        self.ledger = ledger = Ledger(self.jobs, self.functions, workers.environments, perform)
        told = ToldToAll([self.notices, self.history, ledger] if has_journal else [self.notices, self.history])
        self.actors = Actors(lines, grants, workers, send, self.jobs, self.processes, told, clock)
        self.groups = PlacementGroups(
            places, grants, lines, workers, self.actors, send, self.jobs, self.processes, clock
        )
        self.leases = Leases(workers, places, self.processes, lambda: self.scheduler.left, send, clock)
        self.tasks = Tasks(self.processes, self.jobs, lines, workers, self.dispatch, self.leases,
                           self.notices.task_again, self.groups.is_gone, send, clock)  # fmt: skip
        self.groups.fail_task = self.tasks.end_without_group
        self.actors.on_dead = self._actor_dead
        self.key_values = KeyValues(send)
        if has_journal:
            self.groups.events = ledger
            self.key_values.on_change = ledger.value_changed
        self.environments = Environments(places.hosts, lines, workers, self.actors, self.jobs, self.tasks.fail_queued)
        self.time_limits = TimeLimits(workers, self.processes, send, clock)
        self.memory = MemoryPressure(places.hosts, workers, self.leases.take_back, perform, clock)
        self.output = WorkerOutput(self.jobs, self.processes, places.hosts, workers.workers, send)
        # Answers to questions.
        self.inspections = Inspections(self.processes, send, clock)
        explanations = Explanations(self)
        self.placement_warnings = PlacementWarnings(
            self, explanations, self.notices.cannot_be_placed, infeasible_warn_s
        )
        self.status_report = StatusReport(self, shell_status, silent_s)
        self.reports = Reports(self, explanations, self.status_report, shell_status)
        self.state_reports = StateReports(self)
        actors, tasks = self.actors, self.tasks
        self._handlers: dict[Any, Callable[[Process, Any], None]] = {
            m.Submit: tasks.on_submit,
            m.Done: tasks.on_done,
            m.Reply: tasks.on_reply,
            m.Yield: tasks.on_yield,
            m.Started: tasks.on_started,
            m.TimeLimited: self.time_limits.on_limited,
            m.TimeLimitOver: self.time_limits.on_over,
            m.Returned: tasks.on_returned,
            m.Blocked: workers.on_blocked,
            m.Cancel: tasks.on_cancel,
            m.FunctionPut: self.functions.on_put,
            m.FunctionGet: self.functions.on_get,
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
            m.Staying: workers.on_staying,
            m.Killable: tasks.on_killable,
            m.LeaseEnd: self.leases.on_end,
            m.LeaseLeft: self.leases.on_left,
            m.LeaseCancel: self.leases.on_cancel,
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
            RecordsInspected: self._on_records,
            m.ChannelRefusals: self.reports.on_channel_refusals,
        }

    @event
    def restore(self, records: Iterable[Kept], now: float) -> None:
        """Brings back what an earlier run of this broker has kept. To be called before anything else."""
        self._now = now
        restore(self, records)

    # ------------------------------------------------------------------ in and out

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
        if congested != (process_id in self.lines.congested):
            self.lines.set_congested(process_id, congested)

    @event
    def rejected(self, dest: bytes, message: Any, reason: str, now: float) -> None:
        """The link to ``dest`` did not take a message: the process that waits for its outcome gets an error."""
        self._now = now
        self.dropped_frames += 1
        text = f"a {type(message).__name__} cannot be sent on by the broker: {reason}"
        if isinstance(message, m.Run):
            self.tasks.not_sent(dest, message, text)
        elif isinstance(message, m.ActorRun):
            self.send(message.caller, m.Failed(message.task_id, message.attempt, REFUSED, text, False))
        elif isinstance(message, m.Result):
            self.send(dest, m.Failed(message.task_id, message.attempt, REFUSED, text, False))
        elif isinstance(message, m.ActorStart) and message.actor_id in self.actors.actors:
            self.actors.end(self.actors.actors[message.actor_id], text)

    def due_s(self, now: float) -> float:
        """In how many seconds ``schedule`` must run even if no message arrives; infinite if it need not."""
        return min(self.grants.lent.due_s(now), self.time_limits.due_s(now), self.actors.due_s(now))

    @event
    def schedule(self, now: float) -> None:
        """Places what can be placed. The shell calls this at the end of a turn."""
        self._now = now
        self.time_limits.look(now)
        self.actors.look(now)
        self.scheduler.run(now)
        self.leases.recall()
        if self.lines.refused:
            self._refuse_all()

    def _refuse_all(self) -> None:
        """Fails tasks and actors that have left their lines because they can never be placed."""
        refused, self.lines.refused = self.lines.refused, []
        for each, why in refused:
            if isinstance(each, Envelope):
                self.tasks.refuse(each, why)
            else:
                self.actors.refuse(each, why)

    # ------------------------------------------------------------------ joining and leaving

    def may_join(self, process_id: bytes, kind: str, relay: bytes = b"") -> str:
        """Why a process cannot join; empty if it can. ``relay``: the host that passed its Hello on, or empty."""
        if process_id in self._fenced:
            return f"this process was declared dead: {self._fenced[process_id]}"
        if kind == WORKER:
            worker = self.workers.workers.get(process_id)
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
                self.job_counter += 1
                process.job_id = self.job_counter.to_bytes(4, "big")
                self.jobs[process.job_id] = Job(process.job_id, process_id, info.job)
                self.notices.driver_joined(process)
            elif kind == WORKER:
                self._worker_joined(process, now)
        if kind == WORKER:  # a worker asks for other hosts when it needs them
            return ClusterInfo(process.job_id, [self.reports.host(self.workers.workers[process_id].host)])
        return ClusterInfo(process.job_id, self.reports.hosts())

    def _worker_joined(self, process: Process, now: float) -> None:
        worker = process.worker = self.workers.workers[process.process_id]
        worker.pid = process.info.pid
        self.environments.succeeded(worker, now)
        self.notices.worker_joined(worker)
        self.scheduler.worker_joined(worker)

    def _on_records(self, source: Process, message: RecordsInspected) -> None:
        if message.request == LEFT_BEHIND:
            self.history.tasks_left(source, message.total, message.rows)
        else:
            self.inspections.on_inspected(source, message)

    @event
    def lost(self, process_id: bytes, reason: str, now: float) -> None:
        """A process is declared dead."""
        self._now = now
        self._lost(process_id, reason)

    def _lost(self, process_id: bytes, reason: str, in_order: bool = False) -> None:
        """A process is gone, said goodbye, or is declared dead: fences it and ends everything that depends on it.

        ``in_order``: it said goodbye.
        """
        worker = self.workers.workers.get(process_id)
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
        self.tasks.owner_gone(process)
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
        worker = self.workers.workers.get(process_id)
        if worker is not None:
            self.workers.kill(worker, reason)
        elif process_id in self.processes:
            self._lost(process_id, reason)

    def _host_lost(self, process: Process, reason: str, in_order: bool) -> None:
        host = self.places.hosts.get(process.process_id)
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
            worker = self.workers.workers.get(worker_id)
            if worker is not None and worker.actor is None and not self._serves_a_living_owner(worker):
                self.workers.kill(worker, "its job has ended")
        self._close_job_if_over(job)

    def _serves_a_living_owner(self, worker: Worker) -> bool:
        owners = [envelope.owner for envelope in worker.outstanding.values()]
        if worker.lease is not None:
            owners.append(worker.lease.owner)
        return any(owner in self.processes for owner in owners)

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
            worker = self.workers.workers.get(worker_id)
            if worker is not None:
                self.workers.kill(worker, "its job has ended")
        self.tasks.drop(self.lines.close_job(job.job_id))
        self.grants.close_job(job.job_id)
        self.functions.forget_job(job.job_id)
        self.environments.forget_job(job.job_id)

    # ------------------------------------------------------------------ routing

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
        if source.process_id in self.places.hosts:
            return
        amounts = check_amounts(msg.resources)
        if not any(HEAD in host.pool.total for host in self.places.hosts.values()):
            amounts[HEAD] = UNIT
        host = Host(source.process_id, Pool(amounts), msg.info)
        self.scheduler.add_host(host)
        self.notices.host_joined(host)
        for _ in range(host.pool.total.get("CPU", 0) // 10_000):
            self.workers.start(host)

    def _worker_started(self, source: Process, msg: m.WorkerStarted) -> None:
        worker = self.workers.workers.get(msg.worker_id)
        if worker is not None and worker.host.host_id == source.process_id:
            worker.pid = msg.pid
            self.notices.worker_started(worker)

    def _leaving(self, source: Process, msg: m.Leaving) -> None:
        self.leases.leaves(self.workers.workers[source.process_id])
        self.workers.on_leaving(source, msg)

    def _worker_died(self, source: Process, msg: m.WorkerDied) -> None:
        worker = self.workers.workers.get(msg.worker_id)
        if msg.kind not in WORKER_DEATHS:
            raise ProtocolError("WorkerDied with an unknown kind of death")
        if worker is not None and worker.host.host_id == source.process_id:
            self._worker_gone(worker, msg.kind, msg.message, msg.running)

    def _worker_gone(self, worker: Worker, kind: str, message: str, culprit: bytes | None) -> None:
        """A worker is dead: settles everything that depends on it. Every worker leaves the broker this way.

        ``culprit``: the task that it had started last (may be empty); None: unknown, so it may be any of its tasks.
        """
        actor, job = worker.actor, self.jobs.get(worker.job_id)
        never_joined, retiring = worker.never_joined, worker.retiring
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
        self.workers.remove(worker)
        self.tasks.worker_gone(worker, kind, message, culprit, stop)
        self.leases.worker_gone(worker, kind, message, culprit, stop)
        if actor is not None:
            error = encode_failure(OUT_OF_MEMORY, message) if kind == OUT_OF_MEMORY else b""
            host_died = kind == "NodeDiedError"
            by_itself = not (host_died or retiring)
            self.actors.worker_died(actor, message, never_joined, host_died, by_itself, error)
        self._fence(worker.worker_id, message)
        if job is not None:
            self._close_job_if_over(job)

    # ------------------------------------------------------------------ time

    def tick(self, now: float) -> None:
        """Reaps idle workers, kills workers that do not answer, and warns of what cannot be placed."""
        self._now = now
        self.tasks.tick(now)
        self.workers.reap(now)
        self.placement_warnings.tick(now)
        self.notices.tick(now)
        self.inspections.tick(now)

    def check(self) -> None:
        """Raises AssertionError if an invariant between the records does not hold; for tests."""
        waiting = [line.share for line in self.lines.actors.values()]
        waiting += [queue.share for queue in self.lines.queues.values()]
        self.grants.check(waiting)
        self.workers.check()
        self.dispatch.check()
        self.leases.check()
        self.lines.check()
        self.tasks.check()
        self.groups.check()
        self.functions.check()
        self.key_values.check()
        self.time_limits.check()
        for actor in self.actors.actors.values():
            assert actor.creator or owner_of(actor.actor_id) in self.processes, "an actor that will never be announced"
