"""A cluster of three nodes with labels, for scenarios about where work runs."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

WAITS_S = 0.5
"""How long a test looks at work that must wait."""


class Zones:
    """A head without CPUs, and a node of one CPU in each of the zones a and b."""

    def __init__(self, ray: ModuleType, cluster: Any, options: dict[str, Any]) -> None:
        self.ray = ray
        self.cluster = cluster
        self.head = cluster.add_node(num_cpus=0, labels={"zone": "head"}).node_id
        self.node_a = cluster.add_node(num_cpus=1, labels={"zone": "a", "disk": "ssd"}, resources={"only_a": 1})
        self.node_b = cluster.add_node(num_cpus=1, labels={"zone": "b"})
        self.a, self.b = self.node_a.node_id, self.node_b.node_id
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, **options)
        self.where = ray.remote(where_am_i(ray))
        self.Place = ray.remote(place_class(ray))


def where_am_i(ray: ModuleType) -> Any:
    def where() -> str:
        return str(ray.get_runtime_context().get_node_id())

    return where


def place_class(ray: ModuleType) -> type:
    class Place:
        def where(self) -> str:
            return str(ray.get_runtime_context().get_node_id())

    return Place


def start(impl: str, ray_module: ModuleType) -> Iterator[Zones]:
    cluster = importlib.import_module(f"{impl}.cluster_utils").Cluster()
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        yield Zones(ray_module, cluster, quiet)
    finally:
        ray_module.shutdown()
        cluster.shutdown()
