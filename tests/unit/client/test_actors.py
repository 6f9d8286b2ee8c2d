"""The caller's side of actors: creation, the order of calls, restarts and deaths."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.client.wiring import (
    FUNCTION,
    HOST,
    INLINE_ARGUMENTS,
    Process,
    Wire,
    actor_spec,
    kind_of_failure,
    process_id,
)
from zray.client.core.payloads import pack_outcome
from zray.client.core.states import DEAD, ERROR, HANDLE, INLINE, LIVE, PENDING
from zray.client.core.tasks import UNLIMITED, Task
from zray.client.core.views import ActorView
from zray.failures import encode_failure
from zray.ids import make_task_id, put_id, return_id, task_of
from zray.protocol import messages as m
from zray.protocol.contract import BROKER

ACTOR = make_task_id(process_id("caller"), 1000)


class Caller:
    """A process that calls the actor ACTOR. The test plays the broker."""

    def __init__(self, ordered: bool = True) -> None:
        self.ordered = ordered
        self.process = Process(Wire(), "caller")
        self.core = self.process.core

    @property
    def view(self) -> ActorView:
        return self.core.actors.view(ACTOR, self.ordered)

    def call(self, refs: tuple[bytes, ...] = (), retries: int = 0) -> bytes:
        task_id = self.core.new_task_id()
        arguments = INLINE_ARGUMENTS._replace(refs=tuple(enumerate(refs)), held=refs)
        object_id = return_id(task_id, 1)
        self.core.references.own(object_id)
        self.core.actors.submit(self.view, Task(task_id, self.view, b"", b"", 0, b"", arguments, 1, retries, b""))
        return object_id

    def pending(self) -> bytes:
        """An object without a value."""
        object_id = return_id(self.core.new_task_id(), 1)
        self.core.references.own(object_id)
        return object_id

    def resolve(self, object_id: bytes, status: int = INLINE) -> None:
        data = encode_failure("SystemFailure", "raised") if status == ERROR else msgpack.packb([])
        self.core.references.resolve(object_id, status, data, b"", 0)

    def create(self, refs: tuple[bytes, ...] = (), handle: bytes | None = None, name: str = "") -> bytes:
        handle = put_id(self.core.new_task_id()) if handle is None else handle
        self.core.references.own(handle)
        self.core.references.resolve(handle, HANDLE, b"", b"", 0)
        spec = actor_spec(handle=handle, name=name, ordered=self.ordered)
        arguments = INLINE_ARGUMENTS._replace(refs=tuple(enumerate(refs)), held=refs)
        task = Task(ACTOR, self.core.queue_route, FUNCTION, b"", 0, b"", arguments, 0, 0, b"")
        self.core.actors.create(spec, task)
        return handle

    def drop(self, object_id: bytes) -> None:
        self.core.dropped.append(object_id)
        self.core.collect(0.0)

    def sent(self) -> list[Any]:
        self.process.flush()
        messages = list(self.process.up)
        self.process.up.clear()
        return messages

    def calls(self) -> list[tuple[bytes, int, int, int]]:
        """The calls sent since the last query: object, incarnation, sequence number, attempt."""
        return [
            (return_id(call.task_id, 1), call.incarnation, call.seq, call.attempt)
            for call in self.sent()
            if isinstance(call, m.ActorCall)
        ]

    def order(self) -> list[bytes]:
        return [row[0] for row in self.calls()]

    def answer(self, object_id: bytes, attempt: int = 0, status: int = INLINE, *, retryable: bool = False) -> None:
        data = encode_failure("SystemFailure", "raised") if status == ERROR else msgpack.packb([])
        payload = pack_outcome(HOST, [(status, data, 0, ())], [], retryable)
        self.core.receive(BROKER, m.Result(task_of(object_id), attempt, b"w" * 16, ACTOR, payload), 0.0)

    def state(self, state: int, incarnation: int = 0, last_seq: int = 0, error: bytes = b"") -> None:
        self.core.receive(BROKER, m.ActorState(ACTOR, incarnation, state, last_seq, "it died", error), 0.0)

    def failure(self, object_id: bytes) -> str:
        entry = self.core.references.entries[object_id]
        return kind_of_failure(entry.data) if entry.status == ERROR else ""

    def cancel(self, object_id: bytes) -> None:
        self.core.tasks.cancel(task_of(object_id), 0)


class Course:
    """A sequence of events at a caller. ``waits``: the arguments of calls that were made with one."""

    def __init__(self, caller: Caller) -> None:
        self.arguments = [caller.pending() for _ in range(6)]
        self.made: list[bytes] = []
        self.waits: dict[bytes, bytes] = {}
        self._caller = caller
        self._incarnation = 0

    def goes_on(self, what: str, index: int) -> None:
        """The next event: with an argument, or with a call that was made."""
        caller = self._caller
        if what == "call":
            self.made.append(caller.call(retries=UNLIMITED))
        elif what == "call on":
            self.made.append(caller.call((self.arguments[index],), retries=UNLIMITED))
            self.waits[self.made[-1]] = self.arguments[index]
        elif what == "ready":
            caller.resolve(self.arguments[index])
        elif what == "restart":
            self._incarnation += 1
            caller.state(m.RESTARTING, incarnation=self._incarnation, last_seq=index)
        elif self.made:
            result = self.made[index % len(self.made)]
            task = caller.core.tasks.tasks.get(task_of(result))
            if what == "cancel":
                caller.cancel(result)
            elif task is not None and task in caller.view.in_flight.values():
                caller.answer(result, task.attempt, ERROR if what == "raise" else INLINE, retryable=what == "raise")


@pytest.fixture
def caller() -> Caller:
    return Caller()


@pytest.fixture
def parallel() -> Caller:
    """A caller of an actor that runs several calls at once."""
    return Caller(ordered=False)


# ------------------------------------------------------------------ order


def test_calls_leave_in_their_order(caller):
    results = [caller.call() for _ in range(5)]
    assert caller.calls() == [(result, 0, seq, 0) for seq, result in enumerate(results, start=1)]


def test_a_call_that_waits_holds_back_those_behind_it(caller):
    argument = caller.pending()
    first = caller.call()
    waiting = caller.call((argument,))
    behind = [caller.call() for _ in range(3)]
    assert caller.order() == [first]
    assert caller.view.pending_calls == 5
    caller.resolve(argument)
    assert caller.order() == [waiting, *behind]


def test_an_argument_that_is_an_error_ends_only_its_call(caller):
    argument = caller.pending()
    waiting = caller.call((argument,))
    behind = caller.call()
    caller.resolve(argument, ERROR)
    assert caller.failure(waiting) == "SystemFailure"
    assert caller.order() == [behind]


def test_many_calls_with_an_argument_that_is_an_error(caller):
    gate, argument = caller.pending(), caller.pending()
    first = caller.call((gate,))
    failing = [caller.call((argument,)) for _ in range(5000)]
    last = caller.call()
    caller.resolve(argument, ERROR)
    caller.resolve(gate)
    assert caller.order() == [first, last]
    assert {caller.failure(result) for result in failing} == {"SystemFailure"}


def test_a_call_on_the_result_of_the_call_before(caller):
    first = caller.call()
    second = caller.call((first,))
    third = caller.call()
    assert caller.order() == [first]
    caller.answer(first)
    assert caller.order() == [second, third]


def test_a_cancelled_call_lets_those_behind_it_go(caller):
    waiting = caller.call((caller.pending(),))
    behind = caller.call()
    caller.core.tasks.cancel(task_of(waiting), 0)
    assert caller.failure(waiting) == "TaskCancelledError"
    assert caller.order() == [behind]


def test_cancelling_a_call_that_was_sent(caller):
    result = caller.call()
    caller.sent()
    caller.core.tasks.cancel(task_of(result), m.CANCEL_RECURSIVE)
    assert caller.sent() == [m.ActorCancel(ACTOR, task_of(result), m.CANCEL_RECURSIVE)]
    caller.core.receive(BROKER, m.Result(task_of(result), 0, b"w" * 16, ACTOR, b""), 0.0)
    assert caller.failure(result) == "TaskCancelledError"
    assert caller.view.pending_calls == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["call", "call on", "ready", "cancel"]), st.integers(0, 5)), max_size=40))
def test_the_order_never_changes(history):
    caller = Caller()
    arguments = [caller.pending() for _ in range(6)]
    made: list[bytes] = []
    for what, index in history:
        if what == "call":
            made.append(caller.call())
        elif what == "call on":
            made.append(caller.call((arguments[index],)))
        elif what == "ready":
            caller.resolve(arguments[index])
        elif made:
            caller.core.tasks.cancel(task_of(made[index % len(made)]), 0)
    for argument in arguments:
        caller.resolve(argument)
    calls = caller.calls()
    assert [row[0] for row in calls] == [result for result in made if not caller.failure(result)]
    assert [row[2] for row in calls] == list(range(1, len(calls) + 1))


# ------------------------------------------------------------------ without an order


def test_a_call_that_is_ready_goes_past_one_that_waits(parallel):
    argument = parallel.pending()
    first, waiting, behind = parallel.call(), parallel.call((argument,)), parallel.call()
    assert parallel.calls() == [(first, 0, 1, 0), (behind, 0, 2, 0)]
    assert parallel.view.pending_calls == 3
    parallel.resolve(argument)
    assert parallel.calls() == [(waiting, 0, 3, 0)]
    for result in (first, waiting, behind):
        parallel.answer(result)
    assert parallel.view.pending_calls == 0


def test_calls_whose_arguments_exist_leave_in_their_order(parallel):
    argument = parallel.pending()
    parallel.resolve(argument)
    results = [parallel.call((argument,) if number % 2 else ()) for number in range(6)]
    assert parallel.order() == results


def test_an_argument_that_is_an_error_ends_a_call_among_others(parallel):
    good, bad = parallel.pending(), parallel.pending()
    waiting, failing = parallel.call((good,)), parallel.call((bad, good))
    parallel.resolve(bad, ERROR)
    assert not parallel.failure(failing)
    parallel.resolve(good)
    assert parallel.failure(failing) == "SystemFailure"
    assert parallel.order() == [waiting]
    assert parallel.view.pending_calls == 1


def test_cancelling_one_that_waits_among_others(parallel):
    argument = parallel.pending()
    waiting, other = parallel.call((argument,)), parallel.call((argument,))
    parallel.core.tasks.cancel(task_of(waiting), 0)
    assert parallel.failure(waiting) == "TaskCancelledError"
    parallel.resolve(argument)
    assert parallel.order() == [other]


def test_a_retry_does_not_wait_for_others(parallel):
    first = parallel.call(retries=1)
    parallel.call((parallel.pending(),))
    parallel.sent()
    parallel.answer(first, 0, ERROR, retryable=True)
    assert parallel.calls() == [(first, 0, 2, 1)]
    assert parallel.view.pending_calls == 2


def test_a_restart_sends_again_what_was_sent_and_nothing_else(parallel):
    argument = parallel.pending()
    once, again, waiting, unseen = (
        parallel.call(), parallel.call(retries=1), parallel.call((argument,), retries=1), parallel.call()
    )  # fmt: skip
    parallel.sent()
    parallel.state(m.RESTARTING, incarnation=1, last_seq=2)
    assert parallel.failure(once) == "ActorUnavailableError"
    assert parallel.calls() == [(again, 1, 1, 1), (unseen, 1, 2, 0)]
    parallel.resolve(argument)
    assert parallel.calls() == [(waiting, 1, 3, 0)]


def test_what_waits_ends_with_the_actor(parallel):
    argument = parallel.pending()
    waiting, sent = parallel.call((argument,), retries=9), parallel.call(retries=9)
    parallel.sent()
    parallel.state(m.DEAD)
    assert {parallel.failure(result) for result in (waiting, sent)} == {"ActorDiedError"}
    parallel.resolve(argument)
    assert parallel.calls() == []
    assert parallel.core.tasks.tasks == {}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(
    st.sampled_from(["call", "call on", "ready", "cancel", "answer", "raise", "restart"]), st.integers(0, 5)
), max_size=40))  # fmt: skip
def test_each_call_is_sent_when_it_can_be_and_ends_once(history):
    caller = Caller(ordered=False)
    course = Course(caller)
    for what, index in history:
        course.goes_on(what, index)
        for result in course.made:
            task = caller.core.tasks.tasks.get(task_of(result))
            argument = course.waits.get(result)
            ready = argument is None or caller.core.references.entries[argument].status != PENDING
            assert task is None or (task in caller.view.in_flight.values()) == ready
    assert caller.view.pending_calls == len(caller.core.tasks.tasks)


# ------------------------------------------------------------------ retries


def test_a_call_that_raised_is_tried_again(caller):
    result = caller.call(retries=1)
    caller.answer(result, 0, ERROR, retryable=True)
    assert [row[3] for row in caller.calls()] == [0, 1]
    caller.answer(result, 1)
    assert not caller.failure(result)
    assert caller.view.pending_calls == 0


def test_a_retry_goes_before_what_has_not_been_sent(caller):
    first = caller.call(retries=1)
    waiting = caller.call((caller.pending(),))
    caller.sent()
    caller.answer(first, 0, ERROR, retryable=True)
    assert caller.order() == [first]
    assert caller.view.pending_calls == 2
    assert not caller.failure(waiting)


# ------------------------------------------------------------------ restarts


def test_what_never_left_the_broker_is_sent_again_for_free(caller):
    results = [caller.call() for _ in range(4)]
    caller.sent()
    caller.state(m.RESTARTING, incarnation=1, last_seq=2)
    assert [caller.failure(result) for result in results] == ["ActorUnavailableError"] * 2 + [""] * 2
    assert caller.calls() == [(results[2], 1, 1, 0), (results[3], 1, 2, 0)]


def test_what_may_have_run_is_sent_again_if_it_may(caller):
    once, twice, ever = caller.call(), caller.call(retries=1), caller.call(retries=UNLIMITED)
    caller.sent()
    caller.state(m.RESTARTING, incarnation=1, last_seq=3)
    assert caller.calls() == [(twice, 1, 1, 1), (ever, 1, 2, 1)]
    caller.state(m.RESTARTING, incarnation=2, last_seq=2)
    assert caller.calls() == [(ever, 2, 1, 2)]
    assert caller.failure(once) == caller.failure(twice) == "ActorUnavailableError"


def test_what_a_lost_call_sets_free_does_not_overtake_what_is_sent_again(caller):
    lost, again = caller.call(), caller.call(retries=1)
    failing, last = caller.call((lost,)), caller.call()
    caller.sent()
    caller.state(m.RESTARTING, incarnation=1, last_seq=2)
    assert caller.failure(failing) == "ActorUnavailableError"
    assert caller.order() == [again, last]


def test_answered_calls_are_over(caller):
    first, second = caller.call(retries=9), caller.call(retries=9)
    caller.sent()
    caller.answer(second)
    caller.state(m.RESTARTING, incarnation=1, last_seq=2)
    assert caller.order() == [first]


def test_calls_made_after_a_restart_go_behind_those_that_are_sent_again(caller):
    argument = caller.pending()
    first = caller.call()
    waiting = caller.call((argument,))
    caller.sent()
    caller.state(m.RESTARTING, incarnation=1, last_seq=0)
    last = caller.call()
    caller.resolve(argument)
    assert caller.calls() == [(first, 1, 1, 0), (waiting, 1, 2, 0), (last, 1, 3, 0)]


def test_late_and_repeated_states(caller):
    result = caller.call()
    caller.state(m.RESTARTING, incarnation=2, last_seq=0)
    assert caller.calls()[-1] == (result, 2, 1, 0)
    for incarnation in (0, 1, 2):
        caller.state(m.RESTARTING, incarnation=incarnation, last_seq=1)
        caller.state(m.PENDING_CREATION, incarnation=incarnation, last_seq=1)
    assert caller.calls() == []
    assert not caller.failure(result)


def test_a_caller_with_an_older_incarnation_is_told(caller):
    """A new caller of an actor that was restarted begins with incarnation 0."""
    results = [caller.call(), caller.call()]
    caller.sent()
    caller.state(m.PENDING_CREATION, incarnation=3)
    assert caller.calls() == [(results[0], 3, 1, 0), (results[1], 3, 2, 0)]
    caller.state(m.PENDING_CREATION, incarnation=3)
    assert caller.calls() == [] and caller.view.state == LIVE


@pytest.mark.parametrize("last_seq", [0, 1])
def test_a_cancelled_call_is_not_sent_again(caller, last_seq):
    result = caller.call(retries=5)
    caller.core.tasks.cancel(task_of(result), 0)
    caller.sent()
    caller.state(m.RESTARTING, incarnation=1, last_seq=last_seq)
    assert caller.calls() == []
    assert caller.failure(result) == "TaskCancelledError"


# ------------------------------------------------------------------ death


def test_all_calls_end_with_the_actor(caller):
    argument = caller.pending()
    sent, waiting = caller.call(retries=9), caller.call((argument,))
    caller.state(m.DEAD)
    assert {caller.failure(result) for result in (sent, waiting)} == {"ActorDiedError"}
    caller.resolve(argument)
    caller.drop(argument)
    assert argument not in caller.core.references.entries
    assert caller.core.tasks.tasks == {}


def test_an_actor_that_is_known_to_be_dead(caller):
    caller.create()
    caller.state(m.DEAD)
    assert caller.failure(caller.call()) == "ActorDiedError"
    caller.state(m.PENDING_CREATION, incarnation=5)
    assert caller.view.state == DEAD


def test_the_error_of_the_constructor_is_the_error_of_the_calls(caller):
    caller.create()
    before = caller.call()
    error = encode_failure("SystemFailure", "the constructor raised")
    caller.state(m.DEAD, error=error)
    assert caller.core.references.entries[before].data == error
    assert caller.core.references.entries[caller.call()].data == error


# ------------------------------------------------------------------ creation and handles


def test_creation_is_sent_at_once(caller):
    caller.create()
    (create,) = caller.sent()
    assert create.ready
    assert create.payload


def test_creation_is_announced_and_sent_when_its_arguments_are_there(caller):
    argument = caller.pending()
    caller.create((argument,))
    result = caller.call()
    announced, call = caller.sent()
    assert (announced.ready, announced.payload) == (False, b"")
    assert return_id(call.task_id, 1) == result
    caller.resolve(argument)
    (create,) = caller.sent()
    assert create.ready
    assert create.payload


def test_the_constructors_arguments_are_held_while_the_actor_may_restart(caller):
    argument = caller.pending()
    caller.resolve(argument)
    caller.create((argument,))
    caller.drop(argument)
    caller.state(m.RESTARTING, incarnation=1)
    assert argument in caller.core.references.entries
    caller.state(m.DEAD)
    assert argument not in caller.core.references.entries


def test_an_argument_of_the_constructor_is_an_error(caller):
    argument = caller.pending()
    caller.create((argument,))
    caller.sent()
    caller.resolve(argument, ERROR)
    (ready,) = caller.sent()
    assert isinstance(ready, m.ActorReady)
    assert kind_of_failure(ready.error) == "SystemFailure"


def test_an_argument_that_is_an_error_already(caller):
    argument = caller.pending()
    caller.resolve(argument, ERROR)
    handle = caller.create((argument,))
    result = caller.call()
    create, ready, call = caller.sent()
    assert isinstance(create, m.ActorCreate)
    assert not create.ready
    assert isinstance(ready, m.ActorReady)
    assert kind_of_failure(ready.error) == "SystemFailure"
    assert isinstance(call, m.ActorCall)
    caller.state(m.DEAD, error=ready.error)
    assert caller.failure(result) == "SystemFailure"
    caller.drop(handle)
    assert caller.core.actors.views == {}


def test_the_last_handle_releases_the_actor(caller):
    handle = caller.create()
    caller.sent()
    caller.drop(handle)
    assert caller.sent() == [m.ActorRelease(ACTOR)]


def test_calls_hold_the_handle(caller):
    handle = caller.create()
    task_id = caller.core.new_task_id()
    caller.core.references.own(return_id(task_id, 1))
    arguments = INLINE_ARGUMENTS._replace(held=(handle,))
    caller.core.actors.submit(caller.view, Task(task_id, caller.view, b"", b"", 0, b"", arguments, 1, 0, b""))
    caller.drop(handle)
    assert not any(isinstance(message, m.ActorRelease) for message in caller.sent())
    caller.answer(return_id(task_id, 1))
    assert caller.sent() == [m.ActorRelease(ACTOR)]


def test_a_dead_actor_is_forgotten_with_its_last_handle(caller):
    handle = caller.create()
    caller.state(m.DEAD)
    caller.sent()
    caller.drop(handle)
    assert caller.sent() == []
    assert caller.core.actors.views == {}


def test_an_actor_of_another_process_is_forgotten_when_it_is_dead(caller):
    caller.call()
    caller.state(m.DEAD)
    assert caller.core.actors.views == {}


def test_a_name_that_was_taken(caller):
    handle = caller.create()
    caller.sent()
    caller.core.actors.abandon(ACTOR)
    caller.drop(handle)
    assert caller.sent() == []
    assert caller.core.actors.views == {}
    assert caller.core.tasks.tasks == {}


@pytest.mark.parametrize("name", ["", "n"])
def test_a_dead_actor_is_released_if_it_has_a_name(name):
    """A dead actor keeps its name until its release."""
    caller = Caller()
    handle = caller.create(name=name)
    caller.core.receive(BROKER, m.ActorState(ACTOR, 0, m.DEAD, 0, "it died", b""), 0.0)
    caller.sent()
    caller.drop(handle)
    assert caller.sent() == ([m.ActorRelease(ACTOR)] if name else [])
    assert ACTOR not in caller.core.actors.views
