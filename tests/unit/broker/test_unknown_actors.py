"""Calls of actors that the broker does not know, or not yet: which of them can still be announced."""

from __future__ import annotations

import pytest

from tests.unit.broker.desk import ACTOR, OTHER, Desk, Stage
from zray.broker.actors import MAX_TOMBSTONES
from zray.ids import make_task_id
from zray.protocol import messages as m


@pytest.fixture
def desk() -> Desk:
    return Desk()


def answer_to_call(desk, caller: bytes, actor_id: bytes) -> list[m.ActorState]:
    """What a process that calls an actor is told at once."""
    desk.take(caller)
    desk.say(caller, m.ActorCall(actor_id, 0, 1, make_task_id(caller, 10**6), 0, b""))
    return desk.take(caller, m.ActorState)


def test_the_dead_are_remembered_and_then_only_that_they_are_dead(desk):
    driver = desk.driver()
    actor_ids = [make_task_id(driver, number) for number in range(1, MAX_TOMBSTONES + 2)]
    for actor_id in actor_ids:
        desk.core.receive(driver, desk.creation(actor_id), desk.now)
        desk.core.receive(driver, m.ActorKill(actor_id, True), desk.now)
    assert len(desk.core.actors._tombs) == MAX_TOMBSTONES
    desk.turn()
    for actor_id, why in [(actor_ids[-1], "A was killed by zray.kill()"), (actor_ids[0], "died so long ago")]:
        (notice,) = answer_to_call(desk, driver, actor_id)
        assert (notice.actor_id, notice.state) == (actor_id, m.DEAD)
        assert why in notice.message
        desk.create(driver, actor_id)  # its constructor's arguments are there at last
        assert desk.core.actors.actors == {}


def test_an_actor_of_another_cluster_is_dead(desk):
    driver = desk.driver()
    (notice,) = answer_to_call(desk, driver, make_task_id(b"of another time".ljust(16, b"\0"), 5))
    assert notice.state == m.DEAD
    assert "another cluster" in notice.message
    assert desk.core.actors.actors == {}


def test_an_actor_whose_creator_is_dead_is_dead(desk):
    driver, other = desk.driver(), desk.driver("other")
    desk.lose(driver)
    (notice,) = answer_to_call(desk, other, ACTOR)
    assert notice.state == m.DEAD


def test_a_detached_actor_is_found_after_its_creators_death(desk):
    stage = Stage(desk, name="n", detached=True)
    other = desk.driver("other")
    desk.lose(stage.driver)
    assert answer_to_call(desk, other, ACTOR) == []
    assert len(stage.served()) == 1


def test_a_detached_actor_whose_constructor_will_never_come_ends_with_its_creator(desk):
    driver, other = desk.driver(), desk.driver("other")
    desk.say(driver, desk.creation(ready=False, payload=b"", name="n", detached=True))
    assert answer_to_call(desk, other, ACTOR) == []
    desk.say(driver, m.Goodbye("bye"))
    assert [notice.state for notice in desk.take(other, m.ActorState)] == [m.DEAD]
    assert desk.core.actors.names == {}
    assert len(desk.core.jobs) == 1


def test_calls_wait_for_an_announcement_until_the_creator_dies(desk):
    driver, other = desk.driver(), desk.driver("other")
    desk.create(driver)
    assert answer_to_call(desk, other, OTHER) == []  # a later one than any that was announced
    desk.lose(driver)
    assert {(notice.actor_id, notice.state) for notice in desk.take(other, m.ActorState)} == {(OTHER, m.DEAD)}
    assert desk.core.actors.actors == {}


def test_killed_by_a_handle_that_overtook_the_announcement(desk):
    driver, other = desk.driver(), desk.driver("other")
    desk.workers(desk.host(CPU=1))
    desk.say(other, m.ActorKill(ACTOR, True))
    desk.create(driver, name="n", request=9)
    assert [(found.request, found.actor_id) for found in desk.take(driver, m.ActorFound)] == [(9, ACTOR)]
    assert [notice.state for notice in answer_to_call(desk, driver, ACTOR)] == [m.DEAD]
    assert desk.core.actors.actors == {}
    assert desk.core.actors.names == {}


def test_an_argument_of_the_constructor_is_an_error_already(desk):
    driver = desk.driver()
    desk.say(
        driver,
        desk.creation(ready=False, payload=b"", name="n", request=9),
        m.ActorReady(ACTOR, b"error"),
    )
    (found,) = desk.take(driver, m.ActorFound)
    assert found.actor_id == ACTOR
    (notice,) = answer_to_call(desk, driver, ACTOR)
    assert (notice.state, notice.error) == (m.DEAD, b"error")
    assert desk.core.actors.names == {}


def test_nobody_announces_an_actor_of_somebody_else(desk):
    driver, other = desk.driver(), desk.driver("other")
    with pytest.raises(m.ProtocolError, match="somebody else"):
        desk.create(other, ACTOR)
    desk.create(driver, ACTOR)
    assert ACTOR in desk.core.actors.actors
