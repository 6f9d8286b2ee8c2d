"""Ray's ``ray.util.scheduling_strategies``: where a task or actor runs.

A strategy is a value of the option ``scheduling_strategy``. The strategies ``"DEFAULT"`` and ``"SPREAD"`` are strings.
"""

from zray.scheduling.node_affinity import NodeAffinitySchedulingStrategy as NodeAffinitySchedulingStrategy
from zray.scheduling.node_label import DoesNotExist as DoesNotExist
from zray.scheduling.node_label import Exists as Exists
from zray.scheduling.node_label import In as In
from zray.scheduling.node_label import NodeLabelSchedulingStrategy as NodeLabelSchedulingStrategy
from zray.scheduling.node_label import NotIn as NotIn
from zray.scheduling.placement_group import PlacementGroupSchedulingStrategy as PlacementGroupSchedulingStrategy
