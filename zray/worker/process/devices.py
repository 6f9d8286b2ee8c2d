"""Which accelerators the code of a worker sees: each family's libraries read a variable of their own."""

from __future__ import annotations

import os

from zray.accelerators import FAMILIES, Family, visible_ids

_TPU_BOUNDS = {1: "1,1,1", 2: "1,2,1"}
"""The shape of a part of a host's chips, by their number, for ``TPU_CHIPS_PER_HOST_BOUNDS``. Parts of other sizes are
given out only as a whole host, which needs no such variable."""


class Devices:
    """Make one before any code of the user runs. ``gpus``: the family of the host's GPUs."""

    def __init__(self, gpus: Family) -> None:
        self._families = {**FAMILIES, "GPU": gpus}
        families = self._families.values()
        self._before = {family.variable: os.environ.get(family.variable) for family in families}
        self._shown: tuple[str, list[int]] = ("", [])

    def names(self, resource: str, indices: list[int]) -> tuple[int | str, ...]:
        """Returns the accelerators: their numbers, or the names in the family's variable if the host has it."""
        if not indices:
            return ()
        names = visible_ids(self._before[self._families[resource].variable])
        if names is None:
            return tuple(indices)
        if max(indices) >= len(names):  # a runtime environment shows fewer than the host has: all of these, as in Ray
            return tuple(names)
        return tuple(names[index] for index in indices)

    def show(self, resource: str, indices: list[int]) -> None:
        """Shows the accelerators with these indices, and no others of the family. None: as the worker was started."""
        if (resource, indices) == self._shown:
            return
        before, self._shown = self._shown[0], (resource, indices)
        if before and before != resource:
            self._set(self._families[before], [])
        if resource:
            self._set(self._families[resource], indices)

    def _set(self, family: Family, indices: list[int]) -> None:
        if os.environ.get(family.noset, "").lower() in ("1", "true"):
            return
        shown = ",".join(map(str, self.names(family.resource, indices))) if indices else self._before[family.variable]
        _set_variable(family.variable, shown)
        if family.resource == "TPU":
            bounds = _TPU_BOUNDS.get(len(indices))
            _set_variable("TPU_CHIPS_PER_HOST_BOUNDS", bounds)
            _set_variable("TPU_HOST_BOUNDS", "1,1,1" if bounds else None)


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
