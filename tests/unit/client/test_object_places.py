"""Where objects are: what owners know, what others ask, and what happens when a process dies."""

from __future__ import annotations

import pytest

from zray.client.core.states import INLINE, STORED
from zray.ids import put_id, return_id
from zray.protocol import messages as m
from zray.protocol.messages import ProtocolError
from zray.protocol.records import ObjectLocation

from .wiring import HOST, Process, Wire

COPY = b"copy".ljust(16, b"\0")


@pytest.fixture
def wire() -> Wire:
    return Wire("owner", "asker", "other")


def stored(process: Process, size: int = 100) -> bytes:
    object_id = put_id(process.core.new_task_id())
    process.core.references.own(object_id, HOST)
    process.core.references.resolve(object_id, STORED, b"", HOST, size)
    return object_id


def ask(process: Process, *object_ids: bytes) -> list[list[ObjectLocation]]:
    answers: list[list[ObjectLocation]] = []
    process.core.places.ask(object_ids, answers.append)
    process.flush()
    return answers


def test_an_owner_knows_without_asking(wire: Wire) -> None:
    owner = wire.everybody[0]
    object_id = stored(owner)
    owner.core.locations.made(object_id, COPY)
    assert ask(owner, object_id) == [[ObjectLocation(object_id, [HOST, COPY], 100)]]


def test_small_values_and_pending_ones(wire: Wire) -> None:
    owner = wire.everybody[0]
    small = owner.put()
    task_id = owner.core.new_task_id()
    pending, returned = return_id(task_id, 1), return_id(task_id, 2)
    for object_id in (pending, returned):
        owner.core.references.own(object_id)
    owner.core.references.resolve(returned, INLINE, b"12345", b"", 5)
    size = len(owner.entry(small).data)
    assert ask(owner, small, pending, returned, put_id(owner.core.new_task_id())) == [
        [ObjectLocation(small, [HOST], size), ObjectLocation(pending, [], None), ObjectLocation(returned, [], 5)]
    ]


def test_other_owners_are_asked(wire: Wire) -> None:
    owner, asker, other = wire.everybody
    here, there = stored(owner), stored(other, 7)
    answers = ask(asker, here, there)
    wire.settle(without=[other])
    assert answers == []
    wire.settle()
    assert sorted(answers[0]) == sorted([ObjectLocation(here, [HOST], 100), ObjectLocation(there, [HOST], 7)])


def test_the_objects_of_a_dead_owner_are_left_out(wire: Wire) -> None:
    owner, asker, other = wire.everybody
    here, there = stored(owner), stored(other)
    answers = ask(asker, here, there)
    wire.kill(other)
    wire.settle()
    assert answers == [[ObjectLocation(here, [HOST], 100)]]
    assert ask(asker, there) == [[]]


def test_an_owner_that_dies_after_it_was_asked(wire: Wire) -> None:
    owner, asker, _ = wire.everybody
    answers = ask(asker, stored(owner))
    while wire.step_up(asker):
        pass
    wire.kill(owner)
    wire.settle()
    assert answers == [[]]


def test_the_end_of_the_cluster_ends_questions(wire: Wire) -> None:
    owner, asker, _ = wire.everybody
    answers = ask(asker, stored(owner))
    asker.core.lose_cluster("the broker is gone", 0.0)
    assert answers == [[]]


def test_an_answer_that_comes_too_late_is_dropped(wire: Wire) -> None:
    owner, asker, _ = wire.everybody
    answers: list[list[ObjectLocation]] = []
    number = asker.core.places.ask([stored(owner)], answers.append)
    asker.flush()
    asker.core.places.give_up(number)
    wire.settle()
    assert answers == []


def test_only_the_owner_is_asked_and_only_it_tells(wire: Wire) -> None:
    owner, asker, other = wire.everybody
    object_id = stored(owner)
    with pytest.raises(ProtocolError):
        asker.core.places.on_asked(owner.id, m.LocationsAsked(1, [object_id]))
    answers = ask(asker, object_id)
    with pytest.raises(ProtocolError):
        asker.core.places.on_told(other.id, m.LocationsTold(1, [ObjectLocation(object_id, [COPY], 1)]))
    asker.core.places.on_told(other.id, m.LocationsTold(1, []))
    assert answers == []
