"""Workers start, retire and die. In a random history, all tasks end and all resources are free afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.broker.harness import FUNCTION, NO_CPU, ONE_CPU, BrokerHarness, one_worker, prefetched, shape
from zray.broker.records import Envelope
from zray.broker.states import BUSY, IDLE, PROBED, RETIRED
from zray.broker.workers import MAX_STARTING_PER_HOST
from zray.ids import make_task_id
from zray.protocol import messages as m

LONG = b"long".ljust(16, b"\0")


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


# ------------------------------------------------------------------ workers start and retire


def test_a_worker_per_cpu_at_the_start(broker):
    assert len(broker.take(broker.host(CPU=3), m.StartWorker)) == 3


def test_workers_are_started_for_waiting_tasks_that_fit(broker):
    driver = broker.driver()
    host = broker.host(CPU=2)
    broker.workers(host)
    broker.submit(driver, 20, shape(CPU=0.25))
    assert len(broker.take(host, m.StartWorker)) == 6


def test_starting_workers_are_counted(broker):
    driver = broker.driver()
    host = broker.host(CPU=2)
    broker.take(host)
    for _ in range(5):
        broker.submit(driver)
    assert broker.take(host, m.StartWorker) == []


def test_the_number_of_starting_workers_is_limited(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    broker.workers(host)
    broker.submit(driver, 500, NO_CPU)
    assert len(broker.take(host, m.StartWorker)) == MAX_STARTING_PER_HOST


def test_a_worker_that_was_started_for_a_job_that_is_over_is_idle(broker):
    driver, other = broker.driver(), broker.driver("other")
    host = broker.host(CPU=1, slot=2)
    (parent,) = broker.workers(host)
    broker.submit(driver)
    nested, task = make_task_id(parent, 1), make_task_id(other, 1)
    for owner, task_id in ((parent, nested), (other, task)):  # both lines wait, so each has a worker started for it
        broker.core.receive(owner, m.Submit(task_id, 0, FUNCTION, shape(slot=1), 0, b"", b"payload"), broker.now)
    broker.turn()
    broker.say(driver, m.Goodbye("bye"))
    started = broker.workers(host)
    assert sorted(broker.runs(worker) for worker in started) == [[], [task]]
    states = [broker.core.workers.workers[worker].state for worker in started]
    assert sorted(states) == [IDLE, BUSY] and broker.free["slot"] == 1


def test_a_worker_that_could_not_be_started_is_replaced(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    (start,) = broker.take(host)
    broker.submit(driver)
    broker.say(host, m.WorkerDied(start.worker_id, b"", "WorkerCrashedError", "no more processes"))
    (worker,) = broker.workers(host)
    assert len(broker.runs(worker)) == 1


def test_workers_are_used_again_by_their_job_only(broker):
    host = broker.host(CPU=1)
    one, two = broker.driver("one"), broker.driver("two")
    (worker,) = broker.workers(host)
    (task_id,) = broker.submit(one)
    broker.done(worker, task_id)
    broker.take(worker)
    broker.submit(two)
    assert broker.runs(worker) == []
    (another,) = broker.workers(host)
    assert len(broker.runs(another)) == 1
    assert broker.core.workers.workers[another].job_id != broker.core.workers.workers[worker].job_id


def probes(broker):
    """The workers that are asked to exit now, each with whether it is surplus."""
    asked = {worker: broker.take(worker, m.ExitIfIdle) for worker in broker.core.workers.workers}
    return {worker: messages[0].surplus for worker, messages in asked.items() if messages}


def three_idle_workers_on_one_cpu(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    broker.workers(host)
    broker.submit(driver, 3, NO_CPU)
    workers = list(dict.fromkeys([*broker.workers(host), *broker.core.workers.workers]))
    for worker in workers:
        broker.done(worker, *broker.runs(worker))
    assert len(workers) == 3
    return driver, broker.core.workers.workers


def test_idle_workers_are_asked_to_exit(broker):
    _, states = three_idle_workers_on_one_cpu(broker)
    broker.tick(4)
    assert probes(broker) == {}
    broker.tick(2)
    asked = probes(broker)
    assert sorted(asked.values()) == [False, True, True]
    first, second, third = sorted(asked, key=lambda worker: not asked[worker])
    assert states[first].state == PROBED
    broker.say(first, m.Staying(True))
    assert states[first].state == IDLE
    broker.say(second, m.Leaving("it was idle"))
    assert states[second].state == RETIRED
    broker.say(third, m.Leaving("it was idle"))
    assert states[third].state == RETIRED


def test_a_worker_that_is_killed_while_probed_gets_no_work(broker):
    driver, states = three_idle_workers_on_one_cpu(broker)
    broker.tick(6)
    for worker in probes(broker):
        broker.core.expel(worker, "it does harm", broker.now)
        broker.say(worker, m.Staying(False))
        assert states[worker].state is RETIRED
    broker.submit(driver, 1, NO_CPU)
    assert not any(broker.runs(worker) for worker in states)


def test_a_worker_that_stays_is_asked_again_when_it_is_surplus_or_has_worked(broker):
    driver, states = three_idle_workers_on_one_cpu(broker)
    broker.tick(6)
    for worker in probes(broker):
        broker.say(worker, m.Staying(False))
    broker.tick(4)
    assert probes(broker) == {}, "it has only just answered"
    broker.tick(2)
    asked = probes(broker)
    assert list(asked.values()) == [True, True]
    for worker in asked:
        broker.say(worker, m.Leaving("it was idle"))
    (left,) = [worker for worker in states if states[worker].state == IDLE]
    broker.tick(20)
    assert probes(broker) == {}
    broker.submit(driver, 1, NO_CPU)
    broker.done(left, *broker.runs(left))
    broker.tick(6)
    assert probes(broker) == {left: False}


def test_a_busy_worker_is_asked_less_and_less_often(broker):
    driver, worker = one_worker(broker)
    broker.submit(driver)
    broker.done(worker, *broker.runs(worker))
    waits: list[float] = []
    waited = 0
    while len(waits) < 9:
        broker.tick(1)
        waited += 1
        if probes(broker):
            broker.say(worker, m.Staying(True))
            waits.append(waited)
            waited = 0
    assert waits == [5, 10, 20, 40, 80, 160, 320, 320, 320]
    broker.submit(driver)
    broker.done(worker, *broker.runs(worker))
    broker.tick(5)
    assert probes(broker) == {worker: False}


def test_a_worker_that_was_probed_gets_no_work(broker):
    broker = BrokerHarness(idle_timeout_s=0.0)
    driver = broker.driver()
    host = broker.host(CPU=1)
    first = broker.workers(host)
    broker.submit(driver, 2, NO_CPU)
    workers = [*first, *broker.workers(host)]
    for worker in workers:
        broker.done(worker, *broker.runs(worker))
    broker.tick(1)
    probed, other = [worker for worker in workers if broker.take(worker, m.ExitIfIdle)]
    broker.say(other, m.Leaving("it was idle"))
    broker.submit(driver, 2, NO_CPU, LONG)
    assert broker.runs(probed) == []
    broker.say(probed, m.Staying(False))
    assert len(broker.runs(probed)) == 1


def test_the_end_of_a_worker_that_was_asked_to_exit_is_no_warning(broker):
    """Its host may report the end before the worker's ``Leaving`` arrives: they use different connections."""
    broker = BrokerHarness(idle_timeout_s=0.0)
    broker.driver()
    host = broker.host(CPU=2)
    probed, _ = broker.workers(host)
    broker.tick(1)
    assert broker.take(probed, m.ExitIfIdle)
    broker.say(host, m.WorkerDied(probed, b"", "WorkerCrashedError", "ended with exit code 0"))
    assert any("ended with exit code 0" in line for line in broker.log) and not broker.warnings


def test_a_worker_that_retires_finishes_what_it_runs(broker):
    driver, worker = one_worker(broker)
    (task_id,) = broker.submit(driver)
    broker.runs(worker)
    broker.say(worker, m.Leaving("max_calls"))
    broker.submit(driver)
    assert broker.runs(worker) == []
    broker.done(worker, task_id)
    assert broker.runs(worker) == []
    assert broker.core.workers.workers[worker].state == RETIRED
    assert broker.take(driver, m.Result)


def test_a_worker_that_retires_hands_back_a_task_that_crossed_its_message(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    (worker,) = broker.workers(host)
    (task_id,) = broker.submit(driver)
    broker.say(worker, m.Leaving("it was idle"))
    broker.say(worker, m.Returned([task_id]))
    assert broker.core.workers.workers[worker].state == RETIRED
    (another,) = broker.workers(host)
    assert broker.runs(another) == [task_id]


# ------------------------------------------------------------------ deaths


def test_only_the_running_task_is_the_culprit(broker):
    driver, worker, task_ids = prefetched(broker)
    given = list(broker.core.workers.workers[worker].outstanding)
    broker.kill(worker, given[0])
    failed = broker.take(driver, m.Failed)
    assert {message.task_id: message.culprit for message in failed} == {
        task_id: task_id == given[0] for task_id in given
    }
    assert {message.kind for message in failed} == {"WorkerCrashedError"}
    assert set(given) <= set(task_ids)


def test_any_task_may_be_the_culprit_when_a_host_dies(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    (worker,) = broker.workers(host)
    (task_id,) = broker.submit(driver)
    broker.lose(host)
    (failed,) = broker.take(driver, m.Failed)
    assert (failed.task_id, failed.kind, failed.culprit) == (task_id, "NodeDiedError", True)
    assert broker.core.workers.workers == {}
    assert "declared dead" in broker.core.may_join(worker, m.WORKER)


def test_messages_of_a_dead_worker_are_dropped(broker):
    driver, worker = one_worker(broker)
    (task_id,) = broker.submit(driver)
    broker.kill(worker, task_id)
    broker.take(driver)
    broker.done(worker, task_id)
    assert broker.take(driver) == []


def test_a_host_cannot_report_the_death_of_anothers_worker(broker):
    driver, worker = one_worker(broker)
    other = broker.host("other", CPU=0)
    broker.submit(driver)
    broker.say(other, m.WorkerDied(worker, b"", "WorkerCrashedError", "murder"))
    assert worker in broker.core.workers.workers


def test_the_tasks_of_a_dead_owner_are_dropped(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    (worker,) = broker.workers(host)
    broker.submit(driver, 3)
    broker.take(host)
    broker.lose(driver)
    assert broker.tasks == {}
    assert {message.worker_id for message in broker.take(host, m.KillWorker)} == {worker}


def test_the_death_of_an_owner_looks_at_no_task_of_others(broker):
    class Tasks(dict[bytes, Envelope]):
        looked_at = 0

        def values(self) -> Any:
            self.looked_at += len(self)
            return super().values()

    driver = broker.driver()
    host = broker.host(CPU=2)
    first, second = broker.workers(host)
    (parent,) = broker.submit(driver, function_id=LONG)
    owner = next(worker for worker in (first, second) if parent in broker.runs(worker))
    children = broker.submit(owner, 3)
    broker.submit(driver, 1000)
    process = broker.core.processes[driver]
    process.tasks = others = Tasks(process.tasks)
    broker.core.lost(owner, "it was silent", broker.now)
    assert others.looked_at == 0
    broker.turn()
    assert not set(children) & set(broker.tasks) and len(others) == 1000


def test_a_dead_owners_task_behind_one_of_another_owner(broker):
    """Only tasks whose owner is gone are stopped."""
    driver = broker.driver()
    host = broker.host(CPU=2)
    first, second = broker.workers(host)
    broker.teach(driver, second, run_us=10)
    (parent,) = broker.submit(driver, function_id=LONG)
    owner = next(worker for worker in (first, second) if parent in broker.runs(worker))
    other = next(worker for worker in (first, second) if worker != owner)
    mine = broker.submit(driver, 1)
    broker.runs(other)
    broker.done(other, *mine, run_us=10)
    batch = broker.submit(driver, 4)
    given = broker.runs(other)
    theirs = broker.submit(owner, 6)
    broker.done(other, *given[:1], run_us=10)
    mixed = set(broker.core.workers.workers[other].outstanding)
    if not mixed & set(theirs) or not mixed & set(batch):
        pytest.skip("nothing was prefetched behind the driver's own")
    broker.take(host)
    broker.kill(owner, parent)
    assert broker.take(host, m.KillWorker) == []
    assert {message.task_id for message in broker.take(other, m.CancelTask)} <= set(theirs)


# ------------------------------------------------------------------ random histories


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=True))
def test_a_random_history_ends_with_all_resources_free(rng):
    """Random tasks, blocks, hand-backs, cancellations and deaths. Invariants are checked after each step."""
    broker = BrokerHarness(idle_timeout_s=1.0)
    drivers = [broker.driver("one"), broker.driver("two")]
    hosts = [broker.host("first", CPU=2, GPU=2), broker.host("second", CPU=1)]
    shapes = [ONE_CPU, NO_CPU, shape(CPU=0.5), shape(CPU=1, GPU=0.5)]
    at: dict[bytes, list[bytes]] = {}
    blocked: set[bytes] = set()
    submitted = 0
    for _ in range(rng.choice([20, 60, 150])):
        for host in hosts:
            broker.workers(host)
        for worker in list(broker.core.workers.workers):
            at.setdefault(worker, []).extend(broker.runs(worker))
        live = [worker for worker in at if worker in broker.core.processes]
        worker = rng.choice(live) if live else b""
        work = at.get(worker, [])
        action = rng.choice(["submit", "done", "done", "back", "block", "unblock", "cancel", "die", "tick", "leave"])
        if action == "submit":
            broker.submit(rng.choice(drivers), rng.randrange(1, 6), rng.choice(shapes), retryable=rng.random() < 0.7)
            submitted += 1
        elif action == "done" and work and worker not in blocked:
            broker.done(worker, work.pop(0), run_us=rng.choice([10, 500, 10**6]))
        elif action == "back" and len(work) > 1:
            broker.say(worker, m.Returned([work.pop() for _ in range(len(work) - 1)]))
        elif action == "block" and work:
            broker.say(worker, m.Blocked(True))
            blocked.add(worker)
        elif action == "unblock" and worker in blocked:
            broker.say(worker, m.Blocked(False))
            blocked.discard(worker)
        elif action == "cancel" and broker.tasks:
            task_id = rng.choice(list(broker.tasks))
            broker.say(broker.tasks[task_id].owner, m.Cancel(task_id, 0))
        elif action == "die" and worker and rng.random() < 0.3:
            broker.kill(worker, work[0] if work else b"")
            del at[worker]
        elif action == "tick":
            broker.tick(0.5)
        elif action == "leave" and worker and not work and rng.random() < 0.2:
            broker.say(worker, m.Leaving("it was idle"))
    for _ in range(1000):
        for host in hosts:
            broker.workers(host)
        for worker in list(broker.core.workers.workers):
            if worker in blocked:
                blocked.discard(worker)
                broker.say(worker, m.Blocked(False))
            mine = at.pop(worker, []) + broker.runs(worker)
            if mine:
                broker.done(worker, *mine)
        if not broker.tasks:
            break
    assert broker.tasks == {}
    broker.tick(10)
    assert broker.core.lines.queues == {}
    for each in broker.core.scheduler.hosts.values():
        assert each.pool.free == each.pool.total
