"""Which accelerators the code of a worker sees."""

from __future__ import annotations

import os

import pytest

from zray.accelerators import AMD, FAMILIES, INTEL, NVIDIA, Family
from zray.worker.process.devices import Devices

BOUNDS = ("TPU_CHIPS_PER_HOST_BOUNDS", "TPU_HOST_BOUNDS")


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without variables of accelerators, which the test may change."""
    for family in (*FAMILIES.values(), AMD, INTEL):
        for name in (family.variable, family.noset):
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
    for name in BOUNDS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize("family", [NVIDIA, AMD, INTEL])
def test_the_variable_of_the_vendor_is_set(family: Family) -> None:
    devices = Devices(family)
    devices.show("GPU", [1, 3])
    assert os.environ[family.variable] == "1,3"
    assert devices.names("GPU", [1, 3]) == (1, 3)
    devices.show("", [])
    assert family.variable not in os.environ


def test_names_of_the_host_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "5,GPU-6,7")
    devices = Devices(AMD)
    devices.show("GPU", [1])
    assert os.environ["HIP_VISIBLE_DEVICES"] == "GPU-6"
    assert devices.names("GPU", [0, 2]) == ("5", "7")
    devices.show("", [])
    assert os.environ["HIP_VISIBLE_DEVICES"] == "5,GPU-6,7"


def test_fewer_than_the_host_has_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert Devices(NVIDIA).names("GPU", [2]) == ("5",)


def test_another_family_hides_nothing_of_the_first() -> None:
    devices = Devices(NVIDIA)
    devices.show("GPU", [0])
    devices.show("NPU", [0])
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert os.environ["ASCEND_RT_VISIBLE_DEVICES"] == "0"


def test_parts_of_a_host_of_tpus_have_a_shape() -> None:
    devices = Devices(NVIDIA)
    for chips, bounds in (([0], "1,1,1"), ([0, 1], "1,2,1")):
        devices.show("TPU", chips)
        assert [os.environ.get(name) for name in BOUNDS] == [bounds, "1,1,1"]
    devices.show("TPU", [0, 1, 2, 3])
    assert os.environ["TPU_VISIBLE_CHIPS"] == "0,1,2,3"
    assert [os.environ.get(name) for name in BOUNDS] == [None, None]


@pytest.mark.parametrize(("value", "is_set"), [("1", False), ("true", False), ("0", True), ("", True)])
def test_a_user_may_forbid_it(monkeypatch: pytest.MonkeyPatch, value: str, is_set: bool) -> None:
    monkeypatch.setenv("RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES", value)
    Devices(NVIDIA).show("GPU", [1])
    assert ("CUDA_VISIBLE_DEVICES" in os.environ) is is_set
