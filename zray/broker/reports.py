"""The broker's reports: answers to questions, and warnings about what cannot be placed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from zray.broker.actors import Actors
from zray.broker.dispatch import Dispatch
from zray.broker.functions import Functions
from zray.broker.inspections import Found, Inspections
from zray.broker.leases import Leases
from zray.broker.lines import Lines
from zray.broker.output import WorkerOutput
from zray.broker.placement_groups import PlacementGroups
from zray.broker.places import Places
from zray.broker.records import Actor, Host, Job, Process, Worker
from zray.broker.resources import CPU, STORE, UNIT, Shape, as_floats, describe, describe_host
from zray.broker.states import ALIVE, PENDING_CREATION, RESTARTING, SERVING, STARTING
from zray.broker.tasks import Tasks
from zray.broker.workers import Workers
from zray.ids import owner_of, task_of
from zray.protocol import questions as q
from zray.protocol.messages import ChannelRefusals
from zray.protocol.questions import (
    AT_WORKER,
    QUEUED,
    UNKNOWN,
    UNPLACED,
    Amount,
    BrokerStatus,
    ClusterStatus,
    Explanation,
    HostStatus,
    JobStatus,
    RunningStatus,
    WaitingStatus,
    WorkerCounts,
)
from zray.protocol.records import Activity, HostState

ACTORS_LOOKED_AT = 100
"""How many actors of one line a warning looks at: all of them wait for the same resources."""
STALLED_WARN_S = 10.0
"""How long work may wait for CPUs that actors hold, in seconds, before the user is told."""
WORKERS_AS = ("starting", "idle", "busy", "busy", "idle", "actors", "ending")
"""The field of ``WorkerCounts`` that counts a worker, by the worker's state."""
MAX_WORKERS_ASKED = 1000
"""How many workers are asked what they run, for a status of the cluster: each costs two messages."""
STATE_NAMES = {PENDING_CREATION: "PENDING_CREATION", ALIVE: "ALIVE", RESTARTING: "RESTARTING"}


class Subject(Protocol):
    """The tables of the broker's core that the reports read."""

    processes: dict[bytes, Process]
    jobs: dict[bytes, Job]
    functions: Functions
    places: Places
    lines: Lines
    workers: Workers
    dispatch: Dispatch
    leases: Leases
    tasks: Tasks
    actors: Actors
    groups: PlacementGroups
    inspections: Inspections
    output: WorkerOutput

    def send(self, dest: bytes, message: Any) -> None:
        """Sends a message to a process."""

    def is_member(self, process_id: bytes) -> bool:
        """Whether a process has joined, even if it is dead now."""


class Reports:
    """Read-only views of a broker's state."""

    def __init__(
        self,
        core: Subject,
        warn: Callable[[Job, str], None],
        infeasible_warn_s: float,
        shell_status: Callable[[], BrokerStatus] = BrokerStatus,
        silent_s: Callable[[bytes], float] = lambda process_id: 0.0,
    ) -> None:
        """``shell_status``, ``silent_s``: see ``BrokerCore``."""
        self._silent_s = silent_s
        self._core = core
        self._warn = warn
        self._shell_status = shell_status
        self._infeasible_warn_s = infeasible_warn_s
        self._unplaced_since: dict[tuple[bytes, bytes], float] = {}
        self._warned: set[tuple[bytes, bytes]] = set()

    # ------------------------------------------------------------------ queries

    def on_question(self, source: Process, question: Any) -> None:
        """Answers a question, at once or after the processes that know the answer have replied."""
        at_once = _AT_ONCE.get(type(question))
        if at_once is not None:
            self._core.send(source.process_id, at_once(self, question))
        else:
            _LATER[type(question)](self, source, question)

    def hosts(self) -> list[HostState]:
        """The live hosts."""
        return [self.host(host) for host in self._core.places.hosts.values()]

    @staticmethod
    def host(host: Host) -> HostState:
        """The state of one host. When blocked tasks go on, more than the total may be in use: 0 is free then."""
        pool = host.pool
        free = {name: max(0, amount) for name, amount in pool.without_bundles(pool.free).items()}
        total = as_floats(pool.without_bundles(pool.total))
        return HostState(host.host_id, host.info, total, as_floats(free), len(host.workers))

    def _resources(self, source: Process, question: q.ResourcesQuery) -> None:
        """The total or the free resources of the cluster, those of bundles included, as in Ray.

        Hosts are asked how full their stores are. One that does not answer in time counts as empty.
        """
        if not question.free:
            self._core.send(source.process_id, q.Resources(question.request, self._sum("total")))
            return

        def answer(found: Found) -> None:
            free = self._sum("free")
            if STORE in free:
                used = sum(host.store.used - host.store.idle for host in found.hosts.values())
                free[STORE] = max(0.0, free[STORE] - used)
            self._core.send(source.process_id, q.Resources(question.request, free))

        hosts = self._core.places.hosts.values()
        with_stores = [host.host_id for host in hosts if STORE in host.pool.total]
        self._core.inspections.ask(source.process_id, with_stores, answer)

    def _sum(self, which: str) -> dict[str, float]:
        total: dict[str, int] = {}
        for host in self._core.places.hosts.values():
            for name, amount in getattr(host.pool, which).items():
                total[name] = total.get(name, 0) + max(0, amount)
        return as_floats({name: amount for name, amount in total.items() if amount})

    def _flush_output(self, source: Process, question: q.FlushOutput) -> None:
        self._core.output.flush(source, question.request)

    def _named_actors(self, namespace: str | None) -> list[q.ActorName]:
        return [
            q.ActorName(space, name)
            for space, name in self._core.actors.live_names()
            if namespace is None or space == namespace
        ]

    def _actors(self) -> list[q.ActorRow]:
        return [
            q.ActorRow(actor.actor_id, actor.spec.class_name, actor.spec.name, STATE_NAMES[actor.state],
                       actor.worker.pid if actor.worker else 0, actor.incarnation)
            for actor in self._core.actors.actors.values()
        ]  # fmt: skip

    def _workers(self) -> list[q.WorkerRow]:
        return [
            q.WorkerRow(worker.worker_id, worker.pid, worker.state.name, worker.job_id,
                        len(worker.outstanding), worker.blocked, describe(worker.grant.amounts),
                        worker.actor.label if worker.actor else "")
            for worker in self._core.workers.workers.values()
        ]  # fmt: skip

    def _counts(self, request: int) -> q.BrokerCounts:
        core = self._core
        return q.BrokerCounts(
            request,
            tasks=sum(len(process.tasks) for process in core.processes.values()),
            queued=sum(len(queue) for queue in core.lines.queues.values()),
            dispatched=core.dispatch.dispatched,
            actors=len(core.actors.actors),
            workers=len(core.workers.workers),
            processes=len(core.processes),
            functions=len(core.functions),
            dropped_frames=self._shell_status().dropped_frames,
        )

    # ------------------------------------------------------------------ why something waits

    def _explain_task(self, source: Process, question: q.ExplainTask) -> None:
        """Tells where a task is. ``zray.client.explain`` asks this."""
        envelope = self._core.tasks.find(question.task_id)
        about = Explanation(question.request, UNKNOWN)
        if envelope is not None:
            about = about._replace(name=self._core.functions.name(envelope.function_id))
            if envelope.worker is not None:
                self._explain_worker(source, about._replace(state=AT_WORKER), envelope.worker)
                return
            about = about._replace(state=QUEUED, why=self._why_unplaced(envelope.shape))
        elif leased := self._core.leases.of(owner_of(question.task_id)):
            self._explain_leased(source, about, question.task_id, leased)
            return
        self._core.send(source.process_id, about)

    def _explain_leased(self, source: Process, about: Explanation, task_id: bytes, leased: list[Worker]) -> None:
        """Asks the workers that a task's owner has leased, and answers with what the one says that runs the task."""

        def answer(found: Found) -> None:
            silent: list[Worker] = []
            told = about
            for worker in leased:
                activity = found.activities.get(worker.worker_id)
                there = about._replace(state=AT_WORKER, pid=worker.pid, host=worker.host.label, activity=activity)
                if activity is None:
                    silent.append(worker)
                elif runs := next((call for call in activity.running if call.task_id == task_id), None):
                    self._core.send(source.process_id, there._replace(name=runs.name))
                    return
            if len(silent) == 1:  # its code holds the GIL, or it is stopped
                told = about._replace(state=AT_WORKER, pid=silent[0].pid, host=silent[0].host.label)
            self._core.send(source.process_id, told)

        self._core.inspections.ask(source.process_id, [worker.worker_id for worker in leased], answer)

    def _explain_actor(self, source: Process, question: q.ExplainActor) -> None:
        """Tells what keeps an actor from taking a call."""
        actor = self._core.actors.actors.get(question.actor_id)
        about = Explanation(question.request, UNKNOWN)
        if actor is not None:
            about = about._replace(name=actor.label)
            if actor.worker is not None:
                worker = actor.worker
                if worker.state is not STARTING:
                    self._explain_worker(source, about._replace(state=AT_WORKER), worker)
                    return
                if worker.environment_id and not worker.pid:  # it is not forked yet
                    why = f"its runtime environment is being set up on {worker.host.label}"
                    self._core.send(source.process_id, about._replace(state=UNPLACED, why=why))
                    return
                self._explain_worker(source, about._replace(state=q.STARTING), worker)
                return
            why = self._why_unplaced(actor.placement) if actor.payload else "its constructor waits for arguments"
            about = about._replace(state=UNPLACED, why=why)
        self._core.send(source.process_id, about)

    def _explain_worker(self, source: Process, about: Explanation, worker: Worker) -> None:
        """Asks the worker that has the task or actor, and answers with what it says."""
        about = about._replace(pid=worker.pid, host=worker.host.label)
        worker_id = worker.worker_id

        def answer(found: Found) -> None:
            self._core.send(source.process_id, about._replace(activity=found.activities.get(worker_id)))

        self._core.inspections.ask(source.process_id, [worker_id], answer)

    def _maker_of(self, object_id: bytes) -> str:
        envelope = self._core.tasks.find(task_of(object_id))
        return (self._core.functions.name(envelope.function_id) if envelope else "") or "an object of another process"

    def _why_unplaced(self, shape: Shape) -> str:
        """Why no host has room for a shape at the moment."""
        if shape.group:
            return self._core.groups.why_unplaced(shape)
        if infeasible := self._infeasible(shape, "it"):
            return infeasible
        if starting := self._starting_in(shape):
            where = ", ".join(sorted({worker.host.info.hostname for worker in starting})[:5])
            return f"its runtime environment is being set up on {where}"
        actors = [worker.actor for worker in self._core.workers.workers.values() if _holds(worker, *shape.amounts)]
        held = ""
        if actors:
            names = ", ".join(sorted({actor.label for actor in actors if actor is not None})[:5])
            held = f", some of it by {len(actors)} actor(s) for as long as they live ({names})"
        waiting = sum(len(queue) for queue in self._core.lines.queues.values())
        return f"it asks for {shape!r}, which is in use{held}; {waiting:,} tasks wait for a place"

    def _starting_in(self, shape: Shape) -> list[Worker]:
        """The workers that are being started in a shape's runtime environment, if it has one."""
        if not shape.environment_id:
            return []
        workers = self._core.workers.workers.values()
        return [each for each in workers if each.state is STARTING and each.environment_id == shape.environment_id]

    # ------------------------------------------------------------------ status

    def _status(self, source: Process, question: q.StatusQuery) -> None:
        core = self._core
        workers = [
            worker for worker in core.workers.workers.values() if worker.outstanding or worker.lease or worker.actor
        ]
        asked = [*core.places.hosts, *(job.driver for job in core.jobs.values())]
        asked += [worker.worker_id for worker in workers[:MAX_WORKERS_ASKED]]

        def answer(found: Found) -> None:
            core.send(source.process_id, self.status(question.request, found))

        core.inspections.ask(source.process_id, asked, answer)

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
        for group in self._core.groups.waiting():
            name, wanted = f"placement groups ({group.kind})", group.wanted
            key = name, wanted.key, self._core.groups.could_ever_fit(group)
            row = rows.get(key) or WaitingStatus(name, 0, as_floats(wanted.amounts), key[2])
            rows[key] = row._replace(count=row.count + 1)
        return list(rows.values())

    # ------------------------------------------------------------------ warnings

    def tick(self, now: float) -> None:
        """Warns of tasks and actors that no host can take, or that wait for CPUs of actors: once for each line."""
        lines = self._core.lines
        waiting: dict[tuple[bytes, bytes], tuple[Shape, str]] = {}
        tasks: Counter[tuple[bytes, bytes]] = Counter()
        for (job_id, key, *_), queue in lines.queues.items():
            if (first := queue.any()) is not None:
                tasks[job_id, key] += len(queue)
                waiting[job_id, key] = (first.shape, f"{tasks[job_id, key]} task(s)")
        for (job_id, key, _), line in lines.actors.items():
            for actor in itertools.islice(line.actors.values(), ACTORS_LOOKED_AT):
                waiting[job_id, key] = (actor.placement, f"actor {actor.label}")
        self._unplaced_since = {key: self._unplaced_since.get(key, now) for key in waiting}
        self._warned &= set(waiting)
        for place, (shape, what) in waiting.items():
            waited_s = now - self._unplaced_since[place]
            if place in self._warned or waited_s < self._infeasible_warn_s:
                continue
            text = self._infeasible(shape, what) or (self._starved(shape, what) if waited_s >= STALLED_WARN_S else "")
            job = self._core.jobs.get(place[0])
            if text and job is not None:
                self._warned.add(place)
                self._warn(job, text)
        for group in self._core.groups.take_stuck(now - self._infeasible_warn_s):
            job = self._core.jobs.get(group.job_id)
            if job is not None:
                self._warn(job, f"placement group {group.label} waits: {self._core.groups.why(group)}")

    def _infeasible(self, shape: Shape, what: str) -> str:
        """A warning if no host could take a shape even when empty; else an empty string."""
        if shape.group:
            return ""  # it waits for its group, or for what others use in it
        places = self._core.places
        if places.could_ever_fit(shape) or places.refusal(shape):  # refused work fails at the end of the turn
            return ""
        hosts, asked = self._core.places.hosts.values(), shape.amounts
        if shape.constraint is not None:
            have = "; ".join(
                f"{host.label}: {describe_host(host.pool.total, asked)}, labels {host.info.labels}" for host in hosts
            )
            return (
                f"{what} cannot be scheduled: each asks for {shape!r}, and no host of the cluster fulfils that "
                f"({have or 'there is no host'}). It waits until such a host joins; change label_selector or "
                f"scheduling_strategy, or start a host with zray-worker --labels."
            )
        have = "; ".join(f"{host.info.hostname}: {describe_host(host.pool.total, asked)}" for host in hosts)
        return (
            f"{what} cannot be scheduled: each asks for {describe(shape.amounts)}, and no host of the cluster has that "
            f"much ({have or 'there is no host'}). It waits until such a host joins; ask for less, or start one with "
            f"zray-worker."
        )

    def _starved(self, shape: Shape, what: str) -> str:
        """A warning if actors hold CPUs that a shape asks for; else an empty string."""
        holders: list[Actor] = [
            worker.actor
            for worker in self._core.workers.workers.values()
            if worker.actor is not None and _holds(worker, CPU)
        ]
        if not holders or not shape.cpus or self._starting_in(shape):
            return ""
        names = ", ".join(sorted({actor.label for actor in holders})[:5])
        return (
            f"{what} asking for {describe(shape.amounts)} have been waiting for {STALLED_WARN_S:.0f} s: CPUs are held "
            f"by {len(holders)} actor(s) for as long as they live ({names}). Create them with fewer num_cpus, or drop "
            f"their handles."
        )

    # ------------------------------------------------------------------ refused connections

    def on_channel_refusals(self, source: Process, message: ChannelRefusals) -> None:
        """Notes how many connections a host's channels have refused, by reason."""
        host = self._core.places.hosts.get(source.process_id)
        if host is not None:
            host.channel_refusals = message.counts


def _runs_leased(worker: Worker, activity: Activity | None) -> bool:
    """Whether a leased worker runs a task: it says so, or does not answer."""
    return worker.lease is not None and (activity is None or bool(activity.running))


def _holds(worker: Worker, *resources: str) -> bool:
    """Whether a worker's actor holds one of some resources as long as it lives, not only during its construction."""
    if worker.actor is None or worker.state is not SERVING:
        return False
    held = worker.actor.running.amounts
    return any(held.get(name) for name in resources)


def _sums(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total.most_common())


def _job_status(job: Job, driver: Process | None, counts: dict[str, int]) -> JobStatus:
    return JobStatus(job.job_id, job.settings.namespace, driver.info.pid if driver is not None else None, **counts)


_AT_ONCE: dict[Any, Callable[[Reports, Any], q.Answer]] = {
    q.HostsQuery: lambda reports, ask: q.HostList(ask.request, reports.hosts()),
    q.NamedActorsQuery: lambda reports, ask: q.NamedActors(ask.request, reports._named_actors(ask.namespace)),
    q.MemberQuery: lambda reports, ask: q.Membership(ask.request, reports._core.is_member(ask.process_id)),
    q.ActorsQuery: lambda reports, ask: q.ActorList(ask.request, reports._actors()),
    q.WorkersQuery: lambda reports, ask: q.WorkerList(ask.request, reports._workers()),
    q.CountsQuery: lambda reports, ask: reports._counts(ask.request),
}
"""Questions that the broker answers by itself, at once."""
_LATER: dict[Any, Callable[[Reports, Process, Any], None]] = {
    q.ResourcesQuery: Reports._resources,
    q.ExplainTask: Reports._explain_task,
    q.ExplainActor: Reports._explain_actor,
    q.StatusQuery: Reports._status,
    q.FlushOutput: Reports._flush_output,
}
"""Questions for which the broker may have to ask other processes."""
