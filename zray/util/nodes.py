"""The address and the name of the machine that this process runs on."""

from __future__ import annotations

import os

from zray.api.runtime import runtime
from zray.client import session as sessions
from zray.system.machine import ip_address

_OUTSIDE = "tcp://8.8.8.8:53"
"""An address that the kernel has to route out of this machine. Nothing is sent to it."""


def get_node_ip_address(address: str = "") -> str:
    """The IP address of this process's host, as in ``nodes()`` and in the name of the resource ``node:<ip>``.

    Args:
        address: "host:port": return the address from which this machine reaches it. Nothing is sent to it.

    Returns:
        Outside of a cluster, and on a machine without a host: the address from which this machine reaches other
        machines; "127.0.0.1" if it has no network.

    Raises:
        ValueError: ``address`` has another form.
    """
    target = address.rpartition("://")[2]
    host, colon, port = target.rpartition(":")
    if address and not (colon and host and port.isdigit()):
        raise ValueError(f"the address must be host:port, got {address!r}")
    if not address and (own := _host_address()):
        return own
    return ip_address(f"tcp://{target}" if address else _OUTSIDE) or "127.0.0.1"


def _host_address() -> str:
    """The address of this process's host; empty if it has none."""
    session = sessions.current()
    if session is None:
        return ""
    home = session.stores.find_home()
    return next((host.info.ip for host in runtime().hosts() if host.host_id == home), "")


def get_node_instance_id() -> str:
    """The name that the cloud has given this machine: the variable ``RAY_CLOUD_INSTANCE_ID``, else an empty string."""
    return os.environ.get("RAY_CLOUD_INSTANCE_ID", "")
