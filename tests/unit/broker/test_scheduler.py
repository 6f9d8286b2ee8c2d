"""Placement: who gets which envelope, when, and how many of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.broker.desk import NO_CPU, ONE_CPU, Desk, shape
from zray.broker.records import IDLE, PROBED, RETIRED
from zray.broker.scheduler import CREDIT_US, MAX_CREDIT, MAX_STARTING_PER_HOST
from zray.ids import make_task_id
from zray.protocol import messages as m

LONG = b"long".ljust(16, b"\0")


@pytest.fixture
def desk() -> Desk:
    return Desk()


def one_worker(desk: Desk) -> tuple[bytes, bytes]:
    """A driver, and the only worker of the only CPU."""
    driver = desk.driver()
    (worker,) = desk.workers(desk.host(CPU=1))
    return driver, worker


# ------------------------------------------------------------------ one task


def test_a_task_and_its_result(desk):
    driver, worker = one_worker(desk)
    (task_id,) = desk.submit(driver)
    config, run = desk.take(worker)
    assert config == m.JobConfig(b"\0\0\0\1", {"name": "driver"})
    assert run == m.Run(task_id, 0, b"function".ljust(16, b"\0"), ONE_CPU, [], b"payload")
    assert desk.free == {"CPU": 0}
    desk.done(worker, task_id)
    assert desk.take(driver) == [m.Result(task_id, 0, worker, b"outcome")]
    assert desk.free == {"CPU": 1}
    assert desk.core.tasks == {}


def test_a_task_that_is_sent_twice_runs_once(desk):
    driver, worker = one_worker(desk)
    submit = m.Submit(make_task_id(driver, 1), 0, LONG, ONE_CPU, 0, b"")
    desk.say(driver, submit, submit)
    assert len(desk.runs(worker)) == 1
    desk.done(worker, submit.task_id)
    assert desk.runs(worker) == []


def test_a_task_of_somebody_else(desk):
    driver, worker = one_worker(desk)
    with pytest.raises(m.ProtocolError):
        desk.say(driver, m.Submit(make_task_id(worker, 1), 0, LONG, ONE_CPU, 0, b""))


@pytest.mark.parametrize("key", [b"", b"\xc1", b"\x05"])
def test_a_malformed_shape(desk, key):
    driver, _ = one_worker(desk)
    with pytest.raises(m.ProtocolError):
        desk.say(driver, m.Submit(make_task_id(driver, 1), 0, LONG, key, 0, b""))
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


def prefetched(desk: Desk, count: int = 5) -> tuple[bytes, bytes, list[bytes]]:
    driver, worker = one_worker(desk)
    desk.teach(driver, worker, run_us=10)
    # Shares are half of the backlog per CPU: twice as many are needed for one worker to get so many.
    task_ids = desk.submit(driver, count)
    given = desk.runs(worker)
    assert len(given) > 1
    assert given == task_ids[: len(given)]
    return driver, worker, task_ids


def test_what_is_handed_back_goes_to_the_front(desk):
    _, worker, task_ids = prefetched(desk)
    desk.say(worker, m.Returned(task_ids[1:3]))
    assert desk.runs(worker) == []  # what it runs turned out long: nothing more until it is through
    desk.done(worker, task_ids[0], run_us=10)
    assert desk.runs(worker)[0] == task_ids[1]


def test_another_worker_takes_what_was_handed_back(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    desk.teach(driver, worker, run_us=10)
    task_ids = desk.submit(driver, 5)
    given = desk.runs(worker)
    desk.say(worker, m.Returned(given[1:]), m.Blocked(True))
    assert desk.free == {"CPU": 1}
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


def test_cancelling_all_that_is_queued(desk):
    driver, worker = one_worker(desk)
    task_ids = desk.submit(driver, 3)
    desk.runs(worker)
    desk.say(driver, *[m.Cancel(task_id, 0) for task_id in task_ids[1:]])
    desk.done(worker, task_ids[0])
    assert desk.core.scheduler.queues == {}
    assert desk.free == {"CPU": 1}


def test_cancelling_what_runs(desk):
    driver, worker = one_worker(desk)
    (task_id,) = desk.submit(driver)
    desk.take(worker)
    desk.say(driver, m.Cancel(task_id, m.CANCEL_RECURSIVE))
    assert desk.take(worker) == [m.CancelTask(task_id, m.CANCEL_RECURSIVE)]
    desk.say(worker, m.Done(task_id, 0, 0, b""))
    assert desk.take(driver) == [m.Result(task_id, 0, worker, b"")]


def test_cancelling_by_force(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    (task_id,) = desk.submit(driver)
    desk.say(driver, m.Cancel(task_id, m.CANCEL_FORCE))
    (kill,) = desk.take(host)
    assert (type(kill), kill.worker_id) == (m.KillWorker, worker)


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


# ------------------------------------------------------------------ workers come and go


def test_a_worker_per_cpu_at_the_start(desk):
    assert len(desk.take(desk.host(CPU=3), m.StartWorker)) == 3


def test_workers_are_started_for_what_waits_and_fits(desk):
    driver = desk.driver()
    host = desk.host(CPU=2)
    desk.workers(host)
    desk.submit(driver, 20, shape(CPU=0.25))
    assert len(desk.take(host, m.StartWorker)) == 6


def test_starting_workers_are_counted(desk):
    driver = desk.driver()
    host = desk.host(CPU=2)
    desk.take(host)
    for _ in range(5):
        desk.submit(driver)
    assert desk.take(host, m.StartWorker) == []


def test_so_many_are_started_at_once(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    desk.workers(host)
    desk.submit(driver, 500, NO_CPU)
    assert len(desk.take(host, m.StartWorker)) == MAX_STARTING_PER_HOST


def test_a_worker_that_could_not_be_started_is_replaced(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    (start,) = desk.take(host)
    desk.submit(driver)
    desk.say(host, m.WorkerDied(start.worker_id, b"", "WorkerCrashedError", "no more processes"))
    (worker,) = desk.workers(host)
    assert len(desk.runs(worker)) == 1


def test_workers_are_used_again_by_their_job_only(desk):
    host = desk.host(CPU=1)
    one, two = desk.driver("one"), desk.driver("two")
    (worker,) = desk.workers(host)
    (task_id,) = desk.submit(one)
    desk.done(worker, task_id)
    desk.take(worker)
    desk.submit(two)
    assert desk.runs(worker) == []
    (another,) = desk.workers(host)
    assert len(desk.runs(another)) == 1
    assert desk.core.scheduler.workers[another].job_id != desk.core.scheduler.workers[worker].job_id


def test_spare_workers_are_asked_to_go(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    desk.workers(host)
    task_ids = desk.submit(driver, 3, NO_CPU)
    workers = desk.workers(host) + list(desk.core.scheduler.workers)
    for worker in dict.fromkeys(workers):
        desk.done(worker, *desk.runs(worker))
    assert len(task_ids) == 3
    desk.tick(4)
    probed = [worker for worker in desk.core.scheduler.workers if desk.take(worker, m.ExitIfIdle)]
    assert probed == []
    desk.tick(2)
    probed = [worker for worker in desk.core.scheduler.workers if desk.take(worker, m.ExitIfIdle)]
    assert len(probed) == len(desk.core.scheduler.workers) - 1
    states = desk.core.scheduler.workers
    assert states[probed[0]].state == PROBED
    desk.say(probed[0], m.Staying(True))
    assert states[probed[0]].state == IDLE
    desk.say(probed[1], m.Leaving("it was idle"))
    assert states[probed[1]].state == RETIRED


def test_a_worker_that_was_probed_gets_no_work(desk):
    desk = Desk(idle_worker_s=0.0)
    driver = desk.driver()
    host = desk.host(CPU=1)
    first = desk.workers(host)
    desk.submit(driver, 2, NO_CPU)
    workers = [*first, *desk.workers(host)]
    for worker in workers:
        desk.done(worker, *desk.runs(worker))
    desk.tick(1)
    (probed,) = [worker for worker in workers if desk.take(worker, m.ExitIfIdle)]
    desk.submit(driver, 2, NO_CPU, LONG)
    assert desk.runs(probed) == []
    desk.say(probed, m.Staying(False))
    assert len(desk.runs(probed)) == 1


def test_a_worker_that_retires_finishes_what_it_runs(desk):
    driver, worker = one_worker(desk)
    (task_id,) = desk.submit(driver)
    desk.runs(worker)
    desk.say(worker, m.Leaving("max_calls"))
    desk.submit(driver)
    assert desk.runs(worker) == []
    desk.done(worker, task_id)
    assert desk.runs(worker) == []
    assert desk.core.scheduler.workers[worker].state == RETIRED
    assert desk.take(driver, m.Result)


def test_a_worker_that_retires_hands_back_what_crossed_with_it(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    (task_id,) = desk.submit(driver)
    desk.say(worker, m.Leaving("it was idle"))
    desk.say(worker, m.Returned([task_id]))
    assert desk.core.scheduler.workers[worker].state == RETIRED
    (another,) = desk.workers(host)
    assert desk.runs(another) == [task_id]


# ------------------------------------------------------------------ deaths


def test_only_the_culprit_is_to_blame(desk):
    driver, worker, task_ids = prefetched(desk)
    given = list(desk.core.scheduler.workers[worker].outstanding)
    desk.kill(worker, given[0])
    failed = desk.take(driver, m.Failed)
    assert {message.task_id: message.culprit for message in failed} == {
        task_id: task_id == given[0] for task_id in given
    }
    assert {message.kind for message in failed} == {"WorkerCrashedError"}
    assert set(given) <= set(task_ids)


def test_all_are_suspects_when_a_host_dies(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    (task_id,) = desk.submit(driver)
    desk.lose(host)
    (failed,) = desk.take(driver, m.Failed)
    assert (failed.task_id, failed.kind, failed.culprit) == (task_id, "NodeDiedError", True)
    assert desk.core.scheduler.workers == {}
    assert "declared dead" in desk.core.may_join(worker, m.WORKER)


def test_what_a_dead_worker_says_is_not_heard(desk):
    driver, worker = one_worker(desk)
    (task_id,) = desk.submit(driver)
    desk.kill(worker, task_id)
    desk.take(driver)
    desk.done(worker, task_id)
    assert desk.take(driver) == []


def test_a_host_cannot_bury_the_workers_of_another(desk):
    driver, worker = one_worker(desk)
    other = desk.host("other", CPU=0)
    desk.submit(driver)
    desk.say(other, m.WorkerDied(worker, b"", "WorkerCrashedError", "murder"))
    assert worker in desk.core.scheduler.workers


def test_the_tasks_of_a_dead_owner_go(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    desk.submit(driver, 3)
    desk.take(host)
    desk.lose(driver)
    assert desk.core.tasks == {}
    assert {message.worker_id for message in desk.take(host, m.KillWorker)} == {worker}


def test_a_dead_owners_task_behind_somebody_elses(desk):
    """Only what nobody waits for any more is stopped."""
    driver = desk.driver()
    host = desk.host(CPU=2)
    first, second = desk.workers(host)
    desk.teach(driver, second, run_us=10)
    (parent,) = desk.submit(driver, function_id=LONG)
    owner = next(worker for worker in (first, second) if parent in desk.runs(worker))
    other = next(worker for worker in (first, second) if worker != owner)
    mine = desk.submit(driver, 1)
    desk.runs(other)
    desk.done(other, *mine, run_us=10)
    batch = desk.submit(driver, 4)
    given = desk.runs(other)
    theirs = desk.submit(owner, 6)
    desk.done(other, *given[:1], run_us=10)
    mixed = set(desk.core.scheduler.workers[other].outstanding)
    if not mixed & set(theirs) or not mixed & set(batch):
        pytest.skip("nothing was prefetched behind the driver's own")
    desk.take(host)
    desk.kill(owner, parent)
    assert desk.take(host, m.KillWorker) == []
    assert {message.task_id for message in desk.take(other, m.CancelTask)} <= set(theirs)


# ------------------------------------------------------------------ any history


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=True))
def test_everything_ends_and_the_balance_is_right(rng):
    """Random tasks, blocks, hand-backs, cancellations and deaths; invariants are checked at each step by the desk."""
    desk = Desk(idle_worker_s=1.0)
    drivers = [desk.driver("one"), desk.driver("two")]
    hosts = [desk.host("first", CPU=2, GPU=2), desk.host("second", CPU=1)]
    shapes = [ONE_CPU, NO_CPU, shape(CPU=0.5), shape(CPU=1, GPU=0.5)]
    at: dict[bytes, list[bytes]] = {}
    blocked: set[bytes] = set()
    submitted = 0
    for _ in range(rng.choice([20, 60, 150])):
        for host in hosts:
            desk.workers(host)
        for worker in list(desk.core.scheduler.workers):
            at.setdefault(worker, []).extend(desk.runs(worker))
        live = [worker for worker in at if worker in desk.core.scheduler.workers]
        worker = rng.choice(live) if live else b""
        work = at.get(worker, [])
        action = rng.choice(["submit", "done", "done", "back", "block", "unblock", "cancel", "die", "tick", "leave"])
        if action == "submit":
            desk.submit(rng.choice(drivers), rng.randrange(1, 6), rng.choice(shapes), retryable=rng.random() < 0.7)
            submitted += 1
        elif action == "done" and work and worker not in blocked:
            desk.done(worker, work.pop(0), run_us=rng.choice([10, 500, 10**6]))
        elif action == "back" and len(work) > 1:
            desk.say(worker, m.Returned([work.pop() for _ in range(len(work) - 1)]))
        elif action == "block" and work:
            desk.say(worker, m.Blocked(True))
            blocked.add(worker)
        elif action == "unblock" and worker in blocked:
            desk.say(worker, m.Blocked(False))
            blocked.discard(worker)
        elif action == "cancel" and desk.core.tasks:
            task_id = rng.choice(list(desk.core.tasks))
            desk.say(desk.core.tasks[task_id].owner, m.Cancel(task_id, 0))
        elif action == "die" and worker and rng.random() < 0.3:
            desk.kill(worker, work[0] if work else b"")
            del at[worker]
        elif action == "tick":
            desk.tick(0.5)
        elif action == "leave" and worker and not work and rng.random() < 0.2:
            desk.say(worker, m.Leaving("it was idle"))
    for _ in range(1000):
        for host in hosts:
            desk.workers(host)
        for worker in list(desk.core.scheduler.workers):
            if worker in blocked:
                blocked.discard(worker)
                desk.say(worker, m.Blocked(False))
            mine = at.pop(worker, []) + desk.runs(worker)
            if mine:
                desk.done(worker, *mine)
        if not desk.core.tasks:
            break
    assert desk.core.tasks == {}
    assert desk.core.scheduler.queues == {}
    for host in desk.core.scheduler.hosts.values():
        assert host.pool.free == host.pool.total
