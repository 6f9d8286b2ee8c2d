"""Which CPUs workers are pinned to."""

from __future__ import annotations

import random

import pytest

from tests.unit.broker.harness import ACTOR, NO_CPU, BrokerHarness, shape
from zray.broker.cpus import choose, overlaps
from zray.protocol import messages as m

WHOLE = 10_000


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness(pins_cpus=True)


def pins(broker: BrokerHarness, worker: bytes) -> list[list[int]]:
    """What a worker was told since the last call. Other messages to it are dropped."""
    return [message.cpus for message in broker.take(worker, m.PinCpus)]


# ---------------------------------------------------------------------- the choice


@pytest.mark.parametrize(
    ("loads", "amount", "before", "chosen"),
    [
        ([0, 0, 0], WHOLE, (), (0,)),
        ([0, 0, 0], WHOLE, (2,), (2,)),  # its own again
        ([WHOLE, 0, 0], WHOLE, (0,), (1,)),  # unless it is in use
        ([0, WHOLE, 0], 2 * WHOLE, (), (0, 2)),
        ([0, 0, 0], 0, (1,), ()),  # all
        ([0, 5_000, 2_000], 4_000, (), (1,)),  # parts share the fullest that has room
        ([0, 5_000, 2_000], 6_000, (), (2,)),
        ([WHOLE, 5_000], 6_000, (), (1,)),  # no room: the least used
        ([WHOLE, 5_000], WHOLE, (), (1,)),
        ([0, 5_000, 0], 15_000, (), (0, 1)),  # a whole one, and a part of another
        ([0, 0], 25_000, (), (0, 1)),  # never more than there are
    ],
)
def test_choice(loads: list[int], amount: int, before: tuple[int, ...], chosen: tuple[int, ...]) -> None:
    assert choose(loads, amount, before) == chosen


def test_claims_that_fit_do_not_overlap() -> None:
    """Whole CPUs and tenths, in any order, as long as no part is left over on a CPU that a whole one needs."""
    rng = random.Random(1)
    for _ in range(200):
        loads = [0] * rng.randint(1, 8)
        while WHOLE in (free := [WHOLE - load for load in loads]):
            amount = WHOLE * rng.randint(1, free.count(WHOLE)) if rng.random() < 0.5 else 1_000 * rng.randint(1, 10)
            chosen = choose(loads, amount, ())
            assert not overlaps(loads, amount, chosen)
            for number, cpu in enumerate(chosen):
                loads[cpu] += min(WHOLE, amount - number * WHOLE)


# ---------------------------------------------------------------------- the claims


def test_workers_have_cpus_of_their_own(broker: BrokerHarness) -> None:
    driver, host = broker.driver(), broker.host(CPU=2)
    one, two = broker.workers(host)
    broker.submit(driver, 2)
    assert sorted([pins(broker, one), pins(broker, two)]) == [[[0]], [[1]]]


def test_the_same_cpus_are_not_told_again(broker: BrokerHarness) -> None:
    driver, host = broker.driver(), broker.host(CPU=2)
    workers = broker.workers(host)
    for _ in range(3):
        tasks = broker.submit(driver, 2)
        told = [broker.take(worker, m.PinCpus, m.Run) for worker in workers]
        for worker, messages in zip(workers, told, strict=True):
            broker.done(worker, *[message.task_id for message in messages if isinstance(message, m.Run)])
        kinds = [[type(message) for message in messages] for messages in told]
        assert kinds == ([[m.PinCpus, m.Run]] * 2 if tasks[0][-1] == 1 else [[m.Run]] * 2)


def test_a_wider_task_takes_the_cpus_of_idle_workers(broker: BrokerHarness) -> None:
    driver, host = broker.driver(), broker.host(CPU=2)
    one, two = broker.workers(host)
    broker.submit(driver, 2)
    for worker in (one, two):
        broker.done(worker, *broker.runs(worker))
    (wide,) = broker.submit(driver, shape=shape(CPU=2))
    (user,) = [worker for worker in (one, two) if pins(broker, worker) == [[0, 1]]]
    broker.done(user, wide)
    broker.submit(driver, 2)
    claimed = [worker.cpus for worker in broker.core.workers.workers.values()]
    assert sorted(claimed) == [(0,), (1,)]


def test_a_task_without_cpus_may_use_all(broker: BrokerHarness) -> None:
    driver, host = broker.driver(), broker.host(CPU=1)
    (worker,) = broker.workers(host)
    (task,) = broker.submit(driver)
    assert pins(broker, worker) == [[0]]
    broker.done(worker, task)
    broker.submit(driver, shape=NO_CPU)
    assert pins(broker, worker) == [[]]


def test_parts_share_a_cpu(broker: BrokerHarness) -> None:
    driver, host = broker.driver(), broker.host(CPU=2)
    broker.workers(host)
    broker.submit(driver, 3, shape(CPU=0.5))
    workers = broker.workers(host)
    told = [pins(broker, worker.worker_id) for worker in broker.core.workers.workers.values() if worker.outstanding]
    assert len(workers) == 1
    assert sorted(told) == [[[0]], [[0]], [[1]]]


def test_a_task_that_waits_lends_its_cpu_and_shares_it_when_it_wakes(broker: BrokerHarness) -> None:
    driver, host = broker.driver(), broker.host(CPU=1)
    (parent,) = broker.workers(host)
    broker.submit(driver)
    assert pins(broker, parent) == [[0]]
    broker.say(parent, m.Blocked(True))
    (task,) = broker.submit(parent)
    (child,) = broker.workers(host)
    assert pins(broker, child) == [[0]]
    broker.say(parent, m.Blocked(False))
    (record,) = broker.core.scheduler.hosts.values()
    assert record.cpu_loads == [2 * WHOLE]
    broker.done(child, task)
    assert pins(broker, parent) == []


def test_cpus_that_are_shared_are_chosen_anew_for_the_next_task(broker: BrokerHarness) -> None:
    """The parent wakes beside the task that has its CPU. Later tasks use both CPUs."""
    driver, other, host = broker.driver(), broker.driver("other"), broker.host(CPU=2)
    broker.workers(host)
    tasks = broker.submit(driver, 2)
    workers = {task: worker for worker in broker.core.workers.workers for task in broker.runs(worker)}
    parent, second = (workers[task] for task in tasks)
    broker.say(parent, m.Blocked(True))
    (lent,) = broker.submit(other)
    (third,) = broker.workers(host)
    broker.say(parent, m.Blocked(False))
    (record,) = broker.core.scheduler.hosts.values()
    assert max(record.cpu_loads) == 2 * WHOLE and record.shares_cpus
    for worker, task in ((parent, tasks[0]), (second, tasks[1]), (third, lent)):
        broker.done(worker, task)
    for _ in range(3):
        pair = broker.submit(driver, 2)
        running = [worker for worker in broker.core.workers.workers.values() if worker.outstanding]
        assert sorted(worker.cpus for worker in running) == [(0,), (1,)]
        assert not record.shares_cpus
        for worker in running:
            broker.done(worker.worker_id, next(task for task in pair if task in worker.outstanding))


def test_the_cpus_of_a_dead_worker_are_free(broker: BrokerHarness) -> None:
    driver, host = broker.driver(), broker.host(CPU=2)
    one, two = broker.workers(host)
    broker.submit(driver, 2)
    gone = pins(broker, one)
    broker.kill(one)
    broker.submit(driver)
    (new,) = broker.workers(host)
    assert pins(broker, new) == gone
    assert len(pins(broker, two)) == 1


def test_an_actor_has_the_cpus_of_its_life_from_its_constructor_on(broker: BrokerHarness) -> None:
    driver, host = broker.driver(), broker.host(CPU=2)
    workers = broker.workers(host)
    broker.create(driver, running=shape(CPU=1))
    (worker,) = [worker for worker in workers if pins(broker, worker) == [[0]]]
    broker.say(worker, m.ActorReady(ACTOR, b""))
    broker.submit(driver)
    (other,) = set(workers) - {worker}
    assert pins(broker, other) == [[1]]
    assert pins(broker, worker) == []


def test_an_actor_without_cpus_is_never_pinned(broker: BrokerHarness) -> None:
    driver, host = broker.driver(), broker.host(CPU=1)
    (worker,) = broker.workers(host)
    broker.create(driver)
    assert pins(broker, worker) == []


def test_a_worker_that_starts_for_an_actor_is_told_when_it_joins(broker: BrokerHarness) -> None:
    driver, host = broker.driver(), broker.host(CPU=1)
    (idle,) = broker.workers(host)
    broker.kill(idle)
    broker.create(driver, running=shape(CPU=1))
    (worker,) = broker.workers(host)
    kinds = [type(message) for message in broker.take(worker)]
    assert kinds.index(m.PinCpus) < kinds.index(m.ActorStart)


def test_hosts_that_do_not_pin_are_left_alone() -> None:
    broker = BrokerHarness()
    driver, host = broker.driver(), broker.host(CPU=1)
    (worker,) = broker.workers(host)
    broker.submit(driver)
    assert pins(broker, worker) == []
