"""The broker's answers to questions about its cluster, see ``zray.protocol.questions``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from zray.broker.actors import Actors
from zray.broker.dispatch import Dispatch
from zray.broker.explanations import Explanations
from zray.broker.functions import Functions
from zray.broker.inspections import Found, Inspections
from zray.broker.lines import Lines
from zray.broker.output import WorkerOutput
from zray.broker.places import Places
from zray.broker.records import Host, Process
from zray.broker.resources import STORE, as_floats, describe
from zray.broker.status_report import STATE_NAMES, StatusReport
from zray.broker.workers import Workers
from zray.protocol import questions as q
from zray.protocol.messages import ChannelRefusals
from zray.protocol.questions import BrokerStatus
from zray.protocol.records import HostState


class Subject(Protocol):
    """The tables of the broker's core that the reports read."""

    processes: dict[bytes, Process]
    functions: Functions
    places: Places
    lines: Lines
    workers: Workers
    dispatch: Dispatch
    actors: Actors
    inspections: Inspections
    output: WorkerOutput

    def send(self, dest: bytes, message: Any) -> None:
        """Sends a message to a process."""

    def is_member(self, process_id: bytes) -> bool:
        """Whether a process has joined, even if it is dead now."""


class Reports:
    """Answers what processes ask about the cluster of one broker. ``explanations`` and ``status`` answer some of it."""

    def __init__(
        self,
        core: Subject,
        explanations: Explanations,
        status: StatusReport,
        shell_status: Callable[[], BrokerStatus] = BrokerStatus,
    ) -> None:
        """``shell_status``: see ``BrokerCore``."""
        self._core = core
        self._explanations = explanations
        self._status = status
        self._shell_status = shell_status

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

    def on_channel_refusals(self, source: Process, message: ChannelRefusals) -> None:
        """Notes how many connections a host's channels have refused, by reason."""
        host = self._core.places.hosts.get(source.process_id)
        if host is not None:
            host.channel_refusals = message.counts


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
    q.ExplainTask: lambda reports, source, ask: reports._explanations.explain_task(source, ask),
    q.ExplainActor: lambda reports, source, ask: reports._explanations.explain_actor(source, ask),
    q.StatusQuery: lambda reports, source, ask: reports._status.answer(source, ask),
    q.FlushOutput: Reports._flush_output,
}
"""Questions for which the broker may have to ask other processes."""
