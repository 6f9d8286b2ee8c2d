"""Leases at both ends: which tasks go straight to a leased worker, and what becomes of them when something ends."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from tests.unit.client.ends import End
from tests.unit.client.wiring import FUNCTION, HOST, INLINE_ARGUMENTS, process_id
from zray.client.core.assignments import Assignment
from zray.client.core.effects import DialLane, OfferLane
from zray.client.core.leases import MAX_BYTES
from zray.client.core.payloads import Return, pack_outcome
from zray.client.core.states import ERROR, INLINE, PENDING, STORED
from zray.client.core.streams import StreamSpec
from zray.client.core.tasks import Task
from zray.failures import decode_failure
from zray.ids import make_task_id, put_id, return_id, task_of
from zray.protocol import messages as m
from zray.protocol.codec import pack_body, unpack_messages
from zray.protocol.messages import CANCEL_FORCE, FLAG_LEASE, FLAG_RETRYABLE, FLAG_SPREAD

OWNER, WORKER, STRANGER = process_id("owner"), process_id("worker"), process_id("stranger")
OTHER_FUNCTION = b"other".ljust(16, b"\0")
SHAPE, OTHER_SHAPE = b"shape", b"other shape"
TOKEN = b"t" * 16
AFTER = 2
LEASE = 7
PAYLOAD = msgpack.packb([b"", INLINE, b"\x90", b"", b"", 0, [], []])
OUTCOME = pack_outcome(HOST, [Return(INLINE, msgpack.packb([]), 0, ())], [], False)
VALUE = Return(INLINE, msgpack.packb([]), 0, ())


class Pair:
    """An owner and a worker. The test is the broker between them, and the socket."""

    def __init__(self) -> None:
        self.owner = End(OWNER)
        self.owner.core.leases.after = AFTER
        self.worker = End(WORKER)
        for function_id in (FUNCTION, OTHER_FUNCTION):
            self.worker.core.execution.functions[function_id] = m.FunctionBlob(function_id, True, "f", b"x")
        self.submitted: list[m.Submit] = []  # what the broker got, as far as the test has not looked at it
        self.to_broker: list[Any] = []  # other messages for the broker, of either
        self.ran: list[tuple[bytes, int, bool]] = []  # tasks that the worker ran, and whether they came by the lane

    # ------------------------------------------------------------------ the owner's program

    def submit(
        self, retries: int = 3, shape: bytes = SHAPE, function_id: bytes = FUNCTION,
        options: dict[str, Any] | None = None, refs: tuple[bytes, ...] = (), flags: int = 0,
        stream: StreamSpec | None = None, data: bytes = b"",
    ) -> bytes:  # fmt: skip
        core = self.owner.core
        task_id = core.new_task_id()
        core.references.own(return_id(task_id, 1))
        if stream is not None:
            core.streams.open(task_id, stream)
        arguments = INLINE_ARGUMENTS._replace(refs=tuple(enumerate(refs)), held=refs)
        if data:
            arguments = arguments._replace(data=data)
        flags |= FLAG_RETRYABLE if retries else 0
        packed = msgpack.packb(options) if options else b""
        core.tasks.submit(
            Task(task_id, core.queue_route, function_id, shape, flags, packed, arguments, 1, retries, b"")
        )
        self.owner.flush()
        return return_id(task_id, 1)

    def status(self, object_id: bytes) -> int:
        return self.owner.core.references.entries[object_id].status

    def error(self, object_id: bytes) -> BaseException:
        entry = self.owner.core.references.entries[object_id]
        assert entry.status is ERROR
        return decode_failure(entry.data)

    # ------------------------------------------------------------------ the broker and the socket

    def route(self) -> None:
        """The broker passes on what the two have sent, and keeps what is for itself."""
        for source, dest in ((self.owner, self.worker), (self.worker, self.owner)):
            source.flush()
            up, source.up = source.up, []
            for message in up:
                if isinstance(message, m.Submit):
                    self.submitted.append(message)
                elif isinstance(message, m.Done):
                    dest.tell(m.Result(message.task_id, message.attempt, WORKER, b"", message.payload))
                elif isinstance(message, m.Forward):
                    dest.tell(m.Delivered(source.core.process_id, message.rows))
                else:
                    self.to_broker.append(message)

    def carry(self) -> None:
        for source, dest in ((self.owner, self.worker), (self.worker, self.owner)):
            source.flush()
            frames, source.frames = source.frames, []
            for frame in frames:
                dest.core.lanes.frame(TOKEN, frame, 0.0)
            dest.flush()

    def give(self, lease: int = 0) -> m.Submit:
        """The broker gives the oldest task that it has to the worker."""
        self.route()
        submit = self.submitted.pop(0)
        run = m.Run(submit.task_id, submit.attempt, submit.function_id, b"granted", [], submit.payload, lease)
        self.worker.tell(run)
        return submit

    def take(self) -> Assignment:
        task = self.worker.core.execution.take()
        assert task is not None
        self.ran.append((task.task_id, task.attempt, task.by_lane))
        return task

    def work(self) -> None:
        """The worker runs everything that it has."""
        execution = self.worker.core.execution
        while execution.queued:
            execution.finish(self.take(), [VALUE], False, 50)
        self.worker.flush()

    def brokered(self, lease: int = 0, **options: Any) -> m.Submit:
        """A task that travels through the broker, to its end."""
        called = self.submit(**options)
        submit = self.give(lease)
        self.work()
        self.route()
        assert self.status(called) is INLINE
        return submit

    def open_lane(self) -> None:
        self.route()
        (offer,) = self.worker.take(OfferLane)
        assert offer.caller == OWNER
        self.worker.core.lanes.offered(OWNER, "here", TOKEN, 0.0)
        self.route()
        (dial,) = self.owner.take(DialLane)
        assert (dial.address, dial.name) == ("here", TOKEN)
        self.owner.core.lanes.dialled(TOKEN, True, 0.0)
        self.worker.core.lanes.accepted(TOKEN, 0.0)
        for _ in range(3):
            self.carry()
        assert set(self.owner.core.leases.lanes) == {WORKER}

    def lease(self) -> None:
        """Up to a lease that both ends know of."""
        for _ in range(AFTER + 1):
            self.brokered()
        self.open_lane()
        assert self.brokered(lease=LEASE).flags & FLAG_LEASE
        self.owner.tell(m.Leased(WORKER, LEASE, SHAPE, b"granted"))
        self.route()
        self.to_broker.clear()
        self.ran.clear()

    def by_lane(self, **options: Any) -> bytes:
        """Submits a task that must not go to the broker."""
        called = self.submit(**options)
        self.route()
        assert not self.submitted
        return called

    def settle(self) -> None:
        for _ in range(4):
            self.carry()
            self.route()


@pytest.fixture
def pair() -> Pair:
    return Pair()


@pytest.fixture
def leased() -> Pair:
    pair = Pair()
    pair.lease()
    return pair


# ------------------------------------------------------------------ how it begins


def test_a_few_tasks_ask_for_nothing(pair: Pair) -> None:
    for _ in range(AFTER):
        assert not pair.brokered().flags & FLAG_LEASE
    assert not pair.worker.take(OfferLane)


def test_first_a_lane_and_then_a_lease(pair: Pair) -> None:
    for _ in range(AFTER + 1):
        assert not pair.brokered().flags & FLAG_LEASE
    pair.open_lane()
    submit = pair.brokered()
    assert submit.flags & FLAG_LEASE and submit.near == HOST


def test_tasks_that_overlap_ask_for_nothing(pair: Pair) -> None:
    for _ in range(3 * AFTER):
        pair.submit()
        pair.submit()
        for _ in range(2):
            assert not pair.give().flags & FLAG_LEASE
        pair.work()
        pair.route()
    assert not pair.worker.take(OfferLane)


@pytest.mark.parametrize(
    "options", [{"retries": 0}, {"flags": FLAG_SPREAD}, {"options": {"max_calls": 1}}, {"data": b"x" * MAX_BYTES}]
)
def test_tasks_that_go_through_the_broker(pair: Pair, options: dict[str, Any]) -> None:
    for _ in range(3 * AFTER):
        assert not pair.brokered(**options).flags & FLAG_LEASE
    assert not pair.worker.take(OfferLane)


@pytest.mark.parametrize(
    "options",
    [{"retries": 0}, {"flags": FLAG_SPREAD}, {"options": {"max_calls": 1}}, {"data": b"x" * MAX_BYTES},
     {"function_id": OTHER_FUNCTION}, {"shape": OTHER_SHAPE}, {"stream": StreamSpec(False, 0)}],
)  # fmt: skip
def test_tasks_that_go_through_the_broker_although_a_worker_is_leased(leased: Pair, options: dict[str, Any]) -> None:
    leased.submit(**options)
    leased.route()
    assert len(leased.submitted) == 1 and not leased.owner.frames


def test_a_task_near_other_data_goes_through_the_broker(leased: Pair) -> None:
    core = leased.owner.core
    large = put_id(core.new_task_id())
    core.references.own(large)
    core.references.resolve(large, STORED, b"", process_id("elsewhere"), 1 << 20)
    leased.submit(refs=(large,))
    leased.route()
    assert leased.submitted[0].near == process_id("elsewhere")


def test_a_function_becomes_known_when_it_has_run_alone(leased: Pair) -> None:
    leased.brokered(function_id=OTHER_FUNCTION)
    leased.by_lane(function_id=OTHER_FUNCTION)


def test_without_a_lane_to_the_worker_the_lease_is_given_back(pair: Pair) -> None:
    pair.owner.tell(m.Leased(WORKER, LEASE, SHAPE, b"granted"))
    pair.route()
    assert m.LeaseEnd(WORKER, LEASE) in pair.to_broker
    assert pair.worker.take(OfferLane)  # so that there is one the next time


def test_a_second_lease_of_the_shape_is_given_back(leased: Pair) -> None:
    leased.owner.tell(m.Leased(WORKER, LEASE, SHAPE, b"granted"))
    leased.route()
    assert leased.to_broker == [m.LeaseEnd(WORKER, LEASE)]


def test_a_worker_that_offers_no_lane_is_asked_once(pair: Pair) -> None:
    pair.worker.core.lanes.machine = "elsewhere"
    for _ in range(3 * AFTER):
        assert not pair.brokered().flags & FLAG_LEASE
        pair.route()
    assert not pair.worker.take(OfferLane) and not pair.owner.take(DialLane)
    asked = pair.owner.core.lanes._refused
    assert asked == {WORKER}
    pair.owner.tell(m.ProcessDied(WORKER, "gone"))
    assert not asked


# ------------------------------------------------------------------ tasks by the lane


def test_a_task_and_its_outcome(leased: Pair) -> None:
    called = leased.by_lane()
    assert leased.owner.core.lanes.is_urgent or leased.owner.frames
    leased.carry()
    task = leased.take()
    assert (task.shape, task.function_id, task.owner, task.by_lane) == (b"granted", FUNCTION, OWNER, True)
    leased.worker.core.execution.finish(task, [VALUE], False, 50)
    leased.settle()
    assert leased.status(called) is INLINE
    assert not leased.to_broker and not leased.owner.core.tasks.tasks


def test_one_after_the_other(leased: Pair) -> None:
    for _ in range(20):
        called = leased.by_lane()
        leased.carry()
        leased.work()
        leased.settle()
        assert leased.status(called) is INLINE
    assert [by_lane for _, _, by_lane in leased.ran] == [True] * 20


def test_a_second_task_does_not_wait_behind_the_first(leased: Pair) -> None:
    leased.by_lane()
    leased.submit()
    leased.route()
    assert len(leased.submitted) == 1


def test_an_error_that_is_retried(leased: Pair) -> None:
    called = leased.by_lane()
    leased.carry()
    leased.worker.core.execution.finish(leased.take(), [Return(ERROR, b"", 0, ())], True, 50)
    leased.carry()
    assert leased.status(called) is PENDING
    leased.carry()
    leased.work()  # the second attempt takes the lane, too
    leased.settle()
    assert leased.status(called) is INLINE
    assert [(attempt, by_lane) for _, attempt, by_lane in leased.ran] == [(0, True), (1, True)]


def test_what_is_too_large_for_the_lane_fails(leased: Pair) -> None:
    called = leased.by_lane()
    leased.carry()
    task = leased.take()
    huge = Return(INLINE, bytes(4 << 20), 0, ())
    leased.worker.core.execution.finish(task, [huge], False, 50)
    leased.settle()
    assert type(leased.error(called)).__name__ == "MessageRefusedError"


def test_cancelled_before_it_began(leased: Pair) -> None:
    called = leased.by_lane()
    leased.carry()
    assert leased.owner.core.tasks.cancel(task_of(called), 0)
    leased.settle()
    assert type(leased.error(called)).__name__ == "TaskCancelledError"
    assert not leased.to_broker and not leased.worker.core.execution.queued
    leased.by_lane()


def test_cancelled_by_force(leased: Pair) -> None:
    called = leased.by_lane()
    leased.carry()
    task = leased.take()
    leased.owner.core.tasks.cancel(task_of(called), CANCEL_FORCE)
    leased.route()
    assert leased.to_broker == [m.LeaseCancel(WORKER, LEASE, task.task_id, CANCEL_FORCE)]
    leased.submit()
    leased.route()
    assert len(leased.submitted) == 1  # the lease takes no more
    leased.worker.tell(m.CancelTask(task.task_id, CANCEL_FORCE))
    leased.route()
    assert m.Killable(task.task_id) in leased.to_broker
    leased.owner.tell(m.LeaseLost(WORKER, LEASE, "WorkerCrashedError", "killed", task.task_id))
    assert type(leased.error(called)).__name__ == "TaskCancelledError"


def test_a_task_that_ends_before_it_is_killed(leased: Pair) -> None:
    called = leased.by_lane()
    leased.carry()
    task = leased.take()
    leased.owner.core.tasks.cancel(task_of(called), CANCEL_FORCE)
    leased.worker.core.execution.finish(task, [VALUE], False, 50)
    leased.settle()
    assert leased.to_broker[-1] == m.LeaseEnd(WORKER, LEASE)  # so that the worker is not killed


# ------------------------------------------------------------------ the end, at the owner


def test_given_back_when_it_had_nothing_to_do_for_a_tick(leased: Pair) -> None:
    core = leased.owner.core
    core.tick(1.0)
    leased.route()
    assert not leased.to_broker and not core.is_at_rest
    core.tick(2.0)
    leased.route()
    assert leased.to_broker == [m.LeaseEnd(WORKER, LEASE)]
    assert core.leases.is_at_rest


def test_an_owner_is_at_rest_while_its_worker_works(leased: Pair) -> None:
    leased.by_lane()
    assert leased.owner.core.leases.is_at_rest


def test_while_a_worker_is_leased_nobody_asks_for_another(leased: Pair) -> None:
    leased.by_lane()
    for _ in range(3 * AFTER):  # another thread's, one after the other
        leased.submit(function_id=FUNCTION)
        submit = leased.submitted.pop() if leased.submitted else None
        leased.route()
        submit = submit or leased.submitted.pop()
        assert not submit.flags & FLAG_LEASE
        outcome = m.Result(submit.task_id, submit.attempt, STRANGER, b"", OUTCOME)
        leased.owner.tell(outcome)


def test_kept_while_it_is_used(leased: Pair) -> None:
    for now in range(5):
        leased.by_lane()
        leased.owner.core.tick(float(now))
        leased.carry()
        leased.owner.core.tick(now + 0.5)
        leased.work()
        leased.settle()
    assert not leased.to_broker


def test_taken_back_by_the_broker(leased: Pair) -> None:
    called = leased.by_lane()
    leased.owner.tell(m.LeaseEnded(WORKER, LEASE))
    leased.submit()
    leased.route()
    assert len(leased.submitted) == 1
    leased.carry()
    leased.work()
    leased.settle()
    assert leased.status(called) is INLINE and not leased.to_broker


def test_sent_back_it_goes_through_the_broker_as_the_same_attempt(leased: Pair) -> None:
    leased.worker.tell(m.LeaseOver(LEASE, False))
    called = leased.by_lane()
    leased.settle()
    (submit,) = leased.submitted
    assert (submit.task_id, submit.attempt) == (task_of(called), 0)
    leased.give()
    leased.work()
    leased.route()
    assert leased.status(called) is INLINE
    assert [by_lane for _, _, by_lane in leased.ran] == [False]


@pytest.mark.parametrize("mode", [0, CANCEL_FORCE])
@pytest.mark.parametrize("news", ["sent back", "death"])
def test_cancelled_while_it_is_sent_back(leased: Pair, mode: int, news: str) -> None:
    leased.worker.tell(m.LeaseOver(LEASE, False))
    called = leased.by_lane()
    leased.owner.core.tasks.cancel(task_of(called), mode)
    if news == "death":
        leased.owner.tell(m.ProcessDied(WORKER, "it was idle"))
    else:
        leased.settle()
    error = leased.error(called)
    assert type(error).__name__ == "TaskCancelledError" and "before it started" in str(error)
    leased.route()
    assert not leased.submitted


def test_sent_back_for_another_reason_the_lease_is_given_back(leased: Pair) -> None:
    leased.worker.core.execution.block()  # a thread that an earlier task has left behind
    leased.by_lane()
    leased.settle()
    assert m.LeaseEnd(WORKER, LEASE) in leased.to_broker


def test_a_timed_out_task_is_not_tried_again_in_the_worker_that_was_killed(leased: Pair) -> None:
    called = leased.by_lane(options={"name": "f", "timeout": [1.0, True]})
    task = leased.owner.core.tasks.tasks[task_of(called)]
    leased.owner.tell(m.TimedOut(task.task_id, 0, b"", "ran too long"))
    leased.route()
    assert [submit.attempt for submit in leased.submitted] == [1]
    left = task.retries_left
    leased.owner.tell(m.LeaseLost(WORKER, LEASE, "WorkerCrashedError", "SIGKILL", task.task_id))
    assert (task.attempt, task.retries_left) == (1, left)


def test_a_task_without_retries_left_survives_being_sent_back(leased: Pair) -> None:
    called = leased.by_lane(retries=1)
    task = leased.owner.core.tasks.tasks[task_of(called)]
    leased.worker.tell(m.LeaseOver(LEASE, False))
    leased.settle()
    assert task.retries_left == 1 and task.attempt == 0


@pytest.mark.parametrize(("retries", "culprit", "again"), [(1, "it", True), (1, "none", True), (1, "any", True)])
def test_the_worker_dies_and_the_task_is_tried_again(leased: Pair, retries: int, culprit: str, again: bool) -> None:
    called = leased.by_lane(retries=retries)
    task_id = task_of(called)
    who = {"it": task_id, "none": b"", "any": None}[culprit]
    leased.owner.tell(m.LeaseLost(WORKER, LEASE, "WorkerCrashedError", "SIGKILL", who))
    leased.route()
    (submit,) = leased.submitted
    assert (submit.task_id, submit.attempt) == (task_id, 1)
    assert leased.owner.core.tasks.tasks[task_id].retries_left == (retries if culprit == "none" else retries - 1)


def test_the_worker_dies_and_no_retry_is_left(leased: Pair) -> None:
    called = leased.by_lane(retries=1)
    task = leased.owner.core.tasks.tasks[task_of(called)]
    task.retries_left = 0
    leased.owner.tell(m.LeaseLost(WORKER, LEASE, "WorkerCrashedError", "SIGKILL", task.task_id))
    error = leased.error(called)
    assert type(error).__name__ == "WorkerCrashedError" and "SIGKILL" in str(error)


def test_out_of_memory_pauses(leased: Pair) -> None:
    called = leased.by_lane()
    leased.owner.tell(m.LeaseLost(WORKER, LEASE, "OutOfMemoryError", "stopped", task_of(called)))
    leased.route()
    assert not leased.submitted and leased.status(called) is PENDING
    leased.owner.core.tick(1000.0)
    leased.route()
    assert [submit.attempt for submit in leased.submitted] == [1]


def test_the_worker_dies_without_work(leased: Pair) -> None:
    leased.owner.tell(m.LeaseLost(WORKER, LEASE, "WorkerCrashedError", "SIGKILL", b""))
    leased.owner.tell(m.ProcessDied(WORKER, "SIGKILL"))
    assert not leased.owner.core.leases.lanes
    leased.submit()
    leased.route()
    assert len(leased.submitted) == 1


def test_a_death_after_the_lease_was_over(leased: Pair) -> None:
    # The broker took the worker back, which ended before it had read the task: it has not begun.
    called = leased.by_lane()
    leased.owner.tell(m.LeaseEnded(WORKER, LEASE))
    leased.owner.tell(m.ProcessDied(WORKER, "it was idle"))
    leased.route()
    (submit,) = leased.submitted
    assert (submit.task_id, submit.attempt) == (task_of(called), 0)


def test_an_answer_that_came_before_the_death_counts(leased: Pair) -> None:
    called = leased.by_lane()
    leased.carry()
    leased.work()
    leased.carry()
    leased.owner.tell(m.LeaseLost(WORKER, LEASE, "WorkerCrashedError", "SIGKILL", task_of(called)))
    assert leased.status(called) is INLINE


def test_a_broken_lane_loses_nothing_and_is_not_used_again(leased: Pair) -> None:
    called = leased.by_lane()
    leased.owner.frames.clear()
    leased.owner.core.lanes.broke(TOKEN, 0.0)
    leased.worker.core.lanes.broke(TOKEN, 0.0)
    for _ in range(4):
        leased.owner.core.lanes.tick(10.0)
        leased.route()
        leased.work()
    assert leased.status(called) is INLINE
    leased.submit()
    leased.route()
    assert len(leased.submitted) == 1
    leased.owner.core.tick(1.0)
    leased.owner.core.tick(2.0)
    leased.route()
    assert leased.to_broker == [m.LeaseEnd(WORKER, LEASE)]


def test_the_cluster_is_gone(leased: Pair) -> None:
    called = leased.by_lane()
    leased.owner.core.lose_cluster("the broker is gone", 0.0)
    assert type(leased.error(called)).__name__ == "ClusterUnavailableError"
    assert leased.owner.core.leases.is_at_rest


# ------------------------------------------------------------------ the end, at the worker


def told(pair: Pair, kind: Any) -> list[Any]:
    pair.route()
    found = [message for message in pair.to_broker if isinstance(message, kind)]
    pair.to_broker.clear()
    return found


def test_an_idle_worker_leaves_at_once(leased: Pair) -> None:
    leased.worker.tell(m.LeaseOver(LEASE, False))
    assert told(leased, m.LeaseLeft) == [m.LeaseLeft(LEASE, False)]


def test_a_busy_worker_leaves_behind_its_answer(leased: Pair) -> None:
    called = leased.by_lane()
    leased.carry()
    task = leased.take()
    leased.worker.tell(m.LeaseOver(LEASE, False))
    assert not told(leased, m.LeaseLeft)
    leased.worker.core.execution.finish(task, [VALUE], False, 50)
    leased.carry()
    assert leased.status(called) is INLINE
    assert told(leased, m.LeaseLeft) == [m.LeaseLeft(LEASE, False)]


def test_a_task_that_waits_in_the_worker_runs_first(leased: Pair) -> None:
    leased.by_lane()
    leased.carry()
    leased.worker.tell(m.LeaseOver(LEASE, False))
    assert not told(leased, m.LeaseLeft)
    leased.work()
    assert told(leased, m.LeaseLeft) == [m.LeaseLeft(LEASE, False)]


@pytest.mark.parametrize("how", ["cancelled", "cancelled in the queue", "handed back"])
def test_the_last_task_ends_in_another_way(leased: Pair, how: str) -> None:
    called = leased.by_lane()
    leased.carry()
    leased.worker.tell(m.LeaseOver(LEASE, False))
    execution = leased.worker.core.execution
    if how == "cancelled":
        execution.finish_cancelled(leased.take())
    elif how == "handed back":
        execution.hand_back()
    else:
        leased.worker.tell(m.CancelTask(task_of(called), 0))
    assert told(leased, m.LeaseLeft) == [m.LeaseLeft(LEASE, False)]


@pytest.mark.parametrize("runs", [True, False])
def test_a_worker_whose_owner_is_dead_answers_at_once(leased: Pair, runs: bool) -> None:
    if runs:
        leased.by_lane()
        leased.carry()
        leased.take()
    leased.worker.tell(m.LeaseOver(LEASE, True))
    assert told(leased, m.LeaseLeft) == [m.LeaseLeft(LEASE, runs)]


def test_what_it_finishes_for_a_dead_owner_goes_nowhere(leased: Pair) -> None:
    leased.by_lane()
    leased.carry()
    task = leased.take()
    leased.worker.tell(m.ProcessDied(OWNER, "gone"))
    leased.worker.core.execution.finish(task, [VALUE], False, 50)
    assert not told(leased, (m.Done, m.Reply)) and not leased.worker.frames


def test_a_process_that_exits_does_not_say_that_it_runs_nothing(leased: Pair) -> None:
    leased.by_lane()
    leased.carry()
    leased.worker.core.execution.exit_process(leased.take().task_id)
    leased.worker.tell(m.LeaseOver(LEASE, False))
    assert not told(leased, m.LeaseLeft)


def test_a_task_under_an_earlier_lease_is_sent_back(leased: Pair) -> None:
    leased.worker.tell(m.LeaseOver(LEASE, False))
    leased.worker.tell(m.Run(make_task_id(OWNER, 800), 0, FUNCTION, b"other grant", [], PAYLOAD, LEASE + 1))
    leased.work()
    assert leased.worker.core.execution.lessee == OWNER
    called = leased.by_lane()
    leased.settle()
    assert [submit.task_id for submit in leased.submitted] == [task_of(called)]


def test_the_end_of_an_earlier_lease_ends_no_later_one(leased: Pair) -> None:
    leased.worker.tell(m.LeaseOver(LEASE - 1, False))
    assert not told(leased, m.LeaseLeft)
    called = leased.by_lane()
    leased.carry()
    leased.work()
    leased.settle()
    assert leased.status(called) is INLINE


def test_nothing_is_taken_before_a_lease(pair: Pair) -> None:
    for _ in range(AFTER + 1):
        pair.brokered()
    pair.open_lane()
    lane = next(iter(pair.owner.core.lanes._lanes.values()))
    lane.send(
        m.LeaseRun(
            LEASE, make_task_id(OWNER, 900), 0, FUNCTION, msgpack.packb([b"", INLINE, b"\x90", b"", b"", 0, [], []])
        )
    )
    pair.carry()
    assert not pair.worker.core.execution.queued


@pytest.mark.parametrize("state", ["another task", "blocked", "leaving", "given to another line"])
def test_what_a_worker_sends_back(leased: Pair, state: str) -> None:
    execution = leased.worker.core.execution
    if state == "another task":
        lane = next(iter(leased.owner.core.lanes._lanes.values()))
        lane.send(m.LeaseRun(LEASE, make_task_id(OWNER, 900), 0, FUNCTION, PAYLOAD))
    elif state == "blocked":
        execution.block()  # a thread that an earlier task has left behind
    elif state == "leaving":
        execution.leave("max_calls")
    else:
        leased.worker.tell(m.Run(make_task_id(STRANGER, 1), 0, FUNCTION, b"granted", [], b"\x90"))
    called = leased.by_lane()
    leased.settle()
    assert [submit.task_id for submit in leased.submitted] == [task_of(called)]


def test_a_stream_by_a_lane_is_refused(leased: Pair) -> None:
    lane = next(iter(leased.owner.core.lanes._lanes.values()))
    payload = msgpack.packb([b"", INLINE, b"\x90", b"", b"", 0, [], [0, 0, 0]])
    lane.send(m.LeaseRun(LEASE, make_task_id(OWNER, 900), 0, FUNCTION, payload))
    leased.carry()
    task = leased.take()
    assert task.producer is None and task.fault


# ------------------------------------------------------------------ peers that misbehave


def test_a_task_in_the_name_of_another_process(leased: Pair) -> None:
    lane = next(iter(leased.owner.core.lanes._lanes.values()))
    lane.send(m.LeaseRun(LEASE, make_task_id(STRANGER, 1), 0, FUNCTION, b"\x90"))
    leased.carry()
    assert leased.worker.core.lanes.faults == 1 and not leased.worker.core.execution.queued


def test_an_answer_for_a_task_that_the_worker_does_not_have(leased: Pair) -> None:
    leased.by_lane()
    brokered = leased.submit()
    lane = leased.worker.core.lanes._owners[OWNER]
    lane.send(m.Result(task_of(brokered), 0, WORKER, b"", b"payload"))
    leased.carry()
    assert leased.owner.core.lanes.faults == 1 and leased.status(brokered) is PENDING


def test_a_task_sent_back_by_a_worker_that_does_not_have_it(leased: Pair) -> None:
    brokered = leased.submit()
    lane = leased.worker.core.lanes._owners[OWNER]
    lane.send(m.LeaseReturned(task_of(brokered), 5))
    lane.send(m.LeaseReturned(make_task_id(OWNER, 9999), 0))
    leased.carry()
    assert leased.status(brokered) is PENDING and not leased.submitted


def test_a_call_by_the_lane_of_an_owner_of_tasks(leased: Pair) -> None:
    lane = next(iter(leased.owner.core.lanes._lanes.values()))
    lane.send(m.ActorRun(OWNER, 1, make_task_id(OWNER, 900), 0, PAYLOAD))
    leased.carry()
    assert leased.worker.core.lanes.faults == 1 and not leased.worker.core.execution.queued


def test_a_worker_that_dies_before_it_has_offered_a_lane(pair: Pair) -> None:
    for _ in range(AFTER + 1):
        pair.brokered()
    pair.owner.flush()
    pair.route()
    assert m.Watch(WORKER) in pair.to_broker and pair.owner.core.lanes.is_used
    pair.owner.tell(m.ProcessDied(WORKER, "gone"))
    assert not pair.owner.core.lanes.is_used


def test_an_owner_gets_a_lane_once(leased: Pair) -> None:
    row = pack_body([m.LaneWanted(b"", "here", 1 << 20)])
    leased.worker.tell(m.Delivered(OWNER, row))
    assert not leased.worker.take(OfferLane)
    leased.worker.tell(m.Delivered(STRANGER, row))
    assert [offer.caller for offer in leased.worker.take(OfferLane)] == [STRANGER]
    answers = [unpack_messages(each.rows, m.FROM_PEER) for each in leased.worker.up if isinstance(each, m.Forward)]
    assert [m.LaneOffer("", b"", 0)] in answers
