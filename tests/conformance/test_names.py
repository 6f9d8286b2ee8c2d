"""Ray's public names in their modules, and the answers of the cluster and the runtime context."""

from __future__ import annotations

import importlib
import inspect
import os

import pytest

TOP_LEVEL = [
    "init",
    "shutdown",
    "is_initialized",
    "remote",
    "get",
    "put",
    "wait",
    "cancel",
    "kill",
    "method",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "nodes",
    "cluster_resources",
    "available_resources",
    "ObjectRef",
    "exceptions",
    "actor",
    "remote_function",
    "runtime_context",
    "util",
    "__version__",
]

EXCEPTIONS = [
    "RayError",
    "RayTaskError",
    "RayActorError",
    "RaySystemError",
    "TaskCancelledError",
    "WorkerCrashedError",
    "ActorDiedError",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "TaskUnschedulableError",
    "GetTimeoutError",
    "ObjectLostError",
    "ObjectFreedError",
    "OwnerDiedError",
    "ObjectStoreFullError",
    "OutOfDiskError",
    "OutOfMemoryError",
    "NodeDiedError",
    "RuntimeEnvSetupError",
    "PendingCallsLimitExceeded",
    "ReferenceCountingAssertionError",
    "ObjectReconstructionFailedError",
    "ObjectFetchTimedOutError",
    "LocalRayletDiedError",
    "AsyncioActorExit",
]

SUBCLASSES = [
    ("RayTaskError", "RayError"),
    ("RayActorError", "RayError"),
    ("ActorDiedError", "RayActorError"),
    ("ActorUnavailableError", "RayActorError"),
    ("TaskCancelledError", "RayError"),
    ("WorkerCrashedError", "RayError"),
    ("GetTimeoutError", "RayError"),
    ("OwnerDiedError", "ObjectLostError"),
    ("ObjectFreedError", "ObjectLostError"),
    ("ObjectLostError", "RayError"),
    ("ObjectStoreFullError", "RayError"),
    ("RaySystemError", "RayError"),
]


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_top_level(ray, name):
    assert hasattr(ray, name)


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_exceptions(ray, name):
    assert issubclass(getattr(ray.exceptions, name), BaseException)


@pytest.mark.parametrize(("child", "parent"), SUBCLASSES)
def test_tree_of_exceptions(ray, child, parent):
    assert issubclass(getattr(ray.exceptions, child), getattr(ray.exceptions, parent))


def test_get_timeout_error_is_a_timeout_error(ray):
    assert issubclass(ray.exceptions.GetTimeoutError, TimeoutError)


@pytest.mark.parametrize("module", ["exceptions", "actor", "remote_function", "runtime_context", "util"])
def test_submodules_can_be_imported(ray, impl, module):
    assert importlib.import_module(f"{impl}.{module}") is getattr(ray, module)


def test_types(ray):
    @ray.remote
    def f():
        pass

    @ray.remote(num_cpus=0)
    class A:
        def f(self):
            pass

    actor = A.remote()
    assert isinstance(f, ray.remote_function.RemoteFunction)
    assert isinstance(A, ray.actor.ActorClass)
    assert isinstance(actor, ray.actor.ActorHandle)
    assert isinstance(actor.f, ray.actor.ActorMethod)
    assert isinstance(ray.put(1), ray.ObjectRef)
    assert isinstance(ray.get_runtime_context(), ray.runtime_context.RuntimeContext)


@pytest.mark.parametrize(
    ("function", "names"),
    [
        ("get", ["timeout"]),
        ("wait", ["num_returns", "timeout", "fetch_local"]),
        ("cancel", ["force", "recursive"]),
        ("kill", ["no_restart"]),
        ("get_actor", ["name", "namespace"]),
        ("init", ["address", "num_cpus", "num_gpus", "resources", "object_store_memory", "local_mode", "namespace"]),
        ("init", ["ignore_reinit_error", "log_to_driver", "include_dashboard", "logging_level", "runtime_env"]),
    ],
)
def test_parameters(ray, function, names):
    assert set(names) <= set(inspect.signature(getattr(ray, function)).parameters)


def test_is_initialized(ray):
    assert ray.is_initialized() is True


def test_nodes(ray):
    (node,) = ray.nodes()
    assert node["Alive"] is True
    assert node["NodeID"] == ray.get_runtime_context().get_node_id()
    assert node["Resources"]["CPU"] == 2
    assert isinstance(node["NodeManagerHostname"], str)


def test_cluster_resources(ray):
    resources = ray.cluster_resources()
    assert resources["CPU"] == 2
    assert resources["slot"] == 2
    assert resources["memory"] > 0


def test_no_gpus(ray):
    assert ray.get_gpu_ids() == []
    assert ray.get(ray.remote(lambda: ray.get_gpu_ids()).remote()) == []


def test_runtime_context_of_the_driver(ray):
    context = ray.get_runtime_context()
    assert context.get_actor_id() is None
    for identifier in (context.get_job_id(), context.get_node_id(), context.get_worker_id()):
        assert int(identifier, 16) >= 0
    assert isinstance(context.namespace, str)


def read_context(ray):
    context = ray.get_runtime_context()
    return {
        "task_id": context.get_task_id(),
        "actor_id": context.get_actor_id(),
        "actor_name": context.get_actor_name(),
        "job_id": context.get_job_id(),
        "node_id": context.get_node_id(),
        "worker_id": context.get_worker_id(),
        "task_name": context.get_task_name(),
        "resources": context.get_assigned_resources(),
        "namespace": context.namespace,
        "pid": os.getpid(),
    }


def test_runtime_context_of_a_task(ray):
    @ray.remote(num_cpus=0.5, resources={"slot": 1})
    def f():
        return read_context(ray)

    ref = f.options(name="named").remote()
    here, there = ray.get_runtime_context(), ray.get(ref)
    assert there["job_id"] == here.get_job_id()
    assert there["node_id"] == here.get_node_id()
    assert there["worker_id"] != here.get_worker_id()
    assert there["namespace"] == here.namespace
    assert there["actor_id"] is None
    assert there["task_name"] == "named"
    assert there["resources"] == {"CPU": 0.5, "slot": 1}
    assert ray.get(f.remote())["task_id"] != there["task_id"]


def test_task_id_of_a_ref_is_the_one_that_its_task_sees(ray):
    ref = ray.remote(lambda: ray.get_runtime_context().get_task_id()).remote()
    task_id = ref.task_id()
    assert ray.get(ref) == task_id.hex()


def test_runtime_context_of_an_actor(ray):
    @ray.remote(num_cpus=0.5)
    class A:
        def __init__(self):
            self.born = read_context(ray)

        def contexts(self):
            return self.born, read_context(ray)

        def reconstructed(self):
            return ray.get_runtime_context().was_current_actor_reconstructed

    actor = A.options(name="context").remote()
    born, called = ray.get(actor.contexts.remote())
    assert born["actor_id"] == called["actor_id"]
    assert int(called["actor_id"], 16) >= 0
    assert called["actor_name"] == "context"
    assert called["resources"] == {"CPU": 0.5}
    assert called["pid"] == born["pid"] != os.getpid()
    assert called["worker_id"] == born["worker_id"]
    assert ray.get(actor.reconstructed.remote()) is False


def test_actor_without_a_name(ray):
    @ray.remote(num_cpus=0)
    class A:
        def name(self):
            return ray.get_runtime_context().get_actor_name()

    assert not ray.get(A.remote().name.remote())


def test_current_actor_outside_of_an_actor(ray):
    with pytest.raises(RuntimeError):
        ray.get_runtime_context().current_actor  # noqa: B018


def test_handle_says_its_class(ray):
    @ray.remote(num_cpus=0)
    class Distinctive:
        def f(self):
            pass

    assert "Distinctive" in repr(Distinctive.remote())


def test_types_take_parameters(ray):
    """As in annotations that Python evaluates: ``def f(ref: ray.ObjectRef[int])``."""
    actor = importlib.import_module(f"{ray.__name__}.actor")
    for kind in (ray.ObjectRef, actor.ActorHandle, actor.ActorClass):
        assert kind[int].__origin__ is kind
    assert isinstance(ray.put(1), ray.ObjectRef)
