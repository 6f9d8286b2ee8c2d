"""zray: Ray's API without Ray's weight.

``import zray as ray`` runs a Ray program: tasks, actors and shared objects on ZeroMQ, in pure Python. This module has
the public names and nothing else. ``docs/architecture.md`` in the source tree describes how zray works.
"""

from __future__ import annotations

from typing import Any

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

__all__ = [
    "ObjectRef",
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


def __getattr__(name: str) -> Any:
    if name == "runtime_env":  # few programs need it
        from importlib import import_module

        return import_module("zray.runtime_env")
    raise AttributeError(f"module 'zray' has no attribute {name!r}")
