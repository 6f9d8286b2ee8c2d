"""What happens to a cluster, as it happens: lines for the broker's log, and for the drivers whom it concerns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from zray.broker.records import Actor, Host, Job, Process
from zray.broker.resources import describe
from zray.logs.digest import Digest, in_a_line
from zray.protocol.messages import FLAG_RETRYABLE, Notice

MAX_NAMES = 5
AGAIN, NOT_AGAIN = "tried again", "not to be tried again"
"""What becomes of tasks that were with a host that is lost."""


class Notices:
    """``log(line)`` writes the log; ``clock()``: the time of what is being done.

    ``_restarts``: of actors, by job, as many may die at once.
    """

    def __init__(
        self,
        jobs: Mapping[bytes, Job],
        processes: Mapping[bytes, Process],
        send: Callable[[bytes, Any], None],
        log: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._processes = processes
        self._send = send
        self._log = log
        self._clock = clock
        self._restarts: dict[bytes, Digest] = {}

    def tick(self, now: float) -> None:
        """Tells what has been held back to be told in one line."""
        for job_id, digest in list(self._restarts.items()):
            if job_id not in self._jobs:
                del self._restarts[job_id]
            elif notice := digest.flush(now):
                self._tell(job_id, notice)

    def _tell(self, job_id: bytes, text: str) -> None:
        job = self._jobs.get(job_id)
        if job is not None and job.driver in self._processes:
            self._send(job.driver, Notice(text))

    # ------------------------------------------------------------------ drivers and hosts

    def driver_joined(self, process: Process) -> None:
        """A driver has joined."""
        self._log(f"driver {_driver(process)} joined")

    def driver_lost(self, process: Process, reason: str) -> None:
        """A driver is gone, with its job."""
        tasks = f", with {process.tasks} tasks" if process.tasks else ""
        self._log(f"driver {_driver(process)} left{tasks}: {reason}")

    def host_joined(self, host: Host) -> None:
        """A host has joined."""
        self._log(f"host {host.label} joined with {describe(host.pool.total)}")

    def host_lost(self, host: Host, reason: str) -> None:
        """A host is gone, and is still in the tables: tells every driver what went with it, and what is tried again."""
        tasks: dict[bytes, Counter[str]] = {}
        actors: dict[bytes, list[str]] = {}
        for worker in host.workers.values():
            counts = tasks.setdefault(worker.job_id, Counter())
            for envelope in worker.outstanding.values():
                again = bool(envelope.flags & FLAG_RETRYABLE) and not envelope.cancelled
                counts[AGAIN if again else NOT_AGAIN] += 1
            if worker.actor is not None:
                actors.setdefault(worker.actor.job_id, []).append(_fate(worker.actor))
        n_tasks = sum(counts.total() for counts in tasks.values())
        n_actors = sum(map(len, actors.values()))
        self._log(f"host {host.label} is lost, with {n_tasks} tasks and {n_actors} actors: {reason}")
        for job_id in self._jobs:
            lost = [*_tasks(tasks.get(job_id, Counter())), *_actors(actors.get(job_id, []))]
            ran = f"of this job it ran {' and '.join(lost)}" if lost else "nothing of this job ran there"
            self._tell(job_id, f"host {host.label} is lost: {reason}; {ran}. Objects that only it had are lost")

    # ------------------------------------------------------------------ actors

    def actor_restarts(self, actor: Actor, message: str) -> None:
        """An actor's worker has died, and the actor is restarted."""
        digest = self._restarts.get(actor.job_id)
        if digest is None:
            digest = self._restarts[actor.job_id] = Digest("actors died and are restarted")
        left = f", {actor.restarts_left} restarts are left" if actor.restarts_left >= 0 else ""
        if notice := digest.add(self._clock(), actor.label, f"{in_a_line(message)}; it is restarted{left}"):
            self._tell(actor.job_id, notice)


def _driver(process: Process) -> str:
    return f"{process.job_id.hex()} (pid {process.info.pid}, namespace {process.info.job.namespace:.100})"


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
