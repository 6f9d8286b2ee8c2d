"""The messages: one ``NamedTuple`` each, one union per direction. How they travel is told by ``zray.protocol.rows``.

What they carry that has a form of its own is in ``records``; questions to the broker, and answers, are in
``questions``.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, get_args

from zray.exceptions import ZrayError
from zray.protocol.questions import Answer, Question
from zray.protocol.records import (
    Activity,
    ActorSpec,
    ClusterInfo,
    HostInfo,
    JobSettings,
    JoinInfo,
    PrintedLines,
    StoreUse,
    VersionPair,
    WorkerLines,
)
from zray.states import State

PROTOCOL_VERSION = 8

ProcessId: TypeAlias = bytes
TaskId: TypeAlias = bytes
ObjectId: TypeAlias = bytes
ActorId: TypeAlias = bytes
FunctionId: TypeAlias = bytes
JobId: TypeAlias = bytes

FLAG_RETRYABLE = 1
"""The task may be run again when its worker dies, so it may be prefetched behind others."""

FLAG_SPREAD = 2
"""The task goes to the host with the least to do, rather than to the first that has room."""

CANCEL_FORCE = 1
CANCEL_RECURSIVE = 2


class ActorStatus(State):
    """Of an actor, as the broker sees it. The transitions are in ``zray.broker.states``."""

    PENDING_CREATION = (
        0,
        "Its constructor has not returned yet: it is announced, waits for a worker, or runs the constructor.",
    )
    ALIVE = 1, "It runs calls."
    RESTARTING = 2, "Its worker has died. It waits for another one, or runs the constructor there."
    DEAD = 3, "It has ended for good. The record is gone; what is kept is why it ended, for those who still call it."


PENDING_CREATION, ALIVE, RESTARTING, DEAD = ActorStatus

DRIVER, WORKER, HOST, OBSERVER = "driver", "worker", "host", "observer"
"""An observer asks, and takes no part: it has no job, and nothing in the cluster changes by it."""


class ProtocolError(ZrayError):
    """The peer's fault: what it sent is no valid frame or message."""


# ---------------------------------------------------------------------------------------------- handshake


class Hello(NamedTuple):
    """The fields before ``info`` are the same in every version: see ``zray.protocol.rows.decode_handshake``."""

    protocol: int
    python: str
    zray: str
    kind: str
    process_id: ProcessId
    info: JoinInfo


class Welcome(NamedTuple):
    """``max_message_bytes``: the largest message that the broker accepts."""

    incarnation: bytes
    max_message_bytes: int
    cluster: ClusterInfo


class Refused(NamedTuple):
    """The same in every version. ``versions``: those that differ, and the others; empty if that is not the reason."""

    reason: str
    versions: list[VersionPair]


# ---------------------------------------------------------------------------------------- client to broker


class Submit(NamedTuple):
    """``near``: the host that has most of the arguments' bytes; empty if that does not matter."""

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
    """A brokered task ended; gives the grant back and carries the outcome to the owner."""

    task_id: TaskId
    attempt: int
    run_us: int
    payload: bytes


class Reply(NamedTuple):
    """An actor call ended; the broker only routes it."""

    owner: ProcessId
    task_id: TaskId
    attempt: int
    payload: bytes


class Started(NamedTuple):
    """The worker runs a task that takes long or waits: the broker needs its payload no more, and passes this on to the
    owner."""

    task_id: TaskId
    attempt: int


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


class ActorCreate(NamedTuple):
    """Announces an actor, and brings the arguments of its constructor if it is ``ready``: else they follow in another
    one. ``request``: of an actor with a name, to be answered by ``ActorFound`` or ``NameTaken``; ``get_if_exists``: an
    actor that has the name already is found."""

    actor_id: ActorId
    function_id: FunctionId
    spec: ActorSpec
    request: int
    get_if_exists: bool
    ready: bool
    payload: bytes


class ActorCall(NamedTuple):
    actor_id: ActorId
    incarnation: int
    seq: int
    task_id: TaskId
    attempt: int
    payload: bytes


class ActorCancel(NamedTuple):
    """Cancels a call; the broker passes it on to the actor's worker."""

    actor_id: ActorId
    task_id: TaskId
    mode: int


class ActorKill(NamedTuple):
    actor_id: ActorId
    no_restart: bool


class ActorRelease(NamedTuple):
    actor_id: ActorId


class ActorLookup(NamedTuple):
    """Answered by ``ActorFound`` or ``NoSuchActor``."""

    request: int
    name: str
    namespace: str


class ActorReady(NamedTuple):
    """The constructor returned (``error`` empty) or raised; from the creator: it cannot even be called."""

    actor_id: ActorId
    error: bytes


class ActorExiting(NamedTuple):
    """The worker ends its actor by intention: do not restart it."""

    actor_id: ActorId
    reason: str


class Leaving(NamedTuple):
    """A worker ends in good order: it has answered all that it had started, and handed back the rest (``Returned``)."""

    reason: str


class Staying(NamedTuple):
    """Answer to ``ExitIfIdle``. ``busy``: in use, or it owns objects that can be reached; else it is worth keeping."""

    busy: bool


class Killable(NamedTuple):
    """Answer to a ``CancelTask`` with force, of a task that runs: what it has submitted is cancelled (if that was asked
    for), and what stood behind it handed back."""

    task_id: TaskId


class Watch(NamedTuple):
    process_id: ProcessId


class Forward(NamedTuple):
    """Rows of peer messages for another process."""

    dest: ProcessId
    rows: bytes


class Goodbye(NamedTuple):
    """A driver leaves, and its job ends; or a host leaves, with its workers."""

    reason: str


# ------------------------------------------------------------------------------------------ host to broker


class HostReady(NamedTuple):
    """``resources``: in ten-thousandths."""

    resources: dict[str, int]
    info: HostInfo


class WorkerStarted(NamedTuple):
    worker_id: ProcessId
    pid: int


class WorkerDied(NamedTuple):
    """``running``: the task it had started last, or empty; ``kind``, ``message``: the error that users get."""

    worker_id: ProcessId
    running: bytes
    kind: str
    message: str


class WorkerLogs(NamedTuple):
    """``left_out``: how many lines there was no room for, by worker."""

    entries: list[WorkerLines]
    left_out: dict[bytes, int]


class ChannelRefusals(NamedTuple):
    """How many strangers a host has turned away from its channels so far, by reason."""

    counts: dict[str, int]


class LogsTaken(NamedTuple):
    """From a driver or the broker to who sends it lines of workers: there is room for so much more."""

    size_bytes: int


class Inspected(NamedTuple):
    """The answer of a driver or worker to ``Inspect``."""

    request: int
    activity: Activity


class HostInspected(NamedTuple):
    """The answer of a host to ``Inspect``: what is in use, in bytes. ``memory``: of its workers, by PID."""

    request: int
    store: StoreUse
    memory: dict[int, int]


class LogsFlushed(NamedTuple):
    """Everything that workers had printed when the request came has been sent."""

    request: int


# ---------------------------------------------------------------------------------------- broker to client


class Run(NamedTuple):
    task_id: TaskId
    attempt: int
    function_id: FunctionId
    shape: bytes
    gpus: list[int]
    payload: bytes


class Result(NamedTuple):
    """``source``: whose answer it is; ``actor``: the actor that it serves, as the broker knows it, empty for a task."""

    task_id: TaskId
    attempt: int
    source: ProcessId
    actor: bytes
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


class JobConfig(NamedTuple):
    """The job that the worker works for from now on."""

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
    """End after the work that is outstanding: the last handle is gone."""

    actor_id: ActorId


class ActorState(NamedTuple):
    actor_id: ActorId
    incarnation: int
    state: int
    last_seq: int
    message: str
    error: bytes


class ActorFound(NamedTuple):
    """The actor that has a name: one that was looked up, or the answer to an ``ActorCreate`` with a name, be it the
    created actor or, with ``get_if_exists``, another."""

    request: int
    actor_id: ActorId
    spec: ActorSpec


class NoSuchActor(NamedTuple):
    """No actor has the name that was looked up."""

    request: int


class NameTaken(NamedTuple):
    """The actor was not created: another has its name. ``is_dead``: and keeps it until its last handle is gone."""

    request: int
    is_dead: bool


class ProcessDied(NamedTuple):
    process_id: ProcessId
    message: str


class Delivered(NamedTuple):
    source: ProcessId
    rows: bytes


class ExitIfIdle(NamedTuple):
    """``surplus``: its host has more idle workers than CPUs, so it goes even if it is worth keeping."""

    reason: str
    surplus: bool


class Notice(NamedTuple):
    """A warning for the user of the driver."""

    text: str


class Logs(NamedTuple):
    """``left_out``: how many lines are missing among those sent up to now."""

    entries: list[PrintedLines]
    left_out: int


# ------------------------------------------------------------------------------------------ broker to host


class StartWorker(NamedTuple):
    """Fork a worker. What it is for, it learns from the broker when it has joined."""

    worker_id: ProcessId


class KillWorker(NamedTuple):
    worker_id: ProcessId
    reason: str


class Inspect(NamedTuple):
    """To anyone: what are you doing? For people who look, and for errors that say why something takes so long."""

    request: int


class FlushLogs(NamedTuple):
    """Send what workers have printed up to now."""

    request: int


# -------------------------------------------------------------------------------------- client to client


class ObjectRequest(NamedTuple):
    object_id: ObjectId


class ObjectState(NamedTuple):
    """An owner's answer. ``status``: see ``client.core.states``; ``data``: the value or error, if it is inline;
    ``inner``: the references inside, one behind the other, for each of which the receiver has been registered."""

    object_id: ObjectId
    status: int
    data: bytes
    host: bytes
    size: int
    inner: bytes


class CancelObject(NamedTuple):
    """To the owner, from anyone who holds a reference: cancel the task or call that makes the object."""

    object_id: ObjectId
    mode: int


class BorrowAdd(NamedTuple):
    object_id: ObjectId
    holder: ProcessId
    token: int


class BorrowAck(NamedTuple):
    token: int


class BorrowEnd(NamedTuple):
    object_id: ObjectId
    registrations: int


class BorrowConfirm(NamedTuple):
    """The holder that ``announcer`` announced has the reference."""

    object_id: ObjectId
    announcer: ProcessId


class BorrowCheck(NamedTuple):
    """``announcer`` is dead; the answer comes behind every confirmation that the holder had to send."""

    object_id: ObjectId
    announcer: ProcessId


class BorrowChecked(NamedTuple):
    object_id: ObjectId
    announcer: ProcessId


# ------------------------------------------------------------------- between clients and hosts, see transfer


class Pull(NamedTuple):
    """Send ``length`` bytes of a stored object, from ``offset`` on. ``pull``: the asker's number for it; ``pack``:
    compressed, if that makes them fewer."""

    object_id: ObjectId
    pull: int
    offset: int
    length: int
    pack: bool


class Chunk(NamedTuple):
    """The answer to a ``Pull``. ``total``: the object's size; ``checksum``: XXH3 (64 bits) of the bytes, before
    they were compressed if they are ``packed``. On a channel ``data`` is empty, and a part of its own."""

    pull: int
    offset: int
    total: int
    checksum: bytes
    packed: bool
    data: bytes


class PullFailed(NamedTuple):
    pull: int
    reason: str


class Locate(NamedTuple):
    """To the owner: who has the object? The sender is about to get it, and can pass it on meanwhile if it ``serves``.
    ``lost``: those that turned out not to have it; ``question``: the asker's number for it."""

    object_id: ObjectId
    question: int
    serves: bool
    lost: list[bytes]


class Located(NamedTuple):
    """The owner's answer: whom to ask, or why nobody (``kind``, the name of an exception, and ``message``)."""

    object_id: ObjectId
    question: int
    size: int
    sources: list[bytes]
    kind: str
    message: str


class CopyMade(NamedTuple):
    """To the owner: the sender, a host, has a copy as well."""

    object_id: ObjectId


class CopyGone(NamedTuple):
    """To the owner: the sender does not get the object after all, or keeps it no longer."""

    object_id: ObjectId


class KeepCopies(NamedTuple):
    """From the owner: these copies are the objects now, as the host that had them is gone."""

    object_ids: list[bytes]


class FreeObjects(NamedTuple):
    """From their owner, to a host on another machine."""

    object_ids: list[bytes]


class LeftBehind(NamedTuple):
    """From a host to an owner: return values in its store, of a worker that has died, perhaps before it answered."""

    object_ids: list[bytes]


class ChannelWanted(NamedTuple):
    """From a host to another: may I dial you? ``key``: its public key (Z85), empty where there are no keys."""

    key: bytes


class ChannelOffer(NamedTuple):
    """The answer: where to, showing what, expecting which key. An empty ``address``: not at all."""

    address: str
    token: bytes
    key: bytes


class ChannelHello(NamedTuple):
    """The first words on a channel."""

    process_id: ProcessId
    token: bytes


class ChannelWelcome(NamedTuple):
    """The answer: it can be used."""

    process_id: ProcessId


ClientToBroker = (
    Submit | Cancel | Done | Reply | Started | Returned | Blocked | FunctionPut | FunctionGet | ActorCreate | ActorCall
    | ActorCancel | ActorKill | ActorRelease | ActorLookup | ActorReady | ActorExiting | Leaving | Staying
    | Killable | Watch | Forward | Goodbye | LogsTaken | Inspected | Question
)  # fmt: skip
HostToBroker = (
    HostReady | WorkerStarted | WorkerDied | WorkerLogs | LogsFlushed | ChannelRefusals | Forward | Watch | Goodbye
    | HostInspected
)  # fmt: skip
BrokerToClient = (
    Run | Result | Failed | Started | CancelTask | JobConfig | FunctionBlob | ActorStart | ActorRun | ActorStop
    | ActorState | ActorFound | NoSuchActor | NameTaken | ProcessDied | Delivered | ExitIfIdle | Notice | Logs | Inspect
    | Answer
)  # fmt: skip
BrokerToHost = StartWorker | KillWorker | FlushLogs | LogsTaken | Delivered | ProcessDied | Inspect
PeerMessage = (
    ObjectRequest | ObjectState | BorrowAdd | BorrowAck | BorrowEnd | BorrowConfirm | BorrowCheck | BorrowChecked
    | CancelObject
    | Pull | Chunk | PullFailed | Locate | Located | CopyMade | CopyGone | LeftBehind | ChannelWanted
)  # fmt: skip
PeerToHost = Pull | Chunk | PullFailed | Located | FreeObjects | KeepCopies | ChannelWanted | ChannelOffer
ChannelMessage = ChannelHello | ChannelWelcome | Pull | Chunk | PullFailed
"""What travels on a channel between hosts."""
Handshake = Hello | Welcome | Refused
Message = (
    ClientToBroker
    | HostToBroker
    | BrokerToClient
    | BrokerToHost
    | PeerMessage
    | PeerToHost
    | ChannelMessage
    | Handshake
)

_WORKER_ONLY = (Done, Reply, Started, Returned, Blocked, ActorExiting, Leaving, Staying, Killable)
FROM_HOST = frozenset(get_args(HostToBroker))
FROM_WORKER = frozenset(get_args(ClientToBroker)) - {Goodbye, LogsTaken}
FROM_DRIVER = frozenset(get_args(ClientToBroker)) - frozenset(_WORKER_ONLY)
FROM_BROKER = frozenset(get_args(BrokerToClient)) | frozenset(get_args(BrokerToHost))
FROM_PEER = frozenset(get_args(PeerMessage))
FROM_PEER_TO_HOST = frozenset(get_args(PeerToHost))
FROM_CHANNEL = frozenset(get_args(ChannelMessage))
HANDSHAKE = frozenset(get_args(Handshake))
FROM_OBSERVER = frozenset({Goodbye, *get_args(Question)})
MAY_SEND = {DRIVER: FROM_DRIVER, WORKER: FROM_WORKER, HOST: FROM_HOST, OBSERVER: FROM_OBSERVER}
