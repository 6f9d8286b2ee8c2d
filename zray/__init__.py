"""zray: Ray's API without Ray's weight.

``import zray as ray`` runs a Ray program: tasks, actors and shared objects on ZeroMQ, in pure Python. This module has
the public names and nothing else. ``docs/architecture.md`` in the source tree describes how zray works.
"""

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
from zray.api.generators import DynamicObjectRefGenerator, ObjectRefGenerator
from zray.api.objects import cancel, get, get_actor, kill, put, wait
from zray.api.runtime_context import get_gpu_ids, get_runtime_context
from zray.object_ref import ObjectRef
from zray.version import VERSION as __version__

__all__ = [
    "DynamicObjectRefGenerator",
    "ObjectRef",
    "ObjectRefGenerator",
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
