"""Records of single actors, workers, hosts, jobs, tasks and objects."""

from __future__ import annotations

from typing import Any

import pytest

from zray.broker import history, state_reports
from zray.broker.state_reports import MAX_LIMIT, PATIENCE_S
from zray.protocol import messages as m
from zray.protocol import state_questions as q
from zray.protocol.records import JoinInfo

from .harness import ACTOR, BrokerHarness, Stage, one_worker

ANSWERS = (q.ActorRecords, q.HostRecords, q.WorkerRecords, q.JobRecords, q.OwnerRecords)


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


def ask(broker: BrokerHarness, asker: bytes, question: Any) -> Any:
    broker.say(asker, question)
    (answer,) = broker.take(asker, *ANSWERS)
    return answer


def test_an_actor_while_it_lives_and_after(broker: BrokerHarness) -> None:
    stage = Stage(broker, name="n", namespace="space", max_restarts=1)
    (record,) = ask(broker, stage.driver, q.StateOfActors(1)).actors
    assert (record.actor_id, record.class_name, record.name, record.namespace) == (ACTOR, "A", "n", "space")
    assert (record.state, record.host, record.worker, record.constructed) == ("ALIVE", stage.host, stage.worker, True)
    broker.kill(stage.worker)
    (record,) = ask(broker, stage.driver, q.StateOfActors(1)).actors
    assert (record.state, record.restarts) == ("RESTARTING", 1)
    broker.say(stage.driver, m.ActorKill(ACTOR, True))
    (record,) = ask(broker, stage.driver, q.StateOfActors(1)).actors
    assert (record.state, record.constructed) == ("DEAD", True)
    assert "killed" in record.reason


def test_an_actor_that_is_dead_keeps_its_place(broker: BrokerHarness) -> None:
    stage = Stage(broker)
    broker.kill(stage.worker)
    (record,) = ask(broker, stage.driver, q.StateOfActors(1)).actors
    assert (record.state, record.host, record.worker) == ("DEAD", stage.host, stage.worker)


def test_an_actor_before_it_runs(broker: BrokerHarness) -> None:
    driver = broker.driver()
    broker.create(driver, ready=False, payload=b"")
    (record,) = ask(broker, driver, q.StateOfActors(1)).actors
    assert (record.state, record.pid, record.host) == ("DEPENDENCIES_UNREADY", 0, b"")
    broker.create(driver)
    (record,) = ask(broker, driver, q.StateOfActors(1)).actors
    assert record.state == "PENDING_CREATION"


def test_hosts(broker: BrokerHarness) -> None:
    driver, host = broker.driver(), broker.host(CPU=2)
    broker.now += 5
    (record,) = ask(broker, driver, q.StateOfHosts(1)).hosts
    assert (record.host_id, record.hostname, record.resources["CPU"]) == (host, "host", 2.0)
    assert (record.began_s, record.ended_s, record.reason) == (5.0, None, "")
    broker.lose(host)
    broker.now += 2
    (record,) = ask(broker, driver, q.StateOfHosts(1)).hosts
    assert (record.began_s, record.ended_s, record.reason) == (7.0, 2.0, "it was silent")


def test_workers_and_drivers(broker: BrokerHarness) -> None:
    driver, worker = one_worker(broker)
    (task_id,) = broker.submit(driver)
    broker.now += 3
    rows = {row.worker_id: row for row in ask(broker, driver, q.StateOfWorkers(1)).workers}
    assert set(rows) == {driver, worker}
    assert rows[driver].is_driver and not rows[worker].is_driver
    assert (rows[worker].runs, rows[worker].waits, rows[worker].began_s) == (task_id, False, 3.0)
    broker.say(worker, m.Blocked(True))
    rows = {row.worker_id: row for row in ask(broker, driver, q.StateOfWorkers(1)).workers}
    assert rows[worker].waits
    broker.kill(worker, task_id)
    rows = {row.worker_id: row for row in ask(broker, driver, q.StateOfWorkers(1)).workers}
    assert (rows[worker].exit_type, rows[worker].ended_s) == (history.BY_FAULT, 0.0)
    assert "SIGKILL" in rows[worker].reason


def test_a_worker_whose_actor_was_killed_has_ended_on_purpose(broker: BrokerHarness) -> None:
    stage = Stage(broker)
    broker.say(stage.driver, m.ActorKill(ACTOR, True))
    broker.kill(stage.worker)
    rows = {row.worker_id: row for row in ask(broker, stage.driver, q.StateOfWorkers(1)).workers}
    assert rows[stage.worker].exit_type == history.BY_USER


def test_jobs(broker: BrokerHarness) -> None:
    one, two = broker.driver("one"), broker.driver("two")
    broker.now += 4
    broker.lose(one)
    broker.now += 1
    rows = {row.driver_id: row for row in ask(broker, two, q.StateOfJobs(1)).jobs}
    assert (rows[one].namespace, rows[one].began_s, rows[one].ended_s) == ("one", 5.0, 1.0)
    assert (rows[two].namespace, rows[two].began_s, rows[two].ended_s) == ("two", 5.0, None)


def test_history_has_a_bound(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_ENDED", 2)
    broker = BrokerHarness()
    last = broker.driver("last")
    for number in range(5):
        broker.lose(broker.driver(f"driver {number}"))
    answer = ask(broker, last, q.StateOfJobs(1))
    assert [row.namespace for row in answer.jobs] == ["last", "driver 3", "driver 4"]
    assert answer.forgotten == 3


# ------------------------------------------------------------------------------------------- tasks and objects


@pytest.mark.parametrize(
    ("question", "asked"), [(q.StateOfTasks, q.InspectTasks), (q.StateOfObjects, q.InspectObjects)]
)
def test_owners_are_asked(broker: BrokerHarness, question: Any, asked: Any) -> None:
    driver, worker = one_worker(broker)
    broker.say(driver, question(7, 10 * MAX_LIMIT))
    (of_driver,), (of_worker,) = broker.take(driver, asked), broker.take(worker, asked)
    assert of_driver.limit == MAX_LIMIT
    broker.say(driver, q.RecordsInspected(of_driver.request, 3, b"rows", [], []))
    assert broker.take(driver, *ANSWERS) == []
    broker.say(worker, q.RecordsInspected(of_worker.request, 0, b"none", [b"t" * 24], [1500]))
    (answer,) = broker.take(driver, *ANSWERS)
    job_id = broker.core.processes[driver].job_id
    assert answer == q.OwnerRecords(
        7,
        [
            q.ProcessRecords(driver, job_id, 3, b"rows", [], []),
            q.ProcessRecords(worker, b"", 0, b"none", [b"t" * 24], [1500]),
        ],
        0,
    )


def test_owners_that_do_not_answer_are_counted(broker: BrokerHarness) -> None:
    driver, _worker = one_worker(broker)
    broker.say(driver, q.StateOfTasks(7, 10))
    (asked,) = broker.take(driver, q.InspectTasks)
    broker.say(driver, q.RecordsInspected(asked.request, 0, b"", [], []))
    broker.tick(2 * PATIENCE_S)
    (answer,) = broker.take(driver, *ANSWERS)
    assert ([each.process_id for each in answer.processes], answer.left_out) == ([driver], 1)


def test_an_owner_that_dies_is_waited_for_no_longer(broker: BrokerHarness) -> None:
    driver, worker = one_worker(broker)
    broker.say(driver, q.StateOfTasks(7, 10))
    (asked,) = broker.take(driver, q.InspectTasks)
    broker.say(driver, q.RecordsInspected(asked.request, 0, b"", [], []))
    broker.kill(worker)
    (answer,) = broker.take(driver, *ANSWERS)
    assert ([each.process_id for each in answer.processes], answer.left_out) == ([driver], 0)


def test_the_answer_has_a_bound(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_reports, "MAX_ANSWER_BYTES", 100)
    one, two = broker.driver("one"), broker.driver("two")
    broker.say(one, q.StateOfTasks(7, 10))
    for driver in (one, two):
        (asked,) = broker.take(driver, q.InspectTasks)
        broker.say(driver, q.RecordsInspected(asked.request, 1, b"x" * 60, [], []))
    (answer,) = broker.take(one, *ANSWERS)
    assert ([each.process_id for each in answer.processes], answer.left_out) == ([one], 1)


def left(rows: bytes, total: int = 1) -> q.RecordsInspected:
    return q.RecordsInspected(q.LEFT_BEHIND, total, rows, [], [])


def test_tasks_of_a_driver_that_has_left(broker: BrokerHarness) -> None:
    gone, asker = broker.driver("gone"), broker.driver("asker")
    job_id = broker.core.processes[gone].job_id
    broker.say(gone, left(b"rows", 3), m.Goodbye("done"))
    broker.say(asker, q.StateOfTasks(7, 10))
    (asked,) = broker.take(asker, q.InspectTasks)
    broker.say(asker, q.RecordsInspected(asked.request, 0, b"none", [], []))
    (answer,) = broker.take(asker, *ANSWERS)
    assert answer.left_out == 0
    assert answer.processes[1:] == [q.ProcessRecords(gone, job_id, 3, b"rows", [], [])]
    broker.say(asker, q.StateOfObjects(8, 10))
    (asked,) = broker.take(asker, q.InspectObjects)
    broker.say(asker, q.RecordsInspected(asked.request, 0, b"none", [], []))
    assert [each.process_id for each in broker.take(asker, *ANSWERS)[0].processes] == [asker]


def test_what_drivers_leave_has_a_bound(broker: BrokerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zray.broker.history.MAX_LEFT_BYTES", 100)
    for name, size in (("one", 60), ("two", 60), ("large", 101)):
        broker.say(broker.driver(name), left(b"x" * size), m.Goodbye("done"))
    kept = broker.core.history.tasks_of_the_gone()
    assert [each.process_id.rstrip(b"\0") for each in kept] == [b"two"]


def test_tasks_are_not_told_twice_while_the_driver_is_there(broker: BrokerHarness) -> None:
    driver = broker.driver()
    broker.say(driver, left(b"rows"))
    assert broker.core.history.tasks_of_the_gone() == []


def test_tasks_of_a_worker_that_has_left(broker: BrokerHarness) -> None:
    _, worker = one_worker(broker)
    record = broker.core.workers.workers[worker]
    job_id, host = record.job_id, record.host.host_id
    broker.say(worker, left(b"rows", 2))
    assert broker.core.history.tasks_of_the_gone() == []
    broker.kill(worker)
    assert broker.core.history.tasks_of_the_gone() == [q.ProcessRecords(worker, job_id, 2, b"rows", [], [])]
    with pytest.raises(m.ProtocolError):
        broker.say(host, left(b"rows"))


def test_an_observer_may_ask(broker: BrokerHarness) -> None:
    broker.driver()
    observer = b"observer".ljust(16, b"\0")
    broker.core.joined(observer, m.OBSERVER, JoinInfo(), broker.now)
    assert len(ask(broker, observer, q.StateOfJobs(1)).jobs) == 1


def test_a_job_ends_with_its_last_actor_even_if_that_had_no_worker(broker: BrokerHarness) -> None:
    driver, other = broker.driver(), broker.driver("other")
    broker.create(driver, detached=True)
    broker.lose(driver)
    assert len(broker.core.jobs) == 2
    broker.say(other, m.ActorKill(ACTOR, True))
    assert [job.driver for job in broker.core.jobs.values()] == [other]
