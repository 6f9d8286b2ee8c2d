"""The ends of actors: handles that go, exits, kills, deaths, failed constructors, restarts."""

from __future__ import annotations

import os
import uuid

import pytest

from .helpers import eventually, has_named_actor, make_canary, make_counter, make_gate, raises_within


@pytest.fixture
def name():
    return f"actor-{uuid.uuid4().hex[:8]}"


def mortal_class(ray):
    class Mortal:
        def __init__(self, counter=None):
            self.births = ray.get(counter.increment.remote()) if counter else 0
            self.calls = 0

        def call(self):
            self.calls += 1
            return self.calls

        def born(self):
            return self.births

        def die(self):
            os._exit(1)

        def die_first(self, counter):
            if ray.get(counter.increment.remote()) == 1:
                os._exit(1)
            return "survived"

        def leave(self):
            ray.actor.exit_actor()

        def pid(self):
            return os.getpid()

    return Mortal


def make_mortal(ray, *args, **options):
    return ray.remote(num_cpus=0, **options)(mortal_class(ray)).remote(*args)


def test_actor_ends_with_its_last_handle(ray, name):
    canary = make_canary(ray, name)
    assert has_named_actor(ray, name)
    del canary
    eventually(lambda: not has_named_actor(ray, name))


def test_copy_of_the_handle_keeps_the_actor_alive(ray, name):
    canary = make_canary(ray, name)
    copy = ray.get(ray.put(canary))
    del canary
    assert ray.get(copy.sing.remote()) == "tweet"
    del copy
    eventually(lambda: not has_named_actor(ray, name))


def test_outstanding_calls_end_before_the_actor_does(ray):
    counter = make_counter(ray)
    refs = [counter.increment.remote() for _ in range(50)]
    del counter
    assert ray.get(refs, timeout=20) == list(range(1, 51))


def test_result_of_an_actor_without_handles(ray):
    assert ray.get(make_counter(ray).increment.remote(), timeout=20) == 1


def test_running_call_ends_when_the_last_handle_goes(ray, gate):
    @ray.remote(num_cpus=0)
    class A:
        def wait(self, gate):
            return ray.get(gate.wait.remote())

    ref = A.remote().wait.remote(gate)
    eventually(lambda: ray.get(gate.arrived.remote()))
    gate.open.remote()
    assert ray.get(ref, timeout=20) == "open"


def test_actor_that_holds_its_own_handle_goes_when_killed(ray, name):
    @ray.remote(num_cpus=0)
    class Selfish:
        def hold(self):
            self.me = ray.get_runtime_context().current_actor
            return True

    actor = Selfish.options(name=name).remote()
    assert ray.get(actor.hold.remote())
    ray.kill(actor)
    eventually(lambda: not has_named_actor(ray, name))


def test_kill(ray):
    actor = make_mortal(ray)
    assert ray.get(actor.call.remote()) == 1
    ray.kill(actor)
    error = raises_within(ray, actor.call.remote())
    assert isinstance(error, ray.exceptions.RayActorError)
    assert isinstance(error, ray.exceptions.ActorDiedError)


def test_kill_ends_running_and_queued_calls(ray, gate):
    @ray.remote(num_cpus=0)
    class A:
        def wait(self, gate):
            return ray.get(gate.wait.remote())

    actor = A.remote()
    refs = [actor.wait.remote(gate) for _ in range(10)]
    eventually(lambda: ray.get(gate.arrived.remote()))
    ray.kill(actor)
    for ref in refs:
        assert isinstance(raises_within(ray, ref), ray.exceptions.RayActorError)


def test_kill_twice(ray):
    actor = make_mortal(ray)
    ray.get(actor.call.remote())
    ray.kill(actor)
    ray.kill(actor)


def test_kill_of_an_actor_that_was_not_yet_placed(ray):
    actor = make_mortal(ray, resources={"slot": 2})
    other = make_mortal(ray, resources={"slot": 2})
    assert ray.get(actor.call.remote()) == 1
    ref = other.call.remote()
    ray.kill(other)
    assert isinstance(raises_within(ray, ref), ray.exceptions.RayActorError)


def test_kill_of_a_named_actor_frees_the_name(ray, name):
    for _ in range(2):
        actor = make_counter(ray, name=name)
        assert ray.get(actor.increment.remote()) == 1
        ray.kill(actor)
        eventually(lambda: not has_named_actor(ray, name))


def test_kill_no_restart_is_the_default(ray):
    actor = make_mortal(ray, max_restarts=-1)
    assert ray.get(actor.call.remote()) == 1
    ray.kill(actor)
    assert isinstance(raises_within(ray, actor.call.remote()), ray.exceptions.ActorDiedError)


def test_kill_with_restart(ray):
    actor = make_mortal(ray, max_restarts=1, max_task_retries=-1)
    pid = ray.get(actor.pid.remote())
    ray.kill(actor, no_restart=False)
    eventually(lambda: ray.get(actor.pid.remote()) != pid)


def test_exit_actor(ray):
    actor = make_mortal(ray)
    assert ray.get(actor.call.remote()) == 1
    assert isinstance(raises_within(ray, actor.leave.remote()), ray.exceptions.RayActorError)
    assert isinstance(raises_within(ray, actor.call.remote()), ray.exceptions.ActorDiedError)


def test_exit_actor_is_no_reason_to_restart(ray):
    actor = make_mortal(ray, max_restarts=-1)
    assert isinstance(raises_within(ray, actor.leave.remote()), ray.exceptions.RayActorError)
    assert isinstance(raises_within(ray, actor.call.remote()), ray.exceptions.ActorDiedError)


def test_calls_before_exit_are_answered(ray):
    actor = make_mortal(ray)
    before = [actor.call.remote() for _ in range(5)]
    actor.leave.remote()
    assert ray.get(before) == [1, 2, 3, 4, 5]


def test_death_of_the_process(ray):
    actor = make_mortal(ray)
    assert isinstance(raises_within(ray, actor.die.remote()), ray.exceptions.RayActorError)
    assert isinstance(raises_within(ray, actor.call.remote()), ray.exceptions.ActorDiedError)


def test_death_with_calls_queued_gives_each_its_error(ray):
    actor = make_mortal(ray)
    refs = [actor.die.remote(), *(actor.call.remote() for _ in range(100))]
    for ref in refs:
        assert isinstance(raises_within(ray, ref), ray.exceptions.RayActorError)


def test_failed_constructor(ray):
    @ray.remote(num_cpus=0)
    class A:
        def __init__(self):
            raise ValueError("cannot be built")

        def f(self):
            return 1

    actor = A.remote()
    for _ in range(2):
        error = raises_within(ray, actor.f.remote())
        assert isinstance(error, ray.exceptions.RayActorError)
        assert "cannot be built" in str(error)
        assert "ValueError" in str(error)


def test_constructor_that_ends_the_process(ray):
    @ray.remote(num_cpus=0)
    class A:
        def __init__(self):
            os._exit(1)

        def f(self):
            return 1

    assert isinstance(raises_within(ray, A.remote().f.remote()), ray.exceptions.RayActorError)


def test_constructor_argument_that_failed(ray):
    def fail():
        raise ValueError("first cause")

    @ray.remote(num_cpus=0)
    class A:
        def __init__(self, x):
            pass

        def f(self):
            return 1

    error = raises_within(ray, A.remote(ray.remote(fail).remote()).f.remote())
    assert isinstance(error, ray.exceptions.RayError)
    assert "first cause" in str(error)


def test_kill_during_the_constructor(ray, gate):
    @ray.remote(num_cpus=0)
    class A:
        def __init__(self, gate):
            ray.get(gate.wait.remote())

        def f(self):
            return 1

    actor = A.remote(gate)
    ref = actor.f.remote()
    eventually(lambda: ray.get(gate.arrived.remote()))
    ray.kill(actor)
    assert isinstance(raises_within(ray, ref), ray.exceptions.RayActorError)


def test_exit_actor_in_the_constructor(ray):
    @ray.remote(num_cpus=0)
    class A:
        def __init__(self):
            ray.actor.exit_actor()

        def f(self):
            return 1

    assert isinstance(raises_within(ray, A.remote().f.remote()), ray.exceptions.RayActorError)


def test_restart_runs_the_constructor_again(ray):
    counter = make_counter(ray)
    actor = make_mortal(ray, counter, max_restarts=1, max_task_retries=-1)
    assert ray.get(actor.born.remote()) == 1
    assert ray.get(actor.call.remote()) == 1
    assert isinstance(raises_within(ray, actor.die.options(max_task_retries=0).remote()), ray.exceptions.RayActorError)
    assert ray.get(actor.born.remote()) == 2
    assert ray.get(actor.call.remote()) == 1  # the state is new


def test_max_restarts_is_a_limit(ray):
    actor = make_mortal(ray, max_restarts=1)
    for _ in range(2):
        actor.die.remote()

    def dead():
        return isinstance(raises_or_none(ray, actor.call.remote()), ray.exceptions.ActorDiedError)

    eventually(lambda: dead() or (actor.die.remote() and False), timeout_s=30)


def raises_or_none(ray, ref):
    try:
        ray.get(ref, timeout=20)
    except Exception as error:
        return error
    return None


def test_max_task_retries_runs_the_call_again(ray):
    counter = make_counter(ray)
    actor = make_mortal(ray, max_restarts=1, max_task_retries=1)
    assert ray.get(actor.die_first.remote(counter), timeout=30) == "survived"
    assert ray.get(counter.read.remote()) == 2


def test_without_max_task_retries_a_call_runs_at_most_once(ray):
    counter = make_counter(ray)
    actor = make_mortal(ray, max_restarts=1)
    assert isinstance(raises_within(ray, actor.die_first.remote(counter)), ray.exceptions.RayActorError)
    assert ray.get(counter.read.remote()) == 1


def test_restart_whose_constructor_fails(ray):
    counter = make_counter(ray)

    @ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
    class A:
        def __init__(self, counter):
            if ray.get(counter.increment.remote()) == 2:
                raise ValueError("second birth failed")

        def die(self):
            os._exit(1)

        def f(self):
            return 1

    actor = A.remote(counter)
    assert ray.get(actor.f.remote()) == 1
    actor.die.options(max_task_retries=0).remote()
    error = eventually(lambda: raises_or_none(ray, actor.f.remote()))
    assert isinstance(error, ray.exceptions.RayActorError)


def test_retry_exceptions_of_a_method(ray):
    counter = make_counter(ray)

    @ray.remote(num_cpus=0)
    class A:
        @ray.method(max_task_retries=2, retry_exceptions=True)
        def f(self, counter):
            if ray.get(counter.increment.remote()) < 3:
                raise ValueError("not yet")
            return "done"

    assert ray.get(A.remote().f.remote(counter), timeout=20) == "done"


def test_tasks_go_on_after_an_actor_died(ray):
    actor = make_mortal(ray)
    actor.die.remote()
    assert ray.get(ray.remote(lambda: 1).remote()) == 1
    assert ray.get(make_gate(ray).arrived.remote()) == 0
