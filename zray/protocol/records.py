"""The records that messages carry, and that processes keep: what an actor, a host, a job is said to be.

A record is a ``NamedTuple``, on the wire the array of its fields. It is checked field by field where the message that
carries it is read (``zray.protocol.rows``), and nothing past that point checks again. Questions to the broker and its
answers are in ``zray.protocol.questions``.
"""

from __future__ import annotations

from typing import NamedTuple

# -------------------------------------------------------------------------------------------------- joining


class JobSettings(NamedTuple):
    """What a driver asks of the workers of its job."""

    namespace: str = ""
    """Where the names of the job's actors live."""
    sys_path: list[str] = []
    """The driver's search path, without relative entries."""
    cwd: str = ""
    """The directory that workers change to; empty: none."""
    ignore_unhandled_errors: bool = False
    """Workers print nothing of errors that nobody has fetched."""


class JoinInfo(NamedTuple):
    """What a process tells of itself in its ``Hello``. What is said of a job counts from drivers only."""

    pid: int = 0
    max_message_bytes: int = (1 << 63) - 1
    """The largest message that it accepts."""
    job: JobSettings = JobSettings()
    shows_logs: bool = True
    """The driver is sent what its workers print."""


class VersionPair(NamedTuple):
    """A version that a joiner and its cluster have to share: why it is ``Refused``."""

    name: str
    joiner: str
    cluster: str


class HostInfo(NamedTuple):
    """What a host tells of itself; the broker passes it on to whoever asks for hosts."""

    hostname: str = "?"
    ip: str = ""
    pid: int = 0
    machine_id: str = ""
    """Hosts with the same one may share files; see ``zray.store.location``."""
    store: str = ""
    """The directory of its object store."""
    fetch: str = ""
    """The Unix socket at which it takes requests for objects of other machines."""
    session: str = ""
    labels: dict[str, str] = {}
    idle_timeout_s: float = 5.0
    """A worker that has been idle for so long is asked to go."""


class HostState(NamedTuple):
    """A live host, as the broker knows it. ``total``, ``free``: amounts by resource; ``workers``: how many it has."""

    host_id: bytes
    info: HostInfo
    total: dict[str, float]
    free: dict[str, float]
    workers: int


class ClusterInfo(NamedTuple):
    """What a joiner is told in its ``Welcome``. ``job_id``: a driver's; empty for others. ``hosts``: all of them; a
    worker is told of its own only."""

    job_id: bytes = b""
    hosts: list[HostState] = []


# --------------------------------------------------------------------------------------------------- actors


class ActorSpec(NamedTuple):
    """What an actor is, as its creator has said. The broker keeps it; its worker gets it, and who finds it by name."""

    class_name: str
    name: str
    """Empty if it has none."""
    namespace: str
    detached: bool
    """It outlives its creator."""
    max_restarts: int
    """-1: as often as it takes."""
    max_concurrency: int
    """So many calls run at once."""
    ordered: bool
    """It runs one call at a time, in each caller's order."""
    has_coroutines: bool
    """Its calls run in an event loop."""
    placement: bytes
    """The shape of resources that its host must have free when it is placed."""
    running: bytes
    """The shape that it holds for its life."""
    handle: bytes
    """Its handle object; empty if handles are not counted."""
    meta: bytes
    """What handles need to know of its class: ``zray.api.actor_meta.ActorMeta``, packed."""


# ----------------------------------------------------------------------------------------------- inspection


class RunningCall(NamedTuple):
    """A task, constructor or call that runs."""

    name: str
    seconds: float
    task_id: bytes


class AwaitedObject(NamedTuple):
    """An object that a process waits for. ``maker``: the name of the call that makes it, empty if it is not known;
    ``actor_id``: the actor of that call, if it is an actor's and known."""

    object_id: bytes
    maker: str
    actor_id: bytes | None


class Activity(NamedTuple):
    """What a driver or worker does. ``arguments``: how many calls of each name wait for their arguments."""

    running: list[RunningCall]
    awaited: list[AwaitedObject]
    arguments: dict[str, int]


class StoreUse(NamedTuple):
    """How the bytes of an object store are used. ``idle``: of those used, what can be filled anew."""

    capacity: int
    used: int
    idle: int
    spilled: int


# --------------------------------------------------------------------------------------------------- output


class WorkerLines(NamedTuple):
    """Lines that a worker printed, on their way to the broker. ``name``: whose output it is, as users see it;
    ``stream``: "stdout" or "stderr"."""

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
