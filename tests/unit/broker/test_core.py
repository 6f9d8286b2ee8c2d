"""Joining, leaving, watching and routing; functions, jobs, queries and warnings."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from tests.unit.broker.harness import ACTOR, FUNCTION, NO_CPU, ONE_CPU, BrokerHarness, amounts, shape
from zray.broker.resources import HEAD, UNIT
from zray.ids import make_task_id
from zray.protocol import messages as m
from zray.protocol import questions as q
from zray.protocol.records import HostInfo, JoinInfo


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


def ask(broker: BrokerHarness, source: bytes, question: Any) -> Any:
    broker.take(source)
    broker.say(source, question)
    (answer,) = broker.take(source, *get_args(q.Answer))
    assert answer.request == question.request
    return answer


# ------------------------------------------------------------------ joining


def test_drivers_get_jobs(broker):
    one, two = (broker.core.joined(name * 16, m.DRIVER, JoinInfo(), 0.0) for name in (b"a", b"b"))
    assert (one.job_id, two.job_id) == (b"\0\0\0\1", b"\0\0\0\2")


def test_joining_twice_is_joining_once(broker):
    one, two = (broker.core.joined(b"a" * 16, m.DRIVER, JoinInfo(), 0.0) for _ in range(2))
    assert one == two
    assert len(broker.core.jobs) == 1


def test_present_and_past_members_are_known(broker):
    driver, other = broker.driver(), broker.driver("other")
    broker.say(other, m.Goodbye("done"))
    answers = [ask(broker, driver, q.MemberQuery(1, each)).is_member for each in (driver, other, b"x" * 16)]
    assert answers == [True, True, False]


def test_a_worker_that_no_host_started(broker):
    assert broker.core.may_join(b"w" * 16, m.WORKER)
    assert broker.core.may_join(b"w" * 16, m.DRIVER) == ""


def test_a_dead_process_cannot_join_again(broker):
    driver = broker.driver()
    broker.lose(driver)
    assert "it was silent" in broker.core.may_join(driver, m.DRIVER)


def test_the_number_of_fenced_processes_is_limited(broker, monkeypatch):
    monkeypatch.setattr("zray.broker.core.MAX_FENCED", 10)
    for number in range(20):
        broker.core.lost(bytes([number]) * 16, "gone", 0.0)
    assert [bool(broker.core.may_join(bytes([number]) * 16, m.DRIVER)) for number in (0, 9, 10, 19)] == [
        False,
        False,
        True,
        True,
    ]


def test_messages_of_unknown_processes_are_dropped(broker):
    broker.say(b"x" * 16, m.FunctionPut(FUNCTION, "f", b"code"))
    assert len(broker.core.functions) == 0


def test_only_the_first_host_ready_counts(broker):
    host = broker.host(CPU=1)
    broker.say(host, m.HostReady(amounts(CPU=64), HostInfo()))
    assert broker.free == {"CPU": 1}


def test_hosts_with_malformed_resources(broker):
    broker.core.joined(b"h" * 16, m.HOST, JoinInfo(), 0.0)
    with pytest.raises(m.ProtocolError):
        broker.say(b"h" * 16, m.HostReady({"CPU": 1 << 62}, HostInfo()))
    assert broker.core.scheduler.hosts == {}


# ------------------------------------------------------------------ watching and routing


def test_watching(broker):
    one, two = broker.driver("one"), broker.driver("two")
    broker.say(one, m.Watch(two), m.Watch(two))
    broker.lose(two)
    assert broker.take(one) == [m.ProcessDied(two, "it was silent")]


def test_watching_dead_and_unknown_processes(broker):
    one, two = broker.driver("one"), broker.driver("two")
    broker.lose(two)
    broker.say(one, m.Watch(two), m.Watch(b"x" * 16))
    assert broker.take(one) == [m.ProcessDied(two, "it was silent"), m.ProcessDied(b"x" * 16, "unknown process")]


def test_rows_for_a_peer_are_passed_on_unopened(broker):
    one, two = broker.driver("one"), broker.driver("two")
    broker.say(one, m.Forward(two, b"\xc1 whatever"))
    assert broker.take(two) == [m.Delivered(one, b"\xc1 whatever")]


def test_rows_for_a_dead_process(broker):
    one, two = broker.driver("one"), broker.driver("two")
    broker.lose(two)
    broker.say(one, m.Forward(two, b""))
    assert broker.take(one) == [m.ProcessDied(two, "it was silent")]


def test_hosts_learn_of_the_deaths_of_owners_that_they_watch(broker):
    host = broker.host(CPU=0)
    driver, other = broker.driver("one"), broker.driver("two")
    broker.say(host, m.Watch(driver))
    broker.lose(other)
    broker.lose(driver)
    assert broker.take(host, m.ProcessDied) == [m.ProcessDied(driver, "it was silent")]
    broker.say(host, m.Watch(other))
    assert broker.take(host, m.ProcessDied) == [m.ProcessDied(other, "it was silent")]


# ------------------------------------------------------------------ functions


def test_functions(broker):
    driver = broker.driver()
    broker.say(driver, m.FunctionPut(FUNCTION, "f", b"code"), m.FunctionGet(FUNCTION), m.FunctionGet(b"x" * 16))
    assert broker.take(driver) == [
        m.FunctionBlob(FUNCTION, True, "f", b"code"),
        m.FunctionBlob(b"x" * 16, False, "", b""),
    ]


@pytest.mark.parametrize(
    "wrong",
    [m.FunctionPut(FUNCTION, "f", b"other code"), m.FunctionPut(b"x" * 16, "f", b"code"),
     m.FunctionPut(FUNCTION, "f", b"")],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_no_process_sends_another_function_under_a_known_identifier(broker, wrong, first):
    """Neither before nor after the right function was sent."""
    driver, other = broker.driver(), broker.driver("other")
    right = m.FunctionPut(FUNCTION, "f", b"code")
    for message in (wrong, right) if first else (right, wrong):
        if message is right:
            broker.say(driver, message)
        else:
            with pytest.raises(m.ProtocolError, match="identifier"):
                broker.say(other, message)
    broker.say(driver, m.FunctionGet(FUNCTION), m.FunctionGet(wrong.function_id))
    blobs = {answer.function_id: answer.blob for answer in broker.take(driver)}
    assert blobs == {wrong.function_id: b"", FUNCTION: b"code"}


def test_a_function_lives_as_long_as_any_of_its_jobs(broker):
    one, two = broker.driver("one"), broker.driver("two")
    for driver in (one, two):
        broker.say(driver, m.FunctionPut(FUNCTION, "f", b"code"))
    broker.say(one, m.Goodbye("bye"))
    assert FUNCTION in broker.core.functions
    broker.say(two, m.Goodbye("bye"))
    assert len(broker.core.functions) == 0


# ------------------------------------------------------------------ the end of a job


@pytest.mark.parametrize("end", ["goodbye", "silence"])
def test_a_job_ends_with_its_driver(broker, end):
    host = broker.host(CPU=2)
    first, second = broker.workers(host)
    driver, other = broker.driver(), broker.driver("other")
    broker.say(driver, m.FunctionPut(FUNCTION, "f", b"code"))
    broker.submit(driver, 5, retryable=False)
    (nested,) = broker.submit(first)
    broker.create(driver)
    broker.say(other, m.Watch(driver))
    broker.take(host)
    if end == "goodbye":
        broker.say(driver, m.Goodbye("bye"))
    else:
        broker.lose(driver)
    assert {kill.worker_id for kill in broker.take(host, m.KillWorker)} == {first, second}
    assert [type(message) for message in broker.take(other)] == [m.ProcessDied]
    for worker in (first, second):
        broker.kill(worker, nested)
    core = broker.core
    assert (broker.tasks, core.actors.actors, len(core.functions), core.lines.queues) == ({}, {}, 0, {})
    assert list(core.jobs) == [b"\0\0\0\2"]
    assert broker.free == {"CPU": 2}


def test_late_messages_of_a_worker_of_an_ended_job(broker):
    host = broker.host(CPU=1)
    (worker,) = broker.workers(host)
    driver = broker.driver()
    (task_id,) = broker.submit(driver)
    broker.say(driver, m.Goodbye("bye"))
    broker.submit(worker)
    broker.say(worker, m.FunctionPut(FUNCTION, "f", b"code"), m.Blocked(True), m.Blocked(False))
    broker.done(worker, task_id)
    assert broker.tasks == {}
    broker.kill(worker)
    assert broker.free == {"CPU": 1}


def test_functions_of_an_ended_job_are_not_kept(broker):
    host = broker.host(CPU=1)
    (worker,) = broker.workers(host)
    driver = broker.driver()
    broker.submit(driver)
    broker.say(driver, m.Goodbye("bye"))
    broker.say(worker, m.FunctionPut(FUNCTION, "f", b"code"))
    broker.kill(worker)
    assert len(broker.core.functions) == 0


def test_jobs_do_not_disturb_each_other(broker):
    host = broker.host(CPU=2)
    broker.workers(host)
    one, two = broker.driver("one"), broker.driver("two")
    broker.submit(one)
    (task_id,) = broker.submit(two)
    worker = broker.tasks[task_id].worker.worker_id
    broker.take(host)
    broker.say(one, m.Goodbye("bye"))
    assert worker not in {kill.worker_id for kill in broker.take(host, m.KillWorker)}
    broker.done(worker, task_id)
    assert len(broker.take(two, m.Result)) == 1


def test_everything_on_a_lost_host_ends(broker):
    host = broker.host(CPU=2)
    workers = broker.workers(host)
    driver = broker.driver()
    broker.say(driver, *[m.Watch(worker) for worker in workers])
    broker.submit(driver, 2)
    broker.create(driver)
    broker.lose(host)
    assert {message.process_id for message in broker.take(driver, m.ProcessDied)} == set(workers)
    assert broker.core.workers.workers == {}
    assert broker.core.actors.actors[ACTOR].worker is None


# ------------------------------------------------------------------ queries


def test_resources_and_hosts_of_the_cluster(broker):
    driver = broker.driver()
    one = broker.host("one", CPU=2, special=0.5)
    broker.host("two", CPU=1)
    broker.workers(one)
    assert ask(broker, driver, q.ResourcesQuery(1, free=False)).amounts == {"CPU": 3, "special": 0.5, HEAD: 1}
    broker.submit(driver)
    assert ask(broker, driver, q.ResourcesQuery(1, free=True)).amounts == {"CPU": 2, "special": 0.5, HEAD: 1}
    hosts = ask(broker, driver, q.HostsQuery(1)).hosts
    assert [(host.info.hostname, host.workers) for host in hosts] == [("one", 2), ("two", 1)]
    assert (hosts[0].total, hosts[0].free) == (
        {"CPU": 2, "special": 0.5, HEAD: 1},
        {"CPU": 1, "special": 0.5, HEAD: 1},
    )


def test_the_first_host_is_the_head_and_has_a_successor(broker):
    one, two = broker.host("one", CPU=1), broker.host("two", CPU=1)
    hosts = broker.core.scheduler.hosts
    assert [hosts[host].pool.total.get(HEAD, 0) for host in (one, two)] == [UNIT, 0]
    broker.lose(one)
    three = broker.host("three", CPU=1)
    assert [hosts[host].pool.total.get(HEAD, 0) for host in (two, three)] == [0, UNIT]


def test_named_actors(broker):
    driver = broker.driver()
    for number, (namespace, name) in enumerate([("a", "x"), ("a", "y"), ("b", "x")], start=1):
        broker.create(driver, make_task_id(driver, number), name=name, namespace=namespace)
    found = ask(broker, driver, q.NamedActorsQuery(1, "a"))
    assert found.names == [q.ActorName("a", "x"), q.ActorName("a", "y")]
    assert len(ask(broker, driver, q.NamedActorsQuery(2, None)).names) == 3


def test_other_queries(broker):
    driver = broker.driver()
    broker.workers(broker.host(CPU=1))
    broker.create(driver, name="n")
    (actor,), (worker,) = ask(broker, driver, q.ActorsQuery(1)).actors, ask(broker, driver, q.WorkersQuery(2)).workers
    assert (actor.actor_id, actor.name, actor.state) == (ACTOR, "n", "PENDING_CREATION")
    assert (worker.actor, worker.state) == ("A 'n'", "SERVING")
    counts = ask(broker, driver, q.CountsQuery(3))
    assert (counts.actors, counts.workers, counts.processes) == (1, 1, 3)


# ------------------------------------------------------------------ warnings


def warnings(broker: BrokerHarness, driver: bytes) -> list[str]:
    return [notice.text for notice in broker.take(driver, m.Notice)]


def test_resources_that_no_host_has_are_reported_once(broker):
    driver = broker.driver()
    broker.host(CPU=4)
    broker.submit(driver, 3, shape(CPU=1, GPU=2))
    broker.tick(1)
    assert warnings(broker, driver) == []
    broker.tick(1.5)
    assert warnings(broker, driver) == []
    broker.tick(1)
    (text,) = warnings(broker, driver)
    assert "3 task(s)" in text
    assert "{CPU: 1, GPU: 2}" in text
    assert "{CPU: 4}" in text
    broker.tick(100)
    assert warnings(broker, driver) == []


def test_no_host_at_all(broker):
    driver = broker.driver()
    broker.create(driver, name="n", placement=ONE_CPU)
    broker.tick(1)
    broker.tick(5)
    (text,) = warnings(broker, driver)
    assert "A 'n'" in text
    assert "there is no host" in text


def test_a_host_that_joins_in_time(broker):
    driver = broker.driver()
    broker.submit(driver, shape=shape(special=1))
    broker.tick(1)
    broker.host(special=1)
    broker.tick(5)
    assert warnings(broker, driver) == []


def test_tasks_that_only_wait_are_not_reported(broker):
    driver = broker.driver()
    broker.workers(broker.host(CPU=1))
    broker.submit(driver, 5, retryable=False)
    broker.tick(1)
    broker.tick(60)
    assert warnings(broker, driver) == []


def test_actors_that_hold_every_cpu_are_named(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    (worker,) = broker.workers(host)
    broker.create(driver, name="hog", running=ONE_CPU)
    broker.say(worker, m.ActorReady(ACTOR, b""))
    broker.submit(driver)
    broker.tick(1)
    broker.tick(5)
    assert warnings(broker, driver) == []
    broker.tick(10)
    (text,) = warnings(broker, driver)
    assert "A 'hog'" in text
    assert "1 task(s)" in text


def test_a_warning_is_repeated_for_a_new_task(broker):
    driver = broker.driver()
    broker.host(CPU=1)
    wanted = shape(GPU=1)
    for _ in range(2):
        (task_id,) = broker.submit(driver, shape=wanted)
        broker.tick(0)
        broker.tick(3)
        assert len(warnings(broker, driver)) == 1
        broker.say(driver, m.Cancel(task_id, 0))
        broker.tick(0)


def test_a_host_reports_about_its_own_workers_only(broker):
    host, other = broker.host(CPU=1), broker.host("other", CPU=1)
    (worker,) = broker.workers(host)
    driver = broker.driver()
    broker.submit(driver)
    broker.say(other, m.WorkerStarted(worker, 4711), m.WorkerDied(worker, b"", "WorkerCrashedError", "murder"))
    assert broker.take(driver) == []
    assert broker.core.workers.workers[worker].pid == 1000


def test_tasks_without_resources_need_no_cpu(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    broker.workers(host)
    broker.submit(driver, 1, ONE_CPU)
    (task_id,) = broker.submit(driver, 1, NO_CPU)
    (worker,) = broker.workers(host)
    assert broker.runs(worker) == [task_id]
    assert task_id == make_task_id(driver, 2)
