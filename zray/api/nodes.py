"""Questions to a cluster about its hosts and their resources."""

from __future__ import annotations

from typing import Any

from zray.api import runtime as runtimes
from zray.protocol.records import HostInfo, HostState
from zray.protocol.state_questions import HostRecord


def nodes() -> list[dict[str, Any]]:
    """The hosts: those that live, and the last 2,000 that are gone.

    Returns:
        A dictionary for each host, with Ray's keys: NodeID (hexadecimal), Alive, NodeManagerHostname,
        NodeManagerAddress (IP address by which the host reaches the broker), NodeName (the same),
        ObjectStoreSocketName (the path of its store), RayletSocketName (the path of its socket), Resources (amounts by
        name; memory in bytes; none if it is gone), Labels, DeathReason (0 if it lives, 1 if it has ended in order, else
        2), DeathReasonMessage. Ports are -1: hosts have none of Ray's.

    Raises:
        ClusterUnavailableError: the broker is gone.
    """
    living = [_row_of(host) for host in runtimes.runtime().hosts()]
    ended = [_row_of_ended(host) for host in runtimes.runtime().ended_hosts()]
    gone = {row["NodeID"] for row in ended}  # one of them may have died between the two questions
    return [row for row in living if row["NodeID"] not in gone] + ended


def _row_of(host: HostState) -> dict[str, Any]:
    return {
        "NodeID": host.host_id.hex(),
        "Alive": True,
        "NodeManagerAddress": host.info.ip,
        "NodeManagerHostname": host.info.hostname,
        "NodeManagerPort": -1,
        "ObjectManagerPort": -1,
        "ObjectStoreSocketName": host.info.store,
        "RayletSocketName": host.info.fetch,
        "MetricsExportPort": -1,
        "MetricsAgentPort": -1,
        "DashboardAgentListenPort": -1,
        "NodeName": host.info.ip,
        "RuntimeEnvAgentPort": -1,
        "DeathReason": 0,
        "DeathReasonMessage": "",
        "alive": True,
        "Resources": host.total,
        "Labels": host.info.labels,
    }


def _row_of_ended(host: HostRecord) -> dict[str, Any]:
    info = HostInfo(hostname=host.hostname, ip=host.ip, labels=host.labels)
    return {
        **_row_of(HostState(host.host_id, info, {}, {}, 0)),
        "Alive": False,
        "alive": False,
        "DeathReason": 1 if host.in_order else 2,
        "DeathReasonMessage": host.reason,
    }


def cluster_resources() -> dict[str, float]:
    """The resources of all hosts together: amounts by name; memory in bytes.

    Raises:
        ClusterUnavailableError: the broker is gone.
    """
    total: dict[str, float] = runtimes.runtime().resources(free=False)
    return total


def available_resources() -> dict[str, float]:
    """The resources of all hosts together that are not in use at the moment: amounts by name; memory in bytes.

    Raises:
        ClusterUnavailableError: the broker is gone.
    """
    free: dict[str, float] = runtimes.runtime().resources(free=True)
    return free
