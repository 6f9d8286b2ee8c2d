"""zray: Ray's API without Ray's weight.

``import zray as ray`` runs a Ray program: tasks, actors and shared objects on ZeroMQ, in pure Python. This module has
the public names and nothing else. What is behind them is loaded when it is asked for, or while ``init`` waits.
``docs/architecture.md`` in the source tree describes how zray works.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from zray import exceptions
from zray.api.cluster import init, is_initialized, shutdown
from zray.object_ref import DynamicObjectRefGenerator, ObjectRef
from zray.version import VERSION as __version__

if TYPE_CHECKING:
    from zray import actor, cloudpickle, cross_language, job_config, remote_function, runtime_context, types, util
    from zray.api.actor import method
    from zray.api.decorator import remote
    from zray.api.explanations import explain
    from zray.api.generators import ObjectRefGenerator
    from zray.api.nodes import available_resources, cluster_resources, nodes
    from zray.api.objects import cancel, get, get_actor, kill, put, wait
    from zray.api.runtime_context import get_gpu_ids, get_runtime_context
    from zray.as_ray import install_as_ray
    from zray.client_builder import ClientBuilder, client
    from zray.cross_language import Language, cpp_function, java_actor_class, java_function
    from zray.logs.job_logging import LoggingConfig
    from zray.public_ids import (
        ActorClassID,
        ActorID,
        ClusterID,
        FunctionID,
        JobID,
        NodeID,
        PlacementGroupID,
        TaskID,
        UniqueID,
        WorkerID,
    )
    from zray.util.timeline import timeline


class _ClientModule(ModuleType):
    """The package ``zray.client``, which can be called, since ``ray.client()`` is a function."""

    def __call__(self, address: str | None = None, _deprecation_warn_enabled: bool = True) -> ClientBuilder:
        from zray.client_builder import client

        return client(address, _deprecation_warn_enabled)

    def __reduce__(self) -> tuple[Any, ...]:
        return (__import__, (self.__name__, None, None, ["*"]))


importlib.import_module("zray.client").__class__ = _ClientModule
ObjectID = ObjectRef
SCRIPT_MODE, WORKER_MODE, LOCAL_MODE = 0, 1, 2
"""Kinds of processes, under Ray's numbers."""

_COMMON = {
    **dict.fromkeys(("cancel", "get", "get_actor", "kill", "put", "wait"), "zray.api.objects"),
    **dict.fromkeys(("available_resources", "cluster_resources", "nodes"), "zray.api.nodes"),
    **dict.fromkeys(("get_gpu_ids", "get_runtime_context"), "zray.api.runtime_context"),
    "ObjectRefGenerator": "zray.api.generators",
    "method": "zray.api.actor",
    "remote": "zray.api.decorator",
}
"""The modules of the names that nearly every program uses. ``init`` loads most of them while a cluster starts."""
_ELSEWHERE = {
    **_COMMON,
    **dict.fromkeys(
        (
            "ActorClassID", "ActorID", "ClusterID", "FunctionID", "JobID", "NodeID", "PlacementGroupID", "TaskID",
            "UniqueID", "WorkerID",
        ),
        "zray.public_ids",
    ),
    **dict.fromkeys(("Language", "cpp_function", "java_actor_class", "java_function"), "zray.cross_language"),
    "ClientBuilder": "zray.client_builder",
    "LoggingConfig": "zray.logs.job_logging",
    "logger": "zray.api.init_arguments",
    "install_as_ray": "zray.as_ray",
    "explain": "zray.api.explanations",
    "timeline": "zray.util.timeline",
}  # fmt: skip
"""The modules of the names that are loaded when they are asked for."""
_MODULES = frozenset(
    {
        "_common", "_private", "_raylet", "actor", "autoscaler", "client_builder", "cloudpickle", "cluster_utils",
        "cross_language", "dag", "data", "experimental", "job_config", "remote_function", "runtime_context",
        "runtime_env", "types", "util", "workflow",
    }
)  # fmt: skip
"""Modules that are loaded when they are asked for as attributes of this one."""


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        found = getattr(importlib.import_module(_ELSEWHERE[name]), name)
    elif name in _MODULES and _exists(f"zray.{name}"):
        found = importlib.import_module(f"zray.{name}")
    else:
        raise AttributeError(f"module 'zray' has no attribute {name!r}")
    globals()[name] = found
    return found


def _exists(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def _load() -> None:
    """Loads what nearly every program uses, in a process that forks others: so that these share it."""
    for name in (*_COMMON, "actor", "remote_function", "runtime_context", "util"):
        __getattr__(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_ELSEWHERE, *_MODULES})


__all__ = [
    "ActorClassID",
    "ActorID",
    "ClientBuilder",
    "ClusterID",
    "DynamicObjectRefGenerator",
    "FunctionID",
    "JobID",
    "LOCAL_MODE",
    "Language",
    "LoggingConfig",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "SCRIPT_MODE",
    "TaskID",
    "UniqueID",
    "WORKER_MODE",
    "WorkerID",
    "__version__",
    "actor",
    "available_resources",
    "cancel",
    "client",
    "cloudpickle",
    "cluster_resources",
    "cpp_function",
    "cross_language",
    "exceptions",
    "explain",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "install_as_ray",
    "is_initialized",
    "java_actor_class",
    "java_function",
    "job_config",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "remote_function",
    "runtime_context",
    "shutdown",
    "timeline",
    "types",
    "util",
    "wait",
]
