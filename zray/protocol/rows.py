"""Messages and the arrays that stand for them on the wire: ``[number of the class, *fields]``.

``decode_row`` checks number, type and size of the fields, by a test that is generated once per class from the
annotations (identifiers have fixed sizes, see ``zray.ids``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, get_type_hints

from zray import ids
from zray.protocol.messages import (
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
    Answer,
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
    Chunk,
    CopyGone,
    CopyMade,
    Delivered,
    Done,
    ExitIfIdle,
    Failed,
    FlushLogs,
    FreeObjects,
    FunctionBlob,
    FunctionGet,
    FunctionPut,
    Goodbye,
    Hello,
    HostReady,
    Inspect,
    Inspected,
    JobConfig,
    KeepCopies,
    Killable,
    KillWorker,
    Leaving,
    LeftBehind,
    LinkHello,
    LinkOffer,
    LinkRefusals,
    LinkWanted,
    LinkWelcome,
    Locate,
    Located,
    Logs,
    LogsFlushed,
    LogsTaken,
    Notice,
    ObjectRequest,
    ObjectState,
    Peer,
    ProcessDied,
    ProtocolError,
    Pull,
    PullFailed,
    Query,
    Refused,
    Reply,
    Result,
    Returned,
    Run,
    Started,
    StartWorker,
    Staying,
    Submit,
    Watch,
    Welcome,
    WorkerDied,
    WorkerLogs,
    WorkerStarted,
)

# The numbers on the wire, of this version of the protocol.
TYPES: tuple[Any, ...] = (
    Hello, Welcome, Refused,
    Submit, Cancel, Done, Reply, Returned, Blocked, FunctionPut, FunctionGet, ActorCreate, ActorCall, ActorCancel,
    ActorKill, ActorRelease, ActorLookup, ActorReady, ActorExiting, Leaving, Staying, Watch, Peer, Query, Goodbye,
    HostReady, WorkerStarted, WorkerDied, WorkerLogs, LogsFlushed, LinkRefusals,
    Run, Result, Failed, CancelTask, JobConfig, FunctionBlob, ActorStart, ActorRun, ActorStop, ActorState, ActorFound,
    ProcessDied, Delivered, Answer, ExitIfIdle, Notice, Logs,
    StartWorker, KillWorker, FlushLogs,
    ObjectRequest, ObjectState, BorrowAdd, BorrowAck, BorrowEnd, BorrowConfirm, BorrowCheck, BorrowChecked,
    Pull, Chunk, PullFailed, Locate, Located, CopyMade, CopyGone, KeepCopies, FreeObjects,
    LinkWanted, LinkOffer, LinkHello, LinkWelcome,
    CancelObject, Killable, LogsTaken, Started, LeftBehind, Inspect, Inspected,
)  # fmt: skip
NUMBER_OF: dict[Any, tuple[int]] = {kind: (number,) for number, kind in enumerate(TYPES)}

_SIZES = {
    **dict.fromkeys(
        ("process_id", "owner", "dest", "source", "caller", "announcer", "holder", "worker_id"), ids.PROCESS_ID_BYTES
    ),
    "actor_id": ids.ACTOR_ID_BYTES,
    "task_id": ids.TASK_ID_BYTES,
    "object_id": ids.OBJECT_ID_BYTES,
    "function_id": ids.FUNCTION_ID_BYTES,
    "incarnation": 8,  # of the broker; those of actors are numbers
    "object_ids": ids.OBJECT_ID_BYTES,
    "task_ids": ids.TASK_ID_BYTES,
    **dict.fromkeys(("sources", "lost"), ids.PROCESS_ID_BYTES),
}
"""Of identifiers, and of each in a list of them."""
MAX_NESTING = 32
"""So deep may be what has no form of its own, such as the specification of an actor: who passes it on puts it into a
message again, and msgpack refuses what is deeper than it can follow."""


def is_shallow(value: Any, levels: int = MAX_NESTING) -> bool:
    """Whether lists and maps are within each other to no more than so many levels."""
    inner = value if type(value) is list else value.values() if type(value) is dict else ()
    return levels > 0 and all(is_shallow(each, levels - 1) for each in inner if type(each) in (list, dict))


def _checker(kind: Any) -> Callable[[list[Any]], bool]:
    """A predicate over a row, generated as one expression so that it costs well under a microsecond."""
    hints = get_type_hints(kind)
    tests = [f"len(r) == {len(kind._fields) + 1}"]
    for position, field in enumerate(kind._fields, start=1):
        hint = hints[field]
        base = getattr(hint, "__origin__", hint)
        if hint in (Any, dict[str, Any], list[Any]):
            tests.append(f"is_shallow(r[{position}])")
        if base is Any:
            continue
        tests.append(f"type(r[{position}]) is {base.__name__}")
        if base is int:
            tests.append(f"0 <= r[{position}] < 9223372036854775808")
        if base is bytes and field in _SIZES:
            tests.append(f"len(r[{position}]) == {_SIZES[field]}")
        if hint == list[bytes]:
            tests.append(f"all(type(x) is bytes and len(x) == {_SIZES[field]} for x in r[{position}])")
        if hint == list[int]:
            tests.append(f"(not r[{position}] or all(type(x) is int for x in r[{position}]))")  # mostly empty
    check: Callable[[list[Any]], bool] = eval("lambda r: " + " and ".join(tests), {"is_shallow": is_shallow})
    return check


_DECODERS = [(kind, functools.partial(tuple.__new__, kind), _checker(kind)) for kind in TYPES]


def encode_row(message: Any) -> tuple[Any, ...]:
    """The array that stands for ``message`` on the wire."""
    row: tuple[Any, ...] = NUMBER_OF[type(message)] + message
    return row


def decode_row(row: Any, allowed: frozenset[Any]) -> Any:
    """The message of a row; raises ProtocolError when it is malformed or not among the ``allowed`` classes."""
    if type(row) is not list or not row or type(row[0]) is not int or not 0 <= row[0] < len(_DECODERS):
        raise ProtocolError("not a message of this protocol version")
    kind, make, well_formed = _DECODERS[row[0]]
    if kind not in allowed:
        raise ProtocolError(f"{kind.__name__} may not be sent by this peer")
    if not well_formed(row):
        raise ProtocolError(f"malformed {kind.__name__}")
    del row[0]
    return make(row)
