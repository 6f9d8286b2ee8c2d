"""The messages of the protocol: the wire format changes only on purpose, and all fields are checked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin, get_type_hints

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zray import ids
from zray.protocol import messages, questions, records, rows, schema, state_questions
from zray.protocol.messages import (
    DRIVER,
    FROM_BROKER,
    FROM_CHANNEL,
    FROM_DRIVER,
    FROM_HOST,
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
    ChannelHello,
    ChannelWelcome,
    Chunk,
    Forward,
    Goodbye,
    LaneMessage,
    LogsTaken,
    ProtocolError,
    Pull,
    PullFailed,
    Started,
    Watch,
)
from zray.protocol.questions import Question
from zray.protocol.rows import NUMBER_OF, TYPES, decode_handshake, decode_row, encode_row
from zray.protocol.state_questions import RowsOfOwner, StateQuestion
from zray.scheduling.constraint import Term

EVERYTHING = frozenset(TYPES)

GOLDEN = """
0 Hello protocol: int, python: str, zray: str, kind: str, process_id: bytes, info: JoinInfo
1 Welcome incarnation: bytes, max_message_bytes: int, cluster: ClusterInfo
2 Refused reason: str, versions: list[VersionPair]
3 Submit task_id: bytes, attempt: int, function_id: bytes, shape: bytes, flags: int, near: bytes, payload: bytes
4 Cancel task_id: bytes, mode: int
5 Done task_id: bytes, attempt: int, run_us: int, payload: bytes
6 Reply owner: bytes, task_id: bytes, attempt: int, payload: bytes
7 Returned task_ids: list[bytes]
8 Blocked blocked: bool
9 FunctionPut function_id: bytes, name: str, blob: bytes
10 FunctionGet function_id: bytes
11 ActorCreate actor_id: bytes, function_id: bytes, spec: ActorSpec, request: int, get_if_exists: bool, ready: bool, near: bytes, payload: bytes
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
22 Forward dest: bytes, rows: bytes
23 Goodbye reason: str
24 HostReady resources: dict[str, int], info: HostInfo
25 WorkerStarted worker_id: bytes, pid: int
26 WorkerDied worker_id: bytes, running: bytes, kind: str, message: str
27 WorkerLogs entries: list[WorkerLines], left_out: dict[bytes, int]
28 LogsFlushed request: int
29 ChannelRefusals counts: dict[str, int]
30 Run task_id: bytes, attempt: int, function_id: bytes, shape: bytes, gpus: list[int], payload: bytes, lease: int
31 Result task_id: bytes, attempt: int, source: bytes, actor: bytes, payload: bytes
32 Failed task_id: bytes, attempt: int, kind: str, message: str, culprit: bool
33 CancelTask task_id: bytes, mode: int
34 JobConfig job_id: bytes, settings: JobSettings
35 FunctionBlob function_id: bytes, found: bool, name: str, blob: bytes
36 ActorStart actor_id: bytes, incarnation: int, function_id: bytes, spec: ActorSpec, creator: bytes, gpus: list[int], payload: bytes
37 ActorRun caller: bytes, seq: int, task_id: bytes, attempt: int, payload: bytes
38 ActorStop actor_id: bytes
39 ActorState actor_id: bytes, incarnation: int, state: int, last_seq: int, message: str, error: bytes
40 ActorFound request: int, actor_id: bytes, spec: ActorSpec
41 NoSuchActor request: int
42 NameTaken request: int, is_dead: bool
43 ProcessDied process_id: bytes, message: str
44 Delivered source: bytes, rows: bytes
45 ExitIfIdle reason: str, surplus: bool
46 Notice text: str
47 Logs entries: list[PrintedLines], left_out: int
48 StartWorker worker_id: bytes, environment: EnvironmentSpec
49 KillWorker worker_id: bytes, reason: str, kind: str
50 FlushLogs request: int
51 ObjectRequest object_id: bytes, missing: bytes
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
68 ChannelWanted key: bytes
69 ChannelOffer address: str, token: bytes, key: bytes
70 ChannelHello process_id: bytes, token: bytes
71 ChannelWelcome process_id: bytes
72 CancelObject object_id: bytes, mode: int
73 Killable task_id: bytes
74 LogsTaken size_bytes: int
75 Started task_id: bytes, attempt: int
76 LeftBehind object_ids: list[bytes]
77 Inspect request: int
78 Inspected request: int, activity: Activity
79 HostInspected request: int, store: StoreUse, memory: dict[int, int]
80 HostsQuery request: int
81 ResourcesQuery request: int, free: bool
82 NamedActorsQuery request: int, namespace: str | None
83 MemberQuery request: int, process_id: bytes
84 ActorsQuery request: int
85 WorkersQuery request: int
86 CountsQuery request: int
87 StatusQuery request: int
88 ExplainTask request: int, task_id: bytes
89 ExplainActor request: int, actor_id: bytes
90 FlushOutput request: int
91 HostList request: int, hosts: list[HostState]
92 Resources request: int, amounts: dict[str, float]
93 NamedActors request: int, names: list[ActorName]
94 Membership request: int, is_member: bool
95 ActorList request: int, actors: list[ActorRow]
96 WorkerList request: int, workers: list[WorkerRow]
97 BrokerCounts request: int, tasks: int, queued: int, dispatched: int, actors: int, workers: int, processes: int, functions: int, dropped_frames: int
98 ClusterStatus request: int, broker: BrokerStatus, hosts: list[HostStatus], jobs: list[JobStatus], actors: dict[str, int], waiting: list[WaitingStatus], running: list[RunningStatus], waiting_for_arguments: dict[str, int]
99 Explanation request: int, state: str, name: str, why: str, pid: int, host: str, activity: Activity | None
100 OutputFlushed request: int
101 Yield owner: bytes, task_id: bytes, attempt: int, position: int, payload: bytes
102 Item task_id: bytes, attempt: int, source: bytes, actor: bytes, position: int, payload: bytes
103 StreamCredit task_id: bytes, attempt: int, limit: int
104 KvPut request: int, namespace: bytes, key: bytes, value: bytes, overwrite: bool
105 KvGet request: int, namespace: bytes, key: bytes, with_value: bool
106 KvDelete request: int, namespace: bytes, key: bytes, is_prefix: bool
107 KvList request: int, namespace: bytes, prefix: bytes
108 KvCount request: int, n_keys: int, fault: str
109 KvValue request: int, found: bool, value: bytes
110 KvKeys request: int, keys: list[bytes]
111 LocationsAsked request: int, object_ids: list[bytes]
112 LocationsTold request: int, found: list[ObjectLocation]
113 StateOfActors request: int
114 StateOfHosts request: int
115 StateOfWorkers request: int
116 StateOfJobs request: int
117 StateOfTasks request: int, limit: int
118 StateOfObjects request: int, limit: int
119 ActorRecords request: int, actors: list[ActorRecord], forgotten: int
120 HostRecords request: int, hosts: list[HostRecord], forgotten: int
121 WorkerRecords request: int, workers: list[WorkerRecord], forgotten: int
122 JobRecords request: int, jobs: list[JobRecord], forgotten: int
123 OwnerRecords request: int, processes: list[ProcessRecords], left_out: int
124 InspectTasks request: int, limit: int
125 InspectObjects request: int, limit: int
126 RecordsInspected request: int, total: int, rows: bytes, running: list[bytes], ran_ms: list[int]
127 TaskRows rows: list[TaskRow]
128 ObjectRows rows: list[ObjectRow]
129 EnvironmentPut environment_id: bytes, environment: EnvironmentSpec, eager: bool
130 GroupCreate group_id: bytes, request: int, spec: GroupSpec
131 GroupRemove group_id: bytes
132 GroupWatch request: int, group_id: bytes
133 GroupNamed request: int, is_taken: bool
134 GroupSettled request: int, is_created: bool
135 GroupsQuery request: int, group: bytes, name: str, namespace: str
136 GroupList request: int, groups: list[GroupRow]
137 MemoryShort used: int, limit: int, whose: str, threshold: float, workers: dict[bytes, int], largest: list[ProcessMemory]
138 TimeLimited owner: bytes, task_id: bytes, attempt: int, limit_s: float
139 TimeLimitOver task_id: bytes
140 TimeIsUp task_id: bytes
141 TimedOut task_id: bytes, attempt: int, actor: bytes, message: str
142 PinCpus cpus: list[int]
143 StateOfEnvironments request: int
144 EnvironmentRecords request: int, environments: list[EnvironmentRecord], forgotten: int
145 LaneWanted actor: bytes, machine: str, max_message_bytes: int
146 LaneOffer address: str, token: bytes, max_message_bytes: int
147 LaneSwitched lane: bytes
148 LaneFrame frame: bytes
149 Leased worker_id: bytes, lease: int, shape: bytes, grant_key: bytes
150 LeaseEnd worker_id: bytes, lease: int
151 LeaseCancel worker_id: bytes, lease: int, task_id: bytes, mode: int
152 LeaseEnded worker_id: bytes, lease: int
153 LeaseLost worker_id: bytes, lease: int, kind: str, message: str, culprit: bytes | None
154 LeaseOver lease: int, is_dead: bool
155 LeaseLeft lease: int, runs: bool
156 LeaseRun lease: int, task_id: bytes, attempt: int, function_id: bytes, payload: bytes
157 LeaseReturned task_id: bytes, attempt: int
"""
"""The wire format of protocol version 19. Changing a line here breaks peers: raise PROTOCOL_VERSION with it."""
GOLDEN_RECORDS = """
JobSettings namespace: str, sys_path: list[str], cwd: str, ignore_unhandled_errors: bool, actors_are_detached: bool, logging: str, ray_name: bool
JoinInfo pid: int, max_message_bytes: int, job: JobSettings, shows_logs: bool
VersionPair name: str, joiner: str, cluster: str
HostInfo hostname: str, ip: str, pid: int, machine_id: str, store: str, fetch: str, session: str, labels: dict[str, str], idle_timeout_s: float, pins_cpus: bool
HostState host_id: bytes, info: HostInfo, total: dict[str, float], free: dict[str, float], workers: int
ClusterInfo job_id: bytes, hosts: list[HostState]
EnvironmentPart uri: str, kind: str, details: str, content: bytes, stored: bytes, kept_by: bytes, size: int
EnvironmentSpec text: str, hook: bytes, parts: list[EnvironmentPart], timeout_s: float
ObjectLocation object_id: bytes, hosts: list[bytes], size: int | None
ActorSpec class_name: str, name: str, namespace: str, detached: bool, max_restarts: int, max_concurrency: int, ordered: bool, has_coroutines: bool, placement: bytes, running: bytes, handle: bytes, meta: bytes, groups: dict[str, int]
Selector terms: list[Term]
GroupSpec name: str, namespace: str, strategy: str, bundles: list[dict[str, int]], detached: bool, soft_target: bytes, selectors: list[Selector], topology: str
RunningCall name: str, seconds: float, task_id: bytes
AwaitedObject object_id: bytes, maker: str, actor_id: bytes | None
Activity running: list[RunningCall], awaited: list[AwaitedObject], arguments: dict[str, int]
ProcessMemory pid: int, own: int, resident: int, name: str
StoreUse capacity: int, used: int, idle: int, spilled: int
WorkerLines worker_id: bytes, name: str, pid: int, stream: str, lines: list[str]
PrintedLines name: str, pid: int, stream: str, lines: list[str]
ActorName namespace: str, name: str
ActorRow actor_id: bytes, class_name: str, name: str, state: str, pid: int, restarts: int
WorkerRow worker_id: bytes, pid: int, state: str, job_id: bytes, tasks: int, blocked: bool, grant: str, actor: str
GroupRow group_id: bytes, name: str, namespace: str, state: str, strategy: str, bundles: list[dict[str, float]], hosts: list[bytes], detached: bool, job_id: bytes, attempts: int, waited_s: float, why: str, can_be_placed: bool, selectors: list[Selector], topology: str, domain: str
BrokerStatus address: str, uptime_s: float, zray: str, python: str, protocol: int, refused: dict[str, int], dropped_frames: int, journal: str, journal_fault: str
Amount total: float, used: float
WorkerCounts starting: int, idle: int, busy: int, actors: int, ending: int
HostStatus host_id: bytes, hostname: str, pid: int, session: str, heard_s: float, labels: dict[str, str], resources: dict[str, Amount], store: StoreUse | None, workers: WorkerCounts, refused: dict[str, int]
JobStatus job_id: bytes, namespace: str, driver_pid: int | None, tasks_running: int, tasks_waiting: int, actors: int
WaitingStatus what: str, count: int, resources: dict[str, float], can_be_placed: bool
RunningStatus what: str, actor: str, host_id: bytes, pid: int, memory_bytes: int | None, answers: bool, waits_for: list[str], name: str, seconds: float | None
ActorRecord actor_id: bytes, class_name: str, name: str, namespace: str, state: str, job_id: bytes, host: bytes, worker: bytes, pid: int, detached: bool, restarts: int, resources: dict[str, float], reason: str, constructed: bool
HostRecord host_id: bytes, hostname: str, ip: str, labels: dict[str, str], resources: dict[str, float], reason: str, began_s: float, ended_s: float | None, in_order: bool
WorkerRecord worker_id: bytes, is_driver: bool, job_id: bytes, host: bytes, ip: str, pid: int, runs: bytes, waits: bool, exit_type: str, reason: str, began_s: float | None, ended_s: float | None
JobRecord job_id: bytes, namespace: str, driver_id: bytes, pid: int, reason: str, began_s: float, ended_s: float | None
EnvironmentRecord host: bytes, text: str, succeeded: bool, setup_s: float | None, workers: int, error: str
ProcessRecords process_id: bytes, job_id: bytes, total: int, rows: bytes, running: list[bytes], ran_ms: list[int]
TaskRow task_id: bytes, attempt: int, name: str, function: str, state: str, actor: bytes, parent: bytes, worker: bytes, shape: bytes, error_type: str, error: str, created_s: float, started_s: float | None, ended_s: float | None, argument: bytes
ObjectRow object_id: bytes, size: int | None, task_status: str, attempt: int, reference: str
Term key: str, operator: int, values: list[str]
"""
"""The wire format of the records that the messages carry."""

FIXED_SIZES = {
    "process_id": 16,
    "owner": 16,
    "dest": 16,
    "source": 16,
    "caller": 16,
    "announcer": 16,
    "holder": 16,
    "worker_id": 16,
    "host_id": 16,
    "creator": 16,
    "actor_id": 24,
    "task_id": 24,
    "object_id": 28,
    "function_id": 16,
    "environment_id": 16,
    "object_ids": 28,
    "task_ids": 24,
    "sources": 16,
    "lost": 16,
    "group_id": 18,
    "incarnation": 8,
}
"""The size in bytes of fields that are identifiers, or lists of them. Incarnations of actors are numbers."""

VALUES: dict[Any, Any] = {
    int: 5,
    str: "text",
    bool: True,
    bytes: b"bytes",
    list[int]: [1, 2],
    list[bytes]: [b"a", b""],
    float: 1.5,
    list[str]: ["a", ""],
    dict[str, int]: {"CPU": 10_000},
    dict[str, float]: {"CPU": 0.5, "GPU": 1},
    dict[str, str]: {"zone": "a"},
    dict[bytes, int]: {b"worker": 3},
    dict[int, int]: {4711: 3},
    list[bytes]: [b"host", b""],
    list[dict[str, int]]: [{"CPU": 10_000}, {}],
    list[dict[str, float]]: [{"CPU": 0.5}],
}
WRONG: dict[Any, list[Any]] = {
    int: [None, "5", 1.0, True, -1, 2**63, b""],
    str: [None, b"text", 5],
    bool: [None, 0, 1, "true"],
    bytes: [None, "text", 5, []],
    list[int]: [None, {}, 5, b"12", [1, "2"], [True]],
    list[bytes]: [None, {}, ["text"], [b"x", None]],
    float: [None, "1.5", True, -0.5, -1, float("nan"), b""],
    list[str]: [None, {}, "text", [b"x"], ["a", 5]],
    dict[str, int]: [None, [], 5, {5: 5}, {"x": "5"}, {"x": -1}, {"x": 1.0}],
    dict[str, float]: [None, [], {b"x": 1.0}, {"x": float("nan")}, {"x": None}],
    dict[str, str]: [None, [], {"x": 5}, {5: "x"}],
    dict[bytes, int]: [None, [], 5, {"x": 5}, {b"x": "5"}],
    dict[int, int]: [None, [], {"x": 5}, {5: True}],
    list[dict[str, int]]: [None, {}, [5], [{5: 5}], [{"x": -1}]],
    list[dict[str, float]]: [None, {}, [5], [{"x": float("nan")}]],
}


def type_name(hint: Any) -> str:
    name = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    return (
        name.replace("zray.protocol.records.", "")
        .replace("zray.protocol.questions.", "")
        .replace("zray.protocol.state_questions.", "")
        .replace("zray.scheduling.constraint.", "")
    )


def is_optional(hint: Any) -> bool:
    return type(None) in get_args(hint)


def given_type(hint: Any) -> Any:
    """The type of a field without ``| None``."""
    return get_args(hint)[0] if is_optional(hint) else hint


def record_in(hint: Any) -> Any:
    """The class of the record or records in a field; None if it has none."""
    inner = [hint, *get_args(hint)]
    return next((each for each in inner if hasattr(each, "_fields")), None)


def good_value(field: str, hint: Any) -> Any:
    hint = given_type(hint)
    if field in FIXED_SIZES and hint in (bytes, list[bytes]):
        identifier = b"\x07" * FIXED_SIZES[field]
        return [identifier, identifier] if hint == list[bytes] else identifier
    record = record_in(hint)
    if record is None:
        return VALUES[hint]
    example = example_of(record)
    if hint == record:
        return example
    return [example, example] if get_origin(hint) is list else {"a": example}


def example_of(kind: Any) -> Any:
    return kind(*[good_value(field, hint) for field, hint in get_type_hints(kind).items()])


def wrong_values(field: str, hint: Any) -> Iterator[tuple[str, Any]]:
    """Values that a field must refuse, as they would arrive, each with the path to the fault within the field."""
    given = given_type(hint)
    record = record_in(given)
    if field in FIXED_SIZES and given in (bytes, list[bytes]):
        for size in (0, FIXED_SIZES[field] - 1, FIXED_SIZES[field] + 1):
            yield "", [b"x" * size] if given == list[bytes] else b"x" * size
    if record is None:
        allowed = ([None] if is_optional(hint) else []) + ([-1] if field == "max_restarts" else [])
        yield from (("", value) for value in WRONG[given] if value not in allowed)
        return
    yield from (("", value) for value in (5, "text", b"", {5: 5}, *([] if is_optional(hint) else [None])))
    for place, row in wrong_rows(record):
        if given == record:
            yield f".{place}", row
        elif get_origin(given) is list:
            yield f"[1].{place}", [as_arrived(example_of(record)), row]
        else:
            yield "", {"x": row}


def wrong_rows(kind: Any) -> Iterator[tuple[str, list[Any]]]:
    """Arrays that are almost a record of this kind, each with the path to the fault."""
    row = as_arrived(example_of(kind))
    for position, (field, hint) in enumerate(get_type_hints(kind).items()):
        for place, value in wrong_values(field, hint):
            yield field + place, [*row[:position], value, *row[position + 1 :]]
    yield f"{len(row) - 1} fields instead of {len(row)}", row[:-1]


def as_arrived(record: Any) -> list[Any]:
    row: list[Any] = msgpack.unpackb(msgpack.packb(record), strict_map_key=False)
    return row


RECORDS = [
    kind
    for module in (records, questions, state_questions)
    for kind in vars(module).values()
    if isinstance(kind, type) and hasattr(kind, "_fields") and kind.__module__ == module.__name__ and kind not in TYPES
] + [Term]


def test_the_wire_format():
    lines = [
        f"{number} {kind.__name__} "
        + ", ".join(f"{name}: {type_name(hint)}" for name, hint in get_type_hints(kind).items())
        for number, kind in enumerate(TYPES)
    ]
    assert lines == GOLDEN.strip().splitlines()


def test_the_wire_format_of_records():
    lines = [
        f"{kind.__name__} " + ", ".join(f"{name}: {type_name(hint)}" for name, hint in get_type_hints(kind).items())
        for kind in RECORDS
    ]
    assert lines == GOLDEN_RECORDS.strip().splitlines()


def test_the_version_belongs_to_the_wire_format():
    assert messages.PROTOCOL_VERSION == 19


def test_every_size_is_that_of_a_field():
    fields = {
        field
        for kind in (*TYPES, *RECORDS)
        for field, hint in get_type_hints(kind).items()
        if given_type(hint) in (bytes, list[bytes])
    }
    assert set(FIXED_SIZES) == set(schema.SIZES) <= fields


def test_sizes_are_those_of_identifiers():
    assert FIXED_SIZES["process_id"] == ids.PROCESS_ID_BYTES
    assert FIXED_SIZES["task_id"] == ids.TASK_ID_BYTES
    assert FIXED_SIZES["object_id"] == ids.OBJECT_ID_BYTES


def test_constants_of_the_wire():
    assert (messages.FLAG_RETRYABLE, messages.CANCEL_FORCE, messages.CANCEL_RECURSIVE) == (1, 1, 2)
    assert (messages.PENDING_CREATION, messages.ALIVE, messages.RESTARTING, messages.DEAD) == (0, 1, 2, 3)


def test_every_message_is_in_one_union():
    # No process could send a message that is in no union. Drivers must not send "Leaving" and the like.
    # Hosts also send to peers, watch them and say goodbye. Messages about objects between machines also use channels.
    # Both drivers and the broker report the output that they have taken. The broker passes ``Started`` on.
    of_hosts = FROM_HOST - {Forward, Watch, Goodbye}
    directions = [FROM_WORKER | FROM_DRIVER, of_hosts, FROM_BROKER - {LogsTaken, Started}, FROM_PEER,
                  FROM_PEER_TO_HOST - FROM_PEER, FROM_CHANNEL - FROM_PEER, HANDSHAKE, frozenset(get_args(LaneMessage)),
                  frozenset(get_args(RowsOfOwner))]  # fmt: skip
    assert sum(len(direction) for direction in directions) == len(TYPES)
    assert {Pull, Chunk, PullFailed, ChannelHello, ChannelWelcome} == FROM_CHANNEL
    assert frozenset().union(*directions) == EVERYTHING == frozenset(get_args(messages.Message))
    assert {DRIVER: FROM_DRIVER, WORKER: FROM_WORKER, HOST: FROM_HOST, OBSERVER: FROM_OBSERVER} == MAY_SEND
    assert frozenset({*get_args(Question), *get_args(StateQuestion), Goodbye}) == FROM_OBSERVER


def test_messages_that_only_drivers_or_only_workers_may_send():
    only_workers = {
        "Done", "Reply", "Yield", "Started", "Returned", "Blocked", "ActorExiting", "Leaving", "Staying", "Killable",
        "TimeLimited", "TimeLimitOver", "LeaseLeft",
    }  # fmt: skip
    assert {kind.__name__ for kind in FROM_WORKER - FROM_DRIVER} == only_workers
    assert {kind.__name__ for kind in FROM_DRIVER - FROM_WORKER} == {"Goodbye", "LogsTaken"}


@pytest.mark.parametrize("kind", TYPES)
def test_each_message_survives_a_round_trip(kind):
    message = example_of(kind)
    row = as_arrived(encode_row(message))
    assert row[0] == TYPES.index(kind)
    back = decode_row(row, EVERYTHING)
    assert back == message
    assert type(back) is kind


def test_records_survive_a_round_trip():
    created = messages.ActorCreate(b"a" * 24, b"f" * 16, example_of(records.ActorSpec), 1, False, True, b"", b"")
    assert type(decode_row(as_arrived(encode_row(created)), EVERYTHING).spec) is records.ActorSpec
    status = example_of(questions.ClusterStatus)
    back = decode_row(as_arrived(encode_row(status)), EVERYTHING)
    (host, _), (amount,) = back.hosts, back.hosts[0].resources.values()
    assert (type(host), type(host.store), type(amount)) == (
        questions.HostStatus, records.StoreUse, questions.Amount
    )  # fmt: skip


def test_optional_fields():
    host = example_of(questions.HostStatus)._replace(store=None)
    status = example_of(questions.ClusterStatus)._replace(hosts=[host])
    assert decode_row(as_arrived(encode_row(status)), EVERYTHING) == status


@pytest.mark.parametrize("kind", TYPES)
def test_each_field_is_checked_and_named(kind):
    number, *good = as_arrived(encode_row(example_of(kind)))
    for place, fields in wrong_rows(kind):
        with pytest.raises(ProtocolError, match=f"^malformed {kind.__name__}: {re.escape(place)}$"):
            decode_row([number, *fields], EVERYTHING)
    assert decode_row([number, *good], EVERYTHING) == example_of(kind)


def test_prepared_decoders_are_the_same():
    rows.prepare()
    for kind in TYPES:
        assert decode_row(as_arrived(encode_row(example_of(kind))), EVERYTHING) == example_of(kind)


def test_decoders_of_questions_are_not_prepared(monkeypatch):
    generated = []
    monkeypatch.setattr(rows, "_generate", lambda number: generated.append(TYPES[number]))
    rows.prepare()
    asked = {kind for kind in TYPES if kind.__module__ in (questions.__name__, state_questions.__name__)}
    assert asked and set(generated) == set(TYPES) - asked


def test_classes_with_the_same_fields_share_their_test():
    assert schema.fits_message(messages.BorrowAck) is schema.fits_message(messages.BorrowAck)
    schema._of_text.cache_clear()
    for kind in TYPES:
        schema.fits_message(kind)
    counts = schema._of_text.cache_info()
    assert counts.hits > counts.misses / 3


def test_an_annotation_is_read_once_in_each_module():
    schema._hint.cache_clear()
    for kind in TYPES:
        assert schema._hints(kind) == get_type_hints(kind)
    counts = schema._hint.cache_info()
    assert counts.misses == len({(kind.__module__, text) for kind in TYPES for text in kind.__annotations__.values()})
    assert counts.hits > 3 * counts.misses


HELLO = messages.Hello(messages.PROTOCOL_VERSION, "3.11", "0.1", DRIVER, b"p" * 16, records.JoinInfo(7))


def test_the_common_fields_of_a_hello_of_another_version_are_read():
    number, _, *head, info = as_arrived(encode_row(HELLO))
    for rest in ([{"pid": 1}], [], [info, "more"], [info]):
        hello = decode_handshake([number, messages.PROTOCOL_VERSION + 1, *head, *rest])
        assert hello == HELLO._replace(protocol=messages.PROTOCOL_VERSION + 1, info=records.JoinInfo())
    for row in (
        [number, messages.PROTOCOL_VERSION, *head, {"pid": 1}],
        [number, "9", *head, info],
        [number, 9, *head[1:]],
    ):
        with pytest.raises(ProtocolError, match="malformed Hello"):
            decode_handshake(row)
    assert decode_handshake(as_arrived(encode_row(HELLO))) == HELLO


@pytest.mark.parametrize("kind", TYPES)
def test_the_number_of_fields_is_checked(kind):
    row = as_arrived(encode_row(example_of(kind)))
    for wrong in (row[:-1], [*row, None]):
        with pytest.raises(ProtocolError):
            decode_row(wrong, EVERYTHING)


@pytest.mark.parametrize("kind", TYPES)
def test_messages_of_other_roles_are_refused(kind):
    row = as_arrived(encode_row(example_of(kind)))
    with pytest.raises(ProtocolError, match="may not be sent"):
        decode_row(row, EVERYTHING - {kind})


@pytest.mark.parametrize(
    "row", [None, 5, "x", {}, [], [None], ["0"], [True], [-1], [len(TYPES)], [2**70], [0.0], (20, True)]
)
def test_rows_that_are_not_messages(row):
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
