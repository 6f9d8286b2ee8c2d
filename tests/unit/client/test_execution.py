"""The worker's side: the order in which calls are taken and answered, blocking, cancelling, and leaving in order."""

from __future__ import annotations

import msgpack
import pytest

from tests.unit.client.wiring import FUNCTION, HOST, Process, Wire, actor_spec, process_id
from zray.client.core.assignments import CALL, CONSTRUCTOR, TASK, Assignment
from zray.client.core.effects import Interrupt
from zray.client.core.payloads import Return, read_outcome
from zray.client.core.states import INLINE
from zray.ids import make_task_id, put_id
from zray.protocol import messages as m
from zray.protocol.contract import BROKER
from zray.protocol.messages import ProtocolError
from zray.protocol.records import JobSettings

OWNER = process_id("owner")
ACTOR = b"actor".ljust(24, b"\0")
PAYLOAD = msgpack.packb([b"options", INLINE, msgpack.packb([]), b"", b"", 0, [], []])
SHAPE = b"\x90"


class Ears:
    """Counts how often it was woken."""

    def __init__(self) -> None:
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


class Worker:
    """A worker that the test gives tasks and calls."""

    def __init__(self) -> None:
        self.process = Process(Wire(), "worker")
        self.core = self.process.core
        self.execution = self.core.execution
        self.ears = self.execution.idle = Ears()

    def run(self, number: int, function_id: bytes = FUNCTION, payload: bytes = PAYLOAD, attempt: int = 0) -> bytes:
        task_id = make_task_id(OWNER, number)
        self.core.receive(BROKER, m.Run(task_id, attempt, function_id, SHAPE, [3], payload), 0.0)
        return task_id

    def start_actor(self) -> Assignment:
        self.core.receive(BROKER, m.ActorStart(ACTOR, 2, FUNCTION, actor_spec(), OWNER, [1], PAYLOAD), 0.0)
        task = self.execution.take()
        assert task is not None
        return task

    def serve_actor(self) -> None:
        self.execution.constructed(self.start_actor(), b"")
        self.sent()

    def call(self, number: int, caller: bytes = OWNER) -> bytes:
        task_id = make_task_id(caller, number)
        self.core.receive(BROKER, m.ActorRun(caller, number, task_id, 0, PAYLOAD), 0.0)
        return task_id

    def finish(self, task: Assignment, inner: tuple[bytes, ...] = ()) -> None:
        self.execution.finish(task, [Return(INLINE, msgpack.packb(inner), 0, inner)], False, 70)

    def sent(self) -> list[object]:
        self.process.flush()
        messages = list(self.process.up)
        self.process.up.clear()
        return messages

    def borrow(self, task: Assignment, object_id: bytes) -> None:
        """Makes the task keep a reference from its arguments."""
        self.core.references.load_covered(object_id)
        task.covered.append(object_id)


@pytest.fixture
def worker() -> Worker:
    return Worker()


def kinds(messages: list[object]) -> list[str]:
    return [type(message).__name__ for message in messages]


# ------------------------------------------------------------------ plain tasks


def test_tasks_are_taken_in_order(worker):
    first, second = worker.run(1), worker.run(2)
    assert worker.ears.woken == 2
    assert worker.execution.queued == 2
    task = worker.execution.take()
    assert (task.kind, task.task_id, task.owner, task.shape, task.gpus) == (TASK, first, OWNER, SHAPE, [3])
    assert worker.execution.is_running(first)
    assert worker.execution.take().task_id == second
    assert worker.execution.take() is None


def test_an_answer(worker):
    task_id = worker.run(1)
    worker.finish(worker.execution.take())
    (done,) = worker.sent()
    assert (done.task_id, done.attempt, done.run_us) == (task_id, 0, 70)
    assert read_outcome(done.payload) == (HOST, [[INLINE, b"\x90", 0, []]], [], False, 70)
    assert worker.execution.running == 0


def test_a_function_is_fetched_once(worker):
    unknown = b"unknown".ljust(16, b"\0")
    worker.run(1, unknown)
    worker.run(2, unknown)
    assert worker.execution.take() is None
    assert worker.execution.take() is None
    assert worker.sent() == [m.FunctionGet(unknown)]
    woken = worker.ears.woken
    worker.core.receive(BROKER, m.FunctionBlob(unknown, True, "f", b"code"), 0.0)
    assert worker.ears.woken == woken + 1
    assert worker.execution.take() is not None
    assert worker.execution.take() is not None
    assert worker.sent() == []


def test_the_jobs_configuration(worker):
    worker.core.receive(BROKER, m.JobConfig(b"\0\0\0\1", JobSettings("a space")), 0.0)
    assert worker.execution.job.settings.namespace == "a space"


def test_an_answer_waits_until_references_are_safe(worker):
    """Later answers without references need not wait for it."""
    theirs = put_id(make_task_id(process_id("third"), 1))
    first, second = worker.run(1), worker.run(2)
    task, other = worker.execution.take(), worker.execution.take()
    worker.core.references.load_covered(theirs)
    task.covered.append(theirs)
    worker.finish(task, (theirs,))
    assert kinds(worker.sent()) == ["Watch", "Forward"]
    assert not worker.execution.is_running(first)
    for token in worker.core.references._unacked.copy():
        worker.core.references.on_borrow_ack(process_id("third"), m.BorrowAck(token))
    assert kinds(worker.sent())[0] == "Done"
    worker.finish(other)
    assert [message.task_id for message in worker.sent()] == [second]


# ------------------------------------------------------------------ blocking and handing back


def test_a_worker_that_blocks_hands_back_queued_tasks(worker):
    worker.run(1)
    second, third = worker.run(2), worker.run(3)
    worker.execution.take()
    worker.execution.block()
    assert worker.sent() == [m.Returned([second, third]), m.Blocked(True)]
    fourth = worker.run(4)
    assert worker.sent() == [m.Returned([fourth])]
    worker.execution.unblock()
    assert worker.sent() == [m.Blocked(False)]
    worker.run(5)
    assert worker.execution.queued == 1


LARGE = msgpack.packb([b"options", INLINE, bytes(5000), b"", b"", 0, [], []])


def test_a_large_task_that_takes_long_is_reported_once(worker):
    task_id, behind = worker.run(1, payload=LARGE, attempt=2), worker.run(2, payload=LARGE)
    worker.execution.tell_started()
    assert worker.sent() == [], "neither has been started"
    task = worker.execution.take()
    worker.execution.tell_started()
    worker.execution.tell_started()
    assert worker.sent() == [m.Started(task_id, 2)]
    worker.finish(task)
    worker.sent()
    assert worker.execution.take().task_id == behind
    worker.execution.tell_started()
    assert worker.sent() == [m.Started(behind, 0)]


def test_a_large_task_that_waits_is_reported(worker):
    task_id = worker.run(1, payload=LARGE)
    worker.execution.take()
    worker.execution.block()
    assert worker.sent() == [m.Started(task_id, 0), m.Blocked(True)]
    worker.execution.unblock()
    worker.execution.block()
    assert worker.sent() == [m.Blocked(False), m.Blocked(True)]


def test_small_tasks_are_not_reported(worker):
    worker.run(1)
    worker.execution.take()
    worker.execution.tell_started()
    assert worker.sent() == []


def test_calls_are_not_reported(worker):
    worker.serve_actor()
    worker.core.receive(BROKER, m.ActorRun(OWNER, 1, make_task_id(OWNER, 1), 0, LARGE), 0.0)
    worker.execution.take()
    worker.execution.tell_started()
    assert worker.sent() == []


def test_nested_blocking_is_reported_once(worker):
    worker.run(1)
    worker.execution.take()
    worker.execution.block()
    worker.execution.block()
    worker.execution.unblock()
    assert worker.sent() == [m.Blocked(True)]
    worker.execution.unblock()
    assert worker.sent() == [m.Blocked(False)]


def test_handing_back(worker):
    worker.run(1)
    worker.execution.take()
    worker.execution.hand_back()
    assert worker.sent() == []
    second = worker.run(2)
    worker.execution.hand_back()
    assert worker.sent() == [m.Returned([second])]
    assert worker.execution.queued == 0


def test_an_actor_hands_nothing_back(worker):
    worker.serve_actor()
    worker.call(1)
    worker.call(2)
    worker.execution.take()
    worker.execution.block()
    assert worker.sent() == [m.Blocked(True)]
    worker.call(3)
    assert worker.execution.queued == 2


# ------------------------------------------------------------------ cancelling


def test_cancelling_what_has_not_been_started(worker):
    first, second = worker.run(1), worker.run(2)
    worker.core.receive(BROKER, m.CancelTask(second, 0), 0.0)
    assert worker.sent() == [m.Done(second, 0, 0, b"")]
    assert worker.execution.take().task_id == first
    assert worker.execution.take() is None


def test_cancelling_what_runs(worker):
    task_id = worker.run(1)
    task = worker.execution.take()
    worker.core.receive(BROKER, m.CancelTask(task_id, 0), 0.0)
    assert worker.process.take_effects() == [Interrupt(task_id)]
    worker.execution.finish_cancelled(task)
    assert worker.sent() == [m.Done(task_id, 0, 0, b"")]
    worker.core.receive(BROKER, m.CancelTask(task_id, 0), 0.0)
    assert worker.process.take_effects() == worker.sent() == []


def test_cancelling_an_actors_call(worker):
    worker.serve_actor()
    first, second = worker.call(1), worker.call(2)
    worker.core.receive(BROKER, m.CancelTask(second, 0), 0.0)
    assert worker.sent() == [m.Reply(OWNER, second, 0, b"")]
    task = worker.execution.take()
    worker.core.receive(BROKER, m.CancelTask(first, 0), 0.0)
    assert worker.process.take_effects() == [Interrupt(first)]
    worker.execution.finish_cancelled(task)
    assert worker.sent() == [m.Reply(OWNER, first, 0, b"")]


def test_cancelling_with_everything_below(worker):
    task_id = worker.run(1)
    worker.execution.take()
    other = Process(worker.process.wire, "other")
    child = worker.process.submit(other, parent=task_id)
    unrelated = worker.process.submit(other, parent=make_task_id(OWNER, 9))
    worker.sent()
    worker.core.receive(BROKER, m.CancelTask(task_id, m.CANCEL_RECURSIVE), 0.0)
    assert worker.sent() == [m.Cancel(child[:24], m.CANCEL_RECURSIVE)]
    assert child != unrelated


def test_by_force_the_others_and_what_is_below_go_first(worker):
    task_id, behind = worker.run(1), worker.run(2)
    worker.execution.take()
    child = worker.process.submit(Process(worker.process.wire, "other"), parent=task_id)
    worker.sent()
    mode = m.CANCEL_FORCE | m.CANCEL_RECURSIVE
    worker.core.receive(BROKER, m.CancelTask(task_id, mode), 0.0)
    assert worker.sent() == [m.Cancel(child[:24], mode), m.Returned([behind]), m.Killable(task_id)]
    assert worker.process.take_effects() == []


def test_by_force_before_it_was_started(worker):
    worker.run(1)
    queued = worker.run(2)
    worker.execution.take()
    worker.core.receive(BROKER, m.CancelTask(queued, m.CANCEL_FORCE), 0.0)
    assert worker.sent() == [m.Done(queued, 0, 0, b"")]


def test_an_actors_call_is_never_killed(worker):
    worker.serve_actor()
    task_id = worker.call(1)
    worker.execution.take()
    worker.core.receive(BROKER, m.CancelTask(task_id, m.CANCEL_FORCE | m.CANCEL_RECURSIVE), 0.0)
    assert worker.process.take_effects() == [Interrupt(task_id)]
    assert worker.sent() == []


def test_what_a_cancelled_task_keeps_is_registered_first(worker):
    theirs = put_id(make_task_id(OWNER, 1))
    worker.run(1)
    task = worker.execution.take()
    worker.borrow(task, theirs)
    worker.execution.finish_cancelled(task)
    assert "Done" not in kinds(worker.sent())
    worker.core.references.on_borrow_ack(OWNER, m.BorrowAck(1))
    assert kinds(worker.sent()) == ["Done"]


# ------------------------------------------------------------------ actors


def test_a_constructor(worker):
    task = worker.start_actor()
    assert (task.kind, task.owner, task.gpus) == (CONSTRUCTOR, OWNER, [1])
    assert (worker.execution.actor_id, worker.execution.incarnation) == (ACTOR, 2)
    worker.execution.constructed(task, b"")
    assert worker.sent() == [m.ActorReady(ACTOR, b"")]


def test_a_constructor_that_raised(worker):
    worker.execution.constructed(worker.start_actor(), b"error")
    assert worker.sent() == [m.ActorReady(ACTOR, b"error")]


def test_what_a_constructor_keeps_is_registered_before_it_is_ready(worker):
    theirs = put_id(make_task_id(OWNER, 1))
    task = worker.start_actor()
    worker.borrow(task, theirs)
    worker.execution.constructed(task, b"")
    assert "ActorReady" not in kinds(worker.sent())
    worker.core.references.on_borrow_ack(OWNER, m.BorrowAck(1))
    assert worker.sent() == [m.ActorReady(ACTOR, b"")]
    assert worker.core.references.entries[theirs].registered == 1


def test_one_actor_per_worker(worker):
    worker.serve_actor()
    with pytest.raises(ProtocolError):
        worker.core.receive(BROKER, m.ActorStart(ACTOR, 0, FUNCTION, actor_spec(), OWNER, [], PAYLOAD), 0.0)


def test_calls_are_taken_in_the_order_of_their_arrival(worker):
    worker.serve_actor()
    expected = [worker.call(1), worker.call(1, process_id("another")), worker.call(2)]
    taken = []
    while (task := worker.execution.take()) is not None:
        assert task.kind == CALL
        taken.append(task.task_id)
        worker.finish(task)
    assert taken == expected
    assert [(reply.owner, reply.task_id) for reply in worker.sent()] == [
        (OWNER, expected[0]),
        (process_id("another"), expected[1]),
        (OWNER, expected[2]),
    ]


def test_an_actor_without_handles_ends_after_its_work(worker):
    worker.serve_actor()
    worker.call(1)
    worker.core.receive(BROKER, m.ActorStop(ACTOR), 0.0)
    task = worker.execution.take()
    assert worker.execution.take() is None
    assert worker.sent() == []
    worker.finish(task)
    assert worker.execution.take() is None
    assert kinds(worker.sent()) == ["Reply", "ActorExiting", "Leaving"]
    assert worker.execution.may_exit()
    assert worker.execution.take() is None
    assert worker.sent() == []


def test_an_actor_that_ends_itself(worker):
    worker.serve_actor()
    worker.call(1)
    worker.call(2)
    task = worker.execution.take()
    worker.execution.end_actor("it had enough", task.task_id)
    assert worker.sent() == []
    assert (worker.execution.running, worker.execution.queued) == (1, 0)
    assert not worker.execution.may_exit()
    worker.finish(task)
    reply, *rest = worker.sent()
    assert type(reply) is m.Reply and b"it had enough" in reply.payload  # even though the call has returned
    assert rest == [m.ActorExiting(ACTOR, "it had enough"), m.Leaving("it had enough")]
    assert worker.execution.may_exit()


def test_calls_beside_the_one_that_ends_the_actor_are_finished(worker):
    worker.serve_actor()
    worker.call(1)
    worker.call(2)
    first, second = worker.execution.take(), worker.execution.take()
    worker.execution.end_actor("it had enough", first.task_id)
    worker.execution.end_actor("another reason", b"nobody's")
    worker.finish(first)
    assert kinds(worker.sent()) == ["Reply"]
    worker.call(3)
    assert worker.execution.take() is None
    worker.finish(second)
    reply, *rest = worker.sent()
    assert b"it had enough" not in reply.payload
    assert rest == [m.ActorExiting(ACTOR, "it had enough"), m.Leaving("it had enough")]


def test_calls_whose_time_is_up(worker):
    worker.serve_actor()
    worker.call(1)
    worker.execution.take()
    worker.execution.end_actor("it had enough")
    worker.execution.abandon_all()
    assert kinds(worker.sent()) == ["ActorExiting", "Leaving"]
    assert worker.execution.may_exit()


def test_a_constructor_that_ends_the_actor(worker):
    task = worker.start_actor()
    worker.sent()
    worker.execution.end_actor("it had enough", task.task_id)
    worker.execution.constructed(task, b"an error")
    assert kinds(worker.sent()) == ["ActorExiting", "Leaving"]


def test_a_process_that_exits_answers_running_calls_but_not_the_one_that_asked(worker):
    worker.serve_actor()
    worker.call(1)
    worker.call(2)
    worker.call(3)
    first, second = worker.execution.take(), worker.execution.take()
    worker.execution.exit_process(first.task_id)
    assert not worker.execution.may_exit()
    worker.finish(second)
    assert [message.task_id for message in worker.sent()] == [second.task_id]
    assert worker.execution.may_exit()


def test_an_actor_that_ends_leaves_what_it_owns(worker):
    worker.serve_actor()
    worker.process.put()
    worker.process.submit(Process(worker.process.wire, "other"))
    worker.sent()
    worker.core.receive(BROKER, m.ActorStop(ACTOR), 0.0)
    assert worker.execution.take() is None
    assert kinds(worker.sent()) == ["ActorExiting", "Leaving"]
    assert worker.execution.may_exit()


@pytest.mark.parametrize("how", ["released", "by itself"])
def test_answers_that_are_held_back_go_before_the_end(worker, how):
    theirs = put_id(make_task_id(process_id("third"), 1))
    worker.serve_actor()
    worker.call(1)
    task = worker.execution.take()
    worker.borrow(task, theirs)
    worker.finish(task, (theirs,))
    if how == "released":
        worker.core.receive(BROKER, m.ActorStop(ACTOR), 0.0)
        assert worker.execution.take() is None
    else:
        worker.execution.end_actor("it had enough")
    assert not {"Reply", "ActorExiting"} & set(kinds(worker.sent()))
    assert not worker.execution.may_exit()
    worker.call(2)
    assert worker.execution.take() is None
    for token in list(worker.core.references._unacked):
        worker.core.references.on_borrow_ack(process_id("third"), m.BorrowAck(token))
    assert [kind for kind in kinds(worker.sent()) if kind != "Forward"] == ["Reply", "ActorExiting", "Leaving"]
    assert worker.execution.may_exit()


def begin(worker: Worker, number: int) -> Assignment:
    worker.call(number)
    task = worker.execution.take()
    assert task is not None
    worker.ears.woken = 0
    return task


def test_the_end_of_a_call_wakes_nobody_if_there_is_nothing_to_do(worker):
    worker.serve_actor()
    for number in range(1, 4):
        worker.finish(begin(worker, number))
        worker.execution.call_ended(2)
        assert worker.ears.woken == 0


def test_the_end_of_a_call_wakes_who_waits_for_room(worker):
    worker.serve_actor()
    first, second = begin(worker, 1), begin(worker, 2)
    worker.call(3)
    worker.ears.woken = 0
    worker.execution.call_ended(2)
    assert worker.ears.woken == 0  # there is no room yet
    worker.finish(first)
    worker.execution.call_ended(2)
    assert worker.ears.woken == 1
    worker.finish(second)


def test_the_end_of_the_last_call_wakes_who_asked_for_it(worker):
    worker.serve_actor()
    first, second = begin(worker, 1), begin(worker, 2)
    worker.execution.last_end_wakes = True
    worker.finish(first)
    worker.execution.call_ended(2)
    assert worker.ears.woken == 0
    worker.finish(second)
    worker.execution.call_ended(2)
    assert worker.ears.woken == 1


@pytest.mark.parametrize("end", ["the last handle is gone", "the actor ends"])
def test_the_end_of_the_last_call_wakes_who_has_to_end_the_actor(worker, end):
    worker.serve_actor()
    task = begin(worker, 1)
    if end == "the actor ends":
        worker.execution.end_actor("enough")
    else:
        worker.core.receive(BROKER, m.ActorStop(ACTOR), 0.0)
    worker.finish(task)
    worker.ears.woken = 0
    worker.execution.call_ended(2)
    assert worker.ears.woken == 1
    assert worker.execution.take() is None
    assert worker.execution.leaving


# ------------------------------------------------------------------ leaving


def test_leaving(worker):
    first, second = worker.run(1), worker.run(2)
    task = worker.execution.take()
    worker.execution.leave("it is time")
    assert worker.sent() == [m.Returned([second]), m.Leaving("it is time")]
    third = worker.run(3)
    assert worker.sent() == [m.Returned([third])]
    assert not worker.execution.may_exit()
    worker.finish(task)
    assert worker.execution.may_exit()
    worker.execution.leave("again")
    assert [message.task_id for message in worker.sent()] == [first]


def test_idle(worker):
    worker.core.receive(BROKER, m.ExitIfIdle("it was idle", False), 0.0)
    assert worker.sent() == [m.Leaving("it was idle")]
    assert worker.execution.may_exit()


def test_a_worker_that_is_worth_keeping_goes_only_when_there_are_too_many(worker):
    worker.execution.worth_keeping = lambda: True
    worker.core.receive(BROKER, m.ExitIfIdle("it was idle", False), 0.0)
    assert worker.sent() == [m.Staying(False)]
    assert not worker.execution.leaving
    worker.core.receive(BROKER, m.ExitIfIdle("it was idle", True), 0.0)
    assert worker.sent() == [m.Leaving("it was idle")]


@pytest.mark.parametrize("surplus", [False, True])
@pytest.mark.parametrize("why", ["queued", "running", "owns", "submitted", "actor"])
def test_not_idle(worker, why, surplus):
    if why in ("queued", "running"):
        worker.run(1)
    if why == "running":
        worker.execution.take()
    if why == "owns":
        worker.process.put()
    if why == "submitted":
        worker.process.drop(worker.process.submit(Process(worker.process.wire, "other")))
    if why == "actor":
        worker.serve_actor()
    worker.sent()
    worker.core.receive(BROKER, m.ExitIfIdle("it was idle", surplus), 0.0)
    assert worker.sent() == [m.Staying(True)]
    assert not worker.execution.leaving


def test_a_worker_that_borrows_may_leave(worker):
    theirs = put_id(make_task_id(OWNER, 1))
    worker.core.references.load(theirs)
    worker.core.references.on_borrow_ack(OWNER, m.BorrowAck(1))
    worker.sent()
    worker.core.receive(BROKER, m.ExitIfIdle("it was idle", False), 0.0)
    assert kinds(worker.sent()) == ["Leaving"]


def test_a_leaving_worker_waits_for_processes_that_need_its_objects(worker):
    mine = worker.process.put()
    worker.execution.leave("it is time")
    assert not worker.execution.may_exit()
    worker.process.drop(mine)
    assert worker.execution.may_exit()


def test_a_call_that_was_cancelled_gives_up_its_value(worker):
    worker.serve_actor()
    first, second = worker.call(1), worker.call(2)
    task = worker.execution.take()
    assert not worker.execution.gives_up_value(task)
    worker.core.receive(BROKER, m.CancelTask(first, 0), 0.0)
    assert worker.execution.gives_up_value(task) and worker.execution.cancelled == {first}
    worker.execution.finish_cancelled(task)
    assert not worker.execution.cancelled
    assert not worker.execution.gives_up_value(worker.execution.take())
    assert second


def test_a_task_that_was_cancelled_keeps_its_value(worker):
    task_id = worker.run(1)
    task = worker.execution.take()
    worker.core.receive(BROKER, m.CancelTask(task_id, 0), 0.0)
    assert worker.execution.cancelled == {task_id} and not worker.execution.gives_up_value(task)
    worker.execution.finish(task, [], False, 0)
    assert not worker.execution.cancelled


# ------------------------------------------------------------------ limits of time


def limited(worker: Worker, number: int = 1) -> Assignment:
    worker.run(number)
    task = worker.execution.take()
    assert task is not None
    worker.execution.begin_limited(task, 2.5)
    return task


def interrupts(worker: Worker) -> list[bytes]:
    effects = worker.core.take_output().effects
    return [effect.task_id for effect in effects if isinstance(effect, Interrupt)]


def test_the_broker_is_told_when_a_limited_task_begins_and_ends(worker):
    task = limited(worker)
    assert worker.sent() == [m.TimeLimited(OWNER, task.task_id, 0, 2.5)]
    worker.finish(task)
    over, done = worker.sent()
    assert over == m.TimeLimitOver(task.task_id)
    assert isinstance(done, m.Done)


def test_a_task_whose_time_is_up_is_interrupted(worker):
    task = limited(worker)
    worker.core.receive(BROKER, m.TimeIsUp(task.task_id), 0.0)
    assert worker.execution.is_timed_out(task.task_id)
    assert worker.execution.gives_up_value(task)
    assert interrupts(worker) == [task.task_id]
    worker.execution.finish_cancelled(task)
    assert not worker.execution.is_timed_out(task.task_id)
    assert not worker.execution.cancelled


def test_what_it_has_submitted_is_cancelled(worker):
    task = limited(worker)
    child = worker.process.submit(worker.process, parent=task.task_id)
    worker.sent()
    worker.core.receive(BROKER, m.TimeIsUp(task.task_id), 0.0)
    assert worker.sent() == [m.Cancel(child[:24], m.CANCEL_RECURSIVE)]


def test_a_limit_that_comes_too_late_has_no_effect(worker):
    task = limited(worker)
    worker.finish(task)
    worker.core.receive(BROKER, m.TimeIsUp(task.task_id), 0.0)
    assert not interrupts(worker)
    worker.run(2)
    other = worker.execution.take()
    worker.core.receive(BROKER, m.TimeIsUp(other.task_id), 0.0)  # it has no limit
    assert not interrupts(worker)
    assert not worker.execution.gives_up_value(other)


def test_limits_end_with_the_process(worker):
    task, other = limited(worker), limited(worker, 2)
    worker.sent()
    worker.execution.exit_process(task.task_id)
    worker.execution.abandon_all()
    ends = [message for message in worker.sent() if isinstance(message, m.TimeLimitOver)]
    assert {message.task_id for message in ends} == {task.task_id, other.task_id}
