"""The last actors, workers, hosts and jobs that have ended: records for ``zray.util.state``, a bounded number each.

Only ends are recorded, and an end is rare beside tasks, so small tasks pay nothing. Ended tasks are recorded by their
owners (``zray.client.core.records``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from zray.broker.actors import ActorEvents
from zray.broker.records import Actor, Host, Job, Process, Worker, place_of
from zray.broker.resources import as_floats
from zray.broker.states import ALIVE, DEAD, PENDING_CREATION, RESTARTING, RETIRED
from zray.protocol.messages import DRIVER, WORKER, ProtocolError
from zray.protocol.state_questions import ActorRecord, HostRecord, JobRecord, ProcessRecords, WorkerRecord

MAX_ENDED = 2_000
"""How many ended records of each kind are kept."""
MAX_LEFT_BYTES = 8 * 2**20
"""The most bytes of records of tasks that are kept, of drivers that have left."""
STATE_NAMES = {PENDING_CREATION: "PENDING_CREATION", ALIVE: "ALIVE", RESTARTING: "RESTARTING", DEAD: "DEAD"}
BY_SYSTEM, BY_USER, BY_FAULT, BY_MEMORY = (
    "INTENDED_SYSTEM_EXIT",
    "INTENDED_USER_EXIT",
    "SYSTEM_ERROR",
    "NODE_OUT_OF_MEMORY",
)
"""Ray's names of the ways in which workers end."""

_Record = TypeVar("_Record")


class Ended(Generic[_Record]):
    """Records that have ended, the oldest first, with the time of the end. ``forgotten``: how many were dropped."""

    def __init__(self) -> None:
        self._records: deque[tuple[float, _Record]] = deque(maxlen=MAX_ENDED)
        self.forgotten = 0

    def add(self, record: _Record, now: float) -> None:
        self.forgotten += len(self._records) == MAX_ENDED
        self._records.append((now, record))

    def by_age(self, now: float) -> list[tuple[float, _Record]]:
        """The records, with the seconds since their end."""
        return [(max(0.0, now - ended), record) for ended, record in self._records]


class History(ActorEvents):
    """Notes what ends. ``clock()``: the time of the present event, in seconds.

    In its records, ``began_s`` is the age at the end, and ``ended_s`` is 0. The answers add what has passed since.
    """

    def __init__(self, processes: Mapping[bytes, Process], clock: Callable[[], float]) -> None:
        self._processes = processes
        self._clock = clock
        self._actors: Ended[ActorRecord] = Ended()
        self._hosts: Ended[HostRecord] = Ended()
        self._workers: Ended[WorkerRecord] = Ended()
        self._jobs: Ended[JobRecord] = Ended()
        self._left: deque[ProcessRecords] = deque()  # what the gone have told of their tasks
        self._left_bytes = 0

    # ------------------------------------------------------------------ records of what lives

    def actor(self, actor: Actor) -> ActorRecord:
        """The record of an actor."""
        worker = actor.worker
        state = STATE_NAMES[actor.state]
        if actor.state is PENDING_CREATION and not actor.payload:
            state = "DEPENDENCIES_UNREADY"
        host_id, worker_id, pid = actor.place if worker is None else place_of(worker)
        spec = actor.spec
        return ActorRecord(
            actor.actor_id, spec.class_name, spec.name, spec.namespace, state, actor.job_id, host_id, worker_id, pid,
            spec.detached, actor.incarnation, as_floats(actor.running.amounts), actor.death_message,
            actor.constructed,
        )  # fmt: skip

    def host(self, host: Host) -> HostRecord:
        """The record of a host."""
        info, total = host.info, host.pool.without_bundles(host.pool.total)
        return HostRecord(
            host.host_id, info.hostname, info.ip, info.labels, as_floats(total), "",
            self._age(host.host_id) or 0.0, None, False,
        )  # fmt: skip

    def worker(self, worker: Worker) -> WorkerRecord:
        """The record of a worker."""
        runs = next(iter(worker.outstanding), b"")
        host = worker.host
        return WorkerRecord(
            worker.worker_id, False, worker.job_id, host.host_id, host.info.ip, worker.pid, runs, worker.blocked,
            "", "", self._age(worker.worker_id), None,
        )  # fmt: skip

    def driver(self, process: Process) -> WorkerRecord:
        """The record of a driver, among those of workers."""
        return WorkerRecord(
            process.process_id, True, process.job_id, b"", "", process.info.pid, b"", False, "", "",
            self._age(process.process_id), None,
        )  # fmt: skip

    def job(self, job: Job) -> JobRecord:
        """The record of a job whose driver lives."""
        driver = self._processes[job.driver]
        age_s = self._age(job.driver) or 0.0
        return JobRecord(job.job_id, job.settings.namespace, job.driver, driver.info.pid, "", age_s, None)

    def _age(self, process_id: bytes) -> float | None:
        process = self._processes.get(process_id)
        return None if process is None else max(0.0, self._clock() - process.joined_at)

    # ------------------------------------------------------------------ what ends

    def actor_dead(self, actor: Actor, message: str) -> None:
        """An actor has died for good."""
        if actor.creator:
            self._actors.add(self.actor(actor)._replace(state="DEAD", reason=message), self._clock())

    def worker_gone(self, worker: Worker, kind: str, message: str) -> None:
        """A worker is dead; its record is still complete."""
        if kind == "OutOfMemoryError":
            how = BY_MEMORY
        elif worker.retiring or worker.state is RETIRED:
            how = BY_USER if worker.served else BY_SYSTEM
        else:
            how = BY_FAULT
        self._workers.add(self.worker(worker)._replace(exit_type=how, reason=message, ended_s=0.0), self._clock())

    def host_lost(self, host: Host, age_s: float, reason: str, in_order: bool) -> None:
        """A host is gone; it had joined ``age_s`` seconds ago. ``in_order``: it has said goodbye."""
        record = self.host(host)._replace(reason=reason, began_s=age_s, ended_s=0.0, in_order=in_order)
        self._hosts.add(record, self._clock())

    def driver_gone(self, process: Process, job: Job, reason: str) -> None:
        """A driver is gone, and with it its job."""
        now = self._clock()
        age_s = max(0.0, now - process.joined_at)
        record = self.driver(process)._replace(exit_type=BY_USER, reason=reason, began_s=age_s, ended_s=0.0)
        self._workers.add(record, now)
        self._jobs.add(
            JobRecord(job.job_id, job.settings.namespace, job.driver, process.info.pid, reason, age_s, 0.0), now
        )

    def tasks_left(self, process: Process, total: int, rows: bytes) -> None:
        """A driver or worker tells of its tasks, since it leaves. The records of those that left first make room."""
        if process.kind not in (DRIVER, WORKER):
            raise ProtocolError("only a driver or worker leaves records of its tasks behind")
        if len(rows) > MAX_LEFT_BYTES:
            return
        job_id = process.job_id if process.worker is None else process.worker.job_id
        self._left.append(ProcessRecords(process.process_id, job_id, total, rows, [], []))
        self._left_bytes += len(rows)
        while self._left_bytes > MAX_LEFT_BYTES:
            self._left_bytes -= len(self._left.popleft().rows)

    # ------------------------------------------------------------------ answers

    def tasks_of_the_gone(self) -> list[ProcessRecords]:
        """What drivers and workers that are gone have told of their tasks."""
        return [each for each in self._left if each.process_id not in self._processes]

    def ended_actors(self) -> tuple[list[ActorRecord], int]:
        """The actors that have died, and how many more there were."""
        return [record for _, record in self._actors.by_age(self._clock())], self._actors.forgotten

    def ended_hosts(self) -> tuple[list[HostRecord], int]:
        """The hosts that are gone, and how many more there were."""
        rows = [
            record._replace(began_s=record.began_s + age_s, ended_s=age_s)
            for age_s, record in self._hosts.by_age(self._clock())
        ]
        return rows, self._hosts.forgotten

    def ended_workers(self) -> tuple[list[WorkerRecord], int]:
        """The workers and drivers that are gone, and how many more there were."""
        rows = [
            record._replace(began_s=None if record.began_s is None else record.began_s + age_s, ended_s=age_s)
            for age_s, record in self._workers.by_age(self._clock())
        ]
        return rows, self._workers.forgotten

    def ended_jobs(self) -> tuple[list[JobRecord], int]:
        """The jobs whose driver is gone, and how many more there were."""
        rows = [
            record._replace(began_s=record.began_s + age_s, ended_s=age_s)
            for age_s, record in self._jobs.by_age(self._clock())
        ]
        return rows, self._jobs.forgotten


class ToldToAll(ActorEvents):
    """Passes events of actors on to several listeners, in order."""

    def __init__(self, listeners: Sequence[ActorEvents]) -> None:
        self._listeners = listeners

    def actor_created(self, actor: Actor) -> None:
        """See ``ActorEvents``."""
        for each in self._listeners:
            each.actor_created(actor)

    def actor_begins(self, actor: Actor) -> None:
        """See ``ActorEvents``."""
        for each in self._listeners:
            each.actor_begins(actor)

    def actor_runs(self, actor: Actor, worker: Worker) -> None:
        """See ``ActorEvents``."""
        for each in self._listeners:
            each.actor_runs(actor, worker)

    def actor_restarts(self, actor: Actor, message: str, told: bool) -> None:
        """See ``ActorEvents``."""
        for each in self._listeners:
            each.actor_restarts(actor, message, told)

    def actor_dead(self, actor: Actor, message: str) -> None:
        """See ``ActorEvents``."""
        for each in self._listeners:
            each.actor_dead(actor, message)
