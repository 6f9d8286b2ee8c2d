"""Questions about the state of a cluster, record by record, and the answers: for ``zray.util.state``.

The broker answers questions about actors, hosts, workers, jobs and runtime environments at once: those that live, and
the last ones that have ended. Tasks and objects are known to their owners. The broker asks these (``InspectTasks``,
``InspectObjects``), and passes their rows on unread, as the body of one ``TaskRows`` or ``ObjectRows``. A process that
does not answer within five seconds is left out and counted.

Times are ages, in seconds before the answer, because the clocks of processes differ.
"""

from __future__ import annotations

from zray.named_tuples import NamedTuple

# ------------------------------------------------------------------------------------------------ questions


class StateOfActors(NamedTuple):
    """Answer: ``ActorRecords``."""

    request: int


class StateOfHosts(NamedTuple):
    """Answer: ``HostRecords``."""

    request: int


class StateOfWorkers(NamedTuple):
    """Answer: ``WorkerRecords``: workers and drivers."""

    request: int


class StateOfJobs(NamedTuple):
    """Answer: ``JobRecords``."""

    request: int


class StateOfEnvironments(NamedTuple):
    """Answer: ``EnvironmentRecords``."""

    request: int


class StateOfTasks(NamedTuple):
    """Answer: ``OwnerRecords``, with at most ``limit`` tasks of each owner."""

    request: int
    limit: int


class StateOfObjects(NamedTuple):
    """Answer: ``OwnerRecords``, with at most ``limit`` objects of each process."""

    request: int
    limit: int


StateQuestion = (
    StateOfActors | StateOfHosts | StateOfWorkers | StateOfJobs | StateOfTasks | StateOfObjects | StateOfEnvironments
)

# -------------------------------------------------------------------------------------------------- answers


class ActorRecord(NamedTuple):
    """An actor.

    ``state``: Ray's name of it; ``host``, ``worker``, ``pid``: of the worker that has it, or had it last; empty
    or 0 if it had none; ``resources``: what it holds; ``reason``: why it is dead; ``constructed``: its constructor has
    returned, at least once.
    """

    actor_id: bytes
    class_name: str
    name: str
    namespace: str
    state: str
    job_id: bytes
    host: bytes
    worker: bytes
    pid: int
    detached: bool
    restarts: int
    resources: dict[str, float]
    reason: str
    constructed: bool


class ActorRecords(NamedTuple):
    """``forgotten``: how many ended actors the broker no longer has a record of."""

    request: int
    actors: list[ActorRecord]
    forgotten: int


class HostRecord(NamedTuple):
    """A host.

    ``reason``: why it is gone; empty if it lives; ``ended_s``: None if it lives; ``in_order``: it has said goodbye.
    """

    host_id: bytes
    hostname: str
    ip: str
    labels: dict[str, str]
    resources: dict[str, float]
    reason: str
    began_s: float
    ended_s: float | None
    in_order: bool


class HostRecords(NamedTuple):
    request: int
    hosts: list[HostRecord]
    forgotten: int


class WorkerRecord(NamedTuple):
    """A worker or driver.

    ``host``: empty for a driver; ``runs``: the task that it has begun, as far as the broker knows, or empty;
    ``waits``: that task waits in ``get``; ``exit_type``: Ray's name of the way in which it ended; ``began_s``: None if
    it has not joined.
    """

    worker_id: bytes
    is_driver: bool
    job_id: bytes
    host: bytes
    ip: str
    pid: int
    runs: bytes
    waits: bool
    exit_type: str
    reason: str
    began_s: float | None
    ended_s: float | None


class WorkerRecords(NamedTuple):
    request: int
    workers: list[WorkerRecord]
    forgotten: int


class JobRecord(NamedTuple):
    """A job. ``driver_id``, ``pid``: of its driver; ``ended_s``: None while its driver lives."""

    job_id: bytes
    namespace: str
    driver_id: bytes
    pid: int
    reason: str
    began_s: float
    ended_s: float | None


class JobRecords(NamedTuple):
    request: int
    jobs: list[JobRecord]
    forgotten: int


class EnvironmentRecord(NamedTuple):
    """A runtime environment on a host.

    ``text``: the environment as JSON; ``succeeded``: whether a worker could be started in it; ``setup_s``: how long
    that took, in seconds; None if it failed; ``workers``: how many workers are in it; ``error``: why it failed.
    """

    host: bytes
    text: str
    succeeded: bool
    setup_s: float | None
    workers: int
    error: str


class EnvironmentRecords(NamedTuple):
    """``forgotten``: how many environments the broker no longer has a record of."""

    request: int
    environments: list[EnvironmentRecord]
    forgotten: int


class ProcessRecords(NamedTuple):
    """The tasks or objects of one process.

    ``total``: how many it has; ``rows``: the body of one ``TaskRows`` or ``ObjectRows``; ``running``: the tasks and
    calls that the process itself runs; ``ran_ms``: for how long, in milliseconds.
    """

    process_id: bytes
    job_id: bytes
    total: int
    rows: bytes
    running: list[bytes]
    ran_ms: list[int]


class OwnerRecords(NamedTuple):
    """``left_out``: how many processes did not answer, or had no room in the answer."""

    request: int
    processes: list[ProcessRecords]
    left_out: int


StateAnswer = ActorRecords | HostRecords | WorkerRecords | JobRecords | OwnerRecords | EnvironmentRecords

# ------------------------------------------------------------------------- from the broker to owners, and back


class InspectTasks(NamedTuple):
    """Which tasks and calls does this process own, and which does it run? Answer: ``RecordsInspected``."""

    request: int
    limit: int


class InspectObjects(NamedTuple):
    """Which objects does this process own, or hold references to? Answer: ``RecordsInspected``."""

    request: int
    limit: int


LEFT_BEHIND = 0
"""The request of a ``RecordsInspected`` that answers none: a driver sends it before it leaves the cluster."""


class RecordsInspected(NamedTuple):
    """See ``ProcessRecords``."""

    request: int
    total: int
    rows: bytes
    running: list[bytes]
    ran_ms: list[int]


class TaskRow(NamedTuple):
    """An attempt of a task or call.

    ``state``: Ray's name of it, as far as the owner knows; ``actor``: empty for a task; ``parent``: the task that
    submitted it, or empty; ``worker``: the worker that has answered, or empty; ``shape``: the resources that it asks
    for; ``error_type``: Ray's name; ``error``: the end of the error's text; ``created_s``, ``started_s``, ``ended_s``:
    when it was submitted, began and ended, in seconds since 1970, or None; ``argument``: the first object that it waits
    for before it can be sent, or empty.
    """

    task_id: bytes
    attempt: int
    name: str
    function: str
    state: str
    actor: bytes
    parent: bytes
    worker: bytes
    shape: bytes
    error_type: str
    error: str
    created_s: float
    started_s: float | None
    ended_s: float | None
    argument: bytes


class TaskRows(NamedTuple):
    """What ``ProcessRecords.rows`` contains. No process sends it as a message."""

    rows: list[TaskRow]


class ObjectRow(NamedTuple):
    """An object that a process owns, or holds a reference to.

    ``size``: in bytes; None if it is not known; ``task_status``: Ray's name of the state of the task that makes it;
    ``reference``: Ray's name of the kind of reference.
    """

    object_id: bytes
    size: int | None
    task_status: str
    attempt: int
    reference: str


class ObjectRows(NamedTuple):
    """See ``TaskRows``."""

    rows: list[ObjectRow]


RowsOfOwner = TaskRows | ObjectRows
