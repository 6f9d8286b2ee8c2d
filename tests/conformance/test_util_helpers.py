"""``ray.util``: ``as_completed``, ``map_unordered``, ``list_named_actors``, ``log_once``, addresses."""

from __future__ import annotations

import importlib
import ipaddress
import itertools

import pytest

from .helpers import eventually, has_named_actor, make_counter


@pytest.fixture(scope="module")
def square(ray):
    @ray.remote(num_cpus=0)
    def square(value):
        if value is None:
            raise ValueError("no value")
        return value * value

    return square


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_as_completed_gives_all_values(ray, square, chunk_size):
    refs = [square.remote(value) for value in range(10)]
    values = list(ray.util.as_completed(refs, chunk_size=chunk_size))
    assert sorted(values) == [value * value for value in range(10)]


def test_as_completed_does_not_wait_for_all(ray, square, gate):
    late = gate.wait.remote()
    values = ray.util.as_completed([late, square.remote(3)], chunk_size=1)
    assert next(values) == 9
    ray.get(gate.open.remote())
    assert list(values) == ["open"]


def test_as_completed_can_give_references(ray, square):
    refs = [square.remote(value) for value in range(4)]
    assert set(ray.util.as_completed(refs, yield_obj_refs=True)) == set(refs)
    assert list(ray.util.as_completed([])) == []


def test_as_completed_raises_the_error_of_a_task(ray, square):
    with pytest.raises(ValueError, match="no value"):
        list(ray.util.as_completed([square.remote(None)]))


def test_as_completed_refuses_bad_arguments(ray, square):
    refs = [square.remote(1)]
    with pytest.raises(ValueError):
        list(ray.util.as_completed(refs, chunk_size=0))
    with pytest.raises(ValueError):
        list(ray.util.as_completed(refs, num_returns=1))
    with pytest.raises(TypeError):
        list(ray.util.as_completed(refs, unknown=1))


@pytest.mark.parametrize("options", [{}, {"backpressure_size": 2, "chunk_size": 1}, {"backpressure_size": None}])
def test_map_unordered_gives_all_values(ray, square, options):
    assert sorted(ray.util.map_unordered(square, range(20), **options)) == [value * value for value in range(20)]


def test_map_unordered_takes_items_as_there_is_room(ray, square):
    values = ray.util.map_unordered(square, itertools.count(1), backpressure_size=2, chunk_size=1)
    assert set(itertools.islice(values, 3)) <= {1, 4, 9, 16}


def test_map_unordered_can_give_references(ray, square):
    refs = list(ray.util.map_unordered(square, [1, 2], yield_obj_refs=True))
    assert sorted(ray.get(refs)) == [1, 4]


@pytest.mark.parametrize("options", [{"backpressure_size": 0}, {"chunk_size": 0}, {"num_returns": 1}])
def test_map_unordered_refuses_bad_arguments(ray, square, options):
    with pytest.raises(ValueError):
        list(ray.util.map_unordered(square, [1], **options))


def test_map_unordered_calls_methods_of_actors(ray):
    counter = make_counter(ray)
    assert sorted(ray.util.map_unordered(counter.increment, [1, 1])) == [1, 2]


def test_named_actors_are_listed(ray):
    here = make_counter(ray, name="listed")
    there = make_counter(ray, name="elsewhere", namespace="other")
    nameless = make_counter(ray)
    ray.get([each.read.remote() for each in (here, there, nameless)])
    assert "listed" in ray.util.list_named_actors()
    assert "elsewhere" not in ray.util.list_named_actors()
    everywhere = ray.util.list_named_actors(all_namespaces=True)
    assert {"name": "elsewhere", "namespace": "other"} in everywhere
    assert {"name": "listed", "namespace": ray.get_runtime_context().namespace} in everywhere

    @ray.remote(num_cpus=0)
    def seen_by_a_task():
        import sys

        return sys.modules[name].util.list_named_actors()

    name = ray.__name__
    assert "listed" in ray.get(seen_by_a_task.remote())
    ray.kill(here)
    eventually(lambda: not has_named_actor(ray, "listed"))
    assert "listed" not in ray.util.list_named_actors()


def test_log_once(ray):
    debug = importlib.import_module(f"{ray.__name__}.util.debug")
    assert ray.util.log_once("a key of this test")
    assert not ray.util.log_once("a key of this test")
    debug.reset_log_once("a key of this test")
    assert ray.util.log_once("a key of this test")


def test_the_address_of_this_machine(ray):
    assert ipaddress.ip_address(ray.util.get_node_ip_address())
    assert isinstance(ray.util.get_node_instance_id(), str)
