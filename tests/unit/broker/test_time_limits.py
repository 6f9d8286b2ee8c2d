"""Calls with a limit for their time, at the broker: who is told when, and what happens when each party dies."""

from __future__ import annotations

import math

import pytest

from tests.unit.broker.harness import ACTOR, BrokerHarness, Stage, one_worker
from zray.broker.time_limits import GRACE_S
from zray.ids import make_task_id
from zray.protocol import messages as m
from zray.protocol.messages import ProtocolError

LIMIT_S = 5.0


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


def limited(broker: BrokerHarness, limit_s: float = LIMIT_S) -> tuple[bytes, bytes, bytes]:
    """A driver, a worker, and the driver's task, which runs there under a limit."""
    driver, worker = one_worker(broker)
    (task_id,) = broker.submit(driver)
    broker.take(worker)
    broker.say(worker, m.TimeLimited(driver, task_id, 0, limit_s))
    return driver, worker, task_id


def passes(broker: BrokerHarness, seconds: float) -> None:
    """Lets time pass, and ends a turn: no process says anything."""
    broker.now += seconds
    broker.turn()


def host_of(broker: BrokerHarness, worker: bytes) -> bytes:
    return broker.core.workers.workers[worker].host.host_id


def test_a_task_is_interrupted_when_its_time_is_over(broker):
    _, worker, task_id = limited(broker)
    assert broker.core.due_s(broker.now) == LIMIT_S
    passes(broker, LIMIT_S - 0.01)
    assert not broker.take(worker, m.TimeIsUp)
    passes(broker, 0.01)
    assert broker.take(worker) == [m.TimeIsUp(task_id)]
    assert broker.core.due_s(broker.now) == GRACE_S


def test_a_task_that_ends_in_time_is_left_alone(broker):
    driver, worker, task_id = limited(broker)
    broker.say(worker, m.TimeLimitOver(task_id), m.Done(task_id, 0, 50, b"outcome"))
    passes(broker, 2 * LIMIT_S)
    assert not broker.take(worker)
    assert [result.payload for result in broker.take(driver, m.Result)] == [b"outcome"]
    assert broker.core.due_s(broker.now) == math.inf


def test_a_task_that_ends_when_it_is_interrupted_keeps_its_worker(broker):
    driver, worker, task_id = limited(broker)
    passes(broker, LIMIT_S)
    broker.say(worker, m.TimeLimitOver(task_id), m.Done(task_id, 0, 50, b"too late"))
    passes(broker, 2 * GRACE_S)
    assert not broker.take(host_of(broker, worker), m.KillWorker)
    assert not broker.take(driver, m.TimedOut)


def test_the_worker_of_a_task_that_does_not_end_is_killed(broker):
    driver, worker, task_id = limited(broker)
    host = host_of(broker, worker)
    passes(broker, LIMIT_S)
    passes(broker, GRACE_S)
    (kill,) = broker.take(host, m.KillWorker)
    assert kill.worker_id == worker
    assert "timeout_s=5" in kill.reason
    assert not broker.take(driver, m.TimedOut)  # another attempt must not begin before the worker is dead
    broker.kill(worker, running=task_id)
    told = broker.take(driver, m.TimedOut, m.Failed)
    assert [type(each) for each in told] == [m.TimedOut, m.Failed]
    assert told[0][:3] == (task_id, 0, b"")
    assert "did not end within 1 s" in told[0].message
    assert "worker was killed (pid 1000 on host" in told[0].message


def test_a_worker_that_dies_by_itself_is_not_a_timeout(broker):
    driver, worker, task_id = limited(broker)
    passes(broker, LIMIT_S)
    broker.kill(worker, running=task_id)
    passes(broker, LIMIT_S)
    assert not broker.take(driver, m.TimedOut)
    assert broker.core.due_s(broker.now) == math.inf


def test_the_owner_dies(broker):
    driver, worker, _ = limited(broker)
    broker.lose(driver)
    passes(broker, LIMIT_S)
    passes(broker, GRACE_S)
    broker.kill(worker)
    assert driver not in broker.mail


def test_the_host_dies(broker):
    driver, worker, task_id = limited(broker)
    passes(broker, LIMIT_S)
    passes(broker, GRACE_S)
    broker.lose(host_of(broker, worker))
    assert [told.task_id for told in broker.take(driver, m.TimedOut)] == [task_id]


def test_limits_of_tasks_that_ended_are_forgotten(broker):
    driver, worker = one_worker(broker)
    for _ in range(200):
        (task_id,) = broker.submit(driver)
        over = m.TimeLimitOver(task_id), m.Done(task_id, 0, 50, b"outcome")
        broker.say(worker, m.TimeLimited(driver, task_id, 0, LIMIT_S), *over)
    assert len(broker.core.time_limits._due) < 100


# ------------------------------------------------------------------ actors


def test_an_actor_is_killed_and_restarted(broker):
    stage = Stage(broker, max_restarts=1)
    task_id = stage.call(stage.driver, 1)
    broker.take(stage.driver)
    broker.say(stage.worker, m.TimeLimited(stage.driver, task_id, 0, LIMIT_S))
    passes(broker, LIMIT_S)
    assert broker.take(stage.worker, m.TimeIsUp) == [m.TimeIsUp(task_id)]
    passes(broker, GRACE_S)
    assert broker.take(stage.host, m.KillWorker)
    broker.kill(stage.worker)
    told = broker.take(stage.driver, m.TimedOut, m.ActorState)
    assert [type(each) for each in told] == [m.TimedOut, m.ActorState]
    assert told[0][:3] == (task_id, 0, ACTOR)


def test_an_actor_that_was_killed_for_one_call_does_not_time_out_the_others(broker):
    stage = Stage(broker, max_concurrency=2, ordered=False)
    one, other = (stage.call(stage.driver, number) for number in (1, 2))
    broker.say(stage.worker, m.TimeLimited(stage.driver, one, 0, 1.0), m.TimeLimited(stage.driver, other, 0, 60.0))
    passes(broker, 1.0)
    passes(broker, GRACE_S)
    broker.kill(stage.worker)
    assert [told.task_id for told in broker.take(stage.driver, m.TimedOut)] == [one]


# ------------------------------------------------------------------ impostors


@pytest.mark.parametrize("limit_s", [0.0, -1.0, math.nan, math.inf])
def test_a_limit_must_be_a_number_of_seconds(broker, limit_s):
    with pytest.raises(ProtocolError, match=r"number of seconds|limit_s"):
        limited(broker, limit_s)


def test_a_worker_announces_only_what_it_was_given(broker):
    driver, worker, task_id = limited(broker)
    for message in (
        m.TimeLimited(driver, make_task_id(driver, 999), 0, 1.0),
        m.TimeLimited(driver, task_id, 1, 1.0),
        m.TimeLimited(worker, task_id, 0, 1.0),
    ):
        with pytest.raises(ProtocolError, match="not given"):
            broker.say(worker, message)


def test_a_worker_has_no_more_limited_calls_than_its_actor_runs(broker):
    stage = Stage(broker)
    broker.say(stage.worker, m.TimeLimited(stage.driver, stage.call(stage.driver, 1), 0, 1.0))
    with pytest.raises(ProtocolError, match="at once"):
        broker.say(stage.worker, m.TimeLimited(stage.driver, stage.call(stage.driver, 2), 0, 1.0))


def test_the_end_of_another_workers_call_is_ignored(broker):
    _, worker, task_id = limited(broker)
    broker.host("other", CPU=1)
    (other,) = broker.workers(b"other".ljust(16, b"\0"))
    broker.say(other, m.TimeLimitOver(task_id))
    passes(broker, LIMIT_S)
    assert broker.take(worker, m.TimeIsUp)
