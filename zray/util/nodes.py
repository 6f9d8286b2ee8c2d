"""The address and the name of the machine that this process runs on."""

from __future__ import annotations

import os

from zray.system.machine import ip_address

_OUTSIDE = "tcp://8.8.8.8:53"
"""An address that the kernel has to route out of this machine. Nothing is sent to it."""


def get_node_ip_address(address: str = "") -> str:
    """The IP address from which this machine reaches ``address``, or, without one, other machines.

    Args:
        address: "host:port". Nothing is sent to it.

    Returns:
        "127.0.0.1" if the machine has no network.

    Raises:
        ValueError: ``address`` has another form.
    """
    target = address.rpartition("://")[2]
    host, colon, port = target.rpartition(":")
    if address and not (colon and host and port.isdigit()):
        raise ValueError(f"the address must be host:port, got {address!r}")
    return ip_address(f"tcp://{target}" if address else _OUTSIDE) or "127.0.0.1"


def get_node_instance_id() -> str:
    """The name that the cloud has given this machine: the variable ``RAY_CLOUD_INSTANCE_ID``, else an empty string."""
    return os.environ.get("RAY_CLOUD_INSTANCE_ID", "")
