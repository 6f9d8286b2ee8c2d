"""What clients ask the broker, and what it answers: one ``NamedTuple`` for each question, and for each answer.

``request`` is the asker's number for a question, which the answer repeats. A question is answered once; at once, or
when those who know (``Inspect``) have answered, half a second later at most. ``request`` aside, the fields of
``ClusterStatus`` and of what is in it are those of ``zray status --json``, in that order.
"""

from __future__ import annotations

from typing import NamedTuple

from zray.protocol.records import Activity, HostState, StoreUse

# ------------------------------------------------------------------------------------------------ questions


class HostsQuery(NamedTuple):
    """Which hosts are there? Answer: ``HostList``."""

    request: int


class ResourcesQuery(NamedTuple):
    """What do the hosts have together; if ``free``, what of it is not in use? Answer: ``Resources``."""

    request: int
    free: bool


class NamedActorsQuery(NamedTuple):
    """Which living actors have a name in ``namespace``; None: in any? Answer: ``NamedActors``."""

    request: int
    namespace: str | None


class MemberQuery(NamedTuple):
    """Has a process joined, be it dead by now? Answer: ``Membership``."""

    request: int
    process_id: bytes


class ActorsQuery(NamedTuple):
    """Which actors are not dead? Answer: ``ActorList``."""

    request: int


class WorkersQuery(NamedTuple):
    """Which workers are there? Answer: ``WorkerList``."""

    request: int


class CountsQuery(NamedTuple):
    """How much of everything is there? For benchmarks and tests. Answer: ``BrokerCounts``."""

    request: int


class StatusQuery(NamedTuple):
    """What does the cluster do? Answer: ``ClusterStatus``."""

    request: int


class ExplainTask(NamedTuple):
    """Where is a task? Answer: ``Explanation``."""

    request: int
    task_id: bytes


class ExplainActor(NamedTuple):
    """What keeps an actor from taking a call? Answer: ``Explanation``."""

    request: int
    actor_id: bytes


class FlushOutput(NamedTuple):
    """Tell me when I have what workers have printed up to now. Answer: ``OutputFlushed``, behind the lines."""

    request: int


Question = (
    HostsQuery | ResourcesQuery | NamedActorsQuery | MemberQuery | ActorsQuery | WorkersQuery | CountsQuery
    | StatusQuery | ExplainTask | ExplainActor | FlushOutput
)  # fmt: skip

# -------------------------------------------------------------------------------------------------- answers


class HostList(NamedTuple):
    request: int
    hosts: list[HostState]


class Resources(NamedTuple):
    """Amounts by resource, of all hosts together."""

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
    """``state``: as ``zray status --json`` names it; ``pid``: of its worker, 0 if it has none."""

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
    """``job_id``: empty if it has none yet; ``tasks``: how many it holds; ``grant``: its resources, as text; ``actor``:
    which one it serves, as text."""

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
    """``dispatched``: tasks that were handed to workers so far; ``dropped_frames``: also messages."""

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
    """Of the function or actor; empty if it is not known."""
    why: str = ""
    """What a task that is ``QUEUED``, or an actor that is ``UNPLACED``, waits for."""
    pid: int = 0
    host: str = ""
    """Of the worker, where there is one: ``STARTING`` or ``AT_WORKER``."""
    activity: Activity | None = None
    """What the worker does; None if it has not answered."""


UNKNOWN, QUEUED, UNPLACED, STARTING, AT_WORKER = "unknown", "queued", "unplaced", "starting", "worker"
"""States of an ``Explanation``."""


class OutputFlushed(NamedTuple):
    request: int


# --------------------------------------------------------------------------------------------------- status


class BrokerStatus(NamedTuple):
    """Of the broker's process. ``refused``: how many were turned away, by reason; ``dropped_frames``: also messages."""

    address: str = ""
    uptime_s: float = 0.0
    zray: str = ""
    python: str = ""
    protocol: int = 0
    refused: dict[str, int] = {}
    dropped_frames: int = 0


class Amount(NamedTuple):
    """Of one resource."""

    total: float
    used: float


class WorkerCounts(NamedTuple):
    """How many workers of a host do what; ``actors``: serve one."""

    starting: int
    idle: int
    busy: int
    actors: int
    ending: int


class HostStatus(NamedTuple):
    """``heard_s``: for how long it has been silent; ``store``: None if it has not answered; ``refused``: how many were
    turned away from its channels, by reason."""

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
    """``driver_pid``: None if the driver is gone, and detached actors are left."""

    job_id: bytes
    namespace: str
    driver_pid: int | None
    tasks_running: int
    tasks_waiting: int
    actors: int


class WaitingStatus(NamedTuple):
    """Tasks or actors (``what``) that wait for the same ``resources``."""

    what: str
    count: int  # type: ignore[assignment]  # of tuples nobody needs it
    resources: dict[str, float]
    can_be_placed: bool


class RunningStatus(NamedTuple):
    """A task that runs, or an actor (``what``) with the call that it runs, or without any.

    ``actor``: how it is called; ``name``: of the task or call; ``memory_bytes``, ``seconds``: None where they are not
    known; ``answers``: the worker has answered.
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
    """The whole cluster. ``actors``: how many are in each state; ``waiting_for_arguments``: calls by name."""

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
    | Explanation | OutputFlushed
)  # fmt: skip
