"""Runtime environments in the broker: pools of workers, announcements, failures, jobs that end."""

from __future__ import annotations

import pytest

from tests.unit.broker.harness import ACTOR, ONE_CPU, BrokerHarness
from zray.broker import environments
from zray.broker.workers import MAX_STARTING_IN_ENVIRONMENTS
from zray.failures import decode_failure
from zray.protocol import messages as m
from zray.protocol import state_questions as q
from zray.protocol.codec import shape_key
from zray.protocol.messages import ProtocolError
from zray.protocol.records import EnvironmentSpec

RED, BLUE = b"r" * 16, b"b" * 16
RED_SPEC, BLUE_SPEC = EnvironmentSpec("red"), EnvironmentSpec("blue")
IN_RED, IN_BLUE = shape_key({"CPU": 10_000}, environment_id=RED), shape_key({"CPU": 10_000}, environment_id=BLUE)


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


def announce(broker: BrokerHarness, driver: bytes, eager: bool = False) -> None:
    broker.say(driver, m.EnvironmentPut(RED, RED_SPEC, eager), m.EnvironmentPut(BLUE, BLUE_SPEC, False))


def started(broker: BrokerHarness, host: bytes) -> list[m.StartWorker]:
    return broker.take(host, m.StartWorker)


def join(broker: BrokerHarness, host: bytes, *told: m.StartWorker) -> list[bytes]:
    broker.mail.setdefault(host, []).extend(told)
    return broker.workers(host)


def test_a_worker_is_started_in_the_environment(broker):
    driver, host = broker.driver(), broker.host(CPU=2)
    plain = broker.workers(host)
    announce(broker, driver)
    (task,) = broker.submit(driver, shape=IN_RED)
    (told,) = started(broker, host)
    assert told.environment == RED_SPEC
    assert all(broker.runs(worker) == [] for worker in plain)
    (worker,) = join(broker, host, told)
    assert broker.runs(worker) == [task]
    broker.core.check()


def test_workers_serve_their_own_environment_only(broker):
    driver, host = broker.driver(), broker.host(CPU=1)
    (plain,) = broker.workers(host)
    announce(broker, driver)
    (first,) = broker.submit(driver, shape=IN_RED)
    (red,) = join(broker, host, *started(broker, host))
    broker.done(red, first)
    (blue_task,) = broker.submit(driver, shape=IN_BLUE)
    (told,) = started(broker, host)
    assert told.environment == BLUE_SPEC
    (blue,) = join(broker, host, told)
    assert broker.runs(blue) == [blue_task]
    broker.done(blue, blue_task)
    (again,) = broker.submit(driver, shape=IN_RED)
    assert started(broker, host) == []
    assert broker.runs(red)[-1:] == [again]
    broker.done(red, again)
    (without,) = broker.submit(driver)
    assert broker.runs(plain) == [without]
    broker.core.check()


def test_a_slow_environment_does_not_hold_up_others(broker):
    driver, host = broker.driver(), broker.host(CPU=1)
    (plain,) = broker.workers(host)
    announce(broker, driver)
    broker.submit(driver, 3, shape=IN_RED)  # its worker never joins
    tasks = broker.submit(driver, 2)
    assert broker.runs(plain) == tasks[:1]
    broker.done(plain, tasks[0])
    assert broker.runs(plain) == tasks[1:]
    broker.core.check()


def test_work_in_an_unknown_environment_is_refused(broker):
    driver, other = broker.driver(), broker.driver("other")
    announce(broker, other)
    with pytest.raises(ProtocolError, match="has not announced"):
        broker.submit(driver, shape=IN_RED)
    with pytest.raises(ProtocolError, match="has not announced"):
        broker.create(driver, placement=IN_RED)


def test_a_malformed_environment_in_a_shape_is_refused(broker):
    driver = broker.driver()
    with pytest.raises(ProtocolError, match="malformed runtime environment"):
        broker.submit(driver, shape=shape_key({"CPU": 10_000}, environment_id=b"short"))


@pytest.mark.parametrize("kind", ["RuntimeEnvSetupError", "WorkerCrashedError"])
def test_a_failed_setup_fails_what_waits_for_it(broker, kind):
    driver, host = broker.driver(), broker.host(CPU=2)
    broker.workers(host)
    announce(broker, driver)
    failing = broker.submit(driver, 3, shape=IN_RED)
    (other,) = broker.submit(driver, shape=IN_BLUE)
    first, *rest = started(broker, host)
    broker.take(driver)
    broker.say(host, m.WorkerDied(first.worker_id, b"", kind, "no such package"))
    failed = broker.take(driver, m.Failed)
    assert {message.task_id for message in failed} == set(failing)
    assert {message.kind for message in failed} == {"RuntimeEnvSetupError"}
    assert all("no such package" in message.message for message in failed)
    assert other in broker.tasks
    (later,) = broker.submit(driver, shape=IN_RED)
    assert RED_SPEC in [told.environment for told in (*rest, *started(broker, host))]
    assert later in broker.tasks
    broker.core.check()


def test_a_failed_setup_ends_the_actor_with_its_error(broker):
    driver, host = broker.driver(), broker.host(CPU=2)
    broker.workers(host)
    announce(broker, driver)
    broker.create(driver, placement=IN_RED, max_restarts=5)
    (told,) = started(broker, host)
    broker.say(host, m.WorkerDied(told.worker_id, b"", "RuntimeEnvSetupError", "no such package"))
    (state,) = broker.take(driver, m.ActorState)
    error = decode_failure(state.error)
    assert type(error).__name__ == "RuntimeEnvSetupError"
    assert "no such package" in str(error)
    assert ACTOR not in broker.core.actors.actors
    assert broker.free["CPU"] == 2
    broker.core.check()


def test_a_worker_that_dies_later_is_no_failed_setup(broker):
    driver, host = broker.driver(), broker.host(CPU=1)
    broker.workers(host)
    announce(broker, driver)
    running, waiting = broker.submit(driver, 2, shape=IN_RED, retryable=False)
    (worker,) = join(broker, host, *started(broker, host))
    assert broker.runs(worker) == [running]
    broker.kill(worker, running)
    (failed,) = broker.take(driver, m.Failed)
    assert (failed.task_id, failed.kind) == (running, "WorkerCrashedError")
    assert waiting in broker.tasks
    broker.core.check()


def test_a_kill_for_lack_of_memory_is_no_failed_setup(broker):
    driver, host = broker.driver(), broker.host(CPU=1)
    broker.workers(host)
    announce(broker, driver)
    (task,) = broker.submit(driver, shape=IN_RED)
    (first,) = started(broker, host)
    broker.say(host, m.WorkerDied(first.worker_id, b"", "OutOfMemoryError", "the kernel has killed it"))
    assert broker.take(driver, m.Failed) == [] and task in broker.tasks
    assert RED_SPEC in [told.environment for told in started(broker, host)]


def test_a_lost_host_is_no_failed_setup(broker):
    driver, host = broker.driver(), broker.host(CPU=1)
    broker.workers(host)
    announce(broker, driver)
    (task,) = broker.submit(driver, shape=IN_RED)
    started(broker, host)
    broker.lose(host)
    assert broker.take(driver, m.Failed) == []
    other = broker.host("other", CPU=1)
    assert RED_SPEC in [told.environment for told in started(broker, other)]
    assert task in broker.tasks
    broker.core.check()


def test_an_actor_restarts_in_its_environment(broker):
    driver, host = broker.driver(), broker.host(CPU=1)
    broker.workers(host)
    announce(broker, driver)
    broker.create(driver, placement=IN_RED, max_restarts=1)
    (worker,) = join(broker, host, *started(broker, host))
    broker.say(worker, m.ActorReady(ACTOR, b""))
    broker.kill(worker)
    (told,) = started(broker, host)
    assert told.environment == RED_SPEC
    broker.core.check()


def test_an_eager_environment_starts_a_worker_on_each_host(broker):
    driver, hosts = broker.driver(), [broker.host("one", CPU=1), broker.host("other", CPU=1)]
    for host in hosts:
        broker.workers(host)
    announce(broker, driver, eager=True)
    assert [[told.environment for told in started(broker, host)] for host in hosts] == [[RED_SPEC], [RED_SPEC]]
    broker.core.check()


def test_idle_workers_of_an_environment_are_asked_to_exit(broker):
    driver, host = broker.driver(), broker.host(CPU=1)
    broker.workers(host)
    announce(broker, driver)
    (task,) = broker.submit(driver, shape=IN_RED)
    (worker,) = join(broker, host, *started(broker, host))
    broker.done(worker, task)
    broker.tick(60.0)
    assert broker.take(worker, m.ExitIfIdle)
    broker.core.check()


def test_many_environments_start_few_workers_at_a_time(broker):
    driver, host = broker.driver(), broker.host(CPU=4)
    broker.workers(host)
    for number in range(200):
        environment_id = number.to_bytes(16, "big")
        broker.say(driver, m.EnvironmentPut(environment_id, EnvironmentSpec(str(number)), False))
        broker.submit(driver, shape=shape_key({"CPU": 10_000}, environment_id=environment_id))
    seen = 0
    while told := started(broker, host):
        assert len(told) <= MAX_STARTING_IN_ENVIRONMENTS
        for worker in join(broker, host, *told):
            broker.done(worker, *broker.runs(worker))
            seen += 1
    assert not broker.tasks
    broker.tick(1.0)
    asked = [worker for worker in broker.core.workers.workers if broker.take(worker, m.ExitIfIdle)]
    assert len(asked) == seen  # the host keeps as many idle workers as it has CPUs
    broker.core.check()


def test_a_job_that_ends_forgets_its_environments(broker):
    driver, host = broker.driver(), broker.host(CPU=1)
    broker.workers(host)
    announce(broker, driver)
    broker.submit(driver, shape=IN_RED)
    broker.lose(driver)
    assert broker.core.workers.environments == {}
    assert not broker.tasks
    told = broker.take(host)
    (worker_id,) = [each.worker_id for each in told if isinstance(each, m.StartWorker)]
    assert [each.worker_id for each in told if isinstance(each, m.KillWorker)][-1:] == [worker_id]
    broker.say(host, m.WorkerDied(worker_id, b"", "RuntimeEnvSetupError", "too late"))
    broker.core.check()


def test_a_job_that_ends_leaves_the_environments_of_others(broker):
    driver, other, host = broker.driver(), broker.driver("other"), broker.host(CPU=1)
    broker.workers(host)
    announce(broker, driver)
    announce(broker, other)
    broker.submit(driver, shape=IN_RED)
    (told,) = started(broker, host)
    broker.lose(driver)
    assert told.worker_id not in [each.worker_id for each in broker.take(host, m.KillWorker)]
    (task,) = broker.submit(other, shape=IN_RED)
    (worker,) = join(broker, host, told)
    assert broker.runs(worker) == [task]
    broker.core.check()


def records(broker: BrokerHarness, driver: bytes) -> list[q.EnvironmentRecord]:
    broker.say(driver, q.StateOfEnvironments(1))
    (answer,) = broker.take(driver, q.EnvironmentRecords)
    return answer.environments


def test_records_of_environments(broker):
    driver, host = broker.driver(), broker.host(CPU=2)
    broker.workers(host)
    announce(broker, driver)
    assert records(broker, driver) == []
    broker.submit(driver, shape=IN_RED)
    (told,) = started(broker, host)
    broker.tick(2.0)
    (worker,) = join(broker, host, told)
    assert records(broker, driver) == [q.EnvironmentRecord(host, "red", True, 2.0, 1, "")]
    broker.submit(driver, shape=IN_BLUE)
    (told,) = started(broker, host)
    broker.say(host, m.WorkerDied(told.worker_id, b"", "RuntimeEnvSetupError", "no such package"))
    broker.kill(worker)
    red, blue = records(broker, driver)
    assert red == q.EnvironmentRecord(host, "red", True, 2.0, 0, "")
    assert blue == q.EnvironmentRecord(host, "blue", False, None, 0, "no such package")


def test_records_of_environments_are_bounded(broker, monkeypatch):
    monkeypatch.setattr(environments, "MAX_RECORDS", 1)
    driver, hosts = broker.driver(), [broker.host(name, CPU=1) for name in ("a", "b")]
    for host in hosts:
        broker.workers(host)
    announce(broker, driver, eager=True)
    for host in hosts:
        join(broker, host, *started(broker, host))
    assert [record.host for record in records(broker, driver)] == hosts[1:]


def test_a_shape_without_an_environment_is_as_before():
    assert shape_key({"CPU": 10_000}, environment_id=b"") == ONE_CPU
