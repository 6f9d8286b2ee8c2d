"""The state of a cluster as it is told to whoever looks, who takes no part in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.broker.desk import ACTOR, ONE_CPU, Desk, one_worker, prefetched, shape
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
    (answer,) = desk.take(WATCHER, m.Answer)
    assert json.loads(json.dumps(answer.value)) == answer.value
    assert isinstance(answer.value, dict)
    return answer.value


def test_nothing(desk):
    assert look(desk) == {
        "uptime_s": 5.0, "refused": {"no key": 2}, "dropped_frames": 1,
        "hosts": [], "jobs": [], "waiting": [],
        "actors": {"PENDING_CREATION": 0, "ALIVE": 0, "RESTARTING": 0},
    }  # fmt: skip


def test_an_observer_takes_no_part(desk):
    host = desk.host(CPU=1)
    desk.workers(host)
    desk.take(host)
    look(desk)
    assert not desk.core.jobs
    desk.say(WATCHER, m.Goodbye("seen"))
    assert WATCHER not in desk.core.processes and not desk.take(host)
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
