"""``ray.util.register_serializer`` and ``inspect_serializability``."""

from __future__ import annotations

import io
import threading

import pytest


class Resource:
    """Cannot be pickled."""

    def __init__(self, value):
        self.value = value
        self.lock = threading.Lock()


@pytest.fixture
def registered(ray):
    ray.util.register_serializer(
        Resource, serializer=lambda resource: resource.value, deserializer=lambda value: Resource(value + 1)
    )
    yield
    ray.util.deregister_serializer(Resource)


def test_without_a_serializer_it_fails(ray):
    with pytest.raises(TypeError):
        ray.put(Resource(1))


def test_put_and_nested_values(ray, registered):
    assert ray.get(ray.put(Resource(1))).value == 2
    assert ray.get(ray.put({"key": [Resource(5)]}))["key"][0].value == 6


def test_arguments_and_closures(ray, registered):
    captured = Resource(10)

    @ray.remote
    def values(resource):
        return resource.value, captured.value

    assert ray.get(values.remote(Resource(1))) == (2, 11)


def test_methods_of_actors(ray, registered):
    @ray.remote
    class Holder:
        def __init__(self, resource):
            self.value = resource.value

        def read(self, resource):
            return self.value, resource.value

    holder = Holder.remote(Resource(1))
    assert ray.get(holder.read.remote(Resource(2))) == (2, 3)


def test_a_worker_registers_for_its_results(ray, registered):
    name = ray.__name__

    @ray.remote
    def make(register):
        import importlib

        module = importlib.import_module(name)
        kind = type(register)
        module.util.register_serializer(kind, serializer=lambda each: each.value, deserializer=lambda value: value)
        return kind(7)

    assert ray.get(make.remote(Resource(1))) == 7


def test_it_ends_with_its_removal(ray, registered):
    ray.util.deregister_serializer(Resource)
    with pytest.raises(TypeError):
        ray.put(Resource(1))
    ray.util.deregister_serializer(Resource)  # again: nothing happens


def test_subclasses_are_not_affected(ray, registered):
    class Special(Resource):
        pass

    with pytest.raises(TypeError):
        ray.put(Special(1))


def test_a_class_that_can_be_pickled_anyway(ray):
    class Plain:
        def __init__(self, value):
            self.value = value

    ray.util.register_serializer(Plain, serializer=lambda plain: plain.value, deserializer=lambda value: Plain(-value))
    assert ray.get(ray.put(Plain(1))).value == -1
    ray.util.deregister_serializer(Plain)
    assert ray.get(ray.put(Plain(1))).value == 1


def test_references_inside_what_a_serializer_returns(ray):
    class Wrapped:
        def __init__(self, ref):
            self.ref = ref

    ray.util.register_serializer(Wrapped, serializer=lambda each: [each.ref], deserializer=lambda ref: ref[0])
    assert ray.get(ray.get(ray.put(Wrapped(ray.put("inside"))))) == "inside"
    ray.util.deregister_serializer(Wrapped)


def test_an_error_in_a_serializer_is_raised(ray):
    class Odd:
        pass

    def fail(odd):
        raise RuntimeError("no form")

    ray.util.register_serializer(Odd, serializer=fail, deserializer=lambda value: value)
    with pytest.raises(Exception, match="no form"):
        ray.put(Odd())
    ray.util.deregister_serializer(Odd)


# ------------------------------------------------------------------------------------------------ inspection


def test_a_value_that_can_be_serialized(ray):
    output = io.StringIO()
    assert ray.util.inspect_serializability([1, "a"], print_file=output) == (True, set())


def test_the_variable_of_a_function_is_found(ray):
    lock = threading.Lock()

    def function():
        return lock

    output = io.StringIO()
    ok, failures = ray.util.inspect_serializability(function, name="function", print_file=output)
    assert not ok
    [failure] = failures
    assert failure.obj is lock
    assert failure.parent is function
    assert failure.path[-1] == "lock"
    assert "lock" in output.getvalue()
    assert "FailTuple(lock" in repr(failure)


def test_the_attribute_of_an_object_is_found(ray):
    resource = Resource(1)
    ok, failures = ray.util.inspect_serializability(resource, name="resource", print_file=io.StringIO())
    assert not ok
    assert [failure.obj for failure in failures] == [resource.lock]
    assert [failure.parent for failure in failures] == [resource]


def test_depth_limits_the_search(ray):
    resource = Resource(1)
    ok, failures = ray.util.inspect_serializability(resource, name="it", depth=0, print_file=io.StringIO())
    assert not ok
    assert [failure.obj for failure in failures] == [resource]


def test_it_prints_to_stdout(ray, capsys):
    ray.util.inspect_serializability(threading.Lock(), name="a lock")
    assert "lock" in capsys.readouterr().out
