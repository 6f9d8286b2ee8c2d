"""The messages: one ``NamedTuple`` each, and one union per direction. ``zray.protocol.rows`` has their form on the
wire; ``zray.protocol.peer_messages`` has those between processes that are not the broker.

The records that they carry are in ``zray.protocol.records``; the questions to the broker and its answers are in
``zray.protocol.questions``.
"""

from __future__ import annotations

from typing import get_args

from zray.exceptions import ZrayError
from zray.ids import ActorId, FunctionId, JobId, ProcessId, TaskId
from zray.named_tuples import NamedTuple
from zray.protocol.key_values import KvAnswer, KvRequest
from zray.protocol.lease_messages import (
    LeaseCancel as LeaseCancel,
)
from zray.protocol.lease_messages import (
    Leased as Leased,
)
from zray.protocol.lease_messages import (
    LeaseEnd as LeaseEnd,
)
from zray.protocol.lease_messages import (
    LeaseEnded as LeaseEnded,
)
from zray.protocol.lease_messages import (
    LeaseLeft as LeaseLeft,
)
from zray.protocol.lease_messages import (
    LeaseLost as LeaseLost,
)
from zray.protocol.lease_messages import (
    LeaseOver as LeaseOver,
)
from zray.protocol.lease_messages import (
    LeaseReturned as LeaseReturned,
)
from zray.protocol.lease_messages import (
    LeaseRun as LeaseRun,
)
from zray.protocol.peer_messages import (
    BorrowAck as BorrowAck,
)
from zray.protocol.peer_messages import (
    BorrowAdd as BorrowAdd,
)
from zray.protocol.peer_messages import (
    BorrowCheck as BorrowCheck,
)
from zray.protocol.peer_messages import (
    BorrowChecked as BorrowChecked,
)
from zray.protocol.peer_messages import (
    BorrowConfirm as BorrowConfirm,
)
from zray.protocol.peer_messages import (
    BorrowEnd as BorrowEnd,
)
from zray.protocol.peer_messages import (
    CancelObject as CancelObject,
)
from zray.protocol.peer_messages import (
    ChannelHello as ChannelHello,
)
from zray.protocol.peer_messages import (
    ChannelOffer as ChannelOffer,
)
from zray.protocol.peer_messages import (
    ChannelWanted as ChannelWanted,
)
from zray.protocol.peer_messages import (
    ChannelWelcome as ChannelWelcome,
)
from zray.protocol.peer_messages import (
    Chunk as Chunk,
)
from zray.protocol.peer_messages import (
    CopyGone as CopyGone,
)
from zray.protocol.peer_messages import (
    CopyMade as CopyMade,
)
from zray.protocol.peer_messages import (
    FreeObjects as FreeObjects,
)
from zray.protocol.peer_messages import (
    KeepCopies as KeepCopies,
)
from zray.protocol.peer_messages import (
    LaneFrame as LaneFrame,
)
from zray.protocol.peer_messages import (
    LaneOffer as LaneOffer,
)
from zray.protocol.peer_messages import (
    LaneSwitched as LaneSwitched,
)
from zray.protocol.peer_messages import (
    LaneWanted as LaneWanted,
)
from zray.protocol.peer_messages import (
    LeftBehind as LeftBehind,
)
from zray.protocol.peer_messages import (
    Locate as Locate,
)
from zray.protocol.peer_messages import (
    Located as Located,
)
from zray.protocol.peer_messages import (
    LocationsAsked as LocationsAsked,
)
from zray.protocol.peer_messages import (
    LocationsTold as LocationsTold,
)
from zray.protocol.peer_messages import (
    ObjectRequest as ObjectRequest,
)
from zray.protocol.peer_messages import (
    ObjectState as ObjectState,
)
from zray.protocol.peer_messages import (
    Pull as Pull,
)
from zray.protocol.peer_messages import (
    PullFailed as PullFailed,
)
from zray.protocol.peer_messages import (
    StreamCredit as StreamCredit,
)
from zray.protocol.questions import Answer, Question
from zray.protocol.records import (
    Activity,
    ActorSpec,
    ClusterInfo,
    EnvironmentSpec,
    GroupSpec,
    HostInfo,
    JobSettings,
    JoinInfo,
    PrintedLines,
    ProcessMemory,
    StoreUse,
    VersionPair,
    WorkerLines,
)
from zray.protocol.state_questions import (
    InspectObjects,
    InspectTasks,
    RecordsInspected,
    RowsOfOwner,
    StateAnswer,
    StateQuestion,
)
from zray.states import State

PROTOCOL_VERSION = 18

FLAG_RETRYABLE = 1
"""The task may be run again if its worker dies, so a worker may prefetch it behind other tasks."""

FLAG_SPREAD = 2
"""The task goes to the least loaded host, and not to the first that has room."""

FLAG_LEASE = 4
"""The owner would like to lease the worker that runs this task, if it is on the host ``near``."""

CANCEL_FORCE = 1
CANCEL_RECURSIVE = 2


class ActorStatus(State):
    """The state of an actor, as the broker sees it. The transitions are in ``zray.broker.states``."""

    PENDING_CREATION = (
        0,
        "Its constructor has not returned yet: it is announced, waits for a worker, or runs the constructor.",
    )
    ALIVE = 1, "It runs calls."
    RESTARTING = 2, "Its worker has died. It waits for another one, or runs the constructor there."
    DEAD = 3, "It has ended for good. The broker keeps only the reason, for processes that still call it."


PENDING_CREATION, ALIVE, RESTARTING, DEAD = ActorStatus

DRIVER, WORKER, HOST, OBSERVER = "driver", "worker", "host", "observer"
"""The kinds of process. An observer only asks questions: it has no job, and changes nothing in the cluster."""


class ProtocolError(ZrayError):
    """The peer sent a frame or message that is malformed or not allowed: a fault of the peer."""


# ---------------------------------------------------------------------------------------------- handshake


class Hello(NamedTuple):
    """Asks to join.

    The fields before ``info`` are the same in every version: see ``zray.protocol.rows.decode_handshake``.
    """

    protocol: int
    python: str
    zray: str
    kind: str
    process_id: ProcessId
    info: JoinInfo


class Welcome(NamedTuple):
    """The answer to a ``Hello``: the process has joined. ``max_message_bytes``: the largest that the broker accepts."""

    incarnation: bytes
    max_message_bytes: int
    cluster: ClusterInfo


class Refused(NamedTuple):
    """The answer to a ``Hello``: the process must not join. The same in every version of the protocol.

    ``versions``: all versions, if some of them differ; empty if the reason is another one.
    """

    reason: str
    versions: list[VersionPair]


# ---------------------------------------------------------------------------------------- client to broker


class Submit(NamedTuple):
    """Submits a task. ``near``: the host that has most bytes of the arguments; empty if that does not matter."""

    task_id: TaskId
    attempt: int
    function_id: FunctionId
    shape: bytes
    flags: int
    near: bytes
    payload: bytes


class Cancel(NamedTuple):
    task_id: TaskId
    mode: int


class Done(NamedTuple):
    """A task ended: its grant may be given back, and the outcome goes to the owner."""

    task_id: TaskId
    attempt: int
    run_us: int
    payload: bytes


class Reply(NamedTuple):
    """A call ended. The broker passes the outcome on to the owner."""

    owner: ProcessId
    task_id: TaskId
    attempt: int
    payload: bytes


class Yield(NamedTuple):
    """A generator has yielded values: items of a stream. The broker passes them on to the owner. There are none at the
    beginning of an attempt that leaves items out.

    ``position``: of the first of them; ``payload``: as the outcome of a call.
    """

    owner: ProcessId
    task_id: TaskId
    attempt: int
    position: int
    payload: bytes


class Started(NamedTuple):
    """The worker runs a task that takes long or waits.

    The broker drops the task's payload, and passes this on to the owner.
    """

    task_id: TaskId
    attempt: int


class TimeLimited(NamedTuple):
    """The worker begins a task or call that may run for ``limit_s`` seconds."""

    owner: ProcessId
    task_id: TaskId
    attempt: int
    limit_s: float


class TimeLimitOver(NamedTuple):
    """A task or call that the worker has announced with ``TimeLimited`` has ended."""

    task_id: TaskId


class Returned(NamedTuple):
    task_ids: list[bytes]


class Blocked(NamedTuple):
    blocked: bool


class FunctionPut(NamedTuple):
    function_id: FunctionId
    name: str
    blob: bytes


class FunctionGet(NamedTuple):
    function_id: FunctionId


class EnvironmentPut(NamedTuple):
    """Announces a runtime environment to the job, before the first task or actor that names it in its shape.

    ``eager``: each host starts a worker in it at once.
    """

    environment_id: bytes
    environment: EnvironmentSpec
    eager: bool


class ActorCreate(NamedTuple):
    """Announces an actor.

    ``ready``: the message has the arguments of the constructor; else they follow in another ``ActorCreate``.
    ``request``: the number for the answer, if the actor has a name: ``ActorFound`` or ``NameTaken``. ``get_if_exists``:
    if another actor has the name, the answer is that actor. ``near``: the host that has most bytes of the arguments;
    empty if that does not matter.
    """

    actor_id: ActorId
    function_id: FunctionId
    spec: ActorSpec
    request: int
    get_if_exists: bool
    ready: bool
    near: bytes
    payload: bytes


class ActorCall(NamedTuple):
    actor_id: ActorId
    incarnation: int
    seq: int
    task_id: TaskId
    attempt: int
    payload: bytes


class ActorCancel(NamedTuple):
    """Cancels a call. The broker drops the call if it is queued there; else it tells the actor's worker."""

    actor_id: ActorId
    task_id: TaskId
    mode: int


class ActorKill(NamedTuple):
    actor_id: ActorId
    no_restart: bool


class ActorRelease(NamedTuple):
    actor_id: ActorId


class ActorLookup(NamedTuple):
    """Looks up an actor by its name. Answer: ``ActorFound`` or ``NoSuchActor``."""

    request: int
    name: str
    namespace: str


class GroupCreate(NamedTuple):
    """Creates a placement group. ``request``: the number for the answer ``GroupNamed``, if the group has a name."""

    group_id: bytes
    request: int
    spec: GroupSpec


class GroupRemove(NamedTuple):
    """Removes a placement group, and ends what runs in it. Does nothing if it is removed already, or unknown."""

    group_id: bytes


class GroupWatch(NamedTuple):
    """Asks when a placement group is created. Answer, when it is created or removed: ``GroupSettled``."""

    request: int
    group_id: bytes


class ActorReady(NamedTuple):
    """The constructor returned (``error`` is empty) or raised. From the creator: it could not be called."""

    actor_id: ActorId
    error: bytes


class ActorExiting(NamedTuple):
    """The worker ends its actor intentionally: the broker must not restart it."""

    actor_id: ActorId
    reason: str


class Leaving(NamedTuple):
    """A worker exits: it has answered all tasks that it had started, and handed back the others (``Returned``)."""

    reason: str


class Staying(NamedTuple):
    """The answer to ``ExitIfIdle`` of a worker that stays.

    ``busy``: it is in use, or it owns objects that can be reached; else it is worth keeping.
    """

    busy: bool


class Killable(NamedTuple):
    """The answer to a ``CancelTask`` with force, for a task that runs.

    The worker has cancelled what the task has submitted, if asked to, and has handed back the tasks behind it.
    """

    task_id: TaskId


class Watch(NamedTuple):
    process_id: ProcessId


class Forward(NamedTuple):
    """Carries the rows of messages for another process."""

    dest: ProcessId
    rows: bytes


class Goodbye(NamedTuple):
    """A driver leaves and its job ends, or a host leaves with its workers."""

    reason: str


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


class Inspected(NamedTuple):
    """The answer of a driver or worker to ``Inspect``."""

    request: int
    activity: Activity


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


# ---------------------------------------------------------------------------------------- broker to client


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


class Inspect(NamedTuple):
    """Asks any process what it does: for ``zray status``, and for errors that say why something takes long."""

    request: int


class FlushLogs(NamedTuple):
    """Tells a host to send what workers have printed up to now."""

    request: int


ClientToBroker = (
    Submit | Cancel | Done | Reply | Yield | Started | TimeLimited | TimeLimitOver | Returned | Blocked | FunctionPut
    | FunctionGet | EnvironmentPut
    | ActorCreate | ActorCall | ActorCancel | ActorKill | ActorRelease | ActorLookup | ActorReady | ActorExiting
    | Leaving | Staying | Killable | LeaseLeft | LeaseEnd | LeaseCancel
    | Watch | Forward | Goodbye | LogsTaken | Inspected | RecordsInspected
    | GroupCreate | GroupRemove | GroupWatch | Question | StateQuestion | KvRequest
)  # fmt: skip
HostToBroker = (
    HostReady | WorkerStarted | WorkerDied | WorkerLogs | LogsFlushed | ChannelRefusals | Forward | Watch | Goodbye
    | HostInspected | MemoryShort
)  # fmt: skip
BrokerToClient = (
    Run | Result | Item | Failed | Started | CancelTask | TimeIsUp | TimedOut | JobConfig | FunctionBlob | ActorStart
    | ActorRun | ActorStop | Leased | LeaseEnded | LeaseLost | LeaseOver
    | ActorState | ActorFound | NoSuchActor | NameTaken | ProcessDied | Delivered | ExitIfIdle | Notice | Logs | Inspect
    | InspectTasks | InspectObjects | GroupNamed | GroupSettled | PinCpus | Answer | StateAnswer | KvAnswer
)  # fmt: skip
BrokerToHost = StartWorker | KillWorker | FlushLogs | LogsTaken | Delivered | ProcessDied | Inspect
PeerMessage = (
    ObjectRequest | ObjectState | BorrowAdd | BorrowAck | BorrowEnd | BorrowConfirm | BorrowCheck | BorrowChecked
    | CancelObject | StreamCredit | LocationsAsked | LocationsTold
    | Pull | Chunk | PullFailed | Locate | Located | CopyMade | CopyGone | LeftBehind | ChannelWanted
    | LaneWanted | LaneOffer | LaneSwitched | LaneFrame
)  # fmt: skip
PeerToHost = Pull | Chunk | PullFailed | Located | FreeObjects | KeepCopies | ChannelWanted | ChannelOffer
ChannelMessage = ChannelHello | ChannelWelcome | Pull | Chunk | PullFailed
"""The messages on a channel between hosts."""
LaneMessage = LeaseRun | LeaseReturned
"""Messages that travel by lanes only."""
Handshake = Hello | Welcome | Refused
Message = (
    ClientToBroker
    | HostToBroker
    | BrokerToClient
    | BrokerToHost
    | PeerMessage
    | PeerToHost
    | ChannelMessage
    | LaneMessage
    | Handshake
    | RowsOfOwner
)

_WORKER_ONLY = (
    Done,
    Reply,
    Yield,
    Started,
    TimeLimited,
    TimeLimitOver,
    Returned,
    Blocked,
    ActorExiting,
    Leaving,
    Staying,
    Killable,
    LeaseLeft,
)
FROM_HOST = frozenset(get_args(HostToBroker))
FROM_WORKER = frozenset(get_args(ClientToBroker)) - {Goodbye, LogsTaken}
FROM_DRIVER = frozenset(get_args(ClientToBroker)) - frozenset(_WORKER_ONLY)
FROM_BROKER = frozenset(get_args(BrokerToClient)) | frozenset(get_args(BrokerToHost))
FROM_PEER = frozenset(get_args(PeerMessage))
FROM_PEER_TO_HOST = frozenset(get_args(PeerToHost))
FROM_CHANNEL = frozenset(get_args(ChannelMessage))
HANDSHAKE = frozenset(get_args(Handshake))
FROM_OBSERVER = frozenset({Goodbye, *get_args(Question), *get_args(StateQuestion)})
MAY_SEND = {DRIVER: FROM_DRIVER, WORKER: FROM_WORKER, HOST: FROM_HOST, OBSERVER: FROM_OBSERVER}
