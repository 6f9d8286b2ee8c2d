"""Values that a worker or driver cannot load: a typed error, which names the argument or reference."""

from __future__ import annotations

import os

import pytest

from .helpers import error_of

DRIVER = os.getpid()


class Unloadable:
    """Cannot be loaded anywhere."""

    def __reduce__(self):
        return fail, ()


def fail():
    raise KeyError("inner")


@pytest.fixture(scope="module")
def unloadable():
    return Unloadable()


def check(ray, error, text):
    assert isinstance(error, ray.exceptions.RaySystemError)
    assert not isinstance(error, KeyError)
    assert text in str(error)
    assert "fail raised KeyError: 'inner'" in str(error)


def test_arguments(ray, unloadable):
    @ray.remote(max_retries=0)
    def f(first, *rest, key=None):
        return 1

    for ref, text in (
        (f.remote(unloadable), "argument 'first' of f cannot be loaded"),
        (f.remote(1, 2, [unloadable]), "argument 2 of f cannot be loaded"),
        (f.remote(1, key={"a": unloadable}), "argument 'key' of f cannot be loaded"),
        (f.remote(ray.put(unloadable)), "argument 'first' of f cannot be loaded"),
        (f.remote(1, key=ray.put([unloadable, bytes(200_000)])), "argument 'key' of f cannot be loaded"),
        (f.remote([unloadable, bytes(200_000)]), "argument 'first' of f cannot be loaded"),
    ):
        error = error_of(ray, ref)
        assert isinstance(error, ray.exceptions.RayTaskError)
        check(ray, error, text)
        assert isinstance(error.cause, ray.exceptions.DeserializationError)


def test_arguments_of_actors(ray, unloadable):
    class Actor:
        def __init__(self, first=None):
            pass

        def method(self, first):
            return 1

    class Asynchronous:
        async def method(self, first):
            return 1

    for kind in (Actor, Asynchronous):
        actor = ray.remote(kind).options(num_cpus=0).remote()
        check(
            ray, error_of(ray, actor.method.remote(unloadable)), f"argument 'first' of {kind.__name__}.method cannot be"
        )
        assert ray.get(actor.method.remote(1), timeout=20) == 1
    error = error_of(ray, ray.remote(Actor).options(num_cpus=0).remote(unloadable).method.remote(1))
    assert isinstance(error, ray.exceptions.ActorDiedError)
    assert "argument 'first' of Actor.__init__ cannot be loaded" in str(error)


def test_values(ray, unloadable):
    returned = ray.remote(lambda: [Unloadable()]).remote()
    for ref in (ray.put(unloadable), ray.put([unloadable, bytes(200_000)]), returned):
        with pytest.raises(ray.exceptions.DeserializationError) as caught:
            ray.get([ray.put(1), ref], timeout=20)
        check(ray, caught.value, f"the value of ObjectRef({ref.hex()}) cannot be loaded")
        assert type(caught.value.__cause__) is KeyError


def test_functions(ray, unloadable):
    error = error_of(ray, ray.remote(max_retries=0)(lambda: unloadable).remote())
    check(ray, error, "a function or class, with what it uses, cannot be loaded")
