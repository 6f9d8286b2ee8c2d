"""Modules of Ray that programs import besides ``ray`` itself."""

from __future__ import annotations

import asyncio
import importlib
import io
import subprocess

import pytest


@pytest.fixture
def module_of(ray):
    return lambda name: importlib.import_module(f"{ray.__name__}.{name}")


# ------------------------------------------------------------------ cloudpickle, types, annotations, accelerators


def test_cloudpickle_sends_what_pickle_does_not(ray, module_of):
    cloudpickle = module_of("cloudpickle")
    factor = 3
    assert cloudpickle.loads(cloudpickle.dumps(lambda x: factor * x))(2) == 6
    file = io.BytesIO()
    cloudpickle.dump({"a": [1]}, file)
    file.seek(0)
    assert cloudpickle.load(file) == {"a": [1]}
    assert issubclass(cloudpickle.CloudPickler, cloudpickle.pickle.Pickler)
    with pytest.raises((TypeError, cloudpickle.PicklingError)):
        cloudpickle.dumps(__import__("threading").Lock())


def test_a_reference_may_be_pickled_by_the_program(ray, module_of):
    cloudpickle = module_of("cloudpickle")
    data = cloudpickle.dumps([ray.put("value")])
    assert ray.get(cloudpickle.loads(data)) == ["value"]


def test_types_have_a_class_of_references_for_annotations(ray, module_of):
    assert module_of("types").ObjectRef[int]


def test_annotations_leave_a_function_as_it_is(ray, module_of):
    marks = module_of("util.annotations")

    def double(x):
        return 2 * x

    for mark in (marks.PublicAPI, marks.DeveloperAPI, marks.Deprecated, marks.PublicAPI(stability="beta")):
        assert mark(double)(2) == 4
    assert marks.Deprecated(message="use another one")(double)(2) == 4
    with pytest.warns(marks.RayDeprecationWarning):
        assert marks.Deprecated(message="use another one", warning=True)(double)(2) == 4
    assert issubclass(marks.RayDeprecationWarning, DeprecationWarning)


def test_accelerators_have_names(ray, module_of):
    accelerators = module_of("util.accelerators")
    assert accelerators.NVIDIA_TESLA_V100 == "V100"
    assert accelerators.NVIDIA_A100 == "A100"
    assert accelerators.GOOGLE_TPU_V4 == "TPU-V4"


def test_languages_have_names(ray):
    assert [str(each) for each in (ray.Language.PYTHON, ray.Language.JAVA, ray.Language.CPP)] == [
        "PYTHON",
        "JAVA",
        "CPP",
    ]
    assert (ray.SCRIPT_MODE, ray.WORKER_MODE) == (0, 1)


# ---------------------------------------------------------------------------------------------------- autoscaler


def test_resources_may_be_requested_on_any_cluster(ray, module_of):
    sdk = module_of("autoscaler.sdk")
    assert sdk.request_resources(num_cpus=3) is None
    assert sdk.request_resources(bundles=[{"CPU": 1}]) is None
    for options in ({"num_cpus": "many"}, {"bundles": {"CPU": 1}}, {"bundles": [1]}):
        with pytest.raises(TypeError):
            sdk.request_resources(**options)


# ---------------------------------------------------------------------------------------------------- this machine


def test_the_address_of_this_host_is_the_one_in_its_row(ray, module_of):
    address = ray.nodes()[0]["NodeManagerAddress"]
    assert ray.util.get_node_ip_address() == address
    assert module_of("_private.services").get_node_ip_address() == address
    assert ray.get(ray.remote(lambda: ray.util.get_node_ip_address()).remote()) == address
    assert ray.cluster_resources()[f"node:{address}"] == 1


# ---------------------------------------------------------------------------------------------- helpers for tests


@pytest.fixture(params=["_common.test_utils", "_private.test_utils"])
def helpers(module_of, request, impl):
    if impl == "ray" and request.param == "_private.test_utils":
        pytest.importorskip("ray._private.test_utils")
    return module_of(request.param)


def test_a_condition_is_waited_for(helpers):
    tries = iter([False, False, True, False])
    helpers.wait_for_condition(lambda source: next(source), source=tries)
    assert list(tries) == [False]
    with pytest.raises(RuntimeError, match="wasn't met"):
        helpers.wait_for_condition(lambda: False, timeout=0.1, retry_interval_ms=10)


def test_a_condition_that_raises_is_not_met(helpers):
    def fail():
        raise KeyError("reason")

    with pytest.raises(RuntimeError, match="reason"):
        helpers.wait_for_condition(fail, timeout=0.1, retry_interval_ms=10)
    with pytest.raises(KeyError):
        helpers.wait_for_condition(fail, timeout=0.1, raise_exceptions=True)


def test_a_condition_in_a_coroutine(module_of):
    helpers = module_of("_common.test_utils")

    async def met():
        return True

    asyncio.run(helpers.async_wait_for_condition(met))
    asyncio.run(helpers.async_wait_for_condition(lambda: True))
    with pytest.raises(RuntimeError, match="wasn't met"):
        asyncio.run(helpers.async_wait_for_condition(lambda: False, timeout=0.1, retry_interval_ms=10))


def test_a_signal_holds_tasks_back(ray, module_of):
    helpers = module_of("_common.test_utils")
    signal = helpers.SignalActor.remote()

    @ray.remote(num_cpus=0)
    def wait():
        ray.get(signal.wait.remote())
        return "went on"

    waiting = [wait.remote() for _ in range(2)]
    helpers.wait_for_condition(lambda: ray.get(signal.cur_num_waiters.remote()) == 2, timeout=60)
    assert ray.wait(waiting, timeout=0)[0] == []
    ray.get(signal.send.remote())
    assert ray.get(waiting) == ["went on"] * 2
    ray.get(signal.send.remote(clear=True))
    later = signal.wait.remote()
    helpers.wait_for_condition(lambda: ray.get(signal.cur_num_waiters.remote()) == 1, timeout=60)
    ray.get(signal.send.remote())
    ray.get(later)


def test_a_semaphore_is_shared(ray, module_of):
    semaphore = module_of("_common.test_utils").Semaphore.remote(value=1)
    assert ray.get(semaphore.locked.remote()) is False
    ray.get(semaphore.acquire.remote())
    assert ray.get(semaphore.locked.remote()) is True
    second = semaphore.acquire.remote()
    assert ray.wait([second], timeout=0)[0] == []
    ray.get(semaphore.release.remote())
    ray.get(second)


def test_a_program_from_a_text(module_of):
    helpers = module_of("_common.test_utils")
    assert helpers.run_string_as_driver("print('out'); import sys; print('err', file=sys.stderr)").split() in (
        ["out", "err"],
        ["err", "out"],
    )
    with pytest.raises(subprocess.CalledProcessError):
        helpers.run_string_as_driver("raise SystemExit(3)")


def test_the_class_of_generators_is_where_programs_import_it(ray, module_of):
    assert module_of("_raylet").ObjectRefGenerator is ray.ObjectRefGenerator
    assert module_of("_raylet").ObjectRef is ray.ObjectRef
    assert ray._raylet is module_of("_raylet")
