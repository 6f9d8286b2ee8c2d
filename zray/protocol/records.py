"""The records that messages carry and processes keep, such as the descriptions of actors, hosts and jobs.

A record is a ``NamedTuple``; on the wire it is the array of its fields. It is checked field by field when its message
is read (``zray.protocol.rows``), and nothing past that point checks it again. Questions to the broker and its answers
are in ``zray.protocol.questions``.
"""

from __future__ import annotations

from zray.named_tuples import NamedTuple
from zray.scheduling.constraint import Term

# -------------------------------------------------------------------------------------------------- joining


class JobSettings(NamedTuple):
    """What a driver asks of the workers of its job."""

    namespace: str = ""
    """The namespace of the job's actors."""
    sys_path: list[str] = []
    """The driver's search path, without relative entries."""
    cwd: str = ""
    """The directory that workers change to; empty: they stay where they are."""
    ignore_unhandled_errors: bool = False
    """Workers do not print errors that no process has fetched."""
    actors_are_detached: bool = False
    """Actors are detached unless their options say otherwise."""
    logging: str = ""
    """How the root logger of workers is set up: JSON, see ``zray.logs.job_logging``; empty: as Python does it."""
    ray_name: bool = False
    """Workers know zray's modules under the name ``ray``, too; see ``zray.ray_name``."""


class JoinInfo(NamedTuple):
    """What a process says about itself in its ``Hello``. ``job`` and ``shows_logs`` are used for drivers only."""

    pid: int = 0
    max_message_bytes: int = (1 << 63) - 1
    """The largest message that it accepts."""
    job: JobSettings = JobSettings()
    shows_logs: bool = True
    """The driver gets the lines that its workers print."""


class VersionPair(NamedTuple):
    """A version that a process and its cluster must share. If it differs, the process is ``Refused``."""

    name: str
    joiner: str
    cluster: str


class HostInfo(NamedTuple):
    """What a host says about itself. The broker passes it on to processes that ask for hosts."""

    hostname: str = "?"
    ip: str = ""
    pid: int = 0
    machine_id: str = ""
    """Hosts with the same identifier may share files; see ``zray.store.location``."""
    store: str = ""
    """The directory of its object store."""
    fetch: str = ""
    """The Unix socket at which it takes requests for objects of other machines."""
    session: str = ""
    labels: dict[str, str] = {}
    idle_timeout_s: float = 5.0
    """After how many idle seconds a worker is asked to exit."""
    pins_cpus: bool = False
    """Its workers are pinned to CPUs, which the broker chooses: one for each CPU among its resources."""


class HostState(NamedTuple):
    """A live host, as the broker knows it. ``total``, ``free``: amounts by resource; ``workers``: how many it has."""

    host_id: bytes
    info: HostInfo
    total: dict[str, float]
    free: dict[str, float]
    workers: int


class ClusterInfo(NamedTuple):
    """What a process learns in its ``Welcome``.

    ``job_id``: a driver's job; empty for other processes. ``hosts``: all hosts; a worker gets only its own.
    """

    job_id: bytes = b""
    hosts: list[HostState] = []


# ------------------------------------------------------------------------------------- runtime environments


class EnvironmentPart(NamedTuple):
    """A part of a runtime environment that each host has to install once, such as a package of files."""

    uri: str
    """Names its content. Environments with the same part share what is installed."""
    kind: str
    """How it is installed: see ``zray.worker.installing``."""
    details: str
    """What is installed, for kinds whose ``uri`` does not say it."""
    content: bytes
    """The package itself, if it is small."""
    stored: bytes
    """The object with the package, if it is large; else empty."""
    kept_by: bytes
    """The host or driver that has the object; else empty."""
    size: int
    """The size of the object, in bytes."""


class EnvironmentSpec(NamedTuple):
    """A runtime environment, as the host and the process of its workers need it. The default is none at all."""

    text: str = ""
    """The environment as JSON: what ``RuntimeContext.get_runtime_env_string`` returns."""
    hook: bytes = b""
    """The pickled function that each worker calls first; empty if there is none, or ``text`` names it."""
    parts: list[EnvironmentPart] = []
    timeout_s: float = 0.0
    """How long the installation of a part may take; 0: without limit."""


# -------------------------------------------------------------------------------------------------- objects


class ObjectLocation(NamedTuple):
    """Where an object is. ``hosts``: those that have the value; ``size``: in bytes; None if there is no value yet."""

    object_id: bytes
    hosts: list[bytes]
    size: int | None


# --------------------------------------------------------------------------------------------------- actors


class ActorSpec(NamedTuple):
    """The creator's description of an actor.

    The broker keeps it, and sends it to the actor's worker and to processes that look the actor up by name.
    """

    class_name: str
    """The qualified name, such as ``make.<locals>.Counter``."""
    name: str
    """Empty if it has no name."""
    namespace: str
    detached: bool
    """It outlives its creator."""
    max_restarts: int
    """-1: without limit."""
    max_concurrency: int
    """How many calls run at the same time."""
    ordered: bool
    """It runs one call at a time, in the order of each caller."""
    has_coroutines: bool
    """Its calls run in an event loop."""
    placement: bytes
    """The shape that its host must have free when it is placed."""
    running: bytes
    """The shape that it holds as long as it lives."""
    handle: bytes
    """Its handle object; empty if handles are not counted."""
    meta: bytes
    """What handles need to know of its class: ``zray.api.actor_meta.ActorMeta``, packed."""
    groups: dict[str, int] = {}
    """Its concurrency groups: how many calls of each run at the same time, besides ``max_concurrency`` others."""

    @property
    def short_name(self) -> str:
        """The name of the class, without what it is defined in."""
        return self.class_name.rpartition(".")[2]


class Selector(NamedTuple):
    """The conditions that the host of a bundle must fulfil, all of them."""

    terms: list[Term]


class GroupSpec(NamedTuple):
    """The creator's description of a placement group."""

    name: str
    """Empty if it has no name."""
    namespace: str
    strategy: str
    """PACK, SPREAD, STRICT_PACK or STRICT_SPREAD."""
    bundles: list[dict[str, int]]
    """The amounts of each bundle, in ten-thousandths. None is empty, and no amount is zero."""
    detached: bool
    """It outlives its creator."""
    soft_target: bytes
    """The host on which it should be if there is room; empty: any."""
    selectors: list[Selector] = []
    """One for each bundle; empty: no bundle has conditions."""
    topology: str = ""
    """A label: all hosts of the group must have it, with the same value. Empty: none."""


# ----------------------------------------------------------------------------------------------- inspection


class RunningCall(NamedTuple):
    """A task, constructor or call that runs."""

    name: str
    seconds: float
    task_id: bytes


class AwaitedObject(NamedTuple):
    """An object that a process waits for.

    ``maker``: the name of the task or call that makes it; empty if it is not known. ``actor_id``: the actor of that
    call; None if it is a task, or is not known.
    """

    object_id: bytes
    maker: str
    actor_id: bytes | None


class Activity(NamedTuple):
    """What a driver or worker does. ``arguments``: how many calls wait for their arguments, by name."""

    running: list[RunningCall]
    awaited: list[AwaitedObject]
    arguments: dict[str, int]


class ProcessMemory(NamedTuple):
    """The memory of a process in bytes. ``own``: what would be free without it; ``resident``: with what it shares."""

    pid: int
    own: int
    resident: int
    name: str


class StoreUse(NamedTuple):
    """How the bytes of an object store are used. ``idle``: the part of ``used`` that new objects can fill."""

    capacity: int
    used: int
    idle: int
    spilled: int


# --------------------------------------------------------------------------------------------------- output


class WorkerLines(NamedTuple):
    """Lines that a worker printed, on their way to the broker.

    ``name``: the task or actor that printed them, as users see it; ``stream``: "stdout" or "stderr".
    """

    worker_id: bytes
    name: str
    pid: int
    stream: str
    lines: list[str]


class PrintedLines(NamedTuple):
    """The same lines on their way to the driver."""

    name: str
    pid: int
    stream: str
    lines: list[str]
