"""Resources as admission: tasks that run at the same time, fractions, and CPUs that a blocked task lends."""

from __future__ import annotations

import os
import time

import pytest

from .helpers import eventually


def arrivals(ray, gate):
    return ray.get(gate.arrived.remote())


@pytest.fixture
def meter(ray):
    """An actor that counts the tasks that run at the same time."""

    @ray.remote(num_cpus=0)
    class Meter:
        def __init__(self):
            self.inside = self.peak = 0

        def enter(self):
            self.inside += 1
            self.peak = max(self.peak, self.inside)

        def leave(self):
            self.inside -= 1

        def read_peak(self):
            return self.peak

    return Meter.remote()


def peak_of(ray, meter, count, **options):
    """Returns the largest number of tasks that ran at the same time; each runs for a moment."""

    @ray.remote(**options)
    def work(meter):
        ray.get(meter.enter.remote())
        time.sleep(0.03)
        meter.leave.remote()

    ray.get([work.remote(meter) for _ in range(count)])
    return ray.get(meter.read_peak.remote())


def test_custom_resource_limits(ray, meter):
    assert peak_of(ray, meter, 4, num_cpus=0, resources={"slot": 2}) == 1


def test_fractions_of_a_custom_resource(ray, meter):
    assert peak_of(ray, meter, 6, num_cpus=0, resources={"slot": 0.9}) <= 2


def test_fractions_that_sum_to_one_in_floating_point(ray, gate):
    @ray.remote(num_cpus=0, resources={"slot": 0.1})
    def meet(gate):
        return ray.get(gate.wait.remote())

    refs = [meet.remote(gate) for _ in range(8)]
    eventually(lambda: arrivals(ray, gate) == 8)
    gate.open.remote()
    assert ray.get(refs) == ["open"] * 8


def test_tiny_fraction(ray):
    assert ray.get(ray.remote(num_cpus=0.0001, resources={"slot": 0.0001})(lambda: 1).remote()) == 1


def test_zero_resources(ray):
    assert ray.get(ray.remote(num_cpus=0, resources={"slot": 0})(lambda: 1).remote()) == 1


def test_memory_is_admission(ray):
    assert ray.get(ray.remote(memory=1024)(lambda: 1).remote()) == 1


def test_what_cannot_be_placed_waits_and_does_not_hold_up_others(ray):
    stuck = ray.remote(resources={"there is none": 1})(lambda: 1).remote()
    assert ray.get([ray.remote(lambda n=n: n).remote() for n in range(10)], timeout=20) == list(range(10))
    assert ray.wait([stuck], timeout=0) == ([], [stuck])
    ray.cancel(stuck)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(stuck, timeout=20)


def test_everything_comes_back(ray):
    @ray.remote(num_cpus=0.5, resources={"slot": 0.3})
    def f():
        return 1

    ray.get([f.remote() for _ in range(20)])
    eventually(lambda: ray.available_resources().get("slot") == 2 and ray.available_resources().get("CPU") == 2)


def test_available_resources_while_a_task_runs(ray, gate):
    @ray.remote(num_cpus=0, resources={"slot": 1.5})
    def hold(gate):
        return ray.get(gate.wait.remote())

    ref = hold.remote(gate)
    eventually(lambda: ray.available_resources().get("slot") == 0.5)
    gate.open.remote()
    assert ray.get(ref) == "open"
    eventually(lambda: ray.available_resources().get("slot") == 2)


def test_an_actor_holds_no_cpu_by_default_once_it_lives(ray):
    @ray.remote
    class A:
        def f(self):
            return 1

    actors = [A.remote() for _ in range(4)]
    assert ray.get([actor.f.remote() for actor in actors]) == [1] * 4
    assert ray.get(ray.remote(num_cpus=2)(lambda: "free").remote(), timeout=20) == "free"


def test_failed_and_dead_tasks_give_their_resources_back(ray):
    def fail():
        raise ValueError

    for function in (fail, lambda: os._exit(1)):
        with pytest.raises(ray.exceptions.RayError):
            ray.get(ray.remote(max_retries=0, num_cpus=0, resources={"slot": 2})(function).remote())
    assert ray.get(ray.remote(resources={"slot": 2})(lambda: "free").remote(), timeout=20) == "free"


def test_what_is_left_of_the_store(ray):
    import numpy as np

    def left():
        return ray.available_resources()["object_store_memory"]

    total = ray.cluster_resources()["object_store_memory"]
    assert left() <= total
    ref = ray.put(np.ones(4_000_000))
    eventually(lambda: left() <= total - 32_000_000)
    del ref
    eventually(lambda: left() > total - 32_000_000)
