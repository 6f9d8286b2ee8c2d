"""Priorities within a job: which line is next, ageing, and what priorities do not change."""

from __future__ import annotations

import pytest

from tests.unit.broker.harness import ACTOR, FUNCTION, ONE_CPU, OTHER, BrokerHarness, amounts
from zray.broker.accounts import STARVED_S, Account, Share
from zray.broker.inspections import Found
from zray.broker.priorities import AGEING_RUNS, AGEING_S, foremost, rank
from zray.broker.resources import UNIT, read_shape, shape_key
from zray.broker.shares import PATIENCE_S
from zray.protocol import messages as m
from zray.protocol.codec import pack
from zray.protocol.messages import ProtocolError
from zray.protocol.questions import ExplainTask, Explanation
from zray.scheduling.priority import MAX_PRIORITY

SLOW = b"slow".ljust(16, b"\0")


def at(priority: int, **resources: float) -> bytes:
    return shape_key(amounts(**(resources or {"CPU": 1})), priority=priority)


def line(job: Account, priority: int, since: float = 0.0) -> Share:
    share = Share(job, b"job", read_shape(at(priority)), 0, 0.0)
    share.waits(1, since)
    return share


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


# ------------------------------------------------------------------ the rule


def ranks(now: float, *priorities: int, run_s: float = 0.0) -> list[int]:
    """The ranks of lines that have waited since 0; the first has just been served."""
    job = Account(0.0)
    lines = [line(job, priority) for priority in priorities]
    lines[0].since = now
    rank([(share, run_s) for share in lines], now)
    return [share.rank for share in lines]


def test_the_highest_priority_is_first():
    assert ranks(1.0, 5, 0, -3) == [-5, 0, 3]


def test_a_line_counts_a_step_higher_for_each_time_that_it_waits():
    assert ranks(AGEING_S - 0.1, 5, 0) == [-5, 0]
    assert ranks(AGEING_S, 5, 0, 3) == [-5, -1, -4]
    assert ranks(3 * AGEING_S, 5, 0) == [-5, -3]


def test_no_line_counts_higher_than_the_highest_that_waits():
    assert ranks(1000 * AGEING_S, 5, 0, 3) == [-5, -5, -5]
    assert ranks(1000 * AGEING_S, 0, 0) == [0, 0]


def test_beside_long_runs_a_step_takes_longer():
    assert ranks(AGEING_RUNS * 60 - 1, 1, 0, run_s=60) == [-1, 0]
    assert ranks(AGEING_RUNS * 60, 1, 0, run_s=60) == [-1, -1]


def test_jobs_are_ranked_apart():
    one, other = line(Account(0.0), 7), line(Account(0.0), 0)
    rank([(one, 0.0), (other, 0.0)], 100 * AGEING_S)
    assert (one.rank, other.rank) == (-7, 0)
    assert foremost([one, other], lambda share: True) == [one, other]


def test_a_line_is_behind_one_of_its_job_with_a_higher_priority_that_counts():
    job = Account(0.0)
    highest, high, low, lowest = (line(job, priority) for priority in (3, 2, 1, 0))
    lines = [low, highest, lowest, high]
    assert foremost(lines, lambda share: True) == [highest]
    assert foremost(lines, lambda share: share is not highest) == [highest, high]
    assert foremost(lines, lambda share: share is lowest) == lines


def test_only_lines_before_others_are_asked_whether_they_count():
    job = Account(0.0)
    equal = [line(job, 1), line(job, 1)]
    assert foremost(equal, lambda share: 1 / 0 > 0) == equal


# ------------------------------------------------------------------ the form of a shape


def test_the_default_priority_leaves_a_shape_as_it_is():
    assert at(0) == ONE_CPU
    assert read_shape(ONE_CPU).priority == 0


def test_a_grant_does_not_depend_on_the_priority():
    shape = read_shape(at(-4))
    assert shape.priority == -4
    assert shape.grant_key == ONE_CPU


@pytest.mark.parametrize("priority", [MAX_PRIORITY + 1, -MAX_PRIORITY - 1, 1.5, True, "1", None])
def test_a_malformed_priority_is_refused(priority):
    fields = {"amounts": [["CPU", UNIT]], "constraint": None, "environment": b"", "priority": priority}
    with pytest.raises(ProtocolError, match="priority"):
        read_shape(pack(fields))


# ------------------------------------------------------------------ tasks


def one_busy_cpu(broker: BrokerHarness) -> tuple[bytes, bytes]:
    """A driver, and the worker of the only CPU, which runs a long task of the driver."""
    driver = broker.driver()
    (worker,) = broker.workers(broker.host(CPU=1))
    broker.submit(driver, function_id=SLOW)
    broker.take(worker)
    return driver, worker


def finish(broker: BrokerHarness, run_us: int = 10**4) -> bytes:
    """Finishes the running task of the only worker that runs one. Returns the next task that begins."""
    (worker,) = [each for each in broker.core.workers.workers.values() if each.outstanding]
    before = set(worker.outstanding)
    broker.done(worker.worker_id, next(iter(worker.outstanding)), run_us=run_us)
    for host in list(broker.core.scheduler.hosts):
        broker.workers(host)
    (task_id,) = [
        task_id
        for each in broker.core.workers.workers.values()
        for task_id in each.outstanding
        if task_id not in before
    ]
    return task_id


def test_tasks_of_a_higher_priority_are_next(broker):
    driver, _ = one_busy_cpu(broker)
    low = broker.submit(driver, shape=at(-1), function_id=SLOW)
    plain = broker.submit(driver, shape=ONE_CPU, function_id=SLOW)
    high = broker.submit(driver, 2, shape=at(2), function_id=SLOW)
    assert [finish(broker) for _ in range(4)] == [*high, *plain, *low]


def test_use_does_not_count_between_priorities(broker):
    """The line with the higher priority has used the CPU all the time, and is next nevertheless."""
    driver, _ = one_busy_cpu(broker)
    (low,) = broker.submit(driver, function_id=SLOW)
    for _ in range(5):
        broker.submit(driver, 2, shape=at(1), function_id=SLOW)
        assert finish(broker) != low
        broker.now += 0.1


def test_a_worker_with_short_tasks_makes_room_for_a_higher_priority(broker):
    driver = broker.driver()
    (worker,) = broker.workers(broker.host(CPU=1))
    broker.teach(driver, worker, run_us=20)
    broker.submit(driver, 2000)
    (urgent,) = broker.submit(driver, shape=at(1))
    record = broker.core.workers.workers[worker]
    broker.done(worker, next(iter(record.outstanding)), run_us=20)
    assert urgent not in record.outstanding
    given = len(record.outstanding)
    broker.done(worker, *record.outstanding, run_us=20)
    assert given
    assert urgent in record.outstanding


def test_a_worker_does_not_make_room_for_a_lower_priority(broker):
    driver = broker.driver()
    (worker,) = broker.workers(broker.host(CPU=1))
    broker.teach(driver, worker, run_us=20)
    broker.submit(driver, 2000, shape=at(1))
    broker.submit(driver)
    record = broker.core.workers.workers[worker]
    held = len(record.outstanding)
    broker.done(worker, next(iter(record.outstanding)), run_us=20)
    assert len(record.outstanding) >= held


def test_a_priority_does_not_count_between_jobs(broker):
    driver, _ = one_busy_cpu(broker)
    plain = broker.submit(driver, 4, function_id=SLOW)
    second = broker.driver("second")
    urgent = broker.submit(second, 4, shape=at(MAX_PRIORITY), function_id=SLOW)
    order = []
    for _ in range(8):
        broker.now += 0.05
        order.append(finish(broker))
    assert sorted(order) == sorted([*plain, *urgent])
    assert {task_id in urgent for task_id in order[:2]} == {True, False}
    assert 1 <= sum(task_id in urgent for task_id in order[:4]) <= 3


def test_nothing_starves(broker):
    driver, _ = one_busy_cpu(broker)
    (low,) = broker.submit(driver, shape=at(-1), function_id=SLOW)
    order = []
    for _ in range(round(2.5 * AGEING_S)):
        broker.submit(driver, 2, shape=at(1), function_id=SLOW)
        broker.now += 1.0
        order.append(finish(broker))
    assert order.index(low) >= 2 * AGEING_S - 2
    assert low in order


def test_beside_long_tasks_a_line_ages_by_runs(broker):
    driver, _ = one_busy_cpu(broker)
    low = broker.submit(driver, 50, function_id=SLOW)
    order = []
    for _ in range(30):
        broker.submit(driver, 2, shape=at(1), function_id=SLOW)
        broker.now += 600.0
        order.append(finish(broker, run_us=600_000_000))
    lows = sum(task_id in low for task_id in order)
    assert 4 <= lows <= 30 / AGEING_RUNS + 1


def test_a_wide_task_of_a_lower_priority_holds_no_host(broker):
    driver = broker.driver()
    workers = broker.workers(broker.host(CPU=2))
    broker.submit(driver, 2, function_id=SLOW)
    broker.submit(driver, shape=shape_key(amounts(CPU=2)), function_id=SLOW)
    broker.submit(driver, 50, shape=at(1), function_id=SLOW)
    broker.tick(max(PATIENCE_S, STARVED_S) * 2)
    holds = broker.core.grants.shares._holds.values()
    assert all(hold.share.shape.priority == 1 for hold in holds)
    for worker in workers:
        broker.done(worker, *broker.core.workers.workers[worker].outstanding, run_us=10**6)
    assert all(broker.core.workers.workers[worker].grant.priority == 1 for worker in workers)


def test_a_priority_that_no_host_is_large_enough_for_keeps_no_wide_task_waiting(broker):
    driver = broker.driver()
    workers = broker.workers(broker.host(CPU=2))
    broker.submit(driver, 50, function_id=SLOW)
    broker.submit(driver, shape=at(5, CPU=64), function_id=SLOW)
    (wide,) = broker.submit(driver, shape=at(1, CPU=2), function_id=SLOW)
    broker.tick(PATIENCE_S * 2)
    for worker in workers:
        broker.done(worker, *broker.core.workers.workers[worker].outstanding, run_us=10**6)
    assert any(wide in worker.outstanding for worker in broker.core.workers.workers.values())


def test_a_wide_task_of_a_higher_priority_gets_its_host(broker):
    driver = broker.driver()
    workers = broker.workers(broker.host(CPU=2))
    broker.submit(driver, 50, function_id=SLOW)
    (wide,) = broker.submit(driver, shape=at(1, CPU=2), function_id=SLOW)
    broker.tick(PATIENCE_S * 2)
    for worker in workers:
        broker.done(worker, *broker.core.workers.workers[worker].outstanding, run_us=10**6)
    assert any(wide in worker.outstanding for worker in broker.core.workers.workers.values())


def test_a_priority_that_cannot_be_placed_stops_no_other(broker):
    driver, _ = one_busy_cpu(broker)
    broker.submit(driver, shape=at(9, CPU=64))
    plain = broker.submit(driver, 2, function_id=SLOW)
    assert [finish(broker), finish(broker)] == plain


def test_the_accounts_of_a_job_with_priorities_end_with_it(broker):
    driver, _ = one_busy_cpu(broker)
    broker.submit(driver, shape=at(1))
    broker.say(driver, m.Goodbye("bye"))
    assert not broker.core.grants.shares._with_priorities


# ------------------------------------------------------------------ actors, and new functions


def test_actors_of_a_higher_priority_are_placed_first(broker):
    driver, worker = one_busy_cpu(broker)
    broker.create(driver, ACTOR, placement=at(0), running=at(0))
    broker.create(driver, OTHER, placement=at(1), running=ONE_CPU)
    broker.done(worker, *broker.core.workers.workers[worker].outstanding)
    assert [start.actor_id for start in broker.take(worker, m.ActorStart)] == [OTHER]


def test_a_function_that_never_ran_ages_by_seconds(broker):
    driver, _ = one_busy_cpu(broker)
    broker.submit(driver, function_id=FUNCTION)
    broker.submit(driver, shape=at(1), function_id=b"other".ljust(16, b"\0"))
    broker.tick(AGEING_S)
    assert {queue.share.rank for queue in broker.core.lines.queues.values() if len(queue)} == {-1}


# ------------------------------------------------------------------ what people see


def test_why_it_waits_names_the_priority(broker):
    driver, _ = one_busy_cpu(broker)
    (task_id,) = broker.submit(driver, shape=at(7))
    broker.say(driver, ExplainTask(1, task_id))
    (answer,) = broker.take(driver, Explanation)
    assert answer.why.startswith("it asks for {CPU: 1} at priority 7, which is in use")


def test_lines_of_several_priorities_are_one_row_of_the_status(broker):
    driver, _ = one_busy_cpu(broker)
    for priority in (0, 1, 2):
        broker.submit(driver, shape=at(priority))
    (row,) = broker.core.status_report.status(1, Found()).waiting
    assert (row.what, row.count, row.resources) == ("tasks", 3, {"CPU": 1.0})
