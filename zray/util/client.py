"""Ray's client for clusters that are reached through a server. zray has no such server: a driver joins directly.

Libraries ask ``ray.util.client.ray.is_connected()`` whether they run under it. Here they never do.
"""

from __future__ import annotations

from typing import Any

from zray.util.client_connect import connect, disconnect

__all__ = ["RayAPIStub", "num_connected_contexts", "ray"]


class RayAPIStub:
    """Stands where Ray has the functions of its client."""

    def is_connected(self) -> bool:
        """False: this process is a driver, even if it joined with ``ray://``."""
        return False

    def is_default(self) -> bool:
        """Whether there is one connection at most, which is so."""
        return True

    def connect(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Joins a cluster, see ``ray.util.connect``. Deprecated."""
        return connect(*args, **kwargs)

    def disconnect(self) -> None:
        """Leaves the cluster. Deprecated."""
        disconnect()


ray = RayAPIStub()


def num_connected_contexts() -> int:
    """The number of connections through a server, which is 0."""
    return 0
