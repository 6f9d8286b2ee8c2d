"""Windows: how much of a process's work is under way, and that a held call could not have started anyway."""

from __future__ import annotations

from collections import deque

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.client.test_actors import ACTOR, Caller, Course
from tests.unit.client.wiring import INLINE_ARGUMENTS, Process, Wire, kind_of_failure, process_id
from zray.client.core.payloads import Arguments, pack_outcome
from zray.client.core.queue_route import MAX_IDLE_WINDOWS
from zray.client.core.states import ERROR, INLINE
from zray.client.core.tasks import UNLIMITED, Task
from zray.client.core.windows import Windows
from zray.failures import encode_failure
from zray.ids import make_task_id, put_id, return_id, task_of
from zray.protocol import messages as m
from zray.protocol.codec import pack
from zray.protocol.contract import BROKER
from zray.protocol.rows import encode_row

OTHER_ACTOR = make_task_id(process_id("caller"), 1001)
GPU, SMALL = b"gpu", b"small"


class NarrowCaller(Caller):
    """A caller with a narrow window, of an actor that runs ``concurrency`` calls at once."""

    def __init__(self, windows: Windows, concurrency: int = 1, ordered: bool | None = None) -> None:
        self.ordered = concurrency == 1 if ordered is None else ordered
        self.concurrency = concurrency
        self.process = Process(Wire(), "caller", windows)
        self.core = self.process.core

    @property
    def view(self):
        return self.core.actors.view(ACTOR, self.ordered, self.concurrency)

    def call_with(self, n_bytes: int, actor_id: bytes = ACTOR, held: tuple[bytes, ...] = ()) -> bytes:
        """Makes a call with ``n_bytes`` bytes of arguments."""
        view = self.core.actors.view(actor_id, self.ordered, self.concurrency)
        task_id = self.core.new_task_id()
        arguments = Arguments(INLINE, bytes(n_bytes), b"", b"", 0, (), held)
        self.core.references.own(return_id(task_id, 1))
        self.core.actors.submit(view, Task(task_id, view, b"", b"", 0, b"", arguments, 1, 0, b""))
        return return_id(task_id, 1)


def calls_of(count: int, concurrency: int = 1) -> NarrowCaller:
    return NarrowCaller(Windows(calls=count), concurrency)


def one_by_one(concurrency: int = 1) -> NarrowCaller:
    """A caller that has only as many calls under way as the actor runs at once."""
    return NarrowCaller(Windows(call_bytes=1), concurrency)


# ------------------------------------------------------------------ calls of an ordinary actor


def test_so_many_calls_are_under_way_and_the_rest_follows_in_order():
    caller = calls_of(3)
    results = [caller.call() for _ in range(8)]
    assert caller.calls() == [(result, 0, seq, 0) for seq, result in enumerate(results[:3], start=1)]
    assert caller.view.pending_calls == 8
    for number, result in enumerate(results):
        caller.answer(result)
        assert caller.order() == results[number + 3 : number + 4]
    assert caller.view.pending_calls == 0
    assert caller.call() in caller.order()


def test_calls_count_with_their_bytes_and_one_always_goes():
    caller = NarrowCaller(Windows(call_bytes=1000))
    small = [caller.call_with(300) for _ in range(3)]
    large = caller.call_with(5000)
    behind = [caller.call_with(10), caller.call_with(10)]
    assert caller.order() == [*small, large]  # the one that passes the limit is still sent
    for result in small:
        caller.answer(result)
    assert caller.order() == []
    caller.answer(large)
    assert caller.order() == behind


def test_calls_of_all_actors_have_a_window_too():
    caller = NarrowCaller(Windows(all_call_bytes=1000))
    first, second = caller.call_with(2000), caller.call_with(2000)
    others = [caller.call_with(2000, OTHER_ACTOR), caller.call_with(1, OTHER_ACTOR)]
    assert caller.order() == [first, others[0]], "one call to each actor is always sent"
    caller.answer(first)
    assert caller.order() == [second]
    assert not caller.failure(others[1])


def test_a_call_that_waits_for_an_argument_is_not_counted():
    caller = calls_of(2)
    argument = caller.pending()
    first, waiting, last = caller.call(), caller.call((argument,)), caller.call()
    assert caller.order() == [first]
    caller.answer(first)
    assert caller.order() == []
    caller.resolve(argument)
    assert caller.order() == [waiting, last]


def test_a_held_call_whose_argument_is_an_error_takes_no_room():
    caller = one_by_one()
    argument = caller.pending()
    first = caller.call()
    failing, last = [caller.call((argument,)) for _ in range(5000)], caller.call()
    caller.resolve(argument, ERROR)
    assert not caller.failure(failing[0]), "it has its place among the calls"
    caller.answer(first)
    assert {caller.failure(result) for result in failing} == {"SystemFailure"}
    assert caller.order() == [first, last]


def test_cancelling_what_is_held():
    caller = one_by_one()
    first, *held = [caller.call() for _ in range(6)]
    for result in (held[4], held[0], held[2]):
        caller.cancel(result)
        assert caller.failure(result) == "TaskCancelledError"
    assert caller.view.pending_calls == 3
    caller.answer(first)
    caller.answer(held[1])
    caller.answer(held[3])
    assert caller.order() == [first, held[1], held[3]]
    assert caller.view.pending_calls == 0


def test_cancelling_thousands_that_are_held_from_the_last_to_the_first():
    caller = one_by_one()
    first, *held = [caller.call() for _ in range(20_000)]
    for result in reversed(held[10:]):
        caller.cancel(result)
    assert caller.view.pending_calls == 11
    assert len(caller.view._queue) < 100, "what was cancelled is forgotten"
    caller.answer(first)
    assert caller.order() == [first, held[0]]


def test_a_held_call_is_cancelled_by_others():
    caller = one_by_one()
    first, held = caller.call(), caller.call()
    caller.core.receive(BROKER, m.Delivered(b"o" * 16, pack([encode_row(m.CancelObject(held, 0))])), 0.0)
    assert caller.failure(held) == "TaskCancelledError"
    assert caller.order() == [first]


def test_a_refused_call_makes_room():
    caller = one_by_one()
    first, held = caller.call(), caller.call()
    (call,) = caller.sent()
    caller.core.rejected(call, "too large", 0.0)
    assert caller.failure(first) == "MessageRefusedError"
    assert caller.order() == [held]


def test_a_retry_goes_before_what_is_held():
    caller = one_by_one()
    first, held = caller.call(retries=1), caller.call()
    caller.answer(first, 0, ERROR, retryable=True)
    assert caller.calls() == [(first, 0, 1, 0), (first, 0, 2, 1)]
    caller.answer(first, 1)
    assert caller.order() == [held]


def test_a_restart_sends_again_what_was_under_way_then_what_was_held():
    caller = calls_of(3)
    results = [caller.call(retries=index % 2) for index in range(8)]
    assert caller.order() == results[:3]
    caller.state(m.RESTARTING, incarnation=1, last_seq=3)
    lost = [results[0], results[2]]
    assert [caller.failure(result) for result in lost] == ["ActorUnavailableError"] * 2
    assert caller.calls() == [(results[1], 1, 1, 1), (results[3], 1, 2, 0), (results[4], 1, 3, 0)]
    assert caller.core.actors.n_bytes == caller.view.n_bytes > 0


def test_a_restart_in_which_everything_is_lost_lets_the_held_go():
    caller = calls_of(2)
    results = [caller.call() for _ in range(3)]
    caller.sent()
    caller.state(m.RESTARTING, incarnation=1, last_seq=2)
    assert caller.calls() == [(results[2], 1, 1, 0)]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_what_is_held_ends_with_the_actor(concurrency):
    caller = one_by_one(concurrency)
    results = [caller.call(retries=9) for _ in range(20)]
    n_sent = len(caller.order())
    assert n_sent == concurrency
    caller.state(m.DEAD)
    assert {caller.failure(result) for result in results} == {"ActorDiedError"}
    assert caller.calls() == []
    assert caller.core.tasks.tasks == {}
    assert caller.core.actors.n_bytes == 0


@pytest.mark.parametrize("concurrency", [1, 2])
def test_what_is_held_ends_with_the_cluster(concurrency):
    caller = one_by_one(concurrency)
    results = [caller.call() for _ in range(20)]
    caller.sent()
    caller.core.lose_cluster("gone", 0.0)
    assert {caller.failure(result) for result in results} == {"ClusterUnavailableError"}
    assert caller.calls() == []


def test_the_actor_is_released_behind_what_is_held():
    caller = one_by_one()
    handle = caller.create()
    caller.sent()
    first, second = caller.call_with(1, held=(handle,)), caller.call_with(1, held=(handle,))
    caller.drop(handle)
    caller.answer(first)
    first_sent, second_sent = caller.sent()
    assert [return_id(call.task_id, 1) for call in (first_sent, second_sent)] == [first, second]
    caller.answer(second)
    assert caller.sent() == [m.ActorRelease(ACTOR)]


# ------------------------------------------------------------------ calls of an actor that runs several at once


def test_as_many_calls_as_run_at_once_are_sent_whatever_their_size():
    caller = NarrowCaller(Windows(calls=1, call_bytes=1, all_call_bytes=1), concurrency=50)
    waiting = [caller.call_with(1000) for _ in range(49)]
    signal = caller.call()
    assert caller.order() == [*waiting, signal]


def test_twice_as_many_small_calls_as_run_at_once_are_sent():
    caller = calls_of(3, concurrency=50)
    results = [caller.call() for _ in range(200)]
    assert caller.order() == results[:100]


class FakeActor:
    """Runs calls in the order of their arrival, up to ``concurrency`` at once. The call ``signal`` ends the calls that
    run; all other calls run until then."""

    def __init__(self, caller: NarrowCaller, signal: bytes) -> None:
        self.caller = caller
        self.signal = signal
        self.queue: deque[bytes] = deque()
        self.running: list[bytes] = []
        self.is_set = False

    def turn(self) -> bool:
        """Takes a step. Returns whether anything happened."""
        arrived = self.caller.order()
        self.queue.extend(arrived)
        ended = [call for call in self.running if self.is_set or call == self.signal]
        for call in ended:
            self.running.remove(call)
            self.caller.answer(call)
        while self.queue and len(self.running) < self.caller.concurrency:
            self.running.append(self.queue.popleft())
            self.is_set = self.is_set or self.running[-1] == self.signal
        return bool(arrived or ended)


@pytest.mark.parametrize("windows", [Windows(), Windows(calls=1), Windows(calls=7, call_bytes=100, all_call_bytes=1)])
@pytest.mark.parametrize(("concurrency", "waiting"), [(2, 1), (100, 99), (5001, 5000)])
def test_a_program_whose_calls_wait_for_a_later_one_ends(windows, concurrency, waiting):
    caller = NarrowCaller(windows, concurrency)
    results = [caller.call() for _ in range(waiting)]
    results.append(caller.call())
    actor = FakeActor(caller, results[-1])
    while actor.turn():
        pass
    assert caller.view.pending_calls == 0


def test_a_held_call_does_not_stand_behind_one_that_waits_for_its_argument():
    caller = NarrowCaller(Windows(calls=1, call_bytes=1), concurrency=2)
    argument = caller.pending()
    running = [caller.call(), caller.call()]
    waiting, held, last = caller.call((argument,)), caller.call(), caller.call()
    assert caller.order() == running
    caller.answer(running[0])
    assert caller.order() == [held]
    caller.resolve(argument)
    caller.answer(running[1])
    assert caller.order() == [last]
    caller.answer(held)
    assert caller.order() == [waiting]


def test_a_call_whose_argument_is_an_error_fails_whether_there_is_room_or_not():
    caller = one_by_one(2)
    argument = caller.pending()
    for _ in range(2):
        caller.call()
    failing, held = [caller.call((argument,)) for _ in range(3000)], caller.call()
    caller.resolve(argument, ERROR)
    assert {caller.failure(result) for result in failing} == {"SystemFailure"}
    assert caller.failure(caller.call((argument,))) == "SystemFailure"
    assert not caller.failure(held)
    assert caller.view.pending_calls == 3


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([Windows(calls=2), Windows(calls=1, call_bytes=1), Windows(call_bytes=200, all_call_bytes=100)]),
    st.lists(
        st.tuples(
            st.sampled_from(["call", "call", "call on", "ready", "cancel", "answer", "raise", "restart"]),
            st.integers(0, 5),
        ),
        max_size=60,
    ),
)
def test_every_call_ends_once_whatever_happens(concurrency, ordered, windows, history):
    caller = NarrowCaller(windows, 1 if ordered else concurrency, ordered)
    course = Course(caller)
    sent: list[tuple[bytes, int, int, int]] = []
    for what, index in history:
        course.goes_on(what, index)
        caller.core.check()
        sent.extend(caller.calls())
    for argument in course.arguments:
        caller.resolve(argument)
    while caller.view.in_flight:
        task = next(iter(caller.view.in_flight.values()))
        caller.answer(return_id(task.task_id, 1), task.attempt)
        caller.core.check()
        sent.extend(caller.calls())
    assert caller.core.tasks.tasks == {}
    assert caller.core.actors.n_bytes == caller.view.pending_calls == 0
    if ordered:
        first_attempts = [row[0] for row in sent if row[3] == 0]
        assert list(dict.fromkeys(first_attempts)) == sorted(set(first_attempts))


# ------------------------------------------------------------------ plain tasks


class Owner:
    """A process that submits plain tasks. The test plays the broker."""

    def __init__(self, windows: Windows) -> None:
        self.process = Process(Wire(), "owner", windows)
        self.core = self.process.core

    def submit(self, n_bytes: int = 100, shape: bytes = SMALL, refs: tuple[bytes, ...] = (), retries: int = 0) -> bytes:
        task_id = self.core.new_task_id()
        arguments = INLINE_ARGUMENTS._replace(data=bytes(n_bytes), refs=tuple(enumerate(refs)), held=refs)
        self.core.references.own(return_id(task_id, 1))
        route = self.core.queue_route
        self.core.tasks.submit(Task(task_id, route, b"f" * 16, shape, 0, b"", arguments, 1, retries, b""))
        return return_id(task_id, 1)

    def sent(self) -> list[bytes]:
        """The tasks sent since the last query."""
        self.process.flush()
        messages, self.process.up = list(self.process.up), deque()
        return [return_id(message.task_id, 1) for message in messages if isinstance(message, m.Submit)]

    def answer(self, object_id: bytes, attempt: int = 0, status: int = INLINE, *, retryable: bool = False) -> None:
        data = encode_failure("SystemFailure", "raised") if status == ERROR else msgpack.packb([])
        payload = pack_outcome(b"h" * 16, [(status, data, 0, ())], [], retryable)
        self.core.receive(BROKER, m.Result(task_of(object_id), attempt, b"w" * 16, b"", payload), 0.0)

    def fail(self, object_id: bytes, attempt: int, *, culprit: bool = True) -> None:
        self.core.receive(BROKER, m.Failed(task_of(object_id), attempt, "WorkerCrashedError", "it died", culprit), 0.0)

    def started(self, object_id: bytes, attempt: int = 0) -> None:
        self.core.receive(BROKER, m.Started(task_of(object_id), attempt), 0.0)

    def cancel(self, object_id: bytes) -> None:
        self.core.tasks.cancel(task_of(object_id), 0)

    def failure(self, object_id: bytes) -> str:
        entry = self.core.references.entries[object_id]
        return kind_of_failure(entry.data) if entry.status == ERROR else ""


def test_so_many_bytes_of_tasks_are_under_way_and_the_rest_follows_in_order():
    owner = Owner(Windows(task_bytes=1000))
    tasks = [owner.submit(400) for _ in range(6)]
    assert owner.sent() == tasks[:3]  # the third passes the limit
    owner.answer(tasks[1])
    assert owner.sent() == [tasks[3]]
    for task in (tasks[0], tasks[2], tasks[3]):
        owner.answer(task)
    assert owner.sent() == tasks[4:]
    for task in tasks[4:]:
        owner.answer(task)
    assert owner.core.queue_route.n_bytes == 0


def test_one_task_is_always_sent():
    owner = Owner(Windows(task_bytes=1, all_task_bytes=1))
    first, second = owner.submit(10_000), owner.submit(10_000)
    assert owner.sent() == [first]
    owner.answer(first)
    assert owner.sent() == [second]


def test_a_task_that_has_begun_counts_no_more():
    """Thousands of tasks may run at the same time, and wait for a task that is submitted last."""
    owner = Owner(Windows(task_bytes=1))
    tasks = [owner.submit() for _ in range(5)]
    for number, task in enumerate(tasks):
        assert owner.sent() == [task]
        owner.started(task)
        owner.started(task)
        assert owner.core.queue_route.n_bytes < 200 * (number < 4) + 1
    owner.answer(tasks[2])
    owner.answer(tasks[0])
    assert owner.core.queue_route.n_bytes == 0


def test_reports_about_another_attempt_or_an_unknown_task_are_ignored():
    owner = Owner(Windows(task_bytes=1))
    first, second = owner.submit(retries=1), owner.submit()
    owner.started(first, attempt=1)
    owner.started(return_id(make_task_id(process_id("owner"), 999), 1))
    owner.started(second)  # the task was not sent yet
    assert owner.sent() == [first]
    owner.fail(first, 0)
    assert owner.sent() == [second]
    owner.started(first, attempt=0)
    assert owner.sent() == []


def test_tasks_of_other_resources_pass():
    owner = Owner(Windows(task_bytes=1000))
    many = [owner.submit(600, GPU) for _ in range(4)]
    assert owner.sent() == many[:2]
    small = owner.submit(600, SMALL)
    assert owner.sent() == [small]


def test_all_tasks_have_a_window_too():
    owner = Owner(Windows(task_bytes=1000, all_task_bytes=2000))
    gpu = [owner.submit(600, GPU) for _ in range(3)]
    small = [owner.submit(600, SMALL) for _ in range(3)]
    others = [owner.submit(600, shape) for shape in (b"x", b"y", b"x")]
    assert owner.sent() == [*gpu[:2], *small[:2]]
    owner.answer(gpu[0])  # room for one more task, in its own window and among all tasks
    assert owner.sent() == [gpu[2]]
    owner.answer(small[0])
    left = owner.sent()
    assert len(left) == 1
    owner.answer(small[1])
    left += owner.sent()
    for task in (gpu[1], gpu[2]):
        owner.answer(task)
        left += owner.sent()
    assert sorted(left) == sorted([small[2], *others])


def test_small_tasks_that_are_many_are_all_sent():
    owner = Owner(Windows())
    tasks = [owner.submit(100) for _ in range(3000)]
    assert owner.sent() == tasks


def test_a_retry_waits_for_room_like_any_other():
    owner = Owner(Windows(task_bytes=1))
    first, second = owner.submit(retries=2), owner.submit()
    owner.fail(first, 0)
    owner.answer(second)
    assert owner.sent() == [first, second, first]
    owner.answer(first, 1, ERROR, retryable=True)
    assert owner.sent() == [first]
    owner.answer(first, 2)
    assert owner.core.queue_route.n_bytes == 0


def test_cancelling_tasks_that_are_held():
    owner = Owner(Windows(task_bytes=1))
    first, second, third, fourth = (owner.submit() for _ in range(4))
    for held in (third, second):
        owner.cancel(held)
        assert owner.failure(held) == "TaskCancelledError"
    owner.answer(first)
    assert owner.sent() == [first, fourth]


def test_held_tasks_hold_their_arguments():
    owner = Owner(Windows(task_bytes=1))
    argument = put_id(owner.core.new_task_id())
    owner.core.references.own(argument)
    owner.core.references.resolve(argument, INLINE, msgpack.packb([]), b"", 0)
    first, held = owner.submit(), owner.submit(refs=(argument,))
    owner.core.dropped.append(argument)
    owner.core.collect(0.0)
    owner.answer(first)
    assert owner.sent() == [first, held]
    owner.answer(held)
    assert argument not in owner.core.references.entries


def test_a_held_task_whose_argument_is_an_error_takes_no_room():
    owner = Owner(Windows(task_bytes=1))
    argument = put_id(owner.core.new_task_id())
    owner.core.references.own(argument)
    owner.core.references.resolve(argument, ERROR, encode_failure("SystemFailure", "raised"), b"", 0)
    first, *failing, last = [owner.submit(), *(owner.submit(refs=(argument,)) for _ in range(3000)), owner.submit()]
    assert {owner.failure(task) for task in failing} == {"SystemFailure"}
    owner.answer(first)
    assert owner.sent() == [first, last]


def test_held_tasks_end_with_the_cluster():
    owner = Owner(Windows(task_bytes=1))
    tasks = [owner.submit() for _ in range(10)]
    assert owner.sent() == tasks[:1]
    owner.core.lose_cluster("gone", 0.0)
    assert {owner.failure(task) for task in tasks} == {"ClusterUnavailableError"}
    assert owner.sent() == []
    assert owner.core.queue_route.n_bytes == 0


def test_windows_that_are_empty_are_forgotten():
    owner = Owner(Windows())
    for number in range(3 * MAX_IDLE_WINDOWS):
        owner.answer(owner.submit(shape=number.to_bytes(4, "big")))
    assert len(owner.core.queue_route._windows) <= MAX_IDLE_WINDOWS


def test_windows_that_are_in_use_are_seldom_looked_at():
    owner = Owner(Windows())
    route = owner.core.queue_route
    windows, looked_at = route._windows, 0
    n = 8 * MAX_IDLE_WINDOWS
    for number in range(n):
        owner.submit(shape=number.to_bytes(4, "big"))
        if route._windows is not windows:  # those not in use were removed
            looked_at += len(windows)
            windows = route._windows
    assert len(windows) == n
    assert looked_at < 2 * n


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([Windows(task_bytes=1), Windows(task_bytes=300), Windows(task_bytes=300, all_task_bytes=400)]),
    st.lists(
        st.tuples(
            st.sampled_from(["submit", "submit", "submit on", "started", "answer", "raise", "fail", "cancel"]),
            st.integers(0, 7),
        ),
        max_size=80,
    ),
)
def test_every_task_ends_once_whatever_happens(windows, history):
    owner = Owner(windows)
    made: list[bytes] = []
    sent: set[bytes] = set()
    for what, index in history:
        if what == "submit" or not made:
            made.append(owner.submit(100, (GPU, SMALL, b"x")[index % 3], retries=UNLIMITED))
        elif what == "submit on":
            made.append(owner.submit(100, SMALL, (made[index % len(made)],), retries=UNLIMITED))
        else:
            result = made[index % len(made)]
            task = owner.core.tasks.tasks.get(task_of(result))
            if what == "cancel":
                owner.cancel(result)
            elif task is not None and result in sent:
                if what == "started":
                    owner.started(result, task.attempt)
                elif what == "fail":
                    owner.fail(result, task.attempt)
                    sent.discard(result)
                else:
                    owner.answer(result, task.attempt, ERROR if what == "raise" else INLINE, retryable=what == "raise")
                    sent.discard(result)
        owner.core.check()
        sent.update(owner.sent())
    while sent:
        result = sent.pop()
        task = owner.core.tasks.tasks[task_of(result)]
        owner.answer(result, task.attempt)
        owner.core.check()
        sent.update(owner.sent())
    assert owner.core.tasks.tasks == {}
    assert owner.core.queue_route.n_bytes == 0
