"""Ray's older tables of nodes, actors, jobs and workers, made from ``zray.nodes`` and ``zray.util.state``."""

from __future__ import annotations

from typing import Any

from zray.api.nodes import available_resources, cluster_resources, nodes
from zray.api.placement_groups import placement_group_table
from zray.api.runtime import runtime
from zray.public_ids import JobID, PlacementGroupID
from zray.util import state as tables
from zray.util.nodes import get_node_ip_address
from zray.util.timeline import timeline

__all__ = [
    "GlobalState",
    "actors",
    "available_resources",
    "available_resources_per_node",
    "cluster_resources",
    "current_node_id",
    "jobs",
    "node_ids",
    "nodes",
    "state",
    "timeline",
    "total_resources_per_node",
    "workers",
]

NODE_PREFIX = "node:"
"""What the resource that each host has of itself begins with."""
HEAD = "node:__internal_head__"
LIMIT = 10_000
"""The largest number of records that are listed."""


def current_node_id() -> str:
    """The resource of this process's host, ``node:<ip>``."""
    return NODE_PREFIX + get_node_ip_address()


def node_ids() -> list[str]:
    """The resources ``node:<ip>`` of all hosts. Hosts of one machine have the same one."""
    return [
        name
        for amounts in total_resources_per_node().values()
        for name in amounts
        if name.startswith(NODE_PREFIX) and name != HEAD
    ]


def total_resources_per_node() -> dict[str, dict[str, float]]:
    """What each live host has: amounts by name, by the host's identifier."""
    return {host.host_id.hex(): dict(host.total) for host in runtime().hosts()}


def available_resources_per_node() -> dict[str, dict[str, float]]:
    """What is free on each live host, in the same form. Resources of which nothing is free are left out."""
    return {
        host.host_id.hex(): {name: amount for name, amount in host.free.items() if amount} for host in runtime().hosts()
    }


def actors(
    actor_id: str | None = None, job_id: JobID | None = None, actor_state_name: str | None = None
) -> dict[str, Any]:
    """The actors, by identifier, or one of them.

    Args:
        actor_id: return the record of this actor; empty if there is none.
        job_id: only those of this job.
        actor_state_name: only those in this state, such as "ALIVE".

    Returns:
        Records with Ray's keys: ActorID, ActorClassName, IsDetached, Name, JobID, Address (IPAddress, Port, NodeID),
        State, NumRestarts, Pid. Addresses of owners and times are not known, and left out.
    """
    addresses = {host.host_id.hex(): host.info.ip for host in runtime().hosts()}
    filters: list[tuple[str, str, Any]] = []
    if actor_id is None and job_id is not None:
        filters.append(("job_id", "=", job_id.hex()))
    if actor_id is None and actor_state_name is not None:
        filters.append(("state", "=", actor_state_name))
    found = {
        row.actor_id: {
            "ActorID": row.actor_id,
            "ActorClassName": row.class_name,
            "IsDetached": bool(row.is_detached),
            "Name": row.name or "",
            "JobID": row.job_id,
            "Address": {
                "IPAddress": addresses.get(row.node_id or "", ""),
                "Port": -1,
                "NodeID": row.node_id or "",
            },
            "State": row.state,
            "NumRestarts": row.num_restarts,
            "Pid": row.pid,
        }
        for row in tables.list_actors(filters=filters, limit=LIMIT, detail=True)
    }
    return found if actor_id is None else found.get(actor_id, {})


def jobs() -> list[dict[str, Any]]:
    """The jobs, which are drivers: JobID, IsDead, DriverIPAddress, DriverPid, StartTime and EndTime in milliseconds."""
    return [
        {
            "JobID": row.job_id,
            "IsDead": row.status != "RUNNING",
            "DriverIPAddress": row.driver_info.node_ip_address if row.driver_info is not None else "",
            "DriverPid": int(row.driver_info.pid) if row.driver_info is not None else 0,
            "StartTime": row.start_time,
            "EndTime": row.end_time,
        }
        for row in tables.list_jobs(limit=LIMIT, detail=True)
    ]


def workers() -> dict[str, dict[str, Any]]:
    """The live workers, by identifier: node_ip_address and pid."""
    return {
        row.worker_id: {"node_ip_address": row.ip, "pid": row.pid}
        for row in tables.list_workers(limit=LIMIT)
        if row.is_alive and row.worker_type == "WORKER"
    }


class GlobalState:
    """The tables of this module as methods, under the names of Ray's object ``state``."""

    def node_table(self) -> list[dict[str, Any]]:
        """The same as ``nodes``."""
        return nodes()

    def actor_table(
        self, actor_id: str | None = None, job_id: JobID | None = None, actor_state_name: str | None = None
    ) -> dict[str, Any]:
        """The same as ``actors``."""
        return actors(actor_id, job_id, actor_state_name)

    def job_table(self) -> list[dict[str, Any]]:
        """The same as ``jobs``."""
        return jobs()

    def workers(self) -> dict[str, dict[str, Any]]:
        """The same as the function ``workers``."""
        return workers()

    def placement_group_table(self, placement_group_id: PlacementGroupID | None = None) -> dict[str, Any]:
        """The placement groups, by identifier, or the one with an identifier. Empty if there is none."""
        table = placement_group_table()
        return table if placement_group_id is None else table.get(placement_group_id.hex(), {})

    def cluster_resources(self) -> dict[str, float]:
        """The same as ``zray.cluster_resources``."""
        return cluster_resources()

    def available_resources(self) -> dict[str, float]:
        """The same as ``zray.available_resources``."""
        return available_resources()

    def available_resources_per_node(self) -> dict[str, dict[str, float]]:
        """The same as the function of this name."""
        return available_resources_per_node()

    def total_resources_per_node(self) -> dict[str, dict[str, float]]:
        """The same as the function of this name."""
        return total_resources_per_node()

    def chrome_tracing_dump(self, filename: str | None = None) -> Any:
        """The same as ``zray.timeline``."""
        return timeline(filename)


state = GlobalState()
