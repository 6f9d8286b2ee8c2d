"""The state of a cluster as it is told to whoever looks, who takes no part in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.broker.desk import ACTOR, ONE_CPU, OTHER, Desk, one_worker, prefetched, shape
from zray.broker.inspections import MAX_OPEN, PATIENCE_S
from zray.ids import make_task_id
from zray.protocol import messages as m
from zray.protocol.messages import MAY_SEND, OBSERVER

WATCHER = b"watcher".ljust(16, b"\0")


@pytest.fixture
def desk() -> Desk:
    return Desk(shell_status=lambda: {"uptime_s": 5.0, "refused": {"no key": 2}, "dropped_frames": 1})


def look(desk: Desk) -> dict[str, Any]:
    desk.core.joined(WATCHER, OBSERVER, {"pid": 9}, desk.now)
    desk.say(WATCHER, m.Query(1, "status", {}))
    desk.core.inspections.tick(desk.now + PATIENCE_S)  # nobody has answered
    desk.turn()
    (answer,) = desk.take(WATCHER, m.Answer)
    assert json.loads(json.dumps(answer.value)) == answer.value
    assert isinstance(answer.value, dict)
    return answer.value


def test_nothing(desk):
    assert look(desk) == {
        "uptime_s": 5.0, "refused": {"no key": 2}, "dropped_frames": 1,
        "hosts": [], "jobs": [], "waiting": [], "running": [], "waiting_for_arguments": {},
        "actors": {"PENDING_CREATION": 0, "ALIVE": 0, "RESTARTING": 0},
    }  # fmt: skip


def test_an_observer_takes_no_part(desk):
    host = desk.host(CPU=1)
    desk.workers(host)
    desk.take(host)
    look(desk)
    assert not desk.core.jobs
    desk.say(WATCHER, m.Goodbye("seen"))
    assert WATCHER not in desk.core.processes and desk.take(host) == [m.Inspect(1)]
    assert desk.core.may_join(WATCHER, OBSERVER)
    driver = desk.driver()
    assert desk.core.processes[driver].job_id == b"\0\0\0\1"


def test_an_observer_may_only_ask():
    assert {m.Query, m.Goodbye} == MAY_SEND[OBSERVER]


def test_a_host(desk):
    driver, _ = one_worker(desk)
    desk.submit(driver)
    (host,) = look(desk)["hosts"]
    assert host["hostname"] == "host" and bytes.fromhex(host["host_id"]).startswith(b"host")
    assert host["resources"] == {"CPU": {"total": 1.0, "used": 1.0}}
    assert host["workers"] == {"starting": 0, "idle": 0, "busy": 1, "actors": 0, "ending": 0}


def test_what_a_host_says_of_itself_is_made_text(desk):
    joiner = b"odd".ljust(16, b"\0")
    desk.core.joined(joiner, m.HOST, {}, desk.now)
    desk.say(joiner, m.HostReady({}, {"hostname": "odd", "labels": {"rack": 7}}))
    (host,) = look(desk)["hosts"]
    assert host["hostname"] == "odd" and host["labels"] == {"rack": "7"}


def test_tasks_handed_out_in_advance_wait(desk):
    _, worker, task_ids = prefetched(desk, 6)
    (job,) = look(desk)["jobs"]
    assert (job["tasks_running"], job["tasks_waiting"], job["actors"]) == (1, 5, 0)
    queued = len(task_ids) - len(desk.core.scheduler.workers[worker].outstanding)
    assert sum(row["count"] for row in look(desk)["waiting"]) == queued


def test_what_waits_by_shape(desk):
    driver, other = desk.driver(), desk.driver("other")
    desk.workers(desk.host(CPU=1))
    desk.submit(driver, 3, shape(CPU=8))
    cancelled, *_ = desk.submit(other, 2, shape(CPU=8))[1:]
    desk.say(other, m.Cancel(cancelled, 0))
    desk.submit(other, 2, retryable=False)
    desk.create(driver, placement=shape(GPU=1))
    assert look(desk)["waiting"] == [
        {"what": "tasks", "count": 4, "resources": {"CPU": 8.0}, "can_be_placed": False},
        {"what": "tasks", "count": 1, "resources": {"CPU": 1.0}, "can_be_placed": True},
        {"what": "actors", "count": 1, "resources": {"GPU": 1.0}, "can_be_placed": False},
    ]


def test_actors_and_the_job_of_a_driver_that_left(desk):
    driver, worker = one_worker(desk)
    early = m.ActorCall(make_task_id(driver, 9), 0, 1, driver + bytes(8), 0, b"")
    desk.say(driver, early)  # it has overtaken its actor's announcement
    desk.create(driver, detached=True, name="stays", running=ONE_CPU)
    assert look(desk)["actors"]["PENDING_CREATION"] == 1
    desk.say(worker, m.ActorReady(ACTOR, b""))
    desk.say(driver, m.Goodbye("done"))
    found = look(desk)
    assert found["actors"] == {"PENDING_CREATION": 0, "ALIVE": 1, "RESTARTING": 0}
    (job,) = found["jobs"]
    assert job["driver_pid"] is None and job["actors"] == 1
    assert found["hosts"][0]["workers"]["actors"] == 1


# ------------------------------------------------------------------ what only others know


def ask(desk: Desk, what: str = "status", **argument: Any) -> None:
    desk.core.joined(WATCHER, OBSERVER, {"pid": 9}, desk.now)
    desk.say(WATCHER, m.Query(1, what, argument))


def answer(desk: Desk) -> Any:
    (answer,) = desk.take(WATCHER, m.Answer)
    return answer.value


def tell(desk: Desk, process: bytes, **found: Any) -> None:
    (inspect,) = desk.take(process, m.Inspect)
    desk.say(process, m.Inspected(inspect.request, found))


def does(*running: list[Any], waits: list[Any] = [], arguments: dict[str, Any] = {}) -> dict[str, Any]:  # noqa: B006
    return {"running": list(running), "waits": waits, "arguments": arguments}


def test_hosts_workers_and_drivers_are_asked(desk):
    driver, worker = one_worker(desk)
    (host,) = desk.core.scheduler.hosts
    (task,) = desk.submit(driver)
    ask(desk)
    pid = desk.core.scheduler.workers[worker].pid
    tell(desk, driver, **does(arguments={"merge": 2}))
    tell(desk, worker, **does(["fit", 3.5, task], waits=[[task + bytes(4), "load", b""]]))
    store = {"capacity": 10, "used": 7, "idle": 3, "spilled": 0}
    tell(desk, host, store=store, memory={str(pid): 4096})
    found = answer(desk)
    assert found["hosts"][0]["store"] == store and found["hosts"][0]["heard_s"] == 0.0
    assert found["waiting_for_arguments"] == {"merge": 2}
    assert found["running"] == [
        {"what": "task", "actor": "", "name": "fit", "host_id": host.hex(), "pid": pid, "seconds": 3.5,
         "memory_bytes": 4096, "answers": True, "waits_for": ["load"]}
    ]  # fmt: skip


def test_who_does_not_answer_is_left_out_and_who_dies_is_not_waited_for(desk):
    driver, worker = one_worker(desk)
    desk.submit(driver)
    ask(desk)
    tell(desk, driver, **does())
    assert desk.take(WATCHER, m.Answer) == []
    desk.kill(worker)
    (host,) = desk.core.scheduler.hosts
    tell(desk, host, store={}, memory={})
    assert answer(desk)["running"] == []
    desk.take(driver)
    desk.submit(driver)
    desk.workers(host)
    ask(desk)
    desk.tick(PATIENCE_S)
    (row,) = answer(desk)["running"]
    assert not row["answers"] and row["seconds"] is None


def test_malformed_answers_count_as_such(desk):
    driver, worker = one_worker(desk)
    desk.submit(driver)
    ask(desk)
    (inspect,) = desk.take(worker, m.Inspect)
    for found in ({}, does(["f", 1, b""]), does(["f", 1.0]), does(waits=[["x", "", b""]]), does(arguments={"f": "2"})):
        with pytest.raises(m.ProtocolError):
            desk.say(worker, m.Inspected(inspect.request, found))
    (host,) = desk.core.scheduler.hosts
    with pytest.raises(m.ProtocolError):
        desk.say(host, m.Inspected(inspect.request, {"store": {"used": "much"}, "memory": {}}))


def test_nobody_asks_without_end(desk):
    driver = desk.driver()
    desk.host(CPU=1)
    for _ in range(MAX_OPEN):
        desk.say(driver, m.Query(1, "status", {}))
    assert desk.take(driver, m.Answer) == []
    desk.say(driver, m.Query(1, "status", {}))
    assert len(desk.take(driver, m.Answer)) == 1
    desk.tick(PATIENCE_S)
    assert len(desk.take(driver, m.Answer)) == MAX_OPEN


def test_what_is_free_of_stores(desk):
    driver = desk.driver()
    a, b = desk.host("a", CPU=1, object_store_memory=100), desk.host("b", CPU=1, object_store_memory=100)
    desk.say(driver, m.Query(1, "available_resources", {}))
    (inspect,) = desk.take(a, m.Inspect)
    desk.say(a, m.Inspected(inspect.request, {"store": {"capacity": 100, "used": 50, "idle": 20}, "memory": {}}))
    assert desk.take(driver, m.Answer) == []
    desk.tick(PATIENCE_S)  # the other host is busy
    (answer,) = desk.take(driver, m.Answer)
    assert answer.value == {"CPU": 2.0, "object_store_memory": 170.0}
    assert desk.take(b, m.Inspect)


def test_why_a_task_has_not_been_started(desk):
    driver, worker = one_worker(desk)
    running, _ = desk.submit(driver, 2, retryable=False)
    (large,) = desk.submit(driver, shape=shape(CPU=8))
    (queued,) = desk.submit(driver, retryable=False)
    ask(desk, "explain", task=large)
    assert "no host of the cluster has that much (host: {CPU: 1})" in answer(desk)["why"]
    ask(desk, "explain", task=queued)
    assert answer(desk)["why"] == "it asks for {CPU: 1}, which is in use; 3 tasks wait for a place"
    ask(desk, "explain", task=running)
    tell(desk, worker, **does(["fit", 1.0, running]))
    found = answer(desk)
    assert found["state"] == "worker" and found["answers"] and found["running"] == [["fit", 1.0, running]]
    ask(desk, "explain", task=b"unknown")
    assert answer(desk) == {"state": "unknown"}


def test_why_an_actor_is_not_there(desk):
    driver, worker = one_worker(desk)
    desk.create(driver, ACTOR, running=ONE_CPU, name="holder")
    desk.say(worker, m.ActorReady(ACTOR, b""))
    desk.create(driver, OTHER, name="late")
    ask(desk, "explain", actor=OTHER)
    assert answer(desk) == {
        "name": "A 'late'", "state": "unplaced",
        "why": "it asks for {CPU: 1}, which is in use, some of it by 1 actor(s) for as long as they live (A 'holder'); "
        "0 tasks wait for a place",
    }  # fmt: skip
    ask(desk, "explain", actor=ACTOR)
    desk.tick(PATIENCE_S)
    found = answer(desk)
    assert found["state"] == "worker" and not found["answers"]
