"""Lines about events of the cluster, for the broker's log and for the drivers concerned.

The log names processes, tasks and actors by their whole identifiers. Drivers get the names that a user knows.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from zray.broker.actors import ActorEvents
from zray.broker.records import Actor, Envelope, Host, Job, Process, Worker
from zray.broker.resources import describe_host
from zray.broker.states import PROBED, RETIRED
from zray.logs.digest import Digest, in_a_line
from zray.logs.line import DEBUG, INFO, WARNING, LogLine
from zray.protocol.messages import FLAG_RETRYABLE, Notice

MAX_NAMES = 5
"""The number of actors that a notice names."""
MAX_TASKS = 20
"""How many of the tasks that fail with a worker get a line each: a few hundred may have waited in it."""
AGAIN, NOT_AGAIN = "tried again", "not to be tried again"
"""What happens to the tasks of a host that is lost."""


class Notices(ActorEvents):
    """Writes the lines. ``perform(effect)`` logs one; ``clock()``: the time of the present event, in seconds.

    ``_restarts`` sums up restarts of actors, by job: many may die at once. ``_failed_starts``: how many workers in a
    row have ended before they could work, by host.
    """

    def __init__(
        self,
        jobs: Mapping[bytes, Job],
        processes: Mapping[bytes, Process],
        send: Callable[[bytes, Any], None],
        perform: Callable[[LogLine], None],
        clock: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._processes = processes
        self._send = send
        self._perform = perform
        self._clock = clock
        self._restarts: dict[bytes, Digest] = {}
        self._failed_starts: dict[bytes, int] = {}

    def tick(self, now: float) -> None:
        """Sends the summaries that are due."""
        for job_id, digest in list(self._restarts.items()):
            if job_id not in self._jobs:
                del self._restarts[job_id]
            elif notice := digest.flush(now):
                self._tell(job_id, notice)

    def _tell(self, job_id: bytes, text: str) -> None:
        job = self._jobs.get(job_id)
        if job is not None and job.driver in self._processes:
            self._send(job.driver, Notice(text))

    def _log(self, level: int, text: str) -> None:
        self._perform(LogLine(level, "broker", text))

    # ------------------------------------------------------------------ drivers and hosts

    def driver_joined(self, process: Process) -> None:
        """A driver has joined."""
        self._log(INFO, f"driver {_driver(process)} joined")

    def driver_lost(self, process: Process, reason: str) -> None:
        """A driver is gone, with its job."""
        tasks = f", with {len(process.tasks)} tasks" if process.tasks else ""
        self._log(INFO, f"driver {_driver(process)} left{tasks}: {reason}")

    def host_joined(self, host: Host) -> None:
        """A host has joined."""
        self._log(INFO, f"host {_host(host)} joined with {describe_host(host.pool.total)}")

    def host_lost(self, host: Host, reason: str) -> None:
        """A host is gone, but still in the tables: tells each driver what it lost, and what is tried again."""
        tasks: dict[bytes, Counter[str]] = {}
        actors: dict[bytes, list[str]] = {}
        for worker in host.workers.values():
            counts = tasks.setdefault(worker.job_id, Counter())
            for envelope in worker.outstanding.values():
                again = bool(envelope.flags & FLAG_RETRYABLE) and not envelope.cancelled
                counts[AGAIN if again else NOT_AGAIN] += 1
            if worker.lease is not None:  # only tasks that can be tried again are sent to it
                counts[AGAIN] += 1
            if worker.actor is not None:
                actors.setdefault(worker.actor.job_id, []).append(_fate(worker.actor))
        n_tasks = sum(counts.total() for counts in tasks.values())
        n_actors = sum(map(len, actors.values()))
        self._failed_starts.pop(host.host_id, None)
        self._log(WARNING, f"host {_host(host)} is lost, with {n_tasks} tasks and {n_actors} actors: {reason}")
        for job_id in self._jobs:
            lost = [*_tasks(tasks.get(job_id, Counter())), *_actors(actors.get(job_id, []))]
            ran = f"of this job it ran {' and '.join(lost)}" if lost else "nothing of this job ran there"
            text = f"host {host.label} is lost: {reason}; {ran}. Objects that only it had are lost"
            self._tell(job_id, f"{text}, unless their tasks can be run again")

    # ------------------------------------------------------------------ workers and tasks

    def worker_started(self, worker: Worker) -> None:
        """A host has started a worker."""
        where = f"on host {worker.host.host_id.hex()} for job {worker.job_id.hex()}"
        self._log(DEBUG, f"worker {worker.worker_id.hex()} (pid {worker.pid}) is started {where}")

    def worker_gone(self, worker: Worker, kind: str, message: str, culprit: bytes | None) -> None:
        """A worker is dead, but its record still has its tasks. ``culprit``: as in ``BrokerCore._worker_gone``."""
        # Other lines have said so; or it was asked to exit, and its host was faster than its answer.
        known = worker.retiring or worker.state in (PROBED, RETIRED) or kind == "NodeDiedError"
        level = DEBUG if known and not worker.outstanding else WARNING
        name = f"worker {worker.worker_id.hex()}"
        self._log(level, f"{name} on host {worker.host.host_id.hex()} is gone: {in_a_line(message)}")
        for envelope in itertools.islice(worker.outstanding.values(), MAX_TASKS):
            ran = ", it was running" if envelope.task_id == culprit else ""
            self._log(WARNING, f"task {_attempt(envelope)} failed with {name}: {kind}{ran}")
        if len(worker.outstanding) > MAX_TASKS:
            self._log(WARNING, f"{len(worker.outstanding) - MAX_TASKS} other tasks failed with {name}: {kind}")

    def worker_joined(self, worker: Worker) -> None:
        """A worker can work."""
        if self._failed_starts:
            self._failed_starts.pop(worker.host.host_id, None)

    def start_failed(self, worker: Worker, message: str) -> None:
        """A worker has ended by itself before it could work, and another is started. Nothing else ends what waits for
        it. So the drivers are told of the second failure in a row on a host, and then of every one that doubles the
        number."""
        host = worker.host
        number = self._failed_starts[host.host_id] = self._failed_starts.get(host.host_id, 0) + 1
        if number > 1 and not number & (number - 1):
            text = f"{number} workers in a row could not start on host {host.label}; more are started, as work waits"
            waiting = worker.reserved.share if worker.reserved is not None else worker.actor
            for job_id in [waiting.job_id] if waiting is not None else list(self._jobs):
                self._tell(job_id, f"{text}. The last one: {message if number == 2 else in_a_line(message)}")

    def task_again(self, envelope: Envelope) -> None:
        """An owner tries a task again."""
        self._log(INFO, f"task {_attempt(envelope)} is queued again, by its owner {envelope.owner.hex()}")

    def cannot_be_placed(self, job: Job, text: str) -> None:
        """Something waits for which no host has room, now or at any time."""
        self._log(WARNING, f"job {job.job_id.hex()}: {text}")
        self._tell(job.job_id, text)

    # ------------------------------------------------------------------ actors

    def actor_runs(self, actor: Actor, worker: Worker) -> None:
        """An actor's constructor has returned."""
        where = f"on worker {worker.worker_id.hex()} of host {worker.host.host_id.hex()}"
        self._log(INFO, f"actor {_actor(actor)} runs {where}")

    def actor_dead(self, actor: Actor, message: str) -> None:
        """An actor has died and will not be restarted."""
        self._log(INFO, f"actor {_actor(actor)} is dead: {in_a_line(message)}")

    def actor_restarts(self, actor: Actor, message: str, told: bool) -> None:
        """An actor's worker has died, and the actor is restarted. ``told``: its driver knows already."""
        self._log(WARNING, f"actor {_actor(actor)} restarts: {in_a_line(message)}")
        if told:
            return
        digest = self._restarts.get(actor.job_id)
        if digest is None:
            digest = self._restarts[actor.job_id] = Digest("actors died and are restarted")
        n_left = actor.restarts_left
        left = f", {n_left} {'restart is' if n_left == 1 else 'restarts are'} left" if n_left >= 0 else ""
        pause_s = actor.paused_until - self._clock()
        when = f" in {pause_s:g} s" if pause_s > 0 else ""
        if notice := digest.add(self._clock(), actor.label, f"{in_a_line(message)}; it is restarted{when}{left}"):
            self._tell(actor.job_id, notice)


def _driver(process: Process) -> str:
    job = f"job {process.job_id.hex()}, namespace {process.info.job.namespace:.100}"
    return f"{process.process_id.hex()} (pid {process.info.pid}, {job})"


def _host(host: Host) -> str:
    return f"{host.host_id.hex()} ({host.info.hostname}, pid {host.info.pid})"


def _actor(actor: Actor) -> str:
    return f"{actor.actor_id.hex()} ({actor.label})"


def _attempt(envelope: Envelope) -> str:
    return f"{envelope.task_id.hex()} (attempt {envelope.attempt + 1})"


def _fate(actor: Actor) -> str:
    restarts = actor.restarts_left != 0 and not actor.released
    return f"{actor.label} ({'restarted' if restarts else 'dead for good'})"


def _tasks(counts: Counter[str]) -> list[str]:
    if not counts:
        return []
    number = counts.total()
    fates = ", ".join(f"{counts[fate]} {fate}" for fate in (AGAIN, NOT_AGAIN) if counts[fate])
    return [f"{number} task{'s' if number > 1 else ''} ({fates})"]


def _actors(labels: list[str]) -> list[str]:
    if not labels:
        return []
    more = f" and {len(labels) - MAX_NAMES} others" if len(labels) > MAX_NAMES else ""
    return [f"{len(labels)} actor{'s' if len(labels) > 1 else ''}: {', '.join(labels[:MAX_NAMES])}{more}"]
