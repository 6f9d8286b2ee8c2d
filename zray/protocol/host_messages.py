"""What hosts and the broker say to each other."""

from __future__ import annotations

from zray.ids import ProcessId
from zray.named_tuples import NamedTuple
from zray.protocol.records import EnvironmentSpec, HostInfo, ProcessMemory, StoreUse, WorkerLines

# ------------------------------------------------------------------------------------------ host to broker


class HostReady(NamedTuple):
    """A host has joined and can start workers. ``resources``: amounts in ten-thousandths."""

    resources: dict[str, int]
    info: HostInfo


class WorkerStarted(NamedTuple):
    worker_id: ProcessId
    pid: int


class WorkerDied(NamedTuple):
    """A worker has died.

    ``running``: the task that it had started last, or empty; ``kind``, ``message``: the error that users get.
    """

    worker_id: ProcessId
    running: bytes
    kind: str
    message: str


class WorkerLogs(NamedTuple):
    """Lines that workers have printed. ``left_out``: how many lines did not fit into the window, by worker."""

    entries: list[WorkerLines]
    left_out: dict[bytes, int]


class ChannelRefusals(NamedTuple):
    """How many connections to its channels a host has refused so far, by reason."""

    counts: dict[str, int]


class LogsTaken(NamedTuple):
    """From a driver or the broker to the sender of its lines: it has taken this much, so there is room again."""

    size_bytes: int


class HostInspected(NamedTuple):
    """The answer of a host to ``Inspect``: what is in use, in bytes. ``memory``: the memory of its workers, by PID."""

    request: int
    store: StoreUse
    memory: dict[int, int]


class MemoryShort(NamedTuple):
    """The memory of a host's machine is nearly used up: the broker chooses what is stopped. In bytes.

    ``whose``: the machine, or a control group; ``threshold``: the part of ``limit`` that ``used`` exceeds;
    ``workers``: what would be free without each worker; ``largest``: the largest processes of the machine.
    """

    used: int
    limit: int
    whose: str
    threshold: float
    workers: dict[bytes, int]
    largest: list[ProcessMemory]


class LogsFlushed(NamedTuple):
    """The answer to ``FlushLogs``: all that workers had printed when the request came has been sent."""

    request: int


# ------------------------------------------------------------------------------------------ broker to host


class StartWorker(NamedTuple):
    """Tells a host to fork a worker. When the worker has joined, the broker tells it what to run."""

    worker_id: ProcessId
    environment: EnvironmentSpec = EnvironmentSpec()


class KillWorker(NamedTuple):
    """Tells a host to kill a worker. ``kind``: the error that ``WorkerDied`` then names."""

    worker_id: ProcessId
    reason: str
    kind: str = "WorkerCrashedError"


class FlushLogs(NamedTuple):
    """Tells a host to send what workers have printed up to now."""

    request: int
