"""The resources of this machine."""

from __future__ import annotations

from zray.system.machine import host_labels, ip_address


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
