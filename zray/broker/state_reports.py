"""The broker's answers to questions about single records: ``zray.protocol.state_questions``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from zray.broker.actors import Actors
from zray.broker.environments import Environments
from zray.broker.history import History
from zray.broker.inspections import Found, Inspections
from zray.broker.places import Places
from zray.broker.records import Job, Process
from zray.broker.workers import Workers
from zray.protocol import state_questions as q
from zray.protocol.messages import DRIVER, WORKER

MAX_PROCESSES_ASKED = 1000
"""How many owners are asked for their tasks or objects: each costs two messages."""
PATIENCE_S = 5.0
"""How long the broker waits for owners: longer than for a status, because an answer that lacks some is an error."""
MAX_LIMIT = 10_000
"""The most tasks or objects of one owner in an answer."""
MAX_ANSWER_BYTES = 64 * 2**20
"""The most bytes of rows in an answer. Owners whose rows exceed it are left out, and counted."""


class Subject(Protocol):
    """The tables of the broker's core that are read here."""

    processes: dict[bytes, Process]
    jobs: dict[bytes, Job]
    places: Places
    workers: Workers
    actors: Actors
    environments: Environments
    inspections: Inspections
    history: History

    def send(self, dest: bytes, message: Any) -> None:
        """Sends a message to a process."""


class StateReports:
    """Read-only views of a broker's records, and of its history."""

    def __init__(self, core: Subject) -> None:
        self._core = core

    def on_question(self, source: Process, question: Any) -> None:
        """Answers a question, at once or after the owners have replied."""
        _HANDLERS[type(question)](self, source, question)

    def _actors(self, source: Process, question: q.StateOfActors) -> None:
        history = self._core.history
        live = [history.actor(actor) for actor in self._core.actors.actors.values() if actor.creator]
        dead, forgotten = history.ended_actors()
        self._core.send(source.process_id, q.ActorRecords(question.request, [*live, *dead], forgotten))

    def _hosts(self, source: Process, question: q.StateOfHosts) -> None:
        history = self._core.history
        live = [history.host(host) for host in self._core.places.hosts.values()]
        gone, forgotten = history.ended_hosts()
        self._core.send(source.process_id, q.HostRecords(question.request, [*live, *gone], forgotten))

    def _workers(self, source: Process, question: q.StateOfWorkers) -> None:
        history = self._core.history
        live = [history.worker(worker) for worker in self._core.workers.workers.values()]
        live += [history.driver(process) for process in self._core.processes.values() if process.kind == DRIVER]
        gone, forgotten = history.ended_workers()
        self._core.send(source.process_id, q.WorkerRecords(question.request, [*live, *gone], forgotten))

    def _jobs(self, source: Process, question: q.StateOfJobs) -> None:
        core, history = self._core, self._core.history
        live = [history.job(job) for job in core.jobs.values() if job.driver in core.processes]
        over, forgotten = history.ended_jobs()
        core.send(source.process_id, q.JobRecords(question.request, [*live, *over], forgotten))

    def _environments(self, source: Process, question: q.StateOfEnvironments) -> None:
        rows, forgotten = self._core.environments.records()
        self._core.send(source.process_id, q.EnvironmentRecords(question.request, rows, forgotten))

    def _of_owners(self, source: Process, question: q.StateOfTasks | q.StateOfObjects) -> None:
        """Asks drivers and workers for their tasks or objects, and answers with what they say."""
        core = self._core
        kind = q.InspectTasks if isinstance(question, q.StateOfTasks) else q.InspectObjects
        limit = min(question.limit, MAX_LIMIT)
        owners = [each.process_id for each in core.processes.values() if each.kind in (DRIVER, WORKER)]
        asked = owners[:MAX_PROCESSES_ASKED]

        def answer(found: Found) -> None:
            records: list[q.ProcessRecords] = []
            room = MAX_ANSWER_BYTES
            for process_id, said in found.records.items():
                process = core.processes.get(process_id)
                if process is None or len(said.rows) > room:
                    continue
                room -= len(said.rows)
                worker = process.worker
                job_id = process.job_id if worker is None else worker.job_id
                records.append(q.ProcessRecords(process_id, job_id, said.total, said.rows, said.running, said.ran_ms))
            left_out = sum(owner in core.processes for owner in owners) - len(records)
            if kind is q.InspectTasks:
                for gone in core.history.tasks_of_the_gone():
                    room -= len(gone.rows)
                    if room >= 0:
                        records.append(gone)
            core.send(source.process_id, q.OwnerRecords(question.request, records, max(0, left_out)))

        core.inspections.ask(source.process_id, asked, answer, lambda number: kind(number, limit), PATIENCE_S)


_HANDLERS: dict[Any, Callable[[StateReports, Process, Any], None]] = {
    q.StateOfActors: StateReports._actors,
    q.StateOfHosts: StateReports._hosts,
    q.StateOfWorkers: StateReports._workers,
    q.StateOfJobs: StateReports._jobs,
    q.StateOfEnvironments: StateReports._environments,
    q.StateOfTasks: StateReports._of_owners,
    q.StateOfObjects: StateReports._of_owners,
}
