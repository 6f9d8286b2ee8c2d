"""What the broker tells people: answers to queries, and warnings about what cannot be placed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from zray.broker.inspections import Found
from zray.broker.records import Actor, Host, Job, Process, Worker
from zray.broker.resources import CPU, STORE, UNIT, Shape, as_floats, describe
from zray.broker.states import ALIVE, PENDING, RESTARTING, SERVING, STARTING
from zray.ids import task_of
from zray.protocol.messages import Answer, LinkRefusals, Notice, ProtocolError, Query

if TYPE_CHECKING:
    from zray.broker.core import BrokerCore

ACTORS_LOOKED_AT = 100
"""Of those that wait for the same resources: they are the same case, unless they are of different jobs."""
STALLED_WARN_S = 10.0
"""A queue whose head has not moved for so long, with every CPU held by actors, is explained to the user."""
WORKERS_AS = ("starting", "idle", "busy", "idle", "actors", "ending")
"""What the states of a worker come to, for whoever wants to know how busy a host is."""
MAX_WORKERS_ASKED = 1000
"""What they run, for who looks at the cluster: each is two messages."""
STATE_NAMES = {PENDING: "PENDING_CREATION", ALIVE: "ALIVE", RESTARTING: "RESTARTING"}


class Reports:
    """Read-only views of a broker's state."""

    def __init__(
        self,
        core: BrokerCore,
        infeasible_warn_s: float,
        shell_status: Callable[[], dict[str, Any]] = dict,
        silent_s: Callable[[bytes], float] = lambda process_id: 0.0,
    ) -> None:
        """``shell_status``, ``silent_s``: see ``BrokerCore``."""
        self._silent_s = silent_s
        self._core = core
        self._shell_status = shell_status
        self._infeasible_warn_s = infeasible_warn_s
        self._unplaced_since: dict[tuple[bytes, bytes], float] = {}
        self._warned: set[tuple[bytes, bytes]] = set()

    # ------------------------------------------------------------------ queries

    def on_query(self, source: Process, message: Query) -> None:
        """Answers a question; None when it is not known."""
        later: Callable[[Process, Query], None] | None = {
            "flush_logs": lambda source, message: self._core.output.flush(source, message.request),
            "explain": self._explain,
            "status": self._status,
            "available_resources": self._available,
        }.get(message.what)
        if later is not None:
            later(source, message)
            return
        answer: Callable[[], Any] | None = {
            "hosts": self.hosts,
            "cluster_resources": lambda: self._sum("total"),
            "named_actors": lambda: self._named_actors(message.argument),
            "actors": self._actors,
            "workers": self._workers,
            "stats": self.stats,
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

    def _available(self, source: Process, message: Query) -> None:
        """What is free. Of stores their hosts know; one that does not answer in time counts as empty."""

        def answer(found: Found) -> None:
            free = self._sum("free")
            stores = [each["store"] for each in found.values()]
            used = sum(store.get("used", 0) - store.get("idle", 0) for store in stores)
            if STORE in free:
                free[STORE] = max(0.0, free[STORE] - used)
            self._core.send(source.process_id, Answer(message.request, free))

        hosts = self._core.scheduler.hosts.values()
        with_stores = [host.host_id for host in hosts if STORE in host.pool.total]
        self._core.inspections.ask(source.process_id, with_stores, answer)

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
            {"worker_id": worker.worker_id.hex(), "pid": worker.pid, "state": worker.state.name,
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

    # ------------------------------------------------------------------ why something takes so long

    def _explain(self, source: Process, message: Query) -> None:
        """Where a task is, or what keeps an actor from taking a call: see ``zray.client.explain``, which asks."""
        task_id, actor_id = (message.argument.get(name) for name in ("task", "actor"))
        envelope = self._core.tasks.get(task_id) if type(task_id) is bytes else None
        actor = self._core.actors.actors.get(actor_id) if type(actor_id) is bytes else None
        about: dict[str, Any] = {"state": "unknown"}
        worker: Worker | None = None
        if envelope is not None:
            worker = envelope.worker
            about = {"name": self.function_name(envelope.function_id)}
            about |= {"state": "worker"} if worker else {"state": "queued", "why": self._why_unplaced(envelope.shape)}
        elif actor is not None:
            worker = actor.worker
            about = {"name": actor.label}
            if worker is None:
                why = self._why_unplaced(actor.placement) if actor.payload else "its constructor waits for arguments"
                about |= {"state": "unplaced", "why": why}
            else:
                about |= {"state": "starting" if worker.state is STARTING else "worker"}
        if worker is None:
            self._core.send(source.process_id, Answer(message.request, about))
            return
        about |= {"pid": worker.pid, "host": worker.host.label}
        worker_id = worker.worker_id

        def answer(found: Found) -> None:
            doing = found.get(worker_id, {"running": [], "waits": []})
            value = {**about, "answers": worker_id in found, "running": doing["running"], "waits": doing["waits"]}
            self._core.send(source.process_id, Answer(message.request, value))

        self._core.inspections.ask(source.process_id, [worker_id], answer)

    def function_name(self, function_id: bytes) -> str:
        """What a function is called; empty if it is not known."""
        return self._core.functions.get(function_id, ("",))[0]

    def _maker_of(self, object_id: bytes) -> str:
        envelope = self._core.tasks.get(task_of(object_id))
        return (self.function_name(envelope.function_id) if envelope else "") or "an object of another process"

    def _why_unplaced(self, shape: Shape) -> str:
        """Why what asks for so much has no place at the moment."""
        if hopeless := self._hopeless(shape, "it"):
            return hopeless
        actors = [worker.actor for worker in self._core.scheduler.workers.values() if _holds(worker, shape)]
        held = ""
        if actors:
            names = ", ".join(sorted({actor.label for actor in actors if actor is not None})[:5])
            held = f", some of it by {len(actors)} actor(s) for as long as they live ({names})"
        waiting = sum(len(queue) for queue in self._core.scheduler.queues.values())
        return f"it asks for {describe(shape.amounts)}, which is in use{held}; {waiting:,} tasks wait for a place"

    # ------------------------------------------------------------------ status

    def _status(self, source: Process, message: Query) -> None:
        core = self._core
        workers = [worker for worker in core.scheduler.workers.values() if worker.outstanding or worker.actor]
        asked = [*core.scheduler.hosts, *(job.driver for job in core.jobs.values())]
        asked += [worker.worker_id for worker in workers[:MAX_WORKERS_ASKED]]

        def answer(found: Found) -> None:
            core.send(source.process_id, Answer(message.request, self.status(found)))

        core.inspections.ask(source.process_id, asked, answer)

    def status(self, found: Found) -> dict[str, Any]:
        """The whole cluster as ``zray status`` shows it, in types that JSON has. ``found``: what its processes say."""
        core = self._core
        actors = [actor for actor in core.actors.actors.values() if actor.creator]  # those that have been announced
        queued = [
            (first.job_id, first.shape, sum(not envelope.cancelled for envelope in queue))
            for queue in core.scheduler.queues.values()
            if (first := queue.any()) is not None
        ]
        return {
            **self._shell_status(),
            "hosts": [self._host_status(host, found) for host in core.scheduler.hosts.values()],
            "jobs": self._jobs_status(queued, actors),
            "actors": {name: sum(actor.state == state for actor in actors) for state, name in STATE_NAMES.items()},
            "waiting": self._waiting(queued),
            "running": self._running(found),
            "waiting_for_arguments": _sums(doing["arguments"] for doing in found.values() if "arguments" in doing),
        }

    def _running(self, found: Found) -> list[dict[str, Any]]:
        """What runs, the longest first, and the actors that do nothing at the moment. Seconds are None where nobody
        says."""
        rows: list[dict[str, Any]] = []
        for worker in self._core.scheduler.workers.values():
            if not worker.outstanding and worker.actor is None:
                continue
            doing = found.get(worker.worker_id)
            memory = found.get(worker.host.host_id, {}).get("memory", {}).get(str(worker.pid))
            row = {
                "what": "actor" if worker.actor is not None else "task",
                "actor": worker.actor.label if worker.actor is not None else "",
                "host_id": worker.host.host_id.hex(),
                "pid": worker.pid,
                "memory_bytes": memory,
                "answers": doing is not None,
                "waits_for": [name or self._maker_of(ref) for ref, name, _ in doing["waits"]] if doing else [],
            }
            runs = doing["running"] if doing else []
            if not runs and worker.outstanding:
                first = next(iter(worker.outstanding.values()))
                runs = [[self.function_name(first.function_id), None, b""]]
            rows += [{**row, "name": name, "seconds": seconds} for name, seconds, _ in runs or [["", None, b""]]]
        return sorted(rows, key=lambda row: -(row["seconds"] or 0.0))

    def _host_status(self, host: Host, found: Found) -> dict[str, Any]:
        workers = dict.fromkeys(WORKERS_AS, 0)
        for worker in host.workers.values():
            workers[WORKERS_AS[worker.state]] += 1
        info, pool = host.info, host.pool
        pid = info.get("pid")
        return {
            "host_id": host.host_id.hex(),
            "hostname": str(info.get("hostname", "?")),
            "pid": pid if type(pid) is int else 0,
            "session": str(info.get("session", "")),
            "heard_s": self._silent_s(host.host_id),
            "labels": {str(key): str(value) for key, value in info.get("labels", {}).items()},
            "resources": {
                name: {"total": total / UNIT, "used": (total - pool.free[name]) / UNIT}
                for name, total in pool.total.items()
            },
            "store": found.get(host.host_id, {}).get("store"),
            "workers": workers,
            "refused": host.link_refusals,
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
        tasks: Counter[tuple[bytes, bytes]] = Counter()
        for (job_id, key, *_), queue in scheduler.queues.items():
            if (first := queue.any()) is not None:
                tasks[job_id, key] += len(queue)
                waiting[job_id, key] = (first.shape, f"{tasks[job_id, key]} task(s)")
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
            if worker.actor is not None and worker.state is SERVING and worker.grant.amounts.get(CPU)
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


def _holds(worker: Worker, shape: Shape) -> bool:
    """Whether a worker's actor keeps, for its life, something of what a shape asks for."""
    held = worker.grant.amounts
    return worker.actor is not None and worker.state is SERVING and any(held.get(name) for name in shape.amounts)


def _sums(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total.most_common())


def _job_status(job: Job, driver: Process | None) -> dict[str, Any]:
    return {
        "job_id": job.job_id.hex(),
        "namespace": str(job.config.get("namespace", "")),
        "driver_pid": driver.info.get("pid", 0) if driver is not None else None,
    }
