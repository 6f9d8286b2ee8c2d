"""``ray.experimental.get_object_locations`` and ``get_local_object_locations``; ``set_resource``."""

from __future__ import annotations

import importlib

import pytest

np = pytest.importorskip("numpy")


@pytest.fixture(scope="module")
def experimental(ray):
    return importlib.import_module(f"{ray.__name__}.experimental")


@pytest.fixture(params=["get_object_locations", "get_local_object_locations"])
def locate(experimental, request):
    return getattr(experimental, request.param)


def test_a_large_value_is_on_this_host(ray, locate):
    ref = ray.put(np.zeros(200_000))
    found = locate([ref])
    assert list(found) == [ref]
    assert found[ref]["node_ids"] == [ray.get_runtime_context().get_node_id()]
    assert found[ref]["object_size"] >= 1_600_000
    assert found[ref]["did_spill"] is False


def test_a_small_value_that_was_put(ray, locate):
    ref = ray.put(1)
    assert locate([ref])[ref]["node_ids"] == [ray.get_runtime_context().get_node_id()]
    assert locate([ref])[ref]["object_size"] > 0


def test_a_value_that_does_not_exist_yet(ray, locate, gate):
    ref = gate.wait.remote()
    assert locate([ref])[ref] == {"node_ids": [], "object_size": None, "did_spill": False}
    ray.get([gate.open.remote(), ref])
    assert locate([ref])[ref]["object_size"] > 0


def test_the_result_of_a_task(ray, locate):
    @ray.remote(num_cpus=0)
    def make():
        return np.zeros(200_000)

    ref = make.remote()
    ray.wait([ref])
    assert locate([ref])[ref]["node_ids"] == [ray.get_runtime_context().get_node_id()]


def test_several_at_once(ray, locate):
    refs = [ray.put(number) for number in range(5)]
    assert set(locate(refs)) == set(refs)
    assert locate([]) == {}


def test_borrowed_references(ray, experimental):
    name = experimental.__name__

    @ray.remote(num_cpus=0)
    def locate(refs):
        found = importlib.import_module(name).get_object_locations(refs, timeout_ms=60_000)
        return [found[ref]["node_ids"] for ref in refs]

    refs = [ray.put(np.zeros(200_000))]
    assert ray.get(locate.remote(refs)) == [[ray.get_runtime_context().get_node_id()]]


def test_a_single_reference_is_refused(ray, locate):
    with pytest.raises(TypeError):
        locate(ray.put(1))


def test_resources_of_a_running_host_cannot_be_changed(experimental):
    with pytest.raises(DeprecationWarning):
        experimental.set_resource("slot", 3)
