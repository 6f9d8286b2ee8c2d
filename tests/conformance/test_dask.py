"""``util.dask``: Dask's collections and graphs on the cluster."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from .helpers import make_counter

dask = pytest.importorskip("dask")
np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")


@pytest.fixture(scope="module")
def module(ray):
    return importlib.import_module(f"{ray.__name__}.util.dask")


@pytest.fixture
def get(module):
    return module.ray_dask_get


@dask.delayed
def add(x, y):
    return x + y


@dask.delayed
def fail(x):
    raise KeyError(x)


def frame():
    table = pd.DataFrame({"age": np.arange(100) % 7, "grade": np.arange(100)})
    return table, dd.from_pandas(table, npartitions=5)


# ---------------------------------------------------------------- graphs


def test_delayed(get):
    assert add(2, 4).compute(scheduler=get) == 6
    assert add(add(1, 2), add(3, 4)).compute(scheduler=get) == 10
    assert dask.compute(add(1, 2), [add(3, 4), {"a": add(1, 1)}], scheduler=get) == (3, [7, {"a": 2}])
    assert dask.delayed(sum)([add(1, 2), 3]).compute(scheduler=get) == 6


def test_a_graph(get):
    graph = {"x": 1, "y": (lambda x: x + 1, "x"), "z": (sum, ["x", "y"]), "alias": "z"}
    assert get(graph, ["z", "alias"]) in ((3, 3), [3, 3])
    assert get(graph, "y") == 2


def test_a_long_chain(get):
    chain = add(0, 0)
    for _ in range(300):
        chain = add(chain, 1)
    assert chain.compute(scheduler=get, optimize_graph=False) == 300


def test_errors(get):
    with pytest.raises(KeyError, match="3"):
        add(1, fail(3)).compute(scheduler=get)


def test_with_the_setting(module):
    module.enable_dask_on_ray()
    try:
        assert dask.config.get("scheduler") is module.ray_dask_get
        assert add(2, 4).compute() == 6
    finally:
        module.disable_dask_on_ray()
    assert dask.config.get("scheduler") is None
    with module.enable_dask_on_ray():
        assert dask.config.get("scheduler") is module.ray_dask_get
        assert add(2, 4).compute() == 6
    assert dask.config.get("scheduler") is None


def test_the_other_scheduler(module):
    if module.__name__.startswith("ray."):
        pytest.skip("Ray's does not know what today's Dask passes")
    assert list(module.ray_dask_get_sync({"x": -1, "y": (abs, "x"), "z": (sum, ["x", "y"])}, ["z", "y"])) == [0, 1]
    assert add(add(1, 2), 3).compute(scheduler=module.ray_dask_get_sync) == 6


def test_objects_and_tasks_in_tasks(ray, get):
    @ray.remote
    def double(x):
        return 2 * x

    zero = ray.put(0)
    counter = make_counter(ray)

    def work(x, y):
        ray.get(counter.increment.remote())
        return ray.get(double.remote(x + y + ray.get(zero)))

    assert dask.delayed(work)(1, 2).compute(scheduler=get) == 6
    assert ray.get(counter.read.remote()) == 1


def test_a_reference_as_an_argument_is_its_value(ray, get):
    assert add(ray.put(5), 1).compute(scheduler=get) == 6


def test_in_a_task(ray, module):
    name = module.__name__

    @ray.remote
    def compute():
        with importlib.import_module(name).enable_dask_on_ray():
            return add(add(1, 2), 3).compute()

    assert ray.get(compute.remote()) == 6


# ---------------------------------------------------------------- collections


def test_arrays(get):
    array = da.ones((40, 40), chunks=(10, 10))
    assert (array @ array.T).sum().compute(scheduler=get) == 64000
    assert np.array_equal((array + 1)[3].compute(scheduler=get), np.full(40, 2.0))


def test_dataframes(module):
    table, collection = frame()
    with module.enable_dask_on_ray():
        means = collection.groupby("age").grade.mean().compute().sort_index()
        assert np.allclose(means, table.groupby("age").grade.mean())
        assert collection.set_index("age").compute().index.is_monotonic_increasing
        merged = collection.merge(collection, on="age").compute()
        assert len(merged) == len(table.merge(table, on="age"))


def test_persist(ray, module, get):
    kept = (da.ones(5) + 2).persist(scheduler=get)
    assert all(isinstance(value, ray.ObjectRef) for value in dict(kept.dask).values())
    assert (kept + 1).sum().compute(scheduler=get) == 20
    (one,) = dask.persist(add(1, 2), scheduler=get)
    assert add(one, 4).compute(scheduler=get) == 7
    with module.enable_dask_on_ray():
        table, collection = frame()
        assert collection.persist().grade.sum().compute() == table.grade.sum()


def test_persist_elsewhere_is_as_before(ray, module):
    kept = (da.ones(5) + 2).persist(scheduler="synchronous")
    assert not any(isinstance(value, ray.ObjectRef) for value in dict(kept.dask).values())
    assert kept.sum().compute(scheduler="synchronous") == 15


# ---------------------------------------------------------------- options


def assigned(ray):
    return dask.delayed(lambda: ray.get_runtime_context().get_assigned_resources())


def test_options(ray, get):
    resources = {"resources": {"slot": 1}}
    assert assigned(ray)().compute(scheduler=get, ray_remote_args=resources)["slot"] == 1
    with dask.annotate(ray_remote_args={"num_cpus": 2}):
        assert assigned(ray)().compute(scheduler=get)["CPU"] == 2


def test_resources_are_an_option_of_tasks(get):
    with pytest.raises(ValueError, match="ray_remote_args"):
        add(1, 2).compute(scheduler=get, resources={"slot": 1})
    with dask.annotate(resources={"slot": 1}), pytest.raises(ValueError, match="ray_remote_args"):
        add(1, 2).compute(scheduler=get)


# ---------------------------------------------------------------- callbacks


def test_presubmit_may_give_the_result(module, get):
    Base: Any = module.RayDaskCallback

    class Instead(Base):
        def _ray_presubmit(self, task, key, deps):
            return 0

        def _ray_postsubmit(self, task, key, deps, object_ref):
            raise AssertionError("nothing was submitted")

    with Instead():
        assert add(2, 3).compute(scheduler=get) == 0
    assert add(2, 3).compute(scheduler=get) == 5


def test_pretask_and_posttask_share_a_state(ray, module, get):
    counter = make_counter(ray)

    Base: Any = module.RayDaskCallback

    class Pair(Base):
        def _ray_pretask(self, key, object_refs):
            return key

        def _ray_posttask(self, key, result, pre_state):
            assert pre_state == key
            ray.get(counter.increment.remote(result))

    class Other(Base):
        def _ray_posttask(self, key, result, pre_state):
            assert pre_state is None

    with Pair(), Other():
        assert add(2, 3).compute(scheduler=get) == 5
    assert ray.get(counter.read.remote()) == 5


def test_callbacks_of_the_submission(ray, module, get):
    seen: list = []

    Base: Any = module.RayDaskCallback

    class All(Base):
        def _ray_postsubmit(self, task, key, deps, object_ref):
            seen.append(("submitted", isinstance(object_ref, ray.ObjectRef), len(deps)))

        def _ray_postsubmit_all(self, object_refs, dsk):
            seen.append("all")

        def _ray_finish(self, result):
            seen.append("finish")

    with All():
        add(2, 3).compute(scheduler=get)
    assert seen == [("submitted", True, 0), "all", "finish"]


def test_callbacks_as_functions(module, get):
    seen: list = []
    callback = module.RayDaskCallback(ray_finish=lambda result: seen.append("finish"))
    add(1, 2).compute(scheduler=get, ray_callbacks=[callback._ray_callback])
    assert seen == ["finish"]


def test_progress(ray, module, get):
    _, collection = frame()
    with module.ProgressBarCallback() as callback:
        collection.set_index("age").compute(scheduler=get)
    submitted, finished = ray.get(callback.pb.result.remote())
    assert submitted == finished > 0
