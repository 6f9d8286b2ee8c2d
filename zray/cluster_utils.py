"""Ray's ``ray.cluster_utils``: a cluster of several hosts on this machine, for tests of programs.

Each node is a real host: a process with its own workers, object store and identifier. The first node has the broker,
too. All nodes end when this process ends, however that happens.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import zray
from zray.api.system_config import settings_of
from zray.client import session as sessions
from zray.client.observer import ask_broker
from zray.config import Config
from zray.config.reading import from_environment
from zray.exceptions import ClusterUnavailableError
from zray.local_cluster.launch import LocalCluster
from zray.protocol.questions import HostList, HostsQuery
from zray.scheduling.labels import check_labels
from zray.sessions.directories import SessionPaths, new_session, remove_session, runtime_root
from zray.system.machine import host_resources
from zray.system.processes import kill_session

DEFAULT_STORE_BYTES = 150 * 2**20
"""The capacity of a node's object store, unless it is given."""
WAIT_S = 30.0
POLL_S = 0.02
ADDRESS_VARIABLE = "ZRAY_ADDRESS"
"""Leads ``zray.init()`` and ``zray.init(address="auto")`` to the cluster, here and in child processes."""

cluster_not_supported = False

_WITHOUT_MEANING = frozenset((
    "autoscaling_config", "cluster_id", "dashboard_agent_listen_port", "dashboard_host", "dashboard_port",
    "enable_object_reconstruction", "external_addresses", "gcs_address", "gcs_server_port", "huge_pages",
    "include_dashboard", "include_log_monitor", "log_to_stderr", "max_worker_port", "metrics_agent_port",
    "metrics_export_port", "min_worker_port", "no_monitor", "node_id", "node_ip_address", "node_manager_port",
    "node_name", "num_redis_shards", "object_manager_port", "object_spilling_directory", "plasma_directory",
    "plasma_store_socket_name", "proxy_server_url", "ray_client_server_port", "ray_debugger_external",
    "raylet_socket_name", "redirect_output", "redis_address", "redis_max_clients", "redis_password", "redis_port",
    "redis_shard_ports", "redis_username", "resource_isolation_config", "runtime_env_agent_port",
    "runtime_env_dir_name", "session_name", "setup_worker_path", "temp_dir", "tracing_startup_hook", "webui",
    "worker_path", "worker_port_list",
))  # fmt: skip
"""Arguments of a node that are about parts of Ray which zray does not have."""


class Node:
    """One host of a ``Cluster``. Made by ``Cluster.add_node``."""

    def __init__(self, process: LocalCluster, paths: SessionPaths, address: str, head: bool) -> None:
        self._process = process
        self._paths = paths
        self.address = address
        """The broker's address."""
        self.head = head
        self.node_id = process.host_id.hex()
        """Its identifier, as in ``zray.nodes()``."""

    @property
    def unique_id(self) -> str:
        """The same as ``node_id``."""
        return self.node_id

    @property
    def gcs_address(self) -> str:
        """The same as ``address``."""
        return self.address

    @property
    def node_ip_address(self) -> str:
        """The address of this machine, as nodes announce it."""
        return "127.0.0.1"

    @property
    def address_info(self) -> dict[str, Any]:
        """What the node can tell of itself, with Ray's keys."""
        return {
            "node_ip_address": self.node_ip_address,
            "address": self.address,
            "gcs_address": self.address,
            "node_id": self.node_id,
            "session_dir": self._paths.directory,
            "webui_url": "",
        }

    @property
    def raylet_socket_name(self) -> str:
        """The path of its socket, as in ``zray.nodes()``."""
        return self._paths.fetch_socket

    @property
    def session_name(self) -> str:
        """The name of its session on this machine. Each node has one of its own."""
        return self._paths.name

    def get_session_dir_path(self) -> str:
        """The directory of the node's session."""
        return self._paths.directory

    def get_logs_dir_path(self) -> str:
        """The directory of its logs."""
        return self._paths.logs

    def is_head(self) -> bool:
        """Whether it has the broker."""
        return self.head

    def any_processes_alive(self) -> bool:
        """Whether the node runs."""
        return self._process.is_running()

    def remaining_processes_alive(self) -> bool:
        """Whether the node runs."""
        return self._process.is_running()

    def kill_raylet(self, check_alive: bool = True) -> None:
        """Kills the node's processes, as when the machine fails.

        Raises:
            RuntimeError: the node has ended already, and ``check_alive`` is true.
        """
        if check_alive and not self._process.is_running():
            raise RuntimeError(f"node {self.node_id} has ended already")
        self._end(graceful=False)

    def kill_all_processes(self, check_alive: bool = True, allow_graceful: bool = False, wait: bool = False) -> None:
        """Ends the node, and waits for its end. ``wait`` has no meaning.

        Raises:
            RuntimeError: the node has ended already, and ``check_alive`` is true.
        """
        if check_alive and not self._process.is_running():
            raise RuntimeError(f"node {self.node_id} has ended already")
        self._end(allow_graceful)

    def _end(self, graceful: bool) -> None:
        if self._process.is_running() and not graceful:
            self._process.kill()
        if self._process.end() != 0:  # what cleans up after the host may have been killed too
            kill_session(self._paths.name)
        remove_session(self._paths)

    def __repr__(self) -> str:
        return f"Node({self.node_id}{', head' if self.head else ''})"


class Cluster:
    """Hosts on this machine that form one cluster.

    Args:
        initialize_head: start the first node, with ``head_node_args``.
        connect: call ``zray.init`` with the cluster's address.
        head_node_args: arguments of ``add_node`` for the first node.
        shutdown_at_exit: end the nodes in order when the program ends. Otherwise they notice its end by themselves.

    Raises:
        RuntimeError: ``connect`` without ``initialize_head``.
    """

    def __init__(
        self,
        initialize_head: bool = False,
        connect: bool = False,
        head_node_args: dict[str, Any] | None = None,
        shutdown_at_exit: bool = True,
    ) -> None:
        self.head_node: Node | None = None
        """The first node; None before it is added and after it is removed."""
        self.worker_nodes: set[Node] = set()
        self.connected = False
        self.redis_address: str | None = None
        self.webui_url = ""
        self._config = from_environment()
        self._variable_before: str | None = None
        if connect and not initialize_head:
            raise RuntimeError("Cannot connect to uninitialized cluster: set initialize_head=True too")
        if shutdown_at_exit:
            atexit.register(self.shutdown)
        if initialize_head:
            self.add_node(**(head_node_args or {}))
        if connect:
            self.connect()

    @property
    def address(self) -> str | None:
        """The broker's address, for ``zray.init(address=...)``; None without a first node."""
        return None if self.head_node is None else self.head_node.address

    @property
    def gcs_address(self) -> str | None:
        """The same as ``address``."""
        return self.address

    def connect(self, namespace: str | None = None) -> None:
        """Connects this process to the cluster, with ``zray.init``.

        Raises:
            RuntimeError: there is no first node, or this was called already.
        """
        if self.address is None or self.connected:
            raise RuntimeError("connect() needs a cluster with a node, and may be called once")
        zray.init(address=self.address, namespace=namespace, ignore_reinit_error=True)
        self.connected = True

    def add_node(
        self,
        wait: bool = True,
        *,
        num_cpus: float = 1,
        num_gpus: float = 0,
        memory: float | None = None,
        object_store_memory: int | None = None,
        resources: dict[str, float] | None = None,
        labels: dict[str, str] | None = None,
        env_vars: Mapping[str, str] | None = None,
        **others: Any,
    ) -> Node:
        """Starts a node and waits until the cluster knows it. The first one becomes the head.

        Args:
            wait: has no meaning: the node is always part of the cluster when this returns.
            num_cpus: CPUs that it offers.
            num_gpus: GPUs that it offers. They need not exist.
            memory: bytes that it offers to tasks; default: 70% of the machine's memory.
            object_store_memory: capacity of its object store in bytes; default: 150 MiB.
            resources: amounts of other resources, by name.
            labels: its labels, values by key.
            env_vars: variables of the environment of its processes.
            others: Ray's other arguments of a node. Of ``_system_config``, what ``init`` takes of it has a meaning for
                this node; the rest has none.

        Raises:
            SystemFailure: the node could not start.
            TypeError: Ray does not have such an argument, or ``labels`` is no dictionary of strings.
            ValueError: a label does not follow the syntax.
        """
        _accept(others)
        settings = settings_of(others.get("_system_config"))
        config = dataclasses.replace(self._config, labels=check_labels(labels or {}), **settings)
        amounts = host_resources(num_cpus, num_gpus, memory, resources)
        store_bytes = DEFAULT_STORE_BYTES if object_store_memory is None else object_store_memory
        environ = {**os.environ, **(env_vars or {})}
        node = _start(amounts, store_bytes, config, self.address or "", environ)
        if self.head_node is None:
            self.head_node = node
            self._variable_before = os.environ.get(ADDRESS_VARIABLE)
            os.environ[ADDRESS_VARIABLE] = node.address
        else:
            self.worker_nodes.add(node)
        return node

    def remove_node(self, node: Node, allow_graceful: bool = True) -> None:
        """Ends a node and all its processes. Without the head, the other nodes end, too.

        Args:
            node: a node of this cluster.
            allow_graceful: let the node say goodbye. Otherwise it is killed, as when its machine fails, and the cluster
                takes some seconds to notice.

        Raises:
            ValueError: this process is connected to this node. It is disconnected then, and the node stays.
        """
        session = sessions.current()
        if session is not None and session.stores.home.hex() == node.node_id:
            zray.shutdown()
            self.connected = False
            raise ValueError(
                f"{node!r} cannot be removed, since this process is connected to it: remove another node, or call "
                f"zray.shutdown() first"
            )
        self._remove(node, allow_graceful)

    def _remove(self, node: Node, graceful: bool) -> None:
        node._end(graceful)
        if node is self.head_node:
            self.head_node = None
            self._forget_address(node.address)
            return
        self.worker_nodes.discard(node)
        if graceful and self.address is not None:
            with contextlib.suppress(ClusterUnavailableError):  # the head has died
                self._wait_until(lambda live: node.node_id not in live, WAIT_S)

    def _forget_address(self, address: str) -> None:
        if os.environ.get(ADDRESS_VARIABLE) != address:
            return
        if self._variable_before is None:
            del os.environ[ADDRESS_VARIABLE]
        else:
            os.environ[ADDRESS_VARIABLE] = self._variable_before

    def wait_for_nodes(self, timeout: float = WAIT_S) -> None:
        """Waits until the cluster has as many live nodes as were added and not removed.

        Raises:
            TimeoutError: it had another number for ``timeout`` seconds: for instance, a node has died.
            ClusterUnavailableError: there is no head, or it has died.
        """
        expected = len(self.list_all_nodes())
        if not self._wait_until(lambda live: len(live) == expected, timeout):
            raise TimeoutError(f"the cluster does not have the {expected} nodes that were added, after {timeout:g} s")

    def _wait_until(self, holds: Any, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not holds(self._live_nodes()):
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def _live_nodes(self) -> set[str]:
        if self.address is None:
            raise ClusterUnavailableError("the cluster has no head: add a node")
        found: HostList = ask_broker(self.address, HostsQuery, self._config)
        return {host.host_id.hex() for host in found.hosts}

    def list_all_nodes(self) -> list[Node]:
        """All nodes, the head first."""
        return ([] if self.head_node is None else [self.head_node]) + list(self.worker_nodes)

    def remaining_processes_alive(self) -> bool:
        """Whether all nodes run."""
        return all(node.remaining_processes_alive() for node in self.list_all_nodes())

    def shutdown(self) -> None:
        """Ends all nodes. Disconnects this process first, if it is connected to them. May be called again."""
        atexit.unregister(self.shutdown)
        session = sessions.current()
        if session is not None and session.address == self.address:
            zray.shutdown()
        self.connected = False
        for node in self.list_all_nodes()[::-1]:
            self._remove(node, graceful=True)


class AutoscalingCluster:
    """Ray's cluster that starts nodes by itself, as tasks ask for them. zray has no autoscaler.

    Raises:
        NotImplementedError: always.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            "AutoscalingCluster: zray has no autoscaler. Use zray.cluster_utils.Cluster, and call add_node() for each "
            "node"
        )


def _accept(others: Mapping[str, Any]) -> None:
    """Notes arguments without meaning. Raises TypeError for those that Ray does not have."""
    unknown = [name for name in others if name not in _WITHOUT_MEANING and not name.startswith("_")]
    if unknown:
        raise TypeError(f"Cluster.add_node() does not know {', '.join(sorted(unknown))}; see help(Cluster.add_node)")
    if others:
        import logging

        names = ", ".join(sorted(others))
        logging.getLogger("zray").debug("Cluster.add_node: %s: no meaning in zray", names)


def _start(amounts: dict[str, int], store_bytes: int, config: Config, broker: str, environ: Mapping[str, str]) -> Node:
    paths, lock = new_session(runtime_root(config.tmpdir))
    process = None
    try:
        with contextlib.closing(lock):  # from here on the subprocess holds it
            process = LocalCluster(paths, lock, amounts, store_bytes, config, broker, environ)
        address = process.wait_until_ready(config.start_timeout_s)
    except BaseException:
        if process is not None:
            process.kill()
        remove_session(paths)
        raise
    return Node(process, paths, address, head=not broker)
