"""The classes of identifiers, and the identifiers of a reference."""

from __future__ import annotations

import asyncio
import copy
import pickle

import pytest

RANDOM = ["NodeID", "WorkerID", "UniqueID", "FunctionID", "ActorClassID", "ActorID", "PlacementGroupID"]
KINDS = [*RANDOM, "JobID", "TaskID"]


@pytest.mark.parametrize("name", KINDS)
def test_an_identifier_is_a_value(ray, name):
    kind = getattr(ray, name)
    size = kind.size()
    one, same, other = kind(b"\1" * size), kind.from_binary(b"\1" * size), kind(b"\2" * size)
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert {one: 1}[same] == 1
    assert one.binary() == b"\1" * size
    assert one.hex() == "01" * size
    assert repr(one) == str(one) == f"{name}({'01' * size})"
    assert pickle.loads(pickle.dumps(one)) == one
    assert copy.deepcopy(one) == one
    assert kind.from_binary(one.binary()) == one
    assert ray.get(ray.put(one)) == one


@pytest.mark.parametrize("name", KINDS)
def test_nil_names_nothing(ray, name):
    kind = getattr(ray, name)
    assert kind.nil().is_nil()
    assert kind.nil() == kind.nil()
    assert kind.nil().binary() == b"\xff" * kind.size()
    assert not kind(b"\1" * kind.size()).is_nil()


@pytest.mark.parametrize("name", RANDOM)
def test_random_identifiers_differ(ray, name):
    kind = getattr(ray, name)
    assert kind.from_random() != kind.from_random()
    assert len(kind.from_random().binary()) == kind.size()


def test_identifiers_of_two_kinds_are_never_equal(ray):
    node = ray.NodeID.from_random()
    assert node != ray.WorkerID(node.binary())
    assert node != node.hex()
    assert node != node.binary()


@pytest.mark.parametrize("name", [*KINDS, "ObjectRef"])
def test_wrong_bytes_are_refused(ray, name):
    kind = getattr(ray, name)
    with pytest.raises(ValueError, match="length"):
        kind(b"abc")
    with pytest.raises(TypeError, match="Unsupported type"):
        kind("abc")


def test_jobs_are_numbered(ray):
    assert ray.JobID.from_int(7).int() == 7
    assert ray.JobID.from_int(7) != ray.JobID.from_int(8)


def test_what_the_context_says_can_be_made_identifiers(ray):
    context = ray.get_runtime_context()
    assert ray.JobID.from_hex(context.get_job_id()).hex() == context.get_job_id()
    assert ray.NodeID.from_hex(context.get_node_id()).hex() == context.get_node_id()
    assert ray.WorkerID.from_hex(context.get_worker_id()).hex() == context.get_worker_id()
    assert ray.NodeID.from_hex(ray.nodes()[0]["NodeID"]).hex() == context.get_node_id()


def test_an_actor_has_an_identifier(ray):
    @ray.remote(num_cpus=0)
    class A:
        def who(self):
            return ray.get_runtime_context().get_actor_id()

    actor_id = ray.ActorID.from_hex(ray.get(A.remote().who.remote()))
    assert not actor_id.is_nil()


def test_identifiers_of_a_reference(ray):
    ref = ray.put(1)
    assert ray.ObjectID is ray.ObjectRef
    assert isinstance(ref, ray.ObjectID)
    assert isinstance(ref.task_id(), ray.TaskID)
    assert isinstance(ref.job_id(), ray.JobID)
    assert ref.job_id().hex() == ray.get_runtime_context().get_job_id()
    assert ref.size() == len(ref.binary())
    assert not ref.is_nil()
    assert isinstance(ref.call_site(), str)
    assert isinstance(ref.owner_address(), bytes)
    assert ref.tensor_transport() is None
    again = ray.ObjectRef(ref.binary())
    assert again == ref
    assert hash(again) == hash(ref)
    assert ray.get(ray.ObjectRef.from_binary(ref.binary())) == 1


def test_references_to_nothing(ray):
    assert ray.ObjectRef.nil().is_nil()
    assert ray.ObjectRef.nil() == ray.ObjectRef.nil()
    assert ray.ObjectRef.from_random() != ray.ObjectRef.from_random()


def test_references_have_no_order(ray):
    with pytest.raises(TypeError, match="not supported"):
        ray.put(1) < ray.put(2)  # noqa: B015


def test_a_reference_as_a_future_of_the_event_loop(ray):
    @ray.remote
    def fail():
        raise KeyError("no")

    async def main():
        value = ray.put("value").as_future()
        assert isinstance(value, asyncio.Future)
        with pytest.raises(KeyError):
            await fail.remote().as_future()
        return await value

    assert asyncio.run(main()) == "value"


def test_a_callback_gets_the_value_or_the_error(ray):
    import queue

    @ray.remote
    def fail():
        raise KeyError("no")

    found: queue.Queue = queue.Queue()
    ray.put(5)._on_completed(found.put)
    assert found.get(timeout=30) == 5
    fail.remote()._on_completed(found.put)
    assert isinstance(found.get(timeout=30), ray.exceptions.RayTaskError)


@pytest.mark.parametrize("name", ["job_id", "node_id"])
def test_deprecated_properties_of_the_context_warn(ray, name):
    context = ray.get_runtime_context()
    with pytest.warns(DeprecationWarning):
        found = getattr(context, name)
    assert found.hex() == getattr(context, f"get_{name}")()
    assert type(found).__name__ == {"job_id": "JobID", "node_id": "NodeID"}[name]


def test_deprecated_questions_to_the_context_within_an_actor(ray):
    @ray.remote(num_cpus=0)
    class A:
        def ask(self):
            context = ray.get_runtime_context()
            with pytest.warns(DeprecationWarning):
                found = context.get()
            with pytest.warns(DeprecationWarning):
                actor = context.actor_id
            return found, actor.hex(), context.get_actor_id()

    found, actor, same = ray.get(A.remote().ask.remote())
    assert actor == same == found["actor_id"].hex()
    assert isinstance(found["task_id"], ray.TaskID)
    assert found["namespace"] == ray.get_runtime_context().namespace


def test_the_session_has_one_name_in_all_processes(ray):
    name = ray.get_runtime_context().get_session_name()
    assert name.startswith("session_")
    assert ray.get(ray.remote(lambda: ray.get_runtime_context().get_session_name()).remote()) == name
    assert ray.get_runtime_context().get_temp_dir().startswith("/")
