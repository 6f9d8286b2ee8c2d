"""Streams in the cores: what each side does with each message, also with messages that should not come."""

from __future__ import annotations

import msgpack
import pytest

from tests.unit.client.wiring import FUNCTION, HOST, INLINE_ARGUMENTS, Process, Wire, kind_of_failure, process_id
from zray.client.core.assignments import Assignment
from zray.client.core.payloads import Return, pack_outcome, read_outcome
from zray.client.core.producers import FULL_BYTES
from zray.client.core.states import ERROR, INLINE, PENDING, STORED
from zray.client.core.streams import NO_LIMIT, WINDOW, StreamSpec, item_id
from zray.client.core.tasks import Task
from zray.failures import encode_failure
from zray.ids import put_id, return_id, task_of
from zray.protocol import messages as m
from zray.protocol.codec import unpack_messages
from zray.protocol.contract import BROKER
from zray.protocol.messages import ProtocolError

WORKER = process_id("worker")
NONE = b"none"
EMPTY = Return(INLINE, msgpack.packb([]), 0, ())
PLAIN = StreamSpec(False, 0)
FAILURE = encode_failure("WorkerCrashedError", "it crashed")


class Owner:
    """A process with one task that has a stream, which has been sent."""

    def __init__(self, spec: StreamSpec = PLAIN, retries: int = 0) -> None:
        self.process = Process(Wire(), "owner")
        self.core = self.process.core
        self.core.streams.none = NONE
        self.task_id = self.core.new_task_id()
        self.task = Task(
            self.task_id, self.core.queue_route, FUNCTION, b"\x90", 0, b"", INLINE_ARGUMENTS, 1, retries, b""
        )
        self.completion = return_id(self.task_id, 1)
        self.core.references.own(self.completion)
        opened = self.core.streams.open(self.task_id, spec)
        self.handle, self.next = opened or (b"", b"")
        self.core.tasks.submit(self.task)

    @property
    def sent(self) -> list[int]:
        """What the latest attempt was told of the stream."""
        (*_, submitted) = [message for message in self.output() if isinstance(message, m.Submit)]
        return msgpack.unpackb(submitted.payload)[-1]

    def output(self):
        self.process.flush()
        messages, self.process.up = list(self.process.up), type(self.process.up)()
        return messages

    def item(self, position: int, *returns: Return, attempt: int = 0, actor: bytes = b"", payload: bytes | None = None):
        packed = pack_outcome(HOST, returns or [EMPTY], [], False) if payload is None else payload
        self.core.receive(BROKER, m.Item(self.task_id, attempt, WORKER, actor, position, packed), 0.0)

    def result(self, value: Return = EMPTY, attempt: int = 0, retryable: bool = False) -> None:
        payload = pack_outcome(HOST, [value], [], retryable)
        self.core.receive(BROKER, m.Result(self.task_id, attempt, WORKER, b"", payload), 0.0)

    def take(self) -> bytes:
        taken = self.next
        assert not self.core.streams.is_end(taken)
        self.next = self.core.streams.take_next(taken)
        return taken

    def drop(self, *object_ids: bytes) -> None:
        self.core.dropped.extend(object_ids)
        self.process.flush()

    def status(self, object_id: bytes):
        return self.core.references.entries[object_id].status

    def limits(self) -> list[int]:
        """The limits that the worker was told."""
        rows = b"".join(message.rows for message in self.output() if isinstance(message, m.Forward))
        return [credit.limit for credit in unpack_messages(rows, m.FROM_PEER)] if rows else []

    @property
    def clean(self) -> bool:
        """Whether nothing is left of the stream."""
        return not self.core.references.entries and not self.core.streams.streams and not self.core.tasks.tasks


# ------------------------------------------------------------------ the owner


def test_items_in_order_and_the_end():
    owner = Owner()
    assert owner.sent == [0, WINDOW, 0]
    owner.item(0, EMPTY, EMPTY)
    owner.item(2)
    owner.result()
    taken = [owner.take() for _ in range(3)]
    assert taken == [item_id(owner.task_id, position) for position in range(3)]
    assert all(owner.status(object_id) is INLINE for object_id in taken)
    assert (
        owner.core.streams.is_end(owner.next)
        and kind_of_failure(owner.core.references.entries[owner.next].data) == "ObjectRefStreamEndOfStreamError"
    )
    owner.drop(owner.completion, owner.handle, owner.next, *taken)
    assert owner.clean


def test_the_end_comes_while_the_program_waits():
    owner = Owner()
    assert owner.status(owner.next) is PENDING and not owner.core.streams.is_end(owner.next)
    owner.result()
    assert owner.status(owner.next) is ERROR and owner.core.streams.is_end(owner.next)
    owner.drop(owner.completion, owner.handle, owner.next)
    assert owner.clean


def test_what_was_not_taken_is_freed_with_the_generator():
    owner = Owner()
    stored = Return(STORED, b"", 10, ())
    owner.item(0, EMPTY, stored)
    owner.drop(owner.completion, owner.handle, owner.next)
    owner.item(2, stored)
    owner.process.flush()
    assert owner.process.freed == [item_id(owner.task_id, 1), item_id(owner.task_id, 2)]
    owner.result()
    assert owner.clean


def test_the_worker_of_a_dropped_generator_has_no_limit():
    owner = Owner(StreamSpec(False, 2))
    assert owner.sent == [0, 2, 2]
    owner.item(0)
    owner.drop(owner.completion, owner.handle, owner.next)
    assert owner.limits() == [NO_LIMIT]
    owner.result()
    assert owner.clean


def test_back_pressure_counts_what_was_taken():
    owner = Owner(StreamSpec(False, 2))
    owner.sent  # noqa: B018 (the submission leaves)
    owner.item(0, EMPTY, EMPTY)
    assert owner.limits() == []
    owner.take()
    assert owner.limits() == [3]
    owner.take()
    assert owner.limits() == [4]


def test_without_back_pressure_the_window_moves_with_what_arrives():
    owner = Owner()
    owner.sent  # noqa: B018 (the submission leaves)
    owner.item(0, *[EMPTY] * (WINDOW // 2 - 1))
    assert owner.limits() == []
    owner.item(WINDOW // 2 - 1)
    assert owner.limits() == [WINDOW // 2 + WINDOW]


def test_an_error_is_the_last_item():
    owner = Owner()
    owner.item(0)
    owner.result(Return(ERROR, FAILURE, 0, ()))
    first, last = owner.take(), owner.take()
    assert (owner.status(first), owner.status(last), owner.status(owner.completion)) == (INLINE, ERROR, INLINE)
    assert owner.core.references.entries[owner.completion].data == NONE and owner.core.streams.is_end(owner.next)


def test_an_error_in_the_store_is_stored_once():
    owner = Owner()
    owner.result(Return(ERROR, b"", 10, ()))
    last = owner.take()
    owner.drop(owner.completion, owner.handle, owner.next)
    assert owner.status(last) is ERROR and not owner.process.freed
    owner.drop(last)
    assert owner.process.freed == [owner.completion] and owner.clean


def test_a_failure_is_the_last_item_and_the_completion():
    owner = Owner()
    owner.item(0)
    owner.core.receive(BROKER, m.Failed(owner.task_id, 0, "WorkerCrashedError", "it crashed", True), 0.0)
    owner.take()
    last = owner.take()
    assert [kind_of_failure(owner.core.references.entries[each].data) for each in (last, owner.completion)] == [
        "WorkerCrashedError"
    ] * 2
    assert owner.core.streams.is_end(owner.next)


def test_another_attempt_leaves_out_what_has_arrived():
    owner = Owner(retries=1)
    owner.item(0, EMPTY, EMPTY)
    owner.core.receive(BROKER, m.Failed(owner.task_id, 0, "WorkerCrashedError", "it crashed", True), 0.0)
    assert owner.sent == [2, 2 + WINDOW, 0]
    owner.item(2, Return(STORED, b"", 10, ()), attempt=0)  # of the attempt before: it is not counted
    owner.item(2, attempt=1)
    owner.result(attempt=1)
    assert [owner.status(owner.take()) for _ in range(3)] == [INLINE] * 3 and owner.core.streams.is_end(owner.next)
    assert owner.process.freed == []  # the segment of the first attempt has the identifier of an item in use
    owner.drop(item_id(owner.task_id, 2))


def test_a_collected_stream():
    owner = Owner(StreamSpec(True, 0))
    owner.item(0, EMPTY, EMPTY)
    owner.result()
    items = {item_id(owner.task_id, 0), item_id(owner.task_id, 1)}
    assert set(owner.core.references.entries) == {owner.completion, *items}
    owner.drop(owner.completion)
    assert owner.clean


def test_an_error_that_no_code_has_seen():
    owner = Owner()
    owner.item(0)
    owner.result(Return(ERROR, FAILURE, 0, ()))
    owner.take()
    last = owner.take()
    owner.drop(owner.completion, owner.handle, owner.next, item_id(owner.task_id, 0))
    assert not [effect for effect in owner.process.take_effects() if "Unhandled" in type(effect).__name__]
    owner.drop(last)
    assert [type(effect).__name__ for effect in owner.process.take_effects()] == ["Unhandled"]


@pytest.mark.parametrize("broken", [{"position": 1}, {"actor": b"a" * 24}, {"payload": b"\xc1"}])
def test_an_item_that_should_not_come(broken):
    owner = Owner()
    with pytest.raises(ProtocolError):
        owner.item(**{"position": 0, **broken})
    if "actor" not in broken:  # its worker has sent it: without this item, the stream cannot go on
        assert kind_of_failure(owner.core.references.entries[owner.take()].data) == "SystemFailure"
        assert owner.core.streams.is_end(owner.next)


def test_an_item_of_a_task_without_a_stream():
    owner = Process(Wire(), "owner")
    worker = Process(Wire(), "worker")
    task_id = task_of(owner.submit(worker))
    with pytest.raises(ProtocolError):
        owner.core.receive(BROKER, m.Item(task_id, 0, WORKER, b"", 0, pack_outcome(HOST, [EMPTY], [], False)), 0.0)


# ------------------------------------------------------------------ the worker


class Ears:
    """Counts how often it was woken."""

    def __init__(self) -> None:
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


class Worker:
    """A worker with one task that has a stream."""

    def __init__(self, skip: int = 0, limit: int = 2, backpressure: int = 2) -> None:
        self.process = Process(Wire(), "worker")
        self.core = self.process.core
        self.execution = self.core.execution
        self.owner = process_id("owner")
        self.task = self.run(1, skip, limit, backpressure)
        self.ears = Ears()

    def run(self, number: int, skip: int = 0, limit: int = 2, backpressure: int = 2) -> Assignment:
        payload = msgpack.packb([b"options", INLINE, msgpack.packb([]), b"", b"", 0, [], [skip, limit, backpressure]])
        self.core.receive(BROKER, m.Run(self.owner + bytes([*[0] * 7, number]), 0, FUNCTION, b"\x90", [], payload), 0.0)
        task = self.execution.take()
        assert task is not None and task.producer is not None
        return task

    def has_room(self, task: Assignment | None = None, most_untaken: int = 0) -> bool:
        return self.execution.has_room(task or self.task, most_untaken, self.ears)

    def credit(self, limit: int, source: bytes = b"", task: Assignment | None = None, attempt: int = 0) -> None:
        credit = m.StreamCredit((task or self.task).task_id, attempt, limit)
        self.core.receive(source or self.owner, credit, 0.0)

    def sent(self) -> list[m.Yield]:
        self.process.flush()
        messages, self.process.up = list(self.process.up), type(self.process.up)()
        return [message for message in messages if isinstance(message, m.Yield)]


def test_a_worker_waits_at_the_limit():
    worker = Worker()
    worker.execution.send_items(worker.task, [EMPTY, EMPTY])
    assert not worker.has_room()
    worker.credit(2)
    assert worker.ears.woken == 1 and not worker.has_room()
    worker.credit(3)
    assert worker.ears.woken == 2 and worker.has_room()
    assert [(item.position, item.owner) for item in worker.sent()] == [(0, worker.owner)]


def test_an_attempt_goes_on_behind_what_the_owner_has():
    worker = Worker(skip=3, limit=10)
    worker.execution.send_items(worker.task, [EMPTY])
    assert positions_and_lengths(worker.sent()) == [(3, 0), (3, 1)]


def positions_and_lengths(items: list[m.Yield]) -> list[tuple[int, int]]:
    return [(item.position, len(read_outcome(item.payload).returns)) for item in items]


@pytest.mark.parametrize("taken", ["before it begins", "after it has begun", "never: the generator is dropped"])
@pytest.mark.parametrize("most_untaken", [0, 2])
def test_an_attempt_that_begins_at_the_limit_gets_credit(taken, most_untaken):
    owner = Owner(StreamSpec(False, 2), retries=1)
    owner.item(0, EMPTY, EMPTY)
    owner.core.receive(BROKER, m.Failed(owner.task_id, 0, "WorkerCrashedError", "it crashed", True), 0.0)
    assert owner.sent == [2, 2, 2]
    if taken == "before it begins":
        owner.take()
    worker = Worker(2, 2, 2)
    assert not worker.has_room(most_untaken=most_untaken)
    (begun,) = worker.sent()
    owner.item(begun.position, payload=begun.payload, attempt=1)
    if taken == "after it has begun":
        owner.take()
    elif taken != "before it begins":
        owner.drop(owner.completion, owner.handle, owner.next)
    (limit,) = owner.limits()
    worker.credit(limit)
    assert worker.ears.woken == 1 and worker.has_room(most_untaken=most_untaken)


def test_streams_of_an_actor_have_room_once_the_items_of_an_earlier_attempt_are_taken():
    worker = Worker(skip=2, limit=4, backpressure=4)
    other = worker.run(2, limit=4, backpressure=4)
    assert not worker.has_room(other, 2)
    (begun,) = worker.sent()
    assert positions_and_lengths([begun]) == [(2, 0)]  # its owner knows where to send credit, though it computes
    worker.credit(5)
    assert worker.ears.woken == 1 and worker.has_room(other, 2)


def test_a_first_attempt_says_nothing_before_its_first_item():
    assert Worker().sent() == []


def test_items_that_nothing_was_sent_between_leave_together():
    worker = Worker(limit=10)
    for _ in range(3):
        worker.execution.send_items(worker.task, [EMPTY])
    assert worker.core.has_output
    (first,) = worker.sent()
    worker.execution.send_items(worker.task, [EMPTY])
    (second,) = worker.sent()
    assert positions_and_lengths([first, second]) == [(0, 3), (3, 1)]


def test_large_items_are_not_gathered_without_bound():
    worker = Worker(limit=10)
    half = Return(INLINE, bytes(FULL_BYTES // 2), 0, ())
    for _ in range(5):
        worker.execution.send_items(worker.task, [half])
    assert [(item.position, len(read_outcome(item.payload).returns)) for item in worker.sent()] == [
        (0, 2),
        (2, 2),
        (4, 1),
    ]


@pytest.mark.parametrize("last", ["the answer", "an item with a reference", "a cancelled answer"])
def test_gathered_items_come_before_what_follows(last):
    worker = Worker(limit=10)
    worker.execution.send_items(worker.task, [EMPTY, EMPTY])
    if last == "the answer":
        worker.execution.finish(worker.task, [EMPTY], False, 1)
    elif last == "a cancelled answer":
        worker.execution.finish_cancelled(worker.task)
    else:
        reference = put_id(worker.core.new_task_id())
        worker.core.references.own(reference)
        worker.execution.send_items(worker.task, [EMPTY._replace(inner=(reference,))])
    worker.process.flush()
    messages = [message for message in worker.process.up if isinstance(message, (m.Yield, m.Done))]
    assert [type(message) for message in messages] == [m.Yield, m.Yield if "item" in last else m.Done]
    assert [message.position for message in messages if isinstance(message, m.Yield)] == [0, 2][: 1 + ("item" in last)]


def test_an_owner_that_dies_sets_no_limit():
    worker = Worker()
    worker.execution.send_items(worker.task, [EMPTY, EMPTY])
    assert not worker.has_room()
    worker.core.receive(BROKER, m.ProcessDied(worker.owner, "it is gone"), 0.0)
    assert worker.ears.woken == 1 and worker.has_room()


def test_the_streams_of_an_actor_share_a_limit():
    worker = Worker(limit=4, backpressure=4)
    other = worker.run(2, limit=4, backpressure=4)
    worker.execution.send_items(worker.task, [EMPTY, EMPTY])
    assert worker.has_room(other, 3)
    worker.execution.send_items(other, [EMPTY])
    assert not worker.has_room(other, 3) and not worker.has_room(most_untaken=3)
    worker.credit(5)  # one of the first stream's items was taken
    assert worker.ears.woken and worker.has_room(other, 3)
    worker.execution.send_items(other, [EMPTY])
    assert not worker.has_room(other, 3)
    worker.execution.finish(worker.task, [EMPTY], False, 1)
    assert worker.has_room(other, 3)


def test_tasks_behind_a_stream_that_waits_are_handed_back():
    worker = Worker()
    worker.execution.send_items(worker.task, [EMPTY, EMPTY])
    payload = msgpack.packb([b"options", INLINE, msgpack.packb([]), b"", b"", 0, [], []])
    worker.core.receive(BROKER, m.Run(worker.owner + bytes([*[0] * 7, 9]), 0, FUNCTION, b"\x90", [], payload), 0.0)
    assert not worker.has_room() and worker.execution.queued == 0


def test_credit_that_should_not_come():
    worker = Worker()
    with pytest.raises(ProtocolError):
        worker.credit(5, source=process_id("stranger"))
    worker.credit(5, attempt=1)
    worker.execution.send_items(worker.task, [EMPTY, EMPTY])
    assert not worker.has_room()
