"""The messages of the protocol: what is on the wire changes on purpose only, and every field is checked."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zray import ids
from zray.protocol import messages, rows
from zray.protocol.messages import (
    DRIVER,
    FROM_BROKER,
    FROM_DRIVER,
    FROM_HOST,
    FROM_LINK,
    FROM_OBSERVER,
    FROM_PEER,
    FROM_PEER_TO_HOST,
    FROM_WORKER,
    HANDSHAKE,
    HOST,
    MAY_SEND,
    OBSERVER,
    WORKER,
    BorrowAck,
    Chunk,
    Goodbye,
    LinkHello,
    LinkWelcome,
    LogsTaken,
    Peer,
    ProtocolError,
    Pull,
    PullFailed,
    Query,
    Started,
    Watch,
)
from zray.protocol.rows import NUMBER_OF, TYPES, decode_row, encode_row

EVERYTHING = frozenset(TYPES)

GOLDEN = """
0 Hello protocol: int, python: str, zray: str, kind: str, process_id: bytes, info: dict[str, Any]
1 Welcome incarnation: bytes, cluster: dict[str, Any]
2 Refused reason: str, details: dict[str, Any]
3 Submit task_id: bytes, attempt: int, function_id: bytes, shape: bytes, flags: int, near: bytes, payload: bytes
4 Cancel task_id: bytes, mode: int
5 Done task_id: bytes, attempt: int, run_us: int, payload: bytes
6 Reply owner: bytes, task_id: bytes, attempt: int, payload: bytes
7 Returned task_ids: list[bytes]
8 Blocked blocked: bool
9 FunctionPut function_id: bytes, name: str, blob: bytes
10 FunctionGet function_id: bytes
11 ActorCreate actor_id: bytes, function_id: bytes, spec: dict[str, Any], payload: bytes
12 ActorCall actor_id: bytes, incarnation: int, seq: int, task_id: bytes, attempt: int, payload: bytes
13 ActorCancel actor_id: bytes, task_id: bytes, mode: int
14 ActorKill actor_id: bytes, no_restart: bool
15 ActorRelease actor_id: bytes
16 ActorLookup request: int, name: str, namespace: str
17 ActorReady actor_id: bytes, error: bytes
18 ActorExiting actor_id: bytes, reason: str
19 Leaving reason: str
20 Staying busy: bool
21 Watch process_id: bytes
22 Peer dest: bytes, rows: bytes
23 Query request: int, what: str, argument: dict[str, Any]
24 Goodbye reason: str
25 HostReady resources: dict[str, int], info: dict[str, Any]
26 WorkerStarted worker_id: bytes, pid: int
27 WorkerDied worker_id: bytes, running: bytes, kind: str, message: str
28 WorkerLogs entries: list[Any], left_out: dict[bytes, int]
29 LogsFlushed request: int
30 LinkRefusals counts: dict[str, int]
31 Run task_id: bytes, attempt: int, function_id: bytes, shape: bytes, gpus: list[int], payload: bytes
32 Result task_id: bytes, attempt: int, source: bytes, actor: bytes, payload: bytes
33 Failed task_id: bytes, attempt: int, kind: str, message: str, culprit: bool
34 CancelTask task_id: bytes, mode: int
35 JobConfig job_id: bytes, config: dict[str, Any]
36 FunctionBlob function_id: bytes, found: bool, name: str, blob: bytes
37 ActorStart actor_id: bytes, incarnation: int, function_id: bytes, spec: dict[str, Any], gpus: list[int], payload: bytes
38 ActorRun caller: bytes, seq: int, task_id: bytes, attempt: int, payload: bytes
39 ActorStop actor_id: bytes
40 ActorState actor_id: bytes, incarnation: int, state: int, last_seq: int, message: str, error: bytes
41 ActorFound request: int, found: bool, actor: bytes, spec: dict[str, Any]
42 ProcessDied process_id: bytes, message: str
43 Delivered source: bytes, rows: bytes
44 Answer request: int, value: Any
45 ExitIfIdle reason: str, surplus: bool
46 Notice text: str
47 Logs entries: list[Any], left_out: int
48 StartWorker worker_id: bytes
49 KillWorker worker_id: bytes, reason: str
50 FlushLogs request: int
51 ObjectRequest object_id: bytes
52 ObjectState object_id: bytes, status: int, data: bytes, host: bytes, size: int, inner: bytes
53 BorrowAdd object_id: bytes, holder: bytes, token: int
54 BorrowAck token: int
55 BorrowEnd object_id: bytes, registrations: int
56 BorrowConfirm object_id: bytes, announcer: bytes
57 BorrowCheck object_id: bytes, announcer: bytes
58 BorrowChecked object_id: bytes, announcer: bytes
59 Pull object_id: bytes, pull: int, offset: int, length: int, pack: bool
60 Chunk pull: int, offset: int, total: int, checksum: bytes, packed: bool, data: bytes
61 PullFailed pull: int, reason: str
62 Locate object_id: bytes, question: int, serves: bool, lost: list[bytes]
63 Located object_id: bytes, question: int, size: int, sources: list[bytes], kind: str, message: str
64 CopyMade object_id: bytes
65 CopyGone object_id: bytes
66 KeepCopies object_ids: list[bytes]
67 FreeObjects object_ids: list[bytes]
68 LinkWanted key: bytes
69 LinkOffer address: str, token: bytes, key: bytes
70 LinkHello process_id: bytes, token: bytes
71 LinkWelcome process_id: bytes
72 CancelObject object_id: bytes, mode: int
73 Killable task_id: bytes
74 LogsTaken size_bytes: int
75 Started task_id: bytes, attempt: int
76 LeftBehind object_ids: list[bytes]
77 Inspect request: int
78 Inspected request: int, found: dict[str, Any]
"""
"""The wire format of protocol version 7. Whoever changes a line here breaks peers: raise PROTOCOL_VERSION with it."""

FIXED_SIZES = {
    "process_id": 16,
    "owner": 16,
    "dest": 16,
    "source": 16,
    "caller": 16,
    "announcer": 16,
    "holder": 16,
    "worker_id": 16,
    "actor_id": 24,
    "task_id": 24,
    "object_id": 28,
    "function_id": 16,
    "object_ids": 28,
    "task_ids": 24,
    "sources": 16,
    "lost": 16,
    "incarnation": 8,
}
"""Fields of identifiers, or of lists of them, in bytes. The incarnations of actors are numbers."""

VALUES: dict[Any, Any] = {
    int: 5,
    str: "text",
    bool: True,
    bytes: b"bytes",
    list[int]: [1, 2],
    list[Any]: [1, "b", None],
    dict[str, Any]: {"key": [1, None]},
    dict[str, int]: {"CPU": 10_000},
    dict[bytes, int]: {b"worker": 3},
    Any: {"anything": 1},
}
WRONG: dict[Any, list[Any]] = {
    int: [None, "5", 1.0, True, -1, 2**63, b""],
    str: [None, b"text", 5],
    bool: [None, 0, 1, "true"],
    bytes: [None, "text", 5, []],
    list[int]: [None, {}, 5, b"12", [1, "2"], [True]],
    list[bytes]: [None, {}, ["text"], [b"x", None]],
    list[Any]: [None, {}, "text"],
    dict[str, Any]: [None, [], "text"],
    dict[str, int]: [None, [], 5],
    dict[bytes, int]: [None, [], 5],
    Any: [],
}


def type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


def good_value(field: str, hint: Any) -> Any:
    if field in FIXED_SIZES and hint in (bytes, list[bytes]):
        identifier = b"\x07" * FIXED_SIZES[field]
        return [identifier, identifier] if hint == list[bytes] else identifier
    return VALUES[hint]


def example_of(kind: Any) -> Any:
    return kind(*[good_value(field, hint) for field, hint in get_type_hints(kind).items()])


def test_the_wire_format():
    lines = [
        f"{number} {kind.__name__} "
        + ", ".join(f"{name}: {type_name(hint)}" for name, hint in get_type_hints(kind).items())
        for number, kind in enumerate(TYPES)
    ]
    assert lines == GOLDEN.strip().splitlines()


def test_the_version_belongs_to_the_wire_format():
    assert messages.PROTOCOL_VERSION == 7


def test_every_size_is_that_of_a_field():
    fields = {field for kind in TYPES for field, hint in get_type_hints(kind).items() if hint in (bytes, list[bytes])}
    assert set(FIXED_SIZES) == set(rows._SIZES) <= fields


def test_sizes_are_those_of_identifiers():
    assert FIXED_SIZES["process_id"] == ids.PROCESS_ID_BYTES
    assert FIXED_SIZES["task_id"] == ids.TASK_ID_BYTES
    assert FIXED_SIZES["object_id"] == ids.OBJECT_ID_BYTES


def test_constants_of_the_wire():
    assert (messages.FLAG_RETRYABLE, messages.CANCEL_FORCE, messages.CANCEL_RECURSIVE) == (1, 1, 2)
    assert (messages.PENDING, messages.ALIVE, messages.RESTARTING, messages.DEAD) == (0, 1, 2, 3)


def test_every_message_is_in_one_union():
    # A message in no union could be sent by nobody; "Leaving" and its like must not be open to drivers.
    # Hosts, too, send to peers, watch them, say goodbye and answer questions; what is about objects between machines
    # also goes by links. Drivers and the broker alike say what they have taken of workers' output. The broker passes
    # ``Started`` on.
    of_hosts = FROM_HOST - {Peer, Watch, Goodbye, messages.Inspected}
    directions = [FROM_WORKER | FROM_DRIVER, of_hosts, FROM_BROKER - {LogsTaken, Started}, FROM_PEER,
                  FROM_PEER_TO_HOST - FROM_PEER, FROM_LINK - FROM_PEER, HANDSHAKE]  # fmt: skip
    assert sum(len(direction) for direction in directions) == len(TYPES)
    assert {Pull, Chunk, PullFailed, LinkHello, LinkWelcome} == FROM_LINK
    assert frozenset().union(*directions) == EVERYTHING == frozenset(get_args(messages.Message))
    assert {DRIVER: FROM_DRIVER, WORKER: FROM_WORKER, HOST: FROM_HOST, OBSERVER: FROM_OBSERVER} == MAY_SEND
    assert frozenset({Query, Goodbye}) == FROM_OBSERVER


def test_what_drivers_and_workers_alone_may_send():
    only_workers = {
        "Done", "Reply", "Started", "Returned", "Blocked", "ActorExiting", "Leaving", "Staying", "Killable",
    }  # fmt: skip
    assert {kind.__name__ for kind in FROM_WORKER - FROM_DRIVER} == only_workers
    assert {kind.__name__ for kind in FROM_DRIVER - FROM_WORKER} == {"Goodbye", "LogsTaken"}


@pytest.mark.parametrize("kind", TYPES)
def test_each_comes_back(kind):
    message = example_of(kind)
    row = msgpack.unpackb(msgpack.packb(encode_row(message)))
    assert row[0] == TYPES.index(kind)
    back = decode_row(row, EVERYTHING)
    assert back == message
    assert type(back) is kind


@pytest.mark.parametrize("kind", TYPES)
def test_each_field_is_checked(kind):
    message = example_of(kind)
    for position, (field, hint) in enumerate(get_type_hints(kind).items(), start=1):
        wrong = list(WRONG[hint])
        if field in FIXED_SIZES and hint in (bytes, list[bytes]):
            sizes = (0, FIXED_SIZES[field] - 1, FIXED_SIZES[field] + 1)
            wrong += [[b"x" * size] if hint == list[bytes] else b"x" * size for size in sizes]
        for value in wrong:
            row = list(encode_row(message))
            row[position] = value
            with pytest.raises(ProtocolError, match=f"malformed {kind.__name__}"):
                decode_row(row, EVERYTHING)


@pytest.mark.parametrize("kind", TYPES)
def test_the_number_of_fields_is_checked(kind):
    row = list(encode_row(example_of(kind)))
    for wrong in (row[:-1], [*row, None]):
        with pytest.raises(ProtocolError):
            decode_row(wrong, EVERYTHING)


@pytest.mark.parametrize("kind", TYPES)
def test_only_by_those_who_may(kind):
    row = list(encode_row(example_of(kind)))
    with pytest.raises(ProtocolError, match="may not be sent"):
        decode_row(row, EVERYTHING - {kind})


@pytest.mark.parametrize(
    "row", [None, 5, "x", {}, [], [None], ["0"], [True], [-1], [len(TYPES)], [2**70], [0.0], (20, True)]
)
def test_no_message_at_all(row):
    with pytest.raises(ProtocolError, match="not a message"):
        decode_row(row, EVERYTHING)


def test_the_ends_of_the_range_of_integers():
    for value in (0, 2**63 - 1):
        assert decode_row([NUMBER_OF[BorrowAck][0], value], EVERYTHING).token == value


@given(
    st.lists(
        st.none() | st.booleans() | st.integers(-5, 70) | st.binary(max_size=30) | st.lists(st.binary(max_size=3)),
        max_size=8,
    )
)
def test_random_rows(row):
    try:
        message = decode_row(list(row), EVERYTHING)
    except ProtocolError:
        return
    assert list(encode_row(message)) == row
