"""A process cannot act for another: what a member says about tasks and actors that are not its own has no effect.

The tests follow the table in SPEC.md, "Who may say what", as far as the broker can check it.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.broker.harness import ACTOR, FUNCTION, ONE_CPU, BrokerHarness, amounts, one_worker, prefetched
from zray.ids import make_task_id
from zray.protocol import messages as m
from zray.protocol.messages import ProtocolError
from zray.protocol.records import HostInfo, JoinInfo


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


def worker_of(broker: BrokerHarness, task_id: bytes) -> bytes:
    worker = broker.tasks[task_id].worker
    assert worker is not None
    return worker.worker_id


class Scene:
    """Two drivers with one running task each; the first also has an actor. One host has three workers."""

    def __init__(self, broker: BrokerHarness) -> None:
        self.broker = broker
        self.host = broker.host(CPU=3)
        self.workers = broker.workers(self.host)
        self.driver, self.other = broker.driver("driver"), broker.driver("other")
        (self.task,) = broker.submit(self.driver, retryable=False)
        (self.other_task,) = broker.submit(self.other, retryable=False)
        broker.create(self.driver, max_restarts=1)
        records = broker.core.workers.workers
        self.worker = worker_of(broker, self.task)
        self.other_worker = worker_of(broker, self.other_task)
        self.actor_worker = next(w for w in self.workers if records[w].actor is not None)
        broker.say(self.actor_worker, m.ActorReady(ACTOR, b""))
        self.call = make_task_id(self.driver, 500)
        broker.say(self.driver, m.ActorCall(ACTOR, 0, 1, self.call, 0, b"payload"))
        for process in (self.host, self.driver, self.other, *self.workers):
            broker.take(process)

    def refuses(self, source: bytes, message: Any) -> None:
        """Asserts that the message raises ProtocolError and that no message is sent."""
        with pytest.raises(ProtocolError):
            self.broker.say(source, message)
        self.is_quiet()

    def is_quiet(self) -> None:
        self.broker.turn()
        assert {dest: mail for dest, mail in self.broker.mail.items() if mail} == {}


@pytest.fixture
def scene(broker: BrokerHarness) -> Scene:
    return Scene(broker)


# ------------------------------------------------------------------ outcomes


def test_an_outcome_of_a_task_comes_from_its_worker(scene):
    for impostor in (scene.other_worker, scene.actor_worker):
        scene.broker.say(impostor, m.Done(scene.task, 0, 5, b"forged"))
        scene.is_quiet()
        scene.broker.say(impostor, m.Returned([scene.task]))
        scene.is_quiet()
        scene.broker.say(impostor, m.Started(scene.task, 0))
        scene.is_quiet()
    scene.refuses(scene.worker, m.Started(scene.task, 1))
    assert scene.broker.tasks[scene.task].payload == b"payload"
    scene.refuses(scene.worker, m.Done(scene.task, 1, 5, b"of another attempt"))
    scene.broker.done(scene.worker, scene.task)
    assert scene.broker.take(scene.driver) == [m.Result(scene.task, 0, scene.worker, b"", b"outcome")]


def test_an_outcome_of_a_call_comes_from_an_actor_and_tells_from_which(scene):
    for task_id in (scene.call, scene.task):  # for a task, too: the owner would accept it as the outcome
        scene.refuses(scene.worker, m.Reply(scene.driver, task_id, 0, b"forged"))
    scene.refuses(scene.actor_worker, m.Reply(scene.other, scene.call, 0, b"to another owner"))
    scene.broker.say(scene.actor_worker, m.Reply(scene.other, scene.other_task, 0, b"forged"))
    (result,) = scene.broker.take(scene.other)
    assert (result.source, result.actor) == (scene.actor_worker, ACTOR)  # the owner did not call this actor
    scene.broker.say(scene.actor_worker, m.Reply(scene.driver, scene.call, 0, b"outcome"))
    assert scene.broker.take(scene.driver) == [m.Result(scene.call, 0, scene.actor_worker, ACTOR, b"outcome")]


def test_replies_of_an_actor_that_has_ended_still_count(scene):
    """Replies that carry references may have waited for acknowledgements."""
    scene.broker.say(scene.actor_worker, m.ActorExiting(ACTOR, "done"), m.Leaving("done"))
    scene.broker.take(scene.driver)
    scene.broker.say(scene.actor_worker, m.Reply(scene.driver, scene.call, 0, b"late"))
    assert scene.broker.take(scene.driver) == [m.Result(scene.call, 0, scene.actor_worker, ACTOR, b"late")]


def test_replies_of_a_dead_worker_are_dropped(scene):
    scene.broker.kill(scene.actor_worker)
    scene.broker.take(scene.driver)
    scene.broker.take(scene.host)
    scene.broker.say(scene.actor_worker, m.Reply(scene.driver, scene.call, 0, b"from a dead worker"))
    scene.is_quiet()


# ------------------------------------------------------------------ tasks and calls


def test_a_process_submits_tasks_and_calls_in_its_own_name_only(scene):
    scene.refuses(scene.other, m.Submit(make_task_id(scene.driver, 7), 0, FUNCTION, ONE_CPU, 0, b"", b""))
    scene.refuses(scene.other, m.ActorCall(ACTOR, 0, 1, make_task_id(scene.driver, 8), 0, b""))
    assert len(scene.broker.tasks) == 2


def test_only_its_owner_cancels_a_task(scene):
    scene.broker.say(scene.other, m.Cancel(scene.task, m.CANCEL_FORCE))
    scene.is_quiet()


# ------------------------------------------------------------------ actors


def test_only_its_worker_and_its_creator_report_about_an_actor(scene):
    for impostor in (scene.other, scene.worker, scene.other_worker):
        scene.refuses(impostor, m.ActorReady(ACTOR, b"error"))
    for impostor in (scene.driver, scene.worker):
        if impostor != scene.driver:  # drivers may not send this message at all
            scene.broker.say(impostor, m.ActorExiting(ACTOR, "impostor"))
    scene.broker.say(scene.other, m.ActorRelease(ACTOR))
    scene.refuses(scene.other, scene.broker.creation())
    scene.is_quiet()
    assert scene.broker.core.actors.actors[ACTOR].creator == scene.driver


def test_a_worker_does_not_leave_before_its_actor_has_ended(scene):
    """Otherwise its grant would be given back twice: now, and when it dies."""
    scene.refuses(scene.actor_worker, m.Leaving("by mistake"))
    scene.broker.kill(scene.actor_worker)
    scene.broker.core.check()


def test_an_actor_is_not_ready_twice_or_before_it_was_started(broker):
    driver, worker = one_worker(broker)
    broker.create(driver)
    broker.say(worker, m.ActorReady(ACTOR, b""), m.ActorReady(ACTOR, b""))
    broker.core.check()


@pytest.mark.parametrize("changes", [
    {"max_restarts": "1"}, {"placement": "text"}, {"running": b"\xc1"}, {"name": b"bytes"}, {"namespace": 5},
    {"request": -1}, {"request": 1 << 63}, {"request": "1"}, {"class_name": 5}, {"meta": "text"}, {"handle": 7},
    {"max_concurrency": b"1"}, {"max_restarts": -2}, {"ready": None}, {"get_if_exists": 1},
    {"placement": b"\x91\x92\xa3CPU\x00"}, {"placement": b"\x91\x92\xa3CPU\xff"},
])  # fmt: skip
def test_specifications_of_actors_are_checked(broker, changes):
    driver = broker.driver()
    with pytest.raises(ProtocolError):
        broker.create(driver, **changes)
    assert broker.core.actors.actors == {}


# ------------------------------------------------------------------ hosts


@pytest.mark.parametrize("resources, info", [
    ({"CPU": 1 << 62}, {}), ({"GPU": 1 << 62}, {}), ({"CPU": -1}, {}), ({5: 1}, {}), ({"CPU": 1.5}, {}),
    ({}, {"hostname": [1]}), ({}, {"idle_timeout_s": "5"}), ({}, {"idle_timeout_s": float("nan")}),
    ({}, {"idle_timeout_s": -1}), ({}, {"labels": []}), ({}, {"labels": {"zone": 5}}), ({}, {"machine_id": 5}),
    ({}, {"store": None}), ({}, {"fetch": b""}),
])  # fmt: skip
def test_what_a_host_says_about_itself_is_checked(broker, resources, info):
    """The broker passes the information on to other processes, and has records for each CPU."""
    joiner = b"joiner".ljust(16, b"\0")
    broker.core.joined(joiner, m.HOST, JoinInfo(), broker.now)
    with pytest.raises(ProtocolError):
        broker.say(joiner, m.HostReady(resources, HostInfo()._replace(**info)))
    assert broker.core.scheduler.hosts == {}
    broker.say(joiner, m.HostReady(amounts(CPU=1), HostInfo()))
    assert len(broker.core.scheduler.hosts) == 1


@pytest.mark.parametrize("kind", ["", "KeyError", "ClusterUnavailableError", "TaskCancelledError"])
def test_the_kind_of_a_workers_death_is_checked(scene, kind):
    """At the owner the kind becomes an exception."""
    scene.refuses(scene.host, m.WorkerDied(scene.worker, b"", kind, "it died"))
    assert scene.worker in scene.broker.core.workers.workers


def test_a_worker_hands_back_its_own_tasks_only(broker):
    _, _, task_ids = prefetched(broker)
    other = broker.host("other", CPU=1)
    (other_worker,) = broker.workers(other)
    broker.say(other_worker, m.Returned(task_ids))
    broker.core.check()
    assert all(broker.tasks[task_id].worker is not None for task_id in task_ids[:2])


# ------------------------------------------------------------------ expelling


def test_a_misbehaving_process_is_declared_dead(scene):
    scene.broker.say(scene.other, m.Watch(scene.driver))
    scene.broker.core.expel(scene.driver, "it sent nonsense", scene.broker.now)
    assert scene.broker.core.may_join(scene.driver, m.DRIVER).endswith("it sent nonsense")
    scene.broker.turn()
    assert scene.broker.take(scene.other) == [m.ProcessDied(scene.driver, "it sent nonsense")]


def test_a_misbehaving_worker_is_killed_by_its_host(scene):
    """Its task fails or is tried again, as if the worker had died by itself."""
    scene.broker.core.expel(scene.worker, "it sent nonsense", scene.broker.now)
    scene.broker.turn()
    assert scene.broker.take(scene.host) == [m.KillWorker(scene.worker, "it sent nonsense")]
    scene.broker.kill(scene.worker)
    assert [type(message) for message in scene.broker.take(scene.driver)] == [m.Failed]


def test_a_cancelled_task_is_handed_back_after_its_owner_has_left(broker):
    driver, worker, task_ids = prefetched(broker)
    broker.say(driver, m.Cancel(task_ids[1], 0))
    broker.core.expel(driver, "it sent nonsense", broker.now)
    broker.say(worker, m.Returned([task_ids[1]]))
    assert broker.tasks == {}
