"""Where Ray has what a process knows about its machine."""

from __future__ import annotations

from zray.util.nodes import get_node_instance_id, get_node_ip_address

__all__ = ["get_node_instance_id", "get_node_ip_address"]
