"""Which calls wait for others: ordinary actors keep each caller's order; others run a call when its arguments exist."""

from __future__ import annotations

import os

import pytest

from .helpers import eventually, make_gate, raises_within

TIMEOUT_S = 20
CONCURRENT = ["async", "async one by one", "threads"]


def make_class(ray, kind):
    """Makes an actor class that records the calls of ``note``, in order."""

    class Base:
        def __init__(self):
            self.notes = []

        def die(self):
            os._exit(1)

    class Plain(Base):
        def note(self, value):
            self.notes.append(value)
            return value

        def read(self):
            return self.notes

    class Async(Base):
        async def note(self, value):
            self.notes.append(value)
            return value

        async def read(self):
            return self.notes

    return {
        "plain": ray.remote(num_cpus=0)(Plain),
        "async": ray.remote(num_cpus=0)(Async),
        "async one by one": ray.remote(num_cpus=0, max_concurrency=1)(Async),
        "threads": ray.remote(num_cpus=0, max_concurrency=4)(Plain),
    }[kind]


@pytest.fixture(params=CONCURRENT)
def concurrent(ray, request):
    return make_class(ray, request.param)


def get(ray, refs):
    return ray.get(refs, timeout=TIMEOUT_S)


def test_a_call_behind_one_that_waits_for_its_argument(ray, gate, concurrent):
    actor = concurrent.remote()
    waiting = actor.note.remote(gate.wait.remote())
    assert get(ray, [actor.note.remote(number) for number in range(3)]) == [0, 1, 2]
    gate.open.remote()
    assert get(ray, waiting) == "open"
    assert get(ray, actor.read.remote())[-1] == "open"


def test_the_call_that_the_argument_waits_for_comes_later(ray, concurrent):
    """A call waits for a task that waits for a later call of the same actor and caller."""

    @ray.remote(num_cpus=0)
    def until_noted(actor):
        return eventually(lambda: ray.get(actor.read.remote()))

    actor = concurrent.remote()
    waiting = actor.note.remote(until_noted.remote(actor))
    assert get(ray, actor.note.remote("later")) == "later"
    assert get(ray, waiting) == ["later"]


def test_arguments_in_another_order(ray, concurrent):
    actor = concurrent.remote()
    gates = [make_gate(ray) for _ in range(3)]
    waiting = [actor.note.remote(gate.wait.remote()) for gate in gates]
    for gate, ref in reversed(list(zip(gates, waiting, strict=True))):
        gate.open.remote()
        assert get(ray, ref) == "open"
    assert get(ray, actor.read.remote()) == ["open"] * 3


def test_calls_whose_arguments_exist_are_not_lost_among_many(ray, gate, concurrent):
    actor = concurrent.remote()
    argument = gate.wait.remote()
    waiting = [actor.note.remote(argument) for _ in range(50)]
    assert get(ray, [actor.note.remote(number) for number in range(50)]) == list(range(50))
    gate.open.remote()
    assert get(ray, waiting) == ["open"] * 50


def call_past_one_that_waits(ray, actor, gate):
    """Makes two calls, the first of which waits for an argument. Returns the values of both."""
    waiting = actor.note.remote(gate.wait.remote())
    behind = ray.get(actor.note.remote("behind"), timeout=TIMEOUT_S)
    gate.open.remote()
    return [ray.get(waiting, timeout=TIMEOUT_S), behind]


def test_by_a_handle_that_was_looked_up(ray, gate, concurrent, request):
    actor = concurrent.options(name=request.node.name).remote()
    other = ray.get_actor(request.node.name)
    assert call_past_one_that_waits(ray, other, gate) == ["open", "behind"]
    del actor


def test_by_a_handle_that_was_passed_on(ray, gate, concurrent):
    @ray.remote(num_cpus=0)
    def call(handles, gate):
        return call_past_one_that_waits(ray, handles["actor"], gate)

    assert get(ray, call.remote({"actor": concurrent.remote()}, gate)) == ["open", "behind"]


def test_by_a_handle_that_was_returned(ray, gate, concurrent):
    actor = get(ray, ray.remote(num_cpus=0)(lambda actor: actor).remote(concurrent.remote()))
    assert call_past_one_that_waits(ray, actor, gate) == ["open", "behind"]


def test_concurrency_that_is_given_later(ray, gate):
    actor = make_class(ray, "plain").options(max_concurrency=2).remote()
    assert call_past_one_that_waits(ray, actor, gate) == ["open", "behind"]


def test_an_argument_that_fails_ends_only_its_call(ray, gate, concurrent):
    def fail(gate):
        ray.get(gate.wait.remote())
        raise ValueError("no argument")

    actor = concurrent.remote()
    failing = actor.note.remote(ray.remote(max_retries=0)(fail).remote(gate))
    assert get(ray, actor.note.remote(1)) == 1
    gate.open.remote()
    assert isinstance(raises_within(ray, failing), ValueError)
    assert get(ray, actor.read.remote()) == [1]


def test_a_call_that_waits_is_cancelled(ray, gate, concurrent):
    actor = concurrent.remote()
    waiting = actor.note.remote(gate.wait.remote())
    ray.cancel(waiting)
    assert isinstance(raises_within(ray, waiting), ray.exceptions.TaskCancelledError)
    gate.open.remote()
    assert get(ray, actor.read.remote()) == []


def test_a_call_that_waits_survives_a_restart(ray, gate, concurrent):
    actor = concurrent.options(max_restarts=1, max_task_retries=1).remote()
    get(ray, actor.note.remote("before"))
    waiting = actor.note.remote(gate.wait.remote())
    dying = actor.die.options(max_task_retries=0).remote()
    assert isinstance(raises_within(ray, dying), ray.exceptions.RayError)
    assert get(ray, actor.read.remote()) == []
    gate.open.remote()
    assert get(ray, waiting) == "open"
    assert get(ray, actor.read.remote()) == ["open"]


def test_ordinary_actors_keep_the_order(ray, gate):
    actor = make_class(ray, "plain").remote()
    refs = [actor.note.remote(0), actor.note.remote(gate.wait.remote()), actor.note.remote(2)]
    assert get(ray, refs[0]) == 0
    assert ray.wait(refs[1:], timeout=0.2) == ([], refs[1:])
    gate.open.remote()
    assert get(ray, refs) == [0, "open", 2]
    assert get(ray, actor.read.remote()) == [0, "open", 2]


def test_ordinary_actors_keep_the_order_of_each_caller_only(ray, gate):
    actor = make_class(ray, "plain").remote()
    waiting = actor.note.remote(gate.wait.remote())

    @ray.remote(num_cpus=0)
    def call(actor):
        return ray.get(actor.note.remote("another caller"))

    assert get(ray, call.remote(actor)) == "another caller"
    gate.open.remote()
    assert get(ray, waiting) == "open"
