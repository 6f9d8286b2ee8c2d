"""The broker's actors: names, mailboxes, restarts, and every way in which one ends."""

from __future__ import annotations

import pytest

from tests.unit.broker.desk import ACTOR, FUNCTION, NO_CPU, ONE_CPU, OTHER, Desk, Stage, shape
from zray.broker.states import RETIRED
from zray.ids import make_task_id
from zray.protocol import messages as m
from zray.protocol.records import JoinInfo

THIRD = make_task_id(b"driver".ljust(16, b"\0"), 3)


@pytest.fixture
def desk() -> Desk:
    return Desk()


# ------------------------------------------------------------------ creation


def test_an_actor_is_placed_and_started(desk):
    stage = Stage(desk, max_restarts=3)
    assert (stage.start.actor_id, stage.start.incarnation, stage.start.function_id) == (ACTOR, 0, FUNCTION)
    assert (stage.start.payload, stage.start.creator) == (b"payload", stage.driver)
    assert desk.free == {"CPU": 2}  # one to be placed, none while it lives


def test_it_keeps_what_it_asked_for(desk):
    stage = Stage(desk, running=ONE_CPU)
    assert desk.free == {"CPU": 1}
    desk.kill(stage.worker)
    assert desk.free == {"CPU": 2}


def test_it_keeps_its_gpu(desk):
    """A GPU that becomes free during the construction changes nothing."""
    driver = desk.driver()
    host = desk.host(CPU=4, GPU=2)
    workers = desk.workers(host)
    (task_id,) = desk.submit(driver, shape=shape(CPU=1, GPU=1))
    busy = next(worker for worker in workers if desk.runs(worker))
    gpu = shape(GPU=1)
    desk.create(driver, placement=gpu, running=gpu)
    worker = desk.core.actors.actors[ACTOR].worker
    (start,) = desk.take(worker.worker_id, m.ActorStart)
    assert start.gpus == [1]
    desk.done(busy, task_id)
    desk.say(worker.worker_id, m.ActorReady(ACTOR, b""))
    desk.submit(driver, shape=shape(CPU=1, GPU=1))
    (run,) = [run for other in workers for run in desk.take(other, m.Run)]
    assert run.gpus == [0]


def test_a_worker_is_started_when_none_is_free(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    desk.create(driver)
    assert len(desk.take(host, m.StartWorker)) == 2
    worker = desk.core.actors.actors[ACTOR].worker.worker_id
    desk.core.joined(worker, m.WORKER, JoinInfo(7), desk.now)
    desk.turn()
    assert len(desk.take(worker, m.ActorStart)) == 1


def never_comes(desk, host) -> None:
    """The worker that is to take the actor dies before it has joined."""
    worker = desk.core.actors.actors[ACTOR].worker.worker_id
    desk.say(host, m.WorkerDied(worker, b"", "WorkerCrashedError", "it could not reach the broker"))


def test_an_actor_whose_worker_never_came_gets_another(desk):
    """Its restarts are not charged, and nobody hears of it."""
    driver = desk.driver()
    host = desk.host(CPU=1)
    desk.create(driver)
    for _ in range(3):
        never_comes(desk, host)
    assert not desk.take(driver, m.ActorState)
    worker = desk.core.actors.actors[ACTOR].worker.worker_id
    desk.core.joined(worker, m.WORKER, JoinInfo(7), desk.now)
    desk.turn()
    (start,) = desk.take(worker, m.ActorStart)
    assert start.incarnation == 0
    assert desk.core.actors.actors[ACTOR].failed_starts == 0


def test_an_actor_of_which_no_worker_ever_comes_ends_with_the_reason(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    desk.create(driver)
    for _ in range(4):
        never_comes(desk, host)
    assert ACTOR not in desk.core.actors.actors
    desk.say(driver, m.ActorCall(ACTOR, 0, 1, make_task_id(driver, 99), 0, b""))
    assert "it could not reach the broker" in desk.take(driver, m.ActorState)[-1].message
    assert desk.free == {"CPU": 1}


def test_an_actor_that_is_killed_before_its_worker_came_is_not_started_again(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    desk.create(driver)
    worker = desk.core.actors.actors[ACTOR].worker.worker_id
    desk.say(driver, m.ActorKill(ACTOR, True))
    desk.say(host, m.WorkerDied(worker, b"", "WorkerCrashedError", "was killed"))
    assert ACTOR not in desk.core.actors.actors
    assert not [w for w in desk.core.scheduler.workers.values() if w.actor is not None]


def test_it_waits_for_room(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    (task_id,) = desk.submit(driver)
    desk.create(driver)
    assert desk.core.actors.actors[ACTOR].worker is None
    desk.done(worker, task_id)
    assert desk.core.actors.actors[ACTOR].worker is not None


def test_one_that_does_not_fit_does_not_hold_up_another(desk):
    driver = desk.driver()
    desk.workers(desk.host(CPU=1))
    desk.create(driver, placement=shape(CPU=5))
    desk.create(driver, OTHER)
    assert desk.core.actors.actors[OTHER].worker is not None


def test_announced_and_brought_later(desk):
    driver = desk.driver()
    desk.workers(desk.host(CPU=1))
    desk.say(driver, desk.creation(ready=False, payload=b"", name="n"))
    assert desk.core.actors.actors[ACTOR].worker is None
    desk.create(driver, name="n")
    assert desk.core.actors.actors[ACTOR].worker is not None
    desk.create(driver, name="n")
    assert not any(desk.core.scheduler.actors_waiting.values())


def test_calls_wait_for_the_constructor(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    desk.create(driver)
    task_ids = [make_task_id(driver, n) for n in (1, 2)]
    for seq, task_id in enumerate(task_ids, start=1):
        desk.say(driver, m.ActorCall(ACTOR, 0, seq, task_id, 0, b""))
    assert desk.take(worker, m.ActorRun) == []
    desk.say(worker, m.ActorReady(ACTOR, b""))
    assert [run.task_id for run in desk.take(worker, m.ActorRun)] == task_ids


def test_a_constructor_that_raised(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    desk.create(driver, name="n", max_restarts=5)
    desk.say(worker, m.ActorReady(ACTOR, b"error"))
    (notice,) = desk.take(driver, m.ActorState)
    assert (notice.state, notice.error) == (m.DEAD, b"error")
    assert [kill.worker_id for kill in desk.take(host, m.KillWorker)] == [worker]
    assert desk.core.actors.live_names() == []
    desk.say(driver, m.ActorLookup(7, "n", ""))
    assert desk.take(driver, m.ActorFound)[-1].actor_id == ACTOR
    desk.say(driver, m.ActorRelease(ACTOR))
    assert desk.core.actors.names == {}


def test_a_constructor_that_cannot_be_called(desk):
    driver = desk.driver()
    desk.say(driver, desk.creation(ready=False, payload=b""), m.ActorReady(ACTOR, b"error"))
    assert desk.core.actors.actors == {}


def test_only_its_worker_or_creator_speaks_for_it(desk):
    Stage(desk)
    stranger = desk.driver("stranger")
    with pytest.raises(m.ProtocolError):
        desk.say(stranger, m.ActorReady(ACTOR, b"error"))
    desk.say(stranger, m.ActorRelease(ACTOR))
    assert ACTOR in desk.core.actors.actors


@pytest.mark.parametrize(
    "changes", [{"placement": b"\xc1"}, {"placement": None}, {"running": 5}, {"max_restarts": "x"}, {"name": 5}]
)
def test_a_malformed_specification_changes_nothing(desk, changes):
    driver = desk.driver()
    with pytest.raises(m.ProtocolError):
        desk.create(driver, **{"name": "n", **changes})
    assert (desk.core.actors.actors, desk.core.actors.names) == ({}, {})


def test_a_worker_whose_job_has_ended_creates_nothing(desk):
    driver = desk.driver()
    host = desk.host(CPU=2)
    workers = desk.workers(host)
    desk.submit(driver)
    worker = next(worker for worker in workers if desk.runs(worker))
    desk.say(driver, m.Goodbye("bye"))
    desk.create(worker, make_task_id(worker, 1))
    assert desk.core.actors.actors == {}


# ------------------------------------------------------------------ names


def test_names(desk):
    stage = Stage(desk, name="n", namespace="space")
    (found,) = desk.take(stage.driver, m.ActorFound)
    assert found.actor_id == ACTOR
    desk.say(stage.driver, m.ActorLookup(5, "n", "space"), m.ActorLookup(6, "n", ""), m.ActorLookup(7, "m", "space"))
    found, *others = desk.take(stage.driver, m.ActorFound, m.NoSuchActor)
    assert (found.request, found.actor_id, found.spec.class_name) == (5, ACTOR, "A")
    assert others == [m.NoSuchActor(6), m.NoSuchActor(7)]


@pytest.mark.parametrize("get_if_exists", [False, True])
def test_a_name_that_is_taken(desk, get_if_exists):
    stage = Stage(desk, name="n")
    desk.take(stage.driver)
    desk.create(stage.driver, OTHER, name="n", request=9, get_if_exists=get_if_exists)
    (answer,) = desk.take(stage.driver, m.ActorFound, m.NameTaken)
    if get_if_exists:
        assert (answer.request, answer.actor_id) == (9, ACTOR)
    else:
        assert answer == m.NameTaken(9, is_dead=False)
    assert OTHER not in desk.core.actors.actors


def test_a_name_is_free_when_its_actor_is_dead(desk):
    stage = Stage(desk, name="n")
    desk.say(stage.driver, m.ActorKill(ACTOR, True))
    desk.take(stage.driver)
    desk.create(stage.driver, OTHER, name="n", request=9)
    (answer,) = desk.take(stage.driver, m.ActorFound)
    assert answer.actor_id == OTHER


@pytest.mark.parametrize("how", ["died", "ended itself"])
def test_a_name_is_a_dead_actors_until_its_last_handle_is_gone(desk, how):
    stage = Stage(desk, name="n")
    if how == "died":
        desk.kill(stage.worker)
    else:
        desk.say(stage.worker, m.ActorExiting(ACTOR, "it had enough"))
    desk.take(stage.driver)
    desk.create(stage.driver, OTHER, name="n", request=9)
    desk.create(stage.driver, THIRD, name="n", request=10, get_if_exists=True)
    desk.say(stage.driver, m.ActorLookup(11, "n", ""))
    refused, found, looked_up = desk.take(stage.driver, m.ActorFound, m.NameTaken)
    assert refused == m.NameTaken(9, is_dead=True)
    assert (found.request, found.actor_id, found.spec.name) == (10, ACTOR, "n")
    assert (looked_up.request, looked_up.actor_id, looked_up.spec.name) == (11, ACTOR, "n")
    assert desk.core.actors.live_names() == []
    stranger = desk.driver("stranger")
    desk.say(stranger, m.ActorRelease(ACTOR))
    assert desk.core.actors.names == {("", "n"): ACTOR}
    desk.say(stage.driver, m.ActorRelease(ACTOR))
    assert (desk.core.actors.names, desk.core.actors._dead) == ({}, {})


@pytest.mark.parametrize("how", ["killed", "its creator ends", "it is detached", "it was released before"])
def test_a_dead_actor_has_its_name_no_longer(desk, how):
    stage = Stage(desk, name="n", detached=how == "it is detached")
    if how == "it was released before":
        desk.say(stage.driver, m.ActorRelease(ACTOR))
    desk.kill(stage.worker)
    if how == "killed":
        desk.say(desk.driver("another"), m.ActorKill(ACTOR, False), m.ActorKill(ACTOR, True))
    if how == "its creator ends":
        desk.say(stage.driver, m.Goodbye("the end"))
    assert (desk.core.actors.names, desk.core.actors._dead) == ({}, {})


def test_a_name_stays_through_restarts(desk):
    stage = Stage(desk, name="n", max_restarts=1)
    desk.kill(stage.worker)
    assert desk.core.actors.names == {("", "n"): ACTOR}


# ------------------------------------------------------------------ calls


def test_calls_of_each_caller_arrive_in_their_order(desk):
    stage = Stage(desk)
    other = desk.driver("other")
    expected = [stage.call(stage.driver, 1), stage.call(other, 1), stage.call(stage.driver, 2), stage.call(other, 2)]
    assert stage.served() == expected
    desk.say(stage.worker, m.Reply(other, expected[1], 0, b"outcome"))
    assert desk.take(other, m.Result) == [m.Result(expected[1], 0, stage.worker, ACTOR, b"outcome")]


def test_an_answer_to_the_dead_is_dropped(desk):
    stage = Stage(desk)
    other = desk.driver("other")
    task_id = stage.call(other, 1)
    desk.lose(other)
    desk.take(other)
    desk.say(stage.worker, m.Reply(other, task_id, 0, b"outcome"))
    assert desk.take(other) == []


def test_cancelling_a_call_that_is_queued(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    desk.create(driver)
    task_id = make_task_id(driver, 1)
    desk.say(driver, m.ActorCall(ACTOR, 0, 1, task_id, 0, b""), m.ActorCancel(ACTOR, task_id, 0))
    (result,) = desk.take(driver, m.Result)
    assert (result.task_id, result.payload) == (task_id, b"")
    assert host in desk.core.scheduler.hosts


def test_cancelling_a_call_that_is_with_the_worker(desk):
    stage = Stage(desk)
    task_id = stage.call(stage.driver, 1)
    desk.say(stage.driver, m.ActorCancel(ACTOR, task_id, m.CANCEL_RECURSIVE), m.ActorCancel(OTHER, task_id, 0))
    assert desk.take(stage.worker, m.CancelTask) == [m.CancelTask(task_id, m.CANCEL_RECURSIVE)]


def test_a_call_to_an_actor_that_was_never_heard_of_waits(desk):
    """Its announcement comes by another link."""
    driver, other = desk.driver(), desk.driver("other")
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    task_id = make_task_id(other, 1)
    desk.say(other, m.ActorCall(ACTOR, 0, 1, task_id, 0, b""))
    desk.create(driver, name="n")
    desk.say(worker, m.ActorReady(ACTOR, b""))
    assert [run.task_id for run in desk.take(worker, m.ActorRun)] == [task_id]


# ------------------------------------------------------------------ restarts


def test_a_restart_is_told_to_each_caller(desk):
    stage = Stage(desk, max_restarts=1)
    other = desk.driver("other")
    stage.call(stage.driver, 1)
    stage.call(stage.driver, 2)
    stage.call(other, 1)
    desk.kill(stage.worker)
    assert stage.states(stage.driver) == [(m.RESTARTING, 1, 2)]
    assert stage.states(other) == [(m.RESTARTING, 1, 1)]
    stage.worker = stage.find()
    (start,) = desk.take(stage.worker, m.ActorStart)
    assert start.incarnation == 1
    again = stage.call(stage.driver, 1, incarnation=1)
    assert stage.served() == []
    desk.say(stage.worker, m.ActorReady(ACTOR, b""))
    assert stage.served() == [again]


def test_calls_of_an_old_incarnation_are_dropped(desk):
    stage = Stage(desk, max_restarts=1)
    stage.call(stage.driver, 1)
    desk.kill(stage.worker)
    stage.call(stage.driver, 2)  # before the news came
    stage.worker = stage.find()
    desk.say(stage.worker, m.ActorReady(ACTOR, b""))
    assert stage.served() == []
    assert stage.states(stage.driver)[0] == (m.RESTARTING, 1, 1)


def test_calls_that_waited_are_sent_again_by_their_callers(desk):
    stage = Stage(desk, max_restarts=2)
    desk.kill(stage.worker)
    stage.call(stage.driver, 1, incarnation=1)
    stage.worker = stage.find()
    stage.states(stage.driver)
    desk.kill(stage.worker)
    assert stage.states(stage.driver) == [(m.RESTARTING, 2, 0)]
    stage.worker = stage.find()
    desk.say(stage.worker, m.ActorReady(ACTOR, b""))
    assert stage.served() == []


def test_a_new_caller_of_a_restarted_actor_is_told(desk):
    stage = Stage(desk, max_restarts=1)
    desk.kill(stage.worker)
    stage.worker = stage.find()
    desk.say(stage.worker, m.ActorReady(ACTOR, b""))
    other = desk.driver("other")
    stage.call(other, 1)
    assert stage.states(other) == [(m.PENDING, 1, 0)]
    task_id = stage.call(other, 1, incarnation=1)
    assert stage.served() == [task_id]


@pytest.mark.parametrize("restarts", [0, 1, 3])
def test_restarts_are_counted(desk, restarts):
    stage = Stage(desk, max_restarts=restarts)
    for _ in range(restarts):
        desk.kill(stage.worker)
        stage.worker = stage.find()
        desk.say(stage.worker, m.ActorReady(ACTOR, b""))
    stage.states(stage.driver)
    desk.kill(stage.worker)
    assert [state for state, _, _ in stage.states(stage.driver)] == [m.DEAD]
    assert desk.free == {"CPU": 2}


def test_restarts_without_limit(desk):
    stage = Stage(desk, max_restarts=-1)
    for _ in range(20):
        desk.kill(stage.worker)
        stage.worker = stage.find()
    assert desk.core.actors.actors[ACTOR].incarnation == 20


def test_a_restart_on_another_host(desk):
    stage = Stage(desk, max_restarts=1)
    second = desk.host("second", CPU=1)
    desk.workers(second)
    desk.lose(stage.host)
    worker = desk.core.actors.actors[ACTOR].worker
    assert worker.host.host_id == second


def test_a_worker_that_dies_during_the_construction(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    desk.create(driver, max_restarts=1)
    desk.kill(worker)
    desk.workers(host)
    assert desk.core.actors.actors[ACTOR].worker is not None
    assert desk.free == {"CPU": 0}


# ------------------------------------------------------------------ the end


def test_killed_for_good(desk):
    stage = Stage(desk, max_restarts=5)
    stage.call(stage.driver, 1)
    desk.say(stage.driver, m.ActorKill(ACTOR, True))
    assert [state for state, _, _ in stage.states(stage.driver)] == [m.DEAD]
    assert [kill.worker_id for kill in desk.take(stage.host, m.KillWorker)] == [stage.worker]
    desk.kill(stage.worker)
    assert stage.states(stage.driver) == []
    stage.call(stage.driver, 2)
    assert [state for state, _, _ in stage.states(stage.driver)] == [m.DEAD]


def test_killed_to_be_restarted(desk):
    stage = Stage(desk, max_restarts=1)
    desk.say(stage.driver, m.ActorKill(ACTOR, False))
    desk.kill(stage.worker)
    assert [state for state, _, _ in stage.states(stage.driver)] == [m.RESTARTING]


def test_killed_before_it_was_placed(desk):
    driver = desk.driver()
    desk.create(driver, name="n")
    desk.say(driver, m.ActorKill(ACTOR, True), m.ActorKill(OTHER, True))
    assert [notice.state for notice in desk.take(driver, m.ActorState)] == [m.DEAD]
    host = desk.host(CPU=1)
    desk.workers(host)
    assert desk.free == {"CPU": 1}
    assert not any(desk.core.scheduler.actors_waiting.values())


def test_buried_while_its_worker_starts(desk):
    """The worker comes before it is killed: it is nobody's, and gets nothing."""
    driver = desk.driver()
    host = desk.host(CPU=2)
    desk.create(driver)
    worker = desk.core.actors.actors[ACTOR].worker.worker_id
    desk.say(driver, m.ActorKill(ACTOR, True))
    assert worker in desk.workers(host)
    desk.submit(driver, 4, retryable=False)
    assert desk.take(worker, m.Run) == []
    desk.kill(worker)


def test_released_it_ends_after_its_work(desk):
    stage = Stage(desk)
    stage.call(stage.driver, 1)
    desk.say(stage.driver, m.ActorRelease(ACTOR), m.ActorRelease(ACTOR))
    assert [type(message) for message in desk.take(stage.worker)][-2:] == [m.ActorRun, m.ActorStop]
    desk.say(stage.worker, m.ActorExiting(ACTOR, "all handles of the actor were dropped"), m.Leaving("done"))
    assert [state for state, _, _ in stage.states(stage.driver)] == [m.DEAD]
    assert desk.core.scheduler.workers[stage.worker].state == RETIRED
    assert desk.take(stage.host, m.KillWorker) == []


def test_released_before_it_was_ready(desk):
    driver = desk.driver()
    host = desk.host(CPU=1)
    (worker,) = desk.workers(host)
    desk.create(driver)
    desk.say(driver, m.ActorRelease(ACTOR))
    assert desk.take(worker, m.ActorStop) == []
    desk.say(worker, m.ActorReady(ACTOR, b""))
    assert desk.take(worker, m.ActorStop) == [m.ActorStop(ACTOR)]


def test_released_before_it_was_placed(desk):
    driver = desk.driver()
    desk.create(driver)
    desk.say(driver, m.ActorRelease(ACTOR))
    assert desk.core.actors.actors == {}


def test_released_it_is_not_restarted(desk):
    stage = Stage(desk, max_restarts=5)
    desk.say(stage.driver, m.ActorRelease(ACTOR))
    desk.kill(stage.worker)
    assert desk.core.actors.actors == {}


def test_a_detached_actor_is_not_released(desk):
    stage = Stage(desk, detached=True, name="n")
    desk.say(stage.driver, m.ActorRelease(ACTOR))
    assert desk.take(stage.worker, m.ActorStop) == []


def test_an_actor_that_exits_is_not_restarted(desk):
    stage = Stage(desk, max_restarts=5, running=ONE_CPU)
    desk.say(stage.worker, m.ActorExiting(ACTOR, "it had enough"), m.Leaving("it had enough"))
    (notice,) = desk.take(stage.driver, m.ActorState)
    assert (notice.state, notice.message) == (m.DEAD, "it had enough")
    assert desk.free == {"CPU": 2}
    desk.kill(stage.worker)
    assert desk.take(stage.driver, m.ActorState) == []


def test_only_its_own_worker_says_that_it_exits(desk):
    stage = Stage(desk)
    stranger = next(worker for worker in stage.idle if worker != stage.worker)
    desk.say(stranger, m.ActorExiting(ACTOR, "sabotage"))
    assert ACTOR in desk.core.actors.actors


def test_it_ends_with_its_creator(desk):
    stage = Stage(desk, name="n", max_restarts=5)
    other = desk.driver("other")
    stage.call(other, 1)
    desk.lose(stage.driver)
    assert [state for state, _, _ in stage.states(other)] == [m.DEAD]
    assert desk.core.actors.names == {}
    desk.kill(stage.worker)
    assert desk.core.actors.actors == {}


def test_a_detached_actor_outlives_its_creator(desk):
    stage = Stage(desk, name="n", detached=True)
    desk.say(stage.driver, m.Goodbye("bye"))
    assert [kill.worker_id for kill in desk.take(stage.host, m.KillWorker)] == []
    other = desk.driver("other")
    task_id = stage.call(other, 1)
    assert stage.served() == [task_id]
    desk.say(stage.worker, m.FunctionGet(FUNCTION))
    assert len(desk.core.jobs) == 2
    desk.say(other, m.ActorKill(ACTOR, True))
    desk.kill(stage.worker)
    assert len(desk.core.jobs) == 1


def test_what_a_detached_actor_created_outlives_the_driver(desk):
    stage = Stage(desk, name="n", detached=True)
    created = make_task_id(stage.worker, 1)
    desk.create(stage.worker, created, placement=NO_CPU)
    desk.workers(stage.host)
    child = desk.core.actors.actors[created].worker.worker_id
    desk.say(child, m.ActorReady(created, b""))
    (task_id,) = desk.submit(stage.worker)
    desk.workers(stage.host)
    desk.take(stage.host)
    desk.say(stage.driver, m.Goodbye("bye"))
    desk.take(stage.driver)
    busy = desk.core.tasks[task_id].worker
    assert {kill.worker_id for kill in desk.take(stage.host, m.KillWorker)} & {
        child,
        stage.worker,
        busy and busy.worker_id,
    } == set()
    desk.kill(stage.worker)
    assert child in {kill.worker_id for kill in desk.take(stage.host, m.KillWorker)}
