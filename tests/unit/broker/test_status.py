"""The state of a cluster as it is told to whoever looks, who takes no part in it."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from tests.unit.broker.desk import ACTOR, ONE_CPU, OTHER, Desk, one_worker, prefetched, shape
from zray.broker.inspections import MAX_OPEN, PATIENCE_S
from zray.ids import make_task_id
from zray.protocol import messages as m
from zray.protocol import questions as q
from zray.protocol.messages import MAY_SEND, OBSERVER
from zray.protocol.questions import BrokerStatus, StatusQuery
from zray.protocol.records import Activity, AwaitedObject, JoinInfo, RunningCall, StoreUse

WATCHER = b"watcher".ljust(16, b"\0")
NOTHING_USED = StoreUse(0, 0, 0, 0)


BROKER = BrokerStatus(uptime_s=5.0, refused={"no key": 2}, dropped_frames=1)


@pytest.fixture
def desk() -> Desk:
    return Desk(shell_status=lambda: BROKER)


def look(desk: Desk) -> q.ClusterStatus:
    ask(desk)
    desk.core.inspections.tick(desk.now + PATIENCE_S)  # nobody has answered
    desk.turn()
    found = answer(desk)
    assert isinstance(found, q.ClusterStatus)
    return found


def test_nothing(desk):
    states = {"PENDING_CREATION": 0, "ALIVE": 0, "RESTARTING": 0}
    assert look(desk) == q.ClusterStatus(1, BROKER, [], [], states, [], [], {})


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
    assert {*get_args(q.Question), m.Goodbye} == MAY_SEND[OBSERVER]


def test_a_host(desk):
    driver, _ = one_worker(desk)
    desk.submit(driver)
    (host,) = look(desk).hosts
    assert host.hostname == "host" and host.host_id.startswith(b"host")
    assert host.resources == {"CPU": q.Amount(total=1.0, used=1.0)}
    assert host.workers == q.WorkerCounts(starting=0, idle=0, busy=1, actors=0, ending=0)


def test_tasks_handed_out_in_advance_wait(desk):
    _, worker, task_ids = prefetched(desk, 6)
    (job,) = look(desk).jobs
    assert (job.tasks_running, job.tasks_waiting, job.actors) == (1, 5, 0)
    queued = len(task_ids) - len(desk.core.scheduler.workers[worker].outstanding)
    assert sum(row.count for row in look(desk).waiting) == queued


def test_what_waits_by_shape(desk):
    driver, other = desk.driver(), desk.driver("other")
    desk.workers(desk.host(CPU=1))
    desk.submit(driver, 3, shape(CPU=8))
    cancelled, *_ = desk.submit(other, 2, shape(CPU=8))[1:]
    desk.say(other, m.Cancel(cancelled, 0))
    desk.submit(other, 2, retryable=False)
    desk.create(driver, placement=shape(GPU=1))
    assert look(desk).waiting == [
        q.WaitingStatus("tasks", 4, {"CPU": 8.0}, can_be_placed=False),
        q.WaitingStatus("tasks", 1, {"CPU": 1.0}, can_be_placed=True),
        q.WaitingStatus("actors", 1, {"GPU": 1.0}, can_be_placed=False),
    ]


def test_actors_and_the_job_of_a_driver_that_left(desk):
    driver, worker = one_worker(desk)
    early = m.ActorCall(make_task_id(driver, 9), 0, 1, driver + bytes(8), 0, b"")
    desk.say(driver, early)  # it has overtaken its actor's announcement
    desk.create(driver, detached=True, name="stays", running=ONE_CPU)
    assert look(desk).actors["PENDING_CREATION"] == 1
    desk.say(worker, m.ActorReady(ACTOR, b""))
    desk.say(driver, m.Goodbye("done"))
    found = look(desk)
    assert found.actors == {"PENDING_CREATION": 0, "ALIVE": 1, "RESTARTING": 0}
    (job,) = found.jobs
    assert job.driver_pid is None and job.actors == 1
    assert found.hosts[0].workers.actors == 1


# ------------------------------------------------------------------ what only others know


def ask(desk: Desk, question: Any = StatusQuery(1)) -> None:  # noqa: B008
    desk.core.joined(WATCHER, OBSERVER, JoinInfo(9), desk.now)
    desk.say(WATCHER, question)


def answer(desk: Desk) -> Any:
    (answer,) = desk.take(WATCHER, *get_args(q.Answer))
    return answer


def tell(desk: Desk, process: bytes, activity: Activity) -> None:
    (inspect,) = desk.take(process, m.Inspect)
    desk.say(process, m.Inspected(inspect.request, activity))


def tell_use(desk: Desk, host: bytes, store: StoreUse, memory: dict[int, int]) -> None:
    (inspect,) = desk.take(host, m.Inspect)
    desk.say(host, m.HostInspected(inspect.request, store, memory))


def does(*running: Any, awaited: Any = (), arguments: Any = {}) -> Activity:  # noqa: B006
    return Activity(list(running), list(awaited), arguments)


def test_hosts_workers_and_drivers_are_asked(desk):
    driver, worker = one_worker(desk)
    (host,) = desk.core.scheduler.hosts
    (task,) = desk.submit(driver)
    ask(desk)
    pid = desk.core.scheduler.workers[worker].pid
    tell(desk, driver, does(arguments={"merge": 2}))
    tell(desk, worker, does(RunningCall("fit", 3.5, task), awaited=[AwaitedObject(task + bytes(4), "load", None)]))
    store = StoreUse(capacity=10, used=7, idle=3, spilled=0)
    tell_use(desk, host, store, {pid: 4096})
    found = answer(desk)
    assert found.hosts[0].store == store and found.hosts[0].heard_s == 0.0
    assert found.waiting_for_arguments == {"merge": 2}
    assert found.running == [
        q.RunningStatus("task", "", host, pid, memory_bytes=4096, answers=True, waits_for=["load"], name="fit",
                        seconds=3.5)
    ]  # fmt: skip


def test_who_does_not_answer_is_left_out_and_who_dies_is_not_waited_for(desk):
    driver, worker = one_worker(desk)
    desk.submit(driver)
    ask(desk)
    tell(desk, driver, does())
    assert desk.take(WATCHER, q.ClusterStatus) == []
    desk.kill(worker)
    (host,) = desk.core.scheduler.hosts
    tell_use(desk, host, NOTHING_USED, {})
    assert answer(desk).running == []
    desk.take(driver)
    desk.submit(driver)
    desk.workers(host)
    ask(desk)
    desk.tick(PATIENCE_S)
    (row,) = answer(desk).running
    assert not row.answers and row.seconds is None


def test_malformed_answers_count_as_such(desk):
    driver, worker = one_worker(desk)
    (task,) = desk.submit(driver)
    ask(desk)
    (inspect,) = desk.take(worker, m.Inspect)
    malformed: list[Any] = [
        {}, does(("f", 1, b"")), does(("f", -1.0, task)), does(("f", 1.0)), does(awaited=[("x", "", None)]),
        does(arguments={"f": "2"}),
    ]  # fmt: skip
    for activity in malformed:
        with pytest.raises(m.ProtocolError, match="malformed Inspected: activity"):
            desk.say(worker, m.Inspected(inspect.request, activity))
    (host,) = desk.core.scheduler.hosts
    changes: Any = {"used": "much"}
    much = NOTHING_USED._replace(**changes)
    with pytest.raises(m.ProtocolError, match=r"malformed HostInspected: store\.used"):
        desk.say(host, m.HostInspected(inspect.request, much, {}))


def test_nobody_asks_without_end(desk):
    driver = desk.driver()
    desk.host(CPU=1)
    for _ in range(MAX_OPEN):
        desk.say(driver, StatusQuery(1))
    assert desk.take(driver, q.ClusterStatus) == []
    desk.say(driver, StatusQuery(1))
    assert len(desk.take(driver, q.ClusterStatus)) == 1
    desk.tick(PATIENCE_S)
    assert len(desk.take(driver, q.ClusterStatus)) == MAX_OPEN


def test_what_is_free_of_stores(desk):
    driver = desk.driver()
    a, b = desk.host("a", CPU=1, object_store_memory=100), desk.host("b", CPU=1, object_store_memory=100)
    desk.say(driver, q.ResourcesQuery(1, free=True))
    tell_use(desk, a, StoreUse(capacity=100, used=50, idle=20, spilled=0), {})
    assert desk.take(driver, q.Resources) == []
    desk.tick(PATIENCE_S)  # the other host is busy
    (answer,) = desk.take(driver, q.Resources)
    assert answer.amounts == {"CPU": 2.0, "object_store_memory": 170.0}
    assert desk.take(b, m.Inspect)


def test_why_a_task_has_not_been_started(desk):
    driver, worker = one_worker(desk)
    running, _ = desk.submit(driver, 2, retryable=False)
    (large,) = desk.submit(driver, shape=shape(CPU=8))
    (queued,) = desk.submit(driver, retryable=False)
    ask(desk, q.ExplainTask(1, large))
    assert "no host of the cluster has that much (host: {CPU: 1})" in answer(desk).why
    ask(desk, q.ExplainTask(2, queued))
    found = answer(desk)
    assert found.why == "it asks for {CPU: 1}, which is in use; 3 tasks wait for a place"
    assert (found.request, found.state, found.activity) == (2, q.QUEUED, None)
    ask(desk, q.ExplainTask(3, running))
    tell(desk, worker, does(RunningCall("fit", 1.0, running)))
    found = answer(desk)
    assert (found.state, found.activity) == (q.AT_WORKER, does(RunningCall("fit", 1.0, running)))
    ask(desk, q.ExplainTask(4, make_task_id(driver, 999)))
    assert answer(desk) == q.Explanation(4, q.UNKNOWN)


def test_why_an_actor_is_not_there(desk):
    driver, worker = one_worker(desk)
    desk.create(driver, ACTOR, running=ONE_CPU, name="holder")
    desk.say(worker, m.ActorReady(ACTOR, b""))
    desk.create(driver, OTHER, name="late")
    ask(desk, q.ExplainActor(1, OTHER))
    why = (
        "it asks for {CPU: 1}, which is in use, some of it by 1 actor(s) for as long as they live (A 'holder'); "
        "0 tasks wait for a place"
    )
    assert answer(desk) == q.Explanation(1, q.UNPLACED, "A 'late'", why)
    ask(desk, q.ExplainActor(2, ACTOR))
    desk.tick(PATIENCE_S)
    found = answer(desk)
    assert (found.state, found.activity) == (q.AT_WORKER, None)
