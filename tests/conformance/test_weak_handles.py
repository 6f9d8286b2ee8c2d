"""Weak handles (by name, or of the actor itself) do not keep an actor; other handles also keep a dead actor's name."""

from __future__ import annotations

import os
import uuid

import pytest

from .helpers import eventually, has_named_actor, raises_within


@pytest.fixture
def name():
    return f"actor-{uuid.uuid4().hex[:8]}"


def make(ray, name, **options):
    class A:
        def f(self):
            return os.getpid()

        def end(self, how):
            exec(how, {"ray": ray, "os": os})

        def hold_myself(self):
            self.me = ray.get_runtime_context().current_actor
            return self.me

        def call(self, handles):
            return ray.get(handles[0].f.remote())

    return ray.remote(num_cpus=0)(A).options(name=name, **options).remote()


WEAK = {
    "get_actor": lambda ray, actor, name: ray.get_actor(name),
    "get_if_exists": lambda ray, actor, name: make(ray, name, get_if_exists=True),
    "current_actor": lambda ray, actor, name: ray.get(actor.hold_myself.remote()),
    "a copy": lambda ray, actor, name: ray.get(ray.put([ray.get_actor(name)]))[0],
}


@pytest.mark.parametrize("how", WEAK)
def test_weak_handles_do_not_keep_the_actor(ray, name, how):
    actor = make(ray, name)
    weak = WEAK[how](ray, actor, name)
    assert weak == actor and hash(weak) == hash(actor)
    assert ray.get(weak.f.remote()) == ray.get(actor.f.remote())
    del actor
    eventually(lambda: not has_named_actor(ray, name))
    assert isinstance(raises_within(ray, weak.f.remote()), ray.exceptions.ActorDiedError)


def test_the_first_handle_of_get_if_exists_keeps_the_actor(ray, name):
    actor = make(ray, name, get_if_exists=True)
    weak = make(ray, name, get_if_exists=True)
    assert ray.get(actor.f.remote()) == ray.get(weak.f.remote())
    del weak
    assert ray.get(actor.f.remote())


def test_a_copy_of_the_first_handle_keeps_the_actor(ray, name):
    actor = make(ray, name)
    copy = ray.get(ray.put(actor))
    weak = ray.get_actor(name)
    del actor
    assert ray.get(weak.f.remote()) == ray.get(copy.f.remote())
    del copy
    eventually(lambda: not has_named_actor(ray, name))


def test_calls_by_a_weak_handle_before_the_end(ray, name):
    actor = make(ray, name)
    weak = ray.get_actor(name)
    refs = [weak.f.remote() for _ in range(20)]
    del actor
    assert len(set(ray.get(refs, timeout=20))) == 1


def test_a_weak_handle_of_a_detached_actor(ray, name):
    make(ray, name, lifetime="detached")
    other = ray.get_actor(name)
    assert ray.get(other.f.remote())
    ray.kill(other)
    eventually(lambda: not has_named_actor(ray, name))


@pytest.mark.parametrize("how", ["os._exit(1)", "ray.actor.exit_actor()"])
def test_the_name_of_a_dead_actor_is_taken_while_a_handle_is_held(ray, name, how):
    actor = make(ray, name)
    assert isinstance(raises_within(ray, actor.end.remote(how)), ray.exceptions.ActorDiedError)
    for get in (ray.get_actor, lambda name: make(ray, name, get_if_exists=True)):
        assert isinstance(raises_within(ray, get(name).f.remote()), ray.exceptions.ActorDiedError)
    with pytest.raises(ValueError):
        make(ray, name)
    del actor
    eventually(lambda: not has_named_actor(ray, name))
    assert ray.get(make(ray, name).f.remote())


def test_the_name_of_an_actor_whose_constructor_failed(ray, name):
    class Bad:
        def __init__(self):
            raise ValueError("cannot be built")

        def f(self):
            return 1

    actor = ray.remote(num_cpus=0)(Bad).options(name=name).remote()
    assert isinstance(raises_within(ray, actor.f.remote()), ray.exceptions.ActorDiedError)
    assert has_named_actor(ray, name)
    del actor
    eventually(lambda: not has_named_actor(ray, name))


def test_a_handle_that_another_actor_holds(ray, name):
    @ray.remote(num_cpus=0)
    class Holder:
        def hold(self, handles):
            self.handles = handles

    holder = Holder.remote()
    actor = make(ray, name)
    ray.get(holder.hold.remote([actor]))
    assert isinstance(raises_within(ray, actor.end.remote("os._exit(1)")), ray.exceptions.ActorDiedError)
    del actor
    with pytest.raises(ValueError):
        make(ray, name)
    ray.get(holder.hold.remote(None))
    eventually(lambda: not has_named_actor(ray, name))


def test_kill_frees_the_name_whatever_handles_are_held(ray, name):
    actor = make(ray, name)
    ray.get(actor.f.remote())
    ray.kill(actor)
    eventually(lambda: not has_named_actor(ray, name))
    assert ray.get(make(ray, name).f.remote())


def test_a_detached_actor_that_died_has_no_name(ray, name):
    actor = make(ray, name, lifetime="detached")
    raises_within(ray, actor.end.remote("os._exit(1)"))
    eventually(lambda: not has_named_actor(ray, name))


def test_the_name_goes_with_the_creator(ray, name):
    @ray.remote(num_cpus=0)
    class Creator:
        def create(self):
            self.actor = make(ray, name)
            raises_within(ray, self.actor.end.remote("os._exit(1)"))

    creator = Creator.remote()
    ray.get(creator.create.remote())
    assert has_named_actor(ray, name)
    ray.kill(creator)
    eventually(lambda: not has_named_actor(ray, name))
