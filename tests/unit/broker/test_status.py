"""The status of a cluster, as an observer gets it."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from tests.unit.broker.harness import ACTOR, ONE_CPU, OTHER, BrokerHarness, one_worker, prefetched, shape
from zray.broker.inspections import MAX_OPEN, PATIENCE_S
from zray.broker.resources import HEAD
from zray.ids import make_task_id
from zray.protocol import messages as m
from zray.protocol import questions as q
from zray.protocol.messages import MAY_SEND, OBSERVER
from zray.protocol.questions import BrokerStatus, StatusQuery
from zray.protocol.records import Activity, AwaitedObject, JoinInfo, RunningCall, StoreUse
from zray.protocol.state_questions import StateQuestion

WATCHER = b"watcher".ljust(16, b"\0")
NOTHING_USED = StoreUse(0, 0, 0, 0)


BROKER = BrokerStatus(uptime_s=5.0, refused={"no key": 2}, dropped_frames=1)


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness(shell_status=lambda: BROKER)


def look(broker: BrokerHarness) -> q.ClusterStatus:
    ask(broker)
    broker.core.inspections.tick(broker.now + PATIENCE_S)  # no process has answered
    broker.turn()
    found = answer(broker)
    assert isinstance(found, q.ClusterStatus)
    return found


def test_an_empty_cluster(broker):
    states = {"PENDING_CREATION": 0, "ALIVE": 0, "RESTARTING": 0}
    assert look(broker) == q.ClusterStatus(1, BROKER, [], [], states, [], [], {})


def test_an_observer_changes_nothing(broker):
    host = broker.host(CPU=1)
    broker.workers(host)
    broker.take(host)
    look(broker)
    assert not broker.core.jobs
    broker.say(WATCHER, m.Goodbye("seen"))
    assert WATCHER not in broker.core.processes and broker.take(host) == [m.Inspect(1)]
    assert broker.core.may_join(WATCHER, OBSERVER)
    driver = broker.driver()
    assert broker.core.processes[driver].job_id == b"\0\0\0\1"


def test_an_observer_may_only_ask():
    assert {*get_args(q.Question), *get_args(StateQuestion), m.Goodbye} == MAY_SEND[OBSERVER]


def test_a_host(broker):
    driver, _ = one_worker(broker)
    broker.submit(driver)
    (host,) = look(broker).hosts
    assert host.hostname == "host" and host.host_id.startswith(b"host")
    assert host.resources == {"CPU": q.Amount(total=1.0, used=1.0), HEAD: q.Amount(total=1.0, used=0.0)}
    assert host.workers == q.WorkerCounts(starting=0, idle=0, busy=1, actors=0, ending=0)


def test_tasks_handed_out_in_advance_wait(broker):
    _, worker, task_ids = prefetched(broker, 6)
    (job,) = look(broker).jobs
    assert (job.tasks_running, job.tasks_waiting, job.actors) == (1, 5, 0)
    queued = len(task_ids) - len(broker.core.workers.workers[worker].outstanding)
    assert sum(row.count for row in look(broker).waiting) == queued


def test_waiting_work_is_counted_by_shape(broker):
    driver, other = broker.driver(), broker.driver("other")
    broker.workers(broker.host(CPU=1))
    broker.submit(driver, 3, shape(CPU=8))
    cancelled, *_ = broker.submit(other, 2, shape(CPU=8))[1:]
    broker.say(other, m.Cancel(cancelled, 0))
    broker.submit(other, 2, retryable=False)
    broker.create(driver, placement=shape(GPU=1))
    assert look(broker).waiting == [
        q.WaitingStatus("tasks", 4, {"CPU": 8.0}, can_be_placed=False),
        q.WaitingStatus("tasks", 1, {"CPU": 1.0}, can_be_placed=True),
        q.WaitingStatus("actors", 1, {"GPU": 1.0}, can_be_placed=False),
    ]


def test_actors_and_the_job_of_a_driver_that_left(broker):
    driver, worker = one_worker(broker)
    early = m.ActorCall(make_task_id(driver, 9), 0, 1, driver + bytes(8), 0, b"")
    broker.say(driver, early)  # it has arrived before its actor's announcement
    broker.create(driver, detached=True, name="stays", running=ONE_CPU)
    assert look(broker).actors["PENDING_CREATION"] == 1
    broker.say(worker, m.ActorReady(ACTOR, b""))
    broker.say(driver, m.Goodbye("done"))
    found = look(broker)
    assert found.actors == {"PENDING_CREATION": 0, "ALIVE": 1, "RESTARTING": 0}
    (job,) = found.jobs
    assert job.driver_pid is None and job.actors == 1
    assert found.hosts[0].workers.actors == 1


# ------------------------------------------------------------------ answers of other processes


def ask(broker: BrokerHarness, question: Any = StatusQuery(1)) -> None:  # noqa: B008
    broker.core.joined(WATCHER, OBSERVER, JoinInfo(9), broker.now)
    broker.say(WATCHER, question)


def answer(broker: BrokerHarness) -> Any:
    (answer,) = broker.take(WATCHER, *get_args(q.Answer))
    return answer


def tell(broker: BrokerHarness, process: bytes, activity: Activity) -> None:
    (inspect,) = broker.take(process, m.Inspect)
    broker.say(process, m.Inspected(inspect.request, activity))


def tell_use(broker: BrokerHarness, host: bytes, store: StoreUse, memory: dict[int, int]) -> None:
    (inspect,) = broker.take(host, m.Inspect)
    broker.say(host, m.HostInspected(inspect.request, store, memory))


def does(*running: Any, awaited: Any = (), arguments: Any = {}) -> Activity:  # noqa: B006
    return Activity(list(running), list(awaited), arguments)


def test_hosts_workers_and_drivers_are_asked(broker):
    driver, worker = one_worker(broker)
    (host,) = broker.core.scheduler.hosts
    (task,) = broker.submit(driver)
    ask(broker)
    pid = broker.core.workers.workers[worker].pid
    tell(broker, driver, does(arguments={"merge": 2}))
    tell(broker, worker, does(RunningCall("fit", 3.5, task), awaited=[AwaitedObject(task + bytes(4), "load", None)]))
    store = StoreUse(capacity=10, used=7, idle=3, spilled=0)
    tell_use(broker, host, store, {pid: 4096})
    found = answer(broker)
    assert found.hosts[0].store == store and found.hosts[0].heard_s == 0.0
    assert found.waiting_for_arguments == {"merge": 2}
    assert found.running == [
        q.RunningStatus("task", "", host, pid, memory_bytes=4096, answers=True, waits_for=["load"], name="fit",
                        seconds=3.5)
    ]  # fmt: skip


def test_silent_processes_are_left_out_and_dead_ones_not_waited_for(broker):
    driver, worker = one_worker(broker)
    broker.submit(driver)
    ask(broker)
    tell(broker, driver, does())
    assert broker.take(WATCHER, q.ClusterStatus) == []
    broker.kill(worker)
    (host,) = broker.core.scheduler.hosts
    tell_use(broker, host, NOTHING_USED, {})
    assert answer(broker).running == []
    broker.take(driver)
    broker.submit(driver)
    broker.workers(host)
    ask(broker)
    broker.tick(PATIENCE_S)
    (row,) = answer(broker).running
    assert not row.answers and row.seconds is None


def test_malformed_answers_are_refused(broker):
    driver, worker = one_worker(broker)
    (task,) = broker.submit(driver)
    ask(broker)
    (inspect,) = broker.take(worker, m.Inspect)
    malformed: list[Any] = [
        {}, does(("f", 1, b"")), does(("f", -1.0, task)), does(("f", 1.0)), does(awaited=[("x", "", None)]),
        does(arguments={"f": "2"}),
    ]  # fmt: skip
    for activity in malformed:
        with pytest.raises(m.ProtocolError, match="malformed Inspected: activity"):
            broker.say(worker, m.Inspected(inspect.request, activity))
    (host,) = broker.core.scheduler.hosts
    changes: Any = {"used": "much"}
    much = NOTHING_USED._replace(**changes)
    with pytest.raises(m.ProtocolError, match=r"malformed HostInspected: store\.used"):
        broker.say(host, m.HostInspected(inspect.request, much, {}))


def test_the_open_questions_of_a_process_are_limited(broker):
    driver = broker.driver()
    broker.host(CPU=1)
    for _ in range(MAX_OPEN):
        broker.say(driver, StatusQuery(1))
    assert broker.take(driver, q.ClusterStatus) == []
    broker.say(driver, StatusQuery(1))
    assert len(broker.take(driver, q.ClusterStatus)) == 1
    broker.tick(PATIENCE_S)
    assert len(broker.take(driver, q.ClusterStatus)) == MAX_OPEN


def test_free_memory_of_stores(broker):
    driver = broker.driver()
    a, b = broker.host("a", CPU=1, object_store_memory=100), broker.host("b", CPU=1, object_store_memory=100)
    broker.say(driver, q.ResourcesQuery(1, free=True))
    tell_use(broker, a, StoreUse(capacity=100, used=50, idle=20, spilled=0), {})
    assert broker.take(driver, q.Resources) == []
    broker.tick(PATIENCE_S)  # the other host is busy
    (answer,) = broker.take(driver, q.Resources)
    assert answer.amounts == {"CPU": 2.0, "object_store_memory": 170.0, HEAD: 1.0}
    assert broker.take(b, m.Inspect)


def test_why_a_task_has_not_been_started(broker):
    driver, worker = one_worker(broker)
    running, _ = broker.submit(driver, 2, retryable=False)
    (large,) = broker.submit(driver, shape=shape(CPU=8))
    (queued,) = broker.submit(driver, retryable=False)
    ask(broker, q.ExplainTask(1, large))
    assert "no host of the cluster has that much (host: {CPU: 1})" in answer(broker).why
    ask(broker, q.ExplainTask(2, queued))
    found = answer(broker)
    assert found.why == "it asks for {CPU: 1}, which is in use; 3 tasks wait for a place"
    assert (found.request, found.state, found.activity) == (2, q.QUEUED, None)
    ask(broker, q.ExplainTask(3, running))
    tell(broker, worker, does(RunningCall("fit", 1.0, running)))
    found = answer(broker)
    assert (found.state, found.activity) == (q.AT_WORKER, does(RunningCall("fit", 1.0, running)))
    ask(broker, q.ExplainTask(4, make_task_id(driver, 999)))
    assert answer(broker) == q.Explanation(4, q.UNKNOWN)


def test_an_actor_that_is_constructed_does_not_hold_its_cpu_for_long(broker):
    driver, _ = one_worker(broker)
    broker.create(driver, ACTOR, name="constructed")
    broker.create(driver, OTHER, name="late")
    ask(broker, q.ExplainActor(1, OTHER))
    why = "it asks for {CPU: 1}, which is in use; 0 tasks wait for a place"
    assert answer(broker) == q.Explanation(1, q.UNPLACED, "A 'late'", why)


def test_why_an_actor_takes_no_call(broker):
    driver, worker = one_worker(broker)
    broker.create(driver, ACTOR, running=ONE_CPU, name="holder")
    broker.say(worker, m.ActorReady(ACTOR, b""))
    broker.create(driver, OTHER, name="late")
    ask(broker, q.ExplainActor(1, OTHER))
    why = (
        "it asks for {CPU: 1}, which is in use, some of it by 1 actor(s) for as long as they live (A 'holder'); "
        "0 tasks wait for a place"
    )
    assert answer(broker) == q.Explanation(1, q.UNPLACED, "A 'late'", why)
    ask(broker, q.ExplainActor(2, ACTOR))
    broker.tick(PATIENCE_S)
    found = answer(broker)
    assert (found.state, found.activity) == (q.AT_WORKER, None)
