"""The records that an owner keeps of its tasks and objects, for ``zray.util.state``."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from zray.client.core import tasks as task_module
from zray.client.core.states import STORED
from zray.client.core.tasks import MAX_ERROR_BYTES
from zray.ids import put_id, task_of
from zray.protocol import messages as m
from zray.protocol.codec import unpack_messages
from zray.protocol.contract import BROKER
from zray.protocol.state_questions import (
    LEFT_BEHIND,
    InspectObjects,
    InspectTasks,
    ObjectRow,
    ObjectRows,
    RecordsInspected,
    TaskRow,
    TaskRows,
)

from .wiring import FUNCTION, HOST, Process, Wire


@pytest.fixture
def wire() -> Wire:
    return Wire("owner", "worker")


def inspected(process: Process, question: Any, kind: Any) -> tuple[RecordsInspected, list[Any]]:
    process.core.receive(BROKER, question, 0.0)
    process.flush()
    answers = [each for each in process.up if isinstance(each, RecordsInspected)]
    for answer in answers:
        process.up.remove(answer)
    (answer,) = answers
    (body,) = unpack_messages(answer.rows, frozenset([kind]))
    return answer, body.rows


def tasks_of(process: Process, limit: int = 100) -> list[TaskRow]:
    return inspected(process, InspectTasks(1, limit), TaskRows)[1]


def test_a_task_from_its_submission_to_its_end(wire: Wire) -> None:
    owner, worker = wire.everybody
    argument = owner.submit(worker)
    dependent = owner.submit(worker, [argument], parent=b"p" * 24)
    rows = tasks_of(owner)
    assert [(row.task_id, row.state) for row in rows] == [
        (task_of(argument), "PENDING_NODE_ASSIGNMENT"),
        (task_of(dependent), "PENDING_ARGS_AVAIL"),
    ]
    assert (rows[0].argument, rows[1].argument) == (b"", argument)
    assert (rows[0].attempt, rows[0].parent, rows[1].parent, rows[0].worker) == (0, b"", b"p" * 24, b"")
    wire.settle()
    task = worker.take()
    assert task is not None
    answer, _ = inspected(worker, InspectTasks(2, 100), TaskRows)
    assert answer.running == [task_of(argument)]
    worker.finish(task)
    wire.run_all()
    ended = {row.task_id: row for row in tasks_of(owner)}
    assert {row.state for row in ended.values()} == {"FINISHED"}
    assert ended[task_of(argument)].worker == worker.id


def test_times(wire: Wire) -> None:
    owner, worker = wire.everybody
    owner.core.tasks.epoch_s = 1000.0
    owner.core.tasks.now = owner.now = 7.0
    ref = owner.submit(worker, retries=1)
    (row,) = tasks_of(owner)
    assert (row.created_s, row.started_s, row.ended_s) == (1007.0, None, None)
    wire.settle()
    task = worker.take()
    assert task is not None
    owner.now = 9.0
    owner.core.collect(owner.now)
    worker.finish(task)  # after 5 us
    wire.run_all()
    (row,) = tasks_of(owner)
    assert row.task_id == task_of(ref)
    assert (row.created_s, row.ended_s) == (1007.0, 1009.0)
    assert row.started_s == pytest.approx(1009.0 - 5e-6, abs=1e-7)


def test_a_task_does_not_begin_before_it_was_submitted(wire: Wire) -> None:
    owner, worker = wire.everybody
    owner.core.tasks.now = 7.0  # and its end is noted with the time of the turn's begin
    owner.submit(worker)
    wire.settle()
    task = worker.take()
    assert task is not None
    worker.finish(task)
    wire.run_all()
    (row,) = tasks_of(owner)
    assert row.created_s == row.started_s == 7.0


def test_times_of_attempts_that_failed(wire: Wire) -> None:
    owner, worker = wire.everybody
    owner.core.tasks.now = owner.now = 3.0
    task_id = task_of(owner.submit(worker, retries=1))
    wire.settle()
    owner.now = 4.0
    owner.core.collect(owner.now)
    owner.core.receive(BROKER, m.Failed(task_id, 0, "WorkerCrashedError", "SIGKILL", True), 4.0)
    again, crashed = tasks_of(owner)
    assert (crashed.attempt, crashed.created_s, crashed.started_s, crashed.ended_s) == (0, 3.0, None, 4.0)
    assert (again.attempt, again.created_s, again.started_s, again.ended_s) == (1, 4.0, None, None)


def test_running_tasks_are_timed(wire: Wire) -> None:
    owner, worker = wire.everybody
    owner.submit(worker)
    wire.settle()
    assert worker.take() is not None
    worker.core.tick(1.0)
    worker.core.receive(BROKER, InspectTasks(1, 100), 3.5)
    worker.flush()
    (answer,) = [each for each in worker.up if isinstance(each, RecordsInspected)]
    assert (len(answer.running), answer.ran_ms) == (1, [2500])


def test_names_of_functions(wire: Wire) -> None:
    owner, worker = wire.everybody
    owner.core.export(FUNCTION, "module.f", b"code", "f")
    owner.submit(worker)
    assert tasks_of(owner)[0].function == "f"


def test_failures(wire: Wire) -> None:
    owner, worker = wire.everybody
    failed = owner.submit(worker, retries=1)
    task_id = task_of(failed)
    dependent = owner.submit(worker, [failed])
    for attempt in range(2):
        owner.core.receive(BROKER, m.Failed(task_id, attempt, "WorkerCrashedError", "it was killed", True), 0.0)
        owner.flush()
    rows = sorted(tasks_of(owner), key=lambda row: (row.task_id, row.attempt))
    assert [(row.task_id, row.attempt, row.state, row.error_type) for row in rows] == [
        (task_id, 0, "FAILED", "WORKER_DIED"),
        (task_id, 1, "FAILED", "WORKER_DIED"),
        (task_of(dependent), 0, "FAILED", "DEPENDENCY_RESOLUTION_FAILED"),
    ]
    assert "it was killed" in rows[0].error


def test_cancelled_tasks(wire: Wire) -> None:
    owner, worker = wire.everybody
    task_id = task_of(owner.submit(worker))
    owner.core.receive(BROKER, m.Failed(task_id, 0, "TaskCancelledError", "cancelled", False), 0.0)
    assert [row.error_type for row in tasks_of(owner)] == ["TASK_CANCELLED"]


def test_a_long_error_is_cut(wire: Wire) -> None:
    owner, worker = wire.everybody
    task_id = task_of(owner.submit(worker))
    owner.core.receive(BROKER, m.Failed(task_id, 0, "ObjectLostError", "x" * 10 * MAX_ERROR_BYTES + "end", False), 0.0)
    (row,) = tasks_of(owner)
    assert (row.error_type, row.error[-3:]) == ("OBJECT_LOST", "end")
    assert len(row.error) <= MAX_ERROR_BYTES
    assert isinstance(owner.core.tasks.ended[0][-1], tuple)


def test_a_record_holds_no_arguments(wire: Wire) -> None:
    owner, worker = wire.everybody
    argument = owner.put()
    result = owner.submit(worker, [argument])
    wire.run_all()
    assert len(owner.core.tasks.ended) == 1
    owner.drop(result)
    owner.drop(argument)
    wire.settle()
    assert owner.entry(argument) is None


def test_the_number_of_records_has_a_bound(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_module, "MAX_ENDED", 2)
    owner, worker = Wire("owner", "worker").everybody
    results = [owner.submit(worker) for _ in range(4)]
    owner.wire.run_all()
    assert [row.task_id for row in tasks_of(owner)] == [task_of(results[3]), task_of(results[2])]
    answer, rows = inspected(owner, InspectTasks(1, 1), TaskRows)
    assert (answer.total, len(rows)) == (2, 1)


def test_objects(wire: Wire) -> None:
    owner, worker = wire.everybody
    small = owner.put()
    large = put_id(owner.core.new_task_id())
    owner.core.references.own(large, HOST)
    owner.core.references.resolve(large, STORED, b"", HOST, 100)
    result = owner.submit(worker, [small])
    _, rows = inspected(owner, InspectObjects(1, 100), ObjectRows)
    assert rows == [
        ObjectRow(small, len(msgpack.packb(())), "FINISHED", 1, "USED_BY_PENDING_TASK"),
        ObjectRow(large, 100, "FINISHED", 1, "LOCAL_REFERENCE"),
        ObjectRow(result, None, "SUBMITTED_TO_WORKER", 1, "LOCAL_REFERENCE"),
    ]
    answer, rows = inspected(owner, InspectObjects(1, 2), ObjectRows)
    assert (answer.total, len(rows)) == (3, 2)


def test_what_a_driver_leaves_behind(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, worker = wire.everybody
    assert owner.core.last_records("it ends", 5.0) == []
    owner.core.tasks.now = owner.now = 2.0
    done = owner.submit(worker)
    wire.settle()
    task = worker.take()
    assert task is not None
    worker.finish(task)
    wire.run_all()
    lost = owner.submit(worker)
    (message,) = owner.core.last_records("it ends", 5.0)
    assert (message.request, message.total) == (LEFT_BEHIND, 2)
    (body,) = unpack_messages(message.rows, frozenset([TaskRows]))
    rows = {row.task_id: row for row in body.rows}
    assert rows[task_of(done)].state == "FINISHED"
    row = rows[task_of(lost)]
    assert (row.state, row.error_type, row.error, row.ended_s) == ("FAILED", "WORKER_DIED", "it ends", 5.0)
    monkeypatch.setattr("zray.client.core.client_core.MAX_LEFT_BYTES", len(message.rows) - 1)
    (shorter,) = owner.core.last_records("it ends", 5.0)
    (body,) = unpack_messages(shorter.rows, frozenset([TaskRows]))
    assert [row.task_id for row in body.rows] == [task_of(lost)]
