"""The names of running code, and what errors of actors say about their actor."""

from __future__ import annotations

import os
import string
from typing import Any

import pytest

from .helpers import raises_within

FILE = __name__.rpartition(".")[2]


def names_of(ray):
    context = ray.get_runtime_context()
    return context.get_task_name(), context.get_task_function_name()


def is_module(name):
    return name in (__name__, FILE)  # the module's name depends on where pytest is started


def split(names):
    """Returns the task's name, and its function's name without the module, which is checked."""
    task_name, function_name = names
    module, _, rest = function_name.partition(f"{FILE}.")
    assert is_module(module + FILE), function_name
    return task_name, rest.rpartition("<locals>.")[2]  # Ray keeps that part for some functions


def outer_function(ray):
    def inner():
        return names_of(ray)

    return inner


def make_class(ray) -> Any:
    class Named:
        def __init__(self):
            self.names = names_of(ray)

        def method(self):
            return names_of(ray)

        @staticmethod
        def static():
            return names_of(ray)

        def constructor(self):
            return self.names

        def fail(self):
            raise ValueError("no")

        def die(self):
            os._exit(1)

    return Named


def make_async_class(ray):
    class AsyncNamed(make_class(ray)):  # type: ignore[misc]
        async def method(self):
            return names_of(ray)

    return AsyncNamed


def test_functions(ray):
    function = ray.remote(outer_function(ray))
    assert split(ray.get(function.remote())) == ("inner", "inner")
    assert split(ray.get(function.options(name="chosen").remote())) == ("chosen", "inner")
    assert split(ray.get(ray.remote(lambda: names_of(ray)).remote())) == ("<lambda>", "<lambda>")


@pytest.mark.parametrize("make", [make_class, make_async_class])
def test_methods(ray, make):
    kind = make(ray)
    actor = ray.remote(num_cpus=0)(kind).remote()
    name = kind.__name__
    for method in ("method", "static"):
        expected = f"{name}.{method}"
        assert split(ray.get(getattr(actor, method).remote())) == (expected, expected)
        chosen = getattr(actor, method).options(name="chosen")
        assert split(ray.get(chosen.remote())) == ("chosen", expected)
    assert split(ray.get(actor.constructor.remote())) == (f"{name}.__init__", f"{name}.__init__")


def test_errors_name_the_method(ray):
    actor = ray.remote(num_cpus=0)(make_class(ray)).remote()
    assert "Named.fail" in str(raises_within(ray, actor.fail.remote())).splitlines()[0]
    assert "chosen" in str(raises_within(ray, actor.fail.options(name="chosen").remote())).splitlines()[0]


def test_errors_of_actors_tell_which(ray):
    actor = ray.remote(num_cpus=0)(make_class(ray)).remote()
    other = ray.remote(num_cpus=0, max_restarts=1)(make_class(ray)).remote()
    for error in (
        raises_within(ray, actor.die.remote()),
        raises_within(ray, actor.die.remote()),
        raises_within(ray, other.die.remote()),
    ):
        assert isinstance(error, ray.exceptions.RayActorError)
        whose = other if isinstance(error, ray.exceptions.ActorUnavailableError) else actor
        assert error.actor_id in repr(whose) and set(error.actor_id) <= set(string.hexdigits)
        assert error.error_msg in str(error)
        assert error.preempted is False


def test_errors_of_actors_that_another_task_met(ray):
    actor = ray.remote(num_cpus=0)(make_class(ray)).remote()
    raises_within(ray, actor.die.remote())

    @ray.remote
    def meet(actor):
        ray.get(actor.method.remote())

    error = raises_within(ray, meet.remote(actor))
    assert isinstance(error, ray.exceptions.ActorDiedError)
    assert error.actor_id in repr(actor) and error.preempted is False


def test_errors_of_constructors_tell_which(ray):
    class Bad:
        def __init__(self):
            raise ValueError("cannot be built")

        def method(self):
            return 1

    actor = ray.remote(num_cpus=0)(Bad).remote()
    error = raises_within(ray, actor.method.remote())
    assert error.actor_id in repr(actor) and "cannot be built" in error.error_msg
