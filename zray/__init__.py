"""zray: Ray's API without Ray's weight.

``import zray as ray`` runs a Ray program: tasks, actors and shared objects on ZeroMQ, in pure Python. This module has
the public names and nothing else. What few programs use is loaded when it is asked for. ``docs/architecture.md`` in the
source tree describes how zray works.
"""

from typing import TYPE_CHECKING, Any

from zray import actor, exceptions, remote_function, runtime_context, util
from zray.api.actor import method
from zray.api.cluster import (
    available_resources,
    cluster_resources,
    init,
    is_initialized,
    nodes,
    shutdown,
)
from zray.api.decorator import remote
from zray.api.objects import cancel, get, get_actor, kill, put, wait
from zray.api.runtime_context import get_gpu_ids, get_runtime_context
from zray.object_ref import ObjectRef
from zray.version import VERSION as __version__

if TYPE_CHECKING:
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

ObjectID = ObjectRef
SCRIPT_MODE, WORKER_MODE, LOCAL_MODE = 0, 1, 2
"""Kinds of processes, under Ray's numbers."""

_ELSEWHERE = {
    **dict.fromkeys(
        (
            "ActorClassID", "ActorID", "ClusterID", "FunctionID", "JobID", "NodeID", "PlacementGroupID", "TaskID",
            "UniqueID", "WorkerID",
        ),
        "zray.public_ids",
    ),
}  # fmt: skip
"""The modules of the names that are loaded when they are asked for."""
_MODULES: frozenset[str] = frozenset(())
"""Modules that are loaded when they are asked for as attributes of this one."""


def __getattr__(name: str) -> Any:
    import importlib

    if name in _ELSEWHERE:
        found = getattr(importlib.import_module(_ELSEWHERE[name]), name)
    elif name in _MODULES:
        found = importlib.import_module(f"zray.{name}")
    else:
        raise AttributeError(f"module 'zray' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_ELSEWHERE, *_MODULES})


__all__ = [
    "ActorClassID",
    "ActorID",
    "ClusterID",
    "FunctionID",
    "JobID",
    "LOCAL_MODE",
    "NodeID",
    "ObjectID",
    "ObjectRef",
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
    "cluster_resources",
    "exceptions",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "remote_function",
    "runtime_context",
    "shutdown",
    "util",
    "wait",
]
