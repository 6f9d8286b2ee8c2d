"""Ray's ``ray.experimental``: where objects are, a key-value store, progress bars. A name is loaded when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zray.experimental.dynamic_resources import set_resource as set_resource
    from zray.experimental.locations import get_local_object_locations as get_local_object_locations
    from zray.experimental.locations import get_object_locations as get_object_locations

_HOMES = {
    "get_local_object_locations": "locations",
    "get_object_locations": "locations",
    "set_resource": "dynamic_resources",
}
"""The module in this package that has a name."""
_SUBMODULES = ("dynamic_resources", "internal_kv", "locations", "tqdm_ray")
"""Modules of this package that are attributes of it although the program has not imported them."""

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
