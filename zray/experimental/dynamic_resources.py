"""Ray's ``set_resource``, which Ray has removed: hosts say what they have when they start."""

from __future__ import annotations

from typing import NoReturn


def set_resource(resource_name: str, capacity: float, node_id: str | None = None) -> NoReturn:
    """Raises DeprecationWarning, as in Ray: the resources of a host cannot be changed while it runs."""
    raise DeprecationWarning(
        f"set_resource({resource_name!r}): the resources of a host cannot be changed while it runs. Give them when it "
        f"starts: zray.init(resources=...), or zray-worker --resources"
    )
