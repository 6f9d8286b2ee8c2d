"""What the broker tells people: answers to queries, and warnings about what cannot be placed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from zray.broker.records import SERVING, Actor, Host, Job, Process
from zray.broker.resources import CPU, UNIT, Shape, as_floats, describe
from zray.protocol.messages import (
    ALIVE,
    PENDING,
    RESTARTING,
    Answer,
    LinkRefusals,
    Notice,
    ProtocolError,
    Query,
)

if TYPE_CHECKING:
    from zray.broker.core import BrokerCore

ACTORS_LOOKED_AT = 100
"""Of those that wait for the same resources: they are the same case, unless they are of different jobs."""
STALLED_WARN_S = 10.0
"""A queue whose head has not moved for so long, with every CPU held by actors, is explained to the user."""
WORKERS_AS = ("starting", "idle", "busy", "idle", "actors", "ending")
"""What the states of a worker come to, for whoever wants to know how busy a host is."""
WORKER_STATES = ("STARTING", "IDLE", "BUSY", "PROBED", "SERVING", "RETIRED")
STATE_NAMES = {PENDING: "PENDING_CREATION", ALIVE: "ALIVE", RESTARTING: "RESTARTING"}


class Reports:
    """Read-only views of a broker's state."""

    def __init__(
        self, core: BrokerCore, infeasible_warn_s: float, shell_status: Callable[[], dict[str, Any]] = dict
    ) -> None:
        self._core = core
        self._shell_status = shell_status
        self._infeasible_warn_s = infeasible_warn_s
        self._unplaced_since: dict[tuple[bytes, bytes], float] = {}
        self._warned: set[tuple[bytes, bytes]] = set()

    # ------------------------------------------------------------------ queries

    def on_query(self, source: Process, message: Query) -> None:
        """Answers a question; None when it is not known."""
        if message.what == "flush_logs":
            self._core.output.flush(source, message.request)
            return
        answer: Callable[[], Any] | None = {
            "hosts": self.hosts,
            "cluster_resources": lambda: self._sum("total"),
            "available_resources": lambda: self._sum("free"),
            "named_actors": lambda: self._named_actors(message.argument),
            "actors": self._actors,
            "workers": self._workers,
            "stats": self.stats,
            "status": self.status,
            "is_member": lambda: self._is_member(message.argument),
        }.get(message.what)
        self._core.send(source.process_id, Answer(message.request, answer() if answer else None))

    def hosts(self) -> list[dict[str, Any]]:
        """One row per live host."""
        return [self.host(host) for host in self._core.scheduler.hosts.values()]

    @staticmethod
    def host(host: Host) -> dict[str, Any]:
        """One of them."""
        return {
            **host.info,
            "host_id": host.host_id,
            "resources": as_floats(host.pool.total),
            "available": as_floats(host.pool.free),
            "workers": len(host.workers),
        }

    def _sum(self, which: str) -> dict[str, float]:
        total: dict[str, int] = {}
        for host in self._core.scheduler.hosts.values():
            for name, amount in getattr(host.pool, which).items():
                total[name] = total.get(name, 0) + max(0, amount)
        return as_floats({name: amount for name, amount in total.items() if amount})

    def _is_member(self, argument: dict[str, Any]) -> bool:
        process_id = argument.get("process_id")
        return type(process_id) is bytes and self._core.is_member(process_id)

    def _named_actors(self, argument: dict[str, Any]) -> list[dict[str, str]]:
        namespace = argument.get("namespace")
        return [
            {"namespace": space, "name": name}
            for space, name in self._core.actors.live_names()
            if namespace is None or space == namespace
        ]

    def _actors(self) -> list[dict[str, Any]]:
        return [
            {"actor_id": actor.actor_id.hex(), "class_name": actor.spec.get("class_name", ""),
             "name": actor.spec.get("name") or "", "state": STATE_NAMES[actor.state],
             "pid": actor.worker.pid if actor.worker else 0, "restarts": actor.incarnation}
            for actor in self._core.actors.actors.values()
        ]  # fmt: skip

    def _workers(self) -> list[dict[str, Any]]:
        return [
            {"worker_id": worker.worker_id.hex(), "pid": worker.pid, "state": WORKER_STATES[worker.state],
             "job_id": worker.job_id.hex(), "tasks": len(worker.outstanding), "blocked": worker.blocked,
             "grant": describe(worker.grant.amounts), "actor": worker.actor.label if worker.actor else ""}
            for worker in self._core.scheduler.workers.values()
        ]  # fmt: skip

    def stats(self) -> dict[str, Any]:
        """Counts, for benchmarks and tests."""
        core = self._core
        return {
            "tasks": len(core.tasks),
            "queued": sum(len(queue) for queue in core.scheduler.queues.values()),
            "dispatched": core.scheduler.dispatched,
            "actors": len(core.actors.actors),
            "workers": len(core.scheduler.workers),
            "processes": len(core.processes),
            "functions": len(core.functions),
            "dropped_frames": core.dropped_frames,
        }

    # ------------------------------------------------------------------ status

    def status(self) -> dict[str, Any]:
        """The whole cluster as ``zray status`` shows it: counts, in types that JSON has."""
        core = self._core
        actors = [actor for actor in core.actors.actors.values() if actor.creator]  # those that have been announced
        queued = [
            (first.job_id, first.shape, sum(not envelope.cancelled for envelope in queue))
            for queue in core.scheduler.queues.values()
            if (first := queue.any()) is not None
        ]
        return {
            **self._shell_status(),
            "hosts": [_host_status(host) for host in core.scheduler.hosts.values()],
            "jobs": self._jobs_status(queued, actors),
            "actors": {name: sum(actor.state == state for actor in actors) for state, name in STATE_NAMES.items()},
            "waiting": self._waiting(queued),
        }

    def _jobs_status(self, queued: Iterable[tuple[bytes, Shape, int]], actors: Iterable[Actor]) -> list[dict[str, Any]]:
        core = self._core
        counts = {job_id: dict.fromkeys(("tasks_running", "tasks_waiting", "actors"), 0) for job_id in core.jobs}

        def add(job_id: bytes, what: str, count: int) -> None:
            if job_id in counts:
                counts[job_id][what] += count

        for job_id, _, count in queued:
            add(job_id, "tasks_waiting", count)
        for worker in core.scheduler.workers.values():
            if worker.outstanding:  # it has been handed the second and those behind it in advance
                add(worker.job_id, "tasks_running", 1)
                add(worker.job_id, "tasks_waiting", len(worker.outstanding) - 1)
        for actor in actors:
            add(actor.job_id, "actors", 1)
        return [
            {**_job_status(job, core.processes.get(job.driver)), **counts[job_id]} for job_id, job in core.jobs.items()
        ]

    def _waiting(self, queued: Iterable[tuple[bytes, Shape, int]]) -> list[dict[str, Any]]:
        """What has no place yet, by the resources that it asks for."""
        rows: dict[tuple[str, bytes], dict[str, Any]] = {}

        def add(what: str, shape: Shape, count: int) -> None:
            row = rows.get((what, shape.key))
            if row is None:
                hosts = self._core.scheduler.hosts.values()
                row = rows[what, shape.key] = {
                    "what": what,
                    "count": 0,
                    "resources": as_floats(shape.amounts),
                    "can_be_placed": any(host.pool.could_ever_fit(shape) for host in hosts),
                }
            row["count"] += count

        for _, shape, count in queued:
            add("tasks", shape, count)
        for line in self._core.scheduler.actors_waiting.values():
            if line:
                add("actors", line.share.shape, len(line))
        return list(rows.values())

    # ------------------------------------------------------------------ warnings

    def tick(self, now: float) -> None:
        """Looks for requests that wait without hope, and says so once for each."""
        scheduler = self._core.scheduler
        waiting: dict[tuple[bytes, bytes], tuple[Shape, str]] = {}
        for (job_id, key, *_), queue in scheduler.queues.items():
            if (first := queue.any()) is not None:
                waiting[job_id, key] = (first.shape, f"{len(queue)} task(s)")
        for (job_id, key, _), line in scheduler.actors_waiting.items():
            for actor in itertools.islice(line.actors.values(), ACTORS_LOOKED_AT):
                waiting[job_id, key] = (actor.placement, f"actor {actor.label}")
        self._unplaced_since = {key: self._unplaced_since.get(key, now) for key in waiting}
        self._warned &= set(waiting)
        for place, (shape, what) in waiting.items():
            waited_s = now - self._unplaced_since[place]
            if place in self._warned or waited_s < self._infeasible_warn_s:
                continue
            text = self._hopeless(shape, what) or (self._starved(shape, what) if waited_s >= STALLED_WARN_S else "")
            job = self._core.jobs.get(place[0])
            if text and job is not None:
                self._warned.add(place)
                self._core.send(job.driver, Notice(text))

    def _hopeless(self, shape: Shape, what: str) -> str:
        hosts = self._core.scheduler.hosts.values()
        if any(host.pool.could_ever_fit(shape) for host in hosts):
            return ""
        have = "; ".join(f"{host.info.get('hostname', '?')}: {describe(host.pool.total)}" for host in hosts)
        return (
            f"{what} cannot be scheduled: each asks for {describe(shape.amounts)}, and no host of the cluster has that "
            f"much ({have or 'there is no host'}). It waits until such a host joins; ask for less, or start one with "
            f"zray-worker."
        )

    def _starved(self, shape: Shape, what: str) -> str:
        holders: list[Actor] = [
            worker.actor
            for worker in self._core.scheduler.workers.values()
            if worker.actor is not None and worker.state == SERVING and worker.grant.amounts.get(CPU)
        ]
        if not holders or not shape.cpus:
            return ""
        names = ", ".join(sorted({actor.label for actor in holders})[:5])
        return (
            f"{what} asking for {describe(shape.amounts)} have been waiting for {STALLED_WARN_S:.0f} s: CPUs are held "
            f"by {len(holders)} actor(s) for as long as they live ({names}). Create them with fewer num_cpus, or drop "
            f"their handles."
        )

    # ------------------------------------------------------------------ strangers

    def on_link_refusals(self, source: Process, message: LinkRefusals) -> None:
        """A host has turned strangers away from its direct links."""
        host = self._core.scheduler.hosts.get(source.process_id)
        if not all(type(reason) is str and type(count) is int for reason, count in message.counts.items()):
            raise ProtocolError("malformed counts of refusals")
        if host is not None:
            host.link_refusals = message.counts


def _host_status(host: Host) -> dict[str, Any]:
    workers = dict.fromkeys(WORKERS_AS, 0)
    for worker in host.workers.values():
        workers[WORKERS_AS[worker.state]] += 1
    info, pool = host.info, host.pool
    return {
        "host_id": host.host_id.hex(),
        "hostname": str(info.get("hostname", "?")),
        "labels": {str(key): str(value) for key, value in info.get("labels", {}).items()},
        "resources": {
            name: {"total": total / UNIT, "used": (total - pool.free[name]) / UNIT}
            for name, total in pool.total.items()
        },
        "workers": workers,
        "refused": host.link_refusals,
    }


def _job_status(job: Job, driver: Process | None) -> dict[str, Any]:
    return {
        "job_id": job.job_id.hex(),
        "namespace": str(job.config.get("namespace", "")),
        "driver_pid": driver.info.get("pid", 0) if driver is not None else None,
    }
