"""The errors about actors: their types, attributes and the words that programs look for."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from .helpers import eventually, make_counter, raises_within, run_driver


def make_class(ray):
    @ray.remote(num_cpus=0)
    class Actor:
        def __init__(self, fails=False):
            if fails:
                raise RuntimeError("the reason")

        def ping(self):
            return "pong"

        def die(self):
            os._exit(1)

        def exit(self):
            ray.actor.exit_actor()

        def leave(self):
            sys.exit(3)

    return Actor


def is_about(error, actor):
    return error.actor_id == actor._actor_id.hex()


def test_a_name_that_is_taken(ray):
    kind = make_class(ray)
    first = kind.options(name="taken").remote()
    with pytest.raises(ray.exceptions.ActorAlreadyExistsError, match="taken") as caught:
        kind.options(name="taken").remote()
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, ray.exceptions.RayError)
    assert caught.value.error_message == str(caught.value)
    assert kind.options(name="taken", get_if_exists=True).remote() == first


def test_a_constructor_that_raises(ray):
    actor = make_class(ray).remote(True)
    error = raises_within(ray, actor.ping.remote())
    assert type(error) is ray.exceptions.ActorDiedError and isinstance(error, ray.exceptions.RayActorError)
    assert error.actor_init_failed and not error.preempted and is_about(error, actor)
    assert "creation task" in str(error) and "the reason" in str(error) and error.error_msg == str(error)
    again = raises_within(ray, actor.__ray_ready__.remote())
    assert again.actor_init_failed


def test_a_process_that_dies(ray):
    actor = make_class(ray).remote()
    for ref in (actor.die.remote(), actor.ping.remote()):
        error = raises_within(ray, ref)
        assert type(error) is ray.exceptions.ActorDiedError
        assert not error.actor_init_failed and is_about(error, actor)


@pytest.mark.parametrize("method", ["die", "leave"])
def test_a_process_that_dies_and_is_restarted(ray, method):
    actor = make_class(ray).options(max_restarts=1).remote()
    assert ray.get(actor.ping.remote()) == "pong"
    error = raises_within(ray, getattr(actor, method).remote())
    assert type(error) is ray.exceptions.ActorUnavailableError
    assert is_about(error, actor) and not error.actor_init_failed
    assert eventually(lambda: _answers(ray, actor))


def _answers(ray, actor):
    try:
        return ray.get(actor.ping.remote()) == "pong"
    except ray.exceptions.ActorUnavailableError:
        return False


def test_an_actor_that_exits(ray):
    actor = make_class(ray).remote()
    error = raises_within(ray, actor.exit.remote())
    assert type(error) is ray.exceptions.ActorDiedError and "exit_actor()" in str(error)


def test_an_actor_that_is_asked_to_terminate(ray):
    actor = make_class(ray).options(max_restarts=3).remote()
    before = actor.ping.remote()
    error = raises_within(ray, actor.__ray_terminate__.remote())
    assert type(error) is ray.exceptions.ActorDiedError and is_about(error, actor)
    assert ray.get(before) == "pong"
    assert type(raises_within(ray, actor.ping.remote())) is ray.exceptions.ActorDiedError


def test_a_killed_actor(ray):
    actor = make_class(ray).options(max_restarts=3).remote()
    assert ray.get(actor.ping.remote()) == "pong"
    ray.kill(actor)
    error = raises_within(ray, actor.ping.remote())
    assert type(error) is ray.exceptions.ActorDiedError and "kill" in str(error) and is_about(error, actor)


def test_killing_what_is_no_actor(ray):
    for other in (ray.put(1), "name", None):
        with pytest.raises(ValueError):
            ray.kill(other)


def test_errors_can_be_made(ray):
    assert isinstance(ray.exceptions.ActorDiedError(), ray.exceptions.RayActorError)
    error = ray.exceptions.RayActorError(actor_id="ab", error_msg="text", actor_init_failed=True)
    assert (error.actor_id, str(error), error.actor_init_failed, error.preempted) == ("ab", "text", True, False)


def test_a_handle_of_an_earlier_cluster(impl):
    source = """
        ray.init(**INIT)

        @ray.remote(num_cpus=0)
        class Actor:
            def ping(self):
                return "pong"

        actor = Actor.remote()
        assert ray.get(actor.ping.remote()) == "pong"
        ray.shutdown()
        ray.init(**INIT)
        try:
            ray.kill(actor)
        except ray.exceptions.ActorHandleNotFoundError as error:
            assert isinstance(error, ValueError) and isinstance(error, ray.exceptions.RayError)
            print("refused")
        again = Actor.remote()
        ray.kill(again)
        ray.shutdown()
    """
    assert run_driver(impl, source).strip() == "refused"


def test_another_process_kills(ray):
    @ray.remote(num_cpus=0)
    def kill(actors):
        ray.kill(actors[0])

    counter = make_counter(ray)
    assert ray.get(counter.increment.remote()) == 1
    ray.get(kill.remote([counter]))
    assert isinstance(raises_within(ray, counter.read.remote()), ray.exceptions.ActorDiedError)


def test_the_names_of_actors(ray):
    import importlib

    util = importlib.import_module(f"{ray.__name__}.util")
    kind = make_class(ray)
    here = kind.options(name="listed here").remote()
    there = kind.options(name="listed there", namespace="elsewhere").remote()
    unnamed = kind.remote()
    ray.get([here.ping.remote(), there.ping.remote(), unnamed.ping.remote()])
    assert "listed here" in util.list_named_actors() and "listed there" not in util.list_named_actors()
    everywhere = util.list_named_actors(all_namespaces=True)
    assert {"name": "listed there", "namespace": "elsewhere"} in everywhere
    assert "listed here" in {row["name"] for row in everywhere}
    ray.kill(here)
    eventually(lambda: "listed here" not in util.list_named_actors())


def test_words_that_programs_look_for(ray):
    kind = make_class(ray)
    actor = kind.options(name="words").remote()
    function = ray.remote(lambda: 1)
    for call, kind_of_error, words in (
        (lambda: ray.get_actor("no such actor"), ValueError, "Failed to look up actor with name 'no such actor'"),
        (lambda: kind.options(name="words").remote(), ValueError, "is already taken"),
        (lambda: kind(), TypeError, "Actors cannot be instantiated directly"),
        (lambda: actor.ping(), TypeError, "Actor methods cannot be called directly"),
        (lambda: function(), TypeError, "Remote functions cannot be called directly"),
        (lambda: actor.missing, AttributeError, "'ActorHandle' object has no attribute 'missing'"),
        (lambda: ray.kill(1), ValueError, "only supported for actors"),
        (lambda: ray.cancel(1), TypeError, "only supported for object refs"),
        (lambda: ray.actor.exit_actor(), TypeError, "exit_actor API is called on a non-actor"),
    ):
        with pytest.raises(kind_of_error, match=words):
            call()


def test_a_cancelled_task_as_an_error(ray):
    error = ray.exceptions.TaskCancelledError(error_message="why")
    assert (error.task_id, error.error_message, str(error)) == (None, "why", "why")
    assert str(ray.exceptions.TaskCancelledError()) == ""
    assert "abc was cancelled" in str(ray.exceptions.TaskCancelledError("abc"))


def test_names_and_numbers_that_are_accepted(ray):
    actor = make_class(ray).options(max_restarts=2**40).remote()
    assert ray.get(actor.ping.options(name="").remote()) == "pong"
    assert ray.get(ray.remote(lambda: 1).options(name="").remote()) == 1


def facts_of(error):
    """The lines of an error's text that say which actor it is about."""
    lines = [line.strip() for line in str(error).splitlines() if line.startswith("\t")]
    return dict(line.split(": ", 1) for line in lines if ": " in line)


def test_the_death_of_a_process_says_which_actor_it_was(ray):
    actor = make_class(ray).options(name="known", namespace="of names").remote()
    pid = ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))
    for ref in (actor.die.remote(), actor.ping.remote()):
        error = raises_within(ray, ref)
        facts = facts_of(error)
        assert facts["class_name"].endswith("Actor") and facts["actor_id"] == actor._actor_id.hex()
        assert (facts["pid"], facts["name"], facts["namespace"]) == (str(pid), "known", "of names")
        assert facts["ip"]
        assert "The actor died unexpectedly before finishing this task" in str(error)
        assert "The actor is dead because its worker process has died" in str(error)


def test_a_killed_actor_says_which_it_was(ray):
    actor = make_class(ray).remote()
    ray.get(actor.ping.remote())
    ray.kill(actor)
    facts = facts_of(raises_within(ray, actor.ping.remote()))
    assert facts["class_name"].endswith("Actor") and facts["actor_id"] == actor._actor_id.hex()
    assert "name" not in facts


def test_a_task_whose_worker_dies(ray):
    @ray.remote(max_retries=0)
    def die():
        os._exit(1)

    error = raises_within(ray, die.remote())
    assert type(error) is ray.exceptions.WorkerCrashedError
    assert "The worker died unexpectedly while executing this task" in str(error)


def test_what_cannot_be_pickled_is_named_in_rays_words(ray):
    lock = threading.Lock()

    @ray.remote
    def use():
        return lock

    @ray.remote
    class Using:
        def use(self):
            return lock

    @ray.remote
    def take(value):
        return value

    for submit, words in (
        (use.remote, "Could not serialize the function"),
        (Using.remote, "Could not serialize the actor class"),
        (lambda: take.remote(lock), "Could not serialize the argument"),
        (lambda: ray.put(lock), "Could not serialize the put value"),
    ):
        with pytest.raises(TypeError, match=words):
            submit()
