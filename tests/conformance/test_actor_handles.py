"""Handles of actors: passed on, captured, kept in objects, compared."""

from __future__ import annotations

import pytest

from .helpers import make_counter


@pytest.fixture
def counter(ray):
    return make_counter(ray)


def test_handle_passed_to_tasks(ray, counter):
    @ray.remote
    def f(counter):
        return ray.get(counter.increment.remote())

    assert sorted(ray.get([f.remote(counter) for _ in range(4)])) == [1, 2, 3, 4]


def test_handle_in_a_closure(ray, counter):
    @ray.remote
    def f():
        return ray.get(counter.increment.remote())

    assert ray.get(f.remote()) == 1


def test_handle_passed_to_another_actor(ray, counter):
    @ray.remote(num_cpus=0)
    class Caller:
        def __init__(self, counter):
            self.counter = counter

        def call(self):
            return ray.get(self.counter.increment.remote())

    assert ray.get(Caller.remote(counter).call.remote()) == 1


def test_handle_in_an_object_and_in_a_result(ray, counter):
    box = ray.put({"handle": counter})
    assert ray.get(ray.get(box)["handle"].increment.remote()) == 1

    @ray.remote
    def give_back(box):
        return [box["handle"]]

    assert ray.get(ray.get(give_back.remote(box))[0].increment.remote()) == 2


def test_actor_made_by_a_task_outlives_the_task_with_its_handle(ray):
    @ray.remote
    def make():
        return make_counter(ray, num_cpus=0)

    counter = ray.get(make.remote())
    assert ray.get(counter.increment.remote()) == 1


def test_actor_made_by_an_actor(ray):
    @ray.remote(num_cpus=0)
    class Parent:
        def __init__(self):
            self.child = make_counter(ray)

        def call(self):
            return ray.get(self.child.increment.remote())

        def child_handle(self):
            return self.child

    parent = Parent.remote()
    assert ray.get(parent.call.remote()) == 1
    assert ray.get(ray.get(parent.child_handle.remote()).increment.remote()) == 2


def test_actor_that_passes_its_own_handle_on(ray):
    @ray.remote(num_cpus=0)
    class A:
        def me(self):
            return ray.get_runtime_context().current_actor

        def f(self):
            return "me"

    actor = A.remote()
    assert ray.get(ray.get(actor.me.remote()).f.remote()) == "me"


def test_same_actor_through_two_handles_is_equal(ray, counter):
    copy = ray.get(ray.put(counter))
    assert copy == counter
    assert hash(copy) == hash(counter)
    assert copy != make_counter(ray)


def test_two_actors_that_call_each_other(ray):
    @ray.remote(num_cpus=0)
    class Peer:
        def meet(self, other):
            self.other = other

        def ping(self, n):
            return n if n == 0 else 1 + ray.get(self.other.pong.remote(n - 1))

        def pong(self, n):
            return n

    one, two = Peer.remote(), Peer.remote()
    ray.get([one.meet.remote(two), two.meet.remote(one)])
    assert ray.get(one.ping.remote(3)) == 3
    assert ray.get(two.ping.remote(1)) == 1
