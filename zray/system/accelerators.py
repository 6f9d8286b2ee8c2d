"""Finds the accelerators of this machine.

NVIDIA's GPUs are counted and named by NVML, if the package nvidia-ml-py is installed: inside a container, only NVML
tells which GPUs it may use. Otherwise the driver's directory in ``/proc`` says it. AMD's are listed by the kernel,
Intel's by dpctl (if it is installed and there is such a GPU). A library that is not installed, or fails, finds nothing.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from zray.accelerators import AMD, FAMILIES, GPU_FAMILIES, INTEL, NVIDIA, Family, visible_ids
from zray.exceptions import ConfigError
from zray.named_tuples import NamedTuple

_MODEL = re.compile(r"\w+\s+((?:[A-Z]+\s+)*[A-Z0-9]*\d[A-Z0-9]*)")
"""In a name such as ``NVIDIA A100-SXM4-40GB`` or ``NVIDIA RTX PRO 6000 Blackwell``: the model."""
_AMD_MODELS = {
    0x66A1: "AMD-Instinct-MI50",
    0x738C: "AMD-Instinct-MI100",
    0x7408: "AMD-Instinct-MI250X",
    0x740C: "AMD-Instinct-MI250X-MI250",
    0x740F: "AMD-Instinct-MI210",
    0x74A0: "AMD-Instinct-MI300A",
    0x74A1: "AMD-Instinct-MI300X-OAM",
    0x74A2: "AMD-Instinct-MI308X-OAM",
    0x74A5: "AMD-Instinct-MI325X-OAM",
    0x74A9: "AMD-Instinct-MI300X-HF",
    0x75A0: "AMD-Instinct-MI350X-OAM",
    0x75A3: "AMD-Instinct-MI355X-OAM",
}
"""By PCI device; the names are Ray's."""
_INTEL_VENDOR = "0x8086"
_GOOGLE_VENDOR = "0x1ae0"
_NEURON_LS = "opt/aws/neuron/bin/neuron-ls"


class Found(NamedTuple):
    """Accelerators of one family. ``kind``: their type, such as "A100"; empty if it is not known."""

    family: Family
    n: int
    kind: str = ""


def find_gpus(root: str = "/") -> Found:
    """Returns the GPUs of this machine, of the first vendor that has some. ``root``: the root of the file system."""
    for find in (_nvidia, _amd, _intel):
        found = find(root)
        if found.n:
            return found
    return Found(NVIDIA, 0)


def find_others(root: str = "/") -> Iterator[Found]:
    """Yields the accelerators of other families that this machine has."""
    if chips := _tpu_chips(root):
        yield Found(FAMILIES["TPU"], chips, tpu_kind(os.environ.get("TPU_ACCELERATOR_TYPE", "")))
    if cores := _neuron_cores(root + _NEURON_LS):
        yield Found(FAMILIES["neuron_cores"], cores, "aws-neuron-core")
    if boards := glob.glob(f"{root}dev/davinci[0-9]*"):
        yield Found(FAMILIES["NPU"], len(boards))


def _tpu_chips(root: str) -> int:
    """Google's driver makes ``/dev/accel0`` and so on; others make a directory of this name. Newer chips are given to
    programs by the kernel's VFIO, in a group each, beside devices of other vendors."""
    chips = [path for path in glob.glob(f"{root}dev/accel[0-9]*") if not os.path.isdir(path)]
    if chips:
        return len(chips)
    groups = [os.path.basename(path) for path in glob.glob(f"{root}dev/vfio/[0-9]*")]
    vendors = [glob.glob(f"{root}sys/kernel/iommu_groups/{group}/devices/*/vendor") for group in groups]
    return sum(any(_vendor_in(path) == _GOOGLE_VENDOR for path in paths) for paths in vendors)


def tpu_kind(accelerator_type: str) -> str:
    """Returns the type of TPUs, such as ``TPU-V4``, of what Google calls their type, such as ``v4-16``."""
    generation = re.match(r"(?:v|tpu)(\d+[a-zA-Z]*)-\d+$", accelerator_type)
    return f"TPU-V{generation[1].upper()}" if generation else ""


def offered(num_gpus: float | None, given: Mapping[str, float], environ: Mapping[str, str]) -> dict[str, float]:
    """Returns a host's accelerators: those that are given, and those that are found where none are given.

    ``num_gpus``: None: those that are found. With GPUs of a known type comes the resource ``accelerator_type:X``.
    Raises ConfigError for more than the family's variable names.
    """
    amounts: dict[str, float] = {}
    kinds: list[str] = []
    if num_gpus != 0:
        found = find_gpus()
        amounts["GPU"] = _visible_count(found, environ) if num_gpus is None else num_gpus
        family = found.family if found.n else vendor_of(given, environ)
        _check_visible("num_gpus", family, amounts["GPU"], environ)
        kinds += [found.kind] if amounts["GPU"] else []
    for other in find_others():
        resource = other.family.resource
        if resource not in given:
            amounts[resource] = _visible_count(other, environ)
        kinds += [other.kind] if given.get(resource, amounts.get(resource)) else []
    for name in FAMILIES.keys() & given.keys():
        if given[name] != int(given[name]):
            raise ConfigError(f"resources={{{name!r}: {given[name]!r}}}: a host has a whole number of {name}")
        _check_visible(name, FAMILIES[name], given[name], environ)
    return {**amounts, **{f"accelerator_type:{kind}": 1.0 for kind in kinds if kind}}


def vendor_of(resources: Iterable[str], environ: Mapping[str, str]) -> Family:
    """Returns the family of a host's GPUs.

    It is known from their type, which is among the host's ``resources``; else from the variable that is set.
    """
    names = list(resources)
    for vendor, family in GPU_FAMILIES.items():
        if any(name.startswith(f"accelerator_type:{vendor}") for name in names):
            return family
    if NVIDIA.variable in environ:
        return NVIDIA
    return next((family for family in (AMD, INTEL) if family.variable in environ), NVIDIA)


def _visible_count(found: Found, environ: Mapping[str, str]) -> int:
    visible = visible_ids(environ.get(found.family.variable))
    return found.n if visible is None else min(found.n, len(visible))


def _check_visible(what: str, family: Family, amount: float, environ: Mapping[str, str]) -> None:
    visible = visible_ids(environ.get(family.variable))
    if visible is not None and amount > len(visible):
        raise ConfigError(
            f"{what}={amount:g}, but {family.variable}={environ[family.variable]!r} shows only {len(visible)} "
            f"{family.resource}(s): ask for fewer, or name more in it"
        )


# ---- NVIDIA


def _nvidia(root: str) -> Found:
    if not any(os.path.exists(root + path) for path in ("proc/driver/nvidia", "dev/nvidiactl", "dev/dxg")):
        return Found(NVIDIA, 0)  # without a driver: spares the import
    try:
        return _by_nvml()
    except ImportError:
        return _by_driver(f"{root}proc/driver/nvidia/gpus")


def _by_nvml() -> Found:
    """Asks NVML. Raises ImportError if its package is not installed."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no library, or no driver that answers
        return Found(NVIDIA, 0)
    try:
        count = pynvml.nvmlDeviceGetCount()
        name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)) if count else ""
    except pynvml.NVMLError:
        return Found(NVIDIA, 0)
    finally:
        pynvml.nvmlShutdown()
    return Found(NVIDIA, count, nvidia_kind(name.decode() if isinstance(name, bytes) else name))


def _by_driver(directory: str) -> Found:
    """Reads what the driver says."""
    try:
        cards = sorted(os.listdir(directory))
    except OSError:
        return Found(NVIDIA, 0)
    name = ""
    with contextlib.suppress(OSError, IndexError), open(f"{directory}/{cards[0]}/information") as file:
        lines = dict(line.partition(":")[::2] for line in file)
        name = lines.get("Model", "").strip()
    return Found(NVIDIA, len(cards), nvidia_kind(name))


def nvidia_kind(name: str) -> str:
    """Returns the type of a GPU of NVIDIA, such as "A100", of its name, such as "NVIDIA A100-SXM4-40GB"."""
    match = _MODEL.match(name)
    if match and len(match[1]) > 1:
        return match[1].replace(" ", "-")
    return re.sub(r"^NVIDIA\s+", "", name).strip().replace(" ", "-")


# ---- other vendors


def _amd(root: str) -> Found:
    devices = []
    for path in glob.glob(f"{root}sys/class/kfd/kfd/topology/nodes/*/properties"):
        with contextlib.suppress(OSError), open(path) as file:
            properties = dict(line.split() for line in file if len(line.split()) == 2)
            if properties.get("simd_count", "0") != "0":  # CPUs are nodes too
                devices.append(int(properties.get("device_id", "0")))
    return Found(AMD, len(devices), _AMD_MODELS.get(devices[0], "") if devices else "")


def _intel(root: str) -> Found:
    if not any(_vendor_in(path) == _INTEL_VENDOR for path in glob.glob(f"{root}sys/class/drm/card*/device/vendor")):
        return Found(INTEL, 0)  # spares the import
    try:
        import dpctl
    except ImportError:
        return Found(INTEL, 0)
    try:
        devices: list[Any] = dpctl.get_devices(backend="level_zero", device_type="gpu")
    except Exception:  # whatever the driver's library raises: there is none that can be used
        return Found(INTEL, 0)
    return Found(INTEL, len(devices), "Intel-GPU-" + "-".join(devices[0].name.split()[-2:]) if devices else "")


def _vendor_in(path: str) -> str:
    """Returns the PCI vendor in a file of sysfs, such as ``0x8086``; empty if it cannot be read."""
    try:
        with open(path) as file:
            return file.read().strip().lower()
    except (OSError, ValueError):
        return ""


def _neuron_cores(program: str) -> int:
    """Returns how many cores AWS's tool lists."""
    if not os.access(program, os.X_OK):
        return 0
    import subprocess  # few machines need it

    try:
        listed = subprocess.run([program, "--json-output"], capture_output=True, check=True, timeout=30)
        return sum(int(device.get("nc_count", 0)) for device in json.loads(listed.stdout))
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0
