"""Tasks and calls whose arguments are errors."""

from __future__ import annotations

import pytest


@pytest.fixture
def functions(ray):
    @ray.remote
    def fails():
        raise KeyError("the first")

    @ray.remote
    def uses(*args, **kwargs):
        return 1

    return fails, uses


def test_the_error_names_the_task_that_needed_the_argument(ray, functions):
    fails, uses = functions
    with pytest.raises(KeyError) as caught:
        ray.get(uses.remote(fails.remote()))
    assert isinstance(caught.value, ray.exceptions.RayTaskError)
    assert "uses" in str(caught.value)
    assert "fails" in str(caught.value) and "the first" in str(caught.value)


def test_a_chain_names_its_ends(ray, functions):
    fails, uses = functions
    ref = fails.remote()
    for _ in range(3):
        ref = uses.remote(1, word=ref)
    with pytest.raises(KeyError) as caught:
        ray.get(ref)
    assert "uses" in str(caught.value)
    assert "fails" in str(caught.value)


def test_an_argument_that_was_cancelled(ray, functions, gate):
    _, uses = functions
    waits = gate.wait.remote()  # the gate is never opened

    @ray.remote
    def never(ref):
        return 1

    cancelled = never.remote(waits)
    ray.cancel(cancelled)
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.get(uses.remote(cancelled))
    assert isinstance(caught.value, ray.exceptions.TaskCancelledError)
    assert "uses" in str(caught.value)


def test_an_argument_whose_actor_is_dead(ray, functions):
    _, uses = functions

    @ray.remote
    class Actor:
        def method(self):
            return 1

    actor = Actor.remote()
    ray.kill(actor)
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.get(uses.remote(actor.method.remote()))
    assert isinstance(caught.value, ray.exceptions.RayActorError)


def test_the_argument_of_a_method(ray, functions):
    fails, _ = functions

    @ray.remote
    class Actor:
        def method(self, value):
            return value

    with pytest.raises(KeyError) as caught:
        ray.get(Actor.remote().method.remote(fails.remote()))
    assert "method" in str(caught.value)


def test_several_return_values(ray, functions):
    fails, uses = functions
    for ref in uses.options(num_returns=3).remote(fails.remote()):
        with pytest.raises(KeyError, match="uses"):
            ray.get(ref)
