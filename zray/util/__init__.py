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

_HOMES = {
    "get_current_placement_group": "placement_group",
    "get_placement_group": "placement_group",
    "placement_group": "placement_group",
    "placement_group_table": "placement_group",
    "remove_placement_group": "placement_group",
}
"""The module in this package that has a name."""

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
