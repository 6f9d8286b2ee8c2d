"""Joining, leaving, watching and routing; functions, jobs, queries and warnings."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.broker.desk import ACTOR, FUNCTION, NO_CPU, ONE_CPU, Desk, amounts, shape
from zray.ids import make_task_id
from zray.protocol import messages as m


@pytest.fixture
def desk() -> Desk:
    return Desk()


def ask(desk: Desk, source: bytes, what: str, **argument: object) -> Any:
    desk.take(source)
    desk.say(source, m.Query(1, what, argument))
    (answer,) = desk.take(source, m.Answer)
    return answer.value


# ------------------------------------------------------------------ joining


def test_drivers_get_jobs(desk):
    one, two = (desk.core.joined(name * 16, m.DRIVER, {}, 0.0) for name in (b"a", b"b"))
    assert (one["job_id"], two["job_id"]) == (b"\0\0\0\1", b"\0\0\0\2")


def test_joining_twice_is_joining_once(desk):
    one, two = (desk.core.joined(b"a" * 16, m.DRIVER, {}, 0.0) for _ in range(2))
    assert one == two
    assert len(desk.core.jobs) == 1


def test_who_is_or_was_a_member(desk):
    driver, other = desk.driver(), desk.driver("other")
    desk.say(other, m.Goodbye("done"))
    asked: list[Any] = [driver, other, b"x" * 16, [], "x", None]
    answers = [ask(desk, driver, "is_member", process_id=each) for each in asked]
    assert answers == [True, True, False, False, False, False]
    assert ask(desk, driver, "is_member") is False


def test_a_worker_that_nobody_started(desk):
    assert desk.core.may_join(b"w" * 16, m.WORKER)
    assert desk.core.may_join(b"w" * 16, m.DRIVER) == ""


def test_the_dead_stay_dead(desk):
    driver = desk.driver()
    desk.lose(driver)
    assert "it was silent" in desk.core.may_join(driver, m.DRIVER)


def test_nobody_is_remembered_for_ever(desk, monkeypatch):
    monkeypatch.setattr("zray.broker.core.MAX_FENCED", 10)
    for number in range(20):
        desk.core.lost(bytes([number]) * 16, "gone")
    assert [bool(desk.core.may_join(bytes([number]) * 16, m.DRIVER)) for number in (0, 9, 10, 19)] == [
        False,
        False,
        True,
        True,
    ]


def test_the_unknown_are_not_heard(desk):
    desk.say(b"x" * 16, m.FunctionPut(FUNCTION, "f", b"code"))
    assert desk.core.functions == {}


def test_a_host_says_once_what_it_has(desk):
    host = desk.host(CPU=1)
    desk.say(host, m.HostReady(amounts(CPU=64), {}))
    assert desk.free == {"CPU": 1}


def test_hosts_with_malformed_resources(desk):
    desk.core.joined(b"h" * 16, m.HOST, {}, 0.0)
    with pytest.raises(m.ProtocolError):
        desk.say(b"h" * 16, m.HostReady({"CPU": -1}, {}))
    assert desk.core.scheduler.hosts == {}


# ------------------------------------------------------------------ watching and routing


def test_watching(desk):
    one, two = desk.driver("one"), desk.driver("two")
    desk.say(one, m.Watch(two), m.Watch(two))
    desk.lose(two)
    assert desk.take(one) == [m.ProcessDied(two, "it was silent")]


def test_watching_the_dead_and_the_unknown(desk):
    one, two = desk.driver("one"), desk.driver("two")
    desk.lose(two)
    desk.say(one, m.Watch(two), m.Watch(b"x" * 16))
    assert desk.take(one) == [m.ProcessDied(two, "it was silent"), m.ProcessDied(b"x" * 16, "unknown process")]


def test_rows_for_a_peer_are_passed_on_unopened(desk):
    one, two = desk.driver("one"), desk.driver("two")
    desk.say(one, m.Peer(two, b"\xc1 whatever"))
    assert desk.take(two) == [m.Delivered(one, b"\xc1 whatever")]


def test_rows_for_the_dead(desk):
    one, two = desk.driver("one"), desk.driver("two")
    desk.lose(two)
    desk.say(one, m.Peer(two, b""))
    assert desk.take(one) == [m.ProcessDied(two, "it was silent")]


def test_hosts_hear_of_the_owners_that_they_watch(desk):
    host = desk.host(CPU=0)
    driver, other = desk.driver("one"), desk.driver("two")
    desk.say(host, m.Watch(driver))
    desk.lose(other)
    desk.lose(driver)
    assert desk.take(host, m.ProcessDied) == [m.ProcessDied(driver, "it was silent")]
    desk.say(host, m.Watch(other))
    assert desk.take(host, m.ProcessDied) == [m.ProcessDied(other, "it was silent")]


# ------------------------------------------------------------------ functions


def test_functions(desk):
    driver = desk.driver()
    desk.say(driver, m.FunctionPut(FUNCTION, "f", b"code"), m.FunctionGet(FUNCTION), m.FunctionGet(b"x" * 16))
    assert desk.take(driver) == [
        m.FunctionBlob(FUNCTION, True, "f", b"code"),
        m.FunctionBlob(b"x" * 16, False, "", b""),
    ]


@pytest.mark.parametrize(
    "wrong",
    [m.FunctionPut(FUNCTION, "f", b"other code"), m.FunctionPut(b"x" * 16, "f", b"code"),
     m.FunctionPut(FUNCTION, "f", b"")],
)  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
def test_nobody_ships_another_function_under_a_known_identifier(desk, wrong, first):
    """Neither before the one whose it is, nor after."""
    driver, other = desk.driver(), desk.driver("other")
    right = m.FunctionPut(FUNCTION, "f", b"code")
    for message in (wrong, right) if first else (right, wrong):
        if message is right:
            desk.say(driver, message)
        else:
            with pytest.raises(m.ProtocolError, match="identifier"):
                desk.say(other, message)
    desk.say(driver, m.FunctionGet(FUNCTION), m.FunctionGet(wrong.function_id))
    blobs = {answer.function_id: answer.blob for answer in desk.take(driver)}
    assert blobs == {wrong.function_id: b"", FUNCTION: b"code"}


def test_a_function_lives_as_long_as_any_of_its_jobs(desk):
    one, two = desk.driver("one"), desk.driver("two")
    for driver in (one, two):
        desk.say(driver, m.FunctionPut(FUNCTION, "f", b"code"))
    desk.say(one, m.Goodbye("bye"))
    assert FUNCTION in desk.core.functions
    desk.say(two, m.Goodbye("bye"))
    assert desk.core.functions == {}


# ------------------------------------------------------------------ the end of a job


@pytest.mark.parametrize("end", ["goodbye", "silence"])
def test_a_job_ends_with_its_driver(desk, end):
    host = desk.host(CPU=2)
    first, second = desk.workers(host)
    driver, other = desk.driver(), desk.driver("other")
    desk.say(driver, m.FunctionPut(FUNCTION, "f", b"code"))
    desk.submit(driver, 5, retryable=False)
    (nested,) = desk.submit(first)
    desk.create(driver)
    desk.say(other, m.Watch(driver))
    desk.take(host)
    if end == "goodbye":
        desk.say(driver, m.Goodbye("bye"))
    else:
        desk.lose(driver)
    assert {kill.worker_id for kill in desk.take(host, m.KillWorker)} == {first, second}
    assert [type(message) for message in desk.take(other)] == [m.ProcessDied]
    for worker in (first, second):
        desk.kill(worker, nested)
    core = desk.core
    assert (core.tasks, core.actors.actors, core.functions, core.scheduler.queues) == ({}, {}, {}, {})
    assert list(core.jobs) == [b"\0\0\0\2"]
    assert desk.free == {"CPU": 2}


def test_what_a_worker_of_an_ended_job_still_says(desk):
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    driver = desk.driver()
    (task_id,) = desk.submit(driver)
    desk.say(driver, m.Goodbye("bye"))
    desk.submit(worker)
    desk.say(worker, m.FunctionPut(FUNCTION, "f", b"code"), m.Blocked(True), m.Blocked(False))
    desk.done(worker, task_id)
    assert desk.core.tasks == {}
    desk.kill(worker)
    assert desk.free == {"CPU": 1}


def test_functions_of_an_ended_job_do_not_stay(desk):
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    driver = desk.driver()
    desk.submit(driver)
    desk.say(driver, m.Goodbye("bye"))
    desk.say(worker, m.FunctionPut(FUNCTION, "f", b"code"))
    desk.kill(worker)
    assert desk.core.functions == {}


def test_jobs_do_not_disturb_each_other(desk):
    host = desk.host(CPU=2)
    desk.workers(host)
    one, two = desk.driver("one"), desk.driver("two")
    desk.submit(one)
    (task_id,) = desk.submit(two)
    worker = desk.core.tasks[task_id].worker.worker_id
    desk.take(host)
    desk.say(one, m.Goodbye("bye"))
    assert worker not in {kill.worker_id for kill in desk.take(host, m.KillWorker)}
    desk.done(worker, task_id)
    assert len(desk.take(two, m.Result)) == 1


def test_a_host_goes_with_everything_on_it(desk):
    host = desk.host(CPU=2)
    workers = desk.workers(host)
    driver = desk.driver()
    desk.say(driver, *[m.Watch(worker) for worker in workers])
    desk.submit(driver, 2)
    desk.create(driver)
    desk.lose(host)
    assert {message.process_id for message in desk.take(driver, m.ProcessDied)} == set(workers)
    assert desk.core.scheduler.workers == {}
    assert desk.core.actors.actors[ACTOR].worker is None


# ------------------------------------------------------------------ queries


def test_what_the_cluster_has(desk):
    driver = desk.driver()
    one = desk.host("one", CPU=2, special=0.5)
    desk.host("two", CPU=1)
    desk.workers(one)
    assert ask(desk, driver, "cluster_resources") == {"CPU": 3, "special": 0.5}
    desk.submit(driver)
    assert ask(desk, driver, "available_resources") == {"CPU": 2, "special": 0.5}
    hosts = ask(desk, driver, "hosts")
    assert [(host["hostname"], host["workers"]) for host in hosts] == [("one", 2), ("two", 1)]


def test_named_actors(desk):
    driver = desk.driver()
    for number, (namespace, name) in enumerate([("a", "x"), ("a", "y"), ("b", "x")], start=1):
        desk.create(driver, make_task_id(driver, number), name=name, namespace=namespace)
    rows = ask(desk, driver, "named_actors", namespace="a")
    assert [row["name"] for row in rows] == ["x", "y"]
    assert len(ask(desk, driver, "named_actors")) == 3


def test_other_queries(desk):
    driver = desk.driver()
    desk.workers(desk.host(CPU=1))
    desk.create(driver, name="n")
    assert ask(desk, driver, "actors")[0]["state"] == "PENDING_CREATION"
    assert ask(desk, driver, "workers")[0]["actor"] == "A 'n'"
    assert ask(desk, driver, "stats")["actors"] == 1
    assert ask(desk, driver, "the meaning of life") is None


# ------------------------------------------------------------------ warnings


def warnings(desk: Desk, driver: bytes) -> list[str]:
    return [notice.text for notice in desk.take(driver, m.Notice)]


def test_what_no_host_has_is_reported_once(desk):
    driver = desk.driver()
    desk.host(CPU=4)
    desk.submit(driver, 3, shape(CPU=1, GPU=2))
    desk.tick(1)
    assert warnings(desk, driver) == []
    desk.tick(1.5)
    assert warnings(desk, driver) == []
    desk.tick(1)
    (text,) = warnings(desk, driver)
    assert "3 task(s)" in text
    assert "{CPU: 1, GPU: 2}" in text
    assert "{CPU: 4}" in text
    desk.tick(100)
    assert warnings(desk, driver) == []


def test_no_host_at_all(desk):
    driver = desk.driver()
    desk.create(driver, name="n", placement=ONE_CPU)
    desk.tick(1)
    desk.tick(5)
    (text,) = warnings(desk, driver)
    assert "A 'n'" in text
    assert "there is no host" in text


def test_a_host_that_joins_in_time(desk):
    driver = desk.driver()
    desk.submit(driver, shape=shape(special=1))
    desk.tick(1)
    desk.host(special=1)
    desk.tick(5)
    assert warnings(desk, driver) == []


def test_what_only_waits_is_not_reported(desk):
    driver = desk.driver()
    desk.workers(desk.host(CPU=1))
    desk.submit(driver, 5, retryable=False)
    desk.tick(1)
    desk.tick(60)
    assert warnings(desk, driver) == []


def test_actors_that_hold_every_cpu_are_named(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    desk.create(driver, name="hog", running=ONE_CPU)
    desk.say(worker, m.ActorReady(ACTOR, b""))
    desk.submit(driver)
    desk.tick(1)
    desk.tick(5)
    assert warnings(desk, driver) == []
    desk.tick(10)
    (text,) = warnings(desk, driver)
    assert "A 'hog'" in text
    assert "1 task(s)" in text


def test_a_warning_is_given_again_for_another_occasion(desk):
    driver = desk.driver()
    desk.host(CPU=1)
    wanted = shape(GPU=1)
    for _ in range(2):
        (task_id,) = desk.submit(driver, shape=wanted)
        desk.tick(0)
        desk.tick(3)
        assert len(warnings(desk, driver)) == 1
        desk.say(driver, m.Cancel(task_id, 0))
        desk.tick(0)


def test_no_host_speaks_for_the_workers_of_another(desk):
    host, other = desk.host(CPU=1), desk.host("other", CPU=1)
    (worker,) = desk.workers(host)
    driver = desk.driver()
    desk.submit(driver)
    desk.say(other, m.WorkerStarted(worker, 4711), m.WorkerDied(worker, b"", "WorkerCrashedError", "murder"))
    assert desk.take(driver) == []
    assert desk.core.scheduler.workers[worker].pid == 1000


def test_tasks_without_resources_need_no_cpu(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    desk.workers(host)
    desk.submit(driver, 1, ONE_CPU)
    (task_id,) = desk.submit(driver, 1, NO_CPU)
    (worker,) = desk.workers(host)
    assert desk.runs(worker) == [task_id]
    assert task_id == make_task_id(driver, 2)


@pytest.mark.parametrize("info", [{"pid": "x"}, {"pid": None}, {"job": 5}, {"job": [1]}])
def test_malformed_introductions(desk, info):
    host = desk.host(CPU=1)
    (start,) = desk.take(host, m.StartWorker)
    try:
        desk.core.joined(start.worker_id, m.WORKER, info, desk.now)
        desk.core.joined(b"d" * 16, m.DRIVER, info, desk.now)
    except m.ProtocolError:
        return
