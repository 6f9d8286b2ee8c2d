"""Workers come, go and die; and a random history in which everything ends and the balance is right."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.broker.desk import NO_CPU, ONE_CPU, Desk, one_worker, prefetched, shape
from zray.broker.scheduler import MAX_STARTING_PER_HOST
from zray.broker.states import IDLE, PROBED, RETIRED
from zray.protocol import messages as m

LONG = b"long".ljust(16, b"\0")


@pytest.fixture
def desk() -> Desk:
    return Desk()


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


def probes(desk):
    """Who is asked to go now, and whether there are too many."""
    asked = {worker: desk.take(worker, m.ExitIfIdle) for worker in desk.core.scheduler.workers}
    return {worker: messages[0].surplus for worker, messages in asked.items() if messages}


def three_idle_workers_on_one_cpu(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    desk.workers(host)
    desk.submit(driver, 3, NO_CPU)
    workers = list(dict.fromkeys([*desk.workers(host), *desk.core.scheduler.workers]))
    for worker in workers:
        desk.done(worker, *desk.runs(worker))
    assert len(workers) == 3
    return driver, desk.core.scheduler.workers


def test_idle_workers_are_asked_to_go(desk):
    _, states = three_idle_workers_on_one_cpu(desk)
    desk.tick(4)
    assert probes(desk) == {}
    desk.tick(2)
    asked = probes(desk)
    assert sorted(asked.values()) == [False, True, True]
    first, second, third = sorted(asked, key=lambda worker: not asked[worker])
    assert states[first].state == PROBED
    desk.say(first, m.Staying(True))
    assert states[first].state == IDLE
    desk.say(second, m.Leaving("it was idle"))
    assert states[second].state == RETIRED
    desk.say(third, m.Leaving("it was idle"))
    assert states[third].state == RETIRED


def test_one_that_is_killed_while_it_is_asked_gets_no_more_work(desk):
    driver, states = three_idle_workers_on_one_cpu(desk)
    desk.tick(6)
    for worker in probes(desk):
        desk.core.expel(worker, "it does harm", desk.now)
        desk.say(worker, m.Staying(False))
        assert states[worker].state is RETIRED
    desk.submit(driver, 1, NO_CPU)
    assert not any(desk.runs(worker) for worker in states)


def test_one_that_stays_is_asked_again_when_it_is_one_too_many_or_has_worked(desk):
    driver, states = three_idle_workers_on_one_cpu(desk)
    desk.tick(6)
    for worker in probes(desk):
        desk.say(worker, m.Staying(False))
    desk.tick(4)
    assert probes(desk) == {}, "it has only just answered"
    desk.tick(2)
    asked = probes(desk)
    assert list(asked.values()) == [True, True]
    for worker in asked:
        desk.say(worker, m.Leaving("it was idle"))
    (left,) = [worker for worker in states if states[worker].state == IDLE]
    desk.tick(20)
    assert probes(desk) == {}
    desk.submit(driver, 1, NO_CPU)
    desk.done(left, *desk.runs(left))
    desk.tick(6)
    assert probes(desk) == {left: False}


def test_one_that_is_busy_is_asked_less_and_less_often(desk):
    driver, worker = one_worker(desk)
    desk.submit(driver)
    desk.done(worker, *desk.runs(worker))
    waits: list[float] = []
    waited = 0
    while len(waits) < 9:
        desk.tick(1)
        waited += 1
        if probes(desk):
            desk.say(worker, m.Staying(True))
            waits.append(waited)
            waited = 0
    assert waits == [5, 10, 20, 40, 80, 160, 320, 320, 320]
    desk.submit(driver)
    desk.done(worker, *desk.runs(worker))
    desk.tick(5)
    assert probes(desk) == {worker: False}


def test_a_worker_that_was_probed_gets_no_work(desk):
    desk = Desk(idle_timeout_s=0.0)
    driver = desk.driver()
    host = desk.host(CPU=1)
    first = desk.workers(host)
    desk.submit(driver, 2, NO_CPU)
    workers = [*first, *desk.workers(host)]
    for worker in workers:
        desk.done(worker, *desk.runs(worker))
    desk.tick(1)
    probed, other = [worker for worker in workers if desk.take(worker, m.ExitIfIdle)]
    desk.say(other, m.Leaving("it was idle"))
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
    desk = Desk(idle_timeout_s=1.0)
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
        live = [worker for worker in at if worker in desk.core.processes]
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
    desk.tick(10)
    assert desk.core.scheduler.queues == {}
    for each in desk.core.scheduler.hosts.values():
        assert each.pool.free == each.pool.total
