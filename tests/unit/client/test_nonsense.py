"""Random messages of valid form, from the broker or another process: a client drops them or handles them."""

from __future__ import annotations

import contextlib
import itertools

import msgpack
import pytest

from tests.unit.client.wiring import FUNCTION, HOST, INLINE_ARGUMENTS, Process, Wire, actor_spec
from tests.unit.protocol.nonsense import ODD, Nonsense
from zray.client.core.payloads import pack_outcome
from zray.client.core.states import PENDING
from zray.client.core.tasks import Task
from zray.ids import put_id, return_id, task_of
from zray.protocol import messages as m
from zray.protocol.codec import pack_body, unpack_messages
from zray.protocol.contract import BROKER
from zray.protocol.messages import FROM_BROKER, FROM_DRIVER, FROM_PEER, FROM_WORKER, ProtocolError
from zray.protocol.questions import CountsQuery
from zray.protocol.routing import through_broker

STEPS = 300
ACTOR = b"actor".ljust(24, b"\0")
OTHER_PROCESS = b"s" * 16


def busy_process() -> tuple[Process, list[bytes]]:
    """A process with owned and borrowed objects, tasks and calls under way, tasks to run, readers that wait."""
    wire = Wire("driver", "worker")
    driver, worker = wire.everybody
    mine = [driver.put(), driver.put(stored=True), driver.put([driver.put()])]
    theirs = [worker.put(), worker.put(stored=True)]
    for object_id in theirs:
        driver.core.references.load(object_id)
        driver.request(object_id)
    results = [driver.submit(worker, retries=1), driver.submit(worker, [mine[0]]), driver.submit(worker, n_returns=3)]
    core = driver.core
    view = core.actors.view(ACTOR, True)
    for _ in range(3):
        task_id = core.new_task_id()
        core.references.own(return_id(task_id, 1))
        core.actors.submit(view, Task(task_id, view, b"", b"", 0, b"", INLINE_ARGUMENTS, 1, 1, b""))
        results.append(return_id(task_id, 1))
    core.query(CountsQuery, lambda value: None)
    driver.flush()
    known = [driver.id, worker.id, OTHER_PROCESS, HOST, ACTOR, FUNCTION, *mine, *theirs, *results]
    return driver, [*known, *map(task_of, results), put_id(driver.id + bytes(8))]


def outcome(nonsense: Nonsense) -> bytes:
    """An answer that may be malformed."""
    rng = nonsense.random
    returns = [
        [
            rng.choice([1, 2, 3]),
            rng.choice([b"", msgpack.packb([])]),
            rng.choice([0, 5]),
            [nonsense.identifier(28)] * rng.randrange(2),
        ]
        for _ in range(rng.choice([1, 1, 1, 3, 0]))
    ]
    fields = [nonsense.identifier(16), returns, [nonsense.identifier(28)] * rng.randrange(2), rng.random() < 0.2]
    if rng.random() < 0.2:
        fields[rng.randrange(4)] = rng.choice(ODD)
    if rng.random() < 0.2 and returns:
        returns[0][rng.randrange(4)] = rng.choice(ODD)
    try:
        return bytes(msgpack.packb(fields))
    except OverflowError:
        return b""


def message(nonsense: Nonsense) -> object:
    """A message that a broker may send: its own, or one of another process."""
    rng = nonsense.random
    made = nonsense.message(FROM_BROKER)
    if rng.random() < 0.4:
        inner = [nonsense.message(FROM_PEER) for _ in range(rng.randrange(1, 4))]
        return m.Delivered(nonsense.identifier(16), pack_body(inner) if rng.random() < 0.95 else b"\xc1")
    if isinstance(made, m.Result) or rng.random() < 0.1:
        actor = rng.choice([b"", ACTOR])
        return m.Result(nonsense.identifier(24), rng.randrange(2), nonsense.identifier(16), actor, outcome(nonsense))
    return made


@pytest.mark.parametrize("seed", range(40))
def test_nonsense_from_all_processes(seed):
    process, known = busy_process()
    core, nonsense = process.core, Nonsense(seed, known)
    for _ in range(STEPS):
        said = message(nonsense)
        with contextlib.suppress(ProtocolError):
            core.receive(BROKER, said, 0.0)
        if nonsense.random.random() < 0.2 and (task := core.execution.take()) is not None and task.actor_start is None:
            core.execution.refuse(task, "nonsense")
        core.collect(0.0)
        for sent in through_broker(core.take_output().sends):
            assert unpack_messages(pack_body([sent]), FROM_DRIVER | FROM_WORKER)
            if isinstance(sent, m.Forward):
                assert unpack_messages(sent.rows, FROM_PEER | m.FROM_PEER_TO_HOST)
    fresh = process.put()  # it still works
    assert process.entry(fresh).status != PENDING
    core.lose_cluster("the end", 0.0)


GOOD = [b"options", 1, b"", b"", b"", 0, [], []]
REF = [0, b"o" * 28, 1, b"", b"", 0]
PAYLOADS = [
    b"", b"\xc1", b"\x90", msgpack.packb(5), msgpack.packb(GOOD[:-1]), msgpack.packb([*GOOD, 1]), b"\x98" + b"\x80" * 8,
    *(msgpack.packb([*GOOD[:n], None, *GOOD[n + 1 :]]) for n in (0, 6, 7)),
    *(msgpack.packb([*GOOD[:6], [[*REF[:n], None, *REF[n + 1 :]]], []]) for n in range(6)),
    msgpack.packb([*GOOD[:6], [[0, b"short", 1, b"", b"", 0]], []]), msgpack.packb([*GOOD[:6], [5], []]),
    msgpack.packb([*GOOD[:7], [0, 1]]), msgpack.packb([*GOOD[:7], [0, 1, "two"]]),
]  # fmt: skip


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_call_that_cannot_be_read_is_answered(payload):
    """Its caller gets an error, and the actor goes on."""
    wire = Wire("driver", "worker")
    driver, worker = wire.everybody
    execution = worker.core.execution
    counter = itertools.count(1)
    for kind in (m.Run, m.ActorRun):
        task_id = driver.id + next(counter).to_bytes(8, "big")
        if kind is m.Run:
            worker.core.receive(BROKER, m.Run(task_id, 0, FUNCTION, b"\x90", [], payload), 0.0)
        else:
            worker.core.receive(BROKER, m.ActorRun(driver.id, 1, task_id, 0, payload), 0.0)
        task = execution.take()
        assert task is not None and task.fault
        execution.refuse(task, task.fault)
        (answer,) = [
            each for each in through_broker(worker.core.take_output().sends) if isinstance(each, (m.Done, m.Reply))
        ]
        assert b"cannot be read" in answer.payload and execution.running == 0
    worker.core.receive(BROKER, m.ActorStart(ACTOR, 0, FUNCTION, actor_spec(), driver.id, [], payload), 0.0)
    start = execution.take()
    assert start is not None and start.fault
    execution.refuse(start, start.fault)
    (ready,) = [each for each in through_broker(worker.core.take_output().sends) if isinstance(each, m.ActorReady)]
    assert b"cannot be read" in ready.error


def test_an_envelope_as_it_should_be():
    wire = Wire("driver", "worker")
    _, worker = wire.everybody
    payload = msgpack.packb([*GOOD[:6], [REF, ["key", *REF[1:]]], [0, 1, 2]])
    worker.core.receive(BROKER, m.Run(b"t" * 24, 0, FUNCTION, b"\x90", [], payload), 0.0)
    task = worker.core.execution.take()
    assert task is not None and task.fault == "" and len(task.payload.refs) == 2 and task.producer is not None
    assert pack_outcome(HOST, [], [], False)
