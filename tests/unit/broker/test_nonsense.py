"""Well-formed messages with random content: the broker drops them or handles them, and so do their receivers.

Seeded: each run sends some hundred messages of all processes to a broker that has all kinds of work. After each, its
invariants hold, and the messages that it sends can be packed and are well formed for their receivers.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from tests.unit.broker.harness import ACTOR, FUNCTION, BrokerHarness
from tests.unit.protocol.nonsense import Nonsense
from zray.broker.core import BrokerCore
from zray.ids import make_task_id
from zray.protocol import messages as m
from zray.protocol.codec import pack_body, pack_handshake, read_frame, unpack_handshake, unpack_messages
from zray.protocol.messages import MAY_SEND, ProtocolError
from zray.protocol.records import JobSettings, JoinInfo

STEPS = 400
NAMED = make_task_id(b"other".ljust(16, b"\0"), 500)


def busy_cluster() -> tuple[BrokerHarness, list[bytes]]:
    """Two hosts and two drivers, with tasks and actors that run or wait. Returns also all their identifiers."""
    broker = BrokerHarness()
    hosts = [broker.host("host", CPU=3, GPU=1), broker.host("other host", CPU=1)]
    workers = [worker for host in hosts for worker in broker.workers(host)]
    drivers = [broker.driver("driver"), broker.driver("other")]
    observer = b"observer".ljust(16, b"\0")
    broker.core.joined(observer, m.OBSERVER, JoinInfo(), broker.now)
    task_ids = [task_id for driver in drivers for task_id in broker.submit(driver, 4)]
    broker.create(drivers[0], max_restarts=3)
    broker.create(drivers[1], NAMED, name="n", detached=True)
    broker.say(drivers[0], m.FunctionPut(FUNCTION, "f", b"code"))
    calls = [make_task_id(driver, 900 + number) for number, driver in enumerate(drivers)]
    return broker, [*hosts, *workers, *drivers, observer, *task_ids, *calls, ACTOR, NAMED, FUNCTION]


def drain(core: BrokerCore) -> None:
    """Asserts that the messages can be packed, and that their receivers can read them."""
    for messages in core.take_output().sends.values():
        for message in messages:
            assert unpack_messages(pack_body([message]), m.FROM_BROKER)


@pytest.mark.parametrize("seed", range(40))
def test_nonsense_of_all_processes(seed):
    broker, known = busy_cluster()
    core, nonsense = broker.core, Nonsense(seed, known)
    rng = nonsense.random
    for _ in range(STEPS):
        if not core.processes:
            break
        source = core.processes[rng.choice(list(core.processes))]
        message = nonsense.message(MAY_SEND[source.kind] - {m.Goodbye})
        with contextlib.suppress(ProtocolError):
            core.receive(source.process_id, message, broker.now)
        if rng.random() < 0.02:
            broker.now += 1.0
            core.tick(broker.now)
        if rng.random() < 0.01:
            core.expel(rng.choice(list(core.processes)), "gone", broker.now)
        core.schedule(broker.now)
        core.check()
        drain(core)
        nonsense.known.extend(worker_id for worker_id in core.workers.workers if worker_id not in nonsense.known)
        for worker_id in list(core.workers.workers):
            if worker_id not in core.processes and not core.may_join(worker_id, m.WORKER):
                core.joined(worker_id, m.WORKER, JoinInfo(1), broker.now)
    for process_id in list(core.processes):
        core.lost(process_id, "the end", broker.now)
    assert not core.jobs or core.actors.actors
    drain(core)


def malformed_job(**changes: Any) -> JobSettings:
    return JobSettings()._replace(**changes)


@pytest.mark.parametrize("kind", [m.DRIVER, m.HOST, m.OBSERVER])
@pytest.mark.parametrize("info", [
    {"pid": "1"}, {"job": []}, {"pid": None}, {"job": malformed_job(namespace=b"\xff")}, {"pid": 1 << 63}, {"job": {}},
    {"job": malformed_job(sys_path=[5])}, {"shows_logs": 1}, {"max_message_bytes": -1},
])  # fmt: skip
def test_nonsense_in_a_hello(kind, info):
    hello = m.Hello(m.PROTOCOL_VERSION, "3.11", "0.1", kind, b"joiner".ljust(16, b"\0"), JoinInfo()._replace(**info))
    with pytest.raises(ProtocolError, match=f"malformed Hello: info.{next(iter(info))}"):
        unpack_handshake(read_frame(pack_handshake(hello)))
