"""The reference rule: a scenario for each row of the table of hand-overs, values and deaths."""

from __future__ import annotations

import pytest

from tests.unit.client.wiring import HOST, IgnoreReady, Process, Wire, kind_of_failure, nothing_is_left
from zray.client.core.assignments import Assignment
from zray.client.core.effects import FreeSegment
from zray.client.core.states import ERROR, INLINE, PENDING, STORED
from zray.ids import make_task_id, put_id
from zray.protocol import messages as m
from zray.protocol.messages import ProtocolError
from zray.protocol.routing import through_broker


@pytest.fixture
def wire() -> Wire:
    """A driver and two workers."""
    return Wire("driver", "worker", "other")


@pytest.fixture
def driver(wire: Wire) -> Process:
    return wire.everybody[0]


@pytest.fixture
def worker(wire: Wire) -> Process:
    return wire.everybody[1]


@pytest.fixture
def other(wire: Wire) -> Process:
    return wire.everybody[2]


def start(wire: Wire, worker: Process) -> Assignment:
    """Makes the worker start the task that is on its way."""
    wire.settle()
    task = worker.take()
    assert task is not None
    return task


def failure_of(process: Process, object_id: bytes) -> str:
    entry = process.entry(object_id)
    assert entry.status == ERROR
    return kind_of_failure(entry.data)


# ------------------------------------------------------------------ in one process


def test_an_object_lives_as_long_as_its_references(driver):
    object_id = driver.put()
    driver.core.references.load(object_id)
    driver.bag[object_id] += 1
    driver.drop(object_id)
    assert driver.entry(object_id) is not None
    driver.drop(object_id)
    assert driver.entry(object_id) is None


def test_a_segment_is_freed_with_its_object(driver):
    object_id = driver.put(stored=True)
    assert driver.freed == []
    driver.drop(object_id)
    assert driver.freed == [object_id]


def test_the_outer_object_holds_the_inner_ones(driver):
    inner = driver.put()
    outer = driver.put([inner])
    driver.drop(inner)
    assert driver.entry(inner) is not None
    assert driver.load(outer) == [inner]
    driver.drop(outer)
    assert driver.entry(inner) is not None
    driver.drop(inner)
    assert driver.core.references.entries == {}


def test_a_long_chain_of_values_is_freed_without_recursion(driver):
    driver.is_checked = False
    object_id = driver.put()
    for _ in range(20_000):
        outer = driver.put([object_id])
        driver.drop(object_id)
        object_id = outer
    driver.drop(object_id)
    assert driver.core.references.entries == {}


def test_the_same_reference_twice_in_a_value(driver):
    inner = driver.put()
    outer = driver.put([inner, inner])
    driver.drop(inner)
    driver.drop(outer)
    assert driver.core.references.entries == {}


# ------------------------------------------------------------------ row: argument


def test_the_submitter_holds_arguments_until_the_result(wire, driver, worker):
    inner = driver.put(stored=True)
    result = driver.submit(worker, nested=[inner])
    driver.drop(inner)
    task = start(wire, worker)
    worker.drop(inner)
    assert driver.entry(inner).pins == 1
    worker.finish(task)
    wire.settle()
    assert driver.freed == [inner]
    driver.drop(result)
    nothing_is_left(wire)


def test_an_argument_needs_no_message_of_its_own(wire, driver, worker):
    inner = driver.put()
    driver.submit(worker, nested=[inner])
    task = start(wire, worker)
    worker.drop(inner)
    worker.finish(task)
    assert [type(message) for message in worker.up] == [m.Done]


def test_top_level_arguments_are_waited_for(wire, driver, worker, other):
    first = driver.submit(worker)
    second = driver.submit(other, refs=[first])
    wire.settle()
    assert other.take() is None
    worker.finish(start(wire, worker))
    wire.settle()
    task = other.take()
    assert [row[1] for row in task.payload.refs] == [first]
    other.finish(task)
    driver.drop(first)
    driver.drop(second)
    nothing_is_left(wire)


def test_an_argument_of_a_task_that_is_nested_in_another(wire, driver, worker, other):
    """driver -> worker -> other: the worker's task ends before the task that it submitted."""
    inner = driver.put()
    outer_result = driver.submit(worker, nested=[inner])
    driver.drop(inner)
    task = start(wire, worker)
    inner_result = worker.submit(other, nested=[inner])
    worker.drop(inner)
    worker.finish(task, [inner_result])
    worker.drop(inner_result)
    wire.settle()
    assert driver.entry(inner) is not None
    second = start(wire, other)
    assert driver.entry(inner) is not None
    other.drop(inner)
    other.finish(second)
    wire.settle()
    assert driver.entry(inner) is None
    driver.drop(outer_result)
    nothing_is_left(wire)


# ------------------------------------------------------------------ row: the callee keeps it


def test_the_callee_keeps_an_argument_of_its_submitter(wire, driver, worker):
    inner = driver.put(stored=True)
    result = driver.submit(worker, nested=[inner])
    driver.drop(inner)
    worker.finish(start(wire, worker))
    assert [type(message) for message in worker.up] == [m.Watch, m.Done]  # no message besides the result
    wire.settle()
    assert driver.freed == []
    assert driver.entry(inner).holders == {worker.id: 1}
    worker.drop(inner)
    wire.settle()
    assert driver.freed == [inner]
    driver.drop(result)
    nothing_is_left(wire)


def test_the_callee_keeps_an_argument_of_a_third_process(wire, driver, worker, other):
    """driver owns it, worker submits, other keeps it: the result waits for the owner's acknowledgement."""
    inner = driver.put()
    outer_result = driver.submit(worker, nested=[inner])
    driver.drop(inner)
    task = start(wire, worker)
    result = worker.submit(other, nested=[inner])
    second = start(wire, other)
    other.finish(second)
    assert not any(isinstance(message, m.Done) for message in other.up)
    wire.settle(without=[driver])
    assert not worker.is_ready(result)
    wire.settle()
    assert worker.is_ready(result)
    worker.drop(inner)
    worker.drop(result)
    worker.finish(task)
    driver.drop(outer_result)
    wire.settle()
    assert driver.entry(inner).holders == {other.id: 1}
    other.drop(inner)
    nothing_is_left(wire)


def test_kept_across_two_tasks_is_registered_once(wire, driver, worker):
    inner = driver.put()
    for _ in range(2):
        driver.submit(worker, nested=[inner])
        worker.finish(start(wire, worker))
    driver.drop(inner)
    wire.settle()
    assert driver.entry(inner).holders == {worker.id: 1}
    worker.drop(inner, 2)
    wire.settle()
    assert driver.entry(inner) is None


def test_a_task_of_ones_own_covers_nothing(wire, driver, worker):
    """The worker's task ends while another task, which it submitted to itself with the same argument, still runs."""
    inner = driver.put()
    first = driver.submit(worker, nested=[inner])
    driver.drop(inner)
    task = start(wire, worker)
    second = worker.submit(worker, nested=[inner])
    own = start(wire, worker)
    worker.finish(task)
    wire.settle()
    assert driver.entry(inner) is not None
    worker.drop(inner, 2)
    worker.finish(own)
    worker.drop(second)
    driver.drop(first)
    nothing_is_left(wire)


def test_two_workers_that_cover_each_other(wire, driver, worker, other):
    """driver -> worker -> other -> worker; each task but the last ends before the next one."""
    inner = driver.put()
    driver.submit(worker, nested=[inner])
    driver.drop(inner)
    first = start(wire, worker)
    worker.submit(other, nested=[inner])
    second = start(wire, other)
    other.submit(worker, nested=[inner])
    third = start(wire, worker)
    worker.finish(first)
    wire.settle()
    assert driver.entry(inner) is not None
    other.finish(second)
    wire.settle()
    worker.finish(third)
    wire.settle()
    assert driver.entry(inner).holders == {worker.id: 1, other.id: 1}


def test_what_a_cancelled_task_kept_stays(wire, driver, worker):
    inner = driver.put(stored=True)
    result = driver.submit(worker, nested=[inner])
    driver.drop(inner)
    task = start(wire, worker)
    worker.tasks.remove(task)
    worker.core.execution.finish_cancelled(task)
    worker.flush()
    wire.settle()
    assert driver.freed == []
    worker.drop(inner)
    wire.settle()
    assert driver.freed == [inner]
    driver.drop(result)
    nothing_is_left(wire)


def test_the_result_that_tells_what_is_kept_is_of_a_cancelled_task(wire, driver, worker):
    inner = driver.put()
    result = driver.submit(worker, nested=[inner])
    driver.core.tasks.cancel(result[:24], 0)
    driver.drop(inner)
    worker.finish(start(wire, worker))
    wire.settle()
    assert driver.entry(inner).holders == {worker.id: 1}
    worker.drop(inner)
    driver.drop(result)
    nothing_is_left(wire)


def test_a_result_cannot_keep_what_is_not_the_submitters(driver):
    with pytest.raises(ProtocolError):
        driver.core.references.keep([put_id(make_task_id(b"x" * 16, 1))], b"w" * 16)


# ------------------------------------------------------------------ row: inside a returned value


def test_a_worker_returns_an_object_of_its_own(wire, driver, worker):
    result = driver.submit(worker)
    task = start(wire, worker)
    mine = worker.put(stored=True)
    worker.finish(task, [mine])
    worker.drop(mine)
    assert worker.freed == []
    wire.settle()
    assert worker.entry(mine).holders == {driver.id: 1}
    assert wire.get(driver, result) == [mine]
    driver.drop(result)
    wire.settle()
    assert worker.freed == []
    driver.drop(mine)
    wire.settle()
    assert worker.freed == [mine]
    nothing_is_left(wire)


def test_a_worker_returns_the_submitters_own_object(wire, driver, worker):
    inner = driver.put()
    result = driver.submit(worker, nested=[inner])
    driver.drop(inner)
    worker.finish(start(wire, worker), [inner])
    worker.drop(inner)
    wire.settle()
    assert driver.entry(inner) is not None
    assert wire.get(driver, result) == [inner]
    driver.drop(result)
    driver.drop(inner)
    nothing_is_left(wire)


def test_a_worker_returns_an_object_of_a_third_process(wire, driver, worker, other):
    """other owns it, worker returns it to driver: other is told before the result is sent."""
    first = driver.submit(other)
    task = start(wire, other)
    theirs = other.put()
    other.finish(task, [theirs])
    other.drop(theirs)
    wire.settle()
    second = driver.submit(worker, refs=[first])
    task = start(wire, worker)
    worker.finish(task, [theirs])
    worker.drop(theirs)
    wire.settle(without=[other])
    assert not driver.is_ready(second)
    wire.settle()
    driver.drop(first)
    wire.settle()
    assert wire.get(driver, second) == [theirs]
    assert other.entry(theirs).holders == {driver.id: 2}  # by each of the two results; one entry at the driver
    driver.drop(second)
    driver.drop(theirs)
    nothing_is_left(wire)


def test_the_announcer_dies_before_its_result_leaves(wire, driver, worker, other):
    first = driver.submit(other)
    task = start(wire, other)
    theirs = other.put()
    other.finish(task, [theirs])
    other.drop(theirs)
    wire.settle()
    second = driver.submit(worker, refs=[first])
    task = start(wire, worker)
    worker.finish(task, [theirs])
    wire.step_up(worker)  # Watch
    while worker.up:
        wire.step_up(worker)
    wire.settle(without=[worker])
    assert other.entry(theirs).announced == {(driver.id, worker.id): 1}
    wire.kill(worker)
    wire.settle()
    assert other.entry(theirs).announced == {}
    driver.drop(first)
    driver.drop(second)
    nothing_is_left(wire)


def test_the_holder_dies_before_it_confirms(wire, driver, worker, other):
    first = driver.submit(other)
    task = start(wire, other)
    theirs = other.put(stored=True)
    other.finish(task, [theirs])
    other.drop(theirs)
    wire.settle()
    driver.submit(worker, refs=[first])
    task = start(wire, worker)
    worker.finish(task, [theirs])
    worker.drop(theirs)
    wire.settle(without=[driver])
    wire.kill(driver)
    nothing_is_left(wire)
    assert other.freed == [theirs]


def test_a_result_that_is_not_needed_releases_its_references(wire, driver, worker):
    result = driver.submit(worker)
    driver.drop(result)
    task = start(wire, worker)
    mine = worker.put(stored=True)
    worker.finish(task, [mine])
    worker.drop(mine)
    wire.settle()
    assert worker.freed == [mine]
    nothing_is_left(wire)


def test_a_result_that_is_tried_again_releases_its_references(wire, driver, worker):
    result = driver.submit(worker, retries=1)
    task = start(wire, worker)
    mine = worker.put(stored=True)
    worker.finish(task, [mine], retryable=True)
    worker.drop(mine)
    wire.settle()
    assert worker.freed == [mine]
    worker.finish(start(wire, worker))
    wire.settle()
    driver.drop(result)
    nothing_is_left(wire)


def test_a_task_of_a_process_that_runs_on_itself(wire, worker):
    """A worker may be given a task that it submitted itself."""
    inner = worker.put()
    result = worker.submit(worker, nested=[inner])
    worker.drop(inner)
    task = start(wire, worker)
    worker.finish(task, [inner])
    worker.drop(inner)
    wire.settle()
    assert wire.get(worker, result) == [inner]
    worker.drop(inner)
    worker.drop(result)
    nothing_is_left(wire)


def test_a_worker_returns_its_own_object_to_itself(wire, worker):
    result = worker.submit(worker)
    task = start(wire, worker)
    mine = worker.put(stored=True)
    worker.finish(task, [mine])
    worker.drop(mine)
    assert worker.freed == []
    wire.settle()
    assert wire.get(worker, result) == [mine]
    worker.drop(mine)
    assert worker.freed == []
    worker.drop(result)
    assert worker.freed == [mine]
    nothing_is_left(wire)


def test_a_borrowed_object_comes_back_in_a_task_of_ones_own(wire, driver, worker):
    inner = driver.put()
    outer_result = driver.submit(worker, nested=[inner])
    task = start(wire, worker)
    result = worker.submit(worker, nested=[inner])
    worker.finish(task)
    worker.drop(inner)
    second = start(wire, worker)
    worker.finish(second, [inner])
    worker.drop(inner)
    driver.drop(inner)
    wire.settle()
    assert wire.get(worker, result) == [inner]
    assert driver.entry(inner) is not None
    worker.drop(inner)
    worker.drop(result)
    driver.drop(outer_result)
    nothing_is_left(wire)


# ------------------------------------------------------------------ rows: inside a put value, found in a value


def borrowed_value(wire: Wire, driver: Process, worker: Process) -> tuple[bytes, bytes]:
    """The worker keeps ``outer`` of the driver, which contains ``inner`` of the driver. It has not loaded the value."""
    inner = driver.put()
    outer = driver.put([inner])
    driver.drop(inner)
    result = driver.submit(worker, nested=[outer])
    worker.finish(start(wire, worker))
    driver.drop(outer)
    driver.drop(result)
    wire.settle()
    return outer, inner


def test_a_value_that_is_got_brings_references(wire, driver, worker):
    outer, inner = borrowed_value(wire, driver, worker)
    assert wire.get(worker, outer) == [inner]
    worker.drop(outer)
    wire.settle()
    assert (driver.entry(outer), driver.entry(inner).holders) == (None, {worker.id: 1})
    worker.drop(inner)
    nothing_is_left(wire)


@pytest.fixture
def too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes values have more references than are handed over with them."""
    monkeypatch.setattr("zray.client.core.references.MAX_HANDED_OVER", 0)


@pytest.mark.usefixtures("too_many")
def test_the_outer_object_is_held_until_the_inner_ones_are_registered(wire, driver, worker):
    outer, inner = borrowed_value(wire, driver, worker)
    worker.request(outer)
    wire.settle()
    worker.load(outer)
    worker.drop(outer)
    assert worker.entry(outer).pins == 1
    wire.settle(without=[driver])
    assert driver.entry(outer) is not None
    wire.settle()
    assert worker.entry(outer) is None
    worker.drop(inner)
    nothing_is_left(wire)


@pytest.mark.usefixtures("too_many")
def test_dropped_before_the_registration_is_acknowledged(wire, driver, worker):
    outer, inner = borrowed_value(wire, driver, worker)
    worker.request(outer)
    wire.settle()
    worker.load(outer)
    worker.drop(inner)
    worker.drop(outer)
    assert worker.entry(inner) is not None
    nothing_is_left(wire)


def borrowed_result(wire: Wire, driver: Process, worker: Process, maker: Process) -> tuple[bytes, bytes]:
    """The worker keeps ``result`` of the driver, which contains ``theirs`` of ``maker``. No process has loaded it."""
    result = driver.submit(maker)
    task = start(wire, maker)
    theirs = maker.put()
    maker.finish(task, [theirs])
    maker.drop(theirs)
    wire.settle()
    kept = driver.submit(worker, nested=[result])
    worker.finish(start(wire, worker))
    driver.drop(result)
    driver.drop(kept)
    wire.settle()
    return result, theirs


def test_an_object_of_a_third_party_inside_a_value(wire, driver, worker, other):
    result, theirs = borrowed_result(wire, driver, worker, other)
    assert wire.get(worker, result) == [theirs]
    worker.drop(result)
    wire.settle()
    assert other.entry(theirs).holders == {worker.id: 1}
    worker.drop(theirs)
    nothing_is_left(wire)


def test_a_value_waits_until_its_references_are_registered(wire, driver, worker, other):
    result, theirs = borrowed_result(wire, driver, worker, other)
    worker.request(result)
    wire.settle(without=[other])
    assert not worker.is_ready(result)
    wire.settle()
    assert worker.is_ready(result)
    assert other.entry(theirs).holders == {driver.id: 1, worker.id: 1}
    worker.drop(result)
    nothing_is_left(wire)


def test_a_value_does_not_wait_for_the_registrations_of_others(wire, driver, worker, other):
    driver.submit(other)
    task = start(wire, other)
    theirs = other.put()
    other.finish(task, [theirs])
    wire.settle()
    outer, inner = borrowed_value(wire, driver, worker)
    driver.core.references.register(theirs)
    driver.flush()
    worker.request(outer)
    wire.settle(without=[other])
    assert not driver.core.references.acknowledged
    assert worker.is_ready(outer)
    assert driver.entry(inner).holders == {worker.id: 1}


def test_a_value_that_arrives_when_its_object_is_let_go_brings_nothing(wire, driver, worker, other):
    result, theirs = borrowed_result(wire, driver, worker, other)
    worker.request(result)
    wire.settle(without=[worker])
    wire.step_up(worker)
    wire.settle(without=[worker])
    worker.drop(result)
    wire.settle()
    assert other.entry(theirs) is None
    nothing_is_left(wire)


# ------------------------------------------------------------------ values


def test_a_value_is_asked_for_once(wire, driver, worker):
    outer, _ = borrowed_value(wire, driver, worker)
    for _ in range(3):
        assert worker.request(outer)
    requests = [message for message in worker.up if isinstance(message, m.Forward)]
    assert len(requests) == 1
    wire.settle()
    assert not worker.request(outer)


def test_a_value_that_does_not_exist_yet_is_sent_when_it_does(wire, driver, worker, other):
    slow = driver.submit(other)
    driver.submit(worker, nested=[slow])
    worker.finish(start(wire, worker))
    worker.request(slow)
    wire.settle()
    assert not worker.is_ready(slow)
    other.finish(start(wire, other))
    wire.settle()
    assert worker.is_ready(slow)


def test_stop_waiting(driver, worker):
    pending = driver.submit(worker)
    waiter = IgnoreReady()
    driver.core.references.wait_for(pending, waiter)
    driver.core.references.stop_waiting(pending, waiter)
    driver.core.references.stop_waiting(pending, waiter)
    assert driver.entry(pending).waiters == []


def test_listeners_are_told_of_every_object_that_becomes_ready_once(driver, worker):
    class Listener:
        def __init__(self):
            self.told = []

        def ready(self, object_id):
            self.told.append(object_id)

    first, second, later = (driver.submit(worker) for _ in range(3))
    listener = Listener()
    references = driver.core.references
    references.listeners.add(listener)
    references.resolve(first, INLINE, b"", b"", 0)
    references.fail(second, "ObjectLostError", "")
    references.resolve(first, INLINE, b"", b"", 0)
    references.listeners.discard(listener)
    references.fail(later, "ObjectLostError", "")
    assert listener.told == [first, second]


def test_a_process_that_has_objects_of_others_borrows(wire, driver, worker):
    assert not worker.core.references.borrows
    outer, _ = borrowed_value(wire, driver, worker)
    assert worker.core.references.borrows and not driver.core.references.borrows
    worker.drop(outer)
    wire.settle()
    assert not worker.core.references.borrows


def test_asking_for_what_was_freed(wire, driver, worker):
    unknown = put_id(make_task_id(driver.id, 99))
    worker.core.references.load(unknown)
    worker.bag[unknown] += 1
    worker.request(unknown)
    wire.settle()
    assert failure_of(worker, unknown) == "ObjectFreedError"


def test_an_object_of_ones_own_that_was_freed(driver):
    unknown = put_id(make_task_id(driver.id, 99))
    driver.core.references.load(unknown)
    assert failure_of(driver, unknown) == "ObjectFreedError"


def test_a_second_result_of_the_same_object(driver, worker):
    references = driver.core.references
    result = driver.submit(worker)
    inner = driver.put()
    references.pin(inner)
    references.resolve(result, STORED, b"", HOST, 10)
    references.resolve(result, STORED, b"", HOST, 10, (inner,))
    assert driver.entry(inner).pins == 0
    assert driver.freed == []  # it is in the same segment


def test_a_value_for_an_object_that_is_gone(driver):
    gone = put_id(make_task_id(driver.id, 99))
    driver.core.references.resolve(gone, STORED, b"", HOST, 10)
    driver.flush()
    assert driver.freed == [gone]


@pytest.mark.parametrize(
    "message",
    [m.ObjectRequest(b"x" * 28, b""), m.ObjectState(b"x" * 28, STORED, b"", HOST, 1, b"")],
    ids=["request", "state"],
)
def test_messages_about_the_objects_of_others(driver, message):
    handler = (
        driver.core.references.on_request if isinstance(message, m.ObjectRequest) else driver.core.references.on_state
    )
    with pytest.raises(ProtocolError):
        handler(b"s" * 16, message)


@pytest.mark.usefixtures("too_many")
def test_an_acknowledgement_by_another_process_does_not_count(wire, driver, worker):
    outer, _ = borrowed_value(wire, driver, worker)
    worker.request(outer)
    wire.settle()
    worker.load(outer)
    references = worker.core.references
    references.on_borrow_ack(b"s" * 16, m.BorrowAck(1))
    references.on_borrow_ack(driver.id, m.BorrowAck(77))
    assert not references.acknowledged
    wire.settle()
    assert references.acknowledged


# ------------------------------------------------------------------ deaths


def test_a_borrower_dies(wire, driver, worker):
    outer, _ = borrowed_value(wire, driver, worker)
    assert driver.entry(outer) is not None
    wire.kill(worker)
    nothing_is_left(wire)


def test_the_owner_dies_before_the_value_exists(wire, driver, worker, other):
    slow = driver.submit(other)
    driver.submit(worker, nested=[slow])
    worker.finish(start(wire, worker))
    worker.request(slow)
    wire.settle()
    wire.kill(driver)
    wire.settle()
    assert failure_of(worker, slow) == "OwnerDiedError"
    worker.drop(slow)
    nothing_is_left(wire)


def test_a_value_that_is_here_survives_its_owner(wire, driver, worker):
    outer, inner = borrowed_value(wire, driver, worker)
    wire.get(worker, outer)
    wire.kill(driver)
    wire.settle()
    assert worker.load(outer) == [inner]
    assert worker.entry(inner).status in (PENDING, ERROR)


def test_references_in_a_value_that_is_here_survive_its_owner(wire, driver, worker, other):
    """The process that has the value holds them: the registrations of the value's owner end with the owner."""
    result, theirs = borrowed_result(wire, driver, worker, other)
    worker.request(result)
    wire.settle()
    wire.kill(driver)
    wire.settle()
    call = worker.submit(other, refs=[result])
    other.finish(start(wire, other))
    other.drop(theirs)
    wire.settle()
    assert worker.load(result) == [theirs]
    worker.request(theirs)
    wire.settle()
    assert worker.is_ready(theirs)
    assert not worker.failed(theirs)
    for object_id in (call, result, theirs):
        worker.drop(object_id)
    nothing_is_left(wire)


def test_ones_own_objects_in_a_value_that_is_here_survive_its_owner(wire, driver, worker):
    result, mine = borrowed_result(wire, driver, worker, worker)
    worker.request(result)
    wire.settle()
    wire.kill(driver)
    wire.settle()
    assert worker.load(result) == [mine]
    assert not worker.failed(mine)
    worker.drop(mine)
    worker.drop(result)
    nothing_is_left(wire)


def test_the_owner_of_a_value_dies_before_it_leaves(wire, driver, worker, other):
    """The references inside are announced for a borrower that never receives them."""
    result, theirs = borrowed_result(wire, driver, worker, other)
    worker.request(result)
    wire.step_up(worker)
    wire.step_down(driver)
    wire.step_up(driver)
    wire.step_down(other)
    assert other.entry(theirs).announced == {(worker.id, driver.id): 1}
    wire.kill(driver)
    wire.settle()
    assert failure_of(worker, result) == "OwnerDiedError"
    assert other.entry(theirs) is None
    worker.drop(result)
    nothing_is_left(wire)


def test_a_reference_to_an_object_of_a_dead_process(wire, driver, worker, other):
    result = driver.submit(other)
    task = start(wire, other)
    theirs = other.put()
    other.finish(task, [theirs])
    wire.settle()
    wire.kill(other)
    wire.settle()
    assert wire.get(driver, result) == [theirs]
    assert failure_of(driver, theirs) == "OwnerDiedError"
    driver.drop(theirs)
    driver.drop(result)
    nothing_is_left(wire)


def test_the_owner_dies_before_it_acknowledges(wire, driver, worker, other):
    """A result that waits for the acknowledgement of a dead owner is still sent."""
    result = driver.submit(other)
    task = start(wire, other)
    theirs = other.put()
    other.finish(task, [theirs])
    wire.settle()
    second = driver.submit(worker, refs=[result])
    task = start(wire, worker)
    worker.finish(task, [theirs])
    wire.settle(without=[other])
    assert not driver.is_ready(second)
    wire.kill(other)
    wire.settle()
    assert driver.is_ready(second)


def test_messages_of_dead_processes_change_nothing(driver):
    references = driver.core.references
    object_id = driver.put()
    references.on_process_died(b"d" * 16)
    assert references.is_dead(b"d" * 16)
    references.on_borrow_add(b"d" * 16, m.BorrowAdd(object_id, b"d" * 16, 1))
    references.on_borrow_end(b"d" * 16, m.BorrowEnd(object_id, 1))
    driver.drop(object_id)
    assert driver.core.references.entries == {}


def test_giving_back_nothing(driver):
    """A correct borrower never does that. It must not harm the owner."""
    object_id = driver.put()
    driver.core.references.on_borrow_end(b"s" * 16, m.BorrowEnd(object_id, 0))
    driver.drop(object_id)
    assert driver.core.references.entries == {}


def test_a_holder_that_gives_back_more_than_its_lost_result_announced(driver):
    """It keeps a reference, drops it while its result waits for another owner's acknowledgement, and dies."""
    object_id, holder = driver.put(), b"holder".ljust(16, b"\0")
    driver.core.references.on_borrow_end(holder, m.BorrowEnd(object_id, 1))
    assert m.Watch(holder) in through_broker(driver.core.take_output().sends)
    driver.drop(object_id)
    assert driver.entry(object_id) is not None  # the result may still come
    driver.core.references.on_process_died(holder)
    assert driver.entry(object_id) is None


@pytest.mark.parametrize("resolved", [False, True])
def test_an_object_that_is_being_written_is_freed_with_its_reference(resolved):
    """Also if it was never resolved, because an interrupt came after the writing."""
    process = Process(Wire(), "process")
    references = process.core.references
    object_id = put_id(process.core.new_task_id())
    references.own(object_id, HOST)
    if resolved:
        references.resolve(object_id, STORED, b"", HOST, 100)
    process.core.dropped.append(object_id)
    process.flush()
    assert process.effects == [FreeSegment(HOST, object_id)]
    assert process.entry(object_id) is None


class NotWalked(dict[bytes, object]):
    """A dictionary that may not be iterated over."""

    def items(self):
        raise AssertionError("all objects were looked at")

    __iter__ = values = items


def test_a_death_looks_only_at_the_objects_of_the_dead_process(wire, driver, worker):
    held, *others = [driver.put() for _ in range(4)]
    driver.submit(worker, nested=[held])
    worker.finish(start(wire, worker))
    wire.settle()
    assert driver.entry(held).holders
    for process in (driver, worker):
        process.is_checked = False
        process.core.references.entries = NotWalked(process.core.references.entries)
    worker.core.references.on_process_died(driver.id)
    driver.core.references.on_process_died(worker.id)
    assert all(driver.entry(object_id) is not None for object_id in (held, *others))
