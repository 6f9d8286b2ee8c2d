"""The scheduler: which worker gets which envelopes, when, and how many."""

from __future__ import annotations

import pytest

from tests.unit.broker.harness import FUNCTION, ONE_CPU, BrokerHarness, one_worker, prefetched, shape
from zray.broker.dispatch import CREDIT_US, MAX_CREDIT
from zray.broker.records import LENT_FOR_S
from zray.ids import make_task_id
from zray.protocol import messages as m
from zray.protocol.records import JobSettings

LONG = b"long".ljust(16, b"\0")


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


# ------------------------------------------------------------------ one task


def test_a_task_and_its_result(broker):
    driver, worker = one_worker(broker)
    (task_id,) = broker.submit(driver)
    config, run = broker.take(worker)
    assert config == m.JobConfig(b"\0\0\0\1", JobSettings(namespace="driver"))
    assert run == m.Run(task_id, 0, FUNCTION, ONE_CPU, [], b"payload")
    assert broker.free == {"CPU": 0}
    broker.done(worker, task_id)
    assert broker.take(driver) == [m.Result(task_id, 0, worker, b"", b"outcome")]
    assert broker.free == {"CPU": 1}
    assert broker.tasks == {}


def test_a_task_that_is_sent_twice_runs_once(broker):
    driver, worker = one_worker(broker)
    submit = m.Submit(make_task_id(driver, 1), 0, LONG, ONE_CPU, 0, b"", b"")
    broker.say(driver, submit, submit)
    assert len(broker.runs(worker)) == 1
    broker.done(worker, submit.task_id)
    assert broker.runs(worker) == []


def test_a_task_of_another_process(broker):
    driver, worker = one_worker(broker)
    with pytest.raises(m.ProtocolError):
        broker.say(driver, m.Submit(make_task_id(worker, 1), 0, LONG, ONE_CPU, 0, b"", b""))


@pytest.mark.parametrize("key", [b"", b"\xc1", b"\x05"])
def test_a_malformed_shape(broker, key):
    driver, _ = one_worker(broker)
    with pytest.raises(m.ProtocolError):
        broker.say(driver, m.Submit(make_task_id(driver, 1), 0, LONG, key, 0, b"", b""))
    assert broker.tasks == {}


def test_the_outcome_of_an_unknown_task(broker):
    driver, worker = one_worker(broker)
    broker.done(worker, make_task_id(driver, 1))
    assert broker.take(driver) == []


def test_tasks_get_the_indices_of_their_gpus(broker):
    driver = broker.driver()
    host = broker.host(CPU=2, GPU=2)
    workers = broker.workers(host)
    broker.submit(driver, 2, shape(CPU=1, GPU=1))
    assert sorted(run.gpus for worker in workers for run in broker.take(worker, m.Run)) == [[0], [1]]


def test_tasks_of_one_shape_run_in_order(broker):
    driver, worker = one_worker(broker)
    task_ids = broker.submit(driver, 5, retryable=False)
    seen = []
    for _ in task_ids:
        (task_id,) = broker.runs(worker)
        seen.append(task_id)
        broker.done(worker, task_id, run_us=10**6)
    assert seen == task_ids


def test_a_shape_that_waits_does_not_hold_up_another(broker):
    driver, worker = one_worker(broker)
    broker.submit(driver, shape=shape(CPU=1, special=1))
    (task_id,) = broker.submit(driver)
    assert broker.runs(worker) == [task_id]


# ------------------------------------------------------------------ credit


def test_no_prefetch_of_unknown_functions(broker):
    driver, worker = one_worker(broker)
    broker.submit(driver, 10)
    assert len(broker.runs(worker)) == 1


def test_no_prefetch_behind_long_ones(broker):
    driver, worker = one_worker(broker)
    broker.teach(driver, worker, run_us=CREDIT_US)
    broker.submit(driver, 10)
    assert len(broker.runs(worker)) == 1


def test_prefetch_of_short_ones(broker):
    driver, worker = one_worker(broker)
    broker.teach(driver, worker, run_us=CREDIT_US // 10)
    broker.submit(driver, 100)
    assert len(broker.runs(worker)) == 10


def test_there_is_a_limit_to_credit(broker):
    driver, worker = one_worker(broker)
    broker.teach(driver, worker, run_us=1)
    broker.submit(driver, 10_000)
    assert 1 < len(broker.runs(worker)) <= MAX_CREDIT


def test_tasks_that_may_run_only_once_are_never_prefetched(broker):
    driver, worker = one_worker(broker)
    broker.teach(driver, worker, run_us=10)
    broker.submit(driver, 10, retryable=False)
    assert len(broker.runs(worker)) == 1


def test_nothing_is_prefetched_behind_a_task_that_may_run_only_once(broker):
    driver, worker = one_worker(broker)
    broker.teach(driver, worker, run_us=10)
    (first,) = broker.submit(driver, retryable=False)
    broker.submit(driver, 10)
    assert broker.runs(worker) == [first]


def test_credit_is_filled_up(broker):
    driver, worker = one_worker(broker)
    broker.teach(driver, worker, run_us=CREDIT_US // 10)
    broker.submit(driver, 100)
    first = broker.runs(worker)
    broker.done(worker, *first[:4], run_us=CREDIT_US // 10)
    assert len(broker.runs(worker)) == 4


def test_a_backlog_is_shared_out(broker):
    driver = broker.driver()
    workers = broker.workers(broker.host(CPU=4))
    broker.teach(driver, next(w for w in workers[::-1]), run_us=10)
    broker.submit(driver, 16)
    given = [len(broker.runs(worker)) for worker in workers]
    assert min(given) >= 1
    assert max(given) <= 4


def test_an_estimate_goes_up_at_once_and_down_slowly(broker):
    driver, worker = one_worker(broker)
    for _ in range(3):
        broker.teach(driver, worker, run_us=10)
    broker.teach(driver, worker, run_us=CREDIT_US)
    broker.submit(driver, 10)
    assert len(broker.runs(worker)) == 1


@pytest.mark.parametrize("shorts", [1, 100])
def test_a_long_task_never_delays_short_ones(broker, shorts):
    """One long task runs next to short ones on two workers."""
    driver = broker.driver()
    workers = broker.workers(broker.host(CPU=2))
    broker.teach(driver, workers[-1], run_us=20)
    (long,) = broker.submit(driver, function_id=LONG)
    busy = next(worker for worker in workers if long in broker.runs(worker))
    other = next(worker for worker in workers if worker is not busy)
    waiting = set(broker.submit(driver, shorts))
    while waiting:
        given = broker.runs(other)
        assert given, "a short task waits behind the long one"
        assert broker.runs(busy) == []
        broker.done(other, *given, run_us=20)
        waiting -= set(given)


# ------------------------------------------------------------------ handing back, blocking


def test_handed_back_tasks_go_to_the_front(broker):
    _, worker, task_ids = prefetched(broker)
    broker.say(worker, m.Returned(task_ids[1:3]))
    assert broker.runs(worker) == []  # its task turned out long: it gets no more until that has ended
    broker.done(worker, task_ids[0], run_us=10)
    assert broker.runs(worker)[0] == task_ids[1]


def test_only_the_owner_keeps_the_payload_of_a_started_task(broker):
    driver, worker = one_worker(broker)
    (task_id,) = broker.submit(driver)
    assert broker.runs(worker) == [task_id]
    broker.say(worker, m.Started(task_id, 0))
    assert broker.take(driver) == [m.Started(task_id, 0)]
    assert broker.tasks[task_id].payload == b""
    broker.kill(worker, running=task_id)
    assert [type(message) for message in broker.take(driver)] == [m.Failed]
    assert broker.tasks == {}


def test_started_of_a_task_whose_owner_is_gone(broker):
    driver, worker = one_worker(broker)
    (task_id,) = broker.submit(driver)
    broker.lose(driver)
    broker.say(worker, m.Started(task_id, 0))
    assert broker.take(driver) == []


def test_another_worker_takes_handed_back_tasks(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    (worker,) = broker.workers(host)
    broker.teach(driver, worker, run_us=10)
    task_ids = broker.submit(driver, 5)
    given = broker.runs(worker)
    broker.say(worker, m.Returned(given[1:]), m.Blocked(True))
    assert broker.free == {"CPU": 1}
    assert broker.workers(host) == []  # the lent CPU is kept for tasks that the waiting task has submitted
    broker.tick(1.1 * LENT_FOR_S)
    (another,) = broker.workers(host)
    first = broker.runs(another)
    assert first[0] == task_ids[1]
    assert broker.free == {"CPU": 0}
    broker.say(worker, m.Blocked(False))
    assert broker.free == {"CPU": -1}
    broker.done(worker, task_ids[0])
    broker.done(another, *first)
    assert broker.free["CPU"] >= 0


def test_a_blocked_worker_gets_nothing(broker):
    driver, worker = one_worker(broker)
    broker.teach(driver, worker, run_us=10)
    broker.submit(driver)
    broker.runs(worker)
    broker.say(worker, m.Blocked(True))
    broker.submit(driver, 10)
    assert broker.runs(worker) == []


def test_blocking_twice_is_blocking_once(broker):
    driver, worker = one_worker(broker)
    (task_id,) = broker.submit(driver)
    broker.say(worker, m.Blocked(True), m.Blocked(True))
    assert broker.free == {"CPU": 1}
    broker.say(worker, m.Blocked(False), m.Blocked(False))
    assert broker.free == {"CPU": 0}
    broker.done(worker, task_id)
    assert broker.free == {"CPU": 1}


def test_a_task_that_ends_while_it_blocks(broker):
    """A thread that the task left behind goes on waiting."""
    driver, worker = one_worker(broker)
    (task_id,) = broker.submit(driver)
    broker.say(worker, m.Blocked(True), m.Done(task_id, 0, 10, b"outcome"))
    assert broker.free == {"CPU": 1}
    (second,) = broker.submit(driver)
    broker.say(worker, m.Blocked(False))
    assert broker.free == {"CPU": 0}
    broker.done(worker, second)
    assert broker.free == {"CPU": 1}


def test_blocking_without_work(broker):
    """A thread that a task left behind blocks: its worker gets no task meanwhile, and has nothing to lend."""
    driver, worker = one_worker(broker)
    broker.say(worker, m.Blocked(True))
    (task_id,) = broker.submit(driver)
    assert broker.runs(worker) == []
    broker.say(worker, m.Blocked(False))
    assert broker.free == {"CPU": 0}
    broker.done(worker, task_id)
    assert broker.free == {"CPU": 1}


def test_a_worker_that_dies_blocked(broker):
    driver, worker = one_worker(broker)
    (task_id,) = broker.submit(driver)
    broker.say(worker, m.Blocked(True))
    broker.kill(worker, task_id)
    assert broker.free == {"CPU": 1}


def test_nested_tasks_on_one_cpu(broker):
    """Each task submits one and waits for it, ten levels deep: no deadlock, and never two running tasks."""
    driver = broker.driver()
    host = broker.host(CPU=1)
    idle = broker.workers(host)
    owner, stack = driver, []
    for _ in range(10):
        (task_id,) = broker.submit(owner)
        idle += broker.workers(host)
        worker = next(worker for worker in idle if task_id in broker.runs(worker))
        idle.remove(worker)
        stack.append((worker, task_id))
        broker.say(worker, m.Blocked(True))
        owner = worker
    while stack:
        worker, task_id = stack.pop()
        broker.say(worker, m.Blocked(False))
        broker.done(worker, task_id)
    assert broker.free == {"CPU": 1}


# ------------------------------------------------------------------ cancelling


def test_cancelling_a_queued_task(broker):
    driver, worker = one_worker(broker)
    first, second, third = broker.submit(driver, 3)
    broker.runs(worker)
    broker.say(driver, m.Cancel(second, 0))
    (failed,) = broker.take(driver)
    assert (failed.task_id, failed.kind) == (second, "TaskCancelledError")
    broker.done(worker, first, run_us=10**6)
    assert broker.runs(worker) == [third]


@pytest.mark.parametrize("seconds", [0.0, 0.1, 4.0])
def test_one_task_after_the_other(broker, seconds):
    """Also if the line was empty while the host got room, and whether the line was removed or not."""
    driver, worker = one_worker(broker)
    for _ in range(5):
        (task_id,) = broker.submit(driver, 1)
        assert broker.runs(worker) == [task_id]
        broker.done(worker, task_id)
        broker.tick(seconds)


def test_cancelling_all_queued_tasks(broker):
    driver, worker = one_worker(broker)
    task_ids = broker.submit(driver, 3)
    broker.runs(worker)
    broker.say(driver, *[m.Cancel(task_id, 0) for task_id in task_ids[1:]])
    broker.done(worker, task_ids[0])
    broker.tick(10)  # until then the line's account is kept
    assert broker.core.lines.queues == {}
    assert broker.free == {"CPU": 1}


def test_cancelling_a_running_task(broker):
    driver, worker = one_worker(broker)
    (task_id,) = broker.submit(driver)
    broker.take(worker)
    broker.say(driver, m.Cancel(task_id, m.CANCEL_RECURSIVE))
    assert broker.take(worker) == [m.CancelTask(task_id, m.CANCEL_RECURSIVE)]
    broker.say(worker, m.Done(task_id, 0, 0, b""))
    assert broker.take(driver) == [m.Result(task_id, 0, worker, b"", b"")]


def forced(broker):
    """A driver, its host, and the only worker, whose task was cancelled by force."""
    driver = broker.driver()
    host = broker.host(CPU=1)
    (worker,) = broker.workers(host)
    (task_id,) = broker.submit(driver)
    assert broker.runs(worker) == [task_id]
    broker.say(driver, m.Cancel(task_id, m.CANCEL_FORCE | m.CANCEL_RECURSIVE))
    return driver, host, worker, task_id


def killed(broker, host):
    """The workers that a host was told to kill since the last call."""
    return [message.worker_id for message in broker.take(host, m.KillWorker)]


def test_by_force_after_the_worker_has_cancelled_nested_tasks(broker):
    driver, host, worker, task_id = forced(broker)
    assert broker.take(worker) == [m.CancelTask(task_id, m.CANCEL_FORCE | m.CANCEL_RECURSIVE)]
    assert killed(broker, host) == []
    broker.say(worker, m.Killable(task_id))
    assert killed(broker, host) == [worker]
    broker.kill(worker, task_id)
    assert [message.kind for message in broker.take(driver, m.Failed)] == ["WorkerCrashedError"]
    broker.tick(5)
    assert killed(broker, host) == []


def test_by_force_when_the_worker_does_not_answer(broker):
    _, host, worker, _ = forced(broker)
    broker.tick(0.9)
    assert killed(broker, host) == []
    broker.tick(0.2)
    assert killed(broker, host) == [worker]
    broker.tick(5)
    assert killed(broker, host) == []


def test_by_force_twice(broker):
    driver, host, worker, task_id = forced(broker)
    broker.tick(0.9)
    broker.say(driver, m.Cancel(task_id, m.CANCEL_FORCE))
    broker.tick(0.2)
    assert killed(broker, host) == [worker]


@pytest.mark.parametrize("answer", [b"outcome", b""])
def test_a_task_that_ends_before_it_is_killed(broker, answer):
    """The worker lives, and its next task is not affected."""
    driver, host, worker, task_id = forced(broker)
    broker.say(worker, m.Done(task_id, 0, 50, answer))
    (behind,) = broker.submit(driver)
    assert behind in broker.runs(worker)
    broker.say(worker, m.Killable(task_id))
    broker.tick(5)
    assert killed(broker, host) == []


def test_a_worker_with_a_task_to_be_killed_gets_no_other(broker):
    driver, _, worker, _ = forced(broker)
    broker.submit(driver, 50)
    assert broker.runs(worker) == []


def test_by_force_with_others_behind(broker):
    driver, worker, task_ids = prefetched(broker)
    broker.say(driver, m.Cancel(task_ids[0], m.CANCEL_FORCE))
    broker.say(worker, m.Returned(task_ids[1:]), m.Killable(task_ids[0]))
    assert killed(broker, b"host".ljust(16, b"\0")) == [worker]
    broker.kill(worker, task_ids[0])
    assert [message.task_id for message in broker.take(driver, m.Failed)] == [task_ids[0]]


def test_killable_for_a_task_that_is_not_cancelled(broker):
    driver, worker = one_worker(broker)
    (task_id,) = broker.submit(driver)
    broker.say(worker, m.Killable(task_id))
    assert killed(broker, b"host".ljust(16, b"\0")) == []


def test_an_owner_that_dies_while_its_task_is_to_be_killed(broker):
    driver, host, worker, task_id = forced(broker)
    broker.lose(driver)
    broker.say(worker, m.Killable(task_id))
    assert worker in killed(broker, host)
    broker.kill(worker, task_id)
    assert broker.free == {"CPU": 1}


def test_a_cancellation_that_crosses_with_a_hand_back(broker):
    driver, worker, task_ids = prefetched(broker)
    broker.say(driver, m.Cancel(task_ids[1], 0))
    broker.say(worker, m.Returned([task_ids[1]]))
    assert [message.kind for message in broker.take(driver, m.Failed)] == ["TaskCancelledError"]
    broker.done(worker, task_ids[0])
    assert task_ids[1] not in broker.runs(worker)


def test_only_the_owner_cancels(broker):
    driver, worker = one_worker(broker)
    other = broker.driver("other")
    (task_id,) = broker.submit(driver)
    broker.take(worker)
    broker.say(other, m.Cancel(task_id, m.CANCEL_FORCE))
    assert broker.take(worker) == []
