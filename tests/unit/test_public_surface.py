"""The names that users may rely on. A name that is added here is a promise; one that goes is a breaking change."""

from __future__ import annotations

import importlib
import inspect

import pytest

import zray
from zray import exceptions

PUBLIC = {
    "DynamicObjectRefGenerator", "ObjectRef", "ObjectRefGenerator",
    "__version__", "actor", "available_resources", "cancel", "cluster_resources", "exceptions", "get",
    "get_actor", "get_gpu_ids", "get_runtime_context", "init", "is_initialized", "kill", "method", "nodes", "put",
    "remote", "remote_function", "runtime_context", "shutdown", "util", "wait",
    "ActorClassID", "ActorID", "ClusterID", "FunctionID", "JobID", "NodeID", "ObjectID", "PlacementGroupID", "TaskID",
    "UniqueID", "WorkerID", "LOCAL_MODE", "SCRIPT_MODE", "WORKER_MODE", "ClientBuilder", "Language", "LoggingConfig",
    "client", "cloudpickle", "cpp_function", "cross_language", "install_as_ray", "java_actor_class", "java_function",
    "job_config", "timeline", "types", "explain",
}  # fmt: skip

IN_MODULES = {
    "zray.actor": {
        "ActorClass",
        "ActorClassInheritanceException",
        "ActorHandle",
        "ActorMethod",
        "exit_actor",
        "method",
    },
    "zray.remote_function": {"RemoteFunction"},
    "zray.runtime_context": {"RuntimeContext", "get_runtime_context"},
    "zray.workflow": {
        "WorkflowStatus", "cancel", "continuation", "delete", "exceptions", "get_metadata", "get_output", "get_status",
        "init", "list_all", "options", "resume", "resume_all", "resume_async", "run", "run_async",
    },
}  # fmt: skip

HOUSE_ERRORS = {
    "ActorAlreadyExistsError", "ActorDiedError", "ActorError", "ActorExit", "ActorHandleNotFoundError",
    "ActorUnavailableError", "ActorUnschedulableError",
    "ClusterUnavailableError", "ConfigError", "DeserializationError", "GetTimeoutError", "MessageRefusedError",
    "ModuleMissingError", "NodeDiedError", "ObjectError",
    "ObjectFreedError", "ObjectLostError", "ObjectReconstructionFailedError", "ObjectStoreFullError", "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError", "PendingCallsLimitExceeded", "RunningTaskCancelledError", "RuntimeEnvSetupError",
    "SerializationError", "SystemFailure", "TaskCancelledError", "TaskError", "TaskTimeoutError",
    "TaskUnschedulableError", "VersionMismatchError", "WorkerCrashedError",
    "ZrayError",
    "ActorPlacementGroupRemoved", "AuthenticationError",
    "CrossLanguageError", "ObjectRefStreamEndOfStreamError", "OufOfBandObjectRefSerializationException",
    "PlasmaObjectNotAvailable", "RayCgraphCapacityExceeded", "RayChannelError", "RayChannelTimeoutError",
    "RayDirectTransportError", "RpcError", "StreamingGeneratorReplayInconsistentError", "TaskPlacementGroupRemoved",
    "UnserializableException", "UserCodeException",
}  # fmt: skip

RAY_ALIASES = {
    "RayError": "ZrayError",
    "RayTaskError": "TaskError",
    "RayActorError": "ActorError",
    "RaySystemError": "SystemFailure",
    "ReferenceCountingAssertionError": "ObjectFreedError",
    "ObjectFetchTimedOutError": "ObjectLostError",
    "LocalRayletDiedError": "NodeDiedError",
    "RayletDiedError": "NodeDiedError",
    "AsyncioActorExit": "ActorExit",
}

PARAMETERS = {
    "init": "address, *, num_cpus, num_gpus, memory, resources, labels, object_store_memory, insecure, local_mode, "
    "ignore_reinit_error, include_dashboard, dashboard_host, dashboard_port, job_config, configure_logging, "
    "logging_level, logging_format, logging_config, log_to_driver, namespace, runtime_env, enable_resource_isolation, "
    "cgroup_path, system_reserved_cpu, system_reserved_memory, proxy_server_url, **kwargs",
    "shutdown": "*, wait_for_processes, _exiting_interpreter",
    "get": "refs, *, timeout",
    "wait": "refs, *, num_returns, timeout, fetch_local",
    "cancel": "ref, *, force, recursive",
    "kill": "actor, *, no_restart",
    "get_actor": "name, namespace",
}


def test_the_package_has_these_names_and_no_others() -> None:
    assert set(zray.__all__) == PUBLIC
    assert all(hasattr(zray, name) for name in PUBLIC)


@pytest.mark.parametrize("module", IN_MODULES)
def test_rays_places_have_these_names(module: str) -> None:
    assert set(importlib.import_module(module).__all__) == IN_MODULES[module]


def test_errors_are_these() -> None:
    classes = {name: kind for name, kind in vars(exceptions).items() if inspect.isclass(kind) and is_error(kind)}
    assert set(classes) == HOUSE_ERRORS | set(RAY_ALIASES)
    assert {name for name, kind in classes.items() if kind.__name__ == name} == HOUSE_ERRORS


def is_error(kind: type) -> bool:
    return issubclass(kind, BaseException)


@pytest.mark.parametrize(("ray_name", "house_name"), RAY_ALIASES.items())
def test_rays_names_are_aliases(ray_name: str, house_name: str) -> None:
    assert getattr(exceptions, ray_name) is getattr(exceptions, house_name)


@pytest.mark.parametrize("name", sorted(HOUSE_ERRORS - {"ActorExit"}))
def test_one_base_catches_every_error(name: str) -> None:
    assert issubclass(getattr(exceptions, name), exceptions.ZrayError)


def test_leaving_an_actor_is_no_error_that_user_code_would_catch() -> None:
    assert not issubclass(exceptions.ActorExit, Exception)


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("GetTimeoutError", TimeoutError),
        ("ClusterUnavailableError", ConnectionError),
        ("ConfigError", ValueError),
        ("SerializationError", TypeError),
        ("ModuleMissingError", ModuleNotFoundError),
    ],
)
def test_errors_that_are_builtin_ones_as_well(name: str, builtin: type[Exception]) -> None:
    assert issubclass(getattr(exceptions, name), builtin)


@pytest.mark.parametrize("name", PARAMETERS)
def test_arguments_have_these_names(name: str) -> None:
    assert written(inspect.signature(getattr(zray, name))) == PARAMETERS[name]


def written(signature: inspect.Signature) -> str:
    """The parameters' names, as one would write them, without defaults and types."""
    bare = [p.replace(annotation=p.empty, default=p.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(bare))[1:-1]


def test_every_public_callable_says_what_it_is_for() -> None:
    assert [name for name in PUBLIC if callable(getattr(zray, name)) and not inspect.getdoc(getattr(zray, name))] == []
