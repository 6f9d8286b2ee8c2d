"""Ray's ``ray.util.scheduling_strategies``: where a task or actor runs.

A strategy is a value of the option ``scheduling_strategy``. The strategies ``"DEFAULT"`` and ``"SPREAD"`` are strings.
"""

from zray.scheduling.placement_group import PlacementGroupSchedulingStrategy as PlacementGroupSchedulingStrategy
