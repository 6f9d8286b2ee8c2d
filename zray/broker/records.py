"""What the broker knows: one record per job, process, host, worker, task and actor. No logic but tables of states."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from zray.broker.accounts import Parts, Share
from zray.broker.resources import CPU, NOTHING, Pool, Shape
from zray.broker.states import ACTOR, PENDING_CREATION, STARTING, WORKER
from zray.protocol.messages import ActorCall
from zray.protocol.records import ActorSpec, HostInfo, JobSettings, JoinInfo

LENT_FOR_S = 0.1
"""In seconds: see ``zray.broker.lent``. (Ray's worker cap waits a second, then two, four, ...)"""
MAX_DEPTH = 32
"""Tasks that were submitted by tasks, and so on, are told apart down to here."""


class Job:
    """A driver's session. ``settings``: what its workers need."""

    __slots__ = ("driver", "job_id", "settings", "workers")

    def __init__(self, job_id: bytes, driver: bytes, settings: JobSettings) -> None:
        self.job_id = job_id
        self.driver = driver
        self.settings = settings
        self.workers: dict[bytes, None] = {}  # a set that keeps its order: runs can be repeated


class Process:
    """Anybody who is connected and alive. ``watchers`` want to know of its death; ``tasks``: how many it waits for;
    ``last_actor``: the number of the actor that it has announced last; ``worker``: its record, if it is a worker."""

    __slots__ = ("info", "job_id", "kind", "last_actor", "process_id", "tasks", "watchers", "worker")

    def __init__(self, process_id: bytes, kind: str, job_id: bytes, info: JoinInfo) -> None:
        self.process_id = process_id
        self.kind = kind
        self.job_id = job_id
        self.info = info
        self.watchers: dict[bytes, None] = {}
        self.tasks = 0
        self.last_actor = 0
        self.worker: Worker | None = None

    @property
    def depth(self) -> int:
        """Of what it submits: 0 for a driver, one more than its own for a task or actor."""
        return 0 if self.worker is None else min(self.worker.depth + 1, MAX_DEPTH)


class Loan:
    """CPUs that tasks of one job and depth have lent on a host. ``is_open``: to everybody; ``kept_for_s``: it is opened
    when CPUs were free for so long; ``idle_since``: since when they are."""

    __slots__ = ("cpus", "idle_since", "is_open", "kept_for_s")

    def __init__(self) -> None:
        self.cpus = 0
        self.is_open = False
        self.kept_for_s = LENT_FOR_S
        self.idle_since = 0.0


class Host:
    """A machine's host process. ``idle``: its free workers by job (b"" for none yet), the warmest last; ``actors``: how
    many have a place here; ``lent``: CPUs that tasks have lent since they wait, by job and depth; for the rest of that
    see ``zray.broker.lent``."""

    __slots__ = (
        "actors",
        "channel_refusals",
        "host_id",
        "idle",
        "info",
        "lent",
        "load",
        "number",
        "pool",
        "starting",
        "workers",
    )  # fmt: skip

    def __init__(self, host_id: bytes, pool: Pool, info: HostInfo) -> None:
        self.host_id = host_id
        self.pool = pool
        self.info = info
        self.number = 0  # hosts are numbered as they join
        self.workers: dict[bytes, Worker] = {}
        self.idle: dict[bytes, list[Worker]] = {}
        self.starting: dict[bytes, Worker] = {}  # in state STARTING, meant for tasks; some are reserved: see Worker
        self.actors = 0
        self.load = 0.0  # its actors for each of its CPUs
        self.lent: dict[tuple[bytes, int], Loan] = {}
        self.channel_refusals: dict[str, int] = {}  # strangers at the door of its channels, by reason

    @property
    def label(self) -> str:
        """How messages call it: several may have the same name."""
        return f"{self.info.hostname} ({self.host_id.hex()[:8]})"

    def count_actor(self, more: int) -> None:
        """One more has its place here, or (-1) one less."""
        self.actors += more
        self.load = self.actors / max(1, self.pool.total.get(CPU, 0))


class Line(Protocol):
    """What waits for workers; see ``zray.broker.queues``."""

    share: Share


class Worker:
    """A worker process. ``state``: see ``zray.broker.states``.

    Invariants: ``outstanding`` is non-empty exactly in state BUSY; ``grant`` is what it holds of its host's pool, less
    what is ``lent``; ``load_us`` is the sum of the estimates of ``outstanding``. In state STARTING it has a grant if it
    is for an actor, or is reserved for a line of tasks.
    """

    __slots__ = (
        "actor",
        "blocked",
        "busy_replies",
        "charge",
        "depth",
        "gpus",
        "grant",
        "host",
        "idle_since",
        "job_id",
        "kept",
        "lent",
        "load_us",
        "outstanding",
        "overdue",
        "pid",
        "promise",
        "reserved",
        "retiring",
        "served",
        "share",
        "state",
        "used_gpus",
        "worker_id",
        "yields_to",
    )  # fmt: skip

    def __init__(self, worker_id: bytes, host: Host) -> None:
        self.worker_id = worker_id
        self.host = host
        self.job_id = b""
        self.pid = 0
        self.state = STARTING
        self.outstanding: dict[bytes, Envelope] = {}
        self.grant: Shape = NOTHING
        self.gpus: list[int] = []
        self.used_gpus: list[int] = []  # what it had with its latest grant
        self.depth = 0  # of what it runs, or has run last
        self.share: Share | None = None  # of the line to which its grant is charged
        self.charge: Parts = {}  # so much
        self.reserved: Line | None = None  # the line for which it is being started
        self.yields_to: Share | None = None  # the line for which it makes room: it gets no more
        self.promise: tuple[Parts, Parts] = ({}, {})  # what that line will be charged, and its own be relieved of
        self.blocked = False
        self.lent = 0  # CPUs of the grant that others may use, since it blocks
        self.overdue = False  # it handed work back since its task is long: it gets no more until it is through
        self.retiring = False  # it takes no more work
        self.load_us = 0
        self.idle_since = 0.0
        self.kept = False  # it would rather stay: asked again only if it is one too many, or after its next work
        self.busy_replies = 0  # so often it was busy when it was asked to go: it is asked less and less often
        self.actor: Actor | None = None
        self.served = b""  # the actor that it was given, for good: it may have answers to give when that has ended

    def enter(self, state: int) -> None:
        """Changes the state; raises IllegalTransition if it is none that may follow."""
        self.state = WORKER.after[self.state][state]


class Envelope:
    """A submitted task. ``worker``: where it is; None: queued. ``near``: the host where it rather runs, or empty."""

    __slots__ = ("attempt", "cancelled", "depth", "estimate_us", "flags", "function_id", "job_id", "near", "order",
                 "owner", "payload", "shape", "stopped", "task_id", "worker")  # fmt: skip

    def __init__(
        self, task_id: bytes, attempt: int, owner: bytes, job_id: bytes, function_id: bytes, shape: Shape, flags: int,
        near: bytes, payload: bytes, depth: int = 0,
    ) -> None:  # fmt: skip
        self.task_id = task_id
        self.attempt = attempt
        self.owner = owner
        self.job_id = job_id
        self.function_id = function_id
        self.shape = shape
        self.flags = flags
        self.near = near
        self.depth = depth
        self.order = 0  # within its queue
        self.payload = payload
        self.worker: Worker | None = None
        self.cancelled = False  # nobody wants it any more: dropped where it is met
        self.stopped = False  # its worker has been told to cancel it
        self.estimate_us = 0


UNANNOUNCED = ActorSpec("actor", "", "", False, 0, 1, True, False, b"", b"", b"", b"")
"""Of an actor whose handle came before its announcement."""


class Actor:
    """An actor. Calls wait in ``queue`` until it is ALIVE; ``last_seq``: what each caller's worker has been handed.

    ``creator`` is empty until the actor has been announced: its handle may be used before.
    """

    __slots__ = ("actor_id", "creator", "death_error", "death_message", "depth", "failed_starts", "function_id",
                 "incarnation", "job_id", "last_seq", "payload", "placement", "queue", "released", "restarts_left",
                 "running", "spec", "state", "subscribers", "worker")  # fmt: skip

    def __init__(self, actor_id: bytes) -> None:
        self.actor_id = actor_id
        self.state = PENDING_CREATION
        self.incarnation = 0
        self.spec = UNANNOUNCED
        self.function_id = b""
        self.payload = b""
        self.creator = b""
        self.job_id = b""
        self.depth = 0  # of its creator's work
        self.placement: Shape = NOTHING
        self.running: Shape = NOTHING
        self.restarts_left = 0
        self.failed_starts = 0  # so many workers in a row have died before they could take it
        self.worker: Worker | None = None
        self.queue: deque[tuple[bytes, ActorCall]] = deque()
        self.last_seq: dict[bytes, int] = {}
        self.subscribers: dict[bytes, None] = {}
        self.released = False
        self.death_message = ""
        self.death_error = b""

    def enter(self, status: int) -> None:
        """Changes the state; raises IllegalTransition if it is none that may follow."""
        self.state = ACTOR.after[self.state][status]

    @property
    def detached(self) -> bool:
        """Whether it outlives its creator."""
        return self.spec.detached

    @property
    def label(self) -> str:
        """How messages call it."""
        spec = self.spec
        return f"{spec.class_name} '{spec.name}'" if spec.name else spec.class_name
