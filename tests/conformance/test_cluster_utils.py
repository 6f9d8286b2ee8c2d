"""``cluster_utils.Cluster``: nodes that come and go."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from .helpers import eventually

QUIET = {"log_to_driver": False, "logging_level": "ERROR"}


@pytest.fixture
def cluster_utils(impl: str, ray_module: ModuleType) -> ModuleType:
    return importlib.import_module(f"{impl}.cluster_utils")


@pytest.fixture
def cluster(cluster_utils: ModuleType, ray_module: ModuleType) -> Iterator[Any]:
    cluster = cluster_utils.Cluster()
    yield cluster
    ray_module.shutdown()
    cluster.shutdown()


def live(ray: ModuleType) -> set[str]:
    return {row["NodeID"] for row in ray.nodes() if row["Alive"]}


def test_nodes_come_and_go(cluster, ray_module, impl):
    ray = ray_module
    assert (cluster.head_node, cluster.list_all_nodes(), cluster.address) == (None, [], None)
    head = cluster.add_node(num_cpus=1)
    assert cluster.head_node is head and cluster.address == head.address_info["gcs_address"]
    ray.init(address=cluster.address, **QUIET)
    assert live(ray) == {head.node_id}
    one = cluster.add_node(num_cpus=2, resources={"special": 3}, object_store_memory=100 * 2**20)
    two = cluster.add_node(num_cpus=0, num_gpus=2)
    cluster.wait_for_nodes()
    assert live(ray) == {head.node_id, one.node_id, two.node_id}
    sockets = {row["NodeID"]: row["RayletSocketName"] for row in ray.nodes()}
    assert sockets[one.node_id].endswith(one.raylet_socket_name)
    assert (cluster.worker_nodes, cluster.list_all_nodes()[0]) == ({one, two}, head)
    rows = {row["NodeID"]: row["Resources"] for row in ray.nodes()}
    assert (rows[one.node_id]["CPU"], rows[one.node_id]["special"], rows[two.node_id]["GPU"]) == (2, 3, 2)
    assert rows[one.node_id]["object_store_memory"] == 100 * 2**20
    assert cluster.remaining_processes_alive()
    cluster.remove_node(one)
    cluster.wait_for_nodes()
    assert live(ray) == {head.node_id, two.node_id}
    assert cluster.worker_nodes == {two}


def test_the_driver_is_on_the_head(cluster, ray_module):
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray_module.init(address=cluster.address, **QUIET)
    assert ray_module.get_runtime_context().get_node_id() == nodes[0].node_id
    with pytest.raises(ValueError, match="connected to"):
        cluster.remove_node(nodes[0])
    assert not ray_module.is_initialized()


def test_a_node_that_has_ended_is_listed(cluster, ray_module):
    cluster.add_node(num_cpus=1)
    other = cluster.add_node(num_cpus=1)
    ray_module.init(address=cluster.address, **QUIET)
    cluster.remove_node(other)
    eventually(lambda: other.node_id not in live(ray_module))
    (row,) = (row for row in ray_module.nodes() if row["NodeID"] == other.node_id)
    assert (row["Alive"], row["alive"], row["Resources"]) == (False, False, {}) and row["DeathReasonMessage"]


def test_init_finds_the_cluster(cluster, ray_module):
    head = cluster.add_node(num_cpus=1)
    for arguments in ({}, {"address": "auto"}):
        ray_module.init(**arguments, **QUIET)
        assert live(ray_module) == {head.node_id}
        ray_module.shutdown()


def test_initialize_and_connect(cluster_utils, ray_module):
    with pytest.raises(RuntimeError, match="Cannot connect to uninitialized cluster"):
        cluster_utils.Cluster(connect=True)
    arguments = {"num_cpus": 3, "resources": {"x": 1}}
    cluster = cluster_utils.Cluster(initialize_head=True, connect=True, head_node_args=arguments)
    try:
        assert cluster.connected
        assert ray_module.cluster_resources()["CPU"] == 3
    finally:
        ray_module.shutdown()
        cluster.shutdown()


def test_the_environment_of_a_node(cluster, ray_module):
    ray = ray_module
    cluster.add_node(num_cpus=0)
    cluster.add_node(num_cpus=1, env_vars={"TEST_OF_A_NODE": "yes"})
    ray.init(address=cluster.address, **QUIET)

    @ray.remote
    def read():
        return os.environ.get("TEST_OF_A_NODE")

    assert ray.get(read.remote()) == "yes"


def test_a_task_is_tried_again_when_its_node_is_removed(cluster, ray_module):
    ray = ray_module
    cluster.add_node(num_cpus=0, resources={"head": 1})
    first = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, **QUIET)

    @ray.remote(num_cpus=0, resources={"head": 0.1})
    class Visits:
        def __init__(self):
            self.nodes = []

        def add(self, node):
            self.nodes.append(node)
            return len(self.nodes)

        def count(self):
            return len(self.nodes)

    visits = Visits.remote()

    @ray.remote(max_retries=2)
    def stay():
        node = ray.get_runtime_context().get_node_id()
        if ray.get(visits.add.remote(node)) == 1:
            threading.Event().wait()
        return node

    ref = stay.remote()
    eventually(lambda: ray.get(visits.count.remote()) == 1)
    second = cluster.add_node(num_cpus=1)
    cluster.remove_node(first)
    assert ray.get(ref) == second.node_id


def test_arguments_that_do_not_exist(cluster):
    with pytest.raises(TypeError):
        cluster.add_node(no_such_argument=1)


def test_no_autoscaler(cluster_utils, impl):
    if impl == "ray":
        pytest.skip("Ray has one")
    with pytest.raises(NotImplementedError, match="no autoscaler"):
        cluster_utils.AutoscalingCluster({}, {})


def test_a_host_is_killed_by_its_record_or_by_a_killer(cluster, ray_module, impl):
    if impl == "ray":
        pytest.skip("Ray's killers need grpcio, which an installation without extras does not have")
    ray = ray_module
    helpers = importlib.import_module(f"{impl}._private.test_utils")
    head = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, **QUIET)
    others = {cluster.add_node(num_cpus=1).node_id for _ in range(3)}
    cluster.wait_for_nodes()
    rows = {row["NodeID"]: row for row in ray.nodes()}
    first = others.pop()
    helpers.kill_raylet(rows[first])
    eventually(lambda: live(ray) == {head.node_id, *others})
    with pytest.raises(ValueError, match=first):
        helpers.kill_raylet(rows[first])
    killer = helpers.get_and_run_resource_killer(helpers.RayletKiller, 0.1, max_to_kill=1)
    (victim,) = ray.get(killer.get_killed_nodes.remote(), timeout=30)
    assert victim[0] in others
    eventually(lambda: live(ray) == {head.node_id, *others} - {victim[0]})
