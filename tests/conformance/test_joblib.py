"""``util.joblib``: ``joblib.Parallel`` on the cluster, under the name ``ray``."""

from __future__ import annotations

import importlib
import os
import threading
from math import sqrt

import pytest

from .helpers import make_counter

joblib = pytest.importorskip("joblib")
np = pytest.importorskip("numpy")


@pytest.fixture(autouse=True)
def backend(ray):
    module = importlib.import_module(f"{ray.__name__}.util.joblib")
    module.register_ray()
    with joblib.parallel_config(backend="ray", n_jobs=2):
        yield


def parallel(function, items, **options):
    return joblib.Parallel(**options)(joblib.delayed(function)(item) for item in items)


def fail_at_thirty(x):
    if x == 30:
        raise KeyError(x)
    return x


def describe(array):
    return int(array.sum()), array.flags.writeable, os.getpid()


def test_the_active_backend(ray):
    module = importlib.import_module(f"{ray.__name__}.util.joblib.ray_backend")
    assert type(joblib.parallel.get_active_backend()[0]) is module.RayBackend


def test_calls_in_order(ray):
    assert parallel(sqrt, range(2000)) == [sqrt(x) for x in range(2000)]
    assert parallel(sqrt, []) == []
    assert joblib.Parallel()(joblib.delayed(pow)(2, exp=3) for _ in range(2)) == [8, 8]
    assert parallel(lambda x: x + 1, range(3)) == [1, 2, 3]


def test_calls_are_spread():
    assert os.getpid() not in parallel(lambda _: os.getpid(), range(40), batch_size=1)
    assert len(set(parallel(lambda _: os.getpid(), range(400), batch_size=1))) == 2


def test_all_cpus():
    assert joblib.effective_n_jobs(-1) == 2
    assert joblib.effective_n_jobs(2) == 2
    assert parallel(sqrt, [4, 9], n_jobs=-1) == [2, 3]
    with pytest.raises(ValueError, match="n_jobs"):
        parallel(sqrt, [4], n_jobs=0)


def test_one_job_runs_here():
    assert parallel(lambda _: os.getpid(), range(3), n_jobs=1) == [os.getpid()] * 3


def test_an_error_ends_the_call():
    with pytest.raises(KeyError, match="30"):
        parallel(fail_at_thirty, range(100))
    assert parallel(sqrt, [4]) == [2]


def test_what_cannot_be_pickled():
    with pytest.raises(Exception, match=r"lock"):
        parallel(id, [threading.Lock()] * 4)
    assert parallel(sqrt, [4, 9]) == [2, 3]


def test_one_context_for_several_calls():
    with joblib.Parallel(n_jobs=2) as both:
        assert both(joblib.delayed(sqrt)(x) for x in range(3)) == [sqrt(x) for x in range(3)]
        assert both(joblib.delayed(abs)(x) for x in (-1, -2)) == [1, 2]


def test_generators(ray):
    if ray.__name__ == "ray":
        pytest.skip("Ray's backend cannot return generators")
    results = joblib.Parallel(return_as="generator")(joblib.delayed(sqrt)(x) for x in range(500))
    assert next(results) == 0
    assert list(results) == [sqrt(x) for x in range(1, 500)]
    unordered = joblib.Parallel(return_as="generator_unordered")(joblib.delayed(sqrt)(x) for x in range(500))
    assert sorted(unordered) == [sqrt(x) for x in range(500)]


def test_calls_within_calls():
    def outer(n):
        return joblib.Parallel(n_jobs=2)(joblib.delayed(sqrt)(x) for x in range(n))

    assert parallel(outer, range(4)) == [[sqrt(x) for x in range(n)] for n in range(4)]


def test_objects_and_actors_in_arguments(ray):
    counter = make_counter(ray)
    refs = [ray.put(x) for x in range(6)]

    def add(ref):
        ray.get(counter.increment.remote(ray.get(ref[0])))

    parallel(add, [[ref] for ref in refs])
    assert ray.get(counter.read.remote()) == 15


def test_large_arrays_are_shared():
    array = np.ones(1_000_000)
    seen = parallel(describe, [array] * 20)
    assert {total for total, _, _ in seen} == {1_000_000}
    assert {writeable for _, writeable, _ in seen} == {False}
    array[0] = 2  # a change is seen by the next call
    assert parallel(describe, [array] * 2)[0][0] == 1_000_001


def test_arrays_within_objects(ray):
    if ray.__name__ == "ray":
        pytest.skip("Ray shares arguments as a whole")

    class Holder:
        def __init__(self, array):
            self.array = array

    holder = Holder(np.ones(1_000_000))
    seen = parallel(lambda item: describe(item.array), [holder] * 4)
    assert {writeable for _, writeable, _ in seen} == {False}


def test_options_of_the_processes(ray):
    def assigned(_):
        return ray.get_runtime_context().get_assigned_resources().get("slot", 0)

    with joblib.parallel_config(backend="ray", n_jobs=2, ray_remote_args={"resources": {"slot": 1}}):
        assert parallel(assigned, range(4)) == [1.0] * 4


def test_threads_of_libraries(ray):
    if ray.__name__ == "ray":
        pytest.skip("Ray's backend has no inner_max_num_threads")
    with joblib.parallel_config(backend="ray", n_jobs=2, inner_max_num_threads=3):
        assert parallel(os.getenv, ["OMP_NUM_THREADS"] * 2) == ["3", "3"]
