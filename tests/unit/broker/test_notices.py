"""What the broker logs and tells drivers about lost hosts and dead actors."""

from __future__ import annotations

import pytest

from tests.unit.broker.harness import ACTOR, OTHER, BrokerHarness, Stage, shape
from zray.ids import make_task_id
from zray.protocol import messages as m


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


@pytest.fixture
def log(broker: BrokerHarness) -> list[str]:
    return broker.log


def told(broker: BrokerHarness, process: bytes) -> list[str]:
    return [notice.text for notice in broker.take(process, m.Notice)]


def test_joins_and_departures_are_logged(broker, log):
    driver = broker.driver()
    host = broker.host("node7", CPU=2)
    broker.say(driver, m.Goodbye("the driver shut down"))
    assert log == [
        f"driver {driver.hex()} (pid 0, job 00000001, namespace driver) joined",
        f"host {host.hex()} (node7, pid 0) joined with {{CPU: 2}}",
        f"driver {driver.hex()} (pid 0, job 00000001, namespace driver) left: the driver shut down",
    ]


def test_a_goodbye_of_a_host_is_logged_and_fails_its_tasks(broker, log):
    driver, host = broker.driver(), broker.host("node7", CPU=1)
    broker.workers(host)
    (task,) = broker.submit(driver)
    broker.say(host, m.Goodbye("the host ends: signal 15"))
    assert f"host {host.hex()} (node7, pid 0) is lost, with 1 tasks and 0 actors: the host ends: signal 15" in log
    (failed,) = broker.take(driver, m.Failed)
    assert (failed.task_id, failed.kind) == (task, "NodeDiedError")


def test_a_lost_host_is_one_line_for_each_driver(broker):
    one, two, host = broker.driver("one"), broker.driver("two"), broker.host("node7", CPU=4)
    broker.workers(host)
    broker.submit(one, 2)
    broker.submit(one, retryable=False)
    broker.create(one, make_task_id(one, 90), max_restarts=1, placement=shape(), name="x")
    broker.workers(host)
    broker.lose(host)
    (line,) = told(broker, one)
    assert line == (
        "host node7 (6e6f6465) is lost: it was silent; of this job it ran 3 tasks (2 tried again, 1 not to be tried "
        "again) and 1 actor: A 'x' (restarted). Objects that only it had are lost, unless their tasks can be run again"
    )
    (other,) = told(broker, two)
    assert other == (
        "host node7 (6e6f6465) is lost: it was silent; nothing of this job ran there. Objects that only it had are "
        "lost, unless their tasks can be run again"
    )


def test_only_some_of_many_actors_on_a_lost_host_are_named(broker):
    driver, host = broker.driver(), broker.host("node7", CPU=4)
    for number in range(7):
        broker.create(driver, make_task_id(driver, 90 + number), placement=shape(), name=f"a{number}")
    broker.workers(host)
    broker.lose(host)
    (line,) = told(broker, driver)
    assert "7 actors: A 'a0' (dead for good), A 'a1' (dead for good)" in line and line.count("dead for good") == 5
    assert "and 2 others" in line


def test_a_restart_of_an_actor_is_reported(broker):
    stage = Stage(broker, max_restarts=2)
    broker.kill(stage.worker)
    assert told(broker, stage.driver) == ["incarnation 1 of A: SIGKILL; it is restarted, 1 restart is left"]


def test_repeated_restarts_are_summed_up(broker):
    stage = Stage(broker, max_restarts=-1)
    for _ in range(3):
        broker.kill(stage.worker)
        stage.worker = stage.find()
        broker.say(stage.worker, m.ActorReady(ACTOR, b""))
    assert told(broker, stage.driver) == ["incarnation 1 of A: SIGKILL; it is restarted"]
    broker.tick(6)
    assert told(broker, stage.driver) == [
        "2 actors died and are restarted (A 2x), the last: incarnation 3 of A: SIGKILL; it is restarted"
    ]


def test_a_lost_host_is_reported_without_its_actors(broker):
    stage = Stage(broker, max_restarts=-1)
    broker.lose(stage.host)
    assert len(told(broker, stage.driver)) == 1
    broker.tick(6)
    assert told(broker, stage.driver) == []


def test_a_job_that_has_ended_gets_no_notice(broker):
    stage = Stage(broker, max_restarts=-1, detached=True)
    broker.create(stage.driver, OTHER)
    broker.lose(stage.driver)
    broker.kill(stage.worker)
    broker.tick(6)
    assert told(broker, stage.driver) == []


def test_workers_that_cannot_start_are_told_of(broker):
    driver, other = broker.driver("one"), broker.driver("two")
    broker.host("node7", CPU=1)
    (worker,) = broker.core.workers.workers
    broker.submit(driver)
    lines: list[list[str]] = []
    broker.kill(worker)
    for _ in range(9):
        (worker,) = broker.core.workers.workers
        broker.kill(worker)
        lines.append(told(broker, driver))
    start, end = " workers in a row could not start on host node7 (6e6f6465); ", "The last one: SIGKILL"
    assert [[line.split(start)[0] for line in each] for each in lines] == [["2"], [], ["4"], [], [], [], ["8"], [], []]
    assert lines[0][0].endswith(end)
    assert told(broker, other) == [line for each in lines for line in each]  # its tasks could run there, too


def test_a_start_that_succeeds_ends_the_row(broker):
    driver, host = broker.driver(), broker.host(CPU=1)
    broker.submit(driver)
    for _ in range(3):
        (worker,) = broker.core.workers.workers
        broker.kill(worker)
        (worker,) = broker.workers(host)
        broker.submit(driver)
        broker.kill(worker)
    assert told(broker, driver) == []
