"""The messages: one ``NamedTuple`` each, one union per direction, and who may send which. Import them from here.

The classes are in modules by who says them: ``client_messages``, ``host_messages``, ``broker_messages``,
``handshake_messages``; ``peer_messages`` has those between processes that are not the broker, ``lease_messages`` those
of leases. ``zray.protocol.rows`` has their form on the wire.

The records that they carry are in ``zray.protocol.records``; the questions to the broker and its answers are in
``zray.protocol.questions``.
"""

from __future__ import annotations

from typing import get_args

from zray.exceptions import ZrayError
from zray.protocol.broker_messages import (
    ActorFound,
    ActorRun,
    ActorStart,
    ActorState,
    ActorStop,
    CancelTask,
    Delivered,
    ExitIfIdle,
    Failed,
    FunctionBlob,
    GroupNamed,
    GroupSettled,
    Inspect,
    Item,
    JobConfig,
    Logs,
    NameTaken,
    NoSuchActor,
    Notice,
    PinCpus,
    ProcessDied,
    Result,
    Run,
    TimedOut,
    TimeIsUp,
)
from zray.protocol.client_messages import (
    ActorCall,
    ActorCancel,
    ActorCreate,
    ActorExiting,
    ActorKill,
    ActorLookup,
    ActorReady,
    ActorRelease,
    Blocked,
    Cancel,
    Done,
    EnvironmentPut,
    Forward,
    FunctionGet,
    FunctionPut,
    Goodbye,
    GroupCreate,
    GroupRemove,
    GroupWatch,
    Inspected,
    Killable,
    Leaving,
    Reply,
    Returned,
    Started,
    Staying,
    Submit,
    TimeLimited,
    TimeLimitOver,
    Watch,
    Yield,
)
from zray.protocol.handshake_messages import Hello, Refused, Welcome
from zray.protocol.host_messages import (
    ChannelRefusals,
    FlushLogs,
    HostInspected,
    HostReady,
    KillWorker,
    LogsFlushed,
    LogsTaken,
    MemoryShort,
    StartWorker,
    WorkerDied,
    WorkerLogs,
    WorkerStarted,
)
from zray.protocol.key_values import KvAnswer, KvRequest
from zray.protocol.lease_messages import (
    LeaseCancel,
    Leased,
    LeaseEnd,
    LeaseEnded,
    LeaseLeft,
    LeaseLost,
    LeaseOver,
    LeaseReturned,
    LeaseRun,
)
from zray.protocol.peer_messages import (
    BorrowAck,
    BorrowAdd,
    BorrowCheck,
    BorrowChecked,
    BorrowConfirm,
    BorrowEnd,
    CancelObject,
    ChannelHello,
    ChannelOffer,
    ChannelWanted,
    ChannelWelcome,
    Chunk,
    CopyGone,
    CopyMade,
    FreeObjects,
    KeepCopies,
    LaneFrame,
    LaneOffer,
    LaneSwitched,
    LaneWanted,
    LeftBehind,
    Locate,
    Located,
    LocationsAsked,
    LocationsTold,
    ObjectRequest,
    ObjectState,
    Pull,
    PullFailed,
    StreamCredit,
)
from zray.protocol.questions import Answer, Question
from zray.protocol.state_questions import (
    InspectObjects,
    InspectTasks,
    RecordsInspected,
    RowsOfOwner,
    StateAnswer,
    StateQuestion,
)
from zray.states import State

__all__ = [
    "ALIVE", "ActorCall", "ActorCancel", "ActorCreate", "ActorExiting", "ActorFound", "ActorKill", "ActorLookup",
    "ActorReady", "ActorRelease", "ActorRun", "ActorStart", "ActorState", "ActorStatus", "ActorStop", "Blocked",
    "BorrowAck", "BorrowAdd", "BorrowCheck", "BorrowChecked", "BorrowConfirm", "BorrowEnd", "BrokerToClient",
    "BrokerToHost", "CANCEL_FORCE", "CANCEL_RECURSIVE", "Cancel", "CancelObject", "CancelTask", "ChannelHello",
    "ChannelMessage", "ChannelOffer", "ChannelRefusals", "ChannelWanted", "ChannelWelcome", "Chunk", "ClientToBroker",
    "CopyGone", "CopyMade", "DEAD", "DRIVER", "Delivered", "Done", "EnvironmentPut", "ExitIfIdle", "FLAG_LEASE",
    "FLAG_RETRYABLE", "FLAG_SPREAD", "FROM_BROKER", "FROM_CHANNEL", "FROM_DRIVER", "FROM_HOST", "FROM_OBSERVER",
    "FROM_PEER", "FROM_PEER_TO_HOST", "FROM_WORKER", "Failed", "FlushLogs", "Forward", "FreeObjects", "FunctionBlob",
    "FunctionGet", "FunctionPut", "Goodbye", "GroupCreate", "GroupNamed", "GroupRemove", "GroupSettled", "GroupWatch",
    "HANDSHAKE", "HOST", "Handshake", "Hello", "HostInspected", "HostReady", "HostToBroker", "Inspect", "Inspected",
    "Item", "JobConfig", "KeepCopies", "KillWorker", "Killable", "LaneFrame", "LaneMessage", "LaneOffer",
    "LaneSwitched", "LaneWanted", "LeaseCancel", "LeaseEnd", "LeaseEnded", "LeaseLeft", "LeaseLost", "LeaseOver",
    "LeaseReturned", "LeaseRun", "Leased", "Leaving", "LeftBehind", "Locate", "Located", "LocationsAsked",
    "LocationsTold", "Logs", "LogsFlushed", "LogsTaken", "MAY_SEND", "MemoryShort", "Message", "NameTaken",
    "NoSuchActor", "Notice", "OBSERVER", "ObjectRequest", "ObjectState", "PENDING_CREATION", "PROTOCOL_VERSION",
    "PeerMessage", "PeerToHost", "PinCpus", "ProcessDied", "ProtocolError", "Pull", "PullFailed", "RESTARTING",
    "Refused", "Reply", "Result", "Returned", "Run", "StartWorker", "Started", "Staying", "StreamCredit", "Submit",
    "TimeIsUp", "TimeLimitOver", "TimeLimited", "TimedOut", "WORKER", "Watch", "Welcome", "WorkerDied", "WorkerLogs",
    "WorkerStarted", "Yield",
]  # fmt: skip

PROTOCOL_VERSION = 19

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
