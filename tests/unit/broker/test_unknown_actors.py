"""Calls of actors that the broker does not know: some of these actors may still be announced."""

from __future__ import annotations

import pytest

from tests.unit.broker.harness import ACTOR, OTHER, BrokerHarness, Stage
from zray.broker.actors import MAX_DEATH_REASONS
from zray.ids import make_task_id
from zray.protocol import messages as m


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


def answer_to_call(broker, caller: bytes, actor_id: bytes) -> list[m.ActorState]:
    """Calls an actor. Returns the notices that the caller gets at once."""
    broker.take(caller)
    broker.say(caller, m.ActorCall(actor_id, 0, 1, make_task_id(caller, 10**6), 0, b""))
    return broker.take(caller, m.ActorState)


def test_reasons_of_old_deaths_are_forgotten(broker):
    driver = broker.driver()
    actor_ids = [make_task_id(driver, number) for number in range(1, MAX_DEATH_REASONS + 2)]
    for actor_id in actor_ids:
        broker.core.receive(driver, broker.creation(actor_id), broker.now)
        broker.core.receive(driver, m.ActorKill(actor_id, True), broker.now)
    assert len(broker.core.actors._death_reasons) == MAX_DEATH_REASONS
    broker.turn()
    for actor_id, why in [(actor_ids[-1], "killed by `ray.kill`"), (actor_ids[0], "no longer has the reason")]:
        (notice,) = answer_to_call(broker, driver, actor_id)
        assert (notice.actor_id, notice.state) == (actor_id, m.DEAD)
        assert why in notice.message
        broker.create(driver, actor_id)  # the arguments of its constructor arrive late
        assert broker.core.actors.actors == {}


def test_an_actor_of_another_cluster_is_dead(broker):
    driver = broker.driver()
    (notice,) = answer_to_call(broker, driver, make_task_id(b"of another time".ljust(16, b"\0"), 5))
    assert notice.state == m.DEAD
    assert "another cluster" in notice.message
    assert broker.core.actors.actors == {}


def test_a_process_that_creates_no_actors_is_not_waited_for(broker):
    """The broker waits for the announcement of an actor only while its creator may send that: hosts never do."""
    driver = broker.driver()
    (notice,) = answer_to_call(broker, driver, make_task_id(broker.host(CPU=1), 5))
    assert notice.state == m.DEAD
    assert broker.core.actors.actors == {}


def test_an_actor_whose_creator_is_dead_is_dead(broker):
    driver, other = broker.driver(), broker.driver("other")
    broker.lose(driver)
    (notice,) = answer_to_call(broker, other, ACTOR)
    assert notice.state == m.DEAD


def test_a_detached_actor_is_found_after_its_creators_death(broker):
    stage = Stage(broker, name="n", detached=True)
    other = broker.driver("other")
    broker.lose(stage.driver)
    assert answer_to_call(broker, other, ACTOR) == []
    assert len(stage.served()) == 1


def test_a_detached_actor_without_constructor_arguments_ends_with_its_creator(broker):
    driver, other = broker.driver(), broker.driver("other")
    broker.say(driver, broker.creation(ready=False, payload=b"", name="n", detached=True))
    assert answer_to_call(broker, other, ACTOR) == []
    broker.say(driver, m.Goodbye("bye"))
    assert [notice.state for notice in broker.take(other, m.ActorState)] == [m.DEAD]
    assert broker.core.actors.names == {}
    assert len(broker.core.jobs) == 1


def test_calls_wait_for_an_announcement_until_the_creator_dies(broker):
    driver, other = broker.driver(), broker.driver("other")
    broker.create(driver)
    assert answer_to_call(broker, other, OTHER) == []  # a later actor than all that were announced
    broker.lose(driver)
    assert {(notice.actor_id, notice.state) for notice in broker.take(other, m.ActorState)} == {(OTHER, m.DEAD)}
    assert broker.core.actors.actors == {}


def test_a_kill_that_comes_before_the_announcement(broker):
    driver, other = broker.driver(), broker.driver("other")
    broker.workers(broker.host(CPU=1))
    broker.say(other, m.ActorKill(ACTOR, True))
    broker.create(driver, name="n", request=9)
    assert [(found.request, found.actor_id) for found in broker.take(driver, m.ActorFound)] == [(9, ACTOR)]
    assert [notice.state for notice in answer_to_call(broker, driver, ACTOR)] == [m.DEAD]
    assert broker.core.actors.actors == {}
    assert broker.core.actors.names == {}


def test_an_argument_of_the_constructor_is_an_error(broker):
    driver = broker.driver()
    broker.say(
        driver,
        broker.creation(ready=False, payload=b"", name="n", request=9),
        m.ActorReady(ACTOR, b"error"),
    )
    (found,) = broker.take(driver, m.ActorFound)
    assert found.actor_id == ACTOR
    (notice,) = answer_to_call(broker, driver, ACTOR)
    assert (notice.state, notice.error) == (m.DEAD, b"error")
    assert broker.core.actors.names == {}


def test_a_process_announces_its_own_actors_only(broker):
    driver, other = broker.driver(), broker.driver("other")
    with pytest.raises(m.ProtocolError, match="another process"):
        broker.create(other, ACTOR)
    broker.create(driver, ACTOR)
    assert ACTOR in broker.core.actors.actors
