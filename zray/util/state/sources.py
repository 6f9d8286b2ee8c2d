"""Asks the cluster for records, and makes Ray's records of them.

A process that is part of a cluster asks through its session. Another one joins as an observer for one question, as
``zray status`` does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from zray.api.addresses import own_form
from zray.api.placement_groups import scheduling_state
from zray.bundles import group_of
from zray.client import session as sessions
from zray.client.observer import Observer, ask_broker
from zray.exceptions import ClusterUnavailableError
from zray.named_tuples import NamedTuple
from zray.protocol import state_questions as q
from zray.protocol.codec import unpack, unpack_messages
from zray.protocol.questions import GroupList, GroupRow, GroupsQuery, HostList, HostsQuery
from zray.protocol.records import HostInfo, HostState
from zray.scheduling.constraint import IN, NOT_IN, Term, constraint_from_row
from zray.scheduling.labels import write_selector
from zray.system.machine import machine_id
from zray.util.state.common import (
    MAX_LIMIT,
    ActorState,
    DriverInfo,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    RuntimeEnvState,
    StateResource,
    StateSchema,
    TaskState,
    WorkerState,
)
from zray.util.state.exception import ServerUnavailable

UNIT = 10_000
"""Amounts of resources are counted in ten-thousandths."""
HEAD = "node:__internal_head__"
"""The resource that marks the head's host, where the cluster has it."""
_Answer = TypeVar("_Answer")
_Question = q.StateQuestion | HostsQuery | GroupsQuery


class Found(NamedTuple):
    """Records. ``missing``: what could not be read, for people; ``forgotten``: what is not kept any more; or empty."""

    rows: list[StateSchema]
    missing: str = ""
    forgotten: str = ""


def logs_directory(info: HostInfo) -> str:
    """The directory of a host's log files, on its machine."""
    session = os.path.dirname(info.fetch)
    return os.path.join(os.path.dirname(session), "logs", info.session)


class Tasks(NamedTuple):
    """``calls``: tasks and calls, each as its owner knows it and with what its worker adds; ``constructions``: of the
    constructors of ``actors``; ``missing``: see ``Found``."""

    calls: list[tuple[q.TaskRow, TaskState]]
    constructions: list[TaskState]
    actors: list[q.ActorRecord]
    missing: str


class Source:
    """A cluster that is asked.

    ``address``: of its broker; None or "auto": the cluster of this process, else the ``zray-broker`` that this user
    runs here, else the cluster that a program of this user has started here last. ``observer``: is asked instead.
    """

    def __init__(self, address: str | None = None, observer: Observer | None = None) -> None:
        self._observer = observer
        self._session = sessions.current()
        if observer is not None:
            address = observer.address
        self._address = ""
        own = self._session.address if self._session is not None else None
        if address not in (None, "", "auto", own):
            self._session = None
            self._address = own_form(str(address))
        elif self._session is None:
            self._address = _running_broker()

    def _ask(self, question: Callable[[int], _Question], kind: type[_Answer], timeout_s: float) -> _Answer:
        session = self._session
        try:
            if self._observer is not None:
                answer = self._observer.ask(question, timeout_s)
            elif session is None:
                answer = _ask_from_outside(self._address, question, timeout_s)
            else:
                answer = session.ask(lambda on_answer: session.core.query(question, on_answer), timeout_s)
            assert isinstance(answer, kind)
            return answer
        except ClusterUnavailableError as error:
            raise ServerUnavailable(f"the cluster does not answer: {error}") from error

    def records(self, resource: StateResource, timeout_s: float) -> Found:
        """All records of a kind, of at most ``MAX_LIMIT`` tasks or objects of each process.

        Raises ServerUnavailable.
        """
        return _LISTERS[resource](self, timeout_s)

    def hosts(self, timeout_s: float) -> list[HostState]:
        """The living hosts, as the broker knows them."""
        return self._ask(HostsQuery, HostList, timeout_s).hosts

    @staticmethod
    def logs_of(host: HostState) -> str:
        """The directory of a host's log files; empty if the host is on another machine."""
        return logs_directory(host.info) if host.info.machine_id == machine_id() else ""

    # ------------------------------------------------------------------ kinds

    def actors(self, timeout_s: float) -> q.ActorRecords:
        """The records of actors."""
        return self._ask(q.StateOfActors, q.ActorRecords, timeout_s)

    def _actors(self, timeout_s: float) -> Found:
        answer = self.actors(timeout_s)
        return Found([_actor(row) for row in answer.actors], forgotten=_forgotten(answer.forgotten, "actors"))

    def _nodes(self, timeout_s: float) -> Found:
        answer = self._ask(q.StateOfHosts, q.HostRecords, timeout_s)
        heads = {row.host_id for row in answer.hosts if HEAD in row.resources}
        heads = heads or {row.host_id for row in answer.hosts[:1]}
        now = time.time()
        return Found(
            [
                NodeState(
                    node_id=row.host_id.hex(),
                    node_ip=row.ip,
                    is_head_node=row.host_id in heads,
                    state="ALIVE" if row.ended_s is None else "DEAD",
                    state_message=row.reason or None,
                    node_name=row.ip or row.hostname,
                    resources_total=row.resources,
                    labels=row.labels,
                    start_time_ms=_ms(now, row.began_s),
                    end_time_ms=_ms(now, row.ended_s),
                )
                for row in answer.hosts
            ],
            forgotten=_forgotten(answer.forgotten, "nodes"),
        )

    def workers(self, timeout_s: float) -> q.WorkerRecords:
        """The records of workers and drivers. Drivers get the host of a cluster that has a single one."""
        answer = self._ask(q.StateOfWorkers, q.WorkerRecords, timeout_s)
        living = [row for row in self._ask(q.StateOfHosts, q.HostRecords, timeout_s).hosts if row.ended_s is None]
        if len(living) != 1:
            return answer
        host = living[0]
        rows = [row._replace(host=host.host_id, ip=host.ip) if row.is_driver else row for row in answer.workers]
        return answer._replace(workers=rows)

    def _workers(self, timeout_s: float) -> Found:
        answer = self.workers(timeout_s)
        now = time.time()
        return Found(
            [
                WorkerState(
                    worker_id=row.worker_id.hex(),
                    is_alive=row.ended_s is None,
                    worker_type="DRIVER" if row.is_driver else "WORKER",
                    exit_type=row.exit_type or None,
                    node_id=row.host.hex(),
                    ip=row.ip,
                    pid=row.pid,
                    exit_detail=row.reason or None,
                    start_time_ms=_ms(now, row.began_s),
                    end_time_ms=_ms(now, row.ended_s),
                )
                for row in answer.workers
            ],
            forgotten=_forgotten(answer.forgotten, "workers"),
        )

    def _jobs(self, timeout_s: float) -> Found:
        answer = self._ask(q.StateOfJobs, q.JobRecords, timeout_s)
        drivers = {row.worker_id: row for row in self.workers(timeout_s).workers if row.is_driver}
        own = self._session.process_id if self._session is not None else b""
        now = time.time()
        rows: list[StateSchema] = []
        for row in answer.jobs:
            driver = drivers.get(row.driver_id)
            rows.append(
                JobState(
                    type="DRIVER",
                    job_id=row.job_id.hex(),
                    submission_id=None,
                    driver_info=DriverInfo(row.job_id.hex(), driver.ip if driver is not None else "", str(row.pid)),
                    status="RUNNING" if row.ended_s is None else "SUCCEEDED",
                    entrypoint=" ".join(sys.orig_argv) if row.driver_id == own else "",
                    message=row.reason or None,
                    error_type=None,
                    start_time=_ms(now, row.began_s),
                    end_time=_ms(now, row.ended_s),
                    metadata={},
                    runtime_env={},
                    driver_node_id=driver.host.hex() if driver is not None and driver.host else None,
                )
            )
        return Found(rows, forgotten=_forgotten(answer.forgotten, "jobs"))

    def tasks(self, timeout_s: float) -> Tasks:
        """The tasks and calls, and the actors, as their owners and the broker know them."""
        owners = self._ask(lambda request: q.StateOfTasks(request, MAX_LIMIT), q.OwnerRecords, timeout_s)
        workers = self.workers(timeout_s).workers
        actors = self.actors(timeout_s).actors
        running = {row.runs: row for row in workers if row.runs}
        by_id = {row.worker_id: row for row in workers}
        now = time.time()
        began: dict[bytes, float] = {}
        for owner in owners.processes:
            ran = zip(owner.running, owner.ran_ms, strict=False)
            began.update({task_id: now - ran_ms / 1000 for task_id, ran_ms in ran})
            running.update({task_id: by_id[owner.process_id] for task_id in owner.running if owner.process_id in by_id})
        jobs = {row.worker_id: row.job_id for row in workers}
        constructions = [_construction(actor, running.get(actor.actor_id)) for actor in actors]
        calls: list[tuple[q.TaskRow, TaskState]] = []
        for owner in owners.processes:
            (body,) = unpack_messages(owner.rows, frozenset([q.TaskRows]))
            job_id = owner.job_id or jobs.get(owner.process_id, b"")
            calls += [(row, _task(row, job_id, running.get(row.task_id), by_id, began)) for row in body.rows]
        return Tasks(calls, constructions, actors, _incomplete(owners, "tasks", len(calls)))

    def _tasks(self, timeout_s: float) -> Found:
        found = self.tasks(timeout_s)
        return Found([*found.constructions, *(state for _, state in found.calls)], found.missing)

    def groups(self, timeout_s: float) -> list[GroupRow]:
        """The placement groups, removed ones included."""
        return self._ask(lambda request: GroupsQuery(request, b"", "", ""), GroupList, timeout_s).groups

    def ended_tasks(self, timeout_s: float) -> tuple[list[q.TaskRow], list[q.WorkerRecord]]:
        """What owners know of tasks and calls that have ended, and the workers."""
        owners = self._ask(lambda request: q.StateOfTasks(request, MAX_LIMIT), q.OwnerRecords, timeout_s)
        bodies = [unpack_messages(owner.rows, frozenset([q.TaskRows]))[0] for owner in owners.processes]
        rows = [row for body in bodies for row in body.rows if row.ended_s is not None]
        return rows, self.workers(timeout_s).workers

    def _objects(self, timeout_s: float) -> Found:
        owners = self._ask(lambda request: q.StateOfObjects(request, MAX_LIMIT), q.OwnerRecords, timeout_s)
        by_id = {row.worker_id: row for row in self.workers(timeout_s).workers}
        rows: list[StateSchema] = []
        for owner in owners.processes:
            (body,) = unpack_messages(owner.rows, frozenset([q.ObjectRows]))
            worker = by_id.get(owner.process_id)
            rows += [_object(row, worker) for row in body.rows]
        return Found(rows, _incomplete(owners, "objects", len(rows)))

    def _groups(self, timeout_s: float) -> Found:
        return Found([_group(row) for row in self.groups(timeout_s)])

    def _environments(self, timeout_s: float) -> Found:
        answer = self._ask(q.StateOfEnvironments, q.EnvironmentRecords, timeout_s)
        rows = sorted(answer.environments, key=lambda row: -1.0 if row.setup_s is None else row.setup_s, reverse=True)
        return Found(
            [
                RuntimeEnvState(
                    runtime_env=json.loads(row.text or "{}"),
                    success=row.succeeded,
                    creation_time_ms=None if row.setup_s is None else row.setup_s * 1000,
                    node_id=row.host.hex(),
                    ref_cnt=row.workers,
                    error=row.error or None,
                )
                for row in rows
            ],
            forgotten=_forgotten(answer.forgotten, "runtime environments"),
        )

    def _events(self, timeout_s: float) -> Found:
        return Found([])  # zray records no events


_LISTERS: dict[StateResource, Callable[[Source, float], Found]] = {
    StateResource.ACTORS: Source._actors,
    StateResource.NODES: Source._nodes,
    StateResource.WORKERS: Source._workers,
    StateResource.JOBS: Source._jobs,
    StateResource.TASKS: Source._tasks,
    StateResource.OBJECTS: Source._objects,
    StateResource.PLACEMENT_GROUPS: Source._groups,
    StateResource.RUNTIME_ENVS: Source._environments,
    StateResource.CLUSTER_EVENTS: Source._events,
}


def _ask_from_outside(address: str, question: Callable[[int], _Question], timeout_s: float) -> Any:
    from zray.config.reading import from_environment  # workers have their settings, and do not load these
    from zray.transport.security.dialer import credentials_for

    config = from_environment()
    return ask_broker(address, question, config, credentials_for(address, "driver", config.keys, False), timeout_s)


def _running_broker() -> str:
    from zray.config.reading import from_environment  # workers have their settings, and do not load this
    from zray.sessions.directories import brokers, read_current, runtime_root

    config = from_environment()
    if config.address not in ("", "auto", "local"):
        return config.address
    root = runtime_root(config.tmpdir)
    found = read_current(root) or next(iter(brokers(root, local=True)[-1:]), None)
    if found is None:
        raise ServerUnavailable(
            "there is no cluster to ask: call zray.init() first, or give the address of a broker (address=...)"
        )
    return found.address


def _forgotten(count: int, what: str) -> str:
    return f"{count:,} {what} that have ended are no longer recorded" if count else ""


def _incomplete(owners: q.OwnerRecords, what: str, n_rows: int) -> str:
    """What is missing in records of owners; empty if nothing is."""
    missing = [f"{owners.left_out:,} processes did not answer in time"] if owners.left_out else []
    total = sum(owner.total for owner in owners.processes)
    if total > n_rows:
        missing.append(f"only {n_rows:,} of {total:,} {what} were asked for")
    return "; ".join(missing)


def _ms(now: float, age_s: float | None) -> int:
    """A time in milliseconds since 1970, of something that was ``age_s`` ago; 0: it has not been."""
    return 0 if age_s is None else int((now - age_s) * 1000)


class _Asked(NamedTuple):
    """What a shape asks for. ``group``: the placement group, or None; ``selector``: the label selector."""

    amounts: dict[str, float]
    group: str | None
    selector: dict[str, str]


def _asked(shape: bytes) -> _Asked:
    """Reads a shape: see ``zray.protocol.codec.shape_key``."""
    fields = unpack(shape) if shape else []
    terms: list[Term] = []
    if isinstance(fields, dict):
        if fields["constraint"] is not None:
            terms = constraint_from_row(fields["constraint"]).choices[0].terms
        fields = fields["amounts"]
    amounts = {str(name): amount / UNIT for name, amount in fields}
    selector = write_selector([term for term in terms if term.operator in (IN, NOT_IN)])
    return _Asked(amounts, group_of(amounts) or None, selector)


def _actor(row: q.ActorRecord) -> ActorState:
    cause: dict[str, Any] | None = None
    if row.state == "DEAD":
        kind = "actor_died_error_context" if row.constructed else "creation_task_failure_context"
        cause = {kind: {"error_message": row.reason, "actor_id": row.actor_id.hex(), "class_name": row.class_name}}
    return ActorState(
        actor_id=row.actor_id.hex(),
        class_name=row.class_name,
        state=row.state,
        job_id=row.job_id.hex(),
        name=row.name,
        node_id=row.host.hex() or None,
        pid=row.pid,
        ray_namespace=row.namespace,
        serialized_runtime_env="{}",
        required_resources=row.resources,
        death_cause=cause,
        is_detached=row.detached,
        placement_group_id=group_of(row.resources) or None,
        repr_name="",
        num_restarts=row.restarts,
        num_restarts_due_to_lineage_reconstruction=0,
        num_restarts_due_to_node_preemption=0,
    )


def _construction(actor: q.ActorRecord, worker: q.WorkerRecord | None) -> TaskState:
    """The record of the call of an actor's constructor."""
    states = {
        "DEPENDENCIES_UNREADY": "PENDING_ARGS_AVAIL",
        "PENDING_CREATION": "RUNNING" if worker is not None else "PENDING_NODE_ASSIGNMENT",
    }
    failed = actor.state == "DEAD" and not actor.constructed
    function = f"{actor.class_name.rpartition('.')[2]}.__init__"
    return TaskState(
        task_id=actor.actor_id.hex(),
        attempt_number=0,
        name=f"{actor.name}:{function}" if actor.name else function,
        state=states.get(actor.state, "FAILED" if failed else "FINISHED"),
        job_id=actor.job_id.hex(),
        actor_id=actor.actor_id.hex(),
        type="ACTOR_CREATION_TASK",
        func_or_class_name=function,
        parent_task_id="",
        node_id=actor.host.hex() or None,
        worker_id=actor.worker.hex() or None,
        worker_pid=actor.pid or None,
        error_type="ACTOR_CREATION_FAILED" if failed else None,
        language="PYTHON",
        required_resources=actor.resources,
        placement_group_id=group_of(actor.resources) or None,
        error_message=actor.reason if failed else None,
    )


def _task(
    row: q.TaskRow,
    job_id: bytes,
    runs_at: q.WorkerRecord | None,
    workers: dict[bytes, q.WorkerRecord],
    began: dict[bytes, float],
) -> TaskState:
    """``began``: when the running tasks began, in seconds since 1970."""
    state, asked = row.state, _asked(row.shape)
    started_s = row.started_s if row.ended_s is not None else began.get(row.task_id)
    worker = workers.get(row.worker) if row.worker else None
    if state in ("PENDING_NODE_ASSIGNMENT", "SUBMITTED_TO_WORKER") and runs_at is not None:
        state = "RUNNING_IN_RAY_GET" if runs_at.waits and not row.actor else "RUNNING"
        worker = runs_at
    return TaskState(
        task_id=row.task_id.hex(),
        attempt_number=row.attempt,
        name=row.name,
        state=state,
        job_id=job_id.hex(),
        actor_id=row.actor.hex() or None,
        type="ACTOR_TASK" if row.actor else "NORMAL_TASK",
        func_or_class_name=row.function or row.name,
        parent_task_id=row.parent.hex(),
        node_id=worker.host.hex() if worker is not None else None,
        worker_id=worker.worker_id.hex() if worker is not None else row.worker.hex() or None,
        worker_pid=worker.pid if worker is not None else None,
        error_type=row.error_type or None,
        language="PYTHON",
        required_resources=asked.amounts,
        placement_group_id=asked.group,
        error_message=row.error or None,
        label_selector=asked.selector,
        events=_events(row, state, started_s),
        creation_time_ms=_at_ms(row.created_s),
        start_time_ms=_at_ms(started_s),
        end_time_ms=_at_ms(row.ended_s),
    )


def _at_ms(at_s: float | None) -> int | None:
    return None if at_s is None else int(at_s * 1000)


def _events(row: q.TaskRow, state: str, started_s: float | None) -> list[dict[str, Any]]:
    """When a task reached the states of which the time is known."""
    times = [("PENDING_ARGS_AVAIL", row.created_s), ("RUNNING", started_s), (state, row.ended_s)]
    return [{"state": name, "created_ms": _at_ms(at_s)} for name, at_s in times if at_s is not None]


def _group(row: GroupRow) -> PlacementGroupState:
    waited_us = str(int(row.waited_s * 1e6)) if row.state == "CREATED" else "0"
    return PlacementGroupState(
        placement_group_id=row.group_id.hex(),
        name=row.name,
        creator_job_id=row.job_id.hex(),
        state=row.state,
        bundles=[
            {
                "bundle_id": {"placement_group_id": row.group_id.hex(), "bundle_index": index},
                "unit_resources": amounts,
                "node_id": row.hosts[index].hex(),
                "label_selector": write_selector(row.selectors[index].terms) if row.selectors else {},
            }
            for index, amounts in enumerate(row.bundles)
        ],
        is_detached=row.detached,
        stats={
            "scheduling_attempt": row.attempts,
            "scheduling_state": scheduling_state(row),
            "scheduling_latency_us": waited_us,
            "end_to_end_creation_latency_us": waited_us,
            "highest_retry_delay_ms": 0.0,
        },
        topology_strategy={row.topology: "STRICT_PACK"} if row.topology else {},
        topology_assignments={row.topology: row.domain} if row.domain else {},
    )


def _object(row: q.ObjectRow, worker: q.WorkerRecord | None) -> ObjectState:
    return ObjectState(
        object_id=row.object_id.hex(),
        object_size=-1 if row.size is None else row.size,
        task_status=row.task_status,
        attempt_number=row.attempt,
        reference_type=row.reference,
        call_site="disabled",
        type="DRIVER" if worker is None or worker.is_driver else "WORKER",
        pid=worker.pid if worker is not None else 0,
        ip=worker.ip if worker is not None else "",
    )
