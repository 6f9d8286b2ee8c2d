"""Converts messages to rows, their arrays on the wire, and back: ``[number of the class, *fields]``.

``decode_row`` checks the number, type and size of the fields, including those of records (``zray.protocol.records``).
The test is generated once per class from the annotations (``zray.protocol.schema``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.protocol.key_values import KvCount, KvDelete, KvGet, KvKeys, KvList, KvPut, KvValue
from zray.protocol.messages import (
    HANDSHAKE,
    PROTOCOL_VERSION,
    ActorCall,
    ActorCancel,
    ActorCreate,
    ActorExiting,
    ActorFound,
    ActorKill,
    ActorLookup,
    ActorReady,
    ActorRelease,
    ActorRun,
    ActorStart,
    ActorState,
    ActorStop,
    Blocked,
    BorrowAck,
    BorrowAdd,
    BorrowCheck,
    BorrowChecked,
    BorrowConfirm,
    BorrowEnd,
    Cancel,
    CancelObject,
    CancelTask,
    ChannelHello,
    ChannelOffer,
    ChannelRefusals,
    ChannelWanted,
    ChannelWelcome,
    Chunk,
    CopyGone,
    CopyMade,
    Delivered,
    Done,
    EnvironmentPut,
    ExitIfIdle,
    Failed,
    FlushLogs,
    Forward,
    FreeObjects,
    FunctionBlob,
    FunctionGet,
    FunctionPut,
    Goodbye,
    GroupCreate,
    GroupNamed,
    GroupRemove,
    GroupSettled,
    GroupWatch,
    Hello,
    HostInspected,
    HostReady,
    Inspect,
    Inspected,
    Item,
    JobConfig,
    KeepCopies,
    Killable,
    KillWorker,
    LaneFrame,
    LaneOffer,
    LaneSwitched,
    LaneWanted,
    LeaseCancel,
    Leased,
    LeaseEnd,
    LeaseEnded,
    LeaseLeft,
    LeaseLost,
    LeaseOver,
    LeaseReturned,
    LeaseRun,
    Leaving,
    LeftBehind,
    Locate,
    Located,
    LocationsAsked,
    LocationsTold,
    Logs,
    LogsFlushed,
    LogsTaken,
    MemoryShort,
    NameTaken,
    NoSuchActor,
    Notice,
    ObjectRequest,
    ObjectState,
    PinCpus,
    ProcessDied,
    ProtocolError,
    Pull,
    PullFailed,
    Refused,
    Reply,
    Result,
    Returned,
    Run,
    Started,
    StartWorker,
    Staying,
    StreamCredit,
    Submit,
    TimedOut,
    TimeIsUp,
    TimeLimited,
    TimeLimitOver,
    Watch,
    Welcome,
    WorkerDied,
    WorkerLogs,
    WorkerStarted,
    Yield,
)
from zray.protocol.questions import (
    ActorList,
    ActorsQuery,
    BrokerCounts,
    ClusterStatus,
    CountsQuery,
    ExplainActor,
    ExplainTask,
    Explanation,
    FlushOutput,
    GroupList,
    GroupsQuery,
    HostList,
    HostsQuery,
    MemberQuery,
    Membership,
    NamedActors,
    NamedActorsQuery,
    OutputFlushed,
    Resources,
    ResourcesQuery,
    StatusQuery,
    WorkerList,
    WorkersQuery,
)
from zray.protocol.records import JoinInfo
from zray.protocol.schema import fault_in, fits_message, maker
from zray.protocol.state_questions import (
    ActorRecords,
    EnvironmentRecords,
    HostRecords,
    InspectObjects,
    InspectTasks,
    JobRecords,
    ObjectRows,
    OwnerRecords,
    RecordsInspected,
    StateOfActors,
    StateOfEnvironments,
    StateOfHosts,
    StateOfJobs,
    StateOfObjects,
    StateOfTasks,
    StateOfWorkers,
    TaskRows,
    WorkerRecords,
)

# The position of a class is its number on the wire, in this version of the protocol.
TYPES: tuple[Any, ...] = (
    Hello, Welcome, Refused,
    Submit, Cancel, Done, Reply, Returned, Blocked, FunctionPut, FunctionGet, ActorCreate, ActorCall, ActorCancel,
    ActorKill, ActorRelease, ActorLookup, ActorReady, ActorExiting, Leaving, Staying, Watch, Forward, Goodbye,
    HostReady, WorkerStarted, WorkerDied, WorkerLogs, LogsFlushed, ChannelRefusals,
    Run, Result, Failed, CancelTask, JobConfig, FunctionBlob, ActorStart, ActorRun, ActorStop, ActorState, ActorFound,
    NoSuchActor, NameTaken, ProcessDied, Delivered, ExitIfIdle, Notice, Logs,
    StartWorker, KillWorker, FlushLogs,
    ObjectRequest, ObjectState, BorrowAdd, BorrowAck, BorrowEnd, BorrowConfirm, BorrowCheck, BorrowChecked,
    Pull, Chunk, PullFailed, Locate, Located, CopyMade, CopyGone, KeepCopies, FreeObjects,
    ChannelWanted, ChannelOffer, ChannelHello, ChannelWelcome,
    CancelObject, Killable, LogsTaken, Started, LeftBehind, Inspect, Inspected, HostInspected,
    HostsQuery, ResourcesQuery, NamedActorsQuery, MemberQuery, ActorsQuery, WorkersQuery, CountsQuery, StatusQuery,
    ExplainTask, ExplainActor, FlushOutput,
    HostList, Resources, NamedActors, Membership, ActorList, WorkerList, BrokerCounts, ClusterStatus, Explanation,
    OutputFlushed,
    Yield, Item, StreamCredit,
    KvPut, KvGet, KvDelete, KvList, KvCount, KvValue, KvKeys,
    LocationsAsked, LocationsTold,
    StateOfActors, StateOfHosts, StateOfWorkers, StateOfJobs, StateOfTasks, StateOfObjects,
    ActorRecords, HostRecords, WorkerRecords, JobRecords, OwnerRecords,
    InspectTasks, InspectObjects, RecordsInspected, TaskRows, ObjectRows,
    EnvironmentPut,
    GroupCreate, GroupRemove, GroupWatch, GroupNamed, GroupSettled, GroupsQuery, GroupList,
    MemoryShort,
    TimeLimited, TimeLimitOver, TimeIsUp, TimedOut,
    PinCpus,
    StateOfEnvironments, EnvironmentRecords,
    LaneWanted, LaneOffer, LaneSwitched, LaneFrame,
    Leased, LeaseEnd, LeaseCancel, LeaseEnded, LeaseLost, LeaseOver, LeaseLeft, LeaseRun, LeaseReturned,
)  # fmt: skip
NUMBER_OF: dict[Any, tuple[int]] = {kind: (number,) for number, kind in enumerate(TYPES)}

_Decoder = tuple[Callable[[list[Any]], Any], Callable[[list[Any]], bool]]
"""The function that makes a message of its fields, and the test for an array."""
_decoders: list[_Decoder | None] = [None] * len(TYPES)
"""By the number of a class; None until it is needed: generating all takes milliseconds, and a driver needs few."""


def _generate(number: int) -> _Decoder:
    decoder = _decoders[number] = maker(TYPES[number]), fits_message(TYPES[number])
    return decoder


_QUESTIONS = (HostsQuery.__module__, StateOfHosts.__module__)


def prepare() -> None:
    """Generates the decoders for a process that forks others, so that these share the memory.

    Those of questions to the broker and of their answers are left out: they are a quarter of all, most are large, and
    a process that asks generates what it needs.
    """
    for number, kind in enumerate(TYPES):
        if kind.__module__ not in _QUESTIONS:
            _generate(number)


def encode_row(message: Any) -> tuple[Any, ...]:
    """Returns the array of ``message`` on the wire."""
    row: tuple[Any, ...] = NUMBER_OF[type(message)] + message
    return row


def decode_row(row: Any, allowed: frozenset[Any]) -> Any:
    """Returns the message of a row. Raises ProtocolError if it is malformed or not of an ``allowed`` class."""
    if type(row) is not list or not row or type(row[0]) is not int or not 0 <= row[0] < len(_decoders):
        raise ProtocolError("not a message of this protocol version")
    kind = TYPES[row[0]]
    if kind not in allowed:
        raise ProtocolError(f"{kind.__name__} may not be sent by this peer")
    make, fits = _decoders[row[0]] or _generate(row[0])
    if not fits(row):
        raise ProtocolError(f"malformed {fault_in(kind, row[1:])}")
    del row[0]
    return make(row)


_HELLO_HEAD = 1 + Hello._fields.index("info")
"""How many values of a Hello's row (with its number) are the same in every version of the protocol."""
_NOTHING_KNOWN: list[Any] = [list(field) if isinstance(field, tuple) else field for field in JoinInfo()]
"""The row of a default ``JoinInfo``, in place of one of another version."""


def decode_handshake(row: Any) -> Any:
    """Returns the message of a handshake. Raises ProtocolError if it is malformed.

    Of a ``Hello`` of another version, only the fields that all versions share are read, so that the broker can answer
    it with ``Refused``.
    """
    if type(row) is list and len(row) >= _HELLO_HEAD and row[0] == NUMBER_OF[Hello][0] and row[1] != PROTOCOL_VERSION:
        row = [*row[:_HELLO_HEAD], _NOTHING_KNOWN]
    return decode_row(row, HANDSHAKE)
