"""The broker's actors: names, the order of calls, restarts, and all ways in which an actor ends."""

from __future__ import annotations

import pytest

from tests.unit.broker.harness import ACTOR, FUNCTION, NO_CPU, ONE_CPU, OTHER, BrokerHarness, Stage, shape
from zray.broker.states import RETIRED
from zray.ids import make_task_id
from zray.protocol import messages as m
from zray.protocol.questions import ExplainActor, Explanation
from zray.protocol.records import JoinInfo

THIRD = make_task_id(b"driver".ljust(16, b"\0"), 3)


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


# ------------------------------------------------------------------ creation


def test_an_actor_is_placed_and_started(broker):
    stage = Stage(broker, max_restarts=3)
    assert (stage.start.actor_id, stage.start.incarnation, stage.start.function_id) == (ACTOR, 0, FUNCTION)
    assert (stage.start.payload, stage.start.creator) == (b"payload", stage.driver)
    assert broker.free == {"CPU": 2}  # it needs one CPU to be placed, and keeps none


def test_an_actor_keeps_its_running_resources(broker):
    stage = Stage(broker, running=ONE_CPU)
    assert broker.free == {"CPU": 1}
    broker.kill(stage.worker)
    assert broker.free == {"CPU": 2}


def test_an_actor_keeps_its_gpu(broker):
    """A GPU that becomes free during construction changes nothing."""
    driver = broker.driver()
    host = broker.host(CPU=4, GPU=2)
    workers = broker.workers(host)
    (task_id,) = broker.submit(driver, shape=shape(CPU=1, GPU=1))
    busy = next(worker for worker in workers if broker.runs(worker))
    gpu = shape(GPU=1)
    broker.create(driver, placement=gpu, running=gpu)
    worker = broker.core.actors.actors[ACTOR].worker
    (start,) = broker.take(worker.worker_id, m.ActorStart)
    assert start.gpus == [1]
    broker.done(busy, task_id)
    broker.say(worker.worker_id, m.ActorReady(ACTOR, b""))
    broker.submit(driver, shape=shape(CPU=1, GPU=1))
    (run,) = [run for other in workers for run in broker.take(other, m.Run)]
    assert run.gpus == [0]


def test_a_worker_is_started_when_none_is_free(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    broker.create(driver)
    assert len(broker.take(host, m.StartWorker)) == 2
    worker = broker.core.actors.actors[ACTOR].worker.worker_id
    broker.core.joined(worker, m.WORKER, JoinInfo(7), broker.now)
    broker.turn()
    assert len(broker.take(worker, m.ActorStart)) == 1


@pytest.mark.parametrize("idle", [False, True])
def test_the_class_comes_with_the_start_and_need_not_be_asked_for(broker, idle):
    driver = broker.driver()
    host = broker.host(CPU=1)
    if idle:
        broker.workers(host)
    broker.say(driver, m.FunctionPut(FUNCTION, "Actor", b"code"))
    broker.create(driver)
    if not idle:
        broker.workers(host)
    worker = broker.core.actors.actors[ACTOR].worker.worker_id
    messages = broker.take(worker, m.FunctionBlob, m.ActorStart)
    assert messages[0] == m.FunctionBlob(FUNCTION, True, "Actor", b"code")
    assert type(messages[1]) is m.ActorStart


def test_a_class_that_is_unknown_is_not_sent(broker):
    """The worker asks for it, and is told that it is unknown."""
    stage_worker = Stage(broker).worker
    assert not broker.take(stage_worker, m.FunctionBlob)
    broker.say(stage_worker, m.FunctionGet(FUNCTION))
    assert broker.take(stage_worker, m.FunctionBlob) == [m.FunctionBlob(FUNCTION, False, "", b"")]


def dies_before_it_joins(broker, host) -> None:
    """Has the actor's worker die before it has joined."""
    worker = broker.core.actors.actors[ACTOR].worker.worker_id
    broker.say(host, m.WorkerDied(worker, b"", "WorkerCrashedError", "it could not reach the broker"))


def test_an_actor_whose_worker_never_joined_gets_another(broker):
    """No restart is charged, and no caller is told."""
    driver = broker.driver()
    host = broker.host(CPU=1)
    broker.create(driver)
    for _ in range(3):
        dies_before_it_joins(broker, host)
    assert not broker.take(driver, m.ActorState)
    worker = broker.core.actors.actors[ACTOR].worker.worker_id
    broker.core.joined(worker, m.WORKER, JoinInfo(7), broker.now)
    broker.turn()
    (start,) = broker.take(worker, m.ActorStart)
    assert start.incarnation == 0
    assert broker.core.actors.actors[ACTOR].failed_starts == 0


def test_an_actor_whose_workers_never_join_ends_with_the_reason(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    broker.create(driver)
    for _ in range(4):
        dies_before_it_joins(broker, host)
    assert ACTOR not in broker.core.actors.actors
    broker.say(driver, m.ActorCall(ACTOR, 0, 1, make_task_id(driver, 99), 0, b""))
    assert "it could not reach the broker" in broker.take(driver, m.ActorState)[-1].message
    assert broker.free == {"CPU": 1}


def test_an_actor_that_is_killed_before_its_worker_joined_is_not_started_again(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    broker.create(driver)
    worker = broker.core.actors.actors[ACTOR].worker.worker_id
    broker.say(driver, m.ActorKill(ACTOR, True))
    broker.say(host, m.WorkerDied(worker, b"", "WorkerCrashedError", "was killed"))
    assert ACTOR not in broker.core.actors.actors
    assert not [w for w in broker.core.workers.workers.values() if w.actor is not None]


def test_an_actor_waits_for_room(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    (worker,) = broker.workers(host)
    (task_id,) = broker.submit(driver)
    broker.create(driver)
    assert broker.core.actors.actors[ACTOR].worker is None
    broker.done(worker, task_id)
    assert broker.core.actors.actors[ACTOR].worker is not None


def test_an_actor_that_does_not_fit_does_not_hold_up_another(broker):
    driver = broker.driver()
    broker.workers(broker.host(CPU=1))
    broker.create(driver, placement=shape(CPU=5))
    broker.create(driver, OTHER)
    assert broker.core.actors.actors[OTHER].worker is not None


def test_constructor_arguments_after_the_announcement(broker):
    driver = broker.driver()
    broker.workers(broker.host(CPU=1))
    broker.say(driver, broker.creation(ready=False, payload=b"", name="n"))
    assert broker.core.actors.actors[ACTOR].worker is None
    broker.create(driver, name="n")
    assert broker.core.actors.actors[ACTOR].worker is not None
    broker.create(driver, name="n")
    assert not any(broker.core.lines.actors.values())


def test_calls_wait_for_the_constructor(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    (worker,) = broker.workers(host)
    broker.create(driver)
    task_ids = [make_task_id(driver, n) for n in (1, 2)]
    for seq, task_id in enumerate(task_ids, start=1):
        broker.say(driver, m.ActorCall(ACTOR, 0, seq, task_id, 0, b""))
    assert broker.take(worker, m.ActorRun) == []
    broker.say(worker, m.ActorReady(ACTOR, b""))
    assert [run.task_id for run in broker.take(worker, m.ActorRun)] == task_ids


def test_a_constructor_that_raised(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    (worker,) = broker.workers(host)
    broker.create(driver, name="n", max_restarts=5)
    broker.say(worker, m.ActorReady(ACTOR, b"error"))
    (notice,) = broker.take(driver, m.ActorState)
    assert (notice.state, notice.error) == (m.DEAD, b"error")
    assert [kill.worker_id for kill in broker.take(host, m.KillWorker)] == [worker]
    assert broker.core.actors.live_names() == []
    broker.say(driver, m.ActorLookup(7, "n", ""))
    assert broker.take(driver, m.ActorFound)[-1].actor_id == ACTOR
    broker.say(driver, m.ActorRelease(ACTOR))
    assert broker.core.actors.names == {}


def test_a_constructor_that_cannot_be_called(broker):
    driver = broker.driver()
    broker.say(driver, broker.creation(ready=False, payload=b""), m.ActorReady(ACTOR, b"error"))
    assert broker.core.actors.actors == {}


def test_only_its_worker_or_creator_reports_about_an_actor(broker):
    Stage(broker)
    other = broker.driver("other")
    with pytest.raises(m.ProtocolError):
        broker.say(other, m.ActorReady(ACTOR, b"error"))
    broker.say(other, m.ActorRelease(ACTOR))
    assert ACTOR in broker.core.actors.actors


@pytest.mark.parametrize(
    "changes", [{"placement": b"\xc1"}, {"placement": None}, {"running": 5}, {"max_restarts": "x"}, {"name": 5}]
)
def test_a_malformed_specification_changes_nothing(broker, changes):
    driver = broker.driver()
    with pytest.raises(m.ProtocolError):
        broker.create(driver, **{"name": "n", **changes})
    assert (broker.core.actors.actors, broker.core.actors.names) == ({}, {})


def test_a_worker_whose_job_has_ended_creates_nothing(broker):
    driver = broker.driver()
    host = broker.host(CPU=2)
    workers = broker.workers(host)
    broker.submit(driver)
    worker = next(worker for worker in workers if broker.runs(worker))
    broker.say(driver, m.Goodbye("bye"))
    broker.create(worker, make_task_id(worker, 1))
    assert broker.core.actors.actors == {}


# ------------------------------------------------------------------ names


def test_names(broker):
    stage = Stage(broker, name="n", namespace="space")
    (found,) = broker.take(stage.driver, m.ActorFound)
    assert found.actor_id == ACTOR
    broker.say(stage.driver, m.ActorLookup(5, "n", "space"), m.ActorLookup(6, "n", ""), m.ActorLookup(7, "m", "space"))
    found, *others = broker.take(stage.driver, m.ActorFound, m.NoSuchActor)
    assert (found.request, found.actor_id, found.spec.class_name) == (5, ACTOR, "A")
    assert others == [m.NoSuchActor(6), m.NoSuchActor(7)]


@pytest.mark.parametrize("get_if_exists", [False, True])
def test_a_name_that_is_taken(broker, get_if_exists):
    stage = Stage(broker, name="n")
    broker.take(stage.driver)
    broker.create(stage.driver, OTHER, name="n", request=9, get_if_exists=get_if_exists)
    (answer,) = broker.take(stage.driver, m.ActorFound, m.NameTaken)
    if get_if_exists:
        assert (answer.request, answer.actor_id) == (9, ACTOR)
    else:
        assert answer == m.NameTaken(9, is_dead=False)
    assert OTHER not in broker.core.actors.actors


def test_a_name_is_free_when_its_actor_is_dead(broker):
    stage = Stage(broker, name="n")
    broker.say(stage.driver, m.ActorKill(ACTOR, True))
    broker.take(stage.driver)
    broker.create(stage.driver, OTHER, name="n", request=9)
    (answer,) = broker.take(stage.driver, m.ActorFound)
    assert answer.actor_id == OTHER


@pytest.mark.parametrize("how", ["died", "ended itself"])
def test_a_dead_actor_keeps_its_name_until_its_last_handle_is_gone(broker, how):
    stage = Stage(broker, name="n")
    if how == "died":
        broker.kill(stage.worker)
    else:
        broker.say(stage.worker, m.ActorExiting(ACTOR, "it had enough"))
    broker.take(stage.driver)
    broker.create(stage.driver, OTHER, name="n", request=9)
    broker.create(stage.driver, THIRD, name="n", request=10, get_if_exists=True)
    broker.say(stage.driver, m.ActorLookup(11, "n", ""))
    refused, found, looked_up = broker.take(stage.driver, m.ActorFound, m.NameTaken)
    assert refused == m.NameTaken(9, is_dead=True)
    assert (found.request, found.actor_id, found.spec.name) == (10, ACTOR, "n")
    assert (looked_up.request, looked_up.actor_id, looked_up.spec.name) == (11, ACTOR, "n")
    assert broker.core.actors.live_names() == []
    other = broker.driver("other")
    broker.say(other, m.ActorRelease(ACTOR))
    assert broker.core.actors.names == {("", "n"): ACTOR}
    broker.say(stage.driver, m.ActorRelease(ACTOR))
    assert (broker.core.actors.names, broker.core.actors._dead) == ({}, {})


@pytest.mark.parametrize("how", ["killed", "its creator ends", "it is detached", "it was released before"])
def test_dead_actors_that_lose_their_name(broker, how):
    stage = Stage(broker, name="n", detached=how == "it is detached")
    if how == "it was released before":
        broker.say(stage.driver, m.ActorRelease(ACTOR))
    broker.kill(stage.worker)
    if how == "killed":
        broker.say(broker.driver("another"), m.ActorKill(ACTOR, False), m.ActorKill(ACTOR, True))
    if how == "its creator ends":
        broker.say(stage.driver, m.Goodbye("the end"))
    assert (broker.core.actors.names, broker.core.actors._dead) == ({}, {})


def test_a_name_stays_through_restarts(broker):
    stage = Stage(broker, name="n", max_restarts=1)
    broker.kill(stage.worker)
    assert broker.core.actors.names == {("", "n"): ACTOR}


# ------------------------------------------------------------------ calls


def test_calls_of_each_caller_arrive_in_their_order(broker):
    stage = Stage(broker)
    other = broker.driver("other")
    expected = [stage.call(stage.driver, 1), stage.call(other, 1), stage.call(stage.driver, 2), stage.call(other, 2)]
    assert stage.served() == expected
    broker.say(stage.worker, m.Reply(other, expected[1], 0, b"outcome"))
    assert broker.take(other, m.Result) == [m.Result(expected[1], 0, stage.worker, ACTOR, b"outcome")]


def test_a_reply_to_a_dead_process_is_dropped(broker):
    stage = Stage(broker)
    other = broker.driver("other")
    task_id = stage.call(other, 1)
    broker.lose(other)
    broker.take(other)
    broker.say(stage.worker, m.Reply(other, task_id, 0, b"outcome"))
    assert broker.take(other) == []


def test_cancelling_a_call_that_is_queued(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    broker.create(driver)
    task_id = make_task_id(driver, 1)
    broker.say(driver, m.ActorCall(ACTOR, 0, 1, task_id, 0, b""), m.ActorCancel(ACTOR, task_id, 0))
    (result,) = broker.take(driver, m.Result)
    assert (result.task_id, result.payload) == (task_id, b"")
    assert host in broker.core.scheduler.hosts


def test_cancelling_a_call_that_is_with_the_worker(broker):
    stage = Stage(broker)
    task_id = stage.call(stage.driver, 1)
    broker.say(stage.driver, m.ActorCancel(ACTOR, task_id, m.CANCEL_RECURSIVE), m.ActorCancel(OTHER, task_id, 0))
    assert broker.take(stage.worker, m.CancelTask) == [m.CancelTask(task_id, m.CANCEL_RECURSIVE)]


def test_a_call_to_an_unannounced_actor_waits(broker):
    """The announcement travels by another link."""
    driver, other = broker.driver(), broker.driver("other")
    host = broker.host(CPU=1)
    (worker,) = broker.workers(host)
    task_id = make_task_id(other, 1)
    broker.say(other, m.ActorCall(ACTOR, 0, 1, task_id, 0, b""))
    broker.create(driver, name="n")
    broker.say(worker, m.ActorReady(ACTOR, b""))
    assert [run.task_id for run in broker.take(worker, m.ActorRun)] == [task_id]


# ------------------------------------------------------------------ restarts


def test_a_restart_is_reported_to_each_caller(broker):
    stage = Stage(broker, max_restarts=1)
    other = broker.driver("other")
    stage.call(stage.driver, 1)
    stage.call(stage.driver, 2)
    stage.call(other, 1)
    broker.kill(stage.worker)
    assert stage.states(stage.driver) == [(m.RESTARTING, 1, 2)]
    assert stage.states(other) == [(m.RESTARTING, 1, 1)]
    stage.worker = stage.find()
    (start,) = broker.take(stage.worker, m.ActorStart)
    assert start.incarnation == 1
    again = stage.call(stage.driver, 1, incarnation=1)
    assert stage.served() == []
    broker.say(stage.worker, m.ActorReady(ACTOR, b""))
    assert stage.served() == [again]


def test_calls_of_an_old_incarnation_are_dropped(broker):
    stage = Stage(broker, max_restarts=1)
    stage.call(stage.driver, 1)
    broker.kill(stage.worker)
    stage.call(stage.driver, 2)  # the caller has not learned of the restart yet
    stage.worker = stage.find()
    broker.say(stage.worker, m.ActorReady(ACTOR, b""))
    assert stage.served() == []
    assert stage.states(stage.driver)[0] == (m.RESTARTING, 1, 1)


def test_calls_that_waited_are_sent_again_by_their_callers(broker):
    stage = Stage(broker, max_restarts=2)
    broker.kill(stage.worker)
    stage.call(stage.driver, 1, incarnation=1)
    stage.worker = stage.find()
    stage.states(stage.driver)
    broker.kill(stage.worker)
    assert stage.states(stage.driver) == [(m.RESTARTING, 2, 0)]
    stage.worker = stage.find()
    broker.say(stage.worker, m.ActorReady(ACTOR, b""))
    assert stage.served() == []


def test_a_new_caller_of_a_restarted_actor_gets_its_state(broker):
    stage = Stage(broker, max_restarts=1)
    broker.kill(stage.worker)
    stage.worker = stage.find()
    broker.say(stage.worker, m.ActorReady(ACTOR, b""))
    other = broker.driver("other")
    stage.call(other, 1)
    assert stage.states(other) == [(m.PENDING_CREATION, 1, 0)]
    task_id = stage.call(other, 1, incarnation=1)
    assert stage.served() == [task_id]


@pytest.mark.parametrize("restarts", [0, 1, 3])
def test_restarts_are_counted(broker, restarts):
    stage = Stage(broker, max_restarts=restarts)
    for _ in range(restarts):
        broker.kill(stage.worker)
        stage.worker = stage.find()
        broker.say(stage.worker, m.ActorReady(ACTOR, b""))
    stage.states(stage.driver)
    broker.kill(stage.worker)
    assert [state for state, _, _ in stage.states(stage.driver)] == [m.DEAD]
    assert broker.free == {"CPU": 2}


def test_restarts_without_limit(broker):
    """After each, it runs for long enough."""
    stage = Stage(broker, max_restarts=-1)
    for _ in range(30):
        broker.tick(10)
        broker.kill(stage.worker)
        stage.worker = stage.find()
    assert broker.core.actors.actors[ACTOR].incarnation == 30


def started(broker, stage) -> bool:
    """Whether the actor has a worker. Joins it."""
    broker.workers(stage.host)
    return broker.core.actors.actors[ACTOR].worker is not None


def die_again(broker, stage, times: int = 1) -> None:
    """The actor dies at once after each start."""
    for _ in range(times):
        while not started(broker, stage):
            broker.tick(min(broker.core.due_s(broker.now), 30))
        stage.worker = stage.find()
        broker.kill(stage.worker)


def test_what_dies_at_once_is_started_later_and_later(broker):
    stage = Stage(broker, max_restarts=-1)
    die_again(broker, stage, 3)
    assert started(broker, stage), "the first ones cost no time"
    for pause_s in [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]:
        stage.worker = stage.find()
        broker.kill(stage.worker)
        assert broker.core.due_s(broker.now) == pytest.approx(pause_s)
        broker.tick(pause_s - 0.01)
        assert not started(broker, stage)
        broker.tick(0.02)
        assert started(broker, stage)


def test_what_dies_at_once_for_too_often_ends_with_the_history(broker):
    stage = Stage(broker, max_restarts=-1)
    die_again(broker, stage, 20)
    assert ACTOR not in broker.core.actors.actors
    state = broker.take(stage.driver, m.ActorState)[-1]
    assert "It died 20 times in a row, each time within 10 s, so it is not started again" in state.message
    assert "20 x SIGKILL" in state.message
    broker.tick(100)


def test_a_long_life_ends_the_row_of_deaths(broker):
    stage = Stage(broker, max_restarts=-1)
    for _ in range(10):
        die_again(broker, stage, 5)
        while not started(broker, stage):
            broker.tick(min(broker.core.due_s(broker.now), 30))
        broker.tick(10)
    assert ACTOR in broker.core.actors.actors


def test_kills_on_purpose_cost_no_time(broker):
    stage = Stage(broker, max_restarts=-1)
    for _ in range(30):
        broker.say(stage.driver, m.ActorKill(ACTOR, False))
        broker.kill(stage.worker)
        assert started(broker, stage)
        stage.worker = stage.find()


def test_an_actor_that_pauses_can_be_killed(broker):
    stage = Stage(broker, max_restarts=-1)
    die_again(broker, stage, 5)
    broker.say(stage.driver, m.ActorKill(ACTOR, True))
    assert ACTOR not in broker.core.actors.actors
    broker.tick(1)
    assert not broker.core.workers.workers or not any(w.actor for w in broker.core.workers.workers.values())


def test_calls_of_an_actor_that_pauses_wait(broker):
    stage = Stage(broker, max_restarts=-1)
    die_again(broker, stage, 4)
    incarnation = broker.core.actors.actors[ACTOR].incarnation
    task_id = stage.call(stage.driver, 1, incarnation)
    broker.tick(1)
    stage.worker = stage.find()
    broker.say(stage.worker, m.ActorReady(ACTOR, b""))
    assert stage.served() == [task_id]


def test_the_pause_is_told_and_explained(broker):
    stage = Stage(broker, max_restarts=-1)
    die_again(broker, stage, 9)
    broker.take(stage.driver)
    broker.say(stage.driver, ExplainActor(1, ACTOR))
    (told,) = broker.take(stage.driver, Explanation)
    assert told.why == "it is started again in 3.2 s, since it has died 9 times in a row"
    broker.tick(3.3)
    assert started(broker, stage)


def test_a_restart_on_another_host(broker):
    stage = Stage(broker, max_restarts=1)
    second = broker.host("second", CPU=1)
    broker.workers(second)
    broker.lose(stage.host)
    worker = broker.core.actors.actors[ACTOR].worker
    assert worker.host.host_id == second


def test_a_worker_that_dies_during_the_construction(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    (worker,) = broker.workers(host)
    broker.create(driver, max_restarts=1)
    broker.kill(worker)
    broker.workers(host)
    assert broker.core.actors.actors[ACTOR].worker is not None
    assert broker.free == {"CPU": 0}


# ------------------------------------------------------------------ the end


def test_killed_for_good(broker):
    stage = Stage(broker, max_restarts=5)
    stage.call(stage.driver, 1)
    broker.say(stage.driver, m.ActorKill(ACTOR, True))
    assert [state for state, _, _ in stage.states(stage.driver)] == [m.DEAD]
    assert [kill.worker_id for kill in broker.take(stage.host, m.KillWorker)] == [stage.worker]
    broker.kill(stage.worker)
    assert stage.states(stage.driver) == []
    stage.call(stage.driver, 2)
    assert [state for state, _, _ in stage.states(stage.driver)] == [m.DEAD]


def test_killed_to_be_restarted(broker):
    stage = Stage(broker, max_restarts=1)
    broker.say(stage.driver, m.ActorKill(ACTOR, False))
    broker.kill(stage.worker)
    assert [state for state, _, _ in stage.states(stage.driver)] == [m.RESTARTING]


def test_killed_before_it_was_placed(broker):
    driver = broker.driver()
    broker.create(driver, name="n")
    broker.say(driver, m.ActorKill(ACTOR, True), m.ActorKill(OTHER, True))
    assert [notice.state for notice in broker.take(driver, m.ActorState)] == [m.DEAD]
    host = broker.host(CPU=1)
    broker.workers(host)
    assert broker.free == {"CPU": 1}
    assert not any(broker.core.lines.actors.values())


def test_killed_while_its_worker_starts(broker):
    """The worker joins before it is killed: it has no actor and no job, and gets no tasks."""
    driver = broker.driver()
    host = broker.host(CPU=2)
    broker.create(driver)
    worker = broker.core.actors.actors[ACTOR].worker.worker_id
    broker.say(driver, m.ActorKill(ACTOR, True))
    assert worker in broker.workers(host)
    broker.submit(driver, 4, retryable=False)
    assert broker.take(worker, m.Run) == []
    broker.kill(worker)


def test_a_released_actor_ends_after_its_work(broker):
    stage = Stage(broker)
    stage.call(stage.driver, 1)
    broker.say(stage.driver, m.ActorRelease(ACTOR), m.ActorRelease(ACTOR))
    assert [type(message) for message in broker.take(stage.worker)][-2:] == [m.ActorRun, m.ActorStop]
    broker.say(stage.worker, m.ActorExiting(ACTOR, "all references to the actor were removed"), m.Leaving("done"))
    assert [state for state, _, _ in stage.states(stage.driver)] == [m.DEAD]
    assert broker.core.workers.workers[stage.worker].state == RETIRED
    assert broker.take(stage.host, m.KillWorker) == []


def test_released_before_it_was_ready(broker):
    driver = broker.driver()
    host = broker.host(CPU=1)
    (worker,) = broker.workers(host)
    broker.create(driver)
    broker.say(driver, m.ActorRelease(ACTOR))
    assert broker.take(worker, m.ActorStop) == []
    broker.say(worker, m.ActorReady(ACTOR, b""))
    assert broker.take(worker, m.ActorStop) == [m.ActorStop(ACTOR)]


def test_released_before_it_was_placed(broker):
    driver = broker.driver()
    broker.create(driver)
    broker.say(driver, m.ActorRelease(ACTOR))
    assert broker.core.actors.actors == {}


def test_a_released_actor_is_not_restarted(broker):
    stage = Stage(broker, max_restarts=5)
    broker.say(stage.driver, m.ActorRelease(ACTOR))
    broker.kill(stage.worker)
    assert broker.core.actors.actors == {}


def test_a_detached_actor_is_not_released(broker):
    stage = Stage(broker, detached=True, name="n")
    broker.say(stage.driver, m.ActorRelease(ACTOR))
    assert broker.take(stage.worker, m.ActorStop) == []


def test_an_actor_that_exits_is_not_restarted(broker):
    stage = Stage(broker, max_restarts=5, running=ONE_CPU)
    broker.say(stage.worker, m.ActorExiting(ACTOR, "it had enough"), m.Leaving("it had enough"))
    (notice,) = broker.take(stage.driver, m.ActorState)
    why, *facts = notice.message.split("\n\t")
    assert (notice.state, why) == (m.DEAD, "it had enough")
    assert facts == ["class_name: A", f"actor_id: {ACTOR.hex()}", "pid: 1001"]
    assert broker.free == {"CPU": 2}
    broker.kill(stage.worker)
    assert broker.take(stage.driver, m.ActorState) == []


def test_only_its_own_worker_reports_its_exit(broker):
    stage = Stage(broker)
    other = next(worker for worker in stage.idle if worker != stage.worker)
    broker.say(other, m.ActorExiting(ACTOR, "sabotage"))
    assert ACTOR in broker.core.actors.actors


def test_an_actor_ends_with_its_creator(broker):
    stage = Stage(broker, name="n", max_restarts=5)
    other = broker.driver("other")
    stage.call(other, 1)
    broker.lose(stage.driver)
    assert [state for state, _, _ in stage.states(other)] == [m.DEAD]
    assert broker.core.actors.names == {}
    broker.kill(stage.worker)
    assert broker.core.actors.actors == {}


def test_a_detached_actor_outlives_its_creator(broker):
    stage = Stage(broker, name="n", detached=True)
    broker.say(stage.driver, m.Goodbye("bye"))
    assert [kill.worker_id for kill in broker.take(stage.host, m.KillWorker)] == []
    other = broker.driver("other")
    task_id = stage.call(other, 1)
    assert stage.served() == [task_id]
    broker.say(stage.worker, m.FunctionGet(FUNCTION))
    assert len(broker.core.jobs) == 2
    broker.say(other, m.ActorKill(ACTOR, True))
    broker.kill(stage.worker)
    assert len(broker.core.jobs) == 1


def test_actors_and_tasks_of_a_detached_actor_outlive_the_driver(broker):
    stage = Stage(broker, name="n", detached=True)
    created = make_task_id(stage.worker, 1)
    broker.create(stage.worker, created, placement=NO_CPU)
    broker.workers(stage.host)
    child = broker.core.actors.actors[created].worker.worker_id
    broker.say(child, m.ActorReady(created, b""))
    (task_id,) = broker.submit(stage.worker)
    broker.workers(stage.host)
    broker.take(stage.host)
    broker.say(stage.driver, m.Goodbye("bye"))
    broker.take(stage.driver)
    busy = broker.tasks[task_id].worker
    assert {kill.worker_id for kill in broker.take(stage.host, m.KillWorker)} & {
        child,
        stage.worker,
        busy and busy.worker_id,
    } == set()
    broker.kill(stage.worker)
    assert child in {kill.worker_id for kill in broker.take(stage.host, m.KillWorker)}
