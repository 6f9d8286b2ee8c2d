"""The whole cluster as ``zray status`` shows it: hosts, jobs, what runs and what waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from zray.broker.actors import Actors
from zray.broker.functions import Functions
from zray.broker.inspections import Found, Inspections
from zray.broker.lines import Lines
from zray.broker.placement_groups import PlacementGroups
from zray.broker.places import Places
from zray.broker.records import Actor, Host, Job, Process, Worker
from zray.broker.resources import UNIT, Shape, as_floats
from zray.broker.states import ALIVE, PENDING_CREATION, RESTARTING
from zray.broker.tasks import Tasks
from zray.broker.workers import Workers
from zray.ids import task_of
from zray.protocol import questions as q
from zray.protocol.questions import (
    Amount,
    BrokerStatus,
    ClusterStatus,
    HostStatus,
    JobStatus,
    RunningStatus,
    WaitingStatus,
    WorkerCounts,
)
from zray.protocol.records import Activity

WORKERS_AS = ("starting", "idle", "busy", "busy", "idle", "actors", "ending")
"""The field of ``WorkerCounts`` that counts a worker, by the worker's state."""
MAX_WORKERS_ASKED = 1000
"""How many workers are asked what they run, for a status of the cluster: each costs two messages."""
STATE_NAMES = {PENDING_CREATION: "PENDING_CREATION", ALIVE: "ALIVE", RESTARTING: "RESTARTING"}


class Subject(Protocol):
    """The tables of the broker's core that are read here."""

    processes: dict[bytes, Process]
    jobs: dict[bytes, Job]
    functions: Functions
    places: Places
    lines: Lines
    workers: Workers
    tasks: Tasks
    actors: Actors
    groups: PlacementGroups
    inspections: Inspections

    def send(self, dest: bytes, message: Any) -> None:
        """Sends a message to a process."""


class StatusReport:
    """The status of the cluster of one broker. ``shell_status``, ``silent_s``: see ``BrokerCore``."""

    def __init__(
        self, core: Subject, shell_status: Callable[[], BrokerStatus], silent_s: Callable[[bytes], float]
    ) -> None:
        self._core = core
        self._shell_status = shell_status
        self._silent_s = silent_s

    def answer(self, source: Process, question: q.StatusQuery) -> None:
        """Answers once the processes of the cluster have said what they do, or their time is over."""
        core = self._core
        workers = [
            worker for worker in core.workers.workers.values() if worker.outstanding or worker.lease or worker.actor
        ]
        asked = [*core.places.hosts, *(job.driver for job in core.jobs.values())]
        asked += [worker.worker_id for worker in workers[:MAX_WORKERS_ASKED]]

        def send(found: Found) -> None:
            core.send(source.process_id, self.status(question.request, found))

        core.inspections.ask(source.process_id, asked, send)

    def status(self, request: int, found: Found) -> ClusterStatus:
        """The whole cluster as ``zray status`` shows it. ``found``: the answers of its processes."""
        core = self._core
        actors = [actor for actor in core.actors.actors.values() if actor.creator]  # those that have been announced
        queued = [
            (first.job_id, first.shape, sum(not envelope.cancelled for envelope in queue))
            for queue in core.lines.queues.values()
            if (first := queue.any()) is not None
        ]
        return ClusterStatus(
            request,
            self._shell_status(),
            hosts=[self._host_status(host, found) for host in core.places.hosts.values()],
            jobs=self._jobs_status(queued, actors, found),
            actors={name: sum(actor.state == state for actor in actors) for state, name in STATE_NAMES.items()},
            waiting=self._waiting(queued),
            running=self._running(found),
            waiting_for_arguments=_sums(activity.arguments for activity in found.activities.values()),
        )

    def _running(self, found: Found) -> list[RunningStatus]:
        """What runs, the longest first, then the idle actors.

        ``seconds`` is None if the worker has not reported them.
        """
        rows: list[RunningStatus] = []
        for worker in self._core.workers.workers.values():
            activity = found.activities.get(worker.worker_id)
            if not (worker.outstanding or worker.actor is not None or _runs_leased(worker, activity)):
                continue
            host = found.hosts.get(worker.host.host_id)
            row = RunningStatus(
                what="actor" if worker.actor is not None else "task",
                actor=worker.actor.label if worker.actor is not None else "",
                host_id=worker.host.host_id,
                pid=worker.pid,
                memory_bytes=host.memory.get(worker.pid) if host is not None else None,
                answers=activity is not None,
                waits_for=[each.maker or self._maker_of(each.object_id) for each in activity.awaited]
                if activity
                else [],
                name="",
                seconds=None,
            )
            if activity and activity.running:
                rows += [row._replace(name=call.name, seconds=call.seconds) for call in activity.running]
            elif worker.outstanding:
                first = next(iter(worker.outstanding.values()))
                rows.append(row._replace(name=self._core.functions.name(first.function_id)))
            else:
                rows.append(row)
        return sorted(rows, key=lambda row: -(row.seconds or 0.0))

    def _host_status(self, host: Host, found: Found) -> HostStatus:
        workers = dict.fromkeys(WorkerCounts._fields, 0)
        for worker in host.workers.values():
            workers[WORKERS_AS[worker.state]] += 1
        info, pool, answer = host.info, host.pool, found.hosts.get(host.host_id)
        return HostStatus(
            host_id=host.host_id,
            hostname=info.hostname,
            pid=info.pid,
            session=info.session,
            heard_s=self._silent_s(host.host_id),
            labels=info.labels,
            resources={
                name: Amount(total / UNIT, (total - pool.free[name]) / UNIT)
                for name, total in pool.without_bundles(pool.total).items()
            },
            store=answer.store if answer is not None else None,
            workers=WorkerCounts(**workers),
            refused=host.channel_refusals,
        )

    def _jobs_status(
        self, queued: Iterable[tuple[bytes, Shape, int]], actors: Iterable[Actor], found: Found
    ) -> list[JobStatus]:
        core = self._core
        counts = {job_id: dict.fromkeys(("tasks_running", "tasks_waiting", "actors"), 0) for job_id in core.jobs}

        def add(job_id: bytes, what: str, count: int) -> None:
            if job_id in counts:
                counts[job_id][what] += count

        for job_id, _, count in queued:
            add(job_id, "tasks_waiting", count)
        for worker in core.workers.workers.values():
            if worker.outstanding:  # it runs the first; the others were handed to it in advance
                add(worker.job_id, "tasks_running", 1)
                add(worker.job_id, "tasks_waiting", len(worker.outstanding) - 1)
            elif _runs_leased(worker, found.activities.get(worker.worker_id)):
                add(worker.job_id, "tasks_running", 1)
        for actor in actors:
            add(actor.job_id, "actors", 1)
        return [_job_status(job, core.processes.get(job.driver), counts[job_id]) for job_id, job in core.jobs.items()]

    def _waiting(self, queued: Iterable[tuple[bytes, Shape, int]]) -> list[WaitingStatus]:
        """The tasks and actors that wait for a place, counted by the resources that they ask for."""
        rows: dict[tuple[str, bytes, bool], WaitingStatus] = {}

        def add(what: str, shape: Shape, count: int) -> None:
            can_be_placed = self._core.places.could_ever_fit(shape)
            key = what, shape.grant_key, can_be_placed  # several lines may ask for the same resources
            row = rows.get(key) or WaitingStatus(what, 0, as_floats(shape.amounts), can_be_placed)
            rows[key] = row._replace(count=row.count + count)

        for _, shape, count in queued:
            add("tasks", shape, count)
        for line in self._core.lines.actors.values():
            if line:
                add("actors", line.share.shape, len(line))
        for group in self._core.groups.reports.waiting():
            name, wanted = f"placement groups ({group.kind})", group.wanted
            key = name, wanted.key, self._core.groups.reports.could_ever_fit(group)
            row = rows.get(key) or WaitingStatus(name, 0, as_floats(wanted.amounts), key[2])
            rows[key] = row._replace(count=row.count + 1)
        return list(rows.values())

    def _maker_of(self, object_id: bytes) -> str:
        envelope = self._core.tasks.find(task_of(object_id))
        return (self._core.functions.name(envelope.function_id) if envelope else "") or "an object of another process"


def _runs_leased(worker: Worker, activity: Activity | None) -> bool:
    """Whether a leased worker runs a task: it says so, or does not answer."""
    return worker.lease is not None and (activity is None or bool(activity.running))


def _sums(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total.most_common())


def _job_status(job: Job, driver: Process | None, counts: dict[str, int]) -> JobStatus:
    return JobStatus(job.job_id, job.settings.namespace, driver.info.pid if driver is not None else None, **counts)
