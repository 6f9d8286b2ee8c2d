"""A message about a client's tasks and objects counts only if its sender has the right to send it."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from tests.unit.client.wiring import HOST, Process, Wire
from zray.client.core.payloads import pack_outcome
from zray.client.core.states import ERROR, INLINE, PENDING, STORED
from zray.failures import decode_failure
from zray.ids import task_of
from zray.protocol import messages as m
from zray.protocol.codec import pack_body
from zray.protocol.contract import BROKER
from zray.protocol.messages import ProtocolError

ACTOR = b"actor".ljust(24, b"\0")
OTHER = b"other actor".ljust(24, b"\0")
WORKER = b"w" * 16
OTHER_PROCESS = b"s" * 16


@pytest.fixture
def wire() -> Wire:
    return Wire("driver", "worker")


@pytest.fixture
def driver(wire: Wire) -> Process:
    return wire.everybody[0]


@pytest.fixture
def worker(wire: Wire) -> Process:
    return wire.everybody[1]


def outcome(value: Any = ()) -> bytes:
    return pack_outcome(HOST, [(INLINE, msgpack.packb(list(value)), 0, ())], [], False)


def call(driver: Process) -> bytes:
    """Makes a call of ACTOR that stays under way; returns its result."""
    from zray.client.core.tasks import Task
    from zray.ids import return_id

    from .wiring import INLINE_ARGUMENTS

    core = driver.core
    view = core.actors.view(ACTOR, True)
    task_id = core.new_task_id()
    core.references.own(return_id(task_id, 1))
    core.actors.submit(view, Task(task_id, view, b"", b"", 0, b"", INLINE_ARGUMENTS, 1, 0, b""))
    return return_id(task_id, 1)


@pytest.mark.parametrize("impostor", [b"", OTHER])
def test_the_outcome_of_a_call_comes_from_the_actor_that_was_called(driver, impostor):
    result = call(driver)
    for payload in (outcome(), b""):
        with pytest.raises(ProtocolError, match="not given"):
            driver.core.receive(BROKER, m.Result(task_of(result), 0, WORKER, impostor, payload), 0.0)
        assert driver.entry(result).status == PENDING
    driver.core.receive(BROKER, m.Result(task_of(result), 0, WORKER, ACTOR, outcome()), 0.0)
    assert driver.entry(result).status == INLINE


def test_the_outcome_of_a_task_comes_from_no_actor(driver, worker):
    result = driver.submit(worker)
    with pytest.raises(ProtocolError, match="not given"):
        driver.core.receive(BROKER, m.Result(task_of(result), 0, WORKER, ACTOR, outcome()), 0.0)
    assert driver.entry(result).status == PENDING
    driver.core.receive(BROKER, m.Result(task_of(result), 0, WORKER, b"", outcome()), 0.0)
    assert driver.entry(result).status == INLINE


def test_a_refused_outcome_registers_nobody(driver, worker):
    kept = driver.put()
    result = driver.submit(worker)
    forged = pack_outcome(HOST, [(INLINE, b"", 0, [b"f" * 28])], [kept], False)
    with pytest.raises(ProtocolError):
        driver.core.receive(BROKER, m.Result(task_of(result), 0, WORKER, ACTOR, forged), 0.0)
    assert not driver.entry(kept).holders and driver.entry(b"f" * 28) is None


GOOD = [INLINE, b"", 0, []]
MALFORMED = [
    b"\xc1", b"\x90", msgpack.packb(5), msgpack.packb({}), msgpack.packb([HOST, 5, [], False]),
    msgpack.packb([HOST, [], [], False]), msgpack.packb([HOST, [GOOD, GOOD], [], False]),
    msgpack.packb([HOST, [[9, b"", 0, []]], [], False]), msgpack.packb([HOST, [[INLINE, "", 0, []]], [], False]),
    msgpack.packb([HOST, [[INLINE, b"", None, []]], [], False]),
    msgpack.packb([HOST, [[INLINE, b"", 0, None]], [], False]),
    msgpack.packb([HOST, [[INLINE, b"", 0, [b"short"]]], [], False]),
    msgpack.packb(["host", [GOOD], [], False]), msgpack.packb([HOST, [GOOD], [b"short"], False]),
    msgpack.packb([HOST, [GOOD], None, False]), msgpack.packb([HOST, [GOOD], [b"f" * 28], False]),
    b"\x91" * 5000, msgpack.packb([msgpack.Timestamp(1)] * 4),
]  # fmt: skip


@pytest.mark.parametrize("payload", MALFORMED)
def test_an_outcome_that_cannot_be_read_is_an_error_of_its_task(driver, worker, payload):
    """No other answer will come: a process that waits for it must not wait for ever."""
    result = driver.submit(worker, retries=0)
    with pytest.raises(ProtocolError):
        driver.core.receive(BROKER, m.Result(task_of(result), 0, WORKER, b"", payload), 0.0)
    assert driver.entry(result).status == ERROR
    failure = decode_failure(driver.entry(result).data)
    assert type(failure).__name__ == "SystemFailure" and "cannot be read" in str(failure)


def deliver(process: Process, source: bytes, *messages: Any) -> None:
    process.core.receive(BROKER, m.Delivered(source, pack_body(messages)), 0.0)


def of_others(object_id: bytes) -> list[Any]:
    """The messages that only an object's owner may receive."""
    return [
        m.ObjectRequest(object_id, b""), m.BorrowAdd(object_id, OTHER_PROCESS, 1), m.BorrowAdd(object_id, b"x" * 16, 1),
        m.BorrowEnd(object_id, 1), m.BorrowConfirm(object_id, b"x" * 16), m.BorrowChecked(object_id, b"x" * 16),
        m.Locate(object_id, 1, True, []), m.CopyMade(object_id),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(8))
def test_only_its_owner_has_the_records_of_an_object(driver, worker, number):
    borrowed = worker.put()
    driver.core.references.load(borrowed)
    driver.flush()
    driver.up.clear()
    deliver(driver, OTHER_PROCESS, of_others(borrowed)[number])
    driver.flush()
    entry = driver.entry(borrowed)
    assert (entry.holders, entry.announced, entry.requesters) == (None, None, None)
    assert list(driver.up) == []
    assert driver.core.faults == 1


@pytest.mark.parametrize("status", [PENDING, 5, 1 << 40])
def test_an_invalid_state(driver, worker, status):
    borrowed = worker.put()
    driver.core.references.load(borrowed)
    driver.request(borrowed)
    deliver(driver, worker.id, m.ObjectState(borrowed, status, b"", b"", 0, b""))
    assert (driver.entry(borrowed).status, driver.core.faults) == (PENDING, 1)


def test_a_state_with_half_a_reference(driver, worker):
    borrowed = worker.put()
    driver.core.references.load(borrowed)
    driver.request(borrowed)
    deliver(driver, worker.id, m.ObjectState(borrowed, STORED, b"", HOST, 5, bytes(27)))
    assert (driver.entry(borrowed).status, driver.core.faults) == (PENDING, 1)


def test_the_state_of_an_object_comes_from_its_owner(driver, worker):
    borrowed = worker.put()
    driver.core.references.load(borrowed)
    driver.request(borrowed)
    deliver(driver, OTHER_PROCESS, m.ObjectState(borrowed, STORED, b"", HOST, 5, b""))
    assert (driver.entry(borrowed).status, driver.core.faults) == (PENDING, 1)


def test_one_malformed_message_does_not_affect_the_others(driver, worker):
    mine, borrowed = driver.put(), worker.put()
    deliver(driver, worker.id, m.BorrowEnd(borrowed, 1), m.BorrowAdd(mine, worker.id, 1), m.BorrowEnd(borrowed, 1))
    assert driver.entry(mine).holders == {worker.id: 1}
    assert driver.core.faults == 2


def test_an_answer_about_an_announcer_that_is_alive_is_refused(driver, worker):
    """Its announcements would be dropped, and the object freed while its holder uses it."""
    mine = driver.put()
    deliver(driver, worker.id, m.BorrowAdd(mine, OTHER_PROCESS, 1))
    deliver(driver, OTHER_PROCESS, m.BorrowChecked(mine, worker.id))
    assert driver.entry(mine).announced == {(OTHER_PROCESS, worker.id): 1}
