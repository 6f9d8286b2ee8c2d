"""The owner's side of tasks: dependencies, attempts, outcomes and cancellation."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.client.wiring import HOST, HOSTS, MAX_INLINE_BYTES, Process, Wire, kind_of_failure
from zray.client.core.client_core import UNHANDLED
from zray.client.core.effects import Unhandled, Warn
from zray.client.core.payloads import INTERRUPTED, pack_outcome, read_outcome
from zray.client.core.states import ERROR, INLINE, PENDING, STORED
from zray.client.core.tasks import MAX_FREE_ATTEMPTS, UNLIMITED
from zray.failures import TASK_WORKER_DIED, decode_failure, encode_failure, missed_argument
from zray.ids import return_id, task_of
from zray.protocol import messages as m
from zray.protocol.codec import pack, pack_body
from zray.protocol.contract import BROKER
from zray.protocol.messages import ProtocolError
from zray.protocol.records import Activity, AwaitedObject, RunningCall


@pytest.fixture
def wire() -> Wire:
    return Wire("driver", "worker")


@pytest.fixture
def driver(wire: Wire) -> Process:
    return wire.everybody[0]


@pytest.fixture
def worker(wire: Wire) -> Process:
    return wire.everybody[1]


def failure_of(process: Process, object_id: bytes) -> str:
    entry = process.entry(object_id)
    assert entry.status == ERROR
    return kind_of_failure(entry.data)


def fail(
    process: Process, object_id: bytes, attempt: int, kind: str = "WorkerCrashedError", *, culprit: bool = True
) -> None:
    """An attempt fails, after it has run for longer than what makes its task pause."""
    now = 100.0 * (attempt + 1)
    process.core.receive(BROKER, m.Failed(task_of(object_id), attempt, kind, "it died", culprit), now)
    process.flush()


def answer(
    process: Process, object_id: bytes, attempt: int = 0, status: int = INLINE, *, retryable: bool = False
) -> None:
    data = encode_failure("SystemFailure", "raised") if status == ERROR else msgpack.packb([])
    payload = pack_outcome(HOST, [(status, data, 0, ())], [], retryable)
    process.core.receive(BROKER, m.Result(task_of(object_id), attempt, b"w" * 16, b"", payload), 0.0)
    process.flush()


def sent(process: Process) -> list[Any]:
    """The messages sent to the broker since the last query, without those that watch hosts."""
    messages = [each for each in process.up if not (isinstance(each, m.Watch) and each.process_id in HOSTS)]
    process.up.clear()
    return messages


def attempts(process: Process) -> list[int]:
    return [message.attempt for message in sent(process) if isinstance(message, m.Submit)]


# ------------------------------------------------------------------ dependencies


def test_a_task_without_arguments_leaves_at_once(driver, worker):
    driver.submit(worker)
    assert attempts(driver) == [0]


def test_a_task_waits_for_all_its_arguments(driver, worker):
    one, two = driver.submit(worker), driver.submit(worker)
    sent(driver)
    driver.submit(worker, refs=[one, two, one])
    assert attempts(driver) == []
    answer(driver, two)
    assert attempts(driver) == []
    answer(driver, one)
    (submit,) = sent(driver)
    refs = msgpack.unpackb(submit.payload)[6]
    assert [(position, object_id) for position, object_id, *_ in refs] == [(0, one), (1, two), (2, one)]


def test_an_envelope_holds_so_many_values_and_no_more(driver, worker):
    """The other values are requested one by one. A stored value takes no room in the envelope."""
    small, stored, large = driver.put(), driver.put(stored=True), driver.put()
    driver.entry(large).data = bytes(MAX_INLINE_BYTES)
    driver.submit(worker, refs=[small, large, stored, small])
    (submit,) = sent(driver)
    assert [(row[1], row[2]) for row in msgpack.unpackb(submit.payload)[6]] == [
        (small, INLINE), (large, PENDING), (stored, STORED), (small, INLINE),
    ]  # fmt: skip


def test_nested_references_are_not_waited_for(driver, worker):
    slow = driver.submit(worker)
    sent(driver)
    driver.submit(worker, nested=[slow])
    assert attempts(driver) == [0]


def test_small_arguments_travel_inside_the_envelope(driver, worker):
    inline, stored = driver.put(), driver.put(stored=True)
    driver.submit(worker, refs=[inline, stored])
    (submit,) = sent(driver)
    assert msgpack.unpackb(submit.payload)[6] == [
        [0, inline, INLINE, msgpack.packb([]), b"", 0],
        [1, stored, STORED, msgpack.packb([]), HOST, 0],
    ]


def test_an_argument_that_is_an_error_is_the_outcome(driver, worker):
    first = driver.submit(worker)
    second = driver.submit(worker, refs=[first])
    third = driver.submit(worker, refs=[second])
    sent(driver)
    answer(driver, first, status=ERROR)
    assert sent(driver) == []
    missed = missed_argument(driver.entry(third).data)
    assert missed is not None
    assert missed.error == driver.entry(first).data and missed.between == 1


@pytest.mark.parametrize("end", ["error", "cancel", "crash", "cluster lost"])
def test_the_end_of_a_long_chain(driver, worker, end):
    """``x = f.remote(x)``, ten thousand times, and the first task fails."""
    first = last = driver.submit(worker)
    driver.is_checked = False
    for _ in range(10_000):
        last = driver.submit(worker, refs=[last])
    driver.is_checked = True
    if end == "error":
        answer(driver, first, status=ERROR)
    elif end == "cancel":
        driver.core.tasks.cancel(task_of(first), 0)
        driver.core.receive(BROKER, m.Result(task_of(first), 0, b"w" * 16, b"", b""), 0.0)
    elif end == "crash":
        fail(driver, first, 0)
    else:
        driver.core.lose_cluster("gone", 0.0)
    assert driver.entry(last).status == ERROR
    assert driver.core.tasks.tasks == {}


def test_many_tasks_that_wait_for_one(driver, worker):
    first = driver.submit(worker)
    rest = [driver.submit(worker, refs=[first]) for _ in range(3000)]
    sent(driver)
    answer(driver, first)
    assert [message.task_id for message in sent(driver)] == [task_of(object_id) for object_id in rest]


# ------------------------------------------------------------------ attempts


def test_each_retry_is_an_attempt(driver, worker):
    result = driver.submit(worker, retries=2)
    for attempt in range(3):
        fail(driver, result, attempt)
    assert attempts(driver) == [0, 1, 2]
    assert failure_of(driver, result) == "WorkerCrashedError"


def test_unlimited_retries(driver, worker):
    result = driver.submit(worker, retries=UNLIMITED)
    for attempt in range(200):
        fail(driver, result, attempt)
    assert attempts(driver) == list(range(201))


def test_a_task_that_is_not_the_culprit_loses_no_retry(driver, worker):
    result = driver.submit(worker, retries=1)
    for attempt in range(5):
        fail(driver, result, attempt, culprit=False)
    fail(driver, result, 5)
    assert attempts(driver) == [0, 1, 2, 3, 4, 5, 6]
    fail(driver, result, 6)
    assert failure_of(driver, result) == "WorkerCrashedError"


def test_too_many_deaths_without_a_culprit_cost_retries(driver, worker):
    result = driver.submit(worker)
    for attempt in range(MAX_FREE_ATTEMPTS + 1):
        assert driver.entry(result).status != ERROR
        fail(driver, result, attempt, culprit=False)
    assert failure_of(driver, result) == "WorkerCrashedError"


@pytest.mark.parametrize("kind", ["NodeDiedError", "WorkerCrashedError"])
def test_failures_that_another_attempt_may_mend(driver, worker, kind):
    result = driver.submit(worker, retries=1)
    fail(driver, result, 0, kind)
    assert attempts(driver) == [0, 1]


@pytest.mark.parametrize("kind", ["TaskCancelledError", "SystemFailure"])
def test_failures_that_stay(driver, worker, kind):
    result = driver.submit(worker, retries=3)
    fail(driver, result, 0, kind)
    assert attempts(driver) == [0]
    assert failure_of(driver, result) == kind


def test_an_outcome_that_asks_for_another_attempt(driver, worker):
    result = driver.submit(worker, retries=1)
    answer(driver, result, 0, ERROR, retryable=True)
    assert attempts(driver) == [0, 1]
    answer(driver, result, 1, ERROR, retryable=True)
    assert failure_of(driver, result) == "SystemFailure"


def test_arguments_are_held_through_all_attempts(driver, worker):
    argument = driver.put(stored=True)
    result = driver.submit(worker, refs=[argument], retries=1)
    driver.drop(argument)
    fail(driver, result, 0)
    assert driver.freed == []
    answer(driver, result, 1)
    assert driver.freed == [argument]


@pytest.mark.parametrize("attempt", [0, 2])
def test_outcomes_of_another_attempt_do_not_count(driver, worker, attempt):
    result = driver.submit(worker, retries=5)
    fail(driver, result, 0)
    answer(driver, result, attempt)
    fail(driver, result, attempt)
    assert not driver.is_ready(result)
    answer(driver, result, 1)
    assert driver.is_ready(result)


def test_an_outcome_of_an_unknown_task(driver, worker):
    result = driver.submit(worker)
    answer(driver, result)
    answer(driver, result)
    fail(driver, result, 0)
    driver.drop(result)
    assert driver.core.references.entries == {}


def test_a_stored_result_that_is_not_needed_is_freed(driver, worker):
    result = driver.submit(worker)
    driver.drop(result)
    answer(driver, result, status=STORED)
    assert driver.freed == [result]


def test_several_return_values(driver, worker):
    first = driver.submit(worker, n_returns=3)
    returns = [task_of(first) + index.to_bytes(4, "big") for index in (1, 2, 3)]
    payload = pack_outcome(HOST, [(INLINE, b"\x90", 0, ()), (STORED, b"", 9, ()), (ERROR, b"E", 0, ())], [], False)
    driver.core.receive(BROKER, m.Result(task_of(first), 0, b"w" * 16, b"", payload), 0.0)
    assert [driver.entry(object_id).status for object_id in returns] == [INLINE, STORED, ERROR]
    other = driver.submit(worker, n_returns=2)
    fail(driver, other, 0)
    assert driver.entry(task_of(other) + b"\0\0\0\2").status == ERROR


# ------------------------------------------------------------------ cancellation


def test_cancelled_before_it_is_sent(driver, worker):
    slow = driver.submit(worker)
    result = driver.submit(worker, refs=[slow])
    sent(driver)
    assert driver.core.tasks.cancel(task_of(result), 0)
    assert failure_of(driver, result) == "TaskCancelledError"
    answer(driver, slow)
    assert sent(driver) == []
    assert driver.entry(slow).pins == 0


def test_interrupted_by_its_cancellation(driver, worker):
    result = driver.submit(worker, retries=3)
    driver.core.tasks.cancel(task_of(result), 0)
    driver.flush()
    driver.core.receive(BROKER, m.Result(task_of(result), 0, b"w" * 16, b"", INTERRUPTED), 0.0)
    assert failure_of(driver, result) == "RunningTaskCancelledError"


def test_cancelled_after_it_was_sent(driver, worker):
    result = driver.submit(worker, retries=3)
    driver.core.tasks.cancel(task_of(result), m.CANCEL_FORCE)
    driver.flush()
    assert sent(driver)[-1] == m.Cancel(task_of(result), m.CANCEL_FORCE)
    assert not driver.is_ready(result)
    driver.core.receive(BROKER, m.Result(task_of(result), 0, b"w" * 16, b"", b""), 0.0)
    assert failure_of(driver, result) == "TaskCancelledError"


def test_a_cancelled_task_is_not_tried_again(driver, worker):
    one, two = driver.submit(worker, retries=3), driver.submit(worker, retries=3)
    for result in (one, two):
        driver.core.tasks.cancel(task_of(result), 0)
    fail(driver, one, 0)
    answer(driver, two, 0, ERROR, retryable=True)
    assert attempts(driver) == [0, 0]
    assert failure_of(driver, one) == "TaskCancelledError"


def test_a_cancelled_task_may_have_been_faster(driver, worker):
    result = driver.submit(worker)
    driver.core.tasks.cancel(task_of(result), 0)
    answer(driver, result)
    assert driver.entry(result).status == INLINE
    assert not driver.core.tasks.cancel(task_of(result), 0)


def test_cancelling_what_another_task_waits_for(driver, worker):
    slow = driver.submit(worker)
    middle = driver.submit(worker, refs=[slow])
    last = driver.submit(worker, refs=[middle])
    driver.core.tasks.cancel(task_of(middle), 0)
    assert failure_of(driver, last) == "TaskCancelledError"


def test_cancelling_children(driver, worker):
    parents = [b"1" * 24, b"2" * 24]
    first, _, third = (driver.submit(worker, parent=parents[n]) for n in (0, 1, 0))
    driver.core.tasks.cancel_children(parents[0], m.CANCEL_RECURSIVE)
    driver.flush()
    cancelled = [message.task_id for message in sent(driver) if isinstance(message, m.Cancel)]
    assert cancelled == [task_of(first), task_of(third)]


def test_the_cluster_is_lost(driver, worker):
    one = driver.submit(worker)
    two = driver.submit(worker, refs=[one])
    driver.core.lose_cluster("the broker is gone", 0.0)
    assert {failure_of(driver, one), failure_of(driver, two)} == {"ClusterUnavailableError"}
    assert driver.core.tasks.tasks == {}


# ------------------------------------------------------------------ the payload of an outcome


def test_outcomes_come_back():
    returns = [[INLINE, b"data", 0, []], [STORED, b"", 99, [b"x" * 28]]]
    outcome = read_outcome(pack_outcome(HOST, returns, [b"k" * 28], True, 7))
    assert outcome == (HOST, returns, [b"k" * 28], True, 7)


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        b"\x90",
        msgpack.packb([b"", [], []]),
        msgpack.packb([b"", [[INLINE, b"", 0]], [], False]),
        msgpack.packb([b"", [[17, b"", 0, []]], [], False]),
        msgpack.packb([b"", [[INLINE, "text", 0, []]], [], False]),
        msgpack.packb([b"", [[INLINE, b"", None, []]], [], False]),
        msgpack.packb([b"", [[INLINE, b"", 0, ["x"]]], [], False]),
        msgpack.packb([b"", 5, [], False]),
    ],
)
def test_malformed_outcomes(payload):
    with pytest.raises(ProtocolError):
        read_outcome(payload)


@given(st.binary(max_size=60))
def test_random_outcomes(payload):
    try:
        read_outcome(payload)
    except ProtocolError:
        return


# ------------------------------------------------------------------ warnings


def told(process: Process) -> list[str]:
    """The warnings since the last query."""
    texts = [effect.text for effect in process.effects if isinstance(effect, Warn)]
    process.effects.clear()
    return texts


def text_of(process: Process, object_id: bytes) -> str:
    return str(decode_failure(process.entry(object_id).data))


def named(process: Process, object_id: bytes, name: str = "fit") -> bytes:
    process.core.tasks.tasks[task_of(object_id)].options = pack({"name": name})
    return object_id


def test_a_death_that_is_tried_again_is_reported_and_the_last_one_is_the_error(driver, worker):
    ref = named(driver, driver.submit(worker, retries=2))
    fail(driver, ref, 0)
    assert told(driver) == ["attempt 1 of 3 of `fit` died and is tried again: it died"]
    fail(driver, ref, 1)
    driver.core.tell_held_back(math.inf)
    driver.flush()
    assert told(driver) == ["attempt 2 of 3 of `fit` died and is tried again: it died"]
    fail(driver, ref, 2)
    assert text_of(driver, ref) == f"attempt 3 of 3 of `fit`: {TASK_WORKER_DIED}: it died"
    assert told(driver) == []


def test_many_deaths_are_summed_up(driver, worker):
    for _ in range(5):
        fail(driver, named(driver, driver.submit(worker, retries=1)), 0)
    driver.core.tell_held_back(math.inf)
    driver.flush()
    first, summary = told(driver)
    assert first == "attempt 1 of 2 of `fit` died and is tried again: it died"
    assert summary == f"4 attempts failed and are tried again (fit 4x), the last: {first}"


def test_the_owner_does_not_report_lost_hosts_and_bystanders(driver, worker):
    one, two = driver.submit(worker, retries=1), driver.submit(worker, retries=1)
    fail(driver, one, 0, "NodeDiedError")
    fail(driver, two, 0, culprit=False)
    assert told(driver) == []


def test_an_exception_that_is_tried_again_is_reported(driver, worker):
    ref = named(driver, driver.submit(worker, retries=1))
    answer(driver, ref, 0, ERROR, retryable=True)
    assert told(driver) == ["attempt 1 of 2 of `fit` raised raised: it is tried again"]


def test_without_a_limit_of_retries_no_limit_is_named(driver, worker):
    fail(driver, named(driver, driver.submit(worker, retries=UNLIMITED)), 0)
    assert told(driver) == ["attempt 1 of `fit` died and is tried again: it died"]


def test_the_last_attempt_says_that_it_is(driver, worker):
    task = driver.core.tasks.tasks[task_of(driver.submit(worker, retries=1))]
    task.flags = m.FLAG_RETRYABLE
    driver.core.tasks.again(task, counts=True)
    assert not task.flags & m.FLAG_RETRYABLE


def test_a_cancellation_names_the_task(driver, worker):
    one = named(driver, driver.submit(worker, refs=[driver.submit(worker)]))
    driver.core.tasks.cancel(task_of(one), 0)
    assert text_of(driver, one) == "attempt 1 of 1 of `fit` was cancelled before it was sent"
    two = named(driver, driver.submit(worker))
    driver.core.tasks.cancel(task_of(two), 0)
    driver.core.receive(BROKER, m.Result(task_of(two), 0, b"w" * 16, b"", b""), 0.0)
    assert text_of(driver, two) == "attempt 1 of 1 of `fit` was cancelled"


# ------------------------------------------------------------------ errors that no process has seen


def user_error(process: Process, object_id: bytes, n_returns: int = 1, attempt: int = 0) -> None:
    """Answers a task with an error that its code raised."""
    data = b"E" + msgpack.packb(["fit", "ValueError: boo", 7, "node7", None, ""])
    payload = pack_outcome(HOST, [(ERROR, data, 0, ())] * n_returns, [], False)
    process.core.receive(BROKER, m.Result(task_of(object_id), attempt, b"w" * 16, b"", payload), 0.0)
    process.flush()


def unhandled(process: Process) -> list[str]:
    texts = [effect.text for effect in process.effects if isinstance(effect, Unhandled)]
    process.effects.clear()
    return texts


TOLD = f"{UNHANDLED}: zray::fit() (pid=7, host=node7)\nValueError: boo"


def test_an_error_is_reported_when_the_last_reference_goes(driver, worker):
    ref = driver.submit(worker)
    user_error(driver, ref)
    assert unhandled(driver) == []
    driver.drop(ref)
    assert unhandled(driver) == [TOLD] and not driver.core.references.unseen


def test_an_error_that_comes_when_no_reference_is_left(driver, worker):
    ref = driver.submit(worker)
    driver.drop(ref)
    user_error(driver, ref)
    assert unhandled(driver) == [TOLD] and not driver.core.references.unseen


def test_an_error_of_several_values_is_reported_once_and_with_the_last(driver, worker):
    first = driver.submit(worker, n_returns=3)
    others = [return_id(task_of(first), index) for index in (2, 3)]
    user_error(driver, first, 3)
    driver.drop(first)
    driver.drop(others[1])
    assert unhandled(driver) == []
    driver.drop(others[0])
    assert unhandled(driver) == [TOLD]


def test_an_error_that_was_seen_is_not_reported(driver, worker):
    ref = driver.submit(worker, n_returns=2)
    user_error(driver, ref, 2)
    driver.core.references.seen(return_id(task_of(ref), 2))
    for index in (1, 2):
        driver.drop(return_id(task_of(ref), index))
    assert unhandled(driver) == [] and not driver.core.references.unseen


@pytest.mark.parametrize("early", [True, False])
def test_an_error_that_another_process_has_asked_for_is_not_reported(wire, driver, worker, early):
    ref = driver.submit(worker)
    ask = m.Delivered(worker.id, pack_body([m.ObjectRequest(ref, b"")]))
    if early:
        driver.core.receive(BROKER, ask, 0.0)
    user_error(driver, ref)
    if not early:
        driver.core.receive(BROKER, ask, 0.0)
    driver.drop(ref)
    assert unhandled(driver) == []


def test_an_error_of_an_argument_is_that_of_the_last_task_of_a_chain(driver, worker):
    first = driver.submit(worker)
    last = driver.submit(worker, refs=[first])
    driver.core.tasks.tasks[task_of(last)].options = pack({"name": "merge"})
    driver.drop(first)
    user_error(driver, first)
    assert unhandled(driver) == []
    driver.drop(last)
    (text,) = unhandled(driver)
    assert text.startswith(f"{UNHANDLED}: merge: The task was not run: its argument 0") and "ValueError: boo" in text
    assert not driver.core.references.unseen


def test_what_was_cancelled_or_lost_with_the_cluster_is_not_reported(driver, worker):
    cancelled, lost = driver.submit(worker), driver.submit(worker)
    driver.core.tasks.cancel(task_of(cancelled), 0)
    user_error(driver, cancelled)
    driver.core.lose_cluster("gone", 0.0)
    driver.drop(cancelled)
    driver.drop(lost)
    assert unhandled(driver) == []


def test_a_death_that_was_not_seen_is_reported(driver, worker):
    ref = driver.submit(worker)
    driver.drop(ref)
    fail(driver, ref, 0)
    assert unhandled(driver) == [f"{UNHANDLED}: attempt 1 of 1 of `a task`: {TASK_WORKER_DIED}: it died"]


# ------------------------------------------------------------------ inspection


def asked(process: Process, now: float = 0.0) -> Activity:
    sent(process)
    process.core.receive(BROKER, m.Inspect(5), now)
    process.flush()
    (answer,) = sent(process)
    assert isinstance(answer, m.Inspected) and answer.request == 5
    return answer.activity


def test_waiting_calls_and_awaited_objects_are_reported(driver, worker):
    first = named(driver, driver.submit(worker), "load")
    for name in ("merge", "merge", "plot"):
        named(driver, driver.submit(worker, refs=[first]), name)
    driver.core.awaited["a thread"] = [first, b"other".ljust(28, b"\0")]
    assert asked(driver) == Activity(
        running=[],
        awaited=[AwaitedObject(first, "load", None), AwaitedObject(b"other".ljust(28, b"\0"), "", None)],
        arguments={"merge": 2, "plot": 1},
    )


def test_running_calls_are_reported_with_their_seconds(wire, driver, worker):
    ref = driver.submit(worker)
    wire.settle()
    task = worker.take()
    assert task is not None
    assert asked(worker, 10.0).running == [RunningCall("a task", 0.0, task_of(ref))]
    worker.core.tick(10.0)
    assert asked(worker, 13.5).running == [RunningCall("a task", 3.5, task_of(ref))]
    worker.finish(task)
    worker.core.tick(14.0)
    assert asked(worker).running == [] and not worker.core.execution._seen_at


# ------------------------------------------------------------------ limits of time


def time_out(process: Process, object_id: bytes, attempt: int = 0, actor: bytes = b"") -> None:
    process.core.receive(BROKER, m.TimedOut(task_of(object_id), attempt, actor, "ran longer than timeout_s=2"), 0.0)
    process.flush()


def with_options(driver: Process, object_id: bytes, **options: Any) -> None:
    driver.core.tasks.tasks[task_of(object_id)].options = pack({"name": "fit", **options})


def test_a_task_whose_worker_was_killed_for_its_time(driver, worker):
    ref = driver.submit(worker, retries=3)
    time_out(driver, ref)
    assert failure_of(driver, ref) == "TaskTimeoutError"
    error = decode_failure(driver.entry(ref).data)
    assert isinstance(error, TimeoutError)
    assert str(error).startswith("attempt 1 of 4 of ")
    assert attempts(driver) == [0]


def test_it_is_tried_again_if_its_options_say_so(driver, worker):
    ref = driver.submit(worker, retries=1)
    with_options(driver, ref, timeout=[2.0, True])
    time_out(driver, ref)
    fail(driver, ref, 0)  # of the same attempt: its worker was killed
    time_out(driver, ref, 0)
    assert attempts(driver) == [0, 1]
    time_out(driver, ref, 1)
    assert failure_of(driver, ref) == "TaskTimeoutError"


def test_a_limit_without_retries(driver, worker):
    ref = driver.submit(worker, retries=3)
    with_options(driver, ref, timeout=[2.0, False])
    time_out(driver, ref)
    assert failure_of(driver, ref) == "TaskTimeoutError"


def test_a_task_that_was_cancelled_before_its_time_was_over(driver, worker):
    ref = driver.submit(worker, retries=3)
    driver.core.cancel(ref, 0)
    time_out(driver, ref)
    assert failure_of(driver, ref) == "TaskCancelledError"


def test_a_worker_of_another_actor_cannot_time_a_task_out(driver, worker):
    ref = driver.submit(worker)
    with pytest.raises(ProtocolError, match="was not given"):
        driver.core.receive(BROKER, m.TimedOut(task_of(ref), 0, b"a" * 24, "x"), 0.0)
    assert driver.entry(ref).status == PENDING
