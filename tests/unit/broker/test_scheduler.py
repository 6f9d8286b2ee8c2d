"""Placement: who gets which envelope, when, and how many of them."""

from __future__ import annotations

import pytest

from tests.unit.broker.desk import FUNCTION, ONE_CPU, Desk, one_worker, prefetched, shape
from zray.broker.records import LENT_FOR_S
from zray.broker.scheduler import CREDIT_US, MAX_CREDIT
from zray.ids import make_task_id
from zray.protocol import messages as m
from zray.protocol.records import JobSettings

LONG = b"long".ljust(16, b"\0")


@pytest.fixture
def desk() -> Desk:
    return Desk()


# ------------------------------------------------------------------ one task


def test_a_task_and_its_result(desk):
    driver, worker = one_worker(desk)
    (task_id,) = desk.submit(driver)
    config, run = desk.take(worker)
    assert config == m.JobConfig(b"\0\0\0\1", JobSettings(namespace="driver"))
    assert run == m.Run(task_id, 0, FUNCTION, ONE_CPU, [], b"payload")
    assert desk.free == {"CPU": 0}
    desk.done(worker, task_id)
    assert desk.take(driver) == [m.Result(task_id, 0, worker, b"", b"outcome")]
    assert desk.free == {"CPU": 1}
    assert desk.core.tasks == {}


def test_a_task_that_is_sent_twice_runs_once(desk):
    driver, worker = one_worker(desk)
    submit = m.Submit(make_task_id(driver, 1), 0, LONG, ONE_CPU, 0, b"", b"")
    desk.say(driver, submit, submit)
    assert len(desk.runs(worker)) == 1
    desk.done(worker, submit.task_id)
    assert desk.runs(worker) == []


def test_a_task_of_somebody_else(desk):
    driver, worker = one_worker(desk)
    with pytest.raises(m.ProtocolError):
        desk.say(driver, m.Submit(make_task_id(worker, 1), 0, LONG, ONE_CPU, 0, b"", b""))


@pytest.mark.parametrize("key", [b"", b"\xc1", b"\x05"])
def test_a_malformed_shape(desk, key):
    driver, _ = one_worker(desk)
    with pytest.raises(m.ProtocolError):
        desk.say(driver, m.Submit(make_task_id(driver, 1), 0, LONG, key, 0, b"", b""))
    assert desk.core.tasks == {}


def test_an_answer_to_what_was_not_asked(desk):
    driver, worker = one_worker(desk)
    desk.done(worker, make_task_id(driver, 1))
    assert desk.take(driver) == []


def test_gpus_are_told(desk):
    driver = desk.driver()
    host = desk.host(CPU=2, GPU=2)
    workers = desk.workers(host)
    desk.submit(driver, 2, shape(CPU=1, GPU=1))
    assert sorted(run.gpus for worker in workers for run in desk.take(worker, m.Run)) == [[0], [1]]


def test_tasks_of_one_shape_run_in_order(desk):
    driver, worker = one_worker(desk)
    task_ids = desk.submit(driver, 5, retryable=False)
    seen = []
    for _ in task_ids:
        (task_id,) = desk.runs(worker)
        seen.append(task_id)
        desk.done(worker, task_id, run_us=10**6)
    assert seen == task_ids


def test_a_shape_that_waits_does_not_hold_up_another(desk):
    driver, worker = one_worker(desk)
    desk.submit(driver, shape=shape(CPU=1, special=1))
    (task_id,) = desk.submit(driver)
    assert desk.runs(worker) == [task_id]


# ------------------------------------------------------------------ credit


def test_no_prefetch_of_the_unknown(desk):
    driver, worker = one_worker(desk)
    desk.submit(driver, 10)
    assert len(desk.runs(worker)) == 1


def test_no_prefetch_behind_long_ones(desk):
    driver, worker = one_worker(desk)
    desk.teach(driver, worker, run_us=CREDIT_US)
    desk.submit(driver, 10)
    assert len(desk.runs(worker)) == 1


def test_prefetch_of_short_ones(desk):
    driver, worker = one_worker(desk)
    desk.teach(driver, worker, run_us=CREDIT_US // 10)
    desk.submit(driver, 100)
    assert len(desk.runs(worker)) == 10


def test_there_is_a_limit_to_credit(desk):
    driver, worker = one_worker(desk)
    desk.teach(driver, worker, run_us=1)
    desk.submit(driver, 10_000)
    assert 1 < len(desk.runs(worker)) <= MAX_CREDIT


def test_what_may_run_only_once_is_never_prefetched(desk):
    driver, worker = one_worker(desk)
    desk.teach(driver, worker, run_us=10)
    desk.submit(driver, 10, retryable=False)
    assert len(desk.runs(worker)) == 1


def test_nothing_is_prefetched_behind_what_may_run_only_once(desk):
    driver, worker = one_worker(desk)
    desk.teach(driver, worker, run_us=10)
    (first,) = desk.submit(driver, retryable=False)
    desk.submit(driver, 10)
    assert desk.runs(worker) == [first]


def test_credit_is_filled_up(desk):
    driver, worker = one_worker(desk)
    desk.teach(driver, worker, run_us=CREDIT_US // 10)
    desk.submit(driver, 100)
    first = desk.runs(worker)
    desk.done(worker, *first[:4], run_us=CREDIT_US // 10)
    assert len(desk.runs(worker)) == 4


def test_a_backlog_is_shared_out(desk):
    driver = desk.driver()
    workers = desk.workers(desk.host(CPU=4))
    desk.teach(driver, next(w for w in workers[::-1]), run_us=10)
    desk.submit(driver, 16)
    given = [len(desk.runs(worker)) for worker in workers]
    assert min(given) >= 1
    assert max(given) <= 4


def test_an_estimate_goes_up_at_once_and_down_slowly(desk):
    driver, worker = one_worker(desk)
    for _ in range(3):
        desk.teach(driver, worker, run_us=10)
    desk.teach(driver, worker, run_us=CREDIT_US)
    desk.submit(driver, 10)
    assert len(desk.runs(worker)) == 1


@pytest.mark.parametrize("shorts", [1, 100])
def test_a_long_task_never_delays_short_ones(desk, shorts):
    """One long task next to short ones on two workers."""
    driver = desk.driver()
    workers = desk.workers(desk.host(CPU=2))
    desk.teach(driver, workers[-1], run_us=20)
    (long,) = desk.submit(driver, function_id=LONG)
    busy = next(worker for worker in workers if long in desk.runs(worker))
    other = next(worker for worker in workers if worker is not busy)
    waiting = set(desk.submit(driver, shorts))
    while waiting:
        given = desk.runs(other)
        assert given, "a short task waits behind the long one"
        assert desk.runs(busy) == []
        desk.done(other, *given, run_us=20)
        waiting -= set(given)


# ------------------------------------------------------------------ handing back, blocking


def test_what_is_handed_back_goes_to_the_front(desk):
    _, worker, task_ids = prefetched(desk)
    desk.say(worker, m.Returned(task_ids[1:3]))
    assert desk.runs(worker) == []  # what it runs turned out long: nothing more until it is through
    desk.done(worker, task_ids[0], run_us=10)
    assert desk.runs(worker)[0] == task_ids[1]


def test_of_a_task_that_was_started_only_the_owner_keeps_the_payload(desk):
    driver, worker = one_worker(desk)
    (task_id,) = desk.submit(driver)
    assert desk.runs(worker) == [task_id]
    desk.say(worker, m.Started(task_id, 0))
    assert desk.take(driver) == [m.Started(task_id, 0)]
    assert desk.core.tasks[task_id].payload == b""
    desk.kill(worker, running=task_id)
    assert [type(message) for message in desk.take(driver)] == [m.Failed]
    assert desk.core.tasks == {}


def test_started_of_a_task_whose_owner_is_gone(desk):
    driver, worker = one_worker(desk)
    (task_id,) = desk.submit(driver)
    desk.lose(driver)
    desk.say(worker, m.Started(task_id, 0))
    assert desk.take(driver) == []


def test_another_worker_takes_what_was_handed_back(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    desk.teach(driver, worker, run_us=10)
    task_ids = desk.submit(driver, 5)
    given = desk.runs(worker)
    desk.say(worker, m.Returned(given[1:]), m.Blocked(True))
    assert desk.free == {"CPU": 1}
    assert desk.workers(host) == []  # what is lent is for what the task that waits has submitted
    desk.tick(1.1 * LENT_FOR_S)
    (another,) = desk.workers(host)
    first = desk.runs(another)
    assert first[0] == task_ids[1]
    assert desk.free == {"CPU": 0}
    desk.say(worker, m.Blocked(False))
    assert desk.free == {"CPU": -1}
    desk.done(worker, task_ids[0])
    desk.done(another, *first)
    assert desk.free["CPU"] >= 0


def test_a_blocked_worker_gets_nothing(desk):
    driver, worker = one_worker(desk)
    desk.teach(driver, worker, run_us=10)
    desk.submit(driver)
    desk.runs(worker)
    desk.say(worker, m.Blocked(True))
    desk.submit(driver, 10)
    assert desk.runs(worker) == []


def test_blocking_twice_is_blocking_once(desk):
    driver, worker = one_worker(desk)
    (task_id,) = desk.submit(driver)
    desk.say(worker, m.Blocked(True), m.Blocked(True))
    assert desk.free == {"CPU": 1}
    desk.say(worker, m.Blocked(False), m.Blocked(False))
    assert desk.free == {"CPU": 0}
    desk.done(worker, task_id)
    assert desk.free == {"CPU": 1}


def test_a_task_that_ends_while_it_blocks(desk):
    """A thread that it left behind waits on."""
    driver, worker = one_worker(desk)
    (task_id,) = desk.submit(driver)
    desk.say(worker, m.Blocked(True), m.Done(task_id, 0, 10, b"outcome"))
    assert desk.free == {"CPU": 1}
    (second,) = desk.submit(driver)
    desk.say(worker, m.Blocked(False))
    assert desk.free == {"CPU": 0}
    desk.done(worker, second)
    assert desk.free == {"CPU": 1}


def test_blocking_without_work(desk):
    """A thread that a task left behind blocks: its worker gets nothing meanwhile, and has nothing to lend."""
    driver, worker = one_worker(desk)
    desk.say(worker, m.Blocked(True))
    (task_id,) = desk.submit(driver)
    assert desk.runs(worker) == []
    desk.say(worker, m.Blocked(False))
    assert desk.free == {"CPU": 0}
    desk.done(worker, task_id)
    assert desk.free == {"CPU": 1}


def test_a_worker_that_dies_blocked(desk):
    driver, worker = one_worker(desk)
    (task_id,) = desk.submit(driver)
    desk.say(worker, m.Blocked(True))
    desk.kill(worker, task_id)
    assert desk.free == {"CPU": 1}


def test_nested_tasks_on_one_cpu(desk):
    """Each task submits one and waits for it, ten deep: never a deadlock, never two that run."""
    driver = desk.driver()
    host = desk.host(CPU=1)
    idle = desk.workers(host)
    owner, stack = driver, []
    for _ in range(10):
        (task_id,) = desk.submit(owner)
        idle += desk.workers(host)
        worker = next(worker for worker in idle if task_id in desk.runs(worker))
        idle.remove(worker)
        stack.append((worker, task_id))
        desk.say(worker, m.Blocked(True))
        owner = worker
    while stack:
        worker, task_id = stack.pop()
        desk.say(worker, m.Blocked(False))
        desk.done(worker, task_id)
    assert desk.free == {"CPU": 1}


# ------------------------------------------------------------------ cancelling


def test_cancelling_what_is_queued(desk):
    driver, worker = one_worker(desk)
    first, second, third = desk.submit(driver, 3)
    desk.runs(worker)
    desk.say(driver, m.Cancel(second, 0))
    (failed,) = desk.take(driver)
    assert (failed.task_id, failed.kind) == (second, "TaskCancelledError")
    desk.done(worker, first, run_us=10**6)
    assert desk.runs(worker) == [third]


@pytest.mark.parametrize("seconds", [0.0, 0.1, 4.0])
def test_one_task_after_the_other(desk, seconds):
    """Also when nobody waited while the host got room, and whether the line is remembered or not."""
    driver, worker = one_worker(desk)
    for _ in range(5):
        (task_id,) = desk.submit(driver, 1)
        assert desk.runs(worker) == [task_id]
        desk.done(worker, task_id)
        desk.tick(seconds)


def test_cancelling_all_that_is_queued(desk):
    driver, worker = one_worker(desk)
    task_ids = desk.submit(driver, 3)
    desk.runs(worker)
    desk.say(driver, *[m.Cancel(task_id, 0) for task_id in task_ids[1:]])
    desk.done(worker, task_ids[0])
    desk.tick(10)  # until then it is remembered what the line has used
    assert desk.core.scheduler.queues == {}
    assert desk.free == {"CPU": 1}


def test_cancelling_what_runs(desk):
    driver, worker = one_worker(desk)
    (task_id,) = desk.submit(driver)
    desk.take(worker)
    desk.say(driver, m.Cancel(task_id, m.CANCEL_RECURSIVE))
    assert desk.take(worker) == [m.CancelTask(task_id, m.CANCEL_RECURSIVE)]
    desk.say(worker, m.Done(task_id, 0, 0, b""))
    assert desk.take(driver) == [m.Result(task_id, 0, worker, b"", b"")]


def forced(desk):
    """A driver, its host, and the only worker, which runs a task that is to be killed."""
    driver = desk.driver()
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    (task_id,) = desk.submit(driver)
    assert desk.runs(worker) == [task_id]
    desk.say(driver, m.Cancel(task_id, m.CANCEL_FORCE | m.CANCEL_RECURSIVE))
    return driver, host, worker, task_id


def killed(desk, host):
    """The workers that a host was told to kill since the last look."""
    return [message.worker_id for message in desk.take(host, m.KillWorker)]


def test_by_force_when_the_worker_has_cancelled_what_the_task_has_submitted(desk):
    driver, host, worker, task_id = forced(desk)
    assert desk.take(worker) == [m.CancelTask(task_id, m.CANCEL_FORCE | m.CANCEL_RECURSIVE)]
    assert killed(desk, host) == []
    desk.say(worker, m.Killable(task_id))
    assert killed(desk, host) == [worker]
    desk.kill(worker, task_id)
    assert [message.kind for message in desk.take(driver, m.Failed)] == ["WorkerCrashedError"]
    desk.tick(5)
    assert killed(desk, host) == []


def test_by_force_when_the_worker_does_not_answer(desk):
    _, host, worker, _ = forced(desk)
    desk.tick(0.9)
    assert killed(desk, host) == []
    desk.tick(0.2)
    assert killed(desk, host) == [worker]
    desk.tick(5)
    assert killed(desk, host) == []


def test_by_force_twice(desk):
    driver, host, worker, task_id = forced(desk)
    desk.tick(0.9)
    desk.say(driver, m.Cancel(task_id, m.CANCEL_FORCE))
    desk.tick(0.2)
    assert killed(desk, host) == [worker]


@pytest.mark.parametrize("answer", [b"outcome", b""])
def test_a_task_that_ends_before_it_is_killed(desk, answer):
    """Its worker lives, and the next task on it is not hit."""
    driver, host, worker, task_id = forced(desk)
    desk.say(worker, m.Done(task_id, 0, 50, answer))
    (behind,) = desk.submit(driver)
    assert behind in desk.runs(worker)
    desk.say(worker, m.Killable(task_id))
    desk.tick(5)
    assert killed(desk, host) == []


def test_a_worker_with_a_task_to_be_killed_gets_no_other(desk):
    driver, _, worker, _ = forced(desk)
    desk.submit(driver, 50)
    assert desk.runs(worker) == []


def test_by_force_with_others_behind(desk):
    driver, worker, task_ids = prefetched(desk)
    desk.say(driver, m.Cancel(task_ids[0], m.CANCEL_FORCE))
    desk.say(worker, m.Returned(task_ids[1:]), m.Killable(task_ids[0]))
    assert killed(desk, b"host".ljust(16, b"\0")) == [worker]
    desk.kill(worker, task_ids[0])
    assert [message.task_id for message in desk.take(driver, m.Failed)] == [task_ids[0]]


def test_a_worker_that_speaks_of_what_nobody_cancels(desk):
    driver, worker = one_worker(desk)
    (task_id,) = desk.submit(driver)
    desk.say(worker, m.Killable(task_id))
    assert killed(desk, b"host".ljust(16, b"\0")) == []


def test_an_owner_that_dies_while_its_task_is_to_be_killed(desk):
    driver, host, worker, task_id = forced(desk)
    desk.lose(driver)
    desk.say(worker, m.Killable(task_id))
    assert worker in killed(desk, host)
    desk.kill(worker, task_id)
    assert desk.free == {"CPU": 1}


def test_a_cancellation_that_crosses_with_a_hand_back(desk):
    driver, worker, task_ids = prefetched(desk)
    desk.say(driver, m.Cancel(task_ids[1], 0))
    desk.say(worker, m.Returned([task_ids[1]]))
    assert [message.kind for message in desk.take(driver, m.Failed)] == ["TaskCancelledError"]
    desk.done(worker, task_ids[0])
    assert task_ids[1] not in desk.runs(worker)


def test_only_the_owner_cancels(desk):
    driver, worker = one_worker(desk)
    other = desk.driver("other")
    (task_id,) = desk.submit(driver)
    desk.take(worker)
    desk.say(other, m.Cancel(task_id, m.CANCEL_FORCE))
    assert desk.take(worker) == []
