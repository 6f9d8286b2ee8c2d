"""When a task is tried again, and how many times."""

from __future__ import annotations

import os

import pytest

from .helpers import make_counter, raises_within


@pytest.fixture
def counter(ray):
    return make_counter(ray)


def dies_until(ray, nth):
    """Makes a function whose first ``nth - 1`` attempts kill their worker."""

    def f(counter):
        attempt = ray.get(counter.increment.remote())
        if attempt < nth:
            os._exit(1)
        return attempt

    return f


def raises_until(ray, nth, kind=ValueError):
    def f(counter):
        attempt = ray.get(counter.increment.remote())
        if attempt < nth:
            raise kind(f"attempt {attempt}")
        return attempt

    return f


def test_dead_worker_is_retried_by_default(ray, counter):
    assert ray.get(ray.remote(dies_until(ray, 2)).remote(counter)) == 2


def test_default_is_three_retries(ray, counter):
    error = raises_within(ray, ray.remote(dies_until(ray, 99)).remote(counter), timeout_s=40)
    assert isinstance(error, ray.exceptions.WorkerCrashedError)
    assert ray.get(counter.read.remote()) == 4


def test_max_retries_0(ray, counter):
    error = raises_within(ray, ray.remote(max_retries=0)(dies_until(ray, 99)).remote(counter))
    assert isinstance(error, ray.exceptions.WorkerCrashedError)
    assert ray.get(counter.read.remote()) == 1


def test_max_retries_unlimited(ray, counter):
    assert ray.get(ray.remote(max_retries=-1)(dies_until(ray, 6)).remote(counter)) == 6


def test_user_errors_are_not_retried_by_default(ray, counter):
    assert isinstance(raises_within(ray, ray.remote(raises_until(ray, 99)).remote(counter)), ValueError)
    assert ray.get(counter.read.remote()) == 1


def test_retry_exceptions_true(ray, counter):
    assert ray.get(ray.remote(retry_exceptions=True)(raises_until(ray, 3)).remote(counter)) == 3


def test_retry_exceptions_stops_at_max_retries(ray, counter):
    f = ray.remote(retry_exceptions=True, max_retries=2)(raises_until(ray, 99))
    assert isinstance(raises_within(ray, f.remote(counter)), ValueError)
    assert ray.get(counter.read.remote()) == 3


def test_retry_exceptions_of_a_listed_type(ray, counter):
    f = ray.remote(retry_exceptions=[KeyError, ValueError])(raises_until(ray, 2))
    assert ray.get(f.remote(counter)) == 2


def test_retry_exceptions_of_a_subclass_of_a_listed_type(ray, counter):
    f = ray.remote(retry_exceptions=[LookupError])(raises_until(ray, 2, KeyError))
    assert ray.get(f.remote(counter)) == 2


def test_retry_exceptions_leaves_other_types_alone(ray, counter):
    f = ray.remote(retry_exceptions=[KeyError])(raises_until(ray, 99))
    assert isinstance(raises_within(ray, f.remote(counter)), ValueError)
    assert ray.get(counter.read.remote()) == 1


def test_retry_exceptions_needs_retries(ray, counter):
    f = ray.remote(retry_exceptions=True, max_retries=0)(raises_until(ray, 99))
    assert isinstance(raises_within(ray, f.remote(counter)), ValueError)
    assert ray.get(counter.read.remote()) == 1


def test_dependents_wait_for_the_retry(ray, counter):
    produce = ray.remote(retry_exceptions=True)(raises_until(ray, 3))
    follow = ray.remote(lambda x: x * 10)
    ref = produce.remote(counter)
    assert ray.get([follow.remote(ref) for _ in range(3)]) == [30] * 3


def test_retry_gets_its_arguments_again(ray, counter):
    @ray.remote(retry_exceptions=True)
    def f(counter, by_ref, by_value):
        if ray.get(counter.increment.remote()) == 1:
            by_value.append("changed")
            raise ValueError
        return by_ref, by_value

    assert ray.get(f.remote(counter, ray.put("x"), ["y"])) == ("x", ["y"])


def test_max_calls_ends_the_worker(ray):
    @ray.remote(max_calls=1, num_cpus=2)
    def f():
        return os.getpid()

    assert len({ray.get(f.remote()) for _ in range(3)}) == 3


def test_max_calls_0_is_no_limit(ray):
    @ray.remote(max_calls=0, num_cpus=2)
    def f():
        return os.getpid()

    assert ray.get(f.remote()) > 0


def test_objects_of_a_worker_that_reached_max_calls_stay(ray):
    @ray.remote(max_calls=1)
    def f():
        return [ray.put("kept")]

    refs = [ray.get(f.remote())[0] for _ in range(2)]
    ray.get([f.remote() for _ in range(2)])
    assert ray.get(refs, timeout=20) == ["kept"] * 2
