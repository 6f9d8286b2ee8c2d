"""The resources of this machine."""

from __future__ import annotations

import pytest

from zray.exceptions import ConfigError
from zray.system.machine import GPU_VARIABLE, gpu_count, host_labels, host_resources, ip_address, visible_gpus


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
def test_which_gpus_are_visible(variable, names):
    assert visible_gpus(variable) == names


def test_gpus_are_found(tmp_path, monkeypatch):
    monkeypatch.delenv(GPU_VARIABLE, raising=False)
    assert gpu_count(str(tmp_path / "none")) == 0
    for bus in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (tmp_path / bus).mkdir()
    assert gpu_count(str(tmp_path)) == 3
    monkeypatch.setenv(GPU_VARIABLE, "5,6")
    assert gpu_count(str(tmp_path)) == 2
    monkeypatch.setenv(GPU_VARIABLE, "0,1,2,3")
    assert gpu_count(str(tmp_path)) == 3


def test_more_gpus_than_are_visible(monkeypatch):
    monkeypatch.setenv(GPU_VARIABLE, "5,6,7")
    assert host_resources(1, 3, 1, {})["GPU"] == 30_000
    with pytest.raises(ConfigError, match=r"num_gpus=4, but CUDA_VISIBLE_DEVICES='5,6,7' shows only 3 GPU\(s\)"):
        host_resources(1, 4, 1, {})
    monkeypatch.delenv(GPU_VARIABLE)
    assert host_resources(1, 4, 1, {})["GPU"] == 40_000


def test_the_address_that_reaches_a_broker():
    assert ip_address("tcp://127.0.0.1:6380") == "127.0.0.1"
    assert ip_address("tcp://no-such-name.invalid:6380") == ""


def test_labels_of_a_host():
    environ = {"RAY_NODE_MARKET_TYPE": "spot", "RAY_NODE_ZONE": "z1", "RAY_NODE_REGION": "", "OTHER": "x"}
    given = {"ray.io/availability-zone": "z2", "disk": "ssd", "ray.io/node-id": "mine"}
    assert host_labels(b"\x01" * 16, given, environ) == {
        "ray.io/market-type": "spot",
        "ray.io/availability-zone": "z2",
        "disk": "ssd",
        "ray.io/node-id": "01" * 16,
    }
