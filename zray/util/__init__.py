"""Ray's ``ray.util``: what is written with the public API. A name is loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zray.api.placement_groups import get_current_placement_group as get_current_placement_group
    from zray.api.placement_groups import get_placement_group as get_placement_group
    from zray.api.placement_groups import placement_group as placement_group
    from zray.api.placement_groups import placement_group_table as placement_group_table
    from zray.api.placement_groups import remove_placement_group as remove_placement_group
    from zray.util.actor_pool import ActorPool as ActorPool
    from zray.util.check_serialize import inspect_serializability as inspect_serializability
    from zray.util.client_connect import connect as connect
    from zray.util.client_connect import disconnect as disconnect
    from zray.util.debug import disable_log_once_globally as disable_log_once_globally
    from zray.util.debug import enable_periodic_logging as enable_periodic_logging
    from zray.util.debug import log_once as log_once
    from zray.util.executor import Executor as Executor
    from zray.util.helpers import as_completed as as_completed
    from zray.util.helpers import map_unordered as map_unordered
    from zray.util.methods import methods_of as methods_of
    from zray.util.named_actors import list_named_actors as list_named_actors
    from zray.util.nodes import get_node_instance_id as get_node_instance_id
    from zray.util.nodes import get_node_ip_address as get_node_ip_address
    from zray.util.progress_bar import progress as progress
    from zray.util.serialization import deregister_serializer as deregister_serializer
    from zray.util.serialization import register_serializer as register_serializer

_HOMES = {
    "ActorPool": "actor_pool",
    "Executor": "executor",
    "as_completed": "helpers",
    "connect": "client_connect",
    "deregister_serializer": "serialization",
    "disable_log_once_globally": "debug",
    "disconnect": "client_connect",
    "enable_periodic_logging": "debug",
    "get_current_placement_group": "placement_group",
    "get_node_instance_id": "nodes",
    "get_node_ip_address": "nodes",
    "get_placement_group": "placement_group",
    "inspect_serializability": "check_serialize",
    "list_named_actors": "named_actors",
    "log_once": "debug",
    "map_unordered": "helpers",
    "methods_of": "methods",
    "placement_group": "placement_group",
    "placement_group_table": "placement_group",
    "progress": "progress_bar",
    "register_serializer": "serialization",
    "remove_placement_group": "placement_group",
}
"""The module in this package that has a name."""
_MODULES = {"pdb": "rpdb", "ray_debugpy": "debugpy"}
"""Modules of this package that are known here by another name."""
_SUBMODULES = (
    "accelerators",
    "annotations",
    "client",
    "check_serialize",
    "debug",
    "metrics",
    "queue",
    "rpdb",
    "scheduling_strategies",
    "state",
)
"""Modules of this package that are attributes of it although the program has not imported them."""

__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in _MODULES or name in _SUBMODULES:
        value = importlib.import_module(f"{__name__}.{_MODULES.get(name, name)}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
