"""``PlacementGroupSchedulingStrategy``: run in a placement group."""

from __future__ import annotations

from typing import Any

from zray.scheduling.constraint import Choice, Constraint


class PlacementGroupSchedulingStrategy:
    """Runs a task or actor in a placement group, with resources that are reserved for the group.

    Args:
        placement_group: the group; None: in no group, even if tasks of this one are captured.
        placement_group_bundle_index: the number of the bundle; -1: any bundle that has room.
        placement_group_capture_child_tasks: whether the tasks and actors that it creates run in the group too, unless
            they have a strategy of their own. None: as for the code that creates it; at first False.
    """

    def __init__(
        self,
        placement_group: Any,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks

    def constraint(self) -> Constraint:
        """Returns which hosts may take the work: any, because the group decides."""
        return Constraint([Choice(b"", [])], False, False, False)

    def __repr__(self) -> str:
        return (
            f"PlacementGroupSchedulingStrategy({self.placement_group!r}, {self.placement_group_bundle_index!r}, "
            f"{self.placement_group_capture_child_tasks!r})"
        )
