"""The families of accelerators: the resource that counts them, and the variable that names those a process may use.

The names are Ray's. Work gets accelerators of one family at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable

from zray.named_tuples import NamedTuple


class Family(NamedTuple):
    """A family of accelerators.

    ``resource``: the name of the resource. ``variable``: the environment variable that its libraries read. ``noset``:
    the variable by which a user forbids that it is set. ``is_whole``: only whole accelerators are given out.
    """

    resource: str
    variable: str
    noset: str
    is_whole: bool = False


_NOSET = "RAY_EXPERIMENTAL_NOSET_"
NVIDIA = Family("GPU", "CUDA_VISIBLE_DEVICES", _NOSET + "CUDA_VISIBLE_DEVICES")
AMD = Family("GPU", "HIP_VISIBLE_DEVICES", _NOSET + "HIP_VISIBLE_DEVICES")
INTEL = Family("GPU", "ZE_AFFINITY_MASK", _NOSET + "ZE_AFFINITY_MASK")
GPU_FAMILIES = {"NVIDIA": NVIDIA, "AMD": AMD, "Intel": INTEL}
"""GPUs by vendor. All are the resource ``GPU``, and a host has GPUs of one vendor. MetaX uses NVIDIA's variable."""

FAMILIES = {
    family.resource: family
    for family in (
        NVIDIA,
        Family("TPU", "TPU_VISIBLE_CHIPS", _NOSET + "TPU_VISIBLE_CHIPS", True),
        Family("neuron_cores", "NEURON_RT_VISIBLE_CORES", _NOSET + "NEURON_RT_VISIBLE_CORES", True),
        Family("HPU", "HABANA_VISIBLE_MODULES", _NOSET + "HABANA_VISIBLE_MODULES", True),
        Family("NPU", "ASCEND_RT_VISIBLE_DEVICES", _NOSET + "ASCEND_RT_VISIBLE_DEVICES"),
        Family("RBLN", "RBLN_DEVICES", _NOSET + "RBLN_RT_VISIBLE_DEVICES", True),
        Family("FURIOSA", "FURIOSA_DEVICES", _NOSET + "FURIOSA_DEVICES", True),
        Family("MBLT", "QBRUNTIME_VISIBLE_DEVICES", _NOSET + "MBLT_RT_VISIBLE_DEVICES", True),
        Family("TTNPU", "TT_VISIBLE_DEVICES", _NOSET + "TENSTORRENT_VISIBLE_DEVICES"),
    )
}
"""By resource. The family of GPUs is NVIDIA's, unless the host's are of another vendor."""


def visible_ids(variable: str | None) -> list[str] | None:
    """Returns the accelerators that a variable such as ``CUDA_VISIBLE_DEVICES`` names. None: all of the machine's.

    An entry that is not one ends the list (CUDA C++ Programming Guide, "Environment Variables").
    """
    if variable is None:
        return None
    names = [name.strip() for name in variable.split(",")]
    return list(itertools.takewhile(lambda name: name and not name.startswith(("-", "NoDevFiles")), names))


def accelerator_in(names: Container[str]) -> str:
    """Returns the accelerator among names of resources; empty if there is none."""
    for resource in FAMILIES:
        if resource in names:
            return resource
    return ""


def fault_of(names: Iterable[str]) -> str:
    """Returns why work, or a bundle, cannot ask for resources of these names; empty if it can."""
    asked = [name for name in names if name in FAMILIES]
    return f"{asked[0]} and {asked[1]} are accelerators of different families: ask for one" if len(asked) > 1 else ""


def fault_of_amount(name: str, amount: float) -> str:
    """Returns why nothing can have this amount of a resource; empty if it can."""
    family = FAMILIES.get(name)
    if family is None or amount == int(amount) or (amount < 1 and not family.is_whole):
        return ""
    return f"only whole {name} are given out" if family.is_whole else f"more than one {name} must be a whole number"
