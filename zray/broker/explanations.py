"""Why work waits: for errors that say it, for ``zray.explain``, and for warnings."""

from __future__ import annotations

from typing import Any, Protocol

from zray.broker.actors import Actors
from zray.broker.functions import Functions
from zray.broker.inspections import Found, Inspections
from zray.broker.leases import Leases
from zray.broker.lines import Lines
from zray.broker.placement_groups import PlacementGroups
from zray.broker.places import Places
from zray.broker.records import Process, Worker
from zray.broker.resources import Shape, describe, describe_host
from zray.broker.states import SERVING, STARTING
from zray.broker.tasks import Tasks
from zray.broker.workers import Workers
from zray.ids import owner_of
from zray.protocol import questions as q
from zray.protocol.questions import AT_WORKER, QUEUED, UNKNOWN, UNPLACED, Explanation


class Subject(Protocol):
    """The tables of the broker's core that are read here."""

    functions: Functions
    places: Places
    lines: Lines
    workers: Workers
    leases: Leases
    tasks: Tasks
    actors: Actors
    groups: PlacementGroups
    inspections: Inspections

    def send(self, dest: bytes, message: Any) -> None:
        """Sends a message to a process."""


class Explanations:
    """Explains what the tasks and actors of one broker wait for."""

    def __init__(self, core: Subject) -> None:
        self._core = core

    def explain_task(self, source: Process, question: q.ExplainTask) -> None:
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

    def explain_actor(self, source: Process, question: q.ExplainActor) -> None:
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
            pause_s = self._core.actors.pause_s(actor)
            if not actor.payload:
                why = "its constructor waits for arguments"
            elif pause_s and actor.deaths is not None:
                why = f"it is started again in {pause_s:.1f} s, since it has died {actor.deaths.count} times in a row"
            else:
                why = self._why_unplaced(actor.placement)
            about = about._replace(state=UNPLACED, why=why)
        self._core.send(source.process_id, about)

    def _explain_worker(self, source: Process, about: Explanation, worker: Worker) -> None:
        """Asks the worker that has the task or actor, and answers with what it says."""
        about = about._replace(pid=worker.pid, host=worker.host.label)
        worker_id = worker.worker_id

        def answer(found: Found) -> None:
            self._core.send(source.process_id, about._replace(activity=found.activities.get(worker_id)))

        self._core.inspections.ask(source.process_id, [worker_id], answer)

    def _why_unplaced(self, shape: Shape) -> str:
        """Why no host has room for a shape at the moment."""
        if shape.group:
            return self._core.groups.reports.why_unplaced(shape)
        if infeasible := self.infeasible(shape, "it"):
            return infeasible
        if starting := self.starting_in(shape):
            where = ", ".join(sorted({worker.host.info.hostname for worker in starting})[:5])
            return f"its runtime environment is being set up on {where}"
        actors = [worker.actor for worker in self._core.workers.workers.values() if holds(worker, *shape.amounts)]
        held = ""
        if actors:
            names = ", ".join(sorted({actor.label for actor in actors if actor is not None})[:5])
            held = f", some of it by {len(actors)} actor(s) for as long as they live ({names})"
        waiting = sum(len(queue) for queue in self._core.lines.queues.values())
        return f"it asks for {shape!r}, which is in use{held}; {waiting:,} tasks wait for a place"

    def starting_in(self, shape: Shape) -> list[Worker]:
        """The workers that are being started in a shape's runtime environment, if it has one."""
        if not shape.environment_id:
            return []
        workers = self._core.workers.workers.values()
        return [each for each in workers if each.state is STARTING and each.environment_id == shape.environment_id]

    def infeasible(self, shape: Shape, what: str) -> str:
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


def holds(worker: Worker, *resources: str) -> bool:
    """Whether a worker's actor holds one of some resources as long as it lives, not only during its construction."""
    if worker.actor is None or worker.state is not SERVING:
        return False
    held = worker.actor.running.amounts
    return any(held.get(name) for name in resources)
