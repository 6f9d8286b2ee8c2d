"""The questions of clients to the broker, and the answers: one ``NamedTuple`` for each.

``request`` is the asker's number for a question, which the answer repeats. The broker answers each question once: at
once, or after the processes that know the answer have replied (``Inspect``), half a second later at most. Except
``request``, the fields of ``ClusterStatus`` and of the records in it are those of ``zray status --json``, in that
order.
"""

from __future__ import annotations

from zray.named_tuples import NamedTuple
from zray.protocol.records import Activity, HostState, Selector, StoreUse

# ------------------------------------------------------------------------------------------------ questions


class HostsQuery(NamedTuple):
    """Which hosts are there? Answer: ``HostList``."""

    request: int


class ResourcesQuery(NamedTuple):
    """What are the resources of all hosts; if ``free``: which of them are not in use? Answer: ``Resources``."""

    request: int
    free: bool


class NamedActorsQuery(NamedTuple):
    """Which living actors have a name in ``namespace`` (None: in any namespace)? Answer: ``NamedActors``."""

    request: int
    namespace: str | None


class MemberQuery(NamedTuple):
    """Has a process joined, even if it is dead now? Answer: ``Membership``."""

    request: int
    process_id: bytes


class ActorsQuery(NamedTuple):
    """Which actors are not dead? Answer: ``ActorList``."""

    request: int


class WorkersQuery(NamedTuple):
    """Which workers are there? Answer: ``WorkerList``."""

    request: int


class CountsQuery(NamedTuple):
    """How many records of each kind are there? For benchmarks and tests. Answer: ``BrokerCounts``."""

    request: int


class StatusQuery(NamedTuple):
    """What is the state of the cluster? Answer: ``ClusterStatus``."""

    request: int


class ExplainTask(NamedTuple):
    """Where is a task? Answer: ``Explanation``."""

    request: int
    task_id: bytes


class ExplainActor(NamedTuple):
    """What keeps an actor from taking a call? Answer: ``Explanation``."""

    request: int
    actor_id: bytes


class GroupsQuery(NamedTuple):
    """Which placement groups are there, removed ones included? Answer: ``GroupList``.

    ``group``: only the group with this identifier; ``name``: only the one with this name in ``namespace``, if it is not
    removed. If both are empty: all.
    """

    request: int
    group: bytes
    name: str
    namespace: str


class FlushOutput(NamedTuple):
    """Has the asker got all that workers have printed up to now? Answer, once it has: ``OutputFlushed``."""

    request: int


Question = (
    HostsQuery | ResourcesQuery | NamedActorsQuery | MemberQuery | ActorsQuery | WorkersQuery | CountsQuery
    | StatusQuery | ExplainTask | ExplainActor | GroupsQuery | FlushOutput
)  # fmt: skip

# -------------------------------------------------------------------------------------------------- answers


class HostList(NamedTuple):
    request: int
    hosts: list[HostState]


class Resources(NamedTuple):
    """The amounts of all hosts together, by resource."""

    request: int
    amounts: dict[str, float]


class ActorName(NamedTuple):
    namespace: str
    name: str


class NamedActors(NamedTuple):
    request: int
    names: list[ActorName]


class Membership(NamedTuple):
    request: int
    is_member: bool


class ActorRow(NamedTuple):
    """An actor in an ``ActorList``.

    ``state``: as ``zray status --json`` names it; ``pid``: the PID of its worker, 0 if it has none.
    """

    actor_id: bytes
    class_name: str
    name: str
    state: str
    pid: int
    restarts: int


class ActorList(NamedTuple):
    request: int
    actors: list[ActorRow]


class WorkerRow(NamedTuple):
    """A worker in a ``WorkerList``.

    ``job_id``: empty if it has no job yet; ``tasks``: how many it holds; ``grant``: its resources, as text; ``actor``:
    the actor that it serves, as text.
    """

    worker_id: bytes
    pid: int
    state: str
    job_id: bytes
    tasks: int
    blocked: bool
    grant: str
    actor: str


class WorkerList(NamedTuple):
    request: int
    workers: list[WorkerRow]


class BrokerCounts(NamedTuple):
    """The number of records of each kind.

    ``dispatched``: tasks handed to workers so far; ``dropped_frames``: malformed or refused frames and messages.
    """

    request: int
    tasks: int
    queued: int
    dispatched: int
    actors: int
    workers: int
    processes: int
    functions: int
    dropped_frames: int


class Explanation(NamedTuple):
    """Where a task is, or what keeps an actor from taking a call."""

    request: int
    state: str
    """One of the constants below."""
    name: str = ""
    """The name of the function or actor; empty if it is not known."""
    why: str = ""
    """What a ``QUEUED`` task or an ``UNPLACED`` actor waits for."""
    pid: int = 0
    host: str = ""
    """The worker's host. ``pid`` and ``host`` are set only if there is a worker: ``STARTING`` or ``AT_WORKER``."""
    activity: Activity | None = None
    """What the worker does; None if it has not answered."""


UNKNOWN, QUEUED, UNPLACED, STARTING, AT_WORKER = "unknown", "queued", "unplaced", "starting", "worker"
"""The states of an ``Explanation``."""


class GroupRow(NamedTuple):
    """A placement group in a ``GroupList``.

    ``bundles``: the amounts of each; ``hosts``: the host of each, empty for one that is not reserved; ``attempts``: how
    often it was tried to reserve bundles; ``waited_s``: how long it waited to be created, or has waited; ``why``: why
    bundles are not reserved, empty if all are; ``can_be_placed``: whether room for it may become free, by Ray's rules;
    ``selectors``, ``topology``: as in ``GroupSpec``; ``domain``: the value of that label, empty if there is
    none yet.
    """

    group_id: bytes
    name: str
    namespace: str
    state: str
    strategy: str
    bundles: list[dict[str, float]]
    hosts: list[bytes]
    detached: bool
    job_id: bytes
    attempts: int
    waited_s: float
    why: str
    can_be_placed: bool
    selectors: list[Selector]
    topology: str
    domain: str


class GroupList(NamedTuple):
    request: int
    groups: list[GroupRow]


class OutputFlushed(NamedTuple):
    request: int


# --------------------------------------------------------------------------------------------------- status


class BrokerStatus(NamedTuple):
    """The broker's process.

    ``refused``: how many processes were refused, by reason; ``dropped_frames``: malformed or refused frames and
    messages; ``journal``: its journal's path, empty if it has none; ``journal_fault``: why that cannot be written.
    """

    address: str = ""
    uptime_s: float = 0.0
    zray: str = ""
    python: str = ""
    protocol: int = 0
    refused: dict[str, int] = {}
    dropped_frames: int = 0
    journal: str = ""
    journal_fault: str = ""


class Amount(NamedTuple):
    """The amount of one resource."""

    total: float
    used: float


class WorkerCounts(NamedTuple):
    """How many workers of a host are in each state. ``actors``: those that serve an actor."""

    starting: int
    idle: int
    busy: int
    actors: int
    ending: int


class HostStatus(NamedTuple):
    """A host.

    ``heard_s``: for how long it has been silent; ``store``: None if it has not answered; ``refused``: how many
    processes its channels have refused, by reason.
    """

    host_id: bytes
    hostname: str
    pid: int
    session: str
    heard_s: float
    labels: dict[str, str]
    resources: dict[str, Amount]
    store: StoreUse | None
    workers: WorkerCounts
    refused: dict[str, int]


class JobStatus(NamedTuple):
    """A job. ``driver_pid``: None if the driver is gone and detached actors are left."""

    job_id: bytes
    namespace: str
    driver_pid: int | None
    tasks_running: int
    tasks_waiting: int
    actors: int


class WaitingStatus(NamedTuple):
    """Tasks or actors (``what``) that wait for the same ``resources``."""

    what: str
    count: int  # type: ignore[assignment]  # hides tuple.count, which is not used
    resources: dict[str, float]
    can_be_placed: bool


class RunningStatus(NamedTuple):
    """A task that runs, or an actor (``what``) with the call that it runs, or without a call.

    ``actor``: the actor's name; ``name``: the name of the task or call; ``memory_bytes``, ``seconds``: None if they are
    not known; ``answers``: whether the worker has answered.
    """

    what: str
    actor: str
    host_id: bytes
    pid: int
    memory_bytes: int | None
    answers: bool
    waits_for: list[str]
    name: str
    seconds: float | None


class ClusterStatus(NamedTuple):
    """The whole cluster. ``actors``: how many are in each state; ``waiting_for_arguments``: how many calls, by name."""

    request: int
    broker: BrokerStatus
    hosts: list[HostStatus]
    jobs: list[JobStatus]
    actors: dict[str, int]
    waiting: list[WaitingStatus]
    running: list[RunningStatus]
    waiting_for_arguments: dict[str, int]


Answer = (
    HostList | Resources | NamedActors | Membership | ActorList | WorkerList | BrokerCounts | ClusterStatus
    | Explanation | GroupList | OutputFlushed
)  # fmt: skip
