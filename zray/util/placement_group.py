"""Ray's ``ray.util.placement_group``: a module with this name, and a function in it.

``zray.util.placement_group`` is the function, but Python binds the name to the module when a program imports from the
module first. So the module can be called, too.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from zray.api.group_arguments import STRATEGIES
from zray.api.placement_groups import PlacementGroup as PlacementGroup
from zray.api.placement_groups import PlacementGroupNameTaken as PlacementGroupNameTaken
from zray.api.placement_groups import check_placement_group_index as check_placement_group_index
from zray.api.placement_groups import get_current_placement_group as get_current_placement_group
from zray.api.placement_groups import get_placement_group as get_placement_group
from zray.api.placement_groups import placement_group as placement_group
from zray.api.placement_groups import placement_group_table as placement_group_table
from zray.api.placement_groups import remove_placement_group as remove_placement_group
from zray.api.placement_groups import validate_placement_group as validate_placement_group

VALID_PLACEMENT_GROUP_STRATEGIES = set(STRATEGIES)
PlacementGroup.__module__ = __name__


class _CallableModule(ModuleType):
    __wrapped__ = placement_group
    """The function, for ``inspect.signature``."""

    def __call__(self, *args: Any, **kwargs: Any) -> PlacementGroup:
        return placement_group(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
