"""Actors: making them, calling them, order, state and resources."""

from __future__ import annotations

import os
import threading

import pytest

from .helpers import eventually, make_counter, raises_within


@pytest.fixture
def counter(ray):
    return make_counter(ray)


def test_state_is_kept(ray, counter):
    assert ray.get([counter.increment.remote() for _ in range(3)]) == [1, 2, 3]


def test_constructor_arguments(ray):
    @ray.remote
    class A:
        def __init__(self, a, *rest, b, **more):
            self.given = (a, rest, b, more)

        def read(self):
            return self.given

    assert ray.get(A.remote(1, 2, b=3, c=4).read.remote()) == (1, (2,), 3, {"c": 4})


def test_ref_as_constructor_argument_is_resolved(ray, gate):
    @ray.remote
    class A:
        def __init__(self, a):
            self.a = a

        def read(self):
            return self.a

    actor = A.remote(gate.wait.remote())
    ref = actor.read.remote()
    gate.open.remote()
    assert ray.get(ref) == "open"


def test_class_without_constructor(ray):
    @ray.remote
    class A:
        def f(self):
            return 1

    assert ray.get(A.remote().f.remote()) == 1


def test_remote_as_a_function_on_a_class(ray):
    class A:
        def f(self):
            return 1

    assert ray.get(ray.remote(A).remote().f.remote()) == 1
    assert ray.get(ray.remote(num_cpus=0)(A).remote().f.remote()) == 1
    assert A().f() == 1


def test_options_of_a_class(ray):
    @ray.remote(num_cpus=1)
    class A:
        def resources(self):
            return ray.get_runtime_context().get_assigned_resources()

    assert ray.get(A.options(num_cpus=0.5).remote().resources.remote()).get("CPU") == 0.5
    assert ray.get(A.remote().resources.remote()).get("CPU") == 1


def test_two_actors_of_one_class_are_distinct(ray):
    one, two = make_counter(ray), make_counter(ray)
    ray.get([one.increment.remote(5), two.increment.remote(7)])
    assert ray.get([one.read.remote(), two.read.remote()]) == [5, 7]


def test_actor_stays_in_one_process_that_is_not_the_drivers(ray):
    @ray.remote
    class A:
        def pid(self):
            return os.getpid()

    actor = A.remote()
    pids = set(ray.get([actor.pid.remote() for _ in range(3)]))
    assert len(pids) == 1
    assert os.getpid() not in pids


def test_inherited_methods_class_attributes_and_static_methods(ray):
    class Base:
        label = "base"

        def who(self):
            return self.label

    @ray.remote
    class Child(Base):
        label = "child"

        @staticmethod
        def fixed():
            return "static"

        @classmethod
        def kind(cls):
            return cls.label

        def __len__(self):
            return 3

        def size(self):
            return len(self)

    actor = Child.remote()
    results = ray.get([actor.who.remote(), actor.fixed.remote(), actor.kind.remote(), actor.size.remote()])
    assert results == ["child", "static", "child", 3]


def test_method_decorator_num_returns(ray):
    @ray.remote
    class A:
        @ray.method(num_returns=2)
        def pair(self):
            return 1, 2

        @ray.method(num_returns=0)
        def nothing(self):
            return None

    actor = A.remote()
    assert ray.get(actor.pair.remote()) == [1, 2]
    assert actor.nothing.remote() is None


def test_method_options(ray, counter):
    @ray.remote
    class A:
        def pair(self):
            return 1, 2

    actor = A.remote()
    assert ray.get(actor.pair.options(num_returns=2).remote()) == [1, 2]
    assert ray.get(actor.pair.remote()) == (1, 2)


def test_method_with_parameters_that_a_runtime_may_use_itself(ray):
    @ray.remote
    class A:
        def f(self, args, name, kwargs=None, **more):
            return args, name, kwargs, more

    given = {"args": 1, "name": 2, "kwargs": 3, "method": 4}
    assert ray.get(A.remote().f.remote(**given)) == (1, 2, 3, {"method": 4})


def test_refs_as_method_arguments_are_resolved(ray, counter):
    assert ray.get(counter.increment.remote(by=ray.put(4))) == 4


def test_error_of_a_method_leaves_the_actor_alive(ray):
    @ray.remote
    class A:
        def fail(self):
            raise ValueError("in the method")

        def f(self):
            return "alive"

    actor = A.remote()
    error = raises_within(ray, actor.fail.remote())
    assert isinstance(error, ValueError)
    assert isinstance(error, ray.exceptions.RayTaskError)
    assert ray.get(actor.f.remote()) == "alive"


def test_failed_argument_fails_the_call_and_not_the_actor(ray, counter):
    def fail():
        raise ValueError("first cause")

    assert isinstance(raises_within(ray, counter.increment.remote(ray.remote(fail).remote())), ValueError)
    assert ray.get(counter.read.remote()) == 0


def test_calls_of_one_caller_run_in_their_order(ray):
    @ray.remote
    class Log:
        def __init__(self):
            self.seen = []

        def add(self, n):
            self.seen.append(n)

        def read(self):
            return self.seen

    log = Log.remote()
    for n in range(200):
        log.add.remote(n)
    assert ray.get(log.read.remote()) == list(range(200))


def test_order_holds_when_an_early_call_waits_for_its_argument(ray, gate):
    @ray.remote
    class Log:
        def __init__(self):
            self.seen = []

        def add(self, n):
            self.seen.append(n)
            return list(self.seen)

    log = Log.remote()
    log.add.remote(gate.wait.remote())
    last = log.add.remote("second")
    assert ray.wait([last], timeout=0.2)[0] == []
    gate.open.remote()
    assert ray.get(last) == ["open", "second"]


def test_one_callers_pending_argument_does_not_hold_up_another_caller(ray, gate, counter):
    @ray.remote(num_cpus=0)
    def other(counter):
        return ray.get(counter.increment.remote(10))

    held = counter.increment.remote(ray.remote(lambda _: 1).remote(gate.wait.remote()))
    assert ray.get(other.remote(counter), timeout=20) == 10
    gate.open.remote()
    assert ray.get(held) == 11


def test_calls_from_many_threads_are_each_run_once(ray, counter):
    def work():
        for _ in range(20):
            counter.increment.remote()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ray.get(counter.read.remote()) == 100


def test_max_concurrency_runs_methods_in_threads(ray):
    @ray.remote(num_cpus=0, max_concurrency=3)
    class Meeting:
        def __init__(self):
            self.barrier = threading.Barrier(3)

        def meet(self):
            self.barrier.wait(timeout=20)
            return threading.get_ident()

    meeting = Meeting.remote()
    assert len(set(ray.get([meeting.meet.remote() for _ in range(3)], timeout=30))) == 3


def test_max_concurrency_1_is_the_default(ray):
    @ray.remote(num_cpus=0)
    class A:
        def __init__(self):
            self.inside = 0

        def f(self):
            self.inside += 1
            seen = self.inside
            self.inside -= 1
            return seen

    actor = A.remote()
    assert set(ray.get([actor.f.remote() for _ in range(50)])) == {1}


def test_generator_method_as_the_source_of_several_returns(ray):
    @ray.remote
    class A:
        @ray.method(num_returns=3)
        def f(self):
            yield from "abc"

    assert ray.get(A.remote().f.remote()) == ["a", "b", "c"]


def test_actors_of_zero_cpus_are_not_limited_by_cpus(ray):
    counters = [make_counter(ray) for _ in range(4)]
    assert ray.get([c.increment.remote() for c in counters]) == [1] * 4


def test_actor_waits_until_its_resources_are_free(ray):
    @ray.remote(num_cpus=0, resources={"slot": 2})
    class Holder:
        def f(self):
            return "here"

    first, second = Holder.remote(), Holder.remote()
    assert ray.get(first.f.remote()) == "here"
    ref = second.f.remote()
    assert ray.wait([ref], timeout=0.2)[0] == []
    del first
    assert ray.get(ref, timeout=20) == "here"


def test_resources_of_a_dead_actor_come_back(ray):
    @ray.remote(num_cpus=0, resources={"slot": 2})
    class Holder:
        def f(self):
            return "here"

    for _ in range(2):
        assert ray.get(Holder.remote().f.remote(), timeout=20) == "here"
    eventually(lambda: ray.available_resources().get("slot") == 2)
