"""What the broker says to drivers and workers."""

from __future__ import annotations

from zray.ids import ActorId, FunctionId, JobId, ProcessId, TaskId
from zray.named_tuples import NamedTuple
from zray.protocol.records import ActorSpec, JobSettings, PrintedLines


class Run(NamedTuple):
    """A task for a worker. ``lease``: the number of a lease to the task's owner that follows it; 0: none does."""

    task_id: TaskId
    attempt: int
    function_id: FunctionId
    shape: bytes
    gpus: list[int]
    payload: bytes
    lease: int = 0


class Result(NamedTuple):
    """The outcome of a task or call.

    ``source``: the process that answers; ``actor``: the actor that it serves, as the broker knows it; empty for a task.
    """

    task_id: TaskId
    attempt: int
    source: ProcessId
    actor: bytes
    payload: bytes


class Item(NamedTuple):
    """The next items of a stream: a ``Yield``, with the fields ``source`` and ``actor`` of a ``Result``."""

    task_id: TaskId
    attempt: int
    source: ProcessId
    actor: bytes
    position: int
    payload: bytes


class Failed(NamedTuple):
    task_id: TaskId
    attempt: int
    kind: str
    message: str
    culprit: bool


class CancelTask(NamedTuple):
    task_id: TaskId
    mode: int


class TimeIsUp(NamedTuple):
    """Tells a worker that a task or call has run as long as it may: interrupts it."""

    task_id: TaskId


class TimedOut(NamedTuple):
    """An attempt ran longer than it may, and did not end when it was interrupted: its worker was killed.

    ``actor``: the actor that the worker served, as the broker knows it; empty for a task.
    """

    task_id: TaskId
    attempt: int
    actor: bytes
    message: str


class JobConfig(NamedTuple):
    """Tells a worker the job that it works for from now on."""

    job_id: JobId
    settings: JobSettings


class FunctionBlob(NamedTuple):
    function_id: FunctionId
    found: bool
    name: str
    blob: bytes


class ActorStart(NamedTuple):
    actor_id: ActorId
    incarnation: int
    function_id: FunctionId
    spec: ActorSpec
    creator: ProcessId
    gpus: list[int]
    payload: bytes


class ActorRun(NamedTuple):
    caller: ProcessId
    seq: int
    task_id: TaskId
    attempt: int
    payload: bytes


class ActorStop(NamedTuple):
    """Tells a worker to end its actor after the outstanding calls: the last handle is gone."""

    actor_id: ActorId


class ActorState(NamedTuple):
    actor_id: ActorId
    incarnation: int
    state: int
    last_seq: int
    message: str
    error: bytes


class ActorFound(NamedTuple):
    """The actor that has a name: the answer to an ``ActorLookup``, or to an ``ActorCreate`` with a name.

    In answer to an ``ActorCreate`` it is the created actor or, with ``get_if_exists``, maybe another.
    """

    request: int
    actor_id: ActorId
    spec: ActorSpec


class NoSuchActor(NamedTuple):
    """The answer to an ``ActorLookup``: no actor has that name."""

    request: int


class NameTaken(NamedTuple):
    """The actor was not created: another actor has its name.

    ``is_dead``: that actor is dead, and keeps the name until its last handle is gone.
    """

    request: int
    is_dead: bool


class GroupNamed(NamedTuple):
    """The answer to a ``GroupCreate`` with a name. ``is_taken``: another group has the name; the group is not made."""

    request: int
    is_taken: bool


class GroupSettled(NamedTuple):
    """The answer to a ``GroupWatch``. ``is_created``: all bundles are reserved; else it is removed or unknown."""

    request: int
    is_created: bool


class ProcessDied(NamedTuple):
    process_id: ProcessId
    message: str


class Delivered(NamedTuple):
    source: ProcessId
    rows: bytes


class PinCpus(NamedTuple):
    """Tells a worker which CPUs its next work may use, by their positions in its host's CPUs; empty: all of these."""

    cpus: list[int]


class ExitIfIdle(NamedTuple):
    """Asks a worker to exit if it is idle.

    ``surplus``: its host has more idle workers than CPUs, so the worker exits even if it is worth keeping.
    """

    reason: str
    surplus: bool


class Notice(NamedTuple):
    """A warning for the user of the driver."""

    text: str


class Logs(NamedTuple):
    """Lines of a driver's workers. ``left_out``: how many lines were left out since the last such message."""

    entries: list[PrintedLines]
    left_out: int


class Inspect(NamedTuple):
    """Asks any process what it does: for ``zray status``, and for errors that say why something takes long."""

    request: int
