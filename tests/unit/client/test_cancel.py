"""Cancelling by a reference: the owner is asked, in any process, whatever state the task is in meanwhile."""

from __future__ import annotations

import pytest

from tests.unit.client.wiring import INLINE_ARGUMENTS, Process, Wire, kind_of_failure, nothing_is_left
from zray.client.core.effects import Warn
from zray.client.core.states import ERROR
from zray.client.core.tasks import Task
from zray.ids import return_id, task_of
from zray.protocol import messages as m
from zray.protocol.codec import pack_body
from zray.protocol.contract import BROKER

BOTH = m.CANCEL_FORCE | m.CANCEL_RECURSIVE
ACTOR = b"actor".ljust(24, b"\0")


@pytest.fixture
def wire() -> Wire:
    return Wire("driver", "worker", "holder")


@pytest.fixture
def driver(wire: Wire) -> Process:
    return wire.everybody[0]


@pytest.fixture
def worker(wire: Wire) -> Process:
    return wire.everybody[1]


@pytest.fixture
def holder(wire: Wire) -> Process:
    return wire.everybody[2]


def lend(wire: Wire, owner: Process, holder: Process, object_id: bytes) -> None:
    """Gives ``holder`` a reference as a task's argument, which it keeps."""
    owner.submit(holder, nested=[object_id])
    wire.settle()
    task = holder.take()
    assert task is not None
    holder.finish(task)
    wire.settle()


def cancel(wire: Wire, process: Process, object_id: bytes, mode: int = 0) -> None:
    process.core.cancel(object_id, mode)
    process.flush()
    wire.settle()


def cancels(wire: Wire) -> list[tuple[Process, object]]:
    """The tasks that the broker was asked to cancel."""
    return [(source, message) for source, message in wire.others if isinstance(message, (m.Cancel, m.ActorCancel))]


def failure_of(process: Process, object_id: bytes) -> str:
    entry = process.entry(object_id)
    return kind_of_failure(entry.data) if entry.status == ERROR else ""


def call(driver: Process, refs: tuple[bytes, ...] = ()) -> bytes:
    """Calls an actor."""
    core = driver.core
    task_id = core.new_task_id()
    view = core.actors.view(ACTOR, True)
    arguments = INLINE_ARGUMENTS._replace(refs=tuple(enumerate(refs)), held=refs)
    core.references.own(return_id(task_id, 1))
    driver.bag[return_id(task_id, 1)] += 1
    core.actors.submit(view, Task(task_id, view, b"", b"", 0, b"", arguments, 1, 0, b""))
    driver.flush()
    return return_id(task_id, 1)


@pytest.mark.parametrize("mode", [0, m.CANCEL_FORCE, m.CANCEL_RECURSIVE, BOTH])
def test_a_holder_asks_the_owner_who_asks_the_broker(wire, driver, worker, holder, mode):
    running = driver.submit(worker)
    lend(wire, driver, holder, running)
    cancel(wire, holder, running, mode)
    assert cancels(wire) == [(driver, m.Cancel(task_of(running), mode))]
    assert driver.core.tasks.tasks[task_of(running)].cancelled


def test_the_owner_itself(wire, driver, worker):
    running = driver.submit(worker)
    cancel(wire, driver, running)
    assert cancels(wire) == [(driver, m.Cancel(task_of(running), 0))]


def test_a_task_that_waits_for_its_argument_ends_for_the_holder_too(wire, driver, worker, holder):
    waiting = driver.submit(worker, refs=[driver.submit(worker)])
    lend(wire, driver, holder, waiting)
    holder.request(waiting)
    cancel(wire, holder, waiting)
    assert failure_of(driver, waiting) == failure_of(holder, waiting) == "TaskCancelledError"
    assert cancels(wire) == []


def test_many_that_wait_for_one_argument_end_without_a_message(wire, driver, worker):
    argument = driver.submit(worker)
    waiting = [driver.submit(worker, refs=[argument]) for _ in range(100)]
    for task in waiting:
        driver.core.cancel(task, 0)
        assert not driver.core.has_output
        assert failure_of(driver, task) == "TaskCancelledError"
    assert driver.core.tasks.tasks.keys() == {task_of(argument)}
    driver.flush()
    wire.run_all()
    assert cancels(wire) == []


@pytest.mark.parametrize("mode", [0, BOTH])
def test_what_was_put(wire, driver, holder, mode):
    value = driver.put()
    lend(wire, driver, holder, value)
    cancel(wire, holder, value, mode)
    assert failure_of(driver, value) == ""
    assert cancels(wire) == []


@pytest.mark.parametrize("mode", [0, BOTH])
def test_a_task_that_has_ended(wire, driver, worker, holder, mode):
    ended = driver.submit(worker)
    lend(wire, driver, holder, ended)
    wire.run_all()
    cancel(wire, holder, ended, mode)
    assert failure_of(driver, ended) == ""
    assert cancels(wire) == []


def test_a_request_that_crosses_with_the_result(wire, driver, worker, holder):
    running = driver.submit(worker)
    lend(wire, driver, holder, running)
    task = worker.take()
    holder.core.cancel(running, 0)
    holder.flush()
    wire.settle(without=[worker])
    worker.finish(task)
    wire.settle()
    assert failure_of(driver, running) == ""


def test_a_request_to_a_process_that_is_not_the_owner(driver, worker, holder):
    rows = pack_body([m.CancelObject(driver.submit(worker), 0)])
    before = holder.core.faults
    holder.core.receive(BROKER, m.Delivered(worker.id, rows), 0.0)
    assert holder.core.faults == before + 1


def test_an_owner_that_is_dead(wire, driver, worker, holder):
    running = worker.submit(driver)
    lend(wire, worker, holder, running)
    wire.kill(worker)
    cancel(wire, holder, running)
    assert failure_of(holder, running) == "OwnerDiedError"
    cancel(wire, holder, running)


def test_what_was_asked_before_the_reference_was_dropped(wire, driver, worker, holder):
    running = driver.submit(worker)
    lend(wire, driver, holder, running)
    holder.core.cancel(running, 0)
    holder.drop(running)
    wire.settle()
    assert cancels(wire) == [(driver, m.Cancel(task_of(running), 0))]
    task = worker.take()
    worker.core.execution.finish_cancelled(task)
    worker.tasks.clear()
    worker.flush()
    wire.settle()
    assert failure_of(driver, running) == "TaskCancelledError"
    for ref in list(driver.bag.elements()):
        driver.drop(ref)
    nothing_is_left(wire)


def test_a_call_of_an_actor(wire, driver, holder):
    result = call(driver)
    lend(wire, driver, holder, result)
    cancel(wire, holder, result, m.CANCEL_RECURSIVE)
    assert cancels(wire) == [(driver, m.ActorCancel(ACTOR, task_of(result), m.CANCEL_RECURSIVE))]


@pytest.mark.parametrize("waits", [False, True])
def test_force_is_for_tasks_and_the_owner_says_so(wire, driver, worker, holder, waits):
    result = call(driver, (driver.submit(worker),) if waits else ())
    lend(wire, driver, holder, result)
    cancel(wire, holder, result, BOTH)
    assert cancels(wire) == []
    assert failure_of(driver, result) == ""
    (warning,) = [effect for effect in driver.effects if isinstance(effect, Warn)]
    assert "force=True" in warning.text
    assert "zray.kill()" in warning.text
