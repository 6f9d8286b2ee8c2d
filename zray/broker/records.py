"""The broker's records of jobs, processes, hosts, workers, tasks and actors, with no logic but tables of states."""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

from zray.broker.accounts import Parts, Share
from zray.broker.resources import CPU, NOTHING, UNIT, Pool, Shape
from zray.broker.states import ACTOR, PENDING_CREATION, STARTING, WORKER
from zray.named_tuples import NamedTuple
from zray.protocol.messages import ActorCall
from zray.protocol.records import ActorSpec, HostInfo, JobSettings, JoinInfo
from zray.repeated_deaths import RepeatedDeaths

LENT_FOR_S = 0.1
"""How long lent CPUs are kept for deeper tasks, see ``zray.broker.lent``. (Ray's worker cap waits 1, 2, 4, ... s.)"""
MAX_DEPTH = 32
"""The largest depth that is counted. Deeper tasks count as tasks of this depth."""


class Job:
    """All that one driver submits. ``settings``: what its workers need."""

    __slots__ = ("driver", "job_id", "settings", "workers")

    def __init__(self, job_id: bytes, driver: bytes, settings: JobSettings) -> None:
        self.job_id = job_id
        self.driver = driver
        self.settings = settings
        self.workers: dict[bytes, None] = {}  # an ordered set, so that simulated runs are reproducible


class Process:
    """A process that has joined and is alive.

    ``joined_at``: when, in seconds; ``watchers``: the processes to tell of its death; ``tasks``: the tasks that it
    has submitted and whose outcome it waits for; ``last_actor``: the highest number of the actors that it has
    announced; ``worker``: its record, if it is a worker.
    """

    __slots__ = ("info", "job_id", "joined_at", "kind", "last_actor", "process_id", "tasks", "watchers", "worker")

    def __init__(self, process_id: bytes, kind: str, job_id: bytes, info: JoinInfo) -> None:
        self.process_id = process_id
        self.kind = kind
        self.job_id = job_id
        self.info = info
        self.joined_at = 0.0
        self.watchers: dict[bytes, None] = {}
        self.tasks: dict[bytes, Envelope] = {}
        self.last_actor = 0
        self.worker: Worker | None = None

    @property
    def depth(self) -> int:
        """The depth of what it submits: 0 for a driver, one more than that of its own work for a worker."""
        return 0 if self.worker is None else min(self.worker.depth + 1, MAX_DEPTH)


class Loan:
    """CPUs that tasks of one job and depth have lent on a host.

    ``is_open``: all tasks may use them; ``kept_for_s``: how long CPUs must be free before the loan is opened;
    ``idle_since``: since when they are free.
    """

    __slots__ = ("cpus", "idle_since", "is_open", "kept_for_s")

    def __init__(self) -> None:
        self.cpus = 0
        self.is_open = False
        self.kept_for_s = LENT_FOR_S
        self.idle_since = 0.0


class Reservation(NamedTuple):
    """A bundle of a placement group that is reserved on a host.

    It holds ``shape`` and the GPUs ``gpus`` of the host's pool, and has added ``names`` to it.
    """

    group_id: bytes
    index: int  # type: ignore[assignment]  # hides tuple.index, which is not used
    shape: Shape
    names: dict[str, int]
    gpus: list[int]


class Host:
    """A host of the cluster.

    ``idle``: its idle workers by ``Worker.pool``, the last used one last; ``actors``: how many actors it has;
    ``lent``: the CPUs that waiting tasks have lent, by job and depth (see ``zray.broker.lent``); ``bundles``: the
    bundles that are reserved on it, by group (in hexadecimal).
    """

    __slots__ = (
        "actors",
        "bundles",
        "channel_refusals",
        "cpu_loads",
        "host_id",
        "idle",
        "info",
        "is_roomy",
        "lent",
        "load",
        "number",
        "pool",
        "shares_cpus",
        "spread_at",
        "starting",
        "workers",
    )  # fmt: skip

    def __init__(self, host_id: bytes, pool: Pool, info: HostInfo) -> None:
        self.host_id = host_id
        self.pool = pool
        self.info = info
        self.cpu_loads = [0] * (pool.total.get(CPU, 0) // UNIT) if info.pins_cpus else []
        """How much of each CPU is claimed by workers; see ``zray.broker.cpus``."""
        self.shares_cpus = False  # whether more of a CPU is claimed than there is
        self.number = 0  # hosts are numbered in the order in which they join
        self.workers: dict[bytes, Worker] = {}
        self.idle: dict[bytes, list[Worker]] = {}
        self.starting: dict[bytes, Worker] = {}  # workers in state STARTING for tasks; some are reserved, see Worker
        self.spread_at = 0  # the number of the last task of a line that spreads which it has got
        self.actors = 0
        self.load = 0.0  # actors per unit of CPU
        self.is_roomy = False  # it has a free CPU and is less than half used; not kept for the only host, see places
        self.lent: dict[tuple[bytes, int], Loan] = {}
        self.bundles: dict[str, list[Reservation]] = {}
        self.channel_refusals: dict[str, int] = {}  # processes that its channels have refused, by reason

    @property
    def label(self) -> str:
        """The host's name in messages, made unique: several hosts may have the same hostname."""
        return f"{self.info.hostname} ({self.host_id.hex()[:8]})"

    def count_starting(self, environment_id: bytes) -> int:
        """How many workers are being started for tasks in an environment. Others may take minutes, or never join."""
        return sum(worker.environment_id == environment_id for worker in self.starting.values())

    def count_workers_for(self, environment_id: bytes, job_id: bytes) -> int:
        """How many workers are idle, or are being started, for tasks of a job in an environment, and not reserved."""
        starting = [worker for worker in self.starting.values() if worker.reserved is None]
        idle = [*self.idle.get(job_id + environment_id, ()), *self.idle.get(environment_id, ())]
        return len(idle) + sum(worker.environment_id == environment_id for worker in starting)

    def count_actor(self, more: int) -> None:
        """Counts an actor that is placed here (1) or leaves (-1)."""
        self.actors += more
        self.load = self.actors / max(1, self.pool.total.get(CPU, 0))


class Line(Protocol):
    """A line of tasks or actors that wait for workers; see ``zray.broker.queues``."""

    share: Share


class Lease:
    """What is known of the work of a leased worker: see ``zray.broker.leases``.

    ``number``: see ``zray.protocol.lease_messages``; ``envelope``: the task that it has run before; ``is_over``: the
    worker was told to take no more tasks; ``forced``: the task that the owner cancels by force, or empty; ``kill_at``:
    when the worker is killed if it has not answered.
    """

    __slots__ = ("envelope", "forced", "is_over", "kill_at", "number", "owner")

    def __init__(self, envelope: Envelope) -> None:
        self.number = envelope.lease
        self.envelope = envelope
        self.owner = envelope.owner
        self.is_over = False
        self.forced = b""
        self.kill_at = math.inf


class Worker:
    """A worker process. ``state``: see ``zray.broker.states``.

    Invariants: ``outstanding`` is non-empty exactly in state BUSY, and ``lease`` is set exactly in state LEASED. The
    worker holds ``grant``, less what is ``lent``, of its host's pool. ``load_us`` is the sum of the estimates of
    ``outstanding``. In state STARTING the worker has a grant only if it is for an actor, or is reserved for a line of
    tasks.
    """

    __slots__ = (
        "actor",
        "asked_at",
        "blocked",
        "busy_replies",
        "charge",
        "claim",
        "cpus",
        "depth",
        "environment_id",
        "gpus",
        "grant",
        "host",
        "idle_since",
        "job_id",
        "kept",
        "lease",
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

    def __init__(self, worker_id: bytes, host: Host, environment_id: bytes = b"") -> None:
        self.worker_id = worker_id
        self.host = host
        self.environment_id = environment_id  # the runtime environment that it was started in; empty for none
        self.asked_at = 0.0  # when its host was told to start it; set if it has an environment
        self.job_id = b""
        self.pid = 0
        self.state = STARTING
        self.outstanding: dict[bytes, Envelope] = {}
        self.lease: Lease | None = None
        self.grant: Shape = NOTHING
        self.gpus: list[int] = []
        self.used_gpus: list[int] = []  # the GPUs of its latest grant
        self.claim = ~0  # the amount of CPUs for which ``cpus`` were chosen, 0: for all; ~amount: it was dropped
        self.cpus: tuple[int, ...] = ()  # those that it was told to use, or will be when it joins; empty: all
        self.depth = 0  # of its present or latest task or actor
        self.share: Share | None = None  # the account of the line that its grant is charged to
        self.charge: Parts = {}  # what that account is charged for the grant
        self.reserved: Line | None = None  # the line for which it is being started
        self.yields_to: Share | None = None  # the line for which it makes room: it gets no more work
        self.promise: tuple[Parts, Parts] = ({}, {})  # what that line will be charged, and its own line credited
        self.blocked = False
        self.lent = 0  # CPUs of the grant that others may use while it blocks
        self.overdue = False  # it handed work back since its task is long: it gets no more until that task ends
        self.retiring = False  # it takes no more work
        self.load_us = 0
        self.idle_since = 0.0
        self.kept = False  # it asked to stay: asked again only if it is surplus, or after its next work
        self.busy_replies = 0  # how often it was busy when asked to exit: the more often, the later it is asked again
        self.actor: Actor | None = None
        self.served = b""  # the actor that it was given; kept when the actor has ended: replies may still come

    @property
    def pool(self) -> bytes:
        """Its job (empty: none yet) and its environment: it takes only work of the same pool."""
        return self.job_id + self.environment_id

    @property
    def never_joined(self) -> bool:
        """Whether it has not joined yet, and was not told to end: if it is dead now, it could not start."""
        return self.state is STARTING and not self.retiring

    def enter(self, state: int) -> None:
        """Changes the state. Raises IllegalTransition if it cannot follow the present one."""
        self.state = WORKER.after[self.state][state]


def place_of(worker: Worker) -> tuple[bytes, bytes, int]:
    """The host of a worker, its identifier and its PID: where a user would look for it."""
    return worker.host.host_id, worker.worker_id, worker.pid


class Envelope:
    """A submitted task. ``worker``: None while it is queued; ``near``: the host that it should run on, or empty."""

    __slots__ = ("attempt", "cancelled", "depth", "estimate_us", "flags", "function_id", "job_id", "lease", "near",
                 "order", "owner", "payload", "shape", "stopped", "task_id", "worker")  # fmt: skip

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
        self.cancelled = False  # its result is not wanted: dropped when it reaches the head of its queue
        self.stopped = False  # its worker has been told to cancel it
        self.estimate_us = 0
        self.lease = 0  # the number of the lease that its worker was told of


UNANNOUNCED = ActorSpec("actor", "", "", False, 0, 1, True, False, b"", b"", b"", b"")
"""The specification of an actor whose first call came before its announcement."""


class Actor:
    """An actor. Calls wait in ``queue`` until it is ALIVE.

    ``last_seq``: for each caller, the number of its last call that was sent to the actor's worker. ``creator`` is empty
    until the actor has been announced: calls may come before that.
    """

    __slots__ = ("actor_id", "constructed", "creator", "death_message", "deaths", "depth", "failed_starts",
                 "function_id", "incarnation", "ip", "job_id", "last_seq", "near", "paused_until", "payload", "place",
                 "placement", "queue", "released", "restarts_left", "running", "spec", "state", "subscribers",
                 "worker")  # fmt: skip

    def __init__(self, actor_id: bytes) -> None:
        self.actor_id = actor_id
        self.state = PENDING_CREATION
        self.incarnation = 0
        self.spec = UNANNOUNCED
        self.function_id = b""
        self.payload = b""
        self.creator = b""
        self.job_id = b""
        self.near = b""  # the host that has most bytes of its constructor's arguments
        self.depth = 0  # the depth of what its creator submits
        self.placement: Shape = NOTHING
        self.running: Shape = NOTHING
        self.restarts_left = 0
        self.failed_starts = 0  # the number of workers in a row that died before they could take it
        self.worker: Worker | None = None
        self.place = (b"", b"", 0)  # of its latest worker, once it has left that; see ``place_of``
        self.ip = ""  # the address of that worker's host
        self.constructed = False  # its constructor has returned, at least once
        self.queue: deque[tuple[bytes, ActorCall]] = deque()
        self.last_seq: dict[bytes, int] = {}
        self.subscribers: dict[bytes, None] = {}
        self.released = False
        self.death_message = ""
        self.deaths: RepeatedDeaths | None = None  # of incarnations that have died by themselves
        self.paused_until = 0.0  # when it was or will be started again after its latest death

    def enter(self, status: int) -> None:
        """Changes the state. Raises IllegalTransition if it cannot follow the present one."""
        self.state = ACTOR.after[self.state][status]

    def leave_worker(self) -> None:
        """Its worker is dead, or has ended it."""
        if self.worker is not None:
            self.place = place_of(self.worker)
            self.ip = self.worker.host.info.ip
            self.worker = None

    @property
    def detached(self) -> bool:
        """Whether it outlives its creator."""
        return self.spec.detached

    @property
    def label(self) -> str:
        """The actor's name in messages: its class and, if it has one, its name."""
        spec = self.spec
        return f"{spec.short_name} '{spec.name}'" if spec.name else spec.short_name

    @property
    def facts(self) -> str:
        """Which actor it is, or was: a line for each fact that is known, in Ray's words, for the text of its death."""
        spec, worker = self.spec, self.worker
        facts = {
            "class_name": spec.short_name,
            "actor_id": self.actor_id.hex(),
            "pid": str((place_of(worker) if worker is not None else self.place)[2] or ""),
            "name": spec.name,
            "namespace": spec.namespace,
            "ip": worker.host.info.ip if worker is not None else self.ip,
        }
        return "".join(f"\n\t{name}: {fact}" for name, fact in facts.items() if fact)
