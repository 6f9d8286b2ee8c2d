"""Accelerators: which ones a machine has, and what its host offers of them."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from zray.accelerators import AMD, FAMILIES, INTEL, NVIDIA, accelerator_in, fault_of, fault_of_amount, visible_ids
from zray.exceptions import ConfigError
from zray.system import accelerators
from zray.system.accelerators import Found, find_gpus, find_others, nvidia_kind, offered, tpu_kind, vendor_of
from zray.system.machine import host_labels, host_resources


@pytest.mark.parametrize(
    ("variable", "names"),
    [
        (None, None),
        ("", []),
        ("0", ["0"]),
        ("5, 6,7", ["5", "6", "7"]),
        ("GPU-8932f937,GPU-1", ["GPU-8932f937", "GPU-1"]),
        ("1,-1,2", ["1"]),
        ("NoDevFiles", []),
    ],
)
def test_which_are_visible(variable: str | None, names: list[str] | None) -> None:
    assert visible_ids(variable) == names


# ---------------------------------------------------------------------- what a machine has


def machine(tmp_path: Path, files: dict[str, str]) -> str:
    """Writes files of a machine. Returns its root."""
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return f"{tmp_path}/"


class FakeNvml(types.ModuleType):
    """The module of nvidia-ml-py."""

    class NVMLError(Exception):
        """As in the real module."""

    def __init__(self, names: list[Any], fails: str = "") -> None:
        super().__init__("pynvml")
        self.calls: list[str] = []
        self._names = names
        self._fails = fails

    def _do(self, name: str, result: Any = None) -> Any:
        self.calls.append(name)
        if name == self._fails:
            raise self.NVMLError(name)
        return result

    def nvmlInit(self) -> None:
        self._do("init")

    def nvmlShutdown(self) -> None:
        self._do("shutdown")

    def nvmlDeviceGetCount(self) -> int:
        return int(self._do("count", len(self._names)))

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> Any:
        return self._do("name", self._names[handle])


DRIVER = {f"proc/driver/nvidia/gpus/0000:0{bus}:00.0/information": "Model: \t NVIDIA H200\nIRQ: 5\n" for bus in "123"}


@pytest.mark.parametrize("name", ["NVIDIA A100-SXM4-40GB", b"NVIDIA A100-SXM4-40GB"])
def test_nvml_counts_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    nvml = FakeNvml([name, name])
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert find_gpus(machine(tmp_path, DRIVER)) == Found(NVIDIA, 2, "A100")
    assert nvml.calls == ["init", "count", "name", "shutdown"]


@pytest.mark.parametrize(
    ("fails", "calls"),
    [("init", ["init"]), ("count", ["init", "count", "shutdown"]), ("name", ["init", "count", "name", "shutdown"])],
)
def test_nvml_that_fails_finds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, calls: list[str]
) -> None:
    nvml = FakeNvml(["NVIDIA H100"], fails)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert find_gpus(machine(tmp_path, DRIVER)).n == 0
    assert nvml.calls == calls


def test_without_nvml_the_driver_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert find_gpus(machine(tmp_path, DRIVER)) == Found(NVIDIA, 3, "H200")


def test_without_a_driver_nvml_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(["NVIDIA H100"])
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert find_gpus(f"{tmp_path}/") == Found(NVIDIA, 0)
    assert nvml.calls == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
        ("NVIDIA GeForce RTX 5090", "GeForce-RTX-5090"),
        ("NVIDIA L4", "L4"),
        ("", ""),
    ],
)
def test_types_of_nvidia(name: str, kind: str) -> None:
    assert nvidia_kind(name) == kind


def test_gpus_of_amd(tmp_path: Path) -> None:
    nodes = "sys/class/kfd/kfd/topology/nodes"
    files = {
        f"{nodes}/0/properties": "cpu_cores_count 64\nsimd_count 0\ndevice_id 0\n",
        f"{nodes}/1/properties": "cpu_cores_count 0\nsimd_count 440\ndevice_id 29711\n",
        f"{nodes}/2/properties": "cpu_cores_count 0\nsimd_count 440\ndevice_id 29711\n",
    }
    assert find_gpus(machine(tmp_path, files)) == Found(AMD, 2, "AMD-Instinct-MI210")


class FakeDpctl(types.ModuleType):
    """Intel's module."""

    def __init__(self, names: list[str]) -> None:
        super().__init__("dpctl")
        self._names = names

    def get_devices(self, backend: str, device_type: str) -> list[Any]:
        if not self._names:
            raise RuntimeError("no runtime")
        return [types.SimpleNamespace(name=name) for name in self._names]


INTEL_CARD = {"sys/class/drm/card0/device/vendor": "0x8086\n"}


def test_gpus_of_intel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(tmp_path, INTEL_CARD)
    monkeypatch.setitem(sys.modules, "dpctl", FakeDpctl(["Intel(R) Data Center GPU Max 1550"] * 2))
    assert find_gpus(root) == Found(INTEL, 2, "Intel-GPU-Max-1550")
    for absent in (FakeDpctl([]), None):
        monkeypatch.setitem(sys.modules, "dpctl", absent)
        assert find_gpus(root).n == 0


def test_other_families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v4-16")
    files = {"dev/accel0": "", "dev/accel1": "", "dev/davinci0": "", "dev/davinci_manager": ""}
    root = machine(tmp_path, files)
    listing = tmp_path / "opt/aws/neuron/bin/neuron-ls"
    listing.parent.mkdir(parents=True)
    listing.write_text('#!/bin/sh\necho \'[{"nc_count": 2}, {"nc_count": 2}]\'\n')
    listing.chmod(0o755)
    assert list(find_others(root)) == [
        Found(FAMILIES["TPU"], 2, "TPU-V4"),
        Found(FAMILIES["neuron_cores"], 4, "aws-neuron-core"),
        Found(FAMILIES["NPU"], 1),
    ]


def test_tpus_that_vfio_gives_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v6e-4")
    groups = "sys/kernel/iommu_groups"
    files = {
        **{f"dev/vfio/{name}": "" for name in ("0", "1", "2", "96", "vfio")},
        f"{groups}/0/devices/0000:00:04.0/vendor": "0x1AE0\n",
        f"{groups}/1/devices/0000:00:05.0/vendor": "0x1ae0\n",
        f"{groups}/96/devices/0000:60:00.0/vendor": "0x15b3\n",
        f"{groups}/3/devices/0000:00:06.0/vendor": "0x1ae0\n",  # given to no program
    }
    assert list(find_others(machine(tmp_path, files))) == [Found(FAMILIES["TPU"], 2, "TPU-V6E")]


def test_a_directory_is_no_tpu(tmp_path: Path) -> None:
    (tmp_path / "dev/accel0").mkdir(parents=True)
    assert list(find_others(f"{tmp_path}/")) == []


def test_a_tool_that_fails_finds_nothing(tmp_path: Path) -> None:
    listing = tmp_path / "opt/aws/neuron/bin/neuron-ls"
    listing.parent.mkdir(parents=True)
    listing.write_text("#!/bin/sh\nexit 3\n")
    listing.chmod(0o755)
    assert list(find_others(f"{tmp_path}/")) == []


@pytest.mark.parametrize(
    ("said", "kind"),
    [("v4-16", "TPU-V4"), ("v5litepod-8", "TPU-V5LITEPOD"), ("tpu7x-4", "TPU-V7X"), ("", ""), ("x", "")],
)
def test_types_of_tpus(said: str, kind: str) -> None:
    assert tpu_kind(said) == kind


# ---------------------------------------------------------------------- what a host offers


@pytest.fixture
def finds(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is found: two GPUs of AMD, four TPUs. Tests change it."""
    found: dict[str, Any] = {
        "gpus": Found(AMD, 2, "AMD-Instinct-MI210"),
        "others": [Found(FAMILIES["TPU"], 4, "TPU-V4")],
    }
    monkeypatch.setattr(accelerators, "find_gpus", lambda: found["gpus"])
    monkeypatch.setattr(accelerators, "find_others", lambda: iter(found["others"]))
    return found


def test_what_is_found_is_offered(finds: dict[str, Any]) -> None:
    types_of = {"accelerator_type:AMD-Instinct-MI210": 1.0, "accelerator_type:TPU-V4": 1.0}
    assert offered(None, {}, {}) == {"GPU": 2, "TPU": 4, **types_of}
    visible = {"HIP_VISIBLE_DEVICES": "1", "TPU_VISIBLE_CHIPS": "0,1,2,3,4"}
    assert offered(None, {}, visible) == {"GPU": 1, "TPU": 4, **types_of}


def test_what_is_given_goes_before_what_is_found(finds: dict[str, Any]) -> None:
    assert offered(0, {"TPU": 0}, {}) == {}
    assert offered(1, {"TPU": 2}, {}) == {
        "GPU": 1,
        "accelerator_type:AMD-Instinct-MI210": 1.0,
        "accelerator_type:TPU-V4": 1.0,
    }


def test_more_than_are_visible(finds: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"num_gpus=2, but HIP_VISIBLE_DEVICES='1' shows only 1 GPU\(s\)"):
        offered(2, {}, {"HIP_VISIBLE_DEVICES": "1"})
    with pytest.raises(ConfigError, match=r"NPU=2, but ASCEND_RT_VISIBLE_DEVICES='1' shows only 1 NPU\(s\)"):
        offered(0, {"NPU": 2}, {"ASCEND_RT_VISIBLE_DEVICES": "1"})
    finds["gpus"] = Found(NVIDIA, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")
    assert host_resources(1, 3, 1, {})["GPU"] == 30_000
    with pytest.raises(ConfigError, match=r"num_gpus=4, but CUDA_VISIBLE_DEVICES='5,6,7' shows only 3 GPU\(s\)"):
        host_resources(1, 4, 1, {})


def test_a_part_of_an_accelerator_is_no_host_s(finds: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="a whole number of TPU"):
        offered(0, {"TPU": 1.5}, {})


@pytest.mark.parametrize(
    ("resources", "environ", "family"),
    [
        ([], {}, NVIDIA),
        (["accelerator_type:AMD-Instinct-MI210"], {"CUDA_VISIBLE_DEVICES": "0"}, AMD),
        (["accelerator_type:Intel-GPU-Max-1550"], {}, INTEL),
        (["accelerator_type:A100"], {"CUDA_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "0"}, NVIDIA),
        ([], {"HIP_VISIBLE_DEVICES": "0"}, AMD),
        ([], {"ZE_AFFINITY_MASK": "0"}, INTEL),
    ],
)
def test_vendor_of_a_host(resources: list[str], environ: dict[str, str], family: Any) -> None:
    assert vendor_of(resources, environ) is family


def test_the_type_is_a_label() -> None:
    resources = ["CPU", "accelerator_type:H200"]
    assert host_labels(b"", {}, {}, resources)["ray.io/accelerator-type"] == "H200"
    assert host_labels(b"", {"ray.io/accelerator-type": "mine"}, {}, resources)["ray.io/accelerator-type"] == "mine"
    assert "ray.io/accelerator-type" not in host_labels(b"", {}, {}, ["CPU"])


# ---------------------------------------------------------------------- what work asks for


def test_one_family_at_a_time() -> None:
    assert accelerator_in({"CPU": 1, "HPU": 2}) == "HPU"
    assert accelerator_in({"CPU": 1}) == ""
    assert fault_of(["CPU", "TPU"]) == ""
    assert "different families" in fault_of(["GPU", "TPU"])


@pytest.mark.parametrize(
    ("name", "amount", "is_right"),
    [
        ("GPU", 0.5, True),
        ("GPU", 2, True),
        ("GPU", 1.5, False),
        ("NPU", 0.5, True),
        ("neuron_cores", 0.5, False),
        ("neuron_cores", 4, True),
        ("other", 1.5, True),
    ],
)
def test_amounts(name: str, amount: float, is_right: bool) -> None:
    assert (fault_of_amount(name, amount) == "") is is_right
