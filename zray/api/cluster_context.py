"""What ``init`` returns."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray.system.machine import machine_id
from zray.version import RAY_COMMIT, RAY_VERSION

if TYPE_CHECKING:
    from zray.client.session import Session
    from zray.protocol.records import HostState


class Context(dict[str, Any]):
    """Facts about the cluster by name, under Ray's names where Ray has them, and Ray's attributes.

    It is also a context manager that calls ``zray.shutdown()`` at its end.
    """

    dashboard_url = ""
    """Empty: there is no dashboard yet."""
    python_version = f"{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]}"
    """The version of Python, which is the same in the whole cluster up to the last number."""
    ray_version = RAY_VERSION
    """The version of Ray whose interface zray has."""
    ray_commit = RAY_COMMIT
    """A text in the place of Ray's commit."""

    _num_clients = 1
    """Ray's number of clients of one server. Here each driver is on its own."""

    def __init__(self, end: Callable[[], None], **facts: Any) -> None:
        super().__init__(**facts)
        self._end = end

    @property
    def address_info(self) -> dict[str, Any]:
        """The same, as a plain dictionary."""
        return dict(self)

    def __repr__(self) -> str:
        shown = ("dashboard_url", "python_version", "ray_version", "ray_commit")
        facts = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"Context({facts}, address={self.get('address')!r})"

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Calls ``zray.shutdown()``."""
        self._end()


def context_of(session: Session, hosts: list[HostState], end: Callable[[], None]) -> Context:
    """Returns what ``init`` returns. ``hosts``: of the cluster; the one on this machine, else the first, is described.

    ``end``: ``zray.shutdown``.

    ``session_dir`` is None if the host is on another machine.

    Ray's addresses of processes that zray does not have are None, and their ports -1.
    """
    home = session.stores.home
    info = next((host.info for host in hosts if host.host_id == home), hosts[0].info if hosts else None)
    return Context(
        end,
        node_ip_address=info.ip if info is not None else "",
        redis_address=None,
        object_store_address=info.store if info is not None else None,
        raylet_socket_name=info.fetch if info is not None else None,
        webui_url="",
        session_dir=os.path.dirname(info.fetch) if info is not None and info.machine_id == machine_id() else None,
        metrics_export_port=-1,
        gcs_address=session.address,
        address=session.address,
        dashboard_agent_listen_port=-1,
        node_id=home.hex(),
        namespace=session.namespace,
        job_id=session.current_job().hex(),
    )
